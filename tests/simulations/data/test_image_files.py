import gzip
import math
import pickle
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from secure_afl.errors import DataError
from secure_afl.simulations.data import image_files
from secure_afl.simulations.data.dataset import load

Bytes = NDArray[np.uint8]
CIFAR = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]


def idx(array: Bytes) -> bytes:
    """As published: two zeros, 8 for unsigned bytes, the sizes big-endian, the bytes."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def pickled(data: Bytes, labels: list[int]) -> bytes:
    """As Python 2's cPickle wrote the original: protocol 2, strings of bytes, an ndarray built by _reconstruct."""
    integers = b"".join(b"K" + bytes([label]) for label in labels)
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"".join(b"J" + struct.pack("<i", size) for size in data.shape) + b"\x86"
    raw = b"T" + struct.pack("<i", data.size) + data.tobytes()
    state = b"(K\x01" + shape + dtype + b"\x89" + raw + b"tb"
    name = b"U\x0bbatch_labelU\x15training batch 1 of 5"
    return b"\x80\x02}(" + name + b"U\x06labels](" + integers + b"eU\x04data" + array + state + b"u."


def some(*shape: int, below: int = 256) -> Bytes:
    return np.random.default_rng(math.prod(shape)).integers(0, below, shape).astype(np.uint8)


def mnist(folder: Path, train: int = 5, test: int = 3) -> tuple[Bytes, Bytes]:
    """Writes four small files; gives all images and labels in order."""
    images, labels = some(train + test, 6, 4), some(train + test, below=10)
    for name, rows in (("train", slice(train)), ("t10k", slice(train, None))):
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx(images[rows]))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels[rows]))
    return images, labels


def binary(data: Bytes, labels: list[int]) -> bytes:
    return b"".join(bytes([label]) + row.tobytes() for label, row in zip(labels, data, strict=True))


def cifar(folder: Path, write: Callable[[Bytes, list[int]], bytes], suffix: str) -> tuple[Bytes, list[int]]:
    images, labels = some(12, 3072), [*range(10), 0, 9]
    for i, name in enumerate(CIFAR):
        rows = slice(2 * i, 2 * i + 2)
        (folder / (name + suffix)).write_bytes(write(images[rows], labels[rows]))
    return images, labels


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("dotted", [False, True])
def test_idx_files_are_loaded_as_they_were_written(compress: bool, dotted: bool, tmp_path: Path) -> None:
    images, labels = mnist(tmp_path)
    for path in list(tmp_path.iterdir()):
        content, name = path.read_bytes(), path.name.replace("-idx", ".idx") if dotted else path.name
        path.unlink()
        named = tmp_path / (name + ".gz" if compress else name)
        named.write_bytes(gzip.compress(content) if compress else content)
    (tmp_path / "README").write_text("something else in the folder does no harm")
    data = load(str(tmp_path))
    assert data.name == tmp_path.name
    assert data.shape == (1, 6, 4)
    np.testing.assert_array_equal(data.X, images.reshape(8, 24) / 255)
    assert [data.classes[label] for label in data.y] == [str(label) for label in labels]
    assert data.row_norm == pytest.approx(math.sqrt(24))
    assert data.site is None
    assert data.note.startswith("scale: the value of a white pixel")
    assert data.note.endswith("training and test rows pooled")


@given(st.data())
def test_any_idx_image_comes_back(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(*[st.integers(1, 4)] * 3))
    pixels = data.draw(st.binary(min_size=math.prod(shape), max_size=math.prod(shape)))
    array = np.frombuffer(pixels, np.uint8).reshape(shape)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(idx(array))
        np.testing.assert_array_equal(image_files._idx(path, 3), array)


@pytest.mark.parametrize(("write", "suffix"), [(binary, ".bin"), (pickled, "")])
def test_cifar_10_is_loaded_as_it_was_written(
    write: Callable[[Bytes, list[int]], bytes], suffix: str, tmp_path: Path
) -> None:
    images, labels = cifar(tmp_path, write, suffix)
    (tmp_path / "batches.meta").write_bytes(b"never read")
    data = load(str(tmp_path))
    assert data.shape == (3, 32, 32)
    np.testing.assert_array_equal(data.X, images / 255)
    assert data.y.tolist() == labels
    assert data.classes[:2] == ("airplane", "automobile")
    assert data.classes[-1] == "truck"


def test_the_pickle_of_the_tests_is_one_that_numpy_reads() -> None:
    images = some(2, 3072)
    batch = pickle.loads(pickled(images, [3, 4]), encoding="bytes")
    np.testing.assert_array_equal(batch[b"data"], images)
    assert batch[b"labels"] == [3, 4]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte", b"", "expected to begin with 00000803, got $"),
        ("train-images-idx3-ubyte", idx(some(5)), "expected to begin with 00000803, got 00000801"),
        ("train-labels-idx1-ubyte", idx(some(5, 6, 4)), "expected to begin with 00000801, got 00000803"),
        ("train-images-idx3-ubyte", idx(some(5, 6, 4))[:9], "cut short, 9 bytes of a header of 16"),
        ("train-images-idx3-ubyte", idx(some(5, 6, 4))[:-1], "expected 120 bytes after the header, got 119"),
        ("t10k-labels-idx1-ubyte", idx(some(3)) + b"0", "expected 3 bytes after the header, got more"),
        ("train-images-idx3-ubyte", idx(some(0, 6, 4)), r"the header says \(0, 6, 4\)"),
        ("train-images-idx3-ubyte", idx(some(1, 1, 1))[:4] + b"\xff" * 12, r"the header says \(4294967295, "),
        ("train-labels-idx1-ubyte", idx(some(4)), "train-images.*: 5 images, but 4 labels in its other file"),
        ("t10k-images-idx3-ubyte", idx(some(3, 4, 6)), "differ in size, 6x4 and 4x6 pixels"),
    ],
)
def test_broken_idx_files(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    mnist(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(str(tmp_path))


# mtime: processes that share the tests out must have the same ones, in whatever second they look.
@pytest.mark.parametrize(
    "content",
    [b"not gzip", gzip.compress(idx(some(5)), mtime=0)[:-12], b"\x1f\x8b\x08\0\0\0\0\0\0\3\xff\xff"],
)
def test_broken_compression(content: bytes, tmp_path: Path) -> None:
    mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz cannot be read"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "data_batch_2.bin: expected rows with labels 0 to 9"),
        (bytes(3072), "data_batch_2.bin: expected rows of 3073 bytes, got 3072 bytes"),
        (b"\x0a" + bytes(3072), "data_batch_2.bin: expected rows with labels 0 to 9"),
    ],
)
def test_broken_binary_batches(content: bytes, message: str, tmp_path: Path) -> None:
    cifar(tmp_path, binary, ".bin")
    (tmp_path / "data_batch_2.bin").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(str(tmp_path))


class Call:
    """What a malicious pickle holds: loading it the usual way would call `function`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


GOOD = pickled(some(2, 3072), [1, 2])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a batch of CIFAR-10: Ran out of input"),
        (GOOD[:-1], "is not a batch of CIFAR-10"),
        (GOOD[:100], "is not a batch of CIFAR-10"),
        (b"PK\x03\x04", "is not a batch of CIFAR-10"),
        (pickle.dumps([1]), "expected `data` to be an array of bytes"),
        (pickle.dumps({b"labels": [1]}), "expected `data` to be an array of bytes"),
        (pickle.dumps({b"data": b"1", b"labels": [1]}), "expected `data` to be an array of bytes"),
        (GOOD.replace(b"U\x02u1", b"U\x02O8"), "expected `data` to be an array of bytes"),
        (GOOD.replace(b"tb\x89T", b"tb\x88T"), "expected `data` to be an array of bytes, row by row"),
        (pickled(some(2, 1024), [1, 2]), "expected rows of 3072 bytes, got 2x1024"),
        (GOOD.replace(b"J\x02\0\0\0", b"J\x03\0\0\0"), "expected rows of 3072 bytes, got 3x3072"),
        (GOOD.replace(b"J\x02\0\0\0", b"J\xfe\xff\xff\xff"), "expected rows of 3072 bytes, got -2x3072"),
        (pickled(some(2, 3072), [1]), "expected `labels` to be 2 numbers from 0 to 9"),
        (pickled(some(2, 3072), [1, 10]), "expected `labels` to be 2 numbers from 0 to 9"),
        (GOOD.replace(b"K\x01K\x02e", b"U\x011K\x02e"), "expected `labels` to be 2 numbers from 0 to 9"),
        (GOOD.replace(b"U\x06labels", b"U\x06coarse"), "expected `labels` to be 2 numbers from 0 to 9"),
        (pickled(np.zeros((0, 3072), np.uint8), []), "expected rows with labels 0 to 9"),
    ],
)
def test_broken_pickles(content: bytes, message: str, tmp_path: Path) -> None:
    cifar(tmp_path, pickled, "")
    (tmp_path / "data_batch_3").write_bytes(content)
    with pytest.raises(DataError, match=f"data_batch_3.*{message}"):
        load(str(tmp_path))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_runs_nothing(protocol: int, tmp_path: Path) -> None:
    cifar(tmp_path, pickled, "")
    trace = tmp_path / "trace"
    for call in (
        Call(Path.touch, trace),
        Call(eval, f"open({str(trace)!r}, 'w')"),
        Call(np.save, trace, [1]),
    ):
        (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": call, b"labels": [1]}, protocol))
        with pytest.raises(DataError, match="test_batch is not a batch of CIFAR-10: it asks to run "):
            load(str(tmp_path))
    assert not list(tmp_path.glob("trace*"))


def test_numpy_itself_is_not_run_on_a_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    # dtype and ndarray take a state unchecked enough to crash the interpreter: only stand-ins see it.
    for module, name in (("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")):
        found = image_files._Unpickler.find_class(None, module, name)  # type: ignore[arg-type]
        assert found is image_files._Recorded
    for module, name in (("numpy", "load"), ("builtins", "eval"), ("os", "system"), ("numpy", "dtype.type")):
        with pytest.raises(pickle.UnpicklingError, match=f"run {module}.{name}"):
            image_files._Unpickler.find_class(None, module, name)  # type: ignore[arg-type]


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_pickle_with_any_byte_changed_loads_or_is_refused(at: int, change: int) -> None:
    changed = bytearray(GOOD)
    changed[at] ^= change
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "test_batch"
        path.write_bytes(changed)
        try:
            pixels, labels = image_files._cifar_pickle(path)
        except DataError:
            return
    assert pixels.size == 2 * 3072
    assert labels.shape == (2,)


def test_folders_that_are_not_one_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no image files in this folder, expected .*train-images-idx3-ubyte"):
        load(str(tmp_path))
    mnist(tmp_path)
    (tmp_path / "data_batch_1").touch()
    with pytest.raises(
        DataError, match=r"files of MNIST \(IDX\) and CIFAR-10 \(python\): expected one folder"
    ):
        load(str(tmp_path))
    (tmp_path / "data_batch_1").unlink()
    (tmp_path / "t10k-labels.idx1-ubyte.gz").touch()
    with pytest.raises(
        DataError, match=r"t10k-labels-idx1-ubyte and t10k-labels\.idx1-ubyte\.gz are the same"
    ):
        load(str(tmp_path))
    (tmp_path / "t10k-labels.idx1-ubyte.gz").unlink()
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"MNIST \(IDX\) files, but t10k-labels-idx1-ubyte missing"):
        load(str(tmp_path))
    with pytest.raises(DataError, match="has its own site and label columns"):
        load(str(tmp_path), site_column="writer")


@pytest.mark.parametrize("suffix", ["", ".bin"])
def test_a_folder_where_a_file_should_be(suffix: str, tmp_path: Path) -> None:
    cifar(tmp_path, pickled if not suffix else binary, suffix)
    (tmp_path / f"test_batch{suffix}").unlink()
    (tmp_path / f"test_batch{suffix}").mkdir()
    with pytest.raises(DataError, match=f"test_batch{suffix} cannot be read"):
        load(str(tmp_path))


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        load(str(tmp_path))
