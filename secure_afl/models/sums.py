"""What the estimators of tables share: one session of secure sums of statistics, kept, and an analysis out of it."""

import math
import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from secure_afl.analytic.components import Components, principal_components
from secure_afl.analytic.description import Description, describe
from secure_afl.analytic.inference import Regression, least_squares
from secure_afl.analytic.moments import Moments, Scaling
from secure_afl.analytic.path import RIDGES, Path, path
from secure_afl.analytic.privacy import Privacy, client_noise, multiplier, shortened
from secure_afl.analytic.solve import Solution
from secure_afl.analytic.statistics import PublicBounds, SufficientStatistics, added, gamma
from secure_afl.crypto.fixed_point import FixedPoint
from secure_afl.crypto.noise import Noise
from secure_afl.errors import ColumnWarning, DataError, SolveError
from secure_afl.models.change import Change, Inside, Labels, change_plan, unchanged
from secure_afl.models.columns import Columns
from secure_afl.models.estimator import (
    Federated,
    feature_names,
    parse_features,
    parse_integer,
    parse_labels,
    parse_real,
    rows_by_site,
)
from secure_afl.protocol.session.errors import RoundAbortedError
from secure_afl.protocol.session.ledger import Spending
from secure_afl.protocol.session.parameters import RidgeSystem, SumPlan
from secure_afl.protocol.transport.driver import Contribution
from secure_afl.sums.aggregation import Aggregate, Aggregator, Outcome, solved, warn_of_dropouts

# Of a row's bound, what stands in the column of ones under differential privacy: as a 1 it would move the sums by more
# than small rows do.
_INTERCEPT = 0.25
# What a sum of all clients needs in bits at most, in fixed point: words of 8 bytes and every encryption with exact sums
# hold it.
SUM_BITS = 58
# What rounding may do to a count of rows, of which it must be told.
_UNITS = 0.25
_TINY = 2.0**-20
Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Targets:
    """What is agreed on the columns of Y. names: of them; scaling: as in a sum, within [−1, 1]; norm: bound on a row of Y
    as it is summed; one_hot: whether they are classes, so that YᵀY follows from the counts; labels: of classes.
    """

    names: tuple[str, ...]
    scaling: Scaling
    norm: float
    one_hot: bool
    labels: npt.NDArray[Any] | None = None

    @property
    def width(self) -> int:
        return len(self.names)


def class_targets(y: Any, agreed: Any, sites: Mapping[str, Places], rows: int) -> tuple[Targets, Floats]:
    """Classes as targets, and the one-hot Y (rows, classes). y: labels (rows,), None for those that are agreed alone, with no
    rows. Raises `DataError`.
    """
    if agreed is None and y is None:
        raise DataError("expected classes that were agreed on, got none: no party sees all labels")
    labels = np.asarray(agreed)[:0] if y is None else y
    places, classes = parse_labels(labels, agreed, sites, rows)
    one_hot = (places[:, None] == np.arange(len(classes))).astype(np.float64)
    names = tuple(str(label) for label in classes)
    return Targets(names, Scaling.none(len(names)), 1.0, True, classes), one_hot


NO_TARGETS = Targets((), Scaling.none(0), 1.0, False)


@dataclass(frozen=True, eq=False)
class Table:
    """Rows as they are summed. X (rows, features), Y (rows, targets); roots: of their weights (rows,), None without
    weights; sites: the row numbers of each, by name.
    """

    X: Floats
    Y: Floats
    roots: Floats | None
    sites: dict[str, Places]


@dataclass(frozen=True, eq=False)
class Agreed:
    """What the parties agree on, from the parameters alone."""

    bounds: PublicBounds
    system: RidgeSystem
    targets: Targets


@dataclass(frozen=True, eq=False)
class Kept:
    """The sums of a session, which can be solved again."""

    agreed: Agreed
    outcomes: list[Outcome]
    noise: Noise | None

    def solved(self, ridge: float | None) -> Solution:
        """The model of all waves. Raises `SolveError`, and `DataError` without sums."""
        return solved(
            replace(self.agreed.system, ridge=ridge),
            added(one.total for one in self.sums),
            self.entry_error,
            sum(len(one.survivors) for one in self.sums),
            self.noise,
        )

    @property
    def entry_error(self) -> float:
        """Bound on the error of an entry of the sum of all waves."""
        return math.fsum(one.entry_error for one in self.sums)

    def statistics(self) -> SufficientStatistics | None:
        """The statistics as they were summed; None with noise."""
        if self.noise:
            return None
        total = added(one.total for one in self.sums)
        return SufficientStatistics.unpack(total, self.agreed.system, entry_error=self.entry_error)

    def check_agreed(self, now: Agreed) -> None:
        """Raises `DataError` unless other rows are read as those of this sum were."""
        then = self.agreed
        same = (
            now.bounds == then.bounds
            and replace(now.system, ridge=then.system.ridge, names=()) == replace(then.system, names=())
            and now.system.names in ((), then.system.names)
            and now.targets.names == then.targets.names
            and np.array_equal(now.targets.scaling.centre, then.targets.scaling.centre)
            and np.array_equal(now.targets.scaling.exponent, then.targets.scaling.exponent)
        )
        if not same:
            raise DataError(
                "these rows do not have the columns, bounds and targets of the fit: agree on classes or target_bounds before it"
            )

    @cached_property
    def sums(self) -> list[Aggregate]:
        """Raises `DataError` if there are none."""
        sums = [one for one in self.outcomes if isinstance(one, Aggregate)]
        if not sums:
            raise DataError("expected sums that were released, got none: key holders gave the weights alone")
        return sums


@dataclass(eq=False, repr=False, kw_only=True)
class Parameters:
    """The parameters of all estimators of tables, for scikit-learn's `get_params`; `FederatedRidge` says what they mean.

    An estimator is a dataclass of these and its own, so that none lists them again. All but the first go by name.
    """

    row_norm: float | None = field(default=None, kw_only=False)
    column_bounds: npt.ArrayLike | Sequence[float | tuple[float, float]] | None = None
    max_rows: int = 2**16
    max_weight: float | None = None
    data_set: str = "data"
    deal: int | None = None
    aggregator: Aggregator | None = None


class FederatedTable(Parameters, Federated):
    """Estimators out of one secure sum of the second moments of a table. Subclasses say what Y is, and may have the parameters
    that are named here.
    """

    rounds: int
    privacy: Privacy | None = None
    agreement: str = ""
    indicators: Sequence[int] = ()

    # ---- what subclasses say ----

    @abstractmethod
    def _targets(self, y: Any, sites: Mapping[str, Places], rows: int) -> tuple[Targets, Floats]:
        """What is agreed on Y, and Y (rows, targets) as it is summed. y: None for what the parameters alone say."""

    @abstractmethod
    def _penalty(self) -> float | None:
        """The ridge of the system. Raises `DataError` for it and for other parameters of the solve."""

    @abstractmethod
    def _solved(self, kept: Kept) -> Any:
        """What comes of a sum. Raises `SolveError`."""

    @abstractmethod
    def _learn(self, kept: Kept, result: Any) -> None:
        """Take what came of a sum as the model."""

    _inside: Mapping[str, Inside] = {}  # replaced, never changed
    _SUPERVISED = True
    _SOLVES = True  # whether key holders can do with a system's solution
    _STATISTIC = "ridge statistics"
    _REFIT: tuple[str, ...] = ("ridge",)
    """Parameters that only the solve depends on."""
    _MODEL: tuple[str, ...] = ("weights_", "coef_", "intercept_", "certificate_", "constant_", "ridge_")

    def _row_weights(self, targets: Targets, Y: Floats, sample_weight: npt.ArrayLike | None) -> Floats | None:
        """The weights of rows, None where there are none."""
        return self._given_weights(sample_weight, len(Y))

    def _largest_weight(self) -> float | None:
        """The public bound on them, None where rows have no weights."""
        if self.max_weight is None:
            return None
        largest = parse_real("max_weight", self.max_weight)
        if not 2.0**-100 < largest < 2.0**100:
            raise DataError(f"expected max_weight, a bound on the weight of a row, above 0, got {largest!r}")
        return largest

    def _known_targets(self) -> Targets:
        return self._targets(None, {}, 0)[0]

    # ---- rows ----

    def _given_weights(self, sample_weight: npt.ArrayLike | None, rows: int) -> Floats | None:
        if self.max_weight is None:
            if sample_weight is not None:
                raise DataError(
                    "expected max_weight, an agreed bound on the weights of rows, with sample_weight, got None"
                )
            return None
        if sample_weight is None:
            return np.ones(rows)
        weights = np.asarray(sample_weight)
        if weights.dtype.kind not in "fiub" or weights.shape != (rows,):
            raise DataError(
                f"expected a weight for each of {rows} rows, got shape {weights.shape} of type {weights.dtype}"
            )
        weights = weights.astype(np.float64)
        if rows and not weights.any():
            raise DataError("expected some weights above 0, got zeros: rows of weight zero say nothing")
        largest = FederatedTable._largest_weight(self)
        assert largest is not None
        if wrong := np.flatnonzero(~((weights >= 0) & (weights <= largest))).tolist():
            raise DataError(
                f"expected weights from 0 to the agreed {largest:g}, it is not so in row {wrong[0] + 1} and "
                f"{len(wrong) - 1} others"
            )
        return weights

    def _sites(self, site: npt.ArrayLike | None, rows: int) -> dict[str, Places]:
        if site is not None:
            return rows_by_site(site, rows)
        if self.deal is None:
            raise DataError(
                "expected the site of each row, got none: give site, or deal=k to deal the rows to k sites for a trial "
                "in one process"
            )
        dealt = parse_integer("deal", self.deal)
        return {f"site {at + 1}": np.arange(at, rows, dealt) for at in range(dealt)}

    def _table(
        self, features: Floats, y: Any, sites: dict[str, Places], sample_weight: npt.ArrayLike | None
    ) -> tuple[Table, Targets]:
        """Rows as they are summed. Raises `DataError`, which names a site and quotes no row."""
        self._check_privacy()
        targets, Y = self._targets(y, sites, len(features))
        weights = self._row_weights(targets, Y, sample_weight)
        if weights is not None and self.privacy:
            raise DataError("expected rows without weights under differential privacy, got weights")
        roots = None if weights is None else np.sqrt(weights)
        return Table(self._scaled(features, sites), Y, roots, sites), targets

    def _scaled(self, X: Floats, sites: Mapping[str, Places]) -> Floats:
        """Features in the units that sums are of. Raises `DataError` for rows over the columns' bounds."""
        columns = self._columns(X.shape[1])
        if self.privacy:
            if not np.isfinite(X).all():
                raise DataError("expected finite X, got NaN or infinity")
            return self._short(X)
        over = columns.outside(X) if columns else ~np.isfinite(X)
        bound = " within its column's bound" if columns else ", without NaN or infinity"
        for who, rows in sites.items():
            if (wrong := np.argwhere(over[rows])).size:
                row, column = wrong[0].tolist()
                raise DataError(
                    f"{who}: expected finite X{bound}, it is not in row {row + 1}, column {column + 1}"
                )
        if columns is None:
            return X
        scaled = columns.scaling.scaled(X)
        peaks = np.maximum(scaled.max(axis=0, initial=0.0), -scaled.min(axis=0, initial=0.0))
        if tiny := np.flatnonzero((peaks > 0) & (peaks < _TINY)).tolist():
            warnings.warn(
                f"columns {', '.join(str(j + 1) for j in tiny)} (counted from 1): no value is as large as a millionth of "
                "its column's bound, so most digits are lost; agree on a bound in the values' unit",
                ColumnWarning,
                stacklevel=4,
            )
        return scaled

    def _short(self, X: Floats) -> Floats:
        """Finite rows in the units that sums are of, none longer than its bound; each depends on itself alone."""
        columns, shift = self._columns(X.shape[1]), np.zeros(X.shape[1], dtype=np.int64)
        if columns:
            X = np.where(abs(X) < 2.0**1000, X - columns.scaling.centre, X)
            shift = columns.scaling.exponent
        mantissas, exponents = np.frexp(X)
        exponents = exponents - shift
        # What overflows in its column's units would refuse the row; halved so often, it is still far too long.
        excess = np.maximum(exponents.max(axis=1, initial=0) - 1000, 0)
        return shortened(np.ldexp(mantissas, exponents - excess[:, None]), self._row_norm(X.shape[1]))[0]

    def rows(self, X: Floats) -> Floats:
        """Finite X (rows, features) as what `weights_` are multiplied with, the intercept's column first."""
        columns = self._columns(X.shape[1])
        scaled = self._short(X) if self.privacy else columns.scaling.scaled(X) if columns else X
        return np.column_stack([np.full(len(X), self._one(X.shape[1])), scaled])

    # ---- what is agreed on ----

    def _columns(self, features: int) -> Columns | None:
        """The columns' own bounds, if those were agreed on."""
        if self.row_norm is None and self.column_bounds is None:
            raise DataError("expected either row_norm or column_bounds, got none")
        if self.row_norm is not None and self.column_bounds is not None and not self.privacy:
            raise DataError("expected either row_norm or column_bounds, got both")
        if self.column_bounds is None:
            return None
        return Columns.parse(self.column_bounds, features, "column_bounds")

    def _scaling(self, features: int) -> Scaling:
        columns = self._columns(features)
        return columns.scaling if columns else Scaling.none(features)

    def _row_norm(self, features: int) -> float:
        """The bound on the norm of a row of scaled columns."""
        if self.row_norm is None:
            return math.nextafter(math.sqrt(features), math.inf)
        row_norm = parse_real("row_norm", self.row_norm)
        if row_norm <= 0:
            raise DataError(f"expected row_norm, a bound on the norm of a row, above 0, got {row_norm}")
        return row_norm

    def _one(self, features: int) -> float:
        """What stands in the intercept's column."""
        return self._row_norm(features) * _INTERCEPT if self.privacy else 1.0

    def bounds(self, features: int, targets: int) -> PublicBounds:
        """The public bounds of one site's statistics, the intercept's column included."""
        self._check_privacy()
        columns, row_norm = self._columns(features), self._row_norm(features)
        # Rounding may leave a row longer than `shortened` was told; nothing may refuse it then.
        roundings = gamma(3 * features + 64) if self.privacy else 2.0**-50
        whole = float(np.hypot(row_norm, self._one(features))) * (1 + roundings)
        most = parse_integer("max_rows", self.max_rows)
        if self.privacy:
            return PublicBounds(features + 1, targets, whole, most)
        column = 1.0 if columns else max(1.0, row_norm) * (1 + 2.0**-40)
        largest = self._largest_weight()
        root = 1.0 if largest is None else math.sqrt(largest) * (1 + 2.0**-50)
        return PublicBounds(features + 1, targets, whole * root, most, root, column * root)

    def _agreed(self, features: int | Sequence[str], targets: Targets) -> Agreed:
        """Raises `DataError` for parameters that do not fit."""
        names = () if isinstance(features, int) else tuple(features)
        width = features if isinstance(features, int) else len(names)
        plain = self.privacy is None
        bounds = replace(
            self.bounds(width, targets.width), squares=plain and not targets.one_hot and targets.width > 0
        )
        penalty = self._penalty()
        parse_integer("rounds", self.rounds)
        system = RidgeSystem(
            bounds.features,
            bounds.outputs,
            penalty,
            target=bounds.target,
            rows=bounds.rows,
            standardised=plain,
            column=bounds.column if plain else 1.0,
            weighted=self._largest_weight() is not None,
            squares=bounds.squares,
            names=names,
            indicators=self._indicators(width) if plain else (),
        )
        return Agreed(bounds, system, targets)

    def _indicators(self, features: int) -> tuple[int, ...]:
        """Columns of 0 and 1 behind the one of ones, by number."""
        for one in self.indicators:
            if not isinstance(one, Integral) or not 0 <= one < features:
                raise DataError(f"expected indicators as numbers of columns below {features}, got {one!r}")
        return tuple(1 + int(one) for one in self.indicators)

    def _plan(self, agreed: Agreed, clients: int) -> list[SumPlan]:
        rounds, bounds = parse_integer("rounds", self.rounds), agreed.bounds
        survivors, noise, spends = 0, None, None
        # As many digits as 8 bytes hold, and as every encryption with exact sums does: centring a Gram matrix needs them.
        fraction_bits = SUM_BITS - math.frexp(clients * bounds.magnitude)[1]
        if clients * 2.0**-fraction_bits > _UNITS and not self.privacy:
            raise DataError(
                f"expected bounds that leave digits for fractions, got sums of {clients} clients up to "
                f"{clients * bounds.magnitude:.2g}: agree on column_bounds in place of row_norm {self.row_norm}, or on "
                f"fewer max_rows than {self.max_rows}"
            )
        if self.privacy:
            fraction_bits = 32  # the rest is noise
            survivors = self.privacy.survivors(clients)
            spends = Spending(
                self.privacy.epsilon, self.privacy.delta, multiplier(self.privacy, rounds), rounds
            )
            # Which rows a wave has depends on those before them, so a record counts in all waves.
            noise = client_noise(
                self.privacy,
                bounds,
                clients=clients,
                survivors=survivors,
                colluders=self.privacy.colluders(clients),
                sums=rounds,
                target_norm=agreed.targets.norm,
                waves=rounds > 1,
            )
        return [
            SumPlan(
                f"{self._STATISTIC} {r + 1} of {rounds}" + (f", {self.agreement}" if self.agreement else ""),
                bounds.length,
                bounds.magnitude,
                fraction_bits,
                survivors=survivors,
                # Of several waves only the sum of their sums is a system.
                system=agreed.system if rounds == 1 and self._SOLVES else None,
                noise=noise,
                spends=spends,
            )
            for r in range(rounds)
        ]

    def plan(self, features: int | Sequence[str], clients: int) -> list[SumPlan]:
        """The sums that both sides agree on, from the parameters alone. features: how many there are, or their names."""
        return self._plan(self._agreed(features, self._known_targets()), clients)

    # ---- one session ----

    def fit(
        self,
        X: npt.ArrayLike,
        y: Any,
        site: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
    ) -> Self:
        """Learn from X (rows, features), y, the name of each row's site (rows,), and its weight (rows,).

        site: None deals rows to `deal` sites. sample_weight: with `max_weight`; None gives every row the weight 1.

        All parameters and rows are checked before a session begins. Warns (`DropoutWarning`) if a sum is without some
        sites, and (`ColumnWarning`) of constant columns. Raises `DataError` for rows or parameters that do not fit,
        `PolicyError` and `RoundAbortedError` from the aggregator: the model is then the one from before. Raises
        `SolveError` if the sum gives no guaranteed solution: there is no model then, but the sum is kept, and `refit`
        can solve it with a larger penalty.
        """
        table, agreed = self._parsed(X, y, site, sample_weight)
        # Every site's rows are checked before the first message leaves.
        return self._fit(list(table.sites), agreed, self._contributions(table, agreed))

    def _contributions(self, table: Table, agreed: Agreed) -> list[dict[str, Contribution]]:
        """Every site's part of each sum. Raises `DataError`."""
        vectors = {name: self._vectors(name, table, agreed.bounds) for name in table.sites}
        return [
            {name: (own[r], self.data_set) for name, own in vectors.items()}
            for r in range(parse_integer("rounds", self.rounds))
        ]

    def _parsed(
        self, X: npt.ArrayLike, y: Any, site: npt.ArrayLike | None, sample_weight: npt.ArrayLike | None
    ) -> tuple[Table, Agreed]:
        """The arguments of `fit`. Raises `DataError`."""
        names, features = feature_names(X), parse_features(X)
        if y is None and self._SUPERVISED:
            raise DataError(
                f"expected y: {type(self).__name__} requires y to be passed, but the target y is None"
            )
        if not features.size:
            raise DataError(
                f"expected rows and features, got {len(features)} sample(s) and {features.shape[1]} feature(s) "
                f"(shape={features.shape}) while a minimum of 1 is required."
            )
        table, targets = self._table(features, y, self._sites(site, len(features)), sample_weight)
        return table, self._agreed(features.shape[1] if names is None else tuple(names), targets)

    def fit_elsewhere(self, clients: Sequence[str], features: int | Sequence[str]) -> Self:
        """The server's side of `fit` where the rows are with their owners, and the aggregator reaches these: it
        learns from what `vectors` gives there. Warns and raises as `fit` does.

        features: how many there are, or their names.
        """
        agreed = self._agreed(features, self._known_targets())
        return self._fit(clients, agreed, [{}] * parse_integer("rounds", self.rounds))

    def vectors(
        self, X: npt.ArrayLike, y: npt.ArrayLike, who: str, sample_weight: npt.ArrayLike | None = None
    ) -> list[Floats]:
        """One site's side of `fit`: what it puts into each sum. Raises `DataError` that names `who`."""
        table, bounds = self._own(X, y, who, sample_weight)
        return self._vectors(who, table, bounds)

    def vector(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        who: str,
        number: int,
        sample_weight: npt.ArrayLike | None = None,
    ) -> Floats:
        """What one site puts into the sum of that number, from 0. Raises `DataError` that names `who`."""
        table, bounds = self._own(X, y, who, sample_weight)
        return self._vector(who, table, bounds, number)

    def _own(
        self, X: npt.ArrayLike, y: npt.ArrayLike, who: str, sample_weight: npt.ArrayLike | None
    ) -> tuple[Table, PublicBounds]:
        features = parse_features(X)
        agreed = self._agreed(features.shape[1], self._known_targets())
        table, _ = self._table(features, y, {who: np.arange(len(features))}, sample_weight)
        return table, agreed.bounds

    def _vectors(self, who: str, table: Table, bounds: PublicBounds) -> list[Floats]:
        return [
            self._vector(who, table, bounds, number) for number in range(parse_integer("rounds", self.rounds))
        ]

    def _vector(self, who: str, table: Table, bounds: PublicBounds, number: int) -> Floats:
        """What one of equal waves of a site's rows, in their order, puts into its sum."""
        waves = split_rounds({who: table.sites[who]}, parse_integer("rounds", self.rounds))
        return self._statistics(who, table, waves[number][who], bounds).pack()

    def _statistics(self, who: str, table: Table, rows: Places, bounds: PublicBounds) -> SufficientStatistics:
        one, roots = self._one(table.X.shape[1]), table.roots

        # Of a long table nothing is copied as a whole.
        def of(start: int, stop: int) -> tuple[Floats, Floats]:
            own = rows[start:stop]
            X, Y = np.column_stack([np.full(len(own), one), table.X[own]]), table.Y[own]
            return (X, Y) if roots is None else (X * roots[own, None], Y * roots[own, None])

        return SufficientStatistics.from_pieces(len(rows), of, bounds, who=who)

    def _fit(
        self,
        clients: Sequence[str],
        agreed: Agreed,
        contributions: Sequence[Mapping[str, Contribution]],
        aggregator: Aggregator | None = None,
    ) -> Self:
        """aggregator: in the place of the estimator's own."""
        plan = self._plan(agreed, len(clients))
        aggregator = aggregator or self._ask()
        try:
            kept, result = self._session(aggregator, clients, agreed, plan, contributions)
        except SolveError as error:
            if isinstance(error.outcome, Kept):
                self._forget()
                self._keep(error.outcome)
                self._inside = self._site_records(contributions)
            raise
        except RoundAbortedError as error:
            if hasattr(self, "_kept"):
                note = "the sum of the fit before is kept: refit(ridge=…) solves it again without a session"
                error.__notes__ = [note, *getattr(error, "__notes__", [])]  # before those of each client
            raise
        self._keep(kept)
        self._inside = self._site_records(contributions)
        self._learn(kept, result)
        warn_of_dropouts(clients, self.rounds_)
        return self

    def _session(
        self,
        aggregator: Aggregator,
        clients: Sequence[str],
        agreed: Agreed,
        plan: Sequence[SumPlan],
        contributions: Sequence[Mapping[str, Contribution]],
    ) -> tuple[Kept, Any]:
        """The sums and what comes of them. A `SolveError` has what is to be kept as its `outcome`."""
        aggregator.open(clients, plan)
        if plan[0].system:
            try:
                solution, outcome = aggregator.solve(0, contributions[0])
            except SolveError as error:
                if isinstance(error.outcome, Aggregate):
                    error.outcome = Kept(agreed, [error.outcome], plan[0].noise)
                raise
            return Kept(agreed, [outcome], plan[0].noise), solution
        kept = Kept(agreed, [aggregator.sum(r, contributions[r]) for r in range(len(plan))], plan[0].noise)
        try:
            return kept, self._solved(kept)
        except SolveError as error:
            error.outcome = kept
            raise

    def _forget(self) -> None:
        """There is a sum without a solution, and no model."""
        for name in self._MODEL:
            self.__dict__.pop(name, None)

    def _site_records(self, contributions: Sequence[Mapping[str, Contribution]]) -> dict[str, Inside]:
        """What each survivor has in the only sum, for `update`."""
        if self.privacy or len(contributions) > 1:
            return {}
        (only,) = contributions
        return {
            name: Inside.first(vector, self.data_set)
            for name, (vector, _) in only.items()
            if name in self.rounds_[0].survivors
        }

    def _keep(self, kept: Kept) -> None:
        self._kept = kept
        self.rounds_ = kept.outcomes
        released = any(isinstance(one, Aggregate) for one in kept.outcomes)
        self.statistics_ = kept.statistics() if released else None

    def fit_pooled(self, X: npt.ArrayLike, y: Any, sample_weight: npt.ArrayLike | None = None) -> Self:
        """The same model from rows that lie in one place, without any aggregator: the reference, without noise."""
        names, features = feature_names(X), parse_features(X)
        everything = {"the pooled data": np.arange(len(features))}
        table, targets = self._table(features, y, everything, sample_weight)
        agreed = self._agreed(features.shape[1] if names is None else tuple(names), targets)
        bounds = replace(agreed.bounds, rows=max(1, len(features)))
        ((who, rows),) = everything.items()
        total = self._statistics(who, table, rows, bounds).pack()
        kept = Kept(agreed, [Aggregate((who,), 0.0, len(total), total)], None)
        result = self._solved(kept)
        self._keep(kept)
        self._inside = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ColumnWarning)
            self._learn(kept, result)
        self.rounds_ = []
        return self

    def update(
        self,
        X: npt.ArrayLike,
        y: Any,
        site: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None = None,
        *,
        batch: npt.ArrayLike,
        withdrawn: npt.ArrayLike | None = None,
        least_rows: int = 5,
    ) -> Self:
        """Bring batches of rows into the sum of the last `fit`, or take rows out of it, by a sum of what changes.

        The model is then that of `fit` on the rows that are in, bit for bit. Every site of the sum takes part: one whose
        rows are not given here contributes zeros, and nobody learns that it did. See docs/changed-rows.md.

        Parameters
        ----------
        X, y, site, sample_weight : as in `fit`
            Of each site whose rows change: all rows that are in the sum, in the order in which they were given before,
            and those that come in.
        batch : array-like of str, shape (rows,)
            The batch that each row came with: `data_set` for the rows of `fit`. A name that is new to the site is a batch
            that comes in.
        withdrawn : array-like of str, shape (rows,), optional
            The name of the withdrawal with which a row leaves, empty for a row that stays. A site brings one batch in or
            makes one withdrawal at a time.
        least_rows : int, default=5
            As agreed. Each batch that comes in, and of each batch what leaves and what stays, has at least so many rows,
            and in none of its columns, and no combination of them, a row stands out; otherwise it waits. What stays of
            the rows of `fit` needs the number alone.

        Raises
        ------
        DataError
            For rows that do not fit, or are not those that are in the sum; for a change that has to wait; and without an
            exact sum of this process to change.
        PolicyError, RoundAbortedError, SolveError
            As `fit`. The change is in the sum of all sites or of none.
        """
        kept, old, encoding = self._changeable()
        given = copy(self)
        if kept.agreed.targets.labels is not None:  # the sites that change may not have rows of every class
            given.set_params(classes=kept.agreed.targets.labels.tolist())
        table, agreed = given._parsed(X, y, site, sample_weight)
        kept.check_agreed(agreed)
        labels, least = Labels.parse(batch, withdrawn, len(table.X)), parse_integer("least_rows", least_rows)
        contributions: dict[str, Contribution] = {
            name: (np.zeros(old.length, np.int64), unchanged(self.data_set)) for name in old.survivors
        }
        inside = dict(self._inside)
        for name in table.sites:
            if name not in inside:
                raise DataError(f"expected sites that are in the sum ({', '.join(inside)}), got {name!r}")
            contributions[name], inside[name] = self._change(
                name, table, agreed.bounds, labels, inside[name], encoding, least
            )
        clients = len(old.survivors)
        (first,) = self._plan(kept.agreed, clients)
        first = replace(first, fraction_bits=encoding.fraction_bits)
        plan = change_plan(first, old.session, least, clients, self.agreement)
        aggregator = self._ask()
        try:
            aggregator.open(old.survivors, [plan])
            # Whatever comes of the session, what left may be known from here on.
            self._inside = {name: self._inside[name].leaving(inside[name]) for name in inside}
            difference = aggregator.sum(0, contributions)
        except RoundAbortedError as error:
            error.add_note(
                "the model and the sum are those from before. If all sites make the same change again, a server learns "
                "nothing new: their owners can renew the names of the change (MaskedAggregator.renew)"
            )
            raise
        new = replace(kept, outcomes=[old.changed(difference)])
        self._inside = inside
        try:
            result = self._solved(new)
        except SolveError:
            self._forget()
            self._keep(new)
            raise
        self._keep(new)
        self._learn(new, result)
        return self

    def change(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        who: str,
        sample_weight: npt.ArrayLike | None,
        labels: Labels,
        inside: Inside,
        encoding: FixedPoint,
        least_rows: int,
    ) -> tuple[Contribution, Inside]:
        """One site's side of `update`: what it puts into the sum, in units of the old sum's encoding, and what it has in the sum
        then. Raises `DataError` that names `who`.
        """
        table, bounds = self._own(X, y, who, sample_weight)
        return self._change(who, table, bounds, labels, inside, encoding, least_rows)

    def _change(
        self,
        who: str,
        table: Table,
        bounds: PublicBounds,
        labels: Labels,
        inside: Inside,
        encoding: FixedPoint,
        least_rows: int,
    ) -> tuple[Contribution, Inside]:
        def packed(rows: Places) -> Floats:
            return self._statistics(who, table, rows, bounds).pack()

        change = Change.of(who, labels, table.sites[who], inside)
        after = change.changed(packed, inside)
        change.check(
            np.column_stack([np.ones(len(table.X)), table.X, table.Y]), table.roots, self.data_set, least_rows
        )
        return (change.units(packed, encoding), change.ledger_name(self.data_set)), after

    def _changeable(self) -> tuple[Kept, Aggregate, FixedPoint]:
        """The sum that can change. Raises `DataError`."""
        kept = getattr(self, "_kept", None)
        one = kept.outcomes[0] if kept and len(kept.outcomes) == 1 else None
        if kept is None or not self._inside or not isinstance(one, Aggregate) or one.encoding is None:
            raise DataError(
                "expected a sum that can change: of a fit by this object in this process, with rounds=1, without privacy, "
                "through an aggregator that releases exact sums, got none"
            )
        return kept, one, one.encoding

    def refit(self, **parameters: Any) -> Self:
        """Solve the sum of the last `fit` again with other parameters, such as ridge=0.1: no session, nobody is asked.

        parameters: those that only the solve depends on; they stay if they give a solution.
        Raises `DataError` for others and if there is no sum (before `fit`, or where key holders released only weights),
        `SolveError` if these give no guaranteed solution either.
        """
        kept = getattr(self, "_kept", None)
        if kept is None:
            raise DataError(
                "expected the sum of an earlier fit, got none: fit first, with an aggregator that releases sums"
            )
        if unknown := sorted(parameters.keys() - set(self._REFIT)):
            raise DataError(
                f"expected parameters of the solve ({', '.join(self._REFIT)}), got {unknown[0]!r}, on which the sum depends"
            )
        before = {name: getattr(self, name) for name in parameters}
        self.set_params(**parameters)
        try:
            self._check_privacy()
            self._penalty()
            self._learn(kept, self._solved(kept))
        except (DataError, SolveError):
            self.set_params(**before)
            raise
        return self

    def _note(self, kept: Kept, constant: Sequence[int]) -> None:
        """What every model has. constant: numbers of features."""
        system = kept.agreed.system
        self.privacy_ = self.privacy
        self.constant_ = np.array(constant, dtype=np.intp)
        self.n_features_in_ = system.features - 1
        self.__dict__.pop("feature_names_in_", None)
        if system.names:
            self.feature_names_in_ = np.array(system.names, dtype=object)
        statistics = self.statistics_
        said = [
            # A column of zeros is no surprise: a level that nobody has, the border of an image.
            repr(system.names[j]) if system.names else str(j + 1)
            for j in constant
            if statistics and statistics.gram[[0, j + 1], j + 1].any()
        ]
        if said:
            warnings.warn(
                f"columns {', '.join(said)} (counted from 1) are constant, or vary by less than the digits of their "
                "bounds: they have weight 0",
                ColumnWarning,
                stacklevel=5,
            )

    # ---- an analysis out of the sum ----

    @property
    def moments_(self) -> Moments:
        """Means and covariances of the pooled rows, in the columns' own units.

        Raises `DataError` if there is no exact sum: before `fit`, under differential privacy, or where key holders
        released only weights.
        """
        return self._moments(getattr(self, "_kept", None))

    def _moments(self, kept: Kept | None) -> Moments:
        statistics = None if kept is None or self.privacy else kept.statistics()
        if kept is None or statistics is None:
            raise DataError("expected an exact sum to analyse, got none: fit first, without privacy")
        system, targets = kept.agreed.system, kept.agreed.targets
        if targets.one_hot:
            statistics = replace(statistics, squares=np.diag(statistics.cross[0]))
        elif not targets.width:
            statistics = replace(statistics, squares=np.zeros((0, 0)))
        return Moments.of(
            statistics,
            self._scaling(len(statistics.gram) - 1),
            targets.scaling,
            features=system.names,
            outputs=targets.names,
            entry_error=kept.entry_error,
            column=system.column,
            weighted=system.weighted,
            indicators=system.indicators,
        )

    def describe(self, least_rows: int = 5) -> Description:
        """Table 1 of the pooled rows, see `secure_afl.analytic.description.describe`."""
        targets = self._kept.agreed.targets if hasattr(self, "_kept") else NO_TARGETS
        return describe(self.moments_, classes=targets.one_hot, least_rows=least_rows)

    def components(self, number: int | None = None, *, standardise: bool = False) -> Components:
        """Principal components of the pooled rows, see `secure_afl.analytic.components.principal_components`."""
        return principal_components(self.moments_, number, standardise=standardise)

    def inference(self, log_weights: float | None = None) -> Regression:
        """Least squares, without a penalty: coefficients with standard errors, tests and intervals, see
        `secure_afl.analytic.inference.least_squares`. Raises `SolveError` where columns depend on each other.
        """
        return least_squares(self.moments_, log_weights=log_weights)

    def path(self, ridges: npt.ArrayLike = RIDGES) -> Path:
        """Residuals, degrees of freedom and generalised cross-validation for each ridge, see
        `secure_afl.analytic.path`.
        """
        penalties = np.atleast_1d(np.asarray(ridges, dtype=np.float64))
        if penalties.ndim != 1 or not len(penalties) or not ((penalties >= 0) & (penalties <= 2.0**64)).all():
            raise DataError("expected ridges from 0 to 2^64, at least one")
        moments = self.moments_
        used = moments.used
        deviations = np.sqrt(moments.scatter.diagonal()[used] / moments.weight)
        cross = moments.cross[used] / deviations[:, None] / moments.weight
        variances = moments.target_scatter.diagonal() / moments.weight
        return path(moments.correlation, cross, variances, moments.rows, penalties)


def split_rounds(rows: dict[str, Places], rounds: int) -> list[dict[str, Places]]:
    """Row numbers of each site in each round: its rows in their order, in equal waves."""
    waves = {name: np.array_split(mine, rounds) for name, mine in rows.items()}
    return [{name: wave[r] for name, wave in waves.items()} for r in range(rounds)]
