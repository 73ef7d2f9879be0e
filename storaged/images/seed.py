"""cloud-init seeds (NoCloud): a small volume with what a guest reads at its first boot.

An ISO 9660 image with Joliet names, labelled `cidata`; the same seed gives the same bytes. Seeds hold secrets: the
image is 0600, the volume is private and read-only, and no message repeats what a seed says. The text is judged by its
first line, size and characters alone, and never parsed here: it is the guest's.
Source: cloud-init's documentation ("NoCloud", "User-data formats"); ECMA-119, 8.4 and 9.1 for where dates stand.
"""

import io
import os
import re
import struct
from dataclasses import dataclass, field, replace

import pycdlib
from pycdlib.pycdlibexception import PyCdlibException

from matcher.wire.messages import ImageFormat
from specs.ids import Vid
from storaged.beneath import Unusable
from storaged.images.copying import write_all
from storaged.images.making import MIB, check_metadata, check_size, publish
from storaged.images.staging import staged
from storaged.metadata import IMAGE_DEFAULT, STEP_MIB, Metadata

USER_DATA_MAX_BYTES = 256 * 1024
OTHERS_MAX_BYTES = 64 * 1024
LABEL = "cidata"

_FIRST_LINES = ("#cloud-config", "## template: jinja")
_BEGINNINGS = ("#!", "Content-Type: multipart/", "MIME-Version:")
_INSTANCE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ISO_NAMES = {"user-data": "USERDATA", "meta-data": "METADATA", "network-config": "NETCONF"}

_SECTOR = 2048
_FIRST_DESCRIPTOR = 16 * _SECTOR
_DATES_AT, _DATES_BYTES = 813, 4 * 17  # of a volume descriptor: creation, modification, expiration, effective
_NO_DATE = (b"0" * 16 + b"\0") * 4
_ROOT_AT = 156
_RECORD_DATE_AT = 18
_RECORD_DATE = bytes([100, 1, 1, 0, 0, 0, 0])  # 2000-01-01; "none" is not allowed for


@dataclass(frozen=True, slots=True)
class Seed:
    """`meta_data` has to name an instance id; without one, a guest is told `instance_id`."""

    user_data: str = field(repr=False)
    instance_id: str
    meta_data: str | None = field(default=None, repr=False)
    network_config: str | None = field(default=None, repr=False)


def make_seed(pool: str, vid: Vid, wanted: Metadata, seed: Seed, *, most_mib: int, pool_id: str | None = None) -> None:
    """A new volume with the seed, in the root of `pool`, of the smallest size there is. `wanted` names its owner."""
    image = render_seed(seed)
    metadata = replace(
        wanted,
        size_mib=STEP_MIB,
        format=ImageFormat.RAW,
        image=IMAGE_DEFAULT,
        private=True,
        readonly=True,
        shareable=False,
        bootable=False,
    )
    check_metadata(metadata)
    check_size(metadata.size_mib, most_mib)
    with staged(pool, pool_id) as stage:
        with stage.new_file(IMAGE_DEFAULT) as file:
            write_all(file, image, 0)
            os.ftruncate(file, metadata.size_mib * MIB)
        publish(stage, vid, metadata)


def render_seed(seed: Seed) -> bytes:
    """The ISO image. Raises `Unusable` for a seed that cloud-init would not take."""
    files = {
        "user-data": _text("user-data", seed.user_data, USER_DATA_MAX_BYTES),
        "meta-data": _text("meta-data", _meta_data(seed), OTHERS_MAX_BYTES),
    }
    if seed.network_config is not None:
        files["network-config"] = _text("network-config", seed.network_config, OTHERS_MAX_BYTES)
    first, _, _ = seed.user_data.partition("\n")
    if not (first.rstrip() in _FIRST_LINES or first.startswith(_BEGINNINGS)):
        raise Unusable("user-data must begin with #cloud-config, #! or a MIME header")
    return _undated(_iso(files))


def _meta_data(seed: Seed) -> str:
    if seed.meta_data is None:
        if not _INSTANCE_ID.fullmatch(seed.instance_id):
            raise Unusable("an instance id has 1 to 64 letters, digits, dots, dashes and underscores")
        return f"instance-id: {seed.instance_id}\n"
    if not any(line.lstrip(" \"'{").startswith("instance-id") for line in seed.meta_data.splitlines()):
        raise Unusable("meta-data must have an instance-id, or cloud-init ignores the seed")
    return seed.meta_data


def _text(name: str, text: str, most_bytes: int) -> bytes:
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise Unusable(f"{name} is not UTF-8 text") from None  # the cause would repeat the text
    if not text.strip():
        raise Unusable(f"{name} is empty")
    if len(data) > most_bytes:
        raise Unusable(f"{name} is larger than {most_bytes // 1024} KiB")
    if any(ord(c) < 32 and c not in "\t\n\r" for c in text):
        raise Unusable(f"{name} holds control characters")
    return data


def _iso(files: dict[str, bytes]) -> bytes:
    iso, image = pycdlib.PyCdlib(), io.BytesIO()
    try:
        iso.new(interchange_level=3, joliet=3, vol_ident=LABEL)
        for name, data in files.items():
            iso.add_fp(io.BytesIO(data), len(data), iso_path=f"/{_ISO_NAMES[name]}.;1", joliet_path=f"/{name}")
        iso.write_fp(image)
        iso.close()
    except PyCdlibException as problem:
        raise Unusable("the seed can't be made") from problem
    return image.getvalue()


def _undated(image: bytes) -> bytes:
    """Without the times at which it was made, which the library takes from the clock."""
    iso, at = bytearray(image), _FIRST_DESCRIPTOR
    while (kind := iso[at]) != 255:
        if kind in (1, 2):  # ISO's own names, Joliet's
            iso[at + _DATES_AT : at + _DATES_AT + _DATES_BYTES] = _NO_DATE
            _undate_record(iso, at + _ROOT_AT)
            extent, length = struct.unpack_from("<I4xI", iso, at + _ROOT_AT + 2)
            _undate_folder(iso, extent * _SECTOR, length)
        at += _SECTOR
    return bytes(iso)


def _undate_folder(iso: bytearray, at: int, length: int) -> None:
    end = at + length
    while at < end and iso[at]:
        _undate_record(iso, at)
        at += iso[at]


def _undate_record(iso: bytearray, at: int) -> None:
    iso[at + _RECORD_DATE_AT : at + _RECORD_DATE_AT + len(_RECORD_DATE)] = _RECORD_DATE
