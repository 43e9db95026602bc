"""Every state that one of our real clients can be brought into by a server that may send it anything.

A *site* is one client's `Ledger` and its `MaskingClient`s, one a session: the real classes with the real policy.
`Model.moves` feeds a copy of a site every message of a finite alphabet and keeps what the site accepted, under
a name (its *node*), with the *facts* that leave it: keys, bundles, uploads, consents, shares, all read out of the
bytes that it sent.

What is replaced beneath the state machines (`stand_ins`):
- randomness: a function of client, session and step, so that two ways into one state give one state;
- unless `real_crypto`: HPKE and Ed25519 by hashes of the right lengths, which open and verify just where the real
  ones do. A hash is easy to forge, yet the alphabet holds no forgery that verifies.
Wire format, frames, commitments, Shamir's shares, key derivation and masks are the real ones.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from itertools import combinations, islice, product
from types import MappingProxyType, MethodType
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct, structs
from msgspec.structs import replace

from secure_afl.crypto import shamir
from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.hpke import Suite
from secure_afl.crypto.identity import SIGNATURE_BYTES, Identity
from secure_afl.crypto.kdf import Label, bind, derive
from secure_afl.crypto.prg import add_keystreams
from secure_afl.protocol.masking import client as client_module
from secure_afl.protocol.masking import memory as memory_module
from secure_afl.protocol.masking import messages, replay, states
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.masking.memory import Memory, RoundKeys
from secure_afl.protocol.masking.messages import (
    Answer,
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
from secure_afl.protocol.masking.tags import TAG_BYTES
from secure_afl.protocol.session import graph, wire
from secure_afl.protocol.session.errors import PolicyError, RemoteProtocolError
from secure_afl.protocol.session.ledger import Ledger
from secure_afl.protocol.session.parameters import Parameters, Profile, SumPlan, SumWanted
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Mode, Verify
from secure_afl.protocol.session.roster import Member, Roster
from secure_afl.protocol.session.wire import WireError, decode, encode

Said = tuple[Any, ...]
"""A message of the server in words: its kind, the session, and what it says; places only, so that it can be renamed."""
Fact = tuple[Any, ...]
"""Something that the adversary has once it left a client: its kind, the session, and what it is."""
Rank = tuple[int, int]
"""When a message has its turn: the session, the phase in it. What it needs leaves clients at lower ranks."""

SEED, SELF = messages.SEED_SHARE, messages.SELF_SHARE
LENGTH, BOUND, BITS = 2, 100.0, 20
_FORGED = 2  # the variant of an upload that nobody made; 0: the first one; 1: a colluder's second one
DATA_SET = "rows"
_ROUND = 16  # ranks a round
_ANSWER = 9  # of these
_UNROOTED = 5  # of the parts that a consent signs: those before the roots


_MODE: dict[Profile, Mode] = {
    Profile.ACTIVE: (Profile.ACTIVE, Verify.TAGS),
    Profile.SEMI_HONEST: (Profile.SEMI_HONEST, Verify.NONE),
}


@dataclass(frozen=True)
class Bounds:
    """What is explored.

    colluders: the last places of the roster. equivocate: colluders have a second set of keys to show.
    consistent: the server says the same to everybody (it follows the protocol, and anybody may drop out at any
    point); else it may lie to each client as it likes. weak: a defence that is taken out, see `WEAK`.
    honest_setup: keys, bundles and participants are shown to everybody as they are; only survivors and consents lie.
    replay: clients make sums again, and the server, which is given all masks for that, lies in roots and evidence, too;
    each colluder has two uploads to show.
    """

    clients: int = 4
    rounds: int = 1
    colluders: int = 0
    profile: Profile = Profile.ACTIVE
    sessions: int = 1
    related: bool = False
    equivocate: bool = True
    consistent: bool = False
    weak: str = ""
    real_crypto: bool = False
    honest_setup: bool = False
    minimum_honest: int = 2
    replay: bool = False

    @property
    def mode(self) -> Mode:
        return (self.profile, Verify.REPLAY) if self.replay else _MODE[self.profile]

    @property
    def other(self) -> Mode:
        return next(mode for profile, mode in _MODE.items() if profile is not self.profile)

    @property
    def honest(self) -> range:
        return range(self.clients - self.colluders)

    @property
    def liars(self) -> range:
        return range(self.clients - self.colluders, self.clients)


# ---- defences that can be taken out --------------------------------------------------------------


class NoConsents(MaskingClient):
    """Reveals to whoever says that there are consents."""

    def _reveal_with_consents(self, consents: Consents) -> bytes:
        self._check_round(consents.round)
        return self._reveal()


class AnswersAgain(MaskingClient):
    """Keeps a round's shares after it revealed, and takes another list of survivors: both kinds can be had."""

    def receive(self, data: bytes) -> bytes | SumWanted:
        keys = self._memory.current if self.state is not ClientState.START else None
        answer = super().receive(data)
        revealed = self.state in (ClientState.READY, ClientState.REVEALED)
        if keys is not None and self._memory.current is None and revealed:
            self.state, self._memory.current = ClientState.UPLOADED, keys
        return answer


class UnrelatedSums(MaskingClient):
    """Forgets who survived the sums before."""

    def _consent(self, message: Survivors | SurvivorRoots) -> bytes:
        known, self._memory.related = self._memory.related, None
        try:
            return super()._consent(message)
        except (WireError, PolicyError):
            self._memory.related = known
            raise


class AnyRoots(MaskingClient):
    """Consents to no roots of uploads, and takes those that the evidence has."""

    def _consent_parts(self) -> tuple[bytes, ...]:
        return super()._consent_parts()[:_UNROOTED]

    def _replay(self, evidence: Evidence) -> bytes:
        self._check_round(evidence.round)
        with suppress(WireError, CryptoError):
            _, roots = replay.replayed(self._memory.parameters, self._roster, evidence)
            self._memory.roots = tuple(roots)
        return super()._replay(evidence)


class NoLedger(Ledger):
    """Lets a data set serve any session."""

    def use(self, data_set: str, session: bytes, **how: Any) -> None:
        pass


WEAK = {
    "": "nothing",
    "consents": "consents are not checked",
    "threshold": "threshold n/2 under the active profile",
    "either-or": "a client answers a second list of survivors in a round",
    "ledger": "a data set serves any session",
    "minimum": "a sum may have one survivor",
    "related": "`same_survivors` is ignored",
    "self mask": "uploads have no self mask",
    "roots": "consents do not cover the uploads that are replayed",
}
_KINDS: dict[str, type[MaskingClient]] = {
    "consents": NoConsents,
    "either-or": AnswersAgain,
    "related": UnrelatedSums,
    "roots": AnyRoots,
}


_MESSAGES = {
    "parameters": Parameters,
    "directory": Directory,
    "delivery": Delivery,
    "request": SumRequest,
    "survivors": Survivors,
    "consents": Consents,
    "answer": Answer,
}
_REPLAY_MESSAGES = {"roots": SurvivorRoots, "evidence": Evidence}

# ---- beneath the state machines ------------------------------------------------------------------


class Draws:
    """In the place of the module `secrets`: the same draws whenever a client does the same step."""

    def begin(self, *what: object) -> None:
        self._key, self._count = repr(what).encode(), 0

    def _next(self) -> bytes:
        self._count += 1
        return hashlib.sha512(self._key + self._count.to_bytes(4, "big")).digest()

    def token_bytes(self, size: int) -> bytes:
        return self._next()[:size]

    def randbelow(self, limit: int) -> int:
        return int.from_bytes(self._next(), "big") % limit


def _hash(*parts: bytes) -> bytes:
    return hashlib.sha512(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).digest()


class HashedKeyPair:
    """For `KeyPair`: the public key is a hash of the seed, and what is sealed to it lies open beside a hash."""

    def __init__(self, suite: Suite, seed: bytes, label: Label) -> None:
        self.suite = suite
        self.public_key = derive(seed, label, suite.value.encode())

    def open(self, sealed: bytes, info: bytes) -> bytes:
        plain = sealed[48:]
        if sealed[:48] != _hash(self.public_key, info, plain)[:48]:
            raise CryptoError("a sealed message does not open")
        return plain


def _hashed_seal(suite: Suite, public_key: bytes, plaintext: bytes, info: bytes) -> bytes:
    return _hash(public_key, info, plaintext)[:48] + plaintext


def _hashed_sign(self: Identity, label: Label, *parts: bytes) -> bytes:
    return _hash(self.verify_key, bind(label, *parts))


def _hashed_verify(verify_key: bytes, signature: bytes, label: Label, *parts: bytes) -> None:
    if signature != _hash(verify_key, bind(label, *parts)):
        raise CryptoError("the signature does not verify")


@dataclass
class Site:
    """One honest client of the federation: what it remembers, and its part in every session."""

    index: int
    ledger: Ledger
    sessions: list[MaskingClient]
    revealed: dict[tuple[int, int], int] = field(default_factory=dict)


@dataclass
class Node:
    """A state of one site. facts, gone: what left it, as a set of bits; path: how it was reached first."""

    index: int
    site: Site
    facts: int
    parent: int
    said: Said | None


@dataclass(frozen=True)
class Move:
    """A message that the node's site accepts: what the adversary must have to send it, and the next node."""

    rank: Rank
    said: Said
    need: int
    target: int


class Model:
    """All nodes of all honest sites, made as they are asked for."""

    def __init__(self, bounds: Bounds) -> None:
        if bounds.replay and bounds.rounds > 2:
            raise ValueError(f"expected at most two rounds of a session with replay, got {bounds.rounds}")
        self.bounds = bounds
        self.nodes: list[Node] = []
        self.calls = self.refused = 0
        self._names: dict[tuple[int, bytes, int], int] = {}
        self._moves: dict[int, tuple[Move, ...]] = {}
        self._images: dict[tuple[int, tuple[int, ...]], int] = {}
        self._likeness: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._bits: dict[Fact, int] = {}
        self.known: list[Fact] = []  # the fact of each bit
        self._captured: tuple[list[bytes], list[bytes]] = ([], [])
        self._draws = Draws()
        self._encoded: dict[tuple[Any, ...], bytes] = {}
        self._entries: dict[bytes, tuple[tuple[int, int], ...]] = {}  # by the digest of a directory
        n = bounds.clients
        self.cohort = tuple(range(n))
        self._identities = [
            Identity(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"site %d" % i).digest()))
            for i in self.cohort
        ]
        self.roster = Roster(
            tuple(Member(f"site-{i}", one.verify_key) for i, one in enumerate(self._identities))
        )
        self.plan = [
            SumPlan(f"sum {r}", LENGTH, BOUND, BITS, same_survivors=bounds.related)
            for r in range(bounds.rounds)
        ]
        corrupted = 0.1 if bounds.colluders <= 1 else bounds.colluders / n
        self.policy = Policy(
            minimum_honest=bounds.minimum_honest,
            profiles=frozenset({bounds.profile}),
            suites=frozenset({Suite.X25519}),
            corrupted=corrupted,
            verify=frozenset({Verify.REPLAY if bounds.replay else Verify.TAGS}),
        )
        draws = np.random.default_rng(n)
        self.vectors: dict[tuple[int, int], npt.NDArray[np.float64]] = {
            (index, r): draws.uniform(-BOUND, BOUND, LENGTH)
            for index in self.cohort
            for r in range(bounds.rounds)
        }
        with self.stand_ins():
            self._prepare()
            self.roots = tuple(self._intern(index, self._site(index), 0, -1, None) for index in bounds.honest)

    @contextmanager
    def stand_ins(self) -> Iterator[None]:
        """Randomness, and what else the bounds say, is replaced inside."""
        weak = self.bounds.weak
        real_masks = add_keystreams

        def captured(vector: Any, *, plus: Sequence[bytes], minus: Sequence[bytes], modulus: int) -> None:
            if weak == "self mask":
                plus = plus[1:]
            self._captured = list(plus), list(minus)
            real_masks(vector, plus=plus, minus=minus, modulus=modulus)

        with ExitStack() as stack:
            replaced: list[tuple[object, str, object]] = [
                (client_module, "secrets", self._draws),
                (shamir, "secrets", self._draws),
                (client_module, "add_keystreams", captured),
            ]
            if not self.bounds.real_crypto:
                replaced += [
                    (memory_module, "KeyPair", HashedKeyPair),
                    (client_module, "seal", _hashed_seal),
                    (Identity, "sign", _hashed_sign),
                    (messages, "verify", _hashed_verify),
                    (wire, "verify", _hashed_verify),
                ]
            if weak == "threshold":
                replaced += [
                    (graph, "least_threshold", lambda profile, n, degree: n // 2),
                    (graph, "exposure", lambda *known, **more: 0.0),
                ]
            if weak == "roots":
                replaced += [(replay, "check_consents", lambda *known: None)]
            if weak == "minimum":
                replaced += [(Policy, "least_survivors", lambda self, roster: 1)]
            for where, name, new in replaced:
                stack.enter_context(patch.object(where, name, new))
            yield

    # ---- what there is to send -------------------------------------------------------------------

    def _site(self, index: int) -> Site:
        ledger = NoLedger() if self.bounds.weak == "ledger" else Ledger()
        kind = _KINDS.get(self.bounds.weak, MaskingClient)
        return Site(
            index,
            ledger,
            [
                kind(self._identities[index], self.roster, self.plan, self.policy, ledger)
                for _ in range(self.bounds.sessions)
            ],
        )

    def _prepare(self) -> None:
        """Run every set-up once as it should be, for the signed keys and bundles, and for what all secrets are."""
        bounds, n = self.bounds, self.bounds.clients
        self.parameters: list[Parameters] = []
        self._frames: dict[tuple[int, int, int], bytes] = {}  # by session, place, variant
        self._bundles: dict[tuple[int, int, int], messages.Bundle] = {}  # by session, dealer, holder
        self._share_of: dict[
            bytes, tuple[int, int, int, int, int]
        ] = {}  # session, round, holder, dealer, kind
        self.share_bytes: dict[tuple[int, int, int, int, int], bytes] = {}
        self._mask_of: dict[bytes, tuple[Any, ...]] = {}
        self.mask_keys: dict[tuple[Any, ...], bytes] = {}
        self.seeds: dict[tuple[int, int, int, int], bytes] = {}  # session, round, dealer, kind
        self.payloads: dict[Fact, bytes] = {}
        self._pair_secrets: dict[tuple[int, int, int, int], bytes] = {}  # session, round, one, other
        self._set_up: list[dict[int, Site]] = []  # by session
        self._uploads: dict[tuple[Any, ...], tuple[bytes, Fact] | None] = {}
        self._digests: dict[Said, bytes] = {}  # of sums that clients accepted, by what `_view` says of them
        for s in range(bounds.sessions):
            self._draws.begin("session", s)
            near = n - 1, graph.least_threshold(bounds.profile, n, n - 1)
            proposed = Parameters.propose(
                self.roster,
                self.plan,
                profile=bounds.profile,
                suite=Suite.X25519,
                degree=near[0],
                threshold=near[1],
                verify=bounds.mode[1],
            )
            parameters = replace(proposed, session=hashlib.sha256(b"session %d" % s).digest())
            self.parameters.append(parameters)
            sites = {index: self._site(index) for index in self.cohort}
            for index, site in sites.items():
                self._frames[s, index, 0] = self._hear(site, s, "parameters", encode(parameters))
                if index in bounds.liars:
                    other = self._site(index)
                    self._draws.begin(index, s, "second keys")
                    answer = other.sessions[s].receive(encode(parameters))
                    assert isinstance(answer, bytes)
                    self._frames[s, index, 1] = self._with_same_secret(s, index, answer)
            directory = self._bytes(("directory", s, tuple((index, 0) for index in self.cohort), ""))
            for index, site in sites.items():
                frame = self._hear(site, s, "directory", directory)
                shares = decode(frame[:-SIGNATURE_BYTES], messages.FROM_CLIENT)
                assert isinstance(shares, Shares)
                for bundle in shares.bundles:
                    self._bundles[s, index, bundle.recipient] = bundle
            for index, site in sites.items():
                others = tuple(one for one in self.cohort if one != index)
                self._hear(site, s, "delivery", self._bytes(("delivery", s, others, ""), index))
                self._learn(site, s)
            self._set_up.append(sites)

    def _with_same_secret(self, s: int, index: int, frame: bytes) -> bytes:
        """A liar's second keys, with the commitment of the first: it deals one secret for tags, and no client complains."""
        one, two = (
            decode(each[:-SIGNATURE_BYTES], messages.ADVERTISE) for each in (self._frames[s, index, 0], frame)
        )
        said, question = replace(two, tag_commitment=one.tag_commitment), encode(self.parameters[s])
        transcript = self.parameters[s].transcript()
        return wire.sign_frame(self._identities[index], transcript, wire.answered(question), index, said)

    def _learn(self, site: Site, s: int) -> None:
        client, index = site.sessions[s], site.index
        transcript = self.parameters[s].transcript()
        for r, keys in client._memory.rounds.items():
            held = {
                (dealer, kind): share
                for dealer, pair in keys.shares.items()
                for kind, share in enumerate(pair)
            }
            for (dealer, kind), share in {**held, (index, SELF): keys.own_share}.items():
                self._share_of[share] = s, r, index, dealer, kind
                self.share_bytes[s, r, index, dealer, kind] = share
            self.seeds[s, r, index, SEED], self.seeds[s, r, index, SELF] = keys.mask_seed, keys.self_seed
            names: dict[tuple[Any, ...], bytes] = {
                ("self", s, r, index): messages.self_mask_key(keys.self_seed, transcript, r, index)
            }
            for other, secret in keys.pair_secrets.items():
                self._pair_secrets[s, r, index, other] = secret
                pair = ("pair", s, r, min(index, other), max(index, other))
                names[pair] = messages.pair_mask_key(secret, transcript, r, index, other)
            for name, key in names.items():
                assert self.mask_keys.setdefault(name, key) == key, (
                    "two neighbours have different pair secrets"
                )
                self._mask_of[key] = name

    def _hear(self, site: Site, s: int, step: str, data: bytes) -> bytes:
        self._draws.begin(site.index, s, step)
        answer = site.sessions[s].receive(data)
        assert isinstance(answer, bytes)
        return answer

    def _bytes(self, said: Said, to: int = -1, view: Any = None) -> bytes:
        """The message in bytes. to: its recipient; view: what a recipient of consents was shown before."""
        key = (
            said,
            to if said[0] == "delivery" else -1,
            view if said[0] in ("consents", *_REPLAY_MESSAGES) else None,
        )
        if key not in self._encoded:
            self._encoded[key] = self._encode(said, to, view)
        return self._encoded[key]

    def _encode(self, said: Said, to: int, view: Any) -> bytes:
        kind, s, *what = said
        transcript = self.parameters[s].transcript()
        match kind:
            case "parameters":
                changes: dict[str, dict[str, Any]] = {
                    "": {},
                    "low threshold": {"threshold": 2},
                    "other profile": {
                        "profile": self.bounds.other[0],
                        "verify": self.bounds.other[1],
                        "threshold": self.bounds.clients,
                    },
                    "hybrid keys": {"suite": Suite.HYBRID},
                    "another length": {"rounds": (replace(self.parameters[s].rounds[0], length=LENGTH + 1),)},
                }
                return encode(replace(self.parameters[s], **changes[what[0]]))
            case "directory":
                entries, twist = what
                source = (s + 1) % self.bounds.sessions if twist == "of another session" else s
                if twist == "to another session":
                    transcript = hashlib.sha256(transcript).digest()
                frames = tuple((index, self._frames[source, index, variant]) for index, variant in entries)
                return encode(Directory(transcript, frames))
            case "delivery":
                dealers, twist = what
                bundles = []
                for dealer in dealers:
                    bundle = self._bundles[s, dealer, to]
                    if twist == ("broken", dealer):
                        bundle = replace(bundle, signature=bytes(SIGNATURE_BYTES))
                    bundles.append((dealer, bundle))
                return encode(Delivery(transcript, tuple(bundles)))
            case "request":
                return encode(SumRequest(transcript, what[0], what[1]))
            case "survivors":
                return encode(Survivors(transcript, what[0], what[1]))
            case "consents":
                number, valid, fill, without = what
                survivors, accepted = view[2], {one[0]: self._digests[one] for one in view[4]}
                good = other = self._parts(s, number, view)
                if fill == "of another set":
                    other = self._parts(s, number, (*view[:2], survivors[1:], view[3][1:]))
                elif fill == "to other uploads":
                    other = self._parts(s, number, (*view[:3], self._other_variants(view[3])))
                votes = []
                for index in self.cohort:
                    voted = self._voted(index, other)
                    if index in valid:
                        same = index in self.bounds.honest and index not in without
                        votes.append((index, self._voted(index, good, accepted=accepted if same else {})))
                    elif fill == "that accepted another sum" and index in survivors:
                        votes.append((index, self._voted(index, good, accepted={0: bytes(32)})))
                    elif fill == "forged" and index in survivors:
                        votes.append((index, replace(voted, signature=bytes(SIGNATURE_BYTES))))
                    elif fill and fill != "forged" and index in survivors:
                        votes.append((index, voted))
                return encode(Consents(transcript, number, tuple(votes)))
            case "roots":
                number, survivors, twist = what
                variants = [(one, dict(twist).get(one, 0)) for one in survivors]
                roots = ((one, self._root(s, number, view[1], one, variant)) for one, variant in variants)
                return encode(SurvivorRoots(transcript, number, tuple(roots)))
            case "evidence":
                return encode(self._evidence(s, view, *what))
            case "answer":
                # No sum of theirs: what fits its tag leads to a state in which a client does just what it does without.
                payload = memoryview(bytes(LENGTH * self.parameters[s].rounds[what[0]].width))
                return encode(Answer(transcript, what[0], payload, bytes(TAG_BYTES)))
        raise AssertionError(kind)

    def _parts(self, s: int, number: int, view: Any) -> tuple[bytes, ...]:
        """What a consent to a view signs."""
        entries, participants, survivors, variants = view[:4]
        roots = [
            self._root(s, number, participants, one, variant)
            for one, variant in zip(survivors, variants, strict=False)
        ]
        sets = (participants, survivors)
        parts = messages.consent_parts(
            self.parameters[s].transcript(), self._directory_digest(s, entries), number, *sets, roots
        )
        return parts[:_UNROOTED] if self.bounds.weak == "roots" else parts

    def _other_variants(self, variants: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(1 - variant if at else _FORGED for at, variant in enumerate(variants))

    def _uploaded(
        self, s: int, number: int, participants: tuple[int, ...], index: int, variant: int
    ) -> tuple[bytes, Fact] | None:
        """The upload of a client after an honest set-up, and the fact of it; variant 1: of another vector.

        None if it makes no upload with these participants.
        """
        key = s, number, participants, index, variant
        if key not in self._uploads:
            site = self._copy(self._set_up[s][index])
            try:
                wanted = site.sessions[s].receive(self._bytes(("request", s, number, participants)))
            except (RemoteProtocolError, PolicyError):
                self._uploads[key] = None
                return None
            assert isinstance(wanted, SumWanted)
            vector = self._vector(number, index, variant)
            frame = site.sessions[s].contribute(wanted, vector, DATA_SET)
            self._uploads[key] = frame, self._upload_fact(s, number, index)
        return self._uploads[key]

    def _vector(self, number: int, index: int, variant: int) -> npt.NDArray[np.float64]:
        return -self.vectors[index, number] if variant else self.vectors[index, number]

    def _root(self, s: int, number: int, participants: tuple[int, ...], index: int, variant: int) -> bytes:
        made = None if variant == _FORGED else self._uploaded(s, number, participants, index, variant)
        return wire.root(made[0][:-SIGNATURE_BYTES]) if made else hashlib.sha256(b"%d" % index).digest()

    def _evidence(
        self, s: int, view: Any, number: int, shown: tuple[tuple[int, int], ...], twist: Any
    ) -> Evidence:
        """Evidence with these variants of uploads, and the consents of all survivors to it, which the server may have forged."""
        entries, participants, survivors = view[:3]
        variants = dict(shown)
        frames, seeds = {}, {}
        for one in survivors:
            made = self._uploaded(s, number, participants, one, variants.get(one, 0))
            assert made is not None
            frames[one], seeds[one] = memoryview(made[0]), self.seeds[s, number, one, SELF]
        secrets = {
            gone: tuple(self._pair_secrets[s, number, gone, one] for one in survivors)
            for gone in participants
            if gone not in survivors
        }
        consented = (entries, participants, survivors, tuple(variants.get(one, 0) for one in survivors))
        parts = self._parts(s, number, consented)
        votes = tuple((one, self._voted(one, parts)) for one in survivors)
        directory = self._directory_digest(s, entries)
        match twist:
            case ("few consents", _):
                votes = votes[: self.parameters[s].threshold - 1]
            case ("another directory", _):
                directory = bytes(32)
            case ("another self mask of", one):
                seeds[one] = bytes(32)
            case ("other pair masks of", gone):
                secrets[gone] = tuple(bytes(32) for _ in survivors)
            case ("without", one):
                participants = tuple(each for each in participants if each != one)
                at = survivors.index(one)
                del frames[one], seeds[one]
                secrets = {gone: (*some[:at], *some[at + 1 :]) for gone, some in secrets.items()}
            case ("with the late upload of", gone):
                made = self._uploaded(s, number, participants, gone, 0)
                assert made is not None
                frames[gone], seeds[gone] = memoryview(made[0]), self.seeds[s, number, gone, SELF]
                del secrets[gone]
                secrets = {
                    each: tuple(self._pair_secrets[s, number, each, one] for one in sorted(frames))
                    for each in secrets
                }
        return Evidence(
            self.parameters[s].transcript(),
            number,
            directory,
            participants,
            votes,
            tuple(sorted(frames.items())),
            tuple(sorted(seeds.items())),
            tuple(sorted(secrets.items())),
        )

    def _voted(
        self,
        index: int,
        view: tuple[bytes, ...],
        upload: bytes = bytes(32),
        accepted: Mapping[int, bytes] = MappingProxyType({}),
    ) -> Vote:
        """What a client says with its consent. No client looks at the root of another's upload. accepted: sums by round."""
        said = messages.accepted_sums(accepted, index)
        return Vote.sign(self._identities[index], view, upload=upload, accepted=said, log=b"")

    def _directory_digest(self, s: int, entries: tuple[tuple[int, int], ...]) -> bytes:
        frames = tuple((index, self._frames[s, index, variant]) for index, variant in entries)
        return Directory(self.parameters[s].transcript(), frames).digest()

    def _alphabet(self, node: Node) -> Iterator[Said]:
        """Everything that the server can say to this client, whether it makes sense or not.

        Of kinds that the client does not take in its state (whatever they say, by `states.CLIENT`), three each.
        """
        for s in range(self.bounds.sessions):
            client = node.site.sessions[s]
            taken = states.CLIENT[self.bounds.mode][client.state]
            view = self._view(node.site, s)
            kinds = _MESSAGES | (_REPLAY_MESSAGES if self.bounds.replay else {})
            for kind, message in kinds.items():
                if view is None and kind in ("consents", *_REPLAY_MESSAGES):
                    continue
                if kind == "evidence" and not (view and view[2]):
                    continue  # there is none before
                yield from islice(self._all(kind, s, node.index, view), None if message in taken else 3)

    def _all(self, kind: str, s: int, here: int, view: Any) -> Iterator[Said]:
        bounds = self.bounds
        whole = self.cohort
        sets = [chosen for size in range(bounds.clients, -1, -1) for chosen in combinations(whole, size)]
        shown = sets[:1] if bounds.honest_setup else sets
        match kind:
            case "parameters":
                changes = ("", "low threshold", "other profile", "hybrid keys", "another length")
                yield from (("parameters", s, change) for change in changes)
            case "directory":
                everybody = tuple((index, 0) for index in whole)
                yield "directory", s, everybody, ""
                yield "directory", s, everybody, "to another session"
                if bounds.sessions > 1:
                    yield "directory", s, everybody, "of another session"
                if not bounds.honest_setup:
                    both = {index: (None, 0, 1) for index in bounds.liars} if bounds.equivocate else {}
                    for chosen in product(*(both.get(index, (None, 0)) for index in whole)):
                        entries = tuple((index, v) for index, v in enumerate(chosen) if v is not None)
                        if entries != everybody:
                            yield "directory", s, entries, ""
            case "delivery":
                for dealers in {tuple(index for index in one if index != here): 0 for one in shown}:
                    yield "delivery", s, dealers, ""
                    yield from (("delivery", s, dealers, ("broken", dealer)) for dealer in dealers)
            case "request":
                for r, indices in product(range(bounds.rounds), shown):
                    yield from (("request", s, r, indices, when) for when in ("upload", "not ready"))
            case "survivors":
                yield from (("survivors", s, *what) for what in product(range(bounds.rounds), sets))
            case "consents":
                fills = ["", "forged", "of another set", *(["to other uploads"] if bounds.replay else ())]
                fills += ["that accepted another sum"] if view[4] else []
                # Small sets first: one that also has a consent of a stranger is taken or not by its place in the list.
                rising = sets[::-1]
                for r, valid, fill in product(range(bounds.rounds), rising, fills):
                    # Without a sum of its own a client takes whatever others accepted; else who accepted none, or the same.
                    free = [one for one in valid if one in bounds.honest] if view[4] else []
                    for size in range(len(free) + 1):
                        for without in combinations(free, size):
                            yield "consents", s, r, valid, fill, without
            case "answer":
                yield from (("answer", s, r) for r in range(bounds.rounds))
            case "roots":
                for r, chosen in product(range(bounds.rounds), sets):
                    yield from (("roots", s, r, chosen, some) for some in self._shown_uploads(chosen))
                    yield from (("roots", s, r, chosen, ((one, _FORGED),)) for one in chosen)
            case "evidence":
                _, participants, survivors, variants, _ = view
                seen = tuple((i, v) for i, v in zip(survivors, variants, strict=True) if v == 1)
                gone = [one for one in participants if one not in survivors]
                for r in range(bounds.rounds):
                    yield from (("evidence", s, r, one, ()) for one in self._shown_uploads(survivors))
                    yield "evidence", s, r, seen, ("few consents", -1)
                    yield "evidence", s, r, seen, ("another directory", -1)
                    for what, whose in (
                        ("another self mask of", survivors),
                        ("without", survivors),
                        ("other pair masks of", gone),
                        ("with the late upload of", gone),
                    ):
                        yield from (("evidence", s, r, seen, (what, one)) for one in whose)

    def _shown_uploads(self, survivors: Sequence[int]) -> Iterator[tuple[tuple[int, int], ...]]:
        """Which of their uploads colluders show: those of whom it is the second."""
        liars = [one for one in survivors if one in self.bounds.liars]
        for size in range(len(liars) + 1):
            yield from (tuple((one, 1) for one in some) for some in combinations(liars, size))

    def _view(self, site: Site, s: int) -> tuple[Any, ...] | None:
        """What the client would sign a consent to: the directory's entries, participants, survivors; and, for a replay, the
        variants of their uploads, and the sums that it accepted before: round, participants, survivors, variants, session.
        """
        client = site.sessions[s]
        early = client.state is ClientState.START or not client._memory.directory
        if early or not (client._memory.survivors or self.bounds.replay):
            return None
        memory = client._memory
        sets = tuple(sorted(memory.participants)), tuple(sorted(memory.survivors))
        variants = tuple(
            next(
                (v for v in (0, 1) if root == self._root(s, memory.round, sets[0], one, v)),
                _FORGED,
            )
            for one, root in zip(sets[1], memory.roots, strict=False)
        )
        digests = {one.digest for one in memory.accepted.values()}
        accepted = tuple(sorted(one for one, digest in self._digests.items() if digest in digests))
        return self._entries[memory.directory], *sets, variants, accepted

    # ---- the sites' own steps --------------------------------------------------------------------

    def moves(self, name: int) -> tuple[Move, ...]:
        """Every message that the node accepts, the easiest to send for each outcome.

        Of nodes that differ by the names of honest clients one gets every message of the alphabet. The others' moves are the
        renamed ones: the alphabet is closed under renamings, and clients treat all places alike. `image` takes each such move
        through the real code, which must accept it; that no other message would be taken is compared in a test
        (`test_renamed_clients_take_renamed_messages`), as it costs most of the time.
        """
        if name not in self._moves:
            first, renamed = self.likeness(name)
            with self.stand_ins():
                if first == name:
                    self._moves[name] = self._expanded(name)
                else:
                    self._moves[name] = tuple(
                        self._renamed_move(name, move, renamed) for move in self.moves(first)
                    )
        return self._moves[name]

    def _renamed_move(self, name: int, move: Move, renamed: tuple[int, ...]) -> Move:
        node, said = self.nodes[name], _renamed(move.said, renamed)
        need = self._need(node.index, said, self._view(node.site, said[1]))
        return Move(move.rank, said, need, self.image(move.target, renamed))

    def _expanded(self, name: int) -> tuple[Move, ...]:
        node, found = self.nodes[name], dict[tuple[Rank, int], list[Move]]()
        before, trial = self._print(node.site), self._copy(node.site)
        for said in self._alphabet(node):
            view = self._view(node.site, said[1])
            data = self._bytes(said, node.index, view)
            self.calls += 1
            taken = self._take(trial, said, data)
            if taken is None:
                self.refused += 1
                continue
            need, facts = self._need(node.index, said, view), node.facts
            for fact in taken:
                facts |= self.bit(fact)
            target = self._intern(node.index, trial, facts, name, said)
            trial = self._copy(node.site)
            if target == name:
                continue  # nothing changed
            move = Move(self.rank(node.site, said), said, need, target)
            rivals = found.setdefault((move.rank, target), [])
            if not any(one.need & ~need == 0 for one in rivals):
                rivals[:] = [one for one in rivals if need & ~one.need] + [move]
        assert self._print(trial) == before, "a message that was refused changed the client"
        return tuple(move for rivals in found.values() for move in rivals)

    def step(self, name: int, said: Said) -> int:
        """The node after one message, which it must accept."""
        node = self.nodes[name]
        with self.stand_ins():
            site = self._copy(node.site)
            taken = self._take(site, said, self._bytes(said, node.index, self._view(node.site, said[1])))
            assert taken is not None, f"site {node.index} refuses {said}, which its likes accept"
            facts = node.facts
            for fact in taken:
                facts |= self.bit(fact)
            return self._intern(node.index, site, facts, name, said)

    def _take(self, site: Site, said: Said, data: bytes) -> list[Fact] | None:
        """Give the site a message; what it lets out, or None if it refuses."""
        kind, s, *what = said
        client, here = site.sessions[s], site.index
        self._draws.begin(here, s, kind)
        try:
            answer = client.receive(data)
        except (RemoteProtocolError, PolicyError):
            return None
        assert kind != "parameters" or data == encode(self.parameters[s]), f"{what[0]} was accepted"
        if isinstance(answer, SumWanted):
            return self._upload(site, s, answer) if what[2] == "upload" else []
        message = decode(answer[:-SIGNATURE_BYTES], messages.FROM_CLIENT)
        match message:
            case Shares():
                entries = what[0]
                self._entries[client._memory.directory] = entries
                for bundle in message.bundles:
                    known = self._bundles[s, here, bundle.recipient]
                    assert self.bounds.real_crypto or bundle.commitments == known.commitments
                return [
                    ("advertised", s, here),
                    *(("bundle", s, here, one.recipient) for one in message.bundles),
                ]
            case Consent():
                view = self._view(site, s)
                assert view is not None
                signed = self._parts(s, what[0], view)
                assert client._consent_parts() == signed
                opened = {number: one.digest for number, one in client._memory.accepted.items()}
                assert message.vote == self._voted(here, signed, client._memory.upload, opened)
                return [("consent", s, what[0], here, view[:4]), ("consent", s, what[0], here, view)]
            case Reveal():
                times = site.revealed.get((s, message.round), 0)
                site.revealed[s, message.round] = min(2, times + 1)
                facts: list[Fact] = [("again", s, message.round, here)] if times else []
                for dealer, share in message.shares:
                    session, number, holder, owner, share_kind = self._share_of[share]
                    assert (session, number, holder, owner) == (s, message.round, here, dealer)
                    facts.append(("share", s, number, here, dealer, share_kind))
                return facts
            case Verdict():
                return self._accepted(site, s, message.round) if message.accepted else []
        return [("advertised", s, here)] if kind == "parameters" else []

    def _accepted(self, site: Site, s: int, number: int) -> list[Fact]:
        """The sum that a client made again, and whether it is that of the vectors in the uploads that it consented to."""
        view = self._view(site, s)
        assert view is not None
        encoding = self.parameters[s].rounds[number].encoding(self.bounds.clients)
        made = site.sessions[s].verified[number]
        self._digests[number, *view[1:4], s] = made.digest
        vectors = (self._vector(number, one, v) for one, v in zip(*view[2:4], strict=True))
        right = np.sum([encoding.encode(vector).view(np.int64) for vector in vectors], axis=0)
        units = tuple(made.units.tolist())
        return [("accepted", s, number, site.index, view[2], units, units == tuple(right.tolist()))]

    def _upload(self, site: Site, s: int, wanted: SumWanted) -> list[Fact]:
        client, here = site.sessions[s], site.index
        try:
            frame = client.contribute(wanted, self.vectors[here, wanted.round], DATA_SET)
        except PolicyError:
            return []
        message = decode(frame[:-SIGNATURE_BYTES], messages.FROM_CLIENT)
        assert isinstance(message, Upload)
        fact = self._upload_fact(s, wanted.round, here)
        self.payloads[fact] = bytes(message.payload)
        if self.bounds.replay:
            expected = self._uploaded(s, wanted.round, wanted.participants, here, 0)
            assert expected == (frame, fact), "an upload depends on more than its round and participants"
        return [fact]

    def _upload_fact(self, s: int, number: int, here: int) -> Fact:
        """Of the upload that was made last, with its masks."""
        masks = [
            (self._mask_of[key], sign)
            for keys, sign in zip(self._captured, (1, -1), strict=True)
            for key in keys
        ]
        return "upload", s, number, here, tuple(sorted(masks))

    def _need(self, here: int, said: Said, view: Any) -> int:
        kind, s, *what = said
        facts: list[Fact] = []
        if kind == "directory":
            facts = [("advertised", s, index) for index, _ in what[0] if index != here]
        elif kind == "delivery":
            facts = [("bundle", s, dealer, here) for dealer in what[0]]
        elif kind == "consents":
            facts = [
                (
                    "consent",
                    s,
                    what[0],
                    index,
                    (*view[:4], ()) if index in what[3] else view if view[4] else view[:4],
                )
                for index in what[1]
            ]
        elif kind == "evidence":
            _, participants, survivors = view[:3]
            late = what[2][1:] if what[2][:1] == ("with the late upload of",) else ()
            made = [self._uploaded(s, what[0], participants, one, 0) for one in (*survivors, *late)]
            facts = [each[1] for each in made if each]
        need = 0
        for fact in facts:
            if fact[3 if kind in ("consents", "evidence") else 2] in self.bounds.honest:
                need |= self.bit(fact)
        return need

    def rank(self, site: Site, said: Said) -> Rank:
        """The turn of a message to this site."""
        kind, s, *what = said
        setting_up = {"parameters": 0, "directory": 1, "delivery": 2}
        if kind in setting_up:
            return s, setting_up[kind]
        again = site.revealed.get((s, what[0]), 0)
        if kind in ("answer", "evidence"):
            return s, 3 + what[0] * _ROUND + _ANSWER
        at = {"request": 0, "survivors": 1, "roots": 1, "consents": 2}[kind]
        return s, 3 + what[0] * _ROUND + at + 2 * again

    def ranks(self) -> list[Rank]:
        """All turns, in order."""
        steps = [0, 1, 2]
        for r in range(self.bounds.rounds):
            turns = [*range(7 if self.bounds.weak == "either-or" else 3), _ANSWER]
            steps += [3 + r * _ROUND + step for step in turns]
        return [(s, step) for s in range(self.bounds.sessions) for step in steps]

    # ---- names -----------------------------------------------------------------------------------

    def bit(self, fact: Fact) -> int:
        """The fact as a set with one element."""
        if fact not in self._bits:
            self._bits[fact] = 1 << len(self.known)
            self.known.append(fact)
        return self._bits[fact]

    def facts(self, held: int) -> Iterator[Fact]:
        """What is in a set of facts."""
        while held:
            low = held & -held
            yield self.known[low.bit_length() - 1]
            held ^= low

    def _intern(self, index: int, site: Site, facts: int, parent: int, said: Said | None) -> int:
        key = index, self._print(site), facts
        if key not in self._names:
            self._names[key] = len(self.nodes)
            self.nodes.append(Node(index, site, facts, parent, said))
        return self._names[key]

    @staticmethod
    def _copy(site: Site) -> Site:
        ledger: Ledger = _copied(site.ledger)
        sessions = [_copied(client) for client in site.sessions]
        for client in sessions:
            client._ledger = ledger
        return Site(site.index, ledger, sessions, dict(site.revealed))

    def _print(self, site: Site) -> bytes:
        """All that the site's objects hold, hashed, but for the digest of the message that is answered."""
        return hashlib.sha256(repr(_shown((site.ledger, site.sessions, site.revealed))).encode()).digest()

    def image(self, name: int, renamed: tuple[int, ...]) -> int:
        """The node that the renamed site is in after the renamed messages. renamed: the new place of each place.

        The real code runs for exchanges of two neighbouring places; other renamings are made of these.
        """
        if renamed == self.cohort:
            return name
        key = name, renamed
        if key not in self._images:
            node = self.nodes[name]
            low = next(i for i in range(len(renamed)) if renamed[i] > renamed[i + 1])
            swap = (*range(low), low + 1, low, *range(low + 2, len(renamed)))
            if renamed != swap:
                rest = tuple(renamed[index] for index in swap)
                after = self.image(name, swap)
                result = after if rest == tuple(range(len(rest))) else self.image(after, rest)
            elif node.said is None:
                result = self.roots[renamed[node.index]]
            else:
                result = self.step(self.image(node.parent, renamed), _renamed(node.said, renamed))
            self._images[key] = result
        return self._images[key]

    def likeness(self, name: int) -> tuple[int, tuple[int, ...]]:
        """A node that is the same for all that differ from it by the names of honest clients, their own site's too (their
        colour), and the renaming that makes this one of it.
        """
        if name not in self._likeness:
            cohort = self.cohort
            swaps = [(*cohort[:i], i + 1, i, *cohort[i + 2 :]) for i in self.bounds.honest[:-1]]
            fresh = {name: cohort}
            while fresh:
                self._likeness |= {one: (name, renamed) for one, renamed in fresh.items()}
                after = {
                    self.image(one, swap): tuple(swap[index] for index in renamed)
                    for one, renamed in fresh.items()
                    for swap in swaps
                }
                fresh = {one: renamed for one, renamed in after.items() if one not in self._likeness}
        return self._likeness[name]

    def path(self, name: int) -> list[Said]:
        """How the node was reached first."""
        said: list[Said] = []
        while (node := self.nodes[name]).said is not None:
            said.append(node.said)
            name = node.parent
        return said[::-1]


def _renamed(said: Said, to: tuple[int, ...]) -> Said:
    def indices(of: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(to[index] for index in of))

    match said:
        case ("directory", s, entries, twist):
            return "directory", s, tuple(sorted((to[index], variant) for index, variant in entries)), twist
        case ("delivery", s, dealers, twist):
            return "delivery", s, indices(dealers), (twist[0], to[twist[1]]) if twist else twist
        case ("consents", s, r, of, fill, without):
            return "consents", s, r, indices(of), fill, indices(without)
        case ("request" | "survivors" as kind, s, r, of, *rest):
            return kind, s, r, indices(of), *rest
        case ("roots", s, r, of, shown):
            return "roots", s, r, indices(of), tuple((to[index], variant) for index, variant in shown)
        case ("evidence", s, r, shown, (what, index)):
            return "evidence", s, r, shown, (what, to[index] if index >= 0 else index)
    return said


_UNSHOWN = {
    "parameters",
    "answers",
    "invitation",
    "_answers",
    "_first",
    "_others",
    "_memories",
    "_steps",
    "_identity",
    "_roster",
    "_policy",
    "_plan",
    "_agreed",
    "_log_head",
}


def _copied(value: Any) -> Any:
    """A copy of all that can change; the rest is shared."""
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    if isinstance(value, set):
        return set(value)
    if isinstance(value, Memory | RoundKeys):
        twin = structs.replace(value)
        for name in type(value).__struct_fields__:
            setattr(twin, name, _copied(getattr(value, name)))
        return twin
    if not isinstance(value, MaskingClient | Ledger):
        return value
    other = object.__new__(type(value))
    other.__dict__.update((name, _copied(each)) for name, each in vars(value).items() if name != "_ledger")
    if isinstance(other, MaskingClient):
        other._steps = {message: getattr(other, step.__name__) for message, step in other._steps.items()}
    return other


def _shown(value: object) -> object:
    if value is None or isinstance(value, bytes | int | str | float):
        return value
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, wire.Message):
        return encode(value)
    if isinstance(value, Struct):
        fields = structs.asdict(value)
        fields.pop("state", None)  # of the last time that it was put into a store; the client's own is shown
        return type(value).__name__, _shown_fields(fields)
    if isinstance(value, dict):
        return sorted(((repr(_shown(k)), _shown(v)) for k, v in value.items()), key=lambda pair: pair[0])
    if isinstance(value, set | frozenset):
        return sorted(repr(_shown(one)) for one in value)
    if isinstance(value, list | tuple):
        return [_shown(one) for one in value]
    if isinstance(value, MethodType):
        return value.__name__
    attributes = getattr(value, "__dict__", None)
    assert attributes is not None, type(value)
    if hasattr(value, "public_key"):
        return value.public_key
    return type(value).__name__, _shown_fields(attributes)


def _shown_fields(fields: Mapping[str, object]) -> list[tuple[str, object]]:
    return [(name, _shown(value)) for name, value in sorted(fields.items()) if name not in _UNSHOWN]
