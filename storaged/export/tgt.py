"""Volumes by iSCSI, served by tgtd: a target for each export, its door opened last and shut first.

    (none) --target, LUN, account--> dark --initiator bound--> served --unbound, sessions ended--> dark --> (none)

A target without an initiator lets nobody in, so that what is half made, or half cut, serves nobody. tgtd takes either
an initiator's name or its address for enough, never both: it is given the name, and the secret does the rest. It has no
lock on an image; that a cut one is closed is asked of the kernel (`writers`).

An image is opened by tgtd, by its path; before anybody may log in, it is seen that what tgtd opened is what lies
beneath the pool. Raw images only: it hands out a file's bytes, and a qcow2 image would have to grow under it.
"""

import os
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from random import Random, SystemRandom

import trio

from matcher.wire.messages import ImageFormat
from specs.ids import Vid
from storaged.beneath import Unusable
from storaged.export import tgt_words as words
from storaged.export.child import Command
from storaged.export.description import LUN, Access, Export, Image, Kind, Observed, Refused, refused, rivals
from storaged.export.keeping import Kept
from storaged.export.serving import AGAIN_S, CALL_S, Rejected, Serving, Silent
from storaged.export.tgt_words import Code, Request, Target
from storaged.export.writers import Writers, serves, writers_of
from storaged.looking import Hangs

TID_MAX = 2**31 - 1
PORT = 7768  # beside a tgtd of the machine's own, which has 3260


@dataclass(frozen=True, slots=True)
class Portal:
    """Where tgtd listens, and what of it is ours alone: `folder` holds its control socket, its lock and its log."""

    address: IPv4Address | IPv6Address
    folder: Path
    port: int = PORT
    threads: int = 4  # for each LUN
    program: str = "tgtd"
    more: tuple[IPv4Address | IPv6Address, ...] = ()  # where it listens as well, on the same port

    @property
    def command(self) -> Command:
        portals = (f"portal={_host(address)}:{self.port}" for address in (self.address, *self.more))
        return Command(
            (self.program, "-f", "-t", str(self.threads), "--iscsi", ",".join(portals)),
            mark=self.folder / "tgtd.0.lock",
            log=self.folder / "tgtd.log",
            environment={"TGT_IPC_SOCKET": str(self.folder / "tgtd")},
        )

    @property
    def control(self) -> Path:
        return self.folder / "tgtd.0"


def _host(address: IPv4Address | IPv6Address) -> str:
    return f"[{address}]" if address.version == 6 else str(address)


class Tgt(Serving):
    """An `Exporter`. `direct`: past this machine's page cache."""

    kind = Kind.ISCSI
    direct = False

    def __init__(
        self, portal: Portal, *, command: Command | None = None, random: Random | None = None, call_s: float = CALL_S
    ) -> None:
        """`command`: how it is started, where not by itself."""
        super().__init__(call_s)
        self._portal, self._random = portal, random or SystemRandom()
        self._kept = Kept("tgtd", command or portal.command, self._answers, self._converge)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self._portal.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._kept.run(task_status=task_status)

    def _unfit(self, export: Export) -> Refused | None:
        assert export.kind is Kind.ISCSI
        assert export.chap is not None, "whoever knows an initiator's name could log in"
        if export.image.format is not ImageFormat.RAW:
            has = f"its image is {export.image.format.value}; iSCSI hands out raw ones alone"
            return refused(export, "not-raw", has, f"electros volume convert {export.image.vid} --format raw")
        if not words.is_speakable(export.image.file):
            has = "its path has a comma or a character that does not show"
            return refused(export, "path", has, "rename the folders above it")
        return None

    async def _look(self, vid: Vid | None = None) -> frozenset[Observed]:
        ours = (target.seen for target in await self._targets() if target.seen is not None)
        return frozenset(seen for seen in ours if vid in (None, seen.vid))

    async def _make(self, export: Export, found: frozenset[Observed]) -> Refused | None:
        rival = next((seen for seen in found if rivals(seen, export)), None)
        if rival is not None:
            has = f"epoch {rival.epoch.counter} is still exported"
            return refused(export, "another-epoch", has, "that has to be cut first")
        try:
            return await self._open(export)
        except Rejected as problem:
            await self._remove(export.target)
            return refused(export, "not-served", str(problem), "its sysadmin finds more in tgtd's log")

    async def _open(self, export: Export) -> Refused | None:
        assert export.chap is not None
        tid = self._random.randint(1, TID_MAX)  # never one that a request still under way may mean
        await self._tell(words.new_target(tid, export.target))
        await self._tell(words.new_lun(tid, export.image.file, direct=self.direct))
        await self._tell(words.describe_lun(tid, export.image.vid, readonly=export.image.readonly))
        if not await self._is_right(export.image):
            await self._remove(export.target)
            return refused(export, "image-changed", "its image was replaced meanwhile", "try again")
        await self._tell(words.delete_account(export.chap.user), Code.NO_USER)
        await self._tell(words.new_account(export.chap))
        await self._tell(words.bind_account(tid, export.chap.user))
        await self._tell(words.bind_initiator(tid, export.initiator))
        return None

    async def _is_right(self, image: Image) -> bool:
        pid = self._kept.pid
        if pid is None:
            raise Silent("tgtd has ended")
        try:
            return await self._looks.at(image.pool, partial(serves, pid, image))
        except Hangs as problem:
            raise Silent(str(problem)) from problem
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

    def _is_dead(self) -> bool:
        return self._kept.pid is None

    def _still_open(self, image: Image) -> str:
        """Nobody can write what was never writable, and who is dead has nothing open."""
        pid = self._kept.pid
        answer, why = writers_of(image, pid)
        if image.readonly or answer is Writers.NONE or (answer is Writers.UNKNOWN and pid is None):
            return ""
        return why

    async def _remove(self, name: str) -> None:
        """Each round does what can be done: sessions end when they do."""
        is_again = False
        while (target := next((t for t in await self._targets() if t.name == name), None)) is not None:
            if is_again:
                await trio.sleep(AGAIN_S)
            await self._dismantle(target)
            is_again = True

    async def _dismantle(self, target: Target) -> None:
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

    async def _tell(self, request: Request, *harmless: Code) -> str:
        """What it answers; an error counts as nothing if it is `harmless`. Raises `Silent` or `Rejected`."""
        try:
            code, text = await self._ask(request)
        except OSError as problem:
            raise Silent(f"tgtd does not answer: {os.strerror(problem.errno or 0)}") from problem
        except trio.BrokenResourceError as problem:
            raise Silent("tgtd hung up") from problem
        if code != Code.SUCCESS and code not in harmless:
            raise Rejected(f"tgtd refuses {request.about} (error {code})")
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
