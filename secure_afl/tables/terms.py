"""The features that follow from a codebook, in public: their names, and how each comes from a column.

Every feature is (raw - middle) / half of a raw value, and lies in [-1, 1] whatever the row. A missing value is 0 in
every feature of its column, and 1 in the column's flag.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from secure_afl.errors import DataError
from secure_afl.tables.codebook import Category, Codebook, Kind, Number, Ordinal, YesNo

Floats = npt.NDArray[np.float64]
MOST_FEATURES = 10_000
"""The most features of a codebook: their second moments are 400 MB."""
Values = npt.NDArray[np.float64] | npt.NDArray[np.int64]


@dataclass(frozen=True)
class Term:
    """One feature: (raw - middle) / half. unit: of the raw value; columns: of the table, that it is made of.

    A term of one column has a `raw` that makes its raw value from the column's values; None flags missing values.
    """

    name: str
    columns: tuple[str, ...]
    middle: float = 0.0
    half: float = 1.0
    unit: str = ""
    raw: Callable[[Values], Floats] | None = None


def terms(codebook: Codebook) -> tuple[Term, ...]:
    """All features, in their order: column by column, then the products. Raises `DataError` for names that repeat, and for
    more than `MOST_FEATURES` of them.
    """
    single = {name: _of_column(name, kind) for name, kind in codebook.columns.items()}
    # Counted before they are made: three columns of a few hundred levels have millions of products.
    factors_of = {name: sum(term.raw is not None for term in of_one) for name, of_one in single.items()}
    count = sum(map(len, single.values()))
    count += sum(math.prod(factors_of[name] for name in one) for one in codebook.products)
    if count > MOST_FEATURES:
        raise DataError(
            f"expected a codebook with at most {MOST_FEATURES} features, got {count}: leave products out, or merge levels"
        )
    found = [
        *(term for of_one in single.values() for term in of_one),
        *(_product(parts) for factors in products(codebook) for parts in factors),
    ]
    times = Counter(term.name for term in found)
    if twice := sorted(name for name, count in times.items() if count > 1):
        raise DataError(f"expected features of different names, two are called {twice[0]!r}: rename a column")
    return tuple(found)


def products(codebook: Codebook) -> list[list[tuple[Term, ...]]]:
    """The terms that are multiplied for each product of columns, without flags."""
    return [
        list(
            product(
                *([term for term in _of_column(name, codebook.columns[name]) if term.raw] for name in one)
            )
        )
        for one in codebook.products
    ]


def row_norm(codebook: Codebook) -> float:
    """A public bound on the Euclidean norm of a row of features."""
    squares = {name: _square_norm(kind) for name, kind in codebook.columns.items()}
    total = sum(squares.values()) + sum(math.prod(squares[name] for name in one) for one in codebook.products)
    return math.sqrt(total) * (1 + 2.0**-30)  # logarithms and splines are rounded


def in_table_units(
    of: Sequence[Term], coef: npt.ArrayLike, intercept: npt.ArrayLike
) -> tuple[Floats, Floats]:
    """Coefficients (outputs, features) and intercepts (outputs,) of raw values, from those of features."""
    half, middle = (np.array([getattr(term, one) for term in of]) for one in ("half", "middle"))
    raw = np.asarray(coef, dtype=np.float64) / half
    return raw, np.asarray(intercept, dtype=np.float64) - raw @ middle


def _of_column(name: str, kind: Kind) -> list[Term]:
    flag = [Term(f"{name} missing", (name,))] if kind.missing and kind.when_missing == "flag" else []
    match kind:
        case Number():
            return [*_of_number(name, kind), *flag]
        case Category():
            levels = [(at, level) for at, level in enumerate(kind.levels) if level != kind.base]
            return [*(Term(f"{name} = {level}", (name,), raw=_is(at)) for at, level in levels), *flag]
        case YesNo():
            return [Term(name, (name,), raw=_is(1)), *flag]
        case Ordinal():
            half = (len(kind.levels) - 1) / 2
            return [Term(name, (name,), half, half, "levels", _as_float), *flag]


def _of_number(name: str, kind: Number) -> list[Term]:
    label, unit = (f"log {name}", "") if kind.log else (name, kind.unit)
    read: Callable[[Values], Floats] = np.log if kind.log else _as_float
    low, high = read(np.array(kind.range)).tolist()
    middle = low + (high - low) / 2
    half = max(
        high - middle, middle - low
    )  # as rounded: differences of rows are rounded in the same direction
    found = [Term(label, (name,), middle, half, unit, read)]
    if kind.square:
        largest = half * half
        found.append(
            Term(
                f"({label} - {middle:.6g})^2",
                (name,),
                largest / 2,
                largest / 2,
                f"{unit}^2" if unit else "",
                lambda values: np.square(read(values) - middle),
            )
        )
    knots = [math.log(knot) if kind.log else knot for knot in kind.knots]
    for at in range(len(knots) - 2):
        bend = _bend(knots, at, read)
        top = float(bend(np.array([kind.range[1]]))[0])
        found.append(Term(label + "'" * (at + 1), (name,), top / 2, top / 2, unit, bend))
    return found


def _bend(knots: Sequence[float], at: int, read: Callable[[Values], Floats]) -> Callable[[Values], Floats]:
    """A term of a restricted cubic spline: 0 up to its knot, rising from there, straight from the last knot on."""
    first, here, second, last = knots[0], knots[at], knots[-2], knots[-1]

    def cube(values: Floats, knot: float) -> Floats:
        return np.asarray(np.maximum(values - knot, 0.0) ** 3)

    def bend(values: Values) -> Floats:
        x = read(values)
        curved = (
            cube(x, here)
            - cube(x, second) * ((last - here) / (last - second))
            + cube(x, last) * ((second - here) / (last - second))
        )
        return np.asarray(curved / (last - first) ** 2)

    return bend


def _product(parts: Sequence[Term]) -> Term:
    """The product of features, as one of its raw values: those of numbers are taken from their middles."""
    names = [f"({part.name} - {part.middle:.6g})" if part.middle else f"({part.name})" for part in parts]
    return Term(
        ":".join(names),
        tuple(name for part in parts for name in part.columns),
        0.0,
        math.prod(part.half for part in parts),
        " ".join(part.unit for part in parts if part.unit),
    )


def _square_norm(kind: Kind) -> float:
    """The most that a column's features add to the squared norm of a row; a flag excludes the others."""
    if isinstance(kind, Number):
        return 1 + kind.square + max(len(kind.knots) - 2, 0)
    return 1


def _is(place: int) -> Callable[[Values], Floats]:
    return lambda values: (values == place).astype(np.float64)


def _as_float(values: Values) -> Floats:
    return np.asarray(values, dtype=np.float64)
