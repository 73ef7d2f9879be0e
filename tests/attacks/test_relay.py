"""A relay that turned bad: it can drop and delay what it passes on, and nothing else comes of whatever it does.

The relay here is a real host of the realm with a real key; the user's client is the one that `electros` has.
"""

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from ssl import SSLError, SSLSocket

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, Message, Request

from matcher.net.client import Client, Said
from matcher.net.https import Door, Unreachable
from matcher.net.relay.calling import Calling
from matcher.trust.identity import Identity, server_tls
from matcher.wire.codec import encode
from matcher.wire.envelope import KIND_OF, Kind, seal, user_audience
from matcher.wire.messages import Address, Answer, Query, Role
from matcher.wire.relay import Lent, Place, pack_passed
from specs.ids import UserId
from tests.fakes.realms import Realm, make_realm

LENT = Lent((Place((Address("10.0.0.1", 4000),), has_ipv4=True),))
QUERY = Query("a" * 32, 1, (), "", False)
ANSWER = Answer("a" * 32, "h1", Role.COMPUTE, 7766, 3, "0.1.0", 0, "CPU", "X86_64", "tcg", 2, 2, 9, 9, 0, 0)

Script = Callable[[str, bytes], Sequence[bytes | tuple[bytes, ...]]]  # path and what was asked -> messages, in parts


@pytest.fixture(scope="module")
def realm(tmp_path_factory: pytest.TempPathFactory) -> Realm:
    """ann, bob, hosts h1 and h2, and h6, the relay."""
    return make_realm(tmp_path_factory.mktemp("realm"), "ann", "bob", "h1", "h2", "h6")


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Realm:
    return make_realm(tmp_path_factory.mktemp("away"), "ann", "h9")


def _converse(tls: SSLSocket, script: Script, lent: bytes) -> None:
    frames, path = WSConnection(ConnectionType.SERVER), ""
    while data := tls.recv(65_536):
        frames.receive_data(data)
        for event in frames.events():
            if isinstance(event, Request):
                path = event.target
                said = [frames.send(AcceptConnection())]
                said += [frames.send(BytesMessage(lent))] if path == "/v1/relay" else []
                tls.sendall(b"".join(said))
            elif isinstance(event, Message):
                for each in script(path, bytes(event.data)):
                    *parts, last = each if isinstance(each, tuple) else (each,)
                    for part in parts:
                        tls.sendall(frames.send(BytesMessage(part, message_finished=False)))
                    tls.sendall(frames.send(BytesMessage(last)))


@contextmanager
def relay(identity: Identity, script: Script, *, lent: bytes | None = None) -> Iterator[Door]:
    """Its front door, on loopback."""
    context, is_over = server_tls(identity), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.05)

        def serve() -> None:
            while not is_over.is_set():
                try:
                    plain, _ = listening.accept()
                    plain.settimeout(3)
                    with context.wrap_socket(plain, server_side=True) as tls:
                        _converse(tls, script, encode(LENT) if lent is None else lent)
                except (SSLError, OSError):
                    continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Door("", "", "127.0.0.1", listening.getsockname()[1])
        finally:
            is_over.set()
            thread.join(timeout=10)
            assert not thread.is_alive()


def answer(by: Identity, to: Identity, message: Answer = ANSWER) -> bytes:
    audience = user_audience(UserId(to.principal.id))
    return seal(KIND_OF[Answer], encode(message), realm=by.realm, signer=by, audience=audience)


def heard_by(me: Identity, door: Door, seconds: float = 0.4) -> list[Said]:
    with Client(me, relays=Calling(me, lambda: [door], is_only=True)) as client:
        client.ask(QUERY)
        heard: list[Said] = []
        until_s = client.now_s() + seconds
        while client.now_s() < until_s and not heard:
            heard += client.hear(until_s)
        heard += client.hear(client.now_s() + 0.05)
        return heard


def test_an_honest_one_is_heard(realm: Realm) -> None:
    """Else nothing below would prove anything."""
    me, h1 = realm["ann"], realm["h1"]
    with relay(realm["h6"], lambda *_: [pack_passed("10.0.0.5", answer(h1, me))]) as door:
        assert heard_by(me, door) == [Said(ANSWER, h1.principal.id, "10.0.0.5")]


def test_an_answer_is_heard_in_however_many_parts_it_comes_and_not_without_end(realm: Realm) -> None:
    me, h1 = realm["ann"], realm["h1"]
    good = pack_passed("10.0.0.5", answer(h1, me))
    with relay(realm["h6"], lambda *_: [(good[:1], b"", good[1:700], good[700:])]) as door:
        assert heard_by(me, door) == [Said(ANSWER, h1.principal.id, "10.0.0.5")]
    with relay(realm["h6"], lambda *_: [(bytes(60_000),) * 5, good]) as door:
        assert heard_by(me, door) == []


def test_no_byte_of_an_answer_can_be_altered(realm: Realm) -> None:
    me, good = realm["ann"], answer(realm["h1"], realm["ann"])
    places = random.Random(7).sample(range(len(good)), 60)
    altered = [good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in places]
    with relay(realm["h6"], lambda *_: [pack_passed("10.0.0.5", each) for each in altered]) as door:
        assert heard_by(me, door) == []


def test_it_can_answer_in_nobodys_name_but_its_own(realm: Realm, away: Realm) -> None:
    """Not with its own key for another host; not with a user's; not with another realm's; not what was said to another
    user; not with anything that is no answer."""
    me, h1, h6 = realm["ann"], realm["h1"], realm["h6"]
    forged = answer(h6, me)
    start = forged.index(h6.certificate)
    as_h1 = forged[:start] + h1.certificate + forged[start + len(h6.certificate) :]
    query = seal(Kind.QUERY, encode(QUERY), realm=me.realm, signer=h6, audience=b"realm")
    said = [as_h1, answer(realm["bob"], me), answer(away["h9"], me), answer(h1, realm["bob"]), query, b"", b"\0" * 1200]
    with relay(h6, lambda *_: [pack_passed("10.0.0.5", each) for each in said] + [b"", b"\xff", b"\0"]) as door:
        assert heard_by(me, door) == []


def test_answers_twice_and_out_of_order_are_each_what_a_host_has_signed(realm: Realm) -> None:
    """Hosts and machines know repeated answers by their ids: to the client, they are the same."""
    me, h1, h2 = realm["ann"], realm["h1"], realm["h2"]
    said = [answer(h2, me), answer(h1, me), answer(h2, me)]
    with relay(realm["h6"], lambda *_: [pack_passed("10.0.0.5", each) for each in said]) as door:
        assert {each.host_id for each in heard_by(me, door)} == {h1.principal.id, h2.principal.id}


def test_a_tunnel_to_where_the_relay_likes_reaches_nobody(realm: Realm) -> None:
    """It answers the user's TLS itself, with the only key that it has."""
    me, h1, h6 = realm["ann"], realm["h1"], realm["h6"]
    with relay(h6, lambda *_: [pack_passed("10.0.0.5", answer(h1, me))]) as lying:
        calls = Calling(me, lambda: [lying], is_only=True)
        with Client(me, relays=calls) as client:
            client.ask(QUERY)
            until_s = client.now_s() + 1
            while client.now_s() < until_s and not client._far:
                list(client.hear(until_s))
            assert client._far == {h1.principal.id}
            ends = []

            def to_itself(*_: object) -> socket.socket:
                mine, theirs = socket.socketpair()
                ends.append(threading.Thread(target=_serve_tls, args=(h6, theirs)))
                ends[-1].start()
                return mine

            calls.tunnel = to_itself  # type: ignore[assignment]
            door = Door("h1", h1.principal.id, "10.0.0.5", 7766)
            with client.connect(door, timeout_s=2) as connection, pytest.raises(Unreachable, match="another host"):
                connection.ask("POST", "/v1/confirms", Answer, b"a secret")
            ends[-1].join(timeout=5)


def _serve_tls(identity: Identity, theirs: socket.socket) -> None:
    """What it hears behind the handshake would be the confirm; nothing comes."""
    theirs.settimeout(2)
    try:
        with server_tls(identity).wrap_socket(theirs, server_side=True) as tls:
            assert tls.recv(1) == b""
    except OSError:
        pass


def test_one_that_is_silent_or_speaks_nonsense_costs_a_while_and_no_more(realm: Realm) -> None:
    me = realm["ann"]
    for lent in (b"", b"\xc1" * 100, encode(Lent(())), b"\0" * 70_000):
        with relay(realm["h6"], lambda *_: [], lent=lent) as door:
            assert heard_by(me, door, 0.1) == []


def test_a_stranger_is_no_relay(realm: Realm, away: Realm) -> None:
    asked: list[str] = []

    def script(path: str, _: bytes) -> list[bytes]:
        asked.append(path)
        return []

    for stranger in (away["h9"], realm["bob"]):
        with relay(stranger, script) as door:
            assert heard_by(realm["ann"], door, 0.1) == []
    assert asked == [], "nothing was said to it"


def test_a_relay_gets_no_word_that_is_of_use_elsewhere(realm: Realm, tmp_path: Path) -> None:
    """What it is given names its own address, in the user's signature."""
    me, given = realm["ann"], []

    def script(_: str, data: bytes) -> list[bytes]:
        given.append(data)
        return []

    with relay(realm["h6"], script) as door:
        heard_by(me, door, 0.1)
    from matcher.net.intake import Arrival, Intake
    from tests.unit.test_net_intake import Daemon

    daemon = Daemon()
    intake = Intake(realm["h1"], daemon)
    elsewhere = Arrival(socket.AF_INET, 0, "10.0.0.66")
    wall_ms = time.time_ns() // 1_000_000
    assert given
    assert intake.receive(given[0], elsewhere, now_s=0.0, wall_ms=wall_ms) == []
    assert daemon.asked == []
