"""The audit: one line each, whatever it says, whole, and bounded where it costs its sender nothing."""

import fcntl
import itertools
import json
import logging
import multiprocessing
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matcher.net import audit_reading
from matcher.net.audit import (
    FILES_KEPT,
    LINE_MAX_BYTES,
    SOURCE,
    SOURCES_MAX,
    TOTAL,
    Audit,
    line_of,
)
from matcher.net.audit_reading import follow, last_lines
from matcher.net.caller import Caller
from matcher.trust.principal import Principal

LINES = 300
SOURCE_BURST, TOTAL_BURST = int(SOURCE.burst), int(TOTAL.burst)


@given(st.dictionaries(st.sampled_from(["who", "what", "about", "outcome", "detail"]), st.text(max_size=3000)))
def test_any_text_in_any_field_stays_one_line_of_printable_ascii(fields: dict[str, str]) -> None:
    line = line_of({**fields})
    assert line.endswith(b"\n")
    assert all(32 <= byte < 127 for byte in line[:-1])
    assert len(line) <= LINE_MAX_BYTES
    assert json.loads(line).keys() == fields.keys()


def write(path: str, who: str) -> None:
    audit = Audit(Path(path), "h1", file_max_bytes=20_000, files_kept=100)
    for number in range(LINES):
        audit.note(who, "vm.stop", str(number))


def test_two_processes_that_write_and_turn_over_at_once_lose_and_tear_nothing(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=write, args=(str(tmp_path / "audit"), who)) for who in ("a", "b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    files = [path for path in tmp_path.iterdir() if path.suffix != ".lock"]
    texts = [path.read_text() for path in files]
    lines = [json.loads(line) for text in texts for line in text.splitlines() if line]
    assert len(files) > 1
    assert all(text.endswith("\n") for text in texts)
    expected = {(who, str(number)) for who in "ab" for number in range(LINES)}
    assert sorted((line["who"], line["about"]) for line in lines) == sorted(expected)


def test_refusals_of_one_source_are_limited_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit", "h1", now_s=lambda: 0.0)
    for _ in range(SOURCE_BURST + 7):
        audit.note("uid 7", "backdoor.open", outcome="denied")
    audit.note("uid 8", "backdoor.open", outcome="denied")
    audit.close()
    lines = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    assert sum(line["who"] == "uid 7" for line in lines) == SOURCE_BURST
    assert sum(line["who"] == "uid 8" for line in lines) == 1
    assert [line["left_out"] for line in lines if "left_out" in line] == [7]


def lines_of(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_says_when_where_who_what_and_the_outcome(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit", "h1", wall_s=lambda: 1.5)
    audit.note(Caller(Principal("user", "1f2e" * 16, "ann"), "10.0.0.7"), "vm.stop", "an-id", detail="web")
    audit.note("atomd", "vm.ended", "an-id")
    whole, own = lines_of(tmp_path / "audit")
    assert whole == {
        "at": "1970-01-01T00:00:01.500Z",
        "host": "h1",
        "who": "user ann 1f2e1f2e1f2e1f2e",
        "from": "10.0.0.7",
        "what": "vm.stop",
        "about": "an-id",
        "outcome": "ok",
        "detail": "web",
    }
    assert (own["who"], own["from"]) == ("atomd", "local")


def test_what_is_done_is_written_however_often_and_refusals_of_all_together_are_limited(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit", "h1", now_s=lambda: 0.0)
    for number in range(SOURCES_MAX + 10):
        audit.note("somebody", "realm.join", outcome="refused: token", address=f"10.0.{number // 256}.{number % 256}")
        audit.note("atomd", "vm.started")
    audit.close()
    lines = lines_of(tmp_path / "audit")
    assert sum(line["what"] == "vm.started" for line in lines) == SOURCES_MAX + 10
    assert sum(line["outcome"] == "refused: token" for line in lines) == TOTAL_BURST
    assert len(audit._throttle._sources) <= SOURCES_MAX


def test_a_source_that_went_quiet_is_told_of_later(tmp_path: Path) -> None:
    now_s = [0.0]
    audit = Audit(tmp_path / "audit", "h1", now_s=lambda: now_s[0])
    for _ in range(SOURCE_BURST + 3):
        audit.note("uid 7", "backdoor.open", outcome="denied")
    audit.tick()
    assert len(lines_of(tmp_path / "audit")) == SOURCE_BURST
    now_s[0] = 60.0
    audit.tick()
    audit.tick()
    assert [line["detail"] for line in lines_of(tmp_path / "audit")[SOURCE_BURST:]] == ["3 more refusals"]


def test_old_files_go_so_that_a_disk_is_never_filled(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit", "h1", file_max_bytes=1000)
    for number in range(200):
        audit.note("atomd", "vm.started", str(number))
    files = {path.name: path.stat().st_size for path in tmp_path.iterdir() if path.suffix != ".lock"}
    assert files.keys() == {"audit", *(f"audit.{number}" for number in range(1, FILES_KEPT + 1))}
    assert max(files.values()) <= 1000
    assert lines_of(tmp_path / "audit")[-1]["about"] == "199"


def test_a_disk_that_is_full_is_told_once_counted_and_fails_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    audit, write = Audit(tmp_path / "audit", "h1"), os.write
    audit.note("atomd", "vm.started", "before")
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:10]))  # as much as there was room for
    with caplog.at_level(logging.WARNING, "audit"):
        for _ in range(5):
            audit.note("atomd", "vm.started", "never")
        assert len(caplog.records) == 1
        monkeypatch.setattr(os, "write", write)
        audit.note("atomd", "vm.started", "after")
    assert audit.lost == 5
    assert "5 lines are missing" in caplog.records[-1].message
    whole = [line for line in (tmp_path / "audit").read_text().splitlines() if line.endswith("}")]
    assert [json.loads(line)["about"] for line in whole] == ["before", "after"], "no line is glued to half a one"


def test_a_file_that_is_no_file_fails_nobody(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / "audit").symlink_to(tmp_path / "elsewhere")
    audit = Audit(tmp_path / "audit", "h1")
    audit.note("atomd", "vm.started")
    assert audit.lost == 1
    assert (tmp_path / "elsewhere").read_text() == "precious"


@pytest.mark.parametrize(
    ("gid", "may_give", "mode"),
    [(None, True, 0o600), (os.getegid(), True, 0o640), (os.getegid(), False, 0o640), (54321, False, 0o600)],
)
def test_the_sysadmins_group_may_read_it_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gid: int | None, may_give: bool, mode: int
) -> None:
    """A storaged that is not root may not give the file away: its folder does, which hands down its own group."""

    def fchown(fd: int, uid: int, gid: int) -> None:
        if not may_give:
            raise PermissionError

    monkeypatch.setattr("matcher.net.audit.gid_of_group", lambda: gid)
    monkeypatch.setattr(os, "fchown", fchown)
    Audit(tmp_path / "audit", "h1").note("atomd", "vm.started")
    assert (tmp_path / "audit").stat().st_mode & 0o777 == mode


def abouts(lines: list[str]) -> list[int]:
    return [int(json.loads(line)["about"]) for line in lines]


@pytest.mark.parametrize("count", [0, 1, 7, 30, 1000])
def test_the_newest_lines_are_found_over_all_files(tmp_path: Path, count: int) -> None:
    audit = Audit(tmp_path / "audit", "h1", file_max_bytes=1000, files_kept=20)
    for number in range(30):
        audit.note("atomd", "vm.started", str(number))
    assert abouts(last_lines(tmp_path / "audit", count, files_kept=20)) == list(range(30))[30 - min(count, 30) :]


def test_nothing_was_written_yet_is_no_mistake(tmp_path: Path) -> None:
    assert last_lines(tmp_path / "audit", 10) == []


def test_who_follows_misses_nothing_when_the_file_is_turned_over(tmp_path: Path) -> None:
    """From before there is a file; each time that it has read all, some more is written."""
    audit = Audit(tmp_path / "audit", "h1", file_max_bytes=1000, files_kept=20)
    numbers = itertools.count()

    def more(_: float) -> None:
        for _ in range(5):
            audit.note("atomd", "vm.started", str(next(numbers)))

    with closing(follow(tmp_path / "audit", 10, sleep=more)) as followed:
        lines = list(itertools.islice(followed, 40))
    assert abouts(lines) == list(range(40))
    assert (tmp_path / "audit.3").exists()


def test_who_follows_gets_the_newest_lines_first_and_those_that_come_meanwhile_once(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit", "h1", file_max_bytes=1000, files_kept=20)
    note: Callable[[int], None] = lambda number: audit.note("atomd", "vm.started", str(number))  # noqa: E731
    for number in range(10):
        note(number)
    with closing(follow(tmp_path / "audit", 4, sleep=lambda _: pytest.fail("all of it is there"))) as followed:
        lines = [next(followed)]
        for number in range(10, 14):
            note(number)
        lines += itertools.islice(followed, 7)
    assert abouts(lines) == list(range(6, 14))


def test_a_file_that_another_turned_over_a_moment_ago_is_not_turned_over_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (Audit(tmp_path / "audit", "h1", file_max_bytes=1000) for _ in range(2))
    flock, left = fcntl.flock, [None]

    def flock_when_the_other_was_faster(fd: int, how: int) -> None:
        if left:
            left.clear()
            other.note("atomd", "vm.started")
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock_when_the_other_was_faster)
    while not (tmp_path / "audit.1").exists():
        one.note("atomd", "vm.started")
    assert len(lines_of(tmp_path / "audit")) == 2, "the line of each"
    assert not (tmp_path / "audit.2").exists()


def test_what_was_written_just_before_the_file_was_turned_over_is_followed_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = Audit(tmp_path / "audit", "h1", file_max_bytes=1000)
    audit.note("atomd", "vm.started", "0")
    opened, numbers = audit_reading._opened, itertools.count(1)

    def opened_after_much_was_written(path: Path) -> BinaryIO | None:
        while not (tmp_path / "audit.1").exists():
            audit.note("atomd", "vm.started", str(next(numbers)))
        return opened(path)

    with closing(follow(tmp_path / "audit", 1, sleep=lambda _: pytest.fail("all of it is there"))) as followed:
        lines = [next(followed)]
        monkeypatch.setattr(audit_reading, "_opened", opened_after_much_was_written)
        lines += itertools.islice(followed, 5)
    assert abouts(lines) == list(range(6))
