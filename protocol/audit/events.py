"""Events of a party's audit log, and the format of its lines.

No entry derives from a secret or from data: entries hold public terms, digests and sizes of whole messages, and the
member indices in them. A message's digest covers its signature or random key material, so that an attacker cannot
guess contents with few possible values and compare digests.
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

Proposal = Parameters | Agreement
"""The terms of a session of masked or of encrypted sums."""


class Role(Enum):
    """The role of a log's owner."""

    CLIENT = "client"
    HOLDER = "key holder"
    SERVER = "server"


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="what"):
    """Base class of all events."""


class Begun(Event, frozen=True, tag="log begun"):
    """The first line. key: verifies this line and all later ones.

    Of a log in several files, the first line of each later one continues the last line of the file before, and repeats
    what a party has to know. part: number of such files before; approved: what is approved; revoked: number of the last entry
    that took an approval back; joined, uploaded: see `log.Memory`.
    """

    version: str
    party: str
    role: Role
    key: bytes
    part: Natural = 0
    approved: "tuple[Approved, ...]" = ()
    revoked: Natural = 0
    joined: tuple[bytes, ...] = ()
    uploaded: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise WireError(f"expected version {VERSION!r}, got {self.version[:32]!r}")
        try:
            public_key(self.key)
        except CryptoError as error:
            raise WireError(str(error)) from None

    @property
    def whose(self) -> "tuple[str, str, Role, bytes]":
        """What all files of a log have in common."""
        return self.version, self.party, self.role, self.key


class Continues(Event, frozen=True, tag="continued in another file"):
    """The last line of a file: the log goes on in another one."""


class Resumed(Event, frozen=True, tag="log resumed"):
    """The program was restarted. removed: bytes of an unfinished line."""

    removed: Natural = 0


class Closed(Event, frozen=True, tag="log closed"):
    """Clean shutdown. A log without this last line may lack lines at its end."""


class Planned(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A planned sum; see `SumPlan`. noise: for each block, its number of entries and the standard deviation, in real
    units, of the noise that each client adds to each entry."""

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
    """The party takes part in a session. plan, policy: its own, from its operator; a server has no policy."""

    terms: Proposal
    roster: Roster
    holders: Roster | None = None
    plan: tuple[Planned, ...] = ()
    policy: Policy | None = None


class Frame(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A message that was sent or received. message: its tag; members: those that it names (participants, survivors, …).

    logs: of those whose consents these are, the digest of the last line of their audit logs then; accepted: of a verdict,
    whether its sender accepted the opened sum.
    """

    message: str
    digest: bytes
    size: Natural
    round: Natural | None = None
    attempt: Natural | None = None
    members: tuple[Natural, ...] = ()
    logs: tuple[tuple[Natural, bytes], ...] = ()
    accepted: bool | None = None


class Renewed(Event, frozen=True, tag="renewed"):
    """The owner renewed a data set for another session. used: the earlier session's number; uploaded: whether a vector
    of it had left there.
    """

    used: bytes
    uploaded: bool


class Forgotten(Event, frozen=True, tag="ledger begun anew"):
    """The party's file of sessions was lost, or an old copy, and its operator began another. by, reason: in the operator's words."""

    by: str
    reason: str


class Approved(Event, frozen=True, tag="study approved"):
    """The operator approved a study with these rosters, the clients' first. study: its digest; by, reason: as the operator
    entered them.
    """

    study: bytes
    rosters: tuple[bytes, ...]
    by: str
    reason: str


class Revoked(Event, frozen=True, tag="study revoked"):
    """The operator revoked an approval: the node only answers that the study's session is over."""

    study: bytes
    by: str
    reason: str


class Ended(Event, frozen=True, tag="session over"):
    """The server said that a session of this party is over. Written before the party takes the model, if it does.

    session: its number; size: bytes of the model that came with it, 0 without one.
    """

    session: bytes
    size: Natural


class CheckedSum(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A sum that the party accepted. digest: `masking.messages.sum_digest`, which covers a random tag, or masked uploads."""

    round: Natural
    digest: bytes
    survivors: tuple[Natural, ...]


class Taken(Event, frozen=True, tag="model taken"):
    """The party took the model of a session. session: its number; sums: those that it accepted, from which it computed the
    model itself; unverified: why it checked none, empty if it did.
    """

    session: bytes
    sums: tuple[CheckedSum, ...] = ()
    unverified: str = ""


class EndAnswered(Event, frozen=True, tag="end answered"):
    """The last entry about a session that ended in order. The party's answer to the server is this line, which is short
    whatever was learned and signs all lines before it. session: its number."""

    session: bytes


class Acknowledged(Event, frozen=True, tag="end acknowledged"):
    """The server got a party's answer to the end of a session. key: the party's; line: its `EndAnswered`, as in its own log."""

    key: bytes
    line: bytes


class Foreign(Event, frozen=True, tag="foreign message"):
    """The node refused a message of a different protocol. kind: its type as the sender names it; app: digest of the app
    submitted with the run, which does not run here."""

    kind: str
    app: str


class Twins(Event, frozen=True, tag="two nodes with one identity"):
    """The server found two nodes at a time with this party's identity, or this party's node was replaced by another one."""

    party: str


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
    """A message was refused and changed nothing. kind, reason: of our error."""

    digest: bytes
    size: Natural
    kind: str
    reason: str = ""
    sender: Natural | None = None


class MoreRefused(Event, frozen=True, tag="more refused"):
    """Refused messages that have no entry of their own, since the last entry that is no refusal; see `AuditLog.refuse`.

    count: how many by now.
    """

    count: Natural


class Withheld(InSession, frozen=True, tag="withheld"):
    """The client was asked for a vector and gave none. kind: of our error; its text could reveal values."""

    round: Natural
    kind: str


class Contributed(InSession, frozen=True, tag="contributed"):
    """Written before the client's vector leaves. rows: commitment to its ledger's name of the rows, such as of a batch: with
    the client's key it can be opened, and without nobody can find the name by trying (`log.commitment`).
    """

    round: Natural
    rows: bytes


class Released(InSession, frozen=True, tag="released"):
    """The server opened a sum. values: how many numbers; neither the numbers nor a digest of them are logged."""

    round: Natural
    survivors: tuple[Natural, ...]
    dropouts: tuple[Natural, ...]
    values: Natural


class Aborted(InSession, frozen=True, tag="aborted"):
    """A round, or without a number the session, ended without releasing anything."""

    reason: str
    round: Natural | None = None


AnyEvent = (
    Begun
    | Continues
    | MoreRefused
    | Resumed
    | Closed
    | Renewed
    | Forgotten
    | Approved
    | Revoked
    | Ended
    | Taken
    | EndAnswered
    | Acknowledged
    | Foreign
    | Twins
    | Agreed
    | Received
    | Sent
    | Refused
    | Withheld
    | Contributed
    | Released
    | Aborted
)


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line. number: from 1; time: by the party's clock; previous: digest of the line before."""

    number: int
    time: datetime
    previous: bytes
    event: AnyEvent
    signature: bytes = b""


_LONGEST_ANSWER = 1024  # bytes of an `EndAnswered` line, which has about 340
_ENCODER = Encoder(order="deterministic")
_DECODER = Decoder(Entry)


def signed(identity: Identity, number: int, time: datetime, previous: bytes, event: AnyEvent) -> bytes:
    """A line without its newline."""
    draft = _ENCODER.encode(Entry(number, time, previous, event))
    # Sign what a reader will parse: 1 in a float field becomes 1.0.
    entry = _DECODER.decode(draft)
    signature = identity.sign(Label.AUDIT_SIGNATURE, _ENCODER.encode(entry))
    return _ENCODER.encode(structs.replace(entry, signature=signature))


def parse(line: bytes) -> Entry:
    """Parse a line in canonical form. Raises `WireError`."""
    try:
        entry = _DECODER.decode(line)
    except (msgspec.DecodeError, SecureAflError, ValueError, RecursionError) as error:
        raise WireError(f"not an entry of an audit log: {error}") from None
    if _ENCODER.encode(entry) != line:
        raise WireError("the entry is not in canonical form")
    return entry


def check_signature(entry: Entry, key: bytes) -> None:
    """Raises `CryptoError` unless `key` signed the entry."""
    unsigned = _ENCODER.encode(structs.replace(entry, signature=b""))
    verify(key, entry.signature, Label.AUDIT_SIGNATURE, unsigned)


def end_answered(key: bytes, line: bytes) -> Entry:
    """The entry with which the party with that key answered the end of a session. Raises `WireError`."""
    if len(line) > _LONGEST_ANSWER:
        raise WireError(f"expected a line of at most {_LONGEST_ANSWER} bytes, got {len(line)}")
    entry = parse(line)
    try:
        check_signature(entry, key)
    except CryptoError:
        raise WireError("the signature does not fit the entry") from None
    if not isinstance(entry.event, EndAnswered):
        raise WireError(
            f"expected the answer to the end of a session, got the entry {entry.event.__struct_config__.tag!r}"
        )
    return entry


def encoded(event: AnyEvent) -> bytes:
    """Canonical bytes of an event."""
    return _ENCODER.encode(event)


def line_digest(line: bytes) -> bytes:
    """The digest of this line for the next entry."""
    return digest(Label.AUDIT_LINE, line)


def message_digest(data: bytes) -> bytes:
    """The digest that stands for a message in logs: the same at sender and receiver."""
    return digest(Label.AUDIT_MESSAGE, data)


def frame(message: Message, data: bytes) -> Frame:
    """The log record of a message that travels as `data`."""
    number, attempt = getattr(message, "round", None), getattr(message, "attempt", None)
    members: tuple[int, ...] = ()
    logs: tuple[tuple[int, bytes], ...] = ()
    accepted: bool | None = None
    match message:
        case (
            masking.SumRequest(participants=indices)
            | masking.Survivors(survivors=indices)
            | masking.SurvivorRoots(survivors=indices)
            | masking.Evidence(survivors=indices)
            | masking.Confirm(complaints=indices)
            | homomorphic.EncryptedRequest(participants=indices)
            | homomorphic.Offer(contributors=indices)
            | Parameters(cohort=indices)
            | Agreement(cohort=indices)
        ):
            members = indices
        case (
            masking.Directory(frames=pairs)
            | masking.Delivery(bundles=pairs)
            | masking.Reveal(shares=pairs)
            | homomorphic.KeyCommitments(frames=pairs)
            | homomorphic.KeyShares(shares=pairs)
            | homomorphic.Opening(frames=pairs)
        ):
            members = tuple(who for who, _ in pairs)
        case masking.Consents(votes=votes):
            members = tuple(who for who, _ in votes)
            logs = tuple((who, one.log) for who, one in votes if one.log)
        case masking.Verdict(accepted=said):
            accepted = bool(said)
        case masking.Shares(bundles=bundles):
            members = tuple(bundle.recipient for bundle in bundles)
        case homomorphic.Check(offer=offer):
            number, attempt, members = offer.round, offer.attempt, offer.contributors
        case homomorphic.Invitation(agreement=agreement):
            members = agreement.cohort
    tag = type(message).__struct_config__.tag
    assert isinstance(tag, str)
    return Frame(tag, message_digest(data), len(data), number, attempt, members, logs, accepted)
