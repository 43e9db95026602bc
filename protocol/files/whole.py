"""Files that are complete or absent, and secret files that only their owner can read. POSIX: modes and hard links."""

import os
import re
import secrets
import stat
import tomllib
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from shutil import rmtree
from typing import Any, TypeVar

import msgspec

from secure_afl.protocol.session.errors import FileError

PUBLIC, SECRET = 0o644, 0o600
Parsed = TypeVar("Parsed")
_LEFT = re.compile(r"\..*\.[0-9a-f]{16}\.tmp")
_LARGEST = 2**24  # bytes: enough for a roster of a hundred thousand members


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Create a file in one step, with its mode from the start; never overwrite.

    The data goes to a temporary file, which is then linked to the name, so that a crash leaves no partial file there.
    Raises `FileError` if the name is taken, even by a broken link, or the file cannot be written.
    """
    beside = _beside(path)
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            os.link(beside, path)
        finally:
            beside.unlink()
        try:
            _keep(path.parent)
        except OSError:
            path.unlink()
            raise
    except FileExistsError:
        raise FileError(f"{path}: expected a free name, but the file exists: it is left unchanged") from None
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {error.strerror}") from None


def clear(path: Path) -> None:
    """Remove the temporary files of `write_new` for this name that a killed process left. A process that writes the same
    name now fails. Raises `FileError`.
    """
    try:
        for one in list(path.parent.iterdir()):
            if _LEFT.fullmatch(one.name) and one.name.startswith(f".{path.name[:64]}."):
                one.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {error.strerror}") from None


def replace(path: Path, data: bytes, *, secret: bool = False) -> None:
    """Write a file in one step, replacing an earlier one. secret: for its owner alone. Raises `FileError`."""
    beside = _beside(path)
    try:
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with open(os.open(beside, flags, SECRET if secret else 0o666), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
            _keep(path.parent)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {error.strerror}") from None


def put_aside(path: Path) -> None:
    """Move an earlier run's file at `path` to NAME.previous.EXTENSION, replacing any file there.

    So it cannot be mistaken for a result of the new run, even if that run fails. Pipes and devices stay where they are.
    Raises `FileError`.
    """
    path = path.resolve()
    if not path.is_file():
        return
    try:
        path.replace(path.with_name(f"{path.stem}.previous{path.suffix}"))
    except OSError as error:
        raise FileError(f"{path}: cannot be put aside: {error.strerror}") from None


@contextmanager
def new_folder(path: Path) -> Iterator[None]:
    """A folder for its owner alone, made now, or there before and empty; without what the block put there if that fails.

    Raises `FileError` for one that has something in it, or cannot be made.
    """
    try:
        path.mkdir(parents=True, mode=0o700, exist_ok=True)
        if found := next(path.iterdir(), None):
            raise FileError(
                f"{path}: expected a new folder or an empty one, got one with {found.name!r}: give another"
            )
        path.chmod(0o700)
    except OSError as error:
        raise FileError(f"{path}: cannot be made: {error.strerror}") from None
    try:
        yield
    except BaseException:
        for one in path.iterdir():
            rmtree(one) if one.is_dir() else one.unlink()
        raise


def read(path: Path, *, secret: bool = False) -> bytes:
    """The bytes of a regular file. secret: refuse a file to which its group or others have any access.

    Symbolic links are followed, since services get their secrets as links. The check applies to the target, on the open
    file, so that it cannot be exchanged in between. Raises `FileError`.
    """
    try:
        # Opening a pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise FileError(f"{path}: expected a regular file, got {_kind(mode)}")
            if secret and mode & 0o077:
                raise FileError(
                    f"{path}: expected a file for its owner alone (mode 0600), got mode {stat.S_IMODE(mode):04o}; "
                    f"if nobody else has read it, run: chmod 600 {quote(str(path))}"
                )
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(_LARGEST + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > _LARGEST:
        raise FileError(f"{path}: expected at most {_LARGEST} bytes, got more")
    return data


def read_text(path: Path) -> str:
    """A text in UTF-8. Raises `FileError`."""
    try:
        return read(path).decode()
    except UnicodeDecodeError:
        raise FileError(f"{path}: expected text in UTF-8, got other bytes: save the file as UTF-8") from None


def read_parsed(path: Path, parse: Callable[[str], Parsed]) -> Parsed:
    """Read and parse a text file. Raises `FileError`, also for errors of `parse`, with the path."""
    content = read_text(path)
    try:
        return parse(content)
    except FileError as error:
        raise FileError(f"{path}: {error}") from None


def load_toml(content: str) -> dict[str, Any]:
    """Parse a TOML document. Raises `FileError` with the line."""
    try:
        return tomllib.loads(content)
    except (ValueError, RecursionError) as error:
        raise FileError(f"expected TOML, but the text does not parse: {str(error)[:200]}") from None


def parse_toml(content: str, kind: type[Parsed]) -> Parsed:
    """A TOML document as a structure of msgspec. Raises `FileError`."""
    try:
        return msgspec.convert(load_toml(content), kind)
    except msgspec.ValidationError as error:
        raise FileError(str(error)) from None


def read_toml(path: Path, kind: type[Parsed]) -> Parsed:
    """A TOML file as a structure of msgspec. Raises `FileError`."""
    return read_parsed(path, lambda content: parse_toml(content, kind))


def check_printable(part: Any, where: str = "") -> None:
    """Raises `FileError` for a name or text of a TOML document with characters that are not printable: on a terminal they
    could hide, or forge, what the document says.
    """
    if isinstance(part, str):
        if found := [one for one in part if not one.isprintable() and unicodedata.category(one) != "Zs"]:
            raise FileError(
                f"expected printable characters in one line, got {found[0]!r} in {where or 'a name'}"
            )
    elif isinstance(part, dict):
        for name, inner in part.items():
            check_printable(name, where)
            check_printable(inner, f"{where}.{name}" if where else name)
    elif isinstance(part, list):
        for inner in part:
            check_printable(inner, where)


def _beside(path: Path) -> Path:
    """A temporary name; another process may write one at the same time."""
    return path.with_name(f".{path.name[:64]}.{secrets.token_hex(8)}.tmp")


def _keep(folder: Path) -> None:
    """Make a new name in a folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _kind(mode: int) -> str:
    kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}
    return next((name for test, name in kinds.items() if test(mode)), "a device")
