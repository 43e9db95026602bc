"""Reconstruct rows from one client's Gram matrix and cross-covariance."""

import numpy as np
from scipy.linalg import eigh, null_space
from scipy.optimize import linprog

from secure_afl.errors import DataError
from secure_afl.simulations.attacks.population import Known
from secure_afl.simulations.data.dataset import Floats

_NORM = 1e-4  # tolerance for the norm of a row's coordinates, which is 1
_TRIES = 8  # linear programs for each row to find
_CLEAR = 1e-6  # of a number that is read from a sum of many rows
_DIGITS = 6  # in which two readings of one row agree
_UNSEEN = 1e-9  # of the largest eigenvalue: what lies below is rounding


def one_row(gram: Floats, cross: Floats, known: Known) -> Floats:
    """The row x (d,) of a client that has one, in the format.

    G = xxᵀ has one eigenvector, x up to length and sign; the cross-covariance has x in the column of its label and gives
    the sign. For noise the result is the noise's largest eigenvector.
    """
    size = len(gram) - 1
    values, vectors = eigh(gram[1:, 1:], subset_by_index=[size - 1, size - 1])
    row = np.sqrt(max(float(values[0]), 0.0)) * vectors[:, 0]
    sign = -1.0 if row @ cross[1:].sum(axis=1) < 0 else 1.0
    return known.plausible(sign * row)


def standing_rows(gram: Floats, known: Known) -> Floats:
    """Rows (k, d) that can be read in a Gram of any number of rows, one for each feature that only one row has.

    Such a feature's row of the Gram matrix is that data row times its value there. The column of ones identifies these
    features: the squared sum of the feature equals the sum of its squares.
    """
    squares, sums = np.diag(gram)[1:], gram[0, 1:]
    alone = np.flatnonzero((squares > _CLEAR) & (np.abs(sums**2 - squares) <= _CLEAR * squares))
    rows = gram[1:, 1:][alone] / sums[alone, None]
    within = (rows >= known.low - _CLEAR) & (rows <= known.high + _CLEAR)
    return np.unique(known.plausible(rows[within.all(axis=1)]).round(_DIGITS), axis=0)


def few_rows(gram: Floats, cross: Floats, known: Known, rng: np.random.Generator) -> Floats:
    """Rows (k, d) that a client of n < d rows must have, k ≤ n; not yet moved into the format.

    A Gram gives rows up to a rotation: with G = RᵀR a row is qᵀR, and the q of all rows are orthonormal. The column of
    the cross-covariance of a label is Rᵀs, s the sum of the q of its rows: so q·s = 1 for rows of that label and
    q·s = 0 for others. What remains free, n less the labels present, is fixed by the range of features: rows within
    it are a polytope, and a row that no mixture of the others' pixels can darken further is a corner of it. Corners
    are found by linear programs in random directions; one of norm 1 is a row. Nothing here needs to know a true row.
    """
    size, counted = len(gram), cross[0]
    total = float(gram[0, 0])
    if not (0.5 < total < size and np.all(counted > -0.5) and abs(counted.sum() - total) < 0.5):
        return np.zeros((0, size - 1))  # no client's statistic
    count = round(total)
    values, vectors = eigh(gram, subset_by_index=[size - count, size - 1])
    seen = values > _UNSEEN * values[-1]
    roots = np.sqrt(values[seen])
    R = roots[:, None] * vectors[:, seen].T
    sums = (vectors[:, seen].T @ cross) / roots[:, None]
    present = np.flatnonzero(np.rint(counted) > 0)
    found: list[Floats] = []
    for label in present:
        wanted = (present == label).astype(np.float64)
        found += _rows_of(
            R[:, 1:], sums[:, present], wanted, round(float(counted[label])), sums[:, label], known, rng
        )
    return np.array(found) @ R[:, 1:] if found else np.zeros((0, size - 1))


def _rows_of(
    R: Floats, sums: Floats, wanted: Floats, count: int, total: Floats, known: Known, rng: np.random.Generator
) -> list[Floats]:
    """The coordinates of `count` rows of one label, which add up to `total`."""
    if count == 1:
        return [total]
    start, free = np.linalg.lstsq(sums.T, wanted, rcond=None)[0], null_space(sums.T)
    if not free.size:
        return []
    pixels = R[:, np.abs(R).max(axis=0) > _UNSEEN * np.abs(R).max()].T
    slopes, offset = pixels @ free, pixels @ start
    limits = np.concatenate([known.high - offset, offset - known.low])
    found: list[Floats] = []
    for _ in range(_TRIES * count):
        direction = rng.standard_normal((free.shape[1],))
        for one in found:
            along = free.T @ (one - start)
            direction = direction - along * (along @ direction) / (along @ along)
        solved = linprog(-direction, A_ub=np.concatenate([slopes, -slopes]), b_ub=limits, bounds=(None, None))
        if solved.status or solved.x is None:
            continue
        row = start + free @ solved.x
        if abs(np.linalg.norm(row) - 1) < _NORM and all(abs(row @ one) < _NORM for one in found):
            found.append(row)
        if len(found) == count - 1:
            return [*found, total - np.sum(found, axis=0)]  # the last one is what is left
    return found


def alike(X: Floats, Y: Floats, rng: np.random.Generator) -> Floats:
    """Other rows than X (n, d) with the same Gram, and with the same cross-covariance with Y: a rotation that leaves
    every label's sum where it is. Raises `DataError` where there is none.
    """
    free = null_space(Y.T)
    if not free.size:
        raise DataError(f"expected more rows than labels, got {len(Y)} rows")
    turn = np.linalg.qr(rng.standard_normal((free.shape[1], free.shape[1])))[0]
    return np.asarray(X + free @ ((turn - np.eye(len(turn))) @ (free.T @ X)))
