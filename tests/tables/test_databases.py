"""Queries as tables: SQLite, and a PostgreSQL server of the test's own."""

import os
import pwd
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from secure_afl.errors import DataError
from secure_afl.tables.form import Form, called
from secure_afl.tables.reading import read

VISITS = """
CREATE TABLE visits (id INTEGER, age REAL, sex TEXT, day DATE);
INSERT INTO visits VALUES (1, 54.5, 'm', '2026-01-02'), (2, NULL, ' f ', NULL), (3, 61, 'f', '2026-03-04');
"""
ROWS = {"age": ["54.5", "", "61"], "sex": ["m", "f", "f"], "day": ["2026-01-02", "", "2026-03-04"]}
QUERY = "SELECT age, sex, day FROM visits ORDER BY id"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "a.sqlite")) as connection:
        connection.executescript(VISITS)
    return tmp_path / "a.sqlite"


def test_the_answer_to_a_query_is_a_table(file: Path) -> None:
    cells = read(file, Form(query=QUERY))
    assert {name: column.to_pylist() for name, column in cells.columns.items()} == ROWS
    assert cells.numbers("age")[[0, 2]].tolist() == [54.5, 61]
    none = read(file, Form(query="SELECT age, sex FROM visits WHERE age > 99"))
    assert (none.rows, list(none.columns)) == (0, ["age", "sex"])


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "expected a query, such as SELECT"),
        ("SELECT weight FROM visits", "the query cannot be answered: no such column: weight"),
        ("DELETE FROM visits", "not authorized|authorization denied"),
        ("PRAGMA user_version", "not authorized|authorization denied"),
        ("SELECT 1; SELECT 2", "one statement at a time"),
        ("SELECT age, age FROM visits", "the header has 'age' more than once"),
        ("SELECT x'00ff' AS b", "column 'b': expected text, numbers, dates or yes/no, got bytes"),
    ],
)
def test_queries_that_give_no_table_are_refused(file: Path, query: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(file, Form(query=query))
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT count(*) FROM visits").fetchone() == (3,)


@pytest.mark.parametrize("query", ["VACUUM INTO '{}'", "ATTACH 'file:{}?mode=rwc' AS other"])
def test_a_query_writes_no_other_file(file: Path, query: str) -> None:
    """A read-only connection alone would allow both of these queries."""
    target = file.with_name("copy.sqlite")
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as weak:
        weak.execute(query.format(target))
        weak.execute("SELECT 1").fetchall()
    assert target.exists() or "ATTACH" in query  # made with its first table
    target.unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"not authorized|authorization denied"):
        read(file, Form(query=query.format(target)))
    assert not target.exists()


def test_a_query_is_for_a_database(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x\n1\n")
    with pytest.raises(DataError, match="expected a database for a query"):
        read(tmp_path / "a.csv", Form(query=QUERY))
    with pytest.raises(DataError, match="got no file of that name"):
        read(tmp_path / "b.db", Form(query=QUERY))
    (tmp_path / "c.db").write_bytes(b"no database" * 100)
    with pytest.raises(DataError, match="file is not a database"):
        read(tmp_path / "c.db", Form(query=QUERY))


def test_an_address_is_shown_without_its_user_and_taken_without_a_password() -> None:
    assert called("postgresql://me:secret@host:5432/clinic?sslmode=require") == "postgresql://host/clinic"
    for address in ("postgresql://me:secret@host/clinic", "postgres://host/clinic?password=secret"):
        with pytest.raises(DataError, match="expected an address without a password") as refused:
            read(address, Form(query=QUERY))
        assert "secret" not in str(refused.value)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a new PostgreSQL server that listens on a socket in a folder, whose path must be short."""
    pytest.importorskip("psycopg")
    if not (shutil.which("initdb") and shutil.which("pg_ctl")):
        pytest.skip("PostgreSQL is not installed")
    root = os.getuid() == 0  # as which the server refuses to run
    user = pwd.getpwnam("nobody") if root else pwd.getpwuid(os.getuid())
    with TemporaryDirectory(prefix="pg") as name:
        folder = Path(name)
        os.chown(folder, user.pw_uid, user.pw_gid)

        def run(*command: str) -> None:
            other = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if root else {}
            subprocess.run(command, check=True, capture_output=True, timeout=120, cwd=folder, **other)  # type: ignore[call-overload]

        data, log = str(folder / "data"), str(folder / "log")
        run("initdb", "-D", data, "-U", "clinic", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C")
        run("pg_ctl", "-D", data, "-l", log, "-w", "-o", f"-c listen_addresses='' -k {folder}", "start")
        try:
            yield f"postgresql:///postgres?host={folder}&user=clinic"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "stop")


@pytest.mark.long
def test_postgresql(server: str) -> None:
    import psycopg

    with psycopg.connect(server) as connection:
        connection.execute(VISITS.replace("REAL", "NUMERIC"))
        connection.execute(
            "CREATE TABLE typed AS SELECT true AS yes, 3::bigint AS whole, 0.1::float8 AS real, 'NaN'::float8 AS nan"
        )
    cells = read(server, Form(query=QUERY))
    assert cells.source == "postgresql:///postgres"
    assert {name: column.to_pylist() for name, column in cells.columns.items()} == ROWS
    typed = read(server, Form(query="SELECT * FROM typed"))
    assert {name: column.to_pylist() for name, column in typed.columns.items()} == {
        "yes": ["true"],
        "whole": ["3"],
        "real": ["0.1"],
        "nan": ["nan"],
    }
    many = read(server, Form(query="SELECT n AS n, n * 0.5 AS half FROM generate_series(1, 50001) AS n"))
    assert many.rows == 50_001
    assert many.numbers("half").sum() == 0.25 * 50_001 * 50_002
    for query, message in (
        ("SELECT nothing FROM visits", 'column "nothing" does not exist'),
        ("DELETE FROM visits", "the query cannot be answered"),
        ("SELECT ARRAY[1, 2] AS list", "column 'list': expected text, numbers, dates or yes/no, got list"),
    ):
        with pytest.raises(DataError, match=message):
            read(server, Form(query=query))
    with psycopg.connect(server) as connection:
        assert connection.execute("SELECT count(*) FROM visits").fetchone() == (3,)
    with pytest.raises(DataError, match="the query cannot be answered"):
        read("postgresql:///postgres?host=/nowhere", Form(query=QUERY))
