"""Group clients with similar labels, from counts alone.

The classes, in their agreed order, are cut into as many runs as there are groups. Each client finds the run that holds
most of its rows, and one masked sum counts the clients of every run. A public rule joins runs with too few clients to
hide one of them to a neighbouring run. Nothing else about labels leaves a client before the statistics do.

Two earlier designs revealed more:

- One masked sum of histograms for every group and step of k-means shows which client changes its group
  (`test_iterated_sums_give_away_who_moved`).
- The sum of the histograms' outer products, from which a server can draw clients like the real ones, shows every
  client's histogram (`test_second_moments_give_away_histograms`).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from secure_afl.analytic.statistics import Matrix
from secure_afl.errors import DataError
from secure_afl.protocol.session.parameters import SumPlan

Run = tuple[int, ...]
"""Indices of neighbouring classes."""


def runs(classes: int, groups: int) -> list[Run]:
    """Classes 0 to `classes` - 1 in `groups` runs of nearly equal length, longer ones first.

    Raises `DataError` for more groups than classes.
    """
    if groups > classes:
        raise DataError(f"expected at most {classes} groups, one for each class, got {groups}")
    return [tuple(run.tolist()) for run in np.array_split(np.arange(classes), groups)]


def plan(groups: int, survivors: int) -> SumPlan:
    """The sum that counts clients. survivors: fewest clients in it.

    The later statistics must be over the same clients; otherwise the two sums would reveal a missing client's group.
    """
    return SumPlan(
        f"clients in {groups} groups",
        groups,
        bound=1.0,
        survivors=survivors,
        same_survivors=True,
    )


def own(places: npt.NDArray[np.int64], groups: Sequence[Run]) -> int:
    """The run with most of a client's rows, the first in a tie. places: the class index of each row."""
    counts = np.bincount(places, minlength=sum(map(len, groups)))
    return int(np.argmax([counts[list(run)].sum() for run in groups]))


def count(group: int, groups: int) -> Matrix:
    """A client's contribution to the count: 1 at its group, otherwise 0."""
    return np.asarray(np.arange(groups) == group, dtype=np.float64)


def joined(sizes: Matrix, least: int) -> list[int]:
    """The group of each run, such that every group has at least `least` clients, unless only one group remains.

    While a group is too small, the smallest group joins the smaller of its neighbours; in a tie, the first. Every client
    computes this itself, but wrong sizes reported by the server can make a group smaller than it seems.
    """
    groups = [[run] for run in range(len(sizes))]
    clients = [float(size) for size in sizes]
    while len(groups) > 1 and min(clients) < least:
        small = clients.index(min(clients))
        neighbours = [other for other in (small - 1, small + 1) if 0 <= other < len(groups)]
        first, second = sorted([small, min(neighbours, key=lambda other: clients[other])])
        groups[first] += groups.pop(second)
        clients[first] += clients.pop(second)
    return [next(number for number, group in enumerate(groups) if run in group) for run in range(len(sizes))]
