"""scikit-learn's own checks of estimators. What fails is named here, with the reason."""

import inspect
from typing import Any

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from secure_afl import (
    FederatedLDA,
    FederatedLogisticRegression,
    FederatedPCA,
    FederatedPoissonRegression,
    FederatedRidge,
    FederatedRidgeClassifier,
    PlainAggregator,
    Policy,
)

_ONCE = "a data set serves one session: the second fit of one object to the same rows is refused"
_OBJECTS = "a column of Python objects is refused: to make numbers of them is to guess"
_DIGITS = (
    "a sum keeps ten digits of columns 200 wide, of which this check with 27 columns and 15 rows needs more"
)
_SESSION = "an aggregator remembers the session that was opened last, so fit changes that parameter's object"
_AGAIN = (
    "check_fit_idempotent",
    "check_pipeline_consistency",
    "check_regressors_train",
    "check_classifiers_train",
    "check_supervised_y_2d",
    "check_fit_score_takes_y",
    "check_transformer_data_not_an_array",
    "check_transformer_general",
    "check_transformer_preserve_dtypes",
)


def masked(estimator: Any) -> dict[str, str]:
    """Which checks fail under masks."""
    again = dict.fromkeys(_AGAIN, _ONCE)
    if not isinstance(estimator, FederatedPCA):
        again.pop("check_fit_score_takes_y")
    digits = (
        {"check_sample_weight_equivalence_on_dense_data": _DIGITS}
        if isinstance(estimator, FederatedRidge)
        else {}
    )
    return again | digits | {"check_dtype_object": _OBJECTS}


def instances(aggregator: Any) -> list[Any]:
    """Bounds wide enough for the checks' rows, which are dealt to three sites."""
    common: dict[str, Any] = {"row_norm": 200.0, "max_rows": 200, "max_weight": 16.0, "deal": 3}
    return [
        FederatedRidge(target_bounds=1000.0, ridge=0.1, aggregator=aggregator, **common),
        FederatedRidgeClassifier(ridge=0.1, aggregator=aggregator, **common),
        FederatedLDA(ridge=0.1, aggregator=aggregator, **common),
        FederatedPCA(n_components=1, aggregator=aggregator, **common),
        FederatedLogisticRegression(ridge=0.1, least_rows=1, aggregator=aggregator, **common),
        FederatedPoissonRegression(
            largest_count=1000.0, ridge=0.1, least_rows=1, aggregator=aggregator, **common
        ),
    ]


class InTheClear(PlainAggregator):
    """With a name that is the same in every process: it is part of the tests' names."""

    def __repr__(self) -> str:
        return "InTheClear()"


def named(estimators: list[Any], expected: Any) -> pytest.MarkDecorator:
    strict = (
        {"xfail_strict": True}
        if "xfail_strict" in inspect.signature(parametrize_with_checks).parameters
        else {}
    )
    marked: pytest.MarkDecorator = parametrize_with_checks(
        estimators, expected_failed_checks=expected, **strict
    )
    return marked


@pytest.mark.long
@named(instances(None), masked)
def test_masked_estimators_keep_scikit_learns_contract(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.slow
@named(
    instances(InTheClear(Policy(backends=frozenset({"plain"})))),
    lambda estimator: {"check_dtype_object": _OBJECTS, "check_estimators_overwrite_params": _SESSION},
)
def test_without_a_ledger_all_else_is_kept(estimator: Any, check: Any) -> None:
    """With sums in the clear, where a second session over the same rows does no harm."""
    check(estimator)
