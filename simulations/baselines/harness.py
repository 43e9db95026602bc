"""Shared parts of the baselines: clients' rows, mini-batches, dropouts, averages, and cost accounting."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Concatenate, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from secure_afl.crypto.workers import cpu_seconds
from secure_afl.protocol.transport.driver import PhaseCost
from secure_afl.simulations.baselines.model import Model
from secure_afl.simulations.baselines.settings import Settings
from secure_afl.simulations.data.dataset import Dataset
from secure_afl.simulations.data.partition import Part

P = ParamSpec("P")
T = TypeVar("T")
COMMON, OWN, DIRECTIONS, ABSENCE = range(4)
"""The kinds of random draws: the last part of the key (seed, round, client, kind) of each draw."""
_FLOAT32 = 4  # bytes
_LAST = 5  # rounds
KEY_TRIPS = 3  # of the active profile: advertise, share, confirm
SUM_TRIPS = 3  # upload, consent, unmask


@dataclass(frozen=True, eq=False)
class ClientRows:
    """One client's rows. X, X_test: float32 (rows, features). y, y_test: int64 (rows,)."""

    name: str
    X: Tensor
    y: Tensor
    X_test: Tensor
    y_test: Tensor


@dataclass(frozen=True)
class Point:
    """The state after a round; costs are cumulative and exclude evaluation.

    compute_seconds: CPU seconds if clients compute in parallel: in each round the slowest survivor's work plus the
    server's. client_seconds: work of all clients together. bytes_up, bytes_down: of a client that takes part in every
    round, float32 parameters, or under masks the frames of the median client; the first model comes from the public seed and costs nothing. accuracy: over all clients'
    test rows; with a personal method each client uses its own model.
    """

    round: int
    compute_seconds: float
    client_seconds: float
    bytes_up: int
    bytes_down: int
    accuracy: float


@dataclass(frozen=True)
class History:
    """One training. personal: each client has its own model. trips, first_trips: round trips of a round, and before the
    first one."""

    method: str
    personal: bool
    points: tuple[Point, ...]
    trips: int = 1
    first_trips: int = 0

    @property
    def accuracy(self) -> float:
        """Final accuracy: the mean over the points of the last `_LAST` rounds."""
        end = self.points[-1].round
        return fmean(point.accuracy for point in self.points if point.round > end - _LAST)


Watch = Callable[[Point], None]
Train = Callable[[Sequence[ClientRows], Model, Settings, int, Watch], History]
"""Train a model on clients with settings and a seed; `watch` gets each point. The seed determines everything but the
times."""


def clients_of(data: Dataset, parts: Sequence[Part]) -> list[ClientRows]:
    """The rows of a data set, client by client."""
    X, y = torch.from_numpy(data.X).float(), torch.from_numpy(data.y)
    return [
        ClientRows(part.client, X[part.train], y[part.train], X[part.test], y[part.test]) for part in parts
    ]


def batches(
    client: ClientRows, size: int, count: int, key: tuple[int, ...]
) -> Iterator[tuple[Tensor, Tensor]]:
    """`count` mini-batches X (size, features), y (size,) from the rows in shuffled order.

    A client with fewer rows than `size` uses all of them in each batch. The key alone fixes the draw, whatever happened
    in earlier rounds.
    """
    rows = len(client.y)
    size = min(size, rows)
    rng = np.random.default_rng(key)
    epochs = -(-size * count // rows)
    order = np.concatenate([rng.permutation(rows) for _ in range(epochs)])[: size * count]
    chosen = torch.from_numpy(order)
    # One gather for all batches costs less than one per batch.
    return zip(torch.split(client.X[chosen], size), torch.split(client.y[chosen], size), strict=True)


def survivors(clients: int, dropout: float, seed: int, number: int) -> list[int]:
    """The participants of a round: all but round(dropout * clients) random clients, at least one."""
    rng = np.random.default_rng((seed, number, 0, ABSENCE))
    return sorted(rng.permutation(clients)[: max(1, clients - round(dropout * clients))].tolist())


def average(states: Sequence[Tensor], rows: Sequence[int]) -> Tensor:
    """Mean of models (size,), weighted by rows."""
    total = sum(rows)
    mean = states[0] * (rows[0] / total)
    for state, count in zip(states[1:], rows[1:], strict=True):
        mean.add_(state, alpha=count / total)
    return mean


def accuracy(model: Model, states: Sequence[Tensor], clients: Sequence[ClientRows]) -> float:
    """The fraction of correct predictions over all test rows, state k predicting client k's test rows."""
    right = sum(
        int((model.logits(w, client.X_test).argmax(1) == client.y_test).sum())
        for w, client in zip(states, clients, strict=True)
    )
    return right / sum(len(client.y_test) for client in clients)


class Account:
    """The costs of a training. Clients run one after another here, but the account assumes that they run in parallel."""

    def __init__(
        self, method: str, personal: bool, model: Model, clients: Sequence[ClientRows], watch: Watch
    ) -> None:
        self._method, self._personal, self._watch = method, personal, watch
        self._model, self._clients = model, clients
        self._compute = self._client = 0.0
        self._end = (0.0, 0.0)
        self._up = self._down = 0
        self._trips, self._first_trips = 1, 0
        self._read: dict[str, Mapping[int, float]] = {}
        self._server = 0.0
        self._points: list[Point] = []

    def at_clients(
        self,
        present: Sequence[int],
        work: Callable[Concatenate[int, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> list[T]:
        """Run work(k, ...) for each present client k; the slowest client counts."""
        results, seconds = _timed(present, work, *args, **kwargs)
        self._compute += max(seconds)
        self._client += sum(seconds)
        return results

    def at_server(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        started = cpu_seconds()
        result = work(*args, **kwargs)
        self._compute += cpu_seconds() - started
        return result

    def at_the_end(
        self, work: Callable[Concatenate[int, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> list[T]:
        """Run work(k, ...) once for every client k after the last round, whichever that is.

        So every point includes it once. The longest time so far is used, since clock jitter could otherwise make the
        total time decrease.
        """
        results, seconds = _timed(range(len(self._clients)), work, *args, **kwargs)
        self._end = (max(self._end[0], *seconds), max(self._end[1], sum(seconds)))
        return results

    def exchanged(self) -> None:
        """Count that a client sent one model and received one."""
        self.sent(_FLOAT32 * self._model.size, _FLOAT32 * self._model.size)

    def sent(self, up: int, down: int) -> None:
        """Count bytes that a client sent and received."""
        self._up += up
        self._down += down

    def sums(self, costs: Mapping[str, PhaseCost]) -> None:
        """Count what a session of masked sums has spent since the last call: the slowest client of each phase, the server.

        costs: of the session so far. Bytes are those of the median client.
        """
        self._trips, self._first_trips = SUM_TRIPS, KEY_TRIPS
        for phase, cost in costs.items():
            before = self._read.get(phase, {})
            spent = [seconds - before.get(client, 0.0) for client, seconds in cost.client_seconds.items()]
            self._compute += max(spent, default=0.0)
            self._client += sum(spent)
            self._read[phase] = dict(cost.client_seconds)
        server = sum(cost.server_seconds for cost in costs.values())
        self._compute += server - self._server
        self._server = server
        clients = range(len(self._clients))
        self._up, self._down = (
            int(median(sum(one.get(client, 0) for one in phases) for client in clients))
            for phases in ([cost.up for cost in costs.values()], [cost.down for cost in costs.values()])
        )

    def point(self, number: int, states: Sequence[Tensor]) -> None:
        """Record a point after a round, with each client's current model."""
        self.reached(number, accuracy(self._model, states, self._clients))

    def reached(self, number: int, accuracy: float) -> None:
        """Record a point after a round."""
        compute, client = self._compute + self._end[0], self._client + self._end[1]
        self._points.append(Point(number, compute, client, self._up, self._down, accuracy))
        self._watch(self._points[-1])

    def latest(self, method: str) -> History:
        """The last point alone, as a training of that name that ends there."""
        return replace(self.history(), method=method, points=(self._points[-1],))

    def history(self) -> History:
        return History(self._method, self._personal, tuple(self._points), self._trips, self._first_trips)


def _timed(
    numbers: Sequence[int], work: Callable[Concatenate[int, P], T], *args: P.args, **kwargs: P.kwargs
) -> tuple[list[T], list[float]]:
    results, seconds = [], []
    for k in numbers:
        started = cpu_seconds()
        results.append(work(k, *args, **kwargs))
        seconds.append(cpu_seconds() - started)
    return results, seconds
