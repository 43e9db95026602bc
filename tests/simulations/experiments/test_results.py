"""The tables of docs/experiments.md are those of the figures in docs/results/."""

import json
from pathlib import Path

import pytest

from secure_afl.simulations.experiments import headline, heterogeneity, rivals

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "experiments.md").read_text()
FILES = sorted((DOCS / "results").glob("*.json"))


def _plain(text: str) -> str:
    return text.replace("−", "-")  # a true minus sign


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_table_is_that_of_its_figures(file: Path) -> None:
    figures = json.loads(file.read_text())
    experiment = {"headline": headline, "heterogeneity": heterogeneity, "rivals": rivals}[
        figures["experiment"]
    ]
    tables = experiment.tables(figures)
    rows = [row for table in tables for row in zip(*(column.cells for column in table.columns), strict=True)]
    missing = [row for row in rows if _plain(f"| {' | '.join(map(str, row))} |") not in _plain(PAGE)]
    assert rows
    assert not missing


def test_every_file_of_figures_has_its_command() -> None:
    said = (DOCS / "results" / "README.md").read_text()
    assert FILES
    assert not [file.name for file in FILES if f"| `{file.name}` | `secure-afl experiment " not in said]
