"""Analytic rivals on the features of a frozen backbone: AFL, SAFLe's head, DeepAFL and APFL.

Written from their papers and, for AFL and DeepAFL, their public code. Three liberties, all in the rivals' favour: their
servers add what clients send in one pass instead of client by client, symmetric matrices are counted as triangles, and the
pooled system that AFL restores is solved with a ridge, as Grams of pixels are singular.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh, solve
from scipy.special import ndtr
from torch import Tensor

from secure_afl.analytic.statistics import Matrix, symmetric, upper
from secure_afl.protocol.session.backend import Backend
from secure_afl.protocol.session.parameters import SumPlan
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Trust
from secure_afl.simulations.baselines.harness import Account, ClientRows, History
from secure_afl.simulations.baselines.model import linear
from secure_afl.sums.aggregation import MaskedAggregator, PlainAggregator

_FLOAT64 = 8  # bytes
_FRACTION_BITS, _LARGEST = 24, 2.0**8
"""Of DeepAFL under masks: an entry of a client's sums is at most `_LARGEST` a row, or the encoding refuses it."""


@dataclass(frozen=True)
class Deep:
    """DeepAFL's settings. hidden: units of the representation; width: random features of a layer; ridge of the classifiers
    and of the sandwiched least squares, both absolute, as published."""

    hidden: int
    width: int
    layers: int
    ridge: float
    sandwich: float


@dataclass(frozen=True)
class Refinement:
    """APFL's settings of a client's own stream. width: random features; ridge: relative to their mean square; weight: of
    the stream in the scores."""

    width: int
    ridge: float
    weight: float


class Trained(NamedTuple):
    """weights: of the common classifier, (inputs, classes)."""

    weights: Matrix
    history: History


# ---- AFL (He et al., CVPR 2025), and SAFLe (Bacellar et al., CVPR 2026), which is AFL on sparse codes ---------------


def afl(name: str, clients: Sequence[ClientRows], classes: int, ridge: float, gamma: float = 1.0) -> Trained:
    """One upload a client: its own ridge solution W_k and C_k = X_kᵀX_k + γI. The server recovers the pooled solution.

    ridge: of the recovered solution, relative to the mean diagonal entry of the pooled Gram; γ is removed.
    """
    account = _account(name, clients, classes)
    uploads = account.at_clients(range(len(clients)), lambda k: own_solution(clients[k], classes, gamma))
    weights = account.at_server(recovered, uploads, gamma, ridge)
    d, c = weights.shape
    account.sent(_FLOAT64 * _length(d, c), _FLOAT64 * d * c)
    account.reached(1, _accuracy([_rows(client.X_test) for client in clients], weights, clients))
    return Trained(weights, account.history())


def own_solution(client: ClientRows, classes: int, gamma: float) -> tuple[Matrix, Matrix]:
    """(W_k, C_k), (inputs, classes) and (inputs, inputs)."""
    X = _rows(client.X)
    regularised = X.T @ X + gamma * np.eye(X.shape[1])
    return solve(regularised, X.T @ _targets(client, classes), assume_a="pos"), regularised


def recovered(uploads: Sequence[tuple[Matrix, Matrix]], gamma: float, ridge: float) -> Matrix:
    """The absolute aggregation law for all clients at once, (Σ C_k)⁻¹ Σ C_k W_k, with the clients' γ taken out again."""
    gram = np.sum([regularised for _, regularised in uploads], axis=0)
    cross = np.sum([regularised @ own for own, regularised in uploads], axis=0)
    gram[np.diag_indices_from(gram)] -= gamma * len(uploads)
    gram[np.diag_indices_from(gram)] += ridge * np.trace(gram) / len(gram)
    return np.asarray(solve(gram, cross, assume_a="pos"))


# ---- DeepAFL (Tang et al., ICLR 2026) --------------------------------------------------------------------------------


def deepafl(
    name: str,
    clients: Sequence[ClientRows],
    classes: int,
    settings: Deep,
    seed: int,
    *,
    masked: bool = False,
    depths: Sequence[int] = (),
) -> list[Trained]:
    """Residual layers Φ ← Φ + F·Δ on random features F of Φ, each Δ and each classifier by least squares on sums.

    2·layers + 1 sums. A layer's Δ minimises ‖R − F·Δ·W‖², R being what the classifier W leaves of the labels. In the clear
    the server adds statistics that it sees. masked: the sums are masked and verified, and every client solves them.
    depths: classifiers to return, by the layers below them; the last one always is.
    """
    draws = np.random.default_rng(seed)
    first = _affine(draws, clients[0].X.shape[1], settings.hidden)
    random = [_affine(draws, settings.hidden, settings.width) for _ in range(settings.layers)]
    account = _account(name, clients, classes)
    everyone, sums = range(len(clients)), 2 * settings.layers + 1
    sizes = (settings.hidden, settings.width)
    most = max(len(client.y) for client in clients)
    plan = [
        SumPlan(
            f"deepafl sum {number + 1} of {sums}",
            _length(sizes[number % 2], classes),
            most * _LARGEST,
            fraction_bits=_FRACTION_BITS,
            same_survivors=True,
            trusts_server=number > 0,
        )
        for number in range(sums)
    ]
    policy = Policy(trusts_reports=Trust.VERIFIED) if masked else Policy(backends=frozenset({Backend.PLAIN}))
    aggregator = MaskedAggregator(policy) if masked else PlainAggregator(policy)
    aggregator.open([client.name for client in clients], plan)

    def summed(number: int, inputs: Sequence[Matrix], outputs: Sequence[Matrix]) -> tuple[Matrix, Matrix]:
        """The sums of inputsᵀinputs and inputsᵀoutputs. (The public code sends W·RᵀF, from which RᵀF follows.)"""
        vectors = account.at_clients(everyone, lambda k: _packed(inputs[k], outputs[k]))
        given = {client.name: (one, "rows") for client, one in zip(clients, vectors, strict=True)}
        if isinstance(aggregator, MaskedAggregator):
            total = aggregator.sum(number, given).total
            account.sums(aggregator.cohort.costs)
        else:
            total = account.at_server(aggregator.sum, number, given).total
            answer = (classes, settings.hidden)[number % 2] * sizes[number % 2]
            account.sent(_FLOAT64 * len(total), _FLOAT64 * answer)
        size = sizes[number % 2]
        return symmetric(total[: -size * classes], size), total[-size * classes :].reshape(size, classes)

    def solved(work: Callable[..., Matrix], *arguments: Matrix | float) -> Matrix:
        """At the server, or at every client from the opened sum: here once for all of them."""
        if masked:
            return account.at_clients([0], lambda _: work(*arguments))[0]
        return account.at_server(work, *arguments)

    Y = [_targets(client, classes) for client in clients]
    phi = account.at_clients(everyone, lambda k: np.tanh(first(_features(clients[k].X))))
    tests = [np.tanh(first(_features(client.X_test))) for client in clients]
    found = []
    for layer in range(settings.layers + 1):
        weights = solved(_classifier, *summed(2 * layer, phi, Y), settings.ridge)
        if layer in {*depths, settings.layers}:
            account.reached(2 * layer + 1, _accuracy(tests, weights, clients))
            found.append(Trained(weights, account.latest(f"{name}, {layer} layers")))
        if layer < settings.layers:
            work = random[layer]
            features = account.at_clients(everyone, _random_features, phi, work)
            rest = account.at_clients(everyone, _rest, phi, weights, Y)
            delta = solved(sandwiched, *summed(2 * layer + 1, features, rest), weights, settings.sandwich)
            phi = account.at_clients(everyone, _stepped, phi, features, delta)
            tests = [one + _gelu(work(one)) @ delta for one in tests]
    return found


def _random_features(k: int, phi: Sequence[Matrix], work: Callable[[Matrix], Matrix]) -> Matrix:
    return _gelu(work(phi[k]))


def _rest(k: int, phi: Sequence[Matrix], weights: Matrix, Y: Sequence[Matrix]) -> Matrix:
    return np.asarray(Y[k] - phi[k] @ weights)


def _stepped(k: int, phi: Sequence[Matrix], features: Sequence[Matrix], delta: Matrix) -> Matrix:
    return np.asarray(phi[k] + features[k] @ delta)


def sandwiched(gram: Matrix, cross: Matrix, weights: Matrix, ridge: float) -> Matrix:
    """argmin_Δ ‖R − F·Δ·W‖² + ridge·‖Δ‖² in closed form, (width, hidden).

    gram: FᵀF, (width, width); cross: FᵀR, (width, classes); weights: W, (hidden, classes).
    """
    of_features, V = eigh(gram)
    of_weights, U = eigh(weights @ weights.T)
    middle = V.T @ cross @ weights.T @ U
    return np.asarray(V @ (middle / (ridge + of_features[:, None] * of_weights[None])) @ U.T)


def _classifier(gram: Matrix, cross: Matrix, ridge: float) -> Matrix:
    return np.asarray(solve(gram + ridge * np.eye(len(gram)), cross, assume_a="pos"))


def _packed(inputs: Matrix, outputs: Matrix) -> Matrix:
    return np.concatenate([*upper(inputs.T @ inputs), (inputs.T @ outputs).ravel()])


def _length(inputs: int, outputs: int) -> int:
    return inputs * (inputs + 1) // 2 + inputs * outputs


def _affine(draws: np.random.Generator, inputs: int, outputs: int) -> Callable[[Matrix], Matrix]:
    """Random weights and offsets as torch's default: uniform within 1/√inputs."""
    drawn = draws.uniform(-1, 1, (1 + inputs, outputs)) / np.sqrt(inputs)
    return lambda values: values @ drawn[1:] + drawn[0]


def _gelu(values: Matrix) -> Matrix:
    return np.asarray(values * ndtr(values))


# ---- APFL (Fan et al., arXiv 2508.10732) -----------------------------------------------------------------------------


def refined(
    common: Matrix, clients: Sequence[ClientRows], settings: Refinement, seed: int
) -> tuple[float, float]:
    """APFL's second stream: each client fits random features to what the `common` weights leave of its labels.

    Returns the accuracy of the clients' own models on their test rows, and the seconds of the slowest client. Nothing is
    sent for it. We had the abstract only: rectified features and the fixed weight of the stream are our reading.
    """
    classes = common.shape[1]
    project = _affine(np.random.default_rng(seed), clients[0].X.shape[1], settings.width)
    account = _account("apfl", clients, classes)

    def stream(k: int) -> Matrix:
        F = np.maximum(project(_features(clients[k].X)), 0)
        kernel = F @ F.T  # a client has fewer rows than random features
        kernel[np.diag_indices_from(kernel)] += settings.ridge * np.trace(kernel) / len(kernel)
        left = _targets(clients[k], classes) - _rows(clients[k].X) @ common
        return np.asarray(F.T @ solve(kernel, left, assume_a="pos"))

    streams = account.at_clients(range(len(clients)), stream)
    scores = [
        _rows(client.X_test) @ common
        + settings.weight * np.maximum(project(_features(client.X_test)), 0) @ weights
        for client, weights in zip(clients, streams, strict=True)
    ]
    account.reached(1, _accuracy(scores, np.eye(classes), clients))
    point = account.history().points[-1]
    return point.accuracy, point.compute_seconds


def _account(name: str, clients: Sequence[ClientRows], classes: int) -> Account:
    return Account(name, False, linear(clients[0].X.shape[1], classes), clients, lambda point: None)


def _features(X: Tensor) -> Matrix:
    return np.asarray(X.double().numpy())


def _rows(X: Tensor) -> Matrix:
    """With a leading column of ones, float64 (rows, 1 + features)."""
    return np.hstack([np.ones((len(X), 1)), _features(X)])


def _targets(client: ClientRows, classes: int) -> Matrix:
    return np.asarray(np.eye(classes)[client.y.numpy()])


def _accuracy(inputs: Sequence[Matrix], weights: Matrix, clients: Sequence[ClientRows]) -> float:
    """Over all test rows, of one classifier of each client's inputs."""
    right = [
        (one @ weights).argmax(axis=1) == client.y_test.numpy()
        for one, client in zip(inputs, clients, strict=True)
    ]
    return float(np.concatenate(right).mean())
