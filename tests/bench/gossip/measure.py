"""What is measured of a system: how soon all answer, how much of that it can do at once, and what it takes at rest."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, quantiles

from tests.bench.gossip.system import System
from tests.bench.gossip.usage import cpu_s, pss_mib
from tests.bench.gossip.way import ANSWERS_S, Way

POLL_S = 0.01
IDLE_SHARE = 0.2  # of a core, beyond what they take at rest: hosts have nothing left to do
IDLE_S = 0.5
IDLE_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Load:
    """So many questions a second, whether answered or not. `cpu_ms` is what one question cost all hosts together."""

    per_s: float
    sent: int
    complete: int
    p50_ms: float
    p99_ms: float
    cpu_ms: float

    @property
    def share(self) -> float:
        return self.complete / self.sent


@dataclass(frozen=True, slots=True)
class Rest:
    """A host of a system that is asked nothing; the mean over all."""

    sent_bytes_per_s: float
    sent_packets_per_s: float
    cpu_share: float
    pss_mib: float
    heard_bytes_per_s: float = 0.0


def percentile(values: Sequence[float], percent: int) -> float:
    if len(values) < 2:
        return values[0] if values else float("nan")
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def load(way: Way, pids: Sequence[int], per_s: float, seconds: float, *, resting_share: float) -> Load:
    """`resting_share` of a core is what the hosts take in any case, all together; it is not the questions' doing."""
    way.answers.clear()
    sent: dict[str, float] = {}
    before_s, begun_s = cpu_s(pids), time.monotonic()
    wanted = round(per_s * seconds)
    while len(sent) < wanted:
        due_s = begun_s + len(sent) / per_s
        while time.monotonic() < due_s:
            way.receive(due_s)
        at_s = time.monotonic()
        sent[way.send()] = at_s
    until_s = time.monotonic() + ANSWERS_S
    while time.monotonic() < until_s and way.kept < wanted * way.hosts:
        way.receive(min(until_s, time.monotonic() + POLL_S))
    took_s = time.monotonic() - begun_s
    used_s = cpu_s(pids) - before_s - resting_share * took_s
    way.understand()
    last = [max(way.answers[key].values()) - at_s for key, at_s in sent.items() if _is_complete(way, key, at_s)]
    way.answers.clear()
    _settle(pids, resting_share)
    times_ms = [each_s * 1000 for each_s in last]
    p50_ms, p99_ms = percentile(times_ms, 50), percentile(times_ms, 99)
    return Load(per_s, len(sent), len(last), p50_ms, p99_ms, used_s / len(sent) * 1000)


def _settle(pids: Sequence[int], resting_share: float) -> None:
    """What was too much still waits in the hosts' buffers, and would be in the way of what is measured next."""
    until_s = time.monotonic() + IDLE_WITHIN_S
    share = float("inf")
    while share > IDLE_SHARE + resting_share and time.monotonic() < until_s:
        before_s = cpu_s(pids)
        time.sleep(IDLE_S)
        share = (cpu_s(pids) - before_s) / IDLE_S


def breaking(
    way: Way, pids: Sequence[int], rates: Sequence[float], seconds: float, *, resting_share: float
) -> list[Load]:
    """Ever more questions a second, up to the first rate at which one is not answered by all; that one comes last."""
    loads: list[Load] = []
    for per_s in rates:
        loads.append(load(way, pids, per_s, seconds, resting_share=resting_share))
        if loads[-1].complete < loads[-1].sent:
            break
    return loads


def _is_complete(way: Way, key: str, sent_s: float) -> bool:
    heard = way.answers[key]
    return len(heard) == way.hosts and max(heard.values()) - sent_s <= ANSWERS_S


def rest(system: System, seconds: float) -> Rest:
    traffic = [system.lab.traffic(place) for place in range(system.hosts)]
    cpu, begun_s = cpu_s(system.pids), time.monotonic()
    system.hub.rest(seconds)
    took_s = time.monotonic() - begun_s
    used = (cpu_s(system.pids) - cpu) / took_s / system.hosts
    traffic = [system.lab.traffic(place).since(traffic[place]) for place in range(system.hosts)]
    return Rest(
        fmean(each.sent_bytes for each in traffic) / took_s,
        fmean(each.sent_packets for each in traffic) / took_s,
        used,
        fmean(map(pss_mib, system.pids)),
        fmean(each.heard_bytes for each in traffic) / took_s,
    )
