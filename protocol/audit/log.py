"""A party's audit log: a file of JSON lines, each signed and chained to the one before.

An entry is on disk before the message that it records leaves the party. If it cannot be written, nothing leaves.
"""

import fcntl
import glob
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from secure_afl.crypto.identity import Identity
from secure_afl.crypto.kdf import Label, digest
from secure_afl.protocol.audit.chain import Chain, read
from secure_afl.protocol.audit.events import (
    Agreed,
    AnyEvent,
    Approved,
    Begun,
    Closed,
    Continues,
    Foreign,
    Forgotten,
    MoreRefused,
    Refused,
    Renewed,
    Resumed,
    Revoked,
    Role,
    Sent,
    Withheld,
    encoded,
    line_digest,
    message_digest,
    signed,
)
from secure_afl.protocol.files import whole
from secure_afl.protocol.homomorphic.agreement import Agreement
from secure_afl.protocol.session.errors import AuditError, FileError
from secure_afl.protocol.session.wire import VERSION

EVIDENCE = "evidence"
"""The folder beside a log with the messages from which sums can be replayed, each named by its digest in the log."""
SINGLY = 32
"""Refusals in a row that have an entry each."""
_KINDS = 100  # of refusals, of which the first has an entry whatever went before
_REFUSALS = Refused | Withheld | MoreRefused | Foreign | Resumed | Closed
Clock = Callable[[], datetime]
"""Returns the party's own time in UTC. No decision depends on it."""


def wall_clock() -> datetime:
    """The machine's time."""
    return datetime.now(UTC)


def commitment(identity: Identity, session: bytes, name: str) -> bytes:
    """What a log has of the ledger's name of rows that a vector is of. session: its transcript."""
    return digest(Label.DATA_SET, identity.secret(Label.DATA_SET), session, name.encode())


class AuditLog:
    """A log open for writing, by one process at a time.

    wait: seconds to wait until another process closes it. known: what this process knows of the log since it was last open;
    then lines that it has checked are not checked again, as long as the file holds these bytes and no others. Opening continues an existing log of the same identity. It
    removes a line that a crash left unfinished, and the next entry records this. A log with any other damage is not
    continued. Raises `AuditError`.
    """

    def __init__(
        self,
        path: Path,
        identity: Identity,
        party: str,
        role: Role,
        clock: Clock = wall_clock,
        *,
        wait: float = 0.0,
        known: "Known | None" = None,
    ) -> None:
        self.path = path
        self._identity = identity
        self._clock = clock
        self._broken = False
        self._known = Known() if known is None else known
        self._resume = False  # before the next entry
        ends = time.monotonic() + wait
        while True:
            try:
                self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise AuditError(f"cannot open the audit log {path}: {error.strerror}") from None
            try:
                self._check_owned()
                self._lock(ends)
                if self._is_current():
                    self._continue(Begun(VERSION, party, role, identity.verify_key))
                    return
            except BaseException:
                os.close(self._file)
                raise
            os.close(self._file)  # another process has begun another file meanwhile

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file), self.path.stat())
        except FileNotFoundError:
            return False

    def _check_owned(self) -> None:
        found = os.fstat(self._file)
        if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o022 or found.st_uid != os.geteuid():
            raise AuditError(
                f"expected an audit log that only its owner can write to, got {self.path} with mode "
                f"{stat.S_IMODE(found.st_mode):04o} of user {found.st_uid}"
            )

    def _lock(self, ends: float) -> None:
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                if time.monotonic() >= ends:
                    raise AuditError(
                        f"expected an audit log that no other process writes, got {self.path}: a node or another "
                        "command is using it"
                    ) from None
            time.sleep(0.05)

    def _continue(self, begun: Begun) -> None:
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if not self._known.is_of(whole):
            self._known.__init__()  # type: ignore[misc]  # in its place, for who has given it
            if whole:
                chain = read(whole)
                if chain.faults:
                    line, fault = chain.faults[0]
                    raise AuditError(
                        f"the audit log {self.path} is damaged and is not continued: line {line}: {fault}"
                    )
                for line_, entry in zip(whole.splitlines(keepends=True), chain.entries, strict=True):
                    self._known.take(entry.number, entry.event, line_)
        if whole and (self._known.begun is None or self._known.begun.whose != begun.whose):
            raise AuditError(f"expected an audit log of {begun.party} with its present key, got {self.path}")
        os.ftruncate(self._file, len(whole))
        if not whole:
            self.append(begun)
            _sync_folder(self.path)
        self._resume = bool(data)
        if data and (len(data) > len(whole) or not self._known.closed):
            self._resume = False
            self.append(Resumed(len(data) - len(whole)))

    @property
    def head(self) -> bytes:
        """The digest of the last line, which says what all lines are."""
        return self._known.previous

    @property
    def memory(self) -> "Memory":
        return self._known.memory

    @property
    def revoked(self) -> int:
        """The number of the last entry that took an approval back."""
        return self._known.revoked

    def approved(self, study: bytes) -> Approved | None:
        """The current approval of a study, or None, also after `revoke_at_once`. Raises `AuditError`."""
        self.take_revocations()
        return self._known.approved.get(study)

    def take_revocations(self) -> None:
        """Log the revocations that `revoke_at_once` left. Raises `AuditError`."""
        for at, event in revocations(self.path).items():
            self.append(event)
            at.unlink()

    def note(self, event: AnyEvent) -> None:
        """Append an event unless the log has it: a repeated message is the same message."""
        known = encoded(event)
        if self._broken or known not in self._known.noted:
            self.append(event)

    def keep(self, digest: bytes, data: bytes) -> None:
        """Keep a message beside the log, under its digest, for the owner alone. Raises `AuditError`."""
        folder = self.path.parent / EVIDENCE
        path = folder / digest.hex()
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            if not path.exists():
                whole.write_new(path, data, 0o600)
        except (OSError, FileError) as error:
            raise AuditError(f"cannot keep the evidence of a sum in {folder}: {error}") from None

    def refuse(self, event: Refused | Withheld) -> None:
        """Append a refusal. Of more than `SINGLY` in a row, whatever sends them, the rest are counted: an entry says how many
        whenever their number has doubled. The first for a new reason has an entry all the same, so that many of one kind do
        not hide another.
        """
        more = self._known.refusals + 1 - SINGLY
        reasons = self._known.reasons
        if more <= 0 or (_reason(event) not in reasons and len(reasons) < _KINDS):
            self.append(event)
            return
        self._known.refusals += 1
        if more & (more - 1) == 0:
            self.append(MoreRefused(more))

    def commitment(self, session: bytes, name: str) -> bytes:
        """See `commitment`."""
        return commitment(self._identity, session, name)

    def append(self, event: AnyEvent) -> bytes:
        """Write one entry and sync it to disk; gives its line. After a failure every call raises `AuditError`."""
        if self._broken:
            raise AuditError(f"the audit log {self.path} is closed, or an earlier write failed")
        if self._resume:
            self._resume = False
            self.append(Resumed())
        line = self._line(event)
        self._broken = True  # until the write has succeeded
        try:
            if os.write(self._file, line + b"\n") != len(line) + 1:
                raise AuditError(
                    f"the audit log {self.path} cannot be written: the disk took only part of a line"
                )
            os.fsync(self._file)
        except OSError as error:
            raise AuditError(f"the audit log {self.path} cannot be written: {error.strerror}") from None
        self._broken = False
        self._known.take(self._known.number + 1, event, line + b"\n")
        return line

    def _line(self, event: AnyEvent) -> bytes:
        return signed(self._identity, self._known.number + 1, self._clock(), self._known.previous, event)

    def rotate(self) -> Path:
        """Begin another file, which continues this one and knows all that it says; gives where this one is now. No session
        may be open. Raises `AuditError`.
        """
        begun, memory = self._known.begun, self.memory
        assert begun is not None  # it is open
        self.append(Continues())
        part = (self._known.part or 0) + 1
        first = Begun(
            *begun.whose,
            part,
            tuple(one for _, one in sorted(self._known.approved.items())),
            self.revoked,
            tuple(sorted(memory.joined)),
            tuple(sorted(memory.uploaded)),
        )
        line = self._line(first) + b"\n"
        old = self.path.with_name(f"{self.path.stem}.part-{part:03d}{self.path.suffix}")
        beside = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.tmp")
        try:
            file = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                os.write(file, line)
                os.fsync(file)
                if not (old.exists() and os.path.samestat(old.stat(), os.fstat(self._file))):
                    os.link(self.path, old)  # never over another file
                beside.replace(self.path)
                _sync_folder(self.path)
            except BaseException:
                os.close(file)
                raise
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise AuditError(f"cannot begin another file for {self.path}: {error.strerror}") from None
        os.close(self._file)
        self._file = file
        number = self._known.number
        self._known.__init__()  # type: ignore[misc]
        self._known.take(number + 1, first, line)
        return old

    def close(self) -> None:
        """Write the closing entry. A closed log can be opened again."""
        if self._file < 0:
            return
        try:
            if not (self._broken or self._known.closed):
                self.append(Closed())
        finally:
            os.close(self._file)
            self._file, self._broken = -1, True


def _sync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def revoke_at_once(path: Path, event: Revoked) -> None:
    """Take an approval back while another process may be at work with the log at `path`: by a file beside it, which the log
    takes in when it is next asked for an approval. Raises `AuditError`.
    """
    name = secrets.token_hex(8)
    beside, at = (path.with_name(f"{start}{path.name}.revoked.{name}") for start in (".", ""))
    try:
        file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, encoded(event))
            os.fsync(file)
        finally:
            os.close(file)
        beside.replace(at)
        _sync_folder(path)
    except OSError as error:
        raise AuditError(f"cannot write {at}: {error.strerror}") from None


def revocations(path: Path) -> dict[Path, Revoked]:
    """What `revoke_at_once` left that the log at `path` has not yet. Raises `AuditError`."""
    found = {}
    for at in sorted(path.parent.glob(f"{glob.escape(path.name)}.revoked.*")):
        try:
            found[at] = msgspec.json.decode(at.read_bytes(), type=Revoked)
        except FileNotFoundError:  # the log has it by now
            continue
        except (OSError, msgspec.DecodeError):
            raise AuditError(
                f"expected a revocation that `secure-afl study revoke` wrote, got {at}"
            ) from None
    return found


@dataclass
class Memory:
    """What a log knows of a client's or key holder's sessions, to find out a `state.db` that knows less.

    joined: numbers of all sessions; uploaded: of those in which a vector left and whose data set was not renewed since; said:
    of each session, by whether its sums are encrypted and its number, digests of all that was sent, in order.
    """

    joined: set[bytes] = field(default_factory=set)
    uploaded: set[bytes] = field(default_factory=set)
    said: dict[tuple[bool, bytes], list[bytes]] = field(default_factory=dict)
    _sessions: dict[bytes, tuple[bool, bytes]] = field(default_factory=dict)  # by transcript
    _beneath: set[bytes] = field(default_factory=set)  # transcripts of masks under encryption

    def take(self, event: AnyEvent) -> None:
        """The next event of the log."""
        match event:
            case Begun():
                self.joined.update(event.joined)
                self.uploaded.update(event.uploaded)
            case Agreed():
                encrypted = isinstance(event.terms, Agreement)
                self._sessions[event.terms.transcript()] = encrypted, event.terms.session
                self.joined.add(event.terms.session)
                if isinstance(event.terms, Agreement):
                    self._beneath.add(event.terms.masks)
            case Sent() if at := self._sessions.get(event.session):
                self.said.setdefault(at, []).append(event.frame.digest)
                # Beneath encryption the masked upload says that the client takes part, and carries no vector.
                upload = event.frame.message == "upload" and event.session not in self._beneath
                if upload or event.frame.message == "encrypted upload":
                    self.uploaded.add(at[1])
            case Renewed():
                self.uploaded.discard(event.used)
            case Forgotten():
                self.uploaded.clear()
                self.said.clear()


class Known:
    """What a process knows of a log, all of whose lines it has checked."""

    def __init__(self) -> None:
        self.begun: Begun | None = None
        self.part = 0
        self.number, self.previous = 0, b""
        self.closed = False  # whether its last entry says so
        self.noted: set[bytes] = set()  # events
        self.approved: dict[bytes, Approved] = {}  # by study
        self.memory = Memory()
        self.revoked = 0
        self.refusals = 0  # since any other entry
        self.reasons: set[tuple[str, str]] = set()  # of refusals
        self._size, self._content = 0, hashlib.sha256()

    def take(self, number: int, event: AnyEvent, line: bytes) -> None:
        """The next line, with its newline."""
        if isinstance(event, Begun):
            self.begun, self.part, self.revoked = event, event.part, event.revoked
        elif isinstance(event, Revoked):
            self.revoked = number
        if not isinstance(event, _REFUSALS):
            self.refusals = 0
        elif isinstance(event, MoreRefused):
            self.refusals = max(self.refusals, SINGLY + event.count)
        elif isinstance(event, Refused | Withheld):
            self.refusals += 1
            self.reasons.add(_reason(event))
        self.number, self.previous, self.closed = number, line_digest(line[:-1]), isinstance(event, Closed)
        self.noted.add(encoded(event))
        _decide(self.approved, event)
        self.memory.take(event)
        self._size += len(line)
        self._content.update(line)

    def is_of(self, data: bytes) -> bool:
        """Whether a file holds these lines and no others."""
        same = len(data) == self._size and hashlib.sha256(data).digest() == self._content.digest()
        return bool(data) and same


def _reason(event: Refused | Withheld) -> tuple[str, str]:
    return event.kind, event.reason if isinstance(event, Refused) else ""


def approvals(chain: Chain) -> dict[bytes, Approved]:
    """The studies' approvals in force at the end of a log, by study."""
    found: dict[bytes, Approved] = {}
    for entry in chain.entries:
        _decide(found, entry.event)
    return found


def _decide(found: dict[bytes, Approved], event: AnyEvent) -> None:
    if isinstance(event, Begun):
        found.update({one.study: one for one in event.approved})
    elif isinstance(event, Approved):
        found[event.study] = event
    elif isinstance(event, Revoked):
        found.pop(event.study, None)


def kept(logs: Iterable[Path]) -> Callable[[bytes], bytes | None]:
    """Gives a message by its digest, if it was kept beside one of these logs."""
    folders = dict.fromkeys(path.parent / EVIDENCE for path in logs)

    def found(digest: bytes) -> bytes | None:
        there = [path.read_bytes() for folder in folders if (path := folder / digest.hex()).is_file()]
        # A party's spoiled copy speaks against nobody who kept the right one.
        return next((data for data in there if message_digest(data) == digest), there[0] if there else None)

    return found


class Logs:
    """The logs of all parties of this process, and of its server, in one folder."""

    def __init__(self, folder: Path, clock: Clock = wall_clock) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AuditError(f"cannot make the folder {folder} of audit logs: {error.strerror}") from None
        self._folder = folder
        self._clock = clock
        self._logs: dict[bytes, AuditLog] = {}
        self._server = Identity.generate()

    def of(self, party: str, role: Role, identity: Identity) -> AuditLog:
        """The log of one party, opened at the first call."""
        key = identity.verify_key
        if key not in self._logs:
            # A name may hold any printable character; the key distinguishes files of similar names.
            name = re.sub(r"[^A-Za-z0-9]+", "-", party)
            path = self._folder / f"{name}.{key.hex()[:8]}.jsonl"
            self._logs[key] = AuditLog(path, identity, party, role, self._clock)
        return self._logs[key]

    @property
    def server(self) -> AuditLog:
        return self.of("server", Role.SERVER, self._server)

    def close(self) -> None:
        """Close all of them."""
        logs, self._logs = self._logs, {}
        for log in logs.values():
            log.close()
