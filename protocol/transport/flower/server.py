"""The server's side: which node is which party, and letters to them and back, through Flower's `Grid`."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from flwr.app import Message
from flwr.serverapp import Grid

from secure_afl.protocol.driver import Carry, Outbox
from secure_afl.protocol.errors import LocalProtocolError
from secure_afl.protocol.roster_file import Parties
from secure_afl.protocol.transport.flower.records import MESSAGE_TYPE, to_answer, to_records
from secure_afl.protocol.transport.post import Channel, Letter, found, who_is_there
from secure_afl.protocol.wire import WireError


@dataclass
class FlowerPost:
    """Carries letters to the parties of one run.

    deadline: seconds that a phase lasts at most; poll: seconds between two looks for answers. `nodes` says at which
    node each party is, by its number; `silences` why a party said nothing.
    """

    grid: Grid
    deadline: float
    poll: float = 0.2
    nodes: dict[int, int] = field(default_factory=dict)
    silences: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not (self.deadline > 0 and self.poll > 0):
            raise LocalProtocolError(
                f"expected a deadline and a poll interval above 0 seconds, got {self.deadline} and {self.poll}"
            )

    def find(self, parties: Parties) -> None:
        """Ask every node who it is, until all parties are found or the deadline has passed.

        A node proves who it is, so no other node can draw a party's messages to itself. Who is not found is taken for
        a dropout of the whole run.
        """
        ends, asked = time.monotonic() + self.deadline, set[int]()
        while time.monotonic() < ends:
            fresh = set(self.grid.get_node_ids()) - asked
            asked |= fresh
            question = who_is_there()
            for node, answer in self._answers(
                {node: to_party(question, node) for node in sorted(fresh)}, ends
            ):
                try:
                    self.nodes.setdefault(found(parties, question, node, answer), node)
                except WireError as error:
                    self.silences.append(f"node {node}: {error}")
                if len(self.nodes) == len(parties.everybody):
                    return
            time.sleep(self.poll)

    def carry(self, channel: Channel, session: bytes) -> Carry:
        """What carries the messages of one session."""
        return lambda outbox: self._carried(channel, session, outbox)

    def end(self, session: bytes, learned: bytes = b"") -> None:
        """Tell all parties that a session is over and what was learned, so that they erase its secrets. Those that do not
        hear it keep them, locked, in their stores.
        """
        for _ in self._carried(Channel.END, session, dict.fromkeys(self.nodes, learned)):
            pass

    def _carried(self, channel: Channel, session: bytes, outbox: Outbox) -> Iterator[tuple[int, bytes]]:
        reached = {self.nodes[party]: party for party in outbox if party in self.nodes}
        letters = {
            node: to_party(Letter(channel, session, outbox[party]), node) for node, party in reached.items()
        }
        for node, answer in self._answers(letters, time.monotonic() + self.deadline):
            yield reached[node], answer

    def _answers(self, letters: Mapping[int, Message], ends: float) -> Iterator[tuple[int, bytes]]:
        """Answers by node, as they come. An error, a refusal and silence are all the same: nothing."""
        if not letters:
            return
        for letter in letters.values():
            letter.metadata.ttl = max(ends - time.monotonic(), 1.0)
        sent = set(self.grid.push_messages(list(letters.values())))
        waiting = {one.metadata.message_id: node for node, one in letters.items()}
        waiting = {number: node for number, node in waiting.items() if number in sent}
        while waiting and time.monotonic() < ends:
            came = list(self.grid.pull_messages(list(waiting)))
            for reply in came:
                # Who sent it says nothing: errors come from the SuperLink.
                node = waiting.pop(reply.metadata.reply_to_message_id, None)
                if node is None:
                    continue
                if reply.has_error():
                    self.silences.append(f"node {node}: Flower's error {reply.error.code}")
                    continue
                try:
                    answer = to_answer(reply.content)
                except WireError as error:
                    self.silences.append(f"node {node}: {error}")
                    continue
                if answer is None:
                    self.silences.append(f"node {node}: refused; its own log says why")
                else:
                    yield node, answer
            if waiting:
                time.sleep(self.poll)  # also if some came: each look goes through all that is waited for
        self.silences += [f"node {node}: no answer in time" for node in waiting.values()]


def to_party(letter: Letter, node: int) -> Message:
    """A letter as Flower's message to a node."""
    return Message(to_records(letter), node, MESSAGE_TYPE)
