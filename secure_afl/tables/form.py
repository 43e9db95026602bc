"""How a table is written, where its file does not tell."""

from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from secure_afl.errors import DataError

TEXT = (".csv", ".tsv", ".txt")
EXCEL = ".xlsx"
OTHER_SHEETS = (".xls", ".xlsb", ".ods")
"""Refused: their readers give out an error such as #N/A as an empty cell, and nothing in the file tells the two apart."""
SQLITE = (".sqlite", ".sqlite3", ".db")
POSTGRES = ("postgresql://", "postgres://")
ENDINGS = (*TEXT, ".parquet", EXCEL, *SQLITE)
"""Endings of the files that are read as tables."""


class Form(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a table is written. Raises `DataError`.

    separator: of a CSV file; empty finds it in the header. decimal: the sign in numbers, "." or ",". encoding: of a
    CSV file. sheet: of an Excel file; empty is its only one. query: to a database, in SQL.
    """

    separator: str = ""
    decimal: str = "."
    encoding: str = "utf-8"
    sheet: str = ""
    query: str = ""

    def __post_init__(self) -> None:
        if self.decimal not in (".", ","):
            raise DataError(f"expected the decimal sign as '.' or ',', got {self.decimal!r}")
        if len(self.separator) > 1 or self.separator in ('"', "\n", "\r", "."):
            raise DataError(f"expected one character as separator, got {self.separator!r}")
        if self.separator == self.decimal:
            raise DataError("expected a separator other than the decimal sign, got ',' for both")
        try:
            "".encode(self.encoding)
        except LookupError:
            raise DataError(
                f"expected an encoding such as utf-8 or windows-1252, got {self.encoding!r}"
            ) from None


def is_table(source: str) -> bool:
    """Whether this is the address of a database, or the name of a file that is read as a table or refused as one."""
    return source.startswith(POSTGRES) or Path(source).suffix.lower() in (*ENDINGS, *OTHER_SHEETS)


def called(source: str) -> str:
    """A table for errors and figures: the name of its file, or the address of its database without its user."""
    if not source.startswith(POSTGRES):
        return Path(source).name
    parts = urlsplit(source)
    return f"postgresql://{parts.hostname or ''}{parts.path}"
