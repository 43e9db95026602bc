"""Noise, its accounting, and the solve of a noisy sum."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from secure_afl.analytic.privacy import (
    Adjacency,
    Privacy,
    bounded_rows,
    client_noise,
    multiplier,
    regularise,
    sensitivity,
    shortened,
    spent,
)
from secure_afl.analytic.solve import solve
from secure_afl.analytic.statistics import Matrix, PublicBounds, SufficientStatistics
from secure_afl.crypto.fixed_point import FixedPoint
from secure_afl.crypto.noise import Block, Noise
from secure_afl.errors import DataError

BITS = 16
PUBLIC = Privacy(1.0, 1e-6)


def units(X: Matrix, Y: Matrix, bounds: PublicBounds, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three blocks of a client's integers, as real numbers."""
    encoding = FixedPoint(bits, 2**62, 1, 8)
    packed = encoding.encode(SufficientStatistics.from_rows(X, Y, bounds).pack()).view(np.int64) * 2.0**-bits
    gram, cross, count = np.split(packed, [bounds.length - 1 - bounds.features * bounds.outputs, -1])
    return gram, cross, count


directions = st.sampled_from(["random", "axis", "opposed", "long"])


@given(
    st.integers(1, 5),
    st.integers(0, 3),
    st.integers(0, 12),
    st.integers(1, 3),
    directions,
    st.sampled_from(Adjacency),
    st.integers(0, 30),
    st.integers(0, 2**32),
)
@settings(max_examples=120)
def test_no_record_moves_the_integers_further_than_the_sensitivity(
    d: int, c: int, others: int, most: int, direction: str, adjacency: Adjacency, bits: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    bounds = PublicBounds(d, c, row_norm=2.5, rows=20, target=1.5)
    target_norm = 2.0

    def record() -> tuple[Matrix, Matrix]:
        rows = int(rng.integers(1, most + 1))
        X = {"axis": np.eye(d)[rng.integers(d, size=rows)], "long": np.ones((rows, d))}.get(
            direction, rng.normal(size=(rows, d))
        )
        Y = rng.normal(size=(rows, c)) * 10
        # Scaled to the bound itself: nothing is left unused.
        return bounded_rows(1e3 * X, Y, bounds, target_norm)[:2]

    rest = bounded_rows(rng.normal(size=(others, d)), rng.normal(size=(others, c)), bounds, target_norm)[:2]
    one = record()
    other = {"opposed": (one[0], -one[1])}.get(direction, record())
    if adjacency is Adjacency.ADD_REMOVE:
        other = (one[0][:0], one[1][:0])
    place = int(rng.integers(others + 1))

    def whole(part: tuple[Matrix, Matrix]) -> tuple[Matrix, Matrix]:
        X, Y = (np.insert(whole, place, added, axis=0) for whole, added in zip(rest, part, strict=True))
        return X, Y

    moved = [
        float(np.linalg.norm(a - b))
        for a, b in zip(units(*whole(one), bounds, bits), units(*whole(other), bounds, bits), strict=True)
    ]
    privacy = Privacy(1.0, 1e-6, adjacency, record_rows=most)
    promised = sensitivity(privacy, bounds, fraction_bits=bits, target_norm=target_norm)
    for distance, bound in zip(moved, (promised.gram, promised.cross, promised.count), strict=True):
        assert distance <= bound


@given(
    st.integers(0, 14),
    st.integers(1, 3),
    st.integers(1, 5),
    st.sampled_from(Adjacency),
    st.integers(0, 2**32),
)
@settings(max_examples=150)
def test_no_record_moves_a_wave_further_than_the_sensitivity(
    others: int, most: int, waves: int, adjacency: Adjacency, seed: int
) -> None:
    """Waves are cut by position, so adding one record pushes other records from wave to wave."""
    rng = np.random.default_rng(seed)
    bounds = PublicBounds(2, 2, row_norm=2.5, rows=20)

    def rows(count: int) -> Matrix:
        """X and one-hot Y side by side: few different rows, all of them as long as they may be."""
        angles = rng.integers(4, size=count) * math.pi / 2
        return np.column_stack(
            [2.5 * np.cos(angles), 2.5 * np.sin(angles), np.eye(2)[rng.integers(2, size=count)]]
        )

    def scattered(rest: Matrix, record: Matrix) -> Matrix:
        return np.insert(rest, np.sort(rng.integers(len(rest) + 1, size=len(record))), record, axis=0)

    rest = rows(others)
    one = scattered(rest, rows(int(rng.integers(1, most + 1))))
    other = (
        rest if adjacency is Adjacency.ADD_REMOVE else scattered(rest, rows(int(rng.integers(1, most + 1))))
    )
    privacy = Privacy(1.0, 1e-6, adjacency, record_rows=most)
    promised = sensitivity(privacy, bounds, fraction_bits=BITS, target_norm=1.0, waves=True)
    for a, b in zip(np.array_split(one, waves), np.array_split(other, waves), strict=True):
        blocks = zip(
            units(a[:, :2], a[:, 2:], bounds, BITS), units(b[:, :2], b[:, 2:], bounds, BITS), strict=True
        )
        moved = [float(np.linalg.norm(x - y)) for x, y in blocks]
        for distance, bound in zip(moved, (promised.gram, promised.cross, promised.count), strict=True):
            assert distance <= bound


def test_sensitivity_is_reached_but_for_rounding() -> None:
    bounds = PublicBounds(3, 2, row_norm=2.0, rows=100)
    for adjacency, (gram, cross, count) in {
        Adjacency.ADD_REMOVE: (4.0, 2.0, 1.0),
        Adjacency.REPLACE: (4 * math.sqrt(2), 4.0, 0.0),
    }.items():
        one = sensitivity(Privacy(1.0, 1e-6, adjacency), bounds, fraction_bits=40, target_norm=1.0)
        assert (one.gram, one.cross, one.count) == pytest.approx((gram, cross, count), rel=1e-10)
    e = np.eye(3)
    first = units(2 * e[:1], np.eye(2)[:1], bounds, 40)
    second = units(2 * e[1:2], np.eye(2)[:1], bounds, 40)
    assert np.linalg.norm(first[0]) == 4
    assert np.linalg.norm(first[1]) == 2
    assert np.linalg.norm(first[0] - second[0]) == pytest.approx(4 * math.sqrt(2))
    # One row more, before the others, moves a wave as if a row of it were replaced.
    waves = sensitivity(PUBLIC, bounds, fraction_bits=40, target_norm=1.0, waves=True)
    assert (waves.gram, waves.cross, waves.count) == pytest.approx((4 * math.sqrt(2), 4.0, 1.0), rel=1e-10)
    # Coarse fixed point costs: a unit an entry.
    coarse = sensitivity(PUBLIC, bounds, fraction_bits=0, target_norm=1.0)
    assert coarse.gram == pytest.approx(4 + math.sqrt(6))
    with pytest.raises(DataError, match="expected at least 0 fraction bits"):
        sensitivity(PUBLIC, bounds, fraction_bits=-1)


@given(st.integers(0, 20), st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**32), st.floats(-300, 300))
@settings(max_examples=60)
def test_bounded_rows_pass_and_those_within_the_bounds_are_untouched(
    n: int, d: int, c: int, seed: int, size: float
) -> None:
    rng = np.random.default_rng(seed)
    bounds = PublicBounds(d, c, row_norm=1.7, rows=20, target=0.9)
    X, Y = rng.normal(size=(n, d)) * 10**size, rng.normal(size=(n, c)) * 10**size
    X[: n // 4], Y[: n // 3] = 0, 0
    x, y, changed = bounded_rows(X, Y, bounds, 1.1)
    SufficientStatistics.from_rows(x, y, bounds)
    assert (np.linalg.norm(y, axis=1) <= 1.1 * (1 + 1e-13)).all()
    with np.errstate(over="ignore"):
        norms = [np.linalg.norm(table, axis=1) for table in (X, Y)]
    inside = (norms[0] <= 1.7) & (norms[1] <= 1.1) & (abs(Y) <= 0.9).all(axis=1)
    assert np.array_equal(x[inside], X[inside])
    assert np.array_equal(y[inside], Y[inside])
    assert changed == n - np.count_nonzero(inside)
    again = bounded_rows(x, y, bounds, 1.1)
    assert np.array_equal(again[0], x)
    with pytest.raises(DataError, match="expected finite rows"):
        bounded_rows(np.full((1, d), np.nan), np.zeros((1, c)), bounds)


@pytest.mark.parametrize("columns", [1, 5, 37, 300])
def test_a_row_is_shortened_the_same_whatever_is_beside_it(columns: int) -> None:
    rows = np.random.default_rng(columns).normal(size=(60, columns)) * 10
    alone = np.concatenate([shortened(rows[at : at + 1], 1.0)[0] for at in range(60)])
    for table in (rows, np.asfortranarray(rows), np.asfortranarray(np.repeat(rows, 2, axis=1))[:, ::2]):
        for count in (1, 2, 7, 60):
            assert np.array_equal(shortened(table[:count], 1.0)[0], alone[:count])


def exact_epsilon(noise: float, delta: float) -> float:
    """Of one Gaussian mechanism: Balle and Wang 2018, theorem 8."""

    def excess(epsilon: float) -> float:
        return float(
            norm.cdf(1 / (2 * noise) - epsilon * noise)
            - math.exp(epsilon) * norm.cdf(-1 / (2 * noise) - epsilon * noise)
            - delta
        )

    return float(brentq(excess, 0, 100))


@pytest.mark.parametrize("noise", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("delta", [1e-5, 1e-8])
def test_accounting_against_closed_forms_of_the_gaussian(noise: float, delta: float) -> None:
    rho = 1 / (2 * noise**2)
    got = spent([noise], delta)
    assert exact_epsilon(noise, delta) <= got <= rho + 2 * math.sqrt(rho * math.log(1 / delta))
    assert got <= 1.2 * exact_epsilon(noise, delta)
    # k sums with noise √k are one sum.
    assert spent([noise * 3] * 9, delta) == pytest.approx(got, rel=1e-9)


@pytest.mark.parametrize("epsilon", [2.0**-7, 0.5, 8.0, 64.0])
@pytest.mark.parametrize("sums", [1, 30])
def test_a_multiplier_spends_what_is_there_and_no_more(epsilon: float, sums: int) -> None:
    privacy = Privacy(epsilon, 1e-7)
    z = multiplier(privacy, sums)
    assert 0.995 * epsilon <= spent([z] * sums, privacy.delta) <= epsilon


@given(
    st.floats(0.1, 20),
    st.floats(1e-12, 1e-3),
    st.sampled_from(Adjacency),
    st.integers(0, 3),
    st.integers(1, 10),
    st.integers(0, 4),
)
@settings(max_examples=15)
def test_the_honest_survivors_noise_alone_keeps_the_promise(
    epsilon: float, delta: float, adjacency: Adjacency, outputs: int, honest: int, colluders: int
) -> None:
    """The test derives ε again from the noise that comes out at the end of the chain."""
    privacy, bounds = Privacy(epsilon, delta, adjacency), PublicBounds(4, outputs, row_norm=3.0, rows=1000)
    survivors, sums = honest + colluders, 3
    noise = client_noise(
        privacy, bounds, clients=20, survivors=survivors, colluders=colluders, sums=sums, fraction_bits=24
    )
    assert noise.length == bounds.length
    assert [block.length for block in noise.blocks] == [10, 4 * outputs, 1]
    moved = sensitivity(privacy, bounds, fraction_bits=24)
    loss = 0.0
    for block, distance in zip(noise.blocks, (moved.gram, moved.cross, moved.count), strict=True):
        assert (block.deviation > 0) == (distance > 0)
        if distance:
            loss += distance**2 / (honest * float(block.deviation) ** 2)
    beyond = sums * 20 * noise.length * 2 * math.exp(-(noise.reach**2) / 2)
    assert spent([1 / math.sqrt(loss)] * sums, delta - (1 + math.exp(epsilon)) * beyond) <= epsilon
    # Not much more noise than that.
    assert (
        spent([1.01 / math.sqrt(loss)] * sums, delta)
        <= epsilon
        <= 1.01 * spent([0.995 / math.sqrt(loss)] * sums, delta)
    )


def test_noise_grows_with_what_may_be_lost() -> None:
    bounds = PublicBounds(4, 2, row_norm=3.0, rows=1000)

    def deviation(survivors: int, colluders: int) -> float:
        noise = client_noise(PUBLIC, bounds, clients=20, survivors=survivors, colluders=colluders)
        return float(noise.blocks[0].deviation)

    assert deviation(16, 0) == pytest.approx(deviation(4, 0) / 2, rel=1e-3)
    assert deviation(16, 12) == pytest.approx(deviation(4, 0), rel=1e-3)
    for survivors, colluders in ((4, 4), (21, 1), (4, -1)):
        with pytest.raises(DataError, match="expected more survivors than colluders"):
            deviation(survivors, colluders)


def test_the_sum_that_the_server_opens_has_the_noise_of_its_survivors() -> None:
    """Two sums over the same data, many entries: their variance is 2·survivors·σ²."""
    bounds = PublicBounds(40, 20, row_norm=1.0, rows=10)
    noise = client_noise(PUBLIC, bounds, clients=6, survivors=4, colluders=1)
    encoding = FixedPoint.fit(noise.padded(bounds.magnitude), 6, 32)
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(5):
        X, Y, _changed = bounded_rows(rng.normal(size=(10, 40)), rng.normal(size=(10, 20)), bounds)
        parts.append(SufficientStatistics.from_rows(X, Y, bounds).pack())
    totals = []
    for _ in range(2):
        words = np.zeros(bounds.length, np.uint64)
        for part in parts:
            words += noise.add(part, bounds.magnitude, encoding)
        totals.append(encoding.decode_sum(words & np.uint64(2 ** (8 * encoding.width) - 1), 5))
    difference = totals[0] - totals[1]
    start = 0
    for block in noise.blocks[:2]:
        entries = difference[start : start + block.length]
        start += block.length
        spread = float(np.mean(entries**2)) / (2 * 5 * float(block.deviation) ** 2)
        assert abs(spread - 1) < 7 * math.sqrt(2 / block.length)  # a false alarm has less than 1e-9


shapes = st.sampled_from(["data", "zero", "negative", "one-sided", "huge", "tiny", "alternating"])


@given(
    st.integers(1, 12),
    st.integers(1, 3),
    st.integers(0, 40),
    shapes,
    st.floats(-60, 30).map(lambda exponent: 2.0**exponent),
    st.sampled_from([0.0, 1e-3, 10.0]),
    st.integers(0, 2**32),
)
@settings(max_examples=150)
def test_the_solve_never_fails_whatever_the_noise(
    d: int, c: int, n: int, shape: str, sigma: float, ridge: float, seed: int
) -> None:
    """Noise at the edge of the reserve, rank-deficient data, no data: each has a guaranteed solution."""
    rng = np.random.default_rng(seed)
    bounds = PublicBounds(d, c, row_norm=2.0, rows=50)
    X, Y, _ = bounded_rows(rng.normal(size=(n, d)), rng.normal(size=(n, c)), bounds)
    X[:, d // 2 :] = X[:, :1]  # dependent columns
    X, Y, _ = bounded_rows(X, Y, bounds)
    clean = SufficientStatistics.from_rows(X, Y, bounds).pack()
    reach, survivors = 12, 3
    deviation = Fraction(sigma)
    noise = Noise((Block(d * (d + 1) // 2, deviation), Block(d * c, deviation), Block(1, deviation)), reach)
    extreme = survivors * float(noise.reserve)
    z = {
        "data": rng.normal(size=len(clean)) * sigma * survivors**0.5,
        "zero": np.zeros(len(clean)),
        "negative": np.full(len(clean), -extreme),
        "one-sided": np.full(len(clean), extreme),
        "huge": rng.choice([-extreme, extreme], len(clean)),
        "tiny": rng.normal(size=len(clean)) * sigma * 1e-12,
        "alternating": extreme * (-1.0) ** np.arange(len(clean)),
    }[shape]
    fixed = regularise(clean + z, bounds, noise, survivors=survivors, ridge=ridge)
    solution = solve(fixed.statistics, ridge=0.0)
    assert np.isfinite(solution.weights).all()
    assert math.isfinite(solution.certificate.bound)
    eigenvalues = np.linalg.eigvalsh(fixed.statistics.gram)
    assert eigenvalues[0] >= 0.49 * fixed.noise_norm


@pytest.mark.parametrize("sigma", [1e-9, 1.0, 1e6])
def test_nor_does_it_fail_with_millions_of_rows_and_many_columns(sigma: float) -> None:
    """A Gram of rank one, large against the noise or small."""
    d, n = 150, 2**22
    bounds = PublicBounds(d, 1, row_norm=1.0, rows=n)
    total = np.concatenate([np.full(d * (d + 1) // 2, n / d), np.full(d, n / d**0.5), [float(n)]])
    total += np.random.default_rng(3).normal(size=len(total)) * sigma
    noise = Noise(tuple(Block(one, Fraction(sigma)) for one in (d * (d + 1) // 2, d, 1)), 12)
    fixed = regularise(total, bounds, noise, survivors=1)
    assert np.isfinite(solve(fixed.statistics, ridge=0.0).weights).all()
    assert fixed.ridge < 10 * fixed.noise_norm + 0.1


def test_the_ridge_is_what_was_asked_for_where_the_noise_allows() -> None:
    bounds = PublicBounds(3, 1, row_norm=2.0, rows=5000)
    rng = np.random.default_rng(1)
    X, Y, _ = bounded_rows(rng.normal(size=(5000, 3)), rng.normal(size=(5000, 1)), bounds)
    statistics = SufficientStatistics.from_rows(X, Y, bounds)
    noise = Noise((Block(6, Fraction(1, 100)), Block(3, Fraction(1, 100)), Block(1, Fraction(1))), 12)
    for ridge in (0.0, 1e-3):
        fixed = regularise(statistics.pack(), bounds, noise, survivors=4, ridge=ridge)
        assert fixed.ridge == pytest.approx(ridge * np.trace(statistics.gram) / 3, abs=1e-12)
        np.testing.assert_allclose(
            solve(fixed.statistics, ridge=0.0).weights, solve(statistics, ridge=ridge).weights, rtol=1e-9
        )
    assert regularise(statistics.pack(), bounds, noise, survivors=4).statistics.count == 5000


def test_noise_stays_under_its_norm_as_often_as_promised() -> None:
    d, bounds = 60, PublicBounds(60, 1, row_norm=1.0, rows=1)
    noise = Noise((Block(d * (d + 1) // 2, Fraction(1)), Block(d, Fraction(1)), Block(1, Fraction(1))), 12)
    promised = regularise(np.zeros(bounds.length), bounds, noise, survivors=4).noise_norm
    rng = np.random.default_rng(2)
    norms = []
    for _ in range(200):
        upper = np.triu(rng.normal(size=(d, d)) * 2)
        norms.append(np.linalg.norm(upper + np.triu(upper, 1).T, 2))
    assert max(norms) < promised < 1.7 * max(norms)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": 65.0}, "epsilon"),
        ({"epsilon": math.nan}, "epsilon"),
        ({"delta": 0.0}, "delta"),
        ({"delta": 1.0}, "delta"),
        ({"record_rows": 0}, "record"),
        ({"record_rows": 1.5}, "record"),
    ],
)
def test_what_is_no_promise_does_not_exist(fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(DataError, match=f"^expected .*{fault}.*, got"):
        Privacy(**{"epsilon": 1.0, "delta": 1e-6, **fields})


def test_regularise_refuses_what_is_no_sum() -> None:
    bounds = PublicBounds(2, 1, row_norm=1.0, rows=1)
    noise = Noise((Block(3, Fraction(1)), Block(2, Fraction(1)), Block(1, Fraction(1))), 12)
    for total in (np.zeros(5), np.full(6, np.nan)):
        with pytest.raises(DataError, match="expected a finite sum"):
            regularise(total, bounds, noise, survivors=1)
    with pytest.raises(DataError, match="expected a ridge"):
        regularise(np.zeros(6), bounds, noise, survivors=1, ridge=-1.0)
