"""What leads to the host itself, or to its VMs, is told by the kernel's routes, in a network of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a network of its own")

NETWORK = """
set -e
ip link set lo up
ip link add wire type veth peer name far
ip addr add 10.7.0.2/24 dev wire; ip link set wire up; ip link set far up
ip link add guests type bridge
ip addr add 192.168.122.1/24 dev guests; ip addr add fd77::1/64 dev guests nodad; ip link set guests up
ip tuntap add card mode tap; ip link set card master guests up
ip link add office type bridge
ip addr add 10.8.0.2/24 dev office; ip link set office up
ip tuntap add card2 mode tap; ip link set card2 master office up
ip link add wire2 type veth peer name far2; ip link set wire2 master office up
ip tuntap add tunnel mode tun; ip link set tunnel up; ip route add 10.9.0.7/32 dev tunnel
ip tuntap add tunnel2 mode tap; ip link set tunnel2 up; ip route add 10.9.0.8/32 dev tunnel2
exec "$@"
"""
ASKED = """
import json, sys
from ipaddress import ip_address
from storaged.images.ways import leads_home
print(json.dumps({text: leads_home(ip_address(text)) for text in sys.argv[1:]}))
"""
ITSELF = ["127.0.0.1", "127.7.7.7", "10.7.0.2", "10.8.0.2", "192.168.122.1", "::1", "fd77::1", "::ffff:10.7.0.2"]
VMS = ["192.168.122.57", "fd77::57", "::ffff:192.168.122.57"]
ELSEWHERE = ["10.9.0.7", "10.9.0.8", "10.7.0.9", "10.8.0.9", "::ffff:10.7.0.9", "203.0.113.1", "2001:db8::1"]


@pytest.fixture(scope="module")
def told() -> dict[str, str | None]:
    python = [sys.executable, "-c", ASKED, *ITSELF, *VMS, *ELSEWHERE]
    command = ["unshare", "--net", "--mount", "sh", "-c", f"mount -t sysfs sysfs /sys\n{NETWORK}", "sh", *python]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    found: dict[str, str | None] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("address", ITSELF)
def test_every_address_of_the_host_is_the_host_itself(told: dict[str, str | None], address: str) -> None:
    assert told[address] == "it is the host itself"


@pytest.mark.parametrize("address", VMS)
def test_a_network_of_vms_alone_leads_to_them(told: dict[str, str | None], address: str) -> None:
    assert told[address] == "it is a VM of this host's"


@pytest.mark.parametrize("address", ELSEWHERE)
def test_other_hosts_are_elsewhere_also_where_vms_share_the_bridge_to_them(
    told: dict[str, str | None], address: str
) -> None:
    assert told[address] is None
