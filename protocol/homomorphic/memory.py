"""What a client and a key holder of encrypted sums keep between the messages of a session.

Encoded it goes to a store of the party's own and comes back after a restart. Nobody else may see it: a key holder's
has the key that opens every upload.
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
    related: by round, where the plan says same, the contributors that this client gave tags for last.
    uploaded: the ciphertexts that it may still be asked to tag; data_set: digest of their data set's name.
    words: what they encrypt, as little-endian bytes, for further attempts at the round; empty before it contributed,
    under CKKS, and where a masked session keeps them.
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
        """Of the session."""
        return self.agreement.transcript()

    def __repr__(self) -> str:
        return f"ClientMemory({self.state.value})"


class HolderMemory(Guarded, msgspec.Struct):
    """One key holder's session.

    answers: digest of the server's last message. demands: of the plan. secret: the key, as its kind writes it; empty
    after the last round. commitments: of all key holders, by party.
    offer, challenge: of the sum that was offered last. opening: digest of the message over which that sum is being
    opened. opened: the last round that was. related: contributors of the sums that must have the same.
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
        """Of the session."""
        return self.agreement.transcript()

    def __repr__(self) -> str:
        return f"HolderMemory({self.state.value})"


CLIENT_MEMORY = msgspec.msgpack.Decoder(ClientMemory)
HOLDER_MEMORY = msgspec.msgpack.Decoder(HolderMemory)
