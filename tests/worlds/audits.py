"""Whole sessions with audit logs, and what somebody who has the files, or a party's key, can do to them."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from secure_afl.crypto.identity import Identity
from secure_afl.protocol.audit.chain import read
from secure_afl.protocol.audit.check import Report, verify
from secure_afl.protocol.audit.events import AnyEvent, line_digest, signed
from secure_afl.protocol.session.errors import RoundAbortedError
from secure_afl.protocol.session.parameters import SumPlan
from secure_afl.protocol.session.policy import Policy
from secure_afl.sums.aggregation import MaskedAggregator
from secure_afl.sums.encrypted import EncryptedAggregator
from secure_afl.testing.faults import Fault, FaultyNetwork

CLIENTS = tuple(f"hospital-{number}" for number in range(4))
PLAN = (SumPlan("gram", 7, 10.0, 20), SumPlan("counts", 3, 10.0, 20))
Change = Callable[[list[AnyEvent]], list[AnyEvent]]


@dataclass
class Audited:
    """The logs of one session of two sums, by party, and the parties' keys."""

    logs: dict[str, bytes]
    identities: dict[str, Identity]

    def verify(self, **changed: bytes) -> Report:
        """All logs, some of them changed; a party's name is a file's."""
        return verify(self.logs | {name.replace("_", "-"): data for name, data in changed.items()})

    def resigned(self, party: str, change: Change) -> bytes:
        """The log that this party would have written, had it been another story."""
        chain = read(self.logs[party])
        events = change([entry.event for entry in chain.entries])
        return written(self.identities[party], events, chain.entries[0].time)


def written(
    identity: Identity, events: Sequence[AnyEvent], time: datetime, step: timedelta = timedelta()
) -> bytes:
    """A sound log of these events. time: of the first; step: from each to the next."""
    previous, lines = b"", []
    for number, event in enumerate(events, 1):
        line = signed(identity, number, time + (number - 1) * step, previous, event)
        previous = line_digest(line)
        lines.append(line + b"\n")
    return b"".join(lines)


def audited(
    folder: Path,
    backend: str = "mask",
    *,
    silent: Sequence[int] = (),
    faults: Sequence[Fault] = (),
    seed: int = 0,
    policy: Policy | None = None,
) -> Audited:
    """Four clients, two sums. silent: whose uploads are lost; faults: what else befalls messages."""
    phase = "collecting" if "mask" in backend else "encrypting"
    network = FaultyNetwork([Fault("drop", phase, frozenset(silent)), *faults], seed)
    aggregator = (
        MaskedAggregator(policy=policy, network=network, audit=folder)
        if backend == "mask"
        else EncryptedAggregator(backend, network=network, audit=folder, release="sum")
    )
    draws = np.random.default_rng(seed)
    vectors = {name: [draws.uniform(-9, 9, one.length) for one in PLAN] for name in CLIENTS}
    with suppress(RoundAbortedError):
        aggregator.open(CLIENTS, PLAN)
        for number in range(len(PLAN)):
            with suppress(RoundAbortedError):
                aggregator.sum(number, {name: (vectors[name][number], "patients") for name in CLIENTS})
    assert aggregator.parties.logs is not None
    opened = list(aggregator.parties.logs._logs.values())
    aggregator.close()
    logs, identities = {}, {}
    for log in opened:
        begun = read(log.path.read_bytes()).begun
        assert begun is not None
        logs[begun.party], identities[begun.party] = log.path.read_bytes(), log._identity
    return Audited(logs, identities)
