"""Counts for Prometheus: each event once, from whatever process, in a file that is whole at any time."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds.folders import Federation
from worlds.patience import HANG

from secure_afl.crypto.errors import MissingExtraError
from secure_afl.protocol.session.errors import LocalProtocolError
from secure_afl.protocol.transport import logs, metrics
from secure_afl.protocol.transport.events import (
    Answered,
    Event,
    NotCounted,
    Phase,
    PhaseCost,
    Refused,
    RunFailed,
    RunOver,
    Silent,
    SumOpened,
)

pytest.importorskip(
    "prometheus_client", reason="PROMETHEUS-CLIENT IS NOT INSTALLED: nothing of the counts is tested here"
)

from prometheus_client.parser import text_string_to_metric_families

ANSWER = Answered("site-0", "masked", "00000000", 10, 100, 0.2)
REFUSAL = Refused("site-0", "masked", "00000000", 7, 0.2, "PolicyError", "a.py:1", "")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(metrics.VARIABLE, str(tmp_path / "counts.prom"))
    yield tmp_path / "counts.prom"
    assert len(list(tmp_path.glob("counts.prom*"))) <= 1  # nothing half-written stays


def samples(file: Path) -> dict[str, float]:
    """By name and labels, as Prometheus reads them."""
    return {
        f"{one.name} {json.dumps(one.labels, sort_keys=True)}": one.value
        for family in text_string_to_metric_families(file.read_text())
        for one in family.samples
    }


def total(found: Mapping[str, float], name: str, *labels: str) -> float:
    return sum(
        value
        for key, value in found.items()
        if key.split(" ")[0] == name and all(label in key for label in labels)
    )


def test_each_event_is_counted_where_it_belongs(file: Path) -> None:
    told: list[Event] = [ANSWER, ANSWER, REFUSAL, Phase("collecting"), Silent("node 1: no answer in time")]
    told += [PhaseCost("collecting", 12.0, 5, 6), SumOpened(0, 3, 4), SumOpened(1, 2, 4), RunOver(20.0)]
    told += [RunFailed(1.0, "RoundAbortedError", "b.py:2", ""), NotCounted("OSError")]
    for event in told:
        metrics.count(event)
    found = samples(file)
    assert total(found, "secure_afl_messages_total", '"answered"') == 2
    assert total(found, "secure_afl_messages_total", '"refused"') == 1
    assert total(found, "secure_afl_bytes_total", '"in"') == 27
    assert total(found, "secure_afl_bytes_total", '"out"') == 200
    assert total(found, "secure_afl_refusals_total", '"PolicyError"', '"site-0"') == 1
    assert total(found, "secure_afl_message_seconds_count") == 3
    assert total(found, "secure_afl_message_seconds_sum") == pytest.approx(0.6)
    assert total(found, "secure_afl_message_seconds_bucket", '"le": "0.1"') == 0
    assert total(found, "secure_afl_message_seconds_bucket", '"le": "0.3"') == 3
    assert total(found, "secure_afl_message_seconds_bucket", '"le": "+Inf"') == 3
    assert total(found, "secure_afl_phase_seconds_bucket", '"le": "10.0"') == 0
    assert total(found, "secure_afl_phase_seconds_bucket", '"le": "30.0"') == 1
    assert total(found, "secure_afl_silences_total") == 1
    assert total(found, "secure_afl_sums_opened_total") == 2
    assert total(found, "secure_afl_survivors") == 2
    assert total(found, "secure_afl_runs_total", '"learned"') == 1
    assert total(found, "secure_afl_runs_total", '"failed"') == 1
    families = {name.split(" ")[0] for name in found}
    assert {one for one in metrics._TABLE if not any(name.startswith(one) for name in families)} == set()


@given(st.text(st.characters(codec="utf-8"), max_size=20).filter(str.isprintable))  # as in a roster
def test_a_party_of_any_name_is_counted_again(name: str) -> None:
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setenv(metrics.VARIABLE, f"{folder}/counts.prom")
        for _ in range(2):
            metrics.count(Answered(name, "masked", "", 1, 1, 0.0))
        found = samples(Path(folder, "counts.prom"))
    (count,) = [value for key, value in found.items() if key.startswith("secure_afl_messages_total")]
    assert count == 2


_COUNTING = """
from secure_afl.protocol.transport import metrics
from secure_afl.protocol.transport.events import Answered
for _ in range(40):
    metrics.count(Answered("site", "masked", "", 1, 2, 0.5))
"""


def test_two_processes_lose_no_count(file: Path) -> None:
    """Flower gives a node's messages to processes, which may overlap."""
    processes = [subprocess.Popen([sys.executable, "-c", _COUNTING]) for _ in range(2)]
    assert [one.wait(HANG) for one in processes] == [0, 0]
    assert total(samples(file), "secure_afl_messages_total") == 80


def test_a_file_of_somebody_else_is_left_as_it_is(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    for content, fault in (
        ("# TYPE node_load1 gauge\nnode_load1 0.5\n", "expected counts of secure-afl only, got node_load1"),
        ("secure_afl_messages_total x\n", "could not convert"),
    ):
        file.write_text(content)
        with pytest.raises(ValueError, match=fault):
            metrics.count(ANSWER)
        assert file.read_text() == content
    with caplog.at_level(logging.INFO):
        logs.tell(ANSWER)
    assert caplog.messages == [logs.text(ANSWER), "not counted: ValueError"]


def test_what_counts_need_is_said_before_a_message_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(metrics.VARIABLE, "/srv/counts.txt")
    with pytest.raises(
        LocalProtocolError, match=r"expected SECURE_AFL_METRICS to name a file that ends in \.prom"
    ):
        logs.listen()
    monkeypatch.setenv(metrics.VARIABLE, "/srv/counts.prom")
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'secure-afl\[metrics\]'"):
        logs.listen()
    monkeypatch.delenv(metrics.VARIABLE)
    logs.listen()  # nobody asked for counts


def test_a_folder_that_is_gone_costs_the_count_and_not_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(metrics.VARIABLE, str(tmp_path / "gone" / "counts.prom"))
    with caplog.at_level(logging.INFO):
        logs.tell(ANSWER)
    assert caplog.messages[-1] == "not counted: FileNotFoundError"


def test_a_federations_counts_are_what_happened(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("flwr", reason="FLOWER IS NOT INSTALLED: what its nodes count is not tested here")
    from flwr.app import Message
    from worlds import grids

    from secure_afl.node import flower_app
    from secure_afl.protocol.transport.flower import records

    grids.without_an_engine(monkeypatch)
    federation = Federation(file.parent / "parties")
    table = federation.folders[0] / "rows.csv"
    table.write_text(table.read_text() + "13,987654,0,0,no\n")  # over its bound
    sizes: list[int] = []

    def reply(at: int, message: Message) -> Message:
        answer = grids.node(federation, at - 100, message)
        sizes.append(len(records.to_answer(answer.content) or b""))
        return answer

    grid = grids.LocalGrid(4, reply)
    with pytest.warns(match="without site-0"):
        report = flower_app.serve(grid, federation.server, 60.0, 0.01)
    found = samples(file)
    assert total(found, "secure_afl_messages_total", '"masked"') == 4 * 4 + 3 * 3
    assert total(found, "secure_afl_messages_total", '"whereabouts"') == 4
    assert total(found, "secure_afl_messages_total", '"end"') == 4
    # It refuses the sum, and then a model of sums that it was not in.
    assert total(found, "secure_afl_messages_total", '"refused"') == 2
    assert total(found, "secure_afl_refusals_total", '"DataError"', '"site-0"') == 1
    assert total(found, "secure_afl_refusals_total", '"PolicyError"', '"site-0"') == 1
    assert total(found, "secure_afl_silences_total") == len(report["silences"]) == 2
    assert total(found, "secure_afl_survivors") == 3
    assert total(found, "secure_afl_runs_total", '"learned"') == 1
    assert total(found, "secure_afl_bytes_total", '"out"') == sum(sizes)
