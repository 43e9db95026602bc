"""Folders of whole federations, as their parties would make them, for the transport's tests."""

import csv
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from secure_afl.crypto.errors import SecureAflError
from secure_afl.crypto.hpke import Suite
from secure_afl.crypto.identity import Identity
from secure_afl.node.site import Folder, kept
from secure_afl.node.study import NetworkStudy, Study
from secure_afl.protocol.audit.log import AuditLog
from secure_afl.protocol.durable.store import Kept, Store
from secure_afl.protocol.files import keys, policy, roster
from secure_afl.protocol.files.keys import read_key
from secure_afl.protocol.masking.memory import Memory
from secure_afl.protocol.masking.states import ClientState
from secure_afl.protocol.session.parameters import Parameters, demands
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Profile, Trust, Verify
from secure_afl.protocol.session.roster import Roster
from secure_afl.protocol.session.server import Outbox
from secure_afl.protocol.transport.driver import Carry
from secure_afl.protocol.transport.endpoint import Terms
from secure_afl.protocol.transport.post import Channel, Envelope
from secure_afl.simulations.network.laid_out import settle
from secure_afl.sums.aggregation import MaskedAggregator
from secure_afl.sums.encrypted import EncryptedAggregator
from secure_afl.sums.remote import Elsewhere, remote

_COMMON = """
features = ["a", "b", "c"]
label = "sick"
classes = ["no", "yes"]
max_rows = 100
"""
RIDGE = f"""{_COMMON}
[ridge]
column_bounds = [1.0, 8.0, 1000.0]
"""
DEEP = f"""{_COMMON}
[fedacnnl]
input_shape = [3]
layers = [["Dense", 6], ["ReLU"]]
scale = 1000.0
"""
LAYERED = DEEP.replace('["ReLU"]]', '["ReLU"], ["Dense", 4], ["ReLU"]]') + 'encoder = "mixed"\n'


@dataclass
class Federation:
    """Clients and key holders with a folder each, by number, and one of the server."""

    root: Path
    clients: int = 4
    holders: int = 0
    backend: str = "mask"
    study: str = RIDGE
    believing: bool = False  # whatever the server says, with sums that nobody checks
    verify: Verify = Verify.TAGS

    @property
    def trust(self) -> Trust:
        """Of policies in sums that follow from the server's layers."""
        if self.believing:
            return Trust.ANY
        if "encoder" not in self.study:
            return Trust.NONE
        return Trust.VERIFIED if "mask" in self.backend else Trust.ANY

    def __post_init__(self) -> None:
        self.names = [f"site-{k}" for k in range(self.clients)]
        self.folders = [self.root / str(k) for k in range(self.clients + self.holders)]
        members = []
        for number, folder in enumerate(self.folders):
            name = self.names[number] if number < self.clients else f"holder-{number - self.clients}"
            members.append(settle(folder, name))
        key_holders = Roster(tuple(members[self.clients :])) if self.holders else None
        self.parties = roster.Parties(Roster(tuple(members[: self.clients])), key_holders)
        self.server = self.root / "server"
        self.server.mkdir()
        for folder in (*self.folders, self.server):
            (folder / "roster.toml").write_text(roster.text(self.parties))
            (folder / "policy.toml").write_text(
                policy.text(
                    Policy(
                        backends=frozenset({"mask", "bfv+mask", "bfv", "ckks"}),
                        trusts_reports=self.trust,
                        verify=frozenset({Verify.NONE if self.believing else self.verify}),
                    )
                )
            )
            (folder / "study.toml").write_text(f'backend = "{self.backend}"\n{self.study}')
        draws = np.random.default_rng(7)
        for number in range(self.clients):
            rows = draws.uniform(-1, 1, (12 + number, 3)) * (1.0, 8.0, 1000.0)
            with (self.folders[number] / "rows.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["id", "a", "b", "c", "sick"])
                for at, row in enumerate(rows.tolist()):
                    writer.writerow([at, *map(repr, row), "yes" if row[0] * 8 > row[1] else "no"])
            (self.folders[number] / "data.toml").write_text('table = "rows.csv"\nname = "rows"\n')
        for folder in self.folders:
            Folder(folder).approve("an operator", "a test")

    def terms(self) -> tuple[Terms, Study]:
        return Folder(self.server).terms()

    def rows(
        self, numbers: Iterable[int]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.str_], npt.NDArray[np.str_]]:
        """Features, labels and sites of some clients, in one place."""
        study = Folder(self.server).terms()[1]
        found = [(*Folder(self.folders[k]).data(study)[:2], self.names[k]) for k in numbers]
        X, y = np.vstack([X for X, _, _ in found]), np.concatenate([y for _, y, _ in found])
        return X, y, np.concatenate([[name] * len(y) for _, y, name in found])


def model(folder: Path, name: str = "model.npz") -> list[npt.NDArray[np.float64]]:
    """The weights that a party or the server kept."""
    return kept(folder, name)


class Laid(Protocol):
    """Anything with folders of parties, by number."""

    folders: list[Path]


@dataclass
class Post:
    """Carries envelopes to parties that are made anew from their folders for every one.

    lost: (number of the phase, party) whose envelopes never arrive.
    """

    federation: Laid
    lost: set[tuple[int, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.phases = 0
        self.invitation = b""
        self.sessions: set[bytes] = set()
        self.refusals: list[SecureAflError] = []

    def carrier(self, channel: Channel, session: bytes) -> Carry:
        self.sessions.add(session)
        return lambda outbox: self._carried(channel, session, outbox)

    def ask(self, party: int, envelope: Envelope, address: int = 0) -> bytes:
        """What a party's node does with an envelope."""
        with closing(Folder(self.federation.folders[party]).endpoint()) as endpoint:
            return endpoint.answer(envelope, address)

    def _carried(self, channel: Channel, session: bytes, outbox: Outbox) -> Iterator[tuple[int, bytes]]:
        number, self.phases = self.phases, self.phases + 1
        for party, data in outbox.items():
            self.invitation = self.invitation or data
            if (number, party) in self.lost:
                continue
            try:
                yield party, self.ask(party, Envelope(channel, session, data))
            except SecureAflError as error:
                self.refusals.append(error)


def learned(federation: Federation, post: Post, log: AuditLog | None = None) -> npt.NDArray[np.float64]:
    """The last layer of what the server learns."""
    terms, study = Folder(federation.server).terms()
    aggregator = remote(Elsewhere(federation.parties, post.carrier, log=log), terms.policy, terms.encryption)
    return study.learn(aggregator, federation.names)[0][-1]


def join(folder: Path, session: bytes) -> None:
    """Have a party's store say that it is in a session whose sums nobody checks, as after its first answer there."""
    _, identity = read_key(folder / "identity.key", bytes)
    terms, _ = Folder(folder).terms()
    clients = terms.parties.clients
    parameters = Parameters.propose(
        clients,
        terms.plan,
        profile=Profile.ACTIVE,
        suite=Suite.HYBRID,
        degree=len(clients.members) - 1,
        threshold=len(clients.members),
        verify=Verify.NONE,
    )
    memory = Memory(parameters, ClientState.READY, b"", b"", demands(terms.plan), b"", {})
    with closing(Store(folder / "state.db", identity)) as store:
        store.keep(f"masked {session.hex()}", Kept(msgspec.msgpack.encode(memory), b"", b""))


def in_process(federation: Federation, numbers: Iterable[int] | None = None) -> npt.NDArray[np.float64]:
    """The last layer of the same study, of all clients or some, in one process."""
    terms, study = Folder(federation.server).terms()
    aggregator = (
        MaskedAggregator(terms.policy)
        if federation.backend == "mask"
        else EncryptedAggregator(federation.backend, terms.policy, holders=federation.holders)
    )
    X, y, site = federation.rows(range(federation.clients) if numbers is None else numbers)
    if isinstance(study, NetworkStudy):
        return np.asarray(study.estimator(aggregator).fit(X / study.fedacnnl.scale, y, site).weights_[-1])
    return np.asarray(study.estimator(aggregator).fit(X, y, site).weights_)


def with_a_key(federation: Federation) -> Identity:
    """The server's identity: with one, it keeps its session."""
    _, secret, _ = keys.write_key(federation.server, "server", server=True)
    secret.rename(federation.server / "identity.key")
    return read_key(federation.server / "identity.key", keys.service_passphrase, server=True)[1]


def session_of(federation: Federation, party: int) -> list[tuple[object, ...]]:
    """The sessions that a party was in, by its own store."""
    _, identity = read_key(federation.folders[party] / "identity.key", keys.service_passphrase)
    with closing(Store(federation.folders[party] / "state.db", identity)) as store:
        assert store.run("SELECT count(*) FROM kept") == [(0,)]  # no secrets are left
        return store.run("SELECT session FROM joined")
