"""One federated run on real data: who learned what, what it cost, and how near it is to the pooled model."""

import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from secure_afl.analytic.evaluation import Classified, Measured, classified, measured
from secure_afl.analytic.solve import Solution
from secure_afl.crypto import ring
from secure_afl.errors import ColumnWarning, DataError, DropoutWarning, GroupWarning, SolveError
from secure_afl.models.evaluation import Evaluated, HeldOut, predictions, summed
from secure_afl.models.glm import STEPS, FederatedLogisticRegression, FederatedPoissonRegression
from secure_afl.models.ridge import FederatedRidge, FederatedRidgeClassifier
from secure_afl.models.sums import FederatedTable, split_rounds
from secure_afl.protocol.session.backend import Backend
from secure_afl.protocol.session.parameters import Profile, SumPlan
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.transport.driver import Contribution, Exchange, PhaseCost
from secure_afl.protocol.transport.encrypted import EncryptedCohort
from secure_afl.protocol.transport.masked import Cohort
from secure_afl.simulations.data.dataset import Dataset
from secure_afl.simulations.data.partition import Part, stacked
from secure_afl.simulations.study.control import Coded, coded, smallest
from secure_afl.simulations.study.report import KEY_PHASES, Run
from secure_afl.simulations.study.settings import REGRESSIONS, Settings
from secure_afl.simulations.study.table_one import table_one
from secure_afl.sums.aggregation import Aggregate, Aggregator, MaskedAggregator, Outcome, PlainAggregator
from secure_afl.sums.encrypted import EncryptedAggregator
from secure_afl.tables.codebook import LEAST_ROWS
from secure_afl.tables.disclosure import categories, indicators
from secure_afl.testing.faults import Fault, FaultyNetwork, dropouts

if TYPE_CHECKING:
    from secure_afl.models.networks.fedacnnl import FedACnnL
    from secure_afl.models.networks.pfedacnnl import PFedACnnL

    GLM = FederatedLogisticRegression | FederatedPoissonRegression
    Learned = FederatedRidge | FederatedRidgeClassifier | GLM | FedACnnL

_GLM = FederatedLogisticRegression | FederatedPoissonRegression


def phases(settings: Settings, data: Dataset) -> int:
    """The number of phases that `watch` is called for."""
    sums = settings.rounds
    if settings.model in REGRESSIONS:
        sums = STEPS + 2  # at most
    elif settings.model == "fedacnnl":
        from secure_afl.simulations.study import networks

        sums = networks.sums(settings, data)
    masks = 3 + sums * (4 if settings.profile is Profile.ACTIVE else 2)
    # Four phases for the key; collecting, challenging, checking and opening for a sum.
    return (masks if settings.backend.masked else 0) + (4 + 4 * sums if settings.backend.encrypted else 0)


class _Thinned(PlainAggregator):
    """Sums in the clear, without the clients that fall silent."""

    def __init__(self, policy: Policy, silent: frozenset[str]) -> None:
        super().__init__(policy)
        self._silent = silent

    def sum(self, number: int, contributions: Mapping[str, Contribution]) -> Aggregate:
        sent = {name: one for name, one in contributions.items() if name not in self._silent}
        return super().sum(number, sent)


def aggregator_for(
    settings: Settings, clients: Sequence[str], watch: Callable[[str], None]
) -> MaskedAggregator | EncryptedAggregator | PlainAggregator:
    """The aggregator of `settings`, for clients in this order, of which some fall silent."""
    silent = dropouts(len(clients), settings.dropout, settings.seed)
    policy = settings.policy()
    if settings.backend is Backend.PLAIN:
        return _Thinned(policy, frozenset(clients[index] for index in silent))
    masks: dict[str, Any] = {"profile": settings.profile, "suite": settings.suite, "watch": watch}
    masks["audit"] = settings.audit
    # In a layered session clients fall silent before they mask.
    phase = "collecting" if settings.backend.masked else "encrypting"
    masks["network"] = FaultyNetwork([Fault("drop", phase, silent)], settings.seed)
    if settings.backend is Backend.MASK:
        return MaskedAggregator(policy, **masks)
    return EncryptedAggregator(
        settings.backend, policy, holders=settings.key_holders, release=settings.release, **masks
    )


class Witness:
    """An aggregator that keeps what went into another one, to compare: only a simulation can do that."""

    def __init__(self, inner: Aggregator) -> None:
        self.backend = inner.backend
        self.policy = inner.policy
        self.identical: bool | None = None
        self.plain_seconds = 0.0
        self._inner = inner
        self._noisy = False

    def open(self, clients: Sequence[str], plan: Sequence[SumPlan]) -> None:
        self._noisy = any(one.noise for one in plan)
        self._inner.open(clients, plan)

    def sum(self, number: int, contributions: Mapping[str, Contribution]) -> Aggregate:
        result = self._inner.sum(number, contributions)
        self._compare(result, contributions)
        return result

    def solve(self, number: int, contributions: Mapping[str, Contribution]) -> tuple[Solution, Outcome]:
        solution, result = self._inner.solve(number, contributions)
        self._compare(result, contributions)
        return solution, result

    def _compare(self, result: Outcome, contributions: Mapping[str, Contribution]) -> None:
        started = time.process_time()
        np.sum([contributions[name][0] for name in result.survivors], axis=0)
        self.plain_seconds += time.process_time() - started
        if self._noisy:  # which only the clients know
            return
        if isinstance(result, Aggregate) and result.units is not None and result.encoding is not None:
            words = np.zeros(len(result.units), dtype=np.uint64)
            for name in result.survivors:
                words += result.encoding.encode(contributions[name][0])
            same = bool(np.array_equal(ring.signed(words, result.encoding.width), result.units))
            self.identical = same and self.identical is not False


def run(data: Dataset, parts: Sequence[Part], settings: Settings, watch: Callable[[str], None]) -> Run:
    """Train together under `settings`, alone at each client, and on the survivors' pooled rows as these coded them.

    Raises `DataError` if privacy is asked for on a scale that was read from the rows.
    """
    if settings.privacy and data.from_rows:
        raise DataError(
            f"{data.name}: expected a scale that was agreed on beforehand for --epsilon, got one that is read from the "
            "rows, which tells of them whatever noise is added: use data with a fixed scale (heart, mnist5k, digits, "
            "images), or a study whose file gives the bounds (docs/deployment.md)"
        )
    # Clients are numbered in the order of their names, here as in the estimators.
    parts = sorted(parts, key=lambda part: part.client)
    control = coded(data, parts, settings.rounds, settings.control(data.codebook))
    aggregator = aggregator_for(settings, [part.client for part in parts], watch)
    witness = Witness(aggregator)
    try:
        models = _models(data, parts, control, settings, witness)
        sessions, evaluated = _sessions(aggregator), None
        if settings.federated_evaluation:
            least = LEAST_ROWS if settings.least_rows is None else settings.least_rows
            evaluated = _evaluated(data, parts, models.together, aggregator, least)
        later = [one for one in _sessions(aggregator) if one not in sessions]
    finally:
        if not isinstance(aggregator, PlainAggregator):
            aggregator.close()
    costs = {phase: cost for session in sessions for phase, cost in session.costs.items()}
    test, _ = stacked({part.client: part.test for part in parts})
    tested = held_out(data, models.together, test)
    figures = (
        _described(data, parts, settings)
        | _learned(data, parts, models, witness, settings)
        | {
            "held_out": asdict(tested),
            "federated_evaluation": evaluated and evaluated.json() | {"upload_per_client": _uploaded(later)},
            "disclosure": {
                "least_rows": settings.control(data.codebook) if control.figures else None,
                "by_client": control.figures,
                **smallest(control.data, models.pooled_rows, len(_weights(models.together)[-1]) - 1),
                "constant": _constant(models.together, data),
            },
            "privacy": _private(models.together, settings, len(parts)),
        }
        | _spent(costs, sum(one.length for one in models.together.rounds_), witness.plain_seconds)
    )
    figures["table_one"] = _table_one(data, models.together, settings)
    if settings.personalize:
        _add_personal(figures, data, parts, models)
    elif models.personal:
        _add_personal_ridge(figures, data, parts, models.personal)
    for session in sessions:
        figures |= _agreed(session, aggregator.policy)
    refusals = [refusal for session in sessions for refusal in session.refusals]
    return Run(figures, costs, refusals, models.together, _number_of(sessions), tested, evaluated)


@dataclass(frozen=True, eq=False)
class _Models:
    """together: through the aggregator; pooled: from the survivors' rows in one place, whose numbers are pooled_rows;
    alone: each client's, without those that have no finite estimate; personal: each client's version of the common model, empty but for tables with an exact sum;
    sums: one for each wave of rows; warnings: what training together said.
    """

    together: "Learned"
    pooled: "Learned"
    alone: "Mapping[str, Learned]"
    personal: Mapping[str, Any]
    sums: Sequence[Outcome]
    pooled_rows: npt.NDArray[np.intp]
    warnings: Sequence[str]


def _models(
    data: Dataset, parts: Sequence[Part], control: Coded, settings: Settings, aggregator: Aggregator
) -> _Models:
    """Every model of a run. Raises what the estimators and the aggregator raise."""
    # A simulation may fit the bound on rows to them; with a promise about rows it is fixed.
    largest = 0 if settings.privacy else 2 ** max(len(part.train) for part in parts).bit_length()

    def model(aggregator: Aggregator | None = None) -> "Learned":
        shared: dict[str, Any] = {"aggregator": aggregator}
        shared |= {} if data.target else {"classes": range(len(data.classes))}
        if settings.model == "fedacnnl":
            from secure_afl.simulations.study import networks  # torch

            return networks.estimator(settings, data, max_rows=max(2**12, largest), **shared)
        if settings.model in REGRESSIONS:
            # What leaves nobody needs no rule.
            least = settings.control(data.codebook) if aggregator else 1
            return _regression(settings, data, max_rows=max(2**16, largest), least_rows=least, **shared)
        shared |= {
            "row_norm": data.row_norm if settings.clip is None else settings.clip,
            "max_rows": max(2**16, largest),
            "max_weight": data.max_weight,
            "rounds": settings.rounds,
            "privacy": settings.privacy,
            "indicators": indicators(data.codebook, settings.backend),
        }
        if data.target:
            return FederatedRidge(target_bounds=data.target.range, **shared)
        return FederatedRidgeClassifier(**shared)

    def weighted(rows: npt.NDArray[np.intp]) -> dict[str, Any]:
        return {} if data.weights is None else {"sample_weight": data.weights[rows]}

    contributed = control.data
    rows, site = stacked({part.client: part.train for part in control.parts})
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", GroupWarning)
        warnings.simplefilter("ignore", DropoutWarning)  # the survivors are among the figures
        warnings.simplefilter("ignore", ColumnWarning)  # and so are constant columns
        try:
            together = model(aggregator).fit(contributed.X[rows], contributed.y[rows], site, **weighted(rows))
        except SolveError as error:
            raise SolveError(_named(str(error), data.features)) from None
    # Every layer of a network is a sum over the same rows; waves of a ridge model are sums over different ones.
    waves = split_rounds(
        {part.client: np.flatnonzero(site == part.client) for part in parts}, settings.rounds
    )
    sums = together.rounds_[: len(waves)]
    pooled_rows = rows[
        np.concatenate([wave[name] for wave, one in zip(waves, sums, strict=True) for name in one.survivors])
    ]
    alone = {}
    for part in parts:
        with suppress(*([SolveError] if settings.model in REGRESSIONS else [])):  # no finite estimate
            alone[part.client] = model().fit_pooled(
                data.X[part.train], data.y[part.train], **weighted(part.train)
            )
    return _Models(
        together,
        model().fit_pooled(contributed.X[pooled_rows], contributed.y[pooled_rows], **weighted(pooled_rows)),
        alone,
        _personal(data, parts, together, weighted),
        sums,
        pooled_rows,
        [str(one.message) for one in said],
    )


def _regression(settings: Settings, data: Dataset, **shared: Any) -> "GLM":
    """A logistic or Poisson regression. Raises `DataError` for an outcome that it is not of."""
    shared |= {"row_norm": data.row_norm, "max_weight": data.max_weight}
    if data.codebook:
        shared["categories"] = categories(data.codebook)
    if settings.model == "logistic":
        if data.target or len(data.classes) != 2:
            got = "a number" if data.target else f"{len(data.classes)} classes"
            raise DataError(
                f"{data.name}: expected two classes as outcome of a logistic regression, got {got}"
            )
        return FederatedLogisticRegression(**shared)
    if data.target is None or data.target.range[0] < 0:
        got = (
            f"{len(data.classes)} classes"
            if data.target is None
            else f"numbers from {data.target.range[0]:g}"
        )
        raise DataError(
            f'{data.name}: expected a count as outcome of a Poisson regression (kind = "number", range = [0, most]), got '
            f"{got}"
        )
    return FederatedPoissonRegression(largest_count=data.target.range[1], **shared)


def _named(text: str, features: Sequence[str]) -> str:
    """An error with the names of columns in place of their numbers, which count from 1."""
    return re.sub(r"'(\d+)'", lambda number: repr(features[int(number[1]) - 1]), text)


def _personal(
    data: Dataset,
    parts: Sequence[Part],
    together: "Learned",
    weighted: Callable[[npt.NDArray[np.intp]], dict[str, Any]],
) -> dict[str, Any]:
    """Personal models of a table's clients; empty where no exact sum was opened. Nothing leaves a client for them."""
    if (
        not isinstance(together, FederatedRidge | FederatedRidgeClassifier)
        or not data.codebook
        or together.privacy
        or together.statistics_ is None
    ):
        return {}
    return {
        part.client: together.personalize(data.X[part.train], data.y[part.train], **weighted(part.train))
        for part in parts
    }


def _described(data: Dataset, parts: Sequence[Part], settings: Settings) -> dict[str, Any]:
    """What the run was of."""
    return {
        "data": data.name,
        "model": settings.model,
        "backend": settings.backend,
        "profile": settings.profile.value,
        "suite": settings.suite.value,
        "seed": settings.seed,
        "rounds": settings.rounds,
        "features": data.X.shape[1],
        "classes": list(data.classes),
        "unit": data.target.unit if data.target else "",
        "clients": [part.client for part in parts],
        "rows": {part.client: len(part.train) for part in parts},
        "test_rows": {part.client: len(part.test) for part in parts},
    }


def _learned(
    data: Dataset, parts: Sequence[Part], models: _Models, witness: "Witness", settings: Settings
) -> dict[str, Any]:
    """Who is in the sums, how good the models are, and how near to the pooled one."""
    together, pooled, alone = models.together, models.pooled, models.alone
    test, _ = stacked({part.client: part.test for part in parts})
    tested = [part for part in parts if len(part.test)]
    certificate = None if isinstance(together, _GLM) else together.certificate_
    survivors = [list(one.survivors) for one in models.sums]
    difference = np.concatenate(
        [(a - b).ravel() for a, b in zip(_weights(together), _weights(pooled), strict=True)]
    )
    return {
        "survivors": survivors[0] if settings.rounds == 1 else survivors,
        "rmse" if data.target else "accuracy": {
            "together": _quality(data, together, test),
            "together_by_client": _scores(data, {part.client: together for part in parts}, tested),
            "alone": _scores(data, alone, tested),
            "alone_on_all": {name: _quality(data, one, test) for name, one in alone.items()},
            "pooled_plain": _quality(data, pooled, test),
        },
        "sums_bit_identical": witness.identical,
        "max_weight_difference": float(abs(difference).max()),
        "weight_difference": float(np.linalg.norm(difference)),
        # Of a sum with noise it says nothing about the model without.
        "certificate": None if settings.privacy or certificate is None else certificate.bound,
        "certificate_parts": certificate
        and {"fixed_point": certificate.fixed_point, "rounding": certificate.rounding},
    }


def _spent(costs: Mapping[str, PhaseCost], length: int, plain_seconds: float) -> dict[str, Any]:
    """Bytes and CPU seconds. costs: by phase, empty for sums in the clear; length: values that a client contributed."""
    sent = _median_bytes(costs, keys=False, up=True, down=False) if costs else 8 * length
    return {
        "bytes": {
            "upload_per_client": sent,
            "download_per_client": _median_bytes(costs, keys=False, up=False, down=True),
            "plain_float64_per_client": 8 * length,
            "key_exchange_per_client": _median_bytes(costs, keys=True, up=True, down=True),
        },
        "seconds": {
            "client": of_median_client([cost.client_seconds for cost in costs.values()]),
            "server": sum(cost.server_seconds for cost in costs.values()),
            "key_holders": sum(cost.holder_seconds for cost in costs.values()),
            "plain": plain_seconds,
        },
    }


def _add_personal(figures: dict[str, Any], data: Dataset, parts: Sequence[Part], models: _Models) -> None:
    """The accuracy of each client's own model, and how many clients each group has."""
    model = cast("PFedACnnL", models.together)
    tested = [part for part in parts if len(part.test)]
    own = {}
    for part in tested:
        predicted = model.predict(data.X[part.test], [part.client] * len(part.test))
        own[part.client] = float((predicted == data.y[part.test]).mean())
    weights = [len(part.test) for part in tested]
    figures["accuracy"]["personal_by_client"] = own
    figures["accuracy"]["personal"] = float(np.average(list(own.values()), weights=weights))
    figures["warnings"] = list(models.warnings)
    figures["groups"] = np.bincount([one.group for one in model.personal_.values()]).tolist()


def _add_personal_ridge(
    figures: dict[str, Any], data: Dataset, parts: Sequence[Part], personal: Mapping[str, Any]
) -> None:
    """How good each client's own version of the common model is, and how strongly it is drawn to that."""
    test, _ = stacked({part.client: part.test for part in parts})
    tested = [part for part in parts if len(part.test)]
    own, power = _scores(data, personal, tested), 2 if data.target else 1  # RMSE: the mean of squares
    weights = [len(part.test) for part in tested]
    figures["rmse" if data.target else "accuracy"] |= {
        "personal_by_client": own,
        "personal": float(np.average(np.array(list(own.values())) ** power, weights=weights) ** (1 / power)),
        "personal_on_all": {name: _quality(data, one, test) for name, one in personal.items()},
    }
    figures["personal_pull"] = {name: one.personal_.mu for name, one in personal.items()}


def _table_one(data: Dataset, together: "Learned", settings: Settings) -> dict[str, Any] | None:
    """Table 1 of the rows in the sum; None except for a ridge model of a table whose rows count once, with an exact sum."""
    if (
        not isinstance(together, FederatedTable)
        or not data.codebook
        or data.weights is not None
        or together.privacy
        or together.statistics_ is None
    ):
        return None
    approximate = settings.backend is Backend.CKKS and settings.least_rows is None  # nothing is merged then
    least = LEAST_ROWS if approximate else settings.control(data.codebook)
    return table_one(data.codebook, together.moments_, least).figures()


def _private(model: "Learned", settings: Settings, clients: int) -> dict[str, Any] | None:
    """What is promised about a record, and the noise that does it; None for nothing."""
    privacy = settings.privacy
    if privacy is None:
        return None
    if isinstance(model, FederatedTable):
        (plan, *_), row_norm = model.plan(model.n_features_in_, clients), model.row_norm
    else:
        (plan, *_), row_norm = model.plan(clients), 1.0
    noise = plan.noise
    assert noise is not None
    return {
        "epsilon": privacy.epsilon,
        "delta": privacy.delta,
        "adjacency": privacy.adjacency.value,
        "row_norm": row_norm,
        "fewest_survivors": privacy.survivors(clients),
        "not_counted_on": privacy.colluders(clients),
        "client_deviations": dict(
            zip(("gram", "cross", "count"), (float(one.deviation) for one in noise.blocks), strict=True)
        ),
    }


def _sessions(aggregator: MaskedAggregator | EncryptedAggregator | PlainAggregator) -> list[Exchange]:
    """The protocol sessions behind the sums: of masks, of ciphertexts, or of both."""
    if isinstance(aggregator, MaskedAggregator):
        return [aggregator.cohort]
    if isinstance(aggregator, EncryptedAggregator):
        return [*([aggregator.masks] if aggregator.masks else []), aggregator.cohort]
    return []


def _number_of(sessions: Sequence[Exchange]) -> str:
    """The session's number in hexadecimal digits; one of masks and ciphertexts has the same number twice."""
    if not sessions:
        return ""
    if isinstance(sessions[0], EncryptedCohort):
        return sessions[0].server.agreement.session.hex()
    assert isinstance(sessions[0], Cohort)
    return sessions[0].server.parameters.session.hex()


def _agreed(session: Exchange, policy: Policy) -> dict[str, Any]:
    """What a session's parties agreed on."""
    if isinstance(session, EncryptedCohort):
        agreement = session.server.agreement
        return {
            "encryption": {
                "parameter_set": agreement.lattice,
                "key_holders": len(session.holders),
                "released": agreement.release.value,
                "values_per_round": max(spec.length for spec in agreement.rounds),
                "fraction_bits": min(spec.fraction_bits for spec in agreement.rounds),
            }
        }
    assert isinstance(session, Cohort)
    parameters = session.server.parameters
    clients = len(parameters.cohort)
    borne = clients - max(parameters.threshold, policy.least_survivors(clients))
    return {
        "parameters": {
            "neighbours": parameters.degree,
            "threshold": parameters.threshold,
            "dropouts_borne": borne if parameters.complete else None,
            "values_per_round": max(spec.length for spec in parameters.rounds),
            "word_bytes": max(spec.width for spec in parameters.rounds),
            "fraction_bits": min(spec.fraction_bits for spec in parameters.rounds),
        }
    }


def _weights(model: "Learned") -> list[npt.NDArray[np.float64]]:
    return [model.weights_] if isinstance(model, FederatedTable) else model.weights_


def _constant(model: "Learned", data: Dataset) -> list[str]:
    """The columns that are the same in all rows of the sum, and so say nothing."""
    return [data.features[j] for j in model.constant_] if isinstance(model, FederatedTable) else []


def _scores(data: Dataset, models: "Mapping[str, Learned]", parts: Sequence[Part]) -> dict[str, float]:
    """Scores of the clients that have a model."""
    there = [part for part in parts if part.client in models]
    return {part.client: _quality(data, models[part.client], part.test) for part in there}


def _quality(data: Dataset, model: "Learned", rows: npt.NDArray[np.intp]) -> float:
    """The accuracy on these rows; of a number its root mean squared error."""
    if isinstance(model, FederatedRidge | FederatedPoissonRegression):
        return measured(data.y[rows], model.predict(data.X[rows])).rmse
    return float(model.score(data.X[rows], data.y[rows]))


def held_out(data: Dataset, model: "Learned", rows: npt.NDArray[np.intp]) -> Classified | Measured:
    """How good a model is on these rows."""
    truth, predicted = data.y[rows], predictions(model, data.X[rows])
    return measured(truth, predicted) if data.target else classified(truth, predicted, data.classes)


def _evaluated(
    data: Dataset, parts: Sequence[Part], model: "Learned", aggregator: Aggregator, least_rows: int
) -> Evaluated:
    """The same on all clients' test rows, of which each gives counts to a secure sum of their own."""
    most = max(2**16, *(len(part.test) for part in parts))
    agreed = HeldOut(data.classes, max_rows=most, least_rows=least_rows)
    if data.target:
        agreed = HeldOut(range=data.target.range, max_rows=most, least_rows=least_rows)
    rows = {}
    for part in parts:
        X, truth = data.X[part.test], data.y[part.test]
        none = np.zeros((0, len(data.classes)) if data.classes else 0)
        rows[part.client] = truth, predictions(model, X) if len(X) else none
    return summed(aggregator, agreed, rows)


def _uploaded(sessions: Sequence[Exchange]) -> int:
    """The bytes that the median client sent in all phases, those of keys among them."""
    costs = [cost for session in sessions for cost in session.costs.values()]
    return int(of_median_client([cost.up for cost in costs]))


def of_median_client(by_phase: Sequence[Mapping[int, float]]) -> float:
    """The median over clients of the sum over phases."""
    totals: dict[int, float] = {}
    for phase in by_phase:
        for client, amount in phase.items():
            totals[client] = totals.get(client, 0) + amount
    return median(totals.values()) if totals else 0


def _median_bytes(costs: Mapping[str, PhaseCost], *, keys: bool, up: bool, down: bool) -> int:
    chosen = [cost for phase, cost in costs.items() if (phase in KEY_PHASES) == keys]
    return int(of_median_client([cost.up for cost in chosen if up] + [cost.down for cost in chosen if down]))
