"""The discrete Gaussian noise that one client adds to its fixed-point vector before it is masked or encrypted.

Every party computes the same `Noise` from the agreed settings. The bound of the fixed-point encoding must include its
`reserve`, so that the proof that no sum overflows covers the noise.
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

LEAST_DEVIATION = 8  # units: the sum of several clients' noise is a discrete Gaussian up to 2^-800


@dataclass(frozen=True)
class Block:
    """The next `length` entries of a vector; deviation: σ of the noise on each in real units, 0 for no noise."""

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
    """Noise for a whole vector, block by block; reach: the most deviations that a draw may have."""

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
        """The bound of values up to `bound` plus noise, for which the fixed-point encoding must be made."""
        return float(np.nextafter(float(Fraction(bound) + self.reserve), np.inf))

    @property
    def digest(self) -> bytes:
        """32 bytes that identify these settings. The transcript holds them, so all clients add the same noise."""
        numbers = [self.reach]
        for block in self.blocks:
            numbers += [block.length, block.deviation.numerator, block.deviation.denominator]
        return digest(Label.NOISE, *(str(number).encode() for number in numbers))

    def draw(self, encoding: FixedPoint) -> npt.NDArray[np.int64]:
        """Draw fresh noise in units of the encoding, from the operating system's random bits.

        Raises `CryptoError` if a deviation is below 8 units or a draw exceeds the reach. Such a draw is neither clipped
        nor replaced; whoever chooses the reach accounts for its probability.
        """
        parts = []
        for block in self.blocks:
            deviation = block.deviation * Fraction(2) ** encoding.fraction_bits
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
                raise CryptoError("a noise draw exceeds the reserve: start the session again")
            parts.append(part)
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def add(
        self, values: npt.NDArray[np.float64], bound: float, encoding: FixedPoint
    ) -> npt.NDArray[np.uint64]:
        """Encode `values`, none of which exceeds `bound`, and add noise, mod 2⁶⁴: what a client uploads.

        encoding: made for `bound` + `reserve`. Raises `CryptoError` for values that exceed the bound or are not finite, an
        encoding without room for the noise, a wrong length, and like `draw`. The text reveals no value.
        """
        if len(values) != self.length:
            raise CryptoError(f"expected {self.length} values, got {len(values)}")
        one = Fraction(2) ** encoding.fraction_bits
        most = ceil(Fraction(bound) * one)
        if most + floor(self.reserve * one) > encoding.magnitude:
            raise CryptoError(
                f"expected an encoding with room for values up to {bound:g} and their noise, got {encoding}"
            )
        return replace(encoding, magnitude=most).encode(values) + self.draw(encoding).view(np.uint64)
