"""Methods that keep a client's own model near a common one: pFedMe and Ditto."""

from collections.abc import Sequence

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


def pfedme(
    clients: Sequence[ClientRows], model: Model, settings: Settings, seed: int, watch: Watch
) -> History:
    """T Dinh et al. 2020 (NeurIPS), algorithm 1: the common model descends along Moreau envelopes.

    For each batch a client takes `own_steps` (K) steps at `own_rate` on loss(θ) + pull/2 ‖θ - w‖², from the θ
    before, and then moves its w to w - rate * pull * (w - θ). The server mixes the average in with weight
    `mix` (β). Accuracy is that of each client's θ after its last batch, as in the authors' code.
    """

    def local(k: int, w: Tensor, number: int) -> tuple[Tensor, Tensor]:
        w, theta = w.clone(), w.clone()
        for batch in batches(clients[k], settings.batch, settings.steps, (seed, number, k, COMMON)):
            theta = descend(model, theta, [batch] * settings.own_steps, settings.own_rate, w, settings.pull)
            w.lerp_(theta, settings.rate * settings.pull)
        return w, theta

    def merge(w: Tensor, states: Sequence[Tensor], rows: Sequence[int]) -> Tensor:
        return (1 - settings.mix) * w + settings.mix * average(states, rows)

    account = Account("pfedme", True, model, clients, watch)
    w = model.start(seed)
    thetas = [w] * len(clients)
    for number in range(1, settings.rounds + 1):
        present = survivors(len(clients), settings.dropout, seed, number)
        results = account.at_clients(present, local, w, number)
        w = account.at_server(merge, w, [one for one, _ in results], [len(clients[k].y) for k in present])
        account.exchanged()
        for k, (_, theta) in zip(present, results, strict=True):
            thetas[k] = theta
        account.point(number, thetas)
    return account.history()


def ditto(
    clients: Sequence[ClientRows], model: Model, settings: Settings, seed: int, watch: Watch
) -> History:
    """Li et al. 2021 (ICML), algorithm 1: FedAvg, and beside it each client's own model, kept from round to
    round, in `steps` steps at `own_rate` on loss(v) + pull/2 ‖v - w‖² with the w that it received."""

    def local(k: int, w: Tensor, v: Sequence[Tensor], number: int) -> tuple[Tensor, Tensor]:
        common = batches(clients[k], settings.batch, settings.steps, (seed, number, k, COMMON))
        own = batches(clients[k], settings.batch, settings.steps, (seed, number, k, OWN))
        return (
            descend(model, w, common, settings.rate),
            descend(model, v[k], own, settings.own_rate, w, settings.pull),
        )

    account = Account("ditto", True, model, clients, watch)
    w = model.start(seed)
    v = [w] * len(clients)
    for number in range(1, settings.rounds + 1):
        present = survivors(len(clients), settings.dropout, seed, number)
        results = account.at_clients(present, local, w, v, number)
        w = account.at_server(average, [one for one, _ in results], [len(clients[k].y) for k in present])
        account.exchanged()
        for k, (_, own) in zip(present, results, strict=True):
            v[k] = own
        account.point(number, v)
    return account.history()
