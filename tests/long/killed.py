"""Kills the parties of secure sums with SIGKILL, one at every point of a session, and looks at what came of it.

    python tests/long/killed.py [--backend mask|bfv] [--victim client|server|holder|everybody] [--json FILE]

The victim is a process of its own, which kills itself at the point; a process that goes on from the same file takes
its place, a client's or key holder's from that file alone. Everybody else is in this process, apart from the runs in
which everybody is killed at once. All that left a client or key holder is kept here, where nothing of it can be
undone. Afterwards the server lies, the first invitation is replayed, and a second session asks for the same data.
"""

import argparse
import json
import multiprocessing
import os
import secrets
import socket
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from msgspec import structs
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from worlds.mortal_files import beside
from worlds.patience import HANG

from long.mortals import (
    CLIENTS,
    ENCRYPTED,
    ENDS,
    MASKS,
    PLAN,
    ROUNDS,
    SERVER,
    CutError,
    Fate,
    Link,
    Point,
    Setting,
    answered_by,
    conduct,
    live,
    serve,
    spelled,
    vector,
)
from secure_afl.crypto import ring
from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.hpke import Suite
from secure_afl.crypto.identity import SIGNATURE_BYTES
from secure_afl.crypto.kdf import KEY_BYTES
from secure_afl.crypto.lattice.parameter_sets import LATTICES
from secure_afl.protocol.durable.store import Store
from secure_afl.protocol.homomorphic import messages as encrypted
from secure_afl.protocol.homomorphic.agreement import AGREEMENT, Agreement
from secure_afl.protocol.homomorphic.messages import EncryptedRequest, EncryptedUpload, Offer, Opened
from secure_afl.protocol.masking import messages as masked
from secure_afl.protocol.masking.messages import Reveal, SumRequest, Survivors, Upload
from secure_afl.protocol.session import graph
from secure_afl.protocol.session.errors import ProtocolError
from secure_afl.protocol.session.ledger import Ledger
from secure_afl.protocol.session.parameters import PARAMETERS, Parameters, Profile
from secure_afl.protocol.session.server import Outbox
from secure_afl.protocol.session.wire import WireError, decode, encode

Run = tuple[str, str]
"""Backend, and under masks the profile."""
RUNS = [("mask", "active"), ("mask", "semi-honest"), ("bfv", ""), ("bfv+mask", "active")]
RULES = ("wrong sum", "second mask", "both shares", "second answer", "data in two sessions")

# ---- a case --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One run. victim: client, holder, server or everybody; deaths: of its first life, its second …; late: it comes
    back for the next round, not at once; by: see `ENDS`.
    """

    run: Run
    victim: str
    deaths: tuple[Point, ...]
    late: bool = False
    flaw: str = ""
    by: str = "SIGKILL"

    @property
    def name(self) -> str:
        deaths = ", then ".join(f"{phase}: {moment}" for phase, moment in self.deaths)
        return f"{' '.join(self.run).strip()}, {self.victim}, {deaths}" + (", late" if self.late else "")


@dataclass
class Verdict:
    """What came of a case. outcome: everybody, without it, or aborted, by round; broken: `RULES`, with what was seen;
    faults: what a right program shows never, and yet breaks no rule.
    """

    case: Case
    outcome: tuple[str, ...] = ()
    broken: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    refused: tuple[str, ...] = ()
    kills: int = 0
    seconds: float = 0.0


_DEAL, _KEY = ("advertising", "sharing", "confirming"), ("key commitments", "key shares", "key announcements")
_PHASES = {
    ("mask", "active", "client"): (_DEAL, ("collecting", "consenting", "unmasking", "answering")),
    ("mask", "semi-honest", "client"): (_DEAL, ("collecting", "unmasking")),
    ("bfv", "", "client"): (("inviting",), ("encrypting", "checking")),
    ("bfv", "", "holder"): (_KEY, ("challenging", "opening")),
    ("bfv+mask", "active", "client"): (
        (*_DEAL, "inviting"),
        ("collecting", "encrypting", "checking", "consenting", "unmasking", "answering"),
    ),
    ("bfv+mask", "active", "holder"): (_KEY, ("challenging", "opening")),
}
_MOMENTS = ("received", "computed", "committed", "half sent", "sent", "lost")
_ASKED = ("asking", "asked")
_STEPS = ("step computed", "step committed")
_SERVED = ("half sent", "sent", "received", "computed", "committed", *_STEPS)
_CROWD = ("asked", "answered", "delivered")
_LATE = ("computed", "committed", "sent")
_TWICE = (("computed", "computed"), ("committed", "committed"), ("half sent", "lost"))


def _phases(run: Run, victim: str) -> list[str]:
    """What a party answers in, or a server collects in."""
    if victim in ("client", "holder"):
        before, each = _PHASES[(*run, victim)]
    else:
        parts = [_PHASES[(*run, who)] for who in ("holder", "client") if (*run, who) in _PHASES]
        before, each = (tuple(one for part in parts for one in part[at]) for at in (0, 1))
    return [*before, *(f"{phase} {number}" for number in range(ROUNDS) for phase in each)]


def cases(run: Run, victim: str) -> list[Case]:
    """The matrix of one kind of victim."""
    phases = _phases(run, victim)
    if victim == "everybody":
        return [Case(run, victim, ((phase, moment),)) for phase in phases for moment in _CROWD]
    if victim == "server":
        last = "opened" if run[0] == "bfv" else "unmasking"
        points = [("start", moment) for moment in _STEPS]
        alone = _phases(run, "holder") if (*run, "holder") in _PHASES else []  # one message has no half
        points += [
            (phase, moment)
            for phase in phases
            for moment in _SERVED
            if moment != "half sent" or phase not in alone
        ]
        points += [(f"ready {number}", moment) for number in range(ROUNDS) for moment in _STEPS]
        if alone:
            points += [(f"opened {number}", moment) for number in range(ROUNDS) for moment in _STEPS]
        points += [(f"{last} {number}", "told") for number in range(ROUNDS)]
        twice = [((phase, "committed"), (phase, "step committed")) for phase in phases]
        return [
            *(Case(run, victim, (point,)) for point in points),
            *(Case(run, victim, two) for two in twice),
        ]
    vectors = "encrypting" if run[0] == "bfv" else "collecting"
    asked = [phase for phase in phases if phase.startswith(vectors)]
    points = [(phase, moment) for phase in phases for moment in _MOMENTS]
    points += [(phase, moment) for phase in asked for moment in _ASKED]
    late = [(phase, moment) for phase in phases for moment in _LATE]
    twice = [((phase, one), (phase, other)) for phase in phases for one, other in _TWICE]
    return [
        *(Case(run, victim, (point,)) for point in points),
        *(Case(run, victim, (point,), late=True) for point in late),
        *(Case(run, victim, two) for two in twice),
    ]


def matrix() -> list[Case]:
    """Everything."""
    victims = ("client", "holder", "server", "everybody")
    return [
        case
        for run in RUNS
        for victim in victims
        if victim != "holder" or (*run, victim) in _PHASES
        for case in cases(run, victim)
    ]


# ---- processes -----------------------------------------------------------------------------------


_CONTEXT = multiprocessing.get_context("forkserver")
_READY: list[bool] = []
# SIGKILL takes nothing from the system's caches, so a real disk would only be slower.
_FILES = "/dev/shm" if os.path.isdir("/dev/shm") else None


def nursery(module: str = "long.killed") -> None:
    """New processes are forks of one that has loaded everything and has run nothing of it. module: what they run."""
    if not _READY:
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # what is preloaded is looked for there only
        _CONTEXT.set_forkserver_preload([module])
        process = _CONTEXT.Process(target=int)
        process.start()
        process.join()
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
        _READY.append(True)


@dataclass
class Mortal:
    """A party as a process, again and again. deaths: where its lives end."""

    main: Callable[..., None]
    settings: Mapping[str, Setting]
    number: int
    deaths: Sequence[Point] = ()
    life: int = -1
    kills: int = 0
    link: Link | None = None
    process: BaseProcess | None = None

    def reached(self) -> Link:
        """Its socket; a new life, if there is none."""
        if self.link is None:
            self.life += 1
            death = self.deaths[self.life] if self.life < len(self.deaths) else None
            with socket.create_server(("127.0.0.1", 0)) as door:
                door.settimeout(HANG)
                arguments = (self.settings, self.number, self.life, death, door.getsockname()[1])
                self.process = _CONTEXT.Process(target=self.main, args=arguments, daemon=True)
                self.process.start()
                self.link = Link(door.accept()[0])
        return self.link

    def buried(self) -> None:
        """It is gone, and by what it was to be."""
        assert self.process is not None
        assert self.link is not None
        self.process.join(HANG)
        expected = ENDS[self.settings["first"].by]
        assert self.process.exitcode == expected, f"it ended with {self.process.exitcode}"
        self.kills += 1
        self.link.close()
        self.link = self.process = None
        if self.main is live:  # who has secrets goes on from the one file, without the log beside it
            for path in beside(self.settings["first"].folder / f"party {self.number}"):
                path.unlink(missing_ok=True)

    def kill(self) -> None:
        """Now, wherever it is."""
        if self.process is not None:
            self.process.kill()
            self.buried()

    def end(self) -> None:
        """Let it go."""
        if self.link is not None and self.process is not None:
            self.link.close()
            self.process.join(HANG)
            self.link = self.process = None


Question = tuple[str, str, int, bytes]
"""What a server asks: layer, phase, party, message."""


def heard(
    server: Mortal,
    noted: Callable[[list[Any]], None],
    deliver: Callable[[Sequence[Question]], None],
    orphaned: Callable[[str, str, int, bytes], object],
) -> None:
    """Hear a server's process until it says that it is over, through its deaths.

    noted: is told what it opened; deliver: takes the questions of a phase, and raises `CutError` if the server dies at it;
    orphaned: takes a question whose server is dead, so that the answer reaches nobody.
    """
    asked: list[Question] = []
    while True:
        try:
            what, *said = server.reached().receive()
            if what == "over":
                return
            if what == "told":
                noted(said)
            elif what == "ask":
                asked.append((said[0], said[1], said[2], said[3]))
            else:
                deliver(asked)
                asked = []
        except CutError:
            server.buried()
            for one in asked:  # on its way already
                orphaned(*one)
            asked = []


@dataclass(frozen=True)
class Left:
    """What a party said. session: by its name in the parties' files."""

    party: int
    session: str
    layer: str
    question: bytes = field(repr=False)
    frame: bytes = field(repr=False)


class Network:
    """Asks parties, and keeps what left them. `refusals`: by party, what they said instead."""

    def __init__(self) -> None:
        self.left: list[Left] = []
        self.torn: list[Left] = []  # frames that broke off
        self.refusals: dict[int, list[str]] = defaultdict(list)

    def said(self, party: int, session: str, layer: str, question: bytes, frame: bytes) -> bytes:
        self.left.append(Left(party, session, layer, question, frame))
        return frame


class Local:
    """A party in this process."""

    def __init__(self, setting: Setting, number: int, network: Network, parties: Mapping[str, Any]) -> None:
        self._setting, self._number, self._network, self._parties = setting, number, network, parties

    def ask(self, session: str, layer: str, phase: str, question: bytes) -> bytes | None:
        try:
            frame = answered_by(self._parties[layer], question, self._number, 0, self._setting.data_set)
        except (ProtocolError, CryptoError) as error:
            self._network.refusals[self._number].append(str(error))
            return None
        return self._network.said(self._number, session, layer, question, frame)


class Remote:
    """A party in its process. away: it was killed, and comes back when it is called."""

    def __init__(self, mortal: Mortal, network: Network, late: bool) -> None:
        self.mortal, self._network, self._late = mortal, network, late
        self.away = False

    def ask(self, session: str, layer: str, phase: str, question: bytes) -> bytes | None:
        while not self.away:
            frame = self._asked(session, layer, phase, question)
            if frame is None:
                self.away = self._late
                continue
            answer, lost = frame
            if not lost:
                return answer
        return None

    def _asked(
        self, session: str, layer: str, phase: str, question: bytes
    ) -> tuple[bytes | None, bool] | None:
        """Its frame, or None for a refusal, and whether the network loses it; None if it died instead."""
        number, network = self.mortal.number, self._network
        link, life = self.mortal.reached(), self.mortal.life
        try:
            link.send(session, layer, phase, question)
            is_frame, said = link.receive()
        except CutError as cut:
            self.mortal.buried()
            if cut.rest:
                begun = cut.rest[2 + {0xC4: 2, 0xC5: 3, 0xC6: 5}[cut.rest[2]] :]  # behind [True, length
                network.torn.append(Left(number, session, layer, question, begun))
            return None
        if not is_frame:
            network.refusals[number].append(said)
            return None, False
        network.said(number, session, layer, question, said)
        points = [(phase, moment) for moment in ("sent", "lost")]
        death = self.mortal.deaths[life] if life < len(self.mortal.deaths) else None
        if death in points:
            self.mortal.buried()
            self.away = self._late
        return said, death == points[1]


Seat = Local | Remote

# ---- one run -------------------------------------------------------------------------------------


def settings_of(run: Run, folder: Path, flaw: str = "", by: str = "SIGKILL") -> dict[str, Setting]:
    """The first session, the same once more, and a second one of the same parties and data."""
    backend, profile = run
    holders = int(backend != "mask")
    seeds = tuple(secrets.token_bytes(KEY_BYTES) for _ in range(CLIENTS + holders + 1))
    paper = Setting(backend, seeds, folder, flaw=flaw, by=by)
    first, second = (_proposed(replace(paper, name=name), profile) for name in ("first", "second"))
    return {"first": first, "again": replace(first, name="again"), "second": second}


def _proposed(paper: Setting, profile: str) -> Setting:
    """With fresh proposals."""
    masks, agreement, beneath = b"", b"", None
    if profile:
        kind, degree = Profile(profile), CLIENTS - 1
        parameters = Parameters.propose(
            paper.roster,
            PLAN,
            profile=kind,
            suite=Suite.X25519,
            degree=degree,
            threshold=graph.least_threshold(kind, CLIENTS, degree),
            rounds=paper.agreed,
        )
        masks, beneath = encode(parameters), (parameters.session, parameters.transcript())
    if paper.encryption is not None:
        agreement = encode(
            Agreement.propose(paper.encryption, paper.roster, paper.key_holders, PLAN, masked=beneath)
        )
    return replace(paper, masks=masks, agreement=agreement)


class Session:
    """One session of a case: who sits where, and what came out."""

    def __init__(self, case: Case, settings: Mapping[str, Setting]) -> None:
        self.case, self.settings, self.first = case, settings, settings["first"]
        self.network = Network()
        self.sums: dict[int, set[tuple[bytes, tuple[int, ...], tuple[int, ...]]]] = defaultdict(set)
        self.aborted: list[str] = []
        self._stores: list[Store] = []
        self.seats = {number: self._seat(number) for number in range(len(self.first.seeds) - 1)}
        self.remotes = {number: one for number, one in self.seats.items() if isinstance(one, Remote)}
        deaths = case.deaths if case.victim == "server" else ()
        self.server = Mortal(serve, settings, SERVER, deaths)
        self._struck = False

    def _store(self, name: str, number: int) -> Store:
        store = Store(self.first.folder / name, self.first.identities[number])
        self._stores.append(store)
        return store

    def victims(self) -> list[int]:
        """Who is a process of its own, but the server."""
        everybody = range(len(self.first.seeds) - 1)
        return {"client": [1], "holder": [CLIENTS], "server": [], "everybody": [*everybody]}[self.case.victim]

    def _seat(self, number: int) -> Seat:
        if number in self.victims():
            deaths = () if self.case.victim == "everybody" else self.case.deaths
            mortal = Mortal(live, self.settings, number, deaths)
            return Remote(mortal, self.network, self.case.late)
        if self.case.victim == "server":  # it asks again
            store = self._store(f"party {number}", number)
            return Local(self.first, number, self.network, self.first.durable(number, store))
        return Local(self.first, number, self.network, self.first.parties(number, Ledger()))

    def run(self) -> None:
        """Both rounds, as far as they go."""
        if self.case.victim in ("server", "everybody"):
            for remote in self.remotes.values():
                remote.mortal.reached()
            self._served()
            return
        store = self._store("server", SERVER)
        conduct(self.first.servers(store), self._carry, self._told, Fate())

    def _told(self, told: Any) -> None:
        self._noted(list(spelled(told)))

    def _noted(self, told: list[Any]) -> None:
        if len(told) == 1:
            self.aborted.append(told[0])
        else:
            number, words, survivors, dropouts = told
            self.sums[number].add((words, tuple(survivors), tuple(dropouts)))

    def _carry(self, layer: str, phase: str, outbox: Outbox) -> Iterable[tuple[int, bytes]]:
        if phase.startswith("encrypting" if self.case.run[0] == "bfv" else "collecting"):
            self.come_back()
        for party, question in outbox.items():
            frame = self.seats[party].ask("first", layer, phase, question)
            if frame is not None:
                if party in self.remotes:
                    self._lie(party, layer, phase, question)
                yield party, frame

    def come_back(self) -> None:
        for remote in self.remotes.values():
            remote.away = False

    def _lie(self, party: int, layer: str, phase: str, question: bytes) -> None:
        """The same once more, with somebody else missing: whatever is said to it is kept like all else."""
        for lie in _lies(layer, party, question):
            before = len(self.network.refusals[party])
            self.seats[party].ask("first", layer, phase, lie)
            del self.network.refusals[party][before:]

    # ---- a server in its process -------------------------------------------------------------

    def _served(self) -> None:
        def orphaned(layer: str, phase: str, party: int, question: bytes) -> None:
            self.seats[party].ask("first", layer, phase, question)

        heard(self.server, self._noted, self._deliver, orphaned)

    def _deliver(self, asked: Sequence[tuple[str, str, int, bytes]]) -> None:
        link = self.server.reached()
        layer, phase = asked[0][:2]
        if self._struck_at(phase, "asked"):
            raise CutError
        frames = []
        for at, (_, _, party, question) in enumerate(asked):
            if at == (len(asked) + 1) // 2 and self._struck_at(phase, "answered"):
                raise CutError
            frames.append((party, self.seats[party].ask("first", layer, phase, question)))
        if len(asked) == 1 and self._struck_at(phase, "answered"):
            raise CutError
        for at, (party, frame) in enumerate(frames):
            if frame is not None:
                link.send(True, party, frame)
            if at == len(frames) // 2 and self._struck_at(phase, "delivered"):
                raise CutError
        link.send(False)

    def _struck_at(self, phase: str, moment: str) -> bool:
        """Everybody but the server, which whoever asks buries, is killed at once here; or not."""
        if self._struck or self.case.victim != "everybody" or self.case.deaths != ((phase, moment),):
            return False
        self._struck = True
        everybody = [self.server, *(one.mortal for one in self.remotes.values())]
        for one in everybody:
            if one.process is not None:
                one.process.kill()
        for one in everybody[1:]:
            one.kill()
        return True

    # ---- afterwards --------------------------------------------------------------------------

    def replay(self, party: int) -> None:
        """The first invitation once more, as if it were a new session."""
        for left in [one for one in self.network.left if one.party == party][:1]:
            self.seats[party].ask("again", left.layer, "", left.question)

    def second(self, party: int) -> None:
        """Another session with the same data. The others have forgotten the first: only the victim can refuse."""
        setting = self.settings["second"]
        for number in self.seats:
            if number != party:
                fresh = setting.parties(number, Ledger())
                self.seats[number] = Local(setting, number, self.network, fresh)

        def carry(layer: str, phase: str, outbox: Outbox) -> Iterator[tuple[int, bytes]]:
            for number, question in outbox.items():
                frame = self.seats[number].ask("second", layer, phase, question)
                if frame is not None:
                    yield number, frame

        store = self._store("second server", SERVER)
        conduct(setting.servers(store), carry, lambda told: None, Fate())

    def end(self) -> None:
        for one in (self.server, *(remote.mortal for remote in self.remotes.values())):
            one.end()
        for store in self._stores:
            store.close()

    @property
    def kills(self) -> int:
        return self.server.kills + sum(one.mortal.kills for one in self.remotes.values())


def _lies(layer: str, party: int, question: bytes) -> list[bytes]:
    """The question with one other client less in it, where it names clients."""
    decoder: Any = masked.FROM_SERVER if layer == MASKS else encrypted.TO_CLIENT
    if party >= CLIENTS:
        decoder = encrypted.TO_HOLDER
    try:
        message = decode(question, decoder)
    except WireError:  # an invitation
        return []
    names: dict[type, str] = {
        SumRequest: "participants",
        Survivors: "survivors",
        EncryptedRequest: "participants",
        Offer: "contributors",
    }
    name = names.get(type(message))
    if name is None:
        return []
    group = [one for one in getattr(message, name) if one != (CLIENTS - 1 if party != CLIENTS - 1 else 0)]
    return [encode(structs.replace(message, **{name: tuple(group)}))]


# ---- what must hold ------------------------------------------------------------------------------


def tried(case: Case) -> Verdict:
    """One case."""
    nursery()
    verdict, started = Verdict(case), time.perf_counter()
    with tempfile.TemporaryDirectory(dir=_FILES) as folder:
        session = Session(case, settings_of(case.run, Path(folder), case.flaw, case.by))
        try:
            session.run()
            session.come_back()
            if case.victim in ("client", "holder"):
                (victim,) = session.victims()
                in_first = len(session.network.refusals[victim])
                verdict.faults += [
                    f"refused: {text}" for text in session.network.refusals[victim] if not case.late
                ]
                session.replay(victim)
                session.second(victim)
                verdict.refused = tuple(session.network.refusals[victim][in_first:])
        except (CutError, AssertionError, OSError) as error:
            verdict.faults.append(f"{type(error).__name__}: {error}")
        finally:
            session.end()
        verdict.kills = session.kills
        _judge(session, verdict)
    verdict.seconds = time.perf_counter() - started
    return verdict


def _judge(session: Session, verdict: Verdict) -> None:
    case, network = session.case, session.network
    verdict.outcome = tuple(_outcome(session, number) for number in range(ROUNDS))
    for number, told in sorted(session.sums.items()):
        if len(told) > 1 or not all(_is_right(session, number, *one) for one in told):
            verdict.broken.append(f"wrong sum: round {number}")
    verdict.broken += broken(session)
    for torn in network.torn:
        after = [
            one.frame for one in network.left if (one.party, one.question) == (torn.party, torn.question)
        ]
        if not all(frame.startswith(torn.frame) for frame in after):
            verdict.broken.append(f"second answer: of party {torn.party}, which had begun another")
    expected = len(session.seats) + 1 if case.victim == "everybody" else len(case.deaths)
    if verdict.kills != expected:
        verdict.faults.append(f"{verdict.kills} kills, not {expected}")
    if not case.late and verdict.outcome != ("everybody",) * ROUNDS:
        verdict.faults.append(f"it did not go on: {'; '.join(session.aborted)}")
    if case.victim == "client" and "aborted" in verdict.outcome:
        verdict.faults.append("one client less stopped the others")
    if (
        case.victim in ("client", "holder")
        and _uploads(session, "first").intersection(session.victims())
        and not any("was used in session" in text for text in verdict.refused)
    ):
        verdict.faults.append("no second session was refused for its data")


def _outcome(session: Session, number: int) -> str:
    if number not in session.sums:
        return "aborted"
    ((_, survivors, _), *_) = session.sums[number]
    if len(survivors) == CLIENTS:
        return "everybody"
    return "in part" if set(survivors).intersection(session.victims()) else "without it"


def _is_right(
    session: Session, number: int, words: bytes, survivors: Sequence[int], dropouts: Sequence[int]
) -> bool:
    """Whether that is the integer sum over just these clients, of vectors that one of their lives had."""
    first = session.first
    if sorted([*survivors, *dropouts]) != sorted({*survivors, *dropouts}):
        return False
    opened = np.frombuffer(words, "<u8").astype(np.uint64)
    proposed: Any = decode(first.masks, PARAMETERS) if first.masks else decode(first.agreement, AGREEMENT)
    encoding = proposed.rounds[number].encoding(CLIENTS)
    if not first.masks:
        total = ring.centred(opened, LATTICES[proposed.lattice].plain_modulus)
    else:
        total = ring.signed(opened, 8 if first.agreement else encoding.width)
    lives = {index: range(one.mortal.life + 1) for index, one in session.remotes.items()}
    for each in product(*(lives.get(index, range(1)) for index in survivors)):
        vectors = [vector(index, number, life) for index, life in zip(survivors, each, strict=True)]
        units = [ring.signed(encoding.encode(one), 8).tolist() for one in vectors]
        if total.tolist() == [sum(entry) for entry in zip(*units, strict=True)]:
            return True
    return False


def _said(session: Session) -> Iterator[tuple[Left, Any]]:
    """All messages that left clients and key holders."""
    decoders: dict[str, Any] = {MASKS: masked.FROM_CLIENT, ENCRYPTED: encrypted.FROM_PARTY}
    for left in session.network.left:
        yield left, decode(memoryview(left.frame)[:-SIGNATURE_BYTES], decoders[left.layer])


def _uploads(session: Session, name: str) -> set[int]:
    """Whose vectors left in a session, or who opened sums in it."""
    kinds = (Upload, EncryptedUpload, Opened)
    return {left.party for left, said in _said(session) if left.session == name and isinstance(said, kinds)}


def broken(session: Session) -> list[str]:
    """The rules that what left the parties breaks."""
    answers: dict[tuple[int, bytes], set[bytes]] = defaultdict(set)
    uploads: dict[tuple[object, ...], set[bytes]] = defaultdict(set)
    shares: dict[tuple[object, ...], set[bytes]] = defaultdict(set)
    for left, said in _said(session):
        answers[left.party, left.question].add(left.frame)
        match said:
            case Upload():
                uploads[left.party, left.session, said.round].add(left.frame)
            case EncryptedUpload():
                uploads[left.party, left.session, said.round, said.attempt].add(left.frame)
            case Reveal():
                for dealer, share in said.shares:
                    shares[left.party, left.session, said.round, dealer].add(share)
            case Opened():
                uploads[left.party, left.session, said.round].add(left.frame)
    twice = _uploads(session, "first") & _uploads(session, "second") & session.remotes.keys()
    return [
        *(f"second mask: {key}" for key, frames in uploads.items() if len(frames) > 1),
        *(f"both shares: {key}" for key, ones in shares.items() if len(ones) > 1),
        *(f"second answer: party {party}" for (party, _), frames in answers.items() if len(frames) > 1),
        *(f"data in two sessions: party {party}" for party in twice),
    ]


# ---- the command ---------------------------------------------------------------------------------


def tables_of(verdicts: Sequence[Verdict]) -> list[Table]:
    """A line for each kind of run, and one for each rule."""
    table = Table("session", "killed", "back", "runs", "kills", "all", "without", "aborted", "bad")
    kinds: dict[tuple[str, str, str], list[Verdict]] = defaultdict(list)
    for one in verdicts:
        back = "next round" if one.case.late else "at once" if len(one.case.deaths) == 1 else "twice"
        kinds[" ".join(one.case.run).strip(), one.case.victim, back].append(one)
    for kind, ones in kinds.items():
        outcomes = Counter(_worst(one.outcome) for one in ones)
        counts = [len(ones), sum(one.kills for one in ones)]
        counts += [outcomes[name] for name in ("everybody", "without it", "aborted")]
        table.add_row(*kind, *map(str, [*counts, sum(bool(one.broken or one.faults) for one in ones)]))
    broken = Counter(text.split(":")[0] for one in verdicts for text in one.broken)
    rules = Table("rule", "broken")
    for rule in RULES:
        rules.add_row(rule, str(broken[rule]))
    return [table, rules]


def _worst(outcome: Sequence[str]) -> str:
    return next((name for name in ("aborted", "without it") if name in outcome), "everybody")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", default="", help="only this one: mask, bfv or bfv+mask")
    parser.add_argument("--victim", default="", help="only these: client, holder, server or everybody")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    chosen = [
        case
        for case in matrix()
        if arguments.backend in ("", case.run[0]) and arguments.victim in ("", case.victim)
    ]
    console, verdicts, started = Console(), [], time.perf_counter()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=len(chosen))
        for case in chosen:
            progress.update(task, description=case.name)
            verdicts.append(tried(case))
            progress.advance(task)
    for table in tables_of(verdicts):
        console.print(table)
    bad = [one for one in verdicts if one.broken or one.faults]
    for one in bad:
        console.print(f"{one.case.name}: {'; '.join([*one.broken, *one.faults])}", markup=False)
    seconds = time.perf_counter() - started
    console.print(
        f"{len(verdicts)} runs, {sum(one.kills for one in verdicts)} kills, {seconds:.0f} s, {len(bad)} bad"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps([_as_json(one) for one in verdicts], indent=1) + "\n")
    return 1 if bad else 0


def _as_json(one: Verdict) -> dict[str, object]:
    return {**vars(one), "case": vars(one.case)}


if __name__ == "__main__":
    sys.exit(main())
