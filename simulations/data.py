"""Data sets, each on a scale that the parties of a federation can agree on before anyone looks at a row."""

import csv
import math
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_afl.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_File = tuple[Floats, list[str], dict[str, Any]]  # X without the ones, its names, columns to pick from
_FOLDER = Path(__file__).parent / "datasets"
_BUILT_IN = ("heart", "mnist5k", "digits")
_MAX_WORDS = 64  # more different words than this in one column look like names or identifiers


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows ready for a least-squares fit; raises DataError if the fields contradict one another.

    X: float64 (rows, features). y: int64 (rows,), each in 0..len(classes)-1.
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
        X, y, rows, classes = self.X, self.y, len(self.X), len(self.classes)
        shapes = [column.shape for column in (y, self.site) if column is not None]
        if not rows or any(shape != (rows,) for shape in shapes):
            raise DataError(f"{self.name}: each row needs one label (and site): {rows} rows, shapes {shapes}")
        if X.dtype != np.float64 or X.shape != (rows, len(self.features)):
            raise DataError(f"{self.name}: X must be float64, with a name for each column")
        if y.dtype != np.int64 or y.min() < 0 or y.max() >= classes or not X.shape[1]:
            raise DataError(f"{self.name}: y must be int64 in 0..{classes - 1}, X have a column")
        if y.min() == y.max():
            raise DataError(f"{self.name}: every row has the label {self.classes[y[0]]!r}: nothing to learn")
        if not (np.einsum("ij,ij->i", X, X) <= self.row_norm**2).all():  # NaN fails this too
            raise DataError(f"{self.name}: a row is longer than the public bound {self.row_norm:.6g}")


def load(source: str, *, site_column: str = "site", label_column: str = "label") -> Dataset:
    """Load `heart`, `mnist5k`, `digits`, or a .csv or .npz file by its path; DataError says what does not fit.

    .csv: a header, then rows. Columns of numbers stay numbers, columns of words become one-hot; empty cells,
    NaN and mixtures are refused. .npz: `X` or `x`, rows first, the rest is flattened; `y` will do for `label`.
    Without a column of the default name `site` there are no sites. Built-in data: see datasets/README.md.
    """
    path, square = Path(source), 0
    if source in _BUILT_IN and (site_column, label_column) != ("site", "label"):
        raise DataError(f"{source} has its own site and label columns: leave out those options")
    if source == "heart":
        X, features, table = _csv(_FOLDER / "heart_disease_uci.csv", "", "", _HEART)
        sick = np.where(np.array(table["num"]) == "0", "absent", "present")
        table = {"site": table["dataset"], "label": sick}  # id 304 looks Hungarian and stays, see the README
        # A number and its flag exclude each other, and so do the words of a column: each column of the schema
        # adds at most 1 to the squared norm. Without a schema every value may add 1.
        square = len(_HEART)
        note = "scale: clinical ranges and vocabularies fixed in the schema; nothing is read from the rows"
    elif source in _BUILT_IN:
        X, features, table = _images(source)
        note = "scale: the value of a white pixel, fixed by the image format"
    elif path.is_file() and path.suffix.lower() in (".csv", ".npz"):
        is_csv = path.suffix.lower() == ".csv"
        X, features, table = _csv(path, site_column, label_column) if is_csv else _npz(path)
        note = "scale: powers of two read from this file; in a real federation agree on them beforehand"
    else:
        raise DataError(f"no data {source!r}: give {', '.join(_BUILT_IN)} or an existing .csv or .npz file")
    labels = _names(path, table, label_column)
    has_site = site_column in table or site_column != "site"
    site = _names(path, table, site_column, keep=True).astype(np.str_) if has_site else None
    values, y = np.unique(labels, return_inverse=True)
    # Rounded up, so that the bound still holds after somebody squares it.
    row_norm = math.nextafter(math.sqrt(square or len(features)), math.inf)
    return Dataset(
        path.name, X, y.astype(np.int64), site, tuple(map(str, values)), tuple(features), row_norm, note
    )


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


def _images(name: str) -> _File:
    if name == "mnist5k":
        with np.load(_FOLDER / "mnist5k.npz", allow_pickle=False) as arrays:
            X, y = arrays["x"].reshape(-1, 28 * 28) / 255, arrays["y"]
    else:
        from sklearn.datasets import load_digits  # slow to import: only who asks for it waits

        pixels, y = load_digits(return_X_y=True)
        X = pixels / 16
    return X, [f"x{i}" for i in range(X.shape[1])], {"label": y}


def _csv(path: Path, site: str, label: str, schema: dict[str, tuple[Any, ...]] | None = None) -> _File:
    table = _table(path)
    columns: dict[str, Floats] = {}
    for name in schema or [name for name in table if name not in (site, label)]:
        kind = schema[name] if schema else _infer(path, name, table[name])
        columns |= _encode(path, name, table[name], kind)
    if not columns:
        raise DataError(f"{path.name}: no columns to learn from, there are {', '.join(table)}")
    return np.column_stack(list(columns.values())), list(columns), dict(table)


def _names(path: Path, table: dict[str, Any], name: str, keep: bool = False) -> NDArray[Any]:
    """Labels or sites: words, or int64 where all are whole numbers; `keep` leaves them as they are written."""
    if name not in table:
        raise DataError(f"{path.name}: no column {name!r}, there are {', '.join(table)}")
    values = np.asarray(table[name])
    for row, value in enumerate(values.ravel().tolist()):
        number = _number(value)
        whole = math.isnan(number) or (number.is_integer() and abs(number) < 2**53)
        if str(value).lower() in ("", "nan") or not whole or values.dtype.kind not in "biufU":
            raise _bad_cell(path, name, row, str(value), "a name or a whole number")
    with suppress(ValueError):
        return values if keep else values.astype(np.float64).astype(np.int64)
    return values


def _infer(path: Path, name: str, cells: list[str]) -> tuple[Any, ...]:
    """The kind of a column that no schema describes; refuses whatever is not all numbers or all words."""
    numbers = np.array([_number(cell) for cell in cells])
    words = np.isnan(numbers)
    for row, cell in enumerate(cells):
        # One "n/a" must not turn a column of numbers into words, and no power of two may overflow.
        if cell.lower() in ("", "nan") or abs(numbers[row]) > 1e300 or (words[row] and not words.all()):
            raise _bad_cell(path, name, row, cell, "a finite number or a word, the same in every row")
    if not words.all():
        return (-_power(numbers), _power(numbers))
    if len(vocabulary := sorted(set(cells))) > _MAX_WORDS:
        many = f"{len(vocabulary)} different words, it looks like an identifier: leave it out"
        raise DataError(f"{path.name}, column {name!r}: {many}")
    return tuple(vocabulary)


def _encode(path: Path, name: str, cells: list[str], kind: tuple[Any, ...]) -> dict[str, Floats]:
    if isinstance(kind[0], str):
        for row, cell in enumerate(cells):
            if cell not in kind:
                raise _bad_cell(path, name, row, cell, f"one of {', '.join(map(repr, kind))}")
        return {f"{name}={word}": np.array([cell == word for cell in cells], np.float64) for word in kind}
    low, high, *missing = kind
    for row, cell in enumerate(cells):
        if cell not in missing and not low <= _number(cell) <= high:
            raise _bad_cell(path, name, row, cell, f"{low} to {high}")
    numbers = np.array([math.nan if cell in missing else _number(cell) for cell in cells])
    scaled = np.nan_to_num((numbers - (low + high) / 2) / ((high - low) / 2))
    return {name: scaled} | ({f"{name}=": np.isnan(numbers).astype(np.float64)} if missing else {})


def _power(values: Floats) -> Any:
    """Per column the smallest power of two that covers it: dividing by it costs no digit and can be undone."""
    fraction, exponent = np.frexp(np.abs(values).max(axis=0))
    return np.ldexp(1.0, exponent - (fraction == 0.5))


def _npz(path: Path) -> _File:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:  # pickles run code
            table: dict[str, NDArray[Any]] = dict(arrays)
    except (OSError, ValueError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path.name} is not an .npz file of plain arrays: {error}") from None
    table = {"label": table["y"], **table} if "y" in table else table
    X = table["X"] if "X" in table else table.get("x", np.empty(0))
    if X.dtype.kind not in "biuf" or X.ndim == 0 or not len(X):
        raise DataError(f"{path.name}: no rows of numbers in x or X, there are {', '.join(table)}")
    X = X.reshape(len(X), -1).astype(np.float64)
    for row, column in np.argwhere(~(np.abs(X) <= 1e300))[:1]:
        raise _bad_cell(path, f"x{column}", row, str(X[row, column]), "a finite number")
    return X / _power(X), [f"x{i}" for i in range(X.shape[1])], table


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
    if len(set(header) - {""}) < len(header):
        raise DataError(f"{path.name}: every column needs a name of its own, the header is {header}")
    for row, cells in enumerate(rows, 1):
        if len(cells) != len(header):
            raise DataError(f"{path.name}, data row {row}: {len(cells)} cells, the header has {len(header)}")
    return {name: list(cells) for name, cells in zip(header, zip(*rows, strict=True), strict=True)}


def _bad_cell(path: Path, column: str, row: int, cell: str, expected: str) -> DataError:
    return DataError(f"{path.name}, column {column!r}, data row {row + 1}: {cell!r}, expected {expected}")


def _number(cell: Any) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError):
        return math.nan
