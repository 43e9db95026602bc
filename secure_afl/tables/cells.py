"""A table as it was written: every cell is text until somebody says what it means."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from secure_afl.crypto.errors import optional
from secure_afl.errors import DataError
from secure_afl.tables.faults import Fault, Remedy, enumerated

with optional():
    import pyarrow as pa
    import pyarrow.compute as pc

Column = Any  # a pyarrow.ChunkedArray of strings, without nulls
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of a table, by column, as text without white space around it.

    source: what errors call the table. form: how it was written, for people. decimal: the sign in its numbers.
    """

    source: str
    columns: Mapping[str, Column]
    rows: int
    form: str
    decimal: str = "."

    def column(self, name: str) -> Column:
        """The cells of a column. Raises `DataError` if there is none of that name."""
        if name not in self.columns:
            there = enumerated(map(repr, self.columns), 12)
            raise DataError(f"{self.source}: expected a column {name!r}, there are {there}")
        return self.columns[name]

    def numbers(self, name: str) -> Floats:
        """A column as float64; NaN where a cell is no finite number. See `to_numbers`."""
        return to_numbers(self.column(name), self.decimal)

    def faults(self, name: str, wrong: Mask, expected: str, remedy: Remedy = "") -> list[Fault]:
        """The fault of the cells at `wrong` (rows,), if any. remedy: or what makes it, of the offending texts."""
        rows = np.flatnonzero(wrong)
        if not rows.size:
            return []
        cells: dict[str, list[int]] = {}
        for row, cell in zip(rows.tolist(), self.column(name).take(pa.array(rows)).to_pylist(), strict=True):
            cells.setdefault(cell, []).append(row + 1)
        return [Fault(name, cells, expected, remedy if isinstance(remedy, str) else remedy(list(cells)))]


def made(
    name: str, header: Sequence[str], columns: list[Column], rows: int, form: str, decimal: str
) -> Cells:
    """The cells under a header. Takes `columns` (text) apart. Raises `DataError` for a header that does not name each."""
    names = [one.strip() for one in header]
    if empty := [str(at) for at, one in enumerate(names, 1) if not one]:
        remedy = "merged cells, or a title above the names, leave such gaps: remove the rows above the names"
        if empty == ["1"]:
            remedy = (
                "a first column without a name is often the index of a data frame: write the file without it"
            )
        elif empty == [str(len(names))]:
            remedy = "a separator at the end of every line makes such a column: remove it"
        raise DataError(
            f"{name}: expected a name for every column, the header has none for column {enumerated(empty)}; {remedy}"
        )
    if twice := sorted({one for one in names if names.count(one) > 1}):
        raise DataError(
            f"{name}: expected a name of its own for every column, the header has {enumerated(map(repr, twice))} "
            "more than once; rename or remove one of them"
        )
    cells: dict[str, Column] = {}
    for at, one in enumerate(names):
        cells[one] = pc.utf8_trim_whitespace(columns[at])
        columns[at] = None  # of a long table text is stored once
    return Cells(name, cells, rows, form, decimal)


_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"


def to_numbers(column: Column, decimal: str = ".") -> Floats:
    """Text as float64, correctly rounded; NaN for whatever is no finite decimal number, which words like inf are."""
    if decimal != ".":
        pointed = pc.match_substring(column, ".")
        column = pc.if_else(pointed, "", pc.replace_substring(column, decimal, "."))
    try:
        values = pc.cast(column, pa.float64())
    except pa.ArrowInvalid:  # at least one cell is something else
        good = pc.match_substring_regex(column, _NUMBER)
        values = pc.cast(pc.if_else(good, column, pa.scalar(None, pa.string())), pa.float64())
    numbers = np.asarray(values.to_numpy(), dtype=np.float64).copy()
    numbers[~np.isfinite(numbers)] = np.nan
    return numbers


def to_levels(column: Column, levels: Sequence[str]) -> Ints:
    """Text as places in `levels`; -1 for other texts."""
    places = pc.fill_null(pc.index_in(column, value_set=pa.array(levels, pa.string())), -1)
    return np.asarray(places.to_numpy(), dtype=np.int64)


def is_any(column: Column, words: Sequence[str]) -> Mask:
    """Where a cell is one of these texts."""
    return np.asarray(pc.is_in(column, value_set=pa.array(words, pa.string())).to_numpy(), dtype=np.bool_)


def matching(column: Column, pattern: str) -> Mask:
    """Where a cell matches a regular expression (RE2)."""
    return np.asarray(pc.match_substring_regex(column, pattern).to_numpy(), dtype=np.bool_)


def distinct(column: Column) -> dict[str, int]:
    """Every text of a column and how often it occurs, sorted by text."""
    counts = pc.value_counts(column)
    pairs = zip(counts.field(0).to_pylist(), counts.field(1).to_pylist(), strict=True)
    return dict(sorted(pairs))


def is_number(text: str) -> bool:
    """Whether one text is a finite decimal number, in the grammar of `to_numbers`."""
    return bool(re.fullmatch(_NUMBER[1:-1], text, re.ASCII)) and bool(np.isfinite(float(text)))
