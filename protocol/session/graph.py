"""Who masks with whom: the neighbour graph, its degree and threshold (Bell et al., CCS 2020, §3).

The graph is Harary's on a circle in an order drawn from the transcript: each client's neighbours are
the `degree/2` next ones on either side. Small cohorts, and every cohort under the active profile, use
the complete graph.
"""

from dataclasses import dataclass
from math import ceil, floor

import numpy as np

from secure_afl.crypto.kdf import Label, digest
from secure_afl.crypto.prg import keystream
from secure_afl.protocol.session.errors import LocalProtocolError
from secure_afl.protocol.session.parameters import Parameters, Profile

SECURITY_FAILURE = 2.0**-40
CORRECTNESS_FAILURE = 2.0**-20


@dataclass(frozen=True)
class Neighbourhood:
    """degree: neighbours of a client; threshold: shares that open a secret of it."""

    degree: int
    threshold: int


def choose(n: int, profile: Profile, *, corrupted: int, dropout: float, rounds: int = 1) -> Neighbourhood:
    """The sparsest graph for n clients, `corrupted` of which collude with the server while in each of so many rounds a
    fraction drops out.

    A private input leaks in the whole session with probability below 2⁻⁴⁰, and a sum fails with probability below 2⁻²⁰. In the
    complete graph nothing is left to chance: it bears ⌊dropout·n⌋ dropouts, which may be none.
    Raises `LocalProtocolError` if no graph serves.
    """
    gone = ceil(dropout * n)
    if profile is Profile.SEMI_HONEST:
        for degree in range(2, n - 1, 2):
            lowest = least_threshold(profile, n, degree)
            for threshold in range(lowest, degree + 1):
                if _loss(n, degree, threshold, gone) > CORRECTNESS_FAILURE:
                    break  # a higher threshold only loses more
                risk = exposure(profile, n, degree, threshold, corrupted, gone, rounds=rounds)
                if risk <= SECURITY_FAILURE:
                    return Neighbourhood(degree, threshold)
    threshold = least_threshold(profile, n, n - 1)
    left = n - floor(dropout * n)
    if left < threshold:
        raise LocalProtocolError(
            f"{n} clients with {dropout:.0%} dropouts leave {left} survivors, fewer than the "
            f"threshold {threshold} of the {profile.value} profile"
        )
    if exposure(profile, n, n - 1, threshold, corrupted, gone, rounds=rounds) > SECURITY_FAILURE:
        raise LocalProtocolError(
            f"{corrupted} corrupted clients of {n} are more than the {profile.value} profile bears"
        )
    return Neighbourhood(n - 1, threshold)


def least_threshold(profile: Profile, n: int, degree: int) -> int:
    """More than half of a client and its neighbours; more than two thirds of all against an active server.

    With more than two thirds, two different survivor sets cannot both gather enough consents unless a
    third of the cohort signs twice.
    """
    return floor(2 * n / 3) + 1 if profile is Profile.ACTIVE else (degree + 1) // 2 + 1


def exposure(
    profile: Profile, n: int, degree: int, threshold: int, corrupted: int, gone: int, *, rounds: int = 1
) -> float:
    """Bound on the probability that the graph fails to protect some honest client in a session of so many rounds.

    Either `threshold` of its neighbours are corrupted, which the one graph of the session decides for all rounds, or the
    honest survivors' graph falls apart, which takes degree/2 lost clients in a row somewhere on the circle, and can
    happen in each round anew, as others drop out; union bounds over hypergeometric tails. In the complete graph the first is certain or impossible and the second cannot happen; an
    active server also wins if the corrupted suffice to bring two survivor sets over the threshold.
    """
    if degree == n - 1:
        return float(corrupted >= (2 * threshold - n if profile is Profile.ACTIVE else threshold))
    from scipy.stats import hypergeom  # 50 MB, and not for the complete graph

    opened = hypergeom.sf(threshold - 1, n - 1, min(corrupted, n - 1), degree)
    torn = hypergeom.pmf(degree // 2, n, min(n, corrupted + gone), degree // 2)
    return min(1.0, n * float(opened + rounds * torn))


def _loss(n: int, degree: int, threshold: int, gone: int) -> float:
    """Bound on the probability that some client keeps fewer than `threshold` surviving neighbours."""
    from scipy.stats import hypergeom

    return min(1.0, n * float(hypergeom.cdf(threshold - 1, n - 1, max(0, n - 1 - gone), degree)))


class Graph:
    """The neighbours of each client, by member number: `graph[client]`; the same for all who hold the transcript."""

    def __init__(self, parameters: Parameters) -> None:
        self._members = frozenset(parameters.cohort)
        self._complete = parameters.complete
        if not self._complete:
            self._cohort = np.array(parameters.cohort)
            # Thousands are put in an order by one keystream, as a hash for each would be most of a client's time.
            draw = keystream(digest(Label.GRAPH, parameters.transcript()))
            order = np.frombuffer(draw(8 * len(self._cohort)), "<u8").argsort(kind="stable")
            self._circle = self._cohort[order]
            self._places = order.argsort()
            reach = parameters.degree // 2
            self._steps = np.array([step for step in range(-reach, reach + 1) if step])

    def __getitem__(self, client: int) -> frozenset[int]:
        if self._complete:
            return self._members - {client}
        at = self._places[self._cohort.searchsorted(client)]
        return frozenset(self._circle[(at + self._steps) % len(self._circle)].tolist())
