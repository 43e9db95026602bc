"""The sound aggregator with one flaw each. Every class names, in `found_by`, the property that must find it."""

import base64
import pickle
import random
import secrets
import struct
from collections.abc import Mapping, Sequence
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np

from verification.sound import Carry, Sound, Words, derive, keystream


class Flawed(Sound):
    found_by = ""


# ---- wrong sums ----


class ScalesInPlace(Flawed):
    found_by = "inputs_are_left_alone"

    def encode(self, vector: Any, length: int) -> Words:
        words = super().encode(vector, length)
        vector *= 2.0**8
        return words


class ClearsItsInput(Flawed):
    found_by = "inputs_are_left_alone"

    def sum(self, number: int, vectors: Mapping[str, Any]) -> Any:
        answer = super().sum(number, vectors)
        if number == 2:
            vectors[self.clients[-1]][:] = 0
        return answer


class ClearsItsInputLater(Flawed):
    """When the next sum is made."""

    found_by = "inputs_are_left_alone"

    def sum(self, number: int, vectors: Mapping[str, Any]) -> Any:
        for vector in getattr(self, "before", {}).values():
            vector[:] = 0
        self.before = vectors
        return super().sum(number, vectors)


class Coarse(Flawed):
    """Rounds to whole numbers, whatever was agreed."""

    found_by = "sums_are_right"

    def encode(self, vector: Any, length: int) -> Words:
        return super().encode(np.rint(vector) if np.asarray(vector).dtype == np.float64 else vector, length)


class Sorted(Flawed):
    """Takes contributions by position: it matters only where somebody is lost."""

    found_by = "any_mixture_is_summed"

    def sum(self, number: int, vectors: Mapping[str, Any]) -> Any:
        return super().sum(number, dict(zip(self.clients, vectors.values(), strict=True)))

    def released(self, total: Words, survivors: list[str]) -> Any:
        return super().released(total, sorted(survivors))


class SortedSurvivors(Flawed):
    """Names the survivors by their positions among all clients in the alphabet's order."""

    found_by = "the_lost_are_left_out"

    def released(self, total: Words, survivors: list[str]) -> Any:
        names = sorted(self.clients)
        return super().released(total, [names[self.clients.index(one)] for one in survivors])


class Stale(Flawed):
    """Gives the result of the first session after a renewal."""

    found_by = "renewed_rows_are_summed_anew"

    def __init__(self, carry: Carry) -> None:
        super().__init__(carry)
        self.kept: dict[tuple[str, int, int], Any] = {}

    def released(self, total: Words, survivors: list[str]) -> Any:
        key = (self.data_set, len(total), len(self.done))
        return self.kept.setdefault(key, super().released(total, survivors))


class WrongAt(Flawed):
    """Adds one to an entry now and then."""

    def off(self, length: int, survivors: int) -> bool:
        raise NotImplementedError

    def released(self, total: Words, survivors: list[str]) -> Any:
        if self.off(len(total), len(survivors)):
            total[-1] += 1 << 8
        return super().released(total, survivors)


class WrongAtMultiplesOf1024(WrongAt):
    found_by = "every_length_is_summed"

    def off(self, length: int, survivors: int) -> bool:
        return length % 1024 == 0


class WrongBeyond65536(WrongAt):
    found_by = "every_length_is_summed"

    def off(self, length: int, survivors: int) -> bool:
        return length > 2**16


class WrongAtSeventeen(WrongAt):
    found_by = "every_length_is_summed"

    def off(self, length: int, survivors: int) -> bool:
        return length % 17 == 0


class WrongForTwo(WrongAt):
    found_by = "every_cohort_is_summed"

    def off(self, length: int, survivors: int) -> bool:
        return len(self.clients) == 2


class WrongForSeven(WrongAt):
    found_by = "every_cohort_is_summed"

    def off(self, length: int, survivors: int) -> bool:
        return len(self.clients) == 7


class WrongWithTwoLost(WrongAt):
    found_by = "the_lost_are_left_out"

    def off(self, length: int, survivors: int) -> bool:
        return len(self.clients) - survivors == 2


class WrongFromTheThirdSum(WrongAt):
    found_by = "later_sums_are_right"

    def off(self, length: int, survivors: int) -> bool:
        return len(self.done) > 2


class WrongWhenLostAndLong(WrongAt):
    found_by = "any_mixture_is_summed"

    def off(self, length: int, survivors: int) -> bool:
        return survivors < len(self.clients) and length > 64


class WordsForSeven(Flawed):
    """38 bits hold the sum of seven clients at the bound, and no more."""

    found_by = "the_bound_itself_is_summed"

    def released(self, total: Words, survivors: list[str]) -> Any:
        short = np.uint64(64 - 38)
        wrapped = (total << short).view(np.int64) >> np.int64(short)
        return super().released(wrapped.view(np.uint64), survivors)


class NamesAll(Flawed):
    found_by = "the_lost_are_left_out"

    def released(self, total: Words, survivors: list[str]) -> Any:
        return super().released(total, self.clients)


class Clips(Flawed):
    found_by = "bad_values_are_refused"

    def encode(self, vector: Any, length: int) -> Words:
        if isinstance(vector, np.ndarray) and vector.dtype == np.float64:
            vector = np.clip(vector, -self.claims["bound"], self.claims["bound"])
        return super().encode(vector, length)


class NaNIsZero(Flawed):
    found_by = "bad_values_are_refused"

    def encode(self, vector: Any, length: int) -> Words:
        if isinstance(vector, np.ndarray) and vector.dtype == np.float64:
            vector = np.where(np.isnan(vector), 0.0, vector)
        return super().encode(vector, length)


class FillsUp(Flawed):
    found_by = "bad_shapes_are_refused"

    def encode(self, vector: Any, length: int) -> Words:
        if isinstance(vector, np.ndarray) and vector.ndim == 1 and len(vector) < length:
            vector = np.append(vector, np.zeros(length - len(vector)))
        return super().encode(vector, length)


class Crashes(Flawed):
    found_by = "bad_shapes_are_refused"

    def encode(self, vector: Any, length: int) -> Words:
        if vector.ndim == 2:
            raise KeyError("two dimensions")
        return super().encode(vector, length)


class FewAreEnough(Flawed):
    found_by = "too_few_open_nothing"

    def sum(self, number: int, vectors: Mapping[str, Any]) -> Any:
        try:
            return super().sum(number, vectors)
        except ValueError:
            who = self.clients[0]
            if who not in vectors or not isinstance(vectors[who], np.ndarray):
                raise
            return self.released(self.encode(vectors[who], self.lengths[number]), [who])


# ---- in the clear ----


class Tells(Flawed):
    """Sends something of the vector beside its upload."""

    def said(self, vector: Any, number: int) -> bytes:
        raise NotImplementedError

    def sum(self, number: int, vectors: Mapping[str, Any]) -> Any:
        for who, vector in vectors.items():
            valid = isinstance(vector, np.ndarray) and vector.dtype == np.float64
            if not valid or vector.shape != (self.lengths[number],) or not np.isfinite(vector).all():
                continue
            if said := self.said(vector, number):
                self.carry("note", who, "server", said)
        return super().sum(number, vectors)


class CountAsText(Tells):
    found_by = "no_count_travels_in_the_clear"

    def said(self, vector: Any, number: int) -> bytes:
        return b'{"num_examples": %d}' % int(vector[-1])


class CountInThousands(Tells):
    found_by = "no_count_travels_in_the_clear"

    def said(self, vector: Any, number: int) -> bytes:
        return struct.pack("<I", abs(int(vector[-1])) // 1000)


class CountZigzag(Tells):
    found_by = "no_count_travels_in_the_clear"

    def said(self, vector: Any, number: int) -> bytes:
        count, out = 2 * abs(int(vector[-1])), b""
        while count:
            out, count = out + bytes([count & 127 | 128]), count >> 7
        return secrets.token_bytes(9) + out


class CountScaled(Tells):
    found_by = "no_count_travels_in_the_clear"

    def said(self, vector: Any, number: int) -> bytes:
        return struct.pack(">q", int(vector[-1] * 2.0**11))


class CountInsideNoise(Tells):
    """At no fixed place."""

    found_by = "no_count_travels_in_the_clear"

    def said(self, vector: Any, number: int) -> bytes:
        return (
            secrets.token_bytes(secrets.randbelow(30))
            + struct.pack("<d", vector[-1])
            + secrets.token_bytes(20)
        )


class CountHashed(Tells):
    found_by = "no_count_travels_in_the_clear"

    def said(self, vector: Any, number: int) -> bytes:
        return derive(vector[-1:].tobytes(), "commitment")


class MeanAsQuotient(Tells):
    found_by = "no_vector_travels_in_the_clear"

    def said(self, vector: Any, number: int) -> bytes:
        return struct.pack("<f", vector[0] / max(1.0, abs(vector[-1])))


class EntryInHalfBytes(Tells):
    found_by = "no_vector_travels_in_the_clear"

    def said(self, vector: Any, number: int) -> bytes:
        nibbles = vector[:1].tobytes().hex()
        return bytes(
            one & 240 | int(nibble, 16) for one, nibble in zip(secrets.token_bytes(16), nibbles, strict=True)
        )


class VectorInBase64(Tells):
    found_by = "no_vector_travels_in_the_clear"

    def said(self, vector: Any, number: int) -> bytes:
        return base64.b64encode(vector.tobytes())


class FirstEntryAsFloat32(Tells):
    found_by = "no_vector_travels_in_the_clear"

    def said(self, vector: Any, number: int) -> bytes:
        return secrets.token_bytes(5) + np.float32(vector[0]).tobytes()


class PlainInLaterSums(Tells):
    found_by = "no_vector_travels_in_the_clear"

    def said(self, vector: Any, number: int) -> bytes:
        return bytes(vector.tobytes()) if number > 1 else b""


class PlainInSecondSessions(Tells):
    found_by = "no_vector_travels_in_the_clear"

    def said(self, vector: Any, number: int) -> bytes:
        return bytes(vector.tobytes()) if len(self.used) > 1 else b""


class PlainWhenLong(Tells):
    found_by = "no_vector_travels_in_the_clear"

    def said(self, vector: Any, number: int) -> bytes:
        return bytes(vector[1000:].tobytes()) if len(vector) > 1000 else b""


class NormAsText(Tells):
    found_by = "no_vector_travels_in_the_clear"

    def said(self, vector: Any, number: int) -> bytes:
        return f"{np.linalg.norm(vector):.3f}".encode()


def spread(data: bytes, wrong_in: int = 2**20) -> bytes:
    """Noise whose lowest bits are the bits of the data; one in so many of them is random."""
    noise = np.frombuffer(secrets.token_bytes(8 * len(data)), np.uint8)
    kept = np.frombuffer(secrets.token_bytes(32 * len(data)), "<u4") % wrong_in != 0
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    return bytes((noise & ~kept.astype(np.uint8)) | np.where(kept, noise & 254 | bits, noise * 0))


class EntryInLowestBits(Tells):
    """One bit a byte."""

    found_by = "no_vector_travels_in_the_clear"

    def said(self, vector: Any, number: int) -> bytes:
        return spread(vector[:1].tobytes())


class CountInLowestBits(Tells):
    found_by = "no_count_travels_in_the_clear"

    def said(self, vector: Any, number: int) -> bytes:
        return spread(struct.pack("<I", int(vector[-1])))


class EntriesInNoisyBits(Tells):
    """Every second bit is random."""

    found_by = "no_vector_travels_in_the_clear"

    def said(self, vector: Any, number: int) -> bytes:
        return spread(vector.tobytes(), wrong_in=2)


class SignInABit(Tells):
    """A single bit in a message, at one place."""

    found_by = "no_vector_travels_in_the_clear"

    def said(self, vector: Any, number: int) -> bytes:
        noise = secrets.token_bytes(40)
        return noise[:20] + bytes([noise[20] & 0xF7 | 8 * (int(vector[0]) // 2**10 & 1)]) + noise[21:]


class LastEntryBare(Flawed):
    found_by = "no_count_travels_in_the_clear"

    def upload(self, who: str, encoded: Words, others: Sequence[str], number: int) -> bytes:
        self.bare = encoded[-1:].tobytes()[:5]
        return super().upload(who, encoded, others, number)

    def post(self, phase: str, sender: str, receiver: str, data: bytes) -> bytes | None:
        sent = super().post(phase, sender, receiver, data + self.bare if phase == "upload" else data)
        return sent[: len(data)] if sent else sent


class SendsNothing(Flawed):
    """Adds in memory, and sends noise."""

    found_by = "every_vector_travels"

    def post(self, phase: str, sender: str, receiver: str, data: bytes) -> bytes | None:
        self.carry(phase, sender, receiver, secrets.token_bytes(len(data)))
        return data


class ResultKeepsVectors(Flawed):
    found_by = "results_tell_only_the_sum"

    def sum(self, number: int, vectors: Mapping[str, Any]) -> Any:
        total, survivors = super().sum(number, vectors)
        return SimpleNamespace(
            total=total, survivors=survivors, debug={"first": vectors[survivors[0]].copy()}
        )


class Pickled:
    """What only a pickle shows."""

    def __init__(self, total: Any, survivors: list[str], hidden: bytes) -> None:
        self.total, self.survivors = total, survivors
        self.__dict__["_"] = pickle.dumps(hidden)


class ResultHidesACount(Flawed):
    found_by = "results_tell_only_the_sum"

    def sum(self, number: int, vectors: Mapping[str, Any]) -> Any:
        total, survivors = super().sum(number, vectors)
        return Pickled(total, survivors, struct.pack("<q", int(vectors[survivors[1]][-1])))


class SizesTell(Tells):
    """As text, or compressed numbers, would."""

    found_by = "sizes_tell_nothing"

    def said(self, vector: Any, number: int) -> bytes:
        return secrets.token_bytes(10 + 3 * int(np.log2(1 + abs(vector[0]))))


# ---- masks ----


class OneBareWordIn(Flawed):
    """At places that all clients know, so that sums stay right."""

    found_by = "every_entry_has_its_own_mask"
    one_in = 256

    def mask(self, who: str, others: Sequence[str], number: int, length: int) -> Words:
        return self.but(super().mask(who, others, number, length))

    def upload(self, who: str, encoded: Words, others: Sequence[str], number: int) -> bytes:
        own = self.but(keystream(self.seeds[who][number], len(encoded)))
        return (encoded + own + self.mask(who, others, number, len(encoded))).tobytes()

    def but(self, words: Words) -> Words:
        draws = np.frombuffer(keystream(self.session + self.session, len(words)).tobytes(), "<u8")
        words[draws % self.one_in == 0] = 0
        return words

    def unmask(self, uploads: Mapping[str, Words], members: Sequence[str], number: int) -> Words:
        total = super().unmask(uploads, members, number)
        draws = keystream(self.session + self.session, len(total))
        bare = draws % self.one_in == 0
        for who in uploads:  # super took whole self masks away
            total[bare] += keystream(self.seeds[who][number], len(total))[bare]
        return total


class OneBareWordIn1024(OneBareWordIn):
    one_in = 1024


class MasksRepeat(Flawed):
    """A keystream begins anew after 256 words."""

    found_by = "every_entry_has_its_own_mask"
    every = 256

    def stretch(self, words: Words) -> Words:
        return np.resize(words[: self.every], len(words))

    def mask(self, who: str, others: Sequence[str], number: int, length: int) -> Words:
        return self.stretch(super().mask(who, others, number, length))

    def upload(self, who: str, encoded: Words, others: Sequence[str], number: int) -> bytes:
        own = self.stretch(keystream(self.seeds[who][number], len(encoded)))
        return (encoded + own + self.mask(who, others, number, len(encoded))).tobytes()

    def unmask(self, uploads: Mapping[str, Words], members: Sequence[str], number: int) -> Words:
        total = super().unmask(uploads, members, number)
        for who in uploads:
            own = keystream(self.seeds[who][number], len(total))
            total += own - self.stretch(own)
        return total


class MasksRepeatLate(MasksRepeat):
    every = 2**16


class OneNumberMasksAll(MasksRepeat):
    every = 1


class SameMasks(Flawed):
    """Masks from secrets that a pair keeps, without self masks, as `label` says."""

    def __init__(self, carry: Carry) -> None:
        super().__init__(carry)
        self.kept: dict[tuple[str, ...], bytes] = {}

    def label(self, number: int) -> Any:
        raise NotImplementedError

    def mask(self, who: str, others: Sequence[str], number: int, length: int) -> Words:
        total = np.zeros(length, np.uint64)
        for other in set(others) - {who}:
            pair = (who, other) if who < other else (other, who)
            key = derive(self.kept.setdefault(pair, secrets.token_bytes(32)), self.label(number))
            total += keystream(key, length) if who < other else -keystream(key, length)
        return total

    def upload(self, who: str, encoded: Words, others: Sequence[str], number: int) -> bytes:
        return (encoded + self.mask(who, others, number, len(encoded))).tobytes()

    def unmask(self, uploads: Mapping[str, Words], members: Sequence[str], number: int) -> Words:
        total = super().unmask(uploads, members, number)
        for who in uploads:
            total += keystream(self.seeds[who][number], len(total))
        return total


class MasksOfEverySession(SameMasks):
    found_by = "two_sessions_share_no_mask"

    def label(self, number: int) -> Any:
        return number


class MasksAcrossCohorts(SameMasks):
    """Another label for the same cohort again, so that only different cohorts share masks."""

    found_by = "two_sessions_share_no_mask"

    def open(self, clients: list[str], lengths: list[int], data_set: str, related: bool) -> None:
        super().open(clients, lengths, data_set, related)
        self.seen = getattr(self, "seen", {})
        self.seen[frozenset(clients)] = self.seen.get(frozenset(clients), 0) + 1

    def label(self, number: int) -> Any:
        return number, self.seen[frozenset(self.clients)]


class MasksOfEverySum(SameMasks):
    found_by = "two_sums_share_no_mask"

    def label(self, number: int) -> Any:
        return self.session


class MasksFromTheThirdSum(SameMasks):
    found_by = "two_sums_share_no_mask"

    def label(self, number: int) -> Any:
        return self.session, min(number, 2)


class MasksMoveByOne(Flawed):
    """The masks of a sum are those of the first, and its number more."""

    found_by = "two_sums_share_no_mask"

    def mask(self, who: str, others: Sequence[str], number: int, length: int) -> Words:
        return super().mask(who, others, 0, length)

    def upload(self, who: str, encoded: Words, others: Sequence[str], number: int) -> bytes:
        own = keystream(self.seeds[who][0], len(encoded)) + np.uint64(number)
        return (encoded + own + self.mask(who, others, number, len(encoded))).tobytes()

    def unmask(self, uploads: Mapping[str, Words], members: Sequence[str], number: int) -> Words:
        total = super().unmask(uploads, members, number)
        for who in uploads:
            total += keystream(self.seeds[who][number], len(total)) - keystream(
                self.seeds[who][0], len(total)
            )
            total -= np.uint64(number)
        return total


class SmallMasks(Flawed):
    """Masks of 16 bits do not hide 34 bits."""

    found_by = "uploads_look_uniform"

    def upload(self, who: str, encoded: Words, others: Sequence[str], number: int) -> bytes:
        own = keystream(self.seeds[who][number], len(encoded)) % 2**16
        return (encoded + own).tobytes()

    def unmask(self, uploads: Mapping[str, Words], members: Sequence[str], number: int) -> Words:
        total: Words = np.asarray(np.sum(list(uploads.values()), axis=0, dtype=np.uint64))
        super().unmask(uploads, members, number)
        for who in uploads:
            total -= keystream(self.seeds[who][number], len(total)) % 2**16
        return total


class ToySeeds(Flawed):
    found_by = "no_toy_generator_is_used"

    def open(self, clients: list[str], lengths: list[int], data_set: str, related: bool) -> None:
        super().open(clients, lengths, data_set, related)
        self.nonce = random.Random(len(clients)).randbytes(12)


class OneKeyForAll(Flawed):
    found_by = "no_key_is_common"

    def __init__(self, carry: Carry) -> None:
        super().__init__(carry)
        self.common = secrets.token_bytes(32)

    def post(self, phase: str, sender: str, receiver: str, data: bytes) -> bytes | None:
        if phase == "keys":
            arrived = super().post(phase, sender, receiver, data + b"-----BEGIN KEY-----\n" + self.common)
            return arrived[: len(data)] if arrived else None
        return super().post(phase, sender, receiver, data)


class OpensMore(Flawed):
    """Holders reveal more shares than the sum needs."""

    def more(self, holder: str) -> list[int]:
        raise NotImplementedError

    def sum(self, number: int, vectors: Mapping[str, Any]) -> Any:
        self.number = number
        return super().sum(number, vectors)

    def share(self, dealer: str, number: int, kind: str, holder: str) -> int:
        return self.shares.get((dealer, number, kind, holder), 0)

    def post(self, phase: str, sender: str, receiver: str, data: bytes) -> bytes | None:
        more = self.more(sender) if phase == "unmask" else []
        return super().post(phase, sender, receiver, data + b"".join(one.to_bytes(66, "big") for one in more))


class OpensPairsOfSurvivors(OpensMore):
    found_by = "only_the_sum_is_opened"

    def more(self, holder: str) -> list[int]:
        return [self.share(who, self.number, "pair", holder) for who in self.clients if who not in self.gone]


class OpensPairsOfTheFirstSum(OpensMore):
    found_by = "only_the_sum_is_opened"

    def more(self, holder: str) -> list[int]:
        return [self.share(who, 0, "pair", holder) for who in self.clients]


class OpensAllOfAll(OpensMore):
    """The lost, too: only one who knows the shares sees it."""

    found_by = "only_the_sum_is_opened"

    def more(self, holder: str) -> list[int]:
        return [
            self.share(who, self.number, "self" if who in self.gone else "pair", holder)
            for who in self.clients
        ]

    def secrets(self, number: int) -> Any:
        def shares(who: str, kind: str) -> list[bytes]:
            return [self.share(who, number, kind, holder).to_bytes(66, "big") for holder in self.holders]

        return {
            who: {kind: (self.threshold, shares(who, kind)) for kind in ("self", "pair")}
            for who in self.holders
        }


# ---- once ----


class NoLedger(Flawed):
    found_by = "a_data_set_serves_one_session"

    def open(self, clients: list[str], lengths: list[int], data_set: str, related: bool) -> None:
        self.used.clear()
        super().open(clients, lengths, data_set, related)


class RenewsAll(Flawed):
    found_by = "a_data_set_serves_one_session"

    def renew(self, data_set: str) -> None:
        self.used.clear()


class SumsTwice(Flawed):
    found_by = "a_sum_is_made_once"

    def sum(self, number: int, vectors: Mapping[str, Any]) -> Any:
        self.done.discard(number)
        return super().sum(number, vectors)


class SumsTwiceAfterALoss(Flawed):
    """Somebody was lost: the sum is made again with all."""

    found_by = "a_sum_is_made_once"

    def sum(self, number: int, vectors: Mapping[str, Any]) -> Any:
        if self.gone and number in self.done:
            self.done.discard(number)
            self.gone = set()
        return super().sum(number, vectors)


class RelatedNever(Flawed):
    found_by = "related_sums_keep_their_survivors"

    def sum(self, number: int, vectors: Mapping[str, Any]) -> Any:
        self.related = False
        return super().sum(number, vectors)


class RelatedForTwoSums(Flawed):
    found_by = "related_sums_keep_their_survivors"

    def sum(self, number: int, vectors: Mapping[str, Any]) -> Any:
        self.related = self.related and number < 2
        return super().sum(number, vectors)


# ---- of another author: what the kit did not see at first ----


class LeavesOneOut(Flawed):
    """A client that nobody lost."""

    found_by = "sums_are_right"

    def sum(self, number: int, vectors: Mapping[str, Any]) -> Any:
        self.gone.add(self.clients[-1])
        return super().sum(number, vectors)


class TheLostStayLost(Flawed):
    """In later sessions, too."""

    found_by = "any_mixture_is_summed"

    def open(self, clients: list[str], lengths: list[int], data_set: str, related: bool) -> None:
        gone: set[str] = getattr(self, "gone", set())
        super().open(clients, lengths, data_set, related)
        self.gone |= gone & set(clients)


class KeepsWhatARefusalLeft(Flawed):
    """What was encoded before a bad vector is added to the next sum."""

    found_by = "bad_values_are_refused"

    def encode(self, vector: Any, length: int) -> Words:
        words = super().encode(vector, length)
        self.left.append(words)
        return words

    def sum(self, number: int, vectors: Mapping[str, Any]) -> Any:
        self.left: list[Words] = getattr(self, "left", [])
        answer = super().sum(number, vectors)
        self.left = []
        return answer

    def released(self, total: Words, survivors: list[str]) -> Any:
        for words in self.left[: -len(self.clients)]:
            both = min(len(words), len(total))
            total[:both] += words[:both]
        return super().released(total, survivors)


class AddsAllThatArrives(Flawed):
    """An upload that comes twice, or with the next one, is added twice."""

    found_by = "late_and_repeated_messages_count_once"

    def post(self, phase: str, sender: str, receiver: str, data: bytes) -> bytes | None:
        arrived = self.carry(phase, sender, receiver, data)
        if phase != "upload" or not arrived:
            return arrived[0] if arrived else None
        table = [np.frombuffer(one, "<u8") for one in arrived if len(one) == len(data)]
        return bytes(np.sum(table, axis=0, dtype=np.uint64).tobytes())


class AddsWhatIsLate(AddsAllThatArrives):
    """Repeats within a sum are known."""

    def post(self, phase: str, sender: str, receiver: str, data: bytes) -> bytes | None:
        carry = self.carry
        self.carry = lambda *message: list(dict.fromkeys(carry(*message)))
        try:
            return super().post(phase, sender, receiver, data)
        finally:
            self.carry = carry


class CountModuloThree(Tells):
    found_by = "no_count_travels_in_the_clear"

    def said(self, vector: Any, number: int) -> bytes:
        return bytes([int(vector[-1]) % 3])


class CountParityInABit(Tells):
    found_by = "no_count_travels_in_the_clear"

    def said(self, vector: Any, number: int) -> bytes:
        noise = secrets.token_bytes(16)
        return bytes([noise[0] & 254 | int(vector[-1]) & 1]) + noise[1:]


class MasksAfterALoss(SameMasks):
    """A counter of each pair, which begins anew when one of the two comes back."""

    found_by = "two_sessions_share_no_mask"

    def open(self, clients: list[str], lengths: list[int], data_set: str, related: bool) -> None:
        gone: set[str] = getattr(self, "gone", set())
        counts: dict[frozenset[str], int] = getattr(self, "counts", {})
        self.counts = {pair: count for pair, count in counts.items() if not pair & gone}
        super().open(clients, lengths, data_set, related)

    def sum(self, number: int, vectors: Mapping[str, Any]) -> Any:
        for pair in map(frozenset, combinations(self.clients, 2)):
            self.counts[pair] = self.counts.get(pair, 0) + 1
        return super().sum(number, vectors)

    def mask(self, who: str, others: Sequence[str], number: int, length: int) -> Words:
        total = np.zeros(length, np.uint64)
        for other in set(others) - {who}:
            pair = (who, other) if who < other else (other, who)
            secret = self.kept.setdefault(pair, secrets.token_bytes(32))
            stream = keystream(derive(secret, self.counts[frozenset(pair)]), length)
            total += stream if who < other else -stream
        return total


class MasksOfARenewedDataSet(SameMasks):
    found_by = "two_sessions_share_no_mask"

    def label(self, number: int) -> Any:
        return self.data_set, number


class MasksOfRelatedSums(SameMasks):
    found_by = "two_sums_share_no_mask"

    def label(self, number: int) -> Any:
        return self.session, 0 if self.related else number


class MasksOfARetry(Flawed):
    """A sum that was refused is asked for again, with other vectors under the same masks."""

    found_by = "two_sums_share_no_mask"

    def sum(self, number: int, vectors: Mapping[str, Any]) -> Any:
        try:
            return super().sum(number, vectors)
        except ValueError as error:
            if "are needed" in str(error):
                self.done.discard(number)
                self.gone = set()
            raise


FLAWS: tuple[type[Flawed], ...] = tuple(
    one
    for one in vars().copy().values()
    if isinstance(one, type) and issubclass(one, Flawed) and one.found_by
)
