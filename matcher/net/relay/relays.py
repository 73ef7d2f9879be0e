"""This host as a relay, and as one that others relay to: what stands behind those routes of its front door."""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from matcher.gossip.membership import Seen
from matcher.net import local, multicast
from matcher.net.caller import Caller
from matcher.net.door.admission import Places
from matcher.net.host_door import HostDoors
from matcher.net.intake import Intake
from matcher.net.peer import now_s, wall_ms
from matcher.net.relay.doors import Doors, Tunnel
from matcher.net.relay.far import Far
from matcher.net.relay.judging import Shares
from matcher.net.relay.lines import Line
from matcher.trust.certificates import Untrusted
from matcher.trust.identity import Identity
from matcher.wire.codec import BadBytes
from matcher.wire.framing import unframe
from matcher.wire.messages import Reason, Refused
from matcher.wire.volumes import Asked, Replies

LINES_MAX = 128
LINES_PER_USER_MAX = 8
STORAGE_S = 0.5  # for this host's storage to answer what was relayed


class Gossip(Protocol):
    """What is known of the realm's hosts."""

    def hosts(self) -> list[Seen]: ...

    def far(self) -> list[Seen]: ...


class Relays:
    """Implements `matcher.net.door.behind.Relay`. `gossip` may come later; until then multicast alone is used.

    `storaged`: where this host's storage is asked, which hears no HTTPS of others.
    """

    def __init__(
        self, identity: Identity, intake: Intake, *, storaged: Path | None, port: int = multicast.PORT
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.gossip: Gossip | None = None
        self._identity, self._intake, self._storaged, self._port = identity, intake, storaged, port
        self._doors = Doors(self._known(lambda gossip: gossip.hosts()))
        self._far = Far(HostDoors(identity), self._known(lambda gossip: gossip.far()), self.counters)
        self._places, self._shares = Places(LINES_MAX, LINES_PER_USER_MAX), Shares()

    def line(self, caller: Caller) -> Line | Refused:
        """For this user; to be closed."""
        if (why := self._places.enter(caller.id)) is not None:
            return Refused("too-many", (Reason("relay", "a line more", why, "wait for another one to end"),))
        return Line(
            self._identity,
            caller.who,
            far=self._far,
            doors=self._doors,
            shares=self._shares,
            counters=self.counters,
            port=self._port,
            ended=lambda: self._places.leave(caller.id),
        )

    async def tunnel(self, host_id: str, port: int, caller: Caller) -> Tunnel | Refused:
        """To the front door of another host."""
        return await self._doors.open(caller.id, host_id, port)

    async def relayed(self, envelope: bytes, caller: Caller) -> list[bytes] | Refused:
        """What another host has relayed to this one; it goes no further."""
        try:
            own = self._intake.receive_relayed(envelope, caller.address, now_s=now_s(), wall_ms=wall_ms())
        except (BadBytes, Untrusted) as error:
            return Refused("bad-request", (Reason("envelope", "a user's word", error.reason[:120], ""),))
        if self._storaged is None:
            return own
        try:
            stored = await local.ask(self._storaged, Asked(envelope), Replies, timeout_s=STORAGE_S)
        except local.LocalError:  # a host without storage, or one that is just starting
            return own
        return own if isinstance(stored, Refused) else [*own, *unframe(stored.framed)]

    def _known(self, which: Callable[[Gossip], Iterable[Seen]]) -> Callable[[], Iterable[Seen]]:
        return lambda: which(self.gossip) if self.gossip is not None else ()
