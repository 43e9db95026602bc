"""Run a session with a server, a meter, and a link to parties in this process or elsewhere.

The same state machines run in both cases; in this process messages pass through a `Network`, which may misbehave.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.workers import cpu_seconds
from secure_afl.protocol.session.errors import ProtocolError
from secure_afl.protocol.session.parameters import SumWanted, Values
from secure_afl.protocol.session.party import Contributor, Party
from secure_afl.protocol.session.server import Outbox, SumServer

T = TypeVar("T")
Contribution = tuple[Values, str]
"""A client's vector for one sum, and the name of the data set behind it (see `Contributor.contribute`)."""
Contribute = Callable[[int, SumWanted], Contribution]
"""Returns a client's contribution, given its index, when the server requests it."""
Carry = Callable[[Outbox], Iterable[tuple[int, bytes]]]
"""Takes messages to remote parties and yields each answer with the party's index. It ends when all parties have answered
or failed, or at the phase's deadline."""


@dataclass(frozen=True)
class Packet:
    """A message in transit. upward: from the client to the server; phase: the server's state."""

    phase: str
    client: int
    upward: bool
    data: bytes


class Network(Protocol):
    """The network between the parties. It may drop, delay, repeat, reorder or replace messages."""

    def carry(self, packet: Packet) -> Iterable[Packet]:
        """Called for every sent message; returns the messages to deliver now, in order."""

    def flush(self, phase: str) -> Iterable[Packet]:
        """Called at a phase's deadline until it returns nothing; returns the delayed messages."""


class PerfectNetwork:
    """Delivers every message once, at once."""

    def carry(self, packet: Packet) -> Iterable[Packet]:
        return [packet]

    def flush(self, phase: str) -> Iterable[Packet]:
        return []


class Spent(NamedTuple):
    """CPU seconds and wall-clock seconds."""

    cpu: float
    wall: float

    @classmethod
    def now(cls) -> "Spent":
        """The present values of both clocks."""
        return cls(cpu_seconds(), time.perf_counter())

    def since(self) -> "Spent":
        """The time since then on both clocks."""
        now = Spent.now()
        return Spent(now.cpu - self.cpu, now.wall - self.wall)


@contextmanager
def spending(add: Callable[[Spent], None]) -> Iterator[None]:
    """Call `add` with the time that the body took, even if it raises."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    try:
        yield
    finally:
        add(Spent(cpu_seconds() - cpu, time.perf_counter() - wall))


@dataclass
class PhaseCost:
    """Bytes of every client and CPU seconds of one phase over all rounds; key holders are counted separately.

    _wall: wall-clock time of the same work. wall_seconds: from the first message sent to the last answer received; only
    this includes the computing of remote parties.
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
        """Add the time of a client's work."""
        self.client_seconds[client] = self.client_seconds.get(client, 0.0) + spent.cpu
        self.client_wall[client] = self.client_wall.get(client, 0.0) + spent.wall

    def add_server(self, spent: Spent) -> None:
        """Add the time of the server's work."""
        self.server_seconds += spent.cpu
        self.server_wall += spent.wall

    def add_holder(self, spent: Spent) -> None:
        """Add the time of a key holder's work."""
        self.holder_seconds += spent.cpu
        self.holder_wall += spent.wall


class Meter:
    """Measurements of a session. costs: by phase, in order; refusals: by any party in this process.

    indices: the key holders' indices.
    """

    def __init__(self, indices: Collection[int]) -> None:
        self.costs: dict[str, PhaseCost] = {}
        self.refusals: list[ProtocolError | CryptoError] = []
        self._indices = frozenset(indices)

    def of(self, phase: str) -> PhaseCost:
        """The cost of a phase so far."""
        return self.costs.setdefault(phase, PhaseCost())

    def count(self, phase: str, party: int, size: int, *, upward: bool) -> None:
        """Count a message of `size` bytes, from a party or to it."""
        cost = self.of(phase)
        if party in self._indices:
            cost.holder_bytes += size
        else:
            sent = cost.up if upward else cost.down
            sent[party] = sent.get(party, 0) + size


class Local:
    """A link to parties in this process. network: between them and the server; None: a perfect one."""

    def __init__(
        self, clients: Mapping[int, Contributor], holders: Mapping[int, Party], network: Network | None
    ) -> None:
        self._clients = clients
        self._holders = holders
        self._network = network or PerfectNetwork()

    def answers(
        self, phase: str, outbox: Outbox, contribute: Contribute, meter: Meter
    ) -> Iterator[tuple[str, int, bytes]]:
        """Send all messages; yield each answer that reaches the server, with its phase and the party's index, until the
        phase's deadline.
        """

        def sent(party: int, data: bytes, *, upward: bool) -> Iterator[Packet]:
            meter.count(phase, party, len(data), upward=upward)
            return iter(self._network.carry(Packet(phase, party, upward, data)))

        def delivered(packets: Iterator[Packet]) -> Iterator[tuple[str, int, bytes]]:
            under_way = [packets]  # answers go before the network's other messages
            while under_way:
                packet = next(under_way[-1], None)
                if packet is None:
                    under_way.pop()
                elif packet.upward:
                    yield packet.phase, packet.client, packet.data
                elif (answer := self._answer(packet, contribute, meter)) is not None:
                    under_way.append(sent(packet.client, answer, upward=True))

        for party in outbox:
            with spending(meter.of(phase).add_server):  # some outboxes encode a message only now
                data = outbox[party]
            yield from delivered(sent(party, data, upward=False))
        while held := list(self._network.flush(phase)):
            yield from delivered(iter(held))

    def _answer(self, packet: Packet, contribute: Contribute, meter: Meter) -> bytes | None:
        """The receiver's answer; None if it refuses."""
        cost, party = meter.of(packet.phase), packet.client
        receiver = self._holders.get(party) or self._clients.get(party)
        if receiver is None:
            return None  # late, from another session on the same network: masked sums have no key holders
        add = cost.add_holder if party in self._holders else partial(cost.add_client, party)
        try:
            with spending(add):
                answer = receiver.receive(packet.data)
            if isinstance(answer, SumWanted):
                # Computing the statistic is the application's time, not the protocol's.
                values, data_set = contribute(party, answer)
                with spending(add):
                    answer = self._clients[party].contribute(answer, values, data_set)
        except (ProtocolError, CryptoError) as error:
            meter.refusals.append(error)
            return None
        return answer


class Remote:
    """A link to remote parties. A party that does not answer counts as a dropout. carry: reaches the parties."""

    def __init__(self, carry: Carry) -> None:
        self._carry = carry

    def answers(
        self, phase: str, outbox: Outbox, contribute: Contribute, meter: Meter
    ) -> Iterator[tuple[str, int, bytes]]:
        """See `Local.answers`."""
        with spending(meter.of(phase).add_server):
            for party, data in outbox.items():  # some outboxes encode a message only now
                meter.count(phase, party, len(data), upward=False)
        for party, answer in self._carry(outbox):
            meter.count(phase, party, len(answer), upward=True)
            yield phase, party, answer


Link = Local | Remote


class Exchange:
    """The server of a session, its link to the parties and its meter (see `Meter`). steps: the server to drive."""

    def __init__(
        self, steps: SumServer, link: Link, watch: Callable[[str], None], indices: Collection[int] = ()
    ) -> None:
        self.steps = steps
        self._link = link
        self._watch = watch
        self._meter = Meter(indices)
        self.costs, self.refusals = self._meter.costs, self._meter.refusals

    def run(self, step: Callable[[], Outbox], contribute: Contribute) -> None:
        """Take one step of the server, send its messages, collect the answers until the deadline."""
        outbox = self.timed(step)
        for phase, party, data in self._answers(self._link, self.steps.state.value, outbox, contribute):
            try:
                with spending(self._meter.of(phase).add_server):
                    self.steps.receive(party, data)
            except (ProtocolError, CryptoError) as error:
                self.refusals.append(error)

    def tell(self, phase: str, outbox: Outbox, carry: Carry) -> None:
        """Tell remote parties something outside the session's own messages; their answers are ignored."""
        for _ in self._answers(Remote(carry), phase, outbox, nothing_wanted):
            pass

    def timed(self, step: Callable[[], T], phase: str | None = None) -> T:
        """Time a step of the server for this phase; None: for the phase that it ends or, between rounds, begins."""
        before: str = self.steps.state.value

        def add(spent: Spent) -> None:
            after = self.steps.state.value  # giving clients an opened sum begins a phase, too
            ended = after if before == "ready" or after == "answering" else before
            self._meter.of(phase or ended).add_server(spent)

        with spending(add):
            return step()

    def _answers(
        self, link: Link, phase: str, outbox: Outbox, contribute: Contribute
    ) -> Iterator[tuple[str, int, bytes]]:
        self._watch(phase)
        started = time.perf_counter()
        yield from link.answers(phase, outbox, contribute, self._meter)
        self._meter.of(phase).wall_seconds += time.perf_counter() - started


def nothing_wanted(client: int, wanted: SumWanted) -> Contribution:
    """The `contribute` of phases that request no vector from clients of this process."""
    raise AssertionError(
        "no round is open before the keys are shared, and a client with masks contributes by itself"
    )
