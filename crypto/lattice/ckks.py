"""CKKS: approximate sums, and how a sum is made safe before its decryption is released.

A decrypted CKKS vector is the message plus the noise of its ciphertexts. Two such vectors with their ciphertexts reveal
the secret key by linear algebra (Li and Micciancio, eprint 2020/1533). So `flood` adds larger Gaussian noise before a
sum is decrypted, by the rule of Li, Micciancio, Schultz and Sorrell (eprint 2022/816), and `released` rounds the
decrypted values to a grid. Only parties that encrypt or decrypt load TenSEAL.
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
"""s: replacing the scheme's error in all decryptions of a session changes their distribution by a Kullback–Leibler
divergence of at most 2⁻ˢ. By Pinsker's inequality an attacker's advantage (the total variation) is at most
2^(−(s + 1)/2). For s = 40 the rule's constants give 2⁻⁴⁴ and 2⁻²²."""

_LOG_TAIL = 61 * log(2)  # as in `bfv`: 2²⁰ slots, a probability of 2⁻⁴⁰
_TAILS = 9.2  # deviations: any of 2²⁰ Gaussian draws exceeds them with a probability of 2⁻⁴⁰
_TRANSFORM = 2.0**-46


@dataclass(frozen=True)
class Demand:
    """A requested sum of `length` values.

    bound: of each entry of a client's vector. error: tolerated in each entry of the sum; infinite: as small as the best
    set allows.
    """

    length: int
    bound: float
    error: float = inf


def choose(demands: Sequence[Demand], summands: int) -> tuple[Lattice, list[FixedPoint]]:
    """Choose the set for sums of `summands` clients, and each sum's encoding: a value is multiplied by 2^fraction_bits.

    The compact set if it meets every requested error, otherwise the precise one.
    Raises `CryptoError` if the precise set does not meet them either.
    """
    refused = ""
    if all(demand.error == inf for demand in demands):
        return SETS[-1], [fit(demand, summands, SETS[-1]) for demand in demands]
    for lattice in SETS:
        encodings = [fit(demand, summands, lattice) for demand in demands]
        decryptions = sum(lattice.count(demand.length) for demand in demands)
        for demand, encoding in zip(demands, encodings, strict=True):
            error = entry_error(lattice, encoding, summands, decryptions)
            if error > demand.error:
                refused = (
                    f"{lattice.name} guarantees an error of {error:.2g}, but {demand.error:.2g} was requested"
                )
                break
        else:
            return lattice, encodings
    raise CryptoError(f"{refused}: agree on a smaller bound, or accept a larger error")


def fit(demand: Demand, summands: int, lattice: Lattice) -> FixedPoint:
    """The finest encoding (a power of two) with which no sum can leave (−q/2, q/2): the largest slot bounds the
    coefficients."""
    if not (np.isfinite(demand.bound) and demand.bound > 0):
        raise CryptoError(f"expected a finite positive bound, got {demand.bound}")
    if 256 * noise(lattice, summands) > lattice.modulus // 2:
        raise CryptoError(f"{lattice.name} cannot hold the noise of {summands} ciphertexts")
    # Start from the bits that a client could have alone, plus one since logarithms are rounded; exact integers decide.
    bits = floor(log2(lattice.room) - log2(demand.bound)) + 1
    while bits >= FRACTION_BITS[0] and summands * units_of(demand.bound, bits) > lattice.room:
        bits -= 1
    if bits not in FRACTION_BITS:
        raise CryptoError(f"{lattice.name} cannot hold a sum of {summands} values up to {demand.bound:g}")
    return FixedPoint(bits, units_of(demand.bound, bits), summands, 8)


def noise(lattice: Lattice, summands: int) -> float:
    """Bound on every slot of a sum's noise, in units of 2^-scale_bits; it fails with probability 2⁻⁴⁰ at most (for
    2²⁰ slots).

    As in `bfv.noise`, each coefficient has two rounding errors (variance 1/12), the second times the secret. In the
    canonical embedding each slot adds N coefficients; the weights have norm² N/2 in the real and in the imaginary
    part. The rounding of the encoded message, half a unit per coefficient, enters at its worst case.
    """
    degree = lattice.degree
    part = sqrt(2 * summands * degree / 24 * _LOG_TAIL)  # of the real or the imaginary part of one error
    secret = sqrt(2 * degree / 3 * _LOG_TAIL)
    fresh = 3.2 * sqrt(2 * summands * degree * _LOG_TAIL) * (1 + 3 * secret) * 2 / lattice.key_prime
    return 2 * part * (1 + secret) + fresh + summands * degree / 2


def deviation(lattice: Lattice, encoding: FixedPoint, summands: int, decryptions: int) -> float:
    """σ of the flooding noise on each entry of a sum: √(12·decryptions)·2^(s/2)·‖noise of one ciphertext‖₂.

    decryptions: number of ciphertexts decrypted in the whole session. The norm is over a ciphertext's slots:
    N^1.5·√(n/24) for a secret of norm² N, doubled so that it holds for all but a negligible share of keys and
    ciphertexts.
    """
    norm = 2 * lattice.degree**1.5 * sqrt(summands / 24) + sqrt(lattice.slots) * summands / 2
    units: float = sqrt(12 * decryptions) * 2.0 ** (FLOODING_BITS / 2) * norm
    return units * 2.0 ** (-lattice.scale_bits - encoding.fraction_bits)


def entry_error(lattice: Lattice, encoding: FixedPoint, summands: int, decryptions: int) -> float:
    """Bound on |released − exact sum| of 2²⁰ entries; it fails with probability 2⁻³⁸ at most.

    It adds the scheme's noise, the flooding, the grid, and the error of SEAL's float64 transforms of the clients'
    vectors and of the sum: 2⁻⁴⁶ of the largest sum for each, together about twenty times the worst round trip that
    the tests found (`tests/crypto/lattice/test_ckks.py`).
    """
    rounded = lattice.degree / 2  # worst case of rounding the flooding noise to integers
    scheme = (noise(lattice, summands) + rounded) * 2.0 ** (-lattice.scale_bits - encoding.fraction_bits)
    sigma = deviation(lattice, encoding, summands, decryptions)
    largest = summands * encoding.magnitude * 2.0**-encoding.fraction_bits
    return scheme + (_TAILS + 1 / 16) * sigma + 2 * _TRANSFORM * largest


def encrypt(
    lattice: Lattice, public_key: bytes, values: npt.NDArray[np.float64], encoding: FixedPoint
) -> Residues:
    """Encrypt real values within the encoding's bound. Raises `CryptoError` like `FixedPoint.encode`."""
    from secure_afl.crypto.lattice import seal  # loads TenSEAL; a server does not need it

    encoding.encode(values)  # refuses values that are not finite or exceed the bound
    return seal.encrypt(lattice, public_key, np.ldexp(values, encoding.fraction_bits))


def flood(
    total: Residues, lattice: Lattice, encoding: FixedPoint, summands: int, decryptions: int
) -> Residues:
    """Add Gaussian noise of `deviation` to a sum of ciphertexts, before it is decrypted.

    The noise is added to the integers of the encrypted polynomial, so every later step processes only values that the
    rule has made safe. Noise added to decrypted values would come too late: the rounding in SEAL's float64 transform
    depends on the scheme's noise. With large entries under the precise set this leaks hundreds of times the difference
    that `deviation` allows for (`test_float64_carries_noise_past_a_flooding_that_comes_after_it`).
    Raises `CryptoError` if the modulus has no room for it.
    """
    sigma: float = np.ldexp(
        deviation(lattice, encoding, summands, decryptions), encoding.fraction_bits + lattice.scale_bits
    ) * sqrt(2 / lattice.degree)  # per coefficient; a slot's real part adds N with weights of norm² N/2
    left = lattice.modulus // 2 - (lattice.room << lattice.scale_bits)
    if _TAILS * sigma + noise(lattice, summands) > min(left, 2**62):
        raise CryptoError(f"{lattice.name} cannot hold the flooding noise of {decryptions} decryptions")
    draws = np.rint(sigma * gaussian(len(total) * lattice.degree)).astype(np.int64)
    added = np.zeros_like(total)
    for at, prime in enumerate(lattice.primes):
        residues = (draws % np.int64(prime)).view(np.uint64).reshape(len(total), lattice.degree)
        added[:, 0, at] = ntt.forward(residues, prime)
    lattice.add(added, total)
    return added


def released(
    slots: npt.NDArray[np.float64], lattice: Lattice, encoding: FixedPoint, summands: int, decryptions: int
) -> npt.NDArray[np.float64]:
    """Round the decryption of a flooded sum for release, to a grid with spacing a power of two of at most σ/8.

    slots: in units of the encoding. Raises `CryptoError` if an entry exceeds what clients within the bound can
    contribute: the sum was altered or encrypted under another key.
    """
    sigma = deviation(lattice, encoding, summands, decryptions)
    limit = (
        summands * encoding.magnitude * (1 + 2.0**-30) + noise(lattice, summands) * 2.0**-lattice.scale_bits
    )
    limit += _TAILS * float(np.ldexp(sigma, encoding.fraction_bits))
    if len(slots) and not float(np.abs(slots).max()) <= limit:
        raise CryptoError(
            f"the sum of {summands} clients has an entry over {limit:g} units, which clients that keep to the "
            "agreed bound cannot reach: a client is faulty, a message was altered, or the key is wrong"
        )
    grid = 2.0 ** floor(log2(sigma / 8))
    return np.asarray(np.rint(np.ldexp(slots, -encoding.fraction_bits) / grid) * grid)


def gaussian(count: int) -> npt.NDArray[np.float64]:
    """Draw standard normal values from the operating system's randomness (Box–Muller, 53-bit uniforms).

    The tails end at 8.7 deviations. Use them only for noise that is then rounded.
    """
    words = np.frombuffer(os.urandom(16 * count), "<u8").reshape(2, count) >> np.uint64(11)
    radius, angle = (words + 0.5) * 2.0**-53
    return np.asarray(np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle))
