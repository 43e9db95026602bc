"""Who a party is: an Ed25519 key pair (RFC 8032), pinned by the others in their roster."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.kdf import Label, bind, derive

VERIFY_KEY_BYTES = 32
SIGNATURE_BYTES = 64


class Identity:
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


def verify(verify_key: bytes, signature: bytes, label: Label, *parts: bytes) -> None:
    """Raises `CryptoError` unless `signature` is `verify_key`'s for the label and the parts."""
    try:
        Ed25519PublicKey.from_public_bytes(verify_key).verify(signature, bind(label, *parts))
    except (InvalidSignature, ValueError) as error:
        raise CryptoError("the signature does not verify") from error
