"""The packages as a person gets them: built, installed by dpkg under a real systemd, upgraded, removed, purged."""

import json
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lab.machine import Machine, booted, why_not

pytestmark = pytest.mark.lab

ROOT = Path(__file__).resolve().parents[2]
DAEMONS = ("storaged", "atomd")
NEWER = "99.0"
VID = "4f3c2d1e0b9a48f7a6d5c4b3a2918070"
FOLDER = f"/srv/atomos/{VID}.elimg"
LISTENING = r"#!/bin/sh\necho $1 >> /root/said\n/root/storaged $1; echo $? >> /root/said\n"
STORAGED_NEEDS = {0, 1, 5, 6, 7, 28}  # chown, dac_override, kill, setgid, setuid, lease
ATOMD_NEEDS = {0, 1, 3, 5, 6, 7}  # chown, dac_override, fowner, kill, setgid, setuid


@dataclass(frozen=True)
class Packages:
    host: Path
    newer: Path
    client: Path


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    if reason := why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("packages")
    return Packages(_built(folder, "host"), _built(folder, "--version", NEWER, "host"), _built(folder, "client"))


def _built(folder: Path, *arguments: str) -> Path:
    done = subprocess.run([ROOT / "packaging/deb/build", "--out", folder, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def installed(machine: Machine, package: Path) -> str:
    """What dpkg said when it installed it."""
    machine.copy(package, f"/root/{package.name}")
    done = machine.run("dpkg", "--force-unsafe-io", "-i", f"/root/{package.name}")
    return done.stdout + done.stderr


def are_active(machine: Machine) -> bool:
    return all(machine.is_active(unit) for unit in DAEMONS)


def pid_of(machine: Machine, unit: str) -> int:
    return int(machine.shows(unit, "MainPID"))


def status(machine: Machine, unit: str, key: str) -> str:
    """A line of /proc/PID/status of a daemon."""
    lines = machine.sh(f"cat /proc/{pid_of(machine, unit)}/status").splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{key}:"))


def capabilities_in(mask: str) -> set[int]:
    """As the kernel numbers them."""
    return {bit for bit in range(64) if int(mask, 16) >> bit & 1}


def lay_volume(machine: Machine) -> None:
    """A bootable volume as a sysadmin makes one, its image readable by root alone."""
    guest = subprocess.run([ROOT / "packaging/guest"], capture_output=True, text=True, check=True).stdout.strip()
    machine.copy(Path(guest), "/root/guest.img")
    machine.sh(
        f"""
        mkdir -p {FOLDER}
        install -m 600 /root/guest.img {FOLDER}/data.img
        echo '{{ size: 0.125, name: boot, bootable: true, format: raw }}' > {FOLDER}/meta.json
        echo '[{{"vid": "{VID}"}}]' > /root/volumes.json
        """
    )


def run_vm(machine: Machine) -> dict[str, Any]:
    specfile = "/usr/share/doc/atomos/examples/helium.json"
    options = [
        "--volumes",
        "/root/volumes.json",
        "--name",
        "web",
        "--allow-emulation",
        "--wait",
        "address",
        "-o",
        "json",
    ]
    return dict(json.loads(machine.run("electros", "run", specfile, *options).stdout))


def qemu(machine: Machine) -> int | None:
    """The process of the one VM there is."""
    pids = machine.sh("pgrep -f '^/usr/bin/qemu-system-x86_64 -name guest=atomos-'", check=False).split()
    return int(pids[0]) if pids else None


def answer(machine: Machine, *command: str) -> dict[str, Any]:
    """What electros prints as JSON; nothing where it fails."""
    done = machine.run("electros", *command, "-o", "json", check=False)
    return dict(json.loads(done.stdout)) if done.returncode == 0 else {}


def in_realm(machine: Machine, until: Callable[..., Any]) -> None:
    """The first host of a realm, as README says."""
    machine.run("electros", "realm", "create", "home")
    until(lambda: roles(machine) == [{"compute", "storage"}], within_s=60)


def roles(machine: Machine) -> list[set[str]]:
    """Of each host that answers on its link."""
    return [set(each["roles"]) for each in answer(machine, "hosts").get("hosts", [])]


@pytest.fixture(scope="module")
def host(packages: Packages, until: Callable[..., Any]) -> Iterator[Machine]:
    """A realm's first host, with a VM that runs on a volume of its own."""
    with booted() as machine:
        installed(machine, packages.host)
        in_realm(machine, until)
        lay_volume(machine)
        run_vm(machine)
        yield machine


# ---- the package, on a machine that is in no realm


@pytest.fixture
def machine(packages: Packages) -> Iterator[Machine]:
    with booted() as machine:
        yield machine


def test_a_fresh_host_has_folders_a_group_and_units_and_is_told_what_comes_next(
    machine: Machine, packages: Packages
) -> None:
    said = installed(machine, packages.host)
    assert "electros realm create NAME" in said
    assert "atomd join TOKEN" in said
    there = "/etc/atomos /run/atomos /var/lib/atomos /var/lib/atomos/issuer /var/log/atomos /srv/atomos"
    modes = machine.sh(f"stat -c '%n %a %U:%G' {there} /var/log/atomos/audit.jsonl")
    assert modes.splitlines() == [
        "/etc/atomos 755 root:root",
        "/run/atomos 755 root:root",
        "/var/lib/atomos 700 root:root",
        "/var/lib/atomos/issuer 700 root:root",
        "/var/log/atomos 2750 root:atomos",
        "/srv/atomos 755 root:root",
        "/var/log/atomos/audit.jsonl 640 root:atomos",
    ]
    assert int(machine.sh("getent group atomos").split(":")[2]) < 1000
    assert machine.sh("getent passwd atomos-storage").endswith(":/nonexistent:/usr/sbin/nologin")
    assert machine.sh("systemctl is-enabled atomd storaged").split() == ["enabled", "enabled"]
    assert machine.sh("systemd-analyze verify --man=no atomd.service storaged.service 2>&1") == ""


def test_commands_run_without_a_network_and_with_nothing_but_the_package(machine: Machine, packages: Packages) -> None:
    installed(machine, packages.host)
    version = machine.sh("dpkg-query -W -f '${Version}' atomos")
    for command in ("electros", "atomd", "storaged"):
        assert machine.run(command, "--version").stdout.strip() == version
        assert command in machine.run(command, "--help").stdout
    assert json.loads(machine.run("atomd", "inventory", "-o", "json").stdout)["cpu"]
    assert "0 volumes" in machine.run("storaged", "volumes").stdout
    asks = "import sys; sys.path.insert(0, '/usr/lib/atomos/python'); import libvirt, trio"
    came_from = machine.run("python3", "-ISc", f"{asks}; print(libvirt.__file__, trio.__file__)").stdout
    assert all(path.startswith("/usr/lib/atomos/python/") for path in came_from.split())
    fresh = machine.sh("find /usr/lib/atomos -newer /var/lib/dpkg/info/atomos.list -type f")
    assert fresh == "", "bytecode was in the package, so that running it writes none"


def test_the_client_alone_has_no_daemon_and_makes_way_for_a_host(machine: Machine, packages: Packages) -> None:
    installed(machine, packages.client)
    assert machine.run("electros", "--version").returncode == 0
    assert machine.sh("electros spec validate /usr/share/doc/atomos-client/examples/helium.json") is not None
    assert (
        machine.sh("ls /usr/bin/atomd /usr/lib/atomos/python/libvirt.py /usr/lib/atomos/python/atomd", check=False)
        == ""
    )
    installed(machine, packages.host)
    assert machine.sh("dpkg-query -W -f '${db:Status-Status}' atomos-client", check=False) in ("", "not-installed")
    assert machine.run("electros", "--version").returncode == 0


def test_an_image_that_is_being_built_gets_enabled_units_and_no_running_daemon(
    machine: Machine, packages: Packages
) -> None:
    machine.copy(packages.host, "/root/atomos.deb")
    machine.sh("unshare --mount sh -c 'mount -t tmpfs none /run && dpkg --force-unsafe-io -i /root/atomos.deb'")
    assert machine.sh("systemctl is-enabled atomd storaged").split() == ["enabled", "enabled"]
    assert [machine.shows(unit, "MainPID") for unit in DAEMONS] == ["0", "0"]


def test_a_libvirt_that_comes_after_storaged_is_hidden_from_it_as_well(machine: Machine, packages: Packages) -> None:
    hidden, units = "/run/libvirt", "libvirtd.service libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket"
    machine.sh(f"systemctl mask --runtime {units} virtlogd.socket virtlockd.socket; rm -rf {hidden}")
    installed(machine, packages.host)
    machine.sh(f"systemctl unmask --runtime {units}; systemctl start libvirtd.socket")
    assert "libvirt-sock" in machine.sh(f"ls -A {hidden}")
    inside = f"nsenter --target {pid_of(machine, 'storaged')} --mount"
    assert machine.sh(f"{inside} ls -A {hidden} 2>/dev/null", check=False) == ""


def test_an_unclaimed_host_is_up_and_takes_its_identity_without_a_restart(
    machine: Machine, packages: Packages, until: Callable[..., Any]
) -> None:
    installed(machine, packages.host)
    assert are_active(machine), "dpkg waited until they had said READY=1"
    assert "belongs to no realm yet" in machine.journal("atomd")
    before = {unit: pid_of(machine, unit) for unit in DAEMONS}
    in_realm(machine, until)
    assert {unit: pid_of(machine, unit) for unit in DAEMONS} == before


# ---- a host at work


def test_the_daemons_of_a_realms_first_host_are_ready_and_offer(host: Machine) -> None:
    assert [host.shows(unit, "ActiveState") for unit in DAEMONS] == ["active", "active"]
    assert [host.shows(unit, "StatusErrno") for unit in DAEMONS] == ["0", "0"]
    assert roles(host) == [{"compute", "storage"}]


def test_storaged_serves_a_volume_as_a_user_of_its_own_with_six_capabilities(host: Machine) -> None:
    uid = host.sh("id -u atomos-storage")
    assert status(host, "storaged", "Uid").split() == [uid] * 4
    for kind in ("CapEff", "CapBnd", "CapPrm"):
        assert capabilities_in(status(host, "storaged", kind)) == STORAGED_NEEDS
    assert status(host, "storaged", "NoNewPrivs") == "1"
    assert status(host, "storaged", "Seccomp") == "2"
    held = json.loads(host.sh(f"cat {FOLDER}/attachment.json"))
    assert held["held"] is True
    assert host.sh(f"stat -c %U {FOLDER}/attachment.json {FOLDER}/data.img").split() == [
        "atomos-storage",
        "libvirt-qemu",
    ]


def test_qemu_img_is_a_user_without_capabilities_or_network_whom_storaged_lends_one_file(host: Machine) -> None:
    witness = """
        #!/bin/sh
        { cat /proc/self/status /proc/net/dev; cat /srv/atomos/*/data.img | wc -c; } > /tmp/witness 2> /tmp/denied
        exec /usr/bin/qemu-img "$@"
    """
    host.run(
        "tee", "/usr/sbin/qemu-img", stdin=textwrap.dedent(witness).lstrip()
    )  # before the other in storaged's path
    host.sh("chmod 755 /usr/sbin/qemu-img")
    try:
        made = answer(host, "volume", "create", "--size", "1", "--name", "q", "--format", "qcow2")["volume"]
    finally:
        host.sh("rm /usr/sbin/qemu-img")
    inside = f"nsenter --target {pid_of(host, 'storaged')} --mount"
    said = host.sh(f"{inside} cat /tmp/witness")
    facts = {name.strip(): value.split() for name, _, value in (line.partition(":") for line in said.splitlines())}
    assert facts["Uid"] == [host.sh("id -u atomos-img")] * 4
    assert facts["Groups"] == []
    assert [capabilities_in(facts[name][0]) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [set()] * 4
    assert facts["NoNewPrivs"] == ["1"]
    assert "lo" in facts
    assert "eth0" not in facts, "the machine's only link"
    assert said.splitlines()[-1] == "0"
    assert "Permission denied" in host.sh(f"{inside} cat /tmp/denied"), "it reads no image that it was not lent"
    folder = f"/srv/atomos/{made['vid']}.elimg"
    assert host.sh(f"stat -c %U {folder}/data.img") == "atomos-storage", "what was lent is back"
    host.run("electros", "volume", "rm", "--yes", "q")


def test_storaged_could_become_root_and_still_not_have_systemd_obey(host: Machine) -> None:
    inside = f"nsenter --target {pid_of(host, 'storaged')} --mount"
    for socket in ("/run/systemd/private", "/run/dbus"):
        assert host.sh(f"ls -d {socket}"), "or this proves nothing"
    assert "connect" in host.sh(f"{inside} systemctl list-units 2>&1", check=False).lower()


def test_what_storaged_begins_in_the_logs_folder_is_for_the_sysadmins_group(host: Machine) -> None:
    begins = """
        import grp, os
        file = os.open("/var/log/atomos/new", os.O_CREAT | os.O_WRONLY, 0o600)
        os.fchown(file, -1, grp.getgrnam("atomos").gr_gid)
        os.fchmod(file, 0o640)
    """
    ids = ["--reuid=atomos-storage", "--regid=atomos-storage", "--clear-groups"]
    one = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--bounding-set=-all,+dac_override"]
    host.run("setpriv", *ids, *one, "python3", "-c", textwrap.dedent(begins))
    assert host.sh("stat -c '%a %U:%G' /var/log/atomos/new; rm /var/log/atomos/new") == "640 atomos-storage:atomos"


def test_storaged_sees_neither_what_guests_wrote_nor_the_issuers_key_nor_libvirt(host: Machine) -> None:
    inside = f"nsenter --target {pid_of(host, 'storaged')} --mount"
    for hidden in ("/var/lib/atomos/issuer", "/var/lib/atomos/console", "/run/libvirt", "/root"):
        assert host.sh(f"ls -A {hidden}"), "or this proves nothing"
        assert host.sh(f"{inside} ls -A {hidden} 2>/dev/null", check=False) == ""
    for protected in ("/etc/atomos", "/usr/bin", "/var/spool", "/root"):
        assert host.sh(f"{inside} touch {protected}/new 2>&1", check=False).endswith(
            ("Read-only file system", "Permission denied")
        )
    for allowed in ("/srv/atomos", "/mnt", "/media", "/var/lib/atomos", "/run/atomos"):
        host.sh(f"{inside} sh -c 'touch {allowed}/new && rm {allowed}/new'")


def test_atomd_is_root_without_most_of_what_root_can_do(host: Machine) -> None:
    assert capabilities_in(status(host, "atomd", "CapEff")) == ATOMD_NEEDS
    assert status(host, "atomd", "NoNewPrivs") == "1"
    inside = f"nsenter --target {pid_of(host, 'atomd')} --mount"
    assert host.sh(f"{inside} touch /usr/bin/new 2>&1", check=False).endswith("Read-only file system")
    found = json.loads(host.sh("cat /var/lib/atomos/accelerator.json"))
    assert found["key"]["user"] == "libvirt-qemu"
    assert found["guest_flags"], "QEMU was asked as its own user, which takes capabilities that were left"


@pytest.mark.slow
def test_a_shared_folder_is_mounted_where_libvirt_sees_it_by_an_atomd_that_may_mount_nothing(
    host: Machine, until: Callable[..., Any]
) -> None:
    made = json.loads(host.sh("electros volume create --shareable --size 0.125 --name common -o json"))["volume"]
    host.sh(f"""echo '[{{"vid": "{made["vid"]}"}}]' > /root/common.json""")
    specfile = "/usr/share/doc/atomos/examples/helium.json"
    host.sh(f"electros run {specfile} --volumes /root/common.json --name sharer --allow-emulation")
    (line,) = host.sh("grep ' /run/atomos/shares/' /proc/1/mountinfo").splitlines()
    assert "nosuid,nodev,noexec" in line
    assert line.split(" ")[4] in host.sh("pgrep -a virtiofsd")
    host.run("systemctl", "restart", "atomd")
    until(lambda: answer(host, "ps").get("vms"))
    assert host.sh("grep -c ' /run/atomos/shares/' /proc/1/mountinfo") == "1"
    until(lambda: host.run("electros", "rm", "--force", "sharer", check=False).returncode == 0)
    assert host.sh("grep ' /run/atomos/shares/' /proc/1/mountinfo", check=False) == ""
    host.run("electros", "volume", "rm", "--yes", "common")


def test_a_vm_is_no_child_of_the_daemon_and_outlives_its_end(host: Machine, until: Callable[..., Any]) -> None:
    running = qemu(host)
    assert running
    group = host.sh(f"cat /proc/{running}/cgroup")
    assert not any(f"{unit}.service" in group for unit in DAEMONS)
    host.run("systemctl", "stop", *DAEMONS)
    assert not any(host.is_active(unit) for unit in DAEMONS)
    assert qemu(host) == running
    host.run("systemctl", "start", *DAEMONS)
    (vm,) = until(lambda: answer(host, "ps").get("vms"))
    assert (vm["name"], vm["state"]) == ("web", "running")
    assert qemu(host) == running


def test_the_sockets_of_one_daemon_stay_when_the_other_ends(host: Machine, until: Callable[..., Any]) -> None:
    host.run("systemctl", "stop", "atomd")
    assert host.sh("ls /run/atomos/storaged.sock")
    host.run("systemctl", "start", "atomd")
    assert are_active(host)


def test_what_serves_volumes_to_other_hosts_outlives_storaged(host: Machine, until: Callable[..., Any]) -> None:
    tgtd = until(lambda: host.sh("pidof tgtd", check=False))
    assert host.sh(f"stat -c %U /proc/{tgtd}") == "atomos-storage"
    host.run("systemctl", "restart", "storaged")
    assert host.sh("pidof tgtd") == tgtd
    assert are_active(host)


def test_a_daemon_that_is_killed_comes_back(host: Machine, until: Callable[..., Any]) -> None:
    before = {unit: pid_of(host, unit) for unit in DAEMONS}
    assert all(before.values())
    host.run("systemctl", "kill", "--signal=KILL", *DAEMONS)
    until(lambda: are_active(host) and all(pid_of(host, unit) not in (0, before[unit]) for unit in DAEMONS))


def test_a_second_host_joins_by_a_token_and_a_person_logs_in_there(
    host: Machine, machine: Machine, packages: Packages, until: Callable[..., Any]
) -> None:
    host.reach(machine, "10.97.0.2")
    installed(machine, packages.host)
    token = host.run("electros", "realm", "invite").stdout.strip()
    machine.run("atomd", "join", "-", "--name", "second", "--wait", "60", stdin=token)
    until(lambda: len(answer(host, "hosts").get("hosts", [])) == 2, within_s=60)
    token = host.run("electros", "user", "add", "ada", "--slots", "2").stdout.strip()
    machine.run("electros", "login", token)
    seen = until(lambda: answer(machine, "hosts").get("hosts"), within_s=60)
    assert sorted(each["name"] for each in seen) == ["machine", "second"]
    assert answer(machine, "whoami")["name"] == "ada"


# ---- the package's life, ending with purge; one story, as each step needs the one before


def test_upgrade_remove_and_purge_touch_no_vm_no_volume_and_no_setting_of_the_sysadmins(
    machine: Machine, packages: Packages, until: Callable[..., Any]
) -> None:
    installed(machine, packages.host)
    in_realm(machine, until)
    lay_volume(machine)
    run_vm(machine)
    running = qemu(machine)
    machine.sh("echo 'ram_reserve_mib = 1025' >> /etc/atomos/atomd.toml && systemctl disable storaged")
    before = {unit: pid_of(machine, unit) for unit in DAEMONS}

    said = installed(machine, packages.newer)
    assert "realm create" not in said, "it is in one"
    assert machine.sh("dpkg-query -W -f '${Version}' atomos") == NEWER
    until(lambda: are_active(machine))
    assert all(pid_of(machine, unit) != before[unit] for unit in DAEMONS), "the new version is the one that runs"
    assert qemu(machine) == running
    assert "ram_reserve_mib = 1025" in machine.sh("tail -1 /etc/atomos/atomd.toml")
    assert machine.sh("systemctl is-enabled storaged", check=False) == "disabled", "a sysadmin's word stands"

    machine.sh(
        f"mv /usr/bin/storaged /root/ && printf '{LISTENING}' > /usr/bin/storaged && chmod 755 /usr/bin/storaged"
    )
    machine.run("dpkg", "--remove", "atomos")
    assert machine.sh("cat /root/said").splitlines() == ["withdraw", "0"], "targets in the kernel outlive daemons"
    assert machine.sh("ls /usr/bin/atomd /usr/lib/atomos", check=False) == ""
    assert machine.sh("pgrep -x 'atomd|storaged|tgtd'", check=False) == ""
    assert qemu(machine) == running
    assert machine.sh("ls /etc/atomos/atomd.toml /var/lib/atomos/identity/key.pem /var/lib/atomos/atomd.sqlite")

    said = machine.run("dpkg", "--purge", "atomos").stderr
    assert "VMs are running" in said
    assert "atomos-" in said
    assert qemu(machine) == running
    assert machine.sh("ls /var/lib/atomos/identity/key.pem /var/lib/atomos/atomd.sqlite")

    installed(machine, packages.newer)
    until(lambda: answer(machine, "ps").get("vms"))
    assert qemu(machine) == running, "the package that came back finds it"
    machine.run("electros", "rm", "web", "--force")
    assert qemu(machine) is None

    said = machine.run("dpkg", "--purge", "atomos").stderr
    assert "volumes in /srv/atomos are kept" in said
    assert machine.sh("ls -d /var/lib/atomos /etc/atomos /run/atomos /var/log/atomos 2>/dev/null", check=False) == ""
    assert machine.sh(f"cmp -n 65536 {FOLDER}/data.img /root/guest.img && ls {FOLDER}").split() == [
        "attachment.json",
        "data.img",
        "meta.json",
    ]
