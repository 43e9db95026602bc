"""The adapter with Flower's own messages and apps, without an engine; then on the engines, which takes longer."""

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from worlds.folders import LAYERED, RIDGE, Federation, in_process, model, session_of, with_a_key
from worlds.mortal_node import NODE
from worlds.patience import HANG

from secure_afl.crypto.identity import Identity
from secure_afl.errors import DataError
from secure_afl.node.preflight import looked_at
from secure_afl.protocol.files.roster import Parties
from secure_afl.protocol.session.errors import LocalProtocolError
from secure_afl.protocol.session.profile import Verify
from secure_afl.protocol.session.roster import Member, Roster
from secure_afl.protocol.session.wire import VERSION, WireError
from secure_afl.protocol.transport.post import Channel, Envelope, here

pytest.importorskip(
    "flwr", reason="FLOWER IS NOT INSTALLED: nothing of the transport over Flower is tested here"
)

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from worlds.grids import Clock, LocalGrid, Reply, answering, node, without_an_engine

from secure_afl.node import flower_app
from secure_afl.protocol.audit.chain import read
from secure_afl.protocol.audit.check import verify
from secure_afl.protocol.audit.events import Acknowledged, EndAnswered, end_answered
from secure_afl.protocol.audit.log import EVIDENCE, kept
from secure_afl.protocol.durable.store import Store, StoreError
from secure_afl.protocol.files import keys
from secure_afl.protocol.files import roster as roster_file
from secure_afl.protocol.session.errors import FileError, RoundAbortedError
from secure_afl.protocol.transport.flower import records
from secure_afl.protocol.transport.flower.server import FlowerPost, to_party
from secure_afl.sums.remote import is_open


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return without_an_engine(monkeypatch)


@pytest.mark.parametrize(
    "envelope", [Envelope(Channel.MASKED, bytes(32), b"abc"), Envelope(Channel.END, bytes(32))]
)
def test_an_envelope_comes_as_it_went(envelope: Envelope) -> None:
    assert records.to_envelope(to_party(envelope, 7).content) == envelope


@pytest.mark.parametrize("answer", [b"", b"abc", None])
def test_an_answer_comes_as_it_went(answer: bytes | None) -> None:
    assert records.to_answer(records.answer_records(answer)) == answer


def about(channel: str, session: str | bytes, version: str = VERSION) -> ConfigRecord:
    return ConfigRecord({"version": version, "channel": channel, "session": session})


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"about": about("masked", "x")}),
        RecordDict({"about": about("other", bytes(32))}),
        RecordDict({"about": about("masked", bytes(32))}),
        RecordDict({"about": about("masked", bytes(31)), "payload": ArrayRecord()}),
        RecordDict(
            {"about": about("masked", bytes(32)), "payload": ArrayRecord({"bytes": Array(np.zeros(3))})}
        ),
    ],
)
def test_records_that_are_no_envelope_are_refused(content: RecordDict) -> None:
    with pytest.raises(WireError, match="expected"):
        records.to_envelope(content)


def test_two_versions_that_meet_both_say_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Node 100 has another program than the server and the other nodes."""
    federation = Federation(tmp_path)

    def reply(at: int, message: Message) -> Message:
        with monkeypatch.context() as other:
            if at == 100:
                other.setattr(records, "VERSION", "secure-afl/3")
            return node(federation, at - 100, message)

    with pytest.warns(match="without site-0"):
        report = flower_app.serve(LocalGrid(4, reply), federation.server, 1.0, 0.01)
    assert report["silences"] == ["node 100: expected protocol version 'secure-afl/2', got 'secure-afl/3'"]
    assert "expected protocol version 'secure-afl/3', got 'secure-afl/2'" in caplog.text


def test_a_study_over_the_apps_has_the_same_bits(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    report = flower_app.serve(LocalGrid(4, answering(federation)), federation.server, 5.0, 0.01)
    expected = in_process(federation)
    for folder in (federation.server, *federation.folders):
        assert np.array_equal(model(folder)[0], expected)
    assert report["silences"] == []
    phases = [one["phase"] for one in report["phases"]]
    masked = ["advertising", "sharing", "confirming", "collecting", "consenting", "unmasking", "answering"]
    assert phases[1:-1] == masked


def test_no_text_of_an_error_leaves_a_client(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Flower itself would send the exception's text, which here holds a number of the table."""
    federation = Federation(tmp_path)
    table = federation.folders[0] / "rows.csv"
    table.write_text(table.read_text() + "13,123456.75,0,0,no\n")  # over its bound
    told: list[Message] = []

    def reply(at: int, message: Message) -> Message:
        told.append(node(federation, at - 100, message))
        return told[-1]

    with pytest.warns(match="without site-0"):
        report = flower_app.serve(LocalGrid(4, reply), federation.server, 5.0, 0.01)
    # It gave no vector, and takes no model of a sum that it was not in.
    assert report["silences"] == ["site-0: refused; its own log says why"] * 2
    assert not any(one.has_error() for one in told)
    refusals = [one.content for one in told if records.to_answer(one.content) is None]
    assert refusals == [records.answer_records(None)] * 2
    # Nor is it in the node's own output, which others may collect; the party sees it when it looks.
    assert "refusal=DataError" in caplog.text
    assert "123456" not in caplog.text
    (data,) = [one for one in looked_at(federation.folders[0]) if one.what == "data"]
    assert data.fault
    assert "within its column's bound" in data.said


def test_a_client_without_its_files_says_no_more_than_that_it_refuses(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    (federation.folders[0] / "identity.key").unlink()
    question = to_party(Envelope(Channel.WHEREABOUTS, bytes(32)), 100)
    assert node(federation, 0, question).content == records.answer_records(None)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["error", "silence", "garbage", "another's"])
def test_whatever_a_node_does_it_is_a_dropout_and_no_more(tmp_path: Path, kind: str) -> None:
    federation = Federation(tmp_path)

    def reply(at: int, message: Message) -> Message | None:
        honest = node(federation, at - 100, message)
        if at != 102 or records.to_envelope(message.content).channel is not Channel.MASKED:
            return honest
        if kind == "another's":  # a reply to a message that was never sent
            honest.metadata.__dict__["_reply_to_message_id"] = "4711"
            return honest
        replies = {
            "error": Message(Error(code=2, reason="a text"), reply_to=message),
            "silence": None,
            "garbage": Message(RecordDict({"payload": ArrayRecord()}), reply_to=message),
        }
        return replies[kind]

    grid = LocalGrid(4, reply)
    with pytest.warns(match="without site-2"):
        report = flower_app.serve(grid, federation.server, 1.0, 0.01)
    assert np.array_equal(model(federation.server)[0], in_process(federation, [0, 1, 3]))
    # Then it refuses the model, since it was not in the sum that it could check it by.
    first, second = report["silences"]
    assert first.startswith("site-2: ")
    assert second == "site-2: refused; its own log says why"
    assert "a text" not in first


def test_a_node_that_claims_to_be_another_gets_none_of_its_messages(tmp_path: Path) -> None:
    federation = Federation(tmp_path)

    def reply(at: int, message: Message) -> Message:
        if at == 99:  # passes on what node 101 says of itself
            return Message(
                node(federation, 1, to_party(records.to_envelope(message.content), 101)).content,
                reply_to=message,
            )
        return node(federation, at - 100, message)

    grid = LocalGrid(4, reply)
    grid.nodes.insert(0, 99)
    post = FlowerPost(grid, 5.0, 0.01)
    post.find(federation.parties)
    assert post.nodes == {0: 100, 1: 101, 2: 102, 3: 103}
    assert post.silences == [
        "node 99: expected an address signed by site-1 under this roster, the signature does not verify"
    ]


def test_who_is_not_found_by_the_deadline_is_not_waited_for(tmp_path: Path, clock: Clock) -> None:
    federation = Federation(tmp_path)
    with pytest.warns(match="without site-3"):
        flower_app.serve(LocalGrid(3, answering(federation)), federation.server, 0.5, 0.01)
    assert sum(clock.slept) == pytest.approx(0.5, abs=0.4)


# ---- nodes that come back --------------------------------------------------------------------------


class Returning:
    """A party's node that goes with its `last` message of a session, and comes back under another number.

    lost: "question", it never came; "answer", it was given and not sent. ends: what Flower sends back for it.
    """

    def __init__(self, federation: Federation, party: int, last: int, lost: str, ends: str) -> None:
        self.federation, self.party, self.last, self.lost, self.ends = federation, party, last, lost, ends
        self.old = 100 + party
        self.came = 0
        self.grid = LocalGrid(len(federation.folders), self.reply)

    def reply(self, at: int, message: Message) -> Message | None:
        party = self.party if at == 202 else at - 100
        envelope = records.to_envelope(message.content)
        if at == self.old and envelope.channel in (Channel.MASKED, Channel.ENCRYPTED):
            self.came += 1
            if self.came >= self.last:
                if self.came == self.last:
                    self.grid.nodes = [one for one in self.grid.nodes if one != at] + [202]
                    if self.lost == "answer":
                        node(self.federation, party, message)
                return None if self.ends == "silence" else Message(Error(code=5), reply_to=message)
        return node(self.federation, party, message)


@pytest.mark.slow
@pytest.mark.parametrize("ends", [pytest.param("silence", marks=pytest.mark.long), "error"])
@pytest.mark.parametrize(("last", "lost"), [(1, "question"), (2, "answer"), (4, "question"), (4, "answer")])
def test_a_client_that_comes_back_at_another_node_misses_nothing(
    tmp_path: Path, clock: Clock, last: int, lost: str, ends: str
) -> None:
    federation = Federation(tmp_path)
    returning = Returning(federation, 2, last, lost, ends)
    report = flower_app.serve(returning.grid, federation.server, 60.0, 0.01)
    assert (
        sum(clock.slept) < 2.0
    )  # nobody waits for the node that is gone; new ones are looked for each second
    assert returning.came == last
    assert np.array_equal(model(federation.server)[0], in_process(federation))
    assert np.array_equal(model(federation.folders[2])[0], in_process(federation))
    assert report["silences"] == ([] if ends == "silence" else ["site-2: its node is offline"])


def test_a_key_holder_that_comes_back_at_another_node_misses_nothing(tmp_path: Path) -> None:
    """It is the only key holder; while Flower says that its node is gone, the server waits for nobody else."""
    federation = Federation(tmp_path, holders=1, backend="bfv")
    returning = Returning(federation, 4, 2, "answer", "error")
    flower_app.serve(returning.grid, federation.server, 60.0, 0.01)
    assert returning.came == 2
    assert np.array_equal(model(federation.server)[0], in_process(federation))


def test_a_node_that_comes_later_and_claims_to_be_another_gets_none_of_its_messages(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    got: list[Channel] = []

    def reply(at: int, message: Message) -> Message:
        if at != 99:
            grid.nodes = [99, 100, 101, 102, 103]
            return node(federation, at - 100, message)
        got.append(records.to_envelope(message.content).channel)
        there = node(federation, 1, to_party(records.to_envelope(message.content), 101))
        return Message(there.content, reply_to=message)

    grid = LocalGrid(4, reply)
    report = flower_app.serve(grid, federation.server, 60.0, 0.01)
    assert got == [Channel.WHEREABOUTS]
    assert report["silences"] == [
        "node 99: expected an address signed by site-1 under this roster, the signature does not verify"
    ]


def test_a_silent_stranger_is_waited_for_once_at_most(tmp_path: Path, clock: Clock) -> None:
    """And only if a party is missing, which the stranger could be."""
    federation = Federation(tmp_path)

    def reply(at: int, message: Message) -> Message | None:
        gone = at == 103 and records.to_envelope(message.content).channel is Channel.MASKED
        if gone:
            return Message(records.answer_records(None), reply_to=message)
        return node(federation, at - 100, message) if at != 99 else None

    grid = LocalGrid(4, reply)
    grid.nodes.append(99)
    with pytest.warns(match="without site-3"):
        flower_app.serve(grid, federation.server, 3.0, 0.01)
    assert sum(clock.slept) == pytest.approx(3.0, abs=0.5)


# ---- servers that stop -----------------------------------------------------------------------------


class Stopping(LocalGrid):
    """The network is lost after so many answers of a session."""

    def __init__(self, nodes: int, reply: Reply, answers: int) -> None:
        super().__init__(nodes, reply)
        self.left = answers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        came: list[Message] = []
        for number in message_ids:
            if number not in self.waiting:
                continue
            if records.to_envelope(self.sent[int(number)].content).channel is not Channel.WHEREABOUTS:
                if not self.left:
                    if came:
                        break
                    raise ConnectionError("the network is lost")
                self.left -= 1
            came.append(self.waiting.pop(number))
        return came


@pytest.mark.long
@pytest.mark.parametrize(
    ("backend", "holders", "study"),
    [("mask", 0, f"{RIDGE}rounds = 2\n"), ("bfv", 1, RIDGE), ("bfv+mask", 1, RIDGE), ("mask", 0, LAYERED)],
    ids=["two rounds", "bfv", "bfv+mask", "layers that are told"],
)
def test_a_server_that_stops_again_and_again_goes_on_with_its_session(
    tmp_path: Path, backend: str, holders: int, study: str
) -> None:
    federation = Federation(tmp_path, holders=holders, backend=backend, study=study)
    identity = with_a_key(federation)
    reply, lives = answering(federation), 0
    while True:
        lives += 1
        try:
            report = flower_app.serve(Stopping(4 + holders, reply, answers=5), federation.server, 5.0, 0.01)
            break
        except ConnectionError:
            assert lives < 30
    assert lives > 4
    assert report["resumed"]
    for folder in (federation.server, *federation.folders):
        assert np.array_equal(model(folder)[-1], in_process(federation))
    assert all(len(session_of(federation, party)) == 1 for party in range(4))
    with closing(Store(federation.server / "state.db", identity)) as store:
        assert not is_open(store)
        assert store.run("SELECT count(*) FROM journal") == [(0,)]
    logs = {str(path): path.read_bytes() for path in tmp_path.glob("*/audit.jsonl")}
    assert len(logs) == 5 + holders
    assert [str(one) for one in verify(logs, federation.parties).findings] == []


def test_a_session_that_was_left_open_is_not_begun_anew_with_other_files(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    with_a_key(federation)
    with pytest.raises(ConnectionError):
        flower_app.serve(Stopping(4, answering(federation), 5), federation.server, 5.0, 0.01)
    study = federation.server / "study.toml"
    as_agreed = study.read_text()
    study.write_text(as_agreed.replace("max_rows = 100", "max_rows = 100000"))
    grid = LocalGrid(4, answering(federation))
    with pytest.raises(StoreError, match=r"state\.db: expected the roster, policy and study of the session"):
        flower_app.serve(grid, federation.server, 5.0, 0.01)
    study.write_text(as_agreed)
    assert flower_app.serve(grid, federation.server, 5.0, 0.01)["resumed"]
    assert np.array_equal(model(federation.server)[0], in_process(federation))


def test_a_session_that_failed_is_over(tmp_path: Path) -> None:
    """Nobody continues it; its parties have erased their secrets."""
    federation = Federation(tmp_path)
    with_a_key(federation)

    def reply(at: int, message: Message) -> Message | None:
        lost = at > 101 and records.to_envelope(message.content).channel is Channel.MASKED
        return None if lost else node(federation, at - 100, message)

    with pytest.raises(RoundAbortedError):
        flower_app.serve(LocalGrid(4, reply), federation.server, 1.0, 0.01)
    assert len(session_of(federation, 0)) == 1
    report = flower_app.serve(LocalGrid(4, answering(federation)), federation.server, 5.0, 0.01)
    assert not report["resumed"]
    assert np.array_equal(model(federation.server)[0], in_process(federation))
    said = [one.event for one in read((federation.server / "audit.jsonl").read_bytes()).entries]
    ends = [one for one in said if isinstance(one, Acknowledged)][-4:]
    keys = {member.verify_key for member in federation.parties.everybody}
    assert {one.key for one in ends} == keys
    assert {end_answered(one.key, one.line).event for one in ends} == {
        EndAnswered(bytes.fromhex(report["session"]))
    }


def test_a_failed_run_leaves_no_model_and_report_in_the_place_of_its_own(tmp_path: Path) -> None:
    """Parties do not take an earlier session's model for this one's either."""
    federation = Federation(tmp_path)
    flower_app.serve(LocalGrid(4, answering(federation)), federation.server, 5.0, 0.01)
    everywhere = (federation.server, *federation.folders)
    before = {folder: (folder / "model.npz").read_bytes() for folder in everywhere}
    report = (federation.server / "report.json").read_bytes()
    for folder in federation.folders:  # other rows: the first ones are spent
        (folder / "data.toml").write_text('table = "rows.csv"\nname = "other rows"\n')

    def reply(at: int, message: Message) -> Message | None:
        envelope = records.to_envelope(message.content)
        lost = at > 101 and envelope.channel is Channel.MASKED and b"directory" in envelope.data[:16]
        return None if lost else node(federation, at - 100, message)

    with pytest.raises(RoundAbortedError):
        flower_app.serve(LocalGrid(4, reply), federation.server, 1.0, 0.01)
    for folder in everywhere:
        assert not (folder / "model.npz").exists()
        assert (folder / "model.previous.npz").read_bytes() == before[folder]
    assert not (federation.server / "report.json").exists()
    assert (federation.server / "report.previous.json").read_bytes() == report
    flower_app.serve(LocalGrid(4, answering(federation)), federation.server, 5.0, 0.01)
    assert all((folder / "model.npz").exists() for folder in everywhere)


def test_a_message_that_is_refused_leaves_the_model_in_its_place(tmp_path: Path) -> None:
    """A server cannot remove a party's model by proposing something that the party refuses."""
    federation = Federation(tmp_path)
    flower_app.serve(LocalGrid(4, answering(federation)), federation.server, 5.0, 0.01)
    study = federation.server / "study.toml"
    study.write_text(study.read_text().replace("max_rows = 100", "max_rows = 99"))
    with pytest.raises(RoundAbortedError):
        flower_app.serve(LocalGrid(4, answering(federation)), federation.server, 1.0, 0.01)
    assert all((folder / "model.npz").exists() for folder in federation.folders)


@pytest.mark.parametrize("listed", [False, True])
def test_a_server_runs_with_no_key_of_a_party(tmp_path: Path, listed: bool) -> None:
    """Its key is a server's, and in no roster, whoever wrote that by hand."""
    federation = Federation(tmp_path)
    member, secret, _ = keys.write_key(federation.server, "server", server=listed)
    secret.rename(federation.server / "identity.key")
    if listed:
        clients = Roster((*federation.parties.clients.members[:3], member))
        (federation.server / "roster.toml").write_text(roster_file.text(roster_file.Parties(clients)))
    what = "stands in no roster, got that of server" if listed else "a server's key, got the key of a client"
    with pytest.raises(FileError, match=what):
        flower_app.serve(LocalGrid(4, answering(federation)), federation.server, 1.0, 0.01)


def test_a_server_without_an_identity_ends_what_it_cannot_go_on_with(tmp_path: Path) -> None:
    federation = Federation(tmp_path)

    class Lost(LocalGrid):
        lost = False

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            if len(self.sent) == 4 + 8 and not self.lost:
                self.lost = True
                raise ConnectionError
            return super().pull_messages(message_ids)

    with pytest.raises(ConnectionError):
        flower_app.serve(Lost(4, answering(federation)), federation.server, 5.0, 0.01)
    assert len(session_of(federation, 0)) == 1


# ---- deadlines -------------------------------------------------------------------------------------


GRACE = 5.0  # seconds that Flower keeps a message beyond the deadline


class Timed(LocalGrid):
    """Three parties with nodes of their own; those in `silent` say nothing. late: a node that comes after so many looks."""

    def __init__(self, *, silent: Sequence[int] = (), late: int = 0) -> None:
        identities = [Identity.generate() for _ in range(3)]
        members = [Member(f"site-{number}", one.verify_key) for number, one in enumerate(identities)]
        self.parties = Parties(Roster(tuple(members)), None)
        self.pulls, self.late = 0, late

        def reply(at: int, message: Message) -> Message | None:
            party, envelope = at - 100, records.to_envelope(message.content)
            if party in silent:
                return None
            said = envelope.data[::-1]
            if envelope.channel is Channel.WHEREABOUTS:
                said = here(identities[party], self.parties, party, envelope, at)
            return Message(records.answer_records(said), reply_to=message)

        super().__init__(3, reply)

    def get_node_ids(self) -> Iterable[int]:
        self.late -= 1
        return self.nodes[:2] if self.late >= 0 else self.nodes

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self.pulls += 1
        assert self.pulls < 1000, "asks for ever"
        return super().pull_messages(message_ids)


def test_all_are_found_without_waiting(clock: Clock) -> None:
    grid = Timed()
    post = FlowerPost(grid, 2.0, 0.25)
    post.find(grid.parties)
    assert post.nodes == {0: 100, 1: 101, 2: 102}
    assert (clock.slept, post.silences) == ([], [])
    assert [message.metadata.ttl for message in grid.sent] == [2.0 + GRACE] * 3


def test_a_node_that_comes_late_is_asked_when_it_comes(clock: Clock) -> None:
    grid = Timed(late=3)
    post = FlowerPost(grid, 2.0, 0.25)
    post.find(grid.parties)
    assert post.nodes == {0: 100, 1: 101, 2: 102}
    assert clock.slept == pytest.approx([0.05, 0.05 * 1.3, 0.05 * 1.3**2])
    assert [message.metadata.ttl for message in grid.sent] == [2.0 + GRACE] * 3


def test_who_does_not_come_is_waited_for_until_the_deadline(clock: Clock) -> None:
    grid = Timed(late=1000)
    post = FlowerPost(grid, 2.0, 0.25)
    post.find(grid.parties)
    assert post.nodes == {0: 100, 1: 101}
    assert sum(clock.slept) == pytest.approx(2.0)
    assert max(clock.slept) == 0.25


@pytest.mark.parametrize(("deadline", "ttl"), [(2.0, 2.0), (0.5, 1.0)])
def test_a_phase_ends_with_its_last_answer_or_at_its_deadline(
    clock: Clock, deadline: float, ttl: float
) -> None:
    silent: list[int] = []
    grid = Timed(silent=silent)
    post = FlowerPost(grid, deadline, 0.25, {0: 100, 1: 101, 2: 102})
    carry, outbox = post.carrier(Channel.MASKED, bytes(32)), {0: b"ab", 2: b"cd"}
    assert list(carry(outbox)) == [(0, b"ba"), (2, b"dc")]
    assert clock.slept == []
    silent.append(2)
    assert list(carry(outbox)) == [(0, b"ba")]
    assert sum(clock.slept) == pytest.approx(deadline)
    assert post.silences == ["node 102: no answer in time"]
    assert [message.metadata.ttl for message in grid.sent] == [
        ttl + GRACE
    ] * 4  # Flower takes no less than a second
    assert [message.metadata.dst_node_id for message in grid.sent] == [100, 102] * 2
    for nobody in ({}, {7: b"to nobody"}):
        assert list(carry(nobody)) == []
    assert len(grid.sent) == 4


def test_whatever_is_no_answer_is_nothing_and_said_once(clock: Clock) -> None:
    grid = Timed()
    honest, garbage = grid.reply, records.answer_records(None)
    garbage["payload"] = ArrayRecord()

    def reply(at: int, message: Message) -> Message | None:
        if at == 103:  # a reply to a message that was never sent
            stray = honest(100, message)
            assert stray is not None
            stray.metadata.__dict__["_reply_to_message_id"] = "4711"
            return stray
        replies: dict[int, Callable[[], Message | None]] = {
            100: lambda: Message(Error(code=2, reason="a text"), reply_to=message),
            101: lambda: Message(garbage, reply_to=message),
            102: lambda: Message(records.answer_records(None), reply_to=message),
        }
        return replies.get(at, lambda: honest(100, message))()

    grid.nodes, grid.reply = [100, 101, 102, 103, 104], reply
    post = FlowerPost(grid, 1.0, 0.25, {number: 100 + number for number in range(5)})
    carry = post.carrier(Channel.MASKED, bytes(32))
    assert list(carry(dict.fromkeys(range(5), b"ab"))) == [(4, b"ba")]
    assert post.silences == [
        "node 100: error 2 of Flower",
        "node 101: expected a record with one payload of bytes: the message is not of secure-afl",
        "node 102: refused; its own log says why",
        "node 103: no answer in time",
    ]
    assert sum(clock.slept) == pytest.approx(1.0)


def test_a_party_that_lost_its_question_is_asked_again_at_once_but_not_for_ever(clock: Clock) -> None:
    """A node was stopped between taking a message and answering it, and says so when it returns."""
    grid, losses = Timed(), [2, 1000]
    honest = grid.reply

    def reply(at: int, message: Message) -> Message | None:
        if at == 101 and losses[0] > 0:
            losses[0] -= 1
            return Message(records.again_records(), reply_to=message)
        return honest(at, message)

    grid.reply = reply
    post = FlowerPost(grid, 20.0, 0.25, {0: 100, 1: 101})
    carry = post.carrier(Channel.MASKED, bytes(32))
    assert sorted(carry({0: b"ab", 1: b"cd"})) == [(0, b"ba"), (1, b"dc")]
    assert sum(clock.slept) < 1.0
    assert post.silences == []
    losses.pop(0)
    assert list(carry({0: b"ab", 1: b"cd"})) == [(0, b"ba")]
    assert sum(clock.slept) < 3.0  # a party that loses it five times has refused


@pytest.mark.parametrize(("back", "answers"), [(3.0, [(0, b"ba"), (1, b"dc")]), (1000.0, [(0, b"ba")])])
def test_a_node_that_goes_offline_has_some_seconds_to_come_back(
    clock: Clock, back: float, answers: list[tuple[int, bytes]]
) -> None:
    """Flower reports the node as gone long before the phase's deadline."""
    grid = Timed()
    honest, gone = grid.reply, [100.0 + back]

    def reply(at: int, message: Message) -> Message | None:
        if at == 101 and clock.now < gone[0]:
            grid.nodes = [100, 102]
            return Message(Error(code=5), reply_to=message)
        return honest(at, message)

    def online() -> Iterable[int]:
        return [100, 101, 102] if clock.now >= gone[0] else grid.nodes

    grid.reply = reply
    grid.get_node_ids = online  # type: ignore[method-assign]
    post = FlowerPost(grid, 600.0, 0.25, {0: 100, 1: 101})
    assert list(post.carrier(Channel.MASKED, bytes(32))({0: b"ab", 1: b"cd"})) == answers
    assert sum(clock.slept) == pytest.approx(min(back, 15.0), abs=1.5)
    assert post.silences == ["node 101: its node is offline"]


@pytest.mark.parametrize("learned", [b"", b"a model"])
def test_the_end_is_told_to_all_that_were_found(clock: Clock, learned: bytes) -> None:
    grid = Timed()
    post = FlowerPost(grid, 2.0, 0.25, {0: 100, 2: 102})
    post.end(bytes(32), learned) if learned else post.end(bytes(32))
    envelopes = [records.to_envelope(message.content) for message in grid.sent]
    assert envelopes == [Envelope(Channel.END, bytes(32), learned)] * 2
    assert [message.metadata.dst_node_id for message in grid.sent] == [100, 102]


@pytest.mark.parametrize(
    ("deadline", "poll"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0), (1.0, -1.0), (math.nan, 1.0), (1.0, math.nan)]
)
def test_times_of_nothing_are_refused(deadline: float, poll: float) -> None:
    grid = Timed()
    FlowerPost(grid, 0.001, 0.001)
    with pytest.raises(LocalProtocolError, match="a deadline and a poll interval above 0 seconds"):
        FlowerPost(grid, deadline, poll)


# ---- on Flower's engines ---------------------------------------------------------------------------

_SIMULATION = """
import sys
from pathlib import Path
from flwr.serverapp import ServerApp
from flwr.simulation import run_simulation
from secure_afl.node.flower_app import client_app, serve
from secure_afl.simulations.network.many_nodes import start_ray

server, nodes = Path(sys.argv[1]), int(sys.argv[2])
app = ServerApp()

@app.main()
def main(grid, context):
    serve(grid, server, float(sys.argv[3]), 0.1)

start_ray(2)
run_simulation(app, client_app, num_supernodes=nodes, backend_config={"client_resources": {"num_cpus": 1}})
"""


@pytest.mark.long
@pytest.mark.parametrize(("backend", "holders"), [("mask", 0), ("bfv+mask", 1)])
def test_the_simulation_engine_gives_the_same_bits(tmp_path: Path, backend: str, holders: int) -> None:
    pytest.importorskip("ray", reason="RAY IS NOT INSTALLED: Flower's simulation engine is not tested here")
    federation = Federation(tmp_path, holders=holders, backend=backend)
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, "-c", _SIMULATION, str(federation.server), str(4 + holders), str(HANG)],
        env={**os.environ, **quiet, flower_app.VARIABLE: str(tmp_path)},
        check=False,
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert np.array_equal(model(federation.server)[0], in_process(federation))


@pytest.mark.long
def test_a_network_with_a_node_that_is_killed_gives_the_survivors_bits(tmp_path: Path) -> None:
    """A SuperLink and four nodes with TLS and node authentication; one dies when its vector is asked for.

    The phase ends when Flower says that the node is gone, which takes it a minute.
    """
    from secure_afl.simulations.network.loopback import Loopback

    federation = Federation(tmp_path / "parties")
    (federation.folders[3] / "dies").write_text("sum request before")
    with Loopback(tmp_path / "network", federation.folders, federation.server, node=NODE) as network:
        network.run(deadline=HANG, limit=2 * HANG)
    asked = (federation.folders[3] / "asked").read_text().splitlines()
    assert asked[-1] == "masked sum request"
    weights = [model(folder)[0] for folder in (federation.server, *federation.folders[:3])]
    assert all(np.array_equal(one, in_process(federation, [0, 1, 2])) for one in weights)


@pytest.mark.long
def test_a_server_that_is_killed_goes_on_in_the_next_run(tmp_path: Path) -> None:
    """The nodes stay; what they answered before is not asked again.

    A node holds its vector back until the server is dead: the run's log comes late, and the run would be over.
    """
    from secure_afl.simulations.network.loopback import Loopback

    federation = Federation(tmp_path / "parties")
    with_a_key(federation)
    (federation.folders[3] / "dies").write_text("sum request waits")
    with Loopback(tmp_path / "network", federation.folders, federation.server, node=NODE) as network:

        def watch(line: str) -> None:
            if "phase: collecting" in line:
                network.kill_server()
                (federation.folders[3] / "go").touch()

        with pytest.raises(DataError, match="ended without a report"):
            network.run(deadline=HANG, limit=2 * HANG, watch=watch)
        said = network.run(deadline=HANG, limit=2 * HANG)
    assert "left open" in said
    for folder in (federation.server, *federation.folders):
        assert np.array_equal(model(folder)[-1], in_process(federation))
    assert all(len(session_of(federation, party)) == 1 for party in range(4))


@pytest.mark.long
def test_a_superlink_that_is_killed_costs_a_run_and_no_session(tmp_path: Path) -> None:
    """`python tests/long/killed_superlink.py` does it in each phase."""
    from secure_afl.simulations.network.loopback import Loopback

    federation = Federation(tmp_path / "parties")
    with_a_key(federation)
    with Loopback(tmp_path / "network", federation.folders, federation.server) as network:

        def watch(line: str) -> None:
            if "phase: consenting" in line:
                network.kill_superlink()
                network.start_superlink()

        with pytest.raises(DataError, match="the study again"):
            network.run(deadline=HANG, limit=2 * HANG, watch=watch)
        assert not (federation.server / "model.npz").exists()
        said = network.run(deadline=HANG, limit=2 * HANG)
    assert "left open" in said
    for folder in (federation.server, *federation.folders):
        assert np.array_equal(model(folder)[-1], in_process(federation))
    assert all(len(session_of(federation, party)) == 1 for party in range(4))


@pytest.mark.long
def test_real_nodes_replay_a_sum(tmp_path: Path) -> None:
    """Each node adds all uploads up itself and keeps the evidence, from which an auditor makes the sum again."""
    from secure_afl.simulations.network.loopback import Loopback

    federation = Federation(tmp_path / "parties", verify=Verify.REPLAY)
    with_a_key(federation)
    with Loopback(tmp_path / "network", federation.folders, federation.server) as network:
        network.run(deadline=HANG, limit=2 * HANG)
    for folder in (federation.server, *federation.folders):
        assert np.array_equal(model(folder)[0], in_process(federation))
    evidence = [[one.name for one in (folder / EVIDENCE).iterdir()] for folder in federation.folders]
    assert evidence == [evidence[0]] * 4
    assert len(evidence[0]) == 1
    paths = [folder / "audit.jsonl" for folder in (federation.server, *federation.folders)]
    logs = {str(path): path.read_bytes() for path in paths}
    report = verify(logs, federation.parties, kept(paths))
    assert [str(one) for one in report.findings] == []
    assert not any("not made again" in one.text for one in report.notes)
    (federation.folders[0] / EVIDENCE / evidence[0][0]).write_bytes(b"spoiled")
    report = verify(logs, federation.parties, kept(paths[1:2]))
    assert any("accepted a sum that its evidence does not give" in str(one) for one in report.findings)
