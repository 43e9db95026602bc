"""What every client and key holder of ours does with the server's messages: what is legal in its state, nothing else."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
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
from secure_afl.protocol.session.parameters import Demands, SumPlan, SumWanted, check_demands
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
    """A client or a key holder: a message of the server in, the answer or a request for a vector out."""

    def receive(self, data: bytes) -> bytes | SumWanted: ...


class Contributor(Party, Protocol):
    """A client."""

    def contribute(self, wanted: SumWanted, values: npt.NDArray[np.float64], data_set: str) -> bytes: ...


class Memory(Protocol[S]):
    """What a party keeps between messages. answers: digest of the server's last one. demands: of the plan."""

    state: S
    answers: bytes
    demands: Demands

    @property
    def transcript(self) -> bytes:
        """Of the session."""


Kept = TypeVar("Kept", bound=Memory[Any])


class SignedParty(Guarded, ABC, Generic[S, Answer, Kept]):
    """A party that answers the server, and signs with each answer what it answers.

    The first message makes the session; all others must carry its transcript. A message that is refused raises
    `RemoteProtocolError` or `PolicyError` and changes nothing.
    """

    state: S
    place: int
    name: str
    _memory: Kept  # once there is a session

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
        self._transcript = b""  # none before the session is made
        self._answers = b""  # the digest of the message that is being answered
        self._largest_message = 0
        self._steps: Mapping[type, Callable[[Any], Answer]] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, {self.state.value})"

    @property
    def transcript(self) -> bytes:
        """Of the session; empty before there is one."""
        return self._transcript

    def receive(self, data: bytes) -> Answer:
        """Take one message of the server; give the frame that answers it, or what it asks for."""
        check_size(self.name, data, self._largest_message)
        question, self._answers = self._answers, answered(data)
        try:
            message = self._decoded(data)
            legal = self._legal()
            if type(message) not in legal:
                expected = " or ".join(kind.__name__ for kind in legal)
                raise WireError(
                    f"in state {self.state.value} expected {expected}, got {type(message).__name__}"
                )
            answer = self._steps[type(message)](message)
        except (WireError, CryptoError) as error:
            self._answers = question
            raise RemoteProtocolError(self.name, "the server", str(error)) from None
        except PolicyError as error:
            self._answers = question
            raise PolicyError(f"{self.name}: {error}") from None
        self.state = legal[type(message)]
        return answer

    def foresee(self, data: bytes) -> bool:
        """Whether this message begins something that the memory must know of before it is done; then it does."""
        return False

    def memory(self) -> bytes:
        """All that this party needs to go on after a restart: full of secrets, for a store of its own.

        Raises `LocalProtocolError` before there is a session, `CryptoError` where the system cannot keep a key.
        """
        if not self._transcript:
            raise LocalProtocolError(f"{self.name}: no session has begun")
        self._memory.state, self._memory.answers = self.state, self._answers
        self._fill(self._memory)
        return msgspec.msgpack.encode(self._memory)

    def resume(self, memory: bytes) -> None:
        """Go on where the party was that had this memory; the ledger must be as it was then, or later.

        Raises `LocalProtocolError` if it is no memory, or of another program, and `PolicyError` if the policy does not
        allow the session any more.
        """
        if self._transcript:
            raise LocalProtocolError(f"{self.name}: a session has begun already")
        try:
            kept = self._memories.decode(memory)
            self._check_kept(kept)
            check_demands(self._plan, kept.demands)
            self._begin(kept)
        except (msgspec.DecodeError, WireError, CryptoError) as error:
            raise LocalProtocolError(f"{self.name}: this memory is not of this session: {error}") from None

    def _begin(self, kept: Kept) -> None:
        """A session, new or gone on with."""
        self._memory, self.state, self._answers = kept, kept.state, kept.answers
        self._transcript = kept.transcript

    def _fill(self, memory: Kept) -> None:
        """Write what the party holds in another shape."""

    @abstractmethod
    def _check_kept(self, kept: Kept) -> None:
        """Raise what is raised if a server proposes a session that is not as agreed."""

    @abstractmethod
    def _legal(self) -> Mapping[type[Message], S]:
        """What may come now, and the state after it."""

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
        return sign_frame(self._identity, self._transcript, self._answers, self.place, message)
