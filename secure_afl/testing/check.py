"""Check a secure sum: schedules for every property, run against fresh systems, and the offline checker's verdicts.

    from secure_afl.testing import check_aggregator

    print(check_aggregator(MySum))

`MySum` makes a system from the one function by which its messages travel; see `secure_afl.testing.systems`.
"""

import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from secure_afl.crypto.errors import optional

with optional():
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from hypothesis import strategies as st

from secure_afl.testing import record
from secure_afl.testing.judge import PROPERTIES, Report, held_back
from secure_afl.testing.judging.history import USUAL, Fresh, History, in_order
from secure_afl.testing.judging.properties import Judged, Property, Row
from secure_afl.testing.record import Claims, Record
from secure_afl.testing.schedules import BAD, VALUES, Ask, Runner, Schedule, Session, cohort, session, sums
from secure_afl.testing.systems import ALTERATIONS, DELAYS, Factory, PythonTarget, Target

Watch = Callable[[Row], None]
# Of an experiment: runs with the same input, so many more of short ones, and different inputs.
_REPEATS, _SHORT, _GROUPS = 5, 7, 4


class PropertyFailed(AssertionError):  # noqa: N818
    """A system does not have a property. `property`: its name; `seen`: what was seen; `replay`: a line that shows it again.

    Parameters
    ----------
    row : Row
        The row of the report.
    """

    def __init__(self, row: Row) -> None:
        self.property, self.seen, self.replay = row.name, row.note, row.replay
        super().__init__(f"{row.name}: expected that {row.claim}; {row.note}\nreplay: {row.replay}")


def check_aggregator(
    system: Factory | Target,
    *,
    claims: Claims | dict[str, Any] | None = None,
    only: Collection[str] | None = None,
    on_fail: str = "raise",
    seconds: float = 10.0,
    examples: int = 25,
    seed: int = 0,
    replay: str | None = None,
    keep: Path | None = None,
    watch: Watch | None = None,
) -> Report:
    """Check every property of a secure sum.

    Parameters
    ----------
    system : callable or Target
        A factory of Python systems, or a target (`systems.RemoteTarget`).
    claims : Claims or dict, optional
        In place of those that the system states.
    only : collection of str, optional
        Names of properties; None is all.
    on_fail : str, default="raise"
        "raise" `PropertyFailed` at the first failure, or "collect" failures in the report.
    seconds : float, default=10.0
        For each property; a property that runs out of time says how far it got.
    examples : int, default=25
        Drawn schedules for each property that draws.
    seed : int, default=0
        Of data, schedules and draws.
    replay : str, optional
        Run this schedule only, for the properties in `only`.
    keep : Path, optional
        A file for the record of all sessions.
    watch : callable, optional
        Called with each row.

    Returns
    -------
    Report

    Raises
    ------
    PropertyFailed
        At the first property that does not hold, with on_fail="raise".
    ValueError
        For arguments out of range.
    RecordError
        For claims that cannot be read.
    """
    if on_fail not in ("raise", "collect"):
        raise ValueError(f"expected on_fail raise or collect, got {on_fail!r}")
    if unknown := set(only or ()) - {one.name for one in PROPERTIES}:
        raise ValueError(f"expected names of properties, got {', '.join(sorted(unknown))}")
    if not (seconds > 0 and examples > 0):
        raise ValueError(f"expected positive seconds and examples, got {seconds} and {examples}")
    stated = None if claims is None else record.claims(claims)
    target: Target = PythonTarget(system, stated) if callable(system) else system
    rows: dict[str, Row] = {}
    with ExitStack() as files:
        noting = None if keep is None else files.enter_context(keep.open("wb"))
        bench = Bench(target, stated or target.claims, seconds, examples, seed, noting)
        for one in PROPERTIES:
            # A property's cause is checked first, also where only the property is asked for.
            if (
                only is not None
                and one.name not in only
                and not any(one.name in each.depends for each in _named(only))
            ):
                continue
            if one.name not in (only or (one.name,)) and replay is not None:
                continue
            row = held_back(one, rows) or bench.row(one, replay)
            rows[one.name] = row
            if watch:
                watch(row)
            if row.verdict == "failed" and on_fail == "raise":
                raise PropertyFailed(row)
    shown = [row for name, row in rows.items() if only is None or name in only or row.verdict == "failed"]
    return Report(bench.claims.name, tuple(shown))


def _named(names: Iterable[str]) -> list[Property]:
    return [one for one in PROPERTIES if one.name in names]


@dataclass
class Bench:
    """Runs schedules against a target and judges them. It learns phases, and where vectors travel, from a first session."""

    target: Target
    claims: Claims
    seconds: float
    examples: int
    seed: int
    noting: BinaryIO | None = None
    learnt: list[Fresh] = field(default_factory=list)
    experiments: dict[str, list[Fresh]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Learn the phases, and in which of them vectors travel."""
        self.runner = Runner(self.target, self.claims)
        lengths = sorted({min(self.claims.largest, one) for one in (3, 24, 1200, 9001)})
        rest = [one + 1 for one in lengths[:3] if one < self.claims.largest]
        self.learnt = self.run([self._plain(session(cohort(self.claims.cohort), sums([*lengths, *rest])))])
        phases, uploads = self.claims.phases, self.claims.uploads
        sent = [
            one
            for system in self.learnt
            for held in system.held
            for one in (*held.sent, *(m for a in held.asked for m in a.sent))
        ]
        phases = phases or tuple(dict.fromkeys(one.phase for one in sent))
        uploads = uploads or tuple(sorted(History(self.learnt, self.claims).uploads))
        self.claims = msgspec.structs.replace(self.claims, phases=phases, uploads=uploads)
        self.runner = Runner(self.target, self.claims)

    def _plain(self, *sessions: Session) -> Schedule:
        return Schedule(sessions=sessions, seed=self.seed)

    def run(self, schedules: Iterable[Schedule]) -> list[Fresh]:
        """The systems of these schedules."""
        records: Iterator[Record] = (one for schedule in schedules for one in self.runner.run(schedule))
        return in_order(records if self.noting is None else record.noted(records, self.noting))

    def _once(self, batch: list[Schedule]) -> list[Fresh]:
        """Run an experiment that several properties judge."""
        key = "\n".join(one.line() for one in batch)
        if key not in self.experiments:
            self.experiments[key] = self.run(batch)
        return self.experiments[key]

    def row(self, one: Property, replay: str | None) -> Row:
        """Check one property."""
        started = time.monotonic()
        end = started + self.seconds
        for claim in one.needs:
            if not getattr(self.claims, claim):
                return Row(one.name, one.claim, "not claimed", f"it does not claim `{claim}`")
        if _BATCHES[one.name] in (_tampered, _delayed) and not self.target.alters:
            return Row(
                one.name,
                one.claim,
                "not judged",
                "it carries its messages itself: they cannot be altered here",
            )
        if "traced" in one.needs and not any(
            s.held and (s.held[0].sent or any(a.sent for a in s.held[0].asked)) for s in self.learnt
        ):
            return Row(one.name, one.claim, "not judged", "no message was seen: are they sent by `carry`?")
        if replay is not None:
            row = self.verdict(one, self.run([Schedule.of(replay)]))
        else:
            row = self._searched(one, end)
        again = ""
        if row.verdict == "failed":
            again = f"only=[{one.name!r}], seed={self.seed}" + (
                f", replay={row.schedule!r}" if row.schedule else ""
            )
        return replace(row, seconds=time.monotonic() - started, replay=again)

    def verdict(self, one: Property, systems: list[Fresh], before: Judged | None = None) -> Row:
        """A property's verdict on these systems, and those judged before; a crash that it met counts against it."""
        row = one.judge(History(systems, self.claims, self.learnt), before)
        if row.verdict != "failed":
            for system in systems:
                for crash in (
                    *system.crashes,
                    *(held.outcome for held in system.held),
                    *(a.outcome for a in system.asked),
                ):
                    if isinstance(crash, record.Crash):
                        seen = f"it raised {crash.error}\n{crash.traceback}"
                        return Row(one.name, one.claim, "failed", seen, schedule=system.replay)
        return row

    def _searched(self, one: Property, end: float) -> Row:
        whole, batches = _BATCHES[one.name](_Maker(self.claims, self.seed))
        tried: list[Fresh] = []
        judged = Judged()
        left = 0
        row: Row | None = None
        for batch in batches:
            if row is not None and time.monotonic() > end:
                left += 1
                continue
            if whole:
                tried += self._once(batch)
                row = self.verdict(one, tried)
            else:
                row = self.verdict(one, self.run(batch), judged)
            if row.verdict == "failed":
                return replace(row, schedule="") if whole else self.smaller(one, row, end)
        if (drawn := _DRAWN.get(one.name)) is not None and time.monotonic() < end:
            found, count = self._drawn(one, drawn(_Maker(self.claims, self.seed)), end)
            if found is not None:
                return self.smaller(one, found, end)
            row = row or Row(one.name, one.claim, "passed", "0 cases")
            if row.verdict == "passed":
                row = replace(row, note=f"{row.note}, {count} drawn schedules")
        if row is None:
            return Row(one.name, one.claim, "not judged", "its claims leave nothing to try")
        if left and row.verdict == "not judged":
            row = replace(
                row, note=f"{self.seconds:g} s were over before a schedule that shows it; {left} were left"
            )
        if left and row.verdict == "passed":
            row = replace(
                row,
                note=f"{row.note}; {left} of the planned schedules were left out after {self.seconds:g} s",
            )
        return row

    def _drawn(
        self, one: Property, strategy: st.SearchStrategy[Schedule], end: float
    ) -> tuple[Row | None, int]:
        """The smallest failure that Hypothesis found, and how many schedules were tried."""
        best: list[Row] = []
        known: dict[str, Row] = {}
        count = 0

        @seeded(self.seed)
        @settings(
            max_examples=self.examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
            print_blob=False,
            report_multiple_bugs=False,
        )
        @given(strategy)
        def attempt(schedule: Schedule) -> None:
            nonlocal count
            line = schedule.line()
            if line not in known:
                if time.monotonic() > end:
                    return
                count += 1
                known[line] = self.verdict(one, self.run([schedule]))
            if known[line].verdict == "failed":
                best.append(known[line])
                raise PropertyFailed(known[line])

        try:
            attempt()
        except Exception:
            # Hypothesis also complains where the end of time made a schedule pass: what was found counts.
            if not best:
                raise
        return (min(best, key=lambda row: len(row.schedule)) if best else None), count

    def smaller(self, one: Property, row: Row, end: float) -> Row:
        """The failure of a schedule that was made smaller, part by part, while it still fails."""
        best = Schedule.of(row.schedule)
        end = max(end, time.monotonic() + self.seconds / 2)
        progress = True
        while progress and time.monotonic() < end:
            progress = False
            for smaller in _smaller(best):
                if time.monotonic() > end:
                    break
                again = self.verdict(one, self.run([smaller]))
                if again.verdict == "failed":
                    best, row, progress = smaller, again, True
                    break
        return row


def _smaller(schedule: Schedule) -> Iterator[Schedule]:
    """Schedules with something less."""
    sessions = schedule.sessions
    for at, one in enumerate(sessions):
        if len(sessions) > 1:
            yield msgspec.structs.replace(schedule, sessions=sessions[:at] + sessions[at + 1 :])
        for changed in _smaller_sessions(one):
            yield msgspec.structs.replace(schedule, sessions=(*sessions[:at], changed, *sessions[at + 1 :]))


def _smaller_sessions(one: Session) -> Iterator[Session]:
    asked = one.sums
    if len(asked) > 2:
        yield msgspec.structs.replace(one, sums=asked[: len(asked) // 2])
        yield msgspec.structs.replace(one, sums=asked[len(asked) // 2 :])
    for at in range(len(asked) if len(asked) > 1 else 0):
        yield msgspec.structs.replace(one, sums=asked[:at] + asked[at + 1 :])
    for client in one.clients if len(one.clients) > 3 else ():
        if not any(client in lost for each in asked for lost in (each.lost, *each.lost_again)):
            yield msgspec.structs.replace(one, clients=tuple(each for each in one.clients if each != client))
    for at, each in enumerate(asked):
        changes: list[dict[str, Any]] = []
        if each.order:
            changes.append({"order": 0})
        changes += [{"lost": {k: v for k, v in each.lost.items() if k != client}} for client in each.lost]
        if each.length > 1:
            # By ever smaller parts: to the shortest that fails in a few dozen steps.
            halves = (each.length - (each.length >> part) for part in range(1, each.length.bit_length()))
            changes += [{"length": size} for size in (1, 5, *halves) if size < each.length]
        for change in changes:
            yield msgspec.structs.replace(
                one, sums=(*asked[:at], msgspec.structs.replace(each, **change), *asked[at + 1 :])
            )


# ---- what is tried for each property -------------------------------------------------------------

Batches = tuple[bool, Iterator[list[Schedule]]]
"""Whether a verdict needs all schedules together, and the schedules, in batches that end at the deadline."""


@dataclass(frozen=True)
class _Maker:
    """Makes schedules that fit the claims."""

    claims: Claims
    seed: int

    @property
    def usual(self) -> tuple[int, ...]:
        return cohort(self.claims.cohort)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of cohorts: all up to ten, and the largest."""
        fewest, most = self.claims.clients
        return tuple(sorted({*range(fewest, min(most, 10) + 1), most}))

    def length(self, wished: int) -> int:
        return min(wished, self.claims.largest)

    def of(self, *sessions: Session, watch: bool = False, seed: int | None = None) -> Schedule:
        return Schedule(sessions=sessions, seed=self.seed if seed is None else seed, watch=watch)

    def each(self, *sessions: Session) -> Iterator[list[Schedule]]:
        """Every session in a system of its own."""
        for one in sessions:
            yield [self.of(one)]

    def asks(self, lengths: Iterable[int], **more: Any) -> tuple[Ask, ...]:
        return sums([self.length(one) for one in lengths], **more)


def _right(make: _Maker) -> Batches:
    return False, make.each(*(session(make.usual, make.asks([length])) for length in (5, 1, 33)))


def _later(make: _Maker) -> Batches:
    fewest, most = make.claims.clients
    others = tuple(reversed(cohort(max(fewest, make.claims.cohort - 1), min(1, most - make.claims.cohort))))
    return False, iter(
        [
            [make.of(session(make.usual, make.asks([7, 5, 7, 5, 9, 6, 7])))],
            [
                make.of(
                    session(make.usual, make.asks([6, 6])),
                    session(others, make.asks([6, 4])),
                    session(make.usual, make.asks([6, 5, 5, 7])),
                    session(others, make.asks([6, 6, 6])),
                )
            ],
        ]
    )


def _lengths(make: _Maker) -> Batches:
    fewest = max(3, make.claims.clients[0])
    small = list(range(1, 71))
    large = sorted(
        {
            one
            for power in range(7, 18)
            for one in (2**power - 1, 2**power, 2**power + 1, 3 * 2 ** (power - 1))
        }
        | {100, 1000, 5120, 7168, 10_000, 65_537, 100_000, 2**17}
    )
    # Those that go wrong most often come first, in case time is short.
    chunks = [[*small[:5], 64, 65], *(large[at : at + 6] for at in range(0, len(large), 6))]
    chunks += [small[at : at + 14] for at in range(5, len(small), 14)]
    fitting = [[one for one in chunk if one <= make.claims.largest] for chunk in chunks]
    if make.claims.largest > 100 and make.claims.largest not in large:
        fitting.append([make.claims.largest])
    return False, ([make.of(session(cohort(fewest), sums(chunk)))] for chunk in fitting if chunk)


def _cohorts(make: _Maker) -> Batches:
    # Sizes that nothing else tries come first.
    sizes = sorted(make.sizes, key=lambda size: (size in USUAL, size))
    return False, make.each(*(session(cohort(one), make.asks([6, 3])) for one in sizes))


def _orders(make: _Maker) -> Batches:
    clients = make.usual
    return False, make.each(
        *(session(clients, [Ask(length=make.length(6), key=one, order=one)]) for one in range(1, 5)),
        *(session(random.Random(one).sample(clients, len(clients)), make.asks([4, 6])) for one in range(3)),
    )


def _bounds(make: _Maker) -> Batches:
    """Every kind for the usual cohort, and sums as large as they get for others; of a slow system, the extremes."""
    kinds, sizes = ("bound", "minus bound", "ends", "zero", "small"), make.sizes
    if make.claims.slow:
        sizes = (sizes[0], sizes[-1])
    cases = [(make.usual, kind) for kind in kinds]
    cases += [(cohort(size), kind) for size in sizes for kind in kinds[:2] if size != len(make.usual)]
    return False, make.each(*(session(who, [Ask(length=make.length(5), kind=kind)]) for who, kind in cases))


def _losses(make: _Maker) -> Batches:
    clients, claims = make.usual, make.claims
    cases: list[Session] = []
    for count in range(1, max(1, claims.dropouts) + 1):
        for phase in ("", *claims.phases):
            for start in {0, len(clients) - count, 1}:
                lost = dict.fromkeys(clients[start : start + count], phase)
                cases.append(
                    session(
                        clients, [Ask(length=make.length(6), lost=lost), Ask(length=make.length(4), key=1)]
                    )
                )
                cases.append(
                    session(
                        clients, [Ask(length=make.length(4)), Ask(length=make.length(6), key=1, lost=lost)]
                    )
                )
    if claims.dropouts > 1:
        first, last = (
            dict.fromkeys(clients[:1], claims.phases[0]),
            dict.fromkeys(clients[-1:], claims.phases[-1]),
        )
        cases.append(session(clients, [Ask(length=make.length(6), lost=first | last)]))
        cases.append(
            session(
                clients,
                [Ask(length=make.length(6), lost=first), Ask(length=make.length(6), key=1, lost=last)],
            )
        )
    return False, make.each(*cases)


def _mixtures(make: _Maker) -> Batches:
    claims = make.claims
    uploads, late = claims.uploads[:1], claims.phases[-1:]
    cases = [
        session(
            random.Random(one).sample(make.usual, len(make.usual)),
            [
                Ask(
                    length=make.length(70 + one),
                    key=one,
                    order=one,
                    lost=dict.fromkeys(make.usual[one % 3 : one % 3 + min(1, claims.dropouts)], phase),
                ),
                Ask(length=make.length(6), key=one, order=one + 7),
            ],
        )
        for one, phase in enumerate((*uploads, *late, ""), 1)
        if claims.traced
    ]
    systems = [[make.of(one)] for one in cases]
    if claims.dropouts and claims.uploads and claims.traced:  # in a session after losses nobody is lost
        lost = dict.fromkeys(make.usual[-1:], claims.uploads[0])
        sessions = [
            session(make.usual, [Ask(length=make.length(6), key=key, lost=gone)])
            for key, gone in enumerate((lost, dict[int, str]()))
        ]
        systems.append([make.of(*sessions)])
    return False, iter(systems)


def _draw_mixture(make: _Maker) -> st.SearchStrategy[Schedule]:
    claims = make.claims
    fewest, most = claims.clients
    top = min(claims.largest, 2**11)
    lengths = st.one_of(
        st.integers(1, min(40, top)),
        st.sampled_from(
            sorted(
                {min(top, one) for one in (63, 64, 65, 127, 129, 255, 257, 511, 513, 1023, 1024, 1025, 2048)}
            )
        ),
    )

    @st.composite
    def schedules(draw: st.DrawFn) -> Schedule:
        sessions = []
        for _ in range(draw(st.integers(1, 3))):
            size = draw(st.integers(fewest, min(most, 9)))
            clients = tuple(draw(st.permutations(range(min(most, 9)))))[:size]
            left = claims.dropouts if size >= claims.cohort and claims.traced else 0
            asked: list[Ask] = []
            for key in range(draw(st.integers(1, 4))):
                lost: dict[int, str] = {}
                if left and draw(st.booleans()):
                    for client in draw(st.lists(st.sampled_from(clients), max_size=left, unique=True)):
                        lost[client] = draw(
                            st.sampled_from(("", *claims.phases) if key == 0 else claims.phases)
                        )
                    left -= len(lost)
                kind = draw(st.sampled_from(("random", "random", "random", "ends", "zero")))
                asked.append(
                    Ask(length=draw(lengths), key=key, kind=kind, lost=lost, order=draw(st.integers(0, 3)))
                )
            sessions.append(session(clients, asked))
        return make.of(*sessions, seed=make.seed)

    return schedules()


def _nothing(make: _Maker) -> Batches:
    lost = dict.fromkeys(make.usual, "")
    return False, make.each(session(make.usual, [Ask(length=make.length(9), lost=lost)]))


def _too_few(make: _Maker) -> Batches:
    clients, claims = make.usual, make.claims
    cases = [
        session(clients, [Ask(length=make.length(8), lost=dict.fromkeys(clients[left:], phase))])
        for left in range(claims.least)
        for phase in ("", *claims.uploads)
    ]
    return False, make.each(*cases)


def _bad(faults: Iterable[str]) -> Callable[[_Maker], Batches]:
    def batches(make: _Maker) -> Batches:
        """In each case a sum and a session after it, as a refusal must leave nothing behind."""
        good = Ask(length=make.length(24), key=1)
        cases = [
            session(make.usual, [Ask(length=make.length(24), bad=bad, spoiled=count), good])
            for bad in faults
            for count in (1, len(make.usual))
        ]
        return False, ([make.of(one, session(make.usual, [good]))] for one in cases)

    return batches


def _missing(make: _Maker) -> Batches:
    return False, make.each(
        *(
            session(make.usual, [Ask(length=make.length(5), without=(one,))])
            for one in (make.usual[0], make.usual[-1])
        )
    )


def _experiment(part: str) -> Callable[[_Maker], Batches]:
    """Fresh systems that differ only in who gave what, in turn, often enough to tell chance from cause."""

    def batches(make: _Maker) -> Batches:
        claims, clients = make.claims, make.usual
        order = [(group, repeat) for repeat in range(_REPEATS + _SHORT) for group in range(_GROUPS)]
        random.Random(5).shuffle(order)

        def asked(lengths: Iterable[int], group: int, traders: int, **more: Any) -> tuple[Ask, ...]:
            return make.asks(lengths, kind="shifted", part=part, by=group, traders=traders, **more)

        def schedule(group: int, repeat: int) -> Schedule:
            n = len(clients)
            first = session(clients, asked((24, 3) if claims.slow else (24, 9, 3), group, n))
            if claims.slow or repeat >= _REPEATS:
                return make.of(first, seed=make.seed)
            sessions = [
                first,
                session(clients, asked((1100 if claims.largest > 2000 else 12,), group, n)),
            ]
            if claims.dropouts and claims.uploads and n > 3:
                lost = {clients[-1]: claims.uploads[0]}
                sessions.append(session(clients, asked((11,), group, n - 1, lost=lost)))
            return make.of(*sessions, seed=make.seed)

        chosen = [(group, repeat) for group, repeat in order if repeat < _REPEATS or not claims.slow]
        return True, iter([[schedule(*one) for one in chosen]])

    return batches


def _experiments(make: _Maker) -> Batches:
    """Both experiments."""
    return True, (batch for part in ("rest", "last") for batch in _experiment(part)(make)[1])


def _sizes(make: _Maker) -> Batches:
    kinds = ("random", "zero", "bound", "one number")
    one = make.of(*(session(make.usual, [Ask(length=make.length(100), kind=kind, key=7)]) for kind in kinds))
    return True, iter([[one] * 4])


def _same_sums(make: _Maker) -> Batches:
    claims, clients = make.claims, make.usual
    asked = [Ask(length=make.length(40), key=key) for key in (1, 1, 2, 1, 3, 1, 1)]
    batches = [[make.of(session(clients, asked))]]
    if claims.related:
        batches.append([make.of(session(clients, asked[:4], related=True))])
    if claims.uploads:  # too few are left, and then all come back, with other vectors
        lost = dict.fromkeys(clients[1:], claims.uploads[0])
        again = Ask(length=make.length(40), kind="one number", lost=lost, lost_again=({},), anew=True)
        batches.append([make.of(session(clients, [again]))])
    return True, iter(batches)


def _same_sessions(make: _Maker) -> Batches:
    claims = make.claims
    fewest, most = claims.clients
    asked = [Ask(length=make.length(40), key=key) for key in (1, 2, 3)]
    batches = [[make.of(*(session(clients, asked) for clients in (make.usual, make.usual, make.usual)))]]
    if fewest <= claims.cohort - 1:
        batches.append(
            [make.of(session(make.usual, asked), session(make.usual[:-1], asked), session(make.usual, asked))]
        )
    if claims.renewal:
        batches.append([make.of(*(session(make.usual, asked, rows=1, renew=new) for new in (False, True)))])
    # A client is lost with its upload or after it, and comes back.
    for phase in dict.fromkeys((*claims.uploads[:1], *claims.phases[-1:])) if claims.dropouts else ():
        lost = dict.fromkeys(make.usual[:1], phase)
        first = [Ask(length=make.length(40), key=key, lost=lost if key == 1 else {}) for key in (1, 2, 3)]
        batches.append([make.of(session(make.usual, first), session(make.usual, asked))])
    more = tuple(range(5, 5 + max(0, fewest - 3)))
    if most >= 5 + len(more):
        cohorts = [(0, *pair, *more) for pair in ((1, 2), (3, 4), (1, 3), (2, 4))]
        batches.append([make.of(*(session(clients, asked[:1]) for clients in cohorts))])
    return True, iter(batches)


def _one_number(make: _Maker) -> Batches:
    lengths = [make.length(8192), make.length(8192)]
    batches = [[make.of(session(make.usual, [Ask(length=one, kind="one number") for one in lengths]))]]
    if make.claims.largest >= 2**17:
        few = cohort(max(3, make.claims.clients[0]))
        batches.append([make.of(session(few, [Ask(length=2**17, kind="one number", key=1)]))])
    return True, iter(batches)


def _ends(make: _Maker) -> Batches:
    return True, iter([[make.of(session(make.usual, [Ask(length=make.length(8192), kind="ends")]))]])


def _equal(make: _Maker) -> Batches:
    asked = [Ask(length=make.length(40), key=1, kind="same"), Ask(length=make.length(40), key=2)]
    return True, iter([[make.of(session(make.usual, asked))]])


def _watched(make: _Maker) -> Batches:
    lost = dict.fromkeys(make.usual[:1], make.claims.phases[-1]) if make.claims.phases else {}
    return True, iter(
        [
            [
                make.of(
                    session(make.usual, make.asks([30, 7])),
                    session(make.usual, [Ask(length=5, lost=lost)]),
                    watch=True,
                )
            ]
        ]
    )


def _two_systems(make: _Maker) -> Batches:
    return True, iter([[make.of(session(make.usual, make.asks([4, 3]))) for _ in range(2)]])


def _openings(make: _Maker) -> Batches:
    """Sums of other cohorts and with other losses, to compare what opens them."""
    clients, claims = make.usual, make.claims
    fewest, most = claims.clients
    sizes = dict.fromkeys((len(clients), max(3, fewest), min(most, 9)))
    sessions = [session(cohort(size), make.asks([6, 5])) for size in sizes if fewest <= size <= most]
    for count in dict.fromkeys((min(1, claims.dropouts), claims.dropouts)) if claims.uploads else ():
        lost = dict.fromkeys(clients[:count], claims.uploads[0])
        sessions.append(session(clients, [Ask(length=make.length(6), lost=lost)]))
    return True, iter([[make.of(one) for one in sessions]])


def _ledger(make: _Maker) -> Batches:
    asked = make.asks([6])
    lost = [
        Ask(length=make.length(6), key=1, lost={make.usual[0]: phase}) for phase in make.claims.phases[-1:]
    ]
    batches = [
        [make.of(session(make.usual, asked, rows=1), session(make.usual, again, rows=1))]
        for again in (asked, make.asks([4]), *([lost] if lost else []))
    ]
    if make.claims.renewal:  # of other rows
        sessions = [
            session(make.usual, asked, rows=rows, renew=new)
            for rows, new in ((1, False), (2, False), (2, True))
        ]
        batches.append([make.of(*sessions, sessions[0])])
    return False, iter(batches)


def _renewed(make: _Maker) -> Batches:
    sessions = [
        session(make.usual, [Ask(length=make.length(6), key=key)], rows=1, renew=key > 1) for key in (1, 2, 3)
    ]
    return False, iter([[make.of(*sessions)]])


def _once(make: _Maker) -> Batches:
    clients, claims = make.usual, make.claims
    upload, late = claims.uploads[:1], claims.phases[-1:]
    gone = [dict.fromkeys(clients[at : at + 1], phase) for at in (0, 1) for phase in (*upload, *late)]
    most = [dict.fromkeys(clients[2:], phase) for phase in (*upload, *late)]
    schedules: list[tuple[dict[int, str], ...]] = [({}, {}), ({}, {}, {})]
    if claims.traced:
        schedules += [
            (*gone[:1], {}),
            (*gone[1:2], {}),
            (*gone[-1:], *gone[:1], {}),
            (*most[-1:], *gone, {}),
            (*most[:1], *gone, {}),
        ]
    return False, make.each(
        *(
            session(clients, [Ask(length=make.length(6), lost=first, lost_again=tuple(rest))])
            for first, *rest in schedules
        ),
        session(clients, [Ask(length=make.length(6)), Ask(length=make.length(4), key=1, again=1)]),
    )


def _related(make: _Maker) -> Batches:
    clients, claims = make.usual, make.claims
    cases = []
    for phase in dict.fromkeys((*claims.uploads, *claims.phases[-1:])):
        for at in range(5):
            asked = [
                Ask(length=make.length(6), key=key, lost={clients[at % 3]: phase} if key == at else {})
                for key in range(5)
            ]
            cases.append(session(clients, asked, related=True))
    return False, make.each(*cases)


def _draw_related(make: _Maker) -> st.SearchStrategy[Schedule]:
    losses = st.dictionaries(
        st.sampled_from(make.usual),
        st.sampled_from(make.claims.phases),
        max_size=max(1, make.claims.dropouts),
    )

    def made(each: list[dict[int, str]]) -> Schedule:
        asked = [Ask(length=make.length(5), key=key, lost=lost) for key, lost in enumerate(each)]
        return make.of(session(make.usual, asked, related=True))

    return st.lists(losses, min_size=2, max_size=6).map(made)


def _delayed(make: _Maker) -> Batches:
    """Messages that come twice or late, a sum after it, and a session after that."""
    length = make.length(21)
    cases = [
        (handling, phase, up, who)
        for handling in DELAYS
        for phase in make.claims.phases
        for up in (True, False)
        for who in (make.usual[1], -1)
    ]
    after = session(make.usual, [Ask(length=length, key=3)])
    return False, (
        [
            make.of(
                session(make.usual, [Ask(length=length, key=1, alter=case), Ask(length=length, key=2)]), after
            )
        ]
        for case in cases
    )


def _tampered(make: _Maker) -> Batches:
    cases = [
        (handling, phase, up, who)
        for handling in ALTERATIONS
        for phase in make.claims.phases
        for up in (True, False)
        for who in (-1, make.usual[1])
    ]
    random.Random(make.seed).shuffle(cases)
    plain, after = make.asks([21]), make.asks([5])

    def schedule(case: tuple[str, str, bool, int], number: int) -> Schedule:
        altered = session(make.usual, [Ask(length=make.length(21), key=number, alter=case)])
        return make.of(
            session(make.usual, plain), altered, session(make.usual, after), seed=make.seed + number
        )

    return False, ([schedule(case, number)] for number, case in enumerate(cases))


_BATCHES: dict[str, Callable[[_Maker], Batches]] = {
    "nothing_crashes": _right,
    "inputs_are_left_alone": _later,
    "sums_are_right": _right,
    "later_sums_are_right": _later,
    "every_length_is_summed": _lengths,
    "every_cohort_is_summed": _cohorts,
    "the_order_of_clients_is_no_matter": _orders,
    "the_bound_itself_is_summed": _bounds,
    "the_lost_are_left_out": _losses,
    "any_mixture_is_summed": _mixtures,
    "every_vector_travels": _nothing,
    "too_few_open_nothing": _too_few,
    "bad_values_are_refused": _bad(VALUES),
    "bad_shapes_are_refused": _bad(BAD[len(VALUES) :]),
    "a_missing_client_is_refused": _missing,
    "no_vector_travels_in_the_clear": _experiment("rest"),
    "no_count_travels_in_the_clear": _experiment("last"),
    "results_tell_only_the_sum": _experiments,
    "sizes_tell_nothing": _sizes,
    "two_sums_share_no_mask": _same_sums,
    "two_sessions_share_no_mask": _same_sessions,
    "every_entry_has_its_own_mask": _one_number,
    "uploads_look_uniform": _ends,
    "clients_with_equal_vectors_are_unrelated": _equal,
    "no_toy_generator_is_used": _watched,
    "only_the_sum_is_opened": _openings,
    "no_key_is_common": _two_systems,
    "a_data_set_serves_one_session": _ledger,
    "renewed_rows_are_summed_anew": _renewed,
    "a_sum_is_made_once": _once,
    "related_sums_keep_their_survivors": _related,
    "late_and_repeated_messages_count_once": _delayed,
    "tampering_changes_no_sum": _tampered,
}
_DRAWN: dict[str, Callable[[_Maker], st.SearchStrategy[Schedule]]] = {
    "any_mixture_is_summed": _draw_mixture,
    "related_sums_keep_their_survivors": _draw_related,
}
