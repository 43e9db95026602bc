"""Hypothesis strategies for secure aggregation: parties, agreements, statistics, vectors, and faults.

Hypothesis draws all randomness, so that examples shrink and failures can be repeated. So anyone who knows the example
knows its secrets (identities): use them in tests only. Integers, sizes and sets shrink towards the smallest; seeds shrink
to 0, which stands for the simplest value.

    @given(st.data())
    def test_mine(data):
        roster, identities = data.draw(strategies.rosters(3, 5))
        plan = data.draw(strategies.plans(len(roster.members)))
        ...
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secure_afl.analytic.statistics import Matrix, PublicBounds, SufficientStatistics
from secure_afl.crypto.errors import optional
from secure_afl.crypto.fixed_point import FRACTION_BITS
from secure_afl.crypto.hpke import Suite
from secure_afl.crypto.identity import Identity
from secure_afl.errors import DataError
from secure_afl.protocol.masking.states import ServerState
from secure_afl.protocol.session import graph
from secure_afl.protocol.session.errors import PolicyError
from secure_afl.protocol.session.parameters import SESSION_BYTES, Parameters, Profile, SumPlan
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import MODES, Verify
from secure_afl.protocol.session.roster import Member, Roster
from secure_afl.protocol.session.wire import VERSION
from secure_afl.testing.faults import HANDLING, Fault, FaultyNetwork

with optional():
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as arrays_of

KEY_PHASES = tuple(
    state.value for state in (ServerState.ADVERTISING, ServerState.SHARING, ServerState.CONFIRMING)
)
SUM_PHASES = tuple(
    state.value
    for state in (
        ServerState.COLLECTING,
        ServerState.CONSENTING,
        ServerState.UNMASKING,
        ServerState.ANSWERING,
    )
)
PHASES = (*KEY_PHASES, *SUM_PHASES)
"""The phases of a masked session in which clients answer; the semi-honest profile has no "consenting"."""

_SPARSE_TO = 12  # clients; for more, drawing from all sparse graphs that a policy accepts takes too long
_WORD = 62  # bits of a sum's magnitude that the widest word surely holds


# ---- parties -------------------------------------------------------------------------------------


@cache
def seeded_identity(seed: int) -> Identity:
    """The identity of a number. For tests only: anyone who knows the number can sign."""
    return Identity(
        Ed25519PrivateKey.from_private_bytes(sha256(f"identity in a test {seed}".encode()).digest())
    )


def identities() -> st.SearchStrategy[Identity]:
    """Identities whose secret is a drawn number. For tests only, see `seeded_identity`."""
    return st.integers(0, 2**32).map(seeded_identity)


@st.composite
def rosters(
    draw: st.DrawFn, min_size: int = 2, max_size: int = 6, *, any_names: bool = False
) -> tuple[Roster, tuple[Identity, ...]]:
    """A roster, and its members' identities in its order. For tests only, see `seeded_identity`.

    Names are "site-0", "site-1" and so on, or with `any_names` whatever a roster takes.
    """
    size, first = draw(st.integers(min_size, max_size)), draw(st.integers(0, 2**32))
    signers = tuple(seeded_identity(first + index) for index in range(size))
    names = [f"site-{index}" for index in range(size)]
    if any_names:
        letters = st.text(
            st.characters(categories=("L", "M", "N", "P", "S"), include_characters=" "),
            min_size=1,
            max_size=64,
        )
        names = draw(st.lists(letters, min_size=size, max_size=size, unique=True))
    members = (Member(name, one.verify_key) for name, one in zip(names, signers, strict=True))
    return Roster(tuple(members)), signers


# ---- agreements ----------------------------------------------------------------------------------


@st.composite
def policies(
    draw: st.DrawFn,
    members: int = 5,
    *,
    profiles: Sequence[Profile] = tuple(Profile),
    suites: Sequence[Suite] = tuple(Suite),
) -> Policy:
    """Policies that a roster of so many members, at least 3, can meet under each profile that they allow.

    profiles, suites: some of them are allowed. `parameters` draws what such a policy accepts.
    """
    allowed = draw(st.sets(st.sampled_from(profiles), min_size=1))
    thresholds = {profile: graph.least_threshold(profile, members, members - 1) for profile in allowed}
    bearable = min(
        2 * threshold - members if profile is Profile.ACTIVE else threshold
        for profile, threshold in thresholds.items()
    )
    colluders = draw(st.integers(0, min(bearable - 1, members - 2)))
    gone = draw(st.integers(0, members - max(thresholds.values())))
    return Policy(
        minimum_honest=draw(st.one_of(st.just(2), st.integers(2, members - colluders))),
        # Half a client less: rounded up it is `colluders`, whatever float64 does.
        corrupted=max(0.0, colluders - 0.5) / members,
        dropout=gone / members,
        profiles=frozenset(allowed),
        suites=draw(st.frozensets(st.sampled_from(suites), min_size=1)),
    )


def _statistics_named(count: int) -> list[str]:
    return [f"sum {number}" for number in range(count)]


@st.composite
def plans(
    draw: st.DrawFn,
    members: int = 5,
    *,
    min_rounds: int = 1,
    max_rounds: int = 3,
    max_length: int = 8,
    same_survivors: bool | None = None,
) -> tuple[SumPlan, ...]:
    """What so many members may agree to sum: bounds from 2^-40 to 2^40, as many fraction bits as 8-byte words hold.

    same_survivors: of the marks of that name; None draws whether all sums have it or none.
    """
    marked = draw(st.booleans()) if same_survivors is None else same_survivors
    plan = []
    for statistic in _statistics_named(draw(st.integers(min_rounds, max_rounds))):
        bound = draw(st.one_of(st.just(1.0), st.floats(2.0**-40, 2.0**40)))
        most = _WORD - math.ceil(math.log2(members * bound))
        plan.append(
            SumPlan(
                statistic,
                draw(st.integers(1, max_length)),
                bound,
                draw(st.integers(max(FRACTION_BITS[0], most - 60), min(FRACTION_BITS[-1], most - 1))),
                survivors=draw(st.sampled_from([0, 0, *range(members + 1)])),
                same_survivors=marked,
            )
        )
    return tuple(plan)


def _neighbourhoods(
    roster: Roster, policy: Policy, profile: Profile, cohort: int, rounds: int
) -> list[graph.Neighbourhood]:
    """What a policy accepts, the complete graph with the least threshold first."""
    n, colluders = cohort, policy.colluders(len(roster.members))
    degrees = [n - 1]
    if profile is Profile.SEMI_HONEST and n <= _SPARSE_TO:
        degrees += range(2, n - 1, 2)
    return [
        graph.Neighbourhood(degree, threshold)
        for degree in degrees
        for threshold in range(graph.least_threshold(profile, n, degree), degree + 2)
        if graph.exposure(profile, n, degree, threshold, colluders, policy.dropouts(n), rounds=rounds)
        <= graph.SECURITY_FAILURE
    ]


@st.composite
def parameters(
    draw: st.DrawFn,
    roster: Roster,
    plan: Sequence[SumPlan],
    policy: Policy,
    *,
    cohort: Sequence[int] | None = None,
) -> Parameters:
    """What a server may propose: any profile, check, suite, graph and threshold that the policy accepts. Shrinks to the
    complete graph and its least threshold; for more than 12 clients there is no other graph.

    cohort: member numbers, default the whole roster. Raises `PolicyError` if nothing would be accepted.
    """
    invited = tuple(cohort) if cohort is not None else tuple(range(len(roster.members)))
    choices = {
        profile: accepted
        for profile in Profile
        if profile in policy.profiles
        and (accepted := _neighbourhoods(roster, policy, profile, len(invited), len(plan)))
    }
    if not choices:
        raise PolicyError(f"expected a policy that {len(invited)} clients can meet, got {policy}")
    profile = draw(st.sampled_from(list(choices)))
    # Often the first: others bear fewer dropouts, or need more clients to agree.
    near = draw(st.one_of(st.just(choices[profile][0]), st.sampled_from(choices[profile])))
    checks = policy.verify if profile is Profile.ACTIVE else frozenset(Verify)
    proposed = Parameters(
        version=VERSION,
        session=draw(st.binary(min_size=SESSION_BYTES, max_size=SESSION_BYTES)),
        profile=profile,
        verify=draw(st.sampled_from([check for who, check in MODES if who is profile and check in checks])),
        suite=draw(st.sampled_from([suite for suite in Suite if suite in policy.suites])),
        roster=roster.digest,
        cohort=invited,
        degree=near.degree,
        threshold=near.threshold,
        rounds=tuple(one.spec(len(roster.members)) for one in plan),
    )
    policy.check(proposed, len(roster.members))
    return proposed


# ---- statistics ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Problem:
    """Rows X (n, d) and Y (n, c) within `bounds`, and which client has each: sites (n,), below `clients`.

    condition: of XᵀX on its range, before rounding; rank: of X.
    """

    X: Matrix
    Y: Matrix
    sites: npt.NDArray[np.int64]
    clients: int
    bounds: PublicBounds
    condition: float
    rank: int

    def __repr__(self) -> str:
        return (
            f"Problem(rows={len(self.X)}, features={self.bounds.features}, outputs={self.bounds.outputs}, "
            f"counts={np.bincount(self.sites, minlength=self.clients).tolist()}, rank={self.rank}, "
            f"condition={self.condition:.3g}, row_norm={self.bounds.row_norm:.3g})"
        )

    def at(self, site: int) -> SufficientStatistics:
        """The statistics of one client; it may have no rows."""
        own = self.sites == site
        return SufficientStatistics.from_rows(self.X[own], self.Y[own], self.bounds)

    @property
    def by_client(self) -> list[SufficientStatistics]:
        """The statistics of every client."""
        return [self.at(site) for site in range(self.clients)]

    @cached_property
    def pooled(self) -> SufficientStatistics:
        """The statistics of all rows."""
        return SufficientStatistics.from_rows(self.X, self.Y, self.bounds)


def _orthogonal(size: int, seed: int) -> Matrix:
    """An orthogonal matrix for a drawn seed; 0 gives the identity."""
    if not seed:
        return np.eye(size)
    return np.asarray(np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0])


def _split(draw: st.DrawFn, rows: int, clients: int, unbalanced: bool) -> npt.NDArray[np.int64]:
    counts = [rows // clients + (client < rows % clients) for client in range(clients)]
    if unbalanced:
        few = rows // (2 * clients)
        counts = [0, *(draw(st.integers(0, few)) for _ in range(clients - 1))]
        counts[0] = rows - sum(counts)
    return np.repeat(np.arange(clients), counts)


@st.composite
def problems(
    draw: st.DrawFn,
    *,
    max_features: int = 6,
    max_outputs: int = 3,
    max_rows: int = 40,
    max_clients: int = 5,
    condition: float = 1e8,
    deficient: bool | None = None,
    scales: tuple[float, float] = (1e-100, 1e100),
    unbalanced: bool | None = None,
    skewed: bool | None = None,
) -> Problem:
    """Least squares problems, split among clients. An option that is None draws either.

    condition: the largest condition number of XᵀX on its range; drawn by its logarithm, shrinks to 1.
    deficient: the rank is lower than the number of features, or full. scales: of the largest row norm that the bounds
    allow. unbalanced: the first client has at least half of all rows, others may have none; else their counts differ
    by 1 at most. skewed: labels are classes (one-hot, or a single column of 0 and 1) and rows go to clients in their
    order, so that most see few classes; else rows go to clients in any order.
    """
    below = draw(st.booleans()) if deficient is None else deficient
    features = draw(st.integers(2 if below else 1, max(2, max_features)))
    rank = draw(st.integers(1, features - 1)) if below else features
    rows = draw(st.integers(rank, max(rank, max_rows)))
    clients = draw(st.integers(1, max_clients))
    worst = 10.0 ** draw(st.floats(0, math.log10(condition))) if rank > 1 else 1.0
    scale = draw(st.one_of(st.just(1.0), st.floats(*map(math.log10, scales)).map(lambda power: 10.0**power)))
    scale = min(max(scale, scales[0]), scales[1])

    seed = draw(st.integers(0, 2**32))
    values = worst ** -np.linspace(0, 0.5, rank)
    left, right = _orthogonal(rows, seed), _orthogonal(features, seed + bool(seed))
    # A little under the bound, so that no rounding brings a row over it.
    X = scale * (1 - 2.0**-30) * ((left[:, :rank] * values) @ right[:rank])

    by_label = draw(st.booleans()) if skewed is None else skewed
    outputs = draw(st.integers(1, max_outputs))
    classes = np.array(draw(st.lists(st.integers(0, max(1, outputs - 1)), min_size=rows, max_size=rows)))
    if by_label or draw(st.booleans()):
        Y = np.eye(outputs)[classes] if outputs > 1 else classes[:, None].astype(np.float64)
    else:
        Y = draw(arrays_of.arrays(np.float64, (rows, outputs), elements=st.floats(-1, 1)))
    sites = _split(draw, rows, clients, draw(st.booleans()) if unbalanced is None else unbalanced)
    if by_label:
        order = np.argsort(classes, kind="stable")
        sites = sites[np.argsort(order)]
    else:
        sites = np.array(draw(st.permutations(sites.tolist())), dtype=np.int64)
    try:
        bounds = PublicBounds(features, outputs, scale, max(rank, max_rows))
    except DataError as error:
        raise ValueError(f"expected scales whose squares are finite, got {scales}") from error
    return Problem(X, Y, sites, clients, bounds, worst, rank)


def statistics(**options: Any) -> st.SearchStrategy[SufficientStatistics]:
    """The statistics of all rows of `problems(**options)`."""
    return problems(**options).map(lambda problem: problem.pooled)


# ---- vectors -------------------------------------------------------------------------------------


def cohorts(clients: int, length: int, bound: float) -> st.SearchStrategy[list[npt.NDArray[np.float64]]]:
    """A float64 vector (length,) within ±bound for each client: any values, or all of them at the bound, where sums
    are nearest to overflow.
    """
    special = [0.0, -0.0, bound, -bound, math.nextafter(bound, 0.0), min(5e-324, bound), bound / 2]
    entries = st.one_of(st.floats(-bound, bound), st.sampled_from(special))
    free = arrays_of.arrays(np.float64, length, elements=entries)
    extreme = st.sampled_from([bound, -bound]).map(lambda value: np.full(length, value))
    return st.one_of(
        st.lists(free, min_size=clients, max_size=clients),
        st.lists(extreme, min_size=clients, max_size=clients),
        extreme.map(lambda vector: [vector.copy() for _ in range(clients)]),
    )


# ---- what goes wrong -----------------------------------------------------------------------------


def dropout_schedules(
    clients: int, *, phases: Sequence[str] = PHASES, most: int | None = None
) -> st.SearchStrategy[dict[str, frozenset[int]]]:
    """The clients that drop out for good in each phase, at most `most` in all (default: all).

    No client drops out twice. `silence` turns a schedule into faults.
    """
    limit = clients if most is None else min(most, clients)
    leaving = st.dictionaries(st.integers(0, clients - 1), st.sampled_from(phases), max_size=limit)
    return leaving.map(
        lambda when: {
            phase: gone for phase in phases if (gone := frozenset(who for who in when if when[who] == phase))
        }
    )


def silence(schedule: Mapping[str, frozenset[int]], phases: Sequence[str] = PHASES) -> list[Fault]:
    """The faults of a dropout schedule: from their phase on, no message of these clients arrives."""
    return [
        Fault("drop", phase, gone)
        for at, phase in enumerate(phases)
        if (gone := frozenset().union(*(schedule.get(earlier, frozenset()) for earlier in phases[: at + 1])))
    ]


def delivery_schedules(
    clients: int,
    *,
    phases: Sequence[str] = PHASES,
    handlings: Sequence[str] = HANDLING,
    upward: Sequence[bool | None] = (True, False, None),
    most: int = 4,
) -> st.SearchStrategy[list[Fault]]:
    """Faults for a `FaultyNetwork`, at most `most`: messages late, shuffled, repeated, flipped, cut, lengthened or
    dropped, by phase, client and direction. One that meets all phases or all clients is drawn, too.
    """
    some = st.frozensets(st.integers(0, clients - 1), min_size=1, max_size=max(1, clients // 2))
    fault = st.builds(
        Fault,
        st.sampled_from(handlings),
        st.one_of(st.sampled_from(phases), st.none()),
        st.one_of(some, st.none()),
        st.sampled_from(upward),
    )
    return st.lists(fault, max_size=most)


def networks(clients: int, **options: Any) -> st.SearchStrategy[FaultyNetwork]:
    """Networks that misbehave as `delivery_schedules(clients, **options)` says."""
    return st.builds(FaultyNetwork, delivery_schedules(clients, **options), seed=st.integers(0, 2**16))
