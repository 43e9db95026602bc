"""Our aggregators as neutral systems, for the checks of `secure_afl.testing.check`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from secure_afl.crypto.errors import SecureAflError
from secure_afl.protocol.session.parameters import SumPlan
from secure_afl.protocol.transport.driver import Network, Packet, PerfectNetwork
from secure_afl.sums.aggregation import Aggregate, Aggregator
from secure_afl.testing.record import Claims, claims
from secure_afl.testing.systems import Carry

FRACTION_BITS = 16


@dataclass
class _Link:
    """Our `Network` on a neutral `carry`."""

    carried: Carry
    clients: Sequence[str] = field(default_factory=tuple)

    def carry(self, packet: Packet) -> Iterable[Packet]:
        known = packet.client < len(self.clients)
        party = (
            self.clients[packet.client] if known else f"key holder {packet.client - len(self.clients) + 1}"
        )
        parties = (party, "server") if packet.upward else ("server", party)
        return [replace(packet, data=data) for data in self.carried(packet.phase, *parties, packet.data)]

    def flush(self, phase: str) -> Iterable[Packet]:
        return []


class Ours:
    """One of our aggregators, as `secure_afl.testing.systems` describes a system."""

    refusals = (SecureAflError, ValueError)

    def __init__(self, make: Callable[[Network], Aggregator], stated: Claims, carry: Carry) -> None:
        self.claims = stated
        self._link = _Link(carry)
        self._aggregator: Any = make(self._link)
        self._data_set = ""

    def open(
        self, clients: list[str], lengths: list[int], data_set: str = "rows", related: bool = False
    ) -> None:
        """Open a session."""
        self._link.clients, self._data_set = clients, data_set
        self._aggregator.open(
            clients,
            [
                SumPlan(f"gram matrix {at}", length, self.claims.bound, FRACTION_BITS, same_survivors=related)
                for at, length in enumerate(lengths)
            ],
        )

    def sum(self, number: int, vectors: Mapping[str, Any]) -> Aggregate:
        """One sum."""
        made: Aggregate = self._aggregator.sum(
            number, {name: (vector, self._data_set) for name, vector in vectors.items()}
        )
        return made

    def renew(self, data_set: str) -> None:
        """Renew a data set at every client."""
        self._aggregator.renew(data_set, may_expose=True)


def neutral(make: Callable[[Network], Aggregator], **stated: Any) -> Callable[[Carry], Ours]:
    """A factory for `check_aggregator`.

    Parameters
    ----------
    make : callable
        Makes an aggregator on a network.
    **stated
        Claims that differ from these: five clients, one of which may be lost, exact sums within ±2**26, everything claimed.

    Returns
    -------
    callable
    """
    policy = make(PerfectNetwork()).policy
    cohort, lost = stated.get("cohort", 5), stated.get("dropouts", 1)
    ours = {
        "name": "secure-afl",
        "clients": (3, 9),
        "dropouts": lost,
        "least": policy.least_survivors(cohort),
        "fraction_bits": FRACTION_BITS,
        "bound": 2.0**26,
        "ledger": True,
        "renewal": True,
        "related": True,
        "authenticated": True,
    }
    made = claims(ours | stated)
    return lambda carry: Ours(make, made, carry)
