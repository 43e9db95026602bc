"""Check one log, or one file of it: its lines, their signatures and their chain."""

from dataclasses import dataclass

from secure_afl.crypto.errors import CryptoError
from secure_afl.protocol.audit.events import Begun, Entry, check_signature, line_digest, parse
from secure_afl.protocol.session.wire import WireError


@dataclass(frozen=True)
class Chain:
    """A checked log.

    begun: the event of line 1, of which a log in several files has one in each; None if that is damaged, and then nothing below can be checked.

    entries: one for each line; last: the digest of the last line; torn: bytes after it, without a newline;
    faults: what is wrong with each invalid line. A line is checked against the last valid line above it, so an altered
    line does not invalidate the lines below.
    """

    begun: Begun | None
    entries: tuple[Entry, ...]
    last: bytes
    torn: int
    faults: tuple[tuple[int, str], ...]


def read(data: bytes) -> Chain:
    """Check a whole file, or several that continue each other."""
    *lines, rest = data.split(b"\n")
    begun: Begun | None = None
    entries: list[Entry] = []
    faults: list[tuple[int, str]] = []
    part = 0
    sound, number, previous = 0, 0, b""  # the last valid line; its number and digest must stand in the next
    for at, line in enumerate(lines, 1):
        try:
            entry = parse(line)
            if at == 1:
                if not isinstance(entry.event, Begun):
                    raise WireError(f"expected a log's first entry, got entry {entry.number}")
                check_signature(entry, entry.event.key)
                begun = entry.event
                part = begun.part
                if part:  # what comes before is in other files
                    number, previous = entry.number - 1, entry.previous
            elif isinstance(entry.event, Begun):
                if begun is None or entry.event.whose != begun.whose or entry.event.part != part + 1:
                    raise WireError("expected the log to begin once, on line 1")
                part += 1
            assert begun is not None
            check_signature(entry, begun.key)
        except CryptoError:
            faults.append((at, "the signature does not fit the entry"))
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
                faults.append((at, "it does not continue the line above: that line was replaced"))
            entries.append(entry)
            sound, number, previous = at, entry.number, line_digest(line)
        if begun is None:
            break
    if not lines:
        faults.append((1, "expected a log's first entry, got an unfinished line"))
    return Chain(begun, tuple(entries), previous, len(rest), tuple(faults))
