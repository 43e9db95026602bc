"""A ridge classifier that several parties learn from sums of their statistics, in scikit-learn's manner."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from secure_afl.aggregation import Aggregate, Aggregator, MaskedAggregator, warn_of_dropouts
from secure_afl.errors import DataError
from secure_afl.protocol.parameters import SumPlan
from secure_afl.solve import solve
from secure_afl.statistics import PublicBounds, SufficientStatistics


def split_rounds(sites: npt.NDArray[Any], rounds: int) -> list[dict[str, npt.NDArray[np.intp]]]:
    """For each round, the row numbers of each site: its rows in their order, in equal waves."""
    waves = {str(name): np.array_split(np.flatnonzero(sites == name), rounds) for name in np.unique(sites)}
    return [{name: wave[r] for name, wave in waves.items()} for r in range(rounds)]


class FederatedRidge(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """One linear classifier for several sites; no site's Gram or cross-covariance is seen by anybody else.

    Least squares on one-hot labels with an intercept and the penalty ridge·trace(G)/d, the one-layer case
    of analytic federated learning (AFL, He et al., CVPR 2025). The sums go through `aggregator`.

    Parameters
    ----------
    row_norm : public bound on the Euclidean norm of a row of X; agreed on before anybody reads data.
    ridge : penalty relative to the mean diagonal entry of the aggregated Gram matrix.
    classes : all labels there can be, agreed on; None takes those in `y`, which only a simulation can see.
    max_rows : public bound on the rows of one site in one round.
    data_set : what the owners call these rows. A data set serves one session: a second `fit` is refused, as
        the difference of the two sums could expose what changed. Another penalty needs no second fit, see
        `statistics_`; new rows have a name of their own; `MaskedAggregator.renew` overrides.
    rounds : secure sums to split the rows into, in the order they come (records that arrive in waves).
    aggregator : an `Aggregator`; None masks the sums under the default policy.

    Attributes
    ----------
    classes_ : labels; coef_ (classes, features) and intercept_ (classes,): the model.
    certificate_ : proof of how far the model can be from the one of the survivors' pooled rows.
    statistics_ : the aggregated statistics; rounds_ : a list of `Aggregate`, one for each round.
    """

    def __init__(
        self,
        row_norm: float,
        *,
        ridge: float = 1e-3,
        classes: Sequence[Any] | None = None,
        max_rows: int = 2**16,
        data_set: str = "data",
        rounds: int = 1,
        aggregator: Aggregator | None = None,
    ) -> None:
        self.row_norm = row_norm
        self.ridge = ridge
        self.classes = classes
        self.max_rows = max_rows
        self.data_set = data_set
        self.rounds = rounds
        self.aggregator = aggregator

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike, site: npt.ArrayLike) -> "FederatedRidge":
        """Learn from X (rows, features), y (rows,) and the name of each row's site (rows,).

        Warns (`DropoutWarning`) if a sum is without some sites. Raises `DataError` for rows that do not fit the bounds, `PolicyError` and `RoundAbortedError`
        from the aggregator, `SolveError` if the sum gives no guaranteed solution.
        """
        features, labels, sites = np.asarray(X), np.asarray(y), np.asarray(site)
        if features.ndim != 2 or labels.shape != (len(features),) or sites.shape != labels.shape:
            raise DataError(
                f"expected X (rows, features), y (rows,) and site (rows,), got shapes {features.shape}, "
                f"{labels.shape} and {sites.shape}"
            )
        if not isinstance(self.rounds, int) or self.rounds < 1:
            raise DataError(f"expected at least 1 round, got {self.rounds!r}")
        self.classes_ = np.unique(labels) if self.classes is None else np.array(self.classes)
        bounds = self.bounds(features.shape[1], len(self.classes_))
        waves = split_rounds(sites, self.rounds)
        # Every site's rows are checked before the first message leaves.
        contributions = [
            {
                name: (self._statistics(name, features[rows], labels[rows], bounds).pack(), self.data_set)
                for name, rows in wave.items()
            }
            for wave in waves
        ]
        if not hasattr(self, "aggregator_"):
            # Kept over fits: it holds the clients' ledgers.
            self.aggregator_ = MaskedAggregator() if self.aggregator is None else self.aggregator
        aggregator = self.aggregator_
        plan = [
            SumPlan(f"ridge statistics {r + 1} of {self.rounds}", bounds.length, bounds.magnitude)
            for r in range(self.rounds)
        ]
        aggregator.open(list(waves[0]), plan)
        self.rounds_: list[Aggregate] = [aggregator.sum(r, contributions[r]) for r in range(self.rounds)]
        warn_of_dropouts(list(waves[0]), self.rounds_)
        parts = [SufficientStatistics.unpack(one.total, bounds) for one in self.rounds_]
        self.statistics_ = sum(parts[1:], start=parts[0])
        self._solve(sum(one.entry_error for one in self.rounds_))
        return self

    def fit_pooled(self, X: npt.ArrayLike, y: npt.ArrayLike) -> "FederatedRidge":
        """The same model from rows that lie in one place, without any aggregator: the reference."""
        features, labels = np.asarray(X), np.asarray(y)
        self.classes_ = np.unique(labels) if self.classes is None else np.array(self.classes)
        bounds = self.bounds(features.shape[1], len(self.classes_), rows=len(features))
        self.rounds_ = []
        self.statistics_ = self._statistics("the pooled data", features, labels, bounds)
        self._solve(0.0)
        return self

    def bounds(self, features: int, classes: int, rows: int | None = None) -> PublicBounds:
        """The public bounds of one site's statistics, the intercept's column of ones included."""
        if not (np.isfinite(self.row_norm) and self.row_norm > 0):
            raise DataError(f"expected a finite positive bound on the norm of a row, got {self.row_norm!r}")
        norm = float(np.hypot(self.row_norm, 1.0)) * (1 + 2.0**-50)
        return PublicBounds(features + 1, classes, norm, self.max_rows if rows is None else rows)

    def decision_function(self, X: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Scores (rows, classes)."""
        check_is_fitted(self)
        features = np.asarray(X, dtype=np.float64)
        if features.ndim != 2 or features.shape[1] != self.coef_.shape[1]:
            raise DataError(f"expected X of shape (rows, {self.coef_.shape[1]}), got {features.shape}")
        if not np.isfinite(features).all():
            raise DataError("expected finite features, got NaN or infinity")
        scores: npt.NDArray[np.float64] = features @ self.coef_.T + self.intercept_
        return scores

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[Any]:
        """The label of each row."""
        labels: npt.NDArray[Any] = self.classes_[np.argmax(self.decision_function(X), axis=1)]
        return labels

    def _statistics(
        self, who: str, X: npt.NDArray[Any], y: npt.NDArray[Any], bounds: PublicBounds
    ) -> SufficientStatistics:
        unknown = np.flatnonzero(~np.isin(y, self.classes_))
        if len(unknown):
            raise DataError(
                f"{who}: expected labels out of the {len(self.classes_)} agreed classes, "
                f"got {len(unknown)} others (the first in row {unknown[0]})"
            )
        one_hot = (y[:, None] == self.classes_).astype(np.float64)
        with_ones = np.column_stack([np.ones(len(X)), X])
        return SufficientStatistics.from_rows(with_ones, one_hot, bounds, who=who)

    def _solve(self, entry_error: float) -> None:
        solution = solve(self.statistics_, ridge=self.ridge, entry_error=entry_error)
        self.weights_ = solution.weights
        self.intercept_ = solution.weights[0]
        self.coef_ = solution.weights[1:].T
        self.certificate_ = solution.certificate
        self.n_features_in_ = len(solution.weights) - 1
