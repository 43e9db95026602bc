"""A first sum of counts, and what clients ask of it before they give anything to the sums that follow.

A sum over few pooled rows shows rows, however well it is masked. No party knows how many rows there are in all, so the
session begins with a sum of counts: rows, and rows of each class. The server announces it, and each client decides by
itself. The sums that follow are over the same survivors, or the plan's `same_survivors` has clients refuse.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from secure_afl.analytic.solve import Solution
from secure_afl.errors import DataError
from secure_afl.protocol.session.errors import PolicyError
from secure_afl.protocol.session.parameters import SumPlan
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.transport.driver import Contribution
from secure_afl.sums.aggregation import Aggregate, Aggregator, Outcome

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """rows: fewest pooled rows; least: fewest of each class; classes: of the outcome, empty for a number; most: rows of one
    site; agreement: what else stands in the sum's name.
    """

    rows: int
    least: int
    classes: tuple[str, ...]
    most: int
    agreement: str = ""

    def plan(self, sums: Sequence[SumPlan]) -> tuple[SumPlan, ...]:
        """The sum of counts, and these sums behind it."""
        asked = f"{self.rows} rows" + (f", {self.least} a class" if self.classes else "")
        name = ", ".join([asked, *([self.agreement] if self.agreement else [])])
        first = SumPlan(name, 1 + len(self.classes), float(self.most), 0, same_survivors=True, exact=True)
        return first, *(replace(one, same_survivors=True) for one in sums)

    def of(self, y: npt.NDArray[np.str_] | Floats) -> Floats:
        """What a site with these outcomes (rows,) puts into the sum: (1 + classes,)."""
        return np.array([len(y), *((y == name).sum() for name in self.classes)], dtype=np.float64)

    def check_form(self, counts: Floats) -> None:
        """Raises `DataError` for what cannot be a sum of counts (1 + classes,)."""
        whole = (counts >= 0).all() and (counts < 2.0**53).all() and (counts == np.rint(counts)).all()
        if not whole or (self.classes and counts[0] != counts[1:].sum()):
            raise DataError("expected counts of pooled rows, of all and of each class, got other numbers")

    def check(self, counts: Floats) -> None:
        """Raises `PolicyError` if the pooled rows are too few for the sums that follow."""
        self.check_form(counts)
        if counts[0] < self.rows:
            raise PolicyError(
                f"expected at least {self.rows} pooled rows, as the study asks for (rows_per_column), the first sum counts "
                f"{counts[0]:.0f}: nothing more leaves; pool more rows, or agree on fewer columns"
            )
        for name, count in zip(self.classes, counts[1:].tolist(), strict=True):
            if count < self.least:
                raise PolicyError(
                    f"expected at least {self.least} pooled rows of the class {name!r} (least_rows), the first sum counts "
                    f"{count:.0f}: nothing more leaves; pool more rows, or agree on other classes"
                )


class Telling(Aggregator, Protocol):
    """An aggregator that reaches clients elsewhere."""

    def tell(self, model: bytes, to: Sequence[str]) -> None:
        """What came of the sums so far, to these clients."""


class Counted:
    """An aggregator whose sums come behind one of counts, which it announces to the clients. counts: what came out."""

    def __init__(self, inner: Telling, counts: Counts) -> None:
        self.backend = inner.backend
        self.counts = np.zeros(0)
        self._inner, self._asked = inner, counts

    @property
    def policy(self) -> Policy:
        return self._inner.policy

    def open(self, clients: Sequence[str], plan: Sequence[SumPlan]) -> None:
        """Begins the session and counts. Raises `PolicyError` if clients would refuse to go on."""
        self._inner.open(clients, self._asked.plan(plan))
        one = self._inner.sum(0, {})
        self.counts = one.total
        self._asked.check(self.counts)
        self._inner.tell(self.counts.astype("<f8").tobytes(), one.survivors)

    def sum(self, number: int, contributions: Mapping[str, Contribution]) -> Aggregate:
        return self._inner.sum(number + 1, contributions)

    def solve(self, number: int, contributions: Mapping[str, Contribution]) -> tuple[Solution, Outcome]:
        return self._inner.solve(number + 1, contributions)


class CountsFirst:
    """An aggregator of local clients, whose sums come behind one of counts. counts: what each puts into it; then: makes of
    the pooled counts what each puts into the others.
    """

    def __init__(
        self,
        inner: Aggregator,
        asked: Counts,
        counts: Mapping[str, Contribution],
        then: Callable[[Floats], Sequence[Mapping[str, Contribution]]],
    ) -> None:
        self.backend = inner.backend
        self._inner, self._asked, self._counts, self._then = inner, asked, counts, then
        self._contributions: Sequence[Mapping[str, Contribution]] = ()

    @property
    def policy(self) -> Policy:
        return self._inner.policy

    def open(self, clients: Sequence[str], plan: Sequence[SumPlan]) -> None:
        """Begins the session and counts. Raises `PolicyError` if there are too few rows."""
        self._inner.open(clients, self._asked.plan(plan))
        one = self._inner.sum(0, self._counts)
        if not one.entry_error < 0.5:  # else no count can be told from the next one
            raise PolicyError(
                f"expected counts to within a half, got a sum with errors up to {one.entry_error:g}"
            )
        total = np.rint(one.total)
        self._asked.check(total)
        self._contributions = self._then(total)

    def sum(self, number: int, contributions: Mapping[str, Contribution]) -> Aggregate:
        return self._inner.sum(number + 1, self._contributions[number])

    def solve(self, number: int, contributions: Mapping[str, Contribution]) -> tuple[Solution, Outcome]:
        return self._inner.solve(number + 1, self._contributions[number])
