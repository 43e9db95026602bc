"""BFV: exact sums of fixed-point integers modulo a prime t, encoded as for masked sums.

Public numbers alone decide a session's parameter set and encoding. Only parties that encrypt or decrypt load TenSEAL.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log, sqrt

import numpy as np
import numpy.typing as npt

from secure_afl.crypto import ring
from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.fixed_point import FixedPoint
from secure_afl.crypto.lattice.parameter_sets import LATTICES, Lattice, Residues

SETS = (LATTICES["bfv-46"], LATTICES["bfv-60"])
JOINT_SETS = (LATTICES["bfv-60-joint"],)
LEAST_BUDGET = 2
"""The smallest noise budget, in bits, with which a sum is released."""

# ln(2·2⁶⁰): the bound fails for any of 2²⁰ coefficients with probability 2⁻⁴⁰ at most.
_LOG_TAIL = 61 * log(2)


@dataclass(frozen=True)
class Demand:
    """A requested sum: the bound on each entry of a client's vector, and the fewest fraction bits."""

    bound: float
    fraction_bits: int


def choose(
    demands: Sequence[Demand], summands: int, sets: Sequence[Lattice] = SETS
) -> tuple[Lattice, list[FixedPoint]]:
    """Choose the smallest set that holds every sum of `summands` clients, and an encoding for each sum.

    The encoding has the fraction bits that masked sums would use, if the set holds them: then both sums are equal bit
    for bit. Otherwise it is the finest that the set holds. Its entry error (`FixedPoint.entry_error`) is guaranteed.
    Raises `CryptoError` if no set holds the sums, or the noise of so many ciphertexts.
    """
    refused = ""
    for lattice in sets:
        try:
            if noise(lattice, summands) * 2 * 2**LEAST_BUDGET * lattice.plain_modulus > lattice.modulus:
                raise CryptoError(f"{lattice.name} cannot hold the noise of {summands} ciphertexts")
            return lattice, [_code(demand, summands, lattice) for demand in demands]
        except CryptoError as error:
            refused = str(error)
    raise CryptoError(refused)


def _code(demand: Demand, summands: int, lattice: Lattice) -> FixedPoint:
    encoding = FixedPoint.fit(demand.bound, summands, demand.fraction_bits, room=lattice.room)
    # Words travel in full: a sum is checked as a whole.
    return replace(encoding, width=8)


def noise(lattice: Lattice, summands: int, holders: int = 1) -> float:
    """Bound on every coefficient of a sum's noise; it fails with probability 2⁻⁴⁰ at most (for 2²⁰ coefficients).

    Encryption switches a fresh ciphertext down from the key prime. This rounds each coefficient of both polynomials;
    the second rounding error is multiplied by the secret, whose norm² is at most N per key holder. The errors are
    uniform, hence subgaussian with variance 1/12. The encryption noise itself, divided by the key prime, is a few
    units.
    """
    n, degree = summands, lattice.degree
    switched = sqrt(2 * n * (1 + holders * degree) / 12 * _LOG_TAIL)
    # e·u + e₀ + e₁·s: Gaussian errors of deviation 3.2, clipped at 6 deviations; ternary u and s.
    fresh = sqrt(2 * n * 3.2**2 * (1 + 2 * holders * degree) * _LOG_TAIL) * 3 / lattice.key_prime
    return switched + fresh + n / 2  # the last term: rounding of the scaled message


def encrypt(lattice: Lattice, public_key: bytes, words: npt.NDArray[np.uint64]) -> Residues:
    """Encrypt words of Z_t."""
    from secure_afl.crypto.lattice import seal  # loads TenSEAL; a server does not need it

    if len(words) and int(words.max()) >= lattice.plain_modulus:
        raise CryptoError("expected words below the plain modulus, got a larger word")
    return seal.encrypt(lattice, public_key, ring.centred(words, lattice.plain_modulus))


def checked(values: npt.NDArray[np.int64], budget: int, lattice: Lattice) -> npt.NDArray[np.uint64]:
    """Decrypted values as words of Z_t. Raises `CryptoError` if the remaining budget is too small to trust them."""
    if budget < LEAST_BUDGET:
        raise CryptoError(
            f"expected a noise budget of at least {LEAST_BUDGET} bits, {budget} are left: the sum has too many "
            "summands, was altered, or was encrypted under another key"
        )
    return ring.modular(values.view(np.uint64), lattice.plain_modulus)
