"""Keys of one client only, and what opens a sum opens no upload."""

import zlib
from collections import defaultdict
from itertools import combinations, pairwise

from secure_afl.testing import leaks
from secure_afl.testing.judging.history import Asked, Held, History
from secure_afl.testing.judging.properties import Judged, described
from secure_afl.testing.record import Sent, Sum


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
                    f"{described(asked)} opened {' and '.join(one.kinds)} of {one.client!r}, whose upload was sent: "
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
                    f"{client!r} opens the same secret in {described(one)} and in {described(two)}: it is not only of one sum",
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
