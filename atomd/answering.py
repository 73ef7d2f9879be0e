"""A compute host's answers to datagrams: what `Intake` asks once it knows that a user asks."""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace

from atomd.capacity.copies import Copies, copies
from atomd.capacity.devices import alternatives, narrower
from atomd.capacity.fit import reasons_against
from atomd.capacity.hardware import Claim, Hardware
from atomd.capacity.occupancy import LastOccupancy, Occupancy, capacity
from atomd.capacity.placement import Placed, place_on
from atomd.capacity.quota import Want
from atomd.capacity.traits import arch_for
from atomd.compute import Compute
from atomd.vms.admission import Admission
from matcher.offers.ledger import Ledger, User
from matcher.offers.offering import Nothing, Offering, Proposal
from matcher.trust.principal import Principal
from matcher.wire.messages import (
    Answer,
    Arch,
    Label,
    Pledge,
    Policy,
    Query,
    Reason,
    Reveal,
    Role,
    Unfit,
    VmAsk,
    VmOffer,
    VolumeOffer,
)
from specs.ids import UserId, VmId

VERSION = "0.1.0"
RUNS_OUT_MAX = 8  # resources named in an offer
NAMES_MAX = 1024  # of users who asked for something lately


@dataclass(slots=True)
class Face:
    """How a host shows itself; `pretended`: its hardware is a recording, so that it offers dry and runs nothing. The
    `hardware` is replaced whenever the machine's devices change."""

    host: Label
    front_door_port: int
    hardware: Hardware
    pretended: bool


@dataclass(frozen=True, slots=True)
class _Judged:
    """One alternative of a pledge; `over` is what the user's grant says against it."""

    choice: int
    ask: VmAsk
    placed: Placed | None
    over: Sequence[Reason]

    def is_given(self) -> bool:
        return self.placed is not None and not self.over


class Proposer:
    """What this host would give for a pledge. `down` says why nothing can start here now, or `None`; `minute` is
    that of the local day; `stored` are the volumes that this host's storaged has."""

    def __init__(
        self,
        face: Face,
        down: Callable[[], str | None],
        admission: Admission,
        minute: Callable[[], int],
        stored: Callable[[], Container[str]] = frozenset,
    ) -> None:
        self._face, self._down, self._stored = face, down, stored
        self._admission, self._minute = admission, minute
        self._now = LastOccupancy(face.hardware)

    def propose(self, pledge: Pledge, user: User, residents: Sequence[Claim]) -> Proposal[Claim] | Nothing:
        if pledge.vm is None or (self._face.pretended and not pledge.dry):
            return Nothing(())
        closed = self._closed()
        if closed is not None and not pledge.dry:
            return closed
        now, vm_id, user_id = self._now.of(residents, self._face.hardware), VmId(pledge.vm_id), UserId(user.id)
        judged = self._judged(pledge, pledge.vm, user, residents, now)
        ask, placed, over = judged.ask, judged.placed, judged.over
        if closed is not None:
            against = reasons_against(ask, now, user_id) if placed is None else ()
            return Nothing((*closed.reasons, *_told((*over, *against), pledge.vm)), aloud=closed.aloud)
        if placed is None:
            is_said = pledge.dry or bool(over)
            against = reasons_against(ask, now, user_id) if is_said else ()
            return Nothing(_told((*over, *against), pledge.vm), aloud=bool(over))
        if over:
            return Nothing(_told(over, pledge.vm), aloud=True)
        # What a score does not tell: the VM was here before, or its volumes are.
        stored = self._stored() if pledge.volumes else ()
        at_once = any(vid in stored for vid in pledge.volumes) or self._admission.quota.has(vm_id, user)
        offer = self._offer(pledge, ask, placed, judged.choice)
        if pledge.dry and pledge.counts:
            offer = self._with_copies(offer, pledge, ask, placed.claim, user, residents)
        return Proposal(placed.claim, offer, at_once=at_once)

    def _judged(
        self, pledge: Pledge, asked: VmAsk, user: User, residents: Sequence[Claim], now: Occupancy
    ) -> "_Judged":
        """The first of the alternatives that has a place and is granted; the last one where none is. Where it leaves
        open which device, and not every one is granted, those that are come next."""
        vm_id, user_id = VmId(pledge.vm_id), UserId(user.id)

        def judge(choice: int, ask: VmAsk) -> _Judged:
            placed = place_on(ask, now, vm_id=vm_id, user_id=user_id, policy=Policy(pledge.policy))
            want = Want(vm_id, ask, placed.claim if placed is not None else None, pledge.generation)
            against = self._admission.quota.against_offer
            return _Judged(choice, ask, placed, against(want, user, residents, dry=pledge.dry, minute=self._minute()))

        for choice, ask in enumerate(alternatives(asked)):
            judged = judge(choice, ask)
            if judged.placed is not None and judged.over:
                others = (judge(choice, each) for each in narrower(ask, now.hardware.pci))
                judged = next(filter(_Judged.is_given, others), judged)
            if judged.is_given():
                break
        return judged

    def _with_copies(
        self, offer: VmOffer, pledge: Pledge, ask: VmAsk, claim: Claim, user: User, residents: Sequence[Claim]
    ) -> VmOffer:
        """By what is free and by what the user may have."""
        hardware, policy = self._face.hardware, Policy(pledge.policy)
        found = copies(ask, hardware, residents, vm_id=claim.vm_id, user_id=claim.user_id, policy=policy)
        granted, limit = self._admission.quota.times(claim, user, residents)
        if granted < found.count:
            found = Copies(granted, False, (limit,))
        return replace(
            offer, copies=found.count, copies_at_least=found.at_least, runs_out=found.runs_out[:RUNS_OUT_MAX]
        )

    def _closed(self) -> Nothing | None:
        """Why nothing can start here now, whatever it asks for."""
        closed = self._admission.takes_new()
        if closed is not None:
            return Nothing(closed.reasons, aloud=True)
        down = self._down()
        if down is not None:
            hint = "its sysadmin can say: systemctl status libvirtd"
            return Nothing((Reason("hypervisor", "libvirt", down[:120], hint),))
        return None

    def _offer(self, pledge: Pledge, ask: VmAsk, placed: Placed, choice: int) -> VmOffer:
        face, claim = self._face, placed.claim
        return VmOffer(
            pledge_id=pledge.pledge_id,
            offer_id="",
            host=face.host,
            front_door_port=face.front_door_port,
            hosts_known=0,
            expires_in_ms=0,
            score=placed.score,
            threads=tuple(sorted(claim.threads)),
            threads_per_core=claim.threads_per_core,
            numa=claim.numa,
            pci=claim.pci,
            arch=arch_for(ask, face.hardware) or Arch.X86_64,
            accelerator=face.hardware.accelerator,
            pretended=face.pretended,
            usb=claim.usb,
            choice=choice,
            ecc_source=face.hardware.ecc_source if ask.ecc else "",
        )


def _told(reasons: Sequence[Reason], ask: VmAsk) -> tuple[Reason, ...]:
    """Against the last of several alternatives: its entries have other places in the specfile than edits here say."""
    if not ask.pci_else:
        return tuple(reasons)
    return tuple(replace(reason, edit="") if reason.edit.startswith("pci") else reason for reason in reasons)


class ComputeAnswers:
    """`Intake`'s counterpart on a compute host."""

    def __init__(
        self,
        face: Face,
        offering: Offering[Claim],
        ledger: Ledger[Claim],
        compute: Compute,
        realm: Callable[[], str],
    ) -> None:
        self._face, self._offering, self._ledger, self._compute = face, offering, ledger, compute
        self._realm = realm
        self._names: dict[str, str] = {}

    def pledge(self, pledge: Pledge, user: Principal, now_s: float) -> Sequence[VmOffer | VolumeOffer | Unfit]:
        self._know(user)
        return self._offering.pledge(pledge, user, now_s)

    def hear(self, pledge: Pledge, user: Principal, now_s: float) -> Sequence[VmOffer | VolumeOffer | Unfit] | None:
        self._know(user)
        return self._offering.hear(pledge, user, now_s)

    def due(self, now_s: float) -> Sequence[str]:
        return self._offering.due(now_s)

    def next_deadline_s(self) -> float | None:
        return self._offering.next_deadline_s()

    def reveal(self, reveal: Reveal, now_s: float) -> None:
        self._offering.reveal(reveal, now_s)

    def name_of(self, user_id: str) -> str:
        """Of a user who has pledged here lately; else empty."""
        return self._names.get(user_id, "")

    def _know(self, user: Principal) -> None:
        self._names.pop(user.id, None)
        while len(self._names) >= NAMES_MAX:
            del self._names[next(iter(self._names))]
        self._names[user.id] = user.name

    def query(self, query: Query, user: Principal) -> Answer:
        matching = sum(1 for vm in self._compute.of_user(UserId(user.id)) if _matches(query, vm.confirm.name, vm.vm_id))
        return self.about(query.query_id, matching)

    def about(self, query_id: str, matching: int) -> Answer:
        hardware = self._face.hardware
        room = capacity(hardware, self._ledger.committed())
        return Answer(
            query_id=query_id,
            host=self._face.host,
            role=Role.COMPUTE,
            front_door_port=self._face.front_door_port,
            hosts_known=self._offering.hosts_known,
            version=VERSION,
            vms_matching=matching,
            cpu_model=hardware.cpu_model[:64],
            arch="+".join(sorted(hardware.archs))[:64],
            accelerator="pretended" if self._face.pretended else hardware.accelerator,
            threads_total=room.threads_total,
            threads_free=room.threads_free,
            ram_total_mib=room.ram_total_mib,
            ram_free_mib=max(0, room.ram_free_mib),
            vms=len(self._compute.vms),
            volumes=0,
            drained=self._compute.drained,
            realm=self._realm(),
        )


def _matches(query: Query, name: str, vm_id: VmId) -> bool:
    if query.exact:
        return query.match in (name, vm_id)
    return name.startswith(query.match) or vm_id.startswith(query.match.replace("-", "").lower())
