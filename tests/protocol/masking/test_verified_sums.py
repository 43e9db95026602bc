"""A server that hands out another sum than the one it opened, and clients that spoil a check. Each attack succeeds where
the defence is taken out, and fails on ours."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from worlds.cohorts import EVERY_PROFILE, OneKeyForAll, Session, World, link, world
from worlds.encrypted import KeyWorld

from secure_afl.crypto import ring
from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.hpke import KeyPair, Suite
from secure_afl.crypto.hpke import seal as sealing
from secure_afl.crypto.identity import SIGNATURE_BYTES
from secure_afl.crypto.kdf import KEY_BYTES, Label
from secure_afl.protocol.masking import client as client_module
from secure_afl.protocol.masking import messages, tags
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.masking.messages import (
    Advertise,
    Answer,
    Bundle,
    Shares,
    SumRequest,
    Survivors,
    Verdict,
)
from secure_afl.protocol.masking.server import MaskingServer
from secure_afl.protocol.masking.states import ClientState, ServerState
from secure_afl.protocol.session.errors import RemoteProtocolError, RoundAbortedError
from secure_afl.protocol.session.parameters import Profile, SumWanted
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Verify
from secure_afl.protocol.session.server import OpenedSum, Outbox
from secure_afl.protocol.session.wire import decode, encode, sign_frame
from secure_afl.testing.faults import Fault, FaultyNetwork

N = 4
Lie = Callable[["Session", int, Answer], Answer]


class Believes(MaskingClient):
    """Takes every sum that the server gives it."""

    def _judge(self, answer: Answer) -> bytes:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(tags.TagKey, "fits", lambda *known: True)
            return super()._judge(answer)


def opened(session: Session, number: int = 0) -> tuple[OpenedSum, Outbox]:
    """Up to the honest server's answers, which nobody has got yet."""
    cohort, server = session.cohort, session.server
    cohort.collect(number, session.contribute)
    while server.state is not ServerState.UNMASKING:
        cohort.run(server.advance, session.contribute)
    return server.result(), server.advance()


def verdicts(session: Session, answers: Outbox, lie: Lie) -> dict[int, bytes]:
    """What each client says to the answer that the liar makes of the honest one; empty is a refusal."""
    said = {}
    for index, data in answers.items():
        honest = decode(data, messages.FROM_SERVER)
        assert isinstance(honest, Answer)
        frame = session.clients[index].receive(encode(lie(session, index, honest)))
        assert isinstance(frame, bytes)
        verdict = decode(memoryview(frame)[:-SIGNATURE_BYTES], messages.FROM_CLIENT)
        assert isinstance(verdict, Verdict)
        said[index] = verdict.accepted
    return said


def units(session: Session, answer: Answer) -> Any:
    spec = session.parameters.rounds[answer.round]
    words = np.zeros(spec.length, ring.words_of(spec.width))
    ring.add_packed(words, answer.payload, spec.width)
    return ring.signed(words, spec.width)


def with_units(session: Session, answer: Answer, values: Any) -> Answer:
    width = session.parameters.rounds[answer.round].width
    return replace(answer, payload=ring.pack(values.astype(np.int64).view(np.uint64), width))


def altered(session: Session, index: int, answer: Answer) -> Answer:
    values = units(session, answer)
    values[2] += 1
    return with_units(session, answer, values)


def wrapped(session: Session, index: int, answer: Answer) -> Answer:
    """An entry that is as many moduli off as its bytes hold: the largest that they hold."""
    values, spec = units(session, answer), session.parameters.rounds[answer.round]
    values[0] = 2 ** (8 * spec.width - 1) - 1
    return with_units(session, answer, values)


def scaled(session: Session, index: int, answer: Answer) -> Answer:
    tag = tags.packed(2 * int.from_bytes(answer.tag, "little"))
    return replace(with_units(session, answer, 2 * units(session, answer)), tag=tag)


def negated(session: Session, index: int, answer: Answer) -> Answer:
    tag = tags.packed(-int.from_bytes(answer.tag, "little"))
    return replace(with_units(session, answer, -units(session, answer)), tag=tag)


def another_tag(session: Session, index: int, answer: Answer) -> Answer:
    return replace(answer, tag=tags.packed(int.from_bytes(answer.tag, "little") + 1))


def no_tag(session: Session, index: int, answer: Answer) -> Answer:
    return replace(answer, tag=bytes(17))


LIES: dict[str, Lie] = {
    "one entry": altered,
    "the modulus": wrapped,
    "scaled": scaled,
    "negated": negated,
    "another tag": another_tag,
    "no tag": no_tag,
}


@pytest.mark.parametrize("name", LIES)
def test_a_server_that_hands_out_another_sum(name: str) -> None:
    """Whatever the server does to sum and tag: trusting clients take it, ours refuse it and end the session."""
    for kind in (Believes, MaskingClient):
        parties = world(N)
        session = parties.session(parties.propose(rounds=2), client=kind).set_up()
        _, answers = opened(session)
        said = verdicts(session, answers, LIES[name])
        assert all(said.values()) is (kind is Believes)
        assert any(said.values()) is (kind is Believes)
        for client in session.clients.values():
            wrong = [
                one.units.tolist() != session.integer_sum(range(N)).tolist()
                for one in client.verified.values()
            ]
            assert wrong == ([name not in ("another tag", "no tag")] if kind is Believes else [])
            if kind is MaskingClient:
                assert client.state is ClientState.REJECTED
                memory = client._memory
                assert not any((memory.rounds, memory.current, memory.tag_key, memory.tag_secrets))
                request = SumRequest(session.parameters.transcript(), 1, tuple(range(N)))
                with pytest.raises(RemoteProtocolError, match="in state rejected expected "):
                    client.receive(encode(request))


def test_a_sum_of_an_earlier_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Served again as the next round's, it fits where rounds share a key."""
    real = tags.round_key
    for weak in (True, False):
        with monkeypatch.context() as patched:
            if weak:
                patched.setattr(tags, "round_key", lambda s, t, d, number, p: real(s, t, d, 0, p))
            parties = world(N)
            session = parties.session(parties.propose(rounds=2)).set_up()
            _, answers = opened(session)
            old = {index: decode(data, messages.FROM_SERVER) for index, data in answers.items()}
            honest = verdicts(session, answers, lambda session, index, answer: answer)
            assert all(honest.values())
            for index in session.clients:  # they said so to the server
                session.server._answered[0].verdicts[index] = True
            session.server.waiting_for = frozenset()
            session.server.advance()
            _, answers = opened(session, 1)

            def again(session: Session, index: int, answer: Answer, old: Mapping[int, Any] = old) -> Answer:
                served: Answer = replace(old[index], round=1)
                return served

            assert set(map(bool, verdicts(session, answers, again).values())) == {weak}


@pytest.mark.parametrize("kind", [Believes, MaskingClient])
def test_a_server_that_changes_the_survivors(kind: type[MaskingClient]) -> None:
    """All clients agree on four survivors, and the server gives them a sum without the last one's upload."""
    parties = world(N)
    session = parties.session(parties.propose(), client=kind).set_up()
    cohort, server = session.cohort, session.server
    cohort.collect(0, session.contribute)
    lost = session.clients[3]
    own = session.encodings[0].encode(session.vectors[3, 0])
    while server.state is not ServerState.UNMASKING:
        cohort.run(server.advance, session.contribute)
    server._round.total -= own.astype(server._round.total.dtype)
    server.result()
    said = verdicts(session, server.advance(), lambda session, index, answer: answer)
    assert set(map(bool, said.values())) == {kind is Believes}
    wrong = session.integer_sum(range(3)).tolist()
    assert [one.units.tolist() for one in lost.verified.values()] == ([wrong] if kind is Believes else [])


def consenting(session: Session, number: int) -> set[int]:
    """Which clients go on to the opening of another sum, given the consents of all."""
    transcript, revealed = session.parameters.transcript(), set[int]()
    votes = []
    for index, client in session.clients.items():
        wanted = client.receive(encode(SumRequest(transcript, number, tuple(range(N)))))
        assert isinstance(wanted, SumWanted)
        client.contribute(wanted, *session.contribute(index, wanted))
        frame = client.receive(encode(Survivors(transcript, number, tuple(range(N)))))
        assert isinstance(frame, bytes)
        consent = decode(memoryview(frame)[:-SIGNATURE_BYTES], messages.FROM_CLIENT)
        assert isinstance(consent, messages.Consent)
        votes.append((index, consent.vote))
    shown = encode(messages.Consents(transcript, number, tuple(votes)))
    for index, client in session.clients.items():
        with suppress(RemoteProtocolError):  # "… or another sum before …"
            client.receive(shown)
            revealed.add(index)
    return revealed


@pytest.mark.parametrize("last_only", [True, False])
def test_clients_that_took_different_sums_before_the_last_one(
    last_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They accepted different sums, and later the same one. If consents signed only the last sum, nobody would notice."""

    def split(session: Session, index: int, answer: Answer) -> Answer:
        return altered(session, index, answer) if index >= 2 else answer

    parties = world(N)
    session = parties.session(parties.propose(rounds=3), client=Believes).set_up()
    verdicts(session, opened(session)[1], split)
    for client in session.clients.values():
        client._memory.accepted[1] = session.clients[0]._memory.accepted[0]
    if last_only:
        real = messages.accepted_sums

        def of_last(opened: Mapping[int, bytes], client: int) -> bytes:
            last = max(opened)
            return real({last: opened[last]}, client)

        monkeypatch.setattr(messages, "accepted_sums", of_last)
    assert consenting(session, 2) == (set(range(N)) if last_only else set())


@given(
    st.dictionaries(st.integers(0, 40), st.binary(min_size=32, max_size=32), max_size=6), st.integers(0, 9)
)
def test_accepted_sums_name_their_rounds(opened: dict[int, bytes], client: int) -> None:
    said = messages.accepted_sums(opened, client)
    assert (messages.accepted_rounds(said) if said else []) == sorted(opened)
    for number in opened:
        other = {**opened, number: bytes(31) + b"x"}
        assert opened == other or messages.accepted_sums(other, client) != said


def test_two_clients_get_different_sums() -> None:
    """One of the two is wrong, and refused. Clients that took both find out before they give anything for another sum."""

    def split(session: Session, index: int, answer: Answer) -> Answer:
        return altered(session, index, answer) if index >= 2 else answer

    parties = world(N)
    session = parties.session(parties.propose(rounds=2)).set_up()
    said = verdicts(session, opened(session)[1], split)
    assert [bool(said[index]) for index in range(N)] == [True, True, False, False]

    class Forgets(Believes):
        def _contradicts(self, sender: int, accepted: bytes) -> bool:
            return False

    for kind in (Forgets, Believes):
        parties = world(N)
        session = parties.session(parties.propose(rounds=2), client=kind).set_up()
        said = verdicts(session, opened(session)[1], split)
        sums = {client.verified[0].digest for client in session.clients.values()}
        assert len(sums) == 2
        revealed = consenting(session, 1)
        assert revealed == (set(range(N)) if kind is Forgets else set())


@pytest.mark.parametrize("kind", [OneKeyForAll, MaskingClient])
def test_dropped_clients_opened_seeds_give_no_tag_key(kind: type[MaskingClient]) -> None:
    """The server opens the mask seeds of two dropouts. If those opened what was sealed to them, it would have every secret of
    the round's key, and could make a tag for any sum."""
    parties, gone = world(7), (5, 6)
    network = FaultyNetwork([Fault("drop", "collecting", frozenset(gone))])
    session = parties.session(parties.propose(), network, client=kind)
    dealt: dict[tuple[int, int], Bundle] = {}
    real = MaskingServer._take

    def watching(self: MaskingServer, sender: int, message: Any, data: bytes, root: bytes) -> None:
        if isinstance(message, Shares):
            dealt.update({(sender, one.recipient): one for one in message.bundles})
        real(self, sender, message, data, root)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MaskingServer, "_take", watching)
        session.set_up()
    seeds = {index: session.clients[index]._memory.rounds[0].mask_seed for index in gone}
    _, answers = opened(session)
    transcript, suite = session.parameters.transcript(), session.parameters.suite
    secrets = {}
    for (dealer, holder), bundle in dealt.items():
        info = messages.shares_info(transcript, dealer, holder)
        for label in (Label.MASK_KEY, Label.CHANNEL_KEY) if holder in gone else ():
            try:
                secrets[dealer] = KeyPair(suite, seeds[holder], label).open(bundle.sealed, info)[-KEY_BYTES:]
            except CryptoError:
                continue
    assert sorted(secrets) == (list(range(7)) if kind is OneKeyForAll else [])
    if kind is MaskingClient:
        return
    listed = [secrets[index] for index in range(7)]
    key = tags.TagKey(tags.round_key(listed, transcript, session.server._directory, 0, range(7)), 7)
    spec = session.parameters.rounds[0]

    def forged(session: Session, index: int, answer: Answer) -> Answer:
        false = altered(session, index, answer)
        words = units(session, false).view(np.uint64)
        tag = tags.polynomial(key._r, words, 5 * spec.magnitude, spec.word_bytes) + sum(key._pads[:5])
        return replace(false, tag=tags.packed(tag))

    assert all(verdicts(session, answers, forged).values())


# ---- clients that spoil the check ----------------------------------------------------------------


class DealsUnequally(MaskingClient):
    """Deals client 0 another secret for tags than the rest."""

    def _deal(self, advertised: dict[int, Advertise]) -> Shares:
        real, info = sealing, messages.shares_info(self._transcript, self.index, 0)

        def seal(suite: Suite, key: bytes, plain: bytes, about: bytes) -> bytes:
            return real(suite, key, plain[:-KEY_BYTES] + bytes(KEY_BYTES) if about == info else plain, about)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(client_module, "seal", seal)
            return super()._deal(advertised)


class TakesAnySecret(MaskingClient):
    """Does not compare what is dealt to it with what all clients saw a commitment to."""

    def _accept(self, dealer: int, bundle: Bundle) -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(tags, "commitment", lambda *known: self._memory.tag_commitments[dealer])
            super()._accept(dealer, bundle)


@pytest.mark.parametrize("kind", [TakesAnySecret, MaskingClient])
def test_an_unequal_dealer(kind: type[MaskingClient]) -> None:
    """Two clients with two keys would refuse every sum, and nobody could tell by whose doing."""
    parties = world(7)
    session = parties.session(parties.propose(), kinds={2: DealsUnequally}, client=kind).set_up()
    if kind is TakesAnySecret:
        with pytest.raises(RoundAbortedError, match="7 of 7 clients refuse the opened sum"):
            session.sum()
        assert not session.server.blame
        return
    assert session.server.left_out.keys() == {0, 2}
    assert session.sum().survivors == (1, 3, 4, 5, 6)
    assert all(session.clients[index].verified for index in (1, 3, 4, 5, 6))


class TagsAnother(MaskingClient):
    """Its tag is not of the vector that it uploads."""

    def _tagged(self, units: Any, *known: Any) -> bytes:
        return super()._tagged(units + np.uint64(1), *known)


def test_a_wrong_tag_ends_the_session_and_nothing_is_learned() -> None:
    parties = world(5)
    session = parties.session(parties.propose(rounds=2), kinds={3: TagsAnother}).set_up()
    with pytest.raises(
        RoundAbortedError, match="5 of 5 clients refuse the opened sum, which does not fit its tag"
    ):
        session.sum()
    assert session.server.state is ServerState.ABORTED
    assert not session.server.blame  # nobody can tell whose
    for client in session.clients.values():
        assert client.state is ClientState.REJECTED
        assert not client.verified
    # Believing clients would have taken it for a sum of theirs.
    session = parties.session(parties.propose(), kinds={3: TagsAnother}, client=Believes).set_up()
    session.sum()
    assert sum(bool(client.verified) for client in session.clients.values()) == 4


def test_a_client_that_refuses_for_no_reason_stops_nobody() -> None:
    class Refuses(MaskingClient):
        def _judge(self, answer: Answer) -> bytes:
            return super()._judge(replace(answer, tag=bytes(17)))

    parties = world(5)
    session = parties.session(parties.propose(), kinds={3: Refuses}).set_up()
    result = session.sum()
    assert session.opened(result).tolist() == session.integer_sum(range(5)).tolist()
    assert session.server._answered[0].verdicts == {0: True, 1: True, 2: True, 3: False, 4: True}


# ---- what is accepted ----------------------------------------------------------------------------


@pytest.mark.parametrize("silent", [(), (1,)])
def test_every_survivor_has_the_sum(silent: tuple[int, ...]) -> None:
    parties = world(5)
    session = parties.session(parties.propose(rounds=2)).set_up()
    link(session.cohort)._network = FaultyNetwork([Fault("drop", "collecting", frozenset(silent))])
    alive = [index for index in range(5) if index not in silent]
    for number in range(2):
        result = session.sum(number)
        expected = session.integer_sum(alive, number)
        assert session.opened(result).tolist() == expected.tolist()
        digests = set()
        for index in alive:
            one = session.clients[index].verified[number]
            assert one.units.tolist() == expected.tolist()
            assert one.survivors == tuple(alive)
            encoding = session.encodings[number]
            assert one.total.tolist() == encoding.decode_sum(result.values, len(alive)).tolist()
            digests.add(one.digest)
        assert len(digests) == 1
        link(session.cohort)._network = FaultyNetwork([Fault("drop", "collecting", frozenset(silent))])
    assert not any(session.clients[index].verified for index in silent)
    # A vector may follow from them: they come with the next request.
    wanted = session.clients[0].wanted
    assert sorted(wanted.verified or ()) == [0, 1]


def test_masked_and_encrypted_sums_are_checked_over_the_contributors() -> None:
    here = KeyWorld(4, "bfv+mask")
    session = here.session(FaultyNetwork([Fault("drop", "collecting", frozenset({3}))])).set_up()
    survivors, total = session.sum(0)
    assert survivors == (0, 1, 2)
    assert session.masks is not None
    for index in (0, 1, 2):
        one = session.masks.clients[index].verified[0]
        assert one.survivors == (0, 1, 2)
        assert one.units.tolist() == total.tolist()


def test_there_is_one_answer_a_round() -> None:
    parties = world(N)
    session = parties.session(parties.propose()).set_up()
    _, answers = opened(session)
    assert all(verdicts(session, answers, lambda session, index, answer: answer).values())
    for index, client in session.clients.items():
        assert client._memory.tag_key == b""
        with pytest.raises(RemoteProtocolError, match="in state ready expected SumRequest, got Answer"):
            client.receive(answers[index])


def test_a_sum_that_never_comes_keeps_no_client_from_the_next() -> None:
    parties = world(N)
    session = parties.session(parties.propose(rounds=2)).set_up()
    link(session.cohort)._network = FaultyNetwork([Fault("drop", "answering", frozenset({1}), upward=False)])
    session.sum(0)
    assert sorted(index for index, one in session.clients.items() if not one.verified) == [1]
    link(session.cohort)._network = FaultyNetwork([])
    session.sum(1)
    assert [sorted(one.verified) for one in session.clients.values()] == [[0, 1], [1], [0, 1], [0, 1]]
    assert not session.cohort.refusals


def test_clients_that_may_not_see_sums_get_none() -> None:
    policy = Policy(
        profiles=EVERY_PROFILE.profiles, suites=EVERY_PROFILE.suites, verify=frozenset({Verify.NONE})
    )
    parties: World = world(N, policy)
    session = parties.session(parties.propose()).set_up()
    assert session.parameters.verify is Verify.NONE
    result = session.sum()
    assert session.opened(result).tolist() == session.integer_sum(range(N)).tolist()
    assert not any(client.verified for client in session.clients.values())
    with pytest.raises(RemoteProtocolError, match="in state ready expected SumRequest, got Answer"):
        session.clients[0].receive(
            encode(Answer(session.parameters.transcript(), 0, memoryview(b""), bytes(17)))
        )


def test_what_a_client_says_of_its_own_upload_is_checked() -> None:
    """Consents hold the roots of uploads, so that whoever has the uploads can add them up again."""
    parties = world(N)
    session = parties.session(parties.propose()).set_up()
    server, cohort = session.server, session.cohort
    cohort.collect(0, session.contribute)
    roots = dict(server._round.roots)
    assert roots == {index: client._memory.upload for index, client in session.clients.items()}
    pending = server.advance()
    frame = session.clients[1].receive(pending[1])
    assert isinstance(frame, bytes)
    consent = decode(memoryview(frame)[:-SIGNATURE_BYTES], messages.FROM_CLIENT)
    assert isinstance(consent, messages.Consent)
    client = session.clients[1]
    for fields in ({"upload": roots[0]}, {"accepted": bytes(32) + b"\1"}):
        said = {"upload": roots[1], "accepted": b"", "log": b"", **fields}
        wrong = messages.Vote.sign(parties.identities[1], client._consent_parts(), **said)
        message = messages.Consent(0, wrong)
        data = sign_frame(parties.identities[1], client.transcript, server._questions[1], 1, message)
        with pytest.raises(RemoteProtocolError, match=r"expected the (root|digest)"):
            server.receive(1, data)
        assert server.blame.pop(1)
        server.waiting_for |= {1}
    server.receive(1, frame)


def test_semi_honest_sessions_check_nothing() -> None:
    parties = world(N)
    session = parties.session(parties.propose(profile=Profile.SEMI_HONEST)).set_up()
    session.sum()
    assert session.server.state is ServerState.READY
    assert not any(client.verified or client._memory.tag_secrets for client in session.clients.values())
