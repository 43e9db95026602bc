"""The offline checker: verdicts on a record of sessions, wherever and in whatever language they were held.

A property looks for the situations that it can judge: sums with a client lost, the same vector twice, and so on. Without
one it is not judged. A wrong sum counts against the property whose situation it is, so that one flaw has one name.
"""

import math
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, pairwise
from typing import Any, Literal

import numpy as np

from secure_afl.protocol.session.errors import visible
from secure_afl.testing import leaks
from secure_afl.testing.record import (
    Claims,
    Crash,
    Generator,
    Input,
    Keys,
    Message,
    Opened,
    Record,
    Refusal,
    Renewed,
    Revealed,
    Sent,
    Spool,
    Sum,
    System,
    Vector,
)

Verdict = Literal["passed", "failed", "not claimed", "not judged"]
_HEADER = 32  # equal blocks of two uploads that may be a header
USUAL = (3, 4, 5)  # cohorts, and lengths up to 64, that are no situation of their own


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


@dataclass(frozen=True)
class Report:
    """The rows of a check. `str` shows them.

    Parameters
    ----------
    system : str
        The system's name.
    rows : tuple of Row
    """

    system: str
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "system", visible(self.system))

    def having(self, verdict: Verdict) -> tuple[str, ...]:
        """The names of the properties with this verdict."""
        return tuple(row.name for row in self.rows if row.verdict == verdict)

    @property
    def failed(self) -> tuple[str, ...]:
        return self.having("failed")

    @property
    def passed(self) -> tuple[str, ...]:
        return self.having("passed")

    def __getitem__(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def __str__(self) -> str:
        wide = max((len(row.name) for row in self.rows), default=0)
        kinds: tuple[Verdict, ...] = ("passed", "failed", "not claimed", "not judged")
        counted = ", ".join(f"{len(self.having(kind))} {kind}" for kind in kinds)
        lines = [f"{self.system}: {counted}"]
        for row in self.rows:
            lines.append(f"  {row.name:{wide}}  {row.verdict:11}  {row.note or row.claim}".rstrip())
            if row.replay:
                lines.append(f"  {'':{wide}}  {'':11}  replay: {row.replay}")
        return "\n".join(lines)


# ---- a record in order ---------------------------------------------------------------------------


@dataclass
class Asked:
    """One request for a sum: what was given, what travelled, what came of it."""

    held: "Held"
    number: int
    inputs: dict[str, Input] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)
    outcome: Sum | Refusal | Crash | None = None
    revealed: list[Revealed] = field(default_factory=list)

    @property
    def lost(self) -> set[str]:
        """Clients that lost a message."""
        gone = {who for one in self.sent if one.fate == "lost" for who in (one.sender, one.receiver)}
        return gone & set(self.held.clients)

    @property
    def altered(self) -> bool:
        return any(one.fate == "altered" for one in self.sent)

    @property
    def length(self) -> int:
        return self.held.lengths[self.number]

    def uploads(self, phases: frozenset[str]) -> dict[str, bytes]:
        """What each client uploaded: the payloads where the system gives them."""
        parts: dict[str, list[bytes]] = defaultdict(list)
        for one in self.sent:
            if one.phase in phases and one.sender in self.inputs:
                parts[one.sender].append(one.upload)
        return {client: b"".join(each) for client, each in parts.items()}

    def arrived(self, phases: frozenset[str]) -> set[str]:
        """Clients with an upload that arrived."""
        return {one.sender for one in self.sent if one.phase in phases and one.fate != "lost"}


@dataclass
class Held:
    """A session."""

    system: "Fresh"
    opened: Opened
    renewed: bool
    sent: list[Sent] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    outcome: Refusal | Crash | None = None

    @property
    def clients(self) -> tuple[str, ...]:
        return self.opened.clients

    @property
    def lengths(self) -> tuple[int, ...]:
        return self.opened.lengths

    @property
    def lost(self) -> set[str]:
        """Clients that lost a message while the session was opened."""
        gone = {who for one in self.sent if one.fate == "lost" for who in (one.sender, one.receiver)}
        return gone & set(self.clients)


@dataclass
class Fresh:
    """A fresh system and its sessions."""

    claims: Claims
    replay: str
    held: list[Held] = field(default_factory=list)
    crashes: list[Crash] = field(default_factory=list)
    generators: list[Generator] = field(default_factory=list)
    keys: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def asked(self) -> Iterator[Asked]:
        for one in self.held:
            yield from one.asked


def in_order(records: Iterable[Record]) -> list[Fresh]:
    """The systems of a record; long messages lie in a temporary file. Raises ValueError for lines that stand where they
    cannot.
    """
    systems: list[Fresh] = []
    spool = Spool()
    session: Held | None = None
    renewed: set[str] = set()
    for one in records:
        if isinstance(one, System):
            systems.append(Fresh(one.claims, one.replay))
            session, renewed = None, set()
            continue
        if not systems:
            raise ValueError("expected a record to begin with a system line")
        system = systems[-1]
        match one:
            case Renewed():
                renewed.add(one.data_set)
                session = None
            case Opened():
                session = Held(system, one, one.data_set in renewed)
                renewed.discard(one.data_set)
                system.held.append(session)
            case Generator():
                system.generators.append(one)
            case Keys():
                system.keys[one.client] = one.digests
            case Crash() if session is None:
                system.crashes.append(one)
            case Refusal() if session is None:
                pass
            case _ if session is None:
                pass  # messages before any session
            case Input():
                asked = session.asked[-1] if session.asked else None
                if asked is None or asked.outcome is not None or asked.number != one.number or asked.sent:
                    if not 0 <= one.number < len(session.lengths):
                        raise ValueError(
                            f"expected an input of one of {len(session.lengths)} sums, got {one.number}"
                        )
                    session.asked.append(asked := Asked(session, one.number))
                asked.inputs[one.client] = one
            case Message():
                sent = session.sent if one.number < 0 else _current(session, one.number).sent
                sent.append(Sent(one, spool))
            case Revealed():
                if session.asked:
                    session.asked[-1].revealed.append(one)
            case Sum() | Refusal() | Crash():
                if one.number < 0:
                    assert not isinstance(one, Sum)
                    session.outcome = one
                else:
                    _current(session, one.number).outcome = one
    return systems


def _current(session: Held, number: int) -> Asked:
    if not session.asked or session.asked[-1].number != number or session.asked[-1].outcome is not None:
        session.asked.append(Asked(session, number))
    return session.asked[-1]


# ---- right and wrong -----------------------------------------------------------------------------


@dataclass
class History:
    """What the properties look at. learnt: systems that only show the shape of messages."""

    systems: list[Fresh]
    claims: Claims
    learnt: list[Fresh] = field(default_factory=list)

    @property
    def asked(self) -> Iterator[Asked]:
        for system in self.systems:
            yield from system.asked

    def _shapes(self) -> Iterator[Asked]:
        for system in (*self.learnt, *self.systems):
            yield from system.asked

    @cached_property
    def uploads(self) -> frozenset[str]:
        """As claimed; or the phases whose messages grow with the vector, by a byte for each value or more."""
        if self.claims.uploads:
            return frozenset(self.claims.uploads)
        sizes: dict[str, dict[int, int]] = defaultdict(dict)
        for one in self._shapes():
            per: dict[tuple[str, str], int] = defaultdict(int)
            for message in one.sent:
                if message.sender in one.inputs:
                    per[message.phase, message.sender] += message.size
            for (phase, _), size in per.items():
                sizes[phase][one.length] = max(sizes[phase].get(one.length, 0), size)
        grown = {
            phase
            for phase, by in sizes.items()
            if max(by) - min(by) >= 20 and by[max(by)] - by[min(by)] >= max(by) - min(by)
        }
        return frozenset(grown or sizes)

    @cached_property
    def width(self) -> int | None:
        """Bytes by which an upload grows with each value, if it is the same number everywhere."""
        sizes: dict[int, set[int]] = defaultdict(set)
        for one in self._shapes():
            if one.lost or one.altered:
                continue
            for upload in one.uploads(self.uploads).values():
                sizes[one.length].add(len(upload))
        lengths = sorted(sizes)
        if len(lengths) < 3 or any(max(each) - min(each) > 8 for each in sizes.values()):
            return None
        first, last = lengths[0], lengths[-1]
        slope = (min(sizes[last]) - min(sizes[first])) / (last - first)
        width = round(slope)
        # A header may hold the length in more or fewer bytes.
        fits = all(abs(min(sizes[one]) - min(sizes[first]) - width * (one - first)) <= 8 for one in lengths)
        return width if 1 <= width <= 16 and fits else None

    def total(self, asked: Asked, survivors: Iterable[str]) -> Vector | None:
        """The exact sum; None where the record has no values."""
        vectors = [asked.inputs[client].vector for client in survivors]
        if any(one is None for one in vectors):
            return None
        stacked = np.array(vectors, dtype=np.longdouble)
        return np.asarray(stacked.sum(axis=0), np.float64)

    def wrong(self, asked: Asked) -> str | None:
        """What is wrong with a sum that was released; None if nothing is, or if it was refused."""
        done = asked.outcome
        if not isinstance(done, Sum):
            return None
        for client in sorted(asked.lost):
            if done.survivors is None:
                break
            if client in done.survivors and self.uploads and client not in asked.arrived(self.uploads):
                return f"it names {client!r}, whose upload did not arrive"
        who = done.survivors
        if who is None:
            who = tuple(
                client for client in asked.inputs if not asked.lost or client in asked.arrived(self.uploads)
            )
        elif not who or len(set(who)) != len(who) or not set(who) <= set(asked.held.clients):
            return f"it names the survivors {', '.join(who) or 'nobody'}"
        if missing := [client for client in who if client not in asked.inputs]:
            return f"it names {missing[0]!r}, who gave nothing"
        if bad := [client for client in who if asked.inputs[client].bad]:
            return f"it includes {bad[0]!r}, whose vector has {asked.inputs[bad[0]].bad}"
        given = done.vector
        if given.shape != (asked.length,):
            return f"it has {given.size} values in place of {asked.length}"
        exact = self.total(asked, who)
        if exact is None:
            return None
        vectors = [v for client in who if (v := asked.inputs[client].vector) is not None]
        slack = len(vectors) * 2.0**-53 * np.sum(np.abs(vectors), axis=0)
        off = ~(np.abs(given - exact) <= self.claims.error + slack)
        if off.any():
            at = int(np.flatnonzero(off)[0])
            return (
                f"{np.count_nonzero(off)} of {len(given)} entries are wrong for the {len(who)} survivors, "
                f"entry {at} first, by {given[at] - exact[at]:g}{self._explained(asked, given, (given - exact)[off])}"
            )
        return None

    def _explained(self, asked: Asked, given: Vector, off: Vector) -> str:
        """The wrong sum in other words, where there are some. off: what the wrong entries are too large by."""
        modulus = 2.0 ** math.ceil(math.log2(self.claims.bound))
        clients = list(asked.inputs)
        close = self.claims.error + 1e-6 * self.claims.bound * 1e-6
        if len(clients) <= 9:
            for size in range(1, len(clients) + 1):
                for who in combinations(clients, size):
                    if (other := self.total(asked, who)) is None:
                        return ""
                    if np.allclose(given, other, rtol=0, atol=close):
                        return f": it is the sum of {', '.join(who)}"
        for one in asked.held.system.asked:
            if one is asked:
                break
            if isinstance(one.outcome, Sum) and np.array_equal(one.outcome.vector, given):
                return ": it is an earlier sum"
        if (
            np.abs(off - np.rint(off / modulus) * modulus) <= self.claims.error + 2.0**-40 * np.abs(off)
        ).all():
            return ": a multiple of a power of two, as if a word is too small for the sum"
        return ""

    def situation(self, asked: Asked) -> str:
        """The property that a sum belongs to."""
        held = asked.held
        before = held.system.held[: held.system.held.index(held)]
        if asked.altered:
            return "tampering_changes_no_sum"
        if any(one.bad in _VALUES for one in asked.inputs.values()):
            return "bad_values_are_refused"
        if any(one.bad for one in asked.inputs.values()):
            return "bad_shapes_are_refused"
        if set(asked.inputs) != set(held.clients):
            return "a_missing_client_is_refused"
        if any(one.number == asked.number for one in held.asked[: held.asked.index(asked)]):
            return "a_sum_is_made_once"
        if held.renewed:
            return "renewed_rows_are_summed_anew"
        if held.opened.data_set and any(one.opened.data_set == held.opened.data_set for one in before):
            return "a_data_set_serves_one_session"
        if held.opened.related:
            return "related_sums_keep_their_survivors"
        feats: set[str] = set()
        if asked.lost or any(one.lost for one in held.asked if one.number < asked.number):
            feats.add("the_lost_are_left_out")
        if held.lost:
            feats.add("the_lost_are_left_out")
        if list(asked.inputs) != list(held.clients):
            feats.add("the_order_of_clients_is_no_matter")
        if self._at_the_bound(asked):
            feats.add("the_bound_itself_is_summed")
        if asked.length > 64:
            feats.add("every_length_is_summed")
        if not feats and len(held.clients) not in USUAL:
            feats.add("every_cohort_is_summed")
        if not feats and (asked.number > 0 or before):
            feats.add("later_sums_are_right")
        if not feats:
            return "sums_are_right"
        return feats.pop() if len(feats) == 1 else "any_mixture_is_summed"

    def _at_the_bound(self, asked: Asked) -> bool:
        vectors = [one.vector for one in asked.inputs.values()]
        edge = self.claims.bound - 2.0**-self.claims.fraction_bits
        return any(one is not None and one.size and (abs(one[0]) >= edge or not one.any()) for one in vectors)

    def must(self, asked: Asked) -> bool:
        """Whether a sum may not be refused: all gave good vectors, and no more are lost than is claimed."""
        held, claims = asked.held, self.claims
        gone = held.lost
        for one in (*held.asked[: held.asked.index(asked)], asked):
            gone |= one.lost
        return (
            len(held.clients) - len(gone) >= max(claims.least, claims.cohort - claims.dropouts if gone else 0)
            and len(gone) <= claims.dropouts
        )


_VALUES = (
    "NaN",
    "infinity",
    "minus infinity",
    "a value just over the bound",
    "twice the bound",
    "a value over any word",
)


# ---- properties ----------------------------------------------------------------------------------


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


def _told(asked: Asked) -> str:
    held = asked.held
    session = held.system.held.index(held)
    where = f"sum {asked.number + 1} of {len(held.lengths)}"
    if session:
        where += f" in session {session + 1}"
    lost = f", {', '.join(sorted(asked.lost))} lost" if asked.lost else ""
    return f"{where} ({len(held.clients)} clients, {asked.length} values{lost})"


def nothing_crashes(history: History, judged: Judged) -> None:
    for system in history.systems:
        crashes = [
            *system.crashes,
            *(held.outcome for held in system.held),
            *(one.outcome for one in system.asked),
        ]
        judged.cases += len(crashes)
        for one in crashes:
            if isinstance(one, Crash):
                judged.against(f"it raised {one.error}\n{one.traceback}", system)


def inputs_are_left_alone(history: History, judged: Judged) -> None:
    for asked in history.asked:
        for one in asked.inputs.values():
            judged.cases += 1
            if one.after:
                judged.against(
                    f"the array that {one.client!r} gave was changed in place by {_told(asked)}",
                    asked.held.system,
                )


def right_in(*names: str) -> Check:
    """The sums of these situations are right, and made wherever they may not be refused."""

    def check(history: History, judged: Judged) -> None:
        for asked in history.asked:
            if history.situation(asked) not in names:
                continue
            judged.cases += 1
            if isinstance(asked.outcome, Crash):
                judged.against(f"{_told(asked)} raised {asked.outcome.error}", asked.held.system)
            elif (wrong := history.wrong(asked)) is not None:
                judged.against(f"{_told(asked)}: {wrong}", asked.held.system)
            elif isinstance(asked.outcome, Refusal) and history.must(asked):
                judged.against(f"{_told(asked)} was refused: {asked.outcome.text}", asked.held.system)
        for system in history.systems:
            served: set[str] = set()
            for held in system.held:
                again = held.opened.data_set in served and not held.renewed
                served.add(held.opened.data_set)
                if (
                    not isinstance(held.outcome, Refusal)
                    or again
                    or any(one.fate == "altered" for one in held.sent)
                ):
                    continue
                fewest, most = history.claims.clients
                situation = "the_lost_are_left_out" if held.lost else "sums_are_right"
                if situation not in names or len(held.lost) > history.claims.dropouts:
                    continue
                if fewest <= len(held.clients) <= most and (
                    not held.lost or len(held.clients) >= history.claims.cohort
                ):
                    lost = f" with {', '.join(sorted(held.lost))} lost" if held.lost else ""
                    judged.against(
                        f"a session of {len(held.clients)} clients{lost} was refused: {held.outcome.text}",
                        system,
                    )

    return check


def every_vector_travels(history: History, judged: Judged) -> None:
    for system in history.systems:
        for held in system.held:
            sent = [*held.sent, *(one for asked in held.asked for one in asked.sent)]
            made = any(isinstance(one.outcome, Sum) for one in held.asked)
            # What other parties, such as key holders, send each other may arrive.
            if all(one.fate == "lost" for one in sent if one.sender in held.clients) and (sent or made):
                judged.cases += 1
                if made:
                    seen = "no message arrived" if sent else "no message was sent"
                    judged.against(f"{seen}, and there is a sum: vectors do not travel by `carry`", system)


def too_few_open_nothing(history: History, judged: Judged) -> None:
    for asked in history.asked:
        if not asked.lost or asked.altered or not asked.sent:
            continue
        left = asked.arrived(history.uploads)
        if len(left) < history.claims.least:
            judged.cases += 1
            if isinstance(asked.outcome, Sum):
                judged.against(
                    f"{len(left)} of {len(asked.held.clients)} clients uploaded, and there is a sum; "
                    f"{history.claims.least} are needed",
                    asked.held.system,
                )


def refused(*bad: str) -> Check:
    """Vectors with such a fault are refused, or their clients left out, before anything of them leaves."""

    def check(history: History, judged: Judged) -> None:
        for asked in history.asked:
            wrong = {client: one.bad for client, one in asked.inputs.items() if one.bad in bad}
            if not wrong or isinstance(asked.outcome, Crash):
                continue
            judged.cases += 1
            system, fault = asked.held.system, next(iter(wrong.values()))
            if (seen := history.wrong(asked)) is not None:
                judged.against(f"{fault}: {seen}", system)
            elif isinstance(asked.outcome, Sum) and asked.outcome.survivors is None:
                judged.against(f"{fault} was summed", system)
            elif any(one.sender in wrong and one.phase in history.uploads for one in asked.sent):
                judged.against(
                    f"{fault} was found only after an upload of {next(iter(wrong))!r} had left", system
                )
            elif isinstance(asked.outcome, Refusal) and not asked.outcome.text.strip():
                judged.against(f"the refusal of {fault} says nothing", system)

    return check


def a_missing_client_is_refused(history: History, judged: Judged) -> None:
    for asked in history.asked:
        if set(asked.inputs) < set(asked.held.clients) and not isinstance(asked.outcome, Crash):
            judged.cases += 1
            if (wrong := history.wrong(asked)) is not None:
                judged.against(f"{_told(asked)}: {wrong}", asked.held.system)


# ---- what travels ----


Link = tuple[str, str, str]


def _streams(asked: Asked) -> dict[Link, list[Sent]]:
    """What each party sent each other one in each phase, of this sum and of its session before it."""
    joined: dict[Link, list[Sent]] = defaultdict(list)
    for one in (*(asked.held.sent if asked.number == 0 else ()), *asked.sent):
        joined[one.phase, one.sender, one.receiver].append(one)
    return joined


def _compared(groups: Sequence[Sequence[Asked]]) -> Iterator[tuple[Link, list[list[list[Sent]]]]]:
    """Each stream in all runs."""
    streams = [[_streams(one) for one in group] for group in groups]
    for link in streams[0][0]:
        yield link, [[one.get(link, []) for one in group] for group in streams]


def _joined(parts: Iterable[Sent]) -> bytes:
    return b"".join(one.data for one in parts)


def _size(parts: Iterable[Sent]) -> int:
    return sum(one.size for one in parts)


Group = dict[tuple[str, ...], list[Asked]]


def _experiments(history: History) -> Iterator[tuple[list[list[Asked]], bool]]:
    """Sets of sums that differ only in who gave what: same clients, number and total. Also whether only last entries do."""
    alike: dict[tuple[object, ...], Group] = defaultdict(lambda: defaultdict(list))
    for asked in history.asked:
        if (
            asked.altered
            or not isinstance(asked.outcome, Sum)
            or set(asked.inputs) != set(asked.held.clients)
        ):
            continue
        survivors = asked.outcome.survivors or tuple(asked.inputs)
        exact = history.total(asked, survivors) if set(survivors) <= set(asked.inputs) else None
        if exact is None:
            continue
        session = asked.held.system.held.index(asked.held)
        key = (asked.held.clients, asked.held.lengths, asked.number, session, survivors, exact.tobytes())
        alike[key][tuple(asked.inputs[client].digest for client in asked.held.clients)].append(asked)
    for groups in alike.values():
        kept = [group for group in groups.values() if len(group) >= 3]
        if len(kept) >= 3:
            yield kept, _only_last(kept)


def _only_last(groups: Sequence[Sequence[Asked]]) -> bool:
    vectors = [
        np.array([v[:-1] for one in group[0].inputs.values() if (v := one.vector) is not None])
        for group in groups
    ]
    return all(np.array_equal(vectors[0], one) for one in vectors[1:])


def tells_nothing(of: str) -> Check:
    """No message depends on "last" entries, or on the "rest", but by the sum."""

    def check(history: History, judged: Judged) -> None:
        for groups, only_last in _experiments(history):
            if only_last != (of == "last"):
                continue
            judged.cases += 1
            for (phase, sender, receiver), streams in _compared(groups):
                if judged.seen is not None:
                    break
                runs = [[_joined(one) for one in group] for group in streams]
                if (seen := leaks.telling(runs)) is None:
                    continue
                form = _form(groups, runs, sender, of)
                judged.against(
                    f"what {sender!r} sends {receiver!r} in {phase!r} depends on "
                    f"{'the last entry of a vector (a count of rows, say)' if of == 'last' else 'the entries of a vector'} "
                    f"and on no randomness: {seen}{form} ({_told(groups[0][0])})",
                    groups[0][0].held.system,
                )

    return check


def _form(groups: Sequence[Sequence[Asked]], runs: Sequence[Sequence[bytes]], sender: str, of: str) -> str:
    for client, one in groups[0][0].inputs.items():
        if one.vector is None or (sender in groups[0][0].inputs and client != sender):
            continue
        length = len(one.vector)
        entries = [length - 1] if of == "last" else list(range(min(6, length)))
        if found := leaks.recognised(runs[0], one.vector, entries):
            return f"; it has {found} of {client!r}"
    return ""


def results_tell_only_the_sum(history: History, judged: Judged) -> None:
    for groups, _ in _experiments(history):
        judged.cases += 1
        runs = [[one.outcome.result for one in group if isinstance(one.outcome, Sum)] for group in groups]
        sizes = [[len(one) for one in group] for group in runs]
        if (seen := leaks.telling(runs) or leaks.sizes_telling(sizes)) is not None:
            form = _form(groups, runs, "", "rest") or _form(groups, runs, "", "last")
            judged.against(
                f"the result of {_told(groups[0][0])} tells who gave what, not only the sum: {seen}{form}",
                groups[0][0].held.system,
            )


def sizes_tell_nothing(history: History, judged: Judged) -> None:
    """Also vectors of zeros and at the bound give uploads of the same size as others."""
    found: dict[tuple[Any, ...], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for asked in history.asked:
        if asked.lost or asked.altered:
            continue
        for (phase, client, receiver), parts in _streams(asked).items():
            vector = asked.inputs[client].vector if client in asked.inputs else None
            if vector is not None and vector.size > 8:
                kind = (
                    "zeros"
                    if not vector.any()
                    else f"{vector[0]:g}"
                    if (vector == vector[0]).all()
                    else "random"
                )
                session = asked.held.system.held.index(asked.held) > 0
                found[asked.held.clients, client, asked.length, asked.number, phase, receiver, session][
                    kind
                ].append(_size(parts))
    for (_, client, length, *_), kinds in found.items():
        alike = [group for group in kinds.values() if len(group) > 2]
        if len(alike) < 2:
            continue
        judged.cases += 1
        if (seen := leaks.sizes_telling(alike)) is not None:
            judged.against(
                f"the size of what {client!r} sends depends on its {length} values: {seen} for {' and '.join(kinds)}",
                history.systems[0],
            )
    for groups, _ in _experiments(history):
        judged.cases += 1
        for (phase, sender, _), streams in _compared(groups):
            if (
                seen := leaks.sizes_telling([[_size(one) for one in group] for group in streams])
            ) is not None:
                judged.against(
                    f"the size of what {sender!r} sends in {phase!r} depends on the vectors: {seen}",
                    groups[0][0].held.system,
                )


def _again(history: History, same_session: bool, judged: Judged) -> None:
    """The same vector of a client twice: its uploads have nothing in common."""
    for system in history.systems:
        seen: dict[tuple[str, str], list[Asked]] = defaultdict(list)
        others: dict[tuple[str, int], list[Asked]] = defaultdict(list)
        for asked in system.asked:
            if asked.altered or asked.lost:
                continue
            for client, given in asked.inputs.items():
                if (
                    not given.bad
                    and asked.length >= 24
                    and given.vector is not None
                    and len(set(given.vector)) > 2
                ):
                    seen[client, given.digest].append(asked)
                    others[client, asked.length].append(asked)
        for (client, same), group in seen.items():
            apart = [one for one in others[client, group[0].length] if one.inputs[client].digest != same]
            for one, two in combinations(group, 2):
                if (one.held is two.held) != same_session or (
                    one.number == two.number and one.held is two.held
                ):
                    continue
                first, second = (each.uploads(history.uploads).get(client, b"") for each in (one, two))
                if not first or not second or not apart:
                    continue
                judged.cases += 1
                headers = [each.uploads(history.uploads).get(client, b"") for each in apart[:2]]
                blocks = leaks.come_again(first, second, headers)
                width = history.width
                if blocks > _HEADER or (
                    width and leaks.related([(1, first), (-1, second)], width, one.length)
                ):
                    what = "are the same" if blocks > _HEADER else "differ by the same number everywhere"
                    judged.against(
                        f"{client!r} gave one vector to {_told(one)} and to {_told(two)}, and its uploads {what}: "
                        "a mask serves twice",
                        system,
                    )


def two_sums_share_no_mask(history: History, judged: Judged) -> None:
    _again(history, True, judged)


def two_sessions_share_no_mask(history: History, judged: Judged) -> None:
    """Also in cohorts {a,b,c}, {a,d,e}, {a,b,d}, {a,c,e}: with pair masks that serve again, uploads of a cancel."""
    _again(history, False, judged)
    width = history.width
    for system in history.systems:
        by: dict[tuple[str, str, int], dict[frozenset[str], tuple[int, bytes]]] = defaultdict(dict)
        for asked in system.asked:
            if not asked.altered and not asked.lost:
                for client, upload in asked.uploads(history.uploads).items():
                    key = (client, asked.inputs[client].digest, asked.number)
                    by[key][frozenset(asked.held.clients)] = asked.length, upload
        for (client, _, _), cohorts in by.items():
            for four in combinations(cohorts, 4) if 4 <= len(cohorts) <= 8 else ():
                for one, two, three, other in ((0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 1, 2)):
                    plus, minus = (four[one], four[two]), (four[three], four[other])
                    if sorted([*plus[0], *plus[1]]) != sorted([*minus[0], *minus[1]]) or set(plus) == set(
                        minus
                    ):
                        continue
                    if width is None:
                        judged.note = "masks between cohorts were not compared: an upload has no fixed number of bytes a value"
                        continue
                    judged.cases += 1
                    terms = [(1, cohorts[each][1]) for each in plus] + [
                        (-1, cohorts[each][1]) for each in minus
                    ]
                    if leaks.related(terms, width, cohorts[four[0]][0]):
                        judged.against(
                            f"uploads of {client!r} in four cohorts cancel each other: masks of pairs serve in several cohorts",
                            system,
                        )


def every_entry_has_its_own_mask(history: History, judged: Judged) -> None:
    extent = ""
    by: dict[tuple[int, bytes], tuple[list[bytes], Asked]] = {}
    for asked in history.asked:
        if asked.altered or asked.lost or asked.length < 512:
            continue
        for client, upload in asked.uploads(history.uploads).items():
            vector = asked.inputs[client].vector
            if vector is None or not (vector == vector[0]).all():
                continue
            judged.cases += 1
            by.setdefault((asked.length, vector[:1].tobytes()), ([], asked))[0].append(upload)
            if (again := leaks.repeating(upload)) > max(256, len(upload) // 256):
                judged.against(
                    f"a vector of one number repeats itself in the upload of {client!r}: {again} of {len(upload)} "
                    "blocks of 16 bytes were there before",
                    asked.held.system,
                )
    for (length, _), (uploads, asked) in by.items():
        if (width := history.width) is not None:
            seen, extent = leaks.bare(uploads, width, length)
            if seen is not None:
                judged.against(
                    f"in uploads of one number everywhere {seen}: entries travel without a mask",
                    asked.held.system,
                )
    if not by:
        judged.note = "its vectors are shorter than 512 values"
    else:
        judged.note = extent if history.width else "only whole blocks were compared: give `payload` for words"


def uploads_look_uniform(history: History, judged: Judged) -> None:
    width = history.width
    if width is None:
        judged.note = "an upload is not so many bytes a value; if masked words are in it, give them by `payload(phase, data)`"
        return
    for asked in history.asked:
        if asked.altered or asked.lost or asked.length < 4096:
            continue
        uploads = asked.uploads(history.uploads)
        first = {
            client: v[0]
            for client, one in asked.inputs.items()
            if (v := one.vector) is not None and (v == v[0]).all()
        }
        low = [client for client, value in first.items() if value == -first.get(client, 0) or value < 0]
        high = [client for client, value in first.items() if value > 0]
        if not low or not high or len({len(one) for one in uploads.values()}) != 1:
            continue
        if not {low[0], high[0]} <= uploads.keys():
            continue
        judged.cases += 1
        rest = [upload for client, upload in uploads.items() if client not in (low[0], high[0])]
        seen, extent = leaks.skewed(uploads[low[0]], uploads[high[0]], rest, width, asked.length)
        judged.note = extent
        if seen is not None:
            judged.against(seen, asked.held.system)
    if not judged.cases:
        judged.note = "it has no sum of 4096 values or more with clients at both ends of the bound"


def clients_with_equal_vectors_are_unrelated(history: History, judged: Judged) -> None:
    for system in history.systems:
        plain = [one for one in system.asked if not one.altered and not one.lost and one.length >= 24]
        for asked in plain:
            if len({one.digest for one in asked.inputs.values()}) != 1 or len(asked.inputs) < 2:
                continue
            vector = next(iter(asked.inputs.values())).vector
            other = next(
                (
                    one
                    for one in plain
                    if one.length == asked.length and len({each.digest for each in one.inputs.values()}) > 1
                ),
                None,
            )
            if vector is None or len(set(vector)) < 3 or other is None:
                continue
            equal, apart = asked.uploads(history.uploads), other.uploads(history.uploads)
            for one, two in combinations(equal, 2):
                judged.cases += 1
                headers = [apart[each] for each in (one, two) if each in apart]
                if (again := leaks.come_again(equal[one], equal[two], headers)) > _HEADER:
                    judged.against(
                        f"{one!r} and {two!r} gave equal vectors, and {again} blocks of their uploads are equal",
                        system,
                    )


def no_toy_generator_is_used(history: History, judged: Judged) -> None:
    for system in history.systems:
        judged.cases += '"watch":true' in system.replay or bool(system.generators)
        if system.generators:
            uses = "; ".join(one.use for one in system.generators)
            judged.against(f"what comes out of these generators can be foretold: {uses}", system)


def no_key_is_common(history: History, judged: Judged) -> None:
    """No 32 bytes that look like a key leave two clients, but for what other systems send too, or the server before."""
    compared = 0
    for number, system in enumerate(history.systems):
        for client_keys in [system.keys]:
            holders: dict[str, set[str]] = defaultdict(set)
            for client, keys in client_keys.items():
                for key in keys:
                    holders[key].add(client)
            compared += len(holders)
            if most := max(map(len, holders.values()), default=0):
                judged.cases += 1
                if most > 2:
                    judged.against(f"{most} clients hold the same secret key", system)
        if number >= 4 or not system.held or len(history.systems) < 2:
            continue
        held = system.held[0]
        sent = [*held.sent, *(one for asked in held.asked[:1] for one in asked.sent)]
        firsts = {one.sender: one.phase for one in reversed(sent) if one.sender in held.clients}
        said: dict[str, bytes] = defaultdict(bytes)
        server: list[Sent] = []
        for one in sent:
            if one.sender in held.clients and one.phase == firsts[one.sender]:
                said[one.sender] += one.data
            elif one.sender not in held.clients:
                server.append(one)
        other = history.systems[(number + 1) % len(history.systems)]
        others = [one for h in other.held[:1] for one in (*h.sent, *(m for a in h.asked[:1] for m in a.sent))]
        elsewhere = leaks.runs(one.data for one in (*others, *server))
        for first, second in combinations(said, 2) if judged.seen is None else ():
            judged.cases += 1
            if (common := leaks.common_keys(said[first], said[second], elsewhere)) is not None:
                judged.against(
                    f"the same 32 bytes left {first!r} and {second!r} in {firsts[first]!r}: {common.hex()[:16]}…",
                    system,
                )
    if not compared:
        judged.note = (
            f"{judged.cases} cases; only messages were compared: no `keys()` were given"
            if judged.cases
            else ""
        )


def only_the_sum_is_opened(history: History, judged: Judged) -> None:
    """A server that opens the self mask and the pair masks of one client has its vector."""
    phases = history.claims.phases
    after = frozenset(phases[max(map(phases.index, history.uploads & set(phases)), default=-1) + 1 :])
    for asked in history.asked:
        for one in asked.revealed:
            judged.cases += 1
            uploaded = any(each.sender == one.client and each.phase in history.uploads for each in asked.sent)
            if uploaded and all(found >= needed for found, needed in one.kinds.values()):
                judged.against(
                    f"{_told(asked)} opened {' and '.join(one.kinds)} of {one.client!r}, whose upload was sent: "
                    "both together unmask it",
                    asked.held.system,
                )
    for system in history.systems:
        for held in system.held:
            _opened_again(held, after, judged)
    _more_of_survivors(history, after, judged)
    if not judged.cases:
        judged.note = "no client sends anything after its upload"


def _opened(asked: Asked, after: frozenset[str]) -> dict[str, bytes]:
    """What each client sent others than clients after its upload."""
    parts: dict[str, list[bytes]] = defaultdict(list)
    for one in asked.sent:
        if one.phase in after and one.sender in asked.inputs and one.receiver not in asked.inputs:
            parts[one.sender].append(one.data)
    return {client: b"".join(each) for client, each in parts.items()}


def _opened_again(held: Held, after: frozenset[str], judged: Judged) -> None:
    """A secret that opens one sum opens no other: nothing random comes again that only its sender sends, and only here."""
    plain = [one for one in held.asked if isinstance(one.outcome, Sum) and not one.lost and not one.altered]
    for one, two in pairwise(plain):
        if one.number == two.number:
            continue
        first, second = _opened(one, after), _opened(two, after)
        for client in first.keys() & second.keys():
            judged.cases += 1
            elsewhere = [
                each.data
                for each in (*held.sent, *one.sent)
                if each.sender != client or each.phase not in after
            ]
            if leaks.secrets_again(first[client], second[client], elsewhere):
                judged.against(
                    f"{client!r} opens the same secret in {_told(one)} and in {_told(two)}: it is not only of one sum",
                    held.system,
                )


def _more_of_survivors(history: History, after: frozenset[str], judged: Judged) -> None:
    """The opening of a sum takes one secret of each client; if a survivor takes more bytes than a lost client, does it
    take both? Bytes are counted compressed, as filling is no secret.
    """
    sizes: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    for asked in history.asked:
        clients, lost = len(asked.held.clients), len(asked.lost)
        if not isinstance(asked.outcome, Sum) or asked.altered or asked.held.lost:
            continue
        for phase in after:
            sent = [len(zlib.compress(one, 9)) for one in _opened(asked, frozenset({phase})).values()]
            if len(sent) == clients - lost:
                sizes[phase, clients, lost].append(sum(sent) / len(sent))
    mean = {key: sum(each) / len(each) for key, each in sizes.items()}
    for (phase, clients, lost), size in sorted(mean.items()):
        whole = sorted(many for each, many, gone in mean if each == phase and not gone)
        if not lost or clients not in whole or whole[0] == whole[-1]:
            continue
        judged.cases += 1
        survivor = (mean[phase, whole[-1], 0] - mean[phase, whole[0], 0]) / (whole[-1] - whole[0])
        gone = survivor - (mean[phase, clients, 0] - size) / lost
        if gone >= 12 and survivor >= max(1.3 * gone, gone + 12):
            judged.against(
                f"in {phase!r} every client sends {survivor:.0f} bytes for each survivor and {gone:.0f} for a lost client "
                f"({clients} clients, {lost} lost): are both secrets of survivors opened?",
                history.systems[0],
            )


# ---- once ----


def a_data_set_serves_one_session(history: History, judged: Judged) -> None:
    for system in history.systems:
        served: dict[str, int] = {}
        for held in system.held:
            name = held.opened.data_set
            if held.renewed:
                served.pop(name, None)
            if name in served:
                judged.cases += 1
                if any(isinstance(one.outcome, Sum) for one in held.asked):
                    judged.against("a second session with the data set of the first gave a sum", system)
            elif any(one.sent or isinstance(one.outcome, Sum) for one in held.asked):
                served[name] = 1


def a_sum_is_made_once(history: History, judged: Judged) -> None:
    """Asked for again, whoever is lost meanwhile: no second sum over other survivors, nor the same again."""
    for system in history.systems:
        for held in system.held:
            by: dict[int, list[Asked]] = defaultdict(list)
            for asked in held.asked:
                by[asked.number].append(asked)
            for number, group in by.items():
                if len(group) < 2:
                    continue
                judged.cases += 1
                made = [one.outcome for one in group if isinstance(one.outcome, Sum)]
                if len(made) > 1:
                    sets = " and ".join(str(len(one.survivors or ())) for one in made)
                    judged.against(
                        f"sum {number + 1} was made {len(made)} times, over {sets} survivors", system
                    )


def related_sums_keep_their_survivors(history: History, judged: Judged) -> None:
    for system in history.systems:
        for held in system.held:
            made = [(one.number, one.outcome) for one in held.asked if isinstance(one.outcome, Sum)]
            if not held.opened.related or len(held.lengths) < 2:
                continue
            judged.cases += 1
            sets = {frozenset(one.survivors or ()) for _, one in made}
            if len(sets) > 1:
                told = "; ".join(
                    f"sum {number + 1}: {', '.join(one.survivors or ())}" for number, one in made
                )
                judged.against(f"related sums were made over different survivors: {told}", system)


def tampering_changes_no_sum(history: History, judged: Judged) -> None:
    for asked in history.asked:
        if not asked.altered and not any(one.fate == "altered" for one in asked.held.sent):
            continue
        judged.cases += 1
        judged.summed += isinstance(asked.outcome, Sum)
        if isinstance(asked.outcome, Crash):
            judged.against(f"a message was altered, and it raised {asked.outcome.error}", asked.held.system)
        elif (wrong := history.wrong(asked)) is not None:
            phase = next((one.phase for one in (*asked.held.sent, *asked.sent) if one.fate == "altered"), "?")
            judged.against(
                f"a message in {phase!r} was altered, and {_told(asked)}: {wrong}", asked.held.system
            )
    for system in history.systems:
        for held in system.held:
            altered = any(one.altered for one in held.asked) or any(
                one.fate == "altered" for one in held.sent
            )
            before = any(
                one.altered for earlier in system.held[: system.held.index(held)] for one in earlier.asked
            )
            if (
                before
                and not altered
                and (not held.asked or any(not isinstance(one.outcome, Sum) for one in held.asked))
            ):
                judged.against("after altered messages it makes no sum any more", system)
    judged.note = (
        f"{judged.cases} altered sums: {judged.summed} right, {judged.cases - judged.summed} refused"
        if judged.cases
        else ""
    )


_ALONE: tuple[str, ...] = ()
_SOME = ("traced",)
_PRIVATE = ("private", "traced")

PROPERTIES: tuple[Property, ...] = (
    Property("nothing_crashes", "only stated exceptions are raised", nothing_crashes, (), _ALONE),
    Property(
        "inputs_are_left_alone",
        "no array of a caller is changed",
        inputs_are_left_alone,
        (),
        ("nothing_crashes",),
    ),
    Property(
        "sums_are_right",
        "a sum is that of its survivors",
        right_in("sums_are_right"),
        (),
        ("nothing_crashes",),
    ),
    *(
        Property(name, claim, right_in(name))
        for name, claim in (
            ("later_sums_are_right", "later sums and sessions are as right as the first"),
            ("every_length_is_summed", "vectors of every length are summed"),
            ("every_cohort_is_summed", "cohorts of every size are summed"),
            ("the_order_of_clients_is_no_matter", "the order of clients changes no sum"),
            ("the_bound_itself_is_summed", "entries at the bound, and zeros, are summed"),
        )
    ),
    Property(
        "the_lost_are_left_out",
        "a sum is that of the survivors it names",
        right_in("the_lost_are_left_out"),
        _SOME,
    ),
    Property(
        "any_mixture_is_summed",
        "losses, orders, lengths and cohorts together change no sum",
        right_in("any_mixture_is_summed"),
    ),
    Property("every_vector_travels", "nothing is summed that did not travel", every_vector_travels, _SOME),
    Property("too_few_open_nothing", "too few survivors open nothing", too_few_open_nothing, _SOME),
    Property(
        "bad_values_are_refused",
        "NaN, infinity and what is over the bound is refused before it leaves",
        refused(*_VALUES),
        ("validated",),
    ),
    Property(
        "bad_shapes_are_refused",
        "wrong lengths and types are refused before they leave",
        refused(
            "a value too few", "a value too many", "no values", "two dimensions", "complex numbers", "text"
        ),
        ("validated",),
    ),
    Property(
        "a_missing_client_is_refused",
        "no sum is made as if a client that gave nothing were in it",
        a_missing_client_is_refused,
        ("validated",),
    ),
    Property(
        "no_vector_travels_in_the_clear",
        "no message tells entries of a vector",
        tells_nothing("rest"),
        _PRIVATE,
    ),
    Property(
        "no_count_travels_in_the_clear", "no message tells a count of rows", tells_nothing("last"), _PRIVATE
    ),
    Property(
        "results_tell_only_the_sum",
        "a result tells the sum and no vector",
        results_tell_only_the_sum,
        ("private",),
    ),
    Property("sizes_tell_nothing", "no message's size depends on the vector", sizes_tell_nothing, _PRIVATE),
    Property(
        "two_sums_share_no_mask",
        "a vector that comes again in the next sum cannot be told",
        two_sums_share_no_mask,
        _PRIVATE,
    ),
    Property(
        "two_sessions_share_no_mask",
        "a vector that comes again in another session cannot be told",
        two_sessions_share_no_mask,
        _PRIVATE,
    ),
    Property(
        "every_entry_has_its_own_mask", "equal entries cannot be told", every_entry_has_its_own_mask, _PRIVATE
    ),
    Property(
        "uploads_look_uniform",
        "an upload's words do not depend on the vector",
        uploads_look_uniform,
        _PRIVATE,
    ),
    Property(
        "clients_with_equal_vectors_are_unrelated",
        "clients with equal vectors cannot be told",
        clients_with_equal_vectors_are_unrelated,
        _PRIVATE,
    ),
    Property(
        "no_toy_generator_is_used",
        "no secret comes from Python's or NumPy's generators",
        no_toy_generator_is_used,
        ("private",),
    ),
    Property(
        "only_the_sum_is_opened", "what is opened unmasks no single upload", only_the_sum_is_opened, _PRIVATE
    ),
    Property("no_key_is_common", "no key is common to clients", no_key_is_common, _PRIVATE),
    Property(
        "a_data_set_serves_one_session",
        "a data set serves one session",
        a_data_set_serves_one_session,
        ("ledger",),
    ),
    Property(
        "renewed_rows_are_summed_anew",
        "renewed rows are summed anew",
        right_in("renewed_rows_are_summed_anew"),
        ("ledger", "renewal"),
    ),
    Property(
        "a_sum_is_made_once", "a sum is made once, for one set of survivors", a_sum_is_made_once, ("once",)
    ),
    Property(
        "related_sums_keep_their_survivors",
        "related sums have the same survivors",
        related_sums_keep_their_survivors,
        ("related", "survivors", "traced"),
    ),
    Property(
        "tampering_changes_no_sum",
        "an altered message changes no sum",
        tampering_changes_no_sum,
        ("authenticated", "traced"),
    ),
)
"""Every property, in the order in which they are judged: a cause before what follows from it."""


def judge_record(records: Iterable[Record], only: Iterable[str] | None = None) -> Report:
    """Judge a record offline. A property whose cause failed is not judged.

    Parameters
    ----------
    records : iterable of records
        In the order in which they were noted.
    only : iterable of str, optional
        Names of properties; None is all.

    Returns
    -------
    Report

    Raises
    ------
    ValueError
        For a record out of order.
    """
    systems = in_order(records)
    if not systems:
        raise ValueError("expected a record with a system line, got an empty one")
    history = History(systems, systems[0].claims)
    rows: list[Row] = []
    wanted = set(only) if only is not None else {one.name for one in PROPERTIES}
    for one in PROPERTIES:
        if one.name in wanted:
            rows.append(held_back(one, {row.name: row for row in rows}) or one.judge(history))
    return Report(history.claims.name, tuple(rows))


def held_back(one: Property, rows: Mapping[str, Row]) -> Row | None:
    """The row of a property that cannot be judged because another one failed."""
    for cause in one.depends:
        if cause in rows and rows[cause].verdict == "failed":
            return Row(one.name, one.claim, "not judged", f"{cause} failed")
        if cause in rows and rows[cause].note.endswith(" failed"):
            return Row(one.name, one.claim, "not judged", rows[cause].note)
    return None
