"""Who changed what on this host, from where, and what came of it: one line of JSON each, never rewritten.

    {"at": "2026-07-01T09:30:12.345Z", "host": "h1", "who": "user ann 1f2e3d4c5b6a7980", "from": "10.0.0.7",
     "what": "vm.stop", "about": "1f2e…", "outcome": "ok", "detail": "web"}

Everything beyond printable ASCII is escaped, so that no name can forge a line, colour a terminal or turn its text
around. A line is one `write` to a file opened for appending, so both daemons of a host may share the file; only who
turns it over takes a lock, and nobody waits for it. An empty line may stand between two, which readers pass over: who
sees the other's line half written takes it for one that a full disk ended early, and begins a new one. Nobody can fill
a disk: lines, files and refusals have limits.
A line that can't be written is counted, told once in the daemon's log, and never fails the request.
"""

import errno
import fcntl
import grp
import json
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from matcher.net.caller import Caller
from matcher.net.token_bucket import Rate, TokenBucket
from matcher.trust.principal import Principal
from matcher.wire.messages import Refused
from matcher.wire.realm import Member

PATH = Path("/var/log/atomos/audit.jsonl")
GROUP = "atomos"  # its members may read it, as they may use the back door
OK = "ok"
DENIED = "denied"

LINE_MAX_BYTES = 4096
FILE_MAX_BYTES = 64 << 20
FILES_KEPT = 8  # besides the one that is written
FIELD_MAX = {"host": 64, "who": 160, "from": 64, "what": 40, "about": 240, "outcome": 80, "detail": 1024}
# Refusals cost their sender nothing, so lines about them have a price: all of one source, and all together.
SOURCE = Rate(per_s=1 / 6, burst=20)
TOTAL = Rate(per_s=1.0, burst=200)
SOURCES_MAX = 1024
SUMMARIES_MAX = 16  # at one time, of what was left out
SETTLE_S = 10.0

log = logging.getLogger("audit")


class Audit:
    """One daemon's pen. `host` is the host's name; the clocks are for tests."""

    def __init__(
        self,
        path: Path,
        host: str,
        *,
        wall_s: Callable[[], float] = time.time,
        now_s: Callable[[], float] = time.monotonic,
        file_max_bytes: int = FILE_MAX_BYTES,
        files_kept: int = FILES_KEPT,
    ) -> None:
        self.lost = 0  # lines that could not be written
        self.path = path
        self._host, self._wall_s, self._now_s = host, wall_s, now_s
        self._file = _File(path, file_max_bytes, files_kept)
        self._throttle = _Throttle(now_s())
        self._settled_s = now_s()
        self._is_failing = False

    def note(
        self, who: Caller | str, what: str, about: str = "", outcome: str = OK, detail: str = "", *, address: str = ""
    ) -> None:
        """Write one line; never raises. `about`: ids; `outcome`: see `outcome_of`. A `Caller` brings its address."""
        name = named(who.who) if isinstance(who, Caller) else who
        address = (who.address if isinstance(who, Caller) else address) or "local"
        left_out = 0
        if outcome != OK:
            allowed = self._throttle.take(name if isinstance(who, Caller) else f"{name} {address}", self._now_s())
            if allowed is None:
                return
            left_out = allowed
        self._write(name, address, what, about, outcome, detail, left_out)
        self.tick()

    def tick(self) -> None:
        """Tell of what was left out of those who have been quiet since; to be called now and then."""
        now_s = self._now_s()
        if now_s - self._settled_s >= SETTLE_S:
            self._settled_s = now_s
            self._tell(self._throttle.settle(now_s))

    def close(self) -> None:
        self._tell(self._throttle.settle(None))
        self._file.close()

    def _tell(self, summaries: list[tuple[str, int]]) -> None:
        for source, count in summaries:
            self._write(source, "", DENIED, "", "left out", f"{count} more refusals", count)

    def _write(self, who: str, address: str, what: str, about: str, outcome: str, detail: str, left_out: int) -> None:
        at = datetime.fromtimestamp(self._wall_s(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        fields: dict[str, str | int] = {"at": at, "host": self._host, "who": who, "from": address, "what": what}
        fields |= {"about": about, "outcome": outcome, "detail": detail}
        if left_out:
            fields["left_out"] = left_out
        try:
            self._file.append(line_of(fields))
        except OSError as error:
            self._failed(error)
            return
        if self._is_failing:
            self._is_failing = False
            log.warning("the audit is written again; %d lines are missing in %s", self.lost, self.path)

    def _failed(self, error: OSError) -> None:
        self.lost += 1
        if not self._is_failing:
            self._is_failing = True
            log.error("the audit can't be written, requests go on without: %s: %s", self.path, error.strerror or error)


def named(who: Principal | Member) -> str:
    """As the audit knows them: names may come again, keys don't."""
    return f"{who.kind} {who.name} {who.id[:16]}"


def outcome_of(answer: object) -> str:
    """ "ok", or "refused: " and the code."""
    return f"refused: {answer.code}" if isinstance(answer, Refused) else OK


def why_of(answer: object) -> str:
    """The reasons of a refusal in one sentence; empty for anything else."""
    if not isinstance(answer, Refused):
        return ""
    return "; ".join(f"{reason.resource}: {reason.has}" for reason in answer.reasons)


def line_of(fields: dict[str, str | int]) -> bytes:
    """One line of ASCII JSON, at most `LINE_MAX_BYTES` long; what is too long is cut, and ends with an ellipsis."""
    cut = {k: _cut(v, FIELD_MAX.get(k, 64)) if isinstance(v, str) else v for k, v in fields.items()}
    while len(line := json.dumps(cut, ensure_ascii=True).encode("ascii") + b"\n") > LINE_MAX_BYTES:
        longest = max((key for key, value in cut.items() if isinstance(value, str)), key=lambda key: len(str(cut[key])))
        cut[longest] = _cut(str(cut[longest]), len(str(cut[longest])) // 2)
    return line


def gid_of_group() -> int | None:
    """The group whose members are a host's sysadmins; `None` where it does not exist, and root is alone."""
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return None


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


class _File:
    """The file and its older ones, `NAME.1` to `NAME.8`. Whoever turned it over, the next line goes to the new one; a
    line that is just being written may still land in what has become `NAME.1`, whole."""

    def __init__(self, path: Path, max_bytes: int, kept: int) -> None:
        self._path, self._max_bytes, self._kept = path, max_bytes, kept
        self._fd = -1

    def append(self, line: bytes) -> None:
        """Raises `OSError`; a part of the line may then be there."""
        size = self._size()
        if size and size + len(line) > self._max_bytes:
            self._turn_over(len(line))
            size = self._size()
        if size > 2 * self._max_bytes:
            raise OSError(errno.EFBIG, "it is too long, and can't be turned over")
        is_torn = size > 0 and os.pread(self._fd, 1, size - 1) not in (b"\n", b"")  # a full disk ended a line early
        data = b"\n" + line if is_torn else line
        if os.write(self._fd, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _size(self) -> int:
        """Of the file that has the name now, which is open then."""
        with suppress(FileNotFoundError):
            named = os.stat(self._path, follow_symlinks=False)
            if self._fd >= 0:
                mine = os.fstat(self._fd)
                if (mine.st_dev, mine.st_ino) == (named.st_dev, named.st_ino):
                    return mine.st_size
        self.close()
        self._fd = _opened(self._path)
        return os.fstat(self._fd).st_size

    def _turn_over(self, coming: int) -> None:
        """Unless another process is at it, or was a moment ago."""
        lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._size() + coming <= self._max_bytes:
                return
            for number in range(self._kept - 1, 0, -1):
                with suppress(FileNotFoundError):
                    os.rename(f"{self._path}.{number}", f"{self._path}.{number + 1}")
            os.rename(self._path, f"{self._path}.1")
        except BlockingIOError:
            return
        finally:
            os.close(lock)


def _opened(path: Path) -> int:
    """For root and, where there is one, the sysadmins' group, who read only."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    with suppress(FileNotFoundError):
        return os.open(path, flags)
    fd = os.open(path, flags | os.O_CREAT, 0o600)
    gid = gid_of_group()
    if gid is not None:
        with suppress(OSError):  # a daemon that is not root may not; its folder can give the file its own group instead
            os.fchown(fd, -1, gid)
        if os.fstat(fd).st_gid == gid:
            os.fchmod(fd, 0o640)
    return fd


@dataclass(slots=True)
class _Source:
    bucket: TokenBucket
    left_out: int = 0


class _Throttle:
    """How many lines about refusals may be written; what is left out is counted for its source."""

    def __init__(self, now_s: float) -> None:
        self._total = TokenBucket(TOTAL, now_s)
        self._sources: OrderedDict[str, _Source] = OrderedDict()
        self._of_forgotten = 0

    def take(self, name: str, now_s: float) -> int | None:
        """How many of this source were left out before this line; `None`: it is left out as well."""
        source = self._source(name, now_s)
        if not (self._total.has(now_s) and source.bucket.take(now_s)):
            source.left_out += 1
            return None
        self._total.take(now_s)
        left_out, source.left_out = source.left_out, 0
        return left_out

    def settle(self, now_s: float | None) -> list[tuple[str, int]]:
        """Sources of which something was left out, and that could be written of again by `now_s` (`None`: all)."""
        told: list[tuple[str, int]] = []
        for name, source in self._sources.items():
            is_due = source.left_out and (now_s is None or source.bucket.has(now_s))
            if is_due and len(told) < SUMMARIES_MAX:
                told.append((name, source.left_out))
                source.left_out = 0
        if self._of_forgotten:
            told.append(("others", self._of_forgotten))
            self._of_forgotten = 0
        return told

    def _source(self, name: str, now_s: float) -> _Source:
        source = self._sources.get(name)
        if source is None:
            if len(self._sources) >= SOURCES_MAX:
                self._of_forgotten += self._sources.popitem(last=False)[1].left_out
            source = self._sources[name] = _Source(TokenBucket(SOURCE, now_s))
        self._sources.move_to_end(name)
        return source
