"""The command line of the experiments: `secure-afl experiment`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from secure_afl.errors import DataError
from secure_afl.simulations.experiments import encoders, headline, heterogeneity, plots, security
from secure_afl.simulations.experiments.links import Link
from secure_afl.simulations.experiments.problems import PROBLEMS
from secure_afl.simulations.terminal import (
    JsonFile,
    check_writable,
    console,
    errors,
    progress,
    refusals_shown,
    write_json,
)

experiment = typer.Typer(
    help="Compare methods on real data: tables, and on request a JSON file and plots. These take minutes to hours.",
    no_args_is_help=True,
)
Seeds = Annotated[int, typer.Option(help="Repeats, each with its own partition and draws.", min=1)]
PlotFolder = Annotated[
    Path | None, typer.Option("--plot", help="Write plots into this folder.", file_okay=False)
]
Megabits = Annotated[float, typer.Option(help="Assumed bandwidth of a client, Mbit/s each way.", min=0.001)]
Latency = Annotated[float, typer.Option(help="Assumed latency, ms one way.", min=0)]
_LINK = Link()


@experiment.command("headline")
def headline_command(
    problem: Annotated[
        list[str] | None,
        typer.Option(help=f"One of {', '.join(PROBLEMS)}; can be given several times. Default: all."),
    ] = None,
    seeds: Seeds = 5,
    megabits: Megabits = _LINK.megabits,
    latency: Latency = 1e3 * _LINK.latency,
    json_file: JsonFile = None,
    plot: PlotFolder = None,
) -> None:
    """Training time and accuracy of FedACnnL and pFedACnnL, under masks, and of gradient methods.

    About 2 minutes a seed for each problem on one core, 5 for the CNN.
    """
    with refusals_shown():
        names = list(dict.fromkeys(problem or PROBLEMS))
        if unknown := [name for name in names if name not in PROBLEMS]:
            raise DataError(f"expected problems out of {', '.join(PROBLEMS)}, got {unknown[0]!r}")
        link = Link(megabits, latency / 1e3)
        figures = _measured(
            headline.steps(names, seeds),
            lambda watch: headline.measure(names, seeds, link, watch),
            json_file,
            plot,
        )
        for table in headline.tables(figures):
            console.print(table)
        _plotted(plots.headline, figures, plot)


@experiment.command("encoders")
def encoders_command(seeds: Seeds = 5, json_file: JsonFile = None, plot: PlotFolder = None) -> None:
    """What hidden layers are trained towards: all encoders on MNIST-5k. About 4 minutes a seed."""
    with refusals_shown():
        figures = _measured(
            encoders.steps(seeds), lambda watch: encoders.measure(seeds, watch), json_file, plot
        )
        console.print(encoders.table(figures))
        _plotted(plots.encoders, figures, plot)


@experiment.command("heterogeneity")
def heterogeneity_command(seeds: Seeds = 5, json_file: JsonFile = None, plot: PlotFolder = None) -> None:
    """Accuracy against how much clients' labels differ. About 4 minutes a seed."""
    with refusals_shown():
        figures = _measured(
            heterogeneity.steps(seeds), lambda watch: heterogeneity.measure(seeds, watch), json_file, plot
        )
        console.print(heterogeneity.table(figures))
        _plotted(plots.heterogeneity, figures, plot)


@experiment.command("security")
def security_command(
    megabits: Megabits = _LINK.megabits, latency: Latency = 1e3 * _LINK.latency, json_file: JsonFile = None
) -> None:
    """What masks cost: the same networks under masks and in the clear. About 4 minutes."""
    with refusals_shown():
        link = Link(megabits, latency / 1e3)
        figures = _measured(security.steps(), lambda watch: security.measure(link, watch), json_file, None)
        console.print(security.table(figures))


def _measured(
    steps: int,
    measure: Callable[[Callable[[str], None]], dict[str, Any]],
    json_file: Path | None,
    plot: Path | None,
) -> dict[str, Any]:
    """Checks that results can be written, measures with a bar, writes the figures."""
    check_writable(json_file)
    if plot:
        plot.mkdir(parents=True, exist_ok=True)
        check_writable(plot / "plot.png")
    with progress(steps) as watch:
        figures = measure(watch)
    write_json(json_file, figures)
    return figures


def _plotted(
    draw: Callable[[dict[str, Any], Path], list[Path]], figures: dict[str, Any], plot: Path | None
) -> None:
    for file in draw(figures, plot) if plot else ():
        errors.print(f"[dim]plot: {escape(str(file))}[/]", highlight=False)
