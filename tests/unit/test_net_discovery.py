"""Hosts are announced by mDNS to who asks, and whatever others say there is read as an address."""

import contextlib
import socket
import struct
from collections.abc import Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from matcher.net import announcing, discovery, dns, multicast
from matcher.net.announcing import announce
from matcher.net.discovery import SERVICE, Announced, Found, answer, is_asked, look, read_answer
from matcher.net.multicast import Link
from matcher.wire.messages import Role

TOLD = Announced("ab" * 8, "5b8894c1fb006b3b", Role.COMPUTE, 7766)
QUESTION = struct.pack(">HHHHHH", 7, 0, 1, 0, 0, 0) + dns.name_bytes(SERVICE) + struct.pack(">HH", 12, 0x8001)
LO = Link(socket.if_nametoindex("lo"), "lo", "127.0.0.1", None)


def test_who_asks_from_a_port_of_its_own_is_answered_under_its_number() -> None:
    asked = is_asked(QUESTION)
    assert asked is not None
    number, question = asked
    said = answer(TOLD, number=number, question=question)
    assert list(read_answer(said, 7)) == [(TOLD.realm_id, 7766)]
    assert len(said) < 512
    with pytest.raises(ValueError, match="no answer"):
        list(read_answer(said, 8))


def test_what_is_told_has_no_name_of_a_host_or_a_realm() -> None:
    said = answer(TOLD)
    for part in (b"_atomos", b"realm=5b8894c1fb006b3b", b"role=compute"):
        assert part in said


def test_nobody_is_answered_who_asks_for_something_else_or_answers() -> None:
    other = QUESTION.replace(b"_atomos", b"_printe")
    for data in (b"", other, answer(TOLD), QUESTION[:-1], b"\xff" * 40, QUESTION[:2] + b"\x84" + QUESTION[3:]):
        assert is_asked(data) is None


@given(st.binary(max_size=300))
def test_whatever_is_heard_nothing_else_is_raised(data: bytes) -> None:
    is_asked(data)
    with contextlib.suppress(ValueError, IndexError, struct.error):
        list(read_answer(data, 0))


@pytest.fixture
def own_port(monkeypatch: pytest.MonkeyPatch) -> int:
    """In place of mDNS's own, on loopback alone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(discovery, "PORT", port)
    monkeypatch.setattr(announcing, "PORT", port)
    return int(port)


def test_a_host_is_found_by_its_realm(own_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multicast, "links", lambda: (LO,))
    found: dict[str, list[Found]] = {}

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(announce, lambda: TOLD)
            await trio.sleep(0.05)
            for realm in (TOLD.realm_id, "0" * 16):
                found[realm] = await trio.to_thread.run_sync(_look(realm))
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert found == {TOLD.realm_id: [Found("127.0.0.1", 7766)], "0" * 16: []}


def _look(realm: str) -> Callable[[], list[Found]]:
    return lambda: look(realm, seconds=0.2)
