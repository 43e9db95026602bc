"""Disturbs sessions of masked sums in every way at once, and gives their histories to the offline checker.

    python tests/long/disturbed.py [--sessions 1000] [--seed N] [--keep FILE]

Clients and the server are processes with their own files, as in `killed.py`. What happens to them is drawn at random from
the seed: SIGKILL at named points and at any moment, SIGSTOP, lost, delayed and repeated messages in both directions, a
clock that jumps by years, a full disk. Each session's record is judged by `secure_afl.testing.judge_record`, and what
left the clients by the rules of `killed.py`: no second mask, no second answer, never both shares. `--keep` writes the
records of all sessions to one file (docs/verification/record.md).
"""

import argparse
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from rich.console import Console
from rich.progress import Progress
from worlds.cohorts import BOUND
from worlds.mortal_files import beside

from long.killed import Mortal, Network, Question, Run, broken, heard, nursery, settings_of
from long.mortals import (
    CLIENTS,
    LENGTH,
    ROUNDS,
    SERVER,
    CutError,
    Fate,
    Link,
    MortalStore,
    Point,
    Setting,
    answered_by,
    serve,
    vector,
)
from secure_afl.crypto import ring
from secure_afl.crypto.errors import CryptoError, SecureAflError
from secure_afl.protocol.session.parameters import PARAMETERS
from secure_afl.protocol.session.wire import decode
from secure_afl.testing import judge_record, record

_RUNS: tuple[Run, ...] = (("mask", "active"), ("mask", "active"), ("mask", "semi-honest"))
_YEARS = 10 * 365 * 86400.0
_JUDGED = (
    "nothing_crashes",
    "sums_are_right",
    "later_sums_are_right",
    "the_lost_are_left_out",
    "every_vector_travels",
    "too_few_open_nothing",
    "a_sum_is_made_once",
)

DISTURBANCES = {
    "question lost": 3, "answer lost": 3, "answer delayed": 4, "question twice": 4, "answer twice": 4,
    "old question": 4, "paused": 4, "killed": 4, "killed before": 3, "clock": 3, "disk full": 3,
}  # fmt: skip
"""What happens to a question or its answer, with weights; to the others, nothing."""


# ---- processes -----------------------------------------------------------------------------------


def jumped(seed: object) -> Callable[[], float]:
    """A clock that is years off, and off by something else at every look."""
    draw, now = random.Random(str(seed)), time.time
    return lambda: now() + draw.uniform(-_YEARS, _YEARS)


def live(settings: Mapping[str, Setting], number: int, life: int, death: Point | None, port: int) -> None:
    """A client: [disturbance, phase, message] in; [True, frame] or [False, why it was refused] out."""
    setting, link, fate = settings["first"], Link.to(port), Fate(death)
    store = MortalStore(setting.folder / f"party {number}", setting.identities[number], fate, setting.flaw)
    parties = setting.durable(number, store)
    while True:
        try:
            what, fate.phase, question = link.receive()
        except CutError:
            return
        fate.at("received")
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        if what == "clock":
            time.time = jumped((number, life))
        if what == "disk full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, unlimited[1]))
        try:
            if setting.flaw == "sends first":
                with store.transaction():
                    link.send(True, answered_by(parties["masks"], question, number, life, setting.data_set))
                    time.sleep(0.002)
                continue
            answer = answered_by(parties["masks"], question, number, life, setting.data_set, fate)
        except (SecureAflError, CryptoError) as error:
            link.send(False, str(error))
            continue
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        fate.at("committed")
        link.send(True, answer)
        fate.at("sent")


def served(settings: Mapping[str, Setting], number: int, life: int, death: Point | None, port: int) -> None:
    """The server, whose clock jumps in every other life."""
    if life % 2:
        time.time = jumped(("server", life))
    serve(settings, number, life, death, port)


class Party(Mortal):
    """A process that anybody may kill."""

    def buried(self) -> None:
        assert self.process is not None
        assert self.link is not None
        self.process.kill()
        self.process.join()
        assert self.process.exitcode == -signal.SIGKILL, f"it ended with {self.process.exitcode}"
        self.kills += 1
        self.link.close()
        self.link = self.process = None
        if self.main is live:
            for path in beside(self.settings["first"].folder / f"party {self.number}"):
                path.unlink(missing_ok=True)


# ---- a session -----------------------------------------------------------------------------------


@dataclass
class History:
    """What a session did. happened: by disturbance; wrong: the rules that it broke; sums: that were opened."""

    records: list[record.Record] = field(default_factory=list)
    happened: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    sums: int = 0
    kills: int = 0


class Disturbed:
    """One session. rate: of questions that are disturbed."""

    def __init__(self, seed: int, folder: Path, flaw: str = "", rate: float = 0.0) -> None:
        self.draw = random.Random(seed)
        self.rate = rate or self.draw.choice((0.02, 0.1, 0.25))
        self.happens = ""  # instead of what is drawn
        self.again = 0.5  # how often a client that died is asked again at once
        self.settings = settings_of(self.draw.choice(_RUNS), folder, flaw)
        self.setting = self.settings["first"]
        self.network, self.history = Network(), History()
        self.clients = {one: Party(live, self.settings, one, self._deaths()) for one in range(CLIENTS)}
        self.server = Party(served, self.settings, SERVER, self._server_deaths())
        self.asked: dict[int, list[tuple[str, bytes]]] = {one: [] for one in self.clients}
        self.late: list[tuple[int, bytes]] = []
        self.told: dict[int, set[tuple[bytes, tuple[int, ...]]]] = {}
        self.messages: list[record.Message] = []

    def _deaths(self) -> list[Point]:
        """Points of a life or two, of some clients."""
        if self.draw.random() < 1 - 2 * self.rate:
            return []
        phases = ["advertising", "sharing", "confirming"]
        phases += [
            f"{one} {r}"
            for r in range(ROUNDS)
            for one in ("collecting", "consenting", "unmasking", "answering")
        ]
        moments = ("received", "asked", "computed", "committed", "sent")
        return [(self.draw.choice(phases), self.draw.choice(moments)) for _ in range(self.draw.randint(1, 2))]

    def _server_deaths(self) -> list[Point]:
        deaths = self._deaths()
        moments = (
            "received",
            "computed",
            "committed",
            "half sent",
            "step computed",
            "step committed",
            "told",
        )
        return [(phase, self.draw.choice(moments)) for phase, _ in deaths]

    # ---- the network ---------------------------------------------------------------------------

    def run(self) -> None:
        """Until the server has said that it is over."""
        heard(
            self.server,
            self._noted,
            self._deliver,
            lambda _, phase, party, question: self._ask("", phase, party, question),
        )

    def _noted(self, said: Sequence[Any]) -> None:
        if len(said) > 1:
            number, words, survivors, _ = said
            self.told.setdefault(number, set()).add((words, tuple(survivors)))

    def _deliver(self, asked: Sequence[Question]) -> None:
        """Questions to clients, in some order, and their answers to the server, in some order."""
        link, frames, paused = self.server.reached(), self.late, []
        self.late = []
        for _, phase, party, question in self.draw.sample(asked, len(asked)):
            what = self._drawn()
            if what == "paused":
                paused.append((phase, party, question))
                continue
            frames += self._disturbed(what, phase, party, question)
        for phase, party, question in paused:  # stopped in the middle, while the others went on
            frames += self._disturbed("paused", phase, party, question)
        self.draw.shuffle(frames)
        for party, frame in frames:
            self.messages.append(self._message(asked[0][1], party, frame, upward=True))
            link.send(True, party, frame)
            if self.draw.random() < self.rate / 20:
                self.history.happened["server killed"] += 1
                raise CutError
        link.send(False)

    def _drawn(self) -> str:
        if self.happens:
            return self.happens
        if self.draw.random() >= self.rate:
            return ""
        (what,) = self.draw.choices([*DISTURBANCES], [*DISTURBANCES.values()])
        self.history.happened[what] += 1
        return what

    def _disturbed(self, what: str, phase: str, party: int, question: bytes) -> list[tuple[int, bytes]]:
        """The frames that reach the server now."""
        if what == "question lost":
            self.messages.append(self._message(phase, party, question, fate="lost"))
            return []
        if what == "old question" and self.asked[party]:
            old_phase, old = self.draw.choice(self.asked[party])
            self.late += self._framed(party, self._ask("", old_phase, party, old))
        if what == "killed before":
            self.clients[party].kill()
        self.messages.append(self._message(phase, party, question))
        frames = self._framed(party, self._ask(what, phase, party, question))
        if what in ("question twice", "disk full"):
            frames += self._framed(party, self._ask("", phase, party, question))  # the transport asks again
        if what == "answer twice":
            frames += frames
        if what == "answer delayed":
            self.late += frames
        if what in ("answer lost", "answer delayed"):
            self.messages += [self._message(phase, party, one, upward=True, fate="lost") for _, one in frames]
            return []
        return frames

    @staticmethod
    def _framed(party: int, frame: bytes | None) -> list[tuple[int, bytes]]:
        return [] if frame is None else [(party, frame)]

    def _ask(self, what: str, phase: str, party: int, question: bytes) -> bytes | None:
        """A client's frame. None: it refused, or died and was not asked again."""
        self.asked[party].append((phase, question))
        while True:
            try:
                is_frame, said = self._said(what, phase, party, question)
            except CutError:
                self.clients[party].buried()
                if self.draw.random() < self.again:
                    what = ""
                    continue
                return None
            if is_frame:
                return self.network.said(party, "first", "masks", question, said)
            self.network.refusals[party].append(said)
            return None

    def _said(self, what: str, phase: str, party: int, question: bytes) -> list[Any]:
        mortal = self.clients[party]
        link = mortal.reached()
        assert mortal.process is not None
        assert mortal.process.pid
        link.send(what, phase, question)
        with suppress(ProcessLookupError):  # it may have killed itself
            if what in ("killed", "paused"):
                time.sleep(self.draw.expovariate(500))
                os.kill(mortal.process.pid, signal.SIGKILL if what == "killed" else signal.SIGSTOP)
            if what == "paused":
                time.sleep(0.002)
                os.kill(mortal.process.pid, signal.SIGCONT)
        return link.receive()

    def _message(
        self, phase: str, party: int, data: bytes, *, upward: bool = False, fate: str = "arrived"
    ) -> record.Message:
        name, _, number = phase.partition(" ")
        ends = (f"site-{party}", "server") if upward else ("server", f"site-{party}")
        return record.Message(int(number or -1), name, *ends, data, fate=fate)

    # ---- afterwards ----------------------------------------------------------------------------

    def judged(self) -> History:
        """The history with its verdicts."""
        session: Any = type("Seen", (), {"network": self.network, "remotes": self.clients})
        self.history.wrong += broken(session)
        self.history.kills = sum(one.kills for one in (self.server, *self.clients.values()))
        self.history.records = [*self._records()]
        self.history.sums = len(self.told)
        for row in judge_record(self.history.records, only=_JUDGED).rows:
            if row.verdict == "failed":
                self.history.wrong.append(f"{row.name}: {row.note}")
        return self.history

    def _records(self) -> Iterable[record.Record]:
        claims = record.Claims(
            name="a disturbed session", clients=(CLIENTS, CLIENTS), cohort=CLIENTS, bound=BOUND, fraction_bits=20,
            error=CLIENTS * 2.0**-20, least=3,
        )  # fmt: skip
        names = tuple(f"site-{one}" for one in range(CLIENTS))
        yield record.System(record.VERSION, claims)
        yield record.Opened(names, (LENGTH,) * ROUNDS, self.setting.data_set)
        yield from (one for one in self.messages if one.number < 0)
        for number in range(ROUNDS):
            told = sorted(self.told.get(number, ()))
            if not told and (self.history.happened or self.history.kills):
                continue  # that a sum is not opened then breaks no rule
            values, lives = self._decoded(number, *told[0]) if told else (None, (0,) * CLIENTS)
            for index, name in enumerate(names):
                given = vector(index, number, lives[index])
                yield record.Input(number, name, record.digest(given), record.numbers(given))
            yield from (one for one in self.messages if one.number == number)
            if values is None:
                yield record.Refusal(number, "it was not opened")
            else:
                survivors = tuple(names[one] for one in told[0][1])
                yield record.Sum(number, record.numbers(values), survivors)
            if len(told) > 1:
                self.history.wrong.append(f"wrong sum: round {number} was told in {len(told)} ways")

    def _decoded(self, number: int, words: bytes, survivors: tuple[int, ...]) -> tuple[Any, Sequence[int]]:
        """A sum as numbers; and of which lives its vectors must be, as a client computes others in each life."""
        encoding = decode(self.setting.masks, PARAMETERS).rounds[number].encoding(CLIENTS)
        opened = np.frombuffer(words, "<u8").astype(np.uint64)
        total = ring.signed(opened, encoding.width)
        units = {
            (one, life): ring.signed(encoding.encode(vector(one, number, life)), 8)
            for one in survivors
            for life in range(self.clients[one].life + 1)
        }
        lives = [0] * CLIENTS
        for each in product(*(range(self.clients[one].life + 1) for one in survivors)):
            if np.array_equal(total, sum(units[one] for one in zip(survivors, each, strict=True))):
                for one, life in zip(survivors, each, strict=True):
                    lives[one] = life
                break
        return total / 2.0**encoding.fraction_bits, lives

    def end(self) -> None:
        for one in (self.server, *self.clients.values()):
            one.end()


def disturbed(seed: int, flaw: str = "", rate: float = 0.0) -> History:
    """The session of this seed."""
    nursery("long.disturbed")
    files = "/dev/shm" if os.path.isdir("/dev/shm") else None  # as in `killed.py`
    with tempfile.TemporaryDirectory(dir=files) as folder:
        session = Disturbed(seed, Path(folder), flaw, rate)
        try:
            session.run()
        finally:
            session.end()
        return session.judged()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument(
        "--seed", type=int, default=2026, help="of the first session; each takes the next one"
    )
    parser.add_argument("--keep", type=Path, help="write the records of all sessions to this file")
    arguments = parser.parse_args()
    console, happened, started = Console(), Counter[str](), time.perf_counter()
    sums = kills = bad = 0
    records: list[record.Record] = []
    with Progress(console=console, transient=True) as progress:
        for seed in progress.track(range(arguments.seed, arguments.seed + arguments.sessions)):
            history = disturbed(seed)
            happened += history.happened
            sums, kills = sums + history.sums, kills + history.kills
            if arguments.keep:
                records += history.records
            if history.wrong:
                bad += 1
                console.print(f"--seed {seed} --sessions 1: {'; '.join(history.wrong)}", markup=False)
    if arguments.keep:
        record.write(arguments.keep, records)
    asked = arguments.sessions * ROUNDS
    console.print(
        f"{arguments.sessions} sessions, {sums} of {asked} sums opened, {kills} kills, {bad} sessions that broke a rule; "
        f"{time.perf_counter() - started:.0f} s",
        highlight=False,
    )
    console.print(", ".join(f"{name} {count}" for name, count in happened.most_common()), highlight=False)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
