"""Groups as they were once found, from second moments of the clients' label histograms: a design that gives them away."""

import itertools

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans

from secure_afl.analytic.statistics import Matrix, symmetric, upper
from secure_afl.protocol.session.parameters import SumPlan

_CROWD = 4096


def slots(survivors: int) -> SumPlan:
    """Statistics, each client's in the slot of its group."""
    return SumPlan("slots", 9, bound=1.0, survivors=survivors, same_survivors=True, trusts_server=True)


def histogram(indices: npt.NDArray[np.int64], classes: int) -> Matrix:
    """The fractions of a client's rows with each label, on a grid of 2⁻²⁰."""
    return np.asarray(np.rint(np.bincount(indices, minlength=classes) / len(indices) * 2.0**20) / 2.0**20)


def moments(own: Matrix) -> Matrix:
    """A client's term: histogram ‖ upper triangle of its outer product ‖ 1."""
    return np.concatenate([own, *upper(np.outer(own, own)), [1.0]])


def read_histograms(total: Matrix, classes: int) -> list[Matrix]:
    """The histograms of clients with two labels each, no two clients with the same two, out of the sum of moments."""
    second, left = symmetric(total[classes:-1], classes), total[:classes]
    pairs = [pair for pair in itertools.combinations(range(classes), 2) if second[pair] > 1e-9]
    roots = np.array([(1 + np.sqrt(max(0.0, 1 - 4 * second[pair]))) / 2 for pair in pairs])
    best, distance = np.zeros(len(pairs)), np.inf
    for flips in itertools.product([False, True], repeat=len(pairs)):
        shares = np.where(flips, roots, 1 - roots)
        sums = np.zeros(classes)
        for (first, other), share in zip(pairs, shares, strict=True):
            sums[first] += share
            sums[other] += 1 - share
        if (off := float(np.abs(sums - left).max())) < distance:
            best, distance = shares, off
    found = []
    for (first, other), share in zip(pairs, best, strict=True):
        one = np.zeros(classes)
        one[[first, other]] = share, 1 - share
        found.append(one)
    return found


def assigned(own: list[Matrix], groups: int, least: int, seed: int) -> list[int]:
    """Each client's group: k-means on a crowd with the clients' mean and covariance, while a group is too small
    without the smallest.
    """
    classes, total = len(own[0]), np.sum([moments(one) for one in own], axis=0)
    mean = total[:classes] / total[-1]
    covariance = symmetric(total[classes:-1] / total[-1], classes) - np.outer(mean, mean)
    values, vectors = np.linalg.eigh(covariance)
    normal = np.random.default_rng(seed).standard_normal((_CROWD, classes)) * np.sqrt(values.clip(0.0))
    crowd = (mean + normal @ vectors.T).clip(0.0)
    crowd /= crowd.sum(axis=1, keepdims=True)
    centres = KMeans(groups, n_init=4, random_state=seed).fit(crowd).cluster_centers_
    while True:
        nearest = [int(np.argmin(((centres - one) ** 2).sum(axis=1))) for one in own]
        sizes = np.bincount(nearest, minlength=len(centres))
        if len(centres) == 1 or sizes.min() >= least:
            return nearest
        centres = (
            centres[sizes > 0] if (sizes == 0).any() else np.delete(centres, int(sizes.argmin()), axis=0)
        )
