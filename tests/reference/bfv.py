"""BFV with Python's integers, for one key holder: keys, encryption and decryption (docs/encrypted-protocol.md §3, §4).

Polynomials are lists of their coefficients, the constant first, modulo x^N + 1.
"""

from functools import cache

from reference.lattice import Residues, Set, exponents, pack, root, unpack
from reference.refused import need

Polynomial = list[int]


def multiply(one: Polynomial, other: Polynomial, prime: int) -> Polynomial:
    """Their product: written as two large integers, whose product has the coefficients in its digits."""
    size = len(one)
    digit = (2 * prime.bit_length() + size.bit_length() + 7) // 8
    first, second = (
        int.from_bytes(b"".join((c % prime).to_bytes(digit, "little") for c in each), "little")
        for each in (one, other)
    )
    digits = (first * second).to_bytes(2 * size * digit, "little")
    long = [int.from_bytes(digits[at : at + digit], "little") for at in range(0, len(digits), digit)]
    return [(low - high) % prime for low, high in zip(long[:size], long[size:], strict=True)]


def _values(polynomial: Polynomial, omega: int, prime: int) -> list[int]:
    """At ω^0, ω^1, …, by halves."""
    if len(polynomial) == 1:
        return polynomial
    even, odd = (_values(polynomial[k::2], omega * omega % prime, prime) for k in (0, 1))
    turned, power = [], 1
    for one in odd:
        turned.append(one * power % prime)
        power = power * omega % prime
    plus = [(a + b) % prime for a, b in zip(even, turned, strict=True)]
    return plus + [(a - b) % prime for a, b in zip(even, turned, strict=True)]


def values(polynomial: Polynomial, prime: int) -> list[int]:
    """At ψ^1, ψ^3, ψ^5, …"""
    psi = root(len(polynomial), prime)
    turned = [c * pow(psi, k, prime) % prime for k, c in enumerate(polynomial)]
    return _values(turned, psi * psi % prime, prime)


def interpolated(given: list[int], prime: int) -> Polynomial:
    """The opposite of `values`."""
    size = len(given)
    psi = root(size, prime)
    turned = _values(given, pow(psi, -2, prime), prime)
    return [c * pow(psi, -k, prime) * pow(size, -1, prime) % prime for k, c in enumerate(turned)]


def transformed(polynomial: Polynomial, prime: int) -> list[int]:
    """As a key travels: SEAL's form."""
    at = values([c % prime for c in polynomial], prime)
    return [at[(one - 1) // 2] for one in exponents(len(at))]


def untransformed(given: list[int], prime: int) -> Polynomial:
    """The opposite."""
    at = [0] * len(given)
    for one, value in zip(exponents(len(given)), given, strict=True):
        at[(one - 1) // 2] = value
    return interpolated(at, prime)


@cache
def slots(degree: int) -> list[int]:
    """Which of `values` holds entry i of a vector: that at ψ^(3^i), in the second half at ψ^(−3^(i − N/2))."""
    powers = [pow(3, i, 2 * degree) for i in range(degree // 2)]
    return [(one - 1) // 2 for one in (*powers, *(2 * degree - one for one in powers))]


def encoded(words: list[int], lattice: Set) -> Polynomial:
    """Up to N words of Z_t as a polynomial modulo t."""
    given = [0] * lattice.degree
    for at, word in zip(slots(lattice.degree), words, strict=False):
        given[at] = word
    return interpolated(given, lattice.t)


def public_key(lattice: Set, secret: Polynomial, uniform: Residues, errors: Polynomial) -> bytes:
    """(−(a·s + e), a), transformed. uniform: a for each prime of a key, in coefficient form."""
    first, second = [], []
    for prime, a in zip(lattice.key_primes, uniform, strict=True):
        b = [-(one + e) for one, e in zip(multiply(a, secret, prime), errors, strict=True)]
        first.append(transformed(b, prime))
        second.append(transformed(a, prime))
    return pack([b + a for b, a in zip(first, second, strict=True)], lattice.key_primes)


def encrypted(
    lattice: Set, key: bytes, words: list[int], u: Polynomial, errors: tuple[Polynomial, Polynomial]
) -> Residues:
    """The ciphertext (b·u + e₀, a·u + e₁), divided by the key prime and rounded, with the scaled words added."""
    degree = lattice.degree
    fresh: list[list[Polynomial]] = []  # by prime of a key
    for prime, row in zip(lattice.key_primes, unpack(key, lattice.key_primes, 2 * degree), strict=True):
        fresh.append([])
        for half, error in enumerate(errors):
            given = untransformed(row[half * degree : (half + 1) * degree], prime)
            product = multiply(given, u, prime)
            fresh[-1].append([(one + e) % prime for one, e in zip(product, error, strict=True)])
    last, scaled = (
        lattice.key_prime,
        [(lattice.q * one + lattice.t // 2) // lattice.t for one in encoded(words, lattice)],
    )
    found = []
    for prime, (c0, c1) in zip(lattice.primes, fresh, strict=False):
        inverse, halves = pow(last, -1, prime), []
        for mine, rest in ((c0, fresh[-1][0]), (c1, fresh[-1][1])):
            centred = [one - last if one > last // 2 else one for one in rest]
            halves.append([(one - off) * inverse % prime for one, off in zip(mine, centred, strict=True)])
        found.append([(one + more) % prime for one, more in zip(halves[0], scaled, strict=True)] + halves[1])
    return found


def decrypted(lattice: Set, secret: Polynomial, ciphertext: bytes, length: int) -> tuple[list[int], int]:
    """The words of a ciphertext, and its largest noise: it must be below q/2t. For sets of one prime of q."""
    need(len(lattice.primes) == 1, "a set of one prime")
    (row,) = unpack(ciphertext, lattice.primes, 2 * lattice.degree)
    q, t = lattice.q, lattice.t
    product = multiply(row[lattice.degree :], secret, q)
    phase = [(one + other) % q for one, other in zip(row[: lattice.degree], product, strict=True)]
    words = [(t * one + q // 2) // q for one in phase]
    noise = max(abs(one - (q * word + t // 2) // t) for one, word in zip(phase, words, strict=True))
    at = values([one % t for one in words], t)
    return [at[k] for k in slots(lattice.degree)][:length], noise
