"""Flower's SecAgg+: its own client and server code, message by message, without an engine between them.

Clients run `secaggplus_mod`, the server the four stages of `SecAggPlusWorkflow`. What training takes, and what makes
Flower's parameters of an array, is not counted. Bytes are those of the records' contents, without framing.
"""

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
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

_STAGES = ("setup", "sharing keys", "collecting", "unmasking")
_COLLECTING = _STAGES.index("collecting")
_ROWS = 1000  # examples that every client says it has: equal weights
_SHARES, _THRESHOLD = 1.0, 0.5  # all clients are neighbours; more than half survive
_CLIP, _LEVELS = 8.0, 2**22  # Flower's defaults
_FIRST = 1000  # Flower's numbers of nodes are not 0


def session(cell: Cell) -> Session:
    """Costs of one sum. Raises `WrongSumError` unless Flower's mean is that of the survivors, within its quantization."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    # Outside an engine a message needs a sender.
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    grid = _Grid(cell)
    result: list[Vector] = []
    context, workflow, state = (
        _context(grid, result),
        SecAggPlusWorkflow(_SHARES, _THRESHOLD),
        WorkflowState(),
    )
    server: dict[str, Cost] = {}
    for number, stage in enumerate(
        (
            workflow.setup_stage,
            workflow.share_keys_stage,
            workflow.collect_masked_vectors_stage,
            workflow.unmask_stage,
        )
    ):
        started, inside = Spent.now(), grid.spent
        if not stage(grid, context, state):
            raise WrongSumError(f"Flower's {_STAGES[number]} stopped: {cell}")
        spent, away = started.since(), Spent(grid.spent.cpu - inside.cpu, grid.spent.wall - inside.wall)
        sizes = [sum(one[_STAGES[number]] for one in sent.values()) for sent in (grid.down, grid.arrived)]
        server[_STAGES[number]] = Cost(spent.cpu - away.cpu, spent.wall - away.wall, *sizes)
    survivors = [index for index in range(cell.clients) if index not in cell.silent]
    mean = sum(vector(cell, index) for index in survivors) / len(survivors)
    if len(result) != 1 or not abs(result[0] - mean).max() <= 2 * _CLIP / _LEVELS:
        raise WrongSumError(f"Flower's mean is not that of the survivors: {cell}")
    clients = {
        index: {
            stage: Cost(*grid.work[index][stage], grid.up[index][stage], grid.down[index][stage])
            for stage in _STAGES
        }
        for index in survivors
    }
    return summary(clients, {SERVER: server})


def _context(grid: "_Grid", result: list[Vector]) -> Any:
    """What the workflow asks of a server: the clients, and a strategy that keeps the mean."""
    nothing = ndarrays_to_parameters([np.zeros(1)])
    clients = [SimpleNamespace(node_id=_FIRST + index) for index in range(grid.cell.clients)]

    def configure(number: int, parameters: Any, manager: Any) -> list[Any]:
        return [(client, FitIns(nothing, {})) for client in clients]

    def aggregate(number: int, results: Any, failures: Any) -> tuple[None, dict[str, Any]]:
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


class _Grid:
    """Flower's `Grid.send_and_receive` by direct calls, with clocks and scales around every client."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.spent = Spent(0.0, 0.0)  # by all but the server
        self.work: dict[int, dict[str, Spent]] = defaultdict(dict)
        self.up: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self.down: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self.arrived: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self._stage = 0
        self._contexts = {
            index: Context(
                run_id=1, node_id=_FIRST + index, node_config={}, state=RecordDict(), run_config={}
            )
            for index in range(cell.clients)
        }

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> Sequence[Any]:
        """Every message to its client, all answers."""
        began, answers, name = Spent.now(), [], _STAGES[self._stage]
        for message in messages:
            index = message.metadata.dst_node_id - _FIRST
            message.metadata.__dict__["_message_id"] = f"{self._stage}/{index}"
            self.down[index][name] += _size(message.content)
            if self._stage >= _COLLECTING and index in self.cell.silent:
                continue
            answer = self._answer(index, name, message)
            answer.metadata.__dict__["_message_id"] = f"r{self._stage}/{index}"
            self.up[index][name] += _size(answer.content)
            self.arrived[index][name] += _size(answer.content)
            answers.append(answer)
        self._stage += 1
        spent = began.since()
        self.spent = Spent(self.spent.cpu + spent.cpu, self.spent.wall + spent.wall)
        return answers

    def _answer(self, index: int, stage: str, message: Any) -> Any:
        # Contents of its own for every client: the workflow shares them among messages.
        contents = {
            key: ConfigRecord(dict(record)) if isinstance(record, ConfigRecord) else record
            for key, record in message.content.items()
        }
        own = Message(RecordDict(contents), metadata=message.metadata)
        training = [Spent(0.0, 0.0)]
        train = _train(vector(self.cell, index), training) if stage == "collecting" else _no_train
        started = Spent.now()
        answer = secaggplus_mod(own, self._contexts[index], train)
        spent = started.since()
        self.work[index][stage] = Spent(spent.cpu - training[0].cpu, spent.wall - training[0].wall)
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
