"""The state machine holds for our clients and servers, and finds what is wrong with weaker ones."""

from collections import Counter
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from secure_afl.crypto.hpke import Suite
from secure_afl.crypto.identity import Identity
from secure_afl.protocol.masking import client as client_module
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.masking.messages import (
    Consents,
    FromClient,
    Reveal,
    SurvivorRoots,
    Survivors,
    Upload,
)
from secure_afl.protocol.masking.server import MaskingServer
from secure_afl.protocol.masking.states import ClientState
from secure_afl.protocol.session.errors import ProtocolError
from secure_afl.protocol.session.ledger import Ledger
from secure_afl.protocol.session.parameters import Parameters, Profile, SumPlan, SumWanted
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.roster import Roster
from secure_afl.protocol.session.server import OpenedSum
from secure_afl.protocol.session.wire import WireError
from secure_afl.protocol.transport.driver import Packet
from secure_afl.sums.aggregation import MaskedAggregator
from secure_afl.testing import PropertyFailed, check_aggregator, neutral
from secure_afl.testing.machine import NeutralSumMachine, PropertyViolatedError, SecureSumMachine, Session
from secure_afl.testing.schedules import Schedule
from verification import flawed
from verification.sound import Sound

FAST = settings(
    max_examples=30,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

TestSums = pytest.mark.slow(SecureSumMachine.TestCase)
TestSums.settings = FAST


class BothSuites(SecureSumMachine):
    suites = tuple(Suite)
    members = (3, 6)
    max_length = 40


@pytest.mark.long
def test_many_longer_runs() -> None:
    run_state_machine_as_test(BothSuites, settings=settings(FAST, max_examples=25, stateful_step_count=40))


@pytest.mark.long
def test_runs_reach_what_they_are_about() -> None:
    """Of 100 examples, at least so many have a sum of this kind, or such an event: far fewer than most times, as secrets
    are fresh in every run and what happens depends on them."""
    seen: Counter[str] = Counter()

    class Counted(SecureSumMachine):
        def __init__(self) -> None:
            super().__init__()
            self.events: set[str] = set()

        def _deliver(self, packet: Packet) -> None:
            said, waiting = len(self.session.said), self.session.server.waiting_for
            super()._deliver(packet)
            if (said, waiting) == (len(self.session.said), self.session.server.waiting_for):
                self.events.add("refused")

        def _client(self, session: Session, index: int) -> MaskingClient:
            if index in session.clients:
                self.events.add("restarted")
            return super()._client(session, index)

        def teardown(self) -> None:
            released = [session for session in self.sessions if session.released]
            for session in released:
                self.events.add(session.parameters.profile.value)
                self.events.add("after a lie" if session.deceived else "without a lie")
                if len(session.released) > 1:
                    self.events.add("several rounds")
                if any(one.dropouts for one, _ in session.released):
                    self.events.add("dropouts")
            if len(released) > 1:
                self.events.add("several sessions")
            seen.update(self.events)

    run(Counted, 100)
    asked = {
        "active": 2,
        "semi-honest": 2,
        "without a lie": 5,
        "after a lie": 2,
        "dropouts": 1,
        "several rounds": 4,
        "several sessions": 4,
        "restarted": 1,
        "refused": 4,
    }
    assert {what: seen[what] for what in asked if seen[what] < asked[what]} == {}


# ---- seeded bugs ---------------------------------------------------------------------------------


def run(machine: type[SecureSumMachine], examples: int) -> None:
    """The same examples in every run, without looking for the smallest."""
    few = settings(
        FAST,
        max_examples=examples,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        verbosity=Verbosity.quiet,
    )
    run_state_machine_as_test(machine, settings=few)


class RevealsAgain(MaskingClient):
    """Answers every list of survivors that it is shown."""

    def _reveal(self) -> bytes:
        keys = self._memory.current
        frame = super()._reveal()
        self._memory.current = keys
        return frame

    def receive(self, data: bytes) -> bytes | SumWanted:
        answer = super().receive(data)
        if self.state is ClientState.READY and self._memory.current is not None:
            self.state = ClientState.UPLOADED
        return answer


class RevealsUnasked(MaskingClient):
    """Takes any consents for enough."""

    def _reveal_with_consents(self, consents: Consents) -> bytes:
        self._check_round(consents.round)
        return self._reveal()


class RevealsForAnyGroup(MaskingClient):
    """Does not ask how many survivors hide it."""

    def _check_group(self, what: str, group: frozenset[int], number: int) -> None:
        pass


class KeepsItsKeys(MaskingClient):
    """Keeps the keys of a round for the next try."""

    def contribute(self, wanted: SumWanted, values: npt.NDArray[np.float64], data_set: str) -> bytes:
        keys = self._memory.rounds[wanted.round]
        frame = super().contribute(wanted, values, data_set)
        self._memory.rounds[wanted.round] = keys
        return frame


class SendsItsVector(MaskingClient):
    """Masks nothing."""

    def contribute(self, wanted: SumWanted, values: npt.NDArray[np.float64], data_set: str) -> bytes:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(client_module, "add_keystreams", lambda *arguments, **named: None)
            return super().contribute(wanted, values, data_set)


class ForgetsTheSumsBefore(MaskingClient):
    """Consents to other survivors than those of the related sums before."""

    def _consent(self, message: Survivors | SurvivorRoots) -> bytes:
        self._memory.related = None
        return super()._consent(message)


class MovesOnARefusal(MaskingClient):
    """Is somewhere else after a message that it refused."""

    def receive(self, data: bytes) -> bytes | SumWanted:
        try:
            return super().receive(data)
        except ProtocolError:
            self.state = ClientState.READY
            raise


class Crashes(MaskingClient):
    """Lets a broken message raise what it will."""

    def receive(self, data: bytes) -> bytes | SumWanted:
        if data:
            data[-1:].decode("ascii")
        return super().receive(data)


class CountsTwice(MaskingServer):
    """Adds an upload again when the network repeats it."""

    def _check_index(self, sender: int, message: FromClient) -> None:
        waiting = self.waiting_for
        self.waiting_for |= {sender} if isinstance(message, Upload) else set()
        super()._check_index(sender, message)
        self.waiting_for = waiting


class LeavesMasksOfDropouts(MaskingServer):
    """Does not take out the pairwise masks of those that dropped out."""

    def _pair_secrets(self, client: int) -> dict[int, bytes]:
        return {}


class NamesEverybody(MaskingServer):
    """Says that a sum is over all that took part."""

    def result(self) -> OpenedSum:
        one = super().result()
        return OpenedSum(one.round, one.values, tuple(sorted(one.survivors + one.dropouts)), ())


class RefusesTheFirst(MaskingServer):
    """Takes no shares from its first member: too strict to be of use."""

    def _check_index(self, sender: int, message: FromClient) -> None:
        super()._check_index(sender, message)
        if isinstance(message, Reveal) and sender == 0:
            raise WireError("expected shares from others")


class Forgets(Ledger):
    """Remembers no data set."""

    def use(self, data_set: str, session: bytes, **how: Any) -> None:
        pass


def weak(bug: "Bug", allowed: Sequence[Profile]) -> type[SecureSumMachine]:
    """Cohorts with that client, server or ledger."""

    class Weak(SecureSumMachine):
        profiles = allowed
        members = (4, 4)
        max_rounds = 2
        max_length = 2

        def make_policy(self, data: st.DataObject, members: int) -> Policy:
            return Policy(corrupted=0.0, profiles=frozenset(self.profiles), suites=frozenset(self.suites))

        def make_client(
            self, identity: Identity, roster: Roster, plan: Sequence[SumPlan], policy: Policy, ledger: Ledger
        ) -> MaskingClient:
            kind = bug if issubclass(bug, MaskingClient) else MaskingClient
            return kind(identity, roster, plan, policy, ledger)

        def make_server(self, parameters: Parameters, roster: Roster) -> MaskingServer:
            return (bug if issubclass(bug, MaskingServer) else MaskingServer)(parameters, roster)

        def make_ledger(self) -> Ledger:
            return bug() if issubclass(bug, Ledger) else Ledger()

    return Weak


ACTIVE, SEMI_HONEST = Profile.ACTIVE, Profile.SEMI_HONEST
EITHER = (ACTIVE, SEMI_HONEST)
Bug = type[MaskingClient] | type[MaskingServer] | type[Ledger]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bug", "profiles", "found"),
    [
        pytest.param(RevealsAgain, (SEMI_HONEST,), "revealed both kinds of share", marks=pytest.mark.long),
        pytest.param(RevealsAgain, (ACTIVE,), "revealed both kinds of share", marks=pytest.mark.long),
        pytest.param(RevealsUnasked, (ACTIVE,), "under the active profile", marks=pytest.mark.long),
        (RevealsForAnyGroup, EITHER, "at least [345] are asked for"),
        (KeepsItsKeys, EITHER, "uploaded 2 times"),
        (SendsItsVector, EITHER, "without a mask|a released sum is"),
        pytest.param(ForgetsTheSumsBefore, EITHER, "over different survivors", marks=pytest.mark.long),
        (MovesOnARefusal, EITHER, "on a refusal"),
        pytest.param(CountsTwice, EITHER, "a released sum is", marks=pytest.mark.long),
        (LeavesMasksOfDropouts, EITHER, "a released sum is"),
        (NamesEverybody, EITHER, "names the survivors"),
        (RefusesTheFirst, EITHER, "no answer that it takes from site-0"),
        (Forgets, EITHER, "in 2 sessions and did not renew it"),
    ],
)
def test_seeded_bugs_are_found(bug: Bug, profiles: tuple[Profile, ...], found: str) -> None:
    """With many more examples than it takes: the first that fails is the last."""
    with pytest.raises(PropertyViolatedError, match=found):
        run(weak(bug, profiles), 1000)


@pytest.mark.slow
def test_other_errors_than_ours_are_found() -> None:
    with pytest.raises(UnicodeDecodeError):
        run(weak(Crashes, EITHER), 200)


# ---- through the neutral adapter -------------------------------------------------------------------


class ForgetsRelatedSurvivors(MaskingClient):
    """Forgets each round who was in the related sums before."""

    def _consent(self, message: Survivors | SurvivorRoots) -> bytes:
        self._memory.related = None
        return super()._consent(message)


X25519 = Policy(suites=frozenset({Suite.X25519}))


class Forgetful(MaskedAggregator):
    def open(self, clients: Sequence[str], plan: Sequence[SumPlan]) -> None:
        with patch("secure_afl.sums.aggregation.MaskingClient", ForgetsRelatedSurvivors):
            super().open(clients, plan)


def neutral_machine(made: Any) -> type[NeutralSumMachine]:
    class Machine(NeutralSumMachine):
        system = made

    return Machine


def found(made: Any, name: str, *phases: Phase) -> str:
    """Drives until it fails; returns the steps of the failure."""
    with pytest.raises(PropertyFailed) as failure:
        run_state_machine_as_test(
            neutral_machine(made),
            settings=settings(FAST, max_examples=200, derandomize=True, database=None, phases=phases),
        )
    assert failure.value.property == name
    return "\n".join(failure.value.__notes__)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [flawed.SumsTwice, flawed.NoLedger], ids=lambda kind: kind.__name__)
def test_the_neutral_machine_finds_flaws_of_anybodys_system(kind: type[flawed.Flawed]) -> None:
    assert found(kind, kind.found_by, Phase.generate)


@pytest.mark.slow
def test_the_neutral_machine_finds_nothing_in_a_sound_system() -> None:
    run_state_machine_as_test(
        neutral_machine(Sound), settings=settings(FAST, max_examples=15, derandomize=True, database=None)
    )


@pytest.mark.long
def test_the_neutral_machine_finds_forgotten_survivors_and_shrinks_them() -> None:
    """13 s of CPU, to two sums. Hypothesis stops after five minutes, so on a busy machine more sums may be left."""
    ours = neutral(lambda network: Forgetful(X25519, suite=Suite.X25519, network=network), largest=100)
    steps = found(ours, "related_sums_keep_their_survivors", Phase.generate, Phase.shrink)
    assert 2 <= steps.count("state.sum(") <= NeutralSumMachine.most_sums


@pytest.mark.long
def test_related_survivors_that_are_forgotten_are_found_and_shrunk() -> None:
    name = "related_sums_keep_their_survivors"
    report = check_aggregator(
        neutral(lambda network: Forgetful(X25519, suite=Suite.X25519, network=network), largest=100),
        only=[name],
        on_fail="collect",
        seconds=600,
    )
    assert report.failed == (name,), str(report)
    (smallest,) = Schedule.of(report[name].schedule).sessions
    assert (len(smallest.sums), sum(len(one.lost) for one in smallest.sums)) == (2, 1)
