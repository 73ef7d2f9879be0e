"""What `atomctl` does: asks the back door, finds the VM that is meant, prints; others' text made printable."""

import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import trio

from atomd import members
from atomd.config import Config
from atomd.inventory.addresses import ADDRESS
from matcher.net import audit_reading, local
from matcher.net.starting import SettingsError, load_settings
from matcher.wire import backdoor as asked
from matcher.wire.hosts import ListMembers, MemberRow, MemberRows
from matcher.wire.messages import Message, Refused
from matcher.wire.naming import device_kind
from matcher.wire.realm import Done
from specs.ids import dashed, parse_id

ASK_S = 10.0
END_S = 90.0  # a guest has its time to obey
WHY_MAX = 120

A = TypeVar("A", bound=Message)


class Exit(IntEnum):
    """Those of `electros`."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 4
    DENIED = 5
    UNREACHABLE = 6
    TIMEOUT = 7
    INTERRUPTED = 130


class Failure(Exception):
    """One sentence, and the lines that belong to it; scripts rely on the code."""

    def __init__(self, code: Exit, sentence: str, *more: str) -> None:
        super().__init__(sentence)
        self.code, self.sentence, self.more = code, sentence, more

    def text(self) -> str:
        return "\n".join(printable(line) for line in (f"atomctl: {self.sentence}", *(f"  {m}" for m in self.more)))

    def document(self) -> dict[str, object]:
        error: dict[str, object] = {"code": self.code.name.lower().replace("_", "-"), "message": self.sentence}
        return {"error": error | ({"details": list(self.more)} if self.more else {})}


class Desktop:
    """One command's run. All of it may raise `Failure`."""

    def __init__(self, config: Path, output: str) -> None:
        try:
            self._config = load_settings(config, Config)
        except SettingsError as error:
            fail(Exit.USAGE, str(error))
        self._is_json = output == "json"

    def ps(self) -> None:
        rows = self._rows()
        heads = ("ID", "NAME", "USER", "STATE", "VCPUS", "RAM", "DEVICES", "LEASE", "WHY")
        table = [
            (dashed(r.id), r.name, r.user, r.state, r.vcpus, f"{r.ram_mib} MiB", r.devices, left(r.lease_s), r.why)
            for r in rows
        ]
        self._show({"vms": [as_dict(row) for row in rows]}, heads, table)

    def inspect(self, word: str) -> None:
        said = self._ask(asked.InspectVm(self._find(word).id), asked.Inspected)
        document = as_dict(said.vm) | {"user_id": said.user_id}
        self._show({"vm": document}, ("", ""), [(key, plain(value)) for key, value in document.items()])

    def holds(self) -> None:
        rows = self._ask(asked.ListHolds(), asked.HoldRows).rows
        heads = ("OFFER", "VM", "USER", "VCPUS", "RAM", "DEVICES", "LEFT")
        table = [
            (
                r.offer_id,
                dashed(r.vm_id),
                r.user or r.user_id[:16],
                r.vcpus,
                f"{r.ram_mib} MiB",
                r.devices,
                f"{r.left_ms} ms",
            )
            for r in rows
        ]
        self._show({"holds": [as_dict(row) for row in rows]}, heads, table)

    def members(self) -> None:
        rows: list[MemberRow] = []
        listens_s = -1
        while True:
            page = self._ask(ListMembers(rows[-1].host.id if rows else ""), MemberRows)
            rows, listens_s = [*rows, *page.rows], page.listens_s
            if not page.more or not page.rows:
                break
        if listens_s < 0:
            sys.stderr.write("atomctl: atomd does not hear of others: see journalctl -u atomd; gossip_port\n")
        shown = members.in_order(rows)
        document = {"listens_s": listens_s, "members": [members.document(row) for row in shown]}
        self._show(document, members.HEADS, map(members.cells, shown))

    def devices(self) -> None:
        rows: list[asked.DeviceRow] = []
        while True:
            page = self._ask(asked.ListDevices(rows[-1].address if rows else ""), asked.DeviceRows)
            rows += page.rows
            if not page.more or not page.rows:
                break
        heads = ("ADDRESS", "DEVICE", "CLASS", "GROUP", "DRIVER", "VM", "FOR VMS")
        table = [
            (
                row.address,
                device_kind(row.vendor, row.model, "", row.mdev_type),
                row.device_class,
                row.group if row.group >= 0 else "-",
                row.driver or "-",
                dashed(row.vm_id) if row.vm_id else "-",
                f"no: {row.why_not}" if row.why_not else "yes",
            )
            for row in rows
        ]
        self._show({"devices": [as_dict(row) for row in rows]}, heads, table)

    def readmit(self, address: str) -> None:
        if not ADDRESS.fullmatch(address):
            fail(Exit.USAGE, f'"{address}" is no PCI address such as 0000:3b:00.0', "atomctl devices shows all")
        said = self._ask(asked.ReadmitDevice(address), Done)
        self._say({"readmitted": address}, said.said)

    def drain(self, *, on: bool) -> None:
        said = self._ask(asked.SetDrained(on), Done)
        self._say({"drained": on}, said.said)

    def evict(self, word: str, *, force: bool, why: str) -> None:
        if len(why) > WHY_MAX:
            fail(Exit.USAGE, f"--why has {len(why)} characters, at most {WHY_MAX} are told")
        row = self._find(word)
        self._end(asked.EvictVm(row.id, row.generation, force, why))

    def remove(self, word: str, *, yes: bool) -> None:
        row = self._find(word)
        if not yes:
            of = f"{row.name or dashed(row.id)} of {row.user} ({row.state})"
            fail(Exit.USAGE, f"{of} would be gone for good; nothing was done", "add --yes if that is meant")
        self._end(asked.RemoveVm(row.id, row.generation))

    def status(self) -> None:
        said = self._ask(asked.AskStatus(), asked.HostStatus)
        fresh = f"{said.fresh_s} s old" if said.fresh_s >= 0 else "no issuer was ever heard"
        table: list[Sequence[object]] = [
            ("host", f"{said.host} ({said.host_id[:16]}), version {said.version}"),
            ("realm", f"{said.realm} ({said.realm_id}), epoch {said.epoch}, {said.revocations} revocations"),
            ("newest word", fresh),
            ("drained", said.drained or "no"),
            ("libvirt", said.libvirt or "up"),
            ("storaged", "up" if said.is_storaged_up else "down"),
            ("VMs", f"{said.vms}, {said.vms_running} running"),
            ("holds", said.holds),
            ("audit", f"{said.audit_lost} lines lost" if said.audit_lost else "whole"),
            *((counter.name, counter.count) for counter in said.counters),
        ]
        self._show({"status": as_dict(said)}, ("", ""), table)

    def audit(self, count: int, *, follow: bool) -> None:
        """The file itself is read: it may be there where atomd is not."""
        path = self._config.audit
        if count < 0:
            fail(Exit.USAGE, "-n is a number of lines, 0 or more")
        for line in _audit_lines(path, count, follow=follow):
            self._audit_line(line)
            if follow:
                sys.stdout.flush()

    # ---- inside

    def _audit_line(self, line: str) -> None:
        try:
            fields = json.loads(line)
        except ValueError:
            fields = None
        if self._is_json or not isinstance(fields, dict):
            write(printable(line))
            return
        keys = ("at", "who", "from", "what", "about", "outcome", "detail")
        write("  ".join(printable(str(fields[key])) for key in keys if fields.get(key)))

    def _end(self, question: Message) -> None:
        said = self._ask(question, asked.Ended, END_S)
        name = said.row.name or dashed(said.row.id)
        state = "gone" if said.is_gone else said.row.state
        self._say({"vm": as_dict(said.row), "gone": said.is_gone}, f"{name} of {said.row.user}: {state}")

    def _rows(self) -> list[asked.VmRow]:
        rows: list[asked.VmRow] = []
        while True:
            page = self._ask(asked.ListVms(rows[-1].id if rows else ""), asked.VmRows)
            rows += page.rows
            if not page.more or not page.rows:
                return rows

    def _find(self, word: str) -> asked.VmRow:
        found = matching(self._rows(), word)
        if not found:
            fail(Exit.NOT_FOUND, f'no VM here is called "{word}"; atomctl ps shows all')
        if len(found) > 1:
            fail(Exit.USAGE, f'"{word}" may be several VMs:', *(f"{dashed(r.id)}  {r.name} of {r.user}" for r in found))
        return found[0]

    def _ask(self, question: Message, answer: type[A], timeout_s: float = ASK_S) -> A:
        path = self._config.atomctl_socket
        try:
            said = trio.run(lambda: local.ask(path, question, answer, timeout_s=timeout_s))
        except local.LocalError as error:
            match error.__cause__:
                case FileNotFoundError() | ConnectionRefusedError():
                    fail(Exit.UNREACHABLE, f"atomd does not serve: nobody answers at {path}", *self._why_down())
                case PermissionError():
                    fail(Exit.DENIED, "only root and the members of group atomos may ask this host's atomd")
                case trio.TooSlowError():
                    fail(Exit.TIMEOUT, f"atomd has not answered in {timeout_s:g} s; what it does goes on: atomctl ps")
            fail(Exit.UNREACHABLE, f"atomd hung up: it hears root and the members of group atomos alone ({error})")
        except OSError as error:
            fail(Exit.UNREACHABLE, f"atomd is not reached: {error}")
        if isinstance(said, Refused):
            why = "; ".join(f"{r.resource}: asked {r.asked}; {r.has}" for r in said.reasons)
            hints = dict.fromkeys(r.hint for r in said.reasons if r.hint)
            fail(Exit.NOT_FOUND if said.code == "not-found" else Exit.FAILED, why or said.code, *hints)
        return said

    def _why_down(self) -> tuple[str, ...]:
        see = "see: systemctl status atomd; journalctl -u atomd"
        try:
            os.stat(self._config.identity / "leaf.pem")
        except FileNotFoundError:
            pass
        except OSError:  # for root alone
            return (f"where a host belongs to no realm yet, it waits for one; {see}",)
        else:
            return (see,)
        first = "this host belongs to no realm yet: electros realm create NAME, on a realm's first host"
        return (f"{first}; atomd join TOKEN, on any other", see)

    def _say(self, document: dict[str, Any], sentence: str) -> None:
        write(as_json(document) if self._is_json else printable(sentence))

    def _show(self, document: dict[str, Any], heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        write(as_json(document) if self._is_json else as_table(heads, rows))


def _audit_lines(path: Path, count: int, *, follow: bool) -> Iterator[str]:
    try:
        yield from audit_reading.follow(path, count) if follow else audit_reading.last_lines(path, count)
    except PermissionError:
        fail(Exit.DENIED, f"{path} is for root and the members of group atomos")
    except OSError as error:
        fail(Exit.FAILED, f"{path} can't be read: {error.strerror}")


def matching(rows: Sequence[asked.VmRow], word: str) -> list[asked.VmRow]:
    """Those that `word` may mean: by id or whole name, else by the start of either."""
    whole = parse_id(word)
    exact = [row for row in rows if word and (row.name == word or row.id == whole)]
    start = word.replace("-", "").lower()
    return exact or [
        row for row in rows if word and (row.name.startswith(word) or (start and row.id.startswith(start)))
    ]


def as_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    lines = [[*heads], *cells] if any(heads) else cells
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))] if lines else []
    return "\n".join("  ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def as_json(document: object) -> str:
    """Without a raw control character, and no other text that could fool a terminal."""
    return json.dumps(document, indent=2)


def as_dict(message: Message) -> dict[str, Any]:
    return dataclasses.asdict(message)


def plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def left(lease_s: int) -> str:
    return f"{lease_s} s" if lease_s >= 0 else "-"


def printable(text: str) -> str:
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def write(text: str) -> None:
    sys.stdout.write(text + "\n")


def fail(code: Exit, sentence: str, *more: str) -> NoReturn:
    raise Failure(code, sentence, *more)
