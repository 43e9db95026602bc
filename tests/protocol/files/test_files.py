"""Files are whole or not there, never written over, and secret ones are for their owner alone."""

import os
import signal
import stat
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds.patience import HANG

from secure_afl.protocol.files import whole
from secure_afl.protocol.session.errors import FileError


@given(st.binary(max_size=2000), st.sampled_from([whole.PUBLIC, whole.SECRET]), st.integers(0, 0o77))
def test_what_is_written_is_read_back_with_its_mode(data: bytes, mode: int, umask: int) -> None:
    with TemporaryDirectory() as name:
        path = Path(name) / "file"
        before = os.umask(umask)
        try:
            whole.write_new(path, data, mode)
        finally:
            os.umask(before)
        assert whole.read(path) == data
        assert stat.S_IMODE(path.stat().st_mode) == mode & ~umask
        assert os.listdir(name) == ["file"]


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    for name in ("file", "link", "folder"):
        with pytest.raises(FileError, match=f"{name}: expected a free name"):
            whole.write_new(tmp_path / name, b"other", whole.SECRET)
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["file", "folder", "link"]


@pytest.mark.parametrize("step", ["link", "fsync"])
def test_a_failure_leaves_nothing_and_the_secret_was_never_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    seen: list[int] = []

    def fail(*_: object) -> None:
        seen.extend(stat.S_IMODE(one.stat().st_mode) for one in tmp_path.iterdir())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    before = os.umask(0)
    try:
        with pytest.raises(FileError, match="file: cannot be written: No space left on device"):
            whole.write_new(tmp_path / "file", b"secret", whole.SECRET)
    finally:
        os.umask(before)
    assert seen == [0o600]
    assert os.listdir(tmp_path) == []


def test_a_name_that_may_not_last_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_for_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail_for_folders)
    with pytest.raises(FileError, match="file: cannot be written: Input/output error"):
        whole.write_new(tmp_path / "file", b"secret", whole.SECRET)
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_left_is_for_its_owner_alone_and_removed(tmp_path: Path) -> None:
    (tmp_path / ".notes.key.tmp").write_text("mine")
    (tmp_path / ".other.key.0123456789abcdef.tmp").write_text("of another name")
    child = os.fork()
    if not child:
        os.umask(0)
        os.link = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        whole.write_new(tmp_path / "A.key", b"secret", whole.SECRET)
    os.waitpid(child, 0)
    (left,) = tmp_path.glob(".A.key.*.tmp")
    assert left.read_bytes() == b"secret"
    assert stat.S_IMODE(left.stat().st_mode) == 0o600
    whole.clear(tmp_path / "A.key")
    assert sorted(os.listdir(tmp_path)) == [".notes.key.tmp", ".other.key.0123456789abcdef.tmp"]


def test_of_two_that_write_at_once_one_wins(tmp_path: Path) -> None:
    won: list[bytes] = []
    start = threading.Barrier(8)

    def write(number: int) -> None:
        start.wait()
        try:
            whole.write_new(tmp_path / "file", b"%d" % number, whole.SECRET)
        except FileError:
            return
        won.append(b"%d" % number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [(tmp_path / "file").read_bytes()]


@given(st.integers(0, 0o777))
def test_a_secret_is_read_only_if_nobody_else_may(mode: int) -> None:
    mode |= 0o400
    with TemporaryDirectory() as name:
        path, link = Path(name) / "it's secret", Path(name) / "link"
        path.write_bytes(b"secret")
        path.chmod(mode)
        link.symlink_to(path)  # what counts is where it leads
        for way in (path, link):
            assert whole.read(way) == b"secret"
            if mode & 0o077:
                with pytest.raises(FileError, match=rf"mode 0600\), got mode {mode:04o}; .* chmod 600 "):
                    whole.read(way, secret=True)
            else:
                assert whole.read(way, secret=True) == b"secret"


def test_what_is_no_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")

    def waited(*_: object) -> None:
        raise AssertionError("waits for somebody who writes into the pipe")

    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(int(HANG))
    try:
        with pytest.raises(FileError, match="got a pipe"):
            whole.read(tmp_path / "pipe")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    for name, got in (
        ("zero", "got a device"),
        (".", "got a folder"),
        ("absent", "No such file"),
        ("loop", "symbolic links"),
    ):
        with pytest.raises(FileError, match=got):
            whole.read(tmp_path / name)
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(FileError, match="expected text in UTF-8"):
        whole.read_text(tmp_path / "bytes")
    monkeypatch.setattr(whole, "_LARGEST", 10)
    (tmp_path / "large").write_bytes(bytes(11))
    with pytest.raises(FileError, match="at most 10 bytes"):
        whole.read(tmp_path / "large")


@pytest.mark.parametrize(("secret", "mode"), [(True, 0o600), (False, 0o644)])
def test_a_file_that_takes_anothers_place_has_its_own_mode(tmp_path: Path, secret: bool, mode: int) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o640)
    before = os.umask(0o022)
    try:
        whole.replace(path, b"new", secret=secret)
    finally:
        os.umask(before)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_folder_that_could_not_be_filled_is_left_empty(tmp_path: Path) -> None:
    folder = tmp_path / "made"

    def fill() -> None:
        with whole.new_folder(folder):
            (folder / "within" / "it").mkdir(parents=True)
            (folder / "file").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fill()
    assert not list(folder.iterdir())
