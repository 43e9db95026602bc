"""What comes out of one masked sum of a table is what statsmodels and scikit-learn say of the pooled rows."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from secure_afl import (
    FederatedLDA,
    FederatedPCA,
    FederatedRidge,
    FederatedRidgeClassifier,
    MaskedAggregator,
    Policy,
)
from secure_afl.analytic.privacy import Privacy
from secure_afl.crypto.hpke import Suite
from secure_afl.errors import DataError, DropoutWarning, LabelWarning, SolveError
from secure_afl.node import study
from secure_afl.protocol.session.errors import LocalProtocolError, PolicyError, RoundAbortedError
from secure_afl.protocol.session.parameters import Profile
from secure_afl.sums.encrypted import EncryptedAggregator
from secure_afl.testing.faults import Fault, FaultyNetwork

RANGES = [(1950.0, 2010.0), (0.0, 1.0), (-20.0, 20.0)]
NAMES = ["year", "smokes", "change"]


def quick() -> MaskedAggregator:
    return MaskedAggregator(Policy(suites=frozenset(Suite), profiles=frozenset(Profile)), suite=Suite.X25519)


def bfv(release: str) -> EncryptedAggregator:
    return EncryptedAggregator("bfv", Policy(backends=frozenset({"bfv"})), release=release)


def table(seed: int, n: int = 120) -> tuple[pd.DataFrame, Any, Any]:
    """Years, a flag and a centred number; a target between 0 and 300; four sites."""
    draws = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "year": draws.integers(1955, 2006, n).astype(float),
            "smokes": draws.integers(0, 2, n).astype(bool),
            "change": draws.normal(0, 4, n).clip(-20, 20),
        }
    )
    y = (
        100
        + 1.5 * (frame["year"] - 1980)
        + 20 * frame["smokes"]
        - 3 * frame["change"]
        + draws.normal(0, 8, n)
    )
    return frame, y.to_numpy(), np.array([f"site {i % 4}" for i in range(n)])


def regressor(**options: Any) -> FederatedRidge:
    given_: dict[str, Any] = {"column_bounds": RANGES, "target_bounds": (-100, 300), "aggregator": quick()}
    return FederatedRidge(**(given_ | options))


def classifier(**options: Any) -> FederatedRidgeClassifier:
    given_: dict[str, Any] = {"column_bounds": RANGES, "aggregator": quick()}
    return FederatedRidgeClassifier(**(given_ | options))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 1e-3, 1.0]))
def test_a_regressor_is_scikit_learns_ridge(seed: int, ridge: float) -> None:
    X, y, site = table(seed)
    model = regressor(ridge=ridge).fit(X, y, site)
    reference = make_pipeline(StandardScaler(), Ridge(alpha=120 * ridge)).fit(X, y)
    np.testing.assert_allclose(model.predict(X), reference.predict(X), rtol=1e-9)
    coef = reference[-1].coef_ / reference[0].scale_
    np.testing.assert_allclose(model.coef_, coef, rtol=1e-8)
    assert model.intercept_ == pytest.approx(reference[-1].intercept_ - coef @ reference[0].mean_, rel=1e-8)
    assert model.score(X, y) == pytest.approx(reference.score(X, y), rel=1e-9)
    pooled = clone(model).fit_pooled(X, y)
    assert np.linalg.norm(model.weights_ - pooled.weights_) <= model.certificate_.bound < 1e-7


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32))
def test_inference_through_masks_is_statsmodels(seed: int) -> None:
    X, y, site = table(seed)
    found = regressor().fit(X, y, site).inference()
    reference = sm.OLS(y, sm.add_constant(X.astype(float))).fit()
    np.testing.assert_allclose(found.coef[:, 0], reference.params, rtol=1e-8)
    np.testing.assert_allclose(found.se[:, 0], reference.bse, rtol=1e-8)
    np.testing.assert_allclose(found.p[:, 0], reference.pvalues, rtol=1e-6, atol=1e-300)
    np.testing.assert_allclose(np.stack(found.interval())[:, :, 0].T, reference.conf_int(), rtol=1e-8)
    assert found.features == ("intercept", *NAMES)
    assert found.aic[0] == pytest.approx(reference.aic, rel=1e-8)
    assert found.f[0] == pytest.approx(reference.fvalue, rel=1e-8)


def test_a_simulation_takes_the_range_of_targets_from_all_rows() -> None:
    X, y, site = table(0)
    Y = np.column_stack([y, np.full(len(y), 7.0)])
    for targets in (y, Y):
        told = [(-100, 300), 8.0] if targets is Y else (-100, 300)
        seen, agreed = (regressor(target_bounds=one).fit(X, targets, site) for one in (None, told))
        np.testing.assert_allclose(seen.predict(X), agreed.predict(X), rtol=1e-9)
    for make in (
        lambda: regressor(target_bounds=None).plan(NAMES, 4),
        lambda: regressor(target_bounds=None).vectors(X, y, "site 1"),
        lambda: regressor(target_bounds=None, privacy=Privacy(1.0, 1e-6)).fit(X, y, site),
    ):
        with pytest.raises(DataError, match=r"expected target_bounds, a range \(low, high\)"):
            make()


def test_a_regressor_says_who_classifies() -> None:
    model = FederatedRidge(1.0)
    assert not hasattr(model, "decision_function")
    with pytest.raises(AttributeError, match="FederatedRidgeClassifier has them"):
        _ = model.classes_


def test_several_targets() -> None:
    X, y, site = table(0)
    Y = np.column_stack([y, np.sqrt(abs(y))])
    reference = make_pipeline(StandardScaler(), Ridge(alpha=0.12)).fit(X, Y)
    for bounds in ([(-100, 300), 32.0], (-100, 300)):
        model = regressor(target_bounds=bounds).fit(X, Y, site)
        np.testing.assert_allclose(model.predict(X), reference.predict(X), rtol=1e-8)
        assert (model.coef_.shape, np.shape(model.intercept_)) == ((2, 3), (2,))
    (plan,) = regressor(target_bounds=[(-100, 300), 32.0]).plan(NAMES, 4)
    assert plan.length == 10 + 8 + 3 + 1
    with pytest.raises(DataError, match="expected y of 2 columns, as target_bounds say"):
        regressor(target_bounds=[(-100, 300), (0, 32.0)]).fit(X, y, site)
    assert regressor(target_bounds=[(-100, 300)]).fit(X, y[:, None], site).predict(X).shape == (120, 1)


@pytest.mark.parametrize(
    ("bounds", "change", "text"),
    [
        (None, np.nan, "site 3: expected finite y"),
        (None, "many", "expected y as numbers|for labels use FederatedRidgeClassifier"),
        ((300, -100), None, "expected target_bounds as 1 numbers above 0 or ranges"),
        ("high", None, "expected target_bounds as 1 numbers"),
        ((0, 50), None, "site .: expected finite y within target_bounds, it is not so in .* rows"),
        (
            (-100, 300),
            np.nan,
            "site 3: expected finite y within target_bounds, it is not so in 1 rows .*row 8",
        ),
        ((-100, 300), "many", "expected y as numbers|for labels use FederatedRidgeClassifier"),
    ],
)
def test_targets_that_do_not_fit_spend_no_data(bounds: Any, change: Any, text: str) -> None:
    X, y, site = table(0)
    wrong: Any = y.astype(object) if isinstance(change, str) else y.copy()
    if change is not None:
        wrong[7] = change
    aggregator = quick()
    with pytest.raises(DataError, match=text):
        regressor(target_bounds=bounds, aggregator=aggregator).fit(X, wrong, site)
    regressor(aggregator=aggregator).fit(X, y, site)


def test_zeros_and_ones_are_numbers_to_a_regressor_which_says_so() -> None:
    X, y, site = table(0)
    labels = (y > 100).astype(int)
    reference = make_pipeline(StandardScaler(), Ridge(alpha=0.12)).fit(X, labels)
    with pytest.warns(LabelWarning, match="For labels use FederatedRidgeClassifier"):
        model = regressor(target_bounds=None).fit(X, labels, site)
    np.testing.assert_allclose(model.predict(X), reference.predict(X), rtol=1e-7)
    assert model.score(X, labels) == pytest.approx(reference.score(X, labels), rel=1e-8)
    regressor(target_bounds=(0, 1)).fit(X, labels, site)  # warns of nothing


def test_an_error_of_a_second_fit_says_first_how_to_solve_the_sum_again() -> None:
    X, y, site = table(0)
    model = regressor(target_bounds=(-100, 300)).fit(X, y, site)
    with pytest.raises(RoundAbortedError) as refused:
        model.set_params(ridge=0.5).fit(X, y, site)
    assert refused.value.__notes__[0].startswith("the sum of the fit before is kept: refit(ridge=…)")
    assert model.refit(ridge=0.5).ridge_ == 0.5


@pytest.mark.parametrize(
    "make", [quick, lambda: bfv("sum"), lambda: bfv("weights")], ids=["mask", "sum", "weights"]
)
def test_the_penalty_is_chosen_by_generalised_cross_validation(make: Any) -> None:
    X, y, site = table(3)
    X = X.astype(float)
    X = np.column_stack(
        [X, PolynomialFeatures(3).fit_transform(StandardScaler().fit_transform(X))[:, 4:].clip(-20, 20)]
    )
    options: dict[str, Any] = {"column_bounds": [*RANGES, *[(-20.0, 20.0)] * 16], "ridge": "gcv"}
    model = regressor(**options, aggregator=make()).fit(X, y, site)
    pooled = clone(model).fit_pooled(X, y)
    path = pooled.path()
    assert model.ridge_ == pooled.ridge_ == path.ridges[path.gcv.argmin()] == path.best
    assert 1e-8 < model.ridge_ < 1e3
    np.testing.assert_allclose(
        model.predict(X),
        regressor(**options | {"ridge": model.ridge_}).fit_pooled(X, y).predict(X),
        rtol=1e-7,
    )
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    scores = []
    for ridge in path.ridges[8:40:8]:
        hat = 1 / 120 + Z @ np.linalg.solve(Z.T @ Z + 120 * ridge * np.eye(19), Z.T)
        scores.append(120 * ((y - hat @ y) ** 2).sum() / (120 - np.trace(hat)) ** 2)
    np.testing.assert_allclose(path.gcv[8:40:8], scores, rtol=1e-6)


def test_a_classifier_chooses_its_penalty_from_counts() -> None:
    X, y, site = table(3)
    labels = np.where(y > 100, "high", "low")
    model = classifier(ridge="gcv").fit(X, labels, site)
    one_hot = (labels[:, None] == model.classes_).astype(float)
    path = regressor(target_bounds=(0, 1)).fit_pooled(X, one_hot).path()
    np.testing.assert_allclose(model.path().gcv, path.gcv, rtol=1e-8)
    assert model.ridge_ == path.best


@pytest.mark.parametrize("ridge", [1e-3, 0.1])
def test_weighted_rows(ridge: float) -> None:
    X, y, site = table(1)
    weights = np.random.default_rng(0).uniform(0, 3, 120)
    model = regressor(ridge=ridge, max_weight=3.0).fit(X, y, site, sample_weight=weights)
    scaler = StandardScaler().fit(X, sample_weight=weights)
    reference = Ridge(alpha=ridge * weights.sum()).fit(scaler.transform(X), y, sample_weight=weights)
    np.testing.assert_allclose(model.predict(X), reference.predict(scaler.transform(X)), rtol=1e-8)
    pooled = clone(model).fit_pooled(X, y, weights)
    assert np.linalg.norm(model.weights_ - pooled.weights_) <= model.certificate_.bound < 1e-7
    inference = sm.WLS(y, sm.add_constant(X.astype(float)), weights).fit()
    np.testing.assert_allclose(model.inference().se[:, 0], inference.bse, rtol=1e-8)
    twice = regressor(ridge=ridge, max_weight=3.0).fit(X, y, site, sample_weight=np.full(120, 2.0))
    np.testing.assert_allclose(twice.predict(X), regressor(ridge=ridge).fit(X, y, site).predict(X), rtol=1e-8)


@pytest.mark.parametrize(
    ("most", "weights", "text"),
    [
        (None, np.ones(120), "expected max_weight, an agreed bound"),
        (
            2.0,
            np.full(120, 2.1),
            "expected weights from 0 to the agreed 2, it is not so in row 1 and 119 others",
        ),
        (2.0, np.full(120, -1.0), "expected weights from 0"),
        (2.0, np.full(120, np.nan), "expected weights from 0"),
        (2.0, np.zeros(120), "expected some weights above 0"),
        (2.0, np.ones(7), "expected a weight for each of 120 rows"),
        (0.0, None, "expected max_weight, a bound on the weight of a row, above 0"),
    ],
)
def test_weights_that_do_not_fit_spend_no_data(most: Any, weights: Any, text: str) -> None:
    X, y, site = table(1)
    aggregator = quick()
    with pytest.raises(DataError, match=text):
        regressor(max_weight=most, aggregator=aggregator).fit(X, y, site, sample_weight=weights)
    regressor(aggregator=aggregator).fit(X, y, site)


def rare(seed: int = 0) -> tuple[Any, Any, Any]:
    """Three rows of a hundred are sick, and are found by their columns."""
    draws = np.random.default_rng(seed)
    sick = np.arange(600) % 33 == 0
    X = draws.normal(size=(600, 2)).clip(-5, 5) + 2.5 * sick[:, None]
    return X, np.where(sick, "sick", "well"), np.arange(600) % 4


def test_class_weights_are_scikit_learns() -> None:
    X, y, site = rare()
    weights = {"sick": 32.0}
    model = FederatedRidgeClassifier(column_bounds=[8.0, 8.0], class_weight=weights, aggregator=quick()).fit(
        X, y, site
    )
    own = np.where(y == "sick", 32.0, 1.0)
    scaler = StandardScaler().fit(X, sample_weight=own)
    reference = RidgeClassifier(alpha=1e-3 * own.sum(), class_weight=weights).fit(scaler.transform(X), y)
    np.testing.assert_allclose(
        model.decision_function(X), reference.decision_function(scaler.transform(X)), rtol=1e-7
    )
    np.testing.assert_allclose(model.coef_, np.atleast_2d(reference.coef_) / scaler.scale_, rtol=1e-7)
    assert (model.predict(X) == reference.predict(scaler.transform(X))).all()
    plain = FederatedRidgeClassifier(column_bounds=[8.0, 8.0], aggregator=quick()).fit(X, y, site)
    sick = y == "sick"
    assert (plain.predict(X)[sick] == "sick").mean() < 0.2
    assert (model.predict(X)[sick] == "sick").mean() > 0.9
    assert plain.decision_function(X).shape == (600,)
    assert get_scorer("roc_auc")(plain, X, y) > 0.95


def balanced(X: Any, y: Any, own: Any = 1.0) -> tuple[Any, Any]:
    """scikit-learn's, on columns standardised as they count."""
    weights = compute_sample_weight("balanced", y) * own
    scaler = StandardScaler().fit(X, sample_weight=weights)
    model = RidgeClassifier(alpha=1e-3 * weights.sum(), class_weight="balanced")
    given = None if np.ndim(own) == 0 else own
    return model.fit(scaler.transform(X), y, sample_weight=given), scaler


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_balanced_weights_are_scikit_learns(seed: int, weighted: bool) -> None:
    X, y, site = rare(seed)
    own = np.random.default_rng(seed).uniform(0.5, 2, len(y)) if weighted else None
    reference, scaler = balanced(X, y, 1.0 if own is None else own)
    common: dict[str, Any] = {"column_bounds": [8.0, 8.0], "class_weight": "balanced"}
    common |= {"max_weight": 2.0} if weighted else {}
    aggregator = quick()
    model = FederatedRidgeClassifier(aggregator=aggregator, **common).fit(X, y, site, own)
    pooled = FederatedRidgeClassifier(**common).fit_pooled(X, y, own)
    for one in (model, pooled):
        expected = reference.decision_function(scaler.transform(X))
        np.testing.assert_allclose(one.decision_function(X), expected, rtol=1e-8, atol=1e-8)
        assert one.class_weight_ == pytest.approx(
            dict(zip(one.classes_, len(y) / 2 / np.unique(y, return_counts=True)[1], strict=True))
        )
    assert (model.predict(X)[y == "sick"] == "sick").mean() > 0.9
    assert len(aggregator.cohort.server.parameters.rounds) == 2
    own_rows = site == 1
    personal = model.personalize(X[own_rows], y[own_rows], None if own is None else own[own_rows])
    assert personal.predict(X).shape == y.shape
    assert pickle.loads(pickle.dumps(model)).class_weight_ == model.class_weight_
    model.refit(ridge=0.5)


def test_balanced_weights_need_the_counts_of_a_fit() -> None:
    X, y, site = rare()
    model = FederatedRidgeClassifier(
        8.0, class_weight="balanced", classes=["sick", "well"], aggregator=quick()
    )
    for act in (
        lambda: model.vectors(X, y, "a"),
        lambda: model.plan(2, 4),
        lambda: model.fit_elsewhere("abcd", 2),
    ):
        with pytest.raises(DataError, match='expected fit with class_weight="balanced"'):
            act()
    with pytest.raises(PolicyError, match="1 pooled rows of the class 'odd'"):
        model.set_params(classes=["sick", "well", "odd"]).fit(X, y, site)


def test_balanced_weights_of_sites_that_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A site that is counted and then falls silent would reveal its counts by the difference."""
    X, y, site = rare()
    network = FaultyNetwork([Fault("drop", "collecting", frozenset({1}))], 0)
    aggregator = MaskedAggregator(suite=Suite.HYBRID, network=network)
    with pytest.warns(DropoutWarning):
        model = FederatedRidgeClassifier(8.0, class_weight="balanced", aggregator=aggregator).fit(X, y, site)
    there = site != 1
    reference, scaler = balanced(X[there], y[there])
    np.testing.assert_allclose(
        model.decision_function(X), reference.decision_function(scaler.transform(X)), rtol=1e-8, atol=1e-8
    )


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ("balance", "class_weight as agreed weights by label, or .balanced., got 'balance'"),
        ({"ill": 2.0}, "class_weight of labels out of the classes, got 'ill'"),
        ({"sick": 0.0}, "class_weight above 0"),
        ({"sick": np.nan}, "class_weight as a finite number"),
    ],
)
def test_class_weights_that_do_not_fit_spend_no_data(weights: Any, text: str) -> None:
    X, y, site = rare()
    aggregator = quick()
    with pytest.raises(DataError, match=text):
        FederatedRidgeClassifier(8.0, class_weight=weights, aggregator=aggregator).fit(X, y, site)
    FederatedRidgeClassifier(8.0, aggregator=aggregator).fit(X, y, site)


def test_a_binary_classifier_is_scikit_learns() -> None:
    X, y, site = table(2)
    labels = (y > 110).astype(int)
    model = classifier().fit(X, labels, site)
    reference = make_pipeline(StandardScaler(), RidgeClassifier(alpha=0.12)).fit(X, labels)
    np.testing.assert_allclose(
        model.decision_function(X), reference.decision_function(X), rtol=1e-8, atol=1e-10
    )
    assert (model.coef_.shape, np.shape(model.intercept_)) == ((1, 3), (1,))
    np.testing.assert_allclose(
        model.decision_function(X), X.to_numpy(dtype=float) @ model.coef_[0] + model.intercept_, rtol=1e-7
    )
    np.testing.assert_allclose(model.class_scores(X).sum(axis=1), 1.0)


@pytest.mark.parametrize("priors", [None, "equal"])
def test_discriminants_through_masks_are_scikit_learns(priors: Any) -> None:
    X, y, site = rare()
    model = FederatedLDA(column_bounds=[8.0, 8.0], priors=priors, aggregator=quick()).fit(X, y, site)
    reference = LinearDiscriminantAnalysis(solver="lsqr").fit(X, y)
    shift = 0.0 if priors is None else -np.log(reference.priors_[1] / reference.priors_[0])
    odds = reference.decision_function(X) + shift
    np.testing.assert_allclose(model.decision_function(X), odds, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(model.predict_proba(X)[:, 1], 1 / (1 + np.exp(-odds)), rtol=1e-7)
    np.testing.assert_allclose(np.exp(model.predict_log_proba(X)), model.predict_proba(X))
    found = (model.predict(X) == "sick")[y == "sick"].mean()
    assert found > 0.9 if priors else found > 0.5
    ridge = FederatedRidgeClassifier(column_bounds=[8.0, 8.0], aggregator=quick()).fit(X, y, site)
    np.testing.assert_allclose(ridge.discriminants(priors).covariance, model.covariance_, rtol=1e-9)
    model.refit(priors=[0.5, 0.5])
    assert model.priors_.tolist() == [0.5, 0.5]
    with pytest.raises(DataError, match="expected priors as 2 numbers"):
        model.refit(priors=[1.0])
    assert model.priors == [0.5, 0.5]
    with pytest.raises(DataError, match="expected parameters of the solve"):
        model.refit(max_rows=3)


def test_components_through_masks_are_scikit_learns() -> None:
    X, _, site = table(4)
    model = FederatedPCA(column_bounds=RANGES, aggregator=quick()).fit(X, site=site)
    reference = PCA().fit(X)
    np.testing.assert_allclose(model.explained_variance_, reference.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(model.singular_values_, reference.singular_values_, rtol=1e-9)
    np.testing.assert_allclose(model.components_, reference.components_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(model.transform(X), reference.transform(X), rtol=0, atol=1e-7)
    np.testing.assert_allclose(
        model.inverse_transform(model.transform(X)), X.astype(float), rtol=1e-9, atol=1e-9
    )
    assert model.refit(n_components=2, standardise=True).transform(X).shape == (120, 2)
    assert model.get_feature_names_out().tolist() == ["federatedpca0", "federatedpca1"]
    with pytest.raises(DataError, match="at most 3 components of 3 columns, got 4"):
        FederatedPCA(column_bounds=RANGES, n_components=4, aggregator=quick()).fit(X, site=site)
    with pytest.raises(LocalProtocolError, match="release"):
        FederatedPCA(column_bounds=RANGES, aggregator=bfv("weights")).fit(X, site=site)


def test_the_description_of_a_masked_sum() -> None:
    X, y, site = table(5)
    labels = np.where(y > 100, "high", "low")
    found = classifier().fit(X, labels, site).describe()
    high = labels == "high"
    assert (found.rows, found.classes, found.class_rows) == (
        120,
        ("high", "low"),
        (int(high.sum()), int((~high).sum())),
    )
    year, smokes, change = found.lines
    assert (year.name, smokes.name, change.name) == tuple(NAMES)
    assert year.mean == pytest.approx(X["year"].mean(), rel=1e-10)
    assert year.deviation == pytest.approx(X["year"].std(), rel=1e-9)
    assert change.by_class[0] == pytest.approx(X["change"][high].mean(), rel=1e-8)
    assert smokes.all is not None
    assert smokes.all.count == X["smokes"].sum()
    assert smokes.cells[1].count == X["smokes"][~high].sum()


def test_an_analysis_needs_an_exact_sum() -> None:
    X, y, site = table(0)
    labels = (y > 100).astype(int)
    with pytest.raises(DataError, match="expected an exact sum to analyse"):
        regressor().inference()
    private = classifier(
        classes=[0, 1], max_rows=64, privacy=Privacy(2.0, 1e-5), aggregator=MaskedAggregator()
    ).fit(np.tile(X.to_numpy(dtype=float), (3, 1)), np.tile(labels, 3), np.arange(360) % 9)
    with pytest.raises(DataError, match="expected an exact sum to analyse"):
        private.describe()
    released = regressor(aggregator=bfv("weights")).fit(X, y, site)
    with pytest.raises(DataError, match="key holders gave the weights alone"):
        released.inference()
    with pytest.raises(DataError, match="key holders gave the weights alone"):
        released.refit(ridge=1.0)


def test_a_private_regressor_moves_targets_to_their_bounds() -> None:
    X, y, _ = table(0, 3000)
    site, privacy = np.arange(3000) % 9, Privacy(64.0, 1e-3)
    y = np.append(1e9, y[1:])  # a refusal would tell of that row
    options: dict[str, Any] = {"privacy": privacy, "max_rows": 400, "ridge": 1e-9}
    model = regressor(**options, aggregator=MaskedAggregator()).fit(X, y, site)
    assert model.score(X[1:], y[1:]) > 0.8
    with pytest.raises(DataError, match='got "gcv"'):
        regressor(**options | {"ridge": "gcv"}).fit(X, y, site)
    with pytest.raises(DataError, match="without weights under differential privacy"):
        regressor(**options, max_weight=2.0).fit(X, y, site)


# ---- scikit-learn's ways ---------------------------------------------------------------------------------


@contextmanager
def routing() -> Iterator[None]:
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def test_a_site_is_routed_through_pipelines_and_searches() -> None:
    X, y, site = table(0)
    with routing():
        model = FederatedRidge(row_norm=10.0, target_bounds=(-100, 300)).set_fit_request(site=True)
        line = make_pipeline(StandardScaler(), model).fit(X, y, site=site)
        assert line.score(X, y) > 0.8
        assert {name for one in line[-1].rounds_ for name in one.survivors} == set(site)
        search = GridSearchCV(line, {"federatedridge__ridge": [1e-3, 10.0]}, cv=3).fit(X, y, site=site)
        assert search.best_params_ == {"federatedridge__ridge": 1e-3}
        assert search.best_estimator_.score(X, y) > 0.8


def test_rows_without_a_site_are_dealt_when_that_is_asked_for() -> None:
    X, y, site = table(0)
    with pytest.raises(DataError, match="expected the site of each row, got none: give site, or deal=k"):
        regressor().fit(X, y)
    model = regressor(deal=4).fit(X, y)
    assert model.rounds_[0].survivors == ("site 1", "site 2", "site 3", "site 4")
    np.testing.assert_allclose(model.weights_, regressor().fit(X, y, site).weights_, rtol=1e-8)
    scores = cross_val_score(
        FederatedRidge(column_bounds=RANGES, target_bounds=(-100, 300), deal=3), X, y, cv=3
    )
    assert scores.min() > 0.7
    with pytest.raises(DataError, match="deal as an integer of at least 1"):
        regressor(deal=0).fit(X, y)


def test_a_stored_estimator_without_its_ledger_does_not_fit_the_same_rows_again() -> None:
    """The ledger does not travel, so a second session with another row less would expose that row."""
    X, y, site = table(0)
    for aggregator in (None, quick()):
        model = regressor(aggregator=aggregator).fit(X, y, site)
        stored = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(stored.predict(X), model.predict(X))
        assert stored.inference().aic == model.inference().aic
        for again in (stored, pickle.loads(pickle.dumps(stored))):
            with pytest.raises(PolicyError, match="expected the ledger that knows of the data set 'data'"):
                again.fit(X[:-1], y[:-1], site[:-1])
        np.testing.assert_array_equal(stored.predict(X), model.predict(X))
        if aggregator is not None:  # which knows
            with pytest.raises(RoundAbortedError):
                stored.set_params(aggregator=aggregator).fit(X, y, site)
        stored.set_params(aggregator=None, data_set="other rows").fit(X, y, site)
    fresh = pickle.loads(pickle.dumps(regressor(aggregator=None)))
    with pytest.raises(NotFittedError):
        fresh.predict(X)
    fresh.fit(X, y, site)


def test_a_failed_solve_keeps_the_sum_of_every_model() -> None:
    X, y, site = table(0)
    twin = X.assign(again=X["year"])
    options: dict[str, Any] = {"column_bounds": [*RANGES, (1950.0, 2010.0)], "aggregator": quick()}
    model = FederatedLDA(**options)
    with pytest.raises(SolveError, match="none of which follows from the others"):
        model.fit(twin, y > 100, site)
    with pytest.raises(NotFittedError):
        model.predict(twin)
    assert model.statistics_ is not None
    assert model.refit(ridge=0.1).predict(twin).shape == (120,)


@pytest.mark.parametrize(("ridge", "expected"), [('"gcv"', None), ("0.01", 0.01)])
def test_a_study_can_leave_the_penalty_to_cross_validation(ridge: str, expected: float | None) -> None:
    text = 'backend="mask"\nfeatures=["a"]\nlabel="b"\nclasses=["0","1"]\nmax_rows=10\n[ridge]\nrow_norm=1.0\nridge='
    (plan,) = study.parse(text + ridge).plan(4)
    assert plan.system is not None
    assert plan.system.ridge == expected
    with pytest.raises(DataError, match="ridge"):
        study.parse(text + "-1.0").plan(4)
