"""A node's connection and the SuperLink's doors, against Flower itself: a version that moves what we use fails here first."""

import asyncio
import datetime
import importlib.metadata
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

pytest.importorskip("flwr", reason="FLOWER IS NOT INSTALLED: nodes are not tested here")

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.task_identity import TaskIdentity
from worlds.patience import HANG, until
from worlds.superlinks import Here, superlink

from secure_afl.protocol.session.errors import FileError
from secure_afl.protocol.transport.flower import door, fleet
from secure_afl.protocol.transport.flower import superlink as superlink_module
from secure_afl.protocol.transport.flower.fleet import (
    Delivery,
    Fleet,
    FleetError,
    NotOursError,
    RunOverError,
)
from secure_afl.protocol.transport.flower.records import MESSAGE_TYPE, answer_records, to_answer
from secure_afl.protocol.transport.flower.superlink import Link, SuperLink, node_keys
from secure_afl.simulations.network import certificates

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern")  # of how Flower reads an app's folder
EVERY = 30.0


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    with superlink(tmp_path_factory.mktemp("link"), nodes=6) as one:
        yield one


@pytest.fixture(autouse=True)
def _identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TaskIdentity, "_task_id", 1)
    monkeypatch.setattr(TaskIdentity, "_node_id", 1)


def test_this_version_of_flower_was_tried() -> None:
    """If this fails: run the slow tests with the new version, look at what they say, and add it to `TRIED`."""
    assert importlib.metadata.version("flwr") in fleet.TRIED


def online(here: Here, number: int) -> Fleet:
    here.register(number)
    one = here.fleet(number)

    def activated() -> bool:
        try:
            return one.activate(EVERY) > 0
        except FleetError:
            return False

    until(activated)
    return one


def sent(here: Here, monkeypatch: pytest.MonkeyPatch, node: int, kind: str, content: RecordDict) -> Message:
    """A message of a ServerApp, on its way."""
    grid = here.grid()
    monkeypatch.setattr(TaskIdentity, "_run_id", grid.run.run_id)
    message = Message(content, node, kind, ttl=HANG)
    grid.push_messages([message])
    return message


def test_a_message_goes_there_and_its_reply_comes_back(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    node = online(here, 0)
    grid = here.grid()
    monkeypatch.setattr(TaskIdentity, "_run_id", grid.run.run_id)
    assert node.node in grid.get_node_ids()
    assert node.pull(0.0) is None
    for size in (0, 1000, 300_000):  # short ones and long ones lie elsewhere
        question = Message(answer_records(bytes(size)), node.node, MESSAGE_TYPE, ttl=HANG)
        (number,) = grid.push_messages([question])
        delivery = node.pull(5.0)
        assert delivery is not None
        assert (delivery.kind, delivery.run) == (MESSAGE_TYPE, grid.run.run_id)
        assert node.app(delivery.run) == here.app
        asked = to_answer(node.content(delivery, size))
        assert asked == bytes(size)
        again = Delivery.of_bytes(delivery.to_bytes())  # also by a process that has only its head
        node.reply(again, answer_records(asked[::-1] + b"!"), 0.1)
        (reply,) = grid.pull_messages([number])
        assert to_answer(reply.content) == bytes(size) + b"!"
    node.beat(EVERY)
    assert node.deactivate(node.node)
    assert not node.deactivate(node.node)
    assert node.node not in grid.get_node_ids()


def test_a_refusal_is_an_error_without_a_text(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    node = online(here, 0)
    grid = here.grid()
    monkeypatch.setattr(TaskIdentity, "_run_id", grid.run.run_id)
    (number,) = grid.push_messages([Message(RecordDict(), node.node, "query.other", ttl=HANG)])
    delivery = node.pull(5.0)
    assert delivery is not None
    node.reply(delivery, None)
    (reply,) = grid.pull_messages([number])
    assert (reply.error.code, reply.error.reason) == (1000, "refused")
    node.deactivate(node.node)


def test_a_clock_that_is_off_costs_no_reply(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """At four minutes Flower itself would call the message expired; at five the door refuses it."""
    node = online(here, 0)
    grid = here.grid()
    monkeypatch.setattr(TaskIdentity, "_run_id", grid.run.run_id)
    (number,) = grid.push_messages([Message(answer_records(b""), node.node, MESSAGE_TYPE, ttl=HANG)])
    with monkeypatch.context() as later:
        ahead = datetime.timedelta(minutes=4)
        later.setattr("flwr.app.message.message.now", lambda: datetime.datetime.now(datetime.UTC) + ahead)
        delivery = node.pull(5.0)
        assert delivery is not None
        node.reply(delivery, answer_records(b"x"))
    assert [to_answer(one.content) for one in grid.pull_messages([number])] == [b"x"]
    with monkeypatch.context() as later:
        ahead = datetime.timedelta(minutes=6)
        later.setattr(fleet, "now", lambda: datetime.datetime.now(datetime.UTC) + ahead)
        with pytest.raises(FleetError, match="5 minutes apart"):
            node.pull(0.0)
    node.deactivate(node.node)


def test_a_node_that_was_killed_is_back_at_once(here: Here) -> None:
    """Flower counts it as online for a minute after its last heartbeat and admits no second node with its key."""
    killed = online(here, 1)
    with pytest.raises(FleetError, match="another process with the same key was online in the last minute"):
        here.fleet(1).activate(EVERY)
    fresh = here.fleet(1)
    assert fresh.deactivate(killed.node)
    assert fresh.activate(EVERY) == killed.node
    fresh.deactivate(fresh.node)


def test_a_node_that_is_not_registered_is_told_so_and_let_in_later(here: Here) -> None:
    stranger = here.fleet(2)
    with pytest.raises(FleetError, match="not registered there"):
        stranger.activate(EVERY)
    here.register(2)
    until(lambda: _activates(stranger))
    del here.registered[next(key for key, name in here.registered.items() if name == "node-2")]
    until(lambda: _fault(stranger) is not None)
    assert "does not know this node's key" in (_fault(stranger) or "")


def _activates(one: Fleet) -> bool:
    try:
        one.activate(EVERY)
    except FleetError:
        return False
    return True


def _fault(one: Fleet) -> str | None:
    try:
        one.pull(0.0)
    except FleetError as error:
        return str(error)
    return None


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once the door holds a node's question."""
    holds, noted = door.Doors._held, threading.Event()

    async def hold(*asked: Any) -> None:
        noted.set()
        await holds(*asked)

    monkeypatch.setattr(door.Doors, "_held", hold)
    return noted


def test_a_message_wakes_a_node_that_waits(
    here: Here, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The door holds the node's request until the ServerApp sends a message, so the node need not poll."""
    monkeypatch.setattr(door, "LONGEST_WAIT", HANG)
    node = online(here, 3)
    got: list[Delivery | None] = []
    waiting = threading.Thread(target=lambda: got.append(node.pull(HANG)), daemon=True)
    grid = here.grid()
    monkeypatch.setattr(TaskIdentity, "_run_id", grid.run.run_id)
    waiting.start()
    until(held.is_set)
    grid.push_messages([Message(answer_records(b""), node.node, MESSAGE_TYPE, ttl=HANG)])
    waiting.join(HANG)
    assert got
    assert got[0] is not None
    node.deactivate(node.node)


def test_a_node_that_dies_while_it_waits_takes_no_message_with_it(
    here: Here, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = online(here, 4)
    dying = threading.Thread(target=lambda: _quietly(lambda: killed.pull(door.LONGEST_WAIT)), daemon=True)
    dying.start()
    until(held.is_set)
    for one in list(killed._client._client._transport._pool.connections):
        one._connection._network_stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
    dying.join(HANG)
    grid = here.grid()
    monkeypatch.setattr(TaskIdentity, "_run_id", grid.run.run_id)
    fresh = here.fleet(4)
    fresh.deactivate(killed.node)
    fresh.activate(EVERY)
    grid.push_messages([Message(answer_records(b""), fresh.node, MESSAGE_TYPE, ttl=HANG)])
    assert fresh.pull(5.0) is not None
    fresh.deactivate(fresh.node)


def _quietly(call: Callable[[], object]) -> None:
    with suppress(FleetError):
        call()


def test_a_message_that_is_too_large_is_not_ours(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    node = online(here, 5)
    many = RecordDict({f"r{k}": ConfigRecord({"k": k}) for k in range(20)})
    faults = {
        "MOST_OBJECTS": "expected a message of at most 20 objects",
        "RECORDS": "no longer than the study",
    }
    for limit, fault in faults.items():
        sent(here, monkeypatch, node.node, MESSAGE_TYPE, many)
        delivery = node.pull(5.0)
        assert delivery is not None
        with monkeypatch.context() as small:
            small.setattr(fleet, limit, 20)
            with pytest.raises(NotOursError, match=fault):
                node.content(delivery, 0)
    node.deactivate(node.node)


class Endless(httpx.SyncByteStream):
    """A body without an end, which counts what is read of it."""

    read = 0

    def __iter__(self) -> Iterator[bytes]:
        while True:
            self.read += 2**16
            yield bytes(2**16)


@pytest.mark.parametrize(
    ("headers", "fault"),
    [
        ({"content-length": str(2**31)}, "no longer than the study can need"),
        ({"transfer-encoding": "chunked"}, "with a length and without compression"),
        ({"content-length": "100", "content-encoding": "gzip"}, "with a length and without compression"),
    ],
)
def test_of_a_message_of_two_gigabytes_nothing_is_read(
    here: Here, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], fault: str
) -> None:
    """The weak design reads the whole message before it checks whether the study is approved."""
    node = online(here, 5)
    sent(here, monkeypatch, node.node, MESSAGE_TYPE, answer_records(b""))
    delivery = node.pull(5.0)
    assert delivery is not None
    body, real = Endless(), node._client._client
    lying = httpx.MockTransport(lambda request: httpx.Response(200, headers=headers, stream=body))
    node._client._client = httpx.Client(transport=lying, event_hooks=real.event_hooks)
    with pytest.raises(FleetError, match=fault):
        node.content(delivery, 1000)
    with pytest.raises(FleetError):
        node.pull(0.0)
    assert body.read == 0
    node._client._client = real
    node.deactivate(node.node)


def test_a_run_that_is_over_is_no_fault_of_the_connection(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flwr.proto.control_pb2 import StopRunRequest
    from flwr.supercore.control import ControlHttpClient

    node = online(here, 5)
    sent(here, monkeypatch, node.node, MESSAGE_TYPE, answer_records(b""))
    delivery = node.pull(5.0)
    assert delivery is not None
    with ControlHttpClient.from_server_address(here.private, True, None, []) as control:
        control.StopRun(StopRunRequest(run_id=delivery.run))
    for call in (
        lambda: node.app(delivery.run),
        lambda: node.content(delivery, 100),
        lambda: node.reply(delivery, answer_records(b"")),
    ):
        with pytest.raises(RunOverError):
            call()
    assert node.pull(0.0) is None
    node.deactivate(node.node)


def test_what_answers_without_being_a_superlink_is_named(here: Here, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        free = one.getsockname()[1]
    with pytest.raises(FleetError, match=f"nobody answers at 127.0.0.1:{free}"):
        Fleet(f"127.0.0.1:{free}", here.authority, here.keys[0]).activate(EVERY)
    other = certificates.make(tmp_path, 0)
    with pytest.raises(FleetError, match="shows a certificate that the authority's file does not vouch for"):
        Fleet(here.public, other.authority.read_bytes(), here.keys[0]).activate(EVERY)
    with pytest.raises(FleetError, match="expected certificates in PEM"):
        Fleet(here.public, b"no certificate", here.keys[0])


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/health",
        "/docs",
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/runtime/acquire-task",
        "/v1/fleet",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "//v1/control/start-run",
        "/V1/control/start-run",
    ],
)
def test_the_public_door_has_nothing_but_the_fleet_interface(here: Here, path: str) -> None:
    context = httpx.create_ssl_context()
    context.load_verify_locations(cadata=here.authority.decode())
    with httpx.Client(verify=context) as client:
        url = httpx.URL(f"https://{here.public}").copy_with(raw_path=path.encode())
        here.register(0)
        headers = {"content-type": "application/protobuf", "content-length": "0", **signature(here.keys[0])}
        for method in ("GET", "POST", "OPTIONS"):
            answer = client.request(method, url, headers=headers, content=b"")
            assert answer.status_code == 404, (method, path, answer.text)


def signature(secret: ec.EllipticCurvePrivateKey, days: int = 0) -> dict[str, str]:
    """The headers of a request of the node with that key, so many days ago."""
    at = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days)).isoformat()
    return {
        "flwr-public-key": b64encode(public_key_to_bytes(secret.public_key())).decode(),
        "flwr-timestamp": at,
        "flwr-signature": b64encode(sign_message(secret, at.encode())).decode(),
    }


@pytest.mark.parametrize("key", ["none", "a stranger's", "a node's, of yesterday"])
def test_nothing_of_a_body_is_read_before_its_sender_is_known(here: Here, key: str) -> None:
    """The weak design keeps 64 MiB for each stranger that never ends its message."""
    headers = {"content-length": "67108864"}
    if key != "none":
        secret = ec.generate_private_key(ec.SECP384R1()) if "stranger" in key else here.keys[0]
        headers |= signature(secret, days=int("yesterday" in key))
    lines = ["POST /v1/fleet/pull-messages HTTP/1.1", "host: x", *(f"{k}: {v}" for k, v in headers.items())]
    context = ssl.create_default_context(cadata=here.authority.decode())
    host, port = here.public.split(":")
    with (
        socket.create_connection((host, int(port)), HANG) as plain,
        context.wrap_socket(plain, server_hostname=host) as door_,
    ):
        door_.sendall("\r\n".join([*lines, "", "x"]).encode())
        said = b""
        while more := door_.recv(4096):  # ends: the door closes, and waits for no body
            said += more
    assert said.startswith(b"HTTP/1.1 401")


def test_all_bodies_together_have_a_bound_and_each_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "ALL_BODIES", 100)
    monkeypatch.setattr(door, "LONGEST_BODY", 0.05)
    taken, answers = list[bytes](), list[int]()

    async def application(scope: door.Scope, receive: door.Receive, send: door.Send) -> None:
        taken.append((await receive())["body"])

    async def send(event: door.Event) -> None:
        answers.extend([event["status"]] if "status" in event else [])

    async def asked(doors: door.Doors, length: bytes, *parts: bytes) -> None:
        left = list(parts)

        async def receive() -> door.Event:
            if not left:
                await asyncio.sleep(HANG)
            return {"type": "http.request", "body": left.pop(0), "more_body": len(left) > 0 or not parts[-1]}

        scope = {"type": "http", "path": "/v1/fleet/x", "headers": [(b"content-length", length)]}
        await doors.public(scope, receive, send)

    async def all_of_it() -> None:
        doors = door.Doors(application, lambda headers: True)
        await asyncio.gather(*(asked(doors, b"60", b"a" * 10, b"") for _ in range(3)))  # never end
        assert answers == [408] * 3
        await asked(doors, b"60", b"b" * 60)
        await asked(doors, str(2**27).encode(), b"c")
        await asked(doors, b"", b"d")

    asyncio.run(all_of_it())
    assert answers[3:] == [413, 411]
    assert taken == [b"b" * 60]


def test_a_node_sends_no_more_than_the_study_needs() -> None:
    """The weak design stores as much as a registered node sends, in memory and in the SuperLink's database."""
    answers, message = list[int](), [b""]

    async def application(scope: door.Scope, receive: door.Receive, send: door.Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": message[0] if scope["path"] == door.PULL else b"x"})

    async def send(event: door.Event) -> None:
        answers.extend([event["status"]] if "status" in event else [])

    async def receive() -> door.Event:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def asked(doors: door.Doors, path: str, length: int, node: str = "YQ==") -> int:
        headers = [(b"content-length", str(length).encode()), (door.KEY_HEADER.encode(), node.encode())]
        await doors.public({"type": "http", "path": path, "headers": headers}, receive, send)
        return answers.pop()

    async def all_of_it() -> None:
        doors = door.Doors(application, lambda headers: True, lambda: 10**6)
        most = 2 * (10**6 + door.SHORT_BODY)
        assert await asked(doors, door.PUSH_OBJECT, most) == 200
        assert await asked(doors, door.PUSH_OBJECT, 1) == 413
        assert await asked(doors, door.PUSH, 1) == 413
        assert await asked(doors, door.PUSH, 1, "YR==") == 413  # the same key, spelled another way
        assert await asked(doors, door.PUSH_OBJECT, 1, "Yg==") == 200
        assert await asked(doors, door.PULL, 100) == 200  # no message, so no reply is due
        assert await asked(doors, door.PUSH_OBJECT, 1) == 413
        message[0] = b"a message"
        assert await asked(doors, door.PULL, 100) == 200
        assert await asked(doors, door.PUSH_OBJECT, most) == 200
        for path in (door.PULL, door.ACTIVATE, "/v1/fleet/get-run"):
            assert await asked(doors, path, door.SHORT_BODY + 1, "Yw==") == 413

    asyncio.run(all_of_it())


@pytest.mark.parametrize("said", [b"", b"POST /v1/fleet/pull-messages HTTP/1.1\r\nhost: x\r\n"])
def test_a_connection_that_asks_for_nothing_is_closed(
    here: Here, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    """The weak design keeps it open for ever, so a stranger can use up all file descriptors."""
    monkeypatch.setattr(superlink_module, "SILENT", 0.1)
    context = ssl.create_default_context(cadata=here.authority.decode())
    host, port = here.public.split(":")
    with (
        socket.create_connection((host, int(port)), HANG) as plain,
        context.wrap_socket(plain, server_hostname=host) as silent,
    ):
        silent.sendall(said)
        assert silent.recv(100) == b""


def test_the_private_door_is_not_for_pages_in_a_browser(here: Here) -> None:
    assert httpx.get(f"http://{here.private}/health").status_code == 200
    from_page = {"origin": f"http://{here.private}"}
    assert httpx.get(f"http://{here.private}/health", headers=from_page).status_code == 403


def test_faults_of_the_server_are_told_before_it_listens(here: Here, tmp_path: Path) -> None:
    made = certificates.make(tmp_path, 1)
    free = ("127.0.0.1", 0)

    def started(**changed: object) -> None:
        link = {
            "public": free,
            "private": free,
            "certificate": made.server,
            "key": made.server_key,
            **changed,
        }
        SuperLink(Link(**link), dict)  # type: ignore[arg-type]

    with pytest.raises(FileError, match="expected a free address"):
        started(public=here.link.public)
    with pytest.raises(FileError, match="expected a certificate and its key"):
        started(key=made.nodes[0])
    (tmp_path / "bad.pub").write_text("ssh-ed25519 AAAA")
    with pytest.raises(FileError, match=r"bad\.pub: expected a node's public key"):
        node_keys(tmp_path)
    (tmp_path / "bad.pub").unlink()
    assert list(node_keys(tmp_path).values()) == ["node-0"]
