"""What nodes and the server tell their operators: a closed table, one line an event, no secret and no value of a row."""

import base64
import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds.folders import Federation

from secure_afl.protocol.audit.chain import read
from secure_afl.protocol.audit.check import verify
from secure_afl.protocol.audit.events import Withheld
from secure_afl.protocol.audit.story import stories
from secure_afl.protocol.durable.store import Store
from secure_afl.protocol.files import keys as key_file
from secure_afl.protocol.masking.memory import MEMORY
from secure_afl.protocol.session.errors import FileError, LocalProtocolError, RoundAbortedError
from secure_afl.protocol.session.ledger import session_name
from secure_afl.protocol.transport import logs
from secure_afl.protocol.transport.events import (
    Answered,
    Event,
    Refused,
    RunOver,
    Silent,
    described,
)
from secure_afl.protocol.transport.post import Channel

WORDS = st.text(max_size=30)
EVENTS: dict[str, type[Event]] = {str(one.__struct_config__.tag): one for one in Event.__subclasses__()}
some_event: st.SearchStrategy[Event] = st.one_of(
    st.builds(Answered, WORDS, WORDS, WORDS, st.integers(), st.integers(), st.floats(0, 1e9)),
    st.builds(Refused, WORDS, WORDS, WORDS, st.integers(), st.floats(0, 1e9), WORDS, WORDS, WORDS),
    st.builds(Silent, WORDS),
)


@contextmanager
def heard(form: str) -> Iterator[io.StringIO]:
    """What goes to stderr in this form."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(logs.VARIABLE, form)
        patch.setattr("sys.stderr", io.StringIO())
        logs.listen()
        (handler,) = [one for one in logs._LOG.handlers if isinstance(one.formatter, logs.Lines)]
        assert isinstance(handler, logging.StreamHandler)
        try:
            yield handler.stream
        finally:
            logs._LOG.removeHandler(handler)


@given(some_event)
def test_an_event_is_one_line_whatever_its_fields_hold(event: Event) -> None:
    for form in ("json", "text"):
        with heard(form) as output:
            logs.tell(event)
        (line,) = output.getvalue().splitlines()
        assert form == "json" or line.isprintable()


@given(some_event)
def test_a_json_line_has_the_events_fields_and_no_others(event: Event) -> None:
    with heard("json") as output:
        logs.tell(event)
    line = json.loads(output.getvalue())
    assert line.keys() == {"time", "level", "event", *event.__struct_fields__}
    assert {name: line[name] for name in event.__struct_fields__} == {
        name: round(one, 3) if isinstance(one, float) else one
        for name, one in msgspec.structs.asdict(event).items()
    }


def test_the_table_in_the_documents_is_that_of_the_program() -> None:
    text = (Path(__file__).parents[3] / "docs" / "deployment.md").read_text()
    documented = {
        cells[1].strip(" `"): [field.strip(" `") for field in cells[3].split(",")]
        for cells in (line.split("|") for line in text.splitlines())
        if len(cells) == 6 and cells[1].strip(" `") in EVENTS
    }
    assert documented == {name: list(kind.__struct_fields__) for name, kind in EVENTS.items()}


def test_every_event_is_in_the_table() -> None:
    assert set(EVENTS.values()) == set(Event.__subclasses__())


def test_a_form_that_is_none_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(logs.VARIABLE, "yaml")
    with pytest.raises(LocalProtocolError, match="expected SECURE_AFL_LOG as json or text, got 'yaml'"):
        logs.listen()


def test_of_errors_that_are_not_the_protocols_only_the_place_is_told() -> None:
    with pytest.raises(ValueError, match="patient") as caught:
        float("a patient's name")
    refusal, at, reason = described(caught.value)
    assert (refusal, at.split(":")[0], reason) == ("ValueError", "test_told.py", "")


def test_events_go_to_stderr_once_however_often_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with heard("text") as output:
        monkeypatch.setattr("sys.stderr", output)
        logs.listen()
        logs.listen()
        logs.tell(RunOver(0.5))
        assert output.getvalue().count("run over: 0.5") == 1


# ---- one session, in all that a party writes ---------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ill", "kind"), [("bound", "DataError"), ("not a number", "FileError"), ("no table", "FileError")]
)
def test_a_refused_file_is_withheld_in_the_log_and_a_session_has_one_number_everywhere(
    tmp_path: Path, ill: str, kind: str
) -> None:
    """The number is the same in node logs, ledgers, audit logs and pages."""
    pytest.importorskip("flwr", reason="FLOWER IS NOT INSTALLED: what its nodes tell is not tested here")
    from worlds import grids

    from secure_afl.node import flower_app

    federation = Federation(tmp_path)
    harm(federation, ill)
    with pytest.MonkeyPatch.context() as patch, heard("json") as output, warnings.catch_warnings():
        grids.without_an_engine(patch)
        warnings.simplefilter("ignore")  # of the dropout
        flower_app.serve(grids.LocalGrid(4, grids.answering(federation)), federation.server, 60.0, 0.01)
    lines = [json.loads(line) for line in output.getvalue().splitlines()]
    told_of = {line["session"] for line in lines if line.get("channel") == "masked"}

    _, identity = key_file.read_key(federation.folders[1] / "identity.key", bytes)
    store = Store(federation.folders[1] / "state.db", identity)
    known = store.ledger.used("rows")
    store.close()
    assert known
    files = {str(path): path.read_bytes() for path in tmp_path.glob("*/audit.jsonl")}
    report = verify(files, federation.parties)
    assert not report.findings
    (story,) = stories(report)
    assert {session_name(known[0]), story.name} == told_of == {story.name}
    assert any(f"session {story.name}:" in str(one) for one in report.notes)  # no log of the server's

    mine = read(files[str(federation.folders[0] / "audit.jsonl")])
    withheld = [one.event for one in mine.entries if isinstance(one.event, Withheld)]
    assert [(one.round, one.kind) for one in withheld] == [(0, kind)]
    assert f"It was asked for a vector of round 0 and gave none ({kind})." in story.accounts[0].besides


# ---- secrets -------------------------------------------------------------------------------------

ILLS = (
    "bound",
    "not a number",
    "no table",
    "no key",
    "another study",
    "garbage",
    "half an envelope",
    "spent",
)


def harm(federation: Federation, ill: str) -> None:
    """What is wrong at site 0."""
    folder = federation.folders[0]
    table, study = folder / "rows.csv", folder / "study.toml"
    match ill:
        case "bound":
            table.write_text(table.read_text() + "13,987654.3217,0,0,no\n")
        case "not a number":
            table.write_text(table.read_text() + "13,Mrs Margaret Miller,0,0,no\n")
        case "no table":
            table.unlink()
        case "no key":
            (folder / "identity.key").write_bytes((folder / "identity.key").read_bytes()[:-60])
        case "another study":
            study.write_text(study.read_text().replace("max_rows = 100", "max_rows = 99"))


def forms(secret: bytes) -> list[str]:
    """As programs write bytes."""
    return [
        secret.hex(),
        base64.b64encode(secret).decode().rstrip("="),
        repr(secret)[2:-1],
        str(list(secret))[1:-1],
        str(int.from_bytes(secret, "big")),
    ]


def kept(federation: Federation, number: int) -> Iterator[bytes]:
    """The identity and all seeds and shares of a client that are in its file now."""
    folder = federation.folders[number]
    try:
        _, identity = key_file.read_key(folder / "identity.key", bytes)
    except FileError:  # damaged
        return
    yield identity._key.private_bytes_raw()
    store = Store(folder / "state.db", identity)
    for (name,) in store.run("SELECT name FROM kept"):
        found = store.kept(str(name))
        assert found is not None
        memory = MEMORY.decode(found.memory)
        for keys in (*memory.rounds.values(), memory.current):
            if keys is not None:
                yield from (keys.mask_seed, keys.self_seed, keys.own_share, *keys.pair_secrets.values())
                yield from (share for pair in keys.shares.values() for share in pair)
    store.close()


@pytest.mark.slow
@pytest.mark.parametrize("ill", ILLS)
def test_no_secret_and_no_value_is_told_by_a_federation_with_refusals(tmp_path: Path, ill: str) -> None:
    pytest.importorskip("flwr", reason="FLOWER IS NOT INSTALLED: what its nodes tell is not tested here")
    from flwr.app import Message
    from worlds import grids

    from secure_afl.node import flower_app
    from secure_afl.protocol.transport.flower import records

    secrets: set[bytes] = set()

    def reply(at: int, message: Message) -> Any:
        envelope = records.to_envelope(message.content)
        if at == 100 and envelope.channel is Channel.MASKED and ill in ("garbage", "half an envelope"):
            data = b"\x00" * 40 if ill == "garbage" else envelope.data[: len(envelope.data) // 2]
            message.content = records.to_records(type(envelope)(envelope.channel, envelope.session, data))
        answer = grids.node(federation, at - 100, message)
        secrets.update(kept(federation, at - 100))
        return answer

    federation = Federation(tmp_path)
    harm(federation, ill)
    with pytest.MonkeyPatch.context() as patch, heard("json") as output:
        grids.without_an_engine(patch)
        patch.setattr("sys.stderr", output)
        as_text = logging.StreamHandler(output)
        as_text.setFormatter(logging.Formatter())
        logs._LOG.addHandler(as_text)
        for run in range(2 if ill == "spent" else 1):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of dropouts
                try:
                    flower_app.serve(grids.LocalGrid(4, reply), federation.server, 60.0, 0.01)
                except RoundAbortedError:
                    assert run  # nothing is left for the second
        logs._LOG.removeHandler(as_text)
    text = output.getvalue()
    assert '"event":"refused"' in text
    assert "refused: " in text
    assert len(secrets) > 20
    assert not [one for one in secrets if one and any(form in text for form in forms(one))]
    rows = ",".join(path.read_text().replace("\n", ",") for path in tmp_path.glob("*/rows.csv"))
    values = {cell[:9] for cell in rows.split(",") if len(cell) >= 9}
    assert len(values) > 100
    assert not [value for value in values if value in text]
