"""`flwr:NAME` on small parquet files, without a network; skipped where the extra `datasets` is not installed."""

import importlib.util
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secure_afl.crypto.errors import MissingExtraError
from secure_afl.errors import DataError
from secure_afl.simulations.data.dataset import load

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("flwr_datasets") is None,
    reason="flwr-datasets is not installed: pip install -e '.[datasets]'",
)


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network and no cache but the test's own, also where `datasets` read its environment long ago."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if importlib.util.find_spec("flwr_datasets"):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        import datasets

        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def png(pixels: NDArray[Any]) -> dict[str, Any]:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def parquet(folder: Path, split: str, **columns: Any) -> None:
    from pyarrow import parquet as pq
    from pyarrow import table

    (folder / "data").mkdir(parents=True, exist_ok=True)
    pq.write_table(table(columns), folder / "data" / f"{split}-00000-of-00001.parquet")


def pixels(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.slow
@needs_package
def test_all_splits_of_grey_images_come_back(tmp_path: Path) -> None:
    x = pixels(5, 6, 4)
    y = [7, 0, 7, 1, 0]
    for split, rows in (("train", slice(3)), ("test", slice(3, 5))):
        parquet(tmp_path / "toy", split, image=[png(one) for one in x[rows]], label=y[rows])
    data = load(f"flwr:{tmp_path / 'toy'}")
    assert data.name == "toy"
    assert data.shape == (1, 6, 4)
    np.testing.assert_array_equal(data.X, x.reshape(5, 24) / 255)
    assert [data.classes[label] for label in data.y] == ["7", "0", "7", "1", "0"]
    assert data.site is None
    assert data.note.endswith("pooled")


@needs_package
def test_colour_is_flattened_channel_first_and_names_and_writers_are_kept(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Image, Value

    x = pixels(3, 4, 5, 3)
    kinds = Features({"img": Image(), "kind": ClassLabel(names=["cat", "ant"]), "writer": Value("string")})
    columns = {"img": [png(one) for one in x], "kind": [0, 1, 1], "writer": ["007", "8", "007"]}
    (tmp_path / "toy").mkdir()
    Dataset.from_dict(columns, features=kinds).to_parquet(tmp_path / "toy" / "train.parquet")
    data = load(f"flwr:{tmp_path / 'toy'}", label_column="kind", site_column="writer")
    assert data.shape == (3, 4, 5)
    np.testing.assert_array_equal(data.X.reshape(3, 3, 4, 5), np.moveaxis(x, 3, 1) / 255)
    assert data.classes == ("ant", "cat")
    assert data.y.tolist() == [1, 0, 0]
    assert data.site is not None
    assert data.site.tolist() == ["007", "8", "007"]


@needs_package
def test_nothing_is_reported_to_the_makers_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flwr_datasets import federated_dataset
    from flwr_datasets.common import telemetry

    def report(*_: Any) -> None:
        raise AssertionError("telemetry")

    monkeypatch.setattr(federated_dataset, "event", report)
    monkeypatch.setattr(telemetry, "create_event", report)
    parquet(tmp_path / "toy", "train", image=[png(one) for one in pixels(2, 4, 4)], label=[0, 1])
    load(f"flwr:{tmp_path / 'toy'}")
    assert not (tmp_path / "home" / ".flwr").exists()


@needs_package
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [0, 1]}, "exactly one column of images, got none among label"),
        (
            {"a": pixels(2, 4, 4), "b": pixels(2, 4, 4), "label": [0, 1]},
            "exactly one column of images, got a, b",
        ),
        (
            {"image": [pixels(4, 4), pixels(4, 5)], "label": [0, 1]},
            "row 2: expected L 4x4 as the first, got L 5x4",
        ),
        (
            {"image": [pixels(4, 4), pixels(4, 4, 3)], "label": [0, 1]},
            "row 2: expected L 4x4 .*, got RGB 4x4",
        ),
        (
            {"image": pixels(2, 4, 4, 4), "label": [0, 1]},
            "expected grey or RGB images of 8 bits, got mode RGBA",
        ),
        ({"image": pixels(2, 4, 4), "y": [0, 1]}, "no column 'label', there are y"),
        ({"image": pixels(2, 4, 4), "label": [0, None]}, "column 'label'"),
    ],
)
def test_refusals(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    pictures = {k: v if k in ("label", "y") else [png(one) for one in v] for k, v in columns.items()}
    parquet(tmp_path / "toy", "train", **pictures)
    with pytest.raises(DataError, match=message):
        load(f"flwr:{tmp_path / 'toy'}")


@needs_package
def test_what_the_package_cannot_load(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "broken"
    parquet(broken, "train", image=[{"bytes": b"no image", "path": None}] * 2, label=[0, 1])
    (tmp_path / "cut" / "data").mkdir(parents=True)
    (tmp_path / "cut" / "data" / "train.parquet").write_bytes(b"PAR1")
    for name in (str(tmp_path / "empty"), str(broken), str(tmp_path / "cut"), "nobody/nothing"):
        with pytest.raises(DataError, match=f"flwr:{name} cannot be loaded: ") as caught:
            load(f"flwr:{name}")
        assert "\n" not in str(caught.value)


def test_without_a_name() -> None:
    with pytest.raises(DataError, match="expected flwr:NAME, a data set of the Hugging Face Hub"):
        load("flwr:")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flwr_datasets", None)
    with pytest.raises(
        MissingExtraError, match=r"needs the package flwr_datasets.*pip install 'secure-afl\[datasets\]'"
    ):
        load("flwr:ylecun/mnist")
