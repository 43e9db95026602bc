"""The messages of an encrypted session, in the order of its phases.

Clients and key holders sign their messages (`wire.sign_frame`). The server's messages carry the transcript; parties
trust only what a client or a key holder has signed. Parties are indexed: the roster's members, then the key holders.
"""

from msgspec.msgpack import Decoder

from secure_afl.crypto.identity import SIGNATURE_BYTES
from secure_afl.crypto.kdf import KEY_BYTES, Label, digest, integer
from secure_afl.protocol.homomorphic.agreement import Agreement
from secure_afl.protocol.session.wire import DIGEST_BYTES, Message, Natural, ServerMessage, exact, increasing

# ---- from a key holder ---------------------------------------------------------------------------


class KeyCommitment(Message, frozen=True, tag="key commitment"):
    """The hash of a key share, sent before any share is shown, so that no holder can choose its share after the others."""

    digest: bytes

    def __post_init__(self) -> None:
        exact("a commitment", self.digest, DIGEST_BYTES)


class KeyShare(Message, frozen=True, tag="key share"):
    """A key holder's share of the public key; a single key holder's whole public key."""

    share: bytes


class KeyAnnouncement(Message, frozen=True, tag="key announcement"):
    """A signature over the fingerprint of the joint public key, see `key_parts`."""

    signature: bytes

    def __post_init__(self) -> None:
        exact("a signature", self.signature, SIGNATURE_BYTES)


class Challenge(Message, frozen=True, tag="challenge"):
    """Fresh coefficients for the tags of one offered sum, and a signature over it, see `challenge_parts`."""

    seed: bytes
    signature: bytes

    def __post_init__(self) -> None:
        exact("a seed", self.seed, KEY_BYTES)
        exact("a signature", self.signature, SIGNATURE_BYTES)


class Opened(Message, frozen=True, tag="opened"):
    """What a key holder releases for round `round`.

    payload: from a single key holder, words of 8 bytes in Z_t (BFV) or float64 (CKKS or weights); from one of several,
    the residues of its partial decryption.
    """

    round: Natural
    payload: memoryview


# ---- from a client -------------------------------------------------------------------------------


class Joined(Message, frozen=True, tag="joined"):
    """The client takes part: agreement, key and signatures satisfy its policy."""


class EncryptedUpload(Message, frozen=True, tag="encrypted upload"):
    """A client's upload. payload: the ciphertexts' residues, with the number of bytes that the parameter set fixes."""

    round: Natural
    attempt: Natural
    payload: memoryview


class Tags(Message, frozen=True, tag="tags"):
    """The tags of this client's upload, under each key holder's challenge in their order.

    data_set: a digest of the name that its owner gives the data, see `data_set_digest`.
    """

    tags: tuple[tuple[Natural, ...], ...]
    data_set: bytes

    def __post_init__(self) -> None:
        exact("a digest of a data set's name", self.data_set, DIGEST_BYTES)


# ---- from the server -----------------------------------------------------------------------------


class KeyCommitments(ServerMessage, frozen=True, tag="key commitments"):
    """To key holders: all their signed commitments, by party."""

    frames: tuple[tuple[int, bytes], ...]

    def _check(self) -> None:
        increasing("the key holders", [who for who, _ in self.frames])


class KeyShares(ServerMessage, frozen=True, tag="key shares"):
    """To key holders: all shares of the public key, by party."""

    shares: tuple[tuple[int, bytes], ...]

    def _check(self) -> None:
        increasing("the key holders", [who for who, _ in self.shares])


class Invitation(Message, frozen=True, tag="invitation"):
    """To clients: the agreement, the public key, and each key holder's signature over both, in their order."""

    agreement: Agreement
    key: bytes
    signatures: tuple[bytes, ...]


class EncryptedRequest(ServerMessage, frozen=True, tag="encrypted request"):
    """To clients: which round begins, and who takes part. attempt: counts the rounds begun in this session."""

    round: Natural
    attempt: Natural
    participants: tuple[int, ...]

    def _check(self) -> None:
        increasing("the participants", self.participants)


class Offer(ServerMessage, frozen=True, tag="offer"):
    """To key holders: the sum to open. ciphertexts: its `ciphertexts_digest`."""

    round: Natural
    attempt: Natural
    contributors: tuple[int, ...]
    ciphertexts: bytes

    def _check(self) -> None:
        increasing("the contributors", self.contributors)
        exact("a digest of ciphertexts", self.ciphertexts, DIGEST_BYTES)


class Check(ServerMessage, frozen=True, tag="check"):
    """To contributors: the offer, and each key holder's challenge, in their order."""

    offer: Offer
    challenges: tuple[Challenge, ...]


class Opening(ServerMessage, frozen=True, tag="opening"):
    """To key holders: the check sent to the contributors, their signed tags, and the ciphertexts."""

    check: bytes
    frames: tuple[tuple[int, bytes], ...]
    ciphertexts: memoryview

    def _check(self) -> None:
        increasing("the contributors", [who for who, _ in self.frames])


FromHolder = KeyCommitment | KeyShare | KeyAnnouncement | Challenge | Opened
FromClient = Joined | EncryptedUpload | Tags
ToHolder = KeyCommitments | KeyShares | Offer | Opening
ToClient = EncryptedRequest | Check
FROM_PARTY: Decoder[FromHolder | FromClient] = Decoder(FromHolder | FromClient)
TO_HOLDER: Decoder[ToHolder] = Decoder(ToHolder)
TO_CLIENT: Decoder[ToClient] = Decoder(ToClient)
INVITATION = Decoder(Invitation)
CHECK = Decoder(Check)
COMMITMENT = Decoder(KeyCommitment)
TAGS = Decoder(Tags)

# ---- what several parties compute ----------------------------------------------------------------


def share_commitment(transcript: bytes, holder: int, share: bytes) -> bytes:
    """The hash that a key holder publishes of its share."""
    return digest(Label.KEY_SHARE_COMMITMENT, transcript, integer(holder), share)


def key_parts(transcript: bytes, key: bytes) -> tuple[bytes, ...]:
    """The signed parts of a key announcement."""
    return (transcript, digest(Label.ENCRYPTION_KEY, key))


def challenge_parts(offer: Offer, seed: bytes) -> tuple[bytes, ...]:
    """The signed parts of a challenge: the sum is fixed before the coefficients are known."""
    contributors = b"".join(map(integer, offer.contributors))
    place = (integer(offer.round), integer(offer.attempt))
    return (offer.transcript, *place, contributors, offer.ciphertexts, seed)


def ciphertexts_digest(transcript: bytes, ciphertexts: bytes | memoryview) -> bytes:
    """The hash of a sum's ciphertexts."""
    return digest(Label.CIPHERTEXTS, transcript, ciphertexts)


def data_set_digest(client: str, data_set: str) -> bytes:
    """The digest that key holders store instead of a data set's name."""
    return digest(Label.DATA_SET, client.encode(), data_set.encode())


def known_as(client: str, data_set: bytes) -> str:
    """The name of a client's data set in a key holder's ledger, from that digest."""
    return f"{client}: {data_set.hex()}"
