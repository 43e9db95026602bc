"""Mask expansion: AES-256-CTR keystream, added into the caller's vector in place.

The keystream starts at counter 0 and is read as little-endian uint64, so a key must never expand
two vectors: keys come from `kdf.derive` with the session, the round and the pair in their context.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.kdf import KEY_BYTES

# The keystream chunk and the part of the vector it is added to stay in the core's L2 cache.
CHUNK_BYTES = 64 * 1024
_ZEROS = memoryview(bytes(CHUNK_BYTES))


def add_keystreams(
    vector: npt.NDArray[np.uint64], *, plus: Sequence[bytes] = (), minus: Sequence[bytes] = ()
) -> None:
    """`vector += Σ PRG(plus) − Σ PRG(minus)` mod 2⁶⁴, in place, with 64 KiB of scratch memory.

    Raises `CryptoError` if the vector is not contiguous uint64, a key is not 32 bytes, or a key
    comes twice (its mask would cancel or repeat).
    """
    if vector.dtype != np.uint64 or vector.ndim != 1 or not vector.flags.c_contiguous:
        raise CryptoError(f"expected a contiguous uint64 vector, got {vector.dtype} of shape {vector.shape}")
    keys = [*plus, *minus]
    if any(len(key) != KEY_BYTES for key in keys):
        raise CryptoError(f"every mask key must be {KEY_BYTES} bytes")
    if len(set(keys)) != len(keys):
        raise CryptoError("a mask key was given twice; a key expands one mask only")
    adding = [_keystream(key) for key in plus]
    subtracting = [_keystream(key) for key in minus]
    scratch = bytearray(CHUNK_BYTES)
    words = np.frombuffer(scratch, dtype="<u8")
    step = len(words)
    for start in range(0, len(vector), step):
        part = vector[start : start + step]
        zeros, mask = _ZEROS[: part.nbytes], words[: len(part)]
        # Chunk by chunk over all keys, so that `part` is read from memory once.
        for stream in adding:
            stream.update_into(zeros, scratch)
            np.add(part, mask, out=part)
        for stream in subtracting:
            stream.update_into(zeros, scratch)
            np.subtract(part, mask, out=part)


def _keystream(key: bytes) -> CipherContext:
    return Cipher(AES256(key), CTR(bytes(16))).encryptor()
