"""The command line of the benchmarks: `secure-afl bench`."""

from pathlib import Path
from typing import Annotated

import typer

from secure_afl.cli.terminal import console, make_way, progress, refusals_shown, write_json
from secure_afl.crypto.hpke import Suite

bench = typer.Typer(
    help="Measure; every benchmark prints ratios and writes a JSON file.", no_args_is_help=True
)


@bench.command("masking")
def bench_masking_command(
    json_file: Annotated[Path, typer.Option("--json", help="Where the figures go.", dir_okay=False)] = Path(
        "bench-masking.json"
    ),
    repeats: Annotated[int, typer.Option(help="Repeats of each figure; medians are shown.", min=1)] = 3,
) -> None:
    """Client masking rate against raw AES-256-CTR."""
    with refusals_shown():
        from secure_afl.simulations.benchmarks import masking

        make_way(json_file)
        figures = masking.measure(repeats)
        console.print(masking.shown(figures))
        write_json(json_file, figures)


@bench.command("scale")
def bench_scale_command(
    json_file: Annotated[Path, typer.Option("--json", help="Where the figures go.", dir_okay=False)] = Path(
        "bench-scale.json"
    ),
    clients: Annotated[
        list[int] | None,
        typer.Option(
            help="How many; give it several times for a curve.", min=20, show_default="100 to 10,000"
        ),
    ] = None,
    length: Annotated[int, typer.Option(help="Values of the sum.", min=1)] = 10_000,
    dropout: Annotated[
        float, typer.Option(help="Share that falls silent after the keys.", min=0, max=0.3)
    ] = 0.05,
    corrupted: Annotated[
        float, typer.Option(help="Share that may collude with the server.", min=0, max=0.3)
    ] = 0.05,
    suite: Annotated[Suite, typer.Option(help="Keys of the clients.")] = Suite.HYBRID,
    plot: Annotated[
        Path | None, typer.Option(help="Draw cost against clients into this file.", dir_okay=False)
    ] = None,
) -> None:
    """One sum over up to thousands of clients with the sparse graph, every client simulated in full."""
    with refusals_shown():
        from secure_afl.simulations.benchmarks import scale

        make_way(json_file)
        make_way(plot, "--plot")
        counts = clients or [100, 300, 1000, 3000, 10_000]
        sizes = [scale.Scale(n, length, dropout, corrupted, suite) for n in counts]
        with progress(scale.steps(sizes), lines=True) as watch:
            figures = scale.measure(sizes, watch)
        for table in scale.tables(figures):
            console.print(table)
        write_json(json_file, figures)
        if plot:
            scale.plot(figures, plot)


@bench.command("homomorphic")
def bench_homomorphic_command(
    json_file: Annotated[Path, typer.Option("--json", help="Where the figures go.", dir_okay=False)] = Path(
        "bench-homomorphic.json"
    ),
    repeats: Annotated[int, typer.Option(help="Repeats of each figure; medians are shown.", min=1)] = 3,
) -> None:
    """Bytes and CPU of encrypted sums beside the form in which NVFlare uses TenSEAL."""
    with refusals_shown():
        from secure_afl.simulations.benchmarks import homomorphic  # loads TenSEAL

        make_way(json_file)
        with progress(homomorphic.steps(repeats)) as watch:
            figures = homomorphic.measure(repeats, watch)
        console.print(homomorphic.shown(figures))
        write_json(json_file, figures)
