"""Networks that misbehave, for simulations and tests: they drop, delay, repeat, shuffle or alter messages."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from secure_afl.protocol.transport.driver import Packet

Change = Callable[[bytes, random.Random], bytes]


def flip_bit(data: bytes, source: random.Random) -> bytes:
    """One bit altered, anywhere."""
    at = source.randrange(8 * len(data))
    return data[: at // 8] + bytes([data[at // 8] ^ 1 << at % 8]) + data[at // 8 + 1 :]


def cut(data: bytes, source: random.Random) -> bytes:
    """Cut short at any place."""
    return data[: source.randrange(len(data))]


def lengthen(data: bytes, source: random.Random) -> bytes:
    """A few bytes more at the end."""
    return data + source.randbytes(source.randint(1, 8))


CHANGES: dict[str, Change] = {"flip": flip_bit, "cut": cut, "lengthen": lengthen}
HANDLING = ("drop", "late", "shuffle", "repeat", *CHANGES)


@dataclass(frozen=True)
class Fault:
    """A fault that affects some messages.

    Parameters
    ----------
    handling : str or callable
        "drop"; "late" (after the phase's deadline); "shuffle" (before it, out of order); "repeat"; one of `CHANGES`; or a
        function of the bytes.
    phase : str, optional
        A server state's name ("advertising", "sharing", "confirming", "collecting", "consenting", "unmasking"); None for
        all.
    clients : frozenset of int, optional
        Whose messages; None for all.
    upward : bool, optional
        True from client to server, False the other way, None for both.
    """

    handling: str | Callable[[bytes], bytes]
    phase: str | None = None
    clients: frozenset[int] | None = None
    upward: bool | None = True

    def __post_init__(self) -> None:
        if isinstance(self.handling, str) and self.handling not in HANDLING:
            raise ValueError(f"expected a handling from {', '.join(HANDLING)}, got {self.handling!r}")

    def meets(self, packet: Packet) -> bool:
        return (
            self.phase in (None, packet.phase)
            and (self.clients is None or packet.client in self.clients)
            and self.upward in (None, packet.upward)
        )


class FaultyNetwork:
    """Apply the first fault that matches a message.

    Parameters
    ----------
    faults : sequence of Fault
    seed : int, default=0
        Makes a run repeatable; no secret depends on it.
    """

    def __init__(self, faults: Sequence[Fault], seed: int = 0) -> None:
        self._faults = faults
        self._random = random.Random(seed)
        self._shuffled: list[Packet] = []
        self._late: list[Packet] = []

    def carry(self, packet: Packet) -> Iterable[Packet]:
        fault = next((fault for fault in self._faults if fault.meets(packet)), None)
        match fault.handling if fault else None:
            case None:
                return [packet]
            case "drop":
                return []
            case "late":
                self._late.append(packet)
                return []
            case "shuffle":
                self._shuffled.append(packet)
                return []
            case "repeat":
                return [packet, packet]
            case str() as change:
                return [replace(packet, data=CHANGES[change](packet.data, self._random))]
            case function:
                return [replace(packet, data=function(packet.data))]

    def flush(self, phase: str) -> Iterable[Packet]:
        # What is late for one phase comes in the middle of the next.
        late = [packet for packet in self._late if packet.phase != phase]
        self._late = [packet for packet in self._late if packet.phase == phase]
        due = self._shuffled + late
        self._shuffled = []
        self._random.shuffle(due)
        return due


def dropouts(clients: int, fraction: float, seed: int) -> frozenset[int]:
    """A seeded draw of the clients that drop out.

    Parameters
    ----------
    clients : int
        Number of clients; they are numbered from 0.
    fraction : float
        Share of them that drops out; the number is rounded.
    seed : int

    Returns
    -------
    frozenset of int
    """
    return frozenset(random.Random(seed).sample(range(clients), round(fraction * clients)))
