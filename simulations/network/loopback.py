"""A Flower network on this machine: a SuperLink and a SuperNode for each party, with TLS and node authentication.

The same programs as across machines, and so the same costs but for the network's. Needs the extra `flower`.
"""

import os
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

import psutil

from secure_afl.errors import DataError
from secure_afl.protocol.transport import logs
from secure_afl.simulations.network import certificates

APP = Path(__file__).resolve().parents[2] / "apps" / "flower"
_START, _STOP = 600.0, 5.0  # seconds; a program that ends is not waited for
_NAME = "loopback"
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
    "PYTHONUNBUFFERED": "1",
    logs.VARIABLE: "text",  # whoever watches the run reads its phases
}


class Loopback:
    """The network of parties whose folders these are, while the `with` block runs; logs and keys go to `home`.

    Every process it started is ended with it, by its own number. Raises `DataError` if Flower is not installed or a
    program does not start.
    """

    def __init__(self, home: Path, parties: Sequence[Path]) -> None:
        self.home = home
        self.parties = tuple(parties)
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
        server: Path,
        *,
        deadline: float = 60.0,
        limit: float = 300.0,
        watch: Callable[[str], None] = lambda line: None,
    ) -> str:
        """Submit the study of the server's folder, and wait until it is over; gives what the run said.

        deadline: of a phase; limit: of the run, both in seconds; watch: called with each line. Raises `DataError` if
        the run did not end in time, or left no report.
        """
        settings = f'folder="{server}" deadline={deadline} poll=0.2'
        report = server / "report.json"
        report.unlink(missing_ok=True)
        said: list[str] = []
        program = self._start("run", "flwr", "run", str(APP), _NAME, "--stream", "--run-config", settings)
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
        # Flower's own command ends with 0 whatever became of the run.
        if not report.exists():
            raise DataError(f"the run ended without a report:\n{''.join(said)[-3000:]}")
        return "".join(said)

    def kill(self, party: int) -> None:
        """End a party's node at once, as a loss of power would."""
        self._signal(f"node-{party}", signal.SIGKILL)

    def kill_server(self) -> None:
        """End the ServerApp at once; the SuperLink and the nodes stay."""
        for program in psutil.Process(self._programs["superlink"].pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if any(word.endswith("flwr-serverapp") for word in program.cmdline()):
                    program.kill()

    def _start_all(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        made = certificates.make(self.home, len(self.parties))
        port, *own = _free_ports(1 + len(self.parties))
        address = f"127.0.0.1:{port}"
        flwr = self.home / "flwr"
        flwr.mkdir()
        (flwr / "config.toml").write_text(
            f'[superlink]\ndefault = "{_NAME}"\n[superlink.{_NAME}]\naddress = "{address}"\n'
            f'root-certificates = "{made.authority}"\n'
        )
        tls = [
            "--ssl-ca-certfile",
            made.authority,
            "--ssl-certfile",
            made.server,
            "--ssl-keyfile",
            made.server_key,
        ]
        link = self._start(
            "superlink",
            "flower-superlink",
            "--host",
            "127.0.0.1",
            "--port",
            port,
            *tls,
            "--enable-supernode-auth",
        )
        self._await(link, address, made.authority)
        for key in made.nodes:
            self._finish("register", "flwr", "supernode", "register", key.with_suffix(".pub"), _NAME)
        for number, (folder, key, at) in enumerate(zip(self.parties, made.nodes, own, strict=True)):
            self._start(
                f"node-{number}",
                "flower-supernode",
                *("--superlink", address, "--host", "127.0.0.1", "--port", at),
                *("--root-certificates", made.authority, "--auth-supernode-private-key", key),
                *("--node-config", f'party="{folder}"'),
            )

    def _await(self, link: subprocess.Popen[bytes], address: str, authority: Path) -> None:
        ends, trusted = time.monotonic() + _START, ssl.create_default_context(cafile=authority)
        while time.monotonic() < ends and link.poll() is None:
            try:
                with urllib.request.urlopen(f"https://{address}/health", timeout=1, context=trusted):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise DataError(f"the SuperLink does not answer: {self._log('superlink')}")

    def _start(self, name: str, program: str, *arguments: object) -> subprocess.Popen[bytes]:
        with (self.home / f"{name}.log").open("wb") as log:
            # A session of its own, so that what it starts ends with it.
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
            self._signal(name, signal.SIGKILL)  # also what it started and did not end
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
