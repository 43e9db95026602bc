"""Data sets, each on a scale that the parties of a federation can agree on before anyone looks at a row."""

import csv
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_afl.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_File = tuple[Floats, list[str], NDArray[Any], NDArray[Any] | None]  # X, its column names, labels, sites
_FOLDER = Path(__file__).parent / "datasets"
_WHITE = {"mnist5k": 255, "digits": 16}  # the value of a white pixel, fixed by the image format
_MAX_WORDS = 64  # more different words than this in one column look like names or identifiers


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows ready for a least-squares fit; raises DataError if the fields contradict one another.

    X: float64 (rows, features), its first column all ones. y: int64 (rows,), each in 0..len(classes)-1.
    site: str (rows,), who holds the row, or None. classes, features: names. row_norm: public bound on the
    euclidean norm of any row; it follows from the scale, never from the rows. note: where the scale is from.
    """

    name: str
    X: Floats
    y: Ints
    site: NDArray[np.str_] | None
    classes: tuple[str, ...]
    features: tuple[str, ...]
    row_norm: float
    note: str

    def __post_init__(self) -> None:
        X, y, site, shape = self.X, self.y, self.site, (len(self.X), len(self.features))
        if not len(X):
            raise DataError(f"{self.name}: no rows")
        if y.shape != shape[:1] or (site is not None and site.shape != y.shape):
            sites = "" if site is None else f" and sites of shape {site.shape}"
            raise DataError(f"{self.name}: {len(X)} rows, but labels of shape {y.shape}{sites}")
        if X.dtype != np.float64 or X.shape != shape or shape[1] < 2 or (X[:, 0] != 1).any():
            raise DataError(f"{self.name}: X must be float64, ones first, then features, and a name for each")
        if y.dtype != np.int64 or y.min() < 0 or y.max() >= len(self.classes):
            raise DataError(f"{self.name}: y must be int64 in 0..{len(self.classes) - 1}")
        if y.min() == y.max():
            raise DataError(f"{self.name}: every row has the label {self.classes[y[0]]!r}: nothing to learn")
        if not (np.einsum("ij,ij->i", X, X) <= self.row_norm**2).all():  # NaN fails this too
            raise DataError(f"{self.name}: a row is longer than the public bound {self.row_norm:.6g}")


def load(source: str, *, site_column: str = "site", label_column: str = "label") -> Dataset:
    """Load `heart`, `mnist5k`, `digits`, or a .csv or .npz file by its path; DataError says what does not fit.

    .csv: a header, then rows. Columns of numbers stay as they are, columns of words become one-hot; empty
    cells, NaN and mixtures are refused. .npz: `X` or `x`, rows first, the rest is flattened; labels in
    `label_column` (`y` will do for the default), sites in `site_column`. Data without a column of the default
    name `site` have no sites. Where the built-in data come from: datasets/README.md.
    """
    path = Path(source)
    if source == "heart" or source in _WHITE:
        if (site_column, label_column) != ("site", "label"):
            raise DataError(f"{source} has its own site and label columns: leave out those options")
        if source == "heart":
            return _heart()
        X, features, labels, site = _images(source)
    elif path.is_file() and path.suffix.lower() in (".csv", ".npz"):
        read = _csv if path.suffix.lower() == ".csv" else _npz
        X, features, labels, site = read(path, site_column, label_column)
    else:
        raise DataError(
            f"{source!r} is none of heart, {', '.join(_WHITE)} and no .csv or .npz file that exists"
        )
    for row, column in np.argwhere(~np.isfinite(X))[:1]:
        raise _bad_cell(path, features[column], row, str(X[row, column]), "a finite number")
    if labels.dtype.kind not in "biufU" or (site is not None and site.dtype.kind not in "iuU"):
        raise DataError(f"{path.name}: labels and sites must be names or whole numbers")
    if labels.dtype.kind == "f":
        for row in np.flatnonzero(~np.isfinite(labels) | (labels != np.rint(labels)))[:1]:
            raise _bad_cell(path, label_column, row, str(labels.flat[row]), "a class, not a measured number")
        labels = labels.astype(np.int64)
    values, y = np.unique(labels, return_inverse=True)
    if white := _WHITE.get(source):
        X, note = X / white, f"scale: pixels / {white}, fixed by the image format"
    else:  # powers of two change only the exponent: scaling costs no digit and can be undone exactly
        fraction, exponent = np.frexp(np.abs(X).max(axis=0))
        X = np.ldexp(X, (fraction == 0.5) - exponent)
        note = "scale: powers of two read from this file; real parties must agree on them beforehand"
    site = None if site is None else site.astype(np.str_)
    return _with_ones(path.name, X, y.astype(np.int64), site, map(str, values), features, note)


# The schema of UCI Heart Disease. Numbers: low, high, then the cells that mean "not recorded"; low..high becomes
# -1..1, a missing cell 0 and a 1 in a flag column. The ranges are wider than a clinic meets and fixed here: read
# from the rows, they would tell about the rows. Words: the vocabulary, one-hot; "" in it is "not recorded".
_HEART: dict[str, tuple[Any, ...]] = {
    "age": (18, 100),  # years
    "sex": ("Female", "Male"),
    "cp": ("typical angina", "atypical angina", "non-anginal", "asymptomatic"),
    "trestbps": (60, 260, "", "0"),  # mm Hg at rest; nobody has 0
    "chol": (50, 700, "", "0"),  # mg/dl; 0 stands for all of Switzerland
    "fbs": ("FALSE", "TRUE", ""),  # fasting blood sugar above 120 mg/dl
    "restecg": ("normal", "st-t abnormality", "lv hypertrophy", ""),
    "thalch": (40, 240, ""),  # highest heart rate reached, per minute
    "exang": ("FALSE", "TRUE", ""),
    "oldpeak": (-5, 10, ""),  # ST depression by exercise, mm; below 0 it is elevation
    "slope": ("upsloping", "flat", "downsloping", ""),
    "ca": ("0", "1", "2", "3", ""),
    "thal": ("normal", "fixed defect", "reversable defect", ""),
}
_HEART_SITES = ("Cleveland", "Hungary", "Switzerland", "VA Long Beach")


def _heart(path: Path = _FOLDER / "heart_disease_uci.csv") -> Dataset:
    # Row id 304 says Cleveland and looks Hungarian (datasets/README.md): it stays as the file has it.
    table = _table(path)
    columns: dict[str, Floats] = {}
    for name, kind in _HEART.items():
        cells = table[name]
        if isinstance(kind[0], str):
            columns |= _one_hot(path, name, cells, kind)
            continue
        low, high, *missing = kind
        for row, cell in enumerate(cells):
            if cell not in missing and not low <= _number(cell) <= high:
                raise _bad_cell(path, name, row, cell, f"{low} to {high}")
        numbers = np.array([math.nan if cell in missing else _number(cell) for cell in cells])
        columns[name] = np.nan_to_num((numbers - low) / (high - low) * 2 - 1)
        if missing:
            columns[f"{name}="] = np.isnan(numbers).astype(np.float64)
    severity = _one_hot(path, "num", table["num"], ("0", "1", "2", "3", "4"))
    y = (severity["num=0"] == 0).astype(np.int64)
    _one_hot(path, "dataset", table["dataset"], _HEART_SITES)  # only for its check
    site, X = np.array(table["dataset"]), np.column_stack(list(columns.values()))
    note = "scale: clinical ranges and vocabularies fixed in the schema; nothing is read from the rows"
    # A number and its flag exclude each other, and so do the words of a column: each column of the schema, and
    # the ones, add at most 1 to the squared norm.
    return _with_ones("heart", X, y, site, ("healthy", "disease"), columns, note, 1 + len(_HEART))


def _images(name: str) -> _File:
    if name == "mnist5k":
        return _npz(_FOLDER / "mnist5k.npz", "site", "label")
    from sklearn.datasets import load_digits  # slow to import: only who asks for it waits

    X, labels = load_digits(return_X_y=True)
    return X, [f"x{i}" for i in range(X.shape[1])], labels, None


def _csv(path: Path, site_column: str, label_column: str) -> _File:
    table = _table(path)
    labels: NDArray[Any] = np.array(_column(path, table, label_column))
    site = _column(path, table, site_column) if site_column in table or site_column != "site" else None
    columns: dict[str, Floats] = {}
    for name, cells in table.items():
        numbers = np.array([_number(cell) for cell in cells])
        words = np.isnan(numbers)
        mixed = words.any() and not words.all() and name != site_column
        for row, cell in enumerate(cells):
            # One "n/a" must not turn a column of numbers into words.
            if cell.lower() in ("", "nan") or (mixed and words[row]):
                raise _bad_cell(path, name, row, cell, "a number, as in other rows" if mixed else "a value")
        if name == label_column:
            labels = labels if words.any() else numbers
        elif name == site_column:
            continue
        elif not words.any():
            columns[name] = numbers
        elif (distinct := len(set(cells))) > _MAX_WORDS:
            many = f"{distinct} different words (the limit is {_MAX_WORDS})"
            raise DataError(f"{path.name}, column {name!r}: {many} looks like an identifier, leave it out")
        else:
            columns |= _one_hot(path, name, cells, sorted(set(cells)))
    X = np.column_stack([np.empty((len(labels), 0)), *columns.values()])
    return X, list(columns), labels, None if site is None else np.array(site)


def _npz(path: Path, site_column: str, label_column: str) -> _File:
    try:
        with np.load(path, allow_pickle=False) as arrays:  # pickles run code
            table: dict[str, NDArray[Any]] = dict(arrays)
    except Exception as error:  # NumPy, zipfile and zlib each have their own
        raise DataError(f"{path.name} is not an .npz file of plain arrays: {error}") from None
    if label_column == "label" and "label" not in table and "y" in table:
        label_column = "y"
    labels = _column(path, table, label_column)
    site = _column(path, table, site_column) if site_column in table or site_column != "site" else None
    X = _column(path, table, "X" if "X" in table else "x")
    if X.dtype.kind not in "biuf" or X.ndim == 0 or not len(X):
        raise DataError(f"{path.name}: x must be rows of numbers; no rows in {X.dtype} of shape {X.shape}")
    X = X.reshape(len(X), -1).astype(np.float64)
    return X, [f"x{i}" for i in range(X.shape[1])], labels, site


def _with_ones(
    name: str, X: Floats, y: Ints, site: NDArray[np.str_] | None,
    classes: Iterable[str], features: Iterable[str], note: str, square: int = 0,
) -> Dataset:  # fmt: skip
    X = np.insert(X, 0, 1, axis=1)
    # Without a better one, every value is in [-1, 1]. Rounded up: it still holds after somebody squares it.
    row_norm = math.nextafter(math.sqrt(square or X.shape[1]), math.inf)
    return Dataset(name, X, y, site, tuple(classes), ("1", *features), row_norm, note)


def _table(path: Path) -> dict[str, list[str]]:
    """The stripped cells of a CSV file, by column; empty lines do not count."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [[cell.strip() for cell in line] for line in csv.reader(file, strict=True) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path.name} is not a CSV file in UTF-8: {error}") from None
    if len(lines) < 2:
        raise DataError(f"{path.name}: no rows; a header and then one line a row are expected")
    header, *rows = lines
    if wrong := [repr(name) for name, times in Counter(header).items() if times > 1 or not name]:
        raise DataError(f"{path.name}: every column needs a name of its own, not {', '.join(wrong)}")
    for row, cells in enumerate(rows, 1):
        if len(cells) != len(header):
            raise DataError(f"{path.name}, data row {row}: {len(cells)} cells, the header has {len(header)}")
    return {name: list(cells) for name, cells in zip(header, zip(*rows, strict=True), strict=True)}


def _column(path: Path, table: dict[str, Any], name: str) -> Any:
    if name not in table:
        raise DataError(f"{path.name}: no column {name!r}, there are {', '.join(table)}")
    return table[name]


def _bad_cell(path: Path, column: str, row: int, cell: str, expected: str) -> DataError:
    found = repr(cell) if cell else "an empty cell"
    return DataError(f"{path.name}, column {column!r}, data row {row + 1}: {found}, expected {expected}")


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _one_hot(path: Path, name: str, cells: list[str], words: Sequence[str]) -> dict[str, Floats]:
    for row, cell in enumerate(cells):
        if cell not in words:
            raise _bad_cell(path, name, row, cell, f"one of {', '.join(map(repr, words))}")
    column = np.array(cells)
    return {f"{name}={word}": (column == word).astype(np.float64) for word in words}
