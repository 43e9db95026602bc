from fractions import Fraction
from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_afl.protocol.errors import PolicyError
from secure_afl.protocol.ledger import MOST_SURVIVOR_SETS, Ledger, _fewest_clients

SOURCE = bytes(32)


def group(names: str) -> frozenset[bytes]:
    return frozenset(name.encode() for name in names)


survivor_sets = st.lists(st.sets(st.sampled_from("abcdef"), min_size=1), min_size=1, max_size=3)


@settings(max_examples=60)
@given(survivor_sets)
def test_the_fewest_clients_are_those_of_the_best_combination_of_all(sets: list[set[str]]) -> None:
    """Against a search: some set of clients Z can be silenced iff a combination vanishes on it alone."""
    released = [group("".join(one)) for one in sets]
    clients = sorted(frozenset().union(*released))
    rows = [[Fraction(client in one) for client in clients] for one in released]
    # Small integer coefficients suffice: these 0/1 systems of at most 3 rows have solutions with minors ≤ 2.
    best = min(
        support
        for coefficients in product(range(-3, 4), repeat=len(rows))
        if (
            support := sum(
                bool(sum(c * row[j] for c, row in zip(coefficients, rows, strict=True)))
                for j in range(len(clients))
            )
        )
    )
    assert _fewest_clients(released) == best


def test_differencing_by_one_client_is_refused() -> None:
    ledger = Ledger()
    ledger.release(SOURCE, group("abcdef"), 3)
    with pytest.raises(PolicyError, match="1 client"):
        ledger.check(SOURCE, group("abcde"), 3)
    with pytest.raises(PolicyError, match="2 client"):
        ledger.check(SOURCE, group("abcd"), 3)
    ledger.check(SOURCE, group("abc"), 3)
    ledger.check(b"\1" * 32, group("abcde"), 3)  # another statistic


def test_three_sums_that_isolate_a_client_only_together_are_refused() -> None:
    """Each pair of these sets differs by three clients or more; together they give away one."""
    one, two, three = group("abcdefg"), group("abc"), group("def")
    for first, second in combinations((one, two, three), 2):
        assert len(first ^ second) >= 3
    ledger = Ledger()
    ledger.release(SOURCE, one, 3)
    ledger.release(SOURCE, two, 3)
    with pytest.raises(PolicyError, match="1 client"):
        ledger.release(SOURCE, three, 3)


def test_the_same_set_again_tells_nothing_new_and_a_refusal_records_nothing() -> None:
    ledger = Ledger()
    for _ in range(10):
        ledger.release(SOURCE, group("abcdef"), 3)
        with pytest.raises(PolicyError):
            ledger.release(SOURCE, group("abcde"), 3)
    ledger.release(SOURCE, group("abc"), 3)


def test_more_sets_than_can_be_checked_are_refused() -> None:
    ledger = Ledger()
    blocks = ["abcd", "efgh", "ijkl", "mnop", "qrst"]
    for block in blocks[:MOST_SURVIVOR_SETS]:
        ledger.release(SOURCE, group(block), 3)
    with pytest.raises(PolicyError, match="already"):
        ledger.release(SOURCE, group(blocks[-1]), 3)
    ledger.release(SOURCE, group("abcd"), 3)


def test_a_session_is_joined_once() -> None:
    ledger = Ledger()
    ledger.join(bytes(32))
    ledger.join(b"\1" * 32)
    with pytest.raises(PolicyError, match="replay"):
        ledger.join(bytes(32))
