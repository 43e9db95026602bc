"""Text with separators (RFC 4180, and what spreadsheet programs make of it), read by pyarrow.

pyarrow forgives a quote inside a cell and never reports one that stays open, so quotes are checked here first.
"""

import codecs
import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from secure_afl.crypto.errors import optional
from secure_afl.errors import DataError
from secure_afl.tables.cells import Cells, made
from secure_afl.tables.faults import Fault, enumerated, refuse
from secure_afl.tables.form import Form

with optional():
    import pyarrow as pa
    import pyarrow.csv as pa_csv

Bytes = npt.NDArray[np.uint8]
_SEPARATORS = ",;\t|"
_NAMES = {"\t": "a tab"}
_BLOCK = 2**24  # bytes; a quoted cell may be as long
_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_ARCHIVES = {
    b"PK\x03\x04": "a ZIP archive; an Excel file is read by its ending .xlsx",
    b"\x1f\x8b": "a gzip archive: unpack it",
}
_QUOTE, _LINE_FEED, _RETURN = b'"\n\r'


def read(path: Path, form: Form, name: str) -> Cells:
    """See `reading.read`."""
    data = _text(path, form.encoding, name)
    separator, skipped = _separator(data, form, name)
    body = data[skipped:]
    if not _header(body, separator):
        raise DataError(f"{name}: expected a header and then one line a row, got empty lines")
    _check_quotes(body, separator, name)
    if len(body) < _BLOCK and body[-1] not in (_LINE_FEED, _RETURN):
        body = np.append(body, np.uint8(_LINE_FEED))  # pyarrow reads no header without it
    wrong: dict[int, list[int]] = {}
    blank = width = 0

    def odd(row: Any) -> str:
        nonlocal blank, width
        if not row.text.strip():
            blank += 1
        else:
            wrong.setdefault(row.actual_columns, []).append(row.number - 1 - blank)
            width = row.expected_columns
        return "skip"

    try:
        table = pa_csv.read_csv(
            pa.BufferReader(pa.py_buffer(body)),
            read_options=pa_csv.ReadOptions(
                autogenerate_column_names=True, use_threads=False, block_size=_BLOCK
            ),
            parse_options=pa_csv.ParseOptions(
                delimiter=separator, newlines_in_values=True, invalid_row_handler=odd
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types={f"f{at}": pa.string() for at in range(len(_header(body, separator)))},
                strings_can_be_null=False,
                quoted_strings_can_be_null=False,
                check_utf8=False,
            ),
        )
    except pa.ArrowInvalid as error:
        raise DataError(f"{name}: expected rows of text with separators, got {str(error)[:100]}") from None
    sign = _NAMES.get(separator, repr(separator))
    remedy = f"a cell that holds {sign} needs quotes around it"
    if separator == ",":
        remedy += "; numbers with a decimal comma need another separator than the comma"
    refuse(
        name,
        [
            Fault("", {f"{found} cell{'s' if found > 1 else ''}": rows}, f"{width} as in the header", remedy)
            for found, rows in sorted(wrong.items())
        ],
    )
    header = [column[0].as_py() for column in table.columns]
    columns = [column.slice(1) for column in table.columns]
    rows = table.num_rows - 1
    del table
    return made(name, header, columns, rows, f"text, separator {sign}", form.decimal)


def _text(path: Path, encoding: str, name: str) -> Bytes:
    """The file in UTF-8, without a byte order mark. Raises `DataError` for anything else."""
    if not path.exists() or path.is_dir():
        raise DataError(f"{name}: expected a header and then one line a row, got no file of that name")
    if path.is_file() and path.stat().st_size:
        with pa.memory_map(str(path)) as file:
            data = np.frombuffer(file.read_buffer(), np.uint8)
    else:  # a pipe cannot be mapped
        data = np.array(bytearray(path.read_bytes()), np.uint8)
    if not len(data):
        raise DataError(f"{name}: expected a header and then one line a row, got an empty file")
    start = data[:4].tobytes()
    if codecs.lookup(encoding) != codecs.lookup("utf-8"):
        try:
            text = data.tobytes().decode(encoding).removeprefix("\ufeff")
        except UnicodeError:
            raise DataError(
                f"{name}: expected text in {encoding}, some bytes are none: name the right encoding"
            ) from None
        return np.frombuffer(text.encode(), np.uint8)
    for mark, said in _MARKS.items():
        if start.startswith(mark):
            raise DataError(
                f"{name}: expected text in utf-8, got {said}; save it as UTF-8, or give its encoding"
            )
    for archive, remedy in _ARCHIVES.items():
        if start.startswith(archive):
            raise DataError(f"{name}: expected text, got {remedy}")
    data = data[3:] if start.startswith(codecs.BOM_UTF8) else data
    decoder = codecs.getincrementaldecoder("utf-8")()
    for at in range(0, len(data), _BLOCK):
        chunk = data[at : at + _BLOCK].tobytes()
        try:
            decoder.decode(chunk, final=at + _BLOCK >= len(data))
        except UnicodeDecodeError as error:
            place = at + error.start - (len(error.object) - len(chunk))
            raise DataError(
                f"{name}, {_place(data, place)}: expected text in utf-8, got other bytes; give its encoding, often "
                "windows-1252, or save it as UTF-8"
            ) from None
        if b"\0" in chunk:
            raise DataError(f"{name}, {_place(data, at + chunk.index(0))}: expected text, got a byte of zero")
    return data


def _separator(data: Bytes, form: Form, name: str) -> tuple[str, int]:
    """The sign between cells, and how many bytes of a line before the header say it."""
    start = data[:_BLOCK].tobytes().decode(errors="replace")
    first = re.match(r'"?sep=([^"\r\n])"?,*(\r\n|\r|\n)', start, re.IGNORECASE)
    if first:
        if form.separator not in ("", first[1]):
            raise DataError(
                f"{name}: expected the separator {form.separator!r}, the first line says {first[1]!r}"
            )
        return first[1], len(first[0].encode())
    if form.separator:
        return form.separator, 0
    header = re.sub(r'"([^"]|"")*"', "", start.lstrip("\r\n")[: 2**16]).splitlines()[:1]
    found = [sign for sign in _SEPARATORS if header and sign in header[0]]
    if len(found) > 1:
        signs = enumerated(repr(sign) for sign in found)
        raise DataError(f"{name}: the header holds {signs}; say which separates the columns (separator)")
    return (found or [","])[0], 0


def _header(data: Bytes, separator: str) -> list[str]:
    lines = csv.reader(
        io.StringIO(data[:_BLOCK].tobytes().decode(errors="replace"), newline=""), delimiter=separator
    )
    return next((line for line in lines if line), [])


def _check_quotes(data: Bytes, separator: str, name: str) -> None:
    """Raises `DataError` unless every quote begins or ends a cell, or is one of two for a quote in a cell."""
    ends = np.array([ord(separator), _LINE_FEED, _RETURN, _QUOTE], np.uint8)
    before = 0
    opened = -1
    for at in range(0, len(data), _BLOCK):
        quotes = at + np.flatnonzero(data[at : at + _BLOCK] == _QUOTE)
        if not quotes.size:
            continue
        opening = (np.arange(before, before + len(quotes)) % 2) == 0
        neighbours = np.where(opening, quotes - 1, quotes + 1)
        inside = (neighbours >= 0) & (neighbours < len(data))
        wrong = np.flatnonzero(inside & ~np.isin(data[np.clip(neighbours, 0, len(data) - 1)], ends))
        if wrong.size:
            place = int(quotes[wrong[0]])
            if not opening[wrong[0]]:  # the cell began at the quote before
                place = int(quotes[wrong[0] - 1]) if wrong[0] else opened
            raise DataError(
                f"{name}, {_place(data, place, separator)}: expected quotes around a whole cell, got one inside a cell; "
                "write the cell in quotes, and each quote in it twice"
            )
        if opening[-1]:
            opened = int(quotes[-1])
        before += len(quotes)
    if before % 2:
        raise DataError(
            f"{name}, {_place(data, opened, separator)}: expected a quote at the end of a cell that begins with one, got none"
        )


def _place(data: Bytes, position: int, separator: str = ",") -> str:
    """Where a byte stands, for people."""
    text = data[:position].tobytes().decode(errors="replace")
    records = sum(1 for line in csv.reader(io.StringIO(f"{text}.", newline=""), delimiter=separator) if line)
    return f"data row {records - 1}" if records > 1 else "the header"
