"""The journal on a real disk: what it acknowledged survives anything, and what it can't do it says in a sentence."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from atomd.journal import ABANDONED_KEPT, Journal, JournalError, JournalFull
from atomd.vms.lease import Lease
from atomd.vms.lifecycle import State
from matcher.wire.messages import Address, ImageFormat, VolumeClaim
from matcher.wire.volumes import AttachedVolume
from specs.ids import HostId, OfferId, VmId
from tests.fakes.one_host import DATA, a_vm, attached_for

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "atomd.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    journal = Journal(path)
    yield journal
    journal.close()


def reopened(journal: Journal, path: Path) -> Journal:
    journal.close()
    return Journal(path)


def test_a_new_journal_is_empty(journal: Journal) -> None:
    assert journal.load() == ([], [])


def test_what_is_put_comes_back_as_it_was(journal: Journal, path: Path) -> None:
    volume = AttachedVolume("e" * 32, "/pool/ü/disk.raw", ImageFormat.RAW, False, False, True)
    vm = replace(a_vm(State.RUNNING), volumes=(volume,), why='he said "no"\n', envelope=bytes(range(256)))
    journal.put(vm)
    again = reopened(journal, path)
    assert again.load() == ([vm], [])
    again.close()


def test_a_lease_survives_and_a_row_from_before_there_were_any_is_read(journal: Journal, path: Path) -> None:
    leased = replace(a_vm(State.RUNNING), lease=Lease(60, 160.0, "boot 1", 1_000_060.0))
    journal.put(leased)
    journal.put(a_vm(State.STOPPED, vm_id=VmId("c" * 32)))
    journal._db.execute(
        "UPDATE vms SET row = json_remove(row, '$.lease', '$.confirm.vm.lease_s') WHERE vm_id LIKE 'c%'"
    )
    again = reopened(journal, path)
    assert [vm.lease for vm in again.load()[0]] == [None, leased.lease]
    again.close()


def test_targets_survive_and_rows_from_before_there_were_any_are_read(journal: Journal, path: Path) -> None:
    claims = (VolumeClaim(DATA, HostId("2" * 64), "1" * 32, Address("10.0.0.2", 7767)),)
    vm = replace(a_vm(State.STOPPING), confirm=replace(a_vm(State.STOPPING).confirm, volumes=claims), is_cut=True)
    vm = replace(vm, volumes=attached_for(vm).volumes)
    journal.put(vm)
    before = replace(
        a_vm(State.STOPPED, vm_id=VmId("0" * 32)), volumes=(replace(vm.volumes[0], iscsi=None, path="/x"),)
    )
    journal.put(before)
    old = "json_remove(row, '$.is_cut', '$.volumes[0].iscsi')"
    journal._db.execute(f"UPDATE vms SET row = {old} WHERE vm_id LIKE '0%'")
    again = reopened(journal, path)
    assert again.load()[0] == [before, vm]
    again.close()


@pytest.mark.parametrize("state", list(State))
def test_every_state_survives(journal: Journal, path: Path, state: State) -> None:
    journal.put(a_vm(state))
    again = reopened(journal, path)
    assert [vm.state for vm in again.load()[0]] == [state]
    again.close()


def test_a_newer_generation_replaces_the_older_in_one_step(journal: Journal) -> None:
    older, newer = a_vm(State.STOPPED), a_vm(State.COMMITTED, generation=2)
    journal.put(older)
    journal.put(newer, replaces=older)
    assert journal.load()[0] == [newer]


def test_generations_stand_side_by_side_until_one_is_forgotten(journal: Journal) -> None:
    older, newer = a_vm(State.STOPPED), a_vm(State.PREPARED, generation=2)
    journal.put(older)
    journal.put(newer)
    assert journal.load()[0] == [older, newer]
    journal.forget(newer)
    journal.forget(newer)
    assert journal.load()[0] == [older]


def test_abandoned_offers_are_kept_in_their_order_once_each_and_not_without_bound(journal: Journal) -> None:
    journal.abandon(OfferId("b" * 32))
    journal.abandon(OfferId("a" * 32))
    journal.abandon(OfferId("b" * 32))
    assert journal.load()[1] == ["b" * 32, "a" * 32]
    journal._db.execute("BEGIN")
    journal._db.executemany(
        "INSERT INTO abandoned (offer_id) VALUES (?)", [(f"{number:032x}",) for number in range(ABANDONED_KEPT)]
    )
    journal._db.execute("COMMIT")
    journal.abandon(OfferId("c" * 32))
    offers = journal.load()[1]
    assert len(offers) == ABANDONED_KEPT
    assert offers[-1] == "c" * 32
    assert "b" * 32 not in offers


def test_a_sysadmin_can_read_a_row(journal: Journal, path: Path) -> None:
    journal.put(a_vm(State.RUNNING))
    journal.close()
    with sqlite3.connect(path) as db:
        ((state, row),) = db.execute("SELECT state, row FROM vms").fetchall()
    db.close()
    assert state == "running"
    assert json.loads(row)["confirm"]["name"] == "web"


# ---- kill -9

_WRITER = """
import sys
from pathlib import Path
from atomd.journal import Journal
from atomd.vms.lifecycle import State
from specs.ids import OfferId
from tests.fakes.one_host import a_vm

journal = Journal(Path(sys.argv[1]))
for generation in range(1, 1_000_000):
    older = a_vm(State.STOPPED, generation=generation - 1)
    journal.put(a_vm(State.COMMITTED, generation=generation), older if generation > 1 else None)
    journal.abandon(OfferId(f"{generation:032x}"))
    sys.stdout.write(f"{generation}\\n")
    sys.stdout.flush()
"""


@pytest.mark.parametrize("after_s", [0.01, 0.05, 0.15])
def test_what_was_acknowledged_survives_kill_9_and_nothing_is_there_by_half(path: Path, after_s: float) -> None:
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    acknowledged = [writer.stdout.readline()]
    time.sleep(after_s)
    writer.send_signal(signal.SIGKILL)
    acknowledged += writer.stdout.read().splitlines()
    writer.wait()
    writer.stdout.close()
    last = int(acknowledged[-1] or acknowledged[-2])
    journal = Journal(path)
    vms, abandoned = journal.load()
    journal.close()
    (vm,) = vms
    assert vm.generation in (last, last + 1)
    assert int(abandoned[-1], 16) in (last, last + 1)
    assert vm.generation >= int(abandoned[-1], 16)


# ---- what can't be read


def test_a_second_daemon_is_kept_out_with_a_sentence(journal: Journal, path: Path) -> None:
    with pytest.raises(JournalError, match=r"Another atomd has .* open\. Stop it first\."):
        Journal(path)
    journal.put(a_vm(State.RUNNING))


def test_a_daemon_that_was_kept_out_gets_in_when_the_first_has_ended(journal: Journal, path: Path) -> None:
    with pytest.raises(JournalError):
        Journal(path)
    journal.close()
    Journal(path).close()


def test_a_file_that_is_no_journal_is_damaged_and_left_as_it_is(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"these are not the bytes of a database" * 200)
    before = path.read_bytes()
    with pytest.raises(JournalError, match=r"is damaged: .*The VMs go on running"):
        Journal(path)
    assert path.read_bytes() == before


def test_a_damaged_page_is_noticed_at_the_start(journal: Journal, path: Path) -> None:
    for number in range(200):
        journal.put(a_vm(State.RUNNING, vm_id=VmId(f"{number:032x}")))
    journal.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(os.urandom(4096))
    with pytest.raises(JournalError, match="damaged"):
        Journal(path).load()


@pytest.mark.parametrize("row", ["{}", "not JSON", '{"confirm": 1}'])
def test_a_row_that_makes_no_sense_is_damage_in_one_line(journal: Journal, path: Path, row: str) -> None:
    journal.put(a_vm(State.RUNNING))
    journal._db.execute("UPDATE vms SET row = ?", (row,))
    with pytest.raises(JournalError, match="damaged: a row in it makes no sense") as error:
        journal.load()
    assert "\n" not in str(error.value)


def test_a_journal_of_a_newer_atomd_is_not_touched(journal: Journal, path: Path) -> None:
    journal._db.execute("PRAGMA user_version=99")
    journal.close()
    with pytest.raises(JournalError, match=r"written by a newer atomd \(schema 99"):
        Journal(path)


def test_a_place_where_nothing_can_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="can't be opened"):
        Journal(tmp_path / "file" / "atomd.sqlite")
    (tmp_path / "folder").mkdir()
    with pytest.raises(JournalError, match="can't be opened"):
        Journal(tmp_path / "folder")


# ---- a full disk


def fill(journal: Journal) -> None:
    (pages,) = journal._db.execute("PRAGMA page_count").fetchone()
    journal._db.execute(f"PRAGMA max_page_count={pages}")


def empty(journal: Journal) -> None:
    journal._db.execute("PRAGMA max_page_count=1000000")


def test_a_step_that_does_not_fit_on_the_disk_did_not_happen_and_the_journal_goes_on(
    journal: Journal, path: Path
) -> None:
    journal.put(a_vm(State.RUNNING))
    fill(journal)
    large = replace(a_vm(State.COMMITTED, generation=2), envelope=bytes(100_000))
    with pytest.raises(JournalFull, match="full"):
        journal.put(large, replaces=a_vm(State.RUNNING))
    assert journal.load()[0] == [a_vm(State.RUNNING)]
    empty(journal)
    journal.put(large, replaces=a_vm(State.RUNNING))
    again = reopened(journal, path)
    assert again.load()[0] == [large]
    again.close()


_LIMITED = """
import resource, signal, sys
from dataclasses import replace
from pathlib import Path
from atomd.journal import Journal, JournalFull
from atomd.vms.lifecycle import State
from tests.fakes.one_host import a_vm

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal(Path(sys.argv[1]))
journal.put(a_vm(State.COMMITTED))
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
written = 1
try:
    for written in range(2, 1000):
        journal.put(replace(a_vm(State.COMMITTED, generation=written), envelope=bytes(10_000)))
except JournalFull as error:
    print(written - 1, error)
print(len(journal.load()[0]))
"""


def test_a_file_system_that_takes_no_more_is_full_and_what_was_acknowledged_is_there(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, path], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    full, inside = done.stdout.splitlines()
    written = int(full.split()[0])
    assert int(inside) == written
    journal = Journal(path)
    assert [vm.generation for vm in journal.load()[0]] == list(range(1, written + 1))
    journal.close()


class Unsynced:
    """A connection whose commits are written, and then not synced."""

    in_transaction = True

    def __init__(self, db: sqlite3.Connection, code: int) -> None:
        self._db, self._code = db, code

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        if sql != "COMMIT":
            return self._db.execute(sql, *values)
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = self._code
        raise error


def test_a_sync_that_fails_is_no_refusal_since_the_step_may_be_there_after_a_crash(journal: Journal) -> None:
    db = journal._db
    journal._db = Unsynced(db, sqlite3.SQLITE_IOERR_FSYNC)  # type: ignore[assignment]
    with pytest.raises(JournalError, match="could not be synced"):
        journal.put(a_vm(State.COMMITTED))
    journal._db = db


def test_only_root_can_read_what_users_wrote(tmp_path: Path) -> None:
    path = tmp_path / "private.sqlite"
    journal = Journal(path)
    try:
        others = {file.name: file.stat().st_mode & 0o077 for file in tmp_path.glob("private.sqlite*")}
        assert others == {"private.sqlite": 0, "private.sqlite-wal": 0}
    finally:
        journal.close()
