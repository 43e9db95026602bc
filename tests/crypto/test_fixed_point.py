from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_afl.crypto import ring
from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.fixed_point import FixedPoint

bounds = st.floats(2.0**-60, 2.0**40, allow_nan=False)
summands = st.integers(1, 5000)
bits = st.integers(-20, 60)


def fitted(bound: float, n: int, f: int) -> FixedPoint | None:
    try:
        return FixedPoint.fit(bound, n, f)
    except CryptoError:
        return None


@given(bounds, summands, bits)
def test_fit_gives_the_narrowest_width_that_cannot_overflow_and_fills_it(
    bound: float, n: int, f: int
) -> None:
    encoding = fitted(bound, n, f)
    units = max(1, -(-Fraction(bound) * Fraction(2) ** f // 1))
    if encoding is None:
        assert n * units >= 2**63
        return
    assert encoding.fraction_bits >= f
    assert encoding.magnitude >= Fraction(bound) * Fraction(2) ** encoding.fraction_bits
    assert n * encoding.magnitude < 2 ** (8 * encoding.width - 1)
    assert encoding.width == 4 or n * units >= 2 ** (8 * encoding.width - 9)
    if encoding.fraction_bits < 512:
        doubled = max(1, -(-Fraction(bound) * Fraction(2) ** (encoding.fraction_bits + 1) // 1))
        assert n * doubled >= 2 ** (8 * encoding.width - 1)


@given(bounds, st.integers(1, 6), bits, st.data())
def test_a_sum_is_exact_on_integers_and_within_its_error_on_reals(
    bound: float, n: int, f: int, data: st.DataObject
) -> None:
    encoding = fitted(bound, n, f)
    if encoding is None:
        return
    value = st.floats(-bound, bound)
    columns = data.draw(st.lists(st.lists(value, min_size=n, max_size=n), min_size=1, max_size=5))
    vectors = np.array(columns, dtype=np.float64).T
    total = np.zeros(len(columns), dtype=np.uint64)
    for vector in vectors:
        ring.add_packed(total, ring.pack(encoding.encode(vector.copy()), encoding.width), encoding.width)
    units = [
        sum(round(Fraction(x) * Fraction(2) ** encoding.fraction_bits) for x in column) for column in columns
    ]
    assert ring.signed(total, encoding.width).tolist() == units
    decoded = encoding.decode_sum(total, n)
    for got, column in zip(decoded, columns, strict=True):
        exact = sum(map(Fraction, column))
        rounding = abs(Fraction(float(got))) / 2**53
        assert abs(Fraction(float(got)) - exact) <= Fraction(encoding.entry_error(n)) + rounding


def test_a_signalling_nan_is_refused_without_a_warning() -> None:
    vector = np.array([0x7FF0000000000001], np.uint64).view(np.float64)
    with pytest.raises(CryptoError, match="1 of 1 values are not finite"):
        FixedPoint(3, 500, 1, 4).encode(vector)


@given(st.integers(1, 100), st.integers(0, 30), st.floats(allow_nan=True, allow_infinity=True))
def test_what_is_over_the_bound_is_refused_and_not_quoted(n: int, f: int, value: float) -> None:
    encoding = FixedPoint.fit(1000.0, n, f)
    inside = abs(value) <= encoding.magnitude / 2**encoding.fraction_bits
    vector = np.array([1.0, value])
    if inside:
        encoding.encode(vector)
        return
    with pytest.raises(CryptoError) as refused:
        encoding.encode(vector)
    assert "1 of 2 values" in str(refused.value)
    assert repr(value) not in str(refused.value) or not np.isfinite(value)


def test_an_impossible_sum_is_noticed() -> None:
    encoding = FixedPoint.fit(1.0, 4, 16)
    three = np.array([3 * encoding.magnitude], dtype=np.uint64)
    assert encoding.decode_sum(three, 3)
    negative = (-three.view(np.int64)).view(np.uint64)
    assert encoding.decode_sum(negative, 3) == -encoding.decode_sum(three, 3)
    with pytest.raises(CryptoError, match="a client is faulty"):
        encoding.decode_sum(negative - np.uint64(1), 3)
    with pytest.raises(CryptoError, match="a client is faulty"):
        encoding.decode_sum(three + np.uint64(1), 3)
    with pytest.raises(CryptoError, match="summands"):
        encoding.decode_sum(three, 5)


@pytest.mark.parametrize(
    ("f", "magnitude", "n", "width"),
    [
        (0, 2**31, 1, 4),
        (0, 2**30, 2, 4),
        (0, 0, 1, 4),
        (0, 1, 0, 4),
        (0, 1, 1, 3),
        (0, 1, 1, 9),
        (600, 1, 1, 4),
    ],
)
def test_a_code_that_could_overflow_does_not_exist(f: int, magnitude: int, n: int, width: int) -> None:
    with pytest.raises(CryptoError):
        FixedPoint(f, magnitude, n, width)


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bound_must_be_a_positive_number(bound: float) -> None:
    with pytest.raises(CryptoError, match="bound"):
        FixedPoint.fit(bound, 2, 8)


@pytest.mark.parametrize(
    "vector", [np.zeros((2, 2)), np.zeros(2, dtype=np.float32), np.zeros(2, dtype=np.int64)]
)
def test_only_float64_vectors_are_encoded(vector: np.ndarray) -> None:
    with pytest.raises(CryptoError, match="float64 vector"):
        FixedPoint.fit(1.0, 2, 8).encode(vector)


def test_the_error_of_an_entry_is_of_encoding_and_a_long_sum_is_rounded_to_float64_besides() -> None:
    encoding = FixedPoint(0, 2**60, 2, 8)
    assert encoding.entry_error(2) == np.nextafter(1.0, 2)
    units = np.array([2**61 - 2**8 - off for off in range(1, 256)], np.int64)
    decoded = encoding.decode_sum(units.view(np.uint64), 2)
    worst = max(abs(Fraction(float(one)) - int(exact)) for one, exact in zip(decoded, units, strict=True))
    assert encoding.entry_error(2) < worst <= Fraction(2**61, 2**53)


@pytest.mark.parametrize("summands", [1, 2, 5])
def test_the_error_of_an_entry_is_half_a_unit_of_each_summand(summands: int) -> None:
    for bits in (-3, 0, 20):
        encoding = FixedPoint(bits, 2**60, 5, 8)
        assert encoding.entry_error(summands) == np.nextafter(summands * 2.0 ** -(bits + 1), np.inf)


def test_no_value_wraps_where_integers_of_64_bits_end() -> None:
    most = 2**63 - 2**10  # the largest float64 below 2⁶³
    encoding = FixedPoint(0, most, 1, 8)
    inside = [2.0**62, float(most), -(2.0**62), -float(most)]
    assert encoding.encode(np.array(inside)).view(np.int64).tolist() == inside
    for value in (2.0**63, 1.5 * 2**63, 2.0**64, 1.5 * 2**64, 1e300):
        for sign in (-1, 1):
            with pytest.raises(CryptoError, match="1 of 2 values are over the agreed bound"):
                encoding.encode(np.array([0.0, sign * value]))


def test_bits_left_over_go_to_the_fraction_up_to_the_most_there_are() -> None:
    assert FixedPoint.fit(2.0**-490, 1, 500) == FixedPoint(512, 2**22, 1, 4)
    assert FixedPoint.fit(2.0**-470, 1, 500) == FixedPoint(500, 2**30, 1, 4)


@pytest.mark.parametrize(("room", "held"), [(None, "8 bytes"), (2**40, "sums up to 1099511627776")])
def test_a_sum_without_room_is_refused_with_what_there_is(room: int | None, held: str) -> None:
    with pytest.raises(
        CryptoError, match=f"^2 values up to 1 with 62 fraction bits need more than {held}; ask"
    ):
        FixedPoint.fit(1.0, 2, 62, room=room)
    assert FixedPoint.fit(1.0, 2, 39, room=room).magnitude == (2**39 if room else 2**45)


@given(st.integers(1, 6), st.integers(-20, 40), st.integers(0, 20), st.data())
def test_units_of_a_coarser_encoding_are_exact(n: int, f: int, finer: int, data: st.DataObject) -> None:
    code = FixedPoint.fit(2.0**-f, n, f + 50)
    most = code.magnitude >> finer
    units = data.draw(st.lists(st.integers(-most - 2, most + 2), min_size=1, max_size=5))
    vector = np.array(units, np.int64)
    if max(map(abs, units)) > most:
        with pytest.raises(CryptoError, match="over the agreed bound"):
            code.encode_units(vector, code.fraction_bits - finer)
        return
    words = code.encode_units(vector, code.fraction_bits - finer)
    assert ring.signed(words, code.width).tolist() == [one << finer for one in units]


def test_units_are_int64_and_no_finer_than_the_encoding() -> None:
    code = FixedPoint(3, 500, 1, 4)
    wrong: list[tuple[Any, int]] = [
        (np.array([1.0]), 3),
        (np.array([1], np.int32), 3),
        (np.array([[1]]), 3),
        (np.array([1]), 4),
    ]
    for vector, bits in wrong:
        with pytest.raises(CryptoError, match="expected an int64 vector in units"):
            code.encode_units(vector, bits)
