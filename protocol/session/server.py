"""The common part of servers: accept only frames that a known party signed in answer to the last message."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from operator import itemgetter
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from msgspec.msgpack import Decoder

from secure_afl.crypto.errors import CryptoError
from secure_afl.protocol.session.errors import LocalProtocolError, RemoteProtocolError
from secure_afl.protocol.session.roster import Member
from secure_afl.protocol.session.wire import WireError, answered, decode, opened_frame

Outbox = Mapping[int, bytes]
"""The messages to send, by the receiving party's index."""
M = TypeVar("M")


class OnDemand(Mapping[int, bytes]):
    """An outbox that makes each message when it is read, so that thousands of them never fill memory at once.

    message: makes a party's message from final data, so every read gives the same message.
    """

    def __init__(self, parties: Iterable[int], message: Callable[[int], bytes]) -> None:
        self._parties = dict.fromkeys(parties)
        self._message = message

    def __getitem__(self, party: int) -> bytes:
        if party not in self._parties:
            raise KeyError(party)
        return self._message(party)

    def __iter__(self) -> Iterator[int]:
        return iter(self._parties)

    def __len__(self) -> int:
        return len(self._parties)


def alike(outbox: Outbox) -> Iterator[tuple[bytes, list[int]]]:
    """The messages of an outbox in order, each with the consecutive parties that get the same message."""
    for data, same in groupby(outbox.items(), key=itemgetter(1)):
        yield data, [party for party, _ in same]


@dataclass(frozen=True)
class OpenedSum:
    """The opened sum of a round.

    survivors: indices of the clients in the sum. dropouts: of the participants that are not.
    values: in a masked round the sum of the survivors' fixed-point words mod 2⁶⁴ (uint64; only the low `width` bytes
    matter). In an encrypted round what the key holders released: under BFV the sum in Z_t (uint64), under CKKS the sum
    in float64, or float64 weights.
    """

    round: int
    values: npt.NDArray[Any]
    survivors: tuple[int, ...]
    dropouts: tuple[int, ...]


class SumServer(Protocol):
    """A server as its driver sees it; `MaskingServer` explains the steps. round: the last one begun, −1 before any."""

    @property
    def state(self) -> Enum: ...

    @property
    def round(self) -> int: ...

    def start(self) -> Outbox: ...

    def advance(self) -> Outbox: ...

    def open_round(self, number: int, among: Collection[int] | None = None) -> Outbox: ...

    def receive(self, sender: int, data: bytes) -> None: ...

    def result(self) -> OpenedSum: ...

    def take_total(self, words: npt.NDArray[np.uint64], survivors: Collection[int]) -> None: ...

    def give_up_round(self) -> None: ...


class SignedServer(ABC, Generic[M]):
    """A server that accepts only what a known party signed in answer to the server's last message to it.

    waiting_for: the parties that may still answer in this phase. A refused frame raises `RemoteProtocolError` and
    changes nothing but `blame`, which names a party that signed an illegal message; the session goes on without it.
    """

    state: Enum

    def __init__(self, transcript: bytes, decoder: Decoder[M]) -> None:
        self.waiting_for: frozenset[int] = frozenset()
        self.blame: dict[int, str] = {}
        self._transcript = transcript
        self._decoder = decoder
        self._questions: dict[int, bytes] = {}
        self._next_round = 0

    @property
    def round(self) -> int:
        """The last round begun; −1 before the first."""
        return self._next_round - 1

    def take_total(self, words: npt.NDArray[np.uint64], survivors: Collection[int]) -> None:
        """See `MaskingServer.take_total`."""
        raise LocalProtocolError("only a masked session has sums that are decrypted elsewhere")

    def give_up_round(self) -> None:
        """See `MaskingServer.give_up_round`."""
        raise LocalProtocolError("only a masked session has sums that are decrypted elsewhere")

    def receive(self, sender: int, data: bytes) -> None:
        """Take a frame from `sender`, the party's index as the transport gives it."""
        name = f"unknown member {sender}"
        try:
            member = self._member(sender)
            name = member.name
            if len(data) > (largest := self._largest_frame(sender)):
                raise WireError(
                    f"expected at most {largest} bytes in state {self.state.value}, got {len(data)}"
                )
            question = self._questions.get(sender, b"")
            encoded, root = opened_frame(data, member.verify_key, self._transcript, question, sender)
        except WireError as error:
            raise RemoteProtocolError("the server", name, str(error)) from None
        try:
            message = decode(encoded, self._decoder)
        except WireError as error:
            raise self._blamed(sender, error) from None
        # An old message that the network repeats is refused, but no party is to blame.
        try:
            self._check_index(sender, message)
        except WireError as error:
            raise RemoteProtocolError("the server", name, str(error)) from None
        try:
            self._take(sender, message, data, root)
        except (WireError, CryptoError) as error:
            raise self._blamed(sender, error) from None
        self.waiting_for -= {sender}

    @abstractmethod
    def _member(self, sender: int) -> Member:
        """The member with this index. Raises `WireError` for a party outside the session."""

    @abstractmethod
    def _largest_frame(self, sender: int) -> int:
        """A generous bound on an honest frame in this state; longer frames are not even hashed."""

    @abstractmethod
    def _collecting(self) -> tuple[type[Any], Enum] | None:
        """The kind of message that this state collects, and the next state."""

    def _check_index(self, sender: int, message: M) -> None:
        """Raises `WireError` if the sender may not send this message now."""
        collecting, kind = self._collecting(), type(message).__name__
        if collecting is None or type(message) is not collecting[0]:
            expected = collecting[0].__name__ if collecting else "nothing"
            raise WireError(f"in state {self.state.value} expected {expected}, got {kind}")
        if sender not in self.waiting_for:
            raise WireError(
                f"expected no further {kind} from it: it answered before, dropped out, or was not asked"
            )

    @abstractmethod
    def _take(self, sender: int, message: M, data: bytes, root: bytes) -> None:
        """Apply the message. Raises `WireError` or `CryptoError` without changing anything.

        data: its whole frame; root: of the message (`wire.root`).
        """

    def _expect(self, state: Enum) -> None:
        if self.state is not state:
            raise LocalProtocolError(
                f"expected state {state.value}, the server is in state {self.state.value}"
            )

    def _participants(
        self, number: int, rounds: int, standing: frozenset[int], among: Collection[int] | None
    ) -> frozenset[int]:
        """The clients to ask in a round. Raises `LocalProtocolError` for a round that is over or not planned."""
        if not self._next_round <= number < rounds:
            raise LocalProtocolError(
                f"expected a round from {self._next_round} to {rounds - 1}, got {number}"
            )
        standing = standing.difference(self.blame)
        return standing if among is None else standing.intersection(among)

    def _sent(self, outbox: Outbox) -> Outbox:
        """Record the message sent to each party: the party's next frame must answer it."""
        for data, parties in alike(outbox):  # most phases send one message to all
            self._questions.update(dict.fromkeys(parties, answered(data)))
        return outbox

    def _blamed(self, sender: int, error: Exception) -> RemoteProtocolError:
        self.blame[sender] = str(error)
        self.waiting_for -= {sender}
        return RemoteProtocolError("the server", self._member(sender).name, str(error))
