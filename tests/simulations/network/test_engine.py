"""Many clients over Flower: the same apps on a grid of this process, then on the simulation engine."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from secure_afl.crypto.hpke import Suite
from secure_afl.errors import DataError
from secure_afl.simulations.benchmarks.masking import machine
from secure_afl.simulations.benchmarks.scale import Scale
from secure_afl.simulations.cli.main import app
from secure_afl.simulations.network import engine

pytest.importorskip("flwr", reason="FLOWER IS NOT INSTALLED: many clients over Flower are not tested here")

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from worlds.grids import LocalGrid, without_an_engine
from worlds.patience import until

from secure_afl.simulations.network import batches, many_nodes

SIZE = Scale(20, 30, 0.1, 0.05, Suite.X25519)
PHASES = ["finding", "advertising", "sharing", "confirming", "collecting", "unmasking", "end"]


@pytest.fixture(autouse=True)
def _identity(monkeypatch: pytest.MonkeyPatch) -> None:
    without_an_engine(monkeypatch)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("scale")
    many_nodes.lay_out(made, SIZE)
    return made


def _reply(at: int, message: Message, app: ClientApp = many_nodes.client_app) -> Message:
    config: Mapping[str, int] = {"partition-id": at - 100}
    reply = app(message, Context(run_id=1, node_id=at, node_config=config, state=RecordDict(), run_config={}))
    assert isinstance(reply, Message)
    return reply


def test_a_sum_over_clients_with_folders_of_their_own(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(many_nodes.VARIABLE, str(root))
    seen: list[str] = []
    figures = many_nodes.serve(LocalGrid(20, _reply), root, seen.append)
    assert seen == list(figures["phase_wall_seconds"]) == PHASES
    assert figures["survivors"] == 18
    assert figures["client_bytes_up"]["collecting"] > 0.9 * 30 * 4


def test_nodes_that_carry_many_clients_give_the_same_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`serve` compares the sum with the plain one, bit for bit."""
    many_nodes.lay_out(tmp_path, SIZE)
    monkeypatch.setenv(many_nodes.VARIABLE, str(tmp_path))
    grid = LocalGrid(3, lambda at, message: _reply(at, message, many_nodes.many_app))
    figures = many_nodes.serve(grid, tmp_path, lambda phase: None, 3)
    assert list(figures["phase_wall_seconds"]) == PHASES
    assert figures["survivors"] == 18
    assert len(grid.sent) == 3 * len(PHASES)  # one message a node and phase, and the question which one it is
    silent = LocalGrid(3, lambda at, message: None)
    with pytest.raises(DataError, match="3 nodes gave no answer in 0 s"):
        batches.BatchPost(silent, 3, 0.01).find()
    with pytest.raises(DataError, match="expected 4 nodes, found 3"):
        batches.BatchPost(silent, 4, 0.01).find()


@pytest.mark.parametrize(("changed", "wrong"), [("a value", 1), ("a survivor", 0)])
def test_another_sum_is_found_out(changed: str, wrong: int) -> None:
    stayed = tuple(index for index in range(20) if index not in SIZE.gone)
    encoding = SIZE.plan[0].spec(20).encoding(20)
    total = sum((encoding.encode(many_nodes.values(SIZE, index)).view(np.int64) for index in stayed), wrong)
    with pytest.raises(AssertionError, match="not that of"):
        many_nodes._check(SIZE, stayed if wrong else stayed[1:], np.asarray(total))


def test_memory_is_looked_at_while_a_phase_lasts() -> None:
    with many_nodes.Costs() as costs:
        costs.phase("small")
        costs.phase("large")
        vector = np.ones(20_000_000)
        until(lambda: costs.peaks["large"] > costs.peaks["small"] + 100e6)
        del vector
        assert costs.cpu_seconds() > 0
    assert costs.peaks["large"] > costs.peaks["small"] + 100e6


def test_a_missing_engine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    result = CliRunner().invoke(app, ["flower", "simulate", "--clients", "20"])
    assert result.exit_code == 1
    assert (
        "needs the package flwr, which is not installed: pip install 'secure-afl[simulation]'"
        in result.output
    )


def test_too_little_memory_for_the_comparison_is_known_before_the_engine_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else ten minutes of the engine's figures would be lost with it."""
    monkeypatch.setattr(Scale, "memory", 10**15)
    asked: list[bool] = []

    def stopped(*_: object, compared: bool) -> None:
        asked.append(compared)
        raise DataError("far enough")

    monkeypatch.setattr(engine, "measure", stopped)
    result = CliRunner().invoke(app, ["flower", "simulate", "--clients", "20"])
    assert (
        "the session without Flower is left out: expected about 1000000.0 GB of free memory" in result.output
    )
    assert asked == [False]


def test_figures_are_shown_without_the_comparison() -> None:
    """As they are, with a dash in its column and no word about a second sum."""
    phases = dict.fromkeys(PHASES, 1.0)
    names = (
        "phase_wall_seconds",
        "server_cpu_seconds",
        "client_bytes_up",
        "client_bytes_down",
        "process_memory",
    )
    counts = {
        "survivors": 19,
        "degree": 8,
        "threshold": 5,
        "wall_seconds": 9,
        "cpu_seconds": 8,
        "ray_memory": 1e9,
    }
    figures = {
        "clients": 20,
        "length": 30,
        "dropouts": 1,
        "suite": "hybrid",
        "nodes": 3,
        "actors": 2,
        "stores": {"kind": "a file", "in": "/tmp"},
        "store_bytes": 1e3,
        "machine": machine(),
        "engine": {**dict.fromkeys(names, phases), **counts},
        "in_process": None,
    }
    [table] = engine.tables(figures)
    assert list(table.columns[2].cells) == ["–"] * len(PHASES)
    assert engine.lines(figures)["sum"] == "that of the 19 clients that stayed, bit for bit"


@pytest.mark.long
@pytest.mark.parametrize("more", [[], ["--nodes", "3"]], ids=["a node each", "three nodes"])
def test_the_command_on_the_engine(tmp_path: Path, more: list[str]) -> None:
    pytest.importorskip(
        "ray", reason="RAY IS NOT INSTALLED: many clients on Flower's engine are not tested here"
    )
    file = tmp_path / "figures.json"
    words = ["flower", "simulate", "--clients", "20", "--length", "100", "--json", str(file), *more]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "that of the 19 clients that stayed, bit for bit" in result.output
    figures = json.loads(file.read_text())
    assert list(figures["engine"]["phase_wall_seconds"]) == PHASES
    for way in ("client_bytes_up", "client_bytes_down"):
        phases = figures["engine"][way]
        assert sum(phases.values()) == pytest.approx(figures["in_process"][way], rel=0.2)
    assert 50e6 < max(figures["engine"]["process_memory"].values()) < 4e9
