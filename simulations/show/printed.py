"""A run on a terminal."""

from typing import TYPE_CHECKING

from rich.markup import escape

from secure_afl.cli.evaluation import print_classified, print_measured
from secure_afl.cli.terminal import console, table
from secure_afl.simulations.data.dataset import Dataset
from secure_afl.simulations.show.answers import print_coefficients, print_left, print_scores, print_table_one
from secure_afl.simulations.study.report import Run

if TYPE_CHECKING:
    from secure_afl.tables.model import Model

_MOST_COLUMNS = 30
_EQUAL, _DIFFERENT = "equal, bit for bit", "DIFFERENT"
_STYLES = {_EQUAL: f"[green]{_EQUAL}[/]", _DIFFERENT: f"[bold red]{_DIFFERENT}[/]"}


def print_columns(source: Dataset) -> None:
    """What is learned from, before anything is."""
    if not source.about:
        return
    shown = table(f"{escape(source.name)}: columns", ("column", "kind", "values", "missing"), names=3)
    for name, kind, values, missing in source.about[:_MOST_COLUMNS]:
        shown.add_row(escape(name), kind, escape(values), f"{missing:.1%}" if missing else "–")
    if len(source.about) > _MOST_COLUMNS:
        shown.add_row(f"… and {len(source.about) - _MOST_COLUMNS} more", *[""] * 3)
    console.print(shown)


def print_run(result: Run, note: str, model: "Model | None" = None) -> None:
    """note: where the scale of the columns is from; model: what was learned, where it has coefficients of columns."""
    print_table_one(result.figures)
    if model:
        print_coefficients(model)
    print_scores(result)
    _print_held_out(result)
    print_left(result)
    for name, text in result.summary().items():
        console.print(f"{name:<27}{_STYLES.get(text, text)}", highlight=False)
    for text in result.agreement():
        console.print(f"[dim]{text}[/]", highlight=False)
    for warning in result.figures.get("warnings", ()):
        console.print(f"[yellow]warning:[/] {escape(warning)}", highlight=False)
    for refusal in result.refusals:
        console.print(f"[yellow]refused:[/] {escape(str(refusal))}", highlight=False)
    console.print(f"[dim]{escape(note)}[/]", highlight=False)


def _print_held_out(result: Run) -> None:
    """How good everyone's model is on all test rows; out of the secure sum, where one was made."""
    from secure_afl.analytic.evaluation import Classified, Measured

    shown = result.evaluated.figures if result.evaluated else result.held_out
    through = ", counted in a secure sum: nobody saw the figures of one client" if result.evaluated else ""
    if shown:
        console.print(f"[bold]The common model on the test rows of all clients{through}[/]")
    if isinstance(shown, Classified):
        print_classified(shown)
    if isinstance(shown, Measured):
        print_measured(shown, result.figures["unit"])
    for note in result.evaluated.notes() if result.evaluated else ():
        console.print(escape(note), highlight=False)
