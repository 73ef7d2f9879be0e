"""Members that this host's multicast does not reach: what a user asks is taken to them by HTTPS, one by one.

For a pledge few are chosen, by what gossip tells of them: those that are likely to fit. Each judges the user's envelope
as if it had come by multicast, answers on the connection, and sends it on to nobody.
"""

import socket
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import islice

import trio

from matcher.gossip.membership import Seen
from matcher.net.host_door import HostDoors
from matcher.net.https import Unanswered, Unreachable
from matcher.wire.framing import unframe
from matcher.wire.gossip import Digest, HostState
from matcher.wire.messages import Address, Pledge, Query, Refused, Role, VmAsk

PLEDGE_MAX = 16  # members that are asked to serve one
QUERY_MAX = 64
ASKING_MAX = 64  # at the same time, for all users
ASK_S = 2.0
PATH = "/v1/relayed"


@dataclass(frozen=True, slots=True)
class Member:
    """`source` is the address of this host that it will see."""

    seen: Seen
    at: Address
    source: str


class Far:
    """`members`: those that gossip knows and multicast does not reach."""

    def __init__(self, doors: HostDoors, members: Callable[[], Iterable[Seen]], counters: Counter[str]) -> None:
        self._doors, self._members, self._counters = doors, members, counters
        self._asking = trio.CapacityLimiter(ASKING_MAX)

    def sources(self) -> set[str]:
        """The addresses of this host that they see, or that some of many see."""
        found = (_member(seen) for seen in islice(filter(_has_door, self._members()), QUERY_MAX))
        return {member.source for member in found if member is not None}

    def chosen(self, question: Pledge | Query, sources: Container[str]) -> list[Member]:
        """Those to ask from one of these addresses: to serve a pledge a few, the likeliest first."""
        there = list(filter(_has_door, self._members()))
        if isinstance(question, Pledge):
            there = [seen for seen in there if is_likely(_digest(seen), question)]
            there.sort(key=lambda seen: _room(_digest(seen), question))
        most = PLEDGE_MAX if isinstance(question, Pledge) else QUERY_MAX
        found = map(_member, there[:most])
        return [member for member in found if member is not None and member.source in sources]

    async def ask(self, member: Member, envelope: bytes) -> Sequence[bytes]:
        """Its answers; none where it gives none."""
        host_id = member.seen.record.host_id
        with trio.move_on_after(ASK_S):
            async with self._asking:
                try:
                    line = await self._doors.open(host_id, member.at)
                    try:
                        answer = await line.ask_octets(PATH, envelope)
                    finally:
                        await line.aclose()
                    self._counters["far asked"] += 1
                    return () if isinstance(answer, Refused) else tuple(unframe(answer))
                except (Unreachable, Unanswered):
                    pass
        self._counters["far silent"] += 1
        return ()


def _has_door(seen: Seen) -> bool:
    return seen.state is HostState.ALIVE and bool(seen.record.alive.front_door_port)


def _digest(seen: Seen) -> Digest:
    return seen.record.alive.digest


def _member(seen: Seen) -> Member | None:
    """`None` where there is no way to it from here."""
    for address in seen.record.alive.addresses:
        source = source_to(address.ip)
        if source is not None:
            return Member(seen, Address(address.ip, seen.record.alive.front_door_port), source)
    return None


def is_likely(digest: Digest, pledge: Pledge) -> bool:
    """Whether it may fit, as far as a digest can tell. What volumes a host has it does not tell."""
    if pledge.volumes or pledge.room is not None:
        return True
    ask = pledge.vm
    if ask is not None and digest.roles == (Role.STORAGE,):
        return False
    return ask is None or (not digest.drained and _has_arch(digest, ask) and (pledge.dry or _has_free(digest, ask)))


def _has_free(digest: Digest, ask: VmAsk) -> bool:
    fewest = min(sum(each.quantity for each in pci) for pci in (ask.pci, *ask.pci_else))
    devices = fewest + sum(each.quantity for each in ask.usb)
    may_share = ask.overprovision > 1
    return (
        ask.ram_mib <= digest.ram_free_mib
        and devices <= digest.devices_free
        and (may_share or ask.slots <= digest.slots_free)
    )


def _has_arch(digest: Digest, ask: VmAsk) -> bool:
    there = set(digest.arch.split("+"))
    return not digest.arch or any(arch.value in there for arch in ask.archs)


def _room(digest: Digest, pledge: Pledge) -> tuple[int, int]:
    """Least waste first: the fewest devices, and then threads, that would be left free."""
    slots = pledge.vm.slots if pledge.vm is not None else 0
    return digest.devices_free, digest.slots_free - slots


def source_to(ip: str) -> str | None:
    """The address of this host from which it would speak to that one; nothing is sent. `None`: there is no way."""
    if ip_address(ip).is_link_local:
        return None  # by which link, nobody can say
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect((ip, 9))
        except OSError:
            return None
        source: str = asking.getsockname()[0]
        return source
