"""What was found of the realm's hosts. Pure."""

from dataclasses import dataclass

from matcher.wire.hosts import HostView

SETTLED_S = 5.0  # who has listened for so long has heard of all


@dataclass(frozen=True, slots=True)
class Host:
    """`by_answer`: it has answered for itself, and has not told what devices and disks it has."""

    view: HostView
    by_answer: bool = False


@dataclass(frozen=True, slots=True)
class Looked:
    """`asked`: the name of the host whose list it is, empty where nobody gave one. `listens_s` as in `HostViews`.
    `silent` are known daemons that were asked as well, and gave no answer."""

    hosts: tuple[Host, ...]
    asked: str
    listens_s: int = -1
    silent: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
