"""What a key holder has: the whole secret key, or its share of a joint one; and what servers make of the shares.

TenSEAL is loaded where a key is made and where a committee's decryption is put together, not by a server that
only adds.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from secure_afl.crypto.guarded import Guarded
from secure_afl.crypto.lattice import bfv, joint_key
from secure_afl.crypto.lattice.parameter_sets import Lattice, Residues

Words = npt.NDArray[np.uint64]


class WholeKey(Guarded):
    """Of a single key holder. share: the public key. kept: what `kept` gave, for the same key again."""

    def __init__(self, lattice: Lattice, kept: bytes | None = None) -> None:
        from secure_afl.crypto.lattice.seal import SecretKey

        self._lattice = lattice
        self._secret = SecretKey(lattice, kept)
        self.share = self._secret.public_key

    def kept(self) -> bytes:
        """The secret, for the key holder's own store."""
        return self._secret.kept()

    def words(self, total: Residues, length: int) -> Words:
        """A sum under BFV, in Z_t. Raises `CryptoError` if the noise budget does not vouch for it."""
        return bfv.checked(*self._secret.decrypt(total, length), self._lattice)

    def slots(self, total: Residues, length: int) -> npt.NDArray[np.float64]:
        """A sum under CKKS, as decrypted: not to be given to anybody."""
        return self._secret.decrypt(total, length)[0]


class JointKey(Guarded):
    """Of one of several key holders. kept: what `kept` gave, for the same share again."""

    def __init__(self, lattice: Lattice, transcript: bytes, holders: int, kept: bytes | None = None) -> None:
        self._lattice = lattice
        self._holders = holders
        self._secret = joint_key.KeyShare(lattice, joint_key.common(lattice, transcript), kept)
        self.share = self._secret.public

    def kept(self) -> bytes:
        """The secret, for the key holder's own store."""
        return self._secret.kept()

    def part(self, total: Residues, summands: int) -> bytes:
        """This holder's partial decryption of a sum."""
        return joint_key.pack_partial(self._lattice, self._secret.partial(total, self._holders, summands))


def public_key(lattice: Lattice, transcript: bytes, shares: Sequence[bytes]) -> bytes:
    """The public key that all shares make. Raises `CryptoError` if they make none."""
    if len(shares) > 1:
        return joint_key.public_key(lattice, joint_key.common(lattice, transcript), shares)
    lattice.unpack_key(shares[0])
    return shares[0]


def parse_part(lattice: Lattice, part: bytes | memoryview, length: int) -> None:
    """Raises `CryptoError` unless this may be a partial decryption."""
    joint_key.unpack_partial(lattice, part, length)


def put_together(lattice: Lattice, total: Residues, parts: Sequence[bytes], length: int) -> Words:
    """The sum that all partial decryptions open, in Z_t. Raises `CryptoError` if one is missing or wrong."""
    from secure_afl.crypto.lattice import seal

    partials = [joint_key.unpack_partial(lattice, part, length) for part in parts]
    values, budget = seal.decode(lattice, joint_key.opened(lattice, total, partials), length)
    return bfv.checked(values, budget, lattice)
