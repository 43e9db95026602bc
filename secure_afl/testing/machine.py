"""A whole cohort against a model that knows the truth: sessions, rounds, bad networks, lying servers, restarts.

`SecureSumMachine` is a Hypothesis state machine. Its rules carry single messages of our masked protocol in any order,
lose, repeat and alter them, let the server lie, clients restart and owners renew data sets; what every client says is
decoded and written down. After every rule it checks what must hold whatever happened. In a test module:

    from secure_afl.testing.machine import SecureSumMachine

    TestSums = SecureSumMachine.TestCase
    TestSums.settings = settings(max_examples=200, stateful_step_count=50)

To put clients, servers or ledgers of your own to the test, override `make_client`, `make_server` or `make_ledger`:

    class Mine(SecureSumMachine):
        def make_client(self, identity, roster, plan, policy, ledger):
            return MyClient(identity, roster, plan, policy, ledger)

    TestMine = Mine.TestCase

They must speak the protocol of docs/protocol.md and have the methods of `MaskingClient`, `MaskingServer` and
`Ledger` that are called here. What is found to be wrong raises `PropertyViolatedError`.

Schedules, identities and vectors are drawn, so failures shrink and repeat. The clients' own keys stay random: no
decision of the machine hangs on them.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from msgspec import structs

try:
    from hypothesis import strategies as st
    from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
except ImportError as error:
    raise ImportError(
        "secure_afl.testing.machine needs Hypothesis, which the extra secure-afl[testing] installs"
    ) from error

from secure_afl.crypto import ring
from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.hpke import Suite
from secure_afl.crypto.identity import SIGNATURE_BYTES, Identity
from secure_afl.protocol.driver import Envelope, Outbox
from secure_afl.protocol.errors import PolicyError, ProtocolError, RoundAbortedError
from secure_afl.protocol.ledger import Ledger
from secure_afl.protocol.masking import messages
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.masking.messages import (
    SEED_SHARE,
    SELF_SHARE,
    Consent,
    Consents,
    Delivery,
    Directory,
    FromClient,
    Reveal,
    Shares,
    SumRequest,
    Survivors,
    Upload,
)
from secure_afl.protocol.masking.server import MaskedSum, MaskingServer
from secure_afl.protocol.masking.states import ServerState
from secure_afl.protocol.parameters import PARAMETERS, Parameters, Profile, SumPlan, SumWanted
from secure_afl.protocol.policy import Policy
from secure_afl.protocol.roster import Roster
from secure_afl.protocol.wire import Message, WireError, decode, encode
from secure_afl.testing import strategies
from secure_afl.testing.faults import CHANGES

T = TypeVar("T")
Vector = npt.NDArray[np.float64]
Share = tuple[int, int, int]
"""A round, who holds the share, and whose secret it is a share of."""
Use = tuple[int, str, int]
"""A client, a data set, and how often that was renewed before."""

_SETTING_UP = (ServerState.ADVERTISING, ServerState.SHARING, ServerState.CONFIRMING)
_SUMMING = (ServerState.COLLECTING, ServerState.CONSENTING, ServerState.UNMASKING)
_SESSIONS = 4  # that are kept; what an earlier one released was checked
_MISCHIEF = 2  # rules of that kind between two that go on, or examples would consist of little else

picks = st.integers(0, 63)
"""Which one of several, counted round and round; 0 is the first."""
some_clients = st.frozensets(st.integers(0, 4), max_size=2)


class PropertyViolatedError(AssertionError):
    """Something happened that must not; the text says what, and who did it."""


def hold(holds: bool, text: str) -> None:
    """Raises `PropertyViolatedError` unless it holds; unlike `assert`, also under python -O."""
    if not holds:
        raise PropertyViolatedError(text)


@dataclass(frozen=True)
class Released:
    """A sum that a server gave out, and whose uploads it had taken for it by then."""

    result: MaskedSum
    counted: frozenset[int]


@dataclass(eq=False)
class Session:
    """One session: its server and clients, messages on their way, and the model's records.

    in_flight: sent and not delivered; late: held back until a deadline passes; told, said: all that the server and
    the clients sent, or that the server could send. vectors: the truth, by round and client.
    """

    parameters: Parameters
    plan: tuple[SumPlan, ...]
    server: MaskingServer
    clients: dict[int, MaskingClient]
    vectors: dict[tuple[int, int], Vector]
    in_flight: list[Envelope] = field(default_factory=list)
    late: list[Envelope] = field(default_factory=list)
    told: list[Envelope] = field(default_factory=list)
    said: list[Envelope] = field(default_factory=list)
    disturbed: bool = False
    restarted: set[int] = field(default_factory=set)
    round: int = -1
    counted: frozenset[int] = frozenset()
    released: list[Released] = field(default_factory=list)
    used: dict[tuple[int, int], Use] = field(default_factory=dict)
    uploads: dict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))
    consents: dict[int, dict[int, bytes]] = field(default_factory=lambda: defaultdict(dict))
    commitments: dict[Share, list[tuple[bytes, ...]]] = field(default_factory=lambda: defaultdict(list))
    revealed: dict[Share, set[int]] = field(default_factory=lambda: defaultdict(set))
    reveals: list[tuple[int, int, tuple[int, ...]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.transcript = self.parameters.transcript()
        self.profile = self.parameters.profile

    @property
    def state(self) -> ServerState:
        return self.server.state

    def name(self, place: int) -> str:
        return self.server.roster.name(place)

    def units(self, number: int, place: int) -> npt.NDArray[np.int64]:
        """The fixed-point integers of one client's vector."""
        code = self.parameters.rounds[number].code(len(self.parameters.cohort))
        return code.encode(self.vectors[number, place]).view(np.int64)


class SecureSumMachine(RuleBasedStateMachine):
    """Drives sessions of the masked protocol and checks them against the truth. See the module for how to use it.

    members: the smallest and the largest roster, of at least 3 and at most 6. profiles, suites: drawn from these; a
    policy allows some of them. max_rounds, max_length: of a session and its sums. started, opened: sessions begun and
    sums released in this example, for statistics.

    What must hold is `everything_holds`: `sums_are_exact`, `sums_hide_each_client`, `one_kind_of_share`, `one_vector_under_one_key`,
    `data_sets_serve_one_session`, `related_sums_have_the_same_survivors`. Besides, anything but our own errors
    fails the example; a refused message must leave a client's state as it was; what a server takes, a client
    must have said; and a session that nothing disturbs must release its sums.
    """

    members: tuple[int, int] = (3, 5)
    profiles: Sequence[Profile] = tuple(Profile)
    suites: Sequence[Suite] = (Suite.X25519,)
    max_rounds = 3
    max_length = 4

    # ---- to override -----------------------------------------------------------------------------

    def make_client(
        self, identity: Identity, roster: Roster, plan: Sequence[SumPlan], policy: Policy, ledger: Ledger
    ) -> MaskingClient:
        """A client for one session; called again when it restarts."""
        return MaskingClient(identity, roster, plan, policy, ledger)

    def make_server(self, parameters: Parameters, roster: Roster) -> MaskingServer:
        """The server of one session."""
        return MaskingServer(parameters, roster)

    def make_ledger(self) -> Ledger:
        """The memory of one client, which outlives its sessions and restarts."""
        return Ledger()

    def make_policy(self, data: st.DataObject, members: int) -> Policy:
        """What all clients insist on."""
        return data.draw(strategies.policies(members, profiles=self.profiles, suites=self.suites))

    # ---- sessions and rounds ---------------------------------------------------------------------

    def __init__(self) -> None:
        super().__init__()
        self.sessions: list[Session] = []
        self.started = 0  # sessions so far
        self.opened = 0  # sums so far
        self.at = 0  # which session the rules are about
        self.absent: set[int] = set()
        self.mischief = 0  # done since something went on
        self.data_sets: dict[int, str] = {}
        self.renewed: dict[tuple[int, str], int] = defaultdict(int)  # how often, by client and data set
        self.uses: dict[Use, set[bytes]] = defaultdict(set)  # the sessions that uploads went to
        self.spent: dict[tuple[Use, str], int] = defaultdict(int)  # the opened sums of a statistic

    @initialize(data=st.data(), at_once=st.sampled_from([True, True, False]))
    def meet(self, data: st.DataObject, at_once: bool) -> None:
        """A roster, its policy and its ledgers, which stay for the whole example, and the first session: its
        invitation is on its way, or all keys are exchanged.
        """
        self.roster, self.identities = data.draw(strategies.rosters(*self.members))
        self.policy = self.make_policy(data, len(self.identities))
        self.ledgers = [self.make_ledger() for _ in self.identities]
        self.data_sets = dict.fromkeys(range(len(self.identities)), "rows 0")
        self._start(data, at_once)

    @property
    def session(self) -> Session:
        """The session that the rules are about."""
        return self.sessions[self.at]

    def _in(self, *states: ServerState) -> bool:
        return bool(self.sessions) and self.session.state in states

    def _may_stir(self) -> bool:
        return bool(self.sessions) and self.mischief < _MISCHIEF

    def _rounds_left(self) -> bool:
        return self._in(ServerState.READY) and self.session.round + 1 < len(self.session.plan)

    def _may_start(self) -> bool:
        return self._in(ServerState.READY, ServerState.ABORTED)

    def _may_go_on(self) -> bool:
        return self._in(*_SETTING_UP, *_SUMMING) or self._rounds_left() or self._may_start()

    @precondition(_may_start)
    @rule(
        data=st.data(),
        at_once=st.sampled_from([True, True, False]),
        new_data=st.sampled_from([True, True, False]),
    )
    def start_session(self, data: st.DataObject, at_once: bool, new_data: bool) -> None:
        """A new plan, proposal and vectors, of other data sets or of the same; the one before stays open."""
        if new_data:
            self.data_sets = dict.fromkeys(self.data_sets, f"rows {self.started}")
        self._start(data, at_once)

    def _start(self, data: st.DataObject, at_once: bool) -> None:
        n = len(self.identities)
        plan = data.draw(strategies.plans(n, max_rounds=self.max_rounds, max_length=self.max_length))
        drawn = data.draw(strategies.parameters(self.roster, plan, self.policy))
        # No two sessions of an example may have one number: it is drawn, and shrinks.
        parameters = structs.replace(drawn, session=self.started.to_bytes(2) + drawn.session[2:])
        vectors = {
            (number, place): vector
            for number, one in enumerate(plan)
            for place, vector in enumerate(data.draw(strategies.cohorts(n, one.length, one.bound)))
        }
        session = Session(parameters, plan, self.make_server(parameters, self.roster), {}, vectors)
        session.clients = {place: self._client(session, place) for place in parameters.cohort}
        self.sessions = [*self.sessions, session][-_SESSIONS:]
        self.started += 1
        self.at, self.mischief = len(self.sessions) - 1, 0
        self._step(session.server.start)
        while at_once and self._in(*_SETTING_UP):
            self._deliver_all()
            self._deadline()

    def _client(self, session: Session, place: int) -> MaskingClient:
        return self.make_client(
            self.identities[place], self.roster, session.plan, self.policy, self.ledgers[place]
        )

    @precondition(_may_stir)
    @precondition(lambda self: len(self.sessions) > 1)
    @rule(which=picks)
    def return_to_session(self, which: int) -> None:
        """Go on with an earlier session; sessions of the same clients may run side by side."""
        self.mischief += 1
        self.at = which % len(self.sessions)

    @precondition(_may_go_on)
    @rule(data=st.data())
    def finish_phase(self, data: st.DataObject) -> None:
        """What is on its way is delivered in order, with all answers; then comes the deadline. Between rounds the next
        one begins, and after the last one a session with new data.
        """
        if self._in(*_SETTING_UP, *_SUMMING):
            self._deliver_all()
            self._deadline()
        else:
            self._begin(data)

    @precondition(_may_go_on)
    @rule(data=st.data())
    def finish_round(self, data: st.DataObject) -> None:
        """All phases of the next round, or those that are left of this one or of the set-up."""
        if not self._in(*_SETTING_UP, *_SUMMING):
            self._begin(data)
        while self._in(*_SETTING_UP, *_SUMMING):
            self._deliver_all()
            self._deadline()

    @precondition(_may_stir)
    @precondition(lambda self: self._in(*_SETTING_UP, *_SUMMING) and self._nearly_done())
    @rule()
    def deadline(self) -> None:
        """The server ends the phase with those that answered, nearly enough; what is late arrives next."""
        mischief = self.mischief + 1
        self._deadline()
        self.mischief = mischief

    def _nearly_done(self) -> bool:
        return len(self.session.server.waiting_for) <= max(0, self._spare()) + 1

    def _begin(self, data: st.DataObject) -> None:
        if self._rounds_left():
            self._open(self.session.round + 1)
        else:
            self.data_sets = dict.fromkeys(self.data_sets, f"rows {self.started}")
            self._start(data, at_once=True)

    @precondition(lambda self: self._rounds_left())
    @rule(skip=st.booleans(), without=st.one_of(st.just(frozenset()), some_clients))
    def open_round(self, skip: bool, without: frozenset[int]) -> None:
        """The server asks for the vectors of the next round, or of the one after it, of all or of some."""
        self._open(min(self.session.round + 1 + skip, len(self.session.plan) - 1), without)

    def _open(self, number: int, without: frozenset[int] = frozenset()) -> None:
        session, self.mischief = self.session, 0
        among = frozenset(session.parameters.cohort) - without if without else None
        session.disturbed |= bool(without)
        if self._step(lambda: session.server.open_round(number, among)):
            session.round, session.counted = number, frozenset()

    @precondition(_may_stir)
    @precondition(lambda self: self._in(ServerState.COLLECTING))
    @rule()
    def give_up_round(self) -> None:
        """The server leaves a round."""
        self.mischief += 1
        self.session.server.give_up_round()

    # ---- the network -----------------------------------------------------------------------------

    def _moving(self) -> bool:
        return bool(self.sessions) and bool(self.session.in_flight)

    @precondition(_may_go_on)
    @rule(data=st.data())
    def deliver_all(self, data: st.DataObject) -> None:
        """Everything on its way arrives, and the answers are on theirs; if nothing is, it goes on as in `finish_phase`."""
        if not self.session.in_flight:
            self.finish_phase(data)
        arriving, self.session.in_flight, self.mischief = self.session.in_flight, [], 0
        for envelope in arriving:
            self._deliver(envelope)

    @precondition(_moving)
    @rule(which=picks)
    def deliver(self, which: int) -> None:
        """One message, out of order if it is not the first; its answer goes on its way."""
        self._deliver(self.session.in_flight.pop(which % len(self.session.in_flight)))

    @precondition(_may_stir)
    @precondition(_moving)
    @rule(
        how=st.sampled_from(("delay", "duplicate", "drop", *sorted(CHANGES))),
        which=picks,
        seed=st.integers(0, 2**16),
    )
    def disturb(self, how: str, which: int, seed: int) -> None:
        """One message comes after the deadline, or twice, or never, or altered; a drawn seed decides where."""
        self.mischief += 1
        in_flight = self.session.in_flight
        at = which % len(in_flight)
        envelope = in_flight[at]
        if how == "duplicate":
            in_flight.append(envelope)
        elif how in CHANGES:
            self.session.disturbed = True
            if envelope.data:  # it may have been cut to nothing before
                in_flight[at] = replace(envelope, data=CHANGES[how](envelope.data, Random(seed)))
        else:
            del in_flight[at]
            if how == "delay":
                self.session.late.append(envelope)
            self.session.disturbed |= how == "drop"

    @precondition(_may_stir)
    @precondition(lambda self: bool(self.sessions) and len(self.session.in_flight) > 1)
    @rule(seed=st.integers(0, 255))
    def reorder(self, seed: int) -> None:
        """Everything on its way is shuffled; a drawn seed decides how."""
        self.mischief += 1
        Random(seed).shuffle(self.session.in_flight)

    @precondition(_may_stir)
    @precondition(lambda self: bool(self.sessions))
    @rule(which=picks, of=picks, to=picks, other=st.booleans())
    def replay(self, which: int, of: int, to: int, other: bool) -> None:
        """A message of this or another session, from any time, comes again: to whom it was sent, or to another."""
        self.mischief += 1
        source = self.sessions[of % len(self.sessions)]
        history = [*source.said, *source.told]
        if history:
            old = history[which % len(history)]
            self.session.disturbed |= not old.upward
            client = self._place(to) if other else old.client
            self._deliver(replace(old, phase=self.session.state.value, client=client))

    # ---- clients ---------------------------------------------------------------------------------

    def _spare(self) -> int:
        """How many more clients can be lost and the session go on."""
        lost = self.absent | self.session.restarted
        return len(self.identities) - self.session.parameters.threshold - len(lost)

    def _place(self, which: int) -> int:
        return which % len(self.identities)

    @precondition(_may_stir)
    @precondition(lambda self: self._spare() > 0)
    @rule(which=picks)
    def go_away(self, which: int) -> None:
        """A client hears nothing until it comes back."""
        self.mischief += 1
        self.absent.add(self._place(which))

    @precondition(_may_stir)
    @precondition(lambda self: bool(self.absent))
    @rule()
    def come_back(self) -> None:
        """All clients are there again."""
        self.mischief += 1
        self.absent.clear()

    @precondition(_may_stir)
    @precondition(lambda self: self._spare() > 0)
    @rule(which=picks)
    def restart(self, which: int) -> None:
        """A client loses its state; a new one begins with the same identity and ledger."""
        self.mischief += 1
        place = self._place(which)
        self.session.clients[place] = self._client(self.session, place)
        self.session.restarted.add(place)
        self.session.disturbed = True

    @precondition(_may_stir)
    @rule(which=picks, everybody=st.booleans())
    def renew(self, which: int, everybody: bool) -> None:
        """An owner, or all of them, lets its data set serve another session."""
        self.mischief += 1
        for place in range(len(self.identities)) if everybody else [self._place(which)]:
            self.ledgers[place].renew(self.data_sets[place])
            self.renewed[place, self.data_sets[place]] += 1

    # ---- a server that lies ----------------------------------------------------------------------

    def _to(self, to: int, everybody: bool) -> list[int]:
        return list(self.session.parameters.cohort) if everybody else [self._place(to)]

    def _tell(self, clients: Iterable[int], message: Message) -> None:
        """The server says something of its own to some clients, who hear it at once."""
        self.session.disturbed = True
        for client in clients:
            envelope = Envelope(self.session.state.value, client, upward=False, data=encode(message))
            self.session.told.append(envelope)
            self._deliver(envelope)

    def _round_meant(self, other: int) -> int:
        """The open round, or another one, also one that is not planned."""
        session = self.session
        return (max(session.round, 0) + other) % (len(session.plan) + 1)

    @precondition(_may_stir)
    @precondition(lambda self: self._in(ServerState.READY, *_SUMMING))
    @rule(to=picks, everybody=st.booleans(), without=some_clients, other=st.integers(0, 3))
    def ask_for_a_round(self, to: int, everybody: bool, without: frozenset[int], other: int) -> None:
        """A request that the server's own state machine would not send: again, of another round, to others."""
        self.mischief += 1
        participants = tuple(sorted(frozenset(self.session.parameters.cohort) - without))
        request = SumRequest(self.session.transcript, self._round_meant(other), participants)
        self._tell(self._to(to, everybody), request)

    def _uploaded(self) -> bool:
        return bool(self.sessions) and any(number == self.session.round for number, _ in self.session.uploads)

    @precondition(_may_stir)
    @precondition(_uploaded)
    @rule(
        to=picks,
        everybody=st.booleans(),
        without=some_clients,
        other=st.sampled_from([0, 0, 0, 0, 1]),
        consents=st.sampled_from([True, True, False]),
    )
    def ask_to_unmask(
        self, to: int, everybody: bool, without: frozenset[int], other: int, consents: bool
    ) -> None:
        """A survivor list of the server's choice, to one client or to all, also after the sum was opened: clients
        that uploaded left out, clients that dropped out put in. With it may come all consents that the server has
        seen in that round, to whatever they were given.
        """
        self.mischief += 1
        session, number, clients = self.session, self._round_meant(other), self._to(to, everybody)
        survivors = tuple(sorted(frozenset(session.parameters.cohort) - without))
        self._tell(clients, Survivors(session.transcript, number, survivors))
        if consents:
            shown = tuple(sorted(session.consents[number].items()))
            shown = tuple((sender, signature) for sender, signature in shown if sender in survivors)
            self._tell(clients, Consents(session.transcript, number, shown))

    @precondition(_may_stir)
    @precondition(lambda self: bool(self.sessions) and any(not one.upward for one in self.session.in_flight))
    @rule(which=picks, how=picks, everybody=st.booleans())
    def lie(self, which: int, how: int, everybody: bool) -> None:
        """What the server sends is replaced on its way, to one client or to all: altered parameters, keys and shares
        left out or exchanged, other rounds, fewer participants, survivors or consents.
        """
        self.mischief += 1
        session = self.session
        down = [at for at, one in enumerate(session.in_flight) if not one.upward]
        chosen = session.in_flight[down[which % len(down)]]
        for at in down:
            envelope = session.in_flight[at]
            if envelope is chosen or (everybody and envelope.phase == chosen.phase):
                lies = list(_lies(envelope.data, session))
                if lies:
                    session.disturbed = True
                    told = replace(envelope, data=encode(lies[how % len(lies)]))
                    session.in_flight[at] = told
                    session.told.append(told)

    # ---- what moves ------------------------------------------------------------------------------

    def _step(self, step: Callable[[], Outbox]) -> bool:
        """A step of the server; what it sends is on its way. False if it aborted."""
        session = self.session
        try:
            outbox = step()
        except RoundAbortedError as error:
            hold(session.disturbed, f"nothing was disturbed, yet {error}")
            return False
        for client, data in outbox.items():
            envelope = Envelope(session.state.value, client, upward=False, data=data)
            session.told.append(envelope)
            session.in_flight.append(envelope)
        return True

    def _deadline(self) -> None:
        session, self.mischief = self.session, 0
        if session.in_flight or session.late:
            session.disturbed = True
        waiting = sorted(session.server.waiting_for)
        hold(session.disturbed or not waiting, f"nothing was disturbed, yet the server waits for {waiting}")
        if session.state is ServerState.UNMASKING:
            self._release()
        else:
            self._step(session.server.advance)
        session.in_flight += session.late
        session.late = []

    def _release(self) -> None:
        session = self.session
        try:
            result = session.server.unmask()
        except RoundAbortedError as error:
            hold(session.disturbed, f"nothing was disturbed, yet {error}")
            return
        self.opened += 1
        session.released.append(Released(result, session.counted))
        statistic = session.plan[result.round].statistic
        for place in session.counted:
            self.spent[session.used[result.round, place], statistic] += 1

    def _deliver_all(self) -> None:
        while self.session.in_flight:
            self._deliver(self.session.in_flight.pop(0))

    def _deliver(self, envelope: Envelope) -> None:
        if envelope.upward:
            self._to_server(envelope)
        elif envelope.client in self.absent:
            self.session.disturbed = True
        else:
            self._to_client(envelope)

    def _to_server(self, envelope: Envelope) -> None:
        session, place = self.session, envelope.client
        before = session.state
        try:
            session.server.receive(place, envelope.data)
        except (ProtocolError, CryptoError):
            hold(
                session.state is before,
                f"the server went from {before.value} to {session.state.value} on a refusal",
            )
            return
        own = any((one.client, one.data) == (place, envelope.data) for one in session.said)
        hold(own, f"the server took what {session.name(place)} did not say")
        if isinstance(_said(envelope.data), Upload):
            session.counted |= {place}

    def _to_client(self, envelope: Envelope) -> None:
        session, place = self.session, envelope.client
        client = session.clients[place]
        before = client.state
        try:
            answer = client.receive(envelope.data)
        except (ProtocolError, CryptoError):
            hold(
                client.state is before,
                f"{session.name(place)} went from {before.value} to {client.state.value} on a refusal",
            )
            return
        if isinstance(answer, SumWanted):
            try:
                answer = client.contribute(
                    answer, session.vectors[answer.round, place], self.data_sets[place]
                )
            except PolicyError:  # the data set was used before; nothing else is wrong with these vectors
                session.disturbed = True
                return
        said = Envelope(session.state.value, place, upward=True, data=answer)
        session.said.append(said)
        session.in_flight.append(said)
        self._note(session, place, _said(answer))

    def _note(self, session: Session, place: int, message: FromClient) -> None:
        """Writes down what a client said."""
        match message:
            case Upload():
                session.uploads[message.round, place] += 1
                data_set = self.data_sets[place]
                use = session.used[message.round, place] = (place, data_set, self.renewed[place, data_set])
                self.uses[use].add(session.parameters.session)
                spec = session.parameters.rounds[message.round]
                plain = bytes(ring.pack(session.units(message.round, place).view(np.uint64), spec.width))
                # By chance a mask of 8 bytes is zero once in 2^64 uploads.
                bare = spec.payload_bytes >= 8 and plain == bytes(message.payload)
                hold(not bare, f"{session.name(place)} uploaded its vector without a mask")
            case Shares():
                for number, (_, own) in enumerate(message.own_commitments):
                    session.commitments[number, place, place].append((b"", own))
                for bundle in message.bundles:
                    for number, hashes in enumerate(bundle.commitments):
                        session.commitments[number, bundle.recipient, place].append(tuple(hashes))
            case Consent():
                session.consents[message.round][place] = message.signature
            case Reveal():
                self._note_reveal(session, place, message)

    def _note_reveal(self, session: Session, holder: int, reveal: Reveal) -> None:
        kinds = []
        for dealer, share in reveal.shares:
            dealt = session.commitments[reveal.round, holder, dealer]
            fitting = {
                kind
                for kind in (SEED_SHARE, SELF_SHARE)
                for hashes in dealt
                if hashes[kind]
                == messages.commitment(session.transcript, reveal.round, dealer, holder, kind, share)
            }
            hold(
                bool(fitting),
                f"{session.name(holder)} revealed for {session.name(dealer)} what that did not deal to it",
            )
            session.revealed[reveal.round, holder, dealer] |= fitting
            kinds += sorted(fitting)
        session.reveals.append((reveal.round, holder, tuple(kinds)))

    # ---- what must hold --------------------------------------------------------------------------

    @invariant()
    def everything_holds(self) -> None:
        """All that follows; override it to check more."""
        self.sums_are_exact()
        self.sums_hide_each_client()
        self.one_kind_of_share()
        self.one_vector_under_one_key()
        self.data_sets_serve_one_session()
        self.related_sums_have_the_same_survivors()

    def sums_are_exact(self) -> None:
        """A released sum is, to the last bit, over exactly the survivors that it names, and those uploaded."""
        for session in self.sessions:
            for one in session.released:
                result = one.result
                hold(
                    frozenset(result.survivors) == one.counted,
                    f"a sum names the survivors {result.survivors}, the uploads taken were {sorted(one.counted)}",
                )
                rows = [session.units(result.round, place).tolist() for place in result.survivors]
                truth = [sum(column) for column in zip(*rows, strict=True)]
                opened = ring.signed(result.words, session.parameters.rounds[result.round].width).tolist()
                hold(opened == truth, f"a released sum is {opened}, its survivors' vectors add up to {truth}")

    def sums_hide_each_client(self) -> None:
        """No sum has fewer survivors than the threshold, the policy and the plan ask for; nor does a client reveal
        shares for fewer.
        """
        for session in self.sessions:
            parameters = session.parameters
            least = self.policy.least_survivors(len(self.identities))
            for one in session.released:
                needed = max(least, session.plan[one.result.round].survivors)
                needed = max(needed, parameters.threshold) if parameters.complete else needed
                count = len(one.result.survivors)
                hold(
                    count >= needed, f"a sum of {count} clients was released, at least {needed} are asked for"
                )
            for number, holder, kinds in session.reveals:
                survivors = kinds.count(SELF_SHARE)  # of its neighbours, and itself
                needed = parameters.threshold
                if parameters.complete:
                    needed = max(needed, least, session.plan[number].survivors)
                hold(
                    survivors >= needed,
                    f"{session.name(holder)} revealed for {survivors} survivors, at least {needed} are asked for",
                )

    def one_kind_of_share(self) -> None:
        """Of one dealer's two secrets in a round no client reveals shares of both, nor do clients together reveal
        enough to open both; under the active profile they do not reveal any of one and any of the other.
        """
        for session in self.sessions:
            holders: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
            for (number, holder, dealer), kinds in session.revealed.items():
                hold(
                    len(kinds) == 1,
                    f"{session.name(holder)} revealed both kinds of share of {session.name(dealer)}, "
                    f"round {number}",
                )
                for kind in kinds:
                    holders[number, dealer][kind] += 1
            enough = 1 if session.profile is Profile.ACTIVE else session.parameters.threshold
            for (number, dealer), counts in holders.items():
                hold(
                    min(counts) < enough,
                    f"clients revealed {counts[SEED_SHARE]} shares of the mask seed and {counts[SELF_SHARE]} of the "
                    f"self mask of {session.name(dealer)}, round {number}, under the {session.profile.value} profile",
                )

    def one_vector_under_one_key(self) -> None:
        """No client uploads twice in a round: two vectors under one mask give their difference away."""
        for session in self.sessions:
            for (number, place), times in session.uploads.items():
                hold(times == 1, f"{session.name(place)} uploaded {times} times in round {number}")

    def data_sets_serve_one_session(self) -> None:
        """A data set leaves its client, masked, in one session only until its owner renews it, and each of its
        statistics is in at most one opened sum.
        """
        for (place, data_set, _), sessions in self.uses.items():
            name = self.roster.name(place)
            hold(
                len(sessions) <= 1,
                f"{name} used {data_set!r} in {len(sessions)} sessions and did not renew it",
            )
        for ((place, data_set, _), statistic), times in self.spent.items():
            name = self.roster.name(place)
            hold(times <= 1, f"{statistic!r} of {name}'s {data_set!r} is in {times} opened sums, not renewed")

    def related_sums_have_the_same_survivors(self) -> None:
        """Sums that the plan marks as telling of the same rows are over the same clients."""
        for session in self.sessions:
            sets = {
                one.result.survivors
                for one in session.released
                if session.plan[one.result.round].same_survivors
            }
            hold(len(sets) <= 1, f"related sums were released over different survivors: {sorted(sets)}")


def _said(frame: bytes) -> FromClient:
    return decode(memoryview(frame)[:-SIGNATURE_BYTES], messages.FROM_CLIENT)


def _lies(data: bytes, session: Session) -> Iterable[Message]:
    """What could be said in place of a message of the server; nothing, if it is none any more."""
    try:
        yield from _other_parameters(decode(data, PARAMETERS))
        return
    except WireError:
        pass
    try:
        told = decode(data, messages.FROM_SERVER)
    except WireError:
        return
    match told:
        case Directory():
            yield structs.replace(told, frames=told.frames[1:])
            yield structs.replace(told, frames=told.frames[:-1])
            yield structs.replace(told, frames=_exchanged(told.frames))
        case Delivery():
            yield structs.replace(told, bundles=told.bundles[1:])
            yield structs.replace(told, bundles=told.bundles[:-1])
            yield structs.replace(told, bundles=_exchanged(told.bundles))
        case SumRequest():
            yield structs.replace(told, participants=told.participants[1:])
            yield structs.replace(told, participants=told.participants[:-1])
            yield structs.replace(told, round=told.round + 1)
        case Survivors():
            everybody = session.parameters.cohort
            yield structs.replace(told, survivors=told.survivors[:-1])
            yield structs.replace(told, survivors=told.survivors[1:])
            yield structs.replace(told, survivors=everybody)
            yield structs.replace(told, survivors=tuple(sorted(set(everybody) - set(told.survivors))))
            yield structs.replace(told, round=told.round + 1)
        case Consents():
            yield structs.replace(told, signatures=told.signatures[1:])
            yield structs.replace(told, signatures=_exchanged(told.signatures))
            yield structs.replace(told, round=told.round + 1)


def _exchanged(entries: tuple[tuple[int, T], ...]) -> tuple[tuple[int, T], ...]:
    """Every entry under the next one's name."""
    names, values = [name for name, _ in entries], [value for _, value in entries]
    return tuple(zip(names, values[1:] + values[:1], strict=True))


def _other_parameters(told: Parameters) -> Iterable[Parameters]:
    other_profile = next(profile for profile in Profile if profile is not told.profile)
    other_suite = next(suite for suite in Suite if suite is not told.suite)
    longer = structs.replace(told.rounds[0], length=told.rounds[0].length + 1)
    coarser = structs.replace(told.rounds[0], fraction_bits=told.rounds[0].fraction_bits - 1)
    changes: list[Mapping[str, object]] = [
        {"threshold": told.threshold - 1},
        {"threshold": told.threshold + 1},
        {"profile": other_profile},
        {"suite": other_suite},
        {"cohort": told.cohort[:-1], "degree": len(told.cohort) - 2},
        {"session": bytes([255]) + told.session[1:]},
        {"rounds": (longer, *told.rounds[1:])},
        {"rounds": (coarser, *told.rounds[1:])},
        {"rounds": told.rounds[:-1]},
        {"roster": bytes(len(told.roster))},
    ]
    for change in changes:
        try:
            yield structs.replace(told, **change)
        except (ValueError, TypeError):  # no such parameters exist
            continue
