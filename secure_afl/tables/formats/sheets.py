"""Where the cells of an .xlsx file lie, looked at before a reader takes memory for all of the cells between them."""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from secure_afl.errors import DataError

_SHEET = re.compile(r"/?xl/worksheets/[^/]+\.xml", re.IGNORECASE)
_CELL = re.compile(rb"<(?:\w+:)?c\s[^>]*?\br=[\"']([A-Z]{1,3})([0-9]{1,7})[\"']")
_CHUNK = 2**20
_LONGEST = 256  # bytes of a cell's tag up to its place
_ALWAYS = 2**20  # cells that are read however empty they are


def check_filled(path: Path, name: str) -> None:
    """Raises `DataError` for a sheet whose cells lie so far apart that it has fewer bytes than cells between them.

    Anything that is no such file is left to its reader.
    """
    try:
        with zipfile.ZipFile(path) as book:
            for entry in book.infolist():
                if _SHEET.fullmatch(entry.filename):
                    rows = columns = size = 0
                    for part in _parts(book, entry):
                        size += len(part)
                        found = _CELL.findall(part)
                        rows = max(rows, *(int(row) for _, row in found), 0)
                        columns = max(
                            columns, *(_number(letters) for letters in {one for one, _ in found}), 0
                        )
                    if rows * columns > _ALWAYS + size:
                        raise DataError(
                            f"{name}: expected a sheet whose cells are a table, got one that reaches to row {rows:,} and "
                            f"column {columns:,} and is nearly empty: delete the rows and columns behind the table, or save "
                            "it as .csv"
                        )
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError):
        return


def _parts(book: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    """A file in pieces; each begins with the end of the one before, as a tag may lie across."""
    with book.open(entry) as file:
        end = b""
        while chunk := file.read(_CHUNK):
            yield end + chunk
            end = chunk[-_LONGEST:]


def _number(letters: bytes) -> int:
    """Number of a column: A is 1, Z 26, AA 27."""
    number = 0
    for one in letters:
        number = 26 * number + one - ord("A") + 1
    return number
