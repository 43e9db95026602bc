"""What joining is worth to a hospital: its own model, the common one, and its personal version of that, on heart."""

from collections.abc import Callable
from statistics import fmean
from typing import Any

import numpy as np
from rich.table import Table

from secure_afl.cli.terminal import table
from secure_afl.protocol.session.backend import Backend
from secure_afl.simulations.benchmarks.masking import machine
from secure_afl.simulations.data.dataset import load
from secure_afl.simulations.data.partition import partition
from secure_afl.simulations.experiments.headline import difference, spread
from secure_afl.simulations.study.run import run
from secure_afl.simulations.study.settings import Settings

PARTITIONS = {"site": "the four hospitals", "iid": "the same rows dealt to four clients at random"}
MODELS = ("alone", "together", "personal")


def steps(seeds: int) -> int:
    """How often `measure` calls `watch`."""
    return seeds * len(PARTITIONS)


def measure(seeds: int, watch: Callable[[str], None]) -> dict[str, Any]:
    """A record for each partition, seed and model. A seed divides every client's rows into training and test rows."""
    data, records = load("heart"), []
    for spec in PARTITIONS:
        for seed in range(seeds):
            watch(f"{spec}, seed {seed}")
            # A sum in the clear is the masked sum, bit for bit.
            settings = Settings(backend=Backend.PLAIN, seed=seed)
            figures = run(data, partition(data, spec, 4, seed), settings, lambda phase: None).figures
            accuracy, tested = figures["accuracy"], figures["test_rows"]
            own = {
                "alone": accuracy["alone"],
                "together": accuracy["together_by_client"],
                "personal": accuracy["personal_by_client"],
            }
            everyone = {
                "alone": fmean(accuracy["alone_on_all"].values()),
                "together": accuracy["together"],
                "personal": fmean(accuracy["personal_on_all"].values()),
            }
            for model in MODELS:
                weights = [tested[name] for name in own[model]]
                mean = float(np.average(list(own[model].values()), weights=weights))
                records.append(
                    {"partition": spec, "seed": seed, "model": model, "own": mean, "by_client": own[model]}
                    | {"everyone": everyone[model]}
                )
    return {"experiment": "personal", "machine": machine(), "seeds": seeds, "records": records}


def tables(figures: dict[str, Any]) -> list[Table]:
    """A table for each partition, a row for each model."""
    return [_table(figures, spec) for spec in PARTITIONS]


def _table(figures: dict[str, Any], spec: str) -> Table:
    records = [one for one in figures["records"] if one["partition"] == spec]
    of = {model: [one for one in records if one["model"] == model] for model in MODELS}
    shown = table(
        f"heart, {PARTITIONS[spec]}, {figures['seeds']} seeds: accuracy % on held-out rows, mean ± SD over seeds; "
        "personal − model: on own rows, mean ± standard error of the paired differences",
        ("model", "own rows", "personal − model", "everyone's rows"),
    )
    for model, found in of.items():
        gains = [
            100 * (mine["own"] - other["own"]) for mine, other in zip(of["personal"], found, strict=True)
        ]
        shown.add_row(
            model,
            spread([100 * one["own"] for one in found], 2),
            "" if model == "personal" else difference(gains),
            spread([100 * one["everyone"] for one in found], 2),
        )
    return shown
