"""How many small wrong changes to `crypto` and `protocol` do the tests notice?

    python tests/long/mutants.py [--package crypto|protocol] [--sample N --seed S] [--json FILE [--resume FILE]]

First every test is run, to know the lines that it runs. A change inside a function is put into the live function, in a
fork of this process, and the tests that run its line are run, quickest first, until one fails. With a change elsewhere
(constants, defaults, classes), or in what runs while modules are loaded, all of ours is loaded anew in a fork, and any
test may fail. A mutant with which a test takes ten times its time is killed, too.
Score: killed / (all − equivalent). Equivalent mutants stand with their reasons in `equivalent.txt`.

A mutant meets the quickest tests only, of --patience seconds in all: that finds nearly all that can be killed, and the
score is no better for it. To try what survived with every test: --resume FILE --patience 1000.
"""

import argparse
import functools
import gc
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.machinery import SourceFileLoader
from itertools import accumulate
from math import sqrt
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # before NumPy is loaded: no thread outlives a fork
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import hypothesis
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from long.coverage_map import SOURCES, CoverageMap, Line, Recorder, Tests
from long.forks import allow, forked
from long.mutations import Mutation, mutated, mutations

EQUIVALENT = Path(__file__).parent / "equivalent.txt"
KILLED = ("killed", "timeout")
PATHS = {name: path for path, name in SOURCES.items()}


def all_mutations(packages: Sequence[str]) -> list[Mutation]:
    """Of every file of the packages."""
    return [
        mutation
        for file in SOURCES.values()
        if file.split("/")[0] in packages
        for mutation in mutations(file, (ROOT / file).read_text())
    ]


def equivalent() -> dict[str, str]:
    """The reasons of mutants that no test can notice, by their keys."""
    lines = EQUIVALENT.read_text().splitlines()
    pairs = [line.rsplit(" :: ", 1) for line in lines if line and not line.startswith("#")]
    return {key: reason for key, reason in pairs}


# ---- one mutant --------------------------------------------------------------------------------------


class Judge:
    """Says of a mutant whether the tests notice.

    loaded: the lines that ran while modules were loaded. patience: CPU seconds of tests that a mutant meets at most.
    """

    def __init__(self, tests: Tests, loaded: set[Line], patience: float, folder: Path) -> None:
        self._tests = tests
        self._loaded = loaded
        self._patience = patience
        self._folder = folder
        self._functions, self._caches = _live()
        self.map = CoverageMap()

    def passes_without(self) -> bool:
        """Whether tests pass in either kind of fork, in the order that mutants meet them, if nothing is changed."""
        codes = {file: compile((ROOT / file).read_text(), path, "exec") for file, path in PATHS.items()}

        def put() -> bool:
            for (file, _, _), live in self._functions.items():
                _put(_find(codes[file], live[0].__code__), live)
            return self._run(every)

        every = self._every()
        few, file = self._quickest(every), next(iter(codes))
        return (
            self._end(put, every) == "survived"
            and self._end(lambda: self._loaded_anew(codes[file], file, few), few) == "survived"
        )

    def output(self) -> str:
        """The end of what the last fork printed."""
        return (self._folder / "output").read_text(errors="replace")[-3000:]

    def result(self, one: Mutation) -> str:
        """ "killed", "timeout", "survived", or "not run": survived since no test runs the line."""
        mutant = mutated((ROOT / one.file).read_text(), one.number)
        code = compile(mutant.tree, PATHS[one.file], "exec")
        lines = [(one.file, line) for line in mutant.lines]
        tests = self._quickest(self.map.tests(lines))
        live = self._functions.get((one.file, *mutant.function), []) if mutant.function else []
        changed = _find(code, live[0].__code__) if live else code
        if live and changed.co_freevars == live[0].__code__.co_freevars:  # others take no such code
            end = self._end(lambda: _put(changed, live) and self._run(tests), tests) if tests else "not run"
            # What ran while modules were loaded may have left functions behind that were made in it.
            if end in KILLED or self._loaded.isdisjoint([*lines, *_body(one.file, live[0].__code__)]):
                return end
        near = self.map.tests_of_file(one.file)
        tests = self._quickest(near + [name for name in self._every() if name not in set(near)])
        return self._end(lambda: self._loaded_anew(code, one.file, tests), tests)

    def _every(self) -> list[str]:
        return self.map.quickest_first(self._tests.items)

    def _quickest(self, tests: Sequence[str]) -> list[str]:
        sums = accumulate(self.map.seconds[name] for name in tests)
        return [
            name
            for at, (name, spent) in enumerate(zip(tests, sums, strict=True))
            if spent < self._patience or not at
        ]

    def _end(self, work: Callable[[], bool], tests: Sequence[str]) -> str:
        seconds = 120 + 10 * sum(self.map.seconds[name] for name in tests)
        end = forked(work, self._folder / "output", seconds)
        return {"passed": "survived", "failed": "killed", "timeout": "timeout"}[end]

    def _run(self, tests: Sequence[str]) -> bool:
        for cached in self._caches:
            cached.cache_clear()
        return self._tests.run(tests, self.map.seconds)

    def _loaded_anew(self, code: CodeType, file: str, names: Sequence[str]) -> bool:
        allow(60)
        for name, module in list(sys.modules.items()):
            if name != "__main__" and str(getattr(module, "__file__", None)).startswith(str(ROOT)):
                del sys.modules[name]
        _import_as(code, PATHS[file])
        seconds = self.map.seconds
        return Tests(lambda tests: tests.run(names, seconds)).collected(self._folder)


def _live() -> tuple[dict[tuple[str, str, int], list[FunctionType]], list[Any]]:
    # Functions by file, name and line, wherever they are held or wrapped; and caches of results. Exact types: to be
    # asked for its class makes some objects warn.
    functions: dict[tuple[str, str, int], list[FunctionType]] = {}
    caches: list[Any] = []
    for one in gc.get_objects():
        if type(one) is functools._lru_cache_wrapper:
            caches.append(one)
        elif type(one) is FunctionType and one.__code__.co_filename in SOURCES:
            code = one.__code__
            key = SOURCES[code.co_filename], code.co_qualname, code.co_firstlineno
            functions.setdefault(key, []).append(one)
    return functions, [one for one in caches if one.__module__.startswith("secure_afl.")]


def _find(module: CodeType, like: CodeType) -> CodeType:
    """The code of the same function in another compilation."""
    inside = [module]
    for code in inside:
        if (code.co_qualname, code.co_firstlineno) == (like.co_qualname, like.co_firstlineno):
            return code
        inside += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    raise LookupError(f"expected {like.co_qualname} in {like.co_filename}")


def _body(file: str, code: CodeType) -> list[Line]:
    """The lines of a function, without those of functions that are made in it."""
    return [(file, line) for _, _, line in code.co_lines() if line and line != code.co_firstlineno]


def _put(code: CodeType, functions: Sequence[FunctionType]) -> bool:
    for one in functions:
        one.__code__ = code
    return True


def _import_as(code: CodeType, path: str) -> None:
    plain: Callable[[Any, str], CodeType | None] = SourceFileLoader.get_code

    def get_code(self: Any, fullname: str) -> CodeType | None:
        return code if self.path == path else plain(self, fullname)

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


# ---- a run -------------------------------------------------------------------------------------------


def interval(killed: int, of: int) -> tuple[float, float]:
    """Wilson's 95 % interval for a share."""
    if not of:
        return 0.0, 1.0
    z, share = 1.96, killed / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z * sqrt(share * (1 - share) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return max(0.0, middle - half), min(1.0, middle + half)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--package", choices=["crypto", "protocol"])
    parser.add_argument("--sample", type=int, help="so many, drawn by the seed; all without it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="begin no further mutant after so long"
    )
    parser.add_argument(
        "--patience", type=float, default=10, help="CPU seconds of tests that a mutant meets at most"
    )
    parser.add_argument("--json", type=Path, help="one line a mutant, written as they come")
    parser.add_argument(
        "--resume", type=Path, help="a file of --json: what was killed there is not tried again"
    )
    parser.add_argument("--unchecked", action="store_true", help="without first seeing all tests pass")
    arguments = parser.parse_args()
    console = Console()
    every = all_mutations([arguments.package] if arguments.package else ["crypto", "protocol"])
    drawn = list(every)
    random.Random(arguments.seed).shuffle(drawn)
    drawn = drawn[: arguments.sample]
    earlier = _read(arguments.resume) if arguments.resume else {}
    reasons, results = equivalent(), dict[Mutation, str]()
    started = time.monotonic()
    # No thread may draw while this process forks.
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=console, transient=True, auto_refresh=False, redirect_stdout=False)
    recorder = Recorder()

    def work(tests: Tests) -> bool:
        judge = Judge(tests, recorder.stop(), arguments.patience, folder)
        task = bar.add_task("", total=len(tests.items) + len(drawn))

        def tell(text: str) -> None:
            bar.update(task, advance=1, description=text[-70:])
            bar.refresh()

        judge.map.record(tests, folder, tell)
        if not arguments.unchecked and not judge.passes_without():
            console.print("Without a mutant a test fails:", judge.output())
            return False
        for one in drawn:
            if time.monotonic() - started > arguments.seconds:
                break
            tell(f"{one.file}:{one.line} {one.what}"[:70])
            if one.key in reasons:
                results[one] = "equivalent"
            else:
                results[one] = earlier[one] if earlier.get(one) in KILLED else judge.result(one)
            if arguments.json:
                _append(arguments.json, one, results[one])
        return True

    with bar, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.update(HYPOTHESIS_STORAGE_DIRECTORY=name, JOBLIB_TEMP_FOLDER=name)
        hypothesis.settings.register_profile(
            "mutants",
            deadline=None,
            database=None,
            derandomize=True,  # a mutant has the same result again
            phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),  # none is made shorter
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        if arguments.json:
            arguments.json.write_text("")
        recorder.start()
        well = Tests(work).collected(folder)
    _tell(console, every, results, time.monotonic() - started)
    return 0 if well else 1


def _read(file: Path) -> dict[Mutation, str]:
    """What stands in a file of results. A last line that was cut short does not count."""
    rows = [json.loads(line) for line in file.read_text().split("\n")[:-1]]
    return {Mutation(**row["mutant"]): row["result"] for row in rows}


def _append(file: Path, one: Mutation, result: str) -> None:
    with file.open("a") as out:
        out.write(json.dumps({"result": result, "mutant": vars(one)}) + "\n")


def _tell(console: Console, every: Sequence[Mutation], results: dict[Mutation, str], seconds: float) -> None:
    count = Counter(results.values())
    killed, of = sum(count[kind] for kind in KILLED), len(results) - count["equivalent"]
    low, high = interval(killed, of)
    for one, result in results.items():
        if result in ("survived", "not run"):
            alone = "" if result == "survived" else " (no test runs this line)"
            print(f"{one.file}:{one.line}: {one.text}{alone}\n    {one.what}")
    console.print(
        f"{len(results)} of {len(every):,} mutants in {seconds:.0f} s: {killed} killed "
        f"({count['timeout']} by time), {count['survived']} survived, {count['not run']} at lines that no test runs, "
        f"{count['equivalent']} equivalent"
    )
    console.print(f"score {killed / max(1, of):.1%}, 95 % interval {low:.1%} to {high:.1%}")


if __name__ == "__main__":
    sys.exit(main())
