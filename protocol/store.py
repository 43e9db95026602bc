"""One party's file (SQLite): its ledger, and where each of its sessions stands.

Everything that a step of a party changes is written in one transaction, before anything of it leaves. So a party
that is killed has either answered and knows it, or has not answered and does not think so.

Memories and answers are locked under a key that follows from the party's identity; data sets' names and session
numbers lie open. An old copy of the file is a party that has forgotten: it could mask a second vector under one key,
or put a data set into a second session. Never bring one back; begin a new file, with data sets of other names.
"""

import os
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from secure_afl.crypto.errors import CryptoError, SecureAflError
from secure_afl.crypto.identity import Identity
from secure_afl.crypto.kdf import Label
from secure_afl.crypto.sealed_box import lock, unlock
from secure_afl.protocol.ledger import Ledger, replayed, used_before
from secure_afl.protocol.wire import VERSION

_TABLES = """
CREATE TABLE about (version TEXT NOT NULL, party BLOB NOT NULL);
CREATE TABLE joined (session BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE used (data_set TEXT PRIMARY KEY, session BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE kept (name TEXT PRIMARY KEY, memory BLOB NOT NULL, question BLOB, answer BLOB) WITHOUT ROWID;
CREATE TABLE journal (
    name TEXT NOT NULL, number INTEGER NOT NULL, step TEXT NOT NULL, arguments BLOB NOT NULL,
    PRIMARY KEY (name, number)
) WITHOUT ROWID;
"""
_WAIT = 60.0  # seconds for another process of the same party to end its step


class StoreError(SecureAflError):
    """A party's file cannot be read or written. Nothing left the party that is not in it."""


@dataclass(frozen=True)
class Kept:
    """Where a session stands. memory: of the party; question: digest of the message that was answered last, if any;
    answer: what was said to it, if it was.
    """

    memory: bytes
    question: bytes
    answer: bytes

    def __repr__(self) -> str:
        return "Kept(…)"


class Store:
    """The file of the party with this identity; made if there is none, readable by its owner alone.

    Raises `StoreError` if the file is another party's, of another version, or not to be read or written.
    """

    def __init__(self, path: Path, identity: Identity) -> None:
        self.path = path
        self._key = identity.secret(Label.STORE)
        self.ledger: Ledger = StoredLedger(self)
        with self._told():
            if not path.exists():
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._database = sqlite3.connect(path, timeout=_WAIT, isolation_level=None)
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
                self._database.execute(f"PRAGMA {pragma}")
        with self.transaction():
            if not self._database.execute("SELECT 1 FROM sqlite_master").fetchone():
                for statement in filter(str.strip, _TABLES.split(";")):
                    self._database.execute(statement)
                self._database.execute("INSERT INTO about VALUES (?, ?)", (VERSION, identity.verify_key))
            found = self._database.execute("SELECT version, party FROM about").fetchone()
        if found != (VERSION, identity.verify_key):
            self.close()
            raise StoreError(
                f"expected {path} to be of {VERSION} and of the party {identity.verify_key.hex()[:16]}…, got a file of "
                f"{found[0]} and of {found[1].hex()[:16]}…"
            )

    def __repr__(self) -> str:
        return f"Store({self.path})"

    def close(self) -> None:
        """The file is closed; nothing is lost."""
        self._database.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written inside is written, or nothing; another process of this party waits."""
        if self._database.in_transaction:  # of the step that this is part of
            yield
            return
        with self._told():
            self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.rollback()
            raise
        with self._told():
            try:
                self._database.commit()
            except sqlite3.Error:
                self._database.rollback()
                raise

    def run(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        """One statement of SQL. Raises `StoreError`."""
        with self._told():
            return self._database.execute(statement, values).fetchall()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self.path} cannot be read or written: {error}") from None

    # ---- sessions --------------------------------------------------------------------------------

    def kept(self, name: str) -> Kept | None:
        """Where the session of that name stands; None before anything was kept. Raises `StoreError`."""
        rows = self.run("SELECT memory, question, answer FROM kept WHERE name = ?", name)
        if not rows:
            return None
        memory, question, answer = (self._unlocked(value, name) for value in rows[0])
        return Kept(memory, question, answer)

    def keep(self, name: str, kept: Kept) -> None:
        """From now on the session stands there."""
        boxes = [
            lock(self._key, part, Label.STORE, name.encode())
            for part in (kept.memory, kept.question, kept.answer)
        ]
        self.run("INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?)", name, *boxes)

    def forget(self, name: str) -> None:
        """The session is over: its secrets and its journal are erased. The ledger stays as it is."""
        with self.transaction():
            self.run("DELETE FROM kept WHERE name = ?", name)
            self.run("DELETE FROM journal WHERE name = ?", name)
        self.run("PRAGMA wal_checkpoint(TRUNCATE)")

    def _unlocked(self, box: object, name: str) -> bytes:
        assert isinstance(box, bytes)
        try:
            return unlock(self._key, box, Label.STORE, name.encode())
        except CryptoError as error:
            raise StoreError(f"{self.path}, session {name!r}: {error}") from None

    # ---- journals --------------------------------------------------------------------------------

    def journal(self, name: str) -> list[tuple[str, bytes]]:
        """The steps of a session and their encoded arguments, in order."""
        rows = self.run("SELECT step, arguments FROM journal WHERE name = ? ORDER BY number", name)
        return [(str(step), self._unlocked(arguments, name)) for step, arguments in rows]

    def write(self, name: str, number: int, step: str, arguments: bytes) -> None:
        """Step `number` of a session. Raises `StoreError` if another process wrote that one before."""
        box = lock(self._key, arguments, Label.STORE, name.encode())
        self.run("INSERT INTO journal VALUES (?, ?, ?, ?)", name, number, step, box)


class StoredLedger(Ledger):
    """A ledger that outlives its process."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def join(self, session: bytes) -> None:
        with self._store.transaction():
            if self._store.run("SELECT 1 FROM joined WHERE session = ?", session):
                raise replayed(session)
            self._store.run("INSERT INTO joined VALUES (?)", session)

    def use_all(self, data_sets: Collection[str], session: bytes) -> None:
        with self._store.transaction():
            for data_set in data_sets:
                for (earlier,) in self._store.run("SELECT session FROM used WHERE data_set = ?", data_set):
                    assert isinstance(earlier, bytes)
                    if earlier != session:
                        raise used_before(data_set, earlier)
            for data_set in data_sets:
                self._store.run("INSERT OR REPLACE INTO used VALUES (?, ?)", data_set, session)

    def renew(self, data_set: str) -> None:
        self._store.run("DELETE FROM used WHERE data_set = ?", data_set)
