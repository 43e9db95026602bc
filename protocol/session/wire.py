"""Strict canonical encoding, and frames signed by their sender.

A message is a msgspec struct written as a MessagePack array: a tag, then the fields in their order.
It has exactly one encoding: `decode` refuses bytes that do not encode back to themselves. So two parties with the same
bytes have the same message, and a digest of the bytes is a digest of the message.
Lengths and ranges are checked when a struct is built, on either side of the wire.
"""

from collections.abc import Sequence
from operator import lt
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec.msgpack import Decoder

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.identity import SIGNATURE_BYTES, Identity, verify
from secure_afl.crypto.kdf import Label, digest, integer

_FAMILY = "secure-afl/"
VERSION = _FAMILY + "2"
DIGEST_BYTES = 32
PART_BYTES = 2**16  # of a message, hashed by themselves, so that a part can be shown to be one
_ENCODER = msgspec.msgpack.Encoder()
M = TypeVar("M")
Natural = Annotated[int, msgspec.Meta(ge=0)]
"""An integer in a message. Only fraction bits may be negative; lists are checked by `increasing`."""


class WireError(ValueError):
    """The bytes are not a valid message; the text says what was expected and what came."""


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Base class of all messages. The repr shows only the name, as some messages carry shares."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class ServerMessage(Message, frozen=True):
    """Base class of a server's messages in a session. transcript: of that session."""

    transcript: bytes

    def __post_init__(self) -> None:
        exact("a transcript", self.transcript, DIGEST_BYTES)
        self._check()

    def _check(self) -> None:
        """Check a subclass's own fields."""


def encode(message: Message) -> bytes:
    """The canonical encoding of a message."""
    return _ENCODER.encode(message)


def decode(data: bytes | memoryview, decoder: Decoder[M]) -> M:
    """Decode a message of the decoder's type (which may be a union). Raises `WireError` unless it is canonical."""
    try:
        message = decoder.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise WireError(f"not a valid message of {len(data)} bytes: {error}") from None
    if _ENCODER.encode(message) != bytes(data):  # comparing with a memoryview is 20 times slower
        raise WireError(f"a message of {len(data)} bytes is not in canonical form")
    return message


def check_version(data: bytes) -> None:
    """Raises `WireError` if a session's first message names a different protocol version, even if the rest is unknown.

    In every version the version is the first field of a proposal, and the proposal the first field of an invitation.
    """
    try:
        found = msgspec.msgpack.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return
    for _ in range(2):
        found = found[1] if isinstance(found, list) and len(found) > 1 else None
        if isinstance(found, str) and found.startswith(_FAMILY) and found != VERSION:
            raise WireError(f"expected protocol version {VERSION!r}, got {found[:32]!r}")


def answered(data: bytes) -> bytes:
    """The digest of a server's message; the signature of the answering frame covers it.

    So an attacker who alters a server's message on the way can silence a client, but cannot obtain a frame that the
    server accepts as an answer to the original.
    """
    return digest(Label.ANSWERED, data)


def root(encoded: bytes | memoryview) -> bytes:
    """What a frame's signature says of its message: the digest of the digests of its parts of 64 KiB.

    Whoever has the parts' digests can tell one true part by itself.
    """
    whole = memoryview(encoded)
    starts = range(0, max(1, len(whole)), PART_BYTES)
    parts = (digest(Label.FRAME_PART, whole[start : start + PART_BYTES]) for start in starts)
    return digest(Label.FRAME_SIGNATURE, *parts)


def sign_frame(identity: Identity, transcript: bytes, answers: bytes, sender: int, message: Message) -> bytes:
    """`encode(message)`, followed by the sender's signature over session, question, sender and message."""
    return rooted_frame(identity, transcript, answers, sender, message)[0]


def rooted_frame(
    identity: Identity, transcript: bytes, answers: bytes, sender: int, message: Message
) -> tuple[bytes, bytes]:
    """A frame, and its message's root."""
    encoded = encode(message)
    body = root(encoded)
    signature = identity.sign(Label.FRAME_SIGNATURE, transcript, answers, integer(sender), body)
    return encoded + signature, body


def verify_frame(
    data: bytes, verify_key: bytes, transcript: bytes, answers: bytes, sender: int
) -> memoryview:
    """The encoded message of a frame that `sender` signed in answer to what it was sent. Raises `WireError` otherwise."""
    return opened_frame(data, verify_key, transcript, answers, sender)[0]


def opened_frame(
    data: bytes | memoryview, verify_key: bytes, transcript: bytes, answers: bytes, sender: int
) -> tuple[memoryview, bytes]:
    """What `verify_frame` gives, and the message's root."""
    if len(data) <= SIGNATURE_BYTES:
        raise WireError(
            f"expected a message and a signature of {SIGNATURE_BYTES} bytes, got {len(data)} bytes"
        )
    encoded = memoryview(data)[:-SIGNATURE_BYTES]
    body = root(encoded)
    signed = (transcript, answers, integer(sender), body)
    try:
        verify(verify_key, bytes(data[-SIGNATURE_BYTES:]), Label.FRAME_SIGNATURE, *signed)
    except CryptoError:
        raise WireError(
            f"expected {len(data)} bytes signed by this sender in answer to what it was sent, got a wrong signature "
            "(altered, cut or lengthened on the way, or from a different session, phase or sender)"
        ) from None
    return encoded, body


def exact(name: str, value: bytes | memoryview, length: int) -> None:
    """Raises `WireError` unless `value` has `length` bytes."""
    if len(value) != length:
        raise WireError(f"expected {name} of {length} bytes, got {len(value)}")


def increasing(name: str, values: Sequence[int]) -> None:
    """Raises `WireError` unless `values` are non-negative and strictly increasing (so none repeats)."""
    if not all(map(lt, values, values[1:])) or (values and values[0] < 0):
        raise WireError(f"expected {name} in increasing order without repeats, got {list(values[:8])}")
