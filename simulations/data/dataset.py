"""Data sets, each on a scale that the parties of a federation can agree on before anyone looks at a row."""

import csv
import math
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secure_afl.errors import DataError
from secure_afl.simulations.data import hub, image_files, synthetic

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_FOLDER = Path(__file__).parent / "files"
_BUILT_IN = ("heart", "mnist5k", "digits")
_READ_FROM_FILE = "scale: powers of two read from this file; in a real federation agree on them beforehand"
_MAX_WORDS = 64  # more different words than this in one column look like names or identifiers


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows ready for a least-squares fit; raises DataError if the fields contradict one another.

    X: float64 (rows, features). y: int64 (rows,), each in 0..len(classes)-1.
    site: str (rows,), who holds the row, or None. classes, features: names. row_norm: public bound on the
    euclidean norm of any row; it follows from the scale. note: where the scale is from.
    shape: of one row: (channels, height, width) for images, the columns in that order, else (features,).
    from_rows: the scale was read from the rows, so that it tells of them: no promise about a row holds then.
    """

    name: str
    X: Floats
    y: Ints
    site: NDArray[np.str_] | None
    classes: tuple[str, ...]
    features: tuple[str, ...]
    row_norm: float
    note: str
    shape: tuple[int, ...]
    from_rows: bool = False

    def __post_init__(self) -> None:
        X, y, rows, classes = self.X, self.y, len(self.X), len(self.classes)
        shapes = [column.shape for column in (y, self.site) if column is not None]
        if not rows or any(shape != (rows,) for shape in shapes):
            raise DataError(f"{self.name}: each row needs one label (and site): {rows} rows, shapes {shapes}")
        if X.dtype != np.float64 or X.shape != (rows, len(self.features)):
            raise DataError(f"{self.name}: X must be float64, with a name for each column")
        if y.dtype != np.int64 or y.min() < 0 or y.max() >= classes or not X.shape[1]:
            raise DataError(f"{self.name}: y must be int64 in 0..{classes - 1}, X have a column")
        if len(self.shape) not in (1, 3) or min(self.shape) < 1 or math.prod(self.shape) != X.shape[1]:
            kinds = "(features,) or (channels, height, width)"
            raise DataError(
                f"{self.name}: {X.shape[1]} columns cannot be rows of shape {self.shape}; {kinds}"
            )
        if y.min() == y.max():
            raise DataError(f"{self.name}: every row has the label {self.classes[y[0]]!r}: nothing to learn")
        if not (np.einsum("ij,ij->i", X, X) <= self.row_norm**2).all():  # NaN fails this too
            raise DataError(f"{self.name}: a row is longer than the public bound {self.row_norm:.6g}")


class _Rows(NamedTuple):
    """What a source gives. X: float64 on its scale. table: the columns to pick label and site from.

    square: bound on the squared norm of a row; 0 where every value may add 1. from_rows: see `Dataset`.
    """

    X: Floats
    features: list[str]
    shape: tuple[int, ...]
    table: dict[str, Any]
    note: str
    square: int = 0
    from_rows: bool = False


def load(source: str, *, seed: int = 0, site_column: str = "site", label_column: str = "label") -> Dataset:
    """Load what `source` names; DataError says what does not fit.

    `heart`, `mnist5k`, `digits`: built in, see files/README.md. `synthetic`, `synthetic:A,B`:
    Synthetic(A, B), by default (0.5, 0.5), drawn with `seed`, which nothing else here uses.
    .csv: a header, then rows. Columns of numbers stay numbers, columns of words become one-hot; empty cells,
    NaN and mixtures are refused. .npz: `X` or `x`, rows first; (rows, height, width) and (rows, channels,
    height, width) are images, the rest is flattened; `y` will do for `label`.
    A folder: the published files of MNIST, Fashion-MNIST or CIFAR-10, training and test rows together.
    `flwr:NAME`: images of the Hugging Face Hub or of a folder of parquet files, all splits together.
    Without a column of the default name `site` there are no sites.
    """
    kind, _, rest = source.partition(":")
    path = Path(rest if kind == "flwr" else source).absolute()  # "." has no name
    suffix = path.suffix.lower()
    own = source in _BUILT_IN or kind == "synthetic" or (kind != "flwr" and path.is_dir())
    if own and (site_column, label_column) != ("site", "label"):
        raise DataError(f"{source} has its own site and label columns: leave out those options")
    if source == "heart":
        rows = _heart()
    elif source in _BUILT_IN:
        rows = _mnist5k() if source == "mnist5k" else _digits()
    elif kind == "synthetic":
        rows = _synthetic(source, seed)
    elif kind == "flwr":
        images, table = hub.read(rest)
        rows = _images(images, 255, table, "training and test rows pooled")
    elif path.is_dir():
        images, labels = image_files.read(path)
        rows = _images(images, 255, {"label": labels}, "training and test rows pooled")
    elif path.is_file() and suffix in (".csv", ".npz"):
        rows = _csv(path, site_column, label_column) if suffix == ".csv" else _npz(path)
    else:
        known = f"{', '.join(_BUILT_IN)}, synthetic[:A,B], flwr:NAME"
        raise DataError(f"no data {source!r}: give {known}, a folder or an existing .csv or .npz file")
    labels = _names(path, rows.table, label_column)
    has_site = site_column in rows.table or site_column != "site"
    site = _names(path, rows.table, site_column, keep=True).astype(np.str_) if has_site else None
    values, y = np.unique(labels, return_inverse=True)
    # Rounded up, so that the bound still holds after somebody squares it.
    row_norm = math.nextafter(math.sqrt(rows.square or len(rows.features)), math.inf)
    return Dataset(
        path.name,
        rows.X,
        y.astype(np.int64),
        site,
        tuple(map(str, values)),
        tuple(rows.features),
        row_norm,
        rows.note,
        rows.shape,
        rows.from_rows,
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


def _heart() -> _Rows:
    rows = _csv(_FOLDER / "heart_disease_uci.csv", "", "", _HEART)
    sick = np.where(np.array(rows.table["num"]) == "0", "absent", "present")
    table = {"site": rows.table["dataset"], "label": sick}  # id 304 looks Hungarian and stays, see the README
    note = "scale: clinical ranges and vocabularies fixed in the schema; nothing is read from the rows"
    # A number and its flag exclude each other, and so do the words of a column: each column of the schema
    # adds at most 1 to the squared norm.
    return rows._replace(table=table, note=note, square=len(_HEART))


def _mnist5k() -> _Rows:
    with np.load(_FOLDER / "mnist5k.npz", allow_pickle=False) as arrays:
        return _images(arrays["x"][:, None], 255, {"label": arrays["y"]})


def _digits() -> _Rows:
    from sklearn.datasets import load_digits  # slow to import: only who asks for it waits

    pixels, y = load_digits(return_X_y=True)
    return _images(pixels.reshape(-1, 1, 8, 8), 16, {"label": y})


def _images(pixels: NDArray[Any], white: int, table: dict[str, Any], more: str = "") -> _Rows:
    """Images (rows, channels, height, width) with pixels from 0 to `white`."""
    X = pixels.reshape(len(pixels), -1) / white
    note = "scale: the value of a white pixel, fixed by the image format" + (more and f"; {more}")
    return _Rows(X, _numbered(X), pixels.shape[1:], table, note)


def _synthetic(source: str, seed: int) -> _Rows:
    X, y, site = synthetic.draw(*synthetic.parse(source), seed)
    note = f"scale: powers of two read from the drawn rows; seed {seed} draws them"
    return _Rows(X / _power(X), _numbered(X), X.shape[1:], {"label": y, "site": site}, note, from_rows=True)


def _numbered(X: Floats) -> list[str]:
    return [f"x{i}" for i in range(X.shape[1])]


def _csv(path: Path, site: str, label: str, schema: dict[str, tuple[Any, ...]] | None = None) -> _Rows:
    table = _table(path)
    columns: dict[str, Floats] = {}
    for name in schema or [name for name in table if name not in (site, label)]:
        kind = schema[name] if schema else _infer(path, name, table[name])
        columns |= _encode(path, name, table[name], kind)
    if not columns:
        raise DataError(f"{path.name}: no columns to learn from, there are {', '.join(table)}")
    X = np.column_stack(list(columns.values()))
    return _Rows(X, list(columns), X.shape[1:], dict(table), _READ_FROM_FILE, from_rows=schema is None)


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


def _npz(path: Path) -> _Rows:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:  # pickles run code
            table: dict[str, NDArray[Any]] = dict(arrays)
    except (OSError, ValueError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path.name} is not an .npz file of plain arrays: {error}") from None
    table = {"label": table["y"], **table} if "y" in table else table
    X = table["X"] if "X" in table else table.get("x", np.empty(0))
    if X.dtype.kind not in "biuf" or X.ndim == 0 or not len(X):
        raise DataError(f"{path.name}: no rows of numbers in x or X, there are {', '.join(table)}")
    image = {3: (1, *X.shape[1:]), 4: X.shape[1:]}.get(X.ndim)
    X = X.reshape(len(X), -1).astype(np.float64)
    for row, column in np.argwhere(~(np.abs(X) <= 1e300))[:1]:
        raise _bad_cell(path, f"x{column}", row, str(X[row, column]), "a finite number")
    return _Rows(X / _power(X), _numbered(X), image or X.shape[1:], table, _READ_FROM_FILE, from_rows=True)


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
