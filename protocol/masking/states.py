"""The two state machines: every state, and every message that is legal in it. Nothing else is.

This file does not know what the messages do; `client` and `server` do not know any transition but these.
"""

from collections.abc import Mapping
from enum import Enum

from secure_afl.protocol.masking.messages import (
    Advertise,
    Confirm,
    Consent,
    Consents,
    Delivery,
    Directory,
    Reveal,
    Shares,
    SumRequest,
    Survivors,
    Upload,
)
from secure_afl.protocol.session.parameters import Parameters, Profile
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
}
CLIENT: Mapping[Profile, Mapping[ClientState, Mapping[type[Message], ClientState]]] = {
    Profile.ACTIVE: _CLIENT,
    Profile.SEMI_HONEST: {**_CLIENT, ClientState.UPLOADED: {**_NEW_ROUND, Survivors: ClientState.READY}},
}

# state: (the message it collects, the state after it)
SERVER: Mapping[Profile, Mapping[ServerState, tuple[type[Message], ServerState]]] = {
    profile: {
        ServerState.ADVERTISING: (Advertise, ServerState.SHARING),
        ServerState.SHARING: (Shares, ServerState.CONFIRMING),
        ServerState.CONFIRMING: (Confirm, ServerState.READY),
        ServerState.COLLECTING: (Upload, after_upload),
        ServerState.CONSENTING: (Consent, ServerState.UNMASKING),
        ServerState.UNMASKING: (Reveal, ServerState.READY),
    }
    for profile, after_upload in (
        (Profile.ACTIVE, ServerState.CONSENTING),
        (Profile.SEMI_HONEST, ServerState.UNMASKING),
    )
}
