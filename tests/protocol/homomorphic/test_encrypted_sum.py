"""An opened sum is the contributors' integer sum, or within CKKS's bound of theirs, whatever happens on the way."""

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds.cohorts import BOUND, Backwards, link
from worlds.encrypted import EVERY_BACKEND, KeySession, KeyWorld

from secure_afl.protocol.homomorphic.states import ServerState
from secure_afl.protocol.masking.states import ServerState as MaskingState
from secure_afl.protocol.session.errors import LocalProtocolError, PolicyError, RoundAbortedError
from secure_afl.protocol.session.parameters import SumPlan
from secure_afl.protocol.transport import driver
from secure_afl.protocol.transport.driver import Packet, PerfectNetwork
from secure_afl.testing.faults import Fault, FaultyNetwork

WORLDS = {n: KeyWorld(n) for n in (3, 4, 5, 6)}
LAYERED = {n: KeyWorld(n, "bfv+mask") for n in (4, 5)}
CLIENT_PHASES = ("inviting", "encrypting", "checking")
HOLDER_PHASES = ("key commitments", "key shares", "key announcements", "challenging", "opening")
LOSSES = ("drop", "late", "flip", "cut", "lengthen")


class Switched(FaultyNetwork):
    """Faults until `over`."""

    over = False

    def carry(self, packet: Packet):  # type: ignore[no-untyped-def]
        return [packet] if self.over else super().carry(packet)


class Once(FaultyNetwork):
    """Each fault meets one message only."""

    def carry(self, packet: Packet):  # type: ignore[no-untyped-def]
        found = next((fault for fault in self._faults if fault.meets(packet)), None)
        carried = super().carry(packet)
        self._faults = [fault for fault in self._faults if fault is not found]
        return carried


def drop(phase: str, *parties: int) -> Fault:
    return Fault("drop", phase, frozenset(parties))


def survivors(session: KeySession, lost: dict[str, set[int]]) -> list[int] | None:
    """Whose sum must come when these clients' messages of these phases get lost in every attempt."""
    least = session.world.least
    if session.masks:
        least = max(least, session.masks.server.parameters.threshold)
    alive = set(session.agreement.cohort)
    for phase in (*CLIENT_PHASES, "collecting"):
        alive -= lost.get(phase, set())
    return sorted(alive) if len(alive) >= least else None


def check_all(session: KeySession, expected: list[int] | None) -> None:
    try:
        session.set_up()
    except RoundAbortedError:
        assert expected is None
        return
    for number in range(len(session.plan)):
        try:
            who, total = session.sum(number)
        except RoundAbortedError:
            assert expected is None
            continue
        assert list(who) == expected
        assert session.is_right(number, who, total)


plans = st.fixed_dictionaries(
    {"length": st.integers(1, 40), "rounds": st.integers(1, 2), "fraction_bits": st.integers(8, 49)}
)


@pytest.mark.slow
@settings(max_examples=100)
@given(st.sampled_from(sorted(WORLDS)), plans, st.data())
def test_sums_are_exact_or_not_released_whoever_is_lost_whenever(
    n: int, plan: dict[str, int], data: st.DataObject
) -> None:
    """Clients fall silent, are late, or have a message altered, in any phase; order is any order."""
    some = st.sets(st.integers(0, n - 1), max_size=n // 2)
    lost = {phase: data.draw(some, label=phase) for phase in CLIENT_PHASES}
    handling = data.draw(st.sampled_from(LOSSES), label="handling")
    order = data.draw(st.sampled_from(["shuffle", "repeat", None]), label="order")
    faults = [Fault(handling, phase, frozenset(who)) for phase, who in lost.items()]
    faults += [Fault(order)] if order else []
    session = WORLDS[n].session(FaultyNetwork(faults, seed=n), **plan)  # type: ignore[arg-type]
    check_all(session, survivors(session, lost))


@pytest.mark.slow
@settings(max_examples=30)
@given(st.sampled_from(sorted(LAYERED)), plans, st.data())
def test_layered_sums_are_exact_or_not_released(n: int, plan: dict[str, int], data: st.DataObject) -> None:
    some = st.sets(st.integers(0, n - 1), max_size=1)
    phases = (*CLIENT_PHASES, "collecting")
    lost = {phase: data.draw(some, label=phase) for phase in phases}
    handling = data.draw(st.sampled_from(LOSSES), label="handling")
    faults = [Fault(handling, phase, frozenset(who)) for phase, who in lost.items()]
    faults += [Fault("shuffle")] if data.draw(st.booleans()) else []
    session = LAYERED[n].session(FaultyNetwork(faults, seed=n), **plan)  # type: ignore[arg-type]
    check_all(session, survivors(session, lost))
    assert session.masks is not None
    assert session.masks.server.state in (MaskingState.READY, MaskingState.ABORTED)


@pytest.mark.slow
@settings(max_examples=40)
@given(st.sampled_from(["bfv", "bfv+mask", "ckks"]), st.data())
def test_whatever_happens_on_the_way_an_opened_sum_is_right(backend: str, data: st.DataObject) -> None:
    """In both directions, to clients and key holders alike."""
    faults = data.draw(
        st.lists(
            st.builds(
                Fault,
                st.sampled_from([*LOSSES, "repeat", "shuffle"]),
                st.sampled_from([*CLIENT_PHASES, *HOLDER_PHASES, "collecting", "consenting", "unmasking"]),
                st.none() | st.sets(st.integers(0, 5), min_size=1, max_size=2).map(frozenset),
                st.sampled_from([True, False, None]),
            ),
            max_size=3,
        )
    )
    network = data.draw(st.sampled_from([FaultyNetwork, Once]))(faults, seed=1)
    session = KeyWorld(5, backend).session(network, rounds=2)
    try:
        session.set_up()
    except RoundAbortedError:
        return
    for number in range(2):
        try:
            who, total = session.sum(number)
        except RoundAbortedError:
            continue
        assert session.is_right(number, who, total)


entries = st.sampled_from([BOUND, -BOUND, 0.0, 5e-324, -(2.0**-21), np.nextafter(BOUND, 0)]) | st.floats(
    -BOUND, BOUND
)


@pytest.mark.slow
@settings(max_examples=40)
@given(st.sampled_from(["bfv", "bfv+mask", "ckks"]), st.integers(3, 5), st.integers(8, 49), st.data())
def test_extreme_vectors_sum_up_right(backend: str, n: int, fraction_bits: int, data: st.DataObject) -> None:
    n = max(n, 4) if backend == "bfv+mask" else n
    length = data.draw(st.integers(1, 8))
    session = KeyWorld(n, backend).session(length=length, fraction_bits=fraction_bits).set_up()
    same = data.draw(st.booleans(), label="all at one bound")
    for index in range(n):
        drawn = (
            np.full(length, BOUND)
            if same
            else np.array(data.draw(st.lists(entries, min_size=length, max_size=length)))
        )
        session.vectors[index, 0] = drawn
    who, total = session.sum()
    assert who == tuple(range(n))
    assert session.is_right(0, who, total)


@pytest.mark.parametrize("backend", ["bfv", "bfv+mask", "ckks"])
@pytest.mark.parametrize("length", [4096, 4097])
def test_a_vector_may_fill_its_ciphertexts_to_the_last_slot(backend: str, length: int) -> None:
    session = KeyWorld(4, backend).session(length=length).set_up()
    assert session.lattice.count(length) * session.lattice.slots >= length
    assert session.is_right(0, *session.sum())


@pytest.mark.slow
@settings(max_examples=8)
@given(st.integers(3, 5), plans, st.data())
def test_a_committee_opens_the_same_sums(n: int, plan: dict[str, int], data: st.DataObject) -> None:
    lost = {phase: data.draw(st.sets(st.integers(0, n - 1), max_size=1)) for phase in CLIENT_PHASES}
    faults = [drop(phase, *who) for phase, who in lost.items()] + [Fault("shuffle")]
    session = KeyWorld(n, holders=3).session(FaultyNetwork(faults, seed=n), **plan)  # type: ignore[arg-type]
    session.vectors[0, 0][:] = BOUND
    check_all(session, survivors(session, lost))


def test_a_committee_holds_a_layered_sum_at_the_bound() -> None:
    session = KeyWorld(4, "bfv+mask", holders=3).session(length=3).set_up()
    for index in range(4):
        session.vectors[index, 0] = np.array([BOUND, -BOUND, 0.0])
    who, total = session.sum()
    assert session.is_right(0, who, total)


@pytest.mark.parametrize(("backend", "n"), [("bfv", 6), ("bfv+mask", 9)])  # 7 of 9 are enough to unmask
def test_a_round_begins_anew_without_who_uploads_and_gives_no_tags(backend: str, n: int) -> None:
    session = (
        KeyWorld(n, backend).session(FaultyNetwork([drop("encrypting", 4), drop("checking", 2)])).set_up()
    )
    requests: list[str] = []
    session.cohort._watch = requests.append
    who, total = session.sum()
    assert who == (0, 1, 3, *range(5, n))
    assert session.is_right(0, who, total)
    assert [phase for phase in requests if phase in ("encrypting", "checking")] == [
        "encrypting",
        "checking",
    ] * 2


def test_dropouts_are_who_was_asked_and_is_not_in_the_sum() -> None:
    session = WORLDS[6].session(
        FaultyNetwork([drop("inviting", 5), drop("encrypting", 4), drop("checking", 2)])
    )
    opened = session.set_up().cohort.sum(0, session.contribute)
    assert (opened.survivors, opened.dropouts) == ((0, 1, 3), (2, 4))


def test_a_client_that_misses_one_round_is_back_in_the_next() -> None:
    network = Switched([drop("encrypting", 1), drop("checking", 2)])
    session = WORLDS[5].session(network, rounds=3).set_up()
    for number, expected in enumerate([(0, 3, 4), (0, 1, 2, 3, 4), (0, 2, 3, 4)]):
        who, total = session.sum(number, among={0, 2, 3, 4} if number == 2 else None)
        assert who == expected
        assert session.is_right(number, who, total)
        network.over = True


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["bfv", "bfv+mask", "ckks"])
@pytest.mark.parametrize(
    ("faults", "what"),
    [
        ([drop("encrypting", 0, 1, 2)], "expected at least 3 clients, 2 uploaded"),
        ([drop("checking", 0, 1, 2)], "expected at least 3 clients, 2 are left for the sum"),
        (
            [drop("encrypting", 0), drop("checking", 1, 2)],
            "expected at least 3 clients, 2 are left for the sum",
        ),
        ([drop("challenging", 5)], "key holders are missing, and none can be replaced: holder-0"),
        ([drop("opening", 5)], "key holders are missing, and none can be replaced: holder-0"),
    ],
)
def test_an_aborted_round_releases_nothing_and_the_session_goes_on(
    backend: str, faults: list[Fault], what: str
) -> None:
    network = Switched([*faults, Fault("repeat")])
    session = KeyWorld(5, backend).session(network, rounds=2).set_up()
    with pytest.raises(RoundAbortedError, match=f"nothing was released: {what}"):
        session.sum(0)
    assert session.server.state is ServerState.READY
    assert not session.server.waiting_for
    if session.masks:
        assert session.masks.server.state is MaskingState.READY
        assert not session.masks.server.waiting_for
    for again in (0, -1, 2):
        with pytest.raises(LocalProtocolError, match=f"expected a round from 1 to 1, got {again}"):
            session.server.open_round(again)
    network.over = True
    who, total = session.sum(1)
    assert who == (0, 1, 2, 3, 4)
    assert session.is_right(1, who, total)


def test_what_is_late_for_a_key_holder_may_come_while_masks_are_removed() -> None:
    """One network carries both sessions, and clients alone take part in the other one."""
    late = Fault("late", "opening", frozenset({5}), upward=False)
    session = LAYERED[5].session(Switched([late]), rounds=2).set_up()
    with pytest.raises(RoundAbortedError, match="none can be replaced: holder-0"):
        session.sum(0)
    assert session.masks is not None
    link(session.masks)._network.over = True
    assert session.is_right(1, *session.sum(1))


def test_a_layered_round_is_given_up_if_too_few_masked_vectors_came() -> None:
    network = Switched([drop("collecting", 0, 1, 2)])
    session = LAYERED[5].session(network, rounds=2).set_up()
    with pytest.raises(RoundAbortedError, match="2 are left for the sum"):
        session.sum(0)
    network.over = True
    who, total = session.sum(1)
    assert len(who) == 5
    assert session.is_right(1, who, total)


def test_rounds_may_be_passed_over_but_never_come_back() -> None:
    session = WORLDS[4].session(rounds=3).set_up()
    assert session.is_right(1, *session.sum(1))
    with pytest.raises(LocalProtocolError, match="expected a round from 2 to 2, got 1"):
        session.sum(1)
    assert session.is_right(2, *session.sum(2))


@pytest.mark.parametrize("phase", HOLDER_PHASES)
def test_a_key_holder_that_is_missing_is_named(phase: str) -> None:
    session = KeyWorld(3, holders=2).session(FaultyNetwork([drop(phase, 4)]), length=1)
    with pytest.raises(RoundAbortedError, match=r"none can be replaced: holder-1$"):
        session.set_up().sum()
    early = phase.startswith("key")
    assert session.server.state is (ServerState.ABORTED if early else ServerState.READY)
    if early:
        with pytest.raises(LocalProtocolError, match="nothing to advance in state aborted"):
            session.server.advance()


def test_too_few_that_join_end_the_session() -> None:
    session = WORLDS[4].session(FaultyNetwork([drop("inviting", 0, 3)]))
    with pytest.raises(
        RoundAbortedError, match="nothing was released: expected at least 3 clients, 2 joined"
    ):
        session.set_up()
    assert session.server.state is ServerState.ABORTED


@pytest.mark.parametrize("holders", [1, 2])
def test_the_costs_of_key_holders_are_apart_from_those_of_clients(
    holders: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A system's clock of CPU time may stand still for longer than a signature takes.
    monkeypatch.setattr(driver, "cpu_seconds", map(float, count(1)).__next__)
    session = KeyWorld(4, holders=holders).session(length=100).set_up()
    session.sum()
    costs, lattice = session.cohort.costs, session.lattice
    assert set(costs) == {"start", *HOLDER_PHASES, *CLIENT_PHASES, "opened"}
    for phase, cost in costs.items():
        assert set(cost.up) | set(cost.down) | set(cost.client_seconds) <= set(range(4))
        assert bool(cost.holder_bytes) == (phase in HOLDER_PHASES)
        assert (cost.holder_seconds > 0) == (phase in HOLDER_PHASES)
        assert bool(cost.up) == (phase in CLIENT_PHASES)
    upload = lattice.ciphertext_bytes(100)
    assert all(upload < sent < upload + 200 for sent in costs["encrypting"].up.values())
    assert all(got > lattice.public_key_bytes for got in costs["inviting"].down.values())
    # Key holders get the sum's ciphertexts; what they give is the sum, or their part of it.
    assert costs["opening"].holder_bytes > holders * (upload + (800 if holders == 1 else upload // 2))


def test_a_vector_that_is_masked_and_not_yet_encrypted_has_not_left() -> None:
    """The ledger takes it for uploaded with the ciphertext, and before that leaves."""
    world = KeyWorld(4, "bfv+mask")
    uploaded: dict[str, set[bool]] = {}

    class Watches(PerfectNetwork):
        def carry(self, packet: Packet) -> list[Packet]:
            if packet.upward and packet.phase in ("collecting", "encrypting"):
                known = world.ledgers[packet.client].used(session.data_set)
                assert known
                uploaded.setdefault(packet.phase, set()).add(known[1])
            return [packet]

    session = world.session(Watches())
    session.set_up().sum()
    assert uploaded == {"collecting": {False}, "encrypting": {True}}


@pytest.mark.parametrize("backend", ["bfv", "bfv+mask", "ckks"])
def test_a_data_set_serves_one_session_unless_its_owner_renews_it(backend: str) -> None:
    world = KeyWorld(4, backend)
    first = world.session(rounds=2).set_up()
    for number in range(2):
        first.sum(number)
    second = world.session().set_up()
    second.data_set = first.data_set
    with pytest.raises(RoundAbortedError):
        second.sum()
    refused = (second.masks or second.cohort).refusals
    assert len(refused) == 4
    for one in refused:
        assert isinstance(one, PolicyError)
        assert f"the data set {first.data_set!r} was used in session" in str(one)
    for ledger in world.ledgers[:4]:
        ledger.renew(first.data_set, may_expose=True)
    third = world.session().set_up()
    third.data_set = first.data_set
    # The key holder remembers by itself: whoever sees sums of both sessions could subtract them.
    with pytest.raises(RoundAbortedError, match="key holders are missing"):
        third.sum()
    (refusal,) = third.cohort.refusals
    assert isinstance(refusal, PolicyError)
    assert "holder-0: the data set 'site-0: " in str(refusal)
    assert first.data_set not in str(refusal)
    known = world.ledgers[4]
    for ledger in world.ledgers[:4]:
        ledger.renew(first.data_set, may_expose=True)
    for name in list(known._used):
        known.renew(name, may_expose=True)
    fourth = world.session().set_up()
    fourth.data_set = first.data_set
    assert fourth.is_right(0, *fourth.sum())


def test_sums_that_tell_of_the_same_rows_have_the_same_contributors() -> None:
    world = KeyWorld(6)
    plan = [SumPlan(f"sum {r}", 3, BOUND, 20, same_survivors=r != 1) for r in range(3)]
    network = Switched([drop("encrypting", 4)])
    session = world.session(network, plan=plan).set_up()
    network.over = True
    session.sum(0)
    network.over = False
    assert session.sum(1)[0] == (0, 1, 2, 3, 5)
    with pytest.raises(RoundAbortedError):
        session.sum(2)
    assert {type(one) for one in session.cohort.refusals} == {PolicyError}
    assert "not the same: the difference of the sums could tell of one client" in str(
        session.cohort.refusals[0]
    )


@pytest.mark.parametrize("holders", [1, 2])
def test_in_whatever_order_members_are_numbered_and_answer(holders: int) -> None:
    """A set of Python's gives 64 and 128 before 1; every list of a session is in order."""
    here = KeyWorld(129, holders=holders, policy=replace(EVERY_BACKEND, corrupted=0.0))
    network = Backwards("encrypting", (1, 64))
    session = here.session(network, cohort=(1, 2, 3, 64, 128), rounds=2).set_up()
    opened = session.cohort.sum(0, session.contribute)
    assert (opened.survivors, opened.dropouts) == ((2, 3, 128), (1, 64))
    assert not session.cohort.refusals
    assert list(session.server.open_round(1)) == [1, 2, 3, 64, 128]
    session.server.blame.update({64: "was late", 1: "was silent"})
    with pytest.raises(RoundAbortedError) as aborted:
        session.server.advance()
    assert list(aborted.value.blame) == ["site-1", "site-64"]
