"""tgtd for a pool that several servers see: it holds the lease of each volume that it serves for writing.

    lease --held by tgtd--> the record's epoch is this export's --> served
      '--tgtd ends--> free, maybe another server's; it serves again only with the lease, and only the record's epoch

Images are opened with O_DIRECT: what another server wrote before is what is read here, and what is acknowledged here is
what that one reads, whatever either has in its page cache.

A tgtd that sanlock does not know is as good as one that does not answer: it is ended, and begun anew. So sanlock's own
end takes tgtd along even where no watchdog does.
"""

import shutil
from dataclasses import replace
from functools import partial

import trio

from matcher.wire import messages
from specs.ids import Vid
from storaged.beneath import Unusable
from storaged.export.description import Export, Image, Observed, Refused, Unknown, refused
from storaged.export.serving import CALL_S
from storaged.export.serving import Silent as NotServing
from storaged.export.tgt import Portal, Tgt
from storaged.export.writers import serves
from storaged.leases.area import Area, ground_of
from storaged.leases.sanlock import Held, Sanlock, Silent
from storaged.leases.takeover import why_not
from storaged.record import read_right_at

HOLD_S = 8.0  # for all that sanlock is asked on the way: a host that attaches waits for 10


class LeasedTgt(Tgt):
    """An `Exporter` for the volumes of one pool, of which this is server number `me`, and has joined."""

    direct = True

    def __init__(self, portal: Portal, area: Area, sanlock: Sanlock, me: int, *, call_s: float = CALL_S) -> None:
        program = shutil.which(portal.program) or f"/usr/sbin/{portal.program}"
        super().__init__(portal, command=sanlock.registered(replace(portal, program=program).command), call_s=call_s)
        self._area, self._sanlock, self._me = area, sanlock, me

    async def hold(self, vid: Vid, *, is_said_dead: bool = False) -> Held | messages.Refused | Unknown:
        """Have the lease, which comes before the volume's record is read or written. `is_said_dead`: a person's word
        about the server that has it. Harmless to repeat."""
        with trio.move_on_after(HOLD_S):
            return await self._held(vid, is_said_dead=is_said_dead)
        return Unknown(f"sanlock has not given it within {HOLD_S:g} s")

    async def _held(self, vid: Vid, *, is_said_dead: bool) -> Held | messages.Refused | Unknown:
        pid = self._kept.pid
        if pid is None:
            return Unknown("tgtd has ended")
        try:
            lease = await self._area.make_lease(vid, self._sanlock)
            seen = await self._sanlock.leader(lease)
            members = await self._looks.at(str(self._area.root), self._area.members)
            ground = await self._looks.at(str(self._area.root), partial(ground_of, self._area.root))
        except (Silent, Unusable, OSError) as problem:
            return Unknown(str(problem))
        refusal = why_not(vid, seen, members, ground, me=self._me, is_said_dead=is_said_dead)
        return refusal or await self._sanlock.acquire(lease, seen, pid)

    @property
    def is_dead(self) -> bool:
        """Whether it is certain that there is no tgtd of this pool."""
        return self._is_dead()

    async def held(self) -> frozenset[Vid] | Unknown:
        """All that it has the lease of, whoever asked for that."""
        pid = self._kept.pid
        try:
            return frozenset() if pid is None else await self._sanlock.held_by(pid, self._area.pool_id)
        except Silent as problem:
            return Unknown(str(problem))

    async def release(self, vid: Vid) -> Unknown | None:
        """Let other servers have it; only after its `cut`, and when its record is written."""
        if self._wanted.has(vid):
            return Unknown(f"volume {vid} is still exported")
        pid = self._kept.pid
        try:
            if pid is not None:
                await self._sanlock.release(self._area.lease(vid), pid)
        except Silent as problem:
            return Unknown(str(problem))
        return None

    async def _make(self, export: Export, found: frozenset[Observed]) -> Refused | None:
        if export.image.readonly:
            return await super()._make(export, found)
        held = await self.hold(export.image.vid)
        if isinstance(held, Unknown):
            raise NotServing(held.why)
        if isinstance(held, messages.Refused):
            return Refused(held.code, held.reasons)
        return await self._outdated(export) or await super()._make(export, found)

    async def _outdated(self, export: Export) -> Refused | None:
        """While nobody here had the lease, another server may have given the volume away. The lease stays, since
        somebody may be about to write the next record: `cut` and `release` let go of it."""
        image = export.image
        try:
            read = partial(read_right_at, image.pool, image.path, image.vid, image.pool_id)
            right = await self._looks.at(image.pool, read)
        except Unusable as problem:
            raise NotServing(str(problem)) from problem
        if right is not None and right.held and right.epoch == export.epoch:
            return None
        has = f"its record says {right.epoch.counter if right else 'nothing'}, not epoch {export.epoch.counter}"
        return refused(export, "another-epoch", has, "another server gave it away meanwhile")

    def _still_open(self, image: Image) -> str:
        """By this server's tgtd. Others have the volume open for as long as they have not noticed that its lease is not
        theirs, and it is that which ends them."""
        pid = self._kept.pid
        try:
            return "its server has it open" if pid is not None and serves(pid, image) else ""
        except FileNotFoundError:
            return ""  # it is gone, and so is whatever is still written into it
        except (Unusable, OSError) as problem:
            return "" if image.readonly else f"the image can't be opened: {problem}"

    async def _answers(self) -> bool:
        pid = self._kept.pid
        try:
            return pid is not None and await self._sanlock.knows(pid) and await super()._answers()
        except Silent:
            return False
