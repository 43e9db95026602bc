"""The common part of clients and key holders: accept a server's message only if it is legal in the current state."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from msgspec.msgpack import Decoder

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.guarded import Guarded
from secure_afl.crypto.identity import Identity
from secure_afl.protocol.session.errors import (
    LocalProtocolError,
    PolicyError,
    RemoteProtocolError,
    check_size,
)
from secure_afl.protocol.session.parameters import Demands, SumPlan, SumWanted, Values, check_demands
from secure_afl.protocol.session.wire import (
    Message,
    ServerMessage,
    WireError,
    answered,
    check_version,
    decode,
    sign_frame,
)

S = TypeVar("S", bound=Enum)
Answer = TypeVar("Answer")


class Party(Protocol):
    """A client or a key holder: takes a server's message, returns the answer or a request for a vector."""

    def receive(self, data: bytes) -> bytes | SumWanted: ...


class Contributor(Party, Protocol):
    """A client."""

    def contribute(self, wanted: SumWanted, values: Values, data_set: str) -> bytes: ...


class Memory(Protocol[S]):
    """What a party keeps between messages. answers: digest of the server's last message. demands: of the plan."""

    state: S
    answers: bytes
    demands: Demands

    @property
    def transcript(self) -> bytes:
        """The session's transcript."""


Kept = TypeVar("Kept", bound=Memory[Any])


class SignedParty(Guarded, ABC, Generic[S, Answer, Kept]):
    """A party that answers the server; each signed answer names the message that it answers.

    The first message creates the session; all later ones must carry its transcript. A refused message raises
    `RemoteProtocolError` or `PolicyError` and changes nothing.
    """

    state: S
    index: int
    name: str
    _memory: Kept  # set once a session exists

    def __init__(
        self,
        identity: Identity,
        plan: Sequence[SumPlan],
        first: Decoder[Any],
        others: Decoder[Any],
        memories: Decoder[Kept],
    ) -> None:
        self._identity = identity
        self._plan = tuple(plan)
        self._first = first
        self._others = others
        self._memories = memories
        self._transcript = b""  # empty before the session exists
        self._answers = b""  # digest of the message being answered
        self.largest_message = 0  # bytes
        self._steps: Mapping[type, Callable[[Any], Answer]] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, {self.state.value})"

    @property
    def transcript(self) -> bytes:
        """The session's transcript; empty before a session exists."""
        return self._transcript

    def receive(self, data: bytes) -> Answer:
        """Take a message of the server; return the frame that answers it, or the request for a vector."""
        check_size(self.name, data, self.largest_message)
        question, self._answers = self._answers, answered(data)
        try:
            message = self._decoded(data)
            legal = self._legal()
            if type(message) not in legal:
                expected = " or ".join(kind.__name__ for kind in legal)
                raise WireError(
                    f"in state {self.state.value} expected {expected}, got {type(message).__name__}"
                )
            before = self.state
            answer = self._steps[type(message)](message)
        except (WireError, CryptoError) as error:
            self._answers = question
            raise RemoteProtocolError(self.name, "the server", str(error)) from None
        except PolicyError as error:
            self._answers = question
            raise PolicyError(f"{self.name}: {error}") from None
        if self.state is before:  # else the step led elsewhere
            self.state = legal[type(message)]
        return answer

    def foresee(self, data: bytes) -> bool:
        """Prepare for a message whose effect must be stored before it is carried out; return whether it is one."""
        return False

    def memory(self) -> bytes:
        """Everything that this party needs to continue after a restart. It holds secrets: keep it in the party's store.

        Raises `LocalProtocolError` before a session exists, `CryptoError` if the system cannot keep a key.
        """
        if not self._transcript:
            raise LocalProtocolError(f"{self.name}: no session has begun")
        self._memory.state, self._memory.answers = self.state, self._answers
        self._fill(self._memory)
        return msgspec.msgpack.encode(self._memory)

    def resume(self, memory: bytes) -> None:
        """Continue a saved session; the ledger must have its state from then or later.

        Raises `LocalProtocolError` if this is not a saved session or another version wrote it, and `PolicyError` if the
        policy no longer allows the session.
        """
        if self._transcript:
            raise LocalProtocolError(f"{self.name}: a session has already begun")
        try:
            kept = self._memories.decode(memory)
            self._check_kept(kept)
            check_demands(self._plan, kept.demands)
            self._begin(kept)
        except (msgspec.DecodeError, WireError, CryptoError) as error:
            raise LocalProtocolError(
                f"{self.name}: the saved session does not fit this party: {error}"
            ) from None

    def _begin(self, kept: Kept) -> None:
        """Begin or resume a session."""
        self._memory, self.state, self._answers = kept, kept.state, kept.answers
        self._transcript = kept.transcript

    def _fill(self, memory: Kept) -> None:
        """Write into the memory what the party holds in another form."""

    @abstractmethod
    def _check_kept(self, kept: Kept) -> None:
        """Check a saved session like a proposal of the server; raises the same errors."""

    @abstractmethod
    def _legal(self) -> Mapping[type[Message], S]:
        """The messages that are legal now, with the state after each."""

    def _decoded(self, data: bytes) -> Message:
        if not self._transcript:
            check_version(data)
            first: Message = decode(data, self._first)
            return first
        message: ServerMessage = decode(data, self._others)
        if message.transcript != self._transcript:
            raise WireError(
                f"expected a message of session {self._transcript.hex()[:16]}…, "
                f"got one of {message.transcript.hex()[:16]}…"
            )
        return message

    def _frame(self, message: Message) -> bytes:
        return sign_frame(self._identity, self._transcript, self._answers, self.index, message)
