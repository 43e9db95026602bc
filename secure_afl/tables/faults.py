"""What does not fit in a table, grouped by column and by what was expected there."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from secure_afl.errors import DataError

_SHOWN = 3  # rows, and cells, of one fault in a text
_LINES = 20  # faults in a text
_LETTERS = 60  # of a quoted cell
DECLARE = "correct the cells, or say in a codebook what they mean (--codebook)"
Remedy = str | Callable[[list[str]], str]
"""What can be done, or what says so for the offending texts."""


@dataclass(frozen=True)
class Fault:
    """Cells of one column that do not fit for one reason.

    column: its name, or empty for whole rows. cells: each offending text with its data rows, counted from 1.
    expected: what would have fitted. remedy: what the table's owner can do.
    """

    column: str
    cells: Mapping[str, Sequence[int]]
    expected: str
    remedy: str = ""

    @property
    def rows(self) -> list[int]:
        """The data rows, in order."""
        return sorted({row for rows in self.cells.values() for row in rows})

    def text(self, *, quoted: bool) -> str:
        """One sentence. quoted: with cells, for the owner of the table."""
        where = [f"column {self.column!r}"] if self.column else []
        got = enumerated([repr(cut(cell)) if self.column else cell for cell in self.cells])
        said = f"{got}, expected {self.expected}" if quoted else f"expected {self.expected}"
        text = f"{', '.join([*where, numbered(self.rows)])}: {said}"
        return f"{text}; {self.remedy}" if self.remedy else text


class TableError(DataError):
    """Cells that do not fit, all of them. The text quotes cells, for the table's owner; `public` does not.

    The text is about the first fault; the others follow as notes.
    """

    def __init__(self, source: str, faults: Sequence[Fault]) -> None:
        self.source = source
        self.faults = tuple(faults)
        first, *others = faults
        super().__init__(f"{source}, {first.text(quoted=True)}")
        for fault in others[:_LINES]:
            self.add_note(fault.text(quoted=True))
        if len(others) > _LINES:
            self.add_note(f"and {len(others) - _LINES} more faults")

    @property
    def public(self) -> str:
        """The text without cells, for logs."""
        shown = [fault.text(quoted=False) for fault in self.faults[:_SHOWN]]
        if len(self.faults) > _SHOWN:
            shown.append(f"and {len(self.faults) - _SHOWN} more faults")
        return f"{self.source}, {'; '.join(shown)}"

    @property
    def private(self) -> list[str]:
        """One line a fault, with cells, for the table's owner."""
        return [self.args[0].removeprefix(f"{self.source}, "), *getattr(self, "__notes__", [])]


def refuse(source: str, faults: Sequence[Fault]) -> None:
    """Raises `TableError` if there are any."""
    if faults:
        raise TableError(source, faults)


_REMEDIES = {
    ".*%": "write percentages as numbers without the sign",
    r"[+-]?\d+,\d+": "if the comma is a decimal comma, say so (decimal); if it separates thousands, remove it",
    r"[+-]?\d{1,3}(['’\s]\d{3})+": "write the digits of a number without a sign or blank between them",
    r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}\b.*": "write a date as a number, such as an age or the days since an event",
}
"""For the first pattern that fits one of the cells."""


def unreadable(cells: list[str], otherwise: str = DECLARE) -> str:
    """The remedy for texts that were expected to be numbers."""
    for pattern, remedy in _REMEDIES.items():
        if any(re.fullmatch(pattern, cell) for cell in cells):
            return remedy
    return otherwise


def numbered(rows: Sequence[int]) -> str:
    """Data rows for people: the first few, and how many more."""
    return f"data row{'s' if len(rows) > 1 else ''} {enumerated([str(row) for row in rows])}"


def enumerated(words: Iterable[str], shown: int = _SHOWN) -> str:
    """The first few words, and how many more."""
    listed = list(words)
    more = [f"{len(listed) - shown} more"] if len(listed) > shown + 1 else []
    listed = listed[:shown] if more else listed
    return ", ".join(listed) + "".join(f" and {one}" for one in more)


def cut(cell: str) -> str:
    """The first letters of a text."""
    return cell if len(cell) <= _LETTERS else f"{cell[:_LETTERS]}…"
