"""FedACnnL and pFedACnnL with an account of what each party spends, in the words of the baselines' account."""

import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secure_afl.analytic.solve import Solution
from secure_afl.crypto.workers import cpu_seconds
from secure_afl.errors import DropoutWarning
from secure_afl.models.networks.encoder import Encoder
from secure_afl.models.networks.encoders import summed
from secure_afl.models.networks.fedacnnl import Learner
from secure_afl.models.networks.grid import Weights
from secure_afl.models.networks.network import Network, Trained
from secure_afl.models.networks.pfedacnnl import Personal, PFedACnnL
from secure_afl.protocol.session.backend import Backend
from secure_afl.protocol.session.parameters import SumPlan
from secure_afl.protocol.session.profile import Trust
from secure_afl.protocol.transport.driver import Contribution
from secure_afl.simulations.baselines.harness import KEY_TRIPS, SUM_TRIPS
from secure_afl.simulations.data.dataset import Dataset
from secure_afl.simulations.data.partition import Part, stacked
from secure_afl.simulations.experiments.links import Link
from secure_afl.simulations.study.run import aggregator_for, of_median_client
from secure_afl.simulations.study.settings import Settings
from secure_afl.sums.aggregation import Aggregate, MaskedAggregator, PlainAggregator
from secure_afl.sums.aggregation import Outcome as SumOutcome
from secure_afl.sums.encrypted import EncryptedAggregator

_FLOAT64 = 8


@dataclass(frozen=True)
class Account:
    """What one training costs.

    Seconds are CPU seconds of the critical path: in each step the slowest client, and the server. Clients' work is
    timed; all other work of `fit` counts as the server's, so that nothing is left out. With one thread they are what a
    clock shows on an idle machine, and other programs do not add to them.

    learning_seconds: statistics, forward passes, solves, and sums in the clear; protocol_seconds: keys, encoding,
    masks, adding, unmasking; adapting_seconds: personal heads, of the slowest client; ahead_seconds: the part of
    learning_seconds that clients spend before the first sum; bytes_up, bytes_down: of the median client, weights included;
    round_trips: of keys and sums; key_trips: those of keys; phases: protocol_seconds by phase of the protocol, of its slowest
    client and of the server.
    """

    learning_seconds: float
    protocol_seconds: float
    adapting_seconds: float
    ahead_seconds: float
    bytes_up: int
    bytes_down: int
    round_trips: int
    key_trips: int
    phases: Mapping[str, tuple[float, float]]

    def network_seconds(self, link: Link) -> float:
        """What the network adds to the seconds of computing: clients compute while they wait for messages with keys, as
        nodes do (`secure_afl.node.ahead`).
        """
        waiting = link.seconds(0, 0, self.key_trips)
        return link.seconds(self.bytes_up, self.bytes_down, self.round_trips) - min(
            waiting, self.ahead_seconds
        )


@dataclass(frozen=True)
class Outcome:
    """accuracy: of the common network over all test rows; personal: of each client's own on its test rows, over
    all rows; survivors: of the last sum; weights: of the common network, the head last.
    """

    accuracy: float
    personal: float
    survivors: int
    account: Account
    weights: Sequence[Weights]


def train(
    data: Dataset,
    parts: Sequence[Part],
    network: Network,
    *,
    ridge: float,
    seed: int,
    encoder: str = "seeded",
    dropout: float = 0.0,
    backend: Backend = Backend.MASK,
    refine: bool = False,
    watch: Callable[[str], None] = lambda phase: None,
) -> Outcome:
    """Train under masks against an active server, or in the clear."""
    settings = Settings(
        backend=backend,
        dropout=dropout,
        seed=seed,
        # Later sums are of features that the server's weights make.
        trusts_reports=Trust.VERIFIED if len(summed(Encoder(encoder), network)) > 1 else Trust.NONE,
    )
    parts = sorted(parts, key=lambda part: part.client)
    inner = aggregator_for(settings, [part.client for part in parts], watch)
    assert not isinstance(inner, EncryptedAggregator), "the account knows no key holders"
    aggregator = _Metered(inner)
    model = _Timed(
        network,
        refine=refine,
        encoder=encoder,
        ridge=ridge,
        classes=range(len(data.classes)),
        max_rows=2 ** max(12, max(len(part.train) for part in parts).bit_length()),
        seed=seed,
        aggregator=aggregator,
    )
    rows, site = stacked({part.client: part.train for part in parts})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DropoutWarning)  # the survivors are in the outcome
        started = cpu_seconds()
        model.fit(data.X[rows], data.y[rows], site)
        elapsed = cpu_seconds() - started
    # Before predictions, which would be timed too.
    account = _account(model, aggregator, elapsed)
    tests, owner = stacked({part.client: part.test for part in parts})
    return Outcome(
        accuracy=float((model.predict(data.X[tests]) == data.y[tests]).mean()),
        personal=float((model.predict(data.X[tests], owner) == data.y[tests]).mean()),
        survivors=len(model.rounds_[-1].survivors),
        account=account,
        weights=model.weights_,
    )


def _account(model: "_Timed", aggregator: "_Metered", elapsed: float) -> Account:
    """elapsed: seconds of `fit`."""
    sums = len(model.rounds_)
    weights = _FLOAT64 * sum(layer.size for layer in model.weights_)
    if isinstance(aggregator.inner, MaskedAggregator):
        costs = aggregator.inner.cohort.costs.values()
        up = int(of_median_client([cost.up for cost in costs]))
        down = int(of_median_client([cost.down for cost in costs]))
        keys, trips = KEY_TRIPS, KEY_TRIPS + SUM_TRIPS * sums
    else:
        up, down, keys, trips = _FLOAT64 * sum(one.length for one in model.rounds_), 0, 0, sums
    learning, protocol = model.learning, aggregator.clients
    server = elapsed - learning.worked - protocol.worked - sum(model.adapting)
    return Account(
        learning_seconds=server - aggregator.server_seconds + learning.slowest,
        protocol_seconds=aggregator.server_seconds + protocol.slowest,
        adapting_seconds=max(model.adapting),
        ahead_seconds=learning.slowest_until("vector"),
        bytes_up=up,
        bytes_down=down + weights,
        round_trips=trips,
        key_trips=keys,
        phases=aggregator.phases,
    )


class _Clients:
    """Seconds of clients, who work one after another here. worked: of all; by step and client."""

    def __init__(self) -> None:
        self._steps: dict[object, dict[object, float]] = defaultdict(lambda: defaultdict(float))

    def add(self, step: object, client: object, seconds: float) -> None:
        self._steps[step][client] += seconds

    @property
    def worked(self) -> float:
        """What all clients worked together."""
        return sum(sum(clients.values()) for clients in self._steps.values())

    @property
    def slowest(self) -> float:
        """What the steps take when all clients work at the same time."""
        return sum(max(clients.values()) for clients in self._steps.values())

    def slowest_until(self, kind: str) -> float:
        """The same of the steps up to the first (`kind`, …)."""
        total = 0.0
        for step, clients in self._steps.items():
            total += max(clients.values())
            if isinstance(step, tuple) and step[0] == kind:
                break
        return total


class _Metered:
    """An aggregator that notes what its parties' protocol takes; changes nothing else.

    A session's costs are totals by phase. They are read after its keys and after each sum: the slowest client of a
    phase can be another one in every sum.
    """

    def __init__(self, inner: MaskedAggregator | PlainAggregator) -> None:
        self.inner, self.backend, self.policy = inner, inner.backend, inner.policy
        self.clients = _Clients()
        self.server_seconds = 0.0
        self.phases: dict[str, tuple[float, float]] = {}
        self._read: Mapping[object, Mapping[int, float]] = {}

    def open(self, clients: Sequence[str], plan: Sequence[SumPlan]) -> None:
        self.inner.open(clients, plan)
        self._note("keys")

    def sum(self, number: int, contributions: Mapping[str, Contribution]) -> Aggregate:
        result = self.inner.sum(number, contributions)
        self._note(number)
        return result

    def solve(self, number: int, contributions: Mapping[str, Contribution]) -> tuple[Solution, SumOutcome]:
        result = self.inner.solve(number, contributions)
        self._note(number)
        return result

    def _note(self, exchange: object) -> None:
        """What was spent since the last reading."""
        if not isinstance(self.inner, MaskedAggregator):
            return
        costs = self.inner.cohort.costs
        for phase, cost in costs.items():
            before = self._read.get(phase, {})
            spent = {one: seconds - before.get(one, 0.0) for one, seconds in cost.client_seconds.items()}
            for client, seconds in spent.items():
                self.clients.add((exchange, phase), client, seconds)
            slowest = self.phases.get(phase, (0.0, 0.0))[0] + max(spent.values(), default=0.0)
            self.phases[phase] = slowest, cost.server_seconds
        self._read = {phase: dict(cost.client_seconds) for phase, cost in costs.items()}
        self.server_seconds = sum(cost.server_seconds for cost in costs.values())


class _Timed(PFedACnnL):
    """Notes how long every client takes for every step of `fit`; changes nothing else."""

    def fit(self, *rows: Any) -> "_Timed":
        self.learning = _Clients()
        self.adapting: list[float] = []
        super().fit(*rows)
        return self

    def _learner(self, X: Any, places: Any, who: str) -> Any:
        started = cpu_seconds()
        learner = super()._learner(X, places, who)
        self.learning.add("start", who, cpu_seconds() - started)
        return _TimedLearner(learner, who, self.learning)

    def _adapted(self, *arguments: Any) -> Personal:
        started = cpu_seconds()
        own = super()._adapted(*arguments)
        self.adapting.append(cpu_seconds() - started)
        return own


class _TimedLearner:
    """A `Learner` whose steps on the way to a sum are timed."""

    def __init__(self, inner: Learner, who: str, clock: _Clients) -> None:
        self._inner = inner
        self._who = who
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def vector(self, known: Trained) -> Any:
        return self._timed(("vector", known.at), self._inner.vector, known)

    def install(self, known: Trained, weights: Any) -> Any:
        return self._timed(("install", known.at), self._inner.install, known, weights)

    def install_all(self, layers: Any) -> Any:
        return self._timed("install all", self._inner.install_all, layers)

    def _timed(self, step: object, work: Callable[..., Any], *arguments: Any) -> Any:
        started = cpu_seconds()
        result = work(*arguments)
        self._clock.add(step, self._who, cpu_seconds() - started)
        return result
