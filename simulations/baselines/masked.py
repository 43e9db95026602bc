"""FedAvg under masks: keys once, then a masked sum a round, as a gradient method pays for what ours has."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secure_afl.errors import DataError
from secure_afl.protocol.session.parameters import SumPlan
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Trust
from secure_afl.simulations.baselines.averaging import sgd
from secure_afl.simulations.baselines.harness import Account, ClientRows, History, Watch
from secure_afl.simulations.baselines.model import Model
from secure_afl.simulations.baselines.settings import Settings
from secure_afl.sums.aggregation import MaskedAggregator

LARGEST = 64.0  # |parameter|, agreed beforehand; a larger one is refused by the encoding
_FRACTION_BITS = 20


def masked_fedavg(
    clients: Sequence[ClientRows], model: Model, settings: Settings, seed: int, watch: Watch
) -> History:
    """`fedavg` whose averages are masked sums of rows·model and rows, in one session against an active server.

    A client's second vector depends on the model that it was sent, so the policy trusts sums that tags verified.
    Every client gets each sum with its tag, and divides it itself. Nobody drops out: raises `DataError` for `dropout`.
    """
    if settings.dropout:
        raise DataError(f"expected no dropouts under masks here, got {settings.dropout}")
    names, everyone = [client.name for client in clients], range(len(clients))
    most = max(len(client.y) for client in clients)
    plan = [
        SumPlan(
            f"fedavg round {number} of {settings.rounds}",
            model.size + 1,
            most * LARGEST,
            fraction_bits=_FRACTION_BITS,
            trusts_server=number > 1,
        )
        for number in range(1, settings.rounds + 1)
    ]
    account = Account("fedavg, masked", False, model, clients, watch)
    aggregator = MaskedAggregator(Policy(trusts_reports=Trust.VERIFIED))
    aggregator.open(names, plan)
    account.sums(aggregator.cohort.costs)
    local, w = sgd(clients, model, settings, seed), model.start(seed)

    def contribution(k: int, number: int) -> NDArray[np.float64]:
        rows = len(clients[k].y)
        return np.append(rows * local(k, w, number).double().numpy(), rows)

    for number in range(1, settings.rounds + 1):
        vectors = account.at_clients(everyone, contribution, number)
        given = {name: (vector, "rows") for name, vector in zip(names, vectors, strict=True)}
        total = aggregator.sum(number - 1, given).total
        account.sums(aggregator.cohort.costs)
        w = account.at_clients(everyone, _divided, total)[0]
        account.point(number, [w] * len(clients))
    return account.history()


def _divided(k: int, total: NDArray[np.float64]) -> Tensor:
    """The average, as client k makes it from the opened sum."""
    return torch.from_numpy(total[:-1] / total[-1]).float()
