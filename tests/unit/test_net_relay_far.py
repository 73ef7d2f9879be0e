"""Whom a relay asks beyond its links, and where it lets a user's tunnels go."""

import dataclasses

import pytest
import trio

from matcher.gossip.membership import Seen
from matcher.gossip.roster import Record
from matcher.net.relay.doors import DOORS_MAX, TUNNELS_PER_USER_MAX, Doors
from matcher.net.relay.far import is_likely
from matcher.wire.gossip import Alive, Digest, HostState
from matcher.wire.messages import Address, PciAsk, Refused, Role
from specs.ids import HostId
from tests.unit.test_net_intake import PLEDGE
from tests.unit.test_scheduler_placing import ASK

H1 = HostId("1" * 64)
FREE = Digest(arch="X86_32+X86_64", slots=8, slots_free=4, ram_mib=8192, ram_free_mib=4096, devices=1, devices_free=1)
ASKED = dataclasses.replace(PLEDGE, volumes=(), dry=False, vm=dataclasses.replace(ASK, slots=4, ram_mib=4096))
WIDE = Address("127.0.0.1", 1)


def seen(port: int, state: HostState = HostState.ALIVE) -> Seen:
    return Seen(Record(b"1" * 8, H1, "h1", Alive(1, 0, (WIDE,), port, FREE)), state, 0.0)


def test_a_host_is_likely_as_long_as_nothing_in_its_digest_speaks_against_it() -> None:
    assert is_likely(FREE, ASKED)
    assert ASKED.vm is not None
    for less in ({"slots_free": 3}, {"ram_free_mib": 4095}, {"drained": True}, {"arch": "ARM_8"}):
        assert not is_likely(dataclasses.replace(FREE, **less), ASKED), less  # type: ignore[arg-type]
    two = dataclasses.replace(ASKED, vm=dataclasses.replace(ASKED.vm, pci=(PciAsk("10de", "24b0", 2),)))
    assert not is_likely(FREE, two)


def test_of_volumes_a_digest_tells_nothing_and_a_dry_pledge_is_for_all() -> None:
    full = dataclasses.replace(FREE, slots_free=0)
    assert not is_likely(full, ASKED)
    assert is_likely(full, dataclasses.replace(ASKED, volumes=("d" * 32,)))
    assert is_likely(full, dataclasses.replace(ASKED, dry=True))
    storage = Digest((Role.STORAGE,), disk_gb=100, disk_free_gb=50)
    assert not is_likely(storage, dataclasses.replace(ASKED, dry=True)), "it runs no VMs"
    assert is_likely(storage, dataclasses.replace(ASKED, volumes=("d" * 32,)))


def test_a_tunnel_goes_to_a_port_that_the_host_has_signed_and_to_no_other() -> None:
    members = [seen(7766)]
    doors = Doors(lambda: members)
    assert doors.find(H1, 7766) == ("127.0.0.1",)
    assert doors.find(H1, 22) == ()
    assert doors.find("2" * 64, 7766) == ()
    doors.note(H1, 7767, "10.0.0.5")
    assert doors.find(H1, 7767) == ("10.0.0.5",)
    members[:] = [seen(7766, HostState.GONE)]
    assert doors.find(H1, 7766) == ()


def test_what_was_heard_is_forgotten_beyond_a_number() -> None:
    doors = Doors(list)
    for number in range(DOORS_MAX + 1):
        doors.note(f"{number:064x}", 7766, "10.0.0.5")
    assert doors.find(f"{0:064x}", 7766) == ()
    assert doors.find(f"{DOORS_MAX:064x}", 7766) != ()


def test_a_user_has_so_many_tunnels_and_an_ended_one_makes_room() -> None:
    async def main() -> None:
        (listening,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listening.socket.getsockname()[1]
        doors = Doors(lambda: [seen(port)])
        opened = [await doors.open("ann", H1, port) for _ in range(TUNNELS_PER_USER_MAX + 1)]
        refused = opened.pop()
        assert isinstance(refused, Refused)
        assert refused.code == "too-many"
        for tunnel in opened:
            assert not isinstance(tunnel, Refused)
            await tunnel.aclose()
        again = await doors.open("ann", H1, port)
        assert not isinstance(again, Refused)
        await again.aclose()
        await listening.aclose()
        away = await doors.open("ann", H1, port)
        assert isinstance(away, Refused)
        assert away.code == "unavailable"

    trio.run(main)


@pytest.mark.parametrize("port", [0, 22, 7767])
def test_nobody_is_connected_to_where_no_host_is_known(port: int) -> None:
    refused = trio.run(Doors(list).open, "ann", H1, port)
    assert isinstance(refused, Refused)
    assert refused.code == "not-found"
