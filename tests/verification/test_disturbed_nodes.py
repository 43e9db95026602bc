"""Networks of real nodes that are disturbed in every way; see `tests/long/disturbed_nodes.py` for many sessions of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from long.disturbed_nodes import played, records, wrong

from secure_afl.testing import record

pytestmark = pytest.mark.long


def test_no_disturbance_of_real_nodes_makes_a_sum_wrong_or_masks_twice(tmp_path: Path) -> None:
    """Claim: whatever happens at once, no history breaks a rule, and sums are opened; and the rules are not empty."""
    network = played(7, 3, 60.0, tmp_path)
    assert network.wrong == []
    assert network.line()["sums"] >= 1
    sessions = network.sessions
    one = next(one for one in sessions.values() if one.sums)
    ((values, survivors),) = one.sums
    changed = np.frombuffer(values, "<f8") + np.eye(1, len(values) // 8)[0] * 2.0**-20
    one.sums = {(record.numbers(changed), survivors)}
    assert "entries are wrong" in str(wrong(sessions, [*records([*sessions.values()])]))
    one.sums = {(values, survivors), (record.numbers(changed), survivors)}
    assert "told in 2 ways" in str(wrong(sessions, [*records([*sessions.values()])]))
    one.sums = {(values, survivors)}
    left = next(left for left in one.network.left if left.frame[1:].startswith(b"\xa6upload"))
    one.network.left.append(replace(left, frame=left.frame.replace(left.frame[-80:-70], bytes(10))))
    assert "second mask" in str(wrong(sessions, [*records([*sessions.values()])]))
