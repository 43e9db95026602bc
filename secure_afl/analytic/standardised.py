"""Ridge regression with a free intercept and a penalty on standardised columns, out of one Gram matrix.

The first column of X is ones. With n rows, means m_j = s_j/n and D_j = G_jj − s_j²/n (n times column j's variance),
W minimises ‖Y − XW‖² + ridge·Σ_j D_j‖W_j‖² over j ≥ 1: scikit-learn's StandardScaler before Ridge(alpha=n·ridge), told
in the columns' own units. So the model does not depend on the columns' units and origins; but fixed point does:
G_jj − s_j²/n cancels where a column lies far from 0. The certificate says what is left.

**The system.** AW = C with A = G + P, P = ridge·diag(0, D_1, …); its first row makes W_0 the intercept. ˜ marks the
aggregated side, no mark the pooled one; n is whole, so it and G_00 = n are exact on both sides. E_G = G̃ − G, E_C, E_P
likewise, R̃ = C̃ − ÃW̃ and R = C − AW are the residuals of the two solves, D = W̃ − W. As in `secure_afl.analytic.solve`,

    ÃD = (E_C − E_A·W̃) + E_A·D − R̃ + R.

**Standardised coordinates.** Let T = [[1, −m_j/r_j], [0, diag(1/r_j)]] with the aggregated means and deviations as
float64 numbers, D = TD', A' = TᵀÃT. Multiplied by Tᵀ the equation gives

    ‖D'‖·(λ_min(A') − ‖TᵀE_A T‖) ≤ ‖Tᵀ(E_C − E_A·W̃)‖ + ‖TᵀR̃‖ + ‖TᵀR‖.

A' is near n times the correlation matrix, whatever the units. What |T| does to errors is what centring costs:
|T|ᵀ|E||T| has entries up to (1 + |m_j|)²/r_j² times those of E.

**Errors of entries.** |E_G| ≤ ε·11ᵀ + g·vvᵀ but for the exact (0, 0), and |E_C| ≤ ε·11ᵀ + g·vwᵀ: ε is the entry error;
v_j = ‖x_j‖ and w = target·√n; g counts the roundings of `SufficientStatistics.from_rows` on either side, and of adding.
E_P is diagonal with ridge·(D̃_j − D_j), and D̃_j − D_j = E_jj − (s̃_j² − s_j²)/n, so at most
E_jj + 2·μ_j·|s̃_j − s_j| if |m_j|, |m̃_j| ≤ μ_j. D̃_j is taken from G̃ without rounding error (rational arithmetic).

**Residuals.** |A||W| + |C| ≤ U(W) = v(w + vᵀ|W|) + ridge·D|W|, entry by entry. A solve returns no W whose computed
residual exceeds κ·γ·U(W), γ = γ_{d+5} being what rounding may do to it, so |R| ≤ (κ + 1)·γ·U(W) and
U(W) ≤ U(W̃) + (vvᵀ + ridge·diag D)|D|: the first part is known, the second goes to the left-hand side.

**Back.** ‖W̃ − W‖ = ‖TD'‖ ≤ (1 + Σ m_j²/r_j² + max 1/r_j²)^½·‖D'‖.

**Constant columns.** Where D̃_j may be 0, the column cannot be told from a constant one. If its deviation is at most
2^-21 of the column's bound, its weight is 0 and it is listed; the certificate is of the solve without it. Else nothing
is returned.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from scipy.linalg import cho_solve

from secure_afl.analytic.solve import (
    _REFINEMENTS,
    _RESIDUAL,
    _SLACK,
    _UNDERFLOW,
    Certificate,
    Factor,
    Solution,
    _norm,
    _smallest_eigenvalue,
)
from secure_afl.analytic.statistics import Matrix, SufficientStatistics, gamma, roundings
from secure_afl.errors import SolveError

# A column that may be constant is taken for constant if its deviation is at most this part of its bound.
_CONSTANT = 2.0**-21
# Roundings when the sums of clients, and of waves of rows, are added by `statistics.added`.
_ADDITIONS = 6


@np.errstate(all="ignore")  # what overflows is caught as not finite; underflow is paid for
def solve_standardised(
    statistics: SufficientStatistics,
    *,
    ridge: float,
    entry_error: float = 0.0,
    target: float = 1.0,
    column: float = 1.0,
    names: Sequence[str] = (),
) -> Solution:
    """The W of the module's text, (1 + d, c).

    statistics: of rows with a column of ones in front; those of clients made by `from_rows` and added exactly, or by
        `statistics.added`.
    ridge: from 0 to 2^64, times n the penalty on the weights of standardised columns.
    entry_error: proven bound on |packed entry − exact sum of the clients' float64 entries|, below 1/2.
    target: the agreed bound on |Y_ij|; column: that on |X_ij|; names: of the columns but the first, for errors.

    Raises SolveError if nothing can be guaranteed; it says which columns are the cause.
    """
    if not (0 <= ridge <= 2.0**64 and 0 <= entry_error < 0.5 and min(target, column) > 2.0**-400):
        raise SolveError(
            f"expected a ridge from 0 to 2^64 and an entry error below 1/2, got {ridge!r} and {entry_error!r}, with "
            f"bounds of {target:g} and {column:g}"
        )
    n, (d, c) = statistics.count, statistics.cross.shape
    if n == 0 or not max(float(abs(statistics.gram).max()), target) < 2.0**400:
        raise SolveError(f"expected rows with sums in the range of float64, got {n} rows")
    G, C = statistics.gram.copy(), statistics.cross
    if not abs(G[0, 0] - n) <= entry_error:
        raise SolveError(f"expected a first column of {n} ones, got one with a sum of squares of {G[0, 0]:g}")
    G[0, 0] = n
    # See `statistics.roundings`: once for each side, and the additions.
    g = gamma(2 * roundings(n) + _ADDITIONS)
    tiny = (n + 1) * _UNDERFLOW
    epsilon = entry_error + tiny
    v = np.sqrt(np.maximum(G.diagonal() + epsilon, 0.0) / (1 - g))
    v[0], w = math.sqrt(n), target * math.sqrt(n)

    means = G[0] / n
    spreads = np.array([float(Fraction(G[j, j]) - Fraction(G[0, j]) ** 2 / n) for j in range(d)])
    largest = abs(means) + (epsilon + g * v * v[0]) / n  # μ
    # How far D̃ can be from D, per unit of ε and for the rest.
    per_entry, rest = 1 + 2 * largest, g * v * (v + 2 * largest * v[0])
    uncertain = _SLACK * (epsilon * per_entry + rest)
    kept = _kept(spreads, uncertain, n, column, names)

    inside = np.ix_(kept, kept)
    scale = np.sqrt(spreads[kept] / n)
    scale[0] = 1.0
    penalty = ridge * spreads[kept]
    penalty[0] = 0.0
    G, v, m = G[inside], v[kept], means[kept]
    m[0] = 0.0  # T leaves the first column as it is
    per_entry, rest, bounds = per_entry[kept], rest[kept], (spreads + uncertain)[kept]
    per_entry[0] = rest[0] = bounds[0] = 0.0
    A = G + np.diag(penalty)
    standardised = _standardised(A, m, scale, n)
    smallest, condition, factor = _smallest_eigenvalue(standardised)
    W, residual, unit, majorant = _refined(A, C[kept], factor, m, scale, v, w, ridge * bounds)

    # |T|ᵀ1 and |T|ᵀv.
    a, b = (1 + abs(m)) / scale, (v + abs(m) * v[0]) / scale
    a[0], b[0] = 1.0, v[0]
    ridge_errors = ridge * (entry_error * per_entry + tiny * per_entry + rest)
    # Twice, as U is of bounds on D that the pooled side may have twice as large.
    solving = 2 * (_RESIDUAL + 1) * gamma(len(kept) + 5)
    rounded = gamma(10) * (float(b @ b) + ridge * float((bounds / scale**2).max()))  # of A' itself
    losses = epsilon * a**2 + g * b**2 + ridge_errors / scale**2
    loss = epsilon * float(a @ a) + g * float(b @ b) + float((ridge_errors / scale**2).max())
    loss += solving * (float(b @ b) + ridge * float((bounds / scale**2).max())) + rounded
    gap = smallest - _SLACK * loss
    if not gap > 0:
        raise SolveError(
            _no_guarantee(smallest, loss, losses + gamma(10) * b**2, n, scale, ridge, kept, names)
        )

    absolute = abs(W)
    back = math.sqrt(1 + float(((m / scale) ** 2).sum()) + float((1 / scale**2).max()))
    unit_errors = np.broadcast_to(1 + absolute.sum(axis=0), W.shape) + ridge * per_entry[:, None] * absolute
    moved = tiny * unit_errors + g * np.outer(v, w + v @ absolute) + ridge * rest[:, None] * absolute
    residuals = residual + unit + solving * majorant
    weights = np.zeros((d, c))
    weights[kept] = W
    weights.flags.writeable = False
    certificate = Certificate(
        fixed_point=_SLACK * back * entry_error * _norm(_transposed(unit_errors, m, scale)) / gap,
        rounding=_SLACK * back * _norm(_transposed(moved + residuals, m, scale)) / gap,
        smallest_eigenvalue=smallest - _SLACK * rounded,
        gram_error=_SLACK * (len(kept) * epsilon + g * float(v @ v)),
        cross_error=_SLACK * (math.sqrt(W.size) * epsilon + g * _norm(v) * w * math.sqrt(c)),
        ridge_error=_SLACK * float(ridge_errors.max()),
        condition=condition,
    )
    constant = tuple(sorted(set(range(d)) - set(kept)))
    return Solution(weights, certificate, statistics, constant)


def _kept(spreads: Matrix, uncertain: Matrix, n: int, column: float, names: Sequence[str]) -> list[int]:
    """The first column, and those that are proven not to be constant."""
    vague = [j for j in range(1, len(spreads)) if not spreads[j] > uncertain[j]]
    deviations = np.sqrt(np.maximum(spreads + uncertain, 0.0) / n)
    if wrong := [j for j in vague if not deviations[j] <= _CONSTANT * column]:
        most = max(float(deviations[j]) for j in wrong)
        raise SolveError(
            f"no guarantee can be given: {_named(wrong, names)} cannot be told from a constant, as a standard deviation "
            f"of up to {most:.2g} is lost in the digits of the sum (bound on a value: {column:g}); leave it out if it "
            "is constant, else agree on narrower bounds, such as a range [low, high], or on fewer max_rows"
        )
    return [j for j in range(len(spreads)) if j not in set(vague)]


def _standardised(A: Matrix, m: Matrix, scale: Matrix, n: int) -> Matrix:
    """TᵀAT, each entry after at most 9 roundings of what is bounded by |T|ᵀ|A||T|."""
    first = A[0] - m * n
    first[0] = n
    centred = A - np.outer(m, A[0]) - np.outer(first, m)
    centred[0], centred[:, 0] = first, first
    scaled = centred / scale / scale[:, None]
    return np.triu(scaled) + np.triu(scaled, 1).T


def _transposed(errors: Matrix, m: Matrix, scale: Matrix) -> Matrix:
    """|T|ᵀ·errors for errors ≥ 0."""
    return (errors + np.outer(abs(m), errors[0])) / scale[:, None]


def _refined(
    A: Matrix,
    C: Matrix,
    factor: Factor,
    m: Matrix,
    scale: Matrix,
    v: Matrix,
    w: float,
    penalty: Matrix,
) -> tuple[Matrix, Matrix, Matrix, Matrix]:
    """W, the magnitudes of its computed residual, how far these can be off, and U(W)."""
    W = np.zeros_like(C)
    for _ in range(1 + _REFINEMENTS):
        left = C - A @ W
        step = cho_solve(factor, (left - np.outer(m, left[0])) / scale[:, None], check_finite=False)
        step /= scale[:, None]
        step[0] -= m @ step
        W = W + step
    absolute = abs(W)
    majorant = np.outer(v, w + v @ absolute) + penalty[:, None] * absolute
    tolerated = gamma(len(A) + 5) * majorant + len(A) * _UNDERFLOW
    residual = abs(C - A @ W)
    if not (residual <= _RESIDUAL * tolerated).all() or not np.isfinite(tolerated).all():
        raise SolveError(
            f"the solve did not converge: the residual is {float((residual / tolerated).max()):g} times what rounding "
            "explains; use a larger ridge or drop dependent columns"
        )
    return W, residual, tolerated, majorant


def _named(columns: Sequence[int], names: Sequence[str]) -> str:
    """Columns of the Gram by name, or by number among the features, from 1."""
    shown = [repr(names[j - 1]) if names else str(j) for j in columns[:5]]
    more = f" and {len(columns) - 5} more" if len(columns) > 5 else ""
    return ("column " if len(columns) == 1 else "columns ") + ", ".join(shown) + more


def _no_guarantee(
    smallest: float,
    loss: float,
    losses: Matrix,
    n: int,
    scale: Matrix,
    ridge: float,
    kept: Sequence[int],
    names: Sequence[str],
) -> str:
    text = (
        f"no guarantee can be given: the smallest eigenvalue of the standardised system is proven to be {smallest:g} or "
        f"more ({n} rows), but it may be off by {loss:g}; "
    )
    losses = losses[1:]
    worst = float(losses.max(initial=0.0))
    if worst > 2.0**-10 * n:
        columns = [kept[1 + j] for j in np.flatnonzero(losses > worst / 8).tolist()]
        return text + (
            f"{_named(columns, names)}: the spread (standard deviation {float(scale[1 + losses.argmax()]):.2g}) is too "
            "small for the bound; agree on narrower bounds, such as a range [low, high], or on fewer max_rows"
        )
    return text + f"use a larger ridge (now {ridge:g}), or drop dependent columns"
