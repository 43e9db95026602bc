"""A network's layers, and its forward pass in exact arithmetic.

Activations lie on a grid of 2⁻¹⁰ between −limit and limit. Weights lie on a grid chosen so that every sum of products
stays below 2⁵³ units. So float64 computes every layer *exactly*, for any batch, order, BLAS or device. The Gram matrices
of such activations and their fixed-point sums are exact too: the masked network is bit-equal to the one of the pooled
data.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from functools import cached_property, lru_cache
from math import ceil, prod
from typing import get_args

import msgspec
import numpy as np
import numpy.typing as npt

from secure_afl.crypto.errors import optional
from secure_afl.crypto.kdf import Label, derive, integer
from secure_afl.crypto.prg import add_keystreams
from secure_afl.errors import DataError, SolveError

with optional():
    import torch
    from torch import Tensor
    from torch.nn import functional

GRID_BITS = 10
_EXACT_BITS = 53  # float64 holds every integer below 2^53
_CONTRAST_FLOOR = 0.1  # added to a squared contrast, so that an empty patch stays empty
_WIDEN_SCALE, _WIDEN_LIMIT = 2.0, 6.0
Weights = npt.NDArray[np.float64]
"""(1 + inputs, outputs), the first row the bias; on the grid of `on_weight_grid`."""


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
    """The mean of each size×size square; incomplete squares at the border are dropped."""

    size: int


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


Layer = Conv | Dense | ReLU | MaxPool | AvgPool | Flatten | Widen
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
    column of ones. positions: rows per sample. outputs: their number. limit: of |input|.
    """

    at: int
    layer: Conv | Dense
    shape: Shape
    inputs: int
    positions: int
    outputs: int
    limit: float


@dataclass(frozen=True)
class Network:
    """Layers from an input shape, (features,) or (channels, height, width), to class scores.

    A trained head with `classes` scores is added after the last layer. Inputs lie in [−1, 1].
    Raises `DataError` if the layers do not fit together.
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
        shape, limit, bounded, found = self.input_shape, 1.0, True, []
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
                found.append(Trained(at, layer, shape, inputs, prod(after[1:]), after[0], largest))
                bounded = False
            elif isinstance(layer, ReLU):
                # Rounding to the grid after the limit can end one step above it.
                limit, bounded = ceil(layer.limit * 2.0**GRID_BITS) / 2.0**GRID_BITS, True
            elif isinstance(layer, Widen | AvgPool):
                if not bounded:
                    raise DataError(f"layer {at}, {layer}: a ReLU must bound its inputs")
                if isinstance(layer, Widen):
                    _check_normalised(at, layer, shape[0], limit)
                    limit = max(limit, _WIDEN_LIMIT)
            shape = after
        return tuple(found)


def _check_normalised(at: int, layer: Layer, inputs: int, limit: float) -> None:
    """Raises `DataError` if the sums in `normalised` could exceed the integers that float64 represents."""
    if (inputs * limit * 2.0**GRID_BITS) ** 2 >= 2.0**_EXACT_BITS:
        raise DataError(
            f"layer {at}, {layer}: {inputs} inputs up to {limit:g} are too many to normalise exactly"
        )


def _shape_after(shape: Shape, layer: Layer, at: int) -> Shape:
    problem = DataError(f"layer {at}, {layer}, does not fit an input of shape {shape}")
    match layer:
        case ReLU(limit):
            if not 0 < limit <= 64:
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
        case Conv(channels, kernel, stride, padding):
            if len(shape) != 3 or min(channels, kernel, stride) < 1 or padding < 0:
                raise problem
            sides = [(side + 2 * padding - kernel) // stride + 1 for side in shape[1:]]
        case MaxPool(size) | AvgPool(size):
            if len(shape) != 3 or size < 1:
                raise problem
            channels, sides = shape[0], [side // size for side in shape[1:]]
    if min(sides) < 1:
        raise problem
    return (channels, *sides)


def to_grid(values: Tensor) -> Tensor:
    """Round to multiples of 2⁻¹⁰, halves to even."""
    return torch.round(values * 2.0**GRID_BITS) / 2.0**GRID_BITS


def on_weight_grid(weights: npt.NDArray[np.float64], limit: float) -> Weights:
    """Round weights to the finest power-of-two grid on which the layer's sums are exact in float64.

    limit: of the layer's inputs. Raises `SolveError` if weights are not finite or too large for any grid.
    """
    bits = _weight_bits(weights, limit) - 1  # one bit is reserved for rounding the weights up
    return np.asarray(np.ldexp(np.rint(np.ldexp(weights, bits)), -bits), dtype=np.float64)


def check_on_grid(weights: npt.NDArray[np.float64], limit: float, *, exact: bool = True) -> None:
    """Raises `DataError` unless a layer with these weights is exact: otherwise it may overflow for some rows only.

    exact: False for a head from noisy sums, which lies on no grid; then only its size is checked.
    """
    try:
        units = np.ldexp(weights, _weight_bits(weights, limit))
    except SolveError as error:
        raise DataError(str(error)) from None
    if exact and (units != np.rint(units)).any():
        raise DataError(
            "expected a layer's weights on the grid on which its sums are exact, some lie between grid points"
        )


def _weight_bits(weights: npt.NDArray[np.float64], limit: float) -> int:
    """The number of fraction bits that weights may have."""
    with np.errstate(over="ignore"):  # an overflow is infinite and refused below
        reach = float(np.abs(weights).sum(axis=0).max()) if weights.size else 0.0
    if not np.isfinite(reach) or reach > 2.0**30:
        raise SolveError(f"a layer's weights are not finite or too large: they sum up to {reach:g}")
    # |Σ h·w| < max(limit, 1)·reach, in units of 2^-(10 + bits).
    size = int(np.ceil(np.log2(max(limit, 1.0) * max(reach, 2.0**-20)))) + 1
    return _EXACT_BITS - GRID_BITS - size


def normalised(rows: Tensor) -> Tensor:
    """Each row minus its mean, divided by √(‖row − mean‖² + 0.1), on the grid and at most 1 in magnitude.

    It depends on no other row. Local contrast normalisation of a patch (Jarrett et al., ICCV 2009). It is exact: the sums
    of integers below stay under 2⁵³ (`Network` ensures it); the rest is rounded value by value.
    """
    n = rows.shape[1]
    total, squares = rows.sum(dim=1, keepdim=True), (rows * rows).sum(dim=1, keepdim=True)
    length = (_divided(n * squares - total * total, n) + _CONTRAST_FLOOR).sqrt()
    return to_grid((rows - _divided(total, n)) / length)


def _divided(values: Tensor, by: int) -> Tensor:
    """Divide by a tensor on the same device: for a plain number CUDA multiplies by 1/number and rounds twice."""
    return values / torch.tensor(by, dtype=values.dtype, device=values.device)


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
    scores = patches(inputs, known.layer) @ weights[1:] + weights[0]
    if isinstance(known.layer, Dense):
        return scores
    _, height, width = _shape_after(known.shape, known.layer, known.at)
    return scores.reshape(len(inputs), height, width, known.outputs).permute(0, 3, 1, 2)


def apply_fixed(values: Tensor, layer: Layer) -> Tensor:
    """The outputs of a layer without weights, back on the grid; float64 in, float64 out."""
    match layer:
        case ReLU(limit):
            return to_grid(values.clamp(0.0, limit))
        case MaxPool(size):
            return functional.max_pool2d(values, size)
        case AvgPool(size):
            # Sums on the grid are exact in any order, so their rounding is the same everywhere.
            return to_grid(_divided(functional.avg_pool2d(values, size, divisor_override=1), size**2))
        case Flatten():
            return values.flatten(1)
        case Widen(units, seed):
            directions = _directions(values.shape[1], units, seed).to(values.device)
            return torch.cat(
                [values, to_grid((normalised(values) @ directions).clamp(0.0, _WIDEN_LIMIT))], dim=1
            )
    raise AssertionError(f"{layer} has weights")


@lru_cache(maxsize=4)
def _directions(inputs: int, units: int, seed: int) -> Tensor:
    """Uniform, (inputs, units), on the weight grid."""
    drawn = uniform(seed.to_bytes(32, "big"), (inputs, units))
    scaled = np.asarray(_WIDEN_SCALE * 3**0.5 * 2.0**-16 * drawn, dtype=np.float64)
    return torch.tensor(on_weight_grid(scaled, limit=1.0))


def uniform(seed: bytes, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Uniform odd integers between ±2¹⁶ from a keystream of a public seed: equal for every party, library and version."""
    count = prod(shape)
    words = np.zeros(-(-count // 4), dtype=np.uint64)
    add_keystreams(words, plus=[derive(seed, Label.RANDOM_FEATURES, *map(integer, shape))])
    drawn = words.astype("<u8").view("<u2")[:count].astype(np.int64)
    return (2 * drawn + 1 - 2**16).reshape(shape)
