"""Instruments for testing secure aggregation: anybody's, in any language, and ours.

`check_aggregator` runs schedules against a system and judges their record; `judge_record` judges a record of sessions
that were held elsewhere; `neutral` makes a system of one of our aggregators. `faults` is a network that misbehaves.
`strategies` draws parties, agreements, statistics and faults, and `machine.SecureSumMachine` drives a whole cohort against
a model of the true sums. What draws needs the extra `secure-afl[testing]`, which installs Hypothesis.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secure_afl.testing.check import PropertyFailed as PropertyFailed
    from secure_afl.testing.check import check_aggregator as check_aggregator
    from secure_afl.testing.judge import Report as Report
    from secure_afl.testing.judge import judge_record as judge_record
    from secure_afl.testing.ours import neutral as neutral

_HOMES = {
    "PropertyFailed": "check",
    "Report": "judge",
    "check_aggregator": "check",
    "judge_record": "judge",
    "neutral": "ours",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'secure_afl.testing' has no attribute {name!r}")
    return getattr(import_module(f"secure_afl.testing.{_HOMES[name]}"), name)
