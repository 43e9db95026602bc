"""What a server sends: the same bytes whenever they are read, and not all of them in memory at once."""

import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds.cohorts import Session, Tap, world

from secure_afl.protocol.session.graph import Neighbourhood
from secure_afl.protocol.session.parameters import Profile
from secure_afl.protocol.session.server import OnDemand, Outbox, alike
from secure_afl.protocol.transport.driver import nothing_wanted

PARTIES = world(30)
outboxes = st.dictionaries(st.integers(0, 20), st.sampled_from([b"", b"a", b"b", b"longer"]))


@given(outboxes, st.integers(-1, 21))
def test_messages_on_demand_are_those_of_a_dictionary(kept: dict[int, bytes], party: int) -> None:
    made = OnDemand(kept, kept.__getitem__)
    assert made == kept
    assert list(made.items()) == list(kept.items())
    assert (len(made), party in made, made.get(party)) == (len(kept), party in kept, kept.get(party))
    if party not in kept:
        with pytest.raises(KeyError, match=str(party)):
            made[party]


def test_who_is_not_written_to_has_no_message_that_could_be_made() -> None:
    with pytest.raises(KeyError):
        OnDemand([1, 2], lambda party: b"made")[3]


@given(outboxes)
def test_messages_that_are_alike_are_told_once_in_a_row(outbox: dict[int, bytes]) -> None:
    found = list(alike(outbox))
    assert [(party, data) for data, parties in found for party in parties] == list(outbox.items())
    assert all(one != after for (one, _), (after, _) in pairwise(found))


def sparse(network: Tap | None = None) -> Session:
    near = Neighbourhood(20, 11)
    return PARTIES.session(PARTIES.propose(profile=Profile.SEMI_HONEST, near=near), network)


def test_what_was_sent_reads_the_same_when_the_session_has_gone_on() -> None:
    """Sealed shares are dropped after delivery; a message that holds them must still read the same."""
    tap = Tap()
    session, kept = sparse(tap), list[tuple[str, Outbox]]()
    server, cohort = session.server, session.cohort

    def noted(outbox: Outbox) -> Outbox:
        kept.append((server.state.value, outbox))
        return outbox

    for step in (server.start, server.advance, server.advance):
        cohort.run(lambda step=step: noted(step()), nothing_wanted)  # type: ignore[misc]
    server.advance()
    cohort.run(lambda: noted(server.open_round(0)), session.contribute)
    cohort.run(lambda: noted(server.advance()), session.contribute)
    server.result()
    sent = [(one.phase, one.client, one.data) for one in tap.seen if not one.upward]
    assert sent == [(phase, party, data) for phase, outbox in kept for party, data in outbox.items()]


def test_messages_that_differ_are_never_all_in_memory() -> None:
    """Most of what a server sends are keys and sealed shares, different for each of thousands of neighbourhoods."""
    session = sparse()
    server, cohort = session.server, session.cohort
    cohort.run(server.start, nothing_wanted)
    tracemalloc.start()
    try:
        for phase in ("sharing", "confirming"):
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            outbox = server.advance()
            _, peak = tracemalloc.get_traced_memory()
            assert server.state.value == phase
            assert peak - before < sum(map(len, outbox.values())) / 2
            cohort.run(lambda outbox=outbox: outbox, nothing_wanted)  # type: ignore[misc]
    finally:
        tracemalloc.stop()
