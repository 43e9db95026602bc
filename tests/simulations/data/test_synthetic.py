import math
from functools import cache, lru_cache
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from secure_afl.errors import DataError
from secure_afl.simulations.cli import main
from secure_afl.simulations.data import dataset, synthetic
from secure_afl.simulations.data.dataset import Dataset, load
from secure_afl.simulations.data.partition import default_spec, partition

SIGMA = np.arange(1, 61) ** -1.2


@lru_cache(2)  # half a second and 50 MB each
def drawn(alpha: float, beta: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return synthetic.draw(alpha, beta, seed)


@cache
def loaded() -> Dataset:
    return load("synthetic", seed=3)


def test_it_is_a_valid_dataset_of_a_hundred_devices_within_its_bound() -> None:
    data = loaded()
    assert data.name == "synthetic"
    assert data.X.shape == (100_000, 60)
    assert data.shape == (60,)
    assert data.classes == tuple(map(str, range(10)))
    assert data.row_norm == pytest.approx(math.sqrt(60))
    assert 0.5 < np.abs(data.X).max() <= 1
    assert "powers of two" in data.note
    assert "seed 3" in data.note
    assert default_spec(data) == "site"
    parts = partition(data, "site", None, 3)
    assert [part.client for part in parts] == [f"device-{k:03}" for k in range(100)]


def test_loading_divides_each_column_by_a_power_of_two_and_nothing_else() -> None:
    X, y, site = drawn(0.5, 0.5, 3)
    data = loaded()
    factor = X[0] / data.X[0]
    assert (np.frexp(factor)[0] == 0.5).all()
    np.testing.assert_array_equal(data.X * factor, X)
    np.testing.assert_array_equal(data.y, y)
    np.testing.assert_array_equal(data.site, site)


def test_the_seed_fixes_everything() -> None:
    again = load("synthetic:0.5,0.5", seed=3)
    np.testing.assert_array_equal(again.X, loaded().X)
    np.testing.assert_array_equal(again.y, loaded().y)
    assert not np.array_equal(drawn(0.5, 0.5, 4)[1], again.y)


def test_the_seed_shapes_only_synthetic_data() -> None:
    np.testing.assert_array_equal(load("heart", seed=1).X, load("heart", seed=2).X)


def test_the_command_line_passes_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(source: str, *, seed: int, **_: Any) -> None:
        raise DataError(f"{source}, seed {seed}")

    monkeypatch.setattr(dataset, "load", load)
    result = CliRunner().invoke(main.app, ["run", "--data", "synthetic:1,1", "--seed", "17"])
    assert result.exit_code == 1
    assert "synthetic:1,1, seed 17" in result.output


def test_sizes_are_as_documented() -> None:
    for seed in range(200):
        sizes = synthetic._sizes(np.random.default_rng(seed))
        assert len(sizes) == 100
        assert sizes.sum() == 100_000
        assert sizes.min() >= 250
        assert sizes.max() < 30_000
        assert np.median(sizes) < sizes.mean() / 1.5  # skewed, as log-normal sizes are


def test_rows_have_the_covariance_of_the_paper_around_the_device_mean() -> None:
    X, _, site = drawn(0.5, 0.5, 3)
    _, device, sizes = np.unique(site, return_inverse=True, return_counts=True)
    means = np.add.reduceat(X, np.r_[0, np.cumsum(sizes)[:-1]]) / sizes[:, None]
    within = (X - means[device]).T @ (X - means[device]) / (len(X) - 100)
    np.testing.assert_allclose(np.diag(within), SIGMA, rtol=0.03)
    correlation = within / np.sqrt(np.outer(SIGMA, SIGMA))
    assert np.abs(correlation - np.diag(np.diag(correlation))).max() < 0.03
    # v_k ~ N(B_k, 1): within a device the 60 means spread by 1; B_k ~ N(0, 0.5) spreads the devices.
    assert means.var(axis=1, ddof=1).mean() == pytest.approx(1, abs=0.05)
    assert means.mean(axis=1).var() == pytest.approx(0.5**2 + 1 / 60, rel=0.4)


def test_each_device_has_a_linear_rule_of_its_own() -> None:
    X, y, site = drawn(0.5, 0.5, 3)
    names, sizes = np.unique(site, return_counts=True)
    first, second = names[np.argsort(sizes)[-2:]]

    def accuracy(train: str, test: str) -> float:
        rows, others = (np.c_[np.ones((site == name).sum()), X[site == name]] for name in (train, test))
        W = np.linalg.lstsq(rows, np.eye(10)[y[site == train]], rcond=None)[0]
        return float(((others @ W).argmax(axis=1) == y[site == test]).mean())

    assert accuracy(first, first) > 0.7
    assert accuracy(first, second) < 0.5


def test_devices_differ_more_with_a_larger_beta() -> None:
    def spread(beta: float) -> float:
        X, _, site = drawn(0.5, beta, 3)
        return float(np.var([X[site == name].mean() for name in np.unique(site)]))

    assert spread(0) < spread(0.5) < spread(2)
    assert spread(2) == pytest.approx(4, rel=0.4)


def test_alpha_as_it_is_defined_moves_no_row_and_no_label() -> None:
    # One u_k shifts the scores of all classes alike. True of the original; said in the docstring.
    small, large = drawn(0, 0.5, 3), drawn(100, 0.5, 3)
    np.testing.assert_array_equal(small[0], large[0])
    assert (small[1] == large[1]).mean() > 0.9999  # ties within rounding


@pytest.mark.parametrize(
    ("source", "expected"),
    [("synthetic", (0.5, 0.5)), ("synthetic:0,0", (0, 0)), ("synthetic:1,2.25", (1, 2.25))],
)
def test_what_a_source_means(source: str, expected: tuple[float, float]) -> None:
    assert synthetic.parse(source) == expected


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "1",
        "1,",
        ",1",
        "1,2,3",
        "-1,1",
        "1,-1",
        " 1,1",
        "1, 1",
        "1,1\n",
        "nan,1",
        "inf,1",
        "1e3,1",
        "1.,1",
        "٣,1",
    ],
)
def test_other_spellings_are_refused(rest: str) -> None:
    with pytest.raises(DataError, match="expected synthetic or synthetic:A,B with A and B from 0"):
        load(f"synthetic:{rest}")


def test_other_refusals() -> None:
    with pytest.raises(DataError, match="expected a seed of 0 or more, got -1"):
        load("synthetic", seed=-1)
    with pytest.raises(DataError, match="synthetic:1,1 has its own site and label columns"):
        load("synthetic:1,1", label_column="y")
