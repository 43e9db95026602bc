"""Linear discriminants from a ridge solution: against their definition, scikit-learn, and pooled statistics."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from secure_afl.analytic.discriminants import discriminant_head
from secure_afl.analytic.solve import solve
from secure_afl.analytic.statistics import SufficientStatistics
from secure_afl.errors import SolveError

CASES = (st.integers(2, 6), st.integers(2, 5), st.integers(0, 2**32))


def rows_of(d: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(seed)
    labels = np.r_[np.repeat(np.arange(classes), 2), draws.integers(0, classes, 60)]
    return draws.normal(size=(len(labels), d)) + draws.normal(size=(classes, d))[labels], labels


def statistics_of(rows: np.ndarray, labels: np.ndarray, classes: int) -> SufficientStatistics:
    z = np.column_stack([np.ones(len(rows)), rows])
    gram = z.T @ z
    return SufficientStatistics((gram + gram.T) / 2, z.T @ np.eye(classes)[labels], len(rows))


@settings(max_examples=40)
@given(*CASES, st.sampled_from([1e-5, 1e-3, 1.0]))
def test_scores_are_log_posteriors_with_the_penalty_in_the_scatter(
    d: int, classes: int, seed: int, ridge: float
) -> None:
    rows, labels = rows_of(d, classes, seed)
    statistics = statistics_of(rows, labels, classes)
    found = discriminant_head(solve(statistics, ridge=ridge))
    means = np.array([rows[labels == one].mean(axis=0) for one in range(classes)])
    left = rows - means[labels]
    pull = ridge * np.trace(statistics.gram) / (d + 1)
    directions = np.linalg.solve((left.T @ left + pull * np.eye(d)) / len(rows), means.T)
    scores = rows @ directions - (means.T * directions).sum(axis=0) / 2
    scores += np.log(np.bincount(labels) / len(rows))
    got = found.weights[0] + rows @ found.weights[1:]
    expected = scores - scores.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(got, expected, atol=1e-6 * (1 + np.abs(expected).max()))
    assert found.present == tuple(range(classes))


@given(*CASES)
@example(6, 2, 6261)
def test_with_a_small_penalty_they_are_scikit_learns(d: int, classes: int, seed: int) -> None:
    """Compared by scores, not probabilities: p and 1 − p have few digits where p is almost 1."""
    rows, labels = rows_of(d, classes, seed)
    found = discriminant_head(solve(statistics_of(rows, labels, classes), ridge=1e-5))
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(rows, labels)
    expected = theirs.decision_function(rows)
    if classes == 2:
        expected = np.column_stack([np.zeros(len(rows)), expected])
    expected -= np.logaddexp.reduce(expected, axis=1)[:, None]
    got = found.weights[0] + rows @ found.weights[1:]
    got -= np.logaddexp.reduce(got, axis=1)[:, None]
    np.testing.assert_allclose(got, expected, atol=1e-3 * (1 + np.abs(expected).max()))


@settings(max_examples=40)
@given(*CASES, st.sampled_from([1e-3, 0.1]), st.sampled_from([0.0, 1e-9, 1e-6]))
def test_the_bound_holds_for_sums_with_errors(
    d: int, classes: int, seed: int, ridge: float, error: float
) -> None:
    rows, labels = rows_of(d, classes, seed)
    pooled = statistics_of(rows, labels, classes)
    draws = np.random.default_rng(seed)
    moved = draws.uniform(-error, error, pooled.gram.shape)
    summed = SufficientStatistics(
        pooled.gram + (moved + moved.T) / 2,
        pooled.cross + draws.uniform(-error, error, pooled.cross.shape),
        pooled.count,
    )
    theirs = discriminant_head(solve(pooled, ridge=ridge))
    try:
        found = discriminant_head(solve(summed, ridge=ridge, entry_error=error))
    except SolveError:
        assert error  # no guarantee was possible, so none was given
        return
    distance = np.linalg.norm(found.weights - theirs.weights)
    assert distance <= found.bound
    assert not error or found.bound > distance > 0


def test_a_class_without_rows_takes_no_part() -> None:
    rows, labels = rows_of(3, 3, 0)
    found = discriminant_head(solve(statistics_of(rows, 2 * labels, 6), ridge=1e-2))
    alone = discriminant_head(solve(statistics_of(rows, labels, 3), ridge=1e-2))
    assert found.present == (0, 2, 4)
    assert not found.weights[:, [1, 3, 5]].any()
    np.testing.assert_allclose(found.weights[:, [0, 2, 4]], alone.weights, rtol=1e-9)


def test_one_class_or_no_penalty_is_refused() -> None:
    rows, labels = rows_of(3, 2, 0)
    with pytest.raises(SolveError, match="rows of two classes or more, got rows of 1"):
        discriminant_head(solve(statistics_of(rows, 0 * labels, 2), ridge=0.1))
    with pytest.raises(SolveError):
        discriminant_head(solve(statistics_of(rows, labels, 2), ridge=0.0))
