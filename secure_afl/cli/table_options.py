"""Options of every command that reads a table."""

from typing import Annotated

import typer

from secure_afl.tables.form import Form

FORM = {
    "separator": typer.Option(help="Of a text file; default the only one of , ; | and tab in its header."),
    "decimal": typer.Option(help="The decimal sign in numbers of a text file, . or ,"),
    "encoding": typer.Option(help="Of a text file, such as windows-1252."),
    "sheet": typer.Option(help="Of an Excel file; default its only one."),
    "query": typer.Option(help="To a database, in SQL; it is only read."),
}
Separator = Annotated[str, FORM["separator"]]
Decimal = Annotated[str, FORM["decimal"]]
Encoding = Annotated[str, FORM["encoding"]]
Sheet = Annotated[str, FORM["sheet"]]
Query = Annotated[str, FORM["query"]]
Table = Annotated[
    str,
    typer.Argument(help="A table: .csv, .parquet, .xlsx, .sqlite, postgresql://HOST/DATABASE, …"),
]


def form(separator: str, decimal: str, encoding: str, sheet: str, query: str) -> Form:
    r"""How the table is written; "\t" is a tab. Raises `DataError`."""
    return Form(separator.replace("\\t", "\t"), decimal, encoding, sheet, query)
