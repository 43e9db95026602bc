"""Figures of predictions against scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from secure_afl.analytic.evaluation import classified, measured, probabilities
from secure_afl.errors import DataError


def drawn(seed: int, classes: int, digits: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and scores that say something of them, some below 0 or over 1, and with ties where digits are few."""
    draws = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(classes), draws.integers(0, classes, 60)])
    scores = np.round(np.eye(classes)[truth] * 0.4 + draws.normal(0.3, 0.4, (len(truth), classes)), digits)
    return truth, scores


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 4), st.sampled_from([1, 12]))
def test_a_classifiers_figures_are_scikit_learns(seed: int, classes: int, digits: int) -> None:
    truth, scores = drawn(seed, classes, digits)
    found = classified(truth, scores, [f"class {at}" for at in range(classes)])
    guess, said = scores.argmax(axis=1), probabilities(scores)
    assert found.accuracy == pytest.approx(metrics.accuracy_score(truth, guess), abs=1e-12)
    assert found.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(truth, guess), abs=1e-12)
    assert found.majority == np.bincount(truth).max() / len(truth)
    precision, recall, _, rows = metrics.precision_recall_fscore_support(
        truth, guess, labels=range(classes), zero_division=np.nan
    )
    for at, one in enumerate(found.by_class):
        assert one.rows == rows[at]
        assert one.recall == pytest.approx(recall[at], abs=1e-12)
        assert (
            one.precision is None
            if np.isnan(precision[at])
            else one.precision == pytest.approx(precision[at])
        )
        assert one.auc == pytest.approx(metrics.roc_auc_score(truth == at, said[:, at]), abs=1e-12)
        expected = metrics.brier_score_loss(truth == at, said[:, at].clip(0, 1))
        assert one.brier == pytest.approx(expected, abs=1e-12)
    assert found.auc == pytest.approx(np.mean([one.auc for one in found.by_class]))
    shown = 1 if classes == 2 else classes
    assert sum(one.rows for one in found.calibration) == shown * len(truth)
    positive = sum(one.rows * one.observed for one in found.calibration)
    assert positive == pytest.approx((truth == 1).sum() if classes == 2 else len(truth))
    assert all(one.low - 1e-12 <= one.said <= one.high + 1e-12 for one in found.calibration)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_a_regressions_figures_are_scikit_learns(seed: int) -> None:
    truth, predicted = np.random.default_rng(seed).normal(10, 3, (2, 40))
    found = measured(truth, predicted)
    assert found.rmse == pytest.approx(metrics.root_mean_squared_error(truth, predicted))
    assert found.mae == pytest.approx(metrics.mean_absolute_error(truth, predicted))
    assert found.r2 == pytest.approx(metrics.r2_score(truth, predicted))
    assert found.guess_rmse == pytest.approx(truth.std())


def test_a_rare_class_that_is_never_found_is_seen() -> None:
    """97 % of the rows are right and the rare class is never found; accuracy alone would hide that."""
    truth = np.array([0] * 97 + [1] * 3)
    scores = np.column_stack([np.full(100, 0.9), np.linspace(0, 0.2, 100)])
    found = classified(truth, scores, ["well", "sick"])
    assert (found.accuracy, found.majority, found.balanced_accuracy) == (0.97, 0.97, 0.5)
    assert (found.by_class[1].recall, found.by_class[1].precision) == (0.0, None)
    assert found.auc == 1.0


def test_what_is_not_defined_is_not_made_up() -> None:
    only = classified(np.zeros(4, np.int64), np.tile([0.9, 0.1], (4, 1)), ["a", "b"])
    assert (only.auc, only.by_class[1].recall, only.by_class[1].precision) == (None, None, None)
    assert only.balanced_accuracy == 1.0
    assert measured(np.ones(3), np.zeros(3)).r2 is None
    with pytest.raises(DataError, match="expected rows with a prediction each"):
        measured(np.zeros(0), np.zeros(0))
