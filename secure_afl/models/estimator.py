"""What the estimators share: how rows, labels and sites are read, and which aggregator is asked."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from secure_afl.analytic.privacy import Privacy
from secure_afl.errors import DataError
from secure_afl.protocol.session.errors import PolicyError
from secure_afl.sums.aggregation import Aggregator, MaskedAggregator


@dataclass(frozen=True, eq=False)
class Rows:
    """Parsed training rows. X: float64 (rows, features); places: of each label in `classes`, int64 (rows,);
    sites: the row numbers of each site, by name.
    """

    X: npt.NDArray[np.float64]
    places: npt.NDArray[np.int64]
    classes: npt.NDArray[Any]
    sites: dict[str, npt.NDArray[np.intp]]


def parse_rows(
    X: npt.ArrayLike, y: npt.ArrayLike, classes: Sequence[Any] | None, site: npt.ArrayLike | None = None
) -> Rows:
    """Rows, labels and sites, or a `DataError` that quotes none of the rows.

    classes: None takes the labels in `y`. site: None is one site of all rows.
    """
    features = parse_features(X)
    rows = len(features)
    sites = {"the pooled data": np.arange(rows)} if site is None else rows_by_site(site, rows)
    places, agreed = parse_labels(y, classes, sites, rows)
    return Rows(features, places, agreed, sites)


def parse_labels(
    y: npt.ArrayLike, classes: Sequence[Any] | None, sites: Mapping[str, npt.NDArray[np.intp]], rows: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """The places of labels in the classes, and the classes; `DataError` names the site of a row and quotes none.

    classes: None takes the labels in `y`.
    """
    labels = np.asarray(y)
    if labels.shape == (rows, 1) and rows > 1:
        labels = column_or_1d(labels, warn=True)
    if labels.shape != (rows,):
        raise DataError(f"expected a label for each of {rows} rows, got shape {labels.shape}")
    try:
        agreed, counts = np.unique(labels if classes is None else np.asarray(classes), return_counts=True)
    except TypeError:
        raise DataError("expected labels that are all words or all numbers, none missing") from None
    if classes is not None and (counts > 1).any():
        raise DataError(
            f"expected classes without repeats, got {len(classes)} with {len(agreed)} different ones"
        )
    if not len(agreed):
        raise DataError(f"expected at least one row and one class, got {rows} rows")
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise DataError("expected a label for each row, none missing, got NaN or infinity")
    if classes is None and labels.dtype.kind == "f" and not (agreed == np.floor(agreed)).all():
        raise DataError(
            f"expected y as labels of classes, got real numbers, {len(agreed)} different ones in {rows} rows (Unknown "
            "label type: continuous): this is a classifier, which would make a class of each; use FederatedRidge for a number, or give the classes if these "
            "are their names"
        )
    wrong = np.flatnonzero(~np.isin(labels, agreed))  # NaN is never known
    if len(wrong):
        who = next(name for name, mine in sites.items() if wrong[0] in mine)
        raise DataError(
            f"{who}: expected labels out of the {len(agreed)} agreed classes, got {len(wrong)} others "
            f"(the first in row {wrong[0] + 1})"
        )
    ordered = agreed if classes is None else np.asarray(classes)
    order = np.argsort(ordered)
    return order[np.searchsorted(ordered, labels, sorter=order)], ordered


def parse_features(X: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """(rows, features) float64 of an array, lists or a data frame, the array itself if it is such; `DataError` for anything else.

    Columns of a data frame may be of numbers or booleans, also nullable ones: what is missing becomes NaN, which the
    estimators refuse. Values are not looked at.
    """
    if issparse(X):
        raise DataError(
            "expected X as a dense table of numbers, got a sparse matrix: X.toarray() makes it dense"
        )
    if hasattr(X, "columns") and hasattr(X, "shape"):
        return _parse_frame(X)
    try:
        features = np.asarray(X)
    except ValueError:
        raise DataError("expected X as a table of numbers, got rows of different lengths") from None
    if features.dtype.kind == "c":
        raise DataError("expected X of real numbers, got complex ones: Complex data not supported")
    if features.dtype.kind not in "fiub" or features.ndim != 2:
        hint = ". Reshape your data: X.reshape(-1, 1) is one feature, X.reshape(1, -1) one row"
        raise DataError(
            f"expected X (rows, features) of numbers, got shape {features.shape} of type {features.dtype}"
            + (hint if features.ndim < 2 and features.dtype.kind in "fiub" else "")
        )
    return features.astype(np.float64, copy=False)


def _parse_frame(X: Any) -> npt.NDArray[np.float64]:
    """A data frame of pandas, or of another kind whose columns are as those of NumPy."""
    columns = []
    for at, name in enumerate(X.columns):
        column = X.iloc[:, at] if hasattr(X, "iloc") else X[name]
        kind = getattr(column.dtype, "kind", None)  # of pandas, also of its nullable types
        values = np.asarray(column) if kind is None else column
        if (kind or values.dtype.kind) not in "fiub":
            raise DataError(
                f"expected numbers or booleans in each column of X, got type {column.dtype} in column {name!r}: encode "
                "categories as 0/1 columns, dates as numbers"
            )
        columns.append(
            column.to_numpy(dtype=np.float64, na_value=np.nan) if kind else values.astype(np.float64)
        )
    return np.column_stack(columns) if columns else np.empty((len(X), 0))


def feature_names(X: Any) -> npt.NDArray[np.object_] | None:
    """The names of the columns of a data frame, None where X has none; `DataError` if only some are words."""
    probe = BaseEstimator()
    try:
        validate_data(probe, X, reset=True, skip_check_array=True)
    except TypeError as error:
        raise DataError(str(error)) from None
    return getattr(probe, "feature_names_in_", None)


def rows_by_site(site: npt.ArrayLike, rows: int) -> dict[str, npt.NDArray[np.intp]]:
    """The row numbers of each site by its name, names in order; `DataError` if a row has no proper site."""
    sites = np.asarray(site)
    if sites.shape != (rows,):
        raise DataError(f"expected a site for each of {rows} rows, got shape {sites.shape}")
    words = sites.dtype.kind == "U" or (
        sites.dtype.kind == "O" and all(isinstance(one, str) for one in sites)
    )
    if not words and sites.dtype.kind not in "iu":
        raise DataError("expected the name of a site for each row, words or whole numbers, none missing")
    names, owner = np.unique(sites.astype(np.str_), return_inverse=True)
    return {str(name): np.flatnonzero(owner == place) for place, name in enumerate(names)}


def parse_integer(name: str, value: Any) -> int:
    """A positive integer parameter."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise DataError(f"expected {name} as an integer of at least 1, got {value!r}")
    return int(value)


def parse_real(name: str, value: Any) -> float:
    """A finite parameter."""
    if isinstance(value, bool) or not isinstance(value, Real) or not np.isfinite(float(value)):
        raise DataError(f"expected {name} as a finite number, got {value!r}")
    return float(value)


def parse_penalty(value: Any) -> float | None:
    """A ridge from 0 to 2^64; None for "gcv", which chooses one."""
    if isinstance(value, str) and value == "gcv":
        return None
    ridge = parse_real("ridge", value)
    if not 0 <= ridge <= 2.0**64:
        raise DataError(f'expected ridge from 0 to 2^64, or "gcv", got {value!r}')
    return ridge


class Federated(BaseEstimator, ABC):  # type: ignore[misc]
    """The root of the estimators: an `aggregator`, a `data_set` and the ledgers that remember it."""

    aggregator: Aggregator | None
    privacy: Privacy | None
    data_set: str
    _LEARNED = "weights_"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, self._LEARNED)

    def _features(self, X: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """X (rows, features) for the model, finite. Raises `DataError` for other columns than those it was learned
        from, also for the same in another order.
        """
        self._check_learned()
        features = parse_features(X)
        try:
            validate_data(self, X if hasattr(X, "columns") else features, reset=False, skip_check_array=True)
        except ValueError as error:
            raise DataError(str(error)) from None
        if not np.isfinite(features).all():
            raise DataError("expected finite features, got NaN or infinity")
        return features

    def _check_privacy(self) -> None:
        """Raises `DataError` for what is no promise: something that only looks empty must not leave out the noise."""
        if self.privacy is not None and not isinstance(self.privacy, Privacy):
            raise DataError(f"expected privacy as Privacy(epsilon, delta) or None, got {self.privacy!r}")

    def _check_learned(self) -> None:
        """Raises `NotFittedError` before `fit`, `DataError` if rows are now made otherwise than they were there."""
        check_is_fitted(self)
        if self.privacy != self.privacy_:
            was = f"expected the privacy that the model was learned with ({self.privacy_!r})"
            raise DataError(f"{was}, got {self.privacy!r}: fit it again")

    def _ask(self) -> Aggregator:
        """The aggregator given; else one that masks, kept as long as this object: it holds the ledgers.

        Raises `PolicyError` where a ledger is gone that knew of this data set: the object was stored and read again.
        """
        if self.aggregator is None and not hasattr(self, "_default_aggregator"):
            if self.data_set in getattr(self, "_lost", ()):
                raise PolicyError(
                    f"expected the ledger that knows of the data set {self.data_set!r}, got a stored estimator without "
                    "it: these rows served a session, and a second sum could expose what changed; give the aggregator "
                    "of that session, or another data_set for other rows"
                )
            self._default_aggregator = MaskedAggregator()
        self._spent = frozenset({self.data_set}) | getattr(self, "_spent", frozenset())
        return self._default_aggregator if self.aggregator is None else self.aggregator

    def __getstate__(self) -> dict[str, Any]:
        # A stored model predicts; identities and ledgers do not travel with it, but the names of the data sets do.
        state: dict[str, Any] = dict(super().__getstate__())
        state.pop("_default_aggregator", None)
        state.pop("_inside", None)
        lost = state.pop("_spent", frozenset()) | state.pop("_lost", frozenset())
        return state | {"aggregator": None} | ({"_lost": lost} if lost else {})


class FederatedClassifier(ClassifierMixin, Federated):  # type: ignore[misc]
    """A classifier: `classes_` and `decision_function`."""

    @abstractmethod
    def decision_function(self, X: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Scores (rows, classes). Raises `NotFittedError` before `fit`."""

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[Any]:
        """The label of each row. Raises `NotFittedError` before `fit`, `DataError` for rows that do not fit."""
        return self._labels(self.decision_function(X))

    def _labels(self, scores: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        labels: npt.NDArray[Any] = self.classes_[np.argmax(scores, axis=1)]
        return labels
