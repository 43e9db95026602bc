"""Keystreams and masks (docs/protocol.md §4.4)."""

from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from reference.refused import need

CHUNK = 8192


def stream(key: bytes, size: int = 8) -> Callable[[int], list[int]]:
    """A function that gives the next words, of 8 or 4 bytes, of AES-256-CTR over zeros."""
    need(len(key) == 32, "a key of 32 bytes")
    cipher = Cipher(AES256(key), CTR(bytes(16))).encryptor()

    def words(count: int) -> list[int]:
        raw = cipher.update(bytes(size * count))
        return [int.from_bytes(raw[at : at + size], "little") for at in range(0, len(raw), size)]

    return words


def below(words: Callable[[int], list[int]], count: int, t: int) -> list[int]:
    """One chunk of values below t: too large ones are drawn again, all of them, in order, until none is left."""
    bits = (t - 1).bit_length()
    values = [word % 2**bits for word in words(count)]
    while over := [at for at, value in enumerate(values) if value >= t]:
        for at, word in zip(over, words(len(over)), strict=True):
            values[at] = word % 2**bits
    return values


def mask(key: bytes, count: int, t: int, size: int) -> list[int]:
    """The mask of a key; t = 0 for masks mod 2⁶⁴, or mod 2³² where words have a size of 4 bytes."""
    words = stream(key, size)
    if not t:
        return words(count)
    return [one for at in range(0, count, CHUNK) for one in below(words, min(CHUNK, count - at), t)]


def masked(vector: list[int], plus: list[bytes], minus: list[bytes], t: int, size: int) -> list[int]:
    """A vector with masks added and subtracted, mod t, or mod what words of this size hold."""
    keys = [*plus, *minus]
    need(len(set(keys)) == len(keys), "different keys")
    need(all(len(key) == 32 for key in keys), "keys of 32 bytes")
    need(not t or (1 < t < 2**63 and size == 8 and all(one < t for one in vector)), "entries below t")
    total = list(vector)
    for key in keys:
        sign = 1 if key in plus else -1
        total = [one + sign * other for one, other in zip(total, mask(key, len(total), t, size), strict=True)]
    return [one % (t or 2 ** (8 * size)) for one in total]
