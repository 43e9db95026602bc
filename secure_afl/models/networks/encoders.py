"""Targets of hidden layers, made from the labels, and the filters trained towards them.

We could not read how the paper (arXiv 2502.06915) sets a hidden layer's targets, so these are our reconstruction. Targets
are codes drawn from a public seed, so that every party has the same ones and |target| ≤ 1 is known beforehand. Filters
derive only from sums over clients.
"""

import numpy as np
import numpy.typing as npt

from secure_afl.analytic.solve import solve
from secure_afl.analytic.statistics import Matrix, SufficientStatistics
from secure_afl.crypto.kdf import Label, derive, integer
from secure_afl.crypto.prg import add_keystreams
from secure_afl.models.networks.encoder import Encoder
from secure_afl.models.networks.grid import Weights, on_weight_grid, uniform
from secure_afl.models.networks.network import Conv, Network, Trained

_GAIN = 2.0  # gain of a seeded filter, in standard deviations of its weights
_BLUR = 4  # passes of (1, 2, 1)/4: a standard deviation of 1.4 pixels
_FLOOR = 0.1  # fraction of the mean eigenvalue: limits the scaling of directions that hardly vary


def summed(encoder: Encoder, network: Network) -> tuple[Trained, ...]:
    """The trained layers that need a sum, in order: the head, and hidden layers unless the seed alone determines them."""
    return network.trained[-1:] if encoder is Encoder.SEEDED else network.trained


def coded(encoder: Encoder, known: Trained, classes: int) -> int:
    """Number of the layer's outputs that are trained towards label codes; the other outputs come first.

    If every channel has its own codes, at most as many as can be independent: a dense layer trained on labels alone has
    a rank below the number of classes. The other outputs are random.
    """
    if encoder is Encoder.REPLICATED:
        return known.outputs
    independent = (classes - 1) * known.positions
    if encoder in (Encoder.CLASSWISE, Encoder.SPATIAL):
        return min(known.outputs, independent)
    return min(known.outputs // 2, independent) if encoder is Encoder.MIXED else 0


def codes(encoder: Encoder, known: Trained, classes: int, seed: bytes) -> npt.NDArray[np.float64]:
    """The targets, (classes, positions, coded outputs).

    Each output of each position splits the classes at random into halves of +1 and −1; with an odd number one class gets
    0. So a code distinguishes classes but not positions. It is drawn from a keystream of the public `seed`.
    """
    positions = 1 if encoder is Encoder.REPLICATED else known.positions
    outputs = coded(encoder, known, classes)
    words = np.zeros(classes * positions * outputs, dtype=np.uint64)
    add_keystreams(words, plus=[derive(seed, Label.LABEL_CODE, integer(known.at))])
    places = words.reshape(classes, positions, outputs).argsort(axis=0, kind="stable")
    half = classes // 2
    signs = np.concatenate([np.ones(half), np.zeros(classes - 2 * half), -np.ones(half)])[places]
    return np.broadcast_to(signs, (classes, known.positions, outputs))


def seeded(known: Trained, seed: bytes) -> Weights:
    """SEEDED weights of a hidden layer, (1 + inputs, outputs), on the grid: bit-equal for every party.

    A convolution's filters are blurred uniform noise, with each channel's mean removed, all of the same norm. A dense
    layer's filters are uniform. The gain suits normalised patches (`Conv.contrast`), whose size is known beforehand; for
    other patches it is smaller by the factor 1/√inputs.
    """
    key = derive(seed, Label.RANDOM_FEATURES, integer(known.at))
    if isinstance(known.layer, Conv):
        channels, side = known.shape[0], known.layer.kernel + 2 * _BLUR
        noise = uniform(key, (known.outputs, channels, side, side))
        for _ in range(_BLUR):  # integers: exact
            noise = noise[:, :, :-2] + 2 * noise[:, :, 1:-1] + noise[:, :, 2:]
            noise = noise[..., :-2] + 2 * noise[..., 1:-1] + noise[..., 2:]
        taps = known.layer.kernel**2
        noise = noise.reshape(known.outputs, channels, taps)
        if taps > 1:
            noise = taps * noise - noise.sum(axis=2, keepdims=True)
        drawn = noise.reshape(known.outputs, -1).T.astype(np.float64)
    else:
        drawn = uniform(key, (known.inputs, known.outputs)).astype(np.float64)
    scaled = drawn / np.sqrt((drawn * drawn).mean(axis=0))
    unit = isinstance(known.layer, Conv) and known.layer.contrast
    gain = _GAIN if unit else _GAIN / np.sqrt(known.inputs)
    return on_weight_grid(np.vstack([np.zeros(known.outputs), gain * scaled]), known.limit)


def filters(
    encoder: Encoder, known: Trained, statistics: SufficientStatistics, ridge: float, seed: int
) -> tuple[Matrix, Matrix]:
    """A hidden layer's weights, (1 + inputs, outputs), scaled to unit variance of each channel over the aggregated rows,
    and the scale factors, (outputs,): a channel trained towards a code c has values near factor·c.

    statistics: of rows with a leading column of ones. Raises `SolveError` if the least squares have no guaranteed
    solution.
    """
    free = known.outputs - statistics.cross.shape[1]
    mean, covariance = moments(statistics)
    parts = []
    if free:
        draws = np.random.default_rng([seed, known.at])  # public: it shapes a model and protects no secret
        directions = draws.standard_normal((known.inputs, free))
        if encoder is Encoder.SPECTRAL:
            # With more channels than inputs, the remaining channels are random.
            leading = np.linalg.eigh(covariance)[1][:, ::-1][:, :free]
            directions[:, : leading.shape[1]] = leading
        if encoder is Encoder.CLASSWISE:
            directions = covariance @ directions
        parts.append(np.vstack([-mean @ directions, directions]))
    if encoder is Encoder.CLASSWISE:  # the standard deviation below is its only scale
        directions = _half_whitened(known, mean, covariance, statistics)
        parts.append(np.vstack([np.zeros(directions.shape[1]), directions]))
    elif free < known.outputs:
        parts.append(solve(statistics, ridge=ridge).weights)
    weights = np.hstack(parts)
    spread = np.sqrt(np.einsum("ij,ik,kj->j", weights[1:], covariance, weights[1:]).clip(0.0))
    # A channel that is constant over the data carries no information, whatever its scale.
    factors = 1.0 / np.where(spread > 0, spread, 1.0)
    return weights * factors, factors


def moments(statistics: SufficientStatistics) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and covariance of the rows of a Gram matrix whose first column belongs to the ones."""
    rows = statistics.gram[0, 0]
    mean = statistics.gram[0, 1:] / rows
    return mean, statistics.gram[1:, 1:] / rows - np.outer(mean, mean)


def _half_whitened(
    known: Trained, mean: Matrix, covariance: Matrix, statistics: SufficientStatistics
) -> Matrix:
    """S^(−½)C with S the covariance of the rows and C that of rows and codes, (inputs, outputs).

    In a patch the mean of each channel is removed on both sides: it shows brightness, not shape.
    """
    cross = statistics.cross[1:] - np.outer(mean, statistics.cross[0])
    taps = known.inputs // known.shape[0]
    without = np.eye(known.inputs)
    if taps > 1:
        without -= np.kron(np.eye(known.shape[0]), np.full((taps, taps), 1 / taps))
    values, vectors = np.linalg.eigh(without @ covariance @ without)
    scaled = vectors.T @ (without @ cross) / np.sqrt(values.clip(0.0) + _FLOOR * values.mean())[:, None]
    return np.asarray(without @ (vectors @ scaled))
