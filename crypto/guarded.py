"""Objects that hold secrets: they cannot be pickled or copied, and printing them shows no secret."""

from typing import Any, NoReturn

from secure_afl.crypto.errors import CryptoError


class Guarded:
    """Base class of objects that hold secrets. Only a party's own store takes the secrets, through `memory` or `kept`.

    A copy would be a second party with the same keys: it could mask another vector under one of them.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []  # rich would print every field of a msgspec struct, in tracebacks too

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise CryptoError(f"{type(self).__name__} holds secrets: it cannot be pickled or copied")

    def __copy__(self) -> NoReturn:
        self.__reduce_ex__(2)

    def __deepcopy__(self, memo: object) -> NoReturn:
        self.__reduce_ex__(2)
