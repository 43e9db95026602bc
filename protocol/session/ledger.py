"""A client's record of used data sets across sessions. It prevents the subtraction of two sums from each other.

A closed-form statistic does not change between rounds as a gradient does, so the difference of two sums of the same
statistic is exact. If their survivors differ by one client, the difference is that client's statistic; if one client's
data changed by one record, it is that record (So et al., arXiv 2106.03328). No digest of the data can show that two
statistics are related, and a client sees only some of the sums. Hence the rule: a data set, by the name that its owner
gives it, serves *one session*, and each planned sum of that session once.

A failed session counts too: a lying server can open the sum, claim that it failed, and leave one client out of the next
session. So the ledger also records whether a vector of the data set left its client.

With noise (differential privacy) the difference of two sums contains the noise of both, and what all sums together reveal of
a record is known: it composes. So a data set may serve several such sessions until they have spent the budget of its
owner's policy. The ledger records what each of them spent, even if it failed.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from secure_afl.protocol.session.errors import PolicyError

SHOWN = 8
"""Hexadecimal digits of a session's number that identify it in the ledger, in logs and on pages."""


@dataclass(frozen=True)
class Spending:
    """What a session with noise tells of a record at most: (epsilon, delta), by `sums` sums with Gaussian noise whose
    deviation is `multiplier` times what the record can change.
    """

    epsilon: float
    delta: float
    multiplier: float
    sums: int


@dataclass(frozen=True)
class Budget:
    """The most that all sessions together may tell of a record of a data set."""

    epsilon: float
    delta: float


Compose = Callable[[Sequence[Spending], float], float]
"""The ε of several sessions on the same records at a δ; infinite if that δ cannot be kept."""


def added_up(spendings: Sequence[Spending], delta: float) -> float:
    """The plainest composition, always true: all ε, if all δ together are no more than this one."""
    whole = math.fsum(one.delta for one in spendings) <= delta
    return math.fsum(one.epsilon for one in spendings) if whole else math.inf


def over_budget(data_set: str, before: float, after: float, budget: Budget) -> PolicyError:
    """Error for a session that would spend more than is left."""
    return PolicyError(
        f"the data set {data_set!r} has spent ε = {before:.3g} of {budget.epsilon:g} at δ = {budget.delta:g} "
        f"(budget_epsilon in policy.toml), so ε = {max(budget.epsilon - before, 0.0):.3g} is left; this session would bring "
        f"it to {after:.3g}: agree on more noise, or contribute other rows"
    )


def session_name(session: bytes) -> str:
    """A session's short name."""
    return session.hex()[:SHOWN]


def replayed(session: bytes) -> PolicyError:
    """Error for a replayed session."""
    return PolicyError(f"session {session_name(session)}… was already run once; a replay is refused")


def used_before(data_set: str, session: bytes, uploaded: bool) -> PolicyError:
    """Error for a data set that was already used in a different session."""
    known = f"the data set {data_set!r} was used in session {session_name(session)}… already"
    if not uploaded:
        return PolicyError(
            f"{known}, but no vector of it left: its owner can renew it (secure-afl ledger renew)"
        )
    return PolicyError(
        f"{known}, and a vector of it left this client: the difference between that sum and a second one could expose this "
        "client or single records, even if the server says that the first sum failed"
    )


def exposing(data_set: str, session: bytes) -> PolicyError:
    """Error for renewing a data set after an upload, without the owner's consent to exposure."""
    return PolicyError(
        f"a vector of the data set {data_set!r} left this client in session {session_name(session)}…: if the data set is "
        "renewed, a server that opened that sum, whatever it said of it, can leave this client out of the next session; "
        "the difference of the two sums is then exactly this client's statistic. To accept this risk: may_expose, or on "
        "the command line "
        "--may-expose-this-data-set"
    )


class Ledger:
    """One client's record: the sessions it joined, and for each data set its session and whether a vector left.

    This class keeps it in memory and loses it with the process; a `Store` keeps it on disk.
    compose: how the spendings of several sessions add up.
    """

    compose: Compose = staticmethod(added_up)

    def __init__(self) -> None:
        self._sessions: set[bytes] = set()
        self._used: dict[str, tuple[bytes, bool]] = {}
        self._spent: dict[str, dict[bytes, Spending]] = {}

    def join(self, session: bytes) -> None:
        """Record a session. Raises `PolicyError` if this client was in it before (a replay)."""
        if session in self._sessions:
            raise replayed(session)
        self._sessions.add(session)

    def use(
        self,
        data_set: str,
        session: bytes,
        *,
        leaves: bool = True,
        spends: Spending | None = None,
        budget: Budget | None = None,
    ) -> None:
        """Record that a session uses a data set, before any of it leaves the client.

        leaves: whether a vector of it leaves next. spends: what the whole session spends, if all its sums have noise.
        Raises as `check`.
        """
        self.use_all([data_set], session, leaves=leaves, spends=spends, budget=budget)

    def use_all(
        self,
        data_sets: Collection[str],
        session: bytes,
        *,
        leaves: bool = True,
        spends: Spending | None = None,
        budget: Budget | None = None,
    ) -> None:
        """Record several data sets, or none if `use` would refuse one."""
        for data_set in data_sets:
            self.check(data_set, session, spends, budget)
        self._record(data_sets, session, leaves)
        if spends:
            self._spend(data_sets, session, spends)

    def check(self, data_set: str, session: bytes, spends: Spending | None, budget: Budget | None) -> None:
        """Raise `PolicyError` if another session used the data set, even one that failed: its sum may have been opened
        without this client's knowledge; or, with noise and a budget, if this session would exceed the budget.
        """
        spent = self.spent(data_set)
        earlier, uploaded = self.used(data_set) or (session, False)
        if earlier != session and not (spends and budget and earlier in spent):
            raise used_before(data_set, earlier, uploaded)
        if spends and budget:
            others = [one for other, one in spent.items() if other != session]
            after = self.compose([*others, spends], budget.delta)
            if not after <= budget.epsilon:
                raise over_budget(data_set, self.compose(others, budget.delta), after, budget)

    def renew(self, data_set: str, *, may_expose: bool = False) -> tuple[bytes, bool] | None:
        """Let a data set serve another session, as its owner decides. Returns its previous entry, as `used` does.

        This is harmless if no vector of it left. Otherwise whoever holds the sums of both sessions can subtract them,
        which exposes every change in the data or the survivors; a lying server can arrange that the change is this
        client. may_expose: whether the owner accepts this. Raises `PolicyError` if a vector left and the owner does not.
        """
        known = self.used(data_set)
        if known is None:
            return None
        session, uploaded = known
        if uploaded and not may_expose:
            raise exposing(data_set, session)
        self._forget(data_set)
        return known

    def used(self, data_set: str) -> tuple[bytes, bool] | None:
        """The session that used a data set, and whether a vector of it left; None if no session used it."""
        return self._used.get(data_set)

    def spent(self, data_set: str) -> Mapping[bytes, Spending]:
        """What each session with noise spent of a data set, also after `renew`."""
        return self._spent.get(data_set, {})

    def _record(self, data_sets: Collection[str], session: bytes, uploaded: bool) -> None:
        for data_set in data_sets:
            earlier, before = self._used.get(data_set, (session, False))
            self._used[data_set] = session, uploaded or (before and earlier == session)

    def _spend(self, data_sets: Collection[str], session: bytes, spends: Spending) -> None:
        for data_set in data_sets:
            self._spent.setdefault(data_set, {})[session] = spends

    def _forget(self, data_set: str) -> None:
        self._used.pop(data_set, None)
