"""`electros`: what a person at a terminal, or a script, says to the hosts in reach.

Exit codes: 0 ok, 1 failed, 2 usage, 3 no host fits, 4 not found, 5 denied, 6 unreachable, 7 timeout, 130 interrupted.
"""

import os
import sys
from contextlib import suppress
from typing import NoReturn

from cyclopts import App, CycloptsError
from cyclopts.exceptions import MissingArgumentError, UnusedCliTokensError

from matcher.cli import afterwards
from matcher.cli.failures import Exit, Failure
from matcher.cli.lazily import register
from matcher.cli.output import as_json

STDIN = "/dev/stdin"  # what people write as "-", which the parser would take for an option

CONTEXTS = "--context NAME, anywhere: act in another realm, as ATOMOS_CONTEXT=NAME does. See: electros context ls"
RELAYS = "--relay HOST[:PORT], anywhere: ask through this host alone. -v, anywhere: say which way it went."
ANYWHERE = {"--context": "ATOMOS_CONTEXT", "--relay": "ATOMOS_RELAY"}
EXIT_CODES = (
    "Exit codes: 0 ok, 1 failed, 2 usage, 3 no host fits, 4 not found, 5 denied, 6 unreachable, 7 timeout, "
    "130 interrupted."
)

# pydantic would look through all installed packages for plugins, and none has a say in what our messages are.
os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"


def _version() -> str:
    from importlib.metadata import version

    return version("atomos")


app = App(
    name="electros",
    help="A subnet of hosts as a cloud: run specfiles on the best host in reach.",
    help_format="plaintext",  # in Markdown, '10de:*=1' would lose its star
    version=_version,
    help_epilogue=f"{CONTEXTS}\n\n{RELAYS}\n\n{EXIT_CODES}",
    suppress_keyboard_interrupt=False,  # it is told like all else that ends a command early
)
COMMANDS = {
    "hosts": ("hosts:hosts", "List the hosts of the realm, what is free there, and whether they live."),
    "top": ("top:top", "Watch how full the realm's hosts are."),
    "pledge": ("pledge:pledge", "Ask who could serve a specfile, and why the others could not; nothing is held."),
    "why": ("why:why", "Show what each host has and lacks of a specfile, and the smallest change that would fit."),
    "capacity": ("capacity:capacity", "Count how many more VMs like this fit now, and what runs out first."),
    "run": ("run:run", "Run a specfile with its volumes on the best host in reach."),
    "ps": ("vms:ps", "List my VMs on all hosts in reach."),
    "inspect": ("vms:inspect", "Show everything that is known of one VM."),
    "console": ("console:console", "Talk to the guest on its serial console."),
    "stop": ("vms:stop", "Press the power button of VMs, and wait until they are off."),
    "start": ("run:start", "Start a stopped VM again, where it was if it can be."),
    "reboot": ("vms:reboot", "Restart the guest where it is."),
    "rm": ("vms:rm", "Remove VMs; their volumes stay."),
    "image": ("image:app", "Images to make VMs' disks from."),
    "volume": ("volume:app", "Make, list, change and remove volumes on the storage hosts in reach."),
    "spec": ("spec:app", "Check specfiles and volumespecs; get their schema."),
    "login": ("login:login", "Become a user of a realm, with the token that an admin has given you."),
    "whoami": ("whoami:whoami", "Who I am, in which realm, what I may do, and what I use of it."),
    "user": ("user:app", "Add, show, change and revoke users; for admins."),
    "realm": ("realm:app", "Create a realm; invite, list and remove its hosts; keep its root."),
    "context": ("context:app", "Several realms from one machine: list them, choose one."),
}
register(app, COMMANDS)


def main() -> None:
    """Every failure is a sentence and an exit code, never a traceback."""
    _open_what_is_closed()
    try:
        words = _anywhere([STDIN if word == "-" else word for word in sys.argv[1:]])
        app(words, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
        afterwards.run()
    except Failure as failure:
        _end(failure)
    except CycloptsError as error:
        command = " ".join(("electros", *(error.command_chain or ())))
        _end(Failure(Exit.USAGE, _sentence(error, command), helps=f"{command} --help"))
    except KeyboardInterrupt:
        _end(Failure(Exit.INTERRUPTED, "interrupted"))
    except BrokenPipeError:
        _leave(Exit.OK)  # whoever reads us has read enough
    except OSError as error:  # a full disk behind the standard output
        _end(Failure(Exit.FAILED, f"the result could not be written: {error.strerror or error}"))
    except Exception as error:
        if not str(error).rstrip(": \n").endswith("KeyboardInterrupt"):  # which pydantic passes on in words alone
            raise
        _end(Failure(Exit.INTERRUPTED, "interrupted"))
    _leave(Exit.OK)


def _anywhere(words: list[str]) -> list[str]:
    """Takes out what may stand anywhere before a `--`: an option of `ANYWHERE` with its word, and `-v`. Raises
    `Failure`."""
    kept: list[str] = []
    waiting = list(words)
    while waiting and waiting[0] != "--":
        word = waiting.pop(0)
        option, is_one_word, value = word.partition("=")
        if option in ANYWHERE:
            value = value if is_one_word or not waiting else waiting.pop(0)
            if not value or value.startswith("-"):
                what = "a name" if option == "--context" else "a host"
                raise Failure(Exit.USAGE, f"{option} wants {what}", helps="electros --help")
            os.environ[ANYWHERE[option]] = value
        elif word in ("-v", "--verbose"):
            os.environ["ATOMOS_VERBOSE"] = "1"
        else:
            kept.append(word)
    return kept + waiting


def _end(failure: Failure) -> NoReturn:
    text = as_json(failure.document()) if _wants_json(sys.argv[1:]) else failure.text()
    sys.stderr.write(text + "\n")
    _leave(failure.exit_code)


def _open_what_is_closed() -> None:
    """A caller may have closed a stream; the first socket would get its number, and be written to as if it were one."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  for as long as the process lives


def _leave(code: Exit) -> NoReturn:
    """At once: taking 600 modules apart in order costs a tenth of a start, and nothing is left to be done."""
    with suppress(OSError):
        sys.stderr.flush()
    os._exit(code)


def _wants_json(arguments: list[str]) -> bool:
    """Also where the arguments could not be understood."""
    pairs = zip(arguments, [*arguments, ""][1:], strict=True)
    return any(
        a in ("-ojson", "-o=json", "--output=json") or (a in ("-o", "--output") and b == "json") for a, b in pairs
    )


def _sentence(error: CycloptsError, command: str) -> str:
    """Cyclopts' own names all arguments as options, also those that people say by their place alone."""
    argument = error.argument
    command = command.removeprefix("electros ")
    if isinstance(error, MissingArgumentError) and argument is not None and not error.tokens_so_far:
        option, has_place = error.keyword or argument.name, argument.field_info.is_positional and not error.keyword
        return f"{command} wants {option.lstrip('-').upper() if has_place else f'{option} …'}"
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f'{command} has no use for "{error.unused_tokens[0]}"'
    return " ".join(str(error).split())
