"""A client that helps the server against encrypted sums: its upload cancels all clients but the victim.

Anyone can add ciphertexts, and a ciphertext carries no proof of its content. Masks under the encryption prevent this.
"""

from collections.abc import Sequence

import numpy as np

from secure_afl.protocol.homomorphic import messages
from secure_afl.protocol.homomorphic.agreement import Encryption
from secure_afl.protocol.homomorphic.client import HomomorphicClient
from secure_afl.protocol.homomorphic.server import HomomorphicServer
from secure_afl.protocol.session.backend import Backend
from secure_afl.protocol.session.parameters import SumPlan, SumWanted, Values
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.transport.encrypted import EncryptedCohort
from secure_afl.protocol.transport.masked import Cohort
from secure_afl.simulations.attacks.population import Statistic
from secure_afl.simulations.attacks.tap import Tap
from secure_afl.simulations.data.dataset import Floats
from secure_afl.sums.aggregation import SessionSettings
from secure_afl.sums.encrypted import EncryptedSums, LocalEncryptedSessions

_VICTIM = 0


class _Cancels(HomomorphicClient):
    """The client that is asked last; the server gives it the other clients' uploads."""

    tap: Tap

    def contribute(self, wanted: SumWanted, values: Values, data_set: str) -> bytes:
        lattice, length = self._lattice, wanted.spec.length
        total = lattice.zeros(length)
        for index in set(wanted.participants) - {_VICTIM, self.index}:
            lattice.add(total, self.tap.ciphertexts(index, length, lattice))
        for at, prime in enumerate(lattice.primes):
            total[..., at, :] = (np.uint64(prime) - total[..., at, :]) % np.uint64(prime)
        return self._upload(total, messages.data_set_digest(self.name, data_set))


class _Colluding(LocalEncryptedSessions):
    """Ours, whose last client is not."""

    tap: Tap

    def encrypted(
        self,
        settings: SessionSettings,
        server: HomomorphicServer,
        plan: Sequence[SumPlan],
        masks: Cohort | None,
    ) -> EncryptedCohort:
        honest = super().encrypted(settings, server, plan, masks)
        last = len(server.roster.members) - 1
        identity, ledger = self.members[server.roster.name(last)]
        bad = _Cancels(
            identity, server.roster, server.holders, plan, settings.policy, ledger, self._encryption
        )
        bad.tap = self.tap
        return EncryptedCohort(server, {**honest.clients, last: bad}, honest.holders, self.tap)


def read(vectors: Sequence[Floats], statistic: Statistic) -> Floats:
    """The first client's vector as the server reads it: the "sum" that the key holder opens."""
    tap, names = Tap(), [f"client {index}" for index in range(len(vectors))]
    settings = SessionSettings(Policy(backends=frozenset({Backend.BFV})))
    encryption = Encryption.of(Backend.BFV, None)
    sessions = _Colluding(encryption, 1, tap)
    sessions.tap = tap
    aggregator = EncryptedSums(encryption, settings, sessions)
    aggregator.open(names, [statistic.plan])
    given = {name: (vector, "rows") for name, vector in zip(names, vectors, strict=True)}
    return aggregator.sum(0, given).total
