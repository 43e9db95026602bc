"""`secure-afl overhead`: measure what every party spends, fit laws, write a report."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.markup import escape

from secure_afl.cli.terminal import (
    console,
    errors,
    make_way,
    progress,
    refusals_shown,
    say,
    write_json,
    write_text,
)
from secure_afl.crypto.hpke import Suite
from secure_afl.protocol.session.backend import Backend
from secure_afl.protocol.session.profile import Profile
from secure_afl.simulations.overhead import axes as defaults

if TYPE_CHECKING:
    from secure_afl.simulations.overhead.figures import Figures
    from secure_afl.simulations.overhead.grid import Axes

T = TypeVar("T")


def _default(values: Sequence[object]) -> str:
    return ", ".join(str(getattr(one, "value", one)) for one in values)


def overhead(
    out: Annotated[
        Path, typer.Option(help="Folder for overhead.html, .json, .csv and plots.", file_okay=False)
    ] = Path("overhead-report"),
    backend: Annotated[
        list[Backend] | None,
        typer.Option(
            help="How statistics leave; can be given several times.", show_default=_default(defaults.BACKENDS)
        ),
    ] = None,
    clients: Annotated[
        list[int] | None,
        typer.Option(
            help="How many; the first value stays while another option varies, as do those of all options below.",
            min=2,
            show_default=f"{_default(defaults.CLIENTS)}; semi-honest {_default(defaults.SPARSE_CLIENTS)}",
        ),
    ] = None,
    features: Annotated[
        list[int] | None,
        typer.Option(
            help="d: columns of a row; a vector has d(d+1)/2 + d·classes + 1 values.",
            min=1,
            show_default=_default(defaults.FEATURES),
        ),
    ] = None,
    classes: Annotated[
        list[int] | None,
        typer.Option(help="Number of classes.", min=0, show_default=_default(defaults.CLASSES)),
    ] = None,
    dropout: Annotated[
        list[float] | None,
        typer.Option(
            help="Share of clients that fall silent after the keys.",
            min=0,
            max=1,
            show_default=_default(defaults.DROPOUTS),
        ),
    ] = None,
    width: Annotated[
        list[int] | None,
        typer.Option(
            help="Bytes of a word: the precision. BFV holds at most 7; CKKS has none.",
            min=4,
            max=8,
            show_default=_default(defaults.WIDTHS),
        ),
    ] = None,
    suite: Annotated[
        list[Suite] | None,
        typer.Option(help="Key encapsulation of the masks.", show_default=_default(defaults.SUITES)),
    ] = None,
    profile: Annotated[
        list[Profile] | None,
        typer.Option(
            help="The server that masks defend against. Profiles after the first: clients vary, nothing else.",
            show_default=_default(defaults.PROFILES),
        ),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Every combination of the values, not one axis at a time.")
    ] = False,
    repeats: Annotated[int, typer.Option(help="Sessions of each setting; medians are reported.", min=1)] = 5,
    with_peers: Annotated[
        bool,
        typer.Option(
            "--peers",
            help="Also Flower's SecAgg+, NVFlare's use of TenSEAL and declearn, those that are installed: "
            "50 clients, 10⁶ values, 20 % dropouts.",
        ),
    ] = False,
) -> None:
    """What a secure sum costs each party in each phase, over a grid: CSV, JSON, plots, and a page that needs nothing else.

    Without options four backends, one axis at a time, in under 20 minutes on two cores. Every sum is compared with the
    plain one. Leave the machine alone meanwhile.
    """
    with refusals_shown():
        from secure_afl.simulations.overhead import figures, plots, shown
        from secure_afl.simulations.overhead.grid import Axes
        from secure_afl.simulations.overhead.peers import compare

        axes = Axes(
            tuple(backend or defaults.BACKENDS),
            tuple(clients or defaults.CLIENTS),
            tuple(features or defaults.FEATURES),
            tuple(classes or defaults.CLASSES),
            tuple(dropout or defaults.DROPOUTS),
            tuple(width or defaults.WIDTHS),
            tuple(suite or defaults.SUITES),
            tuple(profile or defaults.PROFILES),
            defaults.SPARSE_CLIENTS if clients is None else None,
        )
        command = _command(axes, full, repeats, with_peers)
        plan = figures.Plan(axes, full, repeats, command)
        plan.cells  # noqa: B018  refuses what cannot be, before the work
        out.mkdir(parents=True, exist_ok=True)
        (out / "plots").mkdir(exist_ok=True)
        make_way(out / "plots" / "plot.svg", "--out")
        make_way(out / "overhead.json", "--out")
        steps = plan.steps + (compare.steps(repeats) if with_peers else 0)
        with progress(steps, lines=True) as watch:
            found = figures.measure(plan, watch)
            if with_peers:
                found["peers"] = compare.measure(repeats, watch)
        pictures = plots.pictures(found)
        write_json(out / "overhead.json", found)
        write_text(out / "overhead.csv", figures.to_csv(found), "table")
        for name, drawn in pictures.items():
            write_text(out / "plots" / f"{name}.svg", drawn, "plot")
        write_text(out / "overhead.html", shown.page(found, pictures), "page")
        _print(found)


def _command(axes: "Axes", full: bool, repeats: int, with_peers: bool) -> str:
    """The command with every value that it ran with, but where it wrote: defaults may change."""
    words = ["secure-afl", "overhead"]
    given: dict[str, Sequence[object]] = {
        "backend": axes.backends,
        "clients": axes.clients if axes.sparse is None else (),  # both lists are the default
        "features": axes.features,
        "classes": axes.classes,
        "dropout": axes.dropouts,
        "width": axes.widths,
        "suite": [one.value for one in axes.suites],
        "profile": [one.value for one in axes.profiles],
        "repeats": [repeats],
    }
    for name, values in given.items():
        for value in values:
            words += [f"--{name}", str(value)]
    words += ["--full"] if full else []
    words += ["--peers"] if with_peers else []
    return shlex.join(words)


def _print(found: "Figures") -> None:
    from secure_afl.simulations.overhead import shown

    for one in shown.tables(found):
        console.print(one)
    for note in found.get("peers", {}).get("absent", []):
        say(f"[yellow]note:[/] {escape(note)}", errors)
