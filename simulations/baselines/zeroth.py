"""Federated learning without gradients: differences of two losses along random directions."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from secure_afl.simulations.baselines.averaging import averaged
from secure_afl.simulations.baselines.harness import COMMON, DIRECTIONS, ClientRows, History, Watch, batches
from secure_afl.simulations.baselines.model import Model
from secure_afl.simulations.baselines.settings import Settings


def fedzo(
    clients: Sequence[ClientRows], model: Model, settings: Settings, seed: int, watch: Watch
) -> History:
    """Fang et al. 2022 (IEEE TSP): FedAvg whose local steps follow `two_point` instead of the gradient.

    As there, a client uploads its model; its directions follow from the public seed, the round and the client.
    """

    def local(k: int, w: Tensor, number: int) -> Tensor:
        w = w.clone()
        rng = np.random.default_rng((seed, number, k, DIRECTIONS))
        for X, y in batches(clients[k], settings.batch, settings.steps, (seed, number, k, COMMON)):
            w.add_(two_point(model, w, X, y, settings.radius, settings.directions, rng), alpha=-settings.rate)
        return w

    return averaged("fedzo", clients, model, settings, seed, watch, local)


def two_point(
    model: Model, w: Tensor, X: Tensor, y: Tensor, radius: float, directions: int, rng: np.random.Generator
) -> Tensor:
    """Mean over directions u of (loss(w + radius u) - loss(w - radius u)) / (2 radius) u, (size,).

    u has random signs as entries (Spall 1992): the paper's directions on a sphere, at a tenth of the price.
    E[u uᵀ] = I, so for small radii the mean is the gradient.
    """
    estimate = torch.zeros_like(w)
    for _ in range(directions):
        bits = np.unpackbits(np.frombuffer(rng.bytes(-(-len(w) // 8)), np.uint8), count=len(w))
        u = torch.from_numpy(bits).float().mul_(2).sub_(1)
        probe = torch.add(w, u, alpha=radius)
        difference = model.loss(probe, X, y)
        difference -= model.loss(torch.add(w, u, alpha=-radius, out=probe), X, y)
        estimate.add_(u, alpha=difference / (2 * radius * directions))
    return estimate
