"""What a server of masked sums holds at most while it collects and opens one."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

from secure_afl.protocol.masking.server import MaskingServer
from secure_afl.protocol.session.parameters import SumPlan
from secure_afl.sums.aggregation import MaskedAggregator


def peak_vectors(n: int, m: int) -> float:
    """The server's peak memory while it collects and opens a sum, in float64 vectors of m values."""
    aggregator = MaskedAggregator()
    names = [f"client-{i:03}" for i in range(n)]
    vectors = np.random.default_rng(0).uniform(-1, 1, (2, m))
    aggregator.open(names, [SumPlan("benchmark", m, 1.0)])
    contributions = {name: (vectors[i % 2], "benchmark") for i, name in enumerate(names)}
    cohort = aggregator.cohort
    server, peaks = cohort.server, [0]
    measured = _Measured(server, peaks)
    tracemalloc.start()
    try:
        measured.held = tracemalloc.get_traced_memory()[0]
        cohort.steps = measured
        aggregator.sum(0, contributions)
    finally:
        tracemalloc.stop()
    return max(peaks) / (8 * m)


class _Measured:
    """A server whose calls are measured: memory above that at the beginning of the round."""

    def __init__(self, server: MaskingServer, peaks: list[int]) -> None:
        self.held = 0
        self._server = server
        self._peaks = peaks

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._server, name)
        if name not in ("open_round", "receive", "advance", "result"):
            return value

        def call(*arguments: Any) -> Any:
            tracemalloc.reset_peak()
            try:
                return value(*arguments)
            finally:
                self._peaks.append(tracemalloc.get_traced_memory()[1] - self.held)

        return call


def test_the_running_total_and_an_upload_on_its_way_and_little_more() -> None:
    assert 1.0 < peak_vectors(5, 10**5) < 5.0


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_clients() -> None:
    few, many = peak_vectors(10, 10**5), peak_vectors(30, 10**5)
    assert many < few + 0.25
    assert few < 4
