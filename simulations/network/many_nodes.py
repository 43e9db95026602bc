"""One masked sum over many clients as apps of Flower, each client with its own folder. Needs the extra `flower`.

    scale.json, roster.toml     common to all; a process reads them once for all its clients
    7/identity.key, 7/state.db  only client 7's: opened again for every message, as on its own machine

`SECURE_AFL_SCALE` names the folder. Clients drop out by refusing to give their vector, after the key exchange: the most
expensive moment.
"""

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np
import numpy.typing as npt
import psutil
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from secure_afl.crypto import ring
from secure_afl.errors import DataError
from secure_afl.protocol.durable.store import Store
from secure_afl.protocol.files import keys, whole
from secure_afl.protocol.files import roster as roster_file
from secure_afl.protocol.masking.server import MaskingServer
from secure_afl.protocol.session.parameters import Profile, SumWanted
from secure_afl.protocol.session.roster import Roster
from secure_afl.protocol.transport.driver import Contribution, nothing_wanted
from secure_afl.protocol.transport.endpoint import Endpoint, Terms
from secure_afl.protocol.transport.flower.client import answering
from secure_afl.protocol.transport.flower.server import FlowerPost
from secure_afl.protocol.transport.masked import Cohort
from secure_afl.protocol.transport.post import Channel
from secure_afl.simulations.benchmarks.scale import BOUND, Scale
from secure_afl.simulations.network.batches import BatchPost, carrying
from secure_afl.simulations.network.laid_out import settle
from secure_afl.sums.aggregation import SessionSettings, proposed

VARIABLE = "SECURE_AFL_SCALE"
REPORT = "report.json"
_POLL = 0.2  # seconds
_LOOKED_AT = 5000  # messages per second: each look queries all pending messages and blocks the engine


def lay_out(root: Path, size: Scale) -> None:
    """The folders of all clients. Raises `FileError` if they cannot be written."""
    members = [settle(root / str(index), f"client-{index}") for index in range(size.clients)]
    parties = roster_file.Parties(Roster(tuple(members)))
    whole.write_new(root / "roster.toml", roster_file.text(parties).encode(), whole.PUBLIC)
    whole.write_new(root / "scale.json", msgspec.json.encode(asdict(size)), whole.PUBLIC)


@cache
def _known(root: Path) -> tuple[Scale, Terms]:
    """The facts common to all parties."""
    size = msgspec.json.decode((root / "scale.json").read_bytes(), type=Scale)
    return size, Terms(roster_file.read(root / "roster.toml"), tuple(size.plan), size.policy)


def values(size: Scale, index: int) -> npt.NDArray[np.float64]:
    """The vector of a client."""
    return np.random.default_rng(index).uniform(-BOUND, BOUND, size.length)


def endpoint_of(context: Context) -> Endpoint:
    """The client with a node's number."""
    return endpoint(int(context.node_config["partition-id"]))


def endpoint(index: int) -> Endpoint:
    """The client of that number."""
    root = Path(os.environ[VARIABLE])
    size, terms = _known(root)
    folder = root / str(index)
    _, identity = keys.read_key(folder / "identity.key", keys.service_passphrase)

    def contribute(wanted: SumWanted, learned: bytes) -> Contribution:
        if index in size.gone:
            raise DataError("this client drops out")
        return values(size, index), "rows"

    return Endpoint(identity, terms, Store(folder / "state.db", identity), contribute)


client_app = answering(endpoint_of)
many_app = carrying(endpoint)
"""For nodes that carry many clients."""


def serve(grid: Grid, root: Path, watch: Callable[[str], None], nodes: int = 0) -> dict[str, Any]:
    """The server's side; returns the figures. watch: called with each phase. nodes: that carry the clients among them; 0 for
    one each, which `FlowerPost` finds as in a deployment.

    Raises `RoundAbortedError`, `AssertionError` for a wrong sum.
    """
    size, terms = _known(root)
    roster = terms.parties.clients
    deadline = 60.0 + size.clients
    post = FlowerPost(grid, deadline, max(_POLL, size.clients / _LOOKED_AT))
    batches = BatchPost(grid, nodes, deadline)
    carrier = batches.carrier if nodes else post.carrier
    watch("finding")
    started = time.perf_counter()
    if nodes:
        batches.find()
    else:
        post.find(terms.parties)
    seconds = {"finding": time.perf_counter() - started}
    parameters = proposed(roster, terms.plan, SessionSettings(terms.policy, Profile.SEMI_HONEST, size.suite))
    server = MaskingServer(parameters, roster)
    cohort = Cohort(server, {}, None, watch, carry=carrier(Channel.MASKED, parameters.session))
    cohort.set_up()
    result = cohort.sum(0, nothing_wanted)
    watch("end")
    started = time.perf_counter()
    for _ in carrier(Channel.END, parameters.session)(dict.fromkeys(range(size.clients), b"")):
        pass
    ending = time.perf_counter() - started
    costs = {phase: cost for phase, cost in cohort.costs.items() if cost.wall_seconds}
    seconds |= {phase: cost.wall_seconds for phase, cost in costs.items()} | {"end": ending}
    _check(size, result.survivors, ring.signed(result.values, parameters.rounds[0].width))
    return {
        "survivors": len(result.survivors),
        "degree": parameters.degree,
        "threshold": parameters.threshold,
        "phase_wall_seconds": seconds,
        "server_cpu_seconds": {phase: cost.server_seconds for phase, cost in costs.items()},
        "client_bytes_up": {phase: sum(cost.up.values()) / size.clients for phase, cost in costs.items()},
        "client_bytes_down": {phase: sum(cost.down.values()) / size.clients for phase, cost in costs.items()},
    }


class Costs:
    """Observe this process's costs during the `with` block. peaks: the most bytes seen in each phase."""

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self._process = psutil.Process()
        self._over = Event()
        self._looking = Thread(target=self._look)

    def __enter__(self) -> Self:
        self._looking.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._looking.join()

    def phase(self, name: str) -> None:
        """Begin a phase."""
        self.peaks[name] = self._process.memory_info().rss
        print(f"phase: {name}", flush=True)

    def others(self) -> int:
        """Bytes of the child processes."""
        return sum(child.memory_info().rss for child in self._process.children(recursive=True))

    def cpu_seconds(self) -> float:
        """Of this process and its child processes, since their start."""
        found = 0.0
        for one in (self._process, *self._process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):  # it has just ended
                found += sum(one.cpu_times()[:2])
        return found

    def _look(self) -> None:
        while not self._over.wait(_POLL):
            for name in list(self.peaks)[-1:]:
                self.peaks[name] = max(self.peaks[name], self._process.memory_info().rss)


def _check(size: Scale, survivors: tuple[int, ...], opened: npt.NDArray[np.int64]) -> None:
    """Raises `AssertionError` unless this is the plain sum over all clients that did not drop out."""
    stayed = [index for index in range(size.clients) if index not in size.gone]
    encoding = size.plan[0].spec(size.clients).encoding(size.clients)
    expected = np.zeros(size.length, np.int64)
    for index in stayed:
        expected += ring.signed(encoding.encode(values(size, index)), 8)
    if list(survivors) != stayed or not np.array_equal(opened, expected):
        raise AssertionError("the sum is not that of the clients that stayed")


def start_ray(actors: int, tries: int = 20) -> None:
    """Start Ray for `actors` actors, and retry if it dies.

    On a busy machine Ray's node gives up on its own helpers after about 20 seconds, and its users then wait for ever.
    Re-raises Ray's exceptions.
    """
    import ray

    paths = os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")])  # as Flower would
    for left in reversed(range(tries)):
        try:
            ray.init(
                num_cpus=actors,
                include_dashboard=False,
                log_to_driver=False,
                runtime_env={"env_vars": {"PYTHONPATH": paths}},
            )
            answers = [ray.remote(lambda: None).remote()]
            while any(node["Alive"] for node in ray.nodes()):
                if ray.wait(answers, timeout=1.0)[0]:
                    return
        except Exception:  # Ray has no narrower exception for a late node
            if not left:
                raise
        ray.shutdown()
    raise RuntimeError(f"expected Ray to start, and its node ended {tries} times; is this machine too busy?")


def main() -> None:
    """Run everything on Flower's simulation engine, in this process and as many Ray processes as the first argument says. The
    second is the number of nodes, 0 for one for each client.

    Writes figures to `report.json`. Do not call it in `__main__`, which Ray's processes do not have.
    """
    from flwr.simulation import run_simulation

    root, actors, nodes = Path(os.environ[VARIABLE]), int(sys.argv[1]), int(sys.argv[2])
    size, _ = _known(root)
    figures: dict[str, Any] = {}
    app = ServerApp()

    @app.main()  # type: ignore[untyped-decorator]  # typed where Flower is installed
    def serving(grid: Grid, context: Context) -> None:
        with Costs() as costs:
            figures.update(serve(grid, root, costs.phase, nodes))
            figures["ray_memory"] = costs.others()
            figures["cpu_seconds"] = costs.cpu_seconds()
        figures["process_memory"] = costs.peaks

    start_ray(actors)
    run_simulation(
        app,
        many_app if nodes else client_app,
        num_supernodes=nodes or size.clients,
        backend_config={"client_resources": {"num_cpus": 1}},
    )
    (root / REPORT).write_bytes(msgspec.json.encode(figures))
