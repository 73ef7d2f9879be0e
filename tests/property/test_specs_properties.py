"""Whatever is written, a specfile is either understood or explained, and the schema says the same as the parser."""

import json
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from specs.document import read_document
from specs.forms import PCI_CLASSES
from specs.problems import SpecError
from specs.schema import json_schema
from specs.specfile import ARCHS, FIRMWARES, parse_specfile
from specs.volumespec import parse_volumespec

SPECFILE, VOLUMESPEC = json_schema("specfile"), json_schema("volumespec")

texts = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FFF), min_size=1, max_size=70)
odd = st.sampled_from(  # copied, since documents are spoiled in place
    [0, -1, 1, 2, 15, 16, 64, 65, 10**9, True, False, "", "2", "x", "\n", [], {}, [1], {"a": 1}]
).map(deepcopy)
odd_words = st.sampled_from(
    ["avx 2", "X86_64-v9", "x86-64-v5", "\x00", "bios", "X86_32", "10deg", "10de\n", "0x", "a\u202eb"]
)
hexes = st.from_regex(r"\A(0[xX])?[0-9a-fA-F]{4}\Z")
words = st.sampled_from(["avx2", "AES", "x86-64-v3", "X86-64-V4", "sse4_1", "a.b:c+d-e"])

CPU: dict[str, st.SearchStrategy[Any]] = {
    "slots": st.integers(1, 4096),
    "overprovision": st.integers(1, 64),
    "allowSMT": st.booleans(),
    "archs": st.lists(st.sampled_from(ARCHS), min_size=1, max_size=9),
    "flags": st.lists(words, max_size=5),
}
RAM: dict[str, st.SearchStrategy[Any]] = {"ramsize": st.integers(16, 2**26), "reqECC": st.booleans()}
MISC = {"os_family": texts, "qemu_agent": st.booleans(), "firmware": st.sampled_from(FIRMWARES), "tpm": st.booleans()}
CLASSES = st.sampled_from([*PCI_CLASSES, "0302", "0x030000", "0C", "3", "gpus"])
MANY = {"quantity": st.integers(1, 3)}
PCI = (
    st.fixed_dictionaries({"vendor": hexes, "model": hexes}, optional=MANY)
    | st.fixed_dictionaries({"class": CLASSES}, optional=MANY)
    | st.fixed_dictionaries({}, optional={"vendor": hexes, "model": hexes, "class": CLASSES, "name": texts, **MANY})
)
SHARED: dict[str, st.SearchStrategy[Any]] = {
    "info": st.fixed_dictionaries({}, optional={"name": texts, "description": texts}),
    "pci": st.lists(PCI, max_size=3),
    "misc": st.fixed_dictionaries({}, optional=MISC),
}


def some(fields: dict[str, st.SearchStrategy[Any]], *required: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {name: fields[name] for name in required},
        optional={name: values for name, values in fields.items() if name not in required},
    )


well_meant = some({**SHARED, **CPU, **RAM}, "slots", "ramsize") | some(
    {**SHARED, "cpu": some(CPU, "slots"), "ram": some(RAM, "ramsize")}, "cpu", "ram"
)


@st.composite
def spoiled(draw: st.DrawFn, whole: st.SearchStrategy[Any]) -> Any:
    """A document with up to two of its values replaced, taken out or put in."""
    document = draw(whole)
    for _ in range(draw(st.integers(0, 2))):
        container, key = draw(st.sampled_from(list(places(document)) or [({}, "")]))
        match draw(st.sampled_from(["replace", "remove", "add"])):
            case "replace" if key in container if isinstance(container, dict) else key < len(container):
                container[key] = draw(odd | odd_words)
            case "remove" if isinstance(container, dict):
                container.pop(key, None)
            case "add" if isinstance(container, dict):
                container[draw(st.sampled_from(["zzz", "cpu", "slots", "ramsize", "vid", "flags"]))] = draw(odd)
    return document


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in steps:
        yield value, key
        yield from places(inner)


documents = spoiled(well_meant) | odd
good_flat = st.fixed_dictionaries(
    {"slots": CPU["slots"], "ramsize": RAM["ramsize"]},
    optional={name: CPU[name] for name in ("overprovision", "allowSMT", "archs")} | {"reqECC": RAM["reqECC"]},
)


def valid(schema: dict[str, Any], value: Any) -> bool:
    """The keywords that our schemas use, as JSON Schema 2020-12 defines them."""
    checks: dict[str, Callable[[Any], bool]] = {
        "type": lambda kind: _is(kind, value),
        "enum": lambda known: any(type(value) is type(word) and value == word for word in known),
        "minimum": lambda least: not _is("integer", value) or value >= least,
        "maximum": lambda most: not _is("integer", value) or value <= most,
        "minLength": lambda least: not isinstance(value, str) or len(value) >= least,
        "maxLength": lambda most: not isinstance(value, str) or len(value) <= most,
        "pattern": lambda regex: not isinstance(value, str) or re.search(regex.replace("$", r"\Z"), value) is not None,
        "minItems": lambda least: not isinstance(value, list) or len(value) >= least,
        "maxItems": lambda most: not isinstance(value, list) or len(value) <= most,
        "uniqueItems": lambda _: len({json.dumps(item) for item in value}) == len(value),
        "items": lambda inner: not isinstance(value, list) or all(valid(inner, item) for item in value),
        "required": lambda names: not isinstance(value, dict) or all(name in value for name in names),
        "properties": lambda inner: (
            not isinstance(value, dict)
            or all(valid(inner[name], member) for name, member in value.items() if name in inner)
        ),
        "additionalProperties": lambda _: not isinstance(value, dict) or set(value) <= set(schema["properties"]),
        "allOf": lambda inner: all(valid(part, value) for part in inner),
        "anyOf": lambda inner: any(valid(part, value) for part in inner),
        "oneOf": lambda inner: sum(valid(part, value) for part in inner) == 1,
        "not": lambda inner: not valid(inner, value),
    }
    unjudged = {"$schema", "title", "description", "default"}
    return all(checks[keyword](argument) for keyword, argument in schema.items() if keyword not in unjudged)


def _is(kind: str, value: Any) -> bool:
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    return isinstance(value, kinds[kind]) and (kind != "integer" or not isinstance(value, bool))


def understood(document: Any) -> bool:
    try:
        spec = parse_specfile(json.dumps(document))
    except SpecError as error:
        beyond = ("again", "asks for", "twice", "no multiple")
        told = [problem for problem in error.problems if any(words in problem.problem for words in beyond)]
        return len(told) == len(error.problems)  # what the schema can't tell
    return parse_specfile(spec.canonical_json()) == spec


@given(documents)
def test_the_schema_and_the_parser_agree_on_every_document(document: Any) -> None:
    if isinstance(document, dict) and _said_twice(document):
        assert not valid(SPECFILE, document)
    else:
        assert valid(SPECFILE, document) == understood(document)


def _said_twice(document: dict[str, Any]) -> bool:
    inner = [value for value in (document.get("cpu"), document.get("ram")) if isinstance(value, dict)]
    return any(name in document for value in inner for name in value)


@given(good_flat, st.booleans(), st.sets(st.sampled_from([*CPU, *RAM])))
def test_a_document_means_the_same_in_every_mixture_of_the_forms(
    flat: dict[str, Any], comment: bool, moved: set[str]
) -> None:
    mixed: dict[str, Any] = {name: value for name, value in flat.items() if name not in moved}
    for name in moved & set(flat):
        mixed.setdefault("cpu" if name in CPU else "ram", {})[name] = flat[name]
    text = json.dumps(mixed) + (" // the same" if comment else "")
    assert parse_specfile(text) == parse_specfile(json.dumps(flat))
    assert valid(SPECFILE, mixed)


@given(good_flat)
def test_canonical_json_is_a_fixed_point_that_the_schema_accepts(flat: dict[str, Any]) -> None:
    spec = parse_specfile(json.dumps(flat))
    canonical = spec.canonical_json()
    assert parse_specfile(canonical) == spec
    assert parse_specfile(canonical).canonical_json() == canonical
    assert valid(SPECFILE, json.loads(canonical))


@given(good_flat, st.integers(1, 4096))
def test_an_edit_is_as_good_as_having_written_it(flat: dict[str, Any], slots: int) -> None:
    written = parse_specfile(json.dumps(flat | {"slots": slots}))
    nested = parse_specfile(json.dumps(flat)).canonical_json()
    for text in (json.dumps(flat), nested):
        for path in ("slots", "cpu.slots"):
            assert parse_specfile(text, edits=[f"{path}={slots}"]) == written


volume_ids = st.sampled_from(
    ["f" * 32, "F" * 32, "0" * 32, "f" * 33, "g" * 32, "f" * 8 + "-ffff" * 3 + "-" + "f" * 12, ""]
)
volumespecs = spoiled(st.lists(st.fixed_dictionaries({"vid": volume_ids}), min_size=1, max_size=3)) | odd


@given(volumespecs)
def test_the_schema_and_the_parser_agree_on_every_volumespec(document: Any) -> None:
    try:
        accepted = bool(parse_volumespec(json.dumps(document)))
    except SpecError as error:
        accepted = False
        if all("again" in problem.problem for problem in error.problems):
            return  # one volume in two spellings: beyond a schema
    assert valid(VOLUMESPEC, document) == accepted


tokens = st.sampled_from(
    [*"{}[]:,\"'/\\*+-.0\n\r\u2028 #“", "//", "/*", "*/", "slots", "1e9", "null", "NaN", "\\u", "0x"]
)


def assert_told(read: Callable[[], object]) -> None:
    """Either it is read, or there is a sentence for each problem, fit for a terminal."""
    error = None
    try:
        read()
    except SpecError as caught:
        error = caught
    assert error is None or all(problem.problem for problem in error.problems)
    assert error is None or str(error).replace("\n", "").isprintable()


@given(st.lists(tokens, max_size=12).map("".join) | st.text(max_size=20) | st.binary(max_size=20))
def test_any_text_is_read_or_refused_with_a_sentence(text: str | bytes) -> None:
    for read in (parse_specfile, parse_volumespec):
        assert_told(partial(read, text))


@given(
    st.lists(tokens, max_size=6).map("".join), st.lists(tokens | st.sampled_from(["=", "pci.0.", "cpu."]), max_size=6)
)
def test_any_edit_is_made_or_refused_with_a_sentence(value: str, path: list[str]) -> None:
    for edit in ("".join(path), f"slots={value}", f"pci={value}", f"info.name={value}", f"flags.0={value}"):
        assert_told(partial(parse_specfile, '{"slots": 1, "ramsize": 512}', edits=[edit]))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_json_is_read_as_json_reads_it_and_json5_reads_it_the_same(value: Any) -> None:
    text = json.dumps(value)
    assert read_document(text, what="").value == value
    if isinstance(value, list | dict):
        end = text[:-1] + ("," if value else "") + text[-1] + "// end"
        assert read_document(end, what="").value == value
