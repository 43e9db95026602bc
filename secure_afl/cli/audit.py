"""`secure-afl audit`: whether audit logs hold, and what they tell."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secure_afl.cli import terminal
from secure_afl.cli.terminal import console, errors, escape, make_way, refusals_shown, say, write_text
from secure_afl.protocol.files import roster as roster_file

if TYPE_CHECKING:
    from secure_afl.protocol.audit.check import Report
    from secure_afl.protocol.audit.story import Story

audit = typer.Typer(help="Audit logs: check them and read them.", no_args_is_help=True)

_UNPINNED = (
    "Keys are those that the logs and the sessions' rosters name: give the roster that you know (--roster), or compare "
    "them with keys that you know from the parties. That of the server stands in no roster."
)
_PINNED = "Clients and key holders have the keys of the given roster. That of the server stands in no roster."
_NOTES_SHOWN = 20


@audit.callback()
def _group() -> None:
    """Audit logs: check them and read them."""


@audit.command("verify")
def verify_command(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Audit logs of one or more parties; the more, the more can be compared.",
            exists=True,
            dir_okay=False,
            readable=True,
        ),
    ],
    roster: Annotated[
        Path | None,
        typer.Option(help="The roster file as you have it; keys in the logs must be those.", dir_okay=False),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write all of it as one page to this file.", dir_okay=False)
    ] = None,
) -> None:
    """Check chains, signatures and that the logs agree; make sums again whose evidence is in the folder `evidence` beside a log;
    print what left each client.

    Exit code 1 if anything does not hold; file and line are named.
    """
    from secure_afl.protocol.audit.check import verify
    from secure_afl.protocol.audit.log import kept
    from secure_afl.protocol.audit.story import stories

    with refusals_shown():
        make_way(html, "--html")
        parties = roster_file.read(roster) if roster else None
        report = verify({str(file): file.read_bytes() for file in files}, parties, kept(files))
        keys = _PINNED if parties else _UNPINNED
        told = stories(report)
        if report.findings:
            errors.print("[bold red]some checks failed: what follows may not be what happened[/]")
        for story in told:
            _print_story(story)
        _print_logs(report, keys)
        _print_report(report)
        if html:
            write_text(html, page(report, told, keys), "page")
    if report.findings:
        raise typer.Exit(1)


@audit.command("rotate")
def rotate_command(
    folder: Annotated[Path, typer.Argument(help="The party's folder.", exists=True, file_okay=False)],
) -> None:
    """Begin another file of a party's audit log, which continues the one that is there: that one may go to an archive, for
    `verify` asks for all of them. Not while a session is under way.
    """
    with refusals_shown():
        from secure_afl.node.site import Folder

        old = Folder(folder).rotate()
        say(escape(f"the log so far is {old}; keep it: `audit verify` needs all files of a log"))


@audit.command("record")
def record_command(
    folder: Annotated[
        Path, typer.Argument(help="A party's folder, or the server's.", exists=True, file_okay=False)
    ],
    files: Annotated[
        list[Path],
        typer.Argument(help="Audit logs of all parties.", exists=True, dir_okay=False, readable=True),
    ],
    html: Annotated[Path, typer.Option(help="The page to write.", dir_okay=False)],
    language: Annotated[str, typer.Option(help="Of the page's texts: de, en or fr.")] = "en",
) -> None:
    """Write a page for a data-protection file: purpose, legal basis, columns, what left each party and how it was protected,
    who got the result, who approved. The legal fields are those of project.toml.

    Exit code 1 if anything in the logs does not hold; the page says so, too.
    """
    with refusals_shown():
        from secure_afl.cli import pages  # jinja2, which a node does without
        from secure_afl.federation.record import record

        make_way(html, "--html")
        made = record(folder, {str(file): file.read_bytes() for file in files}, language)
        write_text(html, pages.page(__package__, "record.html", page=made), "page")
        say(escape(made.verdict[1]))
    if made.verdict[0] == "fails":
        raise typer.Exit(1)


def page(report: "Report", told: "tuple[Story, ...]", keys: str) -> str:
    """One HTML file that needs nothing else. Names and texts out of logs are escaped."""
    from secure_afl.cli import pages  # jinja2, only for who wants a page

    return pages.page(__package__, "audit.html", report=report, stories=told, keys=keys)


def _print_story(story: "Story") -> None:
    console.print(f"[bold]session {escape(story.name)}[/]", highlight=False)
    for word, text in story.facts:
        console.print(f"  [dim]{escape(word)}:[/] {escape(text)}", highlight=False)
    table = terminal.table(
        "what left each client", ("client", "when, UTC", "what", "form", "summed over", "bytes"), 5
    )
    for account in story.accounts:
        for one in account.uploads:
            words = (account.client, f"{one.time:%m-%d %H:%M}", one.statistic, one.form, one.over)
            table.add_row(*map(escape, words), f"{one.size:,}")
    console.print(table)
    for account in story.accounts:
        console.print(f"[bold]{escape(account.client)}[/]", highlight=False)
        for one in account.uploads:
            console.print(f"  {escape(one.sentence)}", highlight=False)
        if not account.uploads:
            console.print("  No vector left it.", highlight=False)
        for text in account.besides:
            console.print(f"  [dim]{escape(text)}[/]", highlight=False)
    console.print(f"[dim]{escape(story.caution)}[/]\n", highlight=False)


def _print_logs(report: "Report", keys: str) -> None:
    table = terminal.table("the logs", ("party", "role", "key", "file", "entries"), 4)
    for log in report.logs:
        words = (log.begun.party, log.begun.role.value, f"{log.begun.key.hex()[:16]}…", Path(log.file).name)
        table.add_row(*map(escape, words), str(len(log.chain.entries)))
    console.print(table)
    console.print(f"[dim]{keys}[/]", highlight=False)


def _print_report(report: "Report") -> None:
    for note in report.notes[:_NOTES_SHOWN]:
        say(f"[yellow]note:[/] {escape(str(note))}")
    if len(report.notes) > _NOTES_SHOWN:
        console.print(f"[yellow]note:[/] and {len(report.notes) - _NOTES_SHOWN} more", highlight=False)
    for finding in report.findings:
        say(f"[bold red]does not hold:[/] {escape(str(finding))}", errors)
    if report.missing and not report.findings:
        say(
            "[yellow]what is there is signed and in its place, and the logs agree; not checked, as no sound log of them is "
            f"there:[/] {escape(', '.join(report.missing))}"
        )
    elif not report.findings:
        console.print("[green]every line is signed and in its place, and the logs agree[/]", highlight=False)
