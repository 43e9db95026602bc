"""Linear discriminants of classes, from moments of pooled rows whose targets are one-hot classes.

A class has rows with mean μ_c; all share the covariance Σ, estimated within the classes, over the number of rows. Then

    score of class c = μ_cᵀΣ⁻¹x − μ_cᵀΣ⁻¹μ_c/2 + log prior_c

is the logarithm of its posterior probability but for a constant. It is scikit-learn's LinearDiscriminantAnalysis (since
1.9 with any solver, before with "lsqr"). Equal priors are the remedy for a rare class that plain least squares never predicts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

from secure_afl.analytic.moments import Moments
from secure_afl.analytic.statistics import UNIT_ROUNDOFF, Matrix
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
