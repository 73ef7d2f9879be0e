"""A machine with Debian's own systemd as its PID 1, in fresh namespaces over a copy of this one that ends with it.

The copy is an overlay whose upper half is in memory, so that packages can be installed, started, purged, and nothing
of that is seen here. It has one link, on which nobody else is, and no units enabled.
"""

import os
import signal
import subprocess
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

SYSTEMD = Path("/usr/lib/systemd/systemd")
BOOT_S = 60.0
MEMORY = "3g"  # what the copy may grow to

_OUTER = """
set -eu
mount --make-rprivate /
mount -t tmpfs -o size={memory},mode=755 machine {place}
mkdir {place}/upper {place}/work {place}/root {place}/cgroup
mount -t cgroup2 none {place}/cgroup
mkdir {place}/cgroup/{name}
echo $$ > {place}/cgroup/{name}/cgroup.procs
exec unshare --cgroup --pid --fork --kill-child --mount --net --uts --ipc sh -c "$1"
"""

_INNER = """
set -eu
mount -t overlay machine -o lowerdir=/,upperdir={place}/upper,workdir={place}/work {place}/root
cd {place}/root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 none sys/fs/cgroup
for fresh in run tmp dev; do mount -t tmpfs -o mode=755 machine $fresh; done
chmod 1777 tmp
mkdir dev/pts dev/shm dev/net
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for device in null zero full random urandom tty net/tun; do
    touch dev/$device
    mount --bind /dev/$device dev/$device
done
rm -f usr/sbin/policy-rc.d
if [ -e /dev/kvm ]; then mknod -m 660 dev/kvm c $(stat -c '0x%t 0x%T' /dev/kvm) && chgrp kvm dev/kvm; fi
for fresh in etc/systemd/system etc/atomos var/lib/atomos srv/atomos var/log/atomos; do rm -rf $fresh; done
mkdir etc/systemd/system
: > etc/machine-id
echo machine > etc/hostname
printf '127.0.0.1 localhost machine\\n::1 localhost\\n' > etc/hosts
mkdir old
pivot_root . old
cd /
umount -l /old
rmdir /old
hostname machine
ip link set lo up
ip link add eth0 type veth peer name wire
ip link set wire up
ip address add 10.97.0.1/24 dev eth0
ip link set eth0 up
ip route add 224.0.0.0/4 dev eth0
exec env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin {systemd} --unit=basic.target > /dev/null 2>&1 < /dev/null
"""


class Machine:
    """A machine that has booted; `run` is what root types on it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def run(
        self, *command: str, check: bool = True, timeout_s: float = 120, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", f"--target={self.pid}", "--all", "--root", "--wd", "--"]
        home = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8", "USER": "root"}
        done = subprocess.run(
            [*enter, *command],
            env=home,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            start_new_session=True,  # a signal to a whole group, sent there, must not come here
        )
        if check and done.returncode:
            pytest.fail(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}", pytrace=False)
        return done

    def sh(self, script: str, check: bool = True) -> str:
        """What a shell on it prints."""
        return self.run("sh", "-euc", textwrap.dedent(script), check=check).stdout.strip()

    def copy(self, source: Path, target: str) -> None:
        """A file of this machine, onto that one."""
        with source.open("rb") as file:
            enter = ["nsenter", f"--target={self.pid}", "--all", "--root", "--wd", "--"]
            subprocess.run([*enter, "sh", "-c", 'cat > "$1"', "-", target], stdin=file, check=True)

    def reach(self, other: "Machine", address: str) -> None:
        """Put `other` at the far end of this one's link, in place of its own, with an address there."""
        enter = ["nsenter", f"--target={self.pid}", "--net", "--"]
        other.sh("ip link delete eth0")
        subprocess.run([*enter, "ip", "link", "set", "wire", "netns", str(other.pid)], check=True)
        other.sh(
            f"""
            ip link set wire name eth0
            ip address add {address}/24 dev eth0
            ip link set eth0 up
            ip route add 224.0.0.0/4 dev eth0
            """
        )

    def is_active(self, unit: str) -> bool:
        return self.run("systemctl", "is-active", "--quiet", unit, check=False).returncode == 0

    def shows(self, unit: str, name: str) -> str:
        """A property of a unit, as systemd knows it."""
        return self.run("systemctl", "show", "--value", "--property", name, unit).stdout.strip()

    def journal(self, unit: str) -> str:
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", unit).stdout


def why_not() -> str | None:
    """Why no such machine can be made here, if so."""
    if os.geteuid() != 0:
        return "a machine of its own needs root"
    if not SYSTEMD.exists():
        return "there is no systemd here that could be a machine's PID 1: run packaging/setup"
    script = (
        'mount -t tmpfs t "$1" && cd "$1" && mkdir u w m && mount -t overlay o -o lowerdir=/,upperdir=u,workdir=w m'
    )
    with tempfile.TemporaryDirectory() as folder:
        spaces = [
            "unshare",
            "--mount",
            "--pid",
            "--net",
            "--cgroup",
            "--fork",
            "sh",
            "-c",
            f"{script} && mount -t cgroup2 n w",
        ]
        tried = subprocess.run([*spaces, "-", folder], capture_output=True, text=True)
    return f"this machine allows no overlay of itself: {tried.stderr.strip()}" if tried.returncode else None


@contextmanager
def booted() -> Iterator[Machine]:
    """A machine for the test; skipped where there can be none."""
    if reason := why_not():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="atomos-machine-") as folder, tempfile.TemporaryFile("w+") as words:
        place = Path(folder)
        names = {"place": folder, "name": place.name, "memory": MEMORY, "systemd": SYSTEMD}
        outer, inner = _OUTER.format(**names), _INNER.format(**names)
        dies_with_us = ["setpriv", "--pdeathsig", "KILL", "--"]
        process = subprocess.Popen([*dies_with_us, "unshare", "--mount", "sh", "-c", outer, "-", inner], stderr=words)
        try:
            yield Machine(_wait_for_boot(process, words))
        finally:
            _end(process, place.name)


def _wait_for_boot(process: "subprocess.Popen[bytes]", words: IO[str]) -> int:
    """The process that is its PID 1, once its units are up."""
    deadline_s = time.monotonic() + BOOT_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            words.seek(0)
            pytest.fail(f"the machine did not boot: {words.read()}")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if children and Path(f"/proc/{children[0]}/comm").read_text() == "systemd\n":
            machine = Machine(int(children[0]))
            state = machine.run("systemctl", "is-system-running", check=False).stdout.strip()
            if state in ("running", "degraded"):
                return machine.pid
        time.sleep(0.1)
    pytest.fail("the machine did not boot in time")


def _end(process: "subprocess.Popen[bytes]", name: str) -> None:
    """Its PID 1 goes, and all that is in its namespaces with it."""
    process.send_signal(signal.SIGKILL)  # unshare takes its child along (--kill-child)
    process.wait()
    # Its cgroup can go once the last of its processes has; those of machines whose tests were killed go as well, while
    # one that lives keeps its own.
    empties = (
        'mount -t cgroup2 none "$1"; find "$1"/atomos-machine-* -depth -type d -exec rmdir {} + ; test ! -e "$1/$2"'
    )
    with tempfile.TemporaryDirectory() as folder:
        gone = ["unshare", "--mount", "sh", "-c", empties, "-", folder, name]
        for _ in range(50):
            if subprocess.run(gone, capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
