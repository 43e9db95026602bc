"""What a client insists on, whatever the server proposes.

The defaults are the safe ones: an active server is assumed, only masked uploads leave, keys are
hybrid post-quantum. A client's operator may widen a policy; the server cannot.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from secure_afl.crypto.hpke import Suite
from secure_afl.protocol.session import graph
from secure_afl.protocol.session.backend import Backend
from secure_afl.protocol.session.errors import PolicyError
from secure_afl.protocol.session.parameters import Parameters, Profile, SumPlan


@dataclass(frozen=True)
class Policy:
    """The least that a client accepts.

    minimum_honest: fewest survivors of a sum that do not collude with the server; the collusion that is
        assumed comes on top.
    corrupted: the fraction of the *roster* assumed to collude with the server, which picks the cohort and
        may pick them all. dropout: the fraction of the cohort that may drop out.
    backends: how a statistic may leave, as names of `Backend`: "mask"; others must be added. "bfv+mask" protects no less; with "bfv"
        or "ckks" one client that helps the server is enough to read others' uploads; "plain" shows everything.
    trusts_reports: whether, even under the active profile, to take as true what the server says of earlier sums
        (weights of hidden layers, sizes of groups), where a lie could make a later sum tell of one client.
    """

    minimum_honest: int = 2
    corrupted: float = 0.1
    dropout: float = 0.2
    backends: frozenset[str] = frozenset({Backend.MASK})
    profiles: frozenset[Profile] = frozenset({Profile.ACTIVE})
    suites: frozenset[Suite] = frozenset({Suite.HYBRID})
    trusts_reports: bool = False

    def __post_init__(self) -> None:
        if self.minimum_honest < 2:
            raise PolicyError(f"expected at least 2 honest clients in a sum, got {self.minimum_honest}")
        for name, fraction in (("corrupted", self.corrupted), ("dropout", self.dropout)):
            if not 0 <= fraction < 1:
                raise PolicyError(f"expected a {name} fraction from 0 to below 1, got {fraction}")
        if unknown := sorted(self.backends.difference(Backend)):
            raise PolicyError(f"expected backends out of {', '.join(Backend)}, got {unknown[0]!r}")
        for name in ("backends", "profiles", "suites"):
            if not getattr(self, name):
                raise PolicyError(f"expected at least one entry in {name}, the list is empty")

    def colluders(self, roster: int) -> int:
        """How many members of a roster of this size may collude with the server."""
        return ceil(self.corrupted * roster)

    def dropouts(self, cohort: int) -> int:
        """How many members of a cohort of this size may drop out."""
        return ceil(self.dropout * cohort)

    def least_survivors(self, roster: int) -> int:
        """Fewest survivors of a sum that still hide an honest client among honest ones."""
        return self.minimum_honest + self.colluders(roster)

    def check_backend(self, backend: str) -> None:
        """Raises `PolicyError` if statistics may not leave in this form."""
        if backend not in self.backends:
            raise PolicyError(
                f"the backend {str(backend)!r} is not allowed by this client's policy, which allows "
                f"{', '.join(sorted(self.backends))}"
            )

    def check_group(self, what: str, size: int, roster: int, survivors: int = 0) -> None:
        """Raises `PolicyError` if a sum over `size` members of the roster does not hide one of them."""
        least = max(self.least_survivors(roster), survivors)
        if size < least:
            raise PolicyError(f"expected at least {least} {what}, the server named {size}")

    def check_plan(self, plan: Sequence[SumPlan], profile: Profile) -> None:
        """Raises `PolicyError` if a sum of the plan trusts the server and the profile does not."""
        trusting = [one.statistic for one in plan if one.trusts_server]
        if trusting and profile is Profile.ACTIVE and not self.trusts_reports:
            raise PolicyError(
                f"{trusting[0]!r} hides a client only if the server reports earlier sums truthfully, and the "
                "active profile assumes that it may lie: plan without that sum (encoder seeded, one group), or let "
                "the policy take reports as true (trusts_reports)"
            )

    def check(self, parameters: Parameters, roster: int) -> None:
        """Raises `PolicyError` with the first point on which `parameters` ask for too little.

        roster: how many members the client's own roster has.
        """
        self.check_backend(Backend.BFV_MASK if parameters.encrypted else Backend.MASK)
        n, profile, threshold = len(parameters.cohort), parameters.profile, parameters.threshold
        needed = graph.least_threshold(profile, n, parameters.degree)
        least, colluders = self.least_survivors(roster), self.colluders(roster)
        demands = (
            (profile in self.profiles, f"profile {_names(self.profiles)}", profile.value),
            (parameters.suite in self.suites, f"suite {_names(self.suites)}", parameters.suite.value),
            (n >= least, f"a cohort of at least {least} ({colluders} may collude)", n),
            (threshold >= needed, f"a threshold of at least {needed} for {n} clients", threshold),
        )
        for met, expected, got in demands:
            if not met:
                raise PolicyError(f"policy asks for {expected}, the server proposed {got}")
        rounds = len(parameters.rounds)
        gone = self.dropouts(n)
        risk = graph.exposure(profile, n, parameters.degree, threshold, colluders, gone, rounds=rounds)
        if risk > graph.SECURITY_FAILURE:
            raise PolicyError(
                f"policy asks for a failure probability of at most {graph.SECURITY_FAILURE:.1e} with {colluders} "
                f"clients corrupted and {self.dropout:.0%} dropped out; {parameters.degree} neighbours and "
                f"threshold {threshold} give {risk:.1e} over {rounds} rounds"
            )


def _names(allowed: frozenset[Profile] | frozenset[Suite]) -> str:
    return " or ".join(sorted(item.value for item in allowed))
