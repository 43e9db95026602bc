"""Accuracy on held-out rows against ε: `python -m secure_afl.simulations.private_accuracy` prints the table of
docs/privacy.md. The sums are made of the integers that clients would mask; the seed draws splits, never noise."""

from collections.abc import Sequence

import numpy as np

from secure_afl.crypto.fixed_point import FixedPoint
from secure_afl.privacy import Privacy, bounded_rows, client_noise, regularise
from secure_afl.simulations.data import Dataset, Floats, load
from secure_afl.solve import solve
from secure_afl.statistics import PublicBounds, SufficientStatistics

EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
DELTA, RIDGE, SPLITS, MOST_ROWS = 1e-5, 1e-2, 5, 1000
_INTERCEPT = 0.3  # the column of ones, as small as other columns of a row of norm 1 are
_ROW_NORM = 1.05  # √(1 + 0.3²), rounded up

Client = tuple[Floats, Floats]


def rows(dataset: Dataset) -> Floats:
    """Rows of norm 1, each scaled by itself, and an intercept; images of 28 × 28 at half the size."""
    X = dataset.X
    if dataset.shape == (1, 28, 28):
        X = X.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(len(X), -1)
    X = X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-9)
    return np.column_stack([np.full(len(X), _INTERCEPT), X])


def accuracies(source: str, clients: int, lost: int, colluders: int) -> dict[str, list[float]]:
    """For no noise and for each ε the accuracy of each split. lost: how many clients may drop out; none does."""
    dataset = load(source)
    X, Y = rows(dataset), np.eye(len(dataset.classes))[dataset.y]
    bounds = PublicBounds(X.shape[1], Y.shape[1], _ROW_NORM, MOST_ROWS)
    noises = {
        epsilon: client_noise(
            Privacy(epsilon, DELTA),
            bounds,
            clients=clients,
            survivors=clients - lost,
            colluders=colluders,
            target_norm=1.0,
        )
        for epsilon in EPSILONS
    }
    found: dict[str, list[float]] = {name: [] for name in ("none", *(f"{epsilon:g}" for epsilon in EPSILONS))}
    for seed in range(SPLITS):
        rng = np.random.default_rng(seed)
        train = rng.random(len(X)) < 0.8
        holder = rng.integers(clients, size=len(X)) if dataset.site is None else _places(dataset.site)
        parts = [
            SufficientStatistics.from_rows(*bounded_rows(X[mine], Y[mine], bounds, 1.0)[:2], bounds).pack()
            for mine in (train & (holder == client) for client in range(clients))
        ]

        def score(weights: Floats, test: np.ndarray = ~train) -> float:
            return float(np.mean((X[test] @ weights).argmax(axis=1) == dataset.y[test]))

        pooled = SufficientStatistics.unpack(np.sum(parts, axis=0), bounds)
        found["none"].append(score(solve(pooled, ridge=RIDGE).weights))
        for epsilon, noise in noises.items():
            code = FixedPoint.fit(noise.padded(bounds.magnitude), clients, 32)
            words = sum((noise.add(part, bounds.magnitude, code) for part in parts), start=np.uint64(0))
            total = code.decode_sum(np.asarray(words), clients)
            fixed = regularise(total, bounds, noise, survivors=clients, ridge=RIDGE)
            found[f"{epsilon:g}"].append(score(solve(fixed.statistics, ridge=0.0).weights))
    return found


def _places(names: Sequence[str] | np.ndarray) -> np.ndarray:
    return np.unique(names, return_inverse=True)[1]


def main() -> None:
    """Print the table."""
    print(f"| data | clients | {' | '.join(['no noise', *(f'ε = {epsilon:g}' for epsilon in EPSILONS)])} |")
    print("|---" * (3 + len(EPSILONS)) + "|")
    for source, clients, lost, colluders in (("heart", 4, 0, 1), ("digits", 10, 2, 1), ("mnist5k", 10, 2, 1)):
        found = accuracies(source, clients, lost, colluders)
        cells = [f"{np.mean(one):.3f} ± {np.std(one):.3f}" for one in found.values()]
        print(f"| {source} | {clients} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
