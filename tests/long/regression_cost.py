"""What a logistic regression costs over a network, beside federated averaging of the same model.

    python tests/long/regression_cost.py

prints the table in docs/regression.md. Twenty clients of 500 rows each, 12 columns, coefficients and means that differ from
client to client. Bytes and round trips are those of a session in one process; the link model turns them into seconds.
Federated averaging (McMahan et al. 2017): five full gradient steps a client and round, sums as they are; with masks each of its
rounds would take four round trips, and keys.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
from scipy.special import expit

sys.path.insert(0, str(Path(__file__).parents[1]))

from secure_afl.models.glm import FederatedLogisticRegression
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Trust
from secure_afl.simulations.experiments.links import Link
from secure_afl.simulations.study.report import KEY_PHASES
from secure_afl.sums.aggregation import MaskedAggregator

Floats = npt.NDArray[np.float64]
CLIENTS, ROWS, COLUMNS, MOST = 20, 500, 12, 500
NEAR = 1e-3  # of the accuracy
LOCAL, RATE = 5, 1.0


@dataclass(frozen=True)
class Line:
    """One row of the table. seconds: of the link alone; accuracy: on fresh rows; off: largest error of a coefficient, in
    standard errors.
    """

    name: str
    trips: int
    sent: float
    received: float
    seconds: float
    accuracy: float
    off: float

    def __str__(self) -> str:
        sizes = f"{self.sent:,.0f} | {self.received:,.0f}"
        return f"| {self.name} | {self.trips} | {sizes} | {self.seconds:.2f} | {self.accuracy:.4f} | {self.off:.1g} |"


def rows(seed: int) -> tuple[Floats, Floats, Floats]:
    """X (rows, columns), y, and the number of each row's client."""
    draws = np.random.default_rng(seed)
    truth = np.random.default_rng(0).normal(size=COLUMNS) / np.sqrt(COLUMNS)
    X, y = [], []
    for _ in range(CLIENTS):
        own = draws.normal(size=(ROWS, COLUMNS)) + 0.5 * draws.normal(size=COLUMNS)
        slopes = truth + 0.3 * draws.normal(size=COLUMNS) / np.sqrt(COLUMNS)
        X.append(own.clip(-6, 6))
        y.append((draws.random(ROWS) < expit(own @ slopes - 0.3)).astype(float))
    return np.vstack(X), np.concatenate(y), np.repeat(np.arange(CLIENTS), ROWS)


def averaged(X: Floats, y: Floats, site: Floats, rounds: int) -> list[Floats]:
    """The coefficients after each round of federated averaging."""
    Z = np.column_stack([np.ones(len(X)), X])
    parts = [(Z[site == one], y[site == one]) for one in range(CLIENTS)]
    point, found = np.zeros(Z.shape[1]), []
    for _ in range(rounds):
        own = []
        for mine, labels in parts:
            local = point.copy()
            for _ in range(LOCAL):
                local += RATE * mine.T @ (labels - expit(mine @ local)) / len(mine)
            own.append(local)
        point = np.mean(own, axis=0)
        found.append(point)
    return found


def main() -> None:
    X, y, site = rows(1)
    fresh, truth, _ = rows(2)
    Z = np.column_stack([np.ones(len(fresh)), fresh])
    link, aggregator = Link(), MaskedAggregator(Policy(trusts_reports=Trust.VERIFIED))
    names = np.array([f"client {one:02}" for one in site])
    model = FederatedLogisticRegression(
        column_bounds=[6.0] * COLUMNS, classes=[0.0, 1.0], aggregator=aggregator
    )
    table = model.fit(X, y, names).inference()

    def accuracy(point: Floats) -> float:
        return float((((Z @ point) > 0) == truth).mean())

    def off(point: Floats) -> float:
        return float((abs(point - table.coef) / table.se).max())

    costs = aggregator.cohort.costs

    def bytes_of(keys: bool) -> tuple[float, float, int]:
        chosen = [cost for phase, cost in costs.items() if (phase in KEY_PHASES) == keys]
        up, down = (
            median(sum(getattr(cost, way).get(one, 0) for cost in chosen) for one in range(CLIENTS))
            for way in ("up", "down")
        )
        return up, down, 3 if keys else 4 * len(model.rounds_)

    print(f"| {link} | round trips | bytes up | bytes down | seconds | accuracy | error in SE |")
    print("|---|---|---|---|---|---|---|")
    total = [0.0, 0.0, 0]
    for name, keys in (("keys for all sums", True), (f"{len(model.rounds_)} sums", False)):
        up, down, trips = bytes_of(keys)
        print(f"| {name} | {trips} | {up:,.0f} | {down:,.0f} | {link.seconds(up, down, trips):.2f} | | |")
        total = [total[0] + up, total[1] + down, total[2] + trips]
    up, down, trips = total[0], total[1], int(total[2])
    print(
        Line(
            "logistic regression, masked",
            trips,
            up,
            down,
            link.seconds(up, down, trips),
            accuracy(table.coef),
            0,
        )
    )
    words, found, reached = 8.0 * (1 + COLUMNS), averaged(X, y, site, MOST), accuracy(table.coef)
    same = next((at for at, one in enumerate(found) if accuracy(one) >= reached - NEAR), MOST - 1) + 1
    for rounds in (same, MOST):
        sent = rounds * words
        seconds = link.seconds(sent, sent, rounds)
        print(
            Line(
                f"averaging, {rounds} rounds",
                rounds,
                sent,
                sent,
                seconds,
                accuracy(found[rounds - 1]),
                off(found[rounds - 1]),
            )
        )


if __name__ == "__main__":
    main()
