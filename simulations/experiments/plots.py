"""Plots of the experiments, from their figures alone."""

import re
from collections import defaultdict
from collections.abc import Sequence
from math import cos, inf, pi, sin
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from secure_afl.cli.pages import logarithmic
from secure_afl.simulations.experiments.privacy import TRUST
from secure_afl.simulations.experiments.problems import PROBLEMS

_COLOURS = ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377", "#bbbbbb", "#000000")
_OURS = "#d62728"
_DPI = 120
_RIVALS = "mnist-mlp"  # whose rows `rivals` takes


def headline(figures: dict[str, Any], folder: Path) -> list[Path]:
    """Accuracy against training time, a file for each problem; the mean of the seeds, without dropouts."""
    from matplotlib.figure import Figure  # slow to import: only who asks for pictures waits

    files = []
    records = [record for record in figures["records"] if not record["dropout"]]
    for name in dict.fromkeys(record["problem"] for record in records):
        figure = Figure(figsize=(11, 5), layout="constrained")
        panels = figure.subplots(1, 2, sharex=True)
        for panel, personal in zip(panels, (False, True), strict=True):
            colours, shapes = iter(_COLOURS * 2), iter("*D^sv")
            mine = [r for r in records if r["problem"] == name and r["personal"] == personal]
            for method in dict.fromkeys(record["method"] for record in mine):
                seconds, accuracies = _mean_curve([r["curve"] for r in mine if r["method"] == method])
                ours = "fedacnnl" in method
                panel.plot(
                    seconds,
                    accuracies,
                    marker=next(shapes) if ours else "o" if len(seconds) < 3 else None,
                    markersize=9 if ours else 5,
                    linestyle="none" if ours else "-",
                    color=_OURS if ours else next(colours),
                    label=f"ours, {method.split('(')[-1].rstrip(')')}" if ours else method,
                )
            logarithmic(panel, "x")
            panel.set_xlabel("training time, s (compute and network)")
            panel.set_title("each client's own model" if personal else "one model for all")
            panel.grid(alpha=0.3)
            # Below the axes: inside it would hide a method.
            panel.legend(
                fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=4, frameon=False
            )
        panels[0].set_ylabel("accuracy on test rows")
        figure.suptitle(f"{PROBLEMS[name].title}, {figures['seeds']} seeds")
        files.append(_saved(figure, folder / f"headline-{name}.png"))
    return files


def rivals(figures: dict[str, Any], folder: Path) -> list[Path]:
    return methods([figures], folder, "rivals")


class _Method(NamedTuple):
    """What `methods` draws of a method. errors (shares of test rows) and seconds: one a seed. curve: mean seconds, errors.

    sent: bytes that leave a client. secure: nothing leaves a client but under masks.
    """

    label: str
    kind: str
    secure: bool
    errors: list[float]
    seconds: list[float]
    sent: float
    curve: tuple[list[float], list[float]]


_KINDS = {
    "ours": ("*", _OURS, 13),
    "analytic rivals": ("s", _COLOURS[0], 7),
    "gradient methods": ("o", "#333333", 6),
}
_NO_ERROR = 1e-4  # as which none at all is drawn: a logarithmic axis has no 0
_TICKS = (0.2, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.993, 0.995, 0.997, 0.998, 0.999)


def methods(files: Sequence[dict[str, Any]], folder: Path, stem: str = "methods") -> list[Path]:
    """All methods of `headline` and `rivals`: accuracy against the bytes that leave a client, and against training time.

    A picture for each division of a data set among clients, of common and of personal models, without dropouts. Of a
    method in two files the first counts.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator

    pictures = []
    for (rows, personal), found in _methods(files).items():
        figure = Figure(figsize=(11, 15), dpi=_DPI)
        figure.subplots_adjust(0.08, 0.08, 0.98, 0.95, hspace=0.14)
        panels = figure.subplots(2, 1)
        for panel, of_bytes in zip(panels, (True, False), strict=True):
            panel.set_ylabel("accuracy on test rows, %")
            panel.set_xlabel(
                "MB that leave a client" if of_bytes else "training time, s (compute and network)"
            )
            panel.set(xscale="log", yscale="log")
            at, errors = zip(*(_at(one, of_bytes) for one in found), strict=True)
            worst, best = 1.3 * max(errors), min(errors) / 1.8
            panel.set_xlim(min(filter(None, at), default=1) / 2, max(at) * 2 or 2)
            panel.set_ylim(worst, best)
            ticks = [at for at in _TICKS if best < 1 - at < worst]
            panel.set_yticks([1 - at for at in ticks], [f"{100 * at:g}" for at in ticks])
            panel.tick_params(axis="y", which="minor", left=False, labelleft=False)
            panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.xaxis.set_major_formatter("{x:g}")
            panel.xaxis.set_minor_formatter("")
            panel.grid(alpha=0.25)
            for one in found:
                _draw(panel, one, of_bytes, with_curve=not personal)
            _label(panel, found, of_bytes)
        of = "each client's own model" if personal else "one model for all"
        figure.suptitle(f"{rows}: {of}\nbars: standard deviation over seeds; faint: round by round")
        keys = [
            Line2D([], [], linestyle="none", marker=marker, color=colour, markersize=size, label=kind)
            for kind, (marker, colour, size) in _KINDS.items()
            if any(one.kind == kind for one in found)
        ]
        hollow = [
            Line2D([], [], linestyle="none", marker="o", color="black", markerfacecolor=fill, label=text)
            for fill, text in (("black", "under masks, or nothing leaves a client"), ("none", "in the clear"))
        ]
        figure.legend(handles=keys + hollow, loc="lower center", ncols=5, frameon=False)
        name = re.sub("[^a-z0-9]+", "-", f"{stem} {rows} {'personal' if personal else 'common'}".lower())
        pictures.append(_saved(figure, folder / f"{name}.png"))
    return pictures


def _methods(files: Sequence[dict[str, Any]]) -> dict[tuple[str, bool], list[_Method]]:
    """By rows and by whether each client has a model of its own."""
    found: dict[tuple[str, bool], dict[str, list[dict[str, Any]]]] = defaultdict(dict)
    for figures in files:
        mine: dict[tuple[str, bool], dict[str, dict[int, dict[str, Any]]]] = {}
        for record in figures["records"]:
            if not record.get("dropout"):
                problem = record.get("problem", _RIVALS)
                of = mine.setdefault((PROBLEMS[problem].title.rsplit(",", 1)[0], record["personal"]), {})
                # Of DeepAFL's depths the last record is the deepest.
                of.setdefault(_name(record, problem), {})[record["seed"]] = record
        for group, by_name in mine.items():
            for name, by_seed in by_name.items():
                found[group].setdefault(name, list(by_seed.values()))
    return {group: [_summed_up(*one) for one in by_name.items()] for group, by_name in found.items()}


def _name(record: dict[str, Any], problem: str) -> str:
    """The method, and what it trains: a network of ours, a gradient method's model, or a head on a rival's features."""
    method, features = record["method"], record.get("features")
    if "fedacnnl" in method:
        network = method.split("(")[-1].rstrip(")").replace("pixels", "linear")
        return f"{network} and a stream" if features and record["personal"] else network
    method = re.sub(", [0-9]+ layers", "", method)
    return f"{method}: {features or problem.split('-', 1)[1]}"


def _summed_up(name: str, records: list[dict[str, Any]]) -> _Method:
    method = records[0]["method"]
    rival = re.match("afl|safle|deepafl|apfl", method)
    ours, sent = "fedacnnl" in method, fmean(record["bytes_up"] for record in records)
    seconds, accuracies = _mean_curve([record["curve"] for record in records])
    return _Method(
        name,
        "ours" if ours else "analytic rivals" if rival else "gradient methods",
        ours or "masked" in method or method == "local",
        [1 - record["accuracy"] for record in records],
        [record["compute_seconds"] + record["network_seconds"] for record in records],
        sent,
        (seconds, [1 - accuracy for accuracy in accuracies]),
    )


def _draw(panel: Any, one: _Method, of_bytes: bool, with_curve: bool) -> None:
    """A point with its error bars, and the way to it; a line for a method that sends nothing."""
    marker, colour, size = _KINDS[one.kind]
    at, error = _at(one, of_bytes)
    if not at:
        panel.axhline(error, color=colour, linestyle="-" if one.secure else ":", linewidth=0.8)
        return
    seconds, errors = one.curve
    rounds = len(seconds)
    if with_curve:
        along = [at * (i + 1) / rounds for i in range(rounds)] if of_bytes else seconds
        panel.plot(along, errors, color=colour, alpha=0.2, linewidth=1, zorder=1)
    panel.errorbar(
        at,
        error,
        xerr=None if of_bytes else _spread(one.seconds),
        yerr=_spread(one.errors),
        color=colour,
        marker=marker,
        markersize=size,
        markerfacecolor=colour if one.secure else "white",
        elinewidth=0.7,
        zorder=3,
    )


def _at(one: _Method, of_bytes: bool) -> tuple[float, float]:
    return one.sent / 1e6 if of_bytes else fmean(one.seconds), max(fmean(one.errors), _NO_ERROR)


def _spread(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def _label(panel: Any, found: Sequence[_Method], of_bytes: bool) -> None:
    """Write each method's name where it covers no other name and no point, as near its own point as can be."""
    from matplotlib.transforms import Bbox

    panel.figure.canvas.draw()
    frame = panel.get_window_extent()
    points, taken = [], []
    for one in found:
        at, error = _at(one, of_bytes)
        x, y = panel.transData.transform((at or panel.get_xlim()[0], error))
        points.append((x if at else frame.x0 + 60, y))
        if at:
            up, aside = _spread(one.errors), 0.0 if of_bytes else _spread(one.seconds)
            ends = [(at + aside, error), (max(at - aside, at / 9), error), (at, error + up)]
            tips = panel.transData.transform([*ends, (at, max(error - up, _NO_ERROR))])
            taken += [Bbox([[x, y], tip]) for tip in tips]
            taken.append(Bbox.from_bounds(x - 8, y - 8, 16, 16))
        else:
            taken.append(Bbox.from_bounds(x, y - 2, frame.width, 4))
    for one, (x, y) in sorted(zip(found, points, strict=True), key=lambda pair: pair[1]):
        colour = _KINDS[one.kind][1]
        text = panel.annotate(
            one.label,
            (x, y),
            (x, y),
            xycoords="figure pixels",
            textcoords="figure pixels",
            fontsize=8,
            color=colour,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 4},
        )
        size = text.get_window_extent()
        cost, far = inf, 0
        while cost > far and far < 200:
            far += 6
            for i in range(16):
                across, along = cos(i * pi / 8), sin(i * pi / 8)
                left = x + (far + 6) * across - size.width * (1 - across) / 2
                low = y + (far + 6) * along - size.height * (1 - along) / 2
                tried = Bbox.from_bounds(left, low, size.width, size.height)
                outside = frame.count_contains(tried.corners()) < 4
                if (costs := far + 100 * tried.count_overlaps(taken) + 1e4 * outside) < cost:
                    cost, distance, box = costs, far, tried
        taken.append(box)
        text.set_position((box.x0, box.y0))
        text.arrow_patch.set_visible(distance > 18)


def privacy(figures: dict[str, Any], folder: Path) -> list[Path]:
    """Accuracy against ε, a panel for each data set; bands from the worst seed to the best."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(record["data"] for record in figures["records"]))
    figure = Figure(figsize=(4 * len(names), 4), layout="constrained")
    for panel, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        mine = [record for record in figures["records"] if record["data"] == name]
        for (trust, about), colour in zip(TRUST.items(), (_COLOURS[0], _OURS, _COLOURS[3]), strict=True):
            at = sorted({record["epsilon"] for record in mine if record["trust"] == trust})
            found = [[r["accuracy"] for r in mine if (r["trust"], r["epsilon"]) == (trust, e)] for e in at]
            panel.fill_between(
                at, [min(one) for one in found], [max(one) for one in found], alpha=0.15, color=colour
            )
            panel.plot(at, [fmean(one) for one in found], marker="o", color=colour, label=about.title)
        without = fmean(record["accuracy"] for record in mine if record["trust"] is None)
        panel.axhline(without, color="black", linestyle="--", label="no noise")
        panel.set_xscale("log", base=2)
        panel.set_xticks(at, [f"{epsilon:g}" for epsilon in at])
        panel.set_xlabel(f"ε, for δ = {figures['delta']:g}")
        panel.set_title(f"{name}, {mine[0]['clients']} clients")
        panel.grid(alpha=0.3)
    figure.axes[0].set_ylabel("accuracy on test rows")
    figure.axes[0].legend(fontsize="small", loc="lower right")
    return [_saved(figure, folder / "privacy.png")]


def heterogeneity(figures: dict[str, Any], folder: Path) -> list[Path]:
    """Accuracy against the concentration of the Dirichlet distribution."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    panel = figure.subplots()
    colours = iter(_COLOURS)
    by_method: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in figures["records"]:
        by_method[record["method"]][record["concentration"]].append(record["accuracy"])
    for method, by_concentration in by_method.items():
        at = sorted(by_concentration)
        ours = "fedacnnl" in method
        panel.fill_between(
            at,
            [min(by_concentration[c]) for c in at],
            [max(by_concentration[c]) for c in at],
            alpha=0.15,
            color=_OURS if ours else (colour := next(colours)),
        )
        panel.plot(
            at,
            [fmean(by_concentration[c]) for c in at],
            marker="o",
            linestyle="--" if method == "pfedacnnl" else "-",
            color=_OURS if ours else colour,
            label=method,
        )
    panel.set_xscale("log")
    panel.set_xlabel("Dirichlet concentration A (left: clients differ most)")
    panel.set_ylabel("accuracy on test rows")
    panel.set_title(f"MNIST-5k, 10 clients, {figures['seeds']} seeds: mean and range")
    panel.grid(alpha=0.3)
    panel.legend(fontsize="small")
    return [_saved(figure, folder / "heterogeneity.png")]


def encoders(figures: dict[str, Any], folder: Path) -> list[Path]:
    """Test accuracy of every row, each seed a point."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    panel = figure.subplots()
    rows = list(dict.fromkeys(record["row"] for record in figures["records"]))[::-1]
    for at, row in enumerate(rows):
        values = [record["test"] for record in figures["records"] if record["row"] == row]
        colour = _COLOURS[0] if row.startswith("SGD") else _OURS
        panel.plot(values, [at] * len(values), "o", alpha=0.5, color=colour)
        panel.plot(fmean(values), at, "|", markersize=18, color=colour)
    panel.set_yticks(range(len(rows)), rows)
    panel.set_xlabel("accuracy on 1000 test rows of MNIST-5k")
    panel.grid(alpha=0.3)
    return [_saved(figure, folder / "encoders.png")]


def _mean_curve(curves: list[list[tuple[float, float]]]) -> tuple[list[float], list[float]]:
    """Point by point: every seed has as many."""
    points = list(zip(*curves, strict=True))
    return (
        [fmean(seconds for seconds, _ in point) for point in points],
        [fmean(accuracy for _, accuracy in point) for point in points],
    )


def _saved(figure: Any, file: Path) -> Path:
    figure.savefig(file, dpi=_DPI)
    return file
