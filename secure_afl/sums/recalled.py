"""Sums that a party has accepted already, in the place of a session: it computes from them what the server computed."""

from collections.abc import Mapping, Sequence

import numpy as np

from secure_afl.analytic.solve import Solution
from secure_afl.protocol.session.backend import Backend
from secure_afl.protocol.session.errors import PolicyError
from secure_afl.protocol.session.parameters import SumPlan, VerifiedSum
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.roster import Roster
from secure_afl.protocol.session.server import OpenedSum
from secure_afl.protocol.transport.driver import Contribution
from secure_afl.sums.aggregation import Aggregate, Outcome, decoded, solved_sum


class Recalled:
    """An aggregator over accepted sums, by their numbers in the plan. roster: of the clients.

    An estimator's `fit_elsewhere` with it gives the model that follows from these sums, which a party compares with the
    server's. Raises `PolicyError` for a sum that the party did not accept.
    """

    backend: str = Backend.MASK

    def __init__(self, sums: Mapping[int, VerifiedSum], roster: Roster) -> None:
        self.policy = Policy()
        self._sums, self._roster = sums, roster
        self._plan: Sequence[SumPlan] = ()

    def open(self, clients: Sequence[str], plan: Sequence[SumPlan]) -> None:
        self._plan = plan

    def sum(self, number: int, contributions: Mapping[str, Contribution]) -> Aggregate:
        if number not in self._sums:
            raise PolicyError(
                f"expected sum {number} of {len(self._plan)} as this party verified it, it verified none of that number (it "
                "was not in that sum, or was not given it): no model is taken; ask another party for its own"
            )
        one = self._sums[number]
        words = one.units.view(np.uint64)
        return decoded(
            self._plan[number], one.spec, self._roster, OpenedSum(number, words, one.survivors, ())
        )

    def solve(self, number: int, contributions: Mapping[str, Contribution]) -> tuple[Solution, Outcome]:
        one = self.sum(number, contributions)
        return solved_sum(self._plan[number], one), one

    def tell(self, model: bytes, to: Sequence[str]) -> None:
        """Nobody is told: the party computes for itself."""
