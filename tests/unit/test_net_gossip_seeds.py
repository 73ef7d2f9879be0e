"""Where others may be: what a person may write, what DNS answers, who was there before."""

import contextlib
import socket
import threading
from pathlib import Path
from random import Random
from struct import error as struct_error

import pytest

from matcher.gossip.membership import Membership
from matcher.net.gossip import seeds, srv
from matcher.net.gossip.speaking import Parts
from matcher.wire.gossip import Digest
from matcher.wire.messages import Address, Role
from tests.fakes.gossip import Hand, address, member, record, short

NAME = b"\x07_atomos\x04_udp\x04home\x04test\x00"


def answer(number: int = 7, *, flags: int = 0x8180, places: tuple[tuple[int, int, int, bytes], ...] = ()) -> bytes:
    records = b""
    for priority, weight, port, target in places:
        content = b"".join(each.to_bytes(2, "big") for each in (priority, weight, port)) + target
        records += b"\xc0\x0c\x00\x21\x00\x01\x00\x00\x00\x3c" + len(content).to_bytes(2, "big") + content
    counts = (1, len(places), 0, 0)
    head = b"".join(each.to_bytes(2, "big") for each in (number, flags, *counts))
    return head + NAME + b"\x00\x21\x00\x01" + records


def test_places_come_in_the_order_that_their_owner_prefers() -> None:
    found = srv.places(
        answer(
            places=(
                (20, 0, 7766, b"\x02h3\xc0\x19"),
                (10, 1, 7766, b"\x02h1\xc0\x19"),
                (10, 5, 7000, b"\x02h2\x04home\x04test\x00"),
            )
        ),
        7,
    )
    assert found == [("h2.home.test", 7000), ("h1.home.test", 7766), ("h3.home.test", 7766)]


def test_an_answer_that_is_none_is_not_taken() -> None:
    good = answer(places=((10, 1, 7766, b"\x02h1\xc0\x19"),))
    loop = answer(places=((10, 1, 7766, b"\xc0\x3a"),))
    for bad in (answer(8), answer(flags=0x0100), answer(flags=0x8183), good[:30], good[:-1], loop, b""):
        with pytest.raises((ValueError, IndexError, struct_error)):
            srv.places(bad, 7)
    assert srv.places(answer(), 7) == []


def test_whatever_an_answer_holds_it_ends_with_places_or_an_error() -> None:
    random = Random(1)
    good = bytearray(answer(places=((10, 1, 7766, b"\x02h1\xc0\x19"),) * 3))
    for _ in range(2000):
        spoiled = bytearray(good)
        for _ in range(random.randrange(1, 6)):
            spoiled[random.randrange(len(spoiled))] = random.randrange(256)
        with contextlib.suppress(ValueError, IndexError, struct_error):
            assert len(srv.places(bytes(spoiled), 7)) <= srv.TARGETS_MAX


def test_the_machines_resolver_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:
        resolver.bind(("127.0.0.1", 0))
        resolver.settimeout(5)

        def serve() -> None:
            asked, client = resolver.recvfrom(512)
            assert asked[12:].startswith(NAME)
            said = answer(int.from_bytes(asked[:2], "big"), places=((1, 1, 7001, b"\x09127-0-0-1\xc0\x19"),))
            resolver.sendto(said, client)

        thread = threading.Thread(target=serve)
        thread.start()
        monkeypatch.setattr(srv, "PORT", resolver.getsockname()[1])
        monkeypatch.setattr(srv, "RESOLVERS", tmp_path / "resolv.conf")
        (tmp_path / "resolv.conf").write_text("# ours\nsearch test\nnameserver nonsense\nnameserver 127.0.0.1\n")
        assert srv.look_up("_atomos._udp.home.test") == [("127-0-0-1.home.test", 7001)]
        thread.join()


def test_where_nobody_answers_for_names_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(srv, "RESOLVERS", tmp_path / "none")
    assert srv.look_up("_atomos._udp.home.test") == []


@pytest.mark.parametrize(
    ("seed", "found"),
    [
        ("127.0.0.1", [Address("127.0.0.1", 7766)]),
        ("127.0.0.1:99", [Address("127.0.0.1", 99)]),
        ("::1", [Address("::1", 7766)]),
        ("[::1]:99", [Address("::1", 99)]),
    ],
)
def test_a_seed_is_an_address_with_or_without_a_port(seed: str, found: list[Address]) -> None:
    assert seeds.problem_with(seed) is None
    assert seeds.look_up([seed, seed], 7766) == found


@pytest.mark.parametrize("seed", ["", "h1:0", "h1:99999", "[::1", "a:b:c:d:e:f:g:h:i:j", "h1:port"])
def test_what_names_no_host_is_told_to_be_so(seed: str) -> None:
    assert seeds.problem_with(seed) is not None


def test_who_lives_is_kept_over_a_restart_and_a_file_that_is_none_is_no_obstacle(tmp_path: Path) -> None:
    made = member(80)
    seeds.keep(tmp_path, made.hosts(), made.roster.me)
    kept = seeds.load(tmp_path)
    assert len(kept) == seeds.KEPT_MAX
    assert address(0) not in kept
    assert seeds.hosts_kept(tmp_path) == 80
    for content in ("", "{", '{"peers": [["nonsense", 1]], "hosts": "many"}', '{"peers": 7}', "[]"):
        (tmp_path / seeds.FILE).write_text(content)
        assert seeds.load(tmp_path) == []
        assert seeds.hosts_kept(tmp_path) == 0


def test_a_member_that_was_alone_asks_those_of_before() -> None:
    made = Membership(record(0).alive, Hand(0), random=Random(1), now_s=0.0, seeds=[address(4)])
    assert [each.to for each in made.tick(0.0) if hasattr(each, "to")] == [address(4)]
    assert short(4) not in made.roster.records


# ---- of two daemons one speaks


def test_storaged_speaks_while_there_is_no_atomd_and_atomd_says_what_both_know(tmp_path: Path) -> None:
    storage, compute = Parts(tmp_path, Role.STORAGE), Parts(tmp_path, Role.COMPUTE)
    disk, threads = Digest((Role.STORAGE,), disk_gb=100, disk_free_gb=7), Digest((Role.COMPUTE,), "X86_64", slots=8)
    storage.open()
    storage.write(disk)
    assert storage.speaks
    assert storage.joined(disk) == disk
    compute.open()
    compute.write(threads)
    try:
        assert compute.speaks
        assert not storage.speaks
        joined = Digest((Role.COMPUTE, Role.STORAGE), "X86_64", slots=8, disk_gb=100, disk_free_gb=7)
        assert compute.joined(threads) == joined
        storage.write(Digest((Role.STORAGE,), disk_gb=100, disk_free_gb=1000))
        assert compute.joined(threads).disk_free_gb == 1000
        storage.close()
        assert compute.joined(threads) == threads, "what a daemon said that is no more counts for nothing"
    finally:
        compute.close()
    assert storage.speaks


def test_a_part_that_can_not_be_read_is_left_out(tmp_path: Path) -> None:
    storage, compute = Parts(tmp_path, Role.STORAGE), Parts(tmp_path, Role.COMPUTE)
    storage.open()
    try:
        assert compute.joined(Digest()) == Digest()
        (tmp_path / ".gossip.storage").write_bytes(b"\xff{")
        assert compute.joined(Digest()) == Digest()
    finally:
        storage.close()
