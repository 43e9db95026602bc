"""A client's second stream: cosines of the head's inputs beside them, in a head of the client's own.

After APFL (arXiv 2508.10732), whose clients fit random features to what the common model leaves of their labels. Here the
features are cosines that approximate a Gaussian kernel (`Fourier`), as wide as half, or as 0.7, of the median distance of
the client's rows; the head is `own_head` around the common one, which has no weights for cosines. The client takes the
stream where its leave-one-out errors are no more than without. It computes all of this from its own rows and from the
model that all clients were sent. It sends nothing.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from secure_afl.analytic.statistics import Matrix
from secure_afl.models.networks.features import waves
from secure_afl.models.networks.network import Fourier
from secure_afl.models.personal import Adapted
from secure_afl.models.personal_head import own_head

UNITS = 2000
WIDTHS = (0.5**0.5, 0.5)  # in units of the median distance between two rows
# Multiplications of the rows' products; beyond this, as with many rows, a stream takes seconds.
_MOST = 3e9
_WIDEST = 4096  # inputs; beyond this the cosines' directions take gigabytes


def refined_head(
    rows: Matrix, targets: Matrix, anchor: Matrix, labels: npt.NDArray[np.int64], seed: int = 0
) -> tuple[Adapted, Fourier | None]:
    """The client's head with the fewest leave-one-out errors, and the stream beside its inputs; None is `own_head`.

    Parameters as in `own_head`; seed: of the cosines. With a stream the weights are (inputs + `UNITS`, classes). Between
    equals it is the narrower stream. With one label, many rows or many inputs there is none. Raises `DataError` as `own_head` does.
    """
    found: list[tuple[Adapted, Fourier | None]] = [(own_head(rows, targets, anchor, labels), None)]
    padded = np.vstack([anchor, np.zeros((UNITS, anchor.shape[1]))])
    for stream in _streams(rows, seed) if len(np.unique(labels)) > 1 else ():
        found.append((own_head(beside(rows, stream), targets, padded, labels), stream))
    return min(reversed(found), key=lambda one: one[0].error)


def beside(rows: Matrix, stream: Fourier) -> Matrix:
    """The rows, (n, inputs), the first column constant, and the stream's cosines, (n, inputs + units)."""
    wide = waves(torch.from_numpy(rows[:, 1:]), stream.units, stream.width, stream.seed)
    return np.column_stack([rows[:, 0], wide.numpy()])


def _streams(rows: Matrix, seed: int) -> Iterator[Fourier]:
    """Streams to choose from: none for rows that are too many, or most of which are equal."""
    n, inputs = rows.shape
    if n < 2 or inputs > _WIDEST or n * n * (inputs + UNITS) > _MOST:
        return
    lengths = (rows * rows).sum(axis=1)
    squares = (lengths[:, None] + lengths - 2 * rows @ rows.T)[np.triu_indices(n, 1)]
    median = float(np.median(squares)) ** 0.5 if np.median(squares) > 2.0**-20 else 0.0
    for share in WIDTHS:
        if median:
            yield Fourier(UNITS, share * median, seed)
