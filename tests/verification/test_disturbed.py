"""Sessions that are disturbed in every way at once; see `tests/long/disturbed.py` for a thousand of them."""

from pathlib import Path

import numpy as np
import pytest
from long.disturbed import DISTURBANCES, Disturbed, disturbed
from long.killed import nursery

pytestmark = pytest.mark.long


def test_no_disturbance_makes_a_sum_wrong_or_masks_twice() -> None:
    """Claim: whatever happens at once, no history breaks a rule, and sums are opened."""
    histories = [disturbed(seed, rate=0.2) for seed in range(12)]
    assert [one.wrong for one in histories if one.wrong] == []
    # The more other programs run, the less happens in a session: here usually 12, 10 and 8 or more.
    assert sum(one.sums for one in histories) >= 1
    assert sum(one.kills for one in histories) >= 1
    assert len({name for one in histories for name in one.happened} & DISTURBANCES.keys()) >= 2


def told(folder: Path, flaw: str = "") -> Disturbed:
    """A session in which every question comes twice; client 1 is killed when it has sent its first upload."""
    nursery("long.disturbed")
    session = Disturbed(1, folder, flaw, rate=1e-9)
    session.clients[1].deaths = [("collecting 0", "sent")]
    session.again, session.happens = 1.0, "question twice"
    try:
        session.run()
    finally:
        session.end()
    return session


def test_wrong_sums_second_masks_and_second_answers_are_found(tmp_path: Path) -> None:
    """Claim: the rules are not empty."""
    folders = [tmp_path / name for name in ("right", "masks", "sum")]
    for one in folders:
        one.mkdir()
    assert told(folders[0]).judged().wrong == []
    assert "second mask" in str(told(folders[1], "keys stay").judged().wrong)
    session = told(folders[2])
    ((words, survivors),) = session.told[1]
    changed = np.frombuffer(words, "<u8") + np.eye(1, 5, dtype="<u8")[0] * np.uint64(2**30)
    session.told[1] = {(changed.astype("<u8").tobytes(), survivors)}
    assert "sums_are_right" in str(session.judged().wrong)
