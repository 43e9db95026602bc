"""Bound parts, hashes and keys, and the table of their labels (docs/protocol.md §3.2, §3.3)."""

import hashlib
import hmac

from reference.refused import need

LABELS = {
    "CHANNEL_KEY": b"secure-afl/1 channel key pair",
    "MASK_KEY": b"secure-afl/1 mask key pair",
    "PAIR_SECRET": b"secure-afl/1 pair secret",
    "PAIR_MASK": b"secure-afl/1 pair mask",
    "SELF_MASK": b"secure-afl/1 self mask",
    "TAG_KEY": b"secure-afl/2 tag key",
    "PAIR_TAG": b"secure-afl/2 pair mask of a tag",
    "SELF_TAG": b"secure-afl/2 self mask of a tag",
    "LABEL_CODE": b"secure-afl/1 label code",
    "RANDOM_FEATURES": b"secure-afl/1 random features",
    "TAG_COEFFICIENTS": b"secure-afl/1 tag coefficients",
    "JOINT_POLYNOMIAL": b"secure-afl/1 joint polynomial",
    "SHARES_INFO": b"secure-afl/1 sealed shares",
    "PAIR_INFO": b"secure-afl/1 sealed pair secret",
    "ROSTER": b"secure-afl/1 roster",
    "TRANSCRIPT": b"secure-afl/1 transcript",
    "DIRECTORY": b"secure-afl/1 directory",
    "GRAPH": b"secure-afl/1 neighbour graph",
    "ANSWERED": b"secure-afl/1 answered message",
    "COMMITMENT": b"secure-afl/1 commitment",
    "SELF_COMMITMENT": b"secure-afl/1 self-mask commitment",
    "TAG_COMMITMENT": b"secure-afl/2 tag secret commitment",
    "TAG_SECRETS": b"secure-afl/2 tag secrets",
    "OPENED": b"secure-afl/2 opened sum",
    "ACCEPTED": b"secure-afl/2 accepted sum",
    "ACCEPTED_SUMS": b"secure-afl/2 all accepted sums",
    "ENCRYPTION_KEY": b"secure-afl/1 encryption key",
    "KEY_SHARE_COMMITMENT": b"secure-afl/1 key share commitment",
    "CIPHERTEXTS": b"secure-afl/1 sum of ciphertexts",
    "DATA_SET": b"secure-afl/1 data set",
    "NOISE": b"secure-afl/1 noise",
    "STORE": b"secure-afl/1 store of a party",
    "STUDY": b"secure-afl/1 study",
    "AUDIT_LINE": b"secure-afl/1 audit line",
    "AUDIT_MESSAGE": b"secure-afl/1 audited message",
    "FRAME_PART": b"secure-afl/2 part of a frame",
    "FRAME_SIGNATURE": b"secure-afl/1 signed frame",
    "BUNDLE_SIGNATURE": b"secure-afl/1 signed bundle",
    "CONSENT_SIGNATURE": b"secure-afl/1 signed consent",
    "KEY_SIGNATURE": b"secure-afl/1 signed encryption key",
    "CHALLENGE_SIGNATURE": b"secure-afl/1 signed challenge",
    "AUDIT_SIGNATURE": b"secure-afl/1 signed audit entry",
    "HERE_SIGNATURE": b"secure-afl/1 signed whereabouts",
    "KIT_SIGNATURE": b"secure-afl/1 signed kit",
    "ANSWER_SIGNATURE": b"secure-afl/1 signed answer to a kit",
    "EDITION_SIGNATURE": b"secure-afl/1 signed edition of a roster",
}


def u64(value: int) -> bytes:
    """8 bytes, big endian."""
    return value.to_bytes(8, "big")


def bind(label: str, *parts: bytes) -> bytes:
    """The label, and each part behind its length."""
    return LABELS[label] + b"".join(u64(len(part)) + part for part in parts)


def digest(label: str, *parts: bytes) -> bytes:
    """SHA-256 of bound parts."""
    return hashlib.sha256(bind(label, *parts)).digest()


def expand(key: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand (RFC 5869 §2.3)."""
    out = block = b""
    while len(out) < length:
        block = hmac.digest(key, block + info + bytes([len(out) // 32 + 1]), "sha256")
        out += block
    return out[:length]


def derive(secret: bytes, label: str, *parts: bytes, length: int = 32) -> bytes:
    """HKDF-SHA256 without salt."""
    need(len(secret) == 32, "a secret of 32 bytes")
    return expand(hmac.digest(bytes(32), secret, "sha256"), bind(label, *parts), length)
