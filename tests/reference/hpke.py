"""Key pairs from seeds, and HPKE (docs/protocol.md §4.1, RFC 9180)."""

import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from reference import mlkem
from reference.kdf import derive, expand
from reference.refused import Refused, need

KEY_BYTES = {"x25519": 32, "hybrid": 1216}
ENCAPSULATION_BYTES = {"x25519": 32, "hybrid": 1120}
OVERHEAD = {suite: size + 16 for suite, size in ENCAPSULATION_BYTES.items()}


class KeyPair:
    """`keypair(seed, label)`."""

    def __init__(self, suite: str, seed: bytes, label: str) -> None:
        material = derive(seed, label, suite.encode(), length=96)
        self.suite = suite
        self.x25519 = X25519PrivateKey.from_private_bytes(material[64:])
        self.mlkem = MLKEM768PrivateKey.from_seed_bytes(material[:64])
        self.public = self.x25519.public_key().public_bytes_raw()
        if suite == "hybrid":
            self.public = self.mlkem.public_key().public_bytes_raw() + self.public

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """The plaintext, if it was sealed to this key under this info."""
        need(len(sealed) >= OVERHEAD[self.suite], "an encapsulation and a tag")
        size = ENCAPSULATION_BYTES[self.suite]
        encapsulation, cipher = sealed[:size], sealed[size:]
        try:
            other = X25519PublicKey.from_public_bytes(encapsulation[-32:])
            secrets = [self.x25519.exchange(other)]
            if self.suite == "hybrid":
                secrets.insert(0, self.mlkem.decapsulate(encapsulation[:1088]))
            key, nonce = schedule(self.suite, secrets, encapsulation, self.public, info)
            return AESGCM(key).decrypt(nonce, cipher, b"")
        except (InvalidTag, ValueError):
            raise Refused("expected a sealed message that opens") from None


def check_key(suite: str, public: bytes) -> None:
    """Refuses what nothing can be sealed to."""
    need(len(public) == KEY_BYTES[suite], "a key of the suite's length")
    try:
        if suite == "hybrid":
            MLKEM768PublicKey.from_public_bytes(public[:1184])
        X25519PrivateKey.from_private_bytes(bytes(32)).exchange(
            X25519PublicKey.from_public_bytes(public[-32:])
        )
    except ValueError:
        raise Refused("expected a key that can be sealed to") from None


def seal(suite: str, public: bytes, plain: bytes, info: bytes, seed: bytes) -> bytes:
    """Sealed with an ephemeral key, and ML-KEM's message, that a 32-byte seed gives."""
    ephemeral = X25519PrivateKey.from_private_bytes(hashlib.sha256(b"x25519" + seed).digest())
    secrets = [ephemeral.exchange(X25519PublicKey.from_public_bytes(public[-32:]))]
    encapsulation = ephemeral.public_key().public_bytes_raw()
    if suite == "hybrid":
        shared, cipher = mlkem.encapsulate(public[:1184], hashlib.sha256(b"ml-kem" + seed).digest())
        secrets.insert(0, shared)
        encapsulation = cipher + encapsulation
    key, nonce = schedule(suite, secrets, encapsulation, public, info)
    return encapsulation + AESGCM(key).encrypt(nonce, plain, b"")


def schedule(
    suite: str, secrets: list[bytes], encapsulation: bytes, public: bytes, info: bytes
) -> tuple[bytes, bytes]:
    """The key and the nonce: the suite's shared secret, then RFC 9180 §5.1 in base mode."""
    own = public[-32:]
    if suite == "hybrid":
        inner = b"".join(secrets) + encapsulation[-32:] + own + bytes.fromhex("5c2e2f2f5e5c")
        shared, kem = hashlib.sha3_256(inner).digest(), b"\x64\x7a"
    else:
        kem = b"\x00\x20"
        secret = extract(b"KEM" + kem, b"eae_prk", secrets[0])
        shared = labelled(secret, b"KEM" + kem, b"shared_secret", encapsulation + own, 32)
    name = b"HPKE" + kem + b"\x00\x01\x00\x02"
    context = b"\x00" + extract(name, b"psk_id_hash", b"") + extract(name, b"info_hash", info)
    secret = extract(name, b"secret", b"", shared)
    return labelled(secret, name, b"key", context, 32), labelled(secret, name, b"base_nonce", context, 12)


def extract(suite: bytes, label: bytes, value: bytes, salt: bytes = b"") -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + value, "sha256")


def labelled(key: bytes, suite: bytes, label: bytes, value: bytes, length: int) -> bytes:
    return expand(key, length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + value, length)
