"""What the fuzzer feeds, written down so that it can be replayed: a base, and what is done to its bytes.

Keys are fresh in every run, so that bytes that were interesting once are soon only a wrong signature. A recipe
is made anew from the honest messages of the session at hand, and signed where it says so.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import msgpack

Op = tuple[Any, ...]
Path = tuple[int, ...]

INTEGERS = (-1, 0, 1, 2, 3, 7, 127, 128, 255, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
NEGATIVE = (-2, -33, -(2**31), -(2**63))
SIZES = (0, 1, 16, 31, 32, 33, 48, 63, 64, 65, 80, 1184, 1216)
OTHERS: tuple[Any, ...] = (
    None,
    True,
    False,
    0.0,
    -0.0,
    0.5,
    math.nan,
    math.inf,
    "",
    "x" * 65,
    "\x00",
    "secure-afl/2",
    "semi-honest",
    "hybrid",
    "weights",
    "ckks-precise",
    (),
    (0,),
    ((),),
    (0, 0),
    (1, 0),
)


_LARGEST = 2**19  # bytes that one operation adds


class Recipe(msgspec.Struct, frozen=True, array_like=True):
    """One input. target: by name; base: by name, or "" for `data`; ops: what is done to it, in this order.

    sign: whether what comes out is signed, by the party whose message it is; sender: what the transport says.
    """

    target: str
    base: str
    ops: tuple[Op, ...] = ()
    sign: bool = False
    sender: int = -1
    data: bytes = b""


RECIPE = msgpack.Decoder(Recipe)


def cooked(recipe: Recipe, bases: Mapping[str, bytes]) -> bytes:
    """The bytes of a recipe. Places and paths are taken modulo what is there, so any op fits any bytes."""
    data = bases[recipe.base] if recipe.base else recipe.data
    for name, *rest in recipe.ops:
        data = _BYTES[name](data, bases, *rest) if name in _BYTES else _in_tree(data, name, rest)
    return data


# ---- bytes -------------------------------------------------------------------------------------------


def _flip(data: bytes, bases: Mapping[str, bytes], at: int, mask: int) -> bytes:
    if not data:
        return bytes([mask])
    at %= len(data)
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


def _cut(data: bytes, bases: Mapping[str, bytes], at: int) -> bytes:
    return data[: at % (len(data) + 1)]


def _remove(data: bytes, bases: Mapping[str, bytes], at: int, count: int) -> bytes:
    at %= len(data) + 1
    return data[:at] + data[at + count :]


def _insert(data: bytes, bases: Mapping[str, bytes], at: int, more: bytes) -> bytes:
    at %= len(data) + 1
    return data[:at] + more + data[at:]


def _over(data: bytes, bases: Mapping[str, bytes], at: int, more: bytes) -> bytes:
    at %= len(data) + 1
    return data[:at] + more + data[at + len(more) :]


def _splice(data: bytes, bases: Mapping[str, bytes], at: int, other: str, start: int) -> bytes:
    tail = bases.get(other, b"")
    return data[: at % (len(data) + 1)] + tail[start % (len(tail) + 1) :]


def _raw(data: bytes, bases: Mapping[str, bytes], instead: bytes) -> bytes:
    return instead


def _nested(data: bytes, bases: Mapping[str, bytes], depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


_BYTES: dict[str, Callable[..., bytes]] = {
    "flip": _flip,
    "cut": _cut,
    "remove": _remove,
    "insert": _insert,
    "over": _over,
    "splice": _splice,
    "raw": _raw,
    "nested": _nested,
}


# ---- trees -------------------------------------------------------------------------------------------


def tree_of(data: bytes) -> Any:
    """What the bytes say, or None."""
    try:
        return msgpack.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None


def _in_tree(data: bytes, name: str, rest: Sequence[Any]) -> bytes:
    tree = tree_of(data)
    if not isinstance(tree, list):
        return data
    path, *values = rest
    return msgpack.encode(_changed(tree, tuple(path), name, values))


def _changed(tree: Any, path: Path, name: str, values: Sequence[Any]) -> Any:
    if not isinstance(tree, list) or not tree or not path:
        return tree
    at, inner = path[0] % len(tree), path[1:]
    if inner:
        return [*tree[:at], _changed(tree[at], inner, name, values), *tree[at + 1 :]]
    match name:
        case "put":
            return [*tree[:at], values[0], *tree[at + 1 :]]
        case "delete":
            return [*tree[:at], *tree[at + 1 :]]
        case "twice":
            return [*tree[: at + 1], *tree[at:]]
        case "swap":
            other = values[0] % len(tree)
            swapped = list(tree)
            swapped[at], swapped[other] = tree[other], tree[at]
            return swapped
        case "add":
            old = tree[at]
            if not isinstance(old, int):
                return tree
            return [*tree[:at], max(-(2**63), min(2**64 - 1, old + values[0])), *tree[at + 1 :]]
        case "fill":
            old = tree[at]
            if not isinstance(old, bytes):
                return tree
            return [*tree[:at], bytes([values[0]]) * (len(old) + values[1]), *tree[at + 1 :]]
        case "bit":
            old = tree[at]
            if not isinstance(old, bytes):
                return tree
            return [*tree[:at], _flip(old, {}, values[0], values[1]), *tree[at + 1 :]]
        case "many":
            most = _LARGEST // (1 + len(msgpack.encode(tree[at])))
            return [*tree[:at], [tree[at]] * min(values[0], most), *tree[at + 1 :]]
    raise ValueError(f"expected an operation, got {name!r}")


# ---- drawing -----------------------------------------------------------------------------------------


def drawn(source: random.Random, bases: Mapping[str, bytes], paths: Sequence[Path]) -> Op:
    """One operation. paths: of what will be changed, where it is a tree."""
    if paths and source.random() < 0.65:
        path = source.choice(paths)
        match source.randrange(10):
            case 0:
                return ("delete", path)
            case 1:
                return ("twice", path)
            case 2:
                return ("swap", path, source.randrange(8))
            case 3 | 4:
                return ("add", path, source.choice((-2, -1, 1, 2, 2**32, 2**63, -(2**40))))
            case 5:
                return ("fill", path, source.choice((0, 255)), source.choice((-1, 0, 0, 0, 1, 8)))
            case 6:
                return ("bit", path, source.randrange(2**17), 1 << source.randrange(8))
            case 7 if source.random() < 0.1:
                return ("many", path, source.choice((2, 17, 300, 5000)))
        return ("put", path, _value(source))
    at = source.randrange(2**17) if source.random() < 0.7 else source.randrange(24)
    match source.randrange(9):
        case 0 | 1 | 2:
            return ("flip", at, source.randrange(1, 256))
        case 3:
            return ("cut", at)
        case 4:
            return ("remove", at, source.randint(1, 8))
        case 5:
            return ("insert", at, source.choice(_HEADS) if source.random() < 0.5 else source.randbytes(4))
        case 6:
            return ("over", at, source.choice(_HEADS) + source.randbytes(source.randrange(5)))
        case 7:
            return ("splice", at, source.choice(tuple(bases)), source.randrange(2**12))
    if source.random() < 0.2:
        return ("nested", source.choice((3, 100, 3000)))
    return ("raw", source.randbytes(source.choice((0, 1, 2, 8, 33, 64, 100))))


# Headers of msgpack: integers in longer forms than they need, and lengths that nothing follows.
_HEADS = (
    *(bytes([one]) for one in (0x80, 0x8F, 0x90, 0x9F, 0xC0, 0xC1, 0xC2, 0xC3)),
    *(
        bytes([kind]) + bytes(size - 1) + b"\x01"
        for kind, size in ((0xCC, 1), (0xCD, 2), (0xCE, 4), (0xCF, 8))
    ),
    *(
        bytes([kind]) + b"\xff" * size
        for kind, size in ((0xD0, 1), (0xD1, 2), (0xD3, 8), (0xC9, 5), (0xC7, 2))
    ),
    *(
        bytes([kind]) + b"\xff" * size
        for kind, size in ((0xDA, 2), (0xDB, 4), (0xDC, 2), (0xDD, 4), (0xDE, 2))
    ),
    *(
        bytes([kind]) + b"\xff" * size
        for kind, size in ((0xC6, 4), (0xDF, 4), (0xC4, 1), (0xC5, 2), (0xCB, 8))
    ),
    b"\xc4\x03",
    b"\xd9\x01",
    b"\xdc\x00\x01",
    b"\xdd\x00\x00\x00\x01",
    b"\xd4\xff\x00",
    b"\xcb\x7f\xf8" + bytes(6),
)


def _value(source: random.Random) -> Any:
    match source.randrange(4):
        case 0 | 1:
            return source.choice(INTEGERS if source.random() < 0.8 else NEGATIVE)
        case 2:
            return source.choice((0, 255)).to_bytes() * source.choice(SIZES)
    return source.choice(OTHERS)


def paths_in(tree: Any, most: int = 400) -> list[Path]:
    """The paths to all parts of a message but itself; of long lists, of the first few and the last."""
    found: list[Path] = []
    todo: list[tuple[Any, Path]] = [(tree, ())]
    while todo and len(found) < most:
        node, path = todo.pop(0)
        if not isinstance(node, list):
            continue
        for at in (*range(min(len(node), 12)), *([len(node) - 1] if len(node) > 12 else [])):
            found.append((*path, at))
            todo.append((node[at], (*path, at)))
    return found
