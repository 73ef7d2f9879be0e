"""The recorded machines: those of two public suites, if they lie beside this repository, and those in `machines/`.

One more: `atomd inventory --record NAME.tar.gz` there, and what is right of it beside it: `atomd inventory --root
NAME.tar.gz -o json > NAME.json`, read by a person before it is believed.
"""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SUITES = REPOSITORY.parent / "shared/zoo"
OURS = Path(__file__).parent / "machines"


def recordings() -> list[Path]:
    public = [*SUITES.glob("*/*.tar.gz"), *SUITES.glob("*/*.tar.bz2")]
    return sorted([*public, *OURS.glob("*.tar.gz")], key=lambda path: path.name)
