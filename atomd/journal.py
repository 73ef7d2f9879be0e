"""The commitments that survive a crash: SQLite, in WAL mode, every step synced before it is acknowledged.

A row is a VM as JSON, so that a sysadmin can read it with `sqlite3`. One file, one writer: a lock keeps a second
daemon out. A journal that can't be read stops the daemon and not the VMs: guessing here could start one twice. So does
a sync that fails: whether the step is on the disk is then known after the next start alone, and no answer is given.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from atomd.vms.lifecycle import Vm
from matcher.net.starting import make_private
from specs.ids import OfferId

SCHEMA = 1
ABANDONED_KEPT = 4096

_UNKNOWN = (sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC)  # written, and perhaps there after a crash
_TABLES = """
CREATE TABLE IF NOT EXISTS vms (
    vm_id TEXT NOT NULL, generation INTEGER NOT NULL, state TEXT NOT NULL, row TEXT NOT NULL,
    PRIMARY KEY (vm_id, generation)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS abandoned (number INTEGER PRIMARY KEY, offer_id TEXT NOT NULL UNIQUE);
"""


class JournalError(Exception):
    """The journal can't be opened, read or trusted any more; a sentence for the sysadmin."""


class JournalFull(Exception):
    """A step could not be written (no space, say): it did not happen."""


class Journal:
    """Open with a path; close when done. All calls are synchronous and return once the data is on the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._readable():
            path.parent.mkdir(parents=True, exist_ok=True)
            make_private(path)  # it holds what users wrote
            self._db = sqlite3.connect(path, isolation_level=None, timeout=1.0)
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise

    def load(self) -> tuple[list[Vm], list[OfferId]]:
        """All VMs, and the abandoned offers in their order. Raises `JournalError`."""
        with self._readable():
            rows = self._db.execute("SELECT row FROM vms ORDER BY vm_id, generation").fetchall()
            abandoned = self._db.execute("SELECT offer_id FROM abandoned ORDER BY number").fetchall()
            return [_vm().validate_json(row) for (row,) in rows], [OfferId(offer_id) for (offer_id,) in abandoned]

    # Steps: each is on the disk when the call returns. `JournalFull`: it did not happen. `JournalError`: nobody knows.

    def put(self, vm: Vm, replaces: Vm | None = None) -> None:
        """Make `vm` durable, and an older generation forgotten with it."""
        row = _vm().dump_json(vm).decode()
        with self._transaction():
            self._db.execute("REPLACE INTO vms VALUES (?, ?, ?, ?)", (vm.vm_id, vm.generation, vm.state.value, row))
            if replaces is not None:
                self._delete(replaces)

    def forget(self, vm: Vm) -> None:
        with self._transaction():
            self._delete(vm)

    def abandon(self, offer_id: OfferId) -> None:
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO abandoned (offer_id) VALUES (?)", (offer_id,))
            newest = "SELECT max(number) FROM abandoned"
            self._db.execute(f"DELETE FROM abandoned WHERE number <= ({newest}) - ?", (ABANDONED_KEPT,))  # noqa: S608

    def close(self) -> None:
        self._db.close()

    def _delete(self, vm: Vm) -> None:
        self._db.execute("DELETE FROM vms WHERE vm_id = ? AND generation = ?", (vm.vm_id, vm.generation))

    def _prepare(self) -> None:
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        (verdict,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        self._migrate()

    def _migrate(self) -> None:
        (schema,) = self._db.execute("PRAGMA user_version").fetchone()
        if schema > SCHEMA:
            raise JournalError(f"{self._path} was written by a newer atomd (schema {schema}, this one knows {SCHEMA}).")
        self._db.executescript(_TABLES)
        self._db.execute(f"PRAGMA user_version={SCHEMA}")

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise JournalError(f"Another atomd has {self._path} open. Stop it first.") from error
            raise JournalError(f"The journal {self._path} can't be opened: {error}.") from error
        except (sqlite3.DatabaseError, ValidationError) as error:
            what = "a row in it makes no sense" if isinstance(error, ValidationError) else str(error).replace("\n", " ")
            raise JournalError(
                f"The journal {self._path} is damaged: {what}. The VMs go on running; restore the file from a backup, "
                f"or move it away after writing down what `virsh list --title` shows."
            ) from error
        except OSError as error:
            raise JournalError(f"The journal {self._path} can't be opened: {error.strerror}.") from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if error.sqlite_errorcode in _UNKNOWN:
                raise JournalError(f"{self._path} could not be synced to its disk ({error}); see dmesg.") from error
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise JournalFull(str(error)) from error


@cache
def _vm() -> TypeAdapter[Vm]:
    return TypeAdapter(Vm)
