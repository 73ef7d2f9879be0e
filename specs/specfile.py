"""A specfile: the hardware that one task needs, with no host named.

`parse_specfile` reads both forms, as JSON or JSON5, and either returns a `Specfile` with the defaults filled in or
raises one `SpecError` with every problem. The models hold the limits; `specs.schema` publishes the same ones.
"""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from specs.document import read_document
from specs.edits import apply_edits
from specs.explain import EXAMPLES, explain, place_of
from specs.forms import ATTRIBUTES, PCI_CLASSES, SECTION_OF, Gathered, gather, list_of_choices
from specs.problems import Problem, SpecError, show

SLOTS_MAX = 4096
OVERPROVISION_MAX = 64
RAM_MIB_MIN = 16
RAM_MIB_MAX = 64 * 1024 * 1024  # 64 TiB
FLAGS_MAX = 128
ARCHS_MAX = 32
PCI_KINDS_MAX = 32
PCI_DEVICES_MAX = 64
ALTERNATIVES_MAX = 8
USB_DEVICES_MAX = 15  # ports of the guest's controller
NAME_MAX = 64
DESCRIPTION_MAX = 1024
FREQUENCY_MHZ_MAX = 20_000

ArchName = Literal["X86_32", "X86_64", "ARM_7", "ARM_8", "PPC_64", "S390X", "RISCV_64"]
FirmwareName = Literal["bios", "uefi", "uefi-secure"]
HugePagesName = Literal["none", "64K", "1M", "2M", "16M", "32M", "512M", "1G", "2G", "16G"]
CoreClassName = Literal["performance", "efficiency", "any"]
ARCHS: tuple[str, ...] = get_args(ArchName)
FIRMWARES: tuple[str, ...] = get_args(FirmwareName)
HUGE_PAGES: tuple[str, ...] = get_args(HugePagesName)
CORE_CLASSES: tuple[str, ...] = get_args(CoreClassName)
LEVELS = ("x86-64-v1", "x86-64-v2", "x86-64-v3", "x86-64-v4")

FLAG_PATTERN = r"^[A-Za-z0-9_.:+-]{1,64}$"
PCI_CLASS_PATTERN = rf"^({'|'.join(PCI_CLASSES)}|(0[xX])?([0-9a-fA-F]{{2}}){{1,3}})$"
MDEV_TYPE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
HEX4_PATTERN = r"^(0[xX])?[0-9a-fA-F]{4}$"
NO_LEVEL_PATTERN = r"^(?![xX]86-64-[vV][1-4]$)[xX]86[-_]?64[-_.]?[vV]?[0-9]+$"  # looks like a level and is none

# Control characters (XML can't hold most of them), line separators, and those that reorder what a terminal shows.
_NOT_IN_TEXT = r"\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufffe\uffff"
TEXT_PATTERN = f"^(?=.*\\S)[^{_NOT_IN_TEXT}]*$"
_WHICH = 'a device is said by vendor and model, by class ("gpu"), or by name ("RTX A4000")'
_WHICH_USB = 'a USB device is said by vendor and model, or by name ("DataTraveler 3.0")'
_NO_TEXT = re.compile(f"[{_NOT_IN_TEXT}]")
_NO_LEVEL = re.compile(NO_LEVEL_PATTERN)


def _refuse(problem: str, hint: str = "") -> PydanticCustomError:
    return PydanticCustomError("specs", "{problem}", {"problem": problem, "hint": hint})


def _printable(text: str) -> str:
    if found := _NO_TEXT.search(text):
        raise _refuse(f"holds the control character U+{ord(found[0]):04X}", "keep to printable text on one line")
    if not text.strip():
        raise _refuse("is blank", "leave it out, or say something")
    return text


def _hex4(text: str) -> str:
    if not re.fullmatch(HEX4_PATTERN[1:-1], text):
        hint = 'as in "10de"; `lspci -nn` shows them as [vendor:model], `lsusb` after ID'
        raise _refuse(f"is {show(text)}, not four hex digits", hint)
    return text[-4:].lower()


def _pci_class(text: str) -> str:
    """The beginning of a class code; a word stands for one."""
    if not re.fullmatch(PCI_CLASS_PATTERN[1:-1], text):
        choices = list_of_choices(text.lower(), tuple(PCI_CLASSES))
        hint = f"{choices}; or 2, 4 or 6 hex digits, as `lspci -nn` shows them"
        raise _refuse(f"is {show(text)}, not a class of PCI devices", hint)
    return PCI_CLASSES.get(text) or text.lower().removeprefix("0x")


def _mdev_type(text: str) -> str:
    if not re.fullmatch(MDEV_TYPE_PATTERN[1:-1], text):
        hint = 'as the kernel names it: "nvidia-63"; `mdevctl types` shows them'
        raise _refuse(f"is {show(text)}, not a type of mediated devices", hint)
    return text


def _flag(text: str) -> str:
    if not re.fullmatch(FLAG_PATTERN[1:-1], text):
        raise _refuse(f"is {show(text)}, not the name of a CPU flag", 'as /proc/cpuinfo writes them: "avx2", "sse4_1"')
    lowered = text.lower()
    if _NO_LEVEL.search(text):
        raise _refuse(f"is {show(text)}, not a level", f"the levels are {', '.join(LEVELS)}")
    return lowered


def _known_once(names: tuple[ArchName, ...]) -> tuple[ArchName, ...]:
    if not names:
        raise _refuse("is empty", 'leave it out for X86_64, or name one: ["ARM_8"]')
    return tuple(dict.fromkeys(names))


def _once_sorted(flags: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(flags)))


Name = Annotated[str, Field(max_length=NAME_MAX), AfterValidator(_printable)]
Description = Annotated[str, Field(max_length=DESCRIPTION_MAX), AfterValidator(_printable)]
Hex4 = Annotated[str, AfterValidator(_hex4)]
PciClass = Annotated[str, AfterValidator(_pci_class)]
MdevType = Annotated[str, AfterValidator(_mdev_type)]
Flag = Annotated[str, AfterValidator(_flag)]


def _page_kib(pages: HugePagesName | None) -> int:
    if pages in (None, "none"):
        return 0
    return int(pages[:-1]) * {"K": 1, "M": 1024, "G": 1024 * 1024}[pages[-1]]


class _Part(BaseModel):
    """Strict: `true` is no number and "2" is no 2."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class Info(_Part):
    """For people; nothing is decided by it."""

    name: Name | None = None
    description: Description | None = None


class PciNeed(_Part):
    """`quantity` devices of one kind: `vendor` and `model` (four lowercase hex digits), or a class (the first digits of
    its code) of any vendor or of one; or a `name`, which stands for the first two: see `specs.pci_names`. What is not
    said is empty. `mdev_type`: devices that such a card makes, of this type (vGPU), and not the card."""

    vendor: Hex4 = ""
    model: Hex4 = ""
    device_class: Annotated[PciClass, Field(alias="class")] = ""
    name: Name = ""
    mdev_type: MdevType = ""
    quantity: Annotated[int, Field(ge=1, le=PCI_DEVICES_MAX)] = 1

    @model_validator(mode="after")
    def _says_which(self) -> Self:
        by_ids = bool(self.vendor or self.model or self.device_class)
        if self.name and by_ids:
            raise _refuse("says the device in two ways", _WHICH)
        if not (self.name or by_ids or self.mdev_type):
            raise _refuse("does not say which device", _WHICH)
        if self.model and not self.vendor:
            raise _refuse("has a model and no vendor", _WHICH)
        if self.vendor and not (self.model or self.device_class):
            raise _refuse("has a vendor and no model", _WHICH)
        return self


class UsbNeed(_Part):
    """`quantity` USB devices of one kind, by `vendor` and `model`, or a `name` that stands for both."""

    vendor: Hex4 = ""
    model: Hex4 = ""
    name: Name = ""
    quantity: Annotated[int, Field(ge=1, le=USB_DEVICES_MAX)] = 1

    @model_validator(mode="after")
    def _says_which(self) -> Self:
        if bool(self.name) == bool(self.vendor or self.model):
            raise _refuse("says the device in two ways" if self.name else "does not say which device", _WHICH_USB)
        if bool(self.vendor) != bool(self.model):
            raise _refuse(f"has no {'model' if self.vendor else 'vendor'}", _WHICH_USB)
        return self


class Misc(_Part):
    """What the VM will be. `firmware` "bios" is whatever the machine starts by itself; "uefi-secure" boots what is
    signed alone. `tpm`: a TPM 2.0 of its own."""

    os_family: Name | None = None
    os_flavour: Name | None = None
    qemu_agent: bool = False
    firmware: FirmwareName = "bios"
    tpm: bool = False


def _countable(needs: tuple[PciNeed, ...]) -> tuple[PciNeed, ...]:
    kinds = [(n.vendor, n.model, n.device_class, n.name.casefold(), n.mdev_type) for n in needs]
    if len(set(kinds)) < len(kinds):
        raise _refuse("names one kind of device twice", "write one entry with the sum as its quantity")
    if (total := sum(need.quantity for need in needs)) > PCI_DEVICES_MAX:
        raise _refuse(f"asks for {total} devices; the most is {PCI_DEVICES_MAX}")
    return needs


def _pluggable(needs: tuple[UsbNeed, ...]) -> tuple[UsbNeed, ...]:
    kinds = [(need.vendor, need.model, need.name.casefold()) for need in needs]
    if len(set(kinds)) < len(kinds):
        raise _refuse("names one kind of device twice", "write one entry with the sum as its quantity")
    if (total := sum(need.quantity for need in needs)) > USB_DEVICES_MAX:
        raise _refuse(f"asks for {total} devices; the most is {USB_DEVICES_MAX}")
    return needs


PciNeeds = Annotated[tuple[PciNeed, ...], Field(strict=False, max_length=PCI_KINDS_MAX), AfterValidator(_countable)]


def _in_order(alternatives: tuple[PciNeeds, ...]) -> tuple[PciNeeds, ...]:
    """None of them would never be taken."""
    if len(alternatives) < 2:
        raise _refuse(f"has {len(alternatives)} alternatives; the least is 2", 'one alone is "pci": […] itself')
    if () in alternatives[:-1]:
        raise _refuse("goes on after an empty alternative", "none at all is always to be had: put it last")
    if len(set(alternatives)) < len(alternatives):
        raise _refuse("names one alternative twice", "leave one of them out")
    return alternatives


class Specfile(_Part):
    """One VM's hardware, with nothing left implicit.

    `slots` counts whole cores, or hardware threads if `allow_smt`. At most `overprovision` VMs in total share each of
    them. `archs` are alternatives, in the order written; every one of `flags` (lowercase, sorted) is required.
    Cores are of one class where the machine has several: of whichever, if `core_class` names none; "any" mixes them.
    """

    info: Info | None = None
    slots: Annotated[int, Field(ge=1, le=SLOTS_MAX)]
    allow_smt: bool = False
    overprovision: Annotated[int, Field(ge=1, le=OVERPROVISION_MAX)] = 1
    archs: Annotated[
        tuple[ArchName, ...],
        Field(strict=False, max_length=ARCHS_MAX),
        AfterValidator(_known_once),
    ] = ("X86_64",)
    flags: Annotated[tuple[Flag, ...], Field(strict=False, max_length=FLAGS_MAX), AfterValidator(_once_sorted)] = ()
    core_class: CoreClassName | None = None
    min_frequency_mhz: Annotated[int, Field(ge=0, le=FREQUENCY_MHZ_MAX)] = 0
    ramsize_mib: Annotated[int, Field(ge=RAM_MIB_MIN, le=RAM_MIB_MAX)]
    req_ecc: bool = False
    hugepages: HugePagesName | None = None
    pci: PciNeeds = ()
    pci_any_of: Annotated[
        tuple[PciNeeds, ...], Field(strict=False, max_length=ALTERNATIVES_MAX), AfterValidator(_in_order)
    ] = ()
    usb: Annotated[
        tuple[UsbNeed, ...], Field(strict=False, max_length=USB_DEVICES_MAX), AfterValidator(_pluggable)
    ] = ()
    misc: Misc = Field(default_factory=Misc)

    @property
    def pci_alternatives(self) -> tuple[tuple[PciNeed, ...], ...]:
        """At least one, best first."""
        return self.pci_any_of or (self.pci,)

    @property
    def has_names(self) -> bool:
        """Whether some device is said by its name: see `specs.pci_names`."""
        pci = (need.name for needs in self.pci_alternatives for need in needs)
        return any(pci) or any(need.name for need in self.usb)

    @property
    def hugepages_kib(self) -> int:
        """The size of the pages that all RAM is to be of; 0: of any."""
        return _page_kib(self.hugepages)

    @field_validator("hugepages")
    @classmethod
    def _divides_the_ram(cls, pages: HugePagesName | None, info: ValidationInfo) -> HugePagesName | None:
        size_kib, ramsize_mib = _page_kib(pages), info.data.get("ramsize_mib")
        if size_kib and ramsize_mib is not None and (rest := ramsize_mib * 1024 % size_kib):
            fits = ramsize_mib + (size_kib - rest) // 1024
            raise _refuse(f"is {show(pages)}, and ramsize is no multiple of that", f"as in ramsize={fits}")
        return pages if size_kib else None

    def to_document(self) -> dict[str, Any]:
        """The nested form, every default written out."""
        values = self.model_dump(mode="json", exclude_none=True)
        document: dict[str, Any] = {"info": values["info"]} if self.info is not None else {}
        for name, attribute in ATTRIBUTES.items():
            if (section := SECTION_OF.get(name)) and attribute in values:
                document.setdefault(section, {})[name] = values[attribute]
        pci = [_written(needs) for needs in self.pci_alternatives]
        said = {"any_of": pci} if self.pci_any_of else pci[0]
        return document | {"pci": said, "usb": _written(self.usb), "misc": values["misc"]}

    def canonical_json(self) -> str:
        """One text for each meaning; parsing it gives an equal `Specfile`."""
        return json.dumps(self.to_document(), ensure_ascii=False, separators=(",", ":"))


def parse_specfile(text: str | bytes, *, edits: Sequence[str] = ()) -> Specfile:
    """Read a specfile; `edits` ("ram.ramsize=4096") are applied to the document first, in either form.

    Raises `SpecError` with every problem. Give bytes where they come from a file: the encoding is judged as well.
    """
    document = read_document(text, what="specfile")
    if not isinstance(document.value, dict):
        raise SpecError([_not_an_object(document.value)])
    edited, problems = apply_edits(document.value, edits)
    found = gather(edited)
    problems += document.problems + found.problems
    for path, needs in _lists_of_devices(found):
        problems += [*_unsaid(path, needs), *_repeated(path, needs)]
    try:
        specfile = Specfile.model_validate(found.values)
    except ValidationError as error:
        known = {problem.path for problem in problems}
        details = [detail for detail in error.errors(include_url=False) if not _is_known(detail, found, known)]
        problems += [explain(detail, found) for detail in details]
        raise SpecError(problems) from None
    if problems:
        raise SpecError(problems)
    return specfile


def _written(needs: Sequence[PciNeed | UsbNeed]) -> list[dict[str, Any]]:
    return [need.model_dump(by_alias=True, exclude_defaults=True) | {"quantity": need.quantity} for need in needs]


def _lists_of_devices(found: Gathered) -> Iterator[tuple[str, Any]]:
    """(path, entries); alternatives are set apart from a plain list, so that each verdict finds its own place."""
    pci = found.values.get("pci")
    if isinstance(pci, dict) and pci.keys() == {"any_of"}:
        found.values["pci_any_of"] = found.values.pop("pci")["any_of"]
        found.paths["pci_any_of"] = "pci.any_of"
    yield "pci", found.values.get("pci")
    alternatives = found.values.get("pci_any_of")
    for number, needs in enumerate(alternatives if isinstance(alternatives, list) else []):
        yield f"pci.any_of.{number}", needs
    yield "usb", found.values.get("usb")


def _not_an_object(value: Any) -> Problem:
    problem = f"is {show(value)}, not an object"
    if isinstance(value, list) and any(isinstance(item, dict) and "vid" in item for item in value):
        return Problem("", f"the document {problem}", "this is a volumespec: give it with --volumes, beside a specfile")
    return Problem("", f"the document {problem}", 'the least is {"slots": 1, "ramsize": 512}')


def _unsaid(path: str, needs: Any) -> Iterator[Problem]:
    """Half a kind of device, told at the half that is missing."""
    for index, need in enumerate(needs if isinstance(needs, list) else []):
        if isinstance(need, dict) and "name" not in need:
            is_pci = path != "usb"
            said = need.keys() & ({"vendor", "model", "class", "mdev_type"} if is_pci else {"vendor", "model"})
            says_otherwise = bool(said & {"class", "mdev_type"})
            example, which = ("", _WHICH) if is_pci else ("usb.", _WHICH_USB)
            for field in ("vendor", "model"):
                if field not in said and (not says_otherwise or (field == "vendor" and "model" in said)):
                    yield Problem(f"{path}.{index}.{field}", "is missing", f"{EXAMPLES[example + field]}; {which}")


def _repeated(path: str, needs: Any) -> Iterator[Problem]:
    """Kinds of devices named twice, found even where other fields are wrong."""
    first: dict[tuple[str, str, str], int] = {}
    for index, need in enumerate(needs if isinstance(needs, list) else []):
        kind = (need.get("vendor"), need.get("model")) if isinstance(need, dict) else (None, None)
        if all(isinstance(part, str) and re.fullmatch(HEX4_PATTERN[1:-1], part) for part in kind):
            vendor, model = (str(part)[-4:].lower() for part in kind)
            earlier = first.setdefault((vendor, model, str(need.get("mdev_type", ""))), index)
            if earlier != index:
                problem = f"is {vendor}:{model} again, as {path}.{earlier} is"
                yield Problem(f"{path}.{index}", problem, "write one entry with the sum as its quantity")


def _is_known(detail: ErrorDetails, found: Gathered, known: Collection[str]) -> bool:
    """Whether a verdict says again, in coarser words, what is known of the same place."""
    path = place_of(detail["loc"], found)
    if detail["type"] == "missing":
        return path in known or path.rpartition(".")[0] in known
    return path in known or (detail["type"] == "specs" and any(place.startswith(f"{path}.") for place in known))
