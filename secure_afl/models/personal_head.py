"""A client's own classifier around the common one: logistic regression or least squares, chosen on its own rows.

Around t times the common scores XW_g, for the labels that the client has seen,

    B = argmin Σ_i log(1 + exp(−s_i(t·x_iᵀW_g + x_iᵀB))) + μ/2·‖B‖²,   s_i = ±1,   W = t·W_g + B,

by Newton's method, label against label for two labels, else each label against the rest. t = 0 is a model of the client
alone, t = 8 turns least-squares scores between 0 and 1 into log-odds between −4 and 4. μ and t have the least log-loss of
approximate leave-one-out scores (Rad and Maleki, JRSS B 2020), which takes the Hessian of the fit and no refit. The client
computes all of this from its own rows and from the model that all clients were sent. It sends nothing.
"""

from dataclasses import dataclass
from math import sqrt
from typing import cast

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.special import expit

from secure_afl.analytic.statistics import Matrix
from secure_afl.models.personal import Adapted, Local

SCALES = (0.0, 8.0)
# μ in units of the mean squared length of a row.
PULLS = tuple(10.0**exponent for exponent in range(0, -7, -1))
_STEPS, _HALVINGS = 12, 8
_CONVERGED = 1e-4  # of the coefficients: at 1e-2 left-out scores can be worse than those of the fit
_IGNORED = 1e-2  # a direction whose squared singular value is below this multiple of μ stays at t·W_g
_LARGEST = 64.0
# Multiplications of one fit for each label; beyond this, as with wide networks and many labels, it takes seconds.
_MOST = 3e9


@dataclass(frozen=True)
class _Fit:
    """scores: leave-one-out, (n,); B: in the coordinates of the rows' leading right singular vectors."""

    B: Matrix
    scores: Matrix


def own_head(rows: Matrix, targets: Matrix, anchor: Matrix, labels: npt.NDArray[np.int64]) -> Adapted:
    """The client's logistic head, or that of least squares if its leave-one-out errors are fewer by a standard error.

    rows: (n, inputs), the first column constant; targets: one-hot (n, classes); anchor: W_g, (inputs, classes);
    labels: (n,). With one label only, and where the logistic fit would take long, it is the least-squares head of `Local`.
    Raises `DataError` as `Local` does.
    """
    local = Local(rows, targets, anchor)
    ridge, seen = local.choose(labels), len(np.unique(labels))
    fits = len(SCALES) * len(PULLS) * (1 if seen == 2 else seen)
    if seen == 1 or fits * len(rows) * min(rows.shape) ** 2 > _MOST:
        return ridge
    logistic = logistic_head(rows, anchor, labels, local)
    wrong, by_ridge = (round(one.error * len(rows)) for one in (logistic, ridge))
    return ridge if by_ridge + sqrt(wrong) < wrong else logistic


def logistic_head(rows: Matrix, anchor: Matrix, labels: npt.NDArray[np.int64], decomposed: Local) -> Adapted:
    """The logistic head, see the module; for two labels or more, of which it predicts no other.

    decomposed: least squares of the same rows. `error` of the result is the approximate leave-one-out error.
    """
    seen, places = np.unique(labels, return_inverse=True)
    (left, singular, right), unit = decomposed.decomposition, decomposed.unit
    wanted = np.eye(len(seen))[places]
    common = anchor[:, seen]
    if len(seen) == 2:
        wanted, common = wanted[:, 1:], common[:, 1:] - common[:, :1]
        middle = 0.0
    else:
        middle = 0.5  # least-squares scores of a label and of the rest are 1 and 0
    best: tuple[float, float, float, list[_Fit]] | None = None
    for scale in SCALES:
        offsets = scale * (rows @ common - middle)
        start: list[Matrix] = [np.zeros(0)] * wanted.shape[1]
        for mu in PULLS:
            used = int((singular**2 > _IGNORED * mu * unit).sum())
            scores = left[:, :used] * singular[:used]
            fits = [
                _fitted(scores, offsets[:, j], wanted[:, j], mu * unit, start[j])
                for j in range(wanted.shape[1])
            ]
            loss = float(np.mean([_loss(fit.scores, wanted[:, j]).mean() for j, fit in enumerate(fits)]))
            if best is None or loss < best[0]:
                best = (loss, scale, mu, fits)
            elif best[1] == scale:
                break  # with less pull it becomes worse
            start = [fit.B for fit in fits]
    _, scale, mu, fits = cast("tuple[float, float, float, list[_Fit]]", best)
    own = scale * common + np.column_stack([right[: len(fit.B)].T @ fit.B for fit in fits])
    own[0] -= scale * middle / rows[0, 0]
    left_out = np.column_stack([fit.scores for fit in fits])
    if len(seen) == 2:
        own, left_out = np.pad(own, ((0, 0), (1, 0))), np.pad(left_out, ((0, 0), (1, 0)))
    weights = np.zeros(anchor.shape)
    weights[:, seen] = own
    wrong = float((left_out.argmax(axis=1) != places).mean())
    return Adapted(_only(weights, rows, seen), mu, wrong)


def _fitted(
    scores: Matrix,
    offset: Matrix,
    wanted: Matrix,
    mu: float,
    start: Matrix,
    converged: float = _CONVERGED,
) -> _Fit:
    """One logistic regression with offsets by Newton's method with step halving, and its leave-one-out scores.

    scores: (n, r); wanted: 0 or 1, (n,); start: the solution of a stronger pull, of as many directions or fewer.
    The Hessian is that before the last step.
    """
    B = np.zeros(scores.shape[1])
    B[: len(start)] = start

    def objective(B: Matrix) -> float:
        return float(_loss(offset + scores @ B, wanted).sum() + mu / 2 * (B @ B))

    value = objective(B)
    for _ in range(_STEPS):
        slopes, factor = _hessian(scores, offset + scores @ B, mu)
        step, share = cho_solve(factor, scores.T @ (slopes - wanted) + mu * B, check_finite=False), 1.0
        for _ in range(_HALVINGS):
            if (after := objective(B - share * step)) <= value:
                break
            share /= 2
        B, value = B - share * step, after
        if np.abs(share * step).max(initial=0.0) <= converged * np.abs(B).max(initial=1e-9):
            break
    fitted, (factor_, lower) = offset + scores @ B, factor
    slopes = expit(fitted)
    leverage = (solve_triangular(factor_, scores.T, lower=lower, trans=0 if lower else 1) ** 2).sum(axis=0)
    rest = np.maximum(1 - slopes * (1 - slopes) * leverage, 1e-6)
    return _Fit(B, fitted - leverage * (wanted - slopes) / rest)


def _hessian(scores: Matrix, fitted: Matrix, mu: float) -> tuple[Matrix, tuple[Matrix, bool]]:
    """The probabilities, and the Hessian's Cholesky factor."""
    slopes = expit(fitted)
    hessian = (scores * (slopes * (1 - slopes))[:, None]).T @ scores
    hessian[np.diag_indices_from(hessian)] += mu
    return slopes, cho_factor(hessian, check_finite=False)


def _loss(scores: Matrix, wanted: Matrix) -> Matrix:
    return np.asarray(np.logaddexp(0.0, (1 - 2 * wanted) * scores))


def _only(weights: Matrix, rows: Matrix, seen: npt.NDArray[np.int64]) -> Matrix:
    """The head with a score for unseen labels that is below all others: no value of a network exceeds `_LARGEST`."""
    reach = float(np.abs(weights[:, seen]).sum(axis=0).max())
    own = np.zeros(weights.shape)
    own[0] = -(1 + _LARGEST * reach) / rows[0, 0]
    own[:, seen] = weights[:, seen]
    return own
