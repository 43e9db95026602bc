"""What a party's audit log says, and how a line of it is written.

Nothing here is computed from a secret or from anybody's values: public terms, digests and sizes of whole
messages, and the member numbers that stand in them. A message's digest covers the signature or the random
key material in it, so that nobody can guess few-valued contents and compare.
"""

from datetime import datetime
from enum import Enum

import msgspec
from msgspec import structs
from msgspec.json import Decoder, Encoder

from secure_afl.crypto.errors import CryptoError, SecureAflError
from secure_afl.crypto.identity import Identity, public_key, verify
from secure_afl.crypto.kdf import Label, digest
from secure_afl.protocol.homomorphic import messages as homomorphic
from secure_afl.protocol.homomorphic.agreement import Agreement
from secure_afl.protocol.masking import messages as masking
from secure_afl.protocol.session.parameters import Parameters, SumPlan
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.roster import Roster
from secure_afl.protocol.session.wire import VERSION, Message, Natural, WireError

Terms = Parameters | Agreement
"""What a session agreed on: of masked sums, or of encrypted ones."""


class Role(Enum):
    """Whose log it is."""

    CLIENT = "client"
    HOLDER = "key holder"
    SERVER = "server"


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="what"):
    """The root of everything that is noted down."""


class Begun(Event, frozen=True, tag="log begun"):
    """The first line. key: signs this line and all after it."""

    version: str
    party: str
    role: Role
    key: bytes

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise WireError(f"expected version {VERSION!r}, got {self.version[:32]!r}")
        try:
            public_key(self.key)
        except CryptoError as error:
            raise WireError(str(error)) from None


class Resumed(Event, frozen=True, tag="log resumed"):
    """The program was started again. removed: bytes of a line that it had not finished writing."""

    removed: Natural = 0


class Closed(Event, frozen=True, tag="log closed"):
    """Nothing was going on any more. A log that does not end so may lack its last lines."""


class Planned(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a party knew of a sum beforehand; see `SumPlan`. noise: how many entries in a row, and the standard deviation
    of what each client adds to each of them, in real units."""

    statistic: str
    length: int
    bound: float
    fraction_bits: int
    survivors: int
    same_survivors: bool
    trusts_server: bool
    noise: tuple[tuple[Natural, float], ...] = ()

    @classmethod
    def of(cls, plan: SumPlan) -> "Planned":
        same = {name: getattr(plan, name) for name in cls.__struct_fields__ if name != "noise"}
        blocks = plan.noise.blocks if plan.noise else ()
        return cls(**same, noise=tuple((block.length, float(block.deviation)) for block in blocks))


class Agreed(Event, frozen=True, tag="agreed"):
    """The party takes part in a session. plan, policy: its own, given by its operator; a server has none."""

    terms: Terms
    roster: Roster
    holders: Roster | None = None
    plan: tuple[Planned, ...] = ()
    policy: Policy | None = None


class Frame(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One message as it passed. message: its tag; members: whom it names (participants, survivors, dealers, …)."""

    message: str
    digest: bytes
    size: Natural
    round: Natural | None = None
    attempt: Natural | None = None
    members: tuple[Natural, ...] = ()


class Renewed(Event, frozen=True, tag="renewed"):
    """The owner let a data set serve another session. used: the number of the session that it was used in; uploaded:
    whether a vector of it had left there.
    """

    used: bytes
    uploaded: bool


class Forgotten(Event, frozen=True, tag="ledger begun anew"):
    """The party's file of sessions was lost, or an old copy, and its operator began another. by, reason: in the operator's words."""

    by: str
    reason: str


class Approved(Event, frozen=True, tag="study approved"):
    """The operator let the node take part in a study with these rosters, clients' first. study: its digest; by, reason: in the
    operator's words.
    """

    study: bytes
    rosters: tuple[bytes, ...]
    by: str
    reason: str


class Revoked(Event, frozen=True, tag="study revoked"):
    """The operator took an approval back: the node answers nothing more of that study, but that its session is over."""

    study: bytes
    by: str
    reason: str


class Ended(Event, frozen=True, tag="session over"):
    """The server said that a session of this party is over. Written before the party takes the model, if it does.

    session: its number; size: bytes of the model that came with it, 0 without one.
    """

    session: bytes
    size: Natural


class Foreign(Event, frozen=True, tag="foreign message"):
    """The node refused a message that is not of this protocol. kind: its type, as its sender calls it; app: digest of the app
    that was submitted with its run, which is not run here."""

    kind: str
    app: str


class InSession(Event, frozen=True):
    """session: its transcript."""

    session: bytes


class Received(InSession, frozen=True, tag="received"):
    """sender: a party's number; None is the server."""

    frame: Frame
    sender: Natural | None = None


class Sent(InSession, frozen=True, tag="sent"):
    """Written before the message leaves. to: parties' numbers; empty is the server."""

    frame: Frame
    to: tuple[Natural, ...] = ()


class Refused(InSession, frozen=True, tag="refused"):
    """A message that changed nothing. kind, reason: of our error."""

    digest: bytes
    size: Natural
    kind: str
    reason: str = ""
    sender: Natural | None = None


class Withheld(InSession, frozen=True, tag="withheld"):
    """The client was asked for a vector and gave none. kind: of our error, whose text could tell of the values."""

    round: Natural
    kind: str


class Released(InSession, frozen=True, tag="released"):
    """The server opened a sum. values: how many numbers; the numbers, and any digest of them, stay out."""

    round: Natural
    survivors: tuple[Natural, ...]
    dropouts: tuple[Natural, ...]
    values: Natural


class Aborted(InSession, frozen=True, tag="aborted"):
    """A round, or without one the session, ended and released nothing."""

    reason: str
    round: Natural | None = None


AnyEvent = (
    Begun
    | Resumed
    | Closed
    | Renewed
    | Forgotten
    | Approved
    | Revoked
    | Ended
    | Foreign
    | Agreed
    | Received
    | Sent
    | Refused
    | Withheld
    | Released
    | Aborted
)


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line. number: from 1; time: what the party's clock said; previous: digest of the line before."""

    number: int
    time: datetime
    previous: bytes
    event: AnyEvent
    signature: bytes = b""


_ENCODER = Encoder(order="deterministic")
_DECODER = Decoder(Entry)


def signed(identity: Identity, number: int, time: datetime, previous: bytes, event: AnyEvent) -> bytes:
    """A line without its newline."""
    draft = _ENCODER.encode(Entry(number, time, previous, event))
    # What is signed is what a reader will read: 1 in a field of floats becomes 1.0.
    entry = _DECODER.decode(draft)
    signature = identity.sign(Label.AUDIT_SIGNATURE, _ENCODER.encode(entry))
    return _ENCODER.encode(structs.replace(entry, signature=signature))


def parse(line: bytes) -> Entry:
    """The entry of a line in its one form. Raises `WireError`."""
    try:
        entry = _DECODER.decode(line)
    except (msgspec.DecodeError, SecureAflError, ValueError, RecursionError) as error:
        raise WireError(f"no entry of an audit log: {error}") from None
    if _ENCODER.encode(entry) != line:
        raise WireError("an entry that is not written as our programs write it")
    return entry


def check_signature(entry: Entry, key: bytes) -> None:
    """Raises `CryptoError` unless `key` signed the entry."""
    unsigned = _ENCODER.encode(structs.replace(entry, signature=b""))
    verify(key, entry.signature, Label.AUDIT_SIGNATURE, unsigned)


def encoded(event: AnyEvent) -> bytes:
    """The same for the same event."""
    return _ENCODER.encode(event)


def line_digest(line: bytes) -> bytes:
    """What the next entry says of this line."""
    return digest(Label.AUDIT_LINE, line)


def message_digest(data: bytes) -> bytes:
    """What logs say of a message in place of its contents: the same at sender and receiver."""
    return digest(Label.AUDIT_MESSAGE, data)


def frame(message: Message, data: bytes) -> Frame:
    """What is noted down of a message that travels as `data`."""
    number, attempt = getattr(message, "round", None), getattr(message, "attempt", None)
    members: tuple[int, ...] = ()
    match message:
        case (
            masking.SumRequest(participants=places)
            | masking.Survivors(survivors=places)
            | masking.Confirm(complaints=places)
            | homomorphic.EncryptedRequest(participants=places)
            | homomorphic.Offer(contributors=places)
            | Parameters(cohort=places)
            | Agreement(cohort=places)
        ):
            members = places
        case (
            masking.Directory(frames=pairs)
            | masking.Delivery(bundles=pairs)
            | masking.Consents(signatures=pairs)
            | masking.Reveal(shares=pairs)
            | homomorphic.KeyCommitments(frames=pairs)
            | homomorphic.KeyShares(shares=pairs)
            | homomorphic.Opening(frames=pairs)
        ):
            members = tuple(who for who, _ in pairs)
        case masking.Shares(bundles=bundles):
            members = tuple(bundle.recipient for bundle in bundles)
        case homomorphic.Check(offer=offer):
            number, attempt, members = offer.round, offer.attempt, offer.contributors
        case homomorphic.Invitation(agreement=agreement):
            members = agreement.cohort
    tag = type(message).__struct_config__.tag
    assert isinstance(tag, str)
    return Frame(tag, message_digest(data), len(data), number, attempt, members)
