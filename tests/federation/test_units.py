"""The unit for systemd runs the program that is installed here on the folder that is meant, whatever the folder is called."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from secure_afl.federation.units import NAME, unit


def read(text: str) -> dict[str, str]:
    """Settings by name, as systemd reads a word: %% is %, \\xNN a letter."""
    found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {
        name: re.sub(r"\\x([0-9a-f]{2})", lambda code: chr(int(code[1], 16)), value.replace("%%", "%"))
        for name, value in found.items()
    }


@given(some.text(some.sampled_from("ab %\"'\\ä;$\n"), min_size=1, max_size=9))
def test_a_folder_of_any_name_is_one_word(name: str) -> None:
    folder = Path("/srv") / name
    text = unit("node", folder, "node")
    line = next(one for one in text.splitlines() if one.startswith("ExecStart="))
    assert len(line.split(" ")) == 3
    assert read(text)["ExecStart"].replace("$$", "$").endswith(f"secure-afl node {folder}")
    assert read(text)["ExecStart"].count("$") == 2 * name.count("$")
    assert read(text)["ReadWritePaths"] == str(folder)


def test_a_description_is_one_line_of_words() -> None:
    assert "\nDescription=secure-afl node of Klinik Süd, 100%%\n" in unit(
        "node", Path("/a"), "node of Klinik Süd, 100%"
    )


@pytest.mark.slow
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("SYSTEMD IS NOT INSTALLED: nobody reads the unit here")
    (tmp_path / NAME).write_text(unit("node", tmp_path, "node of Hospital A"))
    done = subprocess.run(
        [program, "verify", str(tmp_path / NAME)], capture_output=True, text=True, check=False
    )
    if "Failed to initialize manager" in done.stderr or "No such file or directory" in done.stderr:
        pytest.skip("SYSTEMD CANNOT READ UNITS HERE: nobody reads this one")
    assert (done.returncode, done.stderr) == (0, "")
