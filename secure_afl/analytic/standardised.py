"""Ridge regression with a free intercept and a penalty on standardised columns, out of one Gram matrix.

The first column of X is ones. With n rows, means m_j = s_j/n and D_j = G_jj − s_j²/n (n times column j's variance),
W minimises ‖Y − XW‖² + ridge·Σ_j D_j‖W_j‖² over j ≥ 1: scikit-learn's StandardScaler before Ridge(alpha=n·ridge), told
in the columns' own units. With weighted rows, each row of X and Y times the root of its weight, n is the sum of weights. So the model does not depend on the columns' units and origins; but fixed point does:
G_jj − s_j²/n cancels where a column lies far from 0. The certificate says what is left.

**The system.** AW = C with A = G + P, P = ridge·diag(0, D_1, …); its first row makes W_0 the intercept. ˜ marks the
aggregated side, no mark the pooled one. Without weights n is whole, so it and G_00 = n are exact on both sides. E_G = G̃ − G, E_C, E_P
likewise, R̃ = C̃ − ÃW̃ and R = C − AW are the residuals of the two solves, D = W̃ − W. As in `secure_afl.analytic.solve`,

    ÃD = (E_C − E_A·W̃) + E_A·D − R̃ + R.

**Standardised coordinates.** Let T = [[1, −m_j/r_j], [0, diag(1/r_j)]] with the aggregated means and deviations as
float64 numbers, D = TD', A' = TᵀÃT. Multiplied by Tᵀ the equation gives

    ‖D'‖·(λ_min(A') − ‖TᵀE_A T‖) ≤ ‖Tᵀ(E_C − E_A·W̃)‖ + ‖TᵀR̃‖ + ‖TᵀR‖.

A' is near n times the correlation matrix, whatever the units. What |T| does to errors is what centring costs:
|T|ᵀ|E||T| has entries up to (1 + |m_j|)²/r_j² times those of E.

**Errors of entries.** |E_G| ≤ ε·11ᵀ + g·vvᵀ but for an exact (0, 0), and |E_C| ≤ ε·11ᵀ + g·vwᵀ: ε is the entry error;
v_j = ‖x_j‖ and w = target·√n; g counts the roundings of `SufficientStatistics.from_rows` on either side, and of adding.
E_P is diagonal with ridge·(D̃_j − D_j). As D_j is the least value of G_jj − 2m·s_j + m²·n over m, |D̃_j − D_j| is at most
|E_jj| + 2μ_j|E_0j| + μ_j²|E_00| if |m_j|, |m̃_j| ≤ μ_j. D̃_j is taken from G̃ without rounding error (rational arithmetic).

**Residuals.** |A||W| + |C| ≤ U(W) = v(w + vᵀ|W|) + ridge·D|W|, entry by entry. A solve returns no W whose computed
residual exceeds κ·γ·U(W), γ = γ_{d+5} being what rounding may do to it, so |R| ≤ (κ + 1)·γ·U(W) and
U(W) ≤ U(W̃) + (vvᵀ + ridge·diag D)|D|: the first part is known, the second goes to the left-hand side.

**Back.** ‖W̃ − W‖ = ‖TD'‖ ≤ (1 + Σ m_j²/r_j² + max 1/r_j²)^½·‖D'‖.

**Choice of the penalty.** Without a ridge, generalised cross-validation (Golub, Heath and Wahba 1979) chooses it out of
`RIDGES`, from G, C, YᵀY and n: see `secure_afl.analytic.path`. The certificate is of the solve with that ridge.

**Columns of 0 and 1.** Without weights their sums s_j = G_jj are whole numbers on both sides, so an entry error below 1/2
leaves them exact: E_0j = E_jj = 0, D_j is known, and is 0 only if the column is constant.

**Constant columns.** Where D̃_j may be 0, the column cannot be told from a constant one. If its deviation is at most
2^-21 of the column's bound, its weight is 0 and it is listed; the certificate is of the solve without it. Else nothing
is returned.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy.linalg import cho_solve

from secure_afl.analytic.path import RIDGES, path
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
    ridge: float | None,
    entry_error: float = 0.0,
    target: float = 1.0,
    column: float = 1.0,
    weighted: bool = False,
    names: Sequence[str] = (),
    indicators: Sequence[int] = (),
) -> Solution:
    """The W of the module's text, (1 + d, c).

    statistics: of rows with a column of ones in front; those of clients made by `from_rows` and added exactly, or by
        `statistics.added`.
        With ridge None they need squares, which for one-hot Y are diagonal.
    ridge: from 0 to 2^64, times n the penalty on the weights of standardised columns; None chooses it.
    entry_error: proven bound on |packed entry − exact sum of the clients' float64 entries|, below 1/2.
    target: the agreed bound on |Y_ij|; column: that on |X_ij|; weighted: whether rows are multiplied by roots of weights,
        the first column then being these roots, target and column bounds on what was multiplied. names: of the columns but the first, for errors.
    indicators: numbers of columns that are 0 or 1 in every row; without weights their sums are whole numbers, and known
        exactly.

    Raises SolveError if nothing can be guaranteed; it says which columns are the cause.
    """
    if not (
        (ridge is None or 0 <= ridge <= 2.0**64)
        and 0 <= entry_error < 0.5
        and min(target, column) > 2.0**-400
    ):
        raise SolveError(
            f"expected a ridge from 0 to 2^64 and an entry error below 1/2, got {ridge!r} and {entry_error!r}, with "
            f"bounds of {target:g} and {column:g}"
        )
    c = statistics.cross.shape[1]
    if not target < 2.0**400:
        raise SolveError(f"expected targets in the range of float64, got a bound of {target:g}")
    sure = certainty(
        statistics,
        entry_error=entry_error,
        column=column,
        weighted=weighted,
        names=names,
        indicators=indicators,
    )
    n, kept, g, tiny, epsilon = sure.weight, sure.kept, sure.relative, sure.tiny, sure.tiny + entry_error
    inside = np.ix_(kept, kept)
    G, C, v, m, scale = sure.gram[inside], statistics.cross[kept], sure.norms, sure.means, sure.scale
    # Of a column of Y; where rows are multiplied by roots of weights, these are in it.
    w = target * (math.sqrt(statistics.count) if weighted else v[0])
    if ridge is None:
        ridge = _chosen(statistics, sure)
    A = G + np.diag(ridge * sure.spreads)
    smallest, condition, factor = _proven(_standardised(A, m, scale, n), sure, names)
    W, residual, unit, majorant = _refined(A, C, factor, m, scale, v, w, ridge * sure.most)

    ridge_errors = ridge * (entry_error * sure.per_entry + tiny * sure.per_entry + sure.rest)
    # Twice, as U is of bounds on D that the pooled side may have twice as large.
    solving = 2 * (_RESIDUAL + 1) * gamma(len(kept) + 5)
    penalised = ridge * float((sure.most / scale**2).max())
    rounded = gamma(10) * (float(sure.b @ sure.b) + penalised)  # of A' itself
    loss = sure.loss + float((ridge_errors / scale**2).max())
    loss += solving * (float(sure.b @ sure.b) + penalised) + rounded
    gap = smallest - _SLACK * loss
    if not gap > 0:
        losses = epsilon * sure.a**2 + (g + gamma(10)) * sure.b**2 + ridge_errors / scale**2
        raise SolveError(_no_guarantee(smallest, loss, losses, ridge, sure, G, names))

    absolute = abs(W)
    back = math.sqrt(1 + float(((m / scale) ** 2).sum()) + float((1 / scale**2).max()))
    unit_errors = (
        np.broadcast_to(1 + absolute.sum(axis=0), W.shape) + ridge * sure.per_entry[:, None] * absolute
    )
    moved = tiny * unit_errors + g * np.outer(v, w + v @ absolute) + ridge * sure.rest[:, None] * absolute
    residuals = residual + unit + solving * majorant
    weights = np.zeros(statistics.cross.shape)
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
    return Solution(weights, certificate, statistics, sure.constant, ridge)


@dataclass(frozen=True, eq=False)
class Certainty:
    """What is certain of the columns of a sum. Arrays are of the columns that are kept, the first included.

    gram: of all columns, the number of rows exact; weight: n; constant, kept: numbers of columns; means, spreads: m, D;
    scale: the deviations, 1 for the first column; norms: v; relative, tiny: g, and what underflow can do;
    per_entry, rest: how far D can be off, per unit of the entry error and for the rest; most: upper bounds on D;
    a, b: |T|ᵀ1 and |T|ᵀv; loss: bound on ‖TᵀE_G T‖.
    """

    gram: Matrix
    weight: float
    constant: tuple[int, ...]
    kept: list[int]
    means: Matrix
    spreads: Matrix
    scale: Matrix
    norms: Matrix
    relative: float
    tiny: float
    per_entry: Matrix
    rest: Matrix
    most: Matrix
    a: Matrix
    b: Matrix
    loss: float


@np.errstate(all="ignore")
def certainty(
    statistics: SufficientStatistics,
    *,
    entry_error: float = 0.0,
    column: float = 1.0,
    weighted: bool = False,
    names: Sequence[str] = (),
    indicators: Sequence[int] = (),
) -> Certainty:
    """See `solve_standardised` for the arguments. Raises SolveError for columns that cannot be told from constants although
    they could have a deviation that counts.
    """
    rows, d = statistics.count, len(statistics.gram)
    if rows == 0 or not float(abs(statistics.gram).max()) < 2.0**400:
        raise SolveError(f"expected rows with sums in the range of float64, got {rows} rows")
    G = statistics.gram.copy()
    # See `statistics.roundings`: once for each side, and the additions.
    g = gamma(2 * roundings(rows) + _ADDITIONS)
    tiny = (rows + 1) * _UNDERFLOW
    epsilon = entry_error + tiny
    if not weighted:
        if not abs(G[0, 0] - rows) <= entry_error:
            raise SolveError(
                f"expected a first column of {rows} ones, got one with a sum of squares of {G[0, 0]:g}"
            )
        G[0, 0] = rows
        for j in indicators:
            count = round(float(G[0, j]))
            if not (0 <= count <= rows and max(abs(G[0, j] - count), abs(G[j, j] - count)) <= entry_error):
                raise SolveError(
                    f"expected {_named([j], names)} to be 0 or 1 in every row, got sums of {G[0, j]:g} and {G[j, j]:g} over "
                    f"{rows} rows"
                )
            G[0, j] = G[j, 0] = G[j, j] = count
    n = float(G[0, 0])
    inexact = epsilon + g * n if weighted else 0.0  # E_00
    if not n > 2 * inexact:
        raise SolveError(f"expected a sum of weights above 0, got {n:g}")
    v = np.sqrt(np.maximum(G.diagonal() + epsilon, 0.0) / (1 - g))
    if not weighted:
        v[0] = math.sqrt(n)
    means = G[0] / n
    spreads = np.array([float(Fraction(G[j, j]) - Fraction(G[0, j]) ** 2 / Fraction(n)) for j in range(d)])
    largest = abs(means) + (epsilon + g * v * v[0] + abs(means) * inexact) / (n - inexact)  # μ
    per_entry, rest = 1 + 2 * largest, g * v * (v + 2 * largest * v[0])
    if weighted:
        per_entry, rest = per_entry + largest**2, rest + g * n * largest**2
    uncertain = _SLACK * (epsilon * per_entry + rest)
    if not weighted:
        uncertain[list(indicators)] = 0.0  # of whole numbers, known exactly
    kept = _kept(spreads, uncertain, n, column, names)

    m, spreads, v, most = means[kept], spreads[kept], v[kept], (spreads + uncertain)[kept]
    per_entry, rest = per_entry[kept], rest[kept]
    scale = np.sqrt(spreads / n)
    scale[0] = 1.0
    # T leaves the first column as it is, and it has no penalty.
    m[0] = spreads[0] = most[0] = per_entry[0] = rest[0] = 0.0
    a, b = (1 + abs(m)) / scale, (v + abs(m) * v[0]) / scale
    a[0], b[0] = 1.0, v[0]
    return Certainty(
        gram=G,
        weight=n,
        constant=tuple(sorted(set(range(d)) - set(kept))),
        kept=kept,
        means=m,
        spreads=spreads,
        scale=scale,
        norms=v,
        relative=g,
        tiny=tiny,
        per_entry=per_entry,
        rest=rest,
        most=most,
        a=a,
        b=b,
        loss=_SLACK * (epsilon * float(a @ a) + g * float(b @ b)),
    )


def _kept(spreads: Matrix, uncertain: Matrix, n: float, column: float, names: Sequence[str]) -> list[int]:
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


def _chosen(statistics: SufficientStatistics, sure: Certainty) -> float:
    """The ridge that generalised cross-validation chooses."""
    if statistics.squares is None:
        raise SolveError(
            "expected YᵀY in the sum to choose a ridge by generalised cross-validation, got a sum without"
        )
    n, C = sure.weight, statistics.cross
    variances = (statistics.squares.diagonal() - C[0] ** 2 / n) / n
    inside = np.ix_(sure.kept, sure.kept)
    R = _standardised(sure.gram[inside], sure.means, sure.scale, n)[1:, 1:] / n
    cross = (C[sure.kept] - np.outer(sure.means, C[0]))[1:] / sure.scale[1:, None] / n
    return path(R, cross, np.maximum(variances, 0.0), statistics.count, RIDGES).best


def _standardised(A: Matrix, m: Matrix, scale: Matrix, n: float) -> Matrix:
    """TᵀAT, each entry after at most 9 roundings of what is bounded by |T|ᵀ|A||T|."""
    first = A[0] - m * n
    first[0] = n
    centred = A - np.outer(m, A[0]) - np.outer(first, m)
    centred[0], centred[:, 0] = first, first
    scaled = centred / scale / scale[:, None]
    return np.triu(scaled) + np.triu(scaled, 1).T


def _proven(A: Matrix, sure: Certainty, names: Sequence[str]) -> tuple[float, float, Factor]:
    """As `_smallest_eigenvalue`, with the columns that depend on each other in the error."""
    try:
        return _smallest_eigenvalue(A)
    except SolveError as error:
        raise SolveError(f"{_dependent(A, sure, names)}: {error}") from None


def _dependent(A: Matrix, sure: Certainty, names: Sequence[str]) -> str:
    """The columns of the direction that varies least."""
    if len(A) < 2 or not np.isfinite(A).all():
        return "the sum cannot be solved"
    direction = abs(np.linalg.eigh(A[1:, 1:])[1][:, 0])
    columns = [sure.kept[1 + j] for j in np.flatnonzero(direction > direction.max() / 8).tolist()]
    return f"{_named(columns, names)} depend{'s' if len(columns) == 1 else ''} on each other or on few rows"


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
    ridge: float,
    sure: Certainty,
    G: Matrix,
    names: Sequence[str],
) -> str:
    text = (
        f"no guarantee can be given: the smallest eigenvalue of the standardised system is proven to be {smallest:g} or "
        f"more ({sure.weight:g} rows), but it may be off by {loss:g}; "
    )
    losses = losses[1:]
    worst = float(losses.max(initial=0.0))
    if worst > 2.0**-10 * sure.weight:
        columns = [sure.kept[1 + j] for j in np.flatnonzero(losses > worst / 8).tolist()]
        spread = float(sure.scale[1 + losses.argmax()])
        return text + (
            f"{_named(columns, names)}: the spread (standard deviation {spread:.2g}) is too small for the bound; agree "
            "on narrower bounds, such as a range [low, high], or on fewer max_rows"
        )
    A = _standardised(G, sure.means, sure.scale, sure.weight)
    return (
        text + f"{_dependent(A, sure, names)}: use a larger ridge (now {ridge:g}), or drop dependent columns"
    )
