"""One log by itself: its lines, their signatures and the chain that they make."""

from dataclasses import dataclass

from secure_afl.crypto.errors import CryptoError
from secure_afl.protocol.audit.events import Begun, Entry, check_signature, line_digest, parse
from secure_afl.protocol.session.wire import WireError


@dataclass(frozen=True)
class Chain:
    """begun: what line 1 says, None where it is damaged; nothing below can be checked then.

    entries: one for each line; last: the digest of the last line; torn: bytes after it, without a newline;
    faults: for each line that does not hold, what is wrong. A line is judged by the last sound one above it,
    so that an altered line does not take those below with it.
    """

    begun: Begun | None
    entries: tuple[Entry, ...]
    last: bytes
    torn: int
    faults: tuple[tuple[int, str], ...]


def read(data: bytes) -> Chain:
    """Check a whole file."""
    *lines, rest = data.split(b"\n")
    begun: Begun | None = None
    entries: list[Entry] = []
    faults: list[tuple[int, str]] = []
    sound, number, previous = 0, 0, b""  # the last sound line, and what the one after it must say
    for at, line in enumerate(lines, 1):
        try:
            entry = parse(line)
            if at == 1:
                if not isinstance(entry.event, Begun):
                    raise WireError(f"expected a log's first entry, got entry {entry.number}")
                check_signature(entry, entry.event.key)
                begun = entry.event
            elif isinstance(entry.event, Begun):
                raise WireError("expected the log to begin once, on line 1")
            assert begun is not None
            check_signature(entry, begun.key)
        except CryptoError:
            faults.append((at, "the signature does not fit what the entry says"))
        except WireError as error:
            faults.append((at, str(error)))
        else:
            due = number + at - sound
            if entry.number != due:
                faults.append(
                    (
                        at,
                        f"expected entry {due}, got entry {entry.number}: lines were removed, moved or added",
                    )
                )
            elif at == sound + 1 and entry.previous != previous:
                faults.append((at, "it does not follow on the line above: that one was replaced"))
            entries.append(entry)
            sound, number, previous = at, entry.number, line_digest(line)
        if begun is None:
            break
    if not lines:
        faults.append((1, "expected a log's first entry, got an unfinished line"))
    return Chain(begun, tuple(entries), previous, len(rest), tuple(faults))
