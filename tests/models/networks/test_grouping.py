"""Groups from one count of clients, and what sums of histograms would have told."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import weak_groups

from secure_afl.errors import DataError
from secure_afl.models.networks import grouping
from secure_afl.protocol.session.errors import PolicyError
from secure_afl.protocol.session.parameters import Profile
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Verify
from secure_afl.simulations.data.dataset import load
from secure_afl.simulations.data.partition import partition

SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=8)


@given(st.integers(1, 30), st.data())
def test_runs_are_a_public_cut_of_the_classes(classes: int, data: st.DataObject) -> None:
    groups = data.draw(st.integers(1, classes))
    runs = grouping.runs(classes, groups)
    assert [place for run in runs for place in run] == list(range(classes))
    assert len(runs) == groups
    lengths = [len(run) for run in runs]
    assert max(lengths) - min(lengths) <= 1
    with pytest.raises(DataError, match=f"at most {classes} groups, one for each class"):
        grouping.runs(classes, classes + 1)


@given(SIZES, st.integers(1, 40))
def test_joined_groups_are_large_enough_and_hold_every_run(sizes: list[int], least: int) -> None:
    joined = grouping.joined(np.array(sizes, dtype=np.float64), least)
    assert joined[0] == 0
    assert all(after - before in (0, 1) for before, after in itertools.pairwise(joined))  # neighbours
    clients = np.bincount(joined, weights=sizes)
    assert len(clients) == 1 or clients.min() >= least
    if min(sizes) >= least:
        assert joined == list(range(len(sizes)))


def test_the_smallest_group_joins_its_smaller_neighbour() -> None:
    assert grouping.joined(np.array([9.0, 2.0, 6.0, 9.0]), 5) == [0, 1, 1, 2]
    assert grouping.joined(np.array([5.0, 2.0, 5.0]), 5) == [0, 0, 1]
    assert grouping.joined(np.array([0.0, 7.0, 0.0]), 5) == [0, 0, 0]


def test_plans_with_groups_are_refused_where_the_server_may_lie() -> None:
    """A server that reports a count of its choice isolates a client; the active profile assumes that it would. The
    count itself trusts nobody: what a client puts in follows from its own rows and the agreed classes.
    """
    count = grouping.plan(3, 10)
    assert (count.length, count.survivors, count.same_survivors) == (3, 10, True)
    Policy().check_plan([count], Profile.ACTIVE, Verify.TAGS)
    slots = weak_groups.slots(10)
    Policy().check_plan([count, slots], Profile.SEMI_HONEST, Verify.NONE)
    with pytest.raises(PolicyError, match="hides a client only if the server reports"):
        Policy().check_plan([count, slots], Profile.ACTIVE, Verify.TAGS)


@pytest.mark.parametrize("seed", range(4))
def test_second_moments_give_away_histograms(seed: int) -> None:
    """The weak design: one masked sum of h, hhᵀ and 1. With two labels a client, an off-diagonal entry of HᵀH is
    p(1 - p) of the one client with these labels; the column sums say which root is whose. From ours follows how many
    clients mostly hold labels of each run, and a client's term depends on nothing else.
    """
    data = load("digits")
    held = [data.y[part.train] for part in partition(data, "labels:2", 10, seed)]
    true = np.stack([np.bincount(places, minlength=10) / len(places) for places in held])
    total = np.sum([weak_groups.moments(weak_groups.histogram(places, 10)) for places in held], axis=0)
    found = weak_groups.read_histograms(total, 10)
    # Clients have no names in a sum; here each is told by its labels.
    order = [np.flatnonzero(row).tolist() for row in true]
    matched = np.stack(
        [next(row for row in found if np.flatnonzero(row).tolist() == labels) for labels in order]
    )
    assert np.abs(matched - true).max() < 1e-5

    runs = grouping.runs(10, 3)
    terms = [grouping.count(grouping.own(places, runs), 3) for places in held]
    assert np.sum(terms, axis=0).sum() == len(held)
    for term in terms:
        others = np.full(1, runs[int(term.argmax())][-1])  # one row of any label of that run
        assert np.array_equal(term, grouping.count(grouping.own(others, runs), 3))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=50), st.integers(1, 10))
def test_a_client_is_where_most_of_its_rows_are(labels: list[int], groups: int) -> None:
    runs = grouping.runs(10, groups)
    places = np.array(labels)
    held = [int(np.isin(places, run).sum()) for run in runs]
    own = grouping.own(places, runs)
    assert held[own] == max(held)
    assert grouping.own(places[::-1], runs) == own
    term = grouping.count(own, groups)
    plan = grouping.plan(groups, 2)
    encoding = plan.spec(20).encoding(20)
    assert np.array_equal(encoding.decode_sum(encoding.encode(term), 1), term)
    assert (term.sum(), term[own], np.abs(term).max()) == (1, 1, plan.bound)


@given(st.integers(6, 30), st.integers(0, 2**32))
def test_iterated_sums_give_away_who_moved(clients: int, seed: int) -> None:
    """The weak design: k-means with one sum of histograms per group and step. When one client changes its
    group, the server subtracts two sums that it may see and holds that client's histogram. Ours makes one count.
    """
    draws = np.random.default_rng(seed)
    own = draws.multinomial(40, np.full(6, 1 / 6), clients) / 40
    groups = draws.integers(0, 2, clients)
    after = groups.copy()
    after[clients // 2] ^= 1

    def weak(assigned: np.ndarray) -> np.ndarray:
        return np.stack([own[assigned == group].sum(axis=0) for group in (0, 1)])

    moved = np.abs(weak(after) - weak(groups))
    np.testing.assert_allclose(moved, np.stack([own[clients // 2]] * 2), atol=1e-12)
