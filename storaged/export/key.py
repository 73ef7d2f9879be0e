"""The host's own key for credentials of exports: 32 random bytes in a file that nobody else can read.

With it, a credential of an epoch is found again after a crash and kept nowhere. Whoever loses it only has to make all
exports anew.
"""

import os
from pathlib import Path

from storaged.export.description import CHAP_KEY_BYTES


class KeyUnusable(Exception):
    """The file is there and is no key; the message is a sentence for a sysadmin."""


def load_key(path: Path) -> bytes:
    """Read it, or make it. Raises `KeyUnusable`, or `OSError` where the folder can't be written."""
    try:
        return _read(path)
    except FileNotFoundError:
        _make(path)
    return _read(path)


def _read(path: Path) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(file).st_mode & 0o077:
            raise KeyUnusable(f"others may read {path}: remove it, and a new one is made")
        key = os.read(file, CHAP_KEY_BYTES + 1)
    finally:
        os.close(file)
    if len(key) != CHAP_KEY_BYTES:
        raise KeyUnusable(f"{path} is damaged: remove it, and a new one is made")
    return key


def _make(path: Path) -> None:
    """Whole or not at all; where two make it at once, one of them wins."""
    fresh = path.with_suffix(f".{os.getpid()}")
    file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, os.urandom(CHAP_KEY_BYTES))
        os.fsync(file)
    finally:
        os.close(file)
    try:
        os.link(fresh, path)
    except FileExistsError:
        return
    finally:
        os.unlink(fresh)
