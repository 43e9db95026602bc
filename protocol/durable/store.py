"""A party's file (SQLite): its ledger and the state of each of its sessions.

One transaction writes everything that a step changes, before any message of the step leaves. So the file of a killed
party always records correctly whether the party has answered.

SQLite writes to a log beside the file (WAL) and moves it into the file later. Here this move comes before any message
leaves: the file itself holds every answer, and erased data is in neither file nor log. Only a server's journal, which
has no secrets and grows with every message, stays in the log between steps.

Memories and answers are encrypted under a key derived from the party's identity; data set names and session numbers are
not. The file no longer holds what a party erased; the disk may still hold traces.

Never restore an old copy of the file: it has lost records, so the party could mask a second vector under one key, or use
a data set in a second session. Begin a new file instead, and give no earlier rows to a session. Anyone who can write to
the file could restore an old copy, so it must lie in a folder that only its owner can write to, on a local disk.
"""

import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from secure_afl.crypto.errors import CryptoError, SecureAflError
from secure_afl.crypto.guarded import Guarded
from secure_afl.crypto.identity import Identity
from secure_afl.crypto.kdf import Label, integer
from secure_afl.crypto.sealed_box import lock, unlock
from secure_afl.protocol.session.errors import FileError
from secure_afl.protocol.session.ledger import Budget, Ledger, Spending, replayed
from secure_afl.protocol.session.wire import VERSION

_TABLES = """
CREATE TABLE about (version TEXT NOT NULL, party BLOB NOT NULL);
CREATE TABLE joined (session BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE used (
    data_set TEXT PRIMARY KEY, session BLOB NOT NULL, uploaded INTEGER NOT NULL DEFAULT 1
) WITHOUT ROWID;
CREATE TABLE spent (
    data_set TEXT NOT NULL, session BLOB NOT NULL, epsilon REAL NOT NULL, delta REAL NOT NULL, multiplier REAL NOT NULL,
    sums INTEGER NOT NULL, PRIMARY KEY (data_set, session)
) WITHOUT ROWID;
CREATE TABLE kept (name TEXT PRIMARY KEY, box BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE journal (
    name TEXT NOT NULL, number INTEGER NOT NULL, step TEXT NOT NULL, box BLOB NOT NULL,
    PRIMARY KEY (name, number)
) WITHOUT ROWID;
"""
_WAIT = 60.0  # seconds to wait until another process of the same party ends its step
_SOON = 5.0  # seconds to wait while another process blocks moving the log; shorter than a step
# Writes survive a loss of power: a commit is synced to the log, and the log before the file. (Under WAL, EXTRA equals
# FULL. Converting a file from before WAL uses a rollback journal, whose folder must be synced too.)
_SETTINGS = (
    "synchronous = EXTRA",
    "fullfsync = ON",
    "checkpoint_fullfsync = ON",
    "secure_delete = ON",
    "wal_autocheckpoint = 1000",  # pages: no journal makes the log longer
)
_BESIDE = ("-wal", "-shm", "-journal")  # SQLite's own files: the log, its index, the journal before WAL


class StoreError(SecureAflError):
    """A party's file cannot be read or written. Nothing has left the party that the file lacks; an answer in the file that
    did not leave is sent when its question comes again.
    """


@dataclass(frozen=True, repr=False)
class Kept(Guarded):
    """The state of a session. memory: of the party; question: digest of the last answered message, if any; answer: the
    answer to it, if any.
    """

    memory: bytes
    question: bytes
    answer: bytes


_KEPT = msgspec.msgpack.Decoder(Kept)


class Store(Guarded):
    """The file of the party with this identity; created if missing. Use it in one thread, and not in a forked process.

    Raises `StoreError` if the file belongs to another party or version, cannot be read or written, or can be read or
    replaced by anyone but its owner.
    """

    def __init__(self, path: Path, identity: Identity) -> None:
        self.path = path
        self._key = identity.secret(Label.STORE)
        self._process = os.getpid()
        self._inside = False  # a transaction
        self.ledger = StoredLedger(self)
        with self._explained():
            _make(path)
            self._database = sqlite3.connect(path.absolute(), timeout=_WAIT, isolation_level=None)
        try:
            with self._explained():
                for setting in _SETTINGS:
                    self._database.execute(f"PRAGMA {setting}")
                self._begin_log()
            with self.transaction():  # also moves what a killed process left in the log
                if not self.run("SELECT 1 FROM sqlite_master"):
                    for statement in filter(str.strip, _TABLES.split(";")):
                        self.run(statement)
                    self.run("INSERT INTO about VALUES (?, ?)", VERSION, identity.verify_key)
                if "uploaded" not in [name for _, name, *_ in self.run("PRAGMA table_info(used)")]:
                    # From before this column: assume that every used data set has left.
                    self.run("ALTER TABLE used ADD COLUMN uploaded INTEGER NOT NULL DEFAULT 1")
                if not self.run("SELECT 1 FROM sqlite_master WHERE name = 'spent'"):
                    self.run(next(one for one in _TABLES.split(";") if "TABLE spent" in one))
                found = self.run("SELECT version, lower(hex(party)) FROM about")
            if found != [(VERSION, identity.verify_key.hex())]:
                got = [f"of {version} and of {str(party)[:16]}…" for version, party in found]
                raise StoreError(
                    f"expected {path} to be of {VERSION} and of the party {identity.verify_key.hex()[:16]}…, got a file "
                    f"{' or '.join(got) or 'without an owner'}"
                )
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"Store({self.path})"

    def close(self) -> None:
        """Close the file without losing data. The last process to do so moves the log into the file."""
        self._database.close()

    @contextmanager
    def transaction(self, *, of_journal: bool = False) -> Iterator[None]:
        """A transaction: all of its writes happen, or none; other processes of this party wait.

        of_journal: its writes may stay in the log. Raises `StoreError`, also after the commit if the log cannot be moved
        into the file. Then the data is written, no message has left, and the next transaction moves the log or raises.
        """
        if self._inside:  # part of an outer step
            yield
            return
        with self._explained():
            # An interrupt can come right after BEGIN; writes into a transaction left open would be lost.
            self._database.rollback()
            self._database.execute(f"PRAGMA busy_timeout = {_WAIT * 1000:.0f}")
            self._database.execute("BEGIN IMMEDIATE")
        try:
            self._inside = True
            yield
            with self._explained():
                self._check_begun()
                self._database.commit()
        except BaseException:
            with self._explained():
                self._database.rollback()
            with suppress(StoreError):
                self._move_log()  # another process may have left the log unmoved
            raise
        finally:
            self._inside = False
        if not of_journal:
            self._move_log()

    def _begin_log(self) -> None:
        """Switch the file to WAL, also if it is new or from before WAL. Raises `sqlite3.Error`, `StoreError`."""
        for last in _tries():
            try:
                ((mode,),) = self._database.execute("PRAGMA journal_mode = WAL").fetchall()
            except sqlite3.OperationalError as error:
                # If two processes begin at once, SQLite refuses one without waiting.
                if last or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                continue
            if mode != "wal":
                raise StoreError(
                    f"{self.path}: expected a local disk, on which SQLite can keep its log (journal mode "
                    f"wal), got one with journal mode {mode}"
                )
            return

    def _move_log(self) -> None:
        """Move all committed data into the file itself and empty the log. Raises `StoreError`.

        While another process takes a step, the data stays in the log too; that process empties the log after its step.
        """
        with self._explained("is written, but only in its log, and nothing leaves until that is in the file"):
            # Waiting for that process would take as long as its step and gain nothing.
            self._database.execute("PRAGMA busy_timeout = 0")
            for _ in _tries():
                ((busy, pages, moved),) = self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                # Below 0, another process is moving the log, perhaps without the last pages.
                if not busy or 0 <= pages == moved:
                    return
            raise sqlite3.OperationalError("another program blocks it")

    def run(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        """Run one SQL statement. Raises `StoreError`."""
        with self.transaction(), self._explained():
            self._check_begun()
            return self._database.execute(statement, values).fetchall()

    def _check_begun(self) -> None:
        # SQLite rolls the whole transaction back if disk or memory fails; later statements would commit one by one.
        if not self._database.in_transaction:
            raise StoreError(f"{self.path}: the step was not written, and cannot go on")

    @contextmanager
    def _explained(self, trouble: str = "cannot be read or written") -> Iterator[None]:
        if os.getpid() != self._process:
            raise StoreError(
                f"{self.path}: expected the process that opened it, got a fork: open the file again there"
            )
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self.path} {trouble}: {error}") from None

    # ---- revocations -----------------------------------------------------------------------------

    def check_revoked(self, number: int) -> None:
        """Keep the number that the last revocation has in the party's audit log. Raises `StoreError` for a log that does not
        have the last one that was kept: an old copy was brought back.
        """
        ((known,),) = self.run("PRAGMA user_version")
        assert isinstance(known, int)
        if number < known:
            raise StoreError(
                f"expected an audit log with the revocation of entry {known}, got one whose last is entry {number}: an old "
                "copy was brought back, or the log was lost; bring the newest one back, or approve the study again"
            )
        if number > known:
            self.set_revoked(number)

    def set_revoked(self, number: int) -> None:
        """The same for an operator who has decided anew, whatever the log lost. Raises `StoreError`."""
        self.run(f"PRAGMA user_version = {number:d}")

    # ---- sessions --------------------------------------------------------------------------------

    def kept(self, name: str) -> Kept | None:
        """The state of the session of that name; None if none is stored. Raises `StoreError`."""
        rows = self.run("SELECT box FROM kept WHERE name = ?", name)
        return _KEPT.decode(self._unlocked(rows[0][0], name, b"kept")) if rows else None

    def keep(self, name: str, kept: Kept) -> None:
        """Store the session's state."""
        # One box binds the answer to this question and this memory, so none of them can be exchanged.
        box = self._locked(msgspec.msgpack.encode(kept), name, b"kept")
        self.run("INSERT OR REPLACE INTO kept VALUES (?, ?)", name, box)

    def open_sessions(self) -> list[str]:
        """Names of the sessions that are not over. Raises `StoreError`."""
        return [str(name) for (name,) in self.run("SELECT name FROM kept ORDER BY name")]

    def check_idle(self) -> None:
        """Raises `FileError` while a session is under way."""
        if names := self.open_sessions():
            raise FileError(
                f"{self.path}: expected no session under way, got {', '.join(names)}: bring it to its end (at the server: "
                "secure-afl study run), or give it up (secure-afl flower give-up)"
            )

    def forget(self, name: str) -> None:
        """End a session: erase its secrets and its journal. The ledger stays unchanged."""
        with self.transaction():
            self.run("DELETE FROM kept WHERE name = ?", name)
            self.run("DELETE FROM journal WHERE name = ?", name)

    # ---- journals --------------------------------------------------------------------------------

    def journal(self, name: str) -> Iterator[tuple[str, bytes]]:
        """The steps of a session and their contents, in order, one at a time. Raises `StoreError`."""
        steps = self.run("SELECT number, step FROM journal WHERE name = ? ORDER BY number", name)
        for expected, (number, step) in enumerate(steps):
            rows = self.run("SELECT box FROM journal WHERE name = ? AND number = ?", name, number)
            if number != expected or not rows:
                raise StoreError(f"{self.path}, session {name!r}: step {expected} is missing")
            yield str(step), self._unlocked(rows[0][0], name, *_at(expected, str(step)))

    def write(self, name: str, number: int, step: str, content: bytes) -> None:
        """Write step `number` of a session; it may stay in the log. Raises `StoreError` if another process has written it."""
        box = self._locked(content, name, *_at(number, step))
        with self.transaction(of_journal=True):
            self.run("INSERT INTO journal VALUES (?, ?, ?, ?)", name, number, step, box)

    # ---- boxes -----------------------------------------------------------------------------------

    def _locked(self, content: bytes, name: str, *place: bytes) -> bytes:
        return lock(self._key, content, Label.STORE, name.encode(), *place)

    def _unlocked(self, box: object, name: str, *place: bytes) -> bytes:
        assert isinstance(box, bytes)
        try:
            return unlock(self._key, box, Label.STORE, name.encode(), *place)
        except CryptoError as error:
            raise StoreError(f"{self.path}, session {name!r}: {error}") from None


@contextmanager
def snapshot(path: Path, identity: Identity) -> Iterator[Store]:
    """A copy of a party's file, to look at while its node may be at work: the file itself stays as it is, also one of an
    earlier version. Raises `StoreError`.
    """
    with TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        try:
            _check_folder(path)
            _check_owned(path)
            for last in _tries():
                before = _stamps(path)
                for ending in ("", "-wal"):
                    copy.with_name(copy.name + ending).unlink(missing_ok=True)
                    if (one := path.with_name(path.name + ending)).exists():
                        made = os.open(
                            copy.with_name(copy.name + ending), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600
                        )
                        with one.open("rb") as file, open(made, "wb") as other:
                            shutil.copyfileobj(file, other)
                if _stamps(path) == before:
                    break
                if last:
                    raise StoreError(f"{path} cannot be read: another program writes it all the time")
            with closing(Store(copy, identity)) as store:
                yield store
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}") from None
        except StoreError as error:
            raise StoreError(str(error).replace(str(copy), str(path))) from None


def _stamps(path: Path) -> list[tuple[int, int, int] | None]:
    found: list[tuple[int, int, int] | None] = []
    for ending in ("", "-wal"):
        try:
            one = path.with_name(path.name + ending).stat()
            found.append((one.st_ino, one.st_size, one.st_mtime_ns))
        except FileNotFoundError:
            found.append(None)
    return found


def _at(number: int, step: str) -> tuple[bytes, ...]:
    """The context that binds an entry to its place in the journal."""
    return b"journal", integer(number), step.encode()


def _tries() -> Iterator[bool]:
    """Yield tries until the time is up; each says whether it is the last."""
    until, last = time.monotonic() + _SOON, False
    while not last:
        last = time.monotonic() > until
        yield last
        time.sleep(0.01)


def _make(path: Path) -> None:
    """Create an empty file if none exists. Raises `OSError`, and `StoreError` unless only its owner has access to it and
    to SQLite's files beside it.
    """
    _check_folder(path)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    # Do not open the file here: closing it would drop the locks that this process holds through another open `Store`,
    # and another process could then remove the log under that store.
    _check_owned(path)
    for ending in _BESIDE:
        with suppress(FileNotFoundError):
            _check_owned(path.with_name(path.name + ending))


def _check_folder(path: Path) -> None:
    folder = path.absolute().parent.stat()
    if folder.st_mode & 0o022 or folder.st_uid not in (0, os.geteuid()):
        raise StoreError(
            f"{path} cannot be read or written: expected a folder that only its owner can write to, got mode "
            f"{stat.S_IMODE(folder.st_mode):04o}"
        )


def _check_owned(path: Path) -> None:
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077 or found.st_uid != os.geteuid():
        raise StoreError(
            f"{path} cannot be read or written: expected a regular file for its owner alone (mode 0600), got mode "
            f"{stat.S_IMODE(found.st_mode):04o} of user {found.st_uid}"
        )


class StoredLedger(Ledger):
    """A ledger that survives restarts."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def join(self, session: bytes) -> None:
        with self._store.transaction():
            if self._store.run("SELECT 1 FROM joined WHERE session = ?", session):
                raise replayed(session)
            self._store.run("INSERT INTO joined VALUES (?)", session)

    def use_all(
        self,
        data_sets: Collection[str],
        session: bytes,
        *,
        leaves: bool = True,
        spends: Spending | None = None,
        budget: Budget | None = None,
    ) -> None:
        with self._store.transaction():
            super().use_all(data_sets, session, leaves=leaves, spends=spends, budget=budget)

    def spent(self, data_set: str) -> dict[bytes, Spending]:
        rows: list[tuple[Any, ...]] = self._store.run(
            "SELECT session, epsilon, delta, multiplier, sums FROM spent WHERE data_set = ? ORDER BY session",
            data_set,
        )
        return {row[0]: Spending(*row[1:]) for row in rows}

    def renew(self, data_set: str, *, may_expose: bool = False) -> tuple[bytes, bool] | None:
        with self._store.transaction():
            return super().renew(data_set, may_expose=may_expose)

    def used(self, data_set: str) -> tuple[bytes, bool] | None:
        for session, uploaded in self._store.run(
            "SELECT session, uploaded FROM used WHERE data_set = ?", data_set
        ):
            assert isinstance(session, bytes)
            return session, bool(uploaded)
        return None

    def sessions(self) -> set[bytes]:
        """The numbers of all sessions that were joined. Raises `StoreError`."""
        return self._numbers("SELECT session FROM joined")

    def uploads(self) -> set[bytes]:
        """The numbers of sessions in which a vector left, or of which another session with noise has taken the place: of a
        renewed data set, neither is known. Raises `StoreError`.
        """
        return self._numbers(
            "SELECT session FROM used WHERE uploaded UNION "
            "SELECT session FROM spent WHERE session NOT IN (SELECT session FROM used)"
        )

    def _numbers(self, statement: str) -> set[bytes]:
        return {session for (session,) in self._store.run(statement) if isinstance(session, bytes)}

    def data_sets(self) -> list[str]:
        """Names of all used data sets. Raises `StoreError`."""
        return [str(name) for (name,) in self._store.run("SELECT data_set FROM used ORDER BY data_set")]

    def _record(self, data_sets: Collection[str], session: bytes, uploaded: bool) -> None:
        for data_set in data_sets:
            self._store.run(
                "INSERT INTO used VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET session = excluded.session, uploaded = "
                "CASE session WHEN excluded.session THEN max(uploaded, excluded.uploaded) ELSE excluded.uploaded END",
                *(data_set, session, int(uploaded)),
            )

    def _spend(self, data_sets: Collection[str], session: bytes, spends: Spending) -> None:
        for data_set in data_sets:
            self._store.run(
                "INSERT OR REPLACE INTO spent VALUES (?, ?, ?, ?, ?, ?)",
                *(data_set, session, spends.epsilon, spends.delta, spends.multiplier, spends.sums),
            )

    def _forget(self, data_set: str) -> None:
        self._store.run("DELETE FROM used WHERE data_set = ?", data_set)
