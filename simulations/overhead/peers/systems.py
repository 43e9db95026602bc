"""Other libraries as neutral systems, for the verification kit: their own code, with `carry` as its network.

    secure-afl verify-aggregator secure_afl.simulations.overhead.peers.systems:TenSEAL

Each claims what its documents say of it; docs/verification/comparison.md has the verdicts.
"""

import logging
import struct
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

import numpy as np

from secure_afl.crypto.errors import optional

Carry = Callable[[str, str, str, bytes], list[bytes]]

_SLOTS = 4096
_LEVELS, _CLIP = 2**22, 8.0  # Flower's defaults


class TenSEAL:
    """CKKS as NVFlare uses it: all clients hold one secret key, the server adds ciphertexts."""

    claims: Mapping[str, Any] = {
        "name": "TenSEAL as NVFlare uses it",
        "dropouts": 2,
        "least": 1,
        "largest": 9001,
        "bound": 2.0**10,
        "fraction_bits": 8,
        "error": 2.0**-10,
        "once": False,
        "validated": False,
        "slow": True,
    }
    refusals = (ValueError,)

    def __init__(self, carry: Carry) -> None:
        with optional():
            import tenseal
        self._tenseal, self._carry = tenseal, carry
        self._context = tenseal.context(
            tenseal.SCHEME_TYPE.CKKS,
            poly_modulus_degree=2 * _SLOTS,
            coeff_mod_bit_sizes=[60, 40, 40],
            encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
            n_threads=1,
        )
        self._context.global_scale = 2.0**40
        self._public = self._context.serialize(save_secret_key=False)
        self._clients: list[str] = []

    def open(self, clients: list[str], lengths: list[int]) -> None:
        """Clients have their key already."""
        self._clients = clients

    def keys(self) -> dict[str, list[bytes]]:
        """The one secret key, at every client."""
        secret = self._context.serialize(save_secret_key=True)
        return {client: [secret] for client in self._clients}

    def sum(self, number: int, vectors: Mapping[str, Any]) -> tuple[Any, list[str]]:
        """Encrypt at each client, add at the server, decrypt at a client."""
        public = self._tenseal.context_from(self._public, n_threads=1)
        total: list[Any] = []
        survivors = []
        for client in self._clients:
            values = np.asarray(vectors[client])
            parts = [
                self._tenseal.ckks_vector(self._context, values[at : at + _SLOTS]).serialize()
                for at in range(0, len(values), _SLOTS)
            ]
            message = b"".join(struct.pack("<I", len(one)) + one for one in (self._public, *parts))
            if not self._carry("encrypted", client, "server", message):
                continue
            survivors.append(client)
            loaded = [self._tenseal.ckks_vector_from(public, one) for one in parts]
            for at, one in enumerate(loaded if total else ()):
                total[at].add_(one)
            total = total or loaded
        if not survivors:
            raise ValueError("no client is left")
        answer = [one.serialize() for one in total]
        for client in self._clients:
            self._carry("added", "server", client, b"".join(answer))
        opened = [self._tenseal.ckks_vector_from(self._context, one).decrypt() for one in answer]
        return np.concatenate(opened), survivors


class Flower:
    """SecAgg+: `secaggplus_mod` of the clients, `SecAggPlusWorkflow` of the server, all clients neighbours.

    Every client says that it has the same number of examples, so that the mean times the survivors is the sum.
    """

    claims: Mapping[str, Any] = {
        "name": "Flower SecAgg+",
        "clients": (3, 9),
        "dropouts": 2,
        "least": 3,
        "largest": 9001,
        "bound": _CLIP,
        "fraction_bits": 8,
        "error": 9 * 2 * _CLIP / _LEVELS,
        "once": False,
        "slow": True,
    }
    refusals = (ValueError,)

    def __init__(self, carry: Carry) -> None:
        self._carry = carry
        with optional():
            self._peer = import_module("secure_afl.simulations.overhead.peers.flower")
        logging.getLogger("flwr").setLevel(logging.CRITICAL)
        self._clients: list[str] = []

    def open(self, clients: list[str], lengths: list[int]) -> None:
        """Each sum is a round with keys of its own."""
        self._clients = clients

    def sum(self, number: int, vectors: Mapping[str, Any]) -> tuple[Any, list[str]]:
        """One round. Raises ValueError where the workflow stops."""

        def carried(stage: str, index: int, upward: bool, content: Any) -> bool:
            ends = (self._clients[index], "server") if upward else ("server", self._clients[index])
            return bool(self._carry(stage, *ends, _flat(content)))

        clients, result = self._clients, list[Any]()
        grid = self._peer.Grid(len(clients), lambda index: vectors.get(clients[index]), carried)
        for name, stage in self._peer.stages(grid, result):
            if not stage():
                raise ValueError(f"the workflow stopped in {name!r}")
        survivors = [clients[index] for index in sorted(grid.collected)]
        return result[0].astype(np.float64) * len(survivors), survivors


class Declearn:
    """declearn's masking: pair secrets by X3DH once a session, masks from PCG64, no self masks and no dropouts."""

    claims: Mapping[str, Any] = {
        "name": "declearn masking",
        "largest": 9001,
        "bound": 2.0**10,
        "fraction_bits": 8,
        "error": 2.0**-36,
        "once": False,
        "validated": False,
        "slow": True,
    }
    refusals = (ValueError, RuntimeError)

    def __init__(self, carry: Carry) -> None:
        self._carry = carry
        with optional():
            self._peer = import_module("secure_afl.simulations.overhead.peers.declearn")

    def open(self, clients: list[str], lengths: list[int]) -> None:
        """Set up. Raises ValueError if a message is lost: every party waits for all."""
        bound = self.claims["bound"]
        post = _Carried(self._carry, clients)
        self._clients, (_, self._results) = clients, self._peer.joined(clients, post, bits=64, clip=bound)

    def payload(self, phase: str, data: bytes) -> bytes:
        """The masked words of an upload."""
        if phase != "secagg_train_reply":
            return b""
        words = self._peer.SerializedMessage.from_bin_message(data).deserialize().updates.encrypted
        return np.array(words, np.uint64).tobytes()

    def sum(self, number: int, vectors: Mapping[str, Any]) -> tuple[Any, list[str]]:
        """One training reply of each client, added up. Raises ValueError if one is lost."""
        peer, replies = self._peer, {}
        for client in self._clients:
            data = peer.masked(vectors[client], self._results[client])
            for arrived in self._carry("secagg_train_reply", client, "server", data)[:1]:
                replies[client] = peer.SerializedMessage.from_bin_message(arrived).deserialize()
        if not replies:
            raise ValueError("no client is left")
        return peer.opened(replies, self._results["server"]), list(replies)


class _Carried:
    """declearn's messages on `carry`."""

    def __init__(self, carry: Carry, clients: Iterable[str]) -> None:
        self._carry, self.clients = carry, set(clients)
        self.to_client: dict[str, deque[bytes]] = defaultdict(deque)
        self.to_server: dict[str, deque[bytes]] = defaultdict(deque)

    def send(self, boxes: Mapping[str, deque[bytes]], client: str, message: Any, sender: str) -> None:
        """Raises ValueError if the message is lost."""
        receiver = client if sender == "server" else "server"
        arrived = self._carry(message.typekey, sender, receiver, message.serialize())
        if not arrived:
            raise ValueError(f"{client} is lost while keys are agreed")
        boxes[client].extend(arrived[:1])


def _flat(content: Any) -> bytes:
    """Names and values one after the other, without Flower's framing."""

    def flat(value: Any) -> bytes:
        if isinstance(value, bytes):
            return value
        if isinstance(value, list):
            return b"".join(map(flat, value))
        return str(value).encode()

    parts = [
        key.encode() + flat(value)
        for record in content.config_records.values()
        for key, value in sorted(record.items())
    ]
    parts += [array.data for record in content.array_records.values() for array in record.values()]
    return b"".join(parts)
