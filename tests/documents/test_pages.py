"""The code on the documents' pages runs as it stands there."""

import re
import runpy
from pathlib import Path

import pytest

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
