"""The right to write, kept with the volume: `attachment.json` inside its `.elimg`.

A new record takes the old one's place in one step and is on the disk, folder entry and all, before `write_right`
returns. What can't be read is an error, never "nobody": a damaged record must not make a second writer.
"""

import json
import os
import re
from contextlib import suppress

from specs.ids import HostId, UserId, Vid, VmId
from storaged.beneath import Unusable, open_beneath, read_file
from storaged.reopening import is_still
from storaged.volume import COUNTER_MAX, Epoch, Right

RECORD = "attachment.json"
RECORD_MAX_BYTES = 4096

_NEW = f".{RECORD}.new"
_HEX = {16: re.compile(r"[0-9a-f]{16}"), 32: re.compile(r"[0-9a-f]{32}"), 64: re.compile(r"[0-9a-f]{64}")}


def read_right(folder: int, vid: Vid) -> Right | None:
    """The right recorded in the open `.elimg` folder; `None` where none was ever given. Raises `Unusable`."""
    try:
        data = read_file(RECORD, folder, RECORD_MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise Unusable(f"{RECORD} can't be read: {problem.strerror}") from problem
    right = parse_right(data)
    if right is None or right.vid != vid:
        raise Unusable(
            f"{RECORD} is damaged, so that nobody knows who may write"
            if right is None
            else f"{RECORD} is that of another volume, {right.vid}"
        )
    return right


def read_right_at(pool: str, path: str, vid: Vid, pool_id: str | None = None) -> Right | None:
    """As `read_right`, from the folder `path` beneath the root `pool`, whose mark says `pool_id` still."""
    try:
        with open_beneath(pool, path, is_still(pool_id)) as folder:
            return read_right(folder, vid)
    except OSError as problem:
        raise Unusable(f"the volume's folder can't be opened: {problem.strerror}") from problem


def parse_right(data: bytes) -> Right | None:
    """`None` for anything that `render_right` would not have written."""
    if len(data) > RECORD_MAX_BYTES:
        return None
    try:
        value = json.loads(data.decode())
        right = Right(
            vid=Vid(_hex(value["vid"], 32)),
            epoch=Epoch(_whole(value["epoch"]["counter"], COUNTER_MAX), _hex(value["epoch"]["nonce"], 16)),
            server=HostId(_hex(value.get("server", value["host_id"]), 64)),
            host_id=HostId(_hex(value["host_id"], 64)),
            user_id=UserId(_hex(value["user_id"], 64)),
            vm_id=VmId(_hex(value["vm_id"], 32)),
            generation=_whole(value["generation"], 2**31 - 1),
            held=value["held"],
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return right if isinstance(right.held, bool) else None


def render_right(right: Right) -> bytes:
    value = {
        "vid": right.vid,
        "epoch": {"counter": right.epoch.counter, "nonce": right.epoch.nonce},
        "held": right.held,
        "vm_id": right.vm_id,
        "generation": right.generation,
        "user_id": right.user_id,
        "host_id": right.host_id,
        "server": right.server,
    }
    return json.dumps(value, indent=2).encode() + b"\n"


def write_right(pool: str, path: str, right: Right, pool_id: str | None = None) -> None:
    """Durable when it returns; into the pool alone whose mark says `pool_id` still. Raises `Unusable`, and then either
    record may stand: read it again."""
    try:
        with open_beneath(pool, path, is_still(pool_id)) as folder:
            _replace(folder, render_right(right))
    except OSError as problem:
        raise Unusable(f"{RECORD} can't be written: {problem.strerror}") from problem


def _replace(folder: int, data: bytes) -> None:
    with suppress(FileNotFoundError):
        os.unlink(_NEW, dir_fd=folder)  # left by a crash
    file = os.open(_NEW, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=folder)
    try:
        with open(file, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(_NEW, RECORD, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with suppress(OSError):
            os.unlink(_NEW, dir_fd=folder)  # a full disk should not stay fuller for it
        raise
    os.fsync(folder)


def _hex(value: object, digits: int) -> str:
    if isinstance(value, str) and _HEX[digits].fullmatch(value):
        return value
    raise ValueError


def _whole(value: object, most: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most:
        return value
    raise ValueError
