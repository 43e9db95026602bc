"""The graph of which clients share masks: neighbours, degree and threshold (Bell et al., CCS 2020, §3).

It is a Harary graph on a circle whose order the transcript determines: a client's neighbours are the `degree/2` next
clients on either side. Small cohorts, and all cohorts under the active profile, use the complete graph.
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
    """degree: number of a client's neighbours; threshold: shares needed to open one of its secrets."""

    degree: int
    threshold: int


def choose(n: int, profile: Profile, *, corrupted: int, dropout: float, rounds: int = 1) -> Neighbourhood:
    """Choose the sparsest safe graph for n clients.

    corrupted: clients that collude with the server. dropout: fraction of clients that drops out in each of the rounds.
    A private input leaks during the session with probability below 2⁻⁴⁰, and a sum fails with probability below 2⁻²⁰.
    The complete graph is deterministic: it tolerates exactly ⌊dropout·n⌋ dropouts, which can be 0.
    Raises `LocalProtocolError` if no graph is safe.
    """
    gone = ceil(dropout * n)
    if profile is Profile.SEMI_HONEST:
        for degree in range(2, n - 1, 2):
            lowest = least_threshold(profile, n, degree)
            for threshold in range(lowest, degree + 1):
                if _loss(n, degree, threshold, gone) > CORRECTNESS_FAILURE:
                    break  # a higher threshold only loses more sums
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
            f"{corrupted} corrupted clients of {n} are more than the {profile.value} profile tolerates"
        )
    return Neighbourhood(n - 1, threshold)


def least_threshold(profile: Profile, n: int, degree: int) -> int:
    """The least threshold: more than half of a client and its neighbours; against an active server more than two
    thirds of all clients.

    With more than two thirds, two different survivor sets can both gather enough consents only if a third of the cohort
    signs twice.
    """
    return floor(2 * n / 3) + 1 if profile is Profile.ACTIVE else (degree + 1) // 2 + 1


def exposure(
    profile: Profile, n: int, degree: int, threshold: int, corrupted: int, gone: int, *, rounds: int = 1
) -> float:
    """Bound on the probability that the graph fails to protect some honest client in a session of `rounds` rounds.

    It adds two cases, as union bounds over hypergeometric tails:

    - `threshold` of a client's neighbours are corrupted. The session's one graph decides this for all rounds.
    - The graph of the honest survivors falls apart. This takes degree/2 lost clients in a row on the circle, and each
      round is a new chance, as different clients drop out.

    In the complete graph the first case is certain or impossible and the second cannot happen. An active server also
    wins if the corrupted clients suffice to bring two survivor sets over the threshold.
    """
    if degree == n - 1:
        return float(corrupted >= (2 * threshold - n if profile is Profile.ACTIVE else threshold))
    from scipy.stats import hypergeom  # loads 50 MB; the complete graph does not need it

    opened = hypergeom.sf(threshold - 1, n - 1, min(corrupted, n - 1), degree)
    torn = hypergeom.pmf(degree // 2, n, min(n, corrupted + gone), degree // 2)
    return min(1.0, n * float(opened + rounds * torn))


def _loss(n: int, degree: int, threshold: int, gone: int) -> float:
    """Bound on the probability that some client keeps fewer than `threshold` surviving neighbours."""
    from scipy.stats import hypergeom

    return min(1.0, n * float(hypergeom.cdf(threshold - 1, n - 1, max(0, n - 1 - gone), degree)))


class Graph:
    """The neighbours of each client, by member number: `graph[client]`. Every party with the transcript gets the same
    graph."""

    def __init__(self, parameters: Parameters) -> None:
        self._members = frozenset(parameters.cohort)
        self._complete = parameters.complete
        if not self._complete:
            self._cohort = np.array(parameters.cohort)
            # One keystream orders thousands of clients; one hash per client would take most of a client's time.
            draw = keystream(digest(Label.GRAPH, parameters.transcript()))
            order = np.frombuffer(draw(8 * len(self._cohort)), "<u8").argsort(kind="stable")
            self._circle = self._cohort[order]
            self._indices = order.argsort()
            reach = parameters.degree // 2
            self._steps = np.array([step for step in range(-reach, reach + 1) if step])

    def __getitem__(self, client: int) -> frozenset[int]:
        if self._complete:
            return self._members - {client}
        at = self._indices[self._cohort.searchsorted(client)]
        return frozenset(self._circle[(at + self._steps) % len(self._circle)].tolist())
