"""What the protocol refuses, and whose doing it was."""

from collections.abc import Mapping

from secure_afl.crypto.errors import SecureAflError

_FAULTS_SHOWN = 5  # in a text; `RoundAbortedError.blame` has them all


class ProtocolError(SecureAflError):
    """The root of everything that a state machine of ours refuses."""


class LocalProtocolError(ProtocolError):
    """The program that holds our object called it in a way that the protocol does not allow."""


class RemoteProtocolError(ProtocolError):
    """Another party sent what the protocol does not allow. Nothing changed in our state."""

    def __init__(self, who: str, sender: str, text: str) -> None:
        self.who = who
        self.sender = sender
        super().__init__(f"{who} refused a message from {sender}: {text}")


def check_size(who: str, data: bytes, largest: int) -> None:
    """Raises `RemoteProtocolError` for a longer message than any honest one, before it is even hashed."""
    if len(data) > largest:
        raise RemoteProtocolError(who, "the server", f"expected at most {largest} bytes, got {len(data)}")


class FileError(ProtocolError):
    """A file is not there, not safe to read, or does not say what it should; the text begins with its path."""


class PolicyError(ProtocolError):
    """What was asked for is less than our own policy allows."""


class AuditError(ProtocolError):
    """A party's own audit log cannot be read, continued or written; nothing leaves without it."""


class RoundAbortedError(ProtocolError):
    """A session or a round ended and released nothing.

    blame: for each party found at fault or in a quarrel, by name, what it did.
    """

    def __init__(self, text: str, blame: Mapping[str, str]) -> None:
        self.blame = dict(blame)
        faults = [f"{name}: {fault}" for name, fault in self.blame.items()]
        if len(faults) > _FAULTS_SHOWN:
            faults[_FAULTS_SHOWN:] = [f"and {len(faults) - _FAULTS_SHOWN} more"]
        super().__init__("; ".join([f"nothing was released: {text}", *faults]))
