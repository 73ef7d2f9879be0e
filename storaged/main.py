"""The `storaged` command."""

import logging
import sys
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
    import trio

    from matcher.net.settings import SettingsError, load_settings
    from matcher.trust.identity import IdentityError
    from storaged.daemon import run as serve
    from storaged.journal import JournalError

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        trio.run(serve, load_settings(config, Config), strict_exception_groups=False)
    except (SettingsError, IdentityError, JournalError) as error:
        sys.exit(f"storaged: {error}")


def main() -> None:
    app()
