"""How a host comes to be: a process in a network namespace made for it, and in fresh mount, PID and name spaces.

The newborn waits until its pid is on disk. If the lab is killed before that, the gate closes and the newborn ends:
there is never a host that `down` does not know.
"""

from __future__ import annotations

import os
import signal

from lablib.kernel import CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUTS, enter, unshare
from lablib.network import NAMESPACES
from lablib.plan import ROOT, Host, LabError, Plan
from lablib.processes import write_pid

INIT = ROOT / "packaging" / "lablib" / "init.py"


def bear(plan: Plan, host: Host) -> int:
    """Start the host's PID 1; its pid as seen from here. It is no child of ours."""
    pid_reader, pid_writer = os.pipe()
    gate_reader, gate_writer = os.pipe()
    midwife = os.fork()
    if midwife == 0:
        os.close(pid_reader)
        os.close(gate_writer)
        _midwife(plan, host, pid_writer, gate_reader)
    os.close(pid_writer)
    os.close(gate_reader)
    answer = os.read(pid_reader, 200).decode()
    os.close(pid_reader)
    os.waitpid(midwife, 0)
    if not answer.isdigit():
        raise LabError(f"{host.name}: {answer or 'ended before it was born'}")
    write_pid(plan.pid_file(host), int(answer))
    os.write(gate_writer, b"!")
    os.close(gate_writer)
    return int(answer)


def _midwife(plan: Plan, host: Host, pid_writer: int, gate_reader: int) -> None:
    """In a child, which alone changes its namespaces. Never returns."""
    try:
        network = os.open(NAMESPACES / plan.namespace(host.name), os.O_RDONLY)
        enter(network, CLONE_NEWNET)
        os.close(network)
        unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS)
        newborn = os.fork()
        if newborn == 0:
            os.close(pid_writer)
            _wait_and_become_init(plan, host, gate_reader)
        os.write(pid_writer, str(newborn).encode())
    except OSError as error:
        os.write(pid_writer, str(error).encode())
    os._exit(0)


def _wait_and_become_init(plan: Plan, host: Host, gate_reader: int) -> None:
    try:
        if os.read(gate_reader, 1) != b"!":
            os._exit(1)
        os.setsid()
        os.umask(0o022)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.chdir("/")
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        log = os.open(plan.folder(host) / "log" / "init.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        os.dup2(log, 1)
        os.dup2(log, 2)
        arguments = ["/usr/bin/python3", "-IS", str(INIT), plan.name, host.name]
        os.execve(arguments[0], arguments, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"})
    finally:
        os._exit(1)
