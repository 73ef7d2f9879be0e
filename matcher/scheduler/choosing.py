"""From the offers heard, the joint choices: a host for the VM and a server for each of its volumes, best first.

    feasible: every asked volume is on the VM's own host, or can be reached from there: its server exports it, and was
              heard at an address that means the same to other hosts
    rank:     a real host before a pretended one, the preferred host, the earliest of the alternatives asked for, then
              the user's expression; without one, volumes at home, KVM before emulation, and the score that each host
              gave itself under the policy

Equals are told apart by a hash of (pledge, host), which differs from pledge to pledge: clients that ask at the same
moment spread over equal hosts instead of racing for one. Pure.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2s

from matcher.scheduler.heard import Answers, Heard, door
from matcher.wire.messages import Accelerator, Reach, VmOffer, VolumeClaim, VolumeOffer
from specs.ids import HostId, OfferId, PledgeId, Vid


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to serve the whole pledge; `claims` has the volumes in the order in which they were asked for."""

    vm: Heard[VmOffer]
    claims: tuple[VolumeClaim, ...]

    @property
    def host_id(self) -> HostId:
        return self.vm.host_id

    @property
    def volumes_here(self) -> int:
        return sum(claim.server == self.vm.host_id for claim in self.claims)

    @property
    def volumes_away(self) -> int:
        return len(self.claims) - self.volumes_here


Value = Callable[[Choice], float]  # higher is better


class Volumes:
    """Who can give which of the asked volumes, to whom."""

    def __init__(self, pledge_id: PledgeId, asked: Sequence[Vid], offers: Iterable[Heard[VolumeOffer]]) -> None:
        self._asked = asked
        self._local: dict[tuple[Vid, HostId], VolumeClaim] = {}
        self._remote: dict[Vid, VolumeClaim] = {}
        for heard in sorted(offers, key=lambda heard: tie(pledge_id, heard.host_id), reverse=True):
            for volume in heard.offer.volumes:
                vid = Vid(volume.vid)
                self._local[vid, heard.host_id] = VolumeClaim(vid, heard.host_id, heard.offer.offer_id)
                if volume.reach is Reach.NETWORK and (found := door(heard)) is not None:
                    self._remote[vid] = VolumeClaim(vid, heard.host_id, heard.offer.offer_id, found)

    def claim(self, vid: Vid, host_id: HostId) -> VolumeClaim | None:
        """How a VM on this host would get the volume: from the host itself if it can."""
        return self._local.get((vid, host_id)) or self._remote.get(vid)

    def claims(self, host_id: HostId) -> tuple[VolumeClaim, ...] | None:
        """All asked volumes for a VM on this host, or `None` where one is out of its reach."""
        found = [self.claim(vid, host_id) for vid in self._asked]
        claims = tuple(claim for claim in found if claim is not None)
        return claims if len(claims) == len(found) else None


def choices(answers: Answers, *, now_s: float, without: Collection[OfferId] = ()) -> Iterator[Choice]:
    """Every complete choice among the offers that have not lapsed, in the order heard."""
    pledge = answers.pledge
    live = (heard for heard in answers.volumes.values() if heard.lapses_s > now_s)
    volumes = Volumes(PledgeId(pledge.pledge_id), tuple(Vid(vid) for vid in pledge.volumes), live)
    for offer_id, vm in answers.vms.items():
        if vm.lapses_s > now_s and offer_id not in without:
            claims = volumes.claims(vm.host_id)
            if claims is not None:
                yield Choice(vm, claims)


def ranked(
    complete: Iterable[Choice],
    *,
    prefer: HostId | None = None,
    last: Collection[HostId] = (),
    value: Value | None = None,
) -> list[Choice]:
    """Best first. `prefer` is where a stopped VM ran before; hosts in `last` (they refused already) come at the end."""

    def key(choice: Choice) -> tuple[bool, bool, bool, int, tuple[float, ...], bytes]:
        offer, host_id = choice.vm.offer, choice.host_id
        merit = _merit(choice) if value is None else (-value(choice),)
        place = offer.pretended, host_id in last, host_id != prefer, offer.choice
        return *place, merit, tie(PledgeId(offer.pledge_id), host_id)

    return sorted(complete, key=key)


def tie(pledge_id: PledgeId, host_id: HostId) -> bytes:
    """Any order, the same for everybody who asks, another one for each pledge."""
    return blake2s(f"{pledge_id} {host_id}".encode(), digest_size=8).digest()


def _merit(choice: Choice) -> tuple[float, ...]:
    """A volume on the chosen host beats one across the network; emulation costs the guest a factor of ten or more."""
    offer = choice.vm.offer
    return choice.volumes_away, float(offer.accelerator is not Accelerator.KVM), -offer.score
