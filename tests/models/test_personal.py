"""The local objective against its definition: calculus, refitting without each row, and its two limits."""

from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from secure_afl import FederatedRidge, FederatedRidgeClassifier, MaskedAggregator
from secure_afl.errors import DataError
from secure_afl.models.personal import MU_GRID, TABLE_GRID, Local

CASES = (st.integers(1, 12), st.integers(1, 9), st.integers(1, 4), st.integers(0, 2**32))
PULLS = st.sampled_from([mu for mu in MU_GRID if 1e-4 <= mu < inf])


def problem(n: int, d: int, c: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draws = np.random.default_rng(seed)
    return draws.normal(size=(n, d)), draws.normal(size=(n, c)), draws.normal(size=(d, c))


def solved(rows: np.ndarray, targets: np.ndarray, anchor: np.ndarray, mu: float) -> np.ndarray:
    """(XᵀX + μI)⁻¹(XᵀY + μW_g), as it is written."""
    gram = rows.T @ rows + mu * np.eye(rows.shape[1])
    return np.linalg.solve(gram, rows.T @ targets + mu * anchor)


@given(*CASES, PULLS)
def test_the_weights_solve_the_local_objective(n: int, d: int, c: int, seed: int, mu: float) -> None:
    rows, targets, anchor = problem(n, d, c, seed)
    own = Local(rows, targets, anchor).weights(mu)
    unit = (rows**2).sum() / n
    np.testing.assert_allclose(own, solved(rows, targets, anchor, mu * unit), rtol=1e-6, atol=1e-8)


@given(*CASES, PULLS)
def test_left_out_predictions_are_those_of_models_that_never_saw_the_row(
    n: int, d: int, c: int, seed: int, mu: float
) -> None:
    rows, targets, anchor = problem(n, d, c, seed)
    unit = (rows**2).sum() / n
    expected = [
        rows[i] @ solved(np.delete(rows, i, axis=0), np.delete(targets, i, axis=0), anchor, mu * unit)
        for i in range(n)
    ]
    np.testing.assert_allclose(Local(rows, targets, anchor).left_out(mu), expected, rtol=1e-5, atol=1e-7)


@given(st.integers(6, 12), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**32))
def test_a_strong_pull_gives_the_group_model_and_none_the_local_fit(
    n: int, d: int, c: int, seed: int
) -> None:
    rows, targets, anchor = problem(n, d, c, seed)
    local = Local(rows, targets, anchor)
    fit = np.linalg.lstsq(rows, targets, rcond=None)[0]
    condition = np.linalg.cond(rows) ** 2
    far, near = (np.linalg.norm(local.weights(mu) - anchor) for mu in (1e6, 1e3))
    assert far <= 1.1e-3 * near + 1e-12  # falls as 1/μ
    assert np.linalg.norm(local.weights(1e-9) - fit) <= 1e-8 * condition * (1 + np.linalg.norm(anchor - fit))
    assert np.array_equal(local.weights(inf), anchor)
    np.testing.assert_allclose(local.left_out(inf), rows @ anchor)


@given(*CASES)
def test_the_chosen_pull_has_the_least_error_of_all(n: int, d: int, c: int, seed: int) -> None:
    rows, targets, anchor = problem(n, d, c, seed)
    local = Local(rows, targets, anchor)
    squares = {mu: ((targets - local.left_out(mu)) ** 2).mean() for mu in MU_GRID}
    chosen = local.choose()
    assert chosen.error == min(squares.values()) == squares[chosen.mu]
    assert np.array_equal(chosen.weights, local.weights(chosen.mu))
    labels = np.random.default_rng(seed).integers(0, c, n)
    wrong = {mu: (local.left_out(mu).argmax(axis=1) != labels).mean() for mu in MU_GRID}
    chosen = local.choose(labels)
    assert chosen.error == min(wrong.values()) == wrong[chosen.mu]
    assert squares[chosen.mu] == min(squares[mu] for mu in MU_GRID if wrong[mu] == chosen.error)


def test_rows_without_news_keep_the_model_that_was_sent() -> None:
    rows, _, anchor = problem(5, 3, 2, 0)
    assert Local(rows, rows @ anchor, anchor).choose().mu == inf
    assert Local(np.zeros((2, 3)), np.ones((2, 2)), anchor).choose().mu == inf


@pytest.mark.parametrize(
    ("rows", "targets", "anchor", "what"),
    [
        (np.ones((3, 2)), np.ones((3, 4)), np.ones((2, 3)), r"weights \(d, c\), got"),
        (np.ones((3, 2)), np.ones((4, 3)), np.ones((2, 3)), "as many targets as rows"),
        (np.ones((0, 2)), np.ones((0, 3)), np.ones((2, 3)), "at least one"),
        (np.full((3, 2), np.nan), np.ones((3, 3)), np.ones((2, 3)), "finite"),
    ],
)
def test_what_does_not_fit_is_refused(
    rows: np.ndarray, targets: np.ndarray, anchor: np.ndarray, what: str
) -> None:
    with pytest.raises(DataError, match=what):
        Local(rows, targets, anchor)


def hospitals(draws: np.random.Generator, rows: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three sites whose labels depend on their three columns differently; years, a flag and a number."""
    site = np.repeat(["a", "b", "c"], rows)
    X = np.column_stack(
        [draws.integers(1950, 2010, 3 * rows), draws.integers(0, 2, 3 * rows), draws.normal(0, 4, 3 * rows)]
    ).astype(np.float64)
    slope = np.repeat([0.05, 0.0, -0.05], rows)
    score = slope * (X[:, 0] - 1980) + 2 * X[:, 1] + 0.3 * X[:, 2] + draws.normal(0, 1, 3 * rows)
    return X, (score > 1).astype(np.int64), site


BOUNDS = [(1900.0, 2050.0), (0.0, 1.0), (-40.0, 40.0)]
SCALE = 2.0  # of a target within (-1, 2) as it is summed: the power of two over half its range


@pytest.mark.parametrize("weighted", [False, True])
@given(st.integers(0, 2**32))
@settings(max_examples=3)
def test_a_personal_model_is_scikit_learns_ridge_towards_the_common_one(weighted: bool, seed: int) -> None:
    """Weights, leave-one-out error and choice are those of refits without each row, in any origin and unit."""
    draws = np.random.default_rng(seed)
    X, y, site = hospitals(draws, 15)
    weights = draws.uniform(0.5, 2.0, len(y)) if weighted else None
    common = FederatedRidge(
        column_bounds=BOUNDS, target_bounds=(-1.0, 2.0), max_weight=2.0 if weighted else None
    ).fit_pooled(X, y, weights)
    here = site == "a"
    rows, targets, of = X[here], y[here].astype(float), None if weights is None else weights[here]
    own = common.personalize(rows, targets, of)

    mean = np.average(X, axis=0, weights=weights)
    deviation = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=weights))
    Z = np.column_stack([np.ones(len(rows)), (rows - mean) / deviation])
    residual = targets - common.predict(rows)

    def change(kept: np.ndarray, mu: float) -> np.ndarray:
        fit = Ridge(alpha=mu * len(rows), fit_intercept=False, solver="cholesky")
        return np.asarray(fit.fit(Z[kept], residual[kept], None if of is None else of[kept]).coef_)

    everyone = np.arange(len(rows))
    errors = {
        mu: np.mean(
            [
                (1.0 if of is None else of[i]) * (residual[i] - Z[i] @ change(everyone != i, mu)) ** 2
                for i in everyone
            ]
        )
        for mu in TABLE_GRID
    }
    assert errors[own.personal_.mu] <= min(errors.values()) * (1 + 1e-6)
    np.testing.assert_allclose(own.personal_.error, errors[own.personal_.mu] / SCALE**2, rtol=1e-6)
    np.testing.assert_allclose(
        own.predict(rows), common.predict(rows) + Z @ change(everyone, own.personal_.mu), atol=1e-7
    )


class Silent:
    """An aggregator that must not be asked again."""

    def __init__(self, inner: MaskedAggregator) -> None:
        self.inner: MaskedAggregator | None = inner

    def __getattr__(self, name: str) -> object:
        assert self.inner is not None, f"{name}: a personal model asked the aggregator"
        return getattr(self.inner, name)


@given(st.integers(0, 2**32))
@settings(max_examples=5)
def test_nothing_leaves_a_client_for_its_personal_model(seed: int) -> None:
    X, y, site = hospitals(np.random.default_rng(seed))
    y[site == "b"] = 1  # a client may have rows of one class only
    aggregator = Silent(MaskedAggregator())
    common = FederatedRidgeClassifier(column_bounds=BOUNDS, aggregator=aggregator)  # type: ignore[arg-type]
    common.fit(X, y, site)
    sent = dict(aggregator.inner.cohort.costs)  # type: ignore[union-attr]
    weights, cohort = common.weights_.copy(), aggregator.inner.cohort  # type: ignore[union-attr]
    aggregator.inner = None
    for name in ("a", "b", "c"):
        own = common.personalize(X[site == name], y[site == name])
        assert own.classes_.tolist() == common.classes_.tolist() == [0, 1]
        assert own.score(X[site == name], y[site == name]) > 0.6
        # It holds nothing of the sum, and can ask nobody.
        assert own.aggregator is None
        assert not {"_kept", "rounds_", "statistics_", "certificate_"} & vars(own).keys()
        with pytest.raises(DataError, match="expected an exact sum"):
            _ = own.moments_
    assert dict(cohort.costs) == sent
    assert np.array_equal(common.weights_, weights)
    assert common.rounds_


def test_a_personal_model_needs_a_sum_and_rows_that_fit() -> None:
    X, y, _ = hospitals(np.random.default_rng(0))
    common = FederatedRidgeClassifier(column_bounds=BOUNDS)
    with pytest.raises(DataError, match="expected an exact sum"):
        common.personalize(X, y)
    common.fit_pooled(X, y)
    with pytest.raises(DataError, match="this client: expected finite X within its column's bound"):
        common.personalize(X + 1000, y)
    with pytest.raises(DataError, match="this client"):
        common.personalize(X, y + 1)
