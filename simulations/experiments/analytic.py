"""FedACnnL and pFedACnnL with an account of what each party spends, in the words of the baselines' account."""

import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from secure_afl.aggregation import Aggregator, MaskedAggregator, PlainAggregator
from secure_afl.errors import DropoutWarning
from secure_afl.fedacnnl import Coordinator, Learner
from secure_afl.network import Network, Trained, Weights
from secure_afl.pfedacnnl import Personal, PFedACnnL
from secure_afl.protocol.masking.driver import Cohort
from secure_afl.protocol.parameters import Profile
from secure_afl.protocol.policy import Policy
from secure_afl.simulations.data import Dataset
from secure_afl.simulations.faults import Fault, FaultyNetwork, dropouts
from secure_afl.simulations.partition import Part
from secure_afl.simulations.run import Witness

_KEY_TRIPS, _SUM_TRIPS = (
    3,
    3,
)  # round trips of the active profile: advertise, share, confirm; upload, consent, unmask
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
    silent = dropouts(len(parts), dropout, seed)
    policy = Policy(
        backends=frozenset({backend}),
        dropout=max(dropout, Policy.dropout),
        trusts_reports=encoder != "seeded",  # every other encoder makes features of the server's weights
    )
    parts = sorted(parts, key=lambda part: part.client)
    masked = None
    aggregator: Aggregator
    if backend == "mask":
        wire = FaultyNetwork([Fault("drop", "collecting", silent)], seed)
        aggregator = masked = MaskedAggregator(policy, profile=Profile.ACTIVE, network=wire, watch=watch)
    else:
        aggregator = Witness(PlainAggregator(policy), frozenset(parts[place].client for place in silent))
    model = _Timed(
        network,
        encoder=encoder,
        ridge=ridge,
        classes=range(len(data.classes)),
        max_rows=2 ** max(12, max(len(part.train) for part in parts).bit_length()),
        seed=seed,
        aggregator=aggregator,
    )
    rows = np.concatenate([part.train for part in parts])
    site = np.repeat([part.client for part in parts], [len(part.train) for part in parts])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DropoutWarning)  # the survivors are in the outcome
        model.fit(data.X[rows], data.y[rows], site)
    tests = np.concatenate([part.test for part in parts])
    owner = np.repeat([part.client for part in parts], [len(part.test) for part in parts])
    return Outcome(
        accuracy=float((model.predict(data.X[tests]) == data.y[tests]).mean()),
        personal=float((model.predict(data.X[tests], owner) == data.y[tests]).mean()),
        survivors=len(model.rounds_[-1].survivors),
        account=_account(model, masked.cohort if masked else None),
    )


def _account(model: "_Timed", cohort: Cohort | None) -> Account:
    sums = len(model.rounds_)
    weights = _FLOAT64 * sum(layer.size for layer in model.weights_)
    if cohort is None:
        up, down, trips = _FLOAT64 * sum(len(one.total) for one in model.rounds_), 0, sums
        protocol = 0.0
    else:
        costs = cohort.costs.values()
        up = _of_median_client([cost.up for cost in costs])
        down = _of_median_client([cost.down for cost in costs])
        trips = _KEY_TRIPS + _SUM_TRIPS * sums
        protocol = sum(max(cost.client_seconds.values(), default=0.0) + cost.server_seconds for cost in costs)
    return Account(
        learning_seconds=_critical(model.learning),
        protocol_seconds=protocol,
        adapting_seconds=_critical(model.adapting),
        bytes_up=up,
        bytes_down=down + weights,
        round_trips=trips,
    )


def _critical(clock: Clock) -> float:
    return sum(max(parties.values()) for parties in clock.values())


def _of_median_client(by_phase: Sequence[dict[int, int]]) -> int:
    totals: dict[int, int] = defaultdict(int)
    for phase in by_phase:
        for client, amount in phase.items():
            totals[client] += amount
    return int(median(totals.values()))


class _Timed(PFedACnnL):
    """Notes how long every party takes for every step; changes nothing else."""

    learning: Clock
    adapting: Clock

    def fit(self, *rows: Any) -> "_Timed":
        self.learning, self.adapting = defaultdict(dict), defaultdict(dict)
        super().fit(*rows)
        self._noted = False
        return self

    _noted = True

    def _learner(self, X: Any, places: Any, who: str) -> Learner:
        if not self._noted:
            return super()._learner(X, places, who)
        started = time.perf_counter()
        plain = super()._learner(X, places, who)
        self.learning["start"][who] = time.perf_counter() - started
        return _TimedLearner.of(plain, self.learning, who)

    def _coordinator(self, *arguments: Any) -> Coordinator:
        return _TimedCoordinator.of(super()._coordinator(*arguments), self.learning)

    def _adapted(self, *arguments: Any) -> Personal:
        started = time.perf_counter()
        own = super()._adapted(*arguments)
        self.adapting["adapt"][str(len(self.adapting["adapt"]))] = time.perf_counter() - started
        return own


class _TimedLearner(Learner):
    @classmethod
    def of(cls, plain: Learner, clock: Clock, who: str) -> "_TimedLearner":
        learner = cls.__new__(cls)
        learner.__dict__.update(plain.__dict__)
        learner._clock, learner._who = clock, who
        return learner

    _clock: Clock
    _who: str

    def vector(self, known: Trained) -> Any:
        started = time.perf_counter()
        packed = super().vector(known)
        self._clock["vector", known.at][self._who] = time.perf_counter() - started
        return packed

    def install(self, known: Trained, weights: Weights) -> None:
        started = time.perf_counter()
        super().install(known, weights)
        self._clock["install", known.at][self._who] = time.perf_counter() - started


class _TimedCoordinator(Coordinator):
    @classmethod
    def of(cls, plain: Coordinator, clock: Clock) -> "_TimedCoordinator":
        coordinator = cls.__new__(cls)
        coordinator.__dict__.update(plain.__dict__)
        coordinator._clock = clock
        return coordinator

    _clock: Clock

    def layer(self, known: Trained, total: Any) -> Weights:
        started = time.perf_counter()
        weights = super().layer(known, total)
        self._clock["layer", known.at]["server"] = time.perf_counter() - started
        return weights

    def heads(self, total: Any) -> tuple[Weights, list[Weights]]:
        started = time.perf_counter()
        heads = super().heads(total)
        self._clock["heads"]["server"] = time.perf_counter() - started
        return heads
