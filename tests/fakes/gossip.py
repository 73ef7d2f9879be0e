"""Members of a realm without keys, to try gossip's parts on."""

from dataclasses import replace
from hashlib import sha256
from random import Random

from matcher.gossip.membership import Membership
from matcher.gossip.roster import Charge, Record, Roster, short_of
from matcher.gossip.voice import Way
from matcher.wire.gossip import Alive, Claim, Digest, Says
from matcher.wire.messages import Address
from specs.ids import HostId

PORT = 7766
PROOF, CERTIFICATE = bytes(345), bytes(470)  # as long as real ones


def host_id(number: int) -> HostId:
    return HostId(sha256(b"%d" % number).hexdigest())


def short(number: int) -> bytes:
    return short_of(host_id(number))


def address(number: int) -> Address:
    return Address(f"10.0.{number >> 8}.{number & 255}", PORT)


def record(number: int, incarnation: int = 1, counter: int = 0, **more: object) -> Record:
    alive = replace(Alive(incarnation, counter, (address(number),), 7443, Digest()), **more)  # type: ignore[arg-type]
    return Record(short(number), host_id(number), f"h{number}", alive, PROOF, CERTIFICATE)


def charge(by: int, about: int, says: Says, incarnation: int = 1) -> Charge:
    return Charge(short(by), Claim(host_id(about), incarnation, says), PROOF[:200])


class Hand:
    """Signs for host `number` by saying so."""

    def __init__(self, number: int) -> None:
        self.number = number

    def record(self, alive: Alive) -> Record:
        return replace(record(self.number), alive=alive)

    def charge(self, claim: Claim) -> Charge:
        return Charge(short(self.number), claim, PROOF[:200])


def roster(hosts: int) -> Roster:
    """Host 0's view of so many."""
    made = Roster(record(0))
    for number in range(1, hosts):
        made.put(record(number), 0.0)
    return made


def member(hosts: int, *, now_s: float = 0.0, seed: int = 1) -> Membership:
    """Host 0, which has heard so many by multicast, and has nothing left to say of its start."""
    made = Membership(record(0).alive, Hand(0), random=Random(seed), now_s=now_s - 3.0)
    while made.next_deadline_s() < now_s:
        made.tick(made.next_deadline_s())
    for number in range(1, hosts):
        made.heard(record(number), now_s, Way.MULTICAST)
    return made
