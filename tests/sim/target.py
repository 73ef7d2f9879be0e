"""tgtd as a storage host has it: it outlives storaged, and what was sent to it lands when it lands.

`FakeServer` knows whom it serves, as tgtd does by the contract that both have to keep; here its sessions have writes
under way, which a disk may be slow to take. `Exporter` stands in for `exporting.Iscsi`, `export.serving` and
`export.tgt` on virtual time: what is wanted, who is a rival, what serves an export, are the real objects' answers.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from matcher.wire.messages import Address, ImageFormat, Refused
from matcher.wire.volumes import AttachedVolume, ChapSecret, IscsiTarget
from specs.ids import HostId, Vid
from storaged.attachments import Attachment
from storaged.beneath import Unusable
from storaged.export import description
from storaged.export.description import LUN, Access, Export, Image, Kind, Observed, Unknown
from storaged.export.keeping import HUNG_S, LOOK_S
from storaged.export.serving import CALL_S
from storaged.export.tgt import PORT
from storaged.export.wanted import Wanted
from storaged.exporting import Iscsi
from storaged.keeper import Keeper, NotCut
from storaged.leases.pools import LeasedDisks
from storaged.reaching import image_of
from storaged.volume import Snapshot
from tests.fakes.exporter import FakeExporter, FakeServer
from tests.sim.images import Stamp
from tests.sim.timeline import Process, Timeline

KEY = bytes(range(32))
LANDS_S = (0.0005, 0.02)
SLOW_LANDS_S = (0.1, 6.0)
SLOW = 0.1  # of all writes

WhyNot = Callable[[Export], description.Refused | Unknown | None]
Land = Callable[[Vid, int, Stamp], None]


@dataclass(slots=True, eq=False)
class Write:
    vid: Vid
    block: int
    stamp: Stamp
    due_s: float


class Target(FakeServer):
    """`land` puts a block into an image. A session is a number that no other one had."""

    def __init__(
        self, timeline: Timeline, random: Random, land: Land, ended: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__()
        self._ended = ended
        self.process = Process(timeline)
        self.under_way: list[Write] = []
        self._random, self._land = random, land
        self._sessions_begun = 0

    def login(self, access: Access) -> int | None:
        export = self.serves(access)
        if export is None:
            return None
        self._sessions_begun += 1
        self.sessions.setdefault(export.target, set()).add(self._sessions_begun)
        return self._sessions_begun

    def has_session(self, target: str, session: int | None) -> bool:
        return session in self.sessions.get(target, ())

    def write(self, export: Export, block: int, stamp: Stamp) -> None:
        lands_s = self._random.uniform(*(SLOW_LANDS_S if self._random.random() < SLOW else LANDS_S))
        write = Write(export.image.vid, block, stamp, self.process.now_s + lands_s)
        self.under_way.append(write)
        self.process.after(lands_s, lambda: self.put(write))

    def put(self, write: Write) -> None:
        if write in self.under_way:
            self.under_way.remove(write)
            self._land(write.vid, write.block, write.stamp)

    def stop(self, for_s: float) -> None:
        self.is_frozen = True
        self.process.stop(for_s)
        self.process.after(0.0, self.thaw)

    def thaw(self) -> None:
        self.is_frozen = False

    def die(self) -> None:
        super().die()
        self.under_way.clear()
        self._ended()
        self.is_frozen = False
        self.process.go_on()


class Exporter:
    """One run of storaged's side. It is told the same as `Iscsi` is."""

    def __init__(
        self,
        target: Target,
        snapshot: Callable[[], Snapshot],
        server: HostId,
        ip: str,
        *,
        later: Callable[[float, Callable[[], None]], None],
        may_crash: Callable[[], None],
        why_not: WhyNot,
        pool: str | None,
    ) -> None:
        """`pool`: of several servers, whose leases `why_not` judges."""
        fake: Any = FakeExporter(target)
        self.iscsi = Iscsi(fake, KEY, snapshot, server)
        if pool is not None:
            self.iscsi = LeasedDisks(fake, KEY, snapshot, server, pool)
        self._why_not = why_not if pool is not None else lambda _: None
        self._target, self._snapshot, self._ip = target, snapshot, ip
        self._later, self._may_crash = later, may_crash
        self._wanted = Wanted()
        self._silent_since_s: float | None = None

    def run(self, keeper: Keeper) -> None:
        """As `Iscsi.run`: told what is wanted, then kept up for ever."""
        self._wanted.tell([*self.iscsi.wanted(keeper)])
        self._look()

    def give(self, attachment: Attachment, file: AttachedVolume) -> tuple[AttachedVolume, ChapSecret] | Refused:
        """As `Iscsi.give`."""
        export = self.iscsi.export_of(attachment)
        if (refusal := self._wanted.want(export)) is not None:
            return Refused(refusal.code, refusal.reasons)
        self._may_crash()
        made = self._ensure(export)
        if isinstance(made, Unknown):
            raise Unusable(made.why)
        if made is not None:
            self._wanted.forget(export)
            return Refused(made.code, made.reasons)
        assert export.chap is not None
        target = IscsiTarget(Address(self._ip, PORT), export.target, LUN, export.initiator, export.chap.user)
        return replace(file, path="", iscsi=target), ChapSecret(file.vid, export.chap.secret)

    def cut(self, attachment: Attachment) -> None:
        """As `Iscsi.cut`. Raises `NotCut`."""
        self._may_crash()
        volume = self._snapshot().volumes.get(attachment.vid)
        if volume is None:
            raise NotCut("its volume is not here now")
        image = image_of(volume)
        self._wanted.let_go(image, attachment.epoch)
        if self._target.is_frozen:
            raise NotCut("tgtd does not answer")
        for seen in self._observed(image.vid):
            if seen.epoch == attachment.epoch:
                self._remove(seen)
                self._may_crash()
        if why := self._still_open(image):
            raise NotCut(why)
        self._may_crash()

    def ends(self, image: Image) -> bool:
        """As a cut of whatever epoch, where nobody has the volume."""
        self._wanted.let_go(image, None)
        if self._target.is_frozen:
            return False
        for seen in self._observed(image.vid):
            self._remove(seen)
        return not self._still_open(image)

    def _still_open(self, image: Image) -> str:
        """Waits for what is under way as long as a cut does."""
        mine = [write for write in self._target.under_way if write.vid == image.vid]
        if any(write.due_s > self._target.process.now_s + CALL_S for write in mine):
            return "it is open for writing"
        for write in mine:
            self._target.put(write)
        return "it is open for writing" if any(self._observed(image.vid)) else ""

    def _observed(self, vid: Vid | None = None) -> list[Observed]:
        return [
            Observed(
                export.image.vid,
                export.epoch,
                frozenset({export.initiator}),
                frozenset({export.chap.user} if export.chap else ()),
                export.image.file,
                export.image.readonly,
                len(self._target.sessions.get(name, ())),
            )
            for name, export in self._target.exports.items()
            if vid in (None, export.image.vid)
        ]

    def _remove(self, seen: Observed) -> None:
        self._target.drop(seen.target)

    def _ensure(self, export: Export) -> description.Refused | Unknown | None:
        """As `Serving._ensure` with `Tgt._make`."""
        if self._target.is_frozen or self._target.is_dead:
            return Unknown("tgtd does not answer")
        if export.target not in self._wanted:
            return Unknown("it was cut meanwhile")
        found = self._observed(export.image.vid)
        mine = next((seen for seen in found if seen.target == export.target), None)
        if mine is not None and mine.serves(export):
            return None
        if any(description.rivals(seen, export) for seen in found if seen is not mine):
            return description.refused(export, "another-epoch", "another epoch is still exported", "")
        if (problem := self._why_not(export)) is not None:
            return problem
        self._target.exports[export.target] = export
        return None

    def _look(self) -> None:
        """As `Kept` does, with `Serving._converge`."""
        self._later(LOOK_S, self._look)
        target, now_s = self._target, self._target.process.now_s
        if target.is_dead:
            target.is_dead = False
        if target.is_frozen:
            self._silent_since_s = now_s if self._silent_since_s is None else self._silent_since_s
            if now_s - self._silent_since_s > HUNG_S:
                target.die()
            return
        self._silent_since_s = None
        found = self._observed()
        for seen in self._wanted.too_many(found):
            self._remove(seen)
            self._may_crash()
        for export in self._wanted.missing(found):
            self._ensure(export)
            self._may_crash()


def access_of(volume: AttachedVolume, secret: str) -> Access:
    """As QEMU takes it from the domain's definition."""
    target = volume.iscsi
    assert target is not None
    access = Access(Kind.ISCSI, target.target, ImageFormat.RAW, volume.readonly, target.portal.ip, PORT, target.lun)
    return replace(access, initiator=target.initiator, chap=description.Chap(target.user, secret))
