"""Who a party is: an Ed25519 key pair (RFC 8032), pinned by the others in their roster.

Libraries take any 32 bytes as a public key. Under a key of small order anybody can sign: 64 bytes of zeros verify for
every second to eighth message. So `public_key`, through which every key of another party goes, takes canonical encodings
of points on the curve whose order is not small.
"""

from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.guarded import Guarded
from secure_afl.crypto.kdf import Label, bind, derive

VERIFY_KEY_BYTES = 32
SIGNATURE_BYTES = 64
_PRIME = 2**255 - 19
_D = -121665 * pow(121666, -1, _PRIME) % _PRIME
_EIGHTH = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL = frozenset({0, 1, _PRIME - 1, _EIGHTH, _PRIME - _EIGHTH})
"""The y of the eight points of order 1, 2, 4 and 8; each y has two of them, or one."""


class Identity(Guarded):
    """A party's long-term signing key. It signs, and locks what its owner keeps; it is never shared."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.verify_key = key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> "Identity":
        """A new identity from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    def sign(self, label: Label, *parts: bytes) -> bytes:
        """A 64-byte signature of the label and the parts, length-prefixed."""
        return self._key.sign(bind(label, *parts))

    def secret(self, label: Label) -> bytes:
        """32 bytes that nobody makes who does not have this identity's key; the same whenever they are asked for."""
        return derive(self._key.private_bytes_raw(), label)

    def pkcs8(self) -> bytes:
        """The secret key as PKCS #8 in DER (RFC 8410, 48 bytes): for `crypto.key_pem` and nothing else."""
        return self._key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())

    def __repr__(self) -> str:
        return f"Identity(verify_key={self.verify_key.hex()[:16]}…)"


@lru_cache(maxsize=2**14)
def public_key(verify_key: bytes) -> Ed25519PublicKey:
    """The key in 32 bytes. Raises `CryptoError` if nobody, or everybody, could sign under it."""
    if len(verify_key) != VERIFY_KEY_BYTES:
        raise CryptoError(f"expected an identity key of {VERIFY_KEY_BYTES} bytes, got {len(verify_key)}")
    y = int.from_bytes(verify_key, "little") & (2**255 - 1)
    if y >= _PRIME:
        raise CryptoError("expected an identity key in its canonical encoding, this one is not: it is forged")
    if y in _SMALL:
        raise CryptoError("expected an identity key of large order, got one under which anybody can sign")
    # x² = (y² − 1) / (d·y² + 1) must be a square, as (y² − 1)·(d·y² + 1) then is.
    if pow((y * y - 1) * (_D * y * y + 1), (_PRIME - 1) // 2, _PRIME) != 1:
        raise CryptoError("expected an identity key that is a point of the curve, got other bytes")
    return Ed25519PublicKey.from_public_bytes(verify_key)


def verify(verify_key: bytes, signature: bytes, label: Label, *parts: bytes) -> None:
    """Raises `CryptoError` unless `signature` is `verify_key`'s for the label and the parts."""
    key = public_key(verify_key)
    try:
        key.verify(signature, bind(label, *parts))
    except (InvalidSignature, ValueError) as error:
        raise CryptoError("the signature does not verify") from error
