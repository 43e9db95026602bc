"""Flower's SuperLink with two doors and a database; see `door`. Internal names of Flower: see `fleet.TRIED`."""

import asyncio
import datetime
import logging
import socket
import ssl
from base64 import b64decode
from collections.abc import Callable, Container, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.common.constant import (
    HEARTBEAT_DEFAULT_INTERVAL,
    ISOLATION_MODE_PROCESS,
    NOOP_ACCOUNT_NAME,
    NOOP_FLWR_AID,
    SYSTEM_TIME_TOLERANCE,
    TIMESTAMP_HEADER,
    TIMESTAMP_TOLERANCE,
    TRANSPORT_TYPE_GRPC_RERE,
)
from flwr.supercore.constant import (
    FLEET_HTTP_PUBLIC_KEY_HEADER,
    FLEET_HTTP_SIGNATURE_HEADER,
    FLWR_IN_MEMORY_DB_NAME,
    NodeStatus,
)
from flwr.supercore.date import now
from flwr.supercore.http_logging import get_uvicorn_log_config
from flwr.supercore.primitives.asymmetric import (
    bytes_to_public_key,
    public_key_to_bytes,
    uses_nist_ec_curve,
    verify_signature,
)
from flwr.supercore.routers.runtime.tracing import RuntimeTracingMiddleware
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app
from flwr.superlink.routers.control.middlewares import (
    ControlEventLogMiddleware,
    ControlLicenseMiddleware,
    ControlSensitiveResponseMiddleware,
)
from flwr.superlink.routers.fleet.middlewares import FleetEventLogMiddleware
from sqlalchemy.exc import SQLAlchemyError
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from secure_afl.protocol.files import whole
from secure_afl.protocol.session.errors import FileError
from secure_afl.protocol.transport.flower.door import LARGEST_REPLY, Doors

_IDLE = (
    ControlEventLogMiddleware,
    ControlLicenseMiddleware,
    ControlSensitiveResponseMiddleware,
    FleetEventLogMiddleware,
    RuntimeTracingMiddleware,
)
"""Flower's middlewares for event logs, licenses, accounts and traces, none of which a SuperLink of ours has. Each would cost
a request 0.2 ms or more."""
_LOG = logging.getLogger(__name__)
SILENT = 20.0  # seconds in which a new connection has to say what it wants
_CLOSING = 2  # seconds for connections to end
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
"""Settings of Flower: no telemetry, no update checks, no installation."""


@dataclass(frozen=True)
class Link:
    """A SuperLink's settings. public, private: host and port; certificate, key: TLS files of the public door (PEM).

    database: the file of its state; None keeps the state in memory, where each request costs a third.
    """

    public: tuple[str, int]
    private: tuple[str, int]
    certificate: Path
    key: Path
    database: Path | None = None


def node_keys(folder: Path) -> dict[bytes, str]:
    """The public keys of nodes that may connect: the files `*.pub` of a folder, as `ssh-keygen` writes them.

    Keys of the result are in Flower's form; the values are the files' names. Raises `FileError`.
    """
    found: dict[bytes, str] = {}
    for path in sorted(folder.glob("*.pub")):
        try:
            key = load_ssh_public_key(whole.read(path))
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, ec.EllipticCurvePublicKey) or not uses_nist_ec_curve(key):
            raise FileError(
                f"{path}: expected a node's public key (ecdsa, on a NIST curve), got a different file; "
                "`ssh-keygen -t ecdsa -b 256` makes one"
            )
        found[public_key_to_bytes(key)] = path.stem
    return found


_Protocol: Any = AutoHTTPProtocol


class Prompt(_Protocol):  # type: ignore[misc]  # of uvicorn; which class depends on what is installed
    """Closes a connection on which no whole head of a request comes in time; uvicorn itself waits for the first one for ever."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.loop.call_later(SILENT, self._look)

    def _look(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


class SuperLink:
    """A SuperLink bound to its addresses; it serves with `run`.

    keys: returns the keys that may connect, see `node_keys`. It is called regularly, so added keys are admitted and
    removed keys shut out while the SuperLink runs. most: see `Doors`, called
    regularly, too.
    Raises `FileError` for unreadable keys, certificates or databases, and for an address in use.
    """

    def __init__(
        self,
        link: Link,
        keys: Callable[[], Mapping[bytes, str]],
        *,
        most: Callable[[], int] = lambda: LARGEST_REPLY,
        every: float = 2.0,
    ) -> None:
        self._link = link
        self._keys = keys
        self._largest, self._most = most, most()
        self._every = every
        admitted = keys()
        try:
            application = create_app(_config(link), SuperLinkLifespan)
        except SQLAlchemyError as error:
            raise FileError(
                f"{link.database}: expected a database of this version of Flower: {error}"
            ) from None
        application.user_middleware = [one for one in application.user_middleware if one.cls not in _IDLE]
        self._state = application.state.linkstate_factory.state()
        admit(self._state, admitted)
        self._admitted = admitted
        self._twins: set[str] = set()  # names of nodes of which this was said
        self._doors = Doors(
            application, lambda headers: signed(headers, self._admitted), lambda: self._most, self._twin
        )
        common: dict[str, Any] = {
            "interface": "asgi3",
            "ws": "none",
            "log_config": get_uvicorn_log_config(logging.INFO),
            "timeout_graceful_shutdown": _CLOSING,
            "timeout_keep_alive": 75,  # longer than nodes pause between two requests
            "proxy_headers": False,  # nobody asks for a sender's address
        }
        tls: dict[str, Any] = {"ssl_certfile": str(link.certificate), "ssl_keyfile": str(link.key)}
        self._private = uvicorn.Server(uvicorn.Config(self._doors.private, lifespan="on", **common))
        self._public = uvicorn.Server(
            uvicorn.Config(self._doors.public, lifespan="off", http=Prompt, **common, **tls)
        )
        self._certified = _changed(link)
        try:
            self._public.config.load()
        except (OSError, ssl.SSLError) as error:
            raise FileError(
                f"{link.certificate}, {link.key}: expected a certificate and its key (PEM): {error}"
            ) from None
        with ExitStack() as opened:
            self._sockets = [opened.enter_context(_bound(*at)) for at in (link.private, link.public)]
            opened.pop_all()  # from here on uvicorn closes them

    def _twin(self, node: str) -> None:
        name = self._admitted.get(b64decode(node), "")
        if name not in self._twins:
            self._twins.add(name)
            _LOG.error(
                "two processes use the key of node %s: was its party's folder copied? The last one that started is in",
                name,
            )

    def run(self) -> None:
        """Serve until SIGTERM, SIGINT or `stop`. Raises `FileError` if it does not start."""
        asyncio.run(self._serve())

    def stop(self) -> None:
        """Stop serving; may be called from any thread."""
        self._public.should_exit = True

    async def _serve(self) -> None:
        inner, outer = self._sockets
        looking = asyncio.create_task(self._look())
        private = asyncio.create_task(self._private.serve(sockets=[inner]))
        try:
            while not (self._private.started or private.done()):
                await asyncio.sleep(0.02)
            if not self._private.started:
                raise FileError("the SuperLink did not start; the lines above say why")
            _LOG.info("nodes: https://%s:%s; operator: http://%s:%s", *self._link.public, *self._link.private)
            await self._public.serve(sockets=[outer])
        finally:
            looking.cancel()
            self._doors.close()
            self._private.should_exit = True
            await private

    async def _look(self) -> None:
        said = ""
        while True:
            await asyncio.sleep(self._every)
            try:
                keys = await asyncio.to_thread(self._keys)
                await asyncio.to_thread(admit, self._state, keys)
                self._admitted = keys
                self._most = await asyncio.to_thread(self._largest)
                self._certify()
            except FileError as error:  # other keys stay unchanged
                if str(error) != said:
                    said = str(error)
                    _LOG.error("%s", said)

    def _certify(self) -> None:
        """Use a replaced certificate from the next connection on. Raises `FileError`."""
        changed = _changed(self._link)
        if changed == self._certified:
            return
        context = self._public.config.ssl
        assert context is not None
        pair = (self._link.certificate, self._link.key)
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                *pair
            )  # a mismatched pair spoils a context
            context.load_cert_chain(*pair)
        except (OSError, ssl.SSLError) as error:
            raise FileError(
                f"{self._link.certificate}, {self._link.key}: expected a certificate and its key (PEM), the one before "
                f"stays: {error}"
            ) from None
        self._certified = changed
        _LOG.info("a new certificate: %s", self._link.certificate)


def _changed(link: Link) -> tuple[int, ...]:
    """A value that changes with either of the two files. Raises `FileError`."""
    try:
        return tuple(number for path in (link.certificate, link.key) for number in _state(path))
    except OSError as error:
        raise FileError(f"{error.filename}: cannot be read: {error.strerror}") from None


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_ino


def admit(state: Any, keys: Mapping[bytes, str]) -> None:
    """Register exactly these nodes in Flower's link state."""
    known = {
        bytes(one.public_key): one.node_id
        for one in state.get_node_info(owner_aids=[NOOP_FLWR_AID])
        if one.status != NodeStatus.UNREGISTERED
    }
    for key, number in known.items():
        if key not in keys:
            state.delete_node(owner_aid=NOOP_FLWR_AID, node_id=number)
            _LOG.warning("node %s is shut out: its key was removed", number)
    for key, name in keys.items():
        if key in known:
            continue
        try:
            number = state.create_node(
                NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, HEARTBEAT_DEFAULT_INTERVAL, name=name
            )
        except ValueError:
            raise FileError(
                f"{name}.pub: expected a key that was never removed, as Flower does not accept a key twice: have its owner "
                "make a new one"
            ) from None
        _LOG.info("node %s may connect: %s", number, name)


def signed(headers: Mapping[str, str], keys: Container[bytes]) -> bool:
    """Whether one of these keys signed the time in a request's headers, as Flower checks again with the request's body."""
    try:
        key = b64decode(headers[FLEET_HTTP_PUBLIC_KEY_HEADER], validate=True)
        signature = b64decode(headers[FLEET_HTTP_SIGNATURE_HEADER], validate=True)
        time = headers[TIMESTAMP_HEADER]
        age = (now() - datetime.datetime.fromisoformat(time)).total_seconds()
        return (
            key in keys
            and -SYSTEM_TIME_TOLERANCE < age < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE
            and verify_signature(bytes_to_public_key(key), time.encode("ascii"), signature)
        )
    except (KeyError, ValueError, TypeError):
        return False


def _config(link: Link) -> SuperLinkLifespanConfig:
    """Flower's own settings, without certificates: the private door is local, and the public door handles TLS itself."""
    host, port = link.private
    return SuperLinkLifespanConfig(
        control_address="",  # address of the gRPC interfaces, which are off
        health_server_address=None,
        host=host,
        port=port,
        insecure=True,
        certificates=None,
        superexec_auth_secret=None,
        authn_plugin=NoOpControlAuthnPlugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=None,
        ssl_certfile=None,
        ssl_keyfile=None,
        database=str(link.database or FLWR_IN_MEMORY_DB_NAME),
        isolation=ISOLATION_MODE_PROCESS,  # no submitted app is run here
        runtime_dependency_install=False,
    )


def _bound(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise FileError(
            f"expected a free address {host}:{port} of this machine, got {error.strerror}"
        ) from None
