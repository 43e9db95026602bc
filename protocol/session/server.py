"""What every server of ours does with the frames that reach it: signed answers to what it asked, nothing else."""

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
from secure_afl.protocol.session.wire import WireError, answered, decode, verify_frame

Outbox = Mapping[int, bytes]
"""What to send: a message for each party, by number."""
M = TypeVar("M")


class OnDemand(Mapping[int, bytes]):
    """An outbox whose messages are made when they are read, so that thousands that differ are never all there.

    message: makes that of a party, from what does not change any more; it is the same whenever it is read.
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
    """The messages of an outbox in their order, each with those parties in a row that get the same."""
    for data, same in groupby(outbox.items(), key=itemgetter(1)):
        yield data, [party for party, _ in same]


@dataclass(frozen=True)
class OpenedSum:
    """What a round opened. survivors: member numbers of who is in the sum; dropouts: of who took part and is not.

    values: of a masked round, Σ of the survivors' fixed-point words mod 2⁶⁴ (uint64; the low `width` bytes count); of an
    encrypted one, what key holders released: the sum in Z_t (uint64) under BFV, in float64 under CKKS, or float64 weights.
    """

    round: int
    values: npt.NDArray[Any]
    survivors: tuple[int, ...]
    dropouts: tuple[int, ...]


class SumServer(Protocol):
    """A server as its driver sees it; see `MaskingServer` for what the steps mean. round: the last begun, −1 before one."""

    @property
    def state(self) -> Enum: ...

    @property
    def round(self) -> int: ...

    def start(self) -> Outbox: ...

    def advance(self) -> Outbox: ...

    def open_round(self, number: int, among: Collection[int] | None = None) -> Outbox: ...

    def receive(self, sender: int, data: bytes) -> None: ...

    def result(self) -> OpenedSum: ...

    def take_total(self, words: npt.NDArray[np.uint64], contributors: Collection[int]) -> None: ...

    def give_up_round(self) -> None: ...


class SignedServer(ABC, Generic[M]):
    """A server that believes what is signed by a party it knows, in answer to what it sent it last.

    waiting_for: who may still answer in this phase. A refused frame raises `RemoteProtocolError` and changes
    nothing but `blame`: a party whose own signature stands under what it may not send is named there, and
    left out from then on.
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
        """The last round that was begun; −1 before the first."""
        return self._next_round - 1

    def take_total(self, words: npt.NDArray[np.uint64], contributors: Collection[int]) -> None:
        """See `MaskingServer.take_total`."""
        raise LocalProtocolError("only a masked session has sums that are decrypted elsewhere")

    def give_up_round(self) -> None:
        """See `MaskingServer.give_up_round`."""
        raise LocalProtocolError("only a masked session has sums that are decrypted elsewhere")

    def receive(self, sender: int, data: bytes) -> None:
        """Take one frame that came from `sender`, a party's number that the transport gives."""
        name = f"unknown member {sender}"
        try:
            member = self._member(sender)
            name = member.name
            if len(data) > (largest := self._largest_frame(sender)):
                raise WireError(
                    f"expected at most {largest} bytes in state {self.state.value}, got {len(data)}"
                )
            question = self._questions.get(sender, b"")
            encoded = verify_frame(data, member.verify_key, self._transcript, question, sender)
        except WireError as error:
            raise RemoteProtocolError("the server", name, str(error)) from None
        try:
            message = decode(encoded, self._decoder)
        except WireError as error:
            raise self._blamed(sender, error) from None
        # An old message that the network repeats is refused, yet it is nobody's fault.
        try:
            self._check_place(sender, message)
        except WireError as error:
            raise RemoteProtocolError("the server", name, str(error)) from None
        try:
            self._take(sender, message, data)
        except (WireError, CryptoError) as error:
            raise self._blamed(sender, error) from None
        self.waiting_for -= {sender}

    @abstractmethod
    def _member(self, sender: int) -> Member:
        """Who that is. Raises `WireError` for a party that the session does not have."""

    @abstractmethod
    def _largest_frame(self, sender: int) -> int:
        """A generous bound on an honest frame in this state, so that no longer one is even hashed."""

    @abstractmethod
    def _collecting(self) -> tuple[type[Any], Enum] | None:
        """The kind of message that is collected in this state, and the state after it."""

    def _check_place(self, sender: int, message: M) -> None:
        """Raises `WireError` if this is not the time for it."""
        collecting, kind = self._collecting(), type(message).__name__
        if collecting is None or type(message) is not collecting[0]:
            expected = collecting[0].__name__ if collecting else "nothing"
            raise WireError(f"in state {self.state.value} expected {expected}, got {kind}")
        if sender not in self.waiting_for:
            raise WireError(
                f"expected no further {kind} from it: it answered before, dropped out, or is not asked"
            )

    @abstractmethod
    def _take(self, sender: int, message: M, data: bytes) -> None:
        """What the message does; nothing, if it raises `WireError` or `CryptoError`. data: its whole frame."""

    def _expect(self, state: Enum) -> None:
        if self.state is not state:
            raise LocalProtocolError(
                f"expected state {state.value}, the server is in state {self.state.value}"
            )

    def _participants(
        self, number: int, rounds: int, standing: frozenset[int], among: Collection[int] | None
    ) -> frozenset[int]:
        """Whom to ask in a round. Raises `LocalProtocolError` for one that is over, or is none of so many `rounds`."""
        if not self._next_round <= number < rounds:
            raise LocalProtocolError(
                f"expected a round from {self._next_round} to {rounds - 1}, got {number}"
            )
        standing = standing.difference(self.blame)
        return standing if among is None else standing.intersection(among)

    def _sent(self, outbox: Outbox) -> Outbox:
        """Remember what each party was sent: its next frame must answer just that."""
        for data, parties in alike(outbox):  # most phases send the same to everybody
            self._questions.update(dict.fromkeys(parties, answered(data)))
        return outbox

    def _blamed(self, sender: int, error: Exception) -> RemoteProtocolError:
        self.blame[sender] = str(error)
        self.waiting_for -= {sender}
        return RemoteProtocolError("the server", self._member(sender).name, str(error))
