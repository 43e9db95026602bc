"""A model of one's own: the closed-form local objective of pFedACnnL (arXiv 2502.06915; our reconstruction).

    W_k = argmin ‖X_k W − Y_k‖² + μ_k‖W − W_g‖²  =  W_g + (X_kᵀX_k + μ_k I)⁻¹ X_kᵀ(Y_k − X_k W_g)

Everything here happens on the client, with its own rows and the model that everybody was sent. Nothing is
returned to anybody.
"""

from dataclasses import dataclass
from math import inf

import numpy as np
import numpy.typing as npt
from scipy.linalg import svd

from secure_afl.analytic.statistics import Matrix
from secure_afl.errors import DataError

# μ in units of the mean squared length of a row; inf keeps the model that was sent.
MU_GRID = (*(10.0**exponent for exponent in np.arange(-6.0, 4.25, 0.5)), inf)


@dataclass(frozen=True, eq=False)
class Adapted:
    """weights: (inputs, outputs) float64; mu: the pull towards the model that was sent, inf if it was kept;
    error: leave-one-out, the fraction of rows misclassified where labels are known, else the mean square.
    """

    weights: Matrix
    mu: float
    error: float


class Local:
    """One client's least squares around `anchor`, W_g; one decomposition serves every μ.

    rows: (n, inputs), with the column of ones if the model has one; targets: (n, outputs); float64.
    Raises `DataError` for shapes that do not fit or values that are not finite.
    """

    def __init__(self, rows: Matrix, targets: Matrix, anchor: Matrix) -> None:
        if rows.ndim != 2 or targets.ndim != 2 or anchor.shape != (rows.shape[1], targets.shape[1]):
            shapes = f"{rows.shape}, {targets.shape} and {anchor.shape}"
            raise DataError(f"expected rows (n, d), targets (n, c) and weights (d, c), got {shapes}")
        if not len(rows) or len(rows) != len(targets):
            raise DataError(
                f"expected as many targets as rows, at least one, got {len(rows)} and {len(targets)}"
            )
        if not all(np.isfinite(values).all() for values in (rows, targets, anchor)):
            raise DataError("expected finite rows, targets and weights")
        self._anchor = anchor
        self._targets = targets
        self._residual = targets - rows @ anchor
        self._left, self._singular, self._right = svd(rows, full_matrices=False)
        self._projected = self._left.T @ self._residual
        self._unit = float((self._singular**2).sum()) / len(rows) or 1.0

    def weights(self, mu: float) -> Matrix:
        """W_k for μ > 0 in units of the mean squared length of a row; inf gives W_g."""
        if mu == inf:
            return self._anchor
        s = self._singular
        pulled = (s / (s**2 + mu * self._unit))[:, None] * self._projected
        return np.asarray(self._anchor + self._right.T @ pulled)

    def left_out(self, mu: float) -> Matrix:
        """Each row's prediction (n, outputs) by the W_k of all *other* rows, W_g unchanged, in closed form.

        With K = XXᵀ and α = (K + μI)⁻¹(Y − XW_g): y_i less its prediction is α_i / ((K + μI)⁻¹)_ii.
        """
        if mu == inf:
            return self._targets - self._residual
        shrunk = self._singular**2 / (self._singular**2 + mu * self._unit)
        dual = self._residual - self._left @ (shrunk[:, None] * self._projected)
        inverse = 1.0 - self._left**2 @ shrunk
        return np.asarray(self._targets - dual / inverse[:, None])

    def choose(self, labels: npt.NDArray[np.int64] | None = None) -> Adapted:
        """The μ of `MU_GRID` with the least leave-one-out error.

        labels: column of each row's class, (n,): the error is then misclassification, and the mean square
        decides between equals. Between equals in both, the larger μ: rather stay near what all have learnt.
        """
        found = []
        for mu in MU_GRID:
            left_out = self.left_out(mu)
            square = float(((self._targets - left_out) ** 2).mean())
            wrong = square if labels is None else float((left_out.argmax(axis=1) != labels).mean())
            found.append((wrong, square, -mu))
        error, _, mu = min(found)
        return Adapted(self.weights(-mu), -mu, error)
