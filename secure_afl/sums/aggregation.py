"""How a sum over clients is made: masked, which is the default, or in the clear, which must be asked for.

The learning side asks an `Aggregator` for sums and does not know which backend gave them. These
aggregators hold every client in this process; across machines the same state machines run apart.
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
_DECODING = ServerState.UNMASKING.value  # the phase that an opened sum is decoded in
_REFUSALS_SHOWN = 5  # with an aborted round; `MaskedAggregator.cohort.refusals` has them all


@dataclass(frozen=True)
class Outcome:
    """What is known of every sum that was made.

    survivors: whose vectors are in it; entry_error: bound on each entry's distance from the exact sum of the
    survivors' float64 values, before it is rounded to float64; proven but for CKKS (`crypto.ckks`). length: its entries.
    """

    survivors: tuple[str, ...]
    entry_error: float
    length: int


@dataclass(frozen=True)
class Aggregate(Outcome):
    """A sum over survivors.

    total: float64 (length,); units: the same sum as int64 fixed-point units under `code` (None for a sum of floats).
    """

    total: npt.NDArray[np.float64]
    units: npt.NDArray[np.int64] | None = None
    code: FixedPoint | None = None


class Aggregator(Protocol):
    """What the learning side needs. `open` a session for named clients and planned sums, then ask for each once,
    in the order of the plan.
    """

    backend: str

    @property
    def policy(self) -> Policy: ...

    def open(self, clients: Sequence[str], plan: Sequence[SumPlan]) -> None:
        """Begin a session; exchanges keys for all its sums."""

    def sum(self, number: int, contributions: Mapping[str, Contribution]) -> Aggregate:
        """The sum of plan entry `number` over the clients that survive."""

    def solve(self, number: int, contributions: Mapping[str, Contribution]) -> tuple[Solution, Outcome]:
        """The solution of the system that plan entry `number` is for."""


class Members:
    """Parties of this process, by name: an identity and a ledger each, kept from one session to the next."""

    def __init__(self) -> None:
        self._parties: dict[str, tuple[Identity, Ledger]] = {}

    def roster(self, names: Sequence[str]) -> Roster:
        """The roster of these clients; who is new gets an identity."""
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
        """Every owner lets a data set serve another session; see `Ledger.renew` for what that risks."""
        for _, ledger in self._parties.values():
            ledger.renew(data_set, may_expose=may_expose)


def enough(policy: Policy, clients: Sequence[str]) -> int:
    """The fewest clients of a sum. Raises `PolicyError` if there are not as many."""
    least = policy.least_survivors(len(clients))
    if len(clients) < least:
        raise PolicyError(
            f"expected at least {least} clients ({policy.colluders(len(clients))} may collude), "
            f"got {len(clients)}: {', '.join(clients)}"
        )
    return least


@contextmanager
def refusals_noted(refusals: Sequence[Exception]) -> Iterator[None]:
    """Notes what was refused meanwhile on a `RoundAbortedError`."""
    before = len(refusals)
    try:
        yield
    except RoundAbortedError as error:
        for refusal in refusals[before:][:_REFUSALS_SHOWN]:
            error.add_note(str(refusal))
        raise


@dataclass(frozen=True)
class SessionSettings:
    """How sessions are made, whoever takes part. profile, suite: of masks; watch: is called with each phase's name."""

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
    """A session of masked sums for a whole roster. agreed: see `MaskingClient`."""
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
    )
    policy.check(parameters, clients)  # all clients would refuse; say so once, and at once
    return parameters


Rounds = Sequence[RoundSpec] | None
"""As agreed where sums travel encrypted besides; see `MaskingClient`."""


class MaskedSessions(Protocol):
    """Makes sessions of masked sums: with parties of this process, or with parties elsewhere."""

    def masked(
        self,
        settings: SessionSettings,
        clients: Sequence[str],
        plan: Sequence[SumPlan],
        agreed: Rounds = None,
    ) -> Cohort:
        """The server with its clients."""

    def contributing(self, roster: Roster, contributions: Mapping[str, Contribution]) -> Contribute:
        """What clients give when they are asked. Raises `LocalProtocolError` if one has nothing."""


class LocalSessions:
    """Sessions of parties in this process. audit: a folder for an audit log of each."""

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
            place: MaskingClient(identity, roster, plan, policy, ledger, agreed=agreed)
            for place, (identity, ledger) in enumerate(self.members[name] for name in clients)
        }
        server = MaskingServer(parameters, roster)
        if self.logs:
            recorded = (
                RecordedServer(server, self.logs.server, Agreed(parameters, roster)),
                {
                    place: RecordedClient(one, self._log(one.name), roster, plan, policy)
                    for place, one in parties.items()
                },
            )
        return Cohort(server, parties, self._network, settings.watch, recorded=recorded)

    def contributing(self, roster: Roster, contributions: Mapping[str, Contribution]) -> Contribute:
        if missing := sorted({member.name for member in roster.members} - contributions.keys()):
            raise LocalProtocolError(
                f"expected a contribution of every client, got none of {', '.join(missing)}"
            )
        return lambda place, wanted: contributions[roster.name(place)]

    def renew(self, data_set: str, *, may_expose: bool = False) -> None:
        self.members.renew(data_set, may_expose=may_expose)

    def _log(self, client: str) -> AuditLog:
        assert self.logs is not None
        return self.logs.of(client, Role.CLIENT, self.members[client][0])


def set_up(cohort: C) -> C:
    """The session, its keys exchanged."""
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
    """The solution of a system, from the sum over so many clients' statistics.

    total: packed; of several sums, as `statistics.added` adds them. noise: what each client added to it.
    Raises `SolveError` if none is guaranteed.
    """
    if noise:
        assert system.ridge is not None  # sums with noise are not standardised
        # Noise on the intercept's row and on the diagonal is as large as on the rest, so means and variances are too
        # uncertain to standardise by: noisy sums keep one penalty for all rows of the weights.
        fixed = regularise(total, system, noise, survivors=survivors, ridge=system.ridge)
        return solve(fixed.statistics, ridge=0.0, entry_error=entry_error, target=system.target)
    statistics = SufficientStatistics.unpack(total, system, entry_error=entry_error)
    if system.standardised:
        if system.ridge is None and not system.squares:  # classes: each row has a single one
            statistics = replace(statistics, squares=np.diag(statistics.cross[0]))
        return solve_standardised(
            statistics,
            ridge=system.ridge,
            entry_error=entry_error,
            target=system.target,
            column=system.column,
            weighted=system.weighted,
            names=system.names,
        )
    assert system.ridge is not None
    return solve(statistics, ridge=system.ridge, entry_error=entry_error, target=system.target)


def solved_sum(plan: SumPlan, one: Aggregate) -> Solution:
    """The solution of the system that a sum is for. Raises as `solved`, the `SolveError` with the sum as `outcome`."""
    if plan.system is None:
        raise LocalProtocolError(f"{plan.statistic!r} is planned as a sum, not as a system to solve")
    try:
        return solved(plan.system, one.total, one.entry_error, len(one.survivors), plan.noise)
    except SolveError as error:
        error.outcome = one
        raise


class Sums(ABC, Generic[C]):
    """An aggregator of the sessions that a factory makes."""

    def __init__(self, settings: SessionSettings, sessions: MaskedSessions) -> None:
        self.settings = settings
        self._sessions = sessions
        self._cohort: C | None = None
        self._plan: Sequence[SumPlan] = ()
        self._related: frozenset[int] | None = None  # survivors of the sums of which the plan says the same

    def __deepcopy__(self, memo: object) -> Self:
        """The same object: a copy (scikit-learn's `clone` makes one) would forget what the ledgers know."""
        return self

    @property
    def policy(self) -> Policy:
        return self.settings.policy

    @property
    def cohort(self) -> C:
        """The session that is open, with its `costs`, its `refusals` and the server's terms."""
        if self._cohort is None:
            raise LocalProtocolError("no session is open: call open(clients, plan) first")
        return self._cohort

    def _opened(self, number: int, contributions: Mapping[str, Contribution]) -> OpenedSum:
        """The sum of plan entry `number` as its server has it."""
        cohort, same = self.cohort, self._plan[number].same_survivors
        contribute = self._sessions.contributing(cohort.server.roster, contributions)
        with refusals_noted(cohort.refusals):
            opened = self._run(number, contribute, self._related if same else None)
        if same:
            self._related = frozenset(opened.survivors)
        return opened

    @abstractmethod
    def _run(self, number: int, contribute: Contribute, among: Collection[int] | None) -> OpenedSum:
        """All phases of a sum. among: whom to ask; None is everybody."""


class MaskedSums(Sums[Cohort]):
    """Sums under pairwise masks."""

    backend: str = Backend.MASK

    def open(self, clients: Sequence[str], plan: Sequence[SumPlan]) -> None:
        self.policy.check_backend(self.backend)
        self.policy.check_plan(plan, self.settings.profile)
        self._cohort, self._plan, self._related = None, plan, None
        enough(self.policy, clients)
        self._cohort = set_up(self._sessions.masked(self.settings, clients, plan))

    def sum(self, number: int, contributions: Mapping[str, Contribution]) -> Aggregate:
        opened, server = self._opened(number, contributions), self.cohort.server
        spec = server.parameters.rounds[number]
        return self.cohort.timed(lambda: decoded(self._plan[number], spec, server.roster, opened), _DECODING)

    def solve(self, number: int, contributions: Mapping[str, Contribution]) -> tuple[Solution, Outcome]:
        one = self.sum(number, contributions)
        return solved_sum(self._plan[number], one), one

    def _run(self, number: int, contribute: Contribute, among: Collection[int] | None) -> OpenedSum:
        return self.cohort.sum(number, contribute, among)


class LocalSums:
    """What an aggregator whose `parties` are in this process can do besides."""

    parties: LocalSessions

    def renew(self, data_set: str, *, may_expose: bool = False) -> None:
        """Every client's owner lets a data set serve another session; see `Ledger.renew` for what that risks."""
        self.parties.renew(data_set, may_expose=may_expose)

    def close(self) -> None:
        """End the audit logs, if there are any."""
        if self.parties.logs:
            self.parties.logs.close()


class MaskedAggregator(MaskedSums, LocalSums):
    """Sums under pairwise masks: no party but the client sees its vector.

    Every client has an identity, a ledger and the `policy`, and keeps them from one session to the
    next. `watch` is called with each phase's name. `audit` is a folder for an audit log of each party, which `close`
    ends.

    Raises `PolicyError` where the policy asks for more than the cohort or the arguments give, and
    `RoundAbortedError` where too few clients are left: nothing is released then. A data set serves one
    session, also one that failed; `renew` lets it serve another.
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


def decoded(plan: SumPlan, spec: RoundSpec, roster: Roster, result: OpenedSum) -> Aggregate:
    """An opened sum of fixed-point units as real numbers. Raises `CryptoError` if clients cannot have made it."""
    code = spec.code(len(roster.members))
    return Aggregate(
        survivors=tuple(roster.name(place) for place in result.survivors),
        entry_error=0.0 if plan.exact else code.entry_error(len(result.survivors)),
        length=spec.length,
        total=code.decode_sum(result.values, len(result.survivors)),
        units=ring.signed(result.values, code.width),
        code=code,
    )


def warn_of_dropouts(clients: Sequence[str], sums: Sequence[Outcome]) -> None:
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

    backend: str = Backend.PLAIN

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self.policy.check_backend(self.backend)
        self._plan: Sequence[SumPlan] = ()

    def open(self, clients: Sequence[str], plan: Sequence[SumPlan]) -> None:
        if noisy := [one.statistic for one in plan if one.noise]:
            raise LocalProtocolError(
                f"{noisy[0]!r} has noise for differential privacy, which hides nothing in vectors sent in the clear"
            )
        self._plan = plan

    def sum(self, number: int, contributions: Mapping[str, Contribution]) -> Aggregate:
        total = added(vector for vector, _ in contributions.values())
        return Aggregate(tuple(contributions), 0.0, len(total), total)

    def solve(self, number: int, contributions: Mapping[str, Contribution]) -> tuple[Solution, Outcome]:
        one = self.sum(number, contributions)
        return solved_sum(self._plan[number], one), one
