"""The `atomctl` command: what a sysadmin sees and does on their own host, whoever the VMs belong to.

It asks the atomd of this host over a Unix socket; root and the members of group `atomos` are heard. Errors are
sentences, with the exit codes of `electros`. Imports are late: `--help` waits for none of them.
"""

import os
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

from cyclopts import App, CycloptsError, Parameter

from atomd.config import PATH

if TYPE_CHECKING:
    from atomd.sysadmin import Failure

Output = Annotated[Literal["table", "json"], Parameter(name=["--output", "-o"])]
Follow = Annotated[bool, Parameter(name=["--follow", "-f"], negative="")]
Count = Annotated[int, Parameter(name=["--lines", "-n"])]
Force = Annotated[bool, Parameter(name="--force", negative="")]
Yes = Annotated[bool, Parameter(name="--yes", negative="")]
Undo = Annotated[bool, Parameter(name="--undo", negative="")]
Config = Annotated[Path, Parameter(name="--config", help="atomd's settings file")]

app = App(name="atomctl", help="This host's VMs and its realm, for its sysadmins.", version=lambda: version("atomos"))


@app.command
def ps(*, output: Output = "table", config: Config = PATH) -> None:
    """The VMs of all users on this host."""
    from atomd.sysadmin import Desktop

    Desktop(config, output).ps()


@app.command
def inspect(vm: str, *, output: Output = "table", config: Config = PATH) -> None:
    """Everything that is known of one VM.

    Parameters
    ----------
    vm
        Its name, its UUID, or the start of either.
    """
    from atomd.sysadmin import Desktop

    Desktop(config, output).inspect(vm)


@app.command
def holds(*, output: Output = "table", config: Config = PATH) -> None:
    """What is promised for a moment, and to whom."""
    from atomd.sysadmin import Desktop

    Desktop(config, output).holds()


@app.command
def members(*, output: Output = "table", config: Config = PATH) -> None:
    """What this host's atomd believes of all hosts of its realm, since when, and on whose word."""
    from atomd.sysadmin import Desktop

    Desktop(config, output).members()


@app.command
def devices(*, output: Output = "table", config: Config = PATH) -> None:
    """This host's PCI devices: which VM has each, or why none may."""
    from atomd.sysadmin import Desktop

    Desktop(config, output).devices()


@app.command
def readmit(device: str, *, output: Output = "table", config: Config = PATH) -> None:
    """Offer a device again that a VM left unwell, once it is well.

    Parameters
    ----------
    device
        Its PCI address, such as 0000:3b:00.0.
    """
    from atomd.sysadmin import Desktop

    Desktop(config, output).readmit(device)


@app.command
def drain(*, undo: Undo = False, output: Output = "table", config: Config = PATH) -> None:
    """Take no new VMs, also after a restart; those that are here stay.

    Parameters
    ----------
    undo
        Take them again.
    """
    from atomd.sysadmin import Desktop

    Desktop(config, output).drain(on=not undo)


@app.command
def evict(vm: str, *, force: Force = False, why: str = "", output: Output = "table", config: Config = PATH) -> None:
    """End a VM against its user's will; it may be started again.

    Parameters
    ----------
    vm
        Its name, its UUID, or the start of either.
    force
        Pull the plug at once.
    why
        What its user is told.
    """
    from atomd.sysadmin import Desktop

    Desktop(config, output).evict(vm, force=force, why=why)


@app.command
def rm(vm: str, *, yes: Yes = False, output: Output = "table", config: Config = PATH) -> None:
    """End a VM of any user and forget it; its volumes stay. Its user can't start it again: evict leaves them that.

    Parameters
    ----------
    vm
        Its name, its UUID, or the start of either.
    yes
        It is meant so.
    """
    from atomd.sysadmin import Desktop

    Desktop(config, output).remove(vm, yes=yes)


@app.command
def audit(*, lines: Count = 20, follow: Follow = False, output: Output = "table", config: Config = PATH) -> None:
    """The newest lines of the audit.

    Parameters
    ----------
    lines
        So many.
    follow
        Go on with those that come.
    """
    from atomd.sysadmin import Desktop

    Desktop(config, output).audit(lines, follow=follow)


@app.command
def status(*, output: Output = "table", config: Config = PATH) -> None:
    """This host's realm, what it drops, and whether all is up."""
    from atomd.sysadmin import Desktop

    Desktop(config, output).status()


def main() -> None:
    """Every failure is a sentence and an exit code, never a traceback."""
    from atomd.sysadmin import Exit, Failure

    try:
        app(sys.argv[1:], exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except Failure as failure:
        _end(failure)
    except CycloptsError as error:
        _end(Failure(Exit.USAGE, " ".join(str(error).split()), "atomctl --help; atomctl COMMAND --help"))
    except KeyboardInterrupt:
        _end(Failure(Exit.INTERRUPTED, "interrupted"))
    except BrokenPipeError:  # whoever reads us has read enough
        _close_output()
    except OSError as error:  # a full disk behind the standard output
        _close_output()
        _end(Failure(Exit.FAILED, f"the result could not be written: {error.strerror or error}"))


def _close_output() -> None:
    """What is left in the buffer would fail again when the program ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(failure: "Failure") -> NoReturn:
    from atomd.sysadmin import as_json

    with suppress(OSError):
        sys.stderr.write(f"{as_json(failure.document()) if _wants_json(sys.argv[1:]) else failure.text()}\n")
    sys.exit(failure.code)


def _wants_json(words: list[str]) -> bool:
    """Also where the words could not be understood."""
    pairs = zip(words, [*words[1:], ""], strict=True)
    short = ("-ojson", "-o=json", "--output=json")
    return any(a in short or (a in ("-o", "--output") and b == "json") for a, b in pairs)
