"""The two families of generalised linear models: yes or no (logistic) and counts (Poisson), with their canonical links.

For one row with linear predictor η, outcome y and mean μ(η): the score is y − μ, and the weight of the row in the
information matrix is dμ/dη. McCullagh and Nelder, Generalized Linear Models, 2nd ed., chapter 2.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, gammaln, xlogy

from secure_afl.analytic.statistics import Matrix

LARGEST_PREDICTOR = 200.0
"""The largest linear predictor of a row, in magnitude: a step of the fit that goes beyond it is shortened."""
_ROOM = 8.0  # times the agreed bound on a count: the largest mean that a step may reach


@dataclass(frozen=True)
class Family:
    """Functions of arrays of one shape; the outcome lies between 0 and `largest`.

    mean: μ(η); weight: dμ/dη; deviance: of a row, from (y, η, μ); saturated: log-likelihood at μ = y, from y.
    ratio: what exp(coefficient) is called. largest_mean: the largest mean that a step may reach, and largest_weight
    that of dμ/dη, for outcomes up to a bound; link: η(μ).
    """

    name: str
    ratio: str
    mean: Callable[[Matrix], Matrix]
    weight: Callable[[Matrix], Matrix]
    deviance: Callable[[Matrix, Matrix, Matrix], Matrix]
    saturated: Callable[[Matrix], Matrix]
    largest_mean: Callable[[float], float]
    largest_weight: Callable[[float], float]
    link: Callable[[float], float]

    def largest_deviance(self, largest: float) -> float:
        """No row's deviance, and no row's saturated log-likelihood, exceeds it in magnitude."""
        top = max(1.0, largest)
        return 2 * (top * (LARGEST_PREDICTOR + math.log(top) + 2) + self.largest_mean(largest))


def _logistic_weight(eta: Matrix) -> Matrix:
    return np.asarray(expit(eta) * expit(-eta))


def _logistic_deviance(y: Matrix, eta: Matrix, mean: Matrix) -> Matrix:
    return np.asarray(2 * (np.logaddexp(0.0, eta) - y * eta))


def _poisson_deviance(y: Matrix, eta: Matrix, mean: Matrix) -> Matrix:
    return np.asarray(2 * (xlogy(y, y) - y * eta - (y - mean)))


def _poisson_saturated(y: Matrix) -> Matrix:
    return np.asarray(xlogy(y, y) - y - gammaln(y + 1))


def _one(largest: float) -> float:
    return 1.0


def _quarter(largest: float) -> float:
    return 0.25


def _roomy(largest: float) -> float:
    return _ROOM * largest


def _log_odds(mean: float) -> float:
    return math.log(mean / (1 - mean))


LOGISTIC = Family(
    "logistic",
    "odds ratio",
    expit,
    _logistic_weight,
    _logistic_deviance,
    np.zeros_like,
    _one,
    _quarter,
    _log_odds,
)
POISSON = Family(
    "poisson",
    "rate ratio",
    np.exp,
    np.exp,
    _poisson_deviance,
    _poisson_saturated,
    _roomy,
    _roomy,
    math.log,
)
