"""Work that is spread over processes, and the CPU time of it."""

import os
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_away = 0.0  # CPU seconds that other processes spent for this one


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def spread(function: Callable[[T], R], tasks: Sequence[T]) -> list[R]:
    """`function` of every task, in processes, as many as there are cores. Results in the order of the tasks.

    The processes are fresh interpreters, not forks: a forked child would inherit SEAL's state and hang.
    """
    import joblib  # only who has so much to do pays for it

    global _away
    done = joblib.Parallel(n_jobs=cores())(joblib.delayed(_timed)(function, task) for task in tasks)
    _away += sum(seconds for _, seconds in done)
    return [result for result, _ in done]


def _timed(function: Callable[[T], R], task: T) -> tuple[R, float]:
    started = time.process_time()
    result = function(task)
    return result, time.process_time() - started


def cpu_seconds() -> float:
    """CPU seconds of this process so far, and of the processes that worked for it."""
    return time.process_time() + _away
