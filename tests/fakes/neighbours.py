"""Realms of any size, as one host would tell of them."""

from collections.abc import Iterator
from hashlib import sha256

from matcher.wire.gossip import Digest, HostState
from matcher.wire.hosts import PAGE_MAX, HostView, HostViews
from matcher.wire.messages import Address, Role

BOTH = (Role.COMPUTE, Role.STORAGE)


def digest(number: int = 1) -> Digest:
    """Of a host with 64 threads, some of them free."""
    free = number * 7 % 65
    ram = (262_144, free * 4096)
    return Digest(
        BOTH, "X86_32+X86_64", "x86-64-v3", 64, free, *ram, 4, number % 5, 3840, 1200, 64 - free, False, "ab12", "kvm"
    )


def host(number: int, state: HostState = HostState.ALIVE, **changed: object) -> HostView:
    fields: dict[str, object] = {
        "id": sha256(b"%d" % number).hexdigest(),
        "name": f"h{number}",
        "state": state,
        "state_s": -1 if state is HostState.ALIVE else 40,
        "told_s": number % 900,
        "addresses": (Address(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 7766),),
        "front_door_port": 7766,
        "digest": digest(number),
    }
    return HostView(**(fields | changed))  # type: ignore[arg-type]


class FakeNeighbours:
    """What a host would tell that has listened for so long."""

    def __init__(self, *hosts: HostView, listens_s: int = 600) -> None:
        self.hosts, self.listens_s = hosts, listens_s

    def pages(self) -> Iterator[HostViews]:
        for at in range(0, max(1, len(self.hosts)), PAGE_MAX):
            yield HostViews(self.listens_s, len(self.hosts), self.hosts[at : at + PAGE_MAX])
