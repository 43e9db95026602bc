"""Signatures, and the frames that clients and key holders send (docs/protocol.md §3.2, §3.4)."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from reference.kdf import bind, digest, u64
from reference.refused import Refused, need


def sign(private: bytes, label: str, *parts: bytes) -> bytes:
    """Ed25519 over bound parts."""
    return Ed25519PrivateKey.from_private_bytes(private).sign(bind(label, *parts))


PRIME = 2**255 - 19
CURVE = -121665 * pow(121666, -1, PRIME) % PRIME


def check_key(public: bytes) -> None:
    """Refuses what is not the one encoding of a point of the curve, or is one of the eight of small order (§3.2)."""
    need(len(public) == 32, "a key of 32 bytes")
    y = int.from_bytes(public, "little") % 2**255
    need(y < PRIME, "a key in its one encoding")
    square = (y * y - 1) * pow(CURVE * y * y + 1, -1, PRIME) % PRIME  # of x
    need(square == 0 or pow(square, (PRIME - 1) // 2, PRIME) == 1, "a point of the curve")
    for _ in range(3):  # doubled three times, from the squares of x and y alone
        y2, product = y * y % PRIME, CURVE * square * y * y % PRIME
        square = 4 * square * y2 * pow(1 + product, -2, PRIME) % PRIME
        y = (y2 + (y2 - 1) * pow(CURVE * y2 + 1, -1, PRIME)) * pow(1 - product, -1, PRIME) % PRIME
    need(y != 1, "a key of large order")


def verify(public: bytes, signature: bytes, label: str, *parts: bytes) -> None:
    """Refuse an invalid key, and a signature that is not of this key, label and parts."""
    check_key(public)
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, bind(label, *parts))
    except (InvalidSignature, ValueError):
        raise Refused("expected a signature that verifies") from None


def public_key(private: bytes) -> bytes:
    """The Ed25519 key that others know."""
    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def answers(question: bytes) -> bytes:
    """The digest of the server's message that a frame answers."""
    return digest("ANSWERED", question)


def root(message: bytes) -> bytes:
    """The digest of the digests of its parts of 65536 bytes."""
    starts = range(0, max(len(message), 1), 65536)
    return digest(
        "FRAME_SIGNATURE", *(digest("FRAME_PART", message[start : start + 65536]) for start in starts)
    )


def parts(transcript: bytes, question: bytes, place: int, message: bytes) -> tuple[bytes, ...]:
    """What stands under a frame's signature."""
    return transcript, answers(question), u64(place), root(message)


def sign_frame(private: bytes, transcript: bytes, question: bytes, place: int, message: bytes) -> bytes:
    """A message and its signature."""
    return message + sign(private, "FRAME_SIGNATURE", *parts(transcript, question, place, message))


def verify_frame(frame: bytes, public: bytes, transcript: bytes, question: bytes, place: int) -> bytes:
    """The message of a frame."""
    need(len(frame) > 64, "a message and its signature")
    message, signature = frame[:-64], frame[-64:]
    verify(public, signature, "FRAME_SIGNATURE", *parts(transcript, question, place, message))
    return message
