"""A key holder of encrypted sums, sans-IO: it opens one approved sum of each statistic, and nothing else.

It never sees a client's ciphertext. What it opens is what the contributors uploaded: after the server has
fixed the sum (by its hash), the key holder draws a challenge, every contributor signs the linear tags of its own
upload under it, and the tags must add up to those of the sum. A server that offers a single client's
ciphertext, a sum of others than it says, or anything else, gets nothing.
"""

import secrets
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from secure_afl.crypto import ckks, ring
from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.identity import Identity
from secure_afl.crypto.kdf import KEY_BYTES, Label
from secure_afl.crypto.lattice import Residues
from secure_afl.protocol.errors import LocalProtocolError, PolicyError, RemoteProtocolError, check_size
from secure_afl.protocol.homomorphic import messages, states
from secure_afl.protocol.homomorphic.agreement import AGREEMENT, Agreement, Encryption, Release
from secure_afl.protocol.homomorphic.keys import JointKey, WholeKey, public_key
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
from secure_afl.protocol.ledger import Ledger
from secure_afl.protocol.parameters import RoundSpec, SumPlan
from secure_afl.protocol.policy import Policy
from secure_afl.protocol.roster import Roster
from secure_afl.protocol.wire import Message, WireError, answered, decode, encode, sign_frame, verify_frame

Solve = Callable[[SumPlan, npt.NDArray[np.float64], float], npt.NDArray[np.float64]]
"""From a sum, and the bound on the error of its entries, what is released in its place."""


class KeyHolder:
    """One key holder in one encrypted session; alone, or one of a committee of which all are needed.

    solve: with `Release.WEIGHTS`, how a sum is solved. Of messages it refuses, nothing changes, but that a sum
    which it tried to open and could not is never opened.
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
        self.number = holders.place(identity.verify_key)
        self.place = len(roster.members) + self.number
        self.name = holders.name(self.number)
        self.state = HolderState.START
        self._identity = identity
        self._roster = roster
        self._holders = holders
        self._plan = tuple(plan)
        self._lattice, self._agreed = encryption.agreed(plan, len(roster.members), len(holders.members))
        self._encryption = encryption
        self._policy = policy
        self._ledger = ledger
        if (encryption.release is Release.WEIGHTS) != (solve is not None):
            raise LocalProtocolError("expected a way to solve if weights are released, and only then")
        self._solve = solve
        self._answers = b""
        self._offer: Offer | None = None
        self._opened = -1  # the last round that was opened
        self._related: tuple[int, ...] | None = (
            None  # contributors of the sums of which the plan says the same
        )
        members, keepers = len(roster.members), len(holders.members)
        tags = 256 + keepers * (9 * len(self._lattice.no_tags) + 9)
        longest = max((one.length for one in plan), default=0)
        opening = self._lattice.ciphertext_bytes(longest) + members * tags
        self._largest_message = max(opening, keepers * self._lattice.public_key_bytes)
        self._largest_message += 16 * members + 256 * keepers + 512 * len(plan) + 1024
        self._steps: dict[type, Callable[[Any], bytes]] = {
            Agreement: self._commit,
            KeyCommitments: self._share,
            KeyShares: self._announce,
            Offer: self._challenge,
            Opening: self._open,
        }

    def __repr__(self) -> str:
        return f"KeyHolder({self.name}, {self.state.value})"

    def receive(self, data: bytes) -> bytes:
        """Take one message of the server; give the frame that answers it."""
        check_size(self.name, data, self._largest_message)
        question, self._answers = self._answers, answered(data)
        try:
            if self.state is HolderState.START:
                message: Message = decode(data, AGREEMENT)
            else:
                message = decode(data, messages.TO_HOLDER)
                if message.transcript != self._transcript:
                    raise WireError(
                        f"expected a message of session {self._transcript.hex()[:16]}…, got another's"
                    )
            legal = states.HOLDER[self.state]
            if type(message) not in legal:
                expected = " or ".join(kind.__name__ for kind in legal)
                raise WireError(
                    f"in state {self.state.value} expected {expected}, got {type(message).__name__}"
                )
            answer = self._steps[type(message)](message)
        except (WireError, CryptoError) as error:
            self._answers = question
            raise RemoteProtocolError(self.name, "the server", str(error)) from None
        except PolicyError as error:
            self._answers = question
            raise PolicyError(f"{self.name}: {error}") from None
        self.state = legal[type(message)]
        return answer

    # ---- the key ---------------------------------------------------------------------------------

    def _commit(self, agreement: Agreement) -> bytes:
        if (agreement.roster, agreement.holders) != (self._roster.digest, self._holders.digest):
            raise WireError("expected the members and key holders that this one was given, got others")
        if agreement.cohort[-1] >= len(self._roster.members):
            raise WireError("expected a cohort of roster members, got others too")
        self._policy.check_backend(self._encryption.backend)
        self._policy.check_group("clients", len(agreement.cohort), len(self._roster.members))
        wanted = (self._lattice.name, self._encryption.release, self._encryption.masked, self._agreed)
        if (agreement.lattice, agreement.release, bool(agreement.masks), agreement.rounds) != wanted:
            raise WireError(
                f"expected the {len(self._agreed)} sums that were agreed on under {self._lattice.name}, releasing "
                f"the {self._encryption.release.value}, got others"
            )
        self._ledger.join(agreement.session)
        self._agreement, self._transcript = agreement, agreement.transcript()
        holders = len(self._holders.members)
        self._key = (
            JointKey(self._lattice, self._transcript, holders) if holders > 1 else WholeKey(self._lattice)
        )
        return self._frame(
            KeyCommitment(messages.share_commitment(self._transcript, self.place, self._key.share))
        )

    def _share(self, message: KeyCommitments) -> bytes:
        commitments = {}
        if [who for who, _ in message.frames] != list(self._places):
            raise WireError(
                f"expected commitments of {len(self._places)} key holders, got {len(message.frames)}"
            )
        for (who, frame), holder in zip(message.frames, self._holders.members, strict=True):
            # Every one of them answered the same agreement.
            question = answered(encode(self._agreement))
            encoded = verify_frame(frame, holder.verify_key, self._transcript, question, who)
            commitments[who] = decode(encoded, messages.COMMITMENT).digest
        self._commitments = commitments
        return self._frame(KeyShare(self._key.share))

    def _announce(self, message: KeyShares) -> bytes:
        shares = dict(message.shares)
        if shares.keys() != self._commitments.keys():
            raise WireError(f"expected shares of {len(self._places)} key holders, got {len(shares)}")
        for who, share in shares.items():
            if messages.share_commitment(self._transcript, who, share) != self._commitments[who]:
                name = self._holders.name(who - len(self._roster.members))
                raise WireError(f"the share of {name} is not the one that it committed to")
        public = public_key(self._lattice, self._transcript, [shares[who] for who in self._places])
        parts = messages.key_parts(self._transcript, public)
        return self._frame(KeyAnnouncement(self._identity.sign(Label.KEY_SIGNATURE, *parts)))

    # ---- one sum ---------------------------------------------------------------------------------

    def _challenge(self, offer: Offer) -> bytes:
        earlier = self._offer.attempt if self._offer is not None else -1
        if not self._opened < offer.round < len(self._agreed) or offer.attempt <= earlier:
            raise WireError(
                f"expected a new attempt at a round from {self._opened + 1} to {len(self._agreed) - 1}, got attempt "
                f"{offer.attempt} at round {offer.round}"
            )
        if not set(offer.contributors) <= set(self._agreement.cohort):
            raise WireError("expected contributors out of the cohort, got others too")
        plan = self._plan[offer.round]
        self._policy.check_group(
            "contributors", len(offer.contributors), len(self._roster.members), plan.survivors
        )
        if plan.same_survivors and self._related not in (None, offer.contributors):
            raise PolicyError(
                f"expected the {len(self._related or ())} contributors of the sums before, the server named "
                f"{len(offer.contributors)}, not the same: the difference of the sums could tell of one client"
            )
        self._offer, self._seed = offer, secrets.token_bytes(KEY_BYTES)
        parts = messages.challenge_parts(offer, self._seed)
        self._challenged = Challenge(self._seed, self._identity.sign(Label.CHALLENGE_SIGNATURE, *parts))
        return self._frame(self._challenged)

    def _open(self, opening: Opening) -> bytes:
        offer = self._offer
        assert offer is not None
        if offer.round <= self._opened:
            raise WireError(f"expected a sum that was not opened yet, got that of round {offer.round}")
        check = decode(opening.check, messages.CHECK)
        if check.offer != offer or check.challenges[self.number : self.number + 1] != (self._challenged,):
            raise WireError("expected the check of the sum that was offered last, got another")
        data_sets = self._check_tags(opening, offer)
        self._ledger.use_all(data_sets, self._agreement.session)
        # From here on this statistic is spent, also if nothing comes of it: no failure can be asked for again.
        self._opened = offer.round
        payload = self._released(offer, self._lattice.unpack(opening.ciphertexts, self._spec(offer).length))
        if self._plan[offer.round].same_survivors:
            self._related = offer.contributors
        if offer.round == len(self._agreed) - 1:
            del self._key  # nothing is left to open
        return self._frame(Opened(offer.round, memoryview(payload)))

    def _check_tags(self, opening: Opening, offer: Offer) -> list[str]:
        """The names under which the ledger knows the contributors' data. Raises `WireError` or `CryptoError` unless the
        ciphertexts are the sum of what the contributors uploaded.
        """
        if tuple(who for who, _ in opening.frames) != offer.contributors:
            raise WireError(
                f"expected tags of {len(offer.contributors)} contributors, got {len(opening.frames)}"
            )
        if messages.ciphertexts_digest(self._transcript, opening.ciphertexts) != offer.ciphertexts:
            raise WireError("expected the ciphertexts that were offered, got others")
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
        if self._lattice.tags(total, self._seed) != expected:
            raise WireError(
                "expected the sum of what the contributors uploaded, got other ciphertexts: the server altered it, or a "
                "contributor's tags are wrong"
            )
        return data_sets

    def _released(self, offer: Offer, total: Residues) -> bytes:
        spec, summands = self._spec(offer), len(offer.contributors)
        code = spec.code(len(self._roster.members))
        if isinstance(self._key, JointKey):
            return self._key.part(total, len(self._roster.members))
        if self._lattice.plain_modulus:
            words = self._key.words(total, spec.length)
            if self._encryption.masked:
                return words.tobytes()
            units = ring.centred(words, self._lattice.plain_modulus).view(np.uint64)
            values = code.decode_sum(units, summands)
            if self._encryption.release is Release.SUM:
                return words.tobytes()
        else:
            decryptions = self._agreement.decryptions
            flooded = ckks.flood(total, self._lattice, code, summands, decryptions)
            slots = self._key.slots(flooded, spec.length)
            values = ckks.released(slots, self._lattice, code, summands, decryptions)
            if self._encryption.release is Release.SUM:
                return values.tobytes()
        assert self._solve is not None
        plan = self._plan[offer.round]
        error = self._agreement.entry_error(offer.round, plan, len(self._roster.members), summands)
        return self._solve(plan, values, error).tobytes()

    # ---- small steps -----------------------------------------------------------------------------

    @property
    def _places(self) -> range:
        """The numbers of all key holders."""
        return range(len(self._roster.members), len(self._roster.members) + len(self._holders.members))

    def _spec(self, offer: Offer) -> RoundSpec:
        return self._agreed[offer.round]

    def _frame(self, message: KeyCommitment | KeyShare | KeyAnnouncement | Challenge | Opened) -> bytes:
        return sign_frame(self._identity, self._transcript, self._answers, self.place, message)
