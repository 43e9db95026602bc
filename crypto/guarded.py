"""Objects with secrets in them: not pickled, not copied, and nothing of them in what is printed."""

from typing import Any, NoReturn

from secure_afl.crypto.errors import CryptoError


class Guarded:
    """The root of what holds secrets. Only a party's own store takes them, by `memory` or `kept`, and locks them.

    A copy would be a second party with the same keys: it could mask another vector under one of them.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []  # of a msgspec struct, rich would print every field, in tracebacks too

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise CryptoError(f"{type(self).__name__} holds secrets: it is not pickled and not copied")

    def __copy__(self) -> NoReturn:
        self.__reduce_ex__(2)

    def __deepcopy__(self, memo: object) -> NoReturn:
        self.__reduce_ex__(2)
