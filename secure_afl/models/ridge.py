"""Ridge regression and a ridge classifier that several parties learn from sums of their statistics."""

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import RegressorMixin

from secure_afl.analytic.discriminants import Discriminants, discriminants
from secure_afl.analytic.moments import Scaling
from secure_afl.analytic.privacy import Privacy
from secure_afl.analytic.solve import Solution
from secure_afl.errors import DataError, LabelWarning
from secure_afl.models.columns import Columns
from secure_afl.models.estimator import (
    FederatedClassifier,
    parse_integer,
    parse_penalty,
    parse_real,
)
from secure_afl.models.personal import adapted
from secure_afl.models.sums import FederatedTable, Floats, Kept, Places, Targets, class_targets
from secure_afl.protocol.transport.driver import Contribution
from secure_afl.sums.counted import Counts, CountsFirst


class _Ridge(FederatedTable):
    """What the two have in common."""

    ridge: float | str
    _balance: Floats | None = None  # of each class in a balanced fit, the largest is 1

    def _penalty(self) -> float | None:
        penalty = parse_penalty(self.ridge)
        if penalty is None and self.privacy:
            raise DataError('expected a number as ridge under differential privacy, got "gcv"')
        return penalty

    def _solved(self, kept: Kept) -> Solution:
        return kept.solved(self._penalty())

    def _learn(self, kept: Kept, result: Solution) -> None:
        self.statistics_ = result.statistics
        self._note(kept, [j - 1 for j in result.constant])
        self.weights_ = result.weights
        self.ridge_ = result.ridge
        self.certificate_ = result.certificate
        self._coefficients(kept.agreed.targets)

    @abstractmethod
    def _coefficients(self, targets: Targets) -> None:
        """Set the attributes that follow from `weights_`."""

    def _in_own_units(self, over: Scaling) -> tuple[Floats, Floats]:
        """`weights_` (targets, features) and intercepts (targets,) in own units. over: of the targets."""
        features = len(self.weights_) - 1
        columns = self._scaling(features)
        coef = np.ldexp(self.weights_[1:].T, over.exponent[:, None] - columns.exponent)
        intercept = np.ldexp(self.weights_[0] * self._one(features), over.exponent) + over.centre
        return coef, intercept - coef @ columns.centre

    def personalize(self, X: npt.ArrayLike, y: Any, sample_weight: npt.ArrayLike | None = None) -> Self:
        """The model of one client: fitted to its rows X (rows, features) and y, but drawn to the common model.

        It has `personal_` (weights, strength of the pull, leave-one-out error) beside `weights_`, `coef_` and
        `intercept_`, and nothing of the sum. See `secure_afl.models.personal.adapted`. The client computes it by itself:
        no aggregator is asked and no message is sent.
        Raises `DataError` for rows that `fit` would refuse, and where there is no exact sum to standardise columns by.
        """
        moments, agreed = self.moments_, self._kept.agreed.targets
        features = self._features(X)
        own = copy(self)
        own.aggregator = None
        for name in ("_kept", "_inside", "rounds_", "statistics_", "certificate_", "ridge_"):
            own.__dict__.pop(name, None)
        if agreed.labels is not None:  # a client may not have rows of every class
            own.set_params(classes=agreed.labels.tolist())
            if hasattr(self, "class_weight_"):
                own.set_params(class_weight=self.class_weight_)
        here = {"this client": np.arange(len(features))}
        table, targets = own._table(features, y, here, sample_weight)
        if targets.width != agreed.width:
            raise DataError(f"expected y of {agreed.width} columns, as in fit, got {targets.width}")
        columns = self._scaling(features.shape[1])
        deviations = np.sqrt(moments.scatter.diagonal() / moments.weight)
        own.personal_ = adapted(
            table.X,
            table.Y,
            self.weights_,
            columns.scaled(moments.mean[None])[0],
            np.ldexp(deviations, -columns.exponent),
            table.roots,
        )
        own.weights_ = own.personal_.weights
        own._coefficients(agreed)
        return own


@dataclass(eq=False, repr=False, kw_only=True)
class FederatedRidge(RegressorMixin, _Ridge):  # type: ignore[misc]
    """Ridge regression over several sites; under masks no site's Gram is seen by anybody else.

    Least squares with a free intercept and a penalty on the weights of standardised columns: the model of scikit-learn's
    `make_pipeline(StandardScaler(), Ridge(alpha=ridge * rows))` on the pooled rows. It does not depend on the units and
    the origins of columns. Out of the same sum come `inference` (standard errors, tests, intervals), `path`, `describe`
    and `components`. The sums go through `aggregator`.

    Parameters
    ----------
    row_norm : float, optional
        Public bound on the Euclidean norm of a row of X; agreed on before anybody reads data.
    column_bounds : array-like of shape (features,) or (features, 2), optional
        Public bounds of each column of X in place of row_norm: a bound on its magnitude, or a range (low, high). A range
        is mapped to within [-1, 1], a magnitude divided by the least power of two that is no smaller. For a column far
        from 0 (years, dates, kelvin) give a range: else its digits are spent on the distance from 0.
        With `privacy` both may be given: row_norm is then of rows of such columns, and √features without it.
    ridge : float or "gcv", default=1e-3
        Penalty, in parts of the number of rows, on squared weights of columns of variance 1; "gcv" chooses it out of
        `secure_afl.analytic.path.RIDGES` by generalised cross-validation on the same sum. With `privacy` the penalty
        is ridge times the mean diagonal entry of the Gram matrix, intercept included, as means and variances of a noisy
        sum are too uncertain to standardise by.
    max_rows : int, default=65536
        Public bound on the rows of one site in one round.
    max_weight : float, optional
        Public bound on the weights of rows, with `sample_weight`; None is for rows without weights.
    data_set : str, default="data"
        What the owners call these rows. A data set serves one session: a second `fit` is refused, as the difference of
        the two sums could expose what changed. Another penalty needs no second session, see `refit`; new rows have a
        name of their own, or come in by `update`; `MaskedAggregator.renew` overrides.
    rounds : int, default=1
        Secure sums to split the rows into, in the order they come (records that arrive in waves).
    deal : int, optional
        For trials in one process: rows that `fit` gets without a site are dealt to so many sites in turn.
    privacy : Privacy, optional
        (ε, δ) for every record, by noise that the clients add; see docs/privacy.md. Rows over the bounds are then made
        as short as they allow, here and in predictions, since to refuse one would tell something about it. The
        certificate is of the noisy sum and says nothing about the model without noise.
    aggregator : Aggregator, optional
        None masks the sums under the default policy. It holds the clients' ledgers: with None they live as long as this
        estimator, so give one aggregator to estimators that share data.
    agreement : str, default=""
        What else the parties agreed on, such as a digest of their codebook, in at most 36 letters. It is part of the sums'
        names, so that a party that agreed on something else refuses them.
    indicators : sequence of int, default=()
        Numbers of columns, from 0, that are 0 or 1 in every row, as is agreed: their sums are whole numbers, so an
        approximate sum (CKKS) tells one that is constant from one that varies. Not with weights of rows or `privacy`.
    target_bounds : float, (float, float) or a list of such
        Public bounds of y, agreed on before anybody reads data: a bound on its magnitude, or a range (low, high). For
        several targets a list with one or the other for each; a single one is for each of them. With `privacy` a target
        outside is moved to the bound, else it is refused. None takes the range of `y`, which only a simulation can see,
        and not with `privacy`.

    Attributes
    ----------
    coef_ : ndarray of shape (features,) or (targets, features)
    intercept_ : float or ndarray of shape (targets,)
    weights_ : ndarray of shape (1 + features, targets)
        Of centred and scaled columns, the intercept first; with `privacy` that row is of a column of row_norm / 4 in
        place of ones.
    ridge_ : float
        The penalty, given or chosen.
    constant_ : ndarray of int
        Features that cannot be told from constant ones; their weights are 0.
    certificate_ : Certificate
        Proof of how far weights_ can be from those of the survivors' pooled rows, with the same ridge_ and constant_.
    statistics_ : SufficientStatistics or None
        The aggregated statistics, None where key holders released only the weights.
    moments_ : Moments
        Means and covariances of the pooled rows in the columns' own units.
    rounds_ : list of Outcome
        One for each round; an `Aggregate` where the sum was released.
    privacy_ : Privacy or None
        The privacy used in training.
    n_features_in_, feature_names_in_
        As in scikit-learn; other columns, and these in another order, are refused.
    """

    target_bounds: Any = None
    ridge: float | str = 1e-3
    rounds: int = 1
    privacy: Privacy | None = None
    agreement: str = ""
    indicators: Sequence[int] = ()

    def _targets(self, y: Any, sites: Mapping[str, Places], rows: int) -> tuple[Targets, Floats]:
        if y is not None and self.target_bounds is None and not self.privacy:
            values = numbers(y, rows)
            many, several = _seen(values), values.ndim > 1
        else:
            many, several = self._target_bounds()
        if y is None:
            columns = Columns.parse(many, len(many), "target_bounds")
            return self._agreed_targets(columns, several), np.zeros((0, len(many)))
        values = numbers(y, rows)
        single = values.ndim == 1
        if several and single:
            raise DataError(f"expected y of {len(many)} columns, as target_bounds say, got a single one")
        if single:
            values = values[:, None]
        if not several:
            many = many * values.shape[1]
        columns = Columns.parse(many, values.shape[1], "target_bounds")
        over = columns.outside(values)
        if over.any() and not (self.privacy and np.isfinite(values).all()):
            row, column = np.argwhere(over)[0].tolist()
            who = next(name for name, mine in sites.items() if row in mine)
            raise DataError(
                f"{who}: expected finite y within target_bounds, it is not so in {int(over.any(axis=1).sum())} rows (the "
                f"first is row {row + 1}" + ("" if single else f", target {column + 1}") + ")"
            )
        values = np.clip(values, columns.low, columns.high)
        return self._agreed_targets(columns, not single), columns.scaling.scaled(values)

    def _target_bounds(self) -> tuple[list[Any], bool]:
        """Bounds of targets, and whether they say how many there are."""
        given = self.target_bounds
        if given is None:
            raise DataError(
                "expected target_bounds, a range (low, high) of y that was agreed on before anybody read data, got None: no "
                "party sees all of y, and with privacy its range tells of rows"
            )
        if isinstance(given, Real | str):
            return [given], False
        entries = list(given)
        if len(entries) == 2 and all(isinstance(one, Real) for one in entries):
            return [tuple(entries)], False
        return entries, True

    def _agreed_targets(self, columns: Columns, several: bool) -> Targets:
        width = len(columns.low)
        names = tuple(str(at + 1) for at in range(width)) if several else ("y",)
        # A row of Y has at most this norm; half of the bits of a rounding more.
        return Targets(names, columns.scaling, float(np.sqrt(width)) * (1 + 2.0**-40), False)

    def _coefficients(self, targets: Targets) -> None:
        coef, intercept = self._in_own_units(targets.scaling)
        single = targets.names == ("y",)
        self.coef_ = coef[0] if single else coef
        self.intercept_ = float(intercept[0]) if single else intercept
        self._over = targets.scaling

    def predict(self, X: npt.ArrayLike) -> Floats:
        """y of each row, (rows,) or (rows, targets). Raises `NotFittedError` before `fit`, `DataError` for other rows."""
        scaled = self.rows(self._features(X)) @ self.weights_
        values = np.ldexp(scaled, self._over.exponent) + self._over.centre
        return np.asarray(values[:, 0] if np.ndim(self.intercept_) == 0 else values)

    def _of_classifiers(self) -> Any:
        raise AttributeError(
            "FederatedRidge predicts numbers, so it has no classes_, decision_function or class_scores: "
            "FederatedRidgeClassifier has them"
        )

    classes_ = decision_function = class_scores = property(_of_classifiers)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _seen(values: Floats) -> list[Any]:
    """The range of each column of (rows,) or (rows, targets); a bound on the magnitude of one that does not vary.

    Warns (`LabelWarning`) of zeros and ones alone: they may be labels.
    """
    columns = values.reshape(len(values), -1)
    if np.isin(columns, (0, 1)).all():
        warnings.warn(
            "y is 0 and 1 alone: this regressor predicts numbers between them, and its score is R². For labels use "
            "FederatedRidgeClassifier; if they are numbers, target_bounds=(0, 1) says so",
            LabelWarning,
            stacklevel=6,
        )
    finite = columns[np.isfinite(columns).all(axis=1)]  # others are refused next
    if not len(finite):
        return [1.0] * columns.shape[1]
    ends = zip(finite.min(axis=0).tolist(), finite.max(axis=0).tolist(), strict=True)
    return [(low, high) if low < high else max(1.0, abs(low)) for low, high in ends]


@dataclass(eq=False, repr=False, kw_only=True)
class FederatedRidgeClassifier(FederatedClassifier, _Ridge):
    """A ridge classifier over several sites; under masks no site's Gram is seen by anybody else.

    Least squares on one-hot labels with a free intercept and a penalty on the weights of standardised columns: the model
    of scikit-learn's `make_pipeline(StandardScaler(), RidgeClassifier(alpha=ridge * rows))` on the pooled rows. It does not
    depend on the units and the origins of columns. Analytic federated learning with one layer (AFL, He et al., CVPR 2025).
    Out of the same sum come `discriminants`, `path`, `describe`, `components` and `inference`. The sums go through
    `aggregator`.

    A rare class may never be predicted, as in every least squares on labels: give `class_weight`, or predict with
    `discriminants(priors="equal")`.

    Parameters
    ----------
    row_norm, column_bounds, ridge, max_rows, max_weight, data_set, rounds, deal, privacy, agreement, indicators, aggregator
        See `FederatedRidge`.
    classes : sequence, optional
        All labels there can be, agreed on; None takes those in `y`, which only a simulation can see, and not with
        `privacy`.
    class_weight : dict or "balanced", optional
        Agreed weights of classes, by label: a row counts so many times. Others have the weight 1. "balanced" gives every
        class the same weight in all, as in scikit-learn: `fit` then begins with a secure sum of the rows of each class,
        over the same sites. Clients take that sum as it is announced. Not with `fit_elsewhere` and `vectors`.

    Attributes
    ----------
    classes_ : ndarray of shape (classes,)
    coef_ : ndarray of shape (1, features) or (classes, features)
    intercept_ : ndarray of shape (1,) or (classes,)
        With two classes of the score of the second less that of the first.
    class_weight_ : dict
        With "balanced" the weights that follow from the sum: rows / (classes * rows of the class).
    weights_, ridge_, constant_, certificate_, statistics_, moments_, rounds_, privacy_, n_features_in_, feature_names_in_
        See `FederatedRidge`.
    """

    ridge: float | str = 1e-3
    classes: Sequence[Any] | None = None
    class_weight: Mapping[Any, float] | str | None = None
    rounds: int = 1
    privacy: Privacy | None = None
    agreement: str = ""
    indicators: Sequence[int] = ()

    def _targets(self, y: Any, sites: Mapping[str, Places], rows: int) -> tuple[Targets, Floats]:
        if self.classes is None and (self.privacy or y is None):
            raise DataError(
                "expected classes that were agreed on, got none: no party sees all labels, and with privacy they tell of rows"
            )
        targets, one_hot = class_targets(y, self.classes, sites, rows)
        assert targets.labels is not None
        self._class_weights(targets.labels)
        return targets, one_hot

    def fit(
        self,
        X: npt.ArrayLike,
        y: Any,
        site: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
    ) -> Self:
        if not isinstance(self.class_weight, str):
            self.__dict__.pop("class_weight_", None)
            return super().fit(X, y, site, sample_weight)
        with self._balanced(np.ones(1)):
            table, agreed = self._parsed(X, y, site, sample_weight)
            self._contributions(
                table, agreed
            )  # every site's rows are checked before the first message leaves
            most = parse_integer("max_rows", self.max_rows)
            counted = Counts(1, 1, agreed.targets.names, most, self.agreement)
            counts = {
                name: (np.array([len(rows), *table.Y[rows].sum(axis=0)]), self.data_set)
                for name, rows in table.sites.items()
            }

            def weighed(total: Floats) -> list[dict[str, Contribution]]:
                self._take_balance(agreed.targets, total[1:])
                weights = self._row_weights(agreed.targets, table.Y, sample_weight)
                assert weights is not None
                return self._contributions(replace(table, roots=np.sqrt(weights)), agreed)

            first = CountsFirst(self._ask(), counted, counts, weighed)
            return self._fit(list(table.sites), agreed, [{}] * parse_integer("rounds", self.rounds), first)

    def fit_pooled(self, X: npt.ArrayLike, y: Any, sample_weight: npt.ArrayLike | None = None) -> Self:
        if not isinstance(self.class_weight, str):
            return super().fit_pooled(X, y, sample_weight)
        with self._balanced(np.ones(1)):
            targets, Y = self._targets(y, {"the pooled data": np.arange(len(y))}, len(y))
            self._take_balance(targets, Y.sum(axis=0))
            return super().fit_pooled(X, y, sample_weight)

    @contextmanager
    def _balanced(self, balance: Floats) -> Iterator[None]:
        """Within it classes have these weights, or those of `_take_balance`."""
        self._balance = balance
        try:
            yield
        finally:
            del self._balance

    def _take_balance(self, targets: Targets, counts: Floats) -> None:
        """counts: rows of each class, at least 1. A common factor of weights changes no model, and 1 is a public bound."""
        assert targets.labels is not None
        self._balance = counts.min() / counts
        weights = counts.sum() / len(counts) / counts
        self.class_weight_ = dict(zip(targets.labels.tolist(), weights.tolist(), strict=True))

    def _class_weights(self, classes: npt.NDArray[Any]) -> Floats | None:
        if self.class_weight is None:
            return None
        if isinstance(self.class_weight, str) and self.class_weight == "balanced":
            if self._balance is None:
                raise DataError(
                    'expected fit with class_weight="balanced", which sums up the rows of each class first; elsewhere give '
                    "agreed weights by label"
                )
            return self._balance if len(self._balance) == len(classes) else np.ones(len(classes))
        if not isinstance(self.class_weight, Mapping):
            raise DataError(
                f'expected class_weight as agreed weights by label, or "balanced", got {self.class_weight!r}'
            )
        if unknown := [label for label in self.class_weight if not (classes == label).any()]:
            raise DataError(f"expected class_weight of labels out of the classes, got {unknown[0]!r}")
        weights = np.ones(len(classes))
        for label, weight in self.class_weight.items():
            weights[classes == label] = parse_real("class_weight", weight)
        if not ((weights > 0) & (weights < 2.0**50)).all():
            raise DataError(f"expected class_weight above 0, got {dict(self.class_weight)!r}")
        return weights

    def _largest_weight(self) -> float | None:
        largest = super()._largest_weight()
        if self.class_weight is None:
            return largest
        if not isinstance(self.class_weight, Mapping):
            return largest or 1.0
        most = max([1.0, *(parse_real("class_weight", weight) for weight in self.class_weight.values())])
        return (largest or 1.0) * most

    def _row_weights(self, targets: Targets, Y: Floats, sample_weight: npt.ArrayLike | None) -> Floats | None:
        weights = super()._row_weights(targets, Y, sample_weight)
        if self.class_weight is None:
            return weights
        assert targets.labels is not None
        by_class = self._class_weights(targets.labels)
        assert by_class is not None
        return np.asarray(Y @ by_class * (1.0 if weights is None else weights))

    def _coefficients(self, targets: Targets) -> None:
        coef, intercept = self._in_own_units(targets.scaling)
        assert targets.labels is not None
        self.classes_ = targets.labels
        binary = len(self.classes_) == 2
        self.coef_ = coef[1:] - coef[:1] if binary else coef
        self.intercept_ = intercept[1:] - intercept[:1] if binary else intercept

    def class_scores(self, X: npt.ArrayLike) -> Floats:
        """The least squares estimate of each one-hot label, (rows, classes)."""
        return np.asarray(self.rows(self._features(X)) @ self.weights_)

    def decision_function(self, X: npt.ArrayLike) -> Floats:
        """Scores (rows, classes); with two classes (rows,), above 0 for the second."""
        scores = self.class_scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[Any]:
        return self._labels(self.class_scores(X))

    def discriminants(
        self, priors: Sequence[float] | str | None = None, *, ridge: float = 0.0
    ) -> Discriminants:
        """Linear discriminants out of the same sum, see `secure_afl.analytic.discriminants.discriminants`."""
        return discriminants(self.moments_, priors, ridge=ridge)


def numbers(y: Any, rows: int) -> Floats:
    """Targets as float64 (rows,) or (rows, targets). Raises DataError."""
    try:
        values = np.asarray(y)
        if values.dtype.kind == "O":  # such as pandas' nullable numbers
            values = values.astype(np.float64)
    except (TypeError, ValueError):
        raise DataError("expected y as numbers, none missing") from None
    if values.dtype.kind not in "fiub" or values.ndim not in (1, 2):
        raise DataError(
            f"expected y as numbers (rows,) or (rows, targets), got shape {values.shape} of type {values.dtype}: for "
            "labels use FederatedRidgeClassifier"
        )
    if len(values) != rows:
        raise DataError(f"expected a target for each of {rows} rows, got {len(values)}")
    return values.astype(np.float64)
