"""The two state machines: every state, and every message that is legal in it. Nothing else is.

This file does not know what the messages do; `client` and `server` do not know any transition but these.
"""

from collections.abc import Mapping
from enum import Enum

from secure_afl.protocol.masking.messages import (
    Advertise,
    Answer,
    Confirm,
    Consent,
    Consents,
    Delivery,
    Directory,
    Evidence,
    Reveal,
    Shares,
    SumRequest,
    SurvivorRoots,
    Survivors,
    Upload,
    Verdict,
)
from secure_afl.protocol.session.parameters import Parameters
from secure_afl.protocol.session.profile import MODES, Mode, Profile, Verify
from secure_afl.protocol.session.wire import Message


class ClientState(Enum):
    """What a client has done last."""

    START = "start"
    ADVERTISED = "advertised"
    SHARED = "shared"
    READY = "ready"
    REQUESTED = "requested"
    UPLOADED = "uploaded"
    CONSENTED = "consented"
    REVEALED = "revealed"
    REJECTED = "rejected"


class ServerState(Enum):
    """What a server is doing."""

    START = "start"
    ADVERTISING = "advertising"
    SHARING = "sharing"
    CONFIRMING = "confirming"
    READY = "ready"
    COLLECTING = "collecting"
    CONSENTING = "consenting"
    UNMASKING = "unmasking"
    OPENED = "opened"
    ANSWERING = "answering"
    ABORTED = "aborted"


_NEW_ROUND: dict[type[Message], ClientState] = {SumRequest: ClientState.REQUESTED}
_CLIENT: dict[ClientState, dict[type[Message], ClientState]] = {
    ClientState.START: {Parameters: ClientState.ADVERTISED},
    ClientState.ADVERTISED: {Directory: ClientState.SHARED},
    ClientState.SHARED: {Delivery: ClientState.READY},
    ClientState.READY: {**_NEW_ROUND},
    # The next round may begin before this one ended: the server gave it up, or this client was slow.
    # The keys of the round left behind are erased. REQUESTED → UPLOADED is the client's own step.
    ClientState.REQUESTED: {**_NEW_ROUND},
    ClientState.UPLOADED: {**_NEW_ROUND, Survivors: ClientState.CONSENTED},
    ClientState.CONSENTED: {**_NEW_ROUND, Consents: ClientState.READY},
    # Without an answer it goes on, and has accepted nothing. REVEALED → REJECTED is its own step too: it refused a sum.
    ClientState.REVEALED: {**_NEW_ROUND, Answer: ClientState.READY},
    ClientState.REJECTED: {},
}
CLIENT: Mapping[Mode, Mapping[ClientState, Mapping[type[Message], ClientState]]] = {
    (Profile.ACTIVE, Verify.TAGS): {
        **_CLIENT,
        ClientState.CONSENTED: {**_NEW_ROUND, Consents: ClientState.REVEALED},
    },
    (Profile.ACTIVE, Verify.REPLAY): {
        **_CLIENT,
        ClientState.UPLOADED: {**_NEW_ROUND, SurvivorRoots: ClientState.CONSENTED},
        ClientState.CONSENTED: {**_NEW_ROUND, Consents: ClientState.REVEALED},
        ClientState.REVEALED: {**_NEW_ROUND, Evidence: ClientState.READY},
    },
    (Profile.ACTIVE, Verify.NONE): _CLIENT,
    (Profile.SEMI_HONEST, Verify.NONE): {
        **_CLIENT,
        ClientState.UPLOADED: {**_NEW_ROUND, Survivors: ClientState.READY},
    },
}

# state: (the message it collects, the state after it)
SERVER: Mapping[Mode, Mapping[ServerState, tuple[type[Message], ServerState]]] = {
    mode: {
        ServerState.ADVERTISING: (Advertise, ServerState.SHARING),
        ServerState.SHARING: (Shares, ServerState.CONFIRMING),
        ServerState.CONFIRMING: (Confirm, ServerState.READY),
        ServerState.COLLECTING: (
            Upload,
            ServerState.CONSENTING if mode[0] is Profile.ACTIVE else ServerState.UNMASKING,
        ),
        ServerState.CONSENTING: (Consent, ServerState.UNMASKING),
        ServerState.UNMASKING: (
            Reveal,
            ServerState.READY if mode[1] is Verify.NONE else ServerState.OPENED,
        ),
        ServerState.ANSWERING: (Verdict, ServerState.READY),
    }
    for mode in MODES
}
