"""Plots of the experiments, from their figures alone."""

from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from secure_afl.cli.pages import logarithmic
from secure_afl.simulations.experiments.privacy import TRUST
from secure_afl.simulations.experiments.problems import PROBLEMS

_COLOURS = ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377", "#bbbbbb", "#000000")
_OURS = "#d62728"


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
    """Accuracy against the bytes that leave a client and against training time; filled: under masks, hollow: in the clear.

    Methods of many rounds are lines, one point a round. Training alone sends nothing and is left out.
    """
    from matplotlib.figure import Figure

    records = [record for record in figures["records"] if record["bytes_up"]]
    names = list(dict.fromkeys(record["features"] for record in records))
    methods = list(dict.fromkeys(record["method"].split(",")[0] for record in records))
    theirs = [method for method in methods if "fedacnnl" not in method]
    colours = dict.fromkeys(methods, _OURS) | dict(zip(theirs, _COLOURS, strict=False))
    figure = Figure(figsize=(11, 4.5 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 2, squeeze=False)
    for (of_bytes, of_time), name in zip(panels, names, strict=True):
        mine = [record for record in records if record["features"] == name]
        for method in dict.fromkeys(record["method"] for record in mine):
            found = [record for record in mine if record["method"] == method]
            seconds, accuracies = _mean_curve([record["curve"] for record in found])
            sent = fmean(record["bytes_up"] for record in found) / 1e6
            ours, personal = "fedacnnl" in method, found[0]["personal"]
            secure = ours or "masked" in method
            colour = colours[method.split(",")[0]]
            rounds = len(seconds)
            for panel, at in (
                (of_bytes, [sent * (i + 1) / rounds for i in range(rounds)]),
                (of_time, seconds),
            ):
                panel.plot(at, accuracies, color=colour, linestyle="-" if secure else ":")
                panel.plot(
                    at[-1],
                    accuracies[-1],
                    marker={(0, 0): "o", (0, 1): "s", (1, 0): "*", (1, 1): "D"}[ours, personal],
                    markersize=13 if ours and not personal else 7,
                    markerfacecolor=colour if secure else "none",
                    color=colour,
                    linestyle="none",
                    label=method,
                )
        # Early rounds of gradient methods would press all others together.
        lowest = min(record["accuracy"] for record in mine) - 0.02
        of_bytes.set_xlabel("MB that leave a client")
        of_time.set_xlabel("training time, s (compute and network)")
        of_bytes.set_ylabel("accuracy on test rows")
        of_time.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
        for panel in (of_bytes, of_time):
            logarithmic(panel, "x")
            panel.set_ylim(bottom=lowest)
            panel.xaxis.set_minor_formatter("")
            panel.set_title(f"features: {name}")
            panel.grid(alpha=0.3)
    figure.suptitle(
        "filled: under masks, hollow: in the clear; squares and diamonds: each client's own model"
    )
    return [_saved(figure, folder / "rivals.png")]


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
    figure.savefig(file, dpi=120)
    return file
