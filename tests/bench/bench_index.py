"""What very many volumes cost storaged: to find them, to look again, to answer a pledge; and what its loop feels of it.

    python -m tests.bench.bench_index [-n 100000]

Makes that many volumes in a temporary folder (three inodes each, next to no bytes) and removes them again. Beside each
figure stands a floor of the same run: the plainest loop in Python over the same files, in a thread as well; and in
another process, by which one sees how late the loop is for reasons of the machine's own. The files are in the page
cache; from a disk that turns, its seeks come on top of both. Goals for 100,000: cold 30 s, rescan 2 s, the loop never
later than 50 ms, a pledge 5 ms. Prints a table and judges nothing.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter, process_time, thread_time

import trio

from matcher.offers.ledger import Ledger
from matcher.offers.offering import Offering
from matcher.trust.principal import Principal
from matcher.trust.realm import EVERYTHING
from matcher.wire.messages import Pledge, Policy, Role
from specs.ids import UserId, dashed
from storaged.answering import Proposer, StorageAnswers, admitting
from storaged.catalogue import Catalogue
from storaged.claims import VolumeShare
from storaged.config import Config, PoolSettings
from storaged.journal import Journal
from storaged.keeper import Keeper, Kept
from storaged.metadata import Metadata, write_metadata
from storaged.quota import Quota
from storaged.testing import ALICE, H1, make_volume, vid_of, vm_of

VOLUMES_MAX = 200_000
FOLDER_OF = 1000  # volumes in one folder
RESCANS = 3
PLEDGES = 2000
ATTACHED = 200  # VMs that have a volume meanwhile
HINTS = 5
TICK_S = 0.002
ANN = Principal("user", ALICE, "ann", EVERYTHING)


def make(pool: Path, count: int) -> None:
    for number in range(count):
        team = pool / f"team-{number // FOLDER_OF:03}"
        folder = f"{team}/{dashed(vid_of(number))}.elimg"
        os.makedirs(folder)
        Path(folder, "meta.json").write_bytes(write_metadata(Metadata(1024, f"volume-{number}")))
        with open(f"{folder}/data.img", "wb") as image:
            image.truncate(2**30)


def floor(pool: Path, each: Callable[[str], object]) -> float:
    """Seconds for `each` volume's folder, found by nothing but scandir."""
    begun = perf_counter()
    for team in os.scandir(pool):
        if team.is_dir():
            for folder in os.scandir(team):
                each(folder.path)
    return perf_counter() - begun


def read(folder: str) -> None:
    file = os.open(f"{folder}/meta.json", os.O_RDONLY)
    os.read(file, 65536)
    os.close(file)
    os.stat(f"{folder}/data.img")


def stat(folder: str) -> None:
    os.stat(folder)
    os.stat(f"{folder}/meta.json")
    os.stat(f"{folder}/data.img")


class Loop:
    """How late a task of the loop is that wakes up all the time."""

    def __init__(self) -> None:
        self.late_s = [0.0]

    async def tick(self) -> None:
        while True:
            due = perf_counter() + TICK_S
            await trio.sleep(TICK_S)
            self.late_s.append(perf_counter() - due)

    def said(self) -> str:
        late, self.late_s = sorted(self.late_s), [0.0]
        return f"loop late by {late[-1] * 1e3:5.1f} ms at most, {late[len(late) * 99 // 100] * 1e3:4.1f} ms p99"


def rss_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def row(what: str, took_s: float, rest: str = "") -> None:
    took = f"{took_s:8.2f} s " if took_s >= 0.5 else f"{took_s * 1e3:8.3f} ms"
    print(f"{what:38} {took}   {rest}", flush=True)


@dataclass
class Took:
    """How long something took, of which this process computed `cpu_s`; and how late the loop was meanwhile."""

    s: float
    cpu_s: float
    late: str

    def said(self, floor: "Took | None" = None) -> str:
        beside = f"{self.s / floor.s:.1f} times the floor, " if floor else ""
        return f"{beside}cpu {self.cpu_s:.2f} s, {self.late}"


async def timed(loop: Loop, what: Callable[[], Awaitable[object]]) -> Took:
    await trio.sleep(2 * TICK_S)
    loop.said()
    begun, cpu = perf_counter(), process_time()
    await what()
    took, cpu = perf_counter() - begun, process_time() - cpu
    await trio.sleep(2 * TICK_S)
    return Took(took, cpu, loop.said())


async def scans(catalogue: Catalogue, pool: Path, loop: Loop, count: int) -> None:
    before = rss_mib()
    reading = await timed(loop, partial(trio.to_thread.run_sync, floor, pool, read))
    row("floor: scandir, open, read, stat", reading.s, reading.said())
    cold = await timed(loop, catalogue.scan)
    row("cold scan", cold.s, cold.said(reading))
    assert len(catalogue.snapshot().volumes) == count
    cost = rss_mib() - before
    print(f"{'memory':38} {cost:8.1f} MiB  {cost * 2**20 / count:.0f} bytes a volume")
    for _ in range(RESCANS):
        looking = await timed(loop, partial(trio.to_thread.run_sync, floor, pool, stat))
        row("floor: scandir and three stats", looking.s, looking.said())
        again = await timed(loop, catalogue.scan)
        row("rescan", again.s, again.said(looking))
    apart = [sys.executable, "-m", __spec__.name, "--floor", str(pool)]
    elsewhere = await timed(loop, partial(trio.run_process, apart))
    row("the floor in another process", elsewhere.s, elsewhere.late)
    print(f"{'memory after the rescans':38} {rss_mib() - before:8.1f} MiB")


async def hints(catalogue: Catalogue, pool: Path, loop: Loop, count: int) -> None:
    took = []
    for number in range(count, count + HINTS):
        begun = perf_counter()
        make_volume(pool / "team-000", vid_of(number))
        while vid_of(number) not in catalogue.snapshot().volumes:  # noqa: ASYNC110 - a scan's end rings no bell
            await trio.sleep(0.001)
        took.append(perf_counter() - begun)
        await trio.sleep(2)
    row("a new volume, until it is known", median(took), f"slowest {max(took):.2f} s, {loop.said()}")


def pledge(random: Random, vids: tuple[str, ...], dry: bool) -> Pledge:
    digits = f"{random.getrandbits(128):032x}"
    return Pledge(digits, 0, (), dry, digits, 1, None, vids, b"\0" * 32, 3000, 0, Policy.PACK)


async def pledges(catalogue: Catalogue, folder: Path, count: int) -> None:
    random, snapshot = Random(7), catalogue.snapshot
    journal = Journal(folder / "journal")
    keeper = Keeper(journal, server=H1)
    quota = Quota(host="h1", shares=keeper.shares, snapshot=snapshot)
    ledger = Ledger[VolumeShare](admitting(keeper, snapshot), quota.allows)
    proposer = Proposer("h1", H1, keeper, snapshot, quota)
    offering = Offering(host="h1", role=Role.STORAGE, proposer=proposer, ledger=ledger, random=Random(1))
    answers = StorageAnswers("h1", 7767, offering, snapshot, catalogue.missed, lambda: "")
    now_s = 0.0
    for attached in (0, ATTACHED):
        for vm in range(1, attached + 1):
            user_id = UserId("c" * 64)
            given = keeper.attach([vid_of(vm)], snapshot(), vm_id=vm_of(vm), generation=1, user_id=user_id, host_id=H1)
            assert isinstance(given, Kept)
        for wanted in (1, 16):
            took = []
            for _ in range(PLEDGES):
                now_s += 10  # when the holds of the one before have lapsed
                vids = tuple(vid_of(n) for n in random.sample(range(ATTACHED + 1, count), wanted))
                asked = pledge(random, vids, dry=False)
                begun = thread_time()
                replies = answers.pledge(asked, ANN, now_s)
                took.append(thread_time() - begun)
                assert len(replies[0].volumes) == wanted  # type: ignore[union-attr]
            took.sort()
            what = f"pledge of {wanted} volumes, {attached} attached"
            late = f"p99 {took[len(took) * 99 // 100] * 1e3:.2f} ms, slowest {took[-1] * 1e3:.2f} ms"
            row(what, median(took), f"{late}, all of it cpu; with its hold")
    journal.close()


@asynccontextmanager
async def ticking() -> AsyncIterator[Loop]:
    loop = Loop()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(loop.tick)
        yield loop
        nursery.cancel_scope.cancel()


async def measure(folder: Path, count: int) -> None:
    pool = folder / "pool"
    catalogue = Catalogue(Config(state=folder, pools=(PoolSettings(path=pool),), rescan_s=86_400), H1)
    async with ticking() as loop:
        nothing = await timed(loop, partial(trio.sleep, 1))
        row("nothing", nothing.s, nothing.said())
        await scans(catalogue, pool, loop, count)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(catalogue.keep_scanned)
            await trio.sleep(5)
            loop.said()
            await hints(catalogue, pool, loop, count)
            nursery.cancel_scope.cancel()
    await pledges(catalogue, folder, count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=100_000, help="how many volumes")
    parser.add_argument("--floor", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.floor:
        floor(arguments.floor, stat)
        return
    count: int = arguments.n
    if not 2 * ATTACHED <= count <= VOLUMES_MAX:
        sys.exit(f"bench: {2 * ATTACHED} to {VOLUMES_MAX} volumes")
    with tempfile.TemporaryDirectory(prefix="bench-index-") as folder:
        begun = perf_counter()
        make(Path(folder, "pool"), count)
        print(f"{count} volumes; {os.cpu_count()} cores, load {' '.join(f'{load:.1f}' for load in os.getloadavg())}")
        row("made", perf_counter() - begun)
        trio.run(measure, Path(folder), count)


if __name__ == "__main__":
    main()
