"""The events that nodes and the server report to their operators; nothing else is logged.

No field holds a key, a statistic, a row or a model. session: the first 8 hex digits of its number; channel: of an
envelope; seconds: wall-clock time; sizes are in bytes.
"""

import logging
import traceback
from pathlib import Path
from typing import ClassVar

import msgspec

from secure_afl.protocol.durable.store import StoreError
from secure_afl.protocol.files.roster import Parties
from secure_afl.protocol.session.errors import ProtocolError
from secure_afl.protocol.session.ledger import session_name
from secure_afl.protocol.session.wire import WireError
from secure_afl.protocol.transport.post import Envelope


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="event"):
    """Base class of all events. level: of `logging`."""

    level: ClassVar[int] = logging.INFO


class Answered(Event, frozen=True, tag="answered"):
    """A node answered an envelope. taken, given: sizes of the two messages."""

    party: str
    channel: str
    session: str
    taken: int
    given: int
    seconds: float


class Refused(Event, frozen=True, tag="refused"):
    """A node refused to answer. refusal, at, reason: see `described`. Unknown fields are empty or 0."""

    level = logging.ERROR
    party: str
    channel: str
    session: str
    taken: int
    seconds: float
    refusal: str
    at: str
    reason: str


class Bound(Event, frozen=True, tag="bound to"):
    """The study of a node or of a server's run: the first 16 hex digits of the digests of study and rosters, the same in
    every party's log.
    """

    study: str
    clients: str
    key_holders: str = ""


class Connected(Event, frozen=True, tag="connected"):
    """A node is online. superlink: its address; node: the node's number there."""

    superlink: str
    node: int


class Unreachable(Event, frozen=True, tag="unreachable"):
    """A node is not online and keeps trying. reason: what to do."""

    level = logging.ERROR
    reason: str


class RunSeen(Event, frozen=True, tag="run seen"):
    """A node got a run's first message. run: Flower's number; app: digest of the submitted app, which does not run here."""

    run: int
    app: str


class Foreign(Event, frozen=True, tag="foreign message"):
    """A node refused a message that is not ours. kind: its type as the sender names it; run, app: see `RunSeen`."""

    level = logging.ERROR
    kind: str
    run: int
    app: str
    reason: str


class ShippedCode(Event, frozen=True, tag="shipped code may run"):
    """A party runs in Flower's own SuperNode, which runs any submitted app; reported when a server looks for parties."""

    level = logging.WARNING
    party: str


class NotKept(Event, frozen=True, tag="not kept"):
    """A node could not save its state file: after a crash it may have to wait for a minute."""

    level = logging.WARNING
    reason: str


class NotPersonal(Event, frozen=True, tag="no personal model"):
    """The common model came, and none was made of it for this site. The server does not hear of it."""

    level = logging.WARNING
    reason: str


class LeftOpen(Event, frozen=True, tag="left open"):
    """The server continues the session that an earlier run left open. clients: number in the roster."""

    clients: int


class Phase(Event, frozen=True, tag="phase"):
    """The server began a phase."""

    phase: str


class PhaseCost(Event, frozen=True, tag="phase cost"):
    """A phase's cost at the server over all rounds. bytes_up, bytes_down: of the client with the most."""

    phase: str
    seconds: float
    bytes_up: int
    bytes_down: int


class Silent(Event, frozen=True, tag="silent"):
    """A node gave the server no answer, or an unreadable one."""

    level = logging.WARNING
    reason: str


class SumOpened(Event, frozen=True, tag="sum opened"):
    """The server opened a sum. number: of the sum in its run, from 0; survivors: clients in it, out of the roster's."""

    number: int
    survivors: int
    clients: int


class Exposed(Event, frozen=True, tag="rows may be read from the sum"):
    """reason: what makes it so; the report has numbers."""

    level = logging.WARNING
    reason: str


class RunOver(Event, frozen=True, tag="run over"):
    """A study ended with a model."""

    seconds: float


class RunFailed(Event, frozen=True, tag="run failed"):
    """A study ended without a model. refusal, at, reason: see `described`."""

    level = logging.ERROR
    seconds: float
    refusal: str
    at: str
    reason: str


class NotCounted(Event, frozen=True, tag="not counted"):
    """The metrics file could not be written; the counted message or run is not affected."""

    level = logging.WARNING
    refusal: str


def described(error: BaseException) -> tuple[str, str, str]:
    """What is logged of an error: its class, where it was raised ("file.py:line"), and the text of protocol errors.

    Protocol errors describe messages and files. The text of any other error, for example from computing with rows, could
    quote data.
    """
    frames = traceback.extract_tb(error.__traceback__)
    at = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    text = str(error) if isinstance(error, ProtocolError | StoreError | WireError) else ""
    return type(error).__name__, at, text


def bound(study: bytes, parties: Parties) -> Bound:
    """The digests in their logged form."""
    rosters = {role: one.digest.hex()[:16] for role, one in parties.rosters().items()}
    return Bound(study.hex()[:16], rosters["clients"], rosters.get("key_holders", ""))


def answered(party: str, envelope: Envelope, answer: bytes, seconds: float) -> Answered:
    """The event for an envelope and a node's answer."""
    session = session_name(envelope.session)
    return Answered(party, envelope.channel.value, session, len(envelope.data), len(answer), seconds)


def refused(party: str, envelope: Envelope | None, error: BaseException, seconds: float) -> Refused:
    """The event for an envelope, if it was readable, and the reason for a node's refusal."""
    about = (
        (envelope.channel.value, session_name(envelope.session), len(envelope.data))
        if envelope
        else ("", "", 0)
    )
    return Refused(party, *about, seconds, *described(error))
