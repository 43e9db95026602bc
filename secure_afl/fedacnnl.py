"""FedACnnL: a deep network trained layer by layer, one secure sum a layer, no gradient (arXiv 2502.06915).

A `Learner` holds one client's rows and answers with statistics; a `Coordinator` turns each sum into a layer.
Neither does I/O. Every number that goes into a sum lies on a grid (`network`), so the sum is exact and the
trained network does not depend on how rows are spread over clients, chunks or devices: bit for bit.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from secure_afl.aggregation import Aggregate, Aggregator, warn_of_dropouts
from secure_afl.encoders import Encoder, coded, codes, filters
from secure_afl.errors import DataError
from secure_afl.estimator import (
    FederatedClassifier,
    Rows,
    parse_features,
    parse_integer,
    parse_real,
    parse_rows,
)
from secure_afl.network import (
    GRID_BITS,
    Network,
    Trained,
    Weights,
    apply_fixed,
    apply_trained,
    on_weight_grid,
    patches,
    to_grid,
)
from secure_afl.protocol.parameters import SumPlan
from secure_afl.solve import Certificate, solve
from secure_afl.statistics import PublicBounds, SufficientStatistics

SEED_BYTES = 32
CHUNK_BYTES = 128 * 2**20


class Learner:
    """One client's side: rows in, statistics of the next layer out.

    chunk_bytes: memory for one chunk of patches. It changes the speed and nothing else: every product and
    every sum is exact.
    """

    def __init__(
        self,
        network: Network,
        X: npt.NDArray[np.float64],
        y: npt.NDArray[np.int64],
        *,
        encoder: Encoder,
        seed: bytes,
        who: str = "this client",
        device: str = "cpu",
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        if X.shape != (len(y), prod(network.input_shape)):
            expected = (len(y), prod(network.input_shape))
            raise DataError(f"{who}: expected X of shape {expected}, got {X.shape}")
        for wrong, fault in ((~np.isfinite(X), "is not finite"), (np.abs(X) > 1, "is outside [-1, 1]")):
            if wrong.any():
                raise DataError(f"{who}: X {fault} in row {int(np.argwhere(wrong)[0][0])}")
        self._network = network
        self._encoder = encoder
        self._seed = seed
        self._device = device
        self._chunk_bytes = chunk_bytes
        self._labels = torch.tensor(y, device=device)
        rows = to_grid(torch.tensor(X, dtype=torch.float64, device=device))
        # Grid values have at most 17 bits: float32 holds them exactly, in half the memory.
        self._values = rows.reshape(len(y), *network.input_shape).to(torch.float32)
        self._forward(0, network.trained[0].at, network.trained[0])

    def statistics(self, known: Trained) -> SufficientStatistics:
        """Gram and cross-covariance of the layer's inputs with a column of ones in front, exact float64."""
        wanted = self._targets(known)
        gram = torch.zeros((known.inputs, known.inputs), dtype=torch.float64, device=self._device)
        sums = torch.zeros(known.inputs, dtype=torch.float64, device=self._device)
        cross = torch.zeros((known.inputs + 1, wanted.shape[2]), dtype=torch.float64, device=self._device)
        for chunk in self._chunks(8 * known.positions * (2 * known.inputs + wanted.shape[2])):
            rows = patches(self._values[chunk], known.layer)
            targets = wanted[self._labels[chunk]].reshape(len(rows), -1)
            gram += rows.T @ rows
            sums += rows.sum(dim=0)
            cross[1:] += rows.T @ targets
            cross[0] += targets.sum(dim=0)
        count = len(self._labels) * known.positions
        whole = np.empty((known.inputs + 1, known.inputs + 1))
        whole[0, 0] = count
        whole[0, 1:] = whole[1:, 0] = sums.cpu().numpy()
        whole[1:, 1:] = gram.cpu().numpy()
        return SufficientStatistics(whole, cross.cpu().numpy(), count)

    def install(self, known: Trained, weights: Weights) -> None:
        """Take a trained layer and go on to the inputs of the next one."""
        on_device = torch.tensor(weights, device=self._device)
        stop = min((later.at for later in self._network.trained if later.at > known.at), default=known.at + 1)
        self._forward(known.at, stop, known, on_device)

    def _forward(self, start: int, stop: int, known: Trained, weights: Tensor | None = None) -> None:
        """Through the layers from `start` to `stop`, of which at most `known` has weights."""
        after = []
        for chunk in self._chunks(8 * known.positions * 2 * (known.inputs + known.outputs)):
            values = self._values[chunk].to(torch.float64)
            for at in range(start, stop):
                if at == known.at:
                    assert weights is not None
                    values = apply_trained(values, known, weights)
                else:
                    values = apply_fixed(values, self._network.steps[at])
            # Scores keep float64; what is on the grid needs float32.
            after.append(values if stop == len(self._network.steps) else values.to(torch.float32))
        self._values = torch.cat(after)

    @property
    def scores(self) -> npt.NDArray[np.float64]:
        """The outputs of the layer installed last, (rows, outputs)."""
        scores: npt.NDArray[np.float64] = self._values.cpu().numpy()
        return scores

    def _targets(self, known: Trained) -> Tensor:
        """(classes, positions, outputs that are trained towards labels)."""
        classes = self._network.classes
        if known is self._network.trained[-1]:
            return torch.eye(classes, dtype=torch.float64, device=self._device)[:, None, :]
        return torch.tensor(codes(self._encoder, known, classes, self._seed), device=self._device)

    def _chunks(self, bytes_per_sample: int) -> Iterator[slice]:
        """Slices of the rows, within the memory and as large as still pays."""
        most = max(1, self._chunk_bytes // max(1, bytes_per_sample))
        size, rate, at = min(most, 64), 0.0, 0
        while at < len(self._labels):
            started = time.perf_counter()
            yield slice(at, at + size)
            now = min(size, len(self._labels) - at) / max(time.perf_counter() - started, 1e-9)
            at += size
            size = min(most, 2 * size) if now > rate else max(1, size // 2)
            rate = now


class Coordinator:
    """The server's side: sums in, layers out."""

    def __init__(self, network: Network, *, encoder: Encoder, ridge: float, seed: int) -> None:
        self.network = network
        self.encoder = encoder
        self.ridge = ridge
        self.seed = seed
        self.certificate: Certificate | None = None

    def bounds(self, known: Trained) -> PublicBounds:
        """The shape of a layer's statistics."""
        outputs = (
            known.outputs
            if known is self.network.trained[-1]
            else coded(self.encoder, known, self.network.classes)
        )
        return PublicBounds(known.inputs + 1, outputs, row_norm=1.0, rows=1)

    def plan(self, rows: int, clients: int) -> list[SumPlan]:
        """The sums of a session, for clients of at most `rows` samples.

        Raises `DataError` if so many samples could leave the range in which sums are exact.
        """
        plan = []
        for number, known in enumerate(self.network.trained):
            bound = float(rows * known.positions) * max(known.limit, 1.0) ** 2
            if clients * bound * 2.0 ** (2 * GRID_BITS) >= 2.0**53:
                raise DataError(
                    f"{clients} clients of up to {rows} rows with {known.positions} positions in layer {known.at} are "
                    "too many for exact sums: lower max_rows"
                )
            name = f"fedacnnl layer {number + 1} of {len(self.network.trained)}"
            plan.append(SumPlan(name, self.bounds(known).length, bound, fraction_bits=2 * GRID_BITS))
        return plan

    def layer(self, known: Trained, total: npt.NDArray[np.float64]) -> Weights:
        """The weights of a layer from the packed sum of its statistics, on the grid.

        Raises `SolveError` if the sum gives no guaranteed solution.
        """
        statistics = SufficientStatistics.unpack(total, self.bounds(known))
        if known is self.network.trained[-1]:
            solution = solve(statistics, ridge=self.ridge)
            self.certificate = solution.certificate
            return on_weight_grid(solution.weights, known.limit)
        return on_weight_grid(filters(self.encoder, known, statistics, self.ridge, self.seed), known.limit)


class FedACnnL(FederatedClassifier):
    """A deep network for several sites, trained in closed form; no site's statistics are seen by anybody else.

    Parameters
    ----------
    network : the layers; inputs lie in [−1, 1] and are read on a grid of 2⁻¹⁰.
    encoder : what hidden layers are trained towards, see `Encoder`.
    ridge : penalty relative to the mean diagonal entry of a layer's Gram matrix.
    classes : all labels there can be, agreed on; None is 0, 1, ….
    max_rows : public bound on the rows of one site.
    data_set : what the owners call these rows, see `FederatedRidge`.
    seed : public; fixes label codes and random filters.
    device : of the clients' computations, "cpu" or "cuda".
    aggregator : an `Aggregator`; None masks the sums under the default policy.

    Attributes
    ----------
    classes_; weights_ : one array a trained layer, first row the bias; rounds_ : the sums' `Aggregate`s;
    certificate_ : of the head, given its inputs. Sums are exact here: only float64 rounding is left in it.
    """

    def __init__(
        self,
        network: Network,
        *,
        encoder: str = "classwise",
        ridge: float = 3e-3,
        classes: Sequence[Any] | None = None,
        max_rows: int = 2**12,
        data_set: str = "data",
        seed: int = 0,
        device: str = "cpu",
        aggregator: Aggregator | None = None,
    ) -> None:
        self.network = network
        self.encoder = encoder
        self.ridge = ridge
        self.classes = classes
        self.max_rows = max_rows
        self.data_set = data_set
        self.seed = seed
        self.device = device
        self.aggregator = aggregator

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike, site: npt.ArrayLike) -> "FedACnnL":
        """Learn from X (rows, features), y (rows,) and the name of each row's site (rows,).

        Warns (`DropoutWarning`) if a layer's sum is without some sites. Raises `DataError` for rows that do
        not fit, `PolicyError` and `RoundAbortedError` from the aggregator, `SolveError` from a layer.
        """
        parsed = self._parse(X, y, site)
        rows = parsed.sites
        names, most = list(rows), parse_integer("max_rows", self.max_rows)
        if max(map(len, rows.values())) > most:
            raise DataError(f"a site has more than the {most} rows that were agreed on")
        learners = {
            name: self._learner(parsed.X[mine], parsed.places[mine], name) for name, mine in rows.items()
        }
        coordinator = self._coordinator()
        aggregator = self._ask()
        aggregator.open(names, coordinator.plan(most, len(names)))
        sums: list[Aggregate] = []
        layers: list[Weights] = []
        for number, known in enumerate(self.network.trained):
            contributions = {
                name: (learner.statistics(known).pack(), self.data_set) for name, learner in learners.items()
            }
            sums.append(aggregator.sum(number, contributions))
            layers.append(_grown(coordinator, known, sums[-1].total, learners.values()))
        warn_of_dropouts(names, sums)
        return self._learnt(parsed, layers, sums, coordinator)

    def fit_pooled(self, X: npt.ArrayLike, y: npt.ArrayLike) -> "FedACnnL":
        """The same network from rows that lie in one place, without any aggregator: the reference."""
        parsed = self._parse(X, y)
        learner, coordinator = self._learner(parsed.X, parsed.places, "the pooled data"), self._coordinator()
        layers = [
            _grown(coordinator, known, learner.statistics(known).pack(), [learner])
            for known in self.network.trained
        ]
        return self._learnt(parsed, layers, [], coordinator)

    def decision_function(self, X: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Scores (rows, classes)."""
        check_is_fitted(self)
        features = parse_features(X)
        learner = self._learner(features, np.zeros(len(features), dtype=np.int64), "the rows to predict")
        for known, weights in zip(self.network.trained, self.weights_, strict=True):
            learner.install(known, weights)
        return learner.scores

    def _parse(self, X: npt.ArrayLike, y: npt.ArrayLike, site: npt.ArrayLike | None = None) -> Rows:
        classes = range(self.network.classes) if self.classes is None else self.classes
        if len(classes) != self.network.classes:
            raise DataError(f"expected {self.network.classes} classes, got {len(classes)}")
        return parse_rows(X, y, classes, site)

    def _coordinator(self) -> Coordinator:
        ridge = parse_real("ridge", self.ridge)
        return Coordinator(self.network, encoder=Encoder(self.encoder), ridge=ridge, seed=self.seed)

    def _learner(self, X: npt.NDArray[np.float64], places: npt.NDArray[np.int64], who: str) -> Learner:
        seed = int(self.seed).to_bytes(SEED_BYTES, "big")
        encoder = Encoder(self.encoder)
        return Learner(self.network, X, places, encoder=encoder, seed=seed, who=who, device=self.device)

    def _learnt(
        self, parsed: Rows, layers: list[Weights], sums: list[Aggregate], coordinator: Coordinator
    ) -> "FedACnnL":
        assert coordinator.certificate is not None
        self.classes_ = parsed.classes
        self.weights_, self.rounds_ = layers, sums
        self.certificate_ = coordinator.certificate
        self.n_features_in_ = parsed.X.shape[1]
        return self


def _grown(
    coordinator: Coordinator, known: Trained, total: npt.NDArray[np.float64], learners: Iterable[Learner]
) -> Weights:
    """A layer's weights from a sum; the learners take it, unless it is the last, and go on to the next."""
    weights = coordinator.layer(known, total)
    if known is not coordinator.network.trained[-1]:
        for learner in learners:
            learner.install(known, weights)
    return weights
