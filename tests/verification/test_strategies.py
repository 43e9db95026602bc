"""The strategies give what they promise, again and again, and shrink to small examples."""

import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from secure_afl.analytic.solve import solve
from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.fixed_point import FRACTION_BITS
from secure_afl.crypto.hpke import Suite
from secure_afl.crypto.kdf import Label
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.masking.server import MaskingServer
from secure_afl.protocol.session.errors import LocalProtocolError, PolicyError
from secure_afl.protocol.session.ledger import Ledger
from secure_afl.protocol.session.parameters import Profile, SumPlan
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.wire import encode
from secure_afl.protocol.transport.driver import Packet
from secure_afl.protocol.transport.masked import Cohort
from secure_afl.testing import strategies
from secure_afl.testing.faults import HANDLING, Fault, FaultyNetwork

SOME = settings(max_examples=60, suppress_health_check=list(HealthCheck))


# ---- parties and agreements ----------------------------------------------------------------------


@SOME
@given(strategies.rosters(1, 7, any_names=True))
def test_rosters_are_their_identities(drawn: Any) -> None:
    roster, signers = drawn
    assert 1 <= len(signers) <= 7
    assert [roster.index(one.verify_key) for one in signers] == list(range(len(signers)))


@SOME
@given(strategies.identities(), st.binary(max_size=8))
def test_identities_come_from_their_seed_alone(one: Any, data: bytes) -> None:
    assert len(one.sign(Label.FRAME_SIGNATURE, data)) == 64
    assert strategies.seeded_identity(5).verify_key == strategies.seeded_identity(5).verify_key
    assert strategies.seeded_identity(5).verify_key != strategies.seeded_identity(6).verify_key


@pytest.mark.slow
@SOME
@given(st.integers(3, 9), st.data())
def test_clients_take_what_their_policy_allows(n: int, data: st.DataObject) -> None:
    """Policies can be met, plans fit words, parameters are accepted by a real client."""
    roster, signers = data.draw(strategies.rosters(n, n))
    policy = data.draw(strategies.policies(n))
    plan = data.draw(strategies.plans(n))
    proposed = data.draw(strategies.parameters(roster, plan, policy))
    client = MaskingClient(signers[0], roster, plan, policy, Ledger())
    assert client.receive(encode(proposed))
    assert all(spec.encoding(n).width <= 8 for spec in proposed.rounds)


@SOME
@given(st.integers(3, 6), st.data())
def test_policies_leave_room_under_each_profile(n: int, data: st.DataObject) -> None:
    roster, _ = data.draw(strategies.rosters(n, n))
    policy = data.draw(strategies.policies(n, suites=[Suite.X25519]))
    assert policy.suites == {Suite.X25519}
    for profile in policy.profiles:
        only = Policy(**{**vars(policy), "profiles": frozenset({profile})})
        assert data.draw(strategies.parameters(roster, [SumPlan("a", 1, 1.0)], only)).profile is profile


def test_a_policy_that_nobody_meets_is_said() -> None:
    roster, _ = find(strategies.rosters(3, 3), lambda drawn: True)
    with pytest.raises(PolicyError, match="that 3 clients can meet"):
        find(
            strategies.parameters(roster, [SumPlan("a", 1, 1.0)], Policy(corrupted=0.99)), lambda drawn: True
        )


def test_sparse_graphs_are_drawn() -> None:
    roster, _ = find(strategies.rosters(5, 5), lambda drawn: True)
    policy = Policy(corrupted=0.0, dropout=0.0, profiles=frozenset({Profile.SEMI_HONEST}))
    sparse = find(strategies.parameters(roster, [SumPlan("a", 1, 1.0)], policy), lambda one: not one.complete)
    assert (sparse.degree, sparse.threshold) == (2, 2)


@SOME
@st.composite
def invalid_plans(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments for `SumPlan` of which one is wrong, so that it raises `LocalProtocolError`."""
    arguments = {"statistic": "sum 0", "length": 1, "bound": 1.0, "fraction_bits": 20, "error": 1.0}
    not_positive = st.one_of(st.floats(max_value=0.0), st.just(math.nan))
    wrong: dict[str, st.SearchStrategy[Any]] = {
        "statistic": st.sampled_from(["", "x" * 65, "a\nb", "\x00", "\ud800"]),
        "length": st.integers(max_value=0),
        "bound": st.one_of(not_positive, st.just(math.inf)),
        "fraction_bits": st.integers().filter(lambda bits: bits not in FRACTION_BITS),
        "error": not_positive,
    }
    name = draw(st.sampled_from(sorted(wrong)))
    return arguments | {name: draw(wrong[name])}


@st.composite
def overflowing_plans(draw: st.DrawFn, members: int = 5) -> SumPlan:
    """A plan that is well formed, but no word holds its sum: `SumPlan.spec` raises `CryptoError`."""
    bound = draw(st.floats(2.0**-40, 2.0**40))
    least = 64 - math.floor(math.log2(members * bound))
    return SumPlan("sum 0", 1, bound, draw(st.integers(least, FRACTION_BITS[-1])))


@given(invalid_plans())
def test_invalid_plans_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError):
        SumPlan(**arguments)


@SOME
@given(st.data())
def test_overflowing_plans_fit_no_word(data: st.DataObject) -> None:
    roster, _ = data.draw(strategies.rosters(2, 6))
    plan = data.draw(overflowing_plans(len(roster.members)))
    with pytest.raises(CryptoError, match="need more than 8 bytes"):
        plan.spec(len(roster.members))


# ---- statistics ----------------------------------------------------------------------------------


def spectrum(problem: strategies.Problem) -> Any:
    """Eigenvalues of XᵀX at row norm 1, the largest first."""
    X = problem.X / problem.bounds.row_norm
    return np.linalg.svd(X, compute_uv=False) ** 2


@SOME
@given(strategies.problems(condition=1e10))
def test_problems_have_their_condition_rank_and_scale(problem: strategies.Problem) -> None:
    values, rank = spectrum(problem), problem.rank
    assert 1 <= problem.condition <= 1e10 * (1 + 1e-9)
    assert values[0] / values[rank - 1] == pytest.approx(problem.condition, rel=1e-3)
    assert values[0] == pytest.approx(1.0, rel=1e-6)
    assert (values[rank:] < 1e-25).all()
    assert 1e-100 <= problem.bounds.row_norm <= 1e100
    assert problem.pooled.count == len(problem.X) == sum(one.count for one in problem.by_client)


@SOME
@given(strategies.problems(deficient=True, scales=(1e-3, 1e3)))
def test_deficient_problems_are(problem: strategies.Problem) -> None:
    assert problem.rank < problem.bounds.features
    assert np.linalg.matrix_rank(problem.X / problem.bounds.row_norm, 1e-9) == problem.rank
    assert 1e-3 <= problem.bounds.row_norm <= 1e3


@SOME
@given(strategies.problems(deficient=False, condition=1e6))
def test_full_problems_can_be_solved(problem: strategies.Problem) -> None:
    assert problem.rank == problem.bounds.features
    assert solve(problem.pooled, ridge=0.0).certificate.condition <= 1.01e6


@SOME
@given(strategies.problems(unbalanced=True, skewed=False), strategies.problems(unbalanced=False))
def test_counts_are_unbalanced_or_even(one: strategies.Problem, other: strategies.Problem) -> None:
    counts = [statistics.count for statistics in one.by_client]
    assert 2 * counts[0] >= sum(counts)
    even = [statistics.count for statistics in other.by_client]
    assert max(even) - min(even) <= 1


@SOME
@given(strategies.problems(skewed=True, max_outputs=4))
def test_skewed_clients_follow_the_labels(problem: strategies.Problem) -> None:
    """No client has a row of a lower class than a client before it has."""
    labels = problem.Y.argmax(axis=1) if problem.bounds.outputs > 1 else problem.Y[:, 0]
    last = -1.0
    for site in range(problem.clients):
        own = labels[problem.sites == site]
        if len(own):
            assert own.min() >= last
            last = own.max()


@pytest.mark.slow
def test_extremes_of_statistics_are_drawn() -> None:
    seen: Counter[str] = Counter()

    @settings(SOME, max_examples=300, phases=[Phase.generate], derandomize=True, database=None)
    @given(strategies.problems())
    def watch(problem: strategies.Problem) -> None:
        seen["tiny"] += problem.bounds.row_norm < 1e-30
        seen["huge"] += problem.bounds.row_norm > 1e30
        seen["ill-conditioned"] += problem.condition > 1e6
        seen["deficient"] += problem.rank < problem.bounds.features
        seen["without rows"] += any(one.count == 0 for one in problem.by_client)

    watch()
    assert len(+seen) == 5, seen


@SOME
@given(strategies.statistics(max_features=3, max_outputs=2))
def test_statistics_are_of_the_asked_size(one: Any) -> None:
    assert len(one.gram) <= 3
    assert one.cross.shape[1] <= 2
    assert one.count >= 1


# ---- vectors and schedules -----------------------------------------------------------------------


@SOME
@given(st.integers(1, 5), st.integers(1, 30), st.floats(2.0**-40, 2.0**40), st.data())
def test_cohorts_keep_to_their_bound(n: int, length: int, bound: float, data: st.DataObject) -> None:
    vectors = data.draw(strategies.cohorts(n, length, bound))
    assert [vector.shape for vector in vectors] == [(length,)] * n
    assert all(vector.dtype == np.float64 and (abs(vector) <= bound).all() for vector in vectors)


def test_cohorts_reach_the_bound_together() -> None:
    everybody = find(
        strategies.cohorts(3, 2, 5.0), lambda vectors: all((abs(one) == 5.0).all() for one in vectors)
    )
    assert len(everybody) == 3


@SOME
@given(st.integers(1, 6), st.integers(0, 6), st.data())
def test_dropouts_fall_silent_once_and_for_good(n: int, most: int, data: st.DataObject) -> None:
    schedule = data.draw(strategies.dropout_schedules(n, most=most))
    gone = [client for clients in schedule.values() for client in clients]
    assert len(gone) == len(set(gone)) <= min(n, most)
    faults = strategies.silence(schedule)
    for phase, clients in schedule.items():
        for later in strategies.PHASES[strategies.PHASES.index(phase) :]:
            for client in clients:
                assert any(fault.meets(Packet(later, client, True, b"")) for fault in faults)


@pytest.mark.slow
@SOME
@given(st.data())
def test_a_dropout_schedule_leaves_out_just_its_clients(data: st.DataObject) -> None:
    roster, signers = data.draw(strategies.rosters(4, 4))
    policy = Policy(corrupted=0.0, suites=frozenset({Suite.X25519}))
    plan = [SumPlan("a", 1, 1.0, 20)]
    # Of four clients one may be lost: three are the threshold.
    schedule = data.draw(strategies.dropout_schedules(4, most=1))
    proposed = data.draw(strategies.parameters(roster, plan, policy).filter(lambda one: one.threshold == 3))
    clients = {index: MaskingClient(one, roster, plan, policy, Ledger()) for index, one in enumerate(signers)}
    network = FaultyNetwork(strategies.silence(schedule))
    cohort = Cohort(MaskingServer(proposed, roster), clients, network)
    cohort.set_up()
    result = cohort.sum(0, lambda index, wanted: (np.array([0.5]), "rows"))
    early = (*strategies.KEY_PHASES, "collecting")
    gone = frozenset().union(*(schedule.get(phase, frozenset()) for phase in early))
    assert set(result.survivors) == set(range(4)) - gone


@pytest.mark.slow
@pytest.mark.parametrize("handling", HANDLING)
def test_all_faults_are_drawn(handling: str) -> None:
    def meant(faults: list[Fault]) -> bool:
        return any(one.handling == handling for one in faults)

    assert meant(find(strategies.delivery_schedules(3), meant))


# ---- repeated and shrunk -------------------------------------------------------------------------

ALL: dict[str, Callable[[], st.SearchStrategy[Any]]] = {
    "rosters": strategies.rosters,
    "policies": strategies.policies,
    "plans": strategies.plans,
    "problems": strategies.problems,
    "cohorts": lambda: strategies.cohorts(3, 4, 1.0),
    "dropouts": lambda: strategies.dropout_schedules(4),
    "deliveries": lambda: strategies.delivery_schedules(4),
}


@pytest.mark.parametrize("name", ALL)
def test_the_same_seed_draws_the_same(name: str) -> None:
    def drawn() -> list[str]:
        seen = []

        @settings(SOME, max_examples=25, derandomize=True, database=None)
        @given(ALL[name]())
        def watch(value: Any) -> None:
            seen.append(contents(value))

        watch()
        return seen

    first = drawn()
    assert first == drawn()
    assert len(set(first)) > 3


def contents(value: Any) -> str:
    if isinstance(value, strategies.Problem):
        return repr((value, value.X.tolist(), value.Y.tolist(), value.sites.tolist()))
    return repr(value)


@pytest.mark.slow
def test_failures_shrink() -> None:
    assert len(find(strategies.rosters(2, 6), lambda drawn: True)[1]) == 2
    assert len(find(strategies.plans(5), lambda plan: len(plan) > 1)) == 2
    plan = find(strategies.plans(5), lambda plan: True)
    assert plan == (SumPlan("sum 0", 1, 1.0, plan[0].fraction_bits),)
    assert find(strategies.dropout_schedules(5), lambda one: "sharing" in one) == {"sharing": frozenset({0})}
    vectors = find(strategies.cohorts(3, 4, 10.0), lambda vectors: max(map(np.max, vectors)) > 1)
    assert sum(np.count_nonzero(vector) for vector in vectors) <= 12
    problem = find(strategies.problems(), lambda one: len(one.X) >= 3 and one.clients > 1)
    assert (len(problem.X), problem.clients, problem.bounds.row_norm, problem.condition) == (3, 2, 1.0, 1.0)


@pytest.mark.parametrize("module", ["strategies", "machine", "check"])
def test_a_missing_hypothesis_names_the_extra(module: str) -> None:
    code = f"import sys; sys.modules['hypothesis'] = None; import secure_afl.testing.{module}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "MissingExtraError: this needs the package hypothesis" in result.stderr
    assert "secure-afl[testing]" in result.stderr
