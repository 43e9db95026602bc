"""Sums of encrypted vectors, which key holders, not the server, can open.

The aggregator here holds all parties in this process; across machines the same state machines run remotely (`remote`).
It needs TenSEAL.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from secure_afl.analytic.solve import Certificate, Solution
from secure_afl.crypto import ring
from secure_afl.crypto.hpke import Suite
from secure_afl.crypto.lattice.parameter_sets import LATTICES
from secure_afl.errors import SolveError
from secure_afl.protocol.audit.events import Agreed, Role
from secure_afl.protocol.audit.record import RecordedClient, RecordedParty, RecordedServer
from secure_afl.protocol.homomorphic import messages
from secure_afl.protocol.homomorphic.agreement import Agreement, Encryption, Release
from secure_afl.protocol.homomorphic.client import HomomorphicClient
from secure_afl.protocol.homomorphic.holder import KeyHolder
from secure_afl.protocol.homomorphic.server import HomomorphicServer
from secure_afl.protocol.homomorphic.states import ServerState
from secure_afl.protocol.session.backend import ENCRYPTED, parse
from secure_afl.protocol.session.errors import LocalProtocolError
from secure_afl.protocol.session.parameters import Profile, RidgeSystem, SumPlan
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Verify
from secure_afl.protocol.session.roster import Roster
from secure_afl.protocol.session.server import OpenedSum
from secure_afl.protocol.transport.driver import Contribute, Contribution, Network
from secure_afl.protocol.transport.encrypted import EncryptedCohort, layered_sum
from secure_afl.protocol.transport.masked import Cohort
from secure_afl.sums.aggregation import (
    Aggregate,
    LocalSessions,
    LocalSums,
    MaskedSessions,
    Members,
    Outcome,
    SessionSettings,
    Sums,
    decoded,
    enough,
    refusals_noted,
    set_up,
    solved,
    solved_sum,
)


class EncryptedSessions(MaskedSessions, Protocol):
    """Makes sessions of encrypted sums and, for "bfv+mask", the masked sessions under them."""

    def rosters(self, clients: Sequence[str]) -> tuple[Roster, Roster]:
        """The rosters of clients and of key holders."""

    def agreed(self, propose: Callable[[], Agreement]) -> Agreement:
        """The terms of a session."""

    def encrypted(
        self,
        settings: SessionSettings,
        server: HomomorphicServer,
        plan: Sequence[SumPlan],
        masks: Cohort | None,
    ) -> EncryptedCohort:
        """A server with its clients and key holders. masks: the masked session whose vectors are encrypted."""


class LocalEncryptedSessions(LocalSessions):
    """Sessions of parties in this process, with `holders` key holders."""

    def __init__(
        self, encryption: Encryption, holders: int, network: Network | None, audit: Path | None = None
    ) -> None:
        super().__init__(network, audit)
        self._encryption = encryption
        self._holders = Members()
        self._holder_names = [f"key holder {number + 1}" for number in range(holders)]

    def rosters(self, clients: Sequence[str]) -> tuple[Roster, Roster]:
        return self.members.roster(clients), self._holders.roster(self._holder_names)

    def agreed(self, propose: Callable[[], Agreement]) -> Agreement:
        return propose()

    def encrypted(
        self,
        settings: SessionSettings,
        server: HomomorphicServer,
        plan: Sequence[SumPlan],
        masks: Cohort | None,
    ) -> EncryptedCohort:
        roster, holders, policy, recorded = server.roster, server.holders, settings.policy, None
        encryption = self._encryption
        first = len(roster.members)  # the first key holder's index
        solve = weights if encryption.release is Release.WEIGHTS else None
        parties, key_holders = {}, {}
        for index, (identity, ledger) in enumerate(self.members[one.name] for one in roster.members):
            terms = (identity, roster, holders, plan, policy, ledger, encryption)
            parties[index] = HomomorphicClient(*terms, masks=masks.clients[index] if masks else None)
        for index, (identity, ledger) in enumerate(
            (self._holders[one.name] for one in holders.members), first
        ):
            terms = (identity, roster, holders, plan, policy, ledger, encryption)
            key_holders[index] = KeyHolder(*terms, solve=solve)
        if self.logs:
            known, logs = (roster, plan, policy, holders), self.logs
            recorded = (
                RecordedServer(server, logs.server, Agreed(server.agreement, roster, holders)),
                {index: RecordedClient(one, self._log(one.name), *known) for index, one in parties.items()},
                {
                    index: RecordedParty(
                        one, logs.of(one.name, Role.HOLDER, self._holders[one.name][0]), *known
                    )
                    for index, one in key_holders.items()
                },
            )
        return EncryptedCohort(server, parties, key_holders, self._network, settings.watch, recorded=recorded)

    def renew(self, data_set: str, *, may_expose: bool = False) -> None:
        super().renew(data_set, may_expose=may_expose)
        for client in self.members:
            known = messages.known_as(client, messages.data_set_digest(client, data_set))
            self._holders.renew(known, may_expose=may_expose)


class EncryptedSums(Sums[EncryptedCohort]):
    """Sums of ciphertexts. masks: the masked session under them, with "bfv+mask"."""

    _sessions: EncryptedSessions

    def __init__(
        self, encryption: Encryption, settings: SessionSettings, sessions: EncryptedSessions
    ) -> None:
        super().__init__(settings, sessions)
        self.backend: str = encryption.backend
        self.encryption = encryption
        self.masks: Cohort | None = None

    def open(self, clients: Sequence[str], plan: Sequence[SumPlan]) -> None:
        encryption, policy, settings, sessions = self.encryption, self.policy, self.settings, self._sessions
        policy.check_backend(self.backend)
        # As every client does, for any profile of the masks.
        verify = Verify.NONE
        if encryption.masked:
            verify = policy.proposed_verify(settings.profile, encrypted=True)
        policy.check_plan(plan, Profile.ACTIVE, verify)
        least, masked = enough(policy, clients), None
        roster, holders = sessions.rosters(clients)
        _, rounds = encryption.agreed(plan, len(clients), len(holders.members))
        self._cohort = self.masks = self._related = None
        self._plan = plan
        if encryption.masked:
            self.masks = set_up(sessions.masked(settings, clients, plan, rounds))
            parameters = self.masks.server.parameters
            masked = (parameters.session, parameters.transcript())
            # The clients in an opened sum must also suffice to remove the masks.
            least = max(least, parameters.threshold)
        agreement = sessions.agreed(
            lambda: Agreement.propose(encryption, roster, holders, plan, masked=masked)
        )
        server = HomomorphicServer(agreement, roster, holders, least=least)
        self._cohort = sessions.encrypted(settings, server, plan, self.masks)
        set_up(self._cohort)

    def sum(self, number: int, contributions: Mapping[str, Contribution]) -> Aggregate:
        if self.encryption.release is Release.WEIGHTS:
            raise LocalProtocolError(
                f"key holders release only weights, but {self._plan[number].statistic!r} is needed as a sum: "
                'use release="sum" (--release sum)'
            )
        opened = self._opened(number, contributions)
        if not self.encryption.backend.exact:
            return Aggregate(*self._outcome(opened), opened.values)
        return self.cohort.timed(lambda: self._decoded(opened), ServerState.OPENED.value)

    def _decoded(self, opened: OpenedSum) -> Aggregate:
        """Decode a sum of residues or masked words."""
        server, number = self.cohort.server, opened.round
        if not self.encryption.masked:
            modulus = LATTICES[server.agreement.lattice].plain_modulus
            opened = replace(opened, values=ring.centred(opened.values, modulus).view(np.uint64))
        terms = server.agreement
        return decoded(self._plan[number], terms.rounds[number], server.roster, opened, terms.session)

    def solve(self, number: int, contributions: Mapping[str, Contribution]) -> tuple[Solution, Outcome]:
        plan = self._plan[number]
        if self.encryption.release is Release.SUM:
            one = self.sum(number, contributions)
            return solved_sum(plan, one), one
        opened = self._opened(number, contributions)
        assert plan.system is not None
        return _solution(plan.system, opened.values), Outcome(*self._outcome(opened))

    def _outcome(self, opened: OpenedSum) -> tuple[tuple[str, ...], float, int]:
        """Survivors, entry error and length of a sum."""
        server, plan, who = self.cohort.server, self._plan[opened.round], opened.survivors
        error = server.agreement.entry_error(opened.round, plan, len(server.roster.members), len(who))
        return tuple(server.roster.name(index) for index in who), error, plan.length

    def _run(self, number: int, contribute: Contribute, among: Collection[int] | None) -> OpenedSum:
        if self.masks is None:
            return self.cohort.sum(number, contribute, among)
        with refusals_noted(self.masks.refusals):
            return layered_sum(self.masks, self.cohort, number, contribute, among)


class EncryptedAggregator(EncryptedSums, LocalSums):
    """Sums of ciphertexts: the server adds without reading, and key holders open each approved sum once.

    Parameters
    ----------
    backend : str
        "bfv", exact; "ckks", approximate; "bfv+mask", pairwise masks under BFV, so that server and key holders together
        still see only the sum. docs/overhead.md has the costs.
    policy : Policy, optional
        Of clients and key holders; None is the default policy with this backend.
    holders : int, default=1
        Number of key holders. Several share a joint key, and all are needed (BFV only).
    release : str, optional
        What key holders give to the server, "sum" or "weights". None: weights for CKKS, otherwise sums. Weights need a
        model that solves one system: no encoder that learns filters, no groups, no waves.
    profile, suite
        Of the masks, with "bfv+mask"; encrypted sessions always assume that the server may lie.
    network, watch, audit
        See `MaskedAggregator`.

    Raises
    ------
    PolicyError
        If the cohort or the arguments do not meet the policy.
    RoundAbortedError
        If too few clients are left, or a key holder is missing; then no sum is released.
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
        encryption = Encryption.of(parse(backend, ENCRYPTED), release)
        policy = policy or Policy(backends=frozenset({encryption.backend}))
        self.parties = LocalEncryptedSessions(encryption, holders, network, audit)
        super().__init__(encryption, SessionSettings(policy, profile, suite, watch), self.parties)


def weights(
    plan: SumPlan, total: npt.NDArray[np.float64], entry_error: float, survivors: int
) -> npt.NDArray[np.float64]:
    """What a key holder releases of a system: the weights row by row, the numbers of their certificate, and the ridge."""
    assert plan.system is not None  # `Encryption.agreed` refuses sums without a system
    solution = solved(plan.system, total, entry_error, survivors, plan.noise)
    return np.concatenate([solution.weights.ravel(), astuple(solution.certificate), [solution.ridge]])


def _solution(system: RidgeSystem, released: npt.NDArray[np.float64]) -> Solution:
    size = system.features * system.outputs
    numbers = len(Certificate.__dataclass_fields__)
    if len(released) != size + numbers + 1 or not np.isfinite(released).all():
        raise SolveError(
            f"expected {size} weights, {numbers} numbers of a certificate and a ridge, got {len(released)}"
        )
    weights = released[:size].reshape(system.features, system.outputs).copy()
    weights.flags.writeable = False
    *certificate, ridge = released[size:].tolist()
    return Solution(weights, Certificate(*certificate), ridge=ridge)
