"""The assumed network between clients and server, as experiments run in one process."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """One client's line to the server; the server's own is taken to be as wide as all of them together.

    megabits: a second, each way. latency: seconds one way.
    """

    megabits: float = 100.0
    latency: float = 0.025

    def __str__(self) -> str:
        return f"network of {self.megabits:g} Mbit/s and {1e3 * self.latency:g} ms one way"

    def seconds(self, bytes_up: float, bytes_down: float, round_trips: int) -> float:
        """One after another: nothing is sent while something else is."""
        return 8e-6 * (bytes_up + bytes_down) / self.megabits + 2 * self.latency * round_trips
