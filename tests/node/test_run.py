"""`secure-afl study run` is the run's ServerApp: it ends as the run ended, with the reason and the parties' names."""

import gc
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner
from worlds.folders import Federation, in_process, model

pytest.importorskip("flwr", reason="FLOWER IS NOT INSTALLED: runs over it are not tested here")

from flwr.app import Message
from worlds.grids import LocalGrid, Reply, answering, node, without_an_engine

from secure_afl.node import flower_app, status
from secure_afl.node import run as runs
from secure_afl.node.site import FAILURE
from secure_afl.protocol.session.errors import RoundAbortedError
from secure_afl.protocol.transport.flower import records
from secure_afl.protocol.transport.flower import run as flower_run
from secure_afl.protocol.transport.flower.fleet import FleetError
from secure_afl.protocol.transport.post import Channel
from secure_afl.simulations.cli.main import app

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern")  # of how Flower reads an app's folder
Study = Callable[[Reply], tuple[int, str]]


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    federation = Federation(tmp_path / "federation")
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    (federation.server / "server.toml").write_text(f'private = "127.0.0.1:{port}"\n')
    return federation


@pytest.fixture
def study(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> Study:
    """`secure-afl study run`, with nodes in this process that reply so; its exit code and output."""
    without_an_engine(monkeypatch)

    def done(reply: Reply) -> tuple[int, str]:
        @contextmanager
        def running(address: str, app: Path) -> Iterator[LocalGrid]:
            yield LocalGrid(4, reply)

        monkeypatch.setattr(flower_run, "running", running)
        found = CliRunner().invoke(app, ["study", "run", str(federation.server), "--deadline", "1"])
        return found.exit_code, " ".join(found.output.split())

    return done


def unless(federation: Federation, wrong: Callable[[int], None], channel: Channel = Channel.MASKED) -> Reply:
    """Honest nodes, but for what `wrong` does when one is sent a message of a channel."""

    def reply(at: int, message: Message) -> Message:
        if records.to_envelope(message.content).channel is channel:
            wrong(at)
        return node(federation, at - 100, message)

    return reply


def test_a_run_gives_its_report(federation: Federation, study: Study) -> None:
    code, said = study(answering(federation))
    assert code == 0
    assert f"sum 1 is over {', '.join(federation.names)}" in said
    assert np.array_equal(model(federation.server)[0], in_process(federation))


@pytest.mark.slow
def test_no_collection_walks_what_is_loaded_during_a_run(federation: Federation, study: Study) -> None:
    """A full one takes 0.15 s, and fell into the phase in which shares are confirmed."""
    frozen: list[int] = []
    code, _ = study(unless(federation, lambda at: frozen.append(gc.get_freeze_count())))
    assert code == 0
    assert min(frozen) > 10_000  # objects
    assert gc.get_freeze_count() == 0


def test_a_run_that_failed_ends_with_the_reason_and_names(federation: Federation, study: Study) -> None:
    (federation.server / "model.npz").write_bytes(b"old")

    def reply(at: int, message: Message) -> Message | None:
        silent = at > 101 and records.to_envelope(message.content).channel is Channel.MASKED
        return None if silent else node(federation, at - 100, message)

    code, said = study(reply)
    assert code == 1
    reason = status.failure(federation.server)
    assert f"no model was learned: {reason}" in said
    assert all(name in reason for name in ("site-2", "site-3"))
    assert not (federation.server / "model.npz").exists()


def test_without_a_superlink_an_earlier_report_is_not_taken_for_this_ones(federation: Federation) -> None:
    (federation.server / "report.json").write_text("{}")
    with pytest.raises(FleetError, match="start `secure-afl serve`"):
        runs.run(federation.server, 1.0)
    assert not (federation.server / "report.json").exists()


@pytest.mark.parametrize("channel", [Channel.WHEREABOUTS, Channel.MASKED])
def test_a_superlink_that_goes_away_is_named_as_the_reason(
    federation: Federation, study: Study, channel: Channel
) -> None:
    def gone(at: int) -> None:
        raise FleetError("nobody answers")

    code, said = study(unless(federation, gone, channel))
    assert code == 1
    assert "no model was learned: nobody answers" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_run_that_is_stopped_tells_the_parties_and_ends(
    federation: Federation, study: Study, number: signal.Signals
) -> None:
    def stop(at: int) -> None:
        os.kill(os.getpid(), number)

    # As in a terminal: a background job of a shell ignores SIGINT.
    usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, usual)
    try:
        code, said = study(unless(federation, stop))
    finally:
        signal.signal(number, before)
    assert code == 1
    assert "the run was stopped" in said
    assert json.loads((federation.server / "progress.json").read_text())["over"] == "was stopped"


def test_a_run_under_nohup_outlives_its_terminal_and_writes_for_its_owner_alone(
    federation: Federation, study: Study
) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        code, _ = study(unless(federation, lambda at: os.kill(os.getpid(), signal.SIGHUP)))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert code == 0
    assert (federation.server / "report.json").stat().st_mode & 0o077 == 0


def test_the_server_writes_down_why_no_model_came_and_who_was_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    without_an_engine(monkeypatch)
    federation = Federation(tmp_path)

    def reply(at: int, message: Message) -> Message | None:
        lost = at > 101 and records.to_envelope(message.content).channel is Channel.MASKED
        return None if lost else node(federation, at - 100, message)

    with pytest.raises(RoundAbortedError) as error:
        flower_app.serve(LocalGrid(4, reply), federation.server, 1.0, 0.01)
    said = status.failure(federation.server)
    assert str(error.value) in said
    assert all(name in said for name in ("site-2", "site-3"))
    terms, study = federation.terms()
    assert (
        f"bound to: {study.digest.hex()[:16]} clients={terms.parties.clients.digest.hex()[:16]}"
        in caplog.text
    )
    flower_app.serve(LocalGrid(4, answering(federation)), federation.server, 5.0, 0.01)
    assert not (federation.server / FAILURE).exists()
