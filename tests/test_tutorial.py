"""The code of docs/tutorial.md runs as it stands there."""

import re
import runpy
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial.md"


def test_the_tutorial_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", TUTORIAL.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 9
    program = tmp_path / "tutorial.py"
    program.write_text("\n".join(blocks))
    names = runpy.run_path(str(program))
    said = capsys.readouterr().out
    assert "without Switzerland" in said
    assert "nothing was released" in said
    tested = names["test"]
    assert names["model"].score(names["hearts"].X[tested], names["hearts"].y[tested]) > 0.8
