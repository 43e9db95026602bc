"""The suite itself: the same examples at every run, a search that can be repeated, and a budget that tells."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds.patience import HANG

TESTS = Path(__file__).parent


def drawn() -> list[tuple[int, str, bytes]]:
    found = []

    @settings(settings.get_profile("default"), max_examples=300)
    @given(st.integers(), st.text(), st.binary())
    def draw(number: int, text: str, data: bytes) -> None:
        found.append((number, text, data))

    draw()
    return found


def test_examples_are_the_same_whatever_was_loaded_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which tests ran before in this process is chance. Hypothesis knows numbers and words of modules it has seen."""
    first = drawn()
    (tmp_path / "numbers_and_words.py").write_text(
        "".join(
            f"x{number} = ({number}, 'word{number}', b'word{number}')\n" for number in range(70_001, 70_101)
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    import numbers_and_words  # type: ignore[import-not-found]  # noqa: F401

    assert drawn() == first


PROPERTIES = """
import time
from hypothesis import given, strategies as st

def test_no_property():
    pass

@given(st.integers(0, 2**64))
def test_found(number):
    assert number < 2**63, "too large"
"""


def searched(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit status and output of a search over a folder's tests."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", *arguments, str(folder)],
        env={**os.environ, "PYTHONPATH": str(TESTS), "HYPOTHESIS_PROFILE": "search"},
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
        cwd=folder,
    )
    return done.returncode, done.stdout


@pytest.fixture
def properties(tmp_path: Path) -> Path:
    (tmp_path / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    (tmp_path / "test_properties.py").write_text(PROPERTIES)
    return tmp_path


@pytest.mark.long
def test_a_search_finds_and_says_how_to_find_it_again(properties: Path) -> None:
    status, said = searched(properties, "--hypothesis-seed=5", "--search-seconds=600")
    assert status == 1
    again = "HYPOTHESIS_PROFILE=search .venv/bin/python -m pytest --hypothesis-seed=5 'test_properties.py::test_found'"
    assert f"again: {again}" in said
    assert "1 failed, 1 deselected" in said
    (found,) = [line for line in said.splitlines() if "number=" in line]
    assert found in searched(properties, "--hypothesis-seed=5")[1]


@pytest.mark.slow
def test_a_search_ends_in_time(properties: Path) -> None:
    status, said = searched(properties, "--hypothesis-seed=5", "--search-seconds=1e-9")
    assert status == 0
    assert "1 skipped" in said
    assert "the search's time was up" in said
