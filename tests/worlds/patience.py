"""How long tests wait: a loaded machine makes them slow, never red."""

import time
from collections.abc import Callable

HANG = 1800.0
"""Seconds after which whatever a test waits for hangs. Nothing that works takes nearly so long, however busy the
machine: a test waits for events, and this only ends a wait for one that never comes.
"""


def until(done: Callable[[], bool]) -> None:
    """Wait for something that happens in another thread or process."""
    ends = time.monotonic() + HANG
    while not done():
        assert time.monotonic() < ends
        time.sleep(0.02)
