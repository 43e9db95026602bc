"""BFV: exact sums of the same fixed-point integers that masks carry, modulo a prime t.

Which set and which code a session takes is a function of public numbers alone. TenSEAL is loaded only by
who encrypts or decrypts.
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
"""Bits of noise budget without which no sum is given out."""

# ln(2·2⁶⁰): a bound that holds for 2²⁰ coefficients but for a probability of 2⁻⁴⁰.
_LOG_TAIL = 61 * log(2)


@dataclass(frozen=True)
class Demand:
    """A sum: no entry of one client's vector is over `bound`; at least so many fraction bits."""

    bound: float
    fraction_bits: int


def choose(
    demands: Sequence[Demand], summands: int, sets: Sequence[Lattice] = SETS
) -> tuple[Lattice, list[FixedPoint]]:
    """The smallest set that holds every sum of `summands` clients, and each sum's code.

    The code has the fraction bits of the one that masks would use, if the set holds it: then both sums are equal bit
    for bit. Else it is the finest that the set holds. Its entry error (`FixedPoint.entry_error`) is guaranteed.
    Raises `CryptoError` if no set holds a sum, or the noise of so many ciphertexts.
    """
    refused = ""
    for lattice in sets:
        try:
            if noise(lattice, summands) * 2 * 2**LEAST_BUDGET * lattice.plain_modulus > lattice.modulus:
                raise CryptoError(f"{lattice.name} does not bear the noise of {summands} ciphertexts")
            return lattice, [_code(demand, summands, lattice) for demand in demands]
        except CryptoError as error:
            refused = str(error)
    raise CryptoError(refused)


def _code(demand: Demand, summands: int, lattice: Lattice) -> FixedPoint:
    code = FixedPoint.fit(demand.bound, summands, demand.fraction_bits, room=lattice.room)
    # Nothing of a word is cut off on the wire: a sum is checked as a whole.
    return replace(code, width=8)


def noise(lattice: Lattice, summands: int, holders: int = 1) -> float:
    """No coefficient of a sum's noise is larger, but for a probability of 2⁻⁴⁰ (2²⁰ coefficients).

    A fresh ciphertext is switched down from the key prime: that rounds each coefficient of both polynomials, and the
    second error is multiplied by the secret, of norm² at most N for each holder. Uniform errors are subgaussian
    with their variance 1/12. The noise of encryption itself, divided by the key prime, is a few units.
    """
    n, degree = summands, lattice.degree
    switched = sqrt(2 * n * (1 + holders * degree) / 12 * _LOG_TAIL)
    # e·u + e₀ + e₁·s: Gaussian errors of deviation 3.2, clipped at 6 of it; ternary u and s.
    fresh = sqrt(2 * n * 3.2**2 * (1 + 2 * holders * degree) * _LOG_TAIL) * 3 / lattice.key_prime
    return switched + fresh + n / 2  # and the rounding of the scaled message


def encrypt(lattice: Lattice, public_key: bytes, words: npt.NDArray[np.uint64]) -> Residues:
    """Ciphertexts of words in Z_t."""
    from secure_afl.crypto.lattice import seal  # loads TenSEAL, which a server does without

    if len(words) and int(words.max()) >= lattice.plain_modulus:
        raise CryptoError("expected words below the plain modulus, got larger ones")
    return seal.encrypt(lattice, public_key, ring.centred(words, lattice.plain_modulus))


def checked(values: npt.NDArray[np.int64], budget: int, lattice: Lattice) -> npt.NDArray[np.uint64]:
    """Decrypted values as words of Z_t. Raises `CryptoError` where too little budget was left to believe them."""
    if budget < LEAST_BUDGET:
        raise CryptoError(
            f"expected a noise budget of at least {LEAST_BUDGET} bits, {budget} are left: the sum has too many "
            "summands, was altered, or is under another key"
        )
    return ring.modular(values.view(np.uint64), lattice.plain_modulus)
