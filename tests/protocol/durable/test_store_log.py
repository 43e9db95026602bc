"""SQLite's log beside a party's file: what was answered is in the file, and what was forgotten is in neither."""

import os
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from msgspec.msgpack import Decoder
from worlds.cohorts import world
from worlds.encrypted import KeyWorld
from worlds.mortal_files import asked, at_once, beside, forked, limited, log_bytes, process, stored
from worlds.patience import HANG

from secure_afl.crypto.identity import Identity
from secure_afl.protocol.durable import store as stores
from secure_afl.protocol.durable.journal import DurableServer
from secure_afl.protocol.durable.parties import DurableParty
from secure_afl.protocol.durable.store import Kept, Store, StoreError
from secure_afl.protocol.homomorphic.messages import Opening
from secure_afl.protocol.masking.messages import Survivors
from secure_afl.protocol.masking.server import MaskingServer
from secure_afl.protocol.session.errors import LocalProtocolError, PolicyError, RemoteProtocolError
from secure_afl.protocol.session.ledger import Ledger
from secure_afl.protocol.session.wire import decode, encode

PAGE = 4096


def killed_behind(act: Callable[[], object]) -> None:
    """Do it in a process that is killed as soon as it is done."""

    def work() -> bytes:
        act()
        os.kill(os.getpid(), signal.SIGKILL)
        return b"it lives"

    assert forked(work) == b""


def alone(path: Path) -> Path:
    """A copy of that one file, in a folder of its own, as it was moved by somebody who knows of no log."""
    folder = path.with_name(f"{path.name} alone {os.urandom(4).hex()}")
    folder.mkdir(0o700)
    # By another process: this one would drop its locks when it closes the file.
    forked(lambda: str(shutil.copy2(path, folder / path.name)).encode())
    return folder / path.name


def bytes_on_disk(path: Path) -> bytes:
    return forked(lambda: b"".join(one.read_bytes() for one in (path, *beside(path)) if one.exists()))


# ---- what is where -------------------------------------------------------------------------------


def test_behind_every_transaction_the_log_is_empty_and_the_file_has_all(tmp_path: Path) -> None:
    path, owner = tmp_path / "a", Identity.generate()
    store, kept = Store(path, owner), Kept(b"m" * 50_000, b"question", b"answer")

    def fails() -> None:
        with suppress(ZeroDivisionError), store.transaction():
            store.ledger.use("never", b"1" * 32)
            raise ZeroDivisionError

    acts: list[Callable[[], object]] = [
        lambda: None,
        lambda: store.ledger.join(b"1" * 32),
        lambda: store.ledger.use_all(["a", "b"], b"1" * 32),
        lambda: store.keep("s", kept),
        lambda: store.kept("s"),
        fails,
        lambda: store.ledger.renew("b", may_expose=True),
        lambda: store.keep("s", Kept(b"", b"", b"")),
        lambda: store.forget("s"),
    ]
    tables = ("joined", "used", "kept")
    for act in acts:
        act()
        assert log_bytes(path) == 0
        with closing(Store(alone(path), owner)) as copy:
            for table in tables:
                assert copy.run(f"SELECT * FROM {table}") == store.run(f"SELECT * FROM {table}")


def test_what_is_forgotten_is_in_no_file(tmp_path: Path) -> None:
    """Including what a killed process left in its log, and a journal that never left the log."""
    path, owner = tmp_path / "a", Identity.generate()
    boxes: list[bytes] = []

    def box(store: Store, table: str) -> None:
        ((found,),) = store.run(f"SELECT box FROM {table}")
        assert isinstance(found, bytes)
        boxes.append(found)

    def on_disk() -> list[bool]:
        disk = bytes_on_disk(path)
        return [any(one[at : at + 32] in disk for at in range(0, len(one), 1000)) for one in boxes]

    with closing(Store(path, owner)) as store:
        for size in (40_000, 100):
            store.keep("s", Kept(b"m" * size, b"", b""))
            box(store, "kept")
        assert on_disk() == [False, True]
        store.write("s", 0, "receive", b"c" * 100_000)
        assert log_bytes(path) > 100_000
        box(store, "journal")
        assert on_disk() == [False, True, True]
        store.forget("s")
        assert log_bytes(path) == 0
        assert on_disk() == [False] * 3
        store.write("s", 0, "receive", b"c" * 100_000)
        box(store, "journal")
    killed_behind(lambda: Store(path, owner).write("s", 1, "receive", b""))
    assert log_bytes(path)
    with closing(Store(path, owner)) as store:
        assert log_bytes(path) == 0
        assert on_disk()[3]
        store.forget("s")
        assert on_disk() == [False] * 4


def test_sqlites_files_are_their_owners_alone(tmp_path: Path) -> None:
    path, owner = tmp_path / "a", Identity.generate()
    before = os.umask(0)
    try:
        with closing(Store(path, owner)) as store:
            store.write("s", 0, "start", b"")
            found = {one.name: stat.S_IMODE(one.stat().st_mode) for one in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert found == {"a": 0o600, "a-wal": 0o600, "a-shm": 0o600}
    assert [one.name for one in tmp_path.iterdir()] == ["a"]  # the last one who closes tidies up


@pytest.mark.parametrize("ending", ["-wal", "-shm", "-journal"])
def test_what_others_put_beside_the_file_is_refused(ending: str, tmp_path: Path) -> None:
    """SQLite would follow a link, and would take a planted log for committed data."""
    path, owner = tmp_path / "a", Identity.generate()
    Store(path, owner).close()
    foreign = path.with_name(path.name + ending)
    (tmp_path / "elsewhere").write_bytes(b"")
    foreign.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=f"a{ending} cannot .* expected a regular file"):
        Store(path, owner)
    foreign.unlink()
    foreign.touch(0o600)
    foreign.chmod(0o660)
    with pytest.raises(StoreError, match=r"\(mode 0600\), got mode 0660"):
        Store(path, owner)
    foreign.chmod(0o600)
    Store(path, owner).close()


def test_a_new_file_does_not_take_over_the_log_of_one_that_was_removed(tmp_path: Path) -> None:
    path, owner = tmp_path / "a", Identity.generate()
    killed_behind(lambda: Store(path, owner).write("s", 0, "receive", b"c" * 1000))
    assert log_bytes(path)
    path.unlink()
    with closing(Store(path, owner)) as store:
        assert list(store.journal("s")) == []


# ---- kills ---------------------------------------------------------------------------------------


def test_the_file_alone_of_a_client_that_was_killed_knows_what_it_said(tmp_path: Path) -> None:
    """For each answer: the process dies right after sending it, and another continues from the database file alone."""
    here = world(4)
    session, request = asked(here)
    other, also = asked(here)
    path, owner = tmp_path / "a", here.identities[0]
    store = stored(session, path)
    store.keep("t", Kept(other.clients[0].memory(), b"before", b"before"))
    store.close()

    def said(store: Store, message: bytes, value: float, name: str = "s") -> bytes:
        party = process(session if name == "s" else other, store, name)
        answer = party.receive(message)
        if not isinstance(answer, bytes):
            answer = party.contribute(answer, np.full(5, value), "rows")
        return answer

    def copied() -> Store:
        return stack.enter_context(closing(Store(alone(path), owner)))

    def answered(message: bytes) -> bytes:
        """What left the process."""
        reader, writer = os.pipe()
        killed_behind(lambda: os.write(writer, said(Store(path, owner), message, 1.0)))
        os.close(writer)
        with open(reader, "rb") as pipe:
            return pipe.read()

    with ExitStack() as stack:
        upload = answered(request)
        assert upload
        assert said(copied(), request, 2.0) == upload
        with pytest.raises(PolicyError, match="'rows' was used in session"):
            said(copied(), also, 2.0, "t")
        transcript = session.parameters.transcript()
        survivors, others = (encode(Survivors(transcript, 0, who)) for who in ((0, 1, 2, 3), (0, 1, 2)))
        consent = answered(survivors)
        assert said(copied(), survivors, 2.0) == consent
        for message in (others, request):
            with pytest.raises(RemoteProtocolError):
                said(copied(), message, 2.0)


def test_the_file_alone_of_a_key_holder_that_was_killed_opens_no_other_sum(tmp_path: Path) -> None:
    here = KeyWorld(5)
    session = here.session().set_up()
    path, owner = tmp_path / "a", here.identities[5]
    store = Store(path, owner)
    store.keep("s", Kept(session.holders[5].memory(), b"before", b"before"))
    store.close()

    def make(ledger: Ledger) -> Any:
        here.ledgers[5] = ledger
        return here.holder(0, session.plan)

    def answer(at: Path, data: bytes) -> bytes:
        with closing(Store(at, owner)) as store:
            said = DurableParty(make, store, "s").receive(data)
        assert isinstance(said, bytes)
        return said

    session.cohort.run(lambda: session.server.open_round(0), session.contribute)
    session.server.receive(5, answer(path, session.server.advance()[5]))
    session.cohort.run(session.server.advance, session.contribute)
    opening = session.server.advance()[5]
    killed_behind(lambda: DurableParty(make, Store(path, owner), "s").receive(opening))
    one = decode(opening, Decoder(Opening))
    with pytest.raises(RemoteProtocolError):
        answer(alone(path), encode(structs.replace(one, frames=one.frames[:4])))
    assert answer(alone(path), opening) == answer(path, opening)


def test_a_servers_steps_come_back_from_the_log(tmp_path: Path) -> None:
    here, path, owner = world(4), tmp_path / "a", Identity.generate()
    parameters = here.propose()

    def fresh(store: Store) -> DurableServer:
        return DurableServer(MaskingServer(parameters, here.roster), store, "s")

    clients = [here.client(index) for index in range(4)]
    with closing(Store(path, owner)) as store:
        sent = fresh(store).start()
    answers: list[Any] = [clients[index].receive(sent[index]) for index in range(4)]
    for index in (0, 1, 2):
        killed_behind(partial(lambda index: fresh(Store(path, owner)).receive(index, answers[index]), index))
        assert log_bytes(path) > len(answers[index])
        with closing(Store(path, owner)) as store:
            assert fresh(store).server.waiting_for == set(range(index + 1, 4))
            assert log_bytes(path) == 0


def test_a_journal_does_not_make_the_log_longer_and_longer(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with closing(Store(path, Identity.generate())) as store:
        for number in range(150):
            store.write("s", number, "receive", bytes(100_000))
        assert 0 < log_bytes(path) < 1100 * PAGE < 150 * 100_000
        assert sum(1 for _ in store.journal("s")) == 150
        store.forget("s")
        assert log_bytes(path) == 0


# ---- a log that cannot be moved ------------------------------------------------------------------


def lengthened(store: Store) -> None:
    """The file is much longer than the log of a step."""
    store.ledger.use_all([f"{number} " + "x" * 1000 for number in range(200)], b"x" * 32)


def test_with_room_for_the_log_alone_a_step_is_done_and_nobody_hears_of_it(tmp_path: Path) -> None:
    session, request = asked(world(4))
    path = tmp_path / "a"
    store = stored(session, path)
    lengthened(store)
    party = process(session, store)
    wanted: Any = party.receive(request)
    with limited(150_000):
        with pytest.raises(
            StoreError, match=r"is written, but only in its log, and nothing leaves.* (full|I/O)"
        ):
            party.contribute(wanted, np.full(5, 1.0), "rows")
        assert log_bytes(path)
        with pytest.raises(StoreError, match="only in its log"):
            party.receive(request)
        with pytest.raises(StoreError, match="only in its log"):
            Store(path, session.world.identities[0])
    with pytest.raises(LocalProtocolError, match="is not wanted"):
        party.contribute(wanted, np.full(5, 2.0), "rows")
    upload = party.receive(request)
    assert log_bytes(path) == 0
    store.close()
    again = process(session, Store(alone(path), session.world.identities[0]))
    assert again.receive(request) == upload
    session.server.receive(0, upload)  # type: ignore[arg-type]


def test_killed_in_the_middle_of_moving_the_log_the_step_is_done(tmp_path: Path) -> None:
    """Some pages of the log are in the file by then. The kernel ends the process when it writes past its limit."""
    owner, old, new = Identity.generate(), Kept(b"o" * 30_000, b"", b""), Kept(b"n" * 60_000, b"", b"")

    def step() -> bytes:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        store = Store(path, owner)
        with limited(room):
            store.keep("s", new)
        return b"done"

    path = tmp_path / "whole"
    with closing(Store(path, owner)) as store:
        store.keep("s", old)
        lengthened(store)
    size, ends = path.stat().st_size, []
    assert size > 150_000  # and the log is shorter
    for room in range(size - 4 * PAGE, size + 16 * PAGE, 2 * PAGE):
        path = tmp_path / str(room)
        shutil.copy2(tmp_path / "whole", path)
        ends.append(forked(step))
        left = log_bytes(path)
        with closing(Store(path, owner)) as store:
            assert store.kept("s") == new
            assert log_bytes(path) == 0
            assert store.run("PRAGMA integrity_check") == [("ok",)]
        assert bool(left) is not bool(ends[-1])
    assert ends[-1] == b"done"
    assert ends.count(b"") > 5


@pytest.mark.parametrize("fails", [False, True])
def test_another_process_at_a_step_keeps_nobody_waiting(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins as soon as the first process has committed, so the first cannot empty the log; the second empties it at
    its end, whether its step succeeds or not.
    """
    monkeypatch.setattr(stores, "_SOON", -1.0)  # there is no second try
    path, owner = tmp_path / "a", Identity.generate()
    one, other = (Store(path, owner) for _ in range(2))
    step = other.transaction()

    waits: list[str] = []

    def begin(statement: str) -> None:
        if "busy_timeout" in statement:
            waits.append(statement)
        if "wal_checkpoint" in statement:
            one._database.set_trace_callback(None)
            step.__enter__()
            other.ledger.join(b"2" * 32)

    one._database.set_trace_callback(begin)
    one.ledger.join(b"1" * 32)
    assert waits[-1] == "PRAGMA busy_timeout = 0"
    assert log_bytes(path)
    with closing(Store(alone(path), owner)) as copy:
        assert copy.run("SELECT session FROM joined") == [(b"1" * 32,)]
    error = ZeroDivisionError() if fails else None
    assert not step.__exit__(type(error) if error else None, error, None)
    assert log_bytes(path) == 0
    with closing(Store(alone(path), owner)) as copy:
        assert len(copy.run("SELECT session FROM joined")) == 2 - fails
    for store in (one, other):
        store.close()


_MOVING = """
import fcntl, sys
with open(sys.argv[1], "r+b") as index:
    fcntl.lockf(index, fcntl.LOCK_EX, 1, 121)  # SQLite's lock of who moves a log
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_while_another_process_moves_the_log_nothing_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That process may have begun before the last commit; SQLite then says busy and reports no pages."""
    monkeypatch.setattr(stores, "_SOON", 0.05)
    path = tmp_path / "a"
    with closing(Store(path, Identity.generate())) as store:
        arguments = [sys.executable, "-c", _MOVING, str(beside(path)[1])]
        with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"locked\n"
            with pytest.raises(StoreError, match=r"only in its log, .*: another program blocks it"):
                store.ledger.join(b"1" * 32)
            other.communicate()
        with pytest.raises(PolicyError):
            store.ledger.join(b"1" * 32)
        assert log_bytes(path) == 0


@pytest.mark.parametrize("kind", ["new", "of before logs"])
def test_processes_of_one_party_write_one_file_at_the_same_time(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They start, commit and move the log at the same time; none is refused and nothing is lost."""
    for seconds in ("_WAIT", "_SOON"):
        monkeypatch.setattr(stores, seconds, HANG)
    path, owner, count = tmp_path / "a", Identity.generate(), 25
    if kind != "new":
        without_log(path, owner)

    def work(number: int) -> bytes:
        try:
            for at in range(count):
                with closing(Store(path, owner)) as store:
                    store.ledger.join(bytes([number, at]) * 16)
        except StoreError as error:
            return str(error).encode()
        return b"done"

    assert at_once([partial(work, number) for number in range(3)]) == [b"done"] * 3
    assert log_bytes(path) == 0
    with closing(Store(alone(path), owner)) as store:
        assert store.run("SELECT count(*) FROM joined") == [(3 * count,)]


# ---- files of before, and disks without logs -----------------------------------------------------


def without_log(path: Path, owner: Identity) -> None:
    """A file as versions before the log wrote it."""
    with closing(Store(path, owner)) as store:
        store.ledger.use("rows", b"1" * 32)
        assert store._database.execute("PRAGMA journal_mode = TRUNCATE").fetchone() == ("truncate",)


def test_a_file_of_before_logs_gets_one(tmp_path: Path) -> None:
    """Even if a process of the older version was killed while it wrote: its step is rolled back."""
    path, owner = tmp_path / "a", Identity.generate()
    without_log(path, owner)

    def step() -> None:
        database = sqlite3.connect(path, isolation_level=None)
        for statement in ("journal_mode = TRUNCATE", "synchronous = EXTRA", "cache_size = 1"):
            database.execute(f"PRAGMA {statement}")
        database.execute("BEGIN IMMEDIATE")
        database.execute("DELETE FROM used")
        for number in range(100):  # more than fits into memory, so the file is written to
            database.execute("INSERT INTO kept VALUES (?, ?)", (str(number), bytes(PAGE)))

    before = path.stat().st_size
    killed_behind(step)
    assert path.stat().st_size > before
    assert beside(path)[2].stat().st_size
    with closing(Store(path, owner)) as store:
        assert store.run("PRAGMA journal_mode") == [("wal",)]
        assert store.run("SELECT data_set FROM used") == [("rows",)]
        assert store.open_sessions() == []
        assert log_bytes(path) == 0


def test_who_gives_a_file_its_log_waits_for_who_is_at_it(tmp_path: Path) -> None:
    """SQLite itself refuses at once, even one of two processes that create the file together."""
    path, owner = tmp_path / "a", Identity.generate()
    without_log(path, owner)
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.2, lambda: other.execute("COMMIT"))
        timer.start()
        with closing(Store(path, owner)) as store:
            assert store.run("SELECT data_set FROM used") == [("rows",)]
        timer.join()


def test_a_disk_without_shared_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite continues without a log there, and says so only in a result that is easily overlooked."""
    connect = sqlite3.connect

    def remote_disk(path: Path, **options: Any) -> sqlite3.Connection:
        disk: sqlite3.Connection = connect(f"file:{path}?vfs=unix-dotfile", uri=True, **options)
        return disk

    monkeypatch.setattr(sqlite3, "connect", remote_disk)
    with pytest.raises(StoreError, match=r"expected a local disk, .*, got one with journal mode delete"):
        Store(tmp_path / "a", Identity.generate())
