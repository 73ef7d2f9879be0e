"""`top` fits every terminal, shows nothing raw, and gives the terminal back whatever ends it."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from rich.cells import cell_len

from matcher.cli.failures import Exit, Failure
from matcher.cli.hosts_seen import Host, Looked
from matcher.cli.top import top
from matcher.cli.top_picture import Look, coloured, picture, plain
from matcher.cli.top_screen import ENTER, LEAVE
from matcher.wire.gossip import Digest, HostState
from matcher.wire.hosts import HostViews
from matcher.wire.messages import Role
from tests.fakes.hosts import Link, keyboard
from tests.fakes.neighbours import BOTH, host
from tests.unit.test_cli_output import HOSTILE

SIZES = [(1, 1), (2, 1), (5, 2), (20, 5), (20, 8), (40, 8), (80, 24), (140, 50), (400, 3)]
WAIT_S = 20.0
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def looked(*hosts: Host) -> Looked:
    return Looked(hosts, "h1", 600)


def realm(count: int) -> Looked:
    return looked(*(Host(host(number)) for number in range(count)))


def texts(seen: Looked, width: int, height: int = 0, **options: Any) -> list[str]:
    return [plain(line) for line in picture(seen, "acme", Look(width, height, **options))]


# ---- the picture


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("count", [0, 1, 3, 3000])
def test_no_line_is_too_long_and_there_are_not_too_many(width: int, height: int, count: int) -> None:
    lines = texts(realm(count), width, height)
    assert 1 <= len(lines) <= height
    assert max(map(cell_len, lines)) <= max(width, 2)


names = some.text(max_size=64)
digests = some.builds(
    Digest,
    roles=some.sampled_from([(), (Role.COMPUTE,), (Role.STORAGE,), BOTH]),
    slots=some.integers(0, 4096),
    slots_free=some.integers(0, 5000),
    ram_mib=some.integers(0, 2**26),
    ram_free_mib=some.integers(0, 2**26),
    devices=some.integers(0, 99),
    devices_free=some.integers(0, 99),
    disk_gb=some.integers(0, 2**31 - 1),
    disk_free_gb=some.integers(0, 2**31 - 1),
    vms=some.integers(0, 2**31 - 1),
    drained=some.booleans(),
)
any_host = some.builds(
    lambda number, state, name, digest, by_answer: Host(host(number, state, name=name, digest=digest), by_answer),
    some.integers(0, 99),
    some.sampled_from(HostState),
    names,
    digests,
    some.booleans(),
)


@given(some.lists(any_host, max_size=12), some.integers(1, 160), some.integers(0, 40), names)
def test_whatever_hosts_say_the_picture_fits_and_holds_no_control_character(
    hosts: list[Host], width: int, height: int, note: str
) -> None:
    lines = picture(looked(*hosts), "acme", Look(width, height), note)
    assert not height or len(lines) <= height
    for line in lines:
        assert plain(line) == "" or plain(line).isprintable()
        assert cell_len(plain(line)) <= max(2, width)
        assert COLOUR.sub("", coloured(line)).isprintable()


def test_those_that_do_not_fit_are_counted() -> None:
    lines = texts(realm(3000), 80, 24)
    shown = sum(line.startswith("h") and "/64" in line for line in lines)
    assert lines[-1] == f"and {3000 - shown:,} more"
    assert len(lines) == 24
    assert not any("more" in line for line in texts(realm(3), 80, 24))


def test_a_small_terminal_still_shows_hosts_and_what_they_have() -> None:
    lines = texts(realm(3), 20, 5)
    assert lines[0].startswith("acme  3 hosts")
    assert [line.split()[0] for line in lines[2:]] == ["h0", "h1", "h2"]
    assert all("/64" in line for line in lines[2:])


def test_without_a_height_all_hosts_are_shown() -> None:
    assert sum("/64" in line for line in texts(realm(300), 140)) == 300


def test_the_fullest_come_first_and_the_sums_are_of_those_that_live() -> None:
    full = Host(host(1, digest=Digest((Role.COMPUTE,), slots=4, slots_free=0)))
    idle = Host(host(2, digest=Digest((Role.COMPUTE,), slots=4, slots_free=4)))
    gone = Host(host(3, HostState.GONE, digest=Digest((Role.COMPUTE,), slots=4, slots_free=0)))
    lines = texts(looked(gone, idle, full), 100, 24)
    assert "3 hosts: 2 alive, 1 gone" in lines[0]
    assert "as h1 sees it" in lines[0]
    assert re.search(r"slots +█{10}░{10} 4/8", lines[1])
    order = [line.split()[0] for line in lines if re.match(r"h\d", line)]
    assert order == ["h1", "h2", "h3"]
    assert [line.split()[0] for line in texts(looked(gone, idle, full), 100, 24, sort="name")[-3:]] == order


@pytest.mark.parametrize(("free", "bar"), [(100, "░" * 10), (99, "█" + "░" * 9), (1, "█" * 9 + "░"), (0, "█" * 10)])
def test_what_is_in_use_shows_and_what_is_not_full_does_not_look_so(free: int, bar: str) -> None:
    only = Host(host(1, digest=Digest((Role.COMPUTE,), slots=100, slots_free=free)))
    line = texts(looked(only), 100, 24)[-1]
    assert f"{bar} {100 - free}/100" in line


def test_columns_of_what_nobody_has_are_left_out() -> None:
    bare = Host(host(1, digest=Digest((Role.COMPUTE,), slots=4, slots_free=4)))
    heads = next(line for line in texts(looked(bare), 200, 24) if line.startswith("HOST"))
    assert "DEVICES" not in heads
    assert "DISK" not in heads
    assert "DEVICES USED" in next(line for line in texts(realm(1), 200, 24) if line.startswith("HOST"))


def test_wide_letters_are_counted_as_wide() -> None:
    wide = Host(host(1, name="東京" * 12))
    for width in range(2, 60):
        assert all(cell_len(line) <= width for line in texts(looked(wide, Host(host(2))), width, 24))


# ---- in a pipe


@pytest.fixture
def link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Link]:
    with keyboard(tmp_path, monkeypatch, "h1") as link:
        told = [host(number, id=each.id, name=each.name) for number, each in enumerate(link.hosts)]
        for each in link.hosts:
            each.answers["GET /v1/hosts"] = HostViews(600, 3, (*told, host(9, name=HOSTILE.replace("\0", ""))))
        yield link


@pytest.mark.parametrize("once", [False, True])
def test_a_pipe_gets_all_hosts_once_and_plain(link: Link, capsys: pytest.CaptureFixture[str], once: bool) -> None:
    top(once=once)
    out, err = capsys.readouterr()
    assert err == ""
    assert len(link.asked("GET /v1/hosts")) == 1
    assert out.startswith("home  3 hosts: 3 alive")
    assert not {*"\x1b\x07\x9b\r\x00\u202e"} & {*out}
    assert len([line for line in out.splitlines() if "/64" in line and "GiB" in line]) == 3


@pytest.mark.parametrize("interval", [0.0, 0.49, -1.0, 3601.0, float("nan"), float("inf")])
def test_an_interval_that_is_none_is_refused_before_anybody_is_asked(link: Link, interval: float) -> None:
    with pytest.raises(Failure) as failed:
        top(interval=interval)
    assert failed.value.exit_code is Exit.USAGE
    assert link.asked("GET /v1/hosts") == []


# ---- on a terminal

PROGRAM = """
    import os, sys, time
    from contextlib import contextmanager
    from types import SimpleNamespace
    from matcher.cli import top as module
    from matcher.cli.failures import Exit, Failure
    from matcher.net.interrupts import Interrupts
    from tests.unit.test_cli_top import realm

    looks = [0]
    def look(*_, **__):
        looks[0] += 1
        if looks[0] > 1 and HOW == "fails":
            raise Failure(Exit.UNREACHABLE, "h1 can't be reached")
        if looks[0] > 1 and HOW == "breaks":
            raise RuntimeError("a bug")
        return realm(COUNT)

    @contextmanager
    def session(*_):
        with Interrupts() as interrupts:
            identity = SimpleNamespace(realm_name="acme")
            yield SimpleNamespace(client=SimpleNamespace(interrupts=interrupts, identity=identity))

    module.session, module.look, module.look_again = session, look, look
    module.top(interval=60.0 if HOW == "rests" else 0.5)
    print("ended well", flush=True)
"""


class Terminal:
    """A child on a terminal of its own; what it has written, and how the terminal was set before."""

    def __init__(self, pid: int, fd: int) -> None:
        self.pid, self.fd, self.out = pid, fd, ""
        self.before = termios.tcgetattr(fd)

    def until(self, text: str, *, after: int = 0) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while text not in self.out[after:]:
            assert time.monotonic() < deadline_s, f"{text!r} did not come: {self.out[-500:]!r}"
            self.read(0.1)

    def read(self, seconds: float) -> bool:
        if select.select([self.fd], [], [], seconds)[0]:
            try:
                data = os.read(self.fd, 65_536)
            except OSError:
                return False
            self.out += data.decode()
            return bool(data)
        return True

    def end(self) -> int:
        """Everything that it still writes, and its status."""
        deadline_s = time.monotonic() + WAIT_S
        while (found := os.waitpid(self.pid, os.WNOHANG))[0] == 0:
            assert time.monotonic() < deadline_s, f"it goes on: {self.out[-500:]!r}"
            self.read(0.05)
        while select.select([self.fd], [], [], 0)[0] and self.read(0):
            pass
        self.pid = 0
        return found[1]

    def is_given_back(self) -> bool:
        return self.out.count(ENTER) == self.out.count(LEAVE) and LEAVE in self.out and self.is_cooked()

    def is_cooked(self) -> bool:
        return termios.tcgetattr(self.fd)[3] == self.before[3]

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


@contextmanager
def on_terminal(how: str = "", *, count: int = 3, columns: int = 80, lines: int = 24) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    program = f"HOW, COUNT = {how!r}, {count}\n" + textwrap.dedent(PROGRAM)
    pid = os.fork()
    if pid == 0:
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        for number in range(3):
            os.dup2(slave, number)
        environment = os.environ | {"TERM": "xterm", "PYTHONPATH": os.getcwd(), "PYTHONUTF8": "1"}
        environment.pop("NO_COLOR", None)
        os.execve(sys.executable, [sys.executable, "-c", program], environment)
    terminal = Terminal(pid, master)
    try:
        terminal.until("3 hosts" if count == 3 else "hosts:")
        assert not terminal.is_cooked()
        yield terminal
    finally:
        if terminal.pid:
            with suppress(ProcessLookupError):
                os.kill(terminal.pid, signal.SIGKILL)
                os.waitpid(terminal.pid, 0)
        os.close(master)
        os.close(slave)


@pytest.mark.parametrize("keys", [b"q", b"Q", b"\x03"], ids=["q", "Q", "ctrl-c"])
def test_q_and_ctrl_c_end_it_well_and_give_the_terminal_back(keys: bytes) -> None:
    with on_terminal() as terminal:
        terminal.type(b"x")  # which means nothing
        terminal.type(keys)
        assert terminal.end() == 0
        assert terminal.is_given_back()
        assert terminal.out.rstrip().endswith("ended well")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_ends_it_as_such_and_gives_the_terminal_back_first(number: signal.Signals) -> None:
    with on_terminal() as terminal:
        os.kill(terminal.pid, number)
        assert os.WTERMSIG(terminal.end()) == number
        assert terminal.is_given_back()


def test_a_bug_gives_the_terminal_back_before_it_is_told() -> None:
    with on_terminal("breaks") as terminal:
        assert os.waitstatus_to_exitcode(terminal.end()) == 1
        assert terminal.is_given_back()
        assert terminal.out.index(LEAVE) < terminal.out.index("RuntimeError")


def test_ctrl_z_gives_the_terminal_back_and_it_goes_on_when_it_may() -> None:
    with on_terminal() as terminal:
        terminal.type(b"\x1a")
        assert os.WIFSTOPPED(os.waitpid(terminal.pid, os.WUNTRACED)[1])
        terminal.until(LEAVE)
        assert terminal.is_given_back()
        behind = len(terminal.out)
        os.kill(terminal.pid, signal.SIGCONT)
        terminal.until("3 hosts", after=behind)
        assert not terminal.is_cooked()
        terminal.type(b"q")
        assert terminal.end() == 0
        assert terminal.is_given_back()


def test_it_looks_again_and_draws_over_what_was_there_without_clearing_the_screen() -> None:
    with on_terminal() as terminal:
        behind = len(terminal.out)
        terminal.until("3 hosts", after=behind)
        terminal.type(b"q")
        terminal.end()
        assert "\x1b[2J" not in terminal.out
        frames = [part.split("\x1b[?2026l")[0] for part in terminal.out.split("\x1b[?2026h")[1:]]
        assert len(frames) >= 2
        assert all(frame.startswith("\x1b[H") and frame.count("\r\n") < 24 for frame in frames)


def test_a_new_size_is_drawn_at_once() -> None:
    with on_terminal("rests", count=3000) as terminal:
        terminal.until("\x1b[?2026l")
        behind = len(terminal.out)
        terminal.resize(20, 5)
        terminal.until("\x1b[?2026l", after=behind)
        last = terminal.out[behind:].split("\x1b[?2026h")[-1].split("\x1b[?2026l")[0]
        assert last.count("\r\n") == 4
        terminal.type(b"q")
        assert terminal.end() == 0


def test_what_was_seen_last_stays_where_nobody_answers_any_more() -> None:
    with on_terminal("fails") as terminal:
        terminal.until("h1 can't be reached")
        assert "3 hosts" in terminal.out
        terminal.type(b"q")
        assert terminal.end() == 0
