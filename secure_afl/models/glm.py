"""Logistic and Poisson regression over several sites, from two matrices and a few gradients that they sum up.

The start is one sum of second moments, as for `FederatedRidge`. After it every client computes by itself at which
coefficients the next gradient is wanted (`secure_afl.analytic.quasi_newton`), from the sums that it accepted, and
contributes to no other: `respond` is a client's whole part. All sums are over the same survivors.
"""

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from scipy.special import expit
from sklearn.base import RegressorMixin
from sklearn.utils.validation import column_or_1d

from secure_afl.analytic import glm
from secure_afl.analytic.families import LOGISTIC, POISSON, Family
from secure_afl.analytic.glm import ClientRows, Fitted, GeneralisedRegression, Opened, Rules
from secure_afl.analytic.quasi_newton import Progress, Start, State, progress
from secure_afl.errors import ColumnWarning, DataError, SolveError
from secure_afl.models.columns import Columns
from secure_afl.models.estimator import (
    FederatedClassifier,
    feature_names,
    parse_features,
    parse_integer,
    parse_real,
)
from secure_afl.models.ridge import numbers
from secure_afl.models.sums import (
    SUM_BITS,
    Agreed,
    FederatedTable,
    Floats,
    Kept,
    Places,
    Table,
    Targets,
    class_targets,
)
from secure_afl.protocol.session.errors import LocalProtocolError
from secure_afl.protocol.session.parameters import SumPlan
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Trust
from secure_afl.sums.aggregation import Aggregate, Aggregator, MaskedAggregator, warn_of_dropouts

STEPS = 25
_MOMENTS = (
    0  # the number of the first sum; gradients have 1 to `steps`, the information matrix the number after
)


@dataclass(frozen=True, eq=False)
class Wanted:
    """What comes next. number: of the sum in the plan, None at the end of the fit; start, at: None before the first sum;
    opened: gradient sums so far; why: a reason not to sum up the information matrix.
    """

    number: int | None
    start: Start | None = None
    at: Progress | None = None
    opened: tuple[Opened, ...] = ()
    why: str = ""


@dataclass(frozen=True, eq=False)
class _Fit:
    """What the model was made of."""

    rules: Rules
    start: Start
    opened: tuple[Opened, ...]
    found: Fitted
    null_deviance: float


class _GLM(FederatedTable):
    """What the two models have in common."""

    ridge: float
    steps: int
    least_rows: int
    categories: Sequence[Sequence[int]]
    max_offset: float | None
    rounds: int = 1  # gradients are of all rows

    coef_: Floats
    intercept_: Any
    weights_: Floats
    _FAMILY: ClassVar[Family]
    _SOLVES = False
    _REFIT: tuple[str, ...] = ()
    _LEARNED = "coef_"
    _MODEL = ("weights_", "coef_", "intercept_", "constant_", "dependent_", "n_iter_", "deviance_", "_fitted")

    @abstractmethod
    def _largest(self) -> float:
        """The agreed bound on the outcome."""

    def _penalty(self) -> float:
        ridge = parse_real("ridge", self.ridge)
        if not 0 <= ridge <= 2.0**20:
            raise DataError(f"expected ridge from 0 to 2^20, got {ridge!r}")
        return ridge

    def _solved(self, kept: Kept) -> Any:
        raise DataError("expected a fit, got one sum to solve again: gradients are of one penalty")

    def _ask(self) -> Aggregator:
        # In one process the server is this object, which reports sums as they are.
        if (
            self.aggregator is None
            and not hasattr(self, "_default_aggregator")
            and self.data_set not in getattr(self, "_lost", ())
        ):
            self._default_aggregator = MaskedAggregator(Policy(trusts_reports=Trust.VERIFIED))
        return super()._ask()

    @property
    def family(self) -> Literal["logistic", "poisson"]:
        """What is learned."""
        return "logistic" if self._FAMILY is LOGISTIC else "poisson"

    # ---- what is agreed on ----

    def rules(self, features: int) -> Rules:
        """What follows from the parameters."""
        bounds = self.bounds(features, 1)
        return Rules(
            self._FAMILY,
            features,
            bounds.rows,
            self._largest_weight() or 1.0,
            # As columns are summed up, without weights.
            1.0 if self._columns(features) else max(1.0, self._row_norm(features)),
            self._largest(),
            parse_integer("steps", self.steps),
            parse_integer("least_rows", self.least_rows),
            self._categories(features),
        )

    def _categories(self, features: int) -> tuple[tuple[int, ...], ...]:
        """Columns of categories. Raises `DataError` for others than distinct columns."""
        found = tuple(tuple(one) for one in self.categories)
        for own in found:
            whole = all(type(column) is int and 0 <= column < features for column in own)
            if not own or not whole or len(set(own)) < len(own):
                raise DataError(
                    f"expected categories as lists of different columns from 0 to {features - 1}, got {own!r}"
                )
        return found

    def _plan(self, agreed: Agreed, clients: int) -> list[SumPlan]:
        rules = self.rules(agreed.system.features - 1)
        (first,) = super()._plan(agreed, clients)
        said = f", {self.agreement}" if self.agreement else ""

        def later(name: str, length: int, magnitude: float) -> SumPlan:
            return SumPlan(
                name + said,
                length,
                magnitude,
                SUM_BITS - math.frexp(clients * magnitude)[1],
                same_survivors=True,
                # At coefficients that a liar brings about, a gradient shows single rows.
                trusts_server=True,
            )

        return [
            replace(first, statistic=f"{rules.family.name} moments{said}", same_survivors=True),
            *(
                later(
                    f"{rules.family.name} gradient {step + 1} of {rules.steps}", rules.length, rules.magnitude
                )
                for step in range(rules.steps)
            ),
            later(f"{rules.family.name} information", rules.information_length, rules.information_magnitude),
        ]

    def _offset(self, offset: npt.ArrayLike | None, rows: int) -> Floats:
        if self.max_offset is None:
            if offset is not None:
                raise DataError("expected max_offset, an agreed bound on |offset|, with offset, got None")
            return np.zeros(rows)
        most = parse_real("max_offset", self.max_offset)
        if not 0 < most <= 100:
            raise DataError(f"expected max_offset above 0 and at most 100, got {most!r}")
        if offset is None:
            raise DataError(
                "expected an offset for each row, as max_offset says that there are some, got None"
            )
        values = np.asarray(offset)
        if values.dtype.kind not in "fiub" or values.shape != (rows,):
            raise DataError(
                f"expected an offset for each of {rows} rows, got shape {values.shape} of type {values.dtype}"
            )
        values = values.astype(np.float64)
        if wrong := np.flatnonzero(~(abs(values) <= most)).tolist():
            raise DataError(
                f"expected offsets of at most the agreed {most:g} in magnitude, it is not so in row {wrong[0] + 1} and "
                f"{len(wrong) - 1} others"
            )
        return values

    # ---- one step ----

    def wanted(self, agreed: Agreed, accepted: Mapping[int, Aggregate]) -> Wanted:
        """What comes after these sums, by their numbers in the plan: the same at every party that has the same sums.

        Raises `SolveError` where the fit ends without a model, with the reason.
        """
        if _MOMENTS not in accepted:
            return Wanted(_MOMENTS)
        rules = self.rules(agreed.system.features - 1)
        scaling = self._scaling(rules.features)
        start, events = self._start(agreed, accepted[_MOMENTS], rules)
        last = rules.steps + 1
        gradients = [accepted[number] for number in range(1, last) if number in accepted]
        opened = tuple(glm.opened(rules, one.total, start, scaling) for one in gradients)
        at = progress(
            start,
            [one.seen for one in opened],
            rules.steps,
            events=events if rules.family is POISSON else None,
        )
        if at.state is State.FAILED:
            raise SolveError(at.reason)
        if at.state is State.EVALUATE:
            return Wanted(1 + len(opened), start, at, opened)
        if start.ridge:
            return Wanted(None, start, at, opened, "a penalised fit has no standard errors: fit with ridge=0")
        if opened[-1].high:
            why = (
                "at some client the information matrix would show one row of all, or of a column's rows, nearly alone: merge "
                "rare levels and bound outliers, or agree on fewer least_rows (docs/threat-model.md)"
            )
            return Wanted(None, start, at, opened, why)
        return Wanted(None if last in accepted else last, start, at, opened)

    def _start(self, agreed: Agreed, first: Aggregate, rules: Rules) -> tuple[Start, float]:
        """What the sum of second moments says, and the sum of the outcomes. Raises `SolveError`."""
        moments = self._moments(Kept(agreed, [first], None))
        mean = float(moments.target_mean[-1])
        family, top = rules.family, 1.0 if rules.family is LOGISTIC else math.inf
        if not 0 < mean < top or not math.isfinite(family.link(mean)):
            raise SolveError(
                "expected rows of both classes, all survivors' rows are of one"
                if family is LOGISTIC
                else "expected some counts above 0, all survivors' rows have 0"
            )
        # Coarse, so that no library's logarithm decides; and below every mean that offsets can make.
        intercept = round(16 * family.link(mean)) / 16
        if family is POISSON and self.max_offset is not None:
            intercept -= math.ceil(self.max_offset)
        curvature = mean * (1 - mean) if family is LOGISTIC else mean
        start = Start.of(moments, intercept=intercept, curvature=curvature, ridge=self._penalty())
        least = rules.least(len(start.first))
        if start.rows < least:
            raise SolveError(
                f"expected at least {least} pooled rows for {len(start.first)} coefficients and {rules.steps} steps, got "
                f"{start.rows}: so few can be computed from the sums; use fewer columns, plan fewer steps, or agree on "
                f"fewer least_rows than {rules.least_rows}"
            )
        return start, mean * moments.weight

    def _words(self, agreed: Agreed, rows: ClientRows, next_: Wanted) -> Floats:
        """What a client puts into a gradient sum or the information matrix."""
        assert next_.start is not None
        assert next_.at is not None
        rules = self.rules(agreed.system.features - 1)
        eta = rows.predictor(next_.start, next_.at.point, self._scaling(rules.features))
        if next_.number != rules.steps + 1:
            return glm.gradient_words(rules, rows, eta)
        # A client that lies can cancel the flag of another one.
        if glm.stands_out(rules, rows, rules.family.weight(eta)):
            raise LocalProtocolError(
                "expected no information matrix to be asked for, since a row here would stand out in it; some client has "
                "cancelled the flag that said so"
            )
        return glm.information_words(rules, rows, eta)

    def respond(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        who: str,
        number: int,
        accepted: Mapping[int, Aggregate],
        sample_weight: npt.ArrayLike | None = None,
        offset: npt.ArrayLike | None = None,
    ) -> Floats:
        """A client's whole part: what it puts into the sum of that number, after those that it accepted.

        accepted: by their numbers. Raises `LocalProtocolError` if they do not lead to this sum, `DataError` that names
        `who` for rows that do not fit, `SolveError` where the fit ends.
        """
        names, features = feature_names(X), parse_features(X)
        agreed = self._agreed(features.shape[1] if names is None else tuple(names), self._known_targets())
        next_ = self.wanted(agreed, accepted)
        if next_.number != number:
            raise LocalProtocolError(
                f"{who}: expected "
                + ("no further sum" if next_.number is None else f"sum {next_.number} next")
                + f", as follows from the sums accepted so far, got sum {number}"
            )
        table, _ = self._table(features, y, {who: np.arange(len(features))}, sample_weight)
        ((name, rows),) = table.sites.items()
        if number == _MOMENTS:
            return self._statistics(name, table, rows, agreed.bounds).pack()
        return self._words(
            agreed, self._client(table, agreed.targets, rows, self._offset(offset, len(rows))), next_
        )

    def _client(self, table: Table, targets: Targets, rows: Places, offset: Floats) -> ClientRows:
        over = targets.scaling
        y = np.ldexp(table.Y[rows, -1], over.exponent[-1]) + over.centre[-1]
        weights = np.ones(len(rows)) if table.roots is None else table.roots[rows] ** 2
        return ClientRows(table.X[rows], y, weights, offset[rows])

    # ---- one session ----

    def fit(
        self,
        X: npt.ArrayLike,
        y: Any,
        site: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
        offset: npt.ArrayLike | None = None,
    ) -> Self:
        """Learn from X (rows, features), y, the name of each row's site (rows,), its weight and its offset (rows,).

        sample_weight: a row counts so many times; with `max_weight`. offset: added to the linear predictor, such as the
        logarithm of an exposure; with `max_offset`.

        Warns and raises as `FederatedRidge.fit`; `SolveError` also if there is no finite estimate, which it explains.
        Warns (`ColumnWarning`) of columns that follow from others: they are left out.
        """
        table, agreed = self._parsed(X, y, site, sample_weight)
        return self._fit_table(table, agreed, self._offset(offset, len(table.X)), self._ask)

    def fit_pooled(
        self,
        X: npt.ArrayLike,
        y: Any,
        sample_weight: npt.ArrayLike | None = None,
        offset: npt.ArrayLike | None = None,
    ) -> Self:
        """The same model from rows that lie in one place, without any aggregator."""
        everything = np.full(len(parse_features(X)), "the pooled data")
        table, agreed = self._parsed(X, y, everything, sample_weight)
        agreed = replace(agreed, bounds=replace(agreed.bounds, rows=max(agreed.bounds.rows, len(table.X))))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ColumnWarning)
            self._fit_table(table, agreed, self._offset(offset, len(table.X)), None)
        self.rounds_ = []
        return self

    def _fit_table(
        self, table: Table, agreed: Agreed, offset: Floats, ask: Callable[[], Aggregator] | None
    ) -> Self:
        """ask: for the aggregator; None adds in the clear."""
        # Every site's rows are checked before the first message leaves.
        moments = {
            name: self._statistics(name, table, rows, agreed.bounds).pack()
            for name, rows in table.sites.items()
        }
        clients = {
            name: self._client(table, agreed.targets, rows, offset) for name, rows in table.sites.items()
        }

        def vectors(next_: Wanted) -> dict[str, Floats]:
            if next_.number == _MOMENTS:
                return moments
            return {name: self._words(agreed, rows, next_) for name, rows in clients.items()}

        if ask is None:

            def total(number: int, next_: Wanted) -> Aggregate:
                words = np.sum(list(vectors(next_).values()), axis=0)
                return Aggregate(tuple(clients), 0.0, len(words), words)

            return self._learned(agreed, total)
        plan, aggregator = self._plan(agreed, len(clients)), ask()
        aggregator.open(list(clients), plan)
        self._learned(
            agreed,
            lambda number, next_: aggregator.sum(
                number, {name: (words, self.data_set) for name, words in vectors(next_).items()}
            ),
        )
        warn_of_dropouts(list(clients), self.rounds_[:1])
        return self

    def fit_elsewhere(self, clients: Sequence[str], features: int | Sequence[str]) -> Self:
        """The server's side of `fit` where the rows are with their owners, who answer with `respond`."""
        agreed = self._agreed(features, self._known_targets())
        aggregator = self._ask()
        aggregator.open(clients, self._plan(agreed, len(clients)))
        self._learned(agreed, lambda number, next_: aggregator.sum(number, {}))
        warn_of_dropouts(clients, self.rounds_[:1])
        return self

    def fit_sums(self, features: int | Sequence[str], sums: Mapping[int, Aggregate]) -> Self:
        """The model that follows from opened sums, by their numbers in the plan: how a client checks what a server says came
        out. Nobody is asked. Raises `DataError` if one is missing, and `SolveError` as `fit`.
        """

        def total(number: int, next_: Wanted) -> Aggregate:
            if number not in sums:
                raise DataError(f"expected sum {number} next, as follows from those before, got none")
            return sums[number]

        return self._learned(self._agreed(features, self._known_targets()), total)

    def _learned(self, agreed: Agreed, total: Callable[[int, Wanted], Aggregate]) -> Self:
        """All sums, and the model. total: the sum of that number."""
        accepted: dict[int, Aggregate] = {}
        try:
            while (next_ := self.wanted(agreed, accepted)).number is not None:
                accepted[next_.number] = total(next_.number, next_)
            assert next_.start is not None
            assert next_.at is not None
            rules, start = self.rules(agreed.system.features - 1), next_.start
            information = accepted.get(rules.steps + 1)
            found = glm.fitted(
                start,
                next_.opened[-1],
                next_.at,
                None if information is None else information.total,
                self._scaling(rules.features),
                next_.why,
            )
        except SolveError:
            if _MOMENTS in accepted:  # what describes the rows is kept
                self._forget()
                self._keep(Kept(agreed, [accepted[_MOMENTS]], None))
                self.rounds_ = list(accepted.values())
            raise
        kept = Kept(agreed, [accepted[_MOMENTS]], None)
        null = math.nan
        if self.max_offset is None:
            moments = self._moments(kept)
            events = float(moments.target_mean[-1]) * moments.weight
            null = glm.null_deviance(rules.family, events, moments.weight, next_.opened[0].seen)
        self._keep(kept)
        self.rounds_ = list(accepted.values())
        self._learn(kept, _Fit(rules, start, next_.opened, found, null))
        return self

    def _learn(self, kept: Kept, result: _Fit) -> None:
        self._note(kept, result.start.constant)
        self._fitted = result
        self.dependent_ = {one.column: one.on for one in result.start.dependent}
        if self.dependent_:
            said = "; ".join(
                f"{name!r} from {', '.join(map(repr, on))}" for name, on in self.dependent_.items()
            )
            warnings.warn(
                f"columns that follow from others are left out: {said}", ColumnWarning, stacklevel=5
            )
        self.n_iter_, self.deviance_ = len(result.opened), result.opened[-1].seen.deviance
        self._take(result.found.coef, kept.agreed.targets)
        self.weights_ = result.found.coef[:, None]

    @abstractmethod
    def _take(self, coef: Floats, targets: Targets) -> None:
        """Keep the coefficients (1 + d,)."""

    # ---- what the model says ----

    def inference(self) -> GeneralisedRegression:  # type: ignore[override]
        """The table of coefficients: ratios, standard errors, z, p and intervals. No further sum is made.

        Raises `NotFittedError` before `fit`, `SolveError` where there are no standard errors, with the reason.
        """
        self._check_learned()
        fit = self._fitted
        return glm.regression(
            fit.rules, fit.start, fit.opened[-1], fit.found, self.n_iter_, fit.null_deviance
        )

    def linear_predictor(self, X: npt.ArrayLike, offset: npt.ArrayLike | None = None) -> Floats:
        """η (rows,). Raises `NotFittedError` before `fit`, `DataError` for rows that do not fit."""
        features = self._features(X)
        eta = features @ np.ravel(self.coef_) + np.ravel(self.intercept_)[0]
        return np.asarray(eta + self._offset(offset, len(features)))


@dataclass(eq=False, repr=False, kw_only=True)
class FederatedLogisticRegression(FederatedClassifier, _GLM):
    """Logistic regression over several sites; under masks no site's statistics are seen by anybody else.

    Maximum likelihood for two classes, as statsmodels' GLM on the pooled rows: coefficients, odds ratios, standard errors,
    tests and intervals (`inference`). Sums: one of second moments, 5 to 20 of gradients, and one information matrix. From
    the first `describe` and `components` follow as well.

    Parameters
    ----------
    row_norm, column_bounds, max_rows, max_weight, data_set, deal, agreement
        See `FederatedRidge`.
    ridge : float, default=0.0
        Penalty, in parts of the sum of weights, on half the squared coefficients of columns of variance 1: scikit-learn's
        `LogisticRegression(C=1 / (ridge * rows))` after `StandardScaler`. With one there are no standard errors.
    classes : sequence of two labels, optional
        As in `FederatedRidgeClassifier`; the second one is what odds are of.
    steps : int, default=25
        The most gradient sums; the fit ends where it has converged.
    least_rows : int, default=5
        Clients go on after the first sum only with `least_rows` times as many pooled rows as the sums have columns
        (2·coefficients + steps), and sum up no information matrix in which a row could stand out; see
        docs/threat-model.md. 1 turns both off.
    categories : sequence of sequences of int, default=()
        For each category the numbers of its columns, of which at most one is 1 in a row: clients then look for rows that stand
        out in its reference level, too. A study takes them from its codebook.
    max_offset : float, optional
        Public bound on the magnitude of offsets, with `offset`; None is for rows without.
    aggregator : Aggregator, optional
        See `FederatedRidge`. The policy must take what follows from verified sums (`Policy(trusts_reports=Trust.VERIFIED)`), as
        that of the default does; for encrypted sums `Trust.ANY`.

    Attributes
    ----------
    classes_ : ndarray of shape (2,)
    coef_ : ndarray of shape (1, features)
        0 for columns that are constant or in dependent_.
    intercept_ : ndarray of shape (1,)
    weights_ : ndarray of shape (1 + features, 1)
        The intercept and the coefficients.
    dependent_ : dict
        Columns that follow from others, with these.
    deviance_ : float
    n_iter_ : int
        Gradient sums that were made.
    constant_, statistics_, moments_, rounds_, n_features_in_, feature_names_in_
        See `FederatedRidge`.
    """

    _FAMILY = LOGISTIC

    ridge: float = 0.0
    classes: Sequence[Any] | None = None
    steps: int = STEPS
    least_rows: int = 5
    categories: Sequence[Sequence[int]] = ()
    max_offset: float | None = None
    agreement: str = ""

    def _largest(self) -> float:
        return 1.0

    def _targets(self, y: Any, sites: Mapping[str, Places], rows: int) -> tuple[Targets, Floats]:
        if self.classes is not None:
            _two(len(self.classes))
        targets, one_hot = class_targets(y, self.classes, sites, rows)
        _two(targets.width)
        return targets, one_hot

    def _take(self, coef: Floats, targets: Targets) -> None:
        assert targets.labels is not None
        self.classes_ = targets.labels
        self.coef_, self.intercept_ = coef[None, 1:], coef[:1]

    def decision_function(self, X: npt.ArrayLike, offset: npt.ArrayLike | None = None) -> Floats:
        """The logarithm of the odds of the second class (rows,)."""
        return self.linear_predictor(X, offset)

    def predict(self, X: npt.ArrayLike, offset: npt.ArrayLike | None = None) -> npt.NDArray[Any]:
        """The likelier label of each row."""
        eta = self.linear_predictor(X, offset)
        labels: npt.NDArray[Any] = self.classes_[(eta > 0).astype(np.intp)]
        return labels

    def predict_proba(self, X: npt.ArrayLike, offset: npt.ArrayLike | None = None) -> Floats:
        """Probabilities of both classes (rows, 2)."""
        eta = self.linear_predictor(X, offset)
        return np.column_stack([expit(-eta), expit(eta)])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


@dataclass(eq=False, repr=False, kw_only=True)
class FederatedPoissonRegression(RegressorMixin, _GLM):  # type: ignore[misc]
    """Poisson regression of counts over several sites; under masks no site's statistics are seen by anybody else.

    Maximum likelihood with a logarithmic link, as statsmodels' GLM on the pooled rows: coefficients, rate ratios, standard
    errors, tests and intervals (`inference`). The offset is the logarithm of an exposure, such as person-years.

    Parameters
    ----------
    row_norm, column_bounds, max_rows, max_weight, data_set, deal, agreement
        See `FederatedRidge`.
    largest_count : float
        Public bound on y, agreed on before anybody reads data. Means of up to 8 times as many are possible.
    ridge, categories, steps, least_rows, max_offset, aggregator
        See `FederatedLogisticRegression`; scikit-learn's `PoissonRegressor(alpha=ridge)` after `StandardScaler`.

    Attributes
    ----------
    coef_ : ndarray of shape (features,)
    intercept_ : float
    weights_, dependent_, deviance_, n_iter_, constant_, statistics_, moments_, rounds_, n_features_in_, feature_names_in_
        See `FederatedLogisticRegression`.
    """

    _FAMILY = POISSON

    largest_count: float | None = None
    ridge: float = 0.0
    steps: int = STEPS
    least_rows: int = 5
    categories: Sequence[Sequence[int]] = ()
    max_offset: float | None = None
    agreement: str = ""

    def _largest(self) -> float:
        if self.largest_count is None:
            raise DataError(
                "expected largest_count, a bound on y that was agreed on before anybody read data, got None"
            )
        most = parse_real("largest_count", self.largest_count)
        if not 0 < most <= 2.0**32:
            raise DataError(f"expected largest_count above 0 and at most 2^32, got {most!r}")
        return most

    def _targets(self, y: Any, sites: Mapping[str, Places], rows: int) -> tuple[Targets, Floats]:
        columns = Columns.parse([(0.0, self._largest())], 1, "largest_count")
        values = np.zeros(0) if y is None else numbers(y, rows)
        if values.shape == (rows, 1) and rows > 1:
            values = column_or_1d(values, warn=True)
        if values.ndim != 1:
            raise DataError(f"expected y as one count for each row, got {values.shape[1]} columns")
        values = values[:, None]
        if (wrong := np.flatnonzero(columns.outside(values)[:, 0])).size:
            who = next(name for name, mine in sites.items() if wrong[0] in mine)
            raise DataError(
                f"{who}: expected counts from 0 to largest_count, {self._largest():g}, it is not so in {len(wrong)} rows "
                f"(the first is row {wrong[0] + 1})"
            )
        return Targets(("y",), columns.scaling, 1.0 + 2.0**-40, False), columns.scaling.scaled(values)

    def _take(self, coef: Floats, targets: Targets) -> None:
        self.coef_, self.intercept_ = coef[1:], float(coef[0])

    def predict(self, X: npt.ArrayLike, offset: npt.ArrayLike | None = None) -> Floats:
        """The expected count of each row (rows,)."""
        return np.asarray(np.exp(self.linear_predictor(X, offset)))

    def score(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None = None,
        offset: npt.ArrayLike | None = None,
    ) -> float:
        """The share of the deviance that is explained, as scikit-learn's `PoissonRegressor` has it."""
        from sklearn.metrics import d2_tweedie_score

        return float(d2_tweedie_score(y, self.predict(X, offset), sample_weight=sample_weight, power=1))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = True
        return tags


def _two(classes: int) -> None:
    if classes != 2:
        raise DataError(
            f"expected two classes, got {classes} {'class' if classes == 1 else 'classes'}: Only binary classification is "
            "supported. Fit one model for each class against the others, or use FederatedRidgeClassifier or FederatedLDA"
        )
