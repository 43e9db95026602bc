"""What a run found out, on a terminal, for a reader who knows hospitals and no cryptography."""

from collections.abc import Mapping
from math import floor, isnan, log10
from typing import Any

import numpy as np
from rich.markup import escape

from secure_afl.cli.terminal import console, table
from secure_afl.simulations.study.report import Run
from secure_afl.simulations.study.settings import REGRESSIONS
from secure_afl.tables.codebook import Category, YesNo
from secure_afl.tables.model import Model
from secure_afl.tables.shown import EXACT, Line, exact, lines, number, ratio

_MOST = 20  # clients that are listed
_MOST_LINES = 60  # coefficients that are listed
_SENT = {
    "mask": "masked",
    "bfv": "encrypted",
    "ckks": "encrypted",
    "bfv+mask": "masked and encrypted",
    "plain": "readable",
}
_SENTENCES = {
    "mask": "Masked: random numbers to everyone but the client. The masks cancel when all vectors are added: the "
    "server learns the total, and of a client's own vector nothing.",
    "bfv": "Encrypted: the server adds up ciphertexts, and only the key holders can open the total.",
    "ckks": "Encrypted: the server adds up ciphertexts, and only the key holders can open the total.",
    "bfv+mask": "Masked, then encrypted: neither the server nor the key holders can read a client's vector.",
    "plain": "Readable: the server sees every client's statistics.",
}


def print_table_one(figures: Mapping[str, Any]) -> None:
    """Means and shares of the training rows in the sum. figures: of a run; nothing is printed for one without."""
    found = figures.get("table_one")
    if not found:
        return
    shown = table(
        f"Table 1: the {found['rows']:,} training rows in the sum. Numbers: mean ± SD of the known values. Categories: "
        f"share of each level. A dash hides fewer than {found['least_rows']} rows",
        ("column", "all clients together", "missing"),
        names=2,
    )
    for row in described(found):
        shown.add_row(*map(escape, row))
    console.print(shown)
    if said := changed(figures):
        console.print(said, highlight=False)


def changed(figures: Mapping[str, Any]) -> str:
    """What disclosure control changed of the rows that means, shares and effects are of; empty for nothing. figures: of a run."""
    found = figures["disclosure"]
    clients = (found["by_client"] or {}).values()
    values, rows = (sum(one[name] for one in clients) for name in ("values_changed", "rows_left_out"))
    if not values and not rows:
        return ""
    return (
        f"These are the rows as clients sent them (least_rows {found['least_rows']}): {values:,} rare or outlying values were coded "
        f"as others and {rows:,} rows of rare classes left out, so means, shares and effects differ from those of the raw rows"
    )


def described(table_one: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, values in short, and share of rows without one, for each column. table_one: of a run's figures."""
    return [(one["name"], _summary(one), share(one["missing"])) for one in table_one["lines"]]


def _summary(line: Mapping[str, Any]) -> str:
    if line["levels"]:
        return ", ".join(f"{level} {share(part)}" for level, part in line["levels"].items())
    if line["mean"] is None:
        return "–"
    return f"{line['mean']:.4g} ± {line['deviation']:.3g} {line['unit']}".rstrip()


def share(value: float | None) -> str:
    """A share in percent; a dash for what is suppressed."""
    return "–" if value is None else f"{value:.1%}"


def print_coefficients(model: Model) -> None:
    """What the model says of each column, in the table's units."""
    names, found = headings(model), effects(model)
    shown = table(escape(meaning(model)), names, names=names.index("column") + 1)
    for row in found[:_MOST_LINES]:
        shown.add_row(*map(escape, row))
    console.print(shown)
    if len(found) > _MOST_LINES:
        more = f"… and {len(found) - _MOST_LINES} more: --model-out FILE, then secure-afl show FILE"
        console.print(more, highlight=False)
    console.print(escape(remarks(model)), highlight=False)


def headings(model: Model) -> list[str]:
    """Headings of the columns of `effects`."""
    outcome = ["outcome"] if len(model.codebook.classes) > 2 else []
    return [
        *outcome,
        "column",
        ratio(model) or "effect",
        *(["95 % interval", "p"] if model.ls_se is not None else []),
    ]


def effects(model: Model) -> list[list[str]]:
    """A line for each coefficient, as text."""
    several = len(model.codebook.classes) > 2
    return [[*([one.output] if several else []), called(model, one), *_effect(one)] for one in lines(model)]


def remarks(model: Model) -> str:
    """What a reader of `effects` must know."""
    columns = model.codebook.columns
    bases = [f"{name} {kind.base}" for name, kind in columns.items() if isinstance(kind, Category)]
    told = [f"Reference levels: {', '.join(bases)}."] if bases else []
    if model.ls_se is None:
        return " ".join([*told, f"No intervals: {model.about.no_errors}."])
    nothing = 1 if model.about.family else 0
    told.append(f"An interval without {nothing} (p below 0.05) is hardly chance.")
    if not np.isfinite(model.ls_se).all():
        told.append("A dash: the column is constant, or follows from those above it.")
    if exact(model):
        told.append(f"{EXACT[0].upper()}{EXACT[1:]}")
    if not model.about.family:
        told.append(
            "These are least squares; predictions use a ridge, which draws effects slightly towards 0."
        )
    return " ".join(told)


def meaning(model: Model) -> str:
    """What an effect is."""
    column, classes = model.codebook.outcome.column, model.codebook.classes
    each = "for one unit more, for yes instead of no, or for a level instead of the reference, with all other columns the same"
    if model.about.family:
        what = f"the odds of {column} = {classes[1]}" if classes else f"the expected {column}"
        return f"{ratio(model).capitalize()}s: by what factor {what} change{'' if classes else 's'} {each}"
    if not classes:
        unit = getattr(model.codebook.outcome, "unit", "")
        what = f"by how much the predicted {column}{unit and f' ({unit})'} is larger"
    elif len(classes) == 2:
        what = f"by how much the predicted share with {column} = {classes[1]} (0 to 1) is larger"
    else:
        what = f"by how much the predicted share of each {column} (0 to 1) is larger"
    return f"Effects: {what} {each}"


def called(model: Model, line: Line) -> str:
    """A coefficient's column, with its unit."""
    if isinstance(model.codebook.columns.get(line.term), YesNo):
        return f"{line.term} = yes"
    return f"{line.term} ({line.unit})" if line.unit else line.term


def _effect(line: Line) -> list[str]:
    """The effect; where it is known, its interval and p, with as many decimals as the standard error deserves."""
    if line.error is None or line.low is None or line.high is None or line.p is None:
        return [number(line.coefficient if line.ratio is None else line.ratio)]
    if isnan(line.error):
        return ["–"] * 3
    p = "<0.001" if line.p < 0.001 else number(line.p, 3) if isnan(line.p) else f"{line.p:.3f}"
    if line.ratio is not None and line.ratio_low is not None and line.ratio_high is not None:
        return [number(line.ratio, 3), f"{number(line.ratio_low, 3)} to {number(line.ratio_high, 3)}", p]
    decimals = min(12, max(0, 1 - floor(log10(line.error)))) if line.error else 4
    effect, low, high = (f"{value:.{decimals}f}" for value in (line.coefficient, line.low, line.high))
    return [effect, f"{low} to {high}", p]


def print_scores(result: Run) -> None:
    """How good each client's three models are: its own, everyone's and its personal one."""
    clients, shown = result.clients(), result.shown
    learned = ("alone", "together", *(["personal"] if result.personal else []))
    what = escape(f"{result.measure[0].upper()}{result.measure[1:]}")
    own = table(f"{what} on each client's own test rows", ("client", "training rows", *learned))
    everyone = table(f"{what} on the test rows of all clients", ("client", *learned))
    for one in clients[:_MOST]:
        name = escape(one.name) + ("" if one.present == "yes" else f" (in the sum: {one.present})")
        mine = {"alone": one.alone, "together": one.together, "personal": one.personal}
        all_ = {
            "alone": one.alone_on_all,
            "together": result.scores["together"],
            "personal": one.personal_on_all,
        }
        own.add_row(name, f"{one.rows:,}", *(shown(mine[model]) for model in learned))
        everyone.add_row(name, *(shown(all_[model]) for model in learned))
    if len(clients) > _MOST:
        own.add_row(f"… and {len(clients) - _MOST} more", *[""] * (1 + len(learned)))
    own.add_section()
    means = result.means()
    own.add_row(
        "mean over rows", f"{sum(one.rows for one in clients):,}", *(shown(means[model]) for model in learned)
    )
    console.print(own)
    console.print(everyone)
    told = "alone: a model of the client's rows. together: the common model."
    if result.figures["model"] in REGRESSIONS:
        told += " A dash for alone: no finite estimate from these rows by themselves."
    if result.personal:
        told += " personal: the common model fitted to the client's rows, by the client itself; nothing leaves it."
    told += " One division into training and test rows decides little: try another --seed."
    console.print(told, highlight=False)


def print_left(result: Run) -> None:
    """What each client sent, and in which form."""
    backend, evaluation = result.figures["backend"], left_for_evaluation(result.figures)
    shown = table(
        f"What left each client{evaluation and ' for the model'}: these bytes and nothing else",
        ("client", "its vector for the sum", "keys"),
        names=1,
    )
    rows = result.left()
    for one in rows[:_MOST]:
        shown.add_row(escape(one.name), f"{one.sums:,} {_SENT[backend]}", f"{one.keys:,}")
    if len(rows) > _MOST:
        shown.add_row(f"… and {len(rows) - _MOST} more", "", "")
    console.print(shown)
    console.print(_SENTENCES[backend], highlight=False)
    if evaluation:
        console.print(evaluation, highlight=False)


def left_for_evaluation(figures: Mapping[str, Any]) -> str:
    """What each client sent besides, for figures of its test rows; empty for nothing. figures: of a run."""
    found = figures["federated_evaluation"]
    if not found:
        return ""
    return (
        f"For the figures on test rows each client sent {found['upload_per_client']:,} bytes more, in a session of their own: "
        f"counts of its test rows, {_SENT[figures['backend']]}, and keys."
    )
