"""Sums that every client makes again from the uploads: what a server cannot do even with clients that help it. Each attack
succeeds on tags, or where the named check is taken out, and fails on ours."""

from collections.abc import Collection
from dataclasses import replace as replaced
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from worlds.cohorts import EVERY_PROFILE, Session, world

from secure_afl.crypto import ring
from secure_afl.crypto.identity import SIGNATURE_BYTES
from secure_afl.protocol.masking import messages, replay, tags
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.masking.messages import (
    Answer,
    Consent,
    Consents,
    Evidence,
    SurvivorRoots,
    Upload,
    Verdict,
    Vote,
)
from secure_afl.protocol.masking.states import ClientState
from secure_afl.protocol.session.errors import PolicyError, RemoteProtocolError, RoundAbortedError
from secure_afl.protocol.session.parameters import REPLAYED_BYTES, Parameters, Profile, SumWanted
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Verify
from secure_afl.protocol.session.server import Outbox
from secure_afl.protocol.session.wire import (
    DIGEST_BYTES,
    WireError,
    answered,
    decode,
    encode,
    opened_frame,
    rooted_frame,
)

REPLAY = replaced(EVERY_PROFILE, verify=frozenset({Verify.REPLAY}))
N, GONE = 7, 4  # a dropout with survivors below and above it
late: dict[int, bytes] = {}  # uploads of the last session's dropouts


def answered_by(session: Session, outbox: Outbox, silent: Collection[int] = ()) -> dict[int, bytes]:
    """Carry a phase's messages, and the answers of all but the silent; give all answers."""
    given = {}
    for index, data in outbox.items():
        said = session.clients[index].receive(data)
        if isinstance(said, SumWanted):
            said = session.clients[index].contribute(said, *session.contribute(index, said))
        given[index] = said
        if index not in silent:
            session.server.receive(index, said)
    return given


def collected(session: Session, silent: Collection[int] = (), number: int = 0) -> dict[int, bytes]:
    """Up to the uploads, which come back."""
    return answered_by(session, session.server.open_round(number), silent)


def opened(session: Session, silent: Collection[int] = (GONE,), number: int = 0) -> Evidence:
    """Up to the honest server's evidence, which no client has got yet."""
    frames = collected(session, silent, number)
    late.update({index: frames[index] for index in silent})
    answered_by(session, session.server.advance())
    answered_by(session, session.server.advance())
    session.server.result()
    (data,) = set(session.server.advance().values())
    found = decode(data, messages.FROM_SERVER)
    assert isinstance(found, Evidence)
    return found


def told(client: MaskingClient, message: Evidence | Answer) -> bool:
    """Whether the client accepts the sum."""
    frame = client.receive(encode(message))
    assert isinstance(frame, bytes)
    verdict = decode(memoryview(frame)[:-SIGNATURE_BYTES], messages.FROM_CLIENT)
    assert isinstance(verdict, Verdict)
    return bool(verdict.accepted)


def session_of(kind: type[MaskingClient] = MaskingClient, **settings: Any) -> Session:
    parties = world(N, REPLAY)
    return parties.session(parties.propose(**settings), client=kind).set_up()


@settings(max_examples=8)
@given(st.sets(st.integers(0, N - 1), max_size=2), st.integers(1, 40), st.sampled_from([16, 24, 44]))
def test_every_client_makes_the_sum_again(silent: set[int], length: int, bits: int) -> None:
    """Bit for bit, whoever drops out and however wide the words are; so does an auditor with the evidence alone."""
    session = session_of(length=length, fraction_bits=bits)
    evidence = opened(session, silent)
    left = sorted(set(range(N)) - silent)
    expected = session.integer_sum(left)
    for index in left:
        assert told(session.clients[index], evidence)
        assert np.array_equal(session.clients[index].verified[0].units, expected)
    assert len({session.clients[index].verified[0].digest for index in left}) == 1
    words, roots = replay.replayed(session.parameters, session.world.roster, evidence)
    replay.check_consents(session.parameters, session.world.roster, evidence, roots)
    assert np.array_equal(ring.signed(words, session.parameters.rounds[0].width), expected)


def test_a_client_takes_no_more_than_a_replay_may_have() -> None:
    """A policy that allows tags too, and a sum that is too long for a replay: no message of all uploads is read."""
    spec = replace(world(N, REPLAY).propose().rounds[0], length=2**27)
    assert messages.largest_message(N, [spec], replay=True) < 2 * REPLAYED_BYTES


def test_a_message_of_many_small_parts_is_not_taken_apart() -> None:
    """Weak: three bytes an entry become an object each, and the message of a large sum 32 times as much memory."""
    session = session_of(length=2**14)
    client, empty = session.clients[0], Evidence(b"t" * 32, 0, b"d" * 32, (), (), (), (), ())
    data = encode(empty)
    many = (client.largest_message - len(data) - 4) // 3
    evil = data[:-1] + b"\xdd" + many.to_bytes(4, "big") + b"\x92\x00\x90" * many
    with pytest.raises(RemoteProtocolError, match="length <= 4096"):
        client.receive(evil)
    assert data.startswith(messages.EVIDENCE, 1)
    with pytest.raises(RemoteProtocolError, match="expected at most"):
        client.receive(evil[:1] + b"\xa8" + b"somebody" + evil[10:])


# ---- a server that a client helps ----------------------------------------------------------------


def test_a_clients_help_forges_a_tag() -> None:
    """One client gives the server its key of the round's tags: with it, any sum passes with all others."""
    parties = world(N)
    session = parties.session(parties.propose()).set_up()
    collected(session)
    answered_by(session, session.server.advance())
    answered_by(session, session.server.advance())
    session.server.result()
    honest = decode(session.server.advance()[1], messages.FROM_SERVER)
    assert isinstance(honest, Answer)
    key = tags.TagKey(session.clients[0]._memory.tag_key, N)
    spec = session.parameters.rounds[0]
    forged = np.full(spec.length, 12345, ring.words_of(spec.width))
    tag = tags.polynomial(key._r, forged, N * spec.magnitude, spec.word_bytes) + sum(key._pads)
    lie = replace(honest, payload=ring.pack(forged, spec.width), tag=tags.packed(tag))
    assert all(told(session.clients[index], lie) for index in range(1, N))


def signed(session: Session, index: int, upload: Upload) -> tuple[bytes, bytes]:
    """A frame of a client that helps the server, for this round's question, and its root."""
    everybody = tuple(session.parameters.cohort)
    question = answered(encode(messages.SumRequest(session.parameters.transcript(), upload.round, everybody)))
    return rooted_frame(
        session.world.identities[index], session.parameters.transcript(), question, index, upload
    )


def upload_in(evidence: Evidence, index: int) -> Upload:
    return decode(memoryview(dict(evidence.uploads)[index])[:-SIGNATURE_BYTES], messages.UPLOAD)


def with_upload(evidence: Evidence, index: int, frame: bytes) -> Evidence:
    uploads = dict(evidence.uploads) | {index: memoryview(frame)}
    return replace(evidence, uploads=tuple(sorted(uploads.items())))


def more(payload: memoryview) -> memoryview:
    """A vector whose first entry is one unit larger."""
    return memoryview(bytes([(payload[0] + 1) % 256]) + bytes(payload[1:]))


def lies(session: Session, evidence: Evidence) -> dict[str, Evidence]:
    """What a server that client 0 helps may make of the evidence; the dropout gives it its late upload and its self mask."""
    frame, mine = bytes(dict(evidence.uploads)[1]), upload_in(evidence, 0)
    seed = session.clients[GONE]._memory.current
    assert seed is not None
    return {
        "a dropout's late upload, with its help": replace(
            evidence,
            uploads=tuple(sorted((*evidence.uploads, (GONE, memoryview(late[GONE]))))),
            seeds=tuple(sorted((*evidence.seeds, (GONE, seed.self_seed)))),
            secrets=(),
        ),
        "an honest upload altered": with_upload(
            evidence, 1, frame[:40] + bytes([frame[40] ^ 1]) + frame[41:]
        ),
        "the helper's upload changed after consents": with_upload(
            evidence, 0, signed(session, 0, replace(mine, payload=more(mine.payload)))[0]
        ),
        "the helper's upload in place of an honest one": with_upload(
            evidence, 1, bytes(dict(evidence.uploads)[0])
        ),
        "another self mask": replace(
            evidence, seeds=tuple((who, bytes(32) if who == 1 else seed) for who, seed in evidence.seeds)
        ),
        "another pair mask below": replace(
            evidence, secrets=tuple((who, (one[0], bytes(32), *one[2:])) for who, one in evidence.secrets)
        ),
        "another pair mask above": replace(
            evidence, secrets=tuple((who, (*one[:-1], bytes(32))) for who, one in evidence.secrets)
        ),
        "a survivor left out": replace(
            evidence,
            uploads=evidence.uploads[:-1],
            seeds=evidence.seeds[:-1],
            participants=evidence.participants[:-1],
            secrets=tuple((who, one[:-1]) for who, one in evidence.secrets),
        ),
        "a dropout that was no participant": replace(
            evidence, secrets=(), participants=tuple(one for one in evidence.participants if one != GONE)
        ),
        "another directory": replace(evidence, directory=bytes(32)),
        "too few consents": replace(evidence, votes=evidence.votes[:2]),
        "consents to something else": replace(
            evidence,
            votes=tuple((who, replace(one, upload=bytes(32))) for who, one in evidence.votes),
        ),
    }


LIES = (
    "a dropout's late upload, with its help",
    "an honest upload altered",
    "the helper's upload changed after consents",
    "the helper's upload in place of an honest one",
    "another self mask",
    "another pair mask below",
    "another pair mask above",
    "a survivor left out",
    "a dropout that was no participant",
    "another directory",
    "too few consents",
    "consents to something else",
)


@pytest.mark.parametrize("name", LIES)
def test_a_server_that_a_client_helps(name: str) -> None:
    """Whatever it makes of the evidence, no client takes another sum; and whoever refuses one is done with the session."""
    session = session_of()
    made = lies(session, opened(session))
    assert tuple(made) == LIES
    for index in (1, N - 1):
        client = session.clients[index]
        assert not told(client, made[name])
        assert client.state is ClientState.REJECTED
        assert not client.verified


def test_the_sum_of_another_round() -> None:
    session = session_of(rounds=2)
    before = opened(session, (), 0)
    for index in range(N):
        verdict = session.clients[index].receive(encode(before))
        assert isinstance(verdict, bytes)
        session.server.receive(index, verdict)
    session.server.advance()
    opened(session, (), 1)
    assert not told(session.clients[1], replace(before, round=1))
    with pytest.raises(RemoteProtocolError, match="round 1, got one of round 0"):
        session.clients[2].receive(encode(before))


@pytest.mark.parametrize("weak", [True, False])
def test_masks_that_nobody_committed_to(weak: bool) -> None:
    """A server searches seeds for the sum that it wants: short vectors give in to that, if masks are not committed to."""
    session = session_of(length=1)
    evidence = opened(session)
    false = lies(session, evidence)["another self mask"]
    with pytest.MonkeyPatch.context() as patched:
        if weak:
            patched.setattr(replay, "_check_opened", lambda *known: None)
            # A bound that lets every sum through stands for the search.
            patched.setattr(ring, "signed", lambda total, width: np.zeros(1, np.int64))
        assert told(session.clients[1], false) == weak
    if weak:
        assert session.clients[1].verified[0].units != session.integer_sum(evidence.survivors)


class NamesEvidence(MaskingClient):
    """A design that calls a sum by the message with its evidence."""

    def _verdict(self, payload: memoryview | None, answer: bytes = b"") -> bytes:
        return super()._verdict(payload, self._answers)


@pytest.mark.parametrize("kind", [NamesEvidence, MaskingClient])
def test_consents_left_out_or_added_make_no_other_sum(kind: type[MaskingClient]) -> None:
    """A server gives clients more or fewer consents than it gave others, also such as do not verify: they seem to have accepted
    different sums, and consent to nothing together any more. The sum is the same, so its digest is.
    """
    session = session_of(kind, rounds=2)
    evidence = opened(session)
    spoiled = replace(evidence.votes[0][1], signature=bytes(64))
    given = {
        0: evidence,
        1: replace(evidence, votes=evidence.votes[1:]),
        2: replace(evidence, votes=tuple(sorted((*evidence.votes, (GONE, spoiled))))),
        3: replace(evidence, votes=((0, spoiled), *evidence.votes[1:])),
    }
    assert all(told(session.clients[index], one) for index, one in given.items())
    named = {session.clients[index].verified[0].digest for index in given}
    assert len(named) == (1 if kind is MaskingClient else 4)


class TakesAnyRoots(MaskingClient):
    """A design whose consents do not cover the uploads: it takes those that its evidence has."""

    def _consent_parts(self) -> tuple[bytes, ...]:
        return super()._consent_parts()[:5]

    def _replay(self, evidence: Evidence) -> bytes:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(replay, "check_consents", lambda *known: None)
            _, roots = replay.replayed(self._memory.parameters, self._roster, evidence)
            self._memory.roots = tuple(roots)
            return super()._replay(evidence)


@pytest.mark.parametrize("kind", [TakesAnyRoots, MaskingClient])
def test_a_client_with_two_uploads_gives_two_clients_two_sums(kind: type[MaskingClient]) -> None:
    """Client 0 signs two uploads and consents to both; the server shows clients 5 and 6 the second one. No client but 0 consents
    twice, so one of the two views has too few consents."""
    session = session_of(kind)
    seeds = tuple((index, one._memory.rounds[0].self_seed) for index, one in session.clients.items())
    collected(session)
    (data,) = set(session.server.advance().values())
    first = decode(data, messages.FROM_SERVER)
    assert isinstance(first, SurvivorRoots)
    frame = session.server._round.frames[0]
    mine = decode(memoryview(frame)[:-SIGNATURE_BYTES], messages.UPLOAD)
    other, root = signed(session, 0, replace(mine, payload=more(mine.payload)))
    second = replace(first, roots=((0, root), *first.roots[1:]))
    views = {index: second if index > 4 else first for index in range(N)}
    said = {index: session.clients[index].receive(encode(view)) for index, view in views.items() if index}
    votes = {index: consented(frame) for index, frame in said.items()}
    for index, view in views.items():
        if index == 0:
            continue
        parts = (*session.clients[1]._consent_parts()[:5], b"".join(one for _, one in view.roots))
        parts = parts if kind is MaskingClient else parts[:5]
        helped = Vote.sign(session.world.identities[0], parts, upload=view.roots[0][1], accepted=b"", log=b"")
        given = tuple(sorted({**votes, 0: helped}.items()))
        message = encode(Consents(first.transcript, 0, given))
        if index > 4 and kind is MaskingClient:
            with pytest.raises(RemoteProtocolError, match="expected at least 5 consents to the survivor set"):
                session.clients[index].receive(message)
        else:
            assert isinstance(session.clients[index].receive(message), bytes)
    if kind is MaskingClient:
        return
    directory, everybody = session.clients[1]._memory.directory, tuple(range(N))
    made = Evidence(first.transcript, 0, directory, everybody, (), uploads(session, frame), seeds, ())
    assert told(session.clients[1], made)
    assert told(session.clients[6], replace(made, uploads=uploads(session, other)))
    one, two = (session.clients[index].verified[0].units for index in (1, 6))
    assert not np.array_equal(one, two)


def consented(frame: bytes | SumWanted) -> Vote:
    assert isinstance(frame, bytes)
    consent = decode(memoryview(frame)[:-SIGNATURE_BYTES], messages.FROM_CLIENT)
    assert isinstance(consent, Consent)
    return consent.vote


def uploads(session: Session, of_helper: bytes) -> tuple[tuple[int, memoryview], ...]:
    frames = {**session.server._round.frames, 0: of_helper}
    return tuple((index, memoryview(frame)) for index, frame in sorted(frames.items()))


# ---- what is refused -----------------------------------------------------------------------------


class CommitsToOther(MaskingClient):
    """Its upload commits to other masks than it used, so that all clients would refuse the sum."""

    def _proof(self, *known: Any) -> bytes:
        return super()._proof(*known)[:-1] + b"!"


def test_a_client_that_commits_to_other_masks_is_blamed() -> None:
    parties = world(N, REPLAY)
    session = parties.session(parties.propose(), kinds={3: CommitsToOther}).set_up()
    result = session.sum()
    assert result.survivors == (0, 1, 2, 4, 5, 6)
    assert "expected commitments to the masks that were dealt" in session.server.blame[3]
    assert all(session.clients[index].verified for index in result.survivors)


def test_survivor_roots_without_ones_own() -> None:
    session = session_of()
    collected(session)
    (data,) = set(session.server.advance().values())
    honest = decode(data, messages.FROM_SERVER)
    assert isinstance(honest, SurvivorRoots)
    roots = tuple((who, bytes(DIGEST_BYTES) if who == 2 else root) for who, root in honest.roots)
    with pytest.raises(RemoteProtocolError, match="expected the root of the upload that site-2 sent"):
        session.clients[2].receive(encode(replace(honest, roots=roots)))
    with pytest.raises(RemoteProtocolError, match="in state uploaded expected SumRequest or SurvivorRoots"):
        session.clients[2].receive(encode(messages.Survivors(honest.transcript, 0, tuple(range(N)))))
    assert isinstance(session.clients[2].receive(data), bytes)


class Refuses(MaskingClient):
    """Says that it could not make the sum again."""

    def _replay(self, evidence: Evidence) -> bytes:
        return self._verdict(None)


def test_refusals_end_the_session() -> None:
    session = session_of(Refuses)
    with pytest.raises(
        RoundAbortedError, match="7 of 7 clients refuse the opened sum, which they could not make"
    ):
        session.sum()


@pytest.mark.parametrize(
    ("allowed", "proposed", "accepted"),
    [
        ({Verify.REPLAY}, Verify.TAGS, False),
        ({Verify.TAGS}, Verify.REPLAY, False),
        ({Verify.REPLAY}, Verify.NONE, False),
        ({Verify.REPLAY, Verify.TAGS}, Verify.REPLAY, True),
        ({Verify.REPLAY, Verify.TAGS}, Verify.TAGS, True),
    ],
)
def test_a_policy_says_which_check(allowed: set[Verify], proposed: Verify, accepted: bool) -> None:
    parties = world(N, REPLAY)
    parameters = replace(parties.propose(), verify=proposed)
    policy = replaced(REPLAY, verify=frozenset(allowed))
    if accepted:
        policy.check(parameters, N)
        return
    with pytest.raises(PolicyError, match="policy asks for verify .*, the server proposed " + proposed.value):
        policy.check(parameters, N)


def test_which_check_our_server_proposes() -> None:
    both = Policy(verify=frozenset(Verify))
    assert both.proposed_verify(Profile.ACTIVE) is Verify.REPLAY
    assert both.proposed_verify(Profile.ACTIVE, encrypted=True) is Verify.TAGS
    assert both.proposed_verify(Profile.SEMI_HONEST) is Verify.NONE
    with pytest.raises(PolicyError, match="that travel encrypted cannot be replayed"):
        REPLAY.proposed_verify(Profile.ACTIVE, encrypted=True)


def test_what_cannot_be_replayed_is_refused_at_once() -> None:
    parameters: Parameters = world(N, REPLAY).propose()
    (spec,) = parameters.rounds
    longest = REPLAYED_BYTES // (N * spec.width)
    replace(parameters, rounds=(replace(spec, length=longest),))
    with pytest.raises(
        WireError, match="clients can replay masked sums whose uploads have at most 536,870,912 bytes"
    ):
        replace(parameters, rounds=(replace(spec, length=longest + 1),))
    with pytest.raises(WireError, match="and no encrypted ones"):
        replace(parameters, rounds=(replace(spec, modulus=2**40),))
    with pytest.raises(WireError, match="under the active profile only"):
        replace(parameters, profile=Profile.SEMI_HONEST)


def test_evidence_is_of_one_roster_and_session() -> None:
    session = session_of()
    evidence, other = opened(session), world(N, REPLAY)
    with pytest.raises(WireError, match="expected evidence of a round of this session"):
        replay.replayed(other.propose(), other.roster, evidence)
    with pytest.raises(WireError, match="expected evidence of a round of this session"):
        replay.replayed(session.parameters, other.roster, evidence)
    frame = dict(evidence.uploads)[0]
    with pytest.raises(WireError, match="wrong signature"):
        opened_frame(frame, session.world.identities[1].verify_key, evidence.transcript, bytes(32), 0)
