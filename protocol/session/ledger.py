"""A client's record of used data sets across sessions. It prevents the subtraction of two sums from each other.

A closed-form statistic does not change between rounds as a gradient does, so the difference of two sums of the same
statistic is exact. If their survivors differ by one client, the difference is that client's statistic; if one client's
data changed by one record, it is that record (So et al., arXiv 2106.03328). No digest of the data can show that two
statistics are related, and a client sees only some of the sums. Hence the rule: a data set, by the name that its owner
gives it, serves *one session*, and each planned sum of that session once.

A failed session counts too: a lying server can open the sum, claim that it failed, and leave one client out of the next
session. So the ledger also records whether a vector of the data set left its client.
"""

from collections.abc import Collection

from secure_afl.protocol.session.errors import PolicyError

SHOWN = 8
"""Hexadecimal digits of a session's number that identify it in the ledger, in logs and on pages."""


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
    """

    def __init__(self) -> None:
        self._sessions: set[bytes] = set()
        self._used: dict[str, tuple[bytes, bool]] = {}

    def join(self, session: bytes) -> None:
        """Record a session. Raises `PolicyError` if this client was in it before (a replay)."""
        if session in self._sessions:
            raise replayed(session)
        self._sessions.add(session)

    def use(self, data_set: str, session: bytes, *, leaves: bool = True) -> None:
        """Record that a session uses a data set, before any of it leaves the client.

        leaves: whether a vector of it leaves next. Raises `PolicyError` if an earlier session used it, even one that
        failed: its sum may have been opened without this client's knowledge.
        """
        self.use_all([data_set], session, leaves=leaves)

    def use_all(self, data_sets: Collection[str], session: bytes, *, leaves: bool = True) -> None:
        """Record several data sets, or none if `use` would refuse one."""
        for data_set in data_sets:
            earlier, uploaded = self.used(data_set) or (session, False)
            if earlier != session:
                raise used_before(data_set, earlier, uploaded)
        self._record(data_sets, session, leaves)

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

    def _record(self, data_sets: Collection[str], session: bytes, uploaded: bool) -> None:
        for data_set in data_sets:
            _, before = self._used.get(data_set, (session, False))
            self._used[data_set] = session, before or uploaded

    def _forget(self, data_set: str) -> None:
        self._used.pop(data_set, None)
