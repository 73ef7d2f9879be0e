"""The `atomctl` command: what a sysadmin sees and does on their own host, whoever the VMs belong to.

It asks the atomd of this host over a Unix socket; root and the members of group `atomos` are heard. Errors are
sentences, with the exit codes of `electros`. Imports are late: `--help` waits for none of them.
"""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from atomd.config import PATH

Output = Annotated[Literal["table", "json"], Parameter(name=["--output", "-o"])]
Follow = Annotated[bool, Parameter(name=["--follow", "-f"], negative="")]
Count = Annotated[int, Parameter(name=["--lines", "-n"])]
Force = Annotated[bool, Parameter(name="--force", negative="")]
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
def rm(vm: str, *, output: Output = "table", config: Config = PATH) -> None:
    """End a VM of any user and forget it; its volumes stay.

    Parameters
    ----------
    vm
        Its name, its UUID, or the start of either.
    """
    from atomd.sysadmin import Desktop

    Desktop(config, output).remove(vm)


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
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
