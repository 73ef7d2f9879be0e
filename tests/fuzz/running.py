"""Runs targets on so many inputs, and tells of each how fast it was, what it raised, and what memory it kept."""

import gc
import os
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.fuzz.mutating import mutated
from tests.fuzz.targets import Target

FINDS_MAX = 5  # of one target, that are told in full
WARM_UP = 2_000  # inputs, until pools, caches and bounded maps have their size


@dataclass
class Report:
    """`finds`: the input in hex, and what was raised. `grown_bytes`: of the process, from after the warm-up on."""

    name: str
    inputs: int = 0
    took_s: float = 0.0
    grown_bytes: int = 0
    raised: int = 0
    finds: list[str] = field(default_factory=list)

    def line(self) -> str:
        rate = self.inputs / self.took_s if self.took_s else 0.0
        grown = f"{self.grown_bytes / 2**20:+7.1f} MiB"
        return f"{self.name:28} {self.inputs:9,} {rate:10,.0f}/s {self.raised:6} raised {grown}"

    def note(self, data: bytes) -> None:
        self.raised += 1
        if len(self.finds) < FINDS_MAX:
            self.finds.append(f"{self.name}: {data[:4096].hex()}\n{traceback.format_exc()}")


def rss_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def fuzz(targets: Iterable[Target], inputs: int, seed: int, tell: Callable[[str], None]) -> list[Report]:
    reports = []
    for target in targets:
        reports.append(fuzz_one(target, inputs * target.share // 1000, seed))
        tell(reports[-1].line())
    return reports


def fuzz_one(target: Target, inputs: int, seed: int) -> Report:
    random, report = Random(f"{seed} {target.name}"), Report(target.name)
    begun_s = time.perf_counter()
    before = rss_bytes()
    for number in range(inputs):
        if number == WARM_UP:
            before = rss_bytes()
        data = mutated(target.samples, random)
        try:
            target.once(data, random)
        except Exception:
            report.note(data)
    report.inputs, report.took_s = inputs, time.perf_counter() - begun_s
    report.grown_bytes = rss_bytes() - before
    return report
