"""The language of row filters, beside what pandas makes of the same condition."""

from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_afl.errors import DataError
from secure_afl.tables import filter as row_filter
from secure_afl.tables.cells import Cells
from secure_afl.tables.codebook import Classes, Codebook, Kind, Number, YesNo
from secure_afl.tables.encoding import examine, parse

numbers = st.integers(-2, 2).map(str)
texts = st.sampled_from(["'a'", "'b'", "'it is'"])
comparisons = st.one_of(
    st.builds("x {} {}".format, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), numbers),
    st.builds("`two words` {} {}".format, st.sampled_from(["==", "!="]), texts),
    st.builds("x in [{}, {}]".format, numbers, numbers),
    st.builds("`two words` not in [{}]".format, texts),
)
conditions = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.builds("({} and {})".format, inner, inner),
        st.builds("{} or {}".format, inner, inner),
        st.builds("not ({})".format, inner),
    ),
    max_leaves=8,
)


def taken(text: str, table: dict[str, list[str]], **kinds: Any) -> list[int]:
    rows = len(next(iter(table.values())))
    cells = Cells(
        "t",
        {name: pa.chunked_array([column]) for name, column in {**table, "y": ["0"] * rows}.items()},
        rows,
        "",
    )
    columns = kinds or {"x": Number((-9, 9), missing=("",))}
    book = Codebook(columns, Classes("y", ("0", "1")), filter=text)
    return [int(row) for row in parse(book, cells).rows]


@given(
    conditions,
    st.lists(st.tuples(st.integers(-3, 3), st.sampled_from(["a", "b", "it is", ""])), min_size=1, max_size=8),
)
def test_conditions_mean_what_pandas_says(text: str, rows: list[tuple[int, str]]) -> None:
    frame = pd.DataFrame(rows, columns=["x", "two words"])
    expected = np.flatnonzero(frame.eval(text)) + 1
    known = {"x": [str(x) for x, _ in rows], "two words": [word for _, word in rows]}
    told = taken(text, known, x=Number((-9, 9)), **{"two words": YesNo(("a", "it is"), ("b", ""))})
    assert told == expected.tolist()


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("x > 0", [1]),
        ("not x > 0", [3]),  # nobody knows of the second
        ("x > 0 or x is missing", [1, 2]),
        ("not (x is missing)", [1, 3]),
        ("x is not missing and x < 0", [3]),
        ("x != 1", [3]),
        ("x not in [1, 2]", [3]),
        ("x in [1] or z == 'q'", [1, 2, 3]),
    ],
)
def test_nothing_is_known_of_a_missing_value(text: str, rows: list[int]) -> None:
    assert taken(text, {"x": ["1", "", "-1"], "z": ["q"] * 3}) == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", None),
        ("age", "character 4: expected in, is, or one of <"),
        ("age >", "character 6: expected a number, or text in quotes, got the end"),
        ("age > x", "character 7: expected a number"),
        ("18 < age", "character 1: expected a column, got '18'"),
        ("age = 18", "character 5: expected a column, a value or a sign, got '= 18'"),
        ("age > 'x'", "expected a number after age >, got the text 'x'"),
        ("(age > 1", r"character 9: expected '\)', got the end"),
        ("age > 1 age < 2", "character 9: expected and, or, or the end, got 'age'"),
        ("age in []", "character 9: expected a number, or text"),
        ("age is 3", "character 8: expected 'missing'"),
        ("and > 1", "character 1: expected a column, got 'and'"),
        ("age > 1e999", "character 7: expected a finite number"),
        ("age > 1x", "character 7: expected a column, a value or a sign"),
        ("__import__('os')", "expected in, is, or one of"),
        ("(" * 60 + "age > 1" + ")" * 60, "at most 50 parts within each other"),
        ("age > 1" + " or age > 1" * 20000, "at most 1000 words and signs, got 80003"),
    ],
)
def test_what_makes_no_sense_is_refused_where_it_stops_to(text: str, message: str | None) -> None:
    columns: dict[str, Kind] = {"age": Number((0, 9))}
    if message is None:
        assert Codebook(columns, Classes("y", ("0", "1")), filter=text).condition is None
        return
    with pytest.raises(DataError, match=message):
        row_filter.parse(text)
    with pytest.raises(DataError, match="filter"):
        Codebook(columns, Classes("y", ("0", "1")), filter=text)


@given(st.text(st.sampled_from("ax10.'`()[],<>=! andornotinismissing"), max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(DataError):
        row_filter.columns(row_filter.parse(text))


def test_a_filter_names_its_columns_and_cells_that_it_cannot_compare() -> None:
    assert row_filter.columns(row_filter.parse("a > 1 and (b == 'x' or not `c d` is missing) and a < 2")) == [
        "a",
        "b",
        "c d",
    ]
    with pytest.raises(DataError, match="got none called 'nowhere'"):
        taken("nowhere > 1", {"x": ["1"]})
    table = {"x": ["1", "700"], "year": ["2020", "about 1990"], "y": ["0", "0"]}
    cells = Cells("t", {name: pa.chunked_array([column]) for name, column in table.items()}, 2, "")
    book = Codebook({"x": Number((-9, 9))}, Classes("y", ("0", "1")), filter="year > 2000")
    found = {(fault.column, *fault.cells) for fault in examine(book, cells)[1]}
    assert found == {("year", "about 1990"), ("x", "700")}  # of a row that nobody knows to be left out
