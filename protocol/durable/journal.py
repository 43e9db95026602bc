"""A server that survives restarts: a `Store` keeps every step that changes it, and a restart repeats these steps."""

from collections.abc import Mapping
from typing import TypeVar, cast

import msgspec

from secure_afl.crypto.errors import CryptoError
from secure_afl.protocol.durable.store import Store, StoreError
from secure_afl.protocol.homomorphic.server import HomomorphicServer
from secure_afl.protocol.masking.server import MaskingServer
from secure_afl.protocol.session.errors import (
    AuditError,
    LocalProtocolError,
    ProtocolError,
    RemoteProtocolError,
)
from secure_afl.protocol.session.server import OnDemand, OpenedSum, Outbox, SumServer
from secure_afl.protocol.session.steps import STEPS, Layer, OpenRound, Receive, Step

R = TypeVar("R")


class _Entry(msgspec.Struct, array_like=True):
    """A step with its content and its outcome (see `DurableServer._led_to`)."""

    step: msgspec.Raw
    led_to: tuple[str, str, int]


_ENTRY = msgspec.msgpack.Decoder(_Entry)


class DurableServer(Layer[MaskingServer | HomomorphicServer]):
    """A durable server of the session that its owner calls `name`.

    A server has no secrets and no randomness, so the same steps give the same server. server: a fresh server with the
    original arguments. It repeats the journal's steps; then its `state` and `waiting_for` say where the session stands.
    Raises `StoreError` if a step leads to a different outcome: the journal belongs to another server. Take steps only
    through this object. opened: the sum of the last round, once it is open.

    Every method may raise `StoreError` or re-raise an interrupt. It is then unknown how far the step went: make a new
    object.
    """

    def __init__(self, server: MaskingServer | HomomorphicServer, store: Store, name: str) -> None:
        super().__init__(server)
        self._acting: SumServer = server  # takes the steps
        self._store = store
        self._name = name
        self._journal = store.journal(name)
        self._ahead = next(self._journal, None)  # the next step to repeat
        self._number = 0  # of the next entry; below 0 during a step, and for good if the step is not written
        self._sent: Outbox = {}
        self.opened: OpenedSum | None = None
        self._catch_up()

    def _catch_up(self) -> None:
        while self._ahead:
            self._again(*self._ahead)

    def _again(self, step: str, content: bytes) -> object:
        """Repeat the next step of the journal; return its result or its exception."""
        entry = _ENTRY.decode(content)
        came = self._tried(msgspec.msgpack.decode(entry.step, type=STEPS[step]))
        if (led_to := self._led_to(came)) != entry.led_to:
            raise StoreError(
                f"session {self._name!r}: expected a server that repeats its steps, but step {self._number}, "
                f"{step}, led to {led_to} instead of {entry.led_to}: its parameters, rosters or "
                "program have changed"
            )
        self._number += 1
        self._ahead = next(self._journal, None)
        return came

    def pending(self) -> Outbox:
        """The last messages, for the parties that have not answered; send them again after a restart."""
        return OnDemand(
            [party for party in self._sent if party in self.server.waiting_for], self._sent.__getitem__
        )

    def result(self) -> OpenedSum:
        """The opened sum; it stays the same until the next round begins, also after a restart."""
        if self.opened is None:
            super().result()
        assert self.opened is not None
        return self.opened

    def _do(self, step: Step[R]) -> R:
        """Take a step and write it to the journal. A frame that changes nothing is not written."""
        if self._number < 0:
            raise StoreError(
                f"session {self._name!r}: a step was not written; make a new object from the store"
            )
        number, self._number = self._number, -1
        blamed = self.server.blame.keys() | ()
        came = self._tried(step)
        refused = isinstance(came, LocalProtocolError | RemoteProtocolError)
        if not refused or self.server.blame.keys() != blamed:
            entry = _Entry(msgspec.Raw(msgspec.msgpack.encode(step)), self._led_to(came))
            self._store.write(self._name, number, step.name, msgspec.msgpack.encode(entry))
            number += 1
        self._number = number
        if isinstance(came, Exception):
            raise came
        return came

    def _tried(self, step: Step[R]) -> R | ProtocolError | CryptoError:
        """Take a step; return its result, or the exception that the protocol's rules raise."""
        try:
            came = step.on(self._acting)
        except AuditError:
            raise
        except (ProtocolError, CryptoError) as error:
            return error
        if isinstance(came, OpenedSum):
            self.opened = came
        elif isinstance(came, Mapping):
            self._sent = came
        if isinstance(step, OpenRound):
            self.opened = None
        return came

    def _led_to(self, came: object) -> tuple[str, str, int]:
        """A step's outcome: what it raised, the state after it, how many parties are waited for. It tells servers apart."""
        raised = type(came).__name__ if isinstance(came, Exception) else "NoneType"
        return raised, self.server.state.value, len(self.server.waiting_for)


class ResumedServer(DurableServer):
    """A `DurableServer` for a driver that runs every session from its beginning, whether new or left open.

    When the driver comes to a step in the journal, the server repeats it together with all that it received after it.
    Then it sends the messages that are still unanswered, or none if the journal has later steps. recorded: the server
    behind its audit log, which logs each step once. Also raises `StoreError` if the driver takes different steps.
    """

    def __init__(
        self,
        server: MaskingServer | HomomorphicServer,
        store: Store,
        name: str,
        recorded: SumServer | None = None,
    ) -> None:
        super().__init__(server, store, name)
        self._recorded = recorded

    @property
    def behind(self) -> bool:
        """Whether the journal has later steps, so that all earlier messages have been handled."""
        return self._ahead is not None

    def _catch_up(self) -> None:
        """The driver asks for it."""

    def _do(self, step: Step[R]) -> R:
        if self._ahead is None:
            self._acting = self._recorded or self.server
            return super()._do(step)
        if step.name != self._ahead[0]:
            raise StoreError(
                f"session {self._name!r}: expected {self._ahead[0]!r} as step {self._number}, as the journal has it, "
                f"got {step.name!r}"
            )
        came = self._again(*self._ahead)
        while self._ahead and self._ahead[0] == Receive.name:
            self._again(*self._ahead)
        if isinstance(came, Exception):
            raise came
        if isinstance(came, Mapping):
            came = {} if self.behind else self.pending()
        return cast(R, came)
