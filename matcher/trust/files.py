"""Small files that must be whole, private and on the disk: keys, certificates, what a realm is.

A name shows either the old content or the new: never half, never wider than 0600 for a moment.
"""

import errno
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

FILE_MAX_BYTES = 8 << 20


def make_folder(folder: Path) -> None:
    """`folder` with mode 0700, and its parents, where they are missing; one that exists stays as it is."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)


def write(path: Path, content: bytes) -> None:
    """Replace `path` with a file of mode 0600, on the disk when this returns."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: dict[str, Any]) -> None:
    write(path, (json.dumps(content, indent=2) + "\n").encode())


def read(path: Path) -> bytes:
    """The whole of a small file. Raises `OSError`."""
    with path.open("rb") as file:
        return _all_of(file, path)


def read_private(path: Path) -> bytes:
    """The whole of a file that nobody but its owner may read or write. Raises `TooOpen` and `OSError`."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_mode & 0o077:
            raise TooOpen(path)
        return _all_of(file, path)


class TooOpen(Exception):
    """Others than its owner can read this; a sentence with the command that helps."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"Others than you can read the private key {path}. Run: chmod 600 {path}")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """No other process that asks for this changes what is in `folder` meanwhile. Raises `OSError`.

    The lock (flock) is on the folder itself and ends with the process, so that no file of a dead one bars the way.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _all_of(file: IO[bytes], path: Path) -> bytes:
    content = file.read(FILE_MAX_BYTES + 1)
    if len(content) > FILE_MAX_BYTES:  # half of it could pass for the whole
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return content


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises `OSError` and `ValueError`."""
    content = json.loads(read(path))
    if not isinstance(content, dict):
        raise ValueError("not an object")
    return content


def key_pem(key: EllipticCurvePrivateKey) -> bytes:
    """A private key as it lies in a file that its owner alone can read."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
