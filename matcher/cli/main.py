"""The entry point. While the rest is imported, nobody has been asked for anything yet: Ctrl-C just ends it.

What `signal` is made of, since that itself takes 3 ms to import, in which Ctrl-C would show a traceback.
"""

import _signal  # type: ignore[import-not-found]
import gc


def main() -> None:
    gc.disable()  # a command ends before its garbage is worth looking for; `console`, which stays, turns it on again
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    from matcher.cli import app

    _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    app.main()
