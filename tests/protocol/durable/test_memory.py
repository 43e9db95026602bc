"""A party that restarts before every message goes on as if nothing had happened; its memory is that of one session."""

from collections.abc import Callable
from typing import Any

import pytest
from worlds.cohorts import EVERY_PROFILE, Session, world
from worlds.encrypted import KeySession, KeyWorld

from secure_afl.crypto.hpke import Suite
from secure_afl.crypto.lattice.parameter_sets import LATTICES
from secure_afl.crypto.lattice.seal import SecretKey
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.session.errors import LocalProtocolError, PolicyError, RemoteProtocolError
from secure_afl.protocol.session.parameters import Profile
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.transport.driver import Packet, PerfectNetwork
from secure_afl.testing.faults import Fault, FaultyNetwork


class Restarts(PerfectNetwork):
    """Before a party gets a message, it dies and a new one reads its memory."""

    def __init__(self, restart: Callable[[int], None]) -> None:
        self._restart = restart
        self.restarts = 0

    def carry(self, packet: Packet) -> list[Packet]:
        if not packet.upward:
            self._restart(packet.client)
            self.restarts += 1
        return [packet]


def again(party: Any, fresh: Any) -> Any:
    """The fresh party with the other's memory; before there is a session there is none."""
    try:
        memory = party.memory()
    except LocalProtocolError:
        return party
    fresh.resume(memory)
    assert (fresh.state, fresh.index) == (party.state, party.index)
    assert fresh.memory() == memory
    return fresh


def masked_session(n: int, profile: Profile, rounds: int = 2) -> tuple[Session, Restarts]:
    here = world(n)

    def restart(index: int) -> None:
        clients[index] = again(clients[index], here.client(index))

    network = Restarts(restart)
    session = here.session(here.propose(profile=profile, rounds=rounds), network)
    clients: Any = session.clients
    return session, network


def encrypted_session(world: KeyWorld, **options: Any) -> tuple[KeySession, Restarts]:
    def restart(index: int) -> None:
        if index in holders:
            fresh = world.holder(index - world.members, session.plan, options.get("solve"))
            holders[index] = again(holders[index], fresh)
            return
        if session.masks:
            masks: Any = session.masks.clients
            _, agreed = world.encryption.agreed(session.plan, world.members, world.holders)
            parts = world.identities[index], world.roster, session.plan, world.policy, world.ledgers[index]
            masks[index] = again(masks[index], MaskingClient(*parts, agreed=agreed))
        beneath = session.masks.clients[index] if session.masks else None
        clients[index] = again(clients[index], world.client(index, session.plan, beneath))

    network = Restarts(restart)
    session = world.session(network, **options)
    clients: Any = session.clients
    holders: Any = session.holders
    return session, network


@pytest.mark.parametrize("profile", Profile)
def test_masked_sums_are_the_same_with_restarts(profile: Profile) -> None:
    session, network = masked_session(5, profile)
    session.set_up()
    for number in range(2):
        result = session.sum(number)
        assert session.opened(result).tolist() == session.integer_sum(range(5), number).tolist()
    assert network.restarts == 5 * (3 + 2 * (4 if profile is Profile.ACTIVE else 2))
    assert not session.cohort.refusals


def test_restarted_clients_unmask_a_dropout() -> None:
    here = world(6)
    lost = FaultyNetwork([Fault("drop", "collecting", frozenset({2}))])
    session = here.session(here.propose(rounds=2), lost).set_up()
    clients: Any = session.clients
    for index in range(6):
        clients[index] = again(clients[index], here.client(index))
    result = session.sum()
    assert 2 not in result.survivors
    assert len(result.survivors) == 5
    assert session.opened(result).tolist() == session.integer_sum(result.survivors).tolist()


@pytest.mark.parametrize(("backend", "holders"), [("bfv", 1), ("bfv", 2), ("ckks", 1), ("bfv+mask", 1)])
def test_encrypted_sums_are_the_same_with_restarts(backend: str, holders: int) -> None:
    session, network = encrypted_session(KeyWorld(4, backend, holders), rounds=2)
    session.set_up()
    for number in range(2):
        who, total = session.sum(number)
        assert who == (0, 1, 2, 3)
        assert session.is_right(number, who, total)
    assert network.restarts >= 4 + 3 * holders + 2 * (4 * 2 + 2 * holders)
    assert not session.cohort.refusals


def test_a_memory_holds_secrets_and_does_not_show_them() -> None:
    session, _ = masked_session(4, Profile.ACTIVE)
    session.set_up()
    kept: Any = session.clients[0]._memory
    seed = kept.rounds[0].mask_seed
    assert seed in session.clients[0].memory()
    for shown in (repr(kept), repr(kept.rounds), str(session.clients[0])):
        assert seed.hex() not in shown
        assert repr(seed) not in shown


def test_a_memory_of_something_else_is_refused() -> None:
    session, _ = masked_session(4, Profile.ACTIVE)
    session.set_up()
    here, memory = session.world, session.clients[0].memory()
    other = world(4)
    other.propose(rounds=2)
    for fresh in (other.client(0), KeyWorld(4).session().clients[0], KeyWorld(4).session().holders[4]):
        with pytest.raises(LocalProtocolError, match="the saved session does not fit"):
            fresh.resume(memory)
        assert fresh.state.value == "start"
    for cut in (b"", memory[:-1], memory + b"\x00"):
        with pytest.raises(LocalProtocolError, match="the saved session does not fit"):
            here.client(0).resume(cut)
    here.plan = here.plan[:1]
    with pytest.raises(LocalProtocolError, match="expected the 1 sums that were agreed on"):
        here.client(0).resume(memory)
    with pytest.raises(LocalProtocolError, match="a session has already begun"):
        session.clients[1].resume(session.clients[1].memory())


def test_a_stricter_policy_ends_the_session() -> None:
    """The owner may change the policy while the client is not running."""
    session, _ = masked_session(4, Profile.SEMI_HONEST)
    session.set_up()
    here = session.world
    here.policy = Policy(suites=frozenset(Suite))
    with pytest.raises(PolicyError, match="policy asks for profile active"):
        here.client(0).resume(session.clients[0].memory())
    here.policy = EVERY_PROFILE
    here.client(0).resume(session.clients[0].memory())


def test_a_restarted_client_masks_no_second_vector() -> None:
    """After the upload the stored memory holds no keys of that round."""
    session, _ = masked_session(4, Profile.ACTIVE, rounds=1)
    session.set_up()
    client, server = session.clients[0], session.server
    request = server.open_round(0)[0]
    wanted: Any = client.receive(request)
    client.contribute(wanted, session.vectors[0, 0], "rows")
    fresh = session.world.client(0)
    fresh.resume(client.memory())
    with pytest.raises(LocalProtocolError, match="is not wanted in state uploaded"):
        fresh.contribute(wanted, session.vectors[0, 0], "rows")
    with pytest.raises(RemoteProtocolError, match="expected one of the rounds \\[\\] that are still to come"):
        fresh.receive(request)


def test_a_restarted_key_holder_opens_no_second_sum() -> None:
    session, _ = encrypted_session(KeyWorld(4), rounds=2)
    session.set_up()
    session.sum(0)
    holder: Any = session.holders[4]
    assert holder._memory.opened == 0
    session.sum(1)
    holder = session.holders[4]
    holder.memory()
    assert holder._memory.secret == b""  # the key is gone with the last sum, also from what is written


@pytest.mark.parametrize("name", list(LATTICES))
def test_a_kept_key_is_the_same_key(name: str) -> None:
    key = SecretKey(LATTICES[name])
    same = SecretKey(LATTICES[name], key.kept())
    assert same.public_key == key.public_key
    assert same.kept() == key.kept()
    assert name in repr(same)


def test_a_party_that_is_in_a_session_takes_no_memory() -> None:
    session, _ = masked_session(3, Profile.ACTIVE)
    session.set_up()
    keys = KeyWorld(4).session().set_up()
    for party in (session.clients[0], keys.clients[0], keys.holders[4]):
        memory = party.memory()
        with pytest.raises(LocalProtocolError, match="a session has already begun"):
            party.resume(memory)
        assert party.memory() == memory


def test_a_memory_shows_its_state_and_no_more() -> None:
    session, _ = masked_session(3, Profile.ACTIVE)
    session.set_up()
    keys = KeyWorld(4).session().set_up()
    parties: tuple[Any, ...] = (session.clients[0], keys.clients[0], keys.holders[4])
    for party in parties:
        party.memory()  # writes the state into it
    shown = [repr(party._memory) for party in parties]
    assert shown == ["Memory(ready)", "ClientMemory(ready)", "HolderMemory(ready)"]
    assert repr(session.clients[0]._memory.rounds) == "{0: RoundKeys(…), 1: RoundKeys(…)}"
