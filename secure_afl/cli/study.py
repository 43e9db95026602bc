"""The command line of studies: `secure-afl study`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from secure_afl.cli.terminal import escape, refusals_shown, say

study = typer.Typer(
    help="Read what a study does, decide whether this party takes part; at the server, run it.",
    no_args_is_help=True,
)
Party = Annotated[Path, typer.Argument(help="The party's folder.", exists=True, file_okay=False)]
By = Annotated[str, typer.Option(help="Who decides.")]
Reason = Annotated[str, typer.Option(help="Why, for the audit log; no word about a patient.")]


@study.command("show")
def show_command(folder: Party) -> None:
    """Say in words what the study of a folder learns, what leaves this party, and who gets what; and whether it is approved
    here. All parties see the same digest: compare it.
    """
    from secure_afl.node.explained import sections
    from secure_afl.node.site import Folder, one_study
    from secure_afl.protocol.session.roster import grouped

    with refusals_shown():
        here = Folder(one_study(folder))
        terms, read = here.terms()
        say(f"[bold]study[/] {grouped(read.digest)}")
        for name, one in terms.parties.rosters().items():
            say(f"[bold]{escape(name)}[/] {grouped(one.digest)}")
        for section in sections(terms, read):
            say(f"[bold]{escape(section.title)}[/]")
            for line in section.lines:
                say(f"  - {escape(line)}")
        if (here.home / "identity.key").exists():
            found = here.approval()
            if found is None:
                say("not approved here: `secure-afl study approve`")
            elif found.rosters != tuple(one.digest for one in terms.parties.rosters().values()):
                say(
                    "approved here with another roster, so the node refuses: `secure-afl study approve` again"
                )
            else:
                say(escape(f"approved here by {found.by}: {found.reason}"))


@study.command("approve")
def approve_command(
    folder: Party,
    by: By,
    reason: Reason,
    study: Annotated[
        str,
        typer.Option(
            help="The digest that `study show` printed, or its first 16 digits; asked for if not given."
        ),
    ] = "",
) -> None:
    """Let this party's node take part in the study of its folder, with its present roster. The party's audit log has it, signed.
    A study or roster that changes must be approved again.
    """
    from secure_afl.node.site import Folder, one_study
    from secure_afl.protocol.session.errors import FileError
    from secure_afl.protocol.session.roster import grouped

    with refusals_shown():
        here = Folder(one_study(folder))
        terms, read = here.terms()
        rosters = terms.parties.rosters()
        digits = "".join(study.split()).lower()
        if study and not (len(digits) >= 16 and read.digest.hex().startswith(digits)):
            raise FileError(
                f"expected the folder's study {grouped(read.digest)}, or its first 16 digits, got {study!r}: read "
                "`secure-afl study show` again"
            )
        say(f"[bold]study[/] {grouped(read.digest)}")
        for name, one in rosters.items():
            say(f"[bold]{escape(name)}[/] {grouped(one.digest)}")
        if not study:
            typer.confirm(
                "Approve this study, as `secure-afl study show` says it, with these parties?", abort=True
            )
        here.approve(by, reason, (read.digest, tuple(one.digest for one in rosters.values())))
        say("approved")


@study.command("revoke")
def revoke_command(
    folder: Party,
    by: By,
    reason: Reason,
    study: Annotated[
        str, typer.Option(help="The first digits of a study's digest, if it is not the folder's present one.")
    ] = "",
    every: Annotated[bool, typer.Option("--all", help="All studies that are approved here.")] = False,
) -> None:
    """Take the approval back: from now on nothing of the study leaves, also in the middle of a session and while the node
    computes a vector. What has left stays where it is.
    """
    from secure_afl.node.site import ALL, Folder, one_study
    from secure_afl.protocol.session.roster import grouped

    with refusals_shown():
        here = Folder(folder if study or every else one_study(folder))
        found, is_logged = here.revoke(by, reason, ALL if every else study)
        for one in found:
            say(f"revoked: study {grouped(one)}")
        if not is_logged:
            say("The node is at work. It writes this into the audit log before it sends anything.")


@study.command("run")
def run_command(
    folder: Annotated[Path, typer.Argument(help="The server's folder.", exists=True, file_okay=False)],
    deadline: Annotated[float, typer.Option(help="Seconds that a phase lasts at most.", min=1)] = 300.0,
) -> None:
    """Learn the study of the server's folder, where `secure-afl serve` runs. Ends with who is in the sum and where the model is,
    or with the reason and exit code 1; what an earlier run left is put aside then, too.
    """
    from secure_afl.node.run import run
    from secure_afl.node.site import one_study

    with refusals_shown():
        at = one_study(folder.absolute())
        report = run(at, deadline)
        for number, survivors in enumerate(report["survivors"], 1):
            say(escape(f"sum {number} is over {', '.join(survivors)}"))
        _say_figures(report.get("held_out"))
        for line in report["silences"]:
            say(escape(line))
        say(escape(f"model and report: {at}"))


def _say_figures(found: dict[str, Any] | None) -> None:
    """How good the model is on held-out rows. found: of a report, None for a study without such."""
    if found is None:
        return
    if "failed" in found:
        say(escape(f"held-out rows: no figures: {found['failed']}"))
        return
    names = {
        "accuracy": "accuracy",
        "majority": "guessing the largest class",
        "balanced_accuracy": "balanced accuracy",
    }
    names |= {
        "auc": "AUC (from bins)",
        "rmse": "RMSE",
        "mae": "MAE",
        "guess_rmse": "RMSE of guessing the mean",
        "r2": "R²",
    }
    figures = [f"{text} {found[name]:.3g}" for name, text in names.items() if found.get(name) is not None]
    say(
        escape(
            f"{found['rows']:,} held-out rows of all sites: {', '.join(figures)} (held_out.json has the rest)"
        )
    )
