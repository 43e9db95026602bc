"""Every check of an encrypted session, one wrong field at a time in an otherwise honest message."""

from collections.abc import Callable
from dataclasses import replace as changed
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import msgpack
from msgspec.structs import replace
from worlds.cohorts import BOUND, Tap, link
from worlds.encrypted import EVERY_BACKEND, KeyWorld

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.identity import SIGNATURE_BYTES
from secure_afl.crypto.lattice import ckks
from secure_afl.crypto.lattice.parameter_sets import LATTICES
from secure_afl.protocol.homomorphic import messages
from secure_afl.protocol.homomorphic.agreement import Agreement, Encryption, Release
from secure_afl.protocol.homomorphic.client import HomomorphicClient
from secure_afl.protocol.homomorphic.holder import KeyHolder
from secure_afl.protocol.homomorphic.messages import (
    Challenge,
    Check,
    EncryptedRequest,
    EncryptedUpload,
    Invitation,
    Joined,
    KeyAnnouncement,
    KeyCommitment,
    KeyCommitments,
    KeyShare,
    KeyShares,
    Offer,
    Opened,
    Opening,
    Tags,
)
from secure_afl.protocol.homomorphic.server import HomomorphicServer
from secure_afl.protocol.homomorphic.states import ServerState
from secure_afl.protocol.session.backend import Backend
from secure_afl.protocol.session.errors import (
    LocalProtocolError,
    PolicyError,
    ProtocolError,
    RemoteProtocolError,
    RoundAbortedError,
)
from secure_afl.protocol.session.parameters import RidgeSystem, SumPlan, SumWanted
from secure_afl.protocol.session.profile import Trust
from secure_afl.protocol.session.server import Outbox
from secure_afl.protocol.session.wire import Message, WireError, answered, decode, encode, sign_frame

HERE, KEEPER = 1, 6  # the client and the key holder that are lied to
OTHER = bytes(32)
PHASES = [state.value for state in ServerState if state.value not in ("start", "ready", "opened", "aborted")]
FROM_SERVER: Any = msgspec.msgpack.Decoder(
    Agreement | KeyCommitments | KeyShares | Invitation | EncryptedRequest | Offer | Check | Opening
)


class Stage:
    """A session stopped before the messages of one phase are delivered; a roster of 6, a cohort of 5."""

    def __init__(
        self, phase: str, backend: str = "bfv", holders: int = 1, plan: list[SumPlan] | None = None
    ) -> None:
        policy = changed(EVERY_BACKEND, minimum_honest=3, corrupted=0.0, dropout=0.0)
        self.world = KeyWorld(6, backend, holders, policy)
        self.tap = Tap()
        cohort = None if self.world.encryption.masked else (0, 1, 2, 3, 4)
        self.session = self.world.session(self.tap, cohort=cohort, plan=plan, rounds=3)
        self.server, self.client = self.session.server, self.session.clients[HERE]
        self.holder = self.session.holders[KEEPER]
        self.transcript = self.session.agreement.transcript()
        step: Callable[[], Outbox] = self.server.start
        while True:
            pending = step()
            if self.server.state is ServerState.READY:
                pending = self.server.open_round(0)
            if self.server.state.value == phase:
                break
            self.deliver(pending)
            step = self.server.advance
        self.pending = pending

    def deliver(self, outbox: Outbox) -> None:
        self.session.cohort.run(lambda: outbox, self.session.contribute)

    def honest(self, party: int) -> Any:
        return decode(self.pending[party], FROM_SERVER)

    def answer(self, party: int) -> Message:
        """What a party honestly says to what is pending."""
        one = self.session.clients.get(party) or self.session.holders[party]
        said = one.receive(self.pending[party])
        if isinstance(said, SumWanted):
            assert isinstance(one, HomomorphicClient)
            said = one.contribute(said, *self.session.contribute(party, said))
        return decode(memoryview(said)[:-SIGNATURE_BYTES], messages.FROM_PARTY)

    def signed(self, sender: int, message: Message) -> bytes:
        question = self.server._questions.get(sender, b"")
        return sign_frame(self.world.identities[sender], self.transcript, question, sender, message)


def snapshot(party: HomomorphicClient | KeyHolder | HomomorphicServer) -> dict[str, object]:
    """All that a party knows, to compare."""
    known = dict(vars(party))
    if ledger := known.pop("_ledger", None):
        known["_ledger"] = (set(ledger._sessions), dict(ledger._used))
    if memory := known.pop("_memory", None):
        known["_memory"] = msgpack.decode(msgpack.encode(memory), type=type(memory))
    return known


def same(before: dict[str, object], after: dict[str, object]) -> bool:
    return before.keys() == after.keys() and all(
        after[name] is value or bool(np.all(after[name] == value)) for name, value in before.items()
    )


def refuses(
    party: HomomorphicClient | KeyHolder,
    message: Message | bytes,
    what: str,
    error: type[ProtocolError] = RemoteProtocolError,
) -> None:
    before = snapshot(party)
    with pytest.raises(error, match=what) as refused:
        party.receive(message if isinstance(message, bytes) else encode(message))
    assert party.name in str(refused.value)
    assert same(before, snapshot(party))


def test_the_phases_that_are_stopped_at_are_all_there_are() -> None:
    assert set(PHASES) == {Stage(phase).server.state.value for phase in PHASES}


# ---- a client's checks -----------------------------------------------------------------------------


def test_an_invitation() -> None:
    stage = Stage("inviting", holders=2)
    client, honest = stage.client, stage.honest(HERE)

    def refused(what: str, error: type[ProtocolError] = RemoteProtocolError, /, **fields: Any) -> None:
        refuses(client, replace(honest, agreement=replace(honest.agreement, **fields)), what, error)

    different: list[dict[str, Any]] = [{"roster": OTHER}, {"holders": OTHER}]
    for fields in different:
        refused("expected the roster and key holders that this party was given", **fields)
    for cohort in ((0, 2, 3, 4), (0, 1, 2, 3, 6)):
        refused(
            "expected a cohort of roster members with site-1 in it, the invitation omits it", cohort=cohort
        )
    refused("expected at least 3 clients, the server named 2", PolicyError, cohort=(0, 1))
    sums = (
        "expected the 3 sums that were agreed on under bfv-60-joint, releasing the sum, got a different plan"
    )
    first, *rest = honest.agreement.rounds
    for fields in (
        {"rounds": honest.agreement.rounds[:2]},
        {"rounds": (replace(first, length=4), *rest)},
        {"rounds": (replace(first, fraction_bits=19), *rest)},
        {"rounds": (replace(first, magnitude=first.magnitude - 1), *rest)},
        {"lattice": "bfv-60"},
        {"release": Release.WEIGHTS},
    ):
        refused(sums, **fields)
    refuses(client, replace(honest, key=honest.key[:-1]), "expected residues in .* bytes, got")
    refuses(client, replace(honest, key=b"\xff" * len(honest.key)), "expected residues below their prime")
    refuses(client, replace(honest, signatures=honest.signatures[:1]), "signatures of 2 key holders, got 1")
    for wrong in (bytes(64), honest.signatures[0], b""):
        refuses(
            client,
            replace(honest, signatures=(honest.signatures[0], wrong)),
            "expected a key signed by holder-1",
        )
    flipped = bytes([honest.key[0] ^ 1]) + honest.key[1:]
    refuses(client, replace(honest, key=flipped), "expected a key signed by holder-0, the signature")
    # Another session number is another transcript: the signatures are not for it.
    refused("expected a key signed by holder-0, the signature", session=OTHER)
    refuses(client, EncryptedRequest(stage.transcript, 0, 1, (0, 1, 2)), "not a valid message")
    assert client.receive(stage.pending[HERE])
    refuses(client, stage.pending[HERE], "not a valid message")  # once in the session there is no second one


def test_a_client_that_restarts_refuses_the_session_it_was_in() -> None:
    stage = Stage("encrypting")
    again = stage.world.client(HERE, stage.session.plan)
    invitation = stage.tap.last("inviting", HERE, upward=False).data
    refuses(again, invitation, "was already run once; a replay is refused", PolicyError)


def test_an_invitation_to_a_masked_session() -> None:
    stage = Stage.__new__(Stage)
    stage.world = KeyWorld(4, "bfv+mask")
    session = stage.world.session(Tap())
    tap = link(session.cohort)._network
    assert session.masks is not None
    client = session.clients[HERE]
    session.cohort.run(session.server.start, session.contribute)
    for _ in range(2):
        session.cohort.run(session.server.advance, session.contribute)
    pending = session.server.advance()
    # Before the masked session has begun, the client knows of none that could be encrypted.
    refuses(client, pending[HERE], "site-1.*: no masked session has begun")
    session.masks.set_up()
    honest = decode(pending[HERE], messages.INVITATION)
    for fields in ({"session": OTHER}, {"masks": OTHER}):
        wrong = replace(honest, agreement=replace(honest.agreement, **fields))
        refuses(client, wrong, "expected the masked session that this client is in, the invitation")
    assert isinstance(tap, Tap)
    assert client.receive(pending[HERE])
    # Nor does it encrypt what it has not masked.
    request = EncryptedRequest(session.agreement.transcript(), 0, 1, (0, 1, 2, 3))
    refuses(client, request, "nothing was masked for round 0")
    session.masks.collect(0, session.contribute)
    assert client.receive(encode(request))


@pytest.mark.parametrize(
    ("backends", "trusting", "what"),
    [
        (
            {"mask", "ckks", "bfv+mask"},
            False,
            "the backend 'bfv' is not allowed .* allows bfv.mask, ckks, mask",
        ),
        ({"bfv"}, True, "'s' hides a client only if the server reports earlier sums truthfully"),
    ],
)
def test_what_a_clients_policy_refuses(backends: set[str], trusting: bool, what: str) -> None:
    plan = [SumPlan("s", 2, BOUND, 20, trusts_server=trusting)]
    stage = Stage("inviting", plan=plan)
    stage.world.policy = changed(stage.world.policy, backends=frozenset(backends))
    stage.client = stage.world.client(HERE, plan)
    refuses(stage.client, stage.pending[HERE], what, PolicyError)
    stage.world.policy = changed(stage.world.policy, backends=frozenset({"bfv"}), trusts_reports=Trust.ANY)
    assert stage.world.client(HERE, plan).receive(stage.pending[HERE])


def test_an_encrypted_request() -> None:
    stage = Stage("encrypting")
    client, honest = stage.client, stage.honest(HERE)
    refuses(
        client,
        replace(honest, transcript=OTHER),
        "expected a message of session .*, got one of 0000000000000000…",
    )
    for fields in ({"attempt": -1}, {"round": -1}, {"round": -(2**62)}):
        refuses(client, replace(honest, **fields), "not a valid message .*Expected `int` >= 0")
    for fields in ({"round": 3}, {"round": 2**40}):
        refuses(
            client, replace(honest, **fields), "expected a new attempt at a round from 0 to 2, got attempt"
        )
    for participants in ((0, 2, 3, 4), (0, 1, 2, 5), (1, 2, 3, 2**50)):
        refuses(
            client,
            replace(honest, participants=participants),
            "expected participants out of the cohort with site-1 among them",
        )
    refuses(
        client,
        replace(honest, participants=(0, 1)),
        "at least 3 participants, the server named 2",
        PolicyError,
    )
    check = Check(stage.transcript, Offer(stage.transcript, 0, 1, (0, 1, 2), OTHER), ())
    refuses(client, check, "in state ready expected EncryptedRequest, got Check")
    wanted = client.receive(stage.pending[HERE])
    assert isinstance(wanted, SumWanted)
    assert client.contribute(wanted, *stage.session.contribute(HERE, wanted))
    refuses(client, honest, "got attempt 1 at round 0")  # a second vector for the same attempt
    later = client.receive(encode(replace(honest, round=1, attempt=2)))
    assert isinstance(later, SumWanted)
    refuses(client, replace(honest, attempt=3), "at a round from 1 to 2, got attempt 3 at round 0")


def test_a_check() -> None:
    stage = Stage("checking", holders=2)
    client, honest = stage.client, stage.honest(HERE)

    def refused(what: str, error: type[ProtocolError] = RemoteProtocolError, /, **fields: Any) -> None:
        refuses(client, replace(honest, offer=replace(honest.offer, **fields)), what, error)

    refuses(
        client,
        replace(honest, transcript=OTHER),
        "expected a message of session .*, got one of 0000000000000000…",
    )
    for fields in ({"transcript": OTHER}, {"round": 1}, {"attempt": 2}):
        refused("expected an offer of round 0, attempt 1, this one differs", **fields)
    refused("not a valid message .*Expected `int` >= 0", round=-1)
    for contributors in ((0, 2, 3), (0, 1, 2, 5)):
        refused(
            "expected contributors out of the participants with site-1 among them, the offer omits it",
            contributors=contributors,
        )
    refused("expected at least 3 contributors, the server named 2", PolicyError, contributors=(0, 1))
    # Of other contributors, or of another sum, than the key holders have signed.
    refused("expected a challenge signed by holder-0 for this sum, the signature", contributors=(0, 1, 2, 3))
    refused("expected a challenge signed by holder-0 for this sum, the signature", ciphertexts=OTHER)
    refuses(client, replace(honest, challenges=honest.challenges[:1]), "challenges of 2 key holders, got 1")
    first, second = honest.challenges
    for wrong in (first, replace(second, seed=OTHER), replace(second, signature=bytes(64))):
        refuses(
            client, replace(honest, challenges=(first, wrong)), "a challenge signed by holder-1 for this sum"
        )
    assert client.receive(stage.pending[HERE])
    refuses(client, honest, "in state ready expected EncryptedRequest, got Check")  # tags once


@pytest.mark.parametrize("later", [1, 2])
def test_a_check_of_sums_that_tell_of_the_same_rows(later: int) -> None:
    plan = [SumPlan(f"sum {r}", 2, BOUND, 20, same_survivors=r != 1) for r in range(3)]
    stage = Stage("checking", plan=plan)
    stage.deliver(stage.pending)
    stage.deliver(stage.server.advance())
    stage.server.advance()
    stage.server.result()
    stage.deliver(stage.server.open_round(later, among=(0, 1, 2, 3)))
    holder = stage.holder
    if later == 2:
        offer = stage.server.advance()[KEEPER]
        text = "expected the 5 contributors of the sums before, the server named 4, not the same"
        refuses(holder, offer, text, PolicyError)
        holder._memory.related = None  # a key holder that does not mind
        answer = holder.receive(offer)
        stage.server.receive(KEEPER, answer)
        refuses(stage.client, stage.server.advance()[HERE], text, PolicyError)
    else:
        stage.deliver(stage.server.advance())
        assert stage.client.receive(stage.server.advance()[HERE])


def test_what_a_program_may_not_do_with_its_client() -> None:
    stage = Stage("encrypting")
    client = stage.client
    values, data_set = stage.session.vectors[HERE, 0], "some rows"
    later = SumWanted(1, stage.session.agreement.rounds[1], (0, 1, 2, 3, 4))
    with pytest.raises(LocalProtocolError, match="site-1: the sum of round 1 is not wanted in state ready"):
        client.contribute(later, values, data_set)
    wanted = client.receive(stage.pending[HERE])
    assert isinstance(wanted, SumWanted)
    with pytest.raises(LocalProtocolError, match="round 1 is not wanted in state requested"):
        client.contribute(later, values, data_set)
    for bad in (values[:-1], np.append(values, 0.0), values.reshape(1, -1)):
        with pytest.raises(LocalProtocolError, match="site-1: expected 5 values, got shape"):
            client.contribute(wanted, bad, data_set)
    for over, what in ((values + 10 * BOUND, "agreed bound"), (values * np.nan, "not finite")):
        with pytest.raises(CryptoError, match=what):
            client.contribute(wanted, over, data_set)
    assert not stage.world.ledgers[HERE]._used  # nothing has left
    assert client.contribute(wanted, values, data_set)
    with pytest.raises(LocalProtocolError, match="round 0 is not wanted in state uploaded"):
        client.contribute(wanted, values, data_set)
    for backend, masks in (("bfv+mask", None), ("bfv", stage)):
        with pytest.raises(LocalProtocolError, match=r"expected a masked session for bfv.mask only, got bfv"):
            HomomorphicClient(
                stage.world.identities[HERE],
                stage.world.roster,
                stage.world.key_holders,
                stage.session.plan,
                stage.world.policy,
                stage.world.ledgers[HERE],
                KeyWorld(3, backend).encryption,
                masks=masks,  # type: ignore[arg-type]
            )


# ---- a key holder's checks ---------------------------------------------------------------------------


def test_an_agreement() -> None:
    stage = Stage("key commitments", holders=2)
    holder, honest = stage.holder, stage.honest(KEEPER)
    for fields in ({"roster": OTHER}, {"holders": OTHER}):
        refuses(
            holder, replace(honest, **fields), "expected the roster and key holders that this party was given"
        )
    refuses(
        holder,
        replace(honest, cohort=(0, 1, 2, 6)),
        "expected a cohort of roster members, the proposal includes non-members",
    )
    refuses(holder, replace(honest, cohort=(0, 1)), "at least 3 clients, the server named 2", PolicyError)
    masked = tuple(replace(spec, modulus=LATTICES["bfv-60-joint"].plain_modulus) for spec in honest.rounds)
    for changes in (
        {"rounds": honest.rounds[1:]},
        {"rounds": honest.rounds[::-1]},
        {"lattice": "bfv-60"},
        {"release": Release.WEIGHTS},
        {"masks": OTHER, "rounds": masked},
    ):
        refuses(
            holder, replace(honest, **changes), "expected the 3 sums that were agreed on under bfv-60-joint"
        )
    refuses(holder, Offer(stage.transcript, 0, 1, (0, 1, 2), OTHER), "not a valid message")
    policy = changed(stage.world.policy, backends=frozenset({"mask"}))
    stage.world.policy, allowed = policy, stage.world.policy
    refuses(
        stage.world.holder(0, stage.session.plan), honest, "the backend 'bfv' is not allowed", PolicyError
    )
    stage.world.policy = allowed
    assert holder.receive(stage.pending[KEEPER])
    again = stage.world.holder(0, stage.session.plan)
    refuses(again, honest, "was already run once; a replay is refused", PolicyError)


def test_commitments() -> None:
    stage = Stage("key shares", holders=2)
    holder, honest = stage.holder, stage.honest(KEEPER)
    mine, other = honest.frames
    refuses(
        holder,
        replace(honest, transcript=OTHER),
        "expected a message of session .*, got one of 0000000000000000…",
    )
    for frames in ((mine,), (), (mine, (8, other[1])), ((5, mine[1]), other), (mine, other, (8, other[1]))):
        refuses(
            holder,
            replace(honest, frames=frames),
            f"expected commitments of 2 key holders, got {len(frames)}",
        )
    for wrong in (mine[1], other[1][:-1], bytes(len(other[1])), b""):
        refuses(
            holder,
            replace(honest, frames=(mine, (7, wrong))),
            "signed by this sender|a signature of 64 bytes",
        )
    refuses(
        holder, KeyShares(stage.transcript, ()), "in state committed expected KeyCommitments, got KeyShares"
    )
    assert holder.receive(stage.pending[KEEPER])


def test_shares() -> None:
    stage = Stage("key announcements", holders=2)
    holder, honest = stage.holder, stage.honest(KEEPER)
    mine, other = honest.shares
    for shares in ((mine,), (mine, (8, other[1])), (mine, other, (8, b""))):
        refuses(
            holder, replace(honest, shares=shares), f"expected shares of 2 key holders, got {len(shares)}"
        )
    for wrong in (mine[1], other[1][:-1], b""):
        refuses(
            holder,
            replace(honest, shares=(mine, (7, wrong))),
            "the share of holder-1 is not the one that it committed to",
        )
    assert holder.receive(stage.pending[KEEPER])


def test_shares_that_make_no_key() -> None:
    """Committed to, and still no share of any key."""
    stage = Stage("key announcements", holders=2)
    holder, honest = stage.holder, stage.honest(KEEPER)
    kept = dict(holder._memory.commitments)
    for wrong, what in ((b"no share", "expected residues in"), (honest.shares[0][1], "different key shares")):
        holder._memory.commitments = kept | {7: messages.share_commitment(stage.transcript, 7, wrong)}
        refuses(holder, replace(honest, shares=(honest.shares[0], (7, wrong))), what)
    holder._memory.commitments = kept
    assert holder.receive(stage.pending[KEEPER])


def test_an_offer() -> None:
    stage = Stage("challenging")
    holder, honest = stage.holder, stage.honest(KEEPER)
    refuses(
        holder,
        replace(honest, transcript=OTHER),
        "expected a message of session .*, got one of 0000000000000000…",
    )
    for fields in ({"round": -1}, {"attempt": -1}):
        refuses(holder, replace(honest, **fields), "not a valid message .*Expected `int` >= 0")
    for fields in ({"round": 3}, {"round": 2**40}):
        refuses(
            holder, replace(honest, **fields), "expected a new attempt at a round from 0 to 2, got attempt"
        )
    for contributors in ((0, 1, 5), (0, 1, 2, 2**40)):
        refuses(
            holder,
            replace(honest, contributors=contributors),
            "expected contributors out of the cohort, the offer includes",
        )
    refuses(
        holder,
        replace(honest, contributors=(0, 1)),
        "at least 3 contributors, the server named 2",
        PolicyError,
    )
    opening = Opening(stage.transcript, b"", (), memoryview(b""))
    refuses(holder, opening, "in state ready expected Offer, got Opening")
    assert holder.receive(stage.pending[KEEPER])
    refuses(holder, honest, "got attempt 1 at round 0")  # one challenge for an offer
    assert holder.receive(encode(replace(honest, attempt=2)))
    refuses(holder, honest, "got attempt 1 at round 0")


def test_a_plans_survivors_are_asked_for_by_clients_and_key_holders() -> None:
    plan = [SumPlan("s", 2, BOUND, 20, survivors=5)]
    stage = Stage("encrypting", plan=plan)
    request = replace(stage.honest(HERE), participants=(0, 1, 2, 3))
    refuses(stage.client, request, "at least 5 participants, the server named 4", PolicyError)
    stage = Stage("challenging", plan=plan)
    offer = replace(stage.honest(KEEPER), contributors=(0, 1, 2, 3))
    refuses(stage.holder, offer, "at least 5 contributors, the server named 4", PolicyError)


def test_an_opening() -> None:
    stage = Stage("opening", holders=2)
    holder, honest = stage.holder, stage.honest(KEEPER)
    check = decode(honest.check, messages.CHECK)
    text = "expected the check of the sum that was offered last, this one"
    for wrong in (
        replace(check, offer=replace(check.offer, contributors=(0, 1, 2, 3))),
        replace(check, offer=replace(check.offer, ciphertexts=OTHER)),
        replace(check, challenges=check.challenges[::-1]),
        replace(check, challenges=()),
    ):
        refuses(holder, replace(honest, check=encode(wrong)), text)
    refuses(holder, replace(honest, check=b"\x90"), "not a valid message")
    frames = dict(honest.frames)
    without = {who: frame for who, frame in frames.items() if who != 3}
    for chosen in (without, frames | {5: frames[0]}, {}):
        refuses(
            holder,
            replace(honest, frames=tuple(sorted(chosen.items()))),
            f"expected tags of 5 contributors, got {len(chosen)}",
        )
    altered = bytearray(honest.ciphertexts)
    altered[5] ^= 1
    refuses(
        holder,
        replace(honest, ciphertexts=memoryview(bytes(altered))),
        "expected the ciphertexts that were offered, these have",
    )

    def with_tags(change: Callable[[Tags], Message]) -> Opening:
        said = decode(memoryview(frames[3])[:-SIGNATURE_BYTES], messages.TAGS)
        question = answered(honest.check)
        frame = sign_frame(stage.world.identities[3], stage.transcript, question, 3, change(said))
        resigned: Opening = replace(honest, frames=tuple(sorted((frames | {3: frame}).items())))
        return resigned

    refuses(
        holder,
        replace(honest, frames=tuple(sorted((frames | {3: frames[2]}).items()))),
        "the tags of site-3: expected",
    )
    refuses(holder, with_tags(lambda said: Joined()), "the tags of site-3: not a valid message")
    refuses(
        holder,
        with_tags(lambda said: replace(said, tags=said.tags[:1])),
        "site-3: expected tags for 2 key holders, got 1",
    )
    refuses(
        holder,
        with_tags(lambda said: replace(said, tags=((1, 2), said.tags[1]))),
        "tags, each from 0 to below its prime, got",
    )
    none = stage.session.lattice.no_tags
    refuses(
        holder,
        with_tags(lambda said: replace(said, tags=(none, said.tags[1]))),
        "expected the sum of what the contributors uploaded, got other ciphertexts",
    )
    assert holder.receive(stage.pending[KEEPER])
    refuses(holder, honest, "in state ready expected Offer, got Opening")  # a sum is opened once
    again = Offer(stage.transcript, 0, 2, (0, 1, 2, 3, 4), check.offer.ciphertexts)
    refuses(holder, again, "at a round from 1 to 2, got attempt 2 at round 0")


def test_an_opening_of_data_that_served_another_session() -> None:
    stage = Stage("opening")
    digest = messages.data_set_digest("site-0", stage.session.data_set)
    ledger, name = stage.world.ledgers[KEEPER], messages.known_as("site-0", digest)
    ledger.use(name, OTHER)
    refuses(
        stage.holder, stage.pending[KEEPER], "the data set 'site-0: .*' was used in session 0000", PolicyError
    )
    ledger.renew(name, may_expose=True)
    assert stage.holder.receive(stage.pending[KEEPER])


def test_what_a_program_may_not_do_with_its_key_holder() -> None:
    world = KeyWorld(3)
    plan = [SumPlan("s", 6, 1.0, system=RidgeSystem(2, 1, 1e-3))]
    with pytest.raises(
        LocalProtocolError, match="expected a way to solve if weights are released, and only then"
    ):
        world.holder(0, plan, lambda *one: np.zeros(1))
    with pytest.raises(LocalProtocolError, match="expected a way to solve"):
        KeyWorld(3, release=Release.WEIGHTS).holder(0, plan)


# ---- the server's checks ----------------------------------------------------------------------------

WRONG: list[tuple[str, int, Callable[[Any], Message | bytes], str]] = [
    ("key commitments", KEEPER, lambda m: msgspec.Raw(msgpack.encode(["key commitment", b"short"])), "of 32 bytes, got 5"),
    ("key announcements", KEEPER, lambda m: replace(m, signature=bytes(64)), "does not verify"),
    ("encrypting", HERE, lambda m: replace(m, round=1), "expected round 0, attempt 1, got round 1, attempt 1"),
    ("encrypting", HERE, lambda m: replace(m, attempt=2), "expected round 0, attempt 1, got round 0, attempt 2"),
    ("encrypting", HERE, lambda m: replace(m, payload=memoryview(bytes(m.payload)[1:])), "expected residues in"),
    ("encrypting", HERE, lambda m: replace(m, payload=memoryview(b"\xff" * len(m.payload))), "below their prime"),
    ("challenging", KEEPER, lambda m: replace(m, signature=bytes(64)), "does not verify"),
    ("challenging", KEEPER, lambda m: replace(m, seed=OTHER), "does not verify"),
    ("checking", HERE, lambda m: replace(m, tags=m.tags[:1]), "expected tags for 2 key holders, got 1"),
    ("checking", HERE, lambda m: replace(m, tags=(m.tags[0], m.tags[1][1:])), "each from 0 to below its prime"),
    ("checking", HERE, lambda m: replace(m, tags=(m.tags[0], (2**63, *m.tags[1][1:]))), "each from 0 to below its prime"),
    ("opening", KEEPER, lambda m: replace(m, round=1), "expected round 0, got round 1"),
    ("opening", KEEPER, lambda m: replace(m, payload=memoryview(bytes(m.payload)[1:])), "expected residues in"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "sender", "change", "what"), WRONG)
def test_what_a_party_signs_and_may_not_send_is_blamed_on_it(
    phase: str, sender: int, change: Callable[[Any], Message], what: str
) -> None:
    """A client is left out from then on; without a key holder, nothing can be opened."""
    stage = Stage(phase, holders=2)
    server, wrong = stage.server, change(stage.answer(sender))
    before = snapshot(server)
    with pytest.raises(RemoteProtocolError, match=what):
        server.receive(sender, stage.signed(sender, wrong))
    assert list(server.blame) == [sender]
    assert before["waiting_for"] - server.waiting_for == {sender}  # type: ignore[operator]
    for name in ("state", "_joined", "_said", "_challenges"):
        assert before[name] == vars(server)[name]
    for other in sorted(server.waiting_for):
        server.receive(other, stage.signed(other, stage.answer(other)))
    if sender == HERE:
        server.advance()
        return
    with pytest.raises(RoundAbortedError, match=f"none can be replaced: holder-0; holder-0: .*{what}"):
        server.advance()


def test_a_single_key_holder_gives_as_many_values_as_the_sum_has() -> None:
    for change in (lambda payload: payload[8:], lambda payload: payload + bytes(8), lambda payload: b""):
        stage = Stage("opening")
        answer: Any = stage.answer(KEEPER)
        wrong = Opened(0, memoryview(change(bytes(answer.payload))))
        with pytest.raises(RemoteProtocolError, match="expected a sum of 5 values of 40 bytes, got"):
            stage.server.receive(KEEPER, stage.signed(KEEPER, wrong))
        with pytest.raises(RoundAbortedError, match="key holders are missing"):
            stage.server.advance()


def test_a_committees_key_and_sum_come_of_honest_parts_only() -> None:
    stage = Stage("key shares", holders=2)
    for sender in (6, 7):
        share = stage.answer(sender) if sender == KEEPER else KeyShare(b"no share")
        stage.server.receive(sender, stage.signed(sender, share))
    with pytest.raises(RoundAbortedError, match="the key holders' shares make no key: expected residues"):
        stage.server.advance()
    assert stage.server.state is ServerState.ABORTED
    stage = Stage("opening", holders=2)
    answers: list[Any] = [stage.answer(sender) for sender in (6, 7)]
    for sender in (6, 7):  # the first holder's part twice
        stage.server.receive(sender, stage.signed(sender, answers[0]))
    stage.server.advance()
    with pytest.raises(
        RoundAbortedError, match="released makes no sum: expected a noise budget of at least 2 bits"
    ):
        stage.server.result()
    assert stage.server.state is ServerState.READY


@pytest.mark.parametrize("phase", PHASES)
def test_what_comes_twice_too_early_or_from_strangers_is_refused_and_nobodys_fault(phase: str) -> None:
    stage = Stage(phase)
    server = stage.server
    sender = min(stage.pending)
    before = snapshot(server)

    def refused(who: int, data: bytes, what: str) -> None:
        with pytest.raises(RemoteProtocolError, match=what):
            server.receive(who, data)

    for stranger in (5, -1, 9):  # of the roster and not of the cohort, or of nothing
        refused(stranger, bytes(200), "expected a party of this session, got an unknown one")
    refused(sender, bytes(2**20), "expected at most [0-9]+ bytes in state")
    refused(sender, bytes(64), "expected a message and a signature of 64 bytes, got 64 bytes")
    honest = stage.answer(sender)
    early = Challenge(OTHER, bytes(64)) if phase != "challenging" else KeyAnnouncement(bytes(64))
    expected, got = type(honest).__name__, type(early).__name__
    refused(sender, stage.signed(sender, early), f"in state {phase} expected {expected}, got {got}")
    frame = stage.signed(sender, honest)
    refused(sender, frame[:-1], "signed by this sender in answer to what it was sent, got a wrong signature")
    other = next((who for who in stage.pending if who != sender), None)
    if other is not None:
        refused(other, frame, "signed by this sender in answer to what it was sent, got a wrong signature")
    assert same(before, snapshot(server))
    server.receive(sender, frame)
    refused(sender, frame, "it answered before, dropped out, or was not asked")
    assert not server.blame


def test_nothing_is_taken_between_rounds() -> None:
    stage = Stage("encrypting")
    server = stage.world.session(cohort=(0, 1, 2, 3, 4)).server
    with pytest.raises(RemoteProtocolError, match="signed by this sender"):
        server.receive(HERE, stage.signed(HERE, Joined()))
    session = stage.world.session(cohort=(0, 1, 2, 3, 4)).set_up()
    frame = sign_frame(
        stage.world.identities[HERE],
        session.agreement.transcript(),
        session.server._questions[HERE],
        HERE,
        Joined(),
    )
    with pytest.raises(RemoteProtocolError, match="in state ready expected nothing, got Joined"):
        session.server.receive(HERE, frame)


def test_what_a_program_may_not_do_with_its_server() -> None:
    stage = Stage("encrypting")
    server, world = stage.server, stage.world
    other = KeyWorld(6)
    for rosters in ((other.roster, world.key_holders), (world.roster, other.key_holders)):
        with pytest.raises(LocalProtocolError, match="not for this roster and these key holders"):
            HomomorphicServer(server.agreement, *rosters, least=3)
    for wrong in (server.start, server.result, lambda: server.open_round(1)):
        with pytest.raises(LocalProtocolError, match=r"expected state .*, the server is in state encrypting"):
            wrong()
    session = world.session(cohort=(0, 1, 2, 3, 4))
    with pytest.raises(LocalProtocolError, match="nothing to advance in state start"):
        session.server.advance()
    session.set_up()
    with pytest.raises(LocalProtocolError, match="nothing to advance in state ready"):
        session.server.advance()


# ---- what is agreed on, and what travels ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"version": "secure-afl/0"}, "expected protocol version 'secure-afl/2', got 'secure-afl/0'"),
        ({"session": bytes(31)}, "a session number of 32 bytes, got 31"),
        ({"roster": bytes(31)}, "a roster digest of 32 bytes, got 31"),
        ({"holders": b""}, "a digest of key holders of 32 bytes, got 0"),
        ({"masks": bytes(33)}, "a transcript of masks of 32 bytes, got 33"),
        ({"lattice": "bfv-128"}, "expected one of bfv-46, .*, got 'bfv-128'"),
        ({"cohort": (0, 1, 1)}, "expected the cohort in increasing order"),
        ({"cohort": (-1, 1)}, "expected the cohort in increasing order"),
        ({"cohort": (1,)}, "expected at least 2 clients and one round"),
        ({"cohort": ()}, "expected at least 2 clients and one round"),
        ({"rounds": ()}, "expected at least 2 clients and one round"),
        ({"masks": OTHER}, "sum 0: the masks of this sum are not those of the session"),
        (
            {"cohort": tuple(range(2000))},
            "sum 0: a sum of 2000 clients can overflow",
        ),
    ],
)
def test_an_agreement_is_valid_or_does_not_exist(fields: dict[str, object], what: str) -> None:
    honest = KeyWorld(4).session(fraction_bits=30).agreement
    with pytest.raises(WireError, match=what):
        replace(honest, **fields)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"modulus": 2**40 + 15}, "sum 0: the masks of this sum are not those of the session"),
        ({"magnitude": 2**45}, "sum 0: a sum of 4 clients can overflow"),
        ({"magnitude": 2**45, "width": 4}, "sum 0: a sum of 4 values up to .* can overflow words of 4 bytes"),
        ({"width": 9}, "sum 0: "),
        ({"magnitude": 0}, "sum 0: "),
        ({"statistic": "sum 1"}, "'sum 1' is planned twice: each sum of a session is made once"),
    ],
)
def test_the_rounds_of_an_agreement_are_valid(fields: dict[str, Any], what: str) -> None:
    honest = KeyWorld(4).session(rounds=2).agreement
    first, second = honest.rounds
    with pytest.raises(WireError, match=what):
        replace(honest, rounds=(replace(first, **fields), second))


def test_what_cannot_be_planned_is_refused() -> None:
    plan = [SumPlan("s", 3, 1.0)]
    system = [SumPlan("s", 6, 1.0, system=RidgeSystem(2, 1, 1e-3))]
    for backend in (Backend.MASK, Backend.PLAIN):
        with pytest.raises(LocalProtocolError, match=f"backend bfv.mask, bfv or ckks, got '{backend}'"):
            Encryption(backend)
    with pytest.raises(LocalProtocolError, match="expected release sum or weights, got 'key'"):
        Encryption.of(Backend.BFV, "key")
    with pytest.raises(LocalProtocolError, match="key holders cannot solve a masked sum: release the sum"):
        Encryption(Backend.BFV_MASK, release=Release.WEIGHTS)
    with pytest.raises(
        LocalProtocolError, match="'s' is no system that key holders could solve: release the sum"
    ):
        Encryption(Backend.CKKS, release=Release.WEIGHTS).agreed(plan, 4, 1)
    for one in (Encryption(Backend.CKKS), Encryption(Backend.BFV, release=Release.WEIGHTS)):
        with pytest.raises(
            LocalProtocolError, match="a committee of key holders opens sums under BFV, nothing else"
        ):
            one.agreed(system, 4, 2)
    for encryption, what in (
        (Encryption(Backend.BFV), "need more than"),
        (Encryption(Backend.CKKS), "cannot hold a sum of 4 values up to 1e.300"),
    ):
        with pytest.raises(CryptoError, match=what):
            encryption.agreed([SumPlan("s", 3, 1e300, 32)], 4, 1)
    with pytest.raises(
        CryptoError, match=r"ckks-precise guarantees an error of .*, but 1e-18 was requested: agree on"
    ):
        Encryption(Backend.CKKS).agreed([SumPlan("s", 3, 1.0, error=1e-18)], 4, 1)


@pytest.mark.parametrize(
    ("build", "what"),
    [
        (lambda: KeyCommitment(bytes(31)), "a commitment of 32 bytes, got 31"),
        (lambda: KeyAnnouncement(bytes(63)), "a signature of 64 bytes, got 63"),
        (lambda: Challenge(bytes(31), bytes(64)), "a seed of 32 bytes, got 31"),
        (lambda: Challenge(bytes(32), bytes(65)), "a signature of 64 bytes, got 65"),
        (lambda: Tags((), bytes(1)), "a digest of a data set's name of 32 bytes, got 1"),
        (lambda: KeyCommitments(bytes(31), ()), "a transcript of 32 bytes, got 31"),
        (lambda: KeyCommitments(OTHER, ((1, b""), (1, b""))), "the key holders in increasing order"),
        (lambda: KeyShares(OTHER, ((2, b""), (1, b""))), "the key holders in increasing order"),
        (lambda: EncryptedRequest(OTHER, 0, 0, (1, 0)), "the participants in increasing order"),
        (lambda: Offer(OTHER, 0, 0, (-1, 0), OTHER), "the contributors in increasing order"),
        (lambda: Offer(OTHER, 0, 0, (0, 1), b""), "a digest of ciphertexts of 32 bytes, got 0"),
        (
            lambda: Opening(OTHER, b"", ((0, b""), (0, b"")), memoryview(b"")),
            "the contributors in increasing",
        ),
    ],
)
def test_a_message_is_valid_or_does_not_exist(build: Callable[[], Message], what: str) -> None:
    with pytest.raises(WireError, match=what):
        build()


def test_no_message_and_no_party_shows_its_contents() -> None:
    stage = Stage("opening")
    seen = {type(decode(envelope.data, FROM_SERVER)) for envelope in stage.tap.seen if not envelope.upward}
    assert len(seen) == 7
    for envelope in stage.tap.seen:
        if not envelope.upward:
            message = decode(envelope.data, FROM_SERVER)
            assert repr(message) == f"{type(message).__name__}(…)"
    assert repr(stage.client) == "HomomorphicClient(site-1, ready)"
    assert repr(stage.holder) == "KeyHolder(holder-0, challenged)"
    assert repr(stage.server) == "HomomorphicServer(opening, waiting for 1)"


# ---- any bytes ----------------------------------------------------------------------------------------

scalars = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.binary(max_size=80),
    st.sampled_from([0, 1, -1, 2**62, bytes(32), bytes(64)]),
    st.text(max_size=5),
    st.booleans(),
    st.floats(),
    st.none(),
)
trees = st.recursive(scalars, lambda inner: st.lists(inner, max_size=5), max_leaves=10)


def places_in(tree: Any, path: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """The paths to all parts of a message."""
    inner = (
        [index for at, one in enumerate(tree) for index in places_in(one, (*path, at))]
        if isinstance(tree, list)
        else []
    )
    return [path, *inner]


def put(tree: Any, path: tuple[int, ...], value: Any) -> Any:
    if not path:
        return value
    return [put(one, path[1:], value) if at == path[0] else one for at, one in enumerate(tree)]


def mutated(data: st.DataObject, honest: bytes) -> bytes:
    """An honest message with one part put in another's place, drawn anew, or its bytes cut or flipped."""
    if data.draw(st.booleans(), label="bytes"):
        at = data.draw(st.integers(0, len(honest) - 1))
        cut = data.draw(st.booleans())
        return (
            honest[:at]
            if cut
            else honest[:at] + bytes([honest[at] ^ data.draw(st.integers(1, 255))]) + honest[at + 1 :]
        )
    tree = msgpack.decode(honest)
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(places_in(tree)))
        tree = put(tree, path, data.draw(trees))
    return msgpack.encode(tree)


CLIENT_PHASES = ("inviting", "encrypting", "checking")
HOLDER_PHASES = ("key commitments", "key shares", "key announcements", "challenging", "opening")


@pytest.mark.slow
@settings(max_examples=150)
@given(st.sampled_from(PHASES), st.sampled_from([1, 2]), st.data())
def test_a_client_and_a_key_holder_refuse_what_is_not_the_next_step(
    phase: str, holders: int, data: st.DataObject
) -> None:
    stage = Stage(phase, holders=holders if phase.startswith("key") else 1)
    party = stage.client if phase in CLIENT_PHASES else stage.holder
    honest = stage.pending[HERE if phase in CLIENT_PHASES else KEEPER]
    old = [envelope.data for envelope in stage.tap.seen if not envelope.upward]
    wrong = mutated(data, honest) if not old or data.draw(st.booleans()) else data.draw(st.sampled_from(old))
    before = snapshot(party)
    try:
        party.receive(wrong)
    except (RemoteProtocolError, PolicyError):
        assert same(before, snapshot(party))
        assert party.receive(honest)  # still taken
        return
    # Only what an honest server could have sent: other participants, a later round or attempt, another session.
    kind = type(decode(wrong, FROM_SERVER))
    assert wrong == honest or kind in (EncryptedRequest, Offer, Agreement)


@pytest.mark.slow
@settings(max_examples=100)
@given(st.sampled_from(PHASES), st.sampled_from([1, 2]), st.data())
def test_a_server_refuses_what_is_not_the_answer(phase: str, holders: int, data: st.DataObject) -> None:
    stage = Stage(phase, holders=holders if phase.startswith("key") else 1)
    server, sender = stage.server, HERE if phase in CLIENT_PHASES else KEEPER
    honest = stage.answer(sender)
    wrong = mutated(data, encode(honest))
    if wrong == encode(honest):
        return
    signed = data.draw(st.booleans())
    raw: Any = msgspec.Raw(wrong)  # encodes as these very bytes
    before = (server.state, server.waiting_for)
    try:
        server.receive(sender, stage.signed(sender, raw) if signed else wrong)
    except (ProtocolError, CryptoError):
        assert server.state is before[0]
        assert set(server.blame) <= ({sender} if signed else set())
        assert before[1] - server.waiting_for == set(server.blame)
        if not signed:
            server.receive(sender, stage.signed(sender, honest))
        return
    # Taken as it is: what no server can tell from an honest value.
    assert signed
    assert type(decode(wrong, messages.FROM_PARTY)) is type(honest)
    assert type(honest) in (KeyCommitment, KeyShare, EncryptedUpload, Tags, Opened)


def test_the_error_of_an_entry_is_none_only_where_sums_are_exact() -> None:
    for backend in ("bfv", "ckks"):
        here = KeyWorld(4, backend)
        agreement = here.session().agreement
        lattice, encoding = LATTICES[agreement.lattice], agreement.rounds[0].encoding(4)
        approximate = (
            ckks.entry_error(lattice, encoding, 3, agreement.decryptions) if backend == "ckks" else 0.0
        )
        for exact, error in ((True, 0.0), (False, encoding.entry_error(3))):
            plan = SumPlan("sum 0", 5, 100.0, 20, exact=exact)
            assert agreement.entry_error(0, plan, 4, 3) == (approximate or error)
        assert encoding.entry_error(3) > 0
