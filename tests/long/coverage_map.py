"""Which test runs which lines of `crypto` and `protocol`, and how long it takes."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from long.forks import allow, forked

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {
    str(ROOT / "secure_afl" / path.relative_to(ROOT)): str(path.relative_to(ROOT))
    for package in ("crypto", "protocol")
    for path in sorted((ROOT / package).rglob("*.py"))
}  # as they are imported, and what they are called here
TESTS = ("crypto", "protocol", "verification", "sums/test_encrypted.py")
ELSEWHERE = ("verification/test_killed.py",)  # what they test runs in other processes
FOR_MUTANTS = "verification/test_survivors.py"
OPTIONS = (
    "-q",  # with the one of pyproject.toml: not even a summary
    "-s",
    "--tb=short",
    "--hypothesis-profile=mutants",
    "-pno:cacheprovider",
    "-mnot long",
    "-Wignore::pytest.PytestAssertRewriteWarning",  # of what was loaded before
)

Line = tuple[str, int]  # a file such as crypto/lattice/ntt.py, and a number


class Tests:
    """A pytest plugin: collects, and leaves what is run to `work`."""

    def __init__(self, work: Callable[["Tests"], bool]) -> None:
        self._work = work
        self._failures = 0
        self.items: dict[str, pytest.Item] = {}

    def collected(self, folder: Path) -> bool:
        """Whether collection failed nowhere and the work says that it went well."""
        self._well = False
        paths = [str(ROOT / "tests" / name) for name in TESTS]
        ignored = [f"--ignore={ROOT / 'tests' / name}" for name in ELSEWHERE]
        pytest.main(
            [*OPTIONS, *ignored, f"--rootdir={ROOT}", f"--basetemp={folder / 'tmp'}", *paths], plugins=[self]
        )
        return self._well

    def run(self, names: Sequence[str], seconds: dict[str, float]) -> bool:
        """Whether they pass, one after the other until one fails. Each has ten times its CPU seconds, and five."""
        items = [self.items[name] for name in names]
        for item, following in zip_longest(items, items[1:]):
            allow(5 + 10 * seconds[item.nodeid])
            self.run_one(item, following)
            if self._failures:
                return False
        return True

    def run_one(self, item: pytest.Item, following: pytest.Item | None = None) -> bool:
        """Whether it passes."""
        before = self._failures
        item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
        return self._failures == before

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.failed:
            self._failures += 1
            print(report.nodeid, report.longreprtext, sep="\n")

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.items = {item.nodeid: item for item in session.items}
        self._well = not self._failures and self._work(self)
        return True


class Recorder:
    """The lines of our sources that this thread runs."""

    def __init__(self) -> None:
        self._lines: dict[str, set[int]] = {name: set() for name in SOURCES.values()}
        self._local = {path: _adder(self._lines[name]) for path, name in SOURCES.items()}

    def start(self) -> None:
        """Forgets those before."""
        for lines in self._lines.values():
            lines.clear()
        sys.settrace(lambda frame, event, argument: self._local.get(frame.f_code.co_filename))

    def stop(self) -> set[Line]:
        """Those since the start."""
        sys.settrace(None)
        return {(name, line) for name, lines in self._lines.items() for line in lines}


def _adder(lines: set[int]) -> Callable[..., Any]:
    def local(frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
        lines.add(frame.f_lineno)
        return local

    return local


class CoverageMap:
    """seconds: CPU time of every test, traced; names are the node ids of pytest."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._tests: dict[Line, set[str]] = {}

    def record(self, tests: Tests, folder: Path, tell: Callable[[str], None]) -> None:
        """Runs every test alone, in a fork: what another has filled, a cache or a fixture, would hide lines.

        A test that does not pass there (one that needs examples made shorter, say) is named, and left out.
        """
        for name, item in list(tests.items.items()):
            tell(name)
            (folder / "ran").unlink(missing_ok=True)
            end = forked(lambda item=item: _traced(tests, item, folder / "ran"), folder / "output", 600)  # type: ignore[misc]
            if end != "passed":
                print(f"left out, it does not pass alone and unchanged: {name}")
                del tests.items[name]
                continue
            seconds, lines = json.loads((folder / "ran").read_text())
            self.seconds[name] = seconds
            for file, line in lines:
                self._tests.setdefault((file, line), set()).add(name)

    def tests(self, lines: Iterable[Line]) -> list[str]:
        """Which tests run one of the lines, quickest first."""
        return self.quickest_first({name for line in lines for name in self._tests.get(line, ())})

    def tests_of_file(self, file: str) -> list[str]:
        """Which tests run any line of a file, quickest first."""
        return self.tests([line for line in self._tests if line[0] == file])

    def quickest_first(self, names: Iterable[str]) -> list[str]:
        """Those that were written for mutants before all others."""
        return sorted(names, key=lambda name: (FOR_MUTANTS not in name, self.seconds[name], name))


def _traced(tests: Tests, item: pytest.Item, ran: Path) -> bool:
    recorder, started = Recorder(), time.process_time()
    recorder.start()
    passed = tests.run_one(item)
    lines = recorder.stop()
    ran.write_text(json.dumps([time.process_time() - started, sorted(lines)]))
    return passed
