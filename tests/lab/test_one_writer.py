"""No second writer, on real storaged and tgtd: randomised runs in which writers, exporter and daemon are killed,
stopped and cut off while a volume is taken over, and a judge that reads the image.

A run: a VM's life on one host stamps its epoch into the blocks, and the next ones take the volume over. What befalls
whom, and when, is drawn from the run's seed; `ATOMOS_SEED` replays one.
"""

import mmap
import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
import trio

from atomd.vms.lifecycle import Vm
from matcher.wire.messages import Refused
from matcher.wire.volumes import Attached
from specs.ids import VmId
from storaged.attachments import Refusal
from storaged.config import PORT as DOOR_PORT
from storaged.export.tgt import PORT as ISCSI_PORT
from storaged.record import read_right_at
from storaged.volume import Right
from tests.fakes.iscsi_world import BLOCK, BLOCKS, QemuWriter
from tests.fakes.one_writer_world import HOSTS, PLAIN, VID, OneWriterWorld, dropped
from tests.lab.conftest import why_not

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(shutil.which("tgtd") is None, reason="tgtd is not installed: packaging/setup"),
]

PATIENCE_S = 180.0  # after which nothing comes any more, however busy the machine is
LOOK_S = 0.003
KINDS = [(who, how) for who in ("writer", "exporter", "daemon") for how in ("kill", "stop", "partition")]
WAYS = ("both", "in", "out")
TAKEN_AFTER_S = 0.05  # from a takeover's beginning until it is asked for; it takes some 30 ms by itself
BEFALLS_S = 0.12  # from then, at the latest; most often while it is under way
LASTS_S = (0.02, 0.5)
SETTLE_S = 0.05
MANY = 100


class StaleWrite(AssertionError):
    """A block has changed to what nobody had the right to write."""


def stamp_of(counter: int) -> int:
    return counter % 255 + 1


class Judge:
    """Looks at the image and the record all the time. A write is right if it bears the epoch of a record that stood
    at some moment between the look before it and the look after it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with (folder / "data.img").open("rb") as image:
            self._image = mmap.mmap(image.fileno(), BLOCK * BLOCKS, prot=mmap.PROT_READ)
        self._right = self._read()
        self._blocks = self._image[::BLOCK]
        self.stale: list[str] = []

    async def run(self) -> None:
        while True:
            self.look()
            await trio.sleep(LOOK_S)

    def look(self) -> None:
        before = self._read()
        blocks = self._image[::BLOCK]
        allowed = _stamps(self._right, self._read())
        wrong = {now for was, now in zip(self._blocks, blocks, strict=True) if now != was} - allowed
        if wrong:
            self.stale.append(f"{len(wrong)} blocks say {sorted(wrong)}, where {sorted(allowed)} had the right")
        self._right, self._blocks = before, blocks

    def all_stamps(self) -> set[int]:
        return set(self._image[:])

    @property
    def epoch(self) -> int:
        right = self._read()
        return right.epoch.counter if right else 0

    def _read(self) -> Right | None:
        return read_right_at(str(self._folder.parent), str(self._folder), VID)


def _stamps(first: Right | None, last: Right | None) -> set[int]:
    """Of all epochs in which somebody had the volume between these two records."""
    if last is None:
        return set()
    begun = first.epoch.counter + (not first.held) if first else 1
    return {stamp_of(counter) for counter in range(begun, last.epoch.counter + 1)}


@dataclass(frozen=True, slots=True)
class Fault:
    """`host`: whose writer, or who is cut off from the daemon. `way`: of a partition."""

    who: str
    how: str
    host: str
    way: str
    after_s: float
    lasts_s: float


class Run:
    """One seed's."""

    def __init__(self, world: OneWriterWorld, judge: Judge, seed: int, told: Counter[str]) -> None:
        self.world, self.judge, self.told = world, judge, told
        self.random, self.kind = Random(seed), KINDS[seed * 2 % len(KINDS)]
        self.vm_id = VmId(f"{seed + 1:032x}")
        self.generation = 0

    async def run(self, *faults: Fault) -> None:
        host = self.random.choice(HOSTS)
        async with AsyncExitStack() as writers:
            writer, vm = await self._live(host, writers)
            await self._stamped(writer, self.random.randint(1, BLOCKS))
            for _ in range(self.random.choice((1, 2))):
                was, host = (host, vm), self.random.choice(HOSTS)
                async with trio.open_nursery() as nursery:
                    for fault in faults or self._drawn(was[0], host):
                        nursery.start_soon(self._befall, fault, writer.process)
                    await trio.sleep(TAKEN_AFTER_S)
                    writer, vm = await self._live(host, writers)
                self.told["takeovers"] += 1
                await self._stamped(writer, 2 * BLOCKS)  # each block anew
                await self._settled()
                assert not isinstance(await self.world.ask(*was), Attached), "an old life has it back"
        await self._settled()
        await self._ended(host, vm)
        self.told["runs"] += 1

    def _drawn(self, old: str, new: str) -> Iterator[Fault]:
        """One of the seed's kind, and maybe one of any other."""
        yield self._fault(self.kind, old, new)
        if self.random.random() < 0.4:
            yield self._fault(self.random.choice(KINDS), old, new)

    def _fault(self, kind: tuple[str, str], old: str, new: str) -> Fault:
        who, how = kind
        after_s, lasts_s = self.random.triangular(0, BEFALLS_S), self.random.uniform(*LASTS_S)
        return Fault(who, how, new if who == "daemon" else old, self.random.choice(WAYS), after_s, lasts_s)

    # ---- lives of the VM

    async def _live(self, host: str, writers: AsyncExitStack) -> tuple[QemuWriter, Vm]:
        """The next one, with its writer."""
        self.generation += 1
        vm, attached = await self._attached(host)
        stamp = stamp_of(self.judge.epoch)
        writer = await writers.enter_async_context(self.world.writing(host, attached, stamp))
        with trio.fail_after(PATIENCE_S):
            while not writer.prompts:
                if writer.process.poll() is not None:  # it could not open the volume: who served it was dead just then
                    writer = await writers.enter_async_context(self.world.writing(host, attached, stamp))
                await trio.sleep(0.005)
        writers.callback(lambda: self.told.update({"stamped writes": writer.stamps}))
        return writer, vm

    async def _attached(self, host: str) -> tuple[Vm, Attached]:
        with trio.fail_after(PATIENCE_S):
            vm = await self.world.confirmed(host, self.vm_id, self.generation)
            while not isinstance(answer := await self.world.ask(host, vm), Attached):
                self.told["asked again"] += 1
                await trio.sleep(0.01)
                if isinstance(answer, Refused) and answer.code == Refusal.NOT_HELD:  # storaged was started anew
                    vm = await self.world.confirmed(host, self.vm_id, self.generation)
            return vm, answer

    async def _ended(self, host: str, vm: Vm) -> None:
        with trio.fail_after(PATIENCE_S):
            while not await self.world.detach(host, vm):
                await trio.lowlevel.checkpoint()

    async def _stamped(self, writer: QemuWriter, more: int) -> None:
        goal = writer.stamps + more
        with trio.fail_after(PATIENCE_S):
            while writer.stamps < goal:
                self._check()
                await trio.sleep(0.005)

    async def _settled(self) -> None:
        """What was sent before has had its time."""
        await trio.sleep(SETTLE_S)
        self.judge.look()
        self._check()
        assert self.judge.all_stamps() == {stamp_of(self.judge.epoch)}

    def _check(self) -> None:
        if self.judge.stale:
            raise StaleWrite("; ".join(self.judge.stale))

    # ---- what befalls them

    async def _befall(self, fault: Fault, writer: trio.Process) -> None:
        """`writer`: the old one, wherever the next one is."""
        await trio.sleep(fault.after_s)
        self.told[f"{fault.who} {fault.how}"] += 1
        match fault.who, fault.how:
            case _, "partition":
                port = DOOR_PORT if fault.who == "daemon" else ISCSI_PORT
                hosts = HOSTS if fault.who == "exporter" else (fault.host,)
                rules = [rule for host in hosts for rule in dropped(host, port, fault.way)]
                async with self.world.nets.dropping(rules):
                    await trio.sleep(fault.lasts_s)
            case "daemon", "kill":
                self.world.kill_daemon()
                self.world.begin_daemon()
            case _, "kill":
                self._signal(fault.who, writer, signal.SIGKILL)
            case _, "stop":
                self._signal(fault.who, writer, signal.SIGSTOP)
                try:
                    await trio.sleep(fault.lasts_s)
                finally:
                    self._signal(fault.who, writer, signal.SIGCONT)

    def _signal(self, who: str, writer: trio.Process, number: int) -> None:
        match who:
            case "daemon":
                self.world.signal_daemon(number)
            case "exporter":
                self.world.signal_exporter(number)
            case "writer":
                writer.send_signal(number)


@pytest.fixture
def root() -> Iterator[Path]:
    if reason := why_not():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="atomos-") as folder:
        yield Path(folder)


async def ran(root: Path, seeds: Sequence[int], *faults: Fault, program: str = PLAIN) -> Counter[str]:
    """What has happened in these runs. Raises a group with `StaleWrite` in it."""
    told = Counter[str]()
    async with trio.open_nursery() as nursery:
        world = OneWriterWorld(root, nursery, program)
        try:
            await world.begin()
            judge = Judge(world.folder)
            nursery.start_soon(judge.run)
            for seed in seeds:
                try:
                    await Run(world, judge, seed, told).run(*faults)
                except Exception as problem:
                    problem.add_note(f"replay with ATOMOS_SEED={seed}\n{world.log()}")
                    raise
        finally:
            world.end()
        nursery.cancel_scope.cancel()
    return told


def chosen(seeds: range) -> Sequence[int]:
    return [int(os.environ["ATOMOS_SEED"])] if "ATOMOS_SEED" in os.environ else seeds


@pytest.mark.parametrize("seeds", [range(5), pytest.param(range(100, 100 + MANY), marks=pytest.mark.slow)], ids=len)
async def test_no_stale_stamp_lands_whoever_is_killed_stopped_or_cut_off(
    root: Path, seeds: range, capsys: pytest.CaptureFixture[str]
) -> None:
    told = await ran(root, chosen(seeds))
    with capsys.disabled():
        print(f"\n{', '.join(f'{count} {what}' for what, count in told.items())}, 0 stale writes")
    if len(seeds) >= len(KINDS) and "ATOMOS_SEED" not in os.environ:
        assert {f"{who} {how}" for who, how in KINDS} <= told.keys()


# ---- the judge

NO_RIVALS = """
from storaged.export import tgt, tgt_words as words, wanted
tgt.rivals = lambda seen, export: False
tgt.Tgt._still_open = lambda self, image: ""
wanted.Wanted.too_many = lambda self, found: iter(())
"""
CUTS_NOTHING = f"""{NO_RIVALS}
async def _remove(self, name):
    pass
tgt.Tgt._remove = _remove
{PLAIN}
"""
LEAVES_SESSIONS = f"""{NO_RIVALS}
async def _remove(self, name):
    for target in await self._targets():
        if target.name == name:
            for initiator in target.initiators:
                await self._tell(words.unbind_initiator(target.tid, initiator))
            for user in target.users:
                await self._tell(words.unbind_account(target.tid, user))
                await self._tell(words.delete_account(user))
tgt.Tgt._remove = _remove
{PLAIN}
"""
CUT_OFF = Fault("writer", "partition", "h1", "in", 0.0, 0.5)  # of seed 1's first writer


@pytest.mark.parametrize("program", [CUTS_NOTHING, LEAVES_SESSIONS], ids=["cuts nothing", "leaves sessions"])
async def test_a_cut_that_is_none_is_caught_when_a_partition_heals(root: Path, program: str) -> None:
    """Until then the old writer is silent, and what it has sent waits in its host's TCP."""
    with pytest.raises(BaseExceptionGroup) as caught:
        await ran(root, [1], CUT_OFF, program=program)
    assert caught.group_contains(StaleWrite)
