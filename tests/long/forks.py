"""Work in a fork of this process: what it changes, breaks or never ends stays there."""

import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from math import ceil
from pathlib import Path
from typing import Literal

End = Literal["passed", "failed", "timeout"]
MEMORY = 16 * 2**30  # bytes of addresses; torch alone takes a few GiB of them


def forked(work: Callable[[], bool], output: Path, seconds: float) -> End:
    """How work ended: it says whether it passed; what it prints goes to `output`.

    A fork that raises or dies has failed. "timeout": over `seconds` of the clock or what `allow` gave it.
    """
    sys.stdout.flush()  # or the fork writes it once more
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # some library has a thread
        child = os.fork()
    if not child:
        _in_child(work, output)
    ends, status = time.monotonic() + seconds, None
    try:
        while status is None and time.monotonic() < ends:
            done, ended = os.waitpid(child, os.WNOHANG)
            if done:
                status = ended
            else:
                time.sleep(0.004)
    finally:
        _end(child, alive=status is None)
    if status is None or os.WIFSIGNALED(status):
        by_time = status is None or os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)
        return "timeout" if by_time else "failed"
    return "failed" if os.WEXITSTATUS(status) else "passed"


def allow(seconds: float) -> None:
    """CPU seconds from now on, whole ones; a fork that takes more is ended."""
    resource.setrlimit(resource.RLIMIT_CPU, (ceil(time.process_time() + seconds), resource.RLIM_INFINITY))


def _end(child: int, *, alive: bool) -> None:
    # The group: also the processes that it had started, which outlive it.
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if alive:
        os.waitpid(child, 0)


def _in_child(work: Callable[[], bool], output: Path) -> None:
    status = 3
    try:
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.RLIM_INFINITY))
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        status = 0 if work() else 1
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001  # nothing may leave the fork
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)
