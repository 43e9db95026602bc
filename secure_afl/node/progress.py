"""What the server of a study tells the people who run it, while it learns and when it is over."""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from secure_afl.protocol.files import whole
from secure_afl.protocol.session.errors import FileError
from secure_afl.protocol.session.server import Outbox
from secure_afl.protocol.transport.driver import Carry
from secure_afl.protocol.transport.events import (
    Exposed,
    Phase,
    PhaseCost,
    RunFailed,
    RunOver,
    Silent,
    SumOpened,
    described,
)
from secure_afl.protocol.transport.logs import tell

PROGRESS = "progress.json"
_EVERY = 0.5  # seconds between two notes of answers


class RunEvents:
    """One run."""

    def __init__(self) -> None:
        self._silences = 0

    def phase(self, phase: str, silences: Sequence[str]) -> None:
        """A phase begins; nobody else was silent before it than `silences` says."""
        self.silent(silences)
        tell(Phase(phase))

    def learned(self, report: Mapping[str, Any], clients: int) -> None:
        """What came of it, by its report; clients: of the roster."""
        for one in report["phases"]:
            tell(PhaseCost(one["phase"], one["seconds"], one.get("bytes_up", 0), one.get("bytes_down", 0)))
        for number, survivors in enumerate(report["survivors"]):
            tell(SumOpened(number, len(survivors), clients))
        for warning in report.get("disclosure", {}).get("warnings", []):
            tell(Exposed(warning))

    def silent(self, silences: Sequence[str]) -> None:
        """All silences so far, of which some may have been told."""
        for reason in silences[self._silences :]:
            tell(Silent(reason))
        self._silences = len(silences)


@contextmanager
def run_events() -> Iterator[RunEvents]:
    """Context of a run, which tells at the end whether there is a model. Re-raises the body's exception."""
    started = time.perf_counter()
    try:
        yield RunEvents()
    except Exception as error:
        tell(RunFailed(time.perf_counter() - started, *described(error)))
        raise
    tell(RunOver(time.perf_counter() - started))


class Progress:
    """Where a run of the server is, in `progress.json` of its folder, for `secure-afl status`. A disk that takes no such file
    costs the view, not the run.

    deadline: seconds that a phase lasts at most.
    """

    def __init__(self, path: Path, deadline: float) -> None:
        self._path = path
        self._about: dict[str, Any] = {"began": time.time(), "deadline": deadline, "over": ""}
        self._written = 0.0
        self.phase("starting")

    def phase(self, phase: str) -> None:
        """A phase begins."""
        self._about |= {"phase": phase, "since": time.time(), "asked": [], "answered": {}}
        self._write()

    def seen(self, names: Sequence[str], carry: Carry) -> Carry:
        """The same carrier, whose answers are noted. names: of the parties, by number."""

        def carried(outbox: Outbox) -> Iterator[tuple[int, bytes]]:
            self._about["asked"] = [names[party] for party in outbox]
            self._write()
            for party, data in carry(outbox):
                self._about["answered"][names[party]] = len(data)
                if time.monotonic() - self._written > _EVERY:
                    self._write()
                yield party, data
            self._write()

        return carried

    def over(self, how: str) -> None:
        """The run ended: learned, or failed."""
        self._about["over"] = how
        self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        with suppress(FileError):
            whole.replace(self._path / PROGRESS, json.dumps(self._about).encode())


def keep_run(path: Path, names: Sequence[str]) -> None:
    """Link what a run left in the server's folder into a folder of its own, `runs/TIME`. A disk that takes none has the files in
    their first place only.
    """
    made = path / "runs" / f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S.%fZ}"
    with suppress(OSError):
        made.mkdir(parents=True, mode=0o700)
        for name in names:
            if (path / name).exists():
                os.link(path / name, made / name)
