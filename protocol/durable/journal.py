"""A server that outlives its process: every step that changes it is in a `Store`, and is done again after a restart."""

from collections.abc import Callable, Collection
from enum import Enum
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from secure_afl.crypto.errors import CryptoError
from secure_afl.protocol.audit.record import RecordedHomomorphicServer, RecordedMaskingServer
from secure_afl.protocol.durable.store import Store, StoreError
from secure_afl.protocol.homomorphic.server import EncryptedSum, HomomorphicServer
from secure_afl.protocol.masking.server import MaskedSum, MaskingServer
from secure_afl.protocol.session.errors import (
    AuditError,
    LocalProtocolError,
    ProtocolError,
    RemoteProtocolError,
)
from secure_afl.protocol.session.server import OnDemand, Outbox


class _Entry(msgspec.Struct, array_like=True):
    """A step that was done: with what, and to what it led (see `DurableServer._led_to`)."""

    arguments: list[Any]
    led_to: tuple[str, str, int]


_ENTRY = msgspec.msgpack.Decoder(_Entry)


class DurableServer:
    """A server in the session that its owner calls `name`.

    A server has no secrets and draws nothing, so the same steps make the same server. server: a fresh one, with what
    the first one was made with; it does again what the journal has, and afterwards its `state` and `waiting_for` say
    where it stands. Raises `StoreError` if that is not what the journal says: then it is another server's. Take steps
    through this object alone. round: the last that was begun, −1 before the first; opened: its sum, once there is one.

    Every method may raise `StoreError`, and whatever interrupts it: then it is not known how far the step went, and a
    new object must be made.
    """

    def __init__(self, server: MaskingServer | HomomorphicServer, store: Store, name: str) -> None:
        self.server = server
        self._acting: Any = server  # what does the steps
        self._store = store
        self._name = name
        self._journal = store.journal(name)
        self._ahead = next(self._journal, None)  # a step that is to be done again
        self._number = 0  # of the next entry; below 0 while a step is done, and for good if it is not written
        self._sent: Outbox = {}
        self.round = -1
        self.opened: MaskedSum | EncryptedSum | None = None
        self._catch_up()

    def _catch_up(self) -> None:
        while self._ahead:
            self._again(*self._ahead)

    def _again(self, step: str, content: bytes) -> ProtocolError | CryptoError | None:
        """Do the next step of the journal again; give what it raised."""
        entry = _ENTRY.decode(content)
        error = self._tried(step, *entry.arguments)
        if (led_to := self._led_to(error)) != entry.led_to:
            raise StoreError(
                f"session {self._name!r}: expected a server that does again what it did, got one that comes from step "
                f"{self._number}, {step}, to {led_to} and not to {entry.led_to}: its parameters, rosters or "
                "program are others"
            )
        self._number += 1
        self._ahead = next(self._journal, None)
        return error

    def pending(self) -> Outbox:
        """What was sent last, for those that have not answered: after a restart it is sent again."""
        return OnDemand(
            [party for party in self._sent if party in self.server.waiting_for], self._sent.__getitem__
        )

    def start(self) -> Outbox:
        """See the server's own."""
        return self._step("start")

    def advance(self) -> Outbox:
        """See the server's own."""
        return self._step("advance")

    def open_round(self, number: int, among: Collection[int] | None = None) -> Outbox:
        """See the server's own."""
        return self._step("open_round", number, None if among is None else list(among))

    def result(self) -> MaskedSum | EncryptedSum:
        """The opened sum: `MaskingServer.unmask`, or `HomomorphicServer.result`. The same until the next round begins,
        also after a restart.
        """
        if self.opened is None:
            self._step("result")
        assert self.opened is not None
        return self.opened

    def take_total(self, words: npt.NDArray[np.uint64], contributors: Collection[int]) -> None:
        """See `MaskingServer.take_total`."""
        self._step("take_total", words.astype("<u8").tobytes(), list(contributors))

    def give_up_round(self) -> None:
        """See `MaskingServer.give_up_round`."""
        self._step("give_up_round")

    def receive(self, sender: int, data: bytes) -> None:
        """Take one frame; see the server's own. A frame that changes nothing is not written."""
        self._step("receive", sender, data)

    def _step(self, step: str, *arguments: Any) -> Outbox:
        if self._number < 0:
            raise StoreError(f"session {self._name!r}: a step was not written; begin anew from the store")
        number, self._number = self._number, -1
        blamed = self.server.blame.keys() | ()
        error = self._tried(step, *arguments)
        refused = isinstance(error, LocalProtocolError | RemoteProtocolError)
        if not refused or self.server.blame.keys() != blamed:
            entry = _Entry(list(arguments), self._led_to(error))
            self._store.write(self._name, number, step, msgspec.msgpack.encode(entry))
            number += 1
        self._number = number
        if error is not None:
            raise error
        return self._sent

    def _tried(self, step: str, *arguments: Any) -> ProtocolError | CryptoError | None:
        """Do a step; give what it raised by the rules of the protocol."""
        steps: dict[str, Callable[..., Any]] = {
            "start": self._acting.start,
            "advance": self._acting.advance,
            "open_round": self._acting.open_round,
            "receive": self._acting.receive,
            "result": self._result,
            "take_total": self._take_total,
            "give_up_round": self._give_up_round,
        }
        try:
            said = steps[step](*arguments)
        except AuditError:
            raise
        except (ProtocolError, CryptoError) as error:
            return error
        if step == "result":
            self.opened = said
        elif said is not None:  # a step that says something
            self._sent, self.opened = said, None
        if step == "open_round":
            self.round = arguments[0]
        return None

    def _result(self) -> MaskedSum | EncryptedSum:
        opened: MaskedSum | EncryptedSum = (
            self._acting.unmask() if isinstance(self.server, MaskingServer) else self._acting.result()
        )
        return opened

    def _take_total(self, words: bytes, contributors: Collection[int]) -> None:
        self._masking.take_total(np.frombuffer(words, "<u8").astype(np.uint64), contributors)

    def _give_up_round(self) -> None:
        self._masking.give_up_round()

    @property
    def _masking(self) -> MaskingServer:
        if not isinstance(self.server, MaskingServer):
            raise LocalProtocolError("only a masked session has sums that are decrypted elsewhere")
        return self.server

    def _led_to(self, error: Exception | None) -> tuple[str, str, int]:
        """What a step raised, the state after it, how many are waited for: another server goes another way."""
        return type(error).__name__, self.server.state.value, len(self.server.waiting_for)


class ResumedServer(DurableServer):
    """A `DurableServer` for a driver that takes every session from its beginning, be it new or one that was left open.

    A step that the journal has is done again, as it was, when the driver comes to it, and so is all that was received
    after it; then it sends what nobody has answered, or nothing if the journal has later steps. recorded: the server
    behind its audit log, which notes each step once. Raises `StoreError` besides if the driver takes other steps.
    """

    def __init__(
        self,
        server: MaskingServer | HomomorphicServer,
        store: Store,
        name: str,
        recorded: RecordedMaskingServer | RecordedHomomorphicServer | None = None,
    ) -> None:
        super().__init__(server, store, name)
        self._recorded = recorded

    @property
    def state(self) -> Enum:
        """See the server's own."""
        return self.server.state

    @property
    def behind(self) -> bool:
        """Whether the journal has later steps, so that all before them was done and said."""
        return self._ahead is not None

    def unmask(self) -> MaskedSum:
        """See `MaskingServer.unmask`, and `result`."""
        opened = self.result()
        assert isinstance(opened, MaskedSum)
        return opened

    def _catch_up(self) -> None:
        """The driver asks for it."""

    def _step(self, step: str, *arguments: Any) -> Outbox:
        if self._ahead is None:
            self._acting = self._recorded or self.server
            return super()._step(step, *arguments)
        if step != self._ahead[0]:
            raise StoreError(
                f"session {self._name!r}: expected {self._ahead[0]!r} as step {self._number}, as the journal has it, "
                f"got {step!r}"
            )
        error = self._again(*self._ahead)
        while self._ahead and self._ahead[0] == "receive":
            self._again(*self._ahead)
        if error is not None:
            raise error
        if self._ahead is not None:
            return {}
        if self._recorded and self.round >= 0:
            self._recorded.resumed(self.round)
        return self.pending()
