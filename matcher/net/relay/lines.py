"""One user's line at a relay: what they ask goes out by this host's links, and what hosts answer comes back.

A line has sockets of its own, so that whatever arrives there is for this user and no other. Everything is bounded:
lines, what is asked, the answers to each question, and how long a line may be silent. Answers are checked as the user
will check them, since what is not a host's own word for this user is not worth passing on.
"""

import socket
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from matcher.net import multicast
from matcher.net.relay.doors import Doors
from matcher.net.relay.far import Far, Member
from matcher.net.relay.judging import PLEDGES_MAX, Judge, NotPassed, Passed, Shares
from matcher.trust.certificates import Untrusted
from matcher.trust.identity import Identity
from matcher.trust.opening import open_sealed
from matcher.trust.principal import Principal
from matcher.wire.codec import BadBytes, encode
from matcher.wire.envelope import ANSWERS, unseal, user_audience
from matcher.wire.messages import (
    DATAGRAM_MAX_BYTES,
    Address,
    Answer,
    Pledge,
    Query,
    Reason,
    Refused,
    Reveal,
    VmOffer,
    VolumeOffer,
)
from matcher.wire.relay import LENT_MAX, Lent, Place, pack_passed
from specs.ids import UserId

IDLE_S = 60.0  # without a word of the user's
ANSWERS_MAX = 4096  # to one question
BATCH_MAX = 64


@dataclass(frozen=True, slots=True)
class Ends:
    """The user's side of a line. `hear` gives b"" at its end."""

    hear: Callable[[], Awaitable[bytes]]
    say: Callable[[bytes], Awaitable[None]]
    refuse: Callable[[Refused], Awaitable[None]]


class Line:
    """Use it once: `run`, and then `close`."""

    def __init__(
        self,
        identity: Identity,
        caller: Principal,
        *,
        far: Far,
        doors: Doors,
        shares: Shares,
        counters: Counter[str],
        port: int,
        ended: Callable[[], None],
    ) -> None:
        self._identity, self._caller = identity, caller
        self._far, self._doors, self._counters, self._port, self._ended = far, doors, counters, port, ended
        self._sockets = multicast.asking_sockets()
        self._links: list[multicast.Link | None] = []  # of each place; None: for members elsewhere alone
        self.lent = Lent(tuple(self._places()))
        self._judge = Judge(identity, caller, self.lent.places, shares)
        self._asked: OrderedDict[str, dict[str, Member]] = OrderedDict()  # who was asked elsewhere, by pledge
        self._left = 0  # answers that are still passed on

    def close(self) -> None:
        for each in self._sockets:
            each.close()
        self._ended()

    async def run(self, ends: Ends) -> None:
        """Until the user ends it, or is silent for too long."""
        await ends.say(encode(self.lent))
        async with trio.open_nursery() as nursery:
            for each in self._sockets:
                nursery.start_soon(self._hear_hosts, each, ends)
            while data := await self._heard(ends):
                try:
                    passed = self._judge.passes(data, now_s=trio.current_time(), wall_s=time.time())
                except NotPassed as error:
                    self._counters["not passed"] += 1
                    await ends.refuse(_refused(error.reason))
                    continue
                self._pass(passed)
                for member in self._elsewhere(passed):
                    nursery.start_soon(self._ask, member, data, ends)
            nursery.cancel_scope.cancel()

    async def _heard(self, ends: Ends) -> bytes:
        with trio.move_on_after(IDLE_S):
            return await ends.hear()
        return b""

    # ---- out

    def _places(self) -> list[Place]:
        ports = {each.family: each.getsockname()[1] for each in self._sockets}
        places: list[Place] = []
        for link in multicast.links():
            own = ((link.ipv4, ports.get(socket.AF_INET)), (link.ipv6, ports.get(socket.AF_INET6)))
            reply = tuple(Address(ip, port) for ip, port in own if ip and port)
            if reply:
                places.append(Place(reply, has_ipv4=":" not in reply[0].ip))
                self._links.append(link)
        lent = {address.ip for place in places for address in place.reply}
        for source in self._far.sources():
            port = ports.get(socket.AF_INET6 if ":" in source else socket.AF_INET)
            if source not in lent and port and len(places) < LENT_MAX:
                places.append(Place((Address(source, port),)))
                self._links.append(None)
        return places[:LENT_MAX]

    def _pass(self, passed: Passed) -> None:
        question = passed.message
        if not isinstance(question, Reveal):
            self._left = ANSWERS_MAX
        names_volumes = isinstance(question, Pledge) and bool(question.volumes) and passed.is_new
        for number, (place, link) in enumerate(zip(self.lent.places, self._links, strict=True)):
            if link is None or passed.place not in (-1, number):
                continue
            for each in self._sockets:
                # An answer by a link-local IPv6 address is of no use to other hosts: see `Client.ask`.
                if not (names_volumes and place.has_ipv4 and each.family == socket.AF_INET6):
                    self._counters["sent"] += multicast.ask(each, passed.data, link, self._port)

    def _elsewhere(self, passed: Passed) -> Sequence[Member]:
        if isinstance(passed.message, Reveal):
            return list(self._asked.get(passed.message.pledge_id, {}).values())
        assert isinstance(passed.message, Pledge | Query)
        sources = {address.ip for address in self.lent.places[passed.place].reply}
        members = self._far.chosen(passed.message, sources)
        if isinstance(passed.message, Pledge) and members:
            asked = self._asked.setdefault(passed.message.pledge_id, {})
            asked |= {member.seen.record.host_id: member for member in members}
            while len(self._asked) > PLEDGES_MAX:
                self._asked.popitem(last=False)
        return members

    async def _ask(self, member: Member, data: bytes, ends: Ends) -> None:
        for answer in await self._far.ask(member, data):
            await self._answered(answer, member.at.ip, ends)

    # ---- in

    async def _hear_hosts(self, asking: socket.socket, ends: Ends) -> None:
        while True:
            await trio.lowlevel.wait_readable(asking)
            for _ in range(BATCH_MAX):
                try:
                    data, source = asking.recvfrom(DATAGRAM_MAX_BYTES + 1)
                except OSError:  # drained, or an ICMP error about what was sent
                    break
                await self._answered(data, multicast.source_address(source), ends)

    async def _answered(self, data: bytes, source: str, ends: Ends) -> None:
        if self._left <= 0:
            self._counters["too many answers"] += 1
            return
        self._left -= 1
        try:
            sealed = unseal(data, realm=self._identity.realm)
            if sealed.kind not in ANSWERS:
                raise BadBytes("unexpected kind")
            audience = user_audience(UserId(self._caller.id))
            said, host = open_sealed(sealed, self._identity, audience=audience, signer="host", wall_s=time.time())
        except (BadBytes, Untrusted) as error:
            self._counters[f"answer {error.reason}"[:60]] += 1
            return
        if isinstance(said, VmOffer | VolumeOffer | Answer) and said.front_door_port:
            self._doors.note(host.id, said.front_door_port, source)
        self._counters["answers"] += 1
        await ends.say(pack_passed(source, data))


def _refused(why: str) -> Refused:
    return Refused("not-passed", (Reason("relay", "to be passed on", why[:120], ""),))
