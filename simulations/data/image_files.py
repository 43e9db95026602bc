"""Read the original files of MNIST, Fashion-MNIST and CIFAR-10 from a folder."""

import gzip
import io
import math
import pickle
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_afl.errors import DataError

Pixels = NDArray[np.uint8]  # (rows, channels, height, width)
Labels = NDArray[Any]  # (rows,), whole numbers or names
_CIFAR_SHAPE = (3, 32, 32)
_CIFAR_ROW = math.prod(_CIFAR_SHAPE)
_CIFAR_CLASSES = np.array(
    ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
)
_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
_IDX = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
# By format: the names that its files have, all of them needed.
_FORMATS = {
    "MNIST (IDX)": _IDX,
    "CIFAR-10 (binary)": tuple(f"{name}.bin" for name in _BATCHES),
    "CIFAR-10 (python)": _BATCHES,
}
_MOST_BYTES = 2**30  # of one IDX file: EMNIST, the largest published, has 0.64e9


def read(folder: Path) -> tuple[Pixels, Labels]:
    """All images of the folder, training files first, uint8 (rows, channels, height, width), and their labels.

    The file names determine the format: IDX files `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-…`
    (also with a dot before `idx`, also with `.gz`), or `data_batch_1.bin` to `_5.bin` and `test_batch.bin`, or
    the same without `.bin`, which are Python pickles; reading them runs no code from them.
    Raises `DataError` for a folder with none, only some, or several of these formats, and for broken files.
    """
    form, files = _files(folder)
    if form == "MNIST (IDX)":
        images = [_idx(file, 3) for file in files[::2]]
        labels = [_idx(file, 1) for file in files[1::2]]
        for file, image, label in zip(files[::2], images, labels, strict=True):
            if len(image) != len(label):
                raise DataError(
                    f"{file.name}: {len(image)} images, but {len(label)} labels in its other file"
                )
        if images[0].shape[1:] != images[1].shape[1:]:
            sizes = " and ".join(f"{a}x{b}" for a, b in (image.shape[1:] for image in images))
            raise DataError(f"{folder.name}: training and test images differ in size, {sizes} pixels")
        return np.concatenate(images)[:, None], np.concatenate(labels)
    one = _cifar_binary if form == "CIFAR-10 (binary)" else _cifar_pickle
    batches = []
    for file in files:
        pixels, numbers = one(file)
        if not len(numbers) or numbers.min() < 0 or numbers.max() >= len(_CIFAR_CLASSES):
            raise DataError(f"{file.name}: expected rows with labels 0 to {len(_CIFAR_CLASSES) - 1}")
        batches.append((pixels.reshape(-1, *_CIFAR_SHAPE), _CIFAR_CLASSES[numbers]))
    return np.concatenate([batch[0] for batch in batches]), np.concatenate([batch[1] for batch in batches])


def _files(folder: Path) -> tuple[str, list[Path]]:
    """The format that the names in a folder show, and its files in the order of _FORMATS."""
    found: dict[str, dict[str, Path]] = {form: {} for form in _FORMATS}
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder.name} cannot be read: {error.strerror}") from None
    for path in paths:
        # Some downloads have train-images.idx3-ubyte, and .gz is how the files are served.
        name = re.sub(r"\.(?=idx[13]-ubyte$)", "-", path.name.removesuffix(".gz"))
        for form, names in _FORMATS.items():
            if name in names and (form == "MNIST (IDX)" or name == path.name):
                if other := found[form].get(name):
                    raise DataError(f"{folder.name}: {other.name} and {path.name} are the same: keep one")
                found[form][name] = path
    present = [form for form in _FORMATS if found[form]]
    if not present:
        expected = "; ".join(f"{form}: {', '.join(names)}" for form, names in _FORMATS.items())
        raise DataError(f"{folder.name}: no image files in this folder, expected the names of {expected}")
    if len(present) > 1:
        raise DataError(f"{folder.name}: files of {' and '.join(present)}: expected one folder for each")
    form = present[0]
    if missing := [name for name in _FORMATS[form] if name not in found[form]]:
        raise DataError(f"{folder.name}: {form} files, but {', '.join(missing)} missing")
    return form, [found[form][name] for name in _FORMATS[form]]


def _idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """One IDX file of bytes: zero, zero, 8 (unsigned bytes), the number of dimensions, their sizes, the data."""
    header = 4 + 4 * dimensions
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as file:
            head = file.read(header)
            expected = bytes((0, 0, 8, dimensions))
            if head[:4] != expected:
                raise DataError(f"{path.name}: expected to begin with {expected.hex()}, got {head[:4].hex()}")
            if len(head) < header:
                raise DataError(f"{path.name}: cut short, {len(head)} bytes of a header of {header}")
            shape = tuple(int(size) for size in np.frombuffer(head, ">u4", offset=4))
            size = math.prod(shape)
            if not 0 < size <= _MOST_BYTES:
                raise DataError(
                    f"{path.name}: expected 1 to {_MOST_BYTES} bytes of data, the header says {shape}"
                )
            data = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path.name} cannot be read: {error}") from None
    if len(data) != size:
        came = "more" if len(data) > size else len(data)
        raise DataError(f"{path.name}: expected {size} bytes after the header, got {came}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _cifar_binary(path: Path) -> tuple[Pixels, NDArray[np.int64]]:
    """A row is a byte for the label and 3072 for the pixels: red, green, blue, each row by row."""
    data = np.frombuffer(_bytes(path), np.uint8)
    if len(data) % (1 + _CIFAR_ROW):
        raise DataError(f"{path.name}: expected rows of {1 + _CIFAR_ROW} bytes, got {len(data)} bytes")
    rows = data.reshape(-1, 1 + _CIFAR_ROW)
    return rows[:, 1:], rows[:, 0].astype(np.int64)


def _cifar_pickle(path: Path) -> tuple[Pixels, NDArray[np.int64]]:
    """A pickled dictionary: `data`, an array of bytes (rows, 3072), and `labels`, a list of whole numbers."""
    content = io.BytesIO(_bytes(path))
    try:
        batch = _Unpickler(content, encoding="bytes").load()
    except Exception as error:  # noqa: BLE001 - broken pickles raise nearly anything
        raise DataError(f"{path.name} is not a batch of CIFAR-10: {error}") from None
    fields = batch if isinstance(batch, dict) else {}
    array, labels = fields.get(b"data"), fields.get(b"labels")
    match array:
        case _Recorded(state=(_, (int(rows), columns), _Recorded(arguments=(b"u1", *_)), False, bytes(data))):
            if columns != _CIFAR_ROW or len(data) != rows * _CIFAR_ROW:
                raise DataError(f"{path.name}: expected rows of {_CIFAR_ROW} bytes, got {rows}x{columns}")
        case _:
            raise DataError(f"{path.name}: expected `data` to be an array of bytes, row by row")
    if not isinstance(labels, list) or len(labels) != rows or any(label not in range(10) for label in labels):
        raise DataError(
            f"{path.name}: expected `labels` to be {rows} numbers from 0 to 9, one for each image"
        )
    return np.frombuffer(data, np.uint8), np.array(labels, np.int64)


class _Recorded:
    """Stands in a pickle for everything of NumPy: keeps what it is given and does nothing with it."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Runs nothing: what an array of CIFAR-10 needs becomes a _Recorded, any other name is refused."""

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in (
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        ):
            raise pickle.UnpicklingError(f"it asks to run {module}.{name}, which no original file does")
        return _Recorded


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {error}") from None
