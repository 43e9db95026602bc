"""Membership inference: is a person's row in a sum? A secure sum cannot hide what the sum itself reveals; noise can.

The leverage xᵀ(G + γI)⁻¹x of a row in G is smaller than that of a new row, since the row itself is part of G. And a model
has smaller errors on its training rows (Yeom et al., CSF 2018).
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from secure_afl.analytic.privacy import Privacy, bounded_rows, client_noise, regularise
from secure_afl.analytic.solve import solve
from secure_afl.analytic.statistics import PublicBounds, SufficientStatistics, symmetric
from secure_afl.crypto.noise import Noise
from secure_afl.protocol.session.parameters import SumPlan
from secure_afl.simulations.attacks import designs
from secure_afl.simulations.attacks.finding import Finding, Result, Watch, told_apart
from secure_afl.simulations.attacks.population import CLIENTS, Setting
from secure_afl.simulations.attacks.tap import Tap, decoded
from secure_afl.simulations.data.dataset import Floats
from secure_afl.simulations.experiments.privacy import short_rows
from secure_afl.sums.aggregation import MaskedAggregator

NAME = "membership"
_ROWS = 75  # of a client
_FEDERATIONS = 3
_EPSILONS, _DELTA = (8.0, 1.0), 1e-5
_RIDGE = 1e-3
STEPS = _FEDERATIONS
_UPLOAD, _SUM, _MODEL = "a client's upload", "the sum of all", "the model"
_MASK = "secure-afl, mask"
_NOISE = "clients add noise before they mask, see docs/privacy.md"
_INTERCEPT, _ROW_NORM, _MOST_ROWS = 0.25, 1.04, 2**10  # a column of it beside rows of norm 1


def measure(setting: Setting, watch: Watch) -> Result:
    """Score the rows of several federations, and as many rows outside each."""
    rng, scores = setting.draws(4), defaultdict[tuple[str, str], list[tuple[Floats, Floats]]](list)
    data = short_rows(setting.data)
    epsilons = () if data.from_rows else _EPSILONS  # no promise holds on a scale that was read from the rows
    X, Y = np.column_stack([np.full(len(data.X), _INTERCEPT), data.X]), np.eye(len(data.classes))[data.y]
    for number in range(_FEDERATIONS):
        watch(f"{NAME}: federation {number + 1}")
        order = rng.permutation(len(X))
        held = order[: CLIENTS * _ROWS].reshape(CLIENTS, _ROWS)
        others = order[CLIENTS * _ROWS :][: CLIENTS * _ROWS]
        for key, pair in _federation(X, Y, held, others, epsilons).items():
            scores[key].append(pair)
    return Result([_finding(key, pairs) for key, pairs in scores.items()])


def _federation(
    X: Floats, Y: Floats, held: np.ndarray, others: np.ndarray, epsilons: Sequence[float]
) -> dict[tuple[str, str], tuple[Floats, Floats]]:
    """By design and what is attacked: the scores of members and of others, higher for who seems to be a member."""
    bounds = PublicBounds(X.shape[1], Y.shape[1], _ROW_NORM, _MOST_ROWS)
    vectors = []
    for mine in held:
        x, y, _ = bounded_rows(X[mine], Y[mine], bounds, 1.0)
        vectors.append(SufficientStatistics.from_rows(x, y, bounds).pack())
    everybody, first = held.ravel(), held[0]
    uploads, total = _masked(vectors, bounds)
    found = {
        ("plain upload", _UPLOAD): _both(_leverage(_gram(vectors[0], bounds)), X[first], X[others]),
        (_MASK, _UPLOAD): _both(_leverage(_gram(uploads[0], bounds)), X[first], X[others]),
        (_MASK, _SUM): _both(_leverage(_gram(total, bounds)), X[everybody], X[others]),
    }
    solution = solve(SufficientStatistics.unpack(total, bounds), ridge=_RIDGE)
    found[_MASK, _MODEL] = _errors(solution.weights, X, Y, everybody, others)
    for epsilon in epsilons:
        noisy, weights = _private(vectors, bounds, epsilon)
        design = f"secure-afl with ε = {epsilon:g}"
        found[design, _SUM] = _both(_leverage(noisy), X[everybody], X[others])
        found[design, _MODEL] = _errors(weights, X, Y, everybody, others)
    return found


def _masked(
    vectors: Sequence[Floats], bounds: PublicBounds, noise: Noise | None = None
) -> tuple[list[Floats], Floats]:
    """The uploads of a real session, as the server reads them, and the sum."""
    tap = Tap()
    aggregator = MaskedAggregator(network=tap)
    names = [f"client {index}" for index in range(len(vectors))]
    aggregator.open(names, [SumPlan("statistics", bounds.length, bounds.magnitude, noise=noise)])
    one = aggregator.sum(0, {name: (vector, "rows") for name, vector in zip(names, vectors, strict=True)})
    assert one.encoding is not None
    uploads = [
        decoded(tap.words(index, one.length, one.encoding.width), one.encoding) for index in range(len(names))
    ]
    return uploads, one.total


def _private(vectors: Sequence[Floats], bounds: PublicBounds, epsilon: float) -> tuple[Floats, Floats]:
    """The solved Gram matrix and the weights, if every client adds its noise."""
    count = len(vectors)
    noise = client_noise(
        Privacy(epsilon, _DELTA), bounds, clients=count, survivors=count, colluders=1, target_norm=1.0
    )
    _, total = _masked(vectors, bounds, noise)
    fixed = regularise(total, bounds, noise, survivors=count, ridge=_RIDGE)
    return fixed.statistics.gram, solve(fixed.statistics, ridge=0.0).weights


def _gram(vector: Floats, bounds: PublicBounds) -> Floats:
    return symmetric(vector[: bounds.features * (bounds.features + 1) // 2], bounds.features)


def _leverage(gram: Floats) -> Floats:
    """The inverse matrix for leverages."""
    ridge = _RIDGE * abs(np.trace(gram)) / len(gram)
    return np.asarray(np.linalg.inv(gram + ridge * np.eye(len(gram))))


def _both(inverse: Floats, members: Floats, others: Floats) -> tuple[Floats, Floats]:
    def score(rows: Floats) -> Floats:
        return np.asarray(-np.einsum("ij,jk,ik->i", rows, inverse, rows, optimize=True))

    return score(members), score(others)


def _errors(
    weights: Floats, X: Floats, Y: Floats, members: np.ndarray, others: np.ndarray
) -> tuple[Floats, Floats]:
    def score(rows: np.ndarray) -> Floats:
        return np.asarray(-np.linalg.norm(Y[rows] - X[rows] @ weights, axis=1))

    return score(members), score(others)


def _finding(key: tuple[str, str], pairs: list[tuple[Floats, Floats]]) -> Finding:
    # Scores of different federations have different scales: ranks within each do not.
    ranks = [rankdata(np.concatenate(pair)) / (len(pair[0]) + len(pair[1])) for pair in pairs]
    members = np.concatenate([rank[: len(pair[0])] for rank, pair in zip(ranks, pairs, strict=True)])
    others = np.concatenate([rank[len(pair[0]) :] for rank, pair in zip(ranks, pairs, strict=True)])
    area, chance = told_apart(members, others)
    (design, what), count = key, len(members)
    ours = design.startswith("secure-afl")
    note = "" if not ours or what == _UPLOAD else designs.OPENED if design == _MASK else _NOISE
    return Finding(NAME, design, ours, f"AUC, is a row in {what}", area, 0.5, count, chance, note)
