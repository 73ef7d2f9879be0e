"""Attaching volumes to VMs: judged by the user's own signature, not by the word of the host that brings it.

A compute host asks for its own VMs alone: the storaged of its own host over the Unix socket, others over HTTPS. What
the user has signed names that host. A volume on the VM's own host is a file; elsewhere it is exported, in the epoch
that the keeper has just made durable.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from matcher.net.audit import Audit, named, outcome_of, why_of
from matcher.net.caller import Caller
from matcher.net.intake import Intake
from matcher.net.local import Peer, sysadmin
from matcher.net.peer import now_s, wall_ms
from matcher.offers.ledger import Ledger, Refusal
from matcher.trust.certificates import Untrusted
from matcher.trust.identity import Identity
from matcher.trust.opening import open_kept, open_sealed
from matcher.trust.principal import Principal
from matcher.wire.codec import BODY_MAX_BYTES, BadBytes
from matcher.wire.envelope import host_audience, unseal
from matcher.wire.framing import frame
from matcher.wire.messages import REASONS_MAX, Confirm, Message, Reason, Refused, Role, VolumeClaim
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
from storaged.attachments import Attachment
from storaged.attachments import Refusal as No
from storaged.beneath import Unusable
from storaged.claims import VolumeShare, shared
from storaged.fit import in_use_reason, reason
from storaged.journal import JournalCorrupt, JournalError
from storaged.keeper import Keeper, Kept
from storaged.quota import Quota
from storaged.volume import Snapshot, Volume

LET_GO_MAX = 4096  # offers; one lives 10 s, so that forgetting the oldest is harmless

log = logging.getLogger("storaged")


class Exports(Protocol):
    """How other hosts reach this host's volumes. What raises `Unusable` may have happened or not; asked again, it is
    done."""

    def why_not(self, volume: Volume) -> str | None:
        """Why this volume can't be exported at all; `None` where it can."""
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
    ) -> None:
        """`doing` tells what a job does to a volume meanwhile."""
        self._audit = audit
        self._doing = doing
        self._identity, self._keeper, self._ledger, self._snapshot = identity, keeper, ledger, snapshot
        self._intake, self._quota, self._exports = intake, quota, exports
        self.turn = trio.Lock()  # attach and detach in the order in which they were asked
        self._let_go: dict[tuple[HostId, OfferId], None] = {}  # a confirm served after its detach must not attach
        self._server = HostId(identity.principal.id)

    async def answer(self, question: Message, peer: Peer) -> Message:
        """To a process on this host: atomd, or a sysadmin's command."""
        match question:
            case Attach(confirm=envelope):
                return await self.attach(envelope, self._server)
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
        """atomd has told its user already what is wrong with one that can't be read."""
        try:
            return self._intake.receive_body(envelope, now_s=now_s(), wall_ms=wall_ms())
        except (BadBytes, Untrusted):
            return []

    async def attach(self, envelope: bytes, host_id: HostId, address: str = "") -> Attached | Refused:
        """`envelope` is a user's confirm for the compute host `host_id`, which is asking, from `address`."""
        opened = self._confirm(envelope, host_id)
        if isinstance(opened, Refused):
            who = f"a confirm that host {host_id[:16]} brought"
            self._audit.note(who, "volume.attach", "", outcome_of(opened), why_of(opened))
            return opened
        confirm, user = opened
        had = self._has(confirm, UserId(user.id))
        attached = await self._attach(confirm, user, address)
        if had and isinstance(attached, Attached):
            return attached  # hosts ask again and again whether it is still so
        vids = ", ".join(dashed(claim.vid) for claim in self._claims(confirm))
        what = f"{vids} to host {host_id[:16]}; generation {confirm.generation}"
        detail = f"{what}{'; ' * isinstance(attached, Refused)}{why_of(attached)}"
        who = named(user)
        self._audit.note(who, "volume.attach", dashed(confirm.vm_id), outcome_of(attached), detail)
        said = "attached" if isinstance(attached, Attached) else f"refused ({attached.code})"
        log.info("volumes of %s, generation %d: %s", confirm.vm_id, confirm.generation, said)
        return attached

    async def detach(self, question: Detach, host_id: HostId) -> Detached | Refused:
        """The host's VM has ended."""
        vm_id, generation = VmId(question.vm_id), question.generation
        while len(self._let_go) >= LET_GO_MAX:
            del self._let_go[next(iter(self._let_go))]
        self._let_go[host_id, OfferId(question.offer_id)] = None
        who, what, about = f"host {host_id[:16]}", "volume.detach", dashed(vm_id)
        detail = f"generation {generation}"
        try:
            async with self.turn:
                problems = await trio.to_thread.run_sync(
                    lambda: self._keeper.detach(vm_id, generation, host_id, self._snapshot())
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

    # ---- attaching

    async def _attach(self, confirm: Confirm, user: Principal, address: str) -> Attached | Refused:
        user_id, host_id = UserId(user.id), HostId(confirm.host_id)
        claims = self._claims(confirm)
        vids = tuple(Vid(claim.vid) for claim in claims)
        refusal = self._out_of_reach(claims, host_id) or self._take_hold(confirm, claims, user_id)
        if refusal is not None:
            return refusal
        async with self.turn:
            if (host_id, OfferId(confirm.offer_id)) in self._let_go:
                return _refused("let-go", "volumes", "this confirm was let go of meanwhile", "run it again")
            if (busy := self._changing(vids)) is not None:
                return busy
            if over := self._over(confirm, vids, user):
                return Refused(Refusal.OVER_GRANT, over)
            try:
                kept = await trio.to_thread.run_sync(
                    lambda: self._keeper.attach(
                        vids,
                        self._snapshot(),
                        vm_id=VmId(confirm.vm_id),
                        generation=confirm.generation,
                        user_id=user_id,
                        host_id=host_id,
                        vm_name=confirm.name,
                    )
                )
                return kept if isinstance(kept, Refused) else await self._given(kept, host_id, address)
            except (JournalError, Unusable) as error:
                return _not_done(error)

    async def _given(self, kept: Kept, host_id: HostId, address: str) -> Attached | Refused:
        """Files for a VM on this host; exports for others."""
        if host_id == self._server:
            return Attached(kept.files)
        given: list[tuple[AttachedVolume, ChapSecret | None]] = []
        for attachment, file in zip(kept.attachments, kept.files, strict=True):
            export = await self._exports.give(attachment, file, address)
            if isinstance(export, Refused):
                await self._take_back(kept)
                return export
            given.append(export)
        return Attached(tuple(volume for volume, _ in given), tuple(secret for _, secret in given if secret))

    async def _take_back(self, kept: Kept) -> None:
        """What is refused is not attached; but a life that has its volumes already keeps them."""
        if kept.is_new:
            first = kept.attachments[0]
            await trio.to_thread.run_sync(
                lambda: self._keeper.detach(first.vm_id, first.generation, first.host_id, self._snapshot())
            )

    def _claims(self, confirm: Confirm) -> tuple[VolumeClaim, ...]:
        """Those of the confirm's volumes that are claimed from this server."""
        return tuple(claim for claim in confirm.volumes if claim.server == self._server)

    def _out_of_reach(self, claims: Sequence[VolumeClaim], host_id: HostId) -> Refused | None:
        if not claims:
            return _refused("not-here", "volumes", "none of them is claimed from this host", "run it again")
        if host_id == self._server:
            return None
        volumes = self._snapshot().volumes
        found = [volumes[vid] for claim in claims if (vid := Vid(claim.vid)) in volumes]
        why_not = [reason(volume.vid, why) for volume in found if (why := self._exports.why_not(volume)) is not None]
        return Refused("not-reachable", tuple(why_not[:REASONS_MAX])) if why_not else None

    def _changing(self, vids: Sequence[Vid]) -> Refused | None:
        found = [reason(vid, f"it is being {doing}", "wait") for vid in vids if (doing := self._doing(vid)) is not None]
        return Refused("busy", tuple(found[:REASONS_MAX])) if found else None

    def _confirm(self, envelope: bytes, host_id: HostId) -> tuple[Confirm, Principal] | Refused:
        """The user's own words, signed for that host's atomd. Where this life of the VM has these volumes already (its
        host was started again, say), its leaf was judged at the first attach, and may have ended since."""
        try:
            message, user = self._opened(envelope, host_id, is_kept=True)
            if not (isinstance(message, Confirm) and self._has(message, UserId(user.id))):
                message, user = self._opened(envelope, host_id, is_kept=False)
        except (BadBytes, Untrusted) as error:
            return _refused("denied", "confirm", f"not one that a user of this realm signed: {error.reason}", "")
        if not isinstance(message, Confirm) or message.host_id != host_id:
            return _refused("bad-request", "confirm", "not one for this host", "")
        if not user.may(Verb.RUN):
            return _refused("denied", "confirm", "your grant lets you run nothing", "an admin can change it")
        return message, user

    def _opened(self, envelope: bytes, host_id: HostId, *, is_kept: bool) -> tuple[Message, Principal]:
        identity, audience = self._identity, host_audience(host_id, Role.COMPUTE)
        sealed = unseal(envelope, realm=identity.realm, max_bytes=BODY_MAX_BYTES, is_kept=is_kept)
        if is_kept:
            return open_kept(sealed, identity, audience=audience, signer="user", max_bytes=BODY_MAX_BYTES)
        wall_s = wall_ms() / 1000
        return open_sealed(sealed, identity, audience=audience, signer="user", wall_s=wall_s, max_bytes=BODY_MAX_BYTES)

    def _has(self, confirm: Confirm, user_id: UserId) -> bool:
        vids = [Vid(claim.vid) for claim in self._claims(confirm)]
        return self._keeper.has(VmId(confirm.vm_id), confirm.generation, user_id, vids)

    def _over(self, confirm: Confirm, vids: Sequence[Vid], user: Principal) -> tuple[Reason, ...]:
        """Judged again, as the grant may be smaller by now; other holds do not count, as they may lapse."""
        found = [self._snapshot().volumes.get(vid) for vid in vids]
        volumes = tuple(shared(volume) for volume in found if volume is not None)
        claim = VolumeShare(VmId(confirm.vm_id), confirm.generation, UserId(user.id), volumes)
        return self._quota.against(claim, user, ())

    def _take_hold(self, confirm: Confirm, claims: Sequence[VolumeClaim], user_id: UserId) -> Refused | None:
        """The offer's hold becomes the attachment. Without one (it lapsed, or this host has restarted since) a VM here
        may still have the volumes, if nobody else's hold is on them. One on another host may not: that host could
        bring old words of a user for as long as it lives."""
        held = [offer_id for claim in claims if self._holds(offer_id := OfferId(claim.offer_id), confirm, user_id)]
        for offer_id in held:
            self._ledger.release(offer_id)
        if not held and confirm.host_id != self._server and not self._has(confirm, user_id):
            return self._not_held(confirm, claims, user_id)
        vids = {claim.vid for claim in claims}
        for other in self._ledger.residents(now_s()):
            is_own = (other.vm_id, other.user_id) == (confirm.vm_id, user_id)
            if not is_own and any(v.exclusive and v.vid in vids for v in other.volumes):
                return _refused("hold-lapsed", "volumes", "held for another VM meanwhile", "run it again")
        return None

    def _not_held(self, confirm: Confirm, claims: Sequence[VolumeClaim], user_id: UserId) -> Refused:
        """And who has the volumes instead, if anybody: the VM's host may ask for a VM that runs."""
        claim = VolumeShare(VmId(confirm.vm_id), confirm.generation, user_id, ())
        having = {volume.vid: share for share in self._keeper.shares() for volume in share.volumes}
        reasons = [
            in_use_reason(vid, having[vid], claim)
            if (vid := Vid(each.vid)) in having
            else reason(vid, "not held for this VM any more", "run it again")
            for each in claims
        ]
        return Refused(No.NOT_HELD.value, tuple(reasons[:REASONS_MAX]))

    def _holds(self, offer_id: OfferId, confirm: Confirm, user_id: UserId) -> bool:
        hold = self._ledger.held(offer_id, now_s())
        return hold is not None and hold.user_id == user_id and hold.claim.vm_id == confirm.vm_id

    # ---- a person's word

    async def free(self, vid: Vid, caller: Caller) -> Done | Refused:
        """The volume's owner takes it from whoever has it."""
        freed = await self._forget(vid, caller)
        return freed if isinstance(freed, Refused) else Done(freed.said)

    async def _forget(self, vid: Vid, who: str | Caller) -> Forgotten | Refused:
        about = dashed(vid)
        try:
            async with self.turn:
                said = await trio.to_thread.run_sync(lambda: self._keeper.forget(vid, self._snapshot()))
        except (JournalError, Unusable) as error:
            refusal = (
                _not_done(error)
                if isinstance(error, JournalError)
                else _refused("not-now", f"volume {vid}", str(error), "")
            )
            self._audit.note(who, "volume.forget", about, outcome_of(refusal), why_of(refusal))
            return refusal
        self._audit.note(who, "volume.forget", about, detail=said)
        log.warning("on a person's word: %s", said)
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
