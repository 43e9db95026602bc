"""Parties that note down what they do: the same steps as without a log, and each in the log before it shows.

`RecordedParty` stands before a key holder, `RecordedClient` before a client, `RecordedMaskingServer` and
`RecordedHomomorphicServer` before a server. They read messages as these pass and look into nothing else.
"""

from collections.abc import Callable, Collection, Sequence
from enum import Enum
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from msgspec.msgpack import Decoder

from secure_afl.crypto.errors import SecureAflError
from secure_afl.crypto.identity import SIGNATURE_BYTES
from secure_afl.protocol.audit.events import (
    Aborted,
    Agreed,
    Frame,
    Planned,
    Received,
    Refused,
    Released,
    Sent,
    Terms,
    Withheld,
    frame,
    message_digest,
)
from secure_afl.protocol.audit.log import AuditLog
from secure_afl.protocol.homomorphic import messages as homomorphic
from secure_afl.protocol.homomorphic.agreement import Agreement
from secure_afl.protocol.homomorphic.server import EncryptedSum, HomomorphicServer
from secure_afl.protocol.masking import messages as masking
from secure_afl.protocol.masking.server import MaskedSum, MaskingServer
from secure_afl.protocol.session.errors import ProtocolError, RoundAbortedError
from secure_afl.protocol.session.parameters import Parameters, SumPlan, SumWanted
from secure_afl.protocol.session.party import Contributor, Party
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.roster import Roster
from secure_afl.protocol.session.server import Outbox, alike
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
S = TypeVar("S")


class RecordedParty(Generic[P]):
    """A key holder, or a client's part in `receive`, with a log. plan, policy, rosters: those the party was made with."""

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
        """As the party's own `receive`; raises `AuditError` besides."""
        try:
            answer = self._party.receive(data)
        except SecureAflError as error:
            self._log.append(refused(self._session, data, error))
            raise
        message = _FROM_SERVER.decode(data)
        terms = message.agreement if isinstance(message, homomorphic.Invitation) else message
        if isinstance(terms, ServerMessage):  # this object may be younger than the session
            self._session = terms.transcript
        else:
            self._session = terms.transcript()
            self._log.note(Agreed(terms, self._roster, self._holders, self._plan, self._policy))
        self._log.note(Received(self._session, frame(message, data)))
        if isinstance(answer, SumWanted):
            return answer
        return self._leaving(answer)

    def _leaving(self, data: bytes) -> bytes:
        message = _FROM_PARTY.decode(memoryview(data)[:-SIGNATURE_BYTES])
        self._log.note(Sent(self._session, frame(message, data)))
        return data


class RecordedClient(RecordedParty[Contributor]):
    """A client with a log."""

    def contribute(self, wanted: SumWanted, values: npt.NDArray[np.float64], data_set: str) -> bytes:
        """As the client's own `contribute`; raises `AuditError` besides."""
        try:
            data = self._party.contribute(wanted, values, data_set)
        except SecureAflError as error:
            self._log.append(Withheld(self._session, wanted.round, type(error).__name__))
            raise
        return self._leaving(data)


class SumServer(Protocol):
    """What masked and encrypted sums have in common at the server."""

    @property
    def state(self) -> Enum: ...

    def start(self) -> Outbox: ...

    def advance(self) -> Outbox: ...

    def open_round(self, number: int, among: Collection[int] | None = None) -> Outbox: ...

    def receive(self, sender: int, data: bytes) -> None: ...


class RecordedServer:
    """A server with a log; the steps are those of the server behind it, and raise `AuditError` besides."""

    def __init__(
        self, server: SumServer, log: AuditLog, terms: Terms, roster: Roster, holders: Roster | None = None
    ) -> None:
        self._server = server
        self._log = log
        self._agreed = Agreed(terms, roster, holders)
        self._session = terms.transcript()
        self._round: int | None = None

    @property
    def state(self) -> Enum:
        return self._server.state

    def resumed(self, number: int) -> None:
        """The server goes on in the round of that number, after a restart."""
        self._round = number

    def start(self) -> Outbox:
        self._log.note(self._agreed)
        return self._leaving(self._server.start)

    def advance(self) -> Outbox:
        return self._leaving(self._server.advance)

    def open_round(self, number: int, among: Collection[int] | None = None) -> Outbox:
        self._round = number
        return self._leaving(lambda: self._server.open_round(number, among))

    def receive(self, sender: int, data: bytes) -> None:
        try:
            self._server.receive(sender, data)
        except SecureAflError as error:
            self._log.append(refused(self._session, data, error, sender))
            raise
        message = _FROM_PARTY.decode(memoryview(data)[:-SIGNATURE_BYTES])
        self._log.note(Received(self._session, frame(message, data), sender))

    def _leaving(self, step: Callable[[], Outbox]) -> Outbox:
        outbox = self._ending(step)
        receivers: dict[Frame, list[int]] = {}
        for data, places in alike(outbox):
            receivers.setdefault(frame(_FROM_SERVER.decode(data), data), []).extend(places)
        for sent, places in receivers.items():
            self._log.note(Sent(self._session, sent, tuple(places)))
        return outbox

    def _ending(self, step: Callable[[], S]) -> S:
        """A step that may end the round with nothing."""
        try:
            return step()
        except RoundAbortedError as error:
            self._log.append(Aborted(self._session, str(error), self._round))
            raise

    def _released(self, number: int, survivors: Sequence[int], dropouts: Sequence[int], values: int) -> None:
        self._log.note(Released(self._session, number, tuple(survivors), tuple(dropouts), values))


class RecordedMaskingServer(RecordedServer):
    """A server of masked sums with a log."""

    def __init__(self, server: MaskingServer, log: AuditLog) -> None:
        super().__init__(server, log, server.parameters, server.roster)
        self._unmask = server.unmask
        self.take_total = server.take_total  # what came of the encrypted session, which notes it
        self.give_up_round = server.give_up_round

    def unmask(self) -> MaskedSum:
        one = self._ending(self._unmask)
        self._released(one.round, one.survivors, one.dropouts, len(one.words))
        return one


class RecordedHomomorphicServer(RecordedServer):
    """A server of encrypted sums with a log."""

    def __init__(self, server: HomomorphicServer, log: AuditLog) -> None:
        super().__init__(server, log, server.agreement, server.roster, server.holders)
        self._result = server.result

    def result(self) -> EncryptedSum:
        one = self._ending(self._result)
        self._released(one.round, one.contributors, one.dropouts, len(one.values))
        return one


def refused(session: bytes, data: bytes, error: SecureAflError, sender: int | None = None) -> Refused:
    """What is noted down of a message that changed nothing."""
    # Texts of the protocol's errors are about messages; others' could tell of a sum.
    reason = str(error) if isinstance(error, ProtocolError) else ""
    return Refused(session, message_digest(data), len(data), type(error).__name__, reason, sender)
