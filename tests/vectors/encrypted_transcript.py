"""A whole session of masked sums that travel encrypted (`bfv+mask`), as `transcripts.py` has those that do not.

Clients encrypt, and the key holder makes its key, by the reference, whose polynomials follow from seeds; the key holder
decrypts with SEAL.
"""

import hashlib
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import structs
from reference import bfv as reference_bfv
from reference import lattice as reference_lattice
from tenseal import sealapi

from secure_afl.crypto import ring
from secure_afl.crypto.hpke import Suite
from secure_afl.crypto.identity import Identity
from secure_afl.crypto.lattice import bfv, seal
from secure_afl.crypto.lattice.parameter_sets import Lattice, Residues
from secure_afl.protocol.homomorphic.agreement import Agreement, Encryption
from secure_afl.protocol.homomorphic.client import HomomorphicClient
from secure_afl.protocol.homomorphic.holder import KeyHolder
from secure_afl.protocol.homomorphic.keys import WholeKey
from secure_afl.protocol.homomorphic.server import HomomorphicServer
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.masking.server import MaskingServer
from secure_afl.protocol.masking.states import ServerState
from secure_afl.protocol.session import graph
from secure_afl.protocol.session.backend import Backend
from secure_afl.protocol.session.ledger import Ledger
from secure_afl.protocol.session.parameters import Parameters, SumPlan
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Profile, Verify
from secure_afl.protocol.session.roster import Member, Roster
from secure_afl.protocol.session.server import Outbox, alike
from vectors.cases import secret
from vectors.transcripts import BOUND, FRACTION_BITS, LENGTH, Client, vector

NAME, MEMBERS, THRESHOLD = "bfv-mask", 4, 3
LOST = {("masks", "collecting", 1), ("masks", "answering", 2)}
"""Sessions, phases and clients whose answers do not arrive."""
_SET = reference_lattice.SETS["bfv-46"]


def ternary(name: str) -> list[int]:
    """A polynomial with coefficients −1, 0 and 1."""
    drawn = hashlib.shake_256(secret(f"{NAME} {name}")).digest(_SET.degree)
    return [byte % 3 - 1 for byte in drawn]


def small(name: str) -> list[int]:
    """A polynomial of errors: the difference of two counts of 21 bits."""
    drawn = hashlib.shake_256(secret(f"{NAME} {name}")).digest(6 * _SET.degree)
    bits = [int.from_bytes(drawn[at : at + 3], "big") % 2**21 for at in range(0, len(drawn), 3)]
    return [one.bit_count() - other.bit_count() for one, other in zip(bits[::2], bits[1::2], strict=True)]


def uniform(name: str) -> list[list[int]]:
    """A polynomial, by prime of a key."""
    drawn = hashlib.shake_256(secret(f"{NAME} {name}")).digest(16 * _SET.degree)
    numbers = [int.from_bytes(drawn[at : at + 16], "big") for at in range(0, len(drawn), 16)]
    return [[one % prime for one in numbers] for prime in _SET.key_primes]


def digits(polynomial: list[int]) -> str:
    """A ternary polynomial, as its file has it: 0, 1, and 2 for −1."""
    return "".join(str(one % 3) for one in polynomial)


class Holder(KeyHolder):
    """A key holder whose key is the reference's."""

    def _made(self, transcript: bytes, secret: bytes | None = None) -> WholeKey:
        mine = ternary("secret key")
        public = reference_bfv.public_key(_SET, mine, uniform("public key"), small("error of the key"))
        return WholeKey(self._lattice, _seals(self._lattice, mine) + public)


def _seals(lattice: Lattice, mine: list[int]) -> bytes:
    """A secret key in SEAL's own format."""
    rows = [reference_bfv.transformed(mine, prime) for prime in _SET.key_primes]
    words = np.array(rows, "<u8").tobytes()
    template = seal._saved(sealapi.KeyGenerator(seal._context(lattice)).secret_key())
    return seal._framed(template[: -len(words)] + words)


def session() -> dict[str, Any]:
    """The session, as its file has it."""
    names = [f"site-{one}" for one in range(MEMBERS)] + ["holder-0"]
    private = [secret(f"{NAME} identity {one}") for one in range(len(names))]
    identities = [Identity(Ed25519PrivateKey.from_private_bytes(one)) for one in private]
    members = tuple(Member(*one) for one in zip(names, (one.verify_key for one in identities), strict=True))
    roster, holders = Roster(members[:MEMBERS]), Roster(members[MEMBERS:])
    plan = [SumPlan("sum 0", LENGTH, BOUND, FRACTION_BITS)]
    encryption = Encryption(Backend.BFV_MASK)
    policy = Policy(
        suites=frozenset(Suite), verify=frozenset(Verify), corrupted=0, dropout=0,
        backends=frozenset({Backend.BFV_MASK.value}),
    )  # fmt: skip
    _, agreed = encryption.agreed(plan, MEMBERS, 1)
    parameters = structs.replace(
        Parameters.propose(
            roster, plan, profile=Profile.ACTIVE, suite=Suite.X25519, degree=MEMBERS - 1,
            threshold=THRESHOLD, verify=Verify.TAGS, rounds=agreed,
        ),
        session=secret(f"{NAME} session"),
    )  # fmt: skip
    beneath = (parameters.session, parameters.transcript())
    agreement = Agreement.propose(encryption, roster, holders, plan, masked=beneath)
    ledgers = [Ledger() for _ in names]
    masking = {
        one: Client(
            NAME,
            MaskingClient(identities[one], roster, plan, policy, ledgers[one], agreed=agreed),
            [vector(one, plan[0])],
        )
        for one in range(MEMBERS)
    }
    encrypting = {
        one: HomomorphicClient(
            identities[one], roster, holders, plan, policy, ledgers[one], encryption, masks=masking[one].party
        )
        for one in range(MEMBERS)
    }
    holder = Holder(identities[-1], roster, holders, plan, policy, ledgers[-1], encryption)
    masks = MaskingServer(parameters, roster)
    encrypted = HomomorphicServer(agreement, roster, holders, least=THRESHOLD)
    exchanges: list[dict[str, Any]] = []

    def said(party: int, message: bytes) -> bytes:
        """What a client or the key holder answers in the encrypted session."""

        def drawn(lattice: Lattice, key: bytes, words: npt.NDArray[np.uint64]) -> Residues:
            u, errors = ternary(f"u of {party}"), (small(f"e0 of {party}"), small(f"e1 of {party}"))
            masking[party].rounds[0] |= {"words": words.tolist(), "encryption_u": digits(u)}
            made = reference_bfv.encrypted(_SET, key, words.tolist(), u, errors)
            return lattice.unpack(reference_lattice.pack(made, _SET.primes), len(words))

        with (
            mock.patch.object(bfv, "encrypt", drawn),
            mock.patch("secrets.token_bytes", return_value=secret(f"{NAME} challenge")),
        ):
            answer = holder.receive(message) if party == MEMBERS else encrypting[party].receive(message)
        assert isinstance(answer, bytes)
        return answer

    def exchange(server: MaskingServer | HomomorphicServer, outbox: Outbox) -> None:
        phase, kind = server.state.value, "masks" if server is masks else "encryption"
        for message, parties in [*alike(outbox)]:
            answers: dict[str, str | None] = {}
            for party in parties:
                answers[str(party)] = None
                if (kind, phase, party) not in LOST:
                    frame = masking[party].receive(message) if server is masks else said(party, message)
                    answers[str(party)] = frame.hex()
                    server.receive(party, frame)
            entry = {"session": kind, "phase": phase, "server_message": message.hex(), "answers": answers}
            exchanges.append(entry)

    exchange(masks, masks.start())
    exchange(masks, masks.advance())
    exchange(masks, masks.advance())
    masks.advance()
    exchange(encrypted, encrypted.start())
    for _ in range(3):
        exchange(encrypted, encrypted.advance())
    encrypted.advance()
    exchange(masks, masks.open_round(0))
    exchange(encrypted, encrypted.open_round(0, masks.uploaded))
    for _ in range(3):
        exchange(encrypted, encrypted.advance())
    encrypted.advance()
    total = encrypted.result()
    masks.take_total(total.values, total.survivors)
    while masks.state is not ServerState.UNMASKING:
        exchange(masks, masks.advance())
    opened = masks.result()
    decoded = parameters.rounds[0].encoding(MEMBERS).decode_sum(opened.values, len(opened.survivors))
    digest = masks._answered[0].digest.hex()
    exchange(masks, masks.advance())
    masks.advance()
    members_, holders_ = (
        [
            {"name": names[one], "key": identities[one].verify_key.hex(), "private": private[one].hex()}
            for one in group
        ]
        for group in (range(MEMBERS), range(MEMBERS, len(names)))
    )
    return {
        "description": "Active profile with tags; the masked vectors travel under BFV. Client 1 drops out before its "
        "upload, client 2 before the sum is given out.",
        "roster": members_,
        "key_holders": holders_,
        "plan": [
            {
                "statistic": plan[0].statistic,
                "length": LENGTH,
                "bound": BOUND.hex(),
                "fraction_bits": FRACTION_BITS,
            }
        ],
        "transcript": parameters.transcript().hex(),
        "agreement": agreement.transcript().hex(),
        "neighbours": {str(one): sorted(graph.Graph(parameters)[one]) for one in range(MEMBERS)},
        "secret_key": digits(ternary("secret key")),
        "clients": {str(one): {**each.secrets, "rounds": each.rounds} for one, each in masking.items()},
        "exchanges": exchanges,
        "sums": [
            {
                "round": 0,
                "participants": list(range(MEMBERS)),
                "survivors": list(opened.survivors),
                "masked": total.values.tolist(),
                "sum": ring.signed(opened.values, parameters.rounds[0].width).tolist(),
                "decoded": [value.hex() for value in decoded.tolist()],
                "digest": digest,
            }
        ],
    }
