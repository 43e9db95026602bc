"""The command line of policies: `secure-afl policy`."""

from pathlib import Path
from typing import Annotated

import typer

from secure_afl.cli.terminal import escape, refusals_shown, say
from secure_afl.protocol.files import roster as roster_file
from secure_afl.protocol.files import whole

policy = typer.Typer(help="What a client insists on, whatever the server proposes.", no_args_is_help=True)


@policy.command("new")
def new_command(
    file: Annotated[Path, typer.Argument(help="The file to write; never over another.", dir_okay=False)],
) -> None:
    """Write the default policy, each line explained, for the client's operator to own."""
    from secure_afl.protocol.files import policy as policy_file
    from secure_afl.protocol.session.policy import Policy

    with refusals_shown():
        whole.write_new(file, policy_file.text(Policy()).encode(), whole.PUBLIC)
        say(f"policy: {escape(str(file))}")


@policy.command("explain")
def explain_command(
    file: Annotated[Path, typer.Argument(help="A policy file.")],
    roster: Annotated[
        Path | None,
        typer.Option(
            help="The roster file: the output then has numbers in place of fractions.", dir_okay=False
        ),
    ] = None,
    clients: Annotated[
        int | None, typer.Option(help="How many clients there are, without a roster.", min=2)
    ] = None,
) -> None:
    """Say in words what a policy allows, what follows from it and what it does not protect."""
    from secure_afl.protocol.files import explain
    from secure_afl.protocol.files import policy as policy_file

    with refusals_shown():
        if roster and clients:
            raise typer.BadParameter("expected --roster or --clients, got both", param_hint="--clients")
        read, holders = policy_file.read(file), None
        if roster:
            parties = roster_file.read(roster)
            clients = len(parties.clients.members)
            holders = len(parties.key_holders.members) if parties.key_holders else 0
        for section in explain.explain(read, clients, holders):
            say(f"[bold]{escape(section.title)}[/]")
            for line in section.lines:
                say(f"  - {escape(line)}")
