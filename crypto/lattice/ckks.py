"""CKKS: approximate sums, and what must happen to a decryption before anybody else sees it.

A decrypted CKKS vector is the message plus the noise of its ciphertexts, and two such vectors with their
ciphertexts give the secret key away by linear algebra (Li and Micciancio, eprint 2020/1533). So `flood` adds
Gaussian noise that drowns the scheme's own, by the rule of Li, Micciancio, Schultz and Sorrell (eprint 2022/816),
before a sum is decrypted, and `released` rounds what comes out to a grid. TenSEAL is loaded only by who encrypts or decrypts.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, inf, log, log2, sqrt

import numpy as np
import numpy.typing as npt

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.fixed_point import FRACTION_BITS, FixedPoint, units_of
from secure_afl.crypto.lattice import ntt
from secure_afl.crypto.lattice.parameter_sets import LATTICES, Lattice, Residues

SETS = (LATTICES["ckks-compact"], LATTICES["ckks-precise"])
FLOODING_BITS = 40
"""s: all decryptions of a session with one error in them or another differ by a Kullback–Leibler divergence of at most
2⁻ˢ, so by Pinsker's inequality an attacker's advantage (the total variation) is at most 2^(−(s + 1)/2): for s = 40 the
rule's constants give 2⁻⁴⁴ and 2⁻²²."""

_LOG_TAIL = 61 * log(2)  # as in `bfv`: 2²⁰ slots, a probability of 2⁻⁴⁰
_TAILS = 9.2  # deviations of a Gaussian that 2²⁰ draws pass with a probability of 2⁻⁴⁰
_TRANSFORM = 2.0**-46


@dataclass(frozen=True)
class Demand:
    """A sum of `length` values: no entry of one client's vector is over `bound`; an entry of the sum may be off by
    `error` (infinite: as little as the best set allows).
    """

    length: int
    bound: float
    error: float = inf


def choose(demands: Sequence[Demand], summands: int) -> tuple[Lattice, list[FixedPoint]]:
    """The set for sums of `summands` clients, and each sum's code: a value is multiplied by 2^fraction_bits.

    The compact set where it meets every error that was asked for, else the precise one.
    Raises `CryptoError` if that does not meet it either.
    """
    refused = ""
    if all(demand.error == inf for demand in demands):
        return SETS[-1], [fit(demand, summands, SETS[-1]) for demand in demands]
    for lattice in SETS:
        codes = [fit(demand, summands, lattice) for demand in demands]
        decryptions = sum(lattice.count(demand.length) for demand in demands)
        for demand, code in zip(demands, codes, strict=True):
            error = entry_error(lattice, code, summands, decryptions)
            if error > demand.error:
                refused = (
                    f"{lattice.name} guarantees an error of {error:.2g}, {demand.error:.2g} was asked for"
                )
                break
        else:
            return lattice, codes
    raise CryptoError(f"{refused}: agree on a smaller bound, or accept a larger error")


def fit(demand: Demand, summands: int, lattice: Lattice) -> FixedPoint:
    """The largest power of two such that no sum can leave (−q/2, q/2): coefficients are at most the largest slot."""
    if not (np.isfinite(demand.bound) and demand.bound > 0):
        raise CryptoError(f"expected a finite positive bound, got {demand.bound}")
    if 256 * noise(lattice, summands) > lattice.modulus // 2:
        raise CryptoError(f"{lattice.name} does not bear the noise of {summands} ciphertexts")
    # From what one client alone could have, and one more since logarithms are rounded; integers have the last word.
    bits = floor(log2(lattice.room) - log2(demand.bound)) + 1
    while bits >= FRACTION_BITS[0] and summands * units_of(demand.bound, bits) > lattice.room:
        bits -= 1
    if bits not in FRACTION_BITS:
        raise CryptoError(f"{lattice.name} does not hold a sum of {summands} values up to {demand.bound:g}")
    return FixedPoint(bits, units_of(demand.bound, bits), summands, 8)


def noise(lattice: Lattice, summands: int) -> float:
    """No slot of a sum's noise is larger, in units of 2^-scale_bits, but for a probability of 2⁻⁴⁰ (2²⁰ slots).

    As in `bfv.noise`: two rounding errors a coefficient (variance 1/12), the second times the secret, seen
    through the canonical embedding, where each slot adds N coefficients with weights of norm² N/2 in either
    part. The rounding of the encoded message, half a unit a coefficient, is taken at its worst.
    """
    degree = lattice.degree
    part = sqrt(2 * summands * degree / 24 * _LOG_TAIL)  # of the real, or the imaginary, part of one error
    secret = sqrt(2 * degree / 3 * _LOG_TAIL)
    fresh = 3.2 * sqrt(2 * summands * degree * _LOG_TAIL) * (1 + 3 * secret) * 2 / lattice.key_prime
    return 2 * part * (1 + secret) + fresh + summands * degree / 2


def deviation(lattice: Lattice, code: FixedPoint, summands: int, decryptions: int) -> float:
    """σ of the flooding noise, of a sum's entry: √(12·decryptions)·2^(s/2)·‖noise of one ciphertext‖₂.

    decryptions: of ciphertexts, in the whole session. The norm is over a ciphertext's slots: N^1.5·√(n/24) for a
    secret of norm² N, doubled to hold for all but a negligible share of keys and ciphertexts.
    """
    norm = 2 * lattice.degree**1.5 * sqrt(summands / 24) + sqrt(lattice.slots) * summands / 2
    units: float = sqrt(12 * decryptions) * 2.0 ** (FLOODING_BITS / 2) * norm
    return units * 2.0 ** (-lattice.scale_bits - code.fraction_bits)


def entry_error(lattice: Lattice, code: FixedPoint, summands: int, decryptions: int) -> float:
    """Bound on |released − exact sum| for each of 2²⁰ entries, but for a probability of 2⁻³⁸.

    The scheme's noise, the flooding and its grid; and SEAL's transforms in float64, of every client's vector and of
    the sum: 2⁻⁴⁶ of the largest sum for either, together some twenty times the worst round trip that was
    found (`tests/crypto/lattice/test_ckks.py`).
    """
    rounded = lattice.degree / 2  # the flooding, to integers, at its worst
    scheme = (noise(lattice, summands) + rounded) * 2.0 ** (-lattice.scale_bits - code.fraction_bits)
    sigma = deviation(lattice, code, summands, decryptions)
    largest = summands * code.magnitude * 2.0**-code.fraction_bits
    return scheme + (_TAILS + 1 / 16) * sigma + 2 * _TRANSFORM * largest


def encrypt(
    lattice: Lattice, public_key: bytes, values: npt.NDArray[np.float64], code: FixedPoint
) -> Residues:
    """Ciphertexts of real values within the code's bound. Raises `CryptoError`, like `FixedPoint.encode`."""
    from secure_afl.crypto.lattice import seal  # loads TenSEAL, which a server does without

    code.encode(values)  # refuses what is not finite or over the bound
    return seal.encrypt(lattice, public_key, np.ldexp(values, code.fraction_bits))


def flood(total: Residues, lattice: Lattice, code: FixedPoint, summands: int, decryptions: int) -> Residues:
    """A sum of ciphertexts with Gaussian noise of `deviation` added; to be decrypted only after this.

    Added to the integers of the encrypted polynomial, whatever follows only processes what the rule has made safe.
    Added to decrypted values it would come too late: which way float64 rounds in SEAL's transform depends on the
    scheme's noise, and with large entries under the precise set that makes hundreds of times the difference that
    `deviation` counts on (`test_float64_carries_noise_past_a_flooding_that_comes_after_it`).
    Raises `CryptoError` if the modulus has no room for it.
    """
    sigma: float = np.ldexp(
        deviation(lattice, code, summands, decryptions), code.fraction_bits + lattice.scale_bits
    ) * sqrt(2 / lattice.degree)  # of a coefficient; a slot's real part adds N with weights of norm² N/2
    left = lattice.modulus // 2 - (lattice.room << lattice.scale_bits)
    if _TAILS * sigma + noise(lattice, summands) > min(left, 2**62):
        raise CryptoError(f"{lattice.name} does not bear the flooding of {decryptions} decryptions")
    draws = np.rint(sigma * gaussian(len(total) * lattice.degree)).astype(np.int64)
    added = np.zeros_like(total)
    for at, prime in enumerate(lattice.primes):
        residues = (draws % np.int64(prime)).view(np.uint64).reshape(len(total), lattice.degree)
        added[:, 0, at] = ntt.forward(residues, prime)
    lattice.add(added, total)
    return added


def released(
    slots: npt.NDArray[np.float64], lattice: Lattice, code: FixedPoint, summands: int, decryptions: int
) -> npt.NDArray[np.float64]:
    """The sum as it may be given out: what a flooded sum decrypts to, on a grid of a power of two of at most σ/8.

    slots: in units of the code. Raises `CryptoError` if an entry is larger than clients that keep to the bound
    can make it: the sum is under another key, or altered.
    """
    sigma = deviation(lattice, code, summands, decryptions)
    limit = summands * code.magnitude * (1 + 2.0**-30) + noise(lattice, summands) * 2.0**-lattice.scale_bits
    limit += _TAILS * float(np.ldexp(sigma, code.fraction_bits))
    if len(slots) and not float(np.abs(slots).max()) <= limit:
        raise CryptoError(
            f"the sum of {summands} clients has an entry over {limit:g} units, which clients that keep to the "
            "agreed bound cannot reach: a client or a message is corrupt, or the key is another"
        )
    grid = 2.0 ** floor(log2(sigma / 8))
    return np.asarray(np.rint(np.ldexp(slots, -code.fraction_bits) / grid) * grid)


def gaussian(count: int) -> npt.NDArray[np.float64]:
    """Standard normal draws from the operating system's randomness (Box and Muller, 53-bit uniforms).

    Their tails end at 8.7 deviations; they are for noise that is then rounded.
    """
    words = np.frombuffer(os.urandom(16 * count), "<u8").reshape(2, count) >> np.uint64(11)
    radius, angle = (words + 0.5) * 2.0**-53
    return np.asarray(np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle))
