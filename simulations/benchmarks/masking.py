"""The cost of masking: the client's rate compared with raw keystream, and the server's memory.

Everything runs in one process; rates are per CPU second. Keystream and masking are timed in turn, so that other load on
the machine affects both alike. What the whole protocol costs each party: `secure-afl overhead`.
"""

import os
import platform
import time
import tracemalloc
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from rich.table import Table

from secure_afl.cli.terminal import table
from secure_afl.crypto.prg import CHUNK_BYTES, add_keystreams
from secure_afl.protocol.masking.server import MaskingServer
from secure_afl.protocol.session.parameters import SumPlan
from secure_afl.sums.aggregation import MaskedAggregator

MEMORY_CASES = (10, 50)
_MASKS, _VALUES = 50, 10**6


def steps() -> int:
    """How often `measure` calls `watch`."""
    return 1 + len(MEMORY_CASES)


def measure(repeats: int, watch: Callable[[str], None]) -> dict[str, Any]:
    """All figures of the benchmark; takes some seconds."""
    watch("masking rate")
    figures: dict[str, Any] = {"machine": machine(), "masking": _masking_rate(5 * repeats)}
    figures["server_memory"] = []
    for n in MEMORY_CASES:
        watch(f"server memory, {n} clients")
        figures["server_memory"].append({"n": n, "m": _VALUES, "peak_vectors": _server_memory(n, _VALUES)})
    return figures


def machine(*packages: str) -> dict[str, Any]:
    """The machine and the versions that the figures depend on, including these packages."""
    names = ("secure-afl", "numpy", "cryptography", "msgspec", *packages)
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
    }


def _processor() -> str:
    """The processor's name, or its architecture if the system does not tell the name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _masking_rate(repeats: int) -> dict[str, float]:
    """Bytes per second of raw AES-256-CTR and of `add_keystreams`, for 50 masks of 10⁶ values."""
    vector = np.zeros(_VALUES, np.uint64)
    zeros, scratch = bytes(CHUNK_BYTES), bytearray(CHUNK_BYTES)
    raw, masking = [], []
    for _ in range(repeats):
        keys = [os.urandom(32) for _ in range(_MASKS)]
        started = time.process_time()
        for key in keys:
            stream = Cipher(AES256(key), CTR(bytes(16))).encryptor()
            for start in range(0, vector.nbytes, CHUNK_BYTES):
                stream.update_into(zeros[: vector.nbytes - start], scratch)
        raw.append(time.process_time() - started)
        started = time.process_time()
        add_keystreams(vector, plus=keys[::2], minus=keys[1::2])
        masking.append(time.process_time() - started)
    total = _MASKS * vector.nbytes
    return {
        "keystream_gb_per_s": total / median(raw) / 1e9,
        "masking_gb_per_s": total / median(masking) / 1e9,
        "share_of_keystream": median(a / b for a, b in zip(raw, masking, strict=True)),
    }


def _server_memory(n: int, m: int) -> float:
    """The server's peak memory while it collects and opens a sum, in float64 vectors of m values."""
    aggregator = MaskedAggregator()
    names = [f"client-{i:03}" for i in range(n)]
    vectors = np.random.default_rng(0).uniform(-1, 1, (2, m))
    aggregator.open(names, [SumPlan("benchmark", m, 1.0)])
    contributions = {name: (vectors[i % 2], "benchmark") for i, name in enumerate(names)}
    cohort = aggregator.cohort
    server, peaks = cohort.server, [0]
    measured = _Measured(server, peaks)
    tracemalloc.start()
    try:
        measured.held = tracemalloc.get_traced_memory()[0]
        cohort.steps = measured
        aggregator.sum(0, contributions)
    finally:
        tracemalloc.stop()
    return max(peaks) / (8 * m)


class _Measured:
    """A server whose calls are measured: memory above that at the beginning of the round."""

    def __init__(self, server: MaskingServer, peaks: list[int]) -> None:
        self.held = 0
        self._server = server
        self._peaks = peaks

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._server, name)
        if name not in ("open_round", "receive", "advance", "result"):
            return value

        def call(*arguments: Any) -> Any:
            tracemalloc.reset_peak()
            try:
                return value(*arguments)
            finally:
                self._peaks.append(tracemalloc.get_traced_memory()[1] - self.held)

        return call


def tables(figures: dict[str, Any]) -> list[Table]:
    """The figures for a terminal."""
    rate = figures["masking"]
    first = table(
        "client masking, one core", ("raw AES-256-CTR GB/s", "masking GB/s", "share (aim ≥ 0.75)"), names=0
    )
    first.add_row(
        f"{rate['keystream_gb_per_s']:.2f}",
        f"{rate['masking_gb_per_s']:.2f}",
        f"{rate['share_of_keystream']:.2f}",
    )
    second = table(
        "server memory while a sum of 10⁶ values is made, in float64 vectors",
        ("n", "peak, vectors of 8 MB"),
        names=0,
    )
    for row in figures["server_memory"]:
        second.add_row(str(row["n"]), f"{row['peak_vectors']:.2f}")
    return [first, second]
