"""The certificate must hold for every partition, order, scale and conditioning, and must not be idle talk."""

import csv
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

import secure_afl.analytic.solve as module
from secure_afl.analytic.solve import Certificate, solve
from secure_afl.analytic.statistics import Matrix, PublicBounds, SufficientStatistics, gamma
from secure_afl.errors import SolveError

HEART = Path(__file__).parents[2] / "simulations" / "data" / "files" / "heart_disease_uci.csv"


def secure_sum(clients: list[SufficientStatistics], fraction_bits: int, bounds: PublicBounds) -> Any:
    """What masks deliver: each entry rounded to fraction_bits, added as integers; and the entry error."""
    unit = Fraction(1, 2**fraction_bits)
    total = [0] * bounds.length
    for client in clients:
        units = np.rint(np.ldexp(client.pack(), fraction_bits))
        total = [t + int(u) for t, u in zip(total, units, strict=True)]
    vector = [float(t * unit) for t in total]
    return SufficientStatistics.unpack(vector, bounds), float(len(clients) * unit / 2)


def distance(a: Matrix, b: Matrix) -> float:
    return math.hypot(*(a - b).ravel())


@st.composite
def problems(draw: st.DrawFn) -> Any:
    """Rows with G + γI of condition up to 1e10, split among sites, and few or many fraction bits."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    d, c = draw(st.integers(1, 7)), draw(st.integers(1, 3))
    n = draw(st.sampled_from([1, 2, 5, 20, 80]))
    condition = 10.0 ** draw(st.floats(0, 10))
    scale = 10.0 ** draw(st.sampled_from([-100, -9, -3, 0, 0, 0, 2, 8, 100]))
    rank = max(1, min(n, d) - draw(st.sampled_from([0, 0, 1, 3])))
    values = condition ** -np.linspace(0, 0.5, rank)
    left, right = (np.linalg.qr(rng.standard_normal((k, k)))[0] for k in (n, d))
    X = scale * (left[:, :rank] * values) @ right[:rank]
    if draw(st.booleans()):
        X *= 2.0 ** rng.integers(-4, 5, d)  # uneven columns, by 2^8 at most
    Y = np.eye(c)[rng.integers(0, c, n)] if draw(st.booleans()) else rng.uniform(-1, 1, (n, c))
    eigenvalues = np.linalg.eigvalsh(X.T @ X)
    ridge = draw(st.sampled_from([0.0, 1e-6, 1e-3, 1.0]))
    if eigenvalues[0] < eigenvalues[-1] * 1e-10 and ridge == 0:
        ridge = 10.0 ** draw(st.integers(-9, 0))
    smallest = max(eigenvalues[0], 0) + ridge * np.trace(X.T @ X) / d
    sites = rng.choice(6, n, p=rng.dirichlet(np.full(6, 0.3)))  # uneven, some of them empty
    # The fewest bits that leave the fixed-point error under a tenth of λ_min, and up to 40 more.
    fewest = math.ceil(math.log2(6 * d * (1 + ridge) * 10 / smallest))
    return X, Y, sites, ridge, max(0, fewest) + draw(st.integers(0, 40)), rng


@pytest.mark.slow
@given(problems())
@settings(max_examples=600, deadline=None)
def test_no_partition_order_or_scale_beats_the_bound(problem: Any) -> None:
    X, Y, sites, ridge, fraction_bits, rng = problem
    bounds = PublicBounds(X.shape[1], Y.shape[1], 1.01 * float(np.linalg.norm(X)), 100)
    clients = [
        SufficientStatistics.from_rows(X[sites == s], Y[sites == s], bounds, chunk_rows=3) for s in range(6)
    ]
    order = rng.permutation(len(X))
    pooled = SufficientStatistics.from_rows(X[order], Y[order], bounds, chunk_rows=int(rng.integers(1, 90)))
    aggregated, entry_error = secure_sum(clients, fraction_bits, bounds)

    plain = solve(pooled, ridge=ridge)
    secure = solve(aggregated, ridge=ridge, entry_error=entry_error)  # a SolveError here is a failure, too
    certificate = secure.certificate
    assert distance(secure.weights, plain.weights) <= certificate.bound
    assert distance(aggregated.gram, pooled.gram) <= certificate.gram_error * math.sqrt(X.shape[1])
    assert np.linalg.norm(aggregated.gram - pooled.gram, 2) <= certificate.gram_error
    assert distance(aggregated.cross, pooled.cross) <= certificate.cross_error
    d = X.shape[1]
    shifts = [ridge * math.fsum(s.gram.diagonal()) / d for s in (aggregated, pooled)]
    assert abs(shifts[0] - shifts[1]) <= certificate.ridge_error

    # Unmasked float sums in any association are covered with no entry error at all.
    floats = solve(clients[3] + clients[0] + (clients[5] + clients[1]) + clients[4] + clients[2], ridge=ridge)
    assert distance(floats.weights, plain.weights) <= floats.certificate.bound
    assert floats.certificate.fixed_point == 0


def exact_system(statistics: SufficientStatistics, ridge: float) -> list[list[Fraction]]:
    d = len(statistics.gram)
    shift = Fraction(ridge * math.fsum(statistics.gram.diagonal()) / d)
    A = [[Fraction(value) for value in row] for row in statistics.gram]
    for j in range(d):
        A[j][j] += shift
    return A


def is_positive_definite(A: list[list[Fraction]], shift: Fraction) -> bool:
    """All pivots of A − shift·I are positive, in rational arithmetic."""
    rows = [[value - shift * (i == j) for j, value in enumerate(row)] for i, row in enumerate(A)]
    while rows:
        (pivot, *right), *rest = rows
        if pivot <= 0:
            return False
        rows = [[b - row[0] / pivot * a for a, b in zip(right, row[1:], strict=True)] for row in rest]
    return True


@given(seed=st.integers(0, 2**32), d=st.integers(1, 5), exponent=st.floats(0, 16), ridge=st.booleans())
@settings(max_examples=150, deadline=None)
def test_smallest_eigenvalue_is_a_lower_bound_in_rational_arithmetic(
    seed: int, d: int, exponent: float, ridge: bool
) -> None:
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((d, d)))[0]
    gram = (Q * 10.0 ** -np.linspace(0, exponent, d)) @ Q.T
    gram = np.triu(gram) + np.triu(gram, 1).T
    statistics = SufficientStatistics(gram, np.ones((d, 1)), 1)
    try:
        lower = solve(statistics, ridge=1e-9 * ridge).certificate.smallest_eigenvalue
    except SolveError:
        assert exponent > 12
        return
    A = exact_system(statistics, 1e-9 * ridge)
    assert is_positive_definite(A, Fraction(lower))
    if exponent < 11:
        assert not is_positive_definite(A, Fraction(lower * 1.2))


def test_smallest_eigenvalue_does_not_trust_the_eigenvalue_routine(monkeypatch: pytest.MonkeyPatch) -> None:
    """For shifts near λ_min, Cholesky sometimes completes above it; the bound is still below it."""
    rng = np.random.default_rng(1)
    completed_above = 0
    for _ in range(1000):
        d = int(rng.integers(2, 6))
        Q = np.linalg.qr(rng.standard_normal((d, d)))[0]
        gram = (Q * 10.0 ** -np.linspace(0, rng.uniform(8, 13), d)) @ Q.T
        gram = np.triu(gram) + np.triu(gram, 1).T
        claimed = (np.linalg.eigvalsh(gram) + rng.integers(0, 9) * 2.0**-55) / 0.9
        monkeypatch.setattr(module, "eigvalsh", lambda _, claimed=claimed: claimed)
        try:
            lower, *_ = module._smallest_eigenvalue(gram)
        except SolveError:
            continue
        A = [[Fraction(value) for value in row] for row in gram]
        assert is_positive_definite(A, Fraction(lower))
        completed_above += not is_positive_definite(A, Fraction(0.9 * float(claimed[0])))
    assert completed_above


def test_an_eigenvalue_routine_that_lies_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for lie in (1.2, 100.0, -1.0):
        monkeypatch.setattr(module, "eigvalsh", lambda A, lie=lie: lie * np.linalg.eigvalsh(A))
        with pytest.raises(SolveError, match="cannot be told from a singular"):
            solve(WORST, ridge=0.1)


@pytest.mark.parametrize("exponent", [1, 6, 11])
def test_the_bound_of_a_large_system_is_as_near(exponent: int) -> None:
    """Lanczos computes two eigenvalues instead of all."""
    d = 300
    Q = np.linalg.qr(np.random.default_rng(exponent).standard_normal((d, d)))[0]
    gram = (Q * 10.0 ** -np.linspace(0, exponent, d)) @ Q.T
    certificate = solve(
        SufficientStatistics(np.triu(gram) + np.triu(gram, 1).T, np.ones((d, 1)), 1), ridge=0.0
    ).certificate
    smallest = 10.0**-exponent
    assert 0.8 * smallest < certificate.smallest_eigenvalue < smallest
    assert certificate.condition == pytest.approx(1 / smallest, rel=0.1)


@pytest.mark.parametrize("lies", [1, 2])
def test_a_rough_estimate_of_the_least_eigenvalue_that_fails_is_made_again(
    monkeypatch: pytest.MonkeyPatch, lies: int
) -> None:
    """Lanczos first stops early; its estimate is used only if it can be proven."""
    tolerances, honest = [], module._extremes

    def lying(A: Any, factor: Any, tolerance: float) -> Any:
        tolerances.append(tolerance)
        return honest(A, factor, tolerance) * (1.2 if len(tolerances) <= lies else 1.0)

    monkeypatch.setattr(module, "_extremes", lying)
    rows = np.random.default_rng(0).standard_normal((250, 210))
    statistics = SufficientStatistics(rows.T @ rows, np.ones((210, 1)), 250)
    if lies < len(module._TOLERANCES):
        proven = solve(statistics, ridge=0.1).certificate.smallest_eigenvalue
        least = np.linalg.eigvalsh(statistics.gram)[0] + 0.1 * np.trace(statistics.gram) / 210
        assert 0.85 * least < proven < 0.95 * least
    else:
        with pytest.raises(SolveError, match="cannot be told from a singular"):
            solve(statistics, ridge=0.1)
    assert tolerances == list(module._TOLERANCES)


def test_smallest_eigenvalue_of_exact_powers_of_two() -> None:
    for power in range(0, 46, 5):
        small = 2.0**-power
        # H·diag(1, 2^-p)·H/2 with a Hadamard H: eigenvalues are exact.
        gram = np.array([[1 + small, 1 - small], [1 - small, 1 + small]]) / 2
        certificate = solve(SufficientStatistics(gram, np.ones((2, 1)), 1), ridge=0.0).certificate
        assert 0.8 * small < certificate.smallest_eigenvalue < small
        assert certificate.condition == pytest.approx(2.0**power, rel=0.01)


def test_what_cannot_be_told_from_singular_is_refused() -> None:
    for power in (49, 52, 53, 60):
        small = 2.0**-power
        gram = np.array([[1 + small, 1 - small], [1 - small, 1 + small]]) / 2
        with pytest.raises(SolveError, match="larger ridge"):
            solve(SufficientStatistics(gram, np.ones((2, 1)), 1), ridge=0.0)
    for gram in (np.diag([1.0, 0.0]), np.diag([1.0, -1e-3]), np.array([[1.0, 2.0], [2.0, 1.0]]), -np.eye(2)):
        with pytest.raises(SolveError, match="larger ridge"):
            solve(SufficientStatistics(gram, np.ones((2, 1)), 1), ridge=0.0)


# Statistics with one worst direction: λ_min belongs to (1, …, 1), where entry errors of one sign add up.
D = 5
WORST = SufficientStatistics(4 * np.eye(D) - 0.7 * np.ones((D, D)), np.full((D, 2), 0.5), 3)


def moved(
    statistics: SufficientStatistics, gram: Matrix | float, cross: Matrix | float
) -> SufficientStatistics:
    return SufficientStatistics(statistics.gram + gram, statistics.cross + cross, statistics.count)


@pytest.mark.parametrize("ridge", [0.0, 0.5, 20.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_fixed_point_part_is_reached_by_the_worst_errors(ridge: float, sign: int) -> None:
    epsilon = 1e-7
    plain = solve(WORST, ridge=ridge)
    secure = solve(moved(WORST, -sign * epsilon, sign * epsilon), ridge=ridge, entry_error=epsilon)
    reached = distance(secure.weights, plain.weights)
    assert 0.89 * secure.certificate.bound < reached <= secure.certificate.bound
    assert secure.certificate.rounding < 1e-6 * secure.certificate.fixed_point
    assert secure.certificate.gram_error == pytest.approx(D * epsilon, rel=1e-4)
    assert secure.certificate.cross_error == pytest.approx(math.sqrt(2 * D) * epsilon, rel=1e-4)
    assert secure.certificate.ridge_error == pytest.approx(ridge * epsilon, rel=1e-4)


@pytest.mark.parametrize("ridge", [0.0, 20.0])
def test_fixed_point_part_holds_when_the_error_nearly_eats_the_smallest_eigenvalue(ridge: float) -> None:
    exact = replace(WORST, cross=np.full((D, 2), 5.0))
    smallest = 4 - 0.7 * D + ridge * 3.3
    epsilon = 0.4 * smallest / (D + ridge)
    plain = solve(exact, ridge=ridge)
    secure = solve(moved(exact, epsilon, -epsilon), ridge=ridge, entry_error=epsilon)
    reached = distance(secure.weights, plain.weights)
    assert 0.8 * secure.certificate.bound < reached <= secure.certificate.bound
    with pytest.raises(SolveError, match=r"fixed point\); use more fraction bits, a larger ridge"):
        solve(exact, ridge=ridge, entry_error=0.95 * smallest / (D + ridge))


def test_a_diagonal_below_zero_is_taken_only_within_the_entry_error() -> None:
    gram = np.diag([1.0, -1e-6])
    noisy = SufficientStatistics(gram, np.full((2, 1), 1e-6), 1)
    plain = solve(SufficientStatistics(np.diag([1.0, 0.0]), np.zeros((2, 1)), 1), ridge=1.0)
    secure = solve(noisy, ridge=1.0, entry_error=1e-6)
    assert 1e-7 < distance(secure.weights, plain.weights) <= secure.certificate.bound
    with pytest.raises(SolveError, match="no guarantee"):
        solve(noisy, ridge=1.0, entry_error=0.9e-6)


@pytest.mark.parametrize("ridge", [0.0, 0.5, 20.0])
@pytest.mark.parametrize("target", [1.0, 3.0])
def test_rounding_of_the_statistics_is_reached_by_the_worst_summation(ridge: float, target: float) -> None:
    count = 2**36  # so many rows that γ_M is far above the roundings of this test
    off, v, w = gamma(count), math.sqrt(WORST.gram[0, 0]), target * math.sqrt(count)
    exact = replace(WORST, count=count, cross=np.full((D, 2), 0.5 * v * w))
    plain = solve(moved(exact, off * v * v, -off * v * w), ridge=ridge, target=target)
    secure = solve(moved(exact, -off * v * v, off * v * w), ridge=ridge, target=target)
    assert secure.certificate.fixed_point == 0
    reached = distance(secure.weights, plain.weights)
    assert 0.88 * secure.certificate.bound < reached <= secure.certificate.bound
    assert secure.certificate.gram_error == pytest.approx(2 * off * D * v * v, rel=1e-3)
    assert secure.certificate.cross_error == pytest.approx(2 * off * math.sqrt(2 * D) * v * w, rel=1e-3)
    assert secure.certificate.ridge_error == pytest.approx(2 * off * ridge * v * v, rel=1e-3, abs=1e-14)


@pytest.fixture
def sloppy(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Triangular solves that add the first of the listed corrections to the last W of each `solve`."""
    corrections: list[Any] = []
    calls = iter(range(10**6))
    exact = scipy.linalg.cho_solve

    def cho_solve(factor: Any, right: Matrix, **_: Any) -> Any:
        last = next(calls) % (module._REFINEMENTS + 1) == module._REFINEMENTS
        return exact(factor, right) + (corrections.pop(0) if last and corrections else 0)

    monkeypatch.setattr(module, "cho_solve", cho_solve)
    return corrections


# Nearly a rank-one Gram, where |A||W| is as large as it can be; λ_min = 2^-20 belongs to (1, −1, 0, …).
SMALL = 2.0**-20
STEEP = SufficientStatistics(
    np.full((6, 6), 1 - SMALL) + SMALL * np.eye(6), np.full((6, 1), 6 - 5 * SMALL), count=1
)
TOLERATED = 4 * gamma(8) * 2 * np.linalg.norm(STEEP.cross) / SMALL
DIRECTION = np.array([[1.0], [-1.0], [0], [0], [0], [0]]) / math.sqrt(2)


def test_residuals_of_both_solves_are_in_the_bound(sloppy: list[Any]) -> None:
    worst = 0.99 * TOLERATED * DIRECTION
    sloppy += [worst, -worst]
    plain = solve(STEEP, ridge=0.0)
    secure = solve(STEEP, ridge=0.0)
    assert not sloppy
    reached = distance(secure.weights, plain.weights)
    assert reached == pytest.approx(2 * 0.99 * TOLERATED, rel=1e-3)
    assert reached <= secure.certificate.bound < 1.5 * reached


def test_a_residual_out_of_tolerance_is_refused(sloppy: list[Any]) -> None:
    sloppy.append(1.01 * TOLERATED * DIRECTION)
    with pytest.raises(SolveError, match="did not converge"):
        solve(STEEP, ridge=0.0)
    sloppy.append(np.full((6, 1), np.nan))
    with pytest.raises(SolveError, match="did not converge"):
        solve(STEEP, ridge=0.0)


def test_refinement_repairs_a_poor_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, poor = scipy.linalg.cho_solve, 1.0
    monkeypatch.setattr(module, "cho_solve", lambda factor, right, **_: exact(factor, right) * (1 + poor))
    with pytest.raises(SolveError, match="did not converge"):
        solve(WORST, ridge=0.1)
    poor = 1e-5
    repaired = solve(WORST, ridge=0.1)
    A = WORST.gram + 0.1 * 3.3 * np.eye(D)
    np.testing.assert_allclose(repaired.weights, np.linalg.solve(A, WORST.cross), rtol=1e-13)


def test_the_solution_is_ridge_regression() -> None:
    rng = np.random.default_rng(7)
    X, Y = rng.standard_normal((300, 40)), rng.uniform(-1, 1, (300, 3))
    statistics = SufficientStatistics.from_rows(X, Y, PublicBounds(40, 3, 20.0, 300))
    weights = solve(statistics, ridge=0.25).weights
    shift = 0.25 * np.trace(X.T @ X) / 40
    stacked = np.vstack([X, math.sqrt(shift) * np.eye(40)]), np.vstack([Y, np.zeros((40, 3))])
    np.testing.assert_allclose(weights, np.linalg.lstsq(*stacked)[0], rtol=1e-10, atol=1e-12)
    assert weights.shape == (40, 3)
    with pytest.raises(ValueError, match="read-only"):
        weights[0, 0] = 1


def heart_rows() -> tuple[Matrix, Matrix, list[str]]:
    """Seven numeric columns, missing values as 0, and a one-hot label; (920, 7), (920, 2), the sites."""
    with HEART.open() as file:
        records = list(csv.DictReader(file))
    scales = {"age": 100, "trestbps": 200, "thalch": 200, "oldpeak": 6}
    X = np.array([[float(r[name] or 0) / s for name, s in scales.items()] for r in records])
    flags = np.array([[r["sex"] == "Male", r["exang"] == "TRUE", True] for r in records])
    sick = np.array([int(r["num"]) > 0 for r in records], dtype=int)
    return np.hstack([X, flags]), np.eye(2)[sick], [r["dataset"] for r in records]


@pytest.mark.parametrize(("fraction_bits", "sharpness"), [(32, 1e2), (38, 2e3), (46, 1e5)])
@pytest.mark.parametrize("ridge", [0.0, 1e-3])
def test_bound_on_four_hospitals_is_true_and_useful(
    fraction_bits: int, sharpness: float, ridge: float
) -> None:
    X, Y, sites = heart_rows()
    bounds = PublicBounds(7, 2, 2.5, 400)
    names = sorted(set(sites))
    assert len(names) == 4
    of = {name: np.array([site == name for site in sites]) for name in names}
    clients = [SufficientStatistics.from_rows(X[of[n]], Y[of[n]], bounds, who=n) for n in names]
    aggregated, entry_error = secure_sum(clients, fraction_bits, bounds)
    plain = solve(SufficientStatistics.from_rows(X, Y, replace(bounds, rows=920)), ridge=ridge)
    secure = solve(aggregated, ridge=ridge, entry_error=entry_error)
    reached = distance(secure.weights, plain.weights)
    assert 0 < reached <= secure.certificate.bound < sharpness * reached
    assert secure.certificate.bound < 1e-8 * np.linalg.norm(plain.weights)


@pytest.mark.parametrize(
    "arguments",
    [
        {"ridge": -1e-9},
        {"ridge": math.nan},
        {"ridge": math.inf},
        {"ridge": 1.0, "entry_error": -1.0},
        {"ridge": 1.0, "entry_error": math.nan},
        {"ridge": 1.0, "entry_error": math.inf},
        {"ridge": 1.0, "target": 0.0},
        {"ridge": 1.0, "target": math.nan},
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(SolveError, match="out of range"):
        solve(WORST, **arguments)


@pytest.mark.parametrize(
    ("statistics", "text"),
    [
        (replace(WORST, count=0), "0 rows"),
        (SufficientStatistics(np.zeros((2, 2)), np.ones((2, 1)), 4), "entry of their Gram matrix 0"),
        (SufficientStatistics(np.eye(2) * 1e-300, np.ones((2, 1)), 4), "entry of their Gram matrix 1e-300"),
        (SufficientStatistics(np.eye(2) * 1e300, np.ones((2, 1)), 4), "entry of their Gram matrix 1e[+]300"),
        (SufficientStatistics(np.eye(2), np.full((2, 1), 1.7e308), 4), "residual|range of float64"),
        (SufficientStatistics(np.eye(2) * 1e-260, np.full((2, 1), 1e200), 4), "did not converge"),
        (replace(WORST, count=2**53), "no guarantee can be given"),
        (replace(WORST, count=2**60), "no guarantee can be given"),
    ],
)
def test_no_result_is_better_than_a_doubtful_one(statistics: SufficientStatistics, text: str) -> None:
    with pytest.raises(SolveError, match=text):
        solve(statistics, ridge=1.0)


def test_the_largest_entry_error_is_refused() -> None:
    with pytest.raises(SolveError, match="no guarantee"):
        solve(WORST, ridge=1.0, entry_error=1.7e308)


def test_a_certificate_without_a_number_does_not_exist() -> None:
    good = Certificate(1.0, 2.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    assert good.bound == 3.0
    for name in ("fixed_point", "rounding", "smallest_eigenvalue", "gram_error", "condition"):
        for value in (math.nan, math.inf, -1.0):
            with pytest.raises(SolveError, match="no guarantee can be given"):
                replace(good, **{name: value})
