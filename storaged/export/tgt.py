"""Volumes by iSCSI, served by tgtd: a target for each export, its door opened last and shut first.

    (none) --target, LUN, account--> dark --initiator bound--> served --unbound, sessions ended--> dark --> (none)

A target without an initiator lets nobody in, so that what is half made, or half cut, serves nobody. tgtd takes either
an initiator's name or its address for enough, never both: it is given the name, and the secret does the rest. It has no
lock on an image; that a cut one is closed is asked of the kernel (`writers`).

An image is opened by tgtd, by its path; before anybody may log in, it is seen that what tgtd opened is what lies
beneath the pool. Raw images only: it hands out a file's bytes, and a qcow2 image would have to grow under it.
"""

import os
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from random import Random, SystemRandom
from typing import TypeVar

import trio

from matcher.wire.messages import ImageFormat
from storaged.beneath import Unusable
from storaged.export import tgt_words as words
from storaged.export.child import Command
from storaged.export.description import (
    LUN,
    Access,
    Cut,
    Export,
    Image,
    Kind,
    Observed,
    Refused,
    Unknown,
    refused,
)
from storaged.export.exporter import EXPORTS_MAX, Problems
from storaged.export.keeping import Kept
from storaged.export.tgt_words import Code, Request, Target
from storaged.export.writers import Writers, serves, writers_of
from storaged.volume import Epoch

CALL_S = 4.0  # for one export or cut, with the wait for its turn
AGAIN_S = 0.02  # between two looks at a target that is still busy
TID_MAX = 2**31 - 1
PORT = 3260

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Portal:
    """Where tgtd listens, and what of it is ours alone: `folder` holds its control socket, its lock and its log."""

    address: IPv4Address | IPv6Address
    folder: Path
    port: int = PORT
    threads: int = 4  # for each LUN
    program: str = "tgtd"

    @property
    def command(self) -> Command:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return Command(
            (self.program, "-f", "-t", str(self.threads), "--iscsi", f"portal={host}:{self.port}"),
            lock=self.folder / "tgtd.0.lock",
            log=self.folder / "tgtd.log",
            environment={"TGT_IPC_SOCKET": str(self.folder / "tgtd")},
        )

    @property
    def control(self) -> Path:
        return self.folder / "tgtd.0"


class Silent(Exception):
    """No answer can be had from tgtd."""


class Rejected(Exception):
    """tgtd's no to one request."""

    def __init__(self, request: Request, code: int) -> None:
        super().__init__(f"tgtd refuses {request.about} (error {code})")
        self.code = code


class Tgt:
    """An `Exporter`."""

    kind = Kind.ISCSI

    def __init__(self, portal: Portal, *, random: Random | None = None, call_s: float = CALL_S) -> None:
        self._portal, self._random, self._call_s = portal, random or SystemRandom(), call_s
        self._turn = trio.Lock()
        self._wanted: dict[str, Export] = {}
        self._is_told = False  # what is wanted, all of it: until then nothing that was found is cut
        self._kept = Kept("tgtd", portal.command, self._answers, self._converge)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self._portal.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._kept.run(task_status=task_status)

    async def observe(self) -> frozenset[Observed] | Unknown:
        async def look() -> frozenset[Observed]:
            return frozenset(t.seen for t in await self._targets() if t.seen is not None)

        return await self._in_time(look)

    async def export(self, export: Export) -> Access | Refused | Unknown:
        assert export.kind is Kind.ISCSI
        assert export.chap is not None, "whoever knows an initiator's name could log in"
        refusal = _unfit(export)
        if refusal is not None:
            return refusal
        if len(self._wanted.keys() | {export.target}) > EXPORTS_MAX:
            return refused(export, "too-many-exports", f"this host exports {EXPORTS_MAX} already", "use another host")
        self._wanted[export.target] = export
        return await self._made(export)

    async def cut(self, image: Image, epoch: Epoch | None = None) -> Cut | Unknown:
        for name, export in [*self._wanted.items()]:
            if _is_of(image, epoch, export.image.vid, export.epoch):
                del self._wanted[name]
        deadline_s = trio.current_time() + self._call_s
        ended = await self._in_time(partial(self._end, image, epoch))
        return ended if isinstance(ended, Unknown) else await self._closed(image, deadline_s)

    async def reconcile(self, wanted: Collection[Export]) -> Problems:
        assert len(wanted) <= EXPORTS_MAX
        self._wanted = {export.target: export for export in wanted}
        self._is_told = True
        return await self._converge()

    async def _converge(self) -> Problems:
        problems: dict[str, Refused | Unknown] = {}
        found = await self.observe()
        if isinstance(found, Unknown):
            return dict.fromkeys(self._wanted, found)
        for seen in found:
            if self._is_told and seen.target not in self._wanted:
                gone = await self._in_time(partial(self._removed, seen.target))
                if isinstance(gone, Unknown):
                    problems[seen.target] = gone
        served = {seen.target: seen for seen in found}
        for name, export in [*self._wanted.items()]:
            if name not in served or not served[name].serves(export):
                made = await self._made(export)
                if not isinstance(made, Access):
                    problems[name] = made
        return problems

    async def _made(self, export: Export) -> Access | Refused | Unknown:
        answer = await self._in_time(partial(self._make, export))
        if isinstance(answer, Refused):
            self._wanted.pop(export.target, None)
        return answer

    async def _make(self, export: Export) -> Access | Refused | Unknown:
        if export.target not in self._wanted:
            return Unknown("it was cut meanwhile")
        targets = await self._targets()
        rival = next((t.seen for t in targets if t.seen is not None and _rivals(t.seen, export)), None)
        if rival is not None:
            has = f"epoch {rival.epoch.counter} is still exported"
            return refused(export, "another-epoch", has, "that has to be cut first")
        found = next((t for t in targets if t.name == export.target), None)
        if found is not None and found.seen is not None and found.seen.serves(export):
            return self._access(export)
        if found is not None:
            await self._removed(found.name)
        return await self._open(export)

    async def _open(self, export: Export) -> Access | Refused:
        assert export.chap is not None
        tid = self._random.randint(1, TID_MAX)  # never one that a request still under way may mean
        await self._tell(words.new_target(tid, export.target))
        try:
            await self._tell(words.new_lun(tid, export.image.file))
            await self._tell(words.describe_lun(tid, export.image.vid, readonly=export.image.readonly))
            if not self._is_right(export.image):
                await self._removed(export.target)
                return refused(export, "image-changed", "its image was replaced meanwhile", "try again")
            await self._tell(words.delete_account(export.chap.user), Code.NO_USER)
            await self._tell(words.new_account(export.chap))
            await self._tell(words.bind_account(tid, export.chap.user))
            await self._tell(words.bind_initiator(tid, export.initiator))
        except Rejected as problem:
            await self._removed(export.target)
            return refused(export, "not-served", str(problem), "its sysadmin finds more in tgtd's log")
        return self._access(export)

    def _is_right(self, image: Image) -> bool:
        pid = self._kept.pid
        if pid is None:
            raise Silent("tgtd has ended")
        try:
            return serves(pid, image)
        except (Unusable, FileNotFoundError):
            return False
        except OSError as problem:
            raise Silent(f"tgtd can't be looked at: {problem.strerror}") from problem

    def _access(self, export: Export) -> Access:
        return Access(
            Kind.ISCSI,
            export.target,
            ImageFormat.RAW,
            export.image.readonly,
            address=str(self._portal.address),
            port=self._portal.port,
            lun=LUN,
            initiator=export.initiator,
            chap=export.chap,
        )

    async def _end(self, image: Image, epoch: Epoch | None) -> None:
        try:
            for seen in [t.seen for t in await self._targets() if t.seen is not None]:
                if _is_of(image, epoch, seen.vid, seen.epoch):
                    await self._removed(seen.target)
        except Silent:
            if self._kept.pid is not None:
                raise

    async def _closed(self, image: Image, deadline_s: float) -> Cut | Unknown:
        """A target that is gone may have left writes behind; nobody can write what was never writable."""
        while not image.readonly:
            answer, why = writers_of(image, self._kept.pid)
            if answer is Writers.NONE:
                break
            if trio.current_time() >= deadline_s:
                return Unknown(f"volume {image.vid}: {why}")
            await trio.sleep(AGAIN_S)
        return Cut()

    async def _removed(self, name: str) -> None:
        """Return when tgtd no longer has the target. Each round does what can be done: sessions end when they do."""
        is_again = False
        while (target := next((t for t in await self._targets() if t.name == name), None)) is not None:
            if is_again:
                await trio.sleep(AGAIN_S)
            await self._remove(target)
            is_again = True

    async def _remove(self, target: Target) -> None:
        gone = (Code.NO_TARGET, Code.NO_LUN, Code.NO_SESSION, Code.NO_CONNECTION, Code.NO_USER, Code.ACL_GONE)
        busy = (*gone, Code.LUN_ACTIVE, Code.TARGET_ACTIVE)
        for initiator in target.initiators:
            await self._tell(words.unbind_initiator(target.tid, initiator), *gone)
        for user in target.users:
            await self._tell(words.unbind_account(target.tid, user), *gone)
            await self._tell(words.delete_account(user), *gone)
        for session, connection in words.parse_connections(await self._tell(words.show_connections(target.tid), *gone)):
            await self._tell(words.delete_connection(target.tid, session, connection), *gone)
        for lun in target.luns - {0}:
            await self._tell(words.delete_lun(target.tid, lun), *busy)
        await self._tell(words.delete_target(target.tid), *busy)

    async def _targets(self) -> tuple[Target, ...]:
        return words.parse_targets(await self._tell(words.show()))

    async def _answers(self) -> bool:
        try:
            await self._tell(words.show())
        except (Silent, Rejected):
            return False
        return True

    async def _in_time(self, work: Callable[[], Awaitable[T]]) -> T | Unknown:
        """`work` in its turn, or *unknown*: what was asked may yet happen."""
        with trio.move_on_after(self._call_s):
            async with self._turn:
                try:
                    return await work()
                except (Silent, Rejected) as problem:
                    return Unknown(str(problem))
        return Unknown(f"tgtd has not done it within {self._call_s:g} s")

    async def _tell(self, request: Request, *harmless: Code) -> str:
        """What it answers; an error counts as nothing if it is `harmless`. Raises `Silent` or `Rejected`."""
        try:
            code, text = await self._ask(request)
        except OSError as problem:
            raise Silent(f"tgtd does not answer: {os.strerror(problem.errno or 0)}") from problem
        except trio.BrokenResourceError as problem:
            raise Silent("tgtd hung up") from problem
        if code != Code.SUCCESS and code not in harmless:
            raise Rejected(request, code)
        return text

    async def _ask(self, request: Request) -> tuple[int, str]:
        async with await trio.open_unix_socket(self._portal.control) as stream:
            await stream.send_all(request.bytes)
            answer = bytearray()
            while len(answer) < words.ANSWER_MAX_BYTES and (part := await stream.receive_some(65536)):
                answer += part
        if len(answer) < words.ANSWER.size:
            raise Silent("tgtd hung up")
        code, size = words.ANSWER.unpack_from(answer)
        if len(answer) != size:
            raise Silent("tgtd said less than it announced")
        return code, answer[words.ANSWER.size :].rstrip(b"\0").decode(errors="replace")


def _is_of(image: Image, epoch: Epoch | None, vid: str, its: Epoch) -> bool:
    return vid == image.vid and epoch in (None, its)


def _rivals(seen: Observed, export: Export) -> bool:
    """One volume has one writer: another epoch of it that is still served."""
    return seen.vid == export.image.vid and seen.epoch != export.epoch and not (seen.readonly and export.image.readonly)


def _unfit(export: Export) -> Refused | None:
    if export.image.format is not ImageFormat.RAW:
        has = f"its image is {export.image.format.value}; iSCSI hands out raw ones alone"
        return refused(export, "not-raw", has, f"electros volume convert {export.image.vid} --format raw")
    if not words.is_speakable(export.image.file):
        return refused(export, "path", "its path has a comma or a character that does not show", "rename its folders")
    return None
