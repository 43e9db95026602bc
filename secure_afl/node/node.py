"""A party's node: one process that answers the server's messages with the installed code, and runs nothing else.

    node.toml       where the SuperLink is, and what this node shows there; see `Settings`
    node.json       made by the node: its number, and the message it is at, for a restart at once after a crash

`secure_afl.node.site` has the rest of the folder. The app that a submitter ships is never asked for; a message that is not
ours is refused, and the log and the audit log say so.
"""

import fcntl
import gc
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from secure_afl.crypto.errors import SecureAflError
from secure_afl.node import study
from secure_afl.node.ahead import Ahead
from secure_afl.node.site import Folder, study_folders
from secure_afl.protocol.audit.log import Known
from secure_afl.protocol.files import roster, whole
from secure_afl.protocol.session.errors import FileError, LocalProtocolError, visible
from secure_afl.protocol.transport.endpoint import UNAPPROVED, Endpoint
from secure_afl.protocol.transport.events import (
    Bound,
    Connected,
    Foreign,
    NotKept,
    RunSeen,
    Unreachable,
    bound,
    refused,
)
from secure_afl.protocol.transport.flower.client import answer_to
from secure_afl.protocol.transport.flower.fleet import (
    Delivery,
    Fleet,
    FleetError,
    NotOursError,
    RunOverError,
    StatusError,
    TwinError,
)
from secure_afl.protocol.transport.flower.records import MESSAGE_TYPE, again_records
from secure_afl.protocol.transport.logs import listen, tell

_HELD = 20.0  # seconds that a door of ours holds a question for a message
_OPEN = 1.0  # seconds after the last message during which the party's files stay open
_LONGEST_OPEN = 15.0  # seconds after which others may have them, also in the middle of a session
_LOOKED = 10.0  # seconds after which a study's approval is looked at again, if its files are not open
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds until a SuperLink that is away is looked for again
_FOREIGN = (
    16  # kinds of messages that are not ours that the audit log has of a process; the node's own log has all
)
_PERSISTENT = 120.0  # seconds during which a reply is sent again


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`node.toml`. superlink: HOST:PORT of its public door; authority: the file of certificates that vouch for it; key: that of
    this node's secret key, as `ssh-keygen -t ecdsa -b 256` writes it; apps: digests of the apps whose runs are answered,
    empty for all, as none is run here.
    """

    superlink: str
    authority: str = "ca.crt"
    key: str = "node"
    apps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        host, _, port = self.superlink.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise FileError(f"superlink: expected HOST:PORT, got {self.superlink!r}")


class Memory(msgspec.Struct, frozen=True):
    """`node.json`. node: the number under which it is or was online, 0 after an orderly end; taken: the message that it took
    and has not answered, without the content.
    """

    node: int = 0
    taken: bytes = b""


class Desk:
    """The party of a study's folder, whose files stay open while messages come. known: of its audit log."""

    def __init__(self, folder: Folder, known: Known) -> None:
        self._folder = folder
        self._ahead = Ahead(folder)
        self._log = known
        self._largest, self._looked = UNAPPROVED, -_LOOKED
        self._endpoint: Endpoint | None = None
        self._opened = self._used = 0.0

    @property
    def is_open(self) -> bool:
        return self._endpoint is not None

    @contextmanager
    def opened(self) -> Iterator[Endpoint]:
        """The party. Whatever goes wrong closes its files: they are read anew for the next message."""
        if self._endpoint is None:
            self._endpoint, self._opened = (
                self._folder.endpoint(ahead=self._ahead.known, rows=self._ahead.rows, known=self._log),
                time.monotonic(),
            )
        try:
            yield self._endpoint
        except BaseException:
            self.close()
            raise
        self._used = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether it is time to look what the party can need."""
        return time.monotonic() > self._looked + _LOOKED

    @property
    def study(self) -> bytes:
        """The digest of its study. Raises `FileError`."""
        return study.read(self._folder.path / "study.toml").digest

    @property
    def largest(self) -> int:
        """Bytes of the longest message that the party can need; little if it cannot tell, as it refuses then."""
        if self.is_open or self.is_due:
            self._looked = time.monotonic()
            try:
                with self.opened() as endpoint:
                    self._largest = endpoint.largest
            except (SecureAflError, OSError):
                self._largest = UNAPPROVED
        return self._largest

    def look_ahead(self) -> None:
        """Compute what a server may ask for, before it does."""
        self._ahead.refresh()

    def rest(self) -> None:
        """Close the files if it is time: others of the party's programs may be waiting for them."""
        now = time.monotonic()
        if now - self._used > _OPEN or now - self._opened > _LONGEST_OPEN:
            self.close()

    def close(self) -> None:
        endpoint, self._endpoint = self._endpoint, None
        if endpoint:
            try:
                endpoint.close()
            except (
                SecureAflError
            ) as error:  # of the audit log's last line; the next one says that it is missing
                tell(NotKept(str(error)))


class Desks:
    """The desks of a party's studies, of which one at a time has its files open: they share ledger and audit log."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = Known()
        self._desks: dict[Path, Desk] = {}
        self.look_again()

    def look_again(self) -> None:
        """Take in studies that were added, and leave out those that are gone. Raises `FileError` if none is left."""
        found = study_folders(self._path)
        for one in [one for one in self._desks if one not in found]:
            self._desks.pop(one).close()
        for one in found:
            self._desks.setdefault(one, Desk(Folder(one), self._log))

    @property
    def is_open(self) -> bool:
        return any(one.is_open for one in self._desks.values())

    @contextmanager
    def opened(self, study: bytes | None = None) -> Iterator[Endpoint]:
        """The party of the study with that digest, or of any for None. If there is one only, it says itself what does not fit.
        Raises `LocalProtocolError` for another study.
        """
        desk = self._desk(study)
        for other in self._desks.values():
            if other is not desk:
                other.close()
        with desk.opened() as endpoint:
            yield endpoint

    def _desk(self, study: bytes | None) -> Desk:
        desks = list(self._desks.values())
        if len(desks) == 1 or study is None:
            return desks[0]
        for desk in desks:
            with suppress(FileError):
                if desk.study == study:
                    return desk
        raise LocalProtocolError(
            f"expected one of this party's {len(desks)} studies, got {f'study {study.hex()[:16]}…' if study else 'none, as the server names none'}: `secure-afl status` lists them"
        )

    def largest(self) -> int:
        """Bytes of the longest message that any of the studies can need now."""
        most = UNAPPROVED
        for desk in self._desks.values():
            if not desk.is_open and desk.is_due:
                self.close()
            most = max(most, desk.largest)
        return most

    def look_ahead(self) -> None:
        with suppress(FileError):
            self.look_again()
        for desk in self._desks.values():
            desk.look_ahead()

    def rest(self) -> None:
        for desk in self._desks.values():
            desk.rest()

    def close(self) -> None:
        for desk in self._desks.values():
            desk.close()


class Node:
    """The node of one party's folder. Raises `FileError` for settings, keys, a roster and a study that cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._settings = settings(path)
        self._desk = Desks(path)
        self._bound, self._members = list[Bound](), 0
        for one in study_folders(path):
            parties = roster.read(one / "roster.toml")
            self._bound.append(bound(study.read(one / "study.toml").digest, parties))
            self._members = max(self._members, len(parties.everybody))
        self._fleet = Fleet(
            self._settings.superlink,
            whole.read(path / self._settings.authority),
            node_key(path / self._settings.key),
        )
        self._apps: dict[int, str] = {}  # by run
        self._noted: set[tuple[int, str]] = set()  # run and type of messages that are not ours
        self._said, self._pause = "", _FIRST_PAUSE  # of a SuperLink that is away
        self._stopped = threading.Event()
        self._waiting = False  # for a message: a signal may end the process at once

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; see `work`."""
        with self._signals():
            try:
                self.work(gc.freeze)  # what is loaded: else a full collection takes 0.1 s of a phase
            finally:
                gc.unfreeze()

    def stop(self) -> None:
        """End `work` after the message at hand, also from another thread."""
        self._stopped.set()

    def work(self, loaded: Callable[[], None] = lambda: None) -> None:
        """Serve until `stop`; the message at hand is answered first. A SuperLink that is away is waited for. loaded: called once
        what approved studies need is imported.

        Raises `FileError` if another node runs in the folder, `LocalProtocolError` for an invalid setting of logs.
        """
        listen()
        for one in self._bound:
            tell(one)
        with _alone(self._path):
            self._desk.look_ahead()
            loaded()
            while not self._stopped.is_set():
                try:
                    self._serve()
                except FleetError as error:
                    if str(error) != self._said:
                        self._said, self._pause = str(error), _FIRST_PAUSE
                        tell(Unreachable(self._said))
                        if isinstance(error, TwinError):
                            self._note(lambda endpoint: endpoint.note_twin())
                    self._stopped.wait(self._pause)
                    self._pause = min(2 * self._pause, _LONGEST_PAUSE)
                finally:
                    self._desk.close()
        self._fleet.close()

    def _serve(self) -> None:
        """Answer messages as long as the connection lasts."""
        memory = recalled(self._path)
        if memory.node:  # a killed process may still count as online, which keeps its successor out
            self._fleet.deactivate(memory.node)
        every = interval(self._members)
        node = self._fleet.activate(every)
        self._remember(Memory(node, memory.taken))
        tell(Connected(self._settings.superlink, node))
        over = threading.Event()
        beating = threading.Thread(target=self._beat, args=(every, over), daemon=True)
        beating.start()
        try:
            if memory.taken:
                self._ask_again(Delivery.of_bytes(memory.taken))
            self._loop()
        except _StoppedError:
            pass
        finally:
            over.set()
            beating.join()  # a beat under way would open a connection that nobody closes
            if self._stopped.is_set():
                self._desk.close()
                with suppress(FleetError):
                    self._fleet.deactivate(node)
                    self._remember(Memory())

    def _loop(self) -> None:
        last = time.monotonic()
        while not self._stopped.is_set():
            asked = time.monotonic()
            delivery = self._pulled()
            self._said = ""
            if delivery:
                self._take(delivery)
                last = time.monotonic()
            self._desk.rest()
            if not delivery:
                self._desk.look_ahead()
            if not delivery:  # a SuperLink without a door of ours has answered at once
                now = time.monotonic()
                self._stopped.wait(max(0.0, pause(self._members, now - last) - (now - asked)))

    def _pulled(self) -> Delivery | None:
        try:
            self._waiting = True
            if self._stopped.is_set():
                return None
            return self._fleet.pull(_OPEN if self._desk.is_open else _HELD)
        finally:
            self._waiting = False

    def _take(self, delivery: Delivery) -> None:
        """Answer a message that is ours; refuse another."""
        started = time.perf_counter()
        self._remember(Memory(self._fleet.node, delivery.to_bytes()))
        try:
            content = None
            try:
                self._check(delivery)
                taken = self._fleet.content(delivery, self._desk.largest())
                content = answer_to(taken, delivery.node, self._desk.opened)
            except NotOursError as error:
                self._refuse(delivery, error)
            took = time.perf_counter() - started
            ends = time.monotonic() + _PERSISTENT
            while not self._replied(delivery, content, took, ends):
                time.sleep(1.0)
        except RunOverError:
            pass  # nobody waits for it
        self._remember(Memory(self._fleet.node))

    def _check(self, delivery: Delivery) -> None:
        """Raises `NotOursError` for a message of another kind, or of a run that is not answered."""
        app = self._apps.get(delivery.run)
        if app is None:
            app = self._apps[delivery.run] = self._fleet.app(delivery.run)
            tell(RunSeen(delivery.run, app))
        if self._settings.apps and app not in self._settings.apps:
            named = "expected a run of an app that node.toml names"
            raise NotOursError(f"{named}, got one of {app}: add it there if you agreed on it")
        if delivery.kind != MESSAGE_TYPE:
            raise NotOursError(
                f"expected a message of type {MESSAGE_TYPE}, got {visible(delivery.kind[:64])!r}"
            )

    def _refuse(self, delivery: Delivery, error: NotOursError) -> None:
        kind, app = visible(delivery.kind[:64]), self._apps[delivery.run]
        tell(Foreign(kind, delivery.run, app, str(error)))
        # Once, and a few kinds: nobody can fill the audit log.
        if (delivery.run, kind) in self._noted or len(self._noted) >= _FOREIGN:
            return
        self._noted.add((delivery.run, kind))
        self._note(lambda endpoint: endpoint.note_foreign(kind, app))

    def _note(self, note: Callable[[Endpoint], None]) -> None:
        """Write a note into the audit log."""
        try:
            with self._desk.opened() as endpoint:
                note(endpoint)
        except (SecureAflError, OSError) as failure:
            tell(refused("", None, failure, 0.0))

    def _replied(self, delivery: Delivery, content: object, took: float, ends: float) -> bool:
        try:
            self._fleet.reply(delivery, content, took)
        except RunOverError:
            raise
        except FleetError:
            if time.monotonic() > ends or self._stopped.is_set():
                raise
            return False
        return True

    def _ask_again(self, delivery: Delivery) -> None:
        """A message that was lost with an earlier process: the server is to send it once more. A SuperLink that was started anew
        does not know the run, to which Flower answers with status 500.
        """
        with suppress(RunOverError, StatusError):
            self._fleet.reply(delivery, again_records())
        self._remember(Memory(self._fleet.node))

    def _remember(self, memory: Memory) -> None:
        try:
            remember(self._path, memory)
        except FileError as error:  # it costs a restart a minute, and no more
            tell(NotKept(str(error)))

    def _beat(self, every: float, over: threading.Event) -> None:
        while not over.wait(every / 2):
            with suppress(FleetError):  # who pulls hears of it
                self._fleet.beat(every)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def ended(number: int, frame: FrameType | None) -> None:
            self._stopped.set()
            if self._waiting:
                raise _StoppedError

        before = {number: signal.signal(number, ended) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _StoppedError(BaseException):
    """A signal stopped the node where nothing is lost."""


def settings(path: Path) -> Settings:
    """The settings in a party's folder. Raises `FileError`."""
    return whole.read_toml(path / "node.toml", Settings)


def node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A node's secret key. Raises `FileError`."""
    try:
        key = load_ssh_private_key(whole.read(path, secret=True), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise FileError(
            f"{path}: expected a node's secret key (ecdsa, without a passphrase), the file holds none; "
            "`ssh-keygen -t ecdsa -b 256 -N ''` makes one"
        )
    return key


def pause(members: int, idle: float) -> float:
    """Seconds from one question for messages to the next, where the SuperLink answers at once: all nodes of a session
    together ask 40 times a second soon after a message, and 2 times when there has been none for long.
    """
    return min(max(0.1, members / 40, idle / 20), max(2.0, members / 2))


def interval(members: int) -> float:
    """Seconds for which a beat is due: ten a second of all nodes together at most. Flower wants 10 to 1,800."""
    return min(max(10.0, members / 10), 1800.0)


def recalled(path: Path) -> Memory:
    """What an earlier process of the node left; a file that is damaged, or of another version, says nothing."""
    try:
        return msgspec.json.decode((path / "node.json").read_bytes(), type=Memory)
    except (OSError, msgspec.DecodeError):
        return Memory()


def remember(path: Path, memory: Memory) -> None:
    """Write for the next process. It is not synced: after a loss of power that process waits for a minute. Raises `FileError`."""
    beside = path / f".node.json.{secrets.token_hex(4)}.tmp"
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(msgspec.json.encode(memory))
        beside.replace(path / "node.json")
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise FileError(f"{path / 'node.json'}: cannot be written: {error.strerror}") from None


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Raises `FileError` if another node runs in this folder."""
    lock = os.open(path / "node.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FileError(f"{path}: expected no other node in this folder, got one that runs") from None
        yield
    finally:
        os.close(lock)
