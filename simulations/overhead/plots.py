"""Pictures of the figures, as SVG."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from secure_afl.cli.pages import logarithmic, svg
from secure_afl.protocol.session.backend import SECURE
from secure_afl.simulations.overhead.figures import MEMORY, Figures, bases, found, phases
from secure_afl.simulations.overhead.laws import FORMS
from secure_afl.simulations.overhead.measure import CLIENT, HOLDER, SERVER

_COLOURS = dict(zip(SECURE, ("#c23b22", "#7a3e9d", "#2a6f97", "#2b8a57"), strict=True))
_MARKERS = dict(zip(SECURE, "osD^", strict=True))
_PARTIES = (CLIENT, SERVER, HOLDER)
_UNITS = {
    "cpu_seconds": ("CPU, ms", 1e3),
    "bytes_up": ("sent, kB", 1e-3),
    "bytes_down": ("received, kB", 1e-3),
    MEMORY: ("peak memory, MB", 1e-6),
}
# Name of the picture: the parameters that vary, the one on the axis, its label, whether both axes are logarithmic.
_PICTURES = {
    "clients": (("clients",), "clients", "clients", True),
    "values": (("features", "classes", "values"), "values", "values of the vector", True),
    "dropout": (("dropout",), "dropout", "share that drops out", False),
    "width": (("width",), "width", "bytes of a word", False),
}
_FREE = ("neighbours",)  # follows from the others


def pictures(figures: Figures) -> dict[str, str]:
    """SVG by name: costs along each axis that has two points, and where they arise."""
    drawn = {}
    for name, (along, axis, label, log_axes) in _PICTURES.items():
        lines = [line for base in figures["base"] for line in _lines(figures, base, along, axis)]
        if any(len(line["cells"]) > 1 for line in lines):
            drawn[name] = _along(lines, axis, label, log_axes)
    drawn["phases"] = _phases(figures)
    return drawn


def _lines(
    figures: Figures, base: Mapping[str, Any], along: Sequence[str], axis: str
) -> list[dict[str, Any]]:
    """The cells of a backend along an axis, a line for each profile."""
    fixed = {key: value for key, value in base.items() if key not in (*along, *_FREE, "profile")}
    cells = [cell for cell in figures["cells"] if all(cell[key] == value for key, value in fixed.items())]
    profiles = list(dict.fromkeys(cell["profile"] for cell in cells))
    lines = []
    for profile in profiles:
        mine = sorted(
            (cell for cell in cells if cell["profile"] == profile), key=lambda cell: cell[axis] or 0
        )
        if len(mine) > 1 or profile == base["profile"]:
            said = (base["backend"], profile, axis)
            laws = [one for one in figures["laws"] if (one["backend"], one["profile"], one["axis"]) == said]
            lines.append({"backend": base["backend"], "profile": profile, "cells": mine, "laws": laws})
    return lines


def _along(lines: Sequence[Mapping[str, Any]], axis: str, label: str, log_axes: bool) -> str:
    from matplotlib.figure import Figure  # slow to import

    parties = _parties([line["cells"][0] for line in lines])
    quantities = [
        one for one in _UNITS if any(found(line["cells"][0], CLIENT, one) is not None for line in lines)
    ]
    figure = Figure(figsize=(3.9 * len(parties), 2.5 * len(quantities) + 0.5), layout="constrained")
    panels = figure.subplots(len(quantities), len(parties), squeeze=False, sharex=True)
    for row, quantity in enumerate(quantities):
        unit, factor = _UNITS[quantity]
        for column, party in enumerate(parties):
            panel = panels[row][column]
            for line in lines:
                _draw(panel, line, axis, party, quantity, factor)
                _draw_law(panel, line, axis, party, quantity, factor)
            if log_axes and panel.lines:
                _logarithmic(panel)
            else:
                panel.set_ylim(bottom=0)
                if axis == "width":
                    panel.locator_params(axis="x", integer=True)
            panel.grid(alpha=0.25, which="both", linewidth=0.5)
            panel.spines[["top", "right"]].set_visible(False)
            if row == 0:
                panel.set_title(party, fontsize="medium", loc="left", fontweight="bold")
            if row == len(quantities) - 1:
                panel.set_xlabel(label)
            if column == 0:
                panel.set_ylabel(unit)
    handles = {
        text: handle
        for panel in panels.flat
        for handle, text in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=6, frameon=False)
    return svg(figure)


def _parties(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """The parties that occur in any of the cells."""
    return [party for party in _PARTIES if any(found(cell, party, "cpu_seconds") for cell in cells)]


def _logarithmic(panel: Any) -> None:
    """Both axes, the upright one over a factor of four at least, with numbers as people write them."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    logarithmic(panel, "x", "y")
    low, high = panel.get_ylim()
    widen = max(1.0, (4 * low / high) ** 0.5)
    panel.set_ylim(low / widen, high * widen)
    for axis, (least, most) in ((panel.xaxis, panel.get_xlim()), (panel.yaxis, panel.get_ylim())):
        few = most > 60 * least  # more numbers would run into each other
        axis.set_major_locator(LogLocator(subs=(1.0,) if few else (1.0, 2.0, 5.0)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())


def _draw(panel: Any, line: Mapping[str, Any], axis: str, party: str, quantity: str, factor: float) -> None:
    """One line with the quartiles as bars; zero costs are not drawn."""
    points = [
        (cell[axis], row)
        for cell in line["cells"]
        if (row := found(cell, party, quantity)) and row["median"] > 0
    ]
    if not points or any(at is None for at, _ in points):
        return
    x = [at for at, _ in points]
    low, middle, high = (np.array([row[one] for _, row in points]) * factor for one in ("q1", "median", "q3"))
    backend = line["backend"]
    second = line["profile"] == "semi-honest"
    panel.errorbar(
        x,
        middle,
        yerr=[middle - low, high - middle],
        color=_COLOURS[backend],
        marker=_MARKERS[backend],
        markersize=4,
        linewidth=1.2,
        capsize=2,
        linestyle="--" if second else "-",
        markerfacecolor="white" if second else _COLOURS[backend],
        label=f"{backend}, semi-honest" if second else backend,
    )


def _draw_law(
    panel: Any, line: Mapping[str, Any], axis: str, party: str, quantity: str, factor: float
) -> None:
    """The fitted law, dotted, between the points that it is fitted to."""
    for one in line["laws"]:
        if (one["party"], one["quantity"]) == (party, quantity):
            x = np.linspace(one["lowest"], one["highest"], 60)
            y = FORMS[one["form"]].rows(x) @ np.array(one["coefficients"])
            panel.plot(x, factor * y, ":", color=_COLOURS[line["backend"]], linewidth=1)


def _phases(figures: Figures) -> str:
    """Where CPU time goes at the base: a bar for each party and backend, a colour for each phase."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    cells = bases(figures)
    every = list(dict.fromkeys(phase for cell in cells for phase in phases(cell)))
    palette = colormaps["tab20"]
    colours = {phase: palette(number % palette.N) for number, phase in enumerate(every)}
    figure = Figure(figsize=(11.7, 1.2 + 0.42 * len(cells)), layout="constrained")
    parties = _parties(cells)
    for panel, party in zip(
        figure.subplots(1, len(parties), sharey=True, squeeze=False)[0], parties, strict=True
    ):
        for index, cell in enumerate(cells):
            left = 0.0
            for phase in every:
                row = found(cell, party, "cpu_seconds", phase)
                width = 1e3 * row["median"] if row else 0.0
                panel.barh(index, width, left=left, color=colours[phase])
                left += width
        panel.set_yticks(range(len(cells)), [cell["backend"] for cell in cells])
        panel.invert_yaxis()
        panel.set_xlabel("CPU, ms")
        panel.set_title(party, fontsize="medium", loc="left", fontweight="bold")
        panel.spines[["top", "right"]].set_visible(False)
    figure.legend(
        handles=[Patch(color=colours[phase], label=phase) for phase in every],
        loc="outside lower center",
        ncols=7,
        frameon=False,
        fontsize="small",
    )
    return svg(figure)
