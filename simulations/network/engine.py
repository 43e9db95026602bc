"""Many clients on Flower's simulation engine: one masked sum with the engine and the same sum without it.

The engine with the server runs in its own process; Ray starts further processes, which answer for the clients. Needs the
extra `simulation`.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from rich.table import Table

from secure_afl.cli.terminal import table
from secure_afl.crypto.errors import missing
from secure_afl.errors import DataError
from secure_afl.simulations.benchmarks import scale
from secure_afl.simulations.benchmarks.masking import machine
from secure_afl.simulations.benchmarks.scale import Scale
from secure_afl.simulations.network.loopback import QUIET

_ENTRY = "from secure_afl.simulations.network.many_nodes import main; main()"
_PHASES = ("finding", "advertising", "sharing", "confirming", "collecting", "unmasking", "end")


def steps(size: Scale, compared: bool) -> int:
    """How often `measure` calls `watch`."""
    return 1 + len(_PHASES) + (scale.steps([size]) if compared else 0)


def measure(
    size: Scale, actors: int, watch: Callable[[str], None], nodes: int = 0, compared: bool = True
) -> dict[str, Any]:
    """Measure the session over Flower and, if compared, without it. actors: number of Ray processes that answer for clients;
    nodes: see `many_nodes.serve`.

    Clients' folders lie where temporary files do. Raises `MissingExtraError` without Ray and Flower, and `DataError` if the engine
    fails.
    """
    for package in ("flwr", "ray"):
        if find_spec(package) is None:
            raise missing(package, "simulation")
    with TemporaryDirectory(prefix="secure-afl-") as temporary:
        root = Path(temporary)
        engine = _on_engine(root, size, actors, watch, nodes)
        stores = sum(file.stat().st_size for file in root.glob("*/state.db"))
    # Memory may have gone meanwhile: the engine's figures are not lost for that.
    here = scale.measure([size], watch)["sizes"][0] if compared and not size.lack else None
    return {
        "clients": size.clients,
        "length": size.length,
        "dropouts": len(size.gone),
        "suite": size.suite.value,
        "machine": machine("psutil", "flwr", "ray"),
        "actors": actors,
        "nodes": nodes or size.clients,
        "stores": {"kind": "an SQLite file of each client, synced at every step", "in": str(root.parent)},
        "store_bytes": stores / size.clients,
        "engine": engine,
        "in_process": here,
    }


def _on_engine(
    root: Path, size: Scale, actors: int, watch: Callable[[str], None], nodes: int
) -> dict[str, Any]:
    from secure_afl.simulations.network.many_nodes import REPORT, VARIABLE, lay_out

    watch(f"{size.clients:,} clients: folders")
    lay_out(root, size)
    started = time.perf_counter()
    with (root / "engine.log").open("wb") as log:
        engine = subprocess.Popen(
            [sys.executable, "-c", _ENTRY, str(actors), str(nodes)],
            env={**os.environ, **QUIET, "RAY_USAGE_STATS_ENABLED": "0", VARIABLE: str(root)},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # so that what it starts ends with it
        )
    assert engine.stdout is not None
    with engine:
        try:
            for line in engine.stdout:
                if line.startswith("phase: "):
                    watch(f"{size.clients:,} clients over Flower: {line.removeprefix('phase: ').strip()}")
            failed = engine.wait()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(engine.pid, signal.SIGKILL)
    if failed:
        said = (root / "engine.log").read_text(errors="replace")
        raise DataError(f"Flower's simulation engine failed:\n{said[-3000:]}")
    figures: dict[str, Any] = msgspec.json.decode((root / REPORT).read_bytes())
    return {**figures, "wall_seconds": time.perf_counter() - started}


def tables(figures: dict[str, Any]) -> list[Table]:
    """The figures for a terminal."""
    engine, here = figures["engine"], figures["in_process"]
    rows = table(
        f"one masked sum of {figures['length']:,} values over {figures['clients']:,} clients, {figures['dropouts']:,} "
        f"dropouts, semi-honest server, {figures['suite']} keys, {engine['degree']} neighbours, threshold "
        f"{engine['threshold']};\nover Flower, and without it in two processes of ours; bytes of a client, the mean; MB: of "
        "the process of server and engine, at most",
        ("phase", "Flower s", "here s", "server CPU s", "kB up", "kB down", "MB"),
    )
    for phase in _PHASES:
        rows.add_row(
            phase,
            f"{engine['phase_wall_seconds'][phase]:.1f}",
            *(
                f"{values[phase]:,.{digits}f}" if phase in values else "–"
                for values, digits in (
                    (here["phase_wall_seconds"] if here else {}, 1),
                    (engine["server_cpu_seconds"], 2),
                    ({name: size / 1000 for name, size in engine["client_bytes_up"].items()}, 1),
                    ({name: size / 1000 for name, size in engine["client_bytes_down"].items()}, 1),
                )
            ),
            f"{engine['process_memory'][phase] / 1e6:,.0f}",
        )
    return [rows]


def lines(figures: dict[str, Any]) -> dict[str, str]:
    """Facts that are in no table, by name."""
    engine, here, machine = figures["engine"], figures["in_process"], figures["machine"]
    versions = machine["versions"]
    return {
        "sum": f"that of the {engine['survivors']:,} clients that stayed, bit for bit"
        + ("; so is the other" if here else ""),
        "seconds in all": f"{engine['wall_seconds']:.0f} over Flower, {engine['cpu_seconds']:.0f} CPU seconds of all its "
        "processes" + (f"; {here['wall_seconds']:.0f} without it" if here else ""),
        "memory": f"{max(engine['process_memory'].values()) / 1e6:,.0f} MB at most of server and engine together, "
        f"{engine['ray_memory'] / 1e6:,.0f} MB of Ray's processes"
        + (
            f"; without Flower the server adds {max(here['server_memory'].values()) / 1e6:,.0f} MB"
            if here
            else ""
        ),
        "clients": f"on {figures['nodes']:,} nodes of Flower; {figures['actors']} processes answer for all; each client has a key file and a store of its own, "
        f"{figures['stores']['kind']}, {figures['store_bytes'] / 1000:,.0f} kB in {figures['stores']['in']}; roster and "
        "policy, which are the same for all, are read once by each process",
        **({} if here else {"without Flower": "not measured: too little memory was free"}),
        "finding": "includes the start of Ray",
        "machine": f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}",
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
    }
