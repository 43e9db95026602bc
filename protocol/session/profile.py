"""The kind of server against which a session protects its clients."""

from enum import StrEnum


class Profile(StrEnum):
    """SEMI_HONEST: the server follows the protocol and keeps what it sees. ACTIVE: it may also lie, so the survivors
    first sign the survivor set and only then unmask.
    """

    SEMI_HONEST = "semi-honest"
    ACTIVE = "active"
