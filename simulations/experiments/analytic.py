"""FedACnnL and pFedACnnL with an account of what each party spends, in the words of the baselines' account."""

import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from secure_afl.aggregation import MaskedAggregator
from secure_afl.encoders import Encoder, summed
from secure_afl.errors import DropoutWarning
from secure_afl.fedacnnl import Coordinator, Learner
from secure_afl.network import Network, Trained
from secure_afl.pfedacnnl import Personal, PFedACnnL
from secure_afl.protocol.masking.driver import Cohort
from secure_afl.simulations.data import Dataset
from secure_afl.simulations.partition import Part, stacked
from secure_afl.simulations.run import Settings, aggregator_for, of_median_client

# Round trips of the active profile.
_KEY_TRIPS = 3  # advertise, share, confirm
_SUM_TRIPS = 3  # upload, consent, unmask
_FLOAT64 = 8
Clock = dict[object, dict[str, float]]
"""Seconds by step and party."""


@dataclass(frozen=True)
class Account:
    """What one training costs. Seconds are those of the critical path: of each step the slowest client, and the
    server. learning_seconds: statistics, forward passes, solves; protocol_seconds: keys, masks, adding, unmasking;
    adapting_seconds: of the slowest client; bytes of the median client, weights included.
    """

    learning_seconds: float
    protocol_seconds: float
    adapting_seconds: float
    bytes_up: int
    bytes_down: int
    round_trips: int


@dataclass(frozen=True)
class Outcome:
    """accuracy: of everybody's network over all test rows; personal: of each client's own on its test rows, over
    all rows; survivors: of the last sum.
    """

    accuracy: float
    personal: float
    survivors: int
    account: Account


def train(
    data: Dataset,
    parts: Sequence[Part],
    network: Network,
    *,
    ridge: float,
    seed: int,
    encoder: str = "seeded",
    dropout: float = 0.0,
    backend: str = "mask",
    watch: Callable[[str], None] = lambda phase: None,
) -> Outcome:
    """Train under masks against an active server, or in the clear."""
    settings = Settings(
        backend=backend,
        dropout=dropout,
        seed=seed,
        # Later sums are of features that the server's weights make.
        trusts_reports=len(summed(Encoder(encoder), network)) > 1,
    )
    parts = sorted(parts, key=lambda part: part.client)
    aggregator = aggregator_for(settings, [part.client for part in parts], watch)
    model = _Timed(
        network,
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
        model.fit(data.X[rows], data.y[rows], site)
    # Before predictions, which would be noted too.
    account = _account(model, aggregator.cohort if isinstance(aggregator, MaskedAggregator) else None)
    tests, owner = stacked({part.client: part.test for part in parts})
    return Outcome(
        accuracy=float((model.predict(data.X[tests]) == data.y[tests]).mean()),
        personal=float((model.predict(data.X[tests], owner) == data.y[tests]).mean()),
        survivors=len(model.rounds_[-1].survivors),
        account=account,
    )


def _account(model: "_Timed", cohort: Cohort | None) -> Account:
    sums = len(model.rounds_)
    weights = _FLOAT64 * sum(layer.size for layer in model.weights_)
    if cohort is None:
        up, down, trips = _FLOAT64 * sum(one.length for one in model.rounds_), 0, sums
        protocol = 0.0
    else:
        costs = cohort.costs.values()
        up = int(of_median_client([cost.up for cost in costs]))
        down = int(of_median_client([cost.down for cost in costs]))
        trips = _KEY_TRIPS + _SUM_TRIPS * sums
        protocol = sum(max(cost.client_seconds.values(), default=0.0) + cost.server_seconds for cost in costs)
    return Account(
        learning_seconds=sum(max(parties.values()) for parties in model.learning.values()),
        protocol_seconds=protocol,
        adapting_seconds=max(model.adapting),
        bytes_up=up,
        bytes_down=down + weights,
        round_trips=trips,
    )


class _Timed(PFedACnnL):
    """Notes how long every party takes for every step of `fit`; changes nothing else."""

    def fit(self, *rows: Any) -> "_Timed":
        self.learning: Clock = defaultdict(dict)
        self.adapting: list[float] = []
        super().fit(*rows)
        return self

    def _learner(self, X: Any, places: Any, who: str) -> Any:
        started = time.perf_counter()
        learner = super()._learner(X, places, who)
        self.learning["start"][who] = time.perf_counter() - started
        return _Party(learner, who, ("vector", "install"), self.learning)

    def _coordinator(self, *arguments: Any) -> Any:
        return _Party(super()._coordinator(*arguments), "server", ("layer", "heads"), self.learning)

    def _adapted(self, *arguments: Any) -> Personal:
        started = time.perf_counter()
        own = super()._adapted(*arguments)
        self.adapting.append(time.perf_counter() - started)
        return own


class _Party:
    """A `Learner` or `Coordinator` whose `steps` are timed."""

    def __init__(self, inner: Learner | Coordinator, who: str, steps: Sequence[str], clock: Clock) -> None:
        self._inner = inner
        self._who = who
        self._steps = steps
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if name not in self._steps:
            return value

        def timed(*arguments: Any) -> Any:
            layer = arguments[0].at if isinstance(arguments[0], Trained) else None
            started = time.perf_counter()
            result = value(*arguments)
            self._clock[name, layer][self._who] = time.perf_counter() - started
            return result

        return timed
