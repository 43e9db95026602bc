"""From empty folders to a model, by the commands of docs/joining.md and docs/coordinating.md and no others."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from worlds.patience import HANG, until

pytest.importorskip("flwr", reason="FLOWER IS NOT INSTALLED: nothing of a deployment is tested here")

from secure_afl.federation.project import slug
from secure_afl.node.site import Folder, kept
from secure_afl.sums.aggregation import MaskedAggregator

DOCS = Path(__file__).resolve().parents[2] / "docs"
HOSPITALS = [f"Hospital {envelope}" for envelope in "ABCD"]
PROGRAMS = Path(sys.executable).parent


def commands(page: str) -> list[str]:
    """The lines of a page's shell blocks that call our program."""
    blocks = re.findall(r"```sh\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("secure-afl ")]


def files(page: str) -> dict[str, str]:
    """The files that a page shows, by name."""
    return dict(
        re.findall(r"`(\w+\.toml)`[^`]*?:\n\n```toml\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    )


def free_ports(count: int) -> list[int]:
    with_ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in with_ports]
    for one in with_ports:
        one.close()
    return ports


class Machine:
    """A folder in which commands are typed, as on a machine of its own."""

    def __init__(self, root: Path, name: str) -> None:
        self.path = root / name
        self.path.mkdir()
        (self.path / "home").mkdir()
        self.typed = 0

    def environment(self) -> dict[str, str]:
        path = f"{PROGRAMS}{os.pathsep}{os.environ.get('PATH', '')}"
        return {**os.environ, "HOME": str(self.path / "home"), "PATH": path, "OMP_NUM_THREADS": "1"}

    def type(self, command: str, answer: str = "") -> str:
        """answer: what is typed when the command asks."""
        self.typed += 1
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.path,
            env=self.environment(),
            input=answer,
            capture_output=True,
            text=True,
            check=False,
            timeout=HANG,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def running(self, command: str) -> Iterator[None]:
        self.typed += 1
        with (self.path / "log").open("wb") as log:
            program = subprocess.Popen(
                shlex.split(command), cwd=self.path, env=self.environment(), stdout=log, stderr=log
            )
            try:
                yield
            finally:
                program.terminate()
                program.wait(HANG)


def listens(port: int) -> bool:
    """Whether something on this machine answers at a port."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@pytest.mark.long
@pytest.mark.parametrize("names", [(), ("disease", "stroke")], ids=["one study", "two studies"])
def test_from_empty_folders_to_a_model_by_the_documented_commands(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    """names: of the studies of a kit that lists several; each has its own folder, table and approval, and all one node."""
    provision, admit, check, serve, run = commands("coordinating.md")
    join, accept, approve, check_party, start = commands("joining.md")
    public, private = free_ports(2)
    office = Machine(tmp_path, "office")
    written = files("coordinating.md")
    written["project.toml"] = written["project.toml"].replace("server.example:8000", f"127.0.0.1:{public}")
    written["project.toml"] = f'private = "127.0.0.1:{private}"\n{written["project.toml"]}'
    if names:
        listed = [f"{name}.toml" for name in names]
        written["project.toml"] = written["project.toml"].replace('"study.toml"', str(listed))
        one = written.pop("study.toml")
        written |= {f"{name}.toml": one.replace('"disease"', f'"{name}"') for name in names}
    for name, text in written.items():
        (office.path / name).write_text(text)
    office.type(provision)

    sites = {name: Machine(tmp_path, slug(name)) for name in HOSPITALS}
    server = office.path / "federation" / "server"
    studies = {name: f"studies/{name}" for name in names} or {"disease": "."}

    def at(name: str, command: str, study: str = ".") -> str:
        folder = slug(name) if study == "." else f"{slug(name)}/{study}"
        return command.replace("hospital-a", folder)

    draws = np.random.default_rng(5)
    sent = 0
    for name, site in sites.items():
        shutil.copy(office.path / "federation" / "kits" / f"{slug(name)}.zip", site.path)
        site.type(at(name, join))
        (answer,) = (site.path / slug(name)).glob("*.answer.json")
        shutil.copy(answer, office.path)
        sent += 2
        for label, folder in studies.items():
            rows = [
                f"{a:.1f},{p:.1f},{'yes' if p > 150 else 'no'}"
                for a, p in draws.uniform((20, 70), (100, 250), (40, 2))
            ]
            table = "\n".join([f"age,blood pressure,{label}", *rows, ""])
            (site.path / slug(name) / folder / "rows.csv").write_text(table)
    office.type(admit)
    for name, site in sites.items():
        shutil.copy(office.path / "federation" / "rosters" / "1.json", site.path)
        site.type(at(name, accept))
        for folder in studies.values():
            site.type(at(name, approve, folder), "y\n")
        sent += 1

    with office.running(serve):
        until(lambda: listens(private))
        assert "ready" in office.type(check)
        for name, site in sites.items():
            assert "ready" in site.type(at(name, check_party))
        with ExitStack() as nodes:
            for name, site in sites.items():
                nodes.enter_context(site.running(at(name, start)))
            for folder in studies.values():
                started = time.monotonic()
                said = office.type(f"{run}/{folder} 2>&1")
                print(f"study run: {time.monotonic() - started:.1f} s")
                assert f"sum 1 is over {', '.join(HOSPITALS)}" in said
                terms, study = Folder(server / folder).terms()
                told = (
                    f"bound to: {study.digest.hex()[:16]} clients={terms.parties.clients.digest.hex()[:16]}"
                )
                assert all(
                    told in text
                    for text in (said, *((site.path / "log").read_text() for site in sites.values()))
                )
    for folder in studies.values():
        weights = kept(server / folder, "model.npz")[0]
        study = Folder(server / folder).terms()[1]
        found = []
        for name, site in sites.items():
            own = site.path / slug(name) / folder
            assert np.array_equal(kept(own, "model.npz")[0], weights)
            found.append((*Folder(own).data(study)[:2], name))
        X, y = np.vstack([X for X, _, _ in found]), np.concatenate([y for _, y, _ in found])
        whose = np.concatenate([[name] * len(y) for _, y, name in found])
        with closing(MaskedAggregator()) as aggregator:
            expected = study.estimator(aggregator).fit(X, y, whose)
        assert np.array_equal(weights, expected.weights_)
    assert [one.typed for one in (office, *sites.values())] == [4 + len(studies)] * 5
    assert sent == 3 * len(sites)
    logs = [server / "audit.jsonl", *(site.path / slug(name) / "audit.jsonl" for name, site in sites.items())]
    roster = server / next(iter(studies.values())) / "roster.toml"
    said = office.type(
        shlex.join(["secure-afl", "audit", "verify", *map(str, logs), "--roster", str(roster)])
    )
    reports = [json.loads((server / folder / "report.json").read_text()) for folder in studies.values()]
    assert re.findall(r"^session (\w{8})\s*$", said, re.MULTILINE) == [one["session"][:8] for one in reports]
    assert "every line is signed and in its place, and the logs agree" in said
