"""Tags of masked sums (docs/protocol.md §4.5)."""

from reference.kdf import derive, digest, u64
from reference.masks import stream
from reference.refused import need

P = 2**130 - 5
CLAMP = 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF


def tag_key(
    secrets: list[bytes], transcript: bytes, directory: bytes, round_: int, participants: list[int]
) -> bytes:
    """Of the secrets of a round's participants, by place."""
    context = (transcript, directory, u64(round_), b"".join(map(u64, participants)))
    return derive(digest("TAG_SECRETS", *secrets), "TAG_KEY", *context)


def commitment(transcript: bytes, place: int, secret: bytes) -> bytes:
    return digest("TAG_COMMITMENT", transcript, u64(place), secret)


def pair_mask(secret: bytes, transcript: bytes, round_: int, one: int, other: int) -> int:
    places = (u64(min(one, other)), u64(max(one, other)))
    return int.from_bytes(derive(secret, "PAIR_TAG", transcript, u64(round_), *places), "little") % P


def self_mask(seed: bytes, transcript: bytes, round_: int, place: int) -> int:
    return int.from_bytes(derive(seed, "SELF_TAG", transcript, u64(round_), u64(place)), "little") % P


def key_parts(key: bytes, participants: int) -> tuple[int, list[int]]:
    """r and the pads."""
    words = stream(key, 4)
    groups = [b"".join(word.to_bytes(4, "little") for word in words(8)) for _ in range(participants + 1)]
    r = int.from_bytes(groups[0][:16], "little") & CLAMP
    return r, [int.from_bytes(group, "little") % P for group in groups[1:]]


def polynomial(r: int, vector: list[int], offset: int, size: int) -> int:
    """L_r by Horner's rule."""
    data = b"".join((entry + offset).to_bytes(size, "little") for entry in vector)
    data += bytes(-len(data) % 16)
    value = 0
    for at in range(0, len(data), 16):
        value = (value + int.from_bytes(data[at : at + 16], "little")) * r % P
    return value


def tag(key: bytes, vector: list[int], magnitude: int, size: int, participants: int, index: int) -> int:
    """Of one participant's codes, before it is masked."""
    r, pads = key_parts(key, participants)
    return (polynomial(r, vector, magnitude, size) + pads[index]) % P


def packed(number: int) -> bytes:
    return number.to_bytes(17, "little")


def parsed(data: bytes) -> int:
    need(len(data) == 17 and int.from_bytes(data, "little") < P, "17 bytes, a number below p")
    return int.from_bytes(data, "little")


def check(
    key: bytes, total: list[int], tag: int, magnitude: int, size: int, participants: int, survivors: list[int]
) -> None:
    """Refuses a sum that its tag does not fit. survivors: their indices among the participants."""
    r, pads = key_parts(key, participants)
    limit = len(survivors) * magnitude
    need(all(abs(entry) <= limit for entry in total), "entries that clients can reach")
    need(
        (tag - sum(pads[one] for one in survivors)) % P == polynomial(r, total, limit, size),
        "a tag that fits",
    )
