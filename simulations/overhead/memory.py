"""Peak memory of a party, in a session where one client, the server and the key holder each have their own process.

The figure is resident memory, including SEAL's, above that of the idle process with its imports. It needs Linux, where
a process can reset its high-water mark. The other clients share this process, which carries the messages. Worker
processes that encrypt a long vector for a party (`crypto.workers`) are not counted.
"""

import gc
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from secure_afl.crypto.errors import SecureAflError
from secure_afl.crypto.identity import Identity
from secure_afl.protocol.files.roster import Parties
from secure_afl.protocol.homomorphic.client import HomomorphicClient
from secure_afl.protocol.homomorphic.holder import KeyHolder
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.session.ledger import Ledger
from secure_afl.protocol.session.parameters import SumWanted
from secure_afl.protocol.session.party import Contributor, Party
from secure_afl.protocol.session.roster import Member, Roster
from secure_afl.protocol.session.server import Outbox
from secure_afl.protocol.transport.driver import Carry
from secure_afl.protocol.transport.post import Channel
from secure_afl.simulations.overhead.grid import Cell
from secure_afl.simulations.overhead.measure import (
    ALL_PHASES,
    CLIENT,
    DATA_SET,
    HOLDER,
    SERVER,
    WrongSumError,
    check,
    vector,
)
from secure_afl.sums.remote import Elsewhere, remote

_MARK = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
Peaks = dict[str, int]
"""Bytes, by phase."""


class ProcessEndedError(SecureAflError):
    """A party's process failed or ended before the session did."""


def measurable() -> bool:
    """Whether this system reports a process's own peak."""
    try:
        _MARK.write_text("5")
        _resident("VmHWM")
    except (OSError, LookupError):
        return False
    return True


def _resident(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == field:
            return 1024 * int(rest.split()[0])
    raise LookupError(field)


class _Peak:
    """This process's peak memory in each phase, above its present memory."""

    def __init__(self) -> None:
        gc.collect()
        self.by_phase: Peaks = {}
        self._idle = _resident("VmRSS")
        self._phase: str | None = None

    def begin(self, phase: str) -> None:
        """Begin a phase."""
        self.end()
        self._phase = phase
        _MARK.write_text("5")

    def end(self) -> None:
        """End the phase."""
        if self._phase is not None:
            most = max(_resident("VmHWM") - self._idle, 0)
            self.by_phase[self._phase] = max(self.by_phase.get(self._phase, 0), most)
        self._phase = None


def peaks(cell: Cell) -> dict[str, Peaks]:
    """Bytes by party (a client that does not drop out; the server; the key holder) and phase, of one session.

    Raises `WrongSumError` as a session does, `ProcessEndedError` if a party fails.
    """
    watched = min(set(range(cell.clients)) - cell.silent)
    with ExitStack() as stack:
        pipes = {index: stack.enter_context(_process(_party, cell, index)) for index in _apart(cell, watched)}
        server = stack.enter_context(_process(_server, cell))
        identities = {
            index: Identity.generate() for index in range(cell.clients + cell.holders) if index not in pipes
        }
        keys = {index: one.verify_key for index, one in identities.items()}
        keys |= {index: _received(pipe) for index, pipe in pipes.items()}
        parties = _parties(cell, keys)
        here = {index: _Hosted(cell, index, one, parties) for index, one in identities.items()}
        for pipe in (server, *pipes.values()):
            pipe.send(parties)
        _carry_all(cell, server, pipes, here)
        found = {SERVER: _received(server)}
        for index, pipe in pipes.items():
            pipe.send(None)
            found[CLIENT if index == watched else HOLDER] = _received(pipe)
    return {party: {ALL_PHASES: max(phases.values()), **phases} for party, phases in found.items()}


def _apart(cell: Cell, watched: int) -> list[int]:
    return [watched, *range(cell.clients, cell.clients + cell.holders)]


def _parties(cell: Cell, keys: Mapping[int, bytes]) -> Parties:
    clients = Roster(tuple(Member(name, keys[index]) for index, name in enumerate(cell.names())))
    if not cell.holders:
        return Parties(clients)
    return Parties(clients, Roster((Member("key holder", keys[cell.clients]),)))


def _carry_all(
    cell: Cell, server: Connection, pipes: Mapping[int, Connection], here: Mapping[int, "_Hosted"]
) -> None:
    """Messages of the server to all parties, and their answers one by one, until it has the sum."""
    while (envelopes := _received(server)) is not None:
        phase, channel, outbox = envelopes
        for index, data in outbox.items():
            if index in cell.silent and phase == cell.falls_silent:
                continue
            if index in pipes:
                pipes[index].send((phase, channel, data))
                answer = _received(pipes[index])
            else:
                answer = here[index].answer(channel, data)
            server.send((index, answer))
        server.send(None)


class _Hosted:
    """A client or key holder: the state machines of one party."""

    def __init__(self, cell: Cell, index: int, identity: Identity, parties: Parties) -> None:
        self._cell = cell
        self._index = index
        plan, policy, ledger, encryption = (cell.plan,), cell.policy, Ledger(), cell.encryption
        self._machines: dict[Channel, Party] = {}
        masks = None
        if cell.masked and index < cell.clients:
            agreed = encryption.agreed(plan, cell.clients, cell.holders)[1] if encryption else None
            masks = MaskingClient(identity, parties.clients, plan, policy, ledger, agreed=agreed)
            self._machines[Channel.MASKED] = masks
        if encryption:
            assert parties.key_holders is not None
            common = (identity, parties.clients, parties.key_holders, plan, policy, ledger, encryption)
            self._machines[Channel.ENCRYPTED] = (
                HomomorphicClient(*common, masks=masks) if index < cell.clients else KeyHolder(*common)
            )

    def answer(self, channel: Channel, data: bytes) -> bytes:
        """The answer to the server."""
        machine = self._machines[channel]
        answer = machine.receive(data)
        if isinstance(answer, SumWanted):
            contributor: Contributor = machine  # type: ignore[assignment]  # key holders are never asked
            answer = contributor.contribute(answer, vector(self._cell, self._index), DATA_SET)
        return answer


# ---- the processes -------------------------------------------------------------------------------


@contextmanager
def _process(function: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    # Children of a server that has the imports start at once, and share no memory with this process.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    pipe, theirs = context.Pipe()
    process = context.Process(target=function, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        yield pipe
    finally:
        pipe.close()
        process.join(1)
        process.terminate()
        process.join()


def _received(pipe: Connection) -> Any:
    try:
        answer = pipe.recv()
    except EOFError:
        raise ProcessEndedError("expected an answer of a party's process, which has ended") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _party(pipe: Connection, cell: Cell, index: int) -> None:
    """A client or the key holder."""
    identity = Identity.generate()
    pipe.send(identity.verify_key)
    parties = pipe.recv()
    peak = _Peak()
    hosted = _Hosted(cell, index, identity, parties)
    while (envelope := pipe.recv()) is not None:
        phase, channel, data = envelope
        peak.begin(phase)
        answer = hosted.answer(channel, data)
        peak.end()
        pipe.send(answer)
    pipe.send(peak.by_phase)


def _server(pipe: Connection, cell: Cell) -> None:
    parties = pipe.recv()
    peak, phase = _Peak(), "start"
    peak.begin(phase)

    def watch(now: str) -> None:
        nonlocal phase
        phase = now
        peak.begin(now)

    def carrier(channel: Channel, session: bytes) -> Carry:
        def carried(outbox: Outbox) -> Iterable[tuple[int, bytes]]:
            pipe.send((phase, channel, dict(outbox)))
            while (answer := pipe.recv()) is not None:
                yield answer

        return carried

    try:
        aggregator = remote(Elsewhere(parties, carrier, watch), cell.policy, cell.encryption)
        if cell.suite and cell.profile:
            aggregator.settings = replace(aggregator.settings, profile=cell.profile, suite=cell.suite)
        aggregator.open(cell.names(), [cell.plan])
        found = aggregator.sum(0, {})
        peak.end()
        check(cell, found)
        pipe.send(None)
        pipe.send(peak.by_phase)
    except SecureAflError as error:
        # Not every error can be pickled.
        pipe.send(error if isinstance(error, WrongSumError) else ProcessEndedError(str(error)))
