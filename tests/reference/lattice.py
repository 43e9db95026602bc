"""Parameter sets, residues, tags, transformed polynomials and joint keys (docs/encrypted-protocol.md §3, §4)."""

from dataclasses import dataclass
from functools import cache
from math import prod

from reference.fixedpoint import unpack as unpack_words
from reference.kdf import derive, u64
from reference.masks import below, stream
from reference.refused import need

Residues = list[list[int]]
"""For each prime its residues, in the order ciphertext, polynomial, coefficient."""


@dataclass(frozen=True)
class Set:
    """A parameter set; t is 0 for CKKS, the scale's bits are 0 for BFV."""

    name: str
    degree: int
    primes: tuple[int, ...]
    key_prime: int
    t: int = 0
    scale_bits: int = 0

    @property
    def q(self) -> int:
        return prod(self.primes)

    @property
    def key_primes(self) -> tuple[int, ...]:
        return (*self.primes, self.key_prime)

    @property
    def room(self) -> int:
        """The largest magnitude of an entry of a sum, in units of a code."""
        return self.t // 2 if self.t else (self.q // 2 * 255 // 256) >> self.scale_bits


P60, P40 = 1152921504606830593, (1099511390209, 1099511480321)
P46, P56 = (70368743587841, 70368743669761), (72057594037338113, 72057594037370881, 72057594037616641)
SETS = {
    "bfv-46": Set("bfv-46", 4096, (P60,), 40961, t=70368743374849),
    "bfv-60": Set("bfv-60", 4096, P40, 114689, t=P60),
    "bfv-60-joint": Set("bfv-60-joint", 8192, P56, 114689, t=P60),
    "ckks-compact": Set("ckks-compact", 4096, (P60,), 40961, scale_bits=28),
    "ckks-precise": Set("ckks-precise", 4096, P46, 114689, scale_bits=55),
}


def width(prime: int) -> int:
    """Bytes a residue."""
    return max(4, (prime.bit_length() + 7) // 8)


def pack(residues: Residues, primes: tuple[int, ...]) -> bytes:
    return b"".join(
        one.to_bytes(width(prime), "little")
        for prime, row in zip(primes, residues, strict=True)
        for one in row
    )


def unpack(data: bytes, primes: tuple[int, ...], count: int) -> Residues:
    """So many residues of each prime. Refuses other sizes, and what is not below its prime."""
    need(len(data) == count * sum(map(width, primes)), "as many bytes as the agreement says")
    residues, at = [], 0
    for prime in primes:
        size = count * width(prime)
        residues.append(unpack_words(data[at : at + size], count, width(prime)))
        need(all(one < prime for one in residues[-1]), "residues below their prime")
        at += size
    return residues


def add(one: Residues, other: Residues, primes: tuple[int, ...]) -> Residues:
    return [
        [(a + b) % prime for a, b in zip(row, second, strict=True)]
        for prime, row, second in zip(primes, one, other, strict=True)
    ]


# ---- tags ----------------------------------------------------------------------------------------


def tags(residues: Residues, primes: tuple[int, ...], seed: bytes) -> list[int]:
    """For each prime two inner products with 32-bit coefficients from the seed."""
    need(len(seed) == 32, "a seed of 32 bytes")
    found = []
    for j, (prime, row) in enumerate(zip(primes, residues, strict=True)):
        for k in range(2):
            coefficients = stream(derive(seed, "TAG_COEFFICIENTS", bytes([j, k])), size=4)(len(row))
            found.append(sum(a * b for a, b in zip(row, coefficients, strict=True)) % prime)
    return found


def add_tags(one: list[int], other: list[int], primes: tuple[int, ...]) -> list[int]:
    each = [prime for prime in primes for _ in range(2)]
    for given in (one, other):
        need(len(given) == len(each), "two tags for each prime")
        need(all(0 <= tag < prime for tag, prime in zip(given, each, strict=True)), "tags below their prime")
    return [(a + b) % prime for a, b, prime in zip(one, other, each, strict=True)]


# ---- transformed polynomials ---------------------------------------------------------------------


@cache
def root(degree: int, prime: int) -> int:
    """ψ: the smallest number with ψ^N = −1."""
    need(degree >= 2 and degree & (degree - 1) == 0, "a power of two")
    need(2 < prime < 2**60 and (prime - 1) % (2 * degree) == 0, "a prime below 2^60 that is 1 modulo 2N")
    candidates = (pow(base, (prime - 1) // (2 * degree), prime) for base in range(2, 1000))
    some = next((one for one in candidates if pow(one, degree, prime) == prime - 1), 0)
    need(some > 0, "a prime")
    powers, square = [some], some * some % prime
    for _ in range(degree - 1):
        powers.append(powers[-1] * square % prime)
    return min(powers)


def exponents(degree: int) -> list[int]:
    """2·r(i) + 1 for each place i, r reversing its bits."""
    bits = degree.bit_length() - 1
    return [2 * int(f"{i:0{bits}b}"[::-1], 2) + 1 for i in range(degree)]


def transformed(polynomial: list[int], prime: int) -> list[int]:
    """The values at ψ^(2·r(i) + 1)."""
    degree, psi = len(polynomial), root(len(polynomial), prime)
    terms = [(k, c) for k, c in enumerate(polynomial) if c]
    return [sum(c * pow(psi, k * e, prime) for k, c in terms) % prime for e in exponents(degree)]


def untransformed(values: list[int], prime: int) -> list[int]:
    """Coefficients: 1/N times the sum of values at ψ^(−k·e)."""
    degree, psi = len(values), root(len(values), prime)
    terms = [(e, v) for e, v in zip(exponents(degree), values, strict=True) if v]
    share = pow(degree, -1, prime)
    return [sum(v * pow(psi, -k * e, prime) for e, v in terms) * share % prime for k in range(degree)]


# ---- joint keys ----------------------------------------------------------------------------------


def common(lattice: Set, transcript: bytes) -> Residues:
    """The public polynomial a, transformed, for each prime of a key."""
    return [
        below(
            stream(derive(transcript, "JOINT_POLYNOMIAL", lattice.name.encode(), u64(prime))),
            lattice.degree,
            prime,
        )
        for prime in lattice.key_primes
    ]


def joint_key(lattice: Set, transcript: bytes, shares: list[bytes]) -> bytes:
    """The public key (Σb, a) of all holders' b."""
    need(len(shares) >= 2 and len(set(shares)) == len(shares), "two or more different shares")
    first, *others = [unpack(share, lattice.key_primes, lattice.degree) for share in shares]
    for other in others:
        first = add(first, other, lattice.key_primes)
    second = common(lattice, transcript)
    return pack([b + a for b, a in zip(first, second, strict=True)], lattice.key_primes)


def opened(lattice: Set, total: bytes, partials: list[bytes], count: int) -> bytes:
    """c₀ and all partial decryptions added, with zeros as the second polynomial."""
    size, primes = lattice.degree, lattice.primes
    residues = unpack(total, primes, 2 * count * size)
    parts = [unpack(partial, primes, count * size) for partial in partials]
    for at in range(count):
        for j, prime in enumerate(primes):
            for i in range(size):
                here = 2 * at * size + i
                residues[j][here] += sum(part[j][at * size + i] for part in parts)
                residues[j][here] %= prime
                residues[j][here + size] = 0
    return pack(residues, primes)
