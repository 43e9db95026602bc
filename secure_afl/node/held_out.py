"""How good the model of a study is, on rows that each site held out of it: the last two sums of the session, of counts.

A site that accepted the sums of the model computes the model from these by itself, so no server can choose what is asked of
its rows. Which rows are held out depends on their number in the table and on nothing else.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from secure_afl.errors import DataError
from secure_afl.protocol.session.backend import Backend
from secure_afl.protocol.session.errors import PolicyError, RoundAbortedError
from secure_afl.protocol.session.parameters import SumPlan, VerifiedSum
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.roster import Roster
from secure_afl.tables.codebook import LEAST_ROWS, Target

if TYPE_CHECKING:  # scikit-learn
    from secure_afl.models.evaluation import Evaluated, HeldOut
    from secure_afl.node.study import Rows, Study
    from secure_afl.sums.aggregation import Aggregate, Aggregator, Outcome
    from secure_afl.sums.counted import Telling

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
_LARGEST = 0.5
_ORDER = 0x5EC0AF1  # of the generator that orders rows; never a secret


def check(study: "Study") -> None:
    """Raises `DataError` for a study whose held-out rows no sum can tell of."""
    part = study.held_out
    if not (part == 0 or (0.01 <= part <= _LARGEST and round(100 * part) / 100 == part)):
        raise DataError(
            f"expected held_out as a part of each site's rows, from 0.01 to {_LARGEST} with at most two decimals, got {part:g}"
        )
    if part and study.codebook and study.codebook.held_out:
        raise DataError("expected held_out in the study or in its codebook, got it in both")
    if study.tests and study.backend is not Backend.MASK:
        raise DataError(
            f"expected the backend mask with held_out, where sites check the sums that the model follows from, got "
            f"{study.backend.value}"
        )
    if study.tests and study.privacy:
        raise DataError(
            "expected no [privacy] with held_out: counts of held-out rows have no noise, so nothing would be promised of these"
        )


def check_policy(policy: Policy) -> None:
    """Raises `PolicyError` for a policy under which sites check no sums."""
    if not policy.checks_sums:
        raise PolicyError(
            'expected a policy with the profile "active" and verify = ["tags"] or ["replay"] for a study with held_out: sites '
            "compute the model from sums that they checked"
        )


def rows(number: int, part: float) -> Mask:
    """Which of a site's rows are held out: a part of them, rounded, the same at every reading of the table."""
    out = np.zeros(number, dtype=np.bool_)
    # NumPy keeps the raw numbers of its bit generators the same in all versions.
    order = np.argsort(np.random.Philox(key=_ORDER).random_raw(number), kind="stable")
    out[order[: round(part * number)]] = True
    return out


def chosen(study: "Study", number: int, marks: Mask | None) -> Mask:
    """Which of a site's rows are held out: those that the codebook marks, or a part of them. Raises `DataError` for marks that
    are not there.
    """
    if not (study.codebook and study.codebook.held_out):
        return rows(number, study.held_out)
    if marks is None:
        raise DataError(
            "expected the marks of held-out rows, as the codebook has a condition for them, got none"
        )
    return marks


def agreed(study: "Study") -> "HeldOut":
    """What the last sums are of."""
    from secure_afl.models.evaluation import HeldOut

    least = study.codebook.least_rows if study.codebook else LEAST_ROWS
    common: dict[str, Any] = {
        "max_rows": study.max_rows,
        "least_rows": least,
        "agreement": study.agreement,
    }
    outcome = study.codebook.outcome if study.codebook else None
    return (
        HeldOut(range=outcome.range, **common)
        if isinstance(outcome, Target)
        else HeldOut(study.classes, **common)
    )


def plan(study: "Study", clients: int) -> tuple[SumPlan, ...]:
    """The last two sums; nothing for a study that holds no rows out."""
    return agreed(study).plan(clients) if study.tests else ()


def vector(
    study: "Study", number: int, own: "Rows", verified: Mapping[int, VerifiedSum] | None, clients: Roster
) -> Floats:
    """What a site puts into one of the last two sums. verified: the sums that it accepted. Raises `PolicyError` if the model
    does not follow from these, `DataError` for rows, and if too few sites have any.
    """
    from secure_afl.models.evaluation import predictions

    out = chosen(study, len(own.X), own.marks)
    truth = (own.y[out, None] == np.array(study.classes)).argmax(axis=1) if study.classes else own.y[out]
    last = len(study.plan(len(clients.members))) - 1
    if number < last:
        return agreed(study).sites(truth)
    if verified is None:
        raise PolicyError(
            "expected sums that this party checked before its held-out rows are counted, got none"
        )
    _, fitted = study.recalled(verified, clients)
    vars(fitted).pop("feature_names_in_", None)  # they have the study's columns, without names
    if last - 1 not in verified:
        raise PolicyError(
            "expected the sum of sites with held-out rows as this party verified it, it was not given that"
        )
    agreed(study).check_sites(verified[last - 1].total, agreed(study).sites(truth))
    none = np.zeros((0, len(study.classes)) if study.classes else 0)
    return agreed(study).vector(truth, predictions(fitted, own.X[out]) if out.any() else none)


def evaluated(
    study: "Study", aggregator: "Aggregator", clients: int
) -> "tuple[Evaluated | str, list[Outcome]]":
    """The server's side, after the model's sums: the figures, or why there are none; and the sums that were opened."""
    last, counted = len(study.plan(clients)) - 1, agreed(study)
    opened: list[Outcome] = []
    try:
        sites = aggregator.sum(last - 1, {})
        opened.append(sites)
        counted.check_sites(sites.total)
        one = aggregator.sum(last, {})
        opened.append(one)
        return counted.opened(one.total, one.survivors), opened
    except (RoundAbortedError, DataError) as error:  # there is a model all the same
        return str(error), opened


def accepted(study: "Study", verified: Mapping[int, VerifiedSum], clients: Roster) -> "Evaluated | None":
    """The figures in a party's own copy of the last sum; None if it has none, or nothing is in it."""
    one = verified.get(len(study.plan(len(clients.members))) - 1)
    if not study.tests or one is None:
        return None
    try:
        return agreed(study).opened(one.total, tuple(clients.name(index) for index in one.survivors))
    except DataError:
        return None


class _Planned:
    """An aggregator that plans the last sums beside those of the model."""

    def __init__(self, inner: "Telling", last: tuple[SumPlan, ...]) -> None:
        self.backend, self.policy = inner.backend, inner.policy
        self._inner, self._last = inner, last

    def open(self, clients: Sequence[str], plan: Sequence[SumPlan]) -> None:
        self._inner.open(clients, (*plan, *self._last))

    def sum(self, number: int, contributions: Any) -> "Aggregate":
        return self._inner.sum(number, contributions)

    def solve(self, number: int, contributions: Any) -> Any:
        return self._inner.solve(number, contributions)

    def tell(self, model: bytes, to: Sequence[str]) -> None:
        self._inner.tell(model, to)


def planned(study: "Study", aggregator: "Telling", clients: int) -> "Telling":
    """The aggregator, for a session whose last sums are of held-out rows."""
    return _Planned(aggregator, plan(study, clients)) if study.tests else aggregator
