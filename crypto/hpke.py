"""Public-key encryption to a party: HPKE (RFC 9180), base mode, in two suites.

`HYBRID` (ML-KEM-768 with X25519) protects recorded messages from a future quantum computer; `X25519` is smaller. Base
mode does not authenticate the sender: the protocol signs what it sends.
"""

from enum import StrEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.guarded import Guarded
from secure_afl.crypto.kdf import Label, derive

_X25519_BYTES = 32
_MLKEM_BYTES = 1184
_MLKEM_SEED_BYTES = 64
_TAG_BYTES = 16


class Suite(StrEnum):
    """Which key encapsulation protects channels and pair secrets; both use HKDF-SHA256 and AES-256-GCM."""

    HYBRID = "hybrid"
    X25519 = "x25519"

    @property
    def public_key_bytes(self) -> int:
        return _X25519_BYTES + (_MLKEM_BYTES if self is Suite.HYBRID else 0)

    @property
    def overhead_bytes(self) -> int:
        """Bytes that sealing adds to a plaintext."""
        return _CIPHERS[self][1].enc_length() + _TAG_BYTES


def _cipher(kem: hpke.KEM) -> tuple[hpke.Suite, hpke.KEM]:
    return hpke.Suite(kem, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM), kem


_CIPHERS = {Suite.HYBRID: _cipher(hpke.KEM.MLKEM768_X25519), Suite.X25519: _cipher(hpke.KEM.X25519)}


class KeyPair(Guarded):
    """A key pair derived from a 32-byte seed, so that whoever recovers the seed can open its messages."""

    def __init__(self, suite: Suite, seed: bytes, label: Label) -> None:
        self.suite = suite
        material = derive(seed, label, suite.value.encode(), length=_MLKEM_SEED_BYTES + _X25519_BYTES)
        x25519 = X25519PrivateKey.from_private_bytes(material[_MLKEM_SEED_BYTES:])
        self.public_key = x25519.public_key().public_bytes_raw()
        self._key: X25519PrivateKey | hpke.MLKEM768X25519PrivateKey = x25519
        if suite is Suite.HYBRID:
            mlkem = MLKEM768PrivateKey.from_seed_bytes(material[:_MLKEM_SEED_BYTES])
            self.public_key = mlkem.public_key().public_bytes_raw() + self.public_key
            self._key = hpke.MLKEM768X25519PrivateKey(mlkem, x25519)

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """The plaintext of a message sealed to this key under the same `info`. Raises `CryptoError` otherwise."""
        try:
            return _CIPHERS[self.suite][0].decrypt(sealed, self._key, info=info)
        except (InvalidTag, ValueError) as error:
            raise CryptoError("a sealed message does not open") from error

    def __repr__(self) -> str:
        return f"KeyPair({self.suite.value}, public_key={self.public_key.hex()[:16]}…)"


def seal(suite: Suite, public_key: bytes, plaintext: bytes, info: bytes) -> bytes:
    """Encrypt to `public_key`; the receiver must give the same `info`.

    Raises `CryptoError` if the key has the wrong length or is not a valid key of the suite.
    """
    if len(public_key) != suite.public_key_bytes:
        raise CryptoError(
            f"expected a {suite.value} key of {suite.public_key_bytes} bytes, got {len(public_key)}"
        )
    try:
        x25519 = X25519PublicKey.from_public_bytes(public_key[-_X25519_BYTES:])
        if suite is Suite.X25519:
            return _CIPHERS[suite][0].encrypt(plaintext, x25519, info=info)
        mlkem = MLKEM768PublicKey.from_public_bytes(public_key[:-_X25519_BYTES])
        return _CIPHERS[suite][0].encrypt(plaintext, hpke.MLKEM768X25519PublicKey(mlkem, x25519), info=info)
    except ValueError as error:
        raise CryptoError(f"not a valid {suite.value} public key") from error
