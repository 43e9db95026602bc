"""Sums that leave a client encrypted, and that key holders, not the server, can open.

Like the other aggregators, this one holds every party in this process; across machines the same state
machines run apart. It needs TenSEAL.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from secure_afl.analytic.solve import Certificate, Solution
from secure_afl.crypto import ring
from secure_afl.crypto.hpke import Suite
from secure_afl.crypto.lattice.parameter_sets import LATTICES
from secure_afl.errors import SolveError
from secure_afl.protocol.audit.events import Agreed, Role
from secure_afl.protocol.audit.log import Logs
from secure_afl.protocol.audit.record import RecordedClient, RecordedParty, RecordedServer
from secure_afl.protocol.homomorphic import messages
from secure_afl.protocol.homomorphic.agreement import Agreement, Encryption, Release
from secure_afl.protocol.homomorphic.client import HomomorphicClient
from secure_afl.protocol.homomorphic.holder import KeyHolder
from secure_afl.protocol.homomorphic.server import HomomorphicServer
from secure_afl.protocol.homomorphic.states import ServerState
from secure_afl.protocol.session.backend import ENCRYPTED, parse
from secure_afl.protocol.session.errors import LocalProtocolError
from secure_afl.protocol.session.parameters import Profile, RidgeSystem, RoundSpec, SumPlan
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.roster import Roster
from secure_afl.protocol.session.server import OpenedSum
from secure_afl.protocol.transport.driver import Contribute, Contribution, Network
from secure_afl.protocol.transport.encrypted import EncryptedCohort, Recorded, layered_sum
from secure_afl.protocol.transport.masked import Cohort
from secure_afl.sums.aggregation import (
    Aggregate,
    Members,
    Outcome,
    contributing,
    decoded,
    enough,
    masked_session,
    refusals_noted,
    solved,
    solved_sum,
)


class EncryptedAggregator:
    """Sums of ciphertexts: the server adds what it cannot read, key holders open each approved sum once.

    Parameters
    ----------
    backend : "bfv", exact; "ckks", approximate; "bfv+mask", pairwise masks under BFV, so that server and key
        holders together still see no more than a masked sum.
    policy : of clients and key holders; None is the default policy with this backend.
    holders : how many key holders; more than one share a joint key, and all are needed (BFV only).
    release : what key holders give to the server, "sum" or "weights"; None is weights for CKKS, else sums.
        Weights are for models that come out of one system: no encoder that learns filters, no groups, no waves.
    profile, suite : of the masks, with "bfv+mask"; encrypted sessions always reckon with a server that lies.
    network, watch, audit : see `MaskedAggregator`.

    Raises as `MaskedAggregator` does, and `RoundAbortedError` if a key holder is missing.
    """

    def __init__(
        self,
        backend: str,
        policy: Policy | None = None,
        *,
        holders: int = 1,
        release: str | None = None,
        profile: Profile = Profile.ACTIVE,
        suite: Suite = Suite.HYBRID,
        network: Network | None = None,
        watch: Callable[[str], None] = lambda phase: None,
        audit: Path | None = None,
    ) -> None:
        if holders < 1:
            raise LocalProtocolError(f"expected at least one key holder, got {holders}")
        self.encryption = Encryption.of(parse(backend, ENCRYPTED), release)
        self.backend: str = self.encryption.backend
        self.policy = policy or Policy(backends=frozenset({self.backend}))
        self.profile = profile
        self.suite = suite
        self._network = network
        self._watch = watch
        self._logs = Logs(audit) if audit else None
        self._members = Members()
        self._holders = Members()
        self._holder_names = [f"key holder {number + 1}" for number in range(holders)]
        self._cohort: EncryptedCohort | None = None
        self._masks: Cohort | None = None
        self._plan: Sequence[SumPlan] = ()
        self._related: frozenset[int] | None = None

    def open(self, clients: Sequence[str], plan: Sequence[SumPlan]) -> None:
        encryption, policy = self.encryption, self.policy
        policy.check_backend(self.backend)
        policy.check_plan(plan, Profile.ACTIVE)  # as every client does, whatever the profile of the masks
        least = enough(policy, clients)
        roster, holders = self._rosters(clients)
        _, agreed = encryption.agreed(plan, len(clients), len(holders.members))
        self._cohort = self._masks = self._related = None
        self._plan = plan
        if encryption.masked:
            self._masks = self._masked(clients, plan, agreed)
        parameters = self._masks.server.parameters if self._masks else None
        masked = (parameters.session, parameters.transcript()) if parameters else None
        agreement = self._agreed(lambda: Agreement.propose(encryption, roster, holders, plan, masked=masked))
        if parameters:
            # What key holders open must also be enough to remove the masks.
            least = max(least, parameters.threshold)
        self._cohort = self._session(HomomorphicServer(agreement, roster, holders, least=least), plan)
        with refusals_noted(self._cohort.refusals):
            self._cohort.set_up()

    def _rosters(self, clients: Sequence[str]) -> tuple[Roster, Roster]:
        """Of clients and of key holders."""
        return self._members.roster(clients), self._holders.roster(self._holder_names)

    def _masked(self, clients: Sequence[str], plan: Sequence[SumPlan], agreed: Sequence[RoundSpec]) -> Cohort:
        """The masked session whose vectors are encrypted, its keys exchanged."""
        return masked_session(
            self._members,
            clients,
            plan,
            self.policy,
            self.profile,
            self.suite,
            self._network,
            self._watch,
            agreed,
            self._logs,
        )

    def _agreed(self, propose: Callable[[], Agreement]) -> Agreement:
        """What a session is begun with."""
        return propose()

    def _session(self, server: HomomorphicServer, plan: Sequence[SumPlan]) -> EncryptedCohort:
        """The server with its clients and key holders."""
        roster, holders, encryption = server.roster, server.holders, self.encryption
        parties = {
            place: HomomorphicClient(
                self._members[one.name][0],
                roster,
                holders,
                plan,
                self.policy,
                self._members[one.name][1],
                encryption,
                masks=self._masks.clients[place] if self._masks else None,
            )
            for place, one in enumerate(roster.members)
        }
        keepers = {
            len(roster.members) + number: KeyHolder(
                self._holders[one.name][0],
                roster,
                holders,
                plan,
                self.policy,
                self._holders[one.name][1],
                encryption,
                solve=weights if encryption.release is Release.WEIGHTS else None,
            )
            for number, one in enumerate(holders.members)
        }
        recorded = self._recorded(server, parties, keepers, plan)
        return EncryptedCohort(server, parties, keepers, self._network, self._watch, recorded=recorded)

    def _contributing(self, contributions: Mapping[str, Contribution]) -> Contribute:
        """What clients of this process give when they are asked."""
        return contributing(self._roster, contributions)

    def _recorded(
        self,
        server: HomomorphicServer,
        clients: Mapping[int, HomomorphicClient],
        keepers: Mapping[int, KeyHolder],
        plan: Sequence[SumPlan],
    ) -> Recorded | None:
        """All parties behind their audit logs, if there are to be any."""
        logs = self._logs
        if logs is None:
            return None
        roster, holders = server.roster, server.holders
        return (
            RecordedServer(server, logs.server, Agreed(server.agreement, roster, holders)),
            {
                place: RecordedClient(
                    one,
                    logs.of(one.name, Role.CLIENT, self._members[one.name][0]),
                    roster,
                    plan,
                    self.policy,
                    holders,
                )
                for place, one in clients.items()
            },
            {
                place: RecordedParty(
                    one,
                    logs.of(one.name, Role.HOLDER, self._holders[one.name][0]),
                    roster,
                    plan,
                    self.policy,
                    holders,
                )
                for place, one in keepers.items()
            },
        )

    def sum(self, number: int, contributions: Mapping[str, Contribution]) -> Aggregate:
        if self.encryption.release is Release.WEIGHTS:
            raise LocalProtocolError(
                f"key holders release weights only, and {self._plan[number].statistic!r} is needed as a sum: "
                'use release="sum" (--release sum)'
            )
        values, survivors = self._opened(number, contributions)
        if not self.encryption.backend.exact:
            return Aggregate(*self._outcome(number, survivors), values)
        return self.cohort.timed(lambda: self._decoded(number, values, survivors), ServerState.OPENED.value)

    def _decoded(self, number: int, values: npt.NDArray[np.uint64], survivors: tuple[int, ...]) -> Aggregate:
        """A sum of residues or masked words as real numbers."""
        agreement = self.cohort.server.agreement
        if not self.encryption.masked:
            values = ring.centred(values, LATTICES[agreement.lattice].plain_modulus).view(np.uint64)
        opened = OpenedSum(number, values, survivors, ())
        return decoded(self._plan[number], agreement.rounds[number], self._roster, opened)

    def solve(self, number: int, contributions: Mapping[str, Contribution]) -> tuple[Solution, Outcome]:
        plan = self._plan[number]
        if self.encryption.release is Release.SUM:
            one = self.sum(number, contributions)
            return solved_sum(plan, one), one
        values, survivors = self._opened(number, contributions)
        assert plan.system is not None
        return _solution(plan.system, values), Outcome(*self._outcome(number, survivors))

    def _outcome(self, number: int, survivors: Sequence[int]) -> tuple[tuple[str, ...], float, int]:
        """Survivors, entry error and length of a sum."""
        roster, plan = self._roster, self._plan[number]
        error = self.cohort.server.agreement.entry_error(number, plan, len(roster.members), len(survivors))
        return tuple(roster.name(place) for place in survivors), error, plan.length

    def _opened(
        self, number: int, contributions: Mapping[str, Contribution]
    ) -> tuple[npt.NDArray[Any], tuple[int, ...]]:
        """What the key holders released, and whose sum it is."""
        cohort, same = self.cohort, self._plan[number].same_survivors
        contribute = self._contributing(contributions)
        among = self._related if same else None
        with refusals_noted(cohort.refusals):
            if self._masks:
                with refusals_noted(self._masks.refusals):
                    opened = layered_sum(self._masks, cohort, number, contribute, among)
            else:
                opened = cohort.sum(number, contribute, among)
        if same:
            self._related = frozenset(opened.survivors)
        return opened.values, opened.survivors

    def __deepcopy__(self, memo: object) -> "EncryptedAggregator":
        """The same object: a copy (scikit-learn's `clone` makes one) would forget what the ledgers know."""
        return self

    def renew(self, data_set: str) -> None:
        """Every client's owner lets a data set serve another session; see `Ledger.renew` for what that risks."""
        self._members.renew(data_set)
        for client in self._members:
            self._holders.renew(messages.known_as(client, messages.data_set_digest(client, data_set)))

    def close(self) -> None:
        """End the audit logs, if there are any."""
        if self._logs:
            self._logs.close()

    @property
    def cohort(self) -> EncryptedCohort:
        """The encrypted session that is open, with its `costs` and `refusals`."""
        if self._cohort is None:
            raise LocalProtocolError("no session is open: call open(clients, plan) first")
        return self._cohort

    @property
    def masks(self) -> Cohort | None:
        """The masked session under it, with "bfv+mask"."""
        return self._masks

    @property
    def _roster(self) -> Roster:
        return self.cohort.server.roster


def weights(
    plan: SumPlan, total: npt.NDArray[np.float64], entry_error: float, survivors: int
) -> npt.NDArray[np.float64]:
    """What a key holder releases of a system: weights row by row, and the numbers of their certificate."""
    assert plan.system is not None  # `Encryption.agreed` refuses sums that are no system
    solution = solved(plan.system, total, entry_error, survivors, plan.noise)
    return np.concatenate([solution.weights.ravel(), astuple(solution.certificate)])


def _solution(system: RidgeSystem, released: npt.NDArray[np.float64]) -> Solution:
    size = system.features * system.outputs
    numbers = len(Certificate.__dataclass_fields__)
    if len(released) != size + numbers or not np.isfinite(released).all():
        raise SolveError(
            f"expected {size} weights and {numbers} numbers of a certificate, got {len(released)}"
        )
    weights = released[:size].reshape(system.features, system.outputs).copy()
    weights.flags.writeable = False
    return Solution(weights, Certificate(*released[size:].tolist()))
