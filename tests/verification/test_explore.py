"""All that a lying server can make our clients do, within small bounds; see `tests/long/explore.py` for large ones."""

from itertools import permutations

import pytest
from long.explore import ATTACKS, Outcome, Search
from long.sites import Bounds

from secure_afl.protocol.session.parameters import Profile

SEMI_HONEST = Bounds(colluders=1, profile=Profile.SEMI_HONEST, equivocate=False, consistent=True)


def explored(bounds: Bounds, order: str = "phases") -> Outcome:
    return Search(bounds).run(order)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bounds", "states"),
    [
        (Bounds(colluders=1), 1900),
        (Bounds(), 500),
        (Bounds(colluders=1, rounds=2, related=True, honest_setup=True, equivocate=False), 300),
        (SEMI_HONEST, 650),
    ],
    ids=["colluder", "server alone", "related sums", "semi-honest"],
)
def test_no_rule_is_broken(bounds: Bounds, states: int) -> None:
    """Claim: none of `RULES` is broken in any reachable state. Exhaustive within the bounds; that the explorer sees
    broken rules is shown by the attacks below.
    """
    outcome = explored(bounds)
    assert outcome.violation is None
    assert outcome.complete
    assert outcome.states >= states
    assert outcome.opened > 0  # it gets as far as sums
    assert outcome.refused > outcome.nodes


@pytest.mark.slow
@pytest.mark.parametrize("honest_setup", [True, False])
def test_clients_that_make_a_sum_again_accept_one_and_the_right_one(honest_setup: bool) -> None:
    """Claim: whatever evidence a server with a colluder makes, of two uploads of the colluder or with masks that the server was
    given, clients accept no two sums of a round, and none but that of the uploads that they consented to; also if the server
    lied in the set-up.
    """
    search = Search(Bounds(colluders=1, honest_setup=honest_setup, equivocate=False, replay=True))
    outcome = search.run()
    assert outcome.violation is None
    assert outcome.complete
    assert outcome.states >= (2000 if honest_setup else 16_000)
    accepted = [fact for fact in search.model.known if fact[0] == "accepted"]
    assert {survivors for _, _, _, _, survivors, *_ in accepted} >= {(0, 1, 2), (0, 1, 3), (0, 1, 2, 3)}
    assert len({units for _, _, _, _, survivors, units, _ in accepted if survivors == (0, 1, 2, 3)}) == 2


@pytest.mark.slow
def test_clients_make_two_sums_of_a_session_again() -> None:
    """Claim: the same over two rounds, where consents also say which sum of the first round each client accepted."""
    search = Search(Bounds(clients=3, rounds=2, colluders=1, equivocate=False, replay=True))
    outcome = search.run()
    assert outcome.violation is None
    assert outcome.complete
    assert outcome.states >= 600
    accepted = {(fact[2], fact[3]) for fact in search.model.known if fact[0] == "accepted"}
    assert accepted == {(0, 0), (0, 1), (1, 0), (1, 1)}
    said = {fact[4][4:] for fact in search.model.known if fact[0] == "consent" and fact[2] == 1}
    assert {((),), ()} < said  # of clients that accepted a sum, and that did not


@pytest.mark.slow
def test_every_order_shows_no_more_than_turns() -> None:
    """Claim: whatever the server has in a state that any order of messages reaches, it has in one that turns reach,
    but for clients' names; so turns, and the moves that they leave out, lose nothing.
    """
    search = Search(Bounds(colluders=1, equivocate=False))
    relevant = search.adversary._matters
    by_turns = set().union(*search._phases())
    any_order = set().union(*search._any())
    assert len(any_order) >= 18_000
    renamed = [(*one, 3) for one in permutations(range(3))]
    views = {
        search.held(tuple(search.model.image(name, to) for name in state)) & relevant()
        for state in by_turns
        for to in renamed[1:]
    } | {search.held(state) & relevant() for state in by_turns}
    most = [view for view in views if not any(view != other and not view & ~other for other in views)]
    for held in {search.held(state) & relevant() for state in any_order}:
        assert any(not held & ~view for view in most)
    assert not any(search.adversary.violations(search.held(state)) for state in any_order)


@pytest.mark.parametrize("replay", [False, True])
def test_renamed_clients_take_renamed_messages(replay: bool) -> None:
    """Claim: a client that differs from another by the names of honest clients takes just the renamed messages, at the same
    cost for the adversary, so that the explorer need not try them all again.
    """
    search = Search(Bounds(colluders=1, honest_setup=replay, equivocate=False, replay=replay))
    search.run()
    model, compared = search.model, 0
    with model.stand_ins():
        for name in list(model._moves):
            if model.likeness(name)[0] != name:
                tried = {(move.rank, move.need, move.target) for move in model._expanded(name)}
                assert tried == {(move.rank, move.need, move.target) for move in model.moves(name)}
                compared += 1
    assert compared > 50


def test_the_real_ciphers_give_the_same_states() -> None:
    """Claim: with HPKE and Ed25519 as they are, there are just the states and transitions that their stand-ins give."""
    counts = []
    for real in (False, True):
        outcome = explored(Bounds(clients=3, real_crypto=real), "any")
        assert outcome.violation is None
        counts.append((outcome.states, outcome.transitions, outcome.nodes, outcome.refused, outcome.opened))
    assert counts[0] == counts[1]
    assert counts[0][0] >= 120


def test_what_can_be_opened_opens_on_the_bytes() -> None:
    """Claim: where the algebra says that a sum can be opened, the shares and uploads that clients sent give it."""
    search = Search(Bounds(colluders=1, honest_setup=True, equivocate=False))
    sums = 0
    for state in set().union(*search._phases()):
        opened = search.adversary.read(search.held(state))
        assert all(opened.values())
        sums += len(opened)
    assert sums >= 7


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=pytest.mark.long) if one in ("consents", "ledger") else one for one in ATTACKS],
)
def test_a_weakened_variant_is_broken(name: str) -> None:
    """Claim: without this defence a rule breaks within the bounds; the trace opens on the bytes that clients sent."""
    bounds, rules, order = ATTACKS[name]
    outcome = Search(bounds, rules).run(order)
    assert outcome.violation is not None
    assert outcome.violation.rule in rules
    assert outcome.read
    assert len(outcome.trace) >= 6
