"""What a transport has to know of a message: which state machine it is for, and in which session.

None of this is trusted. A message that comes to the wrong state machine, session or party is refused there.
"""

import secrets
from dataclasses import dataclass
from enum import Enum

from msgspec.msgpack import Decoder

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.identity import SIGNATURE_BYTES, Identity, verify
from secure_afl.crypto.kdf import KEY_BYTES, Label, integer
from secure_afl.protocol.files.roster import Parties
from secure_afl.protocol.session.parameters import SESSION_BYTES
from secure_afl.protocol.session.wire import Message, Natural, ServerMessage, WireError, decode, encode, exact


class Channel(Enum):
    """What a message is about.

    MASKED, ENCRYPTED: a session's state machine. WHEREABOUTS: who is at this address. LEARNED: what came of the sums so
    far (`Learned`), where clients need it for the next. END: a session is over, and this is what was learned in it; empty
    if nothing was. The layers, and of a linear model with a codebook its model file after them.
    """

    MASKED = "masked"
    ENCRYPTED = "encrypted"
    WHEREABOUTS = "whereabouts"
    LEARNED = "learned"
    END = "end"


@dataclass(frozen=True)
class Letter:
    """One message to a party. session: its number, 32 bytes; in WHEREABOUTS 32 fresh bytes, and `data` is empty."""

    channel: Channel
    session: bytes
    data: bytes = b""

    def __post_init__(self) -> None:
        exact("a session number", self.session, SESSION_BYTES)


class Here(Message, frozen=True, tag="here"):
    """Who is at an address, proven: `party` is a number in the session's order, clients first."""

    party: Natural
    signature: bytes

    def __post_init__(self) -> None:
        exact("a signature", self.signature, SIGNATURE_BYTES)


class Learned(ServerMessage, frozen=True, tag="learned"):
    """What came of a session's sums so far, as the model's owner packs it. It begins with what was told before.

    salt: random, so that who has a log, and the message's digest in it, cannot try likely models.
    """

    salt: bytes
    model: bytes

    def _check(self) -> None:
        exact("a salt", self.salt, KEY_BYTES)


HERE = Decoder(Here)
LEARNED = Decoder(Learned)


def who_is_there() -> Letter:
    """A question whose answer cannot be one to an earlier question."""
    return Letter(Channel.WHEREABOUTS, secrets.token_bytes(KEY_BYTES))


def here(identity: Identity, parties: Parties, party: int, question: Letter, address: int) -> bytes:
    """The answer of the party with that number, reached at that address of the transport."""
    signed = _signed(parties, party, question, address)
    return encode(Here(party, identity.sign(Label.HERE_SIGNATURE, *signed)))


def found(parties: Parties, question: Letter, address: int, answer: bytes) -> int:
    """The number of the party at that address. Raises `WireError` for an answer that does not prove one."""
    told = decode(answer, HERE)
    everybody = parties.everybody
    if told.party >= len(everybody):
        raise WireError(f"expected one of {len(everybody)} parties, got number {told.party}")
    signed = _signed(parties, told.party, question, address)
    try:
        verify(everybody[told.party].verify_key, told.signature, Label.HERE_SIGNATURE, *signed)
    except CryptoError:
        raise WireError(
            f"expected an address signed by {everybody[told.party].name} under this roster, the signature does not verify"
        ) from None
    return told.party


def _signed(parties: Parties, party: int, question: Letter, address: int) -> tuple[bytes, ...]:
    digests = [roster.digest for roster in parties.rosters().values()]
    return (question.session, integer(address), integer(party), *digests)
