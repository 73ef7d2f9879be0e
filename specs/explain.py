"""The models' verdicts as sentences: what is wrong with a value, and what to write instead.

Pydantic finds every mistake and says where and of which kind; here is what each kind means to the author.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import ErrorDetails

from specs.document import join_path
from specs.forms import Gathered, list_of_choices, unknown
from specs.problems import Problem, show
from specs.units import guess_mib

EXAMPLES: Mapping[str, str] = {
    "slots": "slots counts CPU cores, or threads if allowSMT is true: 1 or more",
    "overprovision": "how many VMs in total may share each core or thread; 1 is exclusive",
    "allow_smt": "true: a slot is one hardware thread; false: a whole core",
    "archs": 'as in ["X86_64"]',
    "flags": 'as in ["avx2", "x86-64-v3"]',
    "core_class": "on machines with cores of two kinds: performance, efficiency, or any for a mix of both",
    "min_frequency_mhz": "in MHz, as cpufreq has it: 3000 is 3 GHz",
    "ramsize_mib": "ramsize is in MiB: 2048 is 2 GiB",
    "req_ecc": "true: only hosts with ECC memory fit",
    "hugepages": 'as in "2M" or "1G": the host must keep pages of that size',
    "info": 'as in {"name": "Helium", "description": "…"}',
    "misc": 'as in {"os_family": "linux", "firmware": "uefi"}',
    "pci": 'as in [{"vendor": "10de", "model": "24b0", "quantity": 1}]; or {"any_of": [[…], […]]}',
    "pci_any_of": 'lists of devices, the best first: [[{"vendor": "10de", "model": "24b0"}], []]',
    "usb": 'as in [{"vendor": "1050", "model": "0407", "quantity": 1}]',
    "usb.vendor": 'four hex digits in quotes, as in "1050"; `lsusb` shows them as ID vendor:model',
    "usb.model": 'four hex digits in quotes, as in "0407"; `lsusb` shows them as ID vendor:model',
    "vendor": 'four hex digits in quotes, as in "10de"; `lspci -nn` shows them as [vendor:model]',
    "model": 'four hex digits in quotes, as in "24b0"; `lspci -nn` shows them as [vendor:model]',
    "class": 'as in "gpu", "nic", "nvme", or "0302"; `lspci -nn` shows it in brackets before the name',
    "mdev_type": 'as in "nvidia-63"; `mdevctl types` shows those of a host, and so does `atomd inventory`',
    "quantity": "how many of these devices; 1 or more",
    "os_family": 'as in "linux"',
    "os_flavour": 'as in "debian"',
    "qemu_agent": "true: the guest runs the QEMU guest agent",
    "firmware": "known: bios, uefi, uefi-secure",
    "tpm": "true: the guest gets a TPM 2.0 of its own",
}
_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "string_type": "text",
    "literal_error": "one of the known words",
    "tuple_type": "a list",
    "model_type": "an object",
    "model_attributes_type": "an object",
}


def explain(error: ErrorDetails, found: Gathered) -> Problem:
    """One verdict, at the path that the author wrote."""
    loc = error["loc"]
    path = place_of(loc, found)
    if error["type"] == "extra_forbidden":
        section = str(loc[0]).removesuffix("_any_of")
        return unknown(str(loc[-1]), section, nested=found.nested, path=place_of(loc[:-1], found))
    problem, hint = _sentences(error)
    return Problem(path, problem, hint)


def place_of(loc: tuple[int | str, ...], found: Gathered) -> str:
    """The path as written."""
    path = found.paths.get(str(loc[0]), str(loc[0]))
    for step in loc[1:]:
        path = join_path(path, step)
    return path


def _sentences(error: ErrorDetails) -> tuple[str, str]:
    kind, given, context = error["type"], error["input"], error.get("ctx", {})
    field = next(step for step in reversed(error["loc"]) if isinstance(step, str))
    example = EXAMPLES.get(f"{error['loc'][0]}.{field}") or EXAMPLES.get(field, "")
    if kind == "specs":
        return context["problem"], context["hint"]
    if kind == "missing":
        return "is missing", example
    if kind == "literal_error" and isinstance(given, str):
        choices = tuple(re.findall(r"'([^']*)'", context["expected"]))
        return f"is {show(given)}, which is none of the known words", list_of_choices(_alias(given), choices)
    if kind in _TYPES:
        return f"is {show(given)}, not {_TYPES[kind]}", _cure(field, given) or example
    assert kind in _LIMITS, f"no sentence for {kind}"
    return _LIMITS[kind](given, context), example


_LIMITS: Mapping[str, Callable[[Any, Mapping[str, Any]], str]] = {
    "greater_than_equal": lambda given, context: f"is {show(given)}; the least is {context['ge']:,}",
    "less_than_equal": lambda given, context: f"is {show(given)}; the most is {context['le']:,}",
    "too_long": lambda given, context: f"has {len(given)} entries; the most is {context['max_length']}",
    "string_too_long": lambda given, context: f"is {len(given)} letters long; the most is {context['max_length']}",
}

_ARCH_ALIASES = {
    "X86_64": "amd64 x64 x86-64 x86_64 intel64 em64t",
    "X86_32": "x86 i386 i486 i586 i686 ia32",
    "ARM_8": "aarch64 arm64 armv8 arm64v8 armv8l",
    "ARM_7": "arm armhf armv7 armv7l arm32 arm32v7",
    "PPC_64": "ppc64 ppc64le ppc64el powerpc64 power",
    "S390X": "s390 z s390x",
    "RISCV_64": "riscv riscv64 rv64 rv64gc",
    "uefi": "efi ovmf edk2 aavmf",
    "uefi-secure": "secure secureboot secure-boot uefi-secureboot uefi-secure-boot efi-secure",
    "bios": "seabios legacy csm",
    "performance": "p pcore p-core pcores big fast core",
    "efficiency": "e ecore e-core ecores little small atom efficient",
    "any": "all both mixed mix",
}
_ALIASES = {alias: name for name, aliases in _ARCH_ALIASES.items() for alias in aliases.split()}


def _alias(word: str) -> str:
    """The known word that another world's name stands for."""
    return _ALIASES.get(word.lower(), word.upper() if "_" in word else word.lower())


def _cure(field: str, given: Any) -> str:
    """The value that was probably meant by one of the wrong type."""
    if field == "ramsize_mib" and isinstance(given, str) and (mib := guess_mib(given)):
        return f"ramsize is a plain number, in MiB: {mib}"
    match given:
        case float() if given.is_integer() and abs(given) < 2**53:
            return f"write {int(given)}"
        case str() if re.fullmatch(r"[0-9]{1,9}|true|false", given.strip().lower()):
            return f"write {given.strip().lower()} without the quotes"
        case 0 | 1 if field in ("allow_smt", "req_ecc", "qemu_agent", "tpm"):
            return f"write {'true' if given else 'false'}"
        case dict() if field in ("pci", "usb"):
            return "put the object into a list: [{…}]"
        case str() if field in ("archs", "flags"):
            return f"put it into a list: [{show(given)}]"
    return ""
