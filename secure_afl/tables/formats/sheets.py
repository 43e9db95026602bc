"""What an .xlsx file says of its cells and its reader does not: where they lie, before it takes memory for all of the cells
between them, and which have no value.
"""

import re
import zipfile
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from posixpath import join, normpath

from secure_afl.errors import DataError
from secure_afl.tables.faults import enumerated

_SHEET = re.compile(r"/?xl/worksheets/[^/]+\.xml", re.IGNORECASE)
_CELL = re.compile(rb"<(?:\w+:)?c\s[^>]*?\br=[\"']([A-Z]{1,3})([0-9]{1,7})[\"']")
_NO_VALUE = re.compile(
    rb"<(?:\w+:)?c\s(?P<error>[^>]*\bt=[\"']e[\"'][^>]*)>"
    rb"|<(?:\w+:)?c\s(?P<formula>(?![^>]*\bt=[\"']str)[^>]*[^>/])>\s*<(?:\w+:)?f\b(?:[^>]*/>|[^>]*>[^<]*</(?:\w+:)?f>)\s*"
    rb"(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v>\s*</(?:\w+:)?v>)?\s*</(?:\w+:)?c>"
)
_PLACE = re.compile(rb"\br=[\"']([A-Z]{1,3}[0-9]{1,7})[\"']")
_ATTRIBUTE = re.compile(r"""([\w:]+)\s*=\s*(?:"([^"]*)"|'([^']*)')""")
_CHUNK = 2**20
_LONGEST = 2**15  # bytes of a cell with a formula
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


def check_values(path: Path, sheet: str, name: str) -> None:
    """Raises `DataError` for cells of a sheet that the reader gives out as empty and that are not: errors such as #N/A, and
    formulas that no program has computed.

    Raises it for a file too that cannot be looked into.
    """
    try:
        with zipfile.ZipFile(path) as book:
            found: dict[str, list[str]] = {"error": [], "formula": []}
            for part in _parts(book, book.getinfo(_file_of(book, sheet))):
                for cell in _NO_VALUE.finditer(part):
                    kind = str(cell.lastgroup)
                    found[kind] += [one.decode() for one in _PLACE.findall(cell[kind])]
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, KeyError):
        raise DataError(f"{name}: expected an .xlsx file: save it as one in a spreadsheet program") from None
    for kind, said in (
        ("error", "an error such as #N/A: correct it, or empty the cell"),
        ("formula", "a formula without its result: open the file in a spreadsheet program and save it"),
    ):
        if cells := list(dict.fromkeys(found[kind])):
            raise DataError(
                f"{name}, sheet {sheet!r}, cell{'s' if len(cells) > 1 else ''} {enumerated(cells)}: expected a value, got {said}"
            )


def _file_of(book: zipfile.ZipFile, sheet: str) -> str:
    """Which file of the archive has a sheet. Raises `KeyError`."""
    named = {unescape(one["name"]): one for one in _tags(book, "xl/workbook.xml", "sheet")}
    number = next((value for key, value in named[sheet].items() if key.endswith(":id")), "")
    targets = {one["Id"]: one["Target"] for one in _tags(book, "xl/_rels/workbook.xml.rels", "Relationship")}
    return normpath(join("/xl", unescape(targets[number]))).lstrip("/")


def _tags(book: zipfile.ZipFile, file: str, tag: str) -> list[dict[str, str]]:
    """The attributes of each tag of a kind in a short XML file."""
    found = re.findall(rf"<(?:\w+:)?{tag}\s([^>]*)>", book.read(file).decode())
    return [{key: one or two for key, one, two in _ATTRIBUTE.findall(text)} for text in found]


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
