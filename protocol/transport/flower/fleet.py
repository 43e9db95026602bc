"""A party's own connection to a SuperLink: it pulls messages and pushes replies, and never fetches the submitted app.

Flower has no public interface for this. The names used here are internal to Flower; `TRIED` lists the versions that they
were tried with, and `tests/protocol/transport/test_fleet.py` fails if a new version moves one. We do not use Flower's own
`http_request_response`, since it ends the process, swallows exceptions and waits a minute after a crash.
"""

import ssl
import threading
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from secrets import token_hex
from typing import Any, Self, TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Error, Message, RecordDict
from flwr.app.message.message import make_message, remove_content_from_message
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    pull_and_inflate_object_from_tree,
    push_objects,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supernode.fleet_http_client import FleetHttpClient

from secure_afl.protocol.session.errors import ProtocolError
from secure_afl.protocol.transport.flower.door import PROCESS_HEADER, WAIT_HEADER

TRIED = ("1.41.0",)
"""Versions of Flower with the internal names that this package uses."""

MOST_OBJECTS = 4096  # of a message; ours have 3 to 6
LARGEST_ANSWER = (
    2**21
)  # bytes of an answer that is no part of a message; the largest lists a message's objects
RECORDS = 2**14  # bytes that Flower's records add to our message
_SHORT = 2**17  # bytes
_PULL = "/flwr.proto.Fleet/PullMessages"
_PULL_OBJECT = "/v1/fleet/pull-object"
_TIMEOUT = 60.0  # seconds until the objects of a message must have arrived
_REFUSED = Error(1000, "refused")  # no details: the cause could reveal data
T = TypeVar("T")


class FleetError(ProtocolError):
    """The SuperLink cannot be reached or does not accept this node. The text says what to do."""


class TwinError(FleetError):
    """Another process with this node's key has taken its place."""


class RunOverError(FleetError):
    """The run of a message is over: the server no longer waits for its reply."""


class NotOursError(FleetError):
    """A message that our servers never send."""


@dataclass(frozen=True)
class Delivery:
    """A pulled message whose content is still at the SuperLink. run: Flower's number; kind: its type."""

    head: Message
    tree: ObjectTree

    @property
    def run(self) -> int:
        return int(self.head.metadata.run_id)

    @property
    def kind(self) -> str:
        return str(self.head.metadata.message_type)

    @property
    def node(self) -> int:
        return int(self.head.metadata.dst_node_id)

    def to_bytes(self) -> bytes:
        """The delivery without its content, for `reply_later`."""
        return bytes(message_to_proto(remove_content_from_message(self.head)).SerializeToString())

    @classmethod
    def of_bytes(cls, data: bytes) -> Self:
        """Restore from `to_bytes`, to reply to the message; its content cannot be read."""
        return cls(message_from_proto(ProtoMessage.FromString(data)), ObjectTree())


class Fleet:
    """The connection of one node. superlink: HOST:PORT; authority: the certificates (PEM) that authenticate it.

    Every call may raise `FleetError` and can then be repeated. Safe for two threads: one that calls `beat`, one for the
    rest.
    """

    def __init__(self, superlink: str, authority: bytes, key: ec.EllipticCurvePrivateKey) -> None:
        self._superlink = superlink
        self._public = public_key_to_bytes(key.public_key())
        self._signed = _Signed(key, self._public)
        try:
            self._client = FleetHttpClient.from_server_address(superlink, False, authority, [self._signed])
        except (ssl.SSLError, UnicodeDecodeError):
            raise FleetError(
                "expected certificates in PEM that authenticate the SuperLink, got no certificate"
            ) from None
        # Called before an answer's body is read. Nothing is compressed, so the body is as long as its header says.
        self._client._client.event_hooks = {"response": [self._measure]}
        self._client._client.headers["accept-encoding"] = "identity"
        self._left, self._room = 0, threading.Lock()  # bytes that a message's objects may still have
        self.node = 0

    def close(self) -> None:
        self._client.close()

    def activate(self, interval: float) -> int:
        """Go online and return the node's number. interval: seconds; after twice as long without `beat` the SuperLink
        considers the node offline.
        """
        try:
            answer = self._asked(
                self._client.ActivateNode,
                ActivateNodeRequest(public_key=self._public, heartbeat_interval=interval),
            )
        except StatusError as status:
            if status.code != httpx.codes.PRECONDITION_FAILED:
                raise
            raise FleetError(
                f"the SuperLink at {self._superlink} does not let this node's key in: it is not registered there, or "
                "another process with the same key was online in the last minute; ask the server's operator to "
                "register the public key, and look for a second node"
            ) from None
        self.node = answer.node_id
        return self.node

    def deactivate(self, node: int) -> bool:
        """Go offline, or take an earlier process with that number offline. Returns whether it was online."""
        try:
            self._asked(self._client.DeactivateNode, DeactivateNodeRequest(node_id=node))
        except StatusError as status:
            if status.code not in (httpx.codes.PRECONDITION_FAILED, httpx.codes.UNAUTHORIZED):
                raise
            return False
        return True

    def beat(self, interval: float) -> None:
        """Stay online; see `activate`."""
        request = SendNodeHeartbeatRequest(node=self._node(), heartbeat_interval=interval)
        self._asked(self._client.SendNodeHeartbeat, request)

    def pull(self, wait: float) -> Delivery | None:
        """The next message, or None. Our public door waits up to `wait` seconds for one; other SuperLinks answer at once."""
        self._signed.wait = wait
        answer = self._asked(self._client.PullMessages, PullMessagesRequest(node=self._node()))
        if not answer.messages_list:
            return None
        return Delivery(message_from_proto(answer.messages_list[0]), answer.message_object_trees[0])

    def app(self, run: int) -> str:
        """The digest (hexadecimal SHA-256) of the app submitted with a run. The app itself is not fetched."""
        answer = self._asked(self._client.GetRun, GetRunRequest(node=self._node(), run_id=run), _of_run)
        return str(answer.run.fab_hash)

    def content(self, delivery: Delivery, most: int) -> RecordDict:
        """A message's content. Also raises `NotOursError` for an unreadable message, and for one of more than `most` bytes
        before the excess is read.
        """
        objects = sum(1 for _ in iterate_object_tree(delivery.tree))
        if objects > MOST_OBJECTS:
            raise NotOursError(f"expected a message of at most {MOST_OBJECTS} objects, got {objects}")
        node, run, whole = self._node(), delivery.run, most + RECORDS
        self._left = whole
        pull = make_pull_object_fn_protobuf(
            partial(self._asked, self._client.PullObject, fails=_of_run), node, run
        )

        confirm = partial(self._asked, self._client.ConfirmMessageReceived, fails=_of_run)

        def received(number: str) -> None:
            """Let the SuperLink delete an object; keep short ones until the end of the run, which saves a request."""
            if whole - self._left > _SHORT:
                make_confirm_message_received_fn_protobuf(confirm, node, run)(number)

        try:
            message = pull_and_inflate_object_from_tree(
                delivery.tree,
                pull,
                received,
                return_type=Message,
                max_time=_TIMEOUT,
                initial_backoff=0.02,  # a message may arrive before its objects
                backoff_cap=1.0,
            )
        except (ObjectPullError, ValueError, TypeError, KeyError) as error:
            raise NotOursError(f"expected a message of Flower's, got {type(error).__name__}") from None
        if not message.has_content():
            raise NotOursError("expected a message with content, got an error")
        return message.content

    def reply(self, delivery: Delivery, content: RecordDict | None, seconds: float = 0.0) -> None:
        """Answer a message; None refuses it. seconds: the time that the answer took."""
        asked = delivery.head.metadata
        reply = Message(_REFUSED if content is None else content, reply_to=delivery.head)
        # The reply expires with the question, by the SuperLink's clock: this machine's clock may be minutes off.
        reply.metadata.__dict__.update(_created_at=asked.created_at, _ttl=asked.ttl)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        head = make_message(metadata=reply.metadata, content=RecordDict()) if content is not None else reply
        request = PushMessagesRequest(
            node=self._node(),
            messages_list=[message_to_proto(head)],
            message_object_trees=[get_object_tree(reply)],
            clientapp_runtime_list=[seconds],
        )
        answer = self._asked(self._client.PushMessages, request, _of_run)
        push = partial(self._asked, self._client.PushObject, fails=_of_run)
        try:
            push_objects(
                get_all_nested_objects(reply),
                make_push_object_fn_protobuf(push, self._node(), delivery.run, answer.session_id),
                object_ids_to_push=set(answer.objects_to_push),
            )
        except ObjectPushError:
            raise RunOverError("the SuperLink accepts no further part of this reply") from None

    def _measure(self, response: httpx.Response) -> None:
        """Refuse an answer that is too long, or does not say how long it is, before its body is read."""
        response.raise_for_status()
        length = response.headers.get("content-length", "")
        if not length.isdecimal() or "content-encoding" in response.headers:
            raise FleetError(
                f"expected answers of {self._superlink} with a length and without compression, got content-length "
                f"{length[:32]!r} and content-encoding {response.headers.get('content-encoding', '')[:32]!r}: does a proxy "
                "change them?"
            )
        if response.request.url.path != _PULL_OBJECT:
            if int(length) > LARGEST_ANSWER:
                raise FleetError(
                    f"expected an answer of at most {LARGEST_ANSWER:,} bytes of {self._superlink}, got {length}"
                )
            return
        with self._room:  # Flower pulls objects in several threads
            self._left -= int(length)
            if self._left < 0:
                raise NotOursError("expected a message no longer than the study can need, got a longer one")

    def _node(self) -> Node:
        return Node(node_id=self.node)

    def _asked(
        self,
        call: Callable[[Any], T],
        request: Any,
        fails: "Callable[[StatusError], FleetError] | None" = None,
    ) -> T:
        """Make a call. Raises `FleetError`; `fails` converts an HTTP status to one."""
        try:
            return call(request)
        except httpx.HTTPStatusError as error:
            if error.response.status_code == httpx.codes.CONFLICT:
                raise TwinError(
                    f"another process with this node's key came to {self._superlink} after this one: two copies of this "
                    "party's folder are at work, or one that was thought to be over; stop one of them, and start the other anew"
                ) from None
            status = StatusError(self._superlink, error.response.status_code)
            raise (fails(status) if fails else status) from None
        except httpx.TransportError as error:
            raise FleetError(_unreachable(self._superlink, error)) from None
        except ValueError:  # the body is not a Flower message
            raise FleetError(f"{self._superlink} does not answer as Flower's SuperLink does") from None


class StatusError(FleetError):
    """An HTTP status that is an error."""

    def __init__(self, superlink: str, code: int) -> None:
        self.code = code
        known = {
            401: "does not know this node's key and number, or its clock and this machine's are 5 minutes apart: ask "
            "its operator to register the public key; it may have been started without its database",
            404: "has no fleet interface: is it the public door of a SuperLink?",
        }
        super().__init__(f"the SuperLink at {superlink} {known.get(code, f'answered with status {code}')}")


def _of_run(status: StatusError) -> FleetError:
    """The error for calls that belong to a run: a refusal means that the run ended while its message was in transit."""
    if 400 <= status.code < 500 and status.code != httpx.codes.UNAUTHORIZED:
        return RunOverError("the run of this message is over")
    return status


def _unreachable(superlink: str, error: httpx.TransportError) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"{superlink} shows a certificate that the authority's file does not vouch for, or not for this name "
                f"or day ({cause.verify_message}): compare that file, and this machine's clock, with the server's"
            )
        cause = cause.__cause__ or cause.__context__
    return f"nobody answers at {superlink} ({type(error).__name__}): is the SuperLink running and reachable?"


class _Signed:
    """Sign each request with the node's key, as Flower's own SuperNode does. wait: see `Fleet.pull`."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, public: bytes) -> None:
        self._key = key
        self._public = b64encode(public).decode()
        self.wait = 0.0
        self._process = token_hex(8)

    def intercept(self, context: Any, call_next: Callable[[Any], httpx.Response]) -> httpx.Response:
        time = now().isoformat()
        headers = context.request.headers
        headers[FLEET_HTTP_PUBLIC_KEY_HEADER] = self._public
        headers[TIMESTAMP_HEADER] = time
        headers[PROCESS_HEADER] = self._process
        headers[FLEET_HTTP_SIGNATURE_HEADER] = b64encode(sign_message(self._key, time.encode())).decode()
        if context.rpc_method == _PULL and self.wait:
            headers[WAIT_HEADER] = f"{self.wait:.1f}"
        return call_next(context)
