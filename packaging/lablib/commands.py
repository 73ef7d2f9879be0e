"""What a person types after `lab`, apart from `exec`. Exit codes: 0 done, 1 failed, 2 usage, 3 not (wholly) up."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from typing import NoReturn

from lablib import control, raising
from lablib.plan import LabError, Plan, load_plan, make_plan, name_from_environment
from lablib.volumes import volumes_as_json

OK, FAILED, USAGE, NOT_UP = 0, 1, 2, 3


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"lab: {message}\n")


def main(arguments: list[str], description: str) -> int:
    options = _parser(description).parse_args(arguments)
    try:
        return int(options.run(name_from_environment(), options))
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
    except PermissionError as error:
        print(f"lab: needs root (try: sudo packaging/lab ...): {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("lab: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    return FAILED


def _parser(description: str) -> Parser:
    parser = Parser(prog="lab", description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="raise a lab")
    up.add_argument("-n", type=int, default=3, metavar="HOSTS", help="how many hosts (3)")
    up.add_argument(
        "--pretend", action="append", default=[], metavar="HOST=ROOT", help="a host with another machine's inventory"
    )
    up.add_argument(
        "--unclaimed", action="append", default=[], metavar="HOST", help="a host that belongs to no realm yet"
    )
    up.add_argument("--no-daemons", action="store_true", help="libvirt only: neither atomd nor storaged")
    up.set_defaults(run=_up)
    commands.add_parser("down", help="end it, and leave nothing").set_defaults(run=_down)
    commands.add_parser("exec", help="run a command in a host: exec HOST -- COMMAND...")
    for name, run, help_text in (
        ("status", _status, "what is up"),
        ("volumes", _volumes, "the volumes and where they are"),
    ):
        listing = commands.add_parser(name, help=help_text)
        listing.add_argument("--json", action="store_true")
        listing.set_defaults(run=run)
    logs = commands.add_parser("logs", help="what the daemons of a host said")
    logs.add_argument("host")
    logs.add_argument("daemon", nargs="?")
    logs.set_defaults(run=_logs)
    for name in ("restart", "stop", "start", "kill"):
        act = commands.add_parser(name, help=f"{name} a daemon")
        act.add_argument("host")
        act.add_argument("daemon")
        if name == "kill":
            act.add_argument("--signal", default="KILL", help="KILL, TERM, STOP, CONT, 9, ...")
        act.set_defaults(run=_act, act=name)
    return parser


def _up(name: str, options: argparse.Namespace) -> int:
    begun_s = time.monotonic()
    raising.check_machine(with_daemons=not options.no_daemons)
    pretended, unclaimed = _pretended(options.pretend), set(options.unclaimed)
    plan = make_plan(name, options.n, pretended, unclaimed, with_daemons=not options.no_daemons)
    with raising.alone(name):
        if there := load_plan(name):
            state = "is up already" if there.is_up else "was begun and never finished (end it with `lab down`)"
            raise LabError(f'lab "{name}" {state}: {" ".join(host.name for host in there.hosts)}')
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            raising.raise_lab(plan)
        except BaseException:
            raising.clear_lab(name)
            raise
    hosts = " ".join(host.name for host in plan.hosts)
    print(f'lab "{name}" is up: {hosts} ({time.monotonic() - begun_s:.1f} s)', file=sys.stderr)
    return OK


def _pretended(arguments: list[str]) -> dict[str, str]:
    pretended = {}
    for argument in arguments:
        host, equals, root = argument.partition("=")
        if not (equals and root):
            raise LabError(f"--pretend {argument}: write HOST=ROOT, as in --pretend h2=/path/to/root")
        if not os.path.isdir(root):
            raise LabError(f"--pretend {argument}: there is no folder {root}")
        pretended[host] = os.path.abspath(root)
    return pretended


def _down(name: str, _: argparse.Namespace) -> int:
    if os.geteuid() != 0:
        raise LabError("needs root (try: sudo packaging/lab ...)")
    with raising.alone(name):
        found = raising.clear_lab(name)
    print(f'lab "{name}" {"is down" if found else "was not up"}', file=sys.stderr)
    return OK


def _loaded(name: str) -> Plan:
    plan = load_plan(name)
    if plan is None:
        raise LabError(f'lab "{name}" is not up (packaging/lab up -n 3)')
    return plan


def _status(name: str, options: argparse.Namespace) -> int:
    plan = load_plan(name)
    if plan is None:
        if options.json:
            print(json.dumps({"lab": name, "up": False, "hosts": []}))
        else:
            print(f'lab "{name}" is not up', file=sys.stderr)
        return NOT_UP
    hosts = [control.report(plan, host) for host in plan.hosts]
    wanted = {"virtlogd", "libvirtd"} | (set(raising.DAEMONS) if plan.with_daemons else set())
    lame = [d for host in hosts for d in host["daemons"] if d["name"] in wanted and d["state"] != "up"]
    up = plan.is_up and all(host["pid"] for host in hosts) and not lame
    if options.json:
        print(json.dumps({"lab": name, "up": up, "hosts": hosts}, indent=1))
    else:
        for host in hosts:
            daemons = "  ".join(f"{d['name']} {d['state']}" for d in host["daemons"])
            pid = f"pid {host['pid']}" if host["pid"] else "dead"
            print(f"{host['name']:<7} {host['address']:<12} {pid:<11} {daemons}".rstrip())
    return OK if up else NOT_UP


def _volumes(name: str, options: argparse.Namespace) -> int:
    volumes = volumes_as_json(_loaded(name))
    if options.json:
        print(json.dumps({"volumes": volumes}, indent=1))
        return OK
    for volume in volumes:
        kind = "bootable" if volume["bootable"] else "data"
        print(f"{volume['host']:<5} {volume['vid']}  {volume['name']:<12} {volume['format']:<6} {kind}")
    return OK


def _logs(name: str, options: argparse.Namespace) -> int:
    plan = _loaded(name)
    folder = plan.folder(plan.host(options.host)) / "log"
    logs = sorted(folder.glob("*.log"))
    if options.daemon:
        logs = [log for log in logs if log.stem == options.daemon]
        if not logs:
            raise LabError(f"{options.host}: no log of {options.daemon}")
    for log in logs:
        if not options.daemon:
            print(f"== {log.stem}")
        sys.stdout.write(log.read_text(errors="replace"))
    return OK


def _act(name: str, options: argparse.Namespace) -> int:
    plan = _loaded(name)
    host = plan.host(options.host)
    match options.act:
        case "restart":
            control.restart(plan, host, options.daemon)
        case "stop":
            control.ask(plan, host, do="stop", service=options.daemon)
            control.wait_for(plan, host, options.daemon, control.STOPPED)
        case "start":
            control.ask(plan, host, do="start", service=options.daemon)
            control.wait_for(plan, host, options.daemon, ("up",))
        case "kill":
            control.ask(plan, host, do="kill", service=options.daemon, signal=_signal_number(options.signal))
    return OK


def _signal_number(text: str) -> int:
    try:
        return signal.Signals(int(text)) if text.isdigit() else signal.Signals["SIG" + text.upper().removeprefix("SIG")]
    except (KeyError, ValueError):
        raise LabError(f"--signal {text}: no such signal") from None
