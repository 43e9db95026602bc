"""Groups of clients with similar labels. **The server can compute every client's label histogram.**

One masked sum gives the mean and the covariance of the clients' label histograms. Where clients have few labels, or
there are no more clients than classes, the second moments HᵀH determine the histograms H themselves
(`test_second_moments_give_every_label_histogram_away`), so a policy must allow it (`reveals_label_histograms`).
Only which histogram is whose stays hidden, and so does the group of a client. The server draws a public
crowd with these moments and runs k-means on the crowd, not on the clients. A client finds its nearest
centroid by itself. Masked counts then tell how many clients each group has, and a group that is too small to
hide its members is dissolved.

K-means on the clients themselves, one masked sum of histograms per group and step, gives them away: when one
client changes its group between two steps, the two sums differ by its histogram, exactly
(`test_iterated_sums_give_away_who_moved`).
"""

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans

from secure_afl.analytic.statistics import Matrix, symmetric, upper
from secure_afl.protocol.session.errors import PolicyError
from secure_afl.protocol.session.parameters import SumPlan

_GRID = 2.0**20  # histograms in units of 2^-20, so that their products and sums are exact
_CROWD = 4096


def plan(classes: int, groups: int, survivors: int) -> list[SumPlan]:
    """The sums: the moments once, then the counts of `groups`, and of fewer as often as needed.

    survivors: how many clients each must include. All are over the same clients: a count that lacked one who
    was in the count before would tell that client's group.
    """
    length = classes + classes * (classes + 1) // 2 + 1
    counts = [
        SumPlan(
            f"clients in {left} groups",
            groups,
            bound=1.0,
            survivors=survivors,
            same_survivors=True,
            trusts_server=True,
        )
        for left in range(groups, 1, -1)
    ]
    moments = SumPlan(
        "label moments",
        length,
        bound=1.0,
        fraction_bits=40,
        survivors=survivors,
        same_survivors=True,
        reveals_label_histograms=True,
    )
    return [moments, *counts]


def histogram(places: npt.NDArray[np.int64], classes: int) -> Matrix:
    """The fractions of a client's rows with each label, on a grid of 2⁻²⁰."""
    return _on_grid(np.bincount(places, minlength=classes) / len(places))


def moments(own: Matrix) -> Matrix:
    """A client's term of the first sum: histogram ‖ upper triangle of its outer product ‖ 1."""
    return np.concatenate([own, *upper(np.outer(own, own)), [1.0]])


def centroids(total: Matrix, classes: int, groups: int, seed: int) -> Matrix:
    """k-means on a public crowd with the clients' mean and covariance: (groups, classes), on the grid."""
    clients = total[-1]
    mean = total[:classes] / clients
    covariance = symmetric(total[classes:-1] / clients, classes) - np.outer(mean, mean)
    if covariance.max() <= 0:  # all alike: one centroid stands for all, and k-means would warn
        return _on_grid(mean[None])
    values, vectors = np.linalg.eigh(covariance)
    draws = np.random.default_rng(seed)  # public: it shapes groups and guards no secret
    normal = draws.standard_normal((_CROWD, classes)) * np.sqrt(values.clip(0.0))
    crowd = (mean + normal @ vectors.T).clip(0.0)
    crowd /= crowd.sum(axis=1, keepdims=True)
    found = KMeans(groups, n_init=4, random_state=seed).fit(crowd).cluster_centers_
    return _on_grid(found)


def nearest(own: Matrix, centres: Matrix) -> int:
    """The group of a client with this histogram."""
    return int(np.argmin(((centres - own) ** 2).sum(axis=1)))


def count(group: int, groups: int) -> Matrix:
    """A client's term of a count: 1 at its group."""
    return np.asarray(np.arange(groups) == group, dtype=np.float64)


def dissolved(centres: Matrix, sizes: Matrix) -> Matrix:
    """The centroids without those of empty groups, or else without that of the smallest."""
    if (sizes == 0).any():
        return centres[sizes > 0]
    return np.delete(centres, int(np.argmin(sizes)), axis=0)


def check_sizes(sizes: Matrix, least: int) -> None:
    """What a client asks before it puts anything into a slot. Raises `PolicyError`.

    The server reports the sizes: this protects from a server that keeps to the protocol. Under the active
    profile plans with groups are refused, unless the policy takes reports as true (`trusts_reports`).
    """
    if len(sizes) > 1 and sizes.min() < least:
        raise PolicyError(
            f"expected groups of at least {least} clients, the server reports one of {sizes.min():g}"
        )


def _on_grid(values: Matrix) -> Matrix:
    return np.asarray(np.rint(values * _GRID) / _GRID)
