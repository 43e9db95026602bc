"""The five state machines in every state, for the fuzzer: what it feeds, and what must hold after a refusal."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
from msgspec import msgpack
from worlds.cohorts import EVERY_PROFILE, Session, link, world
from worlds.encrypted import EVERY_BACKEND, KeySession, KeyWorld

from long.recipes import Path, Recipe, paths_in, tree_of
from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.hpke import seal
from secure_afl.crypto.identity import SIGNATURE_BYTES
from secure_afl.crypto.kdf import Label
from secure_afl.crypto.shamir import SHARE_BYTES
from secure_afl.protocol.homomorphic import agreement, client, holder, server
from secure_afl.protocol.homomorphic import messages as encrypted
from secure_afl.protocol.homomorphic import states as encrypted_states
from secure_afl.protocol.homomorphic.memory import ClientMemory, HolderMemory
from secure_afl.protocol.masking import messages as masked
from secure_afl.protocol.masking import server as masking_server
from secure_afl.protocol.masking import states as masked_states
from secure_afl.protocol.masking.memory import Memory, RoundKeys
from secure_afl.protocol.session.errors import PolicyError, ProtocolError, RemoteProtocolError
from secure_afl.protocol.session.ledger import Ledger
from secure_afl.protocol.session.parameters import PARAMETERS, Profile, SumWanted
from secure_afl.protocol.session.profile import Mode, Verify
from secure_afl.protocol.session.server import Outbox, SignedServer
from secure_afl.protocol.session.wire import WireError, answered, decode, encode, sign_frame
from secure_afl.protocol.transport.driver import Packet, PerfectNetwork

VICTIM = 1  # the client that is lied to, or whose key signs what servers are sent
ROUNDS = 2
Party = Any
Wrap = Callable[[bytes], bytes]
_MUTABLE: tuple[type, ...] = (Ledger, masking_server._Round, server._Round)
_MEMORIES = (Memory, RoundKeys, ClientMemory, HolderMemory)


# ---- what a party knows, kept and compared -----------------------------------------------------------


def kept(value: Any) -> Any:
    """A copy of all that a machine may change in place; what is frozen is not copied."""
    if isinstance(value, dict):
        return {key: kept(one) for key, one in value.items()}
    if isinstance(value, list | set):
        return type(value)(value)
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, _MEMORIES):
        return type(value)(**{name: kept(getattr(value, name)) for name in value.__struct_fields__})
    if isinstance(value, _MUTABLE):
        copy = object.__new__(type(value))
        copy.__dict__.update(kept(value.__dict__))
        return copy
    return value


def differing(one: Any, other: Any) -> bool:
    """Whether two such values differ."""
    if one is other:
        return False
    if type(one) is not type(other):
        return True
    if isinstance(one, dict):
        return one.keys() != other.keys() or any(differing(one[key], other[key]) for key in one)
    if isinstance(one, np.ndarray):
        return not np.array_equal(one, other)
    if isinstance(one, _MUTABLE):
        return differing(one.__dict__, other.__dict__)
    return bool(one != other)


def changes(before: Mapping[str, Any], party: Party) -> set[str]:
    """The names of the attributes that changed."""
    before, after = _known(before), _known(vars(party))
    known = before.keys() | after.keys()
    return {name for name in known if differing(before.get(name), after.get(name))}


def _known(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """All attributes, a session's memory field by field; but two of it are written when it is put into a store."""
    known = {name: value for name, value in attributes.items() if name != "_memory"}
    memory = attributes.get("_memory")
    if memory is not None:
        fields = set(memory.__struct_fields__) - {"state", "answers"}
        known |= {f"_memory.{name}": getattr(memory, name) for name in fields}
    return known


# ---- one machine in one state ------------------------------------------------------------------------


@dataclass
class Machine:
    """A party in a state. bases: messages by name, of which `pending` is the one that it waits for, or "".

    inner: for names in `bases`, how a part of the pending message that others sign is signed anew and put in its
    place, as parties that help the attacker would.
    """

    name: str
    party: Party
    bases: dict[str, bytes]
    pending: str
    answer: Callable[[Any], object] = lambda answer: None
    inner: dict[str, Wrap] = field(default_factory=dict)
    weight: float = 1.0
    may_sign = False
    senders: tuple[int, ...] = ()
    reason: str = ""  # of the last refusal

    def __post_init__(self) -> None:
        self.paths: dict[str, list[Path]] = {at: paths_in(tree_of(data)) for at, data in self.bases.items()}
        self._kept = kept(vars(self.party))
        self._taken = 0

    def feed(self, recipe: Recipe, data: bytes) -> bool:
        """Whether it was accepted. Raises `AssertionError` if a refusal changed anything."""
        if wrap := self.inner.get(recipe.base):
            data = wrap(data)
        self._check_kept()
        before = kept(vars(self.party)) if wrap else self._kept  # a wrap may prepare the party
        try:
            answer = self.party.receive(data)
        except (RemoteProtocolError, PolicyError) as error:
            self.reason = str(error)
            changed = changes(before, self.party)
            if changed or wrap:
                self.restore()
            assert changed <= self._may_change(changed), f"changed {sorted(changed)} and refused"
            return False
        except BaseException:
            self.restore()
            raise
        try:
            self._taken += 1
            if isinstance(answer, SumWanted) and self._taken % 16 == 1:
                self.answer(answer)
            assert isinstance(answer, bytes | SumWanted)
        finally:
            self.restore()
        return True

    def _may_change(self, changed: set[str]) -> set[str]:
        # A sum that a key holder tried to open and could not is never opened.
        spent = isinstance(self.party, holder.KeyHolder) and "_opened" in changed
        return {"_opened", "_ledger"} if spent else set()

    def _check_kept(self) -> None:
        assert self.party.state is self._kept["state"]

    def restore(self) -> None:
        """The party as it was."""
        self.party.__dict__.clear()
        self.party.__dict__.update(kept(self._kept))

    def honest(self) -> None:
        """Raises if what the party waits for is refused."""
        if self.pending:
            assert self.feed(Recipe(self.name, self.pending), self.bases[self.pending]), (
                "refused the honest message"
            )


@dataclass
class Serving:
    """A server in a state, waiting for one party's frame. bases: messages without signatures, and whole frames.

    sign: the frame of a message that a party signs in answer to what it was sent.
    """

    name: str
    party: SignedServer[Any]
    bases: dict[str, bytes]
    pending: str
    sender: int
    sign: Callable[[int, bytes], bytes]
    senders: tuple[int, ...]
    afterwards: Callable[[Any], object]
    weight: float = 1.0
    may_sign = True
    reason: str = ""

    def __post_init__(self) -> None:
        self.paths: dict[str, list[Path]] = {at: paths_in(tree_of(data)) for at, data in self.bases.items()}
        self._kept = kept(vars(self.party))
        self._taken = 0

    def feed(self, recipe: Recipe, data: bytes) -> bool:
        """Whether it was accepted; see `Machine.feed`. Only what the sender signed may bring blame on it."""
        sender = recipe.sender if recipe.sender in self.senders else self.sender
        frame = self.sign(sender, data) if recipe.sign else data
        try:
            self.party.receive(sender, frame)
        except RemoteProtocolError as error:
            self.reason = str(error)
            changed = changes(self._kept, self.party)
            if changed:
                blamed, waiting = dict(self.party.blame), self.party.waiting_for
                self.restore()
                assert recipe.sign, f"changed {sorted(changed)} for a frame that nobody signed"
                assert changed <= {"blame", "waiting_for"}, f"changed {sorted(changed)} and refused"
                assert blamed.keys() == {sender}
                assert waiting == self.party.waiting_for - {sender}
            return False
        except BaseException:
            self.restore()
            raise
        try:
            honest = self.bases.get(f"frame {self.pending}")
            assert recipe.sign or frame == honest, "accepted what nobody signed"
            self._taken += 1
            if self._taken % 4 == 1:
                self.afterwards(self.party)
        except (ProtocolError, CryptoError):
            pass
        finally:
            self.restore()
        return True

    def restore(self) -> None:
        """The server as it was."""
        self.party.__dict__.clear()
        self.party.__dict__.update(kept(self._kept))

    def honest(self) -> None:
        """Raises if what the server waits for is refused."""
        if self.pending:
            recipe = Recipe(self.name, self.pending, sign=True, sender=self.sender)
            assert self.feed(recipe, self.bases[self.pending]), "refused the honest message"


# ---- masked sessions ---------------------------------------------------------------------------------


class Held(PerfectNetwork):
    """Delivers what is sent, and keeps it."""

    def __init__(self) -> None:
        self.seen: list[Packet] = []

    def carry(self, packet: Packet) -> list[Packet]:
        self.seen.append(packet)
        return [packet]

    def bases(self, transcript: bytes = b"") -> dict[str, bytes]:
        """One of each kind of message, without signatures; the server's as if of another session."""
        found: dict[str, bytes] = {}
        for packet in self.seen:
            data = packet.data[:-SIGNATURE_BYTES] if packet.upward else packet.data
            tree = tree_of(data)
            if not packet.upward and transcript and len(tree) > 1 and tree[0] not in _NO_TRANSCRIPT:
                tree[1] = transcript
            found.setdefault(tree[0], msgpack.encode(tree))
        return found


TAGS: Mode = (Profile.ACTIVE, Verify.TAGS)
REPLAY: Mode = (Profile.ACTIVE, Verify.REPLAY)
SEMI: Mode = (Profile.SEMI_HONEST, Verify.NONE)
_NO_TRANSCRIPT = ("parameters", "agreement", "invitation")


def _masked_session(mode: Mode, network: Held) -> Session:
    here = world(4, dataclasses.replace(EVERY_PROFILE, verify=frozenset({mode[1]})))
    return here.session(here.propose(rounds=ROUNDS, profile=mode[0]), network)


def _masked_bases(mode: Mode) -> dict[str, bytes]:
    network = Held()
    session = _masked_session(mode, network).set_up()
    for number in range(ROUNDS):
        session.sum(number)
    return network.bases()


_MASKED_PHASES = (
    "advertising",
    "sharing",
    "confirming",
    "collecting",
    "consenting",
    "unmasking",
    "answering",
)


def _masked_at(mode: Mode, phase: str) -> tuple[Session, Outbox]:
    """A session in which this phase's messages wait to be delivered."""
    session = _masked_session(mode, Held())
    return session, _outbox_of(session, phase)


def _outbox_of(session: Session | KeySession, phase: str) -> Outbox:
    machine, step = session.server, session.server.start
    while True:
        outbox = step()
        if machine.state.value == "ready":
            outbox = machine.open_round(0)
        if machine.state.value == phase:
            return outbox
        session.cohort.run(lambda outbox=outbox: outbox, session.contribute)  # type: ignore[misc]
        if machine.state.value == "unmasking":
            machine.result()
        step = machine.advance


def _answers(session: Session | KeySession, outbox: Outbox) -> dict[int, bytes]:
    frames = {}
    for index, data in outbox.items():
        parties: dict[int, Any] = {**session.clients, **getattr(session, "holders", {})}
        answer = parties[index].receive(data)
        if isinstance(answer, SumWanted):
            answer = parties[index].contribute(answer, *session.contribute(index, answer))
        frames[index] = answer
    return frames


def _signing(party: SignedServer[Any], identities: Any) -> Callable[[int, bytes], bytes]:
    def sign(sender: int, data: bytes) -> bytes:
        known = identities[sender if 0 <= sender < len(identities) else 0]
        message: Any = msgspec.Raw(data)  # encodes as these very bytes
        question = party._questions.get(sender, b"")
        return sign_frame(known, party._transcript, question, max(0, sender), message)

    return sign


def masking_servers() -> list[Serving]:
    """In each state."""
    found = []
    bases = _masked_bases(TAGS)
    replayed = [(REPLAY, phase) for phase in ("collecting", "consenting", "answering")]
    for mode, phase in [*((TAGS, phase) for phase in _MASKED_PHASES), *replayed]:
        session, outbox = _masked_at(mode, phase)
        frames = _answers(session, outbox)
        for index, frame in frames.items():
            if index != VICTIM:
                session.server.receive(index, frame)
        found.append(_masking_server(session, bases, frames[VICTIM]))
    for phase in ("start", "ready", "opened", "aborted"):
        session = _masked_session(TAGS, Held())
        if phase == "ready":
            session.set_up()
        elif phase == "opened":
            session, outbox = _masked_at(TAGS, "unmasking")
            for index, frame in _answers(session, outbox).items():
                session.server.receive(index, frame)
            session.server.result()
        elif phase == "aborted":
            session.server.start()
            _aborts(session.server.advance)
        assert session.server.state.value == phase
        found.append(_masking_server(session, bases, b""))
    return found


def _aborts(step: Callable[[], object]) -> None:
    try:
        step()
    except ProtocolError:
        return
    raise AssertionError("expected an abort")


def _masking_server(session: Session, bases: Mapping[str, bytes], frame: bytes) -> Serving:
    machine = session.server
    replays = machine.parameters.verify is Verify.REPLAY
    return Serving(
        f"MaskingServer {'replay ' if replays else ''}{machine.state.value}",
        machine,
        *_with_frame(bases, frame),
        sender=VICTIM,
        sign=_signing(machine, session.world.identities),
        senders=(-1, 0, 1, 2, 3, 4, 2**40),
        afterwards=_masking_on,
    )


def _with_frame(bases: Mapping[str, bytes], frame: bytes) -> tuple[dict[str, bytes], str]:
    if not frame:
        return dict(bases), ""
    message = frame[:-SIGNATURE_BYTES]
    name = tree_of(message)[0]
    return {**bases, name: message, f"frame {name}": frame}, name


def _masking_on(machine: masking_server.MaskingServer) -> None:
    if machine.state is masked_states.ServerState.UNMASKING:
        machine.result()
        if machine.parameters.verify is not Verify.NONE:
            machine.advance()
    else:
        machine.advance()


def masking_clients() -> list[Machine]:
    """In each state, in all modes where they differ."""
    found = []
    for mode, differ in (
        (TAGS, list(_PHASE_OF)),
        (REPLAY, ["uploaded", "consented", "revealed"]),
        (SEMI, ["uploaded", "ready"]),
    ):
        bases = _masked_bases(mode)
        for state in masked_states.ClientState:
            if state.value in differ:
                found.append(_masking_client(mode, state, bases))
    return found


_PHASE_OF = {
    "start": "advertising",
    "advertised": "sharing",
    "shared": "confirming",
    "ready": "collecting",
    "requested": "collecting",
    "uploaded": "consenting",
    "consented": "unmasking",
    "revealed": "answering",
}


def _masking_client(mode: Mode, state: masked_states.ClientState, others: Mapping[str, bytes]) -> Machine:
    phase = _PHASE_OF[state.value]
    if mode is SEMI and state.value == "uploaded":
        phase = "unmasking"
    session, outbox = _masked_at(mode, phase)
    party, pending = session.clients[VICTIM], outbox[VICTIM]
    if state.value == "requested":
        party.receive(pending)
    assert party.state is state
    network: Any = link(session.cohort)._network
    transcript = session.parameters.transcript()
    bases = dict(others)
    for name, data in bases.items():
        tree = tree_of(data)
        if name != "parameters" and len(tree) > 1:
            bases[name] = msgpack.encode([tree[0], transcript, *tree[2:]])
    bases |= network.bases()
    name = tree_of(pending)[0]
    bases[name] = pending
    machine = Machine(
        f"MaskingClient {'replay' if mode is REPLAY else mode[0].value} {state.value}",
        party,
        bases,
        name,
        answer=lambda wanted: party.contribute(wanted, *session.contribute(VICTIM, wanted)),
    )
    if state.value == "advertised":
        _sign_advertisements(machine, session)
    if state.value == "shared":
        _sign_bundles(machine, session)
    return machine


def _add_inner(machine: Machine, name: str, data: bytes, wrap: Wrap) -> None:
    machine.bases[name] = data
    machine.paths[name] = paths_in(tree_of(data))
    machine.inner[name] = wrap


def _sign_advertisements(machine: Machine, session: Session) -> None:
    directory = decode(machine.bases["directory"], masked.FROM_SERVER)
    assert isinstance(directory, masked.Directory)
    party = machine.party
    frames = dict(directory.frames)

    def wrap(data: bytes) -> bytes:
        raw: Any = msgspec.Raw(data)
        frame = sign_frame(session.world.identities[2], party._transcript, party._memory.invitation, 2, raw)
        return encode(masked.Directory(party._transcript, tuple(sorted({**frames, 2: frame}.items()))))

    _add_inner(machine, "signed advertise", frames[2][:-SIGNATURE_BYTES], wrap)


def _sign_bundles(machine: Machine, session: Session) -> None:
    """Bundles of a lower and of a higher neighbour, and what is sealed in them."""
    delivery = decode(machine.bases["delivery"], masked.FROM_SERVER)
    assert isinstance(delivery, masked.Delivery)
    party, transcript = machine.party, session.parameters.transcript()
    bundles = dict(delivery.bundles)

    def signed(dealer: int, bundle: masked.Bundle) -> bytes:
        identity = session.world.identities[dealer]
        try:
            parts = bundle._signed(transcript, dealer)
        except OverflowError:  # a number that no honest dealer can sign
            parts = ()
        signature = identity.sign(Label.BUNDLE_SIGNATURE, *parts)
        bundle = msgspec.structs.replace(bundle, signature=signature)
        return encode(masked.Delivery(transcript, tuple(sorted({**bundles, dealer: bundle}.items()))))

    def whole(dealer: int) -> Wrap:
        def wrap(data: bytes) -> bytes:
            try:
                return signed(dealer, msgpack.decode(data, type=masked.Bundle))
            except (msgspec.DecodeError, ValueError, RecursionError):
                return data

        return wrap

    def sealed(dealer: int) -> Wrap:
        def wrap(data: bytes) -> bytes:
            info = masked.shares_info(transcript, dealer, VICTIM)
            closed = seal(session.parameters.suite, party._memory.channel.public_key, data, info)
            commitments = []
            for number, old in enumerate(bundles[dealer].commitments):
                at = number * 2 * SHARE_BYTES
                pair = (data[at : at + SHARE_BYTES], data[at + SHARE_BYTES : at + 2 * SHARE_BYTES])
                fresh = (
                    masked.commitment(transcript, number, dealer, VICTIM, kind, share)
                    for kind, share in enumerate(pair)
                )
                commitments.append((*fresh, *old[2:]))
            bundle = msgspec.structs.replace(bundles[dealer], sealed=closed, commitments=tuple(commitments))
            return signed(dealer, bundle)

        return wrap

    for dealer in (0, 2):
        plain = party._memory.channel.open(
            bundles[dealer].sealed, masked.shares_info(transcript, dealer, VICTIM)
        )
        _add_inner(machine, f"signed bundle of {dealer}", encode(bundles[dealer]), whole(dealer))
        _add_inner(machine, f"sealed shares of {dealer}", plain, sealed(dealer))


# ---- encrypted sessions ------------------------------------------------------------------------------

_POLICY = replace(EVERY_BACKEND, minimum_honest=2, corrupted=0.0, dropout=0.0)


def _encrypted_session(backend: str, holders: int) -> KeySession:
    session = KeyWorld(3, backend, holders, _POLICY).session(Held(), rounds=ROUNDS)
    if session.masks:
        session.masks.set_up()
        session.masks.collect(0, session.contribute)
    return session


_ENCRYPTED_PHASES = tuple(
    state.value
    for state in encrypted_states.ServerState
    if state.value not in ("start", "ready", "opened", "aborted")
)


def _encrypted_at(backend: str, holders: int, phase: str) -> tuple[KeySession, Outbox]:
    session = _encrypted_session(backend, holders)
    return session, _outbox_of(session, phase)


def _encrypted_bases(backend: str, holders: int) -> dict[str, bytes]:
    session, outbox = _encrypted_at(backend, holders, "opening")
    session.cohort.run(lambda: outbox, session.contribute)
    network: Any = link(session.cohort)._network
    return {name: data for name, data in network.bases().items() if name in _ENCRYPTED_TAGS}


_ENCRYPTED_TAGS = frozenset(
    str(kind.__struct_config__.tag)
    for kind in (agreement.Agreement, *vars(encrypted).values())
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
)


def homomorphic_servers(backend: str = "bfv", holders: int = 2) -> list[Serving]:
    """In each state."""
    found = []
    bases = _encrypted_bases(backend, holders)
    for phase in _ENCRYPTED_PHASES:
        session, outbox = _encrypted_at(backend, holders, phase)
        frames = _answers(session, outbox)
        victim = VICTIM if VICTIM in frames else session.world.members
        for index, frame in frames.items():
            if index != victim:
                session.server.receive(index, frame)
        found.append(_homomorphic_server(session, bases, victim, frames[victim]))
    for phase in ("start", "ready", "opened", "aborted"):
        session = _encrypted_session(backend, holders)
        if phase == "opened":
            session, outbox = _encrypted_at(backend, holders, "opening")
            session.cohort.run(lambda outbox=outbox: outbox, session.contribute)  # type: ignore[misc]
            session.server.advance()
        elif phase == "ready":
            session.cohort.set_up()
        elif phase == "aborted":
            session.server.start()
            _aborts(session.server.advance)
        assert session.server.state.value == phase
        found.append(_homomorphic_server(session, bases, VICTIM, b""))
    return found


def _homomorphic_server(
    session: KeySession, bases: Mapping[str, bytes], victim: int, frame: bytes
) -> Serving:
    machine, members = session.server, session.world.members
    return Serving(
        f"HomomorphicServer {session.world.backend}/{session.world.holders} {machine.state.value}",
        machine,
        *_with_frame(bases, frame),
        sender=victim,
        sign=_signing(machine, session.world.identities),
        senders=(-1, *range(members + session.world.holders + 1), 2**40),
        afterwards=_homomorphic_on,
        weight=0.5,
    )


def _homomorphic_on(machine: server.HomomorphicServer) -> None:
    machine.advance()
    if machine.state is encrypted_states.ServerState.OPENED:
        machine.result()


def homomorphic_clients(backend: str = "bfv", holders: int = 2) -> list[Machine]:
    """In each state."""
    bases = _encrypted_bases(backend, holders)
    phases = {"start": "inviting", "ready": "encrypting", "requested": "encrypting", "uploaded": "checking"}
    found = []
    for state in encrypted_states.ClientState:
        if state.value == "requested" and backend == "bfv+mask":
            continue  # it goes on by itself
        session, outbox = _encrypted_at(backend, holders, phases[state.value])
        party, pending = session.clients[VICTIM], outbox[VICTIM]
        if state.value == "requested":
            party.receive(pending)
            request = decode(pending, encrypted.TO_CLIENT)
            assert isinstance(request, encrypted.EncryptedRequest)
            pending = encode(msgspec.structs.replace(request, attempt=request.attempt + 1))
        assert party.state is state
        found.append(_encrypted_party("HomomorphicClient", session, party, bases, pending))
        if state.value == "start":
            _sign_invitations(found[-1], session)
        if state.value == "uploaded":
            _sign_checks(found[-1], session)
    return found


def key_holders(backend: str = "bfv", holders: int = 1) -> list[Machine]:
    """In each state."""
    bases = _encrypted_bases(backend, holders)
    phases = {
        "start": "key commitments",
        "committed": "key shares",
        "shared": "key announcements",
        "ready": "challenging",
        "challenged": "opening",
    }
    found = []
    for state in encrypted_states.HolderState:
        session, outbox = _encrypted_at(backend, holders, phases[state.value])
        index = session.world.members
        party, pending = session.holders[index], outbox[index]
        assert party.state is state
        found.append(_encrypted_party("KeyHolder", session, party, bases, pending))
        if state.value == "committed" and holders > 1:
            _sign_commitments(found[-1], session)
        if state.value == "shared" and holders > 1:
            _commit_to_shares(found[-1], session)
        if state.value == "challenged":
            _sign_tags(found[-1], session)
    return found


def _encrypted_party(
    kind: str,
    session: KeySession,
    party: client.HomomorphicClient | holder.KeyHolder,
    others: Mapping[str, bytes],
    pending: bytes,
) -> Machine:
    transcript = session.agreement.transcript()
    bases = dict(others)
    for name, data in bases.items():
        tree = tree_of(data)
        if name not in _NO_TRANSCRIPT and len(tree) > 1:
            bases[name] = msgpack.encode([tree[0], transcript, *tree[2:]])
    network: Any = link(session.cohort)._network
    bases |= {name: data for name, data in network.bases().items() if name in _ENCRYPTED_TAGS}
    name = tree_of(pending)[0]
    bases[name] = pending

    def contribute(wanted: SumWanted) -> object:
        assert isinstance(party, client.HomomorphicClient)
        return party.contribute(wanted, *session.contribute(VICTIM, wanted))

    return Machine(
        f"{kind} {session.world.backend}/{session.world.holders} {party.state.value}",
        party,
        bases,
        name,
        answer=contribute,
        weight=0.5 if party.state.value != "start" else 0.2,
    )


def _sign_invitations(machine: Machine, session: KeySession) -> None:
    """Agreements and keys that all key holders signed."""
    honest = decode(machine.bases["invitation"], encrypted.INVITATION)
    key_holders = session.world.identities[session.world.members :]

    def signed(agreed: agreement.Agreement, key: bytes) -> bytes:
        parts = encrypted.key_parts(agreed.transcript(), key)
        signatures = tuple(one.sign(Label.KEY_SIGNATURE, *parts) for one in key_holders)
        return encode(encrypted.Invitation(agreed, key, signatures))

    def another_agreement(data: bytes) -> bytes:
        try:
            return signed(decode(data, agreement.AGREEMENT), honest.key)
        except WireError:
            return data

    _add_inner(machine, "signed agreement", encode(honest.agreement), another_agreement)
    _add_inner(machine, "signed key", honest.key, lambda data: signed(honest.agreement, data))


def _sign_checks(machine: Machine, session: KeySession) -> None:
    """Offers that all key holders made."""
    honest = decode(machine.bases["check"], encrypted.CHECK)
    key_holders = session.world.identities[session.world.members :]

    def wrap(data: bytes) -> bytes:
        try:
            offer = msgpack.decode(data, type=encrypted.Offer)
            parts = [encrypted.challenge_parts(offer, one.seed) for one in honest.challenges]
        except (msgspec.DecodeError, ValueError, RecursionError, OverflowError):
            return data
        challenges = tuple(
            encrypted.Challenge(one.seed, key_holder.sign(Label.CHALLENGE_SIGNATURE, *signed))
            for one, key_holder, signed in zip(honest.challenges, key_holders, parts, strict=True)
        )
        return encode(encrypted.Check(honest.transcript, offer, challenges))

    _add_inner(machine, "signed offer", encode(honest.offer), wrap)


def _sign_commitments(machine: Machine, session: KeySession) -> None:
    """Another key holder's commitment."""
    other = session.world.members + 1
    honest: Any = decode(machine.bases["key commitments"], encrypted.TO_HOLDER)
    frames, party = dict(honest.frames), machine.party

    def wrap(data: bytes) -> bytes:
        question = answered(encode(party._memory.agreement))  # which every commitment answers
        raw: Any = msgspec.Raw(data)
        frame = sign_frame(session.world.identities[other], party._transcript, question, other, raw)
        return encode(
            encrypted.KeyCommitments(party._transcript, tuple(sorted({**frames, other: frame}.items())))
        )

    _add_inner(machine, "signed commitment", frames[other][:-SIGNATURE_BYTES], wrap)


def _commit_to_shares(machine: Machine, session: KeySession) -> None:
    """Another key holder's share, to which it committed before."""
    other = session.world.members + 1
    honest: Any = decode(machine.bases["key shares"], encrypted.TO_HOLDER)
    shares, party = dict(honest.shares), machine.party

    def wrap(data: bytes) -> bytes:
        commitment = encrypted.share_commitment(party._transcript, other, data)
        party._memory.commitments = {**party._memory.commitments, other: commitment}
        return encode(encrypted.KeyShares(party._transcript, tuple(sorted({**shares, other: data}.items()))))

    _add_inner(machine, "committed share", shares[other], wrap)


def _sign_tags(machine: Machine, session: KeySession) -> None:
    """A client's tags."""
    honest: Any = decode(machine.bases["opening"], encrypted.TO_HOLDER)
    frames, party = dict(honest.frames), machine.party

    def wrap(data: bytes) -> bytes:
        question = answered(honest.check)
        raw: Any = msgspec.Raw(data)
        frame = sign_frame(session.world.identities[2], party._transcript, question, 2, raw)
        return encode(msgspec.structs.replace(honest, frames=tuple(sorted({**frames, 2: frame}.items()))))

    _add_inner(machine, "signed tags", frames[2][:-SIGNATURE_BYTES], wrap)


# ---- all of them -------------------------------------------------------------------------------------


def machines() -> list[Machine | Serving]:
    """All five machines in every state; key phases of a committee and of a single key holder, and the masked way."""
    return [
        *masking_clients(),
        *masking_servers(),
        *homomorphic_clients("bfv", 2),
        *homomorphic_clients("bfv+mask", 1),
        *homomorphic_servers("bfv", 2),
        *homomorphic_servers("ckks", 1),
        *key_holders("bfv", 1),
        *key_holders("bfv", 2),
        *key_holders("ckks", 1),
    ]


def honest_messages() -> dict[str, bytes]:
    """One of each kind of message, by its tag, without signatures."""
    found = _masked_bases(REPLAY) | _masked_bases(TAGS)
    found |= _encrypted_bases("bfv", 2)
    decode(found["parameters"], PARAMETERS)
    return found


def honest_frames() -> dict[str, tuple[bytes, bytes, bytes, bytes, int]]:
    """Frames of a masked session, with what `wire.verify_frame` takes besides."""
    found = {}
    for phase in ("advertising", "sharing", "collecting"):
        session, outbox = _masked_at(TAGS, phase)
        frame = _answers(session, outbox)[VICTIM]
        key = session.world.identities[VICTIM].verify_key
        about = (session.parameters.transcript(), session.server._questions[VICTIM], VICTIM)
        found[phase] = (frame, key, *about)
    return found
