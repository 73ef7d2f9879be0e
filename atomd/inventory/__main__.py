"""`python -m atomd.inventory [--root DIR] [-o json|table]`: the inventory with no daemon around it."""

import argparse
import sys
from pathlib import Path

from atomd.inventory.command import NoMachine, show


def main() -> int:
    parser = argparse.ArgumentParser(prog="atomd inventory", description="What this machine is, as atomd reads it.")
    parser.add_argument("--root", type=Path, default=Path("/"), help="read the proc/ and sys/ of another machine")
    parser.add_argument("-o", "--output", choices=["json", "table"], default="table")
    options = parser.parse_args()
    try:
        text = show(options.root, options.output)
    except NoMachine as error:
        sys.stderr.write(f"atomd inventory: {error}\n")
        return 1
    sys.stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
