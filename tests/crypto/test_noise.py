from fractions import Fraction
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_afl.crypto import discrete_gaussian, ring
from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.fixed_point import FixedPoint
from secure_afl.crypto.noise import Block, Noise

NOISE = Noise((Block(300, Fraction(3, 2)), Block(200, Fraction(0)), Block(500, Fraction(1, 8))), reach=14)
BOUND = 100.0
CODE = FixedPoint.fit(NOISE.padded(BOUND), 5, 20)


def test_each_block_has_its_own_deviation() -> None:
    units = NOISE.draw(CODE) * 2.0**-CODE.fraction_bits
    assert units.shape == (NOISE.length,) == (1000,)
    # A variance of n draws is off by 7·√(2/n) with a probability below 1e-9.
    assert abs(np.mean(units[:300] ** 2) / 2.25 - 1) < 7 * (2 / 300) ** 0.5
    assert not units[300:500].any()
    assert abs(np.mean(units[500:] ** 2) * 64 - 1) < 7 * (2 / 500) ** 0.5
    assert np.abs(units).max() <= NOISE.reserve == 21


@given(st.integers(2, 40), st.floats(1e-3, 1e6), st.integers(8, 24), st.integers(0, 2**32))
@settings(max_examples=25)
def test_the_sum_of_the_worst_vectors_and_noise_never_overflows(
    clients: int, bound: float, bits: int, seed: int
) -> None:
    """The certificate covers the noise: with every entry and every draw at its bound, on one side, the sum is right."""
    noise = Noise((Block(4, Fraction(bound) / 3 + 1),), reach=12)
    encoding = FixedPoint.fit(noise.padded(bound), clients, bits)
    rng = np.random.default_rng(seed)
    values = bound * rng.choice([-1.0, 1.0, 0.3], size=(clients, 4))
    values[:, 0] = bound
    extreme = int(noise.reserve * Fraction(2) ** encoding.fraction_bits)
    draws = np.full(4, extreme, np.int64)
    total = np.zeros(4, np.uint64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(discrete_gaussian, "draw", lambda count, variance: draws)
        for one in values:
            total += noise.add(one, bound, encoding)
    mask = np.uint64(2 ** (8 * encoding.width) - 1)
    assert np.array_equal(
        ring.signed(total & mask, encoding.width),
        sum(encoding.encode(one).view(np.int64) for one in values) + clients * draws,
    )
    np.testing.assert_allclose(
        encoding.decode_sum(total & mask, clients),
        values.sum(axis=0) + clients * float(noise.reserve),
        rtol=1e-2,
    )


def test_a_draw_beyond_reach_is_an_error_and_never_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = int(14 * Fraction(3, 2) * 2**CODE.fraction_bits)
    for value, passes in ((limit, True), (-limit, True), (limit + 1, False), (-limit - 1, False)):
        monkeypatch.setattr(
            discrete_gaussian, "draw", lambda count, _, one=value: np.full(count, one, np.int64)
        )
        noise = Noise(NOISE.blocks[:1], 14)
        if passes:
            assert noise.draw(CODE)[0] == value
        else:
            with pytest.raises(
                CryptoError, match=r"^a noise draw exceeds the reserve: start the session again$"
            ):
                noise.draw(CODE)


def test_noise_of_few_units_is_refused() -> None:
    with pytest.raises(CryptoError, match="at least 8 units, got 4: use more fraction bits"):
        Noise((Block(1, Fraction(1, 4)),), 9).draw(FixedPoint(4, 1000, 3, 4))


def test_values_and_codes_that_do_not_fit_are_refused() -> None:
    values = np.zeros(1000)
    with pytest.raises(CryptoError, match="expected 1000 values, got 999"):
        NOISE.add(values[1:], BOUND, CODE)
    with pytest.raises(CryptoError, match="room for values up to 100 and their noise"):
        NOISE.add(values, BOUND, FixedPoint.fit(1.2 * BOUND, 5, 20))
    values[7] = 1.01 * BOUND
    with pytest.raises(CryptoError, match="1 of 1000 values are over the agreed bound"):
        NOISE.add(values, BOUND, CODE)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Block(-1, Fraction(1)),
        lambda: Block(1, Fraction(-1)),
        lambda: Block(1, cast(Any, 1.0)),
        lambda: Noise((), 0),
        lambda: Noise((), cast(Any, 2.0)),
    ],
)
def test_what_is_no_noise_does_not_exist(make: Any) -> None:
    with pytest.raises(CryptoError, match=r"^expected .*, got "):
        make()


def test_a_reach_of_one_deviation_is_the_least() -> None:
    assert Noise((Block(1, Fraction(3)),), 1).reserve == 3


def test_noise_for_no_entries_reserves_and_adds_nothing() -> None:
    for noise in (Noise((), 5), Noise((Block(0, Fraction(1)),), 5)):
        assert noise.length == 0
        assert noise.reserve == 5 * len(noise.blocks)
        for found, kind in ((noise.draw(CODE), np.int64), (noise.add(np.zeros(0), BOUND, CODE), np.uint64)):
            assert found.shape == (0,)
            assert found.dtype == kind
