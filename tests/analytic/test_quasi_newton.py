"""Where the next gradient is wanted follows from opened sums alone, with the same bits at every client."""

import ast
import inspect
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_afl.analytic import quasi_newton
from secure_afl.analytic.families import LOGISTIC, POISSON, Family
from secure_afl.analytic.glm import leverages, opened, standardised
from secure_afl.analytic.moments import Moments
from secure_afl.analytic.quasi_newton import GRID, Progress, Seen, Start, State, progress
from secure_afl.analytic.statistics import Matrix

_BY_MACHINE = {"dot", "sum", "mean", "einsum", "log", "exp", "prod", "outer", "norm", "solve", "inv", "eigh"}
FAMILIES = st.sampled_from([LOGISTIC, POISSON])
SIZES = st.tuples(st.integers(0, 2**32), st.integers(60, 300), st.integers(1, 6))


def rows(family: Family, seed: int, n: int, d: int) -> tuple[Matrix, Matrix]:
    draws = np.random.default_rng(seed)
    X = draws.normal(size=(n, d)) @ (np.eye(d) + 0.4 * draws.normal(size=(d, d)))
    eta = X @ draws.normal(size=d) / np.sqrt(d) * 0.7
    if family is LOGISTIC:
        y = (draws.random(n) < 1 / (1 + np.exp(-eta))).astype(float)
        y[:4] = [0, 1, 0, 1]
        return X, y
    return X, draws.poisson(np.exp(np.clip(eta, -3, 3))).astype(float) + (np.arange(n) == 0)


def start_of(family: Family, X: Matrix, y: Matrix, **more: Any) -> Start:
    n, d = X.shape
    scatter = (X - X.mean(axis=0)).T @ (X - X.mean(axis=0))
    nothing = np.zeros((d, 1)), np.zeros(1), np.zeros((1, 1))
    names = tuple(f"column {j + 1}" for j in range(d))
    moments = Moments(names, ("y",), n, float(n), X.mean(axis=0), scatter, *nothing)
    mean = y.mean()
    curvature = mean * (1 - mean) if family is LOGISTIC else mean
    return Start.of(moments, intercept=family.link(mean), curvature=curvature, **more)


def history(
    family: Family, X: Matrix, y: Matrix, start: Start, steps: int = 40
) -> tuple[list[Progress], list[Seen]]:
    """All that was wanted, and what was seen there."""
    Z = np.column_stack([np.ones(len(X)), (X[:, list(start.used)] - start.mean) / start.deviation])
    events = None if family is LOGISTIC else float(y.sum())
    found, seen = list[Progress](), list[Seen]()
    while True:
        found.append(progress(start, seen, steps, events=events))
        if found[-1].state is not State.EVALUATE:
            return found, seen
        eta = Z @ found[-1].point
        too_far = bool(abs(eta).max() > 200 or family.mean(eta).max() > 8 * max(y.max(), 1))
        mean = family.mean(np.clip(eta, -200, 200))
        seen.append(Seen(Z.T @ (y - mean), float(family.deviance(y, eta, mean).sum()), too_far))


@given(FAMILIES, SIZES)
@settings(max_examples=30, deadline=None)
def test_the_fit_ends_where_the_gradient_is_zero_on_points_of_the_grid(
    family: Family, size: tuple[int, int, int]
) -> None:
    X, y = rows(family, *size)
    wanted, seen = history(family, X, y, start_of(family, X, y))
    assert wanted[-1].state is State.CONVERGED
    assert abs(seen[-1].gradient).max() < 1e-5 * len(X)
    for one in wanted:
        np.testing.assert_array_equal(one.point / GRID, np.rint(one.point / GRID))


@given(FAMILIES, SIZES)
@settings(max_examples=10, deadline=None)
def test_a_client_that_begins_in_the_middle_wants_the_same(
    family: Family, size: tuple[int, int, int]
) -> None:
    """Clients keep nothing between steps, so a restarted client continues like the others."""
    X, y = rows(family, *size)
    start = start_of(family, X, y)
    wanted, seen = history(family, X, y, start)
    events = None if family is LOGISTIC else float(y.sum())
    for made in range(len(seen) + 1):
        again = progress(start, seen[:made], 40, events=events)
        assert again.state is wanted[made].state
        assert again.point.tobytes() == wanted[made].point.tobytes()


@pytest.mark.parametrize("part", [quasi_newton, opened, standardised])
def test_points_are_made_of_operations_that_ieee_754_defines(part: Any) -> None:
    """NumPy's sum, a matrix product or a logarithm could differ in the last bit between two machines."""
    tree = ast.parse(inspect.getsource(part))
    for node in ast.walk(tree):
        assert not isinstance(node, ast.MatMult)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called.split(".")[-1] not in _BY_MACHINE or called == "np.multiply.outer", called


@given(st.integers(0, 2**32), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_a_column_that_follows_from_others_is_left_out_and_named(seed: int, d: int) -> None:
    X, y = rows(LOGISTIC, seed, 120, d)
    plain = start_of(LOGISTIC, X, y)
    start = start_of(LOGISTIC, np.column_stack([X, X @ np.ones(d) + 3]), y)
    (one,) = start.dependent
    assert one.column == f"column {d + 1}"
    assert set(one.on) == {f"column {j + 1}" for j in range(d)}
    assert start.used == plain.used


@pytest.mark.parametrize("family", [LOGISTIC, POISSON], ids=lambda one: one.name)
def test_a_separated_outcome_is_reported_with_its_columns(family: Family) -> None:
    X, y = rows(family, 3, 200, 2)
    level = (np.arange(200) < 6).astype(float)
    y = np.where(level > 0, 0.0, y)
    X = np.column_stack([X, level])
    *_, last = history(family, X, y, start_of(family, X, y), 25)[0]
    assert last.state is State.FAILED
    assert "'column 3' still grow" in last.reason
    assert "'column 1'" not in last.reason
    *_, last = history(family, X, y, start_of(family, X, y, ridge=1e-2), 25)[0]
    assert last.state is State.CONVERGED


def test_complete_separation_is_reported() -> None:
    X, _ = rows(LOGISTIC, 3, 200, 3)
    y = (X[:, 1] > 0).astype(float)
    *_, last = history(LOGISTIC, X, y, start_of(LOGISTIC, X, y), 25)[0]
    assert last.state is State.FAILED
    assert "the coefficients of 'column 2'" in last.reason


def test_a_step_that_a_row_cannot_follow_is_made_shorter() -> None:
    """If a row's mean would overflow, its client contributes zeros, and the next point is nearer."""
    X, y = rows(POISSON, 4, 150, 2)
    start = start_of(POISSON, X, y)
    first = Seen(np.array([0.0, 400.0, 300.0]), 100.0, False)
    far = progress(start, [first], 40, events=float(y.sum()))
    nearer = progress(start, [first, Seen(np.zeros(3), 0.0, True)], 40, events=float(y.sum()))
    np.testing.assert_allclose(nearer.point - start.first, (far.point - start.first) / 2, atol=GRID)


def test_offsets_move_the_intercept_first() -> None:
    """The means add up to 1/64 of the events; the next point alone brings them within a factor of two."""
    X, y = rows(POISSON, 5, 150, 2)
    start, events = start_of(POISSON, X, y), float(y.sum())
    moved = progress(start, [Seen(np.array([events * 63 / 64, 0.0, 0.0]), 1.0, False)], 40, events=events)
    assert np.log(32) < moved.point[0] - start.first[0] < np.log(129)
    np.testing.assert_array_equal(moved.point[1:], 0.0)


@given(st.integers(0, 2**32), st.integers(3, 40))
@settings(max_examples=30, deadline=None)
def test_leverages_are_those_of_two_columns_and_fall_with_more_rows(seed: int, n: int) -> None:
    draws = np.random.default_rng(seed)
    A, curvature = draws.normal(size=(n, 3)) * (draws.random((n, 3)) < 0.7), draws.random(n)
    A[:3] = 1.0
    found = leverages(A, curvature)
    for j in range(3):
        columns = np.column_stack([A[:, j], A[:, j] * curvature])
        np.testing.assert_allclose(
            found[:, j],
            np.einsum("ij,ij->i", columns @ np.linalg.inv(columns.T @ columns), columns),
            atol=1e-6,
        )
    assert (found <= leverages(A[: n - 1], curvature[: n - 1])[[*range(n - 1), -1]] + 1e-9)[:-1].all()


def test_weights_that_are_the_same_say_nothing_more() -> None:
    np.testing.assert_allclose(leverages(np.ones((10, 1)), np.full(10, 0.25)), 0.1)
