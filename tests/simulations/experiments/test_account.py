"""The accounts of a training and of a session miss nothing: a delay at any step is in them, once."""

import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch

from secure_afl.crypto.fixed_point import FixedPoint
from secure_afl.models.networks import fedacnnl
from secure_afl.models.networks.fedacnnl import Coordinator, Learner
from secure_afl.models.networks.network import Dense, Network, ReLU
from secure_afl.models.networks.pfedacnnl import PFedACnnL
from secure_afl.models.personal import Local
from secure_afl.protocol.homomorphic.holder import KeyHolder
from secure_afl.protocol.homomorphic.server import HomomorphicServer
from secure_afl.protocol.masking import client as masking_client
from secure_afl.protocol.masking import server as masking_server
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.masking.server import MaskingServer
from secure_afl.protocol.session.backend import Backend
from secure_afl.protocol.session.parameters import SumPlan
from secure_afl.protocol.transport.driver import Exchange
from secure_afl.simulations.baselines import apart, averaging, proximal, zeroth
from secure_afl.simulations.baselines.harness import KEY_TRIPS, clients_of
from secure_afl.simulations.baselines.methods import METHODS
from secure_afl.simulations.baselines.model import Model, linear
from secure_afl.simulations.baselines.settings import Settings
from secure_afl.simulations.data.dataset import Dataset, load
from secure_afl.simulations.data.partition import Part, partition
from secure_afl.simulations.experiments.analytic import Account, train
from secure_afl.simulations.experiments.links import Link
from secure_afl.sums import aggregation
from secure_afl.sums.aggregation import LocalSessions, MaskedAggregator, PlainAggregator
from secure_afl.sums.encrypted import EncryptedAggregator

torch.set_num_threads(1)
CLIENTS, SUMS = 5, 2
METHOD_MODULES = (apart, averaging, proximal, zeroth)
NETWORK = Network((64,), (Dense(10), ReLU()), 10)
STEPS: dict[str, tuple[Any, str, str]] = {
    "reading the rows": (PFedACnnL, "_parse", "server"),
    "a client's fixed layers": (Learner, "__init__", "client"),
    "a client's trained layers": (Learner, "install", "client"),
    "a client's statistics": (Learner, "vector", "client"),
    "making the parties": (LocalSessions, "masked", "server"),
    "agreeing on parameters": (aggregation, "proposed", "server"),
    "a client's answers": (MaskingClient, "receive", "client"),
    "a client's vector": (MaskingClient, "contribute", "client"),
    "encoding": (FixedPoint, "encode", "client"),
    "masking": (masking_client, "add_keystreams", "client"),
    "a server's messages": (MaskingServer, "receive", "server"),
    "a server's phases": (MaskingServer, "advance", "server"),
    "opening a round": (MaskingServer, "open_round", "server"),
    "adding masks": (masking_server, "add_keystreams", "server"),
    "unmasking": (MaskingServer, "result", "server"),
    "decoding": (FixedPoint, "decode_sum", "server"),
    "solving a hidden layer": (fedacnnl, "filters", "server"),
    "solving the head": (aggregation, "solve", "server"),
    "rounding the head": (Coordinator, "head", "server"),
    "a personal head": (Local, "choose", "client"),
}
IN_THE_CLEAR = {
    "a client's statistics": STEPS["a client's statistics"],
    "adding": (PlainAggregator, "sum", "server"),
    "solving a hidden layer": STEPS["solving a hidden layer"],
    "solving the head": STEPS["solving the head"],
}


@pytest.fixture(scope="module")
def problem() -> tuple[Dataset, list[Part]]:
    data = load("digits")
    return data, partition(data, "dirichlet:10", CLIENTS, 0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Stands still, but for delays. Nothing is predicted: that is no part of training."""
    now = [0.0]
    with monkeypatch.context() as patch:
        patch.setattr(PFedACnnL, "predict", lambda model, X, site=None: np.zeros(len(X)))
        for name in ("perf_counter", "process_time"):
            patch.setattr(time, name, lambda: now[0])
        yield now


def delayed(
    monkeypatch: pytest.MonkeyPatch,
    clock: list[float],
    owner: Any,
    name: str,
    by: Callable[[Any, int], float],
) -> list[None]:
    """Make every call of a function take `by(its first argument, its number)` seconds; returns the calls made."""
    original, calls = getattr(owner, name), count()
    made: list[None] = []

    def slow(*arguments: Any, **options: Any) -> Any:
        made.append(None)
        clock[0] += by(arguments[0], next(calls))
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, slow)
    return made


def account(
    problem: tuple[Dataset, list[Part]], backend: Backend = Backend.MASK, encoder: str = "classwise"
) -> Account:
    return train(*problem, NETWORK, ridge=1e-2, encoder=encoder, seed=0, backend=backend).account


def seconds(account: Account) -> float:
    return account.learning_seconds + account.protocol_seconds + account.adapting_seconds


def test_a_clock_that_stands_still_counts_nothing(
    problem: tuple[Dataset, list[Part]], clock: list[float]
) -> None:
    assert seconds(account(problem)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_a_delay_anywhere_on_the_critical_path_is_counted_once(
    problem: tuple[Dataset, list[Part]], clock: list[float], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A server's delay counts in every call; a client's counts as often as one client has it."""
    owner, name, who = STEPS[step]
    made = delayed(monkeypatch, clock, owner, name, lambda first, number: 1.0)
    total = seconds(account(problem))
    expected = len(made) if who == "server" else len(made) / CLIENTS
    assert expected >= 1
    assert total == expected


def test_clients_install_seeded_layers_at_the_same_time(
    problem: tuple[Dataset, list[Part]], clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = delayed(monkeypatch, clock, Learner, "install", lambda first, number: 1.0)
    assert seconds(account(problem, encoder="seeded")) == len(made) / CLIENTS >= 1


@pytest.mark.parametrize("spent", [0.0, 0.03, 7.0])
def test_clients_compute_while_they_exchange_keys_and_at_no_other_time(
    problem: tuple[Dataset, list[Part]], clock: list[float], monkeypatch: pytest.MonkeyPatch, spent: float
) -> None:
    """Only waiting is saved, and only by work that can begin without a sum: the first statistics of two."""
    link = Link(latency=0.025)
    delayed(monkeypatch, clock, Learner, "vector", lambda first, number: spent)
    masked, clear = account(problem), account(problem, Backend.PLAIN)
    saved = [
        link.seconds(one.bytes_up, one.bytes_down, one.round_trips) - one.network_seconds(link)
        for one in (masked, clear)
    ]
    assert saved == pytest.approx([min(spent, KEY_TRIPS * 0.05), 0.0])


@pytest.mark.parametrize("step", IN_THE_CLEAR)
def test_sums_in_the_clear_are_counted_too(
    problem: tuple[Dataset, list[Part]], clock: list[float], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    owner, name, who = IN_THE_CLEAR[step]
    made = delayed(monkeypatch, clock, owner, name, lambda first, number: 1.0)
    assert (
        seconds(account(problem, Backend.PLAIN))
        == (len(made) if who == "server" else len(made) / CLIENTS)
        >= 1
    )


@pytest.mark.parametrize("step", [step for step, (_, _, who) in STEPS.items() if who == "client"])
def test_one_slow_client_is_waited_for(
    problem: tuple[Dataset, list[Part]], clock: list[float], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    owner, name, _ = STEPS[step]
    delayed(monkeypatch, clock, owner, name, lambda first, number: float(number == 0))
    assert seconds(account(problem)) == 1


def test_another_slow_client_in_every_sum_is_waited_for_each_time(
    problem: tuple[Dataset, list[Part]], clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slowest client over all sums together would account for half of the wait."""
    slow = (0, CLIENTS + 1)  # the first client in the first sum, the second one in the second
    made = delayed(
        monkeypatch, clock, MaskingClient, "contribute", lambda first, number: float(number in slow)
    )
    assert seconds(account(problem)) == SUMS
    assert len(made) == SUMS * CLIENTS


@pytest.mark.parametrize("method", METHODS)
def test_gradient_methods_are_counted_alike(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """All that clients compute, as if at the same time, and the server's average; no evaluation."""
    clients, steps = 3, ((Model, "gradient"), (Model, "loss"), *((one, "batches") for one in METHOD_MODULES))
    worked = [delayed(monkeypatch, clock, *step, lambda first, number: 1.0) for step in steps]
    averages = [
        delayed(monkeypatch, clock, module, "average", lambda first, number: 1000.0)
        for module in (averaging, proximal)
    ]
    data = load("digits")
    rows = clients_of(data, partition(data, "dirichlet:10", clients, 0))
    settings = Settings(1, rate=0.1, steps=2, own_rate=0.1, own_steps=2)
    last = METHODS[method](rows, linear(64, 10), settings, 0, lambda point: None).points[-1]
    each = sum(map(len, worked)) / (1 if method == "centralized" else clients)
    assert each >= 3
    assert last.compute_seconds == each + 1000 * sum(map(len, averages))


# ---- what the protocol alone costs ---------------------------------------------------------------

SESSIONS: list[tuple[str, Any, str]] = [
    *(
        ("mask", owner, name)
        for owner, name in (
            (MaskingServer, "start"),
            (MaskingServer, "open_round"),
            (MaskingServer, "result"),
            (FixedPoint, "decode_sum"),
        )
    ),
    *(
        ("bfv", owner, name)
        for owner, name in (
            (HomomorphicServer, "open_round"),
            (HomomorphicServer, "advance"),
            (HomomorphicServer, "result"),
            (FixedPoint, "decode_sum"),
            (KeyHolder, "receive"),
        )
    ),
    ("bfv+mask", MaskingServer, "take_total"),
    ("bfv+mask", FixedPoint, "decode_sum"),
]


@pytest.mark.parametrize(("backend", "owner", "name"), SESSIONS)
def test_a_sessions_costs_miss_no_step(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, backend: str, owner: Any, name: str
) -> None:
    """From the first message to the decoded sum: all parties' wall-clock seconds together."""
    made = delayed(monkeypatch, clock, owner, name, lambda first, number: 1.0)
    names = ["a", "b", "c", "d"]
    aggregator = MaskedAggregator() if backend == "mask" else EncryptedAggregator(backend)
    aggregator.open(names, [SumPlan("counts", 3, 1.0)])
    aggregator.sum(0, {name: (np.ones(3), "data") for name in names})
    sessions: list[Exchange] = [aggregator.cohort]
    if isinstance(aggregator, EncryptedAggregator) and aggregator.masks:
        sessions.append(aggregator.masks)
    costs = [cost for session in sessions for cost in session.costs.values()]
    spent = sum(sum(one.client_wall.values()) + one.server_wall + one.holder_wall for one in costs)
    assert spent == len(made) >= 1
