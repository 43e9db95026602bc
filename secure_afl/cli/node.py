"""The long-lived programs of a deployment: `secure-afl node` at a party, `secure-afl serve` at the server."""

import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from secure_afl.cli.terminal import console, escape, refusals_shown, say
from secure_afl.crypto.errors import missing


def node(
    folder: Annotated[Path, typer.Argument(help="The party's folder.", exists=True, file_okay=False)],
) -> None:
    """Answer the server's messages for a party, until SIGTERM, with the code that is installed here and no other. The folder's
    node.toml says where the server's public door is. See docs/deployment.md.
    """
    with refusals_shown():
        _check_flower()
        from secure_afl.node.node import Node  # and with it Flower

        Node(folder.absolute()).run()


def serve(
    folder: Annotated[Path, typer.Argument(help="The server's folder.", exists=True, file_okay=False)],
) -> None:
    """Run the server's SuperLink until SIGTERM: a public door, where registered nodes come in, and a private one on loopback,
    where studies are started. The folder's server.toml says where. See docs/deployment.md.
    """
    with refusals_shown():
        _check_flower()
        from secure_afl.node import server

        server.serve(folder.absolute())


def check(
    folder: Annotated[
        Path, typer.Argument(help="A party's folder, or the server's.", exists=True, file_okay=False)
    ],
) -> None:
    """Look for everything that would keep a party, or the server, from a session: keys, roster, policy, study, data, ledger,
    approval, server, certificate, clock. Ends in "ready", or in each fault with its remedy and exit code 1; what is wrong
    with the table is said in full, here and nowhere else. Nothing is written and nothing leaves.
    """
    with refusals_shown():
        _check_flower()
        from secure_afl.node.preflight import looked_at
        from secure_afl.node.site import study_folders

        faults = 0
        for study in study_folders(folder.absolute()):
            if study != folder.absolute():
                console.print(f"[bold]{escape(study.name)}[/]", highlight=False)
            for one in looked_at(study):
                mark = "[bold red]fault[/]" if one.fault else "[green]ok[/]   "
                say(f"{mark} {escape(f'{one.what}: {one.said}')}")
                for note in one.notes:
                    say(f"        {escape(note)}")
                faults += one.fault
        console.print("ready" if not faults else f"not ready: {faults} to put right", highlight=False)
        if faults:
            raise typer.Exit(1)


def status(
    folder: Annotated[
        Path, typer.Argument(help="A party's folder, or the server's.", exists=True, file_okay=False)
    ],
    watch: Annotated[
        bool, typer.Option("--watch", help="Print it again every two seconds, until Ctrl-C.")
    ] = False,
    page: Annotated[
        str,
        typer.Option(
            help="Show it as a web page on this machine alone, at ADDRESS:PORT such as 127.0.0.1:8002."
        ),
    ] = "",
) -> None:
    """Where a party, or the server, stands: its study, node, the run that is under way with who has answered, sessions, data sets
    that were used, models, past runs, and the last of what its audit log tells. Nothing is changed.
    """
    with refusals_shown():
        from secure_afl.node.status import StatusServer, sections

        if page:
            with StatusServer(folder.absolute(), page) as server:
                at = "{}:{}".format(*server.server_address[:2])
                console.print(f"http://{at}/ until Ctrl-C", highlight=False)
                with suppress(KeyboardInterrupt):
                    server.serve_forever()
            return
        with suppress(KeyboardInterrupt):
            while True:
                found = sections(folder.absolute())
                if watch:
                    console.clear()
                for section in found:
                    console.print(f"[bold]{escape(section.title)}[/]", highlight=False)
                    for line in section.lines:
                        say(f"  {escape(line)}")
                if not watch:
                    return
                time.sleep(2.0)


def _check_flower() -> None:
    if find_spec("flwr") is None:
        raise missing("flwr")
