import math
import re
from dataclasses import FrozenInstanceError
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_afl.analytic.statistics import Matrix, PublicBounds, SufficientStatistics, gamma
from secure_afl.errors import DataError

BOUNDS = PublicBounds(features=3, outputs=2, row_norm=2.0, rows=50)


def rows(n: int, seed: int = 0) -> tuple[Matrix, Matrix]:
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (n, 3)), rng.uniform(-1, 1, (n, 2))


def test_gamma_ends_where_its_theory_ends() -> None:
    assert gamma(0) == 0
    assert Fraction(gamma(3)) >= Fraction(3, 2**53) / (1 - Fraction(3, 2**53)) * (1 - Fraction(2, 2**53))
    assert gamma(2**51) == pytest.approx(1 / 3)
    assert gamma(2**52) == gamma(2**60) == math.inf


def test_statistics_are_the_sums_over_rows() -> None:
    X, Y = rows(20)
    statistics = SufficientStatistics.from_rows(X, Y, BOUNDS)
    gram = [[float(sum(Fraction(r[j]) * Fraction(r[k]) for r in X)) for k in range(3)] for j in range(3)]
    np.testing.assert_allclose(statistics.gram, gram, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(statistics.cross, sum(np.outer(x, y) for x, y in zip(X, Y, strict=True)))
    assert statistics.count == 20


@given(n=st.integers(0, 50), chunk=st.integers(1, 60), seed=st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_chunks_do_not_matter_and_packing_loses_nothing(n: int, chunk: int, seed: int) -> None:
    X, Y = rows(n, seed)
    whole = SufficientStatistics.from_rows(X, Y, BOUNDS)
    chunked = SufficientStatistics.from_rows(X, Y, BOUNDS, chunk_rows=chunk)
    np.testing.assert_allclose(chunked.pack(), whole.pack(), rtol=1e-12, atol=1e-12)
    packed = chunked.pack()
    assert packed.shape == (BOUNDS.length,)
    assert packed.dtype == np.float64
    assert np.abs(packed).max() <= BOUNDS.magnitude
    again = SufficientStatistics.unpack(packed, BOUNDS)
    assert np.array_equal(again.gram, chunked.gram)
    assert np.array_equal(again.cross, chunked.cross)
    assert again.count == n


def test_packed_order() -> None:
    statistics = SufficientStatistics(np.array([[1, 2], [2, 3]]), np.array([[4, 5, 6], [7, 8, 9]]), 10)
    bounds = PublicBounds(features=2, outputs=3, row_norm=1.0, rows=1)
    assert statistics.pack().tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert bounds.length == 10
    three = np.arange(1.0, 7.0)
    gram = SufficientStatistics.unpack(np.concatenate([three, [0, 0, 0, 1]]), PublicBounds(3, 1, 1.0, 1)).gram
    assert gram.tolist() == [[1, 2, 3], [2, 4, 5], [3, 5, 6]]


def test_an_empty_client_is_valid_and_changes_no_sum() -> None:
    empty = SufficientStatistics.from_rows(np.empty((0, 3)), np.empty((0, 2)), BOUNDS)
    assert not empty.pack().any()
    some = SufficientStatistics.from_rows(*rows(5), BOUNDS)
    assert np.array_equal((some + empty).pack(), some.pack())


def test_addition_is_addition_of_packed_vectors() -> None:
    a, b = (SufficientStatistics.from_rows(*rows(n, n), BOUNDS) for n in (4, 9))
    assert np.array_equal((a + b).pack(), a.pack() + b.pack())
    with pytest.raises(DataError, match=re.escape("(3, 2) and (1, 1)")):
        a + SufficientStatistics(np.ones((1, 1)), np.ones((1, 1)), 1)


def test_statistics_cannot_be_changed() -> None:
    gram = np.eye(2)
    statistics = SufficientStatistics(gram, np.ones((2, 1)), 1)
    gram[0, 0] = 9
    assert statistics.gram[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        statistics.gram[0, 0] = 9
    with pytest.raises(ValueError, match="read-only"):
        statistics.cross[0, 0] = 9
    with pytest.raises(FrozenInstanceError):
        statistics.count = 2  # type: ignore[misc]


@pytest.mark.parametrize("number", [np.float32, np.int8, bool, np.uint64])
def test_any_real_type_is_read(number: Any) -> None:
    X, Y = np.array([[1, 0, 1]], dtype=number), np.array([[0, 1]], dtype=number)
    packed = SufficientStatistics.from_rows(X, Y, BOUNDS).pack()
    assert "".join(f"{value:g}" for value in packed) == "101001" + "010001" + "1"


# 0.0123456789 and its like must never reach an error text.
SECRET = 0.0123456789


def broken(where: str, value: float) -> tuple[Matrix, Matrix]:
    X, Y = np.full((40, 3), SECRET), np.full((40, 2), SECRET)
    (X if where == "X" else Y)[33, 1] = value
    return X, Y


@pytest.mark.parametrize(
    ("X", "Y", "text"),
    [
        (*broken("X", math.nan), "X must be finite, without NaN, is not in row 34, column 2"),
        (*broken("X", -math.inf), "X must be finite, without NaN, is not in row 34, column 2"),
        (*broken("Y", math.nan), "Y must be finite, without NaN, is not in row 34, column 2"),
        (*broken("X", 77.125), "X has norm over 2 in row 34"),
        (*broken("X", 1e200), "X has norm over 2 in row 34"),
        (*broken("Y", -1.0009765625), "Y has absolute value over 1 in row 34, column 2"),
        (np.ones((4, 2)), np.ones((4, 2)), "X must have shape (rows, 3), got (4, 2)"),
        (np.ones((4, 3)), np.ones((4, 3)), "Y must have shape (rows, 2), got (4, 3)"),
        (np.ones((4, 3)), np.ones(4), "Y must have shape (rows, 2), got (4,)"),
        (np.ones((4, 3)), np.ones((5, 2)), "equally many rows, got 4 and 5"),
        (np.ones((51, 3)), np.ones((51, 2)), "at most 50 rows were agreed on, got 51"),
        (np.full((4, 3), "0.0123456789"), np.ones((4, 2)), "X must be a table of real numbers"),
        (np.ones((4, 3)) * 1j, np.ones((4, 2)), "X must be a table of real numbers, got dtype complex128"),
        ([[SECRET, 1, 1], [SECRET]], np.ones((2, 2)), "X must be a table of real numbers"),
        (np.ones((1, 3)), [[None, SECRET]], "Y must be a table of real numbers, got dtype object"),
    ],
)
def test_rows_outside_the_bounds_are_refused_without_quoting_them(X: Any, Y: Any, text: str) -> None:
    with pytest.raises(DataError) as e:
        SufficientStatistics.from_rows(X, Y, BOUNDS, who="site A", chunk_rows=16)
    message = str(e.value)
    assert message.startswith("site A: ")
    assert text in message
    for value in ("0123456789", "77.1", "200", "1.0009", "inf", "nan"):
        assert value not in message
    assert e.value.__cause__ is None
    assert e.value.__suppress_context__ or e.value.__context__ is None


def test_rows_at_the_bounds_are_taken_and_rows_beyond_are_not() -> None:
    for seed in range(200):
        X, _ = rows(40, seed)
        X *= (BOUNDS.row_norm / np.linalg.norm(X, axis=1))[:, None]
        SufficientStatistics.from_rows(X, np.full((40, 2), -1.0), BOUNDS)
    with pytest.raises(DataError):
        SufficientStatistics.from_rows(X * (1 + 1e-12), np.ones((40, 2)), BOUNDS)
    with pytest.raises(DataError):
        SufficientStatistics.from_rows(X, np.full((40, 2), np.nextafter(1.0, 2)), BOUNDS)


@pytest.mark.parametrize("target", [1.0, 5.0])
@pytest.mark.parametrize("row_norm", [0.1, 1.0, 1.1, 3.7])
@pytest.mark.parametrize("n", [1, 3, 1000])
def test_magnitude_is_never_too_small_and_hardly_too_large(n: int, row_norm: float, target: float) -> None:
    bounds = PublicBounds(features=1, outputs=1, row_norm=row_norm, rows=n, target=target)
    longest = row_norm * (1 + gamma(bounds.features + 8))
    packed = SufficientStatistics.from_rows(np.full((n, 1), longest), np.full((n, 1), target), bounds).pack()
    assert np.abs(packed).max() <= bounds.magnitude
    exact = n * max(Fraction(row_norm) ** 2, Fraction(row_norm) * Fraction(target), Fraction(1))
    # Worst rounding of n products of two rows that were let in although their norms are off by γ_9 and γ_2.
    assert exact * (1 + Fraction(gamma(n + 22))) <= Fraction(bounds.magnitude)
    assert Fraction(bounds.magnitude) <= exact * (1 + Fraction(1, 10**9))


@pytest.mark.parametrize(
    "arguments",
    [
        {"features": 0},
        {"features": 2.0},
        {"outputs": -1},
        {"rows": 0},
        {"rows": 2**32 + 1},
        {"row_norm": 0.0},
        {"row_norm": math.nan},
        {"row_norm": math.inf},
        {"row_norm": 1e200},
        {"target": -1.0},
        {"target": math.nan},
        {"target": 1e308},
    ],
)
def test_bounds_that_make_no_sense_do_not_exist(arguments: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        PublicBounds(**({"features": 3, "outputs": 2, "row_norm": 2.0, "rows": 50} | arguments))


@pytest.mark.parametrize("count", [-1.0, 0.5, 3.0000001, math.nan, math.inf, 1e300])
def test_a_count_that_counts_nothing_is_refused(count: float) -> None:
    packed = SufficientStatistics.from_rows(*rows(4), BOUNDS).pack()
    packed[-1] = count
    with pytest.raises(DataError, match="whole number"):
        SufficientStatistics.unpack(packed, BOUNDS)


def test_other_packed_vectors_are_refused() -> None:
    packed = SufficientStatistics.from_rows(*rows(4), BOUNDS).pack()
    for wrong in (packed[:-1], packed[None], np.append(packed, 1.0)):
        with pytest.raises(DataError, match=re.escape("shape (13,)")):
            SufficientStatistics.unpack(wrong, BOUNDS)
    for entry in (0, 7):
        with pytest.raises(DataError, match="not finite"):
            SufficientStatistics.unpack(np.where(np.arange(13) == entry, np.nan, packed), BOUNDS)


@pytest.mark.parametrize(
    ("gram", "cross", "count"),
    [
        (np.ones((2, 3)), np.ones((2, 1)), 1),
        (np.array([[1.0, 2.0], [np.nextafter(2, 3), 1.0]]), np.ones((2, 1)), 1),
        (np.ones(2), np.ones((2, 1)), 1),
        (np.ones((2, 2)), np.ones((3, 1)), 1),
        (np.ones((2, 2)), np.ones(2), 1),
        (np.ones((0, 0)), np.ones((0, 1)), 1),
        (np.ones((2, 2)), np.ones((3, 0)), 1),
        (np.full((2, 2), math.inf), np.ones((2, 1)), 1),
        (np.ones((2, 2)), np.full((2, 1), math.nan), 1),
        (np.ones((2, 2)), np.ones((2, 1)), -1),
        (np.ones((2, 2)), np.ones((2, 1)), 1.0),
    ],
)
def test_statistics_that_make_no_sense_do_not_exist(gram: Matrix, cross: Matrix, count: Any) -> None:
    with pytest.raises(DataError):
        SufficientStatistics(gram, cross, count)
