"""What a client refuses, whatever the server proposes.

The defaults are safe: the server may lie (active profile), statistics leave only under masks, keys are hybrid
post-quantum. A client's operator can widen its policy; the server cannot.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf

from secure_afl.crypto.hpke import Suite
from secure_afl.protocol.session import graph
from secure_afl.protocol.session.backend import Backend
from secure_afl.protocol.session.errors import PolicyError
from secure_afl.protocol.session.ledger import Budget
from secure_afl.protocol.session.parameters import Parameters, Profile, SumPlan
from secure_afl.protocol.session.profile import Trust, Verify


@dataclass(frozen=True)
class Policy:
    """The minimum that a client accepts.

    Parameters
    ----------
    minimum_honest : int, default=2
        Fewest survivors of a sum that do not collude with the server; the assumed colluders come on top.
    corrupted : float, default=0.1
        The fraction of the *roster* assumed to collude with the server. The server picks the cohort and may pick all of them.
    dropout : float, default=0.2
        The fraction of the cohort that may drop out.
    backends : frozenset of str
        How a statistic may be sent, as names of `Backend`. The default is "mask" alone. "bfv+mask" protects no less; with
        "bfv" or "ckks" one client that helps the server is enough to read other clients' uploads; "plain" reveals everything.
    profiles : frozenset of Profile
        Whether the server may lie; the default is the active profile alone.
    suites : frozenset of Suite
        Key encapsulations; the default is the hybrid one alone.
    verify : frozenset of Verify
        Under the active profile, how clients check the opened sums: by a tag ("tags"), which holds as long as no client helps
        the server; by adding up all uploads themselves ("replay"), which holds against clients that help it, too; or not
        ("none"): then no client sees a sum, and the server is believed.
    trusts_reports : Trust, default=Trust.NONE
        What to believe, even under the active profile, of the server's reports about earlier sums (weights of hidden layers,
        sizes of groups, steps of regressions), see `Trust`. A lie there could make a later sum reveal one client.
    guards_categories : bool, default=False
        Whether tables with categories take part only under noise, or in encrypted sums of which key holders release the
        weights alone.
    budget_epsilon, budget_delta : float
        The most that all sessions with noise together may reveal of a record of a data set. 0: a data set serves one session,
        with noise as without.
    """

    minimum_honest: int = 2
    corrupted: float = 0.1
    dropout: float = 0.2
    backends: frozenset[str] = frozenset({Backend.MASK})
    profiles: frozenset[Profile] = frozenset({Profile.ACTIVE})
    suites: frozenset[Suite] = frozenset({Suite.HYBRID})
    verify: frozenset[Verify] = frozenset({Verify.TAGS})
    trusts_reports: Trust = Trust.NONE
    guards_categories: bool = False
    budget_epsilon: float = 0.0
    budget_delta: float = 1e-6

    def __post_init__(self) -> None:
        if self.minimum_honest < 2:
            raise PolicyError(f"expected at least 2 honest clients in a sum, got {self.minimum_honest}")
        for name, fraction in (("corrupted", self.corrupted), ("dropout", self.dropout)):
            if not 0 <= fraction < 1:
                raise PolicyError(f"expected a {name} fraction from 0 to below 1, got {fraction}")
        if not (0 <= self.budget_epsilon < inf and 0 < self.budget_delta < 1):
            raise PolicyError(
                f"expected a budget_epsilon of at least 0 and a budget_delta between 0 and 1, got {self.budget_epsilon} and "
                f"{self.budget_delta}"
            )
        if unknown := sorted(self.backends.difference(Backend)):
            raise PolicyError(f"expected backends from {', '.join(Backend)}, got {unknown[0]!r}")
        if not isinstance(self.trusts_reports, Trust):
            raise PolicyError(
                f"expected trusts_reports as one of Trust.NONE, VERIFIED (what follows from sums that the client verified) and ANY "
                f"(what True meant), got {self.trusts_reports!r}"
            )
        for name in ("backends", "profiles", "suites", "verify"):
            if not getattr(self, name):
                raise PolicyError(f"expected at least one entry in {name}, the list is empty")

    @property
    def budget(self) -> Budget | None:
        """What sessions with noise may spend together; None if a data set serves one."""
        return Budget(self.budget_epsilon, self.budget_delta) if self.budget_epsilon else None

    @property
    def checks_sums(self) -> bool:
        """Whether there can be sessions of masked sums in which this client checks what the server opens."""
        return Profile.ACTIVE in self.profiles and self.verify != {Verify.NONE}

    def colluders(self, roster: int) -> int:
        """Number of members of a roster of this size that may collude with the server."""
        return ceil(self.corrupted * roster)

    def dropouts(self, cohort: int) -> int:
        """Number of members of a cohort of this size that may drop out."""
        return ceil(self.dropout * cohort)

    def least_survivors(self, roster: int) -> int:
        """Fewest survivors of a sum that still hide an honest client among other honest clients."""
        return self.minimum_honest + self.colluders(roster)

    def check_backend(self, backend: str) -> None:
        """Raises `PolicyError` if the policy does not let statistics leave in this form."""
        if backend not in self.backends:
            raise PolicyError(
                f"the backend {str(backend)!r} is not allowed by this client's policy, which allows "
                f"{', '.join(sorted(self.backends))}"
            )

    def check_group(self, what: str, size: int, roster: int, survivors: int = 0) -> None:
        """Raises `PolicyError` if a sum over `size` members of the roster is too small to hide one of them."""
        least = max(self.least_survivors(roster), survivors)
        if size < least:
            raise PolicyError(f"expected at least {least} {what}, the server named {size}")

    def proposed_verify(self, profile: Profile, *, encrypted: bool = False) -> Verify:
        """How masked sums are checked in the sessions that our server proposes under this policy: as strictly as it allows.

        encrypted: whether the masked vectors travel encrypted; then there is no replay. Raises `PolicyError` if the policy asks for one.
        """
        if profile is not Profile.ACTIVE:
            return Verify.NONE
        order = (Verify.TAGS, Verify.NONE) if encrypted else (Verify.REPLAY, Verify.TAGS, Verify.NONE)
        for one in order:
            if one in self.verify:
                return one
        raise PolicyError(
            "masked vectors that travel encrypted cannot be replayed, and the policy asks for it: use the backend mask, or "
            'verify = ["tags"]'
        )

    def check_plan(self, plan: Sequence[SumPlan], profile: Profile, verify: Verify) -> None:
        """Raises `PolicyError` if a sum of the plan relies on the server's reports and the policy does not believe them.

        verify: whether clients check the session's sums.
        """
        trusting = [one.statistic for one in plan if one.trusts_server]
        if not trusting or profile is not Profile.ACTIVE or self.trusts_reports is Trust.ANY:
            return
        why = f"{trusting[0]!r} hides a client only if the server reports earlier sums truthfully, and "
        if self.trusts_reports is Trust.NONE:
            raise PolicyError(
                f"{why}the active profile assumes that it may lie: plan without that sum (encoder seeded, one group), or let "
                'the policy take what follows from sums that its client verified (trusts_reports = "verified")'
            )
        if verify is Verify.NONE:
            raise PolicyError(
                f'{why}no client verifies the sums of this session: use masked sums with verify = ["tags"] or ["replay"], or let the policy '
                'believe whatever the server says (trusts_reports = "any")'
            )

    def check(self, parameters: Parameters, roster: int) -> None:
        """Raises `PolicyError` for the first point in which `parameters` fall short of the policy.

        roster: number of members of the client's own roster.
        """
        self.check_backend(Backend.BFV_MASK if parameters.encrypted else Backend.MASK)
        n, profile, threshold = len(parameters.cohort), parameters.profile, parameters.threshold
        needed = graph.least_threshold(profile, n, parameters.degree)
        least, colluders = self.least_survivors(roster), self.colluders(roster)
        demands = (
            (profile in self.profiles, f"profile {_names(self.profiles)}", profile.value),
            (
                profile is not Profile.ACTIVE or parameters.verify in self.verify,
                f"verify {_names(self.verify)}",
                parameters.verify.value,
            ),
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


def _names(allowed: frozenset[Profile] | frozenset[Suite] | frozenset[Verify]) -> str:
    return " or ".join(sorted(item.value for item in allowed))
