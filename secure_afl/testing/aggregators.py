"""Check every property of an aggregator, ours or any other, as scikit-learn's `check_estimator` checks an estimator.

    from secure_afl.testing.aggregators import check_aggregator

    print(check_aggregator(lambda network: MaskedAggregator(network=network)))

To have your own secure sum checked, wrap it in a class with the four members of `secure_afl.sums.aggregation.Aggregator`:
`backend` (a name), `policy` (for example `Policy()`; it gives the fewest survivors of a sum), `open(clients,
plan)` and `sum(number, contributions)`, or `solve` instead. Names of clients are strings, a contribution is
a float64 vector and the name of the data set behind it, the last entry of a vector is a whole number, the count of
the client's rows. `sum` returns an `Aggregate`; a refusal raises one of `refusals`. `renew(data_set,
may_expose=True)` is used where there is one.

The contract about messages is small. Every message between parties is given to the network that the factory got:

    for delivered in network.carry(Envelope(phase, client, upward, data)):
        ...                     # take `delivered.data` as what arrived from, or for, `delivered.client`
    for delivered in network.flush(phase):      # when the phase ends, until it gives nothing
        ...

`phase` is any text that tells one step of the protocol from another; `client` the client's place in the list that
`open` was given, and numbers from the length of that list on are other parties (key holders); `upward` says whether
it comes from that party. Undelivered messages have not arrived. Messages that bypass the network are not checked. An
aggregator that sends nothing through it is checked with `network=False`: the report then says what was left out.

Tests of this kind cannot detect: secrets that leak in a form not searched for (compressed, or under a home-made cipher);
random generators other than Python's and NumPy's; attacks that forge messages of a protocol other than ours; what a
party keeps in memory, except through `held`; timing.
"""

import gc
import math
import random
import struct
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations, pairwise
from typing import Any, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from secure_afl.analytic.solve import Solution
from secure_afl.crypto.errors import SecureAflError
from secure_afl.crypto.identity import SIGNATURE_BYTES
from secure_afl.protocol.masking import messages
from secure_afl.protocol.masking.messages import FROM_CLIENT, FROM_SERVER, Reveal, Shares, Survivors
from secure_afl.protocol.session.parameters import PARAMETERS, Parameters, RidgeSystem, SumPlan
from secure_afl.protocol.session.wire import WireError, decode, encode
from secure_afl.protocol.transport.driver import Contribution, Envelope, Network, PerfectNetwork
from secure_afl.sums.aggregation import Aggregate, Aggregator, Outcome, solved
from secure_afl.testing.faults import Fault, FaultyNetwork

Factory = Callable[[Network], Aggregator]
Held = Callable[[Aggregator], Mapping[str, Collection[bytes]]]
Vector = npt.NDArray[np.float64]
Contributions = dict[str, Contribution]
T = TypeVar("T")

BOUND, FRACTION_BITS = 2.0**26, 16
TOLERANCE = 2.0**-30  # of the bound: the largest entry error that is accepted
_BLOCK, _KEY = 16, 32  # bytes
_HEADER = 32  # equal blocks of two uploads that may be a header
_STATISTICS = ("gram matrix", "head.weight", "counts of labels", "moments")
# Quantile of the normal distribution with 1e-9 above it: what a statistical check calls chance.
_QUANTILE = 6.0


class PropertyFailed(AssertionError):  # noqa: N818
    """An aggregator does not have a property. property: its name; seen: what was seen."""

    def __init__(self, name: str, claim: str, seen: str) -> None:
        self.property = name
        self.seen = seen
        super().__init__(f"{name}: expected that {claim}; {seen}")


class _SeenError(Exception):
    """A check saw something that must not happen."""


class _NotApplicableError(Exception):
    """The reason why a check does not apply to this aggregator."""


def _fail(seen: str) -> NoReturn:
    raise _SeenError(seen)


# ---- the report ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One property. verdict: "passed", "failed" or "not applicable"; note: the observation, the reason, or the extent."""

    name: str
    claim: str
    verdict: str
    note: str = ""


@dataclass(frozen=True)
class Report:
    """The results of `check_aggregator`, in the order of the table. `print` shows them."""

    backend: str
    rows: tuple[Row, ...]

    @property
    def passed(self) -> tuple[str, ...]:
        return self._having("passed")

    @property
    def failed(self) -> tuple[str, ...]:
        return self._having("failed")

    @property
    def not_applicable(self) -> tuple[str, ...]:
        return self._having("not applicable")

    def _having(self, verdict: str) -> tuple[str, ...]:
        return tuple(row.name for row in self.rows if row.verdict == verdict)

    def __str__(self) -> str:
        wide = max((len(row.name) for row in self.rows), default=0)
        passed, failed, rest = map(len, (self.passed, self.failed, self.not_applicable))
        lines = [f"{self.backend}: {passed} passed, {failed} failed, {rest} not applicable"]
        lines += [
            f"  {row.name:{wide}}  {row.verdict:14}  {row.note or row.claim}".rstrip() for row in self.rows
        ]
        return "\n".join(lines)


def check_aggregator(
    factory: Factory,
    *,
    clients: int = 5,
    dropouts: int = 1,
    asks: str = "sum",
    network: bool = True,
    held: Held | None = None,
    refusals: tuple[type[Exception], ...] = (SecureAflError, ValueError),
    only: Collection[str] | None = None,
    on_fail: str = "raise",
    tampered: int = 96,
    seed: int = 0,
) -> Report:
    """Check every property of `PROPERTIES` on fresh aggregators.

    factory: makes an aggregator that shares nothing with earlier ones and sends all messages through the given
        network (see the module).
    clients: number of clients; dropouts: how many of them may be lost without the sum being refused; 0 for sums
        that need all clients.
    asks: "sum", or "weights" for an aggregator that only offers `solve`.
    network: False for an aggregator whose messages pass through no `Network`.
    held: the secret keys that each client holds, by the client's name, to be compared; None compares only what
        travels.
    refusals: exceptions that count as refusals; any other is a crash. Their texts must not be empty.
    tampered: the most sessions with a network that alters messages.
    only: names of properties, None is all. seed: only for the data and the choice of faults.
    on_fail: "raise" `PropertyFailed` at the first, or "collect" in the report.

    Raises ValueError for arguments out of range.
    """
    if asks not in ("sum", "weights") or on_fail not in ("raise", "collect"):
        raise ValueError(f"expected asks sum or weights, on_fail raise or collect, got {asks!r}, {on_fail!r}")
    if clients < 3 or not 0 <= dropouts < clients - 1:
        raise ValueError(
            f"expected 3 clients or more, of which 2 or more stay, got {clients} and {dropouts} lost"
        )
    if unknown := set(only or ()) - {one.name for one in PROPERTIES}:
        raise ValueError(f"expected names of properties, got {', '.join(sorted(unknown))}")
    names = tuple(f"site {number}" for number in range(clients))
    bench = Bench(factory, names, dropouts, asks == "weights", network, held, refusals, tampered, seed)
    rows: list[Row] = []
    for one in PROPERTIES:
        if only is not None and one.name not in only:
            continue
        row = one.examine(bench)
        if row.verdict == "failed" and on_fail == "raise":
            raise PropertyFailed(row.name, row.claim, row.note)
        rows.append(row)
    return Report(bench.backend, tuple(rows))


# ---- what the checks work with -------------------------------------------------------------------


class Wire:
    """The network of the checks: records what is sent and passes it to `inner`, which decides what arrives."""

    def __init__(self) -> None:
        self.sent: list[Envelope] = []
        self.inner: Network = PerfectNetwork()

    def carry(self, envelope: Envelope) -> Iterable[Envelope]:
        self.sent.append(envelope)
        return list(self.inner.carry(envelope))

    def flush(self, phase: str) -> Iterable[Envelope]:
        return list(self.inner.flush(phase))


@dataclass(frozen=True)
class Refusal:
    """A sum or a session that was refused."""

    error: Exception

    @property
    def text(self) -> str:
        return "\n".join([str(self.error), *getattr(self.error, "__notes__", ())])


Answer = tuple[Outcome, Solution | None]


@dataclass(frozen=True)
class Phases:
    """Names of the phases of a sum: uploads are those whose messages grow with the vector."""

    uploads: frozenset[str]
    after: tuple[str, ...]
    every: tuple[str, ...]


@dataclass
class Bench:
    """The aggregators under test, data for them, and the truth."""

    factory: Factory
    names: tuple[str, ...]
    dropouts: int
    solves: bool
    network: bool
    held: Held | None
    refusals: tuple[type[Exception], ...]
    tampered: int
    seed: int
    backend: str = "?"
    _data_sets: int = 0
    draws: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.draws = np.random.default_rng(self.seed)

    def make(self) -> tuple[Aggregator, Wire]:
        """A fresh aggregator and its network."""
        wire = Wire()
        aggregator = self.factory(wire)
        self.backend = aggregator.backend
        return aggregator, wire

    # ---- data ----

    def plan(self, *lengths: int, same: bool = False) -> tuple[SumPlan, ...]:
        """Sums of these lengths; systems of about that size where only solutions are asked for."""
        entries = []
        for number, length in enumerate(lengths):
            system = None
            if self.solves:
                features = max(1, math.ceil(math.sqrt(2 * length)) - 1)
                system = RidgeSystem(features, 1, 2.0**-4)
                length = features * (features + 1) // 2 + features + 1
            name = f"{_STATISTICS[number % len(_STATISTICS)]} {number}"
            entries.append(
                SumPlan(name, length, BOUND, FRACTION_BITS, same_survivors=same, system=system, error=2.0**-6)
            )
        return tuple(entries)

    def vector(self, entry: SumPlan) -> Vector:
        """A valid client vector: random in all digits, with a count of rows at the end."""
        count = float(self.draws.integers(2**24, 2**25))
        if entry.system is None:
            values = self.draws.uniform(-BOUND / 2, BOUND / 2, entry.length)
        else:
            features, outputs = entry.system.features, entry.system.outputs
            X = self.draws.uniform(-1, 1, (3 * features + 8, features))
            Y = self.draws.uniform(-1, 1, (len(X), outputs))
            gram, cross = X.T @ X * (count / len(X)), X.T @ Y * (count / len(X))
            values = np.concatenate(
                [*(row[at:] for at, row in enumerate(gram)), *cross, [0.0]], dtype=np.float64
            )
        values[-1] = count
        return values

    def fresh(self) -> str:
        """A name of a data set that was not used before."""
        self._data_sets += 1
        return f"rows {self._data_sets}"

    def data(self, entry: SumPlan, data_set: str | None = None) -> Contributions:
        """Random vectors of all clients."""
        return self.of([self.vector(entry) for _ in self.names], data_set)

    def of(self, vectors: Sequence[Any], data_set: str | None = None) -> Contributions:
        """These vectors as contributions, of a fresh data set unless one is named."""
        name = data_set or self.fresh()
        return {who: (vector, name) for who, vector in zip(self.names, vectors, strict=True)}

    def constant(self, entry: SumPlan, numbers: Sequence[float], data_set: str) -> Contributions:
        """Vectors of one number each."""
        return self.of([np.full(entry.length, number) for number in numbers], data_set)

    # ---- asking ----

    def attempt(self, step: Callable[[], T]) -> T | Refusal:
        """A step's result or its refusal; re-raises other exceptions."""
        try:
            return step()
        except self.refusals as error:
            if not str(error).strip():
                _fail(f"a refusal of type {type(error).__name__} says nothing")
            return Refusal(error)

    def ask(self, aggregator: Aggregator, number: int, given: Contributions) -> Answer | Refusal:
        """One sum or solution."""

        def step() -> Answer:
            if self.solves:
                solution, outcome = aggregator.solve(number, given)
                return outcome, solution
            return aggregator.sum(number, given), None

        return self.attempt(step)

    def session(
        self, aggregator: Aggregator, plan: Sequence[SumPlan], given: Sequence[Contributions]
    ) -> list[Answer | Refusal]:
        """All sums of a session."""
        opened = self.attempt(lambda: aggregator.open(self.names, plan))
        if isinstance(opened, Refusal):
            return [opened for _ in given]
        return [self.ask(aggregator, number, one) for number, one in enumerate(given)]

    def must(self, answer: Answer | Refusal, entry: SumPlan, given: Contributions, what: str) -> Outcome:
        """Require an answer, and a correct one."""
        if isinstance(answer, Refusal):
            _fail(f"{what} was refused: {answer.text}")
        return self.judge(answer, entry, given, what)

    def may(self, answer: Answer | Refusal, entry: SumPlan, given: Contributions, what: str) -> bool:
        """Accept a refusal or a correct answer; return whether there was an answer."""
        if isinstance(answer, Refusal):
            return False
        self.judge(answer, entry, given, what)
        return True

    def judge(self, answer: Answer, entry: SumPlan, given: Contributions, what: str) -> Outcome:
        """Fail unless the answer is that of its survivors."""
        outcome, solution = answer
        who = outcome.survivors
        if not who or len(set(who)) != len(who) or not set(who) <= given.keys():
            _fail(f"{what} names the survivors {', '.join(who) or 'nobody'}")
        if outcome.length != entry.length:
            _fail(f"{what} has {outcome.length} values in place of {entry.length}")
        if not 0 <= outcome.entry_error <= TOLERANCE * BOUND:
            _fail(f"{what} may be off by {outcome.entry_error} by its own account")
        vectors = [given[name][0] for name in who]
        if any(np.shape(vector) != (entry.length,) for vector in vectors):
            _fail(f"{what} includes a vector that is not of {entry.length} values")
        if any(np.iscomplexobj(vector) and np.imag(vector).any() for vector in vectors):
            _fail(f"{what} includes a vector of complex numbers")
        numbers = [np.real(vector).astype(np.float64) for vector in vectors]
        if not all((np.abs(vector) <= BOUND).all() for vector in numbers):
            _fail(f"{what} includes a vector with an entry that is not finite or over the bound")
        exact = np.array(
            [math.fsum(column) for column in zip(*(one.tolist() for one in numbers), strict=True)]
        )
        if solution is not None:
            return self._judge_solution(solution, entry, exact, outcome, what)
        assert isinstance(outcome, Aggregate)
        total = outcome.total
        if total.shape != exact.shape:
            _fail(f"{what} has shape {total.shape}")
        # Float64 additions are forgiven: a bound on what comes before them is what the entry error is for.
        slack = len(numbers) * 2.0**-53 * np.sum(np.abs(numbers), axis=0)
        off = np.abs(total - exact) > outcome.entry_error + slack
        if not np.isfinite(total).all() or off.any():
            _fail(
                f"{what} is wrong in {np.count_nonzero(off | ~np.isfinite(total))} of {len(total)} entries for the "
                f"{len(who)} survivors that it names, by up to {np.abs(total - exact).max():g}; its entry error is "
                f"{outcome.entry_error:g}"
            )
        self._judge_units(outcome, numbers, what)
        return outcome

    def _judge_units(self, outcome: Aggregate, numbers: Sequence[Vector], what: str) -> None:
        if outcome.units is None or outcome.encoding is None:
            return
        bits = outcome.encoding.fraction_bits
        columns = zip(*(np.rint(np.ldexp(one, bits)).tolist() for one in numbers), strict=True)
        if outcome.units.tolist() != [sum(map(int, column)) for column in columns]:
            _fail(f"{what} in units is not the sum of the survivors' units")
        if not np.array_equal(np.ldexp(outcome.units.astype(np.float64), -bits), outcome.total):
            _fail(f"{what} in units is not the sum in numbers")

    def _judge_solution(
        self, solution: Solution, entry: SumPlan, exact: Vector, outcome: Outcome, what: str
    ) -> Outcome:
        system = entry.system
        assert system is not None
        truth = solved(system, exact, 0.0, len(outcome.survivors))
        off = float(np.linalg.norm(solution.weights - truth.weights))
        if not off <= solution.certificate.bound + truth.certificate.bound:
            _fail(f"{what} is off by {off:g} for the {len(outcome.survivors)} survivors that it names")
        if not solution.certificate.bound <= 2.0**-10 * (1 + float(np.linalg.norm(truth.weights))):
            _fail(f"{what} may be off by {solution.certificate.bound:g} by its own account")
        return outcome

    # ---- messages ----

    @cached_property
    def phases(self) -> Phases:
        """The phases, learnt from a session with a short and a long sum."""
        self.needs_network()
        aggregator, wire = self.make()
        plan = self.plan(3, 19_000)
        aggregator.open(self.names, plan)
        marks, data_set = [len(wire.sent)], self.fresh()
        for number, entry in enumerate(plan):
            answer = self.ask(aggregator, number, self.data(entry, data_set))
            if isinstance(answer, Refusal):
                _fail(f"a sum of {entry.length} values was refused: {answer.text}")
            marks.append(len(wire.sent))
        sizes = [self._sizes(wire.sent[a:b]) for a, b in pairwise(marks)]
        grown = plan[1].length - plan[0].length
        uploads = frozenset(phase for phase in sizes[1] if sizes[1][phase] - sizes[0].get(phase, 0) >= grown)
        if not uploads:
            _fail("no message of a client grows with its vector: the vectors do not pass through the network")
        summing = list(dict.fromkeys(one.phase for one in wire.sent[marks[0] : marks[1]]))
        last = max(at for at, phase in enumerate(summing) if phase in uploads)
        return Phases(
            uploads, tuple(summing[last + 1 :]), tuple(dict.fromkeys(one.phase for one in wire.sent))
        )

    def _sizes(self, sent: Iterable[Envelope]) -> dict[str, int]:
        """The largest message of any client in each phase."""
        sizes: dict[str, int] = {}
        for one in sent:
            if one.upward and one.client < len(self.names):
                sizes[one.phase] = max(sizes.get(one.phase, 0), len(one.data))
        return sizes

    def uploads(self, sent: Iterable[Envelope]) -> list[bytes]:
        """Each client's uploads, concatenated. Fails if a client uploaded nothing."""
        parts: list[list[bytes]] = [[] for _ in self.names]
        for one in sent:
            if one.upward and one.phase in self.phases.uploads and one.client < len(self.names):
                parts[one.client].append(one.data)
        joined = [b"".join(each) for each in parts]
        if not all(joined):
            _fail("a client's vector did not pass through the network")
        return joined

    def observed(
        self,
        plan: Sequence[SumPlan],
        given: Sequence[Contributions],
        on: tuple[Aggregator, Wire] | None = None,
    ) -> list[list[bytes]]:
        """The uploads of each sum of a session, by client. What is released does not matter here."""
        phases = self.phases  # learnt before the session, not in it
        aggregator, wire = on or self.make()
        assert phases
        aggregator.open(self.names, plan)
        rounds = []
        for number, one in enumerate(given):
            before = len(wire.sent)
            self.ask(aggregator, number, one)
            rounds.append(self.uploads(wire.sent[before:]))
        return rounds

    def needs_network(self) -> None:
        if not self.network:
            raise _NotApplicableError("not checked: its messages pass through no network of ours")

    def needs_sums(self, why: str) -> None:
        if self.solves:
            raise _NotApplicableError(why)


@dataclass(frozen=True)
class Property:
    """name; claim, after "expected that"; check: returns a note or raises."""

    name: str
    claim: str
    check: Callable[[Bench], str | None]

    def examine(self, bench: Bench) -> Row:
        """Run the check."""
        try:
            return Row(self.name, self.claim, "passed", self.check(bench) or "")
        except _NotApplicableError as reason:
            return Row(self.name, self.claim, "not applicable", str(reason))
        except _SeenError as seen:
            return Row(self.name, self.claim, "failed", str(seen))
        except Exception as error:  # noqa: BLE001 - whatever a stranger's code raises is a finding about it
            return Row(self.name, self.claim, "failed", f"it raised {type(error).__name__}: {error}")


# ---- correctness ---------------------------------------------------------------------------------


def sums_are_exact(bench: Bench) -> None:
    """One value, odd lengths, several sums per session, several sessions per aggregator: each sum is within its entry
    error of the exact one and includes all clients.
    """
    aggregator, _ = bench.make()
    for lengths in ((1,), (33, 1, 7), (4099, 2)):
        plan, data_set = bench.plan(*lengths), bench.fresh()
        given = [bench.data(entry, data_set) for entry in plan]
        for entry, one, answer in zip(plan, given, bench.session(aggregator, plan, given), strict=True):
            outcome = bench.must(answer, entry, one, f"the sum of {entry.length} values")
            if set(outcome.survivors) != set(bench.names):
                _fail(
                    f"{len(bench.names)} clients took part, {len(outcome.survivors)} are named as survivors"
                )


def the_order_of_clients_is_no_matter(bench: Bench) -> None:
    """Clients invited, and contributions handed over, in another order: the same sum."""
    aggregator, _ = bench.make()
    (entry,) = bench.plan(12)
    vectors = [bench.vector(entry) for _ in bench.names]
    for _ in range(3):
        order = [int(at) for at in bench.draws.permutation(len(bench.names))]
        data_set = bench.fresh()
        given = {bench.names[at]: (vectors[at], data_set) for at in order}
        invited = [bench.names[at] for at in bench.draws.permutation(len(bench.names))]
        aggregator.open(invited, [entry])
        bench.must(bench.ask(aggregator, 0, given), entry, given, "the sum of shuffled clients")


def the_bound_itself_is_summed(bench: Bench) -> None:
    """All entries at the bound, at its negative, at zero, at both ends in turn, or smaller than a unit."""
    bench.needs_sums("not checked: any vector at the bound is not a system that can be solved")
    aggregator, _ = bench.make()
    ends = np.where(np.arange(len(bench.names)) % 2, BOUND, -BOUND)
    rows = {
        "the bound": np.full(len(ends), BOUND),
        "minus the bound": np.full(len(ends), -BOUND),
        "both ends": ends,
        "zeros": np.zeros(len(ends)),
        "less than a unit": ends * 2.0**-90,
        "the smallest number": np.full(len(ends), 5e-324),
    }
    plan, data_set = bench.plan(*[5] * len(rows)), bench.fresh()
    given = [
        bench.constant(entry, row.tolist(), data_set) for entry, row in zip(plan, rows.values(), strict=True)
    ]
    for what, entry, one, answer in zip(
        rows, plan, given, bench.session(aggregator, plan, given), strict=True
    ):
        bench.must(answer, entry, one, f"a sum of {what}")


# ---- dropouts ------------------------------------------------------------------------------------


def every_vector_travels(bench: Bench) -> None:
    """If no message arrives, there is no sum: no vector bypasses the network."""
    bench.needs_network()
    aggregator, wire = bench.make()
    wire.inner = FaultyNetwork([Fault("drop", upward=None)])
    (entry,) = bench.plan(9)
    given = bench.data(entry)
    (answer,) = bench.session(aggregator, [entry], [given])
    if not isinstance(answer, Refusal):
        _fail("no message arrived, and there is a sum")


def the_lost_are_left_out(bench: Bench) -> str | None:
    """Clients lost from the start, before their upload, or after it: the sum is that of the survivors it names."""
    phases, plan = bench.phases, bench.plan(17, 6)
    cases: dict[str, Iterable[str | None]] = {
        "from the start": [None],
        "before their upload": phases.uploads,
    }
    if phases.after:
        cases["after their upload"] = phases.after
    for when, lost in cases.items():
        for count in range(1, max(1, bench.dropouts) + 1):
            gone = frozenset(range(count))
            aggregator, wire = bench.make()
            wire.inner = FaultyNetwork([Fault("drop", phase, gone) for phase in lost])
            data_set = bench.fresh()
            given = [bench.data(entry, data_set) for entry in plan]
            answers = bench.session(aggregator, plan, given)
            what = f"a sum with {count} of {len(bench.names)} clients lost {when}"
            for entry, one, answer in zip(plan, given, answers, strict=True):
                if count <= bench.dropouts:
                    bench.must(answer, entry, one, what)
                else:
                    bench.may(answer, entry, one, what)
    return None if bench.dropouts else "it may refuse any loss; nothing wrong came out"


def too_few_open_nothing(bench: Bench) -> None:
    """Fewer than the policy's least survivors: refused, nothing released; the next session works."""
    phases, (entry,) = bench.phases, bench.plan(8)
    for when in (phases.uploads, phases.after):
        for left in range(_least(bench)):
            if not when:
                continue
            aggregator, wire = bench.make()
            gone = frozenset(range(left, len(bench.names)))
            wire.inner = FaultyNetwork([Fault("drop", phase, gone) for phase in when])
            (answer,) = bench.session(aggregator, [entry], [given := bench.data(entry)])
            if not isinstance(answer, Refusal) and when is phases.uploads:
                _fail(f"{left} of {len(bench.names)} clients uploaded, and there is a sum")
            bench.may(answer, entry, given, "a sum")
            wire.inner = PerfectNetwork()
            (answer,) = bench.session(aggregator, [entry], [given := bench.data(entry)])
            bench.must(answer, entry, given, "the session after one that too few stayed in")


def _least(bench: Bench) -> int:
    """The fewest survivors of a sum by the aggregator's policy."""
    aggregator, _ = bench.make()
    return aggregator.policy.least_survivors(len(bench.names))


# ---- bad input -----------------------------------------------------------------------------------


def _bad(bench: Bench, cases: Mapping[str, Callable[[Vector], Any]]) -> None:
    """Test each case at one client, which must be refused or left out, and at all clients, which must be refused."""
    for what, spoil in cases.items():
        for bad in (1, len(bench.names)):
            aggregator, wire = bench.make()
            (entry,) = bench.plan(24)
            vectors: list[Any] = [bench.vector(entry) for _ in bench.names]
            for at in range(bad):
                vectors[at] = spoil(vectors[at])
            given = bench.of(vectors)
            (answer,) = bench.session(aggregator, [entry], [given])
            if bench.may(answer, entry, given, f"a sum with {what} at {bad} of {len(vectors)} clients"):
                continue  # it is right: these clients are not in it, or nothing was wrong with what they gave
            if bench.network and any(
                one.upward and one.client < bad and one.phase in bench.phases.uploads for one in wire.sent
            ):
                _fail(f"a client with {what} was refused after its upload had left")
            assert isinstance(answer, Refusal)
            for value in np.ravel(vectors[0])[:3].tolist():
                if len(str(value)) > 6 and str(value) in answer.text:
                    _fail(f"the refusal of {what} quotes a value of the data")


def _with(value: float) -> Callable[[Vector], Vector]:
    def spoil(vector: Vector) -> Vector:
        vector[3] = value
        return vector

    return spoil


def bad_values_are_refused(bench: Bench) -> None:
    """NaN, infinity or a value over the bound is never clipped, wrapped or summed, and nothing of it leaves."""
    cases = {
        "NaN": math.nan,
        "infinity": math.inf,
        "minus infinity": -math.inf,
        "a value just over the bound": BOUND * (1 + 2.0**-20),
        "twice the bound": -2 * BOUND,
        "a value over any word": 2.0**200,
    }
    _bad(bench, {what: _with(value) for what, value in cases.items()})


def bad_shapes_are_refused(bench: Bench) -> None:
    """A vector too short, too long, empty, of two dimensions, of complex numbers or of text: refused, not cut, filled
    up or cast. Float32 and integers may be taken for what they are.
    """
    _bad(
        bench,
        {
            "a value too few": lambda vector: vector[:-1],
            "a value too many": lambda vector: np.append(vector, 1.0),
            "no values": lambda vector: vector[:0],
            "two dimensions": lambda vector: vector[:, None],
            "a row of a table": lambda vector: vector[None],
            "float32": lambda vector: vector.astype(np.float32),
            "integers": lambda vector: np.rint(vector).astype(np.int64),
            "complex numbers": lambda vector: vector + 1j,
            "text": lambda vector: vector.astype(str),
        },
    )


def a_missing_client_is_refused(bench: Bench) -> None:
    """An invited client without a contribution stops the sum or is not named in it."""
    aggregator, _ = bench.make()
    (entry,) = bench.plan(5)
    given = bench.data(entry)
    del given[bench.names[-1]]
    (answer,) = bench.session(aggregator, [entry], [given])
    bench.may(answer, entry, given, "a sum without the contribution of one client")


# ---- honesty: what travels -----------------------------------------------------------------------


def _words(values: Sequence[float], bits: int, width: int, order: str) -> bytes | None:
    """Fixed point, one word after the other; None if one does not fit."""
    units = [round(math.ldexp(value, bits)) for value in values]
    if any(abs(unit) >= 2 ** (8 * width - 1) for unit in units):
        return None
    modulus = 2 ** (8 * width)
    return b"".join((unit % modulus).to_bytes(width, "little" if order == "<" else "big") for unit in units)


def _encodings(values: Sequence[float]) -> Iterator[tuple[str, bytes]]:
    """Neighbouring entries as float64, float32 and fixed point, in either byte order, each of 8 bytes or more."""
    for order, called in (("<", "little"), (">", "big")):
        yield f"float64, {called} endian", struct.pack(f"{order}d", values[0])
        yield f"float32, {called} endian", struct.pack(f"{order}2f", *values[:2])
        for width in (4, 5, 6, 7, 8):
            for bits in range(37):
                if (word := _words(values[: 1 if width == 8 else 2], bits, width, order)) is not None:
                    yield f"{width}-byte words with {bits} fraction bits, {called} endian", word
    yield "text", repr(values[0]).encode()


def _in_the_clear(
    bench: Bench, encodings: Callable[[Vector], Iterable[tuple[str, bytes]]], sessions: int
) -> None:
    """Fails if something of a client is found, in one encoding, in the messages of each of so many sessions."""
    bench.needs_network()
    plan = bench.plan(33, 12, 2)
    standing: set[tuple[int, int, str]] | None = None
    for _ in range(sessions):
        aggregator, wire = bench.make()
        data_set = bench.fresh()
        given = [bench.data(entry, data_set) for entry in plan]
        bench.session(aggregator, plan, given)
        everything = bytes(64).join(one.data for one in wire.sent)
        patterns = [
            (number, at, called, pattern)
            for number, one in enumerate(given)
            for at, name in enumerate(bench.names)
            for called, pattern in encodings(one[name][0])
        ]
        begun = _beginnings(everything, {pattern[:8] for *_, pattern in patterns if len(pattern) >= 8})
        found = {
            (number, at, called)
            for number, at, called, pattern in patterns
            if (len(pattern) < 8 or pattern[:8] in begun) and pattern in everything
        }
        standing = found if standing is None else standing & found
        if not standing:
            return
    assert standing
    number, at, called = min(standing)
    _fail(
        f"of {len({one[:2] for one in standing})} vectors of {len(bench.names)} clients, {bench.names[at]!r} in sum "
        f"{number} first, it travels in the clear ({called})"
    )


def _beginnings(data: bytes, wanted: Collection[bytes]) -> set[bytes]:
    """Which of these runs of 8 bytes are in the data. Some ten thousand times faster than one search for each."""
    numbers = np.frombuffer(b"".join(wanted), "<u8")
    windows = _windows(data)
    return {number.tobytes() for number in windows[_among(windows, numbers)]}


def _windows(data: bytes) -> npt.NDArray[np.uint64]:
    """The 8 bytes at every place, as numbers."""
    windows = np.zeros(max(0, len(data) - 7), np.uint64)
    for shift in range(min(8, len(windows))):
        windows[shift::8] = np.frombuffer(data, "<u8", (len(data) - shift) // 8, shift)
    return windows


def _among(words: npt.NDArray[np.uint64], wanted: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Which words are wanted: what `np.isin` says, and that fast where few are."""
    hashed = np.zeros(2**24, dtype=bool)
    hashed[_hash(wanted)] = True
    maybe = hashed[_hash(words)]
    ordered, asked = np.sort(wanted), words[maybe]
    places = np.searchsorted(ordered, asked)
    maybe[maybe] = ordered[np.minimum(places, len(ordered) - 1)] == asked if len(ordered) else False
    return maybe


def _hash(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    return (words * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)


def no_vector_travels_in_the_clear(bench: Bench) -> None:
    """Entries of clients' vectors are searched for in all messages, as float64, float32 and fixed point. Several sums
    of several names, since what is not recognised may be sent as it is.

    False alarms: each needs a chance hit of 8 bytes in two sessions, less than 10⁻¹².
    """

    def encodings(vector: Vector) -> Iterator[tuple[str, bytes]]:
        for at in {0, len(vector) // 2, max(0, len(vector) - 3)}:
            if len(vector) - at > 2:
                yield from _encodings(vector[at : at + 2].tolist())
        yield "float64, little endian", struct.pack("<d", vector[0])
        yield "float64, big endian", struct.pack(">d", vector[0])

    _in_the_clear(bench, encodings, 2)


def no_count_travels_in_the_clear(bench: Bench) -> None:
    """The count of a client's rows, the last entry of its vector, is in no message: as an integer of 4 or 8 bytes, a
    varint, float32, float64 or text.

    False alarms: 4 bytes of one client, by chance, in each of three sessions, about 10⁻⁹ with megabytes of messages.
    """

    def encodings(vector: Vector) -> Iterator[tuple[str, bytes]]:
        count = int(vector[-1])
        for order, called in (("<", "little"), (">", "big")):
            for kind, letter in (("4-byte integer", "I"), ("8-byte integer", "q")):
                yield f"{kind}, {called} endian", struct.pack(order + letter, count)
            for kind, letter in (("float32", "f"), ("float64", "d")):
                yield f"{kind}, {called} endian", struct.pack(order + letter, float(count))
        varint = bytes(count >> 7 * at & 127 | (128 if at < 3 else 0) for at in range(4))
        yield "varint", varint
        yield "text", str(count).encode()

    _in_the_clear(bench, encodings, 3)


def _blocks(data: bytes, size: int = _BLOCK) -> set[bytes]:
    """Every run of `size` bytes, wherever it begins."""
    return {data[at : at + size] for at in range(len(data) - size + 1)}


def _come_again(first: bytes, second: bytes, others: Iterable[bytes]) -> int:
    """How many blocks of `first` are in `second` and in none of the others: what all have is a header."""
    windows = _windows(first)
    near = _among(windows, _windows(second))
    halves = np.flatnonzero(near[: -_BLOCK // 2] & near[_BLOCK // 2 :])
    common = {block for at in halves.tolist() if (block := first[at : at + _BLOCK]) in second}
    for other in others:
        common = {block for block in common if block not in other}
    return len(common)


def two_sessions_share_no_upload(bench: Bench) -> None:
    """The same vector in two sessions: no 16 bytes of its uploads are the same, but for what is also in the upload of
    another vector.
    """
    bench.needs_network()
    (entry,) = plan = bench.plan(40)
    vectors = [bench.vector(entry) for _ in bench.names]
    on = bench.make()
    runs = [bench.observed(plan, [bench.of(vectors)], on)[0] for _ in range(2)]
    other = bench.observed(plan, [bench.data(entry)], on)[0]
    for at, name in enumerate(bench.names):
        if (again := _come_again(runs[0][at], runs[1][at], [other[at]])) > _HEADER:
            _fail(f"{again} blocks of the upload of {name!r} came again when the vector did")


def two_sums_share_no_keystream(bench: Bench) -> None:
    """The same vector in two sums of a session: no 16 bytes of its uploads are the same. With an additive keystream
    used twice the difference of uploads is that of the vectors, here none.
    """
    bench.needs_network()
    plan, data_set = bench.plan(40, 40, 40), bench.fresh()
    same, other = bench.data(plan[0], data_set), bench.data(plan[2], data_set)
    rounds = bench.observed(plan, [same, same, other])
    for at, name in enumerate(bench.names):
        if (again := _come_again(rounds[0][at], rounds[1][at], [rounds[2][at]])) > _HEADER:
            _fail(f"{again} blocks of the upload of {name!r} came again in the next sum, as its vector did")


def every_entry_has_its_own_mask(bench: Bench) -> None:
    """A vector of one number: its upload does not repeat itself, as it does under one scalar for all entries or under
    a keystream that begins anew within a vector.
    """
    bench.needs_network()
    (entry,) = plan = bench.plan(1024)
    numbers = np.linspace(1, BOUND / 8, len(bench.names)).tolist()
    for at, upload in enumerate(bench.observed(plan, [bench.constant(entry, numbers, bench.fresh())])[0]):
        filling = sum(
            upload[i : i + _BLOCK].count(upload[i]) == _BLOCK for i in range(len(upload) - _BLOCK + 1)
        )
        repeated = len(upload) - _BLOCK + 1 - len(_blocks(upload)) - max(0, filling - 1)
        if repeated > 64:  # less may be a key that stands in a header twice
            _fail(
                f"a vector of one number is repeated in the upload of {bench.names[at]!r}: {repeated} of "
                f"{len(upload)} blocks of {_BLOCK} bytes are there before"
            )


def uploads_look_uniform(bench: Bench) -> str:
    """Where an upload is one word a value: each byte of a word is uniform, or the same in all uploads, or, for at most
    one of them (masks modulo no power of 256), not uniform but no different for a client with the bound everywhere
    than for one with minus the bound.

    χ² tests at 10⁻⁹ each, at most 48 of them: false alarms in less than 10⁻⁷ of runs.
    """
    bench.needs_network()
    plan = bench.plan(256, 1280, 2304, 8192)
    ends = [-BOUND, BOUND, *np.linspace(-BOUND / 2, BOUND / 2, len(bench.names) - 2).tolist()]
    rounds = [bench.observed([entry], [bench.constant(entry, ends, bench.fresh())])[0] for entry in plan]
    sizes = np.array([[len(upload) for upload in one] for one in rounds])
    slopes = np.diff(sizes, axis=0) / np.diff([entry.length for entry in plan])[:, None]
    width = int(slopes[0, 0])
    if not (1 <= width <= 16 and (slopes == width).all()):
        raise _NotApplicableError(
            "an upload is not one word of fixed width a value: no masked vector in the clear"
        )
    length = plan[-1].length * width
    # Wherever the header ends: these bytes are inside the vector, and every `width`-th is of the same place in a word.
    inside = np.array(
        [
            np.frombuffer(
                upload[(over := len(upload) - length) : over + (length - over) // width * width], np.uint8
            )
            for upload in rounds[-1]
        ]
    )
    kinds = {"uniform": 0, "constant": 0, "skewed": 0}
    for place in range(width):
        column = inside[:, place::width]
        if (column == column[0, 0]).all():
            kinds["constant"] += 1
            continue
        low, high = (np.bincount(column[at], minlength=256) for at in (0, 1))
        both = low + high
        apart = float(((low - high)[both > 0] ** 2 / both[both > 0]).sum())
        if apart > _chi_square_limit(int(np.count_nonzero(both)) - 1):
            _fail(
                f"byte {place} of {width} of an upload's words tells a client at the bound from one at minus it"
            )
        counts = np.bincount(column.ravel(), minlength=256)
        expected = column.size / 256
        skewed = float(((counts - expected) ** 2).sum() / expected) > _chi_square_limit(255)
        kinds["skewed" if skewed else "uniform"] += 1
    if not kinds["uniform"] or kinds["skewed"] > 1:
        _fail(
            f"of the {width} bytes of an upload's words {kinds['uniform']} are uniform, {kinds['skewed']} are not"
        )
    return f"{width} bytes a value, {kinds['uniform']} of them uniform, {kinds['constant']} constant"


def _chi_square_limit(degrees: int) -> float:
    """What χ² exceeds with a probability of about 10⁻⁹ (Wilson and Hilferty)."""
    part = 2 / (9 * max(1, degrees))
    return max(1, degrees) * (1 - part + _QUANTILE * math.sqrt(part)) ** 3


def clients_with_equal_vectors_are_unrelated(bench: Bench) -> None:
    """All clients with the same vector: no two uploads have 16 bytes in common that uploads of other vectors lack."""
    bench.needs_network()
    plan, data_set = bench.plan(40, 40), bench.fresh()
    vector = bench.vector(plan[0])
    given = [bench.of([vector for _ in bench.names], data_set), bench.data(plan[1], data_set)]
    equal, other = bench.observed(plan, given)
    for one, two in combinations(range(len(bench.names)), 2):
        if (again := _come_again(equal[one], equal[two], [other[one], other[two]])) > _HEADER:
            _fail(
                f"{bench.names[one]!r} and {bench.names[two]!r} have equal vectors and {again} equal blocks"
            )


def sizes_tell_nothing(bench: Bench) -> None:
    """Zeros, random numbers and the bound give uploads of the same size; text or compressed numbers do not."""
    bench.needs_network()
    (entry,) = plan = bench.plan(100)
    on, n = bench.make(), len(bench.names)
    given = [bench.constant(entry, [number] * n, bench.fresh()) for number in (0.0, BOUND)]
    sizes = [
        [len(upload) for upload in bench.observed(plan, [one], on)[0]] for one in (bench.data(entry), *given)
    ]
    if sizes[1:] != sizes[:-1]:
        _fail(f"uploads of random numbers, of zeros and of the bound have {sizes} bytes")


# ---- randomness ----------------------------------------------------------------------------------


def _state(generator: Any) -> Any:
    """A generator's state, to be compared."""

    def frozen(one: Any) -> Any:
        if isinstance(one, dict):
            return tuple((key, frozen(value)) for key, value in one.items())
        return one.tobytes() if isinstance(one, np.ndarray) else one

    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.RandomState):
        return frozen(generator.get_state(legacy=False))
    return frozen(generator.bit_generator.state)


def _recording(original: Any, used: list[str]) -> Any:
    """Stands for a generator's class or maker: notes that it was called, by whom, and calls it."""

    def call(*arguments: Any, **named: Any) -> Any:
        caller = sys._getframe(2 if isinstance(original, type) else 1).f_globals.get("__name__", "?")
        if caller.partition(".")[0] not in sys.stdlib_module_names:
            used.append(f"{original.__module__}.{original.__name__} by {caller}")
        return original(*arguments, **named)

    if not isinstance(original, type):
        return call

    class Kind(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, original)

        def __call__(cls, *arguments: Any, **named: Any) -> Any:
            return call(*arguments, **named)

    return Kind(original.__name__, (), {"__module__": original.__module__})


@contextmanager
def generators_noted(apart_from: Collection[object] = ()) -> Iterator[list[str]]:
    """Fills a list with the uses of Python's and NumPy's generators meanwhile: made anew under whatever name a module
    knows the maker by, or drawn from or seeded where they exist already.
    """
    kinds = (random.Random, np.random.Generator, np.random.RandomState)
    # `tempfile` draws names of files.
    skipped = {id(one) for one in (*apart_from, vars(tempfile)["_get_candidate_names"]().rng)}
    known = [
        one
        for one in gc.get_objects()
        if issubclass(type(one), kinds)
        and not isinstance(one, random.SystemRandom)
        and id(one) not in skipped
    ]
    before = [_state(one) for one in known]
    used: list[str] = []
    makers = [random.Random, np.random.default_rng, np.random.RandomState]
    makers += [getattr(np.random, name) for name in ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")]
    stand_ins = {id(maker): _recording(maker, used) for maker in makers}
    replaced: list[tuple[dict[str, Any], str, Any]] = []
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", None)
        if type(names) is not dict or names is globals():
            continue
        for name, value in list(names.items()):
            if id(value) in stand_ins:
                replaced.append((names, name, value))
                names[name] = stand_ins[id(value)]
    try:
        yield used
    finally:
        for names, name, value in replaced:
            names[name] = value
        for generator, state in zip(known, before, strict=True):
            if _state(generator) != state:
                used.append(
                    f"a {type(generator).__module__}.{type(generator).__name__} that was there before"
                )


def no_toy_generator_is_used(bench: Bench) -> None:
    """While an aggregator is made and works, Python's `random` and `numpy.random` are neither used nor seeded: their
    output can be foretold, and most have seeds that can be tried. Secrets come from `secrets`.
    """
    plan, data_set = bench.plan(30, 7), bench.fresh()
    given = [bench.data(entry, data_set) for entry in plan]
    with generators_noted([bench.draws]) as used:
        aggregator, wire = bench.make()
        bench.session(aggregator, plan, given)
        if bench.network:
            wire.inner = _Lost(frozenset({0}))
            bench.session(
                aggregator, plan, [bench.of([one[name][0] for name in bench.names]) for one in given]
            )
    if used:
        _fail(f"{len(used)} times, {used[0]} first")


@dataclass
class _Lost(PerfectNetwork):
    """Nothing of these clients arrives."""

    clients: frozenset[int]

    def carry(self, envelope: Envelope) -> Iterable[Envelope]:
        return [] if envelope.upward and envelope.client in self.clients else [envelope]


# ---- one sum -------------------------------------------------------------------------------------


def a_data_set_serves_one_session(bench: Bench) -> str | None:
    """A second session with the data sets of the first is refused, whoever is lost meanwhile: the difference of the
    two sums would tell of one client. After `renew`, where there is one, it works.
    """
    aggregator, wire = bench.make()
    (entry,) = plan = bench.plan(6)
    given = bench.data(entry)
    bench.must(bench.session(aggregator, plan, [given])[0], entry, given, "the first session")
    losses: list[frozenset[int]] = [frozenset(), *([frozenset({0})] if bench.network else [])]
    for lost in losses:
        wire.inner = _Lost(lost)
        if not isinstance(bench.session(aggregator, plan, [given])[0], Refusal):
            _fail(f"a second session with the same data sets, {len(lost)} clients lost, gave a sum")
    wire.inner = PerfectNetwork()
    renew = getattr(aggregator, "renew", None)
    if renew is None:
        return "it has no `renew`"
    renew(given[bench.names[0]][1], may_expose=True)
    bench.must(bench.session(aggregator, plan, [given])[0], entry, given, "a session with renewed data sets")
    return None


def an_entry_is_summed_once(bench: Bench) -> None:
    """An entry of the plan that was summed is refused when it is asked for again, and a plan that names a statistic
    twice when it is opened.
    """
    aggregator, _ = bench.make()
    plan, data_set = bench.plan(6, 4), bench.fresh()
    given = [bench.data(entry, data_set) for entry in plan]
    for entry, one, answer in zip(plan, given, bench.session(aggregator, plan, given), strict=True):
        bench.must(answer, entry, one, "a sum")
    for number, one in enumerate(given):
        if not isinstance(bench.ask(aggregator, number, one), Refusal):
            _fail(f"sum {number} was made a second time")
    aggregator, _ = bench.make()
    (entry,) = bench.plan(5)
    given = [bench.data(entry, data_set := bench.fresh()), bench.data(entry, data_set)]
    if not any(isinstance(one, Refusal) for one in bench.session(aggregator, [entry, entry], given)):
        _fail("a plan that names the same statistic twice was summed twice")


def one_survivor_set_opens(bench: Bench) -> None:
    """However often a sum is asked for while other clients are lost each time, before or after their upload, and also
    in a further session: at most one is released.
    """
    phases, (entry,) = bench.phases, bench.plan(10)
    uploads: Iterable[str] = phases.uploads
    late: Iterable[str] = phases.after or uploads
    most = frozenset(range(2, len(bench.names)))
    schedules: tuple[tuple[tuple[Iterable[str], Collection[int]], ...], ...] = (
        ((uploads, {0}), (uploads, ()), (late, {1})),
        ((late, {0}), (uploads, {1}), (late, ())),
        ((late, most), (uploads, {0}), (late, {0}), (uploads, {1}), (late, ())),
        ((uploads, most), (late, {0}), (uploads, {1}), (uploads, ())),
    )
    for schedule in schedules:
        aggregator, wire = bench.make()
        given = bench.data(entry)
        aggregator.open(bench.names, [entry])
        released: list[tuple[str, ...]] = []
        for lost_in, lost in schedule:
            wire.inner = FaultyNetwork([Fault("drop", phase, frozenset(lost)) for phase in lost_in])
            answer = bench.ask(aggregator, 0, given)
            if not isinstance(answer, Refusal):
                released.append(answer[0].survivors)
        wire.inner = PerfectNetwork()
        (answer,) = bench.session(aggregator, [entry], [given])
        if not isinstance(answer, Refusal):
            released.append(answer[0].survivors)
        if len(released) > 1:
            sizes = " and ".join(str(len(one)) for one in released)
            _fail(f"one sum was released {len(released)} times, over {sizes} survivors")


def related_sums_keep_their_survivors(bench: Bench) -> None:
    """Sums that the plan marks `same_survivors`: a client lost in the first is in no later one, and one lost in the
    second stops it.
    """
    phases, plan = bench.phases, bench.plan(9, 9, same=True)
    for losses in (({0}, ()), ((), {0}), ({0}, {1})):
        aggregator, wire = bench.make()
        aggregator.open(bench.names, plan)
        data_set, seen = bench.fresh(), set()
        for number, (entry, lost) in enumerate(zip(plan, losses, strict=True)):
            wire.inner = FaultyNetwork([Fault("drop", phase, frozenset(lost)) for phase in phases.uploads])
            given = bench.data(entry, data_set)
            answer = bench.ask(aggregator, number, given)
            if not isinstance(answer, Refusal):
                seen.add(frozenset(answer[0].survivors))
        if len(seen) > 1:
            _fail(f"related sums were released over {' and '.join(str(len(one)) for one in seen)} survivors")


# ---- tampering -----------------------------------------------------------------------------------


def _another() -> Callable[[bytes], bytes]:
    """Gives, for each message, the one before it: another client's."""
    last: list[bytes] = []

    def change(data: bytes) -> bytes:
        last.append(data)
        return last[-2] if len(last) > 1 else data

    return change


@dataclass
class _Replay(PerfectNetwork):
    """Delivers, in one phase and direction, what was sent there in an earlier session."""

    old: Mapping[tuple[str, int, bool], bytes]
    phase: str
    upward: bool

    def carry(self, envelope: Envelope) -> Iterable[Envelope]:
        old = self.old.get((envelope.phase, envelope.client, envelope.upward))
        if old is None or (envelope.phase, envelope.upward) != (self.phase, self.upward):
            return [envelope]
        return [replace(envelope, data=old)]


def tampering_changes_no_sum(bench: Bench) -> str:
    """Messages of each phase and direction, of one client or of all, with a bit flipped, cut, lengthened, repeated,
    late, out of order, in another's place, or of an earlier session: the exact sum of the named survivors, or a
    refusal. The same aggregator then works on.
    """
    phases, (entry,) = bench.phases, bench.plan(21)
    handlings: list[str] = ["flip", "cut", "lengthen", "repeat", "late", "shuffle", "another's", "replay"]
    cases = [
        (handling, phase, upward)
        for handling in handlings
        for phase in phases.every
        for upward in (True, False)
    ]
    chosen = sorted(bench.draws.permutation(len(cases))[: bench.tampered].tolist())
    aggregator, wire = bench.make()
    (answer,) = bench.session(aggregator, [entry], [given := bench.data(entry)])
    bench.must(answer, entry, given, "a sum")
    old = {(one.phase, one.client, one.upward): one.data for one in wire.sent}
    released = 0
    for case, (handling, phase, upward) in enumerate(cases[at] for at in chosen):
        who = frozenset({int(bench.draws.integers(len(bench.names)))}) if case % 2 else None
        handle: str | Callable[[bytes], bytes] = _another() if handling == "another's" else handling
        if handling == "replay":
            wire.inner = _Replay(old, phase, upward)
        else:
            wire.inner = FaultyNetwork([Fault(handle, phase, who, upward)], bench.seed + case)
        given = bench.data(entry)
        towards = "up" if upward else "down"
        what = f"a sum with messages of {phase!r} on their way {towards} altered ({handling})"
        try:
            (answer,) = bench.session(aggregator, [entry], [given])
        except Exception as error:  # noqa: BLE001 - a crash
            _fail(f"{what} ended in {type(error).__name__}: {error}")
        released += bench.may(answer, entry, given, what)
    wire.inner = PerfectNetwork()
    (answer,) = bench.session(aggregator, [entry], [given := bench.data(entry)])
    bench.must(answer, entry, given, "a sum after all that")
    return f"{len(chosen)} sessions: {released} right sums, {len(chosen) - released} refusals"


# ---- shares --------------------------------------------------------------------------------------


class _TwoLists(PerfectNetwork):
    """Shows clients, for one list of survivors, also one without `victim`: after it, or half of them in its place."""

    def __init__(self, victim: int, split: bool) -> None:
        self._victim, self._split = victim, split

    def carry(self, envelope: Envelope) -> Iterable[Envelope]:
        if envelope.upward or envelope.client == self._victim:
            return [envelope]
        try:
            message = decode(envelope.data, FROM_SERVER)
        except WireError:
            return [envelope]
        if not isinstance(message, Survivors) or self._victim not in message.survivors:
            return [envelope]
        fewer = tuple(one for one in message.survivors if one != self._victim)
        other = replace(envelope, data=encode(Survivors(message.transcript, message.round, fewer)))
        if self._split:
            return [other if envelope.client % 2 else envelope]
        return [envelope, other]


class _Revealed:
    """Which shares clients revealed in masked sessions, and of which kind, by the commitments of their dealers."""

    def __init__(self, sent: Iterable[Envelope]) -> None:
        self.kinds: dict[tuple[int, int], dict[int, set[int]]] = {}  # by round and dealer, then by holder
        self.parameters: Parameters | None = None
        committed: dict[tuple[int, int, int, int], bytes] = {}  # by round, dealer, holder, kind
        for one in sent:
            try:
                if not one.upward:
                    if one.phase == "advertising":
                        self.parameters = decode(one.data, PARAMETERS)
                    continue
                said = decode(memoryview(one.data)[:-SIGNATURE_BYTES], FROM_CLIENT)
            except WireError:
                continue
            if isinstance(said, Shares):
                for number, own in enumerate(said.own_commitments):
                    committed[number, one.client, one.client, messages.SELF_SHARE] = own[1]
                for bundle in said.bundles:
                    for number, pair in enumerate(bundle.commitments):
                        for kind in (messages.SEED_SHARE, messages.SELF_SHARE):
                            committed[number, one.client, bundle.recipient, kind] = pair[kind]
            elif isinstance(said, Reveal) and self.parameters is not None:
                transcript = self.parameters.transcript()
                for dealer, share in said.shares:
                    for kind in (messages.SEED_SHARE, messages.SELF_SHARE):
                        place = (said.round, dealer, one.client, kind)
                        digest = messages.commitment(transcript, *place, share)
                        if committed.get(place) == digest:
                            holders = self.kinds.setdefault((said.round, dealer), {})
                            holders.setdefault(one.client, set()).add(kind)

    def check(self, names: Sequence[str], what: str) -> None:
        """Fails if a client revealed both kinds for one dealer, or enough clients revealed each."""
        assert self.parameters is not None
        for (_, dealer), holders in self.kinds.items():
            for holder, kinds in holders.items():
                if len(kinds) > 1:
                    _fail(f"{what}, {names[holder]!r} revealed both shares of {names[dealer]!r}")
            enough = [
                sum(kind in kinds for kinds in holders.values()) >= self.parameters.threshold
                for kind in (0, 1)
            ]
            if all(enough):
                _fail(
                    f"{what}, shares of both kinds of {names[dealer]!r} were revealed by a threshold of clients"
                )


def one_kind_of_share_is_revealed(bench: Bench) -> str:
    """No client reveals a dealer's shares of both self mask and mask seed, and never do enough clients reveal each kind:
    with losses, and with a network that shows clients a second list of survivors. Read from our frames.
    """
    phases = bench.phases
    (entry,) = bench.plan(5)
    networks: dict[str, Network] = {
        "with nobody lost": PerfectNetwork(),
        "with a client lost": FaultyNetwork(
            [Fault("drop", phase, frozenset({1})) for phase in phases.uploads]
        ),
        "with two lists of survivors": _TwoLists(0, split=False),
        "with another list for half of the clients": _TwoLists(0, split=True),
    }
    revealed = 0
    for what, network in networks.items():
        aggregator, wire = bench.make()
        wire.inner = network
        bench.session(aggregator, [entry], [bench.data(entry)])
        seen = _Revealed(wire.sent)
        if seen.parameters is None:
            raise _NotApplicableError("it does not speak our masked protocol: shares cannot be told")
        seen.check(bench.names, what)
        revealed += sum(map(len, seen.kinds.values()))
    if not revealed:
        _fail("no share was revealed in any session")
    return f"{revealed} shares read"


# ---- keys ----------------------------------------------------------------------------------------


def _no_common_run(bench: Bench, sent: Sequence[Envelope]) -> None:
    """Fails if the same 32 bytes of two clients are in their messages and were in none of the server's before."""
    upward: list[tuple[int, Envelope, npt.NDArray[np.uint64]]] = []
    for place, one in enumerate(sent):
        if one.upward and one.client < len(bench.names):
            upward.append((place, one, _windows(one.data)))
    for number in range(len(bench.names)):
        others = [windows for _, one, windows in upward if one.client < number]
        seen = np.concatenate([np.zeros(0, np.uint64), *others])
        for place, one, windows in upward:
            if one.client != number:
                continue
            # A run of 32 equal bytes is one of 25 windows of 8 that others have.
            hits = np.concatenate([[0], np.cumsum(_among(windows, seen))])
            starts = np.flatnonzero(hits[_KEY - 7 :] - hits[: -(_KEY - 7)] == _KEY - 7)
            for block in {one.data[at : at + _KEY] for at in starts.tolist()}:
                from_server = any(not earlier.upward and block in earlier.data for earlier in sent[:place])
                if from_server or len(set(block)) <= _KEY // 2 or bytes(block).isascii():
                    continue  # told to all, filling or text
                for _, other, _ in upward:
                    if other.client < number and block in other.data:
                        who = f"{bench.names[other.client]!r} and {bench.names[number]!r}"
                        _fail(f"the same {_KEY} bytes left {who} ({one.phase!r})")


def no_key_is_common(bench: Bench) -> str | None:
    """No 32 bytes that could be a key leave two clients, unless they came from the server before; and no two clients'
    keys (`held`) are the same but for what two share: a party with it could read every upload.
    """
    if bench.network:
        aggregator, wire = bench.make()
        plan, data_set = bench.plan(4, 3), bench.fresh()
        bench.session(aggregator, plan, [bench.data(entry, data_set) for entry in plan])
        _no_common_run(bench, wire.sent)
    elif bench.held is None:
        bench.needs_network()
    if bench.held is None:
        return "only messages were compared: no keys were given (held)"
    aggregator, _ = bench.make()
    (entry,) = plan = bench.plan(4)
    bench.session(aggregator, plan, [bench.data(entry)])
    holders: dict[bytes, set[str]] = {}
    for name, keys in bench.held(aggregator).items():
        for key in keys:
            holders.setdefault(bytes(key), set()).add(name)
    most = max(map(len, holders.values()), default=0)
    if most > 2:
        _fail(f"{most} clients hold the same secret key")
    return None if bench.network else "only the keys that clients hold were compared"


# ---- the table -----------------------------------------------------------------------------------

PROPERTIES: tuple[Property, ...] = tuple(
    Property(check.__name__, claim, check)
    for claim, check in (
        ("a sum is the exact sum of all clients within its entry error", sums_are_exact),
        ("the order of clients changes no sum", the_order_of_clients_is_no_matter),
        ("entries at the agreed bound are summed", the_bound_itself_is_summed),
        ("nothing is summed that did not travel", every_vector_travels),
        ("the survivors that are named are those in the sum", the_lost_are_left_out),
        ("too few survivors open nothing and the next session works", too_few_open_nothing),
        ("NaN, infinity and what is over the bound is refused before it leaves", bad_values_are_refused),
        ("wrong lengths and types are refused before they leave", bad_shapes_are_refused),
        ("no sum is made as if a client that gave nothing were in it", a_missing_client_is_refused),
        ("no message shows an entry of a vector", no_vector_travels_in_the_clear),
        ("no message shows a count of rows", no_count_travels_in_the_clear),
        ("a vector that comes again in another session cannot be told", two_sessions_share_no_upload),
        ("a vector that comes again in the next sum cannot be told", two_sums_share_no_keystream),
        ("equal entries of a vector cannot be told", every_entry_has_its_own_mask),
        ("an upload's bytes do not depend on the vector", uploads_look_uniform),
        ("clients with equal vectors cannot be told", clients_with_equal_vectors_are_unrelated),
        ("an upload's size does not depend on the vector", sizes_tell_nothing),
        ("no secret comes from Python's or NumPy's generators", no_toy_generator_is_used),
        ("a data set serves one session until it is renewed", a_data_set_serves_one_session),
        ("an entry of the plan is summed once", an_entry_is_summed_once),
        ("a sum is opened for one set of survivors", one_survivor_set_opens),
        ("related sums are over the same survivors", related_sums_keep_their_survivors),
        ("whatever happens to messages, a sum is exact or refused", tampering_changes_no_sum),
        ("of one dealer one kind of share is revealed", one_kind_of_share_is_revealed),
        ("no key is common to all clients", no_key_is_common),
    )
)
"""Every property, in the order in which they are checked."""
