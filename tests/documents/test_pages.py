"""The code on the documents' pages runs as it stands there."""

import re
import runpy
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.testing import CliRunner

from secure_afl.simulations.cli.main import app
from secure_afl.simulations.data.dataset import load
from secure_afl.simulations.data.partition import partition, stacked
from secure_afl.testing import record

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
    assert "14 passed, 2 failed" in capsys.readouterr().out
    assert names["report"].failed == ("a_data_set_serves_one_session", "a_sum_is_made_once")


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


LONGEST = 120  # words


def paragraphs(text: str) -> list[str]:
    """Paragraphs, items of lists and rows of tables; blocks of code are left out."""
    blocks = re.split(r"\n\s*\n", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [part for block in blocks for part in re.split(r"\n(?=\s*(?:[-*|]|\d+\.)\s)", block)]


@pytest.mark.parametrize(
    "page",
    sorted(
        [
            *DOCS.glob("*.md"),
            *(DOCS.parent / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
        ]
    ),
    ids=lambda page: page.name,
)
def test_no_paragraph_is_long(page: Path) -> None:
    long = [part for part in paragraphs(page.read_text()) if len(part.split()) > LONGEST]
    assert not long, f"{page.name}: expected at most {LONGEST} words a paragraph, got {long[0][:80]!r}"


def test_a_long_paragraph_is_found() -> None:
    text = (
        f"```\n{'code ' * 200}\n```\n\n| {'row ' * 100}|\n| {'row ' * 100}|\n\n- {'item ' * 121}\n- short\n"
    )
    assert [len(part.split()) > LONGEST for part in paragraphs(text)].count(True) == 1


@pytest.mark.long
def test_your_own_in_ten_minutes(tmp_path: Path) -> None:
    names = runpy.run_path(program("verification/ten-minutes.md", tmp_path))
    assert {"later_sums_are_right", "bad_values_are_refused", "a_sum_is_made_once"} <= set(
        names["report"].failed
    )
    assert "sums_are_right" in names["report"].passed
    assert not names["better"].failed
    assert {"bad_values_are_refused", "the_lost_are_left_out"} <= set(
        names["better"].having("not claimed") + names["better"].having("not judged") + names["better"].passed
    )


def test_the_record_is_documented() -> None:
    page = (DOCS / "verification/record.md").read_text()
    for kind in get_args(record.Record):
        assert f"| `{kind.__struct_config__.tag}` |" in page
        line = next(one for one in page.splitlines() if one.startswith(f"| `{kind.__struct_config__.tag}` |"))
        assert all(f"`{field}`" in line for field in kind.__struct_fields__)
    listed = page.partition("## Claims")[2].partition("## Requests")[0]
    assert all(f"`{field}`" in listed for field in record.Claims.__struct_fields__)
