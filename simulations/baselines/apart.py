"""The two extremes without communication: every client alone, and all rows in one place."""

from collections.abc import Sequence

import torch
from torch import Tensor

from secure_afl.simulations.baselines.descent import descend
from secure_afl.simulations.baselines.harness import (
    COMMON,
    OWN,
    Account,
    ClientRows,
    History,
    Watch,
    batches,
)
from secure_afl.simulations.baselines.model import Model
from secure_afl.simulations.baselines.settings import Settings


def local_only(
    clients: Sequence[ClientRows], model: Model, settings: Settings, seed: int, watch: Watch
) -> History:
    """SGD at each client on its own rows: `steps` steps per round at `own_rate`. No client can drop out."""

    def local(k: int, v: Sequence[Tensor], number: int) -> Tensor:
        own = batches(clients[k], settings.batch, settings.steps, (seed, number, k, OWN))
        return descend(model, v[k], own, settings.own_rate)

    account = Account("local", True, model, clients, watch)
    v = [model.start(seed)] * len(clients)
    for number in range(1, settings.rounds + 1):
        v = account.at_clients(range(len(clients)), local, v, number)
        account.point(number, v)
    return account.history()


def centralized(
    clients: Sequence[ClientRows], model: Model, settings: Settings, seed: int, watch: Watch
) -> History:
    """SGD on the pooled rows at one party; a round is an epoch. The cost of pooling the rows is not counted."""
    everything = ClientRows(
        "pooled",
        torch.cat([client.X for client in clients]),
        torch.cat([client.y for client in clients]),
        torch.cat([client.X_test for client in clients]),
        torch.cat([client.y_test for client in clients]),
    )
    steps = -(-len(everything.y) // settings.batch)

    def local(k: int, w: Tensor, number: int) -> Tensor:
        epoch = batches(everything, settings.batch, steps, (seed, number, k, COMMON))
        return descend(model, w, epoch, settings.rate)

    account = Account("centralized", False, model, [everything], watch)
    w = model.start(seed)
    for number in range(1, settings.rounds + 1):
        w = account.at_clients([0], local, w, number)[0]
        account.point(number, [w])
    return account.history()
