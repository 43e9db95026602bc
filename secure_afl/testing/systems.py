"""Systems under test: a Python object, a program, or a server, driven in one way and written down.

A Python system is an object that a factory makes. The factory gets one function, by which all messages travel:

    arrived = carry(phase, sender, receiver, data)

`arrived` is the list of messages that arrive now: empty if it was lost. The object has

    claims                                  a dict, see `secure_afl.testing.record.Claims`
    open(clients, lengths)                  a session; also `data_set=` with a ledger, `related=` if that is claimed
    sum(number, vectors)                    vectors: float64 arrays by client; returns (total, survivors), or an object
                                            with these attributes; only the total where survivors are not claimed
    renew(data_set)                         if renewal is claimed
    refusals                                the exceptions that are refusals; (ValueError,) if it has none
    payload(phase, data)                    optional: the masked vector in an upload
    keys()                                  optional: the secret keys that each client holds, bytes by client
    secrets(number)                         optional: what unmasks an upload of that sum, {client: {kind: (needed,
                                            [share, …])}}: whoever has as many of the shares as are needed, of every
                                            kind; shares are bytes as messages hold them

A program reads requests, one JSON object a line, from its standard input and writes one answer a line; a server gets the
same objects by POST. `docs/verification/record.md` lists them.
"""

import base64
import json
import pickle
import random
import select
import shlex
import signal
import subprocess
import threading
import traceback
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from secure_afl.testing.faults import CHANGES
from secure_afl.testing.record import (
    Claims,
    Message,
    Record,
    RecordError,
    claims,
    numbers,
)

Carry = Callable[[str, str, str, bytes], list[bytes]]
Factory = Callable[[Carry], Any]
Secrets = Mapping[str, Mapping[str, tuple[int, Iterable[bytes]]]]

DELAYS = ("repeat", "late", "a sum late")
"""What networks do to honest messages: deliver them twice, with the next message on the way, or of the phase."""
ALTERATIONS = (*CHANGES, "repeat", "late", "another's", "earlier")


PATIENCE = 120.0  # seconds for a step of a system before it counts as hung


class RefusedError(Exception):
    """The system refused."""


class CrashedError(Exception):
    """The system raised something that is no refusal. The text is its traceback."""


@dataclass(frozen=True)
class Alteration:
    """What happens to messages of a phase. who: the party that sends or receives them, None for all. up: from clients."""

    handling: str
    phase: str
    up: bool = True
    who: str | None = None


@dataclass(frozen=True)
class Result:
    """What a system returned for a sum. content: everything in it, as bytes."""

    total: Any
    survivors: tuple[str, ...] | None
    content: bytes = b""


@dataclass
class Wire:
    """The network of the checks: writes down what is sent and decides what arrives. given: the arrays of the last sum, by
    the places of their lines in the record.
    """

    records: list[Record] = field(default_factory=list)
    given: dict[int, Any] = field(default_factory=dict)
    clients: frozenset[str] = frozenset()
    number: int = -1
    lost: Mapping[str, str] = field(default_factory=dict)
    alteration: Alteration | None = None
    payload: Callable[[str, bytes], bytes] | None = None
    draws: random.Random = field(default_factory=random.Random)
    dead: set[str] = field(default_factory=set)
    _late: dict[tuple[str, str, str], list[bytes]] = field(default_factory=dict)
    _others: dict[tuple[str, bool], bytes] = field(default_factory=dict)
    _earlier: dict[tuple[str, str, str], bytes] = field(default_factory=dict)

    def begin(self, number: int, lost: Mapping[str, str], alteration: Alteration | None) -> None:
        """A sum begins. lost: clients and the phase from which on nothing of them arrives; "" is the first."""
        self.number, self.lost, self.alteration = number, lost, alteration
        self.dead = {client for client, phase in lost.items() if not phase}
        self._late = {key: held for key, held in self._late.items() if key[-1]}

    def carry(self, phase: str, sender: str, receiver: str, data: bytes) -> list[bytes]:
        """Send a message; returns what arrives."""
        data = bytes(data)
        self.dead |= {one for one in (sender, receiver) if self.lost.get(one) == phase}
        arrived, fate = self._arriving(phase, sender, receiver, data)
        if sender in self.dead or receiver in self.dead:
            arrived, fate = [], "lost"
        payload = self.payload(phase, data) if self.payload and sender in self.clients else None
        self.records.append(Message(self.number, phase, sender, receiver, data, payload, fate))
        return arrived

    def _arriving(self, phase: str, sender: str, receiver: str, data: bytes) -> tuple[list[bytes], str]:
        one, up, link = self.alteration, sender in self.clients, (sender, receiver)
        other, earlier = self._others.get((phase, up), data), self._earlier.get((phase, *link), data)
        self._others[phase, up] = self._earlier[phase, *link] = data
        before = self._late.pop((*link, ""), []) + self._late.pop((*link, phase), [])
        if one is None or (one.phase, one.up) != (phase, up) or one.who not in (None, sender, receiver):
            return [data, *before], "late" if before else "arrived"
        match one.handling:
            case "repeat":
                return [data, data], "repeated"
            case "late" | "a sum late":
                self._late[*link, "" if one.handling == "late" else phase] = [data]
                return before, "late"
            case "another's":
                return [other], "altered"
            case "earlier":
                return [earlier], "altered"
            case change:
                return [CHANGES[change](data, self.draws) if data else data], "altered"


class Driver(Protocol):
    """A fresh system. Raises `RefusedError` and `CrashedError`."""

    def open(self, clients: Sequence[str], lengths: Sequence[int], data_set: str, related: bool) -> None: ...
    def sum(self, number: int, vectors: Mapping[str, Any]) -> Result: ...
    def renew(self, data_set: str) -> None: ...
    def keys(self) -> Mapping[str, Iterable[bytes]]: ...
    def secrets(self, number: int) -> Secrets: ...


class Target(Protocol):
    """Makes fresh systems. alters: whether messages can be altered on their way."""

    alters: bool
    name: str

    @property
    def claims(self) -> Claims: ...
    def fresh(self, wire: Wire) -> Driver: ...


# ---- Python objects ------------------------------------------------------------------------------


@dataclass
class PythonTarget:
    """Systems that a factory makes in this process. stated: claims, where the system has none."""

    factory: Factory
    stated: Claims | None = None
    name: str = ""
    alters: bool = True

    @property
    def claims(self) -> Claims:
        if self.stated is None:
            made = _guarded((), lambda: self.factory(Wire().carry))
            if not hasattr(made, "claims"):
                raise RecordError(f"expected {type(made).__name__} to have `claims`, a dict; it has none")
            self.stated = claims(made.claims)
        return self.stated

    def fresh(self, wire: Wire) -> "PythonDriver":
        stated = self.claims
        return PythonDriver(_guarded((), lambda: self.factory(wire.carry)), stated, wire)


@dataclass
class PythonDriver:
    system: Any
    stated: Claims
    wire: Wire

    def __post_init__(self) -> None:
        self.refusals = tuple(getattr(self.system, "refusals", (ValueError,)))
        self.wire.payload = getattr(self.system, "payload", None)

    def open(self, clients: Sequence[str], lengths: Sequence[int], data_set: str, related: bool) -> None:
        more: dict[str, Any] = {}
        if self.stated.ledger:
            more["data_set"] = data_set
        if self.stated.related:
            more["related"] = related
        _guarded(self.refusals, lambda: self.system.open(list(clients), list(lengths), **more))

    def sum(self, number: int, vectors: Mapping[str, Any]) -> Result:
        given = _guarded(self.refusals, lambda: self.system.sum(number, dict(vectors)))
        rest: Any = None
        if hasattr(given, "total"):
            total, survivors = given.total, getattr(given, "survivors", None)
            rest = {key: value for key, value in getattr(given, "__dict__", {}).items() if key != "total"}
        elif isinstance(given, tuple) and len(given) == 2:
            total, survivors = given
        else:
            total, survivors = given, None
        # The last digits of an inexact sum depend on who gave what: they are its error, not a leak.
        content = _content((rest, survivors) if self.stated.error else given)
        return Result(total, None if survivors is None else tuple(map(str, survivors)), content)

    def renew(self, data_set: str) -> None:
        _guarded(self.refusals, lambda: self.system.renew(data_set))

    def keys(self) -> Mapping[str, Iterable[bytes]]:
        return dict(self.system.keys()) if hasattr(self.system, "keys") else {}

    def secrets(self, number: int) -> Secrets:
        return dict(self.system.secrets(number)) if hasattr(self.system, "secrets") else {}


class _NoAnswerError(BaseException):
    """A system took too long. No `except Exception` of its own keeps it."""


@contextmanager
def _alarm() -> Iterator[None]:
    """Raises `_NoAnswerError` in a body that takes too long; in the main thread of a system with alarms."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(number: int, frame: Any) -> None:
        raise _NoAnswerError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _guarded(refusals: tuple[type[Exception], ...], step: Callable[[], Any]) -> Any:
    """A step's result; a stated exception is a refusal, any other a crash, and so is no answer in `PATIENCE` seconds."""
    try:
        with _alarm():
            return step()
    except _NoAnswerError:
        raise CrashedError(f"no answer in {PATIENCE:g} s") from None
    except refusals as error:
        raise RefusedError("\n".join([str(error), *getattr(error, "__notes__", ())]).strip()) from None
    except Exception as error:  # noqa: BLE001 - whatever a stranger's code raises is a finding
        frames = traceback.format_exception(
            type(error), error, error.__traceback__.tb_next if error.__traceback__ else None
        )
        raise CrashedError("".join(frames[-6:])) from None


def _content(given: Any) -> bytes:
    """All that an object holds, as bytes: what a pickle would show, and what one would leave out."""
    parts: list[bytes] = []
    seen: set[int] = set()

    def walk(one: Any, depth: int) -> None:
        if depth > 6 or id(one) in seen or callable(one):
            return
        seen.add(id(one))
        match one:
            case np.ndarray():
                parts.append(repr(one.tolist()).encode() if one.dtype == object else one.tobytes())
            case np.generic():
                parts.append(one.tobytes())
            case bool() | int() | float():
                parts.append(numbers(float(one)) if abs(one) < 2**1000 else str(one).encode())
            case str():
                parts.append(one.encode())
            case bytes() | bytearray() | memoryview():
                parts.append(bytes(one))
            case Mapping():
                for key, value in list(one.items())[:1000]:
                    walk(key, depth + 1)
                    walk(value, depth + 1)
            case list() | tuple() | set() | frozenset():
                for value in list(one)[:100_000]:
                    walk(value, depth + 1)
            case _:
                walk(dict(getattr(one, "__dict__", {})), depth + 1)
                for kind in type(one).__mro__:
                    for name in getattr(kind, "__slots__", ()):
                        walk(getattr(one, name, None), depth + 1)

    walk(given, 0)
    try:
        parts.append(pickle.dumps(given))
    except Exception:  # noqa: BLE001 - what cannot be pickled shows nothing by its pickle
        parts.append(b"")
    return b"".join(parts)


# ---- programs and servers ------------------------------------------------------------------------

Ask = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass
class RemoteTarget:
    """A system elsewhere, by requests. It carries its messages itself, loses what it is told to, and lists them."""

    ask: Ask
    name: str = ""
    alters: bool = False
    _claims: Claims | None = None

    @property
    def claims(self) -> Claims:
        if self._claims is None:
            self._claims = claims(_answer(self.ask, {"do": "claims"}, "claims")["claims"])
        return self._claims

    def fresh(self, wire: Wire) -> "RemoteDriver":
        _answer(self.ask, {"do": "fresh"})
        return RemoteDriver(self.ask, wire)


@dataclass
class RemoteDriver:
    ask: Ask
    wire: Wire

    def open(self, clients: Sequence[str], lengths: Sequence[int], data_set: str, related: bool) -> None:
        request = {"do": "open", "clients": list(clients), "lengths": list(lengths)}
        self._told({**request, "data_set": data_set, "related": related})

    def sum(self, number: int, vectors: Mapping[str, Any]) -> Result:
        given = {client: np.asarray(vector).tolist() for client, vector in vectors.items()}
        request = {"do": "sum", "number": number, "vectors": given, "lost": dict(self.wire.lost)}
        answer = self._told(request, "total")
        survivors = answer.get("survivors")
        rest = {key: value for key, value in answer.items() if key != "messages"}
        return Result(
            answer["total"],
            None if survivors is None else tuple(map(str, survivors)),
            json.dumps(rest).encode(),
        )

    def renew(self, data_set: str) -> None:
        self._told({"do": "renew", "data_set": data_set})

    def keys(self) -> Mapping[str, Iterable[bytes]]:
        return {}

    def secrets(self, number: int) -> Secrets:
        return {}

    def _told(self, request: dict[str, Any], *needed: str) -> dict[str, Any]:
        answer = _answer(self.ask, request, *needed, refused=self._note)
        self._note(answer)
        return answer

    def _note(self, answer: dict[str, Any]) -> None:
        for one in answer.get("messages", ()):
            payload = one.get("payload")
            self.wire.records.append(
                Message(
                    self.wire.number,
                    str(one["phase"]),
                    str(one["from"]),
                    str(one["to"]),
                    base64.b64decode(one["data"]),
                    None if payload is None else base64.b64decode(payload),
                    "lost" if one.get("lost") else "arrived",
                )
            )


def _answer(
    ask: Ask, request: dict[str, Any], *needed: str, refused: Callable[[dict[str, Any]], None] | None = None
) -> dict[str, Any]:
    try:
        answer = ask(request)
    except (OSError, ValueError) as error:
        raise CrashedError(f"no answer to {request['do']!r}: {error}") from None
    if not isinstance(answer, dict):
        raise CrashedError(f"expected an object in answer to {request['do']!r}, got {type(answer).__name__}")
    if "refused" in answer or "crashed" in answer:
        if refused:
            refused(answer)
        if "refused" in answer:
            raise RefusedError(str(answer["refused"]))
        raise CrashedError(str(answer["crashed"]))
    if missing := set(needed) - answer.keys():
        raise CrashedError(
            f"expected {', '.join(sorted(missing))} in answer to {request['do']!r}, got {sorted(answer)}"
        )
    return answer


class Program:
    """A program that answers requests on its standard output, started in `cwd`. `close` ends it."""

    def __init__(self, command: str, cwd: Path | None = None) -> None:
        self._process = subprocess.Popen(
            shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=cwd
        )

    def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # NaN and infinity are sent as JavaScript and Python write them: bad input must get through.
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], PATIENCE)[0]:
            self._process.kill()
            raise OSError(f"the program gave no answer in {PATIENCE:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise OSError(f"the program ended with exit code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the program."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def url_asker(url: str, timeout: float = PATIENCE) -> Ask:
    """Requests by POST. Raises ValueError unless the address begins with http:// or https://."""
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"expected an address that begins with http:// or https://, got {url!r}")

    def ask(request: dict[str, Any]) -> dict[str, Any]:
        sent = urllib.request.Request(
            url, json.dumps(request).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(sent, timeout=timeout) as response:
            answer: dict[str, Any] = json.loads(response.read())
        return answer

    return ask
