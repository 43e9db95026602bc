"""A client's own head: against scikit-learn, against refits without each row, and its limits."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from secure_afl.models import personal_head
from secure_afl.models.personal import Local
from secure_afl.models.personal_head import _fitted, logistic_head, own_head

CASES = (st.integers(8, 20), st.integers(2, 6), st.integers(2, 4), st.integers(0, 2**32))


def problem(n: int, d: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows with a column of ones, labels 1 to `classes` of one more, and a common head."""
    draws = np.random.default_rng(seed)
    labels = 1 + np.r_[np.arange(classes), draws.integers(0, classes, n - classes)]
    rows = draws.normal(size=(n, d)) + draws.normal(size=(classes, d))[labels - 1]
    return np.column_stack([np.ones(n), rows]), labels, draws.normal(size=(d + 1, classes + 1)) / d


@settings(max_examples=30)
@given(*CASES, st.sampled_from([0.03, 1.0, 30.0]))
def test_a_fit_is_scikit_learns(n: int, d: int, classes: int, seed: int, mu: float) -> None:
    rows, labels, _ = problem(n, d, classes, seed)
    wanted = (labels == 1).astype(np.float64)
    found = _fitted(rows, np.zeros(n), wanted, mu, np.zeros(0), 1e-6).B
    theirs = LogisticRegression(C=1 / mu, fit_intercept=False, tol=1e-10, max_iter=10_000).fit(rows, wanted)
    np.testing.assert_allclose(found, theirs.coef_[0], atol=2e-4 * np.abs(theirs.coef_).max() + 1e-9)


@settings(max_examples=20)
@example(n=30, d=1, seed=12936198, mu=1.0)  # when Newton's method had stopped early
@given(st.integers(30, 40), st.integers(1, 4), st.integers(0, 2**32), st.sampled_from([1.0, 10.0]))
def test_left_out_scores_are_near_those_of_models_that_never_saw_the_row(
    n: int, d: int, seed: int, mu: float
) -> None:
    rows, labels, anchor = problem(n, d, 2, seed)
    offsets, wanted = 8 * rows @ (anchor[:, 2] - anchor[:, 1]), (labels == 2).astype(np.float64)
    found = _fitted(rows, offsets, wanted, mu, np.zeros(0))
    exact = []
    for i in range(n):
        rest = np.arange(n) != i
        without = _fitted(rows[rest], offsets[rest], wanted[rest], mu, found.B, 1e-6)
        exact.append(offsets[i] + rows[i] @ without.B)
    moved = np.abs(np.array(exact) - (offsets + rows @ found.B))
    assert np.abs(found.scores - exact).mean() <= 0.25 * moved.mean() + 1e-6


@given(*CASES)
def test_a_logistic_head_predicts_no_label_that_it_has_not_seen(
    n: int, d: int, classes: int, seed: int
) -> None:
    rows, labels, anchor = problem(n, d, classes, seed)
    anchor[:, 0] += 100.0  # the common model prefers a label that this client does not have
    new = np.column_stack([np.ones(50), np.random.default_rng(seed).uniform(-64, 64, (50, d))])
    head = logistic_head(rows, anchor, labels, Local(rows, np.eye(classes + 1)[labels], anchor))
    assert (new @ head.weights).argmax(axis=1).min() >= 1


@given(*CASES)
def test_least_squares_is_kept_where_it_is_clearly_better(n: int, d: int, classes: int, seed: int) -> None:
    rows, labels, anchor = problem(n, d, classes, seed)
    targets = np.eye(classes + 1)[labels]
    ridge = Local(rows, targets, anchor).choose(labels)
    logistic = logistic_head(rows, anchor, labels, Local(rows, targets, anchor))
    chosen = own_head(rows, targets, anchor, labels)
    wrong = round(n * logistic.error)
    clearly = round(n * ridge.error) + wrong**0.5 < wrong
    assert np.array_equal(chosen.weights, (ridge if clearly else logistic).weights)
    assert chosen.error == (ridge if clearly else logistic).error


def test_one_label_or_too_much_work_leaves_least_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels, anchor = problem(20, 4, 2, 0)
    targets = np.eye(3)[labels]
    alone = own_head(rows, targets, anchor, np.full(20, 2))
    expected = Local(rows, targets, anchor).choose(np.full(20, 2))
    assert np.array_equal(alone.weights, expected.weights)
    monkeypatch.setattr(personal_head, "_MOST", 1.0)
    found = own_head(rows, targets, anchor, labels)
    ridge = Local(rows, targets, anchor).choose(labels)
    assert np.array_equal(found.weights, ridge.weights)
    assert found.error == ridge.error


def test_an_error_of_rows_that_can_be_told_apart_is_that_of_refits() -> None:
    """More inputs than rows: the fit has no error on its own rows, and a new row of the first label lies near 0."""
    draws = np.random.default_rng(0)
    labels = np.arange(40) % 2
    rows = np.column_stack([np.ones(40), draws.normal(size=(40, 300)) + 3 * labels[:, None]])
    head = own_head(rows, np.eye(2)[labels], np.zeros((301, 2)), labels)
    assert np.isfinite(head.weights).all()
    assert np.array_equal((rows @ head.weights).argmax(axis=1), labels)
    wrong = 0
    for i in range(40):
        rest = np.arange(40) != i
        penalty = head.mu * Local(rows, np.eye(2)[labels], head.weights).unit
        without = _fitted(rows[rest], np.zeros(39), labels[rest].astype(np.float64), penalty, np.zeros(0)).B
        wrong += int((rows[i] @ without > 0) != labels[i])
    assert wrong > 0
    assert abs(40 * head.error - wrong) <= 1
