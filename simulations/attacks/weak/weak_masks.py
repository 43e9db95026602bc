"""Masked sums whose masks do not hide: what others shipped, and how a server reads a client's vector through it.

Each function plays the clients and then the server: from all clients' vectors to what the server reads of them.
Only the mask differs from ours, and secrets are as good as ours where their size is not the flaw.
"""

import secrets
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import mode

from secure_afl.analytic.statistics import upper
from secure_afl.crypto.fixed_point import FixedPoint
from secure_afl.crypto.kdf import KEY_BYTES
from secure_afl.crypto.lattice.ckks import gaussian
from secure_afl.crypto.prg import add_keystreams
from secure_afl.simulations.attacks.population import Statistic
from secure_afl.simulations.attacks.tap import decoded
from secure_afl.simulations.data.dataset import Floats

Words = npt.NDArray[np.uint64]


def encoding_of(statistic: Statistic, clients: int) -> FixedPoint:
    """The fixed-point encoding that the sum has."""
    return statistic.plan.spec(clients).encoding(clients)


def pairs(clients: int, new: Callable[[], bytes]) -> list[dict[int, bytes]]:
    """A secret for each two clients: for each client those that it has, by the other one."""
    held: list[dict[int, bytes]] = [{} for _ in range(clients)]
    for one in range(clients):
        for other in range(one):
            held[one][other] = held[other][one] = new()
    return held


def _masked(words: Words, index: int, keys: dict[int, bytes], width: int) -> Words:
    """An upload under pairwise keystreams, as the wire's words."""
    total = words.copy()
    add_keystreams(
        total,
        plus=[key for other, key in keys.items() if other > index],
        minus=[key for other, key in keys.items() if other < index],
    )
    return total & _ones(width)


def _ones(width: int) -> np.uint64:
    return np.uint64(2 ** (8 * width) - 1)


def scalar(vectors: Sequence[Floats], statistic: Statistic) -> dict[int, Floats]:
    """One number masks a whole vector. Most products of features are zero, so the commonest word is that number."""
    encoding, keys = (
        encoding_of(statistic, len(vectors)),
        pairs(len(vectors), lambda: secrets.token_bytes(KEY_BYTES)),
    )
    read = {}
    for index, vector in enumerate(vectors):
        one = _masked(np.zeros(1, np.uint64), index, keys[index], encoding.width)
        upload = (encoding.encode(vector) + one) & _ones(encoding.width)
        read[index] = decoded(upload - mode(upload).mode, encoding)
    return read


def one_keystream(vectors: Sequence[Floats], statistic: Statistic) -> dict[int, Floats]:
    """Every row of the Gram and every column of the cross-covariance travels as a vector of its own, all under one
    keystream. Rows of features that are always zero are the keystream itself: in each place, the commonest word.
    """
    encoding, keys = (
        encoding_of(statistic, len(vectors)),
        pairs(len(vectors), lambda: secrets.token_bytes(KEY_BYTES)),
    )
    read = {}
    for index, vector in enumerate(vectors):
        gram, cross, _ = statistic.parts(vector)
        rows = np.concatenate([gram, cross.T])
        stream = _masked(np.zeros(rows.shape[1], np.uint64), index, keys[index], encoding.width)
        uploads = (encoding.encode(rows.ravel()).reshape(rows.shape) + stream) & _ones(encoding.width)
        found = decoded((uploads - mode(uploads, axis=0).mode).ravel(), encoding).reshape(rows.shape)
        gram, cross = found[: len(gram)], found[len(gram) :].T
        read[index] = np.concatenate([*upper(gram), cross.ravel(), [gram[0, 0]]])
    return read


def floats(vectors: Sequence[Floats], statistic: Statistic) -> dict[int, Floats]:
    """Masks are standard normal floats: what is read is the upload itself, with noise that is small beside it."""
    read = {index: vector.copy() for index, vector in enumerate(vectors)}
    for one in read:
        for other in range(one):
            mask = gaussian(statistic.bounds.length)
            read[one] += mask
            read[other] -= mask
    return read
