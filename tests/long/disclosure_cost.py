"""What disclosure control costs in accuracy, and which rows can still be read, over divisions of the heart data.

    python tests/long/disclosure_cost.py

prints the table in docs/disclosure.md. A row is *readable* if its leverage in all columns of the pooled rows, numbers
and classes included, is 1: nobody needs to find it.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from secure_afl.models.change import most_leverage
from secure_afl.models.ridge import FederatedRidgeClassifier
from secure_afl.simulations.data.dataset import load
from secure_afl.simulations.data.partition import partition
from secure_afl.simulations.study.control import coded
from secure_afl.tables import disclosure

RULES: tuple[tuple[str, int, Callable[[int], float]], ...] = (
    ("none", 1, most_leverage),
    ("levels of 5 rows, no bound", 5, lambda least_rows: 1.0),
    ("least_rows 3", 3, most_leverage),
    ("least_rows 5", 5, most_leverage),
    ("least_rows 10", 10, most_leverage),
    ("levels of 5 rows, bound 1/5", 5, lambda least_rows: 1.0 / least_rows),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    seeds, data = parser.parse_args().seeds, load("heart")
    accuracy = np.zeros((len(RULES), seeds))
    largest, merged, values = accuracy.copy(), accuracy.copy(), accuracy.copy()
    for seed in range(seeds):
        parts = partition(data, "site", None, seed)
        test = np.concatenate([part.test for part in parts])
        for at, (_, least_rows, bound) in enumerate(RULES):
            with patch.object(disclosure, "most_leverage", bound):
                control = coded(data, parts, 1, least_rows)
            rows = np.concatenate([part.train for part in control.parts])
            X, y = control.data.X[rows], data.y[rows]
            model = FederatedRidgeClassifier(data.row_norm, classes=range(2)).fit_pooled(X, y)
            accuracy[at, seed] = model.score(data.X[test], data.y[test])
            design = np.column_stack([np.ones(len(X)), X, y])
            # Of the distinct directions of the columns, so that dependent ones do no harm.
            left, sizes, _ = np.linalg.svd(design, full_matrices=False)
            largest[at, seed] = (left[:, sizes > 1e-9 * sizes[0]] ** 2).sum(axis=1).max()
            for one in (control.figures or {}).values():
                merged[at, seed] += one["levels_merged"]
                values[at, seed] += one["values_changed"]
    print(
        "| rule | sums with a readable row | largest leverage | levels merged | values changed | accuracy | difference |"
    )
    print("|---|---|---|---|---|---|---|")
    for at, (name, _, _) in enumerate(RULES):
        difference = accuracy[at] - accuracy[0]
        print(
            f"| {name} | {(largest[at] > 1 - 1e-9).sum()} of {seeds} | {largest[at].max():.3f} | {merged[at].mean():.1f} | "
            f"{values[at].mean():.0f} | {accuracy[at].mean():.4f} | "
            f"{difference.mean():+.4f} ± {difference.std() / np.sqrt(seeds):.4f} |"
        )


if __name__ == "__main__":
    main()
