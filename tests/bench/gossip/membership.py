"""Our membership, Serf's and the floor on one machine, in turns: how soon all know, what it costs, who was wronged.

    sudo .venv/bin/python -m tests.bench.gossip.membership -n 5 20 50 100 --minutes 10 --out membership.jsonl

One realm after the other: real daemons with everything but VMs (`watched`), in the places of one lab. Each thing that
was measured is one line of JSON in the file; at the end all that stands there is printed beside the goals, so that what
was measured apart (`--only kill -n 5 100`) can be read together; without `-n` that is all that is done.
"""

import argparse
import dataclasses
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.bench.gossip import serf, trials
from tests.bench.gossip.floor import Floor, FloorWay
from tests.bench.gossip.goals import Row, Times, table
from tests.bench.gossip.measure import Rest, rest
from tests.bench.gossip.members import Members
from tests.bench.gossip.netlab import NetLab
from tests.bench.gossip.system import Hub, System
from tests.bench.gossip.usage import come_first

SETTLE_S = 15.0
MEETS_S = 2.0  # for each host: until then pairs meet for the first time, and ask all by ARP where the other is
LOSSES = (0.0, 1.0, 5.0)  # percent
TRIALS = ("rest", "change", "newcomer", "kill", "silent", "alarms")


def measured(options: argparse.Namespace, hosts: int) -> Iterator[Row]:
    """One realm. What is at rest is measured alone: ours before Serf comes, Serf when ours is gone."""
    spares = options.newcomers if "newcomer" in options.only else 0
    with (
        tempfile.TemporaryDirectory(prefix="gossip-bench-", dir="/var/tmp") as folder,  # a disk, not memory
        NetLab(hosts + spares + 1) as lab,
    ):
        hub = Hub()
        ours, floor = Members(lab, hub, hosts, Path(folder), spares=spares), Floor(lab, hub, hosts)
        theirs = None if options.without_serf else serf.Serf(lab, hub, hosts)
        _raise(ours, hosts)
        _raise(floor, hosts)
        rests = {}
        if "rest" in options.only:
            rests = {"ours": _rested(ours, options), "floor": rest(floor, 1.0)}
        if theirs is not None:
            _raise(theirs, hosts)
        with lab.inside(hosts + spares):
            way = FloorWay("floor", hosts, lab.ip(hosts + spares), signed=True)
        yield from _tried(trials.Trio(lab, hub, ours, theirs, way), options, hosts)
        way.close()
        if rests:
            for place in [*ours.daemons]:
                ours.kill(place)
            if theirs is not None:
                rests["serf"] = _rested(theirs, options)
            yield from _rests(rests, hosts)
        ours.close()


def _tried(trio: trials.Trio, options: argparse.Namespace, hosts: int) -> Iterator[Row]:
    if "change" in options.only:
        for loss in LOSSES:
            _say(f"{hosts} hosts: changes, {loss:g} % loss")
            yield _row(hosts, f"change, {loss:g} % loss, ms", trials.changes(trio, options.changes, loss))
    if "newcomer" in options.only:
        _say(f"{hosts} hosts: newcomers")
        came, left = trials.newcomers(trio, options.newcomers)
        yield _row(hosts, "newcomer, ms", came)
        yield _row(hosts, "leave, ms", left)
    if "kill" in options.only:
        _say(f"{hosts} hosts: kills")
        yield _row(hosts, "kill -9, ms", trials.kills(trio, options.kills, options.serf_kills))
    if "silent" in options.only:
        _say(f"{hosts} hosts: cut off")
        gone, back = trials.silences(trio, options.silences)
        yield _row(hosts, "cut off: gone, ms", gone)
        yield _row(hosts, "joined again: back, ms", back)
    if "alarms" in options.only and options.minutes:
        _say(f"{hosts} hosts: stopped at random")
        seen = trials.alarms(trio, options.minutes, LOSSES[-1])
        for name, pairs in seen.pairs.items():
            _say(f"{name}: wrongly lost (observer, subject): {pairs}")
        wronged: dict[str, Times] = {name: [float(len(pairs))] for name, pairs in seen.pairs.items()}
        yield _row(hosts, f"wrongly lost in {options.minutes:g} min of {LOSSES[-1]:g} % loss and stops", wronged)
        yield _row(hosts, "… stops", {"ours": [seen.stops]})
        yield _row(hosts, "… suspected, and cleared", {"ours": [seen.suspected]})


def _rests(rests: dict[str, Rest], hosts: int) -> Iterator[Row]:
    apart = {name: each for name, each in rests.items() if name != "floor"}  # which shares its wires with ours
    yield _row(hosts, "at rest, sent, bytes/s", {name: [each.sent_bytes_per_s] for name, each in apart.items()})
    yield _row(hosts, "at rest, sent, packets/s", {name: [each.sent_packets_per_s] for name, each in apart.items()})
    yield _row(hosts, "at rest, heard, bytes/s", {name: [each.heard_bytes_per_s] for name, each in apart.items()})
    yield _row(hosts, "at rest, CPU, %", {name: [each.cpu_share * 100] for name, each in rests.items()})
    yield _row(hosts, "at rest, PSS, MiB", {name: [each.pss_mib] for name, each in rests.items()})


def _raise(system: System, hosts: int) -> None:
    begun_s = time.monotonic()
    system.lab.make_room()
    system.raise_all()
    _say(f"{hosts} hosts: {system.name} is up after {time.monotonic() - begun_s:.0f} s")


def _rested(system: System, options: argparse.Namespace) -> Rest:
    system.hub.rest(max(SETTLE_S, MEETS_S * system.hosts))
    _say(f"{system.hosts} hosts: {system.name} at rest")
    return rest(system, options.rest)


def _row(hosts: int, what: str, seen: dict[str, Times]) -> Row:
    rounded = {name: [each and round(each, 4) for each in times] for name, times in seen.items()}
    return Row(hosts, what, rounded, round(os.getloadavg()[0], 1))


def _say(what: str) -> None:
    print(f"{time.strftime('%T')} {what} (load {os.getloadavg()[0]:.1f})", file=sys.stderr, flush=True)


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.gossip.membership", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("-n", type=int, nargs="+", default=[], metavar="HOSTS", help="one realm after the other")
    parser.add_argument("--only", nargs="+", choices=TRIALS, default=TRIALS, metavar="TRIAL", help=", ".join(TRIALS))
    parser.add_argument("--minutes", type=float, default=1.0, help="of stopping hosts at random")
    parser.add_argument("--changes", type=int, default=40, help="at each loss; half of them to Serf as well")
    parser.add_argument("--newcomers", type=int, default=12)
    parser.add_argument("--kills", type=int, default=16)
    parser.add_argument("--serf-kills", type=int, default=3)
    parser.add_argument("--silences", type=int, default=2)
    parser.add_argument("--rest", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--without-serf", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("membership.jsonl"), help="every figure; is added to")
    return parser.parse_args(words)


def main() -> None:
    options = parsed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.n and not options.without_serf:
        serf.install()
    come_first()
    for hosts in options.n:
        for row in measured(options, hosts):
            with options.out.open("a") as out:
                out.write(json.dumps(dataclasses.asdict(row)) + "\n")
    print(table([Row(**json.loads(line)) for line in options.out.read_text().splitlines()]))


if __name__ == "__main__":
    main()
