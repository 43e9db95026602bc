"""The three state machines of an encrypted session. Only these transitions are legal."""

from collections.abc import Mapping
from enum import Enum

from secure_afl.protocol.homomorphic.agreement import Agreement
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
from secure_afl.protocol.session.wire import Message


class ClientState(Enum):
    """A client's last action."""

    START = "start"
    READY = "ready"
    REQUESTED = "requested"
    UPLOADED = "uploaded"


class HolderState(Enum):
    """A key holder's last action."""

    START = "start"
    COMMITTED = "committed"
    SHARED = "shared"
    READY = "ready"
    CHALLENGED = "challenged"


class ServerState(Enum):
    """What a server is doing. The values name phases, and differ from those of a masked session."""

    START = "start"
    COMMITTING = "key commitments"
    SHARING = "key shares"
    ANNOUNCING = "key announcements"
    INVITING = "inviting"
    READY = "ready"
    COLLECTING = "encrypting"
    CHALLENGING = "challenging"
    CHECKING = "checking"
    OPENING = "opening"
    OPENED = "opened"
    ABORTED = "aborted"


_NEW_ROUND: dict[type[Message], ClientState] = {EncryptedRequest: ClientState.REQUESTED}
CLIENT: Mapping[ClientState, Mapping[type[Message], ClientState]] = {
    ClientState.START: {Invitation: ClientState.READY},
    ClientState.READY: _NEW_ROUND,
    # The server may begin a round again without silent clients. REQUESTED → UPLOADED is the client's own step.
    ClientState.REQUESTED: _NEW_ROUND,
    ClientState.UPLOADED: {**_NEW_ROUND, Check: ClientState.READY},
}
HOLDER: Mapping[HolderState, Mapping[type[Message], HolderState]] = {
    HolderState.START: {Agreement: HolderState.COMMITTED},
    HolderState.COMMITTED: {KeyCommitments: HolderState.SHARED},
    HolderState.SHARED: {KeyShares: HolderState.READY},
    HolderState.READY: {Offer: HolderState.CHALLENGED},
    HolderState.CHALLENGED: {Offer: HolderState.CHALLENGED, Opening: HolderState.READY},
}
# state: (the message it collects, the state after it)
SERVER: Mapping[ServerState, tuple[type[Message], ServerState]] = {
    ServerState.COMMITTING: (KeyCommitment, ServerState.SHARING),
    ServerState.SHARING: (KeyShare, ServerState.ANNOUNCING),
    ServerState.ANNOUNCING: (KeyAnnouncement, ServerState.INVITING),
    ServerState.INVITING: (Joined, ServerState.READY),
    ServerState.COLLECTING: (EncryptedUpload, ServerState.CHALLENGING),
    ServerState.CHALLENGING: (Challenge, ServerState.CHECKING),
    # Back to COLLECTING without clients that uploaded and gave no tags.
    ServerState.CHECKING: (Tags, ServerState.OPENING),
    ServerState.OPENING: (Opened, ServerState.OPENED),
}
