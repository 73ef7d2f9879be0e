"""Files that a person names on the command line, read with limits, and every mistake in them as one failure."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from matcher.cli.failures import Exit, Failure
from specs.ids import Vid
from specs.problems import SpecError

if TYPE_CHECKING:
    from specs.pci_names import Bus
    from specs.specfile import Specfile

FILE_MAX_BYTES = 1 << 20
IDS_FOLDERS = ("/usr/share/hwdata", "/usr/share/misc")  # Fedora's place and Debian's
IDS_MAX_BYTES = 16 << 20
STDIN = "/dev/stdin"  # what people write as "-"


def read_specfile(name: str, edits: Sequence[str] = ()) -> "Specfile":
    """The specfile of that name (`STDIN`: standard input), edited. Raises `Failure`."""
    from specs.specfile import parse_specfile

    try:
        spec = parse_specfile(read_text(name), edits=edits)
        return _by_ids(spec) if spec.has_names else spec
    except SpecError as error:
        raise malformed(name, error) from None


def _by_ids(spec: "Specfile") -> "Specfile":
    """Devices that the specfile names, as their ids, which are told: hosts know no names."""
    from matcher.cli.output import note
    from specs.pci_names import needs_names, resolved

    spec, told = resolved(spec, {bus: _ids(bus) for bus in needs_names(spec)})
    for line in told:
        note(line)
    return spec


def _ids(bus: "Bus") -> str:
    for path in (Path(folder, f"{bus}.ids") for folder in IDS_FOLDERS):
        with suppress(OSError):
            return path.read_bytes()[:IDS_MAX_BYTES].decode(errors="replace")
    said = f"this machine has no {bus}.ids, which knows what devices are called"
    shows = "lspci -nn" if bus == "pci" else "lsusb"
    raise Failure(Exit.USAGE, said, helps=f"apt install {bus}.ids; or write vendor and model, as `{shows}` shows them")


def read_volumespec(name: str) -> tuple[Vid, ...]:
    from specs.volumespec import parse_volumespec

    try:
        return parse_volumespec(read_text(name))
    except SpecError as error:
        raise malformed(name, error) from None


def malformed(name: str, error: SpecError) -> Failure:
    problems = [{"path": p.path or "(the whole file)", "problem": p.problem, "hint": p.hint} for p in error.problems]
    count = len(problems)
    said = f"{name} is no {error.what} yet: {'one problem' if count == 1 else f'{count} problems'}"
    return Failure(Exit.USAGE, said, problems=problems, code="malformed")


def read_text(name: str) -> bytes:
    """A little more than any limit, so that what is too long is seen to be. Raises `Failure`."""
    try:
        if name == STDIN:
            return sys.stdin.buffer.read(FILE_MAX_BYTES + 1)
        with Path(name).open("rb") as file:
            return file.read(FILE_MAX_BYTES + 1)
    except OSError as error:
        raise Failure(Exit.USAGE, f"{name} can't be read: {error.strerror}") from None
