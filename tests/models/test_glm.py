"""Logistic and Poisson regression over several sites are statsmodels' GLM on the pooled rows."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, PoissonRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from worlds import hearts

from secure_afl import (
    FederatedLogisticRegression,
    FederatedPoissonRegression,
    MaskedAggregator,
    PlainAggregator,
    Policy,
)
from secure_afl.analytic.glm import ClientRows, stands_out
from secure_afl.crypto.hpke import Suite
from secure_afl.errors import ColumnWarning, DataError, SolveError
from secure_afl.models.estimator import rows_by_site
from secure_afl.protocol.session.errors import LocalProtocolError, PolicyError, RoundAbortedError
from secure_afl.protocol.session.parameters import Profile
from secure_afl.protocol.session.profile import Trust, Verify
from secure_afl.protocol.transport.driver import Packet
from secure_afl.sums.aggregation import Aggregate

CLEAR = Policy(backends=frozenset({"plain"}))
BOUNDS: dict[str, Any] = {"column_bounds": [(900.0, 1100.0), (-0.4, 0.4), (-9.0, 9.0)]}


def quick(**more: Any) -> MaskedAggregator:
    policy = Policy(suites=frozenset(Suite), profiles=frozenset(Profile), trusts_reports=Trust.ANY)
    return MaskedAggregator(policy, suite=Suite.X25519, **more)


def table(seed: int, n: int, model: str) -> tuple[Any, Any, Any, Any, Any]:
    """Columns far from 0, small and large; an outcome; sites, weights and offsets."""
    draws = np.random.default_rng(seed)
    X = draws.normal(size=(n, 3)) @ (np.eye(3) + 0.3 * draws.normal(size=(3, 3))) / [1, 1, 0.5]
    eta = X @ draws.uniform(-0.5, 0.5, 3) - 0.2
    X = np.clip(X * [10.0, 0.1, 1.0] + [1000.0, 0.0, 0.0], *np.array(BOUNDS["column_bounds"]).T)
    offset = np.log(draws.uniform(0.5, 20.0, n)) if model == "poisson" else draws.uniform(-1, 1, n)
    eta = np.clip(eta + offset, -4, 4)
    y = draws.poisson(np.exp(eta)) if model == "poisson" else (draws.random(n) < 1 / (1 + np.exp(-eta)))
    return X, y.astype(float), draws.integers(0, 3, n), draws.integers(1, 4, n).astype(float), offset


class LostLater:
    """A network that loses client 3 from its fourth upload on."""

    uploads = 0

    def carry(self, packet: Packet) -> Iterable[Packet]:
        if packet.phase == "collecting" and packet.client == 3 and packet.upward:
            self.uploads += 1
            return [packet] if self.uploads < 4 else []
        return [packet]

    def flush(self, phase: str) -> Iterable[Packet]:
        return []


def estimator(model: str, **more: Any) -> Any:
    if model == "poisson":
        return FederatedPoissonRegression(**BOUNDS | {"largest_count": 500.0} | more)
    return FederatedLogisticRegression(**BOUNDS | {"classes": [0.0, 1.0]} | more)


def reference(model: str, X: Any, y: Any, weights: Any = None, offset: Any = None) -> Any:
    family = sm.families.Poisson() if model == "poisson" else sm.families.Binomial()
    design = sm.add_constant(X, has_constant="add")
    return sm.GLM(y, design, family=family, freq_weights=weights, offset=offset).fit(tol=1e-13, maxiter=200)


def agree(found: Any, expected: Any, used: Any = slice(None)) -> None:
    np.testing.assert_allclose(found.coef[used], expected.params, rtol=1e-6)
    np.testing.assert_allclose(found.se[used], expected.bse, rtol=1e-6)
    np.testing.assert_allclose(found.z[used], expected.tvalues, rtol=1e-6)
    np.testing.assert_allclose(found.p[used], expected.pvalues, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(found.covariance[used][:, used], expected.cov_params(), rtol=1e-5, atol=1e-12)
    low, high = found.interval(0.9)
    np.testing.assert_allclose(
        np.stack([low, high], axis=1)[used], expected.conf_int(0.1), rtol=1e-5, atol=1e-9
    )
    for mine, theirs in (
        (found.deviance, expected.deviance),
        (found.log_likelihood, expected.llf),
        (found.aic, expected.aic),
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-8)


@given(
    st.sampled_from(["logistic", "poisson"]),
    st.integers(0, 2**32),
    st.integers(200, 400),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_every_number_is_that_of_the_pooled_rows(
    model: str, seed: int, n: int, weighted: bool, offsets: bool
) -> None:
    X, y, site, weights, offset = table(seed, n, model)
    more = ({"max_weight": 4.0} if weighted else {}) | ({"max_offset": 4.0} if offsets else {})
    given_rows = ({"sample_weight": weights} if weighted else {}) | ({"offset": offset} if offsets else {})
    fitted = estimator(model, least_rows=1, aggregator=PlainAggregator(CLEAR), **more)
    fitted.fit(X, y, site, **given_rows)
    expected = reference(model, X, y, weights if weighted else None, offset if offsets else None)
    found = fitted.inference()
    agree(found, expected)
    np.testing.assert_allclose(found.ratios, np.exp(expected.params), rtol=1e-6)
    if not offsets:
        np.testing.assert_allclose(found.null_deviance, expected.null_deviance, rtol=1e-8)
    predicted = fitted.predict(X, offset if offsets else None) if model == "poisson" else None
    if predicted is not None:
        np.testing.assert_allclose(predicted, expected.fittedvalues, rtol=1e-6)


@pytest.mark.parametrize("model", ["logistic", "poisson"])
def test_under_masks_nothing_changes(model: str) -> None:
    X, y, site, *_ = table(1, 300, model)
    fitted = estimator(model, aggregator=quick()).fit(X, y, site)
    agree(fitted.inference(), reference(model, X, y))
    assert len(fitted.rounds_) == fitted.n_iter_ + 2
    assert fitted.describe().rows == 300


def test_heart_disease_over_four_hospitals() -> None:
    """By a codebook, under masks, each hospital's rows under disclosure control."""
    X, y, site, norm = hearts.coded()
    fitted = FederatedLogisticRegression(norm, classes=[0, 1], aggregator=quick()).fit(X, y, site)
    assert [len(one.survivors) for one in fitted.rounds_] == [4] * (fitted.n_iter_ + 2)
    agree(fitted.inference(), reference("logistic", X, y))


@pytest.mark.parametrize("model", ["logistic", "poisson"])
def test_a_penalty_is_scikit_learns(model: str) -> None:
    X, y, site, *_ = table(2, 300, model)
    fitted = estimator(model, ridge=0.05, aggregator=PlainAggregator(CLEAR)).fit(X, y, site)
    pipe = make_pipeline(
        StandardScaler(),
        PoissonRegressor(alpha=0.05, tol=1e-10, max_iter=10_000)
        if model == "poisson"
        else LogisticRegression(C=1 / (0.05 * len(X)), tol=1e-12, max_iter=10_000),
    ).fit(X, y)
    np.testing.assert_allclose(fitted.predict(X), pipe.predict(X), rtol=1e-5)
    if model == "poisson":
        assert fitted.score(X, y) == pytest.approx(pipe.score(X, y), rel=1e-6)
    else:
        np.testing.assert_allclose(fitted.predict_proba(X), pipe.predict_proba(X), atol=1e-5)
    with pytest.raises(SolveError, match="penalised fit has no standard errors"):
        fitted.inference()


def test_clients_answer_only_what_follows_from_the_sums_they_accepted() -> None:
    """The whole fit out of `respond`: no client is told coefficients, and each refuses every other sum."""
    X, y, site, *_ = table(3, 300, "logistic")
    places = rows_by_site(site, len(X))
    here = estimator("logistic", aggregator=PlainAggregator(CLEAR)).fit(X, y, site)
    client = estimator("logistic")
    numbers = [*range(1 + here.n_iter_), here.steps + 1]
    accepted: dict[int, Aggregate] = {}
    for number in numbers:
        for other in {0, 1, number + 1, here.steps + 1} - {number}:
            with pytest.raises(LocalProtocolError, match=f"expected sum {number} next"):
                client.respond(X[:9], y[:9], "a", other, accepted)
        total = sum(client.respond(X[own], y[own], name, number, accepted) for name, own in places.items())
        accepted[number] = Aggregate(tuple(places), 0.0, len(total), total)
    with pytest.raises(LocalProtocolError, match="expected no further sum"):
        client.respond(X[:9], y[:9], "a", numbers[-1], accepted)
    for number, one in zip(numbers, here.rounds_, strict=True):
        np.testing.assert_allclose(accepted[number].total, one.total, rtol=1e-9, atol=1e-9)


def test_a_lying_server_is_refused_unless_its_reports_are_trusted() -> None:
    """At coefficients that the server chooses, a gradient is a sum over the rows on one side of a plane."""
    X, y, site, *_ = table(4, 300, "logistic")
    with pytest.raises(PolicyError, match="trusts_reports"):
        estimator("logistic", aggregator=MaskedAggregator()).fit(X, y, site)
    unchecked = Policy(trusts_reports=Trust.VERIFIED, verify=frozenset({Verify.NONE}))
    with pytest.raises(PolicyError, match=r"no client verifies .*trusts_reports = \"any\""):
        estimator("logistic", aggregator=MaskedAggregator(unchecked)).fit(X, y, site)


def test_a_client_lost_between_two_sums_ends_the_fit() -> None:
    X, y, site, *_ = table(5, 300, "logistic")
    site = np.where(np.arange(300) < 60, 9, site)
    lost = LostLater()
    with pytest.raises(RoundAbortedError):
        estimator("logistic", aggregator=quick(network=lost)).fit(X, y, site)
    assert lost.uploads == 4


def test_too_few_pooled_rows_end_the_fit_after_the_first_sum() -> None:
    X, y, site, *_ = table(6, 164, "logistic")
    fitted = estimator("logistic", aggregator=PlainAggregator(CLEAR))
    with pytest.raises(
        SolveError, match="expected at least 165 pooled rows for 4 coefficients and 25 steps, got 164"
    ):
        fitted.fit(X, y, site)
    assert len(fitted.rounds_) == 1
    assert fitted.moments_.rows == 164
    fitted.set_params(steps=20).fit(X, y, site)


def test_no_information_matrix_is_summed_up_where_a_row_stands_out() -> None:
    """If the outcome of all rows of a site but one is certain, a multiple of the Gram matrix minus the information matrix
    shows that row.
    """
    X, y, site, *_ = table(7, 400, "logistic")
    X = X[:, 2:]
    draws = np.random.default_rng(7)
    X = np.where(np.arange(400) < 200, draws.choice([-8.0, 8.0], 400), X[:, 0])[:, None]
    y = (draws.random(400) < 1 / (1 + np.exp(-X[:, 0]))).astype(float)
    X[0] = 0.1
    site = (np.arange(400) >= 200).astype(int)
    shape: dict[str, Any] = {
        "column_bounds": [9.0],
        "classes": [0.0, 1.0],
        "aggregator": PlainAggregator(CLEAR),
    }
    fitted = FederatedLogisticRegression(**shape).fit(X, y, site)
    assert len(fitted.rounds_) == fitted.n_iter_ + 1
    expected = reference("logistic", X, y)
    np.testing.assert_allclose(np.append(fitted.intercept_, fitted.coef_), expected.params, rtol=1e-6)
    with pytest.raises(SolveError, match="would show one row of all, or of a column's rows, nearly alone"):
        fitted.inference()
    agree(FederatedLogisticRegression(least_rows=1, **shape).fit(X, y, site).inference(), expected)

    # Another client cancels the flag: whose rows stand out answers for no information matrix all the same.
    accepted: dict[int, Any] = dict(enumerate(fitted.rounds_))
    last: Any = fitted.rounds_[-1]
    accepted[fitted.n_iter_] = replace(last, total=last.total - np.eye(len(last.total))[-1])
    client, number = FederatedLogisticRegression(**shape), fitted.steps + 1
    with pytest.raises(LocalProtocolError, match="since a row here would stand out"):
        client.respond(X[:200], y[:200], "the flagged site", number, accepted)
    assert np.isfinite(client.respond(X[200:], y[200:], "the other", number, accepted)).all()


def test_a_row_stands_out_among_those_without_a_flag_too() -> None:
    """Rows without the flag are a level without a column of its own; ones minus the flag gives them."""
    flag = np.repeat([0.0, 1.0], [6, 200])
    curvature = np.where(np.arange(206) == 0, 0.01, 0.2)
    for zero, one in ((0.0, 1.0), (-1.0, 1.0)):
        X = np.where(flag == 1, one, zero)[:, None]
        rules = FederatedLogisticRegression(column_bounds=[1.0], classes=[0, 1]).rules(1)
        client = ClientRows(X, flag, np.ones(206), np.zeros(206))
        assert stands_out(rules, client, curvature)
        assert not stands_out(rules, client, np.full(206, 0.2))


def test_a_row_stands_out_in_the_reference_level_of_a_larger_category() -> None:
    """Ones minus both flags gives the rows of the reference level; neither flag alone does."""
    level = np.repeat([0, 1, 2], [6, 100, 100])
    curvature = np.r_[0.01, np.full(5, 0.2), np.random.default_rng(0).uniform(0.01, 0.25, 200)]
    for zero, one in ((0.0, 1.0), (-1.0, 1.0)):
        X = np.where(np.column_stack([level == 1, level == 2]), one, zero)
        client = ClientRows(X, np.zeros(206), np.ones(206), np.zeros(206))
        without, ours = (
            FederatedLogisticRegression(column_bounds=[1.0, 1.0], classes=[0, 1], categories=of).rules(2)
            for of in ((), ((0, 1),))
        )
        assert not stands_out(without, client, curvature)
        assert stands_out(ours, client, curvature)
        assert not stands_out(ours, client, np.r_[0.2, curvature[1:]])
    with pytest.raises(DataError, match="expected categories as lists of different columns from 0 to 1"):
        FederatedLogisticRegression(1.0, classes=[0, 1], categories=((0, 2),)).rules(2)


def test_dependent_and_constant_columns_have_no_coefficient() -> None:
    X, y, site, *_ = table(8, 300, "logistic")
    wide = np.column_stack([X, np.full(300, 3.0), X[:, 2] / 2 + 1])
    fitted = FederatedLogisticRegression(
        column_bounds=[*BOUNDS["column_bounds"], 4.0, 9.0],
        classes=[0.0, 1.0],
        aggregator=PlainAggregator(CLEAR),
    )
    with pytest.warns(ColumnWarning, match="'5' from '3'"), pytest.warns(ColumnWarning, match="columns 4 "):
        fitted.fit(wide, y, site)
    assert fitted.dependent_ == {"5": ("3",)}
    assert fitted.constant_.tolist() == [3]
    found = fitted.inference()
    agree(found, reference("logistic", X, y), [0, 1, 2, 3])
    assert np.isnan(found.se[4:]).all()
    np.testing.assert_array_equal(found.coef[4:], 0.0)


@pytest.mark.parametrize("model", ["logistic", "poisson"])
def test_separation_is_an_error_that_names_the_level(model: str) -> None:
    X, y, site, *_ = table(9, 300, model)
    level = (np.arange(300) % 30 == 0).astype(float)
    fitted = estimator(
        model, aggregator=PlainAggregator(CLEAR), column_bounds=[*BOUNDS["column_bounds"], 1.0]
    )
    with pytest.raises(SolveError, match="the coefficients of '4' still grow"):
        fitted.fit(np.column_stack([X, level]), np.where(level > 0, 0.0, y), site)
    assert not hasattr(fitted, "coef_")


def test_bad_arguments_are_refused_before_anything_leaves() -> None:
    X, y, site, *_ = table(10, 300, "poisson")
    counts = estimator("poisson", aggregator=PlainAggregator(CLEAR))
    logistic = estimator("logistic", aggregator=PlainAggregator(CLEAR))
    for model, arguments, match in (
        (counts, {"y": -y - 1}, "expected counts from 0 to largest_count"),
        (counts, {"y": y, "offset": np.zeros(300)}, "expected max_offset"),
        (counts, {"y": y, "sample_weight": np.ones(300)}, "expected max_weight"),
        (logistic, {"y": y + 5}, "expected labels out of the 2 agreed classes"),
        (estimator("logistic", classes=[0, 1, 2]), {"y": y}, "expected two classes, got 3"),
        (estimator("poisson", largest_count=None), {"y": y}, "expected largest_count"),
        (estimator("poisson", max_offset=2.0), {"y": y}, "expected an offset for each row"),
        (estimator("poisson", max_offset=2.0), {"y": y, "offset": np.full(300, 3.0)}, "at most the agreed 2"),
    ):
        with pytest.raises(DataError, match=match):
            model.fit(X, site=site, **arguments)


def test_one_class_and_no_events_are_no_regression() -> None:
    X, _, site, *_ = table(11, 300, "logistic")
    with pytest.raises(SolveError, match="rows of both classes"):
        estimator("logistic", aggregator=PlainAggregator(CLEAR)).fit(X, np.zeros(300), site)
    with pytest.raises(SolveError, match="some counts above 0"):
        estimator("poisson", aggregator=PlainAggregator(CLEAR)).fit(X, np.zeros(300), site)
