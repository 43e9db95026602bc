"""Whatever bytes arrive, in whatever state: our own errors, no blame without a signature, no change of state."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import msgpack
from worlds.cohorts import Session, Tap, world

from secure_afl.protocol.masking.messages import Delivery
from secure_afl.protocol.masking.states import ClientState, ServerState
from secure_afl.protocol.session.errors import PolicyError, RemoteProtocolError
from secure_afl.protocol.session.wire import encode, sign_frame

WORLD = world(4)
PHASES = ["advertising", "sharing", "confirming", "collecting", "consenting", "unmasking", "answering"]

scalars = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.binary(max_size=80),
    st.sampled_from([0, 1, 3, bytes(32), bytes(64)]),
    st.text(max_size=5),
    st.booleans(),
    st.floats(),
    st.none(),
)
tags = st.sampled_from(
    [
        "advertise",
        "shares",
        "bundle",
        "confirm",
        "upload",
        "consent",
        "reveal",
        "directory",
        "delivery",
        "survivors",
        "consents",
        "verdict",
    ]
)
trees = st.recursive(scalars, lambda inner: st.lists(inner, max_size=5), max_leaves=12)
near_messages = st.builds(
    lambda tag, fields: msgpack.encode([tag, *fields]), tags, st.lists(trees, max_size=5)
)


def at(phase: str) -> tuple[Session, Tap]:
    """A session in which this phase's messages have been sent but not one answer has come."""
    tap = Tap()
    session = WORLD.session(WORLD.propose(rounds=2), tap)
    steps = [session.server.start, session.server.advance, session.server.advance]
    for wanted, step in zip(PHASES, steps, strict=False):
        if wanted == phase:
            session.pending = step()  # type: ignore[attr-defined]
            return session, tap
        session.cohort.run(step, session.contribute)
    session.server.advance()
    if phase == "collecting":
        session.pending = session.server.open_round(0)  # type: ignore[attr-defined]
        return session, tap
    session.cohort.run(lambda: session.server.open_round(0), session.contribute)
    for ended in ("consenting", "unmasking"):
        if phase in ("unmasking", "answering") and phase != ended:
            session.cohort.run(session.server.advance, session.contribute)
    if phase == "answering":
        session.server.result()
    session.pending = session.server.advance()  # type: ignore[attr-defined]
    return session, tap


@pytest.mark.slow
@settings(max_examples=150)
@given(st.sampled_from(PHASES), st.data())
def test_a_server_refuses_what_is_not_the_answer(phase: str, data: st.DataObject) -> None:
    session, tap = at(phase)
    server = session.server
    old = [envelope.data for envelope in tap.seen]
    bytes_ = data.draw(st.one_of(st.binary(max_size=200), near_messages, st.sampled_from(old or [b""])))
    sender = data.draw(st.sampled_from([0, 1, 2, 3, 4, -1]))
    signed = data.draw(st.booleans()) and 0 <= sender < 4
    if signed:
        message: Any = msgspec.Raw(bytes_)  # encodes as these very bytes
        transcript = session.parameters.transcript()
        frame = sign_frame(WORLD.identities[sender], transcript, server._questions[sender], sender, message)
    else:
        frame = bytes_
    before = (server.state, server.waiting_for)
    with pytest.raises(RemoteProtocolError):
        server.receive(sender, frame)
    assert server.state is before[0] is ServerState(phase)
    assert set(server.blame) <= ({sender} if signed else set())
    assert before[1] - server.waiting_for == set(server.blame)


@pytest.mark.slow
@settings(max_examples=150)
@given(st.sampled_from(PHASES), st.data())
def test_a_client_refuses_what_is_not_the_next_step(phase: str, data: st.DataObject) -> None:
    session, tap = at(phase)
    client = session.clients[1]
    transcript = session.parameters.transcript()
    with_transcript = st.builds(
        lambda tag, fields: msgpack.encode([tag, transcript, *fields]), tags, st.lists(trees, max_size=4)
    )
    own = [envelope.data for envelope in tap.seen]
    bytes_ = data.draw(
        st.one_of(st.binary(max_size=200), with_transcript, near_messages, st.sampled_from(own or [b""]))
    )
    state = client.state
    try:
        client.receive(bytes_)
    except (RemoteProtocolError, PolicyError):
        assert client.state is state
        # The honest message is still taken.
        pending = session.pending  # type: ignore[attr-defined]
        assert client.receive(pending[1])
        return
    # Only what a server may say was taken: a repeated invitation by a client that has not answered one, or that nobody
    # dealt shares to this client, which then takes part in no round.
    nothing_dealt = encode(Delivery(transcript, ()))
    assert state is ClientState.START or bytes_ in (encode(session.parameters), nothing_dealt, *own)


def test_the_phases_above_are_all_there_are() -> None:
    assert [
        state.value for state in ServerState if state.value not in ("start", "ready", "opened", "aborted")
    ] == PHASES
