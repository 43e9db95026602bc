"""Data sets, each on a scale that the parties of a federation can agree on before anyone reads a row."""

import math
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secure_afl.errors import DataError
from secure_afl.protocol.session.roster import LONGEST_NAME
from secure_afl.simulations.data import hub, image_files, synthetic
from secure_afl.tables.form import ENDINGS, Form, called, is_table

if TYPE_CHECKING:
    from secure_afl.models.networks.backbone import Backbone
    from secure_afl.tables.cells import Cells
    from secure_afl.tables.codebook import Codebook, Target
    from secure_afl.tables.disclosure import Layout

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_FOLDER = Path(__file__).parent / "files"
_BUILT_IN = ("heart", "mnist5k", "digits")
_READ_FROM_FILE = "scale: powers of two read from this file; in a real federation agree on them beforehand"


class About(NamedTuple):
    """Facts about a column before training. missing: the fraction of its rows without a value."""

    name: str
    kind: str
    values: str
    missing: float = 0.0


class Origin(NamedTuple):
    """The table and codebook of a data set. rows: row numbers in the table, from 1, in the order of the data set."""

    table: str
    form: Form | None
    codebook: Path
    rows: Ints


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows ready for a least-squares fit; raises DataError if the fields contradict one another.

    X: float64 (rows, features). y: int64 (rows,), each in 0..len(classes)-1; of a number to predict, which has no
    classes, float64 (rows,) within `target.range`.
    site: str (rows,), the holder of each row, or None. classes, features: names. row_norm: public bound on the
    euclidean norm of any row; it follows from the scale. note: where the scale is from.
    shape: of one row: (channels, height, width) for images, the columns in that order, else (features,).
    from_rows: whether the scale was read from the rows and so reveals something about them: then no privacy guarantee
    for a row holds. about: the columns of the table from which the features derive; empty for images.
    codebook: of a table, given or inferred from its rows. origin: None if no codebook was given.
    weights: float64 (rows,), each row's weight in training; None: all weights are 1. held_out: bool (rows,), the test rows as
    the codebook marks them; None where it does not.
    """

    name: str
    X: Floats
    y: NDArray[Any]
    site: NDArray[np.str_] | None
    classes: tuple[str, ...]
    features: tuple[str, ...]
    row_norm: float
    note: str
    shape: tuple[int, ...]
    from_rows: bool = False
    about: tuple[About, ...] = ()
    codebook: "Codebook | None" = None
    origin: Origin | None = None
    weights: Floats | None = None
    held_out: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        X, y, rows, classes = self.X, self.y, len(self.X), len(self.classes)
        shapes = [column.shape for column in (y, self.site, self.weights) if column is not None]
        if not rows or any(shape != (rows,) for shape in shapes):
            raise DataError(
                f"{self.name}: each row needs one label (and site, and weight): {rows} rows, shapes {shapes}"
            )
        if X.dtype != np.float64 or X.shape != (rows, len(self.features)) or not X.shape[1]:
            raise DataError(f"{self.name}: X must be float64, with a name for each column, X have a column")
        if self.target and y.dtype != np.float64:
            raise DataError(f"{self.name}: a number to predict must be float64")
        if not self.target and (y.dtype != np.int64 or y.min() < 0 or y.max() >= classes):
            raise DataError(f"{self.name}: y must be int64 in 0..{classes - 1}")
        if len(self.shape) not in (1, 3) or min(self.shape) < 1 or math.prod(self.shape) != X.shape[1]:
            kinds = "(features,) or (channels, height, width)"
            raise DataError(
                f"{self.name}: {X.shape[1]} columns cannot be rows of shape {self.shape}; {kinds}"
            )
        if y.min() == y.max():
            same = f"outcome {y[0]:g}" if self.target else f"label {self.classes[y[0]]!r}"
            raise DataError(f"{self.name}: every row has the {same}: nothing to learn")
        if not (np.einsum("ij,ij->i", X, X) <= self.row_norm**2).all():  # NaN fails this too
            raise DataError(f"{self.name}: a row is longer than the public bound {self.row_norm:.6g}")

    @property
    def target(self) -> "Target | None":
        """The number to predict, as the codebook defines it; None if there are classes."""
        return self.codebook.outcome if self.codebook and not self.classes else None  # type: ignore[return-value]

    @property
    def max_weight(self) -> float | None:
        """The largest weight that the codebook allows; None without weights."""
        return self.codebook.weights.largest if self.codebook and self.codebook.weights else None

    @property
    def layout(self) -> "Layout | None":
        """Which features of a table are 0 or 1; None if the data is not a table. Raises `DataError`, see `Layout.of`."""
        from secure_afl.tables.disclosure import Layout

        return Layout.of(self.codebook) if self.codebook else None


class _Rows(NamedTuple):
    """What a source of arrays gives. X: float64 on its scale. table: the columns to pick label and site from.

    from_rows: see `Dataset`.
    """

    X: Floats
    features: list[str]
    shape: tuple[int, ...]
    table: dict[str, Any]
    note: str
    from_rows: bool = False


def load(
    source: str,
    *,
    seed: int = 0,
    site_column: str = "site",
    label_column: str = "label",
    form: Form | None = None,
    codebook: Path | None = None,
) -> Dataset:
    """Load the data set that `source` names. Raises `DataError` for unknown sources and for data that do not fit.

    `heart`, `mnist5k`, `digits`: built in, see files/README.md. `synthetic`, `synthetic:A,B`:
    Synthetic(A, B), by default (0.5, 0.5), drawn with `seed`, which nothing else here uses.
    A table (.csv, .parquet, .xlsx, …, see `tables.reading`; form: its format), read by its codebook; without one
    `tables.inferred` infers a codebook from the rows and refuses ambiguous columns.
    .npz: `X` or `x`, rows first; (rows, height, width) and (rows, channels, height, width) are images, other shapes are
    flattened; `y` is accepted for `label`.
    A folder: the published files of MNIST, Fashion-MNIST or CIFAR-10, training and test rows together.
    `flwr:NAME`: images of the Hugging Face Hub or of a folder of parquet files, all splits together.
    Without a column of the default name `site` there are no sites.
    """
    kind, _, rest = source.partition(":")
    path = Path(rest if kind == "flwr" else source).absolute()  # "." has no name
    own = source in _BUILT_IN or kind == "synthetic" or (kind != "flwr" and path.is_dir())
    if own and (site_column, label_column) != ("site", "label"):
        raise DataError(f"{source} has its own site and label columns: leave out those options")
    tabular = is_table(source) and (path.is_file() or "://" in source)
    if codebook and not tabular:
        got = f"{source!r}" if own or path.is_file() else f"no file {source!r}"
        raise DataError(f"expected a table with a codebook ({', '.join(ENDINGS)}), got {got}")
    if source == "heart":
        rows_of_heart = str(_FOLDER / "heart_disease_uci.csv")
        return _coded("heart", rows_of_heart, None, _FOLDER / "heart.toml", site_column)
    if codebook:
        if label_column != "label":
            raise DataError("the codebook names the outcome: leave out --label-column")
        return _coded(called(source), source, form, codebook, site_column)
    if tabular:
        return _file(source, form, site_column, label_column)
    if source in _BUILT_IN:
        rows = _mnist5k() if source == "mnist5k" else _digits()
    elif kind == "synthetic":
        rows = _synthetic(source, seed)
    elif kind == "flwr":
        images, table = hub.read(rest)
        rows = _images(images, 255, table, "training and test rows pooled")
    elif path.is_dir():
        images, labels = image_files.read(path)
        rows = _images(images, 255, {"label": labels}, "training and test rows pooled")
    elif path.is_file() and path.suffix.lower() == ".npz":
        rows = _npz(path)
    else:
        known = f"{', '.join(_BUILT_IN)}, synthetic[:A,B], flwr:NAME, postgresql://…, a folder or an existing file"
        raise DataError(f"no data {source!r}: give {known} (.npz, {', '.join(ENDINGS)})")
    values, y = np.unique(_names(path, rows.table, label_column), return_inverse=True)
    has_site = site_column in rows.table or site_column != "site"
    return Dataset(
        path.name,
        rows.X,
        y.astype(np.int64),
        _names(path, rows.table, site_column, keep=True).astype(np.str_) if has_site else None,
        tuple(map(str, values)),
        tuple(rows.features),
        # Rounded up, so that the bound still holds after squaring.
        math.nextafter(math.sqrt(len(rows.features)), math.inf),
        rows.note,
        rows.shape,
        rows.from_rows,
    )


def _coded(name: str, table: str, form: Form | None, codebook: Path, site: str) -> Dataset:
    """A table read by its codebook: the scale is public."""
    from secure_afl.tables import codebook as codebooks
    from secure_afl.tables import reading

    book, cells = codebooks.read(codebook), reading.read(table, form)
    if site != "site" and book.site not in ("", site):
        raise DataError(f"expected one site column, got {site!r} and {book.site!r} of the codebook")
    where = book.site or (site if site in cells.columns or site != "site" else "")
    note = f"scale: ranges and levels of {codebook.name}; nothing is read from the rows; {cells.form}"
    data, rows = _encoded(name, cells, book, where, note)
    return replace(data, origin=Origin(table, form, codebook, rows))


def _file(table: str, form: Form | None, site: str, label: str) -> Dataset:
    """A table that no codebook describes: its scale is read from its rows."""
    from secure_afl.tables import inferred, reading
    from secure_afl.tables.faults import enumerated

    cells = reading.read(table, form)
    if not cells.rows:
        raise DataError(f"{cells.source}: expected a header and then one line a row, got no rows")
    if label not in cells.columns:
        raise DataError(
            f"{cells.source}: expected a column {label!r}, there are "
            f"{enumerated(map(repr, cells.columns), 12)}; --label-column names another one, and a number to predict is declared "
            "in a codebook (--codebook)"
        )
    where = site if site in cells.columns or site != "site" else ""
    book, seen = inferred.codebook(cells, label, (site,))
    data, _ = _encoded(cells.source, cells, book, where, f"{_READ_FROM_FILE}; {cells.form}")
    kinds = {one.name: one.kind for one in data.about}
    about = [About(column, kinds.get(column, "not used"), values) for column, values in seen.items()]
    return replace(data, from_rows=True, about=tuple(about))


def _encoded(name: str, cells: "Cells", book: "Codebook", site: str, note: str) -> tuple[Dataset, Ints]:
    """A data set, and its rows' numbers in the table."""
    from secure_afl.tables import encoding, inferred
    from secure_afl.tables.terms import row_norm, terms

    design = encoding.encode(book, cells)
    assert design.outcome is not None
    if not len(design.rows):
        raise DataError(
            f"{cells.source}: expected rows to learn from, the codebook takes none of {cells.rows} rows: see `secure-afl "
            "codebook check`"
        )
    data = Dataset(
        name,
        design.X,
        design.outcome,
        inferred.sites(cells, site, LONGEST_NAME, design.rows) if site else None,
        book.classes,
        tuple(term.name for term in terms(book)),
        row_norm(book),
        note,
        design.X.shape[1:],
        about=tuple(About(*one) for one in encoding.described(book, design.counts)),
        codebook=book,
        weights=design.weights,
        held_out=design.held_out,
    )
    return data, design.rows


def through(data: Dataset, backbone: "Backbone", folder: Path | None = None) -> Dataset:
    """The data with a frozen backbone's features as columns. folder: see `Backbone.rows`. Raises `DataError`."""
    if data.codebook:
        raise DataError(f"{data.name}: expected images or arrays for a backbone, got a table with a codebook")
    X = backbone.rows(data.X, data.name, folder)
    return replace(
        data,
        X=X,
        features=tuple(_numbered(X)),
        shape=X.shape[1:],
        row_norm=math.sqrt(X.shape[1]),
        note=f"scale: the limit of the backbone {backbone.digest[:16]}, {backbone.limit:g}",
    )


def _mnist5k() -> _Rows:
    with np.load(_FOLDER / "mnist5k.npz", allow_pickle=False) as arrays:
        return _images(arrays["x"][:, None], 255, {"label": arrays["y"]})


def _digits() -> _Rows:
    from sklearn.datasets import load_digits  # slow to import, so only here

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


def _names(path: Path, table: dict[str, Any], name: str, keep: bool = False) -> NDArray[Any]:
    """Labels or sites: strings, or int64 if all are whole numbers; `keep` leaves them as strings."""
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


def _power(values: Floats) -> Any:
    """Per column the smallest power of two that covers it: dividing by it is exact and reversible."""
    fraction, exponent = np.frexp(np.abs(values).max(axis=0))
    return np.ldexp(1.0, exponent - (fraction == 0.5))


def _npz(path: Path) -> _Rows:
    expected = f"{path.name} is not an .npz file of plain arrays, as numpy.savez writes it"
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            single = file.read(6) == b"\x93NUMPY"
        got = "one array, as numpy.save writes it" if single else "something else"
        raise DataError(f"{expected}: got {got}")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:  # pickles run code
            table: dict[str, NDArray[Any]] = dict(arrays)
    except ValueError:
        raise DataError(f"{expected}: got arrays of Python objects; store numbers and words") from None
    except (OSError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{expected}: got a broken one ({type(error).__name__})") from None
    table = {"label": table["y"], **table} if "y" in table else table
    X = table["X"] if "X" in table else table.get("x", np.empty(0))
    if X.dtype.kind not in "biuf" or X.ndim == 0 or not len(X):
        raise DataError(f"{path.name}: no rows of numbers in x or X, there are {', '.join(table)}")
    image = {3: (1, *X.shape[1:]), 4: X.shape[1:]}.get(X.ndim)
    X = X.reshape(len(X), -1).astype(np.float64)
    for row, column in np.argwhere(~(np.abs(X) <= 1e300))[:1]:
        raise _bad_cell(path, f"x{column}", row, str(X[row, column]), "a finite number")
    return _Rows(X / _power(X), _numbered(X), image or X.shape[1:], table, _READ_FROM_FILE, from_rows=True)


def _bad_cell(path: Path, column: str, row: int, cell: str, expected: str) -> DataError:
    return DataError(f"{path.name}, column {column!r}, data row {row + 1}: {cell!r}, expected {expected}")


def _number(cell: Any) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError):
        return math.nan
