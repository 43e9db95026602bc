"""The regularisation path of ridge regression on standardised columns, and its choice by generalised cross-validation.

With columns of variance 1, the correlations R = QΛQᵀ, and κ = Qᵀ·(covariances of columns and target), the weights for a
penalty of ridge·n are Q(Λ + ridge)⁻¹κ; n, the number of rows, makes everything a mean over rows:

    RSS/n = variance of the target − Σ κ_i²·(λ_i + 2·ridge)/(λ_i + ridge)²,   degrees of freedom 1 + Σ λ_i/(λ_i + ridge),
    GCV = (RSS/n)/(1 − degrees of freedom/n)².

Golub, Heath and Wahba, Generalized cross-validation as a method for choosing a good ridge parameter, Technometrics 1979.
Several targets share one penalty; their GCV is added up.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from secure_afl.analytic.statistics import Matrix

RIDGES = 10.0 ** (np.arange(-32, 13) / 4)
"""The penalties among which one is chosen: 1e-8 to 1e3, four in each decade."""


@dataclass(frozen=True, eq=False)
class Path:
    """ridges, and for each: rss, the sum of squared residuals over the rows; freedom, the degrees of freedom that the fit
    takes, the intercept's included; gcv, infinite where these are not fewer than the rows. Each (ridges,) float64.
    """

    ridges: npt.NDArray[np.float64]
    rss: npt.NDArray[np.float64]
    freedom: npt.NDArray[np.float64]
    gcv: npt.NDArray[np.float64]

    @property
    def best(self) -> float:
        """The ridge of the least GCV; the largest one of several."""
        return float(self.ridges[np.flatnonzero(self.gcv == self.gcv.min())[-1]])


def path(R: Matrix, cross: Matrix, variances: Matrix, rows: int, ridges: npt.ArrayLike) -> Path:
    """R: correlations (d, d); cross: covariances of standardised columns and targets (d, c); variances: of targets (c,)."""
    penalties = np.asarray(ridges, dtype=np.float64)
    values, vectors = np.linalg.eigh(R)
    values = np.maximum(values, 0.0)[:, None]
    squares = np.sum((vectors.T @ cross) ** 2, axis=1)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(values + penalties > 0, values / (values + penalties), 0.0)
        explained = np.where(values > 0, squares / values * (1 - (1 - shares) ** 2), 0.0)
    rss = rows * np.maximum(variances.sum() - explained.sum(axis=0), 0.0)
    freedom = 1 + shares.sum(axis=0)
    left = rows - freedom
    gcv = np.where(left > 0, rows * rss / np.where(left > 0, left, 1.0) ** 2, np.inf)
    return Path(penalties, rss, freedom, gcv)
