"""What a volume says of itself, in its `meta.json`: read leniently, written strictly.

    {size: 10, name: dummy_volume, bootable: true, private: false, shareable: false, readonly: false}

Reading takes JSON, JSON5 and bare words (see `lenient`). A value of the wrong kind makes the volume bad, with every
mistake in one sentence. A field that looks like a misspelt one is a mistake too: `readnoly: true` must not
make a volume writable. Any other unknown field is left to whoever wrote it.
Pure.
"""

import json
import math
import re
from dataclasses import dataclass
from difflib import get_close_matches

from matcher.wire.messages import ImageFormat
from specs.ids import UserId, VmId
from storaged.lenient import NotJson, Value, read

META_MAX_BYTES = 64 * 1024
NAME_MAX = 64  # as on the wire
STEP_MIB = 128  # 0.125 GB
SIZE_MAX_MIB = 2**30  # 1 PiB
IMAGE_DEFAULT = "data.img"
FOLDER_DEFAULT = "share"  # what is given to VMs of a volume that is a folder
IMAGE_NAME_MAX_BYTES = 200
OURS = frozenset({"meta.json", "attachment.json", "pool.json"})  # never an image

_FLAGS = ("bootable", "private", "shareable", "readonly")
_FIELDS = ("size", "name", *_FLAGS, "format", "image", "owner", "goes_with", "sha256")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_VM_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Bad:
    """Why something can't be used: one sentence for a person, without the full stop."""

    reason: str


@dataclass(frozen=True, slots=True)
class Metadata:
    """One volume's metadata. A private volume has an owner; a shareable one is not bootable; a folder is shareable.
    `goes_with`: the VM with which it is removed. `sha256`: of the image that it was made from, as that came."""

    size_mib: int
    name: str = ""
    bootable: bool = False
    private: bool = False
    shareable: bool = False
    readonly: bool = False
    format: ImageFormat = ImageFormat.RAW
    image: str = IMAGE_DEFAULT
    owner: UserId | None = None
    goes_with: VmId | None = None
    sha256: str | None = None


def parse_metadata(data: bytes) -> Metadata | Bad:
    """The metadata that `data`, a whole `meta.json`, holds; `Bad` for anything else, never an exception."""
    if len(data) > META_MAX_BYTES:
        return Bad(f"meta.json is larger than {META_MAX_BYTES // 1024} KiB")
    try:
        value = read(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return Bad("meta.json is not UTF-8 text")
    except NotJson as problem:
        return Bad(f"meta.json can't be read: {problem}")
    if not isinstance(value, dict):
        return Bad("meta.json must hold one object, { … }")
    return _checked({key: field for key, field in value.items() if field is not None})


def write_metadata(metadata: Metadata) -> bytes:
    """Strict JSON with every field, in a fixed order; `parse_metadata` gives the same metadata back."""
    size_gb = metadata.size_mib / 1024
    fields: dict[str, str | int | float | bool] = {
        "size": int(size_gb) if size_gb.is_integer() else size_gb,
        "name": metadata.name,
        **{flag: getattr(metadata, flag) for flag in _FLAGS},
        "format": metadata.format.value,
        "image": metadata.image,
    }
    if metadata.owner is not None:
        fields["owner"] = metadata.owner
    if metadata.goes_with is not None:
        fields["goes_with"] = metadata.goes_with
    if metadata.sha256 is not None:
        fields["sha256"] = metadata.sha256
    return json.dumps(fields, indent=2, ensure_ascii=False).encode() + b"\n"


def _checked(fields: dict[str, Value]) -> Metadata | Bad:
    problems = _misspelt(fields)
    flags = {flag: _flag(fields, flag, problems) for flag in _FLAGS}
    metadata = Metadata(
        size_mib=_size_mib(fields, problems),
        name=_name(fields, problems),
        format=_format(fields, problems),
        image=_image(fields, problems),
        owner=_owner(fields, problems),
        goes_with=_goes_with(fields, problems),
        sha256=_sha256(fields, problems),
        **flags,
    )
    if metadata.shareable and metadata.bootable:
        problems.append("a shareable volume can't be bootable")
    if metadata.shareable and metadata.format is ImageFormat.QCOW2 and not metadata.readonly:
        problems.append("a shareable volume must be raw: two writers would wreck a qcow2's tables")
    if metadata.format is ImageFormat.FOLDER and not metadata.shareable:
        problems.append('a folder must be "shareable": it is no disk of one VM')
    if metadata.private and metadata.owner is None:
        problems.append('a private volume needs an "owner", the id of its user')
    return Bad("in meta.json, " + "; ".join(problems)) if problems else metadata


def _misspelt(fields: dict[str, Value]) -> list[str]:
    problems = []
    for key in sorted(fields.keys() - set(_FIELDS)):
        close = get_close_matches(key[:40].lower(), _FIELDS, n=1, cutoff=0.75)
        if close:
            problems.append(f'"{_shown(key)}" is unknown; did you mean "{close[0]}"?')
    return problems[:8]


def _flag(fields: dict[str, Value], flag: str, problems: list[str]) -> bool:
    value = fields.get(flag, False)
    if not isinstance(value, bool):
        problems.append(f'"{flag}" must be true or false, not {_kind(value)}')
        return False
    return value


def _size_mib(fields: dict[str, Value], problems: list[str]) -> int:
    if "size" not in fields:
        problems.append('"size" (in GB) is missing')
        return STEP_MIB
    size_gb = fields["size"]
    if isinstance(size_gb, bool) or not isinstance(size_gb, int | float) or not math.isfinite(size_gb):
        problems.append(f'"size" must be a number of GB, not {_kind(size_gb)}')
        return STEP_MIB
    if not 0 < size_gb <= SIZE_MAX_MIB // 1024:
        problems.append(f'"size" must be more than 0 and at most {SIZE_MAX_MIB // 1024} GB')
    elif size_gb * 8 != int(size_gb * 8):
        problems.append(f'"size" must be a multiple of 0.125 GB, not {size_gb:.12g}')
    else:
        return int(size_gb * 1024)
    return STEP_MIB


def _name(fields: dict[str, Value], problems: list[str]) -> str:
    value = fields.get("name", "")
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)  # `name: 2024` was meant as a name
    if not isinstance(value, str):
        problems.append(f'"name" must be text, not {_kind(value)}')
    elif len(value) > NAME_MAX:
        problems.append(f'"name" must have at most {NAME_MAX} characters')
    elif not value.isprintable():
        problems.append('"name" must not hold control or other invisible characters')
    else:
        return value
    return ""


def _format(fields: dict[str, Value], problems: list[str]) -> ImageFormat:
    value = fields.get("format", ImageFormat.RAW.value)
    if isinstance(value, str) and value.lower() in set(ImageFormat):
        return ImageFormat(value.lower())
    problems.append(f'"format" must be raw, qcow2 or folder, not {_kind(value)}')
    return ImageFormat.RAW


def _image(fields: dict[str, Value], problems: list[str]) -> str:
    is_folder = str(fields.get("format")).lower() == ImageFormat.FOLDER
    value = fields.get("image", FOLDER_DEFAULT if is_folder else IMAGE_DEFAULT)
    if isinstance(value, str) and _plain_name(value):
        return value
    problems.append(f'"image" must be the plain name of a file beside meta.json, not {_kind(value)}')
    return IMAGE_DEFAULT


def _plain_name(value: str) -> bool:
    return (
        bool(value)
        and value.isprintable()
        and "/" not in value
        and not value.startswith(".")
        and value not in OURS
        and len(value.encode()) <= IMAGE_NAME_MAX_BYTES
    )


def _owner(fields: dict[str, Value], problems: list[str]) -> UserId | None:
    value = fields.get("owner")
    if value is None:
        return None
    if isinstance(value, str) and _DIGEST.fullmatch(value.lower()):
        return UserId(value.lower())
    problems.append(f'"owner" must be a user id of 64 hex digits, not {_kind(value)}')
    return None


def _goes_with(fields: dict[str, Value], problems: list[str]) -> VmId | None:
    value = fields.get("goes_with")
    if value is None:
        return None
    if isinstance(value, str) and _VM_ID.fullmatch(value):
        return VmId(value)
    problems.append(f'"goes_with" must be a VM\'s id of 32 hex digits, not {_kind(value)}')
    return None


def _sha256(fields: dict[str, Value], problems: list[str]) -> str | None:
    value = fields.get("sha256")
    if value is None:
        return None
    if isinstance(value, str) and _DIGEST.fullmatch(value):
        return value
    problems.append(f'"sha256" must be 64 hex digits, not {_kind(value)}')
    return None


def _kind(value: Value) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{_shown(value)}"'
        case int() | float():
            return f"{value:.12g}"
        case dict():
            return "an object"
        case list():
            return "a list"
        case None:
            return "null"


def _shown(text: str) -> str:
    return ascii(text[:40])[1:-1]
