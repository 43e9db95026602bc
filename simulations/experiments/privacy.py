"""What differential privacy costs: accuracy against ε, by whom the noise is trusted to.

Sums are made of the integers that clients would mask (`SumPlan.encode`): masks change no bit of them. The seed draws
splits and partitions, never noise.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.table import Table

from secure_afl.analytic.privacy import Privacy, client_noise, shortened
from secure_afl.analytic.solve import Solution
from secure_afl.cli.terminal import table
from secure_afl.crypto.noise import Noise
from secure_afl.models.networks.fedacnnl import FedACnnL
from secure_afl.models.ridge import FederatedRidgeClassifier
from secure_afl.protocol.session.parameters import SumPlan
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.transport.driver import Contribution
from secure_afl.simulations.benchmarks.masking import machine
from secure_afl.simulations.data.dataset import Dataset, load
from secure_afl.simulations.data.partition import default_spec, partition, stacked
from secure_afl.simulations.experiments.headline import spread
from secure_afl.simulations.study.networks import network_for
from secure_afl.sums.aggregation import Aggregate, Aggregator, Outcome, solved

EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
PROBLEMS = ("heart", "digits", "mnist5k", "mnist5k, network")
DELTA = 1e-5
_RIDGE, _MOST_ROWS = 1e-2, 2**12
_ROW_NORM = 1 + 2.0**-30


@dataclass(frozen=True)
class Trust:
    """Who adds noise so that (ε, δ) holds, and against whom. everybody: each client adds noise, or the server does once;
    alone: as if no other client added any.
    """

    title: str
    everybody: bool
    alone: bool


TRUST = {
    "central": Trust("trusted server", everybody=False, alone=True),
    "clients": Trust("clients together", everybody=True, alone=False),
    "local": Trust("each client alone", everybody=True, alone=True),
}


def steps(seeds: int) -> int:
    """How often `measure` calls `watch`."""
    return seeds * len(PROBLEMS)


def measure(
    seeds: int,
    watch: Callable[[str], None],
    epsilons: Sequence[float] = EPSILONS,
    delta: float = DELTA,
) -> dict[str, Any]:
    """Accuracy on test rows, a record for each data set, seed, kind of trust and ε; ε is None without noise.

    Raises `DataError` for an ε or δ that cannot be promised.
    """
    budgets = [Privacy(epsilon, delta) for epsilon in epsilons]
    records = []
    for source in PROBLEMS:
        name, _, network = source.partition(", ")
        data = outputs(load(name)) if network else short_rows(load(name))
        for seed in range(seeds):
            watch(f"{source}, seed {seed}")
            for record in _accuracies(data, seed, budgets):
                records.append({"data": source, "seed": seed} | record)
    return {
        "experiment": "privacy",
        "machine": machine(),
        "seeds": seeds,
        "delta": delta,
        "policy": {"dropout": Policy.dropout, "corrupted": Policy.corrupted},
        "records": records,
    }


def outputs(data: Dataset) -> Dataset:
    """What the head of a private network sees of the rows, from which `FedACnnL` learns it as `FederatedRidgeClassifier` does."""
    network = FedACnnL(network_for(data, private=True), privacy=Privacy(1.0, DELTA))
    X, _ = shortened(network.head_inputs(data.X), 1.0)
    names = tuple(f"output {i}" for i in range(X.shape[1]))
    return Dataset(data.name, X, data.y, data.site, data.classes, names, _ROW_NORM, data.note, (X.shape[1],))


def short_rows(data: Dataset) -> Dataset:
    """Rows of norm 1, each scaled by itself; images of 28 × 28 at half the size."""
    X, names = data.X, data.features
    if data.shape == (1, 28, 28):
        X = X.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(len(X), -1)
        names = tuple(f"pixel {i}" for i in range(X.shape[1]))
    X = X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-9)
    return Dataset(data.name, X, data.y, data.site, data.classes, names, _ROW_NORM, data.note, (X.shape[1],))


def _accuracies(data: Dataset, seed: int, budgets: Sequence[Privacy]) -> Iterator[dict[str, Any]]:
    parts = partition(data, default_spec(data), None, seed)
    rows, site = stacked({part.client: part.train for part in parts})
    test = np.concatenate([part.test for part in parts])

    def ridge(privacy: Privacy, aggregator: Aggregator | None = None) -> FederatedRidgeClassifier:
        return FederatedRidgeClassifier(
            1.0,
            ridge=_RIDGE,
            classes=range(len(data.classes)),
            max_rows=_MOST_ROWS,
            privacy=privacy,
            aggregator=aggregator,
        )

    def record(model: FederatedRidgeClassifier, trust: str | None, epsilon: float | None) -> dict[str, Any]:
        accuracy = model.score(data.X[test], data.y[test])
        return {"clients": len(parts), "trust": trust, "epsilon": epsilon, "accuracy": accuracy}

    bounds = ridge(budgets[0]).bounds(data.X.shape[1], len(data.classes))
    yield record(ridge(budgets[0]).fit_pooled(data.X[rows], data.y[rows]), None, None)
    for privacy in budgets:
        alone = client_noise(privacy, bounds, clients=1, survivors=1, colluders=0, target_norm=1.0)
        for name, trust in TRUST.items():
            sums = _Sums(trust, alone)
            fitted = ridge(privacy, sums).fit(data.X[rows], data.y[rows], site)
            yield record(fitted, name, privacy.epsilon)


class _Sums:
    """Sums of what clients would mask, with noise by who is trusted."""

    backend = "mask"

    def __init__(self, trust: Trust, alone: Noise) -> None:
        self.policy = Policy()
        self._trust = trust
        self._alone = alone

    def open(self, clients: Sequence[str], plan: Sequence[SumPlan]) -> None:
        (one,) = plan
        self._plan = replace(one, noise=self._alone) if self._trust.alone else one

    def sum(self, number: int, contributions: Mapping[str, Contribution]) -> Aggregate:
        plan, clients = self._plan, len(contributions)
        noisy = clients if self._trust.everybody else 1
        encoding = plan.spec(clients).encoding(clients)
        words = np.zeros(plan.length, np.uint64)
        for client, (vector, _) in enumerate(contributions.values()):
            words += (plan if client < noisy else replace(plan, noise=None)).encode(vector, encoding)
        return Aggregate(tuple(contributions), 0.0, plan.length, encoding.decode_sum(words, clients))

    def solve(self, number: int, contributions: Mapping[str, Contribution]) -> tuple[Solution, Outcome]:
        one = self.sum(number, contributions)
        noisy = len(contributions) if self._trust.everybody else 1
        assert self._plan.system is not None
        return solved(self._plan.system, one.total, 0.0, noisy, self._plan.noise), one


def tables(figures: dict[str, Any]) -> list[Table]:
    """A row for each data set and ε, a column for each kind of trust."""
    shown = table(
        f"accuracy on test rows, δ = {figures['delta']:g}, {figures['seeds']} seeds; noise of a fifth that may drop out, "
        "a tenth that may collude and one that is curious is not counted on",
        ("data", "clients", "ε", *(trust.title for trust in TRUST.values())),
    )
    for data in dict.fromkeys(one["data"] for one in figures["records"]):
        mine = [one for one in figures["records"] if one["data"] == data]
        clients, without = str(mine[0]["clients"]), [one["accuracy"] for one in mine if not one["trust"]]
        shown.add_section()
        shown.add_row(data, clients, "no noise", spread(without, 3), "", "")
        for epsilon in sorted({one["epsilon"] for one in mine if one["trust"]}):
            found = {
                name: [one["accuracy"] for one in mine if (one["trust"], one["epsilon"]) == (name, epsilon)]
                for name in TRUST
            }
            shown.add_row(data, clients, f"{epsilon:g}", *(spread(one, 3) for one in found.values()))
    return [shown]
