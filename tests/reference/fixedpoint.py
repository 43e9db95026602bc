"""Fixed-point codes and the words of vectors (docs/protocol.md §4.3, §4.4)."""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, isfinite, ldexp

from reference.refused import Refused, need

WIDTHS = range(4, 9)


@dataclass(frozen=True)
class Code:
    """A value x is rint(x·2^fraction_bits), at most `magnitude`; so many summands fit in `width` bytes."""

    fraction_bits: int
    magnitude: int
    summands: int
    width: int

    def __post_init__(self) -> None:
        need(-512 <= self.fraction_bits <= 512, "-512 to 512 fraction bits")
        need(self.width in WIDTHS, "4 to 8 bytes")
        need(self.magnitude >= 1 and self.summands >= 1, "a magnitude and a summand")
        need(self.summands * self.magnitude < 2 ** (8 * self.width - 1), "a sum that fits")


def units(bound: float, fraction_bits: int) -> int:
    """max(1, ⌈B·2^f⌉)."""
    return max(1, ceil(Fraction(bound) * Fraction(2) ** fraction_bits))


def fit(bound: float, members: int, least: int, room: int | None = None) -> Code:
    """The narrowest width, and then the most fraction bits; room: the largest sum that is held."""
    need(isfinite(bound) and bound > 0 and members >= 1, "a positive bound and a member")
    for width in WIDTHS:
        most = 2 ** (8 * width - 1) - 1
        each = (most if room is None else min(most, room)) // members
        if units(bound, least) <= each:
            f = max(f for f in range(least, 513) if units(bound, f) <= each)
            return Code(f, units(bound, f), members, width)
    raise Refused("expected a sum that 8 bytes hold")


def encode(code: Code, values: list[float]) -> list[int]:
    """Words mod 2⁶⁴."""
    need(all(map(isfinite, values)), "finite values")
    scaled = [round(Fraction(value) * Fraction(2) ** code.fraction_bits) for value in values]
    need(all(abs(one) <= code.magnitude for one in scaled), "values within the bound")
    return [one % 2**64 for one in scaled]


def encode_units(code: Code, units: list[int], fraction_bits: int) -> list[int]:
    """Words mod 2⁶⁴ of whole numbers of 2^−fraction_bits."""
    need(fraction_bits <= code.fraction_bits, "units that the code has")
    scaled = [one * 2 ** (code.fraction_bits - fraction_bits) for one in units]
    need(all(abs(one) <= code.magnitude for one in scaled), "values within the bound")
    return [one % 2**64 for one in scaled]


def decode_sum(code: Code, total: list[int], summands: int) -> list[float]:
    """The real sum of so many codes, from their sum mod 2^(8·width)."""
    need(1 <= summands <= code.summands, "as many summands as the code is for")
    values = signed(total, code.width)
    need(all(abs(one) <= summands * code.magnitude for one in values), "a sum that clients can reach")
    return [ldexp(float(one), -code.fraction_bits) for one in values]


def pack(words: list[int], width: int) -> bytes:
    """The low `width` bytes of each word, little endian."""
    return b"".join(word.to_bytes(8, "little")[:width] for word in words)


def unpack(payload: bytes, count: int, width: int) -> list[int]:
    """Words from a payload, high bytes zero."""
    need(len(payload) == count * width, f"{count} words of {width} bytes")
    return [int.from_bytes(payload[at : at + width], "little") for at in range(0, len(payload), width)]


def signed(words: list[int], width: int) -> list[int]:
    """Two's complement of the low `width` bytes."""
    half = 2 ** (8 * width - 1)
    return [(word + half) % (2 * half) - half for word in words]


def modular(words: list[int], t: int) -> list[int]:
    """Words mod 2⁶⁴, read as signed, in Z_t."""
    return [one % t for one in signed(words, 8)]


def centred(words: list[int], t: int) -> list[int]:
    """Words of Z_t as integers in (−t/2, t/2)."""
    return [word - t if word > t // 2 else word for word in words]
