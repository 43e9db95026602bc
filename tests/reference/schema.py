"""What fields of messages may hold, and how a message is read (docs/protocol.md §3.1, §5)."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from reference.messagepack import unpack
from reference.refused import need

Kind = Callable[[Any], Any]
"""Takes a field's value; gives it as it is meant, or raises `Refused`."""
Fields = dict[str, Any]


def natural(value: Any) -> int:
    need(type(value) is int and value >= 0, "an integer from 0")
    return int(value)


def integer(value: Any) -> int:
    need(type(value) is int, "an integer")
    return int(value)


def text(value: Any) -> str:
    need(isinstance(value, str), "a string")
    return str(value)


def name(value: Any) -> str:
    """1 to 64 printable code points."""
    need(0 < len(text(value)) <= 64 and text(value).isprintable(), "1 to 64 printable code points")
    return text(value)


def one_of(*words: str) -> Kind:
    def kind(value: Any) -> str:
        need(text(value) in words, " or ".join(words))
        return text(value)

    return kind


def data(*lengths: int) -> Kind:
    """Bytes; of one of these lengths, if any is given."""

    def kind(value: Any) -> bytes:
        need(isinstance(value, bytes), "bytes")
        need(not lengths or len(value) in lengths, f"bytes of length {lengths}")
        return bytes(value)

    return kind


def many(entry: Kind) -> Kind:
    def kind(value: Any) -> list[Any]:
        need(isinstance(value, list), "an array")
        return [entry(each) for each in value]

    return kind


def tuple_of(*entries: Kind) -> Kind:
    def kind(value: Any) -> list[Any]:
        need(isinstance(value, list) and len(value) == len(entries), f"an array of {len(entries)}")
        return [entry(each) for entry, each in zip(entries, value, strict=True)]

    return kind


def increasing(kind: Kind, key: Callable[[Any], int] = lambda entry: int(entry)) -> Kind:
    """A list whose entries, or their keys, strictly increase from 0 on."""

    def checked(value: Any) -> list[Any]:
        entries: list[Any] = many(kind)(value)
        keys = [key(entry) for entry in entries]
        need(all(a < b for a, b in pairwise([-1, *keys])), "an increasing list")
        return entries

    return checked


def by_place(kind: Kind) -> Kind:
    """Pairs of a place and something, increasing by place."""
    return increasing(tuple_of(natural, kind), key=lambda pair: int(pair[0]))


def message(tag: str, fields: dict[str, Kind], check: Callable[[Fields], None] | None = None) -> Kind:
    """An array of the tag and the fields. check: what several fields must meet together."""

    def kind(value: Any) -> Fields:
        need(isinstance(value, list) and len(value) == 1 + len(fields), f"{len(fields)} fields")
        need(value[0] == tag, tag)
        read = {which: entry(each) for (which, entry), each in zip(fields.items(), value[1:], strict=True)}
        if check:
            check(read)
        return {"message": tag, **read}

    return kind


def read(encoded: bytes, kinds: dict[str, Kind]) -> Fields:
    """The message in these bytes, which must be one of the kinds."""
    value = unpack(encoded)
    need(isinstance(value, list) and bool(value) and isinstance(value[0], str), "an array with a tag")
    need(value[0] in kinds, " or ".join(kinds))
    fields: Fields = kinds[value[0]](value)
    return fields
