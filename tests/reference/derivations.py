"""Digests, keys and signed parts of both protocols (docs/protocol.md §4, docs/encrypted-protocol.md §4)."""

from reference.frames import check_key, verify
from reference.kdf import bind, derive, digest, u64
from reference.messagepack import unpack
from reference.refused import need
from reference.schema import Fields, name


def roster_digest(members: list[tuple[str, bytes]]) -> bytes:
    """Of names and keys, each of which comes once."""
    need(bool(members), "a member")
    for column in zip(*members, strict=True):
        need(len(set(column)) == len(column), "every name and key once")
    for who, key in members:
        need(name(who) == who, "a printable name")
        check_key(key)
    return digest("ROSTER", *(part for who, key in members for part in (who.encode(), key)))


def transcript(encoded: bytes) -> bytes:
    """Of `parameters` or an `agreement`."""
    return digest("TRANSCRIPT", encoded)


def directory_digest(encoded: bytes) -> bytes:
    """Over the entries of an encoded `directory`."""
    _, _, frames = unpack(encoded)
    return digest("DIRECTORY", *(part for place, frame in frames for part in (u64(place), frame)))


def pair_secret(mask_seed: bytes, transcript: bytes, round_: int, high: int) -> bytes:
    return derive(mask_seed, "PAIR_SECRET", transcript, u64(round_), u64(high))


def pair_mask_key(secret: bytes, transcript: bytes, round_: int, one: int, other: int) -> bytes:
    low, high = min(one, other), max(one, other)
    return derive(secret, "PAIR_MASK", transcript, u64(round_), u64(low), u64(high))


def self_mask_key(seed: bytes, transcript: bytes, round_: int, place: int) -> bytes:
    return derive(seed, "SELF_MASK", transcript, u64(round_), u64(place))


def commitment(transcript: bytes, round_: int, dealer: int, holder: int, kind: int, secret: bytes) -> bytes:
    return digest("COMMITMENT", transcript, *map(u64, (round_, dealer, holder, kind)), secret)


def self_commitment(transcript: bytes, round_: int, place: int, seed: bytes) -> bytes:
    return digest("SELF_COMMITMENT", transcript, u64(round_), u64(place), seed)


def verify_bundle(bundle: Fields, key: bytes, transcript: bytes, dealer: int) -> None:
    """Refuses a bundle that its dealer did not sign."""
    secrets = b"".join(bundle["pair_secrets"])
    commitments = b"".join(one for each in bundle["commitments"] for one in each)
    places = (u64(dealer), u64(bundle["recipient"]))
    signed = (transcript, *places, bundle["sealed"], secrets, commitments)
    verify(key, bundle["signature"], "BUNDLE_SIGNATURE", *signed)


def consent_parts(
    transcript: bytes,
    directory: bytes,
    round_: int,
    participants: list[int],
    survivors: list[int],
    roots: list[bytes],
) -> list[bytes]:
    """roots: of the survivors' uploads with replay, else none."""
    sets = [b"".join(map(u64, places)) for places in (participants, survivors)]
    return [transcript, directory, u64(round_), *sets, *([b"".join(roots)] if roots else [])]


def mask_commitments(
    transcript: bytes, round_: int, place: int, seed: bytes, secrets: dict[int, bytes]
) -> bytes:
    """secrets: with each other participant, by its place."""
    said = {place: self_commitment(transcript, round_, place, seed)}
    for other, one in secrets.items():
        said[other] = commitment(transcript, round_, min(place, other), max(place, other), 2, one)
    return b"".join(one for _, one in sorted(said.items()))


def sum_digest(answer: bytes, survivors: list[int]) -> bytes:
    return digest("OPENED", digest("ANSWERED", answer), b"".join(map(u64, survivors)))


def accepted_digest(opened: bytes, place: int) -> bytes:
    return digest("ACCEPTED", opened, u64(place))


def accepted_sums(opened: dict[int, bytes], place: int) -> bytes:
    parts = [part for number, one in sorted(opened.items()) for part in (u64(number), one)]
    bits = bytearray(max(opened) // 8 + 1)
    for number in opened:
        bits[number // 8] |= 1 << number % 8
    return digest("ACCEPTED_SUMS", u64(place), *parts) + bytes(bits)


def shares_info(transcript: bytes, dealer: int, holder: int) -> bytes:
    return bind("SHARES_INFO", transcript, u64(dealer), u64(holder))


def pair_info(transcript: bytes, round_: int, dealer: int, holder: int) -> bytes:
    return bind("PAIR_INFO", transcript, u64(round_), u64(dealer), u64(holder))


def share_commitment(transcript: bytes, party: int, share: bytes) -> bytes:
    return digest("KEY_SHARE_COMMITMENT", transcript, u64(party), share)


def key_parts(transcript: bytes, key: bytes) -> list[bytes]:
    return [transcript, digest("ENCRYPTION_KEY", key)]


def challenge_parts(offer: Fields, seed: bytes) -> list[bytes]:
    contributors = b"".join(map(u64, offer["contributors"]))
    place = (u64(offer["round"]), u64(offer["attempt"]))
    return [offer["transcript"], *place, contributors, offer["ciphertexts"], seed]


def ciphertexts_digest(transcript: bytes, ciphertexts: bytes) -> bytes:
    return digest("CIPHERTEXTS", transcript, ciphertexts)


def data_set_digest(client: str, data_set: str) -> bytes:
    return digest("DATA_SET", client.encode(), data_set.encode())
