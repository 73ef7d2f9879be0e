"""From nothing to a running lab, and back to nothing.

Raising writes the plan first; clearing needs only the plan. What raising did not finish, clearing ends all the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lablib import network
from lablib.birth import bear
from lablib.configuring import configure, make_realm
from lablib.control import READY_S, ask, wait_for, wait_until_born
from lablib.plan import DATA, ROOT, RUN, Host, LabError, Plan, boot_id, load_plan
from lablib.processes import inside, kill_all, read_pid
from lablib.volumes import build_guest, lay_volumes

TOOLS = (
    "/usr/bin/qemu-system-x86_64",
    "/usr/bin/unshare",
    "/usr/bin/virsh",
    "/usr/sbin/dnsmasq",
    "/usr/sbin/iptables",
    "/usr/sbin/libvirtd",
    "/usr/sbin/virtlogd",
)
DAEMONS = ("storaged", "atomd")
LET_GO_S = 0.5
LOCK_S = 5.0


def check_machine(*, with_daemons: bool) -> None:
    """Say in one line what is missing, before anything is made."""
    if os.geteuid() != 0:
        raise LabError("needs root (try: sudo packaging/lab ...)")
    programs = [str(ROOT / ".venv/bin" / daemon) for daemon in DAEMONS] if with_daemons else []
    for tool in (*TOOLS, *programs):
        if not Path(tool).exists():
            raise LabError(f"{tool} is missing: run packaging/setup first")
    if not Path("/dev/net/tun").exists():
        raise LabError("/dev/net/tun is missing: VMs could have no network here (modprobe tun)")
    spaces = subprocess.run(["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "true"], capture_output=True)
    if spaces.returncode:
        raise LabError("this machine allows no network namespaces (in a container? it must be privileged)")
    if ROOT.is_relative_to("/srv/atomos") or ROOT.is_relative_to("/run"):
        raise LabError(f"{ROOT} is hidden inside a host: keep the repository elsewhere")


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """One `up` or `down` of a lab at a time. What an `up` that was killed has just forked has its lock for a moment."""
    path, until_s = RUN / f"{name}.lock", time.monotonic() + LOCK_S
    while True:
        RUN.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError), path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until_s:
                    raise LabError(f'another `up` or `down` of lab "{name}" is at work') from None
                time.sleep(0.05)
                continue
            if os.fstat(lock.fileno()).st_ino == path.stat().st_ino:  # else a `down` removed it under our hands
                yield
                return


def raise_lab(plan: Plan) -> None:
    guest = build_guest()
    _make_folders(plan)
    with ThreadPoolExecutor(4) as pool:
        # Volumes and realm take as long as the hosts do: side by side with them.
        aside = [pool.submit(lay_volumes, plan, guest), pool.submit(configure, plan)]
        if plan.with_daemons:
            aside.append(pool.submit(make_realm, plan))
        network.raise_thresholds()
        network.raise_switch(plan)
        for host in plan.hosts:
            bear(plan, host)
        for done in aside:
            done.result()
        list(pool.map(lambda host: _wake(plan, host), plan.hosts))
    plan.risen().save()


def _make_folders(plan: Plan) -> None:
    if plan.data.exists():
        shutil.rmtree(plan.data)  # left by a lab that a reboot ended: its plan is gone
    for folder in (plan.run, plan.data):
        folder.mkdir(parents=True)
        folder.chmod(0o700)
    plan.save()
    for host in plan.hosts:
        (plan.run / f"{host.name}.libvirt").mkdir()
        kinds = ("config", "state", "cache") if host.is_client else ("etc", "lib", "srv")
        for kind in (*kinds, "etc", "lib", "srv", "log/libvirt/qemu"):
            (plan.folder(host) / kind).mkdir(parents=True, exist_ok=True)


def _wake(plan: Plan, host: Host) -> None:
    wait_until_born(plan, host, time.monotonic() + READY_S)
    if host.is_client:
        return
    wait_for(plan, host, "libvirtd", ("up",))
    if plan.with_daemons:
        for daemon in DAEMONS:
            ask(plan, host, do="start", service=daemon)
        for daemon in DAEMONS:
            wait_for(plan, host, daemon, ("up",))


def clear_lab(name: str) -> bool:
    """End all that bears this lab's name; whether there was anything. Twice is as good as once."""
    plan = load_plan(name)
    found = plan is not None or (RUN / name).exists() or (DATA / name).exists()
    if plan is not None:
        _end_processes(plan)
        network.remove_namespaces(plan)
    for folder in (DATA / name, RUN / name):  # the plan goes last: until then, `down` can begin again
        shutil.rmtree(folder, ignore_errors=True)
    (RUN / f"{name}.lock").unlink(missing_ok=True)
    if not any(RUN.glob("*/plan.json")):
        network.restore_thresholds()
    with contextlib.suppress(OSError):  # other labs live there
        RUN.rmdir()
    with contextlib.suppress(OSError):
        DATA.rmdir()
    return found


def _let_go(plan: Plan) -> None:
    """A moment for each `lab exec`, to say how its command has ended."""
    deadline_s = time.monotonic() + LET_GO_S
    while inside(network.namespace_inodes(plan).values()) and time.monotonic() < deadline_s:
        time.sleep(0.02)


def _end_processes(plan: Plan) -> None:
    """PID 1 of each host first: the kernel ends all in its PID namespace with it. Then whoever else is on the wire."""
    if plan.boot_id == boot_id():
        inits = [pid for host in plan.hosts if (pid := read_pid(plan.pid_file(host)))]
        left = kill_all(inits)
        _let_go(plan)
        left += kill_all(inside(network.namespace_inodes(plan).values()))
        if left:
            raise LabError(f"these processes do not end: {' '.join(map(str, left))}")
