"""`electros why`: which asks each host has, lacks or does not know, and the smallest changes that would help."""

import shlex
from collections.abc import Sequence
from typing import Any

from matcher.cli.asking import Edits, Emulation, Volumes, allows_emulation
from matcher.cli.failures import Exit, Failure, named
from matcher.cli.output import Output, Table, emit
from matcher.cli.reading import read_specfile, read_volumespec
from matcher.cli.surveys import survey
from matcher.scheduler.pledging import vm_ask
from matcher.scheduler.relaxing import EMULATE, Cell, Relaxation, Row, State, asked, matrix, relaxations, words
from matcher.wire.messages import VmAsk

HOSTS_NAMED_MAX = 8
CELL_CHARS = 44

_DONE_WITHOUT = {
    "ram.reqECC=false": "without ECC",
    "misc.firmware=uefi": "without secure boot",  # hosts that have no other than UEFI take it for "bios" as well
    "misc.tpm=false": "without a TPM",
}


def why(
    specfile: str,
    *,
    volumes: Volumes = None,
    edits: Edits = None,
    allow_emulation: Emulation = None,
    output: Output = "table",
) -> None:
    """Show what each host has and lacks of a specfile, and the smallest changes that would make it fit.

    Nothing is held. With -o name come the arguments of each change alone, the cheapest first, for `electros run`. The
    exit code is 0 where some host fits as it is, 3 where none does.

    Parameters
    ----------
    specfile
        The specfile; "-" reads standard input.
    """
    ask = vm_ask(read_specfile(specfile, edits or ()), allow_emulation=allows_emulation(allow_emulation))
    vids = read_volumespec(volumes) if volumes else ()
    _, surveyed = survey(ask, vids)
    names = asked(ask, vids, surveyed.unfits)
    fits = [(choice.host_id, choice.vm.offer.host) for choice in surveyed.choices]
    rows, ways = matrix(names, fits, surveyed.unfits), relaxations(surveyed.unfits)
    emit(output, _document(names, ask, rows, ways), _table(names, rows, ways))
    if not fits:
        given = _given(volumes, edits, allow_emulation)
        helps = f"electros run {shlex.quote(specfile)} {given}{_arguments(ways[0])}" if ways else ""
        raise Failure(Exit.NO_HOST_FITS, f'no host fits "{specfile}" as it is', helps=helps)


def _document(names: Sequence[str], ask: VmAsk, rows: Sequence[Row], ways: Sequence[Relaxation]) -> dict[str, Any]:
    return {
        "asks": [{"resource": name, "asked": words(name, ask)} for name in names],
        "hosts": [
            {
                "host": row.host,
                "fits": row.fits,
                "asks": {name: _said(cell) for name, cell in zip(names, row.cells, strict=True)},
                "left_off": _left_off(row),
            }
            for row in rows
        ],
        "relaxations": [
            {
                "says": _says(way),
                "set": [edit for edit in way.edits if edit != EMULATE],
                "allow_emulation": EMULATE in way.edits,
                "hosts": [host for _, host in way.hosts],
            }
            for way in ways
        ],
    }


def _said(cell: Cell) -> dict[str, str]:
    reason = cell.reason
    more = {"has": reason.has, "hint": reason.hint} if reason is not None else {}
    return {"state": cell.state.value} | more | ({"set": reason.edit} if reason is not None and reason.edit else {})


def _left_off(row: Row) -> bool:
    """Whether the host had no room to say all."""
    return any(cell.state is State.UNKNOWN and cell.reason is None for cell in row.cells)


def _table(names: Sequence[str], rows: Sequence[Row], ways: Sequence[Relaxation]) -> Table:
    """What every host has is said in one line below, as it decides nothing."""
    shown = [at for at in range(len(names)) if any(row.cells[at].state is not State.HAS for row in rows)]
    heads = ("HOST", "", *(named(names[at]).upper() for at in shown))
    cells = [(row.host, "fits" if row.fits else "", *(_shown(row.cells[at]) for at in shown)) for row in rows]
    had = [named(names[at]) for at in range(len(names)) if at not in shown]
    notes = [f"every host has: {', '.join(had)}"] if had else []
    notes += [f"{_says(way)}: {_counted(way)}" for way in ways]
    if not ways and not any(row.fits for row in rows):
        notes.append("no change of the specfile would make a host fit now")
    return Table(heads, cells, [_arguments(way) for way in ways], notes)


def _shown(cell: Cell) -> str:
    match cell.state:
        case State.HAS:
            return "has"
        case State.UNKNOWN if cell.reason is None:
            return "?"
        case state:
            has = cell.reason.has if cell.reason is not None else ""
            text = has if state is State.UNKNOWN or not has else f"lacks: {has}"
            return text if len(text) <= CELL_CHARS else f"{text[: CELL_CHARS - 1]}…"


def _says(way: Relaxation) -> str:
    """ "with ram.ramsize=49152, without avx512f"."""
    return ", ".join(_in_words(edit) for edit in way.edits)


def _in_words(edit: str) -> str:
    if edit == EMULATE:
        return "under emulation (slow)"
    _, minus, entries = edit.partition("-=")
    if minus:
        return f"without {' and '.join(entries.split(','))}"
    return _DONE_WITHOUT.get(edit, f"with {edit}")


def _counted(way: Relaxation) -> str:
    count, names = len(way.hosts), [host for _, host in way.hosts[:HOSTS_NAMED_MAX]]
    more = f", and {count - len(names)} more" if count > len(names) else ""
    return f"{count} host{'s' if count != 1 else ''} ({', '.join(names)}{more})"


def _arguments(way: Relaxation) -> str:
    return " ".join(edit if edit == EMULATE else f"--set {edit}" for edit in way.edits)


def _given(volumes: str | None, edits: Sequence[str] | None, allow_emulation: bool | None) -> str:
    """What was asked with, for a command that asks the same."""
    words = ["--volumes", volumes] if volumes else []
    words += [word for edit in edits or () for word in ("--set", edit)]
    words += [EMULATE] if allow_emulation else []
    return shlex.join(words) + " " if words else ""
