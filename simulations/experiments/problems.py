"""The learning problems for comparing methods: data, their partition, and the trained models."""

from collections.abc import Callable
from dataclasses import dataclass

from secure_afl.models.networks.network import AvgPool, Conv, Dense, Deskew, Network, ReLU, Widen
from secure_afl.simulations.baselines import model as gradient
from secure_afl.simulations.baselines.model import Model
from secure_afl.simulations.data.dataset import Dataset, load
from secure_afl.simulations.data.partition import Part, partition


@dataclass(frozen=True, eq=False)
class Problem:
    """What is learnt by whom.

    title: for tables. data, spec, clients: as in `load` and `partition`. model: of the gradient methods.
    networks: of FedACnnL, each with its encoder and ridge penalty. left_out: baselines that are not run, and
    why.
    """

    title: str
    data: str
    spec: str
    clients: int | None
    model: Callable[[], Model]
    networks: dict[str, tuple[Network, str, float]]
    left_out: dict[str, str]

    def rows(self, seed: int) -> tuple[Dataset, list[Part]]:
        data = load(self.data, seed=seed)
        return data, partition(data, self.spec, self.clients, seed)


# Ridge penalties: the best of 1e-4 to 0.3 by factors of 3 to 10, or near it, for everybody's network on a quarter
# of each client's training rows, seed 0.
_LINEAR = {"linear": (Network((784,), (), 10), "seeded", 0.3)}
_CONV = {
    "deskew 8": (
        Network((1, 28, 28), (Deskew(), Conv(8, 7, padding=1, contrast=True), ReLU(), AvgPool(4)), 10),
        "seeded",
        3e-3,
    ),
    "deskew 16": (
        Network((1, 28, 28), (Deskew(), Conv(16, 7, padding=1, contrast=True), ReLU(), AvgPool(4)), 10),
        "seeded",
        3e-3,
    ),
    "conv 16": (
        Network((1, 28, 28), (Conv(16, 7, padding=1, contrast=True), ReLU(), AvgPool(4)), 10),
        "seeded",
        3e-3,
    ),
    "conv 64": (
        Network((1, 28, 28), (Conv(64, 7, padding=1, contrast=True), ReLU(), AvgPool(4)), 10),
        "seeded",
        3e-3,
    ),
}
_RAW = {"linear": (Network((60,), (), 10), "seeded", 1e-3)}
_MASKED_TAKES_LONG = {"fedavg, masked": "a sum a round among 100 clients takes many minutes a seed"}
_CNN_TAKES_LONG = {"fedzo": "stays at chance within 30 rounds on the CNN"}

PROBLEMS: dict[str, Problem] = {
    "mnist-linear": Problem(
        "MNIST-5k, 20 clients with 2 labels each, convex",
        "mnist5k",
        "labels:2",
        20,
        lambda: gradient.linear(784, 10),
        _LINEAR,
        {},
    ),
    "mnist-mlp": Problem(
        "MNIST-5k, 20 clients with 2 labels each, non-convex",
        "mnist5k",
        "labels:2",
        20,
        lambda: gradient.mlp(784, 100, 10),
        {"784-100-10": (Network((784,), (Dense(100), ReLU()), 10), "classwise", 1e-3), **_CONV},
        {},
    ),
    "mnist-cnn": Problem(
        "MNIST-5k, 10 clients, Dirichlet 0.5, CNN",
        "mnist5k",
        "dirichlet:0.5",
        10,
        lambda: gradient.cnn(28, 10),
        _CONV,
        _CNN_TAKES_LONG,
    ),
    "synthetic-linear": Problem(
        "Synthetic(0.5, 0.5), 100 clients, convex",
        "synthetic",
        "site",
        None,
        lambda: gradient.linear(60, 10),
        _RAW,
        _MASKED_TAKES_LONG,
    ),
    "synthetic-mlp": Problem(
        "Synthetic(0.5, 0.5), 100 clients, non-convex",
        "synthetic",
        "site",
        None,
        lambda: gradient.mlp(60, 20, 10),
        {
            "60-20-10": (Network((60,), (Dense(20), ReLU()), 10), "classwise", 1e-3),
            "60, 300 random": (Network((60,), (Widen(300),), 10), "seeded", 1e-3),
        },
        _MASKED_TAKES_LONG,
    ),
}
