"""A Flower network on this machine: the server's SuperLink and a node for each party, with TLS and node authentication.

The programs are those used across machines, so costs are the same except for the network. Needs the extra `flower`.
"""

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from secure_afl.errors import DataError
from secure_afl.protocol.transport import logs
from secure_afl.simulations.network import certificates

APP = Path(__file__).resolve().parents[2] / "apps" / "flower"
_START, _STOP = 600.0, 5.0  # seconds
_NAME = "server"
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
    "PYTHONUNBUFFERED": "1",
    logs.VARIABLE: "text",  # the caller reads phases from these lines
}


class Loopback:
    """The network of a server and parties whose folders these are, while the `with` block runs; logs and keys go to `home`.

    stock: Flower's own SuperLink and SuperNodes, which run the code that is submitted, in place of ours; node: the
    program of our nodes, which is given a party's folder.
    public, operator: HOST:PORT where nodes come in, and where runs are submitted; the same with `stock`.
    Every process it started is ended with it, by its own number. Raises `DataError` if Flower is not installed or a
    program does not start.
    """

    def __init__(
        self,
        home: Path,
        parties: Sequence[Path],
        server: Path,
        *,
        stock: bool = False,
        node: Sequence[str] = ("secure-afl", "node"),
    ) -> None:
        self.home = home
        self.parties = tuple(parties)
        self.server = server
        self.stock = stock
        self._node = tuple(node)
        self.public = self.operator = ""
        self._programs: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            self._start_all()
        except BaseException:
            self._stop_all()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_all()

    def run(
        self,
        *,
        deadline: float = 60.0,
        limit: float = 300.0,
        watch: Callable[[str], None] = lambda line: None,
    ) -> str:
        """Submit the study of the server's folder, wait until it is over, and return its output.

        deadline: of a phase; limit: of the run, both in seconds; watch: called with each line. Raises `DataError` if
        the run did not end in time, or left no report.
        """
        report = self.server / "report.json"
        report.unlink(missing_ok=True)
        if self.stock:
            settings = f'folder="{self.server}" deadline={deadline} poll=0.2'
            said = self.submit(APP, settings, limit=limit, watch=watch)
        else:
            learning = ("secure-afl", "study", "run", self.server, "--deadline", deadline)
            said = self._watched(learning, limit, watch)
        # Flower's own command exits with 0 whether or not the run succeeded.
        if not report.exists():
            raise DataError(f"the run ended without a report:\n{said[-3000:]}")
        return said

    def submit(
        self,
        app: Path,
        settings: str,
        *,
        limit: float = 300.0,
        watch: Callable[[str], None] = lambda line: None,
    ) -> str:
        """Run any app with settings as for `flwr run`, wait until it is over, and return its output."""
        if not self.stock:  # as somebody would who reaches the private door: `secure-afl serve` runs no app
            self._start("executor", "flower-superexec", "--insecure", "--runtime-api-address", self.operator)
        command = ("flwr", "run", app, _NAME, "--stream", "--run-config", settings)
        return self._watched(command, limit, watch)

    def kill(self, party: int) -> None:
        """Kill a party's node, like a loss of power."""
        self._signal(f"node-{party}", signal.SIGKILL)

    def start(self, party: int) -> None:
        """Start or restart a party's node."""
        folder, key = self.parties[party], self._made.nodes[party]
        if not self.stock:
            self._start(f"node-{party}", *self._node, folder)
            return
        self._start(
            f"node-{party}",
            "flower-supernode",
            *("--superlink", self.public, "--host", "127.0.0.1", "--port", _free_ports(1)[0]),
            *("--root-certificates", self._made.authority, "--auth-supernode-private-key", key),
            *("--node-config", f'party="{folder}"'),
        )

    def await_end(self, party: int, limit: float) -> None:
        """Wait until a party's node has ended. Raises `subprocess.TimeoutExpired` after `limit` seconds."""
        self._programs[f"node-{party}"].wait(limit)

    def kill_server(self) -> None:
        """Kill the run of `run`; the SuperLink and the nodes keep running."""
        self._signal("run", signal.SIGKILL)

    def kill_superlink(self) -> None:
        """Kill `secure-afl serve`, like a loss of power."""
        self._signal("superlink", signal.SIGKILL)
        self._programs["superlink"].wait()

    def start_superlink(self) -> None:
        """Start or restart `secure-afl serve`, and wait until it answers. Raises `DataError` if it does not."""
        link = self._start("superlink", "secure-afl", "serve", self.server)
        self._await(link, f"http://{self.operator}")

    def _start_all(self) -> None:
        _installed("flwr")
        self.home.mkdir(parents=True, exist_ok=True)
        self._made = certificates.make(self.home, len(self.parties))
        public, private = _free_ports(2)
        self.public = f"127.0.0.1:{public}"
        self.operator = self.public if self.stock else f"127.0.0.1:{private}"
        trusted = f'root-certificates = "{self._made.authority}"' if self.stock else "insecure = true"
        (self.home / "flwr").mkdir()
        (self.home / "flwr" / "config.toml").write_text(
            f'[superlink]\ndefault = "{_NAME}"\n[superlink.{_NAME}]\naddress = "{self.operator}"\n{trusted}\n'
        )
        (self._start_stock if self.stock else self._start_ours)()
        for party in range(len(self.parties)):
            self.start(party)

    def _start_ours(self) -> None:
        made = self._made
        (self.server / "server.toml").write_text(
            f'public = "{self.public}"\nprivate = "{self.operator}"\n'
            f'certificate = "{made.server}"\nkey = "{made.server_key}"\n'
        )
        (self.server / "nodes").mkdir(exist_ok=True)
        for folder, key in zip(self.parties, made.nodes, strict=True):
            shutil.copy(key.with_suffix(".pub"), self.server / "nodes")
            (folder / "node.toml").write_text(
                f'superlink = "{self.public}"\nauthority = "{made.authority}"\nkey = "{key}"\n'
            )
        self.start_superlink()

    def _start_stock(self) -> None:
        made, (host, port) = self._made, self.public.split(":")
        link = self._start(
            "superlink",
            "flower-superlink",
            *("--host", host, "--port", port, "--enable-supernode-auth"),
            *("--ssl-ca-certfile", made.authority),
            *("--ssl-certfile", made.server, "--ssl-keyfile", made.server_key),
        )
        self._await(link, f"https://{self.public}")
        for key in made.nodes:
            self._finish("register", "flwr", "supernode", "register", key.with_suffix(".pub"), _NAME)

    def _await(self, link: subprocess.Popen[bytes], at: str) -> None:
        ends, trusted = (
            time.monotonic() + _START,
            ssl.create_default_context(cafile=self._made.authority),
        )
        while time.monotonic() < ends and link.poll() is None:
            try:
                with urllib.request.urlopen(f"{at}/health", timeout=1, context=trusted):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise DataError(f"the SuperLink does not answer: {self._log('superlink')}")

    def _watched(self, command: Sequence[object], limit: float, watch: Callable[[str], None]) -> str:
        """A program's output, until it ended or the time was up."""
        said: list[str] = []
        (self.home / "run.log").unlink(missing_ok=True)
        program = self._start("run", str(command[0]), *command[1:])
        ends, log = time.monotonic() + limit, (self.home / "run.log").open()
        with log:
            while time.monotonic() < ends:
                over = program.poll() is not None
                while line := log.readline():
                    said.append(line)
                    watch(line)
                if over:
                    break
                time.sleep(0.1)
        return "".join(said)

    def _start(self, name: str, program: str, *arguments: object) -> subprocess.Popen[bytes]:
        with (self.home / f"{name}.log").open("ab") as log:
            # In its own session, so that its child processes end with it.
            self._programs[name] = subprocess.Popen(
                [_installed(program), *map(str, arguments)],
                env=self._environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self._programs[name]

    def _finish(self, name: str, program: str, *arguments: object) -> None:
        if self._start(name, program, *arguments).wait(_START):
            raise DataError(f"{program} failed: {self._log(name)}")

    def _environment(self) -> Mapping[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        return {**os.environ, **QUIET, "FLWR_HOME": str(self.home / "flwr"), "PATH": path}

    def _log(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text()[-2000:]

    def _signal(self, name: str, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._programs[name].pid, number)

    def _stop_all(self) -> None:
        for name in reversed(self._programs):
            self._signal(name, signal.SIGTERM)
        ends = time.monotonic() + _STOP
        for name, program in self._programs.items():
            with suppress(subprocess.TimeoutExpired):
                program.wait(max(0.0, ends - time.monotonic()))
            self._signal(name, signal.SIGKILL)  # also its remaining child processes
            program.wait()


def _installed(program: str) -> Path:
    path = Path(sys.executable).parent / program
    if not path.exists():
        raise DataError(
            f"{program} is not installed beside {sys.executable}: pip install 'secure-afl[flower]'"
        )
    return path


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
