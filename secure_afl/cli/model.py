"""The command line of model files: `secure-afl predict`, `evaluate` and `show`."""

import csv
import io
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from secure_afl.cli.table_options import Decimal, Encoding, Query, Separator, Sheet, Table, form
from secure_afl.cli.terminal import console, print_data, refusals_shown, table, write_text
from secure_afl.errors import DataError

if TYPE_CHECKING:
    from secure_afl.tables.encoding import Design
    from secure_afl.tables.model import Model

ModelFile = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A model file, .safetensors.", exists=True, dir_okay=False)
]


class Format(StrEnum):
    """Of `show`."""

    TEXT = "text"
    MARKDOWN = "markdown"
    HTML = "html"
    CSV = "csv"


def predict_command(
    model: ModelFile,
    file: Table,
    out: Annotated[Path, typer.Option(help="Write the predictions to this file (.csv).", dir_okay=False)],
    separator: Separator = "",
    decimal: Decimal = ".",
    encoding: Encoding = "utf-8",
    sheet: Sheet = "",
    query: Query = "",
) -> None:
    """Predict the outcome of every row of a raw table, which the model's codebook encodes.

    One line a row: its number in the table, the prediction, and for classes their scores. Rows that the codebook leaves
    out have no prediction.
    """
    with refusals_shown():
        from secure_afl.tables import encoding as rows
        from secure_afl.tables import reading
        from secure_afl.tables.model import load

        learned = load(model)
        read = reading.read(file, form(separator, decimal, encoding, sheet, query))
        design = rows.encode(learned.codebook, read, outcome=False)
        write_text(out, _predicted(learned, design), "predictions")
        without = design.counts.rows - design.counts.used
        said = f"{design.counts.used} rows predicted" + (
            f", {without} left out by the codebook" if without else ""
        )
        console.print(said, highlight=False, soft_wrap=True)


def _predicted(model: "Model", design: "Design") -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    classes = model.codebook.classes
    writer.writerow(["row", model.codebook.outcome.column, *(f"score of {one}" for one in classes)])
    scores = model.scores(design.X).tolist() if classes else [[] for _ in design.rows]
    known = zip(model.predict(design).tolist(), scores, strict=True)
    predicted = dict(zip(design.rows.tolist(), known, strict=True))
    for row in range(1, design.counts.rows + 1):
        value, own = predicted.get(row, ("", [""] * len(classes)))
        writer.writerow([row, value, *own])
    return text.getvalue()


def evaluate_command(
    model: ModelFile,
    file: Table,
    separator: Separator = "",
    decimal: Decimal = ".",
    encoding: Encoding = "utf-8",
    sheet: Sheet = "",
    query: Query = "",
) -> None:
    """How good a model is on a raw table with outcomes, beside what guessing would reach."""
    with refusals_shown():
        from secure_afl.tables import encoding as rows
        from secure_afl.tables import reading
        from secure_afl.tables.model import load

        learned = load(model)
        design = rows.encode(
            learned.codebook, reading.read(file, form(separator, decimal, encoding, sheet, query))
        )
        if not len(design.rows):
            raise DataError("expected rows to evaluate on, the codebook leaves out all of them")
        (_print_classes if learned.codebook.classes else _print_numbers)(learned, design)


def _print_classes(model: "Model", design: "Design") -> None:
    import numpy as np
    from sklearn.metrics import roc_auc_score

    truth, scores = design.outcome, model.scores(design.X)
    assert truth is not None
    guess = scores.argmax(axis=1)
    shown = table("by class", ("class", "rows", "recall", "precision"))
    recalls = []
    for at, name in enumerate(model.outputs):
        mine, said = truth == at, guess == at
        hits = int((mine & said).sum())
        recall = hits / int(mine.sum()) if mine.any() else None
        recalls += [] if recall is None else [recall]
        precision = hits / int(said.sum()) if said.any() else None
        shown.add_row(escape(name), str(int(mine.sum())), _share(recall), _share(precision))
    console.print(shown)
    figures = {
        "rows": str(len(truth)),
        "accuracy": _share(float((guess == truth).mean())),
        "guessing the largest class": _share(float(np.bincount(truth).max() / len(truth))),
        "balanced accuracy": _share(sum(recalls) / len(recalls)),
    }
    if len(model.outputs) == 2 and len(recalls) == 2:
        figures["AUC"] = _share(float(roc_auc_score(truth, scores[:, 1] - scores[:, 0])))
    _print_figures(figures)


def _print_numbers(model: "Model", design: "Design") -> None:
    import numpy as np

    assert design.outcome is not None
    truth = design.outcome.astype(np.float64)
    off = model.predict(design) - truth
    around = truth - truth.mean()
    figures = {
        "rows": str(len(truth)),
        "RMSE": f"{np.sqrt((off**2).mean()):.4g}",
        "MAE": f"{abs(off).mean():.4g}",
        "RMSE of guessing the mean": f"{np.sqrt((around**2).mean()):.4g}",
    }
    if (around != 0).any():
        figures["R²"] = f"{1 - (off**2).sum() / (around**2).sum():.3f}"
    _print_figures(figures)


def _print_figures(figures: dict[str, str]) -> None:
    for name, text in figures.items():
        console.print(f"{name:<27}{text}", highlight=False)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def show_command(
    model: ModelFile,
    format: Annotated[Format, typer.Option(help="How to write the table.")] = Format.TEXT,
    out: Annotated[
        Path | None, typer.Option(help="Write to this file; default the terminal.", dir_okay=False)
    ] = None,
) -> None:
    """A model's coefficients in the table's units, with standard errors and intervals where the sum gave them."""
    with refusals_shown():
        from secure_afl.tables import shown
        from secure_afl.tables.model import load

        learned = load(model)
        if format is Format.TEXT and out is None:
            table_ = table("coefficients", shown.heading(learned), names=2)
            for row in shown.cells(learned):
                table_.add_row(*map(escape, row))
            console.print(table_)
            for note in shown.notes(learned):
                console.print(escape(note), highlight=False, soft_wrap=True)
            return
        made = {
            Format.TEXT: shown.markdown,
            Format.MARKDOWN: shown.markdown,
            Format.HTML: shown.page,
            Format.CSV: shown.comma_separated,
        }[format](learned)
        if out is None:
            print_data(made)
        else:
            write_text(out, made, "table")
