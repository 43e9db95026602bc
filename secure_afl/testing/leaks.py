"""What bytes tell of vectors: the searches behind the properties about messages. Pure functions of bytes and numbers.

`telling` needs no list of encodings: bytes that come again whenever the inputs do, and change when the inputs do, are a
function of the inputs, in whatever form. `recognised` then only finds a word for them.
"""

import base64
import math
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from secure_afl.testing.record import Vector

Windows = npt.NDArray[np.uint64]
_CHANCE = 1e-9
_SEARCHED = 2**16  # bytes of a message in which runs are searched for at any place
_LOOKED = 2**16  # bytes of a message that are compared with others
_BITS = 2**12  # bytes at each end of a message in which single bits are looked at
_CHUNK = 2**18  # bytes that are looked at together
_SAMPLED = 2**20  # runs of a long upload that are compared with each other, about


# ---- bytes that depend on nothing but the input --------------------------------------------------


def telling(groups: Sequence[Sequence[bytes]]) -> str | None:
    """Say where a message tells its input: `groups` are the messages, at one step, of runs with the same input each.

    At a place, counted from the beginning or the end, that has the same byte throughout every group and three different
    ones in all; or a run of bytes that is somewhere in each message of a group and in none of another. Randomness of
    b bits a byte passes for that with a chance of about 2**-b per group and repetition.
    """
    if any(len(group) < 2 for group in groups) or not any(map(len, groups[0])):
        return None
    everything = [one for group in groups for one in group]
    shortest = min(map(len, everything))
    for at in range(0, shortest, _CHUNK):
        end = min(shortest, at + _CHUNK)
        ahead = [[one[at:end] for one in group] for group in groups]
        if len(places := _fixed(ahead)):
            return f"{len(places)} of its bytes, number {at + int(places[0]) + 1} first"
        behind = [[one[len(one) - end : len(one) - at] for one in group] for group in groups]
        if len(places := _fixed(behind)):
            return f"{len(places)} of its bytes, number {end - int(places[-1])} from the end among them"
    for wide in (6, 3):
        if _wandering(groups, wide):
            return f"{wide} bytes somewhere in it"
    if shortest and len({len(group) for group in groups}) == 1:
        size = min(shortest, _BITS)
        sides = {(at, at + size) for one in everything for at in (0, len(one) - size)}
        for side in (slice(0, size), slice(-size, None))[: len(sides)]:
            if (seen := _telling_bits([[one[side] for one in group] for group in groups])) is not None:
                return seen
    return None


def _telling_bits(groups: Sequence[Sequence[bytes]]) -> str | None:
    """Say that single bits tell the input, of messages of one length.

    Bits that are the same throughout each group and not in all are counted, equal ones once: with k ones among all runs,
    that has the chance of a random order. And in a plane (one bit of every byte, word of 2, 4 or 8 bytes) messages of a
    group must not agree more often than others: the agreements of random groups show their spread.
    """
    repeats, runs = len(groups[0]), sum(map(len, groups))
    raw = np.frombuffer(b"".join(one for group in groups for one in group), np.uint8).reshape(runs, -1)
    bits = np.unpackbits(raw, axis=1, bitorder="little")
    bits ^= bits[0]  # a bit and its opposite are one
    weights = np.random.default_rng(0).integers(0, 2**64, runs, np.uint64)
    # The same for equal bits, and for others with a chance of 2**-64 a pair.
    names: Windows = np.asarray(weights @ bits, np.uint64)
    order = np.argsort(names)
    first = order[np.concatenate([[True], np.diff(names[order]) != 0])]
    kinds = bits[:, first]
    ones = kinds.sum(axis=0)
    fixed = (kinds.reshape(len(groups), repeats, -1) == kinds[::repeats, None]).all(axis=(0, 1)) & (ones > 0)
    chance = sum(
        int((ones == most * repeats).sum()) * math.comb(len(groups), most) / math.comb(runs, most * repeats)
        for most in range(1, len(groups))
    )
    if fixed.any() and _rare(int(fixed.sum()), chance):
        at = int(first[fixed].min())
        return f"single bits, bit {at % 8} of byte {at // 8 + 1} first"
    return _telling_planes(bits[:, bits.any(axis=0)], np.flatnonzero(bits.any(axis=0)), len(groups))


def _telling_planes(bits: npt.NDArray[np.uint8], places: npt.NDArray[np.intp], groups: int) -> str | None:
    runs = len(bits)
    pairs, alike = np.triu_indices(runs, 1), _alike(runs, groups)
    one_bit = float(alike[0].sum()) / 4  # the variance of the agreements of one bit
    parts = [bits[:, places % 64 == plane].astype(np.float32) - np.float32(0.5) for plane in range(64)]
    counts = np.array([one.shape[1] for one in parts])
    agreeing = np.array([(2 * one @ one.T)[pairs] for one in parts])
    for wide in (1, 2, 4, 8):
        many = counts.reshape(-1, 8 * wide).sum(axis=0)
        agreements = agreeing.reshape(-1, 8 * wide, len(pairs[0])).sum(axis=0) @ alike.T
        spread = np.maximum(agreements[:, 1:].var(axis=1), 1e-9)
        excess = (agreements[:, 0] - agreements[:, 1:].mean(axis=1)) / np.sqrt(spread)
        for plane in np.flatnonzero((many >= 8) & (excess > 4)).tolist():
            # As many independent bits would spread as much: each gives a χ² for every group but one.
            degrees = (groups - 1) * float(min(many[plane], many[plane] ** 2 * one_bit / spread[plane]))
            limit = chi_square_limit(round(degrees))
            if degrees >= 4 * (groups - 1) and degrees + excess[plane] * math.sqrt(2 * degrees) > limit:
                every = "byte" if wide == 1 else f"{wide} bytes"
                return f"bit {plane % 8} of every {every}, though not each time"
    return None


@lru_cache(4)
def _alike(runs: int, groups: int) -> npt.NDArray[np.float32]:
    """Which pairs of runs are of one group, in the true order and in random ones."""
    true = np.repeat(np.arange(groups), runs // groups)
    draws, pairs = np.random.default_rng(0), np.triu_indices(runs, 1)
    orders = [true, *(draws.permutation(true) for _ in range(200))]
    return np.array([(one[:, None] == one)[pairs] for one in orders], np.float32)


def _rare(count: int, expected: float) -> bool:
    """Whether so many of what is expected so seldom have a chance below 1e-9."""
    return count > expected and count * math.log(expected) - expected - math.lgamma(count + 1) < math.log(
        _CHANCE
    )


def _fixed(groups: Sequence[Sequence[bytes]]) -> npt.NDArray[np.intp]:
    """The places of messages of one length with the same byte throughout every group, and three different ones in all."""
    table = [np.frombuffer(b"".join(group), np.uint8).reshape(len(group), len(group[0])) for group in groups]
    same = np.logical_and.reduce([(group == group[0]).all(axis=0) for group in table])
    heads = np.sort(np.array([group[0] for group in table]), axis=0)
    kinds = 1 + (heads[1:] != heads[:-1]).sum(axis=0)
    return np.flatnonzero(same & (kinds >= min(3, len(groups))))


def _wandering(groups: Sequence[Sequence[bytes]], wide: int) -> bool:
    """Whether there is a run of bytes that all messages of one group have and none of the others; three groups
    must have such a run."""
    everything = [one for group in groups for one in group]
    size, repeats = max(map(len, everything)), len(groups[0])
    if min(map(len, everything)) < wide or size > _SEARCHED:
        return False
    often = np.bincount(np.frombuffer(b"".join(everything), np.uint8), minlength=256)
    alike = float(((often / max(1, often.sum())) ** 2).sum())
    if size * (size * alike**wide) ** (repeats - 1) > _CHANCE:
        return False
    common: list[Windows] = []
    for group in groups:
        runs = _distinct(_windows(group[0], wide))
        for one in group[1:]:
            runs = runs[np.isin(runs, _windows(one, wide))] if len(runs) else runs
        common.append(runs)
    found = 0
    for number, runs in enumerate(common):
        for other in (*groups[:number], *groups[number + 1 :]):
            for one in other:
                runs = runs[~np.isin(runs, _windows(one, wide))] if len(runs) else runs
        found += len(runs) > 0
    return found >= min(3, len(groups))


def sizes_telling(groups: Sequence[Sequence[int]]) -> str | None:
    """Say that the size of a message depends on the input: constant in every group, or without any overlap."""
    sizes = [group for group in groups if group]
    if len(sizes) < 2:
        return None
    if all(len(set(group)) == 1 for group in sizes):
        fixed = sorted({group[0] for group in sizes})
        return None if len(fixed) == 1 else f"{', '.join(map(str, fixed))} bytes"
    for one in sizes:
        for other in sizes:
            if max(one) + 8 < min(other) and len(one) > 3:
                return f"{min(one)} to {max(one)} bytes and {min(other)} to {max(other)} bytes"
    return None


def _windows(data: bytes, wide: int = 8) -> Windows:
    """The `wide` bytes at every place, as little-endian numbers."""
    count = max(0, len(data) - wide + 1)
    raw = np.frombuffer(data, np.uint8)
    windows = np.zeros(count, np.uint64)
    for at in range(wide):
        windows |= raw[at : at + count].astype(np.uint64) << np.uint64(8 * at)
    return windows


def _distinct(words: Windows) -> Windows:
    """What `np.unique` gives, by sorting: its hash tables take ten times as long."""
    ordered = np.sort(words)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(ordered) else ordered


# ---- the same mask twice -------------------------------------------------------------------------


def come_again(first: bytes, second: bytes, others: Iterable[bytes]) -> int:
    """How many runs of 16 bytes of `first` are in `second` and in none of the others, which have other vectors."""
    if len(first) < 16 or len(second) < 16:
        return 0
    if first == second:
        return 0 if first in others else len(first) - 15
    first, second = first[-_LOOKED:], second[-_LOOKED:]
    one = _windows(first)
    near = np.isin(one, _windows(second))
    runs = near[:-8] & near[8:]
    for other in others:
        if len(other) >= 16 and runs.any():
            apart = np.isin(one, _windows(other[-2 * _LOOKED :]))
            runs &= ~(apart[:-8] & apart[8:])
    return int(runs.sum())


def words(upload: bytes, width: int, count: int, shift: int = 0) -> list[int]:
    """The last `count` words of an upload, little endian, `shift` bytes before its end."""
    end = len(upload) - shift
    raw = upload[max(0, end - count * width) : end]
    raw = raw[len(raw) % width :]
    return [int.from_bytes(raw[at : at + width], "little") for at in range(0, len(raw), width)]


def related(uploads: Sequence[tuple[int, bytes]], width: int, count: int) -> bool:
    """Whether a combination of uploads, with these factors, has the same few values in most words: the masks cancel."""
    if count < 24 or len({len(one) for _, one in uploads}) != 1:
        return False
    for shift in range(width):
        table = [words(one, width, count - 1, shift) for _, one in uploads]
        for columns in (table, [[_swapped(one, width) for one in row] for row in table]):
            values = Counter(
                sum(factor * word for (factor, _), word in zip(uploads, column, strict=True))
                for column in zip(*columns, strict=True)
            )
            # Differences of so many terms modulo something: a handful of values.
            if sum(hits for _, hits in values.most_common(5)) > 0.6 * sum(values.values()):
                return True
    return False


def _swapped(number: int, width: int) -> int:
    return int.from_bytes(number.to_bytes(width, "little"), "big")


def bare(uploads: Sequence[bytes], width: int, count: int) -> tuple[str | None, str]:
    """Of uploads of one number everywhere: say that one word comes again and again, bare or under a mask used twice.

    Also says which share of bare words would have been found. Of words of over 8 bytes only 8 are compared.
    """
    power = 1
    total = len(uploads) * (count - 1)
    for shift in range(width):
        parts = []
        for one in uploads:
            raw = one[len(one) - shift - (count - 1) * width : len(one) - shift]
            table = np.zeros((count - 1, 8), np.uint8)
            table[:, : min(8, width)] = np.frombuffer(raw, np.uint8).reshape(count - 1, width)[:, :8]
            parts.append(table.view("<u8").ravel())
        _, often = np.unique(np.concatenate(parts), return_counts=True)
        most = int(often.max())
        # How many words are possible, from how often the others meet.
        pairs = int((often * (often - 1) // 2).sum()) - most * (most - 1) // 2
        least = _unlikely(total, min(256.0 ** min(8, width), total * total / 2 / max(pairs, 0.5)))
        if len(often) == 1 or most >= least:
            return f"one word stands {most} times among {total} words", ""
        power = max(power, least)
    return None, f"one bare word in {max(1, total // (2 * power))} would have been seen"


def _unlikely(total: int, room: float) -> int:
    """How often no word of `total` comes, of `room` equally likely ones, but for a chance of 1e-9."""
    times = 2
    while (
        times * math.log(total) - math.lgamma(times + 1) - (times - 1) * math.log(room) > math.log(_CHANCE)
        or times <= total / room * 2
    ):
        times += 1
    return times


def repeating(upload: bytes) -> int:
    """How many runs of 16 bytes of an upload were in it before; runs of one byte do not count. Of a long upload, runs
    are chosen by what is in them, the same wherever they are, and stand for the others.
    """
    share = 1 + len(upload) // _SAMPLED
    kept: list[Windows] = []
    for at in range(0, len(upload) - 15, _CHUNK):
        windows = _windows(upload[at : at + _CHUNK + 15])
        first, second = windows[:-8], windows[8:]
        filling = (first == second) & (first % np.uint64(257) == first // np.uint64(256) % np.uint64(257))
        blocks = first * np.uint64(0x9E3779B97F4A7C15) ^ second * np.uint64(0xC2B2AE3D27D4EB4F)
        # The high bits of a product hang on all of its factor.
        kept.append(blocks[~filling & ((blocks >> np.uint64(40)) % np.uint64(share) == 0)])
    if not kept:
        return 0
    blocks = np.concatenate(kept)
    return share * (len(blocks) - len(_distinct(blocks)))


def secrets_again(first: bytes, second: bytes, elsewhere: Sequence[bytes]) -> bool:
    """Whether 16 random bytes, or 32 characters of hexadecimal, base64 or decimal digits, are in both and not elsewhere."""
    for text in re.findall(rb"[A-Za-z0-9+/=]{32,}", first):
        blocks = (text[at : at + 32] for at in range(0, len(text) - 31, 16))
        if any(
            _random(one, 8) and one in second and not any(one in each for each in elsewhere) for one in blocks
        ):
            return True
    one = _windows(first[:_LOOKED])
    near = np.isin(one, _windows(second[:_LOOKED]))
    for at in np.flatnonzero(near[:-8] & near[8:]).tolist():
        block = first[at : at + 16]
        if (
            _random(block, 12)
            and not block.isascii()
            and block in second
            and not any(block in each for each in elsewhere)
        ):
            return True
    return False


def _random(block: bytes, kinds: int) -> bool:
    return len(set(block)) >= kinds


# ---- uniform words -------------------------------------------------------------------------------


def skewed(
    low: bytes, high: bytes, uploads: Sequence[bytes], width: int, count: int
) -> tuple[str | None, str]:
    """Compare a client with the bound everywhere (`high`) and one with minus it (`low`): what is wrong, and the extent.

    Each byte of a word is uniform, or the same everywhere, or, for at most one, not uniform but the same for both.
    """
    inside = np.array([np.frombuffer(one[-(count - 1) * width :], np.uint8) for one in (low, high, *uploads)])
    inside = inside[:, : inside.shape[1] // width * width]
    uniform = constant = other = 0
    for place in range(width):
        column = inside[:, place::width]
        if (column == column[0, 0]).all():
            constant += 1
            continue
        one, two = (np.bincount(column[at], minlength=256) for at in (0, 1))
        both = one + two
        apart = float(((one - two)[both > 0] ** 2 / both[both > 0]).sum())
        if apart > chi_square_limit(int(np.count_nonzero(both)) - 1):
            return f"byte {place} of the {width} of a word tells the bound from minus the bound", ""
        counts = np.bincount(column.ravel(), minlength=256)
        expected = column.size / 256
        if float(((counts - expected) ** 2).sum() / expected) > chi_square_limit(255):
            other += 1
        else:
            uniform += 1
    if not uniform or other > 1:
        return f"of the {width} bytes of a word {uniform} are uniform, {other} are not", ""
    return None, f"{width} bytes a value, {uniform} of them uniform, {constant} constant"


def chi_square_limit(degrees: int) -> float:
    """What χ² exceeds with a chance of about 1e-9 (Wilson and Hilferty)."""
    part = 2 / (9 * max(1, degrees))
    return max(1, degrees) * (1 - part + 6.0 * math.sqrt(part)) ** 3


# ---- keys ----------------------------------------------------------------------------------------


def runs(messages: Iterable[bytes]) -> Windows:
    """All runs of 8 bytes at the beginnings of messages, in order."""
    every = [_windows(one[:_LOOKED]) for one in messages]
    return _distinct(np.concatenate(every)) if every else np.zeros(0, np.uint64)


def common_keys(first: bytes, second: bytes, elsewhere: Windows) -> bytes | None:
    """32 bytes that look like a key, in both, and nothing of them `elsewhere` (other systems, and what the server sent)."""
    one = _windows(first[:_LOOKED])
    shared = np.isin(one, _windows(second[:_LOOKED]))
    if len(elsewhere):
        near = np.minimum(np.searchsorted(elsewhere, one), len(elsewhere) - 1)
        shared &= elsewhere[near] != one
    hits = np.concatenate([[0], np.cumsum(shared)])
    for at in np.flatnonzero(hits[25:] - hits[:-25] == 25).tolist():
        block = first[at : at + 32]
        if len(set(block)) > 16 and not block.isascii() and block in second:
            return block
    return None


# ---- words for what was found --------------------------------------------------------------------


def recognised(data: Sequence[bytes], vector: Vector, entries: Iterable[int]) -> str:
    """The form in which one of these entries is in each of the messages, or "" for none that is known."""
    for at in entries:
        for called, forms in _forms(float(vector[at]), float(vector[0])):
            # Long enough to be no coincidence.
            if any(
                _long(form) and all(form in one and 256.0 ** _long(form) > 2**12 * len(one) for one in data)
                for form in forms
            ):
                where = "the last entry" if at in (-1, len(vector) - 1) else f"entry {at}"
                return f"{where} as {called}"
    return ""


def _long(form: bytes) -> int:
    """How many bytes of a form are not filling."""
    return len(form.strip(b"\0\xff"))


def _forms(value: float, first: float) -> Iterator[tuple[str, list[bytes]]]:
    whole: dict[str, Callable[[], float]] = {
        "": lambda: value,
        " in thousands": lambda: value / 1000,
        " as a quotient": lambda: first / value if value else 0.0,
        " as the inverse quotient": lambda: value / first if first else 0.0,
    }
    for suffix, make in whole.items():
        number = make()
        raw = [struct.pack(order + kind, number) for order in "<>" for kind in "d"]
        raw += [struct.pack(order + "f", number) for order in "<>" if abs(number) < 3e38]
        yield f"float64 or float32{suffix}", raw
        scaled = {round(math.ldexp(number, bits)) for bits in range(41)}
        integers = [
            one.to_bytes(width, order, signed=True)
            for one in scaled
            for width in (3, 4, 5, 6, 8)
            if abs(one) < 2 ** (8 * width - 1) and abs(one) >= 2 ** (8 * (width - 1) - 1)
            for order in ("little", "big")
        ]
        integers += [
            one.to_bytes(8, order, signed=True)
            for one in scaled
            if abs(one) < 2**63
            for order in ("little", "big")
        ]
        yield f"an integer{suffix}", integers
        text = [f"{number:g}".encode(), repr(number).encode(), str(round(number)).encode()]
        yield f"text{suffix}", text
        coded = [base64.b64encode(one)[: len(one) // 3 * 4] for one in (*raw, *text)]
        yield f"base64{suffix}", [*coded, *(one.hex().encode() for one in raw)]
        zigzag = [2 * one if one >= 0 else -2 * one - 1 for one in scaled if abs(one) < 2**62]
        yield f"a zigzag varint{suffix}", [_varint(one) for one in (*zigzag, *(abs(one) for one in scaled))]


def _varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])
