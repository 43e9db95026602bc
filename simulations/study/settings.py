"""The rules of a run. Loads nothing heavy: the command line reads the names and defaults of its options here."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from secure_afl.crypto.hpke import Suite
from secure_afl.errors import SettingError
from secure_afl.models.networks.encoder import Encoder
from secure_afl.protocol.session.backend import ENCRYPTED, Backend
from secure_afl.protocol.session.profile import Profile, Trust

if TYPE_CHECKING:  # NumPy is loaded with the first settings, not with the names of options
    from secure_afl.analytic.privacy import Privacy
    from secure_afl.protocol.session.policy import Policy
    from secure_afl.tables.codebook import Codebook

REGRESSIONS = ("logistic", "poisson")
MODELS = ("ridge", *REGRESSIONS, "fedacnnl")


@dataclass(frozen=True)
class Settings:
    """How a run is made. Raises `SettingError` for settings that contradict one another, and names one of them.

    model, backend, release, rounds, encoder, epsilon, delta: as in a study file (`secure_afl.node.study`).
    dropout: the fraction of clients that fall silent before each upload; personalize: every client adapts the network
    to its rows, from the heads of `groups` groups; trusts_reports: see `Policy`; key_holders: of an encrypted backend;
    audit: a folder for every party's audit log; epsilon, delta: of differential privacy, None for none; clip: the norm
    to which it shortens rows, None for the data's public bound; least_rows: of disclosure control for tables, None for
    what the codebook says, or for none with epsilon; federated_evaluation: the figures of the clients' test rows come out of
    a secure sum of counts, too.
    """

    model: str = "ridge"
    encoder: Encoder = Encoder.SEEDED
    backend: Backend = Backend.MASK
    profile: Profile = Profile.ACTIVE
    suite: Suite = Suite.HYBRID
    dropout: float = 0.0
    rounds: int = 1
    seed: int = 0
    personalize: bool = False
    groups: int = 1
    trusts_reports: Trust = Trust.NONE
    device: str = "cpu"
    key_holders: int = 1
    release: str | None = None
    audit: Path | None = None
    epsilon: float | None = None
    delta: float = 1e-5
    clip: float | None = None
    least_rows: int | None = None
    federated_evaluation: bool = False

    def __post_init__(self) -> None:
        from secure_afl.protocol.homomorphic.agreement import RELEASES

        network, private = self.model == "fedacnnl", self.epsilon is not None
        steps = self.model in REGRESSIONS
        encrypted = f"needs the backend {' or '.join(ENCRYPTED)}, got {self.backend}"
        for setting, wrong, fault in (
            ("model", self.model not in MODELS, f"expected {' or '.join(MODELS)}, got {self.model!r}"),
            (
                "release",
                self.release not in (None, *RELEASES),
                f"expected {' or '.join(RELEASES)}, got {self.release!r}",
            ),
            ("release", self.release and not self.backend.encrypted, encrypted),
            ("key_holders", self.key_holders > 1 and not self.backend.encrypted, encrypted),
            (
                "profile",
                self.profile is not Profile.ACTIVE and not self.backend.masked and self.backend.encrypted,
                f"{self.backend} always assumes an active server, one that may lie: leave it out",
            ),
            (
                "rounds",
                steps and self.rounds > 1,
                f"{self.model} sums up all rows in each step: leave it out",
            ),
            (
                "epsilon",
                private and steps,
                f"needs ridge or fedacnnl: {self.model} has no accounting over its sums, whose noise moves later ones",
            ),
            (
                "release",
                steps and (self.release == "weights" or (self.backend is Backend.CKKS and not self.release)),
                f"needs the sum: each step of {self.model} follows from opened sums",
            ),
            (
                "model",
                steps
                and self.profile is Profile.ACTIVE
                and self.backend is not Backend.PLAIN
                and self.trusts_reports is Trust.NONE,
                f"{self.model} needs --trust-reports verified: clients compute its steps from the sums before",
            ),
            ("rounds", network and self.rounds > 1, "fedacnnl makes one sum a layer: leave it out"),
            ("personalize", self.personalize and not network, "needs the model fedacnnl"),
            ("groups", self.groups > 1 and not self.personalize, "needs personalize"),
            (
                "epsilon",
                private and not self.backend.exact,
                f"needs exact sums: the backend mask, bfv+mask or bfv, got {self.backend}",
            ),
            (
                "epsilon",
                private and network and (self.encoder is not Encoder.SEEDED or self.personalize),
                "needs the encoder seeded, which takes one sum, and no personalize",
            ),
            (
                "clip",
                self.clip is not None and (not private or network),
                "needs epsilon with the model ridge: what a network's head sees has norm 1",
            ),
            (
                "least_rows",
                private and self.least_rows not in (None, 1),
                "needs no epsilon: how a row is coded must not depend on other rows where noise protects it",
            ),
            (
                "federated_evaluation",
                self.federated_evaluation and private,
                "needs no epsilon: counts of test rows have no noise, so nothing would be promised of these",
            ),
            (
                "federated_evaluation",
                self.federated_evaluation and (not self.backend.exact or self.release == "weights"),
                "needs exact sums that are opened: the backend mask, bfv+mask or bfv, without --release weights",
            ),
            (
                "audit",
                self.audit is not None and self.backend is Backend.PLAIN,
                "nothing is agreed on or signed with the backend plain",
            ),
        ):
            if wrong:
                raise SettingError(setting, fault)

    def control(self, codebook: "Codebook | None") -> int:
        """The `least_rows` that holds for rows of a codebook; 1 is none."""
        from secure_afl.tables.disclosure import holds

        usual = holds(codebook, private=self.epsilon is not None)
        return usual if self.least_rows is None else self.least_rows

    @property
    def privacy(self) -> "Privacy | None":
        """Against as many dropouts and colluders as the policy reckons with."""
        from secure_afl.analytic.privacy import Privacy

        if self.epsilon is None:
            return None
        policy = self.policy()
        return Privacy(self.epsilon, self.delta, dropout=policy.dropout, corrupted=policy.corrupted)

    def policy(self) -> "Policy":
        """The clients' policy: nothing wider than these settings need."""
        from secure_afl.protocol.session.policy import Policy

        return Policy(
            backends=frozenset({self.backend}),
            profiles=frozenset({self.profile}),
            suites=frozenset({self.suite}),
            dropout=max(self.dropout, Policy.dropout),
            trusts_reports=self.trusts_reports,
        )
