"""What a client remembers across sessions so that no two sums can be subtracted from each other.

A closed-form statistic does not drift between rounds as a gradient does, so the difference of two
sums of the same statistic is exact: if their survivors differ by one client, it is that client's
statistic, and if one client's data changed by one record, it is that record (So et al.,
arXiv 2106.03328). No digest of the data can tell that two statistics are related, and a client sees
only some of the sums. So the rule leaves nothing to combine: a data set, by the name that its owner
gives it, serves *one session*, and there each planned sum once.

A session that failed is no exception: a server that lies can open the sum, say that it failed, and leave one client out
of the next one. So the ledger also knows whether a vector of the data set left its client.
"""

from collections.abc import Collection

from secure_afl.protocol.session.errors import PolicyError

SHOWN = 8
"""Hexadecimal digits of a session's number by which people know it, in the ledger, in logs and on pages."""


def session_name(session: bytes) -> str:
    """How a session of that number is called."""
    return session.hex()[:SHOWN]


def replayed(session: bytes) -> PolicyError:
    """Error for a replayed session."""
    return PolicyError(f"session {session_name(session)}… was already run once; a replay is refused")


def used_before(data_set: str, session: bytes, uploaded: bool) -> PolicyError:
    """Error for a data set that is wanted in another session than the one that it was used in."""
    known = f"the data set {data_set!r} was used in session {session_name(session)}… already"
    if not uploaded:
        return PolicyError(
            f"{known}, and no vector of it left: its owner can renew it (secure-afl ledger renew)"
        )
    return PolicyError(
        f"{known}, and a vector of it left: with a second sum, the difference of the two could expose this client or "
        "single records, also if the server says that the first sum failed"
    )


def exposing(data_set: str, session: bytes) -> PolicyError:
    """Error for a renewal after an upload by an owner who did not say that it may expose the data set."""
    return PolicyError(
        f"a vector of the data set {data_set!r} left in session {session_name(session)}…: renewed, a server that opened "
        "that sum, whatever it said of it, can leave this client out of the next one, and the difference of the two is "
        "this client's statistic, exactly. An owner who accepts that says so: may_expose, or on the command line "
        "--may-expose-this-data-set"
    )


class Ledger:
    """The memory of one client: the sessions it joined, and of each data set the session that it was used in, and
    whether a vector of it left.

    This one is gone with its process; that of a `Store` stays.
    """

    def __init__(self) -> None:
        self._sessions: set[bytes] = set()
        self._used: dict[str, tuple[bytes, bool]] = {}

    def join(self, session: bytes) -> None:
        """Record a session; `PolicyError` if this client was in it before (a replay)."""
        if session in self._sessions:
            raise replayed(session)
        self._sessions.add(session)

    def use(self, data_set: str, session: bytes, *, leaves: bool = True) -> None:
        """Record, before anything of it leaves, that a data set is used in a session.

        leaves: whether a vector of it leaves next. Raises `PolicyError` if it was used in another one, whether that
        ended well or not: what left the client may have been summed without its knowledge.
        """
        self.use_all([data_set], session, leaves=leaves)

    def use_all(self, data_sets: Collection[str], session: bytes, *, leaves: bool = True) -> None:
        """Record several, or none of them if `use` would refuse one."""
        for data_set in data_sets:
            earlier, uploaded = self.used(data_set) or (session, False)
            if earlier != session:
                raise used_before(data_set, earlier, uploaded)
        self._record(data_sets, session, leaves)

    def renew(self, data_set: str, *, may_expose: bool = False) -> tuple[bytes, bool] | None:
        """The owner's decision that a data set may serve another session; gives what `used` gave.

        Harmless if no vector of it left. Otherwise whoever holds the sums of both sessions can subtract them: what
        changed in between, in anybody's data or in who survived, is exposed; a server that lies chooses that it is this
        client. may_expose: whether the owner accepts that. Raises `PolicyError` if not.
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
        """The session in which a data set was used, and whether a vector of it left; None if it was in none."""
        return self._used.get(data_set)

    def _record(self, data_sets: Collection[str], session: bytes, uploaded: bool) -> None:
        for data_set in data_sets:
            _, before = self._used.get(data_set, (session, False))
            self._used[data_set] = session, before or uploaded

    def _forget(self, data_set: str) -> None:
        self._used.pop(data_set, None)
