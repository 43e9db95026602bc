"""Generalised linear models out of sums: what a client puts into each, and the table of coefficients.

Three kinds of sums over the same rows:

    one of second moments (`statistics`), which gives the start of the fit and which columns can be used;
    up to `steps` of gradients, at points that `quasi_newton` computes from the sums before;
    one of the information matrix Σ w·μ'(η)·xxᵀ, at the last point, for standard errors.

Why two matrices and not one a step, and what clients check before each, is in docs/threat-model.md.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import ndtr, ndtri

from secure_afl.analytic.families import LARGEST_PREDICTOR, POISSON, Family
from secure_afl.analytic.moments import Scaling
from secure_afl.analytic.quasi_newton import Progress, Seen, Start
from secure_afl.analytic.statistics import Matrix, gamma, symmetric, upper
from secure_afl.errors import DataError, SolveError

_SLACK = 2.0**-26  # of a leverage, for rounding
_EXTRA = 4  # words of a gradient sum that are no gradient
_SAME = 2.0**-30  # relative spread of weights below which they are the same
_LEAST_CURVATURE = 2.0**-40  # smallest eigenvalue of an information matrix with a diagonal of ones


@dataclass(frozen=True)
class Rules:
    """What all parties agree on before any data is read.

    features: d; rows: the most of one client; weight: the largest of a row; column: the largest |x_j| as summed;
    largest: the largest outcome; steps: the most gradient sums; least_rows: see `least` and `most_leverage`;
    categories: for each, its columns, of which at most one is not 0 in a row.
    """

    family: Family
    features: int
    rows: int
    weight: float
    column: float
    largest: float
    steps: int
    least_rows: int
    categories: tuple[tuple[int, ...], ...] = ()

    @property
    def length(self) -> int:
        """Words of a gradient sum: the gradient (1 + d), deviance, saturated log-likelihood, two flags."""
        return 1 + self.features + _EXTRA

    @property
    def magnitude(self) -> float:
        """No word of one client's gradient sum is larger."""
        residual = max(self.family.largest_mean(self.largest), self.largest, 1.0)
        return self._total(residual * max(self.column, 1.0))

    @property
    def shift(self) -> int:
        """Deviances and log-likelihoods are sent times 2^−shift, so that gradients keep their digits."""
        return max(
            0, math.frexp(self.family.largest_deviance(self.largest) * self._total(1.0) / self.magnitude)[1]
        )

    @property
    def information_length(self) -> int:
        return (1 + self.features) * (2 + self.features) // 2

    @property
    def information_magnitude(self) -> float:
        """No word of one client's information matrix is larger."""
        return self._total(self.family.largest_weight(self.largest) * max(self.column, 1.0) ** 2)

    def _total(self, of_a_row: float) -> float:
        return self.rows * max(self.weight, 1.0) * of_a_row * (1 + gamma(self.rows + 64) + 2.0**-39)

    def least(self, coefficients: int) -> int:
        """The fewest pooled rows that sums of so many coefficients may be of.

        Combinations of the opened sums weigh rows by combinations of 2·coefficients + steps columns: the design, the
        design times the last weights, and the residuals of each step. At this many rows, a row's leverage in these
        columns is 1/least_rows on average. With least_rows 1 nothing is asked for.
        """
        return 0 if self.least_rows == 1 else self.least_rows * (2 * coefficients + self.steps)

    @property
    def most_leverage(self) -> float:
        """The largest leverage that a row may have, among its client's rows, in the two columns 1 and μ'(η)."""
        return 1.0 / (self.least_rows // 2 + 1) + _SLACK

    @property
    def most_in_column(self) -> float:
        """That in the columns x_j and μ'(η)·x_j, for each column of the design. With least_rows 1 there is no bound."""
        return 1.0 - 0.5 / self.least_rows if self.least_rows > 1 else math.inf


@dataclass(frozen=True, eq=False)
class ClientRows:
    """A client's rows. X (n, d) as summed; y, weights, offset (n,)."""

    X: Matrix
    y: Matrix
    weights: Matrix
    offset: Matrix

    def predictor(self, start: Start, point: Matrix, columns: Scaling) -> Matrix:
        """η (n,). columns: how X is scaled."""
        used = list(start.used)
        up, shifted = columns.exponent[used], columns.centre[used] - start.mean
        Z = (np.ldexp(self.X[:, used], up) + shifted) / start.deviation
        return np.asarray(self.offset + point[0] + Z @ point[1:])


def gradient_words(rules: Rules, rows: ClientRows, eta: Matrix) -> Matrix:
    """What a client puts into a gradient sum: zeros and a flag if a row's predictor or mean is out of range."""
    words, family = np.zeros(rules.length), rules.family
    with np.errstate(over="ignore", invalid="ignore"):
        mean = family.mean(eta)
        # A NaN is in no range.
        fits = (abs(eta) <= LARGEST_PREDICTOR) & (mean <= family.largest_mean(rules.largest))
    if not fits.all():
        words[-2] = 1.0
        return words
    residual = rows.weights * (rows.y - mean)
    words[0] = residual.sum()
    words[1:-_EXTRA] = residual @ rows.X
    fit = rows.weights @ family.deviance(rows.y, eta, mean), rows.weights @ family.saturated(rows.y)
    words[-_EXTRA:-2] = np.ldexp(fit, -rules.shift)
    words[-1] = float(stands_out(rules, rows, family.weight(eta)))
    return words


def stands_out(rules: Rules, rows: ClientRows, curvature: Matrix) -> bool:
    """Whether the information matrix, with the matrix before it, would show a row nearly alone: in all rows, in those of
    one column, in those with either value of a column that takes two, or in those of a category's reference level, which the
    column of ones gives less the category's columns.
    """
    X, low, high = rows.X, rows.X.min(axis=0, initial=np.inf), rows.X.max(axis=0, initial=-np.inf)
    two = ((low == X) | (high == X)).all(axis=0)  # as they are summed: 0 and 1, -1 and 1, or others
    sides = [X[:, two] == low[two], X[:, two] == high[two]]
    references = [(X[:, own] == low[list(own)]).all(axis=1) for own in rules.categories]
    A = np.column_stack([np.ones(len(X)), X[:, ~two], *sides, *references]) * rows.weights[:, None]
    largest = leverages(A, curvature).max(axis=0, initial=0.0)
    return bool(largest[0] > rules.most_leverage or (largest[1:] > rules.most_in_column).any())


def leverages(A: Matrix, curvature: Matrix) -> Matrix:
    """The leverage of each row i in column j (n, d), max over a, b of (A_ij(a + b·v_i))² / Σ_i (A_ij(a + b·v_i))², with curvatures v:
    how far a combination of column j's lines in the two matrices can single the row out.
    """
    squares = A**2
    total = np.maximum(squares.sum(axis=0), np.finfo(np.float64).tiny)
    middle = curvature @ squares / total
    apart = squares * (curvature[:, None] - middle) ** 2
    spread = apart.sum(axis=0)
    varies = spread > total * (_SAME * middle) ** 2  # else the second matrix says what the first does
    return np.asarray(squares / total + np.where(varies, apart / np.where(varies, spread, 1.0), 0.0))


def information_words(rules: Rules, rows: ClientRows, eta: Matrix) -> Matrix:
    """What a client puts into the sum of information matrices."""
    A = np.column_stack([np.ones(len(rows.X)), rows.X])
    return np.concatenate(upper((A * (rows.weights * rules.family.weight(eta))[:, None]).T @ A))


@dataclass(frozen=True, eq=False)
class Opened:
    """A gradient sum as it was opened, see `gradient_words`. high: whether a row stands out at some client."""

    seen: Seen
    saturated: float
    high: bool


def opened(rules: Rules, words: Matrix, start: Start, columns: Scaling) -> Opened:
    """What the sum of all clients' words says. Element by element, so that all parties have the same bits.

    Raises SolveError for flags that no clients can have sent.
    """
    flags = np.rint(words[-2:])
    if not (flags >= 0).all():
        raise SolveError(
            f"expected numbers of clients as the flags in a sum of gradients, got {flags.tolist()}: a client does not "
            "follow the protocol"
        )
    deviance, saturated = np.ldexp(words[-_EXTRA:-2], rules.shift).tolist()
    gradient = standardised(start, columns, words[:-_EXTRA])
    return Opened(Seen(gradient, deviance, flags[0] > 0), saturated, flags[1] > 0)


def standardised(start: Start, columns: Scaling, words: Matrix) -> Matrix:
    """Σ r·(1, z) (1 + u,) out of Σ r·(1, x) (1 + d,) for columns x as summed."""
    used = list(start.used)
    up, shifted = columns.exponent[used], columns.centre[used] - start.mean
    scaled = np.ldexp(words[1:][used], up) + shifted * words[0]
    return np.concatenate([words[:1], scaled / start.deviation])


@dataclass(frozen=True, eq=False)
class GeneralisedRegression:
    """A table of coefficients, in the columns' own units, as statsmodels' GLM has it. Arrays (1 + d,) have the intercept
    first.

    family: "logistic" or "poisson"; ratio: what exp(coef) is called; features: "intercept" and the columns.
    coef, se, z, p: two-sided p-values of the normal distribution. A column that is constant or follows from others has
    the coefficient 0, and NaN else. covariance: (1 + d, 1 + d), 0 for those.
    left_out: columns that follow from others, with these. rows, weight: pooled rows, and the sum of their weights.
    deviance, null_deviance (of the intercept alone; NaN with offsets), log_likelihood, aic; steps: gradient sums.
    """

    family: str
    ratio: str
    features: tuple[str, ...]
    coef: Matrix
    se: Matrix
    z: Matrix
    p: Matrix
    covariance: Matrix
    left_out: dict[str, tuple[str, ...]]
    rows: int
    weight: float
    deviance: float
    null_deviance: float
    log_likelihood: float
    steps: int

    @property
    def parameters(self) -> int:
        """Coefficients, the intercept and no column that is left out."""
        return int(np.isfinite(self.se).sum())

    @property
    def aic(self) -> float:
        return 2 * self.parameters - 2 * self.log_likelihood

    @property
    def ratios(self) -> Matrix:
        """exp(coef): odds ratios, or rate ratios."""
        return np.asarray(np.exp(self.coef))

    def interval(self, level: float = 0.95) -> tuple[Matrix, Matrix]:
        """Lower and upper confidence limits of the coefficients (Wald), each (1 + d,); exp of them are those of ratios.

        level: above 0 and below 1. Raises DataError for another.
        """
        if not 0 < level < 1:
            raise DataError(f"expected a confidence level between 0 and 1, such as 0.95, got {level!r}")
        reach = float(ndtri((1 + level) / 2)) * self.se
        return self.coef - reach, self.coef + reach


@dataclass(frozen=True, eq=False)
class Fitted:
    """The end of a fit. coef (1 + d,) in own units; covariance: of these, None where it was not summed, and why."""

    coef: Matrix
    covariance: Matrix | None
    why: str = ""


def fitted(
    start: Start, last: Opened, at: Progress, information: Matrix | None, columns: Scaling, why: str = ""
) -> Fitted:
    """Coefficients and their covariance. information: the sum of all clients' words, if there is one.

    Raises SolveError for an information matrix that is not positive definite.
    """
    if information is None:
        return Fitted(_own(start, at.point + at.step), None, why)
    used = [0, *(1 + j for j in start.used)]
    J = symmetric(information, 1 + len(start.features))[np.ix_(used, used)]
    T = np.diag([1.0, *np.ldexp(1.0, columns.exponent[list(start.used)])])
    T[1:, 0] = columns.centre[list(start.used)] - start.mean
    T[1:] /= start.deviation[:, None]
    J = T @ J @ T.T
    J = (J + J.T) / 2
    scale = np.sqrt(np.maximum(J.diagonal(), 0.0))
    if not (scale > 0).all() or np.linalg.eigvalsh(J / scale / scale[:, None])[0] <= _LEAST_CURVATURE:
        raise SolveError(
            f"expected an information matrix of full rank, got a singular one: at the estimate {', '.join(map(repr, start.names[1:6]))}"
            " or others depend on each other, or a few rows have all the weight"
        )
    inverse = cho_solve(cho_factor(J / scale / scale[:, None]), np.eye(len(J))) / scale / scale[:, None]
    point = at.point + inverse @ last.seen.gradient
    B = np.zeros((1 + len(start.features), len(used)))  # own coefficients out of θ
    B[0, 0] = 1.0
    B[0, 1:] = -start.mean / start.deviation
    B[used[1:], np.arange(1, len(used))] = 1 / start.deviation
    return Fitted(B @ point, B @ inverse @ B.T)


def _own(start: Start, point: Matrix) -> Matrix:
    """Coefficients (1 + d,) in own units."""
    coef = np.zeros(1 + len(start.features))
    slopes = point[1:] / start.deviation
    coef[[1 + j for j in start.used]] = slopes
    coef[0] = point[0] - slopes @ start.mean
    return coef


def regression(
    rules: Rules, start: Start, last: Opened, found: Fitted, steps: int, null_deviance: float
) -> GeneralisedRegression:
    """Raises SolveError where there are no standard errors, with the reason."""
    if found.covariance is None:
        raise SolveError(f"expected standard errors, got none: {found.why}")
    se, z, tails = (np.full(len(found.coef), np.nan) for _ in range(3))
    flat = [0, *(1 + j for j in start.used)]
    se[flat] = np.sqrt(found.covariance.diagonal()[flat])
    z[flat] = found.coef[flat] / se[flat]
    tails[flat] = 2 * ndtr(-abs(z[flat]))
    return GeneralisedRegression(
        family=rules.family.name,
        ratio=rules.family.ratio,
        features=("intercept", *start.features),
        coef=found.coef,
        se=se,
        z=z,
        p=tails,
        covariance=found.covariance,
        left_out={one.column: one.on for one in start.dependent},
        rows=start.rows,
        weight=start.weight,
        deviance=last.seen.deviance,
        null_deviance=null_deviance,
        log_likelihood=last.saturated - last.seen.deviance / 2,
        steps=steps,
    )


def null_deviance(family: Family, events: float, weight: float, first: Seen) -> float:
    """Deviance of the model with an intercept alone, without offsets. first: the first gradient sum, which is at such a model."""
    mean = events / weight
    if family is POISSON:
        # Σ 2(y log y − y) follows from the first sum, whose point is near: D(η + δ) = D(η) − 2δΣy + 2(Σμ' − Σμ).
        means = events - float(first.gradient[0])
        return first.deviance - 2 * math.log(events / means) * events + 2 * (events - means)
    return -2 * (events * math.log(mean) + (weight - events) * math.log1p(-mean))
