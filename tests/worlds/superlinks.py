"""A SuperLink of ours in this process, and what reaches its doors: nodes, and a ServerApp's grid."""

import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.cli.build import build_fab_from_disk
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid.http_grid import HttpGrid

from secure_afl.protocol.transport.flower.fleet import Fleet
from secure_afl.protocol.transport.flower.superlink import Link, SuperLink
from secure_afl.simulations.network import certificates
from worlds.patience import HANG

APP = Path(__file__).resolve().parents[2] / "apps" / "flower"


@dataclass
class Here:
    """A SuperLink. keys: nodes' secret ones; registered: the public ones that may connect, with names; app: what the last run
    submitted; stop: ends it.
    """

    home: Path
    link: Link
    keys: list[ec.EllipticCurvePrivateKey]
    registered: dict[bytes, str]
    authority: bytes
    fleets: list[Fleet] = field(default_factory=list)
    grids: list[HttpGrid] = field(default_factory=list)
    app: str = ""
    stop: Callable[[], None] = lambda: None

    @property
    def public(self) -> str:
        return "{}:{}".format(*self.link.public)

    @property
    def private(self) -> str:
        return "{}:{}".format(*self.link.private)

    def fleet(self, number: int) -> Fleet:
        """The connection of a node, by the number of its key."""
        self.fleets.append(Fleet(self.public, self.authority, self.keys[number]))
        return self.fleets[-1]

    def register(self, number: int) -> None:
        self.registered[public_key_to_bytes(self.keys[number].public_key())] = f"node-{number}"

    def grid(self) -> HttpGrid:
        """What the ServerApp of a new run has."""
        grid, self.app = taken_task(self.private, None)
        self.grids.append(grid)
        return grid


def taken_task(address: str, authority: bytes | None) -> tuple[HttpGrid, str]:
    """The grid of a new run of our app, and the app's digest: submitted, and its task taken as Flower's own executor does, by
    whoever reaches that address. authority: None for a door without TLS.
    """
    at = (address, authority is None, authority)
    data = build_fab_from_disk(APP)
    fab = Fab(hashlib.sha256(data).hexdigest(), data, {})
    token = ""
    while not token:  # another executor may be quicker
        with ControlHttpClient.from_server_address(*at, []) as control:
            control.StartRun(StartRunRequest(fab=fab_to_proto(fab)))
        with RuntimeHttpClient.from_server_address(*at, []) as runtime:
            task = runtime.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-serverapp"]))
            token = task.token
    with RuntimeHttpClient.from_server_address(*at, [RuntimeTokenHttpInterceptor(token=token)]) as runtime:
        runtime.PullTaskInput(PullTaskInputRequest())  # from here on the run is running
    grid = HttpGrid(*at, token=token)
    grid.set_run(Run.create_empty(task.task.run_id))
    return grid, fab.hash_str


@contextmanager
def superlink(home: Path, nodes: int = 2) -> Iterator[Here]:
    """While the block runs; none of its nodes is registered."""
    made = certificates.make(home, 0)
    ports = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as one:
            ports.append(one.getsockname()[1])
    link = Link(("127.0.0.1", ports[0]), ("127.0.0.1", ports[1]), made.server, made.server_key)
    registered: dict[bytes, str] = {}
    server = SuperLink(link, lambda: dict(registered), every=0.05)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    keys = [ec.generate_private_key(ec.SECP384R1()) for _ in range(nodes)]
    here = Here(home, link, keys, registered, made.authority.read_bytes())

    def stop() -> None:
        server.stop()
        thread.join(HANG)

    here.stop = stop
    trusted = ssl.create_default_context(cafile=made.authority)
    try:
        ends = time.monotonic() + HANG
        while thread.is_alive() and time.monotonic() < ends:
            try:
                httpx.get(f"https://{here.public}/", verify=trusted)
                break
            except httpx.TransportError:
                time.sleep(0.02)
        yield here
    finally:
        for one in (*here.fleets, *here.grids):
            one.close()
        stop()
