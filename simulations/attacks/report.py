"""Show findings: tables for a terminal and for a document, pictures, and one page with everything."""

import io
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.markup import escape
from rich.table import Table

from secure_afl.cli import pages, terminal
from secure_afl.simulations.attacks.finding import Gallery
from secure_afl.simulations.attacks.table import ATTACKS

_HEADINGS = ("design", "measured", "attack", "guess", "trials", "verdict")
_COLOURS = {(False, True): "red", (True, True): "bold yellow", (False, False): "dim", (True, False): "green"}
"""Colours by whether the design is ours, and whether the attack succeeds."""
Figures = dict[str, Any]


def by_attack(figures: Figures) -> list[tuple[str, list[Figures]]]:
    """The findings of each attack."""
    return [(name, list(rows)) for name, rows in groupby(figures["findings"], key=lambda row: row["attack"])]


def number(value: float) -> str:
    """Three digits; in scientific notation below a millionth and above a million."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:.0e}"


def tables(figures: Figures) -> list[Table]:
    """A table for each attack."""
    shown = []
    for name, rows in by_attack(figures):
        attack = ATTACKS[name]
        one = terminal.table(f"[bold]{name}[/]: {escape(attack.question)}", _HEADINGS, names=2)
        one.caption, one.caption_justify = escape(attack.source), "left"
        for row in rows:
            colour = _COLOURS[row["ours"], row["verdict"] == "succeeds"]
            one.add_row(
                escape(row["design"]),
                escape(row["measured"]) + (f"\n[dim]{escape(row['note'])}[/]" if row["note"] else ""),
                number(row["value"]),
                number(row["guess"]),
                str(row["trials"]),
                f"[{colour}]{row['verdict']}[/]",
            )
        shown.append(one)
    return shown


def markdown(figures: Figures) -> str:
    """The findings in Markdown."""
    lines = []
    for name, rows in by_attack(figures):
        lines += [f"**{name}**: {ATTACKS[name].question} ({ATTACKS[name].source})", ""]
        lines += [f"| {' | '.join((*_HEADINGS, 'note'))} |", "|" + "---|" * (len(_HEADINGS) + 1)]
        for row in rows:
            verdict = f"**{row['verdict']}**" if row["verdict"] == "succeeds" else row["verdict"]
            cells = (row["design"], row["measured"], number(row["value"]), number(row["guess"]))
            lines.append(f"| {' | '.join((*cells, str(row['trials']), verdict, row['note']))} |")
        lines.append("")
    return "\n".join(lines)


def picture(gallery: Gallery) -> bytes:
    """A gallery as a PNG file."""
    from matplotlib.figure import Figure  # slow to import, so only here

    most = max(len(images) for _, images in gallery.lines)
    figure = Figure(figsize=(3.2 + 0.62 * most, 0.62 * len(gallery.lines) + 0.4))
    axes = figure.subplots(
        len(gallery.lines), most, squeeze=False, gridspec_kw={"wspace": 0.05, "hspace": 0.05}
    )
    figure.subplots_adjust(left=3.2 / (3.2 + 0.62 * most), right=0.99, bottom=0.01, top=0.94)
    for line, (name, images) in zip(axes, gallery.lines, strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize="small")
        for at, axis in enumerate(line):
            axis.set(xticks=[], yticks=[])
            axis.set_frame_on(False)
            if at < len(images):
                axis.imshow(images[at], cmap="gray_r", vmin=0, vmax=1)
    figure.suptitle(gallery.title, fontsize="medium")
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100, format="png")
    return buffer.getvalue()


def page(figures: Figures, pictures: Sequence[tuple[str, bytes]]) -> str:
    """A self-contained HTML file. pictures: titles and PNG files."""
    inline = [(title, pages.inline("image/png", data)) for title, data in pictures]
    attacks = [(name, ATTACKS[name], rows) for name, rows in by_attack(figures)]
    return pages.page(
        "secure_afl.simulations.show",
        "attacks.html",
        {"number": number},
        figures=figures,
        attacks=attacks,
        pictures=inline,
    )
