"""What the columns of a table are where no codebook says so: a simulation's guess, which refuses whatever is in doubt.

A column is numbers or words in all of its rows. Words that stand for a missing value, words that look like numbers,
and numbers that look like codes are refused; a codebook can say what they mean.
"""

import math
import re
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from secure_afl.crypto.errors import optional
from secure_afl.errors import DataError
from secure_afl.tables.cells import Cells, Floats, Ints, Mask, distinct, is_any, matching
from secure_afl.tables.codebook import Category, Classes, Codebook, Kind, Levels, Number
from secure_afl.tables.faults import DECLARE, Fault, enumerated, refuse, unreadable

with optional():
    import pyarrow as pa
    import pyarrow.compute as pc

MISSING = (
    *("", "?", "-", "--", ".", "..", "na", "n/a", "n.a.", "#n/a", "nan", "null", "nil"),
    *("missing", "not available", "not recorded"),
)
"""Texts, in lower case, that often stand for a missing value."""

_MOST_LEVELS = 64  # more different words than this in one column look like names or identifiers
_MOST_CLASSES = 20  # more different whole numbers than this look like something measured, where rows are few
_ROWS_PER_CLASS = 10
_MEANT = "write them alike, or say in a codebook which cells mean the same (--codebook)"
_MOST_LETTERS = 100  # a longer word looks like free text
_FEW_ROWS = 20  # of fewer, numbers that follow one another may mean something
_MANY = 12  # different numbers, of which those from -8 to -1 look like marks if they alone are below 0
_LEAVE = "leave it out, or declare it in a codebook (--codebook)"
_COMPLETE = "complete or remove these rows, or say in a codebook what means missing (--codebook)"
_HEAD = 1000
_LARGEST = 1e300  # no power of two above it overflows


def codebook(cells: Cells, label: str, leave: Sequence[str] = ()) -> tuple[Codebook, dict[str, str]]:
    """A codebook out of the rows: ranges are powers of two around them, levels those that occur. And what each column
    holds, for people; one that is not in the codebook has the same word in every row. leave: columns to leave out.

    Raises `TableError` with all cells that are in doubt, `DataError`.
    """
    outcome, faults = _classes(cells, label)
    kinds: dict[str, Kind] = {}
    seen: dict[str, str] = {}
    for name in cells.columns:
        if name in (label, *leave):
            continue
        kind, values, found = _kind(cells, name)
        faults += found
        if found:
            continue
        seen[name] = values
        if kind:
            kinds[name] = kind
            if tells(cells, name, label):
                seen[name] += " (tells the label)"
    refuse(cells.source, faults)
    if not kinds:
        there = enumerated(map(repr, cells.columns), 12)
        raise DataError(
            f"{cells.source}: expected columns to learn from besides the label, there are {there}"
        )
    assert outcome is not None
    return Codebook(kinds, outcome), seen


def _kind(cells: Cells, name: str) -> tuple[Number | Category | None, str, list[Fault]]:
    """A column's kind, None if every row has the same word; and its values, for people. Raises `DataError`."""
    numbers = cells.numbers(name)
    words = np.isnan(numbers)
    if not words.any():
        low, high = float(numbers.min()), float(numbers.max())
        reach = _power(max(-low, high))
        if why := identifies(cells, name, numbers, _FEW_ROWS):
            raise DataError(f"{cells.source}, column {name!r}: {why}: {_LEAVE}")
        if faults := _odd_numbers(cells, name, numbers):
            return None, "", faults
        return Number((-reach, reach)), f"{low:g} to {high:g}", []
    if faults := _missing(cells, name, words) or _mixed(cells, name, words) or _like_numbers(cells, name):
        return None, "", faults
    levels = tuple(distinct(cells.column(name)))
    if faults := _alike(cells, name, levels):
        return None, "", faults
    if why := no_levels(levels):
        raise DataError(f"{cells.source}, column {name!r}: {why}: {_LEAVE}")
    if len(levels) == 1:
        return None, f"{levels[0]!r} in every row", []
    return Category(levels), ", ".join(levels), []


def _classes(cells: Cells, name: str) -> tuple[Classes | None, list[Fault]]:
    """The labels: words, or whole numbers in their order; None with faults. Raises `DataError`."""
    text = cells.column(name)
    numbers = cells.numbers(name)
    words = np.isnan(numbers)
    if faults := _missing(cells, name, words) or _mixed(cells, name, words):
        return None, faults
    measured = "a number to predict, and no class, is declared as outcome in a codebook (--codebook)"
    if words.any():
        classes: Levels = tuple(distinct(text))
        faults = _like_numbers(cells, name) or _alike(cells, name, tuple(classes))
    else:
        whole = (numbers == np.rint(numbers)) & (np.abs(numbers) < 2**53)
        faults = cells.faults(name, ~whole, "a word or a whole number as label", measured)
        values = np.unique(numbers)
        if not faults and len(values) > max(_MOST_CLASSES, cells.rows / _ROWS_PER_CLASS):
            raise DataError(
                f"{cells.source}, column {name!r}: {len(values)} different labels in {cells.rows} rows; {measured}"
            )
        written: dict[float, list[str]] = {}
        for cell in distinct(text):
            written.setdefault(float(cell), []).append(cell)
        classes = {f"{value:.0f}": tuple(written[value]) for value in values.tolist()}
    if faults:
        return None, faults
    if len(classes) < 2:
        raise DataError(f"{cells.source}: every row has the label {next(iter(classes))!r}: nothing to learn")
    return Classes(name, classes), []


def tells(cells: Cells, name: str, label: str) -> bool:
    """Whether each label has a value of its own in this column, so that nothing is left to learn."""
    both = pa.table([cells.column(name), cells.column(label)], ["column", "label"])
    for rows in (both.slice(0, _HEAD), both):  # the first rows tell most columns of a long table apart
        pairs = rows.group_by(["column", "label"]).aggregate([]).num_rows
        if not pairs == pc.count_distinct(rows[0]).as_py() == pc.count_distinct(rows[1]).as_py():
            return False
    return bool(pairs > 1)


def _power(value: float) -> float:
    """The smallest power of two that is no smaller, or 1 for 0: dividing by it costs no digit."""
    fraction, exponent = math.frexp(value)
    return math.ldexp(1.0, exponent - (fraction == 0.5)) if value else 1.0


def sites(cells: Cells, name: str, longest: int, used: Ints) -> npt.NDArray[np.str_]:
    """Who holds each of the rows `used` (their numbers, from 1), as it is written. longest: letters of a name. Raises
    `TableError`.
    """
    text, use = cells.column(name), np.zeros(cells.rows, np.bool_)
    use[used - 1] = True
    there = distinct(text.filter(pa.array(use)))
    long = np.array([len(cell) > longest or not cell.isprintable() for cell in there], np.bool_)
    names = np.array(list(there))
    unnamed = f"name the site, or leave such rows out by the codebook's filter: not ({name} is missing)"
    refuse(
        cells.source,
        _missing(cells, name, use & np.isnan(cells.numbers(name)), unnamed)
        or _alike(cells, name, names.tolist(), "write the name of a site alike in all its rows")
        or cells.faults(
            name,
            use & is_any(text, names[long].tolist()),
            f"a printable name of at most {longest} letters",
            "shorten the name of the site",
        ),
    )
    return np.asarray(text.to_numpy(), dtype=np.str_)[use]


def _missing(cells: Cells, name: str, words: Mask, remedy: str = _COMPLETE) -> list[Fault]:
    """Cells that may stand for a missing value; words: those that are no numbers."""
    if not words.any():
        return []
    texts = [text for text in distinct(cells.column(name).filter(pa.array(words))) if text.lower() in MISSING]
    return cells.faults(name, words & is_any(cells.column(name), texts), "a value in every row", remedy)


def _mixed(cells: Cells, name: str, words: Mask) -> list[Fault]:
    """The fewer ones of a column that has numbers and words."""
    if words.all() or not words.any():
        return []
    few, expected = (words, "a finite number") if words.sum() * 2 <= len(words) else (~words, "a word")
    return cells.faults(name, few, f"{expected} as in the other rows", unreadable)


def _like_numbers(cells: Cells, name: str) -> list[Fault]:
    """Words that are numbers to a reader: 45%, 1,045, 12/05/2020, 54 kg in every row."""
    text = cells.column(name)
    wrong = matching(text, r"^[^\pL]*\pN[^\pL]*$")
    units = {re.sub(r"^[^\w]*[0-9][0-9.,' ]*", "", word) for word in distinct(text)}
    if len(units) == 1 and matching(text, "^[^\\pL]*[0-9]").all():
        wrong[:] = True
    return cells.faults(name, wrong, "a number or a word", unreadable)


def _alike(cells: Cells, name: str, words: Sequence[str], remedy: str = _MEANT) -> list[Fault]:
    """Words of which another one differs in upper and lower case, or blanks, alone: F and f, North and NORTH."""
    alike: dict[str, list[str]] = {}
    for word in words:
        alike.setdefault("".join(word.casefold().split()), []).append(word)
    odd = [word for same in alike.values() if len(same) > 1 for word in same]
    return cells.faults(name, is_any(cells.column(name), odd), "one way of writing each word", remedy)


def _odd_numbers(cells: Cells, name: str, numbers: Floats) -> list[Fault]:
    """Numbers that are too large, look like codes, or stand for a missing value."""
    large = cells.faults(name, np.abs(numbers) > _LARGEST, f"a number up to {_LARGEST:g}")
    zeros = matching(cells.column(name), "^[+-]?0[0-9]")
    codes = cells.faults(name, zeros, "a number without zeros before it", f"it looks like a code: {DECLARE}")
    marks = np.isin(numbers, likely_marks(numbers))
    remedy = f"it looks like a mark for a missing value: {DECLARE}"
    return large or codes or cells.faults(name, marks, "a number near the others", remedy)


def no_levels(words: Sequence[str]) -> str:
    """Why different words are no levels of a category; empty if they may be."""
    if len(words) > _MOST_LEVELS:
        return f"{len(words)} different words, it looks like an identifier"
    longest = max(map(len, words))
    return f"a cell of {longest:,} letters, it looks like free text" if longest > _MOST_LETTERS else ""


def identifies(cells: Cells, name: str, numbers: Floats, least: int = 1) -> str:
    """Why numbers, one in every row, look like names of rows; empty if they do not. least: rows that can be numbered."""
    if np.abs(numbers).max() >= 1e15 and matching(cells.column(name), "^[+-]?[0-9]{16,}$").any():
        return "whole numbers of 16 digits or more, it looks like an identifier"
    numbered = np.ptp(numbers) + 1 == len(numbers) == len(np.unique(numbers))
    return "it numbers the rows" if numbered and len(numbers) >= least else ""


def likely_marks(numbers: Floats) -> list[float]:
    """The numbers at both ends of a column that look like marks for a missing value: -1, -999, 99, 888, … far from the others."""
    if not numbers.size or not any(
        _marks_missing(end, [0.0] * _MANY) for end in (-float(numbers.min()), float(numbers.max()))
    ):
        return []  # which a long column tells at once
    values = _ends(numbers)
    below = _marks(values, lambda mark, rest: mark < 0 <= rest[0] or rest[0] - mark > rest[-1] - rest[0])
    values = values[len(below) :]
    above = _marks(
        [-value for value in reversed(values)], lambda mark, rest: rest[0] - mark > rest[-1] - rest[0]
    )
    return [*below, *(-value for value in above if value <= -10)]


def _ends(numbers: Floats) -> list[float]:
    """The different numbers, rising; of a long column without most of those that lie between two that are no marks."""
    some = np.unique(numbers[:_HEAD]).tolist()
    rising, falling = (
        (one for one in of if not any(_marks_missing(sign * one, some) for sign in (-1, 1)))
        for of in (some, some[::-1])
    )
    low, high = next(rising, math.inf), next(falling, -math.inf)
    if sum(low < one < high for one in some) < _MANY:
        return [float(one) for one in np.unique(numbers)]
    outer = numbers[(numbers <= low) | (high <= numbers)]
    return [float(one) for one in np.unique([*some, *outer])]


def _marks(rising: list[float], far: Callable[[float, list[float]], bool]) -> list[float]:
    """The first numbers, if all are marks, and if the last of them is far from the rest, which are at least two."""
    looks = next((at for at, value in enumerate(rising) if not _marks_missing(-value, rising)), len(rising))
    for many in range(min(looks, len(rising) - 2), 0, -1):
        if far(rising[many - 1], rising[many:]):
            return rising[:many]
    return []


def _marks_missing(value: float, among: Sequence[float]) -> bool:
    """Whether a number is often written for "not recorded": 9, 99, 888, …, or the largest of an integer type; where many
    numbers differ, 1 to 8, too.
    """
    if value in (32767, 32768, 2**31 - 1, 2**31):
        return True
    return bool(re.fullmatch("9+|77+|88+" if len(among) < _MANY else "9+|7+|8+|[1-6]", f"{value:g}"))
