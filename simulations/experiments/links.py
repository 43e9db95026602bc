"""The network between clients and server as experiments assume it, since they run in one process."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """One client's line to the server; the server's own is taken to be as wide as all of them together.

    megabits: a second, each way. latency: seconds one way.
    """

    megabits: float = 100.0
    latency: float = 0.025

    def seconds(self, bytes_up: float, bytes_down: float, round_trips: int) -> float:
        """One after another: nothing is sent while something else is."""
        return 8e-6 * (bytes_up + bytes_down) / self.megabits + 2 * self.latency * round_trips
