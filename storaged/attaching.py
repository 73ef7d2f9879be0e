"""Attaching volumes to VMs: judged by the user's own signature, not by the word of the host that brings it.

A compute host asks for its own VMs alone: the storaged of its own host over the Unix socket, others over HTTPS. What
the user has signed names that host. A volume on the VM's own host is a file; elsewhere it is exported, in the epoch
that the keeper has just made durable.
"""

import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

import trio

from matcher.net.audit import Audit, named, outcome_of, why_of
from matcher.net.caller import Caller
from matcher.net.intake import Intake
from matcher.net.local import Peer, sysadmin
from matcher.net.peer import now_s, wall_ms
from matcher.offers.ledger import Ledger
from matcher.trust.certificates import Untrusted
from matcher.trust.identity import Identity
from matcher.trust.opening import open_kept, open_sealed
from matcher.trust.principal import Principal
from matcher.wire.codec import BODY_MAX_BYTES, BadBytes
from matcher.wire.envelope import host_audience, unseal
from matcher.wire.framing import frame
from matcher.wire.messages import Message, Reason, Refused, Role
from matcher.wire.realm import Done, Verb
from matcher.wire.volumes import (
    Asked,
    AskVolumesUsed,
    Attach,
    Attached,
    AttachedVolume,
    ChapSecret,
    Detach,
    Detached,
    Forget,
    Forgotten,
    Replies,
    VolumesUsed,
)
from specs.ids import HostId, OfferId, UserId, Vid, VmId, dashed
from storaged.admission import Admission
from storaged.attachments import Attachment
from storaged.beneath import Unusable
from storaged.claims import VolumeShare
from storaged.images.changing import remove
from storaged.journal import JournalCorrupt, JournalError
from storaged.keeper import Keeper, Kept, NotHeld
from storaged.looking import Hangs, Looks
from storaged.quota import Quota
from storaged.volume import Snapshot, Volume
from storaged.wish import Wish, wish_of

AGAIN_HINT = "run it again in a minute: a dead server's lease has to run out"
LOOPBACK = "127.0.0.1"  # from where VMs of this host come

log = logging.getLogger("storaged")


async def _see_later(_: str) -> None:
    """The next scan finds it."""


class Exports(Protocol):
    """How other hosts reach this host's volumes. What raises `Unusable` may have happened or not; asked again, it is
    done."""

    def why_not(self, volume: Volume) -> str | None:
        """Why this volume can't be exported at all; `None` where it can."""
        ...

    def only_exports(self, vid: Vid) -> bool:
        """Whether VMs on this host have the volume by its export as well."""
        ...

    async def give(
        self, attachment: Attachment, file: AttachedVolume, asker: str
    ) -> tuple[AttachedVolume, ChapSecret | None] | Refused:
        """Export the file to the attachment's host, in its epoch; the same again for the same attachment. `asker` is
        the address that the host asks from."""
        ...


class Attaching:
    """What compute hosts ask for, and this host's sysadmin."""

    def __init__(
        self,
        identity: Identity,
        keeper: Keeper,
        ledger: Ledger[VolumeShare],
        snapshot: Callable[[], Snapshot],
        intake: Intake,
        quota: Quota,
        audit: Audit,
        exports: Exports,
        doing: Callable[[Vid], str | None] = lambda _: None,
        look: Callable[[str], Awaitable[None]] = _see_later,
    ) -> None:
        """`doing` tells what a job does to a volume meanwhile. `look` reads the folder at a path again."""
        self._look = look
        self._audit, self._identity, self._keeper, self._snapshot = audit, identity, keeper, snapshot
        self._intake, self._quota, self._exports = intake, quota, exports
        self._looks = Looks()
        self.turn = trio.Lock()  # attach and detach in the order in which they were asked
        self._server = HostId(identity.principal.id)
        self.admission = Admission(self._server, keeper, ledger, snapshot, quota, why_not=exports.why_not, doing=doing)

    async def answer(self, question: Message, peer: Peer) -> Message:
        """To a process on this host: atomd, or a sysadmin's command."""
        match question:
            case Attach(confirm=envelope, without=without):
                return await self.attach(envelope, self._server, without=without)
            case Detach():
                return await self.detach(question, self._server)
            case Asked(pledge=pledge):
                return Replies(frame(self._pledged(pledge)))
            case AskVolumesUsed(user_id=user_id):
                return VolumesUsed(self._quota.use_mib(UserId(user_id)))
            case Forget(vid=vid):
                return await self._forget(Vid(vid), await sysadmin(peer))
        return _refused("bad-request", "question", "not one that storaged answers", "")

    def _pledged(self, envelope: bytes) -> list[bytes]:
        """What came to atomd by HTTPS, which has told already what is wrong with one that can't be read."""
        try:
            return self._intake.receive_relayed(envelope, "", now_s=now_s(), wall_ms=wall_ms())
        except (BadBytes, Untrusted):
            return []

    async def attach(
        self, envelope: bytes, host_id: HostId, address: str = "", without: Collection[str] = ()
    ) -> Attached | Refused:
        """`envelope` is a user's confirm for the compute host `host_id`, which is asking, from `address`, for what the
        confirm claims here `without` these."""
        opened = self._opened_confirm(envelope, host_id, without)
        if isinstance(opened, Refused):
            who = f"a confirm that host {host_id[:16]} brought"
            self._audit.note(who, "volume.attach", "", outcome_of(opened), why_of(opened))
            return opened
        wish, user = opened
        had = self.admission.has(wish, UserId(user.id))
        attached = await self._attach(wish, user, address, had=had)
        if had and isinstance(attached, Attached):
            return attached  # hosts ask again and again whether it is still so
        vids = ", ".join(map(dashed, wish.vids))
        what = f"{vids} to host {host_id[:16]}; generation {wish.generation}"
        detail = f"{what}{'; ' * isinstance(attached, Refused)}{why_of(attached)}"
        who = named(user)
        self._audit.note(who, "volume.attach", dashed(wish.vm_id), outcome_of(attached), detail)
        said = "attached" if isinstance(attached, Attached) else f"refused ({attached.code})"
        log.info("volumes of %s, generation %d: %s", wish.vm_id, wish.generation, said)
        return attached

    async def detach(self, question: Detach, host_id: HostId) -> Detached | Refused:
        """The host's VM has ended, or goes on without some volumes."""
        vm_id, generation, vids = VmId(question.vm_id), question.generation, tuple(map(Vid, question.vids))
        self.admission.let_go(host_id, OfferId(question.offer_id), vids)
        who, what, about = f"host {host_id[:16]}", "volume.detach", dashed(vm_id)
        detail = "; ".join((*map(dashed, vids), f"generation {generation}"))
        try:
            await self._see_pools(vm_id)
            async with self.turn:
                if question.gone:
                    await self._remove_with(vm_id, generation, host_id)
                problems = await trio.to_thread.run_sync(
                    lambda: self._keeper.detach(vm_id, generation, host_id, self._snapshot(), vids)
                )
        except (JournalError, Unusable) as error:
            refusal = _not_done(error)
            self._audit.note(who, what, about, outcome_of(refusal), f"{detail}; {why_of(refusal)}")
            return refusal
        for problem in problems:
            log.warning("%s", problem)
        log.info("volumes of %s, generation %d: detached", vm_id, generation)
        self._audit.note(who, what, about, detail="; ".join((detail, *problems)))
        return Detached()

    async def _see_pools(self, vm_id: VmId | None, vids: Collection[Vid] = ()) -> None:
        """Those of these volumes, and of what the VM has, before anybody else is kept waiting. Raises `Hangs`."""
        snapshot = self._snapshot()
        all_vids = {*vids, *(a.vid for a in self._keeper.state.attachments if a.vm_id == vm_id)}
        one_each = {v.pool: v for v in (snapshot.volumes.get(vid) for vid in all_vids) if v is not None}
        for volume in one_each.values():
            await self._looks.see(volume)

    async def _remove_with(self, vm_id: VmId, generation: int, host_id: HostId) -> None:
        """Before the detach: after a crash on the way, the host asks again, as the attachments still stand."""
        for volume in self._keeper.going_with(vm_id, generation, host_id, self._snapshot()):
            try:
                await trio.to_thread.run_sync(remove, volume)
            except Unusable as problem:  # its owner sees it, and can remove it; the VM must not wait for that
                log.warning("volume %s stays, though its VM is removed: %s", volume.vid, problem)
                continue
            await self._look(volume.path)
            log.info("volume %s is removed with %s", volume.vid, vm_id)
            who, about = f"host {host_id[:16]}", dashed(volume.vid)
            self._audit.note(who, "volume.change", about, detail=f"removed with VM {dashed(vm_id)}")

    # ---- attaching

    async def _attach(self, wish: Wish, user: Principal, address: str, *, had: bool) -> Attached | Refused:
        if (refusal := self.admission.against(wish, user, now_s())) is not None:
            return refusal
        try:
            await self._see_pools(wish.vm_id, wish.vids)
        except Hangs as problem:
            return _not_done(problem)
        async with self.turn:
            if (refusal := self.admission.against_in_turn(wish, user, had=had)) is not None:
                return refusal
            try:
                kept = await trio.to_thread.run_sync(
                    lambda: self._keeper.attach(
                        wish.vids,
                        self._snapshot(),
                        vm_id=wish.vm_id,
                        generation=wish.generation,
                        user_id=UserId(user.id),
                        host_id=wish.host_id,
                        vm_name=wish.name,
                        adds=wish.adds,
                    )
                )
                return kept if isinstance(kept, Refused) else await self._given(kept, wish.host_id, address or LOOPBACK)
            except (JournalError, Unusable) as error:
                return _not_done(error)

    async def _given(self, kept: Kept, host_id: HostId, address: str) -> Attached | Refused:
        """Files for a VM on this host, but for what is exported only; exports for others."""
        given: list[tuple[AttachedVolume, ChapSecret | None]] = []
        for attachment, file in zip(kept.attachments, kept.files, strict=True):
            if host_id == self._server and not self._exports.only_exports(attachment.vid):
                given.append((file, None))
                continue
            export = await self._exports.give(attachment, file, address)
            if isinstance(export, Refused):
                await self._take_back(kept)
                return export
            given.append(export)
        return Attached(tuple(volume for volume, _ in given), tuple(secret for _, secret in given if secret))

    async def _take_back(self, kept: Kept) -> None:
        """What is refused is not attached; but a life that has its volumes already keeps them."""
        if kept.new:
            first = kept.attachments[0]
            await trio.to_thread.run_sync(
                lambda: self._keeper.detach(first.vm_id, first.generation, first.host_id, self._snapshot(), kept.new)
            )

    def _opened_confirm(
        self, envelope: bytes, host_id: HostId, without: Collection[str]
    ) -> tuple[Wish, Principal] | Refused:
        """The user's own words, signed for that host's atomd. Where this life of the VM has these volumes already (its
        host was started again, say), its leaf was judged at the first attach, and may have ended since."""
        try:
            message, user = self._opened(envelope, host_id, is_kept=True)
            wish = wish_of(message)
            if wish is None or not self.admission.has(wish.of(self._server, without), UserId(user.id)):
                message, user = self._opened(envelope, host_id, is_kept=False)
                wish = wish_of(message)
        except (BadBytes, Untrusted) as error:
            return _refused("denied", "confirm", f"not one that a user of this realm signed: {error.reason}", "")
        if wish is None or wish.host_id != host_id:
            return _refused("bad-request", "confirm", "not one for this host", "")
        if not user.may(Verb.RUN):
            return _refused("denied", "confirm", "your grant lets you run nothing", "an admin can change it")
        return wish.of(self._server, without), user

    def _opened(self, envelope: bytes, host_id: HostId, *, is_kept: bool) -> tuple[Message, Principal]:
        identity, audience = self._identity, host_audience(host_id, Role.COMPUTE)
        sealed = unseal(envelope, realm=identity.realm, max_bytes=BODY_MAX_BYTES, is_kept=is_kept)
        if is_kept:
            return open_kept(sealed, identity, audience=audience, signer="user", max_bytes=BODY_MAX_BYTES)
        wall_s = wall_ms() / 1000
        return open_sealed(sealed, identity, audience=audience, signer="user", wall_s=wall_s, max_bytes=BODY_MAX_BYTES)

    # ---- a person's word

    async def free(self, vid: Vid, caller: Caller, *, is_said_dead: bool = False) -> Done | Refused:
        """The volume's owner takes it from whoever has it. `is_said_dead`: their word about the server that has its
        lease, where several serve it."""
        freed = await self._forget(vid, caller, is_said_dead=is_said_dead)
        return freed if isinstance(freed, Refused) else Done(freed.said)

    async def _forget(self, vid: Vid, who: str | Caller, *, is_said_dead: bool = False) -> Forgotten | Refused:
        about = dashed(vid)
        word = "whoever has it is said to be dead: " if is_said_dead else ""
        try:
            await self._see_pools(None, (vid,))
            async with self.turn:
                said = await trio.to_thread.run_sync(
                    lambda: self._keeper.forget(vid, self._snapshot(), is_said_dead=is_said_dead)
                )
        except (JournalError, Unusable) as error:
            if isinstance(error, JournalError):
                refusal = _not_done(error)
            elif isinstance(error, NotHeld) and error.refused is not None:
                refusal = error.refused
            else:
                hint = AGAIN_HINT if isinstance(error, NotHeld) else ""
                refusal = _refused("not-now", f"volume {vid}", str(error), hint)
            self._audit.note(who, "volume.forget", about, outcome_of(refusal), f"{word}{why_of(refusal)}")
            return refusal
        self._audit.note(who, "volume.forget", about, detail=f"{word}{said}")
        log.warning("on a person's word: %s%s", word, said)
        return Forgotten(said[:240])


def _not_done(error: Exception) -> Refused:
    """It may be done in part; the same request again goes on. A damaged journal ends the daemon."""
    if isinstance(error, JournalCorrupt):
        raise error
    if isinstance(error, JournalError):
        return _refused("journal", "volumes", str(error), "free space on the host's disk")
    hint = "ask again; its sysadmin may have to look: journalctl -u storaged"
    return _refused("unavailable", "volumes", str(error), hint)


def _refused(code: str, resource: str, has: str, hint: str) -> Refused:
    return Refused(code, (Reason(resource[:80], "to use it", has[:120], hint[:160]),))
