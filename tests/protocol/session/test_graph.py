import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import graph as reference
from reference.refused import Refused
from worlds.cohorts import world

from secure_afl.crypto.hpke import Suite
from secure_afl.protocol.session import graph
from secure_afl.protocol.session.errors import LocalProtocolError, PolicyError
from secure_afl.protocol.session.parameters import Profile
from secure_afl.protocol.session.policy import Policy

WORLDS = {n: world(n) for n in (5, 8, 13, 30)}


@settings(max_examples=40)
@given(st.sampled_from(sorted(WORLDS)), st.integers(1, 14), st.booleans())
def test_neighbourhoods_are_symmetric_regular_and_everybody_computes_the_same(
    n: int, half: int, complete: bool
) -> None:
    degree = n - 1 if complete else min(2 * half, (n - 2) // 2 * 2)
    parameters = WORLDS[n].propose(
        profile=Profile.SEMI_HONEST, near=graph.Neighbourhood(degree, degree // 2 + 1)
    )
    near, again = graph.Graph(parameters), graph.Graph(parameters)
    for client in parameters.cohort:
        others = near[client]
        assert others == again[client]
        assert len(others) == degree
        assert client not in others
        assert all(client in near[other] for other in others)


def test_the_circle_is_drawn_anew_for_every_session() -> None:
    near = graph.Neighbourhood(4, 3)
    drawn = [graph.Graph(WORLDS[30].propose(profile=Profile.SEMI_HONEST, near=near)) for _ in range(2)]
    assert [drawn[0][client] for client in range(30)] != [drawn[1][client] for client in range(30)]


sizes = st.integers(3, 3000)
fractions = st.floats(0, 0.3)


@settings(max_examples=60)
@given(sizes, fractions, fractions, st.sampled_from(Profile))
def test_a_chosen_graph_meets_what_was_stated(n: int, share: float, dropout: float, profile: Profile) -> None:
    corrupted, gone = math.ceil(share * n), math.ceil(dropout * n)
    try:
        near = graph.choose(n, profile, corrupted=corrupted, dropout=dropout)
    except LocalProtocolError:
        survivors = n - math.floor(dropout * n)
        needed = graph.least_threshold(profile, n, n - 1)
        bears = 2 * needed - n if profile is Profile.ACTIVE else needed
        assert survivors < needed or corrupted >= bears
        return
    assert graph.exposure(profile, n, near.degree, near.threshold, corrupted, gone) <= 2**-40
    assert near.threshold >= graph.least_threshold(profile, n, near.degree)
    assert near.threshold > (near.degree + 1) / 2
    if profile is Profile.ACTIVE:
        assert near.degree == n - 1
        assert 2 * near.threshold > n + corrupted  # two quorums overlap in an honest client
    if near.degree == n - 1:
        assert near.threshold <= n - math.floor(dropout * n)


def test_degrees_grow_slower_than_cohorts() -> None:
    degrees = [
        graph.choose(n, Profile.SEMI_HONEST, corrupted=n // 10, dropout=0.1).degree
        for n in (100, 1000, 10_000)
    ]
    assert degrees == sorted(degrees)
    assert degrees[2] < 2 * degrees[0]
    assert degrees[2] < 100


def test_tail_bounds_hold_against_draws() -> None:
    """Tested at a risk large enough to sample: the bound is above the frequency, within the union bound's slack."""
    n, degree, threshold, bad = 40, 8, 6, 16
    source = random.Random(1)
    trials, exposed, lost = 3000, 0, 0
    for _ in range(trials):
        circle = list(range(n))
        source.shuffle(circle)
        corrupt = set(source.sample(range(n), bad))
        counts = [
            sum(circle[(at + step) % n] in corrupt for step in range(-4, 5) if step)
            for at in range(n)
            if circle[at] not in corrupt
        ]
        exposed += max(counts) >= threshold
        lost += min(8 - c for c in counts) < 3
    assert 0.01 < exposed / trials <= graph.exposure(Profile.SEMI_HONEST, n, degree, threshold, bad, 0)
    assert 0.01 < lost / trials <= graph._loss(n, degree, 3, bad)


def test_every_round_of_a_session_tries_anew_to_tear_the_graph() -> None:
    """A session of twenty sums exceeds the bound of one sum: in each round other clients drop out."""
    n, degree, gone, rounds, trials = 40, 4, 2, 20, 1000
    source, torn = random.Random(2), 0
    for _ in range(trials):
        torn += any(
            any({at, (at + 1) % n} <= lost for at in range(n))  # half a degree in a row
            for lost in (set(source.sample(range(n), gone)) for _ in range(rounds))
        )
    once, session = (
        graph.exposure(Profile.SEMI_HONEST, n, degree, 3, 0, gone, rounds=number) for number in (1, rounds)
    )
    assert 10 * once < torn / trials <= session


def test_a_graph_for_one_sum_is_refused_for_a_session_of_many() -> None:
    """By the client's policy, with the neighbours and threshold that a server chooses for one sum."""
    policy = Policy(
        profiles=frozenset({Profile.SEMI_HONEST}), suites=frozenset(Suite), corrupted=0.02, dropout=0.15
    )
    n = 150
    chosen = {
        rounds: graph.choose(
            n, Profile.SEMI_HONEST, corrupted=policy.colluders(n), dropout=policy.dropout, rounds=rounds
        )
        for rounds in (1, 1000)
    }
    assert chosen[1].degree < chosen[1000].degree < n - 1
    parties = world(n, policy)
    for rounds, near in ((1, chosen[1]), (1000, chosen[1000])):
        policy.check(parties.propose(profile=Profile.SEMI_HONEST, near=near, rounds=rounds), n)
    with pytest.raises(PolicyError, match="over 1000 rounds"):
        policy.check(parties.propose(profile=Profile.SEMI_HONEST, near=chosen[1], rounds=1000), n)


@pytest.mark.parametrize(
    ("n", "dropout", "corrupted"), [(4, 0.5, 1), (10, 0.4, 1), (10, 0.0, 4), (4, 0.0, 2)]
)
def test_what_no_graph_can_bear_is_said(n: int, dropout: float, corrupted: int) -> None:
    with pytest.raises(LocalProtocolError, match=r"threshold|corrupted"):
        graph.choose(n, Profile.ACTIVE, corrupted=corrupted, dropout=dropout)


@pytest.mark.parametrize("profile", Profile)
def test_risks_are_those_of_exact_fractions(profile: Profile) -> None:
    """Also where more are corrupted or gone than there are."""
    for n, degree, threshold in ((4, 2, 2), (9, 4, 3), (9, 8, 5), (30, 8, 6), (30, 12, 11), (60, 20, 11)):
        for corrupted, gone in (
            (0, 0),
            (1, 0),
            (3, 2),
            (11, 3),
            (n - 1, 0),
            (n, 0),
            (n + 1, 1),
            (0, n),
            (2, n),
        ):
            for rounds in (1, 2, 50):
                exact = reference.exposure(profile.value, n, degree, threshold, corrupted, gone, rounds)
                ours = graph.exposure(profile, n, degree, threshold, corrupted, gone, rounds=rounds)
                assert ours == pytest.approx(float(exact), rel=1e-9, abs=0)
            exact = reference.loss(n, degree, threshold, gone)
            assert graph._loss(n, degree, threshold, gone) == pytest.approx(float(exact), rel=1e-9, abs=0)


@pytest.mark.parametrize(
    ("n", "corrupted", "dropout"),
    [
        (2, 0, 0.0),
        (3, 0, 0.0),  # the complete graph is the sparsest
        (3, 1, 0.4),
        (4, 0, 0.0),  # one edge may be missing
        (5, 0, 0.0),
        (5, 2, 0.0),
        (5, 3, 0.0),  # nothing is left to chance in a complete graph, and no threshold is raised there
        (7, 1, 0.3),
        (8, 4, 0.3),
        (8, 5, 0.4),
        (9, 1, 0.12),
        (60, 2, 0.05),
        (100, 10, 0.1),
        # What may be lost decides: half of it would take a denser graph, twice as much a sparser one.
        (80, 0, 0.2),
        (100, 6, 0.2),
        (150, 2, 0.2),
        (300, 75, 0.1),  # 61 neighbours would do, and cannot lie half on either side
    ],
)
def test_the_sparsest_graph_is_chosen(n: int, corrupted: int, dropout: float) -> None:
    for profile in Profile:
        try:
            expected = graph.Neighbourhood(*reference.choose(n, profile.value, corrupted, dropout))
        except Refused:
            with pytest.raises(LocalProtocolError, match=r"threshold|corrupted"):
                graph.choose(n, profile, corrupted=corrupted, dropout=dropout)
            continue
        assert graph.choose(n, profile, corrupted=corrupted, dropout=dropout) == expected
