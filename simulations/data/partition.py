"""Divide rows among clients: by the sites of the data, or by one of the usual partitions of a single data set."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_afl.errors import DataError
from secure_afl.simulations.data.dataset import Dataset, Floats, Ints

FORMS = """\
  site         one client for each site that the data name
  iid          equal sizes, rows at random
  dirichlet:A  equal sizes, labels skewed by Dirichlet(A, ..., A), A from 0 to 999999; smaller is more skewed
  labels:K     K labels a client
  uneven:A     sizes falling as 1, 2^-A, 3^-A, ..., rows at random, A likewise"""


@dataclass(frozen=True, eq=False)
class Part:
    """One client's rows of a Dataset: int64 indices, sorted; raises DataError if it could not train."""

    client: str
    train: Ints
    test: Ints

    def __post_init__(self) -> None:
        if not self.train.size:
            raise DataError(f"{self.client} gets no row to train on: ask for fewer clients or less skew")


def stacked(held: Mapping[str, Ints]) -> tuple[Ints, NDArray[np.str_]]:
    """All clients' rows one after another, and the name of each one's client."""
    return np.concatenate(list(held.values())), np.repeat(list(held), [len(rows) for rows in held.values()])


def default_spec(data: Dataset) -> str:
    """`site` where the data name sites, else `iid`."""
    return "iid" if data.site is None else "site"


def partition(data: Dataset, spec: str, clients: int | None, seed: int) -> list[Part]:
    """Give every row of `data` to one client, three quarters to train and one to test, split label by label; or
    those to test that the data hold out.

    spec: one of FORMS. clients: how many; None is 10, or all sites. A seed fixes the result.
    `dirichlet` is Hsu et al. 2019 (arXiv 1909.06335): equal sizes, label proportions of a client drawn from
    Dirichlet(A, ..., A), without replacement. `labels` is McMahan et al. 2017 as in pFedMe: client j holds
    the labels (j + u) mod classes, u < K, in log-normal shares. Two rows or more always give a test row.
    Raises `DataError` for an unknown spec, a client without rows, or labels that no client would hold.
    """
    kind, _, text = spec.partition(":")
    number = float(text) if re.fullmatch(r"[0-9]{1,6}(\.[0-9]+)?", text) else 0.0
    whole = kind == "labels" and number.is_integer()
    if spec not in ("site", "iid") and not (number > 0 and (whole or kind in ("dirichlet", "uneven"))):
        raise DataError(f"unknown partition {spec!r}; the forms are\n{FORMS}")
    rng = np.random.default_rng(seed)  # it makes an experiment repeatable and protects no secret
    if kind == "site":
        if data.site is None:
            raise DataError(f"{data.name} names no sites: use iid, dirichlet:A, labels:K or uneven:A")
        names, owner = np.unique(data.site, return_inverse=True)
        if clients not in (None, len(names)):
            raise DataError(f"{data.name} has {len(names)} sites, not {clients}: leave out how many clients")
    else:
        clients = 10 if clients is None else clients
        if not 1 <= clients <= len(data.y):
            raise DataError(f"{clients} clients cannot share {len(data.y)} rows: ask for 1 to {len(data.y)}")
        names = np.array([f"client-{j:0{max(3, len(str(clients - 1)))}}" for j in range(clients)])
        if data.target and kind in ("dirichlet", "labels"):
            raise DataError(f"{data.name} has a number to predict, and no labels: use site, iid or uneven:A")
        label = data.y  # counts: how many rows of each label each client gets, int64 (clients, classes)
        if kind == "dirichlet":
            counts = _dirichlet(data, clients, number, rng)
        elif kind == "labels":
            counts = _labels(data, clients, int(number), rng)
        else:  # labels do not matter; iid is uneven:0
            label = np.zeros(len(data.y), np.int64)
            counts = _sizes(len(label), np.arange(1, clients + 1, dtype=np.float64) ** -number)[:, None]
        owner = np.empty(len(label), np.int64)
        for i, count in enumerate(counts.T):
            owner[label == i] = rng.permutation(np.repeat(np.arange(clients), count))
    parts = []
    for j, who in enumerate(names):
        rows = np.flatnonzero(owner == j)
        if data.held_out is None:
            parts.append(Part(str(who), *split(data.y, rows, rng)))
        else:
            out = data.held_out[rows]
            parts.append(Part(str(who), rows[~out], rows[out]))
    return parts


def split(
    y: NDArray[Any], rows: Ints, rng: np.random.Generator, test_fraction: float = 0.25
) -> tuple[Ints, Ints]:
    """Divide `rows` of `y` (labels or numbers) into train and test, both sorted; from two rows on, neither is empty."""
    n = len(rows)
    count = min(max(round(n * test_fraction), 1), n - 1) if n > 1 else 0
    rows = rng.permutation(rows)
    rows = rows[np.argsort(y[rows], kind="stable")]
    # Evenly spaced picks from rows sorted by label: every label comes within one row of its share.
    picks = (np.arange(count) * n + rng.integers(max(n, 1))) // max(count, 1)
    return np.sort(np.delete(rows, picks)), np.sort(rows[picks])


def _sizes(rows: int, weights: Floats) -> Ints:
    """Shares of a number of rows in proportion to `weights`, beyond 2 rows for each where there are enough."""
    least = min(2, rows // len(weights))
    ends = np.rint(np.cumsum(weights) / weights.sum() * (rows - least * len(weights))).astype(np.int64)
    return np.asarray(np.diff(ends, prepend=0) + least, np.int64)


def _dirichlet(data: Dataset, clients: int, concentration: float, rng: np.random.Generator) -> Ints:
    left = np.bincount(data.y, minlength=len(data.classes))
    counts = np.zeros((clients, len(left)), np.int64)
    for row, size in zip(counts, _sizes(len(data.y), np.ones(clients)), strict=True):
        wish = rng.dirichlet(np.full(len(left), concentration))
        while (need := size - row.sum()) > 0:
            # A label that has run out passes its share on; if none of the wish is left, take what there is.
            share = wish * (left > 0) if (wish[left > 0] > 0).any() else left.astype(np.float64)
            drawn = np.minimum(rng.multinomial(need, share / share.sum()), left)
            row += drawn
            left -= drawn
    return counts


def _labels(data: Dataset, clients: int, each: int, rng: np.random.Generator) -> Ints:
    classes = len(data.classes)
    if nobody := data.classes[clients + each - 1 :]:
        raise DataError(
            f"labels:{each} needs {classes - each + 1} clients: no client holds {', '.join(nobody)}"
        )
    counts = np.zeros((clients, classes), np.int64)
    for label, total in enumerate(np.bincount(data.y, minlength=classes)):
        holders = np.flatnonzero((label - np.arange(clients)) % classes < each)
        counts[holders, label] = _sizes(total, rng.lognormal(size=len(holders)))
    return counts
