"""What `tests/long/mutants.py` found that no other test would have noticed, by module."""

from math import log, sqrt

import numpy as np
import pytest
from cohorts import world
from encrypted import KeyWorld
from msgspec.structs import replace

from secure_afl.crypto import bfv, ckks, joint_key
from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.fixed_point import FixedPoint
from secure_afl.crypto.kdf import Label, derive, integer
from secure_afl.crypto.lattice import LATTICES, Lattice
from secure_afl.crypto.prg import keystream, uniform
from secure_afl.protocol.errors import RoundAbortedError
from secure_afl.protocol.homomorphic.agreement import Agreement, Release
from secure_afl.protocol.masking import graph
from secure_afl.protocol.masking.states import ServerState
from secure_afl.protocol.parameters import Profile, RidgeSystem, SumPlan
from secure_afl.protocol.wire import WireError

# ---- crypto/fixed_point.py ---------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["fraction_bits", "magnitude", "summands", "width"])
def test_a_code_of_numpys_integers_is_refused(field: str) -> None:
    numbers = {"fraction_bits": 20, "magnitude": 100, "summands": 4, "width": 8}
    FixedPoint(**numbers)
    with pytest.raises(CryptoError, match="expected integers, got FixedPoint"):
        FixedPoint(**(numbers | {field: np.int64(numbers[field])}))  # type: ignore[arg-type]


def test_the_smallest_bound_takes_one_unit() -> None:
    assert FixedPoint.fit(1e-300, 2, 512).magnitude == 1


# ---- protocol/masking/graph.py -----------------------------------------------------------------------


def test_the_probabilities_are_those_that_are_promised() -> None:
    assert (graph.SECURITY_FAILURE, graph.CORRECTNESS_FAILURE) == (2**-40, 2**-20)


def test_the_sparsest_graph_may_lack_one_edge_only() -> None:
    chosen = graph.choose(4, Profile.SEMI_HONEST, corrupted=0, dropout=0.0)
    assert chosen == graph.Neighbourhood(degree=2, threshold=2)


# ---- protocol/masking/server.py ----------------------------------------------------------------------


def test_a_round_that_asks_too_few_does_not_begin() -> None:
    here = world(4)
    session = here.session(here.propose()).set_up()
    with pytest.raises(RoundAbortedError, match="expected at least 3 clients, 2 are left for round 0"):
        session.server.open_round(0, among=[0, 1])
    assert session.server.state is ServerState.READY
    assert session.sum(0).survivors == (0, 1, 2, 3)  # the round was not spent


# ---- protocol/homomorphic/agreement.py ---------------------------------------------------------------


def test_sums_may_fill_the_room_and_no_more() -> None:
    keys = KeyWorld(4)
    agreement = Agreement.propose(keys.encryption, keys.roster, keys.keepers, [SumPlan("sum", 5, 100.0, 20)])
    most, rest = divmod(LATTICES[agreement.lattice].room, 4)
    assert rest == 0
    first = agreement.rounds[0]
    assert replace(agreement, rounds=(replace(first, magnitude=most),)).rounds[0].magnitude == most
    with pytest.raises(WireError, match="a sum of 4 clients can overflow"):
        replace(agreement, rounds=(replace(first, magnitude=most + 1),))


def test_solutions_of_any_size_are_taken() -> None:
    system = RidgeSystem(features=9, outputs=1, ridge=1.0)
    plan = [SumPlan("gram", 5, 100.0, 20, system=system)]
    keys = KeyWorld(4, release=Release.WEIGHTS)
    session = keys.session(plan=plan, solve=lambda plan, total, error: np.arange(9.0)).set_up()
    assert session.cohort.sum(0, session.contribute).values.tolist() == list(range(9))


# ---- crypto/ckks.py ----------------------------------------------------------------------------------


def test_a_bound_that_no_scale_holds_is_refused_as_what_it_is() -> None:
    for bound in (1e300, 1e-300):
        with pytest.raises(
            CryptoError, match=f"does not hold a sum of 4 values up to {bound:g}".replace("+", ".")
        ):
            ckks.fit(ckks.Demand(5, bound), 4, LATTICES["ckks-precise"])


@pytest.mark.parametrize("lattice", [LATTICES["ckks-compact"], LATTICES["ckks-precise"]])
def test_the_noise_is_bounded_term_by_term(lattice: Lattice) -> None:
    summands, degree, tail = 10, lattice.degree, 61 * log(2)
    rounding = 2 * sqrt(2 * summands * degree / 24 * tail)
    secret = sqrt(2 * degree / 3 * tail)
    gaussian = 3.2 * sqrt(2 * summands * degree * tail) * 2 / lattice.key_prime
    terms = (rounding, rounding * secret, gaussian, gaussian * 3 * secret, summands * degree / 2)
    assert ckks.noise(lattice, summands) == pytest.approx(sum(terms), rel=1e-12)


# ---- crypto/joint_key.py -----------------------------------------------------------------------------


def test_the_common_polynomial_has_a_label_of_its_own() -> None:
    lattice, transcript = LATTICES["bfv-60-joint"], bytes(32)
    rows = []
    for prime in (*lattice.primes, lattice.key_prime):
        key = derive(transcript, Label.JOINT_POLYNOMIAL, b"bfv-60-joint", integer(prime))
        rows.append(uniform(keystream(key), lattice.degree, prime))
    assert np.array_equal(joint_key.common(lattice, transcript), np.stack(rows))


# ---- crypto/bfv.py -----------------------------------------------------------------------------------


@pytest.mark.parametrize("holders", [1, 3])
def test_the_noise_of_exact_sums_is_bounded_term_by_term(holders: int) -> None:
    """For 2²⁰ coefficients but for a probability of 2⁻⁴⁰: a tail of 2·exp(−x) at 2⁻⁶⁰."""
    lattice, summands = LATTICES["bfv-60-joint"], 10
    degree, tail = lattice.degree, log(2 * 2**60)
    switched = sqrt(summands * (1 + holders * degree) / 6 * tail)
    fresh = 3.2 * sqrt(2 * summands * (1 + 2 * holders * degree) * tail) * 3 / lattice.key_prime
    assert bfv.noise(lattice, summands, holders) == pytest.approx(switched + fresh + summands / 2, rel=1e-12)
