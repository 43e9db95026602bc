"""What several sums over the same rows tell: the attacks on Newton's method, and on what is opened here.

Newton's method, as in nearly every federated logistic regression that is published, opens one weighted Gram matrix a
step, and the server sends the coefficients of each.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import expit

from secure_afl import FederatedLogisticRegression, PlainAggregator, Policy
from secure_afl.analytic.statistics import symmetric
from secure_afl.errors import SolveError

Floats = npt.NDArray[np.float64]
FRACTION = 40  # bits behind the point of an opened number
STEPS = 8


def weighted(Z: Floats, weights: Floats) -> Floats:
    """A weighted Gram matrix as a secure sum opens it."""
    return np.asarray(np.ldexp(np.rint(np.ldexp((Z * weights[:, None]).T @ Z, FRACTION)), -FRACTION))


def weights_at(Z: Floats, point: Floats) -> Floats:
    return np.asarray(expit(Z @ point) * expit(-Z @ point))


def newton(Z: Floats, y: Floats) -> list[Floats]:
    """The weights of rows in each step of Newton's method."""
    point, found = np.zeros(Z.shape[1]), []
    for _ in range(STEPS):
        found.append(weights_at(Z, point))
        point = point + np.linalg.solve(weighted(Z, found[-1]), Z.T @ (y - expit(Z @ point)))
    return found


def read(matrices: Sequence[Floats], weights: Sequence[Floats], column: int, row: int, Z: Floats) -> Floats:
    """A row out of the combination of a column's lines that weighs it most: where it weighs no other, word for word."""
    inside = np.flatnonzero(Z[:, column])
    parts = np.linalg.lstsq(np.column_stack(weights)[inside], (inside == row) * 1.0, rcond=2.0**-34)[0]
    line = sum(part * matrix[column] for part, matrix in zip(parts, matrices, strict=True))
    assert isinstance(line, np.ndarray)
    return np.asarray(line / line[0])


def ours(Z: Floats, y: Floats) -> tuple[list[Floats], list[Floats]]:
    """The matrices that our protocol opens, and the rows' weights in each."""
    site, norm = (np.arange(len(Z)) * 3) // len(Z), 1.01 * float(np.linalg.norm(Z, axis=1).max())
    clear = PlainAggregator(Policy(backends=frozenset({"plain"})))
    model = FederatedLogisticRegression(norm, classes=[0.0, 1.0], aggregator=clear)
    with suppress(SolveError):  # separated
        model.fit(Z[:, 1:], y, site)
    opened: list[Any] = [one for one in model.rounds_ if one.length >= _triangle(Z)]
    matrices = [symmetric(one.total[: _triangle(Z)], Z.shape[1]) for one in opened]
    if len(matrices) == 1:
        return matrices, [np.ones(len(Z))]
    point = np.concatenate([model.intercept_, model.coef_[0]])
    return matrices, [np.ones(len(Z)), weights_at(Z, point)]


def _triangle(Z: Floats) -> int:
    columns = int(Z.shape[1])
    return columns * (columns + 1) // 2


@pytest.mark.parametrize("seed", range(3))
def test_eight_weighted_grams_at_coefficients_of_the_servers_choice_give_a_row(seed: int) -> None:
    """Three flags that one row has together: inclusion and exclusion leave this row, at predictors of up to 6."""
    draws = np.random.default_rng(seed)
    flags = (draws.random((3000, 3)) < 0.05).astype(float)
    flags[flags.all(axis=1), 2] = 0.0
    flags[0] = 1.0
    Z = np.column_stack([np.ones(3000), flags, draws.normal(size=(3000, 5))])
    y = (draws.random(3000) < expit(Z @ np.r_[-0.5, draws.normal(size=8) * 0.4])).astype(float)

    found = np.zeros((9, 9))
    for bits in range(8):
        chosen = np.array([bits >> at & 1 for at in range(3)])
        point = np.r_[-0.7, 1.5 * chosen, np.zeros(5)]
        found += (-1) ** (3 - chosen.sum()) * weighted(Z, weights_at(Z, point))
    np.testing.assert_allclose(found[0] / found[0, 0], Z[0], atol=1e-8)

    # Ours opens no matrix at such points, and the best combination of those it opens is far from the row.
    assert abs(read(*ours(Z, y), 0, 0, Z) - Z[0]).max() > 0.5


@pytest.mark.parametrize("separated", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_eight_steps_of_newton_give_the_rows_of_a_level(seed: int, separated: bool) -> None:
    """Five rows, as many as disclosure control asks for. With eight weights each, a combination shows nearly each of them alone."""
    draws = np.random.default_rng(seed)
    Z = np.column_stack([np.ones(3000), draws.normal(size=(3000, 5)), np.arange(3000) < 5])
    y = (draws.random(3000) < expit(Z @ np.r_[-0.3, draws.normal(size=5), 0.2])).astype(float)
    y[:5] = 1.0 if separated else [1.0, 0.0, 1.0, 1.0, 0.0]
    level = Z.shape[1] - 1
    steps = newton(Z, y)
    matrices = [weighted(Z, one) for one in steps]
    errors = [abs(read(matrices, steps, level, row, Z) - Z[row]).max() for row in range(5)]
    assert sorted(errors)[3] < 0.01

    # Separated, ours opens one matrix and says why; else two at most, which differ too little for any row.
    matrices, weights = ours(Z, y)
    assert len(matrices) == 1 if separated else len(matrices) <= 2
    for row in range(5):
        assert abs(read(matrices, weights, level, row, Z) - Z[row]).max() > 0.3


def test_a_gradient_at_coefficients_of_the_servers_choice_gives_a_row() -> None:
    """Why later sums are marked `trusts_server`: two planes with one row between them."""
    draws = np.random.default_rng(0)
    Z = np.column_stack([np.ones(500), draws.normal(size=(500, 4))])
    y = (draws.random(500) < 0.4).astype(float)
    direction = draws.normal(size=5)
    order = np.argsort(Z @ direction)
    middle = order[250]
    cuts = [(Z[order[250 + by]] + Z[middle]) @ direction / 2 for by in (-1, 1)]
    low, high = (1e6 * (direction - np.r_[cut, np.zeros(4)]) for cut in cuts)
    difference = Z.T @ (y - expit(Z @ high)) - Z.T @ (y - expit(Z @ low))
    np.testing.assert_allclose(difference, Z[middle], atol=1e-6)
