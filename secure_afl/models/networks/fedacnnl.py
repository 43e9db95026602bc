"""FedACnnL: a deep network trained layer by layer from secure sums, without gradients (arXiv 2502.06915).

A `Learner` holds one client's rows and returns statistics; a `Coordinator` turns each sum into a layer. Neither does I/O.
Every summand lies on a grid (`network`), so sums are exact, and the trained network is bit-equal however the rows are
spread over clients, chunks and devices.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt

from secure_afl.analytic.discriminants import discriminant_head
from secure_afl.analytic.privacy import Privacy
from secure_afl.analytic.solve import Certificate, Solution, solve
from secure_afl.analytic.statistics import PublicBounds, SufficientStatistics
from secure_afl.crypto.errors import optional
from secure_afl.errors import DataError
from secure_afl.models.estimator import (
    FederatedClassifier,
    Rows,
    feature_names,
    parse_features,
    parse_integer,
    parse_real,
    parse_rows,
)
from secure_afl.models.networks.encoder import Encoder
from secure_afl.models.networks.encoders import coded, codes, filters, seeded, summed
from secure_afl.models.networks.grid import Weights, check_on_grid, on_weight_grid, to_grid
from secure_afl.models.networks.network import (
    Network,
    Trained,
    apply_fixed,
    apply_trained,
    patches,
)
from secure_afl.models.personal_head import own_head
from secure_afl.models.ridge import FederatedRidgeClassifier
from secure_afl.protocol.session.errors import PolicyError
from secure_afl.protocol.session.parameters import RidgeSystem, SumPlan
from secure_afl.protocol.transport.driver import Contribution
from secure_afl.sums.aggregation import Aggregate, Aggregator, Outcome, warn_of_dropouts

with optional():
    import torch
    from torch import Tensor

SEED_BYTES = 32
HEADS = ("ridge", "discriminants")
CHUNK_BYTES = 128 * 2**20
_ROUNDING = 1e-6  # of a layer's largest weight, by which two machines' solutions may differ
Tell = Callable[[Sequence[Weights], Sequence[str]], None]
"""Announces the hidden layers trained so far to the clients whose vectors are in their sums."""


class Learner:
    """One client's side: takes rows, returns statistics of the next layer.

    chunk_bytes: memory for one chunk of patches. It affects only the speed: every product and every sum is exact.
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
        if X.shape != (len(y), prod(network.input_shape)) or not len(y):
            expected = (len(y) or "1 or more", prod(network.input_shape))
            raise DataError(f"{who}: expected X of shape {expected}, got {X.shape}")
        for wrong, fault in ((~np.isfinite(X), "is not finite"), (np.abs(X) > 1, "is outside [-1, 1]")):
            if wrong.any():
                raise DataError(f"{who}: X {fault} in row {int(np.argwhere(wrong)[0][0]) + 1}")
        self._network = network
        self._encoder = encoder
        self._seed = seed
        self._device = device
        self._chunk_bytes = chunk_bytes
        self._labels = torch.tensor(y, device=device)
        rows = to_grid(torch.tensor(X, dtype=torch.float64, device=device))
        # Grid values have at most 17 bits: float32 stores them exactly in half the memory.
        self._values = rows.reshape(len(y), *network.input_shape).to(torch.float32)
        self._forward(0, network.trained[0].at, network.trained[0])

    def statistics(self, known: Trained) -> SufficientStatistics:
        """Gram matrix and cross-covariance of the layer's inputs with a leading column of ones, exact float64."""
        wanted = self._targets(known)
        classes, inputs = self._network.classes, known.inputs
        gram = None
        # All rows of a label at a position have the same target: only their sum matters.
        sums = torch.zeros((classes, known.positions * inputs), dtype=torch.float64, device=self._device)
        for chunk in self._chunks(8 * known.positions * 2 * inputs):
            rows = patches(self._values[chunk], known.layer)
            product = _gram(rows)
            gram = product if gram is None else gram.add_(product)
            sums.index_add_(0, self._labels[chunk], rows.reshape(-1, known.positions * inputs))
        numbers = torch.bincount(self._labels, minlength=classes).to(torch.float64)
        count = len(self._labels) * known.positions
        sums = sums.reshape(classes * known.positions, inputs)
        whole = np.empty((inputs + 1, inputs + 1))
        whole[0, 0] = count
        whole[0, 1:] = whole[1:, 0] = sums.sum(dim=0).cpu().numpy()
        assert gram is not None  # a learner has rows
        whole[1:, 1:] = gram.cpu().numpy()
        whole.flags.writeable = False
        cross = sums.T @ wanted.reshape(classes * known.positions, -1)
        ones = numbers @ wanted.sum(dim=1)
        return SufficientStatistics(whole, torch.vstack([ones, cross]).cpu().numpy(), count)

    def vector(self, known: Trained) -> npt.NDArray[np.float64]:
        """The layer's statistics, packed for its sum."""
        return self.statistics(known).pack()

    def rows(self, known: Trained) -> npt.NDArray[np.float64]:
        """The layer's inputs with a leading column of ones: (samples·positions, 1 + inputs)."""
        found = patches(self._values, known.layer).cpu().numpy()
        return np.column_stack([np.ones(len(found)), found])

    def targets(self, known: Trained) -> npt.NDArray[np.float64]:
        """The targets of these rows: (samples·positions, outputs trained towards labels)."""
        wanted = self._targets(known)[self._labels].cpu().numpy()
        return np.asarray(wanted.reshape(len(self._labels) * known.positions, wanted.shape[2]))

    def install(self, known: Trained, weights: Weights) -> None:
        """Install a trained layer and compute the inputs of the next one."""
        on_device = torch.tensor(weights, device=self._device)
        stop = min((later.at for later in self._network.trained if later.at > known.at), default=known.at + 1)
        self._forward(known.at, stop, known, on_device)

    def install_all(self, layers: Sequence[Weights]) -> None:
        """Install the first trained layers."""
        for known, weights in zip(self._network.trained, layers, strict=False):
            self.install(known, weights)

    def _forward(self, start: int, stop: int, known: Trained, weights: Tensor | None = None) -> None:
        """Apply the layers from `start` to `stop`, of which at most `known` has weights."""
        after = []
        for chunk in self._chunks(8 * known.positions * 2 * (known.inputs + known.outputs)):
            values = self._values[chunk].to(torch.float64)
            for at in range(start, stop):
                if at == known.at:
                    assert weights is not None
                    values = apply_trained(values, known, weights)
                else:
                    values = apply_fixed(values, self._network.steps[at])
            # Scores stay float64; grid values fit into float32.
            after.append(values if stop == len(self._network.steps) else values.to(torch.float32))
        self._values = torch.cat(after)

    @property
    def scores(self) -> npt.NDArray[np.float64]:
        """The outputs of the last installed layer, (rows, outputs)."""
        scores: npt.NDArray[np.float64] = self._values.cpu().numpy()
        return scores

    def _targets(self, known: Trained) -> Tensor:
        """The targets, (classes, positions, outputs trained towards labels)."""
        classes = self._network.classes
        if known is self._network.trained[-1]:
            return torch.eye(classes, dtype=torch.float64, device=self._device)[:, None, :]
        return torch.tensor(codes(self._encoder, known, classes, self._seed), device=self._device)

    def _chunks(self, bytes_per_sample: int) -> Iterator[slice]:
        """Slices of the rows that fit the memory and are as large as is useful."""
        most = max(1, self._chunk_bytes // max(1, bytes_per_sample))
        size, rate, at = min(most, 64), 0.0, 0
        while at < len(self._labels):
            started = time.perf_counter()
            yield slice(at, at + size)
            now = min(size, len(self._labels) - at) / max(time.perf_counter() - started, 1e-9)
            at += size
            size = min(most, 2 * size) if now > rate else max(1, size // 2)
            rate = now


def _gram(rows: Tensor) -> Tensor:
    if rows.device.type == "cpu":
        own = rows.numpy()
        return torch.from_numpy(own.T @ own)  # NumPy computes only one triangle, torch would compute both
    return rows.T @ rows


def _centred(inputs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Subtract the row's mean. Outputs of a ReLU are all positive; without their mean, more of a row's norm is
    informative."""
    inputs = np.ascontiguousarray(inputs)
    return np.asarray(inputs - inputs.mean(axis=1, keepdims=True))


@dataclass(kw_only=True, eq=False)
class Coordinator:
    """The server's side: takes sums, returns layers.

    groups: number of heads; each has its own slot in the last sum. survivors: fewest clients of that sum, so that no
    group is left with too few. kind: of the head, one of `HEADS`. scales: the scaled codes of a hidden layer's trained outputs, by its index; see `filters`.
    """

    network: Network = field(kw_only=False)
    encoder: Encoder
    ridge: float
    seed: int
    groups: int = 1
    survivors: int = 0
    kind: str = HEADS[0]
    certificate: Certificate | None = field(default=None, init=False)
    bound: float = field(default=0.0, init=False)
    scales: dict[int, npt.NDArray[np.float64]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.summed = summed(self.encoder, self.network)

    def bounds(self, known: Trained) -> PublicBounds:
        """The public bounds of a layer's statistics."""
        head = known is self.network.trained[-1]
        outputs = known.outputs if head else coded(self.encoder, known, self.network.classes)
        return PublicBounds(known.inputs + 1, outputs, row_norm=1.0, rows=1)

    def plan(self, rows: int, clients: int) -> list[SumPlan]:
        """The sums of a session, for clients of at most `rows` samples.

        Raises `DataError` if that many samples could exceed the range of exact sums.
        """
        plan = []
        for number, known in enumerate(self.summed):
            bound = float(rows * known.positions) * max(known.limit, 1.0) ** 2
            if clients * bound * 2.0 ** (2 * known.bits) >= 2.0**53:
                raise DataError(
                    f"{clients} clients of up to {rows} rows with {known.positions} positions in layer {known.at} are "
                    "too many for exact sums: lower max_rows"
                )
            slots = self.groups if known is self.network.trained[-1] else 1
            plan.append(
                SumPlan(
                    f"fedacnnl sum {number + 1} of {len(self.summed)}",
                    slots * self.bounds(known).length,
                    bound,
                    fraction_bits=2 * known.bits,
                    survivors=self.survivors if slots > 1 else 0,
                    # Every layer's sum contains the counts of rows and labels; with slots there is also a count of groups.
                    same_survivors=len(self.summed) > 1 or slots > 1,
                    # Statistics of later layers are of features that the server's weights produce.
                    trusts_server=number > 0 or slots > 1,
                    exact=True,
                    # Discriminants need the sum itself; a ridge head may be released by key holders without it.
                    system=self._system()
                    if known is self.network.trained[-1] and slots == 1 and self.kind == HEADS[0]
                    else None,
                )
            )
        return plan

    def layer(self, known: Trained, total: npt.NDArray[np.float64], entry_error: float = 0.0) -> Weights:
        """A hidden layer's weights from the packed sum of its statistics, on the grid.

        Raises `SolveError` if the sum has no guaranteed solution.
        """
        statistics = SufficientStatistics.unpack(total, self.bounds(known), entry_error=entry_error)
        weights, self.scales[known.at] = filters(self.encoder, known, statistics, self.ridge, self.seed)
        return on_weight_grid(weights, known.limit)

    def head(self, solution: Solution) -> Weights:
        """The common head, on the grid. Raises `SolveError` as `discriminant_head` does."""
        limit = self.network.trained[-1].limit
        self.certificate, self.bound = solution.certificate, solution.certificate.bound
        if self.kind == HEADS[0]:
            return on_weight_grid(solution.weights, limit)
        found = discriminant_head(solution)
        self.bound, weights = found.bound, found.weights
        # A class without rows gets a score below all others, whatever the row.
        least = -(1 + max(limit, 1.0) * float(np.abs(weights).sum(axis=0).max()))
        absent = np.setdiff1d(np.arange(weights.shape[1]), found.present)
        weights[0, absent] = least
        return on_weight_grid(weights, limit)

    def heads(
        self, total: npt.NDArray[np.float64], entry_error: float = 0.0
    ) -> tuple[Weights, list[Weights]]:
        """The common head and the groups' heads, from the last sum.

        A group's head is regularised towards the common head W: W + (G_g + γI)⁻¹(C_g − G_g·W).
        Raises `SolveError` if a slot has no guaranteed solution.
        """
        known = self.network.trained[-1]
        slots = [
            SufficientStatistics.unpack(slot, self.bounds(known), entry_error=entry_error)
            for slot in total.reshape(self.groups, -1)
        ]
        everybody = sum(slots[1:], start=slots[0])
        common = self.head(solve(everybody, ridge=self.ridge, entry_error=self.groups * entry_error))
        used = [slot for slot in slots if slot.count]
        if len(used) == 1:
            return common, [common]
        groups = []
        for slot in used:
            rest = SufficientStatistics(slot.gram, slot.cross - slot.gram @ common, slot.count)
            own = common + solve(rest, ridge=self.ridge).weights  # its certificate is not used
            groups.append(on_weight_grid(own, known.limit))
        return common, groups

    def _system(self) -> RidgeSystem:
        bounds = self.bounds(self.network.trained[-1])
        return RidgeSystem(bounds.features, bounds.outputs, self.ridge)


class Training:
    """A network in training: its hidden layers, sum by sum, then its head.

    learners: of the clients in this process, by name, each ready for the next layer. layers: trained so far. outcomes: of
    the sums so far, numbered from `first`.
    """

    def __init__(
        self,
        aggregator: Aggregator,
        coordinator: Coordinator,
        learners: Mapping[str, Learner],
        data_set: str,
        layers: Sequence[Weights] = (),
        first: int = 0,
    ) -> None:
        self.layers = list(layers)
        self.outcomes: list[Outcome] = []
        self._aggregator = aggregator
        self._coordinator = coordinator
        self._learners = learners
        self._data_set = data_set
        self._first = first
        for learner in learners.values():
            learner.install_all(layers)

    @property
    def at_head(self) -> bool:
        """Whether all hidden layers are trained."""
        return self._next is self._coordinator.network.trained[-1]

    def contributions(self) -> dict[str, Contribution]:
        """The clients' contributions to the next sum."""
        return {name: (one.vector(self._next), self._data_set) for name, one in self._learners.items()}

    def sum(self, contributions: Mapping[str, Contribution]) -> Aggregate:
        """Make the next sum."""
        one = self._aggregator.sum(self._first + len(self.outcomes), contributions)
        self.outcomes.append(one)
        return one

    def next_layer(self) -> None:
        """Train the next hidden layer from its sum."""
        known, one = self._next, self.sum(self.contributions())
        self.layers.append(self._coordinator.layer(known, one.total, one.entry_error))
        for learner in self._learners.values():
            learner.install(known, self.layers[-1])

    def head(self) -> None:
        """Train the common head as the solution of the last sum."""
        if self._coordinator.kind != HEADS[0]:
            one = self.sum(self.contributions())
            self.layers.append(self._coordinator.heads(one.total, one.entry_error)[0])
            return
        number = self._first + len(self.outcomes)
        solution, outcome = self._aggregator.solve(number, self.contributions())
        self.outcomes.append(outcome)
        self.layers.append(self._coordinator.head(solution))

    @property
    def _next(self) -> Trained:
        return self._coordinator.network.trained[len(self.layers)]


@dataclass(eq=False, repr=False, kw_only=True)
class FedACnnL(FederatedClassifier):
    """A deep network for several sites, trained in closed form; no other party sees a site's statistics.

    Parameters
    ----------
    network : the layers; inputs lie in [−1, 1] and are rounded to a grid of 2⁻¹⁰.
    encoder : how hidden layers are trained, see `Encoder`. With "seeded", the default, one sum trains
        the network. The other encoders take one sum per layer. The features of later layers depend on the
        weights before, so under the active profile the policy must say `Trust.VERIFIED` (deployed clients compute these weights
        from sums that they verified) or, for encrypted sums, `Trust.ANY`; and all sums must have the same survivors.
    ridge : penalty relative to the mean diagonal entry of a layer's Gram matrix.
    classes : all possible labels, as agreed; None: 0, 1, ….
    max_rows : public bound on the rows of one site.
    data_set : the owners' name for these rows, see `FederatedRidgeClassifier`.
    seed : public; fixes label codes and random filters.
    device : for the clients' computations, "cpu" or "cuda".
    agreement : further agreed terms, see `FederatedRidgeClassifier`.
    privacy : (ε, δ) for every row, by noise that the clients add to the one sum of the encoder "seeded", as in
        `FederatedRidgeClassifier`; see docs/privacy.md. Each row of the head's inputs then has its mean subtracted and is
        shortened to norm 1, in training and in prediction; the certificate is for the noisy sum.
    head : "ridge", the default, or "discriminants": linear discriminants from the same sum, of which the ridge head is a
        part. They suit classes that clients share out unevenly; compare both on rows held out at the sites. Not with
        `privacy`, whose noise the counts of classes would need too.
    aggregator : an `Aggregator`; None: masked sums under the default policy.

    Attributes
    ----------
    classes_ : the labels. weights_ : one array per trained layer, first row the bias (with `privacy` the head's bias
    belongs to a column of 1/4 instead of ones). rounds_ : an `Outcome` per sum.
    certificate_ : of the head, given its inputs. Sums are exact here, so it contains only float64 rounding.
    head_bound_ : its bound for the head in use, of discriminants their own.
    """

    network: Network = field(kw_only=False)
    encoder: str = "seeded"
    ridge: float = 3e-3
    classes: Sequence[Any] | None = None
    max_rows: int = 2**12
    data_set: str = "data"
    seed: int = 0
    device: str = "cpu"
    privacy: Privacy | None = None
    agreement: str = ""
    head: str = HEADS[0]
    aggregator: Aggregator | None = None

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike, site: npt.ArrayLike) -> "FedACnnL":
        """Learn from X (rows, features), y (rows,) and the name of each row's site (rows,).

        Warns (`DropoutWarning`) if a layer's sum lacks sites. Raises `DataError` for rows that do not fit, `PolicyError`
        and `RoundAbortedError` from the aggregator, `SolveError` from a layer.
        """
        names = feature_names(X)
        if self.privacy:
            self._check()
            head = self._private_head(self._ask()).fit(self.head_inputs(parse_features(X)), y, site)
            return self._with_private_head(head)._with_names(names)
        parsed, learners = self._begin(X, y, site)
        self._train(list(learners), learners, parsed.classes)
        self._with_names(names)
        warn_of_dropouts(list(learners), self.rounds_)
        return self

    def _with_names(self, names: npt.NDArray[np.object_] | None) -> "FedACnnL":
        """The columns that it learned from, None where they have no names."""
        self.__dict__.pop("feature_names_in_", None)
        if names is not None:
            self.feature_names_in_ = names
        return self

    def fit_elsewhere(self, clients: Sequence[str], tell: Tell) -> "FedACnnL":
        """The server's side of `fit` with remote owners of the rows, which the aggregator reaches.

        It learns from what `vector` returns there. Warns and raises like `fit`.
        """
        self._check()
        if self.privacy:
            head = self._private_head(self._ask()).fit_elsewhere(clients, self.network.trained[-1].inputs)
            return self._with_private_head(head)._with_names(None)
        self._train(clients, {}, np.asarray(self._classes()), tell)
        self._with_names(None)
        warn_of_dropouts(clients, self.rounds_)
        return self

    def _train(
        self,
        clients: Sequence[str],
        learners: Mapping[str, Learner],
        classes: npt.NDArray[Any],
        tell: Tell = lambda layers, survivors: None,
    ) -> None:
        coordinator, aggregator = self._coordinator(), self._ask()
        aggregator.open(clients, self.plan(len(clients)))
        training = Training(aggregator, coordinator, learners, self.data_set, self._given())
        while not training.at_head:
            training.next_layer()
            tell(training.layers, training.outcomes[-1].survivors)
        training.head()
        self._learnt(classes, training.layers, training.outcomes, coordinator)

    def vector(
        self, X: npt.ArrayLike, y: npt.ArrayLike, who: str, layers: Sequence[Weights] = ()
    ) -> npt.NDArray[np.float64]:
        """One site's side of `fit`: its vector for the next sum. layers: those trained by the earlier sums.

        Raises `DataError`, which names `who`, for rows that do not fit, and for layers that no sum of this network
        follows.
        """
        features = parse_features(X)
        self._check()
        if self.privacy:
            (vector,) = self._private_head().vectors(self.head_inputs(features, who), y, who)
            return vector
        if Encoder(self.encoder) is Encoder.SEEDED:
            layers = self._seeded()
        elif len(layers) < len(self.network.trained):
            self.check_layers(layers)
        else:
            raise DataError(f"expected the weights of at most {len(self.network.trained) - 1} hidden layers")
        _, learners = self._begin(features, y, np.full(len(features), who))
        learner = learners[who]
        learner.install_all(layers)
        return learner.vector(self.network.trained[len(layers)])

    def streamed_vector(
        self, blocks: Iterable[tuple[npt.ArrayLike, npt.ArrayLike]], who: str, layers: Sequence[Weights] = ()
    ) -> npt.NDArray[np.float64]:
        """`vector` of rows that come in blocks (X, y), one at a time in memory: the same bits, as sums are exact.

        Raises like `vector`, whose numbers of rows count from the start of their block, and for more than `max_rows` rows in all.
        """
        if self.privacy:
            raise DataError("expected no privacy: a vector with noise is not a sum of those of blocks")
        total, rows, most = np.zeros(0), 0, parse_integer("max_rows", self.max_rows)
        for X, y in blocks:
            rows += len(np.asarray(y))
            if rows > most:
                raise DataError(f"{who}: at most {most} rows were agreed on, got more")
            part = self.vector(X, y, who, layers)
            total = np.add(total, part, out=total) if len(total) else part
        if not len(total):
            raise DataError(f"{who}: expected at least one row, got 0")
        return total

    def personal_head(
        self, X: npt.ArrayLike, y: npt.ArrayLike, who: str, layers: Sequence[Weights]
    ) -> Weights:
        """One site's own head, regularised towards the common head (the last of `layers`); see `personal_head`.

        It stays at the site. Raises `DataError`, also for layers, see `check_layers`.
        """
        self.check_layers(layers)
        head = self.network.trained[-1]
        if len(layers) != len(self.network.trained):
            raise DataError("expected the weights of this network, these have other shapes")
        features = parse_features(X)
        parsed, learners = self._begin(features, y, np.full(len(features), who))
        learner = learners[who]
        learner.install_all(layers[:-1])
        rows = learner.rows(head)
        if self.privacy:
            rows = self._private_head().rows(_centred(rows[:, 1:]))
        return own_head(rows, learner.targets(head), layers[-1], parsed.places).weights

    def check_layers(self, layers: Sequence[Weights]) -> None:
        """Raises `DataError` unless these are the first layers, or all layers, of such a network.

        Seeded layers must be those of the public seed. And the weights must be small enough that no row overflows:
        otherwise the failing sites would show the server what is in their rows.
        """
        self._check()
        trained = self.network.trained
        shapes = [(1 + known.inputs, known.outputs) for known in trained[: len(layers)]]
        if [weights.shape for weights in layers] != shapes:
            raise DataError("expected the weights of this network, these have other shapes")
        if Encoder(self.encoder) is Encoder.SEEDED and not all(map(np.array_equal, layers, self._seeded())):
            raise DataError("the hidden layers are not those that the public seed gives")
        for known, weights in zip(trained, layers, strict=False):
            check_on_grid(weights, known.limit, exact=known is not trained[-1] or not self.privacy)

    def follow(self, layers: Sequence[Weights], totals: Sequence[npt.NDArray[np.float64]]) -> list[Weights]:
        """The hidden layers that follow from the sums before them, as a client computes them for itself.

        layers: as the server announced them; totals: the sums that the client verified, one a layer. Raises `PolicyError` if a
        layer is another, but for rounding: grid points of two machines may differ where a weight lies between two.
        """
        coordinator, own = self._coordinator(), list[Weights]()
        for number, (weights, total) in enumerate(zip(layers, totals, strict=True), 1):
            mine = coordinator.layer(self.network.trained[len(own)], total)
            own.append(mine)
            limit = _ROUNDING * abs(mine).max()
            if mine.shape != weights.shape or not np.allclose(mine, weights, rtol=0, atol=limit):
                raise PolicyError(
                    f"expected the hidden layer {number} that follows from the sums that this party verified, the server "
                    "announced another: a layer of its choice could single out rows"
                )
        return own

    def plan(self, clients: int) -> list[SumPlan]:
        """The sums that server and clients agree on."""
        self._check()
        if self.privacy:
            return self._private_head().plan(self.network.trained[-1].inputs, clients)
        plan = self._coordinator().plan(parse_integer("max_rows", self.max_rows), clients)
        agreed = f", {self.agreement}" if self.agreement else ""
        return [replace(one, statistic=f"{one.statistic}{agreed}") for one in plan]

    def fit_pooled(self, X: npt.ArrayLike, y: npt.ArrayLike) -> "FedACnnL":
        """The same network from rows in one place, without aggregator and without noise: the reference."""
        self._check()
        if self.privacy:
            inputs = self.head_inputs(parse_features(X))
            head = self._private_head().fit_pooled(inputs, y)
            return self._with_private_head(head)._with_names(feature_names(X))
        parsed = self._parse(X, y)
        learner, coordinator = self._learner(parsed.X, parsed.places, "the pooled data"), self._coordinator()
        layers = self._given()
        learner.install_all(layers)
        for known in self.network.trained[len(layers) : -1]:
            layers.append(coordinator.layer(known, learner.vector(known)))
            learner.install(known, layers[-1])
        layers.append(coordinator.heads(learner.vector(self.network.trained[-1]))[0])
        return self._learnt(parsed.classes, layers, [], coordinator)._with_names(feature_names(X))

    def decision_function(self, X: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Scores (rows, classes). Raises `DataError` for other columns than those it was learned from."""
        return self._scores(self._features(X), self.weights_)

    def scores(self, X: npt.ArrayLike, layers: Sequence[Weights]) -> npt.NDArray[np.float64]:
        """`decision_function` with the weights of all layers, by an estimator that need not be fitted; the head may be a site's own.

        Raises `DataError`, also for layers, see `check_layers`.
        """
        self.check_layers(layers[:-1])
        head, number = self.network.trained[-1], len(self.network.trained)
        if len(layers) != number or layers[-1].shape != (1 + head.inputs, head.outputs):
            raise DataError(
                f"expected the weights of this network's {number} layers, these have other shapes"
            )
        return self._scores(parse_features(X), layers)

    def _scores(
        self, features: npt.NDArray[np.float64], layers: Sequence[Weights]
    ) -> npt.NDArray[np.float64]:
        if self.privacy:
            rows = self._private_head().rows(self.head_inputs(features))
            return np.asarray(rows @ layers[-1])
        learner = self._learner(features, np.zeros(len(features), dtype=np.int64), "the rows to predict")
        learner.install_all(layers)
        return learner.scores

    def _check(self) -> None:
        """Raises `DataError` for invalid parameters, before any row is read or sent."""
        if not isinstance(self.network, Network):
            raise DataError(f"expected a Network, got {type(self.network).__name__}")
        encoders = [encoder.value for encoder in Encoder]
        if self.encoder not in encoders:
            raise DataError(f"expected encoder as one of {', '.join(encoders)}, got {self.encoder!r}")
        self._check_privacy()
        if self.head not in HEADS:
            raise DataError(f"expected head as {' or '.join(HEADS)}, got {self.head!r}")
        if self.head != HEADS[0] and self.privacy:
            raise DataError("expected a ridge head with privacy, got discriminants")
        if self.privacy and self.encoder != Encoder.SEEDED.value:
            raise DataError(f"expected the encoder seeded, of one sum, with privacy, got {self.encoder!r}")
        if parse_real("ridge", self.ridge) < 0:
            raise DataError(f"expected ridge as a number of at least 0, got {self.ridge!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, Integral) or not 0 <= self.seed < 2**32:
            raise DataError(f"expected seed as a whole number from 0 to below 2**32, got {self.seed!r}")
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError, TypeError):  # whatever torch says of a device that is not there
            raise DataError(f"expected a device that torch has here, got {self.device!r}") from None

    def _parse(self, X: npt.ArrayLike, y: npt.ArrayLike, site: npt.ArrayLike | None = None) -> Rows:
        return parse_rows(X, y, self._classes(), site)

    def _classes(self) -> list[Any]:
        classes = range(self.network.classes) if self.classes is None else self.classes
        if not isinstance(classes, Collection):
            raise DataError(f"expected classes as a list of labels, got {type(classes).__name__}")
        if len(classes) != self.network.classes:
            raise DataError(f"expected {self.network.classes} classes, got {len(classes)}")
        return list(classes)

    def _begin(
        self, X: npt.ArrayLike, y: npt.ArrayLike, site: npt.ArrayLike
    ) -> tuple[Rows, dict[str, Learner]]:
        """Parsed rows, and every site's learner by its name."""
        self._check()
        parsed = self._parse(X, y, site)
        if not parsed.sites:
            raise DataError("expected at least one row, got 0")
        if max(map(len, parsed.sites.values())) > parse_integer("max_rows", self.max_rows):
            raise DataError(f"a site has more than the {self.max_rows} rows that were agreed on")
        return parsed, {
            name: self._learner(parsed.X[mine], parsed.places[mine], name)
            for name, mine in parsed.sites.items()
        }

    def _private_head(self, aggregator: Aggregator | None = None) -> FederatedRidgeClassifier:
        """Learns the head from the outputs of the seeded layers, which are public functions of a row."""
        return FederatedRidgeClassifier(
            1.0,
            ridge=self.ridge,
            classes=self._classes(),
            max_rows=self.max_rows,
            data_set=self.data_set,
            privacy=self.privacy,
            agreement=self.agreement,
            aggregator=aggregator,
        )

    def _with_private_head(self, head: FederatedRidgeClassifier) -> "FedACnnL":
        self.classes_, self.rounds_, self.certificate_ = head.classes_, head.rounds_, head.certificate_
        self.head_bound_ = head.certificate_.bound
        self.weights_, self.privacy_ = [*self._seeded(), head.weights_], self.privacy
        self.n_features_in_ = prod(self.network.input_shape)
        return self

    def _given(self) -> list[Weights]:
        """The hidden layers that need no sum."""
        return self._seeded() if Encoder(self.encoder) is Encoder.SEEDED else []

    def _seeded(self) -> list[Weights]:
        """The weights of the hidden layers that the public seed alone determines."""
        return [seeded(known, self._seed) for known in self.network.trained[:-1]]

    def head_inputs(
        self, features: npt.NDArray[np.float64], who: str = "the rows"
    ) -> npt.NDArray[np.float64]:
        """A private head's inputs, (rows, inputs). A row's inputs are bit-equal whatever rows are beside it, since all
        summands lie on a grid.
        """
        if features.shape == (0, prod(self.network.input_shape)):  # treated like one row: neither may show
            return np.zeros((0, self.network.trained[-1].inputs))
        learner = self._learner(features, np.zeros(len(features), dtype=np.int64), who)
        learner.install_all(self._seeded())
        return _centred(learner.rows(self.network.trained[-1])[:, 1:])

    def _coordinator(self, groups: int = 1, survivors: int = 0) -> Coordinator:
        return Coordinator(
            self.network,
            encoder=Encoder(self.encoder),
            ridge=parse_real("ridge", self.ridge),
            seed=self.seed,
            groups=groups,
            survivors=survivors,
            kind=self.head,
        )

    def _learner(self, X: npt.NDArray[np.float64], places: npt.NDArray[np.int64], who: str) -> Learner:
        encoder = Encoder(self.encoder)
        return Learner(self.network, X, places, encoder=encoder, seed=self._seed, who=who, device=self.device)

    @property
    def _seed(self) -> bytes:
        return int(self.seed).to_bytes(SEED_BYTES, "big")

    def _learnt(
        self,
        classes: npt.NDArray[Any],
        layers: list[Weights],
        outcomes: Sequence[Outcome],
        coordinator: Coordinator,
    ) -> "FedACnnL":
        assert coordinator.certificate is not None
        self.classes_ = classes
        self.weights_, self.rounds_, self.privacy_ = layers, list(outcomes), self.privacy
        self.certificate_, self.head_bound_ = coordinator.certificate, coordinator.bound
        self.n_features_in_ = prod(self.network.input_shape)
        return self
