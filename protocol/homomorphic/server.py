"""The server of encrypted sums, sans-IO. It adds ciphertexts on arrival and holds no secret.

Memory: one sum of ciphertexts, whatever the number of clients. It needs TenSEAL only to combine a committee's partial
decryptions.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.identity import verify
from secure_afl.crypto.kdf import Label
from secure_afl.crypto.lattice.parameter_sets import LATTICES, Residues
from secure_afl.protocol.homomorphic import keys, messages, states
from secure_afl.protocol.homomorphic.agreement import Agreement, Release
from secure_afl.protocol.homomorphic.messages import (
    Challenge,
    Check,
    EncryptedRequest,
    EncryptedUpload,
    FromClient,
    FromHolder,
    Invitation,
    Joined,
    KeyAnnouncement,
    KeyCommitment,
    KeyCommitments,
    KeyShare,
    KeyShares,
    Offer,
    Opened,
    Opening,
    Tags,
)
from secure_afl.protocol.homomorphic.states import ServerState
from secure_afl.protocol.session.errors import LocalProtocolError, RoundAbortedError
from secure_afl.protocol.session.roster import Member, Roster
from secure_afl.protocol.session.server import OpenedSum, Outbox, SignedServer
from secure_afl.protocol.session.wire import WireError, encode, exact


@dataclass
class _Round:
    number: int
    invited: frozenset[int]
    participants: frozenset[int]
    attempt: int
    total: Residues = field(repr=False)
    contributors: frozenset[int] = frozenset()
    packed: bytes = field(default=b"", repr=False)
    check: bytes = field(default=b"", repr=False)
    answers: dict[int, bytes] = field(default_factory=dict, repr=False)  # tags' frames, by contributor
    opened: dict[int, bytes] = field(default_factory=dict, repr=False)  # payloads, by key holder


class HomomorphicServer(SignedServer[FromClient | FromHolder]):
    """One session's server; see `MaskingServer` for how to drive it.

    Parties are indexed: the roster's members, then the key holders. least: fewest contributors of a sum; a round with
    fewer is aborted. If a client uploads and then gives no tags, the round begins again without it.
    """

    def __init__(self, agreement: Agreement, roster: Roster, holders: Roster, *, least: int) -> None:
        known = (agreement.roster, agreement.holders) == (roster.digest, holders.digest)
        if not known or agreement.cohort[-1] >= len(roster.members):
            raise LocalProtocolError("the agreement is not for this roster and these key holders")
        super().__init__(agreement.transcript(), messages.FROM_PARTY)
        self.agreement = agreement
        self.roster = roster
        self.holders = holders
        self.state: ServerState = ServerState.START
        self._least = least
        self._lattice = LATTICES[agreement.lattice]
        self._indices = range(len(roster.members), len(roster.members) + len(holders.members))
        self._said: dict[int, bytes] = {}  # each key holder's answer in this phase
        self._joined: frozenset[int] = frozenset()
        self._attempt = 0
        self._challenges: dict[int, Challenge] = {}

    def __repr__(self) -> str:
        return f"HomomorphicServer({self.state.value}, waiting for {len(self.waiting_for)})"

    def start(self) -> Outbox:
        """Propose the session to the key holders."""
        self._expect(ServerState.START)
        self.state, self.waiting_for = ServerState.COMMITTING, frozenset(self._indices)
        return self._sent(dict.fromkeys(self._indices, encode(self.agreement)))

    def advance(self) -> Outbox:
        """End the phase with the parties that answered; return the messages of the next phase.

        Raises `RoundAbortedError` if a key holder is missing or too few clients are left: before READY the session
        is over, later only the round.
        """
        steps: dict[ServerState, Callable[[], Outbox]] = {
            ServerState.COMMITTING: self._pass_commitments,
            ServerState.SHARING: self._pass_shares,
            ServerState.ANNOUNCING: self._invite,
            ServerState.INVITING: self._settle,
            ServerState.COLLECTING: self._offer,
            ServerState.CHALLENGING: self._check,
            ServerState.CHECKING: self._ask_to_open,
            ServerState.OPENING: dict,
        }
        if self.state not in steps:
            raise LocalProtocolError(f"nothing to advance in state {self.state.value}")
        # A blamed party is not waited for and gave nothing usable.
        if missing := self.waiting_for.union(self.blame).intersection(self._indices):
            raise self._abort(f"key holders are missing, and none can be replaced: {self._names(missing)}")
        before = self.state
        outbox = steps[before]()
        if self.state is before:
            self.state = states.SERVER[before][1]
        self.waiting_for = frozenset(outbox)
        return self._sent(outbox)

    # ---- the key ---------------------------------------------------------------------------------

    def _pass_commitments(self) -> Outbox:
        message = encode(KeyCommitments(self._transcript, tuple(sorted(self._said.items()))))
        return dict.fromkeys(self._indices, message)

    def _pass_shares(self) -> Outbox:
        shares = [self._said[index] for index in self._indices]
        try:
            self._key = keys.public_key(self._lattice, self._transcript, shares)
        except CryptoError as error:
            raise self._abort(f"the key holders' shares make no key: {error}") from None
        return dict.fromkeys(
            self._indices, encode(KeyShares(self._transcript, tuple(zip(self._indices, shares, strict=True))))
        )

    def _invite(self) -> Outbox:
        signatures = tuple(self._said[index] for index in self._indices)
        return dict.fromkeys(self.agreement.cohort, encode(Invitation(self.agreement, self._key, signatures)))

    def _settle(self) -> Outbox:
        if len(self._joined) < self._least:
            raise self._abort(f"expected at least {self._least} clients, {len(self._joined)} joined")
        return {}

    # ---- one sum ---------------------------------------------------------------------------------

    def open_round(self, number: int, among: Collection[int] | None = None) -> Outbox:
        """Ask all clients that joined, or those in `among`, for round `number`. Rounds only go forward."""
        self._expect(ServerState.READY)
        participants = self._participants(number, len(self.agreement.rounds), self._joined, among)
        self._next_round = number + 1
        outbox = self._begin(number, participants, participants)
        self.waiting_for = frozenset(outbox)
        return self._sent(outbox)

    def _begin(self, number: int, participants: frozenset[int], invited: frozenset[int]) -> Outbox:
        if len(participants) < self._least:
            raise self._abort(
                f"expected at least {self._least} clients, {len(participants)} are left for the sum"
            )
        self._attempt += 1
        total = self._lattice.zeros(self.agreement.rounds[number].length)
        self._round = _Round(number, invited, participants, self._attempt, total)
        self.state = ServerState.COLLECTING
        request = EncryptedRequest(self._transcript, number, self._attempt, tuple(sorted(participants)))
        return dict.fromkeys(sorted(participants), encode(request))

    def _offer(self) -> Outbox:
        current = self._round
        if len(current.contributors) < self._least:
            raise self._abort(
                f"expected at least {self._least} clients, {len(current.contributors)} uploaded"
            )
        current.packed = self._lattice.pack(current.total)
        fingerprint = messages.ciphertexts_digest(self._transcript, current.packed)
        contributors = tuple(sorted(current.contributors))
        self._offered = Offer(self._transcript, current.number, current.attempt, contributors, fingerprint)
        return dict.fromkeys(self._indices, encode(self._offered))

    def _check(self) -> Outbox:
        challenges = tuple(self._challenges[index] for index in self._indices)
        self._round.check = encode(Check(self._transcript, self._offered, challenges))
        return dict.fromkeys(self._offered.contributors, self._round.check)

    def _ask_to_open(self) -> Outbox:
        current = self._round
        if silent := current.contributors - current.answers.keys():
            # Their uploads are in the sum without tags: begin again without these clients.
            return self._begin(
                current.number, current.contributors - silent - self.blame.keys(), current.invited
            )
        message = Opening(
            self._transcript,
            current.check,
            tuple(sorted(current.answers.items())),
            memoryview(current.packed),
        )
        return dict.fromkeys(self._indices, encode(message))

    def result(self) -> OpenedSum:
        """The opened sum. Raises `RoundAbortedError` if the key holders' answers do not give one."""
        self._expect(ServerState.OPENED)
        current, spec = self._round, self.agreement.rounds[self._round.number]
        try:
            values = self._values(spec.length)
        except CryptoError as error:
            raise self._abort(f"what the key holders released makes no sum: {error}") from None
        self.state = ServerState.READY
        contributors = tuple(sorted(current.contributors))
        return OpenedSum(
            current.number, values, contributors, tuple(sorted(current.invited - current.contributors))
        )

    def _values(self, length: int) -> npt.NDArray[Any]:
        current = self._round
        if len(self.holders.members) > 1:
            parts = [current.opened[index] for index in self._indices]
            return keys.put_together(self._lattice, current.total, parts, length)
        return self._numbers(current.opened[self._indices[0]])

    def _numbers(self, payload: bytes | memoryview) -> npt.NDArray[Any]:
        """The numbers that a single key holder released."""
        if self.agreement.release is Release.WEIGHTS or not self._lattice.plain_modulus:
            return np.frombuffer(payload, "<f8").astype(np.float64)
        return np.frombuffer(payload, "<u8").astype(np.uint64)

    # ---- what a party may send -------------------------------------------------------------------

    def _member(self, sender: int) -> Member:
        if sender in self._indices:
            return self.holders.members[sender - len(self.roster.members)]
        if sender not in self.agreement.cohort:
            raise WireError("expected a party of this session, got an unknown one")
        return self.roster.members[sender]

    def _largest_frame(self, sender: int) -> int:
        lattice = self._lattice
        longest = {
            ServerState.SHARING: lattice.public_key_bytes,
            ServerState.CHECKING: len(self._indices) * (9 * len(lattice.no_tags) + 9),
        }
        if self.state in (ServerState.COLLECTING, ServerState.OPENING):
            # The size of an upload; no form of a key holder's answer is longer.
            return lattice.ciphertext_bytes(self.agreement.rounds[self._round.number].length) + 4096
        return longest.get(self.state, 0) + 512

    def _collecting(self) -> tuple[type[Any], ServerState] | None:
        return states.SERVER.get(self.state)

    def _take(self, sender: int, message: FromClient | FromHolder, data: bytes, root: bytes) -> None:
        match message:
            case KeyCommitment():
                self._said[sender] = data
            case KeyShare():
                self._said[sender] = message.share
            case KeyAnnouncement():
                self._verify(sender, message.signature, Label.KEY_SIGNATURE, self._key_parts())
                self._said[sender] = message.signature
            case Joined():
                self._joined |= {sender}
            case EncryptedUpload():
                current = self._round
                if (message.round, message.attempt) != (current.number, current.attempt):
                    raise WireError(
                        f"expected round {current.number}, attempt {current.attempt}, got round {message.round}, "
                        f"attempt {message.attempt}"
                    )
                length = self.agreement.rounds[message.round].length
                self._lattice.add(current.total, self._lattice.unpack(message.payload, length))
                current.contributors |= {sender}
            case Challenge():
                parts = messages.challenge_parts(self._offered, message.seed)
                self._verify(sender, message.signature, Label.CHALLENGE_SIGNATURE, parts)
                self._challenges[sender] = message
            case Tags():
                if len(message.tags) != len(self._indices):
                    raise WireError(
                        f"expected tags for {len(self._indices)} key holders, got {len(message.tags)}"
                    )
                for tags in message.tags:
                    self._lattice.add_tags(self._lattice.no_tags, tags)
                self._round.answers[sender] = data
            case Opened():
                self._take_opened(sender, message)

    def _take_opened(self, sender: int, message: Opened) -> None:
        length = self.agreement.rounds[self._round.number].length
        if message.round != self._round.number:
            raise WireError(f"expected round {self._round.number}, got round {message.round}")
        if len(self.holders.members) > 1:
            keys.parse_part(self._lattice, message.payload, length)
        else:
            if self.agreement.release is Release.WEIGHTS:
                exact("weights of 8 bytes each", message.payload, len(message.payload) // 8 * 8)
            else:
                exact(f"a sum of {length} values", message.payload, 8 * length)
            values = self._numbers(message.payload)
            if values.dtype == np.uint64 and int(values.max()) >= self._lattice.plain_modulus:
                raise WireError("expected a sum modulo the plain modulus, got larger words")
            if not np.isfinite(values).all():
                raise WireError("expected finite numbers, some are infinite or not numbers")
        self._round.opened[sender] = bytes(message.payload)

    def _verify(self, sender: int, signature: bytes, label: Label, parts: tuple[bytes, ...]) -> None:
        verify(self._member(sender).verify_key, signature, label, *parts)

    def _key_parts(self) -> tuple[bytes, ...]:
        return messages.key_parts(self._transcript, self._key)

    # ---- refusals --------------------------------------------------------------------------------

    def _names(self, parties: Collection[int]) -> str:
        return ", ".join(self._member(party).name for party in sorted(parties))

    def _abort(self, text: str) -> RoundAbortedError:
        early = (ServerState.COMMITTING, ServerState.SHARING, ServerState.ANNOUNCING, ServerState.INVITING)
        self.state = ServerState.ABORTED if self.state in early else ServerState.READY
        self.waiting_for = frozenset()
        faults = {self._member(who).name: fault for who, fault in sorted(self.blame.items())}
        return RoundAbortedError(text, faults)
