"""Masks: each serves once, for one entry, and hides it."""

from collections import defaultdict
from itertools import combinations

from secure_afl.testing import leaks
from secure_afl.testing.judging.history import Asked, History
from secure_afl.testing.judging.properties import Judged, described

_HEADER = 32  # equal blocks of two uploads that may be a header


def _again(history: History, same_session: bool, judged: Judged) -> None:
    """The same vector of a client twice: its uploads have nothing in common."""
    for system in history.systems:
        seen: dict[tuple[str, str], list[Asked]] = defaultdict(list)
        others: dict[tuple[str, int], list[Asked]] = defaultdict(list)
        for asked in system.asked:
            if asked.altered:
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
                        f"{client!r} gave one vector to {described(one)} and to {described(two)}, and its uploads {what}: "
                        "a mask serves twice",
                        system,
                    )


def two_sums_share_no_mask(history: History, judged: Judged) -> None:
    """Nor a sum that is asked for again, with other vectors."""
    _again(history, True, judged)
    width = history.width
    for system in history.systems:
        for held in system.held:
            for one, two in combinations(held.asked, 2) if width else ():
                if one.number == two.number and not one.altered and not two.altered:
                    _asked_again(history, one, two, judged)


def _asked_again(history: History, one: Asked, two: Asked, judged: Judged) -> None:
    """Clients gave one number everywhere, and then another one."""
    assert history.width
    first, second = (each.uploads(history.uploads) for each in (one, two))
    for client in first.keys() & second.keys():
        vectors = [each.inputs[client].vector for each in (one, two)]
        if any(vector is None or len(set(vector)) != 1 for vector in vectors):
            continue
        if one.inputs[client].digest == two.inputs[client].digest:
            continue
        judged.cases += 1
        if leaks.related([(1, first[client]), (-1, second[client])], history.width, one.length):
            judged.against(
                f"{client!r} gave another vector when {described(two)} was asked for again, and its uploads differ by "
                "the same number everywhere: a mask serves twice",
                one.held.system,
            )


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
