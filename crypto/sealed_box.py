"""Authenticated encryption of a party's own records: AES-256-GCM under a key that only this party has."""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.kdf import Label, bind

_NONCE_BYTES = 12  # random: a key is good for 2^32 boxes


def lock(key: bytes, content: bytes, label: Label, *context: bytes) -> bytes:
    """Encrypt the content; it opens only under the same label and context."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, content, bind(label, *context))


def unlock(key: bytes, box: bytes, label: Label, *context: bytes) -> bytes:
    """Decrypt what `lock` encrypted. Raises `CryptoError` if it was altered, or the key, label or context differs."""
    try:
        return AESGCM(key).decrypt(box[:_NONCE_BYTES], box[_NONCE_BYTES:], bind(label, *context))
    except (InvalidTag, ValueError) as error:
        raise CryptoError(
            "a stored record does not open: it was altered, or another party stored it"
        ) from error
