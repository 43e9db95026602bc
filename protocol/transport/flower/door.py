"""The two doors of a SuperLink. Nodes use the public door, which offers only Flower's fleet interface; the
operator's commands and the ServerApp use the private one, on loopback.

Flower serves all three at one port and authenticates only nodes: whoever reaches the port may submit an app, register a
node or take a ServerApp's task. The doors are plain ASGI and know only the paths of Flower's interfaces.
"""

import asyncio
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

FLEET = "/v1/fleet/"
PULL = f"{FLEET}pull-messages"
PUSH, PUSH_OBJECT = f"{FLEET}push-messages", f"{FLEET}push-object"
ACTIVATE = f"{FLEET}activate-node"
SENDING = "/v1/runtime/push-messages"
"""The ServerApp's path for sending messages to nodes."""
KEY_HEADER = "flwr-public-key"
"""The header with a node's public key, which `vouched` has checked."""
PROCESS_HEADER = "secure-afl-process"
"""The header by which a node's process says which one it is: a random number of its own."""
LARGEST_REPLY = 2**31
"""Bytes of a reply where nobody says what the study needs."""
WAIT_HEADER = "secure-afl-wait"
"""The header by which a node asks the public door to hold its pull request until a message arrives; its value: the most
seconds to wait."""
LONGEST_WAIT = 20.0  # seconds; proxies cut silent connections after 60
LARGEST_BODY = 2**26  # bytes; Flower cuts what it sends into objects of 20 MiB
SHORT_BODY = 2**17  # bytes of requests that are no part of a reply; also what Flower's records add to a reply
ALL_BODIES = 2**29  # bytes of all requests at a time; others wait
_REMEMBERED = 8  # processes of a node
LONGEST_BODY = 300.0  # seconds that a body may take, and that a request waits for room

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
T = TypeVar("T")
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Doors:
    """Both doors of an application, for one event loop. vouched: whether a node that may connect signed these headers;
    nothing of a request's body is taken before. most: returns the bytes of the longest reply that the study needs. For each
    message that a node gets it may send twice as many, in case its connection breaks once. twin: called with a node's key
    when a process asks again that another one with this key has replaced: two of them are at work.
    """

    def __init__(
        self,
        application: Application,
        vouched: Callable[[Mapping[str, str]], bool],
        most: Callable[[], int] = lambda: LARGEST_REPLY,
        twin: Callable[[str], None] = lambda node: None,
    ) -> None:
        self._application = application
        self._vouched = vouched
        self._most = most
        self._twin = twin
        self._processes: dict[str, list[str]] = {}  # the last ones, by a node's key
        self._sent_bytes: dict[str, int] = {}  # since its last message, by a node's key
        self._bodies = 0  # bytes that requests say they have
        self._room = asyncio.Condition()
        self._sent = asyncio.Event()  # set, and replaced, whenever the ServerApp has sent a message
        self._closing = False

    def close(self) -> None:
        """End all waiting."""
        self._closing = True
        self._sent.set()

    async def public(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The door for nodes."""
        if scope["type"] != "http" or not scope["path"].startswith(FLEET):
            await _refuse(scope, send, 404)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if not self._vouched(headers):
            # As Flower does with a key that is not registered.
            await _refuse(scope, send, 412 if scope["path"] == ACTIVATE else 401)
            return
        node = _canonical(headers.get(KEY_HEADER, ""))
        if self._was_replaced(node, headers.get(PROCESS_HEADER, "")):
            await _refuse(scope, send, 409)
            return
        length = headers.get("content-length", "")
        if not length.isdecimal():
            await _refuse(scope, send, 411)
        elif int(length) > LARGEST_BODY or not self._has_room(node, scope["path"], int(length)):
            await _refuse(scope, send, 413)
        else:
            if scope["path"] == PULL:
                send = self._noting(node, send)
            try:
                async with self._reserved(int(length)):
                    body = await _in_time(_body(receive))
                    if body is None:
                        return
                    if scope["path"] == PULL and (wait := _wait(scope)):
                        await self._held(scope, body, receive, send, wait)
                    else:
                        await self._application(scope, _given(body, receive), send)
            except _LateError:
                await _refuse(scope, send, 408)

    def _was_replaced(self, node: str, process: str) -> bool:
        """Whether another process came after this one with the same key, as after a restart, and this one is still there."""
        if not process:  # Flower's own SuperNode
            return False
        known = self._processes.setdefault(node, [])
        if process not in known:
            known.append(process)
            del known[:-_REMEMBERED]
        if process == known[-1]:
            return False
        self._twin(node)
        return True

    def _has_room(self, node: str, path: str, length: int) -> bool:
        """Whether a node may send so much more of its replies; others of its requests are short."""
        if path not in (PUSH, PUSH_OBJECT):
            return length <= SHORT_BODY
        sent = self._sent_bytes.get(node, 0) + length
        if sent > 2 * (self._most() + SHORT_BODY):
            return False
        self._sent_bytes[node] = sent
        return True

    def _noting(self, node: str, send: Send) -> Send:
        """Let a node that gets a message send its reply."""

        async def noted(event: Event) -> None:
            if event.get("body"):
                self._sent_bytes.pop(node, None)
            await send(event)

        return noted

    @asynccontextmanager
    async def _reserved(self, length: int) -> AsyncIterator[None]:
        """Room for a body. Raises `_LateError` if there is none for long."""
        async with self._room:
            await _in_time(self._room.wait_for(lambda: self._bodies + length <= ALL_BODIES))
            self._bodies += length
        try:
            yield
        finally:
            self._bodies -= length
            async with self._room:
                self._room.notify_all()

    async def private(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The door for the operator and the ServerApp, with all interfaces. Web pages in a browser on the same machine can
        reach it too; their requests have an origin and are refused.
        """
        if scope["type"] == "http" and any(name == b"origin" for name, _ in scope["headers"]):
            await _refuse(scope, send, 403)
            return
        await self._application(scope, receive, send)
        if scope.get("path") == SENDING:
            sent, self._sent = self._sent, asyncio.Event()
            sent.set()

    async def _held(self, scope: Scope, body: bytes, receive: Receive, send: Send, wait: float) -> None:
        """Ask again whenever a message was sent, until there is one for this node or the time is over."""
        left = asyncio.ensure_future(_disconnected(receive))
        loop = asyncio.get_running_loop()
        ends = loop.time() + wait
        try:
            while True:
                sent, answer = self._sent, list[Event]()
                await self._application(dict(scope), _given(body, receive), _kept(answer))
                remaining = ends - loop.time()
                if self._closing or remaining <= 0 or not _is_empty(answer):
                    break
                waiting = asyncio.ensure_future(sent.wait())
                await asyncio.wait({left, waiting}, timeout=remaining, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if left.done():  # a message pulled now would be lost
                    return
        finally:
            left.cancel()
            with suppress(asyncio.CancelledError):
                await left
        for event in answer:
            await send(event)


def _canonical(key: str) -> str:
    """One spelling of a key, of which base64 has several."""
    return b64encode(b64decode(key)).decode()


def _wait(scope: Scope) -> float:
    """Seconds for which a node asks to hold its request; 0 if it does not ask."""
    for name, value in scope["headers"]:
        if name == WAIT_HEADER.encode():
            try:
                return max(0.0, min(float(value), LONGEST_WAIT))
            except ValueError:
                return 0.0
    return 0.0


class _LateError(Exception):
    """A body that takes too long, or has no room."""


async def _in_time(coming: Awaitable[T]) -> T:
    """Raises `_LateError`."""
    try:
        return await asyncio.wait_for(coming, LONGEST_BODY)
    except TimeoutError:
        raise _LateError from None


async def _body(receive: Receive) -> bytes | None:
    """The whole body, no longer than it said; None if its sender has disconnected."""
    body, more = bytearray(), True
    while more:
        event = await receive()
        body += event.get("body", b"")
        if event["type"] != "http.request":
            return None
        more = event.get("more_body", False)
    return bytes(body)


def _given(body: bytes, receive: Receive) -> Receive:
    """Replay a body that was already read to the application, then pass on what follows."""
    given = False

    async def again() -> Event:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _kept(answer: list[Event]) -> Send:
    async def keep(event: Event) -> None:
        answer.append(event)

    return keep


def _is_empty(answer: list[Event]) -> bool:
    """Whether the answer means that there is no message: status 200 without a body."""
    start, *rest = answer
    return start.get("status") == 200 and not any(event.get("body") for event in rest)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _refuse(scope: Scope, send: Send, status: int) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
    elif scope["type"] == "http":
        # Closed: what comes of the body is not waited for.
        headers = [(b"content-length", b"0"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
