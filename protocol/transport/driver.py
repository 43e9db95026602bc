"""What drives a session: all parties in this process and a network between them, or parties elsewhere.

The same state machines run in both; in this process messages pass through a `Network` that may misbehave.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.workers import cpu_seconds
from secure_afl.protocol.session.errors import ProtocolError
from secure_afl.protocol.session.parameters import SumWanted
from secure_afl.protocol.session.party import Contributor, Party
from secure_afl.protocol.session.server import Outbox

T = TypeVar("T")
Contribution = tuple[npt.NDArray[np.float64], str]
"""A client's vector for one sum, and the name of the data set behind it (see `Contributor.contribute`)."""
Contribute = Callable[[int, SumWanted], Contribution]
"""Gives the contribution of a client, by its member number, when it is asked for it."""
Carry = Callable[[Outbox], Iterable[tuple[int, bytes]]]
"""Takes messages to parties elsewhere and gives each answer, with the party's number, as it comes. It ends when all have
answered or are known not to, or when the phase's deadline has passed."""


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


class Server(Protocol):
    """What all servers have in common; see `MaskingServer` for what the steps mean."""

    @property
    def state(self) -> Enum: ...

    def receive(self, sender: int, data: bytes) -> None: ...


class Spent(NamedTuple):
    """CPU seconds, and seconds on the wall."""

    cpu: float
    wall: float

    @classmethod
    def now(cls) -> "Spent":
        """What both clocks show."""
        return cls(cpu_seconds(), time.perf_counter())

    def since(self) -> "Spent":
        """What has passed on both clocks since they showed this."""
        now = Spent.now()
        return Spent(now.cpu - self.cpu, now.wall - self.wall)


@contextmanager
def spending(add: Callable[[Spent], None]) -> Iterator[None]:
    """Tell `add` what the body took, also if it raises."""
    started = Spent.now()
    try:
        yield
    finally:
        add(started.since())


@dataclass
class PhaseCost:
    """Bytes of every client, and CPU seconds, of one phase over all rounds; those of key holders apart.

    _wall: what the clock on the wall says of the same work. wall_seconds: from the first message out to the last
    answer in. What parties elsewhere compute is in there only.
    """

    up: dict[int, int] = field(default_factory=dict)
    down: dict[int, int] = field(default_factory=dict)
    client_seconds: dict[int, float] = field(default_factory=dict)
    client_wall: dict[int, float] = field(default_factory=dict)
    server_seconds: float = 0.0
    server_wall: float = 0.0
    holder_bytes: int = 0
    holder_seconds: float = 0.0
    holder_wall: float = 0.0
    wall_seconds: float = 0.0

    def add_client(self, client: int, spent: Spent) -> None:
        """What a client's work took."""
        self.client_seconds[client] = self.client_seconds.get(client, 0.0) + spent.cpu
        self.client_wall[client] = self.client_wall.get(client, 0.0) + spent.wall

    def add_server(self, spent: Spent) -> None:
        """What the server's work took."""
        self.server_seconds += spent.cpu
        self.server_wall += spent.wall

    def add_holder(self, spent: Spent) -> None:
        """What a key holder's work took."""
        self.holder_seconds += spent.cpu
        self.holder_wall += spent.wall


class Exchange:
    """Server, clients and key holders of one session.

    `refusals` keeps what any party here refused; `costs` is by phase, in their order. carry: reaches the parties if
    they are elsewhere; places: the key holders' numbers.
    """

    def __init__(
        self,
        server: Server,
        clients: Mapping[int, Contributor],
        holders: Mapping[int, Party],
        network: Network | None,
        watch: Callable[[str], None],
        *,
        places: Collection[int] = (),
        carry: Carry | None = None,
    ) -> None:
        self.refusals: list[ProtocolError | CryptoError] = []
        self.costs: dict[str, PhaseCost] = {}
        self._server = server
        self._clients = clients
        self._holders = holders
        self._network = network or PerfectNetwork()
        self._watch = watch
        self._places = frozenset(places)
        self._carry = carry

    def run(self, step: Callable[[], Outbox], contribute: Contribute) -> None:
        """One step of the server, all that it sends, all answers to it, then the deadline."""
        outbox = self.timed(step)
        phase: str = self._server.state.value
        self._watch(phase)
        started = time.perf_counter()
        if self._carry:
            self._exchange(phase, outbox, self._carry)
        else:
            self._converse(phase, outbox, contribute)
        self._cost(phase).wall_seconds += time.perf_counter() - started

    def tell(self, phase: str, outbox: Outbox, carry: Carry) -> None:
        """What parties elsewhere are told beside the session's own messages; they answer nothing that is looked at."""
        self._watch(phase)
        started = time.perf_counter()
        for party, data in outbox.items():
            self._count(phase, party, len(data), upward=False)
        for _ in carry(outbox):
            pass
        self._cost(phase).wall_seconds += time.perf_counter() - started

    def _exchange(self, phase: str, outbox: Outbox, carry: Carry) -> None:
        """With parties elsewhere: who answers nothing, or what is refused, has dropped out and no more."""
        cost = self._cost(phase)
        with spending(cost.add_server):
            for party, data in outbox.items():  # some outboxes encode a message only now
                self._count(phase, party, len(data), upward=False)
        for party, answer in carry(outbox):
            self._count(phase, party, len(answer), upward=True)
            try:
                with spending(cost.add_server):
                    self._server.receive(party, answer)
            except (ProtocolError, CryptoError) as error:
                self.refusals.append(error)

    def _converse(self, phase: str, outbox: Outbox, contribute: Contribute) -> None:
        for party in outbox:
            with spending(self._cost(phase).add_server):
                envelope = Envelope(phase, party, upward=False, data=outbox[party])
            self._send(envelope, contribute)
        while held := list(self._network.flush(phase)):
            for envelope in held:
                self._deliver(envelope, contribute)

    def timed(self, step: Callable[[], T], phase: str | None = None) -> T:
        """A step of the server. It counts for this phase; None: for the one that it ends, or, between rounds, begins."""
        before: str = self._server.state.value

        def add(spent: Spent) -> None:
            ended = before if before != "ready" else self._server.state.value
            self._cost(phase or ended).add_server(spent)

        with spending(add):
            return step()

    def _cost(self, phase: str) -> PhaseCost:
        return self.costs.setdefault(phase, PhaseCost())

    def _count(self, phase: str, party: int, size: int, *, upward: bool) -> None:
        cost = self._cost(phase)
        if party in self._places:
            cost.holder_bytes += size
        else:
            sent = cost.up if upward else cost.down
            sent[party] = sent.get(party, 0) + size

    def _send(self, envelope: Envelope, contribute: Contribute) -> None:
        self._count(envelope.phase, envelope.client, len(envelope.data), upward=envelope.upward)
        for delivered in self._network.carry(envelope):
            self._deliver(delivered, contribute)

    def _deliver(self, envelope: Envelope, contribute: Contribute) -> None:
        cost, party = self._cost(envelope.phase), envelope.client
        try:
            if envelope.upward:
                with spending(cost.add_server):
                    self._server.receive(party, envelope.data)
                return
            if party in self._holders:
                with spending(cost.add_holder):
                    answer = self._holders[party].receive(envelope.data)
                assert isinstance(answer, bytes)
            elif party not in self._clients:
                return  # late, and of another session on the same network: masks have no key holders
            else:
                client, add = self._clients[party], partial(cost.add_client, party)
                with spending(add):
                    answer = client.receive(envelope.data)
                if isinstance(answer, SumWanted):
                    # What it takes to compute the statistic is the application's time, not the protocol's.
                    values, data_set = contribute(party, answer)
                    with spending(add):
                        answer = client.contribute(answer, values, data_set)
        except (ProtocolError, CryptoError) as error:
            self.refusals.append(error)
            return
        self._send(Envelope(self._server.state.value, party, upward=True, data=answer), contribute)


def nothing_wanted(client: int, wanted: SumWanted) -> Contribution:
    """For phases in which no client is asked for a vector."""
    raise AssertionError("no round is open before the keys are shared")
