"""What is agreed on a column in public: its range, and how a value of it is written in a sum."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from secure_afl.analytic.moments import Scaling
from secure_afl.errors import DataError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Columns:
    """low, high: the ranges of columns; scaling: takes each to within [−1, 1]."""

    low: Floats
    high: Floats
    scaling: Scaling

    @classmethod
    def parse(cls, given: Any, columns: int, name: str) -> "Columns":
        """The columns from bounds on magnitudes and ranges (low, high), one for each. Raises `DataError` that names `name`."""
        try:
            entries = [np.atleast_1d(np.asarray(one, dtype=np.float64)) for one in given]
        except (TypeError, ValueError):
            entries = []
        if len(entries) != columns or any(one.shape not in ((1,), (2,)) for one in entries):
            came = f"{len(entries)} entries" if len(entries) != columns else "other entries among them"
            raise DataError(f"expected {name} as {columns} numbers above 0 or ranges (low, high), got {came}")
        low = np.array([-one[0] if len(one) == 1 else one[0] for one in entries])
        high = np.array([one[-1] for one in entries])
        with np.errstate(over="ignore", invalid="ignore"):
            centre = (low + high) / 2
            # The rounded difference grows with the value, so no value of the range is farther from the centre.
            half = np.maximum(high - centre, centre - low)
        wrong = ~((low < high) & (half > 2.0**-400) & (np.maximum(abs(low), abs(high)) < 2.0**400))
        if wrong.any():
            raise DataError(
                f"expected {name} as {columns} numbers above 0 or ranges (low, high), that of column "
                f"{int(wrong.argmax()) + 1} is neither"
            )
        mantissas, exponents = np.frexp(half)
        powers = np.where(mantissas == 0.5, exponents - 1, exponents).astype(np.int64)
        return cls(low, high, Scaling(centre, powers))

    def outside(self, values: Floats) -> npt.NDArray[np.bool_]:
        """Which values (rows, columns) are not in their range; NaN is in none."""
        return ~((self.low <= values) & (self.high >= values))
