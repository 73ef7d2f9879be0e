"""What has come back for one pledge, and when. Bounded, and deaf to answers for another pledge. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Generic, TypeVar

from matcher.wire.messages import Address, Clock, Pledge, Role, Unfit, VmOffer, VolumeOffer
from specs.ids import HostId, OfferId

ANSWERS_MAX = 16_384  # of each sort; a flood of answers must not grow memory
LAPSE_MARGIN_S = 0.2  # an offer's time runs at its host from before we heard of it, and a confirm takes a while

Offer = TypeVar("Offer", VmOffer, VolumeOffer)


@dataclass(frozen=True, slots=True)
class Heard(Generic[Offer]):
    """An offer, who made it (by the key that signed it), and the numeric address that it came from."""

    offer: Offer
    host_id: HostId
    address: str
    after_s: float = 0.0  # from the pledge to this answer
    lapses_s: float = float("inf")


def door(heard: Heard[VolumeOffer]) -> Address | None:
    """Where another host can ask this server for its volumes; `None` where it has no door for others, or was heard at
    an address that means another machine, or none, elsewhere: a link-local one."""
    port = heard.offer.front_door_port
    return Address(heard.address, port) if port and not ip_address(heard.address).is_link_local else None


class Answers:
    """All answers to one pledge; the first of each offer id counts, since networks repeat themselves."""

    def __init__(self, pledge: Pledge, pledged_s: float) -> None:
        self.pledge = pledge
        self.first_s: float | None = None  # when the first VM offer came
        self.latest_s = pledged_s
        self.hosts_known = pledge.hosts_known
        self.vms: dict[OfferId, Heard[VmOffer]] = {}
        self.volumes: dict[OfferId, Heard[VolumeOffer]] = {}
        self.unfits: dict[tuple[HostId, Role], Unfit] = {}
        self.clocks: dict[HostId, tuple[Clock, float]] = {}  # and when it was heard
        self._pledged_s = pledged_s

    def __len__(self) -> int:
        return len(self.vms) + len(self.volumes) + len(self.unfits) + len(self.clocks)

    def vm(self, offer: VmOffer, host_id: HostId, address: str, now_s: float) -> Heard[VmOffer] | None:
        """The offer as heard if it is news."""
        offer_id = OfferId(offer.offer_id)
        if offer_id in self.vms or not self._is_news(offer.pledge_id, offer.hosts_known, len(self.vms), now_s):
            return None
        if self.first_s is None:
            self.first_s = now_s
        heard = Heard(offer, host_id, address, now_s - self._pledged_s, self._lapses_s(offer, now_s))
        self.vms[offer_id] = heard
        return heard

    def volume(self, offer: VolumeOffer, host_id: HostId, address: str, now_s: float) -> Heard[VolumeOffer] | None:
        offer_id = OfferId(offer.offer_id)
        if offer_id in self.volumes or not self._is_news(offer.pledge_id, offer.hosts_known, len(self.volumes), now_s):
            return None
        heard = Heard(offer, host_id, address, now_s - self._pledged_s, self._lapses_s(offer, now_s))
        self.volumes[offer_id] = heard
        return heard

    def unfit(self, unfit: Unfit, host_id: HostId, now_s: float) -> None:
        key = (host_id, unfit.role)
        if key not in self.unfits and self._is_news(unfit.pledge_id, unfit.hosts_known, len(self.unfits), now_s):
            self.unfits[key] = unfit

    def clock(self, clock: Clock, host_id: HostId, now_s: float) -> None:
        if host_id not in self.clocks and self._is_news(clock.about, 0, len(self.clocks), now_s):
            self.clocks[host_id] = (clock, now_s)

    def absorb(self, earlier: "Answers") -> None:
        """Take from an earlier pledge what was not heard again: an answer lost on the way is no reason to say that
        nobody answered."""
        computes = {heard.host_id for heard in self.vms.values()}
        computes |= {host_id for host_id, role in self.unfits if role is Role.COMPUTE}
        stores = {heard.host_id for heard in self.volumes.values()}
        stores |= {host_id for host_id, role in self.unfits if role is Role.STORAGE}
        self.vms |= {offer_id: vm for offer_id, vm in earlier.vms.items() if vm.host_id not in computes}
        self.volumes |= {
            offer_id: volume for offer_id, volume in earlier.volumes.items() if volume.host_id not in stores
        }
        for key, unfit in earlier.unfits.items():
            if key[0] not in (computes if key[1] is Role.COMPUTE else stores):
                self.unfits[key] = unfit
        self.clocks = earlier.clocks | self.clocks

    def _is_news(self, pledge_id: str, hosts_known: int, count: int, now_s: float) -> bool:
        if pledge_id != self.pledge.pledge_id or count >= ANSWERS_MAX:
            return False
        self.hosts_known = max(self.hosts_known, hosts_known)
        self.latest_s = max(self.latest_s, now_s)
        return True

    def _lapses_s(self, offer: VmOffer | VolumeOffer, now_s: float) -> float:
        """From when on the offer must not be relied on; a dry one holds nothing that could lapse."""
        if self.pledge.dry:
            return float("inf")
        lives_s = offer.expires_in_ms / 1000
        return now_s + lives_s - min(LAPSE_MARGIN_S, lives_s / 4)


def host_names(answers: Answers) -> dict[HostId, str]:
    """The name that each host gave itself."""
    named: dict[HostId, str] = {}
    offers: Iterable[Heard[VmOffer] | Heard[VolumeOffer]] = (*answers.vms.values(), *answers.volumes.values())
    for heard in offers:
        named.setdefault(heard.host_id, heard.offer.host)
    for (host_id, _), unfit in answers.unfits.items():
        named.setdefault(host_id, unfit.host)
    for host_id, (clock, _) in answers.clocks.items():
        named.setdefault(host_id, clock.host)
    return named
