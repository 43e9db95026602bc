"""The subset of MessagePack that messages use, in its shortest forms (docs/protocol.md §3.1)."""

from typing import Any

from reference.refused import Refused, need

DEEPEST = 8  # no message nests deeper

# First byte of a form: how many bytes of a big-endian number follow.
UNSIGNED = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
SIGNED = {0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
STRING = {0xD9: 1, 0xDA: 2, 0xDB: 4}
ARRAY = {0xDC: 2, 0xDD: 4}


def pack(value: Any) -> bytes:
    """The one encoding of an integer, bytes, a string, or a list of these."""
    if type(value) is int and value < 0:
        if value >= -32:
            return bytes([256 + value])
        first, size = next((f, s) for f, s in SIGNED.items() if value >= -(2 ** (8 * s - 1)))
        return bytes([first]) + value.to_bytes(size, "big", signed=True)
    if type(value) is int:
        return head(0x00, 128, UNSIGNED, value)
    if isinstance(value, bytes):
        return head(0x00, 0, BYTES, len(value)) + value
    if isinstance(value, str):
        return head(0xA0, 32, STRING, len(value.encode())) + value.encode()
    assert isinstance(value, list)
    return head(0x90, 16, ARRAY, len(value)) + b"".join(map(pack, value))


def head(short: int, room: int, forms: dict[int, int], number: int) -> bytes:
    """A number, or a length, in the shortest form: in the first byte itself if it is below `room`."""
    if number < room:
        return bytes([short | number])
    first, size = next((f, s) for f, s in forms.items() if number < 256**s)
    return bytes([first]) + number.to_bytes(size, "big")


def unpack(data: bytes) -> Any:
    """The value that has this encoding. Refuses every other encoding, and what follows it."""
    value, end = read(data, 0, 0)
    need(end == len(data), "nothing behind the message")
    need(pack(value) == data, "the shortest forms")
    return value


def read(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    """The value that begins at a place, and where it ends."""
    need(depth <= DEEPEST, "a message that does not nest so deep")
    first, at = take(data, at, 1)[0], at + 1
    if first < 0x80:
        return first, at
    if first >= 0xE0:
        return first - 256, at
    for forms, signed in ((UNSIGNED, False), (SIGNED, True)):
        if first in forms:
            size = forms[first]
            return int.from_bytes(take(data, at, size), "big", signed=signed), at + size
    if 0x90 <= first < 0xA0 or first in ARRAY:
        count, at = length(data, at, first, 0x90, ARRAY)
        items = []
        for _ in range(count):
            item, at = read(data, at, depth + 1)
            items.append(item)
        return items, at
    if 0xA0 <= first < 0xC0 or first in STRING:
        count, at = length(data, at, first, 0xA0, STRING)
        try:
            return take(data, at, count).decode(), at + count
        except UnicodeDecodeError:
            raise Refused("expected a string in UTF-8") from None
    if first in BYTES:
        count, at = length(data, at, first, 0, BYTES)
        return take(data, at, count), at + count
    raise Refused("expected an integer, bytes, a string or an array")


def length(data: bytes, at: int, first: int, short: int, forms: dict[int, int]) -> tuple[int, int]:
    """The length that a first byte announces, and where the content begins."""
    if first not in forms:
        return first - short, at
    size = forms[first]
    return int.from_bytes(take(data, at, size), "big"), at + size


def take(data: bytes, at: int, size: int) -> bytes:
    """So many bytes from a place on."""
    need(at + size <= len(data), "more bytes")
    return data[at : at + size]
