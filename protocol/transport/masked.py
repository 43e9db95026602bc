"""A whole session of masked sums, with clients in this process or remote."""

from collections.abc import Callable, Collection, Mapping

from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.masking.server import MaskingServer
from secure_afl.protocol.masking.states import ServerState
from secure_afl.protocol.session.party import Contributor
from secure_afl.protocol.session.profile import Verify
from secure_afl.protocol.session.server import OpenedSum, SumServer
from secure_afl.protocol.transport.driver import (
    Carry,
    Contribute,
    Exchange,
    Local,
    Network,
    Remote,
    nothing_wanted,
)


class Cohort(Exchange):
    """Runs one session. recorded: the same parties behind their audit logs or journals; carry: reaches remote clients."""

    def __init__(
        self,
        server: MaskingServer,
        clients: Mapping[int, MaskingClient],
        network: Network | None = None,
        watch: Callable[[str], None] = lambda phase: None,
        *,
        recorded: tuple[SumServer, Mapping[int, Contributor]] | None = None,
        carry: Carry | None = None,
    ) -> None:
        steps, reached = recorded or (server, clients)
        super().__init__(steps, Remote(carry) if carry else Local(reached, {}, network), watch)
        self.server, self.clients = server, clients

    def set_up(self) -> None:
        """Exchange keys and shares for all rounds. Raises `RoundAbortedError` if too few clients are left."""
        self.run(self.steps.start, nothing_wanted)
        self.run(self.steps.advance, nothing_wanted)
        self.run(self.steps.advance, nothing_wanted)
        self.timed(self.steps.advance)

    def sum(self, number: int, contribute: Contribute, among: Collection[int] | None = None) -> OpenedSum:
        """The sum of round `number`; `contribute` returns a client's vector when the server requests it.

        among: the clients to ask; None: all.

        Raises `RoundAbortedError` if the sum cannot be opened; the next round may still succeed.
        """
        self.collect(number, contribute, among)
        return self.open()

    def collect(self, number: int, contribute: Contribute, among: Collection[int] | None = None) -> None:
        """Collect the uploads of round `number`."""
        self._contribute = contribute
        self.run(lambda: self.steps.open_round(number, among), contribute)

    def open(self) -> OpenedSum:
        """Open the sum of the collected uploads, and have clients check it, where they do."""
        while self.server.state is not ServerState.UNMASKING:
            # A late upload is received, and refused.
            self.run(self.steps.advance, self._contribute)
        opened = self.timed(self.steps.result)
        if self.server.parameters.verify is not Verify.NONE:
            self.run(self.steps.advance, self._contribute)
            self.timed(self.steps.advance)
        return opened
