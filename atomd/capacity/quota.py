"""What a user may have of this host: the grant, as this host narrows it, beside what that user has already. Pure.

Counted is what was asked for, in the words of specfiles and grants:

  slots  whole cores or threads, as the VM asked for them
  RAM    the guest's own. Claims carry what is charged, with QEMU's share; what was asked is computed back from it
  VMs    stopped ones too, as they keep name, volumes and a row in the journal
  PCI    cards: of each card in a claim, the functions that are like its first. What else sits on it (a GPU's sound, its
         USB) comes along uncounted; a second card that moves with the first in its IOMMU group does not
  USB    each device that was asked for

Offers that are only held count beside commitments, for their seconds. The most exact pattern of a list counts for a
device, and both lists, the grant's and the host's own, must allow it.

Limits are hard for one host: the ledger asks `allows` at each hold and again at each commitment (I12). What the user is
said to have on other hosts (`elsewhere`) is old and incomplete by nature, so it speaks against offers alone, and a
realm-wide total is soft.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from atomd.capacity.hardware import Claim
from atomd.capacity.occupancy import uncharged_mib
from atomd.capacity.plugged import usb_wishes
from matcher.offers.ledger import User
from matcher.trust.grants import Narrowing, limit_for
from matcher.wire.messages import PciAsk, Reason, UsbAsk, VmAsk
from matcher.wire.realm import Grant, PciLimit, Use, Verb
from specs.ids import UserId, VmId
from specs.units import show_duration, show_mib

VMS_MAX = 256  # of one user on one host, whatever the grant says: stopped VMs make the journal grow
KINDS_MAX = 64  # in one `Use`

NO_USE = Use()
NOT_NARROWED = Narrowing()

Kinds = Mapping[str, tuple[str, str]]  # PCI address or USB port -> (vendor, model)
Bus = Literal["pci", "usb"]
_OTHER_HOST = "take another host, or ask this one's sysadmin"


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What other hosts last said that a user has there, and their names."""

    use: Use = NO_USE
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Want:
    """One VM more, or one of the user's own started again: `claim` where a place for it is known."""

    vm_id: VmId
    ask: VmAsk
    claim: Claim | None = None
    generation: int = 1


NOWHERE = Elsewhere()


def nowhere(user_id: UserId) -> Elsewhere:
    return NOWHERE


def use_of(claims: Iterable[Claim], vm_ids: Collection[VmId], kinds: Kinds) -> Use:
    """What one user has: `claims` are their holds and commitments, `vm_ids` their VMs, with or without a claim."""
    slots, ram_mib, there = 0, 0, set(vm_ids)
    cards: Counter[tuple[str, str]] = Counter()
    plugged: Counter[tuple[str, str]] = Counter()
    for claim in claims:
        slots += slots_of(claim)
        ram_mib += uncharged_mib(claim.charged_mib)
        there.add(claim.vm_id)
        if claim.pci:
            cards += _cards(claim.pci, kinds)
        if claim.usb:
            plugged += _plugged(claim.usb, kinds)
    return Use(slots, ram_mib, len(there), 0, _limits(cards), _limits(plugged))


def slots_of(claim: Claim) -> int:
    return len(claim.threads) // claim.threads_per_core


class Quota:
    """One host's judge. `vms` tells the ids of all VMs that a user has here, whatever their state."""

    def __init__(
        self,
        *,
        host: str,
        kinds: Kinds,
        vms: Callable[[UserId], Collection[VmId]],
        narrowing: Narrowing = NOT_NARROWED,
        elsewhere: Callable[[UserId], Elsewhere] = nowhere,
    ) -> None:
        self._host, self._kinds, self._vms = host, kinds, vms
        self._narrowing, self._elsewhere = narrowing, elsewhere
        self._narrows = narrowing != NOT_NARROWED

    def here(self, user: User) -> Grant:
        """The grant as narrowed by this host, but for devices, where both lists count."""
        return self._narrowing.narrowed(user.grant) if self._narrows else user.grant

    def use(self, user_id: UserId, residents: Iterable[Claim]) -> Use:
        """What the user has here, `residents` being all holds and commitments."""
        claims = [claim for claim in residents if claim.user_id == user_id]
        return use_of(claims, self._vms(user_id), self._kinds)

    def has(self, vm_id: VmId, user: User) -> bool:
        """Whether it is a VM of the user's that is here, whatever its state."""
        return vm_id in self._vms(UserId(user.id))

    def allows(self, residents: Collection[Claim], claim: Claim, user: User) -> bool:
        """The ledger's judge: whether the user may have `claim` too. By numbers alone, and by what is sure."""
        here = self.here(user)
        if claim.overprovision < here.overprovision_min or Verb.RUN not in user.grant.verbs:
            return False
        return claim.user_id == user.id and not any(self._over(user, here, _of_claim(claim, self._kinds), residents))

    def against_offer(
        self, want: Want, user: User, residents: Collection[Claim], *, dry: bool, minute: int
    ) -> tuple[Reason, ...]:
        """Every reason why the user may not have it, for a person; empty where they may."""
        verb = Verb.PLEDGE if dry else Verb.RUN
        return tuple(self._reasons(want, user, residents, verb, minute, self._elsewhere(UserId(user.id))))

    def against_confirm(
        self, want: Want, user: User, residents: Collection[Claim], *, minute: int
    ) -> tuple[Reason, ...]:
        """As for an offer, but what other hosts say does not count."""
        return tuple(self._reasons(want, user, residents, Verb.RUN, minute, NOWHERE))

    def times(self, claim: Claim, user: User, residents: Collection[Claim]) -> tuple[int, str]:
        """How many more claims like this one the grant allows, by what is sure and by what other hosts say; and which
        of its limits ends it, as reasons name it."""
        has, here, asked = self.use(UserId(user.id), residents), self.here(user), _of_claim(claim, self._kinds)
        there = self._elsewhere(UserId(user.id)).use
        found = [(_least(here.vms) - has.vms - there.vms, "grant VMs")]
        if here.slots is not None:
            found.append(((here.slots - has.slots - there.slots) // asked.slots, "grant slots"))
        if here.ram_mib is not None and asked.ram_mib:
            found.append(((here.ram_mib - has.ram_mib - there.ram_mib) // asked.ram_mib, "grant ram"))
        for bus, _, patterns in self._lists(user):
            for limit in patterns:
                mine = _of_limit(asked.of(bus), limit, patterns)
                if mine:
                    left = limit.quantity - _of_limit(_counted(_had(has, bus)), limit, patterns)
                    found.append((left // mine, f"grant {bus} {limit.vendor}:{limit.model}"))
        count, noun = min(found)
        return max(0, count), noun

    def lease_s(self, ask: VmAsk, user: User) -> int:
        """How long a VM may live that starts now; 0: for ever."""
        most_s = self.here(user).lease_max_s or 0
        return min(ask.lease_s, most_s) if ask.lease_s and most_s else ask.lease_s or most_s

    # ---- inside

    def _reasons(
        self,
        want: Want,
        user: User,
        residents: Collection[Claim],
        verb: Verb,
        minute: int,
        elsewhere: Elsewhere,
    ) -> Iterator[Reason]:
        here = self.here(user)
        if self._narrows or verb not in user.grant.verbs:
            yield from self._shut(user, verb, minute)
        yield from self._rules(want.ask, here)
        asked = _of_claim(want.claim, self._kinds) if want.claim is not None else _of_ask(want)
        yield from self._over(user, here, asked, residents, want, elsewhere)

    def _shut(self, user: User, verb: Verb, minute: int) -> Iterator[Reason]:
        if verb not in user.grant.verbs:
            yield Reason("grant", f"to {verb.value}", f"yours says: {_words(user.grant)}", "an admin can change it")
        if not self._narrowing.admits_user(user.name, user.grant.groups):
            yield Reason("grant users", f"a VM of {user.name}", f"{self._host} takes none from you", _OTHER_HOST)
        if not self._narrowing.is_open(minute):
            spans = ", ".join(f"{_clock(start)}-{_clock(end)}" for start, end in self._narrowing.hours)
            has = f"{self._host} starts VMs at {spans} alone"
            yield Reason("grant hours", f"to start at {_clock(minute)}", has[:120], "take another host, or wait")

    def _rules(self, ask: VmAsk, here: Grant) -> Iterator[Reason]:
        if ask.overprovision < here.overprovision_min:
            floor = here.overprovision_min
            has = f"yours are shared by {floor} VMs at least, on {self._host}"
            edit = f"cpu.overprovision={floor}"
            yield Reason("grant overprovision", str(ask.overprovision), has, "share with more VMs", edit)
        if here.lease_max_s is not None and ask.lease_s > here.lease_max_s:
            most = show_duration(here.lease_max_s)
            hint = f"electros run … --lease {most.replace(' ', '')}"
            yield Reason("grant lease", show_duration(ask.lease_s), f"at most {most} on {self._host}", hint)

    def _over(
        self,
        user: User,
        here: Grant,
        asked: "_Asked",
        residents: Collection[Claim],
        want: Want | None = None,
        elsewhere: Elsewhere = NOWHERE,
    ) -> Iterator[Reason]:
        """What would be too much, a reason each. `want` is for the edits in them."""
        theirs, vm_ids = [claim for claim in residents if claim.user_id == user.id], self._vms(UserId(user.id))
        has, there = use_of(theirs, vm_ids, self._kinds), elsewhere.use
        more = 0 if asked.vm_id in vm_ids or any(claim.vm_id == asked.vm_id for claim in theirs) else 1
        vms_there = max(0, there.vms - 1) if want is not None and want.generation > 1 and more else there.vms
        numbers = (
            (_SLOTS, here.slots, asked.slots, has.slots, there.slots),
            (_RAM, here.ram_mib, asked.ram_mib, has.ram_mib, there.ram_mib),
            (_VMS, _least(here.vms), more, has.vms, vms_there),
        )
        for limit, most, wanted, is_here, is_there in numbers:
            if most is not None and wanted and is_here + is_there + wanted > most:
                yield limit.reason(self._host, elsewhere.hosts, most, wanted, is_here, is_there)
        for bus, whose, patterns in self._lists(user):
            if asked.of(bus):
                yield from self._over_devices(bus, whose, patterns, asked.of(bus), _counted(_had(has, bus)), want)

    def _lists(self, user: User) -> Iterator[tuple[Bus, str, tuple[PciLimit, ...]]]:
        """(bus, whose, patterns) of all lists that devices are held against."""
        yield "pci", "your", user.grant.pci
        yield "usb", "your", user.grant.usb
        if self._narrowing.pci is not None:
            yield "pci", "this host's", self._narrowing.pci
        if self._narrowing.usb is not None:
            yield "usb", "this host's", self._narrowing.usb

    def _over_devices(
        self,
        bus: Bus,
        whose: str,
        patterns: tuple[PciLimit, ...],
        asked: Counter[tuple[str, str]],
        has: Counter[tuple[str, str]],
        want: Want | None,
    ) -> Iterator[Reason]:
        by_limit: dict[PciLimit, Counter[tuple[str, str]]] = {}
        for kind, quantity in asked.items():
            limit = limit_for(patterns, *kind)
            if limit is None:
                resource = f"grant {bus} {kind[0]}:{kind[1]}"
                yield Reason(resource, str(quantity), f"not among {whose} devices on {self._host}", _OTHER_HOST)
            else:
                by_limit.setdefault(limit, Counter())[kind] += quantity
        for limit, kinds in by_limit.items():
            used = sum(quantity for kind, quantity in has.items() if limit_for(patterns, *kind) == limit)
            left = max(0, limit.quantity - used)
            if kinds.total() > left:
                there = f"{left} of {whose} {limit.quantity} are left on {self._host}"
                edit = _fewer(bus, want, set(kinds), left)
                resource = f"grant {bus} {limit.vendor}:{limit.model}"
                yield Reason(resource, str(kinds.total()), there, "ask for fewer, or take another host", edit)


@dataclass(frozen=True, slots=True)
class _Asked:
    vm_id: VmId
    slots: int
    ram_mib: int
    cards: Counter[tuple[str, str]]
    plugged: Counter[tuple[str, str]]

    def of(self, bus: Bus) -> Counter[tuple[str, str]]:
        return self.cards if bus == "pci" else self.plugged


@dataclass(frozen=True, slots=True)
class _Limit:
    """One number of a grant, as people are told of it."""

    noun: str
    hint: str
    path: str = ""
    show: Callable[[int], str] = str
    fewest: int = 1  # that a specfile may ask for: no edit should name less

    def reason(self, host: str, others: tuple[str, ...], most: int, asked: int, here: int, there: int) -> Reason:
        """What is asked beside what is here, and what is said to be elsewhere."""
        left = max(0, most - here - there)
        where = f"on {host}"
        if here + asked <= most:  # what stands against it is what others say
            where = f"in the realm, {self.show(there)} of it used on {_listed(others)}"
        has = f"{self.show(left)} of your {self.show(most)} are left {where}"
        edit = f"{self.path}={left}" if self.path and left >= self.fewest else ""
        return Reason(f"grant {self.noun}", self.show(asked), has[:120], self.hint, edit)


_LESS = "electros ps shows your VMs; stop one, or ask for less"
_SLOTS = _Limit("slots", _LESS, "cpu.slots")
_RAM = _Limit("ram", _LESS, "ram.ramsize", show_mib, 16)
_VMS = _Limit("VMs", "stopped VMs count: electros rm frees one")


def _of_claim(claim: Claim, kinds: Kinds) -> _Asked:
    ram_mib = uncharged_mib(claim.charged_mib)
    return _Asked(claim.vm_id, slots_of(claim), ram_mib, _cards(claim.pci, kinds), _plugged(claim.usb, kinds))


def _of_ask(want: Want) -> _Asked:
    """Where no place is known for it: as many cards as were asked for, as far as it says which."""
    cards: Counter[tuple[str, str]] = Counter()
    for each in (each for each in want.ask.pci if each.model):
        cards[each.vendor, each.model] += each.quantity
    return _Asked(want.vm_id, want.ask.slots, want.ask.ram_mib, cards, usb_wishes(want.ask))


def _cards(addresses: Iterable[str], kinds: Kinds) -> Counter[tuple[str, str]]:
    """Of each card, the functions that are like its first. A device that is no longer in the machine is nobody's."""
    counted: Counter[tuple[str, str]] = Counter()
    first: dict[str, tuple[str, str]] = {}
    for address in sorted(addresses):
        kind = kinds.get(address)
        if kind is not None and first.setdefault(address.rpartition(".")[0], kind) == kind:
            counted[kind] += 1
    return counted


def _plugged(ports: Iterable[str], kinds: Kinds) -> Counter[tuple[str, str]]:
    return Counter(kinds[port] for port in ports if port in kinds)


def _had(use: Use, bus: Bus) -> tuple[PciLimit, ...]:
    return use.pci if bus == "pci" else use.usb


def _of_limit(cards: Counter[tuple[str, str]], limit: PciLimit, patterns: tuple[PciLimit, ...]) -> int:
    return sum(quantity for kind, quantity in cards.items() if limit_for(patterns, *kind) == limit)


def _limits(cards: Counter[tuple[str, str]]) -> tuple[PciLimit, ...]:
    return tuple(PciLimit(*kind, quantity) for kind, quantity in sorted(cards.items())[:KINDS_MAX]) if cards else ()


def _counted(limits: Iterable[PciLimit]) -> Counter[tuple[str, str]]:
    return Counter({(limit.vendor, limit.model): limit.quantity for limit in limits})


def _fewer(bus: Bus, want: Want | None, kinds: Collection[tuple[str, str]], left: int) -> str:
    """One quantity, lowered; empty where no single one can do it, or where it stands in one of several alternatives."""
    asks: tuple[PciAsk | UsbAsk, ...] = ()
    if want is not None and not (bus == "pci" and want.ask.pci_else):
        asks = want.ask.pci if bus == "pci" else want.ask.usb
    mine = [(index, each) for index, each in enumerate(asks) if (each.vendor, each.model) in kinds]
    return f"{bus}.{mine[0][0]}.quantity={left}" if left and len(mine) == 1 and mine[0][1].quantity > left else ""


def _least(vms: int | None) -> int:
    return VMS_MAX if vms is None else min(vms, VMS_MAX)


def _listed(hosts: tuple[str, ...]) -> str:
    shown = ", ".join(hosts[:3])
    return f"{shown} and {len(hosts) - 3} more" if len(hosts) > 3 else shown


def _words(grant: Grant) -> str:
    return ", ".join(verb.value for verb in grant.verbs) or "nothing"


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
