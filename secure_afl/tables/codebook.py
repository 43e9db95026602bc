"""What the columns of every party's table mean, agreed on before anybody looks at a row.

TOML, as `[codebook]` of a study or as a file of its own:

    filter = "age >= 18"                    # rows to learn from; see `secure_afl.tables.filter`
    products = [["age", "sex"]]             # columns that act together
    least_rows = 5                          # of disclosure control; see docs/disclosure.md
    held_out = "year >= 2024"               # rows that are no part of the model and say how good it is

    [columns]
    age = { kind = "number", range = [18, 100], unit = "years" }
    chol = { kind = "number", range = [50, 700], missing = ["", "0"], log = true }
    sex = { kind = "category", levels = ["Female", "Male"] }
    smoker = { kind = "yes/no", yes = ["1"], no = ["0"], missing = [""], when_missing = "leave out" }
    stage = { kind = "ordinal", levels = ["I", "II", "III", "IV"] }

    [outcome]
    kind = "classes"                        # or "number", with a range
    column = "disease"
    classes = { absent = ["0"], present = ["1", "2", "3", "4"] }

Everything that must be public follows from it: the number of features, their names, and a scale on which none leaves
[-1, 1]. Ranges come from what is known of a quantity, never from rows: read from rows, they would tell about them.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import msgspec

from secure_afl.errors import DataError
from secure_afl.protocol.files import whole
from secure_afl.protocol.session.errors import FileError
from secure_afl.tables import filter as row_filter

_LARGEST = 1e30  # of a range: cubes of numbers within it, and products of columns, are finite
_NARROW = 1e-6
LEAST_ROWS = 5
"""The usual default of statistical offices for the smallest cell of a table."""
WhenMissing = Literal["flag", "leave out"]
Levels = tuple[str, ...] | dict[str, tuple[str, ...]]
"""Words as they stand in cells, or for each word the cells that mean it."""


class Number(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="number"):
    """A number within a public range, in a unit.

    log: its natural logarithm is used. square: the square of its distance from the middle is used besides. knots: of a
    restricted cubic spline, in the column's unit; outside the outer ones it is a straight line (Harrell, Regression
    Modeling Strategies, 2.4.5). missing: cells that mean "not known"; when_missing: whether they are flagged in a
    column of their own, or their row is left out. Raises `DataError`.
    """

    range: tuple[float, float]
    unit: str = ""
    log: bool = False
    square: bool = False
    knots: tuple[float, ...] = ()
    missing: tuple[str, ...] = ()
    when_missing: WhenMissing = "flag"

    def __post_init__(self) -> None:
        low, high = self.range
        if not (-_LARGEST <= low < high <= _LARGEST):
            raise DataError(
                f"expected a range [low, high] of numbers of at most {_LARGEST:g} in magnitude, got [{low:g}, {high:g}]"
            )
        if high - low < max(_NARROW * max(abs(low), abs(high)), 1 / _LARGEST):
            raise DataError(
                f"expected a range wider than a millionth of its ends, got [{low:g}, {high:g}]: take the distance "
                "from a number nearby"
            )
        if self.log and low <= 0:
            raise DataError(f"expected a range above 0 for a logarithm, got [{low:g}, {high:g}]")
        if self.square and self.knots:
            raise DataError("expected square or knots, got both")
        inside = all(low <= knot <= high for knot in self.knots)
        rising = all(a < b for a, b in pairwise(self.knots))
        if self.knots and not (len(self.knots) >= 3 and inside and rising):
            raise DataError(
                f"expected at least 3 rising knots within [{low:g}, {high:g}], got {list(self.knots)}"
            )
        _check_words(self.missing, "missing")


class Category(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="category"):
    """One of several words, each but the reference with a column of its own; the first is the reference by default.

    missing, when_missing: see `Number`; a flag is one more level. Raises `DataError`.
    """

    levels: Levels
    reference: str = ""
    missing: tuple[str, ...] = ()
    when_missing: WhenMissing = "flag"

    def __post_init__(self) -> None:
        _check_levels(self.levels, self.missing)
        if self.reference and self.reference not in self.levels:
            raise DataError(f"expected one of the levels as reference, got {self.reference!r}")

    @property
    def base(self) -> str:
        """The level that the others are compared with."""
        return self.reference or next(iter(self.levels))


class YesNo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="yes/no"):
    """One column, 1 for yes. yes, no: the cells that mean it. missing, when_missing: see `Number`."""

    yes: tuple[str, ...] = ("yes",)
    no: tuple[str, ...] = ("no",)
    missing: tuple[str, ...] = ()
    when_missing: WhenMissing = "flag"

    def __post_init__(self) -> None:
        _check_levels(self.levels, self.missing)

    @property
    def levels(self) -> dict[str, tuple[str, ...]]:
        """The cells of no and yes, in this order."""
        return {"no": self.no, "yes": self.yes}


class Ordinal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="ordinal"):
    """At least three words in an order, coded as equal steps. missing, when_missing: see `Number`.

    Two words are a category, of which disclosure control knows that one word can single a row out. Raises `DataError`.
    """

    levels: Levels
    missing: tuple[str, ...] = ()
    when_missing: WhenMissing = "flag"

    def __post_init__(self) -> None:
        _check_levels(self.levels, self.missing)
        if len(self.levels) == 2:
            raise DataError(
                f"expected at least three levels of an ordinal, got {list(self.levels)}: declare it a category"
            )


Kind = Number | Category | YesNo | Ordinal


class Classes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="classes"):
    """The outcome is one of several words. Rows whose cell is among `missing` are left out. Raises `DataError`."""

    column: str
    classes: Levels
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_levels(self.classes, self.missing)


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="number"):
    """The outcome is a number within a public range, in a unit. missing: see `Classes`. Raises `DataError`."""

    column: str
    range: tuple[float, float]
    unit: str = ""
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        Number(self.range, self.unit, missing=self.missing)


class Weights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A column that says how much a row counts, above 0 and up to `largest`. Raises `DataError`."""

    column: str
    largest: float

    def __post_init__(self) -> None:
        if not 0 < self.largest < math.inf:
            raise DataError(f"expected the largest weight above 0, got {self.largest}")


class Codebook(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See the module. site: in a simulation, the column that names each row's site. least_rows: each site codes levels
    that fewer of its rows have as other levels before anything leaves (`secure_afl.tables.disclosure`); 1 is off. held_out: a
    condition, as `filter`, for rows to test the model on; empty is none.

    Raises `DataError`.
    """

    columns: dict[str, Kind]
    outcome: Classes | Target
    site: str = ""
    filter: str = ""
    weights: Weights | None = None
    products: tuple[tuple[str, ...], ...] = ()
    least_rows: int = LEAST_ROWS
    held_out: str = ""

    def __post_init__(self) -> None:
        if self.least_rows < 1:
            raise DataError(f"expected least_rows of 1 (off) or more, got {self.least_rows}")
        if not self.columns:
            raise DataError("expected at least one column to learn from, got none")
        other = [one for one in (self.site, self.weights and self.weights.column) if one]
        others = [self.outcome.column, *other]
        if twice := sorted({one for one in others if one in self.columns or others.count(one) > 1}):
            raise DataError(f"expected {twice[0]!r} for one purpose, got it for two")
        for product in self.products:
            if len(product) < 2 or len(set(product)) < len(product) or not set(product) <= set(self.columns):
                raise DataError(
                    f"expected a product of at least two different columns, got {list(product)}; a column "
                    "with itself is square = true"
                )
        if len({frozenset(product) for product in self.products}) < len(self.products):
            raise DataError("expected every product once")
        _ = self.condition, self.marks

    @property
    def condition(self) -> row_filter.Condition | None:
        """The filter, read; None for all rows. Raises `DataError`."""
        return row_filter.parse(self.filter) if self.filter else None

    @property
    def marks(self) -> row_filter.Condition | None:
        """The condition for held-out rows, read; None for none. Raises `DataError`."""
        return row_filter.parse(self.held_out) if self.held_out else None

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of the outcome; empty for a number."""
        return tuple(self.outcome.classes) if isinstance(self.outcome, Classes) else ()

    @property
    def digest(self) -> str:
        """SHA-256 of what the codebook says, 64 hexadecimal digits; comments and layout of a file do not count."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def text(self) -> str:
        """The codebook as JSON, always the same for the same codebook; `from_text` reads it."""
        # Without what an earlier version did not know, where it is not used: digests stay.
        said = {name: one for name, one in msgspec.structs.asdict(self).items() if one or name != "held_out"}
        return msgspec.json.encode(said).decode()


def from_text(text: str) -> Codebook:
    """The codebook in `Codebook.text`. Raises `DataError`."""
    try:
        return msgspec.json.decode(text, type=Codebook)
    except msgspec.MsgspecError as error:
        raise DataError(f"expected a codebook: {error}") from None


def convert(table: Mapping[str, Any]) -> Codebook:
    """The codebook in a TOML table. Raises `DataError` that names the part at fault."""
    try:
        return msgspec.convert(table, Codebook)
    except msgspec.ValidationError as error:
        columns = table.get("columns")
        for name, kind in (columns if isinstance(columns, dict) else {}).items():
            try:
                msgspec.convert(kind, Kind)
            except msgspec.ValidationError as fault:
                raise DataError(f"columns.{name}: {fault}") from None
        raise DataError(str(error)) from None


def parse(content: str) -> Codebook:
    """The codebook in the text of a TOML file. Raises `FileError`."""
    try:
        document = whole.load_toml(content)
        whole.check_printable(document)
        return convert(document)
    except DataError as error:
        raise FileError(str(error)) from None


def read(path: Path) -> Codebook:
    """The codebook in a file. Raises `FileError`."""
    return whole.read_parsed(path, parse)


def spellings(levels: Levels) -> dict[str, tuple[str, ...]]:
    """The cells that mean each word."""
    return levels if isinstance(levels, dict) else {level: (level,) for level in levels}


def _check_words(words: Sequence[str], what: str) -> None:
    if len(set(words)) < len(words) or any(word != word.strip() for word in words):
        raise DataError(
            f"expected different words without white space around them as {what}, got {list(words)}"
        )


def _check_levels(levels: Levels, missing: Sequence[str]) -> None:
    _check_words(missing, "missing")
    cells = [cell for one in spellings(levels).values() for cell in one]
    _check_words(cells, "levels")
    if len(levels) < 2 or not all(spellings(levels).values()) or "" in levels:
        raise DataError(
            f"expected at least two named levels, each with a cell that means it, got {list(levels)}"
        )
    if both := sorted(set(cells) & set(missing)):
        raise DataError(f"expected {both[0]!r} as a level or as missing, got it as both")
