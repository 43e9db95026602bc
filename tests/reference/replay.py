"""A sum made again from its evidence (docs/protocol.md §5, `evidence`)."""

from typing import Any

from reference import derivations, fixedpoint, frames, masked_messages, masks, messagepack
from reference.kdf import digest
from reference.refused import Refused, need
from reference.schema import read


def replayed(
    parameters: bytes, members: list[tuple[str, bytes]], encoded: bytes
) -> tuple[list[int], list[bytes]]:
    """The sum, and the roots of the uploads in it; refused unless the uploads and enough consents bear it."""
    said = read(parameters, {"parameters": masked_messages.PARAMETERS})
    fields = read(encoded, {"evidence": masked_messages.TO_CLIENTS["evidence"]})
    transcript, number, everybody = digest("TRANSCRIPT", parameters), fields["round"], fields["participants"]
    need(fields["transcript"] == transcript and number < len(said["rounds"]), "a round of this session")
    need(derivations.roster_digest(members) == said["roster"], "the roster of this session")
    survivors = [who for who, _ in fields["uploads"]]
    need(bool(survivors) and set(everybody) <= set(said["cohort"]), "members of the cohort")
    one, keys = said["rounds"][number], [key for _, key in members]
    size, seeds = 4 if one["width"] == 4 else 8, dict(fields["seeds"])
    question = messagepack.pack(["sum request", transcript, number, everybody])
    total, roots = [0] * one["length"], []
    plus: list[bytes] = []
    minus: list[bytes] = []
    for at, (who, frame) in enumerate(fields["uploads"]):
        message = frames.verify_frame(frame, keys[who], transcript, question, who)
        upload = read(message, {"upload": masked_messages.FROM_CLIENTS["upload"]})
        need(upload["round"] == number, "an upload of this round")
        need(len(upload["proof"]) == 32 * len(everybody), "a commitment for each participant")
        proof = {place: upload["proof"][32 * i : 32 * i + 32] for i, place in enumerate(everybody)}
        need(proof[who] == derivations.self_commitment(transcript, number, who, seeds[who]), "its self seed")
        minus.append(derivations.self_mask_key(seeds[who], transcript, number, who))
        for other, secrets in fields["secrets"]:
            low, high = min(who, other), max(who, other)
            expected = derivations.commitment(transcript, number, low, high, 2, secrets[at])
            need(proof[other] == expected, "its pair secret")
            key = derivations.pair_mask_key(secrets[at], transcript, number, who, other)
            (minus if who < other else plus).append(key)
        words = fixedpoint.unpack(upload["payload"], one["length"], one["width"])
        total = [a + b for a, b in zip(total, words, strict=True)]
        roots.append(frames.root(message))
    bits = 8 * one["width"]
    opened = [
        word % 2**bits for word in masks.masked([t % 2 ** (8 * size) for t in total], plus, minus, 0, size)
    ]
    values = [word - 2**bits if word >= 2 ** (bits - 1) else word for word in opened]
    need(all(abs(value) <= len(survivors) * one["magnitude"] for value in values), "entries within the bound")
    view = derivations.consent_parts(transcript, fields["directory"], number, everybody, survivors, roots)
    consents = sum(who in survivors and _consents(vote, keys[who], view) for who, vote in fields["votes"])
    need(consents >= said["threshold"], "enough consents")
    return values, roots


def _consents(vote: dict[str, Any], key: bytes, view: list[bytes]) -> bool:
    parts = (*view, vote["upload"], vote["accepted"], vote["log"])
    try:
        frames.verify(key, vote["signature"], "CONSENT_SIGNATURE", *parts)
    except Refused:
        return False
    return True
