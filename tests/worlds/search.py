"""The random search: properties in random order with random examples, until time is up.

    HYPOTHESIS_PROFILE=search python -m pytest --hypothesis-seed=SEED --search-seconds=SECONDS

The seed fixes the order and the examples of each property, whichever properties ran before it. What the search finds
becomes an `@example` of its property, and is then tried at every run.
"""

import random
import time

import pytest
from hypothesis import settings

_BEGAN = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--search-seconds", type=float, help="try properties in random order, and begin none after so long"
    )


def _limit(config: pytest.Config) -> float | None:
    limit: float | None = config.getoption("--search-seconds")
    return limit


def pytest_report_header(config: pytest.Config) -> str | None:
    return f"search: {_replay(config, '')}" if _limit(config) else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if _limit(config):
        others = [item for item in items if not item.get_closest_marker("hypothesis")]
        items[:] = [item for item in items if item.get_closest_marker("hypothesis")]
        config.hook.pytest_deselected(items=others)
        random.Random(_seed(config)).shuffle(items)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    limit = _limit(item.config)
    if limit and time.monotonic() - _BEGAN > limit:
        pytest.skip("the search's time was up")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    failed = terminalreporter.getreports("failed") if _limit(config) else []
    for report in failed:
        terminalreporter.write_line(f"again: {_replay(config, report.nodeid)}", red=True)
    if failed:
        terminalreporter.write_line("Keep what was found as an @example of the property.", red=True)


def _seed(config: pytest.Config) -> str:
    return str(config.getoption("--hypothesis-seed"))


def _replay(config: pytest.Config, name: str) -> str:
    profile = settings.get_current_profile_name()
    return (
        f"HYPOTHESIS_PROFILE={profile} .venv/bin/python -m pytest --hypothesis-seed={_seed(config)} '{name}'"
    )
