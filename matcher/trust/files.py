"""Small files that must be whole, private and on the disk: keys, certificates, what a realm is.

A name shows either the old content or the new: never half, never wider than 0600 for a moment.
"""

import json
import os
import secrets
from pathlib import Path
from typing import Any

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
        return file.read(FILE_MAX_BYTES)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises `OSError` and `ValueError`."""
    content = json.loads(read(path))
    if not isinstance(content, dict):
        raise ValueError("not an object")
    return content


def key_pem(key: EllipticCurvePrivateKey) -> bytes:
    """A private key as it lies in a file that its owner alone can read."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
