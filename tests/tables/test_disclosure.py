"""What a site codes before anything leaves, and rows that no combination of columns of 0 and 1 can single out."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_afl.errors import DataError
from secure_afl.models.change import most_leverage
from secure_afl.simulations.attacks.reading.leverage import singled_out, units
from secure_afl.tables import codebook, reading
from secure_afl.tables.disclosure import (
    Ints,
    Layout,
    Measure,
    Merge,
    Variable,
    control,
    control_rows,
    counted,
    leverages,
)
from secure_afl.tables.encoding import encode
from secure_afl.tables.terms import terms


def site(draws: np.random.Generator, rows: int, variables: int) -> tuple[list[Ints], Ints]:
    """Variables of two to five levels, rare ones among them, that depend on each other; and classes."""
    kinds = draws.integers(0, 3, rows)
    levels = []
    for _ in range(variables):
        shares = draws.dirichlet(np.full(int(draws.integers(2, 6)), 0.5), 3)
        levels.append(np.array([draws.choice(len(shares[0]), p=shares[kind]) for kind in kinds]))
    return levels, draws.integers(0, 2, rows)


def design(levels: list[Ints], products: list[tuple[int, ...]]) -> np.ndarray:
    """Ones, a column for each level, and one for each cell of a product."""
    one_hot = [own[:, None] == np.arange(7) for own in levels]
    cells = []
    for factors in products:
        cell = np.ones((len(levels[0]), 1), np.bool_)
        for one in factors:
            cell = (cell[:, :, None] & one_hot[one][:, None, :]).reshape(len(cell), -1)
        cells.append(cell)
    return np.column_stack([np.ones(len(levels[0])), *one_hot, *cells]).astype(np.float64)


def reference(X: np.ndarray) -> np.ndarray:
    """Leverages as the diagonal of the hat matrix."""
    return np.diag(X @ np.linalg.pinv(X))


@settings(max_examples=40)
@given(
    st.integers(0, 2**32),
    st.integers(12, 80),
    st.integers(1, 6),
    st.integers(2, 6),
    st.sampled_from([0, 2, 3]),
)
def test_the_rule_holds_at_a_site_and_in_every_pool_with_it(
    seed: int, rows: int, variables: int, least_rows: int, factors: int
) -> None:
    draws = np.random.default_rng(seed)
    products = [tuple(range(variables))[:factors]] if 1 < factors <= variables else []
    levels, classes = site(draws, rows, variables)
    try:
        found = control(levels, classes, least_rows, products)
    except DataError:
        assert sum(count for count in np.bincount(classes) if count >= least_rows) < least_rows
        return
    kept = classes[found.kept]
    own = [*found.levels, kept]
    most = most_leverage(least_rows)
    for variable in own:
        counts = np.bincount(variable)
        assert counts[counts > 0].min() >= least_rows
    X = design(own, products)
    assert reference(X).max() <= most + 1e-6
    np.testing.assert_allclose(leverages(own, products), reference(X), atol=1e-6)
    # Whoever else is in the sum, whatever they do, and whatever coefficients are tried.
    others = draws.integers(0, 2, (int(draws.integers(1, 30)), X.shape[1])).astype(np.float64)
    assert reference(np.vstack([X, others]))[: len(X)].max() <= most + 1e-6
    v = draws.integers(-3, 4, (X.shape[1], 200)).astype(np.float64)
    parts = X @ v
    assert (parts**2 <= most * (parts**2).sum(axis=0) + 1e-6).all()


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(12, 60), st.integers(1, 5))
def test_only_merges_change_anything(seed: int, rows: int, variables: int) -> None:
    levels, classes = site(np.random.default_rng(seed), rows, variables)
    before = [own.copy() for own in levels]
    found = control(levels, classes, 3)
    assert all(np.array_equal(one, other) for one, other in zip(levels, before, strict=True))
    again = [own[found.kept] for own in levels]
    for merge in found.merges:
        changed = again[merge.variable] == merge.level
        assert changed.sum() == merge.rows
        assert merge.rows <= (again[merge.variable] == merge.into).sum()
        again[merge.variable][changed] = merge.into
    assert all(np.array_equal(one, other) for one, other in zip(again, found.levels, strict=True))
    nothing = control(levels, classes, 1)
    assert (nothing.merges, bool(nothing.kept.all())) == ((), True)
    assert control(found.levels, classes[found.kept], 3).merges == ()  # once is enough


def test_counts_alone_do_not_suffice() -> None:
    """Two flags with 5 and 6 rows that differ in one: their difference is that row. Counts of 5 would let it pass."""
    rows = np.arange(60)
    first, other = (rows < 5).astype(np.int64), (rows < 6).astype(np.int64)
    numbers = np.random.default_rng(0).normal(size=60)
    X = np.column_stack([np.ones(60), first, other, numbers])
    classes = np.eye(2)[rows % 2]
    (read,) = singled_out(X.T @ X, X.T @ classes, [0, 1, 2])
    np.testing.assert_allclose(read, X[5, 1:])
    assert min(first.sum(), other.sum()) >= 5

    found = control([first, other], rows % 2, 5)
    assert [merge.variable for merge in found.merges] == [0]
    X[:, 1:3] = np.column_stack(found.levels)
    assert singled_out(X.T @ X, X.T @ classes, [0, 1, 2]) == []


def test_a_row_that_its_class_singles_out_is_seen() -> None:
    """A flag that all rows of a class but one have: the class is a column of the sum as well."""
    rows = np.arange(80)
    sick = (rows < 12).astype(np.int64)
    flag = (rows < 11).astype(np.int64)
    X = np.column_stack([np.ones(80), flag, np.linspace(-1, 1, 80)])
    (read,) = singled_out(X.T @ X, X.T @ np.eye(2)[sick], [0, 1])
    np.testing.assert_allclose(read, X[11, 1:])
    assert control([flag]).merges == ()
    assert control([flag], sick).merges == (Merge(0, 1, 0, 11),)


def test_rows_of_rare_classes_are_left_out() -> None:
    classes = np.repeat([0, 1, 2], [30, 4, 20])
    found = control([np.zeros(54, np.int64)], classes, 5)
    assert np.array_equal(found.kept, classes != 1)
    with pytest.raises(DataError, match=r"at least 5 rows of one class, got 4, .*\(least_rows\)"):
        control([np.zeros(4, np.int64)], np.ones(4, np.int64), 5)
    with pytest.raises(DataError, match="at least 5 rows"):
        control([np.zeros(0, np.int64)])


def test_levels_of_equal_size_are_merged_too() -> None:
    """Every row has a cell of its own in four crossed flags."""
    levels = [np.array(column) for column in zip(*itertools.product((0, 1), repeat=4), strict=True)]
    found = control(levels, least_rows=8)
    assert found.merges
    assert leverages(list(found.levels)).max() <= 1 / 5 + 1e-9


def test_columns_follow_their_levels() -> None:
    """One-hot columns, a flag for a missing number, and a variable whose reference level has no column."""
    one_hot = np.eye(3)[np.repeat([0, 1, 2], [2, 10, 18])]
    missing = (np.arange(30) >= 26).astype(np.float64)
    number = np.where(missing == 1, 0.0, np.linspace(0.1, 1, 30))
    other = (np.arange(30) % 3 == 0).astype(np.float64)
    X = np.column_stack([number, one_hot, missing, other])
    variables = [Variable("a", (1, 2, 3)), Variable("b", (4,), (0,)), Variable("c", (5,))]
    before = X.copy()
    coded, found = control_rows(X, Layout(tuple(variables)), None, 5)
    assert np.array_equal(X, before)
    assert [(merge.variable, merge.level, merge.into) for merge in found.merges] == [(0, 1, 3), (1, 1, 0)]
    assert coded[:, 1].sum() == 0
    assert coded[:2, 3].tolist() == [1, 1]
    assert coded[:, 4].sum() == 0
    assert np.array_equal(coded[:, [2, 5]], X[:, [2, 5]])
    assert np.array_equal(coded[:26, 0], X[:26, 0])
    assert (coded[26:, 0] == np.sort(X[:26, 0])[13]).all()  # what was missing is the median of what was not
    assert counted(coded, variables[0], ["n", "x", "y", "z", "m", "o"]) == {"y": 10, "z": 20}
    assert counted(coded, variables[2], ["n", "x", "y", "z", "m", "o"]) == {"not o": 20, "o": 10}

    few = np.column_stack([np.where(np.arange(30) < 26, 0.0, 0.5), (np.arange(30) < 26).astype(np.float64)])
    coded, _ = control_rows(few, Layout((Variable("d", (1,), (0,)),)), None, 5)
    assert np.array_equal(coded, np.column_stack([np.zeros(30), np.ones(30)]))  # recorded in too few rows


@settings(max_examples=400)
@given(st.integers(0, 2**32), st.integers(2, 6), st.integers(0, 6))
def test_short_vectors_are_found_where_there_are_any(seed: int, columns: int, mixes: int) -> None:
    """A design with a row of its own, hidden by integer column operations."""
    draws = np.random.default_rng(seed)
    X = draws.integers(0, 2, (40, columns))
    X[0] = 0
    X = np.column_stack([X, np.eye(40, dtype=np.int64)[0]])
    for _ in range(mixes):
        at, by = draws.permutation(columns + 1)[:2]
        X[:, at] += int(draws.choice([-1, 1])) * X[:, by]
    found = [X @ v for v in units(X.T @ X)]
    assert any(np.array_equal(np.abs(one), np.eye(40, dtype=np.int64)[0]) for one in found)
    assert all((one**2).sum() == 1 for one in found)


NUMBERS = {
    "an ordinal that one row has higher": (
        "a",
        ["III"] + 99 * ["I"],
        '{ kind = "ordinal", levels = ["I", "II", "III", "IV"] }',
        {"1": 1, "a": 1},
    ),
    "an ordinal that is missing once": (
        "a",
        [""] + 99 * ["II"],
        '{ kind = "ordinal", levels = ["I", "II", "III", "IV"], missing = [""] }',
        {"a missing": 1},
    ),
    "a number that is 0 but once": (
        "a",
        ["3"] + 99 * ["0"],
        '{ kind = "number", range = [0, 50] }',
        {"1": 1, "a": 1},
    ),
    "a number beyond a knot once": (
        "a",
        ["41.5", *(f"{18 + at / 9:.2f}" for at in range(99))],
        '{ kind = "number", range = [10, 80], knots = [20, 25, 30, 35, 40] }',
        {"1": 1, "a'''": 1},
    ),
    "two values and a square": (
        "a",
        [""] + 49 * ["10"] + 50 * ["20"],
        '{ kind = "number", range = [0, 40], square = true, missing = [""] }',
        {"a missing": 1},
    ),
    "the end of a range, but for one missing": (
        "a",
        [""] + 99 * ["100"],
        '{ kind = "number", range = [50, 100], missing = [""] }',
        {"a missing": 1},
    ),
}


@pytest.mark.parametrize(("column", "cells", "kind", "guess"), NUMBERS.values(), ids=NUMBERS)
def test_numbers_that_single_a_row_out_are_drawn_in(
    column: str, cells: list[str], kind: str, guess: dict[str, float]
) -> None:
    """The server needs the codebook alone to guess a combination that is nonzero in one row."""
    book = codebook.parse(
        f"""
        [columns]
        age = {{ kind = "number", range = [18, 100] }}
        {column} = {kind}
        [outcome]
        kind = "classes"
        column = "sick"
        classes = {{ no = ["n"], yes = ["y"] }}
        """
    )
    ages = np.random.default_rng(0).integers(20, 90, 100)
    lines = [[str(age), cell, "ny"[at % 2]] for at, (age, cell) in enumerate(zip(ages, cells, strict=True))]
    found = encode(book, reading.from_lines("a table", [["age", column, "sick"], *lines], "a list"))
    assert found.outcome is not None
    classes = np.asarray(found.outcome, dtype=np.int64)
    names = ["1", *(term.name for term in terms(book))]

    def read(X: np.ndarray, labels: Ints) -> np.ndarray | None:
        """A row of X, and its label, from the Gram alone."""
        all_ = np.column_stack([np.ones(len(X)), X, labels])
        v = np.zeros(all_.shape[1])
        for name, weight in guess.items():
            v[names.index(name)] = weight
        told = all_.T @ all_ @ v
        if abs(told[0]) < 1e-9:
            return None
        told = told / told[0]
        return told if (abs(all_ - told).max(axis=1) < 1e-9).sum() == 1 else None

    one = read(found.X, classes)
    assert one is not None
    np.testing.assert_allclose(one, [1, *found.X[0], classes[0]], atol=1e-9)
    coded, held = control_rows(found.X, Layout.of(book), classes, 5)
    for sign in itertools.product((-1, 1), repeat=len(guess)):  # with the middle of a range on either side
        guess = {name: by for name, by in zip(guess, sign, strict=True)}
        assert read(coded, classes[held.kept]) is None


@settings(max_examples=60)
@given(
    st.integers(0, 2**32),
    st.integers(12, 70),
    st.sampled_from(["normal", "cauchy", "mostly zero", "two values", "all but one"]),
    st.booleans(),
    st.booleans(),
)
def test_no_row_is_alone_in_the_columns_of_a_number(
    seed: int, rows: int, shape: str, square: bool, flagged: bool
) -> None:
    draws = np.random.default_rng(seed)
    normal = draws.normal(size=rows)
    value = {
        "normal": normal,
        "cauchy": draws.standard_cauchy(rows),
        "mostly zero": normal * (draws.random(rows) < 0.1),
        "two values": draws.choice([-1.0, 0.5], rows),
        "all but one": np.eye(rows)[0],
    }[shape]
    missing = draws.random(rows) < draws.choice([0.02, 0.3]) if flagged else np.zeros(rows, np.bool_)
    terms = np.column_stack([value, value**2][: 1 + square]) * ~missing[:, None]
    group = draws.integers(0, 2, rows)
    X = np.column_stack([terms, missing, group])
    flag, places = terms.shape[1], tuple(range(terms.shape[1]))
    layout = Layout(
        (Variable("g", (flag + 1,)), *([Variable("n missing", (flag,), places)] if flagged else [])),
        (),
        (Measure("n", places, flag if flagged else None),),
    )
    coded, found = control_rows(X, layout, None, 5)
    assert found.kept.all()
    own = np.column_stack([np.ones(rows), coded[:, : flag + 1]])
    assert reference(own).max() <= most_leverage(5) + 1e-6
    if len(np.unique(coded[:, 0])) <= 3:  # each value is a level
        assert reference(np.column_stack([own, coded[:, flag + 1]])).max() <= most_leverage(5) + 1e-6
    # Values are others' or its own, or missing.
    known = {*X[:, 0].tolist(), 0.0}
    assert set(coded[:, 0].tolist()) <= known
    assert control_rows(X, layout, None, 1)[1].merges == ()
    np.testing.assert_array_equal(control_rows(X, layout, None, 1)[0], X)


def test_few_rows_of_one_value_have_nothing_to_draw_in() -> None:
    """Their mean is rounded, so the distances from it are not 0: drawing in never ended."""
    value = next(one for one in np.random.default_rng(0).random(99) if np.full(5, one).mean() != one)
    coded, found = control_rows(np.full((5, 1), value), Layout((), (), (Measure("n", (0,)),)), None, 5)
    assert (coded.tolist(), found.outlying) == ([[value]] * 5, 0)


DOSES = """
    products = [["dose", "ward"]]
    [columns]
    dose = { kind = "number", range = [0, 40] }
    ward = { kind = "category", levels = ["A", "B", "C"] }
    [outcome]
    kind = "classes"
    column = "sick"
    classes = { no = ["n"], yes = ["y"] }
"""


def test_a_product_with_a_level_singles_no_row_out() -> None:
    """In ward C one patient of six has a dose. Neither the doses of all wards nor the wards tell, but their product does."""
    book = codebook.parse(DOSES)
    dose = [7.5, *5 * [0.0], *np.random.default_rng(0).uniform(0, 40, 60).tolist()]
    lines = [[f"{one}", "CAB"[min(at // 6, 1 + at % 2)], "ny"[at % 2]] for at, one in enumerate(dose)]
    found = encode(book, reading.from_lines("a table", [["dose", "ward", "sick"], *lines], "a list"))
    layout, names = Layout.of(book), [term.name for term in terms(book)]
    ward = names.index("ward = C")
    product = next(place for place, factors in layout.products if ward in factors)

    def told(X: np.ndarray) -> np.ndarray:
        """What the sum tells of the patient: a dose of 0 is -1 in its column."""
        guess = np.eye(len(names))[product] + np.eye(len(names))[ward]
        row = (X.T @ X) @ guess
        return np.asarray(row / row[ward])

    weak, _ = control_rows(found.X, Layout(layout.variables, (), layout.measures), None, 5)
    np.testing.assert_array_equal(weak, found.X)
    np.testing.assert_allclose(told(weak), found.X[0])
    coded, changed = control_rows(found.X, layout, None, 5)
    assert changed.outlying
    assert not (coded[:, product] + coded[:, ward])[coded[:, ward] == 1].any()


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(12, 70), st.booleans(), st.booleans())
def test_no_row_is_alone_in_the_products_of_a_number(seed: int, rows: int, flagged: bool, two: bool) -> None:
    """With the levels of one variable, of two at once, and of each of two."""
    draws = np.random.default_rng(seed)
    value = draws.normal(size=rows) * (draws.random(rows) < draws.choice([0.1, 1.0]))
    missing = (draws.random(rows) < 0.2) * flagged
    a, b = draws.integers(0, 3, rows), draws.random(rows) < 0.2
    single = np.column_stack([value * (1 - missing), missing, a == 1, a == 2, b]).astype(np.float64)
    pairs: list[tuple[int, ...]] = [(0, 2), (0, 3), (1, 2), (1, 3)]
    pairs = [*pairs, (0, 4), (1, 4)] if two else [(*pair, 4) for pair in pairs]
    X = np.column_stack([single, *(single[:, one].prod(axis=1) for one in pairs)])
    layout = Layout(
        (Variable("m", (1,), (0,)), Variable("a", (2, 3)), Variable("b", (4,))),
        tuple((5 + at, one) for at, one in enumerate(pairs)),
        (Measure("n", (0,), 1),),
    )
    coded, _ = control_rows(X, layout, None, 5)
    for of in [["a"], ["b"]] if two else [["a", "b"]]:
        cells = [np.ones((rows, 1), np.bool_)]
        for variable in layout.variables:
            if variable.name in of:
                own = variable.levels(coded)
                cells = [cell & (own == level)[:, None] for cell in cells for level in np.unique(own)]
        columns = [block for cell in cells for block in (cell, cell * coded[:, :2])]
        assert reference(np.column_stack([np.ones(rows), *columns])).max() <= most_leverage(5) + 1e-6
    for place, factors in layout.products:
        np.testing.assert_array_equal(coded[:, place], coded[:, factors].prod(axis=1))
