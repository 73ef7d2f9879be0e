"""What tgtd and its users say to each other on its control socket, as bytes and values.

Spoken here, and not by tgtadm, since that takes secrets in its arguments, for all to see, and takes milliseconds to
start. Source: usr/tgtadm.h, usr/mgmt.c and usr/target.c of tgt 1.0.85; structures are the machine's own.
Pure.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from storaged.export.description import LUN, Chap, Observed, parse_target

ANSWER = struct.Struct("@II")  # error, length of all
ANSWER_MAX_BYTES = 2**23  # of 1024 exports with sessions
_REQUEST = struct.Struct("@II64sIiQQIIIIII")
_ISCSI = b"iscsi"
_ALL = -1


class Mode(IntEnum):
    SYSTEM = 0
    TARGET = 1
    DEVICE = 2
    CONNECTION = 6
    ACCOUNT = 7


class Op(IntEnum):
    NEW = 0
    DELETE = 1
    SHOW = 2
    BIND = 3
    UNBIND = 4
    UPDATE = 5


class Code(IntEnum):
    """Its errors that mean something to us."""

    SUCCESS = 0
    NO_TARGET = 4
    NO_LUN = 5
    NO_SESSION = 6
    NO_CONNECTION = 7
    TARGET_EXISTS = 9
    ACL_GONE = 13
    USER_EXISTS = 14
    NO_USER = 15
    TARGET_ACTIVE = 19
    LUN_ACTIVE = 20


@dataclass(frozen=True, slots=True)
class Request:
    """One question. Its `words` may hold a secret, and are in no `repr`."""

    about: str
    bytes: bytes

    def __repr__(self) -> str:
        return f"Request({self.about})"


@dataclass(frozen=True, slots=True)
class Target:
    """A target as tgtd shows it; `seen` is `None` where it isn't one of ours."""

    tid: int
    name: str
    initiators: frozenset[str]
    users: frozenset[str]
    luns: frozenset[int]
    seen: Observed | None


def show() -> Request:
    return _request("show", Mode.TARGET, Op.SHOW, _ALL)


def new_target(tid: int, name: str) -> Request:
    return _request("new target", Mode.TARGET, Op.NEW, tid, f"targetname={name}")


def delete_target(tid: int) -> Request:
    return _request("delete target", Mode.TARGET, Op.DELETE, tid)


def new_lun(tid: int, path: str, *, direct: bool = False) -> Request:
    """With the page cache, unless `direct`, and `fdatasync` for a flush: bstype `aio` answers SYNCHRONIZE CACHE and
    does nothing."""
    assert is_speakable(path)
    flags = ",bsoflags=direct" if direct else ""
    return _request("new lun", Mode.DEVICE, Op.NEW, tid, f"path={path},bstype=rdwr{flags}", lun=LUN)


def describe_lun(tid: int, identity: str, *, readonly: bool) -> Request:
    """Guests see the same disk after each export: its numbers are the volume's, not the target's."""
    words = (
        "vendor_id=ATOMOS,product_id=volume,thin_provisioning=1"
        f",scsi_id={identity},scsi_sn={identity},readonly={int(readonly)}"
    )
    return _request("describe lun", Mode.DEVICE, Op.UPDATE, tid, words, lun=LUN)


def delete_lun(tid: int, lun: int) -> Request:
    return _request("delete lun", Mode.DEVICE, Op.DELETE, tid, lun=lun)


def new_account(chap: Chap) -> Request:
    return _request("new account", Mode.ACCOUNT, Op.NEW, 0, f"user={chap.user},password={chap.secret}")


def delete_account(user: str) -> Request:
    return _request("delete account", Mode.ACCOUNT, Op.DELETE, 0, f"user={user}")


def bind_account(tid: int, user: str) -> Request:
    return _request("bind account", Mode.ACCOUNT, Op.BIND, tid, f"user={user}")


def unbind_account(tid: int, user: str) -> Request:
    return _request("unbind account", Mode.ACCOUNT, Op.UNBIND, tid, f"user={user}")


def bind_initiator(tid: int, name: str) -> Request:
    return _request("bind initiator", Mode.TARGET, Op.BIND, tid, f"initiator-name={name}")


def unbind_initiator(tid: int, name: str) -> Request:
    words = f"initiator-name={name}" if name.startswith("iqn.") else f"initiator-address={name}"
    return _request("unbind initiator", Mode.TARGET, Op.UNBIND, tid, words)


def show_connections(tid: int) -> Request:
    return _request("show connections", Mode.CONNECTION, Op.SHOW, tid)


def delete_connection(tid: int, session: int, connection: int) -> Request:
    return _request("delete connection", Mode.CONNECTION, Op.DELETE, tid, session=session, connection=connection)


def is_speakable(path: str) -> bool:
    """Whether tgtd can be told this path, and would show it as it is."""
    return path.isprintable() and "," not in path and len(path.encode()) < 1024


def _request(
    about: str, mode: Mode, op: Op, tid: int, words: str = "", *, lun: int = 0, session: int = 0, connection: int = 0
) -> Request:
    data = words.encode() + b"\0" if words else b""
    size = _REQUEST.size + len(data)
    head = _REQUEST.pack(mode, op, _ISCSI, size, tid, session, lun, connection, 0, 0, 0, 0, 0)
    return Request(about, head + data)


_TARGET = re.compile(r"^Target (\d+): (.+)$", re.MULTILINE)
_SECTION = re.compile(r"^    (\S.*):$", re.MULTILINE)
_LUN = re.compile(r"^        LUN: (\d+)$", re.MULTILINE)
_FACT = re.compile(r"^            ([^:\n]+): (.*)$", re.MULTILINE)
_CONNECTION = re.compile(r"^Session: (\d+)\n    Connection: (\d+)$", re.MULTILINE)


def parse_targets(text: str) -> tuple[Target, ...]:
    """The answer to `show`."""
    return tuple(_target(int(found[1]), found[2], body) for found, body in _split(_TARGET, text))


def parse_connections(text: str) -> tuple[tuple[int, int], ...]:
    """Session and connection of each that has logged in."""
    return tuple((int(session), int(connection)) for session, connection in _CONNECTION.findall(text))


def _target(tid: int, name: str, body: str) -> Target:
    sections = {found[1]: text for found, text in _split(_SECTION, body)}
    luns = {int(found[1]): dict(_FACT.findall(text)) for found, text in _split(_LUN, sections["LUN information"])}
    users = frozenset(sections["Account information"].split())
    initiators = frozenset(sections["ACL information"].split())
    sessions = sections["I_T nexus information"].count("I_T nexus: ")
    return Target(tid, name, initiators, users, frozenset(luns), _seen(name, luns, initiators, users, sessions))


def _seen(
    name: str,
    luns: dict[int, dict[str, str]],
    initiators: frozenset[str],
    users: frozenset[str],
    sessions: int,
) -> Observed | None:
    named = parse_target(name)
    if named is None:
        return None
    disk = luns.get(LUN, {})
    whole = bool(disk and initiators and users) and disk["Online"] == "Yes" and disk["SCSI SN"] == named[0]
    file = disk.get("Backing store path", "")
    return Observed(*named, initiators, users, file, disk.get("Readonly") == "Yes", sessions, whole)


def _split(heading: re.Pattern[str], text: str) -> Iterator[tuple[re.Match[str], str]]:
    """Each heading with what stands below it."""
    found = list(heading.finditer(text))
    ends = [*(match.start() for match in found[1:]), len(text)]
    return ((match, text[match.end() : end]) for match, end in zip(found, ends, strict=False))
