"""What a client sums up about its rows: the Gram matrix, the cross-covariance and the row count.

One float64 vector carries all three, so the same masked or encrypted sum that hides the matrices hides
how many rows a client has. `PublicBounds` is agreed on before any row is read; every client proves from it
that the sum cannot overflow, so an error message may repeat a bound but never a value of the data.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from secure_afl.errors import DataError

Matrix = npt.NDArray[np.float64]
UNIT_ROUNDOFF = 2.0**-53


def gamma(roundings: int) -> float:
    """γ_n = n·u / (1 − n·u): the relative error that n float64 roundings can build up, in any order.

    Infinite where the theory ends. Higham, Accuracy and Stability of Numerical Algorithms, §3.1 and §3.4.
    """
    relative = roundings * UNIT_ROUNDOFF
    return relative / (1 - relative) if relative < 0.5 else math.inf


def upper(matrix: Matrix) -> list[Matrix]:
    """The rows of a square matrix, each from the diagonal on: what of a symmetric one travels."""
    return [row[at:] for at, row in enumerate(matrix)]


def symmetric(packed: Matrix, size: int) -> Matrix:
    """The matrix (size, size) whose `upper` rows follow one another in `packed`."""
    matrix = np.zeros((size, size))
    ends = np.cumsum(np.arange(size, 0, -1))
    for at, row in enumerate(np.split(packed, ends[:-1])):
        matrix[at, at:] = row
    return matrix + np.triu(matrix, 1).T


@dataclass(frozen=True)
class PublicBounds:
    """What every party agrees on before any data is read.

    features, outputs: columns d of X and c of Y; c may be 0, for a Gram matrix alone.
    row_norm: largest euclidean norm B of a row of X.
    rows: most rows N that one client may put into one sum.
    target: largest |Y_ij|.

    Raises DataError for bounds that no data could meet or whose magnitude is not finite.
    """

    features: int
    outputs: int
    row_norm: float
    rows: int
    target: float = 1.0

    def __post_init__(self) -> None:
        for number in (self.features, self.outputs + 1, self.rows):
            if not isinstance(number, int) or not 1 <= number <= 2**32:
                raise DataError(f"features and rows must be integers from 1 to 2**32, outputs from 0: {self}")
        if not (self.row_norm > 0 and self.target > 0 and self.magnitude < math.inf):
            raise DataError(f"row_norm and target must be positive, their products finite: {self}")

    @property
    def length(self) -> int:
        """Entries of a packed vector: d(d+1)/2 + d·c + 1."""
        return self.features * (self.features + 1) // 2 + self.features * self.outputs + 1

    @property
    def magnitude(self) -> float:
        """No packed float64 entry of one client exceeds this in absolute value.

        |G_jk| ≤ N·B² and |C_jk| ≤ N·B·target by Cauchy-Schwarz, count ≤ N. Adding up N products in float64
        can exceed that by 1 + γ_N, each of the two rows by the 1 + γ_{2d+16} that its norm may be off;
        16 more pay for the roundings of this very line.
        """
        largest = self.row_norm * max(self.row_norm, self.target)
        return self.rows * max(largest, 1.0) * (1 + gamma(self.rows + 4 * self.features + 48))


@dataclass(frozen=True, eq=False)
class SufficientStatistics:
    """All that least squares needs to know about rows X (count, d) and Y (count, c).

    gram: XᵀX, (d, d) float64, exactly symmetric; cross: XᵀY, (d, c) float64; both are read-only copies.
    Raises DataError for other shapes, values that are not finite, or a count that is no row count.
    """

    gram: Matrix
    cross: Matrix
    count: int

    def __post_init__(self) -> None:
        for name in ("gram", "cross"):
            matrix = np.array(getattr(self, name), dtype=np.float64)
            matrix.flags.writeable = False
            object.__setattr__(self, name, matrix)
            if matrix.ndim != 2 or not len(matrix) or len(matrix) != len(self.gram):
                raise DataError(f"gram must be (d, d) and cross (d, c), got {name} of shape {matrix.shape}")
            if not np.isfinite(matrix).all():
                raise DataError(f"{name} holds values that are not finite")
        if not np.array_equal(self.gram, self.gram.T):
            raise DataError(f"gram must be square and exactly symmetric, got shape {self.gram.shape}")
        if not isinstance(self.count, int) or self.count < 0:
            raise DataError("count must be a non-negative int")

    @classmethod
    def from_rows(
        cls,
        X: npt.ArrayLike,
        Y: npt.ArrayLike,
        bounds: PublicBounds,
        *,
        who: str = "this client",
        chunk_rows: int = 4096,
    ) -> "SufficientStatistics":
        """Statistics of X (n, features) and Y (n, outputs), real numbers of any type; n = 0 is valid.

        Raises DataError, naming `who` and the first offending row and column, for rows outside `bounds`.
        """
        x_rows = _table(X, "X", bounds.features, who)
        y_rows = _table(Y, "Y", bounds.outputs, who)
        if len(x_rows) != len(y_rows):
            raise DataError(f"{who}: X and Y need equally many rows, got {len(x_rows)} and {len(y_rows)}")
        if len(x_rows) > bounds.rows:
            raise DataError(f"{who}: at most {bounds.rows} rows were agreed on, got {len(x_rows)}")
        gram = np.zeros((bounds.features, bounds.features))
        cross = np.zeros((bounds.features, bounds.outputs))
        # A row scaled to norm B passes whichever way that scaling and this measuring rounded.
        accepted = bounds.row_norm * (1 + gamma(bounds.features + 8))
        with np.errstate(over="ignore"):  # what overflows is infinite and refused
            for start in range(0, len(x_rows), chunk_rows):
                x = x_rows[start : start + chunk_rows].astype(np.float64)
                y = y_rows[start : start + chunk_rows].astype(np.float64)
                faults = (
                    (~np.isfinite(x), "X must be finite, is not"),
                    (~np.isfinite(y), "Y must be finite, is not"),
                    (np.sqrt(np.einsum("ij,ij->i", x, x)) > accepted, f"X has norm over {bounds.row_norm:g}"),
                    (abs(y) > bounds.target, f"Y has absolute value over {bounds.target:g}"),
                )
                for wrong, fault in faults:
                    if wrong.any():
                        row, *column = np.argwhere(wrong)[0].tolist()
                        place = f"row {start + row}" + "".join(f", column {j}" for j in column)
                        raise DataError(f"{who}: {fault} in {place}")
                gram += x.T @ x
                cross += x.T @ y
        # BLAS may round the two triangles differently; only the upper one travels.
        return cls(np.triu(gram) + np.triu(gram, 1).T, cross, len(x_rows))

    def pack(self) -> Matrix:
        """Upper triangle of gram row by row ‖ cross row by row ‖ count, as one float64 vector."""
        return np.concatenate([*upper(self.gram), self.cross.ravel(), [float(self.count)]])

    @classmethod
    def unpack(
        cls, vector: npt.ArrayLike, bounds: PublicBounds, *, entry_error: float = 0.0
    ) -> "SufficientStatistics":
        """Undo `pack` on one vector or on a sum of them.

        entry_error: how far an entry may be off. The count is then the largest that it can stand for; fixed-point
        sums and float64 ones hold it exactly.
        Raises DataError unless it is a finite vector of bounds.length whose last entry counts rows.
        """
        packed = np.asarray(vector, dtype=np.float64)
        if packed.shape != (bounds.length,):
            raise DataError(f"expected a packed vector of shape ({bounds.length},), got {packed.shape}")
        count = float(packed[-1])
        if math.isfinite(count) and math.floor(count + entry_error) >= count - entry_error:
            count = float(math.floor(count + entry_error))
        if not (0 <= count <= 2**53 and count.is_integer()):
            raise DataError(f"the count of rows in a packed vector must be a whole number, got {count!r}")
        triangle = bounds.features * (bounds.features + 1) // 2
        cross = packed[triangle:-1].reshape(bounds.features, bounds.outputs)
        return cls(symmetric(packed[:triangle], bounds.features), cross, int(count))

    def __add__(self, other: "SufficientStatistics") -> "SufficientStatistics":
        """Statistics of the rows of both; DataError unless the shapes agree."""
        if self.cross.shape != other.cross.shape:
            raise DataError(f"cannot add (d, c) = {self.cross.shape} and {other.cross.shape}")
        count = self.count + other.count
        return SufficientStatistics(self.gram + other.gram, self.cross + other.cross, count)


def _table(values: npt.ArrayLike, name: str, columns: int, who: str) -> npt.NDArray[Any]:
    try:
        table = np.asarray(values)
    except (ValueError, TypeError):  # NumPy's text may quote what it could not read
        raise DataError(f"{who}: {name} must be a table of real numbers") from None
    if table.dtype.kind not in "fiub":
        raise DataError(f"{who}: {name} must be a table of real numbers, got dtype {table.dtype}")
    if table.ndim != 2 or table.shape[1] != columns:
        raise DataError(f"{who}: {name} must have shape (rows, {columns}), got {table.shape}")
    return table
