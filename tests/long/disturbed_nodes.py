"""Disturbs studies on a network of real nodes in every way at once, and gives their histories to the offline checker.

    python tests/long/disturbed_nodes.py [--networks 40] [--sessions 25] [--seed N] [--log FILE] [--keep FILE]

Each network is `secure-afl serve` and four nodes with TLS and node keys on this machine, which serve one session after the
other, each over new rows. What happens is drawn from the seed: nodes, the SuperLink and the server's run are killed and
stopped (SIGKILL, SIGSTOP) at any moment; nodes die before and after they answer, lose, delay and repeat answers, get
questions twice and old ones again, have their clock jump by up to ten years and their disk full (tests/worlds/disturbed_node.py).
A run that learned nothing is started again, with the same rows: it goes on with an open session, or the rows are refused.

`secure_afl.testing.judge_record` judges the records, and what left the clients must keep the rules of `killed.py`. A network is a
line of the log at once; what stands there is not run again. `--keep` adds the records to a file (docs/verification/record.md).
Needs the extra `flower`.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec
import numpy as np
from worlds.disturbed_node import NODE, Fate, Line, note
from worlds.folders import Federation, with_a_key

import secure_afl.node.flower_app  # noqa: F401 - loaded once, as each run is a fork
from long.killed import Network, broken
from long.mortals import MASKS
from secure_afl.crypto import ring
from secure_afl.crypto.errors import SecureAflError
from secure_afl.node.run import run
from secure_afl.protocol.masking.server import MaskingServer
from secure_afl.protocol.session.server import OpenedSum
from secure_afl.simulations.network import loopback
from secure_afl.testing import judge_record, record

CLIENTS = 4
STRIKES = {"killed": 3, "stopped": 5, "run killed": 1, "superlink stopped": 2, "superlink killed": 0.3}
"""What happens to a program, with weights."""
_REFUSED = 3  # the exit code of a run that learned nothing
_RUNS = 3  # at most so many for a session
_DELAY = 1.2  # of the deadline: the longest of an answer
_SPREAD = 1.2  # of the deadline: programs are struck within it, from the begin of a run
_SET_UP = ("parameters", "directory", "delivery")
_UPLOADED = "sum request"
_JUDGED = (
    "nothing_crashes",
    "sums_are_right",
    "later_sums_are_right",
    "the_lost_are_left_out",
    "any_mixture_is_summed",
    "every_vector_travels",
    "too_few_open_nothing",
    "a_missing_client_is_refused",
    "a_data_set_serves_one_session",
    "a_sum_is_made_once",
    "late_and_repeated_messages_count_once",
)


# ---- a network -----------------------------------------------------------------------------------


class Struck(loopback.Loopback):
    """A network whose programs are killed, and stopped for some time."""

    def signal(self, name: str, number: signal.Signals) -> None:
        self._signal(name, number)

    def ended(self) -> list[int]:
        """The parties whose nodes have ended, which nothing but SIGKILL may do."""
        found = []
        for party in range(len(self.parties)):
            if (code := self._programs[f"node-{party}"].poll()) is not None:
                assert code == -signal.SIGKILL, f"a node ended with {code}: {self._log(f'node-{party}')}"
                found.append(party)
        return found


def learn(server: Path, data_set: str, deadline: float) -> None:
    """What `secure-afl study run` does, in this process; the trace gets sessions that begin and sums that are opened."""
    makes, opens = MaskingServer.__init__, MaskingServer.result

    def made(self: MaskingServer, *given: Any, **more: Any) -> None:
        makes(self, *given, **more)
        note(server, session=self.parameters.session, data_set=data_set)

    def opened(self: MaskingServer) -> OpenedSum:
        one = opens(self)
        spec = self.parameters.rounds[one.round]
        units = ring.signed(one.values, spec.encoding(CLIENTS).width)
        values = record.numbers(np.ldexp(units.astype(np.float64), -spec.fraction_bits))
        note(server, session=self.parameters.session, values=values, survivors=one.survivors)
        return one

    MaskingServer.__init__ = made  # type: ignore[method-assign]
    MaskingServer.result = opened  # type: ignore[method-assign]
    warnings.simplefilter("default")  # pytest makes errors of them, those of libraries, too
    with (server / "run.log").open("a") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            run(server, deadline)
        except (SecureAflError, OSError) as error:
            print(error)
            raise SystemExit(_REFUSED) from None


class Sessions:
    """Sessions of one network, one after the other."""

    def __init__(self, network: Struck, federation: Federation, deadline: float) -> None:
        self.network, self.federation, self.deadline = network, federation, deadline
        self.due: list[tuple[float, int, str]] = []  # when a program goes on or is back

    def hold(self, seed: int) -> bool:
        """One session over new rows; whether a model was learned."""
        self.draw, data_set = random.Random(seed), f"rows {seed}"
        rate = self.draw.choice((0.02, 0.06, 0.15))
        for folder in self.federation.folders:
            self._renew(folder, data_set)
        for attempt in range(_RUNS):
            for folder in self.federation.folders:
                fate = Fate(seed * _RUNS + attempt, rate, _DELAY * self.deadline)
                (folder / "next").write_bytes(msgspec.json.encode(fate))
                (folder / "next").replace(folder / "fate")
            if self._run(data_set, rate):
                return True
            rate /= 4
        return False

    def _renew(self, folder: Path, data_set: str) -> None:
        """Other rows, with another name; the node may read them at any moment."""
        lines = ["id,a,b,c,sick"]
        for at in range(12):
            a, b, c = (self.draw.uniform(-1, 1) * most for most in (1.0, 8.0, 1000.0))
            lines.append(f"{at},{a!r},{b!r},{c!r},{'yes' if a * 8 > b else 'no'}")
        table = f"{data_set.replace(' ', '-')}.csv"
        (folder / table).write_text("\n".join(lines) + "\n")
        (folder / "next").write_text(f'table = "{table}"\nname = "{data_set}"\n')
        (folder / "next").replace(folder / "data.toml")

    def _run(self, data_set: str, rate: float) -> bool:
        """Whether a model was learned."""
        given = (self.federation.server, data_set, self.deadline)
        process = multiprocessing.get_context("fork").Process(target=learn, args=given)
        process.start()
        begun = time.monotonic()
        struck = [
            (begun + self.draw.uniform(0.0, _SPREAD * self.deadline), one)
            for one in self.draw.choices([*STRIKES], [*STRIKES.values()], k=8)
            if self.draw.random() < 2 * rate
        ]
        while process.is_alive():
            for at, what in [one for one in struck if one[0] <= time.monotonic()]:
                struck.remove((at, what))
                self._strike(what, process)
            self._restore()
            time.sleep(0.02)
        while self.due:
            self._restore()
            time.sleep(0.02)
        expected = (0, _REFUSED, -signal.SIGKILL)
        assert process.exitcode in expected, f"the run crashed: {self.federation.server / 'run.log'}"
        return process.exitcode == 0

    def _strike(self, what: str, process: BaseProcess) -> None:
        if any(name == "superlink" for _, _, name in self.due):
            return
        note(self.federation.server, happened=what)
        now, party = time.monotonic(), self.draw.randrange(CLIENTS)
        match what:
            case "killed":
                self.network.kill(party)
            case "stopped":
                self._stop(f"node-{party}", now + self.draw.expovariate(1.0))
            case "run killed":
                process.kill()
            case "superlink stopped":
                self._stop("superlink", now + self.draw.expovariate(1.0))
            case "superlink killed":
                self.network.kill_superlink()
                self.network.start_superlink()

    def _stop(self, name: str, until: float) -> None:
        self.network.signal(name, signal.SIGSTOP)
        self.due.append((until, -1, name))

    def _restore(self) -> None:
        """Let programs go on, and start those that died."""
        now = time.monotonic()
        for one in [one for one in self.due if one[0] <= now]:
            self.due.remove(one)
            if one[1] < 0:
                self.network.signal(one[2], signal.SIGCONT)
            else:
                self.network.start(one[1])
        for party in self.network.ended():
            if not any(one[1] == party for one in self.due):
                self.due.append((now + self.draw.choice((0.0, 0.0, 2.0)), party, ""))


# ---- what came of it -----------------------------------------------------------------------------


@dataclass
class Seen:
    """One session, by the traces of its parties. inputs: each client's vector and its data set."""

    data_set: str
    inputs: dict[int, tuple[bytes, str]] = field(default_factory=dict)
    messages: list[record.Message] = field(default_factory=list)
    network: Network = field(default_factory=Network)
    uploaded: set[int] = field(default_factory=set)
    sums: set[tuple[bytes, tuple[int, ...]]] = field(default_factory=set)
    remotes: Mapping[int, object] = field(default_factory=dict)


def lines(folder: Path) -> Iterator[Line]:
    """A trace; whoever was killed may have left a line in part."""
    for line in (folder / "trace").read_bytes().splitlines():
        with suppress(msgspec.DecodeError):
            yield msgspec.json.decode(line, type=Line)


def seen(server: Sequence[Line], clients: Sequence[Sequence[Line]]) -> dict[bytes, Seen]:
    """The sessions, in order."""
    sessions: dict[bytes, Seen] = {}
    for one in server:
        if one.data_set:  # again, where a run goes on with it
            sessions.setdefault(one.session, Seen(one.data_set))
        if one.values:
            sessions[one.session].sums.add((one.values, one.survivors))
    said = [(one.at, party, one) for party, each in enumerate(clients) for one in each if one.session]
    for _, party, one in sorted(said, key=lambda each: each[:2]):
        session = sessions[one.session]
        if one.data_set:
            if party not in session.uploaded:  # killed before it had answered, it reads its rows again
                session.inputs[party] = one.values, one.data_set
            continue
        phase = str(msgspec.msgpack.decode(one.question)[0])
        number, name = -1 if phase in _SET_UP else 0, f"site-{party}"
        session.messages.append(record.Message(number, phase, "server", name, one.question))
        if one.answer:
            session.network.said(party, "first", MASKS, one.question, one.answer)
            session.messages.append(record.Message(number, phase, name, "server", one.answer, fate=one.fate))
            if phase == _UPLOADED:
                session.uploaded.add(party)
    return sessions


def records(sessions: Sequence[Seen]) -> Iterator[record.Record]:
    """The record of a network's sessions. That a sum is not opened breaks no rule: a machine may be slow."""
    names = tuple(f"site-{one}" for one in range(CLIENTS))
    claims = record.Claims(
        name="a network of disturbed nodes", clients=(CLIENTS, CLIENTS), cohort=CLIENTS, least=3, ledger=True,
        fraction_bits=32, error=CLIENTS * 2.0**-32, bound=2.0**27, uploads=(_UPLOADED,),
    )  # fmt: skip
    yield record.System(record.VERSION, claims)
    for one in sessions:
        length = max((len(values) // 8 for values, _ in one.sums), default=1)
        yield record.Opened(names, (length,), one.data_set)
        yield from (each for each in one.messages if each.number < 0)
        if not one.sums:
            continue
        for party, (values, _) in sorted(one.inputs.items()):
            yield record.Input(0, names[party], hashlib.sha256(values).hexdigest(), values)
        yield from (each for each in one.messages if each.number == 0)
        for values, survivors in one.sums:
            yield record.Sum(0, values, tuple(names[party] for party in survivors))


def wrong(sessions: Mapping[bytes, Seen], kept: Sequence[record.Record]) -> list[str]:
    """The rules that these sessions broke."""
    found = [
        f"{row.name}: {row.note}" for row in judge_record(kept, only=_JUDGED).rows if row.verdict == "failed"
    ]
    used: dict[tuple[int, str], set[bytes]] = defaultdict(set)
    for number, one in sessions.items():
        found += [f"session {number.hex()[:8]}: {rule}" for rule in broken(cast(Any, one))]
        if len(one.sums) > 1:
            found.append(f"session {number.hex()[:8]}: its sum was told in {len(one.sums)} ways")
        for party in one.uploaded:
            used[party, one.inputs[party][1]].add(number)
    return found + [f"data in two sessions: {key}" for key, numbers in used.items() if len(numbers) > 1]


# ---- the command ---------------------------------------------------------------------------------


@dataclass
class Played:
    """What a network did. happened: by disturbance; learned: sessions that ended with a model."""

    sessions: dict[bytes, Seen]
    records: list[record.Record]
    happened: Counter[str]
    wrong: list[str]
    learned: int

    def line(self) -> dict[str, Any]:
        """What is counted of it."""
        uploads = Counter(len(one.uploaded) for one in self.sessions.values())
        return {
            "sessions": len(self.sessions),
            "sums": sum(bool(one.sums) for one in self.sessions.values()),
            "learned": self.learned,
            "uploads": {str(count): number for count, number in sorted(uploads.items())},
            "happened": dict(self.happened.most_common()),
            "wrong": self.wrong,
        }


def played(seed: int, sessions: int, deadline: float, folder: Path) -> Played:
    """A network and its sessions, with the seeds from this one on."""
    federation = Federation(folder / "parties", CLIENTS)
    with_a_key(federation)
    with Struck(folder / "network", federation.folders, federation.server, node=NODE) as network:
        held = Sessions(network, federation, deadline)
        learned = sum(held.hold(one) for one in range(seed, seed + sessions))
    server, *clients = ([*lines(one)] for one in (federation.server, *federation.folders))
    happened = Counter(one.happened for each in (server, *clients) for one in each if one.happened)
    found = seen(server, clients)
    kept = [*records([*found.values()])]
    return Played(found, kept, happened, wrong(found, kept), learned)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", type=int, default=40)
    parser.add_argument("--sessions", type=int, default=25, help="that each network is asked for")
    parser.add_argument(
        "--seed", type=int, default=2026, help="of the first session; each takes the next one"
    )
    parser.add_argument("--deadline", type=float, default=10.0, help="seconds for a phase")
    parser.add_argument("--log", type=Path, default=Path("disturbed_nodes.jsonl"), help="a line each network")
    parser.add_argument("--keep", type=Path, help="add the records of all sessions to this file")
    given = parser.parse_args()
    known = given.log.read_text().splitlines() if given.log.exists() else []
    done = {one["seed"]: one for one in map(json.loads, known)}
    for seed in range(given.seed, given.seed + given.networks * given.sessions, given.sessions):
        if seed in done:
            continue
        began = time.perf_counter(), cpu()
        with tempfile.TemporaryDirectory() as folder:
            network = played(seed, given.sessions, given.deadline, Path(folder))
        if given.keep:
            with given.keep.open("ab") as file:
                deque(record.noted(network.records, file), maxlen=0)
        spent = {"seconds": round(time.perf_counter() - began[0]), "cpu": round(cpu() - began[1])}
        done[seed] = {"seed": seed, **network.line(), **spent}
        with given.log.open("a") as log:
            print(json.dumps(done[seed]), file=log)
        print(json.dumps(done[seed]), flush=True)
    return shown([*done.values()])


def cpu() -> float:
    """Seconds that this process and its ended children have used."""
    return sum(os.times()[:4])


def shown(networks: Sequence[dict[str, Any]]) -> int:
    """Print what came of all networks of the log; the exit code."""
    total = {
        name: sum(one[name] for one in networks) for name in ("sessions", "sums", "learned", "seconds", "cpu")
    }
    happened: Counter[str] = Counter()
    for one in networks:
        happened.update(one["happened"])
    rules = [rule for one in networks for rule in one["wrong"]]
    print(
        f"{len(networks)} networks, {total['sessions']} sessions, {total['sums']} sums opened, {total['learned']} models, "
        f"{sum(happened.values())} disturbances; {total['cpu']} s of CPU, {total['seconds']} s; {len(rules)} rules broken"
    )
    print(", ".join(f"{name} {count}" for name, count in happened.most_common()))
    for rule in rules:
        print(rule)
    return int(bool(rules))


if __name__ == "__main__":
    sys.exit(main())
