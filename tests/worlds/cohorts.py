"""Whole cohorts in memory, honest and otherwise, for the protocol's tests."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from secure_afl.crypto import ring
from secure_afl.crypto.hpke import Suite
from secure_afl.crypto.identity import SIGNATURE_BYTES, Identity
from secure_afl.protocol.masking import messages
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.masking.messages import FROM_CLIENT, FromClient
from secure_afl.protocol.masking.server import MaskingServer
from secure_afl.protocol.session import graph
from secure_afl.protocol.session.ledger import Ledger
from secure_afl.protocol.session.parameters import Parameters, Profile, SumPlan, SumWanted
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.roster import Member, Roster
from secure_afl.protocol.session.server import OpenedSum
from secure_afl.protocol.session.wire import decode
from secure_afl.protocol.transport.driver import Contribution, Network, Packet, PerfectNetwork
from secure_afl.protocol.transport.masked import Cohort

BOUND = 100.0
EVERY_PROFILE = Policy(profiles=frozenset(Profile), suites=frozenset(Suite))


@dataclass
class World:
    """A roster with its identities and ledgers, and one session of it at a time."""

    identities: list[Identity]
    policy: Policy = EVERY_PROFILE
    ledgers: list[Ledger] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.roster = Roster(
            tuple(Member(f"site-{i}", one.verify_key) for i, one in enumerate(self.identities))
        )
        self.ledgers = [Ledger() for _ in self.identities]
        self.plan: list[SumPlan] = []

    def propose(
        self,
        *,
        length: int = 5,
        rounds: int = 1,
        profile: Profile = Profile.ACTIVE,
        suite: Suite = Suite.X25519,
        fraction_bits: int = 20,
        near: graph.Neighbourhood | None = None,
        cohort: Sequence[int] | None = None,
    ) -> Parameters:
        members = len(self.identities) if cohort is None else len(cohort)
        near = near or graph.Neighbourhood(members - 1, graph.least_threshold(profile, members, members - 1))
        self.plan = [SumPlan(f"sum {r}", length, BOUND, fraction_bits) for r in range(rounds)]
        return Parameters.propose(
            self.roster,
            self.plan,
            profile=profile,
            suite=suite,
            degree=near.degree,
            threshold=near.threshold,
            cohort=cohort,
            verify=self.policy.proposed_verify(profile),
        )

    def client(self, index: int, kind: type[MaskingClient] = MaskingClient) -> MaskingClient:
        return kind(self.identities[index], self.roster, self.plan, self.policy, self.ledgers[index])

    def session(
        self,
        parameters: Parameters,
        network: Network | None = None,
        *,
        kinds: Mapping[int, type[MaskingClient]] | None = None,
        client: type[MaskingClient] = MaskingClient,
    ) -> "Session":
        members = {index: self.client(index, (kinds or {}).get(index, client)) for index in parameters.cohort}
        return Session(self, parameters, Cohort(MaskingServer(parameters, self.roster), members, network))


def world(n: int, policy: Policy = EVERY_PROFILE) -> World:
    return World([Identity.generate() for _ in range(n)], policy)


@dataclass
class Session:
    """One session with the plaintext beside it."""

    world: World
    parameters: Parameters
    cohort: Cohort

    def __post_init__(self) -> None:
        self.server, self.clients = self.cohort.server, self.cohort.clients
        n = len(self.world.identities)
        self.encodings = [spec.encoding(n) for spec in self.parameters.rounds]
        draws = np.random.default_rng(n)
        # Fresh data in every session, unless a test says otherwise.
        self.data_set = secrets.token_hex(8)
        self.vectors = {
            (index, r): draws.uniform(-BOUND, BOUND, spec.length)
            for index in self.parameters.cohort
            for r, spec in enumerate(self.parameters.rounds)
        }

    def contribute(self, index: int, wanted: SumWanted) -> Contribution:
        return self.vectors[index, wanted.round], self.data_set

    def set_up(self) -> "Session":
        self.cohort.set_up()
        return self

    def sum(self, number: int = 0) -> OpenedSum:
        return self.cohort.sum(number, self.contribute)

    def integer_sum(self, indices: Sequence[int], number: int = 0) -> npt.NDArray[np.int64]:
        """What the sum must be, on plain Python integers of the fixed-point encoding."""
        encoding = self.encodings[number]
        units = [ring.signed(encoding.encode(self.vectors[index, number]), 8) for index in indices]
        return np.array([sum(int(one[at]) for one in units) for at in range(len(units[0]))], dtype=np.int64)

    def opened(self, result: OpenedSum) -> npt.NDArray[np.int64]:
        return ring.signed(result.values, self.encodings[result.round].width)

    def message(self, packet: Packet) -> FromClient:
        """What a client's frame says."""
        return decode(memoryview(packet.data)[:-SIGNATURE_BYTES], FROM_CLIENT)


def link(cohort: Any) -> Any:
    """What carries a cohort's messages; its `_network` can be replaced."""
    return cohort._link


class Tap(PerfectNetwork):
    """Keeps every message, as a server does."""

    def __init__(self) -> None:
        self.seen: list[Packet] = []

    def carry(self, packet: Packet) -> list[Packet]:
        self.seen.append(packet)
        return [packet]

    def last(self, phase: str, client: int, *, upward: bool = True) -> Packet:
        return [e for e in self.seen if (e.phase, e.client, e.upward) == (phase, client, upward)][-1]


class Backwards(PerfectNetwork):
    """Answers come in reverse order; those of some parties in one phase do not come."""

    def __init__(self, phase: str, silent: Sequence[int]) -> None:
        self._phase, self._silent = phase, silent
        self._held: list[Packet] = []

    def carry(self, packet: Packet) -> list[Packet]:
        if not packet.upward:
            return [packet]
        if packet.phase != self._phase or packet.client not in self._silent:
            self._held.append(packet)
        return []

    def flush(self, phase: str) -> list[Packet]:
        held, self._held = self._held[::-1], []
        return held


class OneKeyForAll(MaskingClient):
    """Uses the key that dropouts give away for its channel too."""

    def _advertise(self, parameters: Parameters) -> bytes:
        frame = super()._advertise(parameters)
        self._memory.__dict__["channel"] = key = self._memory.rounds[0].mask_key
        honest = decode(memoryview(frame)[:-SIGNATURE_BYTES], messages.ADVERTISE)
        self._memory.advertised = self._frame(replace(honest, channel_key=key.public_key))
        return self._memory.advertised
