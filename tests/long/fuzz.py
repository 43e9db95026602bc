"""Feeds altered messages to every decoder and to the state machines in every state.

    python tests/long/fuzz.py --inputs 1000000 [--seed S] [--seconds N] [--json FILE] [--keep]

An input is an honest message with bytes or fields changed, alone or behind a valid signature. What must hold: only
our own errors; nothing changed by what was refused; no input takes long or much memory; honest messages are
accepted afterwards. Inputs that were refused for a new reason, or that reached new lines (a sample is traced), are
altered further; --keep writes those that reach all lines found to `tests/long/corpus`, which CI replays.
"""

import argparse
import contextlib
import faulthandler
import hashlib
import json
import random
import re
import resource
import signal
import sys
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as File
from types import CodeType, FrameType
from typing import Any, Protocol

sys.path.insert(0, str(File(__file__).resolve().parents[1]))

from msgspec import msgpack
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import secure_afl
from long.decoders import decoders
from long.machines import honest_frames, honest_messages, machines
from long.recipes import RECIPE, Op, Path, Recipe, cooked, drawn

CORPUS = File(__file__).parent / "corpus"
SECONDS_AN_INPUT = 5.0  # of this process's CPU time
BYTES_AN_INPUT = 16 * 2**20  # at its peak; and 64 for each byte that came
_TRACED, _MEASURED, _HONEST = 48, 64, 512  # one input in so many
_HANGS = 3  # after which a target is left
_POOL = 300  # recipes that are altered further, of each target
_SOURCES = tuple(str(File(secure_afl.__file__).parent / name) for name in ("crypto", "protocol"))

Lines = set[tuple[CodeType, int]]


class Target(Protocol):
    """What is fed. `feed` gives whether it accepted; anything it raises is a finding."""

    @property
    def name(self) -> str: ...
    @property
    def weight(self) -> float: ...
    @property
    def bases(self) -> Mapping[str, bytes]: ...
    @property
    def paths(self) -> Mapping[str, list[Path]]: ...
    @property
    def senders(self) -> tuple[int, ...]: ...
    @property
    def may_sign(self) -> bool: ...
    @property
    def reason(self) -> str: ...
    def feed(self, recipe: Recipe, data: bytes) -> bool: ...
    def honest(self) -> None: ...


class Hang(BaseException):
    """An input took too long. Not an `Exception`, so that nothing takes it for a refusal."""


@dataclass(frozen=True)
class Finding:
    """What went wrong, and the input that shows it."""

    target: str
    kind: str
    text: str
    recipe: Recipe


@dataclass
class Tally:
    """Of one target."""

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0


@dataclass
class Report:
    """Of a run. lines: reached in `crypto` and `protocol` by traced inputs."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    kept: dict[str, list[Recipe]] = field(default_factory=dict)
    lines: Lines = field(default_factory=set)

    def found(self, finding: Finding) -> None:
        """Once for each target, kind and place."""
        about = (finding.target, finding.kind, finding.text.splitlines()[-1][:80])
        if about not in {(one.target, one.kind, one.text.splitlines()[-1][:80]) for one in self.findings}:
            self.findings.append(finding)


# ---- watching one input ------------------------------------------------------------------------------


class Watch:
    """A clock of CPU time that costs nothing an input: it looks twice in the time allowed whether one went on."""

    def __init__(self, seconds: float) -> None:
        self.current = 0
        self._seconds = seconds
        self._seen = (-1, 0)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """While this lasts, an input that takes too long raises `Hang`."""
        before = signal.signal(signal.SIGPROF, self._look)
        signal.setitimer(signal.ITIMER_PROF, self._seconds / 2, self._seconds / 2)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)

    def _look(self, number: int, frame: FrameType | None) -> None:
        seen, times = self._seen
        times = times + 1 if seen == self.current else 1
        self._seen = (self.current, times)
        if times > 2:
            raise Hang(f"over {self._seconds:g} s")


@contextlib.contextmanager
def traced(lines: Lines) -> Iterator[None]:
    """Adds the lines of `crypto` and `protocol` that are reached."""

    def local(frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
        lines.add((frame.f_code, frame.f_lineno))
        return local

    def call(frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        if not frame.f_code.co_filename.startswith(_SOURCES):
            return None
        lines.add((frame.f_code, frame.f_lineno))
        return local

    before = sys.gettrace()
    sys.settrace(call)
    try:
        yield
    finally:
        sys.settrace(before)


def attempt(target: Target, recipe: Recipe, report: Report, *, measured: bool = False) -> bool | None:
    """Feeds one input. Whether it was accepted; None if it is a finding."""
    data = cooked(recipe, target.bases)
    limit = BYTES_AN_INPUT + 64 * len(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if measured:
        tracemalloc.start()
    try:
        accepted = target.feed(recipe, data)
        if measured and (peak := tracemalloc.get_traced_memory()[1]) > limit:
            report.found(Finding(target.name, "memory", f"{peak} bytes for an input of {len(data)}", recipe))
            return None
    except Hang as error:
        report.found(Finding(target.name, "hang", str(error), recipe))
        return None
    except MemoryError:
        report.found(Finding(target.name, "memory", "MemoryError", recipe))
        return None
    except Exception as error:  # noqa: BLE001  # whatever it is, it is a finding
        kind = "state" if isinstance(error, AssertionError) else "error"
        report.found(Finding(target.name, kind, "".join(traceback.format_exception(error)), recipe))
        return None
    finally:
        if measured:
            tracemalloc.stop()
    # A peak of the whole process, so it shows the first and every larger one.
    if (grown := resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 > 4 * limit:
        report.found(Finding(target.name, "memory", f"{grown} KiB more for one input", recipe))
        return None
    return accepted


# ---- a run -------------------------------------------------------------------------------------------


def fuzz(
    targets: Sequence[Target],
    *,
    inputs: int,
    seed: int,
    seconds: float = float("inf"),
    seconds_an_input: float = SECONDS_AN_INPUT,
    corpus: Sequence[Recipe] = (),
    watch: Callable[[str, int], None] = lambda name, count: None,
) -> Report:
    """So many inputs over all targets, by their weights. Nothing but keys is drawn from anywhere but the seed."""
    report, clock = Report(), Watch(seconds_an_input)
    ends = time.monotonic() + seconds
    weights = sum(target.weight for target in targets)
    due = 0.0
    with clock.running():
        for target in targets:
            due += inputs * target.weight / weights
            count = round(due) - sum(tally.inputs for tally in report.tallies.values())
            kept = [recipe for recipe in corpus if recipe.target == target.name]
            source = random.Random(f"{seed} {target.name}")
            report.tallies[target.name] = Tally()
            _fuzz_one(target, count, source, kept, report, clock, ends, watch)
    return report


def _fuzz_one(
    target: Target,
    count: int,
    source: random.Random,
    pool: list[Recipe],
    report: Report,
    clock: Watch,
    ends: float,
    watch: Callable[[str, int], None],
) -> None:
    tally, reasons, started = report.tallies[target.name], Reasons(), time.monotonic()
    interesting = report.kept.setdefault(target.name, [])
    lines: Lines = set()
    told = hung = 0
    for number in range(count):
        clock.current += 1
        recipe = drawn_recipe(target, pool, source)
        if number % _TRACED == 0:
            before = len(lines)
            with traced(lines):
                accepted = attempt(target, recipe, report)
            new = len(lines) > before
        else:
            accepted = attempt(target, recipe, report, measured=number % _MEASURED == 1)
            new = False
        if accepted is False:
            new |= reasons.new(target.reason)
        hung += accepted is None and report.findings[-1].kind == "hang"
        tally.inputs += 1
        tally.accepted += accepted is True
        tally.refused += accepted is False
        if new and accepted is not None and len(recipe.ops) < 6:
            interesting.append(recipe)
            if len(pool) < _POOL:
                pool.append(recipe)
            else:
                pool[source.randrange(_POOL)] = recipe
        if number % _HONEST == 0 or number == count - 1:
            try:
                target.honest()
            except Exception as error:  # noqa: BLE001
                report.found(Finding(target.name, "state", f"then refused what is honest: {error!r}", recipe))
        if number % 200 == 199 or number == count - 1:
            watch(target.name, number + 1 - told)
            told = number + 1
            if time.monotonic() > ends:
                break
        if hung == _HANGS:
            break
    report.lines |= lines
    tally.seconds = time.monotonic() - started


class Reasons:
    """Why inputs were refused: the texts of our errors, without numbers and names."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def new(self, text: str) -> bool:
        """Whether no refusal had this reason before."""
        reason = _NAMES.sub("#", text)
        if reason in self._seen or len(self._seen) > 1000:
            return False
        self._seen.add(reason)
        return True


_NAMES = re.compile(r"'[^']*'|\d[0-9a-f.]*|got .*|\$[\w.\[\]]*")


def drawn_recipe(target: Target, pool: Sequence[Recipe], source: random.Random) -> Recipe:
    """A new input: one that was interesting with a change more, or a base with up to three."""
    if pool and source.random() < 0.4:
        recipe = source.choice(pool)
        ops: tuple[Op, ...] = recipe.ops if source.random() < 0.8 else recipe.ops[:-1]
        base, sign, sender, data = recipe.base, recipe.sign, recipe.sender, recipe.data
    else:
        names = tuple(target.bases)
        base, ops, data = source.choice(names), (), b""
        # What the party waits for goes furthest.
        pending = getattr(target, "pending", "")
        inner = tuple(getattr(target, "inner", ()))
        if pending and source.random() < 0.6:
            base = source.choice((pending, *inner))
        sign = target.may_sign and not base.startswith("frame ") and source.random() < 0.8
        sender = getattr(target, "sender", -1)
    if target.senders and source.random() < 0.1:
        sender = source.choice(target.senders)
    paths = target.paths.get(base, [])
    for _ in range(source.choice((1, 1, 1, 2, 3))):
        ops = (*ops, drawn(source, target.bases, paths))
    return Recipe(target.name, base, ops[:8], sign, sender, data)


# ---- the corpus --------------------------------------------------------------------------------------


def read_corpus(folder: File = CORPUS) -> dict[str, Recipe]:
    """Recipes by file name."""
    return {file.name: RECIPE.decode(file.read_bytes()) for file in sorted(folder.glob("*.msgpack"))}


def write(recipe: Recipe, folder: File = CORPUS) -> File:
    """A recipe as a file named after its target and its contents."""
    folder.mkdir(exist_ok=True)
    data = msgpack.encode(recipe)
    slug = re.sub(r"\W+", "-", recipe.target).strip("-").lower()
    file = folder / f"{slug}-{hashlib.sha256(data).hexdigest()[:10]}.msgpack"
    file.write_bytes(data)
    return file


def fewest(
    targets: Sequence[Target], report: Report, recipes: Mapping[str, Sequence[Recipe]]
) -> list[Recipe]:
    """Recipes that reach all lines that any of these reaches, for each kind of target: those that reach most first."""
    reached: dict[str, list[tuple[Lines, Recipe]]] = {}
    for target in targets:
        for recipe in recipes.get(target.name, ()):
            lines: Lines = set()
            for _ in range(2):  # the second time, so that no cache is filled
                lines.clear()
                with traced(lines):
                    attempt(target, recipe, report)
            if len(msgpack.encode(recipe)) < 2000:
                reached.setdefault(target.name.split()[0], []).append((lines, recipe))
    chosen: list[Recipe] = []
    for candidates in reached.values():
        seen: Lines = set()
        for lines, recipe in sorted(candidates, key=lambda one: (-len(one[0]), len(msgpack.encode(one[1])))):
            if not lines <= seen:
                seen |= lines
                chosen.append(recipe)
    return chosen


def whole(targets: Sequence[Target]) -> list[Recipe]:
    """Honest messages as they are, each once, where they are short: what must still be read."""
    found: dict[bytes, Recipe] = {}
    for target in targets:
        if target.name.startswith("decode "):
            for data in target.bases.values():
                if len(data) < 1500:
                    found.setdefault(data, Recipe(target.name, "", data=data))
    return list(found.values())


# ---- the program -------------------------------------------------------------------------------------


def all_targets() -> list[Target]:
    """Everything that is fed, built anew."""
    return [*decoders(honest_messages(), honest_frames()), *machines()]


def table_of(report: Report) -> Table:
    """What was fed to what."""
    table = Table("target", *("inputs", "accepted", "refused", "seconds", "inputs/s"))
    for column in table.columns[1:]:
        column.justify = "right"
    for name, one in report.tallies.items():
        table.add_row(name, *_row(one))
    for what, names in (
        ("decoders", [name for name in report.tallies if not _is_machine(name)]),
        ("machines", [name for name in report.tallies if _is_machine(name)]),
        ("total", list(report.tallies)),
    ):
        table.add_section()
        table.add_row(what, *_row(_sum([report.tallies[name] for name in names])))
    return table


def _is_machine(name: str) -> bool:
    return name.startswith(("Masking", "Homomorphic", "KeyHolder"))


def _sum(tallies: Sequence[Tally]) -> Tally:
    return Tally(
        sum(one.inputs for one in tallies),
        sum(one.accepted for one in tallies),
        sum(one.refused for one in tallies),
        sum(one.seconds for one in tallies),
    )


def _row(one: Tally) -> tuple[str, ...]:
    rate = one.inputs / one.seconds if one.seconds else 0.0
    return (f"{one.inputs:,}", f"{one.accepted:,}", f"{one.refused:,}", f"{one.seconds:.1f}", f"{rate:,.0f}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=1_000_000, help="over all targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--only", default="", help="targets whose name contains this")
    parser.add_argument("--json", type=File)
    parser.add_argument("--keep", action="store_true", help="write what reaches new lines to the corpus")
    arguments = parser.parse_args()
    console = Console()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30, hard))
    targets = [target for target in all_targets() if arguments.only in target.name]
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=arguments.inputs)

        def watch(name: str, count: int) -> None:
            progress.update(task, description=name, advance=count)
            faulthandler.dump_traceback_later(300, exit=True)  # C code that never comes back

        report = fuzz(
            targets,
            inputs=arguments.inputs,
            seed=arguments.seed,
            seconds=arguments.seconds,
            corpus=list(read_corpus().values()),
            watch=watch,
        )
        faulthandler.cancel_dump_traceback_later()
    console.print(table_of(report))
    console.print(f"{len(report.lines):,} lines of crypto/ and protocol/ reached by traced inputs")
    for finding in report.findings:
        text = finding.text if len(finding.text) < 3000 else f"…{finding.text[-3000:]}"
        print(f"{finding.target}: {finding.kind}\n{text}\n{finding.recipe}")
    console.print(f"{len(report.findings)} findings")
    if arguments.keep:
        corpus = {name: list(recipes) for name, recipes in report.kept.items()}
        for recipe in read_corpus().values():
            corpus.setdefault(recipe.target, []).append(recipe)
        for file in CORPUS.glob("*.msgpack"):
            file.unlink()
        chosen = [*fewest(targets, report, corpus), *whole(targets), *(one.recipe for one in report.findings)]
        for recipe in chosen:
            write(recipe)
        console.print(f"{len(chosen)} recipes kept")
    if arguments.json:
        arguments.json.write_text(json.dumps(_as_json(report), indent=2) + "\n")
    return 1 if report.findings else 0


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "targets": {name: vars(one) for name, one in report.tallies.items()},
        "total": vars(_sum(list(report.tallies.values()))),
        "findings": [[one.target, one.kind, one.text] for one in report.findings],
    }


if __name__ == "__main__":
    sys.exit(main())
