"""What a party's node and the server tell the people who run them: these events and these fields, and nothing else.

No field holds a key, a statistic, a row or a model. session: the first 8 hex digits of its number; channel: of a letter;
seconds: of wall time; sizes are in bytes.
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
from secure_afl.protocol.transport.post import Letter


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="event"):
    """The root of all events. level: of `logging`."""

    level: ClassVar[int] = logging.INFO


class Answered(Event, frozen=True, tag="answered"):
    """A node answered a letter. taken, given: sizes of the two messages."""

    party: str
    channel: str
    session: str
    taken: int
    given: int
    seconds: float


class Refused(Event, frozen=True, tag="refused"):
    """A node answered nothing. refusal, at, reason: see `told`. What is not known yet is empty, or 0."""

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
    """What a node is started for, or a run of the server is about: the first 16 hex digits of the study's digest and of the
    rosters', the same in every party's log.
    """

    study: str
    clients: str
    key_holders: str = ""


class Connected(Event, frozen=True, tag="connected"):
    """A node is online. superlink: where; node: under which number."""

    superlink: str
    node: int


class Unreachable(Event, frozen=True, tag="unreachable"):
    """A node is not online, and goes on trying. reason: what to do."""

    level = logging.ERROR
    reason: str


class RunSeen(Event, frozen=True, tag="run seen"):
    """A node got the first message of a run. run: Flower's number; app: digest of what was submitted, which is not run here."""

    run: int
    app: str


class Foreign(Event, frozen=True, tag="foreign message"):
    """A node refused a message that is not ours. kind: its type, as its sender calls it; run, app: see `RunSeen`."""

    level = logging.ERROR
    kind: str
    run: int
    app: str
    reason: str


class ShippedCode(Event, frozen=True, tag="shipped code may run"):
    """A party is at Flower's own SuperNode, which runs whatever is submitted; said when a server asks who is there."""

    level = logging.WARNING
    party: str


class NotKept(Event, frozen=True, tag="not kept"):
    """A node could not write down where it is: after a crash it may wait for a minute."""

    level = logging.WARNING
    reason: str


class NotPersonal(Event, frozen=True, tag="no personal model"):
    """The common model came, and none was made of it for this site. The server does not hear of it."""

    level = logging.WARNING
    reason: str


class LeftOpen(Event, frozen=True, tag="left open"):
    """The server goes on with the session that an earlier run left open. clients: of the roster."""

    clients: int


class Phase(Event, frozen=True, tag="phase"):
    """The server began a phase."""

    phase: str


class PhaseCost(Event, frozen=True, tag="phase cost"):
    """What a phase cost at the server, over all rounds. bytes_up, bytes_down: of the client with the most."""

    phase: str
    seconds: float
    bytes_up: int
    bytes_down: int


class Silent(Event, frozen=True, tag="silent"):
    """A node said nothing to the server, or nothing that it could read."""

    level = logging.WARNING
    reason: str


class SumOpened(Event, frozen=True, tag="sum opened"):
    """number: of the sum in its run, from 0; survivors: how many clients it is over, of so many in the roster."""

    number: int
    survivors: int
    clients: int


class Exposed(Event, frozen=True, tag="rows may be read from the sum"):
    """reason: what makes it so; the report has numbers."""

    level = logging.WARNING
    reason: str


class RunOver(Event, frozen=True, tag="run over"):
    """A study was learned."""

    seconds: float


class RunFailed(Event, frozen=True, tag="run failed"):
    """A study was not learned. refusal, at, reason: see `told`."""

    level = logging.ERROR
    seconds: float
    refusal: str
    at: str
    reason: str


class NotCounted(Event, frozen=True, tag="not counted"):
    """The metrics file could not be written; the message or run that this was about is as it was."""

    level = logging.WARNING
    refusal: str


AnyEvent = (
    Answered
    | Refused
    | Bound
    | Connected
    | Unreachable
    | RunSeen
    | Foreign
    | ShippedCode
    | NotKept
    | NotPersonal
    | LeftOpen
    | Phase
    | PhaseCost
    | Silent
    | SumOpened
    | Exposed
    | RunOver
    | RunFailed
    | NotCounted
)


def told(error: BaseException) -> tuple[str, str, str]:
    """What is told of an error: its class, where it was raised ("file.py:line"), and, of the protocol's own, its text.

    Those are about messages and files. The text of any other error, as of what computes with rows, could quote one.
    """
    frames = traceback.extract_tb(error.__traceback__)
    at = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    text = str(error) if isinstance(error, ProtocolError | StoreError | WireError) else ""
    return type(error).__name__, at, text


def bound(study: bytes, parties: Parties) -> Bound:
    """Digests as they are told."""
    rosters = {role: one.digest.hex()[:16] for role, one in parties.rosters().items()}
    return Bound(study.hex()[:16], rosters["clients"], rosters.get("key_holders", ""))


def answered(party: str, letter: Letter, answer: bytes, seconds: float) -> Answered:
    """A letter and what a node said to it."""
    session = session_name(letter.session)
    return Answered(party, letter.channel.value, session, len(letter.data), len(answer), seconds)


def refused(party: str, letter: Letter | None, error: BaseException, seconds: float) -> Refused:
    """A letter, if it was one, and why a node said nothing to it."""
    about = (letter.channel.value, session_name(letter.session), len(letter.data)) if letter else ("", "", 0)
    return Refused(party, *about, seconds, *told(error))
