"""Designs of a sum, and what a server can read of each client's vector in them: one table for all vector attacks."""

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from secure_afl.crypto import ring
from secure_afl.crypto.lattice import ckks, seal
from secure_afl.crypto.lattice.parameter_sets import LATTICES
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.simulations.attacks.population import Statistic
from secure_afl.simulations.attacks.tap import Tap, decoded
from secure_afl.simulations.attacks.weak import both_shares, small_seeds, weak_masks
from secure_afl.simulations.data.dataset import Floats
from secure_afl.sums.aggregation import MaskedAggregator
from secure_afl.sums.encrypted import EncryptedAggregator

Read = Callable[[Sequence[Floats], Statistic], dict[int, Floats]]
"""Maps all clients' vectors to what the server reads as some or all of them, by client."""


@dataclass(frozen=True)
class Design:
    """A design. flaw: what a server exploits. ours: whether it is secure-afl. sessions: number of attacked sessions."""

    name: str
    flaw: str
    read: Read
    ours: bool = False
    sessions: int = 3


def plain(vectors: Sequence[Floats], statistic: Statistic) -> dict[int, Floats]:
    """Every vector travels as float64."""
    return {index: np.frombuffer(vector.tobytes()) for index, vector in enumerate(vectors)}


def one_key(vectors: Sequence[Floats], statistic: Statistic) -> dict[int, Floats]:
    """CKKS with one secret key for all clients; one client decrypts the first client's upload for the server."""
    demand = ckks.Demand(statistic.plan.length, statistic.plan.bound)
    lattice, (encoding,) = ckks.choose([demand], len(vectors))
    everybodys = seal.SecretKey(lattice)
    upload = ckks.encrypt(lattice, everybodys.public_key, vectors[0], encoding)
    slots, _ = everybodys.decrypt(upload, statistic.plan.length)
    return {0: np.ldexp(slots, -encoding.fraction_bits)}


def summed(
    aggregator: MaskedAggregator | EncryptedAggregator, vectors: Sequence[Floats], statistic: Statistic
) -> Floats:
    """The sum over all clients that a session of this aggregator opens."""
    names, data_set = [f"client {index}" for index in range(len(vectors))], secrets.token_hex(8)
    aggregator.open(names, [statistic.plan])
    return aggregator.sum(
        0, {name: (vector, data_set) for name, vector in zip(names, vectors, strict=True)}
    ).total


def masked(vectors: Sequence[Floats], statistic: Statistic) -> dict[int, Floats]:
    """Our default design; the raw uploads read as fixed-point words."""
    tap, clients = Tap(), range(len(vectors))
    aggregator = MaskedAggregator(network=tap)
    summed(aggregator, vectors, statistic)
    spec = aggregator.cohort.server.parameters.rounds[0]
    encoding = spec.encoding(len(vectors))
    return {index: decoded(tap.words(index, spec.length, spec.width), encoding) for index in clients}


def opened_sum(vectors: Sequence[Floats], statistic: Statistic) -> Floats:
    """The server's result of a session in our design: the opened sum over all clients."""
    return summed(MaskedAggregator(), vectors, statistic)


def counts_in_clear(vectors: Sequence[Floats], statistic: Statistic) -> dict[int, Floats]:
    """Masked as in our design, plus a message with the number of rows beside each upload."""
    read = masked(vectors, statistic)
    for index, vector in enumerate(vectors):
        message = json.dumps({"num_examples": int(vector[-1])})
        read[index][-1] = json.loads(message)["num_examples"]
    return read


def encrypted(backend: str, vectors: Sequence[Floats], statistic: Statistic) -> dict[int, Floats]:
    """Our design under encryption; the first residues of each ciphertext read as numbers up to the agreed bound."""
    tap = Tap()
    aggregator = EncryptedAggregator(backend, release="sum", network=tap)
    summed(aggregator, vectors, statistic)
    lattice, length = LATTICES[aggregator.cohort.server.agreement.lattice], statistic.plan.length
    read: dict[int, Floats] = {}
    for index in range(len(vectors)):
        first = tap.ciphertexts(index, length, lattice)[:, 0, 0, : lattice.slots]
        residues = ring.centred(first.reshape(-1)[:length], lattice.primes[0])
        read[index] = residues.astype(np.float64) * (statistic.plan.bound / (lattice.primes[0] // 2))
    return read


PLAIN = Design("plain upload", "nothing is hidden", plain)
OURS = Design("secure-afl, mask", "for the server alone", masked, ours=True)
FLOATS = Design(
    "float masks (FATE, APPFL)",
    "masks of deviation 1, small beside the entries of many rows",
    weak_masks.floats,
)
SCALAR = Design("scalar mask (OpenFL)", "one number masks a vector", weak_masks.scalar)
KEYSTREAM = Design(
    "one keystream (Fed-BioMed)", "all vectors of a round under one keystream", weak_masks.one_keystream
)
SEEDS = Design(
    "28-bit seeds (Flower)",
    "all seeds are tried; two of four clients help the server",
    small_seeds.read,
    sessions=1,
)
BOTH_SHARES = Design("both shares (Flower)", "one client named as survivor and as dropout", both_shares.read)
ONE_KEY = Design("one key for all (NVFlare)", "one client helps the server", one_key)
WEAK = (SCALAR, KEYSTREAM, FLOATS, SEEDS, BOTH_SHARES, ONE_KEY)
IN_CLEAR = Design("counts in clear (Flower)", "the number of rows goes beside the upload", counts_in_clear)
ENCRYPTED = tuple(
    Design(
        f"secure-afl, {backend}", "for the server alone", partial(encrypted, backend), ours=True, sessions=1
    )
    for backend in ("bfv", "ckks", "bfv+mask")
)
OPENED = "what a sum tells, masks do not hide: see docs/privacy.md"
"""The note on findings that come from one of our sums, opened as planned."""
ASKED_TWICE = Design(
    "secure-afl, mask, asked twice",
    "the second list is refused",
    partial(both_shares.read, client=MaskingClient),
    ours=True,
)
