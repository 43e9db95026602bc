"""Accuracy against how differently clients' labels are distributed: MNIST-5k among ten clients by Dirichlet(A)."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rich.table import Table

from secure_afl.cli.terminal import table
from secure_afl.simulations.baselines import model as gradient
from secure_afl.simulations.baselines.harness import clients_of
from secure_afl.simulations.baselines.methods import METHODS
from secure_afl.simulations.baselines.settings import TUNED
from secure_afl.simulations.benchmarks.masking import machine
from secure_afl.simulations.data.dataset import load
from secure_afl.simulations.data.partition import partition
from secure_afl.simulations.experiments.analytic import train
from secure_afl.simulations.experiments.headline import Record, paired, spread
from secure_afl.simulations.experiments.one_core import one_core
from secure_afl.simulations.experiments.problems import PROBLEMS

CONCENTRATIONS = (0.05, 0.1, 0.5, 1.0, 10.0)
METHODS_SHOWN = ("fedavg", "fine-tuned", "local")
_OURS = {"fedavg": "fedacnnl", "fine-tuned": "pfedacnnl", "local": "pfedacnnl"}  # that each is compared with
_CLIENTS, _ROUNDS = 10, 30


def steps(seeds: int) -> int:
    """How often `measure` calls `watch`."""
    return seeds * len(CONCENTRATIONS) * (len(METHODS_SHOWN) + 1)


def measure(seeds: int, watch: Callable[[str], None]) -> dict[str, Any]:
    """A record for each concentration, method and seed."""
    one_core()
    data, records = load("mnist5k"), []
    network, encoder, ridge = PROBLEMS["mnist-cnn"].networks["conv 64"]
    for concentration in CONCENTRATIONS:
        for seed in range(seeds):
            parts = partition(data, f"dirichlet:{concentration:g}", _CLIENTS, seed)
            found = {}
            for method in METHODS_SHOWN:
                watch(f"Dirichlet {concentration:g}, {method}, seed {seed}")
                settings = replace(TUNED[method, "mnist-cnn"], rounds=_ROUNDS)
                history = METHODS[method](
                    clients_of(data, parts), gradient.cnn(28, 10), settings, seed, lambda point: None
                )
                found[method] = history.accuracy
            watch(f"Dirichlet {concentration:g}, fedacnnl, seed {seed}")
            outcome = train(data, parts, network, ridge=ridge, encoder=encoder, seed=seed)
            found |= {"fedacnnl": outcome.accuracy, "pfedacnnl": outcome.personal}
            records += [
                {"concentration": concentration, "seed": seed, "method": method, "accuracy": accuracy}
                for method, accuracy in found.items()
            ]
    return {
        "experiment": "heterogeneity",
        "machine": machine(),
        "seeds": seeds,
        "rounds": _ROUNDS,
        "records": records,
    }


def tables(figures: dict[str, Any]) -> list[Table]:
    """A row for each method, a column for each concentration; below, how much more accurate ours are, paired by seed."""
    of: dict[str, dict[float, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in figures["records"]:
        of[record["method"]][record["concentration"]].append(record)
    shown = table(
        f"MNIST-5k, {_CLIENTS} clients by Dirichlet(A), {figures['seeds']} seeds: accuracy %; gradient methods "
        f"train a CNN for {figures['rounds']} rounds; fine-tuned, local and pfedacnnl: each client's own model",
        ("method", *(f"A = {concentration:g}" for concentration in CONCENTRATIONS)),
    )
    for method, found in of.items():
        cells = [[100 * record["accuracy"] for record in found[c]] for c in CONCENTRATIONS]
        shown.add_row(method, *(spread(accuracies, 1) for accuracies in cells))
    shown.add_section()
    for method in METHODS_SHOWN:
        ours = _OURS[method]
        shown.add_row(f"{ours} − {method}", *(paired(of[ours][c], of[method][c]) for c in CONCENTRATIONS))
    return [shown]
