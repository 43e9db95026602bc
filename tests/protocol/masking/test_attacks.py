"""Each known attack, run twice: it succeeds on the weak design that it is known from, and fails on ours.

The weak designs are our own client with one defence taken out; the attacks use only what a server sees.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from msgspec import msgpack
from msgspec.structs import replace
from worlds.cohorts import BOUND, EVERY_PROFILE, OneKeyForAll, Session, Tap, World, link, world

from secure_afl.crypto import ring
from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.hpke import KeyPair, Suite, seal
from secure_afl.crypto.identity import SIGNATURE_BYTES, Identity
from secure_afl.crypto.kdf import KEY_BYTES, Label
from secure_afl.crypto.prg import add_keystreams
from secure_afl.crypto.shamir import SHARE_BYTES, combine
from secure_afl.protocol.masking import client as client_module
from secure_afl.protocol.masking import messages
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.masking.memory import MEMORY
from secure_afl.protocol.masking.messages import (
    Advertise,
    Bundle,
    Confirm,
    Consents,
    Directory,
    Reveal,
    Shares,
    SumRequest,
    Survivors,
    Upload,
)
from secure_afl.protocol.masking.server import MaskingServer
from secure_afl.protocol.masking.states import ClientState
from secure_afl.protocol.session import graph
from secure_afl.protocol.session.errors import (
    LocalProtocolError,
    PolicyError,
    ProtocolError,
    RemoteProtocolError,
    RoundAbortedError,
)
from secure_afl.protocol.session.ledger import Ledger
from secure_afl.protocol.session.parameters import Parameters, Profile, SumPlan, SumWanted
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Verify
from secure_afl.protocol.session.roster import Member, Roster
from secure_afl.protocol.session.wire import decode, encode, sign_frame
from secure_afl.testing.faults import Fault, FaultyNetwork

VICTIM = 0


# ---- what an attacking server computes from what it sees -----------------------------------------


class Attack:
    """A session up to its uploads, driven by a server that then leaves the protocol."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.tap = Tap()
        link(session.cohort)._network = self.tap
        session.set_up()
        session.cohort.run(lambda: session.server.open_round(0), session.contribute)
        self.transcript = session.parameters.transcript()

    def ask(self, client: int, survivors: Iterable[int]) -> bytes:
        """Name a survivor set to one client only."""
        return self.say(client, Survivors(self.transcript, 0, tuple(sorted(survivors))))

    def say(self, client: int, message: messages.FromServer) -> bytes:
        answer = self.session.clients[client].receive(encode(message))
        assert isinstance(answer, bytes)
        return answer

    def said(self, phase: str, client: int) -> messages.FromClient:
        return self.session.message(self.tap.last(phase, client))

    def secret(self, target: int, reveals: dict[int, bytes]) -> bytes:
        """What shares of `target` in these reveals combine to."""
        shares = {}
        for holder, frame in reveals.items():
            reveal = decode(memoryview(frame)[:-SIGNATURE_BYTES], messages.FROM_CLIENT)
            assert isinstance(reveal, Reveal)
            shares[holder + 1] = dict(reveal.shares)[target]
        return combine(shares, self.session.parameters.threshold)

    def pair_keys(self, target: int, mask_seed: bytes) -> dict[int, bytes]:
        """All pairwise mask keys of `target`, from its mask seed and what was sent around."""
        keys, own = {}, KeyPair(self.session.parameters.suite, mask_seed, Label.MASK_KEY)
        for other in set(self.session.parameters.cohort) - {target}:
            if target < other:
                secret = messages.pair_secret(mask_seed, self.transcript, 0, other)
            else:
                dealt = self.said("sharing", other)
                assert isinstance(dealt, Shares)
                bundle = next(one for one in dealt.bundles if one.recipient == target)
                secret = own.open(
                    bundle.pair_secrets[0], messages.pair_info(self.transcript, 0, other, target)
                )
            keys[other] = messages.pair_mask_key(secret, self.transcript, 0, target, other)
        return keys

    def unmask(self, target: int, mask_seed: bytes | None, self_seed: bytes | None) -> npt.NDArray[np.int64]:
        """`target`'s upload without the masks that these seeds make."""
        upload = self.said("collecting", target)
        assert isinstance(upload, Upload)
        width = self.session.encodings[0].width
        words = np.zeros(self.session.parameters.rounds[0].length, ring.words_of(width))
        ring.add_packed(words, upload.payload, width)
        pairs = self.pair_keys(target, mask_seed) if mask_seed else {}
        own = [messages.self_mask_key(self_seed, self.transcript, 0, target)] if self_seed else []
        add_keystreams(
            words,
            plus=[key for other, key in pairs.items() if other < target],
            minus=[key for other, key in pairs.items() if other > target] + own,
        )
        return ring.signed(words, width)

    def truth(self, target: int = VICTIM) -> list[int]:
        truth: list[int] = self.session.integer_sum([target]).tolist()
        return truth


def weak(*removed: str, **replaced: Callable[..., object]) -> type[MaskingClient]:
    """Our client with some of its checks taken out."""
    changes: dict[str, object] = {name: lambda self, *arguments: None for name in removed}
    return type("WeakClient", (MaskingClient,), changes | replaced)


NO_POLICY = Policy(profiles=frozenset(Profile), suites=frozenset(Suite), corrupted=0.0)


def without_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Policy, "check", lambda self, parameters, roster: None)
    monkeypatch.setattr(Policy, "least_survivors", lambda self, roster: 0)


# ---- unmasking -----------------------------------------------------------------------------------


class AnswersTwoLists(MaskingClient):
    """Flower's SecAgg+ client: give a list of survivors and a list of dropouts, get a share for every entry."""

    def answer(self, survivors: set[int], dropped: set[int]) -> dict[tuple[int, int], bytes]:
        assert self._memory.current is not None
        kinds = ((messages.SELF_SHARE, survivors), (messages.SEED_SHARE, dropped))
        held = self._memory.current.shares
        return {
            (target, kind): held[target][kind] for kind, targets in kinds for target in targets & held.keys()
        }


def test_overlap_and_repeat_in_unmask_lists() -> None:
    parties = world(5)
    attack = Attack(parties.session(parties.propose(), client=AnswersTwoLists))
    both: dict[int, dict[int, bytes]] = {messages.SELF_SHARE: {}, messages.SEED_SHARE: {}}
    for index, client in attack.session.clients.items():
        assert isinstance(client, AnswersTwoLists)
        for (target, kind), share in client.answer({VICTIM, 1, 2}, {VICTIM, 3}).items():
            if target == VICTIM:
                both[kind][index + 1] = share
    threshold = attack.session.parameters.threshold
    seeds = [combine(both[kind], threshold) for kind in (messages.SEED_SHARE, messages.SELF_SHARE)]
    assert attack.unmask(VICTIM, *seeds).tolist() == attack.truth()

    # Ours: there is one list, it cannot name anybody twice, and whoever is not in it has dropped out.
    attack = Attack(parties.session(parties.propose()))
    client = attack.session.clients[1]
    for fields in (
        ["survivors", attack.transcript, 0, [0, 1, 2, 3, 4], [0]],  # a second list, that overlaps
        ["survivors", attack.transcript, 0, [0, 0, 1, 2, 3]],
        ["survivors", attack.transcript, 0, [1, 0, 2, 3, 4]],
        ["survivors", attack.transcript, 0, [0, 1, 2, 3, 9]],
        ["survivors", attack.transcript, 1, [0, 1, 2, 3, 4]],
        ["survivors", attack.transcript, 0, [0, 2, 3, 4]],  # itself left out, although it uploaded
    ):
        with pytest.raises(RemoteProtocolError, match="site-1 refused a message from the server"):
            client.receive(msgpack.encode(fields))
    assert attack.ask(1, range(5))  # nothing was lost


class KeepsItsChannelKey(MaskingClient):
    """Keeps the key that shares are sealed to until the session ends."""

    def _confirm(self, delivery: messages.Delivery) -> bytes:
        seed = self._memory.channel_seed
        answer = super()._confirm(delivery)
        self._memory.channel_seed = seed
        return answer


def test_memories_of_clients_open_no_upload_of_a_round_that_is_over() -> None:
    """The attacker recorded the traffic and, after the round, reads the memories of as many clients as the threshold. The
    recorded shares open under a client's channel key, if it still has that key.
    """

    def shares_read(attack: Attack) -> tuple[dict[int, bytes], dict[int, bytes]]:
        """Of the victim's mask seed and self mask in round 0, by point."""
        for reveal in (attack.session.server.advance, attack.session.server.advance):  # survivors, consents
            attack.session.cohort.run(reveal, attack.session.contribute)
        attack.session.server.result()
        dealt = attack.said("sharing", VICTIM)
        assert isinstance(dealt, Shares)
        seeds: dict[int, bytes] = {}
        selfs: dict[int, bytes] = {}
        for bundle in dealt.bundles:
            memory = MEMORY.decode(attack.session.clients[bundle.recipient].memory())
            assert memory.current is None
            if not memory.channel_seed:
                continue
            info = messages.shares_info(attack.transcript, VICTIM, bundle.recipient)
            plain = memory.channel.open(bundle.sealed, info)
            seeds[bundle.recipient + 1], selfs[bundle.recipient + 1] = (
                plain[:SHARE_BYTES],
                plain[SHARE_BYTES : 2 * SHARE_BYTES],
            )
        return seeds, selfs

    parties = world(5)
    attack = Attack(parties.session(parties.propose(rounds=2), client=KeepsItsChannelKey))
    threshold = attack.session.parameters.threshold
    seeds, selfs = (combine(shares, threshold) for shares in shares_read(attack))
    assert attack.unmask(VICTIM, seeds, selfs).tolist() == attack.truth()

    parties = world(5)
    attack = Attack(parties.session(parties.propose(rounds=2)))
    assert shares_read(attack) == ({}, {})


class Forgetful(MaskingClient):
    """Answers as often as it is asked."""

    def receive(self, data: bytes) -> bytes | SumWanted:
        state = self.state
        keys = self._memory.current if state is not ClientState.START else None
        answer = super().receive(data)
        if isinstance(decode(data, msgpack.Decoder(object)), list) and b"survivors" in data[:16]:
            self.state, self._memory.current = state, keys
        return answer


def test_both_shares_of_one_client() -> None:
    parties = world(5)
    everybody, others = range(5), range(1, 5)
    attack = Attack(parties.session(parties.propose(profile=Profile.SEMI_HONEST), client=Forgetful))
    first = {index: attack.ask(index, everybody) for index in others}
    second = {index: attack.ask(index, others) for index in others}
    seeds = attack.secret(VICTIM, second), attack.secret(VICTIM, first)
    assert attack.unmask(VICTIM, *seeds).tolist() == attack.truth()

    attack = Attack(parties.session(parties.propose(profile=Profile.SEMI_HONEST)))
    for index in others:
        attack.ask(index, everybody)
        with pytest.raises(RemoteProtocolError, match="in state ready expected SumRequest, got Survivors"):
            attack.ask(index, others)


def test_survivor_set_under_the_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name two survivors, one of which colludes: the sum less the colluder's vector is the victim's."""
    parties = world(5, NO_POLICY)
    pair = (VICTIM, 1)
    with monkeypatch.context() as patched:
        without_policy(patched)
        low = parties.propose(profile=Profile.SEMI_HONEST, near=graph.Neighbourhood(4, 2))
        attack = Attack(parties.session(low, client=weak("_check_group")))
        reveals = {index: attack.ask(index, pair) for index in pair}
        masks = [attack.secret(index, reveals) for index in range(2, 5)]
        kind = ring.words_of(attack.session.encodings[0].width)
        total: Any = attack.unmask(VICTIM, None, attack.secret(VICTIM, reveals)).astype(kind)
        total += attack.unmask(1, None, attack.secret(1, reveals)).astype(kind)
        for dropped, seed in zip(range(2, 5), masks, strict=True):
            keys = attack.pair_keys(dropped, seed)
            add_keystreams(total, minus=[keys[0], keys[1]])  # both survivors are the lower of each pair
        colluders = ring.signed(attack.session.encodings[0].encode(attack.session.vectors[1, 0]), 8)
        assert (ring.signed(total, attack.session.encodings[0].width) - colluders).tolist() == attack.truth()

    for profile in Profile:
        attack = Attack(parties.session(parties.propose(profile=profile)))
        for survivors in (pair, (VICTIM,), ()):
            with pytest.raises((PolicyError, RemoteProtocolError), match=r"expected at least|dropped out"):
                attack.ask(VICTIM, survivors)


def test_split_view_between_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tell half of the clients that the victim survived and the other half that it dropped out."""
    parties = world(6, NO_POLICY)
    halves = {index: range(6) if index < 3 else range(1, 6) for index in range(6)}
    with monkeypatch.context() as patched:
        without_policy(patched)
        low = parties.propose(profile=Profile.SEMI_HONEST, near=graph.Neighbourhood(5, 3))
        attack = Attack(parties.session(low))
        reveals = {index: attack.ask(index, view) for index, view in halves.items()}
        self_seed = attack.secret(VICTIM, {index: reveals[index] for index in range(3)})
        mask_seed = attack.secret(VICTIM, {index: reveals[index] for index in range(3, 6)})
        assert attack.unmask(VICTIM, mask_seed, self_seed).tolist() == attack.truth()

    # Ours, first line: such a threshold is refused. Second line, with our own: nobody finds enough consents.
    assert low.threshold < graph.least_threshold(Profile.SEMI_HONEST, 6, 5)
    attack = Attack(parties.session(parties.propose()))
    votes = {}
    for index, view in halves.items():
        consent = decode(memoryview(attack.ask(index, view))[:-SIGNATURE_BYTES], messages.FROM_CLIENT)
        assert isinstance(consent, messages.Consent)
        votes[index] = consent.vote
    for index, view in halves.items():
        shown = tuple((who, one) for who, one in votes.items() if who in view)
        with pytest.raises(RemoteProtocolError, match="another view"):
            attack.say(index, Consents(attack.transcript, 0, shown))


def test_two_survivor_sets_never_both_find_a_quorum() -> None:
    """However a server splits its views and whoever of a third signs twice: 2t > n + c."""
    for n in range(3, 40):
        threshold = graph.least_threshold(Profile.ACTIVE, n, n - 1)
        for corrupted in range((n + 2) // 3):
            honest = n - corrupted
            assert all(
                min(views + corrupted, honest - views + corrupted) < threshold for views in range(honest + 1)
            )
            assert graph.exposure(Profile.ACTIVE, n, n - 1, threshold, corrupted, 0) == 0.0


def test_participants_shown_differently_to_two_clients() -> None:
    """Clients that mask for different participants sign different consents, so none reaches the threshold."""
    parties = world(7)
    session = parties.session(parties.propose()).set_up()
    transcript = session.parameters.transcript()
    votes = {}
    for index, client in session.clients.items():
        participants = tuple(range(7)) if index < 4 else (*range(2, 7),)
        if index not in participants:
            continue
        wanted = client.receive(encode(SumRequest(transcript, 0, participants)))
        assert isinstance(wanted, SumWanted)
        client.contribute(wanted, *session.contribute(index, wanted))
        frame = client.receive(
            encode(Survivors(transcript, 0, (2, 3, 4, 5, 6) if index >= 4 else (0, 1, 2, 3, 4)))
        )
        assert isinstance(frame, bytes)
        consent = decode(memoryview(frame)[:-SIGNATURE_BYTES], messages.FROM_CLIENT)
        assert isinstance(consent, messages.Consent)
        votes[index] = consent.vote
    for index in (0, 4):
        shown = tuple((who, votes[who]) for who in ((0, 1, 2, 3, 4) if index == 0 else (2, 3, 4, 5, 6)))
        with pytest.raises(RemoteProtocolError, match="another view"):
            session.clients[index].receive(encode(Consents(transcript, 0, shown)))


# ---- parameters ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "policy", "what"),
    [
        (
            {"profile": Profile.SEMI_HONEST, "verify": Verify.NONE},
            Policy(suites=frozenset(Suite)),
            "profile active",
        ),
        ({"verify": Verify.NONE}, EVERY_PROFILE, "verify tags"),
        ({}, Policy(), "suite hybrid"),
        ({"threshold": 4}, EVERY_PROFILE, "threshold of at least 5"),
        (
            {"profile": Profile.SEMI_HONEST, "verify": Verify.NONE, "threshold": 3},
            EVERY_PROFILE,
            "threshold of at least 4",
        ),
        (
            {"degree": 2, "threshold": 2, "profile": Profile.SEMI_HONEST, "verify": Verify.NONE},
            EVERY_PROFILE,
            "failure probability",
        ),
        ({"cohort": (0, 1), "degree": 1, "threshold": 2}, EVERY_PROFILE, "cohort of at least 3"),
        ({}, Policy(corrupted=0.7, suites=frozenset(Suite)), "cohort of at least 7"),
        ({}, Policy(backends=frozenset({"plain"})), "backend 'mask' is not allowed"),
    ],
)
def test_downgraded_parameters(change: dict[str, object], policy: Policy, what: str) -> None:
    parties = world(6, policy)
    proposed = parties.propose()
    client = parties.client(0)
    with pytest.raises(PolicyError, match=f"site-0: .*{what}"):
        client.receive(encode(replace(proposed, **change)))
    # Nothing changed: the client still takes an honest proposal, even of the same session.
    client._policy = EVERY_PROFILE
    assert client.receive(encode(proposed))


def test_a_cohort_of_colluders(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server invites the victim and its friends: the sum less what the friends know is the victim's."""
    parties = world(20, replace_policy(EVERY_PROFILE, corrupted=0.0))
    cohort = (VICTIM, 18, 19)
    session = parties.session(parties.propose(cohort=cohort)).set_up()
    result = session.sum()
    known = session.integer_sum(cohort[1:])
    assert (session.opened(result) - known).tolist() == session.integer_sum([VICTIM]).tolist()

    parties.policy = EVERY_PROFILE  # 10 % of the roster, two clients, may collude: they are counted out
    with pytest.raises(PolicyError, match=r"cohort of at least 4 \(2 may collude\)"):
        parties.client(VICTIM).receive(encode(parties.propose(cohort=cohort)))


def replace_policy(policy: Policy, **fields: object) -> Policy:
    return dataclasses.replace(policy, **fields)  # type: ignore[arg-type]


def test_a_bound_that_the_server_chooses_is_an_oracle() -> None:
    """Whether a client uploads or refuses tells how its largest value compares with the bound, although no sum is opened."""
    parties = world(4)

    def uploads(bound: float, client: type[MaskingClient]) -> bool:
        parties.propose()
        agreed = parties.plan
        proposed = parties.propose()
        spec = SumPlan("sum 0", 5, bound, 20).spec(4)
        session = parties.session(replace(proposed, rounds=(spec,)), client=client)
        parties.plan = agreed
        session.set_up()
        session.cohort.run(lambda: session.server.open_round(0), session.contribute)
        return VICTIM not in session.server.waiting_for

    class TakesAnyPlan(MaskingClient):
        def receive(self, data: bytes) -> bytes | SumWanted:
            if self.state.value == "start":
                proposed = msgpack.decode(data, type=Parameters)
                self._agreed = proposed.rounds
            return super().receive(data)

    low, high = 1.0, BOUND
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (low, middle) if uploads(middle, TakesAnyPlan) else (middle, high)
    largest = float(np.abs(np.random.default_rng(4).uniform(-BOUND, BOUND, 5)).max())
    assert low - 0.1 <= largest <= high + 0.1

    with pytest.raises(RoundAbortedError, match="0 advertised"):
        uploads(middle, MaskingClient)


def test_clients_that_were_shown_other_parameters_do_not_talk() -> None:
    parties = world(4, Policy(suites=frozenset(Suite)))
    proposed = parties.propose()
    downgraded = replace(proposed, suite=Suite.HYBRID)
    frames = {}
    for index in range(4):
        answer = parties.client(index).receive(encode(proposed if index < 2 else downgraded))
        assert isinstance(answer, bytes)
        frames[index] = answer
    victim = parties.client(0)
    parties.ledgers[0]._sessions.clear()
    answer = victim.receive(encode(proposed))
    assert isinstance(answer, bytes)
    shown = tuple((index, frames[index] if index else answer) for index in range(4))
    with pytest.raises(RemoteProtocolError, match="the keys of site-2"):
        victim.receive(encode(Directory(proposed.transcript(), shown)))


# ---- replay --------------------------------------------------------------------------------------


class Rerunnable(MaskingClient):
    """Keeps the keys of a round for the next try."""

    def contribute(self, wanted: SumWanted, values: npt.NDArray[np.float64], data_set: str) -> bytes:
        keys, secrets = self._memory.rounds[wanted.round], self._memory.tag_secrets
        frame = super().contribute(wanted, values, data_set)
        self._memory.rounds[wanted.round], self._memory.tag_secrets = keys, secrets
        return frame


def test_replayed_round() -> None:
    """Two vectors under one keystream: the difference of the uploads is the difference of the vectors."""
    parties = world(4)
    attack = Attack(parties.session(parties.propose(), client=Rerunnable))
    session = attack.session
    wanted = session.clients[VICTIM].receive(encode(SumRequest(attack.transcript, 0, (0, 1, 2, 3))))
    assert isinstance(wanted, SumWanted)
    second = np.zeros(5)
    frame = session.clients[VICTIM].contribute(wanted, second, session.data_set)
    uploads = [
        attack.said("collecting", VICTIM),
        decode(memoryview(frame)[:-SIGNATURE_BYTES], messages.FROM_CLIENT),
    ]
    words = np.zeros((2, 5), ring.words_of(session.encodings[0].width))
    for total, upload in zip(words, uploads, strict=True):
        assert isinstance(upload, Upload)
        ring.add_packed(total, upload.payload, session.encodings[0].width)
    assert ring.signed(words[0] - words[1], session.encodings[0].width).tolist() == attack.truth()

    attack = Attack(parties.session(parties.propose(rounds=2)))
    for state in ("uploaded", "consented"):
        assert attack.session.clients[VICTIM].state.value == state
        with pytest.raises(RemoteProtocolError, match=r"rounds \[1\] that are still to come, got 0"):
            attack.session.clients[VICTIM].receive(encode(SumRequest(attack.transcript, 0, (0, 1, 2, 3))))
        if state == "uploaded":
            attack.ask(VICTIM, range(4))


def test_replayed_session() -> None:
    parties = world(4)
    invitation = encode(parties.propose())
    assert parties.client(0).receive(invitation)
    with pytest.raises(PolicyError, match="replay"):
        parties.client(0).receive(invitation)


# ---- keys ----------------------------------------------------------------------------------------


def test_replaced_public_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server passes off keys of its own as the neighbours' and opens what is sealed to them."""
    parties = world(4)

    def shares_for(client: MaskingClient, parameters: Parameters) -> tuple[bytes, dict[int, KeyPair]]:
        answer = client.receive(encode(parameters))
        assert isinstance(answer, bytes)
        fakes = {
            index: KeyPair(parameters.suite, bytes([index]) * 32, Label.CHANNEL_KEY) for index in (1, 2, 3)
        }
        frames = {0: answer}
        for index, pair in fakes.items():
            forged = Advertise(pair.public_key, (pair.public_key,), bytes(32))
            frames[index] = sign_frame(parties.identities[0], bytes(32), bytes(32), index, forged)
        directory = Directory(parameters.transcript(), tuple(sorted(frames.items())))
        answer = client.receive(encode(directory))
        assert isinstance(answer, bytes)
        return answer, fakes

    parameters = parties.propose()
    with monkeypatch.context() as patched:
        patched.setattr(client_module, "verify_frame", lambda data, *_: memoryview(data)[:-SIGNATURE_BYTES])
        client = parties.client(VICTIM)
        frame, fakes = shares_for(client, parameters)
        dealt = decode(memoryview(frame)[:-SIGNATURE_BYTES], messages.FROM_CLIENT)
        assert isinstance(dealt, Shares)
        opened = {}
        for bundle in dealt.bundles:
            info = messages.shares_info(parameters.transcript(), VICTIM, bundle.recipient)
            opened[bundle.recipient + 1] = fakes[bundle.recipient].open(bundle.sealed, info)
        seeds = [
            combine({p: s[at : at + SHARE_BYTES] for p, s in opened.items()}, 3) for at in (0, SHARE_BYTES)
        ]
        assert seeds == [client._memory.rounds[0].mask_seed, client._memory.rounds[0].self_seed]

    with pytest.raises(RemoteProtocolError, match=r"the keys of site-1: .* a wrong signature"):
        shares_for(parties.client(VICTIM), parties.propose())


@pytest.mark.parametrize(("kind", "leaks"), [(OneKeyForAll, True), (MaskingClient, False)])
def test_reconstructed_seeds_open_no_channel(kind: type[MaskingClient], leaks: bool) -> None:
    """A dropped client's seed is public to the server; the shares that others sealed to it must stay shut."""
    parties = world(5)
    session = parties.session(parties.propose(), client=kind)
    attack = Attack(session)
    others = range(1, 5)
    reveals = {}
    for index in others:  # all agree that the victim dropped out
        reveals[index] = attack.ask(index, others)
    signatures = tuple((index, _consent(reveals[index])) for index in others)
    reveals = {index: attack.say(index, Consents(attack.transcript, 0, signatures)) for index in others}
    seed = attack.secret(VICTIM, reveals)
    assert seed == session.clients[VICTIM]._memory.current.mask_seed  # type: ignore[union-attr]
    opened = 0
    for dealer in others:
        dealt = attack.said("sharing", dealer)
        assert isinstance(dealt, Shares)
        bundle = next(one for one in dealt.bundles if one.recipient == VICTIM)
        info = messages.shares_info(attack.transcript, dealer, VICTIM)
        for label in (Label.MASK_KEY, Label.CHANNEL_KEY):
            try:
                plain = KeyPair(session.parameters.suite, seed, label).open(bundle.sealed, info)
            except CryptoError:
                continue
            assert len(plain) == 2 * SHARE_BYTES + KEY_BYTES
            opened += 1
    assert opened == (len(others) if leaks else 0)


def _consent(frame: bytes) -> messages.Vote:
    consent = decode(memoryview(frame)[:-SIGNATURE_BYTES], messages.FROM_CLIENT)
    assert isinstance(consent, messages.Consent)
    return consent.vote


# ---- late uploads --------------------------------------------------------------------------------


def test_late_upload_of_a_declared_dropout_stays_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pairwise masks are known by then: only the self mask hides it."""
    parties = world(5)
    others = range(1, 5)

    def opened_late() -> tuple[list[int], Attack]:
        attack = Attack(parties.session(parties.propose(profile=Profile.SEMI_HONEST)))
        reveals = {index: attack.ask(index, others) for index in others}
        return attack.unmask(VICTIM, attack.secret(VICTIM, reveals), None).tolist(), attack

    with monkeypatch.context() as patched:  # one mask only, as in the first protocol of Bonawitz et al.
        real = add_keystreams
        patched.setattr(
            client_module,
            "add_keystreams",
            lambda v, plus, minus, modulus: real(v, plus=plus[1:], minus=minus),
        )
        seen, attack = opened_late()
        assert seen == attack.truth()

    seen, attack = opened_late()
    assert seen != attack.truth()
    client = attack.session.clients[VICTIM]
    assert client._memory.current is not None
    own = messages.self_mask_key(client._memory.current.self_seed, attack.transcript, 0, VICTIM)
    mask: Any = np.array(seen, dtype=np.int64).astype(ring.words_of(attack.session.encodings[0].width))
    add_keystreams(mask, minus=[own])
    assert (
        ring.signed(mask, attack.session.encodings[0].width).tolist() == attack.truth()
    )  # that, and nothing else
    for index in others:  # and nobody gives a share of it any more
        with pytest.raises(RemoteProtocolError):
            attack.ask(index, range(5))


def test_the_server_takes_no_late_upload() -> None:
    parties = world(5)
    network = FaultyNetwork([Fault("late", "collecting", frozenset({VICTIM}))])
    session = parties.session(parties.propose(), network).set_up()
    result = session.sum()
    assert result.dropouts == (VICTIM,)
    assert session.opened(result).tolist() == session.integer_sum(range(1, 5)).tolist()
    assert any("got Upload" in str(refusal) for refusal in session.cohort.refusals)
    assert not session.server.blame


# ---- differencing --------------------------------------------------------------------------------


def two_sums(parties: World, first: range, second: range, forget: bool) -> tuple[Session, list[list[int]]]:
    """Two sessions of all clients on one data set; whoever is not in the range falls silent."""
    opened = []
    for survivors in (first, second):
        silent = frozenset(range(len(parties.identities))) - frozenset(survivors)
        session = parties.session(parties.propose(), FaultyNetwork([Fault("drop", "collecting", silent)]))
        session.data_set = "2025"
        session.set_up()
        opened.append(session.opened(session.sum()).tolist())
        if forget:
            parties.ledgers = [Ledger() for _ in parties.ledgers]
    return session, opened


def test_differencing_by_one_client_refused() -> None:
    session, (first, second) = two_sums(world(6), range(6), range(1, 6), forget=True)
    difference = [a - b for a, b in zip(first, second, strict=True)]
    assert difference == session.integer_sum([VICTIM]).tolist()

    parties = world(6)
    with pytest.raises(RoundAbortedError, match="0 uploaded"):
        two_sums(parties, range(6), range(1, 6), forget=False)
    with pytest.raises(RoundAbortedError, match="0 uploaded"):
        two_sums(
            world(6), range(6), range(6), forget=False
        )  # nor for the same survivors: data may have changed
    for ledger in parties.ledgers:  # only the owners can decide otherwise, and say what they risk
        with pytest.raises(PolicyError, match="a vector of the data set '2025' left this client in session"):
            ledger.renew("2025")
        ledger.renew("2025", may_expose=True)
    two_sums(parties, range(6), range(1, 6), forget=True)


@pytest.mark.parametrize("careless", [True, False])
def test_a_lied_failure_and_a_renewal_give_one_clients_vector(careless: bool) -> None:
    """A server opens a sum, says that it failed, and leaves one client out of the second one. Owners whose ledger only
    knows that the data set was used renew it, as nothing seems to have come of it.
    """
    parties = world(6)
    opened = []
    for survivors in (range(6), range(1, 6)):
        silent = frozenset(range(6)) - frozenset(survivors)
        session = parties.session(parties.propose(), FaultyNetwork([Fault("drop", "collecting", silent)]))
        session.data_set = "2025"
        session.set_up()
        try:
            opened.append(session.opened(session.sum()).tolist())
        except RoundAbortedError:
            break
        for ledger in parties.ledgers:
            if careless:
                ledger._forget("2025")
                continue
            with pytest.raises(PolicyError, match="whatever it said of it, can leave this client out"):
                ledger.renew("2025")
    if careless:
        difference = [a - b for a, b in zip(*opened, strict=True)]
        assert difference == session.integer_sum([VICTIM]).tolist()
    else:
        assert len(opened) == 1


def test_a_data_set_of_which_nothing_left_is_renewed_without_more() -> None:
    """The vector was masked but not yet encrypted, so it has not left the client."""
    for leaves in (False, True):
        ledger = Ledger()
        ledger.use("rows", b"1" * 32, leaves=leaves)
        assert ledger.used("rows") == (b"1" * 32, leaves)
        ledger.use("rows", b"1" * 32, leaves=False)  # what left has left
        assert ledger.used("rows") == (b"1" * 32, leaves)
        what = "a vector of it left" if leaves else r"no vector of it left: its owner can renew it"
        with pytest.raises(PolicyError, match=what):
            ledger.use("rows", b"2" * 32)
        if leaves:
            with pytest.raises(PolicyError, match="may_expose"):
                ledger.renew("rows")
            assert ledger.used("rows")
        assert ledger.renew("rows", may_expose=leaves) == (b"1" * 32, leaves)
        assert ledger.used("rows") is None
        ledger.use("rows", b"2" * 32)


def test_differencing_across_cohorts_refused() -> None:
    """{0, 1, 2} and {3, 4, 5} and all seven: no pair differs by less than three clients, together they give one."""
    parties = world(7, replace_policy(EVERY_PROFILE, corrupted=0.0, minimum_honest=3))
    for cohort in ((0, 1, 2), (3, 4, 5), tuple(range(7))):
        session = parties.session(parties.propose(cohort=cohort))
        session.data_set = "2025"
        session.set_up()
        if len(cohort) == 3:
            session.sum()
    with pytest.raises(RoundAbortedError, match="1 uploaded"):
        session.sum()


def test_differencing_by_parallel_sessions_refused() -> None:
    """Uploads are pinned before they leave, so two sessions at once gain nothing over one after the other."""
    parties = world(6)
    sessions = [parties.session(parties.propose()).set_up() for _ in range(2)]
    for session in sessions:
        session.data_set = "2025"
        session.cohort.run(lambda s=session: s.server.open_round(0), session.contribute)  # type: ignore[misc]
    assert [len(session.server.waiting_for) for session in sessions] == [0, 6]


def test_one_sum_is_not_planned_twice() -> None:
    """Two rounds of one statistic would differ by who drops out in between."""
    parties = world(4)
    plan = [SumPlan("gram", 5, 1.0), SumPlan("gram", 5, 1.0)]
    with pytest.raises(ValueError, match="'gram' is planned twice"):
        Parameters.propose(
            parties.roster, plan, profile=Profile.ACTIVE, suite=Suite.X25519, degree=3, threshold=3
        )


# ---- lying clients -------------------------------------------------------------------------------


class WrongShare(MaskingClient):
    """Reveals one share of the victim that it was not dealt."""

    def _reveal(self) -> bytes:
        assert self._memory.current is not None
        seed, own = self._memory.current.shares[VICTIM]
        self._memory.current.shares[VICTIM] = (
            seed[:-1] + bytes([seed[-1] ^ 1]),
            own[:-1] + bytes([own[-1] ^ 1]),
        )
        return super()._reveal()


@pytest.mark.parametrize("victim_drops", [False, True])
def test_tampered_share_is_blamed_and_the_rest_still_open_the_sum(victim_drops: bool) -> None:
    parties = world(7)
    silent = frozenset({VICTIM} if victim_drops else ())
    network = FaultyNetwork([Fault("drop", "collecting", silent)])
    session = parties.session(parties.propose(), network, kinds={5: WrongShare}).set_up()
    result = session.sum()
    assert session.opened(result).tolist() == session.integer_sum(result.survivors).tolist()
    assert list(session.server.blame) == [5]
    assert (
        "expected the share that site-0 dealt to it, this one fails its commitment" in session.server.blame[5]
    )
    # The weak design: without commitments the wrong share is silently part of the secret.
    shares = {1: bytes(33), 2: bytes(33)}
    assert combine(shares, 2) != combine({**shares, 1: bytes(32) + b"\1"}, 2)


class WrongDealer(MaskingClient):
    """Commits to shares that do not belong together."""

    def _deal(self, advertised: dict[int, Advertise]) -> Shares:
        keys = self._memory.rounds[0]
        honest = super()._deal(advertised)
        real, keys.self_seed = keys.self_seed, bytes(32)
        other = super()._deal(advertised)
        keys.self_seed = real
        mixed = [b if b.recipient % 2 else a for a, b in zip(honest.bundles, other.bundles, strict=True)]
        return Shares(honest.own_commitments, tuple(mixed))


def test_wrong_dealer_is_blamed_and_nothing_is_released() -> None:
    parties = world(7)
    network = FaultyNetwork([Fault("drop", "unmasking", frozenset({VICTIM}))])
    session = parties.session(parties.propose(rounds=2), network, kinds={4: WrongDealer}).set_up()
    with pytest.raises(RoundAbortedError, match="site-4: dealt shares") as aborted:
        session.sum(0)
    assert list(aborted.value.blame) == ["site-4"]
    result = session.sum(1)  # and it is left out from then on
    assert 4 not in result.survivors
    assert session.opened(result).tolist() == session.integer_sum(result.survivors, 1).tolist()


class SealsGarbage(MaskingClient):
    """Seals to client 1 what is not what it committed to."""

    def _deal(self, advertised: dict[int, Advertise]) -> Shares:
        dealt = super()._deal(advertised)
        bundles = []
        for bundle in dealt.bundles:
            fields = {name: getattr(bundle, name) for name in ("recipient", "pair_secrets", "commitments")}
            if bundle.recipient == 1:
                fields["commitments"] = ((bytes(32),) * len(bundle.commitments[0]),)
            bundles.append(
                Bundle.sign(self._identity, self._transcript, self.index, sealed=bundle.sealed, **fields)
            )
        return Shares(dealt.own_commitments, tuple(bundles))


class Complains(MaskingClient):
    """Says that it cannot open what the victim sealed to it."""

    def _confirm(self, delivery: messages.Delivery) -> bytes:
        super()._confirm(delivery)
        return self._frame(Confirm((VICTIM,)))


class DoesNotSign(MaskingClient):
    """Puts another signature under one bundle."""

    def _deal(self, advertised: dict[int, Advertise]) -> Shares:
        dealt = super()._deal(advertised)
        return Shares(
            dealt.own_commitments,
            tuple(replace(b, signature=bytes(64)) if b.recipient == 1 else b for b in dealt.bundles),
        )


@pytest.mark.parametrize(
    ("kind", "left_out", "blamed"),
    [(SealsGarbage, {1, 6}, set()), (Complains, {VICTIM, 6}, set()), (DoesNotSign, set(), {6})],
)
def test_a_quarrel_costs_both_parties_and_an_unsigned_bundle_its_dealer(
    kind: type[MaskingClient], left_out: set[int], blamed: set[int]
) -> None:
    parties = world(7)
    session = parties.session(parties.propose(), kinds={6: kind}).set_up()
    assert (set(session.server.left_out), set(session.server.blame)) == (left_out, blamed)
    result = session.sum()
    assert set(result.survivors) == set(range(7)) - left_out - blamed
    assert session.opened(result).tolist() == session.integer_sum(result.survivors).tolist()


class ForgedPair(MaskingClient):
    """Deals a pair secret that is not the one its seed gives, then vanishes: its mask could not be removed."""

    def _deal(self, advertised: dict[int, Advertise]) -> Shares:
        dealt, suite, forged = super()._deal(advertised), self._memory.parameters.suite, bytes(32)
        bundles = []
        for bundle in dealt.bundles:
            holder = bundle.recipient
            where = (self._transcript, 0, self.index, holder)
            committed = messages.commitment(*where, messages.PAIR_SECRET, forged)
            sealed = seal(suite, advertised[holder].mask_keys[0], forged, messages.pair_info(*where))
            bundles.append(
                Bundle.sign(
                    self._identity,
                    self._transcript,
                    self.index,
                    recipient=holder,
                    sealed=bundle.sealed,
                    pair_secrets=(sealed,),
                    commitments=((*bundle.commitments[0][:2], committed),),
                )
            )
        return Shares(dealt.own_commitments, tuple(bundles))


def test_a_dropout_with_forged_pair_secrets_is_blamed_and_nothing_is_released() -> None:
    parties = world(5)
    network = FaultyNetwork([Fault("drop", "collecting", frozenset({0}))])
    session = parties.session(parties.propose(), network, kinds={0: ForgedPair}).set_up()
    with pytest.raises(RoundAbortedError, match="site-0: confirmed or dealt a pair secret that does not fit"):
        session.sum()


def test_a_stranger_and_a_member_registered_twice_are_refused() -> None:
    parties = world(4)
    stranger = Identity.generate()
    with pytest.raises(LocalProtocolError, match="is unknown"):
        MaskingClient(stranger, parties.roster, [], Policy(), Ledger())
    first = parties.roster.members[0]
    for twin, what in (
        (Member("twin", first.verify_key), "identity key"),
        (Member("site-0", stranger.verify_key), "name"),
    ):
        with pytest.raises(LocalProtocolError, match=f"{what} .* is registered twice"):
            Roster((*parties.roster.members, twin))
    server = MaskingServer(parties.propose(), parties.roster)
    server.start()
    for sender in (4, -1, 10**9):
        with pytest.raises(RemoteProtocolError, match=f"unknown member {sender}: .*unknown one"):
            server.receive(sender, bytes(100))


# ---- everything else that is not a message ---------------------------------------------------------


def test_the_network_can_silence_a_client_but_not_have_it_blamed() -> None:
    """Whatever is done to the server's messages on their way: no honest party is named at fault."""
    parties = world(5)
    for phase in ("advertising", "sharing", "confirming", "collecting", "consenting", "unmasking"):
        for handling in ("flip", "cut", "lengthen", "drop"):
            fault = Fault(handling, phase, frozenset({VICTIM}), upward=None)
            session = parties.session(parties.propose(), FaultyNetwork([fault], seed=len(phase)))
            try:
                session.set_up()
                result = session.sum()
            except ProtocolError as error:
                raise AssertionError(f"{phase} {handling}: one lost client of five stops nobody") from error
            assert not session.server.blame, (phase, handling)
            assert session.opened(result).tolist() == session.integer_sum(result.survivors).tolist()


def test_a_frame_longer_than_any_honest_one_is_refused_before_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A member that sends megabytes costs the server nothing but their arrival."""
    parties = world(4)
    session = parties.session(parties.propose(length=5)).set_up()
    session.server.open_round(0)
    huge = sign_frame(
        parties.identities[0],
        session.parameters.transcript(),
        bytes(32),
        0,
        Upload(0, memoryview(bytes(10**6)), bytes(17)),
    )
    monkeypatch.setattr(
        "secure_afl.protocol.session.server.opened_frame", lambda *_: pytest.fail("it was hashed")
    )
    with pytest.raises(RemoteProtocolError, match="expected at most 340 bytes in state collecting"):
        session.server.receive(0, huge)
