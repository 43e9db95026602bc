"""Table 1 of a paper, out of one sum of a table's rows: means and deviations, shares of levels, missing shares."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

from secure_afl.analytic.description import suppressed
from secure_afl.analytic.moments import Moments
from secure_afl.errors import DataError
from secure_afl.tables.codebook import Category, Codebook, YesNo
from secure_afl.tables.terms import Term, terms


@dataclass(frozen=True)
class Line:
    """One column. mean, deviation: of the known values, over n − 1, in `unit`; None for levels. levels: the share of all
    rows, None where it is suppressed; empty for numbers. missing: the share of all rows, None where it is suppressed.
    """

    name: str
    unit: str
    mean: float | None
    deviation: float | None
    levels: dict[str, float | None]
    missing: float | None


@dataclass(frozen=True)
class TableOne:
    """rows: that are in the sum. least_rows: no share stands for fewer rows, or for all but fewer."""

    rows: int
    lines: tuple[Line, ...]
    least_rows: int

    def figures(self) -> dict[str, Any]:
        """The table for a JSON file."""
        return asdict(self)


def table_one(codebook: Codebook, moments: Moments, least_rows: int) -> TableOne:
    """moments: of the features of `codebook`, each within [−1, 1]. Products of columns have no line.

    Raises `DataError` for weighted rows, as shares count rows, and for moments of other features.
    """
    of = terms(codebook)
    if moments.weighted:
        raise DataError("expected rows without weights: a Table 1 counts rows")
    if len(of) != len(moments.mean):
        raise DataError(f"expected moments of {len(of)} features, got {len(moments.mean)}")
    places = {term.name: at for at, term in enumerate(of)}
    lines = []
    for name, kind in codebook.columns.items():
        flag = places.get(f"{name} missing")
        missing = 0 if flag is None else _count(moments, flag)
        if isinstance(kind, Category | YesNo):
            base = kind.base if isinstance(kind, Category) else "no"
            counts = {
                level: _count(moments, places[f"{name} = {level}" if isinstance(kind, Category) else name])
                for level in kind.levels
                if level != base
            }
            counts[base] = moments.rows - missing - sum(counts.values())
            shares = _shares([*(counts[level] for level in kind.levels), missing], moments.rows, least_rows)
            levels = dict(zip(kind.levels, shares, strict=False))
            lines.append(Line(name, "", None, None, levels, shares[-1]))
        else:
            first = next(at for at, term in enumerate(of) if term.columns == (name,))
            mean, deviation = _known(moments, first, of[first], missing)
            (share, _) = _shares([missing, moments.rows - missing], moments.rows, least_rows)
            lines.append(Line(of[first].name, of[first].unit, mean, deviation, {}, share))
    return TableOne(moments.rows, tuple(lines), least_rows)


def _count(moments: Moments, at: int) -> int:
    """Rows with a 1 in a column of zeros and ones."""
    return round(moments.rows * float(moments.mean[at]))


def _known(moments: Moments, at: int, term: Term, missing: int) -> tuple[float | None, float | None]:
    """Mean and standard deviation of the raw values that are known; a missing value is 0 as a feature."""
    known = moments.rows - missing
    if known < 1:
        return None, None
    total = moments.rows * float(moments.mean[at])
    squares = float(moments.scatter[at, at]) + total * float(moments.mean[at])
    mean = total / known
    variance = max(squares - known * mean**2, 0.0) / (known - 1) if known > 1 else 0.0
    return term.middle + term.half * mean, term.half * sqrt(variance)


def _shares(counts: Sequence[int], rows: int, least_rows: int) -> list[float | None]:
    gone = suppressed(list(counts), [rows] * len(counts), least_rows)
    return [None if hide else count / rows for hide, count in zip(gone, counts, strict=True)]
