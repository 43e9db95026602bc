"""Which coefficients the next gradient is wanted at: the same bits at every client, from opened sums alone.

The fit of a generalised linear model maximises the log-likelihood. After one plain Gram, sums of gradients are enough
(BFGS, Nocedal and Wright, Numerical Optimization, chapter 6): at the model with an intercept alone the Hessian is a
multiple of the Gram, and each pair of gradients tells the Hessian along one direction more. So a step costs one sum of
as many words as there are coefficients, and no second moments.

**Every client computes the next point itself**, and answers for no other, so that nobody can choose coefficients that
single rows out (docs/threat-model.md). Clients that all have the same opened sums must then agree to the last bit on any
machine. So nothing here calls BLAS, LAPACK or a transcendental function whose last bit differs between libraries: sums
are `math.fsum`, which rounds once, and all else are additions, products, quotients and roots of single numbers, which
IEEE 754 defines. Points lie on a grid besides.

**Coordinates.** θ_0 is the predictor at the pooled means, θ_j the change by one pooled standard deviation of column j.
In them the Gram is n times the correlation matrix R with a 1 in front.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from secure_afl.analytic.moments import Moments
from secure_afl.analytic.statistics import Matrix
from secure_afl.errors import SolveError

GRID = 2.0**-30
"""Coordinates of points are multiples of this."""
# A step that changes predictors by less, as a root mean square, ends the fit: standard errors depend on the point to
# first order, coefficients, which are corrected once more, to second.
_CLOSE = 2.0**-23
# Variance that a column has left given those before it, below which it follows from them.
_DEPENDENT = 2.0**-26
_LONGEST = 4.0  # root mean square of the change of predictors in one step
_OVERSHOT = (
    0.5  # slope at the end of a step, in parts of that at its start, above which the step was too long
)
_SHORTEST, _LONGER = 0.1, 0.5  # parts of such a step that are tried next, at least and at most
_LN2 = 0.6931471805599453
_GROWING = 2.0**-6  # root mean square change of predictors: above, coefficients still grow


@dataclass(frozen=True, eq=False)
class Dependent:
    """A column that follows from others. column: its name; on: theirs."""

    column: str
    on: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Start:
    """What is known after the plain sum. d features, of which u are used: neither constant nor dependent on those before.

    features: names (d,); used: numbers (u,); constant: numbers; dependent: the others.
    mean, deviation: (u,) of used features, in own units; correlation: R (u, u), factor: its lower Cholesky factor.
    rows: their number; weight: the sum of their weights; first: the first point (1 + u,); curvature: weight of a row in
    the Hessian at the intercept alone; ridge: the penalty is weight·ridge/2·Σ_j θ_j², j ≥ 1.
    """

    features: tuple[str, ...]
    used: tuple[int, ...]
    constant: tuple[int, ...]
    dependent: tuple[Dependent, ...]
    mean: Matrix
    deviation: Matrix
    correlation: Matrix
    factor: Matrix
    rows: int
    weight: float
    first: Matrix
    curvature: float
    ridge: float = 0.0

    @classmethod
    def of(cls, moments: Moments, *, intercept: float, curvature: float, ridge: float = 0.0) -> "Start":
        """intercept: θ_0 of the first point. With a ridge columns may depend on each other."""
        used, R = moments.used, moments.correlation
        names, least = [moments.features[j] for j in used], max(_DEPENDENT, 4 * moments.doubt)
        kept, found = (list(range(len(R))), list[Dependent]()) if ridge else _independent(R, names, least)
        R = R[np.ix_(kept, kept)]
        inside = [used[j] for j in kept]
        # The Hessian of the first step, but for the factor weight·curvature.
        factor = _cholesky(R + np.diag(np.full(len(R), ridge / curvature)))
        first = np.zeros(1 + len(kept))
        first[0] = np.rint(intercept / GRID) * GRID
        return cls(
            moments.features,
            tuple(inside),
            moments.constant,
            tuple(found),
            moments.mean[inside],
            np.sqrt(moments.scatter.diagonal()[inside] / moments.weight),
            R,
            factor,
            moments.rows,
            moments.weight,
            first,
            curvature,
            ridge,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates."""
        return ("intercept", *(self.features[j] for j in self.used))

    def size(self, step: Matrix) -> float:
        """Root mean square, over pooled rows, of the change of predictors."""
        moved = step[1:]
        rows = [_dot(row, moved) for row in self.correlation]
        return math.sqrt(max(step[0] * step[0] + _dot(np.array(rows), moved), 0.0))

    def penalised(self, gradient: Matrix, point: Matrix) -> Matrix:
        """The gradient of the log-likelihood less the penalty."""
        less = point * (self.weight * self.ridge)
        less[0] = 0.0
        return np.asarray(gradient - less)

    def newton(self, gradient: Matrix) -> Matrix:
        """The step that the first Hessian gives."""
        step = np.empty_like(gradient)
        step[0] = gradient[0]
        step[1:] = _solved(self.factor, gradient[1:])
        return np.asarray(step / (self.weight * self.curvature))


@dataclass(frozen=True, eq=False)
class Seen:
    """An opened gradient sum. gradient: (1 + u,) of the log-likelihood by θ, at the point that was wanted; deviance;
    too_far: whether some client sent zeros, as the step was too long for one of its rows.
    """

    gradient: Matrix
    deviance: float
    too_far: bool


class State(StrEnum):
    """evaluate: a gradient is wanted at `point`; converged: `point` is the last one; failed: see `reason`."""

    EVALUATE = "evaluate"
    CONVERGED = "converged"
    FAILED = "failed"


@dataclass(frozen=True, eq=False)
class Progress:
    """point: (1 + u,); step: from it to the estimate, by what is known of the Hessian, where the fit converged."""

    state: State
    point: Matrix
    step: Matrix
    deviance: float = math.nan
    reason: str = ""


def progress(start: Start, seen: Sequence[Seen], steps: int, *, events: float | None = None) -> Progress:
    """What comes next, after these opened sums in their order; at most `steps` are made.

    events: the sum of the outcomes, for counts, whose intercept is then set first where offsets moved it.
    """
    point, base, pairs, path = start.first, None, list[tuple[Matrix, Matrix]](), [start.first]
    step = np.zeros_like(point)
    deviance = math.nan
    for number, one in enumerate(seen):
        if base is None:
            if one.too_far:
                return _failed(
                    point, "no row may have so large a predictor at the intercept alone: check offsets"
                )
            if events is not None and number == 0 and (moved := _matched(one.gradient[0], events)):
                point = _on_grid(point + moved * _unit(len(point)))
                continue
        else:
            step = point - base[0]
            if one.too_far:
                point = _on_grid(base[0] + step * _LONGER)
                continue
            gradient = start.penalised(one.gradient, point)
            ahead, behind = _dot(base[1], step), _dot(gradient, step)
            if (
                -behind > _OVERSHOT * ahead
            ):  # past the maximum on this line: where the slope is 0, if it is linear
                part = min(max(ahead / (ahead - behind), _SHORTEST), _LONGER)
                point = _on_grid(base[0] + step * part)
                continue
            pairs.append((step, base[1] - gradient))
        base, deviance = (point, start.penalised(one.gradient, point)), one.deviance
        path.append(point)
        step = _direction(start, base[1], pairs)
        length = start.size(step)
        if length <= _CLOSE:
            return Progress(State.CONVERGED, point, step, deviance)
        point = _on_grid(point + step * min(1.0, _LONGEST / length))
    if len(seen) < steps:
        return Progress(State.EVALUATE, point, np.zeros_like(point))
    if base is not None and start.size(step) > _GROWING:
        return _failed(base[0], _separated(start, path, len(seen)))
    return _failed(
        point,
        f"no convergence in {len(seen)} steps: plan more, or leave out columns that nearly follow from others",
    )


def _failed(point: Matrix, reason: str) -> Progress:
    return Progress(State.FAILED, point, np.zeros_like(point), reason=reason)


def _separated(start: Start, path: Sequence[Matrix], steps: int) -> str:
    """Which coefficients moved most in the last steps."""
    moved = abs(path[-1] - path[max(len(path) - 4, 0)])[1:]
    if not len(moved):
        return "only one outcome is left"
    names = [repr(name) for name, by in zip(start.names[1:], moved, strict=True) if by > moved.max() / 4]
    return (
        f"no finite estimate: after {steps} steps the coefficients of {', '.join(names[:5])} still grow. A combination of "
        "these columns separates the outcome (all rows on one side have the same class, or a count of 0): leave one out, "
        "merge levels, or give a ridge"
    )


def _matched(score: float, events: float) -> float:
    """How far the intercept must move, in steps of ln 2, for the means to add up to the events: Σμ = events − score."""
    means = events - score
    if not means > 0:
        return 0.0
    halvings = math.frexp(events / means)[1]  # events/means is in [2^(h−1), 2^h)
    return _LN2 * (halvings if halvings > 1 else halvings - 1 if halvings < 0 else 0)


def _direction(start: Start, gradient: Matrix, pairs: Sequence[tuple[Matrix, Matrix]]) -> Matrix:
    """The BFGS step, by the two-loop recursion (Nocedal and Wright, algorithm 7.4) over all pairs."""
    left, parts = gradient, []
    useful = [(s, y, by) for s, y in pairs if (by := _dot(s, y)) > 0]
    for s, y, by in reversed(useful):
        part = _dot(s, left) / by
        left = left - part * y
        parts.append(part)
    step = start.newton(left)
    for (s, y, by), part in zip(useful, reversed(parts), strict=True):
        step = step + (part - _dot(y, step) / by) * s
    return np.asarray(step)


def _on_grid(point: Matrix) -> Matrix:
    return np.asarray(np.rint(point / GRID) * GRID)


def _unit(size: int) -> Matrix:
    unit = np.zeros(size)
    unit[0] = 1.0
    return unit


# ---- algebra that gives the same bits everywhere ----


def _dot(a: Matrix, b: Matrix) -> float:
    return math.fsum((a * b).tolist())


def _independent(R: Matrix, names: Sequence[str], least: float) -> tuple[list[int], list[Dependent]]:
    """Columns that do not follow from those before them, and the others with what they follow from."""
    left, kept, found = R.copy(), list[int](), list[Dependent]()
    columns = list[Matrix]()
    for j in range(len(R)):
        if left[j, j] <= least:
            parts = _solved(_cholesky(R[np.ix_(kept, kept)]), R[kept, j])
            on = tuple(
                names[at] for at, part in zip(kept, parts.tolist(), strict=True) if abs(part) > 2.0**-10
            )
            found.append(Dependent(names[j], on))
            continue
        kept.append(j)
        column = left[:, j] / math.sqrt(left[j, j])
        columns.append(column)
        left = left - np.multiply.outer(column, column)
    return kept, found


def _cholesky(A: Matrix) -> Matrix:
    """The lower factor. Raises SolveError if A is not positive definite."""
    left, lower = A.copy(), np.zeros_like(A)
    for j in range(len(A)):
        if not left[j, j] > 0:
            raise SolveError("expected columns none of which follows from the others, got a singular matrix")
        lower[j:, j] = left[j:, j] / math.sqrt(left[j, j])
        left[j:, j:] = left[j:, j:] - np.multiply.outer(lower[j:, j], lower[j:, j])
    return lower


def _solved(lower: Matrix, right: Matrix) -> Matrix:
    """x with LLᵀx = right."""
    x = right.copy()
    for j in range(len(x)):
        x[j] = x[j] / lower[j, j]
        x[j + 1 :] = x[j + 1 :] - lower[j + 1 :, j] * x[j]
    for j in reversed(range(len(x))):
        x[j] = (x[j] - _dot(lower[j + 1 :, j], x[j + 1 :])) / lower[j, j]
    return x
