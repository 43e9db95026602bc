"""A party at its end of a transport: takes an envelope, returns the answer, and keeps nothing in memory in between."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

from msgspec.msgpack import Decoder

from secure_afl.crypto.errors import SecureAflError
from secure_afl.crypto.identity import Identity
from secure_afl.protocol.audit.events import (
    CheckedSum,
    EndAnswered,
    Ended,
    Foreign,
    Received,
    Role,
    Taken,
    Twins,
    frame,
    message_digest,
)
from secure_afl.protocol.audit.log import AuditLog, Known, Memory
from secure_afl.protocol.audit.record import RecordedClient, RecordedParty, refused
from secure_afl.protocol.durable.parties import DurableParty, Keeping
from secure_afl.protocol.durable.store import Kept, Store, StoreError
from secure_afl.protocol.files.roster import Parties
from secure_afl.protocol.homomorphic.agreement import Agreement, Encryption
from secure_afl.protocol.homomorphic.client import HomomorphicClient
from secure_afl.protocol.homomorphic.holder import KeyHolder, Solve
from secure_afl.protocol.homomorphic.messages import Invitation
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.masking.memory import session_sums, without_secrets
from secure_afl.protocol.masking.messages import largest_message
from secure_afl.protocol.session.backend import Backend
from secure_afl.protocol.session.errors import LocalProtocolError, PolicyError
from secure_afl.protocol.session.ledger import Ledger, session_name
from secure_afl.protocol.session.parameters import SESSION_BYTES, Parameters, SessionSums, SumPlan, SumWanted
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.wire import WireError, decode
from secure_afl.protocol.transport.driver import Contribution
from secure_afl.protocol.transport.post import LEARNED, Channel, Envelope, Learned, here

_SESSIONS = (Channel.MASKED, Channel.ENCRYPTED)
_TERMS: Decoder[Parameters | Agreement | Invitation] = Decoder(Parameters | Agreement | Invitation)
"""Messages that begin a session at a party."""

UNAPPROVED = 2**17
"""Bytes of the longest message that a party takes which has not approved its study: terms, and who is asked for."""
_WAIT = 10.0  # seconds to wait until an operator's command releases the audit log


@dataclass(frozen=True)
class Terms:
    """What a party knows before a session, from its own files. encryption: None for masks alone.

    Raises `LocalProtocolError` if encrypted sums lack key holders or cannot be planned; `CryptoError` if no parameter
    set holds the sums.
    """

    parties: Parties
    plan: tuple[SumPlan, ...]
    policy: Policy
    encryption: Encryption | None = None

    def __post_init__(self) -> None:
        if self.encryption is None:
            return
        if not self.parties.key_holders:
            raise LocalProtocolError(
                "expected a roster with key holders for encrypted sums, got one without key holders"
            )
        clients, holders = self.parties.clients.members, self.parties.key_holders.members
        self.encryption.agreed(self.plan, len(clients), len(holders))

    @property
    def largest_answer(self) -> int:
        """Bytes of the longest answer that any party of these sums gives."""
        members, longest = len(self.parties.clients.members), 0
        if self.encryption and self.parties.key_holders:
            holders = len(self.parties.key_holders.members)
            lattice, rounds = self.encryption.agreed(self.plan, members, holders)
            sums = lattice.ciphertext_bytes(max(one.length for one in rounds)) + 8192
            longest = max(
                sums, lattice.public_key_bytes + 8192, holders * (9 * len(lattice.no_tags) + 9) + 8192
            )
        else:
            rounds = tuple(one.spec(members) for one in self.plan)
        return max(longest, largest_message(members, rounds)) if self.backend.masked else longest

    @property
    def backend(self) -> Backend:
        """The backend of the sums."""
        return self.encryption.backend if self.encryption else Backend.MASK


TakesModel = Callable[[bytes, bytes, bytes, SessionSums], None]
"""See `learned` of `Endpoint`."""


class Endpoint:
    """One client or key holder, identified by its key's index in the roster.

    contribute: returns a client's vector for a sum and its data set's name, given what the server announced about
    earlier sums (empty if nothing). solve: a key holder's solver, with `Release.WEIGHTS`.
    check_announced: raises for an announcement that no rows could have led to. waits: whether a sum needs one.
    result: bytes of the longest result that the server can announce or end the session with.
    learned: takes the server's final result, the announcements before it, the session's number, and what this party knows of
    the session's sums, from which the result must follow. Its exceptions reach the server as a refusal, so they must not
    depend on rows.
    under_way: called after each answered message of a session: earlier results are then out of date.
    audit: the file of the audit log; log_known: what this process knows of it, see `AuditLog`. study: the study's digest,
    if the audit log must hold the operator's approval before anything but the party's name leaves.
    Raises `LocalProtocolError` if the roster does not contain this identity.
    """

    def __init__(
        self,
        identity: Identity,
        terms: Terms,
        store: Store,
        contribute: Callable[[SumWanted, bytes], Contribution],
        *,
        solve: Solve | None = None,
        check_announced: Callable[[bytes], None] = lambda model: None,
        waits: bool = False,
        result: int = 0,
        learned: TakesModel = lambda model, announced, session, sums: None,
        under_way: Callable[[], None] = lambda: None,
        audit: Path | None = None,
        study: bytes = b"",
        log_known: Known | None = None,
    ) -> None:
        if study and audit is None:
            raise LocalProtocolError("approving studies needs an audit log: give the party one")
        keys = [member.verify_key for member in terms.parties.everybody]
        if identity.verify_key not in keys:
            terms.parties.clients.index(identity.verify_key)  # raises if unknown
        self.party = keys.index(identity.verify_key)
        self.name = terms.parties.everybody[self.party].name
        self._holds_key = self.party >= len(terms.parties.clients.members)
        self._identity = identity
        self._terms = terms
        self._store = store
        self._contribute = contribute
        self._solve = solve
        self._check_announced = check_announced
        self._announced_between = waits or any(one.trusts_server for one in terms.plan)
        self._learned = learned
        self._result, self._largest = result, 0
        self._under_way = under_way
        self._audit = audit
        self._study = study
        self._log_known = log_known
        self._opened: AuditLog | None = None

    def answer(self, envelope: Envelope, address: int) -> bytes:
        """Answer an envelope. address: where the transport delivered it.

        Raises the exceptions of the party, the store and `contribute`; do not send their texts to the server.
        """
        match envelope.channel:
            case Channel.WHEREABOUTS:
                return here(self._identity, self._terms.parties, self.party, envelope, address)
            case Channel.LEARNED:
                return self._announced(envelope)
            case Channel.END:
                return self._ended(envelope)
            case Channel.MASKED | Channel.ENCRYPTED:
                answer = self._converse(envelope)
                self._under_way()
                return answer
            case other:
                assert_never(other)

    @property
    def largest(self) -> int:
        """Bytes of the longest message that this party can need: little while its study is not approved."""
        try:
            self._check_approved()
        except PolicyError:
            return UNAPPROVED
        if self._largest:
            return self._largest
        channels = [Channel.ENCRYPTED] if self._terms.encryption else []
        channels += [Channel.MASKED] if self._terms.backend.masked and not self._holds_key else []
        parties = [self._made(Envelope(one, bytes(SESSION_BYTES)), Ledger()) for one in channels]
        self._largest = max(UNAPPROVED, self._result + 1024, *(one.largest_message for one in parties))
        return self._largest

    def note_foreign(self, kind: str, app: str) -> None:
        """Log the refusal of a message of a different protocol; see `Foreign`. Raises `AuditError`."""
        if log := self._log():
            log.append(Foreign(kind, app))

    def note_twin(self) -> None:
        """Log that another node took this one's place. Raises `AuditError`."""
        if log := self._log():
            log.append(Twins(self.name))

    def close(self) -> None:
        """Close the store and the audit log without losing data. Raises `AuditError` if the log cannot be closed."""
        self._store.close()
        if self._opened:
            self._opened.close()

    def _ended(self, envelope: Envelope) -> bytes:
        """Erase the session, its secrets first, and take what was learned in it: once, and only if this party was in the
        session and its study is approved. Gives the last line about it in the audit log, for the server's log; nothing without
        a log, from a party that was not in the session, and the second time.
        """
        name, model = _name(Channel.LEARNED, envelope.session), message_digest(envelope.data)
        with self._store.transaction():
            kept = self._store.kept(name)
            announced = kept.memory if kept else b""
            is_open = any(self._store.kept(_name(channel, envelope.session)) for channel in _SESSIONS)
            ours = all(self._resumes(channel, envelope.session) for channel in _SESSIONS)
            masked = self._store.kept(_name(Channel.MASKED, envelope.session))
            known = without_secrets(masked.memory) if masked and ours else b""
            for channel in _SESSIONS:
                self._store.forget(_name(channel, envelope.session))
            if not ours:
                self._store.forget(name)
            elif is_open:  # who is killed from here on takes this model again, and no other
                self._store.keep(name, Kept(announced, model, known))
            elif kept is None or kept.question != model:
                self._store.forget(name)
                return b""
            else:
                known = kept.answer
        log = self._log()
        try:
            if log:
                log.note(Ended(envelope.session, len(envelope.data)))
            if not ours:
                raise PolicyError(
                    "expected the end of a session of this study, got that of a session with other sums, or one that this "
                    "version cannot read: no model of it is taken"
                )
            if envelope.data:
                self._check_approved()
                _check_goes_on(envelope.data, announced)
                sums = self._sums(known)
                self._learned(envelope.data, announced, envelope.session, sums)
                if log:
                    log.note(_taken(envelope.session, sums))
            return log.append(EndAnswered(envelope.session)) if log else b""
        except SecureAflError as error:
            if log:
                log.refuse(refused(b"", envelope.data, error))
            raise
        finally:
            self._store.forget(name)

    def _resumes(self, channel: Channel, session: bytes) -> bool:
        """Whether a stored session, if any, is one with this endpoint's sums: a party's studies share a store."""
        if not self._store.kept(_name(channel, session)):
            return True
        try:
            _ = self._party(Envelope(channel, session)).transcript
        except LocalProtocolError:
            return False
        except PolicyError:  # the policy has changed since: the session is this one all the same
            return True
        return True

    def _sums(self, known: bytes) -> SessionSums:
        """What this party knows of a session's sums. known: see `without_secrets`. Raises `PolicyError` if nothing of the session
        may be taken.
        """
        if self._holds_key:
            return SessionSums({}, "key holders are not given the model's sums to check")
        if not self._terms.backend.masked:
            return SessionSums({}, "sums that are encrypted and not masked are given to no client")
        if not known:
            raise PolicyError(
                "expected this party's record of the session, to check the model, found one that this version cannot read: no "
                "model is taken"
            )
        sums = session_sums(known)
        if sums.refused:
            raise PolicyError(
                "this party refused a sum of the session, which did not fit its tag or the uploads: no model of it is taken"
            )
        return sums

    def _converse(self, envelope: Envelope) -> bytes:
        party = self._party(envelope)
        log, terms = self._log(), self._terms
        try:
            self._check_approved()
            self._check_study(envelope)
            _check_number(envelope)
        except (LocalProtocolError, PolicyError) as error:
            if log:
                log.refuse(refused(b"", envelope.data, error))
            raise
        if log is None:
            return self._said(party, envelope)
        recorded = (RecordedParty if self._holds_key else RecordedClient)(
            party, log, terms.parties.clients, terms.plan, terms.policy, terms.parties.key_holders
        )
        answer = self._said(recorded, envelope)
        try:
            self._check_approved()  # it may have been revoked while this was computed
        except PolicyError as error:
            log.refuse(refused(b"", envelope.data, error))
            raise
        return answer

    def _check_study(self, envelope: Envelope) -> None:
        """Raises `PolicyError` if the server names another study: its sums may look the same, and mean something else."""
        if self._study and envelope.study not in (b"", self._study):
            raise PolicyError(
                f"the server asks for study {envelope.study.hex()[:16]}…, and {self.name} has study "
                f"{self._study.hex()[:16]}…: compare what `secure-afl study show` says at both"
            )

    def _check_approved(self) -> None:
        """Raises `PolicyError` unless the party's operator approved the study with these rosters."""
        if not self._study:
            return
        log = self._log()
        assert log is not None
        approved = log.approved(self._study)
        self._store.check_revoked(log.revoked)
        rosters = tuple(one.digest for one in self._terms.parties.rosters().values())
        if approved is None or approved.rosters != rosters:
            raise PolicyError(
                f"study {self._study.hex()[:16]}… is not approved at {self.name}"
                f"{' with this roster' if approved else ''}: read `secure-afl study show`, then decide with "
                "`secure-afl study approve`"
            )

    def _said(self, party: DurableParty | RecordedParty[Any], envelope: Envelope) -> bytes:
        answer = party.receive(envelope.data)
        if isinstance(answer, bytes):
            return answer
        assert isinstance(party, DurableParty | RecordedClient)  # key holders never contribute a vector
        try:
            values, data_set = self._contribute(answer, self._known(envelope.session))
            self._check_approved()  # again, before the data set is spent
        except Exception as error:  # whatever the fault (file, row, model), no vector leaves
            if isinstance(party, RecordedClient):
                party.withhold(answer, error)
            raise
        return party.contribute(answer, values, data_set)

    def _announced(self, envelope: Envelope) -> bytes:
        """Store what the server announces about the sums so far. It can only grow; earlier parts must not change."""
        learned = decode(envelope.data, LEARNED)
        log = self._log()
        try:
            with self._store.transaction():
                self._check_approved()
                self._check_study(envelope)
                self._keep_announced(envelope.session, learned)
                if log:  # log first: an unlogged announcement serves no sum
                    log.note(Received(learned.transcript, frame(learned, envelope.data)))
        except SecureAflError as error:
            if log:
                log.refuse(refused(learned.transcript, envelope.data, error))
            raise
        return b""

    def _keep_announced(self, session: bytes, learned: Learned) -> None:
        if self._holds_key or not self._announced_between:
            raise LocalProtocolError(
                f"{self.name} takes part in no sum that depends on the server's announcements"
            )
        channel = Channel.ENCRYPTED if self._terms.encryption else Channel.MASKED
        if learned.transcript != self._party(Envelope(channel, session)).transcript:
            raise LocalProtocolError(f"{self.name} takes part in no session of that number and transcript")
        known = self._known(session)
        if not known.startswith(learned.model):  # otherwise it is repeated or late
            _check_goes_on(learned.model, known)
            self._check_announced(learned.model)
            self._store.keep(_name(Channel.LEARNED, session), Kept(learned.model, b"", b""))

    def _known(self, session: bytes) -> bytes:
        """What the server has announced about a session's sums."""
        kept = self._store.kept(_name(Channel.LEARNED, session))
        return kept.memory if kept else b""

    def _log(self) -> AuditLog | None:
        """The audit log, if configured; it stays open until `close`."""
        if self._audit and self._opened is None:
            role = Role.HOLDER if self._holds_key else Role.CLIENT
            opened = AuditLog(self._audit, self._identity, self.name, role, wait=_WAIT, known=self._log_known)
            try:
                check_remembers(self._store, opened.memory)
            except BaseException:
                opened.close()
                raise
            self._opened = opened
        return self._opened

    def _party(self, envelope: Envelope) -> DurableParty:
        """The party that this envelope is for, in its present state."""
        name = _name(envelope.channel, envelope.session)
        return DurableParty(lambda ledger: self._made(envelope, ledger), self._store, name)

    def _made(self, envelope: Envelope, ledger: Ledger) -> Keeping:
        """The party that this envelope is for, in its state before the session."""
        terms, encryption = self._terms, self._terms.encryption
        if envelope.channel is Channel.MASKED and not self._holds_key and terms.backend.masked:
            return self._masked(ledger)
        if envelope.channel is Channel.MASKED or encryption is None:
            raise LocalProtocolError(f"{self.name}: no {envelope.channel.value} sums were agreed on")
        holders = terms.parties.key_holders
        assert holders is not None  # `Terms` ensures it
        common = (
            self._identity,
            terms.parties.clients,
            holders,
            terms.plan,
            terms.policy,
            ledger,
            encryption,
        )
        if self._holds_key:
            return KeyHolder(*common, solve=self._solve)
        if not encryption.masked:
            return HomomorphicClient(*common)
        masks = self._masked(ledger)
        if kept := self._store.kept(_name(Channel.MASKED, envelope.session)):
            masks.resume(kept.memory)
        return HomomorphicClient(*common, masks=masks)

    def _masked(self, ledger: Ledger) -> MaskingClient:
        terms = self._terms
        agreed = None
        if terms.encryption:
            assert terms.parties.key_holders is not None
            sizes = (len(terms.parties.clients.members), len(terms.parties.key_holders.members))
            agreed = terms.encryption.agreed(terms.plan, *sizes)[1]
        return MaskingClient(
            self._identity,
            terms.parties.clients,
            terms.plan,
            terms.policy,
            ledger,
            agreed=agreed,
            log_head=self._head,
        )

    def _head(self) -> bytes:
        log = self._log()
        return log.head if log else b""


def _taken(session: bytes, sums: SessionSums) -> Taken:
    checked = tuple(
        CheckedSum(number, one.digest, one.survivors) for number, one in sorted(sums.verified.items())
    )
    return Taken(session, checked, sums.unverified)


def _check_number(envelope: Envelope) -> None:
    """Raises `LocalProtocolError` if the terms belong to a different session than the envelope names: every log uses
    this number."""
    try:
        terms = decode(envelope.data, _TERMS)
    except WireError:  # not terms; the party refuses it
        return
    session = terms.agreement.session if isinstance(terms, Invitation) else terms.session
    if session != envelope.session:
        raise LocalProtocolError(
            f"expected the terms of session {session_name(envelope.session)}…, got those of {session_name(session)}…"
        )


def _check_goes_on(model: bytes, known: bytes) -> None:
    if not model.startswith(known):
        raise LocalProtocolError("the server announces layers that contradict those it announced before")


def check_remembers(store: Store, memory: Memory) -> None:
    """Raises `StoreError` for a file that knows less than the audit log: an old copy was brought back, or another one begun.

    A step is in the file before the log tells of it, so the file of a party that was killed knows as much or more.
    """
    forgotten = memory.joined - store.ledger.sessions()
    lost = {session_name(one): "that this party was in it" for one in forgotten}
    unknown = memory.uploaded - store.ledger.uploads() - forgotten
    lost |= {session_name(one): "that a vector left" for one in unknown}
    for (encrypted, session), said in memory.said.items():
        kept = store.kept(_name(Channel.ENCRYPTED if encrypted else Channel.MASKED, session))
        if kept and (given := message_digest(kept.answer)) in said and given != said[-1]:
            lost[session_name(session)] = "what this party said last"
    if lost:
        name, what = next(iter(lost.items()))
        raise StoreError(
            f"{store.path}: expected all that the audit log tells of, but of session {name} it does not know {what}: an old "
            "copy was brought back, which could give this party's statistics away. Bring the newest file back, or begin "
            "anew without it (secure-afl ledger begin-anew)"
        )


def _name(channel: Channel, session: bytes) -> str:
    """A session's name in the store. A server that changes a session's number finds no stored session and is refused."""
    return f"{channel.value} {session.hex()}"
