"""The roster: the members' names and pinned identity keys, the same list at every party.

The roster comes from outside the protocol (a file that the members agreed on), never from the server. The server can
leave members out of a session; it cannot add a member or replace a key.
"""

from dataclasses import dataclass
from functools import cached_property

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.identity import public_key
from secure_afl.crypto.kdf import Label, digest
from secure_afl.protocol.session.errors import LocalProtocolError

LONGEST_NAME = 64  # characters


@dataclass(frozen=True)
class Member:
    """A party: its name and its Ed25519 public key (32 bytes).

    Raises `LocalProtocolError` for an unprintable, empty or too long name, and for an invalid key or one of small order.
    """

    name: str
    verify_key: bytes

    def __post_init__(self) -> None:
        if not (0 < len(self.name) <= LONGEST_NAME and self.name.isprintable()):
            raise LocalProtocolError(
                f"expected a printable name of 1 to {LONGEST_NAME} characters, got {self.name!r}"
            )
        try:
            public_key(self.verify_key)
        except CryptoError as error:
            raise LocalProtocolError(f"{self.name}: {error}") from None


@dataclass(frozen=True)
class Roster:
    """All members in the order that every party shares. Messages name a member by its index in this order."""

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
        """32 bytes that are equal for two parties only if their rosters are equal."""
        parts = [part for member in self.members for part in (member.name.encode(), member.verify_key)]
        return digest(Label.ROSTER, *parts)

    def index(self, verify_key: bytes) -> int:
        """The index of the member with this key. Raises `LocalProtocolError` for an unknown key."""
        for index, member in enumerate(self.members):
            if member.verify_key == verify_key:
                return index
        raise LocalProtocolError(
            f"the identity {verify_key.hex()[:16]}… is unknown: expected the key of one of the roster's {len(self.members)} members"
        )

    @property
    def fingerprint(self) -> str:
        """The whole digest, for people to compare: sixteen groups of four hexadecimal digits."""
        return grouped(self.digest)

    @property
    def short_fingerprint(self) -> str:
        """Its first four groups: enough to tell versions apart, too few to detect a forgery."""
        return grouped(self.digest[:8])

    def name(self, index: int) -> str:
        """A member's name for messages; an index outside the roster is shown as a number."""
        return self.members[index].name if 0 <= index < len(self.members) else f"unknown member {index}"


def grouped(value: bytes) -> str:
    """Hexadecimal digits in groups of four."""
    return value.hex(" ", 2)
