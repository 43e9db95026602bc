"""A network of Flower's in this process: its messages, none of its engines, and no waiting."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from secure_afl.node import flower_app
from secure_afl.protocol.transport.flower import server as flower_server
from worlds.folders import Laid

Reply = Callable[[int, Message], Message | None]


@dataclass
class Clock:
    """Stands still but for who sleeps, so a deadline passes when nothing is left to wait for, and no sooner."""

    now: float = 100.0
    slept: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)


def without_an_engine(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Let Flower make messages outside of its engines, where it does not know which task makes them, and give the
    server's side a clock of its own.
    """
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    clock = Clock()
    monkeypatch.setattr(flower_server, "time", clock)
    return clock


class LocalGrid(Grid):  # type: ignore[misc]  # no types where Flower is not followed
    """Nodes 100, 101, … of this process. reply: what a node sends back; None is silence."""

    def __init__(self, nodes: int, reply: Reply) -> None:
        self.nodes = [100 + number for number in range(nodes)]
        self.reply = reply
        self.sent: list[Message] = []
        self.waiting: dict[str, Message] = {}

    def set_run(self, run: object) -> None: ...

    @property
    def run(self) -> object:
        raise NotImplementedError

    def create_message(self, *arguments: object, **named: object) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return self.nodes

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        numbers = []
        for message in messages:
            number = str(len(self.sent))
            message.metadata.__dict__["_message_id"] = number
            self.sent.append(message)
            numbers.append(number)
            reply = self.reply(message.metadata.dst_node_id, message)
            if reply is not None:
                self.waiting[number] = reply
        return numbers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self.waiting.pop(number) for number in message_ids if number in self.waiting]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        raise NotImplementedError


def node(federation: Laid, number: int, message: Message) -> Message:
    """What the ClientApp on a party's node replies."""
    config = {"party": str(federation.folders[number])}
    context = Context(run_id=1, node_id=100 + number, node_config=config, state=RecordDict(), run_config={})
    reply = flower_app.client_app(message, context)
    assert isinstance(reply, Message)
    return reply


def answering(federation: Laid) -> Reply:
    return lambda at, message: node(federation, at - 100, message)
