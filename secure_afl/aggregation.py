"""How a sum over clients is made: masked, which is the default, or in the clear, which must be asked for.

The learning side asks an `Aggregator` for sums and does not know which backend gave them. These
aggregators hold every client in this process; across machines the same state machines run apart.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from secure_afl.crypto import ring
from secure_afl.crypto.fixed_point import FixedPoint
from secure_afl.crypto.hpke import Suite
from secure_afl.crypto.identity import Identity
from secure_afl.errors import DropoutWarning
from secure_afl.protocol.driver import Contribution, Network
from secure_afl.protocol.errors import LocalProtocolError, PolicyError, RoundAbortedError
from secure_afl.protocol.ledger import Ledger
from secure_afl.protocol.masking import graph
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.masking.driver import Cohort
from secure_afl.protocol.masking.server import MaskingServer
from secure_afl.protocol.parameters import Parameters, Profile, SumPlan
from secure_afl.protocol.policy import Policy
from secure_afl.protocol.roster import Member, Roster

_REFUSALS_SHOWN = 5  # with an aborted round; `MaskedAggregator.cohort.refusals` has them all


@dataclass(frozen=True)
class Aggregate:
    """A sum over survivors.

    total: float64 (length,); entry_error: proven bound on each entry's distance from the exact sum of the
    survivors' float64 values; units: the same sum as int64 fixed-point units under `code` (None for a sum of floats).
    """

    total: npt.NDArray[np.float64]
    survivors: tuple[str, ...]
    entry_error: float
    units: npt.NDArray[np.int64] | None = None
    code: FixedPoint | None = None


class Aggregator(Protocol):
    """What the learning side needs. `open` a session for named clients and planned sums, then `sum` each."""

    backend: str
    policy: Policy

    def open(self, clients: Sequence[str], plan: Sequence[SumPlan]) -> None:
        """Begin a session; exchanges keys for all its sums."""

    def sum(self, number: int, contributions: Mapping[str, Contribution]) -> Aggregate:
        """The sum of plan entry `number` over the clients that survive. In the order of the plan."""


class MaskedAggregator:
    """Sums under pairwise masks: no party but the client sees its vector.

    Every client has an identity, a ledger and the `policy`, and keeps them from one session to the
    next. `watch` is called with each phase's name.

    Raises `PolicyError` where the policy asks for more than the cohort or the arguments give, and
    `RoundAbortedError` where too few clients are left: nothing is released then. A data set serves one
    session, also one that failed; `renew` lets it serve another.
    """

    backend = "mask"

    def __init__(
        self,
        policy: Policy | None = None,
        *,
        profile: Profile = Profile.ACTIVE,
        suite: Suite = Suite.HYBRID,
        network: Network | None = None,
        watch: Callable[[str], None] = lambda phase: None,
    ) -> None:
        self.policy = policy or Policy()
        self.profile = profile
        self.suite = suite
        self._network = network
        self._watch = watch
        self._parties: dict[str, tuple[Identity, Ledger]] = {}
        self._cohort: Cohort | None = None
        self._plan: Sequence[SumPlan] = ()
        self._related: frozenset[int] | None = None  # survivors of the sums of which the plan says the same

    def open(self, clients: Sequence[str], plan: Sequence[SumPlan]) -> None:
        self.policy.check_backend(self.backend)
        self.policy.check_plan(plan, self.profile)
        least = self.policy.least_survivors(len(clients))
        if len(clients) < least:
            colluders = self.policy.colluders(len(clients))
            raise PolicyError(
                f"expected at least {least} clients ({colluders} may collude), got {len(clients)}: {', '.join(clients)}"
            )
        for name in clients:
            self._parties.setdefault(name, (Identity.generate(), Ledger()))
        roster = Roster(tuple(Member(name, self._parties[name][0].verify_key) for name in clients))
        near = graph.choose(
            len(clients),
            self.profile,
            corrupted=self.policy.colluders(len(clients)),
            dropout=self.policy.dropout,
        )
        parameters = Parameters.propose(
            roster,
            plan,
            profile=self.profile,
            suite=self.suite,
            degree=near.degree,
            threshold=near.threshold,
        )
        self.policy.check(parameters, len(clients))  # all clients would refuse; say so once, and at once
        members = {
            place: MaskingClient(identity, roster, plan, self.policy, ledger)
            for place, (identity, ledger) in enumerate(self._parties[name] for name in clients)
        }
        self._plan, self._related = plan, None
        server = MaskingServer(parameters, roster)
        self._cohort = Cohort(server, members, self._network, self._watch)
        self._cohort.set_up()

    def sum(self, number: int, contributions: Mapping[str, Contribution]) -> Aggregate:
        cohort = self.cohort
        roster = cohort.server.roster
        if missing := sorted({member.name for member in roster.members} - contributions.keys()):
            raise LocalProtocolError(
                f"expected a contribution of every client, got none of {', '.join(missing)}"
            )
        before = len(cohort.refusals)
        try:
            related = self._related if self._plan[number].same_survivors else None
            result = cohort.sum(number, lambda place, wanted: contributions[roster.name(place)], related)
        except RoundAbortedError as error:
            for refusal in cohort.refusals[before:][:_REFUSALS_SHOWN]:
                error.add_note(str(refusal))
            raise
        if self._plan[number].same_survivors:
            self._related = frozenset(result.survivors)
        code = cohort.server.parameters.rounds[number].code(len(roster.members))
        return Aggregate(
            total=code.decode_sum(result.words, len(result.survivors)),
            survivors=tuple(roster.name(place) for place in result.survivors),
            entry_error=code.entry_error(len(result.survivors)),
            units=ring.signed(result.words, code.width),
            code=code,
        )

    def __deepcopy__(self, memo: object) -> "MaskedAggregator":
        """The same object: a copy (scikit-learn's `clone` makes one) would forget what the ledgers know."""
        return self

    def renew(self, data_set: str) -> None:
        """Every client's owner lets a data set serve another session; see `Ledger.renew` for what that risks."""
        for _, ledger in self._parties.values():
            ledger.renew(data_set)

    @property
    def cohort(self) -> Cohort:
        """The session that is open, with its `costs`, its `refusals` and the server's `parameters`."""
        if self._cohort is None:
            raise LocalProtocolError("no session is open: call open(clients, plan) first")
        return self._cohort


def warn_of_dropouts(clients: Sequence[str], sums: Sequence[Aggregate]) -> None:
    """One `DropoutWarning` if some sums are without some clients."""
    gone = [
        f"round {r + 1} of {len(sums)} is without {', '.join(missing)}"
        for r, one in enumerate(sums)
        if (missing := sorted(set(clients) - set(one.survivors)))
    ]
    if gone:
        warnings.warn(f"{'; '.join(gone)}: the model is the survivors'", DropoutWarning, stacklevel=3)


class PlainAggregator:
    """Sums in the clear: the server sees every client's vector. For comparison only.

    Raises `PolicyError` unless the policy was widened with `Policy(backends=frozenset({"plain"}))`.
    """

    backend = "plain"

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self.policy.check_backend(self.backend)
        self._plan: Sequence[SumPlan] = ()

    def open(self, clients: Sequence[str], plan: Sequence[SumPlan]) -> None:
        self._plan = plan

    def sum(self, number: int, contributions: Mapping[str, Contribution]) -> Aggregate:
        total = np.zeros(self._plan[number].length)
        for vector, _ in contributions.values():
            total += vector
        return Aggregate(total, tuple(contributions), entry_error=0.0)
