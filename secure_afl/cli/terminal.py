"""What all commands share: where text goes, progress, refusals, and files that are whole or not there."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from secure_afl.crypto.errors import SecureAflError, optional
from secure_afl.protocol.files import whole

console = Console()
errors = Console(stderr=True)
JsonFile = Annotated[
    Path | None, typer.Option("--json", help="Write every figure to this file.", dir_okay=False)
]


@contextmanager
def progress(steps: int, lines: bool = False) -> Iterator[Callable[[str], None]]:
    """A bar on a terminal; `watch` moves it on by one and names the step. lines: elsewhere a line for each step."""
    number = count(1)
    columns = (TextColumn("{task.description:<32}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("preparing", total=steps)

        def watch(step: str) -> None:
            bar.update(task, advance=1, description=step)
            if lines and not errors.is_terminal:
                errors.print(f"{next(number)} of {steps}: {escape(step)}", highlight=False, soft_wrap=True)

        yield watch


def table(title: str, headings: Sequence[str], names: int = 1) -> Table:
    """An empty table, its first `names` columns to the left and the others, of numbers, to the right."""
    empty = Table(title=title, title_justify="left")
    for place, heading in enumerate(headings):
        empty.add_column(heading, justify="left" if place < names else "right")
    return empty


@contextmanager
def refusals_shown() -> Iterator[None]:
    """What we refuse is said on stderr, with exit code 1 and without a traceback."""
    try:
        with optional():
            yield
    except SecureAflError as error:
        errors.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        for note in getattr(error, "__notes__", ()):
            errors.print(f"  {escape(note)}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None


def make_way(file: Path | None, option: str = "--json") -> None:
    """Before the work: what it gives can be written there, and what earlier work left there does not stay if it fails.

    Raises `BadParameter`, `FileError`.
    """
    if file is None:
        return
    if not (file.parent.is_dir() and os.access(file.parent, os.W_OK)):
        raise typer.BadParameter(f"cannot write into the folder {file.parent}", param_hint=option)
    whole.put_aside(file)


def write_json(file: Path | None, figures: dict[str, Any]) -> None:
    """Figures, as `write_text` writes."""
    if file:
        write_text(file, json.dumps(figures, indent=2) + "\n", "figures")


def write_text(file: Path, text: str, what: str) -> None:
    """Whole or not at all: written beside its place and then moved there; a pipe or device is written into."""
    place = file.resolve()
    try:
        if place.exists() and not place.is_file():
            place.write_text(text)
        else:
            beside = place.with_name(f".{place.name}.{os.getpid()}.tmp")
            try:
                beside.write_text(text)
                beside.replace(place)
            finally:
                beside.unlink(missing_ok=True)
    except OSError as error:
        errors.print(
            f"[bold red]error:[/] cannot write {escape(str(file))}: {error.strerror}", highlight=False
        )
        raise typer.Exit(1) from None
    errors.print(f"[dim]{what}: {escape(str(file))}[/]", highlight=False)
