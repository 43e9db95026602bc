"""The attacked rows, and what an attacker knows without any upload: the format, and rows of other people."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from secure_afl.analytic.statistics import PublicBounds, symmetric
from secure_afl.errors import DataError
from secure_afl.models.ridge import FederatedRidgeClassifier
from secure_afl.protocol.session.parameters import SumPlan
from secure_afl.simulations.data.dataset import Dataset, Floats, Ints
from secure_afl.tables.codebook import LEAST_ROWS
from secure_afl.tables.disclosure import control_rows

CLIENTS = 4
_MOST_ROWS = 1000
_GRIDS = (16, 255)  # white in images of 4 and 8 bits
_CLOSE = 1e-6  # tolerance for a feature whose format has no grid, on a scale from -1 to 1


@dataclass(frozen=True, eq=False)
class Setting:
    """An attack's setting. data: the source of rows; seed: for drawing them, never a secret; repeats: number of trials."""

    data: Dataset
    seed: int
    repeats: int

    def draws(self, attack: int) -> np.random.Generator:
        """The generator for one attack's choices of data."""
        return np.random.default_rng([self.seed, attack])


@dataclass(frozen=True, eq=False)
class Known:
    """Public knowledge about rows.

    low, high: of every feature; grid: features are multiples of 1/grid, or None; other: rows of other people.
    """

    low: float
    high: float
    grid: int | None
    other: Floats

    @cached_property
    def guess(self) -> Floats:
        """The mean of other people's rows: the best guess without any upload."""
        return np.asarray(self.other.mean(axis=0))

    def plausible(self, rows: Floats) -> Floats:
        """Rows moved into the format."""
        within = np.clip(rows, self.low, self.high)
        return within if self.grid is None else np.rint(within * self.grid) / self.grid

    def exact(self, found: Floats, truth: Floats) -> bool:
        """Whether a row was read exactly; without a grid in the format, to within 1e-6 in each feature."""
        if self.grid is None:
            return bool(np.abs(found - truth).max() <= _CLOSE)
        return bool(np.array_equal(self.plausible(found), truth))


@dataclass(frozen=True, eq=False)
class Clients:
    """X, y: each client's rows and labels; known: what their attacker knows."""

    X: tuple[Floats, ...]
    y: tuple[Ints, ...]
    known: Known


def draw(data: Dataset, sizes: list[int], rng: np.random.Generator, per_label: bool = False) -> Clients:
    """Draw clients with disjoint rows of these sizes, of all labels, or with `per_label` of two labels each.

    Raises `DataError` if the data has too few rows to leave the attacker as many as a client has, and at least 60.
    """
    order = rng.permutation(len(data.y))
    held = []
    for at, size in enumerate(sizes):
        labels = {at % len(data.classes), (at + 1) % len(data.classes)}
        fits = np.isin(data.y[order], list(labels)) if per_label else np.ones(len(order), np.bool_)
        held.append(order[fits][:size])
        order = order[~np.isin(order, held[-1])]
    least = max(60, *sizes)
    if any(len(mine) < size for mine, size in zip(held, sizes, strict=True)) or len(order) < least:
        raise DataError(
            f"{data.name}: expected data for clients of {sizes} rows and {least} more, got {len(data.y)} rows"
        )
    return Clients(
        tuple(data.X[mine] for mine in held), tuple(data.y[mine] for mine in held), _known(data, order)
    )


def controlled(data: Dataset, clients: Clients) -> Clients:
    """The rows of tables as clients encode them under disclosure control."""
    layout = data.layout
    if not layout:
        return clients
    coded = [control_rows(X, layout, y, LEAST_ROWS) for X, y in zip(clients.X, clients.y, strict=True)]
    y = tuple(mine[found.kept] for mine, (_, found) in zip(clients.y, coded, strict=True))
    return Clients(tuple(X for X, _ in coded), y, clients.known)


def _known(data: Dataset, rows: Ints) -> Known:
    other = data.X[rows]
    if len(data.shape) < 3:
        return Known(-1.0, 1.0, None, other)
    levels = (grid for grid in _GRIDS if np.array_equal(np.rint(other * grid) / grid, other))
    return Known(0.0, 1.0, next(levels, None), other)


@dataclass(frozen=True, eq=False)
class Statistic:
    """Every client's statistic for a ridge classifier: Gram matrix, cross-covariance and count, with a column of ones.
    bounds, plan: as all parties agreed.
    """

    model: FederatedRidgeClassifier
    bounds: PublicBounds
    plan: SumPlan

    @classmethod
    def of(cls, data: Dataset) -> "Statistic":
        classes = range(len(data.classes))
        model = FederatedRidgeClassifier(data.row_norm, classes=list(classes), max_rows=_MOST_ROWS)
        bounds = model.bounds(len(data.features), len(classes))
        return cls(model, bounds, model.plan(len(data.features), CLIENTS)[0])

    def vectors(self, clients: Clients) -> list[Floats]:
        """Each client's packed vector."""
        return [
            self.model.vectors(X, y, f"client {at}")[0]
            for at, (X, y) in enumerate(zip(clients.X, clients.y, strict=True))
        ]

    def parts(self, vector: Floats) -> tuple[Floats, Floats, float]:
        """Gram (1 + d, 1 + d), cross-covariance (1 + d, c) and count of a vector, whether a statistic or noise."""
        size = self.bounds.features
        triangle = size * (size + 1) // 2
        cross = vector[triangle:-1].reshape(size, self.bounds.outputs)
        return symmetric(vector[:triangle], size), cross, float(vector[-1])
