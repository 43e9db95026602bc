"""The command line of codebooks: `secure-afl codebook`."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secure_afl.cli.options import FORM, Table, Written, options
from secure_afl.cli.terminal import console, escape, print_data, refusals_shown, say, table
from secure_afl.protocol.files import whole
from secure_afl.tables import codebook as codebooks
from secure_afl.tables.faults import Fault, cut

if TYPE_CHECKING:
    from secure_afl.tables.cells import Cells
    from secure_afl.tables.encoding import Counts

codebook = typer.Typer(
    help="What the columns of everybody's table mean: agreed on before anybody looks at a row.",
    no_args_is_help=True,
)


@codebook.command("draft")
@options(written=FORM)
def draft_command(
    file: Table,
    outcome: Annotated[str, typer.Option(help="The column to predict.")] = "",
    site: Annotated[str, typer.Option(help="The column that names each row's site, if any.")] = "",
    out: Annotated[Path | None, typer.Option(help="A new file to write to; default: the terminal.")] = None,
    *,
    written: Written,
) -> None:
    """Propose a codebook from your own table, to be finished by hand.

    Ranges and levels must come from what is known of a quantity, never from rows: a codebook is public.
    """
    with refusals_shown():
        from secure_afl.tables import draft, reading

        text = draft.draft(reading.read(file, written.form), outcome=outcome, site=site)
        if out is None:
            print_data(text)
            return
        whole.write_new(out, text.encode(), whole.PUBLIC)
        say(f"{escape(str(out))}: a draft. Its ranges tell of your rows: replace them.")


@codebook.command("check")
@options(written=FORM)
def check_command(
    file: Table,
    book: Annotated[
        Path, typer.Argument(metavar="CODEBOOK", help="A codebook.", exists=True, dir_okay=False)
    ],
    *,
    written: Written,
) -> None:
    """List all cells of a table that do not fit its codebook, and what becomes of its rows. Exit code 1 if any does not.

    The list quotes cells: keep it where the table is.
    """
    with refusals_shown():
        from secure_afl.tables import encoding as rows
        from secure_afl.tables import reading

        cells = reading.read(file, written.form)
        read = codebooks.read(book)
        parsed, faults = rows.examine(read, cells)
        _print_faults(faults)
        _print_counts(read, cells, parsed.counts)
        if faults:
            console.print(
                f"[bold red]{len(faults)} kinds of fault[/]: nothing can be learned from this table yet"
            )
            raise typer.Exit(1)
        console.print("[green]every cell fits[/]")


def _print_faults(faults: list[Fault]) -> None:
    for fault in faults:
        where = f"column {fault.column!r}: " if fault.column else ""
        say(f"[red]{escape(where)}[/]expected {escape(fault.expected)}")
        for cell, rows in fault.cells.items():
            many = "rows" if len(rows) > 1 else "row"
            say(f"    {escape(repr(cut(cell)))} in data {many} {runs(rows)}")
        if fault.remedy:
            say(f"    [dim]{escape(fault.remedy)}[/]")


def runs(rows: Sequence[int]) -> str:
    """Row numbers in order, those that follow each other as one: 1-3, 7."""
    found = []
    for _, group in groupby(enumerate(sorted(rows)), lambda pair: pair[1] - pair[0]):
        numbers = [row for _, row in group]
        found.append(str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}")
    return ", ".join(found)


def _print_counts(book: codebooks.Codebook, cells: "Cells", counts: "Counts") -> None:
    from secure_afl.tables.encoding import described
    from secure_afl.tables.terms import terms

    shown = table(f"{cells.source}, {cells.form}", ("column", "kind", "values", "rows without it"), names=4)
    for name, kind, values, _ in described(book, counts):
        shown.add_row(escape(name), kind, escape(values), _without(counts, name))
    target = book.outcome
    values = ", ".join(book.classes) if book.classes else "{:g} to {:g}".format(*target.range)  # type: ignore[union-attr]
    shown.add_section()
    shown.add_row(escape(target.column), "outcome", escape(values), _without(counts, target.column))
    console.print(shown)
    out = counts.rows - counts.used - counts.filtered
    lines = [f"rows: {counts.rows} in the table, {counts.used} used"]
    lines += [f"{counts.held_out} of them held out of the model"] if counts.held_out else []
    lines += [f"{counts.filtered} left out by the filter"] if counts.filtered else []
    lines += [f"{out} left out for a missing value"] if out else []
    say("; ".join(lines))
    used = {*book.columns, target.column, book.site, book.weights.column if book.weights else ""}
    if unused := [name for name in cells.columns if name not in used]:
        say(f"columns that are not used: {escape(', '.join(unused))}")
    say(f"features: {len(terms(book))}; codebook {book.digest[:16]}")


def _without(counts: "Counts", name: str) -> str:
    if name in counts.flagged:
        return f"{counts.flagged[name]}, flagged"
    return f"{counts.left_out[name]}, left out" if name in counts.left_out else "0"
