"""The loop moves bytes: what waits is read in batches, judged, and answered to where it came from."""

import socket
from collections.abc import Iterator

import pytest
import trio

from matcher.net import multicast, peer
from matcher.net.intake import Intake
from matcher.net.multicast import Link
from matcher.net.peer import BATCH_MAX, DATAGRAM_READ_BYTES, answer_waiting
from matcher.trust.identity import Identity
from matcher.wire.codec import encode
from matcher.wire.envelope import REALM, Kind, seal, unseal
from matcher.wire.messages import DATAGRAM_MAX_BYTES, Address, Query
from tests.fakes.realms import make_realm
from tests.unit.test_net_intake import Daemon

LO = Link(socket.if_nametoindex("lo"), "lo", "127.0.0.1", None)


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    return make_realm(tmp_path_factory.mktemp("realm"), "ann", "h1").members


@pytest.fixture
def intake(members: dict[str, Identity]) -> Intake:
    return Intake(members["h1"], Daemon())


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.setblocking(False)
        bound.bind(("127.0.0.1", 0))
        yield bound


@pytest.fixture
def asking() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        bound.settimeout(5)
        yield bound


def query(members: dict[str, Identity], asking: socket.socket, ip: str = "127.0.0.1") -> bytes:
    ann = members["ann"]
    says = Query("a" * 32, peer.wall_ms(), (Address(ip, asking.getsockname()[1]),), "", False)
    return seal(Kind.QUERY, encode(says), realm=ann.realm, signer=ann, audience=REALM, pad_bytes=DATAGRAM_MAX_BYTES)


def test_a_flood_is_read_in_batches_so_that_others_have_a_turn(
    listener: socket.socket, asking: socket.socket, intake: Intake
) -> None:
    for _ in range(BATCH_MAX + 7):
        asking.sendto(b"noise", listener.getsockname())
    assert [answer_waiting(listener, asking, intake) for _ in range(3)] == [BATCH_MAX, 7, 0]
    assert intake.counters == {"length": BATCH_MAX + 7}


def test_what_is_too_long_is_seen_to_be(listener: socket.socket, asking: socket.socket, intake: Intake) -> None:
    asking.sendto(b"aTmO" + bytes(DATAGRAM_READ_BYTES), listener.getsockname())
    answer_waiting(listener, asking, intake)
    assert intake.counters == {"length": 1}


@pytest.mark.parametrize(("ip", "answers"), [("127.0.0.1", 1), ("127.0.0.2", 0)])
def test_an_answer_goes_to_where_the_question_came_from_or_nowhere(
    listener: socket.socket, asking: socket.socket, intake: Intake, members: dict[str, Identity], ip: str, answers: int
) -> None:
    asking.sendto(query(members, asking, ip), listener.getsockname())
    answer_waiting(listener, listener, intake)
    assert intake.counters == ({"query": 1} if answers else {"no address to answer": 1})
    if answers:
        assert unseal(asking.recv(2000), realm=members["ann"].realm).kind is Kind.ANSWER


class Full(socket.socket):
    def sendto(self, *_: object) -> int:  # type: ignore[override]
        raise BlockingIOError(11, "Resource temporarily unavailable")


def test_an_answer_that_can_not_be_sent_is_counted_and_the_next_is_tried(
    listener: socket.socket, asking: socket.socket, intake: Intake, members: dict[str, Identity]
) -> None:
    with Full(socket.AF_INET, socket.SOCK_DGRAM) as full:
        asking.sendto(query(members, asking), listener.getsockname())
        answer_waiting(listener, full, intake)
    assert intake.counters == {"query": 1, "send 11": 1}


async def test_a_daemon_hears_the_group_on_its_links_until_it_is_cancelled(
    intake: Intake, members: dict[str, Identity], asking: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multicast, "links", lambda: (LO,))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: peer.serve(intake, port=port, task_status=task_status))
        assert multicast.ask(asking, query(members, asking), LO, port)
        answer = await trio.to_thread.run_sync(asking.recv, 2000)
        nursery.cancel_scope.cancel()
    assert unseal(answer, realm=members["ann"].realm).kind is Kind.ANSWER
