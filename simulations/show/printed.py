"""A run on a terminal."""

from rich.markup import escape

from secure_afl.cli.evaluation import print_classified, print_measured
from secure_afl.cli.terminal import console, table
from secure_afl.simulations.data.dataset import Dataset
from secure_afl.simulations.study.report import Run

_MOST_COLUMNS, _MOST_CLIENTS = 30, 20
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


def print_run(result: Run, note: str) -> None:
    """note: where the scale of the columns is from."""
    _print_clients(result)
    _print_held_out(result)
    if result.costs:
        _print_phases(result)
    for text in result.agreement():
        console.print(text, highlight=False)
    for name, text in result.summary().items():
        console.print(f"{name:<27}{_STYLES.get(text, text)}", highlight=False)
    for warning in result.figures.get("warnings", ()):
        console.print(f"[yellow]warning:[/] {escape(warning)}", highlight=False)
    for refusal in result.refusals:
        console.print(f"[yellow]refused:[/] {escape(str(refusal))}", highlight=False)
    console.print(f"[dim]{escape(note)}[/]", highlight=False)


def _print_clients(result: Run) -> None:
    own = ("alone, own", "together, own", *(["personal, own"] if result.personal else []), "alone, all")
    shown = table(
        f"{escape(result.figures['data'])}: training rows, and {escape(result.measure)} on each client's own test rows and on all",
        ("client", "rows", "in the sum", *own),
    )
    clients = result.clients()
    for one in clients[:_MOST_CLIENTS]:
        scores = (one.alone, one.together, *([one.personal] if result.personal else []), one.alone_on_all)
        shown.add_row(
            escape(one.name),
            str(one.rows),
            one.present,
            *map(result.shown, scores),
        )
    if len(clients) > _MOST_CLIENTS:
        shown.add_row(f"… and {len(clients) - _MOST_CLIENTS} more", *[""] * (2 + len(own)))
    console.print(shown)


def _print_held_out(result: Run) -> None:
    """How good everyone's model is on all test rows."""
    from secure_afl.analytic.evaluation import Classified, Measured

    if isinstance(result.held_out, Classified):
        print_classified(result.held_out)
    if isinstance(result.held_out, Measured):
        print_measured(result.held_out, result.figures["unit"])


def _print_phases(result: Run) -> None:
    holders = ("holder bytes", "CPU ms") if result.encrypted else ()
    shown = table(
        "cost by phase, first keys, then sums; medians over clients",
        ("phase", "bytes up", "bytes down", "client CPU ms", "server CPU ms", *holders),
    )
    keys = True
    for one in result.phases():
        if keys != (keys := one.keys):
            shown.add_section()
        cells = [f"{one.up:,.0f}", f"{one.down:,.0f}", f"{one.client_ms:.2f}", f"{one.server_ms:.2f}"]
        if holders:
            cells += [f"{one.holder_bytes:,}", f"{one.holder_ms:.2f}"]
        shown.add_row(one.phase, *cells)
    console.print(shown)
