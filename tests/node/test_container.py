"""The container's recipe: its steps run here as a script, and its lock is what the package asks for."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from worlds.patience import HANG

ROOT = Path(__file__).resolve().parents[2]
CONTAINER = ROOT / "apps" / "container"
PINNED = re.compile(r"^([A-Za-z0-9_.-]+)==(\S+)", re.MULTILINE)


def lock(name: str = "requirements.txt") -> dict[str, str]:
    """Versions by name."""
    return {found[0].lower(): found[1] for found in PINNED.findall((CONTAINER / name).read_text())}


def steps() -> list[tuple[str, str]]:
    """The Dockerfile's lines, as an instruction and the rest."""
    lines = (CONTAINER / "Dockerfile").read_text().splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines) if word.isupper()]


def test_the_lock_names_all_that_the_node_asks_for_and_each_by_its_hashes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["flower"], *extras["tables"], *extras["metrics"]]
    names = {re.split(r"[\[<>=,; ]", one)[0].lower() for one in wanted}
    assert names <= lock().keys()
    for name in ("requirements.txt", "build.txt"):
        entries = re.split(r"\n(?=[A-Za-z])", (CONTAINER / name).read_text().strip())
        assert all("--hash=sha256:" in entry for entry in entries)
    heavy = {"torch", "tenseal", "matplotlib", "ray"}
    assert not heavy & lock().keys()


def test_the_bill_of_materials_is_of_the_lock() -> None:
    bill = json.loads((CONTAINER / "sbom.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    found = {one["name"].lower().replace("_", "-"): one["version"] for one in bill["components"]}
    assert {name: found.get(name.replace("_", "-")) for name in lock()} == lock()


def test_the_image_runs_as_a_user_of_its_own_and_keeps_its_files_read_only() -> None:
    words = steps()
    assert [rest for word, rest in words if word == "USER"] == ["10001"]
    assert words.index(("USER", "10001")) < next(
        at for at, (word, _) in enumerate(words) if word == "ENTRYPOINT"
    )
    compose = (CONTAINER / "compose.yaml").read_text()
    for line in ("read_only: true", "cap_drop: [ALL]", 'security_opt: ["no-new-privileges:true"]'):
        assert compose.count(line) == compose.count("image: secure-afl") == 2


@pytest.mark.long
def test_the_steps_give_an_installation_that_runs(tmp_path: Path) -> None:
    """Runs the Dockerfile's steps without a container: `/src` and `/opt` are folders, and no user is created."""
    copied = tmp_path / "src"
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False, text=True
    ).stdout
    if not tracked:
        pytest.skip("NOT A GIT CHECKOUT: the container's steps are not tried")
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).exists():
            (copied / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copied / name, follow_symlinks=False)
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")
    }

    def ran(command: str | list[str | Path], *, shell: bool = False) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            shell=shell,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=HANG,
        )

    for word, rest in steps():
        if word != "RUN" or rest.startswith("useradd"):
            continue
        command = rest.replace("/src", str(copied)).replace("/opt/", f"{tmp_path}/opt/")
        command = command.replace("python3 ", f"{shlex.quote(sys.executable)} ", 1)
        done = ran(command, shell=True)
        if done.returncode and "/requirements.txt" in command and "Could not find a version" in done.stderr:
            pytest.skip("THE LOCK'S VERSIONS ARE NOT TO BE HAD HERE: the container's steps are not tried")
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    program = tmp_path / "opt" / "secure-afl" / "bin" / "secure-afl"
    (tmp_path / "party").mkdir(mode=0o700)
    for arguments, code, said in (
        (["--help"], 0, "Learn one model"),
        (["node", "party"], 1, "node.toml"),
        (["check", "party"], 1, "study.toml"),
    ):
        done = ran([program, *arguments])
        assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done.stderr
