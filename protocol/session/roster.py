"""Who is known: names and pinned identity keys, the same list at every party.

The roster comes from outside the protocol (a file that the members agreed on), never from the server:
the server can leave members out, it cannot add one or replace a key.
"""

from dataclasses import dataclass
from functools import cached_property

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.identity import public_key
from secure_afl.crypto.kdf import Label, digest
from secure_afl.protocol.session.errors import LocalProtocolError

LONGEST_NAME = 64  # letters


@dataclass(frozen=True)
class Member:
    """A party by name and by the Ed25519 key that it signs with (32 bytes).

    Raises `LocalProtocolError` for a key under which nobody, or everybody, could sign.
    """

    name: str
    verify_key: bytes

    def __post_init__(self) -> None:
        if not (0 < len(self.name) <= LONGEST_NAME and self.name.isprintable()):
            raise LocalProtocolError(
                f"expected a printable name of 1 to {LONGEST_NAME} letters, got {self.name!r}"
            )
        try:
            public_key(self.verify_key)
        except CryptoError as error:
            raise LocalProtocolError(f"{self.name}: {error}") from None


@dataclass(frozen=True)
class Roster:
    """All members, in an order that every party shares; a member's place is its number in messages."""

    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", tuple(self.members))
        if not self.members:
            raise LocalProtocolError("expected at least one member in a roster")
        for what, values in (
            ("name", [member.name for member in self.members]),
            ("identity key", [member.verify_key.hex() for member in self.members]),
        ):
            seen: set[str] = set()
            for value in values:
                if value in seen:
                    raise LocalProtocolError(
                        f"the {what} {value[:LONGEST_NAME]} is registered twice in the roster"
                    )
                seen.add(value)

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that two parties share only if they hold the same roster."""
        parts = [part for member in self.members for part in (member.name.encode(), member.verify_key)]
        return digest(Label.ROSTER, *parts)

    def place(self, verify_key: bytes) -> int:
        """The number of the member with this key; `LocalProtocolError` if it is unknown."""
        for place, member in enumerate(self.members):
            if member.verify_key == verify_key:
                return place
        raise LocalProtocolError(
            f"the identity {verify_key.hex()[:16]}… is unknown: the roster has {len(self.members)} other members"
        )

    @property
    def fingerprint(self) -> str:
        """The whole digest as people read it to each other: sixteen groups of four hexadecimal digits."""
        return grouped(self.digest)

    @property
    def short_fingerprint(self) -> str:
        """Its first four groups: enough to tell versions apart, too few to find out a forger."""
        return grouped(self.digest[:8])

    def name(self, place: int) -> str:
        """How a member is called in texts; a number outside the roster is called by its number."""
        return self.members[place].name if 0 <= place < len(self.members) else f"unknown member {place}"


def grouped(value: bytes) -> str:
    """Hexadecimal digits in groups of four."""
    return value.hex(" ", 2)
