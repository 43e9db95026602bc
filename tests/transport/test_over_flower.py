"""The adapter with Flower's own messages and apps, without an engine; then on the engines, which takes longer."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from folders import Federation, in_process, model

from secure_afl.protocol.transport.post import Channel, Letter
from secure_afl.protocol.wire import WireError

pytest.importorskip(
    "flwr", reason="FLOWER IS NOT INSTALLED: nothing of the transport over Flower is tested here"
)

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from grids import LocalGrid, Reply, as_a_task

from secure_afl import flower_app
from secure_afl.protocol.transport.flower import records
from secure_afl.protocol.transport.flower.server import FlowerPost, to_party

__all__ = ["as_a_task"]  # a fixture for all tests here


def node(federation: Federation, number: int, message: Message) -> Message:
    """What the ClientApp on a party's node replies."""
    config = {"party": str(federation.folders[number])}
    context = Context(run_id=1, node_id=100 + number, node_config=config, state=RecordDict(), run_config={})
    reply = flower_app.client_app(message, context)
    assert isinstance(reply, Message)
    return reply


def answering(federation: Federation) -> Reply:
    return lambda at, message: node(federation, at - 100, message)


@pytest.mark.parametrize(
    "letter", [Letter(Channel.MASKED, bytes(32), b"abc"), Letter(Channel.END, bytes(32))]
)
def test_a_letter_comes_as_it_went(letter: Letter) -> None:
    assert records.to_letter(to_party(letter, 7).content) == letter


@pytest.mark.parametrize("answer", [b"", b"abc", None])
def test_an_answer_comes_as_it_went(answer: bytes | None) -> None:
    assert records.to_answer(records.answer_records(answer)) == answer


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"about": ConfigRecord({"channel": "masked", "session": "x"})}),
        RecordDict({"about": ConfigRecord({"channel": "other", "session": bytes(32)})}),
        RecordDict({"about": ConfigRecord({"channel": "masked", "session": bytes(32)})}),
        RecordDict(
            {"about": ConfigRecord({"channel": "masked", "session": bytes(31)}), "payload": ArrayRecord()}
        ),
        RecordDict(
            {
                "about": ConfigRecord({"channel": "masked", "session": bytes(32)}),
                "payload": ArrayRecord({"bytes": Array(np.zeros(3))}),
            }
        ),
    ],
)
def test_records_that_are_no_letter_are_refused(content: RecordDict) -> None:
    with pytest.raises(WireError, match="expected"):
        records.to_letter(content)


def test_a_study_over_the_apps_has_the_same_bits(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    report = flower_app.serve(LocalGrid(4, answering(federation)), federation.server, 5.0, 0.01)
    expected = in_process(federation)
    for folder in (federation.server, *federation.folders):
        assert np.array_equal(model(folder)[0], expected)
    assert report["silences"] == []
    phases = [one["phase"] for one in report["phases"]]
    assert phases[1:-1] == ["advertising", "sharing", "confirming", "collecting", "consenting", "unmasking"]


def test_no_text_of_an_error_leaves_a_client(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Flower itself would send the text of an exception, and with it, here, a number of the table."""
    federation = Federation(tmp_path)
    table = federation.folders[0] / "rows.csv"
    table.write_text(table.read_text() + "13,123456.75,0,0,no\n")  # over its bound
    told: list[Message] = []

    def reply(at: int, message: Message) -> Message:
        told.append(node(federation, at - 100, message))
        return told[-1]

    with pytest.warns(match="without site-0"):
        report = flower_app.serve(LocalGrid(4, reply), federation.server, 5.0, 0.01)
    assert report["silences"] == ["node 100: refused; its own log says why"]
    assert not any(one.has_error() for one in told)
    assert [list(one.content) for one in told if records.to_answer(one.content) is None] == [[]]
    assert "within its column's bound" in caplog.text


def test_a_client_without_its_files_says_no_more_than_that_it_refuses(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    (federation.folders[0] / "identity.key").unlink()
    question = to_party(Letter(Channel.WHEREABOUTS, bytes(32)), 100)
    assert list(node(federation, 0, question).content) == []


@pytest.mark.parametrize("kind", ["error", "silence", "garbage", "another's"])
def test_whatever_a_node_does_it_is_a_dropout_and_no_more(tmp_path: Path, kind: str) -> None:
    federation = Federation(tmp_path)

    def reply(at: int, message: Message) -> Message | None:
        honest = node(federation, at - 100, message)
        if at != 102 or records.to_letter(message.content).channel is not Channel.MASKED:
            return honest
        if kind == "another's":  # a reply to a message that was never sent
            honest.metadata.__dict__["_reply_to_message_id"] = "4711"
            return honest
        replies = {
            "error": Message(Error(code=2, reason="a text"), reply_to=message),
            "silence": None,
            "garbage": Message(RecordDict({"payload": ArrayRecord()}), reply_to=message),
        }
        return replies[kind]

    grid = LocalGrid(4, reply)
    with pytest.warns(match="without site-2"):
        report = flower_app.serve(grid, federation.server, 1.0, 0.01)
    assert np.array_equal(model(federation.server)[0], in_process(federation, [0, 1, 3]))
    assert len(report["silences"]) == 1
    assert "a text" not in report["silences"][0]


def test_a_node_that_claims_to_be_another_gets_none_of_its_messages(tmp_path: Path) -> None:
    federation = Federation(tmp_path)

    def reply(at: int, message: Message) -> Message:
        if at == 99:  # passes on what node 101 says of itself
            return Message(
                node(federation, 1, to_party(records.to_letter(message.content), 101)).content,
                reply_to=message,
            )
        return node(federation, at - 100, message)

    grid = LocalGrid(4, reply)
    grid.nodes.insert(0, 99)
    post = FlowerPost(grid, 5.0, 0.01)
    post.find(federation.parties)
    assert post.nodes == {0: 100, 1: 101, 2: 102, 3: 103}
    assert post.silences == [
        "node 99: expected an address signed by site-1 under this roster, got another signature"
    ]


def test_who_is_not_found_by_the_deadline_is_not_waited_for(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    started = time.monotonic()
    with pytest.warns(match="without site-3"):
        flower_app.serve(LocalGrid(3, answering(federation)), federation.server, 0.5, 0.01)
    assert time.monotonic() - started < 30


# ---- on Flower's engines ---------------------------------------------------------------------------

_SIMULATION = """
import sys
from pathlib import Path
from flwr.serverapp import ServerApp
from flwr.simulation import run_simulation
from secure_afl.flower_app import client_app, serve

server, nodes = Path(sys.argv[1]), int(sys.argv[2])
app = ServerApp()

@app.main()
def main(grid, context):
    serve(grid, server, 60.0, 0.1)

resources = {"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": 2}}
run_simulation(app, client_app, num_supernodes=nodes, backend_config=resources)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "holders"), [("mask", 0), ("bfv+mask", 1)])
def test_the_simulation_engine_gives_the_same_bits(tmp_path: Path, backend: str, holders: int) -> None:
    pytest.importorskip("ray", reason="RAY IS NOT INSTALLED: Flower's simulation engine is not tested here")
    federation = Federation(tmp_path, holders=holders, backend=backend)
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, "-c", _SIMULATION, str(federation.server), str(4 + holders)],
        env={**os.environ, **quiet, flower_app.VARIABLE: str(tmp_path)},
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert np.array_equal(model(federation.server)[0], in_process(federation))


@pytest.mark.slow
def test_a_network_with_a_node_that_is_killed_gives_the_survivors_bits(tmp_path: Path) -> None:
    """A SuperLink and four SuperNodes with TLS and node authentication; one is killed while vectors are collected."""
    from secure_afl.simulations.loopback import Loopback

    federation = Federation(tmp_path / "parties")
    killed: list[int] = []

    with Loopback(tmp_path / "network", federation.folders) as network:

        def watch(line: str) -> None:
            if "phase: collecting" in line and not killed:
                network.kill(3)
                killed.append(3)

        network.run(federation.server, deadline=30.0, limit=400.0, watch=watch)
    assert killed
    weights = [model(folder)[0] for folder in (federation.server, *federation.folders[:3])]
    assert all(np.array_equal(one, in_process(federation, [0, 1, 2])) for one in weights)
