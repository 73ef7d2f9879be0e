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
def inventory(
    *, root: Path = Path("/"), output: Annotated[Literal["table", "json"], Parameter(name=["--output", "-o"])] = "table"
) -> None:
    """What this machine has: cores and threads, memory, devices.

    Parameters
    ----------
    root
        Read /sys and /proc below this folder, such as a recorded machine's.
    output
        A page for people, or `atomd.inventory/1` as JSON.
    """
    from atomd.inventory.command import NoMachine, show

    try:
        print(show(root, output))  # noqa: T201
    except NoMachine as error:
        sys.exit(f"atomd: {error}")


def main() -> None:
    app()
