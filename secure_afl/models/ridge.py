"""A ridge classifier that several parties learn from sums of their statistics, in scikit-learn's manner."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from secure_afl.analytic.privacy import Privacy, client_noise, regularise, shortened
from secure_afl.analytic.solve import Solution, solve
from secure_afl.analytic.statistics import PublicBounds, SufficientStatistics, gamma
from secure_afl.errors import DataError
from secure_afl.models.estimator import (
    FederatedClassifier,
    Rows,
    parse_features,
    parse_integer,
    parse_real,
    parse_rows,
)
from secure_afl.protocol.session.parameters import RidgeSystem, SumPlan
from secure_afl.protocol.transport.driver import Contribution
from secure_afl.sums.aggregation import Aggregate, Aggregator, Outcome, warn_of_dropouts

# Of a row's bound, what stands in the column of ones under differential privacy: as a 1 it would move the sums by more
# than small rows do.
_INTERCEPT = 0.25


class FederatedRidge(FederatedClassifier):
    """One linear classifier for several sites; under masks no site's Gram is seen by anybody else.

    Least squares on one-hot labels with an intercept and the penalty ridge·trace(G)/d, the one-layer case
    of analytic federated learning (AFL, He et al., CVPR 2025). The sums go through `aggregator`.

    Parameters
    ----------
    row_norm : public bound on the Euclidean norm of a row of X; agreed on before anybody reads data.
    column_bounds : public bounds on the magnitude of each column of X, instead of row_norm, for columns in units of
        their own. A column is divided by the least power of two that is no smaller, which is exact; sums,
        penalty and certificate are of these columns. On badly scaled ones that is worth digits of the model.
        With `privacy` both may be given: row_norm is then of rows of such columns, and √d without it.
    ridge : penalty relative to the mean diagonal entry of the aggregated Gram matrix.
    classes : all labels there can be, agreed on; None takes those in `y`, which only a simulation can see, and not
        with `privacy`.
    max_rows : public bound on the rows of one site in one round.
    data_set : what the owners call these rows. A data set serves one session: a second `fit` is refused, as
        the difference of the two sums could expose what changed. Another penalty needs no second fit, see
        `statistics_`; new rows have a name of their own; `MaskedAggregator.renew` overrides.
    rounds : secure sums to split the rows into, in the order they come (records that arrive in waves).
    privacy : (ε, δ) for every record, by noise that the clients add; see docs/privacy.md. Rows over the bounds are then
        made as short as they allow, here and in predictions, since to refuse one would tell something about it. The
        certificate is of the noisy sum and says nothing about the model without noise.
    aggregator : an `Aggregator`; None masks the sums under the default policy. It holds the clients' ledgers:
        with None they live as long as this estimator, so give one aggregator to estimators that share data.

    Attributes
    ----------
    privacy_ : that it was learned with; classes_ : labels; coef_ (classes, features) and intercept_ (classes,): the model.
    weights_ : (1 + features, classes), first row the intercept, of scaled columns (`column_bounds`); with `privacy`
        the first row is of a column of row_norm / 4 in place of ones.
    certificate_ : proof of how far weights_ can be from those of the survivors' pooled rows.
    statistics_ : the aggregated statistics, None where key holders released only the weights.
    rounds_ : a list of `Outcome`, one for each round; an `Aggregate` where the sum was released.
    """

    def __init__(
        self,
        row_norm: float | None = None,
        *,
        column_bounds: npt.ArrayLike | None = None,
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

        Warns (`DropoutWarning`) if a sum is without some sites. Raises `DataError` for rows that do not fit
        the bounds, `PolicyError` and `RoundAbortedError` from the aggregator, `SolveError` if the sum gives no
        guaranteed solution; the model is then the one from before.
        """
        if self.privacy and self.classes is None:
            raise DataError(
                "expected classes that were agreed on with privacy, got none: labels tell of rows"
            )
        parsed = self._scaled(parse_rows(X, y, self.classes, site))
        bounds = self.bounds(parsed.X.shape[1], len(parsed.classes))
        rounds = parse_integer("rounds", self.rounds)
        # Every site's rows are checked before the first message leaves.
        vectors = {name: self._vectors(name, parsed, rows, bounds) for name, rows in parsed.sites.items()}
        contributions = [
            {name: (own[r], self.data_set) for name, own in vectors.items()} for r in range(rounds)
        ]
        self._fit(list(vectors), bounds, parsed.classes, contributions)
        warn_of_dropouts(list(vectors), self.rounds_)
        return self

    def fit_elsewhere(self, clients: Sequence[str], features: int) -> "FederatedRidge":
        """The server's side of `fit` where the rows are with their owners, and the aggregator reaches these: it
        learns from what `vectors` gives there. `classes` must be given. Warns and raises as `fit` does.
        """
        rounds = parse_integer("rounds", self.rounds)
        self._fit(clients, *self._agreed(features), [{}] * rounds)
        warn_of_dropouts(clients, self.rounds_)
        return self

    def vectors(self, X: npt.ArrayLike, y: npt.ArrayLike, who: str) -> list[npt.NDArray[np.float64]]:
        """One site's side of `fit`: what it puts into each sum. Raises `DataError` that names `who`."""
        features = parse_features(X)
        parsed = self._scaled(parse_rows(features, y, self.classes, np.full(len(features), who)))
        bounds, _ = self._agreed(features.shape[1])
        return self._vectors(who, parsed, np.arange(len(features)), bounds)

    def plan(self, features: int, clients: int) -> list[SumPlan]:
        """The sums that both sides agree on. `classes` must be given."""
        return self._plan(self._agreed(features)[0], clients)

    def _agreed(self, features: int) -> tuple[PublicBounds, npt.NDArray[Any]]:
        if self.classes is None:
            raise DataError("expected classes that were agreed on, got none: no party sees all labels")
        self._exponents(features)  # raises for bounds that do not fit
        classes = parse_rows(np.zeros((0, features)), np.asarray(self.classes)[:0], self.classes).classes
        return self.bounds(features, len(classes)), classes

    def _plan(self, bounds: PublicBounds, clients: int) -> list[SumPlan]:
        rounds = parse_integer("rounds", self.rounds)
        # Of several waves only the sum of their sums is a system.
        system = RidgeSystem(
            bounds.features, bounds.outputs, parse_real("ridge", self.ridge), rows=bounds.rows
        )
        survivors, noise = 0, None
        if self.privacy:
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
                survivors=survivors,
                system=system if rounds == 1 else None,
                noise=noise,
            )
            for r in range(rounds)
        ]

    def _vectors(
        self, who: str, parsed: Rows, rows: npt.NDArray[np.intp], bounds: PublicBounds
    ) -> list[npt.NDArray[np.float64]]:
        """A site's rows in their order, in equal waves, one for each sum."""
        waves = split_rounds({who: rows}, parse_integer("rounds", self.rounds))
        return [self._statistics(who, parsed, wave[who], bounds).pack() for wave in waves]

    def _fit(
        self,
        clients: Sequence[str],
        bounds: PublicBounds,
        classes: npt.NDArray[Any],
        contributions: Sequence[Mapping[str, Contribution]],
    ) -> None:
        aggregator, plan = self._ask(), self._plan(bounds, len(clients))
        aggregator.open(clients, plan)
        outcomes: list[Outcome] = []
        if len(plan) == 1:
            solution, outcome = aggregator.solve(0, contributions[0])
            outcomes.append(outcome)
        else:
            outcomes += [aggregator.sum(r, contributions[r]) for r in range(len(plan))]
        ridge = parse_real("ridge", self.ridge)
        released = [one for one in outcomes if isinstance(one, Aggregate)]
        statistics = self._pooled(bounds, plan, released, ridge) if released else None
        if len(plan) > 1:
            assert statistics is not None
            entry_error = sum(one.entry_error for one in outcomes)
            # Noisy statistics have their penalty already.
            solution = solve(statistics, ridge=0.0 if self.privacy else ridge, entry_error=entry_error)
        self._learn(solution, statistics, classes, outcomes)

    def _pooled(
        self, bounds: PublicBounds, plan: Sequence[SumPlan], sums: Sequence[Aggregate], ridge: float
    ) -> SufficientStatistics:
        """The statistics of all waves."""
        if noise := plan[0].noise:
            total = np.sum([one.total for one in sums], axis=0)
            survivors = sum(len(one.survivors) for one in sums)
            return regularise(total, bounds, noise, survivors=survivors, ridge=ridge).statistics
        parts = [SufficientStatistics.unpack(one.total, bounds, entry_error=one.entry_error) for one in sums]
        return sum(parts[1:], start=parts[0])

    def fit_pooled(self, X: npt.ArrayLike, y: npt.ArrayLike) -> "FederatedRidge":
        """The same model from rows that lie in one place, without any aggregator: the reference, without noise."""
        parsed = self._scaled(parse_rows(X, y, self.classes))
        bounds = self.bounds(parsed.X.shape[1], len(parsed.classes), rows=len(parsed.X))
        everything = np.arange(len(parsed.X))
        statistics = self._statistics("the pooled data", parsed, everything, bounds)
        self._learn(solve(statistics, ridge=parse_real("ridge", self.ridge)), statistics, parsed.classes, [])
        return self

    def bounds(self, features: int, classes: int, rows: int | None = None) -> PublicBounds:
        """The public bounds of one site's statistics, the intercept's column included."""
        self._check_privacy()
        row_norm = self._row_norm(features)
        most = parse_integer("max_rows", self.max_rows) if rows is None else rows
        # Rounding may leave a row longer than `shortened` was told; nothing may refuse it then.
        roundings = gamma(3 * features + 64) if self.privacy else 2.0**-50
        whole = float(np.hypot(row_norm, self._one(features))) * (1 + roundings)
        return PublicBounds(features + 1, classes, whole, most)

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

    def decision_function(self, X: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Scores (rows, classes)."""
        self._check_learned()
        features = parse_features(X)
        if features.shape[1] != self.coef_.shape[1]:
            raise DataError(f"expected X of shape (rows, {self.coef_.shape[1]}), got {features.shape}")
        if not np.isfinite(features).all():
            raise DataError("expected finite features, got NaN or infinity")
        if self.privacy:  # as the rows were that it learned from
            return np.asarray(self._short(features) @ self.weights_[1:] + self.intercept_)
        scores: npt.NDArray[np.float64] = features @ self.coef_.T + self.intercept_
        return scores

    def rows(self, X: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Finite X (rows, features) as what `weights_` are multiplied with, the intercept's column first."""
        scaled = self._short(X) if self.privacy else np.ldexp(X, -self._exponents(X.shape[1]))
        return np.column_stack([np.full(len(X), self._one(X.shape[1])), scaled])

    def _scaled(self, parsed: Rows) -> Rows:
        """The rows in the units that sums are of. Raises `DataError` for rows over the columns' bounds."""
        exponents = self._exponents(parsed.X.shape[1])
        if self.column_bounds is None and not self.privacy:
            return parsed
        if self.privacy:
            if not np.isfinite(parsed.X).all():
                raise DataError("expected finite X, got NaN or infinity")
            return replace(parsed, X=self._short(parsed.X))
        columns = np.ldexp(parsed.X, -exponents)
        over = ~(np.abs(parsed.X) <= np.asarray(self.column_bounds, dtype=np.float64))  # NaN is over, too
        for who, rows in parsed.sites.items():
            if (wrong := np.argwhere(over[rows])).size:
                row, column = wrong[0].tolist()
                raise DataError(
                    f"{who}: expected finite X within its column's bound, it is not in row {row}, column {column}"
                )
        return replace(parsed, X=columns)

    def _short(self, X: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Finite rows in the units that sums are of, none longer than its bound; each depends on itself alone."""
        mantissas, exponents = np.frexp(X)
        exponents = exponents - self._exponents(X.shape[1])
        # What overflows in its column's units would refuse the row; halved so often, it is still far too long.
        excess = np.maximum(exponents.max(axis=1, initial=0) - 1000, 0)
        return shortened(np.ldexp(mantissas, exponents - excess[:, None]), self._row_norm(X.shape[1]))[0]

    def _exponents(self, features: int) -> npt.NDArray[np.int64]:
        """By which power of two each column is divided."""
        if self.row_norm is None and self.column_bounds is None:
            raise DataError("expected either row_norm or column_bounds, got none")
        if self.row_norm is not None and self.column_bounds is not None and not self.privacy:
            raise DataError("expected either row_norm or column_bounds, got both")
        if self.column_bounds is None:
            return np.zeros(features, dtype=np.int64)
        bounds = np.asarray(self.column_bounds, dtype=np.float64)
        if bounds.shape != (features,) or not ((bounds > 2.0**-400) & (bounds < 2.0**400)).all():
            raise DataError(
                f"expected column_bounds as {features} numbers above 0, got shape {bounds.shape} or others"
            )
        mantissas, exponents = np.frexp(bounds)
        return np.where(mantissas == 0.5, exponents - 1, exponents).astype(np.int64)

    def _statistics(
        self, who: str, parsed: Rows, rows: npt.NDArray[np.intp], bounds: PublicBounds
    ) -> SufficientStatistics:
        one_hot = (parsed.places[rows, None] == np.arange(len(parsed.classes))).astype(np.float64)
        ones = np.full(len(rows), self._one(parsed.X.shape[1]))
        with_ones = np.column_stack([ones, parsed.X[rows]])
        return SufficientStatistics.from_rows(with_ones, one_hot, bounds, who=who)

    def _learn(
        self,
        solution: Solution,
        statistics: SufficientStatistics | None,
        classes: npt.NDArray[Any],
        outcomes: list[Outcome],
    ) -> None:
        # All or nothing: whatever was refused before leaves the model as it was.
        self.classes_ = classes
        self.privacy_ = self.privacy
        self.rounds_ = outcomes
        self.statistics_ = statistics
        self.weights_ = solution.weights
        self.intercept_ = solution.weights[0] * self._one(len(solution.weights) - 1)
        # A column's weight in its own units.
        self.coef_ = np.ldexp(solution.weights[1:].T, -self._exponents(len(solution.weights) - 1))
        self.certificate_ = solution.certificate
        self.n_features_in_ = len(solution.weights) - 1


def split_rounds(rows: dict[str, npt.NDArray[np.intp]], rounds: int) -> list[dict[str, npt.NDArray[np.intp]]]:
    """For each round, the row numbers of each site: its rows in their order, in equal waves."""
    waves = {name: np.array_split(mine, rounds) for name, mine in rows.items()}
    return [{name: wave[r] for name, wave in waves.items()} for r in range(rounds)]
