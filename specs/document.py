"""Text to a plain document: JSON or JSON5, with everything hostile or doubtful refused on the way.

    bytes → UTF-8 → size → one pass over the tokens (depth, brackets, quotes, count) → json, else json5 → plain values

The pass over the tokens comes first since both parsers recurse and json5 takes milliseconds for each kilobyte.
It also blanks the comments, so that JSON with comments, the most common JSON5, needs no json5 at all.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from specs.problems import Problem, SpecError, join, shorten, show

TEXT_MAX_BYTES = 64 * 1024
DEPTH_MAX = 16
VALUES_MAX = 4096  # commas and brackets; json5 needs 60 µs for each
DIGITS_MAX = 32  # of one number

_TOKEN = re.compile(
    r"""
      (?P<string> "[^"\\\n\r]*(?:\\(?:\r\n|[\s\S])[^"\\\n\r]*)*" | '[^'\\\n\r]*(?:\\(?:\r\n|[\s\S])[^'\\\n\r]*)*' )
    | (?P<comment> //[^\n\r\u2028\u2029]* | /\*[\s\S]*?\*/ )
    | (?P<open> [\[{] ) | (?P<close> [\]}] ) | (?P<comma> , )
    | (?P<endless> ["'] | /\* ) | (?P<curly> [\u2018-\u201f\u00ab\u00bb] )
    """,
    re.VERBOSE,
)
_NOT_NEWLINE = re.compile(r"[^\n\r\u2028\u2029]")
_CLOSES = {"{": "}", "[": "]"}
_BOMS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_PYTHON_WORDS = {"True": "write true", "False": "write false", "None": "leave the field out"}


@dataclass(slots=True)
class Document:
    """`value` holds dicts, lists and plain values; `problems` those that did not keep us from reading on."""

    value: Any
    problems: list[Problem] = field(default_factory=list)


class _Pairs(list[tuple[str, Any]]):
    """An object as written, repeated keys and all."""


def read_document(text: str | bytes, *, what: str) -> Document:
    """Parse `text`; raises `SpecError` if it can't be read at all. `what` is its kind, for messages."""
    try:
        return _read(_decode(text))
    except _Unreadable as unreadable:
        raise SpecError([unreadable.problem], what=what) from None


class _Unreadable(Exception):
    def __init__(self, path: str, problem: str, hint: str = "") -> None:
        self.problem = Problem(path, problem, hint)
        super().__init__(problem)


def _read(text: str) -> Document:
    if not text.strip():
        raise _Unreadable("", "the document is empty", "see packaging/examples for one to start from")
    document = Document(None)
    document.value = _plain(_parse(_without_comments(text), text), "", document.problems)
    return document


def _decode(text: str | bytes) -> str:
    _check_size(len(text))
    if isinstance(text, bytes):
        return _decode_bytes(text)
    try:
        _check_size(len(text.encode()))
    except UnicodeEncodeError as error:
        raise _Unreadable(_place(text, error.start), "is not UTF-8 text", "save it as UTF-8") from None
    return text.removeprefix("\ufeff")


def _decode_bytes(data: bytes) -> str:
    if data[:2] in _BOMS:
        raise _Unreadable("", f"the document is {_BOMS[data[:2]]} text", "save it as UTF-8")
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = f"is not UTF-8 text: byte 0x{data[error.start]:02x}"
        raise _Unreadable(f"line {line}", problem, "save it as UTF-8") from None


def _check_size(size_bytes: int) -> None:
    if size_bytes > TEXT_MAX_BYTES:
        raise _Unreadable(
            "", f"the document is {size_bytes:,} bytes long; the most is {TEXT_MAX_BYTES:,}", "is it the right file?"
        )


def _without_comments(text: str) -> str:
    """`text` with comments as spaces, every offset unchanged; refuses what no parser should be given."""
    opened: list[tuple[str, int]] = []
    pieces: list[str] = []
    done = values = 0
    for token in _TOKEN.finditer(text):
        match token.lastgroup:
            case "comment":
                pieces += [text[done : token.start()], _NOT_NEWLINE.sub(" ", token[0])]
                done = token.end()
            case "open":
                opened.append((token[0], token.start()))
            case "close":
                _close(text, opened, token[0], token.start())
            case "endless" | "curly":
                _refuse_quote(text, token[0], token.start())
        values += token.lastgroup in ("open", "comma")
        _check_amount(text, len(opened), values, token.start())
    if opened:
        bracket, position = opened[-1]
        raise _Unreadable(_place(text, position), f'"{bracket}" is never closed', f'add the "{_CLOSES[bracket]}"')
    return "".join([*pieces, text[done:]])


def _check_amount(text: str, depth: int, values: int, position: int) -> None:
    if depth > DEPTH_MAX:
        raise _Unreadable(_place(text, position), f"the document is nested deeper than {DEPTH_MAX} levels")
    if values > VALUES_MAX:
        raise _Unreadable(
            _place(text, position), f"the document has more than {VALUES_MAX:,} values", "is it the right file?"
        )


def _close(text: str, opened: list[tuple[str, int]], bracket: str, position: int) -> None:
    if not opened:
        raise _Unreadable(_place(text, position), f'"{bracket}" closes nothing', "take it out")
    opener, start = opened.pop()
    if _CLOSES[opener] != bracket:
        problem = f'"{bracket}" can\'t close the "{opener}" of {_place(text, start)}'
        raise _Unreadable(_place(text, position), problem, f'a "{_CLOSES[opener]}" is due here or before')


def _refuse_quote(text: str, quote: str, position: int) -> NoReturn:
    place = _place(text, position)
    if quote == "/*":
        raise _Unreadable(place, "the comment is never closed", 'add the "*/"')
    if quote in "\"'":
        raise _Unreadable(place, "the text is not closed on its line", f"add the closing {quote}")
    raise _Unreadable(place, f"{quote} is a typographic quote", 'use the plain "')


def _parse(bare: str, text: str) -> Any:
    hooks = {"object_pairs_hook": _Pairs, "parse_int": _whole, "parse_float": float, "parse_constant": _constant}
    try:
        return json.loads(bare, **hooks)  # type: ignore[arg-type]
    except json.JSONDecodeError:
        return _parse_json5(bare, text, hooks)


def _parse_json5(bare: str, text: str, hooks: dict[str, Any]) -> Any:
    import json5  # here, since plain JSON must not pay for its import

    try:
        value, error, position = json5.parse(bare, **hooks)
    except (ValueError, RecursionError) as failure:
        raise _Unreadable("", f"the document can't be read: {shorten(str(failure))}") from None
    if error is not None:
        raise _Unreadable(_place(text, position), *_why(bare, position))
    return value


def _whole(digits: str, base: int = 10) -> int:
    if len(digits) > DIGITS_MAX:
        raise _Unreadable("", f"the number {shorten(digits)} has more than {DIGITS_MAX} digits")
    return int(digits, base)


def _constant(word: str) -> float:
    return math.nan if "NaN" in word else math.inf


def _place(text: str, position: int) -> str:
    before = text[:position]
    return f"line {before.count(chr(10)) + 1}, column {position - before.rfind(chr(10))}"


def _why(bare: str, position: int) -> tuple[str, str]:
    """What the parser stumbled over, and the likeliest cure."""
    if position >= len(bare.rstrip()):
        return "the text ends too early", "is a bracket or a value missing?"
    word = re.compile(r"\w+|.", re.DOTALL).match(bare, position)
    assert word
    # the parser stops inside a word such as `None`, whose N it takes for the start of NaN
    start = position - len(re.search(r"\w*$", bare[:position])[0])  # type: ignore[index]
    whole = bare[start : word.end()]
    for python, cure in _PYTHON_WORDS.items():
        if python in (word[0], whole):
            return f"{python} is Python", cure
    cures = {"#": "comments start with //", "=": 'a name and its value are parted by ":"', ",": "a value is missing"}
    return f"{show(word[0])} is not expected here", cures.get(word[0], 'is a "," or a quote missing before it?')


def _plain(value: Any, path: str, problems: list[Problem]) -> Any:
    """Dicts for pairs; what JSON allows and no document of ours means is noted with its path."""
    match value:
        case _Pairs():
            return dict(_members(value, path, problems))
        case list():
            return [_plain(item, join_path(path, index), problems) for index, item in enumerate(value)]
        case float() if not math.isfinite(value):
            problems.append(Problem(path, "is not a finite number", "write a plain number"))
        case str() if not is_text(value):
            problems.append(Problem(path, "holds half of a character (a lone surrogate)"))
            return ""
        case None:
            problems.append(Problem(path, "is null", "leave it out, or give it a value"))
    return value


def _members(pairs: _Pairs, path: str, problems: list[Problem]) -> Iterator[tuple[str, Any]]:
    times: dict[str, int] = {}
    for key, _ in pairs:
        times[key] = times.get(key, 0) + 1
    for key, value in reversed(pairs):  # so that the first of a repeated key is the one kept
        if is_text(key):
            yield key, _plain(value, join_path(path, key), problems)
        elif times.pop(key, 0):
            problems.append(Problem(path, "has a field whose name holds half of a character (a lone surrogate)"))
    for key, count in times.items():
        if count > 1:
            problems.append(Problem(join_path(path, key), f"is written {count} times", "keep one of them"))


def join_path(path: str, step: object) -> str:
    return f"{path}.{join(step)}" if path else join(step)


def is_text(value: str) -> bool:
    """Whether it can be written as UTF-8: no lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in value)
