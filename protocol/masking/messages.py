"""What travels in a masked session, in the order of its phases. Byte for byte: docs/protocol.md.

Clients' messages go in frames that they sign (`wire.sign_frame`); the server's carry the transcript,
and clients believe nothing in them that another client has not signed. Clients are called by their
number in the roster.
"""

from collections.abc import Sequence

from msgspec.msgpack import Decoder

from secure_afl.crypto.hpke import Suite
from secure_afl.crypto.identity import SIGNATURE_BYTES, Identity, verify
from secure_afl.crypto.kdf import KEY_BYTES, Label, bind, derive, digest, integer
from secure_afl.crypto.shamir import SHARE_BYTES
from secure_afl.protocol.session.wire import (
    DIGEST_BYTES,
    Message,
    Natural,
    ServerMessage,
    WireError,
    exact,
    increasing,
)

# ---- from a client -------------------------------------------------------------------------------


class Advertise(Message, frozen=True, tag="advertise"):
    """Phase 1. channel_key: the public key that shares are sealed to; mask_keys: one for each round."""

    channel_key: bytes
    mask_keys: tuple[bytes, ...]

    def check(self, suite: Suite, rounds: int) -> None:
        """Raises `WireError` unless every key has the suite's length and there is one for each round."""
        _count("mask keys", self.mask_keys, rounds)
        for key in (self.channel_key, *self.mask_keys):
            exact(f"a {suite.value} public key", key, suite.public_key_bytes)


class Bundle(Message, frozen=True, tag="bundle"):
    """Phase 2, from one client to one neighbour, relayed by the server and signed by the dealer.

    sealed: for each round a share of the dealer's mask seed and one of its self mask, HPKE to the
        recipient's channel key (66 bytes a round inside).
    pair_secrets: for each round the pair secret, HPKE to the recipient's mask key of that round; only
        from the lower number to the higher, else empty.
    commitments: for each round the hashes of the two shares and, with a pair secret, of that too.
    """

    recipient: Natural
    sealed: bytes
    pair_secrets: tuple[bytes, ...]
    commitments: tuple[tuple[bytes, ...], ...]
    signature: bytes

    def check(self, suite: Suite, rounds: int, dealer: int) -> None:
        """Raises `WireError` unless every part has its exact length."""
        exact("sealed shares", self.sealed, rounds * 2 * SHARE_BYTES + suite.overhead_bytes)
        paired = dealer < self.recipient
        _count("pair secrets", self.pair_secrets, rounds if paired else 0)
        _count("lists of commitments", self.commitments, rounds)
        for secret in self.pair_secrets:
            exact("a sealed pair secret", secret, KEY_BYTES + suite.overhead_bytes)
        for commitments in self.commitments:
            _count("commitments a round", commitments, 3 if paired else 2)
            for commitment in commitments:
                exact("a commitment", commitment, DIGEST_BYTES)
        exact("a bundle's signature", self.signature, SIGNATURE_BYTES)

    def _signed(self, transcript: bytes, dealer: int) -> tuple[bytes, ...]:
        commitments = b"".join(part for each in self.commitments for part in each)
        secrets = b"".join(self.pair_secrets)
        return (transcript, integer(dealer), integer(self.recipient), self.sealed, secrets, commitments)

    @classmethod
    def sign(
        cls,
        identity: Identity,
        transcript: bytes,
        dealer: int,
        *,
        recipient: int,
        sealed: bytes,
        pair_secrets: tuple[bytes, ...],
        commitments: tuple[tuple[bytes, ...], ...],
    ) -> "Bundle":
        draft = cls(recipient, sealed, pair_secrets, commitments, bytes(SIGNATURE_BYTES))
        signature = identity.sign(Label.BUNDLE_SIGNATURE, *draft._signed(transcript, dealer))
        return cls(recipient, sealed, pair_secrets, commitments, signature)

    def verify(self, verify_key: bytes, transcript: bytes, dealer: int) -> None:
        """Raises `CryptoError` unless the dealer signed this bundle for this recipient and session."""
        verify(verify_key, self.signature, Label.BUNDLE_SIGNATURE, *self._signed(transcript, dealer))


class Shares(Message, frozen=True, tag="shares"):
    """Phase 2. A bundle for each neighbour that advertised, and what the dealer commits to for itself.

    own_commitments: for each round the hashes of its self mask's seed and of its own share of that seed.
    """

    own_commitments: tuple[tuple[bytes, bytes], ...]
    bundles: tuple[Bundle, ...]

    def __post_init__(self) -> None:
        increasing("the bundles' recipients", [bundle.recipient for bundle in self.bundles])
        for pair in self.own_commitments:
            for each in pair:
                exact("a commitment", each, DIGEST_BYTES)

    def check(self, suite: Suite, rounds: int, dealer: int) -> None:
        """Raises `WireError` unless every bundle is well formed and there are commitments for each round."""
        _count("pairs of own commitments", self.own_commitments, rounds)
        for bundle in self.bundles:
            bundle.check(suite, rounds, dealer)


class Confirm(Message, frozen=True, tag="confirm"):
    """End of phase 2. complaints: dealers whose bundle is malformed, unsigned, sealed wrongly or off its hashes."""

    complaints: tuple[int, ...]

    def __post_init__(self) -> None:
        increasing("the complaints", self.complaints)


class Upload(Message, frozen=True, tag="upload"):
    """Phase 3. payload: the masked vector, `width` bytes a value."""

    round: Natural
    payload: memoryview


class Consent(Message, frozen=True, tag="consent"):
    """Phase 4, active profile. A signature over the round and both sets, see `consent_parts`."""

    round: Natural
    signature: bytes

    def __post_init__(self) -> None:
        exact("a consent's signature", self.signature, SIGNATURE_BYTES)


class Reveal(Message, frozen=True, tag="reveal"):
    """Phase 5. One share for the sender itself and for each neighbour that took part: of its self mask if
    it survived, of its mask seed if it dropped out. The kind is not written: it follows from the survivor
    set, so a client cannot be made to send both.
    """

    round: Natural
    shares: tuple[tuple[int, bytes], ...]

    def __post_init__(self) -> None:
        increasing("the shares' dealers", [dealer for dealer, _ in self.shares])
        for _, share in self.shares:
            exact("a share", share, SHARE_BYTES)


# ---- from the server -----------------------------------------------------------------------------


class Directory(ServerMessage, frozen=True, tag="directory"):
    """Phase 1. The signed `Advertise` frames of the recipient and its neighbours, by sender."""

    frames: tuple[tuple[int, bytes], ...]

    def _check(self) -> None:
        increasing("the advertisers", [sender for sender, _ in self.frames])

    def digest(self) -> bytes:
        """Equal for two clients of a complete graph only if the server told both the same keys."""
        return digest(
            Label.DIRECTORY, *(part for who, frame in self.frames for part in (integer(who), frame))
        )


class Delivery(ServerMessage, frozen=True, tag="delivery"):
    """Phase 2. The bundles for the recipient, by dealer."""

    bundles: tuple[tuple[int, Bundle], ...]

    def _check(self) -> None:
        increasing("the dealers", [dealer for dealer, _ in self.bundles])


class SumRequest(ServerMessage, frozen=True, tag="sum request"):
    """Phase 3. Which round begins, and who takes part in it: the clients to mask with."""

    round: Natural
    participants: tuple[int, ...]

    def _check(self) -> None:
        increasing("the participants", self.participants)


class Survivors(ServerMessage, frozen=True, tag="survivors"):
    """Phases 4 and 5. Whose uploads are in the sum. Whoever else took part has dropped out: there is no
    second list, so no client can stand in both.
    """

    round: Natural
    survivors: tuple[int, ...]

    def _check(self) -> None:
        increasing("the survivors", self.survivors)


class Consents(ServerMessage, frozen=True, tag="consents"):
    """Phase 4, active profile. The survivors' signatures, by sender."""

    round: Natural
    signatures: tuple[tuple[int, bytes], ...]

    def _check(self) -> None:
        increasing("the consenting clients", [sender for sender, _ in self.signatures])
        for _, signature in self.signatures:
            exact("a consent's signature", signature, SIGNATURE_BYTES)


FromClient = Advertise | Shares | Confirm | Upload | Consent | Reveal
FromServer = Directory | Delivery | SumRequest | Survivors | Consents
FROM_CLIENT: Decoder[FromClient] = Decoder(FromClient)
FROM_SERVER: Decoder[FromServer] = Decoder(FromServer)
ADVERTISE = Decoder(Advertise)

# ---- what both sides compute ---------------------------------------------------------------------

SEED_SHARE, SELF_SHARE, PAIR_SECRET = 0, 1, 2  # places in a bundle's commitments


def commitment(transcript: bytes, round_: int, dealer: int, holder: int, kind: int, secret: bytes) -> bytes:
    """The hash that a dealer publishes for a share or a pair secret, so that a wrong one is known as wrong.

    Each is uniform over at least 2²⁵⁶ values: the hash needs no blinding.
    """
    place = (integer(round_), integer(dealer), integer(holder), integer(kind))
    return digest(Label.COMMITMENT, transcript, *place, secret)


def pair_secret(mask_seed: bytes, transcript: bytes, round_: int, holder: int) -> bytes:
    """What the lower-numbered of two neighbours derives from its mask seed and seals to the other."""
    return derive(mask_seed, Label.PAIR_SECRET, transcript, integer(round_), integer(holder))


def pair_mask_key(secret: bytes, transcript: bytes, round_: int, one: int, other: int) -> bytes:
    """The key of the mask that the lower of two neighbours adds and the higher subtracts."""
    low, high = sorted((one, other))
    return derive(secret, Label.PAIR_MASK, transcript, integer(round_), integer(low), integer(high))


def self_mask_key(seed: bytes, transcript: bytes, round_: int, client: int) -> bytes:
    """The key of the mask that a client adds by itself."""
    return derive(seed, Label.SELF_MASK, transcript, integer(round_), integer(client))


def seed_commitment(transcript: bytes, round_: int, client: int, seed: bytes) -> bytes:
    """The hash that a client publishes for the seed of its self mask."""
    return digest(Label.SELF_COMMITMENT, transcript, integer(round_), integer(client), seed)


def own_commitments(
    transcript: bytes, round_: int, client: int, seed: bytes, share: bytes
) -> tuple[bytes, bytes]:
    """The hashes of a client's self-mask seed and of its own share of it."""
    return (
        seed_commitment(transcript, round_, client, seed),
        commitment(transcript, round_, client, client, SELF_SHARE, share),
    )


def consent_parts(
    transcript: bytes, directory: bytes, round_: int, participants: Sequence[int], survivors: Sequence[int]
) -> tuple[bytes, ...]:
    """What a consent signs: everything on which two clients' views could differ."""
    sets = (b"".join(map(integer, participants)), b"".join(map(integer, survivors)))
    return (transcript, directory, integer(round_), *sets)


def shares_info(transcript: bytes, dealer: int, holder: int) -> bytes:
    """HPKE info of a bundle's sealed shares."""
    return bind(Label.SHARES_INFO, transcript, integer(dealer), integer(holder))


def pair_info(transcript: bytes, round_: int, dealer: int, holder: int) -> bytes:
    """HPKE info of a sealed pair secret."""
    return bind(Label.PAIR_INFO, transcript, integer(round_), integer(dealer), integer(holder))


def _count(name: str, items: Sequence[object], expected: int) -> None:
    if len(items) != expected:
        raise WireError(f"expected {expected} {name}, got {len(items)}")
