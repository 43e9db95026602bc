"""A key holder's secret, the whole key or a share of a joint key, and how a server combines shares.

Making a key and combining a committee's partial decryptions load TenSEAL; a server that only adds does not.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from secure_afl.crypto.guarded import Guarded
from secure_afl.crypto.lattice import bfv, joint_key
from secure_afl.crypto.lattice.parameter_sets import Lattice, Residues

Words = npt.NDArray[np.uint64]


class WholeKey(Guarded):
    """The key of a single key holder. share: the public key. kept: bytes of `kept`, to restore the same key."""

    def __init__(self, lattice: Lattice, kept: bytes | None = None) -> None:
        from secure_afl.crypto.lattice.seal import SecretKey

        self._lattice = lattice
        self._secret = SecretKey(lattice, kept)
        self.share = self._secret.public_key

    def kept(self) -> bytes:
        """The secret, for the key holder's own store."""
        return self._secret.kept()

    def words(self, total: Residues, length: int) -> Words:
        """Decrypt a sum under BFV, in Z_t. Raises `CryptoError` if the noise budget is too small to trust it."""
        return bfv.checked(*self._secret.decrypt(total, length), self._lattice)

    def slots(self, total: Residues, length: int) -> npt.NDArray[np.float64]:
        """The raw decryption of a sum under CKKS: never release it."""
        return self._secret.decrypt(total, length)[0]


class JointKey(Guarded):
    """The share of one of several key holders. kept: bytes of `kept`, to restore the same share."""

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
    """The public key of all shares. Raises `CryptoError` if the shares do not give a key."""
    if len(shares) > 1:
        return joint_key.public_key(lattice, joint_key.common(lattice, transcript), shares)
    lattice.unpack_key(shares[0])
    return shares[0]


def parse_part(lattice: Lattice, part: bytes | memoryview, length: int) -> None:
    """Raises `CryptoError` unless the bytes have the form of a partial decryption."""
    joint_key.unpack_partial(lattice, part, length)


def put_together(lattice: Lattice, total: Residues, parts: Sequence[bytes], length: int) -> Words:
    """Combine all partial decryptions into the sum in Z_t. Raises `CryptoError` if one is missing or wrong."""
    from secure_afl.crypto.lattice import seal

    partials = [joint_key.unpack_partial(lattice, part, length) for part in parts]
    values, budget = seal.decode(lattice, joint_key.opened(lattice, total, partials), length)
    return bfv.checked(values, budget, lattice)
