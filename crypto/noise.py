"""The discrete Gaussian noise that one client adds to its fixed-point vector before it is masked or encrypted.

Every party computes the same `Noise` from the agreement. Its `reserve` belongs into the bound of the fixed-point code:
the proof that no sum overflows then covers the noise.
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, floor

import numpy as np
import numpy.typing as npt

from secure_afl.crypto import discrete_gaussian
from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.fixed_point import FixedPoint
from secure_afl.crypto.kdf import Label, digest

LEAST_DEVIATION = 8  # units: then the noise of several clients adds up to a discrete Gaussian, but for 2^-800


@dataclass(frozen=True)
class Block:
    """The next `length` entries of a vector; deviation: σ of the noise on each, in real units, 0 for none."""

    length: int
    deviation: Fraction

    def __post_init__(self) -> None:
        if type(self.length) is not int or self.length < 0:
            raise CryptoError(f"expected a number of entries, got {self.length!r}")
        if type(self.deviation) is not Fraction or self.deviation < 0:
            raise CryptoError(
                f"expected a standard deviation of at least 0 as a Fraction, got {self.deviation!r}"
            )


@dataclass(frozen=True)
class Noise:
    """Noise for a whole vector, block after block; reach: no draw may exceed this many deviations."""

    blocks: tuple[Block, ...]
    reach: int

    def __post_init__(self) -> None:
        if type(self.reach) is not int or self.reach < 1:
            raise CryptoError(f"expected a reach of at least 1 standard deviation, got {self.reach!r}")

    @property
    def length(self) -> int:
        """Entries of the vector."""
        return sum(block.length for block in self.blocks)

    @property
    def reserve(self) -> Fraction:
        """The largest magnitude of the noise on one entry, in real units."""
        return self.reach * max((block.deviation for block in self.blocks), default=Fraction(0))

    def padded(self, bound: float) -> float:
        """The bound of values up to `bound` and their noise, for which a fixed-point code must be made."""
        return float(np.nextafter(float(Fraction(bound) + self.reserve), np.inf))

    @property
    def digest(self) -> bytes:
        """32 bytes that no other noise has: with them in the transcript, all clients of a session add the same."""
        numbers = [self.reach]
        for block in self.blocks:
            numbers += [block.length, block.deviation.numerator, block.deviation.denominator]
        return digest(Label.NOISE, *(str(number).encode() for number in numbers))

    def draw(self, code: FixedPoint) -> npt.NDArray[np.int64]:
        """Fresh noise in units of the code, from the operating system's random bits.

        Raises `CryptoError` if a deviation is below 8 units, and if a draw is beyond reach: whoever fixes the reach
        accounts for the probability of that. Such a draw is neither clipped nor replaced.
        """
        parts = []
        for block in self.blocks:
            deviation = block.deviation * Fraction(2) ** code.fraction_bits
            if not deviation:
                parts.append(np.zeros(block.length, np.int64))
                continue
            if deviation < LEAST_DEVIATION:
                raise CryptoError(
                    f"expected noise with a deviation of at least {LEAST_DEVIATION} units, got {float(deviation):g}: "
                    "use more fraction bits"
                )
            part = discrete_gaussian.draw(block.length, deviation**2)
            if len(part) and max(int(part.max()), -int(part.min())) > self.reach * deviation:
                raise CryptoError("a draw of noise exceeds what is reserved for it")
            parts.append(part)
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def add(self, values: npt.NDArray[np.float64], bound: float, code: FixedPoint) -> npt.NDArray[np.uint64]:
        """What a client uploads for `values`, none of which exceeds `bound`: their code words plus noise, mod 2⁶⁴.

        code: made for `bound` + `reserve`. Raises `CryptoError` for values over the bound or not finite, a code
        without room, another length, and as `draw` does; nothing can be learned from the text.
        """
        if len(values) != self.length:
            raise CryptoError(f"expected {self.length} values, got {len(values)}")
        one = Fraction(2) ** code.fraction_bits
        most = ceil(Fraction(bound) * one)
        if most + floor(self.reserve * one) > code.magnitude:
            raise CryptoError(
                f"expected a code with room for values up to {bound:g} and their noise, got {code}"
            )
        return replace(code, magnitude=most).encode(values) + self.draw(code).view(np.uint64)
