"""A personal model: the closed-form local objective of pFedACnnL (arXiv 2502.06915; our reconstruction).

    W_k = argmin ‖X_k W − Y_k‖² + μ_k‖W − W_g‖²  =  W_g + (X_kᵀX_k + μ_k I)⁻¹ X_kᵀ(Y_k − X_k W_g)

The client computes it from its own rows and from the model that all clients were sent. It sends nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import numpy.typing as npt
from scipy.linalg import svd

from secure_afl.analytic.statistics import Matrix
from secure_afl.errors import DataError

# μ in units of the mean squared length of a row; inf keeps the model that was sent.
MU_GRID = (*(10.0**exponent for exponent in np.arange(-6.0, 4.25, 0.5)), inf)
# μ for tables, in units of the client's number of rows. The common model has learned from the client's rows too, so
# leave-one-out flatters it, and a free choice would keep it nearly always: the grid ends where the common model counts
# three times as much as the rows (docs/experiments.md, "Personal models of tables").
TABLE_GRID = tuple(10.0**exponent for exponent in np.arange(-3.0, 0.75, 0.5))


@dataclass(frozen=True, eq=False)
class Adapted:
    """weights: (inputs, outputs) float64; mu: the pull towards the model that was sent, inf if it was kept;
    error: leave-one-out, the fraction of rows misclassified where labels are known, else the mean square.
    """

    weights: Matrix
    mu: float
    error: float


class Local:
    """One client's least squares around `anchor`, W_g; one decomposition of the rows, kept here, serves every μ.

    rows: (n, inputs), with the column of ones if the model has one; targets: (n, outputs); float64. unit: of μ; None is
    the mean squared length of a row. grid: what `choose` chooses from.
    Raises `DataError` for shapes that do not fit or values that are not finite.
    """

    def __init__(
        self,
        rows: Matrix,
        targets: Matrix,
        anchor: Matrix,
        *,
        unit: float | None = None,
        grid: Sequence[float] = MU_GRID,
    ) -> None:
        if rows.ndim != 2 or targets.ndim != 2 or anchor.shape != (rows.shape[1], targets.shape[1]):
            shapes = f"{rows.shape}, {targets.shape} and {anchor.shape}"
            raise DataError(f"expected rows (n, d), targets (n, c) and weights (d, c), got {shapes}")
        if not len(rows) or len(rows) != len(targets):
            raise DataError(
                f"expected as many targets as rows, at least one, got {len(rows)} and {len(targets)}"
            )
        if not all(np.isfinite(values).all() for values in (rows, targets, anchor)):
            raise DataError("expected finite rows, targets and weights")
        self._anchor, self._grid = anchor, grid
        self._targets = targets
        self._residual = targets - rows @ anchor
        self._left, self._singular, self._right = self.decomposition = svd(rows, full_matrices=False)
        self._projected = self._left.T @ self._residual
        self.unit = unit or float((self._singular**2).sum()) / len(rows) or 1.0

    def weights(self, mu: float) -> Matrix:
        """W_k for μ > 0 in its unit; inf gives W_g."""
        if mu == inf:
            return self._anchor
        s = self._singular
        pulled = (s / (s**2 + mu * self.unit))[:, None] * self._projected
        return np.asarray(self._anchor + self._right.T @ pulled)

    def left_out(self, mu: float) -> Matrix:
        """Each row's prediction (n, outputs) by the W_k of all *other* rows, W_g unchanged, in closed form.

        With K = XXᵀ and α = (K + μI)⁻¹(Y − XW_g): y_i less its prediction is α_i / ((K + μI)⁻¹)_ii.
        """
        if mu == inf:
            return self._targets - self._residual
        shrunk = self._singular**2 / (self._singular**2 + mu * self.unit)
        dual = self._residual - self._left @ (shrunk[:, None] * self._projected)
        inverse = 1.0 - self._left**2 @ shrunk
        return np.asarray(self._targets - dual / inverse[:, None])

    def choose(self, labels: npt.NDArray[np.int64] | None = None) -> Adapted:
        """The μ of the grid with the least leave-one-out error.

        labels: column of each row's class, (n,): the error is then misclassification, and the mean square
        decides between equals. Between equals in both, the larger μ: rather stay near what all have learnt.
        """
        found = []
        for mu in self._grid:
            left_out = self.left_out(mu)
            square = float(((self._targets - left_out) ** 2).mean())
            wrong = square if labels is None else float((left_out.argmax(axis=1) != labels).mean())
            found.append((wrong, square, -mu))
        error, _, mu = min(found)
        return Adapted(self.weights(-mu), -mu, error)


def adapted(
    rows: Matrix,
    targets: Matrix,
    weights: Matrix,
    means: Matrix,
    deviations: Matrix,
    roots: Matrix | None = None,
) -> Adapted:
    """A client's personal version of a common linear model, its μ out of `TABLE_GRID` by leave-one-out squared error.

    rows: the client's, (n, features), as they are summed; targets: (n, outputs); weights: the common model's,
    (1 + features, outputs), the intercept first; means, deviations: of the pooled columns, (features,), since μ pulls on
    the weights of standardised columns; a column of deviation 0 keeps its weight. roots: of the rows' weights, (n,).
    Raises `DataError` as `Local` does.
    """
    used = deviations > 0
    scale = np.where(used, deviations, 1.0)
    ones = np.ones(len(rows)) if roots is None else roots
    inputs = np.column_stack([ones, np.where(used, (rows - means) / scale, 0.0) * ones[:, None]])
    left = (targets - weights[0] - rows @ weights[1:]) * ones[:, None]
    change = Local(inputs, left, np.zeros(weights.shape), unit=len(rows), grid=TABLE_GRID).choose()
    slopes = change.weights[1:] / scale[:, None]
    own = weights + np.vstack([change.weights[:1] - means @ slopes, slopes])
    return Adapted(own, change.mu, change.error)
