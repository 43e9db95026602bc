"""No honest message is refused for its length, however large a session is; and bounds are not far above it."""

from typing import Any

import msgspec
import pytest
from worlds.cohorts import World, world
from worlds.encrypted import EVERY_BACKEND, KeyWorld

from secure_afl.crypto.hpke import Suite
from secure_afl.crypto.identity import SIGNATURE_BYTES
from secure_afl.crypto.lattice.parameter_sets import LATTICES
from secure_afl.crypto.shamir import SHARE_BYTES
from secure_afl.protocol.homomorphic import messages as homomorphic
from secure_afl.protocol.homomorphic.agreement import Agreement
from secure_afl.protocol.homomorphic.server import HomomorphicServer
from secure_afl.protocol.homomorphic.states import ServerState as HomomorphicState
from secure_afl.protocol.masking import messages
from secure_afl.protocol.masking.server import MaskingServer
from secure_afl.protocol.masking.states import ServerState
from secure_afl.protocol.session import graph
from secure_afl.protocol.session.parameters import Profile, SumPlan
from secure_afl.protocol.session.profile import Verify
from secure_afl.protocol.session.wire import Message, encode

DIGEST, SIGNATURE, LAST = bytes(32), bytes(SIGNATURE_BYTES), 2**32 - 1  # of a number on the wire: 5 bytes
BIG: World = world(300)


def framed(message: Message) -> bytes:
    return encode(message) + SIGNATURE


def bundle(suite: Suite, rounds: int, recipient: int) -> messages.Bundle:
    return messages.Bundle(
        recipient,
        bytes(messages.sealed_bytes(rounds, Verify.TAGS) + suite.overhead_bytes),
        (bytes(32 + suite.overhead_bytes),) * rounds,
        ((DIGEST,) * 3,) * rounds,
        SIGNATURE,
    )


@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize(("degree", "rounds"), [(1, 60), (2, 1), (298, 1), (10, 60), (60, 10)])
def test_of_masked_sums(suite: Suite, degree: int, rounds: int) -> None:
    near = graph.Neighbourhood(degree, degree // 2 + 1)
    parameters = BIG.propose(
        length=700,
        rounds=rounds,
        profile=Profile.SEMI_HONEST,
        suite=suite,
        near=near,
        fraction_bits=46,
        cohort=(0, 299) if degree == 1 else None,
    )
    server: Any = MaskingServer(parameters, BIG.roster)
    everybody, neighbours = range(300), range(LAST - degree, LAST)
    advertised = framed(
        messages.Advertise(bytes(suite.public_key_bytes), (bytes(suite.public_key_bytes),) * rounds, DIGEST)
    )
    bundles = tuple(bundle(suite, rounds, index) for index in neighbours)
    server._round, server._next_round = server_round(rounds - 1), rounds
    accepted = messages.accepted_sums(dict.fromkeys(range(rounds), DIGEST), 0)
    vote = messages.Vote(DIGEST, accepted, DIGEST, SIGNATURE)
    answers: dict[ServerState, Message | bytes] = {
        ServerState.ADVERTISING: advertised,
        ServerState.SHARING: messages.Shares(((DIGEST, DIGEST),) * rounds, bundles),
        ServerState.CONFIRMING: messages.Confirm(tuple(neighbours)),
        ServerState.COLLECTING: messages.Upload(rounds - 1, memoryview(bytes(8 * 700)), bytes(17)),
        ServerState.CONSENTING: messages.Consent(rounds - 1, vote),
        ServerState.ANSWERING: messages.Verdict(rounds - 1, DIGEST, DIGEST),
        ServerState.UNMASKING: messages.Reveal(
            rounds - 1, tuple((index, bytes(SHARE_BYTES)) for index in (*neighbours, LAST))
        ),
    }
    for server.state, answer in answers.items():
        size = len(answer if isinstance(answer, bytes) else framed(answer))
        assert size <= server._largest_frame(0) < 2 * size + 500, server.state
    questions = [
        parameters,
        messages.Directory(DIGEST, tuple((index, advertised) for index in (*neighbours, LAST))),
        messages.Delivery(DIGEST, tuple((index, bundle(suite, rounds, LAST)) for index in neighbours)),
        messages.SumRequest(DIGEST, rounds - 1, tuple(everybody)),
        messages.Survivors(DIGEST, rounds - 1, tuple(everybody)),
        messages.Consents(DIGEST, rounds - 1, tuple((index, vote) for index in everybody)),
        messages.Answer(DIGEST, rounds - 1, memoryview(bytes(8 * 700)), bytes(17)),
    ]
    assert max(len(encode(message)) for message in questions) <= BIG.client(0).largest_message


def test_what_a_check_by_tags_adds_to_what_a_client_sends() -> None:
    """To a session's first sum, by a client without an audit log; in version 1 a consent was a signature."""
    vote = messages.Vote(DIGEST, b"", b"", SIGNATURE)
    before = len(msgspec.msgpack.encode(["consent", 0, SIGNATURE]))
    tag = len(encode(messages.Upload(0, memoryview(b""), bytes(17)))) - len(
        msgspec.msgpack.encode(["upload", 0, b""])
    )
    assert tag + len(encode(messages.Consent(0, vote))) - before == 63


def server_round(number: int) -> Any:
    """What a server knows of a round, but for the sum."""
    return type("Round", (), {"number": number})


@pytest.mark.parametrize(
    ("backend", "holders", "members", "lengths"),
    [
        ("bfv", 1, 4, (1,)),
        ("bfv", 1, 1000, (1,)),
        ("bfv", 1, 4, (1,) * 1100),
        ("bfv", 6, 300, (100_000,)),
        ("bfv", 30, 4, (1, 20_000)),
        ("ckks", 1, 300, (1, 20_000)),
    ],
)
def test_of_encrypted_sums(backend: str, holders: int, members: int, lengths: tuple[int, ...]) -> None:
    here = KeyWorld(members, backend, holders, EVERY_BACKEND)
    name = "a statistic whose name is as long as a name may be, or nearly so"
    plan = [SumPlan(f"{number} {name}"[:64], length, 100.0, 10) for number, length in enumerate(lengths)]
    agreement = Agreement.propose(here.encryption, here.roster, here.key_holders, plan)
    lattice, last = LATTICES[agreement.lattice], len(plan) - 1
    everybody, indices = tuple(range(members)), range(members, members + holders)
    sums, key = memoryview(bytes(lattice.ciphertext_bytes(max(lengths)))), bytes(lattice.public_key_bytes)
    tags = homomorphic.Tags(
        (tuple(prime - 1 for prime in lattice.primes for _ in range(2)),) * holders, DIGEST
    )
    assert len(tags.tags[0]) == len(lattice.no_tags)
    offer = homomorphic.Offer(DIGEST, last, LAST, everybody, DIGEST)
    challenge, commitment = homomorphic.Challenge(DIGEST, SIGNATURE), homomorphic.KeyCommitment(DIGEST)
    check = homomorphic.Check(DIGEST, offer, (challenge,) * holders)
    to_holder = [
        agreement,
        homomorphic.KeyCommitments(DIGEST, tuple((index, framed(commitment)) for index in indices)),
        homomorphic.KeyShares(DIGEST, tuple((index, key) for index in indices)),
        offer,
        homomorphic.Opening(DIGEST, encode(check), tuple((who, framed(tags)) for who in everybody), sums),
    ]
    to_client = [
        homomorphic.Invitation(agreement, key, (SIGNATURE,) * holders),
        homomorphic.EncryptedRequest(DIGEST, last, LAST, everybody),
        check,
    ]
    for bound, questions in (
        (here.holder(0, plan).largest_message, to_holder),
        (here.client(0, plan).largest_message, to_client),
    ):
        size = max(len(encode(message)) for message in questions)
        assert size <= bound < 2 * size + 500 * (holders + len(plan)) + 2000
    server: Any = HomomorphicServer(agreement, here.roster, here.key_holders, least=2)
    server._round = server_round(last)
    sums = memoryview(bytes(lattice.ciphertext_bytes(lengths[-1])))
    part = memoryview(bytes(max(8 * lengths[-1], lattice.ciphertext_bytes(lengths[-1]) // 2)))
    answers: dict[HomomorphicState, list[Message]] = {
        HomomorphicState.COMMITTING: [commitment],
        HomomorphicState.SHARING: [homomorphic.KeyShare(key)],
        HomomorphicState.ANNOUNCING: [homomorphic.KeyAnnouncement(SIGNATURE)],
        HomomorphicState.INVITING: [homomorphic.Joined()],
        HomomorphicState.COLLECTING: [homomorphic.EncryptedUpload(last, LAST, sums)],
        HomomorphicState.CHALLENGING: [challenge],
        HomomorphicState.CHECKING: [tags],
        HomomorphicState.OPENING: [homomorphic.Opened(last, part)],
    }
    for server.state, said in answers.items():
        size = max(len(framed(message)) for message in said)
        bound = server._largest_frame(0)
        assert size <= bound
        assert bound < 1.5 * size + 4200 or server.state is HomomorphicState.OPENING
