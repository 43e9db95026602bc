"""Linear discriminants of classes, from moments of pooled rows whose targets are one-hot classes.

A class has rows with mean μ_c; all share the covariance Σ, estimated within the classes, over the number of rows. Then

    score of class c = μ_cᵀΣ⁻¹x − μ_cᵀΣ⁻¹μ_c/2 + log prior_c

is the logarithm of its posterior probability but for a constant. It is scikit-learn's LinearDiscriminantAnalysis (since
1.9 with any solver, before with "lsqr"). Equal priors are the remedy for a rare class that plain least squares never predicts.

`discriminant_head` makes them from a ridge solution, of rows in common units. With A = G + γI, W = A⁻¹C, class counts N and
the scatter within classes B = A − CN⁻¹Cᵀ (Woodbury)

    B⁻¹CN⁻¹ = W(N − CᵀW)⁻¹,   so for Σ = B/n the scores need W and a matrix of the size of the classes only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

from secure_afl.analytic.moments import Moments
from secure_afl.analytic.solve import (
    _RESIDUAL,
    _SLACK,
    Solution,
    _norm,
    _smallest_eigenvalue,
)
from secure_afl.analytic.statistics import UNIT_ROUNDOFF, Matrix, gamma
from secure_afl.errors import DataError, SolveError


@dataclass(frozen=True, eq=False)
class Discriminants:
    """features, classes: names; coef: (classes, d) and intercept: (classes,), of rows in their own units; means: of the
    classes (classes, d); priors: (classes,); covariance: within classes (d, d). A class without rows has an intercept of
    minus infinity.
    """

    features: tuple[str, ...]
    classes: tuple[str, ...]
    coef: Matrix
    intercept: Matrix
    means: Matrix
    priors: Matrix
    covariance: Matrix


def discriminants(
    moments: Moments, priors: Sequence[float] | str | None = None, *, ridge: float = 0.0
) -> Discriminants:
    """Linear discriminants.

    priors: of the classes in their order, made to add up to 1 over those that have rows; "equal"; None takes the shares
        of the rows.
    ridge: added to the diagonal of the within-class correlations; above 0 columns may depend on each other.
    Raises DataError for priors that do not fit, SolveError for dependent columns.
    """
    counts = moments.target_mean * moments.weight
    d, c = moments.cross.shape
    present = counts > 0.5 * moments.weight / moments.rows
    given = _priors(priors, moments, present)
    # Class means less the mean of all rows.
    away = np.zeros((c, d))
    away[present] = (moments.cross[:, present] / counts[present]).T
    within = moments.scatter - (away * np.where(present, counts, 0.0)[:, None]).T @ away
    covariance = within / moments.weight
    total = np.maximum(moments.scatter.diagonal() / moments.weight, np.finfo(np.float64).tiny)
    shares = covariance.diagonal() / total
    # What the digits of the sum leave open, for Σ and the class means.
    doubt = (1 + 2 * c) * (moments.doubt + 64 * d * UNIT_ROUNDOFF)
    used = [j for j in moments.used if shares[j] > doubt]
    deviations = np.sqrt(covariance.diagonal()[used])
    R = covariance[np.ix_(used, used)] / deviations / deviations[:, None] + ridge * np.eye(len(used))
    if used and float(np.linalg.eigvalsh(R)[0]) <= doubt / float(shares[used].min()):
        raise SolveError(
            "expected columns none of which follows from the others within classes, got such: leave one out (of a "
            "category one level), or use a ridge above 0"
        )
    scaled = cho_solve(cho_factor(R), (away[:, used] / deviations).T) if used else np.zeros((0, c))
    coef = np.zeros((c, d))
    coef[:, used] = scaled.T / deviations
    with np.errstate(divide="ignore"):
        # Of rows less their mean: that shifts all scores alike, and keeps digits.
        intercept = np.log(given) - np.sum(coef * away, axis=1) / 2 - coef @ moments.mean
    means = moments.mean + away
    means[~present] = np.nan
    return Discriminants(moments.features, moments.outputs, coef, intercept, means, given, covariance)


def check_priors(priors: Sequence[float] | str | None, classes: int) -> None:
    """Raises DataError for priors that no rows could fit."""
    if priors is None or (isinstance(priors, str) and priors == "equal"):
        return
    try:
        given = np.asarray(priors, dtype=np.float64)
    except (TypeError, ValueError):
        given = np.zeros(0)
    if given.shape != (classes,) or not (np.isfinite(given) & (given > 0)).all():
        raise DataError(
            f'expected priors as {classes} numbers above 0, one for each class, or "equal", got {priors!r}'
        )


def _priors(priors: Sequence[float] | str | None, moments: Moments, present: npt.NDArray[np.bool_]) -> Matrix:
    check_priors(priors, len(moments.outputs))
    if priors is None:
        shares = np.where(present, np.maximum(moments.target_mean, 0.0), 0.0)
    elif isinstance(priors, str):
        shares = np.where(present, 1.0, 0.0)
    else:
        shares = np.where(present, np.asarray(priors, dtype=np.float64), 0.0)
    return np.asarray(shares / shares.sum())


@dataclass(frozen=True, eq=False)
class DiscriminantHead:
    """weights: (d, c) float64, the intercept first; scores are log posteriors but for a number that all classes share.
    A class without rows has a column of zeros, and is not in `present`.

    bound: proven upper bound on ‖weights − those from the pooled statistics‖_F, where the same classes have rows.
    """

    weights: Matrix
    present: tuple[int, ...]
    bound: float


def discriminant_head(solution: Solution) -> DiscriminantHead:
    """Linear discriminants from a ridge solution whose first column is constant 1 and whose targets are one-hot.

    The penalty of the solution is added to the scatter within classes. Raises SolveError if fewer than two classes have
    rows, or for a penalty of 0 or so near it that nothing can be guaranteed.
    """
    statistics, W, certificate = solution.statistics, solution.weights, solution.certificate
    if statistics is None:
        raise SolveError("expected the statistics beside the weights: key holders released the weights alone")
    counts = statistics.cross[0]
    present = np.flatnonzero(counts > 0.5)
    if len(present) < 2:
        raise SolveError(f"expected rows of two classes or more, got rows of {len(present)}")
    C, W, N, n = statistics.cross[:, present], W[:, present], counts[present], float(statistics.count)
    d, c = C.shape
    product = C.T @ W
    K = np.diag(N) - (product + product.T) / 2
    smallest, _, factor = _smallest_eigenvalue(K)
    inverse = cho_solve(factor, np.eye(c))
    inverse = inverse + cho_solve(factor, np.eye(c) - K @ inverse)
    residual = _norm(np.eye(c) - K @ inverse)
    unit = gamma(c + 2) * _norm(abs(K) @ abs(inverse) + np.eye(c))
    if not residual <= _RESIDUAL * unit < math.inf:
        raise SolveError("the classes cannot be told apart in float64: use a larger ridge")
    # Less the mean over classes, which no comparison of classes sees, and which is large for a small penalty.
    head = n * (W @ (inverse - inverse.mean(axis=1, keepdims=True)))
    bias = np.log(N / n) - n / 2 * (inverse.diagonal() - 1 / N)
    head[0] += bias - bias.mean()

    # As in `solve`, on either side: δ bounds the distance of K from the pooled K, both rounded; then that of their inverses,
    # from X − Y = X(K_Y − K_X)Y, and of computed inverses from theirs by residuals.
    e, b = certificate.cross_error, certificate.bound
    products = gamma(d + 4) * _norm(abs(C).T @ abs(W) + np.diag(N))
    delta = 2 * e + e * _norm(W) + (_norm(C) + e) * b + 4 * products
    gap = smallest - _SLACK * delta
    if not (gap > 0 and N.min() > 2 * e):
        raise SolveError(
            "no guarantee can be given for the discriminants: use a larger ridge or more fraction bits"
        )
    inverses = delta / (smallest * gap) + (residual + (2 * _RESIDUAL + 2) * unit) / gap
    slopes = n * ((b + 4 * gamma(d + c + 8) * (_norm(W) + b)) / gap + (_norm(W) + b) * inverses)
    per_class = n / 2 * inverses + (e / (N - e) + n * e / (2 * N * (N - e))).max()
    biases = math.sqrt(c) * (per_class + 16 * UNIT_ROUNDOFF * (abs(np.log(N / n)) + n / gap + n / N).max())
    bound = _SLACK * (slopes + biases)
    weights = np.zeros(statistics.cross.shape)
    weights[:, present] = head
    return DiscriminantHead(weights, tuple(present.tolist()), bound)
