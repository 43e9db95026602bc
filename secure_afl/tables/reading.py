"""One reader for every table: on the command line, in a simulation, at a deployed site.

Cells come as text and mean nothing yet. Whatever would make a cell stand in another row or column, or under another
name, is refused: rows of other lengths, headers that are empty or there twice, quotes that do not end a cell.
Data rows count from 1, without the header and without empty lines.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from secure_afl.crypto.errors import optional
from secure_afl.errors import DataError
from secure_afl.tables.cells import Cells, Column, made
from secure_afl.tables.faults import enumerated
from secure_afl.tables.form import ENDINGS, EXCEL, OTHER_SHEETS, POSTGRES, SQLITE, TEXT, Form, called


def read(source: Path | str, form: Form | None = None, *, name: str = "") -> Cells:
    """All cells of a table: text with separators (.csv, .tsv, .txt), .parquet, Excel (.xlsx), or what a
    database answers to a query (.sqlite, .sqlite3, .db, postgresql://…).

    name: what errors call it, by default the file's name. Raises `DataError`, and `TableError` for rows.
    """
    address, form = str(source), form or Form()
    name = name or called(address)
    if address.startswith(POSTGRES):
        from secure_afl.tables.formats import databases

        return databases.postgres(address, form, name)
    path = Path(source)
    reader = READERS.get(path.suffix.lower())
    if path.suffix.lower() in OTHER_SHEETS:
        raise DataError(
            f"{name}: expected {EXCEL} or .csv: save it as one of them in a spreadsheet program. In other sheets an error such "
            "as #N/A cannot be told from an empty cell"
        )
    if reader is None:
        raise DataError(
            f"{name}: expected a file with the ending {', '.join(ENDINGS)}, or an address postgresql://…"
        )
    if form.query and path.suffix.lower() not in SQLITE:
        raise DataError(f"{name}: expected a database for a query, got a file that is read as a whole")
    try:
        return reader(path, form, name)
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror or type(error).__name__}") from None


def _delimited(path: Path, form: Form, name: str) -> Cells:
    from secure_afl.tables.formats import delimited

    return delimited.read(path, form, name)


def _parquet(path: Path, form: Form, name: str) -> Cells:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"{name}: this is no Parquet file: {str(error)[:100]}") from None
    texts = [_text(name, field, table.column(at)) for at, field in enumerate(table.schema)]
    return made(name, table.schema.names, texts, table.num_rows, "Parquet", ".")


def _text(name: str, field: Any, column: Any) -> Column:
    """A typed column as text; a cell without a value is empty."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if pa.types.is_floating(kind):
        column = pc.cast(column, pa.float64())  # of a float32 all digits
    elif not (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_temporal(kind)
        or pa.types.is_null(kind)
    ):
        raise DataError(
            f"{name}, column {field.name!r}: expected text, numbers, dates or yes/no, got {field.type}"
        )
    try:
        return pc.fill_null(pc.cast(column, pa.string()), "")
    except pa.ArrowException:
        raise DataError(f"{name}, column {field.name!r}: {field.type} cannot be written as text") from None


def _excel(path: Path, form: Form, name: str) -> Cells:
    with optional():
        import python_calamine
    from secure_afl.tables.formats import sheets

    sheets.check_filled(path, name)
    try:
        with python_calamine.CalamineWorkbook.from_path(path) as book:
            names = book.sheet_names
            if form.sheet not in names and (form.sheet or len(names) != 1):
                asked = f"the sheet {form.sheet!r}" if form.sheet else "a sheet by name"
                raise DataError(f"{name}: expected {asked}, there are {enumerated(map(repr, names), 10)}")
            sheet = form.sheet or names[0]
            sheets.check_values(path, sheet, name)
            lines = book.get_sheet_by_name(sheet).to_python()
    except (python_calamine.CalamineError, python_calamine.PasswordError) as error:
        raise DataError(f"{name}: expected an Excel file without a password: {str(error)[:100]}") from None
    return from_lines(name, lines, f"Excel, sheet {sheet!r}")


def _sqlite(path: Path, form: Form, name: str) -> Cells:
    from secure_afl.tables.formats import databases

    return databases.sqlite(path, form, name)


def forget_text() -> None:
    """Give the memory of tables that nobody holds any more back to the system: Arrow would keep it for the next one."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()


def from_lines(name: str, lines: Sequence[Sequence[Any]], form: str) -> Cells:
    """A table of values in lines of one length, the header first; empty lines do not count."""
    import pyarrow as pa

    rows = [texts for line in lines if any(texts := [as_text(cell) for cell in line])]
    if not rows:
        raise DataError(f"{name}: expected a header and then one line a row, got nothing")
    header, *rows = rows
    columns = [pa.chunked_array([pa.array(column, pa.string())]) for column in zip(*rows, strict=True)]
    return made(name, header, columns, len(rows), form, ".")


def as_text(value: Any) -> str:
    """A value of a sheet or of a database as text: whole numbers without a point, dates as ISO 8601 has them.

    Raises `TypeError` with the type of anything that is no single value.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    if not isinstance(value, str | int | Decimal | timedelta | UUID):
        raise TypeError(type(value).__name__)
    return str(value).strip()


READERS: dict[str, Callable[[Path, Form, str], Cells]] = {
    **dict.fromkeys(TEXT, _delimited),
    ".parquet": _parquet,
    EXCEL: _excel,
    **dict.fromkeys(SQLITE, _sqlite),
}
"""Readers by the ending of a file's name."""
