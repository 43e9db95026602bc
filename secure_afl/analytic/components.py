"""Principal components of pooled rows, from their moments."""

from dataclasses import dataclass

import numpy as np

from secure_afl.analytic.moments import Moments
from secure_afl.analytic.statistics import Matrix
from secure_afl.errors import DataError, SolveError


@dataclass(frozen=True, eq=False)
class Components:
    """features: names of the d columns; mean (d,), scale (d,): what is taken away from a row, and divides it.

    directions: (k, d), of norm 1, the entry of the largest magnitude positive; variances: (k,), of the rows along each,
    over n − 1, falling; shares: (k,), of the variance of all columns.
    """

    features: tuple[str, ...]
    mean: Matrix
    scale: Matrix
    directions: Matrix
    variances: Matrix
    shares: Matrix


def principal_components(
    moments: Moments, number: int | None = None, *, standardise: bool = False
) -> Components:
    """The first principal components, all that rows can have by default.

    standardise: whether columns are divided by their standard deviations; constant ones are left as they are.
    Raises DataError for a number that is not from 1 to that of columns, SolveError for fewer rows, or fewer than 2.
    """
    d, n = len(moments.mean), moments.rows
    if number is not None and (type(number) is not int or not 1 <= number <= d):
        raise DataError(f"expected from 1 to {d} components of {d} columns, got {number!r}")
    if n < max(2, number or 1):
        raise SolveError(
            f"expected at least {max(2, number or 1)} rows for principal components, got n_samples = {n}"
        )
    # A row's weight counts relative to the mean weight.
    covariance = moments.scatter / moments.weight * n / (n - 1)
    scale = np.ones(d)
    if standardise:
        scale[moments.used] = np.sqrt(covariance.diagonal()[moments.used])
        covariance = covariance / scale / scale[:, None]
    values, vectors = np.linalg.eigh(covariance)
    values, directions = np.maximum(values[::-1], 0.0), vectors.T[::-1]
    largest = abs(directions).argmax(axis=1)
    directions = directions * np.sign(directions[np.arange(d), largest])[:, None]
    kept, total = number or min(n, d), float(values.sum())
    shares = values / total if total > 0 else np.zeros(d)
    return Components(moments.features, moments.mean, scale, directions[:kept], values[:kept], shares[:kept])
