import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from secure_afl.protocol.errors import PolicyError
from secure_afl.protocol.ledger import Ledger
from secure_afl.protocol.parameters import SumPlan

SOURCE = bytes(32)
SPEC = SumPlan("gram", 5, 1.0).spec(6)
groups = st.frozensets(st.sampled_from([bytes([i]) for i in range(8)]), min_size=1)


@given(st.lists(groups, min_size=1, max_size=6))
def test_one_statistic_is_released_for_one_survivor_set_only(sets: list[frozenset[bytes]]) -> None:
    ledger = Ledger()
    for survivors in sets:
        if survivors == sets[0]:
            ledger.release(SOURCE, SPEC, survivors)
        else:
            with pytest.raises(PolicyError, match=f"differs by {len(survivors ^ sets[0])} client"):
                ledger.release(SOURCE, SPEC, survivors)
        ledger.check(b"\1" * 32, SPEC, survivors)  # another statistic, or other data


@given(groups, groups)
def test_a_round_that_cannot_end_in_the_same_set_is_refused_before_the_upload(
    survivors: frozenset[bytes], participants: frozenset[bytes]
) -> None:
    ledger = Ledger()
    ledger.check_participants(SOURCE, participants)
    ledger.release(SOURCE, SPEC, survivors)
    if survivors <= participants:
        ledger.check_participants(SOURCE, participants)
    else:
        with pytest.raises(PolicyError, match=f"without {len(survivors - participants)} of them"):
            ledger.check_participants(SOURCE, participants)


def test_the_same_sum_under_another_code_is_refused() -> None:
    """Sums that differ in their rounding only would give away the clients' low bits, plane by plane."""
    ledger = Ledger()
    survivors = frozenset({b"a", b"b", b"c"})
    ledger.release(SOURCE, SPEC, survivors)
    ledger.release(SOURCE, replace(SPEC, statistic="by another name"), survivors)
    for other in (replace(SPEC, fraction_bits=SPEC.fraction_bits + 1), replace(SPEC, magnitude=1)):
        with pytest.raises(PolicyError, match="another fixed-point code"):
            ledger.release(SOURCE, other, survivors)


def test_a_session_is_joined_once() -> None:
    ledger = Ledger()
    ledger.join(bytes(32))
    ledger.join(b"\1" * 32)
    with pytest.raises(PolicyError, match="replay"):
        ledger.join(bytes(32))
