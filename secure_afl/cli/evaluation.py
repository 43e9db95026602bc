"""How good predictions are, on a terminal. Loads nothing heavy."""

from typing import TYPE_CHECKING

from secure_afl.cli.terminal import console, escape, table

if TYPE_CHECKING:  # NumPy
    from secure_afl.analytic.evaluation import Classified, Measured

_MOST_CLASSES = 30


def print_classified(found: "Classified") -> None:
    """The figures of a classifier."""
    binary = len(found.by_class) == 2
    of_each = () if binary else ("AUC", "Brier")
    shown = table("by class", ("class", "rows", "recall", "precision", *of_each))
    for one in found.by_class[:_MOST_CLASSES]:
        scores = () if binary else (_share(one.auc), _share(one.brier))
        shown.add_row(escape(one.name), str(one.rows), _share(one.recall), _share(one.precision), *scores)
    if len(found.by_class) > _MOST_CLASSES:
        shown.add_row(f"… and {len(found.by_class) - _MOST_CLASSES} more", *[""] * (3 + len(of_each)))
    console.print(shown)
    of = f"of {escape(found.by_class[1].name)}" if binary else "of any class"
    shown = table(f"calibration: what was said {of}, and how often it was so", ("said", "rows", "observed"))
    for said in found.calibration:
        shown.add_row(_share(said.said), str(said.rows), _share(said.observed))
    console.print(shown)
    print_figures(of_classes(found))


def of_classes(found: "Classified") -> dict[str, str]:
    """The figures of a classifier that are one number."""
    over = "" if len(found.by_class) == 2 else ", mean of classes"
    return {
        "rows": f"{found.rows:,}",
        "accuracy": _share(found.accuracy),
        "guessing the largest class": _share(found.majority),
        "balanced accuracy": _share(found.balanced_accuracy),
        f"AUC{over}": _share(found.auc),
        f"Brier score{over}": _share(found.brier),
    }


def print_measured(found: "Measured", unit: str) -> None:
    """The figures of a regression. unit: of the outcome."""
    print_figures(of_number(found, unit))


def of_number(found: "Measured", unit: str) -> dict[str, str]:
    """The figures of a regression. unit: of the outcome."""
    of = unit and f" {unit}"
    return {
        "rows": f"{found.rows:,}",
        "RMSE": f"{found.rmse:.4g}{of}",
        "MAE": f"{found.mae:.4g}{of}",
        "RMSE of guessing the mean": f"{found.guess_rmse:.4g}{of}",
        "R²": _share(found.r2),
    }


def print_figures(figures: dict[str, str]) -> None:
    """A line for each."""
    for name, text in figures.items():
        console.print(f"{name:<29} {escape(text)}", highlight=False)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
