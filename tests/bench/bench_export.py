"""What an export by iSCSI costs beside the raw file, printed and never asserted: `python -m tests.bench.bench_export`.

A tgtd on loopback and QEMU's own initiator; the raw file by the same `qemu-img bench`, turn by turn in the same run, so
that other load falls on both. A figure is the median of the rounds. The raw file is read from the page cache, as tgtd
reads it: what is left is the price of the way.
"""

import os
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import trio

from matcher.wire.messages import ImageFormat
from storaged.export.description import Access, Cut, Image
from storaged.testing import make_volume, vid_of
from tests.bench.lab import machine
from tests.fakes.exporter_contract import export_of, stamped
from tests.fakes.iscsi_world import options_of
from tests.fakes.tgt_world import TgtWorld

SIZE_MIB = 256
ROUNDS = 7
READS_GOAL, WRITES_GOAL, ATTACH_GOAL_MS = 0.20, 0.5, 100.0
STALL_MS = 40.0
WATCH_S = 5.0
EXPORTS = 50
_TOOK = re.compile(rb"completed in ([0-9.]+) seconds")

READ = ("64k reads", ["-s", "65536"], 12000)
WRITE = ("4k synced writes", ["-s", "4096", "-w"], 4000)


async def bench(words: list[str], count: int, depth: int, cache: str, *where: str) -> float:
    """Seconds for one request, on average."""
    flush = [f"--flush-interval={depth}"] if "-w" in words else []  # QEMU flushes when all under way have ended
    command = ["qemu-img", "bench", *flush, "-t", cache, "-c", str(count), "-d", str(depth), *words, *where]
    done = await trio.run_process(command, capture_stdout=True, stdin=subprocess.DEVNULL)
    found = _TOOK.search(done.stdout)
    assert found is not None, done.stdout
    return float(found[1]) / count


async def compare(what: tuple[str, list[str], int], depth: int, image: Image, access: Access, goal: float) -> None:
    name, words, count = what
    raw_s, export_s = [], []
    for _ in range(ROUNDS):
        raw_s.append(await bench(words, count, depth, "writeback", "-f", "raw", image.file))
        export_s.append(await bench(words, count, depth, "none", "--image-opts", options_of(access)))
    ratio = statistics.median(raw / export for raw, export in zip(raw_s, export_s, strict=True))
    raw_us, export_us = statistics.median(raw_s) * 1e6, statistics.median(export_s) * 1e6
    figures = f"raw {raw_us:7.1f} us   iscsi {export_us:7.1f} us   ratio {ratio:4.2f}   goal {goal:.2f}"
    print(f"{name:18} depth {depth:2}   {figures}", flush=True)


async def pausing(world: TgtWorld, access: Access) -> None:
    """The longest times without an answer, while eight writes are under way: a delayed ACK would show as 40 ms."""
    async with world.writing(access) as writer:
        await stamped(writer, 16)
        pauses_ms, stamps, last_s = [], writer.stamps, trio.current_time()
        begun_s = last_s
        while last_s - begun_s < WATCH_S:
            await trio.sleep(0.0005)
            if writer.stamps != stamps:
                now_s = trio.current_time()
                pauses_ms.append((now_s - last_s) * 1e3)
                stamps, last_s = writer.stamps, now_s
    worst = " ".join(f"{pause_ms:.1f}" for pause_ms in sorted(pauses_ms)[-5:])
    print(
        f"64k writes         depth  8   {stamps} answers   the longest pauses {worst} ms   goal below {STALL_MS:.0f} ms"
    )


async def attaching(world: TgtWorld) -> None:
    took_ms, cut_ms = [], []
    for number in range(2, 2 + EXPORTS):
        image = world.image(number)
        begun_s = time.perf_counter()
        access = await world.exporter.export(export_of(image))
        took_ms.append((time.perf_counter() - begun_s) * 1e3)
        assert isinstance(access, Access)
    for number in range(2, 2 + EXPORTS):
        begun_s = time.perf_counter()
        assert await world.exporter.cut(world.image(number)) == Cut()
        cut_ms.append((time.perf_counter() - begun_s) * 1e3)
    for what, times in ((f"{EXPORTS} exports", took_ms), (f"{EXPORTS} cuts", cut_ms)):
        figures = f"median {statistics.median(times):5.1f} ms   worst {max(times):5.1f} ms"
        print(f"{what:18} one by one   {figures}   goal {ATTACH_GOAL_MS:.0f} ms")


async def main() -> None:
    print(machine())
    with tempfile.TemporaryDirectory(prefix="atomos-", dir=os.environ.get("BENCH_DIR")) as folder:
        async with trio.open_nursery() as nursery:
            world = TgtWorld(Path(folder), nursery)
            await world.begin()
            try:
                await measure(world)
            finally:
                with trio.CancelScope(shield=True):
                    await world.end()
    print(machine())


async def measure(world: TgtWorld) -> None:
    path = make_volume(world.pool, vid_of(1), size_mib=SIZE_MIB)
    image = Image(vid_of(1), str(world.pool), str(path), "data.img", ImageFormat.RAW)
    await trio.to_thread.run_sync(fill, image)
    access = await world.exporter.export(export_of(image))
    assert isinstance(access, Access), access
    for depth in (1, 2, 4, 16):
        await compare(READ, depth, image, access, READS_GOAL)
    for depth in (1, 2, 8):
        await compare(WRITE, depth, image, access, WRITES_GOAL)
    await pausing(world, access)
    await attaching(world)


def fill(image: Image) -> None:
    with open(image.file, "r+b") as file:
        for _ in range(SIZE_MIB):
            file.write(os.urandom(2**20))
        file.flush()
        os.fsync(file.fileno())


if __name__ == "__main__":
    trio.run(main)
