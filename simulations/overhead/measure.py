"""Run one session of a cell in this process and measure every party's cost in every phase, if the sum is right."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from secure_afl.crypto import ring
from secure_afl.crypto.errors import SecureAflError
from secure_afl.protocol.transport.driver import Contribution, Exchange, Packet
from secure_afl.simulations.overhead.grid import Cell
from secure_afl.sums.aggregation import Aggregate, MaskedAggregator
from secure_afl.sums.encrypted import EncryptedAggregator
from secure_afl.testing.faults import Fault, FaultyNetwork

CLIENT, WORST, SERVER, HOLDER = "client (median)", "client (worst)", "server", "key holder"
ALL_PHASES = "all"
DATA_SET = "overhead"
Vector = npt.NDArray[np.float64]


class WrongSumError(SecureAflError):
    """A sum is not that of the survivors; its cost is not reported."""


class Cost(NamedTuple):
    """One party's cost. bytes_up: bytes that it sends; bytes_down: bytes that it receives; also for a server."""

    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0


Phases = Mapping[str, Cost]
Session = dict[str, dict[str, Cost]]
"""Costs by party, then by phase, `ALL_PHASES` among them."""


def vector(cell: Cell, index: int) -> Vector:
    """A client's vector: values from -1 to 1, fixed and public, as they need no secrecy here."""
    return np.random.default_rng(index).uniform(-1, 1, cell.values)


class Drawn(Mapping[str, Contribution]):
    """Every client's contribution, drawn on request: n vectors are never in memory together."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._indices = {name: index for index, name in enumerate(cell.names())}

    def __getitem__(self, name: str) -> Contribution:
        return vector(self._cell, self._indices[name]), DATA_SET

    def __iter__(self) -> Iterator[str]:
        return iter(self._indices)

    def __len__(self) -> int:
        return len(self._indices)


def check(cell: Cell, found: Aggregate) -> None:
    """Raises `WrongSumError` unless this is the plain sum of the clients that did not drop out: to the last unit for an
    exact backend, and within the stated error for all.
    """
    names = cell.names()
    survivors = [index for index in range(cell.clients) if index not in cell.silent]
    if list(found.survivors) != [names[index] for index in survivors]:
        raise WrongSumError(f"expected {len(survivors)} survivors, got {len(found.survivors)}: {cell}")
    plain, words = np.zeros(cell.values), np.zeros(cell.values, np.uint64)
    for index in survivors:
        values = vector(cell, index)
        plain += values
        if found.encoding is not None:
            words += found.encoding.encode(values)
    if found.encoding is not None and (
        found.units is None or not np.array_equal(ring.signed(words, found.encoding.width), found.units)
    ):
        raise WrongSumError(f"the sum is not the sum of the fixed-point vectors: {cell}")
    rounding = len(survivors) ** 2 * 2.0**-52  # of the plain sum itself
    if not abs(found.total - plain).max() <= found.entry_error + rounding:
        raise WrongSumError(f"the sum is further from the plain sum than its stated error: {cell}")


class _Counting(FaultyNetwork):
    """Counts what is sent to and from every party, by phase; clients of the cell fall silent."""

    def __init__(self, cell: Cell) -> None:
        super().__init__([Fault("drop", cell.falls_silent, cell.silent)])
        self.up: dict[tuple[int, str], int] = defaultdict(int)
        self.down: dict[tuple[int, str], int] = defaultdict(int)
        self.arrived: dict[str, int] = defaultdict(int)

    def carry(self, packet: Packet) -> Iterable[Packet]:
        sent = self.up if packet.upward else self.down
        sent[packet.client, packet.phase] += len(packet.data)
        delivered = list(super().carry(packet))
        if packet.upward:
            self.arrived[packet.phase] += sum(len(one.data) for one in delivered)
        return delivered


def session(cell: Cell) -> Session:
    """Costs of one session, keys included. Raises `WrongSumError` and the protocol's errors."""
    network = _Counting(cell)
    aggregator: MaskedAggregator | EncryptedAggregator
    masks = {"profile": cell.profile, "suite": cell.suite} if cell.masked else {}
    if cell.encryption is None:
        aggregator = MaskedAggregator(cell.policy, network=network, **masks)  # type: ignore[arg-type]
    else:
        aggregator = EncryptedAggregator(
            cell.backend,
            cell.policy,
            release="sum",
            network=network,
            **masks,  # type: ignore[arg-type]
        )
    aggregator.open(cell.names(), [cell.plan])
    check(cell, aggregator.sum(0, Drawn(cell)))
    sessions: list[Exchange] = [aggregator.cohort]
    if isinstance(aggregator, EncryptedAggregator) and aggregator.masks:
        sessions.insert(0, aggregator.masks)
    return _costs(cell, sessions, network)


def _costs(cell: Cell, sessions: Sequence[Exchange], network: _Counting) -> Session:
    clients: dict[int, dict[str, Cost]] = {
        index: {} for index in range(cell.clients) if index not in cell.silent
    }
    server: dict[str, Cost] = {}
    holder: dict[str, Cost] = {}
    for phase, cost in (pair for one in sessions for pair in one.costs.items()):
        for index, phases in clients.items():
            phases[phase] = Cost(
                cost.client_seconds.get(index, 0.0),
                cost.client_wall.get(index, 0.0),
                network.up[index, phase],
                network.down[index, phase],
            )
        sent = sum(size for (_, when), size in network.down.items() if when == phase)
        server[phase] = Cost(cost.server_seconds, cost.server_wall, sent, network.arrived[phase])
        holder[phase] = Cost(
            cost.holder_seconds,
            cost.holder_wall,
            network.up[cell.clients, phase],
            network.down[cell.clients, phase],
        )
    return summary(clients, {SERVER: server} | ({HOLDER: holder} if cell.encryption else {}))


def summary(clients: Mapping[int, Phases], others: Mapping[str, Phases]) -> Session:
    """The median and the worst client, quantity by quantity, and the other parties; phases that cost a party nothing
    are left out.
    """
    totals = [_whole(phases) for phases in clients.values()]
    parties: Session = {}
    for party, choose in ((CLIENT, median), (WORST, max)):
        of_all = [list(column) for column in zip(*totals, strict=True)]
        parties[party] = {ALL_PHASES: Cost(*(choose(column) for column in of_all))}
        for phase in next(iter(clients.values())):
            columns = zip(*(phases[phase] for phases in clients.values()), strict=True)
            parties[party][phase] = Cost(*(choose(list(column)) for column in columns))
    for party, phases in others.items():
        parties[party] = {ALL_PHASES: _whole(phases), **phases}
    return {
        party: {phase: cost for phase, cost in phases.items() if any(cost)}
        for party, phases in parties.items()
    }


def _whole(phases: Phases) -> Cost:
    return Cost(*(sum(column) for column in zip(*phases.values(), strict=True)))
