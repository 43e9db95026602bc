"""Analytic rivals as published, and ours under masks: the same features, clients, split and machine.

AFL, SAFLe, DeepAFL and APFL run in the clear, as their papers have them, and again under masks. Our clients may put a
second stream beside the inputs of their own heads, too (`refine`). FedAvg, with and without masks, Ditto and training
alone learn one softmax layer on the same features. A frozen layer costs every client its forward pass, which is in every
method's compute time.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.table import Table

from secure_afl.cli.terminal import table
from secure_afl.crypto.workers import cpu_seconds
from secure_afl.models.networks.fedacnnl import FedACnnL
from secure_afl.models.networks.network import (
    AvgPool,
    Conv,
    Dense,
    Deskew,
    Flatten,
    Layer,
    Network,
    ReLU,
    Sparse,
)
from secure_afl.simulations.baselines.harness import ClientRows, Train
from secure_afl.simulations.baselines.masked import masked_fedavg
from secure_afl.simulations.baselines.methods import METHODS
from secure_afl.simulations.baselines.model import linear
from secure_afl.simulations.baselines.rivals import Deep, Refinement, Trained, afl, deepafl, refined
from secure_afl.simulations.baselines.settings import Settings
from secure_afl.simulations.benchmarks.masking import machine
from secure_afl.simulations.data.dataset import Dataset
from secure_afl.simulations.data.partition import Part
from secure_afl.simulations.experiments.analytic import Outcome, train
from secure_afl.simulations.experiments.features import inputs
from secure_afl.simulations.experiments.headline import Record, of_history, of_outcome, paired, spread
from secure_afl.simulations.experiments.links import Link
from secure_afl.simulations.experiments.one_core import one_core
from secure_afl.simulations.experiments.problems import PROBLEMS

PROBLEM = PROBLEMS["mnist-mlp"]
DEPTHS = (0, 5)  # classifiers of DeepAFL that are shown besides the last


class Rivalry(NamedTuple):
    """Features, and each method's settings on them.

    network: frozen layers and a head, with its ridge. codes: layers that make SAFLe's codes of its features, with their
    ridge. wider: more networks of ours, with their ridge. gradient: of FedAvg, Ditto and training alone on a softmax layer;
    None where `headline` has them.
    """

    network: Network
    ridge: float
    codes: tuple[Layer, ...]
    codes_ridge: float
    deep: Deep
    refinement: Refinement
    gradient: Settings | None
    wider: dict[str, tuple[Network, float]]


# Chosen on a quarter of every client's training rows, partitions of seeds 100 and 101, which are not in the table.
RIVALRIES = {
    "pixels": Rivalry(
        network=Network((784,), (), 10),
        ridge=0.3,
        codes=(Sparse(98, 4, 1, 0.0, 1.0),),
        codes_ridge=0.1,
        deep=Deep(256, 256, 10, 0.1, 0.05),
        refinement=Refinement(4000, 0.1, 1.0),
        gradient=None,
        # About as many bytes as 10 layers of DeepAFL in the clear.
        wider={"pixels, 1371 rectified": (Network((784,), (Dense(1371), ReLU()), 10), 1e-2)},
    ),
    "deskew 16": Rivalry(
        network=PROBLEM.networks["deskew 16"][0],
        ridge=3e-3,
        codes=(Flatten(), Sparse(288, 2, 1, 0.0, 1.0)),
        codes_ridge=0.1,
        deep=Deep(256, 256, 10, 1.0, 0.5),
        refinement=Refinement(4000, 1e-3, 1.0),
        gradient=Settings(30, rate=0.1, own_rate=0.3, pull=0.03),
        wider={
            "deskew 32": (
                Network(
                    (1, 28, 28), (Deskew(), Conv(32, 7, padding=1, contrast=True), ReLU(), AvgPool(4)), 10
                ),
                3e-3,
            )
        },
    ),
}
_SEEN = "each client's Gram matrix, label counts"
_MODELS = "each client's model in each round"
_GRADIENT: dict[str, tuple[Train, str]] = {
    "fedavg": (METHODS["fedavg"], _MODELS),
    "fedavg, masked": (masked_fedavg, ""),
    "ditto": (METHODS["ditto"], _MODELS),
    "local": (METHODS["local"], "nothing"),
}


def steps(seeds: int) -> int:
    """How often `measure` calls `watch`."""
    return seeds * sum(
        5 + len(rivalry.wider) + (len(_GRADIENT) if rivalry.gradient else 0) for rivalry in RIVALRIES.values()
    )


def measure(seeds: int, link: Link, watch: Callable[[str], None]) -> dict[str, Any]:
    """A record for each kind of features, method and seed; in the first seed also how far each is from the pooled fit."""
    one_core()
    records = [
        {"features": name, "seed": seed} | record
        for name, rivalry in RIVALRIES.items()
        for seed in range(seeds)
        for record in _of_seed(rivalry, name, seed, link, partial(_watched, watch, f"{name}, seed {seed}"))
    ]
    return {
        "experiment": "rivals",
        "machine": machine(),
        "link": asdict(link),
        "seeds": seeds,
        "records": records,
    }


def _watched(watch: Callable[[str], None], at: str, method: str) -> None:
    watch(f"{at}, {method}")


def _of_seed(
    rivalry: Rivalry, name: str, seed: int, link: Link, watch: Callable[[str], None]
) -> list[Record]:
    data, parts = PROBLEM.rows(seed)
    classes, network = len(data.classes), rivalry.network
    with_codes = replace(network, layers=(*network.layers, *rivalry.codes))
    clients, forward = featured(data, parts, network, seed)
    coded, forward_to_codes = featured(data, parts, with_codes, seed)
    records = []

    def add(record: Record, sees: str, gap: float | None = None, seconds: float = 0.0) -> None:
        """gap: from the fit to the pooled rows. seconds: of the frozen layers, where `record` leaves them out."""
        curve = [(at + seconds, accuracy) for at, accuracy in record["curve"]]
        compute = record["compute_seconds"] + seconds
        records.append(record | {"compute_seconds": compute, "curve": curve, "sees": sees, "gap": gap})

    if rivalry.gradient:
        softmax = linear(clients[0].X.shape[1], classes)
        for method, (fit, sees) in _GRADIENT.items():
            watch(method)
            history = fit(clients, softmax, rivalry.gradient, seed, lambda point: None)
            add(of_history(history, link), sees or f"{rivalry.gradient.rounds} sums", seconds=forward)

    watch("afl, safle and apfl")
    common = afl("afl", clients, classes, rivalry.ridge)
    add(of_history(common.history, link), _SEEN, _gap(seed, common, clients, rivalry.ridge), forward)
    own = refined(common.weights, clients, rivalry.refinement, seed)
    add(_personal(records[-1], "apfl", *own), _SEEN, records[-1]["gap"])
    sparse = afl("safle", coded, classes, rivalry.codes_ridge)
    add(
        of_history(sparse.history, link),
        _SEEN,
        _gap(seed, sparse, coded, rivalry.codes_ridge),
        forward_to_codes,
    )

    reference = None if seed else deepafl("pooled", pooled(clients), classes, rivalry.deep, seed)[-1]
    for masked in (False, True):
        title = "deepafl, masked" if masked else "deepafl"
        watch(title)
        depths = () if masked else DEPTHS
        deep = deepafl(title, clients, classes, rivalry.deep, seed, masked=masked, depths=depths)
        for one in deep:
            sums = one.history.points[-1].round
            sees = f"{sums} sums" if masked else f"{sums} Gram matrices a client, label counts"
            gap = _distance(one.weights, reference.weights) if reference and one is deep[-1] else None
            add(of_history(one.history, link), sees, gap, forward)

    ours = {
        "safle, masked": (with_codes, rivalry.codes_ridge),
        name: (network, rivalry.ridge),
    } | rivalry.wider
    for title, (layers, ridge) in ours.items():
        watch(title)
        outcome = train(data, parts, layers, ridge=ridge, seed=seed, refine=True)
        gap = None if seed else _from_pooled(outcome, data, parts, layers, ridge, seed)
        both = of_outcome(outcome, title, link)
        if title == "safle, masked":
            add(both[0] | {"method": title}, "1 sum", gap)
            continue
        for record in both:
            add(record, "1 sum", gap)
        if title == name:
            own = refined(outcome.weights[-1], clients, rivalry.refinement, seed)
            add(_personal(records[-2], "apfl, masked", *own), "1 sum", gap)
    return records


def featured(
    data: Dataset, parts: Sequence[Part], network: Network, seed: int
) -> tuple[list[ClientRows], float]:
    """Clients whose features are the inputs of the network's head, and the seconds of the slowest client for its rows."""
    clients, slowest = [], 0.0
    for part in parts:
        started = cpu_seconds()
        mine = inputs(network, data.X[part.train], seed)
        slowest = max(slowest, cpu_seconds() - started)
        X, X_test = (
            torch.from_numpy(rows[:, 1:]).float() for rows in (mine, inputs(network, data.X[part.test], seed))
        )
        y, y_test = (torch.from_numpy(data.y[rows]) for rows in (part.train, part.test))
        clients.append(ClientRows(part.client, X, y, X_test, y_test))
    return clients, slowest


def pooled(clients: Sequence[ClientRows]) -> list[ClientRows]:
    """All rows at one client."""
    columns = zip(*((one.X, one.y, one.X_test, one.y_test) for one in clients), strict=True)
    return [ClientRows("pooled", *(torch.cat(parts) for parts in columns))]


def _personal(common: Record, method: str, accuracy: float, seconds: float) -> Record:
    """What a client's own stream adds to a common model."""
    compute = common["compute_seconds"] + seconds
    curve = [(compute + common["network_seconds"], accuracy)]
    changed = {"method": method, "personal": True, "accuracy": accuracy}
    return common | changed | {"compute_seconds": compute, "curve": curve}


def _gap(seed: int, found: Trained, clients: Sequence[ClientRows], ridge: float) -> float | None:
    """Distance of AFL's weights from those of the same method on the pooled rows."""
    if seed:
        return None
    classes = found.weights.shape[1]
    return _distance(found.weights, afl("pooled", pooled(clients), classes, ridge).weights)


def _from_pooled(
    outcome: Outcome, data: Dataset, parts: Sequence[Part], network: Network, ridge: float, seed: int
) -> float:
    rows = np.concatenate([part.train for part in parts])
    model = FedACnnL(network, ridge=ridge, seed=seed, classes=range(len(data.classes)))
    reference = model.fit_pooled(data.X[rows], data.y[rows])
    return _distance(outcome.weights[-1], reference.weights_[-1])


def _distance(weights: Any, reference: Any) -> float:
    """Largest difference, relative to the largest weight; 0 if and only if they are equal bit for bit."""
    return float(np.abs(weights - reference).max() / np.abs(reference).max())


# ---- what is printed -----------------------------------------------------------------------------


def tables(figures: dict[str, Any]) -> list[Table]:
    """A table for each kind of features."""
    return [_table(name, figures) for name in dict.fromkeys(one["features"] for one in figures["records"])]


def _table(name: str, figures: dict[str, Any]) -> Table:
    records = [one for one in figures["records"] if one["features"] == name]
    shown = table(
        f"{PROBLEM.title.rsplit(',', 1)[0]}, features: {name}; {figures['seeds']} seeds; seconds of the critical path, "
        f"{Link(**figures['link'])}",
        (
            "method",
            "the server sees",
            "equal to pooled",
            "accuracy %",
            "ours − it",
            "compute s",
            "network s",
            "MB up",
        ),
    )
    shown.columns[0].no_wrap = True
    for personal in (False, True):
        mine = [one for one in records if one["personal"] == personal]
        of = {
            method: [one for one in mine if one["method"] == method]
            for method in dict.fromkeys(r["method"] for r in mine)
        }
        ours = [method for method in of if "fedacnnl" in method][-1]
        for method, found in of.items():
            shown.add_row(
                method,
                found[0]["sees"],
                _equal(found),
                spread([100 * one["accuracy"] for one in found], 2),
                "" if method == ours else paired(of[ours], found),
                f"{fmean(one['compute_seconds'] for one in found):.2f}",
                f"{fmean(one['network_seconds'] for one in found):.2f}",
                f"{fmean(one['bytes_up'] for one in found) / 1e6:.2f}",
            )
        shown.add_section()
    return shown


def _equal(found: Sequence[Record]) -> str:
    """Empty where it was not compared. An average of models is no fit to the pooled rows."""
    if found[0]["method"] in _GRADIENT:
        return "no"
    gap = next((one["gap"] for one in found if one["gap"] is not None), None)
    return "" if gap is None else "bit for bit" if gap == 0 else f"to {gap:.0e}"
