"""How a federation comes together, typed: `secure-afl provision`, `members`, `join`, `accept`."""

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secure_afl.cli.keys import ask_passphrase
from secure_afl.cli.terminal import refusals_shown, say_what
from secure_afl.protocol.files.keys import PASSPHRASE_FILE
from secure_afl.protocol.session.roster import grouped

if TYPE_CHECKING:
    from secure_afl.federation.coordinator import Taken
    from secure_afl.federation.papers import Edition

members = typer.Typer(help="At the coordinator: who is in the roster.", no_args_is_help=True)
Coordinator = Annotated[
    Path, typer.Argument(help="The coordinator's folder, made by `provision`.", exists=True, file_okay=False)
]


def provision(
    project: Annotated[
        Path,
        typer.Argument(help="The project's file, see docs/coordinating.md.", exists=True, dir_okay=False),
    ],
    folder: Annotated[
        Path,
        typer.Argument(
            help="The coordinator's new folder; the server's folder is made inside.", file_okay=False
        ),
    ],
) -> None:
    """Found a federation: make a kit for each party, to send, and the server's folder. The parties answer with
    `secure-afl join`; `secure-afl members admit` takes their answers in.
    """
    from secure_afl.federation import coordinator, papers

    with refusals_shown():
        kits = coordinator.provision(project, folder)
        first = papers.read_kit(kits[0])
        _say_studies(coordinator.digests(folder, (one.name for one in first.studies)))
        say_what("coordinator", papers.fingerprint("coordinator", first.coordinator))
        for kit in kits:
            say_what("kit", f"{kit}: send it to {papers.read_kit(kit).name}")
        say_what("server", f"{folder / 'server'}: move it to the server's machine, or leave it")
        say_what("next", f"secure-afl members admit {folder} ANSWER.json …, with the parties' answers")


@members.command("admit")
def admit_command(
    folder: Coordinator,
    answers: Annotated[
        list[Path], typer.Argument(help="What parties answered.", exists=True, dir_okay=False)
    ],
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="A party's new keys take the place of those that it answered with before."
        ),
    ] = False,
    reason: Annotated[str, typer.Option(help="What changed, for all parties to read.")] = "parties answered",
) -> None:
    """Take parties' answers in, and say whose fingerprint each has, to compare by telephone. With the last answer the roster is
    signed: send it to every party.
    """
    from secure_afl.federation import coordinator

    with refusals_shown():
        _show_taken(coordinator.take_in(folder, answers, reason, replace=replace))


@members.command("update")
def update_command(
    folder: Coordinator,
    reason: Annotated[str, typer.Option(help="What changed, for all parties to read.")],
) -> None:
    """After names were added to the folder's project.toml, or taken out: make kits for new parties, shut out the nodes of those
    that left, and sign a new roster once all have answered.
    """
    from secure_afl.federation import coordinator, papers

    with refusals_shown():
        kits, taken = coordinator.follow(folder, reason)
        for kit in kits:
            say_what("kit", f"{kit}: send it to {papers.read_kit(kit).name}")
        _show_taken(taken)


@members.command("certificate")
def certificate_command(folder: Coordinator) -> None:
    """Make the server a new certificate by the same authority; a server that runs shows it within seconds, and parties do
    nothing.
    """
    from secure_afl.federation import coordinator

    with refusals_shown():
        say_what("certificate", f"{coordinator.certify(folder)}: with server.key, for the server's folder")


def join(
    kit: Annotated[Path, typer.Argument(help="What the coordinator sent.", exists=True, dir_okay=False)],
    folder: Annotated[Path, typer.Argument(help="This party's new folder.", file_okay=False)],
    table: Annotated[
        str, typer.Option(help="A client's rows: a file, from the folder or absolute.")
    ] = "rows.csv",
    data_set: Annotated[
        str,
        typer.Option(
            help="Your name for these rows in the ledger; they serve one session. Default: the table's name and today's date."
        ),
    ] = "",
    encrypt: Annotated[
        bool,
        typer.Option(
            "--passphrase",
            help=f"Encrypt the identity. Asks at the terminal, or reads the file that {PASSPHRASE_FILE} names.",
        ),
    ] = False,
) -> None:
    """Answer a coordinator's kit: make this party's folder and keys, and one public file to send back. Prints the fingerprints
    to compare by telephone. Nothing is sent.
    """
    from secure_afl.federation import party

    with refusals_shown():
        word = ask_passphrase(new=True) if encrypt else None
        name = data_set or f"{table}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
        joined = party.join(kit, folder, table, name, word)
        say_what("party", joined.name)
        say_what("fingerprint", joined.fingerprint)
        say_what("coordinator", f"{joined.coordinator}: compare both with the coordinator by telephone")
        _say_studies(joined.studies)
        say_what("answer", f"{joined.answer}: send it to the coordinator; it is public")
        say_what("next", f"secure-afl accept {folder} 1.json, with the roster that comes back")


def accept(
    folder: Annotated[Path, typer.Argument(help="This party's folder.", exists=True, file_okay=False)],
    roster: Annotated[
        Path, typer.Argument(help="The roster that the coordinator signed.", exists=True, dir_okay=False)
    ],
) -> None:
    """Accept a roster: it must be the coordinator's, for this study, newer than the last one, and name this party with its
    present key. The study must be approved again with it.
    """
    from secure_afl.federation import party
    from secure_afl.node.site import study_folder

    with refusals_shown():
        edition = party.accept(folder, roster)
        _show_roster(edition)
        for name, _ in edition.studies:
            at = study_folder(folder, name)
            say_what("next", f"secure-afl study show {at}, then secure-afl study approve {at}")


def _show_taken(taken: "Taken") -> None:
    for name, fingerprint in taken.answered.items():
        say_what("answer", name)
        say_what("", fingerprint)
    if taken.missing:
        say_what("missing", ", ".join(taken.missing))
    if taken.edition:
        say_what("roster", f"{taken.file}: send it to every party")
        _show_roster(taken.edition)


def _show_roster(edition: "Edition") -> None:
    say_what("number", f"{edition.number}, {edition.why}")
    _say_studies(edition.studies)
    for role, roster in edition.parties.rosters().items():
        say_what(role, ", ".join(member.name for member in roster.members))
        say_what("fingerprint", f"{roster.fingerprint}: all parties compare it by telephone")


def _say_studies(studies: tuple[tuple[str, bytes], ...]) -> None:
    for name, digest in studies:
        say_what("study", f"{name} {grouped(digest)}".strip())
