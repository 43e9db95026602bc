"""Numbers on which float64 computes without rounding, and public draws that are equal for every party.

Activations lie on a grid of 2⁻¹⁰. Weights lie on a grid chosen so that every sum of products stays below 2⁵³ units.
"""

from math import prod

import numpy as np
import numpy.typing as npt

from secure_afl.crypto.errors import optional
from secure_afl.crypto.kdf import Label, derive, integer
from secure_afl.crypto.prg import add_keystreams
from secure_afl.errors import DataError, SolveError

with optional():
    import torch
    from torch import Tensor

GRID_BITS = 10
EXACT_BITS = 53  # float64 holds every integer below 2^53
Weights = npt.NDArray[np.float64]
"""(1 + inputs, outputs), the first row the bias; on the grid of `on_weight_grid`."""


def to_grid(values: Tensor) -> Tensor:
    """Round to multiples of 2⁻¹⁰, halves to even."""
    return (values * 2.0**GRID_BITS).round_().mul_(2.0**-GRID_BITS)


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
    return EXACT_BITS - GRID_BITS - size


def divided(values: Tensor, by: int) -> Tensor:
    """Divide by a tensor on the same device: for a plain number CUDA multiplies by 1/number and rounds twice."""
    return values / torch.tensor(by, dtype=values.dtype, device=values.device)


def uniform(seed: bytes, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Uniform odd integers between ±2¹⁶ from a keystream of a public seed: equal for every party, library and version."""
    count = prod(shape)
    words = np.zeros(-(-count // 4), dtype=np.uint64)
    add_keystreams(words, plus=[derive(seed, Label.RANDOM_FEATURES, *map(integer, shape))])
    drawn = words.astype("<u8").view("<u2")[:count].astype(np.int64)
    return (2 * drawn + 1 - 2**16).reshape(shape)
