"""The one linear solve, and the proof of how far secure aggregation can have moved its result.

The certificate holds in floating point, not only on paper: IEEE float64 round to nearest, sums in any order
(whatever BLAS does), fused or not, underflow gradual or flushed to zero. Inequalities about rounding are
those of Higham, Accuracy and Stability of Numerical Algorithms (2nd ed.), §3.1, §3.5, §10.1.

Write A = G + γI, γ = ridge·trace(G)/d; ˜ marks the aggregated system, no mark the pooled one; both solves
are the function below. With residuals R̃ = C̃ − ÃW̃ and R = C − AW, E_A = Ã − A, E_C = C̃ − C, D = W̃ − W:

    ÃD = (E_C − E_A·W̃) + E_A·D − R̃ + R,   so   ‖D‖·(λ_min(Ã) − ‖E_A‖) ≤ ‖E_C − E_A·W̃‖ + ‖R̃‖ + ‖R‖,

and ‖R‖ is bounded although only the aggregated system is seen, since no W with a larger one is returned.
"""

import math
from dataclasses import astuple, dataclass

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, cholesky, eigvalsh
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from secure_afl.analytic.statistics import Matrix, SufficientStatistics, gamma
from secure_afl.errors import SolveError

# Bounds below are sums, products and roots of non-negative numbers; one of them takes fewer than 2^34
# roundings, so it is off by less than 2^-19. This pays for sixteen such quantities on top of each other.
_SLACK = 1 + 2.0**-15
# Covers the absolute error, 2^-1022 even if flushed to zero, that a product and a sum make by underflow on
# each of the two sides that are compared.
_UNDERFLOW = 2.0**-1020
_REFINEMENTS = 2
_LANCZOS_FROM = 200  # larger than this, two eigenvalues by Lanczos cost a tenth of all of them
# Relative tolerances of Lanczos. An estimate of the least eigenvalue up to a ninth too large can be proven: the first
# tolerance nearly always serves, in a few steps; the second costs ten times as many.
_TOLERANCES = (2e-2, 1e-3)
_LANCZOS_VECTORS = 8
# `solve` returns no W whose computed residual exceeds this multiple of what rounding may do to a residual.
_RESIDUAL = 4
Factor = tuple[Matrix, bool]


@dataclass(frozen=True)
class Certificate:
    """Proof that ‖W − W_plain‖_F ≤ bound, W_plain being the same solve on the statistics of the pooled rows.

    Parameters
    ----------
    fixed_point : float
        The part of the bound that the entry error causes.
    rounding : float
        The part that rounding in float64 causes.
    smallest_eigenvalue : float
        Proven lower bound of λ_min(G + γI) for the aggregated G and its γ.
    gram_error, cross_error, ridge_error : float
        Proven bounds on the distance of the aggregated G (spectral norm), C (Frobenius norm) and γ from the pooled ones.
    condition : float
        Estimate of the condition number of G + γI; not proven and used nowhere.

    Raises
    ------
    SolveError
        If a number is not finite, as a bound that overflowed guarantees nothing.
    """

    fixed_point: float
    rounding: float
    smallest_eigenvalue: float
    gram_error: float
    cross_error: float
    ridge_error: float
    condition: float

    def __post_init__(self) -> None:
        if not all(0 <= value < math.inf for value in (*astuple(self), self.bound)):
            raise SolveError(f"no guarantee can be given, numbers left the range of float64: {self}")

    @property
    def bound(self) -> float:
        """Guaranteed upper bound on ‖W − W_plain‖_F."""
        return self.fixed_point + self.rounding


@dataclass(frozen=True, eq=False)
class Solution:
    """weights: (d, c) float64, read-only; certificate: how far they can be from the pooled solution.

    statistics: what was solved, None where key holders released the weights alone; constant: the rows of weights that
    are 0 as their columns cannot be told from constant ones; ridge: the penalty, given or chosen.
    """

    weights: Matrix
    certificate: Certificate
    statistics: SufficientStatistics | None = None
    constant: tuple[int, ...] = ()
    ridge: float = 0.0


@np.errstate(all="ignore")  # what overflows is caught as not finite; underflow is paid for
def solve(
    statistics: SufficientStatistics, *, ridge: float, entry_error: float = 0.0, target: float = 1.0
) -> Solution:
    """W = (G + γI)⁻¹C by Cholesky with iterative refinement, γ = ridge·trace(G)/d.

    ridge: λ from 0 to 2^64, relative to the mean diagonal entry of G.
    entry_error: proven bound on |packed entry − exact sum of the clients' float64 entries|. For n clients
        and f fraction bits that is n·2^-(f+1); rounding that exact sum to float64 is accounted for here.
    target: the agreed bound on |Y_ij| (`PublicBounds.target`).

    Raises SolveError if the system is singular or so close to it that nothing can be guaranteed.
    """
    if not (0 <= ridge <= 2.0**64 and 0 <= entry_error < math.inf and 2.0**-900 < target < 2.0**900):
        raise SolveError(f"ridge {ridge!r}, entry_error {entry_error!r} or target {target!r} out of range")
    G, C, M = statistics.gram, statistics.cross, statistics.count
    d, c = C.shape
    peak = float(abs(G).max())
    if M == 0 or not 2.0**-900 < peak < 2.0**900:  # in this range underflow cannot matter to Cholesky
        raise SolveError(f"cannot solve: {M} rows, largest entry of their Gram matrix {peak:g}")
    shift = ridge * math.fsum(G.diagonal()) / d
    A = G.copy()
    A[np.diag_indices(d)] += shift
    smallest, condition, factor = _smallest_eigenvalue(A)
    W, residual, residual_unit = _refined(A, C, factor)

    # Entry by entry |E_G| ≤ ε·11ᵀ + g·vvᵀ and |E_C| ≤ ε·11ᵀ + g·vwᵀ. ε is the entry error and underflow.
    # Either side adds up M products per entry and the aggregate is rounded once more, so the errors are at
    # most γ_M and γ_{M+1} times (|X|ᵀ|X|)_jk ≤ ‖x_j‖‖x_k‖ and (|X|ᵀ|Y|)_jk ≤ ‖x_j‖·w; ‖x_j‖ is known up to
    # that error too, ‖x_j‖² ≤ v_j²/(1 − γ_{M+1}), and (γ_M + γ_{M+1})/(1 − γ_{M+1}) ≤ γ_{2M+2}.
    g, underflow = gamma(2 * M + 2), (M + 1) * _UNDERFLOW
    squares = G.diagonal() + entry_error + underflow
    v, w, trace = np.sqrt(squares), target * math.sqrt(M), float(squares.sum())
    # On both sides γ takes three roundings; γ_4 as it is compared with the rounded γ.
    shift_rounding = ridge * (underflow + g * trace / d) + 2 * gamma(4) * abs(shift) + _UNDERFLOW
    gram_error = d * (entry_error + underflow) + g * trace
    cross_error = math.sqrt(d * c) * (entry_error + underflow) + g * _norm(v) * w * math.sqrt(c)
    ridge_error = ridge * entry_error + shift_rounding

    # ‖E_C − E_A·W̃‖ from these entries, per unit of ε and then for the rest.
    per_entry = math.sqrt(d) * _norm(1 + abs(W).sum(axis=0)) + ridge * _norm(W)
    moved = underflow * per_entry + g * _norm(v) * _norm(w + v @ abs(W)) + shift_rounding * _norm(W)
    # The pooled residual is at most (_RESIDUAL + 1)·γ_{d+2}·‖|C| + |A||W|‖, which is the aggregated quantity,
    # plus a share of ‖E_C − E_A·W̃‖ that _SLACK covers, plus ‖|A|‖·‖D‖, which goes to the left-hand side.
    residuals = residual + residual_unit + (_RESIDUAL + 1) * residual_unit
    total = gram_error + ridge_error
    total += (_RESIDUAL + 1) * gamma(d + 2) * (_norm(A) + total)
    gap = smallest - _SLACK * total
    if not gap > 0:
        raise SolveError(
            f"no guarantee can be given: the smallest eigenvalue of G + γI is proven to be {smallest:g} or "
            f"more, but the aggregated matrix may be off by {total:g} ({d * entry_error:g} of it by fixed "
            f"point); use more fraction bits, a larger ridge (now {ridge:g}), or drop dependent columns"
        )
    certificate = Certificate(
        fixed_point=_SLACK * entry_error * per_entry / gap,
        rounding=_SLACK * (moved + residuals) / gap,
        smallest_eigenvalue=smallest,
        gram_error=_SLACK * gram_error,
        cross_error=_SLACK * cross_error,
        ridge_error=_SLACK * ridge_error,
        condition=condition,
    )
    W.flags.writeable = False
    return Solution(W, certificate, statistics, ridge=ridge)


def _smallest_eigenvalue(A: Matrix) -> tuple[float, float, Factor]:
    """A proven lower bound of λ_min(G + γI), where A is its rounded value, an estimated condition, and A's factor.

    Rump, Verification of positive definiteness, BIT 46 (2006): if Cholesky of B = A − sI runs to its end, its
    factor F is real and FᵀF = B + ΔB with |ΔB_ij| ≤ γ_{d+2}/(1 − γ_{d+2})·√(B_ii·B_jj) (Higham, Thm 10.3,
    10.5; d + 1 roundings, one more where BLAS multiplies by a reciprocal), hence λ_min(B) ≥ −‖ΔB‖ ≥
    −γ_{d+2}/(1 − γ_{d+2})·trace(A). Rounding the diagonals of A and B and the last subtraction below takes
    3u·trace(A), underflow far less than u·trace(A).
    """
    rounding = gamma(len(A) + 6) / (1 - gamma(len(A) + 6)) * math.fsum(A.diagonal())
    for tolerance in _TOLERANCES if len(A) > _LANCZOS_FROM else (0.0,):
        try:
            factor = cho_factor(A.T)  # the same matrix, as LAPACK stores it: no conversion
            eigenvalues = _extremes(A, factor, tolerance)
            shift = 0.9 * float(eigenvalues[0])
            B = A.copy()
            B[np.diag_indices_from(B)] -= shift
            proven = bool(np.isfinite(cholesky(B.T, overwrite_a=True)).all())
        except LinAlgError:
            continue
        if proven and shift - _SLACK * rounding > 0:
            return shift - _SLACK * rounding, float(eigenvalues[-1] / eigenvalues[0]), factor
    raise SolveError(
        f"G + γI cannot be told from a singular matrix: float64 resolves its eigenvalues to {rounding:g} "
        "only, and the smallest is below or near that; use a larger ridge or drop dependent columns"
    )


def _extremes(A: Matrix, factor: Factor, tolerance: float) -> Matrix:
    """Estimates of the eigenvalues of A, the least first and the largest last; no bound rests on them.

    tolerance: relative, of those of a large A.
    """
    if len(A) <= _LANCZOS_FROM:
        return np.asarray(eigvalsh(A))
    inverse = LinearOperator(
        A.shape, matvec=lambda x: cho_solve(factor, x, check_finite=False), dtype=np.float64
    )
    # Any vector will do that no eigenvector is orthogonal to.
    start = np.random.default_rng(0).standard_normal(len(A))
    try:
        ends = [
            eigsh(one, k=1, which="LA", v0=start, ncv=_LANCZOS_VECTORS, tol=tolerance)[0][0]
            for one in (inverse, A)
        ]
    except ArpackError:
        return np.asarray(eigvalsh(A))
    return np.array([1 / ends[0], ends[1]])


def _refined(A: Matrix, C: Matrix, factor: Factor) -> tuple[Matrix, float, float]:
    """W, the norm of its computed residual, and how far that can be from the norm of the true residual.

    The second bound is γ_{d+2}·‖|C| + |A||W|‖: d products and sums, one subtraction, one rounding of A.
    """
    W = np.zeros_like(C)
    for _ in range(1 + _REFINEMENTS):
        W = W + cho_solve(factor, C - A @ W, check_finite=False)  # what is not finite fails below
    residual = _norm(C - A @ W)
    unit = gamma(len(A) + 2) * _norm(abs(C) + abs(A) @ abs(W)) + len(A) * math.sqrt(C.size) * _UNDERFLOW
    if not residual <= _RESIDUAL * unit < math.inf:
        raise SolveError(f"the solve did not converge: residual {residual:g}, tolerated {_RESIDUAL * unit:g}")
    return W, residual, unit


def _norm(values: Matrix) -> float:
    """Euclidean or Frobenius norm whose squares neither overflow nor vanish."""
    peak = float(abs(values).max())
    return peak * float(np.linalg.norm(values / peak)) if 0 < peak < math.inf else peak
