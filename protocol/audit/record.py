"""Parties with an audit log: they take the same steps as without a log, and log each step before its messages leave.

`RecordedParty` wraps a key holder, `RecordedClient` a client, `RecordedServer` a server of either kind. They read only
the messages that pass through them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from msgspec.msgpack import Decoder

from secure_afl.crypto.errors import SecureAflError
from secure_afl.crypto.identity import SIGNATURE_BYTES
from secure_afl.protocol.audit.events import (
    Aborted,
    Agreed,
    AnyEvent,
    Contributed,
    Frame,
    Planned,
    Received,
    Refused,
    Released,
    Sent,
    Withheld,
    frame,
    message_digest,
)
from secure_afl.protocol.audit.log import AuditLog
from secure_afl.protocol.homomorphic import messages as homomorphic
from secure_afl.protocol.homomorphic.agreement import Agreement
from secure_afl.protocol.masking import messages as masking
from secure_afl.protocol.session.errors import ProtocolError, RoundAbortedError
from secure_afl.protocol.session.parameters import Parameters, SumPlan, SumWanted, Values
from secure_afl.protocol.session.party import Contributor, Party
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.roster import Roster
from secure_afl.protocol.session.server import OpenedSum, SumServer, alike
from secure_afl.protocol.session.steps import Layer, OpenRound, Receive, Start, Step
from secure_afl.protocol.session.wire import ServerMessage

FromParty = masking.FromClient | homomorphic.FromClient | homomorphic.FromHolder
FromServer = (
    Parameters
    | masking.FromServer
    | Agreement
    | homomorphic.Invitation
    | homomorphic.ToClient
    | homomorphic.ToHolder
)
_FROM_PARTY: Decoder[FromParty] = Decoder(FromParty)
_FROM_SERVER: Decoder[FromServer] = Decoder(FromServer)
P = TypeVar("P", bound=Party)
R = TypeVar("R")


class RecordedParty(Generic[P]):
    """A key holder, or a client's `receive`, with a log. plan, policy, rosters: as given to the party."""

    def __init__(
        self,
        party: P,
        log: AuditLog,
        roster: Roster,
        plan: Sequence[SumPlan],
        policy: Policy,
        holders: Roster | None = None,
    ) -> None:
        self._party = party
        self._log = log
        self._roster = roster
        self._holders = holders
        self._plan = tuple(map(Planned.of, plan))
        self._policy = policy
        self._session = b""

    def receive(self, data: bytes) -> bytes | SumWanted:
        """The party's `receive`; also raises `AuditError`."""
        try:
            answer = self._party.receive(data)
        except SecureAflError as error:
            self._log.refuse(refused(self._session, data, error))
            raise
        message = _FROM_SERVER.decode(data)
        terms = message.agreement if isinstance(message, homomorphic.Invitation) else message
        if isinstance(terms, ServerMessage):  # the session may have begun before this object was made
            self._session = terms.transcript
        else:
            self._session = terms.transcript()
            self._log.note(Agreed(terms, self._roster, self._holders, self._plan, self._policy))
        received = frame(message, data)
        if isinstance(answer, SumWanted):
            self._log.note(Received(self._session, received))
            return answer
        said = _said(answer)
        # A refused one blames nobody, and whoever sends it chooses its bytes.
        if isinstance(message, masking.Evidence) and isinstance(said, masking.Verdict) and said.accepted:
            self._log.keep(received.digest, data)
        self._log.note(Received(self._session, received))
        self._log.note(Sent(self._session, frame(said, answer)))
        return answer


def _said(data: bytes) -> FromParty:
    """The message in a party's frame."""
    return _FROM_PARTY.decode(memoryview(data)[:-SIGNATURE_BYTES])


class RecordedClient(RecordedParty[Contributor]):
    """A client with a log."""

    def contribute(self, wanted: SumWanted, values: Values, data_set: str) -> bytes:
        """The client's `contribute`; also raises `AuditError`."""
        try:
            data = self._party.contribute(wanted, values, data_set)
        except SecureAflError as error:
            self.withhold(wanted, error)
            raise
        rows = self._log.commitment(self._session, data_set)
        self._log.note(Contributed(self._session, wanted.round, rows))
        self._log.note(Sent(self._session, frame(_said(data), data)))
        return data

    def withhold(self, wanted: SumWanted, error: Exception) -> None:
        """Log that the client gives no vector. error: from computing the vector, or from `contribute`."""
        self._log.refuse(Withheld(self._session, wanted.round, type(error).__name__))


class RecordedServer(Layer[SumServer]):
    """A server with a log; its steps also raise `AuditError`. agreed: the terms of its session."""

    def __init__(self, server: SumServer, log: AuditLog, agreed: Agreed) -> None:
        super().__init__(server)
        self._log = log
        self._agreed = agreed
        self._session = agreed.terms.transcript()

    def _do(self, step: Step[R]) -> R:
        if isinstance(step, Start):
            self._log.note(self._agreed)
        try:
            came = step.on(self.server)
        except RoundAbortedError as error:
            number = step.number if isinstance(step, OpenRound) else self.round
            self._log.append(Aborted(self._session, str(error), number if number >= 0 else None))
            raise
        except SecureAflError as error:
            if isinstance(step, Receive):
                self._log.append(refused(self._session, step.data, error, step.sender))
            raise
        for event in self._events(step, came):
            self._log.note(event)
        return came

    def _events(self, step: Step[R], came: R) -> Iterator[AnyEvent]:
        """The events of a step."""
        if isinstance(step, Receive):
            message = _FROM_PARTY.decode(memoryview(step.data)[:-SIGNATURE_BYTES])
            yield Received(self._session, frame(message, step.data), step.sender)
        elif isinstance(came, OpenedSum):
            yield Released(self._session, came.round, came.survivors, came.dropouts, len(came.values))
        elif isinstance(came, Mapping):
            receivers: dict[Frame, list[int]] = {}
            for data, indices in alike(came):
                receivers.setdefault(frame(_FROM_SERVER.decode(data), data), []).extend(indices)
            for sent, indices in receivers.items():
                yield Sent(self._session, sent, tuple(indices))


def refused(session: bytes, data: bytes, error: SecureAflError, sender: int | None = None) -> Refused:
    """The log record of a refused message."""
    # Texts of protocol errors describe messages only; other texts could reveal a sum.
    reason = str(error) if isinstance(error, ProtocolError) else ""
    return Refused(session, message_digest(data), len(data), type(error).__name__, reason, sender)
