"""The transform is a product modulo X^N + 1, and it is SEAL's."""

from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tenseal import sealapi

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.lattice import ntt, seal
from secure_afl.crypto.lattice.parameter_sets import LATTICES

SEAL_PRIMES = sorted(
    {(one.degree, p) for one in LATTICES.values() for p in (*one.primes, one.key_prime)}
    | {(one.degree, one.plain_modulus) for one in LATTICES.values() if one.plain_modulus}
)


def is_prime(number: int) -> bool:
    """Miller and Rabin; these bases decide every number below 2⁶⁴."""
    bases = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
    if number < 2 or any(number % base == 0 for base in bases):
        return number in bases
    odd = number - 1
    twos = (odd & -odd).bit_length() - 1
    odd >>= twos
    for base in bases:
        power = pow(base, odd, number)
        if power != 1 and all(pow(power, 1 << step, number) != number - 1 for step in range(twos)):
            return False
    return True


@st.composite
def rings(draw: st.DrawFn, degrees: tuple[int, ...] = (2, 4, 8, 16, 32)) -> tuple[int, int]:
    """A degree and a prime below 2⁶⁰ that is 1 modulo twice the degree, of any size."""
    degree = draw(st.sampled_from(degrees))
    bits = draw(st.integers(12, 60))
    step = 2 * degree
    start = draw(st.integers(2 ** (bits - 1), 2**bits - 1)) // step * step + 1
    upwards = (p for p in count(start, step) if is_prime(p))
    prime = next(upwards)
    if prime >= 2**ntt.PRIME_BITS:
        prime = next(p for p in count(start, -step) if is_prime(p))
    return degree, prime


def words(draw: st.DrawFn, size: int, below: int) -> np.ndarray:
    """Random words with the extremes among them."""
    entry = st.integers(0, below - 1) | st.sampled_from([0, 1, below - 1, below // 2])
    return np.array(draw(st.lists(entry, min_size=size, max_size=size)), np.uint64)


def drawn(shape: tuple[int, ...], prime: int) -> np.ndarray:
    return np.random.default_rng(prime % 1000).integers(0, prime, shape, dtype=np.uint64)


@given(st.data(), st.integers(2, 2**60 - 1))
def test_multiply_is_multiplication_of_integers(data: st.DataObject, modulus: int) -> None:
    left = data.draw(st.composite(words)(8, 2**63))
    right = data.draw(st.composite(words)(8, modulus))
    product = ntt.multiply(left, ntt.factors(right, modulus), modulus)
    expected = [a * b % modulus for a, b in zip(left.tolist(), right.tolist(), strict=True)]
    assert product.tolist() == expected


@pytest.mark.parametrize("modulus", [2, 3, 2**31 - 1, 2**59 + 1, 2**60 - 1])
def test_multiply_holds_at_the_edges(modulus: int) -> None:
    edges = [0, 1, 2**31 - 1, 2**31, 2**32, 2**62 - 1, 2**62, 2**63 - 2**31, 2**63 - 1]
    left = np.array(
        [*edges, *(modulus * k - 1 for k in range(1, 9)), *(modulus * k for k in range(8))], np.uint64
    )
    right = np.array(sorted({0, 1, modulus // 2, modulus - 1}), np.uint64)
    table = np.repeat(left[:, None], len(right), axis=1)
    product = ntt.multiply(table, ntt.factors(right, modulus), modulus)
    assert product.tolist() == [[a * b % modulus for b in right.tolist()] for a in left.tolist()]


# y and w for which what `_product` leaves out adds up to nearly three primes; found by search.
WORST = [(9203977210086555647, 348522458648503364), (9158929256623898623, 267962934434916454)]
P60 = LATTICES["bfv-46"].primes[0]


@pytest.mark.parametrize(("y", "w"), [*WORST, (8 * P60 - 1, P60 - 1), (0, 0), (4 * P60, 1)])
def test_butterflies_are_right_and_within_their_bounds_at_the_worst_words(y: int, w: int) -> None:
    """Numbers are below 8 primes on the way forward, 4 on the way back, or the next stage would be wrong."""
    by = ntt.Factors(*(part.reshape(1, 1) for part in ntt.factors(np.array([w], np.uint64), P60)))
    edges = sorted({max(0, k * P60 + off) for k in range(9) for off in (-1, 0, 1)} - {8 * P60, 8 * P60 + 1})
    left = np.array(edges, np.uint64)
    if (y, w) in WORST:
        assert ntt._product(np.array([[y]], np.uint64), by, np.uint64(P60)).item() > 3.98 * P60
    pairs = np.stack((left, np.full_like(left, y))).reshape(1, 1, 2, -1)
    ntt._spread(pairs, by, P60)
    plus, minus = pairs[0, 0].tolist()
    assert max(plus + minus) < 8 * P60
    assert [one % P60 for one in plus] == [(x + w * y) % P60 for x in edges]
    assert [one % P60 for one in minus] == [(x - w * y) % P60 for x in edges]

    low = [x for x in edges if x < 4 * P60]
    columns = [(x, other) for x in low for other in low]
    pairs = np.array(columns, np.uint64).T.copy().reshape(1, 1, 2, -1)
    ntt._gather(pairs, by, P60)
    plus, minus = pairs[0, 0].tolist()
    assert max(plus + minus) < 4 * P60
    assert [one % P60 for one in plus] == [(x + other) % P60 for x, other in columns]
    assert [one % P60 for one in minus] == [w * (x - other) % P60 for x, other in columns]


@pytest.mark.slow
@given(st.data(), rings())
def test_the_product_is_the_schoolbooks(data: st.DataObject, ring: tuple[int, int]) -> None:
    degree, prime = ring
    left = data.draw(st.composite(words)(degree, prime))
    right = data.draw(st.composite(words)(degree, prime))
    expected = [0] * degree
    for i, a in enumerate(left.tolist()):
        for j, b in enumerate(right.tolist()):
            expected[(i + j) % degree] += a * b if i + j < degree else -a * b
    factors = ntt.factors(ntt.forward(right, prime), prime)
    product = ntt.inverse(ntt.multiply(ntt.forward(left, prime), factors, prime), prime)
    assert product.tolist() == [one % prime for one in expected]


@given(st.data(), rings((2, 8, 64)))
def test_places_are_values_at_reversed_odd_powers_of_the_smallest_root(
    data: st.DataObject, ring: tuple[int, int]
) -> None:
    degree, prime = ring
    polynomial = data.draw(st.composite(words)(degree, prime))
    values = ntt.forward(polynomial, prime)
    root, bits = ntt.root(degree, prime), degree.bit_length() - 1
    assert root == min(pow(root, power, prime) for power in range(1, 2 * degree, 2))
    assert pow(root, degree, prime) == prime - 1
    for at in range(degree):
        point = pow(root, 2 * int(f"{at:0{bits}b}"[::-1], 2) + 1, prime)
        horner = 0
        for coefficient in reversed(polynomial.tolist()):
            horner = (horner * point + coefficient) % prime
        assert int(values[at]) == horner


@settings(max_examples=30)
@given(rings((2, 4, 64, 128, 1024)), st.sampled_from([(), (0,), (1,), (9,), (2, 3), (17, 1)]))
def test_inverse_undoes_forward_for_any_shape(ring: tuple[int, int], shape: tuple[int, ...]) -> None:
    degree, prime = ring
    polynomials = drawn((*shape, degree), prime)
    before = polynomials.copy()
    values = ntt.forward(polynomials, prime)
    assert values.dtype == np.uint64
    assert values.shape == before.shape
    assert not values.size or int(values.max()) < prime
    assert np.array_equal(ntt.inverse(values, prime), before)
    assert np.array_equal(polynomials, before)
    for place in np.ndindex(*shape):
        assert np.array_equal(values[place], ntt.forward(before[place], prime))


@pytest.mark.parametrize(("degree", "prime"), SEAL_PRIMES)
def test_inverse_undoes_forward_in_the_sets_of_the_framework(degree: int, prime: int) -> None:
    polynomials = drawn((3, degree), prime)
    polynomials[0], polynomials[1] = prime - 1, 0
    assert np.array_equal(ntt.inverse(ntt.forward(polynomials, prime), prime), polynomials)
    assert np.array_equal(ntt.forward(ntt.inverse(polynomials, prime), prime), polynomials)


@pytest.mark.parametrize("lattice", LATTICES.values(), ids=LATTICES)
def test_seals_secret_key_is_ternary_in_our_coefficients(lattice: object) -> None:
    assert isinstance(lattice, type(LATTICES["bfv-46"]))
    primes = (*lattice.primes, lattice.key_prime)
    saved = seal._saved(sealapi.KeyGenerator(seal._context(lattice)).secret_key())
    values = seal._words(saved, len(primes) * lattice.degree).reshape(len(primes), lattice.degree)
    found = []
    for prime, row in zip(primes, values, strict=True):
        coefficients = ntt.inverse(row, prime).view(np.int64)
        found.append(np.where(coefficients > prime // 2, coefficients - prime, coefficients))
    assert set(found[0].tolist()) == {-1, 0, 1}
    assert all(np.array_equal(found[0], other) for other in found)


@pytest.mark.parametrize(
    ("degree", "prime"),
    [(8, 19), (3, 7), (1, 7), (0, 7), (8, 2**60 + 33), (8, 2), (8, 1), (8, 2**61 - 1), (8, 49), (8, 15**2)],
)
def test_a_modulus_that_does_not_fit_is_refused(degree: int, prime: int) -> None:
    with pytest.raises(CryptoError):
        ntt.forward(np.zeros(degree, np.uint64), prime)
