"""The journal survives crashes, and says so when it is not fit to be used."""

import sqlite3
from pathlib import Path

import pytest

from storaged.attachments import Attachment, State
from storaged.claims import SharedVolume
from storaged.journal import Journal, JournalCorrupt, JournalError, JournalFull
from storaged.testing import ALICE, BOB, H1, vid_of, vm_of
from storaged.volume import Epoch


def attachment(number: int, vm: int = 1, *, shareable: bool = False) -> Attachment:
    volume = SharedVolume(vid_of(number), True, shareable)
    return Attachment(volume, Epoch(number, "f" * 16), vm_of(vm), 2, ALICE, H1, 'web "1" \u2603')


STATE = State((attachment(2), attachment(1)), {vid_of(1): Epoch(1, "f" * 16), vid_of(7): Epoch(2**53, "0" * 16)})


def test_what_is_written_is_there_after_a_reopening(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    assert journal.read() == State()
    journal.write(STATE)
    journal.close()
    assert Journal(tmp_path / "j").read() == STATE


def test_a_change_removes_adds_and_keeps(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.write(STATE)
    later = State((attachment(1), attachment(3, shareable=True), attachment(3, 2, shareable=True)), STATE.epochs)
    journal.write(later)
    journal.close()
    assert Journal(tmp_path / "j").read() == later


def test_two_writers_of_one_volume_cannot_be_written_down(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    with pytest.raises(JournalError):
        journal.write(State((attachment(1, 1), attachment(1, 2))))
    assert journal.read() == State()


def test_a_crash_right_after_a_write_loses_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.write(STATE)
    for suffix in ("", "-wal"):  # as a crash would leave them: nothing closed, nothing checkpointed
        (tmp_path / f"copy{suffix}").write_bytes((tmp_path / f"j{suffix}").read_bytes())
    assert Journal(tmp_path / "copy").read() == STATE


def test_a_torn_tail_loses_the_last_write_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.write(STATE)
    whole = (tmp_path / "j-wal").stat().st_size
    journal.write(State())
    (tmp_path / "copy").write_bytes((tmp_path / "j").read_bytes())
    (tmp_path / "copy-wal").write_bytes((tmp_path / "j-wal").read_bytes()[: whole + 100])
    assert Journal(tmp_path / "copy").read() == STATE


@pytest.mark.parametrize("content", [b"not a database, by far" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_damaged_file_is_a_sentence_and_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "j").write_bytes(content)
    with pytest.raises(JournalCorrupt, match=r"is damaged.*Running VMs are not touched"):
        Journal(tmp_path / "j")
    assert (tmp_path / "j").read_bytes() == content


def test_damage_in_the_middle_is_found_at_the_start(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.write(State(tuple(attachment(n) for n in range(200))))
    journal.close()
    content = bytearray((tmp_path / "j").read_bytes())
    content[4096 * 3 : 4096 * 3 + 2000] = b"\x5a" * 2000
    (tmp_path / "j").write_bytes(content)
    with pytest.raises(JournalCorrupt):
        Journal(tmp_path / "j")


def test_another_programs_database_is_not_touched(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "j") as other:
        other.execute("CREATE TABLE theirs (x)")
    other.close()
    with pytest.raises(JournalCorrupt, match="not a journal of storaged"):
        Journal(tmp_path / "j")


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    Journal(tmp_path / "j").close()
    with sqlite3.connect(tmp_path / "j") as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(JournalCorrupt, match="another version"):
        Journal(tmp_path / "j")


def test_a_second_daemon_on_one_journal_is_refused(tmp_path: Path) -> None:
    first = Journal(tmp_path / "j")
    with pytest.raises(JournalError, match="in use by another storaged"):
        Journal(tmp_path / "j")
    first.write(STATE)


def test_a_missing_folder_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="can't be used"):
        Journal(tmp_path / "gone" / "j")


def test_a_full_disk_is_a_typed_error_and_nothing_is_lost(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.write(STATE)
    pages = journal._base.execute("PRAGMA page_count").fetchone()[0]
    journal._base.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(JournalFull, match="no space is left"):
        journal.write(State(tuple(attachment(n) for n in range(1000))))
    assert journal.read() == STATE
    journal._base.execute("PRAGMA max_page_count = 1000000")
    journal.write(State((attachment(9),)))
    journal.close()
    assert Journal(tmp_path / "j").read() == State((attachment(9),), STATE.epochs)


def test_a_shared_volume_may_have_vms_of_several_users(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    theirs = Attachment(SharedVolume(vid_of(1), True, True), Epoch(1, "0" * 16), vm_of(1), 1, BOB, H1)
    journal.write(State((attachment(1, shareable=True), theirs)))
    assert len(journal.read().attachments) == 2
