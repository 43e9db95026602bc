"""The neutral record of sessions of a secure sum: JSON lines that any language can write, and how to read them.

Each line is one object with a `type`. A `system` line begins a fresh system; `session` opens a session in it; `input`
lines give what clients hand in for sum `number`; `message` lines are what travelled, in order; a `sum`, `refusal` or `crash`
ends a sum. Bytes are in base64; `values` are float64 numbers, little endian. `docs/verification/record.md` describes
every field, and the JSON Schema is `schema()`.
"""

import hashlib
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt

VERSION = 1

Vector = npt.NDArray[np.float64]


class RecordError(ValueError):
    """A record, or a statement of claims, that cannot be read."""


class Claims(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What a system claims of itself. What it does not claim is not held against it.

    name: shown in reports. clients: the fewest and the most of a session. cohort: how many the checks usually take;
    dropouts: how many of these may be lost without a refusal. least: the fewest survivors of a sum. largest: the length
    of the longest vector. bound: the largest entry, in absolute value. fraction_bits: entries that are multiples of
    2**-fraction_bits are summed within error, an absolute number for an entry of the sum.

    survivors: a sum names its survivors. private: what leaves a client tells only the sum. validated: bad input is
    refused. ledger: a data set serves one session; renewal: until it is renewed. once: a sum is made once. related: sums
    of a session opened with `related` have the same survivors. authenticated: a message that was altered changes no sum.
    traced: all messages are recorded. phases: the names of the steps of a sum at which a client may be lost; uploads:
    those in which vectors travel. slow: experiments
    take fewer sums. Empty: they are learnt from a first session.
    """

    name: str = "the system"
    clients: tuple[int, int] = (2, 9)
    cohort: int = 5
    dropouts: int = 0
    least: int = 2
    largest: int = 2**17
    bound: float = 2.0**26
    fraction_bits: int = 0
    error: float = 0.0
    survivors: bool = True
    private: bool = True
    validated: bool = True
    ledger: bool = False
    renewal: bool = False
    once: bool = True
    related: bool = False
    authenticated: bool = False
    traced: bool = True
    slow: bool = False
    phases: tuple[str, ...] = ()
    uploads: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        fewest, most = self.clients
        if not 2 <= fewest <= most or not fewest <= self.cohort <= most:
            raise ValueError(
                f"expected 2 <= fewest <= cohort <= most clients, got {self.clients} and {self.cohort}"
            )
        if not 0 <= self.dropouts <= self.cohort - self.least:
            raise ValueError(
                f"expected dropouts that leave {self.least} of {self.cohort} clients, got {self.dropouts}"
            )
        if not (self.bound > 0 and self.error >= 0 and self.largest >= 1 and 0 <= self.fraction_bits <= 64):
            raise ValueError(
                "expected a positive bound and length, and an error and fraction bits of 0 or more"
            )


def claims(given: Any) -> Claims:
    """Claims from a mapping, or as they are. Raises `RecordError`."""
    if isinstance(given, Claims):
        return given
    try:
        return msgspec.convert(given, Claims)
    except (msgspec.ValidationError, ValueError, TypeError) as error:
        raise RecordError(
            f"expected claims as `secure_afl.testing.record.Claims` lists them: {error}"
        ) from None


class System(msgspec.Struct, frozen=True, omit_defaults=True, tag="system"):
    """A fresh system. replay: what makes this part of the record again. carried: every message, lost ones too, is here."""

    version: int
    claims: Claims
    replay: str = ""
    carried: bool = False


class Opened(msgspec.Struct, frozen=True, omit_defaults=True, tag="session"):
    """A session for these clients, in the order in which they were named, with sums of these lengths."""

    clients: tuple[str, ...]
    lengths: tuple[int, ...]
    data_set: str = ""
    related: bool = False


class Renewed(msgspec.Struct, frozen=True, tag="renewal"):
    """A data set may serve another session."""

    data_set: str


class Input(msgspec.Struct, frozen=True, omit_defaults=True, tag="input"):
    """A client's vector for a sum. digest: SHA-256 of its bytes; after: the digest when the sum had been made, if another.
    bad: what is wrong with it, for input that must be refused. values may be left out; then the sum is not judged.
    """

    number: int
    client: str
    digest: str
    values: bytes | None = None
    bad: str = ""
    after: str = ""

    @property
    def vector(self) -> Vector | None:
        return None if self.values is None else np.frombuffer(self.values, "<f8")


class Message(msgspec.Struct, frozen=True, omit_defaults=True, tag="message"):
    """A message. number: of the sum, -1 before the first. payload: the masked vector in it, where the system can tell.
    fate: "arrived", "lost", "repeated", "late" (that it came with a later message, or one came with it) or "altered".
    """

    number: int
    phase: str
    sender: str
    receiver: str
    data: bytes
    payload: bytes | None = None
    fate: str = "arrived"


class Sum(msgspec.Struct, frozen=True, omit_defaults=True, tag="sum"):
    """A sum that was released. result: everything that the returned object holds, as bytes."""

    number: int
    values: bytes
    survivors: tuple[str, ...] | None = None
    result: bytes = b""

    @property
    def vector(self) -> Vector:
        return np.frombuffer(self.values, "<f8")


class Refusal(msgspec.Struct, frozen=True, omit_defaults=True, tag="refusal"):
    """A sum, or with number -1 a session, that was refused."""

    number: int
    text: str


class Crash(msgspec.Struct, frozen=True, omit_defaults=True, tag="crash"):
    """An exception that is no refusal."""

    number: int
    error: str
    traceback: str = ""


class Generator(msgspec.Struct, frozen=True, tag="generator"):
    """A use of a random generator that can be foretold."""

    use: str


class Keys(msgspec.Struct, frozen=True, tag="keys"):
    """SHA-256 digests of the secret keys that a client holds."""

    client: str
    digests: tuple[str, ...]


class Revealed(msgspec.Struct, frozen=True, tag="revealed"):
    """How much of a client's secrets for a sum stood in messages to others than clients. kinds: by the kind of secret, how
    many of its shares did, and how many make it known; whoever knows all kinds can unmask the client's upload.
    """

    number: int
    client: str
    kinds: dict[str, tuple[int, int]]


Record = System | Opened | Renewed | Input | Message | Sum | Refusal | Crash | Generator | Keys | Revealed

_DECODER: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


def numbers(values: Any) -> bytes:
    """Numbers as a record keeps them."""
    return np.ascontiguousarray(values, "<f8").tobytes()


def digest(vector: Any) -> str:
    """SHA-256 of what a caller holds, whatever its type and shape."""
    array = np.asarray(vector)
    return hashlib.sha256(f"{array.dtype.str}{array.shape}".encode() + array.tobytes()).hexdigest()


def noted(records: Iterable[Record], file: BinaryIO) -> Iterator[Record]:
    """The same records; each is written as a JSON line when it is taken."""
    for one in records:
        file.write(msgspec.json.encode(one) + b"\n")
        yield one


def write(path: Path, records: Iterable[Record]) -> None:
    """Write a record as JSON lines."""
    with path.open("wb") as file:
        for _ in noted(records, file):
            pass


def read(path: Path) -> Iterator[Record]:
    """The lines of a record. Raises `RecordError` with the number of a bad line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                one = _DECODER.decode(line)
            except (msgspec.MsgspecError, ValueError) as error:
                raise RecordError(f"{path}, line {number}: {error}") from None
            if isinstance(one, System) and one.version != VERSION:
                raise RecordError(f"{path}, line {number}: expected version {VERSION}, got {one.version}")
            yield one


class Spool:
    """Keeps long bodies of messages in a temporary file, which goes when nothing refers to it."""

    _LONG = 2**12  # bytes

    def __init__(self) -> None:
        self._file: BinaryIO | None = None
        self._end = 0

    def keep(self, data: bytes) -> "bytes | Kept":
        """The bytes themselves if they are few."""
        if len(data) < self._LONG:
            return data
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - whatever is kept in it needs it
            weakref.finalize(self, self._file.close)
        self._file.write(data)  # all of it, or an error: a full disk must not shorten a message
        self._file.flush()
        self._end += len(data)
        return Kept(self, self._end - len(data), len(data))

    def read(self, start: int, size: int) -> bytes:
        """Bytes that are kept."""
        assert self._file is not None
        return os.pread(self._file.fileno(), size, start)


@dataclass(frozen=True, slots=True)
class Kept:
    """Bytes in a spool."""

    spool: Spool
    start: int
    size: int

    def read(self) -> bytes:
        return self.spool.read(self.start, self.size)


class Sent:
    """A message, as `Message`, with what is long in a spool."""

    __slots__ = ("_data", "_payload", "fate", "number", "phase", "receiver", "sender")

    def __init__(self, message: Message, spool: Spool) -> None:
        self.number, self.phase, self.fate = message.number, message.phase, message.fate
        self.sender, self.receiver = message.sender, message.receiver
        self._data = spool.keep(message.data)
        self._payload = None if message.payload is None else spool.keep(message.payload)

    @property
    def data(self) -> bytes:
        return self._data.read() if isinstance(self._data, Kept) else self._data

    @property
    def upload(self) -> bytes:
        """The payload, or without one all of it."""
        if self._payload is None:
            return self.data
        return self._payload.read() if isinstance(self._payload, Kept) else self._payload

    @property
    def size(self) -> int:
        """Bytes of the whole message."""
        return self._data.size if isinstance(self._data, Kept) else len(self._data)


def schema() -> dict[str, Any]:
    """The JSON Schema of a line."""
    return msgspec.json.schema(Record)
