"""One round: our hosts and the floor side by side, asked in turns; then Serf, alone, since its gossip never rests."""

import json
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE

from tests.bench.gossip.floor import Floor
from tests.bench.gossip.measure import Load, Rest, breaking, load, rest
from tests.bench.gossip.netlab import NetLab
from tests.bench.gossip.ours import CLIENT_PLACES, ROOT, Ours, user
from tests.bench.gossip.serf import Serf
from tests.bench.gossip.system import Hub, System
from tests.bench.gossip.way import Way

WARM_UP = 5
PAUSE_S = 0.03  # hosts are idle again
SERF_PAUSE_S = 0.2
SETTLE_S = 3.0
FAST_RATES = (10.0, 14.0, 20.0, 28.0, 40.0, 56.0, 80.0, 113.0, 160.0, 226.0, 320.0, 453.0, 640.0, 905.0)
SERF_RATES = (1.25, 2.5, 3.5, 5.0, 7.0, 10.0, 14.0, 20.0, 28.0, 40.0)
LOAD_S = 4.0
PLACERS = 8

Times = list[float | None]  # milliseconds; `None`: not answered by all


@dataclass(frozen=True, slots=True)
class Size:
    """How much is asked in a round."""

    hosts: int
    questions: int
    serf_questions: int
    placings: int
    sustained_s: float
    rest_s: float


@dataclass
class Round:
    """What was seen; by the names of ways, or of systems."""

    asked: dict[str, Times] = field(default_factory=dict)
    loads: dict[str, list[Load]] = field(default_factory=dict)  # the last one is where it breaks
    half: Load | None = None  # ours, at half the rate at which the signed floor breaks
    like_serf: Load | None = None  # ours, at the highest rate that Serf answers
    rests: dict[str, Rest] = field(default_factory=dict)
    placed: Times = field(default_factory=list)  # one at a time
    sustained: Times = field(default_factory=list)  # by several at once
    sustained_per_s: float = 0.0


def one_round(size: Size) -> Round:
    seen = Round()
    with tempfile.TemporaryDirectory(prefix="gossip-bench-", dir="/var/tmp") as folder:  # a disk, not memory
        _ours_and_floor(size, Path(folder), seen)
    _serf(size, seen)
    return seen


def _ours_and_floor(size: Size, folder: Path, seen: Round) -> None:
    with NetLab(size.hosts + CLIENT_PLACES) as lab:
        ours, floor = Ours(lab, Hub(), size.hosts, folder), Floor(lab, Hub(), size.hosts)
        for system in (ours, floor):
            _say(f"raising {system.name}")
            system.raise_all()
        time.sleep(SETTLE_S)
        seen.rests["ours"] = rest(ours, size.rest_s)
        ways = [*ours.ways(), *floor.ways()]
        pids = {way.name: (ours if way.name == "ours" else floor).pids for way in ways}
        try:
            _say("asking ours and the floor in turns")
            seen.asked |= ask_in_turns(ways, size.questions, PAUSE_S)
            _load(ways, pids, seen.rests["ours"].cpu_share * size.hosts, seen)
            _say("placing")
            seen.placed = _place(lab, ours, ["--count", str(size.placings)])[0]
            seen.sustained, seen.sustained_per_s = _place(lab, ours, ["--seconds", str(size.sustained_s)], PLACERS)
        finally:
            for way in ways:
                way.close()


def _load(ways: list[Way], pids: dict[str, list[int]], resting_share: float, seen: Round) -> None:
    by_name = {way.name: way for way in ways}
    for name in ("signed floor", "ours"):
        _say(f"loading {name}")
        at_rest = resting_share if name == "ours" else 0.0
        seen.loads[name] = breaking(by_name[name], pids[name], FAST_RATES, LOAD_S, resting_share=at_rest)
    half = seen.loads["signed floor"][-1].per_s / 2
    seen.half = load(by_name["ours"], pids["ours"], half, LOAD_S, resting_share=resting_share)


def _serf(size: Size, seen: Round) -> None:
    with NetLab(size.hosts) as lab:
        serf = Serf(lab, Hub(), size.hosts)
        _say("raising serf")
        serf.raise_all()
        serf.hub.rest(SETTLE_S)
        seen.rests["serf"] = rest(serf, size.rest_s)
        ways = serf.ways()
        _say("asking serf")
        seen.asked |= ask_in_turns(ways, size.serf_questions, SERF_PAUSE_S, serf)
        resting_share = seen.rests["serf"].cpu_share * size.hosts
        _say("loading serf")
        seen.loads["serf"] = breaking(ways[0], serf.pids, SERF_RATES, LOAD_S, resting_share=resting_share)


def ask_in_turns(ways: list[Way], questions: int, pause_s: float, system: System | None = None) -> dict[str, Times]:
    asked: dict[str, Times] = {way.name: [] for way in ways}
    for number in range(WARM_UP + questions):
        for way in random.sample(ways, len(ways)):
            took_s = way.ask()
            if number >= WARM_UP:
                asked[way.name].append(took_s and took_s * 1000)
            if system is not None:
                system.hub.rest(pause_s)
            else:
                time.sleep(pause_s)
    return asked


def _place(lab: NetLab, ours: Ours, words: list[str], placers: int = 1) -> tuple[Times, float]:
    """All that were placed or not, and how many were in a second while all placers were at it."""
    started = []
    for number in range(placers):
        identity = ours.realm.folder / user(number)
        command = [
            sys.executable,
            "-m",
            "tests.bench.gossip.placer",
            str(identity),
            "--hosts-known",
            str(ours.hosts),
            *words,
        ]
        env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
        started.append(lab.start(ours.hosts + number % CLIENT_PLACES, command, env=env, stdout=PIPE))
    each = [[json.loads(line) for line in process.communicate()[0].splitlines()] for process in started]
    begun_s = max(lines[0][1] - (lines[0][0] or 0) / 1000 for lines in each)
    ended_s = min(lines[-1][1] for lines in each)
    within = [took for lines in each for took, at_s in lines if begun_s < at_s <= ended_s]
    placed = [took for took in within if took is not None]
    times = [took for lines in each for took, _ in lines]
    return times, len(placed) / (ended_s - begun_s) if ended_s > begun_s else 0.0


def _say(what: str) -> None:
    print(f"{time.strftime('%T')} {what}", file=sys.stderr)
