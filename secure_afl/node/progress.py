"""What the server of a study tells the people who run it, while it learns and when it is over."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from secure_afl.protocol.transport.events import (
    Exposed,
    Phase,
    PhaseCost,
    RunFailed,
    RunOver,
    Silent,
    SumOpened,
    told,
)
from secure_afl.protocol.transport.logs import tell


class RunTold:
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
def run_told() -> Iterator[RunTold]:
    """A run, and in the end whether a model came of it; raises what it raises."""
    started = time.perf_counter()
    try:
        yield RunTold()
    except Exception as error:
        tell(RunFailed(time.perf_counter() - started, *told(error)))
        raise
    tell(RunOver(time.perf_counter() - started))
