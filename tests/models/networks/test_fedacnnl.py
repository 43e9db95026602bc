"""The federated network is the central one, bit for bit, whoever holds which rows."""

import warnings
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_afl.analytic.privacy import Privacy
from secure_afl.analytic.solve import solve
from secure_afl.analytic.statistics import SufficientStatistics
from secure_afl.crypto.hpke import Suite
from secure_afl.errors import DataError, DropoutWarning
from secure_afl.models.networks.encoder import Encoder
from secure_afl.models.networks.fedacnnl import Coordinator, FedACnnL, Learner
from secure_afl.models.networks.grid import on_weight_grid
from secure_afl.models.networks.network import (
    AvgPool,
    Conv,
    Dense,
    Deskew,
    Flatten,
    Fourier,
    MaxPool,
    Network,
    ReLU,
    Sparse,
    Widen,
)
from secure_afl.models.networks.pfedacnnl import PFedACnnL
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Trust
from secure_afl.simulations.data.dataset import load
from secure_afl.simulations.data.partition import partition
from secure_afl.sums.aggregation import MaskedAggregator
from secure_afl.testing.faults import Fault, FaultyNetwork

torch.set_num_threads(1)  # small tensors: handing over to a second thread costs more than it gives
NETWORKS = {
    "conv": Network(
        (1, 6, 6), (Conv(4, 3, padding=1), ReLU(), MaxPool(2), Conv(3, 2), ReLU(), AvgPool(2)), 3
    ),
    "contrast": Network(
        (1, 6, 6), (Conv(4, 3, contrast=True), ReLU(), MaxPool(2), Conv(3, 2, contrast=True), ReLU()), 3
    ),
    "dense": Network((36,), (Dense(8), ReLU(3.0)), 3),
    "widened": Network((36,), (Widen(20), Dense(8), ReLU(3.0), Widen(10)), 3),
    "deskewed": Network(
        (1, 6, 6), (Deskew(), Conv(4, 3, contrast=True), ReLU(), AvgPool(3, 1), Flatten(), Fourier(9, 2.0)), 3
    ),
    "sparse": Network((36,), (Sparse(9, 3, 2, -1.0, 1.0), Dense(8), ReLU(3.0), Sparse(4, 2)), 3),
    "head": Network((36,), (), 3),
}
SEED = bytes(32)


def images(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(seed)
    y = draws.integers(0, 3, rows)
    y[:3] = [0, 1, 2]
    X = np.clip(draws.normal(size=(rows, 36)) / 4 + np.eye(3)[y] @ draws.uniform(-0.5, 0.5, (3, 36)), -1, 1)
    return X, y


def quick(silent: frozenset[int] = frozenset()) -> MaskedAggregator:
    policy = Policy(suites=frozenset(Suite), trusts_reports=Trust.VERIFIED)
    network = FaultyNetwork([Fault("drop", "collecting", silent)])
    return MaskedAggregator(policy, suite=Suite.X25519, network=network)


@pytest.mark.slow
@settings(max_examples=40)
@given(
    st.sampled_from(sorted(NETWORKS)),
    st.sampled_from(Encoder),
    st.integers(4, 6),
    st.integers(30, 60),
    st.integers(0, 2**32),
    st.booleans(),
)
def test_masked_layers_are_the_central_ones_bit_for_bit(
    name: str, encoder: Encoder, sites: int, rows: int, seed: int, lost: bool
) -> None:
    """Any partition, order of rows, and survivor set; the sums under masks, the reference in the clear."""
    draws = np.random.default_rng(seed)
    X, y = images(rows, seed)
    site = np.concatenate([np.arange(sites), draws.integers(0, sites, rows - sites)])
    silent = frozenset({int(draws.integers(sites))} if lost else ())
    model = FedACnnL(
        NETWORKS[name], encoder=encoder.value, ridge=1e-2, max_rows=rows, aggregator=quick(silent)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DropoutWarning)
        model.fit(X, y, site)
    kept = draws.permutation(np.flatnonzero(~np.isin(site, list(silent))))
    central = FedACnnL(NETWORKS[name], encoder=encoder.value, ridge=1e-2).fit_pooled(X[kept], y[kept])
    assert len(model.weights_) == len(NETWORKS[name].trained)
    for mine, theirs in zip(model.weights_, central.weights_, strict=True):
        assert mine.tobytes() == theirs.tobytes()
    assert np.array_equal(model.decision_function(X), central.decision_function(X))
    assert model.certificate_ == central.certificate_


@settings(max_examples=15)
@given(st.sampled_from(Encoder), st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 2**32))
def test_memory_for_a_chunk_changes_no_bit(encoder: Encoder, one: int, other: int, seed: int) -> None:
    X, y = images(20, seed)
    network = NETWORKS["conv"]
    learners = [Learner(network, X, y, encoder=encoder, seed=SEED, chunk_bytes=100 * b) for b in (one, other)]
    coordinator = Coordinator(network, encoder=encoder, ridge=1e-2, seed=0)
    for known in network.trained:
        first, second = (learner.statistics(known).pack() for learner in learners)
        assert first.tobytes() == second.tobytes()
        head = known is network.trained[-1]
        weights = coordinator.heads(first)[0] if head else coordinator.layer(known, first)
        for learner in learners:
            learner.install(known, weights)
    assert learners[0].scores.tobytes() == learners[1].scores.tobytes()


@settings(max_examples=20)
@given(st.sampled_from([Encoder.SPATIAL, Encoder.MIXED, Encoder.NONE]), st.integers(0, 2**32))
def test_statistics_are_exact_and_within_the_agreed_bound(encoder: Encoder, seed: int) -> None:
    X, y = images(12, seed)
    network = NETWORKS["conv"]
    learner = Learner(network, X, y, encoder=encoder, seed=SEED)
    coordinator = Coordinator(network, encoder=encoder, ridge=1e-2, seed=0)
    for known, plan in zip(network.trained, coordinator.plan(12, 5), strict=True):
        packed = learner.statistics(known).pack()
        assert len(packed) == plan.length
        assert np.abs(packed).max() <= plan.bound
        assert all((Fraction(value) * 2**20).denominator == 1 for value in packed.tolist())
        assert plan.spec(5).fraction_bits >= 20  # so that fixed point rounds nothing
        if known is not network.trained[-1]:
            learner.install(known, coordinator.layer(known, packed))


@pytest.mark.parametrize("encoder", list(Encoder))
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_statistics_are_the_products_of_rows_and_targets(name: str, encoder: Encoder) -> None:
    """However they are summed up: by label, by position, in chunks."""
    X, y = images(20, 4)
    learner = Learner(NETWORKS[name], X, y, encoder=encoder, seed=SEED, chunk_bytes=5000)
    known = NETWORKS[name].trained[0]
    statistics, rows, targets = learner.statistics(known), learner.rows(known), learner.targets(known)
    assert np.array_equal(statistics.gram, rows.T @ rows)
    assert np.array_equal(statistics.cross, rows.T @ targets)
    assert statistics.count == len(rows)


def test_the_grid_is_what_the_first_layer_sums_up() -> None:
    """Against integers: the Gram matrix of the rounded inputs, exactly."""
    X, y = images(20, 3)
    network = NETWORKS["dense"]
    statistics = Learner(network, X, y, encoder=Encoder.SPATIAL, seed=SEED).statistics(network.trained[0])
    units = [[1024, *(round(Fraction(value) * 1024) for value in row)] for row in X.tolist()]
    for i in (0, 1, 17, 36):
        for j in (0, 5, 36):
            exact = sum(row[i] * row[j] for row in units)
            assert Fraction(float(statistics.gram[i, j])) * 2**20 == exact


def test_it_learns_digits_under_masks() -> None:
    data = load("digits")
    parts = partition(data, "dirichlet:0.5", 6, 0)
    rows = np.concatenate([part.train for part in parts])
    test = np.concatenate([part.test for part in parts])
    site = np.repeat([part.client for part in parts], [len(part.train) for part in parts])
    network = Network((1, 8, 8), (Conv(32, 3, padding=1), ReLU(), AvgPool(2)), 10)
    model = FedACnnL(network, aggregator=quick()).fit(data.X[rows], data.y[rows], site)
    assert model.score(data.X[test], data.y[test]) > 0.96
    linear = FedACnnL(Network((64,), (), 10), aggregator=quick()).fit(data.X[rows], data.y[rows], site)
    assert model.score(data.X[test], data.y[test]) > linear.score(data.X[test], data.y[test])


def test_discriminants_are_the_pooled_ones_bit_for_bit_and_know_no_class_without_rows() -> None:
    X, y = images(80, 4)
    y = 2 * y  # of six classes three have no rows
    site = np.arange(80) % 5
    network = Network((36,), (), 6)
    model = FedACnnL(network, head="discriminants", ridge=1e-2, max_rows=80, aggregator=quick()).fit(
        X, y, site
    )
    central = FedACnnL(network, head="discriminants", ridge=1e-2).fit_pooled(X, y)
    assert model.weights_[-1].tobytes() == central.weights_[-1].tobytes()
    assert 0 < model.head_bound_ < 1e-3
    far = np.where(np.random.default_rng(0).random((200, 36)) < 0.5, -1.0, 1.0)
    assert not set(model.predict(far).tolist()) & {1, 3, 5}
    assert model.score(X, y) >= FedACnnL(network, ridge=1e-2).fit_pooled(X, y).score(X, y) - 0.05
    for wrong, fault in (
        ({"head": "logistic"}, "head as ridge or"),
        ({"privacy": Privacy(1.0, 1e-6)}, "ridge head"),
    ):
        with pytest.raises(DataError, match=fault):
            FedACnnL(network, **{"head": "discriminants", **wrong}).plan(5)  # type: ignore[arg-type]


def test_bad_input_is_refused_before_anything_is_sent() -> None:
    X, y = images(30, 0)
    site = np.arange(30) % 4
    for change, what in (
        ({"X": X * 3}, "X is outside"),
        ({"X": np.where(X[5, 5] == X, np.nan, X)}, "X is not finite in row"),
        ({"X": X[:, :5]}, "expected X of shape"),
        ({"y": y + 7}, "out of the 3 agreed classes"),
        ({"y": y[:5]}, "expected a label for each"),
    ):
        aggregator = quick()
        model = FedACnnL(NETWORKS["dense"], aggregator=aggregator)
        with pytest.raises(DataError, match=what):
            model.fit(**{"X": X, "y": y, "site": site, **change})
        assert aggregator._cohort is None
    with pytest.raises(DataError, match="more than the 5 rows"):
        FedACnnL(NETWORKS["dense"], max_rows=5, aggregator=quick()).fit(X, y, site)
    with pytest.raises(DataError, match="too many for exact sums"):
        FedACnnL(NETWORKS["dense"], max_rows=2**31, aggregator=quick()).fit(X, y, site)


@pytest.mark.parametrize("kind", [FedACnnL, PFedACnnL])
def test_columns_by_another_name_or_in_another_order_are_refused(kind: type[FedACnnL]) -> None:
    X, y = images(60, 1)
    site = np.arange(60) % 4
    frame = pd.DataFrame(X, columns=[f"pixel {at}" for at in range(36)])
    model = kind(NETWORKS["dense"], aggregator=quick()).fit(frame, y, site)
    assert list(model.feature_names_in_) == list(frame.columns)
    others = {} if kind is FedACnnL else {"site": site}
    for wrong in (frame[frame.columns[::-1]], frame.rename(columns={"pixel 3": "other"})):
        with pytest.raises(DataError, match="feature names should match those that were passed during fit"):
            model.predict(wrong, **others)
    named = model.predict(frame, **others)
    plain = kind(NETWORKS["dense"], aggregator=quick()).fit(X, y, site)
    assert not hasattr(plain, "feature_names_in_")
    with pytest.raises(DataError, match=r"X has 35 features, but .*FedACnnL is expecting 36"):
        plain.predict(X[:, 1:], **others)
    assert (plain.predict(X, **others) == named).all()


def test_a_dropout_is_told_and_labels_keep_their_names() -> None:
    X, y = images(60, 1)
    names = np.array(["b", "c", "a"])[y]
    model = FedACnnL(NETWORKS["dense"], classes=["b", "c", "a"], aggregator=quick(frozenset({1})))
    with pytest.warns(DropoutWarning, match="round 1 of 1 is without 1"):
        model.fit(X, names, np.arange(60) % 4)
    plain = FedACnnL(NETWORKS["dense"]).fit_pooled(X[np.arange(60) % 4 != 1], y[np.arange(60) % 4 != 1])
    assert (model.predict(X) == np.array(["b", "c", "a"])[plain.predict(X)]).all()


def test_layers_from_elsewhere_are_checked_before_any_row_is_read() -> None:
    """Who refuses them tells nothing of its rows, not even whether they could be used."""
    network = Network((3,), (Dense(6), ReLU(), Dense(4), ReLU()), 2)
    first, second, head = (np.zeros((1 + known.inputs, known.outputs)) for known in network.trained)
    model = FedACnnL(network, encoder="mixed")
    wrong = [
        ([first + 1e-30, second], "on the grid"),
        ([first, second + 1e300], "not finite or too large"),
        ([first.T, second], "these have other shapes"),
        ([first, second.reshape(-1)], "these have other shapes"),
    ]
    none, bad = np.zeros((1, 3)), np.full((1, 3), np.nan)
    for rows in (none, bad):
        for layers, fault in wrong:
            with pytest.raises(DataError, match=fault):
                model.vector(rows, [0], "a", layers)
            with pytest.raises(DataError, match=fault):
                model.personal_head(rows, [0], "a", [*layers, head])
        for layers in ([first, second, head], [first, second, head, head]):
            with pytest.raises(DataError, match="at most 2 hidden layers"):
                model.vector(rows, [0], "a", layers)
        for layers in ([], [first, second], [first, second, head, head]):
            with pytest.raises(DataError, match="these have other shapes"):
                model.personal_head(rows, [0], "a", layers)
    assert model.vector(none, [0], "a", [first, second]).any()
    assert not model.personal_head(none, [0], "a", [first, second, head])[1:].any()


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["seeded", "classwise"])
@pytest.mark.parametrize("size", [1, 7, 40])
def test_rows_in_blocks_give_the_same_vectors_bit_for_bit(encoder: str, size: int) -> None:
    """Of every sum of the network, while only one block is in memory."""
    data = load("digits")
    X, y = data.X[:40], data.y[:40]
    network = Network((1, 8, 8), (Conv(4, 3, contrast=True), ReLU(), AvgPool(2)), 10)
    model = FedACnnL(network, encoder=encoder, max_rows=40)
    layers = FedACnnL(network, encoder=encoder).fit_pooled(X, y).weights_[:-1]
    blocks = [(X[at : at + size], y[at : at + size]) for at in range(0, 40, size)]
    for known in [layers] if encoder == "seeded" else [[], layers]:
        assert np.array_equal(model.streamed_vector(iter(blocks), "a", known), model.vector(X, y, "a", known))
    with pytest.raises(DataError, match="a: at most 40 rows were agreed on, got more"):
        model.streamed_vector([*blocks, (X[:1], y[:1])], "a", layers)
    with pytest.raises(DataError, match="at least one row"):
        model.streamed_vector([], "a", layers)


def test_the_ridge_head_is_the_solution_of_its_sum() -> None:
    """Not the other head, which a wrong name of its kind would have given."""
    draws = np.random.default_rng(0)
    X, y = draws.integers(-16, 17, (60, 5)) / 16, draws.integers(0, 3, 60)
    network = Network((5,), (), 3)
    rows = np.column_stack([np.ones(60), X])
    statistics = SufficientStatistics(rows.T @ rows, rows.T @ np.eye(3)[y], 60)
    expected = on_weight_grid(solve(statistics, ridge=1e-2).weights, network.trained[-1].limit)
    (weights,) = FedACnnL(network, ridge=1e-2).fit_pooled(X, y).weights_
    np.testing.assert_array_equal(weights, expected)
