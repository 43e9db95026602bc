"""Disclosure control: a site codes rare levels as other ones before anything leaves, so that no row can be read alone.

A sum of Gram matrices hides whose a row is, not that it is there. If some combination v of columns is 1 in one row
and 0 in all others, then G·v is that row, word for word, and the server needs only to guess v: one column of a rare
level, the difference of two flags. How far columns can single a row out is its *leverage*,

    h_i = max over v of (x_iᵀv)² / ‖Xv‖²,

1 for a row that can be read, 1/k for the rows of a level that k rows have. Two facts make a rule that each site can
keep alone (docs/disclosure.md proves them): more rows, of whomever, only lower leverages; and so do fewer columns.

    At each site every level has no row or at least least_rows, and every row a leverage of at most
    1/(⌊least_rows/2⌋ + 1) in the site's own columns of 0 and 1, and in the columns of each number by itself.

Then no combination of these columns singles a row of the opened sum out more than a level with more than half of
`least_rows` rows would, whoever else takes part, drops out or helps the server. Ordinals have levels, and so has a
number with few values: each value is one, so that whatever its columns are, they are combinations of columns of 0 and 1.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from secure_afl.errors import DataError
from secure_afl.models.change import most_leverage
from secure_afl.protocol.session.backend import Backend
from secure_afl.tables.codebook import LEAST_ROWS, Category, Codebook, Ordinal, YesNo
from secure_afl.tables.terms import products, terms

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_UNSEEN = 2.0**-46  # of the largest eigenvalue of a matrix of counts, times its size: below is rounding
_SLACK = 2.0**-26  # of a leverage, likewise
_FEW = 8  # values of a number at a site, up to which each is a level


@dataclass(frozen=True)
class Merge:
    """`rows` rows that had `level` of a variable are coded as `into`. variable: its place in what was given."""

    variable: int
    level: int
    into: int
    rows: int


@dataclass(frozen=True, eq=False)
class Controlled:
    """What a site may contribute. kept: bool (rows given,), without the rows of rare classes; levels: of the kept
    rows, int64 (rows kept,) for each variable; merges: what was changed, in order; outlying: how many numbers were
    drawn in to the next value.
    """

    kept: npt.NDArray[np.bool_]
    levels: tuple[Ints, ...]
    merges: tuple[Merge, ...]
    outlying: int = 0


def control(
    levels: Sequence[Ints],
    classes: Ints | None = None,
    least_rows: int = LEAST_ROWS,
    products: Sequence[tuple[int, ...]] = (),
    positions: Sequence[Floats | None] = (),
) -> Controlled:
    """The site's levels, merged until the rule holds.

    levels: for each variable that becomes columns of 0 and 1 the level of each row, int64 (rows,): of a category, of
    yes and no, or 1 where a number is missing and 0 elsewhere. classes: of an outcome of classes, int64 (rows,);
    they are columns of the sum too, and are never merged: rows of a class with fewer than `least_rows` rows here are
    left out. products: variables whose products are columns as well, by their places in `levels`.
    positions: for each variable None, or a float64 for each level: a rare level is merged with the nearest one, where
    others are merged with the commonest; infinite for a level that lies nowhere.
    least_rows: 1 changes nothing.

    Raises `DataError` if fewer than `least_rows` rows are left.
    """
    kept = _of_common_classes(classes, len(levels[0]), least_rows)
    coded = [one[kept].copy() for one in levels]
    outcome = [] if classes is None else [classes[kept]]
    design = _Design.of([*coded, *outcome], len(coded), products, positions, most_leverage(least_rows))
    merges = []
    while merge := design.wanted(least_rows):
        design = design.after(merge)
        merges.append(merge)
        own = coded[merge.variable]
        own[own == merge.level] = merge.into
    return Controlled(kept, tuple(coded), tuple(merges))


def _of_common_classes(classes: Ints | None, rows: int, least_rows: int) -> npt.NDArray[np.bool_]:
    """Which rows are of classes with enough rows: (rows,). Raises `DataError` if these are too few."""
    kept = np.ones(rows, dtype=np.bool_)
    if classes is not None:
        found, counts = np.unique(classes, return_counts=True)
        kept = np.isin(classes, found[counts >= least_rows])
    if kept.sum() < least_rows:
        of = "" if classes is None else " of one class"
        raise DataError(
            f"expected at least {least_rows} rows{of}, got {rows}{of and ', of no class as many'}: contribute more rows, or agree "
            "on fewer (least_rows)"
        )
    return kept


@dataclass(frozen=True)
class Variable:
    """Columns of a design that say one thing of a row.

    indicators: places of columns of 0 and 1, of which at most one is 1; a row without any has a level of its own.
    numbers: places of columns that are 0 where the indicator is 1: the terms of a number that a flag says is missing, of
    which the first rises with the number.
    """

    name: str
    indicators: tuple[int, ...]
    numbers: tuple[int, ...] = ()

    def levels(self, X: Floats) -> Ints:
        """The level of each row of X (rows, columns): 1 + the place in `indicators` of the one that is 1, or 0."""
        return np.asarray(X[:, self.indicators] @ np.arange(1, len(self.indicators) + 1), dtype=np.int64)

    @property
    def columns(self) -> tuple[int, ...]:
        """The columns of 0 and 1 that say the level."""
        return self.indicators

    @property
    def positions(self) -> None:
        """Its levels have no order."""
        return

    def code(self, X: Floats, levels: Ints) -> None:
        """Write levels into X. A number that is no longer missing becomes the median of those that are recorded, in all
        its terms: it is then no value that no other row has."""
        recorded = np.flatnonzero(self.levels(X) == 0)
        X[:, self.indicators] = levels[:, None] == np.arange(1, len(self.indicators) + 1)
        if not self.numbers:
            return
        for place in self.numbers:
            X[levels > 0, place] = 0.0
        if len(recorded):
            middle = recorded[np.argsort(X[recorded, self.numbers[0]], kind="stable")[len(recorded) // 2]]
            again = np.setdiff1d(np.flatnonzero(levels == 0), recorded)
            X[again[:, None], self.numbers] = X[middle, self.numbers]


@dataclass(frozen=True)
class Measure:
    """The columns of a number or an ordinal. terms: their places, the first of which rises with the value; flag: the
    place of the column that says it is missing, if there is one; ordinal: whether each value is a level, however many
    there are.
    """

    name: str
    terms: tuple[int, ...]
    flag: int | None = None
    ordinal: bool = False

    def recorded(self, X: Floats) -> npt.NDArray[np.bool_]:
        """Which rows of X have a value: (rows,)."""
        return np.ones(len(X), np.bool_) if self.flag is None else X[:, self.flag] == 0

    def values(self, X: Floats) -> Floats:
        """The first term of each row, infinite where there is no value: (rows,)."""
        return np.where(self.recorded(X), X[:, self.terms[0]], np.inf)

    def draw_in(self, X: Floats, least_rows: int) -> int:
        """Move values with too large a leverage in the measure's own terms to the next value, in X; how many were moved.

        Nothing is moved where so few rows have a value that every leverage is too large.
        """
        at = np.flatnonzero(self.recorded(X))
        if len(at) <= least_rows // 2:
            return 0
        moved, most = 0, most_leverage(least_rows) + _SLACK
        while True:
            own = X[at[:, None], self.terms]
            high = _of_numbers(own) > most
            if not high.any():
                return moved
            value, middle = own[:, 0], np.median(own[:, 0])
            # The farthest value of them, towards the middle; a spline's terms can single a value out anywhere.
            farthest = value[high][np.argmax(abs(value[high] - middle))]
            inner = value[value < farthest] if farthest > middle else value[value > farthest]
            if not len(inner):
                inner = value[value != farthest]
            into = np.argmin(np.where(np.isin(value, inner), abs(value - farthest), np.inf))
            rows = at[value == farthest]
            X[rows[:, None], self.terms] = own[into]
            moved += len(rows)

    def valued(self, X: Floats) -> "Valued | None":
        """Its values as levels, if it has so few in X, or is an ordinal."""
        found, first = np.unique(self.values(X), return_index=True)
        if not self.ordinal and len(found) > _FEW:
            return None
        columns = self.terms if self.flag is None else (*self.terms, self.flag)
        return Valued(self, columns, X[first[:, None], columns], found)


@dataclass(frozen=True, eq=False)
class Valued:
    """A measure whose values are levels at one site; that it is missing is the last. columns: of the design;
    rows: what they are at each level, float64 (levels, columns); positions: (levels,).
    """

    measure: Measure
    columns: tuple[int, ...]
    rows: Floats
    positions: Floats

    def levels(self, X: Floats) -> Ints:
        """The level of each row of X (rows, columns)."""
        return np.searchsorted(self.positions, self.measure.values(X)).astype(np.int64)

    def code(self, X: Floats, levels: Ints) -> None:
        """Write levels into X."""
        X[:, self.columns] = self.rows[levels]


def _of_numbers(own: Floats) -> Floats:
    """The leverage of each row in these columns and a column of ones: (rows,)."""
    centred = own - own[0]  # exactly 0 for a column of one value, of which the mean may be rounded
    centred -= centred.mean(axis=0)
    sizes = np.linalg.norm(centred, axis=0)
    directions, found, _ = np.linalg.svd(centred / np.where(sizes > 0, sizes, 1.0), full_matrices=False)
    return np.asarray((directions[:, found > 2.0**-30] ** 2).sum(axis=1) + 1 / len(own))


@dataclass(frozen=True)
class Layout:
    """What the columns of a design say. variables: of those that are 0 and 1; measures: of numbers and ordinals, whose
    flags are variables as well; products: place of a column, and places of the columns it is the product of. weighed: rows
    will be weighed by their classes, so the rule has to hold among the rows of each class.
    """

    variables: tuple[Variable, ...]
    products: tuple[tuple[int, tuple[int, ...]], ...] = ()
    measures: tuple[Measure, ...] = ()
    weighed: bool = False

    @classmethod
    def of(cls, codebook: Codebook) -> "Layout":
        """The layout of `encoding.code`."""
        found = terms(codebook)
        variables, places, measures = list[Variable](), {}, list[Measure]()
        for place, term in enumerate(found):
            if len(term.columns) == 1:
                places[term.name] = place
        for name, kind in codebook.columns.items():
            own = [place for place, term in enumerate(found) if term.columns == (name,)]
            flags = [place for place in own if found[place].raw is None]
            others = [place for place in own if place not in flags]
            if isinstance(kind, Category | YesNo):
                variables.append(Variable(name, (*others, *flags)))
                continue
            if flags:
                variables.append(Variable(f"{name} missing", tuple(flags), tuple(others)))
            flag = flags[0] if flags else None
            measures.append(Measure(name, tuple(others), flag, isinstance(kind, Ordinal)))
        parts = [one for factors in products(codebook) for one in factors]
        first = len(found) - len(parts)
        made = tuple((first + at, tuple(places[part.name] for part in one)) for at, one in enumerate(parts))
        return cls(tuple(variables), made, tuple(measures))

    def at_site(self, X: Floats) -> list[Variable | Valued]:
        """What has levels in these rows."""
        valued = [one for measure in self.measures if (one := measure.valued(X))]
        flags = {one.measure.flag for one in valued}
        return [*(one for one in self.variables if not flags & set(one.indicators)), *valued]

    def crossed(self, variables: Sequence[Variable | Valued]) -> list[tuple[int, ...]]:
        """Those whose cells are columns of the design, or hold the columns of a product with a number, by their places in
        `variables`.
        """
        owner = _owners(variables)
        found = {tuple(owner.get(place, -1) for place in factors) for _, factors in self.products}
        found |= {self.with_number(measure, variables) for measure in self.measures}
        return sorted(one for one in found if len(one) > 1 and min(one) >= 0)

    def with_number(self, measure: Measure, variables: Sequence[Variable | Valued]) -> tuple[int, ...]:
        """The variables whose levels a number is multiplied with, and whether it is missing, by their places in
        `variables`; empty if it is in no product, or its values are levels themselves.
        """
        owner = _owners(variables)
        if measure.terms[0] in owner:
            return ()
        products = [factors for _, factors in self.products if not set(factors).isdisjoint(measure.terms)]
        others = {owner[place] for factors in products for place in factors if place in owner}
        return tuple(
            sorted(others | ({owner[measure.flag]} if others and measure.flag is not None else set()))
        )

    def draw_in(
        self,
        X: Floats,
        variables: Sequence[Variable | Valued],
        levels: Sequence[Ints],
        classes: Ints | None,
        least_rows: int,
    ) -> int:
        """`Measure.draw_in` among the rows of each cell of the levels that a number is multiplied with, and of each class
        that has a weight of its own; how many values were moved.
        """
        moved = 0
        for measure in self.measures:
            of = [levels[at] for at in self.with_number(measure, variables)]
            of += [] if classes is None else [classes]
            cells = np.unique(of, axis=1, return_inverse=True)[1] if of else np.zeros(0, np.int64)
            for mine in (cells == cell for cell in np.unique(cells)):
                rows = X[mine]
                moved += measure.draw_in(rows, least_rows)
                X[mine] = rows
        return moved


def _owners(variables: Sequence[Variable | Valued]) -> dict[int, int]:
    """For each column of variables the place of its variable."""
    return {place: at for at, one in enumerate(variables) for place in one.columns}


def control_rows(
    X: Floats, layout: Layout, classes: Ints | None, least_rows: int
) -> tuple[Floats, Controlled]:
    """`control` for a design X (rows, columns): the kept rows as they are coded, and what was changed.

    Raises `DataError` for too few rows.
    """
    kept = _of_common_classes(classes, len(X), least_rows)
    coded = X[kept]
    outlying = sum(measure.draw_in(coded, least_rows) for measure in layout.measures)
    own_classes = None if classes is None else classes[kept]
    by_class = own_classes if layout.weighed else None
    merges, moved = list[Merge](), 1
    while moved:  # a number that was drawn in may have few values now, which are levels then
        variables = layout.at_site(coded)
        levels = [one.levels(coded) for one in variables] or [np.zeros(len(coded), np.int64)]
        crossed = layout.crossed(variables)
        if by_class is not None:  # products with a class are columns of its rows alone
            crossed += [(*one, len(levels)) for one in [*((at,) for at in range(len(levels))), *crossed]]
        positions = [one.positions for one in variables] or [None]
        found = control(levels, own_classes, least_rows, crossed, positions)
        for variable, own in zip(variables, found.levels, strict=False):
            variable.code(coded, own)
        merges += found.merges
        moved = layout.draw_in(coded, variables, found.levels, by_class, least_rows)
        outlying += moved
    for place, factors in layout.products:
        coded[:, place] = np.prod([coded[:, factor] for factor in factors], axis=0)
    return coded, replace(found, kept=kept, merges=tuple(merges), outlying=outlying)


@dataclass(frozen=True, eq=False)
class Waves:
    """A site's rows under disclosure control. X: as they are coded, all rows given; kept: the numbers of those that it
    contributes, int64, in their order; found: what was changed, one for each wave.
    """

    X: Floats
    kept: Ints
    found: tuple[Controlled, ...]

    @property
    def merges(self) -> int:
        """How many levels were coded as others."""
        return sum(len(one.merges) for one in self.found)

    @property
    def values(self) -> int:
        """How many values were changed, numbers that were drawn in included."""
        return sum(one.outlying + sum(merge.rows for merge in one.merges) for one in self.found)


def holds(codebook: Codebook | None, *, private: bool) -> int:
    """The `least_rows` that holds for rows of a codebook, 1 for none. private: with noise, under which a row's coding must
    not depend on other rows.
    """
    return 1 if codebook is None or private else codebook.least_rows


def indicators(codebook: Codebook | None, backend: str) -> tuple[int, ...]:
    """The places of columns of 0 and 1, where an approximate sum of rows without weights needs to know: a level that all
    sites merge leaves a constant column, which it cannot tell from others otherwise.
    """
    if codebook is None or codebook.weights or backend != Backend.CKKS:
        return ()
    layout = Layout.of(codebook)
    single = {place for one in layout.variables for place in one.indicators}
    made = {place for place, factors in layout.products if single.issuperset(factors)}
    return tuple(sorted(single | made))


def categories(codebook: Codebook) -> tuple[tuple[int, ...], ...]:
    """The columns of each category of more than two levels, by their places; a level of two has one column."""
    return tuple(one.indicators for one in Layout.of(codebook).variables if len(one.indicators) > 1)


def control_waves(X: Floats, layout: Layout, classes: Ints | None, least_rows: int, waves: int = 1) -> Waves:
    """`control_rows` for each of equal waves of a site's rows in their order, as `split_rounds` makes them of what is
    kept: each wave is a sum of its own. Raises `DataError` for a wave of too few rows.
    """
    coded, kept, found = X.copy(), np.arange(len(X)), list[Controlled]()
    while not found or not all(one.kept.all() for one in found):
        if found:  # rows that are left out move others to another wave
            kept = kept[np.concatenate([one.kept for one in found])]
        found = []
        for wave in np.array_split(kept, waves):
            own, one = control_rows(X[wave], layout, None if classes is None else classes[wave], least_rows)
            coded[wave[one.kept]] = own
            found.append(one)
    return Waves(coded, kept, tuple(found))


def counted(X: Floats, variable: Variable, names: Sequence[str]) -> dict[str, int]:
    """How many rows of X have each level that is there; names: of the columns."""
    labels = [f"none of {variable.name}", *(names[place] for place in variable.indicators)]
    if len(labels) == 2:
        labels[0] = f"not {labels[1]}"
    found = np.bincount(variable.levels(X), minlength=len(labels))
    return {label: int(count) for label, count in zip(labels, found, strict=True) if count}


@dataclass(frozen=True)
class Smallest:
    """The smallest cell of an opened sum: its name and how many pooled rows it has, of how many in all, in how many columns."""

    cell: str
    rows: int
    pooled: int
    columns: int

    def warnings(self, least_rows: int = LEAST_ROWS) -> list[str]:
        """Why rows may be read from such a sum."""
        said = (
            (
                self.rows < least_rows,
                f"a cell of fewer than {least_rows} rows: the sum may show rows of it word for word",
            ),
            (
                self.pooled <= self.columns,
                "no more pooled rows than columns: rows can be computed from such a sum",
            ),
        )
        return [warning for applies, warning in said if applies]


def smallest(gram: Floats, cross: Floats, codebook: Codebook) -> Smallest:
    """The smallest cell of a sum of rows without weights: Gram (1 + d, 1 + d), a column of ones first, and cross-covariance
    (1 + d, c). Levels that no row has are no cells.
    """
    names, rows = [term.name for term in terms(codebook)], round(gram[0, 0])
    cells = {"all rows": rows}
    for variable in Layout.of(codebook).variables:
        counts = {names[place]: round(gram[0, 1 + place]) for place in variable.indicators}
        cells |= counts | {f"none of {variable.name}": rows - sum(counts.values())}
    for name, count in zip(codebook.classes, cross[0].tolist(), strict=False):
        cells[f"class {name}"] = round(count)
    cell = min((name for name, count in cells.items() if count > 0), key=lambda name: cells[name])
    return Smallest(cell, cells[cell], rows, len(gram) - 1)


def leverages(levels: Sequence[Ints], products: Sequence[tuple[int, ...]] = ()) -> Floats:
    """The leverage of each row in the columns of 0 and 1 that these variables become, and a column of ones: (rows,)."""
    columns, places = _columns(levels, products)
    return _leverages(_gram(places, len(columns)), places)


Column = tuple[tuple[int, int], ...]
"""What a column of 0 and 1 says: that a row has this level of each of these variables."""


@dataclass(frozen=True, eq=False)
class _Design:
    """Columns of 0 and 1, what is needed of the rows to judge merges, and what each merge would change.

    columns: L of them, those of a variable side by side; counts: rows of each level of the variables that may be
    merged. gram: float64 (L, L), of counts; high: distinct rows whose leverage is over `most`, float64 (m, L), and
    weights (m,), how many rows each stands for. A merge lowers leverages, so no other row ever becomes one.
    """

    columns: tuple[Column, ...]
    counts: tuple[dict[int, int], ...]
    positions: tuple[Floats | None, ...]
    gram: Floats
    high: Floats
    weights: Floats
    most: float

    @classmethod
    def of(
        cls,
        levels: Sequence[Ints],
        mergeable: int,
        products: Sequence[tuple[int, ...]],
        positions: Sequence[Floats | None],
        most: float,
    ) -> "_Design":
        columns, places = _columns(levels, products)
        gram = _gram(places, len(columns))
        high, weights = np.unique(
            places[:, _leverages(gram, places) > most + _SLACK], axis=1, return_counts=True
        )
        rows = np.zeros((high.shape[1], len(columns)))
        np.put_along_axis(rows, high.T, 1.0, axis=1)
        counts = tuple(
            dict(zip(*map(np.ndarray.tolist, np.unique(one, return_counts=True)), strict=True))
            for one in levels[:mergeable]
        )
        where = tuple(positions) or (None,) * mergeable
        return cls(columns, counts, where, gram, rows, weights.astype(np.float64), most)

    def of_high(self) -> Floats:
        """The leverages of the rows in `high`."""
        return np.asarray(np.einsum("ij,jk,ik->i", self.high, _inverse(self.gram), self.high, optimize=True))

    def excess(self) -> float:
        """By how much the leverages of all rows together are over what is allowed."""
        over = self.of_high() - self.most
        return float(self.weights @ over.clip(0.0))

    def wanted(self, least_rows: int) -> Merge | None:
        """The next merge: of a variable's rarest level into its commonest, or its nearest. Levels with fewer than
        `least_rows` rows come first; then the one that lowers the excess most for each row it changes. None once the rule
        holds.
        """
        merges = []
        for variable, counts in enumerate(self.counts):
            rarest, *others = sorted(counts, key=lambda level: (counts[level], level))
            if others:
                into = self._nearest(variable, rarest, others)
                merges.append(Merge(variable, rarest, into, counts[rarest]))
        if rare := [merge for merge in merges if merge.rows < least_rows]:
            return rare[0]
        if not len(self.high):
            return None
        # One level a variable leaves rows that differ in their class alone, and every class has enough of them.
        return min(
            merges,
            key=lambda merge: ((self._summed(merge).excess() - self.excess()) / merge.rows, merge.rows),
        )

    def _nearest(self, variable: int, level: int, others: Sequence[int]) -> int:
        """Of other levels, commonest last, the one to merge it with."""
        where = self.positions[variable]
        if where is None or not np.isfinite(where[level]):
            return others[-1]
        # Of two that are as near, the commoner; a level that lies nowhere only where there is no other.
        return min(reversed(others), key=lambda other: abs(float(where[other] - where[level])))

    def after(self, merge: Merge) -> "_Design":
        """The design once levels are merged, without the rows that are no longer high."""
        design = self._summed(merge)
        counts = [dict(one) for one in design.counts]
        own = counts[merge.variable]
        own[merge.into] += own.pop(merge.level)
        over = design.of_high() > design.most + _SLACK
        return replace(design, counts=tuple(counts), high=design.high[over], weights=design.weights[over])

    def _summed(self, merge: Merge) -> "_Design":
        """With the columns of the two levels added up."""
        old, new = (merge.variable, merge.level), (merge.variable, merge.into)
        renamed = [tuple(new if part == old else part for part in column) for column in self.columns]
        columns = tuple(dict.fromkeys(renamed))
        place = {column: at for at, column in enumerate(columns)}
        sums = np.zeros((len(self.columns), len(columns)))
        sums[np.arange(len(renamed)), [place[column] for column in renamed]] = 1.0
        return replace(self, columns=columns, gram=sums.T @ self.gram @ sums, high=self.high @ sums)


def _columns(levels: Sequence[Ints], products: Sequence[tuple[int, ...]]) -> tuple[tuple[Column, ...], Ints]:
    """The columns, and for each variable and product (first axis) which of them is 1 in each row."""
    columns: list[Column] = []
    places = []
    for variable, own in enumerate(levels):
        found = np.unique(own)
        places.append(len(columns) + np.searchsorted(found, own))
        columns += [((variable, level),) for level in found.tolist()]
    for factors in products:
        cells, rows = np.unique([places[one] for one in factors], axis=1, return_inverse=True)
        places.append(len(columns) + rows)
        columns += [tuple(part for at in cell for part in columns[at]) for cell in cells.T.tolist()]
    return tuple(columns), np.array(places, dtype=np.int64)


def _gram(places: Ints, columns: int) -> Floats:
    """How many rows have a 1 in each two columns: float64 (columns, columns)."""
    pairs = itertools.product(places, repeat=2)
    counts = sum(np.bincount(one * columns + two, minlength=columns**2) for one, two in pairs)
    return np.asarray(counts, dtype=np.float64).reshape(columns, columns)


def _inverse(gram: Floats) -> Floats:
    """The pseudo-inverse of a matrix of counts."""
    values, vectors = np.linalg.eigh(gram)
    seen = values > _UNSEEN * len(values) * values[-1]
    return np.asarray((vectors[:, seen] / values[seen]) @ vectors[:, seen].T)


def _leverages(gram: Floats, places: Ints) -> Floats:
    """Of each row, in the columns of this Gram."""
    inverse = _inverse(gram)
    total = np.zeros(places.shape[1])
    for one, two in itertools.product(places, repeat=2):
        total += inverse[one, two]
    return total
