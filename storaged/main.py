"""The `storaged` command."""

from pathlib import Path

from cyclopts import App

from storaged.config import PATH, Config

app = App(name="storaged", help="The storage daemon of AtomOS.", version_flags=["--version"])


@app.default
def run(*, config: Path = PATH) -> None:
    """Serve this host's volumes until told to stop.

    Parameters
    ----------
    config
        The settings file; it may be missing.
    """
    from matcher.net.starting import run_daemon
    from matcher.trust.identity import IdentityError
    from storaged.daemon import run as serve
    from storaged.journal import JournalError

    run_daemon("storaged", config, Config, serve, (IdentityError, JournalError))


def main() -> None:
    app()
