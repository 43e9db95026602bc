"""What a property is, and what it says of a history: a row of the report."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from secure_afl.protocol.session.errors import visible
from secure_afl.testing.judging.history import Asked, Fresh, History

Verdict = Literal["passed", "failed", "not claimed", "not judged"]


@dataclass(frozen=True)
class Row:
    """One property. note: what was seen, the reason, or the extent; replay: what shows it again; schedule: the same, as data.

    A note can hold text of the system under test, so it has no characters that steer a terminal or that XML forbids.
    """

    name: str
    claim: str
    verdict: Verdict
    note: str = ""
    replay: str = ""
    seconds: float = 0.0
    schedule: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "note", visible(self.note, kept="\n"))


@dataclass
class Judged:
    """What a property has seen: how many cases, how many of these were summed, and the first that is against it."""

    cases: int = 0
    summed: int = 0
    note: str = ""
    seen: str | None = None
    replay: str = ""

    def against(self, seen: str, system: Fresh) -> None:
        if self.seen is None:
            self.seen, self.replay = seen, system.replay


Check = Callable[[History, Judged], None]


@dataclass(frozen=True)
class Property:
    """claim: after "expected that"; needs: the claims without which it is not judged; depends: what must hold first."""

    name: str
    claim: str
    check: Check
    needs: tuple[str, ...] = ()
    depends: tuple[str, ...] = ("sums_are_right",)

    def judge(self, history: History, judged: Judged | None = None) -> Row:
        """The verdict on a history; with what was judged before, on both."""
        for one in self.needs:
            if not getattr(history.claims, one):
                return Row(self.name, self.claim, "not claimed", f"it does not claim `{one}`")
        judged = judged or Judged()
        self.check(history, judged)
        if judged.seen is not None:
            return Row(self.name, self.claim, "failed", judged.seen, schedule=judged.replay)
        if not judged.cases:
            return Row(
                self.name, self.claim, "not judged", judged.note or "the record has no session that shows it"
            )
        return Row(self.name, self.claim, "passed", judged.note or f"{judged.cases} cases")


def described(asked: Asked) -> str:
    """A sum in words: its number, clients, length and losses."""
    held = asked.held
    session = held.system.held.index(held)
    where = f"sum {asked.number + 1} of {len(held.lengths)}"
    if session:
        where += f" in session {session + 1}"
    lost = f", {', '.join(sorted(asked.lost))} lost" if asked.lost else ""
    return f"{where} ({len(held.clients)} clients, {asked.length} values{lost})"
