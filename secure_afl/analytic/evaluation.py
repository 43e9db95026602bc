"""How good predictions are on rows that nothing was learned from, beside what guessing reaches.

The definitions are scikit-learn's. What a classifier says of a class is taken for the probability of that class: with two
classes half of one more than the difference of their scores, else the score. Least squares may say less than 0 or more
than 1; Brier score and calibration count that as 0 and 1, nothing else does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from secure_afl.errors import DataError

CALIBRATION = 10  # parts of [0, 1]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class OfClass:
    """One class against all others; None where it has no rows, or is never predicted. rows: that have it."""

    name: str
    rows: int
    recall: float | None
    precision: float | None
    auc: float | None
    brier: float


@dataclass(frozen=True)
class Said:
    """Rows of which about the same probability was said, from low to high: how many, its mean, and how often it was so."""

    low: float
    high: float
    rows: int
    said: float
    observed: float


@dataclass(frozen=True)
class Classified:
    """Figures of a classifier. majority: the accuracy of guessing the largest class; balanced_accuracy, auc, brier: means over
    classes with rows. calibration: with two classes of the second, else of all, where a row counts once for each.
    """

    rows: int
    accuracy: float
    majority: float
    balanced_accuracy: float
    auc: float | None
    brier: float
    by_class: tuple[OfClass, ...]
    calibration: tuple[Said, ...]


@dataclass(frozen=True)
class Measured:
    """Figures of a regression, in the outcome's unit. guess_rmse: of guessing the mean of these rows; r2: None if all are equal."""

    rows: int
    rmse: float
    mae: float
    guess_rmse: float
    r2: float | None


def classified(truth: npt.NDArray[Any], scores: Floats, classes: Sequence[str]) -> Classified:
    """truth: place in `classes` of each row (rows,); scores (rows, classes). Raises `DataError` without rows."""
    _check(truth, scores)
    said = probabilities(scores)
    guess = scores.argmax(axis=1)
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (truth, guess), 1)
    areas, briers = [], []
    for place in range(len(classes)):
        own = truth == place
        _, at = np.unique(said[:, place], return_inverse=True)
        positive = np.bincount(at, own)
        areas.append(area(positive, np.bincount(at) - positive))
        briers.append(float(((said[:, place].clip(0, 1) - own) ** 2).mean()))
    shown = range(1, 2) if len(classes) == 2 else range(len(classes))
    values = np.concatenate([said[:, place].clip(0, 1) for place in shown])
    own = np.concatenate([truth == place for place in shown])
    part = np.minimum((values * CALIBRATION).astype(np.int64), CALIBRATION - 1)
    calibration = [
        Said(
            one / CALIBRATION,
            (one + 1) / CALIBRATION,
            int(mine.sum()),
            float(values[mine].mean()),
            float(own[mine].mean()),
        )
        for one in range(CALIBRATION)
        if (mine := part == one).any()
    ]
    return of_counts(confusion, areas, briers, classes, calibration)


def of_counts(
    confusion: Ints,
    areas: Sequence[float | None],
    briers: Sequence[float],
    classes: Sequence[str],
    calibration: Sequence[Said],
) -> Classified:
    """confusion: rows of each class (first axis) by what was predicted. areas, briers: of each class."""
    rows = int(confusion.sum())
    sizes, guesses, hits = confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal()
    by_class = tuple(
        OfClass(name, int(size), _part(hit, size), _part(hit, guess), auc, brier)
        for name, size, guess, hit, auc, brier in zip(
            classes, sizes, guesses, hits, areas, briers, strict=True
        )
    )
    there = [one for one in by_class if one.rows]
    known = [one.auc for one in there if one.auc is not None]
    return Classified(
        rows,
        int(hits.sum()) / rows,
        int(sizes.max()) / rows,
        fmean(one.recall for one in there if one.recall is not None),
        fmean(known) if known else None,
        fmean(one.brier for one in there),
        by_class,
        tuple(calibration),
    )


def measured(truth: npt.NDArray[Any], predicted: Floats) -> Measured:
    """Both (rows,). Raises `DataError` without rows."""
    _check(truth, predicted)
    off = predicted - truth
    squares = float(off @ off)
    around = truth - truth.mean()
    return of_sums(len(truth), squares, float(abs(off).sum()), float(around @ around))


def of_sums(rows: int, squares: float, absolute: float, around: float) -> Measured:
    """Sums over rows of squared and absolute errors, and of squared distances from the mean."""
    return Measured(
        rows,
        math.sqrt(squares / rows),
        absolute / rows,
        math.sqrt(around / rows),
        1 - squares / around if around > 0 else None,
    )


def probabilities(scores: Floats) -> Floats:
    """What scores (rows, classes) say of each class, before it is cut to [0, 1]."""
    if scores.shape[1] != 2:
        return scores
    second = (1 + scores[:, 1] - scores[:, 0]) / 2
    return np.column_stack([1 - second, second])


def area(positive: npt.NDArray[Any], negative: npt.NDArray[Any]) -> float | None:
    """The area under the ROC curve, from how many rows of either kind have each score, in rising order; equal ones count
    half. None if there are no rows of one kind.
    """
    ones, zeros = np.asarray(positive, np.float64), np.asarray(negative, np.float64)
    pairs = float(ones.sum() * zeros.sum())
    below = np.cumsum(zeros) - zeros
    return float(ones @ (below + zeros / 2)) / pairs if pairs else None


def _part(hits: np.int64, whole: np.int64) -> float | None:
    return int(hits) / int(whole) if whole else None


def _check(truth: npt.NDArray[Any], predicted: Floats) -> None:
    if not len(truth) or len(truth) != len(predicted):
        raise DataError(f"expected rows with a prediction each, got {len(truth)} and {len(predicted)}")
