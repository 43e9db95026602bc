"""How vectors write values in JSON.

Integers are JSON numbers, exact, up to 64 bits and more. Bytes are hexadecimal. Doubles are hexadecimal floats
("0x1.8p+1", "inf", "nan"). A long result is written as its SHA-256 and its length in bytes.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

LONGEST = 256


def shown(value: Any) -> Any:
    """A result as the vectors write it."""
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        if len(data) > LONGEST:
            return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        return data.hex()
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, list | tuple):
        return [shown(each) for each in value]
    if isinstance(value, dict):
        return {name: shown(each) for name, each in value.items()}
    return value


def shown_words(words: Iterable[int]) -> Any:
    """Words below 2⁶⁴: a short list as it is, a long one as the hash of 8 bytes each, little endian."""
    listed = [int(word) for word in words]
    if len(listed) > 64:
        return shown(b"".join(word.to_bytes(8, "little") for word in listed))
    return listed
