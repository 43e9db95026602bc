"""From the cells of one table to rows of features, as a codebook has it. Two steps: parse, then code."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from secure_afl.errors import DataError
from secure_afl.tables import filter as row_filter
from secure_afl.tables.cells import Cells, Floats, Ints, Mask, is_any, to_levels
from secure_afl.tables.codebook import Classes, Codebook, Kind, Number, spellings
from secure_afl.tables.faults import Fault, Remedy, enumerated, refuse, unreadable
from secure_afl.tables.filter import Among, Both, Compare, Condition, Either, Missing, Not
from secure_afl.tables.terms import Values, products, terms


class Column(NamedTuple):
    """A parsed column of the rows in use. values: float64 of a number, int64 places among levels of the others, anything
    where `missing` is true.
    """

    values: Values
    missing: Mask


@dataclass(frozen=True)
class Counts:
    """What became of a table's rows. filtered: left out by the filter; left_out: by column, since it is missing there (a
    row may miss two); flagged: by column; used: the rest. held_out: of these the ones that the codebook holds out.
    """

    rows: int
    used: int
    filtered: int
    left_out: Mapping[str, int]
    flagged: Mapping[str, int]
    held_out: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class InUse:
    """Rows in use; rows: their numbers in the table, from 1.

    outcome: int64 places among classes, or float64; None where it was not asked for. weights, site: None without. held_out:
    bool, which rows are to test the model on; None without, and without the outcome.
    """

    outcome: Ints | Floats | None
    weights: Floats | None
    site: npt.NDArray[np.str_] | None
    rows: Ints
    counts: Counts
    held_out: Mask | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Parsed(InUse):
    """A table's columns as their codebook has them."""

    columns: Mapping[str, Column]


@dataclass(frozen=True, eq=False, kw_only=True)
class Design(InUse):
    """Rows of features. X: float64 (rows, features), each in [-1, 1]."""

    X: Floats


def encode(codebook: Codebook, cells: Cells, *, outcome: bool = True) -> Design:
    """Both steps. outcome: False for rows whose outcome is to be predicted. Raises as `parse`."""
    return code(codebook, parse(codebook, cells, outcome=outcome))


def parse(codebook: Codebook, cells: Cells, *, outcome: bool = True) -> Parsed:
    """The cells as what they mean. Raises `DataError` for columns that are not there, `TableError` with all cells that do
    not fit.
    """
    parsed, faults = examine(codebook, cells, outcome=outcome)
    refuse(cells.source, faults)
    return parsed


def examine(codebook: Codebook, cells: Cells, *, outcome: bool = True) -> tuple[Parsed, list[Fault]]:
    """What `parse` gives, with the faults; rows at fault are among the rows in use. Raises `DataError` for columns that
    are not there.
    """
    _check_columns(codebook, cells, outcome)
    work = _Work(codebook, cells)
    columns = {name: work.column(name, kind) for name, kind in codebook.columns.items()}
    out: dict[str, Mask] = {
        name: columns[name].missing
        for name, kind in codebook.columns.items()
        if kind.when_missing == "leave out"
    }
    target = work.outcome() if outcome else None
    if target:
        out[codebook.outcome.column] = target.missing
    weights = work.weights() if codebook.weights and outcome else None
    marked = work.held_out(codebook.marks) if codebook.marks and outcome else None
    site = work.site() if codebook.site in cells.columns else None
    use = work.use & ~np.logical_or.reduce([np.zeros(cells.rows, np.bool_), *out.values()])
    flagged = {name: column.missing & use for name, column in columns.items() if name not in out}
    kept = slice(None) if use.all() else use  # of a long table nothing is copied
    parsed = Parsed(
        columns={name: Column(column.values[kept], column.missing[kept]) for name, column in columns.items()},
        outcome=None if target is None else target.values[kept],
        weights=None if weights is None else weights[kept],
        site=None if site is None else site[kept],
        rows=np.flatnonzero(use) + 1,
        counts=Counts(
            cells.rows,
            int(use.sum()),
            int((~work.use).sum()),
            {
                name: int((missing & work.use).sum())
                for name, missing in out.items()
                if (missing & work.use).any()
            },
            {name: int(missing.sum()) for name, missing in flagged.items() if missing.any()},
            0 if marked is None else int((marked & use).sum()),
        ),
        held_out=None if marked is None else marked[kept],
    )
    return parsed, work.faults


def code(codebook: Codebook, parsed: Parsed) -> Design:
    """Parsed columns as features; see `secure_afl.tables.terms`."""
    of = terms(codebook)
    X = np.zeros((len(parsed.rows), len(of)))
    places = {}
    at = 0
    while at < len(of) and len(of[at].columns) == 1:
        term, column = of[at], parsed.columns[of[at].columns[0]]
        if term.raw is None:
            X[:, at] = column.missing
        else:
            with np.errstate(all="ignore"):  # whatever a missing value gives is overwritten
                X[:, at] = np.where(column.missing, 0.0, (term.raw(column.values) - term.middle) / term.half)
        places[term.name] = at
        at += 1
    for factors in products(codebook):
        for parts in factors:
            X[:, at] = np.prod([X[:, places[part.name]] for part in parts], axis=0)
            at += 1
    return Design(X=X, **{one.name: getattr(parsed, one.name) for one in fields(InUse)})


def only_held_out(design: Design) -> Design:
    """The rows that a codebook holds out."""
    kept = design.held_out
    assert kept is not None
    columns = {one: getattr(design, one) for one in ("X", "outcome", "weights", "site", "rows", "held_out")}
    own: dict[str, Any] = {one: None if of is None else of[kept] for one, of in columns.items()}
    return replace(design, **own)


def described(codebook: Codebook, counts: Counts) -> list[tuple[str, str, str, float]]:
    """Each column with its kind, its values, and the share of rows in use that are flagged as missing it."""
    found = []
    for name, kind in codebook.columns.items():
        if isinstance(kind, Number):
            low, high = kind.range
            values = f"{low:g} to {high:g}{kind.unit and f' {kind.unit}'}"
        else:
            values = ", ".join(kind.levels)
        tag = str(kind.__struct_config__.tag)
        found.append((name, tag, values, counts.flagged.get(name, 0) / max(counts.used, 1)))
    return found


def _check_columns(codebook: Codebook, cells: Cells, outcome: bool) -> None:
    """Raises `DataError` that names all columns that are not there."""
    wanted = [*codebook.columns, *(row_filter.columns(codebook.condition) if codebook.condition else ())]
    if outcome:
        wanted += row_filter.columns(codebook.marks) if codebook.marks else []
        wanted += [codebook.outcome.column, *([codebook.weights.column] if codebook.weights else [])]
    if absent := [name for name in dict.fromkeys(wanted) if name not in cells.columns]:
        raise DataError(
            f"{cells.source}: expected the codebook's columns, got none called {enumerated(map(repr, absent), 10)}; "
            f"there are {enumerated(map(repr, cells.columns), 12)}"
        )


class Truth(NamedTuple):
    """Where a condition holds and where it does not; elsewhere a value is missing and nobody knows."""

    yes: Mask
    no: Mask


@dataclass
class _Work:
    """One table under one codebook. use: the rows that the filter takes; faults: what was found in these, and in rows
    where the filter cannot be decided for a cell that does not fit.
    """

    codebook: Codebook
    cells: Cells
    faults: list[Fault] = field(default_factory=list)
    use: Mask = field(init=False)
    _asked: Mask = field(init=False)
    _unread: Mask = field(init=False)

    def __post_init__(self) -> None:
        everything = np.ones(self.cells.rows, np.bool_)
        self._unread = ~everything
        condition = self.codebook.condition
        self.use = self._truth(condition).yes if condition else everything
        self._asked = self.use | self._unread

    def column(self, name: str, kind: Kind) -> Column:
        missing = is_any(self.cells.column(name), kind.missing)
        if isinstance(kind, Number):
            return Column(self._number(name, kind.range, kind.unit, missing), missing)
        return Column(self._levels(name, spellings(kind.levels), missing), missing)

    def outcome(self) -> Column:
        outcome = self.codebook.outcome
        missing = is_any(self.cells.column(outcome.column), outcome.missing)
        if isinstance(outcome, Classes):
            return Column(self._levels(outcome.column, spellings(outcome.classes), missing), missing)
        return Column(self._number(outcome.column, outcome.range, outcome.unit, missing), missing)

    def weights(self) -> Floats:
        wanted = self.codebook.weights
        assert wanted is not None
        values = self.cells.numbers(wanted.column)
        wrong = self._asked & ~((values > 0) & (values <= wanted.largest))
        self._fault(wanted.column, wrong, f"a weight above 0 and up to {wanted.largest:g}")
        return values

    def held_out(self, condition: Condition) -> Mask:
        """Which rows the condition holds of; one of which nobody knows is a fault."""
        truth = self._truth(condition)
        unknown = self.use & ~truth.yes & ~truth.no
        remedy = "complete it, or leave such rows out by the filter"
        name = row_filter.columns(condition)[0]
        self._fault(name, unknown, "a value that says whether the row is held out", remedy)
        return truth.yes

    def site(self) -> npt.NDArray[np.str_]:
        return np.asarray(self.cells.column(self.codebook.site).to_numpy(), dtype=np.str_)

    def _number(self, name: str, bounds: tuple[float, float], unit: str, missing: Mask) -> Floats:
        values, (low, high) = self.cells.numbers(name), bounds
        asked = self._asked & ~missing
        expected = f"a number from {low:g} to {high:g}{unit and f' {unit}'}"
        words = asked & np.isnan(values)
        self._fault(
            name, words, expected, lambda found: unreadable(found, "correct it, or list it as missing")
        )
        outside = asked & ~words & ~((low <= values) & (values <= high))
        self._fault(
            name, outside, expected, "correct it, list it as missing, or widen the range for everyone"
        )
        return values

    def _levels(self, name: str, levels: Mapping[str, Sequence[str]], missing: Mask) -> Ints:
        written = [(cell, at) for at, cells in enumerate(levels.values()) for cell in cells]
        found = to_levels(self.cells.column(name), [cell for cell, _ in written])
        wrong = self._asked & ~missing & (found < 0)
        words = [cell for cell, _ in written]

        def remedy(cells: list[str]) -> str:
            alike = [word for word in words if word.lower() in {cell.lower() for cell in cells}]
            meant = (
                f"write {enumerated(map(repr, alike))}, as upper and lower case differ; or " if alike else ""
            )
            return f"{meant}correct it, add it to the levels, or list it as missing"

        self._fault(name, wrong, f"one of {enumerated(map(repr, words), 12)}", remedy)
        return np.array([at for _, at in written], np.int64)[found]

    def _fault(self, name: str, wrong: Mask, expected: str, remedy: Remedy = "") -> None:
        self.faults += self.cells.faults(name, wrong, expected, remedy)

    def _missing(self, name: str) -> Mask:
        """Where a column has no value, as the codebook has it; of one that is not in it, an empty cell."""
        outcome = self.codebook.outcome
        kind = outcome if outcome.column == name else self.codebook.columns.get(name)
        return is_any(self.cells.column(name), kind.missing if kind else ("",))

    def _truth(self, condition: Condition) -> Truth:
        match condition:
            case Compare(name, sign, value):
                return self._compare(name, sign, value)
            case Among(name, values):
                one = [self._compare(name, "==", value) for value in values]
                return Truth(
                    np.any([each.yes for each in one], axis=0), np.all([each.no for each in one], axis=0)
                )
            case Missing(name):
                missing = self._missing(name)
                return Truth(missing, ~missing)
            case Not(of):
                truth = self._truth(of)
                return Truth(truth.no, truth.yes)
            case Both(left, right):
                a, b = self._truth(left), self._truth(right)
                return Truth(a.yes & b.yes, a.no | b.no)
            case Either(left, right):
                a, b = self._truth(left), self._truth(right)
                return Truth(a.yes | b.yes, a.no & b.no)

    def _compare(self, name: str, sign: str, value: float | str) -> Truth:
        missing = self._missing(name)
        if isinstance(value, str):
            same = is_any(self.cells.column(name), [value])
            holds = same if sign == "==" else ~same
            return Truth(holds & ~missing, ~holds & ~missing)
        numbers = self.cells.numbers(name)
        unread = np.isnan(numbers) & ~missing
        if not isinstance(self.codebook.columns.get(name), Number):  # else the column says so itself
            self._fault(name, unread, "a number, which the filter asks for", unreadable)
        self._unread |= unread
        holds = np.asarray(_SIGNS[sign](numbers, value), dtype=np.bool_)
        known = ~(missing | unread)
        return Truth(holds & known, ~holds & known)


_SIGNS = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
}
