"""A whole session of encrypted sums, with parties in this process or remote."""

from collections.abc import Callable, Collection, Mapping

from secure_afl.protocol.homomorphic.client import HomomorphicClient
from secure_afl.protocol.homomorphic.holder import KeyHolder
from secure_afl.protocol.homomorphic.server import HomomorphicServer
from secure_afl.protocol.homomorphic.states import ServerState
from secure_afl.protocol.session.errors import RoundAbortedError
from secure_afl.protocol.session.party import Contributor, Party
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
from secure_afl.protocol.transport.masked import Cohort

Recorded = tuple[SumServer, Mapping[int, Contributor], Mapping[int, Party]]


class EncryptedCohort(Exchange):
    """Runs one session. Parties are indexed: clients first, then key holders.

    recorded: the same parties behind their audit logs or journals; carry: reaches remote parties.
    """

    def __init__(
        self,
        server: HomomorphicServer,
        clients: Mapping[int, HomomorphicClient],
        holders: Mapping[int, KeyHolder],
        network: Network | None = None,
        watch: Callable[[str], None] = lambda phase: None,
        *,
        recorded: Recorded | None = None,
        carry: Carry | None = None,
    ) -> None:
        steps, reached, key_holders = recorded or (server, clients, holders)
        members = len(server.roster.members)
        indices = range(members, members + len(server.holders.members))
        link = Remote(carry) if carry else Local(reached, key_holders, network)
        super().__init__(steps, link, watch, indices)
        self.server, self.clients, self.holders = server, clients, holders

    def set_up(self) -> None:
        """Make the encryption key. Raises `RoundAbortedError` if a key holder is missing or too few clients join."""
        self.run(self.steps.start, nothing_wanted)
        while self.server.state is not ServerState.INVITING:
            self.run(self.steps.advance, nothing_wanted)
        self.timed(self.steps.advance)

    def sum(self, number: int, contribute: Contribute, among: Collection[int] | None = None) -> OpenedSum:
        """The sum of round `number`, or what key holders release instead; see `Cohort.sum`."""
        self.run(lambda: self.steps.open_round(number, among), contribute)
        while self.server.state is not ServerState.OPENING:
            self.run(self.steps.advance, contribute)
        self.timed(self.steps.advance)
        return self.timed(self.steps.result)


def layered_sum(
    masks: Cohort,
    encrypted: EncryptedCohort,
    number: int,
    contribute: Contribute,
    among: Collection[int] | None = None,
) -> OpenedSum:
    """The sum of round `number` with masked vectors that travel encrypted.

    Clients mask and encrypt, key holders open the masked sum, and clients help to remove its masks. No party but the
    client itself ever sees a client's unmasked vector.
    """
    masks.collect(number, contribute, among)
    try:
        opened = encrypted.sum(number, nothing_wanted, masks.server.uploaded)
    except RoundAbortedError:
        masks.steps.give_up_round()
        raise
    masks.timed(lambda: masks.steps.take_total(opened.values, opened.survivors))
    return masks.open()
