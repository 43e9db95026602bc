"""A key holder of encrypted sums, sans-IO: it opens only one approved sum of each statistic.

It never sees a single client's ciphertext, and it checks that a sum consists of the contributors' uploads:

1. The server fixes the sum by its hash.
2. The key holder draws a challenge.
3. Every contributor signs the linear tags of its own upload under this challenge.
4. The tags must add up to those of the sum.

So a server that offers a single client's ciphertext, or a sum over different clients than it claims, gets nothing.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from secure_afl.crypto import ring
from secure_afl.crypto.identity import Identity
from secure_afl.crypto.kdf import KEY_BYTES, Label
from secure_afl.crypto.lattice import ckks
from secure_afl.crypto.lattice.parameter_sets import Residues
from secure_afl.protocol.homomorphic import messages, states
from secure_afl.protocol.homomorphic.agreement import AGREEMENT, Agreement, Encryption, Release
from secure_afl.protocol.homomorphic.keys import JointKey, WholeKey, public_key
from secure_afl.protocol.homomorphic.memory import HOLDER_MEMORY, HolderMemory
from secure_afl.protocol.homomorphic.messages import (
    Challenge,
    KeyAnnouncement,
    KeyCommitment,
    KeyCommitments,
    KeyShare,
    KeyShares,
    Offer,
    Opened,
    Opening,
)
from secure_afl.protocol.homomorphic.states import HolderState
from secure_afl.protocol.session.errors import LocalProtocolError, PolicyError
from secure_afl.protocol.session.ledger import Ledger
from secure_afl.protocol.session.parameters import (
    RoundSpec,
    SumPlan,
    demands,
    spending,
)
from secure_afl.protocol.session.party import SignedParty
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.roster import Roster
from secure_afl.protocol.session.wire import Message, WireError, answered, decode, encode, verify_frame

Solve = Callable[[SumPlan, npt.NDArray[np.float64], float, int], npt.NDArray[np.float64]]
"""Computes what is released, from a sum, the bound on the error of its entries, and its number of clients."""


class KeyHolder(SignedParty[HolderState, bytes, HolderMemory]):
    """One key holder in one encrypted session: a single one, or a member of a committee whose members are all needed.

    solve: with `Release.WEIGHTS`, the solver for a sum. A refused message changes nothing, with one exception: a sum
    whose opening failed is never opened.
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
        solve: Solve | None = None,
    ) -> None:
        super().__init__(identity, plan, AGREEMENT, messages.TO_HOLDER, HOLDER_MEMORY)
        self.number = holders.index(identity.verify_key)
        self.index = len(roster.members) + self.number
        self.name = holders.name(self.number)
        self.state = HolderState.START
        self._roster = roster
        self._holders = holders
        self._lattice, self._agreed = encryption.agreed(plan, len(roster.members), len(holders.members))
        self._encryption = encryption
        self._policy = policy
        self._ledger = ledger
        if (encryption.release is Release.WEIGHTS) != (solve is not None):
            raise LocalProtocolError("expected a way to solve if weights are released, and only then")
        self._solve = solve
        self._key: WholeKey | JointKey | None = None  # None before the session and after its last round
        members, key_holders = len(roster.members), len(holders.members)
        tags = 256 + key_holders * (9 * len(self._lattice.no_tags) + 9)
        longest = max((one.length for one in plan), default=0)
        opening = self._lattice.ciphertext_bytes(longest) + members * tags
        self.largest_message = max(opening, key_holders * (self._lattice.public_key_bytes + 256))
        self.largest_message += 512 * len(plan) + 1024
        self._steps = {
            Agreement: self._commit,
            KeyCommitments: self._share,
            KeyShares: self._announce,
            Offer: self._challenge,
            Opening: self._open,
        }

    def foresee(self, data: bytes) -> bool:
        """Record an opening: if it is interrupted, only the same opening of its round can be requested again."""
        if (
            self.state is not HolderState.CHALLENGED
            or self._memory.opening
            or len(data) > self.largest_message
        ):
            return False
        try:
            opens = isinstance(self._decoded(data), Opening)
        except WireError:
            return False
        if opens:
            self._memory.opening = answered(data)
        return opens

    def _legal(self) -> Mapping[type[Message], HolderState]:
        return states.HOLDER[self.state]

    def _fill(self, memory: HolderMemory) -> None:
        memory.secret = b"" if self._key is None else self._key.kept()

    def _check_kept(self, kept: HolderMemory) -> None:
        self._check_agreement(kept.agreement)

    def _begin(self, kept: HolderMemory) -> None:
        if kept.secret:
            self._key = self._made(kept.transcript, kept.secret)
        super()._begin(kept)

    def _made(self, transcript: bytes, secret: bytes | None = None) -> WholeKey | JointKey:
        """A new key, or a stored one."""
        holders = len(self._holders.members)
        if holders > 1:
            return JointKey(self._lattice, transcript, holders, secret)
        return WholeKey(self._lattice, secret)

    # ---- the key ---------------------------------------------------------------------------------

    def _check_agreement(self, agreement: Agreement) -> None:
        if (agreement.roster, agreement.holders) != (self._roster.digest, self._holders.digest):
            raise WireError(
                "expected the roster and key holders that this party was given, the server proposes others: compare files"
            )
        if agreement.cohort[-1] >= len(self._roster.members):
            raise WireError("expected a cohort of roster members, the proposal includes non-members")
        self._policy.check_backend(self._encryption.backend)
        self._policy.check_group("clients", len(agreement.cohort), len(self._roster.members))
        wanted = (self._lattice.name, self._encryption.release, self._encryption.masked, self._agreed)
        if (agreement.lattice, agreement.release, bool(agreement.masks), agreement.rounds) != wanted:
            raise WireError(
                f"expected the {len(self._agreed)} sums that were agreed on under {self._lattice.name}, releasing "
                f"the {self._encryption.release.value}, got a different plan"
            )

    def _commit(self, agreement: Agreement) -> bytes:
        self._check_agreement(agreement)
        self._ledger.join(agreement.session)
        self._begin(HolderMemory(agreement, self.state, self._answers, demands(self._plan)))
        self._key = self._made(self._transcript)
        return self._frame(
            KeyCommitment(messages.share_commitment(self._transcript, self.index, self._held.share))
        )

    def _share(self, message: KeyCommitments) -> bytes:
        commitments = {}
        if [who for who, _ in message.frames] != list(self._indices):
            raise WireError(
                f"expected commitments of {len(self._indices)} key holders, got {len(message.frames)}"
            )
        for (who, frame), holder in zip(message.frames, self._holders.members, strict=True):
            # All of them answered the same agreement.
            question = answered(encode(self._memory.agreement))
            encoded = verify_frame(frame, holder.verify_key, self._transcript, question, who)
            commitments[who] = decode(encoded, messages.COMMITMENT).digest
        self._memory.commitments = commitments
        return self._frame(KeyShare(self._held.share))

    def _announce(self, message: KeyShares) -> bytes:
        shares = dict(message.shares)
        if shares.keys() != self._memory.commitments.keys():
            raise WireError(f"expected shares of {len(self._indices)} key holders, got {len(shares)}")
        for who, share in shares.items():
            if messages.share_commitment(self._transcript, who, share) != self._memory.commitments[who]:
                name = self._holders.name(who - len(self._roster.members))
                raise WireError(f"the share of {name} is not the one that it committed to")
        public = public_key(self._lattice, self._transcript, [shares[who] for who in self._indices])
        parts = messages.key_parts(self._transcript, public)
        return self._frame(KeyAnnouncement(self._identity.sign(Label.KEY_SIGNATURE, *parts)))

    # ---- one sum ---------------------------------------------------------------------------------

    def _challenge(self, offer: Offer) -> bytes:
        before = self._memory.offer
        earlier = before.attempt if before is not None else -1
        # A server that offers a new sum gives up one whose opening was interrupted.
        spent = before.round if before is not None and self._memory.opening else self._memory.opened
        if not spent < offer.round < len(self._agreed) or offer.attempt <= earlier:
            raise WireError(
                f"expected a new attempt at a round from {spent + 1} to {len(self._agreed) - 1}, got attempt "
                f"{offer.attempt} at round {offer.round}"
            )
        if not set(offer.contributors) <= set(self._memory.agreement.cohort):
            raise WireError("expected contributors out of the cohort, the offer includes non-members")
        plan = self._plan[offer.round]
        self._policy.check_group(
            "contributors", len(offer.contributors), len(self._roster.members), plan.survivors
        )
        if plan.same_survivors and self._memory.related not in (None, offer.contributors):
            raise PolicyError(
                f"expected the {len(self._memory.related or ())} contributors of the sums before, the server named "
                f"{len(offer.contributors)}, not the same: the difference of the sums could tell of one client"
            )
        seed = secrets.token_bytes(KEY_BYTES)
        parts = messages.challenge_parts(offer, seed)
        challenge = Challenge(seed, self._identity.sign(Label.CHALLENGE_SIGNATURE, *parts))
        self._memory.offer, self._memory.challenge = offer, challenge
        self._memory.opened, self._memory.opening = spent, b""
        return self._frame(challenge)

    def _open(self, opening: Opening) -> bytes:
        offer, challenge = self._memory.offer, self._memory.challenge
        assert offer is not None
        assert challenge is not None
        if offer.round <= self._memory.opened:
            raise WireError(f"expected a sum that was not opened yet, got that of round {offer.round}")
        if self._memory.opening not in (b"", self._answers):
            raise WireError(
                f"expected the opening of round {offer.round} that was broken off, this message differs: one sum of a round is opened"
            )
        self._memory.opening = b""
        check = decode(opening.check, messages.CHECK)
        if check.offer != offer or check.challenges[self.number : self.number + 1] != (challenge,):
            raise WireError(
                "expected the check of the sum that was offered last, this one is of an earlier offer"
            )
        data_sets = self._check_tags(opening, offer, challenge)
        self._ledger.use_all(
            data_sets,
            self._memory.agreement.session,
            spends=spending(self._plan),
            budget=self._policy.budget,
        )
        # From here on this statistic is spent, even on failure: no failed opening can be repeated.
        self._memory.opened = offer.round
        payload = self._released(offer, self._lattice.unpack(opening.ciphertexts, self._spec(offer).length))
        if self._plan[offer.round].same_survivors:
            self._memory.related = offer.contributors
        if offer.round == len(self._agreed) - 1:
            self._key = None  # nothing left to open
        return self._frame(Opened(offer.round, memoryview(payload)))

    def _check_tags(self, opening: Opening, offer: Offer, challenge: Challenge) -> list[str]:
        """The ledger's names of the contributors' data sets. Raises `WireError` or `CryptoError` unless the ciphertexts
        are the sum of the contributors' uploads.
        """
        if tuple(who for who, _ in opening.frames) != offer.contributors:
            raise WireError(
                f"expected tags of {len(offer.contributors)} contributors, got {len(opening.frames)}"
            )
        if messages.ciphertexts_digest(self._transcript, opening.ciphertexts) != offer.ciphertexts:
            raise WireError("expected the ciphertexts that were offered, these have another digest")
        total = self._lattice.unpack(opening.ciphertexts, self._spec(offer).length)
        question, expected, data_sets = answered(opening.check), self._lattice.no_tags, []
        for who, frame in opening.frames:
            member = self._roster.members[who]
            try:
                encoded = verify_frame(frame, member.verify_key, self._transcript, question, who)
                tags = decode(encoded, messages.TAGS)
                if len(tags.tags) != len(self._holders.members):
                    raise WireError(
                        f"expected tags for {len(self._holders.members)} key holders, got {len(tags.tags)}"
                    )
            except WireError as error:
                raise WireError(f"the tags of {member.name}: {error}") from None
            expected = self._lattice.add_tags(expected, tags.tags[self.number])
            data_sets.append(messages.known_as(member.name, tags.data_set))
        if self._lattice.tags(total, challenge.seed) != expected:
            raise WireError(
                "expected the sum of what the contributors uploaded, got other ciphertexts: the server altered it, or a "
                "contributor's tags are wrong"
            )
        return data_sets

    def _released(self, offer: Offer, total: Residues) -> bytes:
        spec, summands = self._spec(offer), len(offer.contributors)
        encoding = spec.encoding(len(self._roster.members))
        key = self._held
        if isinstance(key, JointKey):
            return key.part(total, len(self._roster.members))
        if self._lattice.plain_modulus:
            words = key.words(total, spec.length)
            if self._encryption.masked:
                return words.tobytes()
            units = ring.centred(words, self._lattice.plain_modulus).view(np.uint64)
            values = encoding.decode_sum(units, summands)
            if self._encryption.release is Release.SUM:
                return words.tobytes()
        else:
            decryptions = self._memory.agreement.decryptions
            flooded = ckks.flood(total, self._lattice, encoding, summands, decryptions)
            slots = key.slots(flooded, spec.length)
            values = ckks.released(slots, self._lattice, encoding, summands, decryptions)
            if self._encryption.release is Release.SUM:
                return values.tobytes()
        assert self._solve is not None
        plan = self._plan[offer.round]
        error = self._memory.agreement.entry_error(offer.round, plan, len(self._roster.members), summands)
        return self._solve(plan, values, error, summands).tobytes()

    # ---- small steps -----------------------------------------------------------------------------

    @property
    def _indices(self) -> range:
        """The indices of all key holders."""
        return range(len(self._roster.members), len(self._roster.members) + len(self._holders.members))

    @property
    def _held(self) -> WholeKey | JointKey:
        assert self._key is not None  # a session has begun, and a round is left to open
        return self._key

    def _spec(self, offer: Offer) -> RoundSpec:
        return self._agreed[offer.round]
