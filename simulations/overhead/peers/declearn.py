"""declearn's masking-based secure aggregation: its own setup (X3DH by way of the server), encryption and messages.

Its coroutines run in turn in this process, one step after the other, so that each party's time is measured separately. It
does not tolerate dropouts.
"""

from collections import defaultdict, deque
from collections.abc import Coroutine, Generator, Iterable, Mapping, Sequence
from types import coroutine
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from declearn.aggregator import ModelUpdates
from declearn.messaging import Message, SerializedMessage, TrainReply
from declearn.model.sklearn import NumpyVector
from declearn.secagg.masking import MaskingSecaggConfigClient, MaskingSecaggConfigServer
from declearn.secagg.messaging import SecaggTrainReply, aggregate_secagg_messages
from declearn.secagg.utils import IdentityKeys

from secure_afl.protocol.transport.driver import Spent
from secure_afl.simulations.overhead.grid import Cell
from secure_afl.simulations.overhead.measure import SERVER, Cost, Session, WrongSumError, summary, vector

_BITS, _CLIP = 64, 2.0
_SETUP, _COLLECTING = "setup", "collecting"


def session(cell: Cell) -> Session:
    """Costs of one sum of all clients. Raises `WrongSumError`."""
    post = _Post(cell.names())
    spent, results = joined(cell.names(), post, _BITS, _CLIP)
    setup = {name: Cost(*spent[name], post.up[name], post.down[name]) for name in spent}

    clients: dict[int, dict[str, Cost]] = {}
    total: Any = None
    work, received = Spent(0.0, 0.0), 0
    for index, name in enumerate(cell.names()):
        values = vector(cell, index)
        started = Spent.now()
        data = masked(values, results[name])
        clients[index] = {_SETUP: setup[name], _COLLECTING: Cost(*started.since(), bytes_up=len(data))}
        received += len(data)
        started = Spent.now()
        message = SerializedMessage.from_bin_message(data).deserialize()
        total = total.aggregate(message, results[SERVER]) if total is not None else message
        work = _added(work, started.since())
    started = Spent.now()
    opened = total.decrypt_wrapped_message(results[SERVER])
    work = _added(work, started.since())
    plain = sum(vector(cell, index) for index in range(cell.clients))
    step = 2 * _CLIP * 2.0 ** (cell.clients.bit_length() - _BITS)
    tolerance = cell.clients * max(step, 2.0**-45)
    if not abs(np.asarray(opened.updates.updates.coefs["sum"]) - plain).max() <= tolerance:
        raise WrongSumError(f"declearn's sum is not that of the clients: {cell}")
    server = {_SETUP: setup[SERVER], _COLLECTING: Cost(*work, bytes_down=received)}
    return summary(clients, {SERVER: server})


def joined(
    names: Sequence[str], post: Any, bits: int, clip: float
) -> tuple[dict[str, Spent], dict[str, Any]]:
    """Set up: each party's cost, and its encrypter or (`SERVER`) decrypter."""
    keys = [Ed25519PrivateKey.generate() for _ in names]
    trusted = [one.public_key() for one in keys]
    configured = MaskingSecaggConfigServer(bitsize=bits, clipval=clip)
    parties: dict[str, Coroutine[Any, Any, Any]] = {SERVER: configured.setup_decrypter(_AtServer(post))}
    for name, key in zip(names, keys, strict=True):
        config = MaskingSecaggConfigClient(IdentityKeys(key, trusted))
        parties[name] = _join(config, _AtClient(post, name))
    return _run(parties)


def masked(values: Any, encrypter: Any) -> bytes:
    """A client's training reply with this vector."""
    update = ModelUpdates(NumpyVector({"sum": values}), 1.0)
    reply = TrainReply(n_epoch=1, n_steps=1, t_spent=0.0, updates=update, aux_var={})
    return bytes(SecaggTrainReply.from_cleartext_message(reply, encrypter).serialize())


def opened(replies: Mapping[str, Any], decrypter: Any) -> Any:
    """The sum of these replies. Raises ValueError if they are fewer than the clients."""
    return aggregate_secagg_messages(replies, decrypter).updates.updates.coefs["sum"]


def _added(one: Spent, other: Spent) -> Spent:
    return Spent(one.cpu + other.cpu, one.wall + other.wall)


async def _join(config: Any, network: "_AtClient") -> Any:
    return await config.setup_encrypter(network, await network.recv_message())


def _run(parties: Mapping[str, Coroutine[Any, Any, Any]]) -> tuple[dict[str, Spent], dict[str, Any]]:
    """Run every coroutine step by step until all have returned; their costs and results."""
    spent = dict.fromkeys(parties, Spent(0.0, 0.0))
    results: dict[str, Any] = {}
    try:
        while len(results) < len(parties):
            for name, one in parties.items():
                if name in results:
                    continue
                started = Spent.now()
                try:
                    one.send(None)
                except StopIteration as stop:
                    results[name] = stop.value
                spent[name] = _added(spent[name], started.since())
    finally:
        for one in parties.values():
            one.close()
    return spent, results


@coroutine
def _pause() -> Generator[None]:
    yield


class _Post:
    """Messages on their way, and their bytes."""

    def __init__(self, clients: Iterable[str]) -> None:
        self.clients = set(clients)
        self.to_client: dict[str, deque[bytes]] = defaultdict(deque)
        self.to_server: dict[str, deque[bytes]] = defaultdict(deque)
        self.up: dict[str, int] = defaultdict(int)
        self.down: dict[str, int] = defaultdict(int)

    def send(self, boxes: Mapping[str, deque[bytes]], client: str, message: Message, sender: str) -> None:
        data = message.serialize()
        self.up[sender] += len(data)
        self.down[client if sender == SERVER else SERVER] += len(data)
        boxes[client].append(data)


class _AtServer:
    """What the setup asks of declearn's `NetworkServer`."""

    def __init__(self, post: _Post) -> None:
        self._post = post

    @property
    def client_names(self) -> set[str]:
        return self._post.clients

    async def broadcast_message(self, message: Message, clients: set[str] | None = None) -> None:
        await self.send_messages(dict.fromkeys(clients or self.client_names, message))

    async def send_messages(self, messages: Mapping[str, Message]) -> None:
        for client, message in messages.items():
            self._post.send(self._post.to_client, client, message, SERVER)

    async def wait_for_messages(self, clients: set[str] | None = None) -> dict[str, Any]:
        waiting = clients or self.client_names
        while not all(self._post.to_server[client] for client in waiting):
            await _pause()
        return {
            client: SerializedMessage.from_bin_message(self._post.to_server[client].popleft())
            for client in waiting
        }


class _AtClient:
    """What the setup asks of declearn's `NetworkClient`."""

    def __init__(self, post: _Post, name: str) -> None:
        self._post = post
        self.name = name

    async def send_message(self, message: Message) -> None:
        self._post.send(self._post.to_server, self.name, message, self.name)

    async def recv_message(self) -> Any:
        while not self._post.to_client[self.name]:
            await _pause()
        return SerializedMessage.from_bin_message(self._post.to_client[self.name].popleft())
