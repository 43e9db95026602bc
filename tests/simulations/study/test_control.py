"""Disclosure control in a run."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from secure_afl.errors import DataError, SettingError
from secure_afl.models.change import most_leverage
from secure_afl.protocol.session.backend import Backend
from secure_afl.simulations.data.dataset import Dataset, load
from secure_afl.simulations.data.partition import Part, partition
from secure_afl.simulations.study.control import coded, sentences
from secure_afl.simulations.study.report import Run
from secure_afl.simulations.study.run import run
from secure_afl.simulations.study.settings import Settings
from secure_afl.tables.disclosure import Variable, indicators, leverages


@pytest.fixture(scope="module")
def heart() -> Dataset:
    return load("heart")


def variables(data: Dataset) -> tuple[Variable, ...]:
    assert data.layout
    return data.layout.variables


def parts(data: Dataset) -> list[Part]:
    return partition(data, "site", None, seed=0)


def ran(data: Dataset, **settings: object) -> Run:
    return run(data, parts(data), Settings(backend=Backend.PLAIN, **settings), lambda phase: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("waves", [1, 3])
def test_every_wave_of_every_client_keeps_the_rule(heart: Dataset, waves: int) -> None:
    """Each wave is a sum of its own, so each must."""
    held = coded(heart, parts(heart), waves, 5)
    assert held.figures is not None
    for part, before in zip(held.parts, parts(heart), strict=True):
        assert held.figures[part.client]["rows_left_out"] == len(before.train) - len(part.train)
        for wave in np.array_split(part.train, waves):
            levels = [one.levels(held.data.X[wave]) for one in variables(heart)]
            assert leverages([*levels, heart.y[wave]]).max() <= most_leverage(5) + 1e-6
        assert np.array_equal(
            held.data.X[before.test], heart.X[before.test]
        )  # predictions are of rows as they are


def test_numbers_become_numbers_of_other_rows_or_missing(heart: Dataset) -> None:
    held = coded(heart, parts(heart), 1, 5)
    assert heart.layout
    for part in held.parts:
        before, after = heart.X[part.train], held.data.X[part.train]
        for measure in heart.layout.measures:
            for index in measure.terms:
                assert set(after[:, index].tolist()) <= {*before[:, index].tolist(), 0.0}
            flags = 0 if measure.flag is None else before[:, measure.flag] != after[:, measure.flag]
            drawn_in = (before[:, measure.terms] != after[:, measure.terms]).any(axis=1) & (flags == 0)
            assert drawn_in.mean() < 0.1


def test_a_run_says_what_was_changed_and_what_the_sum_shows(heart: Dataset) -> None:
    result = ran(heart)
    found = result.figures["disclosure"]
    assert found["least_rows"] == 5
    assert found["smallest_cell_rows"] >= 5
    assert found["pooled_rows"] == 690
    assert found["by_client"]["Switzerland"]["levels_merged"] > 0
    assert result.figures["accuracy"]["together"] == result.figures["accuracy"]["pooled_plain"]
    assert abs(result.figures["accuracy"]["together"] - 0.861) < 0.01
    assert not any("warning" in one for one in sentences(result.figures))

    shown = ran(heart, least_rows=1)
    assert shown.figures["disclosure"]["least_rows"] is None
    assert shown.figures["disclosure"]["smallest_cell_rows"] == 1
    assert any("a cell of fewer than 5 rows" in one for one in sentences(shown.figures))


def test_few_rows_for_many_columns_are_warned_of() -> None:
    digits = load("digits")
    rows = np.arange(60)
    held = [Part(f"client {k}", rows[k::3], np.array([100 + k])) for k in range(3)]
    result = run(digits, held, Settings(backend=Backend.PLAIN), lambda phase: None)
    (warning,) = [one for one in sentences(result.figures) if "pooled rows" in one]
    assert "60 pooled rows for 64 columns" in warning


def test_what_cannot_be_controlled_is_refused(heart: Dataset) -> None:
    few = [
        replace(part, train=part.train[: 4 if part.client == "Hungary" else None]) for part in parts(heart)
    ]
    with pytest.raises(DataError, match=r"Hungary: expected at least 5 rows"):
        coded(heart, few, 1, 5)
    with pytest.raises(SettingError, match="needs no epsilon"):
        Settings(epsilon=1.0, least_rows=5)
    # A row's coding must not depend on others under noise.
    assert Settings(epsilon=1.0).control(heart.codebook) == 1
    assert Settings(backend=Backend.CKKS).control(heart.codebook) == 5
    assert heart.codebook
    assert Settings().control(msgspec.structs.replace(heart.codebook, least_rows=7)) == 7
    assert Settings(least_rows=3).control(heart.codebook) == 3
    assert Settings().control(None) == 1


def test_an_approximate_sum_is_told_which_columns_are_0_or_1(heart: Dataset) -> None:
    """Else a level that all sites merge is a constant column that CKKS cannot tell from one that varies."""
    indices = indicators(heart.codebook, Backend.CKKS)
    whole = np.isin(heart.X, (0, 1)).all(axis=0)
    assert indices
    assert set(indices) <= set(np.flatnonzero(whole).tolist())
    assert indicators(heart.codebook, Backend.MASK) == indicators(None, Backend.CKKS) == ()
