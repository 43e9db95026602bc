"""Nodes of ours at a SuperLink of ours, in this process: what they answer, what they refuse, and what they outlive."""

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("flwr", reason="FLOWER IS NOT INSTALLED: nodes are not tested here")

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid
from worlds.folders import Federation, Post, in_process, learned, model
from worlds.patience import HANG, until
from worlds.superlinks import Here, superlink

from secure_afl.errors import DropoutWarning
from secure_afl.node import flower_app
from secure_afl.node import node as node_module
from secure_afl.node.node import Memory, Node, interval, pause, recalled, remember, settings
from secure_afl.node.site import Folder
from secure_afl.protocol.audit.chain import read
from secure_afl.protocol.audit.check import verify
from secure_afl.protocol.audit.events import Foreign, Twins
from secure_afl.protocol.files import keys
from secure_afl.protocol.files.roster import Parties
from secure_afl.protocol.session.errors import FileError
from secure_afl.protocol.transport.flower.fleet import Delivery, Fleet, FleetError, NotOursError
from secure_afl.protocol.transport.flower.records import MESSAGE_TYPE, to_records
from secure_afl.protocol.transport.flower.server import FlowerPost
from secure_afl.protocol.transport.post import Channel, Envelope, who_is_there

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads are stopped without a signal, and that is looked at between two questions."""
    monkeypatch.setattr(node_module, "_HELD", 0.5)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    with superlink(tmp_path_factory.mktemp("link"), nodes=4) as one:
        for number in range(4):
            one.register(number)
        yield one


@pytest.fixture
def grid(here: Here, monkeypatch: pytest.MonkeyPatch) -> HttpGrid:
    grid = here.grid()
    monkeypatch.setattr(TaskIdentity, "_task_id", 1)
    monkeypatch.setattr(TaskIdentity, "_node_id", 1)
    monkeypatch.setattr(TaskIdentity, "_run_id", grid.run.run_id)
    return grid


@pytest.fixture
def federation(here: Here, tmp_path: Path) -> Federation:
    """Four parties with a node's files."""
    federation = Federation(tmp_path)
    (tmp_path / "ca.crt").write_bytes(here.authority)
    for folder, key in zip(federation.folders, here.keys, strict=True):
        (folder / "node").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        (folder / "node").chmod(0o600)
        (folder / "node.toml").write_text(f'superlink = "{here.public}"\nauthority = "../ca.crt"\n')
    return federation


@contextmanager
def nodes(*folders: Path) -> Iterator[list[Node]]:
    """At work while the block runs."""
    made = [Node(folder) for folder in folders]
    threads = [threading.Thread(target=one.work, daemon=True) for one in made]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        for one in made:
            one.stop()
        for thread in threads:
            thread.join(HANG)
            assert not thread.is_alive()


def asked(grid: HttpGrid, kind: str, content: RecordDict, nodes: int = 1) -> list[Message]:
    """What all nodes that are online say to a message."""
    until(lambda: len(list(grid.get_node_ids())) == nodes)
    numbers = grid.push_messages([Message(content, one, kind, ttl=HANG) for one in grid.get_node_ids()])
    replies: list[Message] = []

    def all_came() -> bool:
        replies.extend(grid.pull_messages(numbers))
        return len(replies) == nodes

    until(all_came)
    return replies


@pytest.mark.slow
def test_a_study_over_nodes_has_the_same_bits(grid: HttpGrid, federation: Federation) -> None:
    with nodes(*federation.folders):
        report = flower_app.serve(grid, federation.server, HANG, 0.2)
    assert report["silences"] == []
    for folder in (federation.server, *federation.folders):
        assert np.array_equal(model(folder)[0], in_process(federation))
    assert all(recalled(folder) == Memory() for folder in federation.folders)


def test_a_message_of_another_kind_is_refused_and_noted_once(
    here: Here, grid: HttpGrid, federation: Federation, capfd: pytest.CaptureFixture[str]
) -> None:
    """The node does not even fetch the app that came with the message and would have answered it."""
    folder = federation.folders[0]
    with nodes(folder):
        for _ in range(2):
            (reply,) = asked(grid, "query.shell", RecordDict({"command": ConfigRecord({"is": "id"})}))
            assert (reply.error.code, reply.error.reason) == (1000, "refused")
    lines = capfd.readouterr().err.splitlines()
    said = [line for line in lines if "foreign message: query.shell" in line]
    assert len(said) == 2
    assert here.app in said[0]
    events = [entry.event for entry in read((folder / "audit.jsonl").read_bytes()).entries]
    assert [event for event in events if isinstance(event, Foreign)] == [Foreign("query.shell", here.app)]


def test_a_party_that_has_not_approved_reads_no_long_message(
    grid: HttpGrid, federation: Federation, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = federation.folders[0]
    Folder(folder).revoke("an operator", "a test")
    long = to_records(Envelope(Channel.MASKED, bytes(32), bytes(2**18)))
    with nodes(folder):
        (reply,) = asked(grid, MESSAGE_TYPE, long)
        assert reply.error.code == 1000
        assert "longer one" in capfd.readouterr().err
        Folder(folder).approve("an operator", "a test")
        (reply,) = asked(grid, MESSAGE_TYPE, long)
    assert reply.error.code == 1000  # a ridge of three columns needs no such message


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["mask", "bfv", "bfv+mask", "ckks"])
def test_no_message_or_answer_of_a_study_is_above_its_bound(tmp_path: Path, backend: str) -> None:
    federation = Federation(tmp_path, holders=0 if backend == "mask" else 1, backend=backend)
    asked, answers = list[tuple[int, int]](), list[int]()

    class Measured(Post):
        def ask(self, party: int, envelope: Envelope, address: int = 0) -> bytes:
            with closing(Folder(self.federation.folders[party]).endpoint()) as endpoint:
                asked.append((len(envelope.data), endpoint.largest))
                answers.append(len(endpoint.answer(envelope, address)))
            return super().ask(party, envelope, address)

    learned(federation, Measured(federation))
    assert all(size <= most for size, most in asked)
    assert max(answers) <= federation.terms()[0].largest_answer < 2**24


def copied(federation: Federation, to: Path, key: Path) -> Path:
    """A copy of the first party's folder, with the node key of another one."""
    shutil.copytree(federation.folders[0], to)
    shutil.copy(key, to / "node")
    (to / "node.toml").write_text(
        (to / "node.toml").read_text().replace("../ca.crt", str(federation.root / "ca.crt"))
    )
    return to


def test_a_copy_of_a_node_is_found_out_by_the_one_that_it_replaces(
    here: Here,
    federation: Federation,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Before, both nodes stayed online and silently took turns at the messages."""
    first = federation.folders[0]
    with nodes(first):
        until(lambda: recalled(first).node != 0)
        other = copied(federation, tmp_path / "copy", first / "node")
        with nodes(other):
            log = first / "audit.jsonl"
            until(lambda: b"two nodes with one identity" in log.read_bytes())
            assert "another process with this node's key came to" in capfd.readouterr().err
            assert b"two nodes with one identity" not in (other / "audit.jsonl").read_bytes()
    assert any("was its party's folder copied?" in one.message for one in caplog.records)
    assert not verify({"log": log.read_bytes()}).findings


@pytest.mark.slow
def test_the_server_finds_two_nodes_with_one_identity(
    grid: HttpGrid, federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opens no sum that counts the party twice or has another vector in its place."""
    folders = [*federation.folders[:3], copied(federation, tmp_path / "copy", federation.folders[3] / "node")]
    keys.write_key(federation.server, "identity", server=True)

    def find_all(post: FlowerPost, parties: Parties) -> None:
        """The fourth party is away; the copy has its place at the SuperLink."""
        monkeypatch.setattr(FlowerPost, "find", lambda post, parties: None)
        until(lambda: len(list(grid.get_node_ids())) == 4)
        post._parties = parties

        def found() -> bool:
            post._greet()
            post._pulled({})
            return len(post.nodes) == 3 and bool(post.twins)

        until(found)

    monkeypatch.setattr(FlowerPost, "find", find_all)
    with nodes(*folders), pytest.warns(DropoutWarning, match="without site-3"):
        report = flower_app.serve(grid, federation.server, 30.0, 0.2)
    assert any("site-0: two nodes prove its identity" in one for one in report["silences"])
    assert np.array_equal(model(federation.server)[0], in_process(federation, [0, 1, 2]))
    log = (federation.server / "audit.jsonl").read_bytes()
    assert [one.event for one in read(log).entries if isinstance(one.event, Twins)] == [Twins("site-0")]


def test_invented_kinds_of_messages_do_not_fill_the_audit_log(federation: Federation) -> None:
    """In the weak design each new type adds lines to the audit log without limit."""
    node = Node(federation.folders[0])
    node._apps[1] = "a" * 64
    for number in range(120):
        foreign = SimpleNamespace(kind=f"query.k{number}\x1b[2J", run=1)
        node._refuse(foreign, NotOursError("not ours"))  # type: ignore[arg-type]
    node._desk.close()
    events = [one.event for one in read((federation.folders[0] / "audit.jsonl").read_bytes()).entries]
    kinds = [event.kind for event in events if isinstance(event, Foreign)]
    assert 0 < len(kinds) <= 16
    assert all(kind.isprintable() for kind in kinds)


def test_an_app_that_is_not_expected_is_refused(grid: HttpGrid, federation: Federation) -> None:
    with (federation.folders[0] / "node.toml").open("a") as file:
        file.write(f'apps = ["{"0" * 64}"]\n')
    with nodes(federation.folders[0]):
        (reply,) = asked(grid, MESSAGE_TYPE, to_records(who_is_there()))
    assert reply.error.code == 1000


def test_a_folder_that_is_repaired_answers_without_a_restart(grid: HttpGrid, federation: Federation) -> None:
    folder = federation.folders[0]
    whole = (folder / "policy.toml").read_text()
    with nodes(folder):
        (folder / "policy.toml").write_text("backends = 1\n")
        (reply,) = asked(grid, MESSAGE_TYPE, to_records(who_is_there()))
        assert "payload" not in reply.content.config_records["about"]
        (folder / "policy.toml").write_text(whole)
        (reply,) = asked(grid, MESSAGE_TYPE, to_records(who_is_there()))
        assert "payload" in reply.content.config_records["about"]


def test_files_are_let_go_when_nothing_comes(grid: HttpGrid, federation: Federation) -> None:
    """An operator's command on the same folder waits for these files."""
    with nodes(federation.folders[0]) as (node,):
        asked(grid, MESSAGE_TYPE, to_records(who_is_there()))
        until(lambda: not node._desk.is_open)


def test_a_message_that_was_lost_with_a_process_is_asked_again(
    grid: HttpGrid, federation: Federation
) -> None:
    """The node was killed between taking the message and answering it; the server learns this when the node is back,
    before the deadline.
    """
    folder = federation.folders[0]
    killed = Node(folder)
    killed._fleet.activate(60.0)
    remember(folder, Memory(killed._fleet.node))
    post = FlowerPost(grid, HANG, 0.1, {0: killed._fleet.node})
    answers: list[tuple[int, bytes]] = []
    session = Envelope(Channel.END, bytes(32)).session
    asking = threading.Thread(
        target=lambda: answers.extend(post.carrier(Channel.END, session)({0: b""})), daemon=True
    )
    asking.start()
    delivery = killed._fleet.pull(10.0)
    assert delivery is not None
    remember(folder, Memory(killed._fleet.node, delivery.to_bytes()))  # and here it dies
    killed._fleet.close()
    with nodes(folder):
        asking.join(HANG)
    assert answers == [(0, b"")]


def test_a_message_that_was_lost_with_a_superlink_keeps_no_node_away(
    grid: HttpGrid, federation: Federation
) -> None:
    """Node and SuperLink were killed together, and the new SuperLink does not know the message's run."""
    folder = federation.folders[0]
    killed = Node(folder)
    killed._fleet.activate(60.0)
    lost = message_to_proto(Message(RecordDict(), killed._fleet.node, MESSAGE_TYPE))
    lost.metadata.run_id, lost.metadata.src_node_id, lost.metadata.message_id = 12345, 1, 64 * "a"
    remember(folder, Memory(killed._fleet.node, lost.SerializeToString()))
    killed._fleet.close()
    with nodes(folder):
        until(lambda: not recalled(folder).taken)
        (reply,) = asked(grid, MESSAGE_TYPE, to_records(who_is_there()))
    assert reply.has_content()


def test_two_nodes_in_one_folder_are_one_too_many(federation: Federation) -> None:
    folder = federation.folders[0]
    with nodes(folder):
        until(lambda: recalled(folder).node != 0)  # it is at work, in a thread of its own
        with pytest.raises(FileError, match="got one that runs"):
            Node(folder).work()


def test_a_superlink_that_is_away_is_waited_for(
    grid: HttpGrid, federation: Federation, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    times = [0]
    pull = Fleet.pull

    def pulled(fleet: Fleet, wait: float) -> Delivery | None:
        times[0] += 1
        if times[0] < 4:
            raise FleetError("nobody answers")
        return pull(fleet, wait)

    monkeypatch.setattr(Fleet, "pull", pulled)
    monkeypatch.setattr(node_module, "_FIRST_PAUSE", 0.01)
    with nodes(federation.folders[0]):
        until(lambda: times[0] > 4)
        (reply,) = asked(grid, MESSAGE_TYPE, to_records(who_is_there()))
    assert reply.has_content()
    assert capfd.readouterr().err.count("unreachable: nobody answers") == 1


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('superlink = "example"', "superlink: expected HOST:PORT, got 'example'"),
        ('superlink = "example:0"', "superlink: expected HOST:PORT"),
        ('superlink = "a:1"\nshell = true', "unknown field `shell`"),
        ("", "missing required field `superlink`"),
    ],
)
def test_settings_that_are_none_are_refused(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "node.toml").write_text(text)
    with pytest.raises(FileError, match=r"node\.toml") as caught:
        settings(tmp_path)
    assert fault in str(caught.value)


def test_keys_of_another_kind_are_refused(federation: Federation) -> None:
    key = federation.folders[0] / "node"
    key.write_text((federation.folders[0] / "identity.key").read_text())
    with pytest.raises(FileError, match=r"expected a node's secret key \(ecdsa, without a passphrase\)"):
        Node(federation.folders[0])
    key.chmod(0o644)
    with pytest.raises(FileError, match="mode 0600"):
        Node(federation.folders[0])


def test_a_damaged_memory_costs_a_minute_and_nothing_else(tmp_path: Path) -> None:
    assert recalled(tmp_path) == Memory()
    remember(tmp_path, Memory(7, b"x"))
    assert recalled(tmp_path) == Memory(7, b"x")
    (tmp_path / "node.json").write_text(json.dumps({"node": "seven"}))
    assert recalled(tmp_path) == Memory()


@given(st.integers(1, 10_000), st.floats(0, 1e6))
def test_all_nodes_together_ask_at_most_40_times_a_second(members: int, idle: float) -> None:
    every = pause(members, idle)
    assert 0.1 <= every <= max(2.0, members / 2)
    assert members / every <= 40 + 1e-9
    assert pause(members, idle + 1) >= every
    assert 10 <= interval(members) <= 1800
