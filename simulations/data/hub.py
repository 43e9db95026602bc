"""Images through Flower Datasets: a data set of the Hugging Face Hub, or a local folder of parquet files."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_afl.crypto.errors import optional
from secure_afl.errors import DataError

_MODES = {"L": 1, "RGB": 3}  # channels by the mode of the image, a byte each


def read(name: str) -> tuple[NDArray[np.uint8], dict[str, list[Any]]]:
    """All images of all splits, uint8 (rows, channels, height, width), and the other columns by name.

    name: as in `ylecun/mnist`, or the path of a folder. Exactly one column must hold images, all grey or all
    RGB and of one size; columns of plain values and of class names are kept, the names as words.
    Raises DataError where the package cannot load the data, and for other columns.
    """
    if not name:
        raise DataError("expected flwr:NAME, a data set of the Hugging Face Hub or the path of a folder")
    with optional():
        from flwr_datasets import FederatedDataset  # slow to import
    try:
        # `load_split` would report every call to the makers of the package, this property does not.
        pooled = FederatedDataset(
            dataset=name, partitioners={"all": 1}, preprocessor=_pool, shuffle=False
        ).partitioners["all"]
        return _columns(name, pooled.dataset)
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the Hub, parquet and the image formats raise
        reason = (str(error).splitlines() or [""])[0]
        raise DataError(f"flwr:{name} cannot be loaded: {type(error).__name__}: {reason}") from None


def _pool(splits: Any) -> Any:
    from datasets import DatasetDict, concatenate_datasets

    return DatasetDict(all=concatenate_datasets(list(splits.values())))


def _columns(name: str, rows: Any) -> tuple[NDArray[np.uint8], dict[str, list[Any]]]:
    from datasets import ClassLabel, Image, Value

    # A parquet file that others than `datasets` wrote has images as {bytes, path}, without saying so.
    pictures = [
        column
        for column, kind in rows.features.items()
        if isinstance(kind, Image) or (isinstance(kind, dict) and set(kind) == {"bytes", "path"})
    ]
    if len(pictures) != 1:
        which = ", ".join(pictures) or f"none among {', '.join(rows.features)}"
        raise DataError(f"flwr:{name}: expected exactly one column of images, got {which}")
    table = {}
    for column, kind in rows.features.items():
        if isinstance(kind, ClassLabel):
            table[column] = kind.int2str(list(rows[column]))
        elif isinstance(kind, Value):
            table[column] = list(rows[column])
    return _images(name, rows.cast_column(pictures[0], Image())[pictures[0]]), table


def _images(name: str, pictures: Any) -> NDArray[np.uint8]:
    first = pictures[0]
    if first.mode not in _MODES:
        raise DataError(f"flwr:{name}: expected grey or RGB images of 8 bits, got mode {first.mode}")
    pixels = np.empty((len(pictures), first.height, first.width, _MODES[first.mode]), np.uint8)
    for row, picture in enumerate(pictures):
        if (picture.mode, picture.size) != (first.mode, first.size):
            came = f"{picture.mode} {picture.width}x{picture.height}"
            expected = f"{first.mode} {first.width}x{first.height} as the first"
            raise DataError(f"flwr:{name}, row {row + 1}: expected {expected}, got {came}")
        pixels[row] = np.asarray(picture).reshape(pixels.shape[1:])
    return np.moveaxis(pixels, 3, 1)
