"""What sums over several layers could tell beyond one sum, each attack against the weak design and against ours."""

import numpy as np
import pytest
import torch

from secure_afl.analytic.statistics import SufficientStatistics
from secure_afl.crypto.hpke import Suite
from secure_afl.models.networks.encoder import Encoder
from secure_afl.models.networks.encoders import codes, seeded
from secure_afl.models.networks.fedacnnl import SEED_BYTES, Coordinator, FedACnnL, Learner
from secure_afl.models.networks.grid import on_weight_grid
from secure_afl.models.networks.network import AvgPool, Conv, Dense, Network, ReLU
from secure_afl.models.networks.pfedacnnl import PFedACnnL
from secure_afl.protocol.session.errors import PolicyError, RoundAbortedError
from secure_afl.protocol.session.parameters import Profile
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Trust
from secure_afl.protocol.transport.driver import Packet, PerfectNetwork
from secure_afl.simulations.data.dataset import load
from secure_afl.sums.aggregation import Aggregate, MaskedAggregator, PlainAggregator

torch.set_num_threads(1)  # small tensors: handing over to a second thread costs more than it gives
SITES, CLASSES = 8, 5
NETWORK = Network((1, 6, 6), (Conv(8, 3, padding=1), ReLU(), AvgPool(2)), CLASSES)


class LosesOne(PerfectNetwork):
    """Loses the upload of one client from its `first` upload on."""

    def __init__(self, client: int, first: int) -> None:
        self.client, self.first, self.uploads = client, first, 0

    def carry(self, packet: Packet) -> list[Packet]:
        if packet.upward and packet.phase == "collecting" and packet.client == self.client:
            self.uploads += 1
            return [] if self.uploads >= self.first else [packet]
        return [packet]


def rows(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draws = np.random.default_rng(seed)
    site = np.repeat(np.arange(SITES), 30)
    return draws.uniform(-1, 1, (len(site), 36)), draws.integers(0, CLASSES, len(site)), site


def aggregator(wire: PerfectNetwork, policy: Policy) -> MaskedAggregator:
    return MaskedAggregator(policy, suite=Suite.X25519, network=wire)


TRUSTING = Policy(suites=frozenset(Suite), trusts_reports=Trust.VERIFIED)


@pytest.mark.parametrize("encoder", [Encoder.CLASSWISE, Encoder.SPATIAL, Encoder.MIXED, Encoder.REPLICATED])
def test_a_dropout_between_layers_gives_its_labels_away(encoder: Encoder) -> None:
    """The weak design opens each layer's sum over whoever is left: the label counts stand in both, so their
    difference is the missing client's. Ours opens no second sum over other clients than the first.
    """
    X, y, site = rows()
    coordinator = Coordinator(NETWORK, encoder=encoder, ridge=1e-2, seed=0)
    first, last = NETWORK.trained

    def total(known: object, clients: range, weights: object = None) -> SufficientStatistics:
        parts = []
        for client in clients:
            learner = Learner(NETWORK, X[site == client], y[site == client], encoder=encoder, seed=bytes(32))
            if known is last:
                learner.install(first, weights)  # type: ignore[arg-type]
            parts.append(learner.statistics(known))  # type: ignore[arg-type]
        return sum(parts[1:], start=parts[0])

    one = total(first, range(SITES))
    other = total(last, range(SITES - 1), coordinator.layer(first, one.pack()))
    known = codes(encoder, first, CLASSES, bytes(32)).sum(axis=1)
    system = np.vstack([known.T, np.full(CLASSES, first.positions)])
    counts = np.linalg.lstsq(system, np.r_[one.cross[0], one.gram[0, 0]], rcond=None)[0]
    assert np.rint(counts - other.cross[0]).tolist() == np.bincount(y[site == SITES - 1]).tolist()

    model = FedACnnL(
        NETWORK,
        encoder=encoder.value,
        max_rows=64,
        aggregator=aggregator(LosesOne(SITES - 1, first=2), TRUSTING),
    )
    with pytest.raises(RoundAbortedError) as aborted:
        model.fit(X, y, site)
    assert any("expected the 8 survivors of the sums before" in note for note in aborted.value.__notes__)


def test_who_dropped_out_before_is_not_asked_again() -> None:
    """A client that misses the first sum cannot come back for the second: that difference would be its own."""
    X, y, site = rows()

    class Once(LosesOne):
        def carry(self, packet: Packet) -> list[Packet]:
            lost = super().carry(packet)
            return lost if self.uploads <= 1 else [packet]

    wire = Once(2, first=1)
    model = FedACnnL(NETWORK, encoder="spatial", max_rows=64, aggregator=aggregator(wire, TRUSTING))
    with pytest.warns(UserWarning, match="round 1 of 2 is without 2; round 2 of 2 is without 2"):
        model.fit(X, y, site)
    assert wire.uploads == 1
    kept = site != 2
    central = FedACnnL(NETWORK, encoder="spatial").fit_pooled(X[kept], y[kept])
    assert [w.tobytes() for w in model.weights_] == [w.tobytes() for w in central.weights_]


def test_seeded_layers_bear_a_dropout_at_any_time() -> None:
    X, y, site = rows()
    for first in (1, 2):
        wire = LosesOne(2, first)
        model = FedACnnL(NETWORK, max_rows=64, aggregator=aggregator(wire, Policy(suites=frozenset(Suite))))
        if first == 1:
            with pytest.warns(UserWarning, match="is without 2"):
                model.fit(X, y, site)
        else:
            model.fit(X, y, site)
        assert len(model.rounds_) == 1


def crafted(self: Coordinator, known: object, total: np.ndarray, entry_error: float = 0.0) -> np.ndarray:
    """A lying server's hidden layer: 64 units pass pixels on, 448 are steep steps along one direction."""
    statistics = SufficientStatistics.unpack(total, self.bounds(known))  # type: ignore[arg-type]
    mean = statistics.gram[0, 1:] / statistics.count
    covariance = statistics.gram[1:, 1:] / statistics.count - np.outer(mean, mean)
    along = np.random.default_rng(7).normal(size=64)
    along /= np.sqrt(along @ covariance @ along)
    W = np.zeros((65, 512))
    W[0, :64], W[np.arange(1, 65), np.arange(64)] = 1, 1
    W[1:, 64:] = 2**16 * along[:, None]
    W[0, 64:] = 2**16 * (-(mean @ along) - np.linspace(-2.5, 2.5, 448))
    self.scales[known.at] = np.ones(512)  # type: ignore[attr-defined]
    return on_weight_grid(W, 1.0)


def test_a_lying_server_reads_samples_through_hidden_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weak design installs what the server says are the first sum's weights: steps between neighbours hold
    single samples, which the next sum, honestly masked, shows. Ours refuses such plans by default; at the level `verified`
    clients compute the weights from the sum themselves, and seeded layers take nobody's weights.
    """
    data = load("digits")
    X, y = data.X[:1000], data.y[:1000]
    site = np.arange(1000) % 10
    network = Network((64,), (Dense(512), ReLU()), 10)
    monkeypatch.setattr(Coordinator, "layer", crafted)
    plain = PlainAggregator(Policy(backends=frozenset({"plain"}), trusts_reports=Trust.VERIFIED))
    weak = FedACnnL(network, encoder="classwise", aggregator=plain).fit(X, y, site)
    assert isinstance(weak.rounds_[1], Aggregate)
    statistics = SufficientStatistics.unpack(
        weak.rounds_[1].total, weak._coordinator().bounds(network.trained[1])
    )
    gram = statistics.gram
    counts = -np.diff(gram[0, 65:]) / 6
    pixels = -np.diff(gram[65:, 1:65], axis=0) / 6 - counts[:, None]
    rounded = np.rint(X * 1024) / 1024
    single = [pixels[at] for at in np.flatnonzero(np.abs(counts - 1) < 1e-3)]
    read = [(np.abs(rounded - one).max(axis=1) < 0.01).any() for one in single]
    assert sum(read) > 30

    monkeypatch.undo()
    honest = FedACnnL(network, encoder="classwise")
    (first, _), (verified, _) = (
        weak.weights_,
        [one.total for one in weak.rounds_ if isinstance(one, Aggregate)],
    )
    with pytest.raises(PolicyError, match=r"hidden layer 1 .* the server announced another"):
        honest.follow([first], [verified])  # what every client asks at the level `verified`
    own = honest._coordinator().layer(network.trained[0], verified)
    assert honest.follow([own], [verified])[0].tobytes() == own.tobytes()
    monkeypatch.setattr(Coordinator, "layer", crafted)
    default = Policy(suites=frozenset(Suite))
    with pytest.raises(PolicyError, match="'fedacnnl sum 2 of 2' hides a client only if the server reports"):
        FedACnnL(network, encoder="classwise", aggregator=aggregator(PerfectNetwork(), default)).fit(
            X, y, site
        )
    ours = FedACnnL(network, aggregator=aggregator(PerfectNetwork(), default)).fit(X, y, site)
    assert ours.weights_[0].tobytes() == seeded(network.trained[0], bytes(SEED_BYTES)).tobytes()


def test_slots_that_lack_a_client_do_not_tell_its_group() -> None:
    """A client that is counted and missing from the slots shows in which slot it is missed; ours aborts instead."""
    site = np.repeat(np.arange(20), 12)
    draws = np.random.default_rng(0)
    y = draws.integers(0, 2, len(site)) + 3 * (site % 2)
    policy = Policy(
        dropout=0.05, suites=frozenset(Suite), profiles=frozenset(Profile), trusts_reports=Trust.VERIFIED
    )
    X = draws.uniform(-1, 1, (len(site), 4))
    model = PFedACnnL(
        Network((4,), (), CLASSES), groups=2, max_rows=64, aggregator=aggregator(LosesOne(7, first=2), policy)
    )
    with pytest.raises(RoundAbortedError) as aborted:
        model.fit(X, y, site)
    assert any("expected the 20 survivors of the sums before" in note for note in aborted.value.__notes__)
