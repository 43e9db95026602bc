"""The estimator: what several sites learn together is what one would learn from their pooled rows."""

import pickle
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from secure_afl import Aggregate, FederatedRidgeClassifier, MaskedAggregator, PlainAggregator, Policy
from secure_afl.analytic.privacy import Privacy
from secure_afl.crypto.hpke import Suite
from secure_afl.errors import ColumnWarning, DataError, DropoutWarning, SolveError
from secure_afl.protocol.session.errors import LocalProtocolError, PolicyError, RoundAbortedError
from secure_afl.protocol.session.parameters import Profile, SumPlan
from secure_afl.sums.aggregation import SessionSettings
from secure_afl.testing.faults import Fault, FaultyNetwork

PLAIN = Policy(backends=frozenset({"plain"}))


def quick(**arguments: object) -> MaskedAggregator:
    policy = Policy(suites=frozenset(Suite), profiles=frozenset(Profile))
    return MaskedAggregator(policy, suite=Suite.X25519, **arguments)  # type: ignore[arg-type]


def data(sites: int, rows: int, features: int, classes: int, condition: float, seed: int):  # type: ignore[no-untyped-def]
    """Rows whose Gram matrix has about the given condition number, one label dependent on them."""
    draws = np.random.default_rng(seed)
    basis = np.linalg.qr(draws.normal(size=(features, features)))[0]
    X = draws.normal(size=(rows, features)) * np.logspace(0, -np.log10(condition) / 2, features) @ basis
    X /= np.linalg.norm(X, axis=1).max() * 1.0001
    y = (X @ draws.normal(size=(features, classes))).argmax(axis=1)
    site = np.concatenate([np.arange(sites), draws.integers(0, sites, rows - sites)])
    return X, y, np.array([f"site-{i}" for i in site])


@pytest.mark.slow
@settings(max_examples=100)
@given(
    st.integers(3, 5),
    st.integers(12, 80),
    st.integers(1, 6),
    st.integers(2, 4),
    st.floats(0, 10),
    st.integers(1, 3),
    st.sampled_from([0.0, 1e-9, 1e-3]),
    st.integers(0, 2**32),
    st.booleans(),
)
def test_masked_weights_are_within_the_certificate_of_the_pooled_ones(
    sites: int,
    rows: int,
    features: int,
    classes: int,
    digits: float,
    rounds: int,
    ridge: float,
    seed: int,
    lost: bool,
) -> None:
    X, y, site = data(sites, rows, features, classes, 10**digits, seed)
    silent = frozenset({seed % sites} if lost and sites > 3 else ())
    network = FaultyNetwork([Fault("drop", "collecting", silent)])
    model = FederatedRidgeClassifier(
        1.0,
        ridge=ridge,
        classes=range(classes),
        max_rows=rows,
        rounds=rounds,
        aggregator=quick(network=network),
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DropoutWarning)
            model.fit(X, y, site)
    except SolveError:
        return  # no guarantee, no model: said, not hidden
    survivors = set(model.rounds_[0].survivors)
    assert survivors == {f"site-{i}" for i in range(sites)} - {f"site-{i}" for i in silent}
    kept = np.isin(site, list(survivors))
    pooled = clone(model).fit_pooled(X[kept], y[kept])
    assert np.linalg.norm(model.weights_ - pooled.weights_) <= model.certificate_.bound


def test_condition_numbers_up_to_1e10_are_solved_with_a_certificate() -> None:
    """The property above is not empty where it is hardest."""
    solved = 0
    for seed in range(12):
        X, y, site = data(4, 200, 5, 2, 10.0 ** (seed % 12 - 1), seed)
        ridge = 1e-10 * (1 + seed % 3)
        model = FederatedRidgeClassifier(1.0, ridge=ridge, classes=range(2), max_rows=200, aggregator=quick())
        try:
            model.fit(X, y, site)
        except SolveError:
            continue
        pooled = clone(model).fit_pooled(X, y)
        assert np.linalg.norm(model.weights_ - pooled.weights_) <= model.certificate_.bound
        solved += model.certificate_.condition > 1e8
    assert solved >= 3


def test_a_dropout_in_one_wave_leaves_out_that_wave_only() -> None:
    X, y, site = data(4, 80, 3, 2, 10.0, 1)

    class SecondWave(FaultyNetwork):
        sums = 0

        def carry(self, envelope):  # type: ignore[no-untyped-def]
            if envelope.phase == "collecting" and not envelope.upward and envelope.client == 0:
                self.sums += 1
            return super().carry(envelope) if self.sums == 2 else [envelope]

    network = SecondWave([Fault("drop", "collecting", frozenset({1}))])
    model = FederatedRidgeClassifier(1.0, classes=range(2), rounds=3, aggregator=quick(network=network))
    with pytest.warns(DropoutWarning, match="round 2 of 3 is without site-1"):
        model.fit(X, y, site)
    assert [len(one.survivors) for one in model.rounds_] == [4, 3, 4]
    own = np.flatnonzero(site == "site-1")
    missing = np.array_split(own, 3)[1]
    kept = np.setdiff1d(np.arange(80), missing)
    pooled = clone(model).fit_pooled(X[kept], y[kept])
    assert model.statistics_ is not None
    assert model.statistics_.count == 80 - len(missing)
    assert np.linalg.norm(model.weights_ - pooled.weights_) <= model.certificate_.bound


def test_scikit_learns_manners() -> None:
    X, y, site = data(4, 60, 3, 3, 10.0, 2)
    labels = np.array(["a", "b", "c"])[y]
    model = FederatedRidgeClassifier(1.0, ridge=1e-4, aggregator=quick())
    assert clone(model).get_params()["ridge"] == 1e-4
    assert model.fit(X, labels, site) is model
    assert model.coef_.shape == (3, 3)
    assert model.intercept_.shape == (3,)
    assert set(model.predict(X)) <= {"a", "b", "c"}
    assert model.score(X, labels) > 0.6
    np.testing.assert_allclose(model.decision_function(X), X @ model.coef_.T + model.intercept_)
    assert model.certificate_.bound > 0


def test_the_default_is_masked_active_and_hybrid() -> None:
    X, y, site = data(4, 60, 3, 2, 10.0, 3)
    model = FederatedRidgeClassifier(1.0).fit(X, y, site)
    assert isinstance(model.rounds_[0], Aggregate)
    assert model.rounds_[0].units is not None
    default = MaskedAggregator()
    assert default.backend == "mask"
    assert default.settings == SessionSettings(
        Policy(), Profile.ACTIVE, Suite.HYBRID, watch=default.settings.watch
    )


def test_the_plain_backend_must_be_asked_for() -> None:
    X, y, site = data(4, 60, 3, 2, 10.0, 3)
    with pytest.raises(PolicyError, match="'plain' is not allowed"):
        PlainAggregator()
    plain = FederatedRidgeClassifier(1.0, aggregator=PlainAggregator(PLAIN)).fit(X, y, site)
    masked = FederatedRidgeClassifier(1.0, aggregator=quick()).fit(X, y, site)
    assert np.linalg.norm(plain.weights_ - masked.weights_) <= masked.certificate_.bound
    with pytest.raises(PolicyError, match="'mask' is not allowed"):
        MaskedAggregator(PLAIN).open(["a", "b", "c"], [SumPlan("s", 1, 1.0)])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (
            lambda X, y, site: X.__setitem__((7, 1), np.nan),
            "site-.: expected finite X, without NaN or infinity, it is not in row .*, column 2",
        ),
        (
            lambda X, y, site: X.__setitem__((7, 1), np.inf),
            "site-.: expected finite X, without NaN or infinity, it is not in row .*, column 2",
        ),
        (lambda X, y, site: X.__setitem__(7, 5.0), "site-.: X has norm over .* in row"),
        (
            lambda X, y, site: y.__setitem__(7, 9),
            "site-.: expected labels out of the 2 agreed classes, got 1 others",
        ),
    ],
)
def test_bad_rows_are_refused_before_anything_is_sent(change, what: str) -> None:  # type: ignore[no-untyped-def]
    X, y, site = data(4, 60, 3, 2, 10.0, 4)
    change(X, y, site)
    aggregator = quick()
    with pytest.raises(DataError, match=what):
        FederatedRidgeClassifier(1.0, classes=range(2), aggregator=aggregator).fit(X, y, site)
    with pytest.raises(LocalProtocolError, match="no session is open"):
        _ = aggregator.cohort


@pytest.mark.parametrize(
    ("arguments", "error", "what"),
    [
        ({"row_norm": 0.0}, DataError, "bound on the norm of a row"),
        ({"row_norm": float("nan")}, DataError, "row_norm as a finite number"),
        ({"row_norm": "2"}, DataError, "row_norm as a finite number"),
        ({"rounds": True}, DataError, "rounds as an integer"),
        ({"max_rows": 2.5}, DataError, "max_rows as an integer"),
        ({"classes": [0, 1, 1]}, DataError, "classes without repeats"),
        ({"ridge": None}, DataError, "ridge as a finite number"),
        ({"rounds": 0}, DataError, "rounds as an integer of at least 1"),
        ({"max_rows": 3}, DataError, "at most 3 rows were agreed on"),
        ({"ridge": -1.0}, DataError, "ridge from 0 to 2"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], error: type[Exception], what: str) -> None:
    X, y, site = data(4, 60, 3, 2, 10.0, 5)
    with pytest.raises(error, match=what):
        FederatedRidgeClassifier(**{"row_norm": 1.0, "aggregator": quick(), **arguments}).fit(X, y, site)  # type: ignore[arg-type]


def test_shapes_are_checked_in_fit_and_predict() -> None:
    X, y, site = data(4, 60, 3, 2, 10.0, 6)
    model = FederatedRidgeClassifier(1.0, aggregator=quick())
    for bad in ((X[:5], y, site), (X, y[:5], site), (X, y, site[:5]), (X[0], y, site)):
        with pytest.raises(DataError, match=r"expected X|expected a (label|site) for each"):
            model.fit(*bad)
    model.fit(X, y, site)
    for bad_rows in (X[:, :2], np.full_like(X, np.nan)):
        with pytest.raises(DataError, match="expect"):
            model.predict(bad_rows)


def test_too_few_clients_are_refused_with_the_reason() -> None:
    X, y, site = data(2, 60, 3, 2, 10.0, 7)
    with pytest.raises(PolicyError, match="at least 3 clients"):
        FederatedRidgeClassifier(1.0, aggregator=quick()).fit(X, y, site)


def test_a_data_set_is_fitted_once_in_whatever_form_and_for_whomever() -> None:
    """Otherwise the difference of two sums would be one site's statistic, or one site's new record."""
    X, y, site = data(5, 80, 3, 2, 10.0, 8)
    aggregator = quick()
    model = FederatedRidgeClassifier(1.0, classes=range(2), aggregator=aggregator).fit(X, y, site)
    rest = site != "site-2"
    for again in (
        (X, y, site),
        (X[rest], y[rest], site[rest]),
        (X[::-1][rest[::-1]], y[::-1][rest[::-1]], site[::-1][rest[::-1]]),
        (X[:-1], y[:-1], site[:-1]),
        (X[:, :2], y, site),
        (X / 2, 1 - y, site),
        (X.astype(np.float32), y, site),
    ):
        for rounds in (1, 2):
            model.set_params(rounds=rounds)
            with pytest.raises(RoundAbortedError) as aborted:
                model.fit(*again)
            assert any("was used in session" in note for note in aborted.value.__notes__)
    model.set_params(rounds=1, data_set="new rows").fit(X, y, site)
    aggregator.renew("data", may_expose=True)
    model.set_params(data_set="data").fit(X, y, site)


def test_the_default_aggregator_keeps_its_memory_over_fits() -> None:
    X, y, site = data(4, 60, 3, 2, 10.0, 9)
    model = FederatedRidgeClassifier(1.0).fit(X, y, site)
    with pytest.raises(RoundAbortedError):
        model.fit(X, y, site)


def test_another_aggregator_is_asked_at_once_and_never_a_kept_one() -> None:
    """A model fitted in the clear must mask as soon as it is told to."""
    X, y, site = data(4, 60, 3, 2, 10.0, 10)
    model = FederatedRidgeClassifier(1.0, aggregator=PlainAggregator(PLAIN)).fit(X, y, site)
    for aggregator, masked in ((None, False), (quick(), True), ("default", True)):
        if aggregator is not None:
            model.set_params(aggregator=None if aggregator == "default" else aggregator).fit(X, y, site)
        (one,) = model.rounds_
        assert isinstance(one, Aggregate)
        assert (one.units is not None) is masked


def test_a_refused_fit_leaves_the_model_as_it_was() -> None:
    X, y, site = data(4, 60, 3, 2, 10.0, 11)
    model = FederatedRidgeClassifier(1.0, aggregator=quick()).fit(X, y, site)
    before = model.predict(X)
    with pytest.raises(RoundAbortedError):
        model.fit(X, np.array(["a", "b"])[y], site)
    assert (model.predict(X) == before).all()


def test_a_clone_shares_the_ledgers_of_its_aggregator() -> None:
    X, y, site = data(4, 60, 3, 2, 10.0, 12)
    model = FederatedRidgeClassifier(1.0, aggregator=quick()).fit(X, y, site)
    with pytest.raises(RoundAbortedError):
        clone(model).fit(X[1:], y[1:], site[1:])


def test_a_stored_model_predicts_and_holds_no_identity() -> None:
    X, y, site = data(4, 60, 3, 2, 10.0, 13)
    for aggregator in (None, quick()):
        model = FederatedRidgeClassifier(1.0, aggregator=aggregator).fit(X, y, site)
        stored = pickle.dumps(model)
        assert b"Identity" not in stored
        assert (pickle.loads(stored).predict(X) == model.predict(X)).all()
    with pytest.raises(NotFittedError):
        FederatedRidgeClassifier(1.0).predict(X)


@pytest.mark.parametrize(
    "site",
    [
        [float("nan"), 1, 2, 3],
        ["a", "b", None, "c"],
        ["a", 1, "b", "c"],
        [1.5, 2, 3, 4],
        [True, False, True, False],
    ],
)
def test_rows_without_a_proper_site_are_refused(site: list[object]) -> None:
    X, y, _ = data(4, 60, 3, 2, 10.0, 14)
    column = np.array(site * 15, dtype=object) if None in site or "a" in site else np.array(site * 15)
    with pytest.raises(DataError, match="name of a site for each row"):
        FederatedRidgeClassifier(1.0, aggregator=quick()).fit(X, y, column)


def test_rows_that_are_no_table_of_numbers_are_refused() -> None:
    X, y, site = data(4, 60, 3, 2, 10.0, 15)
    model = FederatedRidgeClassifier(1.0, aggregator=quick())
    for bad in (X.astype(str), X.astype(object), X[0], [[1.0], [1.0, 2.0]]):
        with pytest.raises(DataError, match="expected X"):
            model.fit_pooled(bad, y)
    for labels in ([None, *y[1:]], y[:3]):
        with pytest.raises(DataError, match=r"expected (labels|a label)"):
            model.fit(X, np.array(labels, dtype=object), site)


def badly_scaled() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Columns from 1e-4 to 1e4 in their own units, with their public bounds."""
    draws, scale = np.random.default_rng(0), 10.0 ** np.linspace(-4, 4, 8)
    X = draws.uniform(-1, 1, (400, 8)) * scale
    y = (X / scale @ draws.normal(size=8) > 0).astype(np.int64)
    return X, y, np.arange(400) % 5, 1.5 * scale


def test_column_bounds_are_worth_digits_on_badly_scaled_columns() -> None:
    X, y, site, bounds = badly_scaled()
    norm = float(np.linalg.norm(X, axis=1).max())
    common = FederatedRidgeClassifier(norm, ridge=1e-9, classes=range(2), aggregator=quick())
    with pytest.warns(ColumnWarning, match="vary by less than the digits"):
        common.fit(X, y, site)
    assert 0 in common.constant_
    together = FederatedRidgeClassifier(
        column_bounds=bounds, ridge=1e-9, classes=range(2), aggregator=quick()
    )
    pooled = FederatedRidgeClassifier(column_bounds=bounds, ridge=1e-9, classes=range(2)).fit_pooled(X, y)
    together.fit(X, y, site)
    np.testing.assert_allclose(together.coef_, pooled.coef_, rtol=1e-8)
    assert np.linalg.norm(together.weights_ - pooled.weights_) <= together.certificate_.bound < 1e-8


def test_columns_are_divided_by_powers_of_two_and_weights_told_in_their_own_units() -> None:
    X, y, _, bounds = badly_scaled()
    powers = 2.0 ** np.ceil(np.log2(bounds))
    model = FederatedRidgeClassifier(column_bounds=bounds, classes=range(2)).fit_pooled(X, y)
    same = FederatedRidgeClassifier(np.sqrt(8) * 1.0001, classes=range(2)).fit_pooled(X / powers, y)
    assert (model.weights_ == same.weights_).all()
    assert (model.coef_ == same.coef_ / powers).all()
    np.testing.assert_allclose(model.decision_function(X), same.decision_function(X / powers), rtol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"row_norm": 3.0},
        {"column_bounds": [1.0, 0.3, 80.0]},
        {"row_norm": 0.5, "privacy": Privacy(1.0, 1e-5)},
        {"row_norm": 0.5, "column_bounds": [1.0, 0.3, 80.0], "privacy": Privacy(1.0, 1e-5)},
    ],
    ids=["norm", "columns", "private", "private columns"],
)
def test_scores_are_rows_times_weights(options: dict[str, Any]) -> None:
    draws = np.random.default_rng(0)
    X, y = (
        draws.uniform(-1, 1, (60, 3)) * (1.0, 0.3, 80.0 if "column_bounds" in options else 1.0),
        np.arange(60) % 2,
    )
    model = FederatedRidgeClassifier(classes=range(2), **options).fit_pooled(X, y)
    assert np.allclose(model.rows(X) @ model.weights_, model.class_scores(X), rtol=0, atol=1e-12)


def test_a_value_over_its_columns_bound_is_refused_without_being_quoted() -> None:
    X, y, site, bounds = badly_scaled()
    for value in (1.0001 * bounds[3], -np.inf, np.nan):
        X[7, 3] = value
        model = FederatedRidgeClassifier(column_bounds=bounds, classes=range(2), aggregator=quick())
        with pytest.raises(
            DataError, match=r"2: expected finite X within its column's bound, .* row 2, column 4$"
        ):
            model.fit(X, y, site)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "expected either row_norm or column_bounds"),
        ({"row_norm": 1.0, "column_bounds": [1.0] * 8}, "expected either row_norm or column_bounds"),
        ({"column_bounds": [1.0] * 7}, "expected column_bounds as 8 numbers"),
        ({"column_bounds": [1.0] * 7 + [0.0]}, "expected column_bounds as 8 numbers"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(arguments: dict[str, object], text: str) -> None:
    X, y, site, _ = badly_scaled()
    with pytest.raises(DataError, match=text):
        FederatedRidgeClassifier(**arguments, classes=range(2)).fit(X, y, site)  # type: ignore[arg-type]


# ---- units and origins -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("ranges", [False, True])
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(-9, 9), st.floats(0, 6), st.sampled_from([1e-6, 1e-3, 1.0]))
def test_the_model_is_scikit_learns_on_standardised_columns(
    ranges: bool, seed: int, unit: int, away: float, ridge: float
) -> None:
    """Years, kelvins and seconds since 1970: whatever the units and origins, up to a million spreads away."""
    draws = np.random.default_rng(seed)
    Z = draws.normal(size=(200, 2)).clip(-3, 3)
    y = (Z @ (1.0, -0.5) + 0.3 * draws.normal(size=200) > 0).astype(int)
    origin = 10.0 ** np.array([away, 0.5])
    X = (Z + origin) * 10.0**unit
    bounds: Any = abs(X).max(axis=0)
    if ranges:
        bounds = np.column_stack([origin - 3, origin + 3]) * 10.0**unit
        bounds = bounds + abs(bounds) * ((-1e-12, 1e-12),)
    model = FederatedRidgeClassifier(column_bounds=bounds, ridge=ridge, aggregator=quick()).fit(
        X, y, np.arange(200) % 4
    )
    reference = make_pipeline(StandardScaler(), Ridge(alpha=200 * ridge)).fit(Z, np.eye(2)[y])
    atol = 1e-11 + 1e-15 * 10.0**away if ranges else 1e-11 + 1e-14 * 100.0**away
    np.testing.assert_allclose(model.class_scores(X), reference.predict(Z), rtol=0, atol=max(atol, 1e-9))
    pooled = clone(model).fit_pooled(X, y)
    assert np.linalg.norm(model.weights_ - pooled.weights_) <= model.certificate_.bound


def test_a_spread_that_is_lost_in_the_digits_is_an_error_with_the_columns_name() -> None:
    draws = np.random.default_rng(0)
    frame = pd.DataFrame({"dose": draws.uniform(-1, 1, 60), "year": 2000.0 + draws.integers(-5, 6, 60)})
    y, site = (frame["dose"] > 0).astype(int), np.arange(60) % 3
    FederatedRidgeClassifier(column_bounds=[1.0, 2048.0], aggregator=quick()).fit(frame, y, site)
    FederatedRidgeClassifier(column_bounds=[(-1.0, 1.0), (1900.0, 2100.0)], aggregator=quick()).fit(
        frame, y, site
    )
    wide = FederatedRidgeClassifier(column_bounds=[1.0, 2.0**26], max_rows=2**26, aggregator=quick())
    with pytest.raises(
        SolveError, match=r"column 'year' cannot be told from a constant.*a range \[low, high\]"
    ):
        wide.fit(frame, y, site)


def test_a_constant_column_has_no_weight_and_is_said() -> None:
    X, y, site = data(4, 60, 3, 2, 10.0, 3)
    X[:, 1] = 0.25
    model = FederatedRidgeClassifier(2.0, aggregator=quick())
    with pytest.warns(ColumnWarning, match="columns 2 "):
        model.fit(X, y, site)
    assert model.constant_.tolist() == [1]
    assert not model.coef_[:, 1].any()


@pytest.mark.parametrize(
    "bounds", [[1.0, (3.0, 2.0)], [1.0, (2.0, 2.0)], [1.0, (0.0, np.nan)], [1.0, (1, 2, 3)]]
)
def test_ranges_that_are_none_are_refused(bounds: Any) -> None:
    with pytest.raises(
        DataError, match=r"expected column_bounds as 2 numbers above 0 or ranges \(low, high\)"
    ):
        FederatedRidgeClassifier(column_bounds=bounds, classes=range(2)).plan(2, 3)


def test_a_value_outside_its_range_is_refused() -> None:
    X, y, site = np.linspace(5, 6, 60)[:, None], np.arange(60) % 2, np.arange(60) % 3
    for bounds in ([(5.0, 5.999)], [(5.001, 6.0)]):
        with pytest.raises(DataError, match="within its column's bound"):
            FederatedRidgeClassifier(column_bounds=bounds, aggregator=quick()).fit(X, y, site)
    assert FederatedRidgeClassifier(column_bounds=[(5.0, 6.0)], aggregator=quick()).fit(
        X, y, site
    ).coef_.shape == (1, 1)


# ---- parameters and the sum ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"ridge": -1.0},
        {"ridge": float("nan")},
        {"max_rows": 0},
        {"rounds": 0},
        {"row_norm": -1.0},
        {"classes": [0]},
    ],
)
def test_wrong_parameters_spend_no_data(wrong: dict[str, Any]) -> None:
    X, y, site = data(4, 60, 3, 2, 10.0, 3)
    aggregator = quick()
    good: dict[str, Any] = {"row_norm": 1.0, "aggregator": aggregator}
    with pytest.raises(DataError):
        FederatedRidgeClassifier(**(good | wrong)).fit(X, y, site)
    FederatedRidgeClassifier(**good).fit(X, y, site)


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_sum_whose_solve_failed_is_kept_and_solved_again(rounds: int) -> None:
    X, y, site = data(4, 60, 3, 2, 10.0, 3)
    X = np.c_[X, np.eye(3)[np.arange(60) % 3]]  # all levels of a category beside the intercept
    model = FederatedRidgeClassifier(2.0, ridge=0.0, rounds=rounds, aggregator=quick())
    with pytest.raises(SolveError, match="larger ridge"):
        model.fit(X, y, site)
    assert model.statistics_ is not None
    assert model.statistics_.count == 60
    assert [len(one.survivors) for one in model.rounds_] == [4] * rounds
    with pytest.raises(NotFittedError):
        model.predict(X)
    with pytest.raises(SolveError, match="larger ridge"):
        model.refit(ridge=0.0)
    with pytest.raises(RoundAbortedError) as again:
        model.set_params(ridge=1e-3).fit(X, y, site)
    assert "refit(ridge=…) solves it again" in str(again.value.__notes__)
    assert model.refit() is model
    pooled = clone(model).fit_pooled(X, y)
    assert np.linalg.norm(model.weights_ - pooled.weights_) <= model.certificate_.bound
    assert model.refit(ridge=0.5).ridge == 0.5
    pooled = clone(model).fit_pooled(X, y)
    assert np.linalg.norm(model.weights_ - pooled.weights_) <= model.certificate_.bound
    with pytest.raises(DataError, match="ridge from 0"):
        model.refit(ridge=-1.0)
    assert model.ridge == 0.5


def test_without_a_sum_there_is_nothing_to_solve_again() -> None:
    X, y, _ = data(4, 60, 3, 2, 10.0, 3)
    model = FederatedRidgeClassifier(1.0)
    with pytest.raises(DataError, match="expected the sum of an earlier fit"):
        model.refit(ridge=1.0)
    again = FederatedRidgeClassifier(1.0, ridge=1.0).fit_pooled(X, y)
    assert (model.fit_pooled(X, y).refit(ridge=1.0).weights_ == again.weights_).all()


def test_real_numbers_are_no_classes() -> None:
    X, y, site = data(4, 60, 3, 2, 10.0, 3)
    target = X @ (1.0, 2.0, 3.0)
    for fit in (
        FederatedRidgeClassifier(1.0, aggregator=quick()).fit,
        lambda X, y, site: FederatedRidgeClassifier(1.0).fit_pooled(X, y),
    ):
        with pytest.raises(
            DataError, match="expected y as labels of classes, got real numbers, 60 different ones"
        ):
            fit(X, target, site)
    FederatedRidgeClassifier(1.0, aggregator=quick()).fit(X, y.astype(float), site)


# ---- data frames -----------------------------------------------------------------------------------------


def test_columns_of_a_frame_are_known_by_name() -> None:
    X, y, site = data(4, 60, 3, 2, 10.0, 3)
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    model = FederatedRidgeClassifier(1.0, aggregator=quick()).fit(frame, y, site)
    assert model.feature_names_in_.tolist() == ["a", "b", "c"]
    assert model.n_features_in_ == 3
    assert model.score(frame, y) > 0.9
    for wrong in (frame[["c", "b", "a"]], frame.rename(columns={"a": "x"})):
        with pytest.raises(DataError, match="feature names should match"):
            model.predict(wrong)
    with pytest.raises(DataError, match="now missing:\n- c"):
        model.predict(frame[["a", "b"]])
    with pytest.warns(UserWarning, match="valid feature names"):
        model.predict(X)


def test_boolean_and_nullable_columns_are_numbers() -> None:
    draws = np.random.default_rng(0)
    old, male = draws.integers(20, 80, 60), draws.integers(0, 2, 60).astype(bool)
    frame = pd.DataFrame(
        {
            "age": old,
            "male": male,
            "count": pd.array(old % 5, dtype="Int64"),
            "smokes": pd.array(male[::-1], dtype="boolean"),
        }
    )
    y, site = (old > 50).astype(int), np.arange(60) % 3
    model = FederatedRidgeClassifier(column_bounds=[128, 1, 8, 1], aggregator=quick()).fit(frame, y, site)
    same = FederatedRidgeClassifier(column_bounds=[128, 1, 8, 1], aggregator=quick())
    same.fit(np.column_stack([old, male, old % 5, male[::-1]]), y, site)
    assert (model.weights_ == same.weights_).all()
    frame.loc[7, "smokes"] = pd.NA
    with pytest.raises(DataError, match="expected finite X within its column's bound"):
        FederatedRidgeClassifier(column_bounds=[128, 1, 8, 1], aggregator=quick()).fit(frame, y, site)


@pytest.mark.parametrize(
    ("X", "text"),
    [
        (scipy.sparse.eye_array(4).tocsr(), "dense table of numbers, got a sparse matrix"),
        (pd.DataFrame({"a": ["1", "2", "3", "4"]}), "got type .* in column 'a'"),
        (pd.DataFrame({"a": pd.Categorical(["x", "y", "x", "y"])}), "got type category in column 'a'"),
        (pd.DataFrame({"a": [1, 2, 3, 4], 2: [1, 2, 3, 4]}), "string names"),
    ],
)
def test_what_is_no_table_of_numbers_is_refused_clearly(X: Any, text: str) -> None:
    with pytest.raises(DataError, match=text):
        FederatedRidgeClassifier(4.0, aggregator=quick()).fit(X, [0, 1, 0, 1], [0, 1, 2, 0])
