"""What a party writes down for itself, closed to everybody else: AES-256-GCM under a key of its own."""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.kdf import Label, bind

_NONCE_BYTES = 12  # random: a key is good for 2^32 boxes


def lock(key: bytes, content: bytes, label: Label, *context: bytes) -> bytes:
    """The content, closed; it opens only under the same label and context."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, content, bind(label, *context))


def unlock(key: bytes, box: bytes, label: Label, *context: bytes) -> bytes:
    """What `lock` closed. Raises `CryptoError` if it was changed, or for another key, label or context."""
    try:
        return AESGCM(key).decrypt(box[:_NONCE_BYTES], box[_NONCE_BYTES:], bind(label, *context))
    except (InvalidTag, ValueError) as error:
        raise CryptoError("what was kept does not open: it was changed, or kept by somebody else") from error
