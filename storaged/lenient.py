"""Reads the JSON that people write by hand: JSON, JSON5, and the bare words of the first volumes' metadata.

    {size: 10, name: dummy_volume, /* a comment */ bootable: true,}

What programs write is plain JSON, and Python's own parser, ten times as fast, has the first word wherever it would say
the same. JSON5 has no word for `dummy_volume`, and its libraries are slow enough to matter in a scan of 100,000
volumes. One regular expression makes tokens, in time linear in the text; `DEPTH_MAX` bounds the nesting, the caller the
length. A key that stands twice is an error, since readers would disagree on which counts. `NaN` and `Infinity` are only
words.
Pure.
"""

import json
import re
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

DEPTH_MAX = 8

Value: TypeAlias = "dict[str, Value] | list[Value] | str | int | float | bool | None"

# Possessive quantifiers on groups would say it better, but Python 3.11.2 matches them wrongly (gh-106052).
_TOKEN = re.compile(
    r"""
    (?P<blank> \s+ | //[^\n]* | /\*.*?\*/ )
  | (?P<mark>  [{}\[\]:,] )
  | (?P<text>  "[^"\\\n]*(?:\\.[^"\\\n]*)*" | '[^'\\\n]*(?:\\.[^'\\\n]*)*' )
  | (?P<word>  [\w$.+-]+ )
    """,
    re.VERBOSE | re.DOTALL,
)
_WORD = re.compile(r"[^\W\d]|\$")  # how a word that isn't a number starts
_INTEGER = re.compile(r"[+-]?(?:0|[1-9][0-9]{0,18})")
_HEXADECIMAL = re.compile(r"[+-]?0[xX][0-9a-fA-F]{1,16}")
_FRACTION = re.compile(
    r"[+-]?(?:(?:0|[1-9][0-9]{0,18})?\.[0-9]{1,32}|(?:0|[1-9][0-9]{0,18})\.?)(?:[eE][+-]?[0-9]{1,4})?"
)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|\r\n|.)", re.DOTALL)
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "0": "\0", "\n": "", "\r\n": "", "\r": ""}
_LITERALS: dict[str, bool | None] = {"true": True, "false": False, "null": None}


class NotJson(ValueError):
    """The text can't be read; the message is a clause that names the line."""


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


def read(text: str) -> Value:
    """The one value that `text` holds. Raises `NotJson`, and nothing else, whatever the text."""
    return value if (value := _plain(text)) is not None else _Reader(text).whole()


def _plain(text: str) -> "dict[str, Value] | None":
    """What `text` holds where it is an object in plain JSON, without escapes and within our limits; else `None`."""
    if "\\" in text or text.count("{") + text.count("[") > DEPTH_MAX:
        return None
    try:
        value = _JSON.decode(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _each_once(pairs: "list[tuple[str, Value]]") -> "dict[str, Value]":
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError
    return values


def _integer(text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise ValueError
    return int(text)


def _fraction(text: str) -> float:
    if not _FRACTION.fullmatch(text):
        raise ValueError
    return float(text)


def _no_constant(text: str) -> Value:
    raise ValueError(text)


_JSON = json.JSONDecoder(
    object_pairs_hook=_each_once, parse_int=_integer, parse_float=_fraction, parse_constant=_no_constant
)


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._split()
        self._next = 0

    def whole(self) -> Value:
        value = self._value(0)
        if self._peek().kind != "end":
            self._fail(self._peek(), "something follows the closing brace")
        return value

    def _split(self) -> list[_Token]:
        tokens: list[_Token] = []
        at = 0
        while at < len(self._text):
            found = _TOKEN.match(self._text, at)
            if found is None:
                self._fail(_Token("bad", self._text[at], at), self._unreadable(at))
            if found.lastgroup != "blank":
                tokens.append(_Token(str(found.lastgroup), found.group(), at))
            at = found.end()
        return [*tokens, _Token("end", "", at)]

    def _unreadable(self, at: int) -> str:
        if self._text.startswith("/*", at):
            return "a comment is not closed"
        if self._text[at] in "\"'":
            return "a quoted text is not closed on its line"
        return f"{self._text[at]!a} does not belong here"

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        self._next += token.kind != "end"
        return token

    def _value(self, depth: int) -> Value:
        token = self._take()
        if depth > DEPTH_MAX:
            self._fail(token, f"it is nested deeper than {DEPTH_MAX}")
        if token.text == "{":
            return self._object(depth)
        if token.text == "[":
            return self._array(depth)
        if token.kind == "text":
            return _unescaped(token.text[1:-1])
        if token.kind == "word":
            return self._scalar(token)
        return self._fail(token, "a value is missing" if token.kind == "mark" else "the text ends too early")

    def _object(self, depth: int) -> dict[str, Value]:
        values: dict[str, Value] = {}
        while self._peek().text != "}":
            key = self._key()
            if key in values:
                self._fail(self._peek(), f"{_shown(key)} stands twice")
            self._expect(":")
            values[key] = self._value(depth + 1)
            if not self._comma("}"):
                break
        self._expect("}")
        return values

    def _array(self, depth: int) -> list[Value]:
        values: list[Value] = []
        while self._peek().text != "]":
            values.append(self._value(depth + 1))
            if not self._comma("]"):
                break
        self._expect("]")
        return values

    def _key(self) -> str:
        token = self._take()
        if token.kind == "text":
            return _unescaped(token.text[1:-1])
        if token.kind == "word" and _WORD.match(token.text):
            return token.text
        return self._fail(token, "the text ends too early" if token.kind == "end" else "a field's name is missing")

    def _comma(self, close: str) -> bool:
        if self._peek().text == ",":
            self._take()
            return True
        if self._peek().kind != "end" and self._peek().text != close:
            self._fail(self._peek(), f'a comma or "{close}" is missing')
        return False

    def _expect(self, mark: str) -> None:
        token = self._take()
        if token.text != mark:
            self._fail(token, "the text ends too early" if token.kind == "end" else f'"{mark}" is missing')

    def _scalar(self, token: _Token) -> Value:
        word = token.text
        if word in _LITERALS:
            return _LITERALS[word]
        if _INTEGER.fullmatch(word):
            return int(word)
        if _HEXADECIMAL.fullmatch(word):
            return int(word, 16)
        if _FRACTION.fullmatch(word):
            return float(word)
        if _WORD.match(word):
            return word
        return self._fail(token, f"{_shown(word)} is not a number")

    def _fail(self, token: _Token, problem: str) -> NoReturn:
        line = self._text.count("\n", 0, token.at) + 1
        raise NotJson(f"{problem} (line {line})")


def _shown(text: str) -> str:
    return f'"{ascii(text)[1:-1][:40]}"'


def _unescaped(text: str) -> str:
    """Escapes resolved; a lone surrogate stays one, for the caller to refuse."""
    if "\\" not in text:
        return text
    plain = _ESCAPE.sub(_unescape, text)
    return plain.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _unescape(found: re.Match[str]) -> str:
    escape = found.group(1)
    if len(escape) > 2 and escape[0] in "ux":
        return chr(int(escape[1:], 16))
    return _ESCAPED.get(escape, escape)
