"""An identity as PEM (RFC 7468): PKCS #8, in the clear or under a passphrase.

`cryptography` reads both. It writes a passphrase with 2,048 rounds of PBKDF2 and lets nobody ask for more, which
guesses out a weak one in hours; so the encrypted form is written here: PBES2 with scrypt (RFC 7914, §7) and
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

PASSPHRASE_BYTES = 12  # the fewest for a new key
_PLAIN, _ENCRYPTED = "PRIVATE KEY", "ENCRYPTED PRIVATE KEY"
# 16 MiB and a quarter of a second for one guess: what OWASP advises, within OpenSSL's limit of 32 MiB.
_COST, _BLOCK, _PARALLEL = 2**14, 8, 5
_SALT_BYTES, _KEY_BYTES, _IV_BYTES = 16, 32, 16
_SEQUENCE, _INTEGER, _OCTETS, _OBJECT = 0x30, 0x02, 0x04, 0x06
_PBES2 = bytes.fromhex("2a864886f70d01050d")
_SCRYPT = bytes.fromhex("2b06010401da47040b")
_AES256_CBC = bytes.fromhex("60864801650304012a")


def to_pem(identity: Identity, passphrase: bytes | None = None) -> bytes:
    """The secret key as PEM, encrypted if there is a passphrase.

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
    """Whether a passphrase is needed to read it."""
    return pem.startswith(_line("BEGIN", _ENCRYPTED).encode())


def from_pem(pem: bytes, passphrase: bytes | None = None) -> Identity:
    """The identity in a PEM. Raises `CryptoError` if there is none, or the passphrase does not open it."""
    if not is_encrypted(pem) and not pem.startswith(_line("BEGIN", _PLAIN).encode()):
        raise CryptoError("expected a secret key as PEM (PKCS #8), the file does not begin with its header")
    if is_encrypted(pem) != (passphrase is not None):
        expected = "a passphrase" if is_encrypted(pem) else "no passphrase for a key in the clear"
        raise CryptoError(f"expected {expected}, got {'none' if passphrase is None else 'one'}")
    try:
        key = load_pem_private_key(pem, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError):
        # No cause: nothing that a library says about a secret goes into our texts.
        wrong = "the passphrase is wrong or the key damaged" if is_encrypted(pem) else "the key is damaged"
        raise CryptoError(f"the secret key does not open: {wrong}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise CryptoError(
            "expected an Ed25519 key, the PEM has a key of another algorithm: make one with secure-afl keys new"
        )
    return Identity(key)


def _der(tag: int, *parts: bytes) -> bytes:
    """One DER element; none here is longer than 255 bytes."""
    body = b"".join(parts)
    return bytes([tag, len(body)] if len(body) < 128 else [tag, 0x81, len(body)]) + body


def _line(edge: str, kind: str) -> str:
    return f"-----{edge} {kind}-----\n"


def _pem(kind: str, der: bytes) -> bytes:
    body = "\n".join(wrap(b64encode(der).decode(), 64))
    return f"{_line('BEGIN', kind)}{body}\n{_line('END', kind)}".encode()
