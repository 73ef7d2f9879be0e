"""The entry point. While the rest is imported, nobody has been asked for anything yet: Ctrl-C just ends it."""

import gc
import signal


def main() -> None:
    gc.disable()  # a command ends before its garbage is worth looking for; `console`, which stays, turns it on again
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from matcher.cli import app

    signal.signal(signal.SIGINT, signal.default_int_handler)
    app.main()
