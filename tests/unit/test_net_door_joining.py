"""Joining at the front door: open while a token is pending, for one who has it; garbage gets nothing."""

import secrets
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from matcher.net.door.admission import Limits
from matcher.net.https import Connection, Door, NotAdmitted
from matcher.net.redeem import redeem
from matcher.net.token_bucket import Rate
from matcher.trust.identity import load_identity, server_tls
from matcher.trust.joining import ALPN, JoinError, Joining
from matcher.trust.principal import Principal, fingerprint
from matcher.trust.tokens import Token
from matcher.wire.codec import decode, encode
from matcher.wire.framing import frame
from matcher.wire.messages import Refused
from matcher.wire.realm import Admitted, Grant, Join, Verb, Welcome, WhoAmI
from tests.fakes.door import Running, To, open_door, until
from tests.fakes.realms import Realm, make_realm

GRANT = Grant(verbs=(Verb.PLEDGE, Verb.RUN))


@pytest.fixture
def realm(tmp_path: Path) -> Realm:
    return make_realm(tmp_path / "home", "ann")


async def redeemed(token: Token, name: str, folder: Path, timeout_s: float = 10.0) -> Principal:
    joined = await trio.to_thread.run_sync(partial(redeem, token, name, folder, timeout_s=timeout_s))
    return joined.principal


async def read_frame(to: To) -> bytes:
    data = bytearray()
    while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
        chunk = await to.tls.receive_some()
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data[4:])


# ---- redeeming


async def test_a_user_with_a_token_becomes_a_member_and_is_served(realm: Realm, tmp_path: Path) -> None:
    async with open_door(realm) as door:
        token = door.desk.token("user", "bob", door.port, GRANT)
        bob = await redeemed(token, "", tmp_path / "bob")
        assert (bob.kind, bob.name, bob.grant) == ("user", "bob", GRANT)
        identity = load_identity(tmp_path / "bob")
        assert (await (await door.connect(identity)).ask("GET", "/v1/host"))[0] == 200


async def test_a_host_says_its_own_name(realm: Realm, tmp_path: Path) -> None:
    async with open_door(realm) as door:
        h7 = await redeemed(door.desk.token("host", "", door.port), "h7", tmp_path / "h7")
        assert (h7.kind, h7.name) == ("host", "h7")
        assert (await (await door.connect(load_identity(tmp_path / "h7"))).ask("GET", "/v1/realm"))[0] == 200


async def test_joining_works_by_ipv6_as_well(realm: Realm, tmp_path: Path) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    async with open_door(realm) as door:
        token = door.desk.token("user", "bob", door.port, GRANT)
        token = replace(token, addresses=("::1",))
        assert (await redeemed(token, "", tmp_path / "bob")).name == "bob"


async def test_an_address_that_leads_nowhere_is_passed_over(realm: Realm, tmp_path: Path) -> None:
    async with open_door(realm) as door:
        token = door.desk.token("user", "bob", door.port, GRANT)
        token = replace(token, addresses=("224.0.0.1", "127.0.0.1"))  # no TCP goes to a multicast address
        assert (await redeemed(token, "", tmp_path / "bob")).name == "bob"


async def test_of_two_who_race_with_one_token_exactly_one_joins(realm: Realm, tmp_path: Path) -> None:
    said: list[str] = []

    async def try_it(token: Token, name: str) -> None:
        try:
            said.append((await redeemed(token, name, tmp_path / name)).name)
        except JoinError as error:
            said.append(str(error))

    async with open_door(realm) as door:
        token = door.desk.token("host", "", door.port)
        async with trio.open_nursery() as nursery:
            for name in ("h8", "h9"):
                nursery.start_soon(try_it, token, name)
        assert len(door.desk.joined) == 1
        assert set(said) & {"h8", "h9"} == set(door.desk.joined)
        assert any("says no" in each and "ask for a new one" in each for each in said)


async def test_an_answer_that_was_lost_is_had_again_with_the_same_request(realm: Realm, tmp_path: Path) -> None:
    async with open_door(realm) as door:
        token = door.desk.token("user", "bob", door.port, GRANT)
        joining = Joining(token, "user")
        for _ in range(2):
            to = await door.connect(None, alpn=ALPN)
            welcome = decode(Welcome, await read_frame(to), max_bytes=1 << 20)
            leaf = to.tls.getpeercert(binary_form=True)
            await to.tls.send_all(frame([encode(joining.answer(welcome, leaf, realm["ann"].starts_s + 400))]))
            admitted = decode(Admitted, await read_frame(to), max_bytes=1 << 20)
        joining.finish(admitted, tmp_path / "bob")
        assert load_identity(tmp_path / "bob").principal.name == "bob"


# ---- sentences for a person


async def test_nobody_who_answers_is_said(realm: Realm, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    token = Token("user", "0" * 64, ("127.0.0.1",), port, "0" * 16, bytes(16))
    with pytest.raises(JoinError, match=f"Nobody answers at 127.0.0.1 port {port}: Connection refused"):
        await redeemed(token, "", tmp_path / "x")


async def test_a_token_that_is_over_is_said(realm: Realm, tmp_path: Path) -> None:
    async with open_door(realm) as door:
        token = door.desk.token("user", "bob", door.port, GRANT)
        door.desk.tokens.count(1e9)  # 15 minutes are over
        with pytest.raises(JoinError, match="nobody waits for this token"):
            await redeemed(token, "", tmp_path / "bob")
        assert door.counters["joined"] == 0


async def test_a_host_of_another_realm_is_found_out_before_anything_is_said(realm: Realm, tmp_path: Path) -> None:
    away = make_realm(tmp_path / "away")
    async with open_door(away) as door:
        door.desk.token("user", "x", door.port, GRANT)
        root = fingerprint(realm.root.key.public_key())
        token = Token("user", root, ("127.0.0.1",), door.port, "0" * 16, bytes(16))
        with pytest.raises(JoinError, match="does not belong to the realm of this token"):
            await redeemed(token, "", tmp_path / "bob")
        assert door.counters["join refused"] == 0


async def test_a_guessed_secret_is_refused_in_the_hosts_words(realm: Realm, tmp_path: Path) -> None:
    async with open_door(realm) as door:
        token = replace(door.desk.token("user", "bob", door.port, GRANT), secret=secrets.token_bytes(16))
        with pytest.raises(JoinError, match=r"The host says no: .*ask for a new one"):
            await redeemed(token, "", tmp_path / "bob")
        assert door.desk.joined == []


async def test_a_name_that_is_none_is_said_before_the_token_is_spent(realm: Realm, tmp_path: Path) -> None:
    async with open_door(realm) as door:
        token = door.desk.token("host", "", door.port)
        for name in ("", "a b", "x" * 65, "../h7"):
            with pytest.raises(JoinError, match="can't be a name"):
                await redeemed(token, name, tmp_path / "h7")
        assert (await redeemed(token, "h7", tmp_path / "h7")).name == "h7"


async def test_a_folder_in_use_is_said_before_the_token_is_spent(realm: Realm, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    async with open_door(realm) as door:
        token = door.desk.token("user", "bob", door.port, GRANT)
        with pytest.raises(JoinError, match="already, and it stays"):
            await redeemed(token, "", realm["ann"].folder)
        with pytest.raises(JoinError, match="The token is still good"):
            await redeemed(token, "", tmp_path / "file" / "bob")
        assert (await redeemed(token, "", tmp_path / "bob")).name == "bob"


@contextmanager
def impostor(realm: Realm, said: bytes) -> Iterator[int]:
    """Speaks joining's ALPN with a host's own key, and says something else."""
    context = server_tls(realm["h0"], joining=True)
    context.set_alpn_protocols([ALPN])
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    plain, _ = listening.accept()
                    with context.wrap_socket(plain, server_side=True) as tls:
                        tls.sendall(said)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(timeout=5)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (b"", "breaks off"),
        (b"\x00\x00", "breaks off"),
        (b"\xff\xff\xff\xff", "can't be read"),
        (b"\x00\x00\x00\x03abc", "can't be read"),
        (frame([encode(Welcome(b"x" * 50))]), "cut short"),
        (frame([encode(Welcome(b""))]), "does not belong"),
    ],
)
def test_whatever_answers_a_token_gets_a_sentence(realm: Realm, tmp_path: Path, said: bytes, sentence: str) -> None:
    root = fingerprint(realm.root.key.public_key())
    with impostor(realm, said) as port, pytest.raises(JoinError, match=sentence):
        redeem(Token("user", root, ("127.0.0.1",), port, "0" * 16, bytes(16)), "", tmp_path / "x", timeout_s=5)


# ---- who knocks without a token


async def test_where_no_token_is_pending_joining_is_not_spoken(realm: Realm) -> None:
    async with open_door(realm) as door:
        to = await door.connect(None, alpn=ALPN)
        assert to.tls.selected_alpn_protocol() is None
        assert await to.is_over()
        assert door.counters["join unreadable"] == 0


@pytest.mark.parametrize(
    ("said", "counted"),
    [
        (b"\xff\xff\xff\xff" + b"x" * 100, "join unreadable"),  # 4 GiB
        (b"\x00\x01\x00\x00", "join unreadable"),
        (b"\x00\x00\x00\x00", "join unreadable"),
        (b"\x00\x00\x00\x04\xde\xad\xbe\xef", "join unreadable"),
        (frame([encode(Refused("x", ()))]), "join unreadable"),
        (frame([encode(Join("0" * 16, b"x", bytes(32)))]) + b"tail", "join unreadable"),
        (frame([encode(Join("0" * 16, b"x", bytes(32)))]), "join refused"),
        (b"GET / HTTP/1.1\r\n\r\n", "join unreadable"),
        (b"", "join too slow"),
        (b"\x00\x00", "join too slow"),
    ],
)
async def test_garbage_ends_it_and_the_token_is_still_good(
    realm: Realm, tmp_path: Path, said: bytes, counted: str
) -> None:
    async with open_door(realm, Limits(join_s=1.0 if "slow" in counted else 30.0)) as door:
        token = door.desk.token("user", "bob", door.port, GRANT)
        to = await door.connect(None, alpn=ALPN)
        await read_frame(to)
        if said:
            await to.tls.send_all(said)
        await until(lambda: door.counters[counted] == 1)
        with suppress(EOFError, trio.BrokenResourceError):
            await read_frame(to)
        assert (await redeemed(token, "", tmp_path / "bob")).name == "bob"


async def test_they_who_knock_and_wait_make_room_for_who_comes_next(realm: Realm, tmp_path: Path) -> None:
    limits = Limits(join_s=600.0, joining_max=8, joining_per_address_max=2)
    async with open_door(realm, limits) as door:
        token = door.desk.token("user", "bob", door.port, GRANT)
        for _ in range(10):
            await read_frame(await door.connect(None, alpn=ALPN))
        assert (await redeemed(token, "", tmp_path / "bob")).name == "bob"
        assert door.counters["strangers pushed out"] >= 8


async def test_an_address_may_not_try_to_join_all_the_time(realm: Realm) -> None:
    async with open_door(realm, Limits(joins_rate=Rate(per_s=0.001, burst=2.0))) as door:
        door.desk.token("user", "bob", door.port, GRANT)
        for _ in range(2):
            await read_frame(await door.connect(None, alpn=ALPN))
        assert await (await door.connect(None, alpn=ALPN)).is_over()
        assert door.counters["joins too often"] == 1


# ---- the blocking client, once in


def door_of(running: Running) -> Door:
    return Door("h0", running.realm["h0"].principal.id, "127.0.0.1", running.port)


async def test_the_client_asks_of_the_realm_messages_and_octets(realm: Realm) -> None:
    def asks(door: Door) -> tuple[WhoAmI | Refused, bytes | Refused]:
        with Connection(realm["ann"], door, timeout_s=5) as connection:
            return connection.ask("GET", "/v1/whoami", WhoAmI), connection.ask_bytes("GET", "/v1/realm/bundle")

    async with open_door(realm) as running:
        known, bundle = await trio.to_thread.run_sync(asks, door_of(running))
        assert isinstance(known, WhoAmI)
        assert bundle == running.desk.bundle()


async def test_a_certificate_that_the_host_does_not_take_is_said_and_nothing_was_asked(
    realm: Realm, tmp_path: Path
) -> None:
    eve = make_realm(tmp_path / "away", "eve")["eve"]
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    tls.load_cert_chain(eve.folder / "leaf.pem", eve.folder / "key.pem")

    def asks(door: Door) -> object:
        with Connection(realm["ann"], door, timeout_s=5, tls=tls) as connection:
            return connection.ask("POST", "/v1/confirms", WhoAmI, bytes(100_000))

    async with open_door(realm) as running:
        with pytest.raises(NotAdmitted, match="your certificate"):
            await trio.to_thread.run_sync(asks, door_of(running))
        assert running.host.bodies == []
