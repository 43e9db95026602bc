"""Spread work over processes and count their CPU time."""

import os
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_away = 0.0  # CPU seconds of worker processes


def cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def spread(function: Callable[[T], R], tasks: Sequence[T]) -> list[R]:
    """Apply `function` to every task in as many processes as there are cores. Results keep the order of the tasks.

    Each process is a fresh interpreter, not a fork: a forked child would inherit SEAL's state and hang.
    """
    import joblib  # imported only if needed

    global _away
    done = joblib.Parallel(n_jobs=cores())(joblib.delayed(_timed)(function, task) for task in tasks)
    _away += sum(seconds for _, seconds in done)
    return [result for result, _ in done]


def _timed(function: Callable[[T], R], task: T) -> tuple[R, float]:
    started = time.process_time()
    result = function(task)
    return result, time.process_time() - started


def cpu_seconds() -> float:
    """CPU seconds so far of this process and its workers."""
    return time.process_time() + _away
