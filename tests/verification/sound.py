"""A sound secure sum in the neutral protocol, sealed channels and Shamir shares included, from which flawed ones derive."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

Words = npt.NDArray[np.uint64]
Carry = Callable[[str, str, str, bytes], list[bytes]]
PRIME = 2**521 - 1


def derive(secret: bytes, *label: object) -> bytes:
    return HKDF(SHA256(), 32, None, repr(label).encode()).derive(secret)


def keystream(key: bytes, length: int) -> Words:
    cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(cipher.update(bytes(8 * length)), "<u8").copy()


def deal(secret: bytes, holders: Sequence[str], threshold: int) -> dict[str, int]:
    terms = [int.from_bytes(secret, "big"), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return {who: sum(t * at**k for k, t in enumerate(terms)) % PRIME for at, who in enumerate(holders, 1)}


def restore(shares: Mapping[int, int]) -> bytes:
    total = 0
    for at, share in shares.items():
        for other in shares:
            if other != at:
                share = share * other * pow(other - at, -1, PRIME) % PRIME
        total += share
    return (total % PRIME).to_bytes(66, "big")[-32:]


class Sound:
    """Pairwise masks and self masks (Bonawitz et al., CCS 2017), for a semi-honest server."""

    claims: dict[str, Any] = {  # noqa: RUF012
        "name": "sound", "clients": (2, 9), "cohort": 5, "dropouts": 2, "least": 2, "bound": 2.0**26,
        "ledger": True, "renewal": True, "related": True, "fraction_bits": 8,
    }  # fmt: skip

    def __init__(self, carry: Carry) -> None:
        self.carry = carry
        self.used: set[str] = set()

    def renew(self, data_set: str) -> None:
        self.used.discard(data_set)

    def post(self, phase: str, sender: str, receiver: str, data: bytes) -> bytes | None:
        arrived = self.carry(phase, sender, receiver, data)
        return arrived[0] if arrived else None

    def open(self, clients: list[str], lengths: list[int], data_set: str, related: bool) -> None:
        if data_set in self.used:
            raise ValueError(f"the data set {data_set!r} has served a session")
        self.used.add(data_set)
        self.clients, self.lengths, self.related, self.data_set = clients, lengths, related, data_set
        self.done: set[int] = set()
        self.survivors: set[str] = set()
        self.threshold = len(clients) // 2 + 1
        self.session = secrets.token_bytes(16)
        # A key for each sum, and one, the last, that seals shares: it is never opened.
        self.secret = {who: [X25519PrivateKey.generate() for _ in (*lengths, "seal")] for who in clients}
        public = {}
        for who, keys in self.secret.items():
            said = b"".join(key.public_key().public_bytes_raw() for key in keys)
            if (sent := self.post("keys", who, "server", said)) is not None:
                public[who] = [
                    X25519PublicKey.from_public_bytes(sent[at : at + 32]) for at in range(0, len(sent), 32)
                ]
        self.holders, self.gone = list(public), set(clients) - set(public)
        self.pair = {
            (one, two, number): derive(key.exchange(public[two][number]), self.session)
            for one, two in permutations(public, 2)
            for number, key in enumerate(self.secret[one])
        }
        self.seeds = {who: [secrets.token_bytes(32) for _ in lengths] for who in public}
        self.shares: dict[
            tuple[str, int, str, str], int
        ] = {}  # of a dealer's secret for a sum, by kind and holder
        for who in public:
            for number, key in enumerate(self.secret[who][:-1]):
                for kind, secret in (("self", self.seeds[who][number]), ("pair", key.private_bytes_raw())):
                    for holder, share in deal(secret, self.holders, self.threshold).items():
                        if self.post(
                            "shares", who, holder, self.seal(who, holder, share.to_bytes(66, "big"))
                        ):
                            self.shares[who, number, kind, holder] = share

    def seal(self, sender: str, receiver: str, data: bytes) -> bytes:
        nonce = secrets.token_bytes(12)
        secret = self.pair.get((sender, receiver, len(self.lengths))) or secrets.token_bytes(32)  # to itself
        key = derive(secret, "seal", sender)
        return nonce + ChaCha20Poly1305(key).encrypt(nonce, data, None)

    def mask(self, who: str, others: Sequence[str], number: int, length: int) -> Words:
        total = np.zeros(length, np.uint64)
        for other in set(others) - {who}:
            stream = keystream(derive(self.pair[who, other, number], "mask"), length)
            total += stream if who < other else -stream
        return total

    def encode(self, vector: Any, length: int) -> Words:
        if not isinstance(vector, np.ndarray) or vector.dtype != np.float64 or vector.shape != (length,):
            raise ValueError(f"expected {length} float64 values")
        if not (np.abs(vector) <= self.claims["bound"]).all():
            raise ValueError("expected finite values within the bound")
        words: Words = np.rint(vector * 2.0 ** self.claims["fraction_bits"]).astype(np.int64).view(np.uint64)
        return words

    def upload(self, who: str, encoded: Words, others: Sequence[str], number: int) -> bytes:
        own = keystream(self.seeds[who][number], len(encoded))
        return (encoded + own + self.mask(who, others, number, len(encoded))).tobytes()

    def sum(self, number: int, vectors: Mapping[str, Any]) -> Any:
        if number in self.done or set(vectors) != set(self.clients):
            raise ValueError("expected a vector of every client, once")
        self.done.add(number)
        length, members = (
            self.lengths[number],
            [who for who in self.clients if (who, 0, "self", who) in self.shares],
        )
        encoded = {who: self.encode(vector, length) for who, vector in vectors.items()}
        uploads = {}
        for who in members:
            if who not in self.gone and (
                sent := self.post("upload", who, "server", self.upload(who, encoded[who], members, number))
            ):
                uploads[who] = np.frombuffer(sent, "<u8")
        if self.related and number and set(uploads) != self.survivors:
            raise ValueError("related sums need the same survivors")
        self.survivors, self.gone = set(uploads), self.gone | (set(members) - set(uploads))
        if len(uploads) < max(self.threshold, self.claims["least"]):
            raise ValueError(f"{len(uploads)} clients are left, {self.threshold} are needed")
        return self.released(self.unmask(uploads, members, number), list(uploads))

    def unmask(self, uploads: Mapping[str, Words], members: Sequence[str], number: int) -> Words:
        total: Words = np.asarray(np.sum(list(uploads.values()), axis=0, dtype=np.uint64))
        opened: dict[str, dict[int, int]] = {who: {} for who in members}
        for at, holder in enumerate(self.holders, 1):
            wanted = {
                dealer: self.shares.get((dealer, number, "self" if dealer in uploads else "pair", holder))
                for dealer in members
            }
            said = b"".join((share or 0).to_bytes(66, "big") for share in wanted.values())
            if holder in uploads and self.post("unmask", holder, "server", said) is not None:
                for dealer, share in wanted.items():
                    if share is not None:
                        opened[dealer][at] = share
        for dealer, shares in opened.items():
            if len(shares) < self.threshold:
                raise ValueError(f"{len(shares)} shares of {dealer} are left, {self.threshold} are needed")
            secret = restore(dict(list(shares.items())[: self.threshold]))
            if dealer in uploads:
                total -= keystream(secret, len(total))
            else:
                key = X25519PrivateKey.from_private_bytes(secret)
                assert key.public_key() == self.secret[dealer][number].public_key()
                total += self.mask(dealer, list(uploads), number, len(total))
        return total

    def released(self, total: Words, survivors: list[str]) -> Any:
        return total.view(np.int64) * 2.0 ** -self.claims["fraction_bits"], survivors
