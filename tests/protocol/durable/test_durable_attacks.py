"""Attacks on what outlives a process: kills, interrupts, two processes at once, a lying server, hands in the file."""

import os
import queue
import secrets
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from msgspec.msgpack import Decoder
from worlds.cohorts import world
from worlds.encrypted import KeyWorld
from worlds.mortal_files import asked, beside, forked, killed_at, log_bytes, process, stored

from secure_afl.crypto import ring
from secure_afl.crypto.identity import Identity
from secure_afl.protocol.durable.journal import DurableServer
from secure_afl.protocol.durable.parties import DurableParty
from secure_afl.protocol.durable.store import Kept, Store, StoreError
from secure_afl.protocol.homomorphic.messages import Offer, Opening
from secure_afl.protocol.homomorphic.server import HomomorphicServer
from secure_afl.protocol.masking.messages import Survivors
from secure_afl.protocol.masking.server import MaskingServer
from secure_afl.protocol.session.errors import LocalProtocolError, PolicyError, RemoteProtocolError
from secure_afl.protocol.session.ledger import Ledger
from secure_afl.protocol.session.parameters import Profile
from secure_afl.protocol.session.wire import decode, encode


@pytest.fixture(autouse=True)
def _closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Processes that come and go leave connections behind; here they are all one process."""
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def kept(*arguments: Any, **options: Any) -> sqlite3.Connection:
        opened.append(connect(*arguments, **options))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", kept)
    yield
    for one in opened:
        one.close()


# ---- kills and interrupts ------------------------------------------------------------------------


@pytest.fixture
def interrupts() -> Iterator[None]:
    """A shell's background job ignores Ctrl-C, and its children do."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_while_another_process_is_at_work_leaves_no_transaction_open(tmp_path: Path) -> None:
    """Ctrl-C in a notebook and the cell is run again: what leaves then must be on the disk."""
    session, request = asked(world(4))
    store = stored(session, tmp_path / "a")
    party = process(session, store)
    other = sqlite3.connect(tmp_path / "a", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")

    statements = queue.SimpleQueue[str]()

    def interrupt() -> None:
        while statements.get() != "BEGIN IMMEDIATE":
            pass
        os.kill(os.getpid(), signal.SIGINT)
        other.execute("COMMIT")

    # Nothing of Python's runs there, so that the interrupt does not end a callback, where SQLite would swallow it.
    store._database.set_trace_callback(statements.put)
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        party.receive(request)
    thread.join()
    store._database.set_trace_callback(None)
    wanted: Any = party.receive(request)
    upload = party.contribute(wanted, session.vectors[0, 0], "rows")
    again = process(session, Store(tmp_path / "a", session.world.identities[0]))
    assert again.receive(request) == upload
    with pytest.raises(LocalProtocolError, match="is not wanted"):
        again.contribute(wanted, session.vectors[0, 0] + 1, "rows")


@pytest.mark.long
@pytest.mark.parametrize("alone", [False, True])
def test_a_client_killed_at_any_statement_says_one_thing(alone: bool, tmp_path: Path) -> None:
    """The next process has another vector and is shown other survivors. `alone`: it has only the database file, as if
    somebody had moved that without the files beside it.
    """
    session, request = asked(world(4))
    owner, transcript = session.world.identities[0], session.parameters.transcript()

    def contribute(at: int, value: float) -> bytes:
        store = killed_at(Store(path, owner), at)
        answer = process(session, store).receive(request)
        if isinstance(answer, bytes):
            return answer
        return process(session, store).contribute(answer, np.full(5, value), "rows")

    def consent(at: int, survivors: tuple[int, ...]) -> bytes:
        party = process(session, killed_at(Store(path, owner), at))
        answer = party.receive(encode(Survivors(transcript, 0, survivors)))
        assert isinstance(answer, bytes)
        return answer

    def said_by(work: Callable[..., bytes], *tries: tuple[int, Any]) -> list[bytes]:
        said = []
        for one in tries:
            said.append(forked(partial(work, *one)))
            logs.append(log_bytes(path))
            for other in beside(path) if alone else ():
                other.unlink(missing_ok=True)
        return said

    everybody, deaths = (0, 1, 2, 3), [0, 0]
    logs: list[int] = []
    for at in range(1, 22):
        path = tmp_path / str(at)
        stored(session, path).close()
        said = said_by(contribute, (at, 1.0), (0, 2.0), (0, 3.0))
        assert said[1]
        assert set(said) <= {said[1], b""}
        deaths[0] += not said[0]
        said = said_by(consent, (at, everybody), (0, everybody[:3]), (0, everybody))
        assert len(set(said) - {b""}) == 1
        deaths[1] += not said[0]
    assert deaths == [17, 7]
    assert sum(map(bool, logs)) == 6  # killed between a commit and the end of moving it


def test_a_server_that_is_interrupted_counts_no_upload_twice(tmp_path: Path) -> None:
    here = world(4)
    parameters = here.propose()
    session = here.session(parameters)
    path, owner = tmp_path / "server", Identity.generate()

    def fresh() -> MaskingServer:
        return MaskingServer(parameters, here.roster)

    store = Store(path, owner)
    durable: Any = DurableServer(fresh(), store, "s")
    cohort: Any = session.cohort
    cohort.server = cohort.steps = Stands(durable)
    session.set_up()
    sent = durable.open_round(0)
    uploads = {}
    for index, client in session.clients.items():
        wanted: Any = client.receive(sent[index])
        uploads[index] = client.contribute(wanted, session.vectors[index, 0], "rows")
    durable.receive(1, uploads[1])
    interrupted(durable.server, "_take", lambda: durable.receive(0, uploads[0]))
    for again in (lambda: durable.receive(0, uploads[0]), durable.advance):
        with pytest.raises(StoreError, match="make a new object from the store"):
            again()
    durable = DurableServer(fresh(), store, "s")
    for index in (0, 2, 3):
        durable.receive(index, uploads[index])
    for _ in range(2):
        for index, message in durable.advance().items():
            durable.receive(index, session.clients[index].receive(message))
    interrupted(durable.server, "result", durable.result)
    with pytest.raises(StoreError, match="make a new object from the store"):
        durable.result()
    durable = DurableServer(fresh(), store, "s")
    right = session.integer_sum(range(4)).tolist()
    assert session.opened(durable.result()).tolist() == right
    # It died before its program had written the sum down.
    durable = DurableServer(fresh(), store, "s")
    assert session.opened(durable.result()).tolist() == right


class Stands:
    """A durable server in the place of a server."""

    def __init__(self, durable: DurableServer) -> None:
        self._durable = durable

    def __getattr__(self, name: str) -> Any:
        return getattr(self._durable if hasattr(DurableServer, name) else self._durable.server, name)


def interrupted(server: Any, method: str, act: Callable[[], object]) -> None:
    """An interrupt at the end of a method, when it has changed all that it changes."""
    whole = getattr(server, method)

    def step(*arguments: Any) -> None:
        whole(*arguments)
        raise KeyboardInterrupt

    setattr(server, method, step)
    with pytest.raises(KeyboardInterrupt):
        act()
    delattr(server, method)


# ---- two processes, and a server that lies to both -----------------------------------------------


def test_two_processes_of_one_client_mask_one_vector(tmp_path: Path) -> None:
    session, request = asked(world(4))
    stores = [stored(session, tmp_path / "a"), Store(tmp_path / "a", session.world.identities[0])]
    parties = [process(session, store) for store in stores]
    wanted: list[Any] = [party.receive(request) for party in parties]
    upload = parties[1].contribute(wanted[1], session.vectors[0, 0], "rows")
    with pytest.raises(LocalProtocolError, match="is not wanted"):
        parties[0].contribute(wanted[0], session.vectors[0, 0] + 1, "rows")
    assert [party.receive(request) for party in parties] == [upload, upload]


@pytest.mark.parametrize("profile", Profile)
def test_two_processes_of_one_client_consent_to_one_survivor_set(profile: Profile, tmp_path: Path) -> None:
    """Under the semi-honest profile the answer holds the shares themselves."""
    session, request = asked(world(4), profile=profile)
    parties = [
        process(session, stored(session, tmp_path / "a")),
        process(session, Store(tmp_path / "a", session.world.identities[0])),
    ]
    wanted: Any = parties[0].receive(request)
    parties[0].contribute(wanted, session.vectors[0, 0], "rows")
    named = [encode(Survivors(session.parameters.transcript(), 0, who)) for who in ((0, 1, 2, 3), (0, 1, 2))]
    said = parties[0].receive(named[0])
    with pytest.raises(RemoteProtocolError):
        parties[1].receive(named[1])
    assert parties[1].receive(named[0]) == said
    with pytest.raises(RemoteProtocolError):
        parties[0].receive(request)  # asked again, with the answer to something else in between


def test_a_server_cannot_wear_out_a_disk_with_what_is_refused(tmp_path: Path) -> None:
    session, request = asked(world(4))
    store = stored(session, tmp_path / "a")
    party = process(session, store)
    party.receive(request)
    before = store.run("SELECT box FROM kept")
    for message in (b"", b"no message", request[:-1], encode(Survivors(bytes(32), 0, (0, 1, 2)))):
        with pytest.raises(RemoteProtocolError):
            party.receive(message)
    assert store.run("SELECT box FROM kept") == before  # a box that is written anew has another nonce


def test_a_data_set_serves_one_session_of_two_processes(tmp_path: Path) -> None:
    here = world(4)
    session, request = asked(here)
    first = process(session, stored(session, tmp_path / "a"))
    wanted: Any = first.receive(request)
    other, request = asked(here)
    store = Store(tmp_path / "a", here.identities[0])
    store.keep("t", Kept(other.clients[0].memory(), b"before", b"before"))
    second = process(other, store, "t")
    also: Any = second.receive(request)
    first.contribute(wanted, session.vectors[0, 0], "rows")
    with pytest.raises(PolicyError, match="'rows' was used in session"):
        second.contribute(also, session.vectors[0, 0], "rows")


def test_a_session_under_another_name_is_the_same_session(tmp_path: Path) -> None:
    here = world(4)
    session = here.session(here.propose())
    invitation, store = session.server.start()[0], Store(tmp_path / "a", here.identities[0])
    process(session, store, "s").receive(invitation)
    with pytest.raises(PolicyError, match="a replay is refused"):
        process(session, store, "t").receive(invitation)


@pytest.mark.parametrize("backend", ["bfv", "ckks"])
def test_two_processes_of_a_key_holder_open_one_sum_once(backend: str, tmp_path: Path) -> None:
    """A second opening with fresh noise would tell more; one over other contributors would tell everything."""
    here = KeyWorld(4, backend)
    session = here.session().set_up()
    stores = [Store(tmp_path / "a", here.identities[4]) for _ in range(2)]
    stores[0].keep("s", Kept(session.holders[4].memory(), b"before", b"before"))

    def make(ledger: Ledger) -> Any:
        here.ledgers[4] = ledger
        return here.holder(0, session.plan)

    parties = [DurableParty(make, store, "s") for store in stores]
    session.cohort.run(lambda: session.server.open_round(0), session.contribute)
    offer = session.server.advance()[4]
    challenge: Any = parties[0].receive(offer)
    assert parties[1].receive(offer) == challenge
    session.server.receive(4, challenge)
    session.cohort.run(session.server.advance, session.contribute)
    opening = session.server.advance()[4]
    opened = parties[1].receive(opening)
    assert parties[0].receive(opening) == opened
    with pytest.raises(RemoteProtocolError, match=r"expected a new attempt|expected Offer"):
        parties[0].receive(offer)
    with pytest.raises(RemoteProtocolError):
        parties[0].receive(opening + b"\x00")


def test_a_solver_that_fails_in_its_own_way_spends_the_sum_too(tmp_path: Path) -> None:
    here = KeyWorld(4)
    session = here.session().set_up()
    store = Store(tmp_path / "a", here.identities[4])
    store.keep("s", Kept(session.holders[4].memory(), b"before", b"before"))
    broken = True

    def make(ledger: Ledger) -> Any:
        here.ledgers[4] = ledger
        key_holder: Any = here.holder(0, session.plan)
        if broken:
            key_holder._released = lambda *_: 1 // 0
        return key_holder

    party = DurableParty(make, store, "s")
    session.cohort.run(lambda: session.server.open_round(0), session.contribute)
    challenge: Any = party.receive(session.server.advance()[4])
    session.server.receive(4, challenge)
    session.cohort.run(session.server.advance, session.contribute)
    opening = session.server.advance()[4]
    with pytest.raises(ZeroDivisionError):
        party.receive(opening)
    broken = False
    with pytest.raises(RemoteProtocolError, match="expected a sum that was not opened yet"):
        party.receive(opening)


@pytest.mark.parametrize("backend", ["bfv", "ckks"])
def test_a_key_holder_killed_while_it_opens_a_sum_opens_that_one_or_none(
    backend: str, tmp_path: Path
) -> None:
    """It may repeat the same opening; another sum of the round would be a second decryption."""
    here = KeyWorld(5, backend)
    session = here.session(rounds=2).set_up()
    path, owner = tmp_path / "a", here.identities[5]
    store = Store(path, owner)
    store.keep("s", Kept(session.holders[5].memory(), b"before", b"before"))
    store.close()

    def answer(data: bytes, fatal: bool = False) -> bytes:
        def make(ledger: Ledger) -> Any:
            here.ledgers[5] = ledger
            key_holder: Any = here.holder(0, session.plan)
            if fatal:
                key_holder._released = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            return key_holder

        store = Store(path, owner)
        try:
            said = DurableParty(make, store, "s").receive(data)
        finally:
            store.close()
        assert isinstance(said, bytes)
        return said

    def offered(number: int, attempt: int) -> bytes:
        offer = Offer(transcript, number, attempt, (0, 1, 2, 3), bytes(32))
        return answer(encode(offer))

    transcript = session.server.agreement.transcript()
    session.cohort.run(lambda: session.server.open_round(0), session.contribute)
    session.server.receive(5, answer(session.server.advance()[5]))
    session.cohort.run(session.server.advance, session.contribute)
    opening = session.server.advance()[5]
    assert forked(partial(answer, opening, fatal=True)) == b""
    assert forked(partial(answer, opening, fatal=True)) == b""
    with pytest.raises(RemoteProtocolError, match="expected a new attempt at a round from 1 to 1"):
        offered(0, 7)
    other = decode(opening, Decoder(Opening))
    with pytest.raises(RemoteProtocolError, match="that was broken off, this message differs"):
        answer(encode(structs.replace(other, frames=other.frames[:4])))
    opened = answer(opening)
    assert answer(opening) == opened
    session.server.receive(5, opened)
    session.server.advance()
    result = session.server.result()
    modulus = session.lattice.plain_modulus
    total = ring.centred(result.values, modulus) if modulus else result.values
    assert session.is_right(0, result.survivors, total)


def test_a_sum_whose_opening_was_broken_off_is_spent_by_the_next_offer(tmp_path: Path) -> None:
    here = KeyWorld(5)
    session = here.session(rounds=2).set_up()
    holder, transcript = session.holders[5], session.server.agreement.transcript()
    session.cohort.run(lambda: session.server.open_round(0), session.contribute)
    session.server.receive(5, holder.receive(session.server.advance()[5]))
    session.cohort.run(session.server.advance, session.contribute)
    opening = session.server.advance()[5]
    assert holder.foresee(opening)
    assert not holder.foresee(opening)  # it is known
    holder.receive(encode(Offer(transcript, 1, 7, (0, 1, 2, 3), bytes(32))))
    for late in (encode(Offer(transcript, 0, 8, (0, 1, 2, 3), bytes(32))), opening):
        with pytest.raises(RemoteProtocolError, match=r"from 1 to 1|offered last"):
            holder.receive(late)


def test_a_refused_opening_leaves_the_round_to_another(tmp_path: Path) -> None:
    """An invalid request does not count as an opening: a server may correct a mistake and continue."""
    here = KeyWorld(4)
    session = here.session().set_up()
    store = Store(tmp_path / "a", here.identities[4])
    store.keep("s", Kept(session.holders[4].memory(), b"before", b"before"))

    def make(ledger: Ledger) -> Any:
        here.ledgers[4] = ledger
        return here.holder(0, session.plan)

    party = DurableParty(make, store, "s")
    session.cohort.run(lambda: session.server.open_round(0), session.contribute)
    session.server.receive(4, party.receive(session.server.advance()[4]))  # type: ignore[arg-type]
    session.cohort.run(session.server.advance, session.contribute)
    opening = session.server.advance()[4]
    one = decode(opening, Decoder(Opening))
    with pytest.raises(RemoteProtocolError, match="expected tags of 4 contributors"):
        party.receive(encode(structs.replace(one, frames=one.frames[:3])))
    session.server.receive(4, party.receive(opening))  # type: ignore[arg-type]
    session.server.advance()
    assert session.server.result().survivors == (0, 1, 2, 3)


# ---- an operator who restarts with something else ------------------------------------------------


def test_a_client_goes_on_with_the_plan_that_it_began_with(tmp_path: Path) -> None:
    """With a changed plan the rounds are the same, yet a sum over other survivors would be allowed."""
    here = world(4)
    session = here.session(here.propose(rounds=2))
    here.plan = [replace(one, same_survivors=True) for one in here.plan]
    store = Store(tmp_path / "a", here.identities[0])
    invitation = session.server.start()[0]
    process(session, store).receive(invitation)
    here.plan = [replace(one, same_survivors=False) for one in here.plan]
    with pytest.raises(LocalProtocolError, match="expected the plan that the session began with"):
        process(session, store).receive(invitation)


@pytest.mark.parametrize("role", ["client", "holder"])
def test_parties_of_encrypted_sums_go_on_with_their_plan(role: str) -> None:
    here = KeyWorld(4)
    session = here.session().set_up()
    plan = [replace(one, survivors=3) for one in session.plan]
    parties: Any = (session.clients[0], here.client(0, plan))
    if role == "holder":
        parties = session.holders[4], here.holder(0, plan)
    with pytest.raises(LocalProtocolError, match="expected the plan that the session began with"):
        parties[1].resume(parties[0].memory())


def test_a_journal_is_of_one_server(tmp_path: Path) -> None:
    """Otherwise all frames of the other server's parties would be refused, and nobody would learn why."""
    here = world(4)
    parameters = here.propose()
    store = Store(tmp_path / "a", Identity.generate())
    durable = DurableServer(MaskingServer(parameters, here.roster), store, "s")
    sent, session = durable.start(), here.session(parameters)
    for index in range(4):
        answer = session.clients[index].receive(sent[index])
        assert isinstance(answer, bytes)
        durable.receive(index, answer)
    for other in (here.propose(), replace_session(parameters)):
        with pytest.raises(StoreError, match="its parameters, rosters or program have changed"):
            DurableServer(MaskingServer(other, here.roster), store, "s")
    DurableServer(MaskingServer(parameters, here.roster), store, "s")


def replace_session(parameters: Any) -> Any:
    fields = {name: getattr(parameters, name) for name in parameters.__struct_fields__}
    return type(parameters)(**{**fields, "session": secrets.token_bytes(32)})


def test_a_journal_is_of_one_least(tmp_path: Path) -> None:
    here = KeyWorld(4)
    session = here.session()
    store = Store(tmp_path / "a", Identity.generate())
    durable = DurableServer(session.server, store, "s")
    cohort: Any = session.cohort
    cohort.server = cohort.steps = Stands(durable)
    session.set_up()
    with pytest.raises(StoreError, match=r"step 11, advance, led to .'RoundAbortedError"):
        DurableServer(
            HomomorphicServer(session.agreement, here.roster, here.key_holders, least=5), store, "s"
        )


def test_a_journal_that_was_forgotten_is_not_written_on(tmp_path: Path) -> None:
    """Another process of the server erases the session; this process must not write to its journal any more."""
    here = world(4)
    parameters = here.propose()
    store = Store(tmp_path / "a", Identity.generate())
    durable = DurableServer(MaskingServer(parameters, here.roster), store, "s")
    durable.start()
    store.forget("s")
    with pytest.raises(Exception, match="at least"):
        durable.advance()
    with pytest.raises(StoreError, match="step 0 is missing"):
        DurableServer(MaskingServer(parameters, here.roster), store, "s")


# ---- hands in the file ---------------------------------------------------------------------------


def read_after(store: Store, way: str) -> None:
    """What somebody did to the file, if reading it did not find it out."""
    with store.transaction():
        store.run(way)
        store.kept("s")
        list(store.journal("s"))


def test_no_box_opens_in_anothers_place(tmp_path: Path) -> None:
    """If a sealed memory opened in an answer's place, the server could ask again and receive every secret."""
    store = Store(tmp_path / "a", Identity.generate())
    store.keep("s", Kept(b"memory", b"question", b"answer"))
    for number, step in enumerate(("receive", "receive", "advance")):
        store.write("s", number, step, str(number).encode())
    ways = [
        "UPDATE kept SET box = (SELECT box FROM journal WHERE number = 0)",
        "UPDATE journal SET box = (SELECT box FROM journal WHERE number = 1) WHERE number = 0",
        "UPDATE journal SET number = 2 - number + 10",
        "UPDATE journal SET step = 'result' WHERE number = 2",
        "UPDATE journal SET box = (SELECT box FROM kept)",
        "DELETE FROM journal WHERE number = 1",
        "DELETE FROM journal WHERE number = 0",
    ]
    for way in ways:
        with pytest.raises(StoreError, match=r"does not open|is missing"):
            read_after(store, way)
    assert store.kept("s") == Kept(b"memory", b"question", b"answer")
    assert len(list(store.journal("s"))) == 3


def test_a_file_that_others_can_reach_is_refused(tmp_path: Path) -> None:
    owner, path = Identity.generate(), tmp_path / "a"
    Store(path, owner).close()
    path.chmod(0o640)
    with pytest.raises(StoreError, match=r"expected a regular file .* \(mode 0600\), got mode 0640"):
        Store(path, owner)
    path.chmod(0o600)
    (tmp_path / "b").symlink_to(path)
    os.mkfifo(tmp_path / "c", 0o600)
    (tmp_path / "d").symlink_to(tmp_path / "nowhere")
    for name in "bcd":
        with pytest.raises(StoreError, match="expected a regular file"):
            Store(tmp_path / name, owner)
    assert not (tmp_path / "nowhere").exists()
    tmp_path.chmod(0o777)
    with pytest.raises(StoreError, match="expected a folder that only its owner can write to, got mode 0777"):
        Store(path, owner)
    tmp_path.chmod(0o700)
    Store(path, owner)


def test_a_database_of_something_else_is_refused(tmp_path: Path) -> None:
    for name, table in (("a", "rows (x)"), ("b", "about (version, party)")):
        path = tmp_path / name
        path.touch(0o600)
        other = sqlite3.connect(path)
        other.execute(f"CREATE TABLE {table}")
        other.commit()
        other.close()
        with pytest.raises(StoreError, match=r"no such table|without an owner"):
            Store(path, Identity.generate())


def test_a_name_that_sqlite_keeps_in_memory_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    owner = Identity.generate()
    store = Store(Path(":memory:"), owner)
    store.ledger.join(b"1" * 32)
    store.close()
    with pytest.raises(PolicyError):
        Store(Path(":memory:"), owner).ledger.join(b"1" * 32)


def test_a_damaged_file_is_said_and_opens_nothing_wrong(tmp_path: Path) -> None:
    owner, path, kept = Identity.generate(), tmp_path / "a", Kept(b"m" * 20_000, b"question", b"answer")
    store = Store(path, owner)
    store.keep("s", kept)
    store.close()
    whole, refused = path.read_bytes(), 0
    for at in range(0, len(whole), 997):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            store = Store(path, owner)
            assert store.kept("s") in (kept, None)
            store.close()
        except StoreError:
            refused += 1
    assert refused > 10


# ---- SQLite --------------------------------------------------------------------------------------


def test_a_transaction_that_sqlite_took_back_is_not_gone_on_with(tmp_path: Path) -> None:
    """SQLite rolls back when disk or memory fails; later statements would then be committed one by one."""
    store = Store(tmp_path / "a", Identity.generate())

    def step(swallowed: type[Exception]) -> None:
        with store.transaction():
            store.ledger.use("rows", b"1" * 32)
            store._database.rollback()
            with suppress(swallowed):
                store.keep("s", Kept(b"", b"", b""))

    for swallowed in (ZeroDivisionError, StoreError):
        with pytest.raises(StoreError, match="was not written"):
            step(swallowed)
        assert store.kept("s") is None
    store.ledger.use("rows", b"2" * 32)


def test_a_store_is_for_one_thread_and_one_process(tmp_path: Path) -> None:
    store = Store(tmp_path / "a", Identity.generate())
    said: list[bytes] = []

    def elsewhere() -> bytes:
        try:
            store.ledger.join(b"2" * 32)
        except StoreError as error:
            said.append(str(error).encode())
        return said[-1]

    with store.transaction():
        store.ledger.join(b"1" * 32)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert b"got a fork" in forked(elsewhere)
    assert b"thread" in said[0]
    with pytest.raises(PolicyError):
        store.ledger.join(b"1" * 32)
    store.ledger.join(b"2" * 32)


def test_a_reader_keeps_a_step_from_leaving_and_not_from_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite keeps the old pages for the reader, so the new ones stay in the log, and no answer leaves."""
    monkeypatch.setattr("secure_afl.protocol.durable.store._SOON", 0.1)
    store = Store(tmp_path / "a", Identity.generate())
    store.keep("s", Kept(b"memory", b"", b""))
    reader = sqlite3.connect(tmp_path / "a", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM kept").fetchall()
    with pytest.raises(
        StoreError, match=r"only in its log, and nothing leaves until .*: another program blocks it"
    ):
        store.forget("s")
    with pytest.raises(StoreError, match="only in its log"):
        store.kept("s")
    assert len(reader.execute("SELECT * FROM kept").fetchall()) == 1
    reader.execute("COMMIT")
    assert store.kept("s") is None
    assert log_bytes(tmp_path / "a") == 0


def test_what_a_party_forgets_is_in_no_file(tmp_path: Path) -> None:
    """Otherwise somebody with the identity's key and the disk could open the uploads of past rounds."""
    store = Store(tmp_path / "a", Identity.generate())
    boxes = []
    for size in (40_000, 100, 40_000, 0):
        store.keep("s", Kept(b"m" * size, b"", b""))
        box = store.run("SELECT box FROM kept")[0][0]
        assert isinstance(box, bytes)
        boxes.append(box)
    on_disk = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for box in boxes[:-1]:
        assert not any(box[at : at + 32] in on_disk for at in range(0, len(box), 1000))
