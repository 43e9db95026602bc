"""The answer to a query as a table: SQLite files, and PostgreSQL (extra `postgres`). Nothing is ever written there."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa

from secure_afl.crypto.errors import optional
from secure_afl.errors import DataError
from secure_afl.tables.cells import Cells, made
from secure_afl.tables.form import Form
from secure_afl.tables.reading import as_text

_ROWS = 20_000  # fetched at a time: values of Python take ten times the room of text


_READING = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}


def sqlite(path: Path, form: Form, name: str) -> Cells:
    """See `reading.read`."""
    if not path.is_file():
        raise DataError(f"{name}: expected a SQLite file, got no file of that name")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            connection.set_authorizer(_reading)
            return _answer(connection.execute(_query(form, name)), name, "SQLite")
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise DataError(f"{name}: the query cannot be answered: {error}") from None


def _reading(action: int, *_: object) -> int:
    """Whether a statement may do this: read. VACUUM INTO and ATTACH write other files, even of a read-only database."""
    return sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY


def postgres(address: str, form: Form, name: str) -> Cells:
    """See `reading.read`."""
    with optional():
        import psycopg
    parts = urlsplit(address)
    if parts.password is not None or "password" in parse_qs(parts.query):
        raise DataError(
            f"{name}: expected an address without a password, got one with it: put the password into a file that only "
            "you can read, ~/.pgpass or what PGPASSFILE names"
        )
    query = _query(form, name)
    try:
        with psycopg.connect(address) as connection:
            connection.read_only = True
            with connection.cursor("secure_afl") as cursor:  # on the server, so that rows come in parts
                cursor.execute(query)  # the owner's own
                return _answer(cursor, name, "PostgreSQL")
    except psycopg.Error as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise DataError(f"{name}: the query cannot be answered: {lines[0]}") from None


def _query(form: Form, name: str) -> str:
    if not form.query.strip():
        raise DataError(f"{name}: expected a query, such as SELECT age, sex FROM visits, got none")
    return form.query


def _answer(cursor: Any, name: str, kind: str) -> Cells:
    header: list[str] = []
    parts: list[list[Any]] = []
    rows = 0
    for batch in _batches(cursor):
        header = header or [column[0] for column in cursor.description]
        parts.append([_texts(name, header[at], values) for at, values in enumerate(zip(*batch, strict=True))])
        rows += len(batch)
    header = header or [column[0] for column in cursor.description or ()]
    if not header:
        raise DataError(f"{name}: expected a query that gives rows, such as SELECT, this one gives none")
    columns = [pa.chunked_array([part[at] for part in parts], pa.string()) for at in range(len(header))]
    return made(name, header, columns, rows, kind, ".")


def _batches(cursor: Any) -> Iterator[list[tuple[Any, ...]]]:
    while batch := cursor.fetchmany(_ROWS):
        yield batch


def _texts(name: str, column: str, values: tuple[Any, ...]) -> Any:
    try:
        return pa.array([as_text(value) for value in values], pa.string())
    except TypeError as error:
        raise DataError(
            f"{name}, column {column!r}: expected text, numbers, dates or yes/no, got {error}"
        ) from None
