"""Personal models: from masked sums and a client's own rows, and no byte more."""

import warnings
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds.cohorts import Tap

from secure_afl.crypto.hpke import Suite
from secure_afl.errors import DataError, DropoutWarning, GroupWarning
from secure_afl.models import personal_head
from secure_afl.models.networks import pfedacnnl
from secure_afl.models.networks.encoder import Encoder
from secure_afl.models.networks.fedacnnl import Coordinator, FedACnnL
from secure_afl.models.networks.network import AvgPool, Conv, Dense, Network, ReLU
from secure_afl.models.networks.pfedacnnl import PFedACnnL
from secure_afl.models.personal import Adapted, Local
from secure_afl.models.personal_head import own_head
from secure_afl.protocol.session.errors import PolicyError, RoundAbortedError
from secure_afl.protocol.session.parameters import Profile
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.transport.driver import Network as Wire
from secure_afl.protocol.transport.driver import Packet
from secure_afl.simulations.data.dataset import load
from secure_afl.simulations.data.partition import partition
from secure_afl.sums.aggregation import Aggregator, MaskedAggregator, PlainAggregator
from secure_afl.testing.faults import Fault, FaultyNetwork

torch.set_num_threads(1)  # small tensors: handing over to a second thread costs more than it gives
SITES = 20
DENSE = Network((36,), (Dense(8), ReLU(3.0)), 4)
CONV = Network((1, 6, 6), (Conv(4, 3, padding=1), ReLU(), AvgPool(2)), 4)
# Twenty clients, two of whom may collude and one drop out: a group needs five.
POLICY = Policy(
    dropout=0.05,
    profiles=frozenset({Profile.SEMI_HONEST}),
    suites=frozenset(Suite),
    backends=frozenset({"mask", "plain"}),
)


def two_kinds(seed: int, shift: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sites of which half see labels 0 and 1, half 2 and 3; `shift` moves all labels on."""
    draws = np.random.default_rng(seed)
    site = np.repeat(np.arange(SITES), 12)
    y = (draws.integers(0, 2, len(site)) + 2 * (site % 2) + shift) % 4
    X = np.clip(draws.normal(size=(len(site), 36)) / 3 + draws.uniform(-0.5, 0.5, (4, 36))[y], -1, 1)
    return X, y, site


def masked(wire: Wire | None = None) -> MaskedAggregator:
    return MaskedAggregator(POLICY, profile=Profile.SEMI_HONEST, suite=Suite.X25519, network=wire)


def fitted(
    aggregator: Aggregator,
    rows: tuple[np.ndarray, np.ndarray, np.ndarray],
    network: Network = DENSE,
    **options: Any,
) -> PFedACnnL:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DropoutWarning)
        return PFedACnnL(network, max_rows=64, aggregator=aggregator, **options).fit(*rows)


def sent(tap: Tap) -> list[tuple[str, int, int]]:
    """Phase, client and length of every frame from a client. Keys come before any data are looked at, and their
    number follows from the drawn graph: there the length is left out.
    """
    assert [one.phase for one in tap.seen].index("collecting") > max(
        at for at, one in enumerate(tap.seen) if one.phase in ("advertising", "sharing", "confirming")
    )
    return [
        (one.phase, one.client, len(one.data) if one.phase in ("collecting", "unmasking") else 0)
        for one in tap.seen
        if one.upward
    ]


def bits(model: PFedACnnL) -> list[bytes]:
    own = [weights for one in model.personal_.values() for weights in one.weights]
    return [weights.tobytes() for weights in (*model.weights_, *model.heads_, *own)]


@pytest.mark.slow
@settings(max_examples=8)
@given(
    st.sampled_from([1, 2]),
    st.sampled_from(["head", "all"]),
    st.sampled_from([DENSE, CONV]),
    st.integers(0, 2**32),
)
def test_masks_change_no_bit_of_any_model(groups: int, adapt: str, network: Network, seed: int) -> None:
    rows = two_kinds(seed)
    options = {"groups": groups, "adapt": adapt, "encoder": "mixed"}
    secure = fitted(masked(), rows, network, **options)
    plain = fitted(PlainAggregator(POLICY), rows, network, **options)
    assert bits(secure) == bits(plain)
    assert len(secure.heads_) == groups
    central = FedACnnL(network, encoder="mixed").fit_pooled(rows[0], rows[1])
    for mine, theirs in zip(secure.weights_, central.weights_, strict=True):
        assert mine.tobytes() == theirs.tobytes()


@pytest.mark.slow
@settings(max_examples=5)
@given(st.integers(0, SITES - 1), st.integers(0, 2**32))
def test_groups_are_the_pooled_ones_of_the_survivors(gone: int, seed: int) -> None:
    X, y, site = two_kinds(seed)
    model = fitted(
        masked(FaultyNetwork([Fault("drop", "collecting", frozenset({gone}))])), (X, y, site), groups=2
    )
    kept = site != sorted(range(SITES), key=str)[gone]
    central = fitted(PlainAggregator(POLICY), (X[kept], y[kept], site[kept]), groups=2)
    assert [head.tobytes() for head in model.heads_] == [head.tobytes() for head in central.heads_]
    assert len(model.personal_) == SITES  # who dropped out adapts the model that it is sent, too


def test_a_groups_head_is_ridge_towards_everybodys() -> None:
    """(G_g + γI)⁻¹(C_g + γW) of the group's own rows, up to the grid of weights."""
    X, y, site = two_kinds(3)
    model = fitted(masked(), (X, y, site), groups=2)
    learner = model._learner(X, y, "all")
    learner.install(DENSE.trained[0], model.weights_[0])
    rows, targets = learner.rows(DENSE.trained[1]), learner.targets(DENSE.trained[1])
    for group, head in enumerate(model.heads_):
        mine = np.isin(site, [int(name) for name, one in model.personal_.items() if one.group == group])
        gram = rows[mine].T @ rows[mine]
        pull = model.ridge * np.trace(gram) / len(gram) * np.eye(len(gram))
        expected = np.linalg.solve(gram + pull, rows[mine].T @ targets[mine] + pull @ model.weights_[-1])
        np.testing.assert_allclose(head, expected, atol=1e-6)


def test_personal_networks_are_the_local_objective_on_own_rows() -> None:
    X, y, site = two_kinds(4)
    model = fitted(masked(), (X, y, site))
    learner = model._learner(X[site == 7], y[site == 7], "7")
    learner.install(DENSE.trained[0], model.weights_[0])
    head = DENSE.trained[1]
    expected = own_head(learner.rows(head), learner.targets(head), model.heads_[0], y[site == 7])
    own = model.personal_["7"]
    assert np.array_equal(own.weights[-1], expected.weights)
    assert own.layers[-1].mu == expected.mu
    assert np.array_equal(
        model.decision_function(X, site)[site == 7], model._scores(X[site == 7], own.weights)
    )
    assert np.array_equal(
        model.predict(X, site)[site == 7],
        model.classes_[model._scores(X[site == 7], own.weights).argmax(axis=1)],
    )


@pytest.mark.slow
@pytest.mark.parametrize("adapt", ["head", "all"])
def test_no_byte_leaves_a_client_but_the_masked_sums(adapt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every frame on the wire is seen. Adapting sends none, and what went before has the same number, phases
    and lengths for clients of other groups, with other labels, or without any personalization.
    """
    seen = []
    for shift, kind in ((0, PFedACnnL), (1, PFedACnnL), (2, PFedACnnL), (0, FedACnnL)):
        tap, adaptations = Tap(), Counter[int]()

        class Watched(Local):
            def choose(self, *arguments: Any, tap: Tap = tap, found: Counter[int] = adaptations) -> Adapted:
                found[len(tap.seen)] += 1
                return super().choose(*arguments)

        if kind is FedACnnL:
            FedACnnL(DENSE, encoder="mixed", max_rows=64, aggregator=masked(tap)).fit(*two_kinds(5, shift))
        else:
            monkeypatch.setattr(pfedacnnl, "Local", Watched)  # of hidden layers
            monkeypatch.setattr(personal_head, "Local", Watched)  # of the head
            fitted(masked(tap), two_kinds(5, shift), adapt=adapt, encoder="mixed")
            # All came after the last message of the session.
            assert adaptations == {len(tap.seen): SITES * (2 if adapt == "all" else 1)}
        seen.append(sent(tap))
    assert seen[0] == seen[1] == seen[2] == seen[3]
    assert {phase for phase, _, _ in seen[0]} == {
        "advertising",
        "sharing",
        "confirming",
        "collecting",
        "unmasking",
    }


def test_which_group_a_client_is_in_shows_in_no_frame() -> None:
    """The same client in another group sends the same number of frames of the same lengths, and a masked upload
    of a slot is not told from one of another slot: all its bytes vary like random ones.
    """
    lengths, uploads = [], []
    for shift in (0, 2):  # swaps the two kinds
        tap = Tap()
        model = fitted(masked(tap), two_kinds(6, shift), groups=2)
        mine = [one for one in tap.seen if one.upward and one.client == 3]
        lengths.append([one for one in sent(tap) if one[1] == 3])
        uploads.append(max((one.data for one in mine if one.phase == "collecting"), key=len))
        assert len(model.heads_) == 2
    assert lengths[0] == lengths[1]
    for upload in uploads:
        # The payload of two slots, of which one is all zeros before it is masked.
        counts = np.bincount(np.frombuffer(upload, dtype=np.uint8), minlength=256)
        assert counts.max() < 3 * len(upload) / 256 + 8


def test_groups_are_refused_where_the_server_may_lie() -> None:
    aggregator = MaskedAggregator(Policy(suites=frozenset(Suite)), suite=Suite.X25519)
    model = PFedACnnL(DENSE, groups=2, max_rows=64, aggregator=aggregator)
    with pytest.raises(PolicyError, match="hides a client only if the server reports"):
        model.fit(*two_kinds(0))
    assert aggregator._cohort is None


def test_a_group_that_hides_nobody_is_dissolved() -> None:
    X, y, site = two_kinds(0)
    y = np.where(site < 3, 3, 2 * (site % 2))  # three of twenty are alone with their label
    with pytest.warns(GroupWarning, match="3 groups were requested and 2 remain: a group needs 5"):
        model = fitted(masked(), (X, y, site), groups=3, classes=range(4))
    groups = np.bincount([one.group for one in model.personal_.values()])
    assert groups.min() >= 5
    assert len(groups) == len(model.heads_) == 2
    assert model.groups_ == [(0, 1), (2, 3)]
    X, y, site = (part[site < 9] for part in (X, y, site))
    with pytest.warns(GroupWarning, match="2 groups were requested and 1 remain"):
        alone = fitted(masked(), (X, y, site), groups=2)
    assert alone.groups_ == [(0, 1, 2, 3)]
    assert np.array_equal(alone.heads_[0], alone.weights_[-1])


@pytest.mark.parametrize("upload", [1, 2])
def test_a_group_is_not_made_smaller_by_dropouts(upload: int) -> None:
    """Without groups two dropouts of twenty are borne. With groups no sum is opened that lacks more than the
    policy's share, one client here, since all of them could be out of one group: neither the count (1) nor the
    slots (2).
    """
    rows = two_kinds(0)
    silent = FaultyNetwork([Fault("drop", "collecting", frozenset({1, 5}))])
    assert len(fitted(masked(silent), rows).rounds_[0].survivors) == SITES - 2

    class Loses(Tap):
        def __init__(self) -> None:
            super().__init__()
            self.uploads = Counter[int]()

        def carry(self, packet: Packet) -> list[Packet]:
            if packet.upward and packet.phase == "collecting":
                self.uploads[packet.client] += 1
                if packet.client in (1, 5) and self.uploads[packet.client] >= upload:
                    return []
            return super().carry(packet)

    with pytest.raises(RoundAbortedError) as aborted:
        fitted(masked(Loses()), rows, groups=2)
    assert any("at least 19 survivors" in note for note in aborted.value.__notes__)


def test_slots_are_planned_as_what_they_are() -> None:
    options = {"encoder": Encoder.SEEDED, "ridge": 1e-2, "seed": 0}
    (alone,) = Coordinator(DENSE, **options).plan(64, SITES)  # type: ignore[arg-type]
    assert (alone.trusts_server, alone.same_survivors, alone.survivors) == (False, False, 0)
    (slots,) = Coordinator(DENSE, groups=2, survivors=19, **options).plan(64, SITES)  # type: ignore[arg-type]
    assert (slots.trusts_server, slots.same_survivors, slots.survivors) == (True, True, 19)
    assert slots.length == 2 * alone.length
    layered = Coordinator(DENSE, encoder=Encoder.SPATIAL, ridge=1e-2, seed=0).plan(64, SITES)
    assert [one.trusts_server for one in layered] == [False, True]
    assert all(one.same_survivors for one in layered)


def test_too_many_groups_are_refused_before_anything_is_sent() -> None:
    aggregator = masked()
    with pytest.raises(DataError, match="at most 4 groups of 20 clients, got 5: a group needs 5"):
        fitted(aggregator, two_kinds(0), groups=5)
    X, y, site = (part[two_kinds(0)[2] < 5] for part in two_kinds(0))
    with pytest.raises(DataError, match="at most 1 groups of 5 clients, got 2"):
        fitted(aggregator, (X, y, site), groups=2)
    assert aggregator._cohort is None


def test_a_client_of_the_second_group_starts_from_its_groups_head() -> None:
    X, y, site = two_kinds(8)
    model = fitted(masked(), (X, y, site), groups=2)
    head = DENSE.trained[1]
    for group in (0, 1):
        name = next(name for name, one in model.personal_.items() if one.group == group)
        mine = site == int(name)
        learner = model._learner(X[mine], y[mine], name)
        learner.install(DENSE.trained[0], model.weights_[0])
        expected = own_head(learner.rows(head), learner.targets(head), model.heads_[group], y[mine])
        assert np.array_equal(model.personal_[name].weights[-1], expected.weights)


@pytest.mark.parametrize("encoder", ["mixed", "spatial"])
def test_adapting_all_layers_is_the_local_objective_layer_by_layer(encoder: str) -> None:
    X, y, site = two_kinds(9)
    model = fitted(masked(), (X, y, site), CONV, adapt="all", encoder=encoder)
    own = model.personal_["4"]
    mine = site == 4
    learner = model._learner(X[mine], y[mine], "4")
    hidden, head = CONV.trained
    aggregated = model._learner(X, y, "all")
    coordinator = model._coordinator()
    assert coordinator.layer(hidden, aggregated.vector(hidden)).tobytes() == model.weights_[0].tobytes()
    trained = learner.targets(hidden).shape[1]
    scales = coordinator.scales[hidden.at][-trained:]
    assert not np.allclose(scales, coordinator.scales[hidden.at][:trained]) or encoder == "spatial"
    anchor = model.weights_[0][:, -trained:]
    expected = Local(learner.rows(hidden), learner.targets(hidden) * scales, anchor).choose()
    assert np.array_equal(own.layers[0].weights, expected.weights)
    np.testing.assert_allclose(own.weights[0][:, :-trained], model.weights_[0][:, :-trained], atol=1e-6)
    np.testing.assert_allclose(own.weights[0][:, -trained:], expected.weights, atol=1e-6)
    learner.install(hidden, own.weights[0])
    last = own_head(learner.rows(head), learner.targets(head), model.heads_[0], y[mine])
    assert np.array_equal(own.weights[1], last.weights)
    assert not np.array_equal(own.weights[0], model.weights_[0])


def test_one_count_comes_before_the_slots() -> None:
    """Over the same survivors, of as many values as groups; nothing else is said of labels before the statistics."""
    tap = Tap()
    model = fitted(masked(tap), two_kinds(0), groups=2)
    assert [one.length for one in model.rounds_] == [2, *(one.length for one in model.rounds_[1:])]
    assert len(model.rounds_) == 2
    uploads = [one for one in tap.seen if one.upward and one.phase == "collecting"]
    assert len(uploads) == 2 * SITES


def test_more_groups_than_classes_are_refused() -> None:
    aggregator = PlainAggregator(Policy(corrupted=0.0, dropout=0.0, backends=frozenset({"plain"})))
    with pytest.raises(DataError, match="at most 4 groups, one for each class, got 5"):
        fitted(aggregator, two_kinds(0), groups=5)


def test_personal_models_beat_everybodys_on_clients_with_two_labels() -> None:
    data = load("digits")
    parts = partition(data, "labels:2", 10, 0)
    train = np.concatenate([part.train for part in parts])
    test = np.concatenate([part.test for part in parts])
    site, own = (
        np.repeat([part.client for part in parts], [len(rows) for rows in held])
        for held in ([part.train for part in parts], [part.test for part in parts])
    )
    model = PFedACnnL(Network((64,), (), 10), aggregator=MaskedAggregator())
    model.fit(data.X[train], data.y[train], site)
    together = model.score(data.X[test], data.y[test])
    personal = (model.predict(data.X[test], own) == data.y[test]).mean()
    assert personal > together + 0.03
    assert personal > 0.97


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"groups": 0}, "groups as an integer of at least 1"),
        ({"adapt": "some"}, "expected adapt as head or all"),
        ({"adapt": "all"}, "do not come from least squares"),
        ({"encoder": "foo"}, "encoder as one of seeded, classwise"),
        ({"encoder": None}, "encoder as one of"),
        ({"ridge": -1.0}, "ridge as a number of at least 0"),
        ({"seed": -1}, "seed as a whole number"),
        ({"seed": 2**40}, "seed as a whole number"),
        ({"seed": "a"}, "seed as a whole number"),
        ({"device": "gpu9"}, "a device that torch has here, got 'gpu9'"),
        ({"classes": 4}, "classes as a list of labels"),
        ({"network": None}, "expected a Network, got NoneType"),
        ({"max_rows": "many"}, "max_rows as an integer"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], what: str) -> None:
    aggregator = masked()
    model = PFedACnnL(DENSE, max_rows=64, aggregator=aggregator).set_params(**options)
    with pytest.raises(DataError, match=what):
        model.fit(*two_kinds(0))
    assert aggregator._cohort is None


def test_no_rows_and_no_sites_are_refused() -> None:
    X, y, site = two_kinds(0)
    aggregator = masked()
    with pytest.raises(DataError):
        fitted(aggregator, (X[:0], y[:0], site[:0]))
    assert aggregator._cohort is None
    model = fitted(aggregator, (X, y, site))
    with pytest.raises(DataError, match="expected X of shape"):
        model.predict(X[:0])


def test_strangers_have_no_model() -> None:
    X, y, site = two_kinds(0)
    model = fitted(masked(), (X, y, site))
    with pytest.raises(DataError, match="expected sites that took part, got 99"):
        model.predict(X[:1], [99])
    with pytest.raises(DataError, match="a site for each of 2 rows"):
        model.predict(X[:2], [1])
