"""Principal component analysis over several sites, from one secure sum."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin

from secure_afl.analytic.components import Components, principal_components
from secure_afl.errors import DataError
from secure_afl.models.estimator import parse_integer
from secure_afl.models.sums import NO_TARGETS, Agreed, FederatedTable, Floats, Kept, Places, Targets


@dataclass(eq=False, repr=False, kw_only=True)
class FederatedPCA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, FederatedTable):  # type: ignore[misc]
    """Principal components: scikit-learn's PCA on the pooled rows. The sums go through `aggregator`, which must release
    them.

    Parameters
    ----------
    row_norm, column_bounds, max_rows, max_weight, data_set, rounds, deal, aggregator
        See `FederatedRidge`.
    n_components : int, optional
        None takes all that the rows can have.
    standardise : bool, default=False
        Whether columns are divided by their standard deviations first.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, features)
        Of norm 1; the entry of the largest magnitude is positive.
    explained_variance_, explained_variance_ratio_, singular_values_ : ndarray of shape (n_components,)
    mean_, scale_ : ndarray of shape (features,)
        What is taken away from a row, and divides it.
    n_components_ : int
    constant_, statistics_, moments_, rounds_, n_features_in_, feature_names_in_
        See `FederatedRidge`.
    """

    _SUPERVISED = False
    _SOLVES = False
    _STATISTIC = "second moments"
    _REFIT = ("n_components", "standardise")
    _LEARNED = "components_"
    _MODEL = ("components_", "explained_variance_", "explained_variance_ratio_", "mean_", "scale_")

    n_components: int | None = None
    standardise: bool = False
    rounds: int = 1

    def fit(
        self,
        X: npt.ArrayLike,
        y: Any = None,
        site: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
    ) -> Self:
        """Fit as `FederatedRidge.fit` does; y is ignored."""
        return super().fit(X, y, site, sample_weight)

    def _targets(self, y: Any, sites: Mapping[str, Places], rows: int) -> tuple[Targets, Floats]:
        return NO_TARGETS, np.zeros((rows, 0))

    def _agreed(self, features: int | Sequence[str], targets: Targets) -> Agreed:
        width = features if isinstance(features, int) else len(features)
        if self.n_components is not None and parse_integer("n_components", self.n_components) > width:
            raise DataError(
                f"expected at most {width} components of {width} columns, got {self.n_components}"
            )
        return super()._agreed(features, targets)

    def _penalty(self) -> float:
        if not isinstance(self.standardise, bool):
            raise DataError(f"expected standardise as True or False, got {self.standardise!r}")
        return 0.0  # there is no system

    def _solved(self, kept: Kept) -> Components:
        number = None if self.n_components is None else parse_integer("n_components", self.n_components)
        return principal_components(self._moments(kept), number, standardise=self.standardise)

    def _learn(self, kept: Kept, result: Components) -> None:
        moments = self._moments(kept)
        self._note(kept, moments.constant)
        self.components_, self.explained_variance_ = result.directions, result.variances
        self.explained_variance_ratio_ = result.shares
        self.singular_values_ = np.sqrt(result.variances * (moments.rows - 1))
        self.mean_, self.scale_ = result.mean, result.scale
        self.n_components_ = self._n_features_out = len(result.directions)

    def transform(self, X: npt.ArrayLike) -> Floats:
        """Coordinates (rows, n_components). Raises `NotFittedError` before `fit`, `DataError` for other rows."""
        return np.asarray((self._features(X) - self.mean_) / self.scale_ @ self.components_.T)

    def inverse_transform(self, X: npt.ArrayLike) -> Floats:
        """Rows (rows, features) with these coordinates (rows, n_components)."""
        self._check_learned()
        return np.asarray(np.asarray(X, dtype=np.float64) @ self.components_ * self.scale_ + self.mean_)
