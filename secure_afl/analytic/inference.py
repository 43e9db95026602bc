"""Least squares with standard errors, tests and intervals, from moments of pooled rows.

The formulas are those of any textbook (Greene, Econometric Analysis, chapters 3 to 5), the names and conventions those of
statsmodels' OLS: with n rows, p features that are not constant and an intercept,

    B = S⁻¹·cross,  σ² = RSS/(n − p − 1),  Cov(B) = σ²·S⁻¹,  Var(intercept) = σ²·(1/n + meanᵀS⁻¹mean),

where S is the features' scatter. Everything is computed on correlations, so units do not matter.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import fdtrc, stdtr, stdtrit

from secure_afl.analytic.moments import Moments
from secure_afl.analytic.statistics import UNIT_ROUNDOFF, Matrix
from secure_afl.errors import DataError, SolveError


@dataclass(frozen=True, eq=False)
class Regression:
    """A table of coefficients for each target. (1 + d, c) arrays have the intercept first; (c,) arrays one number a target.

    features: "intercept" and the names of columns; outputs: names of targets. A feature that is constant or was left out
    has coefficient 0, and NaN for its standard error, t and p. left_out: numbers of the latter among the features.
    coef, se, t, p: (1 + d, c): coefficients, standard errors, t statistics, two-sided p-values.
    covariance: (1 + d, 1 + d), of the coefficients for σ² = 1.
    rows, parameters: n, and p + 1; freedom: n − p − 1, the degrees of freedom of the residuals.
    rss, sigma2, r2, adjusted_r2, f, f_p, log_likelihood, aic, bic: (c,); f and f_p are NaN without features. With
    weights log_likelihood, aic and bic are those of statsmodels' WLS if log_weights was given, else NaN.
    """

    features: tuple[str, ...]
    outputs: tuple[str, ...]
    coef: Matrix
    se: Matrix
    t: Matrix
    p: Matrix
    covariance: Matrix
    rows: int
    parameters: int
    rss: Matrix
    sigma2: Matrix
    r2: Matrix
    adjusted_r2: Matrix
    f: Matrix
    f_p: Matrix
    log_likelihood: Matrix
    aic: Matrix
    bic: Matrix
    left_out: tuple[int, ...] = ()

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the residuals."""
        return self.rows - self.parameters

    def interval(self, level: float = 0.95) -> tuple[Matrix, Matrix]:
        """Lower and upper confidence limits of the coefficients, each (1 + d, c).

        level: above 0 and below 1. Raises DataError for another.
        """
        if not 0 < level < 1:
            raise DataError(f"expected a confidence level between 0 and 1, such as 0.95, got {level!r}")
        reach = stdtrit(self.freedom, (1 + level) / 2) * self.se
        return self.coef - reach, self.coef + reach


def least_squares(
    moments: Moments, *, leave_out: bool = False, log_weights: float | None = None
) -> Regression:
    """Ordinary, or weighted, least squares with an intercept.

    log_weights: of weighted rows the sum of the logarithms of their weights, which second moments do not tell. The
    likelihood, AIC and BIC are then those of a normal error whose variance is σ²/weight; models of the same rows differ in
    them by the same amount whatever it is, so 0 serves to compare.
    leave_out: leave out every feature that follows from those before it, as R's lm does, in place of an error.
    Raises SolveError if features depend on each other or there are not more rows than coefficients.
    """
    if log_weights is not None and not (moments.weighted and math.isfinite(log_weights)):
        raise DataError(
            f"expected log_weights as a finite number, and for weighted rows, got {log_weights!r}"
        )
    used, d, c = moments.used, len(moments.mean), len(moments.outputs)
    if leave_out:
        used = [used[at] for at in _independent(moments.correlation, moments.doubt)]
    n, p = moments.rows, len(used)
    if n <= p + 1:
        raise SolveError(
            f"expected more rows than the {p + 1} coefficients for standard errors, got {n} rows: use a ridge, or "
            "fewer columns"
        )
    deviations = np.sqrt(moments.scatter.diagonal()[used])
    inverse = _inverse(moments, used) / deviations / deviations[:, None]
    cross = moments.cross[used]
    slopes = inverse @ cross
    # Once refined: the inverse may have lost some digits.
    slopes = slopes + inverse @ (cross - moments.scatter[np.ix_(used, used)] @ slopes)

    coef, covariance = np.zeros((1 + d, c)), np.zeros((1 + d, 1 + d))
    places = [1 + j for j in used]
    mean = moments.mean[used]
    coef[places], coef[0] = slopes, moments.target_mean - mean @ slopes
    covariance[np.ix_(places, places)] = inverse
    covariance[0, places] = covariance[places, 0] = -inverse @ mean
    covariance[0, 0] = 1 / moments.weight + mean @ inverse @ mean

    total = moments.target_scatter.diagonal()
    explained = np.einsum("jc,jc->c", slopes, cross)
    rss = np.maximum(total - explained, 0.0)
    freedom = n - p - 1
    sigma2 = rss / freedom
    flat = [0, *places]
    se, t, tails = (np.full((1 + d, c), np.nan) for _ in range(3))
    se[flat] = np.sqrt(covariance.diagonal()[flat, None] * sigma2)
    with np.errstate(divide="ignore", invalid="ignore"):
        t[flat] = coef[flat] / se[flat]
        tails[flat] = 2 * stdtr(freedom, -abs(t[flat]))
        r2 = 1 - rss / total
        f = explained / p / sigma2 if p else np.full(c, np.nan)
        likelihood = -n / 2 * (np.log(2 * np.pi * rss / n) + 1)
    if moments.weighted:
        likelihood = likelihood + (math.nan if log_weights is None else log_weights / 2)
    return Regression(
        features=("intercept", *moments.features),
        outputs=moments.outputs,
        coef=coef,
        se=se,
        t=t,
        p=tails,
        covariance=covariance,
        rows=n,
        parameters=p + 1,
        rss=rss,
        sigma2=sigma2,
        r2=r2,
        adjusted_r2=1 - (1 - r2) * (n - 1) / freedom,
        f=f,
        f_p=fdtrc(p, freedom, f) if p else np.full(c, np.nan),
        log_likelihood=likelihood,
        aic=-2 * likelihood + 2 * (p + 1),
        bic=-2 * likelihood + math.log(n) * (p + 1),
        left_out=tuple(sorted(set(moments.used) - set(used))),
    )


def _independent(R: Matrix, doubt: float) -> list[int]:
    """Columns of a correlation matrix, in their order, without those that cannot be told from combinations of columns
    before them. doubt: bound on the spectral norm of the error of R.
    """
    kept: list[int] = []
    tolerated = doubt + 64 * len(R) * UNIT_ROUNDOFF * len(R)  # no eigenvalue of R is larger than its trace
    for j in range(len(R)):
        b = np.linalg.solve(R[np.ix_(kept, kept)], R[kept, j])
        # With v = (-b, 1), what is left of the column is vᵀRv, and an error of R moves it by up to doubt · vᵀv.
        if 1.0 - float(R[kept, j] @ b) > tolerated * (1.0 + float(b @ b)):
            kept.append(j)
    return kept


def _inverse(moments: Moments, used: list[int]) -> Matrix:
    """Inverse of the correlation matrix. Raises SolveError where columns depend on each other, as far as digits tell."""
    inside = [moments.used.index(j) for j in used]
    R, names = moments.correlation[np.ix_(inside, inside)], [moments.features[j] for j in used]
    if not len(R):
        return np.zeros((0, 0))
    values, vectors = np.linalg.eigh(R)
    if values[0] <= moments.doubt + 64 * len(R) * UNIT_ROUNDOFF * values[-1]:
        direction = abs(vectors[:, 0])
        worst = [name for name, part in zip(names, direction, strict=True) if part > direction.max() / 8]
        raise SolveError(
            f"expected columns none of which follows from the others, got {', '.join(map(repr, worst[:8]))}: leave one "
            "out (of a category one level), or use a ridge"
        )
    inverse = cho_solve(cho_factor(R), np.eye(len(R)))
    return np.asarray((inverse + inverse.T) / 2)
