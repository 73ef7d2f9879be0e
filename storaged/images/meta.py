"""The meta.json of a volume that is there: read as it is now, and exchanged in one step."""

import json
import os
from contextlib import suppress

from specs.ids import UserId, VmId
from storaged.beneath import Unusable, read_file
from storaged.index import META
from storaged.lenient import NotJson, read
from storaged.metadata import META_MAX_BYTES, Bad, Metadata, parse_metadata, write_metadata

MODE = 0o644
NEW_META = ".meta.json.new"  # left by a crash, until the next change

_FULL = Metadata(128, owner=UserId("0" * 64), goes_with=VmId("0" * 32), sha256="0" * 64)
_FIELDS = json.loads(write_metadata(_FULL)).keys()


def metadata_in(folder: int) -> Metadata:
    """What the open `.elimg` folder says of itself now. Raises `Unusable` or `OSError`."""
    metadata = parse_metadata(read_file(META, folder, META_MAX_BYTES))
    if isinstance(metadata, Bad):
        raise Unusable(metadata.reason)
    return metadata


def write_meta(folder: int, metadata: Metadata) -> None:
    """meta.json is exchanged in one step and is on the disk; fields in it that aren't ours are kept."""
    data = _with_foreign_fields(write_metadata(metadata), folder)
    with suppress(FileNotFoundError):
        os.unlink(NEW_META, dir_fd=folder)  # left by a crash
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(NEW_META, flags, MODE, dir_fd=folder)
    try:
        with open(file, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(NEW_META, META, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with suppress(OSError):
            os.unlink(NEW_META, dir_fd=folder)
        raise
    os.fsync(folder)


def _with_foreign_fields(data: bytes, folder: int) -> bytes:
    try:
        old = read(read_file(META, folder, META_MAX_BYTES).decode("utf-8-sig"))
    except (NotJson, UnicodeDecodeError) as problem:
        raise Unusable("meta.json can't be read") from problem
    # A field of ours that the new metadata lacks, such as the owner, must not come back from the old.
    foreign = {key: value for key, value in old.items() if key not in _FIELDS} if isinstance(old, dict) else {}
    merged = json.dumps({**json.loads(data), **foreign}, indent=2, ensure_ascii=False).encode() + b"\n"
    if len(merged) > META_MAX_BYTES:
        raise Unusable(f"meta.json would become larger than {META_MAX_BYTES // 1024} KiB")
    return merged
