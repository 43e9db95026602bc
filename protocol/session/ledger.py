"""What a client remembers across sessions so that no two sums can be subtracted from each other.

A closed-form statistic does not drift between rounds as a gradient does, so the difference of two
sums of the same statistic is exact: if their survivors differ by one client, it is that client's
statistic, and if one client's data changed by one record, it is that record (So et al.,
arXiv 2106.03328). No digest of the data can tell that two statistics are related, and a client sees
only some of the sums. So the rule leaves nothing to combine: a data set, by the name that its owner
gives it, serves *one session*, and there each planned sum once.
"""

from collections.abc import Collection

from secure_afl.protocol.session.errors import PolicyError


def replayed(session: bytes) -> PolicyError:
    """What is said to a session that comes a second time."""
    return PolicyError(f"session {session.hex()[:16]}… was already run once; a replay is refused")


def used_before(data_set: str, session: bytes) -> PolicyError:
    """What is said if a data set is wanted in another session than the one that it was used in."""
    return PolicyError(
        f"the data set {data_set!r} was used in session {session.hex()[:16]}… already: with a second "
        "sum, the difference of the two could expose single clients or records; if that is "
        "acceptable, its owner can renew it"
    )


class Ledger:
    """The memory of one client: the sessions it joined, and which session each data set was used in.

    This one is gone with its process; that of a `Store` stays.
    """

    def __init__(self) -> None:
        self._sessions: set[bytes] = set()
        self._used: dict[str, bytes] = {}

    def join(self, session: bytes) -> None:
        """Record a session; `PolicyError` if this client was in it before (a replay)."""
        if session in self._sessions:
            raise replayed(session)
        self._sessions.add(session)

    def use(self, data_set: str, session: bytes) -> None:
        """Record, before anything of it leaves, that a data set is used in a session.

        Raises `PolicyError` if it was used in another one, whether that ended well or not: what left the
        client may have been summed without its knowledge.
        """
        self.use_all([data_set], session)

    def use_all(self, data_sets: Collection[str], session: bytes) -> None:
        """Record several, or none of them if `use` would refuse one."""
        for data_set in data_sets:
            earlier = self._used.get(data_set, session)
            if earlier != session:
                raise used_before(data_set, earlier)
        self._used.update(dict.fromkeys(data_sets, session))

    def renew(self, data_set: str) -> None:
        """The owner's decision that a data set may serve another session.

        Whoever holds the sums of both sessions can subtract them: what changed in between, in anybody's
        data or in who survived, is exposed. Harmless if the earlier session released nothing to anybody.
        """
        self._used.pop(data_set, None)
