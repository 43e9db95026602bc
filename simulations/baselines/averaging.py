"""Methods that average the survivors' models: FedAvg, FedProx, and their personalised versions."""

from collections.abc import Callable, Sequence

from torch import Tensor

from secure_afl.simulations.baselines.descent import descend
from secure_afl.simulations.baselines.harness import (
    COMMON,
    OWN,
    Account,
    ClientRows,
    History,
    Watch,
    average,
    batches,
    survivors,
)
from secure_afl.simulations.baselines.model import Model
from secure_afl.simulations.baselines.settings import Settings

Work = Callable[[int, Tensor, int], Tensor]
"""work(k, w, number): client k's model, float32 (size,), after it trains the common model w in a round."""
LOOK = 50
"""Rounds between two points of a method whose clients adapt at the end: that can cost more than a round."""


def fedavg(
    clients: Sequence[ClientRows], model: Model, settings: Settings, seed: int, watch: Watch
) -> History:
    """McMahan et al. 2017 (AISTATS): local SGD from the common model, then the average by rows."""
    local = sgd(clients, model, settings, seed)
    return averaged("fedavg", clients, model, settings, seed, watch, local)


def fedprox(
    clients: Sequence[ClientRows], model: Model, settings: Settings, seed: int, watch: Watch
) -> History:
    """Li et al. 2020 (MLSys): FedAvg with a proximal term of weight `pull` towards the common model."""

    def local(k: int, w: Tensor, number: int) -> Tensor:
        steps = batches(clients[k], settings.batch, settings.steps, (seed, number, k, COMMON))
        return descend(model, w, steps, settings.rate, w, settings.pull)

    return averaged("fedprox", clients, model, settings, seed, watch, local)


def fine_tuned(
    clients: Sequence[ClientRows], model: Model, settings: Settings, seed: int, watch: Watch
) -> History:
    """FedAvg; at the end each client trains on alone for `own_steps` steps at `own_rate`."""
    local = sgd(clients, model, settings, seed)
    own = _own_sgd(clients, model, settings, seed)
    return averaged("fine-tuned", clients, model, settings, seed, watch, local, own)


def per_fedavg(
    clients: Sequence[ClientRows], model: Model, settings: Settings, seed: int, watch: Watch
) -> History:
    """Fallah et al. 2020 (NeurIPS), first order: learn a starting point from which a few local steps work best.

    A local step moves by `own_rate` on one batch, takes the gradient there on a second batch, and applies it at the
    original point. At the end each client adapts by `own_steps` steps at `own_rate` (one step in the paper).
    """

    def local(k: int, w: Tensor, number: int) -> Tensor:
        w = w.clone()
        steps = batches(clients[k], settings.batch, 2 * settings.steps, (seed, number, k, COMMON))
        for X, y in steps:
            ahead = w - settings.own_rate * model.gradient(w, X, y)
            w.add_(model.gradient(ahead, *next(steps)), alpha=-settings.rate)
        return w

    own = _own_sgd(clients, model, settings, seed)
    return averaged("per-fedavg", clients, model, settings, seed, watch, local, own)


def averaged(
    name: str,
    clients: Sequence[ClientRows],
    model: Model,
    settings: Settings,
    seed: int,
    watch: Watch,
    local: Work,
    own: Work | None = None,
) -> History:
    """Alternate rounds of `local` with averages over the survivors; `own` personalises the last average."""
    account = Account(name, own is not None, model, clients, watch)
    w = model.start(seed)
    for number in range(1, settings.rounds + 1):
        present = survivors(len(clients), settings.dropout, seed, number)
        states = account.at_clients(present, local, w, number)
        w = account.at_server(average, states, [len(clients[k].y) for k in present])
        account.exchanged()
        if own is None:
            account.point(number, [w] * len(clients))
        elif number % LOOK == 0 or number == settings.rounds:
            account.point(number, account.at_the_end(own, w, number))
    return account.history()


def sgd(clients: Sequence[ClientRows], model: Model, settings: Settings, seed: int) -> Work:
    """Local SGD from the common model."""

    def local(k: int, w: Tensor, number: int) -> Tensor:
        steps = batches(clients[k], settings.batch, settings.steps, (seed, number, k, COMMON))
        return descend(model, w, steps, settings.rate)

    return local


def _own_sgd(clients: Sequence[ClientRows], model: Model, settings: Settings, seed: int) -> Work:
    def own(k: int, w: Tensor, number: int) -> Tensor:
        steps = batches(clients[k], settings.batch, settings.own_steps, (seed, number, k, OWN))
        return descend(model, w, steps, settings.own_rate)

    return own
