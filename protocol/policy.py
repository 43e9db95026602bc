"""What a client insists on, whatever the server proposes.

The defaults are the safe ones: an active server is assumed, only masked uploads leave, keys are
hybrid post-quantum. A client's operator may widen a policy; the server cannot.
"""

from dataclasses import dataclass, field

from secure_afl.crypto.hpke import Suite
from secure_afl.protocol.errors import PolicyError
from secure_afl.protocol.masking import graph
from secure_afl.protocol.parameters import Parameters, Profile


@dataclass(frozen=True)
class Policy:
    """The least that a client accepts.

    minimum_cohort: fewest survivors of a sum, and fewest clients that any combination of the sums of
        one statistic may rest on.
    backends: how a statistic may leave: "mask"; "plain" must be added by name.
    corrupted, dropout: the fractions of clients assumed to collude with the server, and to drop out.
    longest_sum: most values of one round (memory that a server can ask for).
    most_rounds: most rounds of one session.
    least_fraction_bits: coarsest fixed-point code that is still a useful sum.
    """

    minimum_cohort: int = 3
    backends: frozenset[str] = frozenset({"mask"})
    profiles: frozenset[Profile] = frozenset({Profile.ACTIVE})
    suites: frozenset[Suite] = field(default_factory=lambda: frozenset({Suite.HYBRID}))
    corrupted: float = 0.1
    dropout: float = 0.2
    longest_sum: int = 2**27
    most_rounds: int = 256
    least_fraction_bits: int = 8

    def __post_init__(self) -> None:
        if self.minimum_cohort < 2:
            raise PolicyError(
                f"expected a minimum cohort of at least 2 (one client has no sum), got {self.minimum_cohort}"
            )
        for name, fraction in (("corrupted", self.corrupted), ("dropout", self.dropout)):
            if not 0 <= fraction < 1:
                raise PolicyError(f"expected a {name} fraction from 0 to below 1, got {fraction}")

    def check_backend(self, backend: str) -> None:
        """Raises `PolicyError` if statistics may not leave in this form."""
        if backend not in self.backends:
            raise PolicyError(
                f"the backend {backend!r} is not allowed by this client's policy, which allows "
                f"{', '.join(sorted(self.backends))}"
            )

    def check(self, parameters: Parameters) -> None:
        """Raises `PolicyError` with the first point on which `parameters` ask for too little."""
        self.check_backend("mask")
        n = len(parameters.cohort)
        longest = max(spec.length for spec in parameters.rounds)
        coarsest = min(spec.fraction_bits for spec in parameters.rounds)
        needed = graph.least_threshold(parameters.profile, n, parameters.degree)
        demands = (
            (
                parameters.profile in self.profiles,
                f"profile {_names(self.profiles)}",
                parameters.profile.value,
            ),
            (parameters.suite in self.suites, f"suite {_names(self.suites)}", parameters.suite.value),
            (n >= self.minimum_cohort, f"a cohort of at least {self.minimum_cohort}", n),
            (
                parameters.complete or parameters.profile is Profile.SEMI_HONEST,
                "every client as a neighbour under the active profile",
                f"{parameters.degree} of {n - 1}",
            ),
            (
                parameters.threshold >= needed,
                f"a threshold of at least {needed} for {n} clients",
                parameters.threshold,
            ),
            (longest <= self.longest_sum, f"at most {self.longest_sum} values a round", longest),
            (
                len(parameters.rounds) <= self.most_rounds,
                f"at most {self.most_rounds} rounds",
                len(parameters.rounds),
            ),
            (
                coarsest >= self.least_fraction_bits,
                f"at least {self.least_fraction_bits} fraction bits",
                coarsest,
            ),
        )
        for met, expected, got in demands:
            if not met:
                raise PolicyError(f"policy asks for {expected}, the server proposed {got}")
        risk = graph.exposure(n, parameters.degree, parameters.threshold, self.corrupted, self.dropout)
        if risk > graph.SECURITY_FAILURE:
            raise PolicyError(
                f"policy asks for a failure probability of at most {graph.SECURITY_FAILURE:.1e} with "
                f"{self.corrupted:.0%} of the clients corrupted and {self.dropout:.0%} dropped out; {parameters.degree} neighbours and threshold "
                f"{parameters.threshold} give {risk:.1e}"
            )


def _names(allowed: frozenset[Profile] | frozenset[Suite]) -> str:
    return " or ".join(sorted(item.value for item in allowed))
