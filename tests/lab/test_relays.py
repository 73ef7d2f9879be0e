"""A laptop elsewhere, on another link, where no multicast gets to: everything works through some host as a relay."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.conftest import Lab, raised, until
from tests.lab.vms import TINY, login_as, plainly

pytestmark = pytest.mark.lab

HOSTS = ("h1", "h2", "h3")
ELSEWHERE, APART = "10.97.0", "10.96.0"  # the client's link, and h3's
FAR = f"{APART}.3"


@pytest.fixture(scope="module")
def routed() -> Iterator[Lab]:
    """h1 and h2 on one link, h3 on a second, the client on a third; a router between them passes no multicast. h3 has
    been told of h1's address, as a seed."""
    with raised("relays", "-n", "3") as lab:
        plainly(lab, "hosts")
        move(lab, "client", ELSEWHERE, 250)
        move(lab, "h3", APART, 3)
        namespace(lab, "switch", "ip", "addr", "add", "10.98.0.254/24", "dev", "br0")
        namespace(lab, "switch", "sysctl", "-qw", "net.ipv4.ip_forward=1")
        for host in ("h1", "h2"):
            namespace(lab, host, "ip", "route", "add", "default", "via", "10.98.0.254")
        for daemon in ("atomd", "storaged"):
            settings = lab.folder("h3") / "etc" / f"{daemon}.toml"
            settings.write_text('seeds = ["10.98.0.1", "10.98.0.2"]\n' + settings.read_text())
            lab.restart("h3", daemon)
        until(lambda: "h3" in names(hosts_seen(lab)))
        yield lab


def namespace(lab: Lab, name: str, *command: str) -> None:
    subprocess.run(["ip", "netns", "exec", f"atomos-{lab.name}-{name}", *command], check=True)


def move(lab: Lab, host: str, net: str, number: int) -> None:
    """Off the switch, to a link that it shares with the router alone; IPv4 only, so that no other way is left."""
    namespace(lab, "switch", "ip", "link", "set", host, "nomaster")
    namespace(lab, "switch", "ip", "addr", "add", f"{net}.1/24", "dev", host)
    namespace(lab, host, "ip", "addr", "flush", "dev", "eth0")
    namespace(lab, host, "ip", "addr", "add", f"{net}.{number}/24", "dev", "eth0")
    namespace(lab, host, "ip", "route", "add", "default", "via", f"{net}.1")


def hosts_seen(lab: Lab, *by: str) -> Any:
    done = plainly(lab, *by, "hosts", "-o", "json", code=None)
    return json.loads(done.out)["hosts"] if done.code == 0 else []


def names(hosts: Any) -> set[str]:
    return {host["name"] for host in hosts}


def offering(lab: Lab, specfile: str, *by: str) -> set[str]:
    """Hosts that a pledge gets to, and that could serve it. Who is listed may not be asked yet: the list may be that of
    another host than the relay."""
    done = plainly(lab, *by, "pledge", specfile, "-o", "json", code=None)
    return {offer["host"] for offer in json.loads(done.out)["offers"]} if done.code == 0 else set()


def relay_of(told: str) -> str:
    return told.split("asking through ")[1].split(" ")[0]


def domains(lab: Lab, vm_id: str) -> list[str]:
    """Where it runs."""
    return [host for host in HOSTS if vm_id in lab.virsh(host, "list", "--name")]


@pytest.fixture
def specfile(tmp_path: Path) -> str:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(TINY))
    return str(path)


def test_hosts_are_found_by_a_relay_and_those_beyond_its_link_as_well(routed: Lab) -> None:
    """Once nobody has answered on the own link; a list of all hosts may come from one that is known from before."""
    assert "asking through h" in plainly(routed, "-v", "ps").err
    done = plainly(routed, "--relay", "10.98.0.1", "hosts", "-o", "json")
    assert names(done.document["hosts"]) == {*HOSTS}
    assert {host["address"] for host in done.document["hosts"] if host["name"] == "h3"} == {FAR}


def test_a_vm_lives_its_whole_life_by_a_relay(routed: Lab, specfile: str) -> None:
    done = plainly(routed, "-v", "run", specfile, "--name", "far", "-o", "json")
    vm = done.document["vm"]
    assert domains(routed, vm["id"]) == [vm["host"]]
    (seen,) = plainly(routed, "ps", "-o", "json").document["vms"]
    assert (seen["name"], seen["state"]) == ("far", "running")
    assert plainly(routed, "console", "far", "--log").code == 0
    plainly(routed, "rm", "--force", "far")
    assert domains(routed, vm["id"]) == []


def test_a_host_on_another_link_than_the_relay_serves_as_well(routed: Lab, specfile: str) -> None:
    """The only one that may: where others offer as well, one that answers late is not waited for."""
    by = ["--relay", "10.98.0.1"]
    until(lambda: offering(routed, specfile, *by) == {*HOSTS})
    for near in ("h1", "h2"):
        routed.exec(near, "atomctl", "drain")
    try:
        done = plainly(routed, *by, "run", specfile, "--name", "apart", "-o", "json")
        vm = done.document["vm"]
        assert vm["host"] == "h3"
        assert domains(routed, vm["id"]) == ["h3"]
        plainly(routed, *by, "rm", "--force", "apart")
    finally:
        for near in ("h1", "h2"):
            routed.exec(near, "atomctl", "drain", "--undo")


def test_volumes_are_made_and_removed_by_a_relay(routed: Lab) -> None:
    made = plainly(routed, "volume", "create", "--name", "there", "--size", "0.125", "-o", "json").document["volume"]
    listed = plainly(routed, "volume", "ls", "-o", "json").document["volumes"]
    assert made["vid"] in {volume["vid"] for volume in listed}
    plainly(routed, "volume", "rm", "there")


@pytest.mark.parametrize("after", ["the line", "the tunnel"])
def test_a_relay_killed_in_the_midst_never_makes_two_vms(routed: Lab, specfile: str, after: str) -> None:
    name = f"midst-{after[4:]}"
    command = ["electros", "-v", "run", specfile, "--name", name, "-o", "json"]
    running = routed.popen("client", *command)
    assert running.stderr is not None
    relay = ""
    for line in running.stderr:
        if "asking through" in line:
            relay = relay_of(line)
        if relay and (after == "the line" or ": through" in line):
            break
    routed.kill(relay, "atomd")
    out, err = running.communicate(timeout=60)
    until(lambda: routed.daemon(relay, "atomd")["state"] == "up")
    if running.returncode == 0:
        vm = json.loads(out)["vm"]
        assert len(domains(routed, vm["id"])) == 1
    else:
        said = json.loads(err[f"\n{err}".index("\n{") :])["error"]["message"]
        assert any(host in said for host in HOSTS), said  # it says whom to ask
    until(lambda: names(hosts_seen(routed)) >= {"h1", "h2"})
    found = [vm for vm in plainly(routed, "ps", "-o", "json").document["vms"] if vm["name"] == name]
    assert len(found) <= 1
    for vm in found:
        plainly(routed, "rm", "--force", vm["id"])


def test_another_relay_is_taken_where_the_last_is_away(routed: Lab) -> None:
    first = relay_of(plainly(routed, "-v", "ps").err)
    routed.stop(first, "atomd")
    try:
        assert relay_of(plainly(routed, "-v", "ps").err) != first
    finally:
        routed.start(first, "atomd")
        until(lambda: names(hosts_seen(routed)) == {*HOSTS})


def test_a_host_with_storage_alone_is_a_relay_as_well(routed: Lab, specfile: str) -> None:
    """Also for hosts on other links, once it speaks for its host in atomd's place."""
    by = ["--relay", "10.98.0.2:7767"]
    routed.stop("h2", "atomd")
    try:
        until(lambda: offering(routed, specfile, *by) == {"h1", "h3"})
        until(lambda: names(hosts_seen(routed, *by)) == {*HOSTS})
        for near in ("h1", "h3"):
            routed.exec(near, "atomctl", "drain")
            done = plainly(routed, *by, "run", specfile, "--name", "lent", "-o", "json")
            assert domains(routed, done.document["vm"]["id"]) == [({"h1", "h3"} - {near}).pop()]
            plainly(routed, *by, "rm", "--force", "lent")
            routed.exec(near, "atomctl", "drain", "--undo")
    finally:
        routed.start("h2", "atomd")
        until(lambda: names(hosts_seen(routed)) == {*HOSTS})


def test_who_is_revoked_gets_nothing_through_a_relay(routed: Lab, tmp_path: Path) -> None:
    """From hosts that know it: those on the issuer's link at once, and those on others once gossip has been there."""
    bob = [*login_as(routed, "bob", tmp_path), "--relay", "10.98.0.2", "ps"]
    assert routed.exec("client", *bob, check=False).returncode == 0
    plainly(routed, "user", "revoke", "bob", "--yes")
    until(lambda: routed.exec("client", *bob, check=False).returncode != 0)
    sent = counted(routed, "h2")
    assert sent > 0
    assert routed.exec("client", *bob, check=False).returncode != 0
    assert counted(routed, "h2") == sent, "nothing was sent for them"
    by_h3 = [word if word != "10.98.0.2" else FAR for word in bob]
    until(lambda: "revoked" in routed.exec("client", *by_h3, check=False).stderr)


def test_a_stranger_gets_nothing_but_a_handshake(routed: Lab) -> None:
    for path in ("/v1/relay", f"/v1/hosts/{'a' * 64}/door?port=7766", "/v1/relayed"):
        for options in ([], ["-X", "POST", "--data", "x"]):
            done = routed.exec("client", "curl", "-sk", *options, f"https://10.98.0.1:7766{path}", check=False)
            assert done.returncode != 0, done.stdout


def test_mdns_tells_those_on_its_link_who_is_there_and_nobody_behind_a_router(routed: Lab) -> None:
    asks = (
        "import socket; from matcher.net import discovery, dns; s = socket.socket(type=socket.SOCK_DGRAM); "
        "s.settimeout(1); asked = dns.name_bytes(discovery.SERVICE) + dns.QUESTION.pack(dns.PTR, dns.IN); "
        "s.sendto(dns.HEADER.pack(7, 0, 1, 0, 0, 0) + asked, ('10.98.0.1', 5353)); "
        "print(list(discovery.read_answer(s.recv(1500), 7)))"
    )
    python = str(Path(sys.executable))
    assert "7766" in routed.exec("h2", python, "-c", asks).stdout
    away = routed.exec("client", python, "-c", asks, check=False)
    assert away.returncode != 0
    assert "timed out" in away.stderr


def counted(lab: Lab, host: str) -> int:
    """Datagrams that it has sent for others."""
    counters = json.loads(lab.exec(host, "atomctl", "status", "-o", "json").stdout)["status"]["counters"]
    return sum(each["count"] for each in counters if each["name"] == "relayed: sent")
