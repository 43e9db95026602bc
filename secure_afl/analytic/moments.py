"""Means and covariances of pooled rows in the columns' own units, out of one sum of statistics.

Everything that a paper says of a table without asking for single rows follows from them: its description (`describe`),
least squares with standard errors (`inference`), ridge paths (`path`), principal components (`components`) and linear
discriminants (`discriminants`). No further sum is needed, so nothing else leaves a site.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from secure_afl.analytic.standardised import certainty
from secure_afl.analytic.statistics import Matrix, SufficientStatistics
from secure_afl.errors import DataError


@dataclass(frozen=True, eq=False)
class Scaling:
    """How columns were agreed to be written in a sum: a value x as (x − centre)·2^−exponent. Each of shape (columns,)."""

    centre: npt.NDArray[np.float64]
    exponent: npt.NDArray[np.int64]

    @classmethod
    def none(cls, columns: int) -> "Scaling":
        """Columns as they are."""
        return cls(np.zeros(columns), np.zeros(columns, dtype=np.int64))

    def scaled(self, values: Matrix) -> Matrix:
        """Values (rows, columns) as they are summed."""
        moved = values - self.centre
        return np.asarray(np.ldexp(moved, -self.exponent, out=moved))  # a long table has one copy


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of pooled rows of features X (d columns) and targets Y (c columns).

    features, outputs: names of the columns; rows: their number; weight: the sum of their weights, else their number.
    mean (d,), scatter (d, d): Σ w(x − mean)(x − mean)ᵀ; target_mean (c,), target_scatter (c, c), cross (d, c) likewise.
    constant: numbers of features that cannot be told from constants; their scatter is 0. weighted: whether rows have
    weights. doubt: bound on the spectral norm of the error of `correlation`, by fixed point and float64.
    """

    features: tuple[str, ...]
    outputs: tuple[str, ...]
    rows: int
    weight: float
    mean: Matrix
    scatter: Matrix
    cross: Matrix
    target_mean: Matrix
    target_scatter: Matrix
    constant: tuple[int, ...] = ()
    weighted: bool = False
    doubt: float = 0.0

    @classmethod
    def of(
        cls,
        statistics: SufficientStatistics,
        columns: Scaling,
        targets: Scaling,
        *,
        features: Sequence[str] = (),
        outputs: Sequence[str] = (),
        entry_error: float = 0.0,
        column: float = 1.0,
        weighted: bool = False,
        indicators: Sequence[int] = (),
    ) -> "Moments":
        """From statistics of rows with a column of ones (or of roots of weights) in front.

        entry_error, column, weighted, indicators: see `secure_afl.analytic.standardised.solve_standardised`. Names are numbers from 1
        where they are not given.
        Raises DataError for statistics without squares or names of another number, SolveError as `certainty` does.
        """
        G, C, T = statistics.gram, statistics.cross, statistics.squares
        d, c = len(G) - 1, C.shape[1]
        if T is None:
            raise DataError("expected statistics with YᵀY, got some without: fit without privacy")
        names, targets_names = _names(features, d, "features"), _names(outputs, c, "outputs")
        sure = certainty(
            statistics,
            entry_error=entry_error,
            column=column,
            weighted=weighted,
            names=features,
            indicators=indicators,
        )
        weight = sure.weight
        sums, mean, target_mean = G[0, 1:], G[0, 1:] / weight, C[0] / weight
        scatter = G[1:, 1:] - np.outer(mean, sums)
        cross = C[1:] - np.outer(mean, C[0])
        target_scatter = T - np.outer(target_mean, C[0])
        flat = [j - 1 for j in sure.constant]
        scatter[flat], scatter[:, flat], cross[flat] = 0.0, 0.0, 0.0
        up, over = columns.exponent, targets.exponent
        return cls(
            names,
            targets_names,
            statistics.count,
            weight,
            columns.centre + np.ldexp(mean, up),
            np.ldexp((scatter + scatter.T) / 2, up[:, None] + up),
            np.ldexp(cross, up[:, None] + over),
            targets.centre + np.ldexp(target_mean, over),
            np.ldexp((target_scatter + target_scatter.T) / 2, over[:, None] + over),
            tuple(flat),
            weighted,
            sure.loss / weight,
        )

    @property
    def used(self) -> list[int]:
        """The features that are not constant."""
        return [j for j in range(len(self.mean)) if j not in self.constant]

    @property
    def correlation(self) -> Matrix:
        """Correlation matrix of the features that are `used`."""
        inside = np.ix_(self.used, self.used)
        deviations = np.sqrt(self.scatter.diagonal()[self.used])
        return np.asarray(self.scatter[inside] / deviations / deviations[:, None])


def _names(given: Sequence[str], number: int, what: str) -> tuple[str, ...]:
    if given and len(given) != number:
        raise DataError(f"expected {number} names of {what}, got {len(given)}")
    return tuple(given) or tuple(str(at + 1) for at in range(number))
