"""A storage host's answers: to pledges and queries from the link, and to the atomd of its own host."""

import logging
from collections.abc import Callable, Sequence

from matcher.offers.ledger import User
from matcher.offers.offering import Nothing, Offering, Proposal
from matcher.trust.principal import Principal
from matcher.wire.envelope import Kind, Sealed
from matcher.wire.messages import (
    Answer,
    Pledge,
    Query,
    Reveal,
    Role,
    Unfit,
    VmOffer,
    VolumeOffer,
)
from specs.ids import HostId, UserId, Vid
from storaged.claims import VolumeShare, admits
from storaged.fit import offer_room, offer_volumes
from storaged.keeper import Keeper
from storaged.quota import Quota
from storaged.volume import Snapshot, Volume

VERSION = "0.1.0"
# In msgpack: the fields, and an empty array or nothing. No text of a pledge can hold these bytes.
NO_VOLUMES, ROOM = b"\xa7volumes\x90", b"\xa4room"  # as they stand in a payload; the second only where it is asked for

log = logging.getLogger("storaged")


class Proposer:
    """What this host could give of a pledge's volumes, beside those that are attached already."""

    def __init__(
        self,
        host: str,
        host_id: HostId,
        keeper: Keeper,
        snapshot: Callable[[], Snapshot],
        quota: Quota,
        *,
        port: int = 0,
        why_not: Callable[[Volume], str | None] = lambda _: "",
        doing: Callable[[Vid], str | None] = lambda _: None,
    ) -> None:
        """`port` is that of the front door; `why_not` says why a volume can't reach other hosts, if so, and `doing`
        what a job does to it."""
        self._host, self._host_id, self._keeper, self._snapshot = host, host_id, keeper, snapshot
        self._quota, self._port, self._why_not, self._doing = quota, port, why_not, doing

    def propose(self, pledge: Pledge, user: User, residents: Sequence[VolumeShare]) -> Proposal[VolumeShare] | Nothing:
        if pledge.room is not None:
            return self._propose_room(pledge, user, residents)
        everybody = (*self._keeper.shares(), *residents)
        fit = offer_volumes(
            pledge,
            self._snapshot(),
            everybody,
            user_id=UserId(user.id),
            host_id=self._host_id,
            reaches=lambda volume: self._why_not(volume) is None,
            doing=self._doing,
        )
        if fit.share is None:
            return Nothing(fit.reasons, aloud=True)
        if over := self._quota.against(fit.share, user, residents):
            return Nothing((*over, *fit.reasons), aloud=True)
        return Proposal(
            fit.share, VolumeOffer(pledge.pledge_id, "", self._host, 0, 0, fit.offered, self._port), fit.reasons
        )

    def _propose_room(
        self, pledge: Pledge, user: User, residents: Sequence[VolumeShare]
    ) -> Proposal[VolumeShare] | Nothing:
        claim, left_mib, reasons = offer_room(pledge, self._snapshot(), residents, user_id=UserId(user.id))
        if claim is None:
            return Nothing(reasons, aloud=True)
        if over := self._quota.against(claim, user, residents):
            return Nothing(over, aloud=True)
        return Proposal(claim, VolumeOffer(pledge.pledge_id, "", self._host, 0, 0, (), self._port, left_mib), ())


class StorageAnswers:
    """`Intake`'s counterpart on a storage host."""

    def __init__(
        self,
        host: str,
        front_door_port: int,
        offering: Offering[VolumeShare],
        snapshot: Callable[[], Snapshot],
        missed: Callable[[], None],
        realm: Callable[[], str],
    ) -> None:
        self._host, self._front_door_port = host, front_door_port
        self._offering, self._snapshot, self._missed = offering, snapshot, missed
        self._realm = realm

    def pledge(self, pledge: Pledge, user: Principal, now_s: float) -> Sequence[VmOffer | VolumeOffer | Unfit]:
        if not self._knows(pledge.volumes):
            self._missed()
        asks = pledge.volumes or (pledge.room is not None and pledge.vm is None)
        return self._offering.pledge(pledge, user, now_s) if asks else ()

    def _knows(self, vids: Sequence[str]) -> bool:
        """What another server of a shared pool had given away may be free since: nobody tells of it."""
        snapshot = self._snapshot()
        known = (vid in snapshot.volumes or vid in snapshot.bad or vid in snapshot.conflicts for vid in vids)
        found = (snapshot.volumes[Vid(vid)] for vid in vids if vid in snapshot.volumes)
        return all(known) and not any(snapshot.is_leased(v) and v.right and v.right.held for v in found)

    def reveal(self, reveal: Reveal, now_s: float) -> None:
        self._offering.reveal(reveal, now_s)

    def query(self, query: Query, user: Principal) -> Answer:
        return Answer(
            query_id=query.query_id,
            host=self._host,
            role=Role.STORAGE,
            front_door_port=self._front_door_port,
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
            volumes=self._snapshot().visible_count(UserId(user.id)),
            realm=self._realm(),
        )


def asks_nothing(sealed: Sealed) -> bool:
    """A pledge without volumes: most are, and each host would verify what only its atomd has to judge."""
    return sealed.kind is Kind.PLEDGE and NO_VOLUMES in sealed.payload and ROOM not in sealed.payload


def admitting(keeper: Keeper, snapshot: Callable[[], Snapshot]) -> Callable[[Sequence[VolumeShare], VolumeShare], bool]:
    """The ledger's judge: attachments count as well as holds."""
    return lambda residents, claim: admits(snapshot(), (*keeper.shares(), *residents), claim)
