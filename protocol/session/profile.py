"""The kind of server against which a session protects its clients, and whether they check what it opens."""

from enum import StrEnum


class Profile(StrEnum):
    """SEMI_HONEST: the server follows the protocol and keeps what it sees. ACTIVE: it may also lie, so the survivors
    first sign the survivor set and only then unmask.
    """

    SEMI_HONEST = "semi-honest"
    ACTIVE = "active"


class Verify(StrEnum):
    """Whether clients check the sums that the server opens (docs/verified-sums.md).

    TAGS: each client gets the opened sum with a tag; this holds against a server that lies without the help of a client.
    REPLAY: each client gets all uploads and adds them up itself; this holds against a server that clients help, too.
    NONE: clients get nothing, and take on trust what the server says of a sum.
    """

    TAGS = "tags"
    REPLAY = "replay"
    NONE = "none"


class Trust(StrEnum):
    """What a client believes of the server's reports about earlier sums, where a later vector depends on them. NONE: nothing.
    VERIFIED: what follows from sums that it verified itself; this holds against a server that lies, as long as no client of
    the session helps it. ANY: whatever the server says.
    """

    NONE = "none"
    VERIFIED = "verified"
    ANY = "any"


Mode = tuple[Profile, Verify]
"""What decides which messages a session of masked sums has."""
MODES: tuple[Mode, ...] = (
    (Profile.ACTIVE, Verify.TAGS),
    (Profile.ACTIVE, Verify.REPLAY),
    (Profile.ACTIVE, Verify.NONE),
    (Profile.SEMI_HONEST, Verify.NONE),
)
"""All that there are: clients that do not defend against lies do not look for them, and both checks need a complete graph."""
