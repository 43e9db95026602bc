"""Products of polynomials modulo X^N + 1 and a prime below 2⁶⁰, in NumPy.

The negacyclic number-theoretic transform in SEAL's convention: ψ is the smallest primitive 2N-th root of one, and entry
i of a transformed polynomial is its value at ψ^(2·r(i) + 1), where r reverses the log₂ N bits of i. So transformed
polynomials can be exchanged with SEAL. The butterflies follow Harvey, "Faster arithmetic for number-theoretic
transforms", 2014: factors prepared as by Shoup, and reductions delayed.

All arrays are uint64. No branch and no address depends on their entries.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from secure_afl.crypto.errors import CryptoError

Words = npt.NDArray[np.uint64]

PRIME_BITS = 60
_HALF = np.uint64(31)
_LOW = np.uint64(2**31 - 1)
_ROWS = 8  # polynomials transformed together; with N = 8192 they and their scratch stay in cache


class Factors(NamedTuple):
    """Numbers to multiply by modulo a prime, and the two 31-bit halves of ⌊2⁶²·number / prime⌋ for each."""

    numbers: Words
    high: Words
    low: Words


def factors(numbers: Words, prime: int) -> Factors:
    """Prepare numbers below the prime, of any shape, for `multiply`."""
    # Python integers are fast enough: this runs once per key or table.
    quotients = np.array([(one << 62) // prime for one in numbers.ravel().tolist()], np.uint64)
    quotients = quotients.reshape(numbers.shape)
    return Factors(numbers, quotients >> _HALF, quotients & _LOW)


def multiply(words: Words, by: Factors, prime: int) -> Words:
    """`words · by` modulo the prime, entry by entry, for words below 2⁶³; the factors broadcast to them."""
    return _reduced(_product(words, by, np.uint64(prime)), prime)


def forward(polynomials: Words, prime: int) -> Words:
    """Values of polynomials, shape (…, N), coefficients below the prime. Raises `CryptoError` like `root`."""
    tables = _tables(polynomials.shape[-1], prime)
    return _by_rows(polynomials, lambda rows: _forward(rows, tables, prime))


def inverse(values: Words, prime: int) -> Words:
    """The inverse of `forward`: coefficients from values below the prime, shape (…, N)."""
    tables = _tables(values.shape[-1], prime)
    return _by_rows(values, lambda rows: _inverse(rows, tables, prime))


def root(degree: int, prime: int) -> int:
    """The smallest primitive 2N-th root of one. Raises `CryptoError` if there is none below 2⁶⁰."""
    if degree < 2 or degree & (degree - 1) or not 2 < prime < 2**PRIME_BITS or (prime - 1) % (2 * degree):
        raise CryptoError(
            f"expected a power of two as degree and a prime below 2^{PRIME_BITS} that is 1 modulo twice "
            f"the degree, got {degree} and {prime}"
        )
    for base in range(2, 1000):
        found = pow(base, (prime - 1) // (2 * degree), prime)
        if pow(found, degree, prime) == prime - 1:
            break
    else:
        raise CryptoError(f"expected a prime, got {prime}")
    square, smallest = found * found % prime, found
    for _ in range(degree):  # the other roots are its odd powers
        found = found * square % prime
        smallest = min(smallest, found)
    return smallest


# ---- the transform -----------------------------------------------------------------------------------


class _Tables(NamedTuple):
    """powers: of ψ, for each stage, shaped to broadcast to its pairs; inverses: of ψ⁻¹; scale: 1/N."""

    powers: tuple[Factors, ...]
    inverses: tuple[Factors, ...]
    scale: Factors
    blocks: int


@lru_cache(maxsize=64)
def _tables(degree: int, prime: int) -> _Tables:
    psi, bits = root(degree, prime), degree.bit_length() - 1
    order = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(degree)]
    blocks = 1 << (bits + 1) // 2

    def stages(base: int) -> tuple[Factors, ...]:
        powers = [1]
        for _ in range(degree - 1):
            powers.append(powers[-1] * base % prime)
        table = factors(np.array([powers[at] for at in order], np.uint64), prime)
        found = []
        for groups in (1 << stage for stage in range(bits)):
            parts = [part[groups : 2 * groups] for part in table]
            if groups < blocks:
                parts = [part[:, None] for part in parts]
            else:
                parts = [np.ascontiguousarray(part.reshape(blocks, -1).T)[:, None] for part in parts]
            found.append(Factors(*parts))
        return tuple(found)

    scale = factors(np.array([pow(degree, -1, prime)], np.uint64), prime)
    return _Tables(stages(psi), stages(pow(psi, -1, prime)), scale, blocks)


def _by_rows(polynomials: Words, transform: Callable[[Words], Words]) -> Words:
    flat = polynomials.reshape(-1, polynomials.shape[-1])
    result = np.empty(flat.shape, np.uint64)
    for start in range(0, len(flat), _ROWS):
        result[start : start + _ROWS] = transform(flat[start : start + _ROWS].copy())
    return result.reshape(polynomials.shape)


# Stage s has 2^s groups. Pairs are N/2 apart in the first stage and adjacent in the last. NumPy is slow on short runs.
# So halfway through the stages each row is cut into blocks, which the later stages do not mix, and transposed: the
# runs then go across the blocks.


def _forward(rows: Words, tables: _Tables, prime: int) -> Words:
    count, degree = rows.shape
    blocks = tables.blocks
    for stage, by in enumerate(tables.powers):
        if 1 << stage < blocks:
            _spread(rows.reshape(count, 1 << stage, 2, -1), by, prime)
            continue
        if 1 << stage == blocks:
            rows = _turned(rows, blocks)
        _spread(rows.reshape(count, (1 << stage) // blocks, 2, -1, blocks), by, prime)
    rows = _turned(rows, degree // blocks)
    return _reduced(np.minimum(rows, rows - np.uint64(4 * prime)), prime)


def _inverse(rows: Words, tables: _Tables, prime: int) -> Words:
    count, degree = rows.shape
    blocks = tables.blocks
    rows = _turned(rows, blocks)
    for stage, by in reversed(list(enumerate(tables.inverses))):
        if 1 << stage < blocks:
            _gather(rows.reshape(count, 1 << stage, 2, -1), by, prime)
            continue
        _gather(rows.reshape(count, (1 << stage) // blocks, 2, -1, blocks), by, prime)
        if 1 << stage == blocks:
            rows = _turned(rows, degree // blocks)
    return _reduced(_product(rows, tables.scale, np.uint64(prime)), prime)


def _turned(rows: Words, height: int) -> Words:
    """Each row as a matrix of this height, transposed."""
    turned = rows.reshape(len(rows), height, -1).swapaxes(1, 2)
    return np.ascontiguousarray(turned).reshape(rows.shape)


def _spread(pairs: Words, by: Factors, prime: int) -> None:
    """(x, y) → (x + w·y, x − w·y) in place; all numbers stay below 8 primes, which is at most 2⁶³."""
    p, four = np.uint64(prime), np.uint64(4 * prime)
    x, y = pairs[:, :, 0], pairs[:, :, 1]
    product = _product(y, by, p)
    # Reduce x below 4 primes: where x is already below, the difference wraps around and is the larger number.
    x = np.minimum(x, x - four)
    np.add(x, product, out=pairs[:, :, 0])
    x += four
    np.subtract(x, product, out=pairs[:, :, 1])


def _gather(pairs: Words, by: Factors, prime: int) -> None:
    """(x, y) → (x + y, w·(x − y)) in place; all numbers stay below 4 primes."""
    p, four = np.uint64(prime), np.uint64(4 * prime)
    x, y = pairs[:, :, 0], pairs[:, :, 1]
    total, difference = x + y, x + four
    difference -= y
    np.minimum(total, total - four, out=pairs[:, :, 0])
    pairs[:, :, 1] = _product(difference, by, p)


def _product(words: Words, by: Factors, prime: np.uint64) -> Words:
    """`words · by` modulo the prime, plus up to three times the prime, for words below 2⁶³.

    With w' = ⌊2⁶²w/p⌋, xw'/2⁶² is less than 2 below the quotient xw/p, since x < 2⁶³ and w' is less than 1 below
    2⁶²w/p. Of the four products of 31-bit halves (the upper half of x has 32 bits), dropping the lowest loses less
    than 1, and shifting the middle two loses less than 1. Their sum is below 2⁶³ + 2⁶². So x·w − q·p is below
    4p < 2⁶⁴ and is correct modulo 2⁶⁴.
    """
    upper, lower = words >> _HALF, words & _LOW
    quotient = upper * by.low
    lower *= by.high
    quotient += lower
    quotient >>= _HALF
    upper *= by.high
    quotient += upper
    quotient *= prime
    result = words * by.numbers
    result -= quotient
    return result


def _reduced(words: Words, prime: int) -> Words:
    """Reduce words below four times the prime to words below the prime."""
    for times in (2, 1):
        np.minimum(words, words - np.uint64(times * prime), out=words)
    return words
