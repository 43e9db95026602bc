"""A server that outlives its process: every step that changes it is in a `Store`, and is done again after a restart."""

from collections.abc import Callable, Collection
from typing import Any

import msgspec

from secure_afl.crypto.errors import CryptoError
from secure_afl.protocol.errors import ProtocolError
from secure_afl.protocol.homomorphic.server import EncryptedSum, HomomorphicServer
from secure_afl.protocol.masking.server import MaskedSum, MaskingServer
from secure_afl.protocol.server import Outbox
from secure_afl.protocol.store import Store, StoreError


class DurableServer:
    """A server in the session that its owner calls `name`.

    A server has no secrets and draws nothing, so the same steps make the same server. server: a fresh one, which does
    again what the journal has; afterwards its `state` and `waiting_for` say where it stands. Every method may raise
    `StoreError`: then what happened is not written, and a new object must be made.
    """

    def __init__(self, server: MaskingServer | HomomorphicServer, store: Store, name: str) -> None:
        self.server = server
        self._store = store
        self._name = name
        self._number = 0  # of the next entry
        self._sent: Outbox = {}
        for step, arguments in store.journal(name):
            self._number += 1
            try:
                self._do(step, msgspec.msgpack.decode(arguments))
            except (ProtocolError, CryptoError):  # as it did then
                continue

    def pending(self) -> Outbox:
        """What was sent last, for those that have not answered: after a restart it is sent again."""
        return {party: data for party, data in self._sent.items() if party in self.server.waiting_for}

    def start(self) -> Outbox:
        """See the server's own."""
        return self._step("start")

    def advance(self) -> Outbox:
        """See the server's own."""
        return self._step("advance")

    def open_round(self, number: int, among: Collection[int] | None = None) -> Outbox:
        """See the server's own."""
        return self._step("open_round", number, None if among is None else sorted(among))

    def result(self) -> MaskedSum | EncryptedSum:
        """The opened sum: `MaskingServer.unmask`, or `HomomorphicServer.result`."""
        self._write("result")
        return self._result()

    def receive(self, sender: int, data: bytes) -> None:
        """Take one frame; see the server's own. A frame that changes nothing is not written."""
        self._check()
        blamed = sender in self.server.blame
        try:
            self.server.receive(sender, data)
        except (ProtocolError, CryptoError):
            if sender in self.server.blame and not blamed:
                self._write("receive", sender, data)
            raise
        self._write("receive", sender, data)

    def _step(self, step: str, *arguments: object) -> Outbox:
        self._write(step, *arguments)
        return self._do(step, arguments)

    def _do(self, step: str, arguments: Any) -> Outbox:
        steps: dict[str, Callable[..., object]] = {
            "start": self.server.start,
            "advance": self.server.advance,
            "open_round": self.server.open_round,
            "receive": self.server.receive,
            "result": self._result,
        }
        sent = steps[step](*arguments)
        if isinstance(sent, dict):  # a step that says something
            self._sent = sent
        return self._sent

    def _result(self) -> MaskedSum | EncryptedSum:
        return self.server.unmask() if isinstance(self.server, MaskingServer) else self.server.result()

    def _write(self, step: str, *arguments: object) -> None:
        self._check()
        number, self._number = self._number, -1
        with self._store.transaction():
            self._store.write(self._name, number, step, msgspec.msgpack.encode(arguments))
        self._number = number + 1

    def _check(self) -> None:
        if self._number < 0:
            raise StoreError(f"session {self._name!r}: a step was not written; begin anew from the store")
