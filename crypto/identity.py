"""A party's identity: an Ed25519 key pair (RFC 8032), which the other parties pin in their rosters.

Libraries accept any 32 bytes as a public key. Under a key of small order anyone can sign: 64 zero bytes verify for
one message in two to eight. So every key of another party passes through `public_key`, which accepts only canonical
encodings of points on the curve that are not of small order.
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
"""The y coordinates of the eight points of order 1, 2, 4 and 8; one or two points share each y."""


class Identity(Guarded):
    """A party's long-term signing key. It signs, and locks its owner's store; it is never shared."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.verify_key = key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> "Identity":
        """A new identity from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    def sign(self, label: Label, *parts: bytes) -> bytes:
        """A 64-byte signature over the label and the length-prefixed parts."""
        return self._key.sign(bind(label, *parts))

    def secret(self, label: Label) -> bytes:
        """32 bytes derived from this identity's key: the same at every call, and unknown to anyone without the key."""
        return derive(self._key.private_bytes_raw(), label)

    def pkcs8(self) -> bytes:
        """The secret key as PKCS #8 in DER (RFC 8410, 48 bytes): for `crypto.key_pem` and nothing else."""
        return self._key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())

    def __repr__(self) -> str:
        return f"Identity(verify_key={self.verify_key.hex()[:16]}…)"


@lru_cache(maxsize=2**14)
def public_key(verify_key: bytes) -> Ed25519PublicKey:
    """Parse a 32-byte key. Raises `CryptoError` unless it is a canonical point on the curve, not of small order."""
    if len(verify_key) != VERIFY_KEY_BYTES:
        raise CryptoError(f"expected an identity key of {VERIFY_KEY_BYTES} bytes, got {len(verify_key)}")
    y = int.from_bytes(verify_key, "little") & (2**255 - 1)
    if y >= _PRIME:
        raise CryptoError(
            "expected an identity key in its canonical encoding, got a coordinate of 2^255 - 19 or more, which no honest "
            "program writes: refuse the key"
        )
    if y in _SMALL:
        raise CryptoError(
            "expected an identity key of large order, got one of small order, under which anyone can sign"
        )
    # x² = (y² − 1) / (d·y² + 1) is a square exactly if (y² − 1)·(d·y² + 1) is one.
    if pow((y * y - 1) * (_D * y * y + 1), (_PRIME - 1) // 2, _PRIME) != 1:
        raise CryptoError("expected an identity key that is a point on the curve, got bytes that are not one")
    return Ed25519PublicKey.from_public_bytes(verify_key)


def verify(verify_key: bytes, signature: bytes, label: Label, *parts: bytes) -> None:
    """Check a signature. Raises `CryptoError` unless `verify_key`'s owner signed the label and the parts."""
    key = public_key(verify_key)
    try:
        key.verify(signature, bind(label, *parts))
    except (InvalidSignature, ValueError) as error:
        raise CryptoError("the signature does not verify") from error
