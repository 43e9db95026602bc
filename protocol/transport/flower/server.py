"""The server's side: find each party's node, and exchange envelopes with parties through Flower's `Grid`."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from flwr.app import Message
from flwr.serverapp import Grid

from secure_afl.protocol.files.roster import Parties
from secure_afl.protocol.session.errors import LocalProtocolError
from secure_afl.protocol.session.server import Outbox
from secure_afl.protocol.session.wire import WireError
from secure_afl.protocol.transport.driver import Carry
from secure_afl.protocol.transport.flower.records import (
    MESSAGE_TYPE,
    UNREADABLE,
    is_again,
    to_answer,
    to_records,
)
from secure_afl.protocol.transport.post import Channel, Envelope, found, who_is_there

_GRACE = (
    5.0  # seconds that a message outlives its phase: Flower's simulation fails if asked for an expired one
)
_RETURN = 15.0  # seconds for an offline node to come back, if no other party is waited for
_TIMES = 5  # at most so many times a party that lost the question is asked again
_SHORTEST = 0.05  # seconds between two looks
_AWAKE = 1.0  # seconds between two looks for new or returning nodes
_GONE = 5  # Flower's code for an error: the node is offline
_ERRORS = {
    _GONE: "its node is offline",
    1000: "refused; its own log says why",
    UNREADABLE: "its answer is no message",
}


@dataclass(frozen=True)
class _Question:
    """The question which party is at a node, and the deadline for its answer."""

    node: int
    envelope: Envelope
    ends: float


@dataclass
class FlowerPost:
    """Carries envelopes to the parties of one run.

    deadline: the longest time of a phase, in seconds; poll: the longest pause between two looks for answers, in seconds
    (shorter soon after an answer). study: its digest, for parties of several. `nodes`: each party's node, by index; `silences`: why parties did not answer;
    `twins`: parties that two nodes at a time proved to be. Nodes that join during the run are asked for their party; a party
    is at the node where it proved its identity last.
    """

    grid: Grid
    deadline: float
    poll: float = 0.2
    nodes: dict[int, int] = field(default_factory=dict)
    silences: list[str] = field(default_factory=list)
    twins: set[int] = field(default_factory=set)
    study: bytes = b""
    _parties: Parties | None = field(default=None, init=False)
    _greeted: set[int] = field(default_factory=set, init=False)
    _questions: dict[str, _Question] = field(default_factory=dict, init=False)  # by the message's number
    _online: frozenset[int] = field(default=frozenset(), init=False)
    _looked: float = field(default=-_AWAKE, init=False)

    def __post_init__(self) -> None:
        if not (self.deadline > 0 and self.poll > 0):
            raise LocalProtocolError(
                f"expected a deadline and a poll interval above 0 seconds, got {self.deadline} and {self.poll}"
            )

    def find(self, parties: Parties) -> None:
        """Ask every node for its party, until all parties are found or the deadline has passed.

        A node proves its identity, so no other node can attract a party's messages. A party that is not found counts as
        a dropout until it appears.
        """
        self._parties = parties
        ends = time.monotonic() + self.deadline
        rest = _Rest(self.poll, ends)
        while len(self.nodes) < len(parties.everybody) and time.monotonic() < ends:
            before = len(self.nodes)
            self._looked = -_AWAKE
            self._greet()
            self._pulled({})
            if len(self.nodes) < len(parties.everybody):
                rest.take(len(self.nodes) > before)

    def carrier(self, channel: Channel, session: bytes) -> Carry:
        """The carrier of one session's messages."""
        return lambda outbox: self._carried(channel, session, outbox)

    def end(self, session: bytes, learned: bytes = b"") -> dict[int, bytes]:
        """Tell all parties that a session is over and what was learned, so that they erase its secrets. Parties that miss
        this keep the secrets, encrypted, in their stores. Gives each party's answer, a line of its audit log.
        """
        return dict(self._carried(Channel.END, session, dict.fromkeys(self.nodes, learned)))

    def _carried(self, channel: Channel, session: bytes, outbox: Outbox) -> Iterator[tuple[int, bytes]]:
        """Yield answers by party as they come. Errors, refusals and silence all yield nothing.

        A party that comes back, at the same node or a different one, is asked again there; it answers the same question
        with the same bytes.
        """
        ends = time.monotonic() + self.deadline
        rest = _Rest(self.poll, ends)
        missing, told = set(outbox), dict[int, int]()  # the node that a party's envelope went to last
        waiting: dict[str, tuple[int, int]] = {}  # party and node, by the message's number
        times = dict[int, int]()  # how often a node was asked
        gone: dict[int, float] = {}  # when a party's node was seen to be offline
        self._looked = -_AWAKE
        while missing and time.monotonic() < ends:
            online = self._greet()
            here = {party: self.nodes[party] for party in sorted(missing) if party in self.nodes}
            for party, node in here.items():
                if node not in online:
                    gone.setdefault(party, time.monotonic())
            going = {
                node: party
                for party, node in here.items()
                if node in online and told.get(party) != node and times.get(node, 0) < _TIMES
            }
            envelopes = {
                node: Envelope(channel, session, outbox[party], self.study) for node, party in going.items()
            }
            waiting |= {number: (going[node], node) for number, node in self._push(envelopes, ends)}
            for node, party in going.items():
                told[party] = node
                times[node] = times.get(node, 0) + 1
                gone.pop(party, None)
            returning = [party for party in missing if time.monotonic() < gone.get(party, -_RETURN) + _RETURN]
            if not (waiting or self._questions or returning):
                return
            came = self._pulled(waiting)
            for number, answer in came:
                party, node = waiting.pop(number)
                if answer is None or party not in missing:
                    continue
                if isinstance(answer, _Lost):
                    if told.get(party) == node:
                        del told[party]
                    if answer.offline:
                        gone.setdefault(party, time.monotonic())
                    continue
                missing.remove(party)
                yield party, answer
            waiting = {number: asked for number, asked in waiting.items() if asked[0] in missing}
            if missing:
                rest.take(bool(came))  # pause even after answers: each look queries all pending messages
        self.silences += [f"{self._who(node)}: no answer in time" for _, node in waiting.values()]

    def _greet(self) -> frozenset[int]:
        """Ask new nodes for their parties, without waiting for late answers. Returns all nodes that are online."""
        now = time.monotonic()
        if now >= self._looked + _AWAKE:
            self._looked, self._online = now, frozenset(self.grid.get_node_ids())
        if self._parties is None:
            return self._online
        self._questions = {number: one for number, one in self._questions.items() if now < one.ends}
        fresh, ends = sorted(self._online - self._greeted), now + self.deadline
        self._greeted.update(fresh)
        question = who_is_there(self.study)
        for number, node in self._push(dict.fromkeys(fresh, question), ends):
            self._questions[number] = _Question(node, question, ends)
        return self._online

    def _push(self, envelopes: Mapping[int, Envelope], ends: float) -> list[tuple[str, int]]:
        """Send envelopes to nodes; returns the number and the node of each sent message."""
        if not envelopes:
            return []
        messages = [to_party(envelope, node) for node, envelope in envelopes.items()]
        for message in messages:
            message.metadata.ttl = max(ends - time.monotonic(), 1.0) + _GRACE
        sent = set(self.grid.push_messages(messages))
        numbers = [(one.metadata.message_id, one.metadata.dst_node_id) for one in messages]
        return [(number, node) for number, node in numbers if number in sent]

    def _pulled(self, waiting: Mapping[str, tuple[int, int]]) -> "list[tuple[str, bytes | _Lost | None]]":
        """The answers to these messages; answers about a node's party are processed here."""
        came: list[tuple[str, bytes | _Lost | None]] = []
        for reply in self.grid.pull_messages([*waiting, *self._questions]):
            # The sender's field means nothing here: errors come from the SuperLink.
            number = reply.metadata.reply_to_message_id
            if question := self._questions.pop(number, None):
                answer = self._answer(question.node, reply)
                if isinstance(answer, _Lost):
                    self._greeted.discard(question.node)
                else:
                    self._meet(question, answer)
            elif number in waiting:
                came.append((number, self._answer(waiting[number][1], reply)))
        return came

    def _meet(self, question: _Question, answer: bytes | None) -> None:
        """Record the party at a node, if it proves its identity."""
        if answer is None:
            return
        assert self._parties is not None  # otherwise no node was asked
        try:
            party = found(self._parties, question.envelope, question.node, answer)
        except WireError as error:
            self.silences.append(f"node {question.node}: {error}")
            return
        before = self.nodes.get(party, question.node)
        if before != question.node and before in self._online:
            self.twins.add(party)
            self.silences.append(
                f"{self._parties.everybody[party].name}: two nodes prove its identity, {before} and {question.node}; only the "
                "second is asked. Was its folder copied? If the first was killed a minute ago, nothing is wrong"
            )
        self.nodes[party] = question.node

    def _answer(self, node: int, reply: Message) -> "bytes | _Lost | None":
        """A node's answer; None if there is none, with the reason in `silences`."""
        if reply.has_error():
            code = reply.error.code
            self.silences.append(f"{self._who(node)}: {_ERRORS.get(code, f'error {code} of Flower')}")
            if code != _GONE:
                return None
            self._online -= {node}  # until it appears again
            return _Lost(offline=True)
        try:
            if is_again(reply.content):
                return _Lost(offline=False)
            answer = to_answer(reply.content)
        except WireError as error:
            self.silences.append(f"{self._who(node)}: {error}")
            return None
        if answer is None:
            self.silences.append(f"{self._who(node)}: refused; its own log says why")
        return answer

    def _who(self, node: int) -> str:
        """The name of the party at a node, or the node's number."""
        for party, at in self.nodes.items():
            if at == node and self._parties:
                return self._parties.everybody[party].name
        return f"node {node}"


@dataclass(frozen=True)
class _Lost:
    """A stopped process lost the question; the party may be asked again. offline: its node is not back yet."""

    offline: bool


class _Rest:
    """Pauses between two looks: short just after an answer, then longer, up to `longest` seconds, and never past `ends`."""

    def __init__(self, longest: float, ends: float) -> None:
        self._longest = longest
        self._ends = ends
        self._next = _SHORTEST

    def take(self, came: bool) -> None:
        pause = _SHORTEST if came else self._next
        time.sleep(max(0.0, min(pause, self._longest, self._ends - time.monotonic())))
        self._next = 1.3 * pause


def to_party(envelope: Envelope, node: int) -> Message:
    """An envelope as Flower's message to a node."""
    return Message(to_records(envelope), node, MESSAGE_TYPE)
