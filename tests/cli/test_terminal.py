"""Where text goes: to programs on stdout, to narrow and old consoles, and to devices that take no more."""

import json
import logging
import os
import subprocess
import sys
from contextlib import closing
from io import StringIO
from pathlib import Path

import click
import pytest
from rich.console import Console
from typer.testing import CliRunner

from secure_afl.cli import terminal
from secure_afl.cli.terminal import table
from secure_afl.crypto.identity import Identity
from secure_afl.node import study
from secure_afl.protocol.audit.events import Aborted, AnyEvent, Approved, Foreign, Refused, Revoked, Role
from secure_afl.protocol.audit.log import AuditLog
from secure_afl.protocol.session.backend import Backend
from secure_afl.protocol.session.errors import FileError
from secure_afl.protocol.session.profile import Profile
from secure_afl.protocol.transport.logs import Lines
from secure_afl.simulations.cli import main
from secure_afl.simulations.cli import run as run_cli
from secure_afl.simulations.study.settings import Settings
from secure_afl.tables import codebook

ROWS = [("VA Long Beach", "150", "0.7643"), ("Cleveland", "228", "0.9211")]


def shown(width: int) -> str:
    text = StringIO()
    made = table("accuracy", ("client", "rows to learn from", "everybody's model"))
    for row in ROWS:
        made.add_row(*row)
    Console(file=text, width=width).print(made)
    return text.getvalue()


HOSTILE = "a\x1b[2J\x1b[Hall holds\x1b[8m\r\n[bold]b\u202ec\x9b1A"


def is_plain(text: str) -> bool:
    """Whether it moves no cursor and begins no line that is not its own."""
    return all(one.isprintable() or one == "\n" for one in text) and "\n[bold]b" not in text


def test_no_text_steers_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """The weak design prints other people's text unchanged."""
    lines = table("t", ("a", "b"))
    lines.add_row(HOSTILE, terminal.escape(HOSTILE))
    terminal.console.print(lines)
    terminal.console.print(HOSTILE.replace("\n", ""))
    with pytest.raises(click.exceptions.Exit), terminal.refusals_shown():
        raise FileError(HOSTILE)
    said = capsys.readouterr()
    assert is_plain(said.out + said.err.replace("\n  ", ""))
    assert said.err.count("\n") == 2
    assert terminal.escape("Łódź [/] 5 µg") == r"Łódź \[/] 5 µg"


@pytest.mark.parametrize(
    "event",
    [
        Refused(bytes(32), bytes(32), 1, HOSTILE, HOSTILE),
        Foreign(HOSTILE, HOSTILE),
        Approved(bytes(32), (bytes(32),), HOSTILE, HOSTILE),
        Revoked(bytes(32), HOSTILE, HOSTILE),
        Aborted(bytes(32), HOSTILE),
    ],
    ids=lambda event: type(event).__name__,
)
@pytest.mark.parametrize("party", ["p", HOSTILE])
def test_a_partys_log_does_not_write_on_the_terminal_of_who_verifies_it(
    tmp_path: Path, event: AnyEvent, party: str
) -> None:
    with closing(AuditLog(tmp_path / "log.jsonl", Identity.generate(), party, Role.CLIENT)) as log:
        log.append(event)
    done = CliRunner().invoke(main.app, ["audit", "verify", str(tmp_path / "log.jsonl")])
    assert done.exit_code in (0, 1)
    assert is_plain(done.output)


def test_a_step_in_brackets_is_shown_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weak design reads it as markup, and a name like this one ends the command."""
    text = StringIO()
    monkeypatch.setattr(terminal, "errors", Console(file=text, force_terminal=True, width=80))
    with terminal.progress(1) as watch:
        watch("test_paths[/health]")
    assert "test_paths[/health]" in text.getvalue()


@pytest.mark.parametrize("part", ['purpose = "{}"\n', 'features = ["a{}"]\n'])
def test_a_study_with_control_characters_is_refused(part: str) -> None:
    for hostile in ("\\u001b[2J", "\\n", "\\u202e", "\\u200b"):
        with pytest.raises(FileError, match="expected printable characters in one line"):
            study.parse(part.format(hostile))
    with pytest.raises(FileError, match=r"in columns"):
        codebook.parse('[columns]\n"age\\u001b" = { kind = "number", range = [0, 1] }\n')


def test_a_nodes_log_has_a_line_for_each_event() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "%s", (HOSTILE,), None)
    record.event = None
    assert is_plain(shown_line := Lines(json=False).format(record))
    assert "\n" not in shown_line


@pytest.mark.parametrize("width", [24, 40, 60, 80, 120])
def test_no_word_or_number_of_a_table_is_cut(width: int) -> None:
    text = shown(width)
    assert "…" not in text
    for row in ROWS:
        for cell in row:
            assert all(word in text for word in cell.split())
    assert max(map(len, text.splitlines())) <= width
    assert ("┃" in text) == (width >= 40)


def test_figures_on_stdout_and_all_else_on_stderr() -> None:
    done = CliRunner().invoke(main.app, ["run", "--json", "-"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["data"] == "heart"
    assert "accuracy, all test rows" in done.stderr
    assert not terminal.console.stderr


def said(*arguments: str, out: Path | None = None, encoding: str = "utf-8") -> tuple[int, str, str]:
    """Of a process of its own: exit code, stdout and stderr."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "100"}
    program = [sys.executable, "-c", "from secure_afl.simulations.cli.main import app; app()", *arguments]
    if out:
        with out.open("w") as file:
            done = subprocess.run(program, stdout=file, stderr=subprocess.PIPE, env=environment, check=False)
        return done.returncode, "", done.stderr.decode(encoding)
    done = subprocess.run(program, capture_output=True, env=environment, check=False)
    return done.returncode, done.stdout.decode(encoding), done.stderr.decode(encoding)


@pytest.fixture
def names(tmp_path: Path) -> Path:
    (tmp_path / "a.csv").write_text("town,label\nŁódź,1\nGdańsk,0\nRoma,1\n", encoding="utf-8")
    (tmp_path / "book.toml").write_text(
        '[columns]\ntown = { kind = "category", levels = ["Łódź", "Gdańsk", "Roma"] }\n'
        '[outcome]\nkind = "classes"\ncolumn = "label"\nclasses = ["0", "1"]\n',
        encoding="utf-8",
    )
    return tmp_path


@pytest.mark.slow
def test_a_console_without_our_letters_shows_their_numbers(names: Path) -> None:
    arguments = ("codebook", "check", str(names / "a.csv"), str(names / "book.toml"))
    code, text, _ = said(*arguments, encoding="cp1252")
    assert code == 0
    assert "\\u0141ód\\u017a" in text
    assert "Łódź" in said(*arguments)[1]
    code, text, fault = said("codebook", "draft", str(names / "a.csv"), encoding="cp1252")
    assert (code, text) == (1, "")  # a codebook with other letters would be another
    assert "expected an encoding of stdout that has" in fault
    assert "Traceback" not in fault


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_a_full_device_is_named_and_no_traceback_shown(names: Path) -> None:
    for arguments in (
        ("codebook", "draft", str(names / "a.csv")),
        ("codebook", "check", str(names / "a.csv"), str(names / "book.toml")),
        ("run",),
    ):
        code, _, fault = said(*arguments, out=Path("/dev/full"))
        assert code == 1
        assert "cannot write to stdout: No space left on device" in fault
        assert "Traceback" not in fault
        assert "Exception ignored" not in fault


@pytest.mark.parametrize(
    ("clients", "backend", "profile", "told"),
    [
        (200, Backend.MASK, Profile.ACTIVE, "about 40 s of CPU"),
        (200, Backend.BFV_MASK, Profile.ACTIVE, "about 40 s of CPU"),
        (200, Backend.MASK, Profile.SEMI_HONEST, "about 10 s of CPU"),
        (110, Backend.MASK, Profile.SEMI_HONEST, ""),
        (50, Backend.MASK, Profile.ACTIVE, ""),
        (200, Backend.PLAIN, Profile.ACTIVE, ""),
    ],
)
def test_a_long_run_says_so_and_names_the_sparse_profile(
    clients: int, backend: Backend, profile: Profile, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run_cli.announce(Settings(backend=backend, profile=profile), clients)
    text = " ".join(capsys.readouterr().out.split())
    assert told in text
    assert bool(text) == bool(told)
    assert ("--profile semi-honest has a sparse graph, about 10 s" in text) == (
        bool(told) and profile is Profile.ACTIVE
    )
