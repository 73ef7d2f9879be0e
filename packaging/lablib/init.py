"""PID 1 of one host: furnishes it, keeps its daemons alive, reaps for ever, and obeys the lab over a Unix socket.

Run as `init.py LAB HOST`, alone in fresh namespaces. One request is one line of JSON, and so is its answer:
`{"do": "status"}`, `{"do": "start" | "stop", "service": ...}`, `{"do": "kill", "service": ..., "signal": 9}`.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from lablib.furnish import furnish
from lablib.plan import Host, Plan, load_plan
from lablib.services import Service, Services

REQUEST_MAX = 4096
FRONT_DOOR = 7766
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def services_of(host: Host, home: str) -> list[Service]:
    """As the packages' unit files order them. The client is a host on which nothing runs."""
    if host.is_client:
        return []
    programs = f"{home}/.venv/bin"
    return [
        Service("virtlogd", ["/usr/sbin/virtlogd"]),
        Service("libvirtd", ["/usr/sbin/libvirtd"], needs=("virtlogd",)),
        Service("storaged", [f"{programs}/storaged"], needs=("libvirtd",), is_ready=storaged_is_ready),
        Service("atomd", [f"{programs}/atomd"], needs=("libvirtd",), is_ready=atomd_is_ready),
    ]


def storaged_is_ready() -> bool:
    """It listens for atomd. (A socket that a killed one left behind is in no list of listeners.)"""
    return any(line.endswith(" /run/atomos/storaged.sock") for line in Path("/proc/net/unix").read_text().splitlines())


def atomd_is_ready() -> bool:
    """Its front door is open: state 0A is LISTEN."""
    tables = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    return any(
        each[1].endswith(f":{FRONT_DOOR:04X}") and each[3] == "0A" for each in map(str.split, tables.splitlines())
    )


def answer(services: Services, request: dict[str, object]) -> dict[str, object]:
    service = services.by_name.get(str(request.get("service", "")))
    match request.get("do"), service:
        case "status", _:
            return {"services": [each.report() for each in services.by_name.values()]}
        case (("start" | "stop" | "kill"), None):
            return {"error": f"no such daemon here; there are: {' '.join(services.by_name) or 'none'}"}
        case "start", Service():
            services.start(service)
        case "stop", Service():
            services.stop(service)
        case "kill", Service():
            if not services.kill(service, int(str(request["signal"]))):
                return {"error": f"{service.name} is not running ({service.state})"}
        case _:
            return {"error": "unknown request"}
    return service.report()


class Init:
    """The loop; everything in it returns at once, so that no child waits to be reaped."""

    def __init__(self, plan: Plan, host: Host, control: socket.socket):
        own_path = f"{plan.home}/.venv/bin:{PATH}"
        self.services = Services(services_of(host, plan.home), plan.folder(host) / "log", own_path)
        self.selector = selectors.DefaultSelector()
        self.selector.register(control, selectors.EVENT_READ, self.accept)
        for service in self.services.by_name.values():
            self.selector.register(service.open_notify(), selectors.EVENT_READ, self.hear(service))
        woken, wake = socket.socketpair()
        woken.setblocking(False)
        wake.setblocking(False)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # the kernel ends all the others with PID 1
        self.selector.register(woken, selectors.EVENT_READ, self.reap)
        self.wake = wake

    def run(self) -> None:
        while True:
            for key, _ in self.selector.select(self.services.tick()):
                key.data(key.fileobj)

    def accept(self, control: socket.socket) -> None:
        connection, _ = control.accept()
        connection.settimeout(1.0)
        with connection, contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            request = json.loads(connection.recv(REQUEST_MAX))
            connection.sendall(json.dumps(answer(self.services, request)).encode() + b"\n")

    def hear(self, service: Service) -> Callable[[socket.socket], None]:
        def heard(notify: socket.socket) -> None:
            with contextlib.suppress(BlockingIOError):
                self.services.heard(service, notify.recv(REQUEST_MAX))

        return heard

    def reap(self, woken: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            woken.recv(REQUEST_MAX)
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                self.services.ended(*ended)


def main(lab: str, host_name: str) -> None:
    plan = load_plan(lab)
    assert plan is not None, "the plan is written before any host is born"
    host = plan.host(host_name)
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    control.bind(str(plan.socket(host)))  # before /run is hidden: the lab reaches it from outside
    furnish(plan, host)
    init = Init(plan, host, control)
    for name in ("virtlogd", "libvirtd"):
        if name in init.services.by_name and Path(f"/usr/sbin/{name}").exists():
            init.services.start(init.services.by_name[name])
    control.listen(16)  # from here on the host is there
    init.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
