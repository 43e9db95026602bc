"""The server of masked sums, sans-IO. It relays, adds uploads on arrival, and opens one sum a round.

Memory: one vector of the round's length, whatever the number of clients, and their keys and shares; for a replay, all uploads.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import structs

from secure_afl.crypto import ring
from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.hpke import KeyPair, seal
from secure_afl.crypto.kdf import KEY_BYTES, Label
from secure_afl.crypto.prg import add_keystreams
from secure_afl.crypto.shamir import SHARE_BYTES, combine, parse_share
from secure_afl.protocol.masking import messages, states, tags
from secure_afl.protocol.masking.messages import (
    SEED_SHARE,
    SELF_SHARE,
    Advertise,
    Answer,
    Bundle,
    Confirm,
    Consent,
    Consents,
    Delivery,
    Directory,
    Evidence,
    FromClient,
    Reveal,
    Shares,
    SumRequest,
    SurvivorRoots,
    Survivors,
    Upload,
    Verdict,
    Vote,
)
from secure_afl.protocol.masking.states import ServerState
from secure_afl.protocol.session import graph
from secure_afl.protocol.session.errors import LocalProtocolError, RoundAbortedError
from secure_afl.protocol.session.parameters import Parameters
from secure_afl.protocol.session.profile import Verify
from secure_afl.protocol.session.roster import Member, Roster
from secure_afl.protocol.session.server import OnDemand, OpenedSum, Outbox, SignedServer
from secure_afl.protocol.session.wire import DIGEST_BYTES, WireError, answered, encode, exact


@dataclass
class _Round:
    """A sum in progress."""

    number: int
    participants: frozenset[int]
    total: ring.Words = field(repr=False)
    survivors: frozenset[int] = frozenset()
    roots: dict[int, bytes] = field(default_factory=dict, repr=False)  # of uploads
    tags: dict[int, int] = field(default_factory=dict, repr=False)
    frames: dict[int, bytes] = field(default_factory=dict, repr=False)  # of uploads, for a replay
    consents: dict[int, Vote] = field(default_factory=dict, repr=False)
    reveals: dict[int, dict[int, bytes]] = field(
        default_factory=dict, repr=False
    )  # by holder, then by dealer


@dataclass
class _Answered:
    """An opened sum that clients are asked to check. digest: of it; verdicts: by client."""

    number: int
    survivors: frozenset[int]
    message: bytes = field(repr=False)
    digest: bytes
    verdicts: dict[int, bool] = field(default_factory=dict)


class MaskingServer(SignedServer[FromClient]):
    """One session's server.

    `start` opens it; `receive` takes a client's frame; when `waiting_for` is empty, or its deadline has
    passed, `advance` ends the phase and gives the messages of the next: whoever is still waited for has
    dropped out. In state READY, `open_round` begins a sum; in state UNMASKING, `result` opens it. Where clients check sums,
    it is in state OPENED then, and `advance` asks them, and once more ends that: a sum that they refuse ends the session.

    `left_out` names clients that disagree about sealed shares, where it cannot be determined who is at fault.
    """

    def __init__(self, parameters: Parameters, roster: Roster) -> None:
        if parameters.roster != roster.digest or parameters.cohort[-1] >= len(roster.members):
            raise LocalProtocolError(
                "expected parameters for this roster, these name another roster or non-members"
            )
        super().__init__(parameters.transcript(), messages.FROM_CLIENT)
        self.parameters = parameters
        self.roster = roster
        self.state: ServerState = ServerState.START
        self.left_out: dict[int, str] = {}
        self._neighbours = graph.Graph(parameters)
        self._advertised: dict[int, Advertise] = {}
        self._frames: dict[int, bytes] = {}
        self._own_commitments: dict[int, tuple[tuple[bytes, bytes], ...]] = {}
        # By dealer and holder: what is relayed, and the rest of the bundle, which opens the sums.
        self._sealed: dict[int, dict[int, bytes]] = {}
        self._bundles: dict[int, dict[int, Bundle]] = {}
        self._complaints: dict[int, tuple[int, ...]] = {}
        self._confirmed: frozenset[int] = frozenset()
        self._answered: dict[int, _Answered] = {}  # by round

    def __repr__(self) -> str:
        return f"MaskingServer({self.state.value}, waiting for {len(self.waiting_for)})"

    # ---- the ways in -----------------------------------------------------------------------------

    def start(self) -> Outbox:
        """Invite the cohort."""
        self._expect(ServerState.START)
        self.state, self.waiting_for = ServerState.ADVERTISING, frozenset(self.parameters.cohort)
        return self._sent(dict.fromkeys(self.parameters.cohort, encode(self.parameters)))

    def advance(self) -> Outbox:
        """End the phase with those that answered; give what to send for the next one.

        Raises `RoundAbortedError` if too few are left: before READY the session is over, later only the round.
        """
        steps = {
            ServerState.ADVERTISING: self._send_directories,
            ServerState.SHARING: self._deliver,
            ServerState.CONFIRMING: self._settle,
            ServerState.COLLECTING: self._name_survivors,
            ServerState.CONSENTING: self._send_consents,
            ServerState.OPENED: self._send_answers,
            ServerState.ANSWERING: self._judge,
        }
        if self.state not in steps:
            raise LocalProtocolError(f"nothing to advance in state {self.state.value}")
        outbox = steps[self.state]()
        collected = states.SERVER[self.parameters.mode].get(self.state)
        self.state = collected[1] if collected else ServerState.ANSWERING
        self.waiting_for = frozenset(outbox)
        return self._sent(outbox)

    # ---- phases 1 and 2 --------------------------------------------------------------------------

    def _send_directories(self) -> Outbox:
        if len(self._advertised) < self.parameters.threshold:
            raise self._abort("advertised keys", len(self._advertised))
        clients = sorted(self._frames)
        if self.parameters.complete:
            everybody = self._directory_of(clients)
            self._directory = everybody.digest()
            return dict.fromkeys(clients, encode(everybody))

        def directory(client: int) -> bytes:
            near = self._neighbours[client] & self._frames.keys()
            return encode(self._directory_of(sorted(near | {client})))

        return OnDemand(clients, directory)

    def _directory_of(self, clients: Sequence[int]) -> Directory:
        return Directory(self._transcript, tuple((client, self._frames[client]) for client in clients))

    def _deliver(self) -> Outbox:
        dealers, sealed = self._own_commitments.keys(), self._sealed
        if len(dealers) < self.parameters.threshold:
            raise self._abort("dealt shares", len(dealers))

        def delivery(client: int) -> bytes:
            near = sorted(self._neighbours[client] & dealers)
            bundles = tuple((dealer, self._as_dealt(dealer, client, sealed)) for dealer in near)
            return encode(Delivery(self._transcript, bundles))

        return OnDemand(sorted(dealers), delivery)

    def _settle(self) -> Outbox:
        """Leave out whoever dealt unsigned bundles, and both parties of every other complaint.

        At least one of the two lies, and it cannot be determined which; so c corrupted clients take at most
        c others with them.
        """
        standing = self._complaints  # whoever did not confirm is gone already
        complaints = [
            (accuser, dealer) for accuser, accused in sorted(standing.items()) for dealer in accused
        ]
        for accuser, dealer in complaints:
            if not self._is_signed(dealer, accuser):
                self.blame[dealer] = "sent a bundle that it did not sign"
        for pair in complaints:
            if standing.keys() - self.blame.keys() - self.left_out.keys() >= set(pair):
                names = [self.roster.name(client) for client in pair]
                self.left_out |= dict.fromkeys(pair, "{} cannot open what {} sealed to it".format(*names))
        self._confirmed = frozenset(standing).difference(self.blame, self.left_out)
        self._sealed = {}  # they are delivered
        if len(self._confirmed) < self.parameters.threshold:
            raise self._abort("confirmed their shares and are not in a quarrel", len(self._confirmed))
        return {}

    def _is_signed(self, dealer: int, holder: int) -> bool:
        try:
            key = self.roster.members[dealer].verify_key
            self._as_dealt(dealer, holder, self._sealed).verify(key, self._transcript, dealer)
        except CryptoError:
            return False
        return True

    def _as_dealt(self, dealer: int, holder: int, sealed: dict[int, dict[int, bytes]]) -> Bundle:
        return structs.replace(self._bundles[dealer][holder], sealed=sealed[dealer][holder])

    # ---- phases 3 to 5 ---------------------------------------------------------------------------

    def open_round(self, number: int, among: Collection[int] | None = None) -> Outbox:
        """Ask all clients in good standing, or those `among` them, for the vectors of round `number`.

        Rounds only go forward.
        """
        self._expect(ServerState.READY)
        participants = self._participants(number, len(self.parameters.rounds), self._confirmed, among)
        if len(participants) < self.parameters.threshold:
            raise self._abort(f"are left for round {number}", len(participants))
        self._next_round = number + 1
        spec = self.parameters.rounds[number]
        total: ring.Words = np.zeros(spec.length, np.uint64 if spec.modulus else ring.words_of(spec.width))
        self._round = _Round(number, participants, total)
        self.state, self.waiting_for = ServerState.COLLECTING, participants
        request = encode(SumRequest(self._transcript, number, tuple(sorted(participants))))
        return self._sent(dict.fromkeys(sorted(participants), request))

    @property
    def uploaded(self) -> frozenset[int]:
        """The clients that have uploaded in the open round."""
        return self._round.survivors

    def take_total(self, words: npt.NDArray[np.uint64], survivors: Collection[int]) -> None:
        """Take the decrypted sum of masked vectors that travelled encrypted, mod `RoundSpec.modulus`, and its clients."""
        self._expect(ServerState.COLLECTING)
        current = self._round
        if not self.parameters.encrypted or not current.survivors.issuperset(survivors):
            raise LocalProtocolError("expected a decrypted sum over clients that uploaded in this round")
        if words.shape != current.total.shape:
            raise LocalProtocolError(f"expected {len(current.total)} words, got shape {words.shape}")
        current.total[:] = words
        current.survivors = frozenset(survivors)

    def give_up_round(self) -> None:
        """Abandon the open round; nothing of it is released."""
        self._expect(ServerState.COLLECTING)
        self.state, self.waiting_for = ServerState.READY, frozenset()

    def _name_survivors(self) -> Outbox:
        current = self._round
        # Taken from the uploads themselves: an upload that was added cannot be declared dropped.
        survivors = current.survivors
        if len(survivors) < (self.parameters.threshold if self.parameters.complete else 2):
            raise self._abort("uploaded", len(survivors))
        for client in sorted(current.participants - survivors):
            left = len(self._neighbours[client] & survivors)
            if left < self.parameters.threshold:
                raise self._abort(
                    f"of {self.roster.name(client)}'s neighbours uploaded and it dropped out", left
                )
        if self._replays:
            message = self._survivor_roots(current)
        else:
            message = encode(Survivors(self._transcript, current.number, tuple(sorted(survivors))))
        return dict.fromkeys(sorted(survivors), message)

    def _send_consents(self) -> Outbox:
        consents = self._round.consents
        if len(consents) < self.parameters.threshold:
            raise self._abort("consented", len(consents))
        message = encode(Consents(self._transcript, self._round.number, tuple(sorted(consents.items()))))
        return dict.fromkeys(sorted(consents), message)

    def result(self) -> OpenedSum:
        """Open the sum with the shares that came. Raises `RoundAbortedError` if they do not suffice."""
        self._expect(ServerState.UNMASKING)
        current = self._round
        transcript, number = self._transcript, current.number
        plus: list[bytes] = []
        minus: list[bytes] = []
        tag = sum(current.tags[client] for client in current.survivors) if self._tags else 0
        seeds: dict[int, bytes] = {}
        secrets: dict[int, dict[int, bytes]] = {}
        for client in sorted(current.survivors):
            seed = seeds[client] = self._self_seed(client)
            minus.append(messages.self_mask_key(seed, transcript, number, client))
            if self._tags:
                tag -= tags.self_mask(seed, transcript, number, client)
        for client in sorted(current.participants - current.survivors):
            secrets[client] = self._pair_secrets(client)
            for other, secret in secrets[client].items():
                # What the surviving neighbour added (it is the lower of the two) or subtracted.
                key = messages.pair_mask_key(secret, transcript, number, client, other)
                (minus if other < client else plus).append(key)
                if self._tags:
                    mask = tags.pair_mask(secret, transcript, number, client, other)
                    tag += -mask if other < client else mask
        modulus = self.parameters.rounds[current.number].modulus
        add_keystreams(current.total, plus=plus, minus=minus, modulus=modulus)
        words = current.total.astype(np.uint64, copy=False)
        if modulus:
            words = ring.centred(words, modulus).view(np.uint64)
        if self._tags:
            payload = ring.pack(words if modulus else current.total, self.parameters.rounds[number].width)
            message = encode(Answer(transcript, number, payload, tags.packed(tag)))
            self._take_answer(current, message, message)
        elif self._replays:
            message = encode(self._evidence(current, seeds, secrets))
            self._take_answer(current, message, self._survivor_roots(current))
        del self._round
        self.state = states.SERVER[self.parameters.mode][ServerState.UNMASKING][1]
        self.waiting_for = frozenset()
        dropouts = tuple(sorted(current.participants - current.survivors))
        return OpenedSum(current.number, words, tuple(sorted(current.survivors)), dropouts)

    def _self_seed(self, client: int) -> bytes:
        number = self._round.number
        seed = self._combine(client, "self mask")
        committed = self._own_commitments[client][number][0]
        if messages.seed_commitment(self._transcript, number, client, seed) != committed:
            raise self._abort_for(client, "dealt shares of another self mask than it committed to")
        return seed

    def _survivor_roots(self, current: _Round) -> bytes:
        roots = tuple((client, current.roots[client]) for client in sorted(current.survivors))
        return encode(SurvivorRoots(self._transcript, current.number, roots))

    def _take_answer(self, current: _Round, message: bytes, fixed: bytes) -> None:
        """message: what clients get; fixed: the message that fixes the sum, see `messages.sum_digest`."""
        digest = messages.sum_digest(answered(fixed), sorted(current.survivors))
        self._answered[current.number] = _Answered(current.number, current.survivors, message, digest)

    def _evidence(
        self, current: _Round, seeds: dict[int, bytes], secrets: dict[int, dict[int, bytes]]
    ) -> Evidence:
        """What clients replay the sum from."""
        return Evidence(
            self._transcript,
            current.number,
            self._directory,
            tuple(sorted(current.participants)),
            tuple(sorted(current.consents.items())),
            tuple((client, memoryview(frame)) for client, frame in sorted(current.frames.items())),
            tuple(sorted(seeds.items())),
            tuple(
                (client, tuple(one for _, one in sorted(shared.items())))
                for client, shared in secrets.items()
            ),
        )

    def _send_answers(self) -> Outbox:
        answer = self._answered[self.round]
        return dict.fromkeys(sorted(answer.survivors), answer.message)

    def _judge(self) -> Outbox:
        """A sum that does not fit its tag is refused by every honest client: some client's tag or vector was another."""
        answer = self._answered[self.round]
        answer.message = b""
        refused = [client for client, accepted in answer.verdicts.items() if not accepted]
        if refused and 2 * len(refused) >= len(answer.verdicts):
            why = (
                "which does not fit its tag; a client sent a tag of another vector"
                if self._tags
                else "which they could not make again from the uploads"
            )
            raise self._end(
                f"{len(refused)} of {len(answer.verdicts)} clients refuse the opened sum, {why}: learn nothing from it, and begin a "
                "new session"
            )
        return {}

    @property
    def _tags(self) -> bool:
        return self.parameters.verify is Verify.TAGS

    @property
    def _replays(self) -> bool:
        return self.parameters.verify is Verify.REPLAY

    def _pair_secrets(self, client: int) -> dict[int, bytes]:
        """What a dropped client shares with each surviving neighbour, from its mask seed."""
        current, transcript = self._round, self._transcript
        number = current.number
        seed = self._combine(client, "mask key")
        own = KeyPair(self.parameters.suite, seed, Label.MASK_KEY)
        if own.public_key != self._advertised[client].mask_keys[number]:
            raise self._abort_for(client, "dealt shares of another mask key than it advertised")
        secrets = {}
        for other in sorted(self._neighbours[client] & current.survivors):
            low, high = sorted((client, other))
            bundle = self._bundles[low][high]
            try:
                if client == low:
                    secret = messages.pair_secret(seed, transcript, number, other)
                else:
                    info = messages.pair_info(transcript, number, other, client)
                    secret = own.open(bundle.pair_secrets[number], info)
                expected = messages.commitment(transcript, number, low, high, messages.PAIR_SECRET, secret)
                if expected != bundle.commitments[number][messages.PAIR_SECRET]:
                    raise CryptoError("a pair secret is not the one that was committed to")
            except CryptoError:
                # The other confirmed this secret, or dealt it and this client confirmed it.
                raise self._abort_for(client, "confirmed or dealt a pair secret that does not fit") from None
            secrets[other] = secret
        return secrets

    def _combine(self, client: int, what: str) -> bytes:
        shares = {
            holder + 1: revealed[client]
            for holder, revealed in self._round.reveals.items()
            if client in revealed
        }
        try:
            return combine(shares, self.parameters.threshold)
        except CryptoError as error:
            if len(shares) < self.parameters.threshold:
                raise self._abort(
                    f"revealed good shares of {self.roster.name(client)}'s {what}", len(shares)
                ) from None
            raise self._abort_for(
                client, f"dealt shares of its {what} that do not belong together"
            ) from error

    # ---- what a client may send ------------------------------------------------------------------

    def _member(self, sender: int) -> Member:
        if sender not in self.parameters.cohort:
            raise WireError("expected a member of this session's cohort, got an unknown one")
        return self.roster.members[sender]

    def _collecting(self) -> tuple[type[Any], ServerState] | None:
        return states.SERVER[self.parameters.mode].get(self.state)

    def _check_index(self, sender: int, message: FromClient) -> None:
        super()._check_index(sender, message)
        if isinstance(message, Upload | Consent | Reveal | Verdict) and message.round != self.round:
            raise WireError(f"expected round {self.round}, got round {message.round}")

    def _largest_frame(self, sender: int) -> int:
        suite, rounds = self.parameters.suite, len(self.parameters.rounds)
        # Of one bundle and round: two shares, a sealed pair secret, three commitments.
        part = 2 * SHARE_BYTES + KEY_BYTES + suite.overhead_bytes + 3 * DIGEST_BYTES + 32
        longest = {
            ServerState.ADVERTISING: (rounds + 1) * (suite.public_key_bytes + 8),
            ServerState.SHARING: self.parameters.degree * (rounds * part + suite.overhead_bytes + 128)
            + rounds * 80,
            ServerState.CONFIRMING: self.parameters.degree * 9,
            ServerState.CONSENTING: rounds // 8,
            ServerState.UNMASKING: (self.parameters.degree + 1) * (SHARE_BYTES + 16),
        }
        if self.state is ServerState.COLLECTING:
            proof = DIGEST_BYTES * len(self._round.participants) if self._replays else 0
            return self.parameters.rounds[self.round].payload_bytes + proof + 320
        return longest.get(self.state, 0) + 384

    def _take(self, sender: int, message: FromClient, data: bytes, root: bytes) -> None:
        suite, rounds, verify = self.parameters.suite, len(self.parameters.rounds), self.parameters.verify
        match message:
            case Advertise():
                message.check(suite, rounds, verify)
                for key in (message.channel_key, *message.mask_keys):
                    seal(suite, key, b"", b"")  # a key of the right length may still be none
                self._advertised[sender] = message
                self._frames[sender] = data
            case Shares():
                message.check(suite, rounds, sender, verify)
                holders = sorted(self._neighbours[sender] & self._advertised.keys())
                if [bundle.recipient for bundle in message.bundles] != holders:
                    raise WireError(
                        f"expected a bundle for each of {len(holders)} neighbours, got {len(message.bundles)}"
                    )
                self._own_commitments[sender] = message.own_commitments
                self._sealed[sender] = {bundle.recipient: bundle.sealed for bundle in message.bundles}
                self._bundles[sender] = {
                    bundle.recipient: structs.replace(bundle, sealed=b"") for bundle in message.bundles
                }
            case Confirm():
                dealt = self._neighbours[sender] & self._own_commitments.keys()
                if not dealt.issuperset(message.complaints):
                    raise WireError(
                        "expected complaints about neighbours that dealt shares to it, it complains about another client"
                    )
                self._complaints[sender] = message.complaints
            case Upload():
                spec = self.parameters.rounds[message.round]
                exact(f"an upload of {spec.length} values", message.payload, spec.payload_bytes)
                self._check_proof(sender, message)
                if not spec.modulus:
                    ring.add_packed(self._round.total, message.payload, spec.width)
                self._round.survivors |= {sender}
                self._round.roots[sender] = root
                if self._replays:
                    self._round.frames[sender] = data
            case Consent():
                self._check_vote(sender, message.vote)
                self._round.consents[sender] = message.vote
            case Reveal():
                self._check_reveal(sender, message)
                self._round.reveals[sender] = dict(message.shares)
            case Verdict():
                answer = self._answered[self.round]
                if message.accepted not in (b"", messages.accepted_digest(answer.digest, sender)):
                    raise WireError(
                        f"expected the digest of the opened sum, or none, as the verdict of round {self.round}, got "
                        f"{message.accepted.hex()[:16]}…"
                    )
                answer.verdicts[sender] = bool(message.accepted)

    def _check_proof(self, sender: int, upload: Upload) -> None:
        """Take an upload's tag, or compare its commitments to masks with those that were dealt."""
        current = self._round
        if self._tags:
            exact("a tag", upload.proof, tags.TAG_BYTES)
            current.tags[sender] = tags.parsed(upload.proof)
        elif not self._replays:
            exact("a tag", upload.proof, 0)
        elif upload.proof != b"".join(self._dealt(sender, one) for one in sorted(current.participants)):
            raise WireError(
                f"expected commitments to the masks that were dealt, {len(current.participants)} of {DIGEST_BYTES} bytes, got "
                f"{len(upload.proof)} bytes that are none"
            )

    def _dealt(self, client: int, other: int) -> bytes:
        """The commitment to what masks a client's upload: for `other`, or by itself."""
        if client == other:
            return self._own_commitments[client][self.round][0]
        low, high = sorted((client, other))
        return self._bundles[low][high].commitments[self.round][messages.PAIR_SECRET]

    def _check_vote(self, sender: int, vote: Vote) -> None:
        current = self._round
        sets = (sorted(current.participants), sorted(current.survivors))
        roots = [current.roots[one] for one in sets[1]] if self._replays else []
        view = messages.consent_parts(self._transcript, self._directory, self.round, *sets, roots)
        vote.verify(self.roster.members[sender].verify_key, view)
        if vote.upload != self._round.roots[sender]:
            raise WireError(
                f"expected the root of the upload that it sent, {self._round.roots[sender].hex()[:16]}…, got "
                f"{vote.upload.hex()[:16]}…"
            )
        if vote.accepted:
            rounds = messages.accepted_rounds(vote.accepted)
            opened = {number: self._answered[number].digest for number in rounds if number in self._answered}
            if vote.accepted != messages.accepted_sums(opened, sender):
                raise WireError(
                    f"expected the digest of sums that were opened, and their rounds, got {vote.accepted.hex()[:32]}…"
                )

    def _check_reveal(self, sender: int, reveal: Reveal) -> None:
        current = self._round
        dealers = sorted((self._neighbours[sender] & current.participants) | {sender})
        if [dealer for dealer, _ in reveal.shares] != dealers:
            raise WireError(
                f"expected {len(dealers)} shares, of itself and of its neighbours, got {len(reveal.shares)}"
            )
        for dealer, share in reveal.shares:
            parse_share(share)
            kind = SELF_SHARE if dealer in current.survivors else SEED_SHARE
            if dealer == sender:
                committed = self._own_commitments[sender][current.number][1]
            else:
                committed = self._bundles[dealer][sender].commitments[current.number][kind]
            if (
                messages.commitment(self._transcript, current.number, dealer, sender, kind, share)
                != committed
            ):
                raise CryptoError(
                    f"expected the share that {self.roster.name(dealer)} dealt to it, this one fails its commitment"
                )

    # ---- refusals --------------------------------------------------------------------------------

    def _abort(self, did: str, count: int) -> RoundAbortedError:
        return self._end(f"expected at least {self.parameters.threshold} clients, {count} {did}")

    def _abort_for(self, client: int, fault: str) -> RoundAbortedError:
        self.blame[client] = fault
        return self._end(f"the masks of {self.roster.name(client)} cannot be removed")

    def _end(self, text: str) -> RoundAbortedError:
        of_a_round = (
            ServerState.READY,
            ServerState.COLLECTING,
            ServerState.CONSENTING,
            ServerState.UNMASKING,
        )
        self.state = ServerState.READY if self.state in of_a_round else ServerState.ABORTED
        self.waiting_for = frozenset()
        faults = sorted({**self.left_out, **self.blame}.items())
        return RoundAbortedError(text, {self.roster.name(who): fault for who, fault in faults})
