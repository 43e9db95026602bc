"""Flower's SecAgg+: its own client and server code, message by message, without an engine between them.

Clients run `secaggplus_mod`, the server the four stages of `SecAggPlusWorkflow`. What training takes, and what makes
Flower's parameters of an array, is not counted. Bytes are those of the records' contents, without framing.
"""

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from secure_afl.protocol.transport.driver import Spent
from secure_afl.simulations.overhead.grid import Cell
from secure_afl.simulations.overhead.measure import (
    SERVER,
    Cost,
    Session,
    Vector,
    WrongSumError,
    summary,
    vector,
)

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # read at the first import

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import Code, FitIns, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.compat.common import recorddict_compat as compat
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import WorkflowState
from flwr.supercore.task_identity import TaskIdentity

STAGES = ("setup", "sharing keys", "collecting", "unmasking")
_COLLECTING = "collecting"
_ROWS = 1000  # examples that every client says it has: equal weights
_SHARES, _THRESHOLD = 1.0, 0.5  # all clients are neighbours; more than half survive
_CLIP, _LEVELS = 8.0, 2**22  # Flower's defaults
_FIRST = 1000  # Flower's numbers of nodes are not 0


def session(cell: Cell) -> Session:
    """Costs of one sum. Raises `WrongSumError` unless Flower's mean is that of the survivors, within its quantization."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    up, down, arrived = (defaultdict[tuple[int, str], int](int) for _ in range(3))

    def carried(stage: str, index: int, upward: bool, content: Any) -> bool:
        (up if upward else down)[index, stage] += _size(content)
        arrives = upward or STAGES.index(stage) < STAGES.index(_COLLECTING) or index not in cell.silent
        if upward:
            arrived[index, stage] += _size(content)
        return arrives

    grid = Grid(cell.clients, lambda index: vector(cell, index), carried)
    result: list[Vector] = []
    server: dict[str, Cost] = {}
    for name, stage in stages(grid, result):
        started, inside = Spent.now(), grid.spent
        if not stage():
            raise WrongSumError(f"Flower's {name} stopped: {cell}")
        spent, away = started.since(), Spent(grid.spent.cpu - inside.cpu, grid.spent.wall - inside.wall)
        sizes = [sum(sent[index, name] for index in range(cell.clients)) for sent in (down, arrived)]
        server[name] = Cost(spent.cpu - away.cpu, spent.wall - away.wall, *sizes)
    survivors = [index for index in range(cell.clients) if index not in cell.silent]
    mean = sum(vector(cell, index) for index in survivors) / len(survivors)
    if len(result) != 1 or not abs(result[0] - mean).max() <= 2 * _CLIP / _LEVELS:
        raise WrongSumError(f"Flower's mean is not that of the survivors: {cell}")
    clients = {
        index: {
            stage: Cost(*grid.work[index, stage], up[index, stage], down[index, stage]) for stage in STAGES
        }
        for index in survivors
    }
    return summary(clients, {SERVER: server})


def stages(grid: "Grid", result: list[Vector]) -> Iterator[tuple[str, Callable[[], bool]]]:
    """The server's stages with their names, to be run one after the other; `result` gets the mean. A stage says whether the
    next one may follow.
    """
    # Outside an engine a message needs a sender.
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    workflow, state = SecAggPlusWorkflow(_SHARES, _THRESHOLD), WorkflowState()
    context = _context(grid.clients, result)
    for name, stage in zip(
        STAGES,
        (
            workflow.setup_stage,
            workflow.share_keys_stage,
            workflow.collect_masked_vectors_stage,
            workflow.unmask_stage,
        ),
        strict=True,
    ):
        grid.stage = name
        yield name, partial(stage, grid, context, state)


def _context(number: int, result: list[Vector]) -> Any:
    """What the workflow asks of a server: the clients, and a strategy that keeps the mean."""
    nothing = ndarrays_to_parameters([np.zeros(1)])
    clients = [SimpleNamespace(node_id=_FIRST + index) for index in range(number)]

    def configure(round: int, parameters: Any, manager: Any) -> list[Any]:
        return [(client, FitIns(nothing, {})) for client in clients]

    def aggregate(round: int, results: Any, failures: Any) -> tuple[None, dict[str, Any]]:
        result.append(parameters_to_ndarrays(results[0][1].parameters)[0])
        return None, {}

    return SimpleNamespace(
        state=RecordDict(
            {
                MAIN_CONFIGS_RECORD: ConfigRecord({"current_round": 1}),
                MAIN_PARAMS_RECORD: compat.parameters_to_arrayrecord(nothing, True),
            }
        ),
        strategy=SimpleNamespace(configure_fit=configure, aggregate_fit=aggregate),
        client_manager=SimpleNamespace(num_available=lambda: len(clients)),
        history=None,
    )


class Grid:
    """Flower's `Grid.send_and_receive` by direct calls, with clocks around every client.

    value: the vector of a client, None for one that gives none. carried: called with the stage, a client, whether the message
    comes from it, and the content; says whether the message arrives. work: of each client in each stage; spent: by all but
    the server; collected: whose masked vectors arrived.
    """

    def __init__(
        self,
        clients: int,
        value: Callable[[int], Vector | None],
        carried: Callable[[str, int, bool, Any], bool],
    ) -> None:
        self.clients = clients
        self.stage = ""
        self.spent = Spent(0.0, 0.0)
        self.work: dict[tuple[int, str], Spent] = {}
        self.collected: list[int] = []
        self._value, self._carried = value, carried
        self._contexts = [
            Context(run_id=1, node_id=_FIRST + index, node_config={}, state=RecordDict(), run_config={})
            for index in range(clients)
        ]

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> Sequence[Any]:
        """Every message to its client, all answers that arrive."""
        began, answers = Spent.now(), []
        for message in messages:
            index = message.metadata.dst_node_id - _FIRST
            message.metadata.__dict__["_message_id"] = f"{self.stage}/{index}"
            if not self._carried(self.stage, index, False, message.content):
                continue
            answer = self._answer(index, message)
            if answer is None:
                continue
            answer.metadata.__dict__["_message_id"] = f"r{self.stage}/{index}"
            if self._carried(self.stage, index, True, answer.content):
                answers.append(answer)
                self.collected += [index] if self.stage == _COLLECTING else []
        spent = began.since()
        self.spent = Spent(self.spent.cpu + spent.cpu, self.spent.wall + spent.wall)
        return answers

    def _answer(self, index: int, message: Any) -> Any:
        # Contents of its own for every client: the workflow shares them among messages.
        contents = {
            key: ConfigRecord(dict(record)) if isinstance(record, ConfigRecord) else record
            for key, record in message.content.items()
        }
        own = Message(RecordDict(contents), metadata=message.metadata)
        training = [Spent(0.0, 0.0)]
        train: Callable[[Any, Any], Any] = _no_train
        if self.stage == _COLLECTING:
            values = self._value(index)
            if values is None:
                return None
            train = _train(values, training)
        started = Spent.now()
        answer = secaggplus_mod(own, self._contexts[index], train)
        spent = started.since()
        self.work[index, self.stage] = Spent(spent.cpu - training[0].cpu, spent.wall - training[0].wall)
        return answer


def _train(values: Vector, took: list[Spent]) -> Callable[[Any, Any], Any]:
    def call(message: Any, context: Any) -> Any:
        started = Spent.now()
        result = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([values]), _ROWS, {})
        answer = Message(compat.fitres_to_recorddict(result, keep_input=False), reply_to=message)
        took[0] = started.since()
        return answer

    return call


def _no_train(message: Any, context: Any) -> Any:
    raise AssertionError("only one stage trains")


def _size(content: Any) -> int:
    """Bytes of names and values; a number is eight."""

    def size(value: Any) -> int:
        if isinstance(value, bytes | str):
            return len(value)
        return sum(map(size, value)) if isinstance(value, list) else 8

    total = sum(
        len(key) + size(value) for record in content.config_records.values() for key, value in record.items()
    )
    return total + sum(
        len(array.data) for record in content.array_records.values() for array in record.values()
    )
