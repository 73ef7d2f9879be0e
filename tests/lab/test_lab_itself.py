"""The lab is what it claims to be: hosts of their own, a switch that floods, real VMs, and nothing left behind."""

import fcntl
import os
import re
import signal
import subprocess
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.lab

DOMAIN = """
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>128</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features><acpi/></features>
  <cpu mode='maximum'/>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='{format}'/>
      <source file='/srv/atomos/{vid}.elimg/data.img'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <interface type='network'><source network='default'/><model type='virtio'/></interface>
    <memballoon model='none'/>
    <serial type='pty'><log file='/var/lib/atomos/{name}.log'/></serial>
  </devices>
</domain>
"""

LISTEN = """
import socket, struct, sys
group, here, family = sys.argv[1], sys.argv[2], socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.bind(("", 17998))
if family == socket.AF_INET6:
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP,
                 socket.inet_pton(family, group) + struct.pack("@I", socket.if_nametoindex("eth0")))
else:
    s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + socket.inet_aton(here))
s.settimeout(10)
print("listening", flush=True)
data, sender = s.recvfrom(100)
print(data.decode(), sender[0], flush=True)
"""

SAY = """
import socket, sys
group = sys.argv[1]
if ":" in group:
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex("eth0"))
else:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.sendto(b"hello", (group, 17998))
"""


def namespaces(lab: Any) -> list[str]:
    return [path.name for path in Path("/run/netns").glob(f"atomos-{lab.name}-*")]


def processes(lab: Any) -> list[str]:
    """Command lines of everything that lives in one of the lab's network namespaces, or is a PID 1 of its hosts."""
    inodes = {os.stat(f"/run/netns/{name}").st_ino for name in namespaces(lab)}
    found = []
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            line = (proc / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if (proc / "ns/net").stat().st_ino in inodes or f"lablib/init.py {lab.name} " in line:
                found.append(line)
        except OSError:
            continue
    return found


def thresholds() -> list[str]:
    return [path.read_text() for path in sorted(Path("/proc/sys/net/ipv4/neigh/default").glob("gc_thresh*"))]


def traces(lab: Any) -> list[str]:
    """All that a lab could leave on the machine."""
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if lab.name in line]
    folders = [str(path) for base in ("/run", "/var/lib") for path in Path(base, "atomos-lab").glob(f"{lab.name}*")]
    return [*namespaces(lab), *processes(lab), *mounts, *folders]


def boot(lab: Any, until: Callable[..., Any], host: str, volume: str, image_format: str = "raw") -> str:
    """Start the volume's guest under libvirt; its serial output up to where its page can be fetched."""
    text = DOMAIN.format(name=volume, vid=lab.volumes(host)[volume], format=image_format)
    (lab.folder(host) / "etc" / f"{volume}.xml").write_text(text)
    console = lab.folder(host) / "lib" / f"{volume}.log"
    lab.virsh(host, "create", f"/etc/atomos/{volume}.xml")
    until(lambda: console.exists() and "ATOMOS-HTTP" in console.read_text(errors="replace"), within_s=90)
    return console.read_text(errors="replace")


def test_each_host_is_a_machine_of_its_own(bare_lab: Any) -> None:
    for host, address in (("h1", "10.98.0.1"), ("h2", "10.98.0.2"), ("client", "10.98.0.250")):
        assert bare_lab.exec(host, "hostname").stdout.strip() == host
        assert address in bare_lab.exec(host, "ip", "-4", "-br", "address", "show", "eth0").stdout
        assert bare_lab.exec(host, "cat", "/etc/hostname").stdout.strip() == host
    uuids = {bare_lab.virsh(host, "capabilities").split("<uuid>")[1].split("<")[0] for host in ("h1", "h2")}
    assert len(uuids) == 2
    bare_lab.exec("h1", "touch", "/etc/atomos/mine", "/srv/atomos/mine", "/var/lib/atomos/mine", "/run/mine")
    for path in ("/etc/atomos/mine", "/srv/atomos/mine", "/var/lib/atomos/mine", "/run/mine"):
        assert bare_lab.exec("h2", "test", "-e", path, check=False).returncode == 1
        assert not Path(path).exists(), "a host writes into the machine's own folders"


@pytest.mark.parametrize("group", ["239.98.7.1", "ff02::9807"])
def test_multicast_reaches_another_host(bare_lab: Any, group: str) -> None:
    listener = bare_lab.popen("h2", "python3", "-c", LISTEN, group, "10.98.0.2")
    assert listener.stdout.readline() == "listening\n"
    bare_lab.exec("h1", "python3", "-c", SAY, group)
    heard, _ = listener.communicate(timeout=15)
    said, sender = heard.split()
    assert said == "hello"
    assert sender == "10.98.0.1" or sender.startswith("fe80:")


def test_a_guest_gets_an_address_and_serves_its_page_to_its_host(bare_lab: Any, until: Callable[..., Any]) -> None:
    serial = boot(bare_lab, until, "h2", "h2-boot")
    assert "ATOMOS-GUEST-UP boots=1 " in serial
    address = re.findall(r"ATOMOS-HTTP (\S+)", serial)[-1]
    assert address in bare_lab.virsh("h2", "domifaddr", "h2-boot")
    page = bare_lab.exec("h2", "busybox", "wget", "-q", "-O", "-", f"http://{address}/").stdout
    assert "ATOMOS-GUEST-UP" in page
    assert f"ip {address}" in page
    bare_lab.virsh("h2", "shutdown", "h2-boot")  # the power button
    until(lambda: "h2-boot" not in bare_lab.virsh("h2", "list"), within_s=30)
    assert "ATOMOS-GUEST-UP boots=2 " in boot(bare_lab, until, "h2", "h2-boot"), "the volume forgot its first boot"
    bare_lab.virsh("h2", "destroy", "h2-boot")


def test_the_qcow2_volume_boots_as_well(bare_lab: Any, until: Callable[..., Any]) -> None:
    assert "ATOMOS-GUEST-UP boots=1 " in boot(bare_lab, until, "h1", "h1-qcow2", "qcow2")
    bare_lab.virsh("h1", "destroy", "h1-qcow2")


def test_a_vm_outlives_a_killed_libvirtd_which_comes_back_by_itself(bare_lab: Any, until: Callable[..., Any]) -> None:
    boot(bare_lab, until, "h1", "h1-boot")
    before = bare_lab.daemon("h1", "libvirtd")
    bare_lab.kill("h1", "libvirtd")
    until(lambda: (now := bare_lab.daemon("h1", "libvirtd"))["state"] == "up" and now["pid"] != before["pid"])
    assert bare_lab.daemon("h1", "libvirtd")["restarts"] == before["restarts"] + 1
    assert "running" in bare_lab.virsh("h1", "list")
    bare_lab.virsh("h1", "destroy", "h1-boot")


def test_a_daemon_stopped_on_purpose_stays_stopped(bare_lab: Any) -> None:
    bare_lab.stop("h2", "virtlogd")
    time.sleep(0.5)
    assert bare_lab.daemon("h2", "virtlogd")["state"] == "stopped"
    bare_lab.start("h2", "virtlogd")
    assert bare_lab.daemon("h2", "virtlogd")["state"] == "up"


def test_exec_passes_exit_codes_signals_folder_and_input(bare_lab: Any, tmp_path: Path) -> None:
    assert bare_lab.exec("h1", "sh", "-c", "exit 7", check=False).returncode == 7
    assert bare_lab.exec("h1", "sh", "-c", "kill -KILL $$", check=False).returncode == 128 + signal.SIGKILL
    assert bare_lab.exec("h1", "no-such-command", check=False).returncode == 127
    assert bare_lab.exec("h1", "pwd").stdout.strip() == os.getcwd()
    assert bare_lab.exec("nobody", "true", check=False).stderr.startswith('lab: no host "nobody" is up')


def test_a_signal_to_exec_reaches_the_command_and_its_death_ends_it(bare_lab: Any, until: Callable[..., Any]) -> None:
    script = "import sys, time\ntry: print('on', flush=True); time.sleep(60)\nexcept KeyboardInterrupt: sys.exit(9)"
    asked = bare_lab.popen("h1", "python3", "-c", script)
    assert asked.stdout.readline() == "on\n"
    asked.send_signal(signal.SIGINT)
    assert asked.wait(timeout=10) == 9
    asked.communicate()
    killed = bare_lab.popen("h1", "sleep", "4321")
    until(lambda: "sleep 4321" in bare_lab.exec("h1", "ps", "-eo", "args").stdout)
    killed.kill()
    killed.communicate()
    until(lambda: "sleep 4321" not in bare_lab.exec("h1", "ps", "-eo", "args").stdout)


def test_up_when_already_up_says_so_and_harms_nothing(bare_lab: Any) -> None:
    again = bare_lab.command("up", "-n", "2", "--no-daemons", check=False)
    assert again.returncode == 1
    assert "is up already: h1 h2 client" in again.stderr
    assert bare_lab.status()["up"]


def test_down_leaves_nothing_and_twice_is_as_good_as_once(make_lab: Callable[..., Any]) -> None:
    lab = make_lab("-n", "2", "--no-daemons")
    assert len(namespaces(lab)) == 4
    assert traces(lab)
    sleeper = lab.popen("h1", "sleep", "4322")
    lab.command("down")
    assert sleeper.communicate(timeout=10) == ("", "")
    assert sleeper.returncode == 128 + signal.SIGKILL
    assert traces(lab) == []
    assert "was not up" in lab.command("down").stderr


def test_down_cleans_up_after_a_host_whose_init_was_killed(
    make_lab: Callable[..., Any], until: Callable[..., Any]
) -> None:
    lab = make_lab("-n", "2", "--no-daemons")
    init = next(host["pid"] for host in lab.status()["hosts"] if host["name"] == "h1")
    os.kill(init, signal.SIGKILL)
    until(lambda: not lab.status()["up"])  # it dies in its own time
    assert [host["pid"] is None for host in lab.status()["hosts"]] == [True, False, False]
    lab.command("down")
    assert traces(lab) == []


@pytest.mark.parametrize("after_s", [0.15, 0.35, 0.6])
def test_down_cleans_up_after_an_up_that_was_killed(make_lab: Callable[..., Any], after_s: float) -> None:
    lab = make_lab("-n", "1", "--no-daemons")
    lab.command("down")
    environment = os.environ | {"ATOMOS_LAB": lab.name}
    up = [str(Path(__file__).parents[2] / "packaging" / "lab"), "up", "-n", "3", "--no-daemons"]
    rising = subprocess.Popen(up, env=environment, stderr=subprocess.DEVNULL)
    time.sleep(after_s)
    rising.kill()
    rising.wait()
    lab.command("down")
    time.sleep(0.2)  # a newborn whose gate has closed needs a moment to go
    assert traces(lab) == []


def test_the_neighbour_table_is_as_it_was_when_the_last_lab_is_down(make_lab: Callable[..., Any]) -> None:
    others = list(Path("/run").glob("atomos-lab/*/plan.json"))
    before = thresholds()
    lab = make_lab("-n", "1", "--no-daemons")
    assert int(thresholds()[2]) >= 32768
    lab.command("down")
    if others:
        assert int(thresholds()[2]) >= 32768, "another lab is up and needs them"
    else:
        assert thresholds() == before


def test_the_neighbour_table_stays_as_it_is_while_a_bench_needs_it(make_lab: Callable[..., Any]) -> None:
    with Path("/run/atomos-neighbours.lock").open("a") as room:
        fcntl.flock(room, fcntl.LOCK_SH)
        make_lab("-n", "1", "--no-daemons").command("down")
        assert int(thresholds()[2]) >= 32768
    make_lab("-n", "1", "--no-daemons").command("down")  # which sets back what the one before had to leave


def test_two_labs_live_side_by_side(bare_lab: Any, make_lab: Callable[..., Any]) -> None:
    other = make_lab("-n", "1", "--no-daemons")
    assert other.exec("h1", "hostname").stdout == bare_lab.exec("h1", "hostname").stdout
    assert "ok" in other.exec("h1", "sh", "-c", "test ! -e /etc/atomos/mine && echo ok").stdout
    other.command("down")
    assert bare_lab.status()["up"]


def test_a_wrong_command_is_one_line_on_stderr(bare_lab: Any) -> None:
    for words, part in (
        (("up", "-n", "0"), "a lab has 1 to 200 hosts"),
        (("up", "--pretend", "h1"), "write HOST=ROOT"),
        (("up", "--pretend", "h9=/"), "the hosts are h1 to h3"),
        (("restart", "h1", "nothing"), "no such daemon"),
        (("logs", "h8"), 'no host "h8"'),
        (("kill", "h1", "libvirtd", "--signal", "NOSE"), "no such signal"),
        (("fly",), "invalid choice"),
    ):
        wrong = bare_lab.command(*words, check=False)
        assert wrong.returncode in (1, 2)
        assert part in wrong.stderr
        assert len(wrong.stderr.splitlines()) == 1, textwrap.shorten(wrong.stderr, 300)


def test_when_up_returns_every_host_answers(lab: Any) -> None:
    hosts = lab.electros("hosts")["hosts"]
    assert sorted(host["name"] for host in hosts) == ["h1", "h2", "h3"]
    assert all(sorted(host["roles"]) == ["compute", "storage"] for host in hosts)
    assert lab.status()["up"]


def test_killed_daemons_come_back_and_answer_again(lab: Any, until: Callable[..., Any]) -> None:
    before = {name: lab.daemon("h3", name)["pid"] for name in ("atomd", "storaged")}
    for name in before:
        lab.kill("h3", name)
    for name, pid in before.items():
        until(lambda name=name, pid=pid: (now := lab.daemon("h3", name))["state"] == "up" and now["pid"] != pid)
    until(lambda: lab.electros("hosts", "h3")["hosts"][0]["roles"] == ["compute", "storage"])
