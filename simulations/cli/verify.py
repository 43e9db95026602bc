"""`secure-afl verify-aggregator`: check anybody's secure sum from the command line."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from secure_afl.testing.judge import Report

_FACTORY = "MODULE:FACTORY, a Python system (see docs/verification/ten-minutes.md); modules of this folder are found."


def verify_aggregator(
    target: Annotated[str | None, typer.Argument(metavar="[MODULE:FACTORY]", help=_FACTORY)] = None,
    command: Annotated[str | None, typer.Option(help="A program that answers requests, a line each.")] = None,
    url: Annotated[str | None, typer.Option(help="A server that answers requests by POST.")] = None,
    record: Annotated[
        Path | None, typer.Option(help="Judge this record of sessions; nothing is run.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="A property; may be repeated.")] = None,
    seconds: Annotated[float, typer.Option(help="Time limit for each property.")] = 10.0,
    examples: Annotated[int, typer.Option(help="Random schedules for each property that uses them.")] = 25,
    seed: Annotated[int, typer.Option(help="Seed of data, schedules and draws.")] = 0,
    replay: Annotated[str | None, typer.Option(help="Run this schedule only, from a failure's line.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Write the record of all sessions here.")] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write the report as JSON.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the report as JUnit XML.")] = None,
    page: Annotated[Path | None, typer.Option("--html", help="Write the report as a page.")] = None,
) -> None:
    """Check a secure sum against every property; exit code 1 if one failed.

    The system is a Python object, a program, a server, or a record of sessions that were held elsewhere.
    """
    if sum(one is not None for one in (target, command, url, record)) != 1:
        raise typer.BadParameter("expected one of MODULE:FACTORY, --command, --url and --record")
    from secure_afl.testing import report as reports
    from secure_afl.testing.judge import judge_record
    from secure_afl.testing.record import RecordError, read
    from secure_afl.testing.systems import CrashedError

    options: dict[str, Any] = {
        "seconds": seconds,
        "examples": examples,
        "seed": seed,
        "replay": replay,
        "keep": keep,
    }
    try:
        if record is not None:
            made = judge_record(read(record), only)
        else:
            made = _checked(target, command, url, only, options)
    except (RecordError, CrashedError, ValueError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(str(made))
    for path, form in ((as_json, reports.as_json), (junit, reports.as_junit), (page, reports.as_html)):
        if path is not None:
            path.write_bytes(form(made))
    raise typer.Exit(1 if made.failed else 0)


def _checked(
    target: str | None, command: str | None, url: str | None, only: list[str] | None, options: dict[str, Any]
) -> "Report":
    from secure_afl.testing.check import check_aggregator
    from secure_afl.testing.systems import Program, RemoteTarget, url_asker

    def progress(row: Any) -> None:
        typer.echo(f"{row.seconds:6.1f} s  {row.verdict:11}  {row.name}", err=True)

    options |= {"on_fail": "collect", "watch": progress, "only": only or None}
    if target is not None:
        return check_aggregator(_factory(target), **options)
    if url is not None:
        return check_aggregator(RemoteTarget(url_asker(url), url), **options)
    assert command is not None
    program = Program(command)
    try:
        return check_aggregator(RemoteTarget(program, command), **options)
    finally:
        program.close()


def _factory(target: str) -> Any:
    """Raises ValueError for what is no MODULE:FACTORY."""
    from importlib import import_module

    module, colon, name = target.partition(":")
    if not (module and colon and name):
        raise ValueError(f"expected MODULE:FACTORY, got {target!r}")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"expected a factory at {target!r}: {error}") from None
