"""Attachments that survive a crash: SQLite, one transaction for each change, on the disk when `write` returns.

A cache of the records inside the volumes, and the memory of their epochs. A file that is damaged, or from a newer
version, stops the daemon with a sentence, and never the VMs. Every error of SQLite is translated here.
"""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NoReturn

from matcher.net.starting import make_private
from specs.ids import HostId, UserId, Vid, VmId
from storaged.attachments import Attachment, State
from storaged.claims import SharedVolume
from storaged.volume import Epoch

SCHEMA = 1
APPLICATION_ID = 0x41744F53  # "AtOS": tells our file from any other SQLite file

_TABLES = f"""
    CREATE TABLE attachment (
        vid TEXT NOT NULL, vm_id TEXT NOT NULL, generation INTEGER NOT NULL, user_id TEXT NOT NULL,
        host_id TEXT NOT NULL, vm_name TEXT NOT NULL, writable INTEGER NOT NULL, shareable INTEGER NOT NULL,
        counter INTEGER NOT NULL, nonce TEXT NOT NULL, place INTEGER NOT NULL,
        PRIMARY KEY (vid, vm_id, user_id)) STRICT;
    CREATE UNIQUE INDEX one_writer ON attachment (vid) WHERE writable AND NOT shareable;
    CREATE TABLE epoch (
        vid TEXT NOT NULL PRIMARY KEY, counter INTEGER NOT NULL, nonce TEXT NOT NULL) STRICT;
    PRAGMA application_id = {APPLICATION_ID};
    PRAGMA user_version = {SCHEMA};
"""


class JournalError(Exception):
    """The journal can't be used; the message is a sentence for a person."""


class JournalCorrupt(JournalError):
    """The file is damaged or not ours: the daemon must stop and leave it as it is."""


class JournalFull(JournalError):
    """No space was left; nothing was written, and the journal is as before."""


class Journal:
    """The file at `path`, made where it is missing. One process and one thread at a time."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        try:
            self._base = self._open()
            self._held = self._read()
        except sqlite3.Error as error:
            self._raise(error)

    def read(self) -> State:
        """Everything written so far."""
        return self._held

    def write(self, state: State) -> None:
        """Make the file hold `state`, whole or not at all, and durably. Only what differs is written."""
        if state == self._held:
            return
        try:
            self._base.execute("BEGIN IMMEDIATE")
            self._write(self._held, state)
            self._base.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                self._base.execute("ROLLBACK")
            self._raise(error)
        self._held = state

    def close(self) -> None:
        self._base.close()

    def _open(self) -> sqlite3.Connection:
        with suppress(OSError):  # SQLite says it better
            make_private(Path(self.path))
        base = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=1.0)
        try:
            base.execute("PRAGMA locking_mode = EXCLUSIVE")  # a second daemon on this file must not start
            base.execute("PRAGMA journal_mode = WAL")
            base.execute("PRAGMA synchronous = FULL")
            base.execute("BEGIN IMMEDIATE")
            self._check(base)
            base.execute("COMMIT")
        except BaseException:
            base.close()
            raise
        return base

    def _check(self, base: sqlite3.Connection) -> None:
        application, schema, tables = (
            base.execute(query).fetchone()[0]
            for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_schema")
        )
        if not tables and not application:
            for statement in _TABLES.split(";"):
                base.execute(statement)
        elif application != APPLICATION_ID:
            raise JournalCorrupt(f"{self.path} is not a journal of storaged. Move it away, or name another file")
        elif schema != SCHEMA:
            raise JournalCorrupt(f"{self.path} was written by another version of storaged (its schema is {schema})")
        with closing(base.execute("PRAGMA quick_check(1)")) as check:
            if (found := check.fetchone()[0]) != "ok":
                raise JournalCorrupt(f"{self.path} is damaged: {found}. {_WAY_OUT}")

    def _read(self) -> State:
        rows = self._base.execute(
            "SELECT vid, writable, shareable, counter, nonce, vm_id, generation, user_id, host_id, vm_name"
            " FROM attachment ORDER BY place"
        ).fetchall()
        epochs = self._base.execute("SELECT vid, counter, nonce FROM epoch").fetchall()
        return State(
            tuple(_attachment(row) for row in rows),
            {Vid(vid): Epoch(counter, nonce) for vid, counter, nonce in epochs},
        )

    def _write(self, before: State, after: State) -> None:
        known, kept = set(before.attachments), set(after.attachments)
        gone = known - kept
        new = [a for a in after.attachments if a not in known]
        self._base.executemany(
            "DELETE FROM attachment WHERE vid = ? AND vm_id = ? AND user_id = ?",
            [(a.vid, a.vm_id, a.user_id) for a in gone],
        )
        self._base.executemany(
            "INSERT INTO attachment (vid, writable, shareable, counter, nonce, vm_id, generation, user_id, host_id,"
            " vm_name, place) SELECT ?,?,?,?,?,?,?,?,?,?, 1 + coalesce(max(place), 0) FROM attachment",
            [_row(a) for a in new],
        )
        self._base.executemany(
            "INSERT OR REPLACE INTO epoch (vid, counter, nonce) VALUES (?, ?, ?)",
            [(vid, e.counter, e.nonce) for vid, e in after.epochs.items() if before.epochs.get(vid) != e],
        )

    def _raise(self, error: sqlite3.Error) -> NoReturn:
        match getattr(error, "sqlite_errorcode", 0) & 0xFF:
            case sqlite3.SQLITE_FULL:
                raise JournalFull(f"no space is left for {self.path}") from error
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
                raise JournalCorrupt(f"{self.path} is damaged: {error}. {_WAY_OUT}") from error
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                raise JournalError(f"{self.path} is in use by another storaged") from error
            case _:
                raise JournalError(f"{self.path} can't be used: {error}") from error


_WAY_OUT = "Running VMs are not touched. Move it away; what is attached will be read from the volumes again"


def _row(a: Attachment) -> tuple[str | int, ...]:
    volume, epoch = a.volume, a.epoch
    kinds = (volume.writable, volume.shareable)
    return (a.vid, *map(int, kinds), epoch.counter, epoch.nonce, a.vm_id, a.generation, a.user_id, a.host_id, a.vm_name)


def _attachment(row: tuple[Any, ...]) -> Attachment:
    vid, writable, shareable, counter, nonce, vm_id, generation, user_id, host_id, vm_name = row
    return Attachment(
        SharedVolume(Vid(vid), bool(writable), bool(shareable)),
        Epoch(counter, nonce),
        VmId(vm_id),
        generation,
        UserId(user_id),
        HostId(host_id),
        vm_name,
    )
