"""What a sysadmin says about pools: which there are, that several servers serve one from now on, or that none but this
one does any more.

A pool changes hands only while nothing of it is attached, held or being changed, on any server, by their records.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from matcher.net.audit import Audit, outcome_of, why_of
from matcher.net.local import Peer, sysadmin
from matcher.net.peer import now_s
from matcher.offers.ledger import Ledger
from matcher.wire.messages import Message, Reason, Refused
from matcher.wire.realm import Done
from matcher.wire.volumes import AskPools, PoolRow, PoolRows, SharePool
from specs.ids import HostId, Vid
from storaged.beneath import Unusable
from storaged.claims import VolumeShare
from storaged.keeper import Keeper
from storaged.leases.sanlock import Silent
from storaged.pool import PoolId, mark_shared
from storaged.volume import PoolUse, Snapshot, shown

Prepare = Callable[[str, PoolId], Awaitable[None]]


class Looks(Protocol):
    """A `Catalogue`."""

    def snapshot(self) -> Snapshot: ...

    async def scan(self) -> None: ...


log = logging.getLogger("storaged")


class Pooling:
    """One host's. `prepare` makes what servers need to join a pool; `turn` is that of attaching."""

    def __init__(
        self,
        host_id: HostId,
        keeper: Keeper,
        ledger: Ledger[VolumeShare],
        catalogue: Looks,
        doing: Callable[[Vid], str | None],
        turn: trio.Lock,
        audit: Audit,
        prepare: Prepare,
    ) -> None:
        self._host_id, self._keeper, self._ledger = host_id, keeper, ledger
        self._snapshot, self._scan = catalogue.snapshot, catalogue.scan
        self._doing, self._turn, self._audit, self._prepare = doing, turn, audit, prepare

    async def answer(self, question: SharePool | AskPools, peer: Peer) -> Message:
        if isinstance(question, AskPools):
            return self._rows()
        who, what = await sysadmin(peer), f"pool.{'share' if question.shared else 'unshare'}"
        async with self._turn:
            answer = await self._share(question)
        self._audit.note(who, what, question.path, outcome_of(answer), why_of(answer))
        if isinstance(answer, Done):
            log.warning("on a person's word: %s", answer.said)
            await self._scan()
        return answer

    def _rows(self) -> PoolRows:
        return PoolRows(
            tuple(
                PoolRow(
                    shown(use.path),
                    use.pool_id,
                    use.shared,
                    use.volumes,
                    use.withheld[:240],
                    use.promised_mib,
                    use.limit_mib,
                    use.free_mib,
                )
                for use in self._snapshot().pools
            )
        )

    async def _share(self, asked: SharePool) -> Done | Refused:
        await self._scan()  # records that other servers wrote, too
        use = next((use for use in self._snapshot().pools if use.path == asked.path), None)
        if use is None or use.pool_id is None:
            return _no(asked, "no pool of this server lies there now", "storaged pool ls")
        shared = "shared by several servers" if asked.shared else "this server's alone"
        if use.shared == asked.shared:
            return Done(f"{shown(use.path)} is {shared} already")
        if use.withheld and not use.shared:
            return _no(asked, use.withheld, "its own server can share it")
        if (why := self._in_use(use)) is not None:
            return _no(asked, why, "free its volumes first: electros volume ls shows who has them")
        pool_id = PoolId(use.pool_id)
        try:
            if asked.shared:
                await self._prepare(use.path, pool_id)
            await trio.to_thread.run_sync(lambda: mark_shared(use.path, pool_id, self._host_id, shared=asked.shared))
        except (Unusable, Silent) as problem:
            return _no(asked, str(problem), "")
        except OSError as problem:
            return _no(asked, problem.strerror or str(problem), "")
        return Done(f"{shown(use.path)}, pool {pool_id}, is {shared}")

    def _in_use(self, use: PoolUse) -> str | None:
        """Why it can't change hands now. Whoever may only be read counts for nothing."""
        snapshot = self._snapshot()
        found = {vid: volume for vid, volume in snapshot.volumes.items() if volume.pool == use.path}
        found |= {v.vid: v for bad in snapshot.bad.values() if (v := bad.withheld) is not None and v.pool == use.path}
        held = {v.vid for share in self._ledger.residents(now_s()) for v in share.volumes}
        for vid, volume in found.items():
            if self._keeper.is_attached(vid):
                return f"a VM has its volume {vid}"
            if volume.exclusive and volume.right is not None and volume.right.held:
                return f"server {volume.right.server[:16]} has given its volume {vid} to a VM, by its record"
            if (doing := self._doing(vid)) is not None:
                return f"its volume {vid} is being {doing}"
            if vid in held:
                return f"its volume {vid} is held for a VM, for some seconds"
        return None


def _no(asked: SharePool, has: str, hint: str) -> Refused:
    what = "to share it" if asked.shared else "to have it alone"
    return Refused("not-now", (Reason(f"pool {shown(asked.path)}"[:80], what, has[:120], hint[:160]),))
