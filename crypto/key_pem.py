"""An identity as PEM (RFC 7468): PKCS #8, in the clear or under a passphrase.

`cryptography` reads both forms. But it encrypts with a fixed 2,048 rounds of PBKDF2, so a weak passphrase can be
guessed in hours. This module therefore writes the encrypted form itself: PBES2 with scrypt (RFC 7914, §7) and
AES-256-CBC. `openssl pkey` reads it too.
"""

import secrets
from base64 import b64encode
from textwrap import wrap

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.identity import Identity

PASSPHRASE_BYTES = 12  # minimum for a new key
_PLAIN, _ENCRYPTED = "PRIVATE KEY", "ENCRYPTED PRIVATE KEY"
# A guess takes 16 MiB and a quarter of a second: OWASP's advice, within OpenSSL's limit of 32 MiB.
_COST, _BLOCK, _PARALLEL = 2**14, 8, 5
_SALT_BYTES, _KEY_BYTES, _IV_BYTES = 16, 32, 16
_SEQUENCE, _INTEGER, _OCTETS, _OBJECT = 0x30, 0x02, 0x04, 0x06
_PBES2 = bytes.fromhex("2a864886f70d01050d")
_SCRYPT = bytes.fromhex("2b06010401da47040b")
_AES256_CBC = bytes.fromhex("60864801650304012a")


def to_pem(identity: Identity, passphrase: bytes | None = None) -> bytes:
    """Write the secret key as PEM, encrypted if a passphrase is given.

    Raises `CryptoError` for a passphrase of fewer than `PASSPHRASE_BYTES`.
    """
    if passphrase is None:
        return _pem(_PLAIN, identity.pkcs8())
    if len(passphrase) < PASSPHRASE_BYTES:
        raise CryptoError(f"expected a passphrase of at least {PASSPHRASE_BYTES} bytes, got fewer")
    salt, iv = secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_IV_BYTES)
    key = Scrypt(salt, _KEY_BYTES, _COST, _BLOCK, _PARALLEL).derive(passphrase)
    padder, cipher = PKCS7(8 * _IV_BYTES).padder(), Cipher(AES256(key), CBC(iv)).encryptor()
    padded = padder.update(identity.pkcs8()) + padder.finalize()
    numbers = [_der(_INTEGER, number.to_bytes(2).lstrip(b"\0")) for number in (_COST, _BLOCK, _PARALLEL)]
    scrypt = _der(_SEQUENCE, _der(_OBJECT, _SCRYPT), _der(_SEQUENCE, _der(_OCTETS, salt), b"".join(numbers)))
    aes = _der(_SEQUENCE, _der(_OBJECT, _AES256_CBC), _der(_OCTETS, iv))
    scheme = _der(_SEQUENCE, _der(_OBJECT, _PBES2), _der(_SEQUENCE, scrypt, aes))
    sealed = cipher.update(padded) + cipher.finalize()
    return _pem(_ENCRYPTED, _der(_SEQUENCE, scheme, _der(_OCTETS, sealed)))


def is_encrypted(pem: bytes) -> bool:
    """Whether reading the PEM needs a passphrase."""
    return pem.startswith(_line("BEGIN", _ENCRYPTED).encode())


def from_pem(pem: bytes, passphrase: bytes | None = None) -> Identity:
    """Read an identity from PEM. Raises `CryptoError` if it holds no key or the passphrase does not open it."""
    if not is_encrypted(pem) and not pem.startswith(_line("BEGIN", _PLAIN).encode()):
        raise CryptoError(
            "expected a secret key as PEM (PKCS #8), but the file does not begin with the PEM header"
        )
    if is_encrypted(pem) != (passphrase is not None):
        expected = "a passphrase" if is_encrypted(pem) else "no passphrase for a key in the clear"
        raise CryptoError(f"expected {expected}, got {'none' if passphrase is None else 'one'}")
    try:
        key = load_pem_private_key(pem, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError):
        # No cause: a library's message about a secret must not reach our texts.
        wrong = "the passphrase is wrong or the key damaged" if is_encrypted(pem) else "the key is damaged"
        raise CryptoError(f"the secret key does not open: {wrong}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise CryptoError(
            "expected an Ed25519 key, but the PEM holds a key of another algorithm: make one with secure-afl keys new"
        )
    return Identity(key)


def _der(tag: int, *parts: bytes) -> bytes:
    """A DER element of at most 255 bytes."""
    body = b"".join(parts)
    return bytes([tag, len(body)] if len(body) < 128 else [tag, 0x81, len(body)]) + body


def _line(edge: str, kind: str) -> str:
    return f"-----{edge} {kind}-----\n"


def _pem(kind: str, der: bytes) -> bytes:
    body = "\n".join(wrap(b64encode(der).decode(), 64))
    return f"{_line('BEGIN', kind)}{body}\n{_line('END', kind)}".encode()
