"""What an adversary can compute from what left the honest clients, and whether that is too much.

A mask is known if its secret is: t shares of a self seed; t shares of a mask seed, which gives all pair masks of its
owner; a pair with a colluder. All other masks are unknowns. An upload is a client's vector plus and minus masks, so
what can be opened is the span of those combinations of uploads in which all unknown masks cancel.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from long.sites import SEED, SELF, Fact, Model
from secure_afl.crypto import ring
from secure_afl.crypto.prg import add_keystreams
from secure_afl.crypto.shamir import combine

_FIELD = 2**61 - 1
Row = dict[object, int]
Opened = tuple[int, int, tuple[tuple[int, int], ...]]
"""A session, a round, and the coefficient of each client's upload in what can be opened there."""


@dataclass(frozen=True)
class Violation:
    """rule: one of RULES."""

    rule: str
    text: str


RULES = {
    "a": "both kinds of shares of one honest client",
    "b": "a sum over fewer honest clients than the policy's least",
    "c": "two sums of one statistic that differ by fewer honest clients than the policy's least",
    "d": "a client that reveals twice in a round",
    "e": "two sums of one round of a session",
    "f": "a sum that a client made again, and that is not that of the uploads that it consented to",
    "g": "two sums of one round that clients made again",
}


class Adversary:
    """What the facts of a model are worth. Answers are kept by the facts that matter."""

    def __init__(self, model: Model, rules: str = "".join(RULES)) -> None:
        self._model = model
        self._rules = rules
        self._kept: dict[int, tuple[Violation, ...]] = {}
        self._relevant = 0
        self._looked_at = 0
        self.opened_sums = 0
        self.views = self._kept

    def violations(self, held: int) -> tuple[Violation, ...]:
        """The rules that are broken where the adversary has these facts."""
        held &= self._matters()
        if held not in self._kept:
            self._kept[held] = tuple(one for one in self._judge(held) if one.rule in self._rules)
        return self._kept[held]

    def _matters(self) -> int:
        for at in range(self._looked_at, len(self._model.known)):
            fact = self._model.known[at]
            dealt_to_liar = fact[0] == "bundle" and fact[3] in self._model.bounds.liars
            if fact[0] in ("upload", "share", "again", "accepted") or dealt_to_liar:
                self._relevant |= 1 << at
        self._looked_at = len(self._model.known)
        return self._relevant

    def _judge(self, held: int) -> Iterable[Violation]:
        model, least = self._model, self._model.policy.minimum_honest
        facts = list(model.facts(held))
        for fact in facts:
            if fact[0] == "again":
                yield Violation("d", f"site {fact[3]} revealed twice in round {fact[2]} of session {fact[1]}")
        yield from _wrong_sums([fact for fact in facts if fact[0] == "accepted"])
        seeds = self.seeds(facts)
        for s, r, owner, kind in sorted(seeds):
            if kind == SEED and (s, r, owner, SELF) in seeds:
                yield Violation("a", f"both seeds of site {owner} in round {r} of session {s}")
        opened = self.opened(facts, seeds)
        if not opened:
            return
        self.opened_sums += 1
        rows: list[Row] = [{(i, r): weight for i, weight in weights} for _, r, weights in opened]
        yield from _too_few(rows, least, "of their vectors")
        sums = [(r, frozenset(i for i, _ in weights)) for _, r, weights in opened]
        if model.bounds.related:
            merged: list[Row] = [{(i, 0): weight for i, weight in weights} for _, _, weights in opened]
            yield from _too_few(merged, least, "of what their vectors in related sums share")
        if len({(s, r) for s, r, _ in opened}) < len(opened):
            yield Violation("e", f"sums over {[sorted(one) for _, one in sums]}")
        for (r, one), (q, other) in combinations(sums, 2):
            if (r == q or model.bounds.related) and 0 < len(one ^ other) < least:
                yield Violation("c", f"sums over {sorted(one)} and {sorted(other)}")

    def seeds(self, facts: Iterable[Fact]) -> frozenset[tuple[int, int, int, int]]:
        """The seeds of honest clients that the shares give: session, round, owner, kind."""
        holders = self.holders(facts)
        return frozenset(
            which for which, who in holders.items() if len(who) >= self._model.parameters[which[0]].threshold
        )

    def holders(self, facts: Iterable[Fact]) -> dict[tuple[int, int, int, int], set[int]]:
        """Whose shares of each seed there are."""
        holders: dict[tuple[int, int, int, int], set[int]] = defaultdict(set)
        for fact in facts:
            if fact[0] == "share":
                _, s, r, holder, owner, kind = fact
                if owner in self._model.bounds.honest:
                    holders[s, r, owner, kind].add(holder)
            elif fact[0] == "bundle" and fact[3] in self._model.bounds.liars:
                _, s, owner, holder = fact
                for r in range(self._model.bounds.rounds):
                    for kind in (SEED, SELF):
                        holders[s, r, owner, kind].add(holder)
        return holders

    def _is_known(self, mask: tuple[object, ...], seeds: frozenset[tuple[int, int, int, int]]) -> bool:
        kind, s, r, *owners = mask
        if kind == "self":
            return (s, r, owners[0], SELF) in seeds
        return any(i in self._model.bounds.liars or (s, r, i, SEED) in seeds for i in owners)

    def opened(self, facts: Iterable[Fact], seeds: frozenset[tuple[int, int, int, int]]) -> list[Opened]:
        """A basis of the combinations of uploads in which every unknown mask cancels."""
        uploads: dict[tuple[int, int], list[Fact]] = defaultdict(list)
        for fact in facts:
            if fact[0] == "upload":
                uploads[fact[1], fact[2]].append(fact)
        basis: list[Opened] = []
        for (s, r), sent in sorted(uploads.items()):
            rows: list[Row] = []
            for fact in sent:
                row: Row = {mask: sign for mask, sign in fact[4] if not self._is_known(mask, seeds)}
                rows.append(row | {("upload", fact[3]): 1})
            unknown = sorted({mask for row in rows for mask in row if mask[0] != "upload"})  # type: ignore[index,type-var]
            for row in eliminated(rows, unknown):
                weights = sorted((key[1], weight) for key, weight in row.items())  # type: ignore[index]
                basis.append((s, r, tuple(weights)))
        return basis

    def read(self, held: int) -> dict[Opened, bool]:
        """Open on the real bytes whatever can be opened; whether the numbers are those of the clients' vectors."""
        model, facts = self._model, list(self._model.facts(held & self._matters()))
        seeds, holders = self.seeds(facts), self.holders(facts)
        for which in seeds:
            s, r, owner, kind = which
            threshold = model.parameters[s].threshold
            shares = {who + 1: model.share_bytes[s, r, who, owner, kind] for who in holders[which]}
            assert combine(shares, threshold) == model.seeds[which], "shares give another seed"
        result: dict[Opened, bool] = {}
        for s, r, weights in self.opened(facts, seeds):
            spec = model.parameters[s].rounds[r]
            encoding = spec.encoding(model.bounds.clients)
            total, truth = (np.zeros(spec.length, np.uint64) for _ in range(2))
            for fact in facts:
                if fact[:3] != ("upload", s, r) or fact[3] not in dict(weights):
                    continue
                weight = np.uint64(dict(weights)[fact[3]] % 2**64)
                words = np.zeros(spec.length, ring.words_of(spec.width))
                ring.add_packed(words, model.payloads[fact], spec.width)
                known = [
                    (model.mask_keys[mask], sign) for mask, sign in fact[4] if self._is_known(mask, seeds)
                ]
                add_keystreams(
                    words,
                    plus=[key for key, sign in known if sign < 0],
                    minus=[key for key, sign in known if sign > 0],
                )
                total += weight * words
                truth += weight * encoding.encode(model.vectors[fact[3], r])
            same = ring.signed(total, spec.width) == ring.signed(truth, spec.width)
            result[s, r, weights] = bool(same.all())
        return result


def _wrong_sums(accepted: Sequence[Fact]) -> Iterable[Violation]:
    for _, s, r, here, _, _, right in accepted:
        if not right:
            yield Violation("f", f"site {here} in round {r} of session {s}")
    for one, other in combinations(accepted, 2):
        if one[1:3] == other[1:3] and one[4:6] != other[4:6]:
            yield Violation("g", f"sites {one[3]} and {other[3]} in round {one[2]} of session {one[1]}")


def _too_few(rows: Sequence[Row], least: int, what: str) -> Iterable[Violation]:
    clients = sorted({key[0] for row in rows for key in row})  # type: ignore[index]
    for size in range(1, least):
        for few in combinations(clients, size):
            others = sorted({key for row in rows for key in row if key[0] not in few})  # type: ignore[index,type-var]
            if left := eliminated(rows, others):
                yield Violation("b", f"a combination {what} of sites {list(few)} alone: {_text(left[0])}")


def _text(row: Mapping[object, int]) -> str:
    return ", ".join(f"{weight} · x{key}" for key, weight in sorted(row.items(), key=repr))


def eliminated(rows: Iterable[Row], unknown: Sequence[object]) -> list[Row]:
    """A basis of the combinations of the rows in which none of the unknowns occurs, over a large prime field."""
    left = [dict(row) for row in rows]
    for name in unknown:
        at = next((at for at, row in enumerate(left) if row.get(name)), None)
        if at is None:
            continue
        pivot = left.pop(at)
        inverse = pow(pivot[name], -1, _FIELD)
        for row in left:
            if factor := row.get(name, 0) * inverse % _FIELD:
                for key, value in pivot.items():
                    row[key] = (row.get(key, 0) - factor * value) % _FIELD
    # A combination of dependent rows may have become empty.
    basis: list[Row] = []
    work = [{key: value for key, value in row.items() if value} for row in left]
    while work:
        pivot = work.pop()
        if not pivot:
            continue
        basis.append({key: _small(value) for key, value in pivot.items()})
        name = next(iter(pivot))
        inverse = pow(pivot[name], -1, _FIELD)
        for row in work:
            if factor := row.get(name, 0) * inverse % _FIELD:
                for key, value in pivot.items():
                    row[key] = (row.get(key, 0) - factor * value) % _FIELD
        work = [{key: value for key, value in row.items() if value} for row in work]
    return basis


def _small(value: int) -> int:
    value %= _FIELD
    return value - _FIELD if value > _FIELD // 2 else value
