"""What drives a session: whose bytes and seconds count where, and whom it drives."""

from collections.abc import Iterator
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from worlds.cohorts import world
from worlds.encrypted import KeyWorld

from secure_afl.protocol.audit.events import Agreed, Released
from secure_afl.protocol.audit.record import (
    RecordedClient,
    RecordedParty,
    RecordedServer,
)
from secure_afl.protocol.session.errors import RemoteProtocolError
from secure_afl.protocol.session.parameters import RoundSpec, SumWanted
from secure_afl.protocol.session.server import OnDemand, Outbox
from secure_afl.protocol.transport import driver
from secure_afl.protocol.transport.driver import (
    Carry,
    Contribution,
    Exchange,
    Local,
    PhaseCost,
    Remote,
    nothing_wanted,
)
from secure_afl.protocol.transport.encrypted import EncryptedCohort
from secure_afl.protocol.transport.masked import Cohort

WANTED = SumWanted(0, RoundSpec("sum", 1, 8, 1, 1), (0, 1))


class Phase(Enum):
    READY = "ready"
    ASKING = "asking"


class Clock:
    """Stands still, but for what a party spends."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += seconds


class Stub:
    """A server, client or key holder that spends time and says a number of bytes."""

    def __init__(self, clock: Clock, seconds: float, says: bytes | SumWanted = b"") -> None:
        self.clock, self.seconds, self.says = clock, seconds, says
        self.state = Phase.READY

    def receive(self, *message: Any) -> Any:
        self.clock.spend(self.seconds)
        if message[-1] == b"refused":
            raise RemoteProtocolError("the server", "a party", "expected something else")
        return self.says

    def contribute(self, wanted: SumWanted, values: Any, data_set: str) -> bytes:
        self.clock.spend(200)
        return b"contributed"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(driver, "cpu_seconds", clock)
    monkeypatch.setattr(driver, "time", SimpleNamespace(perf_counter=clock))
    return clock


def exchange(clock: Clock, carry: Carry | None = None) -> tuple[Exchange, Stub, list[str]]:
    """Two clients, one of which is asked for a vector, and a key holder."""
    server, watched = Stub(clock, 1), list[str]()
    clients = {0: Stub(clock, 10, b"answer"), 1: Stub(clock, 20, WANTED)}
    holders = {2: Stub(clock, 40, b"opened")}
    link = Remote(carry) if carry else Local(clients, holders, None)
    steps: Any = server  # of which an Exchange uses only `receive` and `state`
    return Exchange(steps, link, watched.append, indices=(2,)), server, watched


def step(clock: Clock, server: Stub) -> Outbox:
    clock.spend(1000)
    server.state = Phase.ASKING

    def made(party: int) -> bytes:
        clock.spend(0.25)
        return b"x" * (party + 1)

    return OnDemand(range(3), made)


def test_every_byte_and_second_counts_for_who_had_it(clock: Clock) -> None:
    def contribute(client: int, wanted: SumWanted) -> Contribution:
        clock.spend(10_000)
        return np.zeros(1), "data"

    cohort, server, watched = exchange(clock)
    cohort.run(lambda: step(clock, server), contribute)
    assert watched == ["asking"]
    asked = PhaseCost(
        up={0: 6, 1: 11},
        down={0: 1, 1: 2},
        client_seconds={0: 10, 1: 220},
        client_wall={0: 10, 1: 220},
        server_seconds=1003.75,
        server_wall=1003.75,
        holder_bytes=9,
        holder_seconds=40,
        holder_wall=40,
        wall_seconds=10_273.75,
    )
    assert cohort.costs == {
        "asking": asked
    }  # no phase was going on: the step belongs to the one that it begins
    cohort.timed(lambda: step(clock, server))
    assert cohort.costs["asking"].server_seconds == 2003.75
    with pytest.raises(ZeroDivisionError):
        cohort.timed(lambda: clock.spend(5) or 1 // 0)  # type: ignore[func-returns-value]
    assert cohort.costs["asking"].server_seconds == 2008.75
    cohort.timed(lambda: clock.spend(7), "another")
    assert cohort.costs["another"].server_seconds == 7
    cohort.run(lambda: step(clock, server), contribute)
    assert cohort.costs["asking"].up == {0: 12, 1: 22}
    assert cohort.costs["asking"].client_seconds == {0: 20, 1: 440}


def test_of_parties_elsewhere_bytes_and_the_servers_own_seconds_count(clock: Clock) -> None:
    def carry(outbox: Outbox) -> Iterator[tuple[int, bytes]]:
        assert list(outbox) == [0, 1, 2]
        clock.spend(500)
        yield 2, b"opened"
        yield 0, b"refused"

    cohort, server, watched = exchange(clock, carry=carry)
    cohort.run(lambda: step(clock, server), nothing_wanted)
    assert watched == ["asking"]
    cost = PhaseCost(
        up={0: 7},
        down={0: 1, 1: 2},
        server_seconds=1002.75,
        server_wall=1002.75,
        holder_bytes=9,
        wall_seconds=502.75,
    )
    assert cohort.costs == {"asking": cost}
    assert len(cohort.refusals) == 1


def test_no_vector_is_given_where_none_may_be_asked_for(clock: Clock) -> None:
    cohort, server, _ = exchange(clock)
    with pytest.raises(AssertionError):
        cohort.run(lambda: step(clock, server), nothing_wanted)


# ---- parties with logs ---------------------------------------------------------------------------


class Log(list[Any]):
    """What is noted, in memory."""

    note = list.append

    def commitment(self, session: bytes, name: str) -> bytes:
        return bytes(32)


def test_a_masked_session_with_logs_goes_through_them() -> None:
    here = world(3)
    session = here.session(here.propose())
    logs: dict[int | str, Any] = {who: Log() for who in (0, 1, 2, "server")}
    recorded = (
        RecordedServer(session.server, logs["server"], Agreed(session.parameters, here.roster)),
        {
            index: RecordedClient(client, logs[index], here.roster, here.plan, here.policy)
            for index, client in session.clients.items()
        },
    )
    cohort = Cohort(session.server, session.clients, recorded=recorded)
    cohort.set_up()
    cohort.sum(0, session.contribute)
    assert not cohort.refusals
    assert {who: len(log) for who, log in logs.items()} == {0: 16, 1: 16, 2: 16, "server": 1 + 9 + 21 + 1}
    opened = [one for one in logs["server"] if isinstance(one, Released)]
    assert opened[-1] == Released(session.parameters.transcript(), 0, (0, 1, 2), (), 5)


def test_an_encrypted_session_with_logs_goes_through_them() -> None:
    here = KeyWorld(4, holders=2)
    session = here.session()
    logs: dict[int | str, Any] = {who: Log() for who in (*range(6), "server")}

    def known(index: int) -> tuple[Any, ...]:
        return logs[index], here.roster, session.plan, here.policy, here.key_holders

    clients = {index: RecordedClient(one, *known(index)) for index, one in session.clients.items()}
    holders = {index: RecordedParty(one, *known(index)) for index, one in session.holders.items()}
    agreed = Agreed(session.agreement, here.roster, here.key_holders)
    steps = RecordedServer(session.server, logs["server"], agreed)
    cohort = EncryptedCohort(
        session.server, session.clients, session.holders, recorded=(steps, clients, holders)
    )
    assert (cohort.clients, cohort.holders, cohort.server) == (
        session.clients,
        session.holders,
        session.server,
    )
    cohort.set_up()
    opened = cohort.sum(0, session.contribute)
    assert opened.survivors == (0, 1, 2, 3)
    assert not cohort.refusals
    assert [len(logs[party]) for party in range(6)] == [8, 8, 8, 8, 11, 11]
    assert logs["server"][-1] == Released(session.agreement.transcript(), 0, (0, 1, 2, 3), (), 5)
