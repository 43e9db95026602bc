"""What a client remembers across sessions so that no two sums can be subtracted from each other.

A closed-form statistic does not drift between rounds as a gradient does, so the difference of two
sums of the same statistic is exact: if their survivors differ by one client, it is that client's
statistic (So et al., arXiv 2106.03328). A client sees only the sums that it helps to release, and a
server could combine sums of which no single client saw enough. So the rule leaves nothing to combine:
one statistic of the same data is released for *one* survivor set, under one fixed-point code.
Why that holds against a server that asks different clients is argued in docs/threat-model.md.
"""

from dataclasses import dataclass

from secure_afl.protocol.errors import PolicyError
from secure_afl.protocol.parameters import RoundSpec


@dataclass(frozen=True)
class _Release:
    survivors: frozenset[bytes]
    code: tuple[int, int, int]


class Ledger:
    """The memory of one client: sessions it took part in, and for whom it released which statistic.

    A statistic is known by its source, the digest of the client's own data behind it, which the client
    computes: a server that calls the same sum by another name gains nothing. Survivors are identity keys.
    """

    def __init__(self) -> None:
        self._sessions: set[bytes] = set()
        self._released: dict[bytes, _Release] = {}

    def join(self, session: bytes) -> None:
        """Record a session; `PolicyError` if this client was in it before (a replay)."""
        if session in self._sessions:
            raise PolicyError(f"session {session.hex()[:16]}… was already run once; a replay is refused")
        self._sessions.add(session)

    def check_participants(self, source: bytes, participants: frozenset[bytes]) -> None:
        """Raises `PolicyError` if no survivor set of a round with these participants could be allowed."""
        earlier = self._released.get(source)
        if earlier and not earlier.survivors <= participants:
            raise PolicyError(
                f"a sum of this statistic was released for {len(earlier.survivors)} survivors; without "
                f"{len(earlier.survivors - participants)} of them the difference would expose single clients"
            )

    def check(self, source: bytes, spec: RoundSpec, survivors: frozenset[bytes]) -> None:
        """Raises `PolicyError` if a sum over `survivors` could be combined with an earlier one."""
        earlier = self._released.get(source)
        if earlier and earlier.survivors != survivors:
            raise PolicyError(
                f"a sum of this statistic of the same data was released for another survivor set, which "
                f"differs by {len(earlier.survivors ^ survivors)} client(s): the difference would expose them"
            )
        if earlier and earlier.code != _code(spec):
            raise PolicyError("a sum of this statistic was released under another fixed-point code")

    def release(self, source: bytes, spec: RoundSpec, survivors: frozenset[bytes]) -> None:
        """Check, then record that this client helps to open the sum over `survivors`."""
        self.check(source, spec, survivors)
        self._released[source] = _Release(survivors, _code(spec))


def _code(spec: RoundSpec) -> tuple[int, int, int]:
    return spec.fraction_bits, spec.magnitude, spec.width
