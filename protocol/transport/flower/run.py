"""A run at a SuperLink, submitted and carried out by this process. Flower itself starts three programs for one: a command
that submits the app, an executor that waits for it, and a process that unpacks it; here nothing of the app is run.

The names used here are internal to Flower: see `fleet.TRIED`.
"""

import hashlib
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import httpx
from flwr.app import Error, Message, Metadata
from flwr.app.message import make_message
from flwr.cli.build import build_fab_from_disk
from flwr.common.constant import SubStatus
from flwr.common.serde import fab_to_proto, metadata_from_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor
from flwr.supercore.retry import RetryInvoker, constant
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid

from secure_afl.protocol.transport.flower.fleet import FleetError
from secure_afl.protocol.transport.flower.records import UNREADABLE

_BEAT = 10.0  # seconds; Flower takes a run for dead after 30
_PATIENCE = 20.0  # seconds in which a SuperLink that is restarted has to come back
_AT_ONCE = 8  # answers that are fetched at the same time
_TASK = "flwr-serverapp"


@contextmanager
def running(address: str, app: Path) -> Iterator[HttpGrid]:
    """The grid of a new run at the private door `address` (HOST:PORT). The run is over with the block, and failed if that raises.

    app: the folder of the app whose digest nodes are told; stock nodes run it, ours do not. Raises `FleetError` if the SuperLink
    is away, also later, from each call of the grid.
    """
    data = build_fab_from_disk(app)
    fab = Fab(hashlib.sha256(data).hexdigest(), data, {})
    with _reached(address):
        token = _taken(address, fab)
    with _Grid(address, token) as grid:
        with _reached(address):
            begun = grid.client.PullTaskInput(PullTaskInputRequest())  # from here on the run is under way
        TaskIdentity.task_id, TaskIdentity.run_id = begun.task_id, begun.run.run_id
        TaskIdentity.node_id = begun.context.node_id
        grid.set_run(Run.create_empty(begun.run.run_id))
        over = threading.Event()
        beating = threading.Thread(target=_beat, args=(grid, over), daemon=True)
        beating.start()
        status, why = SubStatus.FAILED, "no model was learned"
        try:
            yield grid
            status, why = SubStatus.COMPLETED, ""
        finally:
            over.set()
            beating.join()
            with suppress(httpx.HTTPError):
                grid.client.PushTaskOutput(PushTaskOutputRequest(sub_status=status, details=why))


def _taken(address: str, fab: Fab) -> str:
    """Submit an app and take its task; returns the task's token."""
    with ControlHttpClient.from_server_address(address, True, None, []) as control:
        control.StartRun(StartRunRequest(fab=fab_to_proto(fab)))
    with RuntimeHttpClient.from_server_address(address, True, None, []) as runtime:
        while True:
            found = runtime.AcquireTask(AcquireTaskRequest(supported_task_types=[_TASK]))
            if not found.token:
                raise FleetError(
                    f"expected the run that was submitted at {address}, but another program took it: is an executor of Flower "
                    "at work there?"
                )
            if found.task.fab_hash == fab.hash_str:  # two runs of the same app may be exchanged
                token: str = found.token
                return token


class _Grid(HttpGrid):  # type: ignore[misc]  # no types where Flower is not followed
    """Flower's grid without its way to fail: it tries for ever, or sends its own process a signal."""

    def __init__(self, address: str, token: str) -> None:
        super().__init__(address, True, token=token)
        self._address = address
        self._begun: dict[str, tuple[Metadata, dict[str, bytes | None]]] = {}  # answers, in parts
        self.client = self._client = RuntimeHttpClient.from_server_address(
            address,
            True,
            None,
            interceptors=[RuntimeTokenHttpInterceptor(token=token)],
            retry_invoker=RetryInvoker(
                lambda: constant(0.5), httpx.TransportError, max_tries=None, max_time=_PATIENCE, jitter=None
            ),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def get_nodes(self) -> Iterable[Any]:
        with _reached(self._address):
            found: Iterable[Any] = super().get_nodes()
            return found

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        with _reached(self._address):
            found: Iterable[str] = super().push_messages(messages)
            return found

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The answers that are here in whole. Flower's own method waits for the rest of an answer, minutes if its node died
        while it sent it, and gives nobody's meanwhile. Which question is answered says the SuperLink, not the node.
        """
        wanted = set(message_ids)
        with _reached(self._address):
            # What is not asked for any more would stay in memory for the whole run.
            begun = {
                number: one for number, one in self._begun.items() if one[0].reply_to_message_id in wanted
            }
            fresh = wanted - {about.reply_to_message_id for about, _ in begun.values()}  # each is given once
            came = self.client.PullMessages(PullAppMessagesRequest(message_ids=fresh))
            for head, tree in zip(came.messages_list, came.message_object_trees, strict=True):
                about = metadata_from_proto(head.metadata)
                begun[about.message_id] = (
                    about,
                    dict.fromkeys(one.object_id for one in iterate_object_tree(tree)),
                )
            self._begun = begun
            with ThreadPoolExecutor(
                _AT_ONCE
            ) as pool:  # a request takes its time, and a message has several parts
                return [message for message in pool.map(self._whole, list(begun)) if message]

    def _whole(self, number: str) -> Message | None:
        """An answer; None while a part of it is missing, and for ever if the SuperLink gave that part up."""
        about, parts = self._begun[number]
        here = {"node": self.node, "run_id": self.run.run_id}
        for part in [one for one, content in parts.items() if content is None]:
            found = self.client.PullObject(PullObjectRequest(object_id=part, **here))
            if not found.object_found:
                del self._begun[number]
            if not found.object_available:
                return None
            parts[part] = found.object_content
        del self._begun[number]
        self.client.ConfirmMessageReceived(ConfirmMessageReceivedRequest(message_object_id=number, **here))
        try:
            message = inflate_object_from_contents(number, parts)
            if message.has_error():
                return make_message(metadata=about, error=message.error)
            return make_message(metadata=about, content=message.content)
        except Exception:  # noqa: BLE001  # whatever bytes a node sends, the others' answers count
            return make_message(metadata=about, error=Error(UNREADABLE, "its parts are no message"))


@contextmanager
def _reached(address: str) -> Iterator[None]:
    """Raises `FleetError`."""
    try:
        yield
    except httpx.TransportError as error:
        raise FleetError(
            f"nobody answers at {address} ({type(error).__name__}), the private door of the SuperLink: start `secure-afl "
            "serve`, and then the study again"
        ) from None
    except httpx.HTTPStatusError as error:
        raise FleetError(
            f"the SuperLink at {address} answered with status {error.response.status_code}: if it was started anew, it does "
            "not know this run any more; start the study again"
        ) from None


def _beat(grid: _Grid, over: threading.Event) -> None:
    while not over.wait(_BEAT):
        with suppress(httpx.HTTPError):  # who pulls hears of it
            grid.client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
