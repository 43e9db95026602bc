"""Encrypted sums give the models that masked ones give: bit for bit, or within the certificate."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from worlds.cohorts import Tap
from worlds.rounding import half_a_unit

from secure_afl.analytic.solve import solve
from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.hpke import Suite
from secure_afl.errors import DataError, DropoutWarning, SolveError
from secure_afl.models.networks.fedacnnl import FedACnnL
from secure_afl.models.networks.network import AvgPool, Conv, Dense, MaxPool, Network, ReLU
from secure_afl.models.networks.pfedacnnl import PFedACnnL
from secure_afl.models.ridge import FederatedRidgeClassifier
from secure_afl.protocol.session.errors import LocalProtocolError, PolicyError, RoundAbortedError
from secure_afl.protocol.session.parameters import Profile, SumPlan
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Trust
from secure_afl.protocol.transport.driver import Network as Wire
from secure_afl.sums.aggregation import Aggregate, Aggregator, MaskedAggregator, Outcome, PlainAggregator
from secure_afl.sums.encrypted import EncryptedAggregator
from secure_afl.testing.faults import Fault, FaultyNetwork

torch.set_num_threads(1)  # small tensors: handing over to a second thread costs more than it gives
POLICY = Policy(
    dropout=0.05,
    backends=frozenset({"mask", "plain", "bfv", "ckks", "bfv+mask"}),
    profiles=frozenset(Profile),
    suites=frozenset(Suite),
    trusts_reports=Trust.ANY,
)
CONV = Network((1, 6, 6), (Conv(4, 3, padding=1), ReLU(), MaxPool(2), Conv(3, 2), ReLU(), AvgPool(2)), 3)
DENSE = Network((36,), (Dense(8), ReLU(3.0)), 3)
BACKENDS = ("mask", "plain", "bfv", "bfv by 3", "bfv+mask", "ckks")
EXACT = BACKENDS[:-1]


def using(backend: str, wire: Wire | None = None, **options: Any) -> Aggregator:
    """`options` are those of an `EncryptedAggregator`, which the others do without."""
    if backend == "plain":
        return PlainAggregator(POLICY)
    if backend == "mask":
        return MaskedAggregator(POLICY, suite=Suite.X25519, network=wire)
    name, _, holders = backend.partition(" by ")
    return EncryptedAggregator(
        name, POLICY, suite=Suite.X25519, network=wire, holders=int(holders or 1), **options
    )


def system(sites: int, rows: int, features: int, classes: int, condition: float, seed: int) -> Any:
    """X, y, site; the Gram matrix of X has about this condition number."""
    draws = np.random.default_rng(seed)
    basis = np.linalg.qr(draws.normal(size=(features, features)))[0]
    X = draws.normal(size=(rows, features)) * np.logspace(0, -np.log10(condition) / 2, features) @ basis
    X /= np.linalg.norm(X, axis=1).max() * 1.0001
    y = (X @ draws.normal(size=(features, classes))).argmax(axis=1)
    site = np.concatenate([np.arange(sites), draws.integers(0, sites, rows - sites)])
    return X, y, np.array([f"site-{i}" for i in site])


def images(rows: int, seed: int, sites: int = 5) -> Any:
    draws = np.random.default_rng(seed)
    y = draws.integers(0, 3, rows)
    X = np.clip(draws.normal(size=(rows, 36)) / 4 + np.eye(3)[y] @ draws.uniform(-0.5, 0.5, (3, 36)), -1, 1)
    return X, y, np.arange(rows) % sites


def two_kinds(seed: int) -> Any:
    """Twenty sites of which half see labels 0 and 1, half mostly 2."""
    draws = np.random.default_rng(seed)
    site = np.repeat(np.arange(20), 6)
    y = np.where((site % 2 == 1) & (np.arange(len(site)) % 6 > 0), 2, draws.integers(0, 2, len(site)))
    X = np.clip(draws.normal(size=(len(site), 36)) / 3 + draws.uniform(-0.5, 0.5, (3, 36))[y], -1, 1)
    return X, y, site


def fitted(model: Any, rows: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DropoutWarning)
        return model.fit(*rows)


def bits(weights: Any) -> list[bytes]:
    return [one.tobytes() for one in weights]


# ---- ridge ------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=80)
@given(
    st.sampled_from(["mask", "bfv", "bfv weights", "bfv+mask", "ckks sum", "ckks weights"]),
    st.integers(4, 5),
    st.integers(12, 80),
    st.integers(1, 6),
    st.integers(2, 4),
    st.floats(0, 8),
    st.sampled_from([0.0, 1e-9, 1e-3]),
    st.integers(0, 2**32),
    st.booleans(),
)
def test_weights_are_within_the_certificate_of_the_pooled_ones(
    kind: str,
    sites: int,
    rows: int,
    features: int,
    classes: int,
    digits: float,
    ridge: float,
    seed: int,
    lost: bool,
) -> None:
    backend, _, release = kind.partition(" ")
    X, y, site = system(sites, rows, features, classes, 10**digits, seed)
    silent = frozenset({seed % sites} if lost else ())
    phases = ("collecting",) if backend == "mask" else ("encrypting", "checking")
    wire = FaultyNetwork([Fault("drop", phases[seed % len(phases)], silent)])
    aggregator = using(backend, wire, release=release or None)
    model = FederatedRidgeClassifier(
        1.0, ridge=ridge, classes=range(classes), max_rows=rows, aggregator=aggregator
    )
    try:
        fitted(model, (X, y, site))
    except SolveError:
        return  # no guarantee, no model: said, not hidden
    survivors = {f"site-{i}" for i in range(sites)} - {f"site-{i}" for i in silent}
    (outcome,) = model.rounds_
    assert set(outcome.survivors) == survivors
    assert (model.statistics_ is None) == (release == "weights")
    kept = np.isin(site, list(survivors))
    pooled = clone(model).fit_pooled(X[kept], y[kept])
    assert np.linalg.norm(model.weights_ - pooled.weights_) <= model.certificate_.bound


@pytest.mark.parametrize(
    ("backend", "release", "condition"),
    [("mask", None, 1e8), ("bfv", None, 1e8), ("bfv", "weights", 1e8), ("bfv by 3", None, 1e8), ("bfv+mask", None, 1e8), ("ckks", "sum", 1e6), ("ckks", None, 1e6)],
)  # fmt: skip
def test_at_condition_1e8_the_certificate_still_says_something(
    backend: str, release: str | None, condition: float
) -> None:
    """Of the standardised columns; for CKKS, which has fewer digits, at 1e6."""
    X, y, site = system(4, 200, 5, 2, 30 * condition, 3)
    model = FederatedRidgeClassifier(
        1.0, ridge=0.0, classes=range(2), max_rows=200, aggregator=using(backend, release=release)
    ).fit(X, y, site)
    pooled = clone(model).fit_pooled(X, y)
    away, bound = np.linalg.norm(model.weights_ - pooled.weights_), model.certificate_.bound
    assert condition < model.certificate_.condition < 3 * condition
    assert away <= bound < 1e-3 * np.linalg.norm(pooled.weights_)


@pytest.mark.slow
@pytest.mark.parametrize(("most", "rounds"), [(10, 1), (2**16, 1), (2**16, 3)])
def test_exact_encrypted_sums_are_the_same_whoever_opens_them_and_masks_have_more_digits(
    most: int, rounds: int
) -> None:
    rows = system(4, 24, 3, 2, 100.0, 1)
    masked, *encrypted = [
        FederatedRidgeClassifier(
            1.0, classes=range(2), max_rows=most, rounds=rounds, aggregator=using(backend)
        ).fit(*rows)
        for backend in ("mask", "bfv", "bfv+mask", "bfv by 3")
    ]
    for model in encrypted:
        assert model.weights_.tobytes() == encrypted[0].weights_.tobytes()
        assert model.certificate_ == encrypted[0].certificate_
        for mine, theirs, fine in zip(model.rounds_, encrypted[0].rounds_, masked.rounds_, strict=True):
            assert isinstance(mine, Aggregate)
            assert isinstance(theirs, Aggregate)
            assert isinstance(fine, Aggregate)
            assert mine.encoding == theirs.encoding
            assert np.array_equal(mine.units, theirs.units)  # type: ignore[arg-type]
            # 59 bits against 63.
            assert 8 * fine.entry_error < mine.entry_error == theirs.entry_error
            assert abs(mine.total - fine.total).max() <= mine.entry_error + fine.entry_error


@pytest.mark.parametrize("backend", ["mask", "bfv", "bfv by 3"])
def test_the_entry_error_says_how_far_a_sum_is_off(backend: str) -> None:
    rows = system(4, 80, 3, 2, 100.0, 1)
    model = FederatedRidgeClassifier(1.0, classes=range(2), max_rows=200, aggregator=using(backend)).fit(
        *rows
    )
    (one,) = model.rounds_
    assert model.statistics_ is not None
    pooled = clone(model).fit_pooled(*rows[:2])
    assert pooled.statistics_ is not None
    assert abs(model.statistics_.pack() - pooled.statistics_.pack()).max() <= one.entry_error + 1e-13
    assert one.entry_error < 1e-13


@pytest.mark.parametrize("backend", ["bfv", "ckks"])
def test_released_weights_are_those_of_the_sum_and_the_sum_stays_where_it_is(backend: str) -> None:
    rows = system(5, 60, 4, 3, 100.0, 2)
    models = {
        release: FederatedRidgeClassifier(1.0, max_rows=60, aggregator=using(backend, release=release)).fit(
            *rows
        )
        for release in ("sum", "weights")
    }
    summed, solved = models["sum"], models["weights"]
    assert isinstance(summed.rounds_[0], Aggregate)
    assert type(solved.rounds_[0]) is Outcome
    assert solved.rounds_[0].entry_error == summed.rounds_[0].entry_error
    assert solved.rounds_[0].length == summed.rounds_[0].length
    assert solved.statistics_ is None
    assert summed.statistics_ is not None
    if backend == "bfv":
        assert solved.weights_.tobytes() == summed.weights_.tobytes()
        assert solved.certificate_ == summed.certificate_
    else:  # each is flooded with noise of its own
        apart = np.linalg.norm(solved.weights_ - summed.weights_)
        assert 0 < apart <= solved.certificate_.bound + summed.certificate_.bound
    assert (solved.predict(rows[0]) == summed.predict(rows[0])).all()


@pytest.mark.parametrize("backend", ["bfv", "bfv+mask", "ckks"])
def test_waves_are_within_the_certificate(backend: str) -> None:
    X, y, site = system(5, 90, 3, 2, 1e3, 4)
    wire = FaultyNetwork([Fault("drop", "encrypting", frozenset({2}))])
    model = FederatedRidgeClassifier(
        1.0, classes=range(2), max_rows=90, rounds=3, aggregator=using(backend, wire, release="sum")
    )
    with pytest.warns(DropoutWarning, match="round 1 of 3 is without site-2; round 2 of 3 is without site-2"):
        model.fit(X, y, site)
    kept = site != "site-2"
    pooled = clone(model).fit_pooled(X[kept], y[kept])
    assert model.statistics_ is not None
    assert model.statistics_.count == kept.sum()
    assert np.linalg.norm(model.weights_ - pooled.weights_) <= model.certificate_.bound


# ---- networks ---------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=5)
@given(st.sampled_from(["seeded", "mixed", "spatial"]), st.sampled_from([CONV, DENSE]), st.integers(0, 2**32))
def test_networks_are_the_same_bit_for_bit(encoder: str, network: Network, seed: int) -> None:
    X, y, site = images(45, seed)
    gone = seed % 5
    found = {}
    for backend in EXACT:
        phase = "encrypting" if backend.startswith("bfv") else "collecting"
        wire = FaultyNetwork([Fault("drop", phase, frozenset({gone}))])
        model = FedACnnL(network, encoder=encoder, ridge=1e-2, max_rows=45, aggregator=using(backend, wire))
        mine = site != gone if backend == "plain" else site >= 0
        model = fitted(model, (X[mine], y[mine], site[mine]))
        found[backend] = (bits(model.weights_), model.certificate_)
        for one in model.rounds_:
            assert one.entry_error == 0.0
            assert set(one.survivors) == {str(i) for i in range(5)} - {str(gone)}
    assert all(one == found["mask"] for one in found.values())


@settings(max_examples=4)
@given(st.sampled_from([("seeded", "weights"), ("seeded", "sum"), ("mixed", "sum")]), st.integers(0, 2**32))
def test_a_network_by_ckks_has_a_head_within_its_certificate(how: tuple[str, str], seed: int) -> None:
    """Of the head on the features that its hidden layers make, which for trained ones differ a little."""
    encoder, release = how
    X, y, site = images(45, seed)
    model = FedACnnL(
        CONV, encoder=encoder, ridge=1e-2, max_rows=45, aggregator=using("ckks", release=release)
    )
    model.fit(X, y, site)
    assert all(one.entry_error > 0 for one in model.rounds_)
    central = FedACnnL(CONV, encoder=encoder, ridge=1e-2).fit_pooled(X, y)
    learner = model._learner(X, y, "all")
    for known, mine, theirs in zip(CONV.trained[:-1], model.weights_, central.weights_, strict=False):
        np.testing.assert_allclose(mine, theirs, atol=0 if encoder == "seeded" else 1e-5)
        learner.install(known, mine)
    head = solve(learner.statistics(CONV.trained[-1]), ridge=1e-2).weights
    away = np.linalg.norm(model.weights_[-1] - head)
    # The model's head is rounded to a grid, which no certificate is about.
    on_grid = half_a_unit(model.weights_[-1], CONV.trained[-1].limit) * np.sqrt(head.size)
    assert away <= model.certificate_.bound + on_grid
    assert model.certificate_.bound < 1e-6


def test_a_networks_released_weights_are_those_of_the_sum() -> None:
    rows = images(45, 7)
    summed, solved = (
        FedACnnL(DENSE, max_rows=45, aggregator=using("bfv", release=release)).fit(*rows)
        for release in ("sum", "weights")
    )
    assert bits(summed.weights_) == bits(solved.weights_)
    assert not isinstance(solved.rounds_[0], Aggregate)


@pytest.mark.long
@pytest.mark.parametrize("groups", [1, 2])
def test_personal_models_are_the_same_bit_for_bit(groups: int) -> None:
    rows = two_kinds(groups)
    found = []
    for backend in EXACT:
        model = fitted(PFedACnnL(DENSE, max_rows=16, groups=groups, aggregator=using(backend)), rows)
        assert len(model.heads_) == groups
        own = [weights for one in model.personal_.values() for weights in one.weights]
        found.append(bits([*model.weights_, *model.heads_, *own]))
    assert all(one == found[0] for one in found)


@pytest.mark.slow
@pytest.mark.parametrize("groups", [1, 2])
def test_personal_models_by_ckks_are_those_of_masks_within_the_certificate(groups: int) -> None:
    rows = two_kinds(groups)
    release = "sum" if groups > 1 else None
    noisy, exact = (
        PFedACnnL(DENSE, max_rows=16, groups=groups, aggregator=aggregator).fit(*rows)
        for aggregator in (using("ckks", release=release), using("mask"))
    )
    limit, size = DENSE.trained[-1].limit, exact.weights_[-1].size
    on_grids = sum(half_a_unit(one.weights_[-1], limit) for one in (noisy, exact)) * np.sqrt(size)
    bound = noisy.certificate_.bound + exact.certificate_.bound + on_grids
    assert 0 < bound < 1e-6
    assert np.linalg.norm(noisy.weights_[-1] - exact.weights_[-1]) <= bound
    assert {name: one.group for name, one in noisy.personal_.items()} == {
        name: one.group for name, one in exact.personal_.items()
    }
    for mine, theirs in zip(noisy.heads_, exact.heads_, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


# ---- what is refused ----------------------------------------------------------------------------------


def test_who_asks_for_too_much_hears_it_before_anything_leaves() -> None:
    rows = images(45, 0)
    no_system = "is no system that key holders could solve: release the sum"
    cases: list[tuple[Callable[[Aggregator], Any], Any, str]] = [
        (
            lambda a: FederatedRidgeClassifier(8.0, rounds=2, aggregator=a),
            rows,
            f"'ridge statistics 1 of 2' {no_system}",
        ),
        (
            lambda a: FedACnnL(DENSE, encoder="mixed", aggregator=a),
            rows,
            f"'fedacnnl sum 1 of 2' {no_system}",
        ),
        (lambda a: PFedACnnL(DENSE, groups=2, max_rows=16, aggregator=a), two_kinds(0), no_system),
    ]
    for build, data, what in cases:
        for backend in ("ckks", "bfv"):
            tap = Tap()
            aggregator = using(backend, tap, release="weights")
            with pytest.raises(LocalProtocolError, match=what):
                build(aggregator).fit(*data)
            assert not tap.seen


@pytest.mark.parametrize(
    ("backend", "bound", "what"),
    [
        ("bfv", 2.0**30, "more than"),
        ("bfv+mask", 2.0**30, "more than"),
        ("bfv by 3", 2.0**30, "more than"),
        ("ckks", 2.0**600, "ckks-precise cannot hold a sum of 4 values up to"),
    ],
)
def test_a_sum_that_no_set_holds_is_one_error_before_anything_leaves(
    backend: str, bound: float, what: str
) -> None:
    tap = Tap()
    with pytest.raises(CryptoError, match=what):
        using(backend, tap, release="sum").open(["a", "b", "c", "d"], [SumPlan("a sum", 13, bound)])
    with pytest.raises(CryptoError):
        using(backend, tap, release="sum").open(
            ["a", "b", "c"], [SumPlan("s", 1, 2.0**600, fraction_bits=500)]
        )
    assert not tap.seen


def test_bounds_that_leave_no_digits_are_refused_before_anything_leaves() -> None:
    X, y, site = system(4, 60, 3, 2, 10.0, 1)
    tap = Tap()
    for options in ({"row_norm": 2.0**40}, {"row_norm": 1.0, "max_rows": 2**32, "max_weight": 2.0**60}):
        with pytest.raises(DataError, match="expected bounds that leave digits for fractions"):
            FederatedRidgeClassifier(**options, aggregator=using("mask", tap)).fit(X, y, site)  # type: ignore[arg-type]
    assert not tap.seen


def test_arguments_that_make_no_aggregator() -> None:
    for backend in ("mask", "BFV", "", "ckks+mask", "plain"):
        with pytest.raises(LocalProtocolError, match=r"expected the backend bfv\+mask, bfv or ckks, got"):
            EncryptedAggregator(backend)
    for holders in (0, -1):
        with pytest.raises(LocalProtocolError, match=f"expected at least one key holder, got {holders}"):
            EncryptedAggregator("bfv", holders=holders)
    with pytest.raises(LocalProtocolError, match="expected release sum or weights, got 'everything'"):
        EncryptedAggregator("bfv", release="everything")
    with pytest.raises(LocalProtocolError, match="key holders cannot solve a masked sum"):
        EncryptedAggregator("bfv+mask", release="weights")
    plan = [SumPlan("s", 1, 1.0)]
    with pytest.raises(
        LocalProtocolError, match="a committee of key holders opens sums under BFV, nothing else"
    ):
        EncryptedAggregator("ckks", holders=2, release="sum").open(["a", "b", "c"], plan)
    with pytest.raises(PolicyError, match=r"the backend 'ckks' is not allowed .* which allows bfv"):
        EncryptedAggregator("ckks", Policy(backends=frozenset({"bfv"})), release="sum").open(
            ["a", "b", "c"], plan
        )
    with pytest.raises(PolicyError, match=r"expected at least 3 clients .* got 2: a, b"):
        using("bfv").open(["a", "b"], plan)
    with pytest.raises(LocalProtocolError, match="no session is open"):
        _ = EncryptedAggregator("bfv").cohort
    weights = EncryptedAggregator("ckks")
    with pytest.raises(LocalProtocolError, match="'s' is no system"):
        weights.open(["a", "b", "c"], plan)


@pytest.mark.parametrize("backend", ["bfv", "bfv+mask", "ckks"])
def test_encrypted_sessions_reckon_with_a_lying_server_whatever_the_masks_profile(backend: str) -> None:
    """So sums that trust its reports are refused at once, and not by every client."""
    policy = Policy(
        backends=frozenset({backend}), profiles=frozenset(Profile), suites=frozenset(Suite), dropout=0.05
    )
    tap = Tap()
    aggregator = EncryptedAggregator(
        backend, policy, release="sum", profile=Profile.SEMI_HONEST, suite=Suite.X25519, network=tap
    )
    with pytest.raises(
        PolicyError, match="hides a client only if the server reports earlier sums truthfully"
    ):
        FedACnnL(DENSE, encoder="mixed", aggregator=aggregator).fit(*images(45, 0))
    assert not tap.seen


def test_the_semi_honest_profile_of_masks_goes_under_encryption_too() -> None:
    rows = system(5, 60, 3, 2, 10.0, 1)
    aggregator = using("bfv+mask", profile=Profile.SEMI_HONEST)
    model = FederatedRidgeClassifier(1.0, aggregator=aggregator).fit(*rows)
    assert isinstance(aggregator, EncryptedAggregator)
    assert aggregator.masks is not None
    assert aggregator.masks.server.parameters.profile is Profile.SEMI_HONEST
    assert (
        model.weights_.tobytes()
        == FederatedRidgeClassifier(1.0, aggregator=using("bfv")).fit(*rows).weights_.tobytes()
    )


# ---- what an aggregator remembers ------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["bfv", "bfv+mask", "ckks"])
def test_copies_share_the_ledgers_and_a_data_set_serves_once(backend: str) -> None:
    X, y, site = system(4, 60, 3, 2, 10.0, 5)
    aggregator = using(backend)
    assert isinstance(aggregator, EncryptedAggregator)
    model = FederatedRidgeClassifier(1.0, aggregator=aggregator).fit(X, y, site)
    before = model.weights_
    assert copy.deepcopy(aggregator) is aggregator
    for copied in (model, clone(model)):
        with pytest.raises(RoundAbortedError) as aborted:
            copied.fit(X[1:], y[1:], site[1:])
        assert any("was used in session" in note for note in aborted.value.__notes__)
    assert model.weights_ is before
    clone(model).set_params(data_set="new rows").fit(X, y, site)
    aggregator.renew("data", may_expose=True)
    again = clone(model).fit(X, y, site)
    assert np.linalg.norm(again.weights_ - before) <= 2 * again.certificate_.bound


def test_key_holders_remember_what_clients_forget() -> None:
    X, y, site = system(4, 60, 3, 2, 10.0, 5)
    aggregator = using("bfv")
    assert isinstance(aggregator, EncryptedAggregator)
    model = FederatedRidgeClassifier(1.0, aggregator=aggregator).fit(X, y, site)
    aggregator.parties.members.renew("data", may_expose=True)
    with pytest.raises(RoundAbortedError, match="key holders are missing") as aborted:
        model.fit(X, y, site)
    assert any("key holder 1: the data set" in note for note in aborted.value.__notes__)


@pytest.mark.parametrize("holders", [1, 3])
def test_a_missing_key_holder_is_named_and_no_model_comes(holders: int) -> None:
    wire = FaultyNetwork([Fault("drop", "opening", frozenset({4 + holders - 1}))])
    model = FederatedRidgeClassifier(1.0, aggregator=using(f"bfv by {holders}", wire))
    with pytest.raises(RoundAbortedError, match=f"none can be replaced: key holder {holders}"):
        model.fit(*system(4, 60, 3, 2, 10.0, 6))
    assert not hasattr(model, "weights_")
