"""How good a model is on the held-out rows of all sites, out of a secure sum: no site's figures are seen.

A first sum tells how many sites have enough rows. Of too few, the second one would be a site's own figures.

Sites add up counts: rows of each class by what was predicted for them, and rows with and without each class by what was
said of it, in 64 bins. So accuracy, recall and precision are exact, and the area under the ROC curve is known within a
bound that follows from the same counts. Of a number they add up errors and squared errors, in parts of its range.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from secure_afl.analytic.evaluation import (
    CALIBRATION,
    Classified,
    Measured,
    Said,
    area,
    of_counts,
    of_sums,
    probabilities,
)
from secure_afl.errors import DataError
from secure_afl.models.estimator import parse_features, parse_labels, rows_by_site
from secure_afl.protocol.session.parameters import SumPlan
from secure_afl.sums.aggregation import Aggregator

Floats = npt.NDArray[np.float64]
BINS = 64
_LOW, _HIGH = -0.5, 1.5  # least squares may say less than 0 and more than 1; the outer bins have no other end
_SUM_BITS = 58
_FEWEST_SITES = 3  # of a class: without one of them there is still a mix of two


class Evaluated(NamedTuple):
    """figures: of all sites' rows; auc_error: how far areas may be from those of the rows, for each class; cut: rows whose
    error is larger than the outcome's range, and counts as that. survivors: the sites in the sum; least_rows: see `HeldOut`.
    """

    figures: Classified | Measured
    auc_error: tuple[float, ...] = ()
    cut: int = 0
    survivors: tuple[str, ...] = ()
    least_rows: int = 1

    def json(self) -> dict[str, Any]:
        """The figures for a JSON file."""
        return {
            **asdict(self.figures),
            "auc_error": list(self.auc_error),
            "bins": BINS,
            "cut": self.cut,
            "survivors": list(self.survivors),
            "least_rows": self.least_rows,
        }

    def notes(self) -> list[str]:
        """What a reader must know beside the figures."""
        said = []
        if self.auc_error:
            said.append(
                f"AUC, Brier score and calibration are from scores in {BINS} bins: the AUC is within ±{max(self.auc_error):.2g} "
                "of that of the rows; accuracy, recall and precision are exact"
            )
        if self.cut:
            said.append(f"{self.cut} errors larger than the outcome's range count as that range")
        if self.least_rows > 1:
            said.append(
                f"rows that are fewer than {self.least_rows} of a class, or in all, at a site are not in it"
                if isinstance(self.figures, Classified)
                else f"a site with fewer than {self.least_rows} rows is not in it"
            )
        return said


@dataclass(frozen=True)
class HeldOut:
    """What is agreed on. classes: of the outcome, or none for a number; range: (low, high) of the number; max_rows: of one
    site; least_rows: a site leaves out the rows of a class of which it has fewer, and all if it has fewer in all. Parts of
    a calibration table with fewer rows are not shown; whoever holds the sum knows them. agreement: what else stands in the
    sum's name.

    Raises `DataError`.
    """

    classes: tuple[str, ...] = ()
    range: tuple[float, float] = (0.0, 1.0)
    max_rows: int = 2**16
    least_rows: int = 5
    agreement: str = ""

    def __post_init__(self) -> None:
        if len(self.classes) == 1 or not self.range[0] < self.range[1]:
            raise DataError("expected at least two classes, or none and a range (low, high) of a number")
        if min(self.max_rows, self.least_rows) < 1:
            raise DataError("expected max_rows and least_rows of at least 1")

    @property
    def length(self) -> int:
        """Entries of a vector."""
        return len(self.classes) ** 2 + 2 * len(self._shown) * BINS if self.classes else 6

    def plan(self, clients: int) -> tuple[SumPlan, SumPlan]:
        """The sum of sites with enough rows, and that of their rows, over the same survivors."""
        low, high = self.range
        of = f"of {len(self.classes)} classes" if self.classes else f"of {low:.6g} to {high:.6g}"
        name = (
            f"held-out rows, {self.agreement}"
            if self.agreement
            else f"held-out rows {of}, least_rows {self.least_rows}"
        )
        same: dict[str, Any] = {"same_survivors": True, "exact": True}
        sites = SumPlan(f"sites of {name}", len(self.classes) or 1, 1.0, 0, **same)
        if self.classes:
            return sites, SumPlan(name, self.length, float(self.max_rows), 0, **same)
        bits = min(40, _SUM_BITS - (self.max_rows * clients).bit_length())
        return sites, SumPlan(name, self.length, float(self.max_rows), bits, same_survivors=True)

    def sites(self, truth: npt.NDArray[Any]) -> Floats:
        """What a site puts into the first sum: for each class 1 if it has enough rows of it, else 0 (classes,); of a number
        the same for all rows (1,).
        """
        rows = np.bincount(truth, minlength=len(self.classes)) if self.classes else np.array([len(truth)])
        return (rows >= self.least_rows).astype(np.float64)

    def check_sites(self, total: Floats, own: Floats | None = None) -> None:
        """Raises `DataError` if so few sites have rows of a class, or rows, that one of them could take its own figures away
        and be left with another one's. own: what a site put into this sum: then it counts itself, whatever others claim.
        """
        mine = np.zeros(len(total)) if own is None else own
        for name, sites, here in zip(self.classes or ("",), np.rint(total).tolist(), mine, strict=True):
            if sites < _FEWEST_SITES and (sites or here):
                of = f" of the class {name!r}" if name else ""
                raise DataError(
                    f"expected at least {_FEWEST_SITES} sites with {self.least_rows} or more held-out rows{of}, got {sites:.0f}: the "
                    "figures could be told apart by site; hold out more rows, or leave the class out"
                )

    def vector(self, truth: npt.NDArray[Any], predicted: Floats) -> Floats:
        """What a site puts into the second sum. truth: place in `classes`, or a number, of each row (rows,); predicted: scores
        (rows, classes) or numbers (rows,). Raises `DataError`.
        """
        if len(truth) > self.max_rows:
            raise DataError(f"expected at most {self.max_rows} held-out rows, got {len(truth)}")
        return self._counts(truth, predicted) if self.classes else self._errors(truth, predicted)

    def opened(self, total: Floats, survivors: tuple[str, ...] = ()) -> Evaluated:
        """The figures in the second sum. Raises `DataError` if no site contributed rows."""
        found = self._of_counts(total) if self.classes else self._of_errors(total)
        return found._replace(survivors=survivors, least_rows=self.least_rows)

    @property
    def _shown(self) -> tuple[int, ...]:
        """The classes that have bins: with two, what is said of one follows from the other."""
        classes = len(self.classes)
        return (1,) if classes == 2 else tuple(range(classes))

    def _counts(self, truth: npt.NDArray[Any], scores: Floats) -> Floats:
        classes = len(self.classes)
        if scores.shape != (len(truth), classes):
            raise DataError(f"expected scores {(len(truth), classes)}, got {scores.shape}")
        kept = np.bincount(truth, minlength=classes)[truth] >= self.least_rows
        truth, scores = truth[kept], scores[kept]
        said = probabilities(scores)
        place = ((said - _LOW) / (_HIGH - _LOW) * BINS).clip(0, BINS - 1).astype(np.int64)
        parts = [np.bincount(truth * classes + scores.argmax(axis=1), minlength=classes**2)]
        for one in self._shown:
            parts += [np.bincount(place[truth == one, one], minlength=BINS)]
            parts += [np.bincount(place[truth != one, one], minlength=BINS)]
        return np.concatenate(parts).astype(np.float64)

    def _of_counts(self, total: Floats) -> Evaluated:
        classes = len(self.classes)
        counts = np.rint(total).astype(np.int64)
        confusion = counts[: classes**2].reshape(classes, classes)
        if not confusion.any():
            raise DataError("expected held-out rows, no site has enough of them")
        bins = counts[classes**2 :].reshape(-1, 2, BINS)
        middles = (_LOW + (np.arange(BINS) + 0.5) * (_HIGH - _LOW) / BINS).clip(0, 1)
        areas, briers, errors = [], [], []
        for positive, negative in bins:
            areas.append(area(positive, negative))
            lost = positive @ (1 - middles) ** 2 + negative @ middles**2
            briers.append(float(lost / counts[: classes**2].sum()))
            pairs = int(positive.sum() * negative.sum())
            errors.append(float(positive @ negative / 2 / pairs) if pairs else 0.0)
        again = 2 if classes == 2 else 1  # the figures of the other class are the same
        figures = of_counts(confusion, areas * again, briers * again, self.classes, self._calibration(bins))
        return Evaluated(figures, tuple(errors * again))

    def _calibration(self, bins: npt.NDArray[np.int64]) -> list[Said]:
        middles = (_LOW + (np.arange(BINS) + 0.5) * (_HIGH - _LOW) / BINS).clip(0, 1)
        part = np.minimum((middles * CALIBRATION).astype(np.int64), CALIBRATION - 1)
        positive, negative = bins.sum(axis=0)
        found = []
        for one in range(CALIBRATION):
            own, others = positive[part == one], negative[part == one]
            rows = int(own.sum() + others.sum())
            if rows >= self.least_rows:
                said = float((own + others) @ middles[part == one] / rows)
                ends = one / CALIBRATION, (one + 1) / CALIBRATION
                found.append(Said(*ends, rows, said, float(own.sum() / rows)))
        return found

    def _errors(self, truth: npt.NDArray[Any], predicted: Floats) -> Floats:
        low, high = self.range
        if len(truth) < self.least_rows:
            return np.zeros(6)
        if predicted.shape != truth.shape or not ((truth >= low) & (truth <= high)).all():
            raise DataError(f"expected numbers from {low:g} to {high:g}, and a prediction for each")
        middle = (truth - low) / (high - low) - 0.5
        off = abs(predicted - truth) / (high - low)
        cut = off > 1
        off = np.where(cut, 1.0, off)
        return np.array([len(off), middle.sum(), middle @ middle, off @ off, off.sum(), cut.sum()])

    def _of_errors(self, total: Floats) -> Evaluated:
        width = self.range[1] - self.range[0]
        rows = round(float(total[0]))
        if not rows:
            raise DataError("expected held-out rows, no site has enough of them")
        _, middle, squares, off, absolute, cut = total.tolist()
        around = max(squares - middle**2 / rows, 0.0)
        figures = of_sums(rows, off * width**2, absolute * width, around * width**2)
        return Evaluated(figures, cut=round(cut))


def predictions(model: Any, X: Any) -> Floats:
    """What a fitted model says of rows: scores (rows, classes), or numbers (rows,)."""
    if not hasattr(model, "classes_"):
        return np.asarray(model.predict(X))
    scores = getattr(model, "predict_proba", None) or getattr(model, "class_scores", None)
    return np.asarray((scores or model.decision_function)(X))


def summed(
    aggregator: Aggregator,
    agreed: HeldOut,
    rows: Mapping[str, tuple[npt.NDArray[Any], Floats]],
    data_set: str = "held-out rows",
) -> Evaluated:
    """The figures in a sum over sites, in a session of its own. rows: truth and predictions of each site, as `HeldOut.vector`
    takes them. data_set: what the ledgers call these rows.

    Raises `DataError` if too few sites have rows, and what the aggregator raises.
    """
    vectors = {name: agreed.vector(*own) for name, own in rows.items()}
    aggregator.open(list(rows), agreed.plan(len(rows)))
    sites = aggregator.sum(0, {name: (agreed.sites(truth), data_set) for name, (truth, _) in rows.items()})
    agreed.check_sites(sites.total)
    result = aggregator.sum(1, {name: (vector, data_set) for name, vector in vectors.items()})
    return agreed.opened(result.total, result.survivors)


def evaluate(
    model: Any,
    X: Any,
    y: Any,
    site: npt.ArrayLike,
    *,
    aggregator: Aggregator,
    data_set: str = "held-out rows",
    target_range: tuple[float, float] | None = None,
    least_rows: int = 5,
) -> Evaluated:
    """How good a fitted model is on held-out rows of several sites, through a secure sum.

    model: a federated classifier or regressor; X (rows, features), y (rows,) its labels or numbers, site (rows,) as in
    `fit`. data_set: what the ledgers call these rows, which serve one session. target_range: (low, high) of y, agreed on
    before anybody read data, for a regressor. least_rows: see `HeldOut`.

    Raises `DataError` for rows that do not fit, and what the aggregator raises.
    """
    features = parse_features(X)
    sites = rows_by_site(site, len(features))
    largest = max(2**16, max(map(len, sites.values())))
    if hasattr(model, "classes_"):
        truth, classes = parse_labels(y, model.classes_.tolist(), sites, len(features))
        agreed = HeldOut(tuple(map(str, classes)), max_rows=largest, least_rows=least_rows)
    else:
        if target_range is None:
            raise DataError("expected target_range, a range (low, high) of y that was agreed on, got None")
        truth = np.asarray(y, dtype=np.float64)
        agreed = HeldOut(range=target_range, max_rows=largest, least_rows=least_rows)
    predicted = predictions(model, X)
    return summed(
        aggregator, agreed, {name: (truth[rows], predicted[rows]) for name, rows in sites.items()}, data_set
    )
