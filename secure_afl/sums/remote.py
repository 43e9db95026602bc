"""Aggregators with remote clients and key holders: the same sessions over a transport.

Remote clients make their contributions themselves, so `sum` and `solve` ignore the given mappings.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from msgspec.msgpack import Decoder

from secure_afl.crypto.kdf import KEY_BYTES
from secure_afl.protocol.audit.events import Agreed, Sent, frame
from secure_afl.protocol.audit.log import AuditLog
from secure_afl.protocol.audit.record import RecordedServer
from secure_afl.protocol.durable.journal import ResumedServer
from secure_afl.protocol.durable.store import Kept, Store, StoreError
from secure_afl.protocol.files.roster import Parties
from secure_afl.protocol.homomorphic.agreement import AGREEMENT, Agreement, Encryption
from secure_afl.protocol.homomorphic.server import HomomorphicServer
from secure_afl.protocol.masking.server import MaskingServer
from secure_afl.protocol.session.errors import LocalProtocolError
from secure_afl.protocol.session.parameters import PARAMETERS, Parameters, SumPlan
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.roster import Roster
from secure_afl.protocol.session.server import SumServer
from secure_afl.protocol.session.wire import decode, encode
from secure_afl.protocol.transport.driver import Carry, Contribute, Contribution, nothing_wanted
from secure_afl.protocol.transport.encrypted import EncryptedCohort
from secure_afl.protocol.transport.masked import Cohort
from secure_afl.protocol.transport.post import Channel, Learned
from secure_afl.sums.aggregation import MaskedSums, Rounds, SessionSettings, proposed
from secure_afl.sums.encrypted import EncryptedSums

T = TypeVar("T", Parameters, Agreement)
_SESSIONS = (Channel.MASKED, Channel.ENCRYPTED)


@dataclass(frozen=True)
class Elsewhere:
    """How to reach remote parties. carrier: makes what carries the messages of a session, by its number; log: the server's audit log.

    store: the server's, for one session. If it holds an open session, that session continues, provided that its terms
    equal those that would be proposed now; `forget` ends it.
    """

    parties: Parties
    carrier: Callable[[Channel, bytes], Carry]
    watch: Callable[[str], None] = lambda phase: None
    log: AuditLog | None = None
    store: Store | None = None

    def terms(self, channel: Channel, decoder: Decoder[T], propose: Callable[[], T]) -> T:
        """The terms of the open session or of a new one. Raises `StoreError` if the files have changed since."""
        proposed = propose()
        if self.store is None:
            return proposed
        kept = self.store.kept(channel.value)
        if kept is None:
            self.store.keep(channel.value, Kept(encode(proposed), b"", b""))
            return proposed
        opened = decode(kept.memory, decoder)
        if msgspec.structs.replace(proposed, session=opened.session) != opened:
            raise StoreError(
                f"{self.store.path}: expected the roster, policy and study of the session that is open, these files differ: "
                "restore them, or remove the file to abandon the session"
            )
        return opened

    def rosters(self, clients: Sequence[str]) -> tuple[Roster, Roster]:
        """See `EncryptedSessions`. Raises `LocalProtocolError` if there is no key holder or the clients differ."""
        if self.parties.key_holders is None:
            raise LocalProtocolError(
                "expected a roster with key holders for encrypted sums, got one without key holders"
            )
        return self._clients(clients), self.parties.key_holders

    def masked(
        self,
        settings: SessionSettings,
        clients: Sequence[str],
        plan: Sequence[SumPlan],
        agreed: Rounds = None,
    ) -> Cohort:
        """See `MaskedSessions`."""
        roster = self._clients(clients)
        parameters = self.terms(Channel.MASKED, PARAMETERS, lambda: proposed(roster, plan, settings, agreed))
        server = MaskingServer(parameters, roster)
        steps = self.steps(Channel.MASKED, server, Agreed(parameters, roster))
        carry = self.carrier(Channel.MASKED, parameters.session)
        return Cohort(server, {}, None, settings.watch, recorded=(steps, {}), carry=carry)

    def agreed(self, propose: Callable[[], Agreement]) -> Agreement:
        """See `EncryptedSessions`."""
        return self.terms(Channel.ENCRYPTED, AGREEMENT, propose)

    def encrypted(
        self,
        settings: SessionSettings,
        server: HomomorphicServer,
        plan: Sequence[SumPlan],
        masks: Cohort | None,
    ) -> EncryptedCohort:
        """See `EncryptedSessions`."""
        agreed = Agreed(server.agreement, server.roster, server.holders)
        steps = self.steps(Channel.ENCRYPTED, server, agreed)
        carry = self.carrier(Channel.ENCRYPTED, server.agreement.session)
        return EncryptedCohort(server, {}, {}, None, settings.watch, recorded=(steps, {}, {}), carry=carry)

    def contributing(self, roster: Roster, contributions: Mapping[str, Contribution]) -> Contribute:
        """Remote clients make their contributions themselves: the given ones are ignored."""
        return nothing_wanted

    def _clients(self, names: Sequence[str]) -> Roster:
        expected = [member.name for member in self.parties.clients.members]
        if list(names) != expected:
            raise LocalProtocolError(
                f"expected a session of the {len(expected)} clients of the roster, got different clients"
            )
        return self.parties.clients

    def steps(self, channel: Channel, server: MaskingServer | HomomorphicServer, agreed: Agreed) -> SumServer:
        """The server behind its audit log and its journal, if configured."""
        noted = RecordedServer(server, self.log, agreed) if self.log else None
        if self.store:
            return ResumedServer(server, self.store, channel.value, noted)
        return noted or server

    def tell(
        self, cohort: Cohort | EncryptedCohort, terms: Parameters | Agreement, model: bytes, to: Sequence[str]
    ) -> None:
        """Send these clients the result of the session's sums so far. A client that misses it cannot join the next sum.

        Raises `StoreError` if an earlier run sent something else: clients accept one result, so to those that had the
        first the server would look like a liar.
        """
        salt = _salt(self.store, model) if self.store else secrets.token_bytes(KEY_BYTES)
        if isinstance(cohort.steps, ResumedServer) and cohort.steps.behind:
            return
        names = [member.name for member in self.parties.clients.members]
        indices = [names.index(name) for name in to]
        learned = Learned(terms.transcript(), salt, model)
        data = encode(learned)
        if self.log:
            self.log.note(Sent(learned.transcript, frame(learned, data), tuple(indices)))
        cohort.tell("telling", dict.fromkeys(indices, data), self.carrier(Channel.LEARNED, terms.session))


class RemoteMaskedAggregator(MaskedSums):
    """Masked sums over remote clients. policy: the minimum for the server's own proposals; clients have their own policies."""

    def __init__(self, elsewhere: Elsewhere, policy: Policy) -> None:
        super().__init__(SessionSettings(policy, watch=elsewhere.watch), elsewhere)
        self._elsewhere = elsewhere

    def tell(self, model: bytes, to: Sequence[str]) -> None:
        """See `Elsewhere.tell`."""
        self._elsewhere.tell(self.cohort, self.cohort.server.parameters, model, to)


class RemoteEncryptedAggregator(EncryptedSums):
    """Encrypted sums over remote clients and key holders. policy: see `RemoteMaskedAggregator`."""

    def __init__(self, elsewhere: Elsewhere, policy: Policy, encryption: Encryption) -> None:
        super().__init__(encryption, SessionSettings(policy, watch=elsewhere.watch), elsewhere)
        self._elsewhere = elsewhere

    def tell(self, model: bytes, to: Sequence[str]) -> None:
        """See `Elsewhere.tell`."""
        self._elsewhere.tell(self.cohort, self.cohort.server.agreement, model, to)


def remote(
    elsewhere: Elsewhere, policy: Policy, encryption: Encryption | None
) -> RemoteMaskedAggregator | RemoteEncryptedAggregator:
    """The remote aggregator for the agreed backend; masked if no encryption was agreed on."""
    if encryption is None:
        return RemoteMaskedAggregator(elsewhere, policy)
    return RemoteEncryptedAggregator(elsewhere, policy, encryption)


def is_open(store: Store) -> bool:
    """Whether the server's store holds an open session."""
    return any(store.kept(channel.value) for channel in _SESSIONS)


def forget(store: Store) -> None:
    """End the session: erase its journals."""
    with store.transaction():
        for channel in (*_SESSIONS, Channel.LEARNED):
            store.forget(channel.value)


def _salt(store: Store, model: bytes) -> bytes:
    """The salt of announcements, the same for the whole session, so that a repeated announcement is the same message.
    The store keeps `model`."""
    name = Channel.LEARNED.value
    with store.transaction():
        kept = store.kept(name)
        known = kept.memory if kept else secrets.token_bytes(KEY_BYTES)
        salt, announced = known[:KEY_BYTES], known[KEY_BYTES:]
        if not (model.startswith(announced) or announced.startswith(model)):
            raise StoreError(
                f"{store.path}: expected the layers that clients were told before, the same sums gave different ones: go on "
                "with the programs and on the machine that computed those, or remove the file and give the session up"
            )
        if len(model) > len(announced) or not kept:
            store.keep(name, Kept(salt + model, b"", b""))
    return salt
