"""What a client of masked sums keeps between the messages of a session: most of it secret, all of it writable.

Encoded it goes to a store of the client's own and comes back after a restart (`MaskingClient.memory`). Nobody else
may see it: with the mask seeds and the server's records a vector can be read.
"""

from functools import cached_property

import msgspec

from secure_afl.crypto.errors import SecureAflError
from secure_afl.crypto.guarded import Guarded
from secure_afl.crypto.hpke import KeyPair, Suite
from secure_afl.crypto.kdf import Label
from secure_afl.protocol.masking import states
from secure_afl.protocol.session.parameters import Demands, Parameters, SessionSums, VerifiedSum
from secure_afl.protocol.session.profile import Profile, Verify


class RoundKeys(Guarded, msgspec.Struct, dict=True):
    """The secrets of one round; forgotten when this client reveals for it, or a later round begins.

    own_share: of the self mask; pair_secrets: by neighbour; shares: by dealer, of its mask seed and its self mask.
    """

    suite: Suite
    mask_seed: bytes
    self_seed: bytes
    own_share: bytes = b""
    pair_secrets: dict[int, bytes] = {}
    shares: dict[int, tuple[bytes, bytes]] = {}

    @cached_property
    def mask_key(self) -> KeyPair:
        """What a dropout's mask seed gives away; neighbours seal pair secrets to it."""
        return KeyPair(self.suite, self.mask_seed, Label.MASK_KEY)


class Masked(Guarded, msgspec.Struct):
    """A masked vector that is to be encrypted: its round, its words as little-endian bytes, its data set's name."""

    round: int
    words: bytes
    data_set: str


class Accepted(Guarded, msgspec.Struct):
    """An opened sum that this client accepted; see `VerifiedSum`."""

    survivors: tuple[int, ...]
    digest: bytes
    packed: memoryview


class Memory(Guarded, msgspec.Struct, dict=True):
    """One client's session.

    answers, invitation: digests of the server's last and first message. demands: of the plan.
    channel_seed: of the key that shares are sealed to; empty once all of them were opened.
    rounds: keys of those to come; current: of the one that was uploaded.
    directory: the digest of all advertised keys; advertisers, dealers: whose keys came, and whose shares.
    related: survivors of the sums that must have the same.
    tag_secrets: what goes into keys of tags, by dealer, this client's own too; tag_commitments: to those; tag_key: of the round that was
    uploaded, until its sum was checked; upload: the root of that upload; roots: of all survivors' uploads, for a replay; accepted:
    sums that were checked, by round.
    """

    parameters: Parameters
    state: states.ClientState
    answers: bytes
    invitation: bytes
    demands: Demands
    channel_seed: bytes
    rounds: dict[int, RoundKeys]
    current: RoundKeys | None = None
    advertised: bytes = b""
    directory: bytes = b""
    advertisers: frozenset[int] = frozenset()
    dealers: frozenset[int] = frozenset()
    round: int = -1
    participants: frozenset[int] = frozenset()
    survivors: frozenset[int] = frozenset()
    related: frozenset[int] | None = None
    masked: Masked | None = None
    tag_commitments: dict[int, bytes] = {}
    tag_secrets: dict[int, bytes] = {}
    tag_key: bytes = b""
    upload: bytes = b""
    roots: tuple[bytes, ...] = ()
    accepted: dict[int, Accepted] = {}

    @cached_property
    def channel(self) -> KeyPair:
        """The key to which neighbours seal shares; it never leaves this client."""
        return KeyPair(self.parameters.suite, self.channel_seed, Label.CHANNEL_KEY)

    def forget_channel(self) -> None:
        """It would open the shares of every round in the recorded traffic, also of those that are over."""
        self.channel_seed = b""
        self.__dict__.pop("channel", None)

    @property
    def verified(self) -> dict[int, VerifiedSum]:
        """The opened sums that this client accepted, by round."""
        return {
            number: VerifiedSum(self.parameters.rounds[number], one.survivors, one.digest, one.packed)
            for number, one in self.accepted.items()
        }

    def forget_all(self) -> None:
        """Every secret: the session is over for this client."""
        self.forget_channel()
        self.rounds, self.current, self.masked = {}, None, None
        self.tag_secrets, self.tag_key = {}, b""

    @cached_property
    def transcript(self) -> bytes:
        """The session's transcript."""
        return self.parameters.transcript()

    def __repr__(self) -> str:
        return f"Memory({self.state.value})"


MEMORY = msgspec.msgpack.Decoder(Memory)

_BELIEVED = {
    Profile.SEMI_HONEST: "the session's profile is semi-honest, so the server is believed",
    Profile.ACTIVE: 'the session has verify = "none", so no client is given a sum',
}


def without_secrets(memory: bytes) -> bytes:
    """What `session_sums` needs of a client's memory; empty for one that this version cannot read."""
    try:
        found = MEMORY.decode(memory)
    except (msgspec.DecodeError, SecureAflError):
        return b""
    found.forget_all()
    return msgspec.msgpack.encode(found)


def session_sums(memory: bytes) -> SessionSums:
    """What a client with this memory knows of its session's sums."""
    found = MEMORY.decode(memory)
    if found.parameters.verify is Verify.NONE:
        return SessionSums({}, _BELIEVED[found.parameters.profile])
    return SessionSums(found.verified, refused=found.state is states.ClientState.REJECTED)
