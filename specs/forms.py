"""The two forms of a specfile, flat and nested, and the words that people try instead of ours.

Each need has one name in code and one place in each form. A document may mix the forms, as long as it says nothing
twice. `gather` brings a document of either form to one flat dict by the names in code, and remembers where each was
written, so that every message speaks of the document as its author wrote it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from specs.document import join_path
from specs.problems import Problem, show

SECTIONS = {
    "cpu": ("slots", "overprovision", "allowSMT", "archs", "flags", "core_class", "min_frequency"),
    "ram": ("ramsize", "reqECC", "hugepages"),
}
ATTRIBUTES = {  # the name in a document → the name in code
    "slots": "slots",
    "overprovision": "overprovision",
    "allowSMT": "allow_smt",
    "archs": "archs",
    "flags": "flags",
    "core_class": "core_class",
    "min_frequency": "min_frequency_mhz",
    "ramsize": "ramsize_mib",
    "reqECC": "req_ecc",
    "hugepages": "hugepages",
    "info": "info",
    "pci": "pci",
    "usb": "usb",
    "misc": "misc",
}
SECTION_OF = {name: section for section, names in SECTIONS.items() for name in names}
SHARED = ("info", "pci", "usb", "misc")  # in the same place in both forms
INNER = {
    "info": ("name", "description"),
    "misc": ("os_family", "os_flavour", "qemu_agent", "firmware", "tpm"),
    "pci": ("vendor", "model", "class", "name", "mdev_type", "quantity"),
    "usb": ("vendor", "model", "name", "quantity"),
}

PCI_CLASSES = {"accelerator": "12", "gpu": "03", "infiniband": "0207", "nic": "02", "nvme": "0108", "usb": "0c03"}

# What people write instead, without case, dashes and underscores.
_WORDS = {
    "slots": "cpu cpus vcpu vcpus core cores thread threads ncpu ncpus numcpus cpucount processors slot nproc",
    "overprovision": "overcommit overcommitment oversubscribe oversubscription overprovisioning share shared sharing",
    "allowSMT": "smt ht htt hyperthreading hyperthreads multithreading allowht smtallowed",
    "archs": "arch architecture architectures cpuarch machine",
    "flags": "flag feature features cpuflags cpufeatures extensions isa isaextensions",
    "core_class": "coretype corekind coresclass cpuclass hybrid",
    "min_frequency": "frequency freq minfreq mhz minmhz minfrequencymhz ghz clock clockspeed speed cpufreq",
    "ramsize": "ram memory mem memorysize memsize rammb rammib ramsizemb ramsizemib memorymb memorymib maxmem size",
    "reqECC": "ecc requireecc requiresecc needecc needsecc eccram",
    "hugepages": "hugepage hugetlb pagesize pages largepages",
    "pci": "gpu gpus device devices hostdev hostdevs pcie passthrough pcidevices accelerator accelerators vgpu",
    "usb": "usbdevice usbdevices usbpassthrough dongle dongles token tokens stick sticks",
    "misc.os_family": "os osfamily ostype operatingsystem",
    "misc.os_flavour": "osflavour osflavor flavour flavor distro distribution osname osversion",
    "misc.qemu_agent": "qemuagent agent guestagent qemuguestagent",
    "misc.firmware": "uefi bios efi boot loader secureboot secure uefisecure efisecureboot",
    "misc.tpm": "tpm2 tpmversion vtpm swtpm trustedplatformmodule",
    "info.name": "name title label",
    "info.description": "description desc summary comment notes",
    "vendor": "vendorid manufacturer vid",
    "model": "device deviceid product productid modelid id did",
    "class": "type kind category deviceclass pciclass",
    "mdev_type": "mdev mdevtype vgputype vgpu vgpuprofile profile mediated",
    "quantity": "count qty number amount num n",
}
_SYNONYMS = {word: name for name, words in _WORDS.items() for word in words.split()}
_ELSEWHERE = {
    "volumes": "a specfile holds no volumes: list them in a volumespec",
    "network": "every VM has one NIC by itself; a specfile holds none",
    "host": "a specfile names no host; any host that fits may answer",
}
_ELSEWHERE_WORDS = {
    **dict.fromkeys(("volume", "volumes", "disk", "disks", "storage", "vid", "image", "drives"), "volumes"),
    **dict.fromkeys(("network", "networks", "nic", "nics", "net", "interface", "interfaces"), "network"),
    **dict.fromkeys(("host", "hosts", "node", "server", "hostname"), "host"),
}
_NOTES = {
    "ramsize": ", in MiB",
    "min_frequency": ", in MHz",
    "allowSMT": ", true or false",
    "slots": ", in cores, or in threads with allowSMT",
    "firmware": ": bios, uefi, or uefi-secure for secure boot",
}


@dataclass(slots=True)
class Gathered:
    """`values` by the names in code, `paths` as written, or as it would be written in this document's form."""

    nested: bool
    values: dict[str, Any] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def is_nested(document: Mapping[str, Any]) -> bool:
    """Whether new things belong into sections: the document has one, or nothing that tells."""
    return any(section in document for section in SECTIONS) or not any(name in document for name in SECTION_OF)


def path_of(name: str, *, nested: bool) -> str:
    """Where a name of the documents stands in this form."""
    return f"{SECTION_OF[name]}.{name}" if nested and name in SECTION_OF else name


def gather(document: Mapping[str, Any]) -> Gathered:
    found = Gathered(is_nested(document))
    for name, attribute in ATTRIBUTES.items():
        found.paths[attribute] = path_of(name, nested=found.nested)
    for path, name, value in _said(document, found):
        attribute = ATTRIBUTES[name]
        if attribute in found.values:
            problem = f"says again what {found.paths[attribute]} says ({show(found.values[attribute])})"
            found.problems.append(Problem(path, problem, "keep one of the two"))
            continue
        found.values[attribute] = value
        found.paths[attribute] = path
    return found


def _said(document: Mapping[str, Any], found: Gathered) -> Iterator[tuple[str, str, Any]]:
    """(path, name, value) of everything known, flat first; the unknown becomes problems."""
    for key, value in document.items():
        if key in ATTRIBUTES:
            yield key, key, value
        elif key not in SECTIONS:
            found.problems.append(unknown(key, "", nested=found.nested))
    for section, names in SECTIONS.items():
        value = document.get(section, {})
        if not isinstance(value, dict):
            found.problems.append(_not_a_section(section, value, names[0]))
            continue
        for key, inner in value.items():
            if key in names:
                yield f"{section}.{key}", key, inner
            else:
                found.problems.append(unknown(key, section, nested=True))


def _not_a_section(section: str, value: Any, name: str) -> Problem:
    example = value if type(value) is int else "…"
    return Problem(
        section,
        f"is {show(value)}, not an object",
        f'write "{name}": {example}, or "{section}": {{"{name}": {example}}}',
    )


def unknown(key: str, section: str, *, nested: bool, path: str = "") -> Problem:
    """A field that nobody knows, and the one that was probably meant. `path`: of what holds it, if not `section`."""
    where = join_path(path or section, key)
    if (elsewhere := _ELSEWHERE_WORDS.get(_bare(key))) and section in ("", "misc"):
        return Problem(where, "is not a field of a specfile", _ELSEWHERE[elsewhere])
    meant = guess(key, section, nested=nested)
    if meant:
        hint = f"did you mean {meant}{_NOTES.get(meant.rpartition('.')[2], '')}?"
    else:
        hint = f"known here: {', '.join(INNER.get(section) or SECTIONS.get(section) or (*SECTIONS, *ATTRIBUTES))}"
    return Problem(where, "is not a field of a specfile", hint)


def guess(key: str, section: str, *, nested: bool) -> str | None:
    """The full path, in this document's form, of the field that `key` was meant for."""
    bare = _bare(key)[:64]
    for cutoff in (1.0, 0.7):  # what is exact anywhere beats what is close here
        for names in (_names_in(section), _names_anywhere(section)):
            words = _words_for(names, section)
            if close := get_close_matches(bare, words, n=1, cutoff=cutoff):
                name = words[close[0]]
                return name if name in INNER.get(section, ()) else path_of(name, nested=nested)
    return None


def _words_for(names: list[str], section: str) -> dict[str, str]:
    """Every word that means one of `names`, and which."""
    own = {_bare(name.rpartition(".")[2]): name for name in names}
    return {word: name for word, name in _synonyms(section).items() if name in names} | own


def _names_in(section: str) -> list[str]:
    match section:
        case "pci" | "usb":
            return list(INNER[section])
        case "info" | "misc":
            return [f"{section}.{name}" for name in INNER[section]]
        case "cpu" | "ram":
            return list(SECTIONS[section])
        case _:
            return list(ATTRIBUTES)


def _names_anywhere(section: str) -> list[str]:
    inner = [f"{place}.{name}" for place in ("info", "misc") for name in INNER[place]]
    return [*ATTRIBUTES, *inner] if section not in ("pci", "usb") else []


def _synonyms(section: str) -> dict[str, str]:
    return _SYNONYMS if section != "ram" else _SYNONYMS | {"mib": "ramsize", "mb": "ramsize", "amount": "ramsize"}


def _bare(key: str) -> str:
    return "".join(character for character in key.lower() if character not in "_- ")


def list_of_choices(word: str, choices: tuple[str, ...]) -> str:
    """A hint for a word out of a closed list."""
    close = get_close_matches(word[:64], choices, n=1, cutoff=0.5)
    known = f"known: {', '.join(choices)}"
    return f"did you mean {close[0]}? {known}" if close else known
