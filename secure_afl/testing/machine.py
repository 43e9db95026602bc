"""Drive a whole cohort against a model of the true sums: sessions, rounds, bad networks, lying servers, restarts.

`SecureSumMachine` is a Hypothesis state machine. Its rules carry the messages of our masked protocol in any order,
lose, delay, repeat and alter them, let the server lie, clients restart and owners renew data sets; what every client
says is decoded and written down. After every rule it checks what must hold whatever happened. In a test module:

    from secure_afl.testing.machine import SecureSumMachine

    TestSums = SecureSumMachine.TestCase
    TestSums.settings = settings(max_examples=200, stateful_step_count=50)

To put clients, servers or ledgers of your own to the test, override `make_client`, `make_server` or `make_ledger`:

    class Mine(SecureSumMachine):
        def make_client(self, identity, roster, plan, policy, ledger):
            return MyClient(identity, roster, plan, policy, ledger)

    TestMine = Mine.TestCase

`NeutralSumMachine`, at the end, is for systems with other messages: it knows them as `secure_afl.testing.systems`
describes them. The others must speak the protocol of docs/protocol.md. Of a client, `receive`, `contribute`, `state`, `memory` and `resume`
are used; of a server `start`, `receive`, `advance`, `open_round`, `give_up_round`, `result`, `state` and
`waiting_for`; of a ledger `renew(data_set, may_expose=True)`, and what your clients use. They refuse with
`ProtocolError`s. What is found to be wrong raises `PropertyViolatedError`, which says what broke and who did it; any other error fails the example as it is.

Schedules, identities and vectors are drawn, so failures shrink and repeat. The clients' own keys stay random: no
decision of the machine hangs on them.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, wraps
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import structs

from secure_afl.crypto import ring
from secure_afl.crypto.errors import optional
from secure_afl.crypto.hpke import Suite
from secure_afl.crypto.identity import SIGNATURE_BYTES, Identity
from secure_afl.protocol.masking import messages
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.masking.messages import (
    SEED_SHARE,
    SELF_SHARE,
    Consent,
    Consents,
    FromClient,
    Reveal,
    Shares,
    SumRequest,
    Survivors,
    Upload,
    Vote,
)
from secure_afl.protocol.masking.server import MaskingServer
from secure_afl.protocol.masking.states import ClientState, ServerState
from secure_afl.protocol.session.errors import PolicyError, ProtocolError, RoundAbortedError
from secure_afl.protocol.session.ledger import Ledger
from secure_afl.protocol.session.parameters import PARAMETERS, Parameters, Profile, SumPlan, SumWanted
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.roster import Roster
from secure_afl.protocol.session.server import OpenedSum, Outbox
from secure_afl.protocol.session.wire import Message, WireError, decode, encode
from secure_afl.protocol.transport.driver import Packet
from secure_afl.testing import schedules, strategies
from secure_afl.testing.check import Bench, PropertyFailed
from secure_afl.testing.faults import CHANGES, HANDLING, Fault, FaultyNetwork
from secure_afl.testing.judge import PROPERTIES
from secure_afl.testing.judging.history import History, in_order
from secure_afl.testing.record import VERSION, System
from secure_afl.testing.schedules import Session as NeutralSession
from secure_afl.testing.systems import PythonTarget, Wire

with optional():
    from hypothesis import strategies as st
    from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

Share = tuple[int, int, int]
"""A round, who holds the share, and whose secret it is a share of."""
Use = tuple[int, str, int]
"""A client, a data set, and how often that was renewed before."""
Rule = Callable[[Callable[..., None]], Callable[..., None]]

_IN_A_PHASE = frozenset(state for state in ServerState if state.value in strategies.PHASES)
_KEEPING_SESSIONS = 4  # what an earlier one released was checked

_which = st.integers(0, 63)  # one of several, counted round and round; 0 is the first
_mostly = st.sampled_from([True, True, False])
_client = st.integers(0, 4)
_some = st.one_of(_client.map(lambda one: frozenset({one})), st.frozensets(_client, min_size=1, max_size=2))
_left_out = st.one_of(st.just(frozenset[int]()), _some)
_views = st.tuples(_left_out, _left_out)


@dataclass(frozen=True)
class Then:
    """How things go on after a rule: for so many phases (0: not at all, 3: to the end of the set-up or the round),
    over a network with these faults.
    """

    phases: int
    faults: Sequence[Fault] = ()
    seed: int = 0


_summing = st.sampled_from(["collecting", *strategies.SUM_PHASES])
_silent = st.builds(lambda phase, gone: strategies.silence({phase: gone}), _summing, _some)
_phase = st.sampled_from([None, *strategies.SUM_PHASES, None, *strategies.PHASES])
_fault = st.builds(
    Fault, st.sampled_from(HANDLING), _phase, _some, st.sampled_from([True, True, False, None])
)
_faults: st.SearchStrategy[list[Fault]] = st.one_of(
    st.just([]), _silent, _silent, st.lists(_fault, min_size=1, max_size=3)
)
# Most often to the end: fewer rules tell a failure's story.
_then = st.builds(Then, st.sampled_from([3, 3, 0, 1, 2]), _faults, st.integers(0, 255))


def step(**drawn: st.SearchStrategy[Any]) -> Rule:
    """A rule that is followed by some phases, as they are drawn. Hypothesis leaves out rules of its choice for a whole
    example; were going on a rule of its own, most examples would get nowhere.
    """

    def decorate(act: Callable[..., None]) -> Callable[..., None]:
        @wraps(act)
        def acted(self: "SecureSumMachine", then: Then, **values: Any) -> None:
            act(self, **values)
            self.go_on(then)

        # Its overloads do not know rules with any arguments.
        made: Rule = rule(then=_then, **drawn)  # type: ignore[call-overload]
        return made(acted)

    return decorate


class PropertyViolatedError(AssertionError):
    """Something happened that must not; the text says what, and who did it."""


def hold(holds: bool, text: str) -> None:
    """Raises `PropertyViolatedError` unless it holds; unlike `assert`, also under python -O."""
    if not holds:
        raise PropertyViolatedError(text)


@dataclass(eq=False)
class Session:
    """One session: its server and clients, messages on their way, and the model's records.

    vectors: the truth, by round and client. told, said: all that the server and the clients sent, or that the server
    could send. lost: clients that may have missed something, or that began anew; deceived: whether anything was told
    that an honest server does not tell. counted: whose uploads the server took in its last round; released: its sums,
    each with those. Of all rounds, uploads by round and client, consents by round, hashes of dealt shares, the kinds
    of revealed shares, and who revealed how many of each kind.
    """

    parameters: Parameters
    plan: tuple[SumPlan, ...]
    server: MaskingServer
    vectors: dict[tuple[int, int], npt.NDArray[np.float64]]
    clients: dict[int, MaskingClient] = field(default_factory=dict)
    in_flight: list[Packet] = field(default_factory=list)
    told: list[Packet] = field(default_factory=list)
    said: list[Packet] = field(default_factory=list)
    lost: set[int] = field(default_factory=set)
    deceived: bool = False
    round: int = -1
    counted: frozenset[int] = frozenset()
    released: list[tuple[OpenedSum, frozenset[int]]] = field(default_factory=list)
    uploads: dict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))
    consents: dict[int, dict[int, Vote]] = field(default_factory=lambda: defaultdict(dict))
    dealt: dict[Share, list[tuple[bytes, ...]]] = field(default_factory=lambda: defaultdict(list))
    revealed: dict[Share, set[int]] = field(default_factory=lambda: defaultdict(set))
    reveals: list[tuple[int, int, list[int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.transcript = self.parameters.transcript()
        self.cohort = self.parameters.cohort

    @property
    def state(self) -> ServerState:
        return self.server.state

    @property
    def in_a_phase(self) -> bool:
        """Whether the server waits for answers."""
        return self.state in _IN_A_PHASE

    @property
    def may_open(self) -> bool:
        """Whether the next round may begin, or take the place of the one that collects uploads."""
        idle = self.state in (ServerState.READY, ServerState.COLLECTING)
        return idle and self.round + 1 < len(self.plan)

    def units(self, number: int, index: int) -> npt.NDArray[np.int64]:
        """The fixed-point integers of one client's vector."""
        encoding = self.parameters.rounds[number].encoding(len(self.cohort))
        return encoding.encode(self.vectors[number, index]).view(np.int64)


class SecureSumMachine(RuleBasedStateMachine):
    """Drives sessions of the masked protocol and checks them against the truth. See the module for how to use it.

    members: the smallest and the largest roster, of at least 3 and at most 6. profiles, suites: drawn from these; a
    policy allows some of them. max_rounds, max_length: of a session and its sums.

    What must hold is `everything_holds`: `sums_are_exact`, `sums_hide_each_client`, `one_kind_of_share`,
    `one_vector_under_one_key`, `data_sets_serve_one_session`, `related_sums_have_the_same_survivors`. Besides, a
    refused message must leave a client's and a server's state as it was; what a server takes, a client must have
    said; and a session in which nobody lies, and that loses no more clients than its threshold bears, must release
    its sums.
    """

    members: tuple[int, int] = (4, 5)
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
        """What all clients of a roster of so many insist on."""
        return data.draw(strategies.policies(members, profiles=self.profiles, suites=self.suites))

    # ---- sessions and rounds ---------------------------------------------------------------------

    def __init__(self) -> None:
        super().__init__()
        self.sessions: list[Session] = []
        self.started = 0
        self.at = 0
        self.renewed: dict[tuple[int, str], int] = defaultdict(int)  # how often, by client and data set
        self.uses: dict[Use, set[bytes]] = defaultdict(set)  # the sessions that uploads went to

    @initialize(data=st.data(), at_once=_mostly)
    def meet(self, data: st.DataObject, at_once: bool) -> None:
        """A roster, its policy and its ledgers, which stay for the whole example, and the first session: its
        invitation is on its way, or all keys are exchanged.
        """
        self.data = data
        self.roster, self.identities = data.draw(strategies.rosters(*self.members))
        self.policy = self.make_policy(data, len(self.identities))
        self.ledgers = [self.make_ledger() for _ in self.identities]
        self._start(at_once, new_data=True)

    @property
    def session(self) -> Session:
        """The session that the rules are about."""
        return self.sessions[self.at]

    @precondition(lambda self: self.session.state in (ServerState.READY, ServerState.ABORTED))
    @step(at_once=_mostly, new_data=_mostly)
    def start_session(self, at_once: bool, new_data: bool) -> None:
        """A new plan, proposal and vectors, of other data sets or of the same; the one before stays open."""
        self._start(at_once, new_data)

    def _start(self, at_once: bool, new_data: bool) -> None:
        data, n = self.data, len(self.identities)
        plan = data.draw(
            strategies.plans(n, min_rounds=2, max_rounds=self.max_rounds, max_length=self.max_length)
        )
        drawn = data.draw(strategies.parameters(self.roster, plan, self.policy))
        # No two sessions of an example may have one number: it is drawn, and shrinks.
        parameters = structs.replace(drawn, session=self.started.to_bytes(2) + drawn.session[2:])
        vectors = {
            (number, index): vector
            for number, one in enumerate(plan)
            for index, vector in enumerate(data.draw(strategies.cohorts(n, one.length, one.bound)))
        }
        if new_data:
            self.data_set = f"rows {self.started}"
        session = Session(parameters, plan, self.make_server(parameters, self.roster), vectors)
        session.clients = {index: self._client(session, index) for index in session.cohort}
        self.sessions = [*self.sessions, session][-_KEEPING_SESSIONS:]
        self.started += 1
        self.at = len(self.sessions) - 1
        self._step(session.server.start)
        if at_once:
            self.go_on(Then(3))

    def _client(self, session: Session, index: int) -> MaskingClient:
        return self.make_client(
            self.identities[index], self.roster, session.plan, self.policy, self.ledgers[index]
        )

    @precondition(lambda self: len(self.sessions) > 1)
    @step(which=_which)
    def return_to_session(self, which: int) -> None:
        """Go on with an earlier session; sessions of the same clients may run side by side."""
        self.at = which % len(self.sessions)

    @step()
    def nothing_else(self) -> None:
        """It just goes on."""

    def go_on(self, then: Then) -> None:
        """What is on its way is delivered, with all answers; then comes the deadline; and so on. Between rounds the
        next one begins, and after the last one a session with new data.
        """
        if then.phases and not self.session.in_a_phase:
            if not self.session.may_open:
                self._start(at_once=True, new_data=True)
            self._open(self.session.round + 1)
        for _ in range(then.phases):
            if self.session.in_a_phase:
                self._finish(then)

    @precondition(lambda self: self.session.may_open)
    @step(skip=st.booleans(), without=_left_out)
    def open_round(self, skip: bool, without: frozenset[int]) -> None:
        """The server asks for the vectors of the next round, or of the one after it, of all or of some. A round that
        was collecting uploads is given up.
        """
        session = self.session
        if session.state is ServerState.COLLECTING:
            session.server.give_up_round()
        self._open(min(session.round + 1 + skip, len(session.plan) - 1), without)

    def _open(self, number: int, without: frozenset[int] = frozenset()) -> None:
        session = self.session
        session.lost |= without.intersection(session.cohort)
        if self._step(lambda: session.server.open_round(number, frozenset(session.cohort) - without)):
            session.round, session.counted = number, frozenset()

    # ---- the network -----------------------------------------------------------------------------

    @precondition(lambda self: self.session.in_flight)
    @step(which=st.lists(_which, min_size=1, max_size=6))
    def deliver(self, which: list[int]) -> None:
        """Some messages arrive, in any order; their answers go on their way."""
        in_flight = self.session.in_flight
        for at in which[: len(in_flight)]:
            self._deliver(in_flight.pop(at % len(in_flight)))

    def _finish(self, then: Then) -> None:
        """Delivers until nothing is on its way; then the phase ends. What comes late is there in the next one."""
        session, network = self.session, FaultyNetwork(then.faults, then.seed)
        while session.in_flight:
            sent, session.in_flight = session.in_flight, []
            for packet in sent:
                self._expect_less(packet, then.faults)
                for arriving in network.carry(packet):
                    self._deliver(arriving)
            for arriving in [] if session.in_flight else network.flush(session.state.value):
                self._deliver(arriving)
        self._deadline()
        session.in_flight += network.flush("")

    def _expect_less(self, packet: Packet, faults: Sequence[Fault]) -> None:
        """Faults may cost the session a client, or two where one gets to see an altered message of another."""
        handling = next((fault.handling for fault in faults if fault.meets(packet)), "repeat")
        if handling not in ("repeat", "shuffle"):
            self.session.lost.add(packet.client)
        self.session.deceived |= handling in CHANGES and not packet.upward

    @step(which=_which, of=_which, to=_which, other=st.booleans())
    def replay(self, which: int, of: int, to: int, other: bool) -> None:
        """A message of this or another session, from any time, comes again: to whom it was sent, or to another."""
        source = self.sessions[of % len(self.sessions)]
        history = [*source.said, *source.told]
        old = history[which % len(history)]
        self.session.deceived |= not old.upward
        client = self._index(to) if other else old.client
        self._deliver(replace(old, phase=self.session.state.value, client=client))

    # ---- clients ---------------------------------------------------------------------------------

    def _index(self, which: int) -> int:
        return which % len(self.identities)

    @precondition(
        lambda self: len(self.session.cohort) - len(self.session.lost) > self.session.parameters.threshold
    )
    @step(which=_which, remembers=st.booleans())
    def restart(self, which: int, remembers: bool) -> None:
        """A client begins anew with the same identity and ledger; with its memory it goes on where it was."""
        session, index = self.session, self._index(which)
        before, session.clients[index] = session.clients[index], self._client(session, index)
        if remembers and before.state is not ClientState.START:
            session.clients[index].resume(before.memory())
        else:
            session.lost.add(index)

    @step(which=_which, everybody=st.booleans())
    def renew(self, which: int, everybody: bool) -> None:
        """An owner, or all of them, lets its data set serve another session."""
        for index in range(len(self.identities)) if everybody else [self._index(which)]:
            self.ledgers[index].renew(self.data_set, may_expose=True)
            self.renewed[index, self.data_set] += 1

    # ---- a server that lies ----------------------------------------------------------------------

    def _tell(self, client: int, message: Message) -> None:
        """The server says something of its own to a client, who hears it at once."""
        session = self.session
        session.deceived = True
        packet = Packet(session.state.value, client, upward=False, data=encode(message))
        session.told.append(packet)
        self._deliver(packet)

    def _view(self, client: int, views: Sequence[Collection[int]]) -> tuple[int, ...]:
        """Clients of the cohort without those that this client, by its number, is not shown."""
        return tuple(sorted(set(self.session.cohort).difference(views[client % len(views)])))

    def _round_meant(self, other: int) -> int:
        """The open round, or another one, also one that is not planned."""
        return (max(self.session.round, 0) + other) % (len(self.session.plan) + 1)

    @step(views=_views, other=st.integers(0, 3))
    def ask_for_a_round(self, views: Sequence[frozenset[int]], other: int) -> None:
        """A request that the server's own state machine would not send: again, of another round, to others."""
        for client in self.session.cohort:
            request = SumRequest(self.session.transcript, self._round_meant(other), self._view(client, views))
            self._tell(client, request)

    @precondition(lambda self: self.session.uploads)
    @step(
        anew=st.booleans(),
        views=_views,
        split=st.booleans(),
        other=st.sampled_from([0, 0, 0, 0, 1]),
        consents=_mostly,
    )
    def ask_to_unmask(
        self, anew: bool, views: Sequence[frozenset[int]], split: bool, other: int, consents: bool
    ) -> None:
        """After one more phase, or at once: survivors of the server's choice, one list after the other or each to some clients, also after the sum was
        opened: clients that uploaded left out, clients that dropped out put in. With a list may come all consents
        that the server has seen in that round, whatever they were given to.
        """
        if anew:
            self.go_on(Then(1))
        session, number = self.session, self._round_meant(other)
        for told in [views] if split else [[view] for view in views]:
            for client in session.cohort:
                self._tell(client, Survivors(session.transcript, number, self._view(client, told)))
            for client in session.cohort if consents else ():
                given = session.consents[number]
                shown = tuple((one, given[one]) for one in self._view(client, told) if one in given)
                self._tell(client, Consents(session.transcript, number, shown))

    @precondition(lambda self: any(not one.upward for one in self.session.in_flight))
    @step(which=_which, how=_which, everybody=st.booleans())
    def lie(self, which: int, how: int, everybody: bool) -> None:
        """What the server sends is replaced on its way, to one client or to all: altered parameters, keys and shares
        left out or exchanged, other rounds, fewer participants, survivors or consents.
        """
        session = self.session
        down = [at for at, one in enumerate(session.in_flight) if not one.upward]
        for at in down if everybody else [down[which % len(down)]]:
            packet = session.in_flight[at]
            lies = list(_lies(packet.data))
            if lies:
                session.deceived = True
                session.in_flight[at] = told = replace(packet, data=encode(lies[how % len(lies)]))
                session.told.append(told)

    # ---- what moves ------------------------------------------------------------------------------

    def _step(self, step: Callable[[], Outbox]) -> bool:
        """A step of the server; what it sends is on its way. False if it aborted."""
        session = self.session
        try:
            outbox = step()
        except RoundAbortedError as error:
            hold(not self._must_go_on(), f"the server aborted although nothing stands in the way: {error}")
            return False
        for client, data in outbox.items():
            packet = Packet(session.state.value, client, upward=False, data=data)
            session.told.append(packet)
            session.in_flight.append(packet)
        return True

    def _must_go_on(self) -> bool:
        """Whether nobody lied, and those that lost nothing suffice for every sum."""
        session, parameters = self.session, self.session.parameters
        if session.deceived or (session.lost and (session.plan[0].same_survivors or not parameters.complete)):
            return False
        needed = (parameters.threshold, self._least(), *(one.survivors for one in session.plan))
        return not session.lost or len(session.cohort) - len(session.lost) >= max(needed)

    def _deadline(self) -> None:
        session = self.session
        session.lost |= {one.client for one in session.in_flight}
        silent = [self.roster.name(index) for index in sorted(session.server.waiting_for - session.lost)]
        hold(
            not silent or not self._must_go_on(),
            f"in the phase {session.state.value} the server got no answer that it takes from {', '.join(silent)}",
        )
        if session.state is ServerState.UNMASKING:
            self._step(self._release)
        else:
            self._step(session.server.advance)

    def _release(self) -> Outbox:
        server = self.session.server
        self.session.released.append((server.result(), self.session.counted))
        return server.advance() if self.session.state is ServerState.OPENED else {}

    def _deliver(self, packet: Packet) -> None:
        party = self.session.server if packet.upward else self.session.clients[packet.client]
        before = party.state
        try:
            if packet.upward:
                self._to_server(packet)
            else:
                self._to_client(packet)
        except ProtocolError:
            who = "the server" if packet.upward else self.roster.name(packet.client)
            hold(party.state is before, f"{who} went from {before.value} to {party.state.value} on a refusal")

    def _to_server(self, packet: Packet) -> None:
        session, index = self.session, packet.client
        session.server.receive(index, packet.data)
        own = any((one.client, one.data) == (index, packet.data) for one in session.said)
        hold(own, f"the server took what {self.roster.name(index)} did not say")
        if isinstance(_said(packet.data), Upload):
            session.counted |= {index}

    def _to_client(self, packet: Packet) -> None:
        session, index = self.session, packet.client
        client = session.clients[index]
        answer = client.receive(packet.data)
        if isinstance(answer, SumWanted):
            try:
                answer = client.contribute(answer, session.vectors[answer.round, index], self.data_set)
            except PolicyError:  # the data set was used before; nothing else is wrong with these vectors
                session.lost.add(index)
                return
        said = Packet(session.state.value, index, upward=True, data=answer)
        session.said.append(said)
        session.in_flight.append(said)
        self._note(session, index, _said(answer))

    def _note(self, session: Session, index: int, message: FromClient) -> None:
        """Writes down what a client said."""
        match message:
            case Upload():
                session.uploads[message.round, index] += 1
                use = (index, self.data_set, self.renewed[index, self.data_set])
                self.uses[use].add(session.parameters.session)
                spec = session.parameters.rounds[message.round]
                plain = bytes(ring.pack(session.units(message.round, index).view(np.uint64), spec.width))
                # By chance a mask of 8 bytes is zero once in 2^64 uploads.
                bare = spec.payload_bytes >= 8 and plain == bytes(message.payload)
                hold(not bare, f"{self.roster.name(index)} uploaded its vector without a mask")
            case Shares():
                for number, (_, own) in enumerate(message.own_commitments):
                    session.dealt[number, index, index].append((b"", own))
                for bundle in message.bundles:
                    for number, hashes in enumerate(bundle.commitments):
                        session.dealt[number, bundle.recipient, index].append(hashes)
            case Consent():
                session.consents[message.round][index] = message.vote
            case Reveal():
                self._note_reveal(session, index, message)

    def _note_reveal(self, session: Session, holder: int, reveal: Reveal) -> None:
        kinds = []
        for dealer, share in reveal.shares:
            fitting = {
                kind
                for kind in (SEED_SHARE, SELF_SHARE)
                for hashes in session.dealt[reveal.round, holder, dealer]
                if hashes[kind]
                == messages.commitment(session.transcript, reveal.round, dealer, holder, kind, share)
            }
            names = self.roster.name(holder), self.roster.name(dealer)
            hold(bool(fitting), "{} revealed a share of {} which that did not deal to it".format(*names))
            session.revealed[reveal.round, holder, dealer] |= fitting
            kinds += sorted(fitting)
        session.reveals.append((reveal.round, holder, kinds))

    # ---- what must hold --------------------------------------------------------------------------

    @invariant()
    def everything_holds(self) -> None:
        """All that follows; override it to check more."""
        self.data_sets_serve_one_session()
        for session in self.sessions:
            self.sums_are_exact(session)
            self.sums_hide_each_client(session)
            self.one_kind_of_share(session)
            self.one_vector_under_one_key(session)
            self.related_sums_have_the_same_survivors(session)

    def sums_are_exact(self, session: Session) -> None:
        """A released sum is, to the last bit, over exactly the survivors that it names, and those uploaded."""
        for result, counted in session.released:
            hold(
                frozenset(result.survivors) == counted,
                f"a sum names the survivors {result.survivors}, the uploads taken were {sorted(counted)}",
            )
            rows = [session.units(result.round, index).tolist() for index in result.survivors]
            truth = [sum(column) for column in zip(*rows, strict=True)]
            opened = ring.signed(result.values, session.parameters.rounds[result.round].width).tolist()
            hold(opened == truth, f"a released sum is {opened}, its survivors' vectors add up to {truth}")

    def _least(self) -> int:
        return self.policy.least_survivors(len(self.identities))

    def sums_hide_each_client(self, session: Session) -> None:
        """No sum has fewer survivors than the threshold, the policy and the plan ask for; nor does a client reveal
        shares for fewer.
        """
        sums = [("the server released a sum", one.round, len(one.survivors)) for one, _ in session.released]
        sums += [  # of the revealing client's neighbours, and itself
            (f"{self.roster.name(holder)} revealed shares", number, kinds.count(SELF_SHARE))
            for number, holder, kinds in session.reveals
        ]
        threshold, complete = session.parameters.threshold, session.parameters.complete
        for what, number, survivors in sums:
            # In a sparse graph these are the neighbours of one client, and the threshold is about those.
            asked = max(self._least(), session.plan[number].survivors, threshold) if complete else threshold
            hold(survivors >= asked, f"{what} for {survivors} survivors, at least {asked} are asked for")

    def one_kind_of_share(self, session: Session) -> None:
        """Of one dealer's two secrets in a round no client reveals shares of both, nor do clients together reveal
        enough to open both; under the active profile they do not reveal any of one and any of the other.
        """
        holders: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
        for (number, holder, dealer), kinds in session.revealed.items():
            names = self.roster.name(holder), self.roster.name(dealer)
            hold(len(kinds) == 1, "{} revealed both kinds of share of {}".format(*names))
            for kind in kinds:
                holders[number, dealer][kind] += 1
        profile, threshold = session.parameters.profile, session.parameters.threshold
        for (number, dealer), counts in holders.items():
            hold(
                min(counts) < (1 if profile is Profile.ACTIVE else threshold),
                f"clients revealed {counts[SEED_SHARE]} shares of the mask seed and {counts[SELF_SHARE]} of the self "
                f"mask of {self.roster.name(dealer)}, round {number}, under the {profile.value} profile",
            )

    def one_vector_under_one_key(self, session: Session) -> None:
        """No client uploads twice in a round: two vectors under one mask give their difference away."""
        for (number, index), times in session.uploads.items():
            hold(times == 1, f"{self.roster.name(index)} uploaded {times} times in round {number}")

    def data_sets_serve_one_session(self) -> None:
        """A data set leaves its client, masked, in one session only until its owner renews it."""
        for (index, data_set, _), sessions in self.uses.items():
            hold(
                len(sessions) == 1,
                f"{self.roster.name(index)} used {data_set!r} in {len(sessions)} sessions and did not renew it",
            )

    def related_sums_have_the_same_survivors(self, session: Session) -> None:
        """Sums that the plan marks as telling of the same rows are over the same clients."""
        sets = {one.survivors for one, _ in session.released if session.plan[one.round].same_survivors}
        hold(len(sets) <= 1, f"related sums were released over different survivors: {sorted(sets)}")


# ---- any system ----------------------------------------------------------------------------------

_JUDGED = tuple(
    one
    for one in PROPERTIES
    if not {"private", "validated"} & set(one.needs) and one.name != "nothing_crashes"
)


class NeutralSumMachine(RuleBasedStateMachine):
    """Drives anybody's system, sum by sum, and judges all that happened after each rule.

    system: a factory or target, as `check_aggregator` takes it; set it in a subclass. Sessions are opened one after the
    other, with cohorts, lengths and data sets of its choice; sums lose clients at any phase or are asked for again. What
    the system claims is judged by the properties of `secure_afl.testing.judge`. Raises `PropertyFailed`.
    """

    system: Any
    most_sums = 4

    def __init__(self) -> None:
        super().__init__()
        self.bench = _learnt(type(self).system)
        self.runner, self.claims = self.bench.runner, self.bench.claims
        self.wire, self.number = Wire(), 0
        self.wire.records.append(System(VERSION, self.claims))
        self.driver = self.runner.target.fresh(self.wire)
        self.session: NeutralSession | None = None

    def _lost(self, data: st.DataObject) -> dict[str, str]:
        assert self.session is not None
        clients = st.sampled_from([schedules.name(one) for one in self.session.clients])
        phases = st.sampled_from(self.claims.phases)
        some = st.dictionaries(clients, phases, min_size=1, max_size=max(1, self.claims.dropouts))
        return data.draw(st.one_of(st.just(dict[str, str]()), st.just(dict[str, str]()), some))

    @initialize(related=st.booleans())
    def begin(self, related: bool) -> None:
        """The first session, of the usual cohort."""
        self._open(self.claims.cohort, related and self.claims.related, (3, 2, 2, 1), rows=1)

    @precondition(lambda self: self.session is None or self.next > 1)
    @rule(
        size=st.integers(2, 9),
        related=st.booleans(),
        lengths=st.lists(st.integers(1, 6), min_size=2, max_size=most_sums),
        rows=st.integers(1, 3),
    )
    def open(self, size: int, related: bool, lengths: list[int], rows: int) -> None:
        """Another session, of new rows or of old ones."""
        fewest, most = self.claims.clients
        self._open(
            min(max(size, fewest), most),
            related and self.claims.related,
            tuple(min(one, self.claims.largest) for one in lengths),
            rows,
        )

    def _open(self, size: int, related: bool, lengths: tuple[int, ...], rows: int) -> None:
        session = schedules.session(
            schedules.cohort(size), schedules.sums(lengths), rows=rows, related=related
        )
        opened = self.runner.open(0, self.number, session, self.driver, self.wire)
        self.session, self.number, self.next = session if opened else None, self.number + 1, 0

    @precondition(lambda self: self.session is not None and self.next < len(self.session.sums))
    @rule(data=st.data(), order=st.integers(0, 2))
    def sum(self, data: st.DataObject, order: int) -> None:
        """The next sum, without some of the clients."""
        self._sum(self.next, self._lost(data), order)
        self.next += 1

    @precondition(lambda self: self.session is not None and self.next > 0)
    @rule(data=st.data())
    def sum_again(self, data: st.DataObject) -> None:
        """The last sum once more."""
        self._sum(self.next - 1, self._lost(data), 0)

    def _sum(self, at: int, lost: dict[str, str], order: int) -> None:
        assert self.session is not None
        ask = structs.replace(self.session.sums[at], order=order)
        self.runner.sum(0, self.session, at, ask, lost, self.driver, self.wire)

    @invariant()
    def everything_holds(self) -> None:
        """Every property that is claimed."""
        history = History(in_order(self.wire.records), self.claims, self.bench.learnt)
        for one in _JUDGED:
            row = one.judge(history)
            if row.verdict == "failed":
                raise PropertyFailed(row)


@lru_cache(8)
def _learnt(system: Any) -> Bench:
    target = PythonTarget(system) if callable(system) else system
    return Bench(target, target.claims, seconds=10, examples=1, seed=0)


# ---- what is said --------------------------------------------------------------------------------


def _said(frame: bytes) -> FromClient:
    return decode(memoryview(frame)[:-SIGNATURE_BYTES], messages.FROM_CLIENT)


def _lies(data: bytes) -> Iterable[Message]:
    """What could be sent in place of a message of the server; nothing once that message is gone."""
    told: Message
    try:
        told = decode(data, messages.FROM_SERVER)
    except WireError:
        try:
            told = decode(data, PARAMETERS)
        except WireError:
            return
    yield from _altered(told)


def _altered(message: Message) -> Iterable[Message]:
    for name, value in structs.asdict(message).items():
        for other in _others(value):
            try:
                yield structs.replace(message, **{name: other})
            except ValueError:  # no such message exists
                continue


def _others(value: object) -> Iterable[object]:
    """Values near this one: lists without an end, or with every entry under the next one's name."""
    match value:
        case int():
            yield from (value + 1, value - 1)
        case bytes():
            yield value[::-1]
        case Profile() | Suite():
            yield from (one for one in type(value) if one is not value)
        case (Message() as first, *rest):
            yield from (tuple(rest), *((one, *rest) for one in _altered(first)))
        case ((_, _), *_):
            names, entries = zip(*value, strict=True)
            yield from (value[1:], value[:-1], tuple(zip(names, entries[1:] + entries[:1], strict=True)))
        case tuple():
            yield from (value[1:], value[:-1])
