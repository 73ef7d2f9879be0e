"""The wire of a lab: one namespace with a bridge, and a cable from it to each host.

Multicast is flooded (no snooping), as a plain switch does. Nothing here touches the machine's own links.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
from pathlib import Path

from lablib.plan import RUN, LabError, Plan

NAMESPACES = Path("/run/netns")

# The neighbour table is one for all namespaces: from ~33 hosts on, replies vanish while multicast works.
THRESHOLDS = {"gc_thresh1": 8192, "gc_thresh2": 16384, "gc_thresh3": 32768}
FAMILIES = ("ipv4", "ipv6")
SAVED_THRESHOLDS = RUN / "neighbours.json"
ROOM_NEEDED = Path("/run/atomos-neighbours.lock")  # locked, shared, by benches while they need the table as it is


def ip(lines: list[str], namespace: str | None = None) -> None:
    where = ["-n", namespace] if namespace else []
    done = subprocess.run(["ip", *where, "-batch", "-"], input="\n".join(lines), capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"network: {done.stderr.strip().splitlines()[0]}")


def raise_switch(plan: Plan) -> None:
    for name in (plan.switch, *(plan.namespace(host.name) for host in plan.hosts)):
        if (NAMESPACES / name).exists():
            raise LabError(f"network namespace {name} is there already, and not by this lab: ip netns del {name}")
    ip([f"netns add {plan.namespace(host.name)}" for host in plan.hosts] + [f"netns add {plan.switch}"])
    lines = ["link add br0 type bridge mcast_snooping 0 stp_state 0 forward_delay 0", "link set br0 up"]
    for host in plan.hosts:
        lines += [
            f"link add {host.name} type veth peer name eth0 netns {plan.namespace(host.name)}",
            f"link set {host.name} master br0 up",
        ]
    ip(lines, plan.switch)


def namespace_inodes(plan: Plan) -> dict[str, int]:
    """Inode by name, of those that exist."""
    found = {}
    for name in (plan.switch, *(plan.namespace(host.name) for host in plan.hosts)):
        with contextlib.suppress(FileNotFoundError):
            found[name] = os.stat(NAMESPACES / name).st_ino
    return found


def remove_namespaces(plan: Plan) -> None:
    """The links go with their namespaces."""
    for name in namespace_inodes(plan):
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
        with contextlib.suppress(FileNotFoundError):  # `ip` was killed between making the file and mounting on it
            (NAMESPACES / name).unlink()


def raise_thresholds() -> None:
    """Remember the machine's own limits first; only ever raise. The first lab saves, the last one restores."""
    if not SAVED_THRESHOLDS.exists():
        saved = {str(path): int(path.read_text()) for path, _ in _thresholds()}
        fresh = SAVED_THRESHOLDS.with_suffix(".new")
        fresh.write_text(json.dumps(saved))
        fresh.rename(SAVED_THRESHOLDS)
    for path, wanted in reversed(_thresholds()):  # the highest first: each must stay under the next
        if int(path.read_text()) < wanted:
            path.write_text(str(wanted))


def restore_thresholds() -> None:
    """Not while a bench is up, as its hosts would lose each other: then the next lab that goes down does it."""
    with contextlib.suppress(FileNotFoundError, BlockingIOError), ROOM_NEEDED.open("a") as room:
        fcntl.flock(room, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path, value in json.loads(SAVED_THRESHOLDS.read_text()).items():
            Path(path).write_text(str(value))
        SAVED_THRESHOLDS.unlink()


def _thresholds() -> list[tuple[Path, int]]:
    paths = [
        (Path(f"/proc/sys/net/{family}/neigh/default/{key}"), THRESHOLDS[key])
        for family in FAMILIES
        for key in THRESHOLDS
    ]
    return [(path, wanted) for path, wanted in paths if path.exists()]
