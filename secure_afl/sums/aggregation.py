"""Sums over clients: masked (the default), or in the clear (on request only).

The learning side asks an `Aggregator` for sums and does not know its backend. The aggregators here hold all clients in
this process; across machines the same state machines run remotely (`remote`).
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from secure_afl.analytic.privacy import composed, regularise
from secure_afl.analytic.solve import Solution, solve
from secure_afl.analytic.standardised import solve_standardised
from secure_afl.analytic.statistics import SufficientStatistics, added
from secure_afl.crypto import ring
from secure_afl.crypto.fixed_point import FixedPoint
from secure_afl.crypto.hpke import Suite
from secure_afl.crypto.identity import Identity
from secure_afl.crypto.noise import Noise
from secure_afl.errors import DropoutWarning, SolveError
from secure_afl.protocol.audit.events import Agreed, Role
from secure_afl.protocol.audit.log import AuditLog, Logs
from secure_afl.protocol.audit.record import RecordedClient, RecordedServer
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.masking.server import MaskingServer
from secure_afl.protocol.masking.states import ServerState
from secure_afl.protocol.session import graph
from secure_afl.protocol.session.backend import Backend
from secure_afl.protocol.session.errors import LocalProtocolError, PolicyError, RoundAbortedError
from secure_afl.protocol.session.ledger import Ledger
from secure_afl.protocol.session.parameters import Parameters, Profile, RidgeSystem, RoundSpec, SumPlan
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.roster import Member, Roster
from secure_afl.protocol.session.server import OpenedSum
from secure_afl.protocol.transport.driver import Contribute, Contribution, Network
from secure_afl.protocol.transport.encrypted import EncryptedCohort
from secure_afl.protocol.transport.masked import Cohort

C = TypeVar("C", Cohort, EncryptedCohort)
_DECODING = ServerState.UNMASKING.value  # the phase in which an opened sum is decoded
_REFUSALS_SHOWN = 5  # shown with an aborted round; `MaskedAggregator.cohort.refusals` has all


@dataclass(frozen=True)
class Outcome:
    """Facts about a finished sum.

    survivors: the clients whose vectors are in it. entry_error: bound on each entry's distance from the exact sum of the
    survivors' float64 values, before rounding to float64; proven except for CKKS (`crypto.lattice.ckks`). length: number
    of entries.
    """

    survivors: tuple[str, ...]
    entry_error: float
    length: int


@dataclass(frozen=True)
class Aggregate(Outcome):
    """A sum over survivors.

    Parameters
    ----------
    survivors : tuple of str
        Clients whose vectors are in the sum.
    entry_error : float
        Bound on the error of each entry, compared with the exact sum of their vectors.
    length : int
        Number of entries.
    total : ndarray of float64, shape (length,)
    units : ndarray of int64, shape (length,), optional
        The same sum in fixed-point units of `encoding`; None for a sum of floats.
    encoding : FixedPoint, optional
    session : bytes
        The number of the session that made it; empty for a sum of floats.
    """

    total: npt.NDArray[np.float64]
    units: npt.NDArray[np.int64] | None = None
    encoding: FixedPoint | None = None
    session: bytes = b""

    def changed(self, by: "Aggregate") -> "Aggregate":
        """This sum with the sum of its clients' changes added, in units: exactly that of their new vectors.

        Raises `LocalProtocolError` for sums without units or of other clients, `CryptoError` if the new sum is one that
        its clients cannot have.
        """
        if self.units is None or self.encoding is None or by.units is None or by.encoding is None:
            raise LocalProtocolError("expected sums in fixed-point units, got floats: they are not exact")
        finer = by.encoding.fraction_bits - self.encoding.fraction_bits
        if set(by.survivors) != set(self.survivors) or finer < 0:
            raise LocalProtocolError(
                f"expected a change of {', '.join(self.survivors)}, in units as fine as those of the sum, got "
                f"one of {', '.join(by.survivors)}"
            )
        units = self.units + (by.units >> np.int64(finer))
        total = self.encoding.decode_sum(units.view(np.uint64), len(self.survivors))
        return replace(self, total=total, units=units, session=by.session)


class Aggregator(Protocol):
    """The learning side's interface to sums.

    `open` a session for named clients and planned sums, then request each sum once with `sum` or `solve`, in the order of
    the plan.
    """

    backend: str

    @property
    def policy(self) -> Policy: ...

    def open(self, clients: Sequence[str], plan: Sequence[SumPlan]) -> None:
        """Begin a session and exchange keys for all its sums.

        Parameters
        ----------
        clients : sequence of str
            Names of the invited clients.
        plan : sequence of SumPlan

        Raises
        ------
        PolicyError
            If the cohort or the plan does not meet the policy.
        """

    def sum(self, number: int, contributions: Mapping[str, Contribution]) -> Aggregate:
        """The sum of plan entry `number` over the surviving clients.

        Parameters
        ----------
        number : int
        contributions : mapping of str to (vector, str)
            By client: its float64 vector, and the name of its data set.

        Returns
        -------
        Aggregate

        Raises
        ------
        RoundAbortedError
            If too few clients are left; then no sum is released.
        """

    def solve(self, number: int, contributions: Mapping[str, Contribution]) -> tuple[Solution, Outcome]:
        """The solution of the system of plan entry `number`; parameters and exceptions are those of `sum`.

        Returns
        -------
        tuple of Solution and Outcome
            The weights with their certificate, and whose rows they are of.
        """


class Members:
    """Parties of this process by name, each with an identity and a ledger that it keeps across sessions."""

    def __init__(self) -> None:
        self._parties: dict[str, tuple[Identity, Ledger]] = {}

    def roster(self, names: Sequence[str]) -> Roster:
        """The roster of these clients; new clients get an identity."""
        for name in names:
            if name not in self._parties:
                ledger = Ledger()
                ledger.compose = composed
                self._parties[name] = Identity.generate(), ledger
        return Roster(tuple(Member(name, self._parties[name][0].verify_key) for name in names))

    def __getitem__(self, name: str) -> tuple[Identity, Ledger]:
        return self._parties[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parties)

    def renew(self, data_set: str, *, may_expose: bool = False) -> None:
        """Renew a data set at every client; see `Ledger.renew` for the risks."""
        for _, ledger in self._parties.values():
            ledger.renew(data_set, may_expose=may_expose)


def enough(policy: Policy, clients: Sequence[str]) -> int:
    """The fewest clients of a sum. Raises `PolicyError` if there are fewer."""
    least = policy.least_survivors(len(clients))
    if len(clients) < least:
        raise PolicyError(
            f"expected at least {least} clients ({policy.colluders(len(clients))} may collude), "
            f"got {len(clients)}: {', '.join(clients)}"
        )
    return least


@contextmanager
def refusals_noted(refusals: Sequence[Exception]) -> Iterator[None]:
    """Add notes on meanwhile refused messages to a `RoundAbortedError`."""
    before = len(refusals)
    try:
        yield
    except RoundAbortedError as error:
        for refusal in refusals[before:][:_REFUSALS_SHOWN]:
            error.add_note(str(refusal))
        raise


@dataclass(frozen=True)
class SessionSettings:
    """Settings of sessions. profile, suite: of masks; watch: called with each phase's name."""

    policy: Policy
    profile: Profile = Profile.ACTIVE
    suite: Suite = Suite.HYBRID
    watch: Callable[[str], None] = lambda phase: None


def proposed(
    roster: Roster,
    plan: Sequence[SumPlan],
    settings: SessionSettings,
    agreed: Sequence[RoundSpec] | None = None,
) -> Parameters:
    """Propose a session of masked sums for a whole roster. agreed: see `MaskingClient`."""
    clients, policy, profile = len(roster.members), settings.policy, settings.profile
    near = graph.choose(
        clients,
        profile,
        corrupted=policy.colluders(clients),
        dropout=policy.dropout,
        rounds=len(plan),
    )
    parameters = Parameters.propose(
        roster,
        plan,
        profile=profile,
        suite=settings.suite,
        degree=near.degree,
        threshold=near.threshold,
        rounds=agreed,
        verify=policy.proposed_verify(profile, encrypted=agreed is not None),
    )
    policy.check(parameters, clients)  # otherwise all clients would refuse: raise once, early
    return parameters


Rounds = Sequence[RoundSpec] | None
"""The rounds as agreed for encrypted masked sums; see `MaskingClient`."""


class MaskedSessions(Protocol):
    """Makes sessions of masked sums, with local or remote parties."""

    def masked(
        self,
        settings: SessionSettings,
        clients: Sequence[str],
        plan: Sequence[SumPlan],
        agreed: Rounds = None,
    ) -> Cohort:
        """A server with its clients."""

    def contributing(self, roster: Roster, contributions: Mapping[str, Contribution]) -> Contribute:
        """The clients' contributions on request. Raises `LocalProtocolError` if a client has none."""


class LocalSessions:
    """Sessions of parties in this process. audit: a folder for each party's audit log."""

    def __init__(self, network: Network | None, audit: Path | None) -> None:
        self.members = Members()
        self.logs = Logs(audit) if audit else None
        self._network = network

    def masked(
        self,
        settings: SessionSettings,
        clients: Sequence[str],
        plan: Sequence[SumPlan],
        agreed: Rounds = None,
    ) -> Cohort:
        policy, roster, recorded = settings.policy, self.members.roster(clients), None
        parameters = proposed(roster, plan, settings, agreed)
        parties = {
            index: MaskingClient(
                identity, roster, plan, policy, ledger, agreed=agreed, log_head=self._head(name)
            )
            for index, name in enumerate(clients)
            for identity, ledger in [self.members[name]]
        }
        server = MaskingServer(parameters, roster)
        if self.logs:
            recorded = (
                RecordedServer(server, self.logs.server, Agreed(parameters, roster)),
                {
                    index: RecordedClient(one, self._log(one.name), roster, plan, policy)
                    for index, one in parties.items()
                },
            )
        return Cohort(server, parties, self._network, settings.watch, recorded=recorded)

    def contributing(self, roster: Roster, contributions: Mapping[str, Contribution]) -> Contribute:
        if missing := sorted({member.name for member in roster.members} - contributions.keys()):
            raise LocalProtocolError(
                f"expected a contribution from every client, got none from {', '.join(missing)}"
            )
        return lambda index, wanted: contributions[roster.name(index)]

    def renew(self, data_set: str, *, may_expose: bool = False) -> None:
        self.members.renew(data_set, may_expose=may_expose)

    def _head(self, client: str) -> Callable[[], bytes]:
        if self.logs is None:
            return bytes
        log = self._log(client)
        return lambda: log.head

    def _log(self, client: str) -> AuditLog:
        assert self.logs is not None
        return self.logs.of(client, Role.CLIENT, self.members[client][0])


def set_up(cohort: C) -> C:
    """Set up a session: exchange its keys."""
    with refusals_noted(cohort.refusals):
        cohort.set_up()
    return cohort


def solved(
    system: RidgeSystem,
    total: npt.NDArray[np.float64],
    entry_error: float,
    survivors: int,
    noise: Noise | None = None,
) -> Solution:
    """Solve a system from the sum of the clients' statistics.

    total: packed; several sums are added as by `statistics.added`. noise: what each client added.
    Raises `SolveError` if no guaranteed solution exists.
    """
    if noise:
        assert system.ridge is not None  # sums with noise are not standardised
        # Noise on the intercept's row and on the diagonal is as large as on the rest, so means and variances are too
        # uncertain to standardise by: noisy sums keep one penalty for all rows of the weights.
        fixed = regularise(total, system, noise, survivors=survivors, ridge=system.ridge)
        return solve(fixed.statistics, ridge=0.0, entry_error=entry_error, target=system.target)
    statistics = SufficientStatistics.unpack(total, system, entry_error=entry_error)
    if system.standardised:
        if system.ridge is None and not system.squares:  # classes: each row has exactly one
            statistics = replace(statistics, squares=np.diag(statistics.cross[0]))
        return solve_standardised(
            statistics,
            ridge=system.ridge,
            entry_error=entry_error,
            target=system.target,
            column=system.column,
            weighted=system.weighted,
            names=system.names,
            indicators=system.indicators,
        )
    assert system.ridge is not None
    return solve(statistics, ridge=system.ridge, entry_error=entry_error, target=system.target)


def solved_sum(plan: SumPlan, one: Aggregate) -> Solution:
    """Solve the system of a sum. Raises like `solved`; the `SolveError` has the sum as `outcome`."""
    if plan.system is None:
        raise LocalProtocolError(f"{plan.statistic!r} is planned as a sum, not as a system to solve")
    try:
        return solved(plan.system, one.total, one.entry_error, len(one.survivors), plan.noise)
    except SolveError as error:
        error.outcome = one
        raise


class Sums(ABC, Generic[C]):
    """An aggregator for the sessions that a factory makes."""

    def __init__(self, settings: SessionSettings, sessions: MaskedSessions) -> None:
        self.settings = settings
        self._sessions = sessions
        self._cohort: C | None = None
        self._plan: Sequence[SumPlan] = ()
        self._related: frozenset[int] | None = (
            None  # survivors of the sums that the plan marks `same_survivors`
        )

    def __deepcopy__(self, memo: object) -> Self:
        """Return the same object: a copy (as scikit-learn's `clone` makes) would lose the ledgers."""
        return self

    @property
    def policy(self) -> Policy:
        return self.settings.policy

    @property
    def cohort(self) -> C:
        """The open session, with its `costs`, its `refusals` and the server's terms."""
        if self._cohort is None:
            raise LocalProtocolError("no session is open: call open(clients, plan) first")
        return self._cohort

    def _opened(self, number: int, contributions: Mapping[str, Contribution]) -> OpenedSum:
        """The sum of plan entry `number` as the server opens it."""
        cohort, same = self.cohort, self._plan[number].same_survivors
        contribute = self._sessions.contributing(cohort.server.roster, contributions)
        with refusals_noted(cohort.refusals):
            opened = self._run(number, contribute, self._related if same else None)
        if same:
            self._related = frozenset(opened.survivors)
        return opened

    @abstractmethod
    def _run(self, number: int, contribute: Contribute, among: Collection[int] | None) -> OpenedSum:
        """Run all phases of a sum. among: the clients to ask; None: all."""


class MaskedSums(Sums[Cohort]):
    """Sums under pairwise masks."""

    backend: str = Backend.MASK

    def open(self, clients: Sequence[str], plan: Sequence[SumPlan]) -> None:
        self.policy.check_backend(self.backend)
        self.policy.check_plan(
            plan, self.settings.profile, self.policy.proposed_verify(self.settings.profile)
        )
        self._cohort, self._plan, self._related = None, plan, None
        enough(self.policy, clients)
        self._cohort = set_up(self._sessions.masked(self.settings, clients, plan))

    def sum(self, number: int, contributions: Mapping[str, Contribution]) -> Aggregate:
        opened, server = self._opened(number, contributions), self.cohort.server
        spec = server.parameters.rounds[number]
        session = server.parameters.session
        return self.cohort.timed(
            lambda: decoded(self._plan[number], spec, server.roster, opened, session), _DECODING
        )

    def solve(self, number: int, contributions: Mapping[str, Contribution]) -> tuple[Solution, Outcome]:
        one = self.sum(number, contributions)
        return solved_sum(self._plan[number], one), one

    def _run(self, number: int, contribute: Contribute, among: Collection[int] | None) -> OpenedSum:
        return self.cohort.sum(number, contribute, among)


class LocalSums:
    """Further methods of an aggregator whose `parties` are in this process."""

    parties: LocalSessions

    def renew(self, data_set: str, *, may_expose: bool = False) -> None:
        """Renew a data set at every client; see `Ledger.renew` for the risks."""
        self.parties.renew(data_set, may_expose=may_expose)

    def close(self) -> None:
        """Close the audit logs, if any."""
        if self.parties.logs:
            self.parties.logs.close()


class MaskedAggregator(MaskedSums, LocalSums):
    """Sums under pairwise masks: no party but the client itself sees its vector.

    Every client has an identity and a ledger, and keeps them across sessions. A data set serves one session, even one that
    failed; `renew` lets it serve another one.

    Parameters
    ----------
    policy : Policy, optional
        What every client requires; None is the default policy.
    profile : Profile, default=Profile.ACTIVE
        Whether the server may lie (active) or follows the protocol (semi-honest).
    suite : Suite, default=Suite.HYBRID
        The key encapsulation: post-quantum and X25519, or X25519 alone.
    network : Network, optional
        Carries the messages in this process; None is a perfect network.
    watch : callable, optional
        Called with each phase's name.
    audit : Path, optional
        Folder for the audit log of each party; `close` closes the logs.

    Raises
    ------
    PolicyError
        If the cohort or the arguments do not meet the policy.
    RoundAbortedError
        If too few clients are left; then no sum is released.
    """

    def __init__(
        self,
        policy: Policy | None = None,
        *,
        profile: Profile = Profile.ACTIVE,
        suite: Suite = Suite.HYBRID,
        network: Network | None = None,
        watch: Callable[[str], None] = lambda phase: None,
        audit: Path | None = None,
    ) -> None:
        self.parties = LocalSessions(network, audit)
        super().__init__(SessionSettings(policy or Policy(), profile, suite, watch), self.parties)


def decoded(
    plan: SumPlan, spec: RoundSpec, roster: Roster, result: OpenedSum, session: bytes = b""
) -> Aggregate:
    """Decode an opened sum of fixed-point units. Raises `CryptoError` if honest clients cannot have made it."""
    encoding = spec.encoding(len(roster.members))
    return Aggregate(
        survivors=tuple(roster.name(index) for index in result.survivors),
        entry_error=0.0 if plan.exact else encoding.entry_error(len(result.survivors)),
        length=spec.length,
        total=encoding.decode_sum(result.values, len(result.survivors)),
        units=ring.signed(result.values, encoding.width),
        encoding=encoding,
        session=session,
    )


def warn_of_dropouts(clients: Sequence[str], sums: Sequence[Outcome]) -> None:
    """Issue one `DropoutWarning` if sums lack clients."""
    gone = [
        f"round {r + 1} of {len(sums)} is without {', '.join(missing)}"
        for r, one in enumerate(sums)
        if (missing := sorted(set(clients) - set(one.survivors)))
    ]
    if gone:
        warnings.warn(f"{'; '.join(gone)}: the model is the survivors'", DropoutWarning, stacklevel=3)


class PlainAggregator:
    """Sums in the clear: the server sees every client's vector. For comparison only.

    Parameters
    ----------
    policy : Policy, optional
        Must allow it: `Policy(backends=frozenset({"plain"}))`.

    Raises
    ------
    PolicyError
        If the policy does not allow it.
    """

    backend: str = Backend.PLAIN

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self.policy.check_backend(self.backend)
        self._plan: Sequence[SumPlan] = ()

    def open(self, clients: Sequence[str], plan: Sequence[SumPlan]) -> None:
        if noisy := [one.statistic for one in plan if one.noise]:
            raise LocalProtocolError(
                f"{noisy[0]!r} has noise for differential privacy, which does not hide vectors sent in the clear"
            )
        self._plan = plan

    def sum(self, number: int, contributions: Mapping[str, Contribution]) -> Aggregate:
        total = added(vector for vector, _ in contributions.values())
        return Aggregate(tuple(contributions), 0.0, len(total), total)

    def solve(self, number: int, contributions: Mapping[str, Contribution]) -> tuple[Solution, Outcome]:
        one = self.sum(number, contributions)
        return solved_sum(self._plan[number], one), one
