"""A reader of the session in which masked vectors travel encrypted: the reference alone, from what stands in its file.

Where `test_vectors.py` makes the file again with our parties, this recomputes what they said.
"""

import json
from typing import Any

import pytest
from reference import bfv, derivations, frames, lattice, masks, shamir
from reference.encrypted_messages import AGREEMENT, FROM_PARTIES, INVITATION, TO_CLIENTS, TO_HOLDERS
from reference.masked_messages import FROM_CLIENTS, PARAMETERS
from reference.masked_messages import TO_CLIENTS as TO_MASKING
from reference.schema import read
from vectors import make

pytestmark = pytest.mark.slow

FILE = make.read(json.loads((make.FOLDER / "encrypted" / "bfv-mask.json").read_text(encoding="utf-8")))
SET = lattice.SETS["bfv-46"]
SECRET = [int(digit) - 3 * (digit == "2") for digit in FILE["secret_key"]]
PARTIES = [*FILE["roster"], *FILE["key_holders"]]
KEYS = [bytes.fromhex(one["key"]) for one in PARTIES]
TRANSCRIPTS = {"masks": bytes.fromhex(FILE["transcript"]), "encryption": bytes.fromhex(FILE["agreement"])}
(SUM,) = FILE["sums"]
ASKED = {
    "masks": {**TO_MASKING, "parameters": PARAMETERS},
    "encryption": {**TO_CLIENTS, **TO_HOLDERS, "agreement": AGREEMENT, "invitation": INVITATION},
}
SAID = {"masks": FROM_CLIENTS, "encryption": FROM_PARTIES}


def exchanges(session: str) -> dict[str, list[tuple[bytes, dict[int, bytes]]]]:
    """By phase, each message of the server with the answers to it. Every frame is one of its party, to this question."""
    found: dict[str, list[tuple[bytes, dict[int, bytes]]]] = {}
    for one in FILE["exchanges"]:
        if one["session"] != session:
            continue
        question = bytes.fromhex(one["server_message"])
        answers = {}
        for party, frame in one["answers"].items():
            if frame is not None:
                at, given = int(party), bytes.fromhex(frame)
                answers[at] = frames.verify_frame(given, KEYS[at], TRANSCRIPTS[session], question, at)
        found.setdefault(one["phase"], []).append((question, answers))
    return found


MASKS, ENCRYPTION = exchanges("masks"), exchanges("encryption")


def asked(session: str, phase: str) -> Any:
    """What the server sends in a phase."""
    ((question, _), *_) = (MASKS if session == "masks" else ENCRYPTION)[phase]
    return read(question, ASKED[session])


def said(session: str, phase: str) -> dict[int, Any]:
    """What each party answers."""
    phases = MASKS if session == "masks" else ENCRYPTION
    return {party: read(one, SAID[session]) for _, answers in phases[phase] for party, one in answers.items()}


def secrets(client: int) -> dict[str, Any]:
    (found,) = FILE["clients"][str(client)]["rounds"]
    return found  # type: ignore[no-any-return]


def masked(client: int, words: list[int], others: list[int], sign: int) -> list[int]:
    """Words with a client's masks added, or taken away: the self mask, and those shared with `others`."""
    mine, transcript = secrets(client), TRANSCRIPTS["masks"]
    plus = [derivations.self_mask_key(bytes.fromhex(mine["self_seed"]), transcript, 0, client)]
    minus: list[bytes] = []
    for other in others:
        pair = bytes.fromhex(mine["pair_secrets"][str(other)])
        key = derivations.pair_mask_key(pair, transcript, 0, client, other)
        (plus if other > client else minus).append(key)
    if sign < 0:
        plus, minus = minus, plus
    return masks.masked(words, plus, minus, SET.t, 8)


def test_both_sessions_are_of_these_parties_and_belong_together() -> None:
    (parameters, _), (agreement, _) = MASKS["advertising"][0], ENCRYPTION["key commitments"][0]
    assert derivations.transcript(parameters) == TRANSCRIPTS["masks"]
    assert derivations.transcript(agreement) == TRANSCRIPTS["encryption"]
    under, over = read(parameters, ASKED["masks"]), read(agreement, ASKED["encryption"])
    assert (over["masks"], over["session"]) == (TRANSCRIPTS["masks"], under["session"])
    assert over["lattice"] == SET.name
    assert over["rounds"] == under["rounds"]
    for group, digest in ((FILE["roster"], over["roster"]), (FILE["key_holders"], over["holders"])):
        members = [(one["name"], bytes.fromhex(one["key"])) for one in group]
        assert derivations.roster_digest(members) == digest
    for one in PARTIES:
        assert frames.public_key(bytes.fromhex(one["private"])).hex() == one["key"]


def test_the_key_is_the_one_committed_to_and_signed_and_fits_the_secret() -> None:
    transcript, invitation = TRANSCRIPTS["encryption"], asked("encryption", "inviting")
    ((holder, commitment),) = said("encryption", "key commitments").items()
    key = said("encryption", "key shares")[holder]["share"]
    assert derivations.share_commitment(transcript, holder, key) == commitment["digest"]
    assert invitation["key"] == key
    (signature,) = invitation["signatures"]
    frames.verify(KEYS[holder], signature, "KEY_SIGNATURE", *derivations.key_parts(transcript, key))
    for prime, row in zip(SET.key_primes, lattice.unpack(key, SET.key_primes, 2 * SET.degree), strict=True):
        b, a = (bfv.untransformed(row[at : at + SET.degree], prime) for at in (0, SET.degree))
        errors = [
            -(one + other) % prime for one, other in zip(b, bfv.multiply(a, SECRET, prime), strict=True)
        ]
        assert all(min(one, prime - one) <= 21 for one in errors)


def test_uploads_decrypt_to_the_masked_vectors_and_their_sum_to_the_masked_sum() -> None:
    total: lattice.Residues = []
    uploads = said("encryption", "encrypting")
    participants = SUM["participants"]
    assert sorted(uploads) == SUM["survivors"]
    for client, upload in uploads.items():
        mine = secrets(client)
        assert masked(client, [one % SET.t for one in mine["encoded"]], [
            one for one in participants if one != client
        ], 1) == mine["words"]  # fmt: skip
        words, noise = bfv.decrypted(SET, SECRET, upload["payload"], len(mine["words"]))
        assert words == mine["words"]
        assert noise < SET.q // (2 * SET.t)
        residues = lattice.unpack(upload["payload"], SET.primes, 2 * SET.degree)
        total = lattice.add(total, residues, SET.primes) if total else residues
    opening, transcript = asked("encryption", "opening"), TRANSCRIPTS["encryption"]
    assert opening["ciphertexts"] == lattice.pack(total, SET.primes)
    offered = asked("encryption", "challenging")["ciphertexts"]
    assert derivations.ciphertexts_digest(transcript, opening["ciphertexts"]) == offered
    words, noise = bfv.decrypted(SET, SECRET, opening["ciphertexts"], len(SUM["masked"]))
    assert words == SUM["masked"]
    assert noise < SET.q // (2 * SET.t)
    (opened,) = said("encryption", "opening").values()
    assert opened["payload"] == b"".join(one.to_bytes(8, "little") for one in words)
    other, _ = bfv.decrypted(SET, SECRET[::-1], opening["ciphertexts"], len(SUM["masked"]))
    assert other != SUM["masked"]


def test_tags_are_of_the_uploads_under_the_signed_challenge() -> None:
    check, uploads = asked("encryption", "checking"), said("encryption", "encrypting")
    (challenge,) = check["challenges"]
    holder = len(FILE["roster"])
    parts = derivations.challenge_parts(check["offer"], challenge["seed"])
    frames.verify(KEYS[holder], challenge["signature"], "CHALLENGE_SIGNATURE", *parts)
    added = [0] * (2 * len(SET.primes))
    for client, one in said("encryption", "checking").items():
        residues = lattice.unpack(uploads[client]["payload"], SET.primes, 2 * SET.degree)
        assert one["tags"] == [lattice.tags(residues, SET.primes, challenge["seed"])]
        assert one["data_set"] == derivations.data_set_digest(PARTIES[client]["name"], "rows")
        added = lattice.add_tags(added, one["tags"][0], SET.primes)
    total = lattice.unpack(asked("encryption", "opening")["ciphertexts"], SET.primes, 2 * SET.degree)
    assert lattice.tags(total, SET.primes, challenge["seed"]) == added


def test_what_survivors_reveal_opens_the_sum_and_nothing_else() -> None:
    threshold = asked("masks", "advertising")["threshold"]
    revealed = said("masks", "unmasking")
    assert sorted(revealed) == SUM["survivors"]
    words = SUM["masked"]
    for dealer in SUM["participants"]:
        shares = {holder + 1: dict(one["shares"])[dealer] for holder, one in revealed.items()}
        is_lost = dealer not in SUM["survivors"]
        seed = shamir.combine(shares, threshold).hex()
        assert seed == secrets(dealer)["mask_seed" if is_lost else "self_seed"]
        # Survivors' masks of pairs cancel out but for those with who is lost.
        if not is_lost:
            words = masked(
                dealer, words, [one for one in SUM["participants"] if one not in SUM["survivors"]], -1
            )
    centred = [one - SET.t if one > SET.t // 2 else one for one in words]
    vectors = [secrets(client)["encoded"] for client in SUM["survivors"]]
    assert centred == SUM["sum"] == [sum(column) for column in zip(*vectors, strict=True)]
    bits = asked("masks", "advertising")["rounds"][0]["fraction_bits"]
    assert [float.fromhex(one) for one in SUM["decoded"]] == [one / 2**bits for one in centred]
    ((answer, _),) = MASKS["answering"]
    assert derivations.sum_digest(answer, SUM["survivors"]).hex() == SUM["digest"]
