"""What a client sums up about its rows: the Gram matrix, the cross-covariance and the row count.

One float64 vector carries all three, so the same masked or encrypted sum that hides the matrices hides
how many rows a client has. `PublicBounds` is agreed on before any row is read; every client proves from it
that the sum cannot overflow, so an error message may repeat a bound but never a value of the data.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from secure_afl.errors import DataError

Matrix = npt.NDArray[np.float64]
UNIT_ROUNDOFF = 2.0**-53


_CHUNK_ROWS = 4096
_MIRRORED = 128  # rows and columns of a block
_HIGH_BITS = 20  # two factors of 20 bits, added up over 2^12 rows, fit into float64's 53


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
    matrix, start = np.zeros((size, size)), 0
    for at in range(size):
        matrix[at, at:] = packed[start : start + size - at]
        start += size - at
    for at in range(0, size, _MIRRORED):  # a transpose of the whole would leave the cache for every value
        after = at + _MIRRORED
        block = matrix[at:after, at:after]
        block += np.triu(block, 1).T
        matrix[after:, at:after] = matrix[at:after, after:].T
    return matrix


def roundings(rows: int) -> int:
    """Roundings of `SufficientStatistics.from_rows`: each entry is within gamma(roundings)·‖x_j‖·‖x_k‖ of the exact sum, x_j
    being a column of (X, Y).

    In units of 2^-20 of the least power of two that bounds its column, a value is h + l with an integer h and
    |l| ≤ 1/2, exactly. Sums of h·h over a chunk of K ≤ 4096 rows are integers below 2^53: exact. Of h·l and l·h the
    error is at most 2·γ_K·‖h_j‖‖l_k‖, where ‖l_k‖ ≤ √K·2^-20·‖x_k‖ as some |x| is at least half its bound, so 0.51·u;
    of l·l it is below 2^-15·u. Chunks are added without error, by `_plus`; the remainders, of at most
    2^-13·‖x_j‖‖x_k‖ in all, take 3 roundings a chunk, which is under u/2 for 2^24 rows; the result is rounded once.
    """
    return 3 + rows // 2**24


def _plus(high: Matrix, low: Matrix, term: Matrix) -> tuple[Matrix, Matrix]:
    """high + low + term as such a pair; high + term is added without error (Knuth's TwoSum)."""
    total = high + term
    part = total - high
    return total, low + ((high - (total - part)) + (term - part))


def added(vectors: Iterable[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """The sum of vectors of one length, with two roundings more than none: errors of additions are added up, too."""
    high = low = np.zeros(())
    for vector in vectors:
        high, low = _plus(high, low, vector)
    return np.asarray(high + low)


def _products(chunk: Matrix) -> tuple[Matrix, Matrix]:
    """ZᵀZ for at most `_CHUNK_ROWS` rows Z as an exact matrix and a small remainder, see `roundings`."""
    _, exponents = np.frexp(abs(chunk).max(axis=0, initial=0.0))
    units = np.ldexp(chunk, _HIGH_BITS - exponents)
    high = np.rint(units)
    low = units - high
    mixed = high.T @ low
    scale = exponents[:, None] + exponents - 2 * _HIGH_BITS
    return np.ldexp(high.T @ high, scale), np.ldexp(mixed + mixed.T + low.T @ low, scale)


class Shape(Protocol):
    """How many columns X and Y have, and whether YᵀY is summed up besides."""

    @property
    def features(self) -> int: ...
    @property
    def outputs(self) -> int: ...
    @property
    def squares(self) -> bool: ...


def packed_length(shape: Shape) -> int:
    """Entries of a packed vector: d(d+1)/2 + d·c + 1, and c(c+1)/2 with squares."""
    d, c = shape.features, shape.outputs
    return d * (d + 1) // 2 + d * c + (c * (c + 1) // 2 if shape.squares else 0) + 1


@dataclass(frozen=True)
class PublicBounds:
    """What every party agrees on before any data is read.

    Parameters
    ----------
    features, outputs : int
        Columns d of X and c of Y; c may be 0, for a Gram matrix alone.
    row_norm : float
        Largest euclidean norm B of a row of X.
    rows : int
        Most rows N that one client may put into one sum.
    target : float, default=1.0
        Largest |Y_ij|.
    column : float, optional
        Largest |X_ij|, where that is agreed to be less than row_norm.
    squares : bool, default=False
        Whether YᵀY is summed up besides.

    Raises
    ------
    DataError
        For bounds that no data could meet, or whose magnitude is not finite.
    """

    features: int
    outputs: int
    row_norm: float
    rows: int
    target: float = 1.0
    column: float = math.inf
    squares: bool = False

    def __post_init__(self) -> None:
        for number in (self.features, self.outputs + 1, self.rows):
            if not isinstance(number, int) or not 1 <= number <= 2**32:
                raise DataError(f"features and rows must be integers from 1 to 2**32, outputs from 0: {self}")
        if not (self.row_norm > 0 and self.target > 0 and self.column > 0 and self.magnitude < math.inf):
            raise DataError(f"row_norm, target and column must be positive, their products finite: {self}")

    @property
    def length(self) -> int:
        """Entries of a packed vector, see `packed_length`."""
        return packed_length(self)

    @property
    def magnitude(self) -> float:
        """No packed float64 entry of one client exceeds this in absolute value.

        With b = min(row_norm, column), |G_jk| ≤ N·b², |C_jk| ≤ N·b·target, YᵀY ≤ N·target², count ≤ N. Adding up N products in float64
        can exceed that by 1 + γ_N, each of the two rows by the 1 + γ_{2d+16} that its norm may be off;
        16 more pay for the roundings of this very line.
        """
        value = min(self.row_norm, self.column)
        largest = value * max(value, self.target)
        if self.squares:
            largest = max(largest, self.target**2)
        return self.rows * max(largest, 1.0) * (1 + gamma(self.rows + 4 * self.features + 48))


@dataclass(frozen=True, eq=False)
class SufficientStatistics:
    """All that least squares needs to know about rows X (count, d) and Y (count, c). Arrays are read-only: copies, unless
    they were made so.

    Parameters
    ----------
    gram : ndarray of float64, shape (d, d)
        XᵀX, exactly symmetric.
    cross : ndarray of float64, shape (d, c)
        XᵀY.
    count : int
        Number of rows.
    squares : ndarray of float64, shape (c, c), optional
        YᵀY, exactly symmetric; None where it is not known.

    Raises
    ------
    DataError
        For other shapes, values that are not finite, or a count that is not a number of rows.
    """

    gram: Matrix
    cross: Matrix
    count: int
    squares: Matrix | None = None

    def __post_init__(self) -> None:
        for name in ("gram", "cross", "squares"):
            if getattr(self, name) is None:
                continue
            matrix = np.asarray(getattr(self, name), dtype=np.float64)
            if matrix.flags.writeable or not matrix.flags.owndata:
                matrix = matrix.copy()
                matrix.flags.writeable = False
            object.__setattr__(self, name, matrix)
            rows = self.cross.shape[1] if name == "squares" else len(self.gram)
            if matrix.ndim != 2 or not len(self.gram) or len(matrix) != rows:
                raise DataError(
                    f"gram must be (d, d), cross (d, c) and squares (c, c), got {name} of shape {matrix.shape}"
                )
            if not np.isfinite(matrix).all():
                raise DataError(f"{name} holds values that are not finite")
        if not np.array_equal(self.gram, self.gram.T):
            raise DataError(f"gram must be square and exactly symmetric, got shape {self.gram.shape}")
        if self.squares is not None and not np.array_equal(self.squares, self.squares.T):
            raise DataError(f"squares must be square and exactly symmetric, got shape {self.squares.shape}")
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
        chunk_rows: int = _CHUNK_ROWS,
    ) -> "SufficientStatistics":
        """Statistics of X (n, features) and Y (n, outputs), real numbers of any type; n = 0 is valid.

        Each entry is as near to the exact sum as `roundings` says, however many rows there are; chunk_rows, at most
        4096, are in memory at once.
        Raises DataError, naming `who` and the first offending row and column, for rows outside `bounds`.
        """
        x_rows = _table(X, "X", bounds.features, who)
        y_rows = _table(Y, "Y", bounds.outputs, who)
        if len(x_rows) != len(y_rows):
            raise DataError(f"{who}: X and Y need equally many rows, got {len(x_rows)} and {len(y_rows)}")

        def of(start: int, stop: int) -> tuple[Matrix, Matrix]:
            return x_rows[start:stop].astype(np.float64), y_rows[start:stop].astype(np.float64)

        return cls.from_pieces(len(x_rows), of, bounds, who=who, chunk_rows=chunk_rows)

    @classmethod
    def from_pieces(
        cls,
        rows: int,
        of: Callable[[int, int], tuple[Matrix, Matrix]],
        bounds: PublicBounds,
        *,
        who: str,
        chunk_rows: int = _CHUNK_ROWS,
    ) -> "SufficientStatistics":
        """`from_rows` of rows that are made when they are summed. of: X and Y, float64, of the rows from a number to another."""
        if rows > bounds.rows:
            raise DataError(f"{who}: at most {bounds.rows} rows were agreed on, got {rows}")
        d, columns = bounds.features, bounds.features + bounds.outputs
        high, low = np.zeros((columns, columns)), np.zeros((columns, columns))
        # A row scaled to norm B passes whichever way that scaling and this measuring rounded.
        accepted = bounds.row_norm * (1 + gamma(bounds.features + 8))
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is not finite and refused
            step = min(chunk_rows, _CHUNK_ROWS)
            for start in range(0, rows, step):
                x, y = of(start, min(start + step, rows))
                faults = (
                    (~np.isfinite(x), "X must be finite, without NaN, is not"),
                    (~np.isfinite(y), "Y must be finite, without NaN, is not"),
                    (np.sqrt(np.einsum("ij,ij->i", x, x)) > accepted, f"X has norm over {bounds.row_norm:g}"),
                    (abs(x) > bounds.column, f"X has absolute value over {bounds.column:g}"),
                    (abs(y) > bounds.target, f"Y has absolute value over {bounds.target:g}"),
                )
                for wrong, fault in faults:
                    if wrong.any():
                        row, *column = np.argwhere(wrong)[0].tolist()
                        place = f"row {start + row + 1}" + "".join(f", column {j + 1}" for j in column)
                        raise DataError(f"{who}: {fault} in {place}")
                exact, rest = _products(np.hstack([x, y]))
                high, low = _plus(high, low + rest, exact)
            whole = high + low
        # BLAS may round the two triangles differently; only the upper one travels.
        whole = np.triu(whole) + np.triu(whole, 1).T
        squares = whole[d:, d:] if bounds.squares else None
        return cls(whole[:d, :d], whole[:d, d:], rows, squares)

    def pack(self) -> Matrix:
        """Upper triangle of gram row by row ‖ cross row by row ‖ that of squares ‖ count, as one float64 vector."""
        squares = [] if self.squares is None else upper(self.squares)
        return np.concatenate([*upper(self.gram), self.cross.ravel(), *squares, [float(self.count)]])

    @classmethod
    def unpack(
        cls, vector: npt.ArrayLike, shape: Shape, *, entry_error: float = 0.0
    ) -> "SufficientStatistics":
        """Undo `pack` on one vector or on a sum of them.

        entry_error: how far an entry may be off. The count is then the largest that it can stand for; fixed-point
        sums and float64 ones hold it exactly.
        Raises DataError unless it is a finite vector of `packed_length` whose last entry counts rows.
        """
        packed = np.asarray(vector, dtype=np.float64)
        if packed.shape != (packed_length(shape),):
            raise DataError(
                f"expected a packed vector of shape ({packed_length(shape)},), got {packed.shape}"
            )
        count = float(packed[-1])
        if math.isfinite(count) and math.floor(count + entry_error) >= count - entry_error:
            count = float(math.floor(count + entry_error))
        if not (0 <= count <= 2**53 and count.is_integer()):
            raise DataError(f"the count of rows in a packed vector must be a whole number, got {count!r}")
        triangle, products = shape.features * (shape.features + 1) // 2, shape.features * shape.outputs
        gram, cross, rest = np.split(packed[:-1], [triangle, triangle + products])
        squares = symmetric(rest, shape.outputs) if shape.squares else None
        whole = symmetric(gram, shape.features)
        whole.flags.writeable = False
        return cls(whole, cross.reshape(shape.features, shape.outputs), int(count), squares)

    def __add__(self, other: "SufficientStatistics") -> "SufficientStatistics":
        """Statistics of the rows of both; DataError unless the shapes agree."""
        if self.cross.shape != other.cross.shape:
            raise DataError(f"cannot add (d, c) = {self.cross.shape} and {other.cross.shape}")
        if (self.squares is None) != (other.squares is None):
            raise DataError("cannot add statistics with squares and without")
        squares = None if self.squares is None or other.squares is None else self.squares + other.squares
        return SufficientStatistics(
            self.gram + other.gram, self.cross + other.cross, self.count + other.count, squares
        )


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
