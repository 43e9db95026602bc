"""Compare other libraries with ours: the same sum of the same vectors, in the same run, on the same machine.

Each peer's own code runs its client and its server; direct calls replace the network. The report names what a peer
cannot do, for example tolerate dropouts. Needs the extra `peers`; libraries that are not installed are named and skipped.
"""

import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from secure_afl.crypto.hpke import Suite
from secure_afl.protocol.session.backend import Backend
from secure_afl.protocol.session.parameters import Profile
from secure_afl.simulations.overhead.figures import Samples, add, costs, found
from secure_afl.simulations.overhead.grid import Cell
from secure_afl.simulations.overhead.measure import CLIENT, SERVER, Session, session

OURS = "secure-afl, masks"
MOST_REPEATS = 3  # a repeat takes minutes
# 1386·1387/2 + 1386·28 + 1: just 10⁶ values. Words of 4 bytes leave a value 25 bits behind the point here: more than
# the 22 bits, sign included, of SecAgg+.
SIZE = Cell(Backend.MASK, 50, 1386, 28, dropout=0.2, width=4, suite=Suite.HYBRID, profile=Profile.ACTIVE)


@dataclass(frozen=True)
class Peer:
    """package: what must be installed; module: has `session(cell)`; dropouts: whether it tolerates them."""

    name: str
    package: str
    module: str
    note: str
    dropouts: bool = True

    def session(self, cell: Cell) -> Session:
        """Costs of one sum. Raises `WrongSumError`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of what the peer is built on
            run: Callable[[Cell], Session] = import_module(f"{__package__}.{self.module}").session
            return run(cell)

    @property
    def installed(self) -> str | None:
        """Its version."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            return None


PEERS = (
    Peer(
        "Flower SecAgg+",
        "flwr",
        "flower",
        "secaggplus_mod of the clients and SecAggPlusWorkflow of the server, all clients neighbours; 22 bits a value, "
        "clipped to ±8; a semi-honest server, keys on a classical curve",
    ),
    Peer(
        "TenSEAL as NVFlare uses it",
        "tenseal",
        "nvflare",
        "CKKS with one secret key that all clients share and the context in every message; three clients encrypt, and "
        "the server adds their messages as often as there are clients",
    ),
    Peer(
        "declearn masking",
        "declearn",
        "declearn",
        "bears no dropouts: none here; 64-bit integers, masks of PCG64",
        dropouts=False,
    ),
)


def steps(repeats: int) -> int:
    """How often `measure` calls its watch."""
    return min(repeats, MOST_REPEATS) * (1 + sum(peer.installed is not None for peer in PEERS))


def measure(repeats: int, watch: Callable[[str], None]) -> dict[str, Any]:
    """Figures of our sum and of every installed peer, measured in turn at each repeat; ratios of Flower's and ours."""
    there = [peer for peer in PEERS if peer.installed]
    runs: dict[str, tuple[Cell, Callable[[Cell], Session]]] = {OURS: (SIZE, session)}
    for peer in there:
        runs[peer.name] = (SIZE if peer.dropouts else replace(SIZE, dropout=0.0), peer.session)
    samples: dict[str, Samples] = {name: defaultdict(list) for name in runs}
    for repeat in range(min(repeats, MOST_REPEATS)):
        for name, (cell, run) in runs.items():
            watch(f"beside others, {repeat + 1}: {name}")
            add(samples[name], run(cell))
    cells = [_described(name, cell, samples[name]) for name, (cell, _) in runs.items()]
    return {
        "cells": cells,
        "notes": {peer.name: f"{peer.package} {peer.installed}: {peer.note}" for peer in there},
        "absent": [
            f"{peer.name}: not measured, {peer.package} is not installed here (extra `peers`, "
            "pip install 'secure-afl[peers]')"
            for peer in PEERS
            if not peer.installed
        ],
        "ratios": [ratios(cells[0], cell) for cell in cells[1:]],
    }


def _described(name: str, cell: Cell, samples: Samples) -> dict[str, Any]:
    said: dict[str, Any] = cell.described() | {"backend": name}
    if name != OURS:  # what is ours says nothing of a peer
        said |= dict.fromkeys(("width", "suite", "profile", "neighbours"))
    return said | {"costs": costs(samples)}


def ratios(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """A peer's medians divided by ours; for the bytes that a client sends and receives, ours divided by theirs."""
    return {
        "peer": theirs["backend"],
        "client_cpu": _sum(theirs, CLIENT, ("cpu_seconds",)) / _sum(ours, CLIENT, ("cpu_seconds",)),
        "server_cpu": _sum(theirs, SERVER, ("cpu_seconds",)) / _sum(ours, SERVER, ("cpu_seconds",)),
        "our_bytes": _sum(ours, CLIENT, _BYTES) / _sum(theirs, CLIENT, _BYTES),
    }


_BYTES = ("bytes_up", "bytes_down")


def _sum(cell: dict[str, Any], party: str, quantities: Sequence[str]) -> float:
    return float(sum(row["median"] for one in quantities if (row := found(cell, party, one)) is not None))
