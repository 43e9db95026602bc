"""The command line of Flower networks: `secure-afl flower`."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.markup import escape

from secure_afl.cli.terminal import JsonFile, console, make_way, progress, refusals_shown, say, write_json
from secure_afl.crypto.hpke import Suite
from secure_afl.errors import DataError
from secure_afl.protocol.session.backend import Backend

flower = typer.Typer(
    help="Studies over Flower (extra 'flower'), see docs/deployment.md.", no_args_is_help=True
)


@flower.command("demo")
def demo_command(
    data: Annotated[str, typer.Option(help="As for `run`.")] = "heart",
    clients: Annotated[
        int | None,
        typer.Option(help="How many, where the rows are divided and have no sites of their own.", min=3),
    ] = None,
    divided: Annotated[
        str | None,
        typer.Option(
            "--partition", help="Who holds which rows, as for `run`: dirichlet:0.1 gives unlike labels."
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Learn a network, and at each client a head of its own: seeded (one sum), classwise, spatial, … "
            "(a sum a layer). Without it a ridge model.",
        ),
    ] = None,
    backend: Annotated[
        Backend, typer.Option(help="How statistics leave, as for `run`; not plain.")
    ] = Backend.MASK,
    key_holders: Annotated[int, typer.Option(help="For encrypted sums.", min=1)] = 1,
    kill: Annotated[
        int | None,
        typer.Option(help="End this client's node while vectors are collected; 0 is the first.", min=0),
    ] = None,
    deadline: Annotated[float, typer.Option(help="Seconds that a phase lasts at most.", min=1)] = 60.0,
    keep: Annotated[
        Path | None,
        typer.Option(help="A new folder for keys, tables, logs and models; else they are removed."),
    ] = None,
) -> None:
    """A SuperLink and a SuperNode for each party on this machine, with TLS and node keys: one study, its model compared
    with that of one process, and the seconds of each phase.
    """
    with refusals_shown(), TemporaryDirectory() as temporary:
        from secure_afl.simulations.data.dataset import load
        from secure_afl.simulations.data.partition import default_spec, partition
        from secure_afl.simulations.network.compared import compare, phase_table
        from secure_afl.simulations.network.laid_out import lay_out
        from secure_afl.simulations.network.loopback import Loopback

        root = (keep or Path(temporary) / "demo").absolute()
        rows = load(data)
        spec = divided or default_spec(rows)
        parts = sorted(
            partition(rows, spec, 4 if clients is None and spec != "site" else clients, seed=0),
            key=lambda part: part.client,
        )
        parties = lay_out(
            root,
            rows,
            parts,
            backend=backend,
            holders=key_holders if backend.encrypted else 0,
            encoder=encoder,
        )
        if kill is not None and kill >= len(parties.clients):
            raise DataError(f"expected a client from 0 to {len(parties.clients) - 1} to kill, got {kill}")
        with Loopback(root / "network", (*parties.clients, *parties.holders), parties.server) as network:

            def watch(line: str) -> None:
                say(escape(line.rstrip()))
                if kill is not None and ("phase: collecting" in line or "phase: encrypting" in line):
                    network.kill(kill)

            network.run(deadline=deadline, limit=30 * deadline, watch=watch)
        report = json.loads((parties.server / "report.json").read_text())
        console.print(phase_table(report), highlight=False, markup=False, soft_wrap=True)
        compare(parties, report, rows, parts, key_holders)


@flower.command("simulate")
def simulate_command(
    clients: Annotated[int, typer.Option(help="How many.", min=20)] = 100,
    length: Annotated[int, typer.Option(help="Values of the sum.", min=1)] = 10_000,
    dropout: Annotated[
        float, typer.Option(help="Share that falls silent after the keys.", min=0, max=0.3)
    ] = 0.05,
    actors: Annotated[int, typer.Option(help="Processes of Ray that answer for clients.", min=1)] = 2,
    nodes: Annotated[
        int, typer.Option(help="Nodes that carry all clients among them; 0 for one for each client.", min=0)
    ] = 0,
    json_file: JsonFile = None,
) -> None:
    """One masked sum over many clients on Flower's simulation engine (extra 'simulation'), with the sparse graph:
    checked against the plain sum, and compared with the same session without Flower where memory suffices for it.

    1,000 clients take minutes. The engine's time grows as the square of the nodes: 10,000 clients take an hour on as many
    nodes, ten minutes on 100 (docs/deployment.md).
    """
    with refusals_shown():
        from secure_afl.simulations.benchmarks.scale import Scale
        from secure_afl.simulations.network import engine

        size = Scale(clients, length, dropout, 0.05, Suite.HYBRID)
        make_way(json_file)
        if lack := size.lack:
            say(f"the session without Flower is left out: {lack}")
        with progress(engine.steps(size, not lack), lines=True) as watch:
            figures = engine.measure(size, actors, watch, nodes, compared=not lack)
        for table in engine.tables(figures):
            console.print(table)
        for name, text in engine.lines(figures).items():
            say(f"{name:<16}{escape(text)}")
        write_json(json_file, figures)


@flower.command("give-up")
def give_up_command(
    folder: Annotated[
        Path, typer.Argument(help="A party's folder, or the server's.", exists=True, file_okay=False)
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """End the sessions that were left open in a folder, where no server will: their secrets are erased, their data sets
    stay spent. A session that still runs goes on without this party.
    """
    with refusals_shown():
        from secure_afl.node.site import Folder

        if not yes:
            typer.confirm(f"Erase the secrets of all open sessions in {folder}?", abort=True)
        names = Folder(folder).give_up()
        for name in names or ["nothing was open"]:
            say(escape(f"{name} is over here" if names else name))
