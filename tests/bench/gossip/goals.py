"""What was measured of memberships beside the goals, as text: the bad figures too. Pure."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.bench.gossip.measure import percentile

Times = list[float | None]  # `None`: not known to all in time
SYSTEMS = ("ours", "serf", "floor")
GROWS_FROM = 20  # hosts: below that, what a host says of itself is more than what it says of others


@dataclass(frozen=True, slots=True)
class Row:
    """One thing, in a realm of so many hosts: each measurement, by system. `load`: of the machine, meanwhile."""

    hosts: int
    what: str
    seen: dict[str, Times]
    load: float

    def known(self, system: str) -> list[float]:
        return [each for each in self.seen.get(system, ()) if each is not None]

    def p50(self, system: str = "ours") -> float:
        return percentile(self.known(system), 50)

    def p99(self) -> float:
        return percentile(self.known("ours"), 99)

    def missed(self) -> float:
        return self.seen["ours"].count(None)

    def by_serf(self) -> float:
        serf = self.p50("serf")
        return self.p50() / serf if serf else math.nan


@dataclass(frozen=True, slots=True)
class Goal:
    """Of every row whose name begins like this."""

    what: str
    says: str
    limit: float
    value: Callable[[Row], float]


@dataclass(frozen=True, slots=True)
class Growth:
    """Of the same row in the smallest and in the largest realm."""

    what: str
    says: str
    limit: float
    value: Callable[[Row, Row], float]
    from_hosts: int = 0


def exponent(small: Row, large: Row) -> float:
    """By which power a figure grows with the number of hosts."""
    return math.log(large.p50() / small.p50()) / math.log(large.hosts / small.hosts)


GOALS = (
    Goal("newcomer", "p50", 100.0, Row.p50),
    Goal("newcomer", "p99", 250.0, Row.p99),
    Goal("change", "p50 by Serf's", 1 / 20, Row.by_serf),
    Goal("change", "p99", 2000.0, Row.p99),
    Goal("change", "missed", 0.0, Row.missed),
    Goal("kill -9", "p50 by Serf's", 1 / 4, Row.by_serf),
    Goal("kill -9", "missed", 0.0, Row.missed),
    Goal("at rest, sent", "by Serf's", 1.0, Row.by_serf),
    Goal("at rest, heard", "by Serf's", 1.0, Row.by_serf),
    Goal("at rest, CPU", "%", 0.5, Row.p50),
    Goal("at rest, PSS", "MiB", 60.0, Row.p50),
    Goal("wrongly lost", "pairs", 0.0, Row.p50),
)
GROWTHS = (
    Growth("kill -9", "p50 of the largest by the smallest", 1.2, lambda small, large: large.p50() / small.p50()),
    Growth("at rest, sent, bytes/s", "exponent", 0.1, exponent, GROWS_FROM),
    Growth("at rest, heard, bytes/s", "exponent", 0.1, exponent, GROWS_FROM),
)


def table(rows: Sequence[Row]) -> str:
    """Markdown. Of a thing that was measured twice at one size, the last counts."""
    latest = {(row.what, row.hosts): row for row in rows}
    order = [*dict.fromkeys(row.what for row in rows)]
    kept = sorted(latest.values(), key=lambda row: (order.index(row.what), row.hosts))
    head = ["| what | hosts | ours p50 | p99 | missed | Serf p50 | floor p50 | load | goals |", "|---" * 9 + "|"]
    return "\n".join([*head, *map(_line, kept), "", *_growths(kept)])


def _line(row: Row) -> str:
    several = len(row.seen["ours"]) > 1
    spread = [_number(row.p99()), f"{row.missed():g} of {len(row.seen['ours'])}"] if several else ["", ""]
    theirs = [_number(row.p50(system)) if row.known(system) else "" for system in ("serf", "floor")]
    verdicts = [_verdict(goal.says, goal.value(row), goal.limit) for goal in GOALS if row.what.startswith(goal.what)]
    cells = [row.what, str(row.hosts), _number(row.p50()), *spread, *theirs, f"{row.load:.1f}", "; ".join(verdicts)]
    return f"| {' | '.join(cells)} |"


def _growths(rows: Sequence[Row]) -> list[str]:
    lines = []
    for growth in GROWTHS:
        of = sorted(
            (row for row in rows if row.what.startswith(growth.what) and row.hosts >= growth.from_hosts),
            key=lambda row: row.hosts,
        )
        if len(of) > 1:
            small, large = of[0], of[-1]
            verdict = _verdict(growth.says, growth.value(small, large), growth.limit)
            lines.append(f"{small.what}, {small.hosts} to {large.hosts} hosts: {verdict}")
    return lines


def _verdict(says: str, value: float, limit: float) -> str:
    if math.isnan(value):
        return f"{says}: not measured"
    is_met = value <= limit
    return f"{says} {_number(value)} {'≤' if is_met else '>'} {_number(limit)} {'met' if is_met else '**NOT met**'}"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
