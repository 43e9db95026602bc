"""Linear discriminant analysis over several sites, from one secure sum."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from secure_afl.analytic.discriminants import Discriminants, check_priors, discriminants
from secure_afl.errors import DataError
from secure_afl.models.estimator import FederatedClassifier, parse_penalty
from secure_afl.models.sums import FederatedTable, Floats, Kept, Places, Targets, class_targets


@dataclass(eq=False, repr=False, kw_only=True)
class FederatedLDA(FederatedClassifier, FederatedTable):
    """Linear discriminant analysis: scikit-learn's LinearDiscriminantAnalysis on the pooled rows.

    Every class has a mean of its own, all share a covariance. Unlike least squares it gives probabilities, and
    priors="equal" weighs a rare class like the others. The sums go through `aggregator`, which must release them.

    Parameters
    ----------
    row_norm, column_bounds, max_rows, max_weight, data_set, rounds, deal, aggregator
        See `FederatedRidge`.
    priors : sequence of float or "equal", optional
        Of the classes in their order; None takes the shares of the rows.
    ridge : float, default=0
        Added to the diagonal of the correlations within classes; above 0 columns may depend on each other.
    classes : sequence, optional
        All labels there can be, agreed on; None takes those in `y`, which only a simulation can see.

    Attributes
    ----------
    classes_ : ndarray of shape (classes,)
    coef_ : ndarray of shape (1, features) or (classes, features)
    intercept_ : ndarray of shape (1,) or (classes,)
        With two classes of the log-odds of the second.
    means_ : ndarray of shape (classes, features)
    priors_ : ndarray of shape (classes,)
    covariance_ : ndarray of shape (features, features)
        Within classes, over the rows.
    constant_, statistics_, moments_, rounds_, n_features_in_, feature_names_in_
        See `FederatedRidge`.
    """

    _SOLVES = False
    _STATISTIC = "second moments"
    _REFIT = ("priors", "ridge")
    _LEARNED = "coef_"
    _MODEL = ("coef_", "intercept_", "means_", "priors_", "covariance_", "constant_")

    priors: Sequence[float] | str | None = None
    ridge: float = 0.0
    classes: Sequence[Any] | None = None
    rounds: int = 1

    def _targets(self, y: Any, sites: Mapping[str, Places], rows: int) -> tuple[Targets, Floats]:
        targets, one_hot = class_targets(y, self.classes, sites, rows)
        check_priors(self.priors, targets.width)
        return targets, one_hot

    def _penalty(self) -> float:
        penalty = parse_penalty(self.ridge)
        if penalty is None:
            raise DataError(f"expected ridge as a number from 0, got {self.ridge!r}")
        return penalty

    def _solved(self, kept: Kept) -> Discriminants:
        return discriminants(self._moments(kept), self.priors, ridge=self._penalty())

    def _learn(self, kept: Kept, result: Discriminants) -> None:
        self._note(kept, self._moments(kept).constant)
        assert kept.agreed.targets.labels is not None
        self.classes_ = kept.agreed.targets.labels
        self._found = result
        binary = len(self.classes_) == 2
        self.coef_ = result.coef[1:] - result.coef[:1] if binary else result.coef
        self.intercept_ = result.intercept[1:] - result.intercept[:1] if binary else result.intercept
        self.means_, self.priors_, self.covariance_ = result.means, result.priors, result.covariance

    def class_scores(self, X: npt.ArrayLike) -> Floats:
        """Logarithms of the posterior probabilities but for a constant, (rows, classes)."""
        return np.asarray(self._features(X) @ self._found.coef.T + self._found.intercept)

    def decision_function(self, X: npt.ArrayLike) -> Floats:
        """Scores (rows, classes); with two classes the log-odds of the second, (rows,)."""
        scores = self.class_scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: npt.ArrayLike) -> Floats:
        """Posterior probabilities (rows, classes), in the order of `classes_`."""
        return np.asarray(softmax(self.class_scores(X), axis=1))

    def predict_log_proba(self, X: npt.ArrayLike) -> Floats:
        """Their logarithms (rows, classes)."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[Any]:
        return self._labels(self.class_scores(X))
