"""What messages, results and sizes tell of vectors."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from secure_afl.testing import leaks
from secure_afl.testing.judging.history import Asked, History
from secure_afl.testing.judging.properties import Check, Judged, described
from secure_afl.testing.record import Sent, Sum

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
                    f"and on no randomness: {seen}{form} ({described(groups[0][0])})",
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
                f"the result of {described(groups[0][0])} tells who gave what, not only the sum: {seen}{form}",
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
