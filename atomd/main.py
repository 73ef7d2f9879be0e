"""The `atomd` command: the daemon itself, and what a sysadmin asks of a machine before it is one of ours."""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from atomd.config import PATH

app = App(name="atomd", help="The compute daemon of AtomOS.", version=lambda: version("atomos"))


@app.default
def run(*, config: Path = PATH) -> None:
    """Serve this host's resources until told to stop.

    Parameters
    ----------
    config
        The settings file; it may be missing.
    """
    from atomd.accelerator import NoAccelerator
    from atomd.config import Config
    from atomd.daemon import run as serve
    from atomd.journal import JournalError
    from matcher.net.starting import run_daemon
    from matcher.trust.identity import IdentityError

    run_daemon("atomd", config, Config, serve, (IdentityError, JournalError, NoAccelerator))


@app.command
def join(
    token: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    *,
    name: str | None = None,
    token_file: Path | None = None,
    wait: float = 30.0,
    again: bool = False,
    config: Path = PATH,
) -> None:
    """Make this machine a host of a realm.

    Parameters
    ----------
    token
        What `electros realm invite` printed; "-" reads it from standard input. Else ATOMOS_TOKEN is looked at.
    name
        What people call this host; its host name by default.
    token_file
        A file that holds the token.
    wait
        For how many seconds to go on trying where nobody answers.
    again
        Leave the realm that this host belongs to; its old identity is kept aside.
    config
        The settings file; it may be missing.
    """
    from atomd.config import Config
    from atomd.joining import find_token
    from atomd.joining import join as join_realm
    from matcher.net.starting import SettingsError, load_settings
    from matcher.trust.joining import JoinError

    try:
        folder = load_settings(config, Config).identity
        said = join_realm(find_token(token, token_file), name=name, folder=folder, wait_s=wait, again=again)
    except (JoinError, SettingsError) as error:
        sys.exit(f"atomd: {error}")
    print(said)  # noqa: T201


@app.command
def inventory(
    *,
    root: Path = Path("/"),
    output: Annotated[Literal["table", "json"], Parameter(name=["--output", "-o"])] = "table",
    record: Path | None = None,
) -> None:
    """What this machine has: cores and threads, memory, devices.

    Parameters
    ----------
    root
        Read /sys and /proc below this folder, or in this recording, instead of this machine's.
    output
        A page for people, or `atomd.inventory/1` as JSON.
    record
        Write a recording instead, for a bug report: an archive without serial numbers, addresses and names.
    """
    from atomd.inventory.command import NoMachine, keep, show

    try:
        print(keep(root, record) if record is not None else show(root, output))  # noqa: T201
    except NoMachine as error:
        sys.exit(f"atomd: {error}")


def main() -> None:
    app()
