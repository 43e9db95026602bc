"""Vectors on the wire: over Z mod 2^(8w), the low w bytes of each word, little endian; and words of Z_t for BFV.

Sums are held mod 2³² for w = 4, otherwise mod 2⁶⁴. 2^(8w) divides both, so dropping the high bytes commutes with
addition.
"""

import numpy as np
import numpy.typing as npt

from secure_afl.crypto.errors import CryptoError

WIDTHS = range(4, 9)
_CHUNK = 16 * 1024  # words; keeps the unpacked part in cache
_LITTLE = np.dtype("<u8")
Words = npt.NDArray[np.uint64 | np.uint32]


def words_of(width: int) -> type[np.uint64 | np.uint32]:
    """The word type of sums of `width` bytes and of their masks: for 4 bytes, half the memory and time."""
    return np.uint32 if width == 4 else np.uint64


def pack(words: Words, width: int) -> memoryview:
    """The low `width` bytes of each word, `len(words) * width` bytes in all."""
    if words.itemsize == width:
        return memoryview(words.astype(f"<u{width}", copy=False).tobytes())
    # Each 8-byte store overlaps the next word's place, which the next store then overwrites: stores go
    # in ascending order, and the last one needs 8 - width bytes of slack.
    buffer = bytearray(len(words) * width + 8 - width)
    np.ndarray(len(words), _LITTLE, buffer, strides=(width,))[:] = words
    return memoryview(buffer)[: len(words) * width]


def add_packed(total: Words, payload: bytes | memoryview, width: int) -> None:
    """`total += unpack(payload)` in place; high bytes are zero. Raises `CryptoError` unless the length is exact."""
    expected = len(total) * width
    if len(payload) != expected:
        raise CryptoError(f"expected {expected} bytes ({len(total)} values of {width}), got {len(payload)}")
    if total.itemsize == width:
        np.add(total, np.frombuffer(payload, f"<u{width}"), out=total)
        return
    if not len(total):
        return
    # A strided view reads 8 bytes per value. For narrow words it must stop one value before the end of the buffer;
    # the last value is read separately.
    words = np.ndarray(len(total) - 1, _LITTLE, payload, strides=(width,))
    mask = np.uint64(2 ** (8 * width) - 1)
    scratch = np.empty(min(_CHUNK, len(words)), np.uint64)
    for start in range(0, len(words), _CHUNK):
        part = words[start : start + _CHUNK]
        low = np.bitwise_and(part, mask, out=scratch[: len(part)])
        target = total[start : start + len(part)]
        np.add(target, low, out=target)
    last = np.array([int.from_bytes(payload[-width:], "little")], np.uint64)
    total[-1:] += last


def signed(total: Words, width: int) -> npt.NDArray[np.int64]:
    """The representative in [−2^(8w−1), 2^(8w−1)) of each word mod 2^(8w)."""
    shift = np.uint64(64 - 8 * width)
    return (total.astype(np.uint64, copy=False) << shift).view(np.int64) >> np.int64(shift)


def unpacked(payload: bytes | memoryview, length: int, width: int) -> npt.NDArray[np.int32 | np.int64]:
    """The signed words of a payload. Raises `CryptoError` for another length than `length * width` bytes."""
    if len(payload) != length * width:
        raise CryptoError(f"expected {length * width} bytes ({length} values of {width}), got {len(payload)}")
    if width in (4, 8):
        whole: npt.NDArray[np.int32 | np.int64] = np.frombuffer(payload, f"<i{width}")
        return whole
    words, shift = np.empty(length, np.int64), np.int64(64 - 8 * width)
    # A strided view, as in `add_packed`; what it reads of the next value is shifted out.
    np.left_shift(np.ndarray(max(0, length - 1), "<i8", payload, strides=(width,)), shift, out=words[:-1])
    words[-1:].view(np.uint64)[:] = int.from_bytes(payload[-width:], "little") << int(shift)
    return np.right_shift(words, shift, out=words)


def modular(units: npt.NDArray[np.uint64], modulus: int) -> npt.NDArray[np.uint64]:
    """Fixed-point units (signed, as uint64) in Z_t."""
    return (units.view(np.int64) % np.int64(modulus)).view(np.uint64)


def centred(words: npt.NDArray[np.uint64], modulus: int) -> npt.NDArray[np.int64]:
    """The representative of each word of Z_t in (−t/2, t/2)."""
    signed = words.view(np.int64)
    return np.where(signed > modulus // 2, signed - np.int64(modulus), signed)
