"""The local objective against its definition: calculus, refitting without each row, and its two limits."""

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_afl.errors import DataError
from secure_afl.models.personal import MU_GRID, Local

CASES = (st.integers(1, 12), st.integers(1, 9), st.integers(1, 4), st.integers(0, 2**32))
PULLS = st.sampled_from([mu for mu in MU_GRID if 1e-4 <= mu < inf])


def problem(n: int, d: int, c: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draws = np.random.default_rng(seed)
    return draws.normal(size=(n, d)), draws.normal(size=(n, c)), draws.normal(size=(d, c))


def solved(rows: np.ndarray, targets: np.ndarray, anchor: np.ndarray, mu: float) -> np.ndarray:
    """(XᵀX + μI)⁻¹(XᵀY + μW_g), as it is written."""
    gram = rows.T @ rows + mu * np.eye(rows.shape[1])
    return np.linalg.solve(gram, rows.T @ targets + mu * anchor)


@given(*CASES, PULLS)
def test_the_weights_solve_the_local_objective(n: int, d: int, c: int, seed: int, mu: float) -> None:
    rows, targets, anchor = problem(n, d, c, seed)
    own = Local(rows, targets, anchor).weights(mu)
    unit = (rows**2).sum() / n
    np.testing.assert_allclose(own, solved(rows, targets, anchor, mu * unit), rtol=1e-6, atol=1e-8)


@given(*CASES, PULLS)
def test_left_out_predictions_are_those_of_models_that_never_saw_the_row(
    n: int, d: int, c: int, seed: int, mu: float
) -> None:
    rows, targets, anchor = problem(n, d, c, seed)
    unit = (rows**2).sum() / n
    expected = [
        rows[i] @ solved(np.delete(rows, i, axis=0), np.delete(targets, i, axis=0), anchor, mu * unit)
        for i in range(n)
    ]
    np.testing.assert_allclose(Local(rows, targets, anchor).left_out(mu), expected, rtol=1e-5, atol=1e-7)


@given(st.integers(6, 12), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**32))
def test_a_strong_pull_gives_the_group_model_and_none_the_local_fit(
    n: int, d: int, c: int, seed: int
) -> None:
    rows, targets, anchor = problem(n, d, c, seed)
    local = Local(rows, targets, anchor)
    fit = np.linalg.lstsq(rows, targets, rcond=None)[0]
    condition = np.linalg.cond(rows) ** 2
    far, near = (np.linalg.norm(local.weights(mu) - anchor) for mu in (1e6, 1e3))
    assert far <= 1.1e-3 * near + 1e-12  # falls as 1/μ
    assert np.linalg.norm(local.weights(1e-9) - fit) <= 1e-8 * condition * (1 + np.linalg.norm(anchor - fit))
    assert np.array_equal(local.weights(inf), anchor)
    np.testing.assert_allclose(local.left_out(inf), rows @ anchor)


@given(*CASES)
def test_the_chosen_pull_has_the_least_error_of_all(n: int, d: int, c: int, seed: int) -> None:
    rows, targets, anchor = problem(n, d, c, seed)
    local = Local(rows, targets, anchor)
    squares = {mu: ((targets - local.left_out(mu)) ** 2).mean() for mu in MU_GRID}
    chosen = local.choose()
    assert chosen.error == min(squares.values()) == squares[chosen.mu]
    assert np.array_equal(chosen.weights, local.weights(chosen.mu))
    labels = np.random.default_rng(seed).integers(0, c, n)
    wrong = {mu: (local.left_out(mu).argmax(axis=1) != labels).mean() for mu in MU_GRID}
    chosen = local.choose(labels)
    assert chosen.error == min(wrong.values()) == wrong[chosen.mu]
    assert squares[chosen.mu] == min(squares[mu] for mu in MU_GRID if wrong[mu] == chosen.error)


def test_rows_without_news_keep_the_model_that_was_sent() -> None:
    rows, _, anchor = problem(5, 3, 2, 0)
    assert Local(rows, rows @ anchor, anchor).choose().mu == inf
    assert Local(np.zeros((2, 3)), np.ones((2, 2)), anchor).choose().mu == inf


@pytest.mark.parametrize(
    ("rows", "targets", "anchor", "what"),
    [
        (np.ones((3, 2)), np.ones((3, 4)), np.ones((2, 3)), r"weights \(d, c\), got"),
        (np.ones((3, 2)), np.ones((4, 3)), np.ones((2, 3)), "as many targets as rows"),
        (np.ones((0, 2)), np.ones((0, 3)), np.ones((2, 3)), "at least one"),
        (np.full((3, 2), np.nan), np.ones((3, 3)), np.ones((2, 3)), "finite"),
    ],
)
def test_what_does_not_fit_is_refused(
    rows: np.ndarray, targets: np.ndarray, anchor: np.ndarray, what: str
) -> None:
    with pytest.raises(DataError, match=what):
        Local(rows, targets, anchor)
