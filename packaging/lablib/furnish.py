"""What a host sees: the machine's own files, except for the folders that make it a host of its own.

Runs once, as PID 1 of the host, in its fresh mount namespace. Where a private folder has no place on the machine
(`/etc/atomos`), its parent is shown through a *farm*: a folder whose entries are the machine's own, each mounted by
itself, with room for private ones between them. So nothing is ever made in the machine's own folders.
"""

from __future__ import annotations

import contextlib
import grp
import os
import socket
import subprocess
from pathlib import Path

from lablib.kernel import MS_BIND, MS_PRIVATE, MS_REC, bind, mount
from lablib.plan import Host, Plan

LIBVIRTD_CONF = """\
host_uuid = "{uuid}"
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_rw_perms = "0700"
"""

# No cgroups, no mount namespaces of QEMU's own and no labels: a host is no full machine, and does not pretend to be.
QEMU_CONF = """\
security_driver = "none"
namespaces = []
cgroup_controllers = []
"""

DEFAULT_NETWORK = """\
<network>
  <name>default</name>
  <uuid>{uuid}</uuid>
  <forward mode="nat"/>
  <bridge name="virbr0" stp="off" delay="0"/>
  <ip address="192.168.122.1" netmask="255.255.255.0">
    <dhcp><range start="192.168.122.2" end="192.168.122.254"/></dhcp>
  </ip>
</network>
"""

TPM_AUTHORITY = "/var/lib/swtpm-localca"  # signs the certificates of guests' TPMs

SYSCTLS = {
    "ipv4/ip_forward": "1",
    "ipv6/conf/all/accept_dad": "0",  # addresses that nobody else can have need no second of waiting
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/eth0/accept_dad": "0",
}


def furnish(plan: Plan, host: Host) -> None:
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    mount("proc", "/proc", "proc")
    mount("sysfs", "/sys", "sysfs")  # a network namespace has a /sys/class/net of its own
    socket.sethostname(host.name)
    _connect(host)
    outside = os.open(plan.run / f"{host.name}.libvirt", os.O_PATH)  # reachable still when /run is hidden
    mount("host", "/run", "tmpfs", options="mode=755")
    for folder in ("lock", "libvirt", "notify", "farm", "atomos"):
        Path("/run", folder).mkdir()
    mount(f"/proc/self/fd/{outside}", "/run/libvirt", flags=MS_BIND)
    os.close(outside)
    _furnish_folders(plan, host)
    if not host.is_client:
        _own_kvm()
        _mount_huge_pages()


def _connect(host: Host) -> None:
    for key, value in SYSCTLS.items():
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            Path("/proc/sys/net", key).write_text(value)
    lines = [
        "link set lo up",
        f"addr add {host.address}/24 dev eth0",
        "link set eth0 up",
        "route add 224.0.0.0/4 dev eth0",  # there is no default route that multicast could take
    ]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def _furnish_folders(plan: Plan, host: Host) -> None:
    own = plan.folder(host)
    farm("/etc", folders={"atomos": own / "etc", "libvirt": None}, files=_etc_files(plan, host))
    authority = os.stat(TPM_AUTHORITY) if os.path.isdir(TPM_AUTHORITY) else None
    farm("/var/lib", folders={"atomos": own / "lib", "libvirt": None} | ({"swtpm-localca": None} if authority else {}))
    if authority:
        os.chown(TPM_AUTHORITY, authority.st_uid, authority.st_gid)
        os.chmod(TPM_AUTHORITY, authority.st_mode & 0o777)
    farm("/srv", folders={"atomos": own / "srv"})
    if Path("/usr/sbin/libvirtd").exists():
        mount("host", "/var/cache/libvirt", "tmpfs", options="mode=711")
        farm("/var/log", folders={"libvirt": own / "log" / "libvirt", "swtpm": None})
        _configure_libvirt(host)


def _etc_files(plan: Plan, host: Host) -> dict[str, str]:
    # libvirtd and sudo ask for the host's own name; without an answer here they would wait for a name server.
    names = "".join(f"{other.address} {other.name}\n" for other in plan.hosts)
    return {
        "hostname": f"{host.name}\n",
        "hosts": f"127.0.0.1 localhost\n::1 localhost ip6-localhost\n{names}",
        "machine-id": f"{host.uuid.hex}\n",
        "resolv.conf": "# a lab has no name server: /etc/hosts knows all its hosts\n",
    }


def farm(place: str, *, folders: dict[str, Path | None], files: dict[str, str] | None = None) -> None:
    """Show `place` entry by entry, with `folders` (None: a fresh one in memory) and `files` instead of its own."""
    original = f"/run/farm/{place.strip('/').replace('/', '-')}"
    os.mkdir(original)
    bind(place, original)
    mount("host", place, "tmpfs", options="mode=755")
    private = {*folders, *(files or {})}
    for entry in os.scandir(original):
        if entry.name not in private:
            _show(entry, f"{place}/{entry.name}")
    for name, folder in folders.items():
        os.mkdir(f"{place}/{name}", mode=0o755)
        if folder:
            bind(str(folder), f"{place}/{name}")
    for name, text in (files or {}).items():
        Path(place, name).write_text(text)


def _show(entry: os.DirEntry[str], target: str) -> None:
    if entry.is_symlink():
        os.symlink(os.readlink(entry.path), target)
        return
    if entry.is_dir():
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))
    bind(entry.path, target)


def _configure_libvirt(host: Host) -> None:
    """Written afresh, never copied: the machine's own domains and networks must not wake up in a lab."""
    networks = Path("/etc/libvirt/qemu/networks")
    (networks / "autostart").mkdir(parents=True)
    (networks / "default.xml").write_text(DEFAULT_NETWORK.format(uuid=host.uuid))
    (networks / "autostart" / "default.xml").symlink_to(networks / "default.xml")
    Path("/etc/libvirt/libvirtd.conf").write_text(LIBVIRTD_CONF.format(uuid=host.uuid))
    Path("/etc/libvirt/qemu.conf").write_text(QEMU_CONF)
    for folder in ("boot", "images", "dnsmasq", "qemu"):
        Path("/var/lib/libvirt", folder).mkdir()


def _mount_huge_pages() -> None:
    """As systemd does (dev-hugepages.mount): libvirt uses huge pages of those sizes alone that it sees mounted."""
    os.mkdir("/run/hugepages")
    with contextlib.suppress(OSError):  # a kernel without them
        mount("hugetlbfs", "/run/hugepages", "hugetlbfs")


def _own_kvm() -> None:
    """A /dev/kvm that QEMU's user cannot open makes libvirt probe QEMU again at every call; ours it can open."""
    try:
        device = os.stat("/dev/kvm").st_rdev
        group = grp.getgrnam("kvm").gr_gid
    except (FileNotFoundError, KeyError):
        return
    os.mknod("/run/kvm", 0o020660, device)
    os.chown("/run/kvm", 0, group)
    os.chmod("/run/kvm", 0o660)  # past the umask
    bind("/run/kvm", "/dev/kvm")
