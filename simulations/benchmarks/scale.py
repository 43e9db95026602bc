"""The cost of many clients: one masked sum over thousands of real clients, with the sparse graph.

The server runs in this process and all clients in a second one, so that the server's CPU time and memory are measured
separately. Messages go through a pipe as bytes. Clients drop out after the key exchange, the most expensive moment: the
server must then rebuild their pairwise masks.
"""

import gc
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
from rich.table import Table
from scipy.optimize import nnls

from secure_afl.cli.terminal import table
from secure_afl.crypto import ring
from secure_afl.crypto.hpke import Suite
from secure_afl.crypto.identity import Identity
from secure_afl.errors import DataError
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.masking.server import MaskingServer
from secure_afl.protocol.masking.states import ServerState
from secure_afl.protocol.session.ledger import Ledger
from secure_afl.protocol.session.parameters import Profile, SumPlan, SumWanted
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.roster import Member, Roster
from secure_afl.protocol.session.server import Outbox
from secure_afl.simulations.benchmarks.masking import machine
from secure_afl.simulations.study.report import KEY_PHASES
from secure_afl.sums.aggregation import SessionSettings, proposed

_BATCH = 50  # messages that go through the pipe together
BOUND = 1.0  # of every value


@dataclass(frozen=True)
class Scale:
    """One size. dropout: the fraction of clients that drops out after the key exchange; corrupted: the fraction assumed to
    collude, which the graph tolerates in addition.
    """

    clients: int
    length: int
    dropout: float
    corrupted: float
    suite: Suite

    @property
    def policy(self) -> Policy:
        """Every client's policy, as a sparse graph requires."""
        return Policy(
            corrupted=self.corrupted,
            dropout=self.dropout,
            profiles=frozenset({Profile.SEMI_HONEST}),
            suites=frozenset({self.suite}),
        )

    @property
    def plan(self) -> list[SumPlan]:
        """One sum."""
        return [SumPlan("scale", self.length, BOUND, 24)]

    @property
    def memory(self) -> int:
        """Approximate bytes of all parties on one machine: each of n clients holds lists of all n members. Measured from 300
        to 10,000 clients.
        """
        return 500_000_000 + 95_000 * self.clients + 200 * self.clients**2

    @property
    def lack(self) -> str:
        """Why this machine cannot hold all parties now; empty if it can."""
        if (need := self.memory) <= (free := psutil.virtual_memory().available):
            return ""
        return (
            f"expected about {need / 1e9:.1f} GB of free memory for {self.clients:,} clients in one process, got "
            f"{free / 1e9:.1f}"
        )

    @property
    def gone(self) -> frozenset[int]:
        """The clients that drop out, evenly spaced."""
        count = round(self.dropout * self.clients)
        return frozenset(at * self.clients // count for at in range(count)) if count else frozenset()


def measure(sizes: Sequence[Scale], watch: Callable[[str], None]) -> dict[str, Any]:
    """Figures of every size, the smallest first. `watch` is called `steps` times.

    Raises `DataError` if this machine lacks the memory for so many clients.
    """
    for size in sizes:
        if lack := size.lack:
            raise DataError(lack)
    idle = _resident()  # a session reuses the memory that the smaller one before it has freed
    rows = [_session(size, idle, watch) for size in sorted(sizes, key=lambda size: size.clients)]
    return {"machine": machine("psutil"), "sizes": rows, "law": _law(rows)}


def steps(sizes: Sequence[Scale]) -> int:
    """How often `measure` calls `watch`."""
    return 6 * len(sizes)


def _law(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Fit a client's CPU seconds as a + b·log₂ n + c·n with non-negative terms; also the explained variance.

    The number of neighbours' keys grows with log n; reading all clients' indices, in three messages, grows with n.
    """
    if len(rows) < 4:
        return {}
    n = np.array([row["clients"] for row in rows], dtype=np.float64)
    seconds = np.array([row["client_seconds"] for row in rows])
    (base, doubling, each), residual = nnls(_terms(n), seconds)
    spread = float(((seconds - seconds.mean()) ** 2).sum())
    return {
        "base_s": float(base),
        "per_doubling_s": float(doubling),
        "per_client_s": float(each),
        "r2": 1 - residual**2 / spread if spread else 1.0,
    }


def _terms(n: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.stack([np.ones_like(n), np.log2(n), n], axis=1)


# ---- the clients' process ------------------------------------------------------------------------


def _clients(pipe: Connection, size: Scale) -> None:
    """Make the roster, answer batches of messages, and finally return the expected sum."""
    identities = [Identity.generate() for _ in range(size.clients)]
    roster = Roster(tuple(Member(f"client-{index}", one.verify_key) for index, one in enumerate(identities)))
    pipe.send([member.verify_key for member in roster.members])
    clients = [MaskingClient(one, roster, size.plan, size.policy, Ledger()) for one in identities]
    encoding = size.plan[0].spec(size.clients).encoding(size.clients)
    draws, total = np.random.default_rng(0), np.zeros(size.length, np.int64)
    while (batch := pipe.recv()) is not None:
        answers, spent = [], 0.0
        for index, data in batch:
            started = time.process_time()
            answer = clients[index].receive(data)
            spent += time.process_time() - started
            if isinstance(answer, SumWanted):
                values = draws.uniform(-BOUND, BOUND, size.length)
                started = time.process_time()
                answer = clients[index].contribute(answer, values, "rows")
                spent += time.process_time() - started
                if index not in size.gone:
                    total += ring.signed(encoding.encode(values), 8)
            answers.append((index, answer))
        pipe.send((answers, spent))
    pipe.send((total, _resident()))


# ---- one session ---------------------------------------------------------------------------------


def _session(size: Scale, idle: int, watch: Callable[[str], None]) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    worker = context.Process(target=_clients, args=(theirs, size), daemon=True)
    worker.start()
    theirs.close()
    try:
        return _driven(size, idle, pipe, watch)
    finally:
        worker.terminate()
        worker.join()


def _driven(size: Scale, idle: int, pipe: Connection, watch: Callable[[str], None]) -> dict[str, Any]:
    started = time.perf_counter()
    watch(f"{size.clients:,} clients: identities")
    roster = Roster(tuple(Member(f"client-{index}", key) for index, key in enumerate(pipe.recv())))
    gc.collect()
    clock = time.process_time()
    parameters = proposed(roster, size.plan, SessionSettings(size.policy, Profile.SEMI_HONEST, size.suite))
    server = MaskingServer(parameters, roster)
    client_s, server_s, up, down = 0.0, time.process_time() - clock, 0, 0
    memory: dict[str, int] = {}
    seconds: dict[str, float] = {}
    step: Callable[[], Outbox] = server.start
    while server.state is not ServerState.UNMASKING or server.waiting_for:
        clock, phase_started = time.process_time(), time.perf_counter()
        outbox = step()
        server_s += time.process_time() - clock
        phase = server.state.value
        if phase == "ready":
            step = lambda: server.open_round(0)
            continue
        watch(f"{size.clients:,} clients: {phase}")
        waiting = list(outbox)
        for at in range(0, len(waiting), _BATCH):
            clock = time.process_time()
            batch = [(index, outbox[index]) for index in waiting[at : at + _BATCH]]
            server_s += time.process_time() - clock
            down += sum(len(data) for _, data in batch)
            pipe.send(batch)
            answers, spent = pipe.recv()
            client_s += spent
            clock = time.process_time()
            for index, frame in answers:
                if phase == "collecting" and index in size.gone:
                    continue
                up += len(frame)
                server.receive(index, frame)
            server_s += time.process_time() - clock
            memory[phase] = max(memory.get(phase, 0), _resident() - idle)
        seconds[phase] = time.perf_counter() - phase_started
        step = server.advance
    clock = time.process_time()
    result = server.result()
    server_s += time.process_time() - clock
    pipe.send(None)
    expected, clients_memory = pipe.recv()
    opened = ring.signed(result.values, parameters.rounds[0].width)
    survivors = size.clients - len(size.gone)
    if not np.array_equal(opened, expected) or len(result.survivors) != survivors:
        raise AssertionError("the sum is not that of the survivors")
    return {
        "clients": size.clients,
        "length": size.length,
        "dropouts": len(size.gone),
        "suite": size.suite.value,
        "degree": parameters.degree,
        "threshold": parameters.threshold,
        "wall_seconds": time.perf_counter() - started,
        "client_seconds": client_s / size.clients,
        "server_seconds": server_s,
        "client_bytes_up": up / size.clients,
        "client_bytes_down": down / size.clients,
        "phase_wall_seconds": seconds,
        "server_memory": memory,
        "clients_memory": clients_memory,
        "vector_bytes": 8 * size.length,
    }


def _resident() -> int:
    """Bytes of this process in memory."""
    return psutil.Process().memory_info().rss


# ---- how it is shown -----------------------------------------------------------------------------


def tables(figures: dict[str, Any]) -> list[Table]:
    """The figures for a terminal."""
    rows = figures["sizes"]
    first = table(
        f"one masked sum of {rows[0]['length']:,} values, {rows[0]['dropouts'] / rows[0]['clients']:.0%} dropouts, "
        f"semi-honest server, {rows[0]['suite']} keys, sparse graph (neighbours, threshold);\n"
        "CPU of one client and of the server; bytes of one client; the most memory that the key exchange takes at the server, "
        "and what a sum adds to that; the memory of the process that is all clients",
        (
            "clients",
            "graph",
            "wall s",
            "client ms",
            "server s",
            "kB up, down",
            "MB keys",
            "MB sum",
            "GB of all clients",
        ),
        names=0,
    )
    for row in rows:
        memory = row["server_memory"]
        keys = max(taken for phase, taken in memory.items() if phase in KEY_PHASES)
        all_phases = max(memory.values())
        first.add_row(
            f"{row['clients']:,}",
            f"{row['degree']}, {row['threshold']}",
            f"{row['wall_seconds']:.1f}",
            f"{1000 * row['client_seconds']:.1f}",
            f"{row['server_seconds']:.1f}",
            f"{row['client_bytes_up'] / 1000:.0f}, {row['client_bytes_down'] / 1000:.0f}",
            f"{keys / 1e6:.0f}",
            f"{(all_phases - keys) / 1e6:+.1f}",
            f"{row['clients_memory'] / 1e9:.1f}",
        )
    if law := figures["law"]:
        first.caption = (
            f"CPU of a client: {1000 * law['base_s']:.1f} ms + {1000 * law['per_doubling_s']:.2f} ms · log₂ n + "
            f"{1e6 * law['per_client_s']:.2f} µs · n, R² = {law['r2']:.3f}"
        )
    return [first]


def plot(figures: dict[str, Any], file: Path) -> None:
    """A client's CPU and bytes against the number of clients, with the fitted line, and the server's memory by phase."""
    from matplotlib.figure import Figure

    from secure_afl.cli.pages import logarithmic

    rows, law = figures["sizes"], figures["law"]
    n = np.array([row["clients"] for row in rows], dtype=np.float64)
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    seconds, traffic, memory = figure.subplots(1, 3)
    seconds.plot(n, [1000 * row["client_seconds"] for row in rows], "o", label="measured")
    if law:
        along = np.geomspace(n[0], n[-1], 100)
        fitted = _terms(along) @ [law["base_s"], law["per_doubling_s"], law["per_client_s"]]
        seconds.plot(along, 1000 * fitted, "-", label=f"a + b·log n + c·n, R² = {law['r2']:.3f}")
    traffic.plot(n, [row["client_bytes_up"] / 1000 for row in rows], "o-", label="up")
    traffic.plot(n, [row["client_bytes_down"] / 1000 for row in rows], "s-", label="down")
    for axes, what in ((seconds, "CPU ms of a client"), (traffic, "kB of a client")):
        axes.set(xlabel="clients", ylabel=what, ylim=(0, None))
        logarithmic(axes, "x")
    for row in reversed(rows):
        taken = [size / 1e6 for size in row["server_memory"].values()]
        memory.plot(list(row["server_memory"]), taken, "o-", label=f"{row['clients']:,} clients")
    memory.set(xlabel="phase; the sum begins with collecting", ylabel="MB of the server")
    memory.tick_params(axis="x", rotation=20)
    logarithmic(memory, "y")
    for axes in (seconds, traffic, memory):
        axes.grid(alpha=0.3)
    for axes in (seconds, traffic):
        axes.legend()
    memory.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.suptitle(f"one sum of {rows[0]['length']:,} values, {rows[0]['dropouts'] / n[0]:.0%} dropouts")
    figure.savefig(file)
