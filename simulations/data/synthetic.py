"""Synthetic(alpha, beta): random rows of a hundred devices with different distributions and labelling rules."""

import math
import re

import numpy as np
from numpy.typing import NDArray

from secure_afl.errors import DataError

DEVICES, FEATURES, CLASSES, ROWS = 100, 60, 10, 100_000
_LEAST = 250  # rows of the smallest device in pFedMe: 5 * (50 + nothing)
_SPREAD, _LARGEST = 2.0, 2.27  # of ln(size); the largest of pFedMe's own hundred normal draws, 25,810 rows
_FORM = re.compile(r"synthetic(?::([0-9]{1,6}(?:\.[0-9]+)?),([0-9]{1,6}(?:\.[0-9]+)?))?")
_STREAM = 1  # partitions and dropouts draw from the bare seed: theirs are other random numbers


def parse(source: str) -> tuple[float, float]:
    """(alpha, beta) of `synthetic` or `synthetic:A,B`; anything else raises DataError."""
    if not (match := _FORM.fullmatch(source)):
        raise DataError(f"expected synthetic or synthetic:A,B with A and B from 0 to 999999, got {source!r}")
    return float(match[1] or 0.5), float(match[2] or 0.5)


def draw(
    alpha: float, beta: float, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.str_]]:
    """Draw X float64 (100000, 60), y int64 (100000,) in 0..9 and the device of each row, str (100000,).

    Li et al., *Federated Optimization in Heterogeneous Networks* (MLSys 2020), after their code and pFedMe's
    (T. Dinh et al. 2020): device k has u_k ~ N(0, alpha), B_k ~ N(0, beta), v_k ~ N(B_k, 1) in R^60,
    W_k ~ N(u_k, 1) and b_k ~ N(u_k, 1); its rows are x ~ N(v_k, diag(j^-1.2)), its labels
    argmax(W_k x + b_k). alpha and beta are standard deviations, as in both programs; the other two are 1.

    u_k adds u_k (1 + sum of x) to every class alike, so it moves no argmax: in this definition, theirs and
    ours, **alpha changes no label and no row**; devices differ through B_k, v_k and through W_k, b_k.

    Sizes differ from both papers, so that no seed makes one device as large as all others: 250 rows each, and
    what is left of 100,000 in proportion to exp(2 min(z, 2.27)), z ~ N(0, 1). (pFedMe: 5 (50 + floor(exp(4 +
    2z))), which for its seed is 250 to 25,810 rows and 205,795 together, and over a million for some.)
    Raises DataError for a negative seed.
    """
    if seed < 0:
        raise DataError(f"expected a seed of 0 or more, got {seed}")
    rng = np.random.default_rng((seed, _STREAM))
    sizes = _sizes(rng)
    shift = alpha * rng.normal(size=DEVICES)  # u_k
    centre = beta * rng.normal(size=DEVICES)  # B_k
    deviation = np.arange(1, FEATURES + 1) ** -0.6  # the square root of Sigma's diagonal
    X = np.empty((ROWS, FEATURES))
    y = np.empty(ROWS, np.int64)
    for end, size, u, B in zip(np.cumsum(sizes), sizes, shift, centre, strict=True):
        v = B + rng.normal(size=FEATURES)
        W = u + rng.normal(size=(FEATURES, CLASSES))
        b = u + rng.normal(size=CLASSES)
        x = v + deviation * rng.normal(size=(size, FEATURES))
        X[end - size : end] = x
        y[end - size : end] = (x @ W + b).argmax(axis=1)
    return X, y, np.repeat([f"device-{k:03}" for k in range(DEVICES)], sizes)


def _sizes(rng: np.random.Generator) -> NDArray[np.int64]:
    weights = np.exp(_SPREAD * np.minimum(rng.normal(size=DEVICES), _LARGEST))
    shared = ROWS - DEVICES * _LEAST
    ends = np.rint(np.cumsum(weights) / math.fsum(weights) * shared).astype(np.int64)
    return np.asarray(np.diff(ends, prepend=0) + _LEAST, np.int64)
