"""Coefficients with their intervals as a picture: one line each, on one axis."""

from collections.abc import Mapping
from math import isnan
from typing import Any

from secure_afl.simulations.show.answers import called
from secure_afl.tables.model import Model
from secure_afl.tables.shown import Line, lines, ratio

_MOST = 40


def drawn(model: Model, deviations: Mapping[str, float]) -> list[tuple[str, float, float, float]]:
    """Label, effect, lower and upper 95 % limit of each line of the picture, at most 40, in the table's order.

    deviations: of the numbers among the columns; their effects are of one standard deviation, since units differ. The
    others' are of a 1 against a 0. Terms of curves and products are left out: nothing moves them alone. Empty for more
    than two classes and where there are no intervals.
    """
    if len(model.codebook.classes) > 2 or model.ls_se is None:
        return []
    found = []
    for one, term in zip(lines(model)[1:], model.terms, strict=True):
        scale = deviations.get(term.name, 1.0 if (term.middle, term.half) == (0.0, 1.0) else None)
        if scale is None or len(term.columns) > 1 or not _known(one):
            continue
        assert one.low is not None
        assert one.high is not None
        label = f"{term.name} (by {scale:.3g} {term.unit})" if term.name in deviations else called(model, one)
        found.append((label, scale * one.coefficient, scale * one.low, scale * one.high))
    return found[:_MOST]


def _known(line: Line) -> bool:
    return line.low is not None and not isnan(line.low)


def forest(model: Model, deviations: Mapping[str, float]) -> Any:
    """The picture, a figure of matplotlib; None without a line to draw. See `drawn`."""
    shown = drawn(model, deviations)
    if not shown:
        return None
    from matplotlib.figure import Figure  # slow to import: only who asks for a page waits

    figure = Figure(figsize=(10, 1 + 0.26 * len(shown)), layout="constrained")
    panel = figure.subplots()
    for at, (_, effect, low, high) in enumerate(shown):
        colour = "#4477aa" if low > 0 or high < 0 else "#999999"
        panel.plot([low, high], [at, at], color=colour, linewidth=2, solid_capstyle="butt")
        panel.plot([effect], [at], "o", color=colour, markersize=5)
    panel.axvline(0, color="black", linewidth=0.8)
    panel.set_yticks(range(len(shown)), [label for label, *_ in shown], fontsize="small")
    panel.set_ylim(len(shown) - 0.4, -0.6)
    panel.grid(axis="x", color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.tick_params(axis="y", length=0)
    target = model.codebook.outcome
    unit = getattr(target, "unit", "")
    panel.set_xlabel(
        f"logarithm of the {ratio(model)}, with 95 % interval"
        if ratio(model)
        else f"effect on the predicted share with {target.column} = {model.outputs[1]}, with 95 % interval"
        if model.codebook.classes
        else f"effect on the predicted {target.column}{unit and f' ({unit})'}, with 95 % interval"
    )
    return figure
