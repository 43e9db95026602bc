"""Every way in which a table may be written, and every way in which a cell could end up where it does not belong."""

import csv
import io
import os
import threading
from pathlib import Path

import openpyxl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from secure_afl.errors import DataError
from secure_afl.simulations.data.dataset import load
from secure_afl.tables.cells import Cells
from secure_afl.tables.faults import TableError
from secure_afl.tables.form import OTHER_SHEETS, Form
from secure_afl.tables.formats import sheets
from secure_afl.tables.reading import read

ROWS = {"site": ["A", "B"], "age": ["36.5", "40"]}


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def texts(cells: Cells) -> dict[str, list[str]]:
    return {name: column.to_pylist() for name, column in cells.columns.items()}


@pytest.mark.parametrize(
    "content",
    [
        "site,age\nA,36.5\nB,40\n",
        "site;age\r\nA;36.5\r\nB;40",
        "site\tage\rA\t36.5\rB\t40\r",
        " site | age \n A |36.5 \n\n\nB| 40\n   \n",
        "\ufeffsite,age\nA,36.5\nB,40\n",
        '\ufeffsep=;\n"site";"age"\n"A";"36.5"\n"B";"40"\n',
        "sep=|\nsite|age\nA|36.5\nB|40\n",
        "\n\nsite,age\nA,36.5\nB,40\n",
    ],
)
def test_a_table_is_the_same_however_it_is_written(content: str, tmp_path: Path) -> None:
    assert texts(read(written(tmp_path / "a.csv", content))) == ROWS


def test_excel_and_parquet_hold_the_same_cells(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for line in (["site", "age"], ["A", 36.5], [None, None], ["B", 40]):
        sheet.append(line)
    book.save(tmp_path / "a.xlsx")
    assert texts(read(tmp_path / "a.xlsx")) == ROWS
    book.create_sheet("other")
    book.save(tmp_path / "b.xlsx")
    with pytest.raises(DataError, match="expected a sheet by name, there are 'Sheet', 'other'"):
        read(tmp_path / "b.xlsx")
    with pytest.raises(DataError, match="expected a header and then one line a row, got nothing"):
        read(tmp_path / "b.xlsx", Form(sheet="other"))
    parquet.write_table(pa.table({"site": ["A", "B"], "age": [36.5, 40.0]}), tmp_path / "a.parquet")
    assert texts(read(tmp_path / "a.parquet")) == ROWS


@pytest.mark.parametrize("far", [(1048576, 16384), (1048576, 100), (200, 16384)])
def test_a_sheet_of_two_cells_far_apart_is_refused_before_memory_is_taken(
    far: tuple[int, int], tmp_path: Path
) -> None:
    """A few kB; a reader that takes memory for all cells between them needs hundreds of GB."""
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.append(["site", "age"])
    sheet.cell(*far, 1)
    book.save(tmp_path / "a.xlsx")
    assert (tmp_path / "a.xlsx").stat().st_size < 10_000
    with pytest.raises(
        DataError, match=f"reaches to row {far[0]:,} and column {far[1]:,} and is nearly empty"
    ):
        read(tmp_path / "a.xlsx")


def test_cells_of_a_sheet_without_a_value_are_not_taken_for_empty_ones(tmp_path: Path) -> None:
    """Their reader says that they are empty, which would mean "missing"."""
    book = openpyxl.Workbook()
    sheet, other = book.active, book.create_sheet("more & more")
    assert sheet is not None
    for one in (sheet, other):
        one.append(["site", "age"])
        one.append(["A", 36.5])
        one.append(["B", 40])
    other["B2"], other["B3"] = "#N/A", "#DIV/0!"
    book.save(tmp_path / "a.xlsx")
    assert texts(read(tmp_path / "a.xlsx", Form(sheet="Sheet"))) == ROWS
    with pytest.raises(
        DataError, match="'more & more', cells B2, B3: expected a value, got an error such as"
    ):
        read(tmp_path / "a.xlsx", Form(sheet="more & more"))
    sheet["B2"] = '=IF(A2="A", 36.5, "")'
    book.save(tmp_path / "b.xlsx")
    with pytest.raises(DataError, match="'Sheet', cell B2: expected a value, got a formula without its"):
        read(tmp_path / "b.xlsx", Form(sheet="Sheet"))


def test_typed_columns_become_the_text_that_a_person_would_write(tmp_path: Path) -> None:
    table = pa.table(
        {
            "whole": [1, None],
            "real": [0.1, 1e300],
            "single": pa.array([0.5, 3.0], pa.float32()),
            "yes": [True, False],
            "day": pa.array([0, 1], pa.date32()),
            "words": pa.array(["x", None]).dictionary_encode(),
        }
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    assert texts(read(tmp_path / "a.parquet")) == {
        "whole": ["1", ""],
        "real": ["0.1", "1e+300"],
        "single": ["0.5", "3"],
        "yes": ["true", "false"],
        "day": ["1970-01-01", "1970-01-02"],
        "words": ["x", ""],
    }
    parquet.write_table(pa.table({"list": [[1], [2]]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="column 'list': expected text, numbers, dates or yes/no, got list"):
        read(tmp_path / "b.parquet")


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_numbers_are_read_as_python_reads_them(values: list[float]) -> None:
    from secure_afl.tables.cells import to_numbers

    column = pa.chunked_array([[repr(value) for value in values]])
    assert to_numbers(column).tolist() == values
    commas = pa.chunked_array([[repr(value).replace(".", ",") for value in values]])
    assert to_numbers(commas, ",").tolist() == values


@given(st.text(st.sampled_from("0123456789+-.eE,_ xinfa%"), max_size=8))
def test_what_is_a_number_is_one_grammar(text: str) -> None:
    from secure_afl.tables.cells import is_number, to_numbers

    # Whether or not another cell makes pyarrow's own reading fail.
    alone, beside = to_numbers(pa.chunked_array([[text]])), to_numbers(pa.chunked_array([[text, "x"]]))
    assert (alone[0] == alone[0]) == (beside[0] == beside[0]) == is_number(text)


cell = st.text(st.sampled_from('ab ,;"\n\r\t|é'), max_size=5)


@given(st.lists(st.tuples(cell, cell, cell), min_size=1, max_size=6), st.sampled_from(",;\t|"))
def test_what_python_writes_is_read_back(rows: list[tuple[str, str, str]], separator: str) -> None:
    from tempfile import TemporaryDirectory

    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator, quoting=csv.QUOTE_ALL)
    writer.writerows([("x", "y", "z"), *rows])
    with TemporaryDirectory() as folder:
        cells = read(written(Path(folder) / "a.csv", text.getvalue()))
    assert [*zip(*texts(cells).values(), strict=True)] == [tuple(one.strip() for one in row) for row in rows]


@given(st.text(st.sampled_from('ab,\n"'), max_size=24))
def test_quotes_mean_what_the_strictest_reader_says_or_are_refused(body: str) -> None:
    from tempfile import TemporaryDirectory

    try:
        expected = [
            [one.strip() for one in row]
            for row in csv.reader(io.StringIO(f"x,y\n{body}", newline=""), strict=True)
            if row and (len(row) > 1 or row[0].strip())
        ][1:]
    except csv.Error:
        expected = []
    with TemporaryDirectory() as folder:
        try:
            got = [*zip(*texts(read(written(Path(folder) / "a.csv", f"x,y\n{body}"))).values(), strict=True)]
        except DataError:
            return
    assert [list(row) for row in got] == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected a header and then one line a row, got an empty file"),
        ("x,y,x\n1,2,3\n", "expected a name of its own for every column, the header has 'x' more than once"),
        (",y\n1,2\n", "the header has none for column 1; a first column without a name is often the index"),
        ("x;y,z\n1;2\n", "the header holds ',', ';'; say which separates the columns"),
        ('x,y\n1,2\n"3,4\n', r"data row 2: expected a quote at the end of a cell that begins with one"),
        ('x,y\n1,2\n3,a"b\n', "data row 2: expected quotes around a whole cell, got one inside a cell"),
        ('x,y\n"a"b,2\n', "data row 1: expected quotes around a whole cell, got one inside a cell"),
        (b"x,y\n1,2\n\xff,2\n", "data row 2: expected text in utf-8, got other bytes; give its encoding"),
        (b"x,y\n1,\x00\n", "data row 1: expected text, got a byte of zero"),
        ("x,y\n1,2\n".encode("utf-16"), "expected text in utf-8, got utf-16"),
        (b"PK\x03\x04", "expected text, got a ZIP archive"),
        (b"\x1f\x8b\x08", "expected text, got a gzip archive: unpack it"),
        ("\n\n", "expected a header and then one line a row, got empty lines"),
        ("sep=;\nx;y\n1;2\n", "expected the separator ',', the first line says ';'"),
    ],
)
def test_what_does_not_hold_together_is_refused(content: str | bytes, message: str, tmp_path: Path) -> None:
    form = Form(separator="," if isinstance(content, str) and content.startswith("sep") else "")
    with pytest.raises(DataError, match=f"^a.csv.*{message}"):
        read(written(tmp_path / "a.csv", content), form)


def test_all_rows_of_another_length_are_named(tmp_path: Path) -> None:
    with pytest.raises(TableError) as caught:
        read(written(tmp_path / "a.csv", "x,y\n1,2,3\n\n1,2\n  \n1\n1,2,3\n1,2\n"))
    lines = [str(caught.value), *caught.value.__notes__]
    assert lines[0].startswith(
        "a.csv, data row 3: 1 cell, expected 2 as in the header; a cell that holds ','"
    )
    assert lines[1].startswith("data rows 1, 4: 3 cells, expected 2")
    assert "'" not in caught.value.public.replace("','", "")


def test_a_table_may_have_no_rows(tmp_path: Path) -> None:
    for header in ("x,y\n", "x,y"):
        cells = read(written(tmp_path / "a.csv", header))
        assert (cells.rows, cells.numbers("x").shape) == (0, (0,))


def test_encodings(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "größe\n1,5\n".encode("windows-1252"))
    with pytest.raises(DataError, match="the header: expected text in utf-8"):
        read(path)
    cells = read(path, Form(encoding="windows-1252", separator=";", decimal=","))
    assert cells.numbers("größe").tolist() == [1.5]
    path = written(tmp_path / "b.csv", "x\ty\n1\té\n".encode("utf-16"))
    assert texts(read(path, Form(encoding="utf-16"))) == {"x": ["1"], "y": ["é"]}
    with pytest.raises(DataError, match="expected text in utf-16, some bytes are none"):
        read(written(tmp_path / "c.csv", b"\xff\xfe\x00"), Form(encoding="utf-16"))


def test_a_decimal_comma_is_told_and_never_guessed(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "x;y\n36,5;1\n-1,25e2;2\n1.045,5;3\n7.5;4\n")
    assert read(path).numbers("x").tolist()[3:] == [7.5]
    values = read(path, Form(decimal=",")).numbers("x")
    assert values[:2].tolist() == [36.5, -125]
    assert values[2:].tolist() != values[2:].tolist()  # NaN: a point is no part of such a number


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decimal": "x"}, "expected the decimal sign"),
        ({"separator": ";;"}, "expected one character as separator"),
        ({"separator": ",", "decimal": ","}, "other than the decimal sign"),
        ({"encoding": "klingon"}, "expected an encoding such as"),
    ],
)
def test_a_form_is_valid_or_does_not_exist(fields: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Form(**fields)


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    cells = read(written(tmp_path / "a.csv", "x,y\n1,2\n"))
    with pytest.raises(DataError, match=r"a\.csv: expected a column 'z', there are 'x', 'y'"):
        cells.column("z")
    with pytest.raises(DataError, match=r"expected a file with the ending \.csv"):
        read(tmp_path / "a.doc")
    with pytest.raises(DataError, match="got no file of that name"):
        read(tmp_path / "absent.csv")
    with pytest.raises(DataError, match="no Parquet file"):
        read(written(tmp_path / "a.parquet", "x,y\n1,2\n"))
    with pytest.raises(DataError, match="expected an Excel file"):
        read(written(tmp_path / "a.xlsx", "x,y\n1,2\n"))


def test_a_table_comes_out_of_a_pipe_as_out_of_a_file(tmp_path: Path) -> None:
    """Programs that unpack or decrypt a table give it through a named pipe."""
    file, pipe = tmp_path / "rows.csv", tmp_path / "pipe.csv"
    file.write_text("age,ward\n36,A\n41,B\n")
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(file.read_bytes()), daemon=True)
    writer.start()
    through, straight = read(pipe), read(file)
    writer.join()
    assert texts(through) == texts(straight) == {"age": ["36", "41"], "ward": ["A", "B"]}


@pytest.mark.parametrize("ending", OTHER_SHEETS)
def test_sheets_whose_errors_look_empty_are_refused(ending: str, tmp_path: Path) -> None:
    path = written(tmp_path / f"a{ending}", "x,y\n1,2\n")
    for reader in (read, load):
        with pytest.raises(DataError, match=r"expected \.xlsx or \.csv"):
            reader(str(path))


def test_another_sheet_by_the_ending_of_an_excel_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected an \.xlsx file"):
        sheets.check_values(written(tmp_path / "a.xlsx", "x,y\n1,2\n"), "Sheet", "a.xlsx")
