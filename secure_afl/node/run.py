"""A study, run by the server's operator: submitted at the private door of `secure-afl serve`, and watched until it is over."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from secure_afl.errors import DataError
from secure_afl.node import study
from secure_afl.node.server import CONNECTION, flower_home
from secure_afl.node.site import REPORT, Folder, home
from secure_afl.node.status import failure
from secure_afl.protocol.transport.flower.superlink import QUIET

_HERE = Path(__file__).resolve()
_EVERY = 1.0  # seconds from one question whether a run is over to the next
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # in Flower's lines
_NUMBER = re.compile(r"Successfully started run (\d+)")


def app_folder() -> Path:
    """What `flwr run` ships: two names out of the installed package. In a checkout it is beside the package."""
    return next(one for at in (1, 2) if (one := _HERE.parents[at] / "apps" / "flower").is_dir())


def run(path: Path, deadline: float, watch: Callable[[str], None]) -> dict[str, Any]:
    """Learn the study of the server's folder; gives the report. watch: is called with every line that the run prints.

    deadline: seconds that a phase lasts at most. What an earlier run left is put aside first. Raises `DataError` with the
    reason, and the parties that gave no answer, if no model came of it; `FileError` for files that cannot be read.
    """
    study.read(
        path / "study.toml"
    )  # the ServerApp reads the rest, and says in `failure.json` what is wrong with it
    Folder(path).put_aside()
    environment = {
        **os.environ,
        **QUIET,
        "FLWR_HOME": str(flower_home(home(path))),
        "PYTHONUNBUFFERED": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    settings = f"folder={json.dumps(str(path))} deadline={deadline} poll=0.2"
    flwr, number = str(Path(sys.executable).parent / "flwr"), ""
    with subprocess.Popen(
        [flwr, "run", str(app_folder()), CONNECTION, "--stream", "--run-config", settings],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as program:
        assert program.stdout is not None
        for coloured in program.stdout:
            line = _COLOUR.sub("", coloured)
            watch(line)
            if found := _NUMBER.search(line):
                number = found[1]
    if not number:
        raise DataError("no run was begun: the lines above say why; is `secure-afl serve` running?")
    # `flwr run` ends with 0 whatever became of the run, and may end before it.
    while not (path / REPORT).exists() and _lasts(flwr, number, environment):
        time.sleep(_EVERY)
    if not (path / REPORT).exists():
        raise DataError(f"no model was learned: {failure(path)}")
    report: dict[str, Any] = json.loads((path / REPORT).read_text())
    return report


def _lasts(flwr: str, number: str, environment: Mapping[str, str]) -> bool:
    """Whether a run is under way."""
    done = subprocess.run(
        [flwr, "list", CONNECTION, "--run-id", number, "--format", "json"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r'"status": *"([a-z]+)', done.stdout)
    return found is not None and found[1] != "finished"
