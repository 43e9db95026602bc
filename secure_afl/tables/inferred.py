"""What the columns of a table are where no codebook says so: a simulation's guess, which refuses whatever is in doubt.

A column is numbers or words in all of its rows. Words that stand for a missing value, words that look like numbers,
and numbers that look like codes are refused; a codebook can say what they mean.
"""

import re

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from secure_afl.errors import DataError
from secure_afl.tables.cells import Cells, Floats, Ints, Mask, distinct, is_any, matching, to_levels
from secure_afl.tables.faults import DECLARE, Fault, refuse, unreadable

MISSING = (
    *("", "?", "-", "--", ".", "..", "na", "n/a", "n.a.", "#n/a", "nan", "null", "nil"),
    *("missing", "not available", "not recorded"),
)
"""Texts, in lower case, that often stand for a missing value."""

_MOST_LEVELS = 64  # more different words than this in one column look like names or identifiers
_MOST_CLASSES = 20  # more different whole numbers than this look like something measured, where rows are few
_ROWS_PER_CLASS = 10
_LARGEST = 1e300  # no power of two above it overflows


def column(cells: Cells, name: str) -> tuple[float, float] | tuple[str, ...]:
    """The range of a column of numbers, or the sorted levels of a column of words. Raises `TableError`, `DataError`."""
    numbers = cells.numbers(name)
    words = np.isnan(numbers)
    refuse(cells.source, _missing(cells, name, words) or _mixed(cells, name, words))
    if not words.any():
        refuse(cells.source, _odd_numbers(cells, name, numbers))
        return float(numbers.min()), float(numbers.max())
    refuse(cells.source, _like_numbers(cells, name))
    levels = tuple(distinct(cells.column(name)))
    if len(levels) > _MOST_LEVELS:
        raise DataError(
            f"{cells.source}, column {name!r}: {len(levels)} different words, it looks like an identifier: leave it "
            "out, or declare it in a codebook"
        )
    return levels


def labels(cells: Cells, name: str) -> tuple[Ints, tuple[str, ...]]:
    """Each row's class, and the classes: words, or whole numbers in their order. Raises `TableError`, `DataError`."""
    text = cells.column(name)
    numbers = cells.numbers(name)
    words = np.isnan(numbers)
    refuse(cells.source, _missing(cells, name, words) or _mixed(cells, name, words))
    if words.any():
        refuse(cells.source, _like_numbers(cells, name))
        classes = tuple(distinct(text))
        return to_levels(text, classes), classes
    whole = (numbers == np.rint(numbers)) & (np.abs(numbers) < 2**53)
    measured = "a number to predict, and no class, is declared as outcome in a codebook (--codebook)"
    refuse(cells.source, cells.faults(name, ~whole, "a word or a whole number as label", measured))
    values, places = np.unique(numbers, return_inverse=True)
    if len(values) > max(_MOST_CLASSES, cells.rows / _ROWS_PER_CLASS):
        raise DataError(
            f"{cells.source}, column {name!r}: {len(values)} different labels in {cells.rows} rows; {measured}"
        )
    return places.astype(np.int64), tuple(str(int(value)) for value in values)


def sites(cells: Cells, name: str, longest: int) -> npt.NDArray[np.str_]:
    """Who holds each row, as it is written. longest: letters of a name. Raises `TableError`."""
    text = cells.column(name)
    long = np.array([len(cell) > longest or not cell.isprintable() for cell in distinct(text)])
    names = np.array(list(distinct(text)))
    refuse(
        cells.source,
        _missing(cells, name, np.isnan(cells.numbers(name)))
        or cells.faults(
            name,
            is_any(text, names[long].tolist()),
            f"a printable name of at most {longest} letters",
            "shorten the name of the site",
        ),
    )
    return np.asarray(text.to_numpy(), dtype=np.str_)


def _missing(cells: Cells, name: str, words: Mask) -> list[Fault]:
    """Cells that may stand for a missing value; words: those that are no numbers."""
    if not words.any():
        return []
    texts = [text for text in distinct(cells.column(name).filter(pa.array(words))) if text.lower() in MISSING]
    remedy = "complete or remove these rows, or say in a codebook what means missing (--codebook)"
    return cells.faults(name, is_any(cells.column(name), texts), "a value in every row", remedy)


def _mixed(cells: Cells, name: str, words: Mask) -> list[Fault]:
    """The fewer ones of a column that has numbers and words."""
    if words.all() or not words.any():
        return []
    few, expected = (words, "a finite number") if words.sum() * 2 <= len(words) else (~words, "a word")
    return cells.faults(name, few, f"{expected} as in the other rows", unreadable)


def _like_numbers(cells: Cells, name: str) -> list[Fault]:
    """Words that are numbers to a reader: 45%, 1,045, 12/05/2020, 54 kg in every row."""
    text = cells.column(name)
    wrong = matching(text, r"^[^\pL]*[0-9][^\pL]*$")
    units = {re.sub(r"^[^\w]*[0-9][0-9.,' ]*", "", word) for word in distinct(text)}
    if len(units) == 1 and matching(text, "^[^\\pL]*[0-9]").all():
        wrong[:] = True
    return cells.faults(name, wrong, "a number or a word", unreadable)


def _odd_numbers(cells: Cells, name: str, numbers: Floats) -> list[Fault]:
    """Numbers that are too large, look like codes, or stand for a missing value."""
    large = cells.faults(name, np.abs(numbers) > _LARGEST, f"a number up to {_LARGEST:g}")
    zeros = matching(cells.column(name), "^[+-]?0[0-9]")
    codes = cells.faults(name, zeros, "a number without zeros before it", f"it looks like a code: {DECLARE}")
    marks = np.isin(numbers, likely_marks(numbers))
    remedy = f"it looks like a mark for a missing value: {DECLARE}"
    return large or codes or cells.faults(name, marks, "a number near the others", remedy)


def likely_marks(numbers: Floats) -> list[float]:
    """The ends of a column of numbers that look like marks for a missing value: 99, -999, … far from the others."""
    if not numbers.size:
        return []
    low, high = float(numbers.min()), float(numbers.max())
    between = numbers[(low < numbers) & (numbers < high)]
    if not between.size:
        return []
    least, most = float(between.min()), float(between.max())
    marks = []
    if _marks_missing(-low) and ((low < 0 <= least) or least - low > high - least):
        marks.append(low)
    if _marks_missing(high) and high >= 10 and high - most > most - low:
        marks.append(high)
    return marks


def _marks_missing(value: float) -> bool:
    """Whether a number is often written for "not recorded": 9, 99, 999, …, or the largest of an integer type."""
    return value in (32767, 32768, 2**31 - 1, 2**31) or bool(re.fullmatch("9+", f"{value:g}"))
