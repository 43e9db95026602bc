"""Keeps the quick tests quick: says at the end of a run which tests take far more than their mark allows.

Of CPU time, so that a busy machine changes little; and a warning only, so that no test's end depends on speed.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

ALLOWED = {"": 1.0, "slow": 5.0}
"""CPU seconds of a test, its parameters together, by its mark; a `long` one may take what it needs."""
FAR = 2.5  # times what is allowed
SHOWN = 20


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # not in the processes that only run tests
        config.pluginmanager.register(Report(), "secure-afl-budget")


def _spent() -> float:
    """CPU seconds of this process and of those that it has waited for."""
    return sum(os.times()[:4])


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    item.user_properties.append(("cpu_seconds", -_spent()))
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    try:
        return (yield)
    finally:
        mark = next((one for one in ("long", "slow") if item.get_closest_marker(one)), "")
        said: dict[str, Any] = dict(item.user_properties)
        began = said.get("cpu_seconds", 0.0)
        item.user_properties[:] = [one for one in item.user_properties if one[0] != "cpu_seconds"]
        item.user_properties += [("cpu_seconds", began + _spent()), ("budget", mark)]


class Report:
    """Adds up what the tests say that they took."""

    def __init__(self) -> None:
        self.spent: dict[tuple[str, str], float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        said: dict[str, Any] = dict(report.user_properties)
        if report.when == "teardown" and "budget" in said:
            self.spent[said["budget"], report.nodeid.split("[")[0]] += said["cpu_seconds"]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if len(self.spent) < 100:  # few tests pay for all that is loaded
            return
        sums = {
            mark: sum(taken for (one, _), taken in self.spent.items() if one == mark)
            for mark in ("", "slow", "long")
        }
        terminalreporter.write_line(
            f"CPU seconds: {sums['']:.0f} of unmarked tests, {sums['slow']:.0f} of slow ones, {sums['long']:.0f} of long ones"
        )
        over = sorted(
            (
                (taken, name, mark)
                for (mark, name), taken in self.spent.items()
                if taken > FAR * ALLOWED.get(mark, float("inf"))
            ),
            reverse=True,
        )
        if over:
            terminalreporter.section(
                "tests far over their time: mark them slow or long, or make them quicker"
            )
        for taken, name, mark in over[:SHOWN]:
            terminalreporter.write_line(
                f"{taken:6.1f} s of CPU, {mark or 'unmarked'}, which allows {ALLOWED[mark]:g} s: {name}"
            )
        if len(over) > SHOWN:
            terminalreporter.write_line(f"and {len(over) - SHOWN} more")
