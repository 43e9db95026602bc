"""Schedules: which sessions a fresh system gets, with which vectors, losses and alterations, and how to run one.

A schedule is data: drawn by Hypothesis, printed as one line, and run again from that line.
"""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from secure_afl.testing.generators import generators_noted
from secure_afl.testing.record import (
    VERSION,
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
    Sum,
    System,
    Vector,
    digest,
    numbers,
)
from secure_afl.testing.systems import Alteration, CrashedError, Driver, RefusedError, Target, Wire

NAMES = ("mill", "ash", "quay", "birch", "zinc", "dale", "oak", "fern", "yard", "cove", "larch", "elm")
"""Names of clients: not in the order of the alphabet, so that whoever sorts them is found out."""

BAD = (
    "NaN", "infinity", "minus infinity", "a value just over the bound", "twice the bound", "a value over any word",
    "a value too few", "a value too many", "no values", "two dimensions", "complex numbers", "text",
)  # fmt: skip
VALUES = BAD[:6]


class Ask(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One sum. length: of the vectors. kind: "random", "zero", "one number", "bound", "minus bound", "ends", "small", or
    "shifted", where the first `traders` clients exchange amounts that leave the sum; by: which, part: "last" entry or the
    "rest". key: equal keys give equal vectors. lost: phases by client. order: seed of the order in which vectors are
    handed over, 0 as invited. bad: what is wrong with the vectors of how many clients. again: asked for that many times
    more. anew: with other vectors each time. without: clients that give no vector. alter: handling, phase, direction and party of altered messages.
    """

    length: int = 5
    kind: str = "random"
    key: int = 0
    by: int = 0
    part: str = ""
    traders: int = 2
    lost: dict[int, str] = {}
    order: int = 0
    bad: str = ""
    spoiled: int = 1
    again: int = 0
    lost_again: tuple[dict[int, str], ...] = ()
    anew: bool = False
    without: tuple[int, ...] = ()
    alter: tuple[str, str, bool, int] | None = None


class Session(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A session of the clients with these numbers. rows: equal numbers are the same data set; renew: it is renewed."""

    clients: tuple[int, ...]
    sums: tuple[Ask, ...]
    rows: int = 0
    renew: bool = False
    related: bool = False


class Schedule(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """All that happens to one fresh system. watch: note uses of random generators."""

    sessions: tuple[Session, ...]
    seed: int = 0
    watch: bool = False

    def line(self) -> str:
        """The schedule as one line that `Schedule.of` reads."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def of(cls, line: str) -> "Schedule":
        """Raises `msgspec.ValidationError`."""
        return msgspec.json.decode(line, type=cls)


def name(number: int) -> str:
    """A client's name."""
    return NAMES[number] if number < len(NAMES) else f"client {number}"


def vector(claims: Claims, seed: int, ask: Ask, place: int, client: int) -> Vector:
    """A client's valid vector: multiples of 2**-fraction_bits, the last entry a whole number, as a count of rows is."""
    unit, length = 2.0**-claims.fraction_bits, ask.length
    bound = math.floor(claims.bound / unit) * unit
    match ask.kind:
        case "zero":
            return np.zeros(length)
        case "one number":
            return np.full(length, _steps(bound * 0.4 / (1 + ask.key), unit))
        case "bound" | "minus bound" | "ends":
            sign = {"bound": 1, "minus bound": -1}.get(ask.kind, (-1) ** place)
            return np.full(length, sign * bound)
        case "small":
            return np.full(length, unit * (-1) ** place)
        case "same":
            client = 0
    draws = np.random.default_rng([seed, ask.key, client, length])
    values: Vector = _steps(draws.uniform(-bound / 2, bound / 2, length), unit)
    values[-1] = max(1.0, math.floor(bound * draws.uniform(0.2, 0.3)))
    if ask.kind == "shifted" and place < ask.traders:
        chosen = slice(length - 1, None) if ask.part == "last" else slice(0, length - 1)
        amounts = [_amount(bound, unit, ask, one, length)[chosen] for one in range(ask.traders - 1)]
        values[chosen] += amounts[place] if place < ask.traders - 1 else -np.sum(amounts, axis=0)
    return values


def _amount(bound: float, unit: float, ask: Ask, trader: int, length: int) -> Vector:
    """What a trader gets from the last one; other digits for other groups."""
    most = bound * (0.013 + 0.0719 * ask.by) * (1 + trader / 7) / ask.traders
    amounts: Vector = _steps(most * (1 + np.arange(length) % 5 / 7), unit)
    amounts[-1] = max(1.0 + ask.by, math.floor(most))
    return amounts


def _steps(values: Any, unit: float) -> Any:
    return np.rint(np.asarray(values) / unit) * unit


def spoil(good: Vector, bad: str, bound: float) -> Any:
    """A vector with something wrong."""
    values: dict[str, float] = {
        "NaN": math.nan,
        "infinity": math.inf,
        "minus infinity": -math.inf,
        "a value just over the bound": bound * (1 + 2.0**-20),
        "twice the bound": -2 * bound,
        "a value over any word": 2.0**200,
    }
    if bad in values:
        good[len(good) // 2] = values[bad]
        return good
    match bad:
        case "a value too few":
            return good[:-1]
        case "a value too many":
            return np.append(good, 1.0)
        case "no values":
            return good[:0]
        case "two dimensions":
            return good[:, None]
        case "complex numbers":
            return good + 1j
        case _:
            return good.astype(str)


@dataclass
class Runner:
    """Runs schedules against fresh systems of one target. replay: what is printed before a schedule's line."""

    target: Target
    claims: Claims
    sessions: int = 0

    def run(self, schedule: Schedule) -> list[Record]:
        """The record of one schedule. What the system raises is in it."""
        wire = Wire(draws=random.Random(schedule.seed))
        wire.records.append(System(VERSION, self.claims, schedule.line(), self.target.alters))
        noted: list[str] = []
        if schedule.watch:
            with generators_noted([wire.draws]) as noted:
                self._run(schedule, wire)
            wire.records += [Generator(use) for use in dict.fromkeys(noted)]
        else:
            self._run(schedule, wire)
        return wire.records

    def _run(self, schedule: Schedule, wire: Wire) -> None:
        try:
            driver = self.target.fresh(wire)
        except (RefusedError, CrashedError) as error:
            wire.records.append(Crash(-1, _head(error), str(error)))
            return
        for number, session in enumerate(schedule.sessions):
            self._session(schedule.seed, number, session, driver, wire)
        for client, held in driver.keys().items():
            digests = tuple(sorted({digest(np.frombuffer(bytes(key), np.uint8)) for key in held}))
            wire.records.append(Keys(client, digests))

    def _session(self, seed: int, number: int, session: Session, driver: Driver, wire: Wire) -> None:
        if not self.open(seed, number, session, driver, wire):
            return
        gone = dict.fromkeys(wire.dead, "")  # whoever is lost before the first sum stays so
        for at, ask in enumerate(session.sums):
            for time, lost in enumerate((ask.lost, *ask.lost_again, *([ask.lost] * ask.again))):
                losses = {name(one): phase for one, phase in lost.items()} | gone
                asked = msgspec.structs.replace(ask, key=ask.key + time) if ask.anew else ask
                self.sum(seed, session, at, asked, losses, driver, wire)

    def open(self, seed: int, number: int, session: Session, driver: Driver, wire: Wire) -> bool:
        """Open one session of a system, the one of this number; whether it was opened."""
        self.sessions += 1
        clients = [name(one) for one in session.clients]
        wire.clients = frozenset(clients)
        rows = f"rows {seed}.{session.rows or f'of session {number}'}"
        first = session.sums[0]
        wire.begin(-1, {name(one): phase for one, phase in first.lost.items()}, _altered(first))
        if session.renew:
            wire.records.append(Renewed(rows))
            if not _noted(lambda: driver.renew(rows), -1, wire):
                return False
        lengths = tuple(one.length for one in session.sums)
        wire.records.append(Opened(tuple(clients), lengths, rows, session.related))
        return _noted(lambda: driver.open(clients, lengths, rows, session.related), -1, wire)

    def sum(
        self,
        seed: int,
        session: Session,
        at: int,
        ask: Ask,
        lost: Mapping[str, str],
        driver: Driver,
        wire: Wire,
    ) -> None:
        """Ask an open session for a sum, with these clients lost from these phases on."""
        given: dict[str, Any] = {}
        order = list(session.clients)
        if ask.order:
            random.Random(ask.order).shuffle(order)
        before: dict[str, Input] = {}
        for one in order:
            if one in ask.without:
                continue
            place = session.clients.index(one)
            made: Any = vector(self.claims, seed, ask, place, one)
            # The last ones: what comes before a refusal must leave nothing behind.
            bad = ask.bad if place >= len(session.clients) - ask.spoiled else ""
            if bad:
                made = spoil(made, bad, self.claims.bound)
            given[name(one)] = made
            before[name(one)] = Input(at, name(one), digest(made), None if bad else numbers(made), bad)
        mark = len(wire.records)
        wire.records += before.values()
        wire.begin(at, lost, _altered(ask))

        def summed() -> None:
            result = driver.sum(at, given)
            total = np.asarray(result.total, np.float64)
            if total.ndim != 1:
                raise CrashedError(f"expected a sum of one dimension, got one of shape {total.shape}")
            wire.records.append(Sum(at, numbers(total), result.survivors, result.content))

        _noted(summed, at, wire)
        sent = [
            one.data
            for one in wire.records[mark:]
            if isinstance(one, Message) and one.receiver not in wire.clients
        ]
        for client, kinds in driver.secrets(at).items():
            known = {
                kind: (sum(any(share in one for one in sent) for share in shares), needed)
                for kind, (needed, shares) in kinds.items()
            }
            wire.records.append(Revealed(at, client, known))
        now = dict(enumerate((given[client] for client in before), mark))
        for place, array in (wire.given | now).items():
            line = wire.records[place]
            if isinstance(line, Input) and (after := digest(array)) != line.digest:
                wire.records[place] = msgspec.structs.replace(line, after=after)
        wire.given = now


def _altered(ask: Ask) -> Alteration | None:
    if ask.alter is None:
        return None
    handling, phase, up, who = ask.alter
    return Alteration(handling, phase, up, None if who < 0 else name(who))


def _noted(step: Any, number: int, wire: Wire) -> bool:
    """Whether the step went through; what it raised is recorded."""
    try:
        step()
    except RefusedError as error:
        wire.records.append(Refusal(number, str(error)))
        return False
    except CrashedError as error:
        wire.records.append(Crash(number, _head(error), str(error)))
        return False
    except (TypeError, ValueError) as error:
        wire.records.append(Crash(number, _head(error), f"its answer cannot be read: {error}"))
        return False
    return True


def _head(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def cohort(count: int, start: int = 0) -> tuple[int, ...]:
    """Numbers of so many clients."""
    return tuple(range(start, start + count))


def sums(lengths: Iterable[int], **more: Any) -> tuple[Ask, ...]:
    """Sums of these lengths, each with vectors of its own."""
    return tuple(Ask(length=length, key=key, **more) for key, length in enumerate(lengths, 1))


def session(clients: Sequence[int], asked: Iterable[Ask], **more: Any) -> Session:
    """A session."""
    return Session(clients=tuple(clients), sums=tuple(asked), **more)
