"""Local training: mini-batch SGD, with an optional proximal term."""

from collections.abc import Iterable

from torch import Tensor

from secure_afl.simulations.baselines.model import Model


def descend(
    model: Model,
    w: Tensor,
    steps: Iterable[tuple[Tensor, Tensor]],
    rate: float,
    anchor: Tensor | None = None,
    pull: float = 0.0,
) -> Tensor:
    """SGD on loss(w) + pull/2 ‖w - anchor‖², one step per batch; returns a new vector (size,)."""
    w = w.clone()
    for X, y in steps:
        gradient = model.gradient(w, X, y)
        if anchor is not None:
            w.lerp_(anchor, rate * pull)  # w - rate * pull * (w - anchor)
        w.add_(gradient, alpha=-rate)
    return w
