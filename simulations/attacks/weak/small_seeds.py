"""Masks from MT19937 with 28-bit seeds, as in Flower's SecAgg+, and the search through all seeds.

There a pair secret is base64 text that is folded by XOR into 4 bytes. Letters have 7 bits, so 28 of 32 are free.
"""

import secrets
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from secure_afl.simulations.attacks.population import Statistic
from secure_afl.simulations.attacks.tap import decoded
from secure_afl.simulations.attacks.weak.weak_masks import encoding_of
from secure_afl.simulations.data.dataset import Floats

SEEDS = 2**28
_AT_ONCE = 2**15  # seeds whose generators' states stay in cache
_STATE, _AHEAD = 624, 397
_CHECKED = 3  # words that must all match: a wrong seed matches with probability 2^-96
_Seeds = npt.NDArray[np.uint32]


def seeds(numbers: npt.NDArray[np.integer]) -> _Seeds:
    """The seeds with these numbers from 0 to 2^28 − 1: 7 bits in each byte."""
    parts = [((numbers >> (7 * byte)) & 0x7F) << (8 * byte) for byte in range(4)]
    return np.asarray(parts[0] | parts[1] | parts[2] | parts[3], np.uint32)


def first_outputs(chosen: _Seeds) -> _Seeds:
    """The first 32 bits that MT19937 gives for each seed: of its 624 words of state, only three matter."""
    state, scratch = chosen.copy(), np.empty_like(chosen)
    second = state
    for at in range(1, _AHEAD + 1):
        np.right_shift(state, 30, out=scratch)
        np.bitwise_xor(state, scratch, out=state)
        np.multiply(state, np.uint32(1812433253), out=state)
        np.add(state, np.uint32(at), out=state)
        if at == 1:
            second = state.copy()
    joined = (chosen & np.uint32(0x80000000)) | (second & np.uint32(0x7FFFFFFF))
    out = state ^ (joined >> np.uint32(1)) ^ ((joined & np.uint32(1)) * np.uint32(0x9908B0DF))
    out ^= out >> np.uint32(11)
    out ^= (out << np.uint32(7)) & np.uint32(0x9D2C5680)
    out ^= (out << np.uint32(15)) & np.uint32(0xEFC60000)
    return np.asarray(out ^ (out >> np.uint32(18)))


def mask(seed: int, length: int) -> npt.NDArray[np.uint64]:
    """A mask as a client draws it: two outputs a word, the first one low."""
    drawn = np.random.RandomState(seed).randint(0, 2**32, 2 * length, np.uint32)
    return drawn.view("<u8").astype(np.uint64)


def search(upload: npt.NDArray[np.uint64], known: int, start: int, count: int = SEEDS) -> int | None:
    """The seed under which the first word of an upload is `known` in its low 32 bits and the next words are those of
    a vector. Tries `count` seeds from number `start` on, around the end.
    """
    wanted = np.uint32((int(upload[0]) - known) % 2**32)
    for done in range(0, count, _AT_ONCE):
        chosen = seeds((np.arange(done, min(done + _AT_ONCE, count)) + start) % SEEDS)
        for seed in chosen[first_outputs(chosen) == wanted].tolist():
            if _small(upload[:_CHECKED] - mask(seed, _CHECKED)):
                return int(seed)
    return None


def _small(words: npt.NDArray[np.uint64]) -> bool:
    """Whether these may be a vector's: entries of few rows are far below the range of 64 bits."""
    return bool((np.abs(words.view(np.int64)) < 2**56).all())


def read(vectors: Sequence[Floats], statistic: Statistic, window: int = SEEDS) -> dict[int, Floats]:
    """What the server reads of the first client, given all masks but the one that it shares with the second.

    The others in the sum help the server; self masks it removes in any case. The first entry, the number of rows, is
    whole: its low 32 bits are zero, as plans have at least 32 fraction bits. window: how many seeds are tried, the
    right one somewhere among them.
    """
    encoding = encoding_of(statistic, len(vectors))
    number = secrets.randbelow(SEEDS)
    own = int(seeds(np.array([number]))[0])
    upload = encoding.encode(vectors[0]) + mask(own, statistic.bounds.length)
    start = 0 if window == SEEDS else (number - secrets.randbelow(window)) % SEEDS
    found = search(upload, 0, start, window)
    return {} if found is None else {0: decoded(upload - mask(found, len(upload)), encoding)}
