"""Frozen backbones: networks that somebody else trained, whose features are the rows of a federated model.

A backbone is a public function of one sample, like a layer without weights: it needs no sum and no trust in a party, if all
parties have the same weights. A digest names these.

What differs between machines. A backbone computes in float32, whose last bits depend on the CPU and the library. Features are
rounded to the grid of 2⁻¹⁰, which hides nearly all of that; where a value lies between two grid points, two machines may give
neighbouring ones. So a site keeps the features that it computed first (`folder`), and sums over them are exact: the model is
bit-equal to that of the pooled *features*, and equal only up to such steps to that of the pooled images on one machine. On one
machine a sample's features are the same whatever samples are beside it, as each is computed by itself on one thread.
"""

import copy
import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from secure_afl.crypto.errors import optional
from secure_afl.errors import DataError
from secure_afl.models.networks.grid import GRID_BITS
from secure_afl.protocol.files import whole
from secure_afl.protocol.session.errors import FileError

if TYPE_CHECKING:
    import torch

_OTHER_FILES = "session.model_external_initializers_file_folder_path"
# Before this version it reads weights at any path, whatever folder is named, and some out of memory.
_KEPT_APART = (1, 24, 1)
Rows = npt.NDArray[np.float64]
Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Backbone:
    """A frozen network from samples to features; make one with `of_module` or `of_onnx`.

    Parameters
    ----------
    digest : str
        SHA-256 of the weights, in hex: of the ONNX file's bytes, or of a module's names and tensors.
    input_shape : tuple of int
        Of one sample.
    features : int
        Values that the backbone gives for a sample.
    limit : float
        Features are cut off at ±limit and divided by it, as by a last layer of the backbone, so that all parties know their
        bound: 6 after a ReLU6.
    """

    digest: str
    input_shape: tuple[int, ...]
    features: int
    limit: float
    forward: Callable[[Samples], Samples] = field(repr=False, compare=False)

    @classmethod
    def of_module(
        cls, module: "torch.nn.Module", input_shape: tuple[int, ...], *, limit: float, digest: str = ""
    ) -> "Backbone":
        """A copy of a module of torch, in evaluation mode. digest: what it must have; empty: any.

        The digest covers weights, not code: parties must have the same module.
        Raises `DataError` for another digest, and for a module that takes no sample of this shape.
        """
        with optional():
            import torch
        frozen, found = copy.deepcopy(module).eval(), hashlib.sha256()
        for name, values in sorted(frozen.state_dict().items()):
            array = np.ascontiguousarray(values.detach().cpu().numpy())
            found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            found.update(array.tobytes())

        def forward(samples: Samples) -> Samples:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)  # more would add up in another order
            try:
                with torch.inference_mode():
                    return np.asarray(frozen(torch.from_numpy(samples)).numpy(), dtype=np.float32)
            finally:
                torch.set_num_threads(threads)

        return cls._of(found.hexdigest(), digest, input_shape, limit, forward, type(module).__name__)

    @classmethod
    def of_onnx(cls, file: Path, *, limit: float, digest: str = "") -> "Backbone":
        """A network of an ONNX file with one input of shape (samples, …). digest: what it must have; empty: any.

        The file holds a graph and no code; one whose weights are in other files is refused, as the digest does not cover them.
        Raises `DataError` for another digest, and for a file that is no such network.
        """
        with optional():
            import onnxruntime
        if tuple(map(int, re.findall(r"\d+", onnxruntime.__version__)[:3])) < _KEPT_APART:
            raise DataError(
                f"expected onnxruntime {'.'.join(map(str, _KEPT_APART))} or later, which reads nothing but the file that has the digest, "
                f"got {onnxruntime.__version__}: pip install --upgrade 'secure-afl[onnx]'"
            )
        content = _bytes(file)
        found = hashlib.sha256(content).hexdigest()
        _check_digest(file.name, found, digest)  # before anything parses it
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        settings.log_severity_level = 4
        try:
            # Weights in other files would escape the digest: they are looked for in an empty folder, not in the current one.
            with TemporaryDirectory() as empty:
                settings.add_session_config_entry(_OTHER_FILES, empty)
                session = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
            given = [(one.name, one.type, one.shape) for one in session.get_inputs()]
        except Exception as error:  # noqa: BLE001 - onnxruntime raises classes of its own, of which none is documented
            raise DataError(f"{file.name}: expected a network as an ONNX file: {error}") from None
        match given:
            case [(name, "tensor(float)", [_, *sides])] if all(type(side) is int for side in sides):
                pass
            case _:
                raise DataError(
                    f"{file.name}: expected one input of float32 with a shape (samples, …), got {given}"
                )

        def forward(samples: Samples) -> Samples:
            first: Any = session.run(None, {name: samples})[0]
            return np.asarray(first, dtype=np.float32)

        return cls._of(found, digest, tuple(sides), limit, forward, file.name)

    @classmethod
    def _of(
        cls,
        found: str,
        digest: str,
        input_shape: tuple[int, ...],
        limit: float,
        forward: Callable[[Samples], Samples],
        name: str,
    ) -> "Backbone":
        _check_digest(name, found, digest)
        if not (0 < limit <= 2.0**16) or not input_shape or min(input_shape) < 1:
            raise DataError(
                f"{name}: expected a limit above 0 and up to 65536 and sides of at least 1, got {limit} and {input_shape}"
            )
        try:
            given = forward(np.zeros((1, *input_shape), np.float32))
        except Exception as error:  # noqa: BLE001 - whatever a network says of a shape that is not its own
            raise DataError(
                f"{name}: expected a network of samples of shape {input_shape}: {error}"
            ) from None
        if given.shape[:1] != (1,) or not given.size:
            raise DataError(f"{name}: expected features of shape (samples, …), got {given.shape}")
        return cls(found, input_shape, given.size, limit, forward)

    def rows(self, X: npt.NDArray[Any], who: str = "the samples", folder: Path | None = None) -> Rows:
        """The features of samples X (n, …), (n, features), between −1 and 1 on the grid of 2⁻¹⁰.

        folder: where they are kept, to be read in place of computing them again. They tell as much as X does.
        Raises `DataError`, which names `who`, for samples of another size, and for features that are not finite.
        """
        if X.ndim < 1 or X[:1].size not in (0, prod(self.input_shape)):
            raise DataError(f"{who}: expected samples of shape {self.input_shape}, got X of shape {X.shape}")
        if folder is None:
            return self._computed(X, who)
        key = hashlib.sha256(f"{self.digest} {self.limit!r} {X.dtype.str} {X.shape}\n".encode())
        # Two modules may have the same weights and compute different things: what ours makes of one sample is in the name.
        probe = np.linspace(-1, 1, prod(self.input_shape), dtype=np.float32)
        key.update(self.forward(probe.reshape(1, *self.input_shape)).tobytes())
        key.update(np.ascontiguousarray(X).data)
        file = folder / f"features-{key.hexdigest()}.npy"
        if file.exists():
            try:
                kept = np.load(io.BytesIO(_bytes(file)), allow_pickle=False)
            except (ValueError, EOFError):
                kept = np.empty(0)
            if kept.shape != (len(X), self.features) or kept.dtype != np.float32:
                raise DataError(
                    f"{file}: expected features of {len(X)} samples, got an array of shape {kept.shape}: delete the file"
                )
            return np.asarray(kept, dtype=np.float64)
        found, held = self._computed(X, who), io.BytesIO()
        np.save(held, found.astype(np.float32))  # exact: of 11 bits
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            whole.write_new(file, held.getvalue(), 0o600)
        except FileError:
            if not file.exists():  # another process may have kept the same features meanwhile
                raise
        return found

    def _computed(self, X: npt.NDArray[Any], who: str) -> Rows:
        found = np.empty((len(X), self.features))
        for row, sample in enumerate(X):  # singly: a library may compute otherwise for many
            given = self.forward(np.asarray(sample, np.float32).reshape(1, *self.input_shape)).ravel()
            if not np.isfinite(given).all():
                raise DataError(f"{who}: the backbone's features of row {row + 1} are not finite")
            found[row] = given
        np.clip(found, -self.limit, self.limit, out=found)
        found *= 2.0**GRID_BITS / self.limit
        return np.rint(found, out=found) * 2.0**-GRID_BITS


def _check_digest(name: str, found: str, expected: str) -> None:
    if expected and found != expected.lower():
        raise DataError(f"{name}: expected weights with the SHA-256 {expected}, got {found}")


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None
