"""A whole cohort in this process: the same state machines as across a network, with a network to play with."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from secure_afl.crypto.errors import CryptoError
from secure_afl.protocol.errors import ProtocolError
from secure_afl.protocol.masking.client import MaskingClient, SumWanted
from secure_afl.protocol.masking.server import MaskedSum, MaskingServer, Outbox
from secure_afl.protocol.masking.states import ServerState

T = TypeVar("T")
Contribution = tuple[npt.NDArray[np.float64], str]
"""A client's vector for one sum, and the name of the data set behind it (see `MaskingClient.contribute`)."""


@dataclass(frozen=True)
class Envelope:
    """One message on its way. upward: from the client to the server; phase: the server's state."""

    phase: str
    client: int
    upward: bool
    data: bytes


class Network(Protocol):
    """What lies between the parties. It may drop, hold back, repeat, reorder or replace messages."""

    def carry(self, envelope: Envelope) -> Iterable[Envelope]:
        """Called for every message that is sent; gives those to deliver now, in order."""

    def flush(self, phase: str) -> Iterable[Envelope]:
        """Called at a phase's deadline, until it gives nothing; gives what was held back until then."""


class PerfectNetwork:
    """Delivers every message once, at once."""

    def carry(self, envelope: Envelope) -> Iterable[Envelope]:
        return [envelope]

    def flush(self, phase: str) -> Iterable[Envelope]:
        return []


@dataclass
class PhaseCost:
    """Bytes of every client, and CPU seconds, of one phase over all rounds."""

    up: dict[int, int] = field(default_factory=dict)
    down: dict[int, int] = field(default_factory=dict)
    client_seconds: dict[int, float] = field(default_factory=dict)
    server_seconds: float = 0.0


class Cohort:
    """Runs one session. `refusals` keeps what any party refused; `costs` is by phase, in their order."""

    def __init__(
        self,
        server: MaskingServer,
        clients: Mapping[int, MaskingClient],
        network: Network | None = None,
        watch: Callable[[str], None] = lambda phase: None,
    ) -> None:
        self.server = server
        self.clients = clients
        self.refusals: list[ProtocolError | CryptoError] = []
        self.costs: dict[str, PhaseCost] = {}
        self._network = network or PerfectNetwork()
        self._watch = watch

    def set_up(self) -> None:
        """Keys and shares for all rounds. Raises `RoundAbortedError` if too few clients are left."""
        self._run(self.server.start, _nothing_wanted)
        self._run(self.server.advance, _nothing_wanted)
        self._run(self.server.advance, _nothing_wanted)
        self._timed(self.server.advance)

    def sum(
        self,
        number: int,
        contribute: Callable[[int, SumWanted], Contribution],
        among: Collection[int] | None = None,
    ) -> MaskedSum:
        """The sum of round `number`; `contribute` gives a client's vector when the client is asked for it.
        among: whom to ask; None is everybody.

        Raises `RoundAbortedError` if it cannot be opened; the next round may still be.
        """
        self._run(lambda: self.server.open_round(number, among), contribute)
        while self.server.state is not ServerState.UNMASKING:
            self._run(self.server.advance, contribute)
        return self._timed(self.server.unmask)

    def _run(self, step: Callable[[], Outbox], contribute: Callable[[int, SumWanted], Contribution]) -> None:
        """One step of the server, all that it sends, all answers to it, then the deadline."""
        outbox = self._timed(step)
        phase = self.server.state.value
        self._watch(phase)
        for client, data in outbox.items():
            self._send(Envelope(phase, client, upward=False, data=data), contribute)
        while held := list(self._network.flush(phase)):
            for envelope in held:
                self._deliver(envelope, contribute)

    def _send(self, envelope: Envelope, contribute: Callable[[int, SumWanted], Contribution]) -> None:
        cost = self.costs.setdefault(envelope.phase, PhaseCost())
        sent = cost.up if envelope.upward else cost.down
        sent[envelope.client] = sent.get(envelope.client, 0) + len(envelope.data)
        for delivered in self._network.carry(envelope):
            self._deliver(delivered, contribute)

    def _deliver(self, envelope: Envelope, contribute: Callable[[int, SumWanted], Contribution]) -> None:
        cost = self.costs.setdefault(envelope.phase, PhaseCost())
        started = time.process_time()
        try:
            if envelope.upward:
                self.server.receive(envelope.client, envelope.data)
                cost.server_seconds += time.process_time() - started
                return
            client = self.clients[envelope.client]
            answer = client.receive(envelope.data)
            spent = time.process_time() - started
            if isinstance(answer, SumWanted):
                # What it takes to compute the statistic itself is the application's time, not the protocol's.
                values, data_set = contribute(envelope.client, answer)
                started = time.process_time()
                answer = client.contribute(answer, values, data_set)
                spent += time.process_time() - started
        except (ProtocolError, CryptoError) as error:
            self.refusals.append(error)
            return
        cost.client_seconds[envelope.client] = cost.client_seconds.get(envelope.client, 0.0) + spent
        self._send(Envelope(self.server.state.value, envelope.client, upward=True, data=answer), contribute)

    def _timed(self, step: Callable[[], T]) -> T:
        started, before = time.process_time(), self.server.state
        try:
            return step()
        finally:
            # Ending a phase belongs to the phase that ends.
            if before is not ServerState.READY:
                cost = self.costs.setdefault(before.value, PhaseCost())
                cost.server_seconds += time.process_time() - started


def _nothing_wanted(client: int, wanted: SumWanted) -> Contribution:
    raise AssertionError("no round is open before the keys are shared")
