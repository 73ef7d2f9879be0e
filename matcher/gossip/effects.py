"""What a member is to do, in order."""

from dataclasses import dataclass

from matcher.gossip.roster import Record
from matcher.gossip.rumors import Told
from matcher.wire.gossip import HostState, Unsigned
from matcher.wire.messages import Address
from specs.ids import HostId


@dataclass(frozen=True, slots=True)
class Send:
    """One datagram, with these statements inside. `certified`: with their signers' certificates."""

    to: Address
    message: Unsigned
    told: tuple[Told, ...] = ()
    certified: bool = False


@dataclass(frozen=True, slots=True)
class Shout:
    """Multicast a statement of our own, on every link."""

    told: Told


@dataclass(frozen=True, slots=True)
class Greet:
    """Our own statement about ourselves, to one whose multicast was heard: which so it knows."""

    to: Address
    told: Record


@dataclass(frozen=True, slots=True)
class Changed:
    """What we hold a host for, or what it says of itself, is not what it was; for whoever listens."""

    host_id: HostId
    state: HostState


@dataclass(frozen=True, slots=True)
class Differs:
    """This host knows something else of the realm than we do, of who is a member; for whoever asks it what."""

    record: Record


Effect = Send | Shout | Greet | Changed | Differs
