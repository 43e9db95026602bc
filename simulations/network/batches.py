"""Nodes that carry many parties each, for simulations: the state of Flower's engine grows as the square of its nodes.

One message takes the envelopes of all parties of a node, and one reply their answers. A party is at the node whose number is
the rest of its index divided by the number of nodes. Deployed parties have nodes of their own.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from msgspec.msgpack import Decoder, encode

from secure_afl.errors import DataError
from secure_afl.protocol.session.server import Outbox
from secure_afl.protocol.transport.driver import Carry
from secure_afl.protocol.transport.endpoint import Endpoint
from secure_afl.protocol.transport.flower.client import answer_to
from secure_afl.protocol.transport.flower.records import (
    ACTION,
    MESSAGE_TYPE,
    answer_records,
    to_answer,
    to_envelope,
    to_records,
)
from secure_afl.protocol.transport.post import Channel, Envelope, who_is_there

_ENVELOPES = Decoder(list[tuple[int, bytes]])  # by party
_ANSWERS = Decoder(
    tuple[int, list[tuple[int, bytes | None]]]
)  # the node's number; by party, None for a refusal
_POLL = 0.2  # seconds


def carrying(opened: Callable[[int], Endpoint]) -> ClientApp:
    """A ClientApp that answers for many parties. opened: gives the party of an index."""
    app = ClientApp()

    @app.query(ACTION)  # type: ignore[untyped-decorator]  # typed where Flower is installed
    def answer(message: Message, context: Context) -> Message:
        return _answered(opened, message, context)  # Ray copies this function, and decoders cannot be copied

    return app


def _answered(opened: Callable[[int], Endpoint], message: Message, context: Context) -> Message:
    batch = to_envelope(message.content)
    answers: list[tuple[int, bytes | None]] = []
    for index, data in _ENVELOPES.decode(batch.data) if batch.data else ():
        asked = to_records(Envelope(batch.channel, batch.session, data))
        answers.append(
            (index, to_answer(answer_to(asked, context.node_id, partial(_closing, opened, index))))
        )
    number = int(context.node_config["partition-id"])
    return Message(answer_records(encode((number, answers))), reply_to=message)


def _closing(opened: Callable[[int], Endpoint], index: int, study: bytes) -> "closing[Endpoint]":
    return closing(opened(index))


class BatchPost:
    """Carries envelopes to the parties of so many nodes. deadline: seconds of a phase.

    Raises `DataError` if a node does not answer: in a simulation that is a fault of the engine.
    """

    def __init__(self, grid: Grid, nodes: int, deadline: float) -> None:
        self._grid = grid
        self._count = nodes
        self._deadline = deadline
        self._nodes: dict[int, int] = {}  # Flower's number, by ours

    def find(self) -> None:
        """Ask every node which one it is."""
        ends = time.monotonic() + self._deadline
        while len(online := list(self._grid.get_node_ids())) < self._count:
            if time.monotonic() > ends:
                raise DataError(f"expected {self._count} nodes, found {len(online)}")
            time.sleep(_POLL)
        self._nodes = {number: node for node, number, _ in self._said(dict.fromkeys(online, who_is_there()))}
        if sorted(self._nodes) != list(range(self._count)):
            raise DataError(f"expected nodes 0 to {self._count - 1}, got {sorted(self._nodes)}")

    def carrier(self, channel: Channel, session: bytes) -> Carry:
        """The carrier of one session's messages."""

        def carried(outbox: Outbox) -> Iterator[tuple[int, bytes]]:
            batches: dict[int, list[tuple[int, bytes]]] = {}
            for index, data in outbox.items():
                batches.setdefault(self._nodes[index % self._count], []).append((index, data))
            envelopes = {node: Envelope(channel, session, encode(batch)) for node, batch in batches.items()}
            for _, _, answers in self._said(envelopes):
                for index, answer in answers:
                    if answer is not None and index in outbox:
                        yield index, answer

        return carried

    def _said(
        self, envelopes: dict[int, Envelope]
    ) -> Iterator[tuple[int, int, list[tuple[int, bytes | None]]]]:
        """What nodes reply, as it comes: Flower's number of each, ours, and its parties' answers."""
        ends = time.monotonic() + self._deadline
        messages = [Message(to_records(one), node, MESSAGE_TYPE) for node, one in envelopes.items()]
        for message in messages:
            message.metadata.ttl = self._deadline + 60.0
        numbers = list(self._grid.push_messages(messages))
        waiting = dict(zip(numbers, envelopes, strict=True))
        while waiting:
            if time.monotonic() > ends:
                raise DataError(f"{len(waiting)} nodes gave no answer in {self._deadline:.0f} s")
            for reply in self._grid.pull_messages(list(waiting)):
                node = waiting.pop(reply.metadata.reply_to_message_id)
                data = None if reply.has_error() else to_answer(reply.content)
                if data is None:
                    raise DataError(f"node {node} of the simulation failed")
                yield node, *_ANSWERS.decode(data)
            if waiting:
                time.sleep(_POLL)
