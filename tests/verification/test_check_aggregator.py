"""`check_aggregator` finds nothing wrong with ours, and in each broken one what is broken."""

import math
import random
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import default_rng
from scipy.stats import chi2

from secure_afl.protocol.session.parameters import Profile
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.transport.driver import Contribution, Envelope, Network
from secure_afl.sums.aggregation import Aggregator, MaskedAggregator, PlainAggregator
from secure_afl.sums.encrypted import EncryptedAggregator
from secure_afl.testing import aggregators
from secure_afl.testing.aggregators import (
    PROPERTIES,
    Factory,
    PropertyFailed,
    check_aggregator,
    generators_noted,
)
from verification import broken

SEMI_HONEST = Policy(profiles=frozenset({Profile.SEMI_HONEST}))
NO_SHARES = "one_kind_of_share_is_revealed"
NO_WORDS = "uploads_look_uniform"
NO_ENDS = "the_bound_itself_is_summed"


def masked(network: Network) -> MaskedAggregator:
    return MaskedAggregator(network=network)


def semi_honest(network: Network) -> MaskedAggregator:
    return MaskedAggregator(SEMI_HONEST, profile=Profile.SEMI_HONEST, network=network)


def encrypted(backend: str, **options: Any) -> Factory:
    return lambda network: EncryptedAggregator(backend, network=network, **options)


# ---- ours ----------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(
    ("factory", "options", "not_applicable"),
    [
        pytest.param(masked, {}, (), id="mask, active"),
        pytest.param(semi_honest, {}, (), id="mask, semi-honest"),
        pytest.param(encrypted("bfv"), {}, (NO_WORDS, NO_SHARES), id="bfv"),
        pytest.param(encrypted("bfv", holders=2), {"tampered": 30}, (NO_WORDS, NO_SHARES), id="bfv by 2"),
        pytest.param(encrypted("bfv+mask"), {"tampered": 60}, (NO_WORDS,), id="bfv+mask"),
        pytest.param(
            encrypted("ckks", release="sum"), {"tampered": 60}, (NO_WORDS, NO_SHARES), id="ckks sums"
        ),
        pytest.param(
            encrypted("ckks"),
            {"asks": "weights", "tampered": 60},
            (NO_ENDS, NO_WORDS, NO_SHARES),
            id="ckks weights",
        ),
    ],
)
def test_ours_have_every_property(
    factory: Factory, options: dict[str, Any], not_applicable: tuple[str, ...]
) -> None:
    report = check_aggregator(factory, on_fail="collect", **options)
    assert not report.failed, str(report)
    assert report.not_applicable == not_applicable
    assert len(report.rows) == len(PROPERTIES)


@pytest.mark.slow
def test_the_default_has_every_property_under_a_few_faults() -> None:
    report = check_aggregator(masked, tampered=4)
    assert report.passed == tuple(one.name for one in PROPERTIES)


# ---- broken ones ---------------------------------------------------------------------------------

# What each fails on: the property that names the flaw first, and what follows from it.
FLAWS: Mapping[type[broken.Broken], set[str]] = {
    broken.SmallSeeds: {"no_toy_generator_is_used"},
    broken.KeystreamForEachPart: {"every_entry_has_its_own_mask", "uploads_look_uniform"},
    broken.ScalarMask: {"every_entry_has_its_own_mask", "uploads_look_uniform"},
    broken.KeystreamForEverySum: {"two_sums_share_no_keystream"},
    broken.BothShares: {"one_kind_of_share_is_revealed"},
    broken.Truncates: {"bad_shapes_are_refused"},
    broken.Wraps: {"bad_values_are_refused"},
    broken.Clips: {"bad_values_are_refused"},
    broken.CountsInTheClear: {"no_count_travels_in_the_clear"},
    broken.OneKeyForAll: {"no_key_is_common"},
    # A count of rows is an entry of a vector.
    broken.PlaintextFallback: {"no_vector_travels_in_the_clear", "no_count_travels_in_the_clear"},
    # A client whose input or messages are refused has dropped out.
    broken.ForgetsDropouts: {
        "the_lost_are_left_out",
        "bad_values_are_refused",
        "bad_shapes_are_refused",
        "tampering_changes_no_sum",
    },
    # A further session is a way to a second set of survivors.
    broken.ReusesData: {"a_data_set_serves_one_session", "one_survivor_set_opens"},
    broken.TriesAgain: {"one_survivor_set_opens"},
}


@pytest.mark.long
@pytest.mark.parametrize("kind", FLAWS, ids=lambda kind: kind.__name__)
def test_each_flaw_is_found_and_nothing_else(kind: type[broken.Broken]) -> None:
    report = check_aggregator(kind, on_fail="collect", tampered=8)
    assert set(report.failed) == FLAWS[kind], str(report)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FLAWS, ids=lambda kind: kind.__name__)
def test_each_flaw_raises_by_its_name(kind: type[broken.Broken]) -> None:
    for name in FLAWS[kind]:
        with pytest.raises(PropertyFailed, match=rf"^{name}: expected that ") as caught:
            check_aggregator(kind, only=[name])
        assert caught.value.property == name


def test_a_sum_that_is_wrong_everywhere_fails_first_as_such() -> None:
    with pytest.raises(PropertyFailed, match="sums_are_exact"):
        check_aggregator(broken.ClipsToEight)


@pytest.mark.slow
def test_the_flaws_are_flaws_of_the_weakened_clients() -> None:
    """With nothing weakened, the class that they all are made of is sound."""
    everything = set().union(*FLAWS.values())
    assert not check_aggregator(broken.Broken, only=everything, on_fail="collect").failed


# ---- what is not there, and what crashes ---------------------------------------------------------


def test_without_a_network_the_report_says_what_was_not_checked() -> None:
    policy = Policy(backends=frozenset({"plain"}))
    report = check_aggregator(lambda network: PlainAggregator(policy), network=False, on_fail="collect")
    assert set(report.failed) == {
        "bad_values_are_refused",
        "bad_shapes_are_refused",
        "a_data_set_serves_one_session",
        "an_entry_is_summed_once",
    }
    assert {"no_vector_travels_in_the_clear", "tampering_changes_no_sum"} <= set(report.not_applicable)
    assert "not checked: its messages pass through no network" in str(report)


def test_an_aggregator_that_sends_nothing_does_not_pass_for_one_that_does() -> None:
    policy = Policy(backends=frozenset({"plain"}))
    with pytest.raises(
        PropertyFailed, match=r"every_vector_travels: .* no message arrived, and there is a sum"
    ):
        check_aggregator(lambda network: PlainAggregator(policy), only=["every_vector_travels"])


class Crashes(MaskedAggregator):
    def sum(self, number: int, contributions: Mapping[str, Contribution]) -> Any:
        raise KeyError("site 3")


def test_a_crash_is_no_refusal() -> None:
    with pytest.raises(PropertyFailed, match=r"a_missing_client_is_refused: .* KeyError: 'site 3'"):
        check_aggregator(lambda network: Crashes(network=network), only=["a_missing_client_is_refused"])


def test_secret_keys_that_clients_hold_are_compared() -> None:
    def held(aggregator: Aggregator) -> dict[str, list[bytes]]:
        return {f"site {number}": [bytes([number]) * 32, shared] for number in range(5)}

    shared = b"s" * 32
    with pytest.raises(PropertyFailed, match="5 clients hold the same secret key"):
        check_aggregator(masked, only=["no_key_is_common"], held=held)
    report = check_aggregator(masked, only=["no_key_is_common"], held=lambda one: {"site 0": [shared]})
    assert report.rows[0].note == ""


@pytest.mark.parametrize(
    "wrong",
    [{"asks": "all"}, {"on_fail": "ignore"}, {"clients": 2}, {"dropouts": 4}, {"only": ["no such property"]}],
)
def test_arguments_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected "):
        check_aggregator(masked, **wrong)


def test_every_property_says_what_it_claims() -> None:
    assert len({one.name for one in PROPERTIES}) == len(PROPERTIES)
    assert all(one.claim and one.check.__doc__ for one in PROPERTIES)


# ---- the instruments -----------------------------------------------------------------------------

MADE_BEFORE = np.random.default_rng(3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "use",
    [
        random.random,
        lambda: random.Random(5),
        lambda: random.seed(5),
        np.random.random,
        lambda: np.random.seed(5),
        lambda: default_rng(1),
        lambda: np.random.Generator(np.random.PCG64(4)),
        lambda: np.random.RandomState(5),
        lambda: MADE_BEFORE.integers(4),
    ],
)
def test_every_use_of_a_toy_generator_is_noted(use: Callable[[], object]) -> None:
    with generators_noted() as used:
        use()
    assert used
    with generators_noted() as used:
        random.SystemRandom().random()
    assert not used
    assert isinstance(np.random.RandomState(1), np.random.RandomState)


@given(st.binary(max_size=200), st.lists(st.binary(min_size=8, max_size=8), max_size=4), st.integers(0, 190))
def test_what_is_searched_for_is_found_wherever_it_begins(data: bytes, wanted: list[bytes], at: int) -> None:
    patterns = {*wanted, *([data[at : at + 8]] if len(data) >= at + 8 else [])}
    assert aggregators._beginnings(data, patterns) == {one for one in patterns if one in data}


@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=40), st.binary(max_size=40))
def test_blocks_that_come_again_are_counted(one: bytes, two: bytes, common: bytes, header: bytes) -> None:
    first, second = header + one + common, header + two + common
    expected = aggregators._blocks(first) & aggregators._blocks(second) - aggregators._blocks(header)
    assert aggregators._come_again(first, second, [header]) == len(expected)


@pytest.mark.parametrize("degrees", [3, 31, 255])
def test_the_limit_of_chi_square_has_about_the_chance_that_is_said(degrees: int) -> None:
    assert 1e-11 < chi2.sf(aggregators._chi_square_limit(degrees), degrees) < 1e-7


@pytest.mark.parametrize("encode", [lambda x: struct.pack("<d", x), lambda x: struct.pack(">2f", x, x + 1)])
def test_a_vector_is_recognised(encode: Callable[[float], bytes]) -> None:
    value = 1e7 / 3
    assert encode(value) in {pattern for _, pattern in aggregators._encodings([value, value + 1])}


def test_fixed_point_words_are_recognised() -> None:
    values = [-1e5 / 7, 3e5 / 7]
    words = b"".join(round(math.ldexp(value, 18)).to_bytes(5, "little", signed=True) for value in values)
    assert words in {pattern for _, pattern in aggregators._encodings(values)}


def test_the_wire_keeps_what_is_sent_and_delivers_what_its_inner_network_lets_through() -> None:
    wire = aggregators.Wire()
    envelope = Envelope("phase", 0, True, b"data")
    assert [*wire.carry(envelope)] == [envelope]
    wire.inner = aggregators._Lost(frozenset({0}))
    assert not [*wire.carry(envelope)]
    assert wire.sent == [envelope, envelope]
