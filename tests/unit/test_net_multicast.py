"""Where an answer goes is decided by the signed question and the way that it came, and by nothing else."""

import errno
import socket

import pytest

from matcher.net import multicast
from matcher.net.multicast import Link, answer_address, asking_socket, links, listeners
from matcher.wire.messages import Address

V4, V6 = socket.AF_INET, socket.AF_INET6
BOTH = (Address("10.0.0.9", 4000), Address("fe80::9", 4001))


@pytest.mark.parametrize(
    ("reply", "family", "scope", "expected"),
    [
        (BOTH, V4, 0, ("10.0.0.9", 4000)),
        (BOTH, V6, 7, ("fe80::9", 4001, 0, 7)),
        ((Address("2001:db8::1", 1),), V6, 7, ("2001:db8::1", 1, 0, 0)),
        ((Address("10.0.0.9", 4000),), V6, 7, None),
        ((Address("fe80::9", 4001),), V4, 0, None),
        ((Address("ff02::1", 1),), V6, 7, None),
        ((Address("239.255.65.79", 1),), V4, 0, None),
        ((Address("0.0.0.0", 1),), V4, 0, None),
        ((Address("::", 1),), V6, 7, None),
        ((Address("1.2.3.4.5", 1), Address("10.0.0.9", 4000)), V4, 0, ("10.0.0.9", 4000)),
        ((), V4, 0, None),
    ],
)
def test_the_address_of_the_same_family_is_answered_and_never_a_group(
    reply: tuple[Address, ...], family: int, scope: int, expected: object
) -> None:
    assert answer_address(reply, family, scope) == expected


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
