"""A network's layers, and its forward pass in exact arithmetic.

Activations lie on a grid of 2⁻¹⁰ between −limit and limit. Weights lie on a grid chosen so that every sum of products
stays below 2⁵³ units. So float64 computes every layer *exactly*, for any batch, order, BLAS or device. The Gram matrices
of such activations and their fixed-point sums are exact too: the masked network is bit-equal to the one of the pooled
data.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from functools import cached_property
from math import ceil, prod
from typing import get_args

import msgspec

from secure_afl.crypto.errors import optional
from secure_afl.errors import DataError
from secure_afl.models.networks.features import (
    LARGEST,
    WIDEN_LIMIT,
    by_contrast,
    deskewed,
    exactly_deskewed,
    exactly_normalised,
    normalised,
    sparse,
    waves,
    widened,
)
from secure_afl.models.networks.grid import GRID_BITS, divided, to_grid

with optional():
    import torch
    from torch import Tensor
    from torch.nn import functional


@dataclass(frozen=True)
class Conv:
    """A trained convolution: `channels` filters of `kernel`×`kernel`.

    contrast: every patch is centred and divided by its contrast first, see `normalised`.
    """

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    contrast: bool = False


@dataclass(frozen=True)
class Dense:
    """A trained layer from all its inputs to `units` outputs."""

    units: int


@dataclass(frozen=True)
class ReLU:
    """min(max(z, 0), limit): bounded, so that all parties know beforehand how large a Gram entry can be."""

    limit: float = 6.0


@dataclass(frozen=True)
class MaxPool:
    """The maximum of each size×size square; incomplete squares at the border are dropped."""

    size: int


@dataclass(frozen=True)
class AvgPool:
    """The mean of each size×size square; incomplete squares at the border are dropped.

    stride: pixels from one square to the next; 0: size, so that squares do not overlap.
    """

    size: int
    stride: int = 0


@dataclass(frozen=True)
class Flatten:
    """From (channels, height, width) to one row."""


@dataclass(frozen=True)
class Widen:
    """Keep the inputs and append `units` random features: rectified projections of the `normalised` inputs on random
    directions, which the public `seed` fixes. This layer is not trained and needs no sum.
    """

    units: int
    seed: int = 0


@dataclass(frozen=True)
class Fourier:
    """Keep the inputs and append `units` cosines of random projections, which the public `seed` fixes.

    Their inner products approximate the Gaussian kernel exp(−‖x − x′‖²/(2·width²)) (Rahimi and Recht, NeurIPS 2007). Not
    trained, needs no sum.
    """

    units: int
    width: float
    seed: int = 0


@dataclass(frozen=True)
class Sparse:
    """Replace the inputs by `groups` blocks of 2^bits values, one of them 1 and the rest 0.

    Each input is compared with `levels` thresholds spread evenly between `low` and `high`. The public `seed` shuffles the
    answers into groups of `bits`; a group's pattern of answers chooses its 1. After SAFLe (arXiv 2512.03336). Not trained,
    needs no sum; Gram matrices count samples.
    """

    groups: int
    bits: int = 4
    levels: int = 1
    low: float = 0.0
    high: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Deskew:
    """Move an image's centre of brightness to the middle and shear it upright, see `deskewed`. It has no parameters."""


Layer = Conv | Dense | ReLU | MaxPool | AvgPool | Flatten | Widen | Fourier | Sparse | Deskew
Shape = tuple[int, ...]
_KINDS: dict[str, type[Layer]] = {kind.__name__: kind for kind in get_args(Layer)}


def parse_layer(words: Sequence[str | float]) -> Layer:
    """Parse a layer from a list, as in a study's file: its kind, then its numbers in order. Raises `DataError`."""
    name, *numbers = words or ("",)
    kind = _KINDS.get(str(name))
    names = [field.name for field in fields(kind)] if kind else []
    if kind is None or len(numbers) > len(names):
        kinds = ", ".join(f"{one} {len(fields(found))}" for one, found in _KINDS.items())
        raise DataError(
            f"expected a layer as its name and at most so many numbers: {kinds}; got {list(words)}"
        )
    try:
        return msgspec.convert(dict(zip(names, numbers, strict=False)), kind)
    except msgspec.ValidationError as error:
        raise DataError(f"layer {list(words)}: {error}") from None


def layer_words(layer: Layer) -> list[str | float]:
    """The list that `parse_layer` reads as this layer."""
    return [type(layer).__name__, *astuple(layer)]


@dataclass(frozen=True)
class Trained:
    """The facts about a trained layer that are known before training.

    at: its index in the network's layers. shape: of its input. inputs: length of a row of its least squares, without the
    column of ones. positions: rows per sample. outputs: their number. limit: of |input|. bits: of the inputs' grid, 0 if
    they are whole numbers.
    """

    at: int
    layer: Conv | Dense
    shape: Shape
    inputs: int
    positions: int
    outputs: int
    limit: float
    bits: int = GRID_BITS


@dataclass(frozen=True)
class Network:
    """Layers from an input shape to class scores. Inputs lie in [−1, 1].

    Parameters
    ----------
    input_shape : tuple of int
        (features,) or (channels, height, width).
    layers : tuple of layers
        In their order; a trained head with `classes` scores is added after the last one.
    classes : int

    Raises
    ------
    DataError
        If the layers do not fit together.
    """

    input_shape: Shape
    layers: tuple[Layer, ...]
    classes: int

    def __post_init__(self) -> None:
        if len(self.input_shape) not in (1, 3) or min(self.input_shape) < 1 or self.classes < 2:
            raise DataError(
                f"expected an input shape (features,) or (channels, height, width) and 2 classes or more, "
                f"got {self.input_shape} and {self.classes}"
            )
        _ = self.trained  # raises if two layers do not fit

    @cached_property
    def steps(self) -> tuple[Layer, ...]:
        """All layers, including those that lead to the class scores."""
        shape = self.input_shape
        for at, layer in enumerate(self.layers):
            shape = _shape_after(shape, layer, at)
        return (*self.layers, *([Flatten()] if len(shape) == 3 else []), Dense(self.classes))

    @cached_property
    def trained(self) -> tuple[Trained, ...]:
        """The trained layers in order, the head last."""
        shape, limit, bits, bounded, found = self.input_shape, 1.0, GRID_BITS, True, []
        for at, layer in enumerate(self.steps):
            after = _shape_after(shape, layer, at)
            if isinstance(layer, Conv | Dense):
                if not bounded:
                    raise DataError(f"layer {at}, {layer}: a ReLU must bound the inputs of a trained layer")
                inputs = shape[0] * (layer.kernel**2 if isinstance(layer, Conv) else 1)
                largest = limit
                if isinstance(layer, Conv) and layer.contrast:
                    _check_normalised(at, layer, inputs, limit)
                    largest = 1.0
                    bits = GRID_BITS
                found.append(Trained(at, layer, shape, inputs, prod(after[1:]), after[0], largest, bits))
                bounded, bits = False, GRID_BITS
            elif isinstance(layer, ReLU):
                # Rounding to the grid after the limit can end one step above it.
                limit = ceil(layer.limit * 2.0**GRID_BITS) / 2.0**GRID_BITS
                bounded, bits = True, GRID_BITS
            elif not isinstance(layer, MaxPool | Flatten):
                if not bounded:
                    raise DataError(f"layer {at}, {layer}: a ReLU must bound its inputs")
                bits = 0 if isinstance(layer, Sparse) else GRID_BITS
                match layer:
                    case Widen():
                        _check_normalised(at, layer, shape[0], limit)
                        limit = max(limit, WIDEN_LIMIT)
                    case Fourier():
                        limit = max(limit, 1.0)
                    case Sparse():
                        limit = 1.0
                    case Deskew() if not exactly_deskewed(shape, limit):
                        raise DataError(
                            f"layer {at}, {layer}: images of shape {shape} up to {limit:g} are too large to deskew exactly"
                        )
            shape = after
        return tuple(found)


def _check_normalised(at: int, layer: Layer, inputs: int, limit: float) -> None:
    """Raises `DataError` if the sums in `normalised` could exceed the integers that float64 represents."""
    if not exactly_normalised(inputs, limit):
        raise DataError(
            f"layer {at}, {layer}: {inputs} inputs up to {limit:g} are too many to normalise exactly"
        )


def _shape_after(shape: Shape, layer: Layer, at: int) -> Shape:
    problem = DataError(f"layer {at}, {layer}, does not fit an input of shape {shape}")
    match layer:
        case ReLU(limit):
            if not 0 < limit <= LARGEST:
                raise problem
            return shape
        case Flatten():
            return (prod(shape),)
        case Dense(units):
            if len(shape) != 1 or units < 1:
                raise problem
            return (units,)
        case Widen(units, seed):
            if len(shape) != 1 or units < 1 or seed < 0:
                raise problem
            return (shape[0] + units,)
        case Fourier(units, width, seed):
            if len(shape) != 1 or units < 1 or seed < 0 or not 2.0**-16 <= width <= 2.0**16:
                raise problem
            return (shape[0] + units,)
        case Sparse(groups, bits, levels, low, high, seed):
            if len(shape) != 1 or min(groups, bits, levels) < 1 or bits > 12 or seed < 0:
                raise problem
            if not -LARGEST <= low < high <= LARGEST:
                raise problem
            return (groups * 2**bits,)
        case Deskew():
            if len(shape) != 3:
                raise problem
            return shape
        case Conv(channels, kernel, stride, padding):
            if len(shape) != 3 or min(channels, kernel, stride) < 1 or padding < 0:
                raise problem
            sides = [(side + 2 * padding - kernel) // stride + 1 for side in shape[1:]]
        case MaxPool(size):
            if len(shape) != 3 or size < 1:
                raise problem
            channels, sides = shape[0], [side // size for side in shape[1:]]
        case AvgPool(size, stride):
            if len(shape) != 3 or size < 1 or stride < 0:
                raise problem
            channels, sides = shape[0], [(side - size) // (stride or size) + 1 for side in shape[1:]]
    if min(sides) < 1:
        raise problem
    return (channels, *sides)


def patches(inputs: Tensor, layer: Conv | Dense) -> Tensor:
    """Rows of a trained layer's least squares, (samples·positions, inputs) float64, position by position."""
    rows = inputs.to(torch.float64)
    if isinstance(layer, Conv):
        columns = functional.unfold(rows, layer.kernel, padding=layer.padding, stride=layer.stride)
        found = columns.transpose(1, 2).reshape(-1, columns.shape[1])
        return normalised(found) if layer.contrast else found
    return rows


def apply_trained(inputs: Tensor, known: Trained, weights: Tensor) -> Tensor:
    """The outputs of a trained layer: exact, float64, (samples, outputs, …)."""
    if isinstance(known.layer, Dense):
        return patches(inputs, known.layer) @ weights[1:] + weights[0]
    layer, values = known.layer, inputs.to(torch.float64)
    _, height, width = _shape_after(known.shape, layer, known.at)
    columns = functional.unfold(values, layer.kernel, padding=layer.padding, stride=layer.stride)
    if layer.contrast:
        padded = functional.pad(values, [layer.padding] * 4)
        sums = [
            functional.avg_pool2d(one, layer.kernel, layer.stride, divisor_override=1).sum(dim=1).flatten(1)
            for one in (padded, padded * padded)
        ]
        columns = by_contrast(columns, *(one[:, None] for one in sums))
    scores = (weights[1:].T @ columns).add_(weights[0][:, None])
    return scores.reshape(len(inputs), known.outputs, height, width)


def apply_fixed(values: Tensor, layer: Layer) -> Tensor:
    """The outputs of a layer without weights, back on the grid; float64 in, float64 out."""
    match layer:
        case ReLU(limit):
            return to_grid(values.clamp(0.0, limit))
        case MaxPool(size):
            return functional.max_pool2d(values, size)
        case AvgPool(size, stride):
            # Sums on the grid are exact in any order, so their rounding is the same everywhere.
            sums = functional.avg_pool2d(values, size, stride or size, divisor_override=1)
            return to_grid(divided(sums, size**2))
        case Flatten():
            return values.flatten(1)
        case Widen(units, seed):
            return widened(values, units, seed)
        case Fourier(units, width, seed):
            return waves(values, units, width, seed)
        case Sparse(groups, bits, levels, low, high, seed):
            return sparse(values, groups, bits, levels, low, high, seed)
        case Deskew():
            return deskewed(values)
    raise AssertionError(f"{layer} has weights")
