"""A ridge classifier that several parties learn from sums of their statistics, in scikit-learn's manner."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from secure_afl.analytic.privacy import Privacy, client_noise, shortened
from secure_afl.analytic.solve import Solution
from secure_afl.analytic.statistics import PublicBounds, SufficientStatistics, added, gamma
from secure_afl.crypto.noise import Noise
from secure_afl.errors import ColumnWarning, DataError, SolveError
from secure_afl.models.estimator import (
    FederatedClassifier,
    Rows,
    feature_names,
    parse_features,
    parse_integer,
    parse_penalty,
    parse_real,
    parse_rows,
)
from secure_afl.protocol.session.errors import RoundAbortedError
from secure_afl.protocol.session.parameters import RidgeSystem, SumPlan
from secure_afl.protocol.transport.driver import Contribution
from secure_afl.sums.aggregation import Aggregate, Aggregator, Outcome, solved, warn_of_dropouts

# Of a row's bound, what stands in the column of ones under differential privacy: as a 1 it would move the sums by more
# than small rows do.
_INTERCEPT = 0.25
# What a sum of all clients needs in bits at most, in fixed point: words of 8 bytes and every encryption with exact sums
# hold it.
_SUM_BITS = 58
_TINY = 2.0**-20
Floats = npt.NDArray[np.float64]


class FederatedRidge(FederatedClassifier):
    """One linear classifier for several sites; under masks no site's Gram is seen by anybody else.

    Least squares on one-hot labels with a free intercept and a penalty on the weights of standardised columns: the model
    of scikit-learn's `make_pipeline(StandardScaler(), Ridge(alpha=ridge * rows))` on the pooled rows. It does not depend
    on the units and the origins of columns. Analytic federated learning with one layer (AFL, He et al., CVPR 2025). The
    sums go through `aggregator`.

    Parameters
    ----------
    row_norm : float, optional
        Public bound on the Euclidean norm of a row of X; agreed on before anybody reads data.
    column_bounds : array-like of shape (features,) or (features, 2), optional
        Public bounds of each column of X in place of row_norm: a bound on its magnitude, or a range (low, high). A range
        is mapped to within [-1, 1], a magnitude divided by the least power of two that is no smaller. For a column far
        from 0 (years, dates, kelvin) give a range: else its digits are spent on the distance from 0.
        With `privacy` both may be given: row_norm is then of rows of such columns, and √features without it.
    ridge : float, default=1e-3
        Penalty, in parts of the number of rows, on squared weights of columns of variance 1. With `privacy` the penalty
        is ridge times the mean diagonal entry of the Gram matrix, intercept included, as means and variances of a noisy
        sum are too uncertain to standardise by.
    classes : sequence, optional
        All labels there can be, agreed on; None takes those in `y`, which only a simulation can see, and not with
        `privacy`.
    max_rows : int, default=65536
        Public bound on the rows of one site in one round.
    data_set : str, default="data"
        What the owners call these rows. A data set serves one session: a second `fit` is refused, as the difference of
        the two sums could expose what changed. Another penalty needs no second session, see `refit`; new rows have a
        name of their own; `MaskedAggregator.renew` overrides.
    rounds : int, default=1
        Secure sums to split the rows into, in the order they come (records that arrive in waves).
    privacy : Privacy, optional
        (ε, δ) for every record, by noise that the clients add; see docs/privacy.md. Rows over the bounds are then made
        as short as they allow, here and in predictions, since to refuse one would tell something about it. The
        certificate is of the noisy sum and says nothing about the model without noise.
    aggregator : Aggregator, optional
        None masks the sums under the default policy. It holds the clients' ledgers: with None they live as long as this
        estimator, so give one aggregator to estimators that share data.

    Attributes
    ----------
    classes_ : ndarray of shape (classes,)
    coef_ : ndarray of shape (classes, features)
    intercept_ : ndarray of shape (classes,)
    weights_ : ndarray of shape (1 + features, classes)
        Of centred and scaled columns (`column_bounds`), the intercept first; with `privacy` that row is of a column of
        row_norm / 4 in place of ones.
    constant_ : ndarray of int
        Features that cannot be told from constant ones; their weights are 0.
    certificate_ : Certificate
        Proof of how far weights_ can be from those of the survivors' pooled rows.
    statistics_ : SufficientStatistics or None
        The aggregated statistics, None where key holders released only the weights.
    rounds_ : list of Outcome
        One for each round; an `Aggregate` where the sum was released.
    privacy_ : Privacy or None
        The privacy used in training.
    n_features_in_, feature_names_in_
        As in scikit-learn; other columns, and these in another order, are refused.
    """

    def __init__(
        self,
        row_norm: float | None = None,
        *,
        column_bounds: npt.ArrayLike | Sequence[float | tuple[float, float]] | None = None,
        ridge: float = 1e-3,
        classes: Sequence[Any] | None = None,
        max_rows: int = 2**16,
        data_set: str = "data",
        rounds: int = 1,
        privacy: Privacy | None = None,
        aggregator: Aggregator | None = None,
    ) -> None:
        self.row_norm = row_norm
        self.column_bounds = column_bounds
        self.ridge = ridge
        self.classes = classes
        self.max_rows = max_rows
        self.data_set = data_set
        self.rounds = rounds
        self.privacy = privacy
        self.aggregator = aggregator

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike, site: npt.ArrayLike) -> "FederatedRidge":
        """Learn from X (rows, features), y (rows,) and the name of each row's site (rows,).

        All parameters and rows are checked before a session begins. Warns (`DropoutWarning`) if a sum is without some
        sites, and (`ColumnWarning`) of constant columns. Raises `DataError` for rows or
        parameters that do not fit, `PolicyError` and `RoundAbortedError` from the aggregator: the model is then the one
        from before. Raises `SolveError` if the sum gives no guaranteed solution: there is no model then, but the sum is
        kept, and `refit` can solve it with a larger penalty.
        """
        if self.privacy and self.classes is None:
            raise DataError(
                "expected classes that were agreed on with privacy, got none: labels tell of rows"
            )
        names = feature_names(X)
        parsed = self._scaled(parse_rows(X, y, self.classes, site))
        agreed = self._agreed(parsed.X.shape[1] if names is None else tuple(names), parsed.classes)
        rounds = parse_integer("rounds", self.rounds)
        # Every site's rows are checked before the first message leaves.
        vectors = {
            name: [self._vector(name, parsed, rows, agreed.bounds, r) for r in range(rounds)]
            for name, rows in parsed.sites.items()
        }
        contributions = [
            {name: (own[r], self.data_set) for name, own in vectors.items()} for r in range(rounds)
        ]
        self._fit(list(vectors), agreed, contributions)
        return self

    def fit_elsewhere(self, clients: Sequence[str], features: int | Sequence[str]) -> "FederatedRidge":
        """The server's side of `fit` where the rows are with their owners, and the aggregator reaches these: it
        learns from what `vectors` gives there. `classes` must be given. Warns and raises as `fit` does.

        features: how many there are, or their names.
        """
        self._fit(
            clients,
            self._agreed(features, self._known_classes()),
            [{}] * parse_integer("rounds", self.rounds),
        )
        return self

    def vectors(self, X: npt.ArrayLike, y: npt.ArrayLike, who: str) -> list[Floats]:
        """One site's side of `fit`: what it puts into each sum. Raises `DataError` that names `who`."""
        return [self.vector(X, y, who, r) for r in range(parse_integer("rounds", self.rounds))]

    def vector(self, X: npt.ArrayLike, y: npt.ArrayLike, who: str, number: int) -> Floats:
        """What one site puts into the sum of that number, from 0. Raises `DataError` that names `who`."""
        features = parse_features(X)
        agreed = self._agreed(features.shape[1], self._known_classes())
        parsed = self._scaled(parse_rows(features, y, self.classes, np.full(len(features), who)))
        return self._vector(who, parsed, np.arange(len(features)), agreed.bounds, number)

    def plan(self, features: int | Sequence[str], clients: int) -> list[SumPlan]:
        """The sums that both sides agree on. `classes` must be given."""
        return self._plan(self._agreed(features, self._known_classes()), clients)

    def refit(self, ridge: float | None = None) -> "FederatedRidge":
        """Solve the sum of the last `fit` again, with another penalty: no session, nobody is asked.

        ridge: the new penalty, which becomes the parameter if it gives a solution; None takes the parameter.
        Raises `DataError` if there is no sum (before `fit`, or where key holders released only weights), `SolveError` if
        this one gives no guaranteed solution either.
        """
        kept = getattr(self, "_kept", None)
        if kept is None:
            raise DataError(
                "expected the sum of an earlier fit, got none: fit first, with an aggregator that releases sums"
            )
        penalty = parse_penalty(self.ridge if ridge is None else ridge)
        self._learn(kept, kept.solved(penalty))
        self.ridge = penalty
        return self

    def _known_classes(self) -> npt.NDArray[Any]:
        if self.classes is None:
            raise DataError("expected classes that were agreed on, got none: no party sees all labels")
        return parse_rows(np.zeros((0, 1)), np.asarray(self.classes)[:0], self.classes).classes

    def _agreed(self, features: int | Sequence[str], classes: npt.NDArray[Any]) -> "_Agreed":
        """Raises `DataError` for parameters that do not fit."""
        names = () if isinstance(features, int) else tuple(features)
        width = features if isinstance(features, int) else len(names)
        bounds = self.bounds(width, len(classes))
        system = RidgeSystem(
            bounds.features,
            bounds.outputs,
            parse_penalty(self.ridge),
            rows=bounds.rows,
            standardised=self.privacy is None,
            column=1.0 if self.row_norm is None else self._row_norm(width),
            names=names,
        )
        return _Agreed(bounds, system, classes)

    def _plan(self, agreed: "_Agreed", clients: int) -> list[SumPlan]:
        rounds = parse_integer("rounds", self.rounds)
        bounds = agreed.bounds
        survivors, noise = 0, None
        # As many digits as 8 bytes hold, and as every encryption with exact sums does: centring a Gram matrix needs them.
        fraction_bits = max(32, _SUM_BITS - math.frexp(clients * bounds.magnitude)[1])
        if self.privacy:
            fraction_bits = 32  # the rest is noise
            survivors = self.privacy.survivors(clients)
            # Which rows a wave has depends on those before them, so a record counts in all waves. One-hot rows have
            # norm 1.
            noise = client_noise(
                self.privacy,
                bounds,
                clients=clients,
                survivors=survivors,
                colluders=self.privacy.colluders(clients),
                sums=rounds,
                target_norm=1.0,
                waves=rounds > 1,
            )
        return [
            SumPlan(
                f"ridge statistics {r + 1} of {rounds}",
                bounds.length,
                bounds.magnitude,
                fraction_bits,
                survivors=survivors,
                # Of several waves only the sum of their sums is a system.
                system=agreed.system if rounds == 1 else None,
                noise=noise,
            )
            for r in range(rounds)
        ]

    def _vector(
        self, who: str, parsed: Rows, rows: npt.NDArray[np.intp], bounds: PublicBounds, number: int
    ) -> Floats:
        """What one of equal waves of a site's rows, in their order, puts into its sum."""
        waves = split_rounds({who: rows}, parse_integer("rounds", self.rounds))
        return self._statistics(who, parsed, waves[number][who], bounds).pack()

    def _fit(
        self,
        clients: Sequence[str],
        agreed: "_Agreed",
        contributions: Sequence[Mapping[str, Contribution]],
    ) -> None:
        aggregator, plan = self._ask(), self._plan(agreed, len(clients))
        try:
            aggregator.open(clients, plan)
            if len(plan) == 1:
                try:
                    solution, outcome = aggregator.solve(0, contributions[0])
                except SolveError as error:
                    if isinstance(error.outcome, Aggregate):
                        self._keep(_Kept(agreed, [error.outcome], plan[0].noise))
                    raise
                kept = _Kept(agreed, [outcome], plan[0].noise)
            else:
                kept = _Kept(
                    agreed, [aggregator.sum(r, contributions[r]) for r in range(len(plan))], plan[0].noise
                )
                try:
                    solution = kept.solved(agreed.system.ridge)
                except SolveError:
                    self._keep(kept)
                    raise
        except RoundAbortedError as error:
            if hasattr(self, "_kept"):
                error.add_note(
                    "the sum of the fit before is kept: refit(ridge=…) solves it again without a session"
                )
            raise
        self._learn(kept, solution)
        warn_of_dropouts(clients, self.rounds_)

    def _keep(self, kept: "_Kept") -> None:
        """A sum without a solution, and no model."""
        for name in ("classes_", "weights_", "coef_", "intercept_", "certificate_", "constant_"):
            self.__dict__.pop(name, None)
        self._kept = kept
        self.rounds_ = kept.outcomes
        self.statistics_ = kept.statistics()

    def fit_pooled(self, X: npt.ArrayLike, y: npt.ArrayLike) -> "FederatedRidge":
        """The same model from rows that lie in one place, without any aggregator: the reference, without noise."""
        names = feature_names(X)
        parsed = self._scaled(parse_rows(X, y, self.classes))
        agreed = self._agreed(parsed.X.shape[1] if names is None else tuple(names), parsed.classes)
        bounds = replace(agreed.bounds, rows=max(1, len(parsed.X)))
        statistics = self._statistics("the pooled data", parsed, np.arange(len(parsed.X)), bounds)
        solution = solved(agreed.system, statistics.pack(), 0.0, 1)
        self._learn(_Kept(agreed, [], None), solution)
        del self._kept  # there is no sum
        return self

    def bounds(self, features: int, classes: int) -> PublicBounds:
        """The public bounds of one site's statistics, the intercept's column included."""
        self._check_privacy()
        columns, row_norm = self._columns(features), self._row_norm(features)
        # Rounding may leave a row longer than `shortened` was told; nothing may refuse it then.
        roundings = gamma(3 * features + 64) if self.privacy else 2.0**-50
        whole = float(np.hypot(row_norm, self._one(features))) * (1 + roundings)
        most = parse_integer("max_rows", self.max_rows)
        if self.privacy:
            return PublicBounds(features + 1, classes, whole, most)
        column = 1.0 if columns else max(1.0, row_norm) * (1 + 2.0**-40)
        return PublicBounds(features + 1, classes, whole, most, column=column)

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

    def decision_function(self, X: npt.ArrayLike) -> Floats:
        """Scores (rows, classes)."""
        return np.asarray(self.rows(self._features(X)) @ self.weights_)

    def rows(self, X: Floats) -> Floats:
        """Finite X (rows, features) as what `weights_` are multiplied with, the intercept's column first."""
        columns = self._columns(X.shape[1])
        scaled = self._short(X) if self.privacy else columns.scaled(X) if columns else X
        return np.column_stack([np.full(len(X), self._one(X.shape[1])), scaled])

    def _scaled(self, parsed: Rows) -> Rows:
        """The rows in the units that sums are of. Raises `DataError` for rows over the columns' bounds."""
        columns = self._columns(parsed.X.shape[1])
        if self.privacy:
            if not np.isfinite(parsed.X).all():
                raise DataError("expected finite X, got NaN or infinity")
            return replace(parsed, X=self._short(parsed.X))
        if columns is None:
            return parsed
        over = ~((columns.low <= parsed.X) & (columns.high >= parsed.X))  # NaN is over, too
        for who, rows in parsed.sites.items():
            if (wrong := np.argwhere(over[rows])).size:
                row, column = wrong[0].tolist()
                raise DataError(
                    f"{who}: expected finite X within its column's bound, it is not in row {row}, column {column}"
                )
        scaled = columns.scaled(parsed.X)
        peaks = abs(scaled).max(axis=0, initial=0.0)
        if tiny := np.flatnonzero((peaks > 0) & (peaks < _TINY)).tolist():
            warnings.warn(
                f"columns {', '.join(str(j + 1) for j in tiny)} (counted from 1): no value is as large as a millionth of "
                "its column's bound, so most digits are lost; agree on a bound in the values' unit",
                ColumnWarning,
                stacklevel=3,
            )
        return replace(parsed, X=scaled)

    def _short(self, X: Floats) -> Floats:
        """Finite rows in the units that sums are of, none longer than its bound; each depends on itself alone."""
        columns, shift = self._columns(X.shape[1]), np.zeros(X.shape[1], dtype=np.int64)
        if columns:
            X = np.where(abs(X) < 2.0**1000, X - columns.centre, X)
            shift = columns.exponents
        mantissas, exponents = np.frexp(X)
        exponents = exponents - shift
        # What overflows in its column's units would refuse the row; halved so often, it is still far too long.
        excess = np.maximum(exponents.max(axis=1, initial=0) - 1000, 0)
        return shortened(np.ldexp(mantissas, exponents - excess[:, None]), self._row_norm(X.shape[1]))[0]

    def _columns(self, features: int) -> "_Columns | None":
        """The columns' own bounds, if those were agreed on."""
        if self.row_norm is None and self.column_bounds is None:
            raise DataError("expected either row_norm or column_bounds, got none")
        if self.row_norm is not None and self.column_bounds is not None and not self.privacy:
            raise DataError("expected either row_norm or column_bounds, got both")
        return None if self.column_bounds is None else _Columns.parse(self.column_bounds, features)

    def _statistics(
        self, who: str, parsed: Rows, rows: npt.NDArray[np.intp], bounds: PublicBounds
    ) -> SufficientStatistics:
        one_hot = (parsed.places[rows, None] == np.arange(len(parsed.classes))).astype(np.float64)
        ones = np.full(len(rows), self._one(parsed.X.shape[1]))
        with_ones = np.column_stack([ones, parsed.X[rows]])
        return SufficientStatistics.from_rows(with_ones, one_hot, bounds, who=who)

    def _learn(self, kept: "_Kept", solution: Solution) -> None:
        # All or nothing: whatever was refused before leaves the model as it was.
        system, features = kept.agreed.system, len(solution.weights) - 1
        columns = self._columns(features)
        self.classes_ = kept.agreed.classes
        self.privacy_ = self.privacy
        self.rounds_ = kept.outcomes
        self.statistics_ = solution.statistics
        self.weights_ = solution.weights
        # A column's weight in its own units.
        self.coef_ = (
            np.ldexp(solution.weights[1:].T, -columns.exponents) if columns else solution.weights[1:].T.copy()
        )
        self.intercept_ = solution.weights[0] * self._one(features)
        if columns:
            self.intercept_ = self.intercept_ - self.coef_ @ columns.centre
        self.constant_ = np.array([j - 1 for j in solution.constant], dtype=np.intp)
        self.certificate_ = solution.certificate
        self.n_features_in_ = features
        self.__dict__.pop("feature_names_in_", None)
        if system.names:
            self.feature_names_in_ = np.array(system.names, dtype=object)
        self._kept = kept
        said = [
            # A column of zeros is no surprise: a level that nobody has, the border of an image.
            repr(system.names[j - 1]) if system.names else str(j)
            for j in solution.constant
            if kept.outcomes and solution.statistics and solution.statistics.gram[[0, j], j].any()
        ]
        if said:
            warnings.warn(
                f"columns {', '.join(said)} (counted from 1) are constant, or vary by less than the digits of their "
                "bounds: they have weight 0",
                ColumnWarning,
                stacklevel=4,
            )


@dataclass(frozen=True, eq=False)
class _Columns:
    """What is agreed on columns: low, high: their ranges; a value x becomes (x − centre)·2^−exponent, within [−1, 1]."""

    low: Floats
    high: Floats
    centre: Floats
    exponents: npt.NDArray[np.int64]

    @classmethod
    def parse(cls, given: Any, features: int) -> "_Columns":
        """Of magnitudes and ranges (low, high). Raises `DataError`."""
        try:
            entries = [np.atleast_1d(np.asarray(one, dtype=np.float64)) for one in given]
        except (TypeError, ValueError):
            entries = []
        if len(entries) != features or any(one.shape not in ((1,), (2,)) for one in entries):
            raise DataError(
                f"expected column_bounds as {features} numbers above 0 or ranges (low, high), got "
                f"{len(entries)} or others"
            )
        low = np.array([-one[0] if len(one) == 1 else one[0] for one in entries])
        high = np.array([one[-1] for one in entries])
        with np.errstate(over="ignore", invalid="ignore"):
            centre = (low + high) / 2
            # The rounded difference grows with the value, so no value of the range is farther from the centre.
            half = np.maximum(high - centre, centre - low)
        wrong = ~((low < high) & (half > 2.0**-400) & (np.maximum(abs(low), abs(high)) < 2.0**400))
        if wrong.any():
            raise DataError(
                f"expected column_bounds as {features} numbers above 0 or ranges (low, high), the bound of column "
                f"{int(wrong.argmax()) + 1} is none"
            )
        mantissas, exponents = np.frexp(half)
        return cls(low, high, centre, np.where(mantissas == 0.5, exponents - 1, exponents).astype(np.int64))

    def scaled(self, X: Floats) -> Floats:
        return np.asarray(np.ldexp(X - self.centre, -self.exponents))


@dataclass(frozen=True, eq=False)
class _Agreed:
    """What the parties agree on, from the parameters alone."""

    bounds: PublicBounds
    system: RidgeSystem
    classes: npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class _Kept:
    """The sums of a session, which can be solved again."""

    agreed: _Agreed
    outcomes: list[Outcome]
    noise: Noise | None

    def solved(self, ridge: float) -> Solution:
        """The model of all waves. Raises `SolveError`, and `DataError` without sums."""
        sums = self._sums()
        return solved(
            replace(self.agreed.system, ridge=ridge),
            added(one.total for one in sums),
            math.fsum(one.entry_error for one in sums),
            sum(len(one.survivors) for one in sums),
            self.noise,
        )

    def statistics(self) -> SufficientStatistics | None:
        """As they were summed; None with noise."""
        sums = self._sums()
        error = math.fsum(one.entry_error for one in sums)
        if self.noise:
            return None
        return SufficientStatistics.unpack(
            added(one.total for one in sums), self.agreed.system, entry_error=error
        )

    def _sums(self) -> list[Aggregate]:
        sums = [one for one in self.outcomes if isinstance(one, Aggregate)]
        if not sums:
            raise DataError("expected sums that were released, got none: key holders gave the weights alone")
        return sums


def split_rounds(rows: dict[str, npt.NDArray[np.intp]], rounds: int) -> list[dict[str, npt.NDArray[np.intp]]]:
    """For each round, the row numbers of each site: its rows in their order, in equal waves."""
    waves = {name: np.array_split(mine, rounds) for name, mine in rows.items()}
    return [{name: wave[r] for name, wave in waves.items()} for r in range(rounds)]
