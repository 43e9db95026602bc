"""Parties of a secure sum as processes of their own, which kill themselves with SIGKILL at a named point.

They talk to whoever started them over a socket. Nothing here is part of the product: its parties know no transport.
"""

import os
import signal
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from cohorts import BOUND
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from encrypted import EVERY_BACKEND

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.identity import Identity
from secure_afl.protocol.durable import DurableParty
from secure_afl.protocol.errors import ProtocolError, RoundAbortedError
from secure_afl.protocol.homomorphic.agreement import AGREEMENT, Encryption
from secure_afl.protocol.homomorphic.client import HomomorphicClient
from secure_afl.protocol.homomorphic.holder import KeyHolder
from secure_afl.protocol.homomorphic.server import EncryptedSum, HomomorphicServer
from secure_afl.protocol.journal import DurableServer
from secure_afl.protocol.ledger import Ledger
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.masking.memory import MEMORY
from secure_afl.protocol.masking.server import MaskedSum, MaskingServer
from secure_afl.protocol.parameters import PARAMETERS, SumPlan, SumWanted
from secure_afl.protocol.roster import Member, Roster
from secure_afl.protocol.server import Outbox
from secure_afl.protocol.store import Kept, Store
from secure_afl.protocol.wire import decode

ROUNDS, LENGTH, CLIENTS = 2, 5, 4
PLAN = [SumPlan(f"sum {number}", LENGTH, BOUND, 20) for number in range(ROUNDS)]
SERVER = -1
_PATIENCE = 60.0  # seconds; a party that says nothing for so long hangs

Point = tuple[str, str]
"""A phase, as "collecting 1", and a moment in it."""

# ---- what everybody knows ------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One session, as every process of it knows it.

    seeds: of the identities of clients, then key holders, then the server; proposed: encoded parameters of masks, or
    agreement; name: the session's in the parties' files; flaw: a bug that is put in, or nothing.
    """

    backend: str
    seeds: tuple[bytes, ...] = field(repr=False)
    proposed: bytes = field(repr=False)
    folder: Path
    name: str = "first"
    data_set: str = "rows of 2026"
    flaw: str = ""

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
    def keepers(self) -> Roster:
        return Roster(
            tuple(Member(f"holder-{i}", one.verify_key) for i, one in enumerate(self.identities[CLIENTS:-1]))
        )

    @property
    def masked(self) -> bool:
        return self.backend == "mask"

    def party(self, number: int, ledger: Ledger) -> Any:
        """A fresh client, or key holder, of this session."""
        identity = self.identities[number]
        if self.masked:
            return MaskingClient(identity, self.roster, PLAN, EVERY_BACKEND, ledger)
        kind = HomomorphicClient if number < CLIENTS else KeyHolder
        return kind(
            identity, self.roster, self.keepers, PLAN, EVERY_BACKEND, ledger, Encryption(self.backend)
        )

    def server(self) -> MaskingServer | HomomorphicServer:
        """A fresh server of this session."""
        if self.masked:
            return MaskingServer(decode(self.proposed, PARAMETERS), self.roster)
        least = EVERY_BACKEND.least_survivors(CLIENTS)
        return HomomorphicServer(decode(self.proposed, AGREEMENT), self.roster, self.keepers, least=least)


def vector(place: int, number: int, life: int) -> npt.NDArray[np.float64]:
    """What a client contributes to a round. A program that was started anew computes something else: it may round
    otherwise, or have new rows.
    """
    return np.random.default_rng([place, number, life]).uniform(-BOUND, BOUND, LENGTH)


# ---- the socket ----------------------------------------------------------------------------------


class CutError(Exception):
    """The other side is gone. rest: what it said of a message that it did not finish."""

    def __init__(self, rest: bytes = b"") -> None:
        super().__init__(f"after {len(rest)} bytes")
        self.rest = rest


class Link:
    """Lists of numbers, texts and bytes in both directions, each behind its length."""

    def __init__(self, end: socket.socket) -> None:
        end.settimeout(_PATIENCE)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._end = end

    @classmethod
    def to(cls, port: int) -> "Link":
        return cls(socket.create_connection(("127.0.0.1", port), _PATIENCE))

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


class Fate:
    """Where this process ends, if anywhere. doing: the moment at which it writes to its file."""

    def __init__(self, death: Point | None = None) -> None:
        self._death = death
        self.phase = self.doing = ""

    def at(self, *moments: str) -> None:
        """Nothing that is Python's runs after this, if it is the point."""
        if self._death is not None and self._death in [(self.phase, moment) for moment in moments]:
            os.kill(os.getpid(), signal.SIGKILL)

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
        super().keep(name, kept)
        self._fate.at("computed" if kept.answer else "asking")

    def write(self, name: str, number: int, step: str, arguments: bytes) -> None:
        super().write(name, number, step, arguments)
        self._fate.at(self._fate.doing)


def _rounds(memory: bytes) -> int:
    return len(MEMORY.decode(memory).rounds)


# ---- a client or a key holder --------------------------------------------------------------------


def live(settings: Mapping[str, Setting], number: int, life: int, death: Point | None, port: int) -> None:
    """The process of a client or key holder: it answers questions until its socket closes, or it dies.

    A question is [session, phase, message]; an answer [True, frame] or [False, why it was refused].
    """
    link, fate = Link.to(port), Fate(death)
    first = settings["first"]
    store = MortalStore(first.folder / f"party {number}", first.identities[number], fate, first.flaw)
    forgetful = Ledger() if first.flaw == "ledger in memory" else None
    while True:
        try:
            session, fate.phase, question = link.receive()
        except CutError:
            return
        party = durable(settings[session], number, store, forgetful)
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


def durable(setting: Setting, number: int, store: Store, ledger: Ledger | None = None) -> DurableParty:
    """ledger: instead of the store's."""
    return DurableParty(lambda stored: setting.party(number, ledger or stored), store, setting.name)


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

Deliver = Callable[[int, bytes], None]
Carry = Callable[[str, Outbox], Iterable[tuple[int, bytes]]]
"""Sends what a server says in a phase; gives the frames that come back until its deadline."""
Tell = Callable[[MaskedSum | EncryptedSum | str], None]
"""Takes a sum, or why there is none."""


def conduct(server: DurableServer, carry: Carry, tell: Tell, fate: Fate) -> None:
    """All rounds of a session, from wherever the server stands."""
    if server.opened is not None:
        tell(server.opened)  # perhaps again
    outbox = server.pending()
    while True:
        fate.phase = phase = _phase(server)
        crowd, frames = min(2, len(outbox)), 0
        for sender, frame in carry(phase, outbox):
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
        if _is_over(server):
            return
        fate.doing, outbox = "step computed", {}
        try:
            step = _next(server)
            if step == "result":
                opened = server.result()
                fate.at("step committed")
                tell(opened)
                fate.at("told")
                continue
            outbox = server.open_round(server.round + 1) if step == "open_round" else getattr(server, step)()
        except RoundAbortedError as error:
            tell(str(error))
            if step == "open_round":  # too few are left for any
                return
            continue
        fate.at("step committed")


def _phase(server: DurableServer) -> str:
    """The state, and the round that it is of."""
    state: str = server.server.state.value
    if server.round < 0 and state != "ready":
        return state
    return f"{state} {server.round + (state == 'ready')}"


def _is_over(server: DurableServer) -> bool:
    state = server.server.state.value
    return state == "aborted" or (state == "ready" and server.round == ROUNDS - 1)


def _next(server: DurableServer) -> str:
    steps = {"start": "start", "ready": "open_round", "unmasking": "result", "opened": "result"}
    return steps.get(server.server.state.value, "advance")


def serve(settings: Mapping[str, Setting], number: int, life: int, death: Point | None, port: int) -> None:
    """The process of a server. It says ["ask", phase, party, message], ["wait"], ["sum", …] and ["over"], and is told
    [True, sender, frame] and, at a deadline, [False].
    """
    setting, link, fate = settings["first"], Link.to(port), Fate(death)
    store = MortalStore(setting.folder / "server", setting.identities[number], fate)
    server = DurableServer(setting.server(), store, setting.name)

    def carry(phase: str, outbox: Outbox) -> Iterable[tuple[int, bytes]]:
        if not outbox:
            return
        for at, (party, data) in enumerate(outbox.items()):
            if at == (len(outbox) + 1) // 2:
                fate.at("half sent")
            link.send("ask", phase, party, data)
        fate.at("sent")
        link.send("wait")
        while (message := link.receive())[0]:
            yield message[1], message[2]

    try:
        conduct(server, carry, lambda told: link.send("told", *spelled(told)), fate)
        link.send("over")
        link.receive()
    except CutError:
        return


def spelled(told: MaskedSum | EncryptedSum | str) -> tuple[object, ...]:
    """A sum as round, words, whose it is and who dropped out; or the text."""
    if isinstance(told, str):
        return (told,)
    if isinstance(told, MaskedSum):
        return told.round, told.words.tobytes(), told.survivors, told.dropouts
    return told.round, told.values.tobytes(), told.contributors, told.dropouts
