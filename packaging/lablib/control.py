"""Talking to a host's PID 1 from outside."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import Any

from lablib.plan import Host, LabError, Plan
from lablib.processes import read_pid

ANSWER_MAX = 65536
POLL_S = 0.03
READY_S = 180.0  # of daemons that start side by side on an emulated machine
STOPPED = ("stopped", "failed", "ended")


def ask(plan: Plan, host: Host, **request: object) -> dict[str, Any]:
    """One request, one answer. Raises LabError where the host is not there or refuses."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5.0)
        try:
            connection.connect(str(plan.socket(host)))
            connection.sendall(json.dumps(request).encode())
            answer: dict[str, Any] = json.loads(connection.makefile().read(ANSWER_MAX))
        except (OSError, ValueError) as error:
            raise LabError(f"{host.name}: no answer from the host ({error})") from None
    if "error" in answer:
        raise LabError(f"{host.name}: {answer['error']}")
    return answer


def report(plan: Plan, host: Host) -> dict[str, Any]:
    """Name, address, pid (None: dead) and daemons of one host; never raises."""
    pid = read_pid(plan.pid_file(host))
    services: list[dict[str, Any]] = []
    if pid is not None:
        with contextlib.suppress(LabError):
            services = ask(plan, host, do="status")["services"]
    return {"name": host.name, "address": host.address, "pid": pid, "daemons": services}


def wait_until_born(plan: Plan, host: Host, deadline_s: float) -> None:
    while True:
        try:
            ask(plan, host, do="status")
            return
        except LabError:
            if read_pid(plan.pid_file(host)) is None:
                raise LabError(f"{host.name} ended at once: {_last_line(plan, host, 'init')}") from None
            if time.monotonic() > deadline_s:
                raise
        time.sleep(POLL_S)


def wait_for(plan: Plan, host: Host, daemon: str, wanted: tuple[str, ...], within_s: float = READY_S) -> None:
    """Until the daemon is in one of these states. One that fails three times on its way up is given up on."""
    deadline_s = time.monotonic() + within_s
    restarts_before = _state(plan, host, daemon)["restarts"]
    while True:
        state = _state(plan, host, daemon)
        if state["state"] in wanted:
            return
        gave_up = "up" in wanted and (state["state"] == "ended" or state["restarts"] >= restarts_before + 3)
        if gave_up or time.monotonic() > deadline_s:
            why = _last_line(plan, host, daemon)
            how = f"does not stay up, {state['last_end']}" if gave_up else f"is still {state['state']}"
            raise LabError(f"{host.name}: {daemon} {how}: {why}")
        time.sleep(POLL_S)


def restart(plan: Plan, host: Host, daemon: str) -> None:
    ask(plan, host, do="stop", service=daemon)
    wait_for(plan, host, daemon, STOPPED, within_s=15.0)
    ask(plan, host, do="start", service=daemon)
    wait_for(plan, host, daemon, ("up",))


def _state(plan: Plan, host: Host, daemon: str) -> dict[str, Any]:
    for service in ask(plan, host, do="status")["services"]:
        if service["name"] == daemon:
            return dict(service)
    raise LabError(f"{host.name} has no {daemon}")


def _last_line(plan: Plan, host: Host, daemon: str) -> str:
    try:
        lines = (plan.folder(host) / "log" / f"{daemon}.log").read_text(errors="replace").strip().splitlines()
    except FileNotFoundError:
        lines = []
    return lines[-1] if lines else "nothing in its log"
