"""What a client remembers across sessions so that no two sums can be combined against anybody.

A closed-form statistic does not drift between rounds as a gradient does, so the difference of two
sums of the same statistic is exact: if their survivors differ by one client, it is that client's
statistic. The rule here is stronger than a comparison of pairs: over all sums of one statistic that
this client helped to release, *no linear combination* may rest on fewer clients than the minimum
(compare So et al., arXiv 2106.03328).
"""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations

from secure_afl.protocol.errors import PolicyError

# The exact check below looks at all ways to cancel clients; more different sums than this are refused.
MOST_SURVIVOR_SETS = 4


class Ledger:
    """The memory of one client: sessions it took part in, and for whom it released which statistic.

    A statistic is known by the digest of the client's own data behind it, which the client computes:
    a server that calls the same sum by another name gains nothing. Sets of survivors are sets of
    identity keys. `crypto.kdf.Label.SOURCE` is the digest's label.
    """

    def __init__(self) -> None:
        self._sessions: set[bytes] = set()
        self._released: dict[bytes, list[frozenset[bytes]]] = {}

    def join(self, session: bytes) -> None:
        """Record a session; `PolicyError` if this client was in it before (a replay)."""
        if session in self._sessions:
            raise PolicyError(f"session {session.hex()[:16]}… was already run once; a replay is refused")
        self._sessions.add(session)

    def check(self, source: bytes, survivors: frozenset[bytes], minimum: int) -> None:
        """Raises `PolicyError` if a sum over `survivors` would, with earlier ones, expose a small group."""
        released = [*self._released.get(source, ())]
        if survivors in released:
            return
        if len(released) == MOST_SURVIVOR_SETS:
            raise PolicyError(
                f"sums of this statistic were released for {MOST_SURVIVOR_SETS} different survivor sets already; "
                "run it again with one of those sets"
            )
        smallest = _fewest_clients([*released, survivors])
        if smallest < minimum:
            raise PolicyError(
                f"this survivor set, with those released before for the same statistic of the same data, would "
                f"give away a combination of {smallest} client(s); the minimum is {minimum}"
            )

    def release(self, source: bytes, survivors: frozenset[bytes], minimum: int) -> None:
        """Check, then record that this client helps to open the sum over `survivors`."""
        self.check(source, survivors, minimum)
        released = self._released.setdefault(source, [])
        if survivors not in released:
            released.append(survivors)


def _fewest_clients(sets: Sequence[frozenset[bytes]]) -> int:
    """The fewest clients on which a non-zero linear combination of the sets' indicator vectors rests.

    A combination of least support vanishes on as many clients as it can: on clients whose columns
    (which sets a client is in) span all but one dimension. There are at most 2^sets − 1 different
    columns, so all choices can be tried, in exact arithmetic.
    """
    columns = Counter(tuple(int(client in one) for one in sets) for client in frozenset().union(*sets))
    rank = _rank(list(columns))
    best = sum(columns.values())
    for chosen in combinations(columns, rank - 1):
        if _rank(list(chosen)) == rank - 1:
            resting = sum(n for column, n in columns.items() if _rank([*chosen, column]) == rank)
            best = min(best, resting)
    return best


def _rank(rows: list[tuple[int, ...]]) -> int:
    """Rank over the rationals, by elimination."""
    left = [[Fraction(value) for value in row] for row in rows]
    rank = 0
    for column in range(len(rows[0]) if rows else 0):
        pivot = next((row for row in left if row[column]), None)
        if pivot is not None:
            left.remove(pivot)
            rank += 1
            left = [
                [a - b * row[column] / pivot[column] for a, b in zip(row, pivot, strict=True)] for row in left
            ]
    return rank
