"""A party's node whose messages are disturbed, and which writes down what it is asked and says.

    python tests/worlds/disturbed_node.py FOLDER

`fate` in the party's folder has a seed and the share of messages that are disturbed; without it nothing happens. `trace`
gets a line for each vector, message and disturbance, as soon as it is known and before anything of it leaves.
"""

import os
import random
import resource
import sys
import time
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec

from secure_afl.crypto.errors import CryptoError, SecureAflError
from secure_afl.node.node import Node
from secure_afl.protocol.audit import log
from secure_afl.protocol.session.parameters import SumWanted
from secure_afl.protocol.transport.driver import Contribution
from secure_afl.protocol.transport.endpoint import Endpoint
from secure_afl.protocol.transport.flower import fleet
from secure_afl.protocol.transport.flower.fleet import Delivery, Fleet
from secure_afl.protocol.transport.post import Channel, Envelope
from secure_afl.testing import record
from worlds.mortal_node import die

NODE = (sys.executable, str(Path(__file__)))  # for `Loopback(node=…)`

DISTURBANCES = {
    "answer lost": 1, "answer delayed": 4, "answer twice": 4, "question twice": 4, "old question": 4,
    "killed before": 2, "killed after": 2, "clock": 4, "disk full": 3,
}  # fmt: skip
"""What happens to a message, with weights."""
_FATES = {
    "answer lost": "lost",
    "killed after": "lost",
    "answer delayed": "late",
    "answer twice": "repeated",
    "question twice": "repeated",
}
_STEPS = (1.0, 60.0, 290.0, 400.0, 86400.0, 10 * 365 * 86400.0)  # seconds


class Line(msgspec.Struct, omit_defaults=True):
    """A line of a trace. at: by the clock of all processes, in ns; session: its number.

    question, answer, fate: a message and what was said to it, empty for a refusal; values, data_set: a vector that is handed
    in, or at the server a sum; survivors: of the sum; happened: a disturbance.
    """

    at: int
    session: bytes = b""
    question: bytes = b""
    answer: bytes = b""
    fate: str = "arrived"
    values: bytes = b""
    data_set: str = ""
    survivors: tuple[int, ...] = ()
    happened: str = ""


class Fate(msgspec.Struct):
    """What a folder's `fate` holds. delay: the longest of an answer, in seconds."""

    seed: int = 0
    rate: float = 0.0
    delay: float = 0.0


def note(folder: Path, **known: Any) -> None:
    """Add a line to a folder's trace."""
    with (folder / "trace").open("ab") as trace:
        trace.write(b"\n" + msgspec.json.encode(Line(time.monotonic_ns(), **known)))


class Clock:
    """What this node takes for the time: now and then it jumps, and some seconds later it jumps back."""

    def __init__(self) -> None:
        self.ahead, self.ends = timedelta(), 0.0

    def jump(self, seconds: float, lasts: float) -> None:
        self.ahead, self.ends = timedelta(seconds=seconds), time.monotonic() + lasts

    def now(self, zone: tzinfo | None = UTC) -> datetime:
        return datetime.now(zone) + (self.ahead if time.monotonic() < self.ends else timedelta())


class Disturbed:
    """The disturbances of one node."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.fate, self.clock = folder, Fate(), Clock()
        self.past: list[Envelope] = []
        self.reply = ""  # what happens to the next one
        self._makes, self._answers, self._replies = Endpoint.__init__, Endpoint.answer, Fleet.reply

    def install(self) -> None:
        """Disturb every endpoint and every connection of this process."""
        Endpoint.__init__ = lambda *given, **more: self.made(*given, **more)  # type: ignore[method-assign]
        Endpoint.answer = lambda *given: self.answer(*given)  # type: ignore[method-assign]
        Fleet.reply = lambda *given: self.replied(*given)  # type: ignore[method-assign]
        fleet.now = self.clock.now  # type: ignore[attr-defined]
        log.datetime = self.clock  # type: ignore[assignment,attr-defined]

    def drawn(self) -> str:
        """What happens to this message; nothing as a rule."""
        told = self.folder / "fate"
        fate = msgspec.json.decode(told.read_bytes(), type=Fate) if told.exists() else Fate()
        if fate != self.fate:
            self.fate, self.draw = fate, random.Random(f"{fate.seed} {self.folder.name} {os.getpid()}")
        if not fate.rate or self.draw.random() >= fate.rate:
            return ""
        (what,) = self.draw.choices([*DISTURBANCES], [*DISTURBANCES.values()])
        note(self.folder, happened=what)
        return what

    def made(
        self, endpoint: Endpoint, identity: Any, terms: Any, store: Any, contribute: Any, **more: Any
    ) -> None:
        """A party that writes down what it hands in, before it does; on a full disk, too."""

        def noted(wanted: SumWanted, learned: bytes) -> Contribution:
            values, data_set = contribute(wanted, learned)
            full, most = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            note(self.folder, session=wanted.session, values=record.numbers(values), data_set=data_set)
            resource.setrlimit(resource.RLIMIT_FSIZE, (full, most))
            return values, data_set

        self._makes(endpoint, identity, terms, store, noted, **more)

    def answer(self, endpoint: Endpoint, envelope: Envelope, address: int) -> bytes:
        self.reply = ""
        if envelope.channel not in (Channel.MASKED, Channel.END):
            return self._answers(endpoint, envelope, address)
        what = self.reply = self.drawn()
        if what == "killed before":
            die()
        if what == "clock":
            self.clock.jump(self.draw.choice(_STEPS) * self.draw.choice((-1, 1)), self.draw.uniform(0.5, 6.0))
        if what == "old question" and self.past:
            self.said(endpoint, self.draw.choice(self.past), address)
        if what == "question twice":
            self.said(endpoint, envelope, address)
        given = self.said(endpoint, envelope, address, what)
        if what == "killed after":
            die()
        if isinstance(given, Exception):
            raise given
        return given

    def said(
        self, endpoint: Endpoint, envelope: Envelope, address: int, what: str = ""
    ) -> bytes | SecureAflError | CryptoError:
        """What the party answers, or why it refuses."""
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        if what == "disk full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, unlimited[1]))
        given: bytes | SecureAflError | CryptoError
        try:
            given = self._answers(endpoint, envelope, address)
        except (SecureAflError, CryptoError) as error:
            given = error
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        if envelope.channel is Channel.MASKED:
            self.past.append(envelope)
            answer = given if isinstance(given, bytes) else b""
            fate = _FATES.get(what, "arrived")
            note(self.folder, session=envelope.session, question=envelope.data, answer=answer, fate=fate)
        return given

    def replied(self, connection: Fleet, delivery: Delivery, content: object, seconds: float = 0.0) -> None:
        what, self.reply = self.reply, ""
        if what == "answer lost":
            return
        if what == "answer delayed":
            time.sleep(self.draw.uniform(0.0, self.fate.delay))
        for _ in range(1 + (what == "answer twice")):
            self._replies(connection, delivery, content, seconds)


if __name__ == "__main__":
    Disturbed(Path(sys.argv[1])).install()
    Node(Path(sys.argv[1])).run()
