"""One party's file (SQLite): its ledger, and where each of its sessions stands.

Everything that a step of a party changes is written in one transaction, before anything of it leaves. So a party
that is killed has either answered and knows it, or has not answered and does not think so.

SQLite writes to a log beside the file (WAL) and moves that into the file later. Here that is before anything leaves:
what was answered is in the file itself, and what was forgotten is in neither. Only a server's journal, which has no
secrets and grows by every message, stays in the log between its steps.

Memories and answers are locked under a key that follows from the party's identity; data sets' names and session
numbers lie open. What a party forgets is not in the file any more; a disk may still have it. An old copy of the file
is a party that has forgotten: it could mask a second vector under one key, or put a data set into a second session.
Never bring one back; begin a new file, and give no rows of before to a session. Who can write to the file can do just that: it
lies in a folder of its owner's, on a local disk.
"""

import os
import sqlite3
import stat
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from secure_afl.crypto.errors import CryptoError, SecureAflError
from secure_afl.crypto.guarded import Guarded
from secure_afl.crypto.identity import Identity
from secure_afl.crypto.kdf import Label, integer
from secure_afl.crypto.sealed_box import lock, unlock
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
_WAIT = 60.0  # seconds for another process of the same party to end its step
_SOON = 5.0  # seconds for another process to end what keeps the log from the file: no step, so a moment
# What was written outlasts a loss of power: a commit is synced in the log, and the log before the file. (In WAL, EXTRA
# is FULL; a file of before WAL is taken over by a rollback journal, of which the folder must be synced too.)
_SETTINGS = (
    "synchronous = EXTRA",
    "fullfsync = ON",
    "checkpoint_fullfsync = ON",
    "secure_delete = ON",
    "wal_autocheckpoint = 1000",  # pages: no journal makes the log longer
)
_BESIDE = ("-wal", "-shm", "-journal")  # SQLite's own files: the log, its index, the journal of before WAL


class StoreError(SecureAflError):
    """A party's file cannot be read or written. Nothing left the party that is not in it; what is in it may have been
    kept from leaving, and is said when it is asked for again.
    """


@dataclass(frozen=True, repr=False)
class Kept(Guarded):
    """Where a session stands. memory: of the party; question: digest of the message that was answered last, if any;
    answer: what was said to it, if it was.
    """

    memory: bytes
    question: bytes
    answer: bytes


_KEPT = msgspec.msgpack.Decoder(Kept)


class Store(Guarded):
    """The file of the party with this identity; made if there is none. For one thread, and not for a fork of its process.

    Raises `StoreError` if the file is another party's, of another version, or not to be read or written; if anybody but
    its owner can read it, or put another file in its place.
    """

    def __init__(self, path: Path, identity: Identity) -> None:
        self.path = path
        self._key = identity.secret(Label.STORE)
        self._process = os.getpid()
        self._inside = False  # a transaction
        self.ledger = StoredLedger(self)
        with self._told():
            _make(path)
            self._database = sqlite3.connect(path.absolute(), timeout=_WAIT, isolation_level=None)
        try:
            with self._told():
                for setting in _SETTINGS:
                    self._database.execute(f"PRAGMA {setting}")
                self._begin_log()
            with self.transaction():  # also moves what a process that was killed left in the log
                if not self.run("SELECT 1 FROM sqlite_master"):
                    for statement in filter(str.strip, _TABLES.split(";")):
                        self.run(statement)
                    self.run("INSERT INTO about VALUES (?, ?)", VERSION, identity.verify_key)
                if "uploaded" not in [name for _, name, *_ in self.run("PRAGMA table_info(used)")]:
                    # Of before it was noted: whatever was used may have left.
                    self.run("ALTER TABLE used ADD COLUMN uploaded INTEGER NOT NULL DEFAULT 1")
                if not self.run("SELECT 1 FROM sqlite_master WHERE name = 'spent'"):
                    self.run(next(one for one in _TABLES.split(";") if "TABLE spent" in one))
                found = self.run("SELECT version, lower(hex(party)) FROM about")
            if found != [(VERSION, identity.verify_key.hex())]:
                got = [f"of {version} and of {str(party)[:16]}…" for version, party in found]
                raise StoreError(
                    f"expected {path} to be of {VERSION} and of the party {identity.verify_key.hex()[:16]}…, got a file "
                    f"{' or '.join(got) or 'of nobody'}"
                )
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"Store({self.path})"

    def close(self) -> None:
        """The file is closed; nothing is lost. The last process that does so moves the log into the file."""
        self._database.close()

    @contextmanager
    def transaction(self, *, of_journal: bool = False) -> Iterator[None]:
        """All that is written inside is written, or nothing; another process of this party waits.

        of_journal: it may stay in the log. Raises `StoreError`; after the commit too, if the log cannot be moved into
        the file. Then it is written, nobody has heard of it, and the next transaction moves it or raises.
        """
        if self._inside:  # the step that this is part of
            yield
            return
        with self._told():
            # An interrupt can come after BEGIN and before anybody knows of it; in what it left open, nothing would last.
            self._database.rollback()
            self._database.execute(f"PRAGMA busy_timeout = {_WAIT * 1000:.0f}")
            self._database.execute("BEGIN IMMEDIATE")
        try:
            self._inside = True
            yield
            with self._told():
                self._check_begun()
                self._database.commit()
        except BaseException:
            with self._told():
                self._database.rollback()
            with suppress(StoreError):
                self._move_log()  # another process may have left it to this one
            raise
        finally:
            self._inside = False
        if not of_journal:
            self._move_log()

    def _begin_log(self) -> None:
        """The file has a log, also if it is new or of before WAL. Raises `sqlite3.Error`, `StoreError`."""
        for last in _tries():
            try:
                ((mode,),) = self._database.execute("PRAGMA journal_mode = WAL").fetchall()
            except sqlite3.OperationalError as error:
                # Two processes that begin at once: SQLite refuses one of them, and does not wait.
                if last or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                continue
            if mode != "wal":
                raise StoreError(
                    f"{self.path}: expected a disk of this machine, on which SQLite can have its log (journal mode "
                    f"wal), got one with journal mode {mode}"
                )
            return

    def _move_log(self) -> None:
        """All that is committed is in the file itself, and the log is empty. Raises `StoreError`.

        While another process is at a step, it is in the log too; that process empties it when it ends the step.
        """
        with self._told("is written, but only in its log, and nothing leaves until that is in the file"):
            # Waiting for that would take as long as its step, and gain nothing.
            self._database.execute("PRAGMA busy_timeout = 0")
            for _ in _tries():
                ((busy, pages, moved),) = self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                # Below 0, another process moves it, perhaps without the last pages.
                if not busy or 0 <= pages == moved:
                    return
            raise sqlite3.OperationalError("another program keeps it")

    def run(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        """One statement of SQL. Raises `StoreError`."""
        with self.transaction(), self._told():
            self._check_begun()
            return self._database.execute(statement, values).fetchall()

    def _check_begun(self) -> None:
        # SQLite takes a whole transaction back if the disk or the memory fails; the rest would be written piece by piece.
        if not self._database.in_transaction:
            raise StoreError(f"{self.path}: the step was not written, and cannot go on")

    @contextmanager
    def _told(self, trouble: str = "cannot be read or written") -> Iterator[None]:
        if os.getpid() != self._process:
            raise StoreError(
                f"{self.path}: expected the process that opened it, got a fork: open it there anew"
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
        """Where the session of that name stands; None before anything was kept. Raises `StoreError`."""
        rows = self.run("SELECT box FROM kept WHERE name = ?", name)
        return _KEPT.decode(self._unlocked(rows[0][0], name, b"kept")) if rows else None

    def keep(self, name: str, kept: Kept) -> None:
        """From now on the session stands there."""
        # One box: what was said belongs to this question and this memory, and nothing can be put in its place.
        box = self._locked(msgspec.msgpack.encode(kept), name, b"kept")
        self.run("INSERT OR REPLACE INTO kept VALUES (?, ?)", name, box)

    def open_sessions(self) -> list[str]:
        """The names of sessions that are not over. Raises `StoreError`."""
        return [str(name) for (name,) in self.run("SELECT name FROM kept ORDER BY name")]

    def forget(self, name: str) -> None:
        """The session is over: its secrets and its journal are erased. The ledger stays as it is."""
        with self.transaction():
            self.run("DELETE FROM kept WHERE name = ?", name)
            self.run("DELETE FROM journal WHERE name = ?", name)

    # ---- journals --------------------------------------------------------------------------------

    def journal(self, name: str) -> Iterator[tuple[str, bytes]]:
        """The steps of a session and what was written of each, in order, one at a time. Raises `StoreError`."""
        steps = self.run("SELECT number, step FROM journal WHERE name = ? ORDER BY number", name)
        for expected, (number, step) in enumerate(steps):
            rows = self.run("SELECT box FROM journal WHERE name = ? AND number = ?", name, number)
            if number != expected or not rows:
                raise StoreError(f"{self.path}, session {name!r}: step {expected} is missing")
            yield str(step), self._unlocked(rows[0][0], name, *_at(expected, str(step)))

    def write(self, name: str, number: int, step: str, content: bytes) -> None:
        """Step `number` of a session; it may stay in the log. Raises `StoreError` if another process wrote that one before."""
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


def _at(number: int, step: str) -> tuple[bytes, ...]:
    """Where an entry of a journal stands: it is no other's."""
    return b"journal", integer(number), step.encode()


def _tries() -> Iterator[bool]:
    """One try after another until it is time to give up; whether it is the last."""
    until, last = time.monotonic() + _SOON, False
    while not last:
        last = time.monotonic() > until
        yield last
        time.sleep(0.01)


def _make(path: Path) -> None:
    """An empty file, if there is none. Raises `StoreError` unless it, and what SQLite has beside it, is in its owner's
    hands alone, `OSError`.
    """
    folder = path.absolute().parent.stat()
    if folder.st_mode & 0o022 or folder.st_uid not in (0, os.geteuid()):
        raise StoreError(
            f"{path} cannot be read or written: expected a folder that only its owner can write to, got mode "
            f"{stat.S_IMODE(folder.st_mode):04o}"
        )
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    # Never opened here: closing it would drop the locks that this process has on it by another `Store`, for as long as
    # that one is open, and another process could take the log away from under it.
    _check_owned(path)
    for ending in _BESIDE:
        with suppress(FileNotFoundError):
            _check_owned(path.with_name(path.name + ending))


def _check_owned(path: Path) -> None:
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077 or found.st_uid != os.geteuid():
        raise StoreError(
            f"{path} cannot be read or written: expected a regular file for its owner alone (mode 0600), got mode "
            f"{stat.S_IMODE(found.st_mode):04o} of user {found.st_uid}"
        )


class StoredLedger(Ledger):
    """A ledger that outlives its process."""

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
        """Their names, of all that were used. Raises `StoreError`."""
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
