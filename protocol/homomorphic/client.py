"""A client of encrypted sums, sans-IO: bytes in, bytes out."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from secure_afl.crypto import ring
from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.identity import Identity, verify
from secure_afl.crypto.kdf import Label
from secure_afl.crypto.lattice import bfv, ckks
from secure_afl.crypto.lattice.parameter_sets import Residues
from secure_afl.protocol.homomorphic import messages, states
from secure_afl.protocol.homomorphic.agreement import Agreement, Encryption
from secure_afl.protocol.homomorphic.memory import CLIENT_MEMORY, ClientMemory
from secure_afl.protocol.homomorphic.messages import (
    Check,
    EncryptedRequest,
    EncryptedUpload,
    Invitation,
    Joined,
    Tags,
)
from secure_afl.protocol.homomorphic.states import ClientState
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.session.backend import Backend
from secure_afl.protocol.session.errors import LocalProtocolError, PolicyError
from secure_afl.protocol.session.ledger import Ledger
from secure_afl.protocol.session.parameters import (
    Profile,
    SumPlan,
    SumWanted,
    Values,
    demands,
    spending,
)
from secure_afl.protocol.session.party import SignedParty
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Verify
from secure_afl.protocol.session.roster import Roster
from secure_afl.protocol.session.wire import Message, WireError

Ready = tuple[npt.NDArray[np.uint64], bytes]
"""Words to encrypt, and the digest of their data set's name."""


class _OwnVectors:
    """The program contributes the vectors; under BFV their words are kept for further attempts at a round."""

    def session(self, agreement: Agreement) -> tuple[bytes, bytes]:
        """The number that the session must have, and the transcript of the masked session under it."""
        return agreement.session, b""

    def join(self, ledger: Ledger, agreement: Agreement) -> None:
        """Enter the session in the ledger, unless it is already there."""
        ledger.join(agreement.session)

    def ready(self, ledger: Ledger, memory: ClientMemory, number: int) -> Ready | None:
        """The words that answer a request for round `number`; None: ask the program."""
        return (
            (np.frombuffer(memory.words, "<u8").astype(np.uint64), memory.data_set) if memory.words else None
        )


class _MaskedVectors:
    """A masked session makes the vectors. Raises `WireError` if the server asks for them too early."""

    def __init__(self, masks: MaskingClient) -> None:
        self._masks = masks

    def session(self, agreement: Agreement) -> tuple[bytes, bytes]:
        try:
            return self._masks.session
        except LocalProtocolError as error:
            raise WireError(str(error)) from None

    def join(self, ledger: Ledger, agreement: Agreement) -> None:
        """Do nothing: the masked session is already in the ledger."""

    def ready(self, ledger: Ledger, memory: ClientMemory, number: int) -> Ready:
        try:
            words, data_set = self._masks.masked(number)
        except LocalProtocolError as error:
            raise WireError(str(error)) from None
        ledger.use(data_set, memory.agreement.session)  # masked earlier, it leaves now
        return words, messages.data_set_digest(self._masks.name, data_set)


class HomomorphicClient(SignedParty[ClientState, bytes | SumWanted, ClientMemory]):
    """One client in one encrypted session.

    It knows beforehand the members, the key holders, the planned sums and how they are encrypted. `receive` takes a
    message of the server and returns the answer, or `SumWanted`, which the program answers through `contribute`. A
    refused message raises an exception and changes nothing.

    masks: this client's object in the masked session whose vectors are encrypted here; it then contributes by itself.
    """

    def __init__(
        self,
        identity: Identity,
        roster: Roster,
        holders: Roster,
        plan: Sequence[SumPlan],
        policy: Policy,
        ledger: Ledger,
        encryption: Encryption,
        *,
        masks: MaskingClient | None = None,
    ) -> None:
        if encryption.masked != (masks is not None):
            raise LocalProtocolError(
                f"expected a masked session for {Backend.BFV_MASK} only, got {encryption.backend}"
            )
        super().__init__(identity, plan, messages.INVITATION, messages.TO_CLIENT, CLIENT_MEMORY)
        self.index = roster.index(identity.verify_key)
        self.name = roster.name(self.index)
        self.state = ClientState.START
        self._roster = roster
        self._holders = holders
        self._lattice, self._agreed = encryption.agreed(plan, len(roster.members), len(holders.members))
        self._encryption = encryption
        self._policy = policy
        self._ledger = ledger
        self._masks = masks
        self._source = _OwnVectors() if masks is None else _MaskedVectors(masks)
        self._ciphertexts: Residues | None = None  # ciphertexts that may still need tags
        parties = 16 * len(roster.members) + 256 * len(holders.members)
        self.largest_message = self._lattice.public_key_bytes + parties + 512 * len(plan) + 1024
        self._steps = {Invitation: self._join, EncryptedRequest: self._want, Check: self._tag}

    def _verify(self) -> Verify:
        """Whether the sums are checked in the masked session beneath this one."""
        return self._masks.verify if self._masks else Verify.NONE

    def receive(self, data: bytes) -> bytes | SumWanted:
        """Take a message of the server; return the frame that answers it, or the request for a vector."""
        answer = super().receive(data)
        if isinstance(answer, SumWanted) and (
            ready := self._source.ready(self._ledger, self._memory, answer.round)
        ):
            return self._encrypted(*ready)
        return answer

    def _legal(self) -> Mapping[type[Message], ClientState]:
        return states.CLIENT[self.state]

    def _fill(self, memory: ClientMemory) -> None:
        memory.uploaded = b"" if self._ciphertexts is None else bytes(self._lattice.pack(self._ciphertexts))

    def _check_kept(self, kept: ClientMemory) -> None:
        self._check_agreement(kept.agreement)

    def _begin(self, kept: ClientMemory) -> None:
        if kept.uploaded:
            self._ciphertexts = self._lattice.unpack(kept.uploaded, self._agreed[kept.round].length)
        super()._begin(kept)

    def _check_agreement(self, agreement: Agreement) -> None:
        if (agreement.roster, agreement.holders) != (self._roster.digest, self._holders.digest):
            raise WireError(
                "expected the roster and key holders that this party was given, the server proposes others: compare files"
            )
        if self.index not in agreement.cohort or agreement.cohort[-1] >= len(self._roster.members):
            raise WireError(
                f"expected a cohort of roster members with {self.name} in it, the invitation omits it or includes "
                "non-members"
            )
        self._policy.check_backend(self._encryption.backend)
        self._policy.check_plan(self._plan, Profile.ACTIVE, self._verify())
        self._policy.check_group("clients", len(agreement.cohort), len(self._roster.members))
        wanted = (self._lattice.name, self._encryption.release, self._agreed)
        if (agreement.lattice, agreement.release, agreement.rounds) != wanted:
            raise WireError(
                f"expected the {len(self._agreed)} sums that were agreed on under {self._lattice.name}, releasing "
                f"the {self._encryption.release.value}, got a different plan"
            )
        if (agreement.session, agreement.masks) != self._source.session(agreement):
            raise WireError(
                "expected the masked session that this client is in, the invitation names another"
            )

    def _join(self, invitation: Invitation) -> bytes:
        agreement = invitation.agreement
        self._check_agreement(agreement)
        transcript = agreement.transcript()
        self._lattice.unpack_key(invitation.key)
        signed = messages.key_parts(transcript, invitation.key)
        if len(invitation.signatures) != len(self._holders.members):
            raise WireError(
                f"expected signatures of {len(self._holders.members)} key holders, got {len(invitation.signatures)}"
            )
        for holder, signature in zip(self._holders.members, invitation.signatures, strict=True):
            try:
                verify(holder.verify_key, signature, Label.KEY_SIGNATURE, *signed)
            except CryptoError:
                raise WireError(
                    f"expected a key signed by {holder.name}, the signature does not verify"
                ) from None
        self._source.join(self._ledger, agreement)
        self._begin(ClientMemory(agreement, self.state, self._answers, demands(self._plan), invitation.key))
        return self._frame(Joined())

    def _want(self, request: EncryptedRequest) -> SumWanted:
        first = max(self._memory.round, 0)
        if request.attempt <= self._memory.attempt or not first <= request.round < len(self._agreed):
            raise WireError(
                f"expected a new attempt at a round from {first} to {len(self._agreed) - 1}, got attempt "
                f"{request.attempt} at round {request.round}"
            )
        participants = frozenset(request.participants)
        if not participants <= frozenset(self._memory.agreement.cohort) or self.index not in participants:
            raise WireError(
                f"expected participants out of the cohort with {self.name} among them, the request omits it or includes "
                "non-members"
            )
        self._check_group("participants", participants, request.round)
        self._source.ready(
            self._ledger, self._memory, request.round
        )  # raises if the vector does not exist yet
        if request.round != self._memory.round:
            self._memory.words = b""
        self._memory.attempt, self._memory.round = request.attempt, request.round
        self._memory.participants = participants
        return self.wanted

    def contribute(self, wanted: SumWanted, values: Values, data_set: str) -> bytes:
        """Encrypt `values` (float64, as many as `wanted.spec` says): the upload that answers `wanted`.

        Under BFV further attempts at the round encrypt the same words again: with fresh noise or changed rows, several
        uploads would reveal more than one.

        Raises `LocalProtocolError` if this sum is not (or no longer) requested, is masked, or the shape is wrong;
        `PolicyError` if another session used the data set; `CryptoError` if a value is not finite or exceeds the agreed
        bound. Then nothing has left the client, and it may try again.
        """
        if self.state is not ClientState.REQUESTED or wanted != self.wanted:
            raise LocalProtocolError(
                f"{self.name}: the sum of round {wanted.round} is not wanted in state {self.state.value}"
            )
        if self._encryption.masked:
            raise LocalProtocolError(f"{self.name}: only what its masked session masked is encrypted here")
        spec = wanted.spec
        if values.shape != (spec.length,):
            raise LocalProtocolError(f"{self.name}: expected {spec.length} values, got shape {values.shape}")
        encoding = spec.encoding(len(self._roster.members))
        units = self._plan[wanted.round].encode(values, encoding)  # raises for values out of bounds
        try:
            self._ledger.use(
                data_set,
                self._memory.agreement.session,
                spends=spending(self._plan),
                budget=self._policy.budget,
            )
        except PolicyError as error:
            raise PolicyError(f"{self.name}: {error}") from None
        name = messages.data_set_digest(self.name, data_set)
        if self._lattice.plain_modulus:
            words = ring.modular(units, self._lattice.plain_modulus)
            frame = self._encrypted(words, name)
            self._memory.words = words.astype("<u8").tobytes()
            return frame
        return self._upload(ckks.encrypt(self._lattice, self._memory.key, values, encoding), name)

    def _encrypted(self, words: npt.NDArray[np.uint64], data_set: bytes) -> bytes:
        return self._upload(bfv.encrypt(self._lattice, self._memory.key, words), data_set)

    def _upload(self, ciphertexts: Residues, data_set: bytes) -> bytes:
        self._ciphertexts, self._memory.data_set = ciphertexts, data_set
        self.state = ClientState.UPLOADED
        payload = memoryview(self._lattice.pack(ciphertexts))
        return self._frame(EncryptedUpload(self._memory.round, self._memory.attempt, payload))

    def _tag(self, check: Check) -> bytes:
        offer = check.offer
        if (offer.transcript, offer.round, offer.attempt) != (
            self._transcript,
            self._memory.round,
            self._memory.attempt,
        ):
            raise WireError(
                f"expected an offer of round {self._memory.round}, attempt {self._memory.attempt}, this one differs"
            )
        contributors = frozenset(offer.contributors)
        if not contributors <= self._memory.participants or self.index not in contributors:
            raise WireError(
                f"expected contributors out of the participants with {self.name} among them, the offer omits it or "
                "includes other clients"
            )
        self._check_group("contributors", contributors, offer.round)
        if len(check.challenges) != len(self._holders.members):
            raise WireError(
                f"expected challenges of {len(self._holders.members)} key holders, got {len(check.challenges)}"
            )
        for holder, challenge in zip(self._holders.members, check.challenges, strict=True):
            parts = messages.challenge_parts(offer, challenge.seed)
            try:
                verify(holder.verify_key, challenge.signature, Label.CHALLENGE_SIGNATURE, *parts)
            except CryptoError:
                raise WireError(
                    f"expected a challenge signed by {holder.name} for this sum, the signature does not verify"
                ) from None
        if self._plan[offer.round].same_survivors:
            # A further attempt may have different contributors, but must match those of the rounds before it.
            for number, earlier in self._memory.related.items():
                if number < offer.round and earlier != contributors:
                    raise PolicyError(
                        f"expected the {len(earlier)} contributors of the sums before, the server named "
                        f"{len(contributors)}, not the same: the difference of the sums could tell of one client"
                    )
            self._memory.related[offer.round] = contributors
        assert self._ciphertexts is not None  # guaranteed by the state
        tags = tuple(self._lattice.tags(self._ciphertexts, challenge.seed) for challenge in check.challenges)
        self._ciphertexts = None
        return self._frame(Tags(tags, self._memory.data_set))

    @property
    def wanted(self) -> SumWanted:
        """The sum that the server asked for last."""
        number = self._memory.round
        return SumWanted(number, self._agreed[number], tuple(sorted(self._memory.participants)))

    def _check_group(self, what: str, group: frozenset[int], number: int) -> None:
        self._policy.check_group(what, len(group), len(self._roster.members), self._plan[number].survivors)
