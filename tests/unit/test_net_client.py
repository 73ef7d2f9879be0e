"""A client hears what hosts of its realm signed for it, and nothing else, whoever sends."""

import dataclasses
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from matcher.net import multicast
from matcher.net.client import Client, Said
from matcher.net.multicast import Link
from matcher.scheduler.listening import PEERS
from matcher.scheduler.outcomes import SendPledge, SendReveal
from matcher.scheduler.placing import Placing
from matcher.scheduler.pledging import Errand
from matcher.trust.identity import Identity
from matcher.wire.codec import decode, encode
from matcher.wire.envelope import REALM, Kind, seal, unseal, user_audience
from matcher.wire.messages import DATAGRAM_MAX_BYTES, Answer, Message, Pledge, Policy, Query, Role
from specs.ids import UserId, VmId
from tests.fakes.realms import make_realm
from tests.unit.test_scheduler_large_realm import OFFER
from tests.unit.test_scheduler_placing import ASK

ANSWER = Answer("a" * 32, "h1", Role.COMPUTE, 7766, 3, "0.1.0", 0, "CPU", "X86_64", "tcg", 2, 2, 9, 9, 0, 0)
HOSTS = tuple(f"h{number}" for number in range(1, PEERS + 4))


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    """ann, bob and seven hosts of one realm; h9 of another."""
    top = tmp_path_factory.mktemp("realms")
    home, away = make_realm(top / "home", "ann", "bob", *HOSTS), make_realm(top / "away", "h9")
    return home.members | away.members


@pytest.fixture
def ann(members: dict[str, Identity]) -> Iterator[Client]:
    with Client(members["ann"]) as client:
        yield client


def told(client: Client, *datagrams: bytes) -> list[Said]:
    """What the client hears of these, sent to where it awaits answers."""
    port = next(s.getsockname()[1] for s in client._sockets if s.family == socket.AF_INET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for datagram in datagrams:
            sender.sendto(datagram, ("127.0.0.1", port))
    heard: list[Said] = []
    until_s = time.monotonic() + 0.05
    while time.monotonic() < until_s:
        heard += client.hear(until_s)
    return heard


def sealed(message: Message, kind: Kind, by: Identity, to: Identity) -> bytes:
    audience = user_audience(UserId(to.principal.id))
    return seal(kind, encode(message), realm=by.realm, signer=by, audience=audience)


def test_a_hosts_answer_is_heard_with_its_id_and_address(ann: Client, members: dict[str, Identity]) -> None:
    h1 = members["h1"]
    assert told(ann, sealed(ANSWER, Kind.ANSWER, h1, ann.identity)) == [Said(ANSWER, h1.principal.id, "127.0.0.1")]


def test_what_is_not_signed_by_a_host_of_the_realm_for_this_user_is_not_heard(
    ann: Client, members: dict[str, Identity]
) -> None:
    h1, bob, h9, me = members["h1"], members["bob"], members["h9"], ann.identity
    good = sealed(ANSWER, Kind.ANSWER, h1, me)
    query = Query("a" * 32, 1, (), "", False)
    assert (
        told(
            ann,
            sealed(ANSWER, Kind.ANSWER, bob, me),  # a user's word about a host
            sealed(ANSWER, Kind.ANSWER, h1, bob),  # what a host told somebody else
            sealed(ANSWER, Kind.ANSWER, h9, me),  # another realm's host
            seal(Kind.QUERY, encode(query), realm=h1.realm, signer=h1, audience=REALM),
            good[:-1],
            good + b"x" * DATAGRAM_MAX_BYTES,
            b"",
            b"\0" * 600,
        )
        == []
    )


def test_a_flood_is_read_to_its_end(ann: Client, members: dict[str, Identity]) -> None:
    good = sealed(ANSWER, Kind.ANSWER, members["h1"], ann.identity)
    assert len(told(ann, *([b"noise" * 50] * 300), good)) == 1


def test_ctrl_c_is_heard_while_listening_and_sockets_are_closed(members: dict[str, Identity]) -> None:
    with Client(members["ann"]) as client:
        opened = list(client._sockets)
        client.interrupts._hear(2, None)
        with pytest.raises(KeyboardInterrupt):
            list(client.hear(time.monotonic() + 5))
    assert all(each.fileno() == -1 for each in opened)


def test_an_answer_made_with_the_older_tag_key_is_heard(tmp_path: Path) -> None:
    realm = make_realm(tmp_path, "ann", "h1")
    me, h1 = realm["ann"], realm["h1"]
    before = sealed(ANSWER, Kind.ANSWER, h1, me)
    key = realm.issuer.new_tag_key(b"k" * 32, number=2, wall_s=time.time())
    for member in (me, h1):
        member.learn([key], time.time())
    after = sealed(ANSWER, Kind.ANSWER, h1, me)
    with Client(me) as client:
        assert len(told(client, before, after)) == 2


LO = Link(socket.if_nametoindex("lo"), "lo", "127.0.0.9", None)


@pytest.fixture
def group() -> Iterator[socket.socket]:
    """Hears what is multicast on the loopback link."""
    opened = multicast.listeners(0)
    listener = next(each for each in opened if each.family == socket.AF_INET)
    multicast.join(listener, [LO])
    listener.settimeout(5)
    yield listener
    for each in opened:
        each.close()


@pytest.fixture
def asker(members: dict[str, Identity], group: socket.socket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Ann, with the loopback link alone."""
    monkeypatch.setattr(multicast, "links", lambda: (LO,))
    with Client(members["ann"], port=group.getsockname()[1]) as client:
        yield client


def test_who_asks_again_asks_the_same_but_of_a_later_moment(
    asker: Client, group: socket.socket, members: dict[str, Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hosts drop what they have heard before, byte for byte."""
    clock = iter((5_000_000_000, 7_000_000_000))
    monkeypatch.setattr(time, "time_ns", lambda: next(clock))
    for _ in range(2):
        asker.ask(Query("a" * 32, 1, (), "web", False))
    boxes = [unseal(group.recv(2000), realm=members["h1"].realm) for _ in range(2)]
    first, second = (decode(Query, box.payload) for box in boxes)
    assert (first.sent_at_ms, second.sent_at_ms) == (5000, 7000)
    assert dataclasses.replace(second, sent_at_ms=5000) == first
    assert boxes[0].signature != boxes[1].signature


def test_a_question_names_the_address_that_it_comes_from(
    asker: Client, group: socket.socket, members: dict[str, Identity]
) -> None:
    asker.ask(Query("a" * 32, 1, (), "", False))
    data, source = group.recvfrom(2000)
    query = decode(Query, unseal(data, realm=members["h1"].realm).payload)
    assert [(address.ip, address.port) for address in query.reply] == [source]
    assert len(data) == DATAGRAM_MAX_BYTES, "so that no answer is longer"


def test_a_pledge_that_names_volumes_goes_by_ipv4_first_where_a_link_has_it(
    members: dict[str, Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that was heard at a link-local address could be asked by nobody else."""
    links = (Link(1, "both", "10.0.0.1", "fe80::1"), Link(2, "six", None, "fe80::2"))
    went: list[tuple[str, int]] = []

    def ask(asking: socket.socket, _: bytes, link: Link, __: int) -> bool:
        went.append((link.name, 4 if asking.family == socket.AF_INET else 6))
        return True

    monkeypatch.setattr(multicast, "links", lambda: links)
    monkeypatch.setattr(multicast, "ask", ask)
    everywhere = [("both", 4), ("both", 6), ("six", 4), ("six", 6)]
    with Client(members["ann"]) as client:
        plain = Pledge("a" * 32, 1, (), False, "b" * 32, 1, None, (), b"", 3000, 0, Policy.PACK)
        with_volumes = dataclasses.replace(plain, pledge_id="c" * 32, volumes=("d" * 32,))
        for question, ways in (
            (plain, everywhere),
            (with_volumes, [way for way in everywhere if way != ("both", 6)]),
            (with_volumes, everywhere),  # nobody answered: by every way
            (dataclasses.replace(with_volumes, pledge_id="e" * 32), [w for w in everywhere if w != ("both", 6)]),
        ):
            went.clear()
            client.ask(question)
            assert sorted(went) == ways


def test_enough_is_said_before_the_rest_is_read(ann: Client, members: dict[str, Identity]) -> None:
    """While answers are read, as many more may come as all the hosts of a large realm."""
    placing = Placing(Errand(VmId("f" * 32), 1, ASK), random=Random(1))
    (pledged,) = placing.start(time.monotonic() + 60, wall_ms=0)  # no slot passes while this test is slow
    assert isinstance(pledged, SendPledge)
    port = next(s.getsockname()[1] for s in ann._sockets if s.family == socket.AF_INET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(PEERS + 3):
            offer = dataclasses.replace(
                OFFER, pledge_id=pledged.pledge.pledge_id, offer_id=f"{number:032x}", score=1.0, hosts_known=10_000
            )
            sender.sendto(sealed(offer, Kind.VM_OFFER, members[f"h{number + 1}"], ann.identity), ("127.0.0.1", port))
    (effect,) = ann._wait(placing)
    assert isinstance(effect, SendReveal)
    assert len(list(ann.hear(time.monotonic() + 1))) == 3
