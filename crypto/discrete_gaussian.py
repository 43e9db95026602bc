"""Exact draws of the discrete Gaussian N_Z(0, σ²): P[y] ∝ exp(−y²/2σ²) over all integers y.

Canonne, Kamath, Steinke, The Discrete Gaussian for Differential Privacy (NeurIPS 2020), algorithms 1 to 3: a discrete
Laplace proposal, accepted with probability exp(−γ) for a rational γ. No step uses floats or approximates: given uniform
random bits, the distribution is exactly N_Z(0, σ²). Bits come from os.urandom. The running time is not constant: it
depends on the drawn values.
"""

import secrets
from collections.abc import Sequence
from fractions import Fraction
from math import isqrt
from os import urandom

import numpy as np
import numpy.typing as npt

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.prg import uniform

LARGEST_VARIANCE = 2**110
_WORD_BITS = 64  # in the random word that is compared with the leading bits of a probability
_BATCH = 2**16
Words = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]
Units = npt.NDArray[np.int64]


def draw(count: int, variance: Fraction) -> Units:
    """Draw `count` independent values of N_Z(0, variance), int64.

    variance: σ² > 0, at most 2^110. At that limit a proposal exceeds int64 with probability exp(−127) at most,
    whatever the data, and then raises an error.
    Raises `CryptoError` for a variance outside this range or a count that is not an integer of at least 0.
    """
    if type(count) is not int or count < 0:
        raise CryptoError(f"expected a number of draws of at least 0, got {count!r}")
    if type(variance) is not Fraction or not 0 < variance <= LARGEST_VARIANCE:
        raise CryptoError(f"expected a variance above 0 and at most 2^110 as a Fraction, got {variance!r}")
    draws = np.empty(count, np.int64)
    filled = 0
    while filled < count:
        # Unless σ is small, a proposal is accepted with a probability of about 0.48.
        some = _proposals(min(_BATCH, 2 * (count - filled) + 64), isqrt(int(variance)) + 1)
        some = some[_accepted(some, variance)][: count - filled]
        draws[filled : filled + len(some)] = some
        filled += len(some)
    return draws


def _proposals(tries: int, scale: int) -> Units:
    """Draws of the discrete Laplace distribution, P[y] ∝ exp(−|y|/scale); fewer than `tries`."""
    low = uniform(urandom, tries, scale)
    low = low[_exp_minus(low, scale)]
    high = np.zeros(len(low), np.int64)
    alive = np.arange(len(low))
    while len(alive := alive[_exp_minus(np.ones(len(alive), np.uint64), 1)]):
        high[alive] += 1
    if len(high) and int(high.max()) * scale >= 2**62:
        raise CryptoError("a draw left the range of 64 bits")
    magnitudes: Units = low.view(np.int64) + np.int64(scale) * high
    negative = np.frombuffer(urandom(len(low)), np.uint8) & 1 == 1
    np.negative(magnitudes, out=magnitudes, where=negative)
    once: Units = magnitudes[~negative | (magnitudes != 0)]  # zero has one sign
    return once


def _accepted(proposals: Units, variance: Fraction) -> Flags:
    """Accept each proposal with probability exp(−(|y| − σ²/t)²/2σ²), where t is the proposals' scale."""
    a, b = variance.numerator, variance.denominator
    scale = isqrt(int(variance)) + 1
    step, denominator = scale * b, 2 * a * b * scale**2
    return _exp_minus_wide([(abs(y) * step - a) ** 2 for y in proposals.tolist()], denominator)


def _exp_minus(numerators: Words, denominator: int) -> Flags:
    """For each number p ≤ q, true with probability exp(−p/q): the parity of how many of Bernoulli(p/q),
    Bernoulli(p/2q), Bernoulli(p/3q), … are true before the first false one."""
    even = np.ones(len(numerators), np.bool_)
    alive, k = np.arange(len(numerators)), 1
    while len(alive := alive[uniform(urandom, len(alive), denominator * k) < numerators[alive]]):
        even[alive] ^= True
        k += 1
    return even


def _exp_minus_wide(numerators: Sequence[int], denominator: int) -> Flags:
    """The same for p/q of any size: one exp(−1) for each whole unit; leading bits decide the fraction."""
    shifted = [(p << _WORD_BITS) // denominator for p in numerators]
    wholes = np.array([min(p >> _WORD_BITS, 2**62) for p in shifted], np.int64)  # no run is longer
    true = np.ones(len(shifted), np.bool_)
    alive = np.flatnonzero(wholes)
    while len(alive):
        survived = _exp_minus(np.ones(len(alive), np.uint64), 1)
        true[alive[~survived]] = False
        alive = alive[survived]
        wholes[alive] -= 1
        alive = alive[wholes[alive] > 0]
    parts = np.array([p % 2**_WORD_BITS for p in shifted], np.uint64)
    alive, k = np.flatnonzero(true), 1
    while len(alive):
        words = np.frombuffer(urandom(8 * len(alive)), "<u8") >> np.uint64(64 - _WORD_BITS)
        limits = parts[alive] // np.uint64(k)
        hit = words < limits
        for tie in np.flatnonzero(words == limits):
            # The uniform number and the probability agree in all bits of the word: the exact remainder decides.
            rest = (numerators[alive[tie]] << _WORD_BITS) % (denominator << _WORD_BITS)
            hit[tie] = secrets.randbelow(denominator * k) < rest - int(limits[tie]) * denominator * k
        alive = alive[hit]
        true[alive] ^= True
        k += 1
    return true
