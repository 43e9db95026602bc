"""The command line of a client's ledger: `secure-afl ledger`."""

from pathlib import Path
from typing import Annotated

import typer

from secure_afl.cli.terminal import escape, refusals_shown, say

ledger = typer.Typer(
    help="What a client remembers of its data sets, so that no two sums can be subtracted.",
    no_args_is_help=True,
)


@ledger.command("renew")
def renew_command(
    folder: Annotated[Path, typer.Argument(help="A client's folder.", exists=True, file_okay=False)],
    data_set: Annotated[str, typer.Argument(help="The data set's name, as data.toml had it.")],
    may_expose: Annotated[
        bool,
        typer.Option(
            "--may-expose-this-data-set",
            help="Renew it although a vector of it left. A server that opened that sum, whatever it said of it, can leave "
            "this client out of the next one: the difference of the two is this client's statistic, exactly.",
        ),
    ] = False,
) -> None:
    """Let a data set serve another session. Its party's audit log notes that. Not while a session is under way."""
    from secure_afl.node.site import Folder

    with refusals_shown():
        say(escape(Folder(folder).renew(data_set, may_expose=may_expose)))


@ledger.command("show")
def show_command(
    folder: Annotated[Path, typer.Argument(help="A client's folder.", exists=True, file_okay=False)],
) -> None:
    """Which data sets and changes of rows were used, in which session, and whether the audit log names them: to others it shows
    a commitment, which this party's key opens here.
    """
    from secure_afl.node.site import Folder

    with refusals_shown():
        found = Folder(folder).used()
    for one in found:
        left = "a vector left" if one.uploaded else "no vector left"
        named = "the audit log names it" if one.logged else "the audit log does not name it"
        say(escape(f"{one.name!r}: session {one.session}, {left}; {named}."))
    if not found:
        say("No data set was used yet.")


@ledger.command("begin-anew")
def begin_anew_command(
    folder: Annotated[Path, typer.Argument(help="A party's folder.", exists=True, file_okay=False)],
    by: Annotated[str, typer.Option(help="Who decides.")],
    reason: Annotated[str, typer.Option(help="Why, for the audit log; no word about a patient.")],
) -> None:
    """Begin another state.db in the place of one that is lost, or an old copy. No session of before is gone on with. Which data
    sets were used is lost with it: give none of before to a session again.
    """
    from secure_afl.node.site import Folder

    with refusals_shown():
        aside = Folder(folder).begin_anew(by, reason)
        kept = f"; the old file is {aside}, for nobody to use" if aside else ""
        say(escape(f"begun anew{kept}. Give data.toml rows that no session had before, under a new name."))


def budget_command(
    folder: Annotated[Path, typer.Argument(help="A client's folder.", exists=True, file_okay=False)],
) -> None:
    """What each data set has spent of its differential privacy over all sessions with noise, and what is left."""
    from secure_afl.node.site import Folder

    with refusals_shown():
        budget, found = Folder(folder).spent()
    if budget is None:
        say(
            "No budget: a data set serves one session. budget_epsilon in policy.toml lets it serve several with noise."
        )
    else:
        say(f"Budget of each data set: ε = {budget.epsilon:g} at δ = {budget.delta:g}.")
    for one in found:
        if not one.sessions:
            say(escape(f"{one.data_set!r} was used without noise: it serves no other session."))
            continue
        left = f"; ε = {max(budget.epsilon - one.epsilon, 0.0):.3g} is left" if budget else ""
        spent = f"ε = {one.epsilon:.3g} at δ = {one.delta:g} in {one.sessions} session(s)"
        say(escape(f"{one.data_set!r} has spent {spent}{left}."))
    if not found:
        say("No data set was used yet.")
