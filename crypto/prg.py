"""Mask expansion: AES-256-CTR keystream, added into the caller's vector in place.

The keystream starts at counter 0 and is read as little-endian words of the vector's word size. So a key must never
expand two vectors: `kdf.derive` makes a key for each session, round and pair.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.kdf import KEY_BYTES
from secure_afl.crypto.ring import Words

# The keystream chunk and its part of the vector stay in the core's L2 cache.
CHUNK_BYTES = 128 * 1024
_ZEROS = memoryview(bytes(CHUNK_BYTES))
DRAWN = 8192  # values below a modulus drawn at a time: the protocol fixes this number


def add_keystreams(
    vector: Words,
    *,
    plus: Sequence[bytes] = (),
    minus: Sequence[bytes] = (),
    modulus: int = 0,
) -> None:
    """`vector += Σ PRG(plus) − Σ PRG(minus)` in place, with 128 KiB of scratch memory.

    modulus: 0 for sums mod 2⁶⁴ (uint64) or 2³² (uint32). Otherwise it is below 2⁶³, the vector is uint64 with entries
    below it, and the masks are uniform below it by rejection: the next word replaces a keystream word that is too
    large.

    Raises `CryptoError` if the vector is not contiguous or has another type, a key is not 32 bytes, or a key
    occurs twice (its mask would cancel or repeat).
    """
    kinds = (np.uint64,) if modulus else (np.uint64, np.uint32)
    if vector.dtype not in kinds or vector.ndim != 1 or not vector.flags.c_contiguous:
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise CryptoError(
            f"expected a contiguous {expected} vector, got {vector.dtype} of shape {vector.shape}"
        )
    keys = [*plus, *minus]
    if any(len(key) != KEY_BYTES for key in keys):
        raise CryptoError(f"every mask key must be {KEY_BYTES} bytes")
    if len(set(keys)) != len(keys):
        raise CryptoError("a mask key was given twice: expected a different key for each mask")
    if modulus:
        _add_below(vector.view(np.uint64), plus, minus, modulus)
        return
    adding = [_cipher(key) for key in plus]
    subtracting = [_cipher(key) for key in minus]
    scratch = bytearray(CHUNK_BYTES)
    words = np.frombuffer(scratch, f"<u{vector.itemsize}")
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


def _add_below(
    vector: npt.NDArray[np.uint64], plus: Sequence[bytes], minus: Sequence[bytes], modulus: int
) -> None:
    if not 1 < modulus < 2**63 or (len(vector) and int(vector.max()) >= modulus):
        raise CryptoError(
            f"expected a modulus below 2^63 and entries below it, got the modulus {modulus} or a larger entry"
        )
    whole = np.uint64(modulus)
    streams = [(keystream(key), adds) for keys, adds in ((plus, True), (minus, False)) for key in keys]
    for start in range(0, len(vector), DRAWN):
        part = vector[start : start + DRAWN]
        for stream, adds in streams:
            mask = uniform(stream, len(part), modulus)
            part += mask if adds else whole - mask
            np.subtract(part, whole, out=part, where=part >= whole)


def uniform(stream: Callable[[int], bytes], count: int, modulus: int) -> npt.NDArray[np.uint64]:
    """Draw `count` words uniform below `modulus` (at most 2⁶⁴), from as much of the stream as needed."""
    ones = np.uint64(2 ** (modulus - 1).bit_length() - 1)
    words = np.frombuffer(stream(8 * count), "<u8") & ones
    while len(over := np.flatnonzero(words > np.uint64(modulus - 1))):
        words[over] = np.frombuffer(stream(8 * len(over)), "<u8") & ones
    return words


def keystream(key: bytes) -> Callable[[int], bytes]:
    """A function that gives the next bytes of the key's stream."""
    cipher = _cipher(key)
    return lambda size: cipher.update(bytes(size))


def _cipher(key: bytes) -> CipherContext:
    return Cipher(AES256(key), CTR(bytes(16))).encryptor()
