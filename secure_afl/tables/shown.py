"""A model as a regression table, as papers print it: text, Markdown, HTML and CSV out of the same rows."""

import csv
import html
import io
import math
from collections.abc import Sequence
from math import isnan
from typing import NamedTuple

import numpy as np

from secure_afl.tables.model import Model
from secure_afl.tables.terms import in_table_units

_NO_ERROR = 1e-6  # a standard error, in parts of the largest coefficient


class Line(NamedTuple):
    """One coefficient, in the table's units. Numbers but the coefficient are None without standard errors.

    t: of a logistic or Poisson regression z. ratio, ratio_low, ratio_high: of these the odds or rate ratio, the exponentials
    of the coefficient and of its limits.
    """

    output: str
    term: str
    unit: str
    coefficient: float
    error: float | None = None
    low: float | None = None
    high: float | None = None
    t: float | None = None
    p: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None


def lines(model: Model) -> list[Line]:
    """The intercept and every feature; of two classes for the second one, as the first is its opposite. With standard errors
    it is least squares without a penalty and its 95 % intervals, else the ridge model itself.
    """
    names, units = ["intercept"], [""]
    for term in model.terms:
        names.append(term.name)
        units.append(term.unit)
    outputs = [1] if len(model.codebook.classes) == 2 else range(len(model.outputs))
    family = model.about.family
    freedom = math.inf if family else model.about.freedom
    if model.ls_coef is None or model.ls_se is None or freedom is None:
        coef, intercept = in_table_units(model.terms, model.coef, model.intercept)
        fitted = np.vstack([intercept, coef.T])
        found = []
        for at in outputs:
            for row, (name, unit) in enumerate(zip(names, units, strict=True)):
                value = float(fitted[row, at])
                ratio = _exp(value) if family else None
                found.append(Line(model.outputs[at], name, unit, value, ratio=ratio))
        return found
    from scipy.special import stdtr, stdtrit

    reach = float(stdtrit(freedom, 0.975))  # with infinite freedom of the normal distribution
    found = []
    for at in outputs:
        for row, (name, unit) in enumerate(zip(names, units, strict=True)):
            value, error = float(model.ls_coef[row, at]), float(model.ls_se[row, at])
            t = value / error if error > 0 else math.nan
            p = float(2 * stdtr(freedom, -abs(t)))
            limits = (value - reach * error, value + reach * error)
            ratios = [_exp(one) for one in (value, *limits)] if family else []
            found.append(Line(model.outputs[at], name, unit, value, error, *limits, t, p, *ratios))
    return found


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


EXACT = (
    "the columns give the outcome without any error, so p says nothing: does one of them tell the outcome?"
)


def exact(model: Model) -> bool:
    """Whether least squares leaves no residual, so that standard errors are 0 or what rounding makes of it."""
    if model.about.family or model.ls_coef is None or model.ls_se is None:
        return False
    known = np.isfinite(model.ls_se)
    return bool((model.ls_se[known] <= _NO_ERROR * abs(model.ls_coef[known]).max(initial=0)).all())


def ratio(model: Model) -> str:
    """What the exponential of a coefficient is called; empty for least squares."""
    return {"logistic": "odds ratio", "poisson": "rate ratio", "": ""}[model.about.family]


def heading(model: Model) -> list[str]:
    """Which columns `cells` gives. Limits are those of the ratio, where there is one."""
    errors = ["95 % low", "95 % high", "SE", "t", "p"] if model.ls_se is not None else []
    named = ratio(model)
    if named:
        errors = [named, *("z" if one == "t" else one for one in errors)]
    return [*(["outcome"] if _several(model) else []), "term", "unit", "coefficient", *errors]


def cells(model: Model) -> list[list[str]]:
    """The table as text, a list for each line."""
    shown = []
    for line in lines(model):
        unknown = line.error is not None and isnan(line.error)
        limits = (
            (line.low, line.high) if line.ratio is None else (line.ratio, line.ratio_low, line.ratio_high)
        )
        numbers = [one for one in (line.coefficient, *limits, line.error) if one is not None]
        texts = [number(math.nan if unknown else one) for one in numbers]
        if line.t is not None and line.p is not None:
            texts += [number(line.t, 3), "<0.001" if line.p < 0.001 else number(line.p, 3)]
        shown.append([*([line.output] if _several(model) else []), line.term, line.unit, *texts])
    return shown


def notes(model: Model) -> list[str]:
    """What a reader must know besides."""
    about, target = model.about, model.codebook.outcome
    of = f"1 for {model.outputs[1]}, 0 for {model.outputs[0]}" if len(model.codebook.classes) == 2 else ""
    unit = getattr(target, "unit", "")
    said = [f"outcome: {target.column}" + (f" ({of or unit})" if of or unit else "")]
    said.append(f"data: {about.data}" + (f", {about.rows} rows" if about.rows is not None else ""))
    if about.family and about.deviance is not None:
        said.append(f"{about.family} regression, maximum likelihood; deviance {about.deviance:.6g}")
    if model.ls_se is not None:
        if not about.family:
            said.append(
                f"least squares, {about.freedom} degrees of freedom; predictions use a ridge of {about.ridge:g}"
            )
        if not np.isfinite(model.ls_se).all():
            said.append("a dash: the column is constant, or follows from those above it")
        if exact(model):
            said.append(EXACT)
    else:
        penalty = "ridge" if about.ridge is None else f"ridge of {about.ridge:g}"
        said.append(f"{penalty}; no standard errors: {about.no_errors}")
    if model.codebook.least_rows > 1 and not about.privacy:
        said.append(
            f"least_rows {model.codebook.least_rows} of the codebook: sites may have coded rare or outlying values as others"
        )
    parties = [", ".join(one) for one in about.survivors]
    said.append(f"sums over: {'; '.join(parties)}, by {about.backend}" if parties else f"by {about.backend}")
    if about.certificate is not None:
        said.append(f"distance to the weights of the pooled rows: at most {about.certificate:.1e}, proven")
    if about.privacy:
        said.append(f"differential privacy: {about.privacy}")
    if about.verified:
        more = f" and {len(about.verified) - 1} more" if len(about.verified) > 1 else ""
        said.append(
            f"verified: yes, its party computed it from sums that it checked ({about.verified[0][:16]}{more})"
        )
    if about.unverified:
        said.append(f"verified: no, {about.unverified}")
    if about.session:
        said.append(f"session {about.session[:16]}")
    said.append(f"codebook {model.codebook.digest[:16]}")
    return said


def markdown(model: Model) -> str:
    """A table of Markdown, and notes."""
    head = heading(model)
    rule = ["---" if name in ("outcome", "term", "unit") else "---:" for name in head]
    rows = [head, rule, *([cell.replace("|", "\\|") for cell in row] for row in cells(model))]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([table, "", *(f"- {note}" for note in notes(model))]) + "\n"


def page(model: Model) -> str:
    """An HTML page."""

    def row(tag: str, texts: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts) + "</tr>"

    body = "\n".join(row("td", texts) for texts in cells(model))
    said = "\n".join(f"<li>{html.escape(note)}</li>" for note in notes(model))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Coefficients</title></head><body>\n'
        f"<table>\n{row('th', heading(model))}\n{body}\n</table>\n<ul>\n{said}\n</ul>\n</body></html>\n"
    )


def harmless(cell: object) -> object:
    """A cell for a file that a spreadsheet may open: a text that it would compute as a formula (`=`, `+`, `-`, `@` first, and
    no number) gets an apostrophe in front, others stay.
    """
    if not isinstance(cell, str) or not cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def comma_separated(model: Model) -> str:
    """All digits, a line for each coefficient."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(Line._fields)
    writer.writerows([["" if one is None else harmless(one) for one in line] for line in lines(model)])
    return text.getvalue()


def _several(model: Model) -> bool:
    return len(model.codebook.classes) > 2


def number(value: float, digits: int = 4) -> str:
    """A number as text; a dash for NaN, which is the error of a column without a weight."""
    return "–" if isnan(value) else f"{value:.{digits}g}"
