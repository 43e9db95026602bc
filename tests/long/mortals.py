"""Parties of a secure sum as processes of their own, which end themselves by a signal, SIGKILL as a rule, at a named point.

They talk to whoever started them over a socket. Nothing here is part of the product: its parties know no transport.
"""

import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from worlds.cohorts import BOUND
from worlds.encrypted import EVERY_BACKEND
from worlds.patience import HANG

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.identity import Identity
from secure_afl.protocol.durable.journal import DurableServer
from secure_afl.protocol.durable.parties import DurableParty
from secure_afl.protocol.durable.store import Kept, Store
from secure_afl.protocol.homomorphic.agreement import AGREEMENT, Encryption
from secure_afl.protocol.homomorphic.client import HomomorphicClient
from secure_afl.protocol.homomorphic.holder import KeyHolder
from secure_afl.protocol.homomorphic.server import HomomorphicServer
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.masking.memory import MEMORY
from secure_afl.protocol.masking.server import MaskingServer
from secure_afl.protocol.session.backend import Backend
from secure_afl.protocol.session.errors import ProtocolError, RoundAbortedError
from secure_afl.protocol.session.ledger import Ledger
from secure_afl.protocol.session.parameters import PARAMETERS, RoundSpec, SumPlan, SumWanted
from secure_afl.protocol.session.roster import Member, Roster
from secure_afl.protocol.session.server import OpenedSum, Outbox
from secure_afl.protocol.session.wire import decode

ROUNDS, LENGTH, CLIENTS = 2, 5, 4
PLAN = [SumPlan(f"sum {number}", LENGTH, BOUND, 20) for number in range(ROUNDS)]
SERVER = -1
MASKS, ENCRYPTED = "masks", "encrypted"  # the layers of a session, the upper first

Point = tuple[str, str]
"""A phase, as "collecting 1", and a moment in it."""

# ---- what everybody knows ------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One session, as every process of it knows it.

    seeds: of the identities of clients, then key holders, then the server; masks, agreement: what is proposed, encoded,
    or nothing; name: the session's in the parties' files; flaw: a bug that is put in, or nothing; by: see `ENDS`.
    """

    backend: str
    seeds: tuple[bytes, ...] = field(repr=False)
    folder: Path
    masks: bytes = field(default=b"", repr=False)
    agreement: bytes = field(default=b"", repr=False)
    name: str = "first"
    data_set: str = "rows of 2026"
    flaw: str = ""
    by: str = "SIGKILL"

    def __reduce__(self) -> tuple[object, ...]:  # to another process goes what is on paper
        return Setting, tuple(getattr(self, one.name) for one in fields(self))

    @cached_property
    def identities(self) -> list[Identity]:
        return [Identity(Ed25519PrivateKey.from_private_bytes(seed)) for seed in self.seeds]

    @cached_property
    def roster(self) -> Roster:
        return Roster(
            tuple(Member(f"site-{i}", one.verify_key) for i, one in enumerate(self.identities[:CLIENTS]))
        )

    @cached_property
    def key_holders(self) -> Roster:
        return Roster(
            tuple(Member(f"holder-{i}", one.verify_key) for i, one in enumerate(self.identities[CLIENTS:-1]))
        )

    @cached_property
    def encryption(self) -> Encryption | None:
        """None if vectors are masked only."""
        if self.backend == "mask":
            return None
        return Encryption(Backend(self.backend))

    @property
    def agreed(self) -> tuple[RoundSpec, ...] | None:
        """The rounds, where encryption has a say in them."""
        if self.encryption is None:
            return None
        return self.encryption.agreed(PLAN, CLIENTS, len(self.key_holders.members))[1]

    def party(self, layer: str, number: int, ledger: Ledger, masks: MaskingClient | None = None) -> Any:
        """A fresh client, or key holder. masks: of a client whose masked vectors are encrypted."""
        identity = self.identities[number]
        if layer == MASKS:
            return MaskingClient(identity, self.roster, PLAN, EVERY_BACKEND, ledger, agreed=self.agreed)
        assert self.encryption is not None
        parts = (identity, self.roster, self.key_holders, PLAN, EVERY_BACKEND, ledger, self.encryption)
        return HomomorphicClient(*parts, masks=masks) if number < CLIENTS else KeyHolder(*parts)

    def parties(self, number: int, ledger: Ledger) -> dict[str, Any]:
        """Fresh ones, by layer."""
        layers: dict[str, Any] = {}
        if self.masks and number < CLIENTS:
            layers[MASKS] = self.party(MASKS, number, ledger)
        if self.agreement:
            layers[ENCRYPTED] = self.party(ENCRYPTED, number, ledger, layers.get(MASKS))
        return layers

    def durable(self, number: int, store: Store, ledger: Ledger | None = None) -> dict[str, Any]:
        """Those that go on from the store, by layer. ledger: instead of the store's."""

        def masks(stored: Ledger) -> MaskingClient:
            return cast(MaskingClient, self.party(MASKS, number, ledger or stored))

        def encrypted(stored: Ledger) -> Any:
            if not self.masks or number >= CLIENTS:
                return self.party(ENCRYPTED, number, ledger or stored)
            beneath, kept = masks(stored), store.kept(f"{self.name} {MASKS}")
            if kept:
                beneath.resume(kept.memory)
            return self.party(ENCRYPTED, number, ledger or stored, beneath)

        makers: dict[str, Callable[[Ledger], Any]] = {MASKS: masks, ENCRYPTED: encrypted}
        return {layer: DurableParty(make, store, f"{self.name} {layer}") for layer, make in makers.items()}

    def servers(self, store: Store) -> dict[str, DurableServer]:
        """Those that go on from the store, by layer."""
        fresh: dict[str, MaskingServer | HomomorphicServer] = {}
        if self.masks:
            fresh[MASKS] = MaskingServer(decode(self.masks, PARAMETERS), self.roster)
        if self.agreement:
            agreement, least = decode(self.agreement, AGREEMENT), EVERY_BACKEND.least_survivors(CLIENTS)
            fresh[ENCRYPTED] = HomomorphicServer(agreement, self.roster, self.key_holders, least=least)
        return {layer: DurableServer(one, store, f"{self.name} {layer}") for layer, one in fresh.items()}


def vector(index: int, number: int, life: int) -> npt.NDArray[np.float64]:
    """What a client contributes to a round. A program that was started anew computes something else: it may round
    otherwise, or have new rows.
    """
    return np.random.default_rng([index, number, life]).uniform(-BOUND, BOUND, LENGTH)


# ---- the socket ----------------------------------------------------------------------------------


class CutError(Exception):
    """The other side is gone. rest: what it said of a message that it did not finish."""

    def __init__(self, rest: bytes = b"") -> None:
        super().__init__(f"after {len(rest)} bytes")
        self.rest = rest


class Link:
    """Lists of numbers, texts and bytes in both directions, each behind its length."""

    def __init__(self, end: socket.socket) -> None:
        end.settimeout(HANG)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._end = end

    @classmethod
    def to(cls, port: int) -> "Link":
        return cls(socket.create_connection(("127.0.0.1", port), HANG))

    def send(self, *parts: object, only: float = 1.0) -> None:
        """only: that part of the bytes."""
        data = msgspec.msgpack.encode(parts)
        data = struct.pack(">I", len(data)) + data
        try:
            self._end.sendall(data[: int(only * len(data))])
        except ConnectionError:
            raise CutError from None

    def receive(self) -> list[Any]:
        """Raises `CutError` if there is nothing more to come."""
        (size,) = struct.unpack(">I", self._exactly(4))
        parts: list[Any] = msgspec.msgpack.decode(self._exactly(size))
        return parts

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                more = self._end.recv(size - len(data))
            except ConnectionError:
                more = b""
            if not more:
                raise CutError(data)
            data += more
        return data

    def close(self) -> None:
        self._end.close()


# ---- death ---------------------------------------------------------------------------------------


ENDS = {"SIGKILL": -signal.SIGKILL, "SIGTERM": -signal.SIGTERM, "SIGTERM, caught": 0}
"""What ends a process, and its exit code. Caught, as Flower's programs do it, Python's `finally` still runs."""


class Fate:
    """Where this process ends, if anywhere, and by what. doing: the moment at which it writes to its file."""

    def __init__(self, death: Point | None = None, by: str = "SIGKILL") -> None:
        self._death = death
        self._signal = signal.SIGKILL if by == "SIGKILL" else signal.SIGTERM
        if by == "SIGTERM, caught":
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        self.phase = self.doing = ""

    def at(self, *moments: str) -> None:
        """Nothing of the session's runs after this, if it is the point."""
        if self._death is not None and self._death in [(self.phase, moment) for moment in moments]:
            os.kill(os.getpid(), self._signal)

    def is_near(self, moment: str) -> bool:
        return self._death == (self.phase, moment)


class MortalStore(Store):
    """A party's file, whose owner can die between a statement and its commit."""

    def __init__(self, path: Path, identity: Identity, fate: Fate, flaw: str = "") -> None:
        self._fate, self._flaw = fate, flaw
        super().__init__(path, identity)

    def keep(self, name: str, kept: Kept) -> None:
        before = self.kept(name)
        if self._flaw == "keys stay" and before and _rounds(kept.memory) < _rounds(before.memory):
            return
        with self.transaction():
            super().keep(name, kept)
            if before is None or (before.question, before.answer) != (kept.question, kept.answer):
                self._fate.at("computed" if kept.answer else "asking")

    def write(self, name: str, number: int, step: str, arguments: bytes) -> None:
        with self.transaction(of_journal=True):
            super().write(name, number, step, arguments)
            self._fate.at(self._fate.doing)

    def _move_log(self) -> None:
        if self._flaw != "log stays":
            super()._move_log()


def _rounds(memory: bytes) -> int:
    return len(MEMORY.decode(memory).rounds)


# ---- a client or a key holder --------------------------------------------------------------------


def live(settings: Mapping[str, Setting], number: int, life: int, death: Point | None, port: int) -> None:
    """The process of a client or key holder: it answers questions until its socket closes, or it dies.

    A question is [session, layer, phase, message]; an answer [True, frame] or [False, why it was refused].
    """
    first = settings["first"]
    link, fate = Link.to(port), Fate(death, first.by)
    store = MortalStore(first.folder / f"party {number}", first.identities[number], fate, first.flaw)
    forgetful = Ledger() if first.flaw == "ledger in memory" else None
    parties = {name: setting.durable(number, store, forgetful) for name, setting in settings.items()}
    while True:
        try:
            session, layer, fate.phase, question = link.receive()
        except CutError:
            return
        party = parties[session][layer]
        fate.at("received")
        try:
            if first.flaw == "sends first":
                with store.transaction():
                    answer = answered_by(party, question, number, life, settings[session].data_set, fate)
                    link.send(True, answer)
                    fate.at("sent", "lost")
                continue
            answer = answered_by(party, question, number, life, settings[session].data_set, fate)
        except (ProtocolError, CryptoError) as error:
            link.send(False, str(error))
            continue
        fate.at("committed")
        if fate.is_near("half sent"):
            link.send(True, answer, only=0.5)
        fate.at("half sent")
        link.send(True, answer)
        fate.at("sent", "lost")


def answered_by(
    party: Any, question: bytes, number: int, life: int, data_set: str, fate: Fate | None = None
) -> bytes:
    """The frame that a party answers with, its vector if that is what it is asked for."""
    answer = party.receive(question)
    if isinstance(answer, SumWanted):
        if fate:
            fate.at("asked")
        answer = party.contribute(answer, vector(number, answer.round, life), data_set)
    assert isinstance(answer, bytes)
    return answer


# ---- a server ------------------------------------------------------------------------------------

Carry = Callable[[str, str, Outbox], Iterable[tuple[int, bytes]]]
"""Sends what a layer's server says in a phase; gives the frames that come back until its deadline."""
Tell = Callable[[OpenedSum | str], None]
"""Takes a sum, or why there is none."""


def conduct(servers: Mapping[str, DurableServer], carry: Carry, tell: Tell, fate: Fate) -> None:
    """All rounds of a session, from wherever its servers stand."""
    upper = next(iter(servers))
    opened = servers[upper].opened
    if opened is not None:
        tell(opened)  # perhaps again
    for layer, server in servers.items():
        _collect(layer, server, server.pending(), carry, fate)
    while (step := _next(servers)) is not None:
        layer, act = step
        server = servers[layer]
        fate.phase, fate.doing, before = _phase(servers, layer), "step computed", server.opened
        try:
            outbox = act()
        except RoundAbortedError as error:
            tell(str(error))
            if server.server.state.value == "ready" and fate.phase.startswith(
                "ready"
            ):  # too few are left for any
                return
            continue
        fate.at("step committed")
        if server.opened is not None and server.opened is not before and layer == upper:
            tell(server.opened)
            fate.at("told")
        _collect(layer, server, outbox, carry, fate)


def _collect(layer: str, server: DurableServer, outbox: Outbox, carry: Carry, fate: Fate) -> None:
    if not outbox:
        return
    fate.phase = phase = _phase({layer: server}, layer)
    crowd, frames = min(2, len(outbox)), 0
    for sender, frame in carry(layer, phase, outbox):
        frames += 1
        fate.doing = "computed" if frames == crowd else ""
        if frames == crowd:
            fate.at("received")
        try:
            server.receive(sender, frame)
        except (ProtocolError, CryptoError):
            continue
        if frames == crowd:
            fate.at("committed")


def _phase(servers: Mapping[str, DurableServer], layer: str) -> str:
    """The state, and the round that it is of."""
    server = servers[layer]
    state: str = server.server.state.value
    if state == "ready":
        return f"{'ready' if len(servers) == 1 or layer == MASKS else 'ready to encrypt'} {server.round + 1}"
    return state if server.round < 0 else f"{state} {server.round}"


def _next(servers: Mapping[str, DurableServer]) -> tuple[str, Callable[[], Outbox]] | None:
    """Which layer goes on, and how; None at the end. A masked round's uploads are encrypted, opened and unmasked."""
    states = {layer: server.server.state.value for layer, server in servers.items()}
    if "aborted" in states.values():
        return None
    for layer, server in servers.items():  # set-up
        if server.round < 0 and states[layer] != "ready":
            return layer, server.start if states[layer] == "start" else server.advance
    masks, encrypted = servers.get(MASKS), servers.get(ENCRYPTED)
    if encrypted is not None and states[ENCRYPTED] != "ready":
        return ENCRYPTED, _silent(encrypted.result) if states[ENCRYPTED] == "opened" else encrypted.advance
    upper, server = next(iter(servers.items()))
    if states[upper] == "ready":
        over = server.round == ROUNDS - 1
        return None if over else (upper, lambda: server.open_round(server.round + 1))
    if encrypted is None or states[upper] != "collecting":
        return upper, _silent(server.result) if states[upper] == "unmasking" else server.advance
    assert isinstance(masks, DurableServer)
    assert isinstance(masks.server, MaskingServer)
    number, uploaded, opened = masks.round, masks.server.uploaded, encrypted.opened
    if encrypted.round < number:
        return ENCRYPTED, lambda: encrypted.open_round(number, uploaded)
    if opened is None or opened.round != number:
        return MASKS, _silent(masks.give_up_round)
    values, survivors = opened.values, opened.survivors

    def taken() -> Outbox:
        masks.take_total(values, survivors)
        return masks.advance()

    return MASKS, taken


def _silent(act: Callable[[], object]) -> Callable[[], Outbox]:
    """A step that says nothing."""

    def step() -> Outbox:
        act()
        return {}

    return step


def serve(settings: Mapping[str, Setting], number: int, life: int, death: Point | None, port: int) -> None:
    """The process of a server. It says ["ask", layer, phase, party, message], ["wait"], ["sum", …] and ["over"], and is told
    [True, sender, frame] and, at a deadline, [False].
    """
    setting = settings["first"]
    link, fate = Link.to(port), Fate(death, setting.by)
    store = MortalStore(setting.folder / "server", setting.identities[number], fate)

    def carry(layer: str, phase: str, outbox: Outbox) -> Iterable[tuple[int, bytes]]:
        for at, (party, data) in enumerate(outbox.items()):
            if at == (len(outbox) + 1) // 2:
                fate.at("half sent")
            link.send("ask", layer, phase, party, data)
        fate.at("sent")
        link.send("wait")
        while (message := link.receive())[0]:
            yield message[1], message[2]

    try:
        conduct(setting.servers(store), carry, lambda told: link.send("told", *spelled(told)), fate)
        link.send("over")
        link.receive()
    except CutError:
        return


def spelled(told: OpenedSum | str) -> tuple[object, ...]:
    """A sum as round, words, whose it is and who dropped out; or the text."""
    if isinstance(told, str):
        return (told,)
    return told.round, told.values.tobytes(), told.survivors, told.dropouts
