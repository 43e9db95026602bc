"""The state of a client and a key holder of encrypted sums between the messages of a session.

Its encoding goes to the party's own store and is read back after a restart. It must stay secret: a key holder's memory
contains the key that opens every upload.
"""

import msgspec

from secure_afl.crypto.guarded import Guarded
from secure_afl.protocol.homomorphic import states
from secure_afl.protocol.homomorphic.agreement import Agreement
from secure_afl.protocol.homomorphic.messages import Challenge, Offer
from secure_afl.protocol.session.parameters import Demands


class ClientMemory(Guarded, msgspec.Struct):
    """One client's session.

    answers: digest of the server's last message. demands: of the plan.
    related: for sums that must have the same contributors, by round: those that this client last gave tags for.
    uploaded: ciphertexts that it may still have to tag; data_set: digest of their data set's name.
    words: their plaintext as little-endian bytes, for further attempts at the round; empty before the contribution,
    under CKKS, and if a masked session keeps them.
    """

    agreement: Agreement
    state: states.ClientState
    answers: bytes
    demands: Demands
    key: bytes
    attempt: int = -1
    round: int = -1
    participants: frozenset[int] = frozenset()
    related: dict[int, frozenset[int]] = {}
    uploaded: bytes = b""
    words: bytes = b""
    data_set: bytes = b""

    @property
    def transcript(self) -> bytes:
        """The session's transcript."""
        return self.agreement.transcript()

    def __repr__(self) -> str:
        return f"ClientMemory({self.state.value})"


class HolderMemory(Guarded, msgspec.Struct):
    """One key holder's session.

    answers: digest of the server's last message. demands: of the plan. secret: the encoded key; empty after the last
    round. commitments: of all key holders, by party. offer, challenge: of the last offered sum. opening: digest of the
    message that asks to open it. opened: the last opened round. related: contributors of sums that must have the same.
    """

    agreement: Agreement
    state: states.HolderState
    answers: bytes
    demands: Demands
    secret: bytes = b""
    commitments: dict[int, bytes] = {}
    offer: Offer | None = None
    challenge: Challenge | None = None
    opening: bytes = b""
    opened: int = -1
    related: tuple[int, ...] | None = None

    @property
    def transcript(self) -> bytes:
        """The session's transcript."""
        return self.agreement.transcript()

    def __repr__(self) -> str:
        return f"HolderMemory({self.state.value})"


CLIENT_MEMORY = msgspec.msgpack.Decoder(ClientMemory)
HOLDER_MEMORY = msgspec.msgpack.Decoder(HolderMemory)
