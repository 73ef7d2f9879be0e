"""The name of a device in place of its ids, looked up in a list such as Debian's pci.ids or usb.ids. Pure.

The list has a line for each maker ("10de  NVIDIA Corporation"), and below it, after a tab, one for each model
("24b0  GA104GL [RTX A4000]"); what people call a card stands in brackets. A name means one kind of device: where it
may be several, all are told, and the person says which.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from specs.problems import Problem, SpecError, show
from specs.specfile import PciNeed, Specfile, UsbNeed, parse_specfile

SHOWN_MAX = 5

Bus = Literal["pci", "usb"]

_LINE = re.compile(r"(\t?)([0-9a-f]{4})  (\S.*)")


@dataclass(frozen=True, slots=True)
class Named:
    vendor: str
    model: str
    maker: str
    name: str

    def __str__(self) -> str:
        return f"{self.vendor}:{self.model} ({self.name}, {self.maker})"


def needs_names(spec: Specfile) -> tuple[Bus, ...]:
    """The lists that it takes."""
    buses: tuple[Bus, ...] = ("pci", "usb")
    document = spec.to_document()
    return tuple(bus for bus in buses if any(need.name for *_, need in _needs(spec, bus, document)))


def resolved(spec: Specfile, listed: Mapping[Bus, str]) -> tuple[Specfile, tuple[str, ...]]:
    """The specfile by ids alone, and a sentence for each name. Raises `SpecError` with every name that means no device
    or several."""
    problems: list[Problem] = []
    told: list[str] = []
    document = spec.to_document()
    for bus, text in listed.items():
        devices = tuple(_devices(text))
        for path, entries, index, need in _needs(spec, bus, document):
            if not need.name:
                continue
            found = find(need.name, devices)
            if len(found) == 1:
                entries[index] = _by_ids(need, found[0])
                told.append(f"{path}: {show(need.name)} is {found[0]}")
            else:
                problems.append(_unclear(bus, path, need.name, found))
    if problems:
        raise SpecError(problems)
    return parse_specfile(json.dumps(document)), tuple(told)


def _needs(
    spec: Specfile, bus: Bus, document: dict[str, Any]
) -> Iterator[tuple[str, list[Any], int, PciNeed | UsbNeed]]:
    """Each with its path, and where the document has it: in this list, at this index."""
    lists: list[tuple[str, list[Any], Sequence[PciNeed | UsbNeed]]]
    if bus == "pci" and spec.pci_any_of:
        written = zip(document["pci"]["any_of"], spec.pci_any_of, strict=True)
        lists = [(f"pci.any_of.{number}", entries, needs) for number, (entries, needs) in enumerate(written)]
    else:
        lists = [(bus, document[bus], spec.pci if bus == "pci" else spec.usb)]
    for path, entries, needs in lists:
        for index, need in enumerate(needs):
            yield f"{path}.{index}", entries, index, need


def find(name: str, devices: Sequence[Named]) -> tuple[Named, ...]:
    """Those of that whole name, or of what stands in its brackets; else those with all its words."""
    wanted = _plain(name)
    if exact := tuple(device for device in devices if wanted in _names(device)):
        return exact
    words = set(wanted.split())
    return tuple(device for device in devices if words <= set(_plain(f"{device.maker} {device.name}").split()))


def _devices(listed: str) -> Iterator[Named]:
    vendor = maker = ""
    for line in listed.splitlines():
        if line.startswith("C "):  # classes follow, in the same form
            return
        if found := _LINE.match(line):
            tab, number, name = found.groups()
            if not tab:
                vendor, maker = number, name
            elif vendor:
                yield Named(vendor, number, maker, name)


def _names(device: Named) -> Iterator[str]:
    yield _plain(device.name)
    for inner in re.findall(r"\[([^\]]*)\]", device.name):
        yield _plain(inner)
        yield from (_plain(each) for each in inner.split(" / "))


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[\[\](),/]", " ", text).casefold().split())


def _by_ids(need: PciNeed | UsbNeed, named: Named) -> dict[str, object]:
    return {"vendor": named.vendor, "model": named.model, "quantity": need.quantity}


def _unclear(bus: Bus, path: str, name: str, found: Sequence[Named]) -> Problem:
    path = f"{path}.name"
    if not found:
        shows = "lspci -nn" if bus == "pci" else "lsusb"
        hint = f"`{shows}` on its host shows vendor and model: write those; or mend the name"
        return Problem(path, f"is {show(name)}, which this machine's {bus}.ids does not know", hint)
    shown = "; ".join(map(str, found[:SHOWN_MAX]))
    more = f"; and {len(found) - SHOWN_MAX} more" if len(found) > SHOWN_MAX else ""
    return Problem(path, f"is {show(name)}, which may be any of {len(found)}", f"write vendor and model: {shown}{more}")
