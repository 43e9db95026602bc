"""What each operation of the vectors is, run on the reference. Inputs and outputs are JSON (`notation`)."""

import hashlib
from collections.abc import Callable
from dataclasses import astuple, replace
from typing import Any

from reference import (
    choice,
    derivations,
    encrypted_messages,
    fixedpoint,
    frames,
    graph,
    hpke,
    kdf,
    lattice,
    masked_messages,
    masks,
    messagepack,
    replay,
    schema,
    shamir,
    tags,
)
from reference.notation import shown, shown_words
from reference.refused import need

hexed = bytes.fromhex
floated = float.fromhex


def hexes(many: list[str]) -> list[bytes]:
    return [hexed(one) for one in many]


# ---- messages ------------------------------------------------------------------------------------

KINDS = {
    "parameters": {"parameters": masked_messages.PARAMETERS},
    "masked, from a client": masked_messages.FROM_CLIENTS,
    "masked, from the server": masked_messages.TO_CLIENTS,
    "agreement": {"agreement": encrypted_messages.AGREEMENT},
    "invitation": {"invitation": encrypted_messages.INVITATION},
    "encrypted, from a party": encrypted_messages.FROM_PARTIES,
    "encrypted, to a key holder": encrypted_messages.TO_HOLDERS,
    "encrypted, to a client": encrypted_messages.TO_CLIENTS,
    "from an address": encrypted_messages.FROM_ADDRESSES,
    "beside a session": encrypted_messages.BESIDE,
}


def message(kind: str, encoded: str) -> schema.Fields:
    return schema.read(hexed(encoded), KINDS[kind])


def transcript(message: str) -> Any:
    schema.read(hexed(message), KINDS["parameters"] | KINDS["agreement"])
    return shown(derivations.transcript(hexed(message)))


def directory_digest(message: str) -> Any:
    schema.read(hexed(message), KINDS["masked, from the server"])
    return shown(derivations.directory_digest(hexed(message)))


def bundle(encoded: str) -> schema.Fields:
    return schema.read(hexed(encoded), {"bundle": masked_messages.BUNDLE})


def sign_bundle(private: str, transcript: str, dealer: int, bundle: str) -> str:
    tag, recipient, sealed, secrets, commitments, _ = messagepack.unpack(hexed(bundle))
    joined = b"".join(one for each in commitments for one in each)
    parts = (hexed(transcript), kdf.u64(dealer), kdf.u64(recipient), sealed, b"".join(secrets), joined)
    signature = frames.sign(hexed(private), "BUNDLE_SIGNATURE", *parts)
    return messagepack.pack([tag, recipient, sealed, secrets, commitments, signature]).hex()


def verify_bundle(encoded: str, key: str, transcript: str, dealer: int) -> str:
    derivations.verify_bundle(bundle(encoded), hexed(key), hexed(transcript), dealer)
    return "verified"


def sign_vote(private: str, view: list[str], upload: str, accepted: str, log: str) -> str:
    said = hexes([upload, accepted, log])
    signature = frames.sign(hexed(private), "CONSENT_SIGNATURE", *hexes(view), *said)
    return messagepack.pack(["vote", *said, signature]).hex()


def verify_vote(vote: str, key: str, view: list[str]) -> str:
    said = schema.read(hexed(vote), {"vote": masked_messages.VOTE})
    parts = (*hexes(view), said["upload"], said["accepted"], said["log"])
    frames.verify(hexed(key), said["signature"], "CONSENT_SIGNATURE", *parts)
    return "verified"


def tag_fits(
    key: str, total: list[int], tag: str, magnitude: int, size: int, participants: int, survivors: list[int]
) -> str:
    tags.check(hexed(key), total, tags.parsed(hexed(tag)), magnitude, size, participants, survivors)
    return "accepted"


def own_commitments(transcript: str, round: int, place: int, seed: str, share: str) -> Any:
    session = hexed(transcript)
    own = derivations.self_commitment(session, round, place, hexed(seed))
    return shown([own, derivations.commitment(session, round, place, place, 1, hexed(share))])


def mask_commitments(transcript: str, round: int, place: int, seed: str, secrets: list[Any]) -> Any:
    shared = {other: hexed(one) for other, one in secrets}
    return shown(derivations.mask_commitments(hexed(transcript), round, place, hexed(seed), shared))


def replay_sum(parameters: str, members: list[Any], evidence: str) -> Any:
    known = [(name, hexed(key)) for name, key in members]
    values, roots = replay.replayed(hexed(parameters), known, hexed(evidence))
    return {"sum": values, "roots": shown(roots)}


def challenge_parts(offer: str, seed: str) -> Any:
    read = schema.read(hexed(offer), {"offer": encrypted_messages.OFFER})
    return shown(derivations.challenge_parts(read, hexed(seed)))


# ---- signatures and keys -------------------------------------------------------------------------


def verify(key: str, signature: str, label: str, parts: list[str]) -> str:
    frames.verify(hexed(key), hexed(signature), label, *hexes(parts))
    return "verified"


def verify_frame(frame: str, key: str, transcript: str, question: str, place: int) -> Any:
    return shown(frames.verify_frame(hexed(frame), hexed(key), hexed(transcript), hexed(question), place))


def seal_to(suite: str, key: str) -> int:
    hpke.check_key(suite, hexed(key))
    return hpke.OVERHEAD[suite]


def split(secret: str, threshold: int, points: list[int], coefficients: list[int]) -> Any:
    shares = shamir.split(hexed(secret), threshold, points, coefficients)
    return {str(point): share.hex() for point, share in shares.items()}


def combine(shares: dict[str, str], threshold: int) -> Any:
    return shown(shamir.combine({int(at): hexed(share) for at, share in shares.items()}, threshold))


def mask(vector: list[int] | int, plus: list[str], minus: list[str], modulus: int, size: int = 8) -> Any:
    total = [0] * vector if isinstance(vector, int) else vector
    return shown_words(masks.masked(total, hexes(plus), hexes(minus), modulus, size))


def neighbours(encoded: str, place: int) -> list[int]:
    read = message("parameters", encoded)
    return graph.neighbours(read, derivations.transcript(hexed(encoded)), place)


# ---- codes ---------------------------------------------------------------------------------------


def fit(bound: str, members: int, fraction_bits: int, room: int | None) -> list[int]:
    need(-512 <= fraction_bits <= 512, "-512 to 512 fraction bits")
    return [*astuple(fixedpoint.fit(floated(bound), members, fraction_bits, room))]


def chosen(found: tuple[str, list[fixedpoint.Code]]) -> list[Any]:
    name, codes = found
    return [name, [[*astuple(code)] for code in codes]]


def choose_bfv(demands: list[tuple[str, int]], summands: int, committee: bool) -> list[Any]:
    wanted = [(floated(bound), bits) for bound, bits in demands]
    return chosen(choice.choose_bfv(wanted, summands, committee))


def choose_ckks(demands: list[tuple[int, str, str]], summands: int) -> list[Any]:
    wanted = [(length, floated(bound), floated(error)) for length, bound, error in demands]
    return chosen(choice.choose_ckks(wanted, summands))


def release_ckks(set: str, code: list[int], slots: list[str], summands: int, decryptions: int) -> Any:
    values = [floated(slot) for slot in slots]
    return shown(choice.released(lattice.SETS[set], fixedpoint.Code(*code), values, summands, decryptions))


# ---- lattices ------------------------------------------------------------------------------------


def lattice_of(name: str, degree: int) -> lattice.Set:
    return replace(lattice.SETS[name], degree=degree)


def count_of(one: lattice.Set, length: int) -> int:
    """Ciphertexts of a vector."""
    slots = one.degree if one.t else one.degree // 2
    return -(-length // slots)


def drawn_residues(given: list[list[int]] | str, primes: tuple[int, ...], count: int) -> lattice.Residues:
    """As listed, or drawn below each prime from the stream of SHA-256(seed ‖ j)."""
    if not isinstance(given, str):
        return given
    keys = [hashlib.sha256(hexed(given) + bytes([j])).digest() for j in range(len(primes))]
    return [masks.below(masks.stream(key), count, prime) for key, prime in zip(keys, primes, strict=True)]


def listed(rows: lattice.Residues) -> list[Any]:
    return [shown_words(row) for row in rows]


def sizes(set: str, length: int) -> list[int]:
    one = lattice.SETS[set]
    row = 2 * one.degree
    ciphertext = row * count_of(one, length) * sum(map(lattice.width, one.primes))
    return [ciphertext, row * sum(map(lattice.width, one.key_primes))]


def pack_residues(set: str, degree: int, count: int, residues: Any) -> Any:
    primes = lattice.SETS[set].primes
    return shown(lattice.pack(drawn_residues(residues, primes, 2 * count * degree), primes))


def unpack_residues(set: str, degree: int, length: int, packed: str) -> Any:
    one = lattice_of(set, degree)
    return listed(lattice.unpack(hexed(packed), one.primes, 2 * degree * count_of(one, length)))


def pack_key(set: str, degree: int, residues: Any) -> Any:
    primes = lattice.SETS[set].key_primes
    return shown(lattice.pack(drawn_residues(residues, primes, 2 * degree), primes))


def unpack_key(set: str, degree: int, packed: str) -> Any:
    return listed(lattice.unpack(hexed(packed), lattice.SETS[set].key_primes, 2 * degree))


def add_residues(set: str, degree: int, one: str, other: str) -> Any:
    primes = lattice.SETS[set].primes
    first, second = (lattice.unpack(hexed(each), primes, 2 * degree) for each in (one, other))
    return shown(lattice.pack(lattice.add(first, second, primes), primes))


def ciphertext_tags(set: str, degree: int, count: int, residues: Any, seed: str) -> list[int]:
    primes = lattice.SETS[set].primes
    return lattice.tags(drawn_residues(residues, primes, 2 * count * degree), primes, hexed(seed))


def dense(degree: int, terms: dict[str, int]) -> list[int]:
    return [terms.get(str(at), 0) for at in range(degree)]


def joint_public_key(set: str, degree: int, transcript: str, shares: list[str]) -> Any:
    return shown(lattice.joint_key(lattice_of(set, degree), hexed(transcript), hexes(shares)))


def put_together(set: str, degree: int, length: int, total: str, partials: list[str]) -> Any:
    one = lattice_of(set, degree)
    return shown(lattice.opened(one, hexed(total), hexes(partials), count_of(one, length)))


OPERATIONS: dict[str, Callable[..., Any]] = {
    # §3
    "u64": lambda value: shown(kdf.u64(value)),
    "bind": lambda label, parts: shown(kdf.bind(label, *hexes(parts))),
    "digest": lambda label, parts: shown(kdf.digest(label, *hexes(parts))),
    "derive": lambda secret, label, parts, length: shown(
        kdf.derive(hexed(secret), label, *hexes(parts), length=length)
    ),
    "identity key": lambda private: shown(frames.public_key(hexed(private))),
    "sign": lambda private, label, parts: shown(frames.sign(hexed(private), label, *hexes(parts))),
    "verify": verify,
    "answered": lambda question: shown(frames.answers(hexed(question))),
    "sign frame": lambda private, transcript, question, place, message: frames.sign_frame(
        hexed(private), hexed(transcript), hexed(question), place, hexed(message)
    ).hex(),
    "verify frame": verify_frame,
    # §4
    "roster digest": lambda members: shown(
        derivations.roster_digest([(name, hexed(key)) for name, key in members])
    ),
    "transcript": transcript,
    "directory digest": directory_digest,
    "pair secret": lambda mask_seed, transcript, round, high: shown(
        derivations.pair_secret(hexed(mask_seed), hexed(transcript), round, high)
    ),
    "pair mask key": lambda secret, transcript, round, one, other: shown(
        derivations.pair_mask_key(hexed(secret), hexed(transcript), round, one, other)
    ),
    "self mask key": lambda seed, transcript, round, place: shown(
        derivations.self_mask_key(hexed(seed), hexed(transcript), round, place)
    ),
    "commitment": lambda transcript, round, dealer, holder, kind, secret: shown(
        derivations.commitment(hexed(transcript), round, dealer, holder, kind, hexed(secret))
    ),
    "own commitments": own_commitments,
    "root of": lambda part, times: shown(frames.root(hexed(part) * times)),
    "sign vote": sign_vote,
    "verify vote": verify_vote,
    "sum digest": lambda answer, survivors: shown(derivations.sum_digest(hexed(answer), survivors)),
    "accepted sums": lambda rounds, opened, place: shown(
        derivations.accepted_sums(dict(zip(rounds, hexes(opened), strict=True)), place)
    ),
    "accepted digest": lambda opened, place: shown(derivations.accepted_digest(hexed(opened), place)),
    "tag commitment": lambda transcript, place, secret: shown(
        tags.commitment(hexed(transcript), place, hexed(secret))
    ),
    "tag key": lambda secrets, transcript, directory, round, participants: shown(
        tags.tag_key(hexes(secrets), hexed(transcript), hexed(directory), round, participants)
    ),
    "pair mask of a tag": lambda secret, transcript, round, one, other: shown(
        tags.packed(tags.pair_mask(hexed(secret), hexed(transcript), round, one, other))
    ),
    "self mask of a tag": lambda seed, transcript, round, place: shown(
        tags.packed(tags.self_mask(hexed(seed), hexed(transcript), round, place))
    ),
    "tag": lambda key, vector, magnitude, size, participants, index: shown(
        tags.packed(tags.tag(hexed(key), vector, magnitude, size, participants, index))
    ),
    "tag fits": tag_fits,
    "consent parts": lambda transcript, directory, round, participants, survivors, roots: shown(
        derivations.consent_parts(
            hexed(transcript), hexed(directory), round, participants, survivors, hexes(roots)
        )
    ),
    "mask commitments": mask_commitments,
    "replay": replay_sum,
    "shares info": lambda transcript, dealer, holder: shown(
        derivations.shares_info(hexed(transcript), dealer, holder)
    ),
    "pair info": lambda transcript, round, dealer, holder: shown(
        derivations.pair_info(hexed(transcript), round, dealer, holder)
    ),
    "sign bundle": sign_bundle,
    "verify bundle": lambda bundle, key, transcript, dealer: verify_bundle(bundle, key, transcript, dealer),
    "key pair": lambda suite, seed, label: shown(hpke.KeyPair(suite, hexed(seed), label).public),
    "open sealed": lambda suite, seed, label, sealed, info: shown(
        hpke.KeyPair(suite, hexed(seed), label).open(hexed(sealed), hexed(info))
    ),
    "seal to": seal_to,
    "split": split,
    "combine": combine,
    "code": lambda fields: [*astuple(fixedpoint.Code(*fields))],
    "fit": fit,
    "encode": lambda code, values: shown_words(
        fixedpoint.encode(fixedpoint.Code(*code), [floated(value) for value in values])
    ),
    "encode units": lambda code, units, fraction_bits: shown_words(
        fixedpoint.encode_units(fixedpoint.Code(*code), units, fraction_bits)
    ),
    "decode sum": lambda code, total, summands: shown(
        fixedpoint.decode_sum(fixedpoint.Code(*code), total, summands)
    ),
    "pack": lambda values, width: shown(fixedpoint.pack(values, width)),
    "unpack": lambda payload, length, width: shown_words(fixedpoint.unpack(hexed(payload), length, width)),
    "signed": lambda values, width: fixedpoint.signed(values, width),
    "modular": lambda values, modulus: fixedpoint.modular(values, modulus),
    "centred": lambda values, modulus: fixedpoint.centred(values, modulus),
    "masks": mask,
    # §5
    "message": lambda kind, encoded: shown(message(kind, encoded)),
    "advertise of": lambda encoded, suite, rounds, verify: shown(
        masked_messages.check_advertise(hexed(encoded), suite, rounds, verify)
    ),
    "shares of": lambda encoded, suite, rounds, dealer, verify: shown(
        masked_messages.check_shares(hexed(encoded), suite, rounds, dealer, verify)
    ),
    # §6
    "neighbours": neighbours,
    "choose graph": lambda n, profile, corrupted, dropout, rounds: [
        *graph.choose(n, profile, corrupted, floated(dropout), rounds)
    ],
    "least threshold": graph.least_threshold,
    # docs/encrypted-protocol.md
    "choose bfv": choose_bfv,
    "choose ckks": choose_ckks,
    "smudging bits": lambda set, holders, summands: choice.smudging_bits(
        lattice.SETS[set], holders, summands
    ),
    "check bfv": lambda set, values, budget: choice.checked(lattice.SETS[set], values, budget),
    "release ckks": release_ckks,
    "share commitment": lambda transcript, party, share: shown(
        derivations.share_commitment(hexed(transcript), party, hexed(share))
    ),
    "key parts": lambda transcript, key: shown(derivations.key_parts(hexed(transcript), hexed(key))),
    "challenge parts": challenge_parts,
    "ciphertexts digest": lambda transcript, ciphertexts: shown(
        derivations.ciphertexts_digest(hexed(transcript), hexed(ciphertexts))
    ),
    "data set digest": lambda client, data_set: shown(derivations.data_set_digest(client, data_set)),
    "sizes": sizes,
    "pack residues": pack_residues,
    "unpack residues": unpack_residues,
    "pack key": pack_key,
    "unpack key": unpack_key,
    "add residues": add_residues,
    "tags": ciphertext_tags,
    "add tags": lambda set, one, other: lattice.add_tags(one, other, lattice.SETS[set].primes),
    "transform": lambda prime, degree, terms: shown_words(lattice.transformed(dense(degree, terms), prime)),
    "transform back": lambda prime, degree, terms: shown_words(
        lattice.untransformed(dense(degree, terms), prime)
    ),
    "root": lambda prime, degree: lattice.root(degree, prime),
    "joint polynomial": lambda set, degree, transcript: listed(
        lattice.common(lattice_of(set, degree), hexed(transcript))
    ),
    "joint public key": joint_public_key,
    "put together": put_together,
}
