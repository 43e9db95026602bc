"""No secret in a repr, an error text or a log; and every secret is drawn once."""

import traceback
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds.cohorts import Session, Tap, world

from secure_afl.protocol.masking import messages
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.masking.memory import session_sums, without_secrets
from secure_afl.protocol.masking.messages import FROM_SERVER, Advertise, Bundle, Reveal, Upload
from secure_afl.protocol.masking.states import ClientState
from secure_afl.protocol.session.errors import PolicyError, RemoteProtocolError, RoundAbortedError
from secure_afl.protocol.session.parameters import Parameters, Profile
from secure_afl.protocol.session.wire import Message, decode
from secure_afl.testing.faults import HANDLING, Fault, FaultyNetwork


def secrets_of(session: Session) -> Iterator[bytes]:
    for client in session.clients.values():
        if client.state is ClientState.START:
            continue
        for keys in (*client._memory.rounds.values(), client._memory.current):
            if keys is not None:
                yield from (keys.mask_seed, keys.self_seed, keys.own_share, *keys.pair_secrets.values())
                yield from (share for pair in keys.shares.values() for share in pair)
        yield client._identity._key.private_bytes_raw()


def shown(secret: bytes, text: str) -> bool:
    forms = (secret.hex(), repr(secret)[2:-1], str(list(secret))[1:-1], str(int.from_bytes(secret, "big")))
    return any(form and form in text for form in forms)


@pytest.mark.parametrize("profile", list(Profile))
def test_what_is_kept_of_a_session_that_ended_early_has_no_secret(profile: Profile) -> None:
    """The server may end a session with sums still to come, when its memory is full of secrets."""
    parties = world(4)
    session = parties.session(parties.propose(rounds=2, profile=profile)).set_up()
    session.sum()
    client = session.clients[0]
    memory = client._memory
    own = {client._identity._key.private_bytes_raw()}
    secrets = (
        {memory.channel_seed, memory.tag_key, *memory.tag_secrets.values(), *secrets_of(session)}
        - own
        - {b""}
    )
    held = [one for one in secrets if one in client.memory()]
    assert len(held) >= 5
    assert not [one for one in held if one in without_secrets(client.memory())]
    assert session_sums(without_secrets(client.memory())) == session_sums(client.memory())


@pytest.mark.parametrize("profile", list(Profile))
def test_no_secret_outlives_its_use_also_if_the_server_never_ends_the_session(profile: Profile) -> None:
    """The channel key opens shares once; a round's keys and shares go with its reveal, the session's with the last."""
    parties = world(4)
    session = parties.session(parties.propose(rounds=2, profile=profile))
    seeds: set[bytes] = set()
    for client in session.clients.values():

        def advertising(parameters: Parameters, client: MaskingClient = client) -> bytes:
            answer = MaskingClient._advertise(client, parameters)
            seeds.add(client._memory.channel_seed)
            return answer

        client._steps = {**client._steps, Parameters: advertising}
    session.set_up()
    channels = set(seeds)
    assert len(channels) == 4
    for number in (0, 1):
        seeds |= set(secrets_of(session)) - {
            one._identity._key.private_bytes_raw() for one in session.clients.values()
        }
        memories = b"".join(client.memory() for client in session.clients.values())
        assert not [one for one in channels if one in memories]
        session.sum(number)
    assert len(seeds) > 4 * 2 * 2
    for client in session.clients.values():
        assert (client._memory.rounds, client._memory.current) == ({}, None)
        memory = client.memory()
        assert not [one for one in seeds if one and one in memory]
        assert "channel" not in client._memory.__dict__


@settings(max_examples=30)
@given(st.sampled_from(HANDLING), st.data())
def test_no_error_and_no_repr_shows_a_secret_or_a_value(handling: str, data: st.DataObject) -> None:
    phases = ("advertising", "sharing", "confirming", "collecting", "consenting", "unmasking")
    fault = Fault(handling, data.draw(st.sampled_from(phases)), frozenset({0, 1}), upward=None)
    parties = world(4)
    session = parties.session(parties.propose(rounds=2), FaultyNetwork([fault]))
    texts = []
    try:
        session.set_up()
        secrets = set(secrets_of(session))
        session.sum(0)
    except RoundAbortedError as error:
        secrets = set(secrets_of(session))
        texts += [str(error), repr(error)]
    for refusal in session.cohort.refusals:
        texts += [str(refusal), repr(refusal), "".join(traceback.format_exception(refusal))]
    for party in (*session.clients.values(), session.server, session.cohort, *session.world.identities):
        texts.append(repr(party))
    text = "\n".join(texts)
    assert not [secret for secret in secrets if secret and shown(secret, text)]
    values = [value for vector in session.vectors.values() for value in vector]
    assert not [value for value in values if repr(float(value)) in text]


def test_no_message_shows_its_contents() -> None:
    parties = world(4)
    tap = Tap()
    session = parties.session(parties.propose(), tap).set_up()
    session.sum()
    for envelope in tap.seen:
        if envelope.upward:
            message: Message = session.message(envelope)
        elif envelope.phase == "advertising":
            message = session.parameters
        else:
            message = decode(envelope.data, FROM_SERVER)
        assert repr(message) == f"{type(message).__name__}(…)"


def test_nothing_secret_is_drawn_or_sent_twice() -> None:
    """Over clients, rounds and sessions: keys, seeds, shares, sealed messages, payloads and commitments are fresh."""
    parties = world(4)
    seen: list[bytes] = []
    for _ in range(2):
        tap = Tap()
        session = parties.session(parties.propose(rounds=2), tap).set_up()
        seen += [
            s
            for s in secrets_of(session)
            if s not in {i._key.private_bytes_raw() for i in parties.identities}
        ]
        # The same vector from every client in every round: only the masks can differ.
        session.vectors = dict.fromkeys(session.vectors, session.vectors[0, 0])
        for number in range(2):
            session.sum(number)
        for envelope in tap.seen:
            if not envelope.upward:
                continue
            match session.message(envelope):
                case Advertise(channel_key=key, mask_keys=keys):
                    seen += [key, *keys]
                case Upload(payload=payload):
                    seen.append(bytes(payload))
                case messages.Shares(own_commitments=own, bundles=bundles):
                    seen += [part for pair in own for part in pair]
                    for bundle in bundles:
                        assert isinstance(bundle, Bundle)
                        seen += [bundle.sealed, *bundle.pair_secrets]
                        seen += [part for each in bundle.commitments for part in each]
                case Reveal():
                    pass
    # A pair secret is known to both neighbours, a share to dealer and holder: each held once on our list, though.
    pair_secrets = [s for s in seen if len(s) == 32 and seen.count(s) == 2]
    assert len(set(pair_secrets)) == 2 * 2 * 6  # sessions × rounds × pairs, and nothing else twice
    rest = [s for s in seen if s not in set(pair_secrets)]
    assert len(set(rest)) == len(rest)


def test_a_rounds_keys_are_gone_when_it_is_over() -> None:
    parties = world(4)
    session = parties.session(parties.propose(rounds=3)).set_up()
    session.sum(1)
    for client in session.clients.values():
        assert client._memory.current is None
        assert sorted(client._memory.rounds) == [2]


def test_an_over_bound_value_is_refused_by_its_owner_and_nothing_leaves() -> None:
    parties = world(4)
    tap = Tap()
    session = parties.session(parties.propose(), tap).set_up()
    session.vectors[0, 0] = session.vectors[0, 0] * 1e6
    session.vectors[1, 0] = session.vectors[1, 0] * float("nan")
    with pytest.raises(RoundAbortedError, match="2 uploaded"):
        session.sum()
    refused = [str(one) for one in session.cohort.refusals]
    assert any("over the agreed bound" in text for text in refused)
    assert any("not finite" in text for text in refused)
    assert not [e for e in tap.seen if e.upward and e.phase == "collecting" and e.client in (0, 1)]


def test_errors_name_who_sent_what_and_what_was_expected() -> None:
    parties = world(4)
    session = parties.session(parties.propose()).set_up()
    with pytest.raises(RemoteProtocolError) as refused:
        session.clients[2].receive(b"\x00" * 40)
    assert (refused.value.who, refused.value.sender) == ("site-2", "the server")
    with pytest.raises(RemoteProtocolError) as refused:
        session.server.receive(2, b"\x00" * 100)
    assert (refused.value.who, refused.value.sender) == ("the server", "site-2")
    assert "expected 100 bytes signed by this sender" in str(refused.value)
    with pytest.raises(PolicyError, match="expected at least 2 honest"):
        type(parties.policy)(minimum_honest=1)
