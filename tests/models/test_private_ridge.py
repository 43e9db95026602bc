"""Differential privacy through the estimator: what leaves, what is refused, what is learned."""

from dataclasses import replace
from math import sqrt
from typing import Any

import hypothesis
import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from scipy.stats import beta, chi2, norm

from secure_afl.analytic.privacy import Privacy, regularise, sensitivity, spent
from secure_afl.analytic.solve import solve
from secure_afl.analytic.statistics import SufficientStatistics
from secure_afl.crypto import ring
from secure_afl.crypto.noise import Block
from secure_afl.errors import DataError
from secure_afl.models.ridge import FederatedRidgeClassifier
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.session.errors import LocalProtocolError, RoundAbortedError
from secure_afl.protocol.session.parameters import SumPlan
from secure_afl.protocol.session.policy import Policy
from secure_afl.sums.aggregation import MaskedAggregator, PlainAggregator
from secure_afl.sums.encrypted import EncryptedAggregator
from secure_afl.testing.faults import Fault, FaultyNetwork

Floats = npt.NDArray[np.float64]
SITES = 9
PRIVACY = Privacy(epsilon=2.0, delta=1e-6)


def rows(count: int = 240, seed: int = 0) -> tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.str_]]:
    draws = np.random.default_rng(seed)
    y = draws.integers(3, size=count)
    X = np.eye(3)[y] + draws.normal(scale=0.3, size=(count, 3))
    return X, y, np.array([f"site-{i % SITES}" for i in range(count)])


def estimator(
    aggregator: Any = None, privacy: Privacy | None = PRIVACY, **options: Any
) -> FederatedRidgeClassifier:
    given: dict[str, Any] = {"row_norm": 1.0, "classes": (0, 1, 2), "max_rows": 64} | options
    return FederatedRidgeClassifier(privacy=privacy, aggregator=aggregator, **given)


def noise_of(model: FederatedRidgeClassifier, data: tuple[Any, Any, Any]) -> tuple[Floats, Floats]:
    """What was added to the sum of the survivors' units, and the deviation of each entry's noise, in units."""
    (one,) = model.rounds_
    (plan,) = model.plan(3, SITES)
    X, y, site = data
    total = np.zeros(plan.length, np.uint64)
    for name in one.survivors:
        (vector,) = model.vectors(X[site == name], y[site == name], name)
        total += one.encoding.encode(vector)  # type: ignore[attr-defined]
    added = one.units - ring.signed(total, 8)  # type: ignore[attr-defined]
    assert plan.noise is not None
    blocks = [np.full(block.length, float(block.deviation)) for block in plan.noise.blocks]
    unit = 2.0**-one.encoding.fraction_bits  # type: ignore[attr-defined]
    return added.astype(np.float64), np.concatenate(blocks) / unit


@pytest.mark.parametrize(
    "aggregator",
    [
        MaskedAggregator,
        lambda: EncryptedAggregator("bfv", Policy(backends=frozenset({"bfv"}))),
        lambda: EncryptedAggregator("bfv+mask", Policy(backends=frozenset({"bfv+mask"}))),
    ],
    ids=["mask", "bfv", "bfv+mask"],
)
def test_the_sum_has_the_noise_of_all_survivors(aggregator: Any) -> None:
    data = rows()
    model = estimator(aggregator()).fit(*data)
    added, deviation = noise_of(model, data)
    scaled = np.sum((added / (deviation * sqrt(SITES))) ** 2)
    assert chi2.ppf(1e-9, len(added)) < scaled < chi2.isf(1e-9, len(added))
    assert len(added) == 10 + 12 + 1
    assert np.all(added != 0)


def test_noise_is_fresh_in_each_session() -> None:
    data = rows()
    first, second = (noise_of(estimator(MaskedAggregator()).fit(*data), data)[0] for _ in range(2))
    assert not np.any(first == second)


def test_dropouts_leave_less_noise_and_still_enough() -> None:
    data, privacy = rows(), PRIVACY
    network = FaultyNetwork([Fault("drop", "collecting", frozenset({1, 4}))])
    model = estimator(MaskedAggregator(network=network), privacy)
    with pytest.warns(UserWarning, match="without site-1, site-4"):
        model.fit(*data)
    added, deviation = noise_of(model, data)
    scaled = np.sum((added / (deviation * sqrt(7))) ** 2)
    assert chi2.ppf(1e-9, len(added)) < scaled < chi2.isf(1e-9, len(added))
    # Seven survive as agreed; one may collude, and one is curious: five are enough.
    bounds = model.bounds(3, 3)
    moved = sensitivity(privacy, bounds, fraction_bits=32, target_norm=1.0)
    unit = 2.0 ** -model.rounds_[0].encoding.fraction_bits  # type: ignore[attr-defined]
    loss = sum(
        (distance / (deviation[at] * unit)) ** 2 / 5
        for distance, at in ((moved.gram, 0), (moved.cross, 10), (moved.count, 22))
    )
    assert spent([1 / sqrt(loss)], privacy.delta) <= privacy.epsilon


def test_more_dropouts_than_the_noise_is_made_for_release_nothing() -> None:
    network = FaultyNetwork([Fault("drop", "collecting", frozenset({0, 1}))])
    model = estimator(MaskedAggregator(network=network), msgspec.structs.replace(PRIVACY, dropout=0.1))
    with pytest.raises(RoundAbortedError) as caught:  # the masks alone would bear two
        model.fit(*rows())
    assert "expected at least 8 survivors, the server named 7" in str(caught.value.__notes__)
    assert not hasattr(model, "weights_")


def test_a_client_that_agreed_to_other_noise_takes_no_part() -> None:
    class Other(MaskingClient):
        def __init__(self, identity: Any, roster: Any, plan: Any, *args: Any, **options: Any) -> None:
            if roster.index(identity.verify_key) == 2:
                (one,) = plan
                weak = replace(one.noise, reach=one.noise.reach - 1)
                plan = [replace(one, noise=weak)]
            super().__init__(identity, roster, plan, *args, **options)

    aggregator = MaskedAggregator()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secure_afl.sums.aggregation.MaskingClient", Other)
        model = estimator(aggregator)
        with pytest.warns(UserWarning, match="without site-2"):
            model.fit(*rows())
    assert "noise" in str(aggregator.cohort.refusals[0])


def test_the_digest_in_the_transcript_tells_every_noise_apart() -> None:
    (plan,) = estimator().plan(3, SITES)
    noise = plan.noise
    assert noise is not None
    first, *others = noise.blocks
    changed = [
        replace(noise, reach=noise.reach + 1),
        replace(noise, blocks=(replace(first, deviation=first.deviation * 2), *others)),
        replace(noise, blocks=(replace(first, length=first.length + 1), *others)),
        replace(noise, blocks=(*others, first)),
    ]
    assert len({one.digest for one in (noise, *changed)}) == 5
    assert plan.spec(SITES).noise == noise.digest
    assert replace(plan, noise=None).spec(SITES).noise == b""


def test_what_has_no_exact_sum_is_refused() -> None:
    ckks = EncryptedAggregator("ckks", Policy(backends=frozenset({"ckks"})))
    plain = PlainAggregator(Policy(backends=frozenset({"plain"})))
    for aggregator, fault in (
        (ckks, "needs exact sums"),
        (plain, "does not hide vectors sent in the clear"),
    ):
        with pytest.raises(LocalProtocolError, match=fault):
            estimator(aggregator).fit(*rows())
    (plan,) = estimator().plan(3, SITES)
    for wrong in ({"length": plan.length + 1}, {"exact": True}):
        with pytest.raises(LocalProtocolError, match="expected noise for"):
            replace(plan, **wrong)


def test_too_few_clients_for_the_promise_are_refused() -> None:
    X, y, _ = rows(12)
    with pytest.raises(DataError, match="expected more survivors than colluders"):
        estimator(privacy=msgspec.structs.replace(PRIVACY, dropout=0.4)).fit(X, y, ["a", "b", "c"] * 4)


@hypothesis.given(st.integers(0, 2**32 - 1), st.floats(-6, 6))
@settings(max_examples=50)
def test_rows_of_any_length_are_taken_and_made_short(seed: int, scale: float) -> None:
    draws = np.random.default_rng(seed)
    X = draws.normal(size=(20, 3)) * 10.0 ** draws.uniform(-scale if scale < 0 else 0, abs(scale), (20, 1))
    model = estimator(row_norm=0.7)
    (vector,) = model.vectors(X, draws.integers(3, size=20), "site")
    statistics = SufficientStatistics.unpack(vector, model.bounds(3, 3))
    whole = 0.7**2 * (1 + 1 / 16)
    assert np.trace(statistics.gram) <= 20 * whole * (1 + 1e-12)
    assert statistics.gram[0, 0] == pytest.approx(20 * (0.7 / 4) ** 2)


def test_no_row_is_refused_for_its_values() -> None:
    X, y, _ = rows()
    X[7] *= 1e100
    estimator().vectors(X[:40], y[:40], "site")
    estimator(row_norm=None, column_bounds=[1.0, 2.0, 3.0]).vectors(X[:40], y[:40], "site")
    for small in (1.0, 2.0**-390):
        model = estimator(row_norm=None, column_bounds=[small, 1.0, 1.0])
        (vector,) = model.vectors([[1e300, 2.0, 3.0]], [0], "site")
        assert np.isfinite(vector).all()
        # Of length √3 and along the first column, as if the other two were 0.
        assert vector[4] == pytest.approx(3.0)
        model.weights_ = np.ones((4, 3))
        model.weights_[0] = 0.0
        model.privacy_ = model.privacy
        assert np.allclose(model.class_scores([[1e300, 2.0, 3.0]]), sqrt(3))
    X[7, 0] = np.nan
    with pytest.raises(DataError, match="expected finite X"):
        estimator().vectors(X[:40], y[:40], "site")


@pytest.mark.slow
@pytest.mark.parametrize("columns", [1, 40, 2319])
def test_nor_for_its_rounding(columns: int) -> None:
    """Rows about as long as the bound are accepted, whichever way their norms round."""
    limit = 1.0688448950648588  # equal squares of this size round up again and again
    model = estimator(row_norm=limit)
    bounds = replace(model.bounds(columns, 0), rows=100)
    # Up to what `shortened` just leaves alone, and a little more.
    ulps = columns + np.arange(-8, 20)[:, None]
    for row in (np.ones(columns), np.random.default_rng(columns).uniform(0.5, 1, columns)):
        near = row / np.linalg.norm(row) * limit * (1 + ulps * 2.0**-53)
        with_ones = np.column_stack([np.full(len(near), model._one(columns)), model._short(near)])
        SufficientStatistics.from_rows(with_ones, np.zeros((len(near), 0)), bounds)


@pytest.mark.parametrize("row_norm", [1e-3, 100.0, 200.0, 1000.0])
def test_units_as_fine_as_the_words_allow_have_noise(row_norm: float) -> None:
    """For few rows of large numbers the noise takes up much of the range, 55 bits."""
    model = estimator(row_norm=row_norm, privacy=Privacy(1.0, 1e-5))
    (plan,) = model.plan(3, SITES)
    X, y, _ = rows(20)
    (vector,) = model.vectors(row_norm * X, y, "site")
    plan.encode(vector, plan.spec(SITES).encoding(SITES))


def test_a_site_without_rows_takes_part_too() -> None:
    for classes in ((0, 1, 2), ("a", "b", "c")):
        (vector,) = estimator(classes=classes).vectors(
            np.zeros((0, 3)), np.asarray([], dtype=np.str_), "site"
        )
        assert not vector.any()


def test_classes_are_agreed_on_before_anybody_reads_data() -> None:
    with pytest.raises(DataError, match="expected classes that were agreed on, got none"):
        estimator(classes=None).fit(*rows())


# Of ε as much as possible shows at a δ as large as this: the likelihood ratio is then often large.
MEASURED = Privacy(epsilon=3.0, delta=0.05, dropout=0.0)
SUMS = 30_000


def measured(weaker: int = 1) -> float:
    """A lower bound of ε, wrong with a probability of 2e-9: how often the best attacker is right about neighbours, a
    client with one row and with none. It knows the sums and all noise but that of the honest. weaker: by what
    deviations are divided.
    """
    clients, model = 3, estimator(privacy=MEASURED, max_rows=8, classes=(0, 1))
    honest = MEASURED.survivors(clients) - MEASURED.colluders(clients)
    assert honest == 1
    (plan,) = model.plan(1, clients)
    assert plan.noise is not None
    deviations = [one.deviation / weaker for one in plan.noise.blocks]
    sizes = [one.length for one in plan.noise.blocks]
    # Many sums at once: the same noise on each entry, made by what a client calls.
    blocks = tuple(Block(size * SUMS, one) for size, one in zip(sizes, deviations, strict=True))
    many = replace(plan, length=plan.length * SUMS, noise=replace(plan.noise, blocks=blocks))
    encoding = many.spec(clients).encoding(clients)
    (more,), (less,) = (model.vectors(np.ones((count, 1)), [0] * count, "site") for count in (1, 0))
    direction = (more - less) / np.repeat(np.array(deviations, float), sizes) ** 2

    def log_likelihood_ratios(vector: Floats) -> Floats:
        """Of so many sums over this client's vector and its noise."""
        tiled = [np.tile(part, SUMS) for part in np.split(vector, np.cumsum(sizes)[:-1])]
        total = encoding.decode_sum(many.encode(np.concatenate(tiled), encoding), 1)
        parts = np.split(total, np.cumsum(sizes)[:-1] * SUMS)
        sums = np.column_stack([part.reshape(SUMS, -1) for part in parts])
        ratios: Floats = (sums - (more + less) / 2) @ direction
        return ratios

    # Ratios are normal: the threshold that is best for the attacker is known beforehand.
    mu = sqrt(float(direction @ (more - less)))
    thresholds = np.linspace(0, 10, 201)
    false, true = norm.sf(thresholds / mu + mu / 2), norm.sf(thresholds / mu - mu / 2)
    high, low = (
        beta.isf(1e-9, SUMS * false + 1, SUMS * (1 - false)),
        beta.ppf(1e-9, SUMS * true, SUMS * (1 - true) + 1),
    )
    best = thresholds[np.argmax((low - MEASURED.delta) / high)]
    false_alarms, hits = (int(np.sum(log_likelihood_ratios(one) > best)) for one in (less, more))
    # Clopper and Pearson.
    often = beta.isf(1e-9, false_alarms + 1, SUMS - false_alarms)
    seldom = beta.ppf(1e-9, hits, SUMS - hits + 1)
    return float(np.log((seldom - MEASURED.delta) / often))


def test_a_distinguisher_stays_under_the_claim() -> None:
    """The accounting is within 20 % of the truth, and this many sums show most of it."""
    assert 0.5 * MEASURED.epsilon < measured() < MEASURED.epsilon


def test_the_same_distinguisher_finds_noise_of_half_the_deviation() -> None:
    assert measured(weaker=2) > MEASURED.epsilon


def test_the_model_is_that_of_the_noisy_sum() -> None:
    data = rows()
    model = estimator(MaskedAggregator(), ridge=1e-2).fit(*data)
    (one,), (plan,) = model.rounds_, model.plan(3, SITES)
    assert plan.noise is not None
    fixed = regularise(
        one.total,  # type: ignore[attr-defined]
        model.bounds(3, 3),
        plan.noise,
        survivors=SITES,
        ridge=1e-2,
    )
    assert np.array_equal(
        model.weights_, solve(fixed.statistics, ridge=0.0, entry_error=one.entry_error).weights
    )
    assert np.array_equal(model.statistics_.gram, fixed.statistics.gram)  # type: ignore[union-attr]
    long = data[0] * 1e3  # predictions shorten rows too
    scores = model.decision_function(long)
    assert np.allclose(scores, model.decision_function(long * 10))
    assert model.score(data[0], data[1]) > 0.8


def test_waves_share_the_budget() -> None:
    data = rows()
    model = estimator(MaskedAggregator(), msgspec.structs.replace(PRIVACY, epsilon=16.0), rounds=3).fit(*data)
    (once,), thrice = estimator().plan(3, SITES), estimator(rounds=3).plan(3, SITES)
    # Besides, one row more lets another one move to the next wave: that one's part is gone, too.
    for block, moved in ((0, sqrt(2)), (1, 2.0), (2, 1.0)):
        ratio = [
            float(plan.noise.blocks[block].deviation / once.noise.blocks[block].deviation)  # type: ignore[union-attr]
            for plan in thrice
        ]
        assert ratio == pytest.approx([sqrt(3) * moved] * 3, rel=1e-2)
    assert model.score(data[0], data[1]) > 0.8


def test_a_generous_budget_gives_nearly_the_model_without_noise() -> None:
    data = rows(1200)
    options: dict[str, Any] = {"max_rows": 256, "ridge": 1e-2}
    loose = estimator(MaskedAggregator(), Privacy(64.0, 0.5), **options).fit(*data)
    none = estimator(MaskedAggregator(), **options).fit_pooled(data[0], data[1])
    assert np.abs(loose.weights_ - none.weights_).max() < 0.1
    assert loose.score(data[0], data[1]) > none.score(data[0], data[1]) - 0.02


def test_the_bound_of_a_code_has_room_for_the_noise() -> None:
    (plan,) = estimator().plan(3, SITES)
    assert plan.noise is not None
    assert plan.largest > plan.bound + float(plan.noise.reserve) * (1 - 1e-9)
    spec = plan.spec(SITES)
    assert spec.magnitude >= plan.largest * 2.0**spec.fraction_bits * (1 - 1e-12)
    assert SumPlan("sum", 4, 1.0).largest == 1.0
