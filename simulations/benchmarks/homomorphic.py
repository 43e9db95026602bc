"""The cost of encryption: our parameter sets compared with TenSEAL as NVFlare uses it, in one run.

One thread, CPU seconds for 10⁶ values. *NVFlare*: CKKS of N = 8192, [60, 40, 40], scale 2⁴⁰, TenSEAL's own
messages with the context attached, encrypted with the secret key that all clients share there; and the same with a
public key, which is necessary if clients must not read each other's data. Our times include all that a session does to
the vector: fixed-point encoding, packing, tags, checks, flooding. What a whole session costs: `secure-afl overhead`.
"""

import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import tenseal
from rich.table import Table

from secure_afl.cli.terminal import table
from secure_afl.crypto import ring
from secure_afl.crypto.lattice import bfv, ckks, joint_key, seal
from secure_afl.crypto.lattice.parameter_sets import LATTICES
from secure_afl.simulations.benchmarks.masking import machine

_VALUES, _CLIENTS, _BOUND = 2**18, 20, 1e6
_JOINT_HOLDERS = 3
NVFLARE, NVFLARE_PUBLIC = "NVFlare", "NVFlare, public key"
Vector = npt.NDArray[np.float64]


def steps(repeats: int) -> int:
    """How often `measure` calls `watch`."""
    return repeats * (2 + len(LATTICES))


def measure(repeats: int, watch: Callable[[str], None]) -> dict[str, Any]:
    """All figures of the benchmark; takes about two minutes on one core for 3 repeats."""
    vectors = np.random.default_rng(0).uniform(-_BOUND, _BOUND, (2, _VALUES))
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in (NVFLARE, NVFLARE_PUBLIC, *LATTICES)}
    for _ in range(repeats):
        for name, found in runs.items():  # in turn, so that other load on the machine affects all alike
            watch(name)
            found.append(_ours(name, vectors) if name in LATTICES else _nvflare(name, vectors))
    sets = []
    for name, found in runs.items():
        sets.append({"set": name} | {key: median(one[key] for one in found) for key in found[0]})
    parameters = {"values": _VALUES, "clients": _CLIENTS, "bound": _BOUND, "repeats": repeats}
    versions = {"machine": machine("tenseal"), "parameters": parameters}
    return {"benchmark": "homomorphic", **versions, "sets": sets}


class _Clock:
    """CPU seconds between two readings, for 10⁶ values."""

    def __init__(self) -> None:
        self._at = time.process_time()

    def __call__(self) -> float:
        before, self._at = self._at, time.process_time()
        return (self._at - before) * 1e6 / _VALUES


def _nvflare(name: str, vectors: Vector) -> dict[str, float]:
    kinds = tenseal.ENCRYPTION_TYPE
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS,
        poly_modulus_degree=8192,
        coeff_mod_bit_sizes=[60, 40, 40],
        encryption_type=kinds.SYMMETRIC if name == NVFLARE else kinds.ASYMMETRIC,
        n_threads=1,
    )
    context.global_scale = 2.0**40
    context.generate_relin_keys()  # as there
    public = tenseal.context_from(context.serialize(save_secret_key=False), n_threads=1)
    total: list[Any] = []
    client, server, size = [], [], 0
    for vector in vectors:
        clock = _Clock()
        message = [
            tenseal.ckks_vector(context, vector[at : at + 4096]).serialize() for at in range(0, _VALUES, 4096)
        ]
        attached = context.serialize(save_secret_key=False)
        client.append(clock())
        size = len(attached) + sum(map(len, message))
        loaded = [tenseal.ckks_vector_from(public, one) for one in message]
        for at, one in enumerate(loaded):
            if total:
                total[at].add_(one)
        total = total or loaded
        server.append(clock())
    clock = _Clock()
    opened = [tenseal.ckks_vector_from(context, one.serialize()).decrypt() for one in total]
    holder = clock()
    error = np.abs(np.concatenate(opened)[:_VALUES] - vectors.sum(axis=0)).max()
    return _row(size, client, server, holder, float(error))


def _ours(name: str, vectors: Vector) -> dict[str, float]:
    lattice = LATTICES[name]
    joint = name.endswith("joint")
    if lattice.plain_modulus:
        (code,) = bfv.choose([bfv.Demand(_BOUND, 10)], _CLIENTS, [lattice])[1]
        error = code.entry_error(len(vectors))
    else:
        # The sets as they are, whatever error a plan might ask for.
        code = ckks.fit(ckks.Demand(_VALUES, _BOUND), _CLIENTS, lattice)
        error = ckks.entry_error(lattice, code, len(vectors), lattice.count(_VALUES))
    if joint:
        a = joint_key.common(lattice, bytes(32))
        shares = [joint_key.KeyShare(lattice, a) for _ in range(_JOINT_HOLDERS)]
        public = joint_key.public_key(lattice, a, [share.public for share in shares])
    else:
        secret = seal.SecretKey(lattice)
        public = secret.public_key
    seal.encrypt(lattice, public, vectors[0][: lattice.slots].astype(np.int64))  # loads tables and key
    total, seed, tags = lattice.zeros(_VALUES), os.urandom(32), lattice.no_tags
    client, server, size = [], [], 0
    for vector in vectors:
        clock = _Clock()
        if lattice.plain_modulus:
            words = ring.modular(code.encode(vector), lattice.plain_modulus)
            ciphertexts = bfv.encrypt(lattice, public, words)
        else:
            ciphertexts = ckks.encrypt(lattice, public, vector, code)
        payload = lattice.pack(ciphertexts)
        tags = lattice.add_tags(tags, lattice.tags(ciphertexts, seed))
        client.append(clock())
        size = len(payload)
        lattice.add(total, lattice.unpack(payload, _VALUES))
        server.append(clock())
    packed = lattice.pack(total)
    clock = _Clock()
    opened = lattice.unpack(packed, _VALUES)
    assert lattice.tags(opened, seed) == tags
    if joint:
        partials = [shares[0].partial(opened, _JOINT_HOLDERS, _CLIENTS)]
        holder = clock()  # of one of them
        partials += [share.partial(opened, _JOINT_HOLDERS, _CLIENTS) for share in shares[1:]]
        slots, budget = seal.decode(lattice, joint_key.opened(lattice, opened, partials), _VALUES)
    else:
        if not lattice.plain_modulus:
            opened = ckks.flood(opened, lattice, code, len(vectors), lattice.count(_VALUES))
        slots, budget = secret.decrypt(opened, _VALUES)
    if lattice.plain_modulus:
        words = bfv.checked(slots, budget, lattice)
        units = ring.centred(words, lattice.plain_modulus).view(np.uint64)
        values = code.decode_sum(units, len(vectors))
    else:
        values = ckks.released(slots, lattice, code, len(vectors), lattice.count(_VALUES))
    if not joint:
        holder = clock()
    off = float(np.abs(values - vectors.sum(axis=0)).max())
    assert off <= error
    return _row(size, client, server, holder, off) | {"guaranteed_error": error}


def _row(
    size: int, client: list[float], server: list[float], holder: float, error: float
) -> dict[str, float]:
    return {
        "bytes_per_value": size / _VALUES,
        "client_s": min(client),
        "server_s": min(server),
        "holder_s": holder,
        "largest_error": error,
    }


def shown(figures: dict[str, Any]) -> Table:
    """The figures for a terminal."""
    sets = figures["sets"]
    theirs = sets[0]
    made = table(
        "encrypted sums, CPU seconds for 10⁶ values, one thread; the server's for each upload\n"
        "(in brackets: NVFlare over ours, measured in the same run)",
        ("set", "B/value", "client", "server", "key holder", "error"),
    )
    for row in sets:
        cells = [f"{row['bytes_per_value']:.1f}"]
        for key in ("client_s", "server_s", "holder_s"):
            ratio = f" ({theirs[key] / row[key]:.1f}×)" if row["set"] in LATTICES else ""
            cells.append(f"{row[key]:.3f}{ratio}")
        made.add_row(row["set"], *cells, f"{row['largest_error']:.0e}")
    return made
