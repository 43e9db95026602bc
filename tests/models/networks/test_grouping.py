"""Groups from one sum and some counts, and what sums of histograms would have told."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_afl.analytic.statistics import symmetric
from secure_afl.models.networks import grouping
from secure_afl.protocol.session.errors import PolicyError
from secure_afl.protocol.session.parameters import Profile
from secure_afl.protocol.session.policy import Policy
from secure_afl.simulations.data.dataset import load
from secure_afl.simulations.data.partition import partition

CLASSES = 6


def population(clients: int, seed: int) -> list[np.ndarray]:
    """Histograms of clients that mostly hold two neighbouring labels."""
    draws = np.random.default_rng(seed)
    found = []
    for client in range(clients):
        first = client % CLASSES
        weights = np.full(CLASSES, 0.02)
        weights[[first, (first + 1) % CLASSES]] = 1.0
        found.append(
            grouping.histogram(
                draws.choice(CLASSES, int(draws.integers(20, 60)), p=weights / weights.sum()), CLASSES
            )
        )
    return found


@given(st.integers(3, 40), st.integers(2, 4), st.integers(0, 2**32))
def test_centroids_follow_from_the_sum_alone_in_any_order(clients: int, groups: int, seed: int) -> None:
    own = population(clients, seed)
    terms = [grouping.moments(one) for one in own]
    plan = grouping.plan(CLASSES, groups, clients)
    assert all(len(one) == plan[0].length and np.abs(one).max() <= plan[0].bound for one in terms)
    code = plan[0].spec(clients).code(clients)
    assert all(np.array_equal(code.decode_sum(code.encode(one), 1), one) for one in terms)  # exact
    total, backwards = sum(terms[1:], start=terms[0]), sum(terms[-2::-1], start=terms[-1])
    assert np.array_equal(total, backwards)
    np.testing.assert_allclose(total[:CLASSES] / clients, np.mean(own, axis=0))


def test_k_means_on_the_crowd_separates_what_is_apart() -> None:
    """Two kinds of clients, each with labels of its own, end up in two groups."""
    draws = np.random.default_rng(1)
    own = [grouping.histogram(draws.integers(0, 3, 50) + 3 * (client % 2), CLASSES) for client in range(30)]
    total = np.sum([grouping.moments(one) for one in own], axis=0)
    centres = grouping.centroids(total, CLASSES, 2, seed=0)
    assert np.array_equal(centres, grouping.centroids(total, CLASSES, 2, seed=0))
    found = [grouping.nearest(one, centres) for one in own]
    assert len(set(found[::2])) == len(set(found[1::2])) == 1
    assert found[0] != found[1]


def test_counts_name_nobody_and_the_smallest_group_goes() -> None:
    assert grouping.count(2, 4).tolist() == [0, 0, 1, 0]
    centres = np.arange(12.0).reshape(3, 4)
    assert np.array_equal(grouping.dissolved(centres, np.array([5.0, 1.0, 9.0])), centres[[0, 2]])
    assert np.array_equal(grouping.dissolved(centres, np.array([0.0, 7.0, 0.0])), centres[[1]])
    grouping.check_sizes(np.array([8.0, 9.0]), 8)
    grouping.check_sizes(np.array([3.0]), 8)  # one group of all: the sum's own least counts
    with pytest.raises(PolicyError, match="at least 8 clients, the server reports one of 7"):
        grouping.check_sizes(np.array([7.0, 9.0]), 8)


def test_plans_with_groups_are_refused_where_the_server_may_lie() -> None:
    """A server that reports a count of its choice isolates a client; the active profile assumes that it would."""
    plan = grouping.plan(CLASSES, 3, 10)
    policy = Policy(reveals_label_histograms=True)
    policy.check_plan(plan[:1], Profile.ACTIVE)
    policy.check_plan(plan, Profile.SEMI_HONEST)
    with pytest.raises(PolicyError, match="'clients in 3 groups' hides a client only if the server reports"):
        policy.check_plan(plan, Profile.ACTIVE)


@pytest.mark.parametrize("seed", range(3))
def test_second_moments_give_every_label_histogram_away(seed: int) -> None:
    """An honest server that only listens computes all histograms of ten clients with two labels each.

    With H (clients, classes) of full rank, h is a row of H only if hᵀ(HᵀH)⁻¹h = 1, and rows are orthogonal in that
    product. For two labels that is a quadratic equation for each pair. No secure sum hides this, so a policy must say
    that it may be known.
    """
    data = load("digits", seed=0)
    classes = len(data.classes)
    own = np.array(
        [
            grouping.histogram(data.y[part.train], classes)
            for part in partition(data, "labels:2", classes, seed)
        ]
    )
    total = np.sum([grouping.moments(one) for one in own], axis=0)

    moments = symmetric(total[classes:-1], classes)
    inverse, candidates = np.linalg.inv(moments), []
    for i, j in combinations(range(classes), 2):
        if moments[i, j] == 0:
            continue
        square = inverse[i, i] - 2 * inverse[i, j] + inverse[j, j]
        linear = 2 * (inverse[i, j] - inverse[j, j])
        for fraction in np.roots([square, linear, inverse[j, j] - 1]):
            if np.isreal(fraction) and 0 < fraction < 1:
                row = np.zeros(classes)
                row[[i, j]] = fraction.real, 1 - fraction.real
                candidates.append(row)
    drawn = np.array(candidates)
    orthogonal = np.abs(drawn @ inverse @ drawn.T) < 1e-6
    read = drawn[orthogonal.sum(axis=1) == classes - 1]
    assert len(read) == len(own)
    assert np.abs(own[:, None] - read[None]).max(axis=2).min(axis=1).max() < 1e-6
    with pytest.raises(PolicyError, match="reveals every client's label histogram"):
        Policy().check_plan(grouping.plan(classes, 2, 8), Profile.SEMI_HONEST)


@given(st.integers(6, 30), st.integers(0, 2**32))
def test_iterated_sums_give_away_who_moved(clients: int, seed: int) -> None:
    """The weak design: k-means with one sum of histograms per group and step. When one client changes its
    group, the server subtracts two sums that it may see and holds that client's histogram.
    """
    own = population(clients, seed)
    groups = np.random.default_rng(seed).integers(0, 2, clients)
    after = groups.copy()
    after[clients // 2] ^= 1

    def weak(assigned: np.ndarray) -> np.ndarray:
        return np.stack(
            [
                sum((one for one, at in zip(own, assigned, strict=True) if at == g), np.zeros(CLASSES))
                for g in (0, 1)
            ]
        )

    def ours(assigned: np.ndarray) -> list[float]:
        return [float(number) for number in np.bincount(assigned, minlength=2)]

    moved = np.abs(weak(after) - weak(groups))
    assert np.array_equal(moved, np.stack([own[clients // 2]] * 2))
    # Ours sums up histograms once, over everybody; what is repeated are counts, the same for whoever moves.
    for client in range(clients):
        other = groups.copy()
        other[client] ^= 1
        if groups[client] == groups[clients // 2]:
            assert ours(other) == ours(after)
    assert sum("moments" in one.statistic for one in grouping.plan(CLASSES, 5, clients)) == 1
