"""The cores and threads that are open to one more VM of certain rules, by kind and node. Pure.

They are looked for once for each set of rules, and afterwards only on cores where somebody has come or gone since.
"""

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import NamedTuple

from atomd.capacity.layout import Level, Unit
from atomd.capacity.seats import Seats
from atomd.capacity.traits import may_use
from matcher.wire.messages import CoreClass, VmAsk
from specs.ids import UserId

_count = attrgetter("count")


class Kind(NamedTuple):
    """Cores that one VM may combine: of one class on hybrid machines, unless it takes any (`None`); with equally many
    threads, where it asks for whole cores."""

    core_class: str | None
    threads_per_core: int


class Cell:
    """Open units of one kind on one node: `count` of them, `used` of these on cores where somebody is already."""

    __slots__ = ("_on", "_parts", "_units", "count", "kind", "node", "used")

    def __init__(self, kind: Kind, node: int) -> None:
        self.kind, self.node = kind, node
        self.count = self.used = 0
        self._on: dict[int, Sequence[Unit]] = {}  # of each core, in their order
        self._units: list[Unit] | None = None
        self._parts: dict[Level, Sequence[Cell]] = {}

    def put(self, core: int, units: Sequence[Unit]) -> int:
        """In place of those that the core had before; how many more there are now."""
        before = self._on.get(core, ())
        self._on[core], self._units = units, None
        self._parts.clear()
        self.used += _used(units) - _used(before)
        self.count += len(units) - len(before)
        return len(units) - len(before)

    @property
    def units(self) -> list[Unit]:
        """In the order of the cores; not to be changed."""
        if self._units is None:
            self._units = [unit for units in self._on.values() for unit in units]
        return self._units

    def parts(self, level: Level) -> "Sequence[Cell]":
        """Divided by the sockets or the caches of its cores."""
        if level not in self._parts:
            parts: dict[int, Cell] = {}
            for core, units in self._on.items():
                if units:
                    parts.setdefault(level.of[core], Cell(self.kind, self.node)).put(core, units)
            self._parts[level] = tuple(parts.values()) if len(parts) > 1 else (self,)
        return self._parts[level]

    def spans(self, levels: Sequence[Level], slots: int) -> tuple[int, ...]:
        """How few sockets, and how few caches, so many slots can lie in, and how many units on idle cores they then
        break into. What comes later counts within one of what comes before, if one will do. It has as many units."""
        if not levels:
            return (fresh([self], slots),)
        level, rest = levels[0], levels[1:]
        parts = fewest(self.parts(level), slots)
        if len(parts) > 1:
            return len(parts), *self.spans(rest, slots)[:-1], fresh(parts, slots)
        return 1, *min(part.spans(rest, slots) for part in self.parts(level) if part.count >= slots)

    def those(self, *, used: bool) -> "Cell":
        """Its units on cores where somebody is already, or its others."""
        some = Cell(self.kind, self.node)
        for core, units in self._on.items():
            if units and bool(_used(units)) is used:
                some.put(core, units)
        return some


def largest_first(cells: Iterable[Cell]) -> list[Cell]:
    return sorted(cells, key=_count, reverse=True)


def fewest(cells: Sequence[Cell], slots: int) -> list[Cell]:
    """As few of them as have so many units. Of those the largest, exchanged one for one while that gives more units on
    cores where somebody is already."""
    some, others, spare = list[Cell](), largest_first(cells), -slots
    while spare < 0:
        some.append(others.pop(0))
        spare += some[-1].count
    least = min(cell.used for cell in some)
    others = [cell for cell in others if cell.used > least]
    for other in sorted(others, key=lambda cell: -cell.used):
        can_go = [cell for cell in some if cell.count - other.count <= spare and cell.used < other.used]
        if can_go:
            gone = min(can_go, key=lambda cell: cell.used)
            some[some.index(gone)] = other
            spare += other.count - gone.count
    return some


def fresh(cells: Iterable[Cell], slots: int) -> int:
    """How many units on idle cores so many slots of these cells have to break into."""
    return max(0, slots - sum(cell.used for cell in cells))


def _used(units: Sequence[Unit]) -> int:
    return len(units) if units and units[0].core_vms else 0  # those of one core have that in common


class Openings:
    """For VMs with the rules of `ask`, of this user. `count` is the number of open units of each kind."""

    def __init__(self, ask: VmAsk, user_id: UserId, seats: Seats) -> None:
        self._smt, self._overprovision, self._user_id = ask.smt, ask.overprovision, user_id
        self._seats = seats
        self._seen = len(seats.changed)
        self._cell_of: dict[int, Cell] = {}
        self.cells: dict[Kind, list[Cell]] = {}
        self.count: dict[Kind, int] = {}
        cells: dict[tuple[Kind, int], Cell] = {}
        for index, core in enumerate(seats.cores):
            if may_use(core, ask):
                core_class = None if ask.core_class is CoreClass.ANY else core.core_class
                kind = Kind(core_class, 1 if ask.smt else len(core.threads))
                self._cell_of[index] = cells.setdefault((kind, core.numa), Cell(kind, core.numa))
        for cell in cells.values():
            self.cells.setdefault(cell.kind, []).append(cell)
            self.count[cell.kind] = 0
        self._look(self._cell_of)

    def now(self) -> "Openings":
        """The same, as the seats are now."""
        changed = self._seats.changed
        if self._seen < len(changed):
            self._look(self._cell_of.keys() & changed[self._seen :])
            self._seen = len(changed)
        return self

    def units(self) -> dict[Kind, list[Unit]]:
        """All that are open, by kind and node by node."""
        return {kind: [u for cell in self.cells[kind] for u in cell.units] for kind, n in self.count.items() if n}

    def _look(self, cores: Iterable[int]) -> None:
        for core in cores:
            cell = self._cell_of[core]
            self.count[cell.kind] += cell.put(core, self._open_on(core))

    def _open_on(self, core: int) -> Sequence[Unit]:
        seats = self._seats
        vms, limit, threads = seats.core_vms[core], seats.core_limit[core], seats.cores[core].threads
        if not vms:
            return seats.layout.idle_threads[core] if self._smt else seats.layout.idle_cores[core]
        if vms + 1 > limit or seats.is_shut(core, self._user_id):
            return ()
        if self._smt:
            return [
                Unit((thread,), core, seats.thread_vms[thread], vms, min(limit, seats.thread_limit[thread]))
                for thread in threads
                if seats.thread_vms[thread] + 1 <= min(self._overprovision, seats.thread_limit[thread])
            ]
        limits = [seats.thread_limit[thread] for thread in threads]
        if vms + 1 > self._overprovision or any(
            seats.thread_vms[thread] + 1 > most for thread, most in zip(threads, limits, strict=True)
        ):
            return ()
        return (Unit(threads, core, vms, vms, min(limit, *limits)),)
