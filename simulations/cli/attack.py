"""The command line of the attacks: `secure-afl attack`."""

from pathlib import Path
from typing import Annotated

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
    write_text,
)


def attack(
    data: Annotated[
        str, typer.Option(help="Whose rows: mnist5k, digits, heart, or whatever run --data takes.")
    ] = "mnist5k",
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="One of one-row, few-rows, labels, leverage, membership, differencing, collusion, ckks-key; can be given "
            "several times. Default: all."
        ),
    ] = None,
    repeats: Annotated[
        int,
        typer.Option(
            help="How many clients of ours are attacked, where an attack is compared with guessing.", min=20
        ),
    ] = 100,
    seed: Annotated[int, typer.Option(help="Draws rows and clients; never a secret.", min=0)] = 0,
    json_file: JsonFile = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write a page, its pictures and the table in Markdown into this folder.", file_okay=False
        ),
    ] = None,
) -> None:
    """Attack plain uploads, weak designs that others shipped, and ours; say what each attack reads. 2 to 3 minutes."""
    with refusals_shown():
        # SciPy's programs and TenSEAL take a second to load: only who attacks waits.
        from secure_afl.simulations.attacks import report, table
        from secure_afl.simulations.attacks.population import Setting
        from secure_afl.simulations.data.dataset import load

        names = table.chosen(only or [])
        if out:
            out.mkdir(parents=True, exist_ok=True)
            for name in ("attacks.html", "attacks.md"):
                make_way(out / name, "--out")
        make_way(json_file)
        setting = Setting(load(data, seed=seed), seed, repeats)
        with progress(sum(table.ATTACKS[name].steps for name in names), lines=True) as watch:
            figures, galleries = table.measure(setting, names, watch)
        for shown in report.tables(figures):
            console.print(shown)
        write_json(json_file, figures)
        if not out:
            return
        pictures = [(gallery.title, report.picture(gallery)) for gallery in galleries]
        for number, (title, png) in enumerate(pictures, 1):
            file = out / f"pictures-{number}.png"
            file.write_bytes(png)
            errors.print(f"[dim]{escape(title)}: {escape(str(file))}[/]", highlight=False)
        write_text(out / "attacks.md", report.markdown(figures), "table")
        write_text(out / "attacks.html", report.page(figures, pictures), "page")
