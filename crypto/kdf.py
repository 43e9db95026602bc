"""All key derivations and hashes of the framework, and the one table of their labels.

HKDF is RFC 5869 with SHA-256. Parts are length-prefixed, so two different lists of parts never give the same input
(`digest(L, b"ab", b"c") != digest(L, b"a", b"bc")`).
"""

import hashlib
from enum import Enum

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from secure_afl.crypto.errors import CryptoError

KEY_BYTES = 32


class Label(Enum):
    """The purpose of a derived key, a hash or a signature. The hash of a frame, a kit or an edition, and the signature over it,
    share a label. The number in a label is of the protocol's version that brought it.
    """

    # HKDF: secret -> key
    CHANNEL_KEY = b"secure-afl/1 channel key pair"
    MASK_KEY = b"secure-afl/1 mask key pair"
    PAIR_SECRET = b"secure-afl/1 pair secret"
    PAIR_MASK = b"secure-afl/1 pair mask"
    SELF_MASK = b"secure-afl/1 self mask"
    TAG_KEY = b"secure-afl/2 tag key"
    PAIR_TAG = b"secure-afl/2 pair mask of a tag"
    SELF_TAG = b"secure-afl/2 self mask of a tag"
    LABEL_CODE = b"secure-afl/1 label code"
    RANDOM_FEATURES = b"secure-afl/1 random features"
    TAG_COEFFICIENTS = b"secure-afl/1 tag coefficients"
    STORE = b"secure-afl/1 store of a party"
    JOINT_POLYNOMIAL = b"secure-afl/1 joint polynomial"
    # HPKE info
    SHARES_INFO = b"secure-afl/1 sealed shares"
    PAIR_INFO = b"secure-afl/1 sealed pair secret"
    # SHA-256
    ROSTER = b"secure-afl/1 roster"
    TRANSCRIPT = b"secure-afl/1 transcript"
    DIRECTORY = b"secure-afl/1 directory"
    GRAPH = b"secure-afl/1 neighbour graph"
    ANSWERED = b"secure-afl/1 answered message"
    COMMITMENT = b"secure-afl/1 commitment"
    SELF_COMMITMENT = b"secure-afl/1 self-mask commitment"
    TAG_COMMITMENT = b"secure-afl/2 tag secret commitment"
    TAG_SECRETS = b"secure-afl/2 tag secrets"
    OPENED = b"secure-afl/2 opened sum"
    ACCEPTED = b"secure-afl/2 accepted sum"
    ACCEPTED_SUMS = b"secure-afl/2 all accepted sums"
    ENCRYPTION_KEY = b"secure-afl/1 encryption key"
    KEY_SHARE_COMMITMENT = b"secure-afl/1 key share commitment"
    CIPHERTEXTS = b"secure-afl/1 sum of ciphertexts"
    DATA_SET = b"secure-afl/1 data set"
    NOISE = b"secure-afl/1 noise"
    STUDY = b"secure-afl/1 study"
    AUDIT_LINE = b"secure-afl/1 audit line"
    AUDIT_MESSAGE = b"secure-afl/1 audited message"
    FRAME_PART = b"secure-afl/2 part of a frame"
    # Ed25519
    FRAME_SIGNATURE = b"secure-afl/1 signed frame"
    BUNDLE_SIGNATURE = b"secure-afl/1 signed bundle"
    CONSENT_SIGNATURE = b"secure-afl/1 signed consent"
    KEY_SIGNATURE = b"secure-afl/1 signed encryption key"
    CHALLENGE_SIGNATURE = b"secure-afl/1 signed challenge"
    HERE_SIGNATURE = b"secure-afl/1 signed whereabouts"
    AUDIT_SIGNATURE = b"secure-afl/1 signed audit entry"
    KIT_SIGNATURE = b"secure-afl/1 signed kit"
    ANSWER_SIGNATURE = b"secure-afl/1 signed answer to a kit"
    EDITION_SIGNATURE = b"secure-afl/1 signed edition of a roster"


def bind(label: Label, *parts: bytes | memoryview) -> bytes:
    """The label and the parts as one byte string, each preceded by its length (8 bytes, big endian)."""
    joined = [label.value]
    for part in parts:
        joined += [len(part).to_bytes(8, "big"), bytes(part)]
    return b"".join(joined)


def derive(secret: bytes, label: Label, *context: bytes, length: int = KEY_BYTES) -> bytes:
    """HKDF-SHA256 of a 32-byte secret; `info` is the label followed by `context`."""
    if len(secret) != KEY_BYTES:
        raise CryptoError(f"{label.name}: expected a secret of {KEY_BYTES} bytes, got {len(secret)}")
    return HKDF(hashes.SHA256(), length, salt=None, info=bind(label, *context)).derive(secret)


def digest(label: Label, *parts: bytes | bytearray | memoryview) -> bytes:
    """SHA-256 of the label and the parts, 32 bytes. Large buffers are hashed without a copy."""
    state = hashlib.sha256(label.value)
    for part in parts:
        state.update(len(part).to_bytes(8, "big"))
        state.update(part)
    return state.digest()


def integer(value: int) -> bytes:
    """A small non-negative integer as 8 bytes, big endian, for use as a context part."""
    return value.to_bytes(8, "big")
