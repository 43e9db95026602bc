"""A server that outlives its process: every step that changes it is in a `Store`, and is done again after a restart."""

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
from secure_afl.protocol.session.steps import STEPS, Layer, Receive, Step

R = TypeVar("R")


class _Entry(msgspec.Struct, array_like=True):
    """A step that was done: with what, and to what it led (see `DurableServer._led_to`)."""

    step: msgspec.Raw
    led_to: tuple[str, str, int]


_ENTRY = msgspec.msgpack.Decoder(_Entry)


class DurableServer(Layer[MaskingServer | HomomorphicServer]):
    """A server in the session that its owner calls `name`.

    A server has no secrets and draws nothing, so the same steps make the same server. server: a fresh one, with what
    the first one was made with; it does again what the journal has, and afterwards its `state` and `waiting_for` say
    where it stands. Raises `StoreError` if that is not what the journal says: then it is another server's. Take steps
    through this object alone. opened: the sum of the last round, once there is one.

    Every method may raise `StoreError`, and whatever interrupts it: then it is not known how far the step went, and a
    new object must be made.
    """

    def __init__(self, server: MaskingServer | HomomorphicServer, store: Store, name: str) -> None:
        super().__init__(server)
        self._acting: SumServer = server  # what does the steps
        self._store = store
        self._name = name
        self._journal = store.journal(name)
        self._ahead = next(self._journal, None)  # a step that is to be done again
        self._number = 0  # of the next entry; below 0 while a step is done, and for good if it is not written
        self._sent: Outbox = {}
        self.opened: OpenedSum | None = None
        self._catch_up()

    def _catch_up(self) -> None:
        while self._ahead:
            self._again(*self._ahead)

    def _again(self, step: str, content: bytes) -> object:
        """Do the next step of the journal again; give what came of it, or what it raised."""
        entry = _ENTRY.decode(content)
        came = self._tried(msgspec.msgpack.decode(entry.step, type=STEPS[step]))
        if (led_to := self._led_to(came)) != entry.led_to:
            raise StoreError(
                f"session {self._name!r}: expected a server that does again what it did, got one that comes from step "
                f"{self._number}, {step}, to {led_to} and not to {entry.led_to}: its parameters, rosters or "
                "program are others"
            )
        self._number += 1
        self._ahead = next(self._journal, None)
        return came

    def pending(self) -> Outbox:
        """What was sent last, for those that have not answered: after a restart it is sent again."""
        return OnDemand(
            [party for party in self._sent if party in self.server.waiting_for], self._sent.__getitem__
        )

    def result(self) -> OpenedSum:
        """The opened sum; the same until the next round begins, also after a restart."""
        if self.opened is None:
            super().result()
        assert self.opened is not None
        return self.opened

    def _do(self, step: Step[R]) -> R:
        """Do a step and write it. A frame that changes nothing is not written."""
        if self._number < 0:
            raise StoreError(f"session {self._name!r}: a step was not written; begin anew from the store")
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
        """Do a step; give what came of it, or what it raised by the rules of the protocol."""
        try:
            came = step.on(self._acting)
        except AuditError:
            raise
        except (ProtocolError, CryptoError) as error:
            return error
        if isinstance(came, OpenedSum):
            self.opened = came
        elif isinstance(came, Mapping):
            self._sent, self.opened = came, None
        return came

    def _led_to(self, came: object) -> tuple[str, str, int]:
        """What a step raised, the state after it, how many are waited for: another server goes another way."""
        raised = type(came).__name__ if isinstance(came, Exception) else "NoneType"
        return raised, self.server.state.value, len(self.server.waiting_for)


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
        recorded: SumServer | None = None,
    ) -> None:
        super().__init__(server, store, name)
        self._recorded = recorded

    @property
    def behind(self) -> bool:
        """Whether the journal has later steps, so that all before them was done and said."""
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
