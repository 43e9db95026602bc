"""Errors of the protocol, sorted by who caused them."""

from collections.abc import Mapping

from secure_afl.crypto.errors import SecureAflError

_FAULTS_SHOWN = 5  # shown in a message; `RoundAbortedError.blame` has all


def visible(text: str, kept: str = "") -> str:
    """Somebody else's text for a terminal or a log: what moves the cursor, begins a line or turns the direction of writing
    stands there as its number, such as \\x1b. kept: characters that stay as they are.
    """
    return "".join(
        one if one.isprintable() or one in kept else one.encode("unicode_escape").decode() for one in text
    )


class ProtocolError(SecureAflError):
    """Base class of everything that our state machines refuse."""


class LocalProtocolError(ProtocolError):
    """The calling program used an object in a way that the protocol does not allow."""


class RemoteProtocolError(ProtocolError):
    """Another party sent something that the protocol does not allow. Our state did not change."""

    def __init__(self, who: str, sender: str, text: str) -> None:
        self.who = who
        self.sender = sender
        super().__init__(f"{who} refused a message from {sender}: {text}")


def check_size(who: str, data: bytes, largest: int) -> None:
    """Check the size before hashing. Raises `RemoteProtocolError` for a message longer than any honest one."""
    if len(data) > largest:
        raise RemoteProtocolError(who, "the server", f"expected at most {largest} bytes, got {len(data)}")


class FileError(ProtocolError):
    """A file is missing, unsafe to read, or has invalid content; the message begins with its path."""


class PolicyError(ProtocolError):
    """A request falls below what our own policy allows."""


class AuditError(ProtocolError):
    """A party's own audit log cannot be read, continued or written; without it the party sends nothing."""


class RoundAbortedError(ProtocolError):
    """A session or a round ended without releasing a sum.

    blame: what each party did that is at fault or in a dispute, by name.
    """

    def __init__(self, text: str, blame: Mapping[str, str]) -> None:
        self.blame = dict(blame)
        faults = [f"{name}: {fault}" for name, fault in self.blame.items()]
        if len(faults) > _FAULTS_SHOWN:
            faults[_FAULTS_SHOWN:] = [f"and {len(faults) - _FAULTS_SHOWN} more"]
        super().__init__("; ".join([f"nothing was released: {text}", *faults]))
