"""A storage host's answers: to pledges and queries from the link, and to the atomd of its own host."""

import logging
from collections.abc import Callable, Sequence

import trio

from matcher.net.audit import Audit, named, outcome_of, why_of
from matcher.net.intake import Intake
from matcher.net.local import Peer, sysadmin
from matcher.net.peer import now_s, wall_ms
from matcher.offers.ledger import Ledger, Refusal, User
from matcher.offers.offering import Nothing, Offering, Proposal
from matcher.trust.certificates import Untrusted
from matcher.trust.identity import Identity
from matcher.trust.opening import open_kept, open_sealed
from matcher.trust.principal import Principal
from matcher.wire.codec import BODY_MAX_BYTES, BadBytes
from matcher.wire.envelope import Kind, Sealed, host_audience, unseal
from matcher.wire.framing import frame
from matcher.wire.messages import (
    Answer,
    Asked,
    Attach,
    Attached,
    Confirm,
    Detach,
    Detached,
    Forget,
    Forgotten,
    Message,
    Pledge,
    Query,
    Reason,
    Refused,
    Replies,
    Reveal,
    Role,
    Unfit,
    VmOffer,
    VolumeOffer,
)
from matcher.wire.realm import Verb
from specs.ids import HostId, OfferId, UserId, Vid, VmId, dashed
from storaged.beneath import Unusable
from storaged.claims import VolumeShare, admits, shared
from storaged.fit import offer_volumes
from storaged.journal import JournalCorrupt, JournalError
from storaged.keeper import Keeper
from storaged.quota import Quota
from storaged.volume import Snapshot

VERSION = "0.1.0"
NO_VOLUMES = b"\xa7volumes\x90"  # in msgpack: the field, and an empty array; no text of a pledge can hold these bytes

LET_GO_MAX = 4096  # offers; one lives 10 s, so that forgetting the oldest is harmless

log = logging.getLogger("storaged")


class Proposer:
    """What this host could give of a pledge's volumes, beside those that are attached already."""

    def __init__(
        self, host: str, host_id: HostId, keeper: Keeper, snapshot: Callable[[], Snapshot], quota: Quota
    ) -> None:
        self._host, self._host_id, self._keeper, self._snapshot = host, host_id, keeper, snapshot
        self._quota = quota

    def propose(self, pledge: Pledge, user: User, residents: Sequence[VolumeShare]) -> Proposal[VolumeShare] | Nothing:
        everybody = (*self._keeper.shares(), *residents)
        fit = offer_volumes(pledge, self._snapshot(), everybody, user_id=UserId(user.id), host_id=self._host_id)
        if fit.share is None:
            return Nothing(fit.reasons, aloud=True)
        if over := self._quota.against(fit.share, user, residents):
            return Nothing((*over, *fit.reasons), aloud=True)
        return Proposal(fit.share, VolumeOffer(pledge.pledge_id, "", self._host, 0, 0, fit.offered), fit.reasons)


class StorageAnswers:
    """`Intake`'s counterpart on a storage host."""

    def __init__(
        self,
        host: str,
        offering: Offering[VolumeShare],
        snapshot: Callable[[], Snapshot],
        missed: Callable[[], None],
        realm: Callable[[], str],
    ) -> None:
        self._host, self._offering, self._snapshot, self._missed = host, offering, snapshot, missed
        self._realm = realm

    def pledge(self, pledge: Pledge, user: Principal, now_s: float) -> Sequence[VmOffer | VolumeOffer | Unfit]:
        if not self._knows(pledge.volumes):
            self._missed()
        return self._offering.pledge(pledge, user, now_s) if pledge.volumes else ()

    def _knows(self, vids: Sequence[str]) -> bool:
        snapshot = self._snapshot()
        return all(vid in snapshot.volumes or vid in snapshot.bad or vid in snapshot.conflicts for vid in vids)

    def reveal(self, reveal: Reveal, now_s: float) -> None:
        self._offering.reveal(reveal, now_s)

    def query(self, query: Query, user: Principal) -> Answer:
        visible = [v for v in self._snapshot().volumes.values() if v.visible_to(UserId(user.id))]
        return Answer(
            query_id=query.query_id,
            host=self._host,
            role=Role.STORAGE,
            front_door_port=0,
            hosts_known=self._offering.hosts_known,
            version=VERSION,
            vms_matching=0,
            cpu_model="",
            arch="",
            accelerator="",
            threads_total=0,
            threads_free=0,
            ram_total_mib=0,
            ram_free_mib=0,
            vms=0,
            volumes=len(visible),
            realm=self._realm(),
        )


def asks_nothing(sealed: Sealed) -> bool:
    """A pledge that names no volumes: most do not, and each host would verify what only its atomd has to judge."""
    return sealed.kind is Kind.PLEDGE and NO_VOLUMES in sealed.payload


class Attaching:
    """What the atomd of this host asks for: judged by the user's own signature, not by atomd's word."""

    def __init__(
        self,
        identity: Identity,
        keeper: Keeper,
        ledger: Ledger[VolumeShare],
        snapshot: Callable[[], Snapshot],
        intake: Intake,
        quota: Quota,
        audit: Audit,
    ) -> None:
        self._audit = audit
        self._identity, self._keeper, self._ledger, self._snapshot = identity, keeper, ledger, snapshot
        self._intake, self._quota = intake, quota
        self._turn = trio.Lock()  # attach and detach in the order in which they were asked
        self._let_go: dict[OfferId, None] = {}  # a confirm that is served after its detach must not attach
        self._host_id = HostId(identity.principal.id)

    async def answer(self, question: Message, peer: Peer) -> Message:
        try:
            match question:
                case Attach(confirm=envelope):
                    return await self._attach(envelope)
                case Detach():
                    return await self._detach(question)
                case Asked(pledge=pledge):
                    return Replies(frame(self._pledged(pledge)))
                case Forget(vid=vid):
                    return await self._forget(Vid(vid), await sysadmin(peer))
        except JournalCorrupt:
            raise
        except JournalError as error:
            refusal = _refused("journal", "volumes", str(error), "free space on the host's disk")
            what = f"volume.{type(question).__name__.lower()}"
            self._audit.note("atomd", what, "", outcome_of(refusal), why_of(refusal))
            return refusal
        return _refused("bad-request", "question", "not one that storaged answers", "")

    def _pledged(self, envelope: bytes) -> list[bytes]:
        """atomd has told its user already what is wrong with one that can't be read."""
        try:
            return self._intake.receive_body(envelope, now_s=now_s(), wall_ms=wall_ms())
        except (BadBytes, Untrusted):
            return []

    async def _attach(self, envelope: bytes) -> Attached | Refused:
        opened = self._confirm(envelope)
        if isinstance(opened, Refused):
            self._audit.note("a confirm that atomd brought", "volume.attach", "", outcome_of(opened), why_of(opened))
            return opened
        confirm, user = opened
        attached = await self._attach_for(confirm, user)
        vids = ", ".join(dashed(claim.vid) for claim in confirm.volumes)
        detail = f"{vids}; generation {confirm.generation}{'; ' * isinstance(attached, Refused)}{why_of(attached)}"
        who = named(user)
        self._audit.note(who, "volume.attach", dashed(confirm.vm_id), outcome_of(attached), detail)
        return attached

    async def _attach_for(self, confirm: Confirm, user: Principal) -> Attached | Refused:
        user_id = UserId(user.id)
        away = next((claim for claim in confirm.volumes if claim.server != self._host_id), None)
        if away is not None:
            hint = "a VM runs where its volumes are, for now"
            return _refused("not-here", f"volume {away.vid}", "not reachable from this host", hint)
        refusal = self._take_hold(confirm, user_id)
        if refusal is not None:
            return refusal
        async with self._turn:
            if OfferId(confirm.offer_id) in self._let_go:
                return _refused("let-go", "volumes", "this confirm was let go of meanwhile", "run it again")
            if over := self._over(confirm, user):
                return Refused(Refusal.OVER_GRANT, over)
            attached = await trio.to_thread.run_sync(
                lambda: self._keeper.attach(
                    [Vid(claim.vid) for claim in confirm.volumes],
                    self._snapshot(),
                    vm_id=VmId(confirm.vm_id),
                    generation=confirm.generation,
                    user_id=user_id,
                    vm_name=confirm.name,
                )
            )
        what = "attached" if isinstance(attached, Attached) else f"refused ({attached.code})"
        log.info("volumes of %s, generation %d: %s", confirm.vm_id, confirm.generation, what)
        return attached

    async def _detach(self, question: Detach) -> Detached:
        vm_id, generation = VmId(question.vm_id), question.generation
        while len(self._let_go) >= LET_GO_MAX:
            del self._let_go[next(iter(self._let_go))]
        self._let_go[OfferId(question.offer_id)] = None
        async with self._turn:
            problems = await trio.to_thread.run_sync(lambda: self._keeper.detach(vm_id, generation, self._snapshot()))
        for problem in problems:
            log.warning("%s", problem)
        log.info("volumes of %s, generation %d: detached", vm_id, generation)
        detail = "; ".join((f"generation {generation}", *problems))
        self._audit.note("atomd", "volume.detach", dashed(vm_id), detail=detail)
        return Detached()

    async def _forget(self, vid: Vid, who: str) -> Forgotten | Refused:
        about = dashed(vid)
        try:
            said = await trio.to_thread.run_sync(lambda: self._keeper.forget(vid, self._snapshot()))
        except Unusable as error:
            refusal = _refused("not-now", f"volume {vid}", str(error), "")
            self._audit.note(who, "volume.forget", about, outcome_of(refusal), why_of(refusal))
            return refusal
        self._audit.note(who, "volume.forget", about, detail=said)
        log.warning("on a sysadmin's word: %s", said)
        return Forgotten(said[:240])

    def _confirm(self, envelope: bytes) -> tuple[Confirm, Principal] | Refused:
        """The user's own words, signed for this host's atomd. Where this life of the VM has these volumes already (its
        host was started again, say), its leaf was judged at the first attach, and may have ended since."""
        try:
            message, user = self._opened(envelope, is_kept=True)
            if not (isinstance(message, Confirm) and self._has(message, user)):
                message, user = self._opened(envelope, is_kept=False)
        except (BadBytes, Untrusted) as error:
            return _refused("denied", "confirm", f"not one that a user of this realm signed: {error.reason}", "")
        if not isinstance(message, Confirm) or message.host_id != self._host_id:
            return _refused("bad-request", "confirm", "not one for this host", "")
        if not user.may(Verb.RUN):
            return _refused("denied", "confirm", "your grant lets you run nothing", "an admin can change it")
        return message, user

    def _opened(self, envelope: bytes, *, is_kept: bool) -> tuple[Message, Principal]:
        identity, audience = self._identity, host_audience(self._host_id, Role.COMPUTE)
        sealed = unseal(envelope, realm=identity.realm, max_bytes=BODY_MAX_BYTES, is_kept=is_kept)
        if is_kept:
            return open_kept(sealed, identity, audience=audience, signer="user", max_bytes=BODY_MAX_BYTES)
        wall_s = wall_ms() / 1000
        return open_sealed(sealed, identity, audience=audience, signer="user", wall_s=wall_s, max_bytes=BODY_MAX_BYTES)

    def _has(self, confirm: Confirm, user: Principal) -> bool:
        vids = [Vid(claim.vid) for claim in confirm.volumes]
        return self._keeper.has(VmId(confirm.vm_id), confirm.generation, UserId(user.id), vids)

    def _over(self, confirm: Confirm, user: Principal) -> tuple[Reason, ...]:
        """Judged again, as the grant may be smaller by now; other holds do not count, as they may lapse."""
        found = [self._snapshot().volumes.get(Vid(claim.vid)) for claim in confirm.volumes]
        volumes = tuple(shared(volume) for volume in found if volume is not None)
        claim = VolumeShare(VmId(confirm.vm_id), confirm.generation, UserId(user.id), volumes)
        return self._quota.against(claim, user, ())

    def _take_hold(self, confirm: Confirm, user_id: UserId) -> Refused | None:
        """The offer's hold becomes the attachment. Without one (it lapsed, or the host has restarted since) the
        volumes may still be had, if nobody else's hold is on them."""
        for offer_id in {OfferId(claim.offer_id) for claim in confirm.volumes}:
            hold = self._ledger.held(offer_id, now_s())
            if hold is not None and hold.user_id == user_id and hold.claim.vm_id == confirm.vm_id:
                self._ledger.release(offer_id)
        vids = {claim.vid for claim in confirm.volumes}
        for other in self._ledger.residents(now_s()):
            is_own = (other.vm_id, other.user_id) == (confirm.vm_id, user_id)
            if not is_own and any(v.exclusive and v.vid in vids for v in other.volumes):
                return _refused("hold-lapsed", "volumes", "held for another VM meanwhile", "run it again")
        return None


def admitting(keeper: Keeper, snapshot: Callable[[], Snapshot]) -> Callable[[Sequence[VolumeShare], VolumeShare], bool]:
    """The ledger's judge: attachments count as well as holds."""
    return lambda residents, claim: admits(snapshot(), (*keeper.shares(), *residents), claim)


def _refused(code: str, resource: str, has: str, hint: str) -> Refused:
    return Refused(code, (Reason(resource[:80], "to use it", has[:120], hint[:160]),))
