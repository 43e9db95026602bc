"""A server's view of a session: every frame that it receives or sends."""

import numpy as np

from secure_afl.crypto import ring
from secure_afl.crypto.fixed_point import FixedPoint
from secure_afl.crypto.identity import SIGNATURE_BYTES
from secure_afl.crypto.lattice.parameter_sets import Lattice, Residues
from secure_afl.protocol.homomorphic import messages as encrypted
from secure_afl.protocol.masking import messages as masked
from secure_afl.protocol.session.wire import decode
from secure_afl.protocol.transport.driver import Packet, PerfectNetwork
from secure_afl.simulations.data.dataset import Floats

MASKED, ENCRYPTED = "collecting", "encrypting"


class Tap(PerfectNetwork):
    """Keep every message, as a server can. silent: clients whose uploads are lost."""

    def __init__(self) -> None:
        self.seen: list[Packet] = []
        self.silent: frozenset[int] = frozenset()

    def carry(self, packet: Packet) -> list[Packet]:
        if packet.upward and packet.phase in (MASKED, ENCRYPTED) and packet.client in self.silent:
            return []
        self.seen.append(packet)
        return [packet]

    def frame(self, phase: str, client: int) -> memoryview:
        """A client's last message in a phase, without its signature."""
        last = next(
            one for one in reversed(self.seen) if (one.phase, one.client, one.upward) == (phase, client, True)
        )
        return memoryview(last.data)[:-SIGNATURE_BYTES]

    def said(self, phase: str, client: int) -> masked.FromClient:
        """A message of a masked session."""
        return decode(self.frame(phase, client), masked.FROM_CLIENT)

    def words(self, client: int, length: int, width: int) -> ring.Words:
        """The masked vector that a client uploaded last."""
        upload = self.said(MASKED, client)
        assert isinstance(upload, masked.Upload)
        total = np.zeros(length, ring.words_of(width))
        ring.add_packed(total, upload.payload, width)
        return total

    def ciphertexts(self, client: int, length: int, lattice: Lattice) -> Residues:
        """The ciphertexts that a client uploaded last."""
        upload = decode(self.frame(ENCRYPTED, client), encrypted.FROM_PARTY)
        assert isinstance(upload, encrypted.EncryptedUpload)
        return lattice.unpack(upload.payload, length)


def decoded(words: ring.Words, encoding: FixedPoint) -> Floats:
    """Decode words as one client's vector, whatever they contain."""
    return np.ldexp(ring.signed(words, encoding.width).astype(np.float64), -encoding.fraction_bits)
