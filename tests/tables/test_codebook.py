"""What a codebook may say, and what follows from it in public."""

import math
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_afl.errors import DataError
from secure_afl.protocol.session.errors import FileError
from secure_afl.tables import codebook as codebooks
from secure_afl.tables.cells import Cells
from secure_afl.tables.codebook import (
    Category,
    Classes,
    Codebook,
    Kind,
    Number,
    Ordinal,
    Target,
    Weights,
    YesNo,
)
from secure_afl.tables.encoding import Design, encode, examine, only_held_out
from secure_afl.tables.faults import TableError
from secure_afl.tables.inferred import likely_marks
from secure_afl.tables.terms import in_table_units, row_norm, terms

FILE = """
site = "ward"
filter = "age >= 18"
products = [["age", "sex"]]
weights = { column = "w", largest = 4 }

[columns]
age = { kind = "number", range = [18, 100], unit = "years", square = true }
"blood sugar" = { kind = "number", range = [1, 50], log = true, missing = ["", "NA"] }
sex = { kind = "category", levels = { Female = ["F", "f"], Male = ["M"] }, reference = "Male" }
smoker = { kind = "yes/no", missing = [""], when_missing = "leave out" }
stage = { kind = "ordinal", levels = ["I", "II", "III"] }

[outcome]
kind = "classes"
column = "sick"
classes = { well = ["0"], ill = ["1", "2"] }
"""


def cells_of(**columns: list[str]) -> Cells:
    arrays = {name: pa.chunked_array([column]) for name, column in columns.items()}
    return Cells("t.csv", arrays, len(next(iter(columns.values()))), "")


def test_a_file_says_it_all() -> None:
    book = codebooks.parse(FILE)
    assert [term.name for term in terms(book)] == [
        *("age", "(age - 59)^2", "log blood sugar", "blood sugar missing", "sex = Female", "smoker", "stage"),
        *("(age - 59):(sex = Female)", "((age - 59)^2 - 840.5):(sex = Female)"),
    ]
    assert book.classes == ("well", "ill")
    assert codebooks.from_text(book.text) == book
    commented = codebooks.parse(
        FILE.replace("18, 100", "18.0, 100.0").replace("[columns]", "# note\n[columns]")
    )
    assert commented.digest == book.digest
    assert codebooks.parse(FILE.replace("18, 100", "18, 99")).digest != book.digest


def test_cells_become_features() -> None:
    table: dict[str, list[str]] = {
        "age": ["18", "100", "59", "17", "30"],
        "blood sugar": ["1", "50", "NA", "x", "7"],
        "sex": ["F", "M", "f", "?", "M"],
        "smoker": ["yes", "no", "yes", "?", ""],
        "stage": ["I", "II", "III", "?", "I"],
        "sick": ["0", "1", "2", "?", "0"],
        "w": ["1", "4", "0.5", "?", "1"],
        "ward": ["A", "B", "A", "B", "B"],
    }
    design = encode(codebooks.parse(FILE), cells_of(**table))
    assert design.rows.tolist() == [1, 2, 3]
    np.testing.assert_allclose(
        design.X,
        [
            [-1, 1, -1, 0, 1, 1, -1, -1, 1],
            [1, 1, 1, 0, 0, 0, 0, 0, 0],
            [0, -1, 0, 1, 1, 1, 1, 0, -1],
        ],
        atol=1e-12,
    )
    assert design.outcome is not None
    assert design.outcome.tolist() == [0, 1, 1]
    assert design.weights is not None
    assert design.weights.tolist() == [1, 4, 0.5]
    assert design.site is not None
    assert design.site.tolist() == ["A", "B", "A"]
    counts = design.counts
    assert (counts.rows, counts.used, counts.filtered) == (5, 3, 1)
    assert (counts.left_out, counts.flagged) == ({"smoker": 1}, {"blood sugar": 1})
    unlabelled = encode(
        codebooks.parse(FILE),
        cells_of(**{k: v for k, v in table.items() if k not in ("sick", "w")}),
        outcome=False,
    )
    assert np.array_equal(unlabelled.X, design.X)
    assert unlabelled.outcome is None


def test_all_cells_that_do_not_fit_are_named() -> None:
    book = Codebook(
        {"age": Number((18, 100), "years", missing=("",)), "sex": Category(("f", "m"))},
        Target("bp", (60, 260), "mm Hg", missing=("-",)),
        weights=Weights("w", 2.0),
    )
    cells = cells_of(
        age=["17", "45%", "", "40", "17"],
        sex=["f", "F", "m", "w", "F"],
        bp=["-", "999", "100", "1,2", "99"],
        w=["0", "1", "x", "2", "2.5"],
    )
    parsed, faults = examine(book, cells)
    found = {(fault.column, cell): list(rows) for fault in faults for cell, rows in fault.cells.items()}
    assert found == {
        ("age", "17"): [1, 5],
        ("age", "45%"): [2],
        ("sex", "F"): [2, 5],
        ("sex", "w"): [4],
        ("bp", "999"): [2],
        ("bp", "1,2"): [4],
        ("w", "0"): [1],
        ("w", "x"): [3],
        ("w", "2.5"): [5],
    }
    assert parsed.counts.left_out == {"bp": 1}
    with pytest.raises(TableError) as caught:
        encode(book, cells)
    assert not any(cell in caught.value.public for cell in ("45%", "'F'", "999", "2.5"))
    remedies = {fault.column: fault.remedy for fault in faults}
    assert "write 'f', as upper and lower case differ" in remedies["sex"]
    assert "widen the range for everyone" in remedies["age"]
    with pytest.raises(DataError, match="got none called 'bp', 'w'; there are 'age', 'sex'"):
        encode(book, cells_of(age=["20"], sex=["f"]))


small = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 3))


@st.composite
def ranges(draw: st.DrawFn, least: float = -1e6) -> tuple[float, float]:
    low = draw(st.floats(least, 1e6))
    return low, low + draw(st.floats(1e-3, 1e6)) + abs(low) * 1e-5


@st.composite
def number_kinds(draw: st.DrawFn) -> Number:
    log = draw(st.booleans())
    low, high = draw(ranges(1e-3 if log else -1e6))
    missing = draw(st.sampled_from([(), ("",)]))
    shape = draw(st.sampled_from(["line", "square", "knots"]))
    parts = sorted(draw(st.lists(st.floats(0, 1), min_size=3, max_size=5, unique=True)))
    knots = tuple(low + part * (high - low) for part in parts)
    bent = shape == "knots" and all(b - a > 1e-3 * (high - low) for a, b in pairwise(knots))
    bent = bent and knots[-1] <= high
    return Number(
        (low, high), log=log, square=shape == "square", knots=knots if bent else (), missing=missing
    )


kinds: st.SearchStrategy[Kind] = st.one_of(
    number_kinds(),
    st.sampled_from(
        [
            Category(("a", "b", "c"), missing=("",)),
            Category(("a", "b"), "b"),
            YesNo(("y",), ("n",), missing=("",)),
            Ordinal(("a", "b", "c", "d")),
        ]
    ),
)


@st.composite
def studies(draw: st.DrawFn) -> tuple[Codebook, Cells]:
    """A codebook and rows that fit it, ends of ranges among them."""
    columns = {f"c{at}": kind for at, kind in enumerate(draw(st.lists(kinds, min_size=1, max_size=4)))}
    pairs = [pair for pair in [("c0", "c1"), ("c1", "c2")] if set(pair) <= set(columns)]
    rows = draw(st.integers(1, 6))

    def cell(kind: Kind) -> str:
        if kind.missing and draw(st.integers(0, 3)) == 0:
            return ""
        if isinstance(kind, Number):
            low, high = kind.range
            return repr(draw(st.sampled_from([low, high]) | st.floats(low, high)))
        return draw(
            st.sampled_from([one for each in codebooks.spellings(kind.levels).values() for one in each])
        )

    table = {name: [cell(kind) for _ in range(rows)] for name, kind in columns.items()}
    book = Codebook(columns, Classes("y", ("0", "1")), products=tuple(pairs))
    return book, cells_of(**table, y=["0"] * rows)


@given(studies())
def test_every_row_keeps_the_public_bounds(study: tuple[Codebook, Cells]) -> None:
    book, cells = study
    design = encode(book, cells)
    assert design.X.shape == (cells.rows, len(terms(book)))
    assert (np.abs(design.X) <= 1 + 1e-9).all()
    assert (np.linalg.norm(design.X, axis=1) <= row_norm(book)).all()


@given(studies(), st.integers(0, 2**32 - 1))
def test_coefficients_in_the_tables_units_give_the_same_scores(
    study: tuple[Codebook, Cells], seed: int
) -> None:
    book, cells = study
    of, design = terms(book), encode(book, cells)
    rng = np.random.default_rng(seed)
    coef, intercept = rng.normal(size=(2, len(of))), rng.normal(size=2)
    raw_coef, raw_intercept = in_table_units(of, coef, intercept)
    raw = design.X * [term.half for term in of] + [term.middle for term in of]
    scores = design.X @ coef.T + intercept
    scale = np.abs(raw) @ np.abs(raw_coef.T) + np.abs(raw_intercept) + 1
    assert (np.abs(raw @ raw_coef.T + raw_intercept - scores) <= 1e-12 * scale).all()


def test_held_out_rows_are_those_of_which_the_condition_holds() -> None:
    book = codebooks.parse(
        'held_out = "year >= 2024"\nfilter = "x > 0"\n[columns]\nx = { kind = "number", range = [0, 9] }\n'
        '[outcome]\nkind = "number"\ncolumn = "y"\nrange = [0, 9]\n'
    )
    cells = cells_of(x=["1", "2", "0", "3"], y=["1", "1", "1", "2"], year=["2023", "2024", "", "2025"])
    design = encode(book, cells)
    assert design.held_out is not None
    assert design.held_out.tolist() == [False, True, True]
    assert design.counts.held_out == 2
    assert only_held_out(design).rows.tolist() == [2, 4]
    assert encode(book, cells_of(x=["1"]), outcome=False).held_out is None  # to predict, no year is needed
    with pytest.raises(
        DataError, match="column 'year', data row 1: '', expected a value that says whether the row"
    ):
        encode(book, cells_of(x=["1"], y=["1"], year=[""]))
    # The text, and so the digest, of a codebook without the line is what it was before there was one.
    assert "held_out" in book.text
    assert "held_out" not in msgspec.structs.replace(book, held_out="").text
    assert codebooks.from_text(book.text) == book


@given(
    st.lists(st.sampled_from([-999, -99, -9, -2, -1, 0, 3, 5, 9, 77, 99, 888, 999, 32767]), unique=True),
    st.lists(st.integers(-40, 120), min_size=1, max_size=30, unique=True),
)
def test_marks_are_those_of_the_different_numbers_however_long_a_column_is(
    rare: list[int], often: list[int]
) -> None:
    different = np.unique(np.array([*rare, *often], float))
    column = np.concatenate([np.resize(np.array(often, float), 3000), rare])
    assert likely_marks(column) == likely_marks(column[::-1]) == likely_marks(different)


def test_a_spline_is_that_of_patsy() -> None:
    """The same curves: each fits the other exactly."""
    patsy = pytest.importorskip("patsy")
    knots = (25.0, 40.0, 60.0, 80.0)
    x = np.linspace(18, 100, 200)
    book = Codebook({"age": Number((18, 100), knots=knots)}, Classes("y", ("0", "1")))
    design: Design = encode(book, cells_of(age=[repr(float(one)) for one in x], y=["0"] * len(x)))
    ours = np.column_stack([np.ones(len(x)), design.X])
    theirs = np.asarray(
        patsy.dmatrix(
            "cr(x, knots=inner, lower_bound=25.0, upper_bound=80.0) - 1", {"x": x, "inner": knots[1:-1]}
        )
    )
    assert ours.shape == theirs.shape == (200, 4)
    for a, b in ((ours, theirs), (theirs, ours)):
        fitted = a @ np.linalg.lstsq(a, b, rcond=None)[0]
        np.testing.assert_allclose(fitted, b, atol=1e-9)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("18, 100", "100, 18", r"columns\.age: expected a range \[low, high\]"),
        ("18, 100", "1e9, 1000000001", r"columns\.age: expected a range wider than a millionth"),
        ("18, 100", "18, nan", r"columns\.age: expected a range"),
        ("18, 100", "0, 1e200", r"columns\.age: expected a range .* at most 1e\+30 in magnitude"),
        ("18, 100", "0, 1e-200", r"columns\.age: expected a range wider"),
        ("1, 50", "0, 50", r"columns\.blood sugar: expected a range above 0 for a logarithm"),
        ("square = true", "square = true, knots = [20, 30, 40]", "expected square or knots, got both"),
        (
            "square = true",
            "knots = [20, 40, 30]",
            "expected at least 3 rising knots within \\[18, 100\\], got",
        ),
        (
            "square = true",
            "knots = [20, 40, 130]",
            "expected at least 3 rising knots within \\[18, 100\\], got",
        ),
        ('kind = "yes/no"', 'kind = "maybe"', r"columns\.smoker: Invalid value 'maybe'"),
        (
            'kind = "yes/no", missing = [""]',
            'kind = "yes/no", missing = ["no"]',
            "expected 'no' as a level or as",
        ),
        ('kind = "yes/no", missing = [""]', 'kind = "yes/no", missing = [9]', r"Expected `str`, got `int`"),
        (
            'reference = "Male"',
            'reference = "male"',
            r"columns\.sex: expected one of the levels as reference",
        ),
        ('["F", "f"]', '["M"]', "expected different words"),
        ('["F", "f"]', "[]", "expected at least two named levels"),
        ('["I", "II", "III"]', '["I"]', r"columns\.stage: expected at least two named levels"),
        ('["I", "II", "III"]', '["I", " II"]', "without white space around them"),
        ('"leave out"', '"ignore"', r"Invalid enum value 'ignore'"),
        ('column = "sick"', 'column = "age"', "expected 'age' for one purpose, got it for two"),
        ('site = "ward"', 'site = "w"', "expected 'w' for one purpose"),
        ('[["age", "sex"]]', '[["age"]]', "expected a product of at least two different columns"),
        ('[["age", "sex"]]', '[["age", "sick"]]', "expected a product of at least two different columns"),
        ('[["age", "sex"]]', '[["age", "sex"], ["sex", "age"]]', "expected every product once"),
        ("largest = 4", "largest = 0", "expected the largest weight above 0"),
        ("age >= 18", "age >=", "filter, character 7: expected a number"),
        ("[outcome]", "[outcomes]", "Object missing required field `outcome`|unknown field"),
        ("unit", "units", r"columns\.age: Object contains unknown field `units`"),
    ],
)
def test_what_cannot_be_meant_is_refused(old: str, new: str, message: str) -> None:
    assert old in FILE
    with pytest.raises(FileError, match=message):
        codebooks.parse(FILE.replace(old, new, 1))


def test_features_of_one_name_are_refused() -> None:
    columns: dict[str, Any] = {"a": YesNo(missing=("",)), "a missing": YesNo()}
    with pytest.raises(DataError, match="two are called 'a missing'"):
        terms(Codebook(columns, Classes("y", ("0", "1"))))


@pytest.mark.parametrize("columns", [3, 300])
def test_a_small_file_with_many_products_is_refused_before_they_are_made(columns: int) -> None:
    """800 bytes would be 24,000 features, or 10^400 of them."""
    book = codebooks.convert(
        {
            "columns": {
                f"c{at}": {"kind": "category", "levels": list("abcdefghijklmnopqrstuvwxyz")}
                for at in range(columns)
            },
            "outcome": {"kind": "classes", "column": "y", "classes": ["0", "1"]},
            "products": [[f"c{at}" for at in range(columns)]],
        }
    )
    with pytest.raises(DataError, match=r"at most 10000 features, got \d+: leave products out"):
        terms(book)


def test_the_norm_of_heart_is_that_of_its_columns() -> None:
    from secure_afl.simulations.data.dataset import load

    assert load("heart").row_norm == pytest.approx(math.sqrt(13))
