"""The command line of model files: `secure-afl predict`, `evaluate` and `show`.

Of a network these are what a node kept: `model.npz` or `personal.npz`, with the study beside them.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secure_afl.cli.evaluation import print_classified, print_measured
from secure_afl.cli.options import FORM, Table, Written, options
from secure_afl.cli.terminal import console, escape, print_data, refusals_shown, say, table, write_text
from secure_afl.errors import DataError

if TYPE_CHECKING:
    from secure_afl.node.study import Floats, Labels, NetworkStudy
    from secure_afl.tables.encoding import Design
    from secure_afl.tables.model import Model

ModelFile = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A model file, .safetensors.", exists=True, dir_okay=False)
]
AnyModel = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="A model file, .safetensors; or a network's model.npz or personal.npz, for an .npz file of samples.",
        exists=True,
        dir_okay=False,
    ),
]
StudyFile = Annotated[
    Path | None,
    typer.Option(
        "--study",
        help="The study of a network's model, its backbone beside it; default: study.toml beside the model.",
        exists=True,
        dir_okay=False,
    ),
]
NETWORK = ".npz"


class Format(StrEnum):
    """How `show` writes a table."""

    TEXT = "text"
    MARKDOWN = "markdown"
    HTML = "html"
    CSV = "csv"


@options(written=FORM)
def predict_command(
    model: AnyModel,
    file: Table,
    out: Annotated[Path, typer.Option(help="Write the predictions to this file (.csv).", dir_okay=False)],
    study: StudyFile = None,
    *,
    written: Written,
) -> None:
    """Predict the outcome of every row of a raw table, which the model's codebook encodes.

    One line a row: its number in the table, the prediction, and for classes their scores. Rows that the codebook leaves
    out have no prediction.
    """
    with refusals_shown():
        if any(out.exists() and one.exists() and out.samefile(one) for one in (model, Path(file))):
            raise DataError(
                f"{out}: expected a file for the predictions, got the model or the rows to predict: name another"
            )
        if model.suffix == NETWORK:
            agreed, scores, _ = _of_network(model, study, file, labelled=False)
            known = zip([agreed.classes[at] for at in scores.argmax(axis=1)], scores.tolist(), strict=True)
            text = _lines(agreed.label, agreed.classes, dict(enumerate(known, 1)), len(scores))
            write_text(out, text, "predictions")
            say(f"{len(scores)} rows predicted")
            return
        from secure_afl.tables import encoding as rows
        from secure_afl.tables import reading
        from secure_afl.tables.model import load

        learned = load(model)
        read = reading.read(file, written.form)
        design = rows.encode(learned.codebook, read, outcome=False)
        write_text(out, _predicted(learned, design), "predictions")
        without = design.counts.rows - design.counts.used
        said = f"{design.counts.used} rows predicted" + (
            f", {without} left out by the codebook" if without else ""
        )
        say(said)


def _of_network(
    model: Path, study: Path | None, file: str, *, labelled: bool
) -> "tuple[NetworkStudy, Floats, Labels]":
    """The study, scores (rows, classes) and labels of a file of samples."""
    from secure_afl.node.site import kept_network

    path = study or model.parent / "study.toml"
    agreed, layers = kept_network(model, path)
    X, y = agreed.read_arrays(Path(file), labelled=labelled)
    return agreed, agreed.scores(X, layers, path.parent), y


def _predicted(model: "Model", design: "Design") -> str:
    classes = model.codebook.classes
    scores = model.scores(design.X).tolist() if classes else [[] for _ in design.rows]
    known = zip(model.predict(design).tolist(), scores, strict=True)
    predicted = dict(zip(design.rows.tolist(), known, strict=True))
    return _lines(model.codebook.outcome.column, classes, predicted, design.counts.rows)


def _lines(outcome: str, classes: Sequence[str], predicted: Mapping[int, Any], rows: int) -> str:
    """A line for each row, numbered from 1; without a prediction for those that `predicted` leaves out."""
    from secure_afl.tables.shown import harmless

    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", harmless(outcome), *(f"score of {one}" for one in classes)])
    for row in range(1, rows + 1):
        value, own = predicted.get(row, ("", [""] * len(classes)))
        writer.writerow([row, harmless(value), *own])
    return text.getvalue()


@options(written=FORM)
def evaluate_command(
    model: AnyModel,
    file: Table,
    study: StudyFile = None,
    *,
    written: Written,
) -> None:
    """How good a model is on a raw table with outcomes, beside what guessing would reach."""
    with refusals_shown():
        from secure_afl.analytic.evaluation import classified, measured

        if model.suffix == NETWORK:
            import numpy as np

            agreed, scores, y = _of_network(model, study, file, labelled=True)
            if not len(y):
                raise DataError("expected rows to evaluate on, the file has none")
            truth = [agreed.classes.index(label) for label in y.tolist()]
            print_classified(classified(np.array(truth), scores, agreed.classes))
            return
        import msgspec

        from secure_afl.tables import encoding as rows
        from secure_afl.tables import filter as row_filter
        from secure_afl.tables import reading
        from secure_afl.tables.model import load

        learned = load(model)
        read = reading.read(file, written.form)
        book = learned.codebook
        if book.marks and not set(row_filter.columns(book.marks)) <= set(read.columns):
            book = msgspec.structs.replace(book, held_out="")  # another table than the model is of
        design = rows.encode(book, read)
        if design.held_out is not None:
            known = int((~design.held_out).sum())
            design = rows.only_held_out(design)
            say(f"{len(design.rows):,} held-out rows; the model may have learned from the other {known:,}")
        if out := design.counts.rows - design.counts.used:
            say(f"{out:,} rows left out by the codebook")
        if not len(design.rows):
            raise DataError("expected rows to evaluate on, the table has none that the codebook takes")
        assert design.outcome is not None
        if learned.codebook.classes:
            print_classified(classified(design.outcome, learned.scores(design.X), learned.outputs))
        else:
            unit = getattr(learned.codebook.outcome, "unit", "")
            print_measured(measured(design.outcome, learned.predict(design)), unit)


def print_coefficients(model: "Model") -> None:
    """A model as a regression table."""
    from secure_afl.tables import shown

    lines = table("coefficients", shown.heading(model), names=2)
    for row in shown.cells(model):
        lines.add_row(*map(escape, row))
    console.print(lines)


def show_command(
    model: ModelFile,
    format: Annotated[Format, typer.Option(help="How to write the table.")] = Format.TEXT,
    out: Annotated[
        Path | None, typer.Option(help="Write to this file; default: the terminal.", dir_okay=False)
    ] = None,
) -> None:
    """A model's coefficients in the table's units, with standard errors and intervals where the sum gave them."""
    with refusals_shown():
        from secure_afl.tables import shown
        from secure_afl.tables.model import load

        learned = load(model)
        if format is Format.TEXT and out is None:
            print_coefficients(learned)
            for note in shown.notes(learned):
                say(escape(note))
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
