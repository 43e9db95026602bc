"""The property that everything rests on: an opened sum is the survivors' integer sum, whatever happens."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds.cohorts import EVERY_PROFILE, Backwards, Session, world

from secure_afl.crypto import shamir
from secure_afl.crypto.hpke import Suite
from secure_afl.protocol.masking import client as masking_client
from secure_afl.protocol.masking import messages
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.session import graph
from secure_afl.protocol.session.errors import RoundAbortedError
from secure_afl.protocol.session.parameters import Profile
from secure_afl.protocol.transport.driver import Packet, PerfectNetwork
from secure_afl.testing.faults import Fault, FaultyNetwork

WORLDS = {n: world(n) for n in (3, 4, 5, 7)}
FOUR = WORLDS[4]
KEY_PHASES = ("advertising", "sharing", "confirming")
SUM_PHASES = ("collecting", "consenting", "unmasking")
LOSSES = ("drop", "late", "flip", "cut", "lengthen")

plans = st.fixed_dictionaries(
    {
        "length": st.integers(1, 40),
        "rounds": st.integers(1, 2),
        "profile": st.sampled_from(Profile),
        "fraction_bits": st.integers(8, 50),  # widths of 4 to 8 bytes
    }
)


def expected_survivors(session: Session, lost: dict[str, set[int]]) -> list[int] | None:
    """What must come of a round in a complete graph when these clients' messages of these phases get lost."""
    parameters = session.parameters
    least = max(parameters.threshold, session.world.policy.least_survivors(len(parameters.cohort)))
    alive = set(parameters.cohort)
    survivors = alive
    phases = [*KEY_PHASES, *SUM_PHASES]
    if parameters.profile is Profile.SEMI_HONEST:
        phases.remove("consenting")
    for phase in phases:
        alive = alive - lost[phase]
        if phase == "collecting":
            survivors = alive
            if len(survivors) < least:
                return None
        if len(alive) < parameters.threshold:
            return None
    return sorted(survivors)


@pytest.mark.slow
@settings(max_examples=200)
@given(st.sampled_from(sorted(WORLDS)), plans, st.data())
def test_sums_are_exact_or_not_released_whoever_is_lost_whenever(
    n: int, plan: dict[str, int], data: st.DataObject
) -> None:
    """Clients fall silent, are late, or have a message altered on the way, in any phase; order is any order."""
    some = st.sets(st.integers(0, n - 1), max_size=max(1, n // 2))
    lost = {phase: data.draw(some, label=phase) for phase in (*KEY_PHASES, *SUM_PHASES)}
    handling = data.draw(st.sampled_from(LOSSES), label="handling")
    order = data.draw(st.sampled_from(["shuffle", "repeat", None]), label="order")
    faults = [Fault(handling, phase, frozenset(who)) for phase, who in lost.items()]
    faults += [Fault(order)] if order else []
    parameters = WORLDS[n].propose(**plan)  # type: ignore[arg-type]
    session = WORLDS[n].session(parameters, FaultyNetwork(faults, seed=n))
    expected = expected_survivors(session, lost)
    try:
        session.set_up()
    except RoundAbortedError:
        assert expected is None
        return
    for number in range(len(parameters.rounds)):
        try:
            result = session.sum(number)
        except RoundAbortedError:
            assert expected is None
            continue
        assert list(result.survivors) == expected
        assert session.opened(result).tolist() == session.integer_sum(result.survivors, number).tolist()


@pytest.mark.slow
@settings(max_examples=40)
@given(st.integers(2, 4), st.booleans(), plans, st.data())
def test_sums_over_sparse_graphs_are_exact(
    half: int, many: bool, plan: dict[str, int], data: st.DataObject
) -> None:
    n = 14 if many else 11
    degree = 2 * half
    near = graph.Neighbourhood(degree, data.draw(st.integers(degree // 2 + 1, degree)))
    parties = SPARSE[n]
    parameters = parties.propose(**plan | {"profile": Profile.SEMI_HONEST, "near": near})  # type: ignore[arg-type]
    silent = data.draw(st.sets(st.integers(0, n - 1), max_size=3))
    phase = data.draw(st.sampled_from([*KEY_PHASES, "collecting", "unmasking"]))
    session = parties.session(parameters, FaultyNetwork([Fault("drop", phase, frozenset(silent))]))
    if len(silent) <= degree + 1 - near.threshold and phase != "sharing":
        session.set_up()
    else:
        try:
            session.set_up()
        except RoundAbortedError:
            return
    for number in range(len(parameters.rounds)):
        try:
            result = session.sum(number)
        except RoundAbortedError:
            # Only a client whose whole neighbourhood could lose too many stands in the way.
            assert len(silent) > degree - near.threshold
            continue
        assert session.opened(result).tolist() == session.integer_sum(result.survivors, number).tolist()
        if phase != "unmasking":
            # A client that is left with too few neighbours takes no part, to its own good.
            assert set(result.survivors) <= set(range(n)) - silent
        if phase != "unmasking" and len(silent) <= degree - near.threshold:
            assert set(result.survivors) == set(range(n)) - silent


SPARSE = {n: world(n) for n in (11, 14)}
for _parties in SPARSE.values():
    # These graphs are far below the security level that the default policy asks for; arithmetic is the point.
    _parties.policy = type(_parties.policy)(
        profiles=frozenset(Profile), suites=frozenset(Suite), corrupted=0.0, dropout=0.0
    )


@settings(max_examples=25)
@given(st.sampled_from([3, 4, 5]), st.sampled_from(Profile), st.data())
def test_whatever_is_done_to_the_servers_messages_an_opened_sum_is_right(
    n: int, profile: Profile, data: st.DataObject
) -> None:
    faults = data.draw(
        st.lists(
            st.builds(
                Fault,
                st.sampled_from([*LOSSES, "repeat"]),
                st.sampled_from([*KEY_PHASES, *SUM_PHASES]),
                st.sets(st.integers(0, n - 1), min_size=1, max_size=2).map(frozenset),
                st.sampled_from([False, None]),
            ),
            max_size=3,
        )
    )
    session = WORLDS[n].session(WORLDS[n].propose(rounds=2, profile=profile), FaultyNetwork(faults, seed=1))
    try:
        session.set_up()
    except RoundAbortedError:
        return
    for number in range(2):
        try:
            result = session.sum(number)
        except RoundAbortedError:
            continue
        assert session.opened(result).tolist() == session.integer_sum(result.survivors, number).tolist()


@pytest.mark.parametrize("suite", list(Suite))
@pytest.mark.parametrize("profile", list(Profile))
def test_both_suites_and_profiles_with_a_dropout_between_rounds(suite: Suite, profile: Profile) -> None:
    """A client that misses one round is back in the next."""
    parties = world(6)
    silent_in_first = FirstRoundOnly()
    session = parties.session(
        parties.propose(rounds=2, profile=profile, suite=suite), silent_in_first
    ).set_up()
    for number, survivors in ((0, [0, 1, 3, 4, 5]), (1, [0, 1, 2, 3, 4, 5])):
        result = session.sum(number)
        assert list(result.survivors) == survivors
        assert session.opened(result).tolist() == session.integer_sum(survivors, number).tolist()
        silent_in_first.over = True


class FirstRoundOnly(FaultyNetwork):
    """Client 2 is silent in the first round."""

    def __init__(self) -> None:
        super().__init__([Fault("drop", "collecting", frozenset({2}))])
        self.over = False

    def carry(self, packet):  # type: ignore[no-untyped-def]
        return [packet] if self.over else super().carry(packet)


def test_an_aborted_round_releases_nothing_and_the_next_is_exact() -> None:
    parties = world(5)
    network = FirstRoundOnly()
    network._faults = [Fault("drop", "collecting", frozenset({0, 1, 2}))]
    session = parties.session(parties.propose(rounds=2), network).set_up()
    with pytest.raises(RoundAbortedError, match="2 uploaded"):
        session.sum(0)
    network.over = True
    result = session.sum(1)
    assert session.opened(result).tolist() == session.integer_sum(range(5), 1).tolist()


@settings(max_examples=15)
@given(st.integers(8, 54))
def test_every_width_carries_the_same_sum(fraction_bits: int) -> None:
    session = WORLDS[4].session(WORLDS[4].propose(fraction_bits=fraction_bits, length=30)).set_up()
    result = session.sum()
    encoding = session.encodings[0]
    real = np.sum([session.vectors[index, 0] for index in range(4)], axis=0)
    assert np.abs(encoding.decode_sum(result.values, 4) - real).max() <= encoding.entry_error(4) + 1e-12


@pytest.mark.parametrize("profile", Profile)
def test_a_client_that_is_asked_too_late_is_left_out(profile: Profile) -> None:
    network = FaultyNetwork([Fault("late", "collecting", frozenset({0}), upward=False)])
    session = WORLDS[5].session(WORLDS[5].propose(profile=profile), network).set_up()
    result = session.sum()
    assert result.survivors == (1, 2, 3, 4)
    assert session.opened(result).tolist() == session.integer_sum(result.survivors).tolist()


@pytest.mark.parametrize("profile", Profile)
def test_in_whatever_order_members_are_numbered_and_answer(profile: Profile) -> None:
    """A set of Python's gives 64 and 128 before 1; every list of a session is in order."""
    here = world(129, replace(EVERY_PROFILE, corrupted=0.0, dropout=0.0))
    parameters = here.propose(
        rounds=2,
        profile=profile,
        near=graph.Neighbourhood(4, 3) if profile is Profile.SEMI_HONEST else None,
        cohort=(1, 2, 3, 4, 5, 64, 128),
    )
    session = here.session(parameters, Backwards("collecting", (1, 64))).set_up()
    result = session.sum()
    assert (result.survivors, result.dropouts) == ((2, 3, 4, 5, 128), (1, 64))
    assert session.opened(result).tolist() == session.integer_sum(result.survivors).tolist()
    assert not session.cohort.refusals
    assert list(session.server.open_round(1)) == [1, 2, 3, 4, 5, 64, 128]
    session.server.blame.update({64: "was late", 1: "was silent"})
    with pytest.raises(RoundAbortedError) as aborted:
        session.server.advance()
    assert list(aborted.value.blame) == ["site-1", "site-64"]


@pytest.mark.parametrize(
    ("phase", "did"),
    [
        ("advertising", "advertised keys"),
        ("sharing", "dealt shares"),
        ("confirming", "confirmed their shares and are not in a quarrel"),
        ("collecting", "uploaded"),
        ("consenting", "consented"),
        ("unmasking", "revealed good shares of site-0's self mask"),
    ],
)
def test_every_phase_needs_the_threshold_and_no_more(phase: str, did: str) -> None:
    for lost in ((3,), (2, 3)):
        network = FaultyNetwork([Fault("drop", phase, frozenset(lost))])
        session = FOUR.session(FOUR.propose(length=1), network)
        assert session.parameters.threshold == 3
        if len(lost) == 1:
            result = session.set_up().sum()
            assert session.opened(result).tolist() == session.integer_sum(result.survivors).tolist()
            continue
        with pytest.raises(RoundAbortedError) as aborted:
            session.set_up().sum()
        assert str(aborted.value) == f"nothing was released: expected at least 3 clients, 2 {did}"
        assert not aborted.value.blame


def test_in_a_sparse_graph_every_dropout_needs_neighbours_that_are_left() -> None:
    here = world(6, replace(EVERY_PROFILE, corrupted=0.0, dropout=0.0))
    parameters = here.propose(rounds=5, length=1, profile=Profile.SEMI_HONEST, near=graph.Neighbourhood(2, 2))
    silent: set[int] = set()

    class Silent(PerfectNetwork):
        def carry(self, packet: Packet) -> list[Packet]:
            return [] if packet.phase == "collecting" and packet.client in silent else [packet]

    session = here.session(parameters, Silent()).set_up()
    circle, at = [0], session.server._neighbours
    while len(circle) < 6:
        circle.append(min(at[circle[-1]] - set(circle)))
    for number, lost in enumerate(((0,), (0, 3), (0, 1), (0, 1, 2, 3), (0, 1, 2, 3, 4))):
        silent.clear()
        silent.update(circle[index] for index in lost)
        if lost in ((0,), (0, 3)):
            result = session.sum(number)
            assert session.opened(result).tolist() == session.integer_sum(result.survivors, number).tolist()
            continue
        with pytest.raises(RoundAbortedError) as aborted:
            session.sum(number)
        name, left = here.roster.name(min(silent)), len(at[min(silent)] - silent)
        did = f"{left} of {name}'s neighbours uploaded and it dropped out"
        did = "1 uploaded" if len(lost) == 5 else did
        assert str(aborted.value) == f"nothing was released: expected at least 2 clients, {did}"


class DealsNoSecret(MaskingClient):
    """Its shares, all as it committed to them, give a field element that is no secret of 32 bytes."""

    def _deal(self, advertised: dict[int, messages.Advertise]) -> messages.Shares:
        def shifted(secret: bytes, threshold: int, points: Iterable[int]) -> dict[int, bytes]:
            by = 2**256 - int.from_bytes(secret, "big")
            return {
                point: ((int.from_bytes(share, "big") + by) % shamir.PRIME).to_bytes(
                    shamir.SHARE_BYTES, "big"
                )
                for point, share in shamir.split(secret, threshold, points).items()
            }

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(masking_client, "split", shifted)
            return super()._deal(advertised)


@pytest.mark.parametrize("lost", [set(), {3}])  # one more answers than is needed, or none
def test_who_deals_shares_of_no_secret_is_blamed(lost: set[int]) -> None:
    network = FaultyNetwork([Fault("drop", "unmasking", frozenset(lost))])
    session = FOUR.session(FOUR.propose(length=1), network, kinds={2: DealsNoSecret}).set_up()
    with pytest.raises(RoundAbortedError, match="the masks of site-2 cannot be removed") as aborted:
        session.sum()
    fault = "dealt shares of its self mask that do not belong together"
    assert aborted.value.blame == {"site-2": fault}
