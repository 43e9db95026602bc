"""The cost of masking: the client's rate compared with raw keystream.

Everything runs in one process; rates are per CPU second. Keystream and masking are timed in turn, so that other load on
the machine affects both alike. What the whole protocol costs each party: `secure-afl overhead`.
"""

import os
import platform
import time
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

_MASKS, _VALUES = 50, 10**6


def measure(repeats: int) -> dict[str, Any]:
    """All figures of the benchmark; takes some seconds."""
    return {"machine": machine(), "masking": _masking_rate(5 * repeats)}


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


def shown(figures: dict[str, Any]) -> Table:
    """The figures for a terminal."""
    rate = figures["masking"]
    made = table(
        "client masking, one core", ("raw AES-256-CTR GB/s", "masking GB/s", "share (aim ≥ 0.75)"), names=0
    )
    made.add_row(*(f"{rate[name]:.2f}" for name in rate))
    return made
