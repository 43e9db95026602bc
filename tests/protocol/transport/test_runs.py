"""A run that this process submits and carries out, at a SuperLink of ours: nothing of what is submitted is run."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
from worlds.patience import HANG

pytest.importorskip("flwr", reason="FLOWER IS NOT INSTALLED: runs over it are not tested here")

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.common.serde import fab_to_proto, message_to_proto
from flwr.proto.control_pb2 import ListRunsRequest, StartRunRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import add_header_to_object_body
from flwr.supercore.inflatable.inflatable_utils import push_objects
from worlds.superlinks import APP, Here, superlink

from secure_afl.protocol.transport.flower import fleet as fleets
from secure_afl.protocol.transport.flower import run as runs
from secure_afl.protocol.transport.flower.fleet import Fleet, FleetError, RunOverError
from secure_afl.protocol.transport.flower.records import (
    MESSAGE_TYPE,
    UNREADABLE,
    answer_records,
    to_answer,
)
from secure_afl.protocol.transport.flower.run import running

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:GitWildMatchPattern")]


def statuses(address: str) -> list[str]:
    """How the SuperLink's runs stand, the latest first."""
    with ControlHttpClient.from_server_address(address, True, None, []) as control:
        found = control.ListRuns(ListRunsRequest()).run_dict.values()
    return [
        f"{one.status.status}:{one.status.sub_status}"
        for one in sorted(found, key=lambda one: one.pending_at, reverse=True)
    ]


def online(here: Here, number: int) -> Fleet:
    """A node's connection."""
    here.register(number)
    fleet = here.fleet(number)
    while True:
        try:
            fleet.activate(60.0)
            return fleet
        except FleetError:
            continue


def test_a_message_goes_out_and_its_answer_comes_back_while_the_run_lasts(tmp_path: Path) -> None:
    with superlink(tmp_path) as here:
        fleet = online(here, 0)
        with running(here.private, APP) as grid:
            assert list(grid.get_node_ids()) == [fleet.node]
            (number,) = grid.push_messages([Message(RecordDict(), fleet.node, MESSAGE_TYPE)])
            delivery = fleet.pull(HANG)
            assert delivery is not None
            assert statuses(here.private) == ["running:"]
            fleet.reply(delivery, RecordDict())
            (answer,) = grid.pull_messages([number])
            assert answer.metadata.reply_to_message_id == number
        assert statuses(here.private) == ["finished:completed"]
        with pytest.raises(RunOverError):
            fleet.reply(delivery, RecordDict())


def test_an_answer_that_is_here_in_part_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower's own grid waits for the rest, if the node died until the SuperLink gives the answer up, after three minutes."""
    begun: list[Any] = []
    with superlink(tmp_path) as here:
        nodes = [online(here, 0), online(here, 1)]
        with running(here.private, APP) as grid:
            messages = [Message(RecordDict(), one.node, MESSAGE_TYPE) for one in nodes]
            slow, quick = grid.push_messages(messages)
            deliveries = [one.pull(HANG) for one in nodes]
            assert deliveries[0] is not None
            assert deliveries[1] is not None
            with monkeypatch.context() as patch:
                patch.setattr(fleets, "push_objects", lambda *given, **more: begun.append((given, more)))
                nodes[0].reply(deliveries[0], answer_records(b"one"))
            nodes[1].reply(deliveries[1], answer_records(b"other"))
            (answer,) = grid.pull_messages([slow, quick])
            assert answer.metadata.reply_to_message_id == quick
            assert grid.pull_messages([slow]) == []
            ((given, more),) = begun
            push_objects(*given, **more)
            (answer,) = grid.pull_messages([slow])
            assert to_answer(answer.content) == b"one"


def two_asked(here: Here, grid: Any) -> tuple[list[Fleet], list[str], list[Any]]:
    """Two nodes, the numbers of their questions, and what they were given."""
    nodes = [online(here, 0), online(here, 1)]
    numbers = list(grid.push_messages([Message(RecordDict(), one.node, MESSAGE_TYPE) for one in nodes]))
    return nodes, numbers, [one.pull(HANG) for one in nodes]


class Garbled(ConfigRecord):  # type: ignore[misc]  # no types where Flower is not followed
    """Bytes that are no record behind the head of one, which is all that a SuperLink reads."""

    def deflate(self) -> bytes:
        body: bytes = add_header_to_object_body(object_body=b"\xff\xff\xff", obj=ConfigRecord())
        return body

    @property
    def object_id(self) -> str:
        return hashlib.sha256(self.deflate()).hexdigest()


def test_an_answer_of_other_bytes_than_a_message_is_its_nodes_fault_alone(tmp_path: Path) -> None:
    """Flower's own grid raises protobuf's error, and the others' answers are lost with it."""
    with superlink(tmp_path) as here, running(here.private, APP) as grid:
        nodes, numbers, given = two_asked(here, grid)
        nodes[0].reply(given[0], RecordDict({"answer": Garbled()}))
        nodes[1].reply(given[1], answer_records(b"honest"))
        came = {one.metadata.reply_to_message_id: one for one in grid.pull_messages(numbers)}
        assert came[numbers[0]].error.code == UNREADABLE
        assert to_answer(came[numbers[1]].content) == b"honest"


def test_a_node_answers_no_question_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's own grid believes the object that a node made, whatever question the SuperLink was told of."""
    with superlink(tmp_path) as here, running(here.private, APP) as grid:
        nodes, (own, other), given = two_asked(here, grid)

        def forged(*arguments: Any, **more: Any) -> Message:
            made = Message(*arguments, **more)
            made.metadata.__dict__["_reply_to_message_id"] = other
            return made

        def told(message: Message) -> Any:
            head = message_to_proto(message)
            head.metadata.reply_to_message_id = own
            return head

        with monkeypatch.context() as patch:
            patch.setattr(fleets, "Message", forged)
            patch.setattr(fleets, "message_to_proto", told)
            nodes[0].reply(given[0], answer_records(b"forged"))
        (answer,) = grid.pull_messages([own, other])
        assert answer.metadata.reply_to_message_id == own


def test_of_an_answer_that_nobody_waits_for_any_more_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the weak design a node that holds the last part back takes the server's memory, phase by phase."""
    with superlink(tmp_path) as here, running(here.private, APP) as grid:
        nodes, (own, _), given = two_asked(here, grid)
        with monkeypatch.context() as patch:
            patch.setattr(fleets, "push_objects", lambda *given, **more: None)
            nodes[0].reply(given[0], answer_records(b"one"))
        assert grid.pull_messages([own]) == []
        assert grid._begun
        assert grid.pull_messages([]) == []
        assert not grid._begun


def test_a_run_that_raises_has_failed_and_another_app_is_not_run_in_its_place(tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(APP, other)
    (other / "secure_afl_app" / "more.py").write_text("raise SystemExit\n")
    data = build_fab_from_disk(other)
    with superlink(tmp_path) as here:
        with ControlHttpClient.from_server_address(here.private, True, None, []) as control:
            control.StartRun(
                StartRunRequest(fab=fab_to_proto(Fab(hashlib.sha256(data).hexdigest(), data, {})))
            )
        with pytest.raises(ZeroDivisionError), running(here.private, APP):
            print(1 // 0)
        assert statuses(here.private)[0] == "finished:failed"
    with pytest.raises(FleetError, match="nobody answers"), running(here.private, APP):
        pass


def test_a_superlink_that_goes_away_is_waited_for_and_then_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_PATIENCE", 0.1)
    with superlink(tmp_path) as here, running(here.private, APP) as grid:
        here.stop()
        with pytest.raises(FleetError, match="start `secure-afl serve`"):
            grid.get_node_ids()


def test_a_superlink_that_forgot_the_run_is_said_to_have(tmp_path: Path) -> None:
    with superlink(tmp_path) as here, running(here.private, APP):
        other = runs._Grid(here.private, "of a run before")
        with other, pytest.raises(FleetError, match="does not know this run any more"):
            list(other.get_node_ids())
