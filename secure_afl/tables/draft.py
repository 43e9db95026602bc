"""A codebook proposed from one table, for its owner to finish. It is a start and no answer: it tells of the rows."""

import json
import math
from collections.abc import Iterator, Sequence

import numpy as np

from secure_afl.crypto.errors import optional
from secure_afl.tables.cells import Cells, distinct, to_numbers
from secure_afl.tables.faults import unreadable
from secure_afl.tables.inferred import MISSING, identifies, likely_marks, no_levels, tells

with optional():
    import pyarrow as pa

_MOST_LEVELS = 30
_MANY_ROWS = 100
_FEW_NUMBERS = 10  # different whole numbers that may as well be codes
_NO_YES = [
    "no/yes",
    "n/y",
    "false/true",
    "f/t",
    "0/1",
    "absent/present",
    "negative/positive",
    "nein/ja",
    "n/j",
    "falsch/wahr",
    "non/oui",
    "faux/vrai",
    "no/sí",
    "no/si",
    "falso/vero",
    "não/sim",
    "nee/ja",
    "nej/ja",
]
_COMMAS = "numbers with commas; draft again with --decimal , if these are decimal commas, remove them if they separate thousands"
_HEAD = """# Drafted from {source}. Finish it before anybody else sees it:
# - Ranges and levels below come from these rows, ranges rounded outwards. They must come from what is known of each
#   quantity, so that every party's rows fit and the codebook tells nothing about yours. Replace them.
# - Say what "missing" means in each column, and whether such rows are flagged or left out (when_missing).
# - Remove columns that nothing should be learned from.
"""


def draft(cells: Cells, *, outcome: str = "", site: str = "") -> str:
    """A codebook in TOML with a comment wherever a decision is left. outcome, site: names of such columns.

    Raises `DataError` if there is no such column.
    """
    lines = [_HEAD.format(source=cells.source)]
    if site:
        cells.column(site)
        lines += [f"site = {_quoted(site)}", ""]
    lines.append("[columns]")
    used = [name for name in cells.columns if name not in (outcome, site)]
    lines += [line for name in used for line in _column(cells, name, outcome)]
    lines += ["", *_outcome(cells, outcome)]
    return "\n".join(lines) + "\n"


def _column(cells: Cells, name: str, outcome: str) -> Iterator[str]:
    key = (
        _quoted(name) if not name.replace("_", "").replace("-", "").isalnum() or not name.isascii() else name
    )
    numbers = cells.numbers(name)
    text = distinct(cells.column(name))
    likely = likely_marks(numbers[~np.isnan(numbers)])
    written = to_numbers(pa.chunked_array([list(text)], pa.string()), cells.decimal)
    marks = [
        cell for cell, value in zip(text, written, strict=True) if cell.lower() in MISSING or value in likely
    ]
    words = [cell for cell in text if cell not in marks]
    said = f", missing = {_list(marks)}" if marks else ""
    known = numbers[~np.isnan(numbers) & ~np.isin(numbers, likely)]
    if outcome and len(words) > 1 and tells(cells, name, outcome):
        yield f"# {key} tells the outcome of every row: remove it unless it is known beforehand"
    if not words:
        yield f"# {key}: left out, no cell has a value"
    elif len(words) == 1 and not marks:
        yield f"# {key}: left out, every row has {_quoted(words[0])}; declare it by hand if other parties' rows differ"
    elif cells.decimal == "." and len(words) > 1 and _decimal_commas(words):
        yield f"# {key}: left out, {_COMMAS}"
    elif len(known) == cells.rows and (why := identifies(cells, name, numbers)):
        yield f"# {key}: left out, {why}"
    elif len(words) == 2 and (pair := _yes_no(words)):
        no, yes = pair
        yield f'{key} = {{ kind = "yes/no", yes = {_list([yes])}, no = {_list([no])}{said} }}'
    elif len(known) == cells.rows - sum(text[mark] for mark in marks):
        low, high = rounded_range(float(known.min()), float(known.max()))
        different = len(known) >= _MANY_ROWS and len(words) == len(known) and (known == np.rint(known)).all()
        note = "; if it names people, as no two rows have the same, remove it" if different else ""
        yield f'{key} = {{ kind = "number", range = [{low:g}, {high:g}], unit = ""{said} }}  # replace the range{note}'
        if len(words) <= _FEW_NUMBERS and (known == np.rint(known)).all():
            levels = [f"{value:g}" for value in np.unique(known)]
            yield f'# or, if these are codes: {key} = {{ kind = "category", levels = {_list(levels)}{said} }}'
    elif len(known):
        few = [cell for cell in words if not _finite(cell)]
        yield (
            f"# {key}: left out, it has numbers and other cells such as {_list(few[:3])}; list these as missing or "
            "declare a category"
        )
    elif remedy := unreadable(words, ""):
        yield f"# {key}: left out, it has cells such as {_list(words[:3])}: {remedy}"
    elif len(words) > _MOST_LEVELS:
        yield f"# {key}: left out, {len(words)} different words look like names or an identifier"
    elif why := no_levels(words):
        yield f"# {key}: left out, {why}"
    else:
        yield f'{key} = {{ kind = "category", levels = {_list(words)}{said} }}  # the first is the reference'


def _outcome(cells: Cells, name: str) -> Iterator[str]:
    if not name:
        yield "# What is to be predicted, and no column above:"
        yield "# [outcome]"
        yield '# kind = "classes"                 # or "number", with range = [low, high]'
        yield '# column = "…"'
        yield '# classes = ["no", "yes"]          # or { well = ["0"], ill = ["1", "2"] }'
        return
    numbers, text = cells.numbers(name), distinct(cells.column(name))
    marks = [cell for cell in text if cell.lower() in MISSING]
    words = [cell for cell in text if cell not in marks]
    known = numbers[~np.isnan(numbers)]
    if cells.decimal == "." and len(words) > 1 and _decimal_commas(words):
        yield f"# {_quoted(name)}: {_COMMAS}"
        return
    if len(words) < 2:
        yield f"# {_quoted(name)} has {_list(words)} in every row: from these rows alone there is nothing to learn. Other"
        yield "# parties may have more: complete the classes, or the range of a number."
    elif len(words) > _MOST_LEVELS and not len(known):
        yield f"# {_quoted(name)} has {len(words)} different words, such as {_list(words[:3])}: no classes. Correct the table, or"
        yield '# name the classes and the cells that mean each: classes = { well = ["0"], ill = ["1", "2"] }'
        return
    measured = len(known) and (len(words) > _MOST_LEVELS or bool((known != np.rint(known)).any()))
    yield "[outcome]"
    yield f'kind = "{"number" if measured else "classes"}"'
    yield f"column = {_quoted(name)}"
    if measured:
        low, high = rounded_range(float(known.min()), float(known.max()))
        yield f"range = [{low:g}, {high:g}]  # replace"
        yield 'unit = ""'
    else:
        yield f"classes = {_list(words)}"
        if len(words) > 2 and len(known) == cells.rows - sum(text[mark] for mark in marks):
            low, high = rounded_range(float(known.min()), float(known.max()))
            yield f'# or, for a quantity: kind = "number", range = [{low:g}, {high:g}] and unit = "", without classes'
    if marks:
        yield f"missing = {_list(marks)}  # these rows are left out"


def rounded_range(low: float, high: float) -> tuple[float, float]:
    """A range around two numbers that ends at 0, or at 1, 2 or 5 times a power of ten."""
    low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        return 0.0, 1.0
    return -_up(-low) or 0.0, _up(high)


def _up(value: float) -> float:
    """The least of 0, 1, 2 and 5 times powers of ten that is no smaller."""
    if value <= 0:
        return 0.0
    power = 10.0 ** math.floor(math.log10(value))
    return next((step * power for step in (1, 2, 5, 10) if step * power >= value), 20 * power)


def _yes_no(words: Sequence[str]) -> tuple[str, str] | None:
    """The words for no and yes, if that is what two words are."""
    for no, yes in ((words[0], words[1]), (words[1], words[0])):
        if f"{no}/{yes}".lower() in _NO_YES:
            return no, yes
    return None


def _decimal_commas(words: Sequence[str]) -> bool:
    """Whether some of these are not numbers as they stand, and all are once commas are read as points."""
    return any("," in word for word in words) and all(_finite(word.replace(",", ".", 1)) for word in words)


def _finite(text: str) -> bool:
    from secure_afl.tables.cells import is_number

    return is_number(text)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _list(words: Sequence[str]) -> str:
    return json.dumps(list(words), ensure_ascii=False)
