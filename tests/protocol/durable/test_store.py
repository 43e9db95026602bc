"""A party's file: what is in it is all or nothing, its own, and closed; who was killed goes on from it."""

import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from msgspec import msgpack
from worlds.cohorts import World, world
from worlds.encrypted import KeySession, KeyWorld

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.identity import Identity
from secure_afl.crypto.kdf import Label
from secure_afl.crypto.sealed_box import lock, unlock
from secure_afl.protocol.durable import store as stores
from secure_afl.protocol.durable.journal import DurableServer
from secure_afl.protocol.durable.parties import DurableParty
from secure_afl.protocol.durable.store import Kept, Store, StoreError
from secure_afl.protocol.homomorphic.server import HomomorphicServer
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.masking.memory import MEMORY, Memory
from secure_afl.protocol.masking.messages import Confirm
from secure_afl.protocol.masking.server import MaskingServer
from secure_afl.protocol.masking.states import ClientState
from secure_afl.protocol.session.errors import (
    LocalProtocolError,
    PolicyError,
    ProtocolError,
    RemoteProtocolError,
    RoundAbortedError,
)
from secure_afl.protocol.session.ledger import Ledger
from secure_afl.protocol.session.parameters import Profile, SumWanted
from secure_afl.protocol.session.server import OpenedSum
from secure_afl.protocol.session.wire import sign_frame
from secure_afl.protocol.transport.driver import Packet, PerfectNetwork

# ---- boxes ---------------------------------------------------------------------------------------


@given(st.binary(max_size=50), st.integers(0, 10**6))
def test_a_box_opens_only_as_it_was_closed(content: bytes, at: int) -> None:
    key = bytes(range(32))
    box = lock(key, content, Label.STORE, b"a")
    assert unlock(key, box, Label.STORE, b"a") == content
    assert lock(key, content, Label.STORE, b"a") != box
    flipped = bytearray(box)
    flipped[at % len(box)] ^= 1
    others = [
        (key, bytes(flipped), Label.STORE, b"a"),
        (key, box[:-1], Label.STORE, b"a"),
        (key, b"", Label.STORE, b"a"),
        (bytes(32), box, Label.STORE, b"a"),
        (key, box, Label.STORE, b"b"),
        (key, box, Label.ROSTER, b"a"),
    ]
    for other in others:
        with pytest.raises(CryptoError, match="does not open"):
            unlock(*other)


def test_an_identity_has_a_secret_for_every_label() -> None:
    one, other = Identity.generate(), Identity.generate()
    secrets = [one.secret(Label.STORE), one.secret(Label.ROSTER), other.secret(Label.STORE)]
    assert len(set(secrets)) == 3
    assert one.secret(Label.STORE) == secrets[0]
    assert one._key.private_bytes_raw() not in secrets


# ---- the file ------------------------------------------------------------------------------------


def test_a_file_is_its_owners_alone(tmp_path: Path) -> None:
    owner = Identity.generate()
    Store(tmp_path / "a", owner).close()
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(StoreError, match=r"expected .* the party .*, got a file of secure-afl/2 and of"):
        Store(tmp_path / "a", Identity.generate())
    database = sqlite3.connect(tmp_path / "a")
    database.execute("UPDATE about SET version = 'secure-afl/0'")
    database.commit()
    database.close()
    with pytest.raises(StoreError, match="got a file of secure-afl/0"):
        Store(tmp_path / "a", owner)


def test_what_is_no_store_is_said(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database, but longer than its header" * 9)
    for path in (tmp_path / "text", tmp_path, tmp_path / "no folder" / "a"):
        with pytest.raises(StoreError, match="cannot be read or written"):
            Store(path, Identity.generate())


def test_what_is_kept_is_closed_and_forgotten(tmp_path: Path) -> None:
    owner, secret = Identity.generate(), b"a secret of 32 bytes, or so it is"
    store = Store(tmp_path / "a", owner)
    store.keep("s", Kept(secret, b"question", secret))
    store.write("s", 0, "receive", secret)
    assert repr(store.kept("s")) == "Kept(…)"
    store.close()
    store = Store(tmp_path / "a", owner)
    assert store.kept("s") == Kept(secret, b"question", secret)
    assert list(store.journal("s")) == [("receive", secret)]
    assert not any(secret in path.read_bytes() for path in tmp_path.iterdir())
    box = store.run("SELECT box FROM kept")[0][0]
    assert isinstance(box, bytes)
    store.forget("s")
    assert store.kept("s") is None
    assert list(store.journal("s")) == []
    assert not any(box in path.read_bytes() for path in tmp_path.iterdir())


def test_a_box_of_another_session_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "a", Identity.generate())
    store.keep("s", Kept(b"memory", b"", b""))
    store.run("UPDATE kept SET name = 't'")
    with pytest.raises(StoreError, match="session 't': a stored record does not open"):
        store.kept("t")


def test_a_step_is_written_once(tmp_path: Path) -> None:
    """Two processes of one server cannot both continue."""
    owner = Identity.generate()
    stores = [Store(tmp_path / "a", owner) for _ in range(2)]
    stores[0].write("s", 0, "start", b"")
    with pytest.raises(StoreError, match="UNIQUE"):
        stores[1].write("s", 0, "start", b"")


def test_a_file_is_written_so_that_it_lasts_and_forgets(tmp_path: Path) -> None:
    store = Store(tmp_path / "a", Identity.generate())
    settings = {"journal_mode": "wal", "secure_delete": 1, "synchronous": 3, "fullfsync": 1}
    settings |= {"checkpoint_fullfsync": 1, "wal_autocheckpoint": 1000}
    assert {name: store.run(f"PRAGMA {name}")[0][0] for name in settings} == settings
    assert repr(store) == f"Store({tmp_path / 'a'})"


def test_what_an_interrupt_left_open_is_taken_back(tmp_path: Path) -> None:
    """Nobody would end that transaction, and nothing written after it would last."""
    owner = Identity.generate()
    store = Store(tmp_path / "a", owner)
    store._database.execute("BEGIN IMMEDIATE")
    store._database.execute("INSERT INTO joined VALUES (x'00')")
    store.keep("s", Kept(b"memory", b"", b""))
    store.close()
    store = Store(tmp_path / "a", owner)
    assert store.kept("s") == Kept(b"memory", b"", b"")
    assert store.run("SELECT * FROM joined") == []


def test_who_fails_in_a_step_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "_WAIT", 0.1)
    owner = Identity.generate()
    one, other = (Store(tmp_path / "a", owner) for _ in range(2))

    def step() -> None:
        with one.transaction():
            one.keep("s", Kept(b"of the step that failed", b"", b""))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        step()
    other.keep("t", Kept(b"memory", b"", b""))
    assert one.kept("s") is None


# ---- the ledger ----------------------------------------------------------------------------------

SETS, SESSIONS = st.sampled_from(["a", "b", "c"]), st.sampled_from([b"1" * 32, b"2" * 32, b"3" * 32])


class BothLedgers(RuleBasedStateMachine):
    """A stored ledger does what one in memory does, also after its file was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.owner = Identity.generate()
        BothLedgers.count += 1
        self.path = BothLedgers.folder / str(BothLedgers.count)
        self.store, self.plain = Store(self.path, self.owner), Ledger()

    folder: Path
    count = 0

    def both(self, act: Callable[[Ledger], object]) -> None:
        said: list[object] = []
        for ledger in (self.plain, self.store.ledger):
            try:
                said.append(act(ledger))
            except PolicyError as error:
                said.append(str(error))
        assert said[0] == said[1]

    @rule(session=SESSIONS)
    def join(self, session: bytes) -> None:
        self.both(lambda ledger: ledger.join(session))

    @rule(names=st.lists(SETS, max_size=3), session=SESSIONS, leaves=st.booleans())
    def use(self, names: list[str], session: bytes, leaves: bool) -> None:
        self.both(lambda ledger: ledger.use_all(names, session, leaves=leaves))

    @rule(name=SETS, may_expose=st.booleans())
    def renew(self, name: str, may_expose: bool) -> None:
        self.both(lambda ledger: ledger.renew(name, may_expose=may_expose))

    @rule(name=SETS)
    def used(self, name: str) -> None:
        assert self.plain.used(name) == self.store.ledger.used(name)
        assert set(self.store.ledger.data_sets()) == self.plain._used.keys()

    @rule()
    def open_again(self) -> None:
        self.store.close()
        self.store = Store(self.path, self.owner)

    def teardown(self) -> None:
        self.store.close()


def test_both_ledgers_are_the_same(tmp_path: Path) -> None:
    BothLedgers.folder = tmp_path
    run_state_machine_as_test(
        BothLedgers, settings=settings(max_examples=15, stateful_step_count=15, deadline=None)
    )


def test_a_file_of_before_uploads_were_noted_takes_them_for_uploaded(tmp_path: Path) -> None:
    owner = Identity.generate()
    store = Store(tmp_path / "a", owner)
    store.ledger.use("rows", b"1" * 32, leaves=False)
    store.run("ALTER TABLE used DROP COLUMN uploaded")
    store.close()
    store = Store(tmp_path / "a", owner)
    assert store.ledger.used("rows") == (b"1" * 32, True)
    with pytest.raises(PolicyError, match="may_expose"):
        store.ledger.renew("rows")
    store.close()


def test_a_refused_list_of_data_sets_leaves_nothing(tmp_path: Path) -> None:
    ledger = Store(tmp_path / "a", Identity.generate()).ledger
    ledger.use("b", b"1" * 32)
    with pytest.raises(PolicyError, match="'b' was used in session"):
        ledger.use_all(["a", "b"], b"2" * 32)
    ledger.use("a", b"3" * 32)


# ---- parties that die ----------------------------------------------------------------------------


class Anew(DurableParty):
    """A process for every message: the file is opened again for each, as after a kill."""

    def __init__(self, make: Callable[[Ledger], Any], path: Path, owner: Identity) -> None:
        self.make, self.path, self.owner = make, path, owner
        self.repeats = 0

    def opened(self) -> tuple[Store, DurableParty]:
        store = Store(self.path, self.owner)
        return store, DurableParty(self.make, store, "session")

    def receive(self, data: bytes) -> bytes | SumWanted:
        store, party = self.opened()
        first = party.receive(data)
        store.close()
        # Killed before it could send: the server sends the same again.
        store, party = self.opened()
        again = party.receive(data)
        store.close()
        assert again == first
        self.repeats += 1
        return again

    def contribute(self, wanted: SumWanted, values: Any, data_set: str) -> bytes:
        store, party = self.opened()
        said = party.contribute(wanted, values, data_set)
        with pytest.raises(LocalProtocolError, match="is not wanted"):
            party.contribute(wanted, values + 1, data_set)
        store.close()
        return said


def durable(here: World, index: int, path: Path) -> Anew:
    def make(ledger: Ledger) -> MaskingClient:
        return MaskingClient(here.identities[index], here.roster, here.plan, here.policy, ledger)

    return Anew(make, path / f"client {index}", here.identities[index])


@pytest.mark.parametrize("profile", Profile)
def test_masked_sums_of_clients_that_die_after_every_message(profile: Profile, tmp_path: Path) -> None:
    here = world(4)
    session = here.session(here.propose(profile=profile, rounds=2))
    clients: Any = session.clients
    for index in range(4):
        clients[index] = durable(here, index, tmp_path)
    session.set_up()
    for number in range(2):
        result = session.sum(number)
        assert session.opened(result).tolist() == session.integer_sum(range(4), number).tolist()
    assert not session.cohort.refusals
    assert clients[0].repeats == 3 + 2 * (4 if profile is Profile.ACTIVE else 2)


@pytest.mark.parametrize("profile", Profile)
def test_a_file_has_no_key_that_is_of_no_more_use_also_if_the_server_never_ends_the_session(
    profile: Profile, tmp_path: Path
) -> None:
    """Whoever takes the file and the identity can open what is in it now, not what was in it before."""
    here = world(4)
    session = here.session(here.propose(profile=profile, rounds=2))
    clients: Any = session.clients
    memories: list[Memory] = []
    boxes: list[bytes] = []

    class Watched(Anew):
        def opened(self) -> tuple[Store, DurableParty]:
            store, party = super().opened()
            for (box,), kept in zip(store.run("SELECT box FROM kept"), [store.kept("session")], strict=False):
                assert isinstance(box, bytes)
                assert kept
                boxes.append(box)
                memories.append(MEMORY.decode(kept.memory))
            return store, party

    clients[0] = durable(here, 0, tmp_path)
    clients[0].__class__ = Watched
    session.set_up()
    seeds = {one.channel_seed for one in memories} - {b""}
    assert len(seeds) == 1
    session.sum(0)
    session.sum(1)
    clients[0].opened()[0].close()
    for one in memories:
        if one.state is not ClientState.START:
            for keys in one.rounds.values():
                seeds |= {keys.mask_seed, keys.self_seed, keys.own_share, *keys.pair_secrets.values()} - {b""}
                seeds |= {share for pair in keys.shares.values() for share in pair}
    assert len(seeds) == 1 + 2 * (3 + 3 + 2 * 3)
    assert [bool(one.channel_seed) for one in memories] == sorted(
        [bool(one.channel_seed) for one in memories], reverse=True
    )
    assert (memories[-1].channel_seed, memories[-1].rounds, memories[-1].current) == (b"", {}, None)
    memory = msgpack.encode(memories[-1])
    assert not [seed for seed in seeds if seed in memory]
    # What was written over is not in the file either, in no piece.
    left = b"".join(path.read_bytes() for path in tmp_path.glob("client 0*"))
    older = [box for box in boxes if box != boxes[-1]]
    assert len(older) > 5
    assert not [box for box in older for at in range(0, len(box) - 32, 256) if box[at : at + 32] in left]


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "holders"), [("bfv", 1), ("bfv", 2), ("ckks", 1)])
def test_encrypted_sums_of_parties_that_die_after_every_message(
    backend: str, holders: int, tmp_path: Path
) -> None:
    here = KeyWorld(4, backend, holders)
    session = here.session(rounds=2)
    replace_by_durable(session, tmp_path)
    session.set_up()
    for number in range(2):
        who, total = session.sum(number)
        assert who == (0, 1, 2, 3)
        assert session.is_right(number, who, total)
    assert not session.cohort.refusals


def replace_by_durable(session: KeySession, path: Path) -> None:
    here, clients, holders = session.world, *(vars(session)[name] for name in ("clients", "holders"))
    kept = list(here.ledgers)

    def maker(index: int) -> Callable[[Ledger], Any]:
        def make(ledger: Ledger) -> Any:
            here.ledgers[index] = ledger
            number = index - here.members
            return here.client(index, session.plan) if number < 0 else here.holder(number, session.plan)

        return make

    for index in range(len(kept)):
        parties = clients if index < here.members else holders
        parties[index] = Anew(maker(index), path / f"party {index}", here.identities[index])


def test_a_message_that_cannot_be_written_down_changes_nothing(tmp_path: Path) -> None:
    """While the disk is full nothing leaves; with room again the session continues, and the data set was not used."""
    here = world(4)
    session = here.session(here.propose()).set_up()
    request = session.server.open_round(0)[0]
    store = Store(tmp_path / "a", here.identities[0])
    party = DurableParty(lambda ledger: resumed(here, ledger, session.clients[0].memory()), store, "session")
    wanted: Any = party.receive(request)
    pages = store.run("PRAGMA page_count")[0][0]
    store.run(f"PRAGMA max_page_count = {pages}")
    store.ledger.join(b"x" * 32)
    for number in range(10_000):
        try:
            store.ledger.use(f"filler {number} " + "x" * 500, b"x" * 32)
        except StoreError:
            break
    with pytest.raises(StoreError, match="full"):
        party.contribute(wanted, session.vectors[0, 0], "rows " + "x" * 5000)
    assert not [row for row in store.run("SELECT data_set FROM used") if str(row[0]).startswith("rows")]
    store.run("PRAGMA max_page_count = 100000")
    upload = party.contribute(wanted, session.vectors[0, 0], "rows")
    session.server.receive(0, upload)


def resumed(here: World, ledger: Ledger, memory: bytes) -> MaskingClient:
    client = MaskingClient(here.identities[0], here.roster, here.plan, here.policy, ledger)
    client.resume(memory)
    # What it will be given back from the store is read by a fresh one.
    again = MaskingClient(here.identities[0], here.roster, here.plan, here.policy, ledger)

    def resume(kept: bytes) -> None:
        again.resume(kept)
        vars(client).update(vars(again))

    vars(client)["resume"] = resume
    return client


def test_a_client_that_died_in_one_session_joins_it_no_second_time(tmp_path: Path) -> None:
    here = world(4)
    session = here.session(here.propose())
    party = durable(here, 0, tmp_path)
    invitation = session.server.start()[0]
    party.receive(invitation)
    store = Store(party.path, party.owner)
    store.forget("session")
    store.close()
    with pytest.raises(PolicyError, match="a replay is refused"):
        party.receive(invitation)


def test_a_refusal_changes_no_file(tmp_path: Path) -> None:
    here = world(4)
    session = here.session(here.propose())
    party = durable(here, 0, tmp_path)
    party.receive(session.server.start()[0])
    store = Store(party.path, party.owner)
    before = store.kept("session")
    store.close()
    with pytest.raises(RemoteProtocolError):
        party.receive(b"no message")
    store = Store(party.path, party.owner)
    assert store.kept("session") == before


def failing(holder: Any, method: str, why: str) -> Callable[[Ledger], Any]:
    """How to make a key holder one method of which fails."""

    def make(ledger: Ledger) -> Any:
        key_holder = holder.make(ledger)
        setattr(key_holder, method, fail)
        return key_holder

    def fail(*_: object) -> bytes:
        raise CryptoError(why)

    return make


def test_a_sum_that_did_not_open_is_spent_after_a_restart_too(tmp_path: Path) -> None:
    """A key holder whose decryption fails answers no second time, or a server could ask for one failure after another."""
    here = KeyWorld(4)
    session = here.session(rounds=1)
    replace_by_durable(session, tmp_path)
    session.set_up()
    holder: Any = session.holders[4]
    session.cohort.run(lambda: session.server.open_round(0), session.contribute)
    for _ in range(2):
        session.cohort.run(session.server.advance, session.contribute)
    opening = session.server.advance()[4]

    store = Store(holder.path, holder.owner)
    with pytest.raises(RemoteProtocolError, match="does not vouch"):
        DurableParty(failing(holder, "_released", "it does not vouch"), store, "session").receive(opening)
    with pytest.raises(RemoteProtocolError, match="expected a sum that was not opened yet"):
        DurableParty(holder.make, store, "session").receive(opening)


def test_a_vector_is_given_once_and_only_where_it_is_wanted(tmp_path: Path) -> None:
    here = world(4)
    session = here.session(here.propose()).set_up()
    request = session.server.open_round(0)[0]
    store, memory = Store(tmp_path / "a", here.identities[0]), session.clients[0].memory()
    party = DurableParty(lambda ledger: resumed(here, ledger, memory), store, "session")
    vector, nothing = session.vectors[0, 0], "session: the sum of round 0 is not wanted \\(any more\\)"
    wanted = SumWanted(0, session.parameters.rounds[0], (0, 1, 2, 3))
    with pytest.raises(LocalProtocolError, match=nothing):
        party.contribute(wanted, vector, "rows")
    assert party.receive(request) == wanted
    party.contribute(wanted, vector, "rows")
    with pytest.raises(LocalProtocolError, match=nothing):
        party.contribute(wanted, vector, "rows")


def test_a_key_holder_whose_key_cannot_be_made_has_joined_nevertheless(tmp_path: Path) -> None:
    """The session counts as joined, and messages that were refused at once count as no answer."""
    here = KeyWorld(4)
    session = here.session()
    replace_by_durable(session, tmp_path)
    holder: Any = session.holders[4]

    agreement = session.server.start()[4]
    store = Store(holder.path, holder.owner)
    with pytest.raises(RemoteProtocolError, match="no key for now"):
        DurableParty(failing(holder, "_made", "no key for now"), store, "session").receive(agreement)
    kept = store.kept("session")
    assert kept is not None
    assert (kept.question, kept.answer) == (b"", b"")
    with pytest.raises(PolicyError, match="a replay is refused"):
        store.ledger.join(session.agreement.session)
    with pytest.raises(RemoteProtocolError):
        DurableParty(holder.make, store, "session").receive(agreement)


# ---- servers that die ----------------------------------------------------------------------------


class Dying(PerfectNetwork):
    """The server's process ends after every frame that it took."""

    def __init__(self, restart: Callable[[], None]) -> None:
        self._restart = restart

    def carry(self, packet: Packet) -> list[Packet]:
        self._restart()
        return [packet]


class Handle:
    """What drives a server that is made anew all the time."""

    def __init__(self, make: Callable[[], Any], path: Path) -> None:
        self.make, self.path, self.owner = make, path, Identity.generate()
        self.restarts = 0
        self.open()

    def open(self) -> None:
        self.store = Store(self.path, self.owner)
        self.durable = DurableServer(self.make(), self.store, "session")

    def restart(self) -> None:
        self.store.close()
        self.restarts += 1
        self.open()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.durable if hasattr(DurableServer, name) else self.durable.server, name)


def test_masked_sums_of_a_server_that_dies_after_every_message(tmp_path: Path) -> None:
    here = world(5)
    parameters = here.propose(rounds=2)
    handle = Handle(lambda: MaskingServer(parameters, here.roster), tmp_path / "server")
    session = here.session(parameters, Dying(handle.restart))
    cohort: Any = session.cohort
    cohort.server = cohort.steps = handle
    session.set_up()
    for number in range(2):
        result: OpenedSum = session.sum(number)
        assert session.opened(result).tolist() == session.integer_sum(range(5), number).tolist()
    assert not session.cohort.refusals
    assert handle.restarts == 5 * 2 * (3 + 2 * 4)


def test_encrypted_sums_of_a_server_that_dies_after_every_message(tmp_path: Path) -> None:
    here = KeyWorld(4)
    network = Dying(lambda: handle.restart())
    session = here.session(network)
    agreement, least = session.agreement, here.least
    handle = Handle(
        lambda: HomomorphicServer(agreement, here.roster, here.key_holders, least=least), tmp_path / "server"
    )
    cohort: Any = session.cohort
    cohort.server = cohort.steps = handle
    session.set_up()
    who, total = session.sum()
    assert session.is_right(0, who, total)


@pytest.mark.slow
def test_masked_sums_under_encryption_of_servers_that_die_after_every_message(tmp_path: Path) -> None:
    """The masked session's journal also holds the decrypted total, and a round that was given up."""
    here = KeyWorld(4, "bfv+mask")

    def restart() -> None:
        for one in handles:
            one.restart()

    session = here.session(Dying(restart), rounds=2)
    agreement, masks, cohort = session.agreement, session.masks, session.cohort
    assert masks is not None
    parameters = masks.server.parameters
    handles = [
        Handle(lambda: MaskingServer(parameters, here.roster), tmp_path / "masks"),
        Handle(
            lambda: HomomorphicServer(agreement, here.roster, here.key_holders, least=here.least),
            tmp_path / "encrypted",
        ),
    ]
    for handle, driven in zip(handles, (masks, cohort), strict=True):
        vars(driven).update(server=handle, steps=handle)
    session.set_up()
    link: Any = cohort._link
    holders, link._holders = link._holders, {}
    with pytest.raises(RoundAbortedError):
        session.sum(0)
    handles[0].restart()
    assert handles[0].state.value == "ready"
    link._holders = holders
    who, total = session.sum(1)
    assert session.is_right(1, who, total)
    with pytest.raises(LocalProtocolError, match="only a masked session"):
        handles[1].durable.give_up_round()


def test_what_was_sent_last_is_sent_again_to_those_that_did_not_answer(tmp_path: Path) -> None:
    here = world(4)
    parameters = here.propose()
    handle = Handle(lambda: MaskingServer(parameters, here.roster), tmp_path / "server")
    here.session(parameters)
    clients = [here.client(index) for index in range(4)]
    sent = handle.start()
    answers = [clients[index].receive(sent[index]) for index in range(4)]
    for index in (0, 2):
        handle.receive(index, answers[index])
    with pytest.raises(ProtocolError):
        handle.receive(1, b"x" * 100)
    handle.restart()
    assert handle.pending() == {index: sent[index] for index in (1, 3)}
    assert handle.state.value == "advertising"


def test_a_sum_outlives_the_server_that_opened_it(tmp_path: Path) -> None:
    """A server that was killed before it used a sum finds it again."""
    here = world(4)
    parameters = here.propose(rounds=2)
    handle = Handle(lambda: MaskingServer(parameters, here.roster), tmp_path / "server")
    session = here.session(parameters)
    cohort: Any = session.cohort
    cohort.server = cohort.steps = handle
    assert (handle.durable.round, handle.durable.opened) == (-1, None)
    session.set_up()
    for number in range(2):
        session.sum(number)
        handle.restart()
        assert handle.durable.round == number
        opened: Any = handle.durable.opened
        assert session.opened(opened).tolist() == session.integer_sum(range(4), number).tolist()
        assert handle.result() is opened


def test_blame_outlives_the_server(tmp_path: Path) -> None:
    here = world(4)
    parameters = here.propose()
    handle = Handle(lambda: MaskingServer(parameters, here.roster), tmp_path / "server")
    here.session(parameters)
    client = here.client(1)
    answer = client.receive(handle.start()[1])
    assert isinstance(answer, bytes)

    wrong = sign_frame(here.identities[1], parameters.transcript(), client._answers, 1, Confirm(()))
    for _ in range(3):
        with pytest.raises(ProtocolError):
            handle.receive(1, wrong)
    blame = dict(handle.blame)
    handle.restart()
    assert handle.blame == blame
    assert len(list(handle.store.journal("session"))) <= 2  # what changes nothing is not written


def test_a_server_whose_step_was_not_written_is_of_no_more_use(tmp_path: Path) -> None:
    here = world(4)
    parameters = here.propose()
    handle = Handle(lambda: MaskingServer(parameters, here.roster), tmp_path / "server")
    other = Store(tmp_path / "server", handle.owner)
    other.write("session", 0, "start", b"\x90")  # another process began
    with pytest.raises(StoreError):
        handle.start()
    with pytest.raises(StoreError, match="make a new object from the store"):
        handle.start()


def test_a_round_asks_those_that_it_is_to_ask_after_a_restart_too(tmp_path: Path) -> None:
    here = world(4)
    parameters = here.propose(rounds=2)
    handle = Handle(lambda: MaskingServer(parameters, here.roster), tmp_path / "server")
    session = here.session(parameters)
    cohort: Any = session.cohort
    cohort.server = cohort.steps = handle
    session.set_up()
    assert set(handle.open_round(0, among={3, 0, 1})) == {0, 1, 3}
    handle.restart()
    assert set(handle.pending()) == handle.waiting_for == {0, 1, 3}
    handle.give_up_round()
    assert set(handle.open_round(1)) == {0, 1, 2, 3}
