"""Cost laws: sums of simple terms, fitted to medians by least squares of the relative error."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log2

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

Vector = npt.NDArray[np.float64]
FAR = 1_000_000
"""Clients of the extrapolation."""


@dataclass(frozen=True)
class Form:
    """Terms of a law, the first a constant. signed: allow negative coefficients, for laws that are not extrapolated;
    otherwise no extrapolation falls below zero.
    """

    variable: str
    terms: tuple[tuple[str, Callable[[float], float]], ...]
    signed: bool = False

    def __str__(self) -> str:
        letters = "abcdef"
        rest = (f" + {letter}·{name}" for letter, (name, _) in zip(letters[1:], self.terms, strict=False))
        return "a" + "".join(rest)

    def rows(self, x: Vector) -> Vector:
        """Terms at every x: (len(x), 1 + len(terms))."""
        columns = [np.ones(len(x)), *(np.array([term(one) for one in x]) for _, term in self.terms)]
        return np.stack(columns, axis=1)


_N = ("n", lambda n: n)
LINEAR = Form("n", (_N,))
COMPLETE_SERVER = Form("n", (_N, ("n²", lambda n: n * n)))
SPARSE_CLIENT = Form("n", (("log₂ n", log2), _N))
SPARSE_SERVER = Form("n", (_N, ("n·log₂ n", lambda n: n * log2(n))))
VALUES = Form("m", (("m", lambda m: m),))
DROPOUTS = Form("p", (("p", lambda p: p), ("p·(1 − p)", lambda p: p * (1 - p))), signed=True)
"""p: the share that drops out; a server removes masks of every pair of a client that did and one that did not."""

FORMS = {
    str(form): form for form in (LINEAR, COMPLETE_SERVER, SPARSE_CLIENT, SPARSE_SERVER, VALUES, DROPOUTS)
}
"""Laws by their names in figures."""


@dataclass(frozen=True)
class Law:
    """A form with its coefficients. error: the largest relative error at a point; r2: how much of the variance is
    explained; lowest, highest: the points that it is fitted to lie between.
    """

    form: Form
    coefficients: tuple[float, ...]
    error: float
    r2: float
    lowest: float
    highest: float
    points: int

    def __call__(self, x: float) -> float:
        return float((self.form.rows(np.array([x])) @ np.array(self.coefficients))[0])


def fit(form: Form, x: Sequence[float], y: Sequence[float]) -> Law | None:
    """Fit a law to positive y at different x; None unless there are more points than coefficients.

    The fit minimises relative errors, so that small sizes count as much as large ones.
    """
    if len(x) < len(form.terms) + 2 or min(y) <= 0:
        return None
    at, values = np.array(x, np.float64), np.array(y, np.float64)
    coefficients = _solved(form, at, values)
    fitted = form.rows(at) @ coefficients
    spread = float(((values - values.mean()) ** 2).sum())
    residual = float(((values - fitted) ** 2).sum())
    return Law(
        form,
        tuple(float(one) for one in coefficients),
        float(abs(fitted / values - 1).max()),
        1 - residual / spread if spread else 1.0,
        float(at.min()),
        float(at.max()),
        len(at),
    )


def _solved(form: Form, x: Vector, y: Vector) -> Vector:
    rows = form.rows(x)
    largest = abs(rows).max(axis=0)  # columns of one size, for the numbers' sake
    scaled = rows / largest / y[:, None]
    solve = np.linalg.lstsq if form.signed else nnls
    found = np.asarray(solve(scaled, np.ones(len(y)))[0], np.float64)
    return np.asarray(found / largest, np.float64)


def extrapolated(form: Form, x: Sequence[float], y: Sequence[float], at: float) -> tuple[float, float]:
    """The smallest and largest prediction at a point beyond the data, fitted to all points and to all but one."""
    places, values = np.array(x, np.float64), np.array(y, np.float64)
    said = [
        float((form.rows(np.array([at])) @ _solved(form, places[kept], values[kept]))[0])
        for kept in (np.arange(len(places)) != out for out in range(-1, len(places)))
    ]
    return min(said), max(said)
