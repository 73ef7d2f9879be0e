"""Our membership and Serf's on one machine, in turns: how soon all know, what it costs, and who was wronged.

    sudo .venv/bin/python -m tests.bench.gossip.membership -n 20 --minutes 10

Prints a table in Markdown beside the goals. Real daemons with everything but VMs (`watched`), in the places of one lab.
"""

import argparse
import dataclasses
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.gossip import serf, trials
from tests.bench.gossip.measure import percentile, rest
from tests.bench.gossip.members import Members
from tests.bench.gossip.netlab import NetLab
from tests.bench.gossip.system import Hub
from tests.bench.gossip.usage import come_first

SETTLE_S = 8.0
LOSSES = (0.0, 1.0, 5.0)  # percent


def measured(options: argparse.Namespace) -> dict[str, Any]:
    spares = options.newcomers
    with (
        tempfile.TemporaryDirectory(prefix="gossip-bench-", dir="/var/tmp") as folder,
        NetLab(options.n + spares) as lab,
    ):
        hub = Hub()
        ours = Members(lab, hub, options.n, Path(folder), spares=spares)
        ours.raise_all()
        hub.rest(SETTLE_S)
        seen: dict[str, Any] = {"hosts": options.n, "rest ours": dataclasses.asdict(rest(ours, options.rest))}
        theirs = serf.Serf(lab, hub, options.n)
        theirs.raise_all()
        pair = trials.Pair(lab, hub, ours, theirs)
        for loss in LOSSES:
            seen[f"change, {loss:g} % loss"] = trials.changes(pair, options.changes, loss)
        seen["newcomer"], seen["leave"] = trials.newcomers(pair, options.newcomers)
        seen["kill"] = trials.kills(pair, options.kills, options.serf_kills)
        seen["silent"], seen["back"] = trials.silences(pair, options.silences)
        seen["alarms"] = dataclasses.asdict(trials.alarms(pair, options.minutes, LOSSES[-1]))
        for place in [*ours.daemons]:
            ours.kill(place)
        seen["rest serf"] = dataclasses.asdict(rest(theirs, options.rest))
        ours.close()
        return seen


def table(seen: dict[str, Any]) -> str:
    lines = [f"| {seen['hosts']} hosts | ours p50 | p99 | missed | Serf p50 | ratio |", "|---|---|---|---|---|---|"]
    for name in ("newcomer", *(f"change, {loss:g} % loss" for loss in LOSSES), "kill", "silent"):
        ours, theirs = _known(seen[name]["ours"]), _known(seen[name]["serf"])
        middle, serf_middle = percentile(ours, 50), percentile(theirs, 50)
        missed = seen[name]["ours"].count(None)
        ratio = f"{middle / serf_middle:.3f}"
        lines.append(
            f"| {name}, ms | {middle:.1f} | {percentile(ours, 99):.1f} | {missed} | {serf_middle:.0f} | {ratio} |"
        )
    for name in ("sent_bytes_per_s", "heard_bytes_per_s", "cpu_share", "pss_mib"):
        lines.append(f"| at rest, {name} | {seen['rest ours'][name]:.4g} | | | {seen['rest serf'][name]:.4g} | |")
    wronged = {name: len(pairs) for name, pairs in seen["alarms"]["pairs"].items()}
    lines.append(f"| wrongly lost, {seen['alarms']['minutes']:g} min | {wronged['ours']} | | | {wronged['serf']} | |")
    return "\n".join(lines)


def _known(times: Sequence[float | None]) -> list[float]:
    return [ms for ms in times if ms is not None]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gossip.membership")
    parser.add_argument("-n", type=int, default=20, metavar="HOSTS")
    parser.add_argument("--minutes", type=float, default=1.0, help="of stopping hosts at random")
    parser.add_argument("--changes", type=int, default=20, help="at each loss")
    parser.add_argument("--newcomers", type=int, default=8)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--serf-kills", type=int, default=3)
    parser.add_argument("--silences", type=int, default=2)
    parser.add_argument("--rest", type=float, default=20.0, metavar="SECONDS")
    parser.add_argument("--out", type=Path, help="every figure, as JSON")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    serf.install()
    come_first()
    seen = measured(options)
    if options.out:
        options.out.write_text(json.dumps(seen, indent=1))
    print(table(seen))


if __name__ == "__main__":
    main()
