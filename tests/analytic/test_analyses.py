"""Analyses out of one sum are those of the pooled rows: against statsmodels and scikit-learn."""

from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from scipy.special import softmax
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from secure_afl.analytic.components import principal_components
from secure_afl.analytic.description import Cell, describe
from secure_afl.analytic.discriminants import discriminants
from secure_afl.analytic.inference import least_squares
from secure_afl.analytic.moments import Moments, Scaling
from secure_afl.analytic.path import RIDGES, path
from secure_afl.analytic.statistics import Matrix, PublicBounds, SufficientStatistics
from secure_afl.errors import DataError, SolveError


def moments_of(
    X: Matrix, Y: Matrix, weights: Matrix | None = None, scaling: Scaling | None = None, **names: Any
) -> Moments:
    """Of rows as a sum has them: columns scaled, a column of ones in front, times roots of weights."""
    columns = scaling or Scaling.none(X.shape[1])
    roots = np.ones(len(X)) if weights is None else np.sqrt(weights)
    Z = np.column_stack([np.ones(len(X)), columns.scaled(X)]) * roots[:, None]
    T = Y * roots[:, None]
    bounds = PublicBounds(
        Z.shape[1],
        Y.shape[1],
        1.01 * float(np.linalg.norm(Z, axis=1).max()),
        len(X),
        1.01 * float(abs(T).max(initial=1.0)),
        squares=True,
    )
    statistics = SufficientStatistics.from_rows(Z, T, bounds)
    return Moments.of(
        statistics,
        columns,
        Scaling.none(Y.shape[1]),
        column=float(abs(Z).max()),
        weighted=weights is not None,
        **names,
    )


def rows(seed: int, n: int, d: int, c: int = 1) -> tuple[Matrix, Matrix]:
    """Columns in units from 1e-3 to 1e3, with origins up to ten spreads away, correlated; noisy linear targets."""
    draws = np.random.default_rng(seed)
    X = draws.normal(size=(n, d)) @ (np.eye(d) + 0.5 * draws.normal(size=(d, d)) / np.sqrt(d))
    X = (X + draws.uniform(-10, 10, d)) * 10.0 ** draws.uniform(-3, 3, d)
    slopes = draws.normal(size=(d, c)) / X.std(axis=0)[:, None]
    return X, X @ slopes + draws.normal(size=(n, c)) + draws.uniform(-5, 5, c)


sizes = st.tuples(st.integers(0, 2**32), st.integers(20, 200), st.integers(1, 6))


@given(sizes, st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_least_squares_is_statsmodels_ols(size: tuple[int, int, int], c: int) -> None:
    X, Y = rows(*size, c)
    found = least_squares(moments_of(X, Y))
    low, high = found.interval(0.9)
    for at in range(c):
        reference = sm.OLS(Y[:, at], sm.add_constant(X, has_constant="add")).fit()
        np.testing.assert_allclose(found.coef[:, at], reference.params, rtol=1e-8)
        np.testing.assert_allclose(found.se[:, at], reference.bse, rtol=1e-8)
        np.testing.assert_allclose(found.t[:, at], reference.tvalues, rtol=1e-8)
        np.testing.assert_allclose(found.p[:, at], reference.pvalues, rtol=1e-6, atol=1e-300)
        np.testing.assert_allclose(np.stack([low, high])[:, :, at].T, reference.conf_int(0.1), rtol=1e-7)
        np.testing.assert_allclose(found.covariance * found.sigma2[at], reference.cov_params(), rtol=1e-7)
        for mine, theirs in (
            (found.r2, reference.rsquared),
            (found.adjusted_r2, reference.rsquared_adj),
            (found.f, reference.fvalue),
            (found.sigma2, reference.mse_resid),
            (found.log_likelihood, reference.llf),
            (found.aic, reference.aic),
            (found.bic, reference.bic),
        ):
            assert mine[at] == pytest.approx(theirs, rel=1e-8)
        assert found.f_p[at] == pytest.approx(reference.f_pvalue, rel=1e-6, abs=1e-300)
    assert found.freedom == reference.df_resid


@given(sizes)
@settings(max_examples=30, deadline=None)
def test_weighted_least_squares_is_statsmodels_wls(size: tuple[int, int, int]) -> None:
    X, Y = rows(*size)
    weights = np.random.default_rng(size[0]).uniform(0.1, 5, len(X))
    found = least_squares(moments_of(X, Y, weights))
    reference = sm.WLS(Y[:, 0], sm.add_constant(X, has_constant="add"), weights).fit()
    np.testing.assert_allclose(found.coef[:, 0], reference.params, rtol=1e-8)
    np.testing.assert_allclose(found.se[:, 0], reference.bse, rtol=1e-8)
    assert found.r2[0] == pytest.approx(reference.rsquared, rel=1e-8)
    assert found.f[0] == pytest.approx(reference.fvalue, rel=1e-8)
    assert np.isnan(found.aic).all()
    known = least_squares(moments_of(X, Y, weights), log_weights=float(np.log(weights).sum()))
    for mine, theirs in (
        (known.log_likelihood, reference.llf),
        (known.aic, reference.aic),
        (known.bic, reference.bic),
    ):
        assert mine[0] == pytest.approx(theirs, rel=1e-8)
    with pytest.raises(DataError, match="expected log_weights as a finite number"):
        least_squares(moments_of(X, Y), log_weights=0.0)


def test_scaled_columns_say_the_same_in_their_own_units() -> None:
    X, Y = rows(0, 100, 3)
    low, high = X.min(axis=0), X.max(axis=0)
    scaling = Scaling((low + high) / 2, np.frexp((high - low) / 2)[1].astype(np.int64))
    for plain, scaled in ((moments_of(X, Y), moments_of(X, Y, scaling=scaling)),):
        np.testing.assert_allclose(scaled.mean, X.mean(axis=0), rtol=1e-13)
        np.testing.assert_allclose(scaled.scatter, np.cov(X.T) * 99, rtol=1e-10)
        np.testing.assert_allclose(scaled.scatter, plain.scatter, rtol=1e-9)
        np.testing.assert_allclose(least_squares(scaled).se, least_squares(plain).se, rtol=1e-9)


def test_a_constant_column_has_no_standard_error() -> None:
    X, Y = rows(0, 50, 3)
    X[:, 1] = 0.5
    found = least_squares(moments_of(X, Y))
    reference = sm.OLS(Y[:, 0], sm.add_constant(X[:, [0, 2]])).fit()
    np.testing.assert_allclose(found.coef[[0, 1, 3], 0], reference.params, rtol=1e-8)
    assert found.coef[2, 0] == 0
    assert np.isnan(found.se[2, 0])
    assert found.aic[0] == pytest.approx(reference.aic, rel=1e-10)


@given(sizes, st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_columns_that_follow_from_earlier_ones_are_left_out(size: tuple[int, int, int], more: int) -> None:
    """As R's `lm` does: the other columns get the coefficients of a regression without them, and no independent column is
    left out.
    """
    X, Y = rows(*size)
    draws = np.random.default_rng(size[0])
    spread, places = (X - X.mean(axis=0)) / X.std(axis=0), X.shape[1] + np.arange(more)
    repeated = np.column_stack([X, spread @ draws.normal(size=(X.shape[1], more)) + draws.normal(size=more)])
    found = least_squares(moments_of(repeated / repeated.std(axis=0), Y), leave_out=True)
    alone = least_squares(moments_of(X / repeated.std(axis=0)[: X.shape[1]], Y), leave_out=True)
    assert found.left_out == tuple(places.tolist())
    assert alone.left_out == ()
    kept = range(1 + X.shape[1])
    np.testing.assert_allclose(found.coef[kept], alone.coef, rtol=1e-7)
    np.testing.assert_allclose(found.se[kept], alone.se, rtol=1e-7)
    np.testing.assert_allclose(found.r2, alone.r2, rtol=1e-8)
    assert found.freedom == alone.freedom
    assert np.isnan(found.se[1 + places]).all()
    assert (found.coef[1 + places] == 0).all()


def test_what_least_squares_cannot_say_is_refused() -> None:
    X, Y = rows(0, 50, 3)
    X[:, 2] = X[:, 0] / 3 - 2 * X[:, 1] + 1
    with pytest.raises(SolveError, match="got 'age', 'dose', 'sum': leave one out"):
        least_squares(moments_of(X / X.std(axis=0), Y, features=("age", "dose", "sum")))
    with pytest.raises(SolveError, match=r"expected more rows than the 4 coefficients .* got 4"):
        least_squares(moments_of(*rows(0, 4, 3)))
    with pytest.raises(DataError, match=r"level between 0 and 1, such as 0\.95, got 95"):
        least_squares(moments_of(*rows(0, 50, 3))).interval(95)


@given(sizes, st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_the_path_is_that_of_the_hat_matrix(size: tuple[int, int, int], c: int) -> None:
    X, Y = rows(*size, c)
    n, moments = len(X), moments_of(X, Y)
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    deviations = np.sqrt(moments.scatter.diagonal() / n)
    ridges = [1e-6, 1e-3, 0.1, 10.0]
    found = path(
        moments.correlation,
        moments.cross / deviations[:, None] / n,
        moments.target_scatter.diagonal() / n,
        n,
        ridges,
    )
    for at, ridge in enumerate(ridges):
        hat = np.ones((n, n)) / n + Z @ np.linalg.solve(Z.T @ Z + n * ridge * np.eye(Z.shape[1]), Z.T)
        rss, freedom = float(((Y - hat @ Y) ** 2).sum()), float(np.trace(hat))
        assert found.rss[at] == pytest.approx(rss, rel=1e-8)
        assert found.freedom[at] == pytest.approx(freedom, rel=1e-9)
        assert found.gcv[at] == pytest.approx(n * rss / (n - freedom) ** 2, rel=1e-8)
    assert found.best in ridges
    assert len(RIDGES) == 45


@given(sizes, st.booleans())
@settings(max_examples=40, deadline=None)
def test_components_are_scikit_learns(size: tuple[int, int, int], standardise: bool) -> None:
    X, _ = rows(*size)
    if standardise:
        reference = PCA().fit((X - X.mean(axis=0)) / X.std(axis=0, ddof=1))
    else:
        X = (X - X.mean(axis=0)) / X.std(axis=0) * np.arange(1, X.shape[1] + 1) + 3
        reference = PCA().fit(X)
    found = principal_components(moments_of(X, np.zeros((len(X), 0))), standardise=standardise)
    np.testing.assert_allclose(found.variances, reference.explained_variance_, rtol=1e-8)
    np.testing.assert_allclose(found.shares, reference.explained_variance_ratio_, rtol=1e-8)
    gaps = np.diff(reference.explained_variance_) / reference.explained_variance_[0]
    for at, (mine, theirs) in enumerate(zip(found.directions, reference.components_, strict=True)):
        near = min(abs(gaps[max(0, at - 1) : at + 1]), default=1.0)
        assert subspace_angles(mine[:, None], theirs[:, None])[0] <= 1e-10 / near
        assert mine[abs(mine).argmax()] > 0


@given(
    sizes,
    st.integers(2, 4),
    st.sampled_from([None, "equal", "given"]),
)
@example((84132, 20, 1), 4, None)  # a class of one row, of which scikit-learn warns
@settings(max_examples=50, deadline=None)
def test_discriminants_are_scikit_learns(size: tuple[int, int, int], classes: int, kind: str | None) -> None:
    X, _ = rows(*size)
    draws = np.random.default_rng(size[0])
    # Two rows a class at least: scikit-learn warns of one.
    y = np.append(np.repeat(np.arange(classes), 2), draws.integers(0, classes, len(X) - 2 * classes))
    X = X + draws.normal(size=(classes, X.shape[1]))[y] * X.std(axis=0)
    given_: Any = draws.uniform(0.1, 1, classes) if kind == "given" else kind
    reference = LinearDiscriminantAnalysis(solver="lsqr").fit(X, y)
    found = discriminants(moments_of(X, np.eye(classes)[y]), given_)
    priors = {None: reference.priors_, "equal": np.ones(classes), "given": given_}[kind]
    # Other priors move scores by a constant; scikit-learn's lsqr would weigh the covariance by them, too.
    theirs = X @ np.atleast_2d(reference.coef_).T + reference.intercept_
    if classes == 2:
        theirs = np.column_stack([np.zeros(len(X)), theirs])
    theirs = softmax(theirs + np.log(priors / reference.priors_), axis=1)
    np.testing.assert_allclose(
        softmax(X @ found.coef.T + found.intercept, axis=1), theirs, rtol=1e-6, atol=1e-9
    )
    np.testing.assert_allclose(found.means, reference.means_, rtol=1e-9)
    np.testing.assert_allclose(found.covariance, reference.covariance_, rtol=1e-8)
    np.testing.assert_allclose(found.priors, priors / priors.sum(), rtol=1e-12)


def test_a_class_without_rows_is_never_found() -> None:
    X, _ = rows(0, 60, 2)
    y = np.arange(60) % 2 * 2
    found = discriminants(moments_of(X, np.eye(3)[y]), "equal")
    assert found.intercept[1] == -np.inf
    assert found.priors.tolist() == [0.5, 0.0, 0.5]
    alone = discriminants(moments_of(X, np.eye(2)[y // 2]), "equal")
    np.testing.assert_allclose(found.coef[[0, 2]], alone.coef)


def test_dependent_columns_need_a_ridge() -> None:
    X, _ = rows(0, 60, 2)
    y = np.eye(2)[np.arange(60) % 2]
    twice = moments_of(np.column_stack([X, X[:, 0]]), y)
    with pytest.raises(SolveError, match="none of which follows from the others within classes"):
        discriminants(twice)
    assert np.isfinite(discriminants(twice, ridge=0.1).coef).all()
    for priors in ([1.0], [1.0, -1.0], "most", object()):
        with pytest.raises(DataError, match="expected priors as 2 numbers above 0"):
            discriminants(twice, priors)  # type: ignore[arg-type]


def test_table_one() -> None:
    draws = np.random.default_rng(0)
    age, smokes = draws.uniform(20, 80, 200), (np.arange(200) % 4 == 0).astype(float)
    rare = np.zeros(200)
    rare[[1, 5, 9]] = 1
    y = np.eye(2)[(age > 50).astype(int)]
    X = np.column_stack([age, smokes, rare])
    found = describe(
        moments_of(X, y, features=("age", "smokes", "rare"), outputs=("young", "old")), classes=True
    )
    old = y[:, 1] == 1
    assert (found.rows, found.classes, found.class_rows) == (
        200,
        ("young", "old"),
        (int((~old).sum()), int(old.sum())),
    )
    lines = {one.name: one for one in found.lines}
    assert lines["age"].mean == pytest.approx(age.mean(), rel=1e-12)
    assert lines["age"].deviation == pytest.approx(age.std(ddof=1), rel=1e-12)
    np.testing.assert_allclose(
        np.array(lines["age"].by_class, dtype=float), [age[~old].mean(), age[old].mean()], rtol=1e-12
    )
    assert lines["smokes"].all == Cell(50, 0.25)
    assert [one.count for one in lines["smokes"].cells] == [int(smokes[~old].sum()), int(smokes[old].sum())]
    assert lines["rare"].all == Cell(None, None)
    assert lines["rare"].cells == (Cell(None, None), Cell(None, None))


def test_a_suppressed_cell_does_not_follow_from_the_others() -> None:
    flags = np.zeros(300)
    flags[np.r_[0:40, 100:150, 200:203]] = 1
    y = np.eye(3)[np.arange(300) // 100]
    (line,) = describe(moments_of(flags[:, None], y), classes=True).lines
    assert line.all == Cell(93, 0.31)
    assert [one.count for one in line.cells] == [None, 50, None]
    (line,) = describe(moments_of(flags[:, None], y), classes=True, least_rows=1).lines
    assert [one.count for one in line.cells] == [40, 50, 3]
    with pytest.raises(DataError, match="least_rows as an integer"):
        describe(moments_of(flags[:, None], y), least_rows=0)
    with pytest.raises(DataError, match="without weights"):
        describe(moments_of(flags[:, None], y, np.ones(300)))
