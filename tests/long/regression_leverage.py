"""Which rows can be read from all sums of a logistic regression, over divisions of the heart data.

    python tests/long/regression_leverage.py

prints the table in docs/threat-model.md. A row is *readable* if its leverage is 1 in the columns by which opened sums
can weigh rows: the design, the design times the last weights, and the residuals at each point. Nobody needs to find the
combination.
"""

import argparse
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit

sys.path.insert(0, str(Path(__file__).parents[1]))

from worlds import hearts

from secure_afl.errors import SolveError
from secure_afl.models.glm import FederatedLogisticRegression, Wanted
from secure_afl.protocol.session.policy import Policy
from secure_afl.sums.aggregation import PlainAggregator

Floats = npt.NDArray[np.float64]
_READABLE = 1 - 1e-6


class Watched(FederatedLogisticRegression):
    """Notes the points at which gradients were wanted."""

    def wanted(self, agreed: Any, accepted: Any) -> Wanted:
        next_ = super().wanted(agreed, accepted)
        if next_.at is not None:
            self.points_ = [*getattr(self, "points_", []), next_.at.point]
        return next_


def leverages(columns: Floats) -> Floats:
    basis, sizes, _ = np.linalg.svd(columns / np.linalg.norm(columns, axis=0), full_matrices=False)
    return np.asarray((basis[:, sizes > 1e-9] ** 2).sum(axis=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    seeds, found, refused = parser.parse_args().seeds, [], 0
    for seed in range(seeds):
        X, y, site, norm = hearts.coded(0.75, seed)
        clear = PlainAggregator(Policy(backends=frozenset({"plain"})))
        model = Watched(norm, classes=[0, 1], categories=hearts.CATEGORIES, aggregator=clear).fit(X, y, site)
        try:
            model.inference()
        except SolveError:
            refused += 1
        start = model._fitted.start
        Z = np.column_stack([np.ones(len(X)), (X[:, list(start.used)] - start.mean) / start.deviation])
        points = np.unique(np.array(model.points_), axis=0, return_index=True)[1]
        means = [expit(Z @ model.points_[at]) for at in sorted(points)]
        residuals = np.column_stack([y - means[0], *(b - a for a, b in pairwise(means))])
        both = np.column_stack([Z, (means[-1] * (1 - means[-1]))[:, None] * Z])
        found.append([leverages(one).max() for one in (Z, both, np.column_stack([both, residuals]))])
    largest = np.array(found)
    print("| sums | divisions with a readable row | largest leverage | median of the largest |")
    print("|---|---|---|---|")
    for name, column in zip(("Gram", "both matrices", "all sums"), largest.T, strict=True):
        readable = int((column > _READABLE).sum())
        print(f"| {name} | {readable} of {seeds} | {column.max():.2f} | {np.median(column):.2f} |")
    print(f"\nNo standard errors, by the rule on columns: {refused} of {seeds}.")


if __name__ == "__main__":
    main()
