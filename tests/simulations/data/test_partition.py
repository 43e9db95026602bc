from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_afl.errors import DataError
from secure_afl.simulations.data.dataset import Dataset, Ints, load
from secure_afl.simulations.data.partition import Part, default_spec, partition, split


def dataset(y: list[int], classes: int, sites: list[str] | None = None) -> Dataset:
    names = tuple(f"label {i}" for i in range(classes))
    site = None if sites is None else np.array(sites)
    return Dataset("toy", np.ones((len(y), 2)), np.array(y), site, names, ("1", "x"), 2.0, "", (2,))


MANY = dataset([i % 10 for i in range(2000)], 10)
SPECS = ["iid", "dirichlet:0.1", "dirichlet:0.5", "dirichlet:100", "labels:2", "labels:10", "uneven:1.5"]


def test_rows_that_the_data_hold_out_are_the_test_rows() -> None:
    out = np.arange(2000) % 3 == 0
    parts = partition(replace(MANY, held_out=out), "uneven:1.5", 5, 0)
    tested = np.concatenate([part.test for part in parts])
    assert np.array_equal(np.sort(tested), np.flatnonzero(out))


def rows_of(parts: list[Part]) -> Ints:
    return np.concatenate([rows for part in parts for rows in (part.train, part.test)])


def assert_cover(data: Dataset, parts: list[Part]) -> None:
    assert np.array_equal(np.sort(rows_of(parts)), np.arange(len(data.y)))
    assert len({part.client for part in parts}) == len(parts)
    for part in parts:
        size = len(part.train) + len(part.test)
        assert part.train.dtype == part.test.dtype == np.int64
        assert len(part.train) >= 1
        assert len(part.test) >= (size > 1)
        assert abs(len(part.test) - size / 4) <= 1


@settings(max_examples=150, deadline=None)
@given(
    y=st.lists(st.integers(0, 4), min_size=2, max_size=60).filter(lambda y: len(set(y)) > 1),
    spec=st.sampled_from(
        ["iid", "dirichlet:0.01", "dirichlet:1", "labels:1", "labels:2", "labels:9", "uneven:2"]
    ),
    clients=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
def test_every_row_has_exactly_one_place(y: list[int], spec: str, clients: int, seed: int) -> None:
    data = dataset(y, 5)
    try:
        parts = partition(data, spec, clients, seed)
    except DataError:
        assert clients > len(y) or spec.startswith("labels")  # nothing else can go wrong here
        return
    assert len(parts) == clients
    assert_cover(data, parts)


@pytest.mark.parametrize("spec", SPECS)
def test_the_seed_decides_and_only_the_seed(spec: str) -> None:
    one, same, other = (partition(MANY, spec, 12, seed) for seed in (3, 3, 4))
    assert_cover(MANY, one)
    assert all(
        np.array_equal(a.train, b.train) and np.array_equal(a.test, b.test)
        for a, b in zip(one, same, strict=True)
    )
    assert not all(np.array_equal(a.train, b.train) for a, b in zip(one, other, strict=True))
    assert [part.client for part in one] == [f"client-{j:03}" for j in range(12)]
    assert min(len(part.train) + len(part.test) for part in one) >= 2


@pytest.mark.parametrize(("spec", "clients"), [("labels:1", 10), ("labels:2", 20), ("labels:3", 8)])
def test_labels_gives_each_client_its_k_labels(spec: str, clients: int) -> None:
    each = int(spec[-1])
    for j, part in enumerate(partition(MANY, spec, clients, 0)):
        held = set(MANY.y[np.concatenate([part.train, part.test])].tolist())
        assert held == {(j + u) % 10 for u in range(each)}


def test_dirichlet_is_more_skewed_for_smaller_a_and_keeps_sizes_equal() -> None:
    def largest_share(spec: str) -> float:
        shares = []
        for part in partition(MANY, spec, 20, 1):
            labels = MANY.y[np.concatenate([part.train, part.test])]
            assert len(labels) == 100
            shares.append(np.bincount(labels, minlength=10).max() / len(labels))
        return float(np.mean(shares))

    assert largest_share("dirichlet:0.05") > largest_share("dirichlet:1") + 0.1
    assert largest_share("dirichlet:1000") < 0.2


def test_sizes() -> None:
    sizes = [len(part.train) + len(part.test) for part in partition(MANY, "uneven:1", 10, 0)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 8 * sizes[-1]
    assert len(partition(MANY, "uneven:50", 10, 0)[9].test) == 1  # 2 rows at least, one of them to test
    even = [len(part.train) + len(part.test) for part in partition(MANY, "iid", 7, 0)]
    assert max(even) - min(even) <= 1
    assert len(partition(MANY, "iid", None, 0)) == 10
    assert partition(MANY, "iid", 1001, 0)[1000].client == "client-1000"


def test_sites_of_heart() -> None:
    data = load("heart")
    assert default_spec(data) == "site"
    parts = partition(data, "site", None, 0)
    assert_cover(data, parts)
    assert {part.client: len(part.train) + len(part.test) for part in parts} == {
        "Cleveland": 304,
        "Hungary": 293,
        "Switzerland": 123,
        "VA Long Beach": 200,
    }
    assert data.site is not None
    for part in parts:
        assert set(data.site[part.train]) | set(data.site[part.test]) == {part.client}
        assert abs(data.y[part.train].mean() - data.y[part.test].mean()) < 0.03
    assert len(partition(data, "site", 4, 0)) == 4
    assert len(partition(data, "iid", 5, 0)) == 5  # the sites need not be used


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=80),
    st.sampled_from([0.1, 0.25, 0.5]),
    st.integers(0, 99),
)
def test_split_is_stratified(y: list[int], fraction: float, seed: int) -> None:
    labels, rows = np.array(y), np.arange(len(y), dtype=np.int64)
    train, test = split(labels, rows, np.random.default_rng(seed), fraction)
    assert np.array_equal(np.sort(np.concatenate([train, test])), rows)
    share = len(test) / len(rows)
    expected = np.bincount(labels, minlength=4) * share
    assert (np.abs(np.bincount(labels[test], minlength=4) - expected) < 1 + 1e-9).all()


@pytest.mark.parametrize(
    "spec",
    [
        *(
            "",
            "sites",
            "iid:",
            "iid:3",
            "site:1",
            "dirichlet",
            "dirichlet:0",
            "dirichlet:-1",
            "dirichlet:nan",
        ),
        *(
            "dirichlet:inf",
            "dirichlet:a",
            "labels",
            "labels:0",
            "labels:1.5",
            "labels:-2",
            "uneven",
            "uneven:0",
        ),
    ],
)
def test_unknown_specs_are_answered_with_the_forms(spec: str) -> None:
    with pytest.raises(DataError) as caught:
        partition(MANY, spec, 3, 0)
    for form in (f"{spec!r}", "site", "iid", "dirichlet:A", "labels:K", "uneven:A"):
        assert form in str(caught.value)


def test_refusals() -> None:
    sited = dataset([0, 1, 0, 1], 2, ["a", "a", "b", "b"])
    assert default_spec(MANY) == "iid"
    with pytest.raises(DataError, match="toy names no sites: use iid, dirichlet:A"):
        partition(MANY, "site", None, 0)
    with pytest.raises(DataError, match="toy has 2 sites, not 3: leave out how many clients"):
        partition(sited, "site", 3, 0)
    for clients in (0, -1, 5):
        with pytest.raises(DataError, match=f"{clients} clients cannot share 4 rows: ask for 1 to 4"):
            partition(sited, "iid", clients, 0)
    with pytest.raises(
        DataError, match="labels:2 needs 9 clients: no client holds label 4, label 5, label 6"
    ):
        partition(MANY, "labels:2", 3, 0)
    with pytest.raises(DataError, match=r"client-00[02] gets no row to train on: ask for fewer clients"):
        partition(dataset([0, 1, 1, 1, 1], 2), "labels:1", 4, 0)  # two clients for one row of label 0
    with pytest.raises(DataError, match="alone gets no row"):
        Part("alone", np.empty(0, np.int64), np.arange(3))


def test_a_site_with_one_row_trains_on_it() -> None:
    parts = partition(dataset([0, 1, 0], 2, ["a", "b", "b"]), "site", None, 0)
    assert [(len(part.train), len(part.test)) for part in parts] == [(1, 0), (1, 1)]
