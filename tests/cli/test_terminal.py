"""Where text goes: to programs on stdout, to narrow and old consoles, and to devices that take no more."""

import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from secure_afl.cli import terminal
from secure_afl.cli.terminal import table
from secure_afl.protocol.session.backend import Backend
from secure_afl.protocol.session.profile import Profile
from secure_afl.simulations.cli import main
from secure_afl.simulations.cli import run as run_cli
from secure_afl.simulations.study.settings import Settings

ROWS = [("VA Long Beach", "150", "0.7643"), ("Cleveland", "228", "0.9211")]


def shown(width: int) -> str:
    text = StringIO()
    made = table("accuracy", ("client", "rows to learn from", "everybody's model"))
    for row in ROWS:
        made.add_row(*row)
    Console(file=text, width=width).print(made)
    return text.getvalue()


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
