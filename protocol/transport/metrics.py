"""Count events for Prometheus, in the file that `SECURE_AFL_METRICS` names. Needs the extra `metrics`.

Flower gives each message to a new process, so no process could serve counts over HTTP. The textfile collector of node
exporter reads the file, and the next process finds the counts so far in it.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secure_afl.crypto.errors import optional
from secure_afl.protocol.session.errors import LocalProtocolError
from secure_afl.protocol.transport.events import (
    Answered,
    Event,
    PhaseCost,
    Refused,
    RunFailed,
    RunOver,
    Silent,
    SumOpened,
)

VARIABLE = "SECURE_AFL_METRICS"
_BOUNDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)  # seconds
_TABLE = {
    "secure_afl_messages": (
        "counter",
        "Envelopes for a party, by channel and whether it answered or refused.",
    ),
    "secure_afl_bytes": ("counter", "Bytes of envelopes and answers, without the transport's."),
    "secure_afl_message_seconds": ("histogram", "From an envelope to its answer, or refusal, at a party."),
    "secure_afl_refusals": ("counter", "What a party refused, by class of error."),
    "secure_afl_phase_seconds": ("histogram", "Phases of a study at the server, over all rounds."),
    "secure_afl_silences": ("counter", "Nodes that said nothing to the server, or nothing readable."),
    "secure_afl_sums_opened": ("counter", "Sums that the server opened."),
    "secure_afl_survivors": ("gauge", "Clients in the sum that the server opened last."),
    "secure_afl_runs": ("counter", "Studies at the server, by whether a model came of them."),
}
Key = tuple[str, tuple[tuple[str, str], ...]]
"""A sample: its name and its labels."""


@dataclass(frozen=True)
class Step:
    """An event's effect on one sample: add to it or replace it."""

    name: str
    labels: Mapping[str, str]
    value: float
    adds: bool = True


def check() -> None:
    """Raises `LocalProtocolError` if counting is on and impossible."""
    if not (name := os.environ.get(VARIABLE)):
        return
    if not name.endswith(".prom"):
        raise LocalProtocolError(f"expected {VARIABLE} to name a file that ends in .prom, got {name!r}")
    with optional():
        import prometheus_client  # noqa: F401


def count(event: Event) -> None:
    """Add an event to the file, if counting is on, completely or not at all. Raises `OSError`, `ValueError`."""
    if name := os.environ.get(VARIABLE):
        _add(Path(name), list(steps(event)))


def steps(event: Event) -> Iterator[Step]:
    """The effects of an event on samples."""
    match event:
        case Answered() | Refused():
            of = {"party": event.party, "channel": event.channel}
            done = isinstance(event, Answered)
            yield Step("secure_afl_messages_total", {**of, "outcome": "answered" if done else "refused"}, 1)
            yield Step("secure_afl_bytes_total", {**of, "direction": "in"}, event.taken)
            yield from _observed("secure_afl_message_seconds", of, event.seconds)
            if isinstance(event, Answered):
                yield Step("secure_afl_bytes_total", {**of, "direction": "out"}, event.given)
            else:
                refusal = {"party": event.party, "refusal": event.refusal}
                yield Step("secure_afl_refusals_total", refusal, 1)
        case PhaseCost():
            yield from _observed("secure_afl_phase_seconds", {"phase": event.phase}, event.seconds)
        case Silent():
            yield Step("secure_afl_silences_total", {}, 1)
        case SumOpened():
            yield Step("secure_afl_sums_opened_total", {}, 1)
            yield Step("secure_afl_survivors", {}, event.survivors, adds=False)
        case RunOver() | RunFailed():
            outcome = "learned" if isinstance(event, RunOver) else "failed"
            yield Step("secure_afl_runs_total", {"outcome": outcome}, 1)


def _observed(name: str, labels: Mapping[str, str], seconds: float) -> Iterator[Step]:
    for bound in (*_BOUNDS, float("inf")):
        shown = "+Inf" if bound == float("inf") else str(bound)
        yield Step(f"{name}_bucket", {**labels, "le": shown}, float(seconds <= bound))
    yield Step(f"{name}_count", labels, 1)
    yield Step(f"{name}_sum", labels, seconds)


def _add(path: Path, found: Iterable[Step]) -> None:
    from prometheus_client import CollectorRegistry, write_to_textfile
    from prometheus_client.parser import text_string_to_metric_families

    with _alone(path.parent):
        samples: dict[Key, float] = {}
        if path.exists():
            for family in text_string_to_metric_families(path.read_text(encoding="utf-8")):
                if family.name not in _TABLE:
                    raise ValueError(f"{path}: expected counts of secure-afl only, got {family.name}")
                for one in family.samples:
                    samples[_key(one.name, one.labels)] = one.value
        for step in found:
            key = _key(step.name, step.labels)
            samples[key] = step.value + (samples.get(key, 0.0) if step.adds else 0.0)
        registry = CollectorRegistry()
        registry.register(_Samples(samples))
        write_to_textfile(str(path), registry)


def _key(name: str, labels: Mapping[str, str]) -> Key:
    return name, tuple(sorted(labels.items()))


class _Samples:
    """The samples, for the library to write."""

    def __init__(self, samples: dict[Key, float]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import Metric

        for name, (kind, help_text) in _TABLE.items():
            metric = Metric(name, help_text, kind)
            for (sample, labels), value in self._samples.items():
                if sample in [name, *(f"{name}_{part}" for part in ("total", "bucket", "count", "sum"))]:
                    metric.add_sample(sample, dict(labels), value)
            if metric.samples:
                yield metric


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep our other processes from writing counts in this folder meanwhile."""
    lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
