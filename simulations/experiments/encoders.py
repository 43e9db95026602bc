"""What hidden layers should be trained towards: every encoder on MNIST-5k, chosen on held-out training rows.

Networks are trained on pooled rows: under masks they are the same bit for bit (tests/models/networks/test_fedacnnl.py).
"""

from collections.abc import Callable
from statistics import fmean
from typing import Any

import numpy as np
import torch
from rich.table import Table

from secure_afl.cli.terminal import table
from secure_afl.crypto.workers import cpu_seconds
from secure_afl.models.networks.encoder import Encoder
from secure_afl.models.networks.fedacnnl import FedACnnL
from secure_afl.models.networks.network import AvgPool, Conv, Flatten, Network, ReLU, Widen
from secure_afl.simulations.baselines import model as gradient
from secure_afl.simulations.baselines.harness import ClientRows
from secure_afl.simulations.baselines.methods import METHODS
from secure_afl.simulations.baselines.settings import TUNED
from secure_afl.simulations.benchmarks.masking import machine
from secure_afl.simulations.data.dataset import Dataset, load
from secure_afl.simulations.data.partition import split
from secure_afl.simulations.experiments.headline import spread
from secure_afl.simulations.experiments.one_core import one_core

TEST, VALIDATION = 0.2, 0.2  # of all rows, and of the training rows
_INPUT = (1, 28, 28)


def _conv(contrast: bool) -> tuple[Conv | ReLU | AvgPool, ...]:
    return (Conv(64, 7, padding=1, contrast=contrast), ReLU(), AvgPool(4))


_DEEP = (
    Conv(32, 5, contrast=True),
    ReLU(),
    AvgPool(2),
    Conv(128, 5, contrast=True),
    ReLU(),
    AvgPool(2),
)
ROWS: dict[str, tuple[Network, Encoder]] = {
    **{
        f"{encoder.value}{', contrast' if contrast else ''}": (
            Network(_INPUT, _conv(contrast), 10),
            encoder,
        )
        for contrast in (True, False)
        for encoder in Encoder
    },
    "classwise, contrast, and 1000 random features": (
        Network(_INPUT, (*_conv(True), Flatten(), Widen(1000)), 10),
        Encoder.CLASSWISE,
    ),
    "classwise, contrast, two layers (32, 128)": (Network(_INPUT, _DEEP, 10), Encoder.CLASSWISE),
    "no hidden layer (AFL)": (Network(_INPUT, (), 10), Encoder.NONE),
}
GRADIENT: dict[str, tuple[str, Callable[[], gradient.Model]]] = {
    "SGD, the same network": ("mnist-shallow", lambda: gradient.shallow_cnn(28, 10)),
    "SGD, LeNet": ("mnist-cnn", lambda: gradient.cnn(28, 10)),
}


def steps(seeds: int) -> int:
    """How often `measure` calls `watch`."""
    return seeds * (len(ROWS) + len(GRADIENT))


def measure(seeds: int, watch: Callable[[str], None]) -> dict[str, Any]:
    """Accuracy on held-out training rows and on test rows, a record for each row and seed."""
    one_core()
    data, records = load("mnist5k"), []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        train, test = split(data.y, np.arange(len(data.y)), rng, TEST)
        fit, held_out = split(data.y, train, rng, VALIDATION)
        for name, (network, encoder) in ROWS.items():
            watch(f"{name}, seed {seed}")
            model = FedACnnL(network, encoder=encoder.value, seed=seed)
            validation = model.fit_pooled(data.X[fit], data.y[fit]).score(data.X[held_out], data.y[held_out])
            started = cpu_seconds()
            model.fit_pooled(data.X[train], data.y[train])
            seconds = cpu_seconds() - started
            records.append(
                {
                    "row": name,
                    "seed": seed,
                    "validation": validation,
                    "test": model.score(data.X[test], data.y[test]),
                    "seconds": seconds,
                }
            )
        for name, (problem, build) in GRADIENT.items():
            watch(f"{name}, seed {seed}")
            record = {"row": name, "seed": seed, "validation": None}
            records.append(record | _by_gradient(data, train, test, problem, build(), seed))
    return {"experiment": "encoders", "machine": machine(), "seeds": seeds, "records": records}


def _by_gradient(
    data: Dataset, train: Any, test: Any, problem: str, model: gradient.Model, seed: int
) -> dict[str, float]:
    X, y = torch.from_numpy(data.X).float(), torch.from_numpy(data.y)
    rows = ClientRows("pooled", X[train], y[train], X[test], y[test])
    settings = TUNED["centralized", problem]
    history = METHODS["centralized"]([rows], model, settings, seed, lambda point: None)
    return {"test": history.accuracy, "seconds": history.points[-1].compute_seconds}


def tables(figures: dict[str, Any]) -> list[Table]:
    """A row for each encoder and network, the best on held-out rows marked."""
    records = figures["records"]
    rows = dict.fromkeys(record["row"] for record in records)
    mean = {
        row: fmean(r["validation"] for r in records if r["row"] == row) for row in rows if row not in GRADIENT
    }
    shown = table(
        f"MNIST-5k, 4000 training and 1000 test rows, {figures['seeds']} seeds; conv 7x7 with 64 channels, ReLU, "
        "average pool 4, unless the row says otherwise; * best on held-out training rows",
        ("targets of the hidden layer", "held-out %", "test %", "training s"),
    )
    for row in rows:
        mine = [r for r in records if r["row"] == row]
        validation = "" if row in GRADIENT else spread([100 * r["validation"] for r in mine], 2)
        shown.add_row(
            row + (" *" if mean.get(row) == max(mean.values()) else ""),
            validation,
            spread([100 * r["test"] for r in mine], 2),
            f"{fmean(r['seconds'] for r in mine):.1f}",
        )
    return [shown]
