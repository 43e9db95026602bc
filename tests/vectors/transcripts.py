"""Whole sessions with fixed secrets: every frame, and every secret between the frames. `make.py` writes them.

Our own parties make them. What a client draws at random comes from `cases.secret`, and sealing from the reference,
whose ephemeral keys follow from a seed.
"""

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import structs
from reference import hpke as reference_hpke

from secure_afl.crypto import ring
from secure_afl.crypto.hpke import Suite
from secure_afl.crypto.identity import Identity
from secure_afl.crypto.kdf import Label, bind
from secure_afl.protocol.masking import client as client_module
from secure_afl.protocol.masking import messages, tags
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.masking.server import MaskingServer
from secure_afl.protocol.masking.states import ClientState, ServerState
from secure_afl.protocol.session import graph
from secure_afl.protocol.session.ledger import Ledger
from secure_afl.protocol.session.parameters import Parameters, SumPlan, SumWanted, Values
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Profile, Verify
from secure_afl.protocol.session.roster import Member, Roster
from secure_afl.protocol.session.server import Outbox
from vectors.cases import secret

BOUND, FRACTION_BITS, LENGTH = 100.0, 20, 5
Lost = Collection[tuple[str, int]]
"""Phases, by the server's state, and clients whose answers do not arrive."""


@dataclass(frozen=True)
class Script:
    """What is fixed of a session. lost: by round."""

    about: str
    profile: Profile
    verify: Verify
    suite: Suite
    members: int
    cohort: tuple[int, ...]
    degree: int
    threshold: int
    lost: tuple[Lost, ...]


SCRIPTS = {
    "active-hybrid": Script(
        "Active profile with tags, hybrid keys; client 1 drops out before its upload.",
        Profile.ACTIVE, Verify.TAGS, Suite.HYBRID, 4, (0, 1, 2, 3), 3, 3, ([("collecting", 1)],),
    ),
    "active-three-rounds": Script(
        "Active profile with tags, a cohort of 5 out of a roster of 6, three sums: all clients answer; client 4 drops "
        "out before its upload; client 0 drops out after its consent, and client 2 before the sum is given out.",
        Profile.ACTIVE, Verify.TAGS, Suite.X25519, 6, (0, 1, 2, 4, 5), 4, 4,
        ((), [("collecting", 4)], [("unmasking", 0), ("answering", 0), ("answering", 2)]),
    ),
    "active-without-tags": Script(
        "Active profile, no sum is given to clients; client 3 drops out before its upload.",
        Profile.ACTIVE, Verify.NONE, Suite.X25519, 4, (0, 1, 2, 3), 3, 3, ([("collecting", 3)],),
    ),
    "semi-honest": Script(
        "Semi-honest profile on a sparse graph, two sums; clients 2 and 5 drop out of the second before their upload.",
        Profile.SEMI_HONEST, Verify.NONE, Suite.X25519, 7, (0, 1, 2, 3, 4, 5, 6), 4, 3,
        ((), [("collecting", 2), ("collecting", 5)]),
    ),
}  # fmt: skip


@dataclass
class Client:
    """A client whose random choices are fixed, and all that it keeps secret, as a session's file has it.

    coefficients: of its sharings, in order; seals: what sealing drew, in order; rounds: by number.
    """

    script: str
    party: MaskingClient
    vectors: list[Values]
    secrets: dict[str, Any] = field(default_factory=dict)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    seals: list[dict[str, str]] = field(default_factory=list)
    coefficients: list[int] = field(default_factory=list)
    drawn: int = 0

    def receive(self, data: bytes) -> bytes:
        """The answer to a message of the server."""
        state = self.party.state
        with (
            mock.patch.object(client_module, "seal", self._seal),
            mock.patch.multiple("secrets", token_bytes=self._token, randbelow=self._below),
        ):
            answer = self.party.receive(data)
        if isinstance(answer, SumWanted):
            wanted = answer
            answer = self.party.contribute(wanted, self.vectors[wanted.round], "rows")
            self._masked(wanted)
        elif state in NOTES:
            NOTES[state](self)
        return answer

    def _secret(self) -> bytes:
        self.drawn += 1
        return secret(f"{self.script} client {self.party.index} draw {self.drawn}")

    def _token(self, size: int) -> bytes:
        assert size == 32
        return self._secret()

    def _below(self, limit: int) -> int:
        self.coefficients.append(int.from_bytes(self._secret(), "big") % limit)
        return self.coefficients[-1]

    def _seal(self, suite: Suite, key: bytes, plain: bytes, info: bytes) -> bytes:
        seed = self._secret()
        drawn = {"info": info.hex(), "plain": plain.hex()}
        drawn["x25519_private"] = hashlib.sha256(b"x25519" + seed).hexdigest()
        if suite is Suite.HYBRID:
            drawn["ml_kem_message"] = hashlib.sha256(b"ml-kem" + seed).hexdigest()
        self.seals.append(drawn)
        return reference_hpke.seal(suite.value, key, plain, info, seed)

    def invited(self) -> None:
        memory = self.party._memory
        self.secrets = {"channel_seed": memory.channel_seed.hex()}
        if memory.tag_secrets:
            self.secrets["tag_secret"] = memory.tag_secrets[self.party.index].hex()
        for keys in memory.rounds.values():
            self.rounds.append({"mask_seed": keys.mask_seed.hex(), "self_seed": keys.self_seed.hex()})

    def dealt(self) -> None:
        memory = self.party._memory
        self.secrets |= {"directory_digest": memory.directory.hex(), "sealed": self.seals}
        drawn = [f"{one:066x}" for one in self.coefficients]
        size = memory.parameters.threshold - 1
        for one in self.rounds:
            one["mask_coefficients"], one["self_coefficients"] = drawn[:size], drawn[size : 2 * size]
            drawn = drawn[2 * size :]

    def confirmed(self) -> None:
        for one, keys in zip(self.rounds, self.party._memory.rounds.values(), strict=True):
            one["own_share"] = keys.own_share.hex()
            one["shares"] = {
                str(who): [one.hex() for one in pair] for who, pair in sorted(keys.shares.items())
            }
            one["pair_secrets"] = {str(who): key.hex() for who, key in sorted(keys.pair_secrets.items())}

    def _masked(self, wanted: SumWanted) -> None:
        party, memory, number, here = self.party, self.party._memory, wanted.round, self.party.index
        keys = memory.current
        assert keys is not None
        near = sorted(memory.participants & party._neighbours)
        at = (party.transcript, number, here)
        encoding = wanted.spec.encoding(len(memory.parameters.cohort))
        units = party._plan[number].encode(self.vectors[number], encoding)
        note = self.rounds[number]
        note["vector"] = [value.hex() for value in self.vectors[number].tolist()]
        note["encoded"] = ring.signed(units, 8).tolist()
        note["self_mask_key"] = messages.self_mask_key(keys.self_seed, *at).hex()
        note["pair_mask_keys"] = {
            str(other): messages.pair_mask_key(keys.pair_secrets[other], *at, other).hex() for other in near
        }
        note["upload_root"] = memory.upload.hex()
        if memory.tag_key:
            members = sorted(memory.participants)
            key = tags.TagKey(memory.tag_key, len(members))
            own = key.tag(units, wanted.spec.magnitude, wanted.spec.word_bytes, members.index(here))
            note["tag_key"], note["tag"] = memory.tag_key.hex(), tags.packed(own).hex()
            note["self_mask_of_tag"] = tags.packed(tags.self_mask(keys.self_seed, *at)).hex()
            note["pair_masks_of_tag"] = {
                str(other): tags.packed(tags.pair_mask(keys.pair_secrets[other], *at, other)).hex()
                for other in near
            }

    def consented(self) -> None:
        memory = self.party._memory
        if memory.parameters.profile is Profile.ACTIVE:
            opened = {number: one.digest for number, one in memory.accepted.items()}
            said = (memory.upload, messages.accepted_sums(opened, self.party.index), b"")
            signed = bind(Label.CONSENT_SIGNATURE, *self.party._consent_parts(), *said)
            self.rounds[memory.round]["consent_signed"] = signed.hex()


NOTES: dict[ClientState, Callable[[Client], None]] = {
    ClientState.START: Client.invited,
    ClientState.ADVERTISED: Client.dealt,
    ClientState.SHARED: Client.confirmed,
    ClientState.UPLOADED: Client.consented,
}
"""What is noted after an answer that a client gave in this state."""


def session(name: str) -> dict[str, Any]:
    """A session, as its file has it."""
    script = SCRIPTS[name]
    identities = [
        Identity(Ed25519PrivateKey.from_private_bytes(secret(f"{name} identity {one}")))
        for one in range(script.members)
    ]
    roster = Roster(tuple(Member(f"site-{i}", one.verify_key) for i, one in enumerate(identities)))
    plan = [SumPlan(f"sum {r}", LENGTH + r, BOUND, FRACTION_BITS) for r in range(len(script.lost))]
    parameters = structs.replace(
        Parameters.propose(
            roster, plan, profile=script.profile, suite=script.suite, degree=script.degree,
            threshold=script.threshold, cohort=script.cohort, verify=script.verify,
        ),
        session=secret(f"{name} session"),
    )  # fmt: skip
    policy = Policy(
        profiles=frozenset(Profile), suites=frozenset(Suite), verify=frozenset(Verify), corrupted=0, dropout=0
    )
    clients = {
        index: Client(
            name,
            MaskingClient(identities[index], roster, plan, policy, Ledger()),
            [vector(index, one) for one in plan],
        )
        for index in script.cohort
    }
    server = MaskingServer(parameters, roster)
    exchanges: list[dict[str, Any]] = []

    def exchange(outbox: Outbox, lost: Lost = ()) -> None:
        phase = server.state.value
        for index in outbox:
            said = outbox[index]
            entry = {"phase": phase, "client": index, "server_message": said.hex(), "client_frame": None}
            exchanges.append(entry)
            if (phase, index) not in lost:
                frame = clients[index].receive(said)
                entry["client_frame"] = frame.hex()
                server.receive(index, frame)

    exchange(server.start())
    exchange(server.advance())
    exchange(server.advance())
    server.advance()
    sums = []
    for number, lost in enumerate(script.lost):
        exchange(server.open_round(number), lost)
        while server.state is not ServerState.UNMASKING:
            exchange(server.advance(), lost)
        opened = server.result()
        decoded = (
            parameters.rounds[number]
            .encoding(script.members)
            .decode_sum(opened.values, len(opened.survivors))
        )
        sums.append(
            {
                "round": number,
                "participants": sorted((*opened.survivors, *opened.dropouts)),
                "survivors": list(opened.survivors),
                "sum": ring.signed(opened.values, parameters.rounds[number].width).tolist(),
                "decoded": [value.hex() for value in decoded.tolist()],
            }
        )
        if script.verify is Verify.TAGS:
            sums[-1]["digest"] = server._answered[number].digest.hex()
            exchange(server.advance(), lost)
            server.advance()
    return {
        "description": script.about,
        "roster": [
            {
                "name": f"site-{one}",
                "key": identities[one].verify_key.hex(),
                "private": secret(f"{name} identity {one}").hex(),
            }
            for one in range(script.members)
        ],
        "plan": [
            {
                "statistic": one.statistic,
                "length": one.length,
                "bound": BOUND.hex(),
                "fraction_bits": FRACTION_BITS,
            }
            for one in plan
        ],
        "transcript": server.parameters.transcript().hex(),
        "neighbours": {str(one): sorted(graph.Graph(parameters)[one]) for one in script.cohort},
        "clients": {str(index): {**one.secrets, "rounds": one.rounds} for index, one in clients.items()},
        "exchanges": exchanges,
        "sums": sums,
    }


def vector(index: int, plan: SumPlan) -> Values:
    """Values of every size, with both signs and a tie."""
    values = [((index + 3) * 37 * (at + 1) % 199 - 99) / 2**at for at in range(plan.length)]
    return np.array([*values[:-1], 2.0**-21 * (2 * index + 1)])


def sessions() -> dict[str, dict[str, Any]]:
    """Every session by its name."""
    return {name: session(name) for name in SCRIPTS}
