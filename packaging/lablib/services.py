"""The daemons of one host, kept alive as a service manager would.

    stopped, ended --start--> queued --what it needs is up--> starting --READY=1, or seen ready--> up
    starting, up --exit 0--> ended       --any other exit--> failed --after a delay--> starting
    starting, up --stop--> stopping --exit--> stopped

Never waits: `tick` says when it wants to be called again.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

LOOK_S = 0.05  # how often a daemon that does not say READY=1 is looked at
DELAY_S = 0.1
DELAY_MAX_S = 5.0
STEADY_S = 10.0  # up for this long: the delay starts small again
STOP_S = 10.0  # SIGKILL to what has not obeyed SIGTERM for this long


class State(StrEnum):
    STOPPED = "stopped"
    QUEUED = "queued"
    STARTING = "starting"
    UP = "up"
    STOPPING = "stopping"
    FAILED = "failed"
    ENDED = "ended"


@dataclass
class Service:
    name: str
    command: list[str]
    needs: tuple[str, ...] = ()
    is_ready: Callable[[], bool] = lambda: False  # what can be seen of it, for a daemon that does not say READY=1
    state: State = State.STOPPED
    pid: int | None = None
    since_s: float = 0.0
    restarts: int = 0
    delay_s: float = DELAY_S
    last_end: str = ""
    notify: socket.socket | None = field(default=None, repr=False)

    def open_notify(self) -> socket.socket:
        path = f"/run/notify/{self.name}"
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.notify.bind(path)
        return self.notify

    def report(self) -> dict[str, object]:
        return {
            "name": self.name,
            "state": self.state,
            "pid": self.pid,
            "restarts": self.restarts,
            "last_end": self.last_end,
        }


class Services:
    def __init__(self, services: list[Service], logs: Path, path: str, now_s: Callable[[], float] = time.monotonic):
        self.by_name = {service.name: service for service in services}
        self.logs = logs
        self.path = path
        self.now_s = now_s

    def start(self, service: Service) -> None:
        if service.state in (State.STOPPED, State.FAILED, State.ENDED):
            self._turn(service, State.QUEUED)
        self.tick()

    def stop(self, service: Service) -> None:
        if service.pid is None:
            self._turn(service, State.STOPPED)
        elif service.state is not State.STOPPING:
            self._turn(service, State.STOPPING)
            os.kill(service.pid, signal.SIGTERM)

    def kill(self, service: Service, number: int) -> bool:
        """Send a signal as an accident would: what dies of it is started again."""
        if service.pid is None:
            return False
        os.kill(service.pid, number)
        return True

    def heard(self, service: Service, message: bytes) -> None:
        if b"READY=1" in message.split(b"\n") and service.state is State.STARTING:
            self._turn(service, State.UP)
            self.tick()

    def ended(self, pid: int, wait_status: int) -> None:
        service = next((service for service in self.by_name.values() if service.pid == pid), None)
        if service is None:
            return  # an orphan that came to PID 1
        code = os.waitstatus_to_exitcode(wait_status)
        service.pid = None
        service.last_end = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
        if service.state is State.STOPPING:
            self._turn(service, State.STOPPED)
        elif code == 0:
            self._turn(service, State.ENDED)
        else:
            steady = service.state is State.UP and self.now_s() - service.since_s > STEADY_S
            service.delay_s = DELAY_S if steady else min(service.delay_s * 2, DELAY_MAX_S)
            self._turn(service, State.FAILED)

    def tick(self) -> float | None:
        """Do what is due; seconds until something may be due again, None if nothing will be."""
        for service in self.by_name.values():
            match service.state:
                case State.QUEUED if all(self.by_name[need].state is State.UP for need in service.needs):
                    self._spawn(service)
                case State.FAILED if self._left_s(service) <= 0:
                    service.restarts += 1
                    self._spawn(service)
                case State.STARTING if service.is_ready():
                    self._turn(service, State.UP)
                case State.STOPPING if self._left_s(service) <= 0 and service.pid is not None:
                    os.kill(service.pid, signal.SIGKILL)
                    service.since_s = self.now_s()
        due = [self._left_s(service) for service in self.by_name.values() if service.state in _DUE]
        return max(0.0, min(due)) if due else None

    def _left_s(self, service: Service) -> float:
        if service.state is State.STARTING:
            return LOOK_S
        lasts_s = service.delay_s if service.state is State.FAILED else STOP_S
        return service.since_s + lasts_s - self.now_s()

    def _turn(self, service: Service, state: State) -> None:
        service.state, service.since_s = state, self.now_s()

    def _spawn(self, service: Service) -> None:
        service.pid = os.fork()
        if service.pid == 0:
            _become(service, self.logs / f"{service.name}.log", self.path)
        self._turn(service, State.STARTING)


_DUE = (State.STARTING, State.FAILED, State.STOPPING)


def _become(service: Service, log: Path, path: str) -> None:
    """In the child: a clean session, environment and signal table, then the daemon. Never returns."""
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.execve(service.command[0], service.command, _environment(service, path))
    except OSError as error:
        os.write(2, f"{service.command[0]}: {error.strerror}\n".encode())
    os._exit(127)


def _environment(service: Service, path: str) -> dict[str, str]:
    """As a unit file gives it: little, and what /etc/atomos/NAME.env adds (lines of KEY=VALUE)."""
    environment = {
        "PATH": path,
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "NOTIFY_SOCKET": f"/run/notify/{service.name}",
    }
    try:
        lines = Path(f"/etc/atomos/{service.name}.env").read_text().splitlines()
    except FileNotFoundError:
        return environment
    return environment | dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
