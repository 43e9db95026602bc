"""A client of masked sums, which makes the masks (`contribute`). Sans-IO: bytes in, bytes out; no socket, thread, clock
or global."""

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from secure_afl.crypto import ring
from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.hpke import seal
from secure_afl.crypto.identity import Identity
from secure_afl.crypto.kdf import KEY_BYTES
from secure_afl.crypto.prg import add_keystreams
from secure_afl.crypto.shamir import SHARE_BYTES, split
from secure_afl.protocol.masking import messages, replay, states, tags
from secure_afl.protocol.masking.memory import MEMORY, Accepted, Masked, Memory, RoundKeys
from secure_afl.protocol.masking.messages import (
    Advertise,
    Answer,
    Bundle,
    Confirm,
    Consent,
    Consents,
    Delivery,
    Directory,
    Evidence,
    Reveal,
    Shares,
    SumRequest,
    SurvivorRoots,
    Survivors,
    Upload,
    Verdict,
    Vote,
)
from secure_afl.protocol.masking.states import ClientState
from secure_afl.protocol.session import graph
from secure_afl.protocol.session.errors import LocalProtocolError, PolicyError, check_size
from secure_afl.protocol.session.ledger import Ledger
from secure_afl.protocol.session.parameters import (
    PARAMETERS,
    Parameters,
    Profile,
    RoundSpec,
    SumPlan,
    SumWanted,
    Values,
    VerifiedSum,
    demands,
    spending,
)
from secure_afl.protocol.session.party import SignedParty
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import MODES, Verify
from secure_afl.protocol.session.roster import Roster
from secure_afl.protocol.session.wire import (
    Message,
    WireError,
    answered,
    decode,
    rooted_frame,
    verify_frame,
)


class MaskingClient(SignedParty[ClientState, bytes | SumWanted, Memory]):
    """One client in one session.

    The client knows beforehand who the members are, which sums were agreed on (`plan`), and what it
    insists on. `receive` takes a message of the server and gives the answer to send, or `SumWanted`, which the
    program answers through `contribute`. A message that is refused raises `RemoteProtocolError` or
    `PolicyError` and changes nothing.

    Where sums are checked (`Parameters.verify`), a client that finds an opened sum wrong answers so, forgets its secrets and
    takes part in nothing more of that session; `verified` has the sums that it accepted.

    log_head: gives the digest of the last line of the client's audit log, empty if it keeps none.
    agreed: where the plan's sums travel encrypted besides (`RoundSpec.modulus`), the rounds as agreed for that;
    `contribute` then gives an upload without payload, and `masked` what to encrypt.
    """

    def __init__(
        self,
        identity: Identity,
        roster: Roster,
        plan: Sequence[SumPlan],
        policy: Policy,
        ledger: Ledger,
        *,
        agreed: Sequence[RoundSpec] | None = None,
        log_head: Callable[[], bytes] = bytes,
    ) -> None:
        super().__init__(identity, plan, PARAMETERS, messages.FROM_SERVER, MEMORY)
        self.index = roster.index(identity.verify_key)
        self.name = roster.name(self.index)
        self.state = ClientState.START
        self._roster = roster
        # What a server must propose; a plan that fits no word is our own program's fault, and said here.
        self._agreed = tuple(agreed or (one.spec(len(roster.members)) for one in plan))
        self._policy = policy
        self._ledger = ledger
        self._log_head = log_head
        self._largest = messages.largest_message(len(roster.members), self._agreed)
        self.largest_message = messages.largest_message(
            len(roster.members), self._agreed, replay=Verify.REPLAY in policy.verify
        )
        self._steps = {
            Parameters: self._advertise,
            Directory: self._share,
            Delivery: self._confirm,
            SumRequest: self._want,
            Survivors: self._consent,
            SurvivorRoots: self._consent,
            Consents: self._reveal_with_consents,
            Answer: self._judge,
            Evidence: self._replay,
        }

    def receive(self, data: bytes) -> bytes | SumWanted:
        if not data.startswith(messages.EVIDENCE, 1):  # only evidence has the uploads of all
            check_size(self.name, data, self._largest)
        return super().receive(data)

    def _legal(self) -> Mapping[type[Message], ClientState]:
        mode = MODES[0] if self.state is ClientState.START else self._memory.parameters.mode
        return states.CLIENT[mode][self.state]

    def _check_kept(self, kept: Memory) -> None:
        self._check_invitation(kept.parameters)

    def _begin(self, kept: Memory) -> None:
        super()._begin(kept)
        self._neighbours = graph.Graph(kept.parameters)[self.index]

    # ---- phases 0 to 2: keys and shares for all rounds -------------------------------------------

    def _check_invitation(self, parameters: Parameters) -> None:
        if parameters.roster != self._roster.digest:
            raise WireError(
                "expected the roster that this client was given, the server proposes another: compare roster files"
            )
        if self.index not in parameters.cohort or parameters.cohort[-1] >= len(self._roster.members):
            raise WireError(
                f"expected a cohort of roster members with {self.name} in it, the proposal omits it or includes non-members"
            )
        self._policy.check(parameters, len(self._roster.members))
        self._policy.check_plan(self._plan, parameters.profile, parameters.verify)
        if parameters.verify is Verify.TAGS:
            try:
                tags.check_allowed()  # before the data set is spent
            except CryptoError as error:
                raise PolicyError(str(error)) from None
        if parameters.rounds != self._agreed:
            differs = next(
                (a.statistic for a, b in zip(self._agreed, parameters.rounds, strict=False) if a != b), None
            )
            raise WireError(
                f"expected the {len(self._agreed)} sums that were agreed on, got {len(parameters.rounds)}"
                + (
                    f", with another name, length, bound, noise or encoding for {differs!r}"
                    if differs
                    else ""
                )
            )

    def _advertise(self, parameters: Parameters) -> bytes:
        self._check_invitation(parameters)
        self._ledger.join(parameters.session)
        rounds = {
            number: RoundKeys(
                parameters.suite, secrets.token_bytes(KEY_BYTES), secrets.token_bytes(KEY_BYTES)
            )
            for number in range(len(parameters.rounds))
        }
        self._begin(
            Memory(
                parameters=parameters,
                state=self.state,
                answers=self._answers,
                invitation=self._answers,
                demands=demands(self._plan),
                channel_seed=secrets.token_bytes(KEY_BYTES),
                rounds=rounds,
            )
        )
        mask_keys = tuple(keys.mask_key.public_key for keys in rounds.values())
        commitment = b""
        if self._tags:
            secret = self._memory.tag_secrets[self.index] = secrets.token_bytes(KEY_BYTES)
            commitment = tags.commitment(self._transcript, self.index, secret)
        advertise = Advertise(self._memory.channel.public_key, mask_keys, commitment)
        self._memory.advertised = self._frame(advertise)
        return self._memory.advertised

    def _share(self, directory: Directory) -> bytes:
        advertised = {}
        for sender, frame in directory.frames:
            if sender != self.index and sender not in self._neighbours:
                raise WireError(f"expected keys of neighbours only, got {self._roster.name(sender)}'s")
            verify_key = self._roster.members[sender].verify_key
            try:
                advertise = decode(
                    verify_frame(frame, verify_key, self._transcript, self._memory.invitation, sender),
                    messages.ADVERTISE,
                )
                advertise.check(
                    self._memory.parameters.suite, len(self._memory.rounds), self._memory.parameters.verify
                )
            except WireError as error:
                raise WireError(f"the keys of {self._roster.name(sender)}: {error}") from None
            advertised[sender] = advertise
        if (self.index, self._memory.advertised) not in directory.frames:
            raise WireError(
                "expected this client's own keys back as it sent them, the server altered or omitted them"
            )
        if len(advertised) < self._memory.parameters.threshold:
            raise WireError(
                f"expected keys of at least {self._memory.parameters.threshold}, got {len(advertised)}"
            )
        del advertised[self.index]
        answer = self._frame(self._deal(advertised))
        self._memory.directory = directory.digest()
        self._memory.advertisers = frozenset(advertised)
        self._memory.tag_commitments = {who: one.tag_commitment for who, one in advertised.items()}
        return answer

    def _deal(self, advertised: dict[int, Advertise]) -> Shares:
        suite, threshold, here = self._memory.parameters.suite, self._memory.parameters.threshold, self.index
        # The dealer is one of the holders: of its self mask it may reveal a share, of its mask seed never.
        points = [index + 1 for index in (*advertised, here)]
        dealt = {
            number: (split(keys.mask_seed, threshold, points), split(keys.self_seed, threshold, points))
            for number, keys in self._memory.rounds.items()
        }
        pair_secrets: dict[int, dict[int, bytes]] = {number: {} for number in self._memory.rounds}
        bundles = []
        for holder, advertise in sorted(advertised.items()):
            shares = [(seeds[holder + 1], selfs[holder + 1]) for seeds, selfs in dealt.values()]
            held: list[tuple[bytes, ...]] = [*shares]
            sealed_secrets: list[bytes] = []
            if here < holder:
                for number, keys in self._memory.rounds.items():
                    secret = messages.pair_secret(keys.mask_seed, self._transcript, number, holder)
                    pair_secrets[number][holder] = secret
                    held[number] = (*shares[number], secret)
                    info = messages.pair_info(self._transcript, number, here, holder)
                    sealed_secrets.append(seal(suite, advertise.mask_keys[number], secret, info))
            bundles.append(
                Bundle.sign(
                    self._identity,
                    self._transcript,
                    here,
                    recipient=holder,
                    sealed=seal(
                        suite,
                        advertise.channel_key,
                        b"".join(part for pair in shares for part in pair)
                        + self._memory.tag_secrets.get(here, b""),
                        messages.shares_info(self._transcript, here, holder),
                    ),
                    pair_secrets=tuple(sealed_secrets),
                    commitments=tuple(
                        self._commitments(number, here, holder, held[number]) for number in dealt
                    ),
                )
            )
        # Nothing is kept before every key has proved to be one: a refusal changes nothing.
        for number, keys in self._memory.rounds.items():
            keys.own_share = dealt[number][messages.SELF_SHARE][here + 1]
            keys.pair_secrets.update(pair_secrets[number])
        own_commitments = tuple(
            messages.own_commitments(self._transcript, number, here, keys.self_seed, keys.own_share)
            for number, keys in self._memory.rounds.items()
        )
        return Shares(own_commitments, tuple(bundles))

    def _confirm(self, delivery: Delivery) -> bytes:
        for dealer, _ in delivery.bundles:
            if dealer not in self._memory.advertisers:
                raise WireError(
                    f"expected shares of neighbours that advertised, got {self._roster.name(dealer)}'s"
                )
        complaints = []
        for dealer, bundle in delivery.bundles:
            try:
                self._accept(dealer, bundle)
            except (WireError, CryptoError):
                complaints.append(dealer)
        self._memory.dealers = frozenset(dealer for dealer, _ in delivery.bundles) - frozenset(complaints)
        self._memory.forget_channel()
        self._memory.tag_commitments = {}
        return self._frame(Confirm(tuple(complaints)))

    def _accept(self, dealer: int, bundle: Bundle) -> None:
        if bundle.recipient != self.index:
            raise WireError(f"expected a bundle for {self.name}")
        bundle.check(
            self._memory.parameters.suite, len(self._memory.rounds), dealer, self._memory.parameters.verify
        )
        bundle.verify(self._roster.members[dealer].verify_key, self._transcript, dealer)
        plain = self._memory.channel.open(
            bundle.sealed, messages.shares_info(self._transcript, dealer, self.index)
        )
        accepted = []
        for number, keys in self._memory.rounds.items():
            at = number * 2 * SHARE_BYTES
            shares = (plain[at : at + SHARE_BYTES], plain[at + SHARE_BYTES : at + 2 * SHARE_BYTES])
            held: tuple[bytes, ...] = shares
            if bundle.pair_secrets:
                info = messages.pair_info(self._transcript, number, dealer, self.index)
                held = (*shares, keys.mask_key.open(bundle.pair_secrets[number], info))
            if bundle.commitments[number] != self._commitments(number, dealer, self.index, held):
                raise CryptoError("a share or pair secret is not the one that was committed to")
            accepted.append((keys, shares, held[2:]))
        if self._tags:
            tag_secret = plain[-KEY_BYTES:]
            if tags.commitment(self._transcript, dealer, tag_secret) != self._memory.tag_commitments[dealer]:
                raise CryptoError(
                    "the secret for tags is not the one that was committed to before all clients"
                )
            self._memory.tag_secrets[dealer] = tag_secret
        for keys, shares, secret in accepted:
            keys.shares[dealer] = shares
            for pair_secret in secret:
                keys.pair_secrets[dealer] = pair_secret

    # ---- phases 3 to 5: one sum ------------------------------------------------------------------

    def _want(self, request: SumRequest) -> SumWanted:
        if request.round not in self._memory.rounds:
            raise WireError(
                f"expected one of the rounds {sorted(self._memory.rounds)} that are still to come, got {request.round}"
            )
        participants = frozenset(request.participants)
        unknown = participants - frozenset(self._memory.parameters.cohort)
        if unknown or self.index not in participants:
            raise WireError(
                f"expected participants out of the cohort with {self.name} among them, the request omits it or includes "
                "non-members"
            )
        unshared = (participants & self._neighbours) - self._memory.dealers
        if unshared:
            raise WireError(
                f"expected neighbours whose shares this client holds, got {self._roster.name(min(unshared))} too"
            )
        self._check_group("participants", participants, request.round)
        self._memory.round = request.round
        self._memory.participants = participants
        self._memory.current = None  # a round that this client uploaded for and did not see through
        self._memory.tag_key = b""
        return self.wanted

    def contribute(self, wanted: SumWanted, values: Values, data_set: str) -> bytes:
        """Mask `values` (float64, as many as `wanted.spec` says): the upload that answers `wanted`.

        data_set: what its owner calls the data behind the vector; the ledger lets it serve one session only.

        Raises `LocalProtocolError` if this sum is not wanted (any more) or the shape is wrong, `PolicyError`
        if the data set was used in another session, `CryptoError` if a value is not finite or over the
        agreed bound. Nothing has left the client then, and it may try again.
        """
        if self.state is not ClientState.REQUESTED or wanted != self.wanted:
            raise LocalProtocolError(
                f"{self.name}: the sum of round {wanted.round} is not wanted in state {self.state.value}"
            )
        spec = self._spec
        if values.shape != (spec.length,):
            raise LocalProtocolError(f"{self.name}: expected {spec.length} values, got shape {values.shape}")
        encoding = spec.encoding(len(self._memory.parameters.cohort))
        units = self._plan[wanted.round].encode(values, encoding)
        try:
            self._ledger.use(
                data_set,
                self._memory.parameters.session,
                leaves=not spec.modulus,
                spends=spending(self._plan),
                budget=self._policy.budget,
            )
        except PolicyError as error:
            raise PolicyError(f"{self.name}: {error}") from None
        # Out of the dictionary: no later request, not even for this round, can mask a second vector with them.
        keys = self._memory.current = self._memory.rounds.pop(self._memory.round)
        # Rounds that were passed over are over.
        self._memory.rounds = {
            number: later for number, later in self._memory.rounds.items() if number > self._memory.round
        }
        pairs = {
            other: messages.pair_mask_key(
                keys.pair_secrets[other], self._transcript, self._memory.round, self.index, other
            )
            for other in self._memory.participants & self._neighbours
        }
        own = messages.self_mask_key(keys.self_seed, self._transcript, self._memory.round, self.index)
        words: ring.Words = units
        if not spec.modulus:
            words = units.astype(ring.words_of(spec.width), copy=False)
        proof = self._proof(words, keys, pairs)
        if spec.modulus:
            words = ring.modular(units, spec.modulus)
        add_keystreams(
            words,
            plus=[own, *(key for other, key in pairs.items() if other > self.index)],
            minus=[key for other, key in pairs.items() if other < self.index],
            modulus=spec.modulus,
        )
        self.state = ClientState.UPLOADED
        payload = memoryview(b"")
        if spec.modulus:
            self._memory.masked = Masked(self._memory.round, words.astype("<u8").tobytes(), data_set)
        else:
            payload = ring.pack(words, spec.width)
        upload = Upload(self._memory.round, payload, proof)
        frame, self._memory.upload = rooted_frame(
            self._identity, self._transcript, self._answers, self.index, upload
        )
        return frame

    def _proof(self, units: ring.Words, keys: RoundKeys, pairs: Collection[int]) -> bytes:
        """See `Upload`."""
        if self.verify is Verify.TAGS:
            return self._tagged(units, keys, pairs)
        if self.verify is Verify.REPLAY:
            secrets = {other: keys.pair_secrets[other] for other in pairs}
            here = (self._memory.round, self.index, keys.self_seed)
            return messages.mask_commitments(self._transcript, *here, secrets)
        return b""

    def _tagged(self, units: ring.Words, keys: RoundKeys, pairs: Collection[int]) -> bytes:
        """The masked tag of this client's vector; the round's key is kept for the check of the sum."""
        memory, here, spec = self._memory, self.index, self._spec
        participants = sorted(memory.participants)
        memory.tag_key = tags.round_key(
            [memory.tag_secrets[one] for one in participants],
            self._transcript,
            memory.directory,
            memory.round,
            participants,
        )
        key = tags.TagKey(memory.tag_key, len(participants))
        tag = key.tag(units, spec.magnitude, spec.word_bytes, participants.index(here))
        tag += tags.self_mask(keys.self_seed, self._transcript, memory.round, here)
        for other in pairs:
            secret = keys.pair_secrets[other]
            mask = tags.pair_mask(secret, self._transcript, memory.round, here, other)
            tag += mask if here < other else -mask
        if not memory.rounds:
            memory.tag_secrets = {}  # this was the session's last key
        return tags.packed(tag)

    @property
    def session(self) -> tuple[bytes, bytes]:
        """The session's number and transcript. Raises `LocalProtocolError` before a session exists."""
        if self.state is ClientState.START:
            raise LocalProtocolError(f"{self.name}: no masked session has begun")
        return self._memory.parameters.session, self._transcript

    def masked(self, number: int) -> tuple[npt.NDArray[np.uint64], str]:
        """The masked vector of the last contributed round, for encryption, and its data set's name."""
        masked = self._memory.masked if self.state is not ClientState.START else None
        if masked is None or masked.round != number:
            raise LocalProtocolError(f"{self.name}: nothing was masked for round {number}")
        return np.frombuffer(masked.words, "<u8").astype(np.uint64), masked.data_set

    def _consent(self, message: Survivors | SurvivorRoots) -> bytes:
        self._check_round(message.round)
        roots = message.roots if isinstance(message, SurvivorRoots) else ()
        if isinstance(message, SurvivorRoots) and (self.index, self._memory.upload) not in roots:
            raise WireError(
                f"expected the root of the upload that {self.name} sent, the server names another or none"
            )
        survivors = frozenset(message.survivors)
        if not survivors <= self._memory.participants:
            raise WireError(
                "expected survivors out of this round's participants, the server names clients that were not asked"
            )
        if self.index not in survivors:
            raise WireError(f"{self.name} uploaded, yet the server declares it dropped out")
        self._check_group("survivors", survivors, message.round)
        if self._plan[message.round].same_survivors:
            if self._memory.related not in (None, survivors):
                raise PolicyError(
                    f"expected the {len(self._memory.related or ())} survivors of the sums before, the server named "
                    f"{len(survivors)}, not the same: the difference of the sums could tell of one client"
                )
            self._memory.related = survivors
        self._memory.survivors, self._memory.roots = survivors, tuple(root for _, root in roots)
        if self._memory.parameters.profile is Profile.SEMI_HONEST:
            return self._reveal()
        opened = {number: one.digest for number, one in self._memory.accepted.items()}
        vote = Vote.sign(
            self._identity,
            self._consent_parts(),
            upload=self._memory.upload,
            accepted=messages.accepted_sums(opened, self.index),
            log=self._log_head(),
        )
        return self._frame(Consent(self._memory.round, vote))

    def _reveal_with_consents(self, consents: Consents) -> bytes:
        self._check_round(consents.round)
        threshold, valid, parts = self._memory.parameters.threshold, 0, self._consent_parts()
        for sender, vote in consents.votes:
            if sender not in self._memory.survivors:
                raise WireError(f"expected consents of survivors, got {self._roster.name(sender)}'s")
            try:
                vote.verify(self._roster.members[sender].verify_key, parts)
            except CryptoError:
                continue
            if self._contradicts(sender, vote.accepted):
                continue
            valid += 1
            if valid == threshold:
                return self._reveal()
        raise WireError(
            f"expected at least {threshold} consents to the survivor set that this client was shown, got {valid}: "
            "the others were shown another view, or another sum before, or too few are left"
        )

    def _contradicts(self, sender: int, accepted: bytes) -> bool:
        """Whether another client accepted other sums than this one did: all sums of rounds of which this one accepted a sum, too,
        are compared at once. With a sum that this client was not given they cannot be.
        """
        mine = self._memory.accepted
        if not accepted or not mine.keys() >= set(rounds := messages.accepted_rounds(accepted)):
            return False
        return accepted != messages.accepted_sums({one: mine[one].digest for one in rounds}, sender)

    def _judge(self, answer: Answer) -> bytes:
        """Check the opened sum: there is one answer a round, and its key is gone after it."""
        self._check_round(answer.round)
        memory, spec = self._memory, self._spec
        participants, survivors = sorted(memory.participants), sorted(memory.survivors)
        key, memory.tag_key = tags.TagKey(memory.tag_key, len(participants)), b""
        try:
            tag, units = tags.parsed(answer.tag), ring.unpacked(answer.payload, spec.length, spec.width)
        except CryptoError:
            fits = False
        else:
            indices = [participants.index(one) for one in survivors]
            fits = key.fits(units, tag, spec.magnitude, spec.word_bytes, indices)
        return self._verdict(answer.payload if fits else None, self._answers)

    def _replay(self, evidence: Evidence) -> bytes:
        """Make the opened sum again, from the uploads that enough clients consented to."""
        self._check_round(evidence.round)
        memory = self._memory
        seen = (memory.directory, memory.participants, memory.survivors, memory.roots)
        try:
            words, roots = replay.replayed(memory.parameters, self._roster, evidence)
            replay.check_consents(memory.parameters, self._roster, evidence, roots)
        except (WireError, CryptoError):
            return self._verdict(None)
        shown = (
            evidence.directory,
            frozenset(evidence.participants),
            frozenset(evidence.survivors),
            tuple(roots),
        )
        payload = ring.pack(words, self._spec.width) if shown == seen else None
        return self._verdict(payload, answered(replay.survivor_roots(evidence, roots)))

    def _verdict(self, payload: memoryview | None, answer: bytes = b"") -> bytes:
        """Accept the sum, or end the session, if there is none that is right. answer: see `messages.sum_digest`."""
        memory, survivors = self._memory, sorted(self._memory.survivors)
        if payload is None:
            memory.forget_all()
            self.state = ClientState.REJECTED
            return self._frame(Verdict(memory.round, b"", self._log_head()))
        digest = messages.sum_digest(answer, survivors)
        memory.accepted[memory.round] = Accepted(tuple(survivors), digest, payload)
        said = messages.accepted_digest(digest, self.index)
        return self._frame(Verdict(memory.round, said, self._log_head()))

    @property
    def verified(self) -> dict[int, VerifiedSum]:
        """The opened sums that this client accepted in this session, by round."""
        return {} if self.state is ClientState.START else self._memory.verified

    def _reveal(self) -> bytes:
        keys = self._memory.current
        assert keys is not None
        self._memory.current = None
        shares = {self.index: keys.own_share}
        for dealer in self._memory.participants & self._neighbours:
            kind = messages.SELF_SHARE if dealer in self._memory.survivors else messages.SEED_SHARE
            shares[dealer] = keys.shares[dealer][kind]
        return self._frame(Reveal(self._memory.round, tuple(sorted(shares.items()))))

    # ---- small steps -----------------------------------------------------------------------------

    def _check_group(self, what: str, group: frozenset[int], number: int) -> None:
        """Check that the sum hides this client among enough others, in the cohort and among its neighbours."""
        parameters = self._memory.parameters
        self._policy.check_group(what, len(group), len(self._roster.members), self._plan[number].survivors)
        near = len(group & self._neighbours) + 1
        if near < parameters.threshold:
            raise PolicyError(
                f"expected at least {parameters.threshold} {what} among this client and its neighbours, "
                f"the server named {near}"
            )

    def _check_round(self, number: int) -> None:
        if number != self._memory.round:
            raise WireError(f"expected a message of round {self._memory.round}, got one of round {number}")

    def _consent_parts(self) -> tuple[bytes, ...]:
        sets = (sorted(self._memory.participants), sorted(self._memory.survivors))
        memory = self._memory
        roots = memory.roots if self.verify is Verify.REPLAY else ()
        return messages.consent_parts(self._transcript, memory.directory, memory.round, *sets, roots)

    @property
    def wanted(self) -> SumWanted:
        """The sum that the server requested last."""
        participants = tuple(sorted(self._memory.participants))
        verified = self.verified if self.verify is not Verify.NONE else None
        return SumWanted(
            self._memory.round, self._spec, participants, verified, self._memory.parameters.session
        )

    @property
    def verify(self) -> Verify:
        """Whether this session's sums are checked; before one exists, they are not."""
        return self._memory.parameters.verify if self._transcript else Verify.NONE

    @property
    def _tags(self) -> bool:
        """Whether this session has tags."""
        return self.verify is Verify.TAGS

    @property
    def _spec(self) -> RoundSpec:
        return self._memory.parameters.rounds[self._memory.round]

    def _commitments(
        self, number: int, dealer: int, holder: int, held: tuple[bytes, ...]
    ) -> tuple[bytes, ...]:
        """The hashes of a seed share, a self share and, where there is one, a pair secret."""
        return tuple(
            messages.commitment(self._transcript, number, dealer, holder, kind, secret)
            for kind, secret in enumerate(held)
        )
