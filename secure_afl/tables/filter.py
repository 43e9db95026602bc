"""Which rows are learned from: a condition in a small language, read and never executed as a program.

    age >= 18 and not (site == 'B' or sex in ['f', 'w'])
    `blood pressure` > 90 and smoker is not missing

    condition   = term { "or" term }
    term        = factor { "and" factor }
    factor      = "not" factor | "(" condition ")" | comparison
    comparison  = column ("<" | "<=" | ">" | ">=" | "==" | "!=") value
                | column ["not"] "in" "[" value { "," value } "]"
                | column "is" ["not"] "missing"
    value       = number | text in quotes

A column stands as it is, or in back quotes. Text is compared with the cell as it is written, a number with its number.
Nothing is known of a comparison with a missing value, as in SQL: a row is taken only if the condition certainly holds.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from secure_afl.errors import DataError

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
      | (?P<text>'[^']*'|"[^"]*")
      | (?P<column>`[^`]+`)
      | (?P<word>[^\W\d][\w.]*)
      | (?P<sign><=|>=|==|!=|[<>()\[\],])
    )""",
    re.VERBOSE,
)
_WORDS = ("and", "or", "not", "in", "is", "missing")
_ORDER = ("<", "<=", ">", ">=", "==", "!=")
Value = float | str


@dataclass(frozen=True)
class Compare:
    """A column and a value. sign: one of < <= > >= == !=."""

    column: str
    sign: str
    value: Value


@dataclass(frozen=True)
class Among:
    """A column that has one of some values."""

    column: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Missing:
    """A column without a value."""

    column: str


@dataclass(frozen=True)
class Not:
    """The opposite."""

    of: "Condition"


@dataclass(frozen=True)
class Both:
    """Two conditions at once."""

    left: "Condition"
    right: "Condition"


@dataclass(frozen=True)
class Either:
    """One of two conditions, or both."""

    left: "Condition"
    right: "Condition"


Condition = Compare | Among | Missing | Not | Both | Either


_LONGEST = 1000  # a chain of conditions is as deep as it is long


def parse(text: str) -> Condition:
    """Raises `DataError` that says where it stops to make sense."""
    tokens = [*_tokens(text)]
    if len(tokens) > _LONGEST:
        raise DataError(f"filter: expected at most {_LONGEST} words and signs, got {len(tokens)}")
    reader = _Reader(text, tokens)
    condition = reader.condition()
    if reader.token.kind:
        raise reader.fault("and, or, or the end")
    return condition


def columns(condition: Condition) -> list[str]:
    """Every column that a condition names, once."""
    match condition:
        case Compare(column=name) | Among(column=name) | Missing(column=name):
            return [name]
        case Not(of):
            return columns(of)
        case Both(left, right) | Either(left, right):
            return list(dict.fromkeys([*columns(left), *columns(right)]))


class _Token(NamedTuple):
    kind: str  # empty at the end
    text: str
    at: int


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while text[at:].strip():
        found = _TOKEN.match(text, at)
        if not found:
            start = at + len(text[at:]) - len(text[at:].lstrip())
            raise DataError(
                f"filter, character {start + 1}: expected a column, a value or a sign, got {text[start : start + 12]!r}"
            )
        kind = str(found.lastgroup)
        yield _Token(kind, found[kind], found.start(kind))
        at = found.end()


class _Reader:
    """Recursive descent; `token` is the next one."""

    def __init__(self, text: str, tokens: Sequence[_Token]) -> None:
        self._tokens = [*tokens, _Token("", "", len(text))]
        self._next = 0
        self._depth = 0

    @property
    def token(self) -> _Token:
        return self._tokens[self._next]

    def condition(self) -> Condition:
        return self._chain(self._term, "or", Either)

    def _term(self) -> Condition:
        return self._chain(self._factor, "and", Both)

    def _chain(
        self, part: Callable[[], Condition], word: str, joined: Callable[[Condition, Condition], Condition]
    ) -> Condition:
        left = part()
        while self._take(word):
            left = joined(left, part())
        return left

    def _factor(self) -> Condition:
        self._depth += 1
        if self._depth > 50:
            raise self.fault("at most 50 parts within each other")
        try:
            if self._take("not"):
                return Not(self._factor())
            if self._take("("):
                inner = self.condition()
                self._need(")")
                return inner
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> Condition:
        token = self.token
        if token.kind == "column":
            name = token.text[1:-1]
        elif token.kind == "word" and token.text not in _WORDS:
            name = token.text
        else:
            raise self.fault("a column")
        self._next += 1
        if self._take("is"):
            opposite = self._take("not")
            self._need("missing")
            return Not(Missing(name)) if opposite else Missing(name)
        opposite = self._take("not")
        if self._take("in"):
            self._need("[")
            values = [self._value()]
            while self._take(","):
                values.append(self._value())
            self._need("]")
            among = Among(name, tuple(values))
            return Not(among) if opposite else among
        if opposite or self.token.text not in _ORDER:
            raise self.fault("in, is, or one of " + " ".join(_ORDER))
        sign = self.token.text
        self._next += 1
        value = self._value()
        if isinstance(value, str) and sign not in ("==", "!="):
            raise DataError(f"filter: expected a number after {name} {sign}, got the text {value!r}")
        return Compare(name, sign, value)

    def _value(self) -> Value:
        token = self.token
        if token.kind not in ("number", "text"):
            raise self.fault("a number, or text in quotes")
        if token.kind == "number" and not math.isfinite(float(token.text)):
            raise self.fault("a finite number")
        self._next += 1
        return float(token.text) if token.kind == "number" else token.text[1:-1]

    def _take(self, text: str) -> bool:
        if self.token.kind in ("word", "sign") and self.token.text == text:
            self._next += 1
            return True
        return False

    def _need(self, text: str) -> None:
        if not self._take(text):
            raise self.fault(repr(text))

    def fault(self, expected: str) -> DataError:
        got = repr(self.token.text) if self.token.kind else "the end"
        return DataError(f"filter, character {self.token.at + 1}: expected {expected}, got {got}")
