"""Differential privacy of networks: a head learned from one noisy sum over the outputs of seeded layers."""

from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from sklearn.base import clone

from secure_afl.analytic.privacy import Privacy
from secure_afl.crypto import ring
from secure_afl.errors import DataError
from secure_afl.models.networks.fedacnnl import FedACnnL
from secure_afl.models.networks.network import AvgPool, Conv, Dense, Flatten, Network, ReLU
from secure_afl.models.networks.pfedacnnl import PFedACnnL
from secure_afl.models.ridge import FederatedRidgeClassifier
from secure_afl.protocol.session.errors import LocalProtocolError
from secure_afl.protocol.session.policy import Policy
from secure_afl.sums.aggregation import MaskedAggregator, PlainAggregator

Floats = npt.NDArray[np.float64]
SITES = 9
PRIVACY = Privacy(epsilon=2.0, delta=1e-6)
NETWORK = Network((1, 8, 8), (Conv(3, 3, padding=1, contrast=True), ReLU(), AvgPool(4)), 3)
NETWORKS = [
    NETWORK,
    Network((5,), (Dense(7), ReLU()), 3),
    Network((2, 6, 6), (Conv(4, 3), ReLU(), AvgPool(2), Flatten(), Dense(5), ReLU()), 3),
]


def rows(count: int = 240) -> tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.str_]]:
    """A bright bar at one of three places."""
    draws = np.random.default_rng(0)
    y = draws.integers(3, size=count)
    X = draws.uniform(0, 0.3, (count, 8, 8))
    for row, label in enumerate(y):
        X[row, 1 + 2 * label] += 0.6
    return X.reshape(count, 64), y, np.array([f"site-{at % SITES}" for at in range(count)])


def model(aggregator: Any = None, privacy: Privacy | None = PRIVACY, **options: Any) -> FedACnnL:
    return FedACnnL(NETWORK, max_rows=64, privacy=privacy, aggregator=aggregator, **options)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(NETWORKS), st.integers(0, 2**32 - 1), st.data())
def test_what_the_head_sees_of_a_row_does_not_depend_on_others(
    network: Network, seed: int, data: st.DataObject
) -> None:
    """Otherwise adding one record would change more of the sum than that record's own part."""
    draws = np.random.default_rng(seed)
    X = draws.uniform(-1, 1, (40, int(np.prod(network.input_shape)))) * draws.choice([0, 2.0**-9, 1], (40, 1))
    whole = FedACnnL(network, privacy=PRIVACY, seed=seed).head_inputs(X)
    chosen = data.draw(st.lists(st.integers(0, 39), min_size=1, max_size=40))
    assert np.array_equal(FedACnnL(network, privacy=PRIVACY, seed=seed).head_inputs(X[chosen]), whole[chosen])
    short = FedACnnL(network, privacy=PRIVACY)._private_head().rows(whole)
    assert np.all(short[:, 0] == 0.25)
    assert np.linalg.norm(short[:, 1:], axis=1).max() <= 1 + 2.0**-40


def test_the_sum_has_the_noise_of_all_survivors() -> None:
    X, y, site = rows()
    private = model(MaskedAggregator()).fit(X, y, site)
    (one,), (plan,) = private.rounds_, private.plan(SITES)
    total = np.zeros(plan.length, np.uint64)
    for name in one.survivors:
        vector = private.vector(X[site == name], y[site == name], name)
        total += one.encoding.encode(vector)  # type: ignore[attr-defined]
    added = (one.units - ring.signed(total, 8)).astype(np.float64)  # type: ignore[attr-defined]
    assert plan.noise is not None
    unit = 2.0**-one.encoding.fraction_bits  # type: ignore[attr-defined]
    deviation = np.concatenate([np.full(b.length, float(b.deviation) / unit) for b in plan.noise.blocks])
    scaled = np.sum((added / (deviation * sqrt(SITES))) ** 2)
    assert chi2.ppf(1e-9, len(added)) < scaled < chi2.isf(1e-9, len(added))
    assert np.all(added != 0)


def test_with_little_noise_it_is_the_network_of_the_pooled_rows() -> None:
    X, y, site = rows(576)
    weak = Privacy(epsilon=64.0, delta=0.9, dropout=0.0, corrupted=0.0)
    private = model(MaskedAggregator(), weak).fit(X, y, site)
    pooled = model(privacy=weak).fit_pooled(X, y)
    assert all(np.array_equal(a, b) for a, b in zip(private.weights_[:-1], pooled.weights_[:-1], strict=True))
    assert [one.shape for one in private.weights_] == [
        one.shape for one in model(privacy=None).fit_pooled(X, y).weights_
    ]
    assert pooled.score(X, y) > 0.98
    assert private.score(X, y) > 0.95
    assert not np.array_equal(private.weights_[-1], pooled.weights_[-1])


def test_both_sides_agree_on_the_sum() -> None:
    """A site's personal head is fitted to its rows as the common head sees them."""
    X, y, _ = rows()
    (plan,) = model().plan(SITES)
    vector = model().vector(X[:60], y[:60], "a")
    assert vector.shape == (plan.length,)
    assert plan.noise is not None
    assert plan.survivors == PRIVACY.survivors(SITES)
    pooled = model().fit_pooled(X, y)
    own = model().personal_head(X[:60], y[:60], "a", pooled.weights_)
    scores = model()._private_head().rows(model().head_inputs(X)) @ own
    assert (scores.argmax(axis=1) == y).mean() > 0.95
    assert np.array_equal(pooled.predict(X), pooled.decision_function(X).argmax(axis=1))


@pytest.mark.parametrize("encoder", ["spatial", "classwise", "none"])
def test_encoders_that_need_more_sums_are_refused(encoder: str) -> None:
    with pytest.raises(DataError, match="expected the encoder seeded, of one sum, with privacy"):
        model(encoder=encoder).fit(*rows())


def test_sums_in_the_clear_are_refused() -> None:
    with pytest.raises(LocalProtocolError, match="does not hide vectors sent in the clear"):
        model(PlainAggregator(Policy(backends=frozenset({"plain"})))).fit(*rows())


def test_personalization_is_refused() -> None:
    personal = PFedACnnL(NETWORK, max_rows=64, privacy=PRIVACY)
    for act in (lambda: personal.fit(*rows()), lambda: personal.plan(SITES)):
        with pytest.raises(DataError, match="expected no privacy"):
            act()


def test_a_site_without_rows_looks_like_any_other() -> None:
    """Otherwise it would show, without noise, whether a site's only record is there."""
    (plan,) = model().plan(SITES)
    for labels in (np.zeros(0, np.int64), np.zeros(0)):
        vector = model().vector(np.zeros((0, 64)), labels, "a")
        assert vector.tobytes() == bytes(8 * plan.length)
    with pytest.raises(DataError, match="a: expected X of shape"):
        model().vector(np.zeros((0, 63)), np.zeros(0, np.int64), "a")
    with pytest.raises(DataError, match="a: X is outside"):
        model().vector(np.full((1, 64), 2.0), np.zeros(1, np.int64), "a")


@pytest.mark.parametrize("privacy", [None, PRIVACY])
def test_hidden_layers_of_the_servers_own_tell_it_nothing_of_rows(privacy: Privacy | None) -> None:
    """The server could choose layers on which a row with a bright first pixel gives NaN (6e308 − 6e308), so that this site
    fails.
    """
    network = Network((2,), (Dense(2), ReLU(), Dense(2), ReLU()), 3)
    layers = FedACnnL(network, privacy=privacy).fit_pooled(np.eye(2), [0, 1]).weights_
    probes = [
        np.array([[0.0, 6.0], [1000.0, 0.0], [0.0, 0.0]]),
        np.array([[0.0, 0.0], [1e308, 0.0], [-1e308, 0.0]]),
        layers[2],
    ]
    for dark in (np.array([[-1.0, 0.5]]), np.array([[0.5, 0.5]])):
        with pytest.raises(DataError, match="the hidden layers are not those that the public seed gives"):
            FedACnnL(network, privacy=privacy).personal_head(dark, [0], "a", probes)
        steep = [*layers[:2], np.full_like(layers[2], 1e308)]
        with pytest.raises(DataError, match="not finite or too large"):
            FedACnnL(network, privacy=privacy).personal_head(dark, [0], "a", steep)


@pytest.mark.parametrize("kind", ["ridge", "network"])
def test_privacy_is_a_promise_or_none_and_that_of_the_fit(kind: str) -> None:
    """A value that only looks empty does not switch the noise off, and a model scores rows as it did in training."""
    X, y, site = rows(60)
    fitted: FederatedRidgeClassifier | FedACnnL = (
        FederatedRidgeClassifier(1.0, classes=range(3), privacy=PRIVACY, max_rows=64)
        if kind == "ridge"
        else model()
    )
    for wrong in ("yes", 0, False, (1.0, 1e-5)):
        with pytest.raises(DataError, match="expected privacy as Privacy"):
            clone(fitted).set_params(privacy=wrong).fit(X, y, site)
    fitted.fit_pooled(X, y)
    expected = fitted.predict(X)
    for other in (None, Privacy(1.0, 1e-6)):
        with pytest.raises(DataError, match="expected the privacy that the model was learned with"):
            fitted.set_params(privacy=other).predict(X)
    assert np.array_equal(fitted.set_params(privacy=Privacy(2.0, 1e-6)).predict(X), expected)
