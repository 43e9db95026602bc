"""What travels in a masked session, in the order of its phases. Byte for byte: docs/protocol.md.

Clients' messages go in frames that they sign (`wire.sign_frame`); the server's carry the transcript,
and clients believe nothing in them that another client has not signed. Clients are called by their
number in the roster.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, TypeVar

from msgspec import Meta
from msgspec.msgpack import Decoder

from secure_afl.crypto.hpke import Suite
from secure_afl.crypto.identity import SIGNATURE_BYTES, Identity, verify
from secure_afl.crypto.kdf import KEY_BYTES, Label, bind, derive, digest, integer
from secure_afl.crypto.shamir import SHARE_BYTES
from secure_afl.protocol.session.parameters import REPLAYED_BYTES, RoundSpec
from secure_afl.protocol.session.profile import Verify
from secure_afl.protocol.session.wire import (
    DIGEST_BYTES,
    Message,
    Natural,
    ServerMessage,
    WireError,
    exact,
    increasing,
)

T = TypeVar("T")
Few = Annotated[tuple[T, ...], Meta(max_length=2**12)]
"""Of so many clients, hashes of masks alone fill a replay. Without an end, entries of three bytes take 32 times the memory."""
_ROUND_BYTES = 1024  # bits of rounds in a consent: more rounds than any session has

# ---- from a client -------------------------------------------------------------------------------


class Advertise(Message, frozen=True, tag="advertise"):
    """Phase 1. channel_key: the public key that shares are sealed to; mask_keys: one for each round; tag_commitment: of the
    secret that goes into the keys of tags, empty if sums are not checked.
    """

    channel_key: bytes
    mask_keys: tuple[bytes, ...]
    tag_commitment: bytes

    def check(self, suite: Suite, rounds: int, verify: Verify) -> None:
        """Raises `WireError` unless every key has the suite's length and there is one for each round."""
        _count("mask keys", self.mask_keys, rounds)
        for key in (self.channel_key, *self.mask_keys):
            exact(f"a {suite.value} public key", key, suite.public_key_bytes)
        exact("a commitment", self.tag_commitment, DIGEST_BYTES if verify is Verify.TAGS else 0)


class Bundle(Message, frozen=True, tag="bundle"):
    """Phase 2, from one client to one neighbour, relayed by the server and signed by the dealer.

    sealed: for each round a share of the dealer's mask seed and one of its self mask, and behind them, if sums are
        checked, the dealer's secret for tags, HPKE to the recipient's channel key.
    pair_secrets: for each round the pair secret, HPKE to the recipient's mask key of that round; only
        from the lower number to the higher, else empty.
    commitments: for each round the hashes of the two shares and, with a pair secret, of that too.
    """

    recipient: Natural
    sealed: bytes
    pair_secrets: tuple[bytes, ...]
    commitments: tuple[tuple[bytes, ...], ...]
    signature: bytes

    def check(self, suite: Suite, rounds: int, dealer: int, verify: Verify) -> None:
        """Raises `WireError` unless every part has its exact length."""
        exact("sealed shares", self.sealed, sealed_bytes(rounds, verify) + suite.overhead_bytes)
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

    def check(self, suite: Suite, rounds: int, dealer: int, verify: Verify) -> None:
        """Raises `WireError` unless every bundle is well formed and there are commitments for each round."""
        _count("pairs of own commitments", self.own_commitments, rounds)
        for bundle in self.bundles:
            bundle.check(suite, rounds, dealer, verify)


class Confirm(Message, frozen=True, tag="confirm"):
    """End of phase 2. complaints: dealers whose bundle is malformed, unsigned, sealed wrongly or off its hashes."""

    complaints: tuple[int, ...]

    def __post_init__(self) -> None:
        increasing("the complaints", self.complaints)


class Upload(Message, frozen=True, tag="upload"):
    """Phase 3. payload: the masked vector, `width` bytes a value; proof: what the sum is checked with, its masked tag or,
    for a replay, `mask_commitments`; empty if sums are not checked.
    """

    round: Natural
    payload: memoryview
    proof: bytes


class Vote(Message, frozen=True, tag="vote"):
    """A client's signed yes to what it was shown, inside `Consent`. upload: the root of its upload (`wire.root`); accepted: `accepted_sums` of
    all opened sums that it accepted in the session, empty before one; log: the digest of the last line of its
    audit log, empty if it keeps none; signature: over these and all on which two clients' views could differ.
    """

    upload: bytes
    accepted: bytes
    log: bytes
    signature: bytes

    def __post_init__(self) -> None:
        exact("the root of an upload", self.upload, DIGEST_BYTES)
        if self.accepted:
            accepted_rounds(self.accepted)
        if self.log:
            exact("the digest of a line", self.log, DIGEST_BYTES)
        exact("a consent's signature", self.signature, SIGNATURE_BYTES)

    @classmethod
    def sign(
        cls, identity: Identity, view: tuple[bytes, ...], *, upload: bytes, accepted: bytes, log: bytes
    ) -> "Vote":
        """view: `consent_parts`."""
        signature = identity.sign(Label.CONSENT_SIGNATURE, *view, upload, accepted, log)
        return cls(upload, accepted, log, signature)

    def verify(self, verify_key: bytes, view: tuple[bytes, ...]) -> None:
        """Raises `CryptoError` unless the client signed this, and saw what is in `view`."""
        parts = (*view, self.upload, self.accepted, self.log)
        verify(verify_key, self.signature, Label.CONSENT_SIGNATURE, *parts)


class Consent(Message, frozen=True, tag="consent"):
    """Phase 4, active profile. vote: signs the round and both sets, too, see `consent_parts`."""

    round: Natural
    vote: Vote


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


class Verdict(Message, frozen=True, tag="verdict"):
    """Phase 6, if sums are checked. accepted: `accepted_digest`, empty if the client refuses the sum; log: see `Vote`."""

    round: Natural
    accepted: bytes
    log: bytes

    def __post_init__(self) -> None:
        for name, each in (("of an opened sum", self.accepted), ("of a line", self.log)):
            if each:
                exact(f"the digest {name}", each, DIGEST_BYTES)


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
    """Phases 4 and 5. Whose uploads are in the sum. Every other client that took part has dropped out: there is no
    second list, so no client can stand in both.
    """

    round: Natural
    survivors: tuple[int, ...]

    def _check(self) -> None:
        increasing("the survivors", self.survivors)


class SurvivorRoots(ServerMessage, frozen=True, tag="survivor roots"):
    """Phase 4 in place of `Survivors`, for a replay. roots: of the survivors' uploads (`wire.root`), which consents sign, too:
    so no client's upload can be another one for another client.
    """

    round: Natural
    roots: tuple[tuple[int, bytes], ...]

    def _check(self) -> None:
        increasing("the survivors", self.survivors)
        for _, each in self.roots:
            exact("the root of an upload", each, DIGEST_BYTES)

    @property
    def survivors(self) -> tuple[int, ...]:
        """See `Survivors`."""
        return tuple(who for who, _ in self.roots)


class Consents(ServerMessage, frozen=True, tag="consents"):
    """Phase 4, active profile. The survivors' votes, by sender."""

    round: Natural
    votes: tuple[tuple[int, Vote], ...]

    def _check(self) -> None:
        increasing("the consenting clients", [sender for sender, _ in self.votes])


class Answer(ServerMessage, frozen=True, tag="answer"):
    """Phase 6, if sums are checked. payload: the opened sum, `width` bytes a value; tag: the sum of the tags."""

    round: Natural
    payload: memoryview
    tag: bytes


class Evidence(ServerMessage, frozen=True, tag="evidence"):
    """Phase 6 in place of `Answer`, for a replay: all that anybody with the session's parameters and roster needs to make the
    sum again, and to be sure of it (`replay.replayed`).

    directory: its digest; participants: of the round; votes: the consents.
    uploads: the survivors' frames, of `Upload`; seeds: of the survivors' self masks.
    secrets: by dropout, what it shares with each survivor, in order.
    """

    round: Natural
    directory: bytes
    participants: Few[int]
    votes: Few[tuple[int, Vote]]
    uploads: Few[tuple[int, memoryview]]
    seeds: Few[tuple[int, bytes]]
    secrets: Few[tuple[int, Few[bytes]]]

    def _check(self) -> None:
        exact("the digest of a directory", self.directory, DIGEST_BYTES)
        increasing("the participants", self.participants)
        increasing("the consenting clients", [sender for sender, _ in self.votes])
        increasing("the survivors", self.survivors)
        seeded, dropped = [who for who, _ in self.seeds], [who for who, _ in self.secrets]
        if seeded != list(self.survivors) or sorted((*seeded, *dropped)) != list(self.participants):
            raise WireError("expected a seed of each survivor, and secrets of each other participant")
        increasing("the dropouts", dropped)
        for _, seed in self.seeds:
            exact("the seed of a self mask", seed, KEY_BYTES)
        for _, secrets in self.secrets:
            _count("pair secrets of a dropout", secrets, len(self.uploads))
            for secret in secrets:
                exact("a pair secret", secret, KEY_BYTES)

    @property
    def survivors(self) -> tuple[int, ...]:
        """Whose uploads are in the sum."""
        return tuple(who for who, _ in self.uploads)


FromClient = Advertise | Shares | Confirm | Upload | Consent | Reveal | Verdict
FromServer = Directory | Delivery | SumRequest | Survivors | SurvivorRoots | Consents | Answer | Evidence
FROM_CLIENT: Decoder[FromClient] = Decoder(FromClient)
FROM_SERVER: Decoder[FromServer] = Decoder(FromServer)
ADVERTISE = Decoder(Advertise)
EVIDENCE = b"\xa8evidence"
"""How such a message goes on after its first byte."""
UPLOAD = Decoder(Upload)

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


def mask_commitments(
    transcript: bytes, round_: int, client: int, seed: bytes, pair_secrets: Mapping[int, bytes]
) -> bytes:
    """What an upload says of its masks, for a replay: for each participant, in order, the commitment to the pair secret with it,
    and at the client's own place that to the seed of its self mask.
    """
    parts = {
        other: pair_commitment(transcript, round_, client, other, s) for other, s in pair_secrets.items()
    }
    parts[client] = seed_commitment(transcript, round_, client, seed)
    return b"".join(parts[one] for one in sorted(parts))


def pair_commitment(transcript: bytes, round_: int, one: int, other: int, secret: bytes) -> bytes:
    """The hash of a pair secret, which its dealer, the lower of the two, published."""
    low, high = sorted((one, other))
    return commitment(transcript, round_, low, high, PAIR_SECRET, secret)


def consent_parts(
    transcript: bytes,
    directory: bytes,
    round_: int,
    participants: Sequence[int],
    survivors: Sequence[int],
    roots: Sequence[bytes] = (),
) -> tuple[bytes, ...]:
    """What a consent signs besides its vote: everything on which two clients' views could differ. roots: of the survivors'
    uploads, for a replay.
    """
    sets = (b"".join(map(integer, participants)), b"".join(map(integer, survivors)))
    return (transcript, directory, integer(round_), *sets, *([b"".join(roots)] if roots else []))


def sum_digest(answer: bytes, survivors: Sequence[int]) -> bytes:
    """What parties call an opened sum. answer: the digest (`wire.answered`) of the message that fixes it: `Answer`, and for a
    replay `SurvivorRoots`, since evidence can differ in consents and still give the same sum.
    """
    return digest(Label.OPENED, answer, b"".join(map(integer, survivors)))


def accepted_digest(opened: bytes, client: int) -> bytes:
    """What a client says of the sum of this digest when it accepts it; another's words are no use to it."""
    return digest(Label.ACCEPTED, opened, integer(client))


def largest_message(members: int, rounds: Sequence[RoundSpec], *, replay: bool = False) -> int:
    """Bytes of the longest message that a client of these rounds takes or gives: keys of every member, what was sealed for
    every member, a masked vector, an opened sum; for a replay, the uploads of every member.
    """
    keys = members * 2048 * (1 + len(rounds))
    longest = max(one.length * one.width for one in rounds)
    uploads = min(members * longest, REPLAYED_BYTES) + members * (2048 + 64 * members) if replay else 0
    return 1024 + max(keys, longest + 64 * members, uploads)


def accepted_sums(opened: Mapping[int, bytes], client: int) -> bytes:
    """What a client says with a consent of all sums that it accepted so far: a digest of theirs, and then which rounds they are
    of, one bit each, the lowest first. opened: digests by round; empty gives nothing.
    """
    if not opened:
        return b""
    parts = (part for number in sorted(opened) for part in (integer(number), opened[number]))
    rounds = sum(1 << number for number in opened)
    said = digest(Label.ACCEPTED_SUMS, integer(client), *parts)
    return said + rounds.to_bytes(rounds.bit_length() + 7 >> 3, "little")


def accepted_rounds(accepted: bytes) -> list[int]:
    """The rounds that `accepted_sums` names. Raises `WireError` for bytes that it does not give."""
    bits = accepted[DIGEST_BYTES:]
    if not 0 < len(bits) <= _ROUND_BYTES or not bits[-1]:
        raise WireError(
            f"expected a digest of accepted sums and 1 to {_ROUND_BYTES} bytes of their rounds, the last one not 0, got "
            f"{len(accepted)} bytes"
        )
    rounds = int.from_bytes(bits, "little")
    return [number for number in range(8 * len(bits)) if rounds >> number & 1]


def sealed_bytes(rounds: int, verify: Verify) -> int:
    """How much is sealed to a neighbour's channel key."""
    return rounds * 2 * SHARE_BYTES + (KEY_BYTES if verify is Verify.TAGS else 0)


def shares_info(transcript: bytes, dealer: int, holder: int) -> bytes:
    """HPKE info of a bundle's sealed shares."""
    return bind(Label.SHARES_INFO, transcript, integer(dealer), integer(holder))


def pair_info(transcript: bytes, round_: int, dealer: int, holder: int) -> bytes:
    """HPKE info of a sealed pair secret."""
    return bind(Label.PAIR_INFO, transcript, integer(round_), integer(dealer), integer(holder))


def _count(name: str, items: Sequence[object], expected: int) -> None:
    if len(items) != expected:
        raise WireError(f"expected {expected} {name}, got {len(items)}")
