"""A study, run by the server's operator: this process is the run's ServerApp, at the private door of `secure-afl serve`."""

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from secure_afl.crypto.errors import SecureAflError
from secure_afl.errors import DataError
from secure_afl.node import server, study
from secure_afl.node.site import Folder, home
from secure_afl.node.status import failure

_POLL = 0.2  # seconds between two looks for answers, at most
_STOPPING = (signal.SIGTERM, signal.SIGHUP)


def run(path: Path, deadline: float) -> dict[str, Any]:
    """Learn the study of the server's folder; gives the report. Lines of the log say how it goes; see `listen`.

    deadline: seconds that a phase lasts at most. What an earlier run left is put aside first. SIGINT, SIGTERM and SIGHUP
    end the run in an orderly way. Raises `DataError` with the reason, and the parties that gave no answer, if no model came
    of it; `FileError` for files that cannot be read, `FleetError` without a SuperLink.
    """
    from secure_afl.node.flower_app import serve
    from secure_afl.protocol.transport.flower.run import running

    learning = study.read(path / "study.toml")
    Folder(path).put_aside()
    learning.estimator()  # imports what it computes with
    begun = False
    try:
        with _as_a_service(), running(server.settings(home(path)).private, server.app_folder()) as grid:
            begun = True
            return serve(grid, path, deadline, _POLL)
    except (SecureAflError, OSError) as error:
        if not begun:
            raise
        raise DataError(f"no model was learned: {failure(path)}") from error
    except KeyboardInterrupt:
        raise DataError(f"no model was learned: {failure(path)}") from None


@contextmanager
def _as_a_service() -> Iterator[None]:
    """Let a signal be an exception of the main thread, so that what is open is closed, but not one that `nohup` has ignored;
    and let what is written be for the owner alone. Nor does the garbage collector look at what is loaded: that would take
    0.15 s in the middle of a phase.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    heard = [number for number in _STOPPING if signal.getsignal(number) != signal.SIG_IGN]
    before, mask = {number: signal.signal(number, stop) for number in heard}, os.umask(0o077)
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        os.umask(mask)
        for number, handler in before.items():
            signal.signal(number, handler)
