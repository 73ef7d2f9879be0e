"""`electros spec`: check what was written, and tell editors how to write it."""

import json
from typing import Annotated, Literal

from cyclopts import App, Parameter

from matcher.cli.output import Output, Table, emit
from matcher.cli.reading import malformed, read_text
from specs.problems import SpecError

app = App(name="spec", help="Specfiles and volumespecs: check them, get their schema.")


@app.command
def validate(file: str, *, output: Output = "table") -> None:
    """Check a specfile or a volumespec; every mistake is told at once, with what to do about it.

    Parameters
    ----------
    file
        The file; "-" reads standard input.
    """
    from specs.specfile import parse_specfile
    from specs.volumespec import is_volumespec, parse_volumespec

    text = read_text(file)
    try:
        if is_volumespec(text):
            vids = parse_volumespec(text)
            what, meaning = "volumespec", json.dumps([{"vid": vid} for vid in vids])
        else:
            what, meaning = "specfile", parse_specfile(text).canonical_json()
    except SpecError as error:
        raise malformed(file, error) from None
    document = {"valid": True, "kind": what, "canonical": json.loads(meaning)}
    emit(output, document, Table(("FILE", "KIND", "MEANS"), [(file, what, meaning)], [file]))


@app.command
def schema(
    what: Annotated[Literal["specfile", "volumespec"], Parameter(help="for which kind of file")] = "specfile",
    *,
    output: Output = "json",
) -> None:
    """Print the JSON Schema that editors complete and check with."""
    from specs.schema import json_schema

    described = json_schema(what)
    rows = [(key, json.dumps(value)) for key, value in described.items()]
    emit(output, described, Table(("KEY", "VALUE"), rows, [what]))
