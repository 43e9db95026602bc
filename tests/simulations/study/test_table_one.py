"""Table 1 out of a sum, against pandas on the rows, and what it hides."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_afl.errors import DataError
from secure_afl.protocol.session.backend import Backend
from secure_afl.simulations.data.dataset import load
from secure_afl.simulations.data.partition import partition, stacked
from secure_afl.simulations.study.run import run
from secure_afl.simulations.study.settings import Settings
from secure_afl.simulations.study.table_one import _shares, table_one


def test_table_1_is_that_of_the_pooled_rows() -> None:
    data = load("heart")
    parts = partition(data, "site", None, 0)
    settings = Settings(backend=Backend.PLAIN, least_rows=1)  # rows as they are, nothing suppressed
    found = run(data, parts, settings, lambda phase: None).figures["table_one"]
    assert data.origin
    rows, _ = stacked({part.client: part.train for part in parts})
    raw = pd.read_csv(data.origin.table).iloc[data.origin.rows[rows] - 1]
    raw["trestbps"] = raw["trestbps"].replace(0, np.nan)
    raw["chol"] = raw["chol"].replace(0, np.nan)
    assert found["rows"] == len(raw) == 690
    assert [one["name"] for one in found["lines"]][:3] == ["age", "sex", "cp"]
    for one in found["lines"]:
        column = raw[one["name"]]
        assert one["missing"] == pytest.approx(column.isna().mean(), abs=1e-12)
        if not one["levels"]:
            assert one["mean"] == pytest.approx(column.mean(), rel=1e-8)
            assert one["deviation"] == pytest.approx(column.std(), rel=1e-8)
            continue
        for level, share in one["levels"].items():
            cell = {"yes": True, "no": False}.get(level, float(level) if one["name"] == "ca" else level)
            assert share == pytest.approx((column == cell).mean(), abs=1e-12), (one["name"], level)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(1, 8))
def test_no_small_cell_is_shown_or_follows_from_the_others(counts: list[int], least: int) -> None:
    rows = sum(counts) or 1
    shares = _shares(counts, rows, least)
    for count, share in zip(counts, shares, strict=True):
        assert share in (None, count / rows)
        if 0 < count < least:
            assert share is None
    assert len(counts) == 1 or shares.count(None) != 1


def test_a_table_1_counts_rows_of_its_codebook() -> None:
    data = load("heart")
    model = run(data, partition(data, "site", None, 0), Settings(backend=Backend.PLAIN), lambda phase: None)
    moments, book = model.learned.moments_, data.codebook
    assert book
    hidden = table_one(book, moments, 60)
    assert any(share is None for line in hidden.lines for share in line.levels.values())
    fewer = table_one(book, moments, 1)
    assert not any(share is None for line in fewer.lines for share in line.levels.values())
    other = load("heart").codebook
    assert other
    del other.columns["age"]
    with pytest.raises(DataError, match="expected moments of"):
        table_one(other, moments, 5)
