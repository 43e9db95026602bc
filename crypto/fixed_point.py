"""Fixed-point encoding of real vectors, with a proof that a sum cannot overflow.

A value x becomes the integer rint(x·2^f). `magnitude` bounds the integers of every client. A `FixedPoint` exists only
if n·magnitude < 2^(8w−1), so no sum can overflow, and `encode` refuses a vector that exceeds `magnitude`. No value is
ever clipped or wrapped.
"""

from dataclasses import astuple, dataclass
from fractions import Fraction
from math import ceil

import numpy as np
import numpy.typing as npt

from secure_afl.crypto import ring
from secure_afl.crypto.errors import CryptoError

FRACTION_BITS = range(-512, 513)
_CHUNK = 16 * 1024  # values encoded at a time


@dataclass(frozen=True)
class FixedPoint:
    """How `summands` clients encode real values so that their sum is exact mod 2^(8·width).

    fraction_bits: f; one unit is 2^−f.
    magnitude: the largest |integer| that a client may upload.
    summands: n, the most clients that a sum can have.
    width: w, bytes per value on the wire.
    """

    fraction_bits: int
    magnitude: int
    summands: int
    width: int

    def __post_init__(self) -> None:
        if any(
            type(field) is not int for field in astuple(self)
        ):  # NumPy integers would wrap in the proof below
            raise CryptoError(f"expected integers, got {self}")
        if self.fraction_bits not in FRACTION_BITS:
            raise CryptoError(f"expected -512..512 fraction bits, got {self.fraction_bits}")
        if self.width not in ring.WIDTHS:
            raise CryptoError(f"expected a word width of 4 to 8 bytes, got {self.width}")
        if self.magnitude < 1 or self.summands < 1:
            raise CryptoError(
                f"expected a magnitude and a number of summands of at least 1, "
                f"got {self.magnitude} and {self.summands}"
            )
        if self.summands * self.magnitude >= 2 ** (8 * self.width - 1):
            raise CryptoError(
                f"a sum of {self.summands} values up to {self.magnitude} can overflow words of {self.width} "
                f"bytes, which hold less than 2^{8 * self.width - 1}"
            )

    @classmethod
    def fit(cls, bound: float, summands: int, fraction_bits: int, *, room: int | None = None) -> "FixedPoint":
        """The narrowest encoding with at least `fraction_bits` for values in [−bound, bound].

        Bits left over in the chosen width become fraction bits, which cost nothing.
        room: the largest magnitude of a sum in units, if it is smaller than the width allows.
        Raises `CryptoError` if the sum fits neither 8-byte words nor the room.
        """
        if not (np.isfinite(bound) and bound > 0 and summands >= 1):
            raise CryptoError(
                f"expected a finite positive bound and at least 1 summand, got {bound} and {summands}"
            )
        bound = float(bound)
        for width in ring.WIDTHS:
            most = 2 ** (8 * width - 1) - 1
            each = (most if room is None else min(most, room)) // summands
            if units_of(bound, fraction_bits) <= each:
                while fraction_bits + 1 in FRACTION_BITS and units_of(bound, fraction_bits + 1) <= each:
                    fraction_bits += 1
                return cls(fraction_bits, units_of(bound, fraction_bits), summands, width)
        held = "8 bytes" if room is None else f"sums up to {room}"
        raise CryptoError(
            f"{summands} values up to {bound:g} with {fraction_bits} fraction bits need more than {held}; "
            "ask for fewer fraction bits or agree on a smaller bound"
        )

    def encode(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint64]:
        """`rint(values·2^f)` mod 2⁶⁴, each within half a unit of its value.

        Raises `CryptoError` on NaN, infinity or a value over the bound; the text quotes no value.
        """
        if values.dtype != np.float64 or values.ndim != 1:
            raise CryptoError(f"expected a float64 vector, got {values.dtype} of shape {values.shape}")
        units = np.empty(len(values), np.int64)
        endless = outside = 0
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            for start in range(0, len(values), _CHUNK):  # intermediate results stay in the core's cache
                part = values[start : start + _CHUNK]
                scaled = np.ldexp(part, self.fraction_bits)
                np.rint(scaled, out=scaled)
                # Compare as floats first (the cast is defined only below 2^63), then exactly.
                wild = ~(np.abs(scaled) < 2.0**63)
                if wild.any():
                    endless += int((~np.isfinite(part)).sum())
                    outside += int(wild.sum())
                    scaled[wild] = 0
                whole = units[start : start + _CHUNK]
                np.copyto(whole, scaled, casting="unsafe")
                outside += int((np.abs(whole) > self.magnitude).sum())
        if endless:
            raise CryptoError(f"{endless} of {len(values)} values are not finite")
        if outside:
            raise CryptoError(
                f"{outside} of {len(values)} values are over the agreed bound of "
                f"{float(Fraction(self.magnitude) / Fraction(2) ** self.fraction_bits):g}"
            )
        return units.view(np.uint64)

    def encode_units(self, units: npt.NDArray[np.int64], fraction_bits: int) -> npt.NDArray[np.uint64]:
        """int64 units of 2^−fraction_bits in this encoding's units, mod 2⁶⁴: exact, where float64 could not hold them.

        Raises `CryptoError` for more fraction bits than the encoding has, and for a value over the bound.
        """
        finer = self.fraction_bits - fraction_bits
        if units.dtype != np.int64 or units.ndim != 1 or finer < 0:
            raise CryptoError(
                f"expected an int64 vector in units of 2^-{self.fraction_bits} or coarser ones, got {units.dtype} of shape "
                f"{units.shape} in units of 2^-{fraction_bits}"
            )
        most = self.magnitude >> finer
        outside = int(((units > most) | (units < -most)).sum())
        if outside:
            raise CryptoError(f"{outside} of {len(units)} values are over the agreed bound of {most} units")
        return (units << np.int64(min(finer, 63))).view(np.uint64)

    def decode_sum(self, total: npt.NDArray[np.uint64], summands: int) -> npt.NDArray[np.float64]:
        """The real sum of `summands` encoded vectors, given their sum mod 2^(8w).

        Raises `CryptoError` if an entry exceeds what honest clients can contribute.
        """
        if not 1 <= summands <= self.summands:
            raise CryptoError(f"expected 1 to {self.summands} summands, got {summands}")
        units = ring.signed(total, self.width)
        limit = summands * self.magnitude
        if len(units) and not -limit <= int(units.min()) <= int(units.max()) <= limit:
            raise CryptoError(
                f"the sum of {summands} clients has an entry over {limit} units, which clients that keep "
                "to the agreed bound cannot reach: a client is faulty or a message was altered"
            )
        return np.ldexp(units.astype(np.float64), -self.fraction_bits)

    def entry_error(self, summands: int) -> float:
        """Bound on the encoding error of each entry of the exact sum of float64 values: n half units, rounded up.

        `decode_sum` also rounds the result to float64: a relative error of at most 2^-53.
        """
        exact = Fraction(summands, 2) / Fraction(2) ** self.fraction_bits
        return float(np.nextafter(float(exact), np.inf))


def units_of(bound: float, fraction_bits: int) -> int:
    """The smallest number of units that is at least a positive bound."""
    return ceil(Fraction(bound) * Fraction(2) ** fraction_bits)
