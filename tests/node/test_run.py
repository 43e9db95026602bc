"""`secure-afl study run` ends as the run ended, whatever Flower's own command says."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner
from worlds.folders import Federation

pytest.importorskip("flwr", reason="FLOWER IS NOT INSTALLED: runs over it are not tested here")

from flwr.app import Message
from worlds.grids import LocalGrid, answering, node, without_an_engine

from secure_afl.errors import DataError
from secure_afl.node import flower_app, status
from secure_afl.node import run as runs
from secure_afl.node.site import FAILURE
from secure_afl.protocol.session.errors import RoundAbortedError
from secure_afl.protocol.transport.flower import records
from secure_afl.protocol.transport.post import Channel
from secure_afl.simulations.cli.main import app

BEGUN = "echo Successfully started run 7"
REPORT = '{"survivors": [["site-0", "site-1"]], "silences": ["site-2 gave no answer"]}'
FAILED = '{"reason": "expected 3 clients, got 2", "silences": ["site-2 gave no answer"]}'


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A server's folder; `flwr` is what `program` writes."""
    federation = Federation(tmp_path / "federation")
    (federation.server / "server.toml").write_text("")
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    return federation.server


def program(server: Path, run: str, listed: str = 'echo \'"status": "finished:completed"\'') -> None:
    at = Path(sys.executable).parent / "flwr"
    at.write_text(f'#!/bin/sh\ncd "{server}"\ncase $1 in run) {run};; list) {listed};; esac\n')
    at.chmod(0o755)


def test_a_run_gives_its_report(server: Path) -> None:
    program(server, f"{BEGUN}; echo '{REPORT}' > report.json")
    said: list[str] = []
    assert runs.run(server, 9.0, said.append) == json.loads(REPORT)
    assert said == ["Successfully started run 7\n"]


def test_a_run_that_failed_ends_with_the_reason_and_names(server: Path) -> None:
    (server / "model.npz").write_bytes(b"old")
    program(server, f"{BEGUN}; echo '{FAILED}' > failure.json")
    done = CliRunner().invoke(app, ["study", "run", str(server)])
    assert done.exit_code == 1
    words = "no model was learned: expected 3 clients, got 2 (no answer: site-2 gave no answer)"
    assert words in " ".join(done.output.split())
    assert not (server / "model.npz").exists()
    assert words.partition(": ")[2] in status.failure(server)


@pytest.mark.parametrize(
    ("run", "words"),
    [("echo no such address; exit 1", "no run was begun"), (BEGUN, "was stopped before")],
)
def test_a_run_that_left_nothing_is_no_success(server: Path, run: str, words: str) -> None:
    program(server, run)
    with pytest.raises(DataError, match=words):
        runs.run(server, 9.0, lambda line: None)


def test_a_log_that_ends_before_the_run_is_not_its_end(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on for two questions, and writes its report then."""
    monkeypatch.setattr(runs, "_EVERY", 0.0)
    last = "test -e asked && echo '{}' > report.json; touch asked; echo '\"status\": \"running\"'"
    program(server, BEGUN, last)
    assert runs.run(server, 9.0, lambda line: None) == {}


def test_an_earlier_report_is_not_taken_for_this_one(server: Path) -> None:
    (server / "report.json").write_text(REPORT)
    program(server, BEGUN)
    with pytest.raises(DataError, match="no model was learned"):
        runs.run(server, 9.0, lambda line: None)


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
