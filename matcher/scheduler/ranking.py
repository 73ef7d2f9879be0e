"""A person's own ranking of choices: one expression, higher is better, for example

    score + 0.5 * (accelerator == 'kvm') - 0.1 * volumes_away

Text is parsed by `ast` and turned, node by node, into closures over a fixed vocabulary: nothing is ever `eval`ed, what
is not listed here is refused, and types are checked before anything runs. All numbers are floats and the size of the
text and its depth are capped, so that no expression can cost more than a fixed, small time. Where arithmetic fails
(division by zero, overflow, a root of -1), the choice ranks worst. Pure.
"""

import ast
import math
import operator
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import reduce
from typing import Any, TypeVar

from matcher.scheduler.choosing import Choice

TEXT_MAX_CHARACTERS = 500
DEPTH_MAX = 40
WORST = float("-inf")

NUMBERS: dict[str, Callable[[Choice], float]] = {
    "score": lambda choice: choice.vm.offer.score,
    "threads": lambda choice: len(choice.vm.offer.threads),
    "threads_per_core": lambda choice: choice.vm.offer.threads_per_core,
    "numa": lambda choice: choice.vm.offer.numa,
    "pci": lambda choice: len(choice.vm.offer.pci),
    "volumes_here": lambda choice: choice.volumes_here,
    "volumes_away": lambda choice: choice.volumes_away,
    "answer_ms": lambda choice: choice.vm.after_s * 1000,
}
TEXTS: dict[str, Callable[[Choice], str]] = {
    "host": lambda choice: choice.vm.offer.host,
    "arch": lambda choice: str(choice.vm.offer.arch),
    "accelerator": lambda choice: str(choice.vm.offer.accelerator),
}
VOCABULARY = (*NUMBERS, *TEXTS)

Number = Callable[[Choice], float]
Text = Callable[[Choice], str]
Term = TypeVar("Term", float, str)


class RankingError(ValueError):
    """The expression is not a ranking: what is wrong, and at which column (from 1) of the text."""

    def __init__(self, problem: str, column: int = 1) -> None:
        super().__init__(f"ranking, column {column}: {problem}")
        self.problem = problem
        self.column = column


@dataclass(frozen=True, slots=True)
class Ranking:
    text: str
    _number: Number

    def value(self, choice: Choice) -> float:
        """The rank of a choice; `WORST` where the expression has no finite value for it."""
        try:
            return _finite(self._number(choice))
        except ArithmeticError:
            return WORST


def compile_ranking(text: str) -> Ranking:
    """Raises `RankingError`, and nothing else, whatever the text."""
    if len(text) > TEXT_MAX_CHARACTERS:
        raise RankingError(f"{len(text)} characters; at most {TEXT_MAX_CHARACTERS} are read", TEXT_MAX_CHARACTERS + 1)
    if not text.strip():
        raise RankingError("empty; write a number to rank by, such as: score")
    compiled = _Compiler(text).number(_parse(text), 0)
    return Ranking(text, compiled)


def _parse(text: str) -> ast.expr:
    for column, character in enumerate(text, start=1):
        if character == "\\" or not (character.isprintable() or character.isspace()):
            raise RankingError(f"{character!r} has no place here", column)
    flat = "".join(" " if character.isspace() else character for character in text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python's own style
            return ast.parse(flat.lstrip(), mode="eval").body
    except SyntaxError as error:
        shift = len(flat) - len(flat.lstrip())
        column = min(error.offset + shift, len(text) + 1) if error.offset else len(text) + 1  # 0: it ends too early
        raise RankingError(f"cannot be read: {error.msg}", column) from None
    except (ValueError, MemoryError, RecursionError, OverflowError):
        raise RankingError("cannot be read: nested too deep, or a number too long") from None


class _Compiler:
    """One method for each kind of node; a method takes the node and its depth, and gives a closure."""

    def __init__(self, text: str) -> None:
        self._text = text

    def number(self, node: ast.expr, depth: int) -> Number:
        """Numbers, and truths as 0 and 1."""
        if depth > DEPTH_MAX:
            raise self._error(node, f"nested deeper than {DEPTH_MAX}")
        match node:
            case ast.Constant(value=bool() | int() | float() as value):
                return self._constant(node, value)
            case ast.Name(id=name) if name in NUMBERS:
                return NUMBERS[name]
            case ast.UnaryOp(op=op, operand=operand):
                return self._unary(node, op, self.number(operand, depth + 1))
            case ast.BinOp(left=left, op=op, right=right):
                return self._binary(node, op, self.number(left, depth + 1), self.number(right, depth + 1))
            case ast.BoolOp(op=op, values=values):
                return _bool(op, [self.number(value, depth + 1) for value in values])
            case ast.Compare():
                return self._compare(node, depth)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                parts = [self.number(part, depth + 1) for part in (test, body, orelse)]
                return lambda choice: parts[1](choice) if parts[0](choice) else parts[2](choice)
            case ast.Call():
                return self._call(node, depth)
        raise self._not_a_number(node)

    def _text_term(self, node: ast.expr) -> Text | None:
        match node:
            case ast.Constant(value=str() as value):
                return lambda _: value
            case ast.Name(id=name) if name in TEXTS:
                return TEXTS[name]
        return None

    def _constant(self, node: ast.expr, value: float) -> Number:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self._error(node, "this number is too large")
        return lambda _: number

    def _unary(self, node: ast.expr, op: ast.unaryop, operand: Number) -> Number:
        match op:
            case ast.USub():
                return lambda choice: -operand(choice)
            case ast.UAdd():
                return operand
            case ast.Not():
                return lambda choice: float(not operand(choice))
        raise self._error(node, 'only "-", "+" and "not" may stand before a value')

    def _binary(self, node: ast.expr, op: ast.operator, left: Number, right: Number) -> Number:
        apply = _BINARY.get(type(op))
        if apply is None:
            raise self._error(node, "of operators, a ranking knows + - * / // % ** and comparisons")
        return lambda choice: _finite(apply(left(choice), right(choice)))

    def _compare(self, node: ast.Compare, depth: int) -> Number:
        """Chains as in mathematics: `0 < score < 1`."""
        sides = [node.left, *node.comparators]
        links = [
            self._link(left, op, right, depth + 1)
            for left, op, right in zip(sides[:-1], node.ops, sides[1:], strict=True)
        ]
        return lambda choice: float(all(link(choice) for link in links))

    def _link(self, left: ast.expr, op: ast.cmpop, right: ast.expr, depth: int) -> Callable[[Choice], bool]:
        if isinstance(op, ast.In | ast.NotIn):
            return self._membership(left, op, right)
        left_text, right_text = self._text_term(left), self._text_term(right)
        if left_text is not None and right_text is not None:
            return self._comparison(left, op, left_text, right_text)
        if left_text is not None or right_text is not None:
            number, text = (left, right) if left_text is None else (right, left)
            self.number(number, depth)  # a mistake inside comes first
            raise self._error(text, "this is text, and it is compared with a number")
        return self._comparison(left, op, self.number(left, depth), self.number(right, depth))

    def _comparison(
        self, node: ast.expr, op: ast.cmpop, left: Callable[[Choice], Term], right: Callable[[Choice], Term]
    ) -> Callable[[Choice], bool]:
        apply = _COMPARE.get(type(op))
        if apply is None:
            raise self._error(node, "compare with == != < <= > >= or in")
        return lambda choice: apply(left(choice), right(choice))

    def _membership(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Callable[[Choice], bool]:
        text = self._text_term(left)
        if text is None:
            raise self._error(left, "before \"in\" stands text, such as: host in ('h1', 'h2')")
        if not isinstance(right, ast.Tuple | ast.List):
            raise self._error(right, "after \"in\" stands a list of texts, such as: ('h1', 'h2')")
        members = [self._text_term(element) for element in right.elts]
        for element, member in zip(right.elts, members, strict=True):
            if member is None:
                raise self._error(element, "a list after \"in\" holds texts alone, such as: ('h1', 'h2')")
        wanted = isinstance(op, ast.In)
        return lambda choice: any(member(choice) == text(choice) for member in members if member) == wanted

    def _call(self, node: ast.Call, depth: int) -> Number:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in ("min", "max", "abs") or node.keywords:
            raise self._error(node, "the only functions are min(a, b, ...), max(a, b, ...) and abs(a)")
        if not node.args or (name == "abs" and len(node.args) != 1):
            raise self._error(node, f"{name}() takes {'one value' if name == 'abs' else 'at least one value'}")
        parts = [self.number(part, depth + 1) for part in node.args]
        if name == "abs":
            return lambda choice: abs(parts[0](choice))
        pick: Callable[[list[float]], float] = min if name == "min" else max
        return lambda choice: pick([part(choice) for part in parts])

    def _not_a_number(self, node: ast.expr) -> RankingError:
        if isinstance(node, ast.Name) and node.id not in VOCABULARY:
            close = get_close_matches(node.id, VOCABULARY, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(VOCABULARY)}"
            return self._error(node, f'no such name "{node.id}"; {hint}')
        if self._text_term(node) is not None:
            example = node.id if isinstance(node, ast.Name) else "host"
            return self._error(node, f"this is text where a number belongs; compare it, such as: {example} == '...'")
        return self._error(node, f"{_KINDS.get(type(node), 'this')} is not part of a ranking")

    def _error(self, node: ast.expr, problem: str) -> RankingError:
        """`ast` counts in bytes of the text without its leading space."""
        lead = len(self._text) - len(self._text.lstrip())
        before = self._text.lstrip().encode()[: node.col_offset].decode(errors="ignore")
        return RankingError(problem, lead + len(before) + 1)


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise OverflowError
    return number


def _power(base: float, exponent: float) -> float:
    try:
        return math.pow(base, exponent)
    except ValueError:
        raise OverflowError from None  # a root of a negative number, or 0 ** -1


def _bool(op: ast.boolop, values: Sequence[Number]) -> Number:
    """As in Python, the value that decides: `pci or 1` is a number as well."""
    if isinstance(op, ast.And):
        return reduce(lambda left, right: lambda choice: left(choice) and right(choice), values)
    return reduce(lambda left, right: lambda choice: left(choice) or right(choice), values)


_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_KINDS: dict[type[ast.expr], str] = {
    ast.Attribute: "a dot",
    ast.Subscript: "an index",
    ast.Lambda: "a lambda",
    ast.NamedExpr: "an assignment",
    ast.JoinedStr: "an f-string",
    ast.ListComp: "a comprehension",
    ast.GeneratorExp: "a comprehension",
    ast.Dict: "a dictionary",
    ast.Set: "a set",
    ast.List: "a list",
    ast.Tuple: "a tuple",
    ast.Starred: "a star",
    ast.Await: "await",
    ast.Yield: "yield",
    ast.Constant: "this value",
}
