"""What a network study reads at a site in place of columns: an array of samples, and the features of a frozen backbone."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from secure_afl.errors import DataError

FILE, SAMPLES = ".npz", "X"  # of a site's arrays; the labels are called as the study calls them
FEATURES = "features"
"""The folder of a site in which the features of its samples are kept."""
_BLOCK = 500  # rows
Array = npt.NDArray[Any]


class Frozen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A network that nobody trains, in front of the one that is learned: an ONNX file in each site's folder.

    file: its name; sha256: of its bytes, which all parties agree on with the study; input_shape: of one sample; limit: see
    `Backbone`. Raises `DataError`.
    """

    file: str
    sha256: str
    input_shape: tuple[int, ...]
    limit: float = 6.0

    def __post_init__(self) -> None:
        if not self.file.endswith(".onnx") or Path(self.file).name != self.file or "\\" in self.file:
            raise DataError(
                f"expected file of [fedacnnl.backbone] as the name of an .onnx file in each site's folder, got {self.file!r}"
            )
        if len(self.sha256) != 64 or set(self.sha256) - set("0123456789abcdef"):
            raise DataError(
                f"expected sha256 of [fedacnnl.backbone] as 64 digits 0 to f, got {self.sha256!r}: sha256sum {self.file}"
            )
        if not self.input_shape or min(self.input_shape) < 1 or not 0 < self.limit <= 2.0**16:
            raise DataError(
                "expected input_shape of [fedacnnl.backbone] with sides of at least 1 and a limit above 0 and up to 65536, got "
                f"{list(self.input_shape)} and {self.limit:g}"
            )

    def rows(
        self, X: Array, scale: float, features: int, folder: Path, *, keep: bool
    ) -> npt.NDArray[np.float64]:
        """The features of a site's samples divided by `scale`, (rows, features). folder: of the site, which has the file; keep:
        features are kept there, and not computed again. Raises `DataError`, also for a file with another digest.
        """
        from secure_afl.models.networks.backbone import Backbone  # onnxruntime

        if not (folder / self.file).exists():
            raise DataError(
                f"{folder / self.file}: expected the backbone that the study names, got no file: put the one with the SHA-256 "
                f"{self.sha256} there"
            )
        backbone = Backbone.of_onnx(folder / self.file, limit=self.limit, digest=self.sha256)
        if (backbone.input_shape, backbone.features) != (self.input_shape, features):
            raise DataError(
                f"{self.file}: expected a network from samples of shape {self.input_shape} to {features} features, got one from "
                f"{backbone.input_shape} to {backbone.features}: the study names another file than it describes"
            )
        forward = backbone.forward
        scaled = replace(backbone, forward=lambda samples: forward(samples / np.float32(scale)))
        return scaled.rows(X, "this site", folder / FEATURES if keep else None)


def read(
    file: Path, label: str, classes: Sequence[str], shape: tuple[int, ...], largest: float | None
) -> tuple[Array, npt.NDArray[np.str_]]:
    """Samples (rows, values), as their file has them, and labels (rows,) of an .npz file.

    label: the name of the array of labels; empty: none is read, and the labels are empty texts. shape: of one sample; largest: absolute value of an entry, None for any finite one.
    Raises `DataError`, which quotes no value.
    """
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files if name in (SAMPLES, label)}
            if not label and SAMPLES in arrays:
                arrays[label] = np.full(arrays[SAMPLES].shape[:1], "")
    except OSError as error:
        raise DataError(f"{file.name}: cannot be read: {error.strerror or type(error).__name__}") from None
    except Exception:  # noqa: BLE001 - what a damaged zip raises is not documented; of no file, or pickled objects, ValueError
        raise DataError(f"{file.name}: expected an .npz file of numpy with numbers and texts") from None
    if len(arrays) < 2:
        raise DataError(
            f"{file.name}: expected the array{'s' * bool(label)} {SAMPLES!r} of samples{f' and {label!r} of labels' if label else ''}, "
            f"got {', '.join(arrays) or 'neither'}"
        )
    X, y = arrays[SAMPLES], arrays[label]
    if X.dtype.kind not in "uif" or X.ndim < 2 or X.shape[1:] not in (shape, (int(np.prod(shape)),)):
        raise DataError(
            f"{file.name}: expected {SAMPLES!r} as numbers of shape (rows, {', '.join(map(str, shape))}), got {X.dtype} of shape "
            f"{X.shape}"
        )
    if y.shape != (len(X),) or y.dtype.kind not in "uiU":
        raise DataError(
            f"{file.name}: expected {label!r} as {len(X)} texts or whole numbers, got {y.dtype} of shape {y.shape}"
        )
    samples, labels = X.reshape(len(X), int(np.prod(shape))), y.astype(np.str_)
    if label and len(wrong := np.flatnonzero(~np.isin(labels, np.array(classes)))):
        raise DataError(
            f"{file.name}, {label!r}, row {wrong[0] + 1}: expected one of {', '.join(map(repr, classes))} ({len(wrong)} such rows)"
        )
    bound = np.inf if largest is None else largest
    for start, block in blocks(samples):
        absolute = np.abs(block.astype(np.float64))
        if len(wrong := np.flatnonzero(~((absolute <= bound) & np.isfinite(absolute)).all(axis=1))):
            most = (
                "finite numbers" if largest is None else f"numbers from -{largest:g} to {largest:g} (scale)"
            )
            raise DataError(f"{file.name}, {SAMPLES!r}, row {start + wrong[0] + 1}: expected {most}")
    return samples, labels


def blocks(X: Array) -> Iterator[tuple[int, Array]]:
    """Rows in pieces, each with the number of its first row, from 0."""
    for start in range(0, len(X), _BLOCK):
        yield start, X[start : start + _BLOCK]
