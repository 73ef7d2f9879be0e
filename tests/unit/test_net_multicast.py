"""Where an answer goes is decided by the signed question and the way that it came, and by nothing else."""

import errno
import socket
import sys
from collections.abc import Iterator

import pytest

from matcher.net import multicast
from matcher.net.multicast import Link, answer_address, asking_socket, links, listeners
from matcher.wire.messages import Address

V4, V6 = socket.AF_INET, socket.AF_INET6
BOTH = (Address("10.0.0.9", 4000), Address("fe80::9", 4001))


LO = Link(socket.if_nametoindex("lo"), "lo", "127.0.0.9", None)  # an address of its own, if not its first
HERE_6 = "fe80::9"


@pytest.mark.parametrize(
    ("reply", "source", "scope", "expected"),
    [
        (BOTH, "10.0.0.9", 0, ("10.0.0.9", 4000)),
        (BOTH, HERE_6, 7, (HERE_6, 4001, 0, 7)),
        ((Address("fe80:0::9", 4001),), HERE_6, 7, (HERE_6, 4001, 0, 7)),
        ((Address("2001:db8::1", 1),), "2001:db8::1", 7, ("2001:db8::1", 1, 0, 0)),
        ((Address("10.0.0.9", 4000),), HERE_6, 7, None),
        ((Address("fe80::9", 4001),), "10.0.0.9", 0, None),
        ((Address("10.0.0.8", 4000),), "10.0.0.9", 0, None),
        ((Address("fe80::8", 4000),), HERE_6, 7, None),
        ((Address("::ffff:10.0.0.9", 4000),), "10.0.0.9", 0, None),
        ((Address("ff02::1", 1),), "ff02::1", 7, None),
        ((Address("239.255.65.79", 1),), "239.255.65.79", 0, None),
        ((Address("0.0.0.0", 1),), "0.0.0.0", 0, None),
        ((Address("::", 1),), "::", 7, None),
        ((Address("1.2.3.4.5", 1), Address("10.0.0.9", 4000)), "10.0.0.9", 0, ("10.0.0.9", 4000)),
        (BOTH, "nonsense", 0, None),
        ((), "10.0.0.9", 0, None),
    ],
)
def test_only_the_address_that_a_question_came_from_is_answered_and_never_a_group(
    reply: tuple[Address, ...], source: str, scope: int, expected: object
) -> None:
    assert answer_address(reply, source, scope) == expected


def test_a_machine_has_links_each_with_an_address() -> None:
    found = links()
    assert all(isinstance(link, Link) and (link.ipv4 or link.ipv6) for link in found)
    assert len({link.index for link in found}) == len(found)


def test_both_daemons_of_a_host_can_listen_at_the_groups_port() -> None:
    with socket.socket(V4, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    opened = [listener for _ in range(2) for listener in listeners(port)]
    assert len(opened) in (2, 4)
    for listener in opened:
        listener.close()


@pytest.mark.parametrize("missing", [V4, V6])
def test_a_machine_that_knows_one_family_alone_asks_and_listens_with_that(
    missing: socket.AddressFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = socket.socket

    def without(family: int, kind: int) -> socket.socket:
        if family == missing:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return known(family, kind)

    monkeypatch.setattr(socket, "socket", without)
    for opened in (multicast.asking_sockets(), multicast.listeners(0)):
        assert [each.family for each in opened] == [V6 if missing == V4 else V4]
        opened[0].close()


def test_an_asking_socket_has_a_port_of_its_own() -> None:
    with asking_socket(socket.AF_INET) as first, asking_socket(socket.AF_INET) as second:
        assert first.getsockname()[1] != second.getsockname()[1]


@pytest.fixture
def group() -> Iterator[socket.socket]:
    """Hears what is multicast on the loopback link, by IPv4; there is no IPv6 group on it."""
    opened = multicast.listeners(0)
    listener = next(each for each in opened if each.family == V4)
    multicast.join(listener, [LO])
    listener.settimeout(5)
    yield listener
    for each in opened:
        each.close()


def test_a_question_comes_from_the_address_that_its_link_names(group: socket.socket) -> None:
    with asking_socket(V4) as asking:
        assert multicast.ask(asking, b"hello", LO, group.getsockname()[1])
        assert group.recvfrom(100) == (b"hello", ("127.0.0.9", asking.getsockname()[1]))


class Outbox(socket.socket):
    """Sends nothing, and keeps what it was told to send."""

    def sendmsg(self, *words: object) -> int:  # type: ignore[override]
        self.sent = words
        return 0


def test_by_ipv6_too_the_kernel_is_not_asked_to_choose_an_address() -> None:
    with Outbox(V6, socket.SOCK_DGRAM) as outbox:
        assert multicast.ask(outbox, b"hello", Link(3, "eth0", None, HERE_6), 7000)
    pktinfo = socket.inet_pton(V6, HERE_6) + (3).to_bytes(4, sys.byteorder)
    ancillary = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, pktinfo)]
    assert outbox.sent == ([b"hello"], ancillary, 0, (multicast.GROUP_6, 7000, 0, 3))


@pytest.mark.parametrize("family", [V4, V6])
def test_a_link_without_an_address_of_a_family_is_passed_over(family: socket.AddressFamily) -> None:
    with asking_socket(family) as asking:
        assert not multicast.ask(asking, b"hello", Link(LO.index, "lo", None, None), 7000)


def test_news_go_out_once_on_each_link_and_a_link_that_is_away_costs_its_copy_alone(group: socket.socket) -> None:
    away = Link(999_999, "gone0", "192.0.2.77", "fe80::77")
    assert multicast.tell(b"news", group.getsockname()[1], on=[away, LO]) == 1
    assert group.recv(100) == b"news"
    group.settimeout(0.01)
    with pytest.raises(TimeoutError):
        group.recv(100)


def test_who_tells_leaves_no_socket_open(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[socket.socket] = []

    def fails(sending: socket.socket, *_: object) -> bool:
        opened.append(sending)
        raise RuntimeError

    monkeypatch.setattr(multicast, "ask", fails)
    with pytest.raises(RuntimeError):
        multicast.tell(b"news", 7000, on=[LO])
    assert [each.fileno() for each in opened] == [-1]


class Guarded(socket.socket):
    """As the system answers who is not root."""

    def setsockopt(self, level: int, name: int, value: object) -> None:  # type: ignore[override]
        if name == multicast.SO_RCVBUFFORCE:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        self.room = (name, value)


def test_who_may_not_have_more_room_than_everybody_takes_that() -> None:
    with Guarded(V4, socket.SOCK_DGRAM) as guarded:
        multicast.make_room(guarded)
        assert guarded.room == (socket.SO_RCVBUF, multicast.RECEIVE_BUFFER_BYTES)


def test_who_may_has_more_room_than_everybody() -> None:
    class Root(socket.socket):
        def setsockopt(self, *words: object) -> None:  # type: ignore[override]
            self.room = words

    with Root(V4, socket.SOCK_DGRAM) as root:
        multicast.make_room(root)
        assert root.room == (socket.SOL_SOCKET, multicast.SO_RCVBUFFORCE, multicast.RECEIVE_BUFFER_BYTES)
