"""What the features of one sum are worth: layers that nobody trains before one linear head, on images and on a table.

Networks are trained on pooled rows: under masks they are the same bit for bit (tests/models/networks/test_fedacnnl.py).
The ridge penalty of each is the best on held-out training rows.
"""

from collections.abc import Callable
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from secure_afl.analytic.solve import solve
from secure_afl.analytic.statistics import Matrix, SufficientStatistics
from secure_afl.cli.terminal import table
from secure_afl.crypto.workers import cpu_seconds
from secure_afl.models.networks.encoder import Encoder
from secure_afl.models.networks.encoders import seeded
from secure_afl.models.networks.fedacnnl import Learner
from secure_afl.models.networks.network import (
    AvgPool,
    Conv,
    Deskew,
    Flatten,
    Fourier,
    Layer,
    Network,
    ReLU,
    Sparse,
    Widen,
)
from secure_afl.simulations.benchmarks.masking import machine
from secure_afl.simulations.data.dataset import Dataset, load
from secure_afl.simulations.data.partition import split
from secure_afl.simulations.experiments.headline import spread
from secure_afl.simulations.experiments.one_core import one_core

TEST, HELD_OUT = 0.2, 0.2  # of all rows, and of the training rows
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)


class Problem(NamedTuple):
    """repeats: splits into training and test rows for each seed of the command. sizes: the best row of each size up to
    such a width is marked. rows: layers before the head."""

    title: str
    repeats: int
    sizes: tuple[int, ...]
    rows: dict[str, tuple[Layer, ...]]


def _conv(channels: int, pool: AvgPool) -> tuple[Layer, ...]:
    return (Conv(channels, 7, padding=1, contrast=True), ReLU(), pool)


PROBLEMS = {
    "mnist5k": Problem(
        "MNIST-5k, 4000 training and 1000 test rows",
        1,
        (600, 2400),
        {
            "deskew, conv 16, pool 4": (Deskew(), *_conv(16, AvgPool(4))),
            "deskew, conv 23, pool 8 every 4": (Deskew(), *_conv(23, AvgPool(8, 4))),
            "deskew, conv 36, pool 6": (Deskew(), *_conv(36, AvgPool(6))),
            "conv 16, pool 4": _conv(16, AvgPool(4)),
            "deskew, conv 92, pool 8 every 4": (Deskew(), *_conv(92, AvgPool(8, 4))),
            "deskew, conv 64, pool 4": (Deskew(), *_conv(64, AvgPool(4))),
            "deskew, conv 144, pool 6": (Deskew(), *_conv(144, AvgPool(6))),
            "deskew, conv 16, pool 4, 1,700 rectified features": (
                Deskew(),
                *_conv(16, AvgPool(4)),
                Flatten(),
                Widen(1700),
            ),
            "conv 64, pool 4": _conv(64, AvgPool(4)),
            "pixels": (),
            "pixels and 1,500 cosines, width 8": (Flatten(), Fourier(1500, 8.0)),
            "570 groups of 2 comparisons of pixels": (Flatten(), Sparse(570, 2, 1, 0.0, 1.0)),
        },
    ),
    "heart": Problem(
        "heart, four hospitals, 736 training and 184 test rows",
        8,
        (600,),
        {
            "columns (linear)": (),
            "and 100 rectified features": (Widen(100),),
            "and 300 rectified features": (Widen(300),),
            "and 200 cosines, width 2": (Fourier(200, 2.0),),
            "and 200 cosines, width 4": (Fourier(200, 4.0),),
            "and 200 cosines, width 8": (Fourier(200, 8.0),),
            "60 groups of 3 comparisons": (Sparse(60, 3, 2, -1.0, 1.0),),
        },
    ),
}


def steps(seeds: int) -> int:
    """How often `measure` calls `watch`."""
    return seeds * sum(len(problem.rows) for problem in PROBLEMS.values())


def measure(seeds: int, watch: Callable[[str], None]) -> dict[str, Any]:
    """Accuracy on held-out training rows and on test rows, a record for each data set, row and split."""
    one_core()
    records = []
    for name, problem in PROBLEMS.items():
        data = load(name)
        for seed in range(seeds):
            for row, layers in problem.rows.items():
                watch(f"{name}, {row}, seed {seed}")
                network = Network(data.shape, layers, len(data.classes))
                for repeat in range(problem.repeats):
                    number = seed * problem.repeats + repeat
                    records.append(
                        {"data": name, "row": row, "seed": number} | _fitted(data, network, number)
                    )
    return {"experiment": "features", "machine": machine(), "seeds": seeds, "records": records}


def _fitted(data: Dataset, network: Network, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    train, test = split(data.y, np.arange(len(data.y)), rng, TEST)
    fit, held_out = split(data.y, train, rng, HELD_OUT)
    started = cpu_seconds()
    rows = inputs(network, data.X, seed)
    seconds = (cpu_seconds() - started) * len(train) / len(rows)
    statistics = _statistics(network, rows[fit], data.y[fit])
    right, ridge = max(
        (_right(rows[held_out], data.y[held_out], statistics, ridge), ridge) for ridge in RIDGES
    )
    started = cpu_seconds()
    statistics = _statistics(network, rows[train], data.y[train])
    accuracy = _right(rows[test], data.y[test], statistics, ridge)
    return {
        "values": rows.shape[1],
        "ridge": ridge,
        "held_out": right,
        "test": accuracy,
        "seconds": seconds + cpu_seconds() - started,
    }


def inputs(network: Network, X: Matrix, seed: int) -> Matrix:
    """Inputs of the head with a column of ones, (rows, 1 + inputs), of a network whose layers nobody trains."""
    public = seed.to_bytes(32, "big")
    learner = Learner(network, X, np.zeros(len(X), np.int64), encoder=Encoder.SEEDED, seed=public)
    learner.install_all([seeded(known, public) for known in network.trained[:-1]])
    return learner.rows(network.trained[-1])


def _statistics(network: Network, rows: Matrix, labels: Any) -> SufficientStatistics:
    gram = rows.T @ rows  # exact: all summands lie on a grid
    return SufficientStatistics(gram, rows.T @ np.eye(network.classes)[labels], len(rows))


def _right(rows: Matrix, labels: Any, statistics: SufficientStatistics, ridge: float) -> float:
    scores = rows @ solve(statistics, ridge=ridge).weights
    return float((scores.argmax(axis=1) == labels).mean())


def tables(figures: dict[str, Any]) -> list[Table]:
    """A table for each data set; the best row up to each width on held-out rows marked."""
    return [_table(name, figures["records"]) for name in dict.fromkeys(r["data"] for r in figures["records"])]


def _table(name: str, records: list[dict[str, Any]]) -> Table:
    problem, mine = PROBLEMS[name], [record for record in records if record["data"] == name]
    of = {row: [r for r in mine if r["row"] == row] for row in dict.fromkeys(r["row"] for r in mine)}
    held_out = {row: fmean(r["held_out"] for r in found) for row, found in of.items()}
    best = {
        max(fitting, key=lambda row: held_out[row])
        for size in problem.sizes
        if (fitting := [row for row, found in of.items() if found[0]["values"] <= size])
    }
    splits = len({record["seed"] for record in mine})
    widths = " and ".join(f"{size:,}" for size in problem.sizes)
    shown = table(
        f"{problem.title}; {splits} splits; one sum; * best on held-out training rows up to {widths} values",
        ("features before the head", "values", "held-out %", "test %", "training s"),
    )
    for row, found in of.items():
        shown.add_row(
            row + (" *" if row in best else ""),
            f"{found[0]['values']:,}",
            spread([100 * r["held_out"] for r in found], 2),
            spread([100 * r["test"] for r in found], 2),
            f"{fmean(r['seconds'] for r in found):.1f}",
        )
    return shown
