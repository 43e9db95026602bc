"""TenSEAL as NVFlare uses it: CKKS, one secret key for all clients, the context in every message.

N = 8192, [60, 40, 40], scale 2⁴⁰. The server adds what it loads; every client decrypts the sum. Three clients encrypt,
since there is nothing that one client's messages owe to the others'; the server loads and adds them as often as there
are survivors.
"""

from typing import Any

import numpy as np
import tenseal

from secure_afl.protocol.transport.driver import Spent
from secure_afl.simulations.overhead.grid import Cell
from secure_afl.simulations.overhead.measure import SERVER, Cost, Session, WrongSumError, summary, vector

_SLOTS = 4096
_ENCRYPTING = 3
_TOLERANCE = 1e-6  # of CKKS at this scale, for sums of a few hundred values up to 1


def session(cell: Cell) -> Session:
    """Costs of one sum. Raises `WrongSumError`."""
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS,
        poly_modulus_degree=2 * _SLOTS,
        coeff_mod_bit_sizes=[60, 40, 40],
        encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
        n_threads=1,
    )
    context.global_scale = 2.0**40
    context.generate_relin_keys()  # as there
    public = tenseal.context_from(context.serialize(save_secret_key=False), n_threads=1)
    survivors = cell.clients - len(cell.silent)
    encrypting = min(_ENCRYPTING, survivors)
    clients: dict[int, dict[str, Cost]] = {}
    messages: list[tuple[list[bytes], int]] = []
    for index in range(encrypting):
        values = vector(cell, index)
        started = Spent.now()
        message = [
            tenseal.ckks_vector(context, values[at : at + _SLOTS]).serialize()
            for at in range(0, cell.values, _SLOTS)
        ]
        attached = context.serialize(save_secret_key=False)
        size = len(attached) + sum(map(len, message))
        clients[index] = {"encrypting": Cost(*started.since(), bytes_up=size)}
        messages.append((message, size))
    total: list[Any] = []
    started, received = Spent.now(), 0
    for number in range(survivors):
        message, size = messages[number % encrypting]
        received += size
        loaded = [tenseal.ckks_vector_from(public, one) for one in message]
        for at, one in enumerate(loaded if total else ()):
            total[at].add_(one)
        total = total or loaded
    answer = [one.serialize() for one in total]
    size = sum(map(len, answer))
    server = {"adding": Cost(*started.since(), bytes_up=survivors * size, bytes_down=received)}
    plain = sum(vector(cell, number % encrypting) for number in range(survivors))
    for phases in clients.values():
        started = Spent.now()
        opened = [tenseal.ckks_vector_from(context, one).decrypt() for one in answer]
        phases["decrypting"] = Cost(*started.since(), bytes_down=size)
        if not abs(np.concatenate(opened)[: cell.values] - plain).max() <= _TOLERANCE * survivors:
            raise WrongSumError(f"the decrypted sum is not that of the survivors: {cell}")
    return summary(clients, {SERVER: server})
