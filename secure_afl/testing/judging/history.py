"""A record in order: systems, their sessions and sums, and which sums are right."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

import numpy as np

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

AS_SENT = ("arrived", "lost")
USUAL = (3, 4, 5)  # cohorts, and lengths up to 64, that are no situation of their own


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
        """Whether a message did not arrive as it was sent, when it was sent, once."""
        return any(one.fate not in AS_SENT for one in self.sent)

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
    carried: bool = False
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
            systems.append(Fresh(one.claims, one.replay, one.carried))
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
        done, held = asked.outcome, asked.held
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
        elif not who or len(set(who)) != len(who) or not set(who) <= set(held.clients):
            return f"it names the survivors {', '.join(who) or 'nobody'}"
        elif left_out := self.left_out(asked, who):
            return f"it leaves out {left_out[0]!r}, of whom no message was lost"
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
        here = held.asked[: held.asked.index(asked) + 1]
        if fates := {one.fate for one in self.messages(asked)} - set(AS_SENT):
            return (
                "tampering_changes_no_sum" if "altered" in fates else "late_and_repeated_messages_count_once"
            )
        for one in (*here, *(earlier for each in before for earlier in each.asked)):
            if bad := [given.bad for given in one.inputs.values() if given.bad]:
                return "bad_values_are_refused" if bad[0] in BAD_VALUES else "bad_shapes_are_refused"
        if set(asked.inputs) != set(held.clients):
            return "a_missing_client_is_refused"
        if any(one.number == asked.number for one in here[:-1]):
            return "a_sum_is_made_once"
        if held.renewed:
            return "renewed_rows_are_summed_anew"
        if held.opened.data_set and any(one.opened.data_set == held.opened.data_set for one in before):
            return "a_data_set_serves_one_session"
        if held.opened.related:
            return "related_sums_keep_their_survivors"
        if any(one.lost or any(each.lost for each in one.asked) for one in before):
            return "any_mixture_is_summed"
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

    def left_out(self, asked: Asked, survivors: Iterable[str]) -> list[str]:
        """Clients that a sum should have had. Only where all losses are known."""
        if not asked.held.system.carried or not self.claims.traced or not self.must(asked):
            return []
        return sorted(set(asked.held.clients) - set(survivors) - self.gone(asked))

    def messages(self, asked: Asked) -> Iterator[Sent]:
        """Those of a session until a sum was made."""
        held = asked.held
        yield from held.sent
        for one in held.asked[: held.asked.index(asked) + 1]:
            yield from one.sent

    def gone(self, asked: Asked) -> set[str]:
        """Clients that have lost a message in the session."""
        gone = {
            who for one in self.messages(asked) if one.fate == "lost" for who in (one.sender, one.receiver)
        }
        return gone & set(asked.held.clients)

    def must(self, asked: Asked) -> bool:
        """Whether a sum may not be refused: all gave good vectors, no more are lost than is claimed, and every other
        message of the session arrived as it was sent.
        """
        held, claims, gone = asked.held, self.claims, self.gone(asked)
        good = all(
            set(one.inputs) == set(held.clients) and not any(given.bad for given in one.inputs.values())
            for one in held.asked[: held.asked.index(asked) + 1]
        )
        return (
            good
            and all(one.fate in AS_SENT for one in self.messages(asked))
            and len(held.clients) - len(gone)
            >= max(claims.least, claims.cohort - claims.dropouts if gone else 0)
            and len(gone) <= claims.dropouts
        )


BAD_VALUES = (
    "NaN",
    "infinity",
    "minus infinity",
    "a value just over the bound",
    "twice the bound",
    "a value over any word",
)
