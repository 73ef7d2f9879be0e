"""JSON Schemas (2020-12) of what people write, for editors: completion, explanations, early mistakes.

They say what the parsers say, with the same limits; beyond them the parsers refuse two entries for one kind of device,
more than 64 PCI or 15 USB devices in all, RAM that huge pages do not divide, alternatives that are empty before
the last or named twice, and a vid named twice, none of which JSON
Schema can tell.
"""

from typing import Any, Literal

from specs import specfile as limits
from specs.forms import PCI_CLASSES, SECTION_OF, SECTIONS
from specs.volumespec import VOLUMES_MAX

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]


def json_schema(what: Literal["specfile", "volumespec"]) -> Schema:
    """A new, self-contained schema document."""
    match what:
        case "specfile":
            return {"$schema": DIALECT, "title": "AtomOS specfile", **_specfile()}
        case "volumespec":
            return {"$schema": DIALECT, "title": "AtomOS volumespec", **_volumespec()}


def _specfile() -> Schema:
    fields = _fields()
    sections = {
        name: _object(f"The nested form of {', '.join(inner)}.", {field: fields[field] for field in inner})
        for name, inner in SECTIONS.items()
    }
    return {
        **_object("The hardware that one VM needs; no host named.", {**_shared(), **sections, **fields}),
        "allOf": [_said_once(field, required=field in ("slots", "ramsize")) for field in SECTION_OF],
    }


def _said_once(field: str, *, required: bool) -> Schema:
    """In the flat form or in the nested one, not in both."""
    section = SECTION_OF[field]
    flat = {"required": [field]}
    nested = {"required": [section], "properties": {section: {"required": [field]}}}
    return {"oneOf": [flat, nested]} if required else {"not": {"allOf": [flat, nested]}}


def _fields() -> dict[str, Schema]:
    return {
        "slots": _whole("Cores, or hardware threads if allowSMT is true.", 1, limits.SLOTS_MAX),
        "overprovision": _whole(
            "How many VMs in total may share each core or thread.", 1, limits.OVERPROVISION_MAX, default=1
        ),
        "allowSMT": _switch("true: a slot is one hardware thread. false: a whole core with all its threads."),
        "archs": {
            "description": "Alternatives: the VM runs on any of these.",
            "type": "array",
            "items": {"enum": list(limits.ARCHS)},
            "minItems": 1,
            "maxItems": limits.ARCHS_MAX,
            "default": ["X86_64"],
        },
        "flags": {
            "description": 'CPU flags that the guest must see, all of them, in any case; or a level, "x86-64-v3".',
            "type": "array",
            "items": {"type": "string", "pattern": limits.FLAG_PATTERN, "not": {"pattern": limits.NO_LEVEL_PATTERN}},
            "maxItems": limits.FLAGS_MAX,
            "default": [],
        },
        "core_class": {
            "description": "On machines with cores of two kinds: which of them; any: a mix of both. Unsaid: one kind.",
            "enum": list(limits.CORE_CLASSES),
        },
        "min_frequency": _whole(
            "MHz that each core can reach, as cpufreq says.", 0, limits.FREQUENCY_MHZ_MAX, default=0
        ),
        "ramsize": _whole("RAM in MiB.", limits.RAM_MIB_MIN, limits.RAM_MIB_MAX),
        "reqECC": _switch("true: only hosts that are known to have ECC memory."),
        "hugepages": {
            "description": "All RAM is of huge pages of this size, kept for that; ramsize is a multiple.",
            "enum": list(limits.HUGE_PAGES),
        },
    }


def _shared() -> dict[str, Schema]:
    return {
        "info": _object(
            "For people; nothing is decided by it.",
            {
                "name": _text("What it is called.", limits.NAME_MAX),
                "description": _text("What it is good for.", limits.DESCRIPTION_MAX),
            },
        ),
        "pci": {
            "description": "Devices that the VM gets for itself; or alternatives in order, of which it gets one.",
            "anyOf": [_pci_list(), _alternatives()],
            "default": [],
        },
        "usb": {
            "description": "USB devices that the VM gets for itself.",
            "type": "array",
            "items": _usb(),
            "maxItems": limits.USB_DEVICES_MAX,
            "default": [],
        },
        "misc": _object(
            "What the VM will be.",
            {
                "os_family": _text("The guest's family, as in linux or windows.", limits.NAME_MAX),
                "os_flavour": _text("The guest's flavour, as in debian.", limits.NAME_MAX),
                "qemu_agent": _switch("true: the guest runs the QEMU guest agent."),
                "firmware": {
                    "description": "How it boots; uefi-secure: only what is signed, by Microsoft's keys.",
                    "enum": list(limits.FIRMWARES),
                    "default": "bios",
                },
                "tpm": _switch("true: a TPM 2.0 of its own, whose keys stay on the VM's host."),
            },
        ),
    }


def _pci_list() -> Schema:
    return {"type": "array", "items": _pci(), "maxItems": limits.PCI_KINDS_MAX}


def _alternatives() -> Schema:
    lists = {"description": "Each as the list that stands alone.", "type": "array", "items": _pci_list()}
    limited = {**lists, "minItems": 2, "maxItems": limits.ALTERNATIVES_MAX}
    either = _object("The best first; an empty list, none at all, comes last.", {"any_of": limited})
    return {**either, "required": ["any_of"]}


def _pci() -> Schema:
    hex4 = {"type": "string", "pattern": limits.HEX4_PATTERN}
    quantity = _whole("How many of them.", 1, limits.PCI_DEVICES_MAX, default=1)
    kinds = {
        "vendor": {"description": 'Four hex digits, as in "10de".', **hex4},
        "model": {"description": 'Four hex digits, as in "24b0".', **hex4},
        "class": {
            "description": f"{', '.join(PCI_CLASSES)}; or the first 2, 4 or 6 digits of its code.",
            "type": "string",
            "pattern": limits.PCI_CLASS_PATTERN,
        },
        "name": _text("As pci.ids has it, in place of vendor and model.", limits.NAME_MAX),
        "mdev_type": {
            "description": 'Not the card, but a device that it makes (vGPU), as in "nvidia-63".',
            "type": "string",
            "pattern": limits.MDEV_TYPE_PATTERN,
        },
    }
    ways = [_said_by("name", but="vendor model class"), _said_by("vendor model", but="name")]
    ways.append(_said_by("class", but="name model"))
    ways.append(_said_by("mdev_type", but="vendor model class name"))
    return {**_object("One kind of device.", {**kinds, "quantity": quantity}), "anyOf": ways}


def _usb() -> Schema:
    hex4 = {"type": "string", "pattern": limits.HEX4_PATTERN}
    kinds = {
        "vendor": {"description": 'Four hex digits, as in "1050".', **hex4},
        "model": {"description": 'Four hex digits, as in "0407".', **hex4},
        "name": _text("As usb.ids has it, in place of vendor and model.", limits.NAME_MAX),
    }
    quantity = _whole("How many of them.", 1, limits.USB_DEVICES_MAX, default=1)
    ways = [_said_by("name", but="vendor model"), _said_by("vendor model", but="name")]
    return {**_object("One kind of USB device.", {**kinds, "quantity": quantity}), "anyOf": ways}


def _said_by(fields: str, *, but: str) -> Schema:
    return {"required": fields.split(), "not": {"anyOf": [{"required": [field]} for field in but.split()]}}


def _volumespec() -> Schema:
    vid = {
        "description": "The volume's id: 32 hex digits, or a UUID with its dashes.",
        "type": "string",
        "pattern": "^([0-9a-fA-F]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})$",
    }
    return {
        "description": "The volumes of a VM, in boot order.",
        "type": "array",
        "items": {**_object("One volume.", {"vid": vid}), "required": ["vid"]},
        "minItems": 1,
        "maxItems": VOLUMES_MAX,
        "uniqueItems": True,
    }


def _object(description: str, properties: dict[str, Schema]) -> Schema:
    return {"description": description, "type": "object", "properties": properties, "additionalProperties": False}


def _whole(description: str, least: int, most: int, **more: object) -> Schema:
    return {"description": description, "type": "integer", "minimum": least, "maximum": most, **more}


def _switch(description: str) -> Schema:
    return {"description": description, "type": "boolean", "default": False}


def _text(description: str, letters_max: int) -> Schema:
    return {
        "description": description,
        "type": "string",
        "minLength": 1,
        "maxLength": letters_max,
        "pattern": limits.TEXT_PATTERN,
    }
