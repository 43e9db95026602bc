"""The solve on standardised columns: units and origins do not matter, and the certificate says what is left of them."""

import itertools
import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from secure_afl.analytic.solve import Solution
from secure_afl.analytic.standardised import solve_standardised
from secure_afl.analytic.statistics import Matrix, PublicBounds, SufficientStatistics, added, gamma, roundings
from secure_afl.errors import SolveError


def with_ones(X: Matrix) -> Matrix:
    return np.column_stack([np.ones(len(X)), X])


def statistics_of(X: Matrix, Y: Matrix) -> SufficientStatistics:
    Z = with_ones(X)
    bounds = PublicBounds(Z.shape[1], Y.shape[1], 1.01 * float(np.linalg.norm(Z, axis=1).max()), len(X) or 1)
    return SufficientStatistics.from_rows(Z, Y, bounds)


def secure_sum(X: Matrix, Y: Matrix, site: Any, fraction_bits: int) -> tuple[SufficientStatistics, float]:
    """What masks deliver, each client's entries rounded; and the entry error."""
    clients = [statistics_of(X[site == s], Y[site == s]) for s in np.unique(site)]
    units = np.array([np.rint(np.ldexp(one.pack(), fraction_bits)).astype(object) for one in clients])
    vector = [math.ldexp(float(int(total)), -fraction_bits) for total in units.sum(axis=0)]
    shape = PublicBounds(X.shape[1] + 1, Y.shape[1], 1.0, 1)
    return SufficientStatistics.unpack(vector, shape), len(clients) * 2.0 ** -(fraction_bits + 1)


def exact_weights(X: Matrix, Y: Matrix, ridge: float) -> Matrix:
    """The W of the module's text in rational arithmetic, from the rows."""
    rows = [[Fraction(1), *map(Fraction, row)] for row in X.tolist()]
    targets = [[Fraction(y) for y in row] for row in Y.tolist()]
    d = len(rows[0])
    gram: Any = [[sum(r[j] * r[k] for r in rows) for k in range(d)] for j in range(d)]
    cross: Any = [
        [sum(r[j] * y[c] for r, y in zip(rows, targets, strict=True)) for c in range(Y.shape[1])]
        for j in range(d)
    ]
    for j in range(1, d):
        gram[j][j] += Fraction(ridge) * (gram[j][j] - gram[0][j] ** 2 / len(rows))
    table: list[list[Any]] = [[*a, *b] for a, b in zip(gram, cross, strict=True)]
    for j in range(d):
        at = max(range(j, d), key=lambda i: abs(table[i][j]))
        table[j], table[at] = table[at], table[j]
        table[j] = [value / table[j][j] for value in table[j]]
        for i in range(d):
            if i != j:
                table[i] = [a - table[i][j] * b for a, b in zip(table[i], table[j], strict=True)]
    return np.array([[float(value) for value in row[d:]] for row in table])


@st.composite
def problems(draw: st.DrawFn) -> Any:
    """Columns within [-1, 1] whose spreads lie up to a million times nearer to each other than to 0."""
    draws = np.random.default_rng(draw(st.integers(0, 2**32)))
    d, c, n = draw(st.integers(1, 4)), draw(st.integers(1, 2)), draw(st.sampled_from([5, 12, 40]))
    X = draws.normal(size=(n, d))
    if draw(st.booleans()) and d > 1:
        X[:, 0] += draw(st.floats(1, 100)) * X[:, 1]  # nearly dependent
    away = 10.0 ** draws.uniform(-1, draw(st.floats(-1, 6)), d)
    X = X + away * X.std(axis=0) * draws.choice([-1, 1], d)
    X = X / abs(X).max(axis=0) * 2.0 ** -draws.integers(0, 3, d)
    labels = np.eye(c + 1)[draws.integers(0, c + 1, n)]
    Y = labels if draw(st.booleans()) else draws.uniform(-1, 1, (n, c))
    site = draws.integers(0, draw(st.integers(1, 5)), n)
    return X, Y, site, draw(st.sampled_from([0.0, 1e-6, 1e-3, 1.0, 100.0])), draw(st.integers(30, 52))


@pytest.mark.slow
@given(problems())
@settings(max_examples=300, deadline=None)
def test_the_certificate_holds_whatever_the_origins(problem: Any) -> None:
    X, Y, site, ridge, fraction_bits = problem
    statistics, entry_error = secure_sum(X, Y, site, fraction_bits)
    try:
        secure = solve_standardised(statistics, ridge=ridge, entry_error=entry_error)
        pooled = solve_standardised(statistics_of(X, Y), ridge=ridge)
    except SolveError:
        return  # said, not hidden; the next test counts them
    assert np.linalg.norm(secure.weights - pooled.weights) <= secure.certificate.bound
    if secure.constant or pooled.constant:
        assert set(pooled.constant) <= set(secure.constant)
        return
    exact = exact_weights(X, Y, ridge)
    assert np.linalg.norm(secure.weights - exact) <= secure.certificate.bound
    assert np.linalg.norm(pooled.weights - exact) <= pooled.certificate.bound
    gram = pooled.statistics.gram  # type: ignore[union-attr]
    assert np.linalg.norm(statistics.gram - gram, 2) <= secure.certificate.gram_error


def test_most_problems_are_solved_with_a_useful_certificate() -> None:
    """Shows that the property above is not empty, even for 44 bits and spreads of a millionth of the bound."""
    draws, bounds = np.random.default_rng(0), []
    for _ in range(60):
        X = draws.normal(size=(80, 3)) + 10.0 ** draws.uniform(0, 6, 3)
        X /= abs(X).max(axis=0)
        statistics, entry_error = secure_sum(X, np.eye(2)[draws.integers(0, 2, 80)], np.arange(80) % 4, 44)
        solution = solve_standardised(statistics, ridge=1e-3, entry_error=entry_error)
        assert not solution.constant
        bounds.append(solution.certificate.bound / np.linalg.norm(solution.weights))
    assert max(bounds) < 0.2
    assert np.median(bounds) < 1e-3


@given(
    st.integers(0, 2**32),
    st.integers(1, 5),
    st.sampled_from([1e-4, 1e-2, 1.0]),
    st.integers(-9, 9),
    st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_it_is_scikit_learns_ridge_on_standardised_columns(
    seed: int, d: int, ridge: float, unit: int, far: bool
) -> None:
    draws = np.random.default_rng(seed)
    X, Y = draws.normal(size=(60, d)), draws.uniform(-1, 1, (60, 2))
    away = 10.0 ** draws.uniform(0, 3, d) if far else np.zeros(d)
    reference = make_pipeline(StandardScaler(), Ridge(alpha=60 * ridge)).fit(X, Y)
    columns = (X + away) * 2.0**unit
    bound = float(abs(columns).max())
    solution = solve_standardised(statistics_of(columns, Y), ridge=ridge, column=bound)
    np.testing.assert_allclose(with_ones(columns) @ solution.weights, reference.predict(X), rtol=0, atol=1e-8)


@given(st.integers(0, 2**32), st.floats(-6, 6), st.floats(0, 6))
@settings(max_examples=60, deadline=None)
def test_units_and_origins_do_not_change_predictions(seed: int, unit: float, away: float) -> None:
    draws = np.random.default_rng(seed)
    X, Y = draws.normal(size=(50, 3)), draws.uniform(-1, 1, (50, 1))
    moved = (X + draws.choice([-1, 1], 3) * 10.0**away) * 10.0**unit
    plain = with_ones(X) @ solve_standardised(statistics_of(X, Y), ridge=1e-3, column=5.0).weights
    bound = float(abs(moved).max())
    solution = solve_standardised(statistics_of(moved, Y), ridge=1e-3, column=bound)
    # A float64 Gram matrix knows a spread of 1e-6 of the values to 12 digits less than it knows the values.
    np.testing.assert_allclose(
        with_ones(moved) @ solution.weights, plain, rtol=0, atol=1e-13 + 1e-14 * 100**away
    )


@pytest.mark.parametrize("ridge", [0.0, 1.0])
def test_the_bound_is_no_idle_talk(ridge: float) -> None:
    """With the worst signs of all entry errors the weights move by more than a tenth of the bound."""
    draws = np.random.default_rng(0)
    X = draws.normal(size=(4000, 2)) * (0.2, 0.1) + (-0.5, 0.5)
    plain = solve_standardised(statistics_of(X, (X[:, :1] - X[:, 1:]) / 2), ridge=ridge)
    epsilon, pooled, reached = 1e-7, plain.statistics, []
    assert pooled is not None
    for signs in itertools.product([-epsilon, epsilon], repeat=8):
        gram = np.array([[0, *signs[:2]], [signs[0], *signs[2:4]], [signs[1], *signs[3:5]]])
        moved = SufficientStatistics(pooled.gram + gram, pooled.cross + np.array(signs[5:])[:, None], 4000)
        secure = solve_standardised(moved, ridge=ridge, entry_error=epsilon)
        reached.append(float(np.linalg.norm(secure.weights - plain.weights)) / secure.certificate.bound)
        assert secure.certificate.rounding < 1e-3 * secure.certificate.fixed_point
    assert 0.1 < max(reached) <= 1


def test_constant_columns_have_no_part() -> None:
    draws = np.random.default_rng(0)
    X, Y = draws.uniform(-1, 1, (50, 5)), draws.uniform(-1, 1, (50, 2))
    X[:, 1], X[:, 3] = 0.3, 0.0
    statistics, entry_error = secure_sum(X, Y, np.arange(50) % 3, 44)
    for solution in (
        solve_standardised(statistics, ridge=1e-3, entry_error=entry_error),
        solve_standardised(statistics_of(X, Y), ridge=1e-3),
    ):
        assert solution.constant == (2, 4)
        assert not solution.weights[[2, 4]].any()
        alone = solve_standardised(statistics_of(X[:, [0, 2, 4]], Y), ridge=1e-3)
        np.testing.assert_allclose(solution.weights[[0, 1, 3, 5]], alone.weights, rtol=1e-9)


def test_one_row_gives_its_target() -> None:
    solution = solve_standardised(statistics_of(np.array([[0.25, -0.5]]), np.array([[0.75]])), ridge=0.0)
    assert solution.constant == (1, 2)
    assert solution.weights.tolist() == [[0.75], [0.0], [0.0]]


NAMES = ("age", "year", "dose")


def refusal(**options: Any) -> str:
    with pytest.raises(SolveError) as caught:
        solve(**options)
    return str(caught.value)


def solve(spread: float = 0.1, fraction_bits: int = 40, ridge: float = 0.0, twin: bool = False) -> Solution:
    draws = np.random.default_rng(0)
    X, Y = draws.uniform(-1, 1, (90, 3)), draws.uniform(-1, 1, (90, 1))
    X[:, 1] = 0.9 + spread * X[:, 1]
    if twin:
        X[:, 2] = X[:, 0]
    statistics, entry_error = secure_sum(X, Y, np.arange(90) % 3, fraction_bits)
    return solve_standardised(statistics, ridge=ridge, entry_error=entry_error, names=NAMES)


def test_a_spread_that_the_digits_lose_is_an_error_that_names_the_column() -> None:
    text = refusal(spread=1e-5, fraction_bits=30)
    assert "column 'year' cannot be told from a constant" in text
    assert "a range [low, high]" in text
    text = refusal(spread=4.5e-6, fraction_bits=33)
    assert "column 'year': the spread (standard deviation 2" in text
    assert "e-06) is too small for the bound" in text
    assert not solve(spread=1e-5, fraction_bits=44).constant
    assert solve(spread=1e-9, fraction_bits=44).constant == (2,)


def test_dependent_columns_are_not_blamed_on_a_spread() -> None:
    assert "drop dependent columns" in refusal(twin=True)
    assert not solve(twin=True, ridge=1e-3).constant


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"ridge": -1.0}, "ridge from 0"),
        ({"ridge": math.nan}, "ridge from 0"),
        ({"ridge": 1.0, "entry_error": 0.5}, "entry error below 1/2"),
        ({"ridge": 1.0, "target": 0.0}, "bounds of 0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options: Any, text: str) -> None:
    with pytest.raises(SolveError, match=text):
        solve_standardised(statistics_of(np.eye(3), np.ones((3, 1))), **options)


def test_sums_without_rows_or_without_a_column_of_ones_are_refused() -> None:
    good = statistics_of(np.eye(3), np.ones((3, 1)))
    with pytest.raises(SolveError, match="0 rows"):
        solve_standardised(replace(good, count=0), ridge=1.0)
    with pytest.raises(SolveError, match="first column of 4 ones"):
        solve_standardised(replace(good, count=4), ridge=1.0)
    with pytest.raises(SolveError, match="range of float64"):
        solve_standardised(replace(good, gram=good.gram * 2.0**500, count=3), ridge=1.0)


@given(st.integers(0, 2**32), st.sampled_from([1, 2, 17, 400]), st.integers(1, 500))
@settings(max_examples=60, deadline=None)
def test_statistics_are_as_exact_as_they_say(seed: int, n: int, chunk: int) -> None:
    """Far-off columns, tiny and huge ones: each entry within a few roundings, however many rows."""
    draws = np.random.default_rng(seed)
    X = (draws.normal(size=(n, 2)) + 10.0 ** draws.uniform(-3, 7, 2)) * 2.0 ** draws.integers(-40, 40, 2)
    Y = draws.uniform(-1, 1, (n, 1))
    bounds = PublicBounds(2, 1, 1.01 * float(np.linalg.norm(X, axis=1).max()), n)
    statistics = SufficientStatistics.from_rows(X, Y, bounds, chunk_rows=chunk)
    Z = [[Fraction(value) for value in row] for row in np.hstack([X, Y])]
    for j in range(2):
        for k, found in enumerate([*statistics.gram[j], *statistics.cross[j]]):
            exact = sum(row[j] * row[k] for row in Z)
            squares = sum(row[j] ** 2 for row in Z) * sum(row[k] ** 2 for row in Z)
            assert (Fraction(found) - exact) ** 2 <= Fraction(gamma(roundings(n))) ** 2 * squares


def test_added_vectors_lose_nothing_to_order_or_cancellation() -> None:
    draws = np.random.default_rng(0)
    vectors = draws.normal(size=(30, 50)) * 10.0 ** draws.uniform(-12, 12, (30, 50))
    vectors = np.concatenate([vectors, -vectors[::-1], np.full((1, 50), 1e-9)])
    exact = [float(sum(map(Fraction, column))) for column in vectors.T]
    np.testing.assert_allclose(added(vectors), exact, rtol=1e-6)


@given(st.integers(0, 2**32), st.sampled_from([1e-7, 1e-5, 1e-3]))
@settings(max_examples=60, deadline=None)
def test_columns_of_0_and_1_are_told_from_constants_whatever_the_error(seed: int, error: float) -> None:
    """In an approximate sum (CKKS), a level that no row has, or every row has, is lost among the errors."""
    draws = np.random.default_rng(seed)
    X = (draws.uniform(size=(90, 4)) < (0.5, 0.0, 1.0, 0.1)).astype(np.float64)
    X[0, 3] = 1.0
    X = np.column_stack([X, draws.uniform(-1, 1, 90)])
    Y = np.eye(2)[draws.integers(0, 2, 90)]
    exact = statistics_of(X, Y)
    noise = draws.uniform(-error, error, exact.gram.shape)
    gram = exact.gram + np.triu(noise) + np.triu(noise, 1).T
    off = replace(exact, gram=gram, cross=exact.cross + draws.uniform(-error, error, exact.cross.shape))
    with pytest.raises(SolveError, match="cannot be told from a constant"):
        solve_standardised(off, ridge=1e-2, entry_error=error)
    known = {"ridge": 1e-2, "indicators": (1, 2, 3, 4)}
    found, pooled = solve_standardised(off, entry_error=error, **known), solve_standardised(exact, **known)  # type: ignore[arg-type]
    assert found.constant == pooled.constant == (2, 3)
    assert np.linalg.norm(found.weights - pooled.weights) <= found.certificate.bound
    np.testing.assert_allclose(pooled.weights, solve_standardised(exact, ridge=1e-2).weights, atol=1e-12)
    with pytest.raises(SolveError, match="column 5 to be 0 or 1 in every row"):
        solve_standardised(exact, ridge=1e-2, indicators=(5,))
