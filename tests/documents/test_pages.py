"""The code on the documents' pages runs as it stands there."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from secure_afl.simulations.cli.main import app
from secure_afl.simulations.data.dataset import load
from secure_afl.simulations.data.partition import partition, stacked

DOCS = Path(__file__).parents[2] / "docs"


def program(page: str, folder: Path) -> str:
    """All Python blocks of a page as one program."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    assert blocks
    made = folder / "page.py"
    made.write_text("\n".join(blocks))
    return str(made)


@pytest.mark.slow
def test_a_backend_in_forty_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = runpy.run_path(program("extending.md", tmp_path))
    assert names["model"].score(names["X"], names["y"]) > 0.9
    assert names["model"].certificate_.bound < 1e-9
    # What the page says of it.
    assert "7 passed" in capsys.readouterr().out
    assert names["report"].failed == ("a_data_set_serves_one_session", "an_entry_is_summed_once")


README = DOCS.parent / "README.md"


def test_the_readme_is_short() -> None:
    assert 500 <= len(README.read_text().split()) <= 700


def test_the_readme_shows_what_the_demo_prints() -> None:
    (shown,) = re.findall(r"^```text\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    printed = CliRunner().invoke(app, ["run"], env={"COLUMNS": "80"}).output
    figure = re.compile(r"[0-9.]+e-[0-9]+")  # the last digits of float64 differ by machine
    lines = {figure.sub("e", line).rstrip() for line in printed.splitlines()}
    missing = [line for line in shown.splitlines() if figure.sub("e", line).rstrip() not in lines]
    assert missing == ["…"]


def test_the_readmes_python_runs() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    hearts = load("heart")
    parts = partition(hearts, "site", None, 0)
    rows, site = stacked({part.client: part.train for part in parts})
    mine, test = parts[0].train, parts[0].test
    names: dict[str, Any] = {"X": hearts.X[rows], "y": hearts.y[rows], "site": site}
    names |= {"X_test": hearts.X[test], "y_test": hearts.y[test]}
    names |= {"X_own": hearts.X[mine], "y_own": hearts.y[mine]}
    exec(code, names)  # noqa: S102
    assert len(names["personal"].weights_) == 1 + hearts.X.shape[1]
    assert len(code.strip().splitlines()) == 8
