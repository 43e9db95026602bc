"""The properties as tests of pytest, one item each.

    from secure_afl.testing.plugin import properties

    test_mine = properties(MySum, expected={"a_sum_is_made_once": "it keeps no list of sums yet"})

A property that fails, and is not expected to, fails its test; one that is expected to fail and passes, too. What is not
claimed or not judged is skipped, with the reason.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from secure_afl.testing.check import PropertyFailed, check_aggregator
from secure_afl.testing.judge import PROPERTIES
from secure_afl.testing.systems import Factory, Target


def properties(
    system: Factory | Target, expected: Mapping[str, str] | None = None, **options: Any
) -> Callable[[str], None]:
    """A test with a parameter for each property. expected: reasons, by the names of properties that fail; options: of
    `check_aggregator`. Raises ValueError for names that are no properties'.
    """
    reasons = dict(expected or {})
    names = [one.name for one in PROPERTIES]
    if unknown := reasons.keys() - set(names):
        raise ValueError(f"expected names of properties, got {', '.join(sorted(unknown))}")

    def mark(name: str) -> Any:
        if name not in reasons:
            return pytest.param(name, id=name)
        return pytest.param(
            name, id=name, marks=pytest.mark.xfail(reason=reasons[name], strict=True, raises=PropertyFailed)
        )

    @pytest.mark.parametrize("name", [mark(name) for name in names])
    def test(name: str) -> None:
        report = check_aggregator(system, only=[name], on_fail="collect", **options)
        rows = {row.name: row for row in report.rows}
        row = rows.get(name)
        if row is not None and row.verdict == "failed":
            raise PropertyFailed(row)
        if row is None or row.verdict != "passed":
            pytest.skip(f"{row.verdict}: {row.note}" if row else "its cause failed")

    return test
