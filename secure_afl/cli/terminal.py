"""What all commands share: where text goes, progress, refusals, and files that are whole or not there."""

import errno
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import markup
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from secure_afl.crypto.errors import SecureAflError, optional
from secure_afl.protocol.files import whole
from secure_afl.protocol.session.errors import visible


class Terminal(Console):
    """What all text goes through: no text steers the terminal, whoever it comes from."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text, kept="\n"), **options)


def escape(text: str) -> str:
    """Text as it is, in one line: no markup, and no control characters. For all that is not a command's own."""
    return markup.escape(visible(text))


console = Terminal()
errors = Terminal(stderr=True)


def say(text: str, to: Terminal = console) -> None:
    """A line of text with the markup of a command, unbroken however narrow the terminal is."""
    to.print(text, highlight=False, soft_wrap=True)


def say_what(what: str, text: str) -> None:
    """A line of text, whatever it holds, behind a word that says what it is."""
    say(f"{what:<12}{escape(text)}")


STDOUT = Path("-")
JsonFile = Annotated[
    Path | None,
    typer.Option(
        "--json",
        help="Write every figure to this file; - writes to stdout, and everything else to stderr.",
        dir_okay=False,
    ),
]


class OutputError(SecureAflError):
    """What a command gives cannot be written where it should go."""


@contextmanager
def progress(steps: int, lines: bool = False) -> Iterator[Callable[[str], None]]:
    """A bar on a terminal; `watch` moves it on by one and names the step. lines: elsewhere a line for each step."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # slow to import

    number = count(1)
    columns = (TextColumn("{task.description:<32}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("preparing", total=steps)

        def watch(step: str) -> None:
            bar.update(task, advance=1, description=step)
            if lines and not errors.is_terminal:
                say(f"{next(number)} of {steps}: {escape(step)}", errors)

        yield watch


class _Narrowing(Table):
    """A table that becomes lines, one for each cell, where its words and numbers would be cut."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for column in self.columns:
            words = [word for cell in (column.header, *column.cells) for word in _plain(cell).split()]
            column.min_width = max(map(cell_len, words), default=0)
        if sum((column.min_width or 0) + 3 for column in self.columns) < options.max_width:
            yield from super().__rich_console__(console, options)
            return
        if self.title:
            yield Text.from_markup(f"[italic]{self.title}[/]") if isinstance(self.title, str) else self.title
        headings = [str(column.header).strip() for column in self.columns]
        for cells in zip(*(column.cells for column in self.columns), strict=True):
            first, *others = zip(headings, map(str, cells), strict=True)
            yield Text.from_markup(f"{first[0]}: [bold]{first[1]}[/]" if first[0] else f"[bold]{first[1]}[/]")
            for heading, cell in others:
                if cell:
                    yield Text.from_markup(f"  {heading}: {cell}")


def _plain(cell: Any) -> str:
    return Text.from_markup(cell).plain if isinstance(cell, str) else str(cell)


def table(title: str, headings: Sequence[str], names: int = 1) -> Table:
    """An empty table, its first `names` columns to the left and the others, of numbers, to the right."""
    empty = _Narrowing(title=title, title_justify="left")
    for place, heading in enumerate(headings):
        empty.add_column(heading, justify="left" if place < names else "right")
    return empty


@contextmanager
def refusals_shown() -> Iterator[None]:
    """What we refuse is said on stderr, with exit code 1 and without a traceback; also that stdout takes no more."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.encoding.lower().startswith("utf"):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # a console of cp1252 shows Łódź as \u0141\xf3d\u017a
    try:
        with optional():
            yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise  # whoever reads has enough; `click` ends quietly
    except OSError as error:
        _unwritable(error)
    except SecureAflError as error:
        lines = "\n  ".join(map(escape, str(error).split("\n")))  # ours, of which each may quote others
        say(f"[bold red]error:[/] {lines}", errors)
        for note in getattr(error, "__notes__", ()):
            say(f"  {escape(note)}", errors)
        raise typer.Exit(1) from None
    finally:
        console.stderr = False


def _unwritable(error: OSError) -> None:
    """Raises `Exit` after it has said that stdout takes no more; any other error as it is."""
    if error.errno not in (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG) or error.filename is not None:
        raise error
    errors.print(f"[bold red]error:[/] cannot write to stdout: {error.strerror}", highlight=False)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # else Python tries again at its end, and says so
    raise typer.Exit(1) from None


def make_way(file: Path | None, option: str = "--json") -> None:
    """Before the work: what it gives can be written there, and what earlier work left there does not stay if it fails.

    Raises `BadParameter`, `FileError`.
    """
    if file == STDOUT:
        console.stderr = True
    if file is None or file == STDOUT:
        return
    if not (file.parent.is_dir() and os.access(file.parent, os.W_OK)):
        raise typer.BadParameter(f"cannot write into the folder {file.parent}", param_hint=option)
    whole.put_aside(file)


def write_json(file: Path | None, figures: dict[str, Any]) -> None:
    """Figures, as `write_text` writes."""
    text = json.dumps(figures, indent=2) + "\n"
    if file == STDOUT:
        print_data(text)
    elif file:
        write_text(file, text, "figures")


def print_data(text: str) -> None:
    """Text for programs, on stdout as it is. Raises `OutputError` for signs that the console's encoding does not have."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError as error:
        raise OutputError(
            f"expected an encoding of stdout that has {error.object[error.start]!r}, got {sys.stdout.encoding}: write to a "
            "file, or set PYTHONIOENCODING=utf-8"
        ) from None
    sys.stdout.write(text)


def write_text(file: Path, text: str, what: str) -> None:
    """Whole or not at all: written beside its place and then moved there; a pipe or device is written into."""
    place = file.resolve()
    try:
        if place.exists() and not place.is_file():
            place.write_text(text, encoding="utf-8")
        else:
            beside = place.with_name(f".{place.name}.{os.getpid()}.tmp")
            try:
                beside.write_text(text, encoding="utf-8")
                beside.replace(place)
            finally:
                beside.unlink(missing_ok=True)
    except OSError as error:
        errors.print(
            f"[bold red]error:[/] cannot write {escape(str(file))}: {error.strerror}", highlight=False
        )
        raise typer.Exit(1) from None
    errors.print(f"[dim]{what}: {escape(str(file))}[/]", highlight=False)
