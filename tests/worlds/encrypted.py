"""Whole encrypted sessions in memory: clients, key holders and a server, with the plaintext beside them."""

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from secure_afl.crypto import ring
from secure_afl.crypto.hpke import Suite
from secure_afl.crypto.identity import Identity
from secure_afl.crypto.lattice import ckks
from secure_afl.crypto.lattice.parameter_sets import LATTICES
from secure_afl.protocol.homomorphic.agreement import Agreement, Encryption, Release
from secure_afl.protocol.homomorphic.client import HomomorphicClient
from secure_afl.protocol.homomorphic.holder import KeyHolder, Solve
from secure_afl.protocol.homomorphic.server import HomomorphicServer
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.masking.server import MaskingServer
from secure_afl.protocol.session import graph
from secure_afl.protocol.session.backend import Backend
from secure_afl.protocol.session.ledger import Ledger
from secure_afl.protocol.session.parameters import Parameters, Profile, SumPlan, SumWanted
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.roster import Member, Roster
from secure_afl.protocol.transport.driver import Contribution, Network
from secure_afl.protocol.transport.encrypted import EncryptedCohort, layered_sum
from secure_afl.protocol.transport.masked import Cohort
from worlds.cohorts import BOUND

EVERY_BACKEND = Policy(
    backends=frozenset({"mask", "bfv", "ckks", "bfv+mask"}),
    profiles=frozenset(Profile),
    suites=frozenset(Suite),
)


@dataclass
class KeyWorld:
    """Clients and key holders with their identities and ledgers, and one session of them at a time."""

    members: int
    backend: str = "bfv"
    holders: int = 1
    policy: Policy = EVERY_BACKEND
    release: Release = Release.SUM
    ledgers: list[Ledger] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.encryption = Encryption(Backend(self.backend), self.release)
        self.identities = [Identity.generate() for _ in range(self.members + self.holders)]
        self.ledgers = [Ledger() for _ in self.identities]
        names = [f"site-{i}" for i in range(self.members)] + [f"holder-{i}" for i in range(self.holders)]
        parties = [Member(name, one.verify_key) for name, one in zip(names, self.identities, strict=True)]
        self.roster, self.key_holders = (
            Roster(tuple(part)) for part in (parties[: self.members], parties[self.members :])
        )

    @property
    def least(self) -> int:
        """The fewest clients of a sum."""
        return self.policy.least_survivors(self.members)

    def session(
        self,
        network: Network | None = None,
        *,
        length: int = 5,
        rounds: int = 1,
        fraction_bits: int = 20,
        plan: Sequence[SumPlan] | None = None,
        cohort: Sequence[int] | None = None,
        solve: Solve | None = None,
    ) -> "KeySession":
        plan = plan or [SumPlan(f"sum {r}", length, BOUND, fraction_bits) for r in range(rounds)]
        masks = self.masks(plan, network) if self.encryption.masked else None
        parameters = masks.server.parameters if masks else None
        agreement = Agreement.propose(
            self.encryption,
            self.roster,
            self.key_holders,
            plan,
            cohort=cohort,
            masked=(parameters.session, parameters.transcript()) if parameters else None,
        )
        clients = {
            index: self.client(index, plan, masks.clients[index] if masks else None)
            for index in agreement.cohort
        }
        holders = {self.members + number: self.holder(number, plan, solve) for number in range(self.holders)}
        server = HomomorphicServer(agreement, self.roster, self.key_holders, least=self.least)
        return KeySession(self, plan, EncryptedCohort(server, clients, holders, network), masks)

    def client(
        self,
        index: int,
        plan: Sequence[SumPlan],
        masks: MaskingClient | None = None,
        kind: type[HomomorphicClient] = HomomorphicClient,
    ) -> HomomorphicClient:
        return kind(
            self.identities[index],
            self.roster,
            self.key_holders,
            plan,
            self.policy,
            self.ledgers[index],
            self.encryption,
            masks=masks,
        )

    def holder(
        self,
        number: int,
        plan: Sequence[SumPlan],
        solve: Solve | None = None,
        kind: type[KeyHolder] = KeyHolder,
    ) -> KeyHolder:
        index = self.members + number
        return kind(
            self.identities[index],
            self.roster,
            self.key_holders,
            plan,
            self.policy,
            self.ledgers[index],
            self.encryption,
            solve=solve,
        )

    def masks(self, plan: Sequence[SumPlan], network: Network | None = None) -> Cohort:
        """The masked session of `bfv+mask`, before its keys are exchanged."""
        n = self.members
        _, agreed = self.encryption.agreed(plan, n, self.holders)
        parameters = Parameters.propose(
            self.roster,
            plan,
            profile=Profile.ACTIVE,
            suite=Suite.X25519,
            degree=n - 1,
            threshold=graph.least_threshold(Profile.ACTIVE, n, n - 1),
            rounds=agreed,
        )
        parties = {
            index: MaskingClient(
                self.identities[index], self.roster, plan, self.policy, self.ledgers[index], agreed=agreed
            )
            for index in range(n)
        }
        return Cohort(MaskingServer(parameters, self.roster), parties, network)


@dataclass
class KeySession:
    """One session, and what its clients put in."""

    world: KeyWorld
    plan: Sequence[SumPlan]
    cohort: EncryptedCohort
    masks: Cohort | None

    def __post_init__(self) -> None:
        self.server, self.clients, self.holders = self.cohort.server, self.cohort.clients, self.cohort.holders
        self.agreement = self.server.agreement
        self.lattice = LATTICES[self.agreement.lattice]
        self.encodings = [spec.encoding(self.world.members) for spec in self.agreement.rounds]
        draws = np.random.default_rng(self.world.members)
        self.data_set = secrets.token_hex(8)  # fresh data in every session, unless a test says otherwise
        self.vectors = {
            (index, r): draws.uniform(-one.bound, one.bound, one.length)
            for index in self.agreement.cohort
            for r, one in enumerate(self.plan)
        }

    def contribute(self, index: int, wanted: SumWanted) -> Contribution:
        return self.vectors[index, wanted.round], self.data_set

    def set_up(self) -> "KeySession":
        if self.masks:
            self.masks.set_up()
        self.cohort.set_up()
        return self

    def sum(
        self, number: int = 0, among: Collection[int] | None = None
    ) -> tuple[tuple[int, ...], npt.NDArray[np.int64] | npt.NDArray[np.float64]]:
        """Whose sum was opened, and the sum: in units of the encoding, or float64 under CKKS."""
        if self.masks:
            masked = layered_sum(self.masks, self.cohort, number, self.contribute, among)
            return masked.survivors, ring.signed(masked.values, 8)
        opened = self.cohort.sum(number, self.contribute, among)
        if not self.lattice.plain_modulus:
            return opened.survivors, opened.values
        return opened.survivors, ring.centred(opened.values, self.lattice.plain_modulus)

    def is_right(
        self, number: int, indices: Sequence[int], total: npt.NDArray[np.int64 | np.float64]
    ) -> bool:
        """Whether that is the sum of these clients: on Python's integers, or within CKKS's bound."""
        encoding, vectors = self.encodings[number], [self.vectors[index, number] for index in indices]
        if self.lattice.plain_modulus:
            units = [ring.signed(encoding.encode(vector), 8).tolist() for vector in vectors]
            return bool(total.tolist() == [sum(entry) for entry in zip(*units, strict=True)])
        error = ckks.entry_error(self.lattice, encoding, len(indices), self.agreement.decryptions)
        return bool(abs(total - np.sum(vectors, axis=0)).max() <= error)
