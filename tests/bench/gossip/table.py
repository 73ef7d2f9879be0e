"""The figures of all rounds beside the goals, as text: the bad ones too."""

from collections.abc import Callable, Sequence
from statistics import median

from tests.bench.gossip.measure import Load, percentile
from tests.bench.gossip.rounds import Round, Times

COLUMNS = ("ours", "signed floor", "floor", "serf")
WIDTHS = 34, 9, 13, 9, 9


def table(rounds: Sequence[Round]) -> str:
    return "\n".join([_line("", COLUMNS), *_offers(rounds), *_loads(rounds), *_placed(rounds), *_rests(rounds)])


def _offers(rounds: Sequence[Round]) -> list[str]:
    middle = {name: median(percentile(_answered(each.asked[name]), 50) for each in rounds) for name in COLUMNS}
    worst = {name: percentile([ms for each in rounds for ms in _answered(each.asked[name])], 99) for name in COLUMNS}
    missed = {name: sum(each.asked[name].count(None) for each in rounds) for name in COLUMNS}
    return [
        _line("offers of all hosts, p50 ms", [f"{middle[name]:.1f}" for name in COLUMNS]),
        _line("                     p99 ms", [f"{worst[name]:.1f}" for name in COLUMNS]),
        _line("                     missed", [str(missed[name]) for name in COLUMNS]),
        _goal("p50 / signed floor's", middle["ours"] / middle["signed floor"], 2.0),
        _goal("p50 / serf's", middle["ours"] / middle["serf"], 1 / 20),
        _goal("p99 / serf's", worst["ours"] / worst["serf"], 1 / 10),
    ]


def _loads(rounds: Sequence[Round]) -> list[str]:
    halves = [each.half for each in rounds if each.half is not None]
    answered = sum(half.complete for half in halves) / sum(half.sent for half in halves)
    last = {name: median(_last_whole(each.loads[name]) for each in rounds) for name in ("ours", "signed floor", "serf")}
    cpu = {name: median(_cpu_ms(each.loads[name]) for each in rounds) for name in ("ours", "signed floor", "serf")}
    at = f"{median(half.per_s for half in halves):.0f}/s"
    p99_ms = f"{median(half.p99_ms for half in halves):.0f} ms"
    return [
        _line("all answered fully up to, /s", [f"{last[name]:g}" if name in last else "" for name in COLUMNS]),
        _line("CPU a question, all hosts, ms", [f"{cpu[name]:.1f}" if name in cpu else "" for name in COLUMNS]),
        _goal(f"answered at half the floor's, {at}", answered, 1.0, at_least=True, tail=f"p99 {p99_ms}"),
        _goal("CPU / serf's", cpu["ours"] / cpu["serf"], 1 / 3),
    ]


def _placed(rounds: Sequence[Round]) -> list[str]:
    alone = [ms for each in rounds for ms in _answered(each.placed)]
    together = [ms for each in rounds for ms in _answered(each.sustained)]
    failed = sum(each.placed.count(None) + each.sustained.count(None) for each in rounds)
    floor_ms = median(percentile(_answered(each.asked["signed floor"]), 50) for each in rounds)
    middle = median(percentile(_answered(each.placed), 50) for each in rounds)
    many = f"p50 {percentile(together, 50):.0f} ms, p99 {percentile(together, 99):.0f} ms"
    return [
        _line("pledge to committed, p50 ms", [f"{middle:.1f}"]),
        _line("                     p99 ms", [f"{percentile(alone, 99):.1f}"]),
        _line("               not placed", [str(failed)]),
        _goal("p50 / signed floor's offers", middle / floor_ms, 3.0),
        _goal("p99, ms", percentile(alone, 99), 100.0),
        _goal("sustained, /s", median(each.sustained_per_s for each in rounds), 50.0, at_least=True, tail=many),
    ]


def _rests(rounds: Sequence[Round]) -> list[str]:
    def each(figure: Callable[[Round, str], float]) -> dict[str, float]:
        return {name: median(figure(seen, name) for seen in rounds) for name in ("ours", "serf")}

    sent = each(lambda seen, name: seen.rests[name].sent_bytes_per_s)
    packets = each(lambda seen, name: seen.rests[name].sent_packets_per_s)
    cpu = each(lambda seen, name: seen.rests[name].cpu_share * 100)
    pss = each(lambda seen, name: seen.rests[name].pss_mib)
    rows = (("bytes/s", sent), ("packets/s", packets), ("CPU %", cpu), ("PSS MiB", pss))
    return [
        *(
            _line(f"a host at rest, {what}", [f"{row[name]:.2f}" if name in row else "" for name in COLUMNS])
            for what, row in rows
        ),
        _goal("bytes / serf's", sent["ours"] / sent["serf"], 1.0),
        _goal("CPU %", cpu["ours"], 0.5),
        _goal("PSS MiB", pss["ours"], 60.0),
    ]


def _answered(times: Times) -> list[float]:
    return [ms for ms in times if ms is not None]


def _last_whole(loads: Sequence[Load]) -> float:
    """The highest rate at which every question was answered by all; 0 where there was none."""
    return max((each.per_s for each in loads if each.complete == each.sent), default=0.0)


def _cpu_ms(loads: Sequence[Load]) -> float:
    """Of the lower half of the rates: where it breaks, work is lost, or done twice."""
    return median(each.cpu_ms for each in loads[: max(1, len(loads) // 2)])


def _line(label: str, cells: Sequence[str]) -> str:
    return "".join(
        f"{cell:>{width}}" if at else f"{cell:<{width}}"
        for at, (cell, width) in enumerate(zip((label, *cells), WIDTHS, strict=False))
    ).rstrip()


def _goal(label: str, value: float, goal: float, *, at_least: bool = False, tail: str = "") -> str:
    met = value >= goal if at_least else value <= goal
    sign = "≥" if at_least else "≤"
    return f"  {label:<32}{value:9.3g}   goal {sign} {goal:<6.3g} {'met' if met else 'NOT met':<8} {tail}".rstrip()
