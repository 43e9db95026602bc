"""Options of every command that reads a table."""

from typing import Annotated

import typer

from secure_afl.tables.form import Form

Separator = Annotated[
    str, typer.Option(help="Of a text file; default the only one of , ; | and tab in its header.")
]
Decimal = Annotated[str, typer.Option(help="The decimal sign in numbers of a text file, . or ,")]
Encoding = Annotated[str, typer.Option(help="Of a text file, such as windows-1252.")]
Sheet = Annotated[str, typer.Option(help="Of an Excel file; default its only one.")]


def form(separator: str, decimal: str, encoding: str, sheet: str) -> Form:
    r"""How the table is written; "\t" is a tab. Raises `DataError`."""
    return Form(separator.replace("\\t", "\t"), decimal, encoding, sheet)
