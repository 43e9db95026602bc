"""The command line of the experiments: `secure-afl experiment`."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from secure_afl.cli.terminal import (
    JsonFile,
    console,
    errors,
    make_way,
    progress,
    refusals_shown,
    write_json,
)
from secure_afl.errors import DataError
from secure_afl.simulations.experiments.links import Link

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


Measure = Callable[[Callable[[str], None]], dict[str, Any]]
NAMES = ("headline", "rivals", "features", "encoders", "heterogeneity", "security", "privacy", "personal")
"""The experiments, as figures and modules call them."""


@experiment.command("headline")
def headline_command(
    problem: Annotated[
        list[str] | None,
        typer.Option(
            help="One of mnist-linear, mnist-mlp, mnist-cnn, synthetic-linear, synthetic-mlp; can be given several times. "
            "Default: all."
        ),
    ] = None,
    seeds: Seeds = 5,
    megabits: Megabits = _LINK.megabits,
    latency: Latency = 1e3 * _LINK.latency,
    json_file: JsonFile = None,
    plot: PlotFolder = None,
) -> None:
    """Training time and accuracy of FedACnnL and pFedACnnL, under masks, and of gradient methods.

    On one core 2 to 6 minutes a seed and problem, 10 for Synthetic.
    """
    with refusals_shown():
        from secure_afl.simulations.experiments import headline
        from secure_afl.simulations.experiments.problems import PROBLEMS

        names = list(dict.fromkeys(problem or PROBLEMS))
        if unknown := [name for name in names if name not in PROBLEMS]:
            raise DataError(f"expected problems out of {', '.join(PROBLEMS)}, got {unknown[0]!r}")
        link = Link(megabits, latency / 1e3)
        steps = headline.steps(names, seeds)
        _run(steps, lambda watch: headline.measure(names, seeds, link, watch), json_file, plot)


@experiment.command("rivals")
def rivals_command(
    seeds: Seeds = 3,
    megabits: Megabits = _LINK.megabits,
    latency: Latency = 1e3 * _LINK.latency,
    json_file: JsonFile = None,
    plot: PlotFolder = None,
) -> None:
    """Analytic rivals as published beside ours under masks, on the same features. About a minute a seed."""
    with refusals_shown():
        from secure_afl.simulations.experiments import rivals

        link = Link(megabits, latency / 1e3)
        _run(rivals.steps(seeds), lambda watch: rivals.measure(seeds, link, watch), json_file, plot)


@experiment.command("features")
def features_command(seeds: Seeds = 5, json_file: JsonFile = None) -> None:
    """What features of one sum are worth, on MNIST-5k and on heart. Two minutes a seed."""
    with refusals_shown():
        from secure_afl.simulations.experiments import features

        _run(features.steps(seeds), lambda watch: features.measure(seeds, watch), json_file, None)


@experiment.command("encoders")
def encoders_command(seeds: Seeds = 5, json_file: JsonFile = None, plot: PlotFolder = None) -> None:
    """What hidden layers are trained towards: all encoders on MNIST-5k. About 4 minutes a seed."""
    with refusals_shown():
        from secure_afl.simulations.experiments import encoders

        _run(encoders.steps(seeds), lambda watch: encoders.measure(seeds, watch), json_file, plot)


@experiment.command("heterogeneity")
def heterogeneity_command(seeds: Seeds = 5, json_file: JsonFile = None, plot: PlotFolder = None) -> None:
    """Accuracy against how much clients' labels differ. About 4 minutes a seed."""
    with refusals_shown():
        from secure_afl.simulations.experiments import heterogeneity

        _run(heterogeneity.steps(seeds), lambda watch: heterogeneity.measure(seeds, watch), json_file, plot)


@experiment.command("security")
def security_command(
    megabits: Megabits = _LINK.megabits, latency: Latency = 1e3 * _LINK.latency, json_file: JsonFile = None
) -> None:
    """What masks cost: the same networks under masks and in the clear. About 4 minutes."""
    with refusals_shown():
        from secure_afl.simulations.experiments import security

        link = Link(megabits, latency / 1e3)
        _run(security.steps(), lambda watch: security.measure(link, watch), json_file, None)


@experiment.command("privacy")
def privacy_command(
    seeds: Seeds = 5,
    epsilon: Annotated[
        list[float] | None,
        typer.Option(
            help="1 is strong, 10 weak; can be given several times.", show_default="0.5, 1, 2, 4, 8, 16"
        ),
    ] = None,
    delta: Annotated[
        float, typer.Option(help="The probability that it fails, well below 1 / number of rows.")
    ] = 1e-5,
    json_file: JsonFile = None,
    plot: PlotFolder = None,
) -> None:
    """Accuracy against epsilon, by whom the noise is trusted to. One to two minutes a seed."""
    with refusals_shown():
        from secure_afl.simulations.experiments import privacy

        _run(
            privacy.steps(seeds),
            lambda watch: privacy.measure(seeds, watch, epsilon or privacy.EPSILONS, delta),
            json_file,
            plot,
        )


@experiment.command("personal")
def personal_command(
    seeds: Annotated[int, typer.Option(help="Repeats, each with its own test rows.", min=1)] = 20,
    json_file: JsonFile = None,
) -> None:
    """What joining is worth to four hospitals: models alone, together and personal. About a second a seed."""
    with refusals_shown():
        from secure_afl.simulations.experiments import personal

        _run(personal.steps(seeds), lambda watch: personal.measure(seeds, watch), json_file, None)


@experiment.command("show")
def show_command(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="What --json has written.", exists=True, dir_okay=False),
    ],
    plot: PlotFolder = None,
) -> None:
    """Tables and plots of figures that were measured before; measures nothing.

    Several files of headline and rivals are drawn together: all methods on the same rows in one picture.
    """
    with refusals_shown():
        all_figures = [_read(file) for file in files]
        drawn = plot if len(files) == 1 else None
        for file, figures in zip(files, all_figures, strict=True):
            if plot and not drawn and figures["experiment"] not in ("headline", "rivals"):
                raise DataError(
                    f"{file.name}: only headline and rivals are drawn together; show this file alone"
                )
        _check_folder(plot)
        for figures in all_figures:
            _show(figures, drawn)
        if plot and not drawn:
            from secure_afl.simulations.experiments.plots import methods

            _say(methods(all_figures, plot))


def _read(file: Path) -> dict[str, Any]:
    try:
        figures: dict[str, Any] = json.loads(file.read_text())
        if figures["experiment"] in NAMES:
            return figures
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise DataError(f"{file.name}: expected the figures of an experiment, one of {', '.join(NAMES)}")


def _run(steps: int, measure: Measure, json_file: Path | None, plot: Path | None) -> None:
    """Checks that results can be written, measures with a bar, writes the figures and shows them."""
    make_way(json_file)
    _check_folder(plot)
    with progress(steps, lines=True) as watch:
        figures = measure(watch)
    write_json(json_file, figures)
    _show(figures, plot)


def _check_folder(plot: Path | None) -> None:
    if plot:
        plot.mkdir(parents=True, exist_ok=True)
        make_way(plot / "plot.png", "--plot")


def _show(figures: dict[str, Any], plot: Path | None) -> None:
    from secure_afl.simulations.experiments import plots

    name = figures["experiment"]
    for table in import_module(f"secure_afl.simulations.experiments.{name}").tables(figures):
        console.print(table)
    draw = getattr(plots, name, None)
    _say(draw(figures, plot) if plot and draw else [])


def _say(plots: list[Path]) -> None:
    for file in plots:
        errors.print(f"[dim]plot: {escape(str(file))}[/]", highlight=False)
