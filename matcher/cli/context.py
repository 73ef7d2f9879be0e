"""`electros context`: several realms from one machine, one of them in use."""

from contextlib import suppress
from typing import Annotated, Any

from cyclopts import App, Parameter

from matcher.cli import folders, relaying
from matcher.cli.failures import Exit, Failure
from matcher.cli.moments import moment, moment_document
from matcher.cli.output import Output, Table, emit, note
from matcher.trust.identity import IdentityError, is_identity, load_identity

app = App(name="context", help="Several realms from one machine: one context for each, made by: electros login TOKEN")


@app.command
def ls(*, output: Output = "table") -> None:
    """List the contexts of this machine: realm, who you are there, and until when."""
    names = [path.name for path in _folders() if is_identity(path)]
    shown = [_document(name) for name in names]
    rows = [
        (
            ("* " if each["current"] else "  ") + each["name"],
            each["realm"] or "-",
            each["user"] or "-",
            each["problem"] or moment(each["until_s"]),
        )
        for each in shown
    ]
    documents = [
        {key: value for key, value in each.items() if key != "until_s"} | {"until": moment_document(each["until_s"])}
        for each in shown
    ]
    emit(output, {"contexts": documents}, Table(("  CONTEXT", "REALM", "USER", "UNTIL"), rows, names))


@app.command
def use(name: str, *, output: Output = "table") -> None:
    """Use another context from now on; --context and ATOMOS_CONTEXT still go before it.

    Parameters
    ----------
    name
        As `electros context ls` shows it.
    """
    folder = folders.config_folder() / folders.checked(name)
    if not is_identity(folder):
        helps = f"electros context ls; a new one: electros login TOKEN --context {name}"
        raise Failure(Exit.NOT_FOUND, f"there is no context {name} here", helps=helps)
    try:
        folders.write_text(folders.config_folder() / folders.CHOSEN, name + "\n")
    except OSError as error:
        raise Failure(Exit.FAILED, f"the choice could not be kept: {error.strerror or error}") from None
    if output == "table":
        note(f"electros: {name} is in use from now on")
        if folders.context() != name:
            note(f"electros: but here ATOMOS_CONTEXT says {folders.context()}")
        return
    emit(output, {"context": _document(name)["name"]}, Table(("CONTEXT",), [(name,)], [name]))


@app.command
def relay(
    host: str = "",
    *,
    off: Annotated[
        bool, Parameter(help="no relay is forced any more: one is found where it is needed", negative="")
    ] = False,
    output: Output = "table",
) -> None:
    """Ask through this host alone from now on, not on this machine's own links; without HOST, show what is set.

    Nobody needs it: where no host answers on the own links, a relay is looked for among the hosts that are known.

    Parameters
    ----------
    host
        A host of the realm that this machine can reach: h1, 10.1.2.3, h1.example.org:7766.
    """
    folder = folders.identity_folder()
    if not is_identity(folder):
        raise Failure(Exit.NOT_FOUND, f"there is no context {folders.context()} here", helps="electros login TOKEN")
    try:
        if host or off:
            relaying.force(folder, "" if off else host)
        said = relaying.forced_text(folder)
    except OSError as error:
        raise Failure(Exit.FAILED, f"it could not be kept: {error.strerror or error}") from None
    emit(output, {"relay": said or None}, Table(("RELAY",), [(said or "as needed",)], [said]))


def _folders() -> list[Any]:
    with suppress(OSError):
        return sorted(path for path in folders.config_folder().iterdir() if not path.name.startswith("."))
    return []


def _document(name: str) -> dict[str, Any]:
    """One context, whether it can be used or not."""
    said: dict[str, Any] = {"name": name, "current": name == folders.context(), "realm": None, "user": None}
    try:
        identity = load_identity(folders.config_folder() / name, allow_expired=True)
    except IdentityError as error:
        return said | {"until_s": None, "problem": str(error)}
    return said | {
        "realm": identity.realm_name,
        "user": identity.principal.name,
        "until_s": int(identity.expires_s),
        "problem": None,
    }
