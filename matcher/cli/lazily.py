"""Commands that are imported when they are called: starting fast is part of running a VM fast."""

import sys
from collections.abc import Mapping

from cyclopts import App


def register(app: App, commands: Mapping[str, tuple[str, str]]) -> None:
    """`commands`: name to (module:function, what stands beside it in the list). The words of the list would take the
    place of the command's own help, and so are given only where a list can be what is asked for."""
    is_list = commands.keys().isdisjoint(sys.argv[1:])
    for name, (where, summary) in commands.items():
        app.command(f"matcher.cli.{where}", name=name, help=summary if is_list else None)
