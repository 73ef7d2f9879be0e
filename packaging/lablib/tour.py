"""The demo's story: each command shown as `$ command` with what it prints, and checks that look behind it.

The checks ask others than the daemons themselves: the guest's own serial output, its web page, and libvirt.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from lablib.plan import ROOT, LabError, load_plan, name_from_environment

LAB = "packaging/lab"
HOSTS = 3
NAME = "web"
SPECFILE = "packaging/examples/helium.json"
VOLUMES = "packaging/examples/volumes.json"
MARKER = "ATOMOS-GUEST-UP"
CONTROLS = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|.)|\r")  # what a guest's boot loader does to a terminal
BOOT_S = 120.0  # an emulated guest on a busy machine
OURS = "raised-by-the-demo"


class DemoError(Exception):
    """What went wrong, as a sentence."""


def show(*command: str) -> str:
    """Run a command as a person would, in front of them; what it wrote to stdout."""
    print(f"\n$ {shlex.join(command)}", flush=True)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as running:
        assert running.stdout is not None
        lines = []
        for line in running.stdout:
            sys.stdout.write(CONTROLS.sub("", line))
            sys.stdout.flush()
            lines.append(line)
    if running.returncode:
        raise DemoError(f"`{shlex.join(command)}` ended with exit code {running.returncode}")
    return "".join(lines)


def electros(*arguments: str) -> str:
    return show(LAB, "exec", "client", "--", "electros", *arguments)


def quietly(*command: str) -> str | None:
    """stdout, or None if the command failed."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    return None if done.returncode else done.stdout


def vms() -> list[dict[str, Any]]:
    told = quietly(LAB, "exec", "client", "--", "electros", "ps", "-o", "json")
    return list(json.loads(told)["vms"]) if told else []


def the_vm() -> dict[str, Any] | None:
    return next((vm for vm in vms() if vm.get("name") == NAME), None)


def address_of(vm: dict[str, Any] | None) -> str | None:
    """Its first IPv4 address, as `ps` gives it."""
    found = re.findall(r"\b\d+\.\d+\.\d+\.\d+\b", json.dumps((vm or {}).get("addresses", [])))
    return found[0] if found else None


def until(what: Callable[[], Any], complaint: str, within_s: float = BOOT_S) -> Any:
    deadline_s = time.monotonic() + within_s
    while not (value := what()):
        if time.monotonic() > deadline_s:
            raise DemoError(f"{complaint} within {within_s:.0f} s")
        time.sleep(0.3)
    return value


def check(holds: object, sentence: str) -> None:
    if not holds:
        raise DemoError(f"not so: {sentence}")
    print(f"    ok: {sentence}", flush=True)


def page_of(vm: dict[str, Any], boots: int) -> str | None:
    """The guest's page, fetched on its host, if it tells of this boot."""
    # Bounded by `timeout`: on Debian 12, busybox-static's own `wget -T` crashes.
    fetch = ["busybox", "timeout", "5", "busybox", "wget", "-q", "-O", "-", f"http://{address_of(vm)}/"]
    told = quietly(LAB, "exec", vm["host"], "--", *fetch)
    return told if told and f"boots {boots}\n" in told else None


def serial_of(vm: dict[str, Any]) -> str:
    """What the guest itself wrote to its serial port: by electros, and from the host's own file."""
    told = quietly(LAB, "exec", "client", "--", "electros", "console", NAME, "--log")
    if told and MARKER in told:
        return electros("console", NAME, "--log")
    path = f"/var/lib/atomos/console/{vm['id']}.log"
    return show(LAB, "exec", vm["host"], "--", "cat", path)


def domains_on(host: str) -> str:
    return quietly(LAB, "exec", host, "--", "virsh", "-q", "list", "--title") or ""


def tell() -> None:
    electros("hosts")
    electros("pledge", SPECFILE)
    electros("run", SPECFILE, "--volumes", VOLUMES, "--name", NAME)
    vm = until(lambda: (vm := the_vm()) and address_of(vm) and vm, "the VM had no address in `ps`")
    electros("ps")
    until(lambda: page_of(vm, boots=1), "the guest's page could not be fetched")
    page = show(LAB, "exec", vm["host"], "--", "busybox", "wget", "-q", "-O", "-", f"http://{address_of(vm)}/")
    check(MARKER in page, f"the guest answered HTTP on {vm['host']} at {address_of(vm)}, the address that `ps` shows")
    check(f"{MARKER} boots=1 " in serial_of(vm), "the guest booted from its volume: it said so on its own serial port")
    listed = show(LAB, "exec", vm["host"], "--", "virsh", "list", "--title")
    check(f"atomos-{vm['id']}" in listed and NAME in listed, f"libvirt on {vm['host']} lists the domain")
    electros("inspect", NAME)
    live_on(vm)


def live_on(vm: dict[str, Any]) -> None:
    """Stop, start, reboot: each boot leaves its number on the volume, so that none can be pretended."""
    electros("stop", NAME)
    check(f"atomos-{vm['id']}" not in domains_on(vm["host"]), f"stopped: {vm['host']} runs it no more")
    electros("start", NAME)
    vm = until(lambda: (vm := the_vm()) and address_of(vm) and vm, "the VM had no address after its start")
    until(lambda: page_of(vm, boots=2), "the guest's page did not tell of its second boot")
    check(True, f"started again on {vm['host']}, and the volume remembers: this is boot 2")
    electros("reboot", NAME)
    until(lambda: page_of(vm, boots=3), "the guest's page did not tell of its third boot")
    check(True, "rebooted: this is boot 3")


def end(vm: dict[str, Any] | None) -> None:
    electros("rm", NAME)
    check(the_vm() is None, "removed: `ps` knows it no more")
    if vm:
        check(f"atomos-{vm['id']}" not in domains_on(vm["host"]), f"nor does libvirt on {vm['host']}")


@contextlib.contextmanager
def lab_for_the_demo(name: str, *, keep: bool) -> Iterator[None]:
    """Raise it; end it whatever happens, unless it is to be kept and all went well."""
    mark = Path("/var/lib/atomos-lab", name, OURS)
    if load_plan(name):
        if not mark.exists():
            raise DemoError(f'lab "{name}" is up and not mine: end it ({LAB} down), or ATOMOS_LAB=other packaging/demo')
        quietly(LAB, "down")  # of an earlier demo
    went_well = False
    try:
        show(LAB, "up", "-n", str(HOSTS))
        mark.touch()
        yield
        went_well = True
    finally:
        if not (keep and went_well):
            show(LAB, "down")


def logs_of_all_hosts() -> str:
    """The last words of the daemons, for whoever has to find out."""
    told = []
    for i in range(1, HOSTS + 1):
        for daemon in ("atomd", "storaged"):
            lines = (quietly(LAB, "logs", f"h{i}", daemon) or "").strip().splitlines()[-5:]
            told += [f"  h{i} {daemon}: {line}" for line in lines]
    return "\n".join(told)


def run(name: str, *, keep: bool) -> None:
    with lab_for_the_demo(name, keep=keep):
        try:
            tell()
            if not keep:
                end(the_vm())
        except BaseException:
            print(logs_of_all_hosts(), file=sys.stderr, flush=True)
            raise


def main(arguments: list[str]) -> int:
    os.chdir(ROOT)
    begun_s = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    keep = "--keep" in arguments
    with Path("/run/atomos-demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            run(name_from_environment(), keep=keep)
        except BlockingIOError:
            print("demo: another demo is running", file=sys.stderr)
            return 1
        except (DemoError, LabError) as error:
            print(f"demo: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("demo: interrupted", file=sys.stderr)
            return 128 + signal.SIGINT
    print(f"\ndemo: all went well ({time.monotonic() - begun_s:.0f} s)")
    if keep:
        lab = LAB if name_from_environment() == "lab" else f"ATOMOS_LAB={name_from_environment()} {LAB}"
        print(f"demo: lab and VM are still up: {lab} exec client -- electros ps; end them with: {lab} down")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
