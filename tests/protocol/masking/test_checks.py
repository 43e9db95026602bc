"""Every check of both state machines, one wrong field at a time in an otherwise honest message."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from msgspec.structs import replace
from worlds.cohorts import BOUND, EVERY_PROFILE, Session, Tap, World, link, world
from worlds.encrypted import KeyWorld

from secure_afl.crypto import shamir
from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.identity import SIGNATURE_BYTES
from secure_afl.protocol.homomorphic.server import HomomorphicServer
from secure_afl.protocol.masking import messages
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.masking.messages import (
    Advertise,
    Bundle,
    Confirm,
    Consents,
    Delivery,
    Directory,
    Reveal,
    Shares,
    SumRequest,
    Upload,
)
from secure_afl.protocol.masking.server import MaskingServer
from secure_afl.protocol.session import graph
from secure_afl.protocol.session.errors import (
    LocalProtocolError,
    PolicyError,
    RemoteProtocolError,
    RoundAbortedError,
)
from secure_afl.protocol.session.parameters import Profile, SumPlan, SumWanted
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Trust, Verify
from secure_afl.protocol.session.roster import Roster
from secure_afl.protocol.session.server import Outbox
from secure_afl.protocol.session.wire import Message, WireError, decode, encode, sign_frame
from secure_afl.testing.faults import Fault, FaultyNetwork

HERE = 1  # the client that is lied to


class Stage:
    """A session stopped before its pending messages are delivered; a roster of 6, a cohort of 5."""

    def __init__(self, steps: int, profile: Profile = Profile.ACTIVE) -> None:
        self.world = world(6)
        self.world.policy = Policy(
            profiles=EVERY_PROFILE.profiles, suites=EVERY_PROFILE.suites, corrupted=0.0, dropout=0.0
        )
        self.tap = Tap()
        parameters = self.world.propose(cohort=(0, 1, 2, 3, 4), rounds=3, profile=profile)
        self.session = self.world.session(parameters, self.tap)
        server, cohort = self.session.server, self.session.cohort
        actions: list[Callable[[], Outbox]] = [server.start, server.advance, server.advance]
        actions += [server.advance, lambda: server.open_round(0), server.advance, server.advance]
        actions += [self.opens, server.advance]
        for action in actions[:steps]:
            cohort.run(action, self.session.contribute)
        self.pending = actions[steps]()
        self.client = self.session.clients[HERE]
        self.transcript = parameters.transcript()

    def opens(self) -> Outbox:
        self.session.server.result()
        return {}

    def honest(self) -> messages.FromServer:
        return decode(self.pending[HERE], messages.FROM_SERVER)

    def refuses(self, message: Message, what: str, error: type[Exception] = RemoteProtocolError) -> None:
        state = self.client.state
        with pytest.raises(error, match=what):
            self.client.receive(encode(message))
        assert self.client.state is state

    def accepts_the_honest_one(self) -> None:
        assert self.client.receive(self.pending[HERE])


def foreign(stage: Stage, **fields: object) -> Message:
    return replace(stage.honest(), **fields)


OTHER = bytes(32)


# ---- a client's checks -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"roster": OTHER}, "roster that this client was given"),
        ({"cohort": (0, 2, 3, 4, 5)}, "with site-1 in it"),
        ({"cohort": (0, 1, 2, 3, 6)}, "expected a cohort of roster members"),
        ({"rounds": ()}, "at least one round"),
    ],
)
def test_an_invitation(change: dict[str, object], what: str) -> None:
    stage = Stage(0)
    if change == {"rounds": ()}:
        with pytest.raises(WireError, match=what):
            replace(stage.session.parameters, **change)
        return
    stage.refuses(replace(stage.session.parameters, **change), what)
    fewer = replace(stage.session.parameters, rounds=stage.session.parameters.rounds[:2])
    stage.refuses(fewer, "the 3 sums that were agreed on")
    stage.accepts_the_honest_one()


def test_a_directory() -> None:
    stage = Stage(1)
    honest = stage.honest()
    assert isinstance(honest, Directory)
    frames = dict(honest.frames)
    outsider = sign_frame(
        stage.world.identities[5],
        stage.transcript,
        stage.client._memory.invitation,
        5,
        decode(memoryview(frames[0])[:-SIGNATURE_BYTES], messages.ADVERTISE),
    )
    short = sign_frame(
        stage.world.identities[0],
        stage.transcript,
        stage.client._memory.invitation,
        0,
        Advertise(bytes(32), (bytes(32),), bytes(32)),
    )

    def directory(changed: dict[int, bytes]) -> Directory:
        return Directory(stage.transcript, tuple(sorted(changed.items())))

    stage.refuses(replace(honest, transcript=OTHER), "expected a message of session")
    stage.refuses(directory({k: v for k, v in frames.items() if k != HERE}), "this client's own keys back")
    stage.refuses(directory(frames | {HERE: frames[0]}), "the keys of site-1")
    stage.refuses(directory(frames | {5: outsider}), "keys of neighbours only, got site-5's")
    stage.refuses(directory({k: frames[k] for k in (0, 1, 2)}), "keys of at least 4, got 3")
    stage.refuses(directory(frames | {0: short}), "the keys of site-0: expected 3 mask keys, got 1")
    stage.accepts_the_honest_one()


def test_a_delivery() -> None:
    stage = Stage(2)
    honest = stage.honest()
    assert isinstance(honest, Delivery)
    bundles = dict(honest.bundles)
    stage.refuses(replace(honest, transcript=OTHER), "expected a message of session")
    stage.refuses(Delivery(stage.transcript, ((5, bundles[0]),)), "that advertised, got site-5's")
    stage.refuses(Delivery(stage.transcript, ((HERE, bundles[0]),)), "that advertised, got site-1's")

    def complaints(changed: dict[int, Callable[[Stage, Bundle], Bundle]]) -> tuple[int, ...]:
        fresh = Stage(2)
        honest = fresh.honest()
        assert isinstance(honest, Delivery)
        fresh_bundles = dict(honest.bundles)
        for dealer, change in changed.items():
            fresh_bundles[dealer] = change(fresh, fresh_bundles[dealer])
        answer = fresh.client.receive(
            encode(Delivery(fresh.transcript, tuple(sorted(fresh_bundles.items()))))
        )
        assert isinstance(answer, bytes)
        confirm = decode(memoryview(answer)[:-SIGNATURE_BYTES], messages.FROM_CLIENT)
        assert isinstance(confirm, Confirm)
        return confirm.complaints

    def resigned(stage: Stage, bundle: Bundle, **fields: object) -> Bundle:
        kept = {
            name: getattr(bundle, name) for name in ("recipient", "sealed", "pair_secrets", "commitments")
        }
        return Bundle.sign(stage.world.identities[0], stage.transcript, 0, **{**kept, **fields})

    for wrong in (
        lambda s, b: replace(b, signature=bytes(64)),
        lambda s, b: resigned(s, b, recipient=2),
        lambda s, b: resigned(s, b, sealed=b.sealed + b"\0"),
        lambda s, b: resigned(s, b, pair_secrets=b.pair_secrets[:2]),
        lambda s, b: resigned(s, b, pair_secrets=(b.pair_secrets[1], *b.pair_secrets[1:])),
        lambda s, b: resigned(s, b, commitments=b.commitments[:2]),
        lambda s, b: resigned(s, b, commitments=(b.commitments[1], *b.commitments[1:])),
        lambda s, b: resigned(s, b, commitments=((*b.commitments[0][:2], bytes(32)), *b.commitments[1:])),
        lambda s, b: resigned(s, b, sealed=bytes(len(b.sealed))),
    ):
        assert complaints({0: wrong}) == (0,)
    assert complaints({}) == ()


def test_a_sum_request() -> None:
    stage = Stage(4)
    stage.refuses(foreign(stage, transcript=OTHER), "expected a message of session")
    stage.refuses(foreign(stage, round=3), "rounds .* still to come, got 3")
    stage.refuses(foreign(stage, participants=(0, 2, 3, 4)), "with site-1 among them")
    stage.refuses(foreign(stage, participants=(0, 1, 2, 3, 5)), "participants out of the cohort")
    stage.refuses(
        foreign(stage, participants=(0, 1, 2)), "at least 4 participants .* the server named 3", PolicyError
    )
    stage.client._memory.dealers -= {3}
    stage.refuses(foreign(stage), "whose shares this client holds, got site-3 too")
    stage.client._memory.dealers |= {3}
    stage.accepts_the_honest_one()


def test_survivors() -> None:
    stage = Stage(5)
    stage.refuses(foreign(stage, transcript=OTHER), "expected a message of session")
    stage.refuses(foreign(stage, round=1), "expected a message of round 0")
    stage.refuses(foreign(stage, survivors=(0, 1, 2, 3, 5)), "out of this round's participants")
    stage.refuses(foreign(stage, survivors=(0, 2, 3, 4)), "site-1 uploaded, yet")
    stage.refuses(foreign(stage, survivors=(0, 1, 2)), "at least 4 survivors among", PolicyError)
    stage.accepts_the_honest_one()


def test_consents() -> None:
    stage = Stage(6)
    honest = stage.honest()
    assert isinstance(honest, Consents)
    votes = dict(honest.votes)
    stage.refuses(replace(honest, transcript=OTHER), "expected a message of session")
    stage.refuses(replace(honest, round=1), "expected a message of round 0")
    stage.refuses(replace(honest, votes=honest.votes[:3]), "at least 4 consents .* got 3")
    stage.refuses(replace(honest, votes=()), "got 0")
    with pytest.raises(WireError, match="without repeats"):  # one consent four times is one
        Consents(stage.transcript, 0, (honest.votes[0],) * 4)
    unsigned = replace(votes[0], signature=bytes(64))
    for forged in (
        {0: unsigned, 2: votes[3]},
        # Each field of a vote is signed.
        {who: replace(votes[who], upload=bytes(32)) for who in (0, 2)},
        {who: replace(votes[who], log=bytes(32)) for who in (0, 2)},
        {who: replace(votes[who], accepted=bytes(32) + b"\1") for who in (0, 2)},
    ):
        shown = tuple(sorted({**votes, **forged}.items()))
        stage.refuses(replace(honest, votes=shown), "at least 4 consents .* got 3")
    stage.client._memory.survivors -= {4}
    stage.refuses(honest, "consents of survivors, got site-4's")
    stage.client._memory.survivors |= {4}
    stage.accepts_the_honest_one()


def test_what_a_program_may_not_do_with_its_client() -> None:
    stage = Stage(4)
    values, data_set = stage.session.contribute(HERE, SumWanted(0, stage.session.parameters.rounds[0], ()))
    later = SumWanted(1, stage.session.parameters.rounds[1], (0, 1, 2, 3, 4))
    with pytest.raises(LocalProtocolError, match="round 1 is not wanted in state ready"):
        stage.client.contribute(later, values, data_set)
    wanted = stage.client.receive(stage.pending[HERE])
    assert isinstance(wanted, SumWanted)
    with pytest.raises(LocalProtocolError, match="round 1 is not wanted in state requested"):
        stage.client.contribute(later, values, data_set)
    for bad in (values[:-1], np.append(values, 0.0), values.reshape(1, -1)):
        with pytest.raises(LocalProtocolError, match="expected 5 values"):
            stage.client.contribute(wanted, bad, data_set)
    with pytest.raises(CryptoError, match="agreed bound"):
        stage.client.contribute(wanted, values + 10 * BOUND, data_set)
    assert stage.client.contribute(wanted, values, data_set)
    with pytest.raises(LocalProtocolError, match="round 0 is not wanted in state uploaded"):
        stage.client.contribute(wanted, values, data_set)
    stage.client.receive(encode(SumRequest(stage.transcript, 1, (0, 1, 2, 3, 4))))
    assert stage.client._memory.current is None  # the secrets of the round that was left are gone


def test_the_least_neighbourhood_of_a_sparse_graph() -> None:
    parties = world(
        12,
        Policy(
            EVERY_PROFILE.minimum_honest, 0.0, 0.0, profiles=frozenset(Profile), suites=EVERY_PROFILE.suites
        ),
    )
    near = graph.Neighbourhood(4, 4)
    session = parties.session(parties.propose(profile=Profile.SEMI_HONEST, near=near)).set_up()
    client = session.clients[0]
    close = sorted(client._neighbours)
    transcript = session.parameters.transcript()
    everybody = frozenset(range(12))
    for left, enough in ((4, True), (3, True), (2, False)):
        participants = tuple(sorted(everybody - set(close[left:])))
        request = encode(SumRequest(transcript, 0, participants))
        if enough:
            assert isinstance(client.receive(request), SumWanted)
        else:
            with pytest.raises(
                PolicyError, match="at least 4 participants among this client and its neighbours"
            ):
                client.receive(request)


# ---- the server's checks ----------------------------------------------------------------------------


def said(stage: Stage, sender: int, message: Message) -> bytes:
    question = stage.session.server._questions[sender]
    return sign_frame(stage.world.identities[sender], stage.transcript, question, sender, message)


def honest_answer(stage: Stage, sender: int) -> messages.FromClient:
    client = stage.session.clients[sender]
    answer = client.receive(stage.pending[sender])
    if isinstance(answer, SumWanted):
        answer = client.contribute(answer, *stage.session.contribute(sender, answer))
    return decode(memoryview(answer)[:-SIGNATURE_BYTES], messages.FROM_CLIENT)


@pytest.mark.parametrize(
    ("steps", "changes"),
    [
        (
            0,
            [
                (lambda m: replace(m, mask_keys=m.mask_keys[:2]), "expected 3 mask keys"),
                (lambda m: replace(m, channel_key=bytes(31)), "public key of 32 bytes"),
                (lambda m: replace(m, channel_key=bytes(32)), "not a valid x25519 public key"),
                (lambda m: replace(m, tag_commitment=b""), "a commitment of 32 bytes"),
            ],
        ),
        (
            1,
            [
                (
                    lambda m: Shares(m.own_commitments, m.bundles[:3]),
                    "a bundle for each of 4 neighbours, got 3",
                ),
                (lambda m: Shares(m.own_commitments[:2], m.bundles), "expected 3 pairs of own commitments"),
                (
                    lambda m: Shares(m.own_commitments, (replace(m.bundles[0], sealed=b""), *m.bundles[1:])),
                    "expected sealed shares of",
                ),
                (
                    lambda m: Shares(m.own_commitments, (*m.bundles[:3], replace(m.bundles[3], recipient=5))),
                    "a bundle for each",
                ),
            ],
        ),
        (
            2,
            [
                (lambda m: Confirm((HERE,)), "complaints about neighbours"),
                (lambda m: Confirm((5,)), "complaints about"),
            ],
        ),
        (
            4,
            [
                (lambda m: replace(m, payload=memoryview(bytes(m.payload)[:-1])), "an upload of 5 values"),
                (lambda m: replace(m, payload=memoryview(bytes(m.payload) + b"\0")), "an upload of 5 values"),
                (lambda m: replace(m, proof=b""), "a tag of 17 bytes"),
                (lambda m: replace(m, proof=m.proof + b"\0"), "a tag of 17 bytes"),
                (lambda m: replace(m, proof=b"\xff" * 17), "a tag of 17 bytes below"),
            ],
        ),
        (
            5,
            [
                (lambda m: stated(m, signature=bytes(64)), "does not verify"),
                (lambda m: stated(m, upload=bytes(32)), "does not verify"),
            ],
        ),
        (
            6,
            [
                (lambda m: Reveal(0, m.shares[:-1]), "expected 5 shares"),
                (lambda m: Reveal(0, (*m.shares[:-1], (5, bytes(33)))), "expected 5 shares"),
                (lambda m: Reveal(0, (*m.shares[:-1], (4, b"\xff" * 33))), "below the field's prime"),
                (lambda m: Reveal(0, (*m.shares[:-1], (4, bytes(33)))), "the share that site-4 dealt"),
                (
                    lambda m: Reveal(0, tuple((d, bytes(33) if d == HERE else s) for d, s in m.shares)),
                    "site-1 dealt",
                ),
            ],
        ),
        (8, [(lambda m: replace(m, accepted=bytes(32)), "the digest of the opened sum, or none")]),
    ],
)
def test_what_a_member_signs_and_may_not_send_is_blamed_on_it(
    steps: int, changes: list[tuple[Callable[[messages.FromClient], Message], str]]
) -> None:
    for change, what in changes:
        stage = Stage(steps)
        wrong = change(honest_answer(stage, HERE))
        with pytest.raises(RemoteProtocolError, match=what):
            stage.session.server.receive(HERE, said(stage, HERE, wrong))
        assert list(stage.session.server.blame) == [HERE]
        assert HERE not in stage.session.server.waiting_for


def stated(consent: messages.FromClient, **fields: bytes) -> messages.Consent:
    assert isinstance(consent, messages.Consent)
    return replace(consent, vote=replace(consent.vote, **fields))


@pytest.mark.parametrize("steps", [4, 5, 6, 8])
def test_a_message_of_another_round_is_refused_and_nobodys_fault(steps: int) -> None:
    stage = Stage(steps)
    answer = replace(honest_answer(stage, HERE), round=1)
    with pytest.raises(RemoteProtocolError, match="expected round 0, got round 1"):
        stage.session.server.receive(HERE, said(stage, HERE, answer))
    assert not stage.session.server.blame
    assert HERE in stage.session.server.waiting_for


def test_a_member_of_the_roster_outside_the_cohort_is_unknown_to_the_session() -> None:
    stage = Stage(0)
    with pytest.raises(RemoteProtocolError, match="unknown one"):
        stage.session.server.receive(5, bytes(200))


def test_what_a_program_may_not_do_with_its_server() -> None:
    stage = Stage(4)
    server = stage.session.server
    with pytest.raises(LocalProtocolError, match="parameters for this roster"):
        MaskingServer(stage.session.parameters, Roster(stage.world.roster.members[:5]))
    for wrong in (server.start, server.result, lambda: server.open_round(1)):
        with pytest.raises(LocalProtocolError, match="expected state"):
            wrong()
    stage = Stage(6)
    server = stage.session.server
    for sender in range(5):
        server.receive(sender, said(stage, sender, honest_answer(stage, sender)))
    with pytest.raises(LocalProtocolError, match="nothing to advance"):
        server.advance()
    server.result()
    with pytest.raises(LocalProtocolError, match="expected state ready, the server is in state opened"):
        server.open_round(1)
    for _ in range(2):
        stage.session.cohort.run(server.advance, stage.session.contribute)
    for number in (0, -1, 3):
        with pytest.raises(LocalProtocolError, match="expected a round from 1 to 2"):
            server.open_round(number)
    server.open_round(2)


# ---- what the checks rest on --------------------------------------------------------------------------


def test_shamir_draws_from_the_whole_field(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def randbelow(limit: int) -> int:
        asked.append(limit)
        return limit - 1

    monkeypatch.setattr("secrets.randbelow", randbelow)
    shamir.split(bytes(32), 5, range(1, 8))
    assert asked == [shamir.PRIME] * 4


def test_plans_and_rosters_are_valid_or_do_not_exist() -> None:
    for fields in (("", 5, 1.0), ("s", 0, 1.0), ("s", 5, -1.0), ("s", 5, float("nan")), ("s" * 65, 5, 1.0)):
        with pytest.raises(LocalProtocolError, match="expected a"):
            SumPlan(*fields)
    with pytest.raises(LocalProtocolError, match="fraction bits"):
        SumPlan("s", 5, 1.0, 9999)
    parties: World = world(3)
    with pytest.raises(LocalProtocolError, match="registered twice"):
        Roster(parties.roster.members * 2)
    with pytest.raises(LocalProtocolError, match="at least one member"):
        Roster(())
    with pytest.raises(CryptoError, match="need more than 8 bytes"):
        MaskingClient(
            parties.identities[0],
            parties.roster,
            [SumPlan("s", 5, 2.0**60, 32)],
            Policy(),
            parties.ledgers[0],
        )


def test_a_session_object_is_what_the_tests_think_it_is() -> None:
    assert isinstance(Stage(3).session, Session)


def test_a_client_refuses_a_plan_that_trusts_the_server() -> None:
    """The client itself, under the active profile, unless its policy takes the server's reports as true, or its session has
    sums that it checks and its policy takes what follows from these."""
    tags, none = frozenset({Verify.TAGS}), frozenset({Verify.NONE})
    for trust, profile, verify, refused in (
        (Trust.NONE, Profile.ACTIVE, tags, True),
        (Trust.VERIFIED, Profile.ACTIVE, tags, False),
        (Trust.VERIFIED, Profile.ACTIVE, none, True),
        (Trust.ANY, Profile.ACTIVE, none, False),
        (Trust.NONE, Profile.SEMI_HONEST, tags, False),
    ):
        one = world(5, dataclasses.replace(EVERY_PROFILE, trusts_reports=trust, verify=verify))
        parameters = one.propose(profile=profile)
        one.plan = [dataclasses.replace(one.plan[0], trusts_server=True)]
        if refused:
            with pytest.raises(PolicyError, match="hides a client only if the server reports"):
                one.client(0).receive(encode(parameters))
        else:
            assert one.client(0).receive(encode(parameters))


@pytest.mark.parametrize(("same", "opened"), [(True, False), (False, True)])
def test_a_second_sum_over_other_survivors_is_opened_only_where_the_plan_allows_it(
    same: bool, opened: bool
) -> None:
    one = world(6)
    parameters = one.propose(rounds=2)
    one.plan = [dataclasses.replace(planned, same_survivors=same) for planned in one.plan]
    session = one.session(parameters).set_up()
    assert session.sum(0).survivors == tuple(range(6))
    link(session.cohort)._network = FaultyNetwork([Fault("drop", "collecting", frozenset({4}))])
    if opened:
        assert session.sum(1).survivors == (0, 1, 2, 3, 5)
    else:
        with pytest.raises(RoundAbortedError):
            session.sum(1)
        assert {type(refusal) for refusal in session.cohort.refusals} == {PolicyError}


# ---- frames that come twice, too early, too long ---------------------------------------------------


@pytest.mark.parametrize("steps", [0, 1, 2, 4, 5, 6, 8])
def test_what_comes_twice_too_early_or_from_strangers_is_refused_and_nobodys_fault(steps: int) -> None:
    stage = Stage(steps)
    server = stage.session.server

    def refused(who: int, data: bytes, what: str) -> None:
        with pytest.raises(RemoteProtocolError, match=what):
            server.receive(who, data)

    honest = honest_answer(stage, HERE)
    frame = said(stage, HERE, honest)
    early = Confirm(()) if not isinstance(honest, Confirm) else Upload(0, memoryview(b""), b"")
    expected, got = type(honest).__name__, type(early).__name__
    before = server.waiting_for
    for stranger in (5, -1, 9):  # of the roster and not of the cohort, or of nothing
        refused(stranger, frame, "expected a member of this session's cohort, got an unknown one")
    refused(HERE, said(stage, HERE, early), f"in state {server.state.value} expected {expected}, got {got}")
    refused(HERE, bytes(2**20), "expected at most [0-9]+ bytes in state")
    assert server.waiting_for == before
    server.receive(HERE, frame)
    assert before - server.waiting_for == {HERE}
    refused(HERE, frame, f"expected no further {expected} from it")
    assert not server.blame
    for other in sorted(server.waiting_for):
        server.receive(other, said(stage, other, honest_answer(stage, other)))
    if isinstance(honest, Upload):  # what came twice is in the sum once
        for _ in range(2):
            stage.session.cohort.run(server.advance, stage.session.contribute)
    if server.state.value == "unmasking":
        result = server.result()
        assert stage.session.opened(result).tolist() == stage.session.integer_sum(range(5)).tolist()
        refused(HERE, said(stage, HERE, Confirm(())), "in state opened expected nothing, got Confirm")


def test_a_decrypted_sum_is_taken_where_one_is_expected_and_of_who_uploaded() -> None:
    here = KeyWorld(4, "bfv+mask")
    session = here.session(FaultyNetwork([Fault("drop", "collecting", frozenset({3}))])).set_up()
    assert session.masks is not None
    server, words = session.masks.server, np.zeros(5, np.uint64)
    steps: list[Callable[[], object]] = [
        lambda: server.take_total(words, (0, 1, 2)),
        server.give_up_round,
    ]
    for wrong in steps:
        with pytest.raises(
            LocalProtocolError, match="expected state collecting, the server is in state ready"
        ):
            wrong()
    session.masks.collect(0, session.contribute)
    with pytest.raises(LocalProtocolError, match="a decrypted sum over clients that uploaded in this round"):
        server.take_total(words, (0, 1, 2, 3))
    for length in (4, 6):
        with pytest.raises(LocalProtocolError, match="expected 5 words, got shape"):
            server.take_total(np.zeros(length, np.uint64), (0, 1, 2))
    server.take_total(words, (0, 1, 2))
    session.masks.run(server.advance, session.contribute)
    for wrong in steps:
        with pytest.raises(LocalProtocolError, match=r"expected state collecting, .* in state consenting"):
            wrong()
    plain = Stage(4)
    with pytest.raises(LocalProtocolError, match="expected a decrypted sum"):
        plain.session.server.take_total(words, ())


@pytest.mark.parametrize(("length", "right"), [(0, False), (1, True), (64, True), (65, False)])
def test_a_statistics_name_has_1_to_64_letters(length: int, right: bool) -> None:
    spec = Stage(0).session.parameters.rounds[0]
    for build, error in (
        (lambda name: SumPlan(name, 5, 1.0), LocalProtocolError),
        (lambda name: replace(spec, statistic=name), WireError),
    ):
        if right:
            build("s" * length)
            continue
        with pytest.raises(error, match="a printable statistic name of 1 to 64 characters"):
            build("s" * length)
    for build in (lambda name: SumPlan(name, 5, 1.0), lambda name: replace(spec, statistic=name)):
        with pytest.raises((LocalProtocolError, WireError), match="printable"):
            build("s\n")


def test_an_error_that_is_accepted_is_above_0() -> None:
    for error in (5e-324, 0.5, float("inf")):
        assert SumPlan("s", 5, 1.0, error=error).error == error
    for error in (0.0, -0.5, float("nan")):
        with pytest.raises(LocalProtocolError, match="expected an error above 0"):
            SumPlan("s", 5, 1.0, error=error)


def test_nobody_is_in_a_session_with_members_beyond_its_roster() -> None:
    here, keys = world(4), KeyWorld(4)
    session, encrypted = here.session(here.propose(length=1)), keys.session(length=1)
    parameters, agreement = session.parameters, encrypted.agreement
    for cohort in ((0, 1, 2, 4), (0, 1, 2, 2**31)):
        with pytest.raises(
            LocalProtocolError, match="expected parameters for this roster, these name another"
        ):
            MaskingServer(replace(parameters, cohort=cohort), here.roster)
        beyond = replace(agreement, cohort=cohort)  # number 4 is the key holder's
        with pytest.raises(LocalProtocolError, match="the agreement is not for this roster"):
            HomomorphicServer(beyond, keys.roster, keys.key_holders, least=2)
        invitation = encode(replace(parameters, cohort=cohort))
        for party, data in ((session.clients[0], invitation), (encrypted.holders[4], encode(beyond))):
            with pytest.raises(RemoteProtocolError, match="expected a cohort of roster members"):
                party.receive(data)
