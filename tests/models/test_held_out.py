"""Figures of held-out rows through a masked sum, against scikit-learn on the pooled rows."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from secure_afl import FederatedRidge, FederatedRidgeClassifier, MaskedAggregator
from secure_afl.analytic.evaluation import Classified, Measured, classified, probabilities
from secure_afl.errors import DataError
from secure_afl.models.evaluation import BINS, HeldOut, evaluate

SITES = np.array(["a", "b", "c", "d"])


def table(seed: int, classes: int) -> tuple[Any, Any, Any]:
    draws = np.random.default_rng(seed)
    X = draws.normal(0, 1, (400, 3)).clip(-3, 3)
    y = np.digitize(X[:, 0] + draws.normal(0, 0.7, 400), [0.0, 0.8][: classes - 1])
    return X, y, SITES[np.arange(400) % 4]


@pytest.mark.parametrize("classes", [2, 3])
def test_a_classifier_through_masks(classes: int) -> None:
    X, y, site = table(0, classes)
    shared = MaskedAggregator()
    model = FederatedRidgeClassifier(6.0, aggregator=shared).fit(X[:200], y[:200], site[:200])
    found = evaluate(model, X[200:], y[200:], site[200:], aggregator=shared)
    figures, truth, guess = found.figures, y[200:], model.predict(X[200:])
    assert isinstance(figures, Classified)
    assert figures.accuracy == metrics.accuracy_score(truth, guess)
    assert figures.balanced_accuracy == pytest.approx(
        metrics.balanced_accuracy_score(truth, guess), abs=1e-12
    )
    said = probabilities(model.class_scores(X[200:]))
    for place, (one, error) in enumerate(zip(figures.by_class, found.auc_error, strict=True)):
        assert one.recall == metrics.recall_score(truth == place, guess == place)
        assert one.precision == metrics.precision_score(truth == place, guess == place)
        exact = metrics.roc_auc_score(truth == place, said[:, place])
        assert one.auc is not None
        assert abs(one.auc - exact) <= error + 1e-12 < 0.1
        brier = metrics.brier_score_loss(truth == place, said[:, place].clip(0, 1))
        assert abs(one.brier - brier) < 2 / BINS
    shown = [one.rows for one in figures.calibration]
    assert min(shown) >= 5
    assert sum(shown) <= 200 * (1 if classes == 2 else 3)


def test_a_regression_through_masks() -> None:
    X, _, site = table(1, 2)
    y = 10 + 3 * X[:, 0] + np.sin(40 * X[:, 1])
    shared = MaskedAggregator()
    model = FederatedRidge(6.0, target_bounds=(-10, 30), aggregator=shared).fit(X[:200], y[:200], site[:200])
    found = evaluate(model, X[200:], y[200:], site[200:], aggregator=shared, target_range=(-10, 30))
    figures, truth, predicted = found.figures, y[200:], model.predict(X[200:])
    assert isinstance(figures, Measured)
    assert figures.rmse == pytest.approx(metrics.root_mean_squared_error(truth, predicted), rel=1e-8)
    assert figures.mae == pytest.approx(metrics.mean_absolute_error(truth, predicted), rel=1e-8)
    assert figures.r2 == pytest.approx(metrics.r2_score(truth, predicted), rel=1e-8)
    assert found.cut == 0
    with pytest.raises(DataError, match="expected target_range"):
        evaluate(model, X, y, site, aggregator=shared)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 4), st.integers(1, 6))
def test_vectors_add_up_to_the_counts_of_all_rows_that_sites_may_show(
    seed: int, classes: int, least: int
) -> None:
    draws = np.random.default_rng(seed)
    agreed = HeldOut(tuple("abcd"[:classes]), least_rows=least)
    total, kept = np.zeros(agreed.length), []
    for _ in range(3):
        truth = draws.integers(0, classes, draws.integers(0, 40))
        scores = draws.normal(0.5, 0.6, (len(truth), classes))
        total += agreed.vector(truth, scores)
        rows = np.bincount(truth, minlength=classes)[truth] >= least
        kept.append((truth[rows], scores[rows]))
    truth, scores = (np.concatenate(one) for one in zip(*kept, strict=True))
    if not len(truth):
        with pytest.raises(DataError, match="expected held-out rows"):
            agreed.opened(total)
        return
    found, exact = agreed.opened(total), classified(truth, scores, agreed.classes)
    assert isinstance(found.figures, Classified)
    assert (found.figures.rows, found.figures.accuracy) == (exact.rows, exact.accuracy)
    for one, same, error in zip(found.figures.by_class, exact.by_class, found.auc_error, strict=True):
        assert (one.rows, one.recall, one.precision) == (same.rows, same.recall, same.precision)
        assert (one.auc is None) == (same.auc is None)
        assert one.auc is None or same.auc is None or abs(one.auc - same.auc) <= error + 1e-12


def test_errors_over_the_range_are_counted_and_said() -> None:
    agreed = HeldOut(range=(0.0, 10.0))
    found = agreed.opened(agreed.vector(np.full(8, 5.0), np.array([5.0] * 7 + [40.0])))
    assert isinstance(found.figures, Measured)
    assert (found.cut, found.figures.mae) == (1, 10 / 8)
    assert not agreed.vector(np.full(4, 5.0), np.full(4, 5.0)).any()  # fewer than least_rows
    with pytest.raises(DataError, match="expected numbers from 0 to 10"):
        agreed.vector(np.full(8, 11.0), np.full(8, 5.0))
