"""Attacks on encrypted sums. Where possible each runs twice: it succeeds on a party with one defence taken out, or
where the threat model says that nothing is promised, and fails on ours.
"""

import copy
import dataclasses
import pickle
import time
import tracemalloc
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from worlds.encrypted import KeyWorld

from secure_afl.crypto import ring
from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.hpke import Suite
from secure_afl.crypto.identity import SIGNATURE_BYTES, Identity
from secure_afl.crypto.kdf import Label
from secure_afl.crypto.lattice import bfv, joint_key, ntt, seal
from secure_afl.crypto.lattice.parameter_sets import LATTICES, Lattice, Residues, pack_mod, unpack_mod
from secure_afl.crypto.lattice.seal import SecretKey
from secure_afl.crypto.noise import Block, Noise
from secure_afl.errors import SolveError
from secure_afl.protocol.homomorphic import client as client_module
from secure_afl.protocol.homomorphic import messages
from secure_afl.protocol.homomorphic.agreement import Agreement, Encryption, Release
from secure_afl.protocol.homomorphic.client import HomomorphicClient
from secure_afl.protocol.homomorphic.holder import KeyHolder
from secure_afl.protocol.homomorphic.messages import (
    FROM_PARTY,
    Challenge,
    Check,
    EncryptedRequest,
    EncryptedUpload,
    Invitation,
    KeyCommitment,
    KeyCommitments,
    KeyShare,
    KeyShares,
    Offer,
    Opened,
    Opening,
)
from secure_afl.protocol.homomorphic.server import HomomorphicServer
from secure_afl.protocol.homomorphic.states import ClientState, HolderState, ServerState
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.session.backend import Backend
from secure_afl.protocol.session.errors import (
    LocalProtocolError,
    PolicyError,
    ProtocolError,
    RemoteProtocolError,
    RoundAbortedError,
)
from secure_afl.protocol.session.ledger import Ledger
from secure_afl.protocol.session.parameters import RidgeSystem, SumPlan, SumWanted
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.server import OpenedSum
from secure_afl.protocol.session.wire import Message, answered, decode, encode, sign_frame
from secure_afl.protocol.transport.driver import Contribution, Network, Packet, PerfectNetwork
from secure_afl.protocol.transport.encrypted import EncryptedCohort, layered_sum
from secure_afl.protocol.transport.masked import Cohort

VICTIM, LENGTH = 0, 6
BFV, CKKS, MASKED = Encryption(Backend.BFV), Encryption(Backend.CKKS), Encryption(Backend.BFV_MASK)
POLICY = Policy(backends=frozenset({"bfv", "ckks", "bfv+mask"}), suites=frozenset(Suite))
Words = npt.NDArray[np.uint64]


def planned(rounds: int = 1, *, same: bool = False, system: RidgeSystem | None = None) -> tuple[SumPlan, ...]:
    return tuple(
        SumPlan(f"sum {number}", LENGTH, 100.0, 20, same_survivors=same, system=system)
        for number in range(rounds)
    )


@dataclass
class World:
    """A roster, key holders and their ledgers; a session at a time."""

    encryption: Encryption = BFV
    plan: tuple[SumPlan, ...] = field(default_factory=planned)
    clients: int = 4
    holders: int = 1

    def __post_init__(self) -> None:
        self.parties = KeyWorld(
            self.clients, self.encryption.backend.value, self.holders, POLICY, self.encryption.release
        )
        self.identities, self.ledgers = self.parties.identities, self.parties.ledgers
        self.roster, self.key_holders = self.parties.roster, self.parties.key_holders
        draws = np.random.default_rng(1)
        # The same vector in every round, as related sums have it.
        self.vectors = [np.round(draws.uniform(-90, 90, LENGTH)) for _ in range(self.clients)]

    def agreement(self, **changes: Any) -> Agreement:
        return replace(
            Agreement.propose(self.encryption, self.roster, self.key_holders, self.plan), **changes
        )

    def client(
        self,
        index: int,
        kind: type[HomomorphicClient] = HomomorphicClient,
        masks: MaskingClient | None = None,
    ) -> HomomorphicClient:
        return self.parties.client(index, self.plan, masks, kind)

    def holder(self, number: int = 0, kind: type[KeyHolder] = KeyHolder) -> KeyHolder:
        solve = unsolvable if self.encryption.release is Release.WEIGHTS else None
        return self.parties.holder(number, self.plan, solve, kind)

    def cohort(
        self,
        network: Network | None = None,
        *,
        client: type[HomomorphicClient] = HomomorphicClient,
        holder: type[KeyHolder] = KeyHolder,
        masks: Cohort | None = None,
    ) -> EncryptedCohort:
        beneath = masks.server.parameters if masks else None
        agreement = Agreement.propose(
            self.encryption,
            self.roster,
            self.key_holders,
            self.plan,
            masked=(beneath.session, beneath.transcript()) if beneath else None,
        )
        server = HomomorphicServer(agreement, self.roster, self.key_holders, least=3)
        clients = {
            index: self.client(index, client, masks.clients[index] if masks else None)
            for index in range(self.clients)
        }
        holders = {self.clients + number: self.holder(number, holder) for number in range(self.holders)}
        return EncryptedCohort(server, clients, holders, network)

    def masks(self) -> Cohort:
        """The masked session for `MASKED`, its keys exchanged."""
        cohort = self.parties.masks(self.plan)
        cohort.set_up()
        return cohort

    def contribute(self, index: int, wanted: SumWanted) -> Contribution:
        return self.vectors[index], "rows"

    def units(self, indices: Collection[int]) -> list[int]:
        """The sum that this must be, in units."""
        _, specs = self.encryption.agreed(self.plan, self.clients, self.holders)
        encoding = specs[0].encoding(self.clients)
        vectors = [encoding.encode(self.vectors[index]).view(np.int64).tolist() for index in indices]
        return [sum(column) for column in zip(*vectors, strict=True)]


def unsolvable(
    plan: SumPlan, total: npt.NDArray[np.float64], error: float, survivors: int
) -> npt.NDArray[np.float64]:
    raise SolveError("no guarantee can be given")


def said(frame: bytes | SumWanted) -> Any:
    """What a signed frame says."""
    assert isinstance(frame, bytes)
    return decode(memoryview(frame)[:-SIGNATURE_BYTES], FROM_PARTY)


class Attack:
    """A session whose key is made honestly. From then on the server does as it likes, message by message."""

    def __init__(
        self,
        world: World,
        *,
        client: type[HomomorphicClient] = HomomorphicClient,
        holder: type[KeyHolder] = KeyHolder,
        masks: Cohort | None = None,
    ) -> None:
        self.world = world
        self.cohort = world.cohort(client=client, holder=holder, masks=masks)
        self.cohort.set_up()
        assert self.cohort.server.state is ServerState.READY, self.cohort.refusals
        self.clients, self.holders = self.cohort.clients, list(self.cohort.holders.values())
        self.transcript = self.cohort.server.agreement.transcript()
        self.lattice = LATTICES[self.cohort.server.agreement.lattice]
        self.uploads: dict[int, Residues] = {}

    def collect(self, number: int = 0, attempt: int = 1, among: Collection[int] | None = None) -> None:
        """Honest uploads of a round, each client's apart."""
        participants = tuple(sorted(among if among is not None else self.clients))
        request = encode(EncryptedRequest(self.transcript, number, attempt, participants))
        self.number, self.attempt = number, attempt
        for index in participants:
            answer = self.clients[index].receive(request)
            if isinstance(answer, SumWanted):
                answer = self.clients[index].contribute(answer, *self.world.contribute(index, answer))
            self.uploads[index] = self.lattice.unpack(said(answer).payload, LENGTH)

    def total(self, indices: Collection[int]) -> Residues:
        total = self.lattice.zeros(LENGTH)
        for index in indices:
            self.lattice.add(total, self.uploads[index])
        return total

    def offer(self, total: Residues, contributors: Collection[int], **changes: Any) -> Offer:
        fingerprint = messages.ciphertexts_digest(self.transcript, self.lattice.pack(total))
        offer = Offer(self.transcript, self.number, self.attempt, tuple(sorted(contributors)), fingerprint)
        return replace(offer, **changes)

    def check(self, offer: Offer) -> bytes:
        challenges = tuple(said(holder.receive(encode(offer))) for holder in self.holders)
        return encode(Check(self.transcript, offer, challenges))

    def tagged(self, check: bytes, indices: Collection[int]) -> dict[int, bytes]:
        frames = {index: self.clients[index].receive(check) for index in indices}
        return {index: frame for index, frame in frames.items() if isinstance(frame, bytes)}

    def opening(self, check: bytes, frames: Mapping[int, bytes], total: Residues) -> bytes:
        packed = memoryview(self.lattice.pack(total))
        return encode(Opening(self.transcript, check, tuple(sorted(frames.items())), packed))

    def open(self, total: Residues, contributors: Collection[int]) -> list[bytes]:
        """What the key holders release of these ciphertexts, offered as the sum over these contributors."""
        check = self.check(self.offer(total, contributors))
        opening = self.opening(check, self.tagged(check, contributors), total)
        return [bytes(said(holder.receive(opening)).payload) for holder in self.holders]

    def units(self, payloads: Sequence[bytes]) -> list[int]:
        """A released sum of a single key holder, under BFV."""
        units: list[int] = ring.centred(
            np.frombuffer(payloads[0], "<u8"), self.lattice.plain_modulus
        ).tolist()
        return units


class Believing(KeyHolder):
    """Opens whatever it is sent, as a key holder without tags would."""

    def _check_tags(self, opening: Opening, offer: Offer, challenge: Challenge) -> list[str]:
        return []


# ---- what is opened ------------------------------------------------------------------------------


def test_a_single_clients_ciphertext_offered_as_the_sum() -> None:
    weak = Attack(World(), holder=Believing)
    weak.collect()
    assert weak.units(weak.open(weak.total([VICTIM]), range(4))) == weak.world.units([VICTIM])

    for encryption in (BFV, CKKS):
        for contributors in (range(4), range(1, 4)):
            attack = Attack(World(encryption))
            attack.collect()
            with pytest.raises(
                RemoteProtocolError, match="expected the sum of what the contributors uploaded"
            ):
                attack.open(attack.total([VICTIM]), contributors)
    attack = Attack(World())
    attack.collect()
    for honest_about_it in ([VICTIM], [VICTIM, 1]):
        with pytest.raises(PolicyError, match="expected at least 3 contributors"):
            attack.open(attack.total(honest_about_it), honest_about_it)


@pytest.mark.parametrize(
    "what", ["one left out", "one twice", "shifted", "a bit", "an older upload", "swapped"]
)
def test_another_sum_than_the_contributors_made(what: str) -> None:
    """Left out, counted twice, altered in one bit or by a known amount, from an earlier attempt: refused."""
    attack = Attack(World())
    attack.collect()
    old = attack.total([VICTIM])
    attack.collect(attempt=2)
    right = attack.total(range(4))
    total = right.copy()
    if what == "one left out":
        total = attack.total(range(1, 4))
    elif what == "one twice":
        attack.lattice.add(total, attack.uploads[VICTIM])
    elif what == "shifted":
        total[0, 0, 0, 0] = (int(total[0, 0, 0, 0]) + 2**40) % attack.lattice.primes[0]
    elif what == "a bit":
        total[0, 1, 0, 17] ^= np.uint64(1)
    elif what == "an older upload":
        total = attack.total(range(1, 4))
        attack.lattice.add(total, old)
    if what == "swapped":  # the right sum is checked, another one is sent to be opened
        check = attack.check(attack.offer(right, range(4)))
        opening = attack.opening(check, attack.tagged(check, range(4)), attack.total([VICTIM]))
        with pytest.raises(RemoteProtocolError, match="expected the ciphertexts that were offered"):
            attack.holders[0].receive(opening)
        return
    with pytest.raises(RemoteProtocolError, match="expected the sum of what the contributors uploaded"):
        attack.open(total, range(4))


class Forgetful(KeyHolder):
    """Opens one statistic as often as it is asked."""

    def _open(self, opening: Opening) -> bytes:
        answer = super()._open(opening)
        self._memory.opened = -1
        return answer


def test_a_second_sum_of_one_statistic_without_the_victim() -> None:
    """Each sum is honest and large enough. Their difference is one client."""

    def both(holder: type[KeyHolder]) -> list[int]:
        attack = Attack(World(plan=planned(2)), holder=holder)
        attack.collect()
        first = attack.units(attack.open(attack.total(range(4)), range(4)))
        attack.collect(attempt=2, among=range(1, 4))
        second = attack.units(attack.open(attack.total(range(1, 4)), range(1, 4)))
        assert attack.world.units([VICTIM]) == [a - b for a, b in zip(first, second, strict=True)]
        return second

    assert both(Forgetful)
    with pytest.raises(RemoteProtocolError, match="expected a new attempt at a round from 1 to 1"):
        both(KeyHolder)


def test_a_second_session_over_the_same_rows() -> None:
    world = World()
    attack = Attack(world)
    attack.collect()
    first = attack.units(attack.open(attack.total(range(4)), range(4)))
    # A client's own ledger refuses.
    again = Attack(world)
    with pytest.raises(PolicyError, match="'rows' was used in session"):
        again.collect(among=range(1, 4))
    # Clients that lost theirs: the key holder's does.
    world.ledgers[: world.clients] = [Ledger() for _ in range(world.clients)]
    again = Attack(world)
    again.collect(among=range(1, 4))
    with pytest.raises(PolicyError, match=r"holder-0: the data set 'site-1: .* was used in session"):
        again.open(again.total(range(1, 4)), range(1, 4))
    # Where that is lost too, the difference is the victim.
    world.ledgers[:] = [Ledger() for _ in world.ledgers]
    again = Attack(world)
    again.collect(among=range(1, 4))
    second = again.units(again.open(again.total(range(1, 4)), range(1, 4)))
    assert world.units([VICTIM]) == [a - b for a, b in zip(first, second, strict=True)]


def test_one_statistic_is_not_planned_twice() -> None:
    agreement = World().agreement()
    with pytest.raises(ValueError, match="is planned twice"):
        replace(agreement, rounds=agreement.rounds * 2)


def test_tags_serve_one_offer_only() -> None:
    """Tags of an earlier attempt, for another offer, under another holder's or session's challenge."""
    attack = Attack(World(plan=planned(2)))
    attack.collect()
    first = attack.check(attack.offer(attack.total(range(4)), range(4)))
    frames = attack.tagged(first, range(4))
    attack.collect(attempt=2)
    total = attack.total(range(4))
    second = attack.check(attack.offer(total, range(4)))
    holder = attack.holders[0]
    for check in (first, second):
        with pytest.raises(
            RemoteProtocolError, match=r"the check of the sum|signed by this sender in answer"
        ):
            holder.receive(attack.opening(check, frames, total))
    # A new offer has a new challenge, and the old check is worth nothing.
    later = attack.offer(attack.total(range(4)), range(4), attempt=3)
    said(holder.receive(encode(later)))
    with pytest.raises(RemoteProtocolError, match="expected the check of the sum that was offered last"):
        holder.receive(attack.opening(second, attack.tagged(second, range(4)), total))


def test_a_client_tags_one_upload_once_and_only_for_signed_challenges() -> None:
    attack = Attack(World(plan=planned(2)))
    other = Attack(attack.world)
    attack.collect()
    other.attempt, other.number = 1, 0
    victim = attack.clients[VICTIM]
    offer = attack.offer(attack.total(range(4)), range(4))
    check = attack.check(offer)
    challenges = decode(check, messages.CHECK).challenges
    forged = Challenge(bytes(32), Identity.generate().sign(Label.CHALLENGE_SIGNATURE, b""))
    foreign = decode(other.check(replace(offer, transcript=other.transcript)), messages.CHECK).challenges
    for shown in (
        Check(attack.transcript, offer, ()),
        Check(attack.transcript, offer, challenges * 2),
        Check(attack.transcript, offer, (forged,)),
        Check(attack.transcript, offer, foreign),
        Check(attack.transcript, offer, (replace(challenges[0], seed=bytes(32)),)),
        Check(attack.transcript, replace(offer, ciphertexts=bytes(32)), challenges),
        Check(attack.transcript, replace(offer, contributors=(0, 1, 2)), challenges),
        Check(attack.transcript, replace(offer, contributors=(1, 2, 3)), challenges),
        Check(attack.transcript, replace(offer, contributors=(0, 1, 2, 9)), challenges),
        Check(attack.transcript, replace(offer, attempt=2), challenges),
        Check(attack.transcript, replace(offer, round=1), challenges),
        Check(attack.transcript, replace(offer, round=-1, attempt=-1), challenges),
    ):
        with pytest.raises(RemoteProtocolError):
            victim.receive(encode(shown))
    with pytest.raises(PolicyError, match="expected at least 3 contributors"):
        victim.receive(encode(Check(attack.transcript, replace(offer, contributors=(0, 1)), challenges)))
    assert victim.receive(check)
    with pytest.raises(RemoteProtocolError, match="in state ready expected EncryptedRequest, got Check"):
        victim.receive(check)


def test_a_contributor_without_tags_has_the_round_begun_anew_and_one_sum_is_opened() -> None:
    class Silent(PerfectNetwork):
        def carry(self, packet: Packet) -> list[Packet]:
            silent = packet.client == 3 and packet.upward and packet.phase == "checking"
            return [] if silent else [packet]

    world = World()
    cohort = world.cohort(Silent())
    cohort.set_up()
    opened = cohort.sum(0, world.contribute)
    assert (opened.survivors, opened.dropouts) == ((0, 1, 2), (3,))
    lattice = LATTICES[cohort.server.agreement.lattice]
    assert ring.centred(opened.values, lattice.plain_modulus).tolist() == world.units(range(3))


def test_a_lying_server_over_the_survivors_of_related_sums() -> None:
    """Layers of a network: whoever is in the first sum and not in the second is their difference."""

    def difference(world: World, *, fresh: bool) -> list[int]:
        attack = Attack(world)
        attack.collect(0)
        first = attack.units(attack.open(attack.total(range(4)), range(4)))
        if fresh:  # an attempt with everybody, whose tags clients give; then one without the victim
            attack.collect(1, attempt=2)
            attack.tagged(attack.check(attack.offer(attack.total(range(4)), range(4))), range(4))
        attack.collect(1, attempt=3, among=range(1, 4))
        second = attack.units(attack.open(attack.total(range(1, 4)), range(1, 4)))
        return [a - b for a, b in zip(first, second, strict=True)]

    for fresh in (False, True):
        unmarked = World(plan=planned(2))
        assert difference(unmarked, fresh=fresh) == unmarked.units([VICTIM])
        with pytest.raises(PolicyError, match="holder-0: expected the 4 contributors of the sums before"):
            difference(World(plan=planned(2, same=True)), fresh=fresh)


class Unrelated(KeyHolder):
    """Forgets who was in the sums before."""

    def _challenge(self, offer: Offer) -> bytes:
        self._memory.related = None
        return super()._challenge(offer)


@pytest.mark.parametrize("fresh", [False, True])
def test_clients_insist_on_the_same_survivors_whatever_the_key_holder_does(fresh: bool) -> None:
    attack = Attack(World(plan=planned(2, same=True)), holder=Unrelated)
    attack.collect(0)
    attack.open(attack.total(range(4)), range(4))
    if fresh:
        attack.collect(1, attempt=2)
        attack.tagged(attack.check(attack.offer(attack.total(range(4)), range(4))), range(4))
    attack.collect(1, attempt=3, among=range(1, 4))
    with pytest.raises(PolicyError, match="site-1: expected the 4 contributors of the sums before"):
        attack.open(attack.total(range(1, 4)), range(1, 4))


@pytest.mark.parametrize("number", [-1, -2, 2**63 - 1, 2**64 - 1])
def test_rounds_and_attempts_out_of_range(number: int) -> None:
    """-1 would be the last round of a Python list."""
    attack = Attack(World())
    everybody = (0, 1, 2, 3)
    for request in (
        EncryptedRequest(attack.transcript, number, 1, everybody),
        EncryptedRequest(attack.transcript, 0, -1, everybody),
    ):
        with pytest.raises(RemoteProtocolError, match=r"expected a new attempt|Expected `int` >= 0"):
            attack.clients[0].receive(encode(request))
    for offer in (
        Offer(attack.transcript, number, 1, everybody, bytes(32)),
        Offer(attack.transcript, 0, -1, everybody, bytes(32)),
    ):
        with pytest.raises(RemoteProtocolError, match=r"expected a new attempt|Expected `int` >= 0"):
            attack.holders[0].receive(encode(offer))
    attack.collect()
    assert attack.open(attack.total(range(4)), range(4))


# ---- what the key holder keeps to ----------------------------------------------------------------


def test_a_decryption_that_fails_is_not_tried_again() -> None:
    """Otherwise each failure would answer a question about the key or the sum (a reaction attack)."""
    system = RidgeSystem(2, 1, 0.1)
    attack = Attack(World(Encryption(Backend.BFV, release=Release.WEIGHTS), planned(2, system=system)))
    attack.collect()
    total = attack.total(range(4))
    check = attack.check(attack.offer(total, range(4)))
    opening = attack.opening(check, attack.tagged(check, range(4)), total)
    with pytest.raises(SolveError):
        attack.holders[0].receive(opening)
    with pytest.raises(RemoteProtocolError, match="expected a sum that was not opened yet"):
        attack.holders[0].receive(opening)
    attack.collect(attempt=2)
    with pytest.raises(RemoteProtocolError, match="expected a new attempt at a round from 1 to 1"):
        attack.open(attack.total(range(4)), range(4))


def test_a_refused_sum_uses_up_nobodys_data() -> None:
    world = World()
    key_holder = world.ledgers[world.clients]
    used = messages.known_as("site-3", messages.data_set_digest("site-3", "rows"))
    key_holder.use(used, b"earlier")
    attack = Attack(world)
    attack.collect()
    with pytest.raises(PolicyError, match="used in session"):
        attack.open(attack.total(range(4)), range(4))
    assert key_holder._used == {used: (b"earlier", True)}


def test_the_key_is_gone_with_the_last_sum() -> None:
    attack = Attack(World(plan=planned(2)))
    for number in range(2):
        assert attack.holders[0]._key is not None
        attack.collect(number, attempt=number)
        attack.open(attack.total(range(4)), range(4))
    assert attack.holders[0]._key is None


@pytest.mark.parametrize("entry", [2**40, -(2**44)])
def test_a_sum_out_of_range_is_not_cut_until_it_fits(entry: int) -> None:
    """A narrow encoding would read the sum modulo its width and accept almost anything."""
    world = World()
    lattice, (spec,) = world.encryption.agreed(world.plan, world.clients, 1)
    encoding = spec.encoding(world.clients)
    assert world.clients * encoding.magnitude < 2**31 < abs(entry) < lattice.plain_modulus // 2

    class Shouts(HomomorphicClient):
        """Its words are far over the agreed bound."""

        def contribute(self, wanted: SumWanted, values: npt.NDArray[np.float64], data_set: str) -> bytes:
            words = np.full(LENGTH, entry % lattice.plain_modulus, np.uint64)
            return self._encrypted(words, messages.data_set_digest(self.name, data_set))

    attack = Attack(world)
    attack.clients[3].__class__ = Shouts
    attack.collect()
    with pytest.raises(RemoteProtocolError, match="the sum of 4 clients has an entry over"):
        attack.open(attack.total(range(4)), range(4))


# ---- keys ----------------------------------------------------------------------------------------


def invited(world: World) -> tuple[Invitation, KeyHolder]:
    """An honest invitation, and the key holder behind it."""
    cohort = world.cohort()
    server = cohort.server
    outbox = server.start()
    while server.state is not ServerState.INVITING:
        for index in cohort.holders:
            server.receive(index, cohort.holders[index].receive(outbox[index]))
        outbox = server.advance()
    return decode(outbox[0], messages.INVITATION), cohort.holders[world.clients]


def test_the_servers_own_key_in_place_of_the_holders(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same parameters, another key: TenSEAL would not notice, and the server reads every upload."""
    world = World()
    invitation, _ = invited(world)
    lattice = LATTICES[invitation.agreement.lattice]
    servers = SecretKey(lattice)
    swapped = replace(invitation, key=servers.public_key)
    with monkeypatch.context() as patched:
        patched.setattr(client_module, "verify", lambda *arguments: None)
        client = world.client(VICTIM)
        client.receive(encode(swapped))
        transcript = invitation.agreement.transcript()
        wanted = client.receive(encode(EncryptedRequest(transcript, 0, 1, (0, 1, 2, 3))))
        assert isinstance(wanted, SumWanted)
        upload = said(client.contribute(wanted, *world.contribute(VICTIM, wanted)))
        read, _ = servers.decrypt(lattice.unpack(upload.payload, LENGTH), LENGTH)
        assert read.tolist() == world.units([VICTIM])

    world.ledgers[:] = [Ledger() for _ in world.ledgers]
    client = world.client(VICTIM)
    foreign, _ = invited(world)  # the same holder's, of another session
    for shown in (
        swapped,
        replace(invitation, key=foreign.key),
        replace(foreign, agreement=invitation.agreement),
        replace(invitation, signatures=foreign.signatures),
    ):
        with pytest.raises(RemoteProtocolError, match="expected a key signed by holder-0"):
            client.receive(encode(shown))
    assert client.receive(encode(invitation))


def test_a_key_holder_that_is_replaced_or_does_not_sign() -> None:
    world = World()
    invitation, _ = invited(world)
    parts = messages.key_parts(invitation.agreement.transcript(), invitation.key)
    client = world.client(VICTIM)
    by_a_client = world.identities[1].sign(Label.KEY_SIGNATURE, *parts)
    other_label = world.identities[4].sign(Label.CHALLENGE_SIGNATURE, *parts)
    for signatures in ((), (b"",), (bytes(64),), (by_a_client,), (other_label,), invitation.signatures * 2):
        with pytest.raises(RemoteProtocolError, match=r"expected (a key signed by|signatures of)"):
            client.receive(encode(replace(invitation, signatures=signatures)))
    usurper = World()
    other = replace(invitation.agreement, holders=usurper.key_holders.digest)
    with pytest.raises(RemoteProtocolError, match="expected the roster and key holders"):
        client.receive(encode(replace(invitation, agreement=other)))
    with pytest.raises(RemoteProtocolError, match="expected the roster and key holders"):
        world.holder().receive(encode(other))
    assert client.receive(encode(invitation))


def test_a_public_key_that_carries_more() -> None:
    """A key is a fixed number of residues: a secret, a context or another byte does not fit beside them."""
    world = World()
    invitation, holder = invited(world)
    lattice = LATTICES[invitation.agreement.lattice]
    assert len(invitation.key) == lattice.public_key_bytes
    client = world.client(VICTIM)
    large = b"\xff" * len(invitation.key)
    for key in (b"", invitation.key[:-1], invitation.key + b"\0", invitation.key * 2, large):
        with pytest.raises(RemoteProtocolError, match=r"expected (residues|at most)"):
            client.receive(encode(replace(invitation, key=key)))
    assert client.receive(encode(invitation))

    for extra in (b"\0", invitation.key):
        cohort = world.cohort()
        key_holder = cohort.holders[world.clients]
        server, outbox = cohort.server, cohort.server.start()
        server.receive(4, key_holder.receive(outbox[4]))
        share = said(key_holder.receive(server.advance()[4])).share
        frame = sign_frame(
            world.identities[4], server._transcript, server._questions[4], 4, KeyShare(share + extra)
        )
        if len(extra) > 512:
            with pytest.raises(RemoteProtocolError, match="expected at most"):
                server.receive(4, frame)
        else:
            server.receive(4, frame)
        with pytest.raises(RoundAbortedError, match=r"make no key|key holders are missing"):
            server.advance()
    for secret in (holder, holder._key):
        for leave in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(CryptoError, match="cannot be pickled"):
                leave(secret)


@pytest.mark.parametrize(
    ("encryption", "change", "what"),
    [
        (Encryption(Backend.BFV, release=Release.WEIGHTS), {"release": Release.SUM}, "releasing the weights"),
        (BFV, {"release": Release.WEIGHTS}, "releasing the sum"),
        (CKKS, {"lattice": "bfv-60"}, "under ckks-precise"),
        (BFV, {"lattice": "ckks-precise"}, "under bfv-46"),
        (BFV, {"lattice": "bfv-60"}, "under bfv-46"),
        (BFV, {"cohort": (0, 1)}, "expected at least 3 clients"),
        (BFV, {"cohort": (0, 1, 2, 4)}, "cohort of roster members"),
        (BFV, {"roster": bytes(32)}, "expected the roster and key holders"),
    ],
)
def test_downgraded_agreements(encryption: Encryption, change: dict[str, Any], what: str) -> None:
    world = World(encryption, planned(system=RidgeSystem(2, 1, 0.1)))
    proposed = world.agreement()
    asked = replace(proposed, **change)
    with pytest.raises(ProtocolError, match=what):
        world.client(0).receive(encode(Invitation(asked, b"", ())))
    with pytest.raises(ProtocolError, match=what):
        world.holder().receive(encode(asked))


def test_another_scheme_or_no_masks() -> None:
    """A client and a key holder keep to what they were told, whatever the other parties take part in."""
    world = World(MASKED)
    masks = world.masks()
    for weaker in (BFV, CKKS):
        plainer = World(weaker)
        asked = replace(plainer.agreement(), roster=world.roster.digest, holders=world.key_holders.digest)
        client = world.client(0, masks=masks.clients[0])
        with pytest.raises(RemoteProtocolError, match="expected the 1 sums that were agreed on"):
            client.receive(encode(Invitation(asked, b"", ())))
        with pytest.raises(RemoteProtocolError, match="expected the 1 sums that were agreed on"):
            world.holder().receive(encode(asked))
    # Masks of another session.
    foreign = Agreement.propose(
        MASKED, world.roster, world.key_holders, world.plan, masked=(bytes(32), bytes(range(32)))
    )
    with pytest.raises(RemoteProtocolError, match="expected the masked session that this client is in"):
        world.client(0, masks=masks.clients[0]).receive(encode(Invitation(foreign, b"", ())))
    narrow = Policy(backends=frozenset({"mask", "bfv+mask"}))
    plain = World()
    plain_client = plain.client(0)
    plain_client._policy = narrow
    with pytest.raises(PolicyError, match="'bfv' is not allowed"):
        plain_client.receive(encode(Invitation(plain.agreement(), b"", ())))


def test_an_encrypted_session_before_its_masks() -> None:
    """A server that begins with the second step is refused like any other."""
    world = World(MASKED, planned(2))
    masks = world.masks()
    early = MaskingClient(
        world.identities[0], world.roster, world.plan, POLICY, Ledger(), agreed=masks.clients[0]._agreed
    )
    agreement = Agreement.propose(
        MASKED, world.roster, world.key_holders, world.plan, masked=(bytes(32), bytes(range(32)))
    )
    client = world.client(0, masks=early)
    with pytest.raises(RemoteProtocolError, match="no masked session has begun"):
        client.receive(encode(Invitation(agreement, b"", ())))
    # And an encryption before the vector was masked, or of another round than was masked.
    attack = Attack(world, masks=masks)
    before = attack.clients[0]._answers
    for number in (0, 1):
        if number:
            masks.collect(0, world.contribute)
        with pytest.raises(RemoteProtocolError, match=f"nothing was masked for round {number}"):
            attack.clients[0].receive(encode(EncryptedRequest(attack.transcript, number, 1, (0, 1, 2, 3))))
    assert attack.clients[0]._answers == before
    attack.collect()
    # Its own program cannot have a vector encrypted that is not masked, should encrypting have failed once.
    attack.clients[0].receive(encode(EncryptedRequest(attack.transcript, 0, 2, (0, 1, 2, 3))))
    attack.clients[0].state = ClientState.REQUESTED
    wanted = attack.clients[0].wanted
    with pytest.raises(LocalProtocolError, match="only what its masked session masked"):
        attack.clients[0].contribute(wanted, *world.contribute(0, wanted))


# ---- committees ----------------------------------------------------------------------------------


def rogue_share(lattice: Lattice, own: bytes, others: Sequence[bytes]) -> bytes:
    """What makes the sum of all shares `own`."""
    primes = (*lattice.primes, lattice.key_prime)
    total = unpack_mod(own, primes, (), lattice.degree)
    for other in others:
        taken = unpack_mod(other, primes, (), lattice.degree)
        for at, prime in enumerate(primes):
            total[at] = (total[at] + np.uint64(prime) - taken[at]) % np.uint64(prime)
    return pack_mod(total, primes)


def test_a_rogue_key_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one to show its share cancels the others' and owns the key alone, unless it had to commit before."""

    def signatures(world: World) -> tuple[Agreement, joint_key.KeyShare, bytes]:
        agreement, rogue = world.agreement(), world.clients + 2
        transcript, lattice = agreement.transcript(), LATTICES[agreement.lattice]
        honest = {world.clients + number: world.holder(number) for number in range(2)}
        frames = {index: holder.receive(encode(agreement)) for index, holder in honest.items()}
        own = joint_key.KeyShare(lattice, joint_key.common(lattice, transcript))
        committed = KeyCommitment(messages.share_commitment(transcript, rogue, own.public))
        question = answered(encode(agreement))
        frames[rogue] = sign_frame(world.identities[rogue], transcript, question, rogue, committed)
        commitments = encode(KeyCommitments(transcript, tuple(sorted(frames.items()))))
        shares = {index: said(holder.receive(commitments)).share for index, holder in honest.items()}
        shares[rogue] = rogue_share(lattice, own.public, list(shares.values()))
        shown = encode(KeyShares(transcript, tuple(sorted(shares.items()))))
        for holder in honest.values():
            assert isinstance(holder.receive(shown), bytes)
        key = joint_key.public_key(
            lattice, joint_key.common(lattice, transcript), [shares[index] for index in sorted(shares)]
        )
        return agreement, own, key

    with monkeypatch.context() as patched:
        patched.setattr(messages, "share_commitment", lambda *parts: bytes(32))
        world = World(holders=3)
        agreement, own, key = signatures(world)
        lattice = LATTICES[agreement.lattice]
        words = np.arange(LENGTH, dtype=np.uint64)
        upload = bfv.encrypt(lattice, key, words)  # of a single client
        read, _ = seal.decode(lattice, joint_key.opened(lattice, upload, [own.partial(upload, 2, 1)]), LENGTH)
        assert read.tolist() == words.tolist()
    with pytest.raises(
        RemoteProtocolError, match="the share of holder-2 is not the one that it committed to"
    ):
        signatures(World(holders=3))


def test_two_views_of_the_commitments_make_no_key() -> None:
    """A holder colluding with the server commits twice, and shows each honest holder another commitment."""
    world = World(holders=3)
    agreement, rogue = world.agreement(), world.clients + 2
    transcript, lattice = agreement.transcript(), LATTICES[agreement.lattice]
    one, two = world.holder(0), world.holder(1)
    frames = {4: one.receive(encode(agreement)), 5: two.receive(encode(agreement))}

    def shown_commitment(share: bytes) -> bytes:
        committed = KeyCommitment(messages.share_commitment(transcript, rogue, share))
        frame = sign_frame(world.identities[rogue], transcript, answered(encode(agreement)), rogue, committed)
        return encode(KeyCommitments(transcript, (*sorted(frames.items()), (rogue, frame))))

    own = joint_key.KeyShare(lattice, joint_key.common(lattice, transcript)).public
    first = said(one.receive(shown_commitment(own))).share
    late = rogue_share(lattice, own, [first])  # chosen after the first holder's share was seen
    second = said(two.receive(shown_commitment(late))).share
    for holder, share in ((one, late), (two, own)):
        with pytest.raises(RemoteProtocolError, match="the share of holder-2 is not the one"):
            holder.receive(encode(KeyShares(transcript, ((4, first), (5, second), (rogue, share)))))
    # Each takes what it was shown; they sign two different keys, and a client wants one key signed by all.
    keys = {}
    for holder, share in ((one, own), (two, late)):
        frame = holder.receive(encode(KeyShares(transcript, ((4, first), (5, second), (rogue, share)))))
        keys[share] = said(frame).signature
    a = joint_key.common(lattice, transcript)
    for share in (own, late):
        key = joint_key.public_key(lattice, a, [first, second, share])
        by_rogue = world.identities[rogue].sign(Label.KEY_SIGNATURE, *messages.key_parts(transcript, key))
        with pytest.raises(RemoteProtocolError, match=r"expected a key signed by holder-[01]"):
            world.client(0).receive(encode(Invitation(agreement, key, (keys[own], keys[late], by_rogue))))


def test_a_committee_that_lacks_a_member_opens_nothing() -> None:
    world = World(holders=2)
    attack = Attack(world)
    attack.collect()
    total = attack.total(range(4))
    parts = attack.open(total, range(4))
    lattice = attack.lattice

    def opened(payloads: Sequence[bytes]) -> list[int]:
        partials = [joint_key.unpack_partial(lattice, part, LENGTH) for part in payloads]
        values, budget = seal.decode(lattice, joint_key.opened(lattice, total, partials), LENGTH)
        units: list[int] = ring.centred(bfv.checked(values, budget, lattice), lattice.plain_modulus).tolist()
        return units

    assert opened(parts) == world.units(range(4))
    for some in (parts[:1], parts[1:], [parts[0], parts[0]], [parts[0], bytes(len(parts[1]))]):
        with pytest.raises(CryptoError, match="expected a noise budget"):
            opened(some)
    # A consistent shift by one of the holders is not detected: holders are trusted with correctness.
    shifted = joint_key.unpack_partial(lattice, parts[1], LENGTH)
    for at, prime in enumerate(lattice.primes):
        delta = lattice.modulus // lattice.plain_modulus % prime
        shifted[0, at, 0] = (int(shifted[0, at, 0]) + 5 * delta) % prime
    by_five = [entry + 5 for entry in world.units(range(4))]  # a constant polynomial: 5 in every slot
    assert opened([parts[0], joint_key.pack_partial(lattice, shifted)]) == by_five


@pytest.mark.slow
@pytest.mark.parametrize(
    "phase", ["key commitments", "key shares", "key announcements", "challenging", "opening"]
)
@pytest.mark.parametrize("how", ["missing", "signed nonsense", "signed and wrong"])
def test_a_key_holder_that_is_missing_or_at_fault(phase: str, how: str) -> None:
    """Nothing is released, and the error is ours and names it."""
    world = World(holders=2)
    wrong: dict[str, Message] = {
        "key commitments": KeyCommitment(bytes(32)),
        "key shares": KeyShare(bytes(100)),
        "key announcements": messages.KeyAnnouncement(bytes(64)),
        "challenging": Challenge(bytes(32), bytes(64)),
        "opening": Opened(0, memoryview(bytes(LATTICES["bfv-60-joint"].ciphertext_bytes(LENGTH) // 2))),
    }

    class Faulty(PerfectNetwork):
        def carry(self, packet: Packet) -> list[Packet]:
            if not (packet.upward and packet.client == 5 and packet.phase == phase):
                return [packet]
            if how == "missing":
                return []
            say: Any = msgspec.Raw(b"\xc0") if how == "signed nonsense" else wrong[phase]
            question = cohort.server._questions[5]
            frame = sign_frame(world.identities[5], cohort.server._transcript, question, 5, say)
            return [Packet(phase, 5, True, frame)]

    cohort = world.cohort(Faulty())

    def session() -> None:
        cohort.set_up()
        cohort.sum(0, world.contribute)

    with pytest.raises(RoundAbortedError) as aborted:
        session()
    if how == "missing":
        assert "holder-1" in str(aborted.value)
    if how == "signed nonsense":
        assert "holder-1" in aborted.value.blame
    assert all(isinstance(one, ProtocolError | CryptoError) for one in cohort.refusals)


@pytest.mark.parametrize("encryption", [BFV, CKKS, MASKED])
def test_a_single_key_holder_that_releases_what_is_no_sum(encryption: Encryption) -> None:
    world = World(encryption)
    large = np.full(LENGTH, 2**64 - 1, np.uint64) if encryption is not CKKS else np.full(LENGTH, np.nan)
    masks = world.masks() if encryption.masked else None

    class Lies(PerfectNetwork):
        def carry(self, packet: Packet) -> list[Packet]:
            if not (packet.upward and packet.phase == "opening"):
                return [packet]
            server = cohort.server
            say = Opened(0, memoryview(large.tobytes()))
            frame = sign_frame(world.identities[4], server._transcript, server._questions[4], 4, say)
            return [Packet(packet.phase, 4, True, frame)]

    cohort = world.cohort(Lies(), masks=masks)
    cohort.set_up()
    if not masks:
        with pytest.raises(RoundAbortedError, match="holder-0: expected"):
            cohort.sum(0, world.contribute)
    else:
        with pytest.raises(RoundAbortedError, match="holder-0: expected"):
            layered_sum(masks, cohort, 0, world.contribute)
        assert masks.server.state.value == "ready"  # it gave the round up


def test_a_committee_that_could_not_open_is_refused_before_a_key_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(joint_key, "DISTANCE_BITS", 200)
    with pytest.raises(CryptoError, match="has no room for 2 holders"):
        BFV.agreed(planned(), 4, 2)


# ---- clients colluding with the server -----------------------------------------------------------


class Cancels(HomomorphicClient):
    """Uploads what the server tells it, and signs tags for it."""

    upload: Residues

    def contribute(self, wanted: SumWanted, values: npt.NDArray[np.float64], data_set: str) -> bytes:
        return self._upload(self.upload, messages.data_set_digest(self.name, data_set))


def negative(lattice: Lattice, residues: Residues) -> Residues:
    result = residues.copy()
    for at, prime in enumerate(lattice.primes):
        result[..., at, :] = (np.uint64(prime) - residues[..., at, :]) % np.uint64(prime)
    return result


def cancelled(encryption: Encryption) -> tuple[Attack, list[int]]:
    """What a key holder opens when the last client's ciphertext cancels all but the victim's."""
    world = World(encryption)
    masks = world.masks() if encryption.masked else None
    attack = Attack(world, masks=masks)
    if masks:
        masks.collect(0, world.contribute)
    attack.collect()
    colluding = attack.clients[3]
    # The last client does not upload its own but what cancels the others; its tags are honest about that.
    attack.uploads[3] = negative(attack.lattice, attack.total([1, 2]))
    colluding._ciphertexts = attack.uploads[3]
    return attack, attack.units(attack.open(attack.total(range(4)), range(4)))


def test_a_client_colluding_with_the_server_cancels_the_others() -> None:
    """Against bfv alone it succeeds: no proof stands behind a ciphertext. With masks there is nothing to read."""
    attack, opened = cancelled(BFV)
    assert opened == attack.world.units([VICTIM])
    attack, opened = cancelled(MASKED)
    truth = attack.world.units([VICTIM])
    assert not [at for at in range(LENGTH) if opened[at] == truth[at]]
    masks = vars(attack.clients[VICTIM]._source)["_masks"]
    words, _ = masks.masked(0)
    assert opened == ring.centred(words, attack.lattice.plain_modulus).tolist()


ATTEMPTS, DEVIATION = 24, Fraction(1, 4)


def added_up(kind: type[HomomorphicClient], *, restarted: bool) -> tuple[list[int], list[int], float]:
    """What one client and the server can open together: the sum of the victim's uploads in many attempts at one round.
    Besides, the victim's units without noise, and the deviation of its noise in units.
    """
    noise = Noise((Block(LENGTH, DEVIATION),), reach=14)
    world = World(plan=tuple(dataclasses.replace(one, noise=noise) for one in planned()))
    world.vectors[VICTIM] = np.arange(LENGTH, dtype=np.float64)  # so small that the sum is in range
    attack = Attack(world, client=kind)
    seen = attack.lattice.zeros(LENGTH)
    for attempt in range(1, ATTEMPTS + 1):
        attack.collect(attempt=attempt)
        attack.lattice.add(seen, attack.uploads[VICTIM])
        if restarted:
            memory = attack.clients[VICTIM].memory()
            victim = world.client(VICTIM, kind)
            victim.resume(memory)
            attack.cohort.clients = attack.clients = {**attack.clients, VICTIM: victim}
    # The last client cancels the others of the last attempt, and adds what the server kept.
    attack.lattice.add(seen, negative(attack.lattice, attack.total([0, 1, 2])))
    attack.uploads[3] = attack.clients[3]._ciphertexts = seen
    opened = attack.units(attack.open(attack.total(range(4)), range(4)))
    encoding = world.agreement().rounds[0].encoding(world.clients)
    return opened, world.units([VICTIM]), float(DEVIATION) * 2.0**encoding.fraction_bits


@pytest.mark.slow
@pytest.mark.parametrize("restarted", [False, True], ids=["", "restarted"])
def test_attempts_at_a_round_do_not_average_its_noise_away(restarted: bool) -> None:
    """Under bfv alone colluders can read the victim's upload with its noise; that noise is the same in all attempts."""

    class Forgetting(HomomorphicClient):
        def receive(self, data: bytes) -> bytes | SumWanted:
            if self._transcript:
                self._memory.words = b""
            return super().receive(data)

    opened, truth, deviation = added_up(Forgetting, restarted=restarted)
    off = (np.array(opened) / ATTEMPTS - truth) / deviation
    assert np.sum(off**2) < 50 / ATTEMPTS  # chi-square, 6 degrees: missed with a probability of 5e-9
    assert any(one % ATTEMPTS for one in opened)
    opened, truth, deviation = added_up(HomomorphicClient, restarted=restarted)
    assert not any(one % ATTEMPTS for one in opened)
    assert [one // ATTEMPTS for one in opened] != truth


def test_server_and_all_key_holders_see_no_more_than_masked_vectors() -> None:
    """With the key a server reads every upload: under bfv the vector, under bfv+mask a masked one."""

    def read(encryption: Encryption) -> tuple[Attack, list[list[int]]]:
        world = World(encryption)
        masks = world.masks() if encryption.masked else None
        attack = Attack(world, masks=masks)
        if masks:
            masks.collect(0, world.contribute)
        attack.collect()
        key = attack.holders[0]._key
        opened = [key.words(attack.uploads[index], LENGTH) for index in range(4)]  # type: ignore[union-attr]
        return attack, [ring.centred(one, attack.lattice.plain_modulus).tolist() for one in opened]

    attack, vectors = read(BFV)
    assert vectors == [attack.world.units([index]) for index in range(4)]
    attack, vectors = read(MASKED)
    half = attack.lattice.plain_modulus // 2
    for index, vector in enumerate(vectors):
        assert not set(vector) & set(attack.world.units([index]))
    assert max(abs(entry) for vector in vectors for entry in vector) > half // 4  # uniform in Z_t


def test_a_client_colluding_with_the_server_reads_a_key_share() -> None:
    """Succeeds, as documented: with forged ciphertexts the sum's second polynomial is a large constant. A committee member
    answers with its share times that constant, and the noise is too small to hide it.
    """
    attack = Attack(World(plan=planned(2), holders=2))
    lattice = attack.lattice
    attack.collect()
    bits = joint_key.smudging_bits(lattice, 2, 4) + 8
    forged = negative(lattice, attack.total(range(3)))
    for index, prime in enumerate(lattice.primes):
        constant = int(forged[0, 1, index, 0]) + 2**bits
        forged[0, 1, index, 0] = constant % prime
    attack.uploads[3] = attack.clients[3]._ciphertexts = forged
    parts = attack.open(attack.total(range(4)), range(4))
    for holder, part in zip(attack.holders, parts, strict=True):
        residues = joint_key.unpack_partial(lattice, part, LENGTH)[0].astype(object)
        cofactors = [lattice.modulus // prime for prime in lattice.primes]
        units = [
            cofactor * pow(cofactor, -1, p) for cofactor, p in zip(cofactors, lattice.primes, strict=True)
        ]
        value = sum(row * unit for row, unit in zip(residues, units, strict=True)) % lattice.modulus
        value = np.where(value > lattice.modulus // 2, value - lattice.modulus, value)
        share = ((value + 2 ** (bits - 1)) // 2**bits).astype(np.int64)
        assert set(share.tolist()) == {-1, 0, 1}
        for index, prime in enumerate(lattice.primes):
            secret = ntt.factors(ntt.forward((share % prime).astype(np.uint64), prime), prime)
            assert np.array_equal(secret, holder._key._secret._factors[index])  # type: ignore[union-attr]


def test_masks_and_encryption_over_different_survivors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that opens the encrypted sum over some clients and removes the masks of others reads noise, and every
    client sees that the opened sum is wrong.
    """
    world = World(MASKED)
    masks = world.masks()
    attack = Attack(world, masks=masks)
    masks.collect(0, world.contribute)
    attack.collect()
    opened = attack.open(attack.total(range(1, 4)), range(1, 4))
    masks.server.take_total(np.frombuffer(opened[0], "<u8"), range(1, 4))
    masks.server._round.survivors = frozenset(range(4))
    real, results = masks.server.result, list[OpenedSum]()

    def noted() -> OpenedSum:
        results.append(real())
        return results[0]

    monkeypatch.setattr(masks.server, "result", noted)
    with pytest.raises(RoundAbortedError, match="4 of 4 clients refuse the opened sum"):
        masks.open()
    result = results[0]
    right = world.units(range(1, 4))
    assert not [at for at in range(LENGTH) if result.values.view(np.int64)[at] == right[at]]


# ---- any bytes -----------------------------------------------------------------------------------


def bombs(tag: str, transcript: bytes) -> list[bytes]:
    """Small messages that announce four thousand million elements, bytes or letters."""
    head = b"\x95" + bytes([0xA0 + len(tag)]) + tag.encode() + b"\xc4\x20" + transcript
    return [
        start + size
        for start in (b"", b"\x92", head, head + b"\x00\x00", head + b"\xc4\x00")
        for size in (
            b"\xdd\xff\xff\xff\xff",
            b"\xc6\xff\xff\xff\xff",
            b"\xdb\xff\xff\xff\xff",
            b"\x91" * 5000,
        )
    ]


def test_forged_sizes_and_memory_bombs_at_every_receiver() -> None:
    world = World()
    attack = Attack(world)
    server = attack.cohort.server
    server.open_round(0)
    attack.collect(attempt=5)
    state = (server.state, attack.clients[0].state, attack.holders[0].state)
    tracemalloc.start()
    try:
        for tag in ("check", "opening", "offer", "tags", "encrypted request", "invitation", "key shares"):
            for data in bombs(tag, attack.transcript):
                for receiver in (attack.clients[0], attack.holders[0], world.client(1), world.holder()):
                    with pytest.raises(RemoteProtocolError):
                        receiver.receive(data)
                say: Any = msgspec.Raw(data)
                frame = sign_frame(world.identities[0], server._transcript, server._questions[0], 0, say)
                server.waiting_for |= {0}
                with pytest.raises(RemoteProtocolError):
                    server.receive(0, frame)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * 2**20
    assert state == (server.state, attack.clients[0].state, attack.holders[0].state)

    size = attack.lattice.ciphertext_bytes(LENGTH)
    for length in (0, 1, size - 1, size + 1, 2 * size, size + 10**6):
        upload = EncryptedUpload(0, 1, memoryview(bytes(length)))
        frame = sign_frame(world.identities[1], server._transcript, server._questions[1], 1, upload)
        server.waiting_for |= {1}
        with pytest.raises(RemoteProtocolError, match=r"expected (residues in|at most)"):
            server.receive(1, frame)
        assert not server._round.contributors
    largest = server._largest_frame(2)
    with pytest.raises(RemoteProtocolError, match=f"expected at most {largest} bytes"):
        server.receive(2, bytes(largest + 1))
    assert 2 not in server.blame  # whoever sent that did not sign it
    # Residues that are no residues.
    upload = EncryptedUpload(0, 1, memoryview(b"\xff" * size))
    frame = sign_frame(world.identities[3], server._transcript, server._questions[3], 3, upload)
    with pytest.raises(RemoteProtocolError, match="expected residues below their prime"):
        server.receive(3, frame)
    assert server.blame[3]


@pytest.mark.parametrize("world", [World(), World(BFV, planned(9), clients=30, holders=3), World(CKKS)])
def test_over_long_messages_are_refused_unread_and_no_honest_one_is(world: World) -> None:
    """What the network or a lying server sends may be any length; memory follows the agreement."""

    class Pads(PerfectNetwork):
        def carry(self, packet: Packet) -> list[Packet]:
            if not packet.upward:
                party: Any = cohort.holders.get(packet.client) or cohort.clients[packet.client]
                long = bytes(party.largest_message + 1)
                with pytest.raises(RemoteProtocolError, match=r"expected at most \d+ bytes"):
                    party.receive(long)
            return [packet]

    cohort = world.cohort(Pads())
    cohort.set_up()
    cohort.sum(0, world.contribute)
    assert not cohort.refusals


@pytest.mark.slow
def test_a_long_agreement_is_read_in_linear_time() -> None:
    """Two megabytes must not keep anybody busy for minutes: 0.6 s of CPU, 320 s when each name was compared with all."""
    world = World()
    agreement = world.agreement()
    rounds = tuple(replace(agreement.rounds[0], statistic=f"sum {number}") for number in range(80_000))
    long = encode(replace(agreement, rounds=rounds))
    before = time.process_time()
    holder = world.holder()
    holder.largest_message = len(long)
    with pytest.raises(RemoteProtocolError, match="expected the 1 sums"):
        holder.receive(long)
    assert time.process_time() - before < 60


def test_a_flipped_bit_on_the_way() -> None:
    """The network can silence a client or a key holder. It cannot change a sum or have anybody blamed."""

    class Flips(PerfectNetwork):
        def __init__(self, phase: str, upward: bool) -> None:
            self.phase, self.upward = phase, upward

        def carry(self, packet: Packet) -> list[Packet]:
            if (packet.phase, packet.client, packet.upward) != (self.phase, 3, self.upward):
                return [packet]
            data = bytearray(packet.data)
            data[len(data) // 2] ^= 1
            return [Packet(packet.phase, 3, self.upward, bytes(data))]

    for phase in ("inviting", "encrypting", "checking"):
        for upward in (False, True):
            world = World()
            cohort = world.cohort(Flips(phase, upward))
            cohort.set_up()
            opened = cohort.sum(0, world.contribute)
            lattice = LATTICES[cohort.server.agreement.lattice]
            assert opened.survivors == (0, 1, 2)
            assert ring.centred(opened.values, lattice.plain_modulus).tolist() == world.units(range(3))
            assert cohort.refusals
            assert not cohort.server.blame


numbers = st.one_of(st.integers(-(2**63), 2**64 - 1), st.sampled_from([-1, 0, 1, 2, 3, 4, 5]))
leaves = st.one_of(
    numbers,
    st.binary(max_size=70),
    st.sampled_from([bytes(32), bytes(64)]),
    st.text(max_size=5),
    st.none(),
    st.booleans(),
    st.floats(),
)
trees = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4), max_leaves=8)


def mutated(value: Any, data: st.DataObject) -> Any:
    """A legitimate message with one thing in it replaced, repeated, left out or added."""
    if isinstance(value, list) and value and data.draw(st.integers(0, 4)):
        at = data.draw(st.integers(0, len(value) - 1))
        how = data.draw(st.integers(0, 5))
        if how == 0:
            return value[:at] + value[at + 1 :]
        if how == 1:
            return [*value[:at], value[at], *value[at:]]
        if how == 2:
            return value[::-1]
        return [*value[:at], mutated(value[at], data), *value[at + 1 :]]
    if isinstance(value, bytes) and value and data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(value) - 1))
        return value[:at] + bytes([value[at] ^ data.draw(st.integers(1, 255))]) + value[at + 1 :]
    if isinstance(value, int) and data.draw(st.booleans()):
        return data.draw(numbers)
    return data.draw(trees)


def seen(party: Any) -> dict[str, Any]:
    """Everything that a party knows; arrays and objects are compared by identity first."""
    ledger: Ledger = party._ledger
    known: dict[str, Any] = vars(party) | {"_ledger": (set(ledger._sessions), dict(ledger._used))}
    if "_memory" in known:
        memory = known["_memory"]
        known["_memory"] = msgspec.msgpack.decode(msgspec.msgpack.encode(memory), type=type(memory))
    return known


MESSAGES_TO_A_CLIENT = ("invitation", "request", "check")
MESSAGES_TO_A_HOLDER = ("agreement", "commitments", "shares", "offer", "opening")


def at(what: str, world: World) -> tuple[Any, bytes]:
    """A client or key holder that waits for just this message, and the honest one."""
    if what == "agreement":
        return world.holder(), encode(world.agreement())
    if what in ("commitments", "shares"):
        cohort = world.cohort()
        server, key_holders = cohort.server, cohort.holders
        outbox = server.start()
        for step in range(1 if what == "commitments" else 2):
            del step
            for index, key_holder in key_holders.items():
                server.receive(index, key_holder.receive(outbox[index]))
            outbox = server.advance()
        return key_holders[world.clients], outbox[world.clients]
    if what == "invitation":
        return world.client(0), encode(invited(world)[0])
    attack = Attack(world)
    if what == "request":
        return attack.clients[0], encode(EncryptedRequest(attack.transcript, 0, 1, (0, 1, 2, 3)))
    attack.collect()
    total = attack.total(range(4))
    offer = attack.offer(total, range(4))
    if what == "offer":
        return attack.holders[0], encode(offer)
    check = attack.check(offer)
    if what == "check":
        return attack.clients[0], check
    return attack.holders[0], attack.opening(check, attack.tagged(check, range(4)), total)


@pytest.mark.parametrize("what", [*MESSAGES_TO_A_CLIENT, *MESSAGES_TO_A_HOLDER])
@settings(max_examples=3)
@given(st.data())
def test_a_client_or_key_holder_refuses_what_is_nearly_the_message(what: str, data: st.DataObject) -> None:
    """Our own errors, no change of state, and the honest message is still taken."""
    party, honest = at(what, World(plan=planned(2), holders=2 if what in ("commitments", "shares") else 1))
    before = seen(party)
    fields = msgspec.msgpack.decode(honest)
    if what in ("opening", "shares", "invitation"):  # hypothesis prints no megabytes
        assert len(honest) > 30_000
    for _ in range(20):
        hostile = msgspec.msgpack.encode(mutated(fields, data))
        if hostile == honest:
            continue
        try:
            party.receive(hostile)
        except (RemoteProtocolError, PolicyError) as error:
            refused = str(error)
            assert seen(party) == before
            assert len(refused) < 2000
            continue
        # Taken: then it is another honest proposal, such as a higher attempt or fewer participants.
        assert what in ("request", "offer", "agreement", "opening")
        return
    assert party.receive(honest)


@pytest.mark.slow
@settings(max_examples=40)
@given(st.sampled_from(["key commitments", "key shares", "key announcements", "inviting"]), st.data())
def test_a_server_refuses_what_is_no_answer_while_a_key_is_made(phase: str, data: st.DataObject) -> None:
    world = WORLD
    cohort = world.cohort()
    server = cohort.server
    outbox = server.start()
    while server.state.value != phase:
        for index, holder in cohort.holders.items():
            server.receive(index, holder.receive(outbox[index]))
        outbox = server.advance()
    answers = {
        index: (cohort.holders.get(index) or cohort.clients[index]).receive(outbox[index]) for index in outbox
    }
    refuses(server, answers, data)


@settings(max_examples=30)
@given(st.sampled_from(["encrypting", "challenging", "checking", "opening"]), st.data())
def test_a_server_refuses_what_is_no_answer_in_a_round(phase: str, data: st.DataObject) -> None:
    world = World()
    cohort = world.cohort()
    cohort.set_up()
    server = cohort.server
    outbox = server.open_round(0)
    while True:
        answers = {}
        for index, message in outbox.items():
            answer = (cohort.holders.get(index) or cohort.clients[index]).receive(message)
            if isinstance(answer, SumWanted):
                answer = cohort.clients[index].contribute(answer, *world.contribute(index, answer))
            answers[index] = answer
        if server.state.value == phase:
            break
        for index, answer in answers.items():
            server.receive(index, answer)
        outbox = server.advance()
    refuses(server, answers, data, world)


WORLD = World(holders=2)


def refuses(
    server: HomomorphicServer, answers: Mapping[int, Any], data: st.DataObject, world: World | None = None
) -> None:
    world = world or WORLD
    sender = data.draw(st.sampled_from(sorted(answers)))
    fields = msgspec.msgpack.decode(memoryview(answers[sender])[:-SIGNATURE_BYTES])
    hostile = msgspec.msgpack.encode(mutated(fields, data))
    signed = data.draw(st.booleans())
    say: Any = msgspec.Raw(hostile)
    frame = sign_frame(world.identities[sender], server._transcript, server._questions[sender], sender, say)
    if not signed:
        frame = hostile + bytes(SIGNATURE_BYTES)
    state, waiting = server.state, server.waiting_for
    try:
        server.receive(sender, frame)
    except RemoteProtocolError:
        assert server.state is state
        assert set(server.blame) <= ({sender} if signed else set())
        assert waiting - server.waiting_for == set(server.blame)
    # Whatever it was, the step after it is a step or an error of ours.
    for index, answer in answers.items():
        if index in server.waiting_for:
            server.receive(index, answer)
    try:
        server.advance()
        if server.state is ServerState.OPENED:
            server.result()
    except RoundAbortedError:
        pass


def test_nothing_secret_in_reprs_and_errors() -> None:
    attack = Attack(World())
    attack.collect()
    parties = [*attack.clients.values(), *attack.holders, attack.cohort.server, attack.holders[0]._key]
    text = " ".join(map(repr, parties))
    assert "array" not in text
    assert len(text) < 2000
    with pytest.raises(RemoteProtocolError) as refused:
        attack.open(attack.total([VICTIM]), range(4))
    values = {str(int(one)) for vector in attack.world.vectors for one in vector if abs(one) > 9}
    assert not [one for one in values if one in str(refused.value)]
    assert attack.holders[0].state is HolderState.CHALLENGED
