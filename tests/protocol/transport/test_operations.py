"""What an operator's machine does to a party: SIGTERM at any time, a disk that is full, a clock that is wrong."""

import ast
import errno
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import IO
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
from worlds import mortal_files
from worlds.folders import Federation, Post, in_process
from worlds.patience import HANG

from secure_afl.node.site import Folder
from secure_afl.protocol.audit import log
from secure_afl.protocol.audit.chain import read
from secure_afl.protocol.audit.check import verify
from secure_afl.protocol.durable.store import StoreError
from secure_afl.protocol.session.errors import AuditError, FileError
from secure_afl.protocol.transport.post import Channel, Envelope
from secure_afl.sums.remote import Elsewhere, remote

ROOT = Path(__file__).parents[3]


def learned(federation: Federation, post: Post) -> npt.NDArray[np.float64]:
    terms, study = Folder(federation.server).terms()
    aggregator = remote(Elsewhere(federation.parties, post.carrier), terms.policy, terms.encryption)
    return study.learn(aggregator, federation.names)[0][-1]


def logs(federation: Federation) -> dict[str, bytes]:
    return {str(at): (folder / "audit.jsonl").read_bytes() for at, folder in enumerate(federation.folders)}


def faults(federation: Federation) -> list[str]:
    """What `audit verify` has against the parties' logs; there is none of the server."""
    return [one.text for one in verify(logs(federation)).findings if "server" not in one.text]


# ---- stopping ------------------------------------------------------------------------------------

_NODE = """
import signal, struct, sys
from contextlib import closing
from pathlib import Path
from secure_afl.protocol.transport.post import Channel, Envelope
from secure_afl.node.site import Folder

if sys.argv[2] == "flower":  # what Flower's programs do on SIGTERM
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
into, out = sys.stdin.buffer, sys.stdout.buffer

def taken(size):
    data = into.read(size)
    if len(data) < size:
        sys.exit(3)
    return data

out.write(b"!")
out.flush()
while True:
    channel, size = struct.unpack(">BI", taken(5))
    envelope = Envelope(list(Channel)[channel], taken(32), taken(size))
    with closing(Folder(Path(sys.argv[1])).endpoint()) as endpoint:
        answer = endpoint.answer(envelope, 0)
    out.write(struct.pack(">I", len(answer)) + answer)
    out.flush()
"""


class Node:
    """A party as a process. on_term: "flower" leaves Python's `finally` to run, "at once" does not."""

    def __init__(self, folder: Path, on_term: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _NODE, str(folder), on_term],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert self._output.read(1) == b"!"

    @property
    def _output(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def send(self, envelope: Envelope) -> None:
        assert self.process.stdin is not None
        head = struct.pack(">BI", list(Channel).index(envelope.channel), len(envelope.data))
        self.process.stdin.write(head + envelope.session + envelope.data)

    def answer(self) -> bytes:
        (size,) = struct.unpack(">I", self._exactly(4))
        return self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._output.read(size - len(data))
            assert more, "the node has ended"
            data += more
        return data

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(HANG)
        for end in (self.process.stdin, self.process.stdout):
            assert end is not None
            end.close()
        assert self.process.returncode in (0, -signal.SIGTERM)


class Stopping(Post):
    """Site 0 is a process. SIGTERM comes after its answers to two envelopes, and in the middle of the one that asks for its
    vector; then a new process gets the same envelope again.
    """

    def __init__(self, federation: Federation, on_term: str) -> None:
        super().__init__(federation)
        self.on_term = on_term
        self.node = Node(federation.folders[0], on_term)
        self.stops = 0

    def ask(self, party: int, envelope: Envelope, address: int = 0) -> bytes:
        if party:
            return super().ask(party, envelope, address)
        match PHASES[self.phases - 1]:
            case "sharing" | "unmasking" | "answering":
                self.node.send(envelope)
                first = self.node.answer()
                self._stop()
            case "collecting":
                first = b""
                self._stop_while_it_reads(envelope)
            case _:
                self.node.send(envelope)
                return self.node.answer()
        self.node.send(envelope)
        answer = self.node.answer()
        assert first in (b"", answer)
        return answer

    def _stop(self) -> None:
        self.node.stop()
        self.stops += 1
        self.node = Node(self.federation.folders[0], self.on_term)

    def _stop_while_it_reads(self, envelope: Envelope) -> None:
        table = self.federation.folders[0] / "rows.csv"
        aside = table.rename(table.with_name("aside.csv"))
        os.mkfifo(table)
        self.node.send(envelope)
        with table.open("w"):  # from here on it waits for rows
            self._stop()
        table.unlink()
        aside.rename(table)


PHASES = ("advertising", "sharing", "confirming", "collecting", "consenting", "unmasking", "answering")


@pytest.mark.long
@pytest.mark.parametrize("on_term", [pytest.param("at once", marks=pytest.mark.slow), "flower"])
def test_a_node_that_is_stopped_anywhere_loses_nothing(tmp_path: Path, on_term: str) -> None:
    federation = Federation(tmp_path)
    post = Stopping(federation, on_term)
    try:
        weights = learned(federation, post)
    finally:
        post.node.stop()
    assert post.stops == 4
    assert np.array_equal(weights, in_process(federation))
    assert faults(federation) == []


# ---- full disks ----------------------------------------------------------------------------------


def limited(folder: Path, room: int) -> AbstractContextManager[None]:
    """No file of this process grows beyond that many bytes."""
    return mortal_files.limited(room)


@contextmanager
def filled(folder: Path, room: int) -> Iterator[None]:
    """The file system of the folder has that many bytes left."""
    found, filler = os.statvfs(folder), folder / "filler"
    with filler.open("wb") as file:
        if (size := found.f_bavail * found.f_frsize - room) > 0:
            os.posix_fallocate(file.fileno(), 0, size)
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def split(folder: Path, room: int) -> Iterator[None]:
    """The audit log is on a disk of its own that has that many bytes left; the store has room."""
    write, left = os.write, room

    def cut(file: int, data: bytes) -> int:
        nonlocal left
        data = data[:left]
        if not data:
            raise OSError(errno.ENOSPC, "no space left")
        left -= len(data)
        return write(file, data)

    with mock.patch.object(os, "write", cut):
        yield


class Cramped(Post):
    """Site 0 has no room for what it must write, then a little more, until it answers."""

    def __init__(
        self, federation: Federation, disk: Callable[[Path, int], AbstractContextManager[None]]
    ) -> None:
        super().__init__(federation)
        self.disk = disk
        self.refused: list[set[str]] = []  # by envelope

    def ask(self, party: int, envelope: Envelope, address: int = 0) -> bytes:
        if party:
            return super().ask(party, envelope, address)
        self.refused.append(set())
        for room in range(0, 1 << 20, 2048):
            with self.disk(self.federation.folders[0], room):
                try:
                    return super().ask(party, envelope, address)
                except (StoreError, AuditError, FileError) as error:
                    self.refused[-1].add(type(error).__name__)
        raise AssertionError("a mebibyte is enough")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("disk", "refusal"), [(filled, "StoreError"), (limited, "StoreError"), (split, "AuditError")]
)
def test_a_full_disk_refuses_a_message_and_loses_nothing(
    tmp_path: Path, disk: Callable[[Path, int], AbstractContextManager[None]], refusal: str
) -> None:
    federation = Federation(tmp_path / "parties")
    with ExitStack() as stack:
        if disk is filled:
            federation.folders[0] = stack.enter_context(small(tmp_path / "disk", federation.folders[0]))
        post = Cramped(federation, disk)
        weights = learned(federation, post)
        assert np.array_equal(weights, in_process(federation))
        assert all(refusal in refused for refused in post.refused)
        assert faults(federation) == []


@contextmanager
def small(at: Path, contents: Path) -> Iterator[Path]:
    """A file system of its own of 2 MiB, with a copy of that folder."""
    at.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", str(at)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("NO FILE SYSTEM CAN BE MOUNTED HERE: a full one is tried by a limit on files alone")
    try:
        yield Path(shutil.copytree(contents, at / "party", copy_function=shutil.copy2))
    finally:
        subprocess.run(["umount", str(at)], check=True)


# ---- clocks --------------------------------------------------------------------------------------


class Astray:
    """A clock that is years off and goes back by months at every look."""

    looks = 0

    @staticmethod
    def now(zone: tzinfo) -> datetime:
        Astray.looks += 1
        return datetime(2290, 1, 1, tzinfo=zone) - timedelta(days=100 * Astray.looks)


def test_clocks_that_run_backwards_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "datetime", Astray)
    federation = Federation(tmp_path)
    assert np.array_equal(learned(federation, Post(federation)), in_process(federation))
    assert faults(federation) == []
    for data in logs(federation).values():
        times = [entry.time for entry in read(data).entries]
        assert times == sorted(times, reverse=True)
        assert times[0] - times[-1] > timedelta(days=5 * 365)


def test_nothing_that_makes_a_message_looks_at_a_clock() -> None:
    """The listed modules are those that measure a duration or record a time."""
    looking = {
        str(path.relative_to(ROOT))
        for folder in ("crypto", "protocol")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        and {"time", "datetime", "calendar"}
        & {getattr(node, "module", None), *(one.name for one in node.names)}
    }
    measuring = {"crypto/workers.py", "protocol/transport/driver.py", "protocol/transport/flower/client.py"}
    # For deadlines and for other processes, by a clock that only goes forward.
    waiting = {"protocol/transport/flower/server.py", "protocol/durable/store.py"}
    writing_down = {f"protocol/audit/{name}.py" for name in ("events", "log", "story")}
    # Whether a sender signed its request just now, as Flower does.
    fresh = {"protocol/transport/flower/superlink.py"}
    assert looking == measuring | waiting | writing_down | fresh | {"protocol/transport/logs.py"}
    assert "time.time" not in "".join((ROOT / name).read_text() for name in measuring | waiting)
