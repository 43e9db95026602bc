"""What a paper's first table says of pooled rows: numbers, means, standard deviations and shares, by class."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from secure_afl.analytic.moments import Moments
from secure_afl.errors import DataError

_LEAST_ROWS = 5


@dataclass(frozen=True)
class Cell:
    """A number of rows and what it is a number of; None where it is suppressed."""

    count: int | None
    share: float | None


@dataclass(frozen=True)
class Line:
    """A column. mean, deviation: over n − 1, of all rows; by_class: the mean in each class, None where it is suppressed.

    A column of zeros and ones has cells instead: all, the rows with a one, and the same in each class.
    """

    name: str
    mean: float | None
    deviation: float | None
    by_class: tuple[float | None, ...]
    all: Cell | None = None
    cells: tuple[Cell, ...] = ()


@dataclass(frozen=True)
class Description:
    """rows: of the whole table; classes: names; class_rows: of each, None where suppressed; lines: one for each column.

    least_rows: no cell stands for fewer rows, or for all but fewer.
    """

    rows: int
    classes: tuple[str, ...]
    class_rows: tuple[int | None, ...]
    lines: tuple[Line, ...]
    least_rows: int


def describe(
    moments: Moments,
    *,
    classes: bool = False,
    binary: Collection[str] | None = None,
    least_rows: int = _LEAST_ROWS,
) -> Description:
    """Table 1 of pooled rows without weights.

    classes: whether targets are one-hot classes, which get a column each. binary: names of the columns of zeros and ones;
    None takes those whose values and squares have the same sum, which only zeros and ones do within [0, 1].
    least_rows: a cell of fewer rows, or that leaves fewer of its class, is suppressed, and where it is the only one of
    its line, so is the next smallest, from which it would follow.

    This hides small cells from readers; whoever holds the sum can compute them.
    Raises DataError for weighted rows or a least_rows that is not a positive integer.
    """
    if moments.weighted:
        raise DataError("expected rows without weights: a description counts rows")
    if type(least_rows) is not int or least_rows < 1:
        raise DataError(f"expected least_rows as an integer of at least 1, got {least_rows!r}")
    n = moments.rows
    sizes = [round(share * n) for share in moments.target_mean.tolist()] if classes else []
    hidden = suppressed(sizes, [n] * len(sizes), least_rows)
    lines = []
    for j, name in enumerate(moments.features):
        mean, scatter = float(moments.mean[j]), float(moments.scatter[j, j])
        # Σx² = Σx, but for rounding.
        flags = -1e-9 < mean < 1 + 1e-9 and abs(scatter / n + mean * (mean - 1)) < 1e-9
        deviation = float(np.sqrt(scatter / (n - 1))) if n > 1 else 0.0
        sums = [size * mean + float(cross) for size, cross in zip(sizes, moments.cross[j], strict=False)]
        if flags if binary is None else name in binary:
            ones = [round(value) for value in sums]
            total = round(n * mean)
            alone = 0 < total < least_rows or 0 < n - total < least_rows
            small = suppressed(ones, sizes, least_rows)
            lines.append(
                Line(
                    name,
                    None,
                    None,
                    (),
                    Cell(None, None) if alone else Cell(total, total / n),
                    tuple(
                        Cell(None, None) if gone or empty or alone or not size else Cell(one, one / size)
                        for one, size, gone, empty in zip(ones, sizes, small, hidden, strict=True)
                    ),
                )
            )
            continue
        few = n < least_rows
        means = tuple(
            None if empty or not size else value / size
            for value, size, empty in zip(sums, sizes, hidden, strict=True)
        )
        lines.append(Line(name, None if few else mean, None if few else deviation, means))
    return Description(
        n,
        moments.outputs if classes else (),
        tuple(None if gone else size for gone, size in zip(hidden, sizes, strict=True)),
        tuple(lines),
        least_rows,
    )


def suppressed(counts: list[int], sizes: list[int], least: int) -> list[bool]:
    """Which of the cells of a line are suppressed; never exactly one, as it would follow from the line's sum."""
    hidden = [
        0 < count < least or 0 < size - count < least for count, size in zip(counts, sizes, strict=True)
    ]
    if sum(hidden) == 1 and len(counts) > 1:
        others = [at for at in range(len(counts)) if not hidden[at]]
        hidden[min(others, key=lambda at: (counts[at] == 0, counts[at]))] = True
    return hidden
