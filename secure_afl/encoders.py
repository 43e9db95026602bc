"""What a hidden layer is trained towards: targets made of the labels, or none, and the filters that follow.

How the paper (arXiv 2502.06915) sets a hidden layer's targets could not be read: these are our
reconstruction. Targets are ±1 codes drawn from a public seed, so that every party makes the same ones and
|target| ≤ 1 is known beforehand. Filters come from sums over clients only.
"""

from enum import Enum

import numpy as np
import numpy.typing as npt

from secure_afl.crypto.kdf import Label, derive, integer
from secure_afl.crypto.prg import add_keystreams
from secure_afl.network import Trained
from secure_afl.solve import solve
from secure_afl.statistics import SufficientStatistics


class Encoder(Enum):
    """SPATIAL: an own code for every label, position and channel. REPLICATED: one for every label and channel,
    the same at every position. NONE: random filters. SPECTRAL: the leading eigenvectors of the aggregated
    covariance. MIXED: half spatial, half random.
    """

    SPATIAL = "spatial"
    REPLICATED = "replicated"
    NONE = "none"
    SPECTRAL = "spectral"
    MIXED = "mixed"


def coded(encoder: Encoder, known: Trained) -> int:
    """How many of the layer's outputs are trained towards codes of the labels; the others come first."""
    if encoder in (Encoder.SPATIAL, Encoder.REPLICATED):
        return known.outputs
    return known.outputs // 2 if encoder is Encoder.MIXED else 0


def codes(encoder: Encoder, known: Trained, classes: int, seed: bytes) -> npt.NDArray[np.float64]:
    """The targets, (classes, positions, coded outputs), each ±1: bits of a keystream of the public `seed`."""
    positions = 1 if encoder is Encoder.REPLICATED else known.positions
    count = classes * positions * coded(encoder, known)
    words = np.zeros(-(-count // 64), dtype=np.uint64)
    add_keystreams(words, plus=[derive(seed, Label.LABEL_CODE, integer(known.at))])
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), bitorder="little")[:count]
    signs = (2.0 * bits - 1.0).reshape(classes, positions, -1)
    return np.broadcast_to(signs, (classes, known.positions, signs.shape[2]))


def filters(
    encoder: Encoder, known: Trained, statistics: SufficientStatistics, ridge: float, seed: int
) -> npt.NDArray[np.float64]:
    """A hidden layer's weights, (1 + inputs, outputs), each channel of unit variance over the aggregated rows.

    statistics: of rows with a column of ones in front. Raises `SolveError` if the least squares have no
    guaranteed solution.
    """
    free = known.outputs - coded(encoder, known)
    mean, covariance = moments(statistics)
    parts = []
    if free:
        draws = np.random.default_rng([seed, known.at])  # public: it shapes a model and guards no secret
        directions = draws.standard_normal((known.inputs, free))
        if encoder is Encoder.SPECTRAL:
            # More channels than inputs: the rest are random.
            leading = np.linalg.eigh(covariance)[1][:, ::-1][:, :free]
            directions[:, : leading.shape[1]] = leading
        parts.append(np.vstack([-mean @ directions, directions]))
    if free < known.outputs:
        parts.append(solve(statistics, ridge=ridge).weights)
    weights = np.hstack(parts)
    spread = np.sqrt(np.einsum("ij,ik,kj->j", weights[1:], covariance, weights[1:]).clip(0.0))
    # A channel that does not vary over the data carries nothing, whatever its scale.
    return np.asarray(weights / np.where(spread > 0, spread, 1.0))


def moments(statistics: SufficientStatistics) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and covariance of the rows behind a Gram matrix whose first column is that of the ones."""
    rows = statistics.gram[0, 0]
    mean = statistics.gram[0, 1:] / rows
    return mean, statistics.gram[1:, 1:] / rows - np.outer(mean, mean)
