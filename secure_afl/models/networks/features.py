"""Layers without weights: public functions of one sample, exact on the grid, so bit-equal on every device.

A sample's features depend on no other sample and on no party, so they cost no sum and need no trust.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import cos, pi, prod

import numpy as np
import numpy.typing as npt

from secure_afl.crypto.errors import optional
from secure_afl.crypto.kdf import Label, derive, integer
from secure_afl.crypto.prg import add_keystreams
from secure_afl.models.networks.grid import (
    EXACT_BITS,
    GRID_BITS,
    Weights,
    divided,
    on_weight_grid,
    to_grid,
    uniform,
)

with optional():
    import torch
    from torch import Tensor
    from torch.nn import functional

CONTRAST_FLOOR = 0.1  # added to a squared contrast, so that an empty patch stays empty
WIDEN_LIMIT = 6.0
_WIDEN_SCALE = 2.0
LARGEST = 64.0  # |activation|, see `ReLU`
MASS_BITS = 7  # brightness is weighed in steps of 2⁻⁷, the bytes of a picture from −1 to 1
_STEEPEST = 1.0  # of a slant, pixels a row
_PHASES = 2**14  # a turn's steps; half a step changes a cosine by less than half a grid step


def normalised(rows: Tensor) -> Tensor:
    """Each row minus its mean, divided by √(‖row − mean‖² + 0.1), on the grid and at most 1 in magnitude.

    Local contrast normalisation of a patch (Jarrett et al., ICCV 2009). It is exact: the sums of integers below stay under
    2⁵³ (`exactly_normalised`); the rest is rounded value by value.
    """
    total, squares = rows.sum(dim=1, keepdim=True), (rows * rows).sum(dim=1, keepdim=True)
    return by_contrast(rows, total, squares)


def by_contrast(rows: Tensor, total: Tensor, squares: Tensor) -> Tensor:
    """`normalised` rows (n, values, …), given the sums of their values and of their squares, (n, 1, …)."""
    n = rows.shape[1]
    length = (divided(n * squares - total * total, n) + CONTRAST_FLOOR).sqrt()
    # In grid units at once: scaling a divisor by a power of two is exact. Large: one temporary, changed in place.
    units = (rows - divided(total, n)).div_(length * 2.0**-GRID_BITS)
    return units.round_().mul_(2.0**-GRID_BITS)


def exactly_normalised(inputs: int, limit: float) -> bool:
    """Whether the sums in `normalised` are integers that float64 represents."""
    return (inputs * limit * 2.0**GRID_BITS) ** 2 < 2.0**EXACT_BITS


def widened(rows: Tensor, units: int, seed: int) -> Tensor:
    """The rows, and beside them `units` rectified projections of the normalised rows; see `Widen`."""
    directions = _directions(rows.shape[1], units, seed).to(rows.device)
    return torch.cat([rows, to_grid((normalised(rows) @ directions).clamp(0.0, WIDEN_LIMIT))], dim=1)


@lru_cache(maxsize=4)
def _directions(inputs: int, units: int, seed: int) -> Tensor:
    """Uniform, (inputs, units), on the weight grid."""
    drawn = uniform(seed.to_bytes(32, "big"), (inputs, units))
    scaled = np.asarray(_WIDEN_SCALE * 3**0.5 * 2.0**-16 * drawn, dtype=np.float64)
    return torch.tensor(on_weight_grid(scaled, limit=1.0))


def waves(rows: Tensor, units: int, width: float, seed: int) -> Tensor:
    """The rows, and beside them `units` cosines of random projections; see `Fourier`.

    A projection is an exact number of turns. Its fraction is rounded to 2⁻¹⁴ turns and looked up in a table, as libraries
    differ in the last bits of a cosine: no entry of the table is so near halfway between two grid points that this could
    matter (`tests/models/networks/test_features.py`).
    """
    drawn = torch.tensor(wave_directions(rows.shape[1], units, width, seed), device=rows.device)
    turns = rows @ drawn[1:] + drawn[0]
    phases = torch.round((turns - torch.floor(turns)) * _PHASES).to(torch.int64) % _PHASES
    return torch.cat([rows, _cosines().to(rows.device)[phases]], dim=1)


@lru_cache(maxsize=4)
def wave_directions(inputs: int, units: int, width: float, seed: int) -> Weights:
    """Turns a unit of input, (1 + inputs, units), the first row offsets: sums of four uniform draws are nearly normal."""
    drawn = uniform(seed.to_bytes(32, "big"), (1 + inputs, units, 4))
    normal = drawn[1:].sum(axis=2) * (3**0.5 / 2 * 2.0**-16)  # standard deviation 1
    offsets = drawn[0, :, 0] * 2.0**-17
    return on_weight_grid(np.vstack([offsets, normal / (2 * pi * width)]), LARGEST)


@lru_cache(maxsize=1)
def _cosines() -> Tensor:
    return torch.tensor(np.rint(np.ldexp(cosines(), GRID_BITS)) / 2.0**GRID_BITS)


def cosines() -> npt.NDArray[np.float64]:
    """cos of every step of a turn, not rounded."""
    return np.array([cos(2 * pi * step / _PHASES) for step in range(_PHASES)])


def sparse(rows: Tensor, groups: int, bits: int, levels: int, low: float, high: float, seed: int) -> Tensor:
    """0 and 1, (rows, groups·2^bits): which of the 2^bits patterns each group of comparisons shows; see `Sparse`."""
    thresholds = [low + (high - low) * (step + 1) / (levels + 1) for step in range(levels)]
    compared = torch.cat([rows > threshold for threshold in thresholds], dim=1)
    chosen = _shuffled(compared.shape[1], groups * bits, seed).to(rows.device)
    found = compared[:, chosen].reshape(len(rows), groups, bits).to(torch.int64)
    patterns = (found << torch.arange(bits, device=rows.device)).sum(dim=2)
    return functional.one_hot(patterns, 2**bits).reshape(len(rows), -1).to(torch.float64)


@lru_cache(maxsize=4)
def _shuffled(count: int, wanted: int, seed: int) -> Tensor:
    """`wanted` indices below `count`: shuffled runs of all of them, one after another."""
    runs = -(-wanted // count)
    words = np.zeros(runs * count, dtype=np.uint64)
    key = derive(seed.to_bytes(32, "big"), Label.RANDOM_FEATURES, integer(count), integer(wanted))
    add_keystreams(words, plus=[key])
    return torch.tensor(words.reshape(runs, count).argsort(axis=1, kind="stable").ravel()[:wanted])


def deskewed(images: Tensor) -> Tensor:
    """Each image moved so that its centre of brightness is in the middle, and sheared upright, row against row.

    Brightness counts from the image's darkest value. With moments M about its centre the slant is M_xy/M_yy pixels a row,
    at most 1; both come from sums of integers below 2⁵³ (`exactly_deskewed`) and one division each, rounded to the grid.
    Between pixels values are interpolated linearly, exactly, and rounded to the grid; outside is the darkest value.
    images: (samples, channels, height, width), float64 on the grid.
    """
    height, width = images.shape[2:]
    darkest = images.amin(dim=(1, 2, 3), keepdim=True)
    mass = torch.round((images - darkest) * 2.0**MASS_BITS).sum(dim=1)
    # Coordinates from a pixel near the middle: small integers.
    y = torch.arange(height, dtype=torch.float64, device=images.device) - (height - 1) // 2
    x = torch.arange(width, dtype=torch.float64, device=images.device) - (width - 1) // 2
    rows, skewed = mass.sum(dim=2), (mass * x).sum(dim=2)
    total, of_y, of_x = rows.sum(dim=1), (rows * y).sum(dim=1), skewed.sum(dim=1)
    tall = total * (rows * y * y).sum(dim=1) - of_y * of_y
    slanted = total * (skewed * y).sum(dim=1) - of_y * of_x
    slant = to_grid(_ratio(slanted, tall).clamp(-_STEEPEST, _STEEPEST))
    down = to_grid(_ratio(of_y, total)) - (height - 1) % 2 / 2
    right = to_grid(_ratio(of_x, total)) - (width - 1) % 2 / 2
    # An empty image stays where it is.
    down, right = (torch.where(total > 0, moved, 0.0) for moved in (down, right))
    middle = torch.arange(height, dtype=torch.float64, device=images.device) - (height - 1) / 2
    moved = _moved(images, down[:, None].expand(-1, width), darkest)
    shears = right[:, None] + slant[:, None] * middle
    return to_grid(_moved(moved.transpose(2, 3), shears, darkest).transpose(2, 3))


def exactly_deskewed(shape: Sequence[int], limit: float) -> bool:
    """Whether the sums in `deskewed` are integers that float64 represents; for images (channels, height, width)."""
    mass = prod(shape) * 2 * limit * 2.0**MASS_BITS
    return (mass * max(shape[1:])) ** 2 < 2.0**EXACT_BITS


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below > 0, above / below.clamp_min(1.0), 0.0)


def _moved(images: Tensor, by: Tensor, outside: Tensor) -> Tensor:
    """images (n, c, length, lines): line j of sample i read `by[i, j]` further along its length, interpolated linearly."""
    length = images.shape[2]
    whole = torch.floor(by)
    part = (by - whole)[:, None, None, :]
    at = torch.arange(length, device=images.device)[:, None] + whole.to(torch.int64)[:, None, None, :]

    def read(index: Tensor) -> Tensor:
        found = images.gather(2, index.clamp(0, length - 1).expand(images.shape))
        return torch.where((index >= 0) & (index < length), found, outside)

    return (1 - part) * read(at) + part * read(at + 1)
