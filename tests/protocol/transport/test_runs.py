"""A run that this process submits and carries out, at a SuperLink of ours: nothing of what is submitted is run."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
from worlds.patience import HANG

pytest.importorskip("flwr", reason="FLOWER IS NOT INSTALLED: runs over it are not tested here")

from flwr.app import Message, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import ListRunsRequest, StartRunRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_utils import push_objects
from worlds.superlinks import APP, Here, superlink

from secure_afl.protocol.transport.flower import fleet as fleets
from secure_afl.protocol.transport.flower import run as runs
from secure_afl.protocol.transport.flower.fleet import Fleet, FleetError, RunOverError
from secure_afl.protocol.transport.flower.records import MESSAGE_TYPE, answer_records, to_answer
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
