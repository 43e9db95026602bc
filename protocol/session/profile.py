"""Which server the clients of a session defend against."""

from enum import StrEnum


class Profile(StrEnum):
    """SEMI_HONEST: the server follows the protocol and keeps what it sees. ACTIVE: it may also lie, so survivors agree
    on the survivor set among themselves before they unmask.
    """

    SEMI_HONEST = "semi-honest"
    ACTIVE = "active"
