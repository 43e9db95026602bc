"""What a transport needs to know of a message: its state machine and its session.

Nothing here is trusted: a state machine refuses a message for a different machine, session or party.
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
    """The subject of a message.

    MASKED, ENCRYPTED: for a session's state machine. WHEREABOUTS: asks which party is at this address. LEARNED: results
    of the sums so far (`Learned`), if clients need them for the next sum. END: a session is over, with what was learned
    in it; empty if nothing. That is the layers, and for a linear model with a codebook then its model file.
    """

    MASKED = "masked"
    ENCRYPTED = "encrypted"
    WHEREABOUTS = "whereabouts"
    LEARNED = "learned"
    END = "end"


@dataclass(frozen=True)
class Envelope:
    """An envelope: a message to a party. session: its number, 32 bytes; in WHEREABOUTS 32 fresh bytes with empty `data`. study: its digest, for
    a party of several studies; empty if the server does not say.
    """

    channel: Channel
    session: bytes
    data: bytes = b""
    study: bytes = b""

    def __post_init__(self) -> None:
        exact("a session number", self.session, SESSION_BYTES)


class Here(Message, frozen=True, tag="here"):
    """A party's signed statement that it is at an address. party: its index in the session, clients first."""

    party: Natural
    signature: bytes

    def __post_init__(self) -> None:
        exact("a signature", self.signature, SIGNATURE_BYTES)


class Learned(ServerMessage, frozen=True, tag="learned"):
    """The results of a session's sums so far, in the model's own encoding. They begin with the earlier announcement.

    salt: random, so that a reader of a log cannot compare the message's digest with those of likely models.
    """

    salt: bytes
    model: bytes

    def _check(self) -> None:
        exact("a salt", self.salt, KEY_BYTES)


HERE = Decoder(Here)
LEARNED = Decoder(Learned)


def who_is_there(study: bytes = b"") -> Envelope:
    """A fresh question for the party at an address; an answer to an earlier question cannot answer it."""
    return Envelope(Channel.WHEREABOUTS, secrets.token_bytes(KEY_BYTES), study=study)


def here(identity: Identity, parties: Parties, party: int, question: Envelope, address: int) -> bytes:
    """The answer of the party with that index at that address of the transport."""
    signed = _signed(parties, party, question, address)
    return encode(Here(party, identity.sign(Label.HERE_SIGNATURE, *signed)))


def found(parties: Parties, question: Envelope, address: int, answer: bytes) -> int:
    """The index of the party at that address. Raises `WireError` for an answer that does not prove it."""
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


def _signed(parties: Parties, party: int, question: Envelope, address: int) -> tuple[bytes, ...]:
    digests = [roster.digest for roster in parties.rosters().values()]
    return (question.session, integer(address), integer(party), *digests)
