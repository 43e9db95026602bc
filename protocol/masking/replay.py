"""Replay of a masked sum: whoever has the signed uploads and the opened masks adds them up again. Theorem: docs/verified-sums.md.

A survivor's upload commits to each of its masks, and t consents sign the roots of the uploads. So what a server hands out can
differ from what honest clients uploaded neither in a vector nor in a mask, whoever helps it.
"""

import numpy as np

from secure_afl.crypto import ring
from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.prg import add_keystreams
from secure_afl.protocol.masking import messages
from secure_afl.protocol.masking.messages import Evidence, SumRequest, SurvivorRoots, Upload
from secure_afl.protocol.session.parameters import Parameters
from secure_afl.protocol.session.roster import Roster
from secure_afl.protocol.session.wire import (
    DIGEST_BYTES,
    WireError,
    answered,
    decode,
    encode,
    exact,
    opened_frame,
)


def replayed(parameters: Parameters, roster: Roster, evidence: Evidence) -> tuple[ring.Words, list[bytes]]:
    """The sum's words (as `ring.Words`, before they are read as signed), and the roots of the survivors' uploads.

    Raises `WireError` if the evidence does not give a sum of uploads that these members signed in this round. It does not
    check the consents: see `check_consents`.
    """
    transcript, number, survivors = parameters.transcript(), evidence.round, evidence.survivors
    participants = evidence.participants
    if (
        parameters.roster != roster.digest
        or evidence.transcript != transcript
        or number >= len(parameters.rounds)
    ):
        raise WireError(
            f"expected evidence of a round of this session, got it of round {number}, or of another one"
        )
    if not survivors or not set(participants) <= set(parameters.cohort):
        raise WireError("expected evidence of a sum over members of the cohort")
    spec = parameters.rounds[number]
    question = answered(encode(SumRequest(transcript, number, participants)))
    total: ring.Words = np.zeros(spec.length, ring.words_of(spec.width))
    roots: list[bytes] = []
    plus: list[bytes] = []
    minus: list[bytes] = []
    seeds, secrets = dict(evidence.seeds), dict(evidence.secrets)
    for at, (client, frame) in enumerate(evidence.uploads):
        name = roster.name(client)
        encoded, root = opened_frame(frame, roster.members[client].verify_key, transcript, question, client)
        upload: Upload = decode(encoded, messages.UPLOAD)
        if upload.round != number:
            raise WireError(f"expected {name}'s upload of round {number}, got that of round {upload.round}")
        exact(f"{name}'s upload", upload.payload, spec.payload_bytes)
        opened = {client: messages.seed_commitment(transcript, number, client, seeds[client])}
        minus.append(messages.self_mask_key(seeds[client], transcript, number, client))
        for other, shared in secrets.items():
            opened[other] = messages.pair_commitment(transcript, number, client, other, shared[at])
            # What the survivor added (it is the lower of the two) or subtracted.
            key = messages.pair_mask_key(shared[at], transcript, number, client, other)
            (minus if client < other else plus).append(key)
        _check_opened(name, upload.proof, participants, opened)
        ring.add_packed(total, upload.payload, spec.width)
        roots.append(root)
    add_keystreams(total, plus=plus, minus=minus)
    values, limit = ring.signed(total, spec.width), len(survivors) * spec.magnitude
    if not -limit <= int(values.min()) <= int(values.max()) <= limit:
        raise WireError(f"expected a sum within what {len(survivors)} clients can give, got a larger entry")
    return total, roots


def check_consents(parameters: Parameters, roster: Roster, evidence: Evidence, roots: list[bytes]) -> None:
    """Raises `WireError` unless enough survivors consented to this sum of these uploads; roots: from `replayed`."""
    sets = (evidence.participants, evidence.survivors)
    parts = messages.consent_parts(evidence.transcript, evidence.directory, evidence.round, *sets, roots)
    valid = 0
    for sender, vote in evidence.votes:
        try:
            if sender in evidence.survivors:
                vote.verify(roster.members[sender].verify_key, parts)
                valid += 1
        except CryptoError:
            continue
    if valid < parameters.threshold:
        raise WireError(f"expected at least {parameters.threshold} consents to these uploads, got {valid}")


def survivor_roots(evidence: Evidence, roots: list[bytes]) -> bytes:
    """The message that fixed these uploads before any mask was opened; roots: from `replayed`."""
    named = tuple(zip(evidence.survivors, roots, strict=True))
    return encode(SurvivorRoots(evidence.transcript, evidence.round, named))


def _check_opened(name: str, proof: bytes, participants: tuple[int, ...], opened: dict[int, bytes]) -> None:
    """Raises `WireError` unless an upload's `mask_commitments` are those of the opened masks."""
    exact(f"{name}'s commitments to masks", proof, DIGEST_BYTES * len(participants))
    for at, one in enumerate(participants):
        committed = proof[at * DIGEST_BYTES : (at + 1) * DIGEST_BYTES]
        if one in opened and opened[one] != committed:
            raise WireError(
                f"expected the masks that {name} committed to with its upload, that of participant {one} differs"
            )
